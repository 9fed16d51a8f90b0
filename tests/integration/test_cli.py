"""The command line as people and scripts use it: data on stdout, faults on stderr, exit codes."""

import asyncio
import io
import json
import os
import pty
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from authz.adapters.http import rest
from authz.adapters.http.server import HttpServer, bind
from authz.adapters.logs.silent import Silent
from authz.adapters.rpc import Call
from authz.admin.actor import COMMAND_LINE as CLI
from authz.admin.keys import KeyChanges
from authz.app import Observers, StoreParts, SystemClock, key_service, open_store
from authz.cli.connection import Direct, Json
from authz.cli.main import run
from authz.cli.output import print_table
from authz.core.bucket import Limit
from authz.core.problems import FORMATS
from authz.pb.authz.admin.v1 import keys_pb2
from authz.ports import StoreFault
from authz.settings import load_settings
from tests.support.admin import Used, book
from tests.support.parts import SECRET, parts


PEPPER = "a pepper for tests that is as long as its digest is"
LOGIN_TTY = "import os, sys; os.login_tty(0); os.execv(sys.executable, [sys.executable, '-m', 'authz', *sys.argv[1:]])"


class Shell:
    """Runs `authz` with a store of its own."""

    def __init__(self, folder: Path, store: str) -> None:
        self.folder = folder
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_")}
        self.environ |= {"AUTHZ_JWT_SECRET": SECRET, "AUTHZ_PEPPER": PEPPER, "AUTHZ_STORE__URL": store}

    def run(self, *arguments: str, stdin: str = "", **environ: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "authz", *arguments]
        env = {name: value for name, value in (self.environ | environ).items() if value}
        ended = subprocess.run(
            command, env=env, cwd=self.folder, input=stdin, capture_output=True, text=True, timeout=60, check=False
        )
        assert "Traceback" not in ended.stderr
        return ended

    def data(self, *arguments: str) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.returncode == 0, ended.stderr
        assert len(ended.stdout.splitlines()) == 1
        return json.loads(ended.stdout)

    def on_terminal(self, *arguments: str, typed: Sequence[tuple[str, str]]) -> tuple[int, str]:
        """Exit status and all that the terminal shows. *typed*: after which words, what."""
        ours, theirs = pty.openpty()
        command = [sys.executable, "-c", LOGIN_TTY, *arguments]
        process = subprocess.Popen(command, stdin=theirs, env=self.environ, cwd=self.folder)
        os.close(theirs)
        shown = b""
        try:
            for words, answer in typed:
                while words.encode() not in shown:
                    shown += os.read(ours, 4096)
                os.write(ours, answer.encode())
            while chunk := _read(ours):
                shown += chunk
            return process.wait(60), shown.decode()
        finally:
            os.close(ours)
            process.kill()
            process.wait()


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # Linux: everybody at the other end has gone
        return b""


@pytest.fixture
def shell(tmp_path: Path, valkey_url: str) -> Shell:
    return Shell(tmp_path, valkey_url)


CREATE = ("keys", "create", "--name", "prod", "--scope", "read-only")


@dataclass(frozen=True)
class Ended:
    status: int
    out: str
    err: str


