"""The command line as people and scripts use it: data on stdout, faults on stderr, exit codes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.parts import SECRET


class Shell:
    """Runs `authz` with a store of its own."""

    def __init__(self, folder: Path, store: str) -> None:
        self._folder = folder
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_")}
        self.environ |= {"AUTHZ_JWT_SECRET": SECRET, "AUTHZ_STORE__URL": store}

    def run(self, *arguments: str, **environ: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "authz", *arguments]
        env = {name: value for name, value in (self.environ | environ).items() if value}
        ended = subprocess.run(
            command, env=env, cwd=self._folder, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in ended.stderr
        return ended

    def data(self, *arguments: str) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.splitlines()) == 1
        return json.loads(ended.stdout)


@pytest.fixture
def shell(tmp_path: Path, valkey_url: str) -> Shell:
    return Shell(tmp_path, valkey_url)


CREATE = ("keys", "create", "--name", "prod", "--scope", "read-only")


def test_create_prints_what_the_contract_says(shell: Shell) -> None:
    """The members and their order; times in RFC 3339; the subject is the key's id, the scopes none."""
    made = shell.data("keys", "create", "--name", "bare")

    assert list(made) == [
        *(
            "id",
            "name",
            "token",
            "prefix",
            "kind",
            "subject",
            "workspace",
            "scopes",
            "limits",
            "created_at",
            "expires_at",
        )
    ]
    assert (made["subject"], made["scopes"], made["limits"], made["expires_at"]) == (made["id"], [], {}, None)
    assert made["token"].startswith("sk-live-eyJ")
    assert len(made["prefix"]) == len("sk-live-") + 8
    assert made["created_at"].endswith("Z")


def test_create_with_everything(shell: Shell) -> None:
    made = shell.data(
        *("keys", "create", "--name", "n", "--subject", "alice", "--workspace", "acme", "--scope", "read-only"),
        *("--scope", "admin", "--expires", "90d", "--limit", "requests=60/1m", "--limit", "tokens=100000/1m"),
    )

    assert made["scopes"] == ["read-only", "admin"]
    assert made["limits"] == {"requests": "60/1m", "tokens": "100000/1m"}
    assert made["expires_at"] > made["created_at"]
    shown = shell.data("keys", "show", made["id"])
    assert "token" not in shown
    assert {name: shown[name] for name in ("subject", "workspace", "state")} == {
        "subject": "alice",
        "workspace": "acme",
        "state": "active",
    }


def test_list_show_revoke(shell: Shell) -> None:
    first, second = shell.data(*CREATE), shell.data(*CREATE)

    assert [key["id"] for key in shell.data("keys", "list")["keys"]] == [second["id"], first["id"]]
    revoked = shell.data("keys", "revoke", first["prefix"], "--reason", "leaked")
    assert (revoked["state"], revoked["revoked_reason"]) == ("revoked", "leaked")
    table = shell.run("keys", "list").stdout.splitlines()
    assert table[0].split()[:3] == ["ID", "NAME", "PREFIX"]
    assert [line.split()[6] for line in table[1:]] == ["active", "revoked"]
    assert shell.run("keys", "show", first["id"]).stdout.count("\n") >= 8


def test_revoke_everything_of_a_subject_and_of_a_workspace(shell: Shell) -> None:
    mine = shell.data(*CREATE, "--subject", "alice", "--workspace", "acme")
    others = shell.data(*CREATE, "--subject", "bob", "--workspace", "acme")

    shell.run("keys", "revoke", "--subject", "alice")
    states = {key["id"]: key["state"] for key in shell.data("keys", "list")["keys"]}
    assert (states[mine["id"]], states[others["id"]]) == ("revoked", "active")
    shell.run("keys", "revoke", "--workspace", "acme")
    assert {key["state"] for key in shell.data("keys", "list")["keys"]} == {"revoked"}