class Here:
    """The same in this process, which is quicker: for tables of cases."""

    def __init__(self, shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        for name in [name for name in os.environ if name.startswith("AUTHZ_")]:
            monkeypatch.delenv(name)
        for name, value in shell.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.chdir(shell.folder)
        self.patch = monkeypatch
        self.shell = shell
        self._capsys = capsys

    def run(self, *arguments: str, stdin: str = "") -> Ended:
        self._capsys.readouterr()
        with self.patch.context() as patch:
            patch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
            status = run(arguments)
        told = self._capsys.readouterr()
        assert "a bug" not in told.err
        return Ended(status, told.out, told.err)

    def data(self, *arguments: str) -> Any:
        ended = self.run(*arguments, "--json")
        assert ended.status == 0, ended.err
        return json.loads(ended.out)


@pytest.fixture
def here(shell: Shell, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Here:
    return Here(shell, monkeypatch, capsys)


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
    assert table[0].endswith("LAST USED")
    assert shell.run("keys", "show", first["id"]).stdout.count("\n") >= 8


def test_a_list_has_all_pages_and_no_more_than_are_asked_for(here: Here) -> None:
    """Three to a page: the loop is the same for five hundred."""
    here.patch.setattr("authz.cli.keys.MAX_PAGE", 3)
    made = [here.data(*CREATE[:2], "--name", f"{'a' if number % 2 else 'b'}-{number}")["id"] for number in range(8)]

    def listed(*arguments: str) -> list[str]:
        return [key["id"] for key in here.data("keys", "list", *arguments)["keys"]]

    assert listed() == made[::-1]
    assert listed("--limit", "4") == made[:3:-1]
    assert listed("--name", "a-*") == made[::-2]
    assert listed("--name", "a-*", "--limit", "2") == made[:4:-2]
    assert listed("--name", "a-1") == [made[1]]
    assert listed("--name", 'a" AND state = "active') == []
    assert [event["key_id"] for event in here.data("keys", "log", "--limit", "4")["events"]] == made[:3:-1]
    assert [event["action"] for event in here.data("keys", "log", "--key", made[2])["events"]] == ["create"]


def test_revoke_everything_of_a_subject_and_of_a_workspace(here: Here) -> None:
    mine = here.data(*CREATE, "--subject", "alice", "--workspace", "acme")
    others = here.data(*CREATE, "--subject", "bob", "--workspace", "acme")

    def states() -> list[str]:
        told = {key["id"]: key["state"] for key in here.data("keys", "list")["keys"]}
        return [told[mine["id"]], told[others["id"]]]

    looked = here.run("keys", "revoke", "--subject", "alice", "--dry-run").out
    assert looked == "would revoke everything of subject alice issued up to now: 1 key\n"
    assert states() == ["active", "active"]
    done = here.run("keys", "revoke", "--subject", "alice", "--yes").out
    assert done == "revoked everything of subject alice issued up to now: 1 key\n"
    assert states() == ["revoked", "active"]
    here.data("keys", "revoke", "--workspace", "acme", "--yes")
    assert states() == ["revoked", "revoked"]
    last = here.data(*CREATE)
    assert here.data("keys", "revoke", "--issued-before", "2020-01-01T00:00:00Z", "--yes")["revoked"] == 0
    assert here.data("keys", "show", last["id"])["state"] == "active"


@pytest.mark.parametrize("everybody", [False, True])
def test_a_bulk_revocation_asks_for_the_name(shell: Shell, everybody: bool) -> None:
    made = shell.data(*CREATE, "--subject", "alice")
    asked = ("--issued-before", made["created_at"]) if everybody else ("--subject", "alice")
    word = "everything" if everybody else "alice"
    question = f"Type {word} to go on: "

    status, shown = shell.on_terminal("keys", "revoke", *asked, typed=[(question, "no\n")])
    assert (status, "nothing was revoked" in shown) == (1, True)
    status, shown = shell.on_terminal("keys", "revoke", *asked, typed=[(question, "\x03")])
    assert (status, "Traceback" in shown) == (130, False)
    assert shell.data("keys", "show", made["id"])["state"] == "active"
    status, shown = shell.on_terminal("keys", "revoke", *asked, typed=[(question, f"{word}\n")])
    assert (status, "revoked everything" in shown) == (0, True)


def test_only_making_tokens_needs_secrets(here: Here) -> None:
    made = here.data(*CREATE)
    for name in ("AUTHZ_JWT_SECRET", "AUTHZ_PEPPER"):
        here.patch.delenv(name)

    for words in (("list",), ("show", made["id"]), ("update", made["id"], "--name=other"), ("log",)):
        assert here.run("keys", *words).status == 0
    for makes in (CREATE[1:], ("rotate", made["id"]), ("show", made["id"], "--show-token")):
        refused = here.run("keys", *makes)
        assert (refused.status, "AUTHZ_JWT_SECRET is not set" in refused.err) == (2, True)
        assert "with --server URL the sidecar itself makes the token" in refused.err
    assert here.run("keys", "revoke", made["id"]).status == 0


def test_a_retained_token_is_shown_again_and_only_then(here: Here) -> None:
    first = here.run(*CREATE)
    refused = here.run("keys", "show", first.out.splitlines()[1].split()[1], "--show-token")
    here.patch.setenv("AUTHZ_KEYS__RETAIN_TOKEN", "true")
    kept = here.run(*CREATE)

    assert ("shown this once" in first.err, kept.err) == (True, "")
    assert (refused.status, "keys.retain_token is off" in refused.err) == (1, True)
    token, key = kept.out.splitlines()[0], kept.out.splitlines()[1].split()[1]
    assert here.run("keys", "show", key, "--show-token").out.splitlines()[0] == token
    assert token not in here.run("keys", "show", key).out


def test_update_changes_what_is_named_and_nothing_else(here: Here) -> None:
    made = here.data(*CREATE, "--limit", "requests=60/1m", "--limit", "tokens=9/1m", "--expires", "1h")

    changed = here.data("keys", "update", made["id"], "--limit", "tokens=5/1h")
    assert changed["limits"] == {"requests": "60/1m", "tokens": "5/1h"}
    assert (changed["scopes"], changed["name"], changed["expires_at"]) == (["read-only"], "prod", made["expires_at"])
    dropped = here.data("keys", "update", made["id"], "--limit", "requests=none")
    assert (dropped["limits"], dropped["etag"]) == ({"tokens": "5/1h"}, "v3")
    again = here.data("keys", "update", made["id"], "--limit", "requests=none", "--limit", "tokens=5/1h")
    assert (again["limits"], again["etag"]) == ({"tokens": "5/1h"}, "v3")
    both = here.data("keys", "update", made["id"], "--limit", "requests=7/1m", "--limit", "tokens=none")
    assert both["limits"] == {"requests": "7/1m"}
    bare = here.data("keys", "update", made["id"], "--no-limits", "--no-scopes", "--name", "other")
    assert (bare["limits"], bare["scopes"], bare["name"]) == ({}, [], "other")
    assert here.data("keys", "update", made["id"], "--expires", "never")["expires_at"] is None


@pytest.fixture
def meanwhile(here: Here, valkey_url: str) -> Callable[[int, Mapping[str, Any]], None]:
    """Whoever reads a key finds, so many times, that others change it before they can."""

    def arrange(times: int, changes: Mapping[str, Any]) -> None:
        left = times

        class Disturbed(Direct):
            async def call(self, method: str, values: Mapping[str, object]) -> Json:
                nonlocal left
                told = await super().call(method, values)
                if method == "GetKey" and left:
                    left -= 1
                    async with parts(valkey_url) as others:
                        await others.admin.update(str(values["id"]), KeyChanges({**changes, "name": f"n{left}"}), CLI)
                return told

        here.patch.setattr("authz.cli.connection.Direct", Disturbed)

    return arrange


Meanwhile = Callable[[int, Mapping[str, Any]], None]


def test_limits_are_merged_with_those_that_are_there_when_they_are_written(here: Here, meanwhile: Meanwhile) -> None:
    """A change that others make between reading and writing is kept."""
    made = here.data(*CREATE, "--limit", "requests=60/1m")
    meanwhile(2, {"limits": {"tokens": Limit(9, 60)}})

    changed = here.data("keys", "update", made["id"], "--limit", "requests=5/1h")

    assert (changed["limits"], changed["name"]) == ({"requests": "5/1h", "tokens": "9/1m"}, "n0")


def test_limits_are_not_written_over_what_others_keep_changing(here: Here, meanwhile: Meanwhile) -> None:
    made = here.data(*CREATE, "--limit", "requests=60/1m")
    meanwhile(1000, {})

    ended = here.run("keys", "update", made["id"], "--limit", "requests=5/1h")

    assert (ended.status, ended.out) == (1, "")
    assert "others keep changing the key: try again" in ended.err
    assert here.data("keys", "show", made["id"])["limits"] == {"requests": "60/1m"}


def test_limits_with_an_etag_are_tried_once(here: Here, meanwhile: Meanwhile) -> None:
    made = here.data(*CREATE, "--limit", "requests=60/1m")
    shown = here.data("keys", "show", made["id"])
    meanwhile(1, {})

    ended = here.run("keys", "update", made["id"], "--limit", "requests=5/1h", "--etag", shown["etag"])

    assert (ended.status, "its etag is another" in ended.err) == (1, True)
    assert here.data("keys", "show", made["id"])["limits"] == {"requests": "60/1m"}


def test_limits_of_a_revoked_key_are_not_changed(here: Here) -> None:
    made = here.data(*CREATE)
    here.data("keys", "revoke", made["id"])

    ended = here.run("keys", "update", made["id"], "--limit", "requests=5/1h")

    assert (ended.status, "nothing changes it any more" in ended.err) == (1, True)


def test_a_later_end_of_a_jwt_key_needs_a_rotation(here: Here) -> None:
    def notes(kind: str, before: str, after: str) -> str:
        made = here.data(*CREATE, "--kind", kind, "--expires", before)
        return here.run("keys", "update", made["id"], "--expires", after).err

    assert "'authz keys rotate'" in notes("jwt", "1h", "2h")
    assert "'authz keys rotate'" in notes("jwt", "1h", "never")
    assert notes("jwt", "2h", "1h") == ""
    assert notes("opaque", "1h", "2h") == ""


def test_rotated_keys_go_on_under_their_id(here: Here) -> None:
    made = here.data(*CREATE, "--kind", "opaque")
    rotate = ("keys", "rotate", made["id"], "--grace", "24h", "--request-id", "r-1")

    rotated = here.data(*rotate)
    assert (list(rotated), rotated["id"]) == (list(made), made["id"])
    assert rotated["token"] != made["token"]
    assert here.data(*rotate) == rotated
    assert re.search(r"rotations +0 until \S+Z, 1 current\n", here.run("keys", "show", made["id"]).out)

    def reason(token: str) -> str:
        told: str = here.data("check", "--path", "/v1/models", "-H", f"authorization: Bearer {token}")["reason"]
        return told

    assert [reason(made["token"]), reason(rotated["token"])] == ["allowed", "allowed"]
    here.data("keys", "rotate", made["id"])
    assert [reason(made["token"]), reason(rotated["token"])] == ["revoked", "revoked"]


def test_a_rotation_says_when_earlier_tokens_end(here: Here) -> None:
    """On stderr, beside JSON as well; the last of them, as it is in the store."""
    made = here.data(*CREATE)

    def told(*more: str) -> str:
        return here.run("keys", "rotate", made["id"], *more).err

    kept = "The token is shown this once and kept nowhere: copy it now.\n"
    assert told() == f"{kept}Earlier tokens of the key are refused from now on; --grace 24h would let them live on.\n"
    later = told("--grace", "24h", "--json")
    ends = here.data("keys", "show", made["id"])["rotations"][0]["ends_at"]
    assert later == f"Earlier tokens of the key are good until {ends}.\n"
    assert told("--grace", "365d").endswith(f"until {last_end(here, made['id'])}.\n")
    assert told("--grace", "0s") == f"{kept}Earlier tokens of the key are refused from now on.\n"


def test_a_rotation_is_done_though_its_end_cannot_be_read(here: Here) -> None:
    class Failing(Direct):
        async def call(self, method: str, values: Mapping[str, object]) -> Json:
            if method == "GetKey":
                raise StoreFault("away")
            return await super().call(method, values)

    made = here.data(*CREATE)
    with here.patch.context() as patch:
        patch.setattr("authz.cli.connection.Direct", Failing)
        ended = here.run("keys", "rotate", made["id"], "--grace", "24h")

    assert (ended.status, ended.out.splitlines()[0].startswith("sk-live-eyJ")) == (0, True)
    assert ended.err.endswith("Earlier tokens of the key are good for 24h at most.\n")


def last_end(here: Here, key: str) -> str:
    rotations = here.data("keys", "show", key)["rotations"]
    return str(max(one["ends_at"] for one in rotations if one["ends_at"]))


def settle(store: str, key: str, *used: tuple[str, int, int], ago_s: int = 0, is_denied: bool = False) -> None:
    """Requests with *key*: model, input and output tokens of each."""

    async def settled() -> None:
        async with parts(store) as made:
            record, at_us = await made.show(key), await made.registry.now_us() - ago_s * 1_000_000
            await book(made, [Used(record, at_us, *each, is_denied) for each in used])

    asyncio.run(settled())


def test_usage_of_a_key_is_what_the_contract_says(shell: Shell, valkey_url: str) -> None:
    """The members and their order, and nothing else where no time is asked for."""
    made = shell.data(*CREATE)
    unused = shell.data("keys", "usage", made["id"])
    settle(valkey_url, made["id"], ("small", 10, 5), ("large", 1000, 500), ("", 0, 0))
    settle(valkey_url, made["id"], ("", 0, 0), is_denied=True)
    used = shell.data("keys", "usage", made["prefix"])

    assert [*used] == ["id", "requests", "denied", "input_tokens", "output_tokens", "last_used_at", "by_model"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", used["last_used_at"])
    assert {**used, "last_used_at": None} == {
        "id": made["id"],
        "requests": 3,
        "denied": 1,
        "input_tokens": 1010,
        "output_tokens": 505,
        "last_used_at": None,
        "by_model": {
            "large": {"requests": 1, "input_tokens": 1000, "output_tokens": 500},
            "small": {"requests": 1, "input_tokens": 10, "output_tokens": 5},
        },
    }
    assert [*used["by_model"]["small"]] == ["requests", "input_tokens", "output_tokens"]
    nothing = dict.fromkeys(("requests", "denied", "input_tokens", "output_tokens"), 0)
    assert unused == {"id": made["id"], **nothing, "last_used_at": None, "by_model": {}}


def test_usage_for_people(here: Here, valkey_url: str) -> None:
    made = here.data(*CREATE, "--workspace", "acme")
    assert here.run("keys", "usage", made["id"]).out.splitlines() == [
        f"id             {made['id']}",
        "requests       0",
        "denied         0",
        "input_tokens   0",
        "output_tokens  0",
    ]
    settle(valkey_url, made["id"], ("small\x1b", 10, 5), ("large", 1000, 500), ("", 0, 0))
    shown = here.run("keys", "usage", made["id"]).out.splitlines()
    assert shown[1:5] == ["requests       3", "denied         0", "input_tokens   1010", "output_tokens  505"]
    assert shown[5].startswith("last_used_at   20")
    assert shown[6:] == [
        "",
        "MODEL      REQUESTS  INPUT TOKENS  OUTPUT TOKENS",
        "large      1         1000          500",
        "small\\x1b  1         10            5",
    ]
    all_of_it = here.run("keys", "usage", "--by", "workspace", "--by", "model").out.splitlines()
    assert [line.split()[0] for line in all_of_it[:6]] == [
        *("start_time", "end_time", "requests", "denied", "input_tokens", "output_tokens"),
    ]
    assert all_of_it[7:] == [
        "WORKSPACE  MODEL      REQUESTS  DENIED  INPUT TOKENS  OUTPUT TOKENS",
        "acme       large      1         0       1000          500",
        "acme       small\\x1b  1         0       10            5",
        "acme       -          1         0       0             0",
    ]


def test_usage_of_all_keys_and_within_times(here: Here, valkey_url: str) -> None:
    one, other = here.data(*CREATE, "--workspace", "acme", "--subject", "ada"), here.data(*CREATE, "--subject", "ada")
    settle(valkey_url, one["id"], ("m", 1, 1))
    settle(valkey_url, one["id"], ("m", 10, 10), ago_s=5 * 3600)
    settle(valkey_url, other["id"], ("m", 100, 100))

    def tokens(*arguments: str) -> int:
        told: int = here.data("keys", "usage", *arguments)["input_tokens"]
        return told

    def groups(*arguments: str) -> Collection[str]:
        told = here.data("keys", "usage", *arguments)["groups"]
        return {next(iter(group.values())) for group in told}

    assert tokens() == 111
    assert (groups(), groups("--by", "key")) == ({"m"}, {one["id"], other["id"]})
    assert groups("--by", "workspace") == {"acme", ""}
    assert len(groups("--by", "hour")) == 2
    assert (tokens("--workspace", "acme"), tokens("--subject", "ada"), tokens("--workspace", "")) == (11, 111, 100)
    assert tokens("--workspace", "acme", "--subject", "bob") == 0
    assert (tokens("--since", "2h"), tokens(one["id"], "--since", "2h")) == (101, 1)
    assert tokens("--since", "7d", "--until", "3h", "--by", "key") == tokens(one["id"], "--since", "6h") - 1 == 10
    day = here.data("keys", "usage", one["id"], "--since", one["created_at"][:10])["start_time"]
    assert day == f"{one['created_at'][:10]}T00:00:00Z"
    assert tokens("--since", one["created_at"].replace("Z", "+00:00")) == 101


@pytest.mark.parametrize(
    "token",
    [
        pytest.param("sk-live-" + "a" * 49, id="opaque"),
        pytest.param("sk-live-eyJhbGciOi", id="a JWT's beginning"),
        pytest.param("x" * 65, id="long"),
    ],
)
@pytest.mark.parametrize("verb", ["show", "rotate", "revoke", "update", "usage"])
def test_a_token_in_place_of_an_id_is_not_repeated(here: Here, verb: str, token: str) -> None:
    another = "sk-live-" + "b" * 49

    told = here.run("keys", verb, token)
    assert (told.status, told.out, token in told.err) == (2, "", False)
    assert "that is a token" in told.err
    told = here.run("keys", verb, "key_1", another)
    assert (told.status, told.out, another in told.err) == (2, "", False)


def test_controls_in_a_table_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("NAME",), [("a\x1b[2J\u202eb\nc",)])

    assert capsys.readouterr().out == "NAME\na\\x1b[2J\\u202eb\\nc\n"


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        pytest.param(("keys", "create"), 2, "--name", id="no name"),
        pytest.param((*CREATE, "--scope", "root"), 2, "unknown scope; known", id="unknown scope"),
        pytest.param((*CREATE, "--limit", "requests=0/1m"), 2, "capacity must be from 1", id="limit of zero"),
        pytest.param((*CREATE, "--limit", "requests=-1/1m"), 2, "must be capacity/period", id="negative limit"),
        pytest.param((*CREATE, "--limit", "requests=NaN/1m"), 2, "must be capacity/period", id="NaN"),
        pytest.param((*CREATE, "--limit", "dollars=1/1m"), 2, "unknown unit; known", id="unknown unit"),
        pytest.param((*CREATE, "--expires", "soon"), 2, "must be a duration", id="bad duration"),
        pytest.param(("keys", "show", "nonsense"), 1, "there is no key 'nonsense'", id="unknown key"),
        pytest.param(("keys", "revoke"), 2, "takes one of", id="revoke what"),
        pytest.param(("keys", "revoke", "x", "--subject", "y"), 2, "takes one of", id="revoke too much"),
        pytest.param(("keys", "revoke", "--subject", ""), 2, "must not be empty", id="a variable that is not set"),
        pytest.param(("keys", "revoke", "--subject", "y"), 2, "say --yes", id="nobody to ask"),
        pytest.param(("keys", "revoke", "x", "--dry-run"), 2, "do not go with an ID", id="dry run of one"),
        pytest.param(("keys", "revoke", "--sub", "y", "--yes"), 2, "unrecognized", id="an option cut short"),
        pytest.param(("keys", "update", "x"), 2, "say what to change", id="change nothing"),
        pytest.param(("keys", "update", "x", "--limit", "60/1m"), 2, "unit=capacity/period", id="limit of what"),
        pytest.param(("keys", "update", "x", *("--limit", "a=1/1m") * 2), 2, "a stands twice", id="limit twice"),
        pytest.param(("keys", "update", "x", "--expires", "36501d"), 2, "at most 100 years", id="beyond"),
        pytest.param(("keys", "list", "--limit", "0"), 2, "whole number above zero", id="no keys"),
        pytest.param(("keys", "usage", "x", "--by", "model"), 2, "do not go with an ID", id="groups of one key"),
        pytest.param(("keys", "usage", "x", "--workspace", "w"), 2, "do not go with an ID", id="one and a workspace"),
        pytest.param(("keys", "usage", "x", "--subject", ""), 2, "do not go with an ID", id="one and a subject"),
        pytest.param(("keys", "usage", "x"), 1, "there is no key 'x'", id="usage of no key"),
        pytest.param(
            ("keys", "usage", "1313811044"),
            1,
            "there is no key '1313811044': give its id (key_…) or display prefix ('authz keys list' has both)",
            id="the number that a portal shows",
        ),
        pytest.param(("keys", "update", "x", "--limit", "token=none"), 2, "unknown unit; known", id="drop what"),
        pytest.param((*CREATE, "--limit", "tokens=none"), 2, "must be capacity/period", id="a limit of none"),
        pytest.param(("keys", "usage", "--by", "minute"), 2, "invalid choice", id="by the minute"),
        pytest.param(("keys", "usage", "--since", "soon"), 2, "--since takes a time", id="since when"),
        pytest.param(("keys", "usage", "--until", "0h"), 2, "--until takes a time", id="until now"),
        pytest.param(("keys", "usage", "--since", ""), 2, "must not be empty", id="since nothing"),
        pytest.param(("keys", "usage", "--since", "99999d"), 2, "--since lies before 1970", id="since ever"),
        pytest.param(
            ("keys", "usage", "--since", "2026-02-30"), 2, "start_time must be a time", id="the 30th of February"
        ),
        pytest.param(("keys", "usage", "--since", "1h", "--until", "2h"), 2, "end_time: must be later", id="backwards"),
        pytest.param(("keys", "usage", "--by", "key", "--by", "key"), 2, "names the same twice", id="by key and key"),
        pytest.param(("keys", "unmake"), 2, "unmake", id="unknown verb"),
        pytest.param(("check", "--path", "/", "-H", "nonsense"), 2, "takes 'name: value'", id="bad header"),
        pytest.param(("check", "--path", "models"), 2, "--path begins with /, as '/v1/models' does", id="bad path"),
        pytest.param(("check", "--path", "http://a/v1"), 2, "--path begins with /", id="an address for a path"),
        pytest.param(("config", "validate", "--config", "nowhere.yaml"), 2, "No such file", id="no such file"),
        pytest.param((), 2, "COMMAND", id="nothing"),
    ],
)
def test_bad_usage_is_one_sentence(here: Here, arguments: tuple[str, ...], status: int, told: str) -> None:
    here.data(*CREATE)

    ended = here.run(*arguments)

    assert (ended.status, ended.out) == (status, "")
    assert told in ended.err


def test_a_profile_that_is_not_there_is_one_sentence(shell: Shell) -> None:
    ended = shell.run("demo", "--profile", "nowhere")

    assert (ended.returncode, ended.stdout) == (2, "")
    assert "there is no profile 'nowhere'" in ended.stderr


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


def test_check_tells_a_session_from_a_key(here: Here) -> None:
    here.patch.setenv("AUTHZ_KEYS__ACCEPT_SESSIONS", "true")
    here.run("users", "add", "ada", "--scope", "read-only", "--password-stdin", stdin="correct horse battery")
    token = asyncio.run(log_in(here))

    told = here.run("check", "--path", "/v1/models", "-H", f"authorization: Bearer {token}")

    assert re.search(r"authenticity +ok +session of the user usr_[0-9a-z]{20}, subject ada\n", told.out), told.out


async def log_in(here: Here) -> str:
    """As a sidecar does."""
    configured = load_settings(None, here.shell.environ)
    async with open_store(configured.settings, Silent()) as store:
        clock = SystemClock()
        made = StoreParts.on(store, clock, Silent())
        service = key_service(configured, made, clock, Observers(()))
        asked, call = keys_pb2.LoginRequest(username="ada", password="correct horse battery"), Call("Login", {})
        answer = await service.handle(call, await service.authorize(call), asked)
        await made.ledger.close()
        return str(answer.token)