def test_listing_and_revoking_need_no_signing_secret(shell: Shell) -> None:
    made = shell.data(*CREATE)

    assert shell.run("keys", "list", AUTHZ_JWT_SECRET="").returncode == 0
    assert shell.run("keys", "revoke", made["id"], AUTHZ_JWT_SECRET="").returncode == 0
    refused = shell.run(*CREATE, AUTHZ_JWT_SECRET="")
    assert (refused.returncode, "AUTHZ_JWT_SECRET is not set" in refused.stderr) == (2, True)


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        pytest.param(("keys", "create"), 2, "--name", id="no name"),
        pytest.param((*CREATE, "--scope", "root"), 2, "unknown scope 'root'", id="unknown scope"),
        pytest.param((*CREATE, "--limit", "requests=0/1m"), 2, "capacity must be from 1", id="limit of zero"),
        pytest.param((*CREATE, "--limit", "requests=-1/1m"), 2, "must be capacity/period", id="negative limit"),
        pytest.param((*CREATE, "--limit", "requests=NaN/1m"), 2, "must be capacity/period", id="NaN"),
        pytest.param((*CREATE, "--limit", "dollars=1/1m"), 2, "unknown unit 'dollars'", id="unknown unit"),
        pytest.param((*CREATE, "--expires", "soon"), 2, "must be a duration", id="bad duration"),
        pytest.param(("keys", "show", "nonsense"), 1, "there is no key 'nonsense'", id="unknown key"),
        pytest.param(("keys", "revoke"), 2, "takes one of", id="revoke what"),
        pytest.param(("keys", "revoke", "x", "--subject", "y"), 2, "takes one of", id="revoke too much"),
        pytest.param(("keys", "unmake"), 2, "unmake", id="unknown verb"),
        pytest.param(("check", "--path", "/", "-H", "nonsense"), 2, "takes 'name: value'", id="bad header"),
        pytest.param(("config", "validate", "--config", "nowhere.yaml"), 2, "No such file", id="no such file"),
        pytest.param(("demo", "--profile", "nowhere"), 1, "there is no profile 'nowhere'", id="unknown profile"),
        pytest.param((), 2, "COMMAND", id="nothing"),
    ],
)
def test_bad_usage_is_one_sentence(shell: Shell, arguments: tuple[str, ...], status: int, told: str) -> None:
    shell.data(*CREATE)

    ended = shell.run(*arguments)

    assert (ended.returncode, ended.stdout) == (status, "")
    assert told in ended.stderr


def test_a_store_that_is_away_is_one_sentence(shell: Shell) -> None:
    ended = shell.run("keys", "list", AUTHZ_STORE__URL="redis://user:planted@127.0.0.1:1")

    assert ended.returncode == 1
    assert "the store cannot be reached" in ended.stderr
    assert "planted" not in ended.stderr


def test_check_explains_step_by_step_and_spends_nothing(shell: Shell) -> None:
    made = shell.data(*CREATE, "--limit", "requests=1/1h")
    header = f"authorization: Bearer {made['token']}"

    for _ in range(3):
        told = shell.data("check", "--path", "/v1/models", "-H", header)
        assert (told["decision"], told["reason"], told["status"]) == ("allow", "allowed", 200)
    refused = shell.data("check", "--method", "POST", "--path", "/v1/x", "-H", header)
    assert (refused["decision"], refused["reason"], refused["status"]) == ("deny", "insufficient_scope", 403)
    outcomes = {step["step"]: step["outcome"] for step in refused["steps"]}
    assert (outcomes["key state"], outcomes["scope"], outcomes["limits"]) == ("ok", "fail", "-")
    text = shell.run("check", "--path", "/v1/models").stdout
    assert "FAIL" in text
    assert "deny: 401 missing_credential" in text
    assert made["token"] not in shell.run("check", "--path", "/v1/models", "-H", header).stdout


def test_config_validate_show_schema(shell: Shell, tmp_path: Path) -> None:
    """Show masks what is secret and is itself a valid configuration; the schema describes it."""
    (tmp_path / "authz.yaml").write_text("store: {url: 'redis://user:planted@127.0.0.1:6379'}\n")

    assert shell.run("config", "validate", AUTHZ_STORE__URL="").stdout == "authz.yaml: valid\n"
    shown = shell.run("config", "show", AUTHZ_STORE__URL="").stdout
    assert "planted" not in shown
    assert "redis://user:***@127.0.0.1:6379" in shown
    assert SECRET not in shown
    (tmp_path / "shown.yaml").write_text(shown)
    again = shell.run("config", "show", "--config", "shown.yaml", AUTHZ_STORE__URL="")
    assert again.stdout == shown
    assert shell.data("config", "schema")["properties"]["store"]


def test_the_embedded_store_serves_commands_by_itself(shell: Shell, tmp_path: Path) -> None:
    """Started for one command, ended after it, its data kept in ./authz-data."""
    environ = {"AUTHZ_STORE__URL": "embedded"}

    made = shell.run(*CREATE, "--json", **environ)
    listed = shell.run("keys", "list", "--json", **environ)

    assert json.loads(made.stdout)["id"] == json.loads(listed.stdout)["keys"][0]["id"]
    assert (tmp_path / "authz-data").is_dir()
    assert not (tmp_path / "authz-data" / "valkey.sock").exists() or "PONG" not in listed.stdout


def test_version(shell: Shell) -> None:
    from authz import __version__

    assert shell.run("--version").stdout == f"authz {__version__} (pure Python)\n"