@pytest.mark.parametrize(
    ("portals", "path", "route"),
    [
        pytest.param("[]", "/authz/v1/keys", "admin-api", id="the admin API"),
        pytest.param("[]", "/authz/v1", "admin-api", id="its root"),
        pytest.param("[inferexai]", "/portal/keys?page_size=1", "portal-inferexai", id="inferexai"),
        pytest.param("[vinfer, inferno]", "/api/v1/auth/api-keys", "portal-inferno", id="inferno"),
        pytest.param("[vinfer, inferno]", "/api/v1/auth/login", "portal-inferno", id="inferno's login"),
        pytest.param("[vinfer, inferno]", "/v1/api-keys/key_1", "portal-vinfer", id="vinfer"),
    ],
)
def test_check_knows_authzs_own_doors(here: Here, portals: str, path: str, route: str) -> None:
    """And still says what it would decide, as an Envoy without a route to the door asks all the same."""
    with_all = "keys: {retain_token: true}\nscopes: {admin: [], manage_users: []}\nroutes: []\n"
    (here.shell.folder / "authz.yaml").write_text(f"portals: {portals}\n{with_all}")

    told, people = here.data("check", "--path", path), here.run("check", "--path", path)

    detail = (
        f"one of authz's own ({route}), which asks who calls by itself: Envoy is to hand it over, and not to ask here"
    )
    assert (told["door"], told["reason"]) == (route, "missing_credential")
    assert told["steps"][0] == {"step": "door", "outcome": "-", "detail": detail}
    assert [step["step"] for step in told["steps"][1:]][:2] == ["credential", "authenticity"]
    assert (people.status, people.err) == (0, "")
    assert people.out.splitlines()[1].split(maxsplit=2) == ["door", "-", detail]
    assert people.out.endswith("\ndeny: 401 missing_credential, if Envoy asks all the same\n")


def test_check_knows_no_door_that_is_not_open(here: Here) -> None:
    def door(path: str) -> object:
        told = here.data("check", "--path", path)
        assert told["steps"][0]["step"] == ("door" if told["door"] else "credential")
        return told["door"]

    assert [door(path) for path in ("/portal/keys", "/authz/v1x/keys", "/v1/models")] == [None] * 3
    assert door("/authz/v1/keys") == "admin-api"
    here.patch.setenv("AUTHZ_LISTEN__HTTP", "null")
    assert door("/authz/v1/keys") is None
    assert "asks all the same" not in here.run("check", "--path", "/authz/v1/keys").out


def test_check_explains_request_rules(shell: Shell) -> None:
    """By headers, and by a body if one is given."""
    rules = "request_rules: {chat: {content_types: [application/json], max_body: 1kB, max_prompt: 5}}"
    routes = "routes: [{path: /v1/chat, scopes: [read-only], rules: [chat]}]"
    (shell.folder / "authz.yaml").write_text(f"{rules}\n{routes}\n")
    (shell.folder / "long.json").write_text('{"prompt": "123456"}')
    (shell.folder / "fine.json").write_text('{"prompt": "12345"}')
    made = shell.data(*CREATE)
    asked = ("check", "--method", "POST", "--path", "/v1/chat", "-H", f"authorization: Bearer {made['token']}")
    json_too = ("-H", "content-type: application/json")

    plain = shell.data(*asked, "-H", "content-type: text/plain")
    large = shell.data(*asked, *json_too, "-H", "content-length: 1001")
    long = shell.data(*asked, *json_too, "--body", "long.json")
    fine = [shell.data(*asked, *json_too, *more) for more in ((), ("--body", "fine.json"))]
    absent = shell.run(*asked, "--body", "absent.json")

    reasons = [told["reason"] for told in (plain, large, long, *fine)]
    assert reasons == ["unsupported_content_type", "body_too_large", "prompt_too_long", "allowed", "allowed"]
    for told in (plain, large, long):
        outcomes = {step["step"]: step["outcome"] for step in told["steps"]}
        assert (outcomes["scope"], outcomes["request rules"], outcomes["limits"]) == ("ok", "fail", "-")
    assert "No such file" in absent.stderr


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


def test_config_validate_warns_of_rules_that_are_passed_by(here: Here, tmp_path: Path) -> None:
    """On stderr, and the configuration is valid all the same."""
    routes = '[{path: /v1/chat, rules: [small]}, {path: "/v1/**"}]'
    (tmp_path / "authz.yaml").write_text(f"request_rules: {{small: {{max_body: 10}}}}\nroutes: {routes}\n")

    told, as_json = here.run("config", "validate"), here.run("config", "validate", "--json")

    assert (told.status, told.out) == (0, "authz.yaml: valid\n")
    assert told.err.startswith("authz: warning: authz.yaml: routes[0].rules: the route '/v1/chat' asks for small, but")
    assert (json.loads(as_json.out), as_json.err) == ({"valid": True, "source": "authz.yaml"}, told.err)


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


@contextmanager
def admin_api(store: str) -> Iterator[str]:
    """The admin API of a sidecar on *store*, in a thread of its own; gives its URL."""
    configured = load_settings(None, {"AUTHZ_JWT_SECRET": SECRET, "AUTHZ_PEPPER": PEPPER, "AUTHZ_STORE__URL": store})
    listener = bind("127.0.0.1:0")
    servers: list[HttpServer] = []
    ready = threading.Event()

    async def serve() -> None:
        async with open_store(configured.settings, Silent()) as opened:
            clock = SystemClock()
            parts = StoreParts.on(opened, clock, Silent())
            service = key_service(configured, parts, clock, Observers(()))
            servers.append(HttpServer(rest.build([service], lambda: FORMATS["openai"], documents={}), listener))
            ready.set()
            await servers[0].run_until_stopped()
            await parts.ledger.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        assert ready.wait(10)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        servers[0].stop()
        thread.join()


Run = Callable[..., Ended]


@pytest.fixture
def over(here: Here, valkey_url: str) -> Iterator[Run]:
    """`authz keys …` over the connection that is named; over a server, without a configuration that could be read."""
    admin = here.data("keys", "create", "--name", "door", "--scope", "admin", "--subject", "door")

    with admin_api(valkey_url) as url:

        def ended(connection: str, *arguments: str, key: str = admin["token"]) -> Ended:
            if connection == "direct":
                return here.run("keys", *arguments)
            with here.patch.context() as patch:
                for name in ("AUTHZ_JWT_SECRET", "AUTHZ_PEPPER", "AUTHZ_STORE__URL"):
                    patch.delenv(name)
                patch.setenv("AUTHZ_CONFIG", "nowhere.yaml")
                patch.setenv("AUTHZ_ADMIN_KEY", key)
                return here.run("keys", *arguments, "--server", url)

        yield ended


CONNECTIONS = ("direct", "server")  # the same number of letters: they are names, too, and tables are as wide as names
BLURRED = (
    (re.compile(r"sk-live-(eyJ[\w.-]+|[0-9A-Za-z]{49})"), "TOKEN"),
    (re.compile(r"sk-live-[0-9a-f]{8}"), "PREFIX"),
    (re.compile(r"key_[0-9a-z]{20}"), "KEY"),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "TIME"),
    (re.compile(r'"id": "[0-9]+-[0-9]+-[0-9]+"'), '"id": "EVENT"'),
    (re.compile("|".join(CONNECTIONS)), "NAME"),
)


def blurred(text: str) -> str:
    """*text* without what differs from key to key."""
    for pattern, word in BLURRED:
        text = pattern.sub(word, text)
    return text


@pytest.mark.parametrize(
    ("line", "status", "told"),
    [
        ("create --name n --json", 0, '"token": "TOKEN"'),
        ("create --name n --kind opaque --workspace w --subject {me} --expires 90d --json", 0, '"kind": "opaque"'),
        ("create --name n --limit requests=60/1m --limit tokens=9/1h --scope read-only --json", 0, '"tokens": "9/1h"'),
        ("create --name n --scope root", 2, "unknown scope; known"),
        ("create --name n --limit requests=0/1m", 2, "capacity must be from 1"),
        ("create --name n --expires soon", 2, "must be a duration"),
        ("create --name n --request-id \n", 2, "request_id"),
        ("create --name \x1b", 2, "printable"),
        ("list --subject {me}", 0, "prod"),
        ("list --subject {me} --json", 0, '{"keys": [{"id": "KEY"'),
        ("list --subject {me} --state revoked", 0, "LAST USED\n"),
        ("list --workspace none", 0, "LAST USED\n"),
        ("list --name pro* --subject {me} --limit 1", 0, "prod"),
        ("show {key}", 0, "state          active"),
        ("show {prefix} --json", 0, '"etag": "v1"'),
        ("show {key} --show-token", 1, "retain_token is off"),
        ("show nonsense", 1, "there is no key 'nonsense'"),
        ("show non/sense", 1, "there is no key 'non/sense'"),
        ("show .", 1, "there is no key '.'"),
        ("show a%2Fb?c#d", 1, "there is no key 'a%2Fb?c#d'"),
        ("update {key} --name other --scope read-write --limit tokens=5/1h --json", 0, '"etag": "v2"'),
        ("update {key} --limit tokens=none", 0, "etag           v1"),
        ("update {key} --limit tokens=5/1h --etag v7", 1, "its etag is another"),
        ("update nonsense --limit tokens=5/1h", 1, "there is no key 'nonsense'"),
        ("update {key} --no-scopes --no-limits --expires 90d", 0, "expires_at     TIME"),
        ("update {key} --expires never", 0, "expires_at     never"),
        ("update {key} --name other --etag v7", 1, "its etag is another"),
        ("update nonsense --name other", 1, "there is no key 'nonsense'"),
        ("update nonsense --expires 1h", 1, "there is no key 'nonsense'"),
        ("rotate {key} --grace 24h --json", 0, '"token": "TOKEN"'),
        ("rotate {key} --grace soon", 2, "grace: must be a duration"),
        ("rotate {key} --grace 366d", 2, "grace: must be from 0s to 365d"),
        ("rotate nonsense", 1, "there is no key 'nonsense'"),
        ("revoke {key} --reason leaked --json", 0, '"revoked_reason": "leaked"'),
        ("revoke {key}", 0, "revoked KEY"),
        ("revoke nonsense", 1, "there is no key 'nonsense'"),
        ("revoke --subject {me} --yes", 0, "revoked everything of subject NAME issued up to now: 1 key"),
        ("revoke --subject {me} --dry-run --json", 0, '{"revoked": 1, "dry_run": true, "warnings": []}'),
        ("revoke --workspace none --yes --reason audit", 0, ": 0 keys"),
        ("revoke --subject {me} --issued-before 2020-01-01T00:00:00Z --yes", 0, "2020-01-01T00:00:00Z: 0 keys"),
        ("revoke --issued-before yesterday --dry-run", 2, "issued_before must be a time"),
        ("revoke --issued-before 2100-01-01T00:00:00Z --dry-run", 2, "issued_before: lies ahead"),
        ("usage {key}", 0, "requests       0"),
        ("usage {prefix} --json", 0, '{"id": "KEY", "requests": 0, "denied": 0'),
        ("usage {key} --json --since 24h", 0, '"by_model": {}, "start_time": "TIME", "end_time": "TIME"'),
        ("usage {key} --since 2100-01-01", 2, "start_time: lies ahead"),
        ("usage nonsense", 1, "there is no key 'nonsense'"),
        ("usage --subject {me} --json", 0, '{"start_time": null, "end_time": "TIME", "requests": 0'),
        ("usage --by hour --by key --workspace acme", 0, "start_time     TIME"),
        ("usage --by hour --by day", 2, "group_by: is by hour or by day"),
        ("log --key {key}", 0, "create"),
        ("log --key {key} --json", 0, '"actor": "cli", "action": "create"'),
        ("log --actor nobody --action create", 0, "CHANGES\n"),
    ],
)
def test_both_connections_do_and_say_the_same(over: Run, line: str, status: int, told: str) -> None:
    seen = []
    for me in CONNECTIONS:
        made = json.loads(over("direct", *CREATE[1:], "--subject", me, "--json").out)
        words = [word.format(me=me, key=made["id"], prefix=made["prefix"]) for word in line.split(" ")]
        ended = over(me, *words)
        shown = blurred(ended.out + ended.err)
        assert (ended.status, told in shown or told in ended.out) == (status, True), shown
        assert "\x1b" not in shown
        seen.append((ended.status, blurred(ended.out), blurred(ended.err)))

    assert seen[0] == seen[1]


def test_both_connections_change_the_limits_that_are_named(over: Run) -> None:
    for connection in CONNECTIONS:
        made = json.loads(over("direct", *CREATE[1:], "--limit", "requests=60/1m", "--json").out)

        def limits(*named: str, key: str = made["id"], by: str = connection) -> object:
            options = [word for one in named for word in ("--limit", one)]
            return json.loads(over(by, "update", key, *options, "--json").out)["limits"]

        assert limits("tokens=5/1h") == {"requests": "60/1m", "tokens": "5/1h"}
        assert limits("requests=none", "tokens=6/1h") == {"tokens": "6/1h"}
        assert limits("tokens=none") == {}


def test_both_connections_tell_the_same_usage(over: Run, valkey_url: str) -> None:
    made = json.loads(over("direct", *CREATE[1:], "--workspace", "acme", "--json").out)
    settle(valkey_url, made["id"], ("small", 10, 5), ("large", 2**31, 500), ("", 0, 0))
    for words in (
        (made["id"],),
        (made["prefix"], "--since", "3h"),
        ("--by", "model", "--by", "key"),
        ("--since", "1h"),
    ):
        for more in ((), ("--json",)):
            direct, server = over("direct", "usage", *words, *more), over("server", "usage", *words, *more)
            assert (direct.status, blurred(direct.out)) == (server.status, blurred(server.out))
            assert str(2**31) in direct.out


def test_what_a_server_refuses_is_told(over: Run) -> None:
    """By whom, where it is the caller's own key; and the key is shown nowhere."""
    made = json.loads(over("direct", *CREATE[1:], "--subject", "alice", "--json").out)
    bound = json.loads(over("direct", "create", "--name", "n", "--scope", "admin", "--workspace", "w", "--json").out)

    def refused(token: str, *arguments: str) -> str:
        ended = over("server", *arguments, key=token)
        assert (ended.status, ended.out, token in ended.err) == (1, "", False)
        return ended.err

    assert "lacks a scope: required: admin; held: read-only" in refused(made["token"], "list")
    assert f"there is no key '{made['id']}'" in refused(bound["token"], "show", made["id"])
    assert "bound to another workspace" in refused(bound["token"], "create", "--name", "n", "--workspace", "v")
    over("direct", "revoke", made["id"])
    assert "refuses $AUTHZ_ADMIN_KEY: The API key has been revoked" in refused(made["token"], "list")


def test_a_token_over_a_server_comes_with_a_hint(over: Run) -> None:
    """Whether it can be shown again is the server's to know."""
    told = over("server", "create", "--name", "n")

    assert told.out.startswith("sk-live-eyJ")
    assert told.err == "Unless the server retains tokens, the token is shown this once: copy it now.\n"


def test_completion_of_bash(shell: Shell) -> None:
    """The script is sourced by a real bash, and asked as bash asks it."""
    (shell.folder / "authz.bash").write_text(shell.run("completion", "bash").stdout)
    (shell.folder / "settings.yaml").touch()

    def completed(*words: str) -> set[str]:
        lines = (
            "source ./authz.bash; set -- $(complete -p authz); asked=${@: -2:1}",
            f"COMP_WORDS=({' '.join(repr(word) for word in ('authz', *words))}); COMP_CWORD={len(words)}",
            '$asked 2>/dev/null; printf "%s\\n" "${COMPREPLY[@]}"',
        )
        printed = subprocess.check_output(["bash", "-c", "\n".join(lines)], cwd=shell.folder, text=True)
        return {line.strip() for line in printed.splitlines()}

    assert completed("keys", "rot") == {"rotate"}
    assert completed("keys", "list", "--state", "") == {"active", "expired", "revoked"}
    assert completed("keys", "revoke", "--iss") == {"--issued-before"}
    assert completed("keys", "usage", "--by", "") == {"model", "key", "subject", "workspace", "hour", "day"}
    assert completed("users", "") >= {"add", "passwd", "list", "remove"}
    assert completed("serve", "--config", "sett") == {"settings.yaml"}


@pytest.mark.parametrize("which", ["zsh", "tcsh"])
def test_completion_of_other_shells(shell: Shell, which: str) -> None:
    script = shell.run("completion", which).stdout

    assert all(word in script for word in ("authz", "rotate", "passwd", "issued-before"))
