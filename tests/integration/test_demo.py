"""`authz demo` as a user starts it: JSON, the text and its lines, the tour, cleaning up, a busy port."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest
import redis

from authz.demo.processes import free_port, of_another_demo
from authz.demo.profiles import PROFILES
from authz.demo.tour import ask


PATIENCE_S: Final = 40.0
LAST_LINE: Final = "Ctrl-C ends everything\n"
TEMPORARY: Final = "/tmp/authz-demo-a1b2c3d_"


def environ(**changes: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("AUTHZ_")} | changes


@contextmanager
def demo(*arguments: str, **changes: str) -> Iterator["subprocess.Popen[str]"]:
    command = [sys.executable, "-m", "authz", "demo", "--port", "0", *arguments]
    process = subprocess.Popen(
        command, env=environ(**changes), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=30)


def test_json_is_one_line_and_ctrl_c_leaves_nothing_behind(valkey_url: str) -> None:
    """On a store and with a secret of one's own."""
    with demo("--json", AUTHZ_STORE__URL=valkey_url, AUTHZ_JWT_SECRET="x" * 40) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        port = int(told["envoy"].rpartition(":")[2])
        assert list(told) == ["profile", "envoy", "authz", "grpc", "http", "metrics", "console", "store", "keys"]
        assert set(told["keys"]) == {"read-only", "read-write", "admin", "limited"}
        assert told["store"] == valkey_url
        assert ask(port, "GET", "/v1/models", key=told["keys"]["admin"]).status == 200

    assert process.returncode == 0
    assert not answering(told)


def answering(told: Any) -> list[str]:
    """Which of the parts that `demo --json` tells of can be reached."""
    found = []
    for name in ("envoy", "authz", "grpc", "http", "metrics"):
        with socket.socket() as probe:
            port = int(re.findall(":([0-9]+)", told[name])[-1])
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                found.append(name)
    return found


def told_by(process: "subprocess.Popen[str]") -> Any:
    """What `demo --json` prints."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def text_of(process: "subprocess.Popen[str]") -> str:
    """What the demo prints for people."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.endswith(LAST_LINE):
            return "".join(lines)
    raise AssertionError("".join(lines))


def folder_of(told: Any) -> Path:
    return Path(told["store"].removeprefix("unix://")).parents[1]


def pasted(text: str, *shell: str) -> "subprocess.CompletedProcess[str]":
    """In a shell of its own that knows nothing of authz, as it is written."""
    bare = {"PATH": os.environ["PATH"], "HOME": os.devnull}
    return subprocess.run(shell, input=text, env=bare, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("name", sorted(PROFILES))
def test_what_it_prints_is_pasted_as_a_whole(name: str) -> None:
    """Every line works, each status that is promised comes, and nobody who reads it can sign keys."""
    with demo("--profile", name) as process:
        text = text_of(process)
        (shell_file,) = re.findall(r"^\. (\S+)$", text, re.MULTILINE)
        ran = pasted(text, "bash")
        variables = pasted(f". {shell_file}; env -0", "bash").stdout
        modes = [oct(path.stat().st_mode)[-3:] for path in (Path(shell_file), Path(shell_file).parent)]

    promised = re.findall(r"^# ([0-9]{3}): ", text, re.MULTILINE)
    assert re.findall(r"HTTP/(?:1\.1|2) ([0-9]{3})", ran.stdout) == promised, ran
    assert "200 200 200 200 200 429" in ran.stdout
    assert re.search(r"^(allow|deny): [0-9]{3} [a-z_]+$", ran.stdout, re.MULTILINE), ran.stdout
    assert not re.search("authz: |command not found|syntax error|Traceback", ran.stderr), ran.stderr
    secrets = re.findall("AUTHZ_(?:JWT_SECRET|PEPPER)=([^\0]+)", variables)
    assert len(secrets) == 2
    assert not [secret for secret in secrets if secret in text]
    assert modes == ["600", "700"]
    prose, commands = (
        [line for line in text.splitlines() if line and line.startswith("#") is of] for of in (True, False)
    )
    assert not [line for line in prose if not re.fullmatch("# [A-Za-z0-9 .,:/_-]+", line)], (
        "an interactive zsh may choke"
    )
    assert {re.sub("=.*", "=", line.split(" ")[0]) for line in commands} <= {
        ".",
        "authz",
        "curl",
        "for",
        "ID=",
        "STAGING=",
    }
    assert not Path(shell_file).parent.exists()


@pytest.mark.skipif(shutil.which("zsh") is None, reason="there is no zsh here")
def test_an_interactive_zsh_takes_it_too() -> None:
    with demo() as process:
        text = text_of(process)
        ran = pasted(text, "zsh", "-f", "-i")

    promised = re.findall(r"^# ([0-9]{3}): ", text, re.MULTILINE)
    assert re.findall(r"HTTP/(?:1\.1|2) ([0-9]{3})", ran.stdout) == promised, ran
    assert not re.search("parse error|no matches", ran.stderr), ran.stderr


def test_another_one_in_the_shell_of_a_demo() -> None:
    """Has a store, a secret and keys of its own; and when the first has ended, what it told its shell names it."""
    with demo("--json") as first:
        told = told_by(first)
        variables = pasted(f". {folder_of(told)}/env.sh; env -0", "bash").stdout
        shell = dict(line.split("=", 1) for line in variables.split("\0") if line.startswith("AUTHZ_"))
        assert shell["AUTHZ_STORE__URL"] == told["store"]
        with demo("--json", **shell) as second:
            other = told_by(second)
            assert folder_of(other) != folder_of(told)
            key = other["keys"]["admin"]
            assert ask(int(other["envoy"].rpartition(":")[2]), "GET", "/v1/models", key=key).status == 200
            assert ask(int(told["envoy"].rpartition(":")[2]), "GET", "/v1/models", key=key).status == 401
        assert second.returncode == 0

    command = [sys.executable, "-m", "authz", "keys", "list"]
    for more, reason in (([], "$AUTHZ_CONFIG names it"), (["--config", os.devnull], "the store")):
        ended = subprocess.run([*command, *more], env=environ(**shell), capture_output=True, text=True, check=False)
        assert ended.returncode != 0
        assert reason in ended.stderr
    assert not folder_of(told).exists()


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        pytest.param("AUTHZ_CONFIG", f"{TEMPORARY}/authz.yaml", True, id="its configuration"),
        pytest.param("AUTHZ_DATA", f"{TEMPORARY}/data", True, id="its data"),
        pytest.param("AUTHZ_STORE__URL", f"unix://{TEMPORARY}/data/valkey.sock", True, id="its store"),
        pytest.param("AUTHZ_STORE__URL", "unix:///tmp/authz-1000-5f2a.sock", True, id="its store, in a long folder"),
        pytest.param("AUTHZ_JWT_SECRET", f"authz-demo-{'x' * 64}", True, id="its secret"),
        pytest.param("AUTHZ_CONFIG", "/etc/authz.yaml", False, id="another configuration"),
        pytest.param("AUTHZ_DATA", "/srv/authz-demo-data", False, id="other data"),
        pytest.param("AUTHZ_STORE__URL", "redis://authz-demo-a1b2c3d_:6379", False, id="a store"),
        pytest.param("AUTHZ_JWT_SECRET", "x" * 64, False, id="a secret"),
        pytest.param("AUTHZ_LISTEN__HTTP", "127.0.0.1:9003", False, id="an address"),
        pytest.param("LOGS", f"{TEMPORARY}/authz.log", False, id="nothing of ours"),
    ],
)
def test_what_another_demo_told_its_shell(variable: str, value: str, expected: bool) -> None:
    """And what a user means: every other override."""
    assert of_another_demo({variable: value, "HOME": "/root"}) == ([variable] if expected else [])


def test_the_shell_file_has_what_was_overridden(valkey_url: str, tmp_path: Path) -> None:
    """Quoted as shells need it; so a command there judges as the sidecar does."""
    changes = {"AUTHZ_STORE__URL": valkey_url, "AUTHZ_PEPPER": "it's $(mine) " * 3, "AUTHZ_KEYS__KIND": "opaque"}
    with demo(**changes, AUTHZ_LISTEN__HTTP=f"127.0.0.1:{free_port()}") as process:
        (shell_file,) = re.findall(r"^\. (\S+)$", text_of(process), re.MULTILINE)
        ran = pasted(f"cd {tmp_path}; . {shell_file}; env -0; authz keys create --name mine --json >&2", "bash")

    variables = dict(line.split("=", 1) for line in ran.stdout.split("\0") if "=" in line)
    assert {name: variables[name] for name in changes} == changes
    assert json.loads(ran.stderr.splitlines()[-1])["kind"] == "opaque"
    assert "AUTHZ_LISTEN__HTTP" not in variables


@pytest.mark.parametrize("victim", ["demo", "sidecar"])
def test_what_is_killed_leaves_nothing_behind(victim: str) -> None:
    """Nor does the store that a killed sidecar cannot end."""
    with demo("--json") as process:
        told = told_by(process)
        folder = folder_of(told)
        with redis.Redis(unix_socket_path=str(folder / "data" / "valkey.sock")) as client:
            server: Any = client.info("server")
        sidecar, _, role = (folder / "data" / "lock").read_text().partition(" ")
        assert (role, len(answering(told))) == ("sidecar\n", 5)
        os.kill(process.pid if victim == "demo" else int(sidecar), signal.SIGKILL)
        deadline_s = time.monotonic() + PATIENCE_S
        while (answering(told) or folder.exists()) and time.monotonic() < deadline_s:
            time.sleep(0.1)
        process.wait(PATIENCE_S)

    assert process.returncode == (-signal.SIGKILL if victim == "demo" else 1)
    assert not answering(told)
    assert not folder.exists()
    state = ["ps", "-o", "stat=", "-p", str(server["process_id"])]
    assert subprocess.run(state, capture_output=True, text=True, check=False).stdout[:1] in {"", "Z"}


def test_a_busy_port_is_told(valkey_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = busy.getsockname()[1]
        command = [sys.executable, "-m", "authz", "demo", "--port", str(port)]
        ended = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=30, check=False)

    assert ended.returncode == 1
    assert f"127.0.0.1:{port} is in use: choose another port for Envoy with --port N" in ended.stderr


def test_the_tour_is_as_promised() -> None:
    """What `make smoke` runs."""
    command = [sys.executable, "-m", "authz", "demo", "--port", "0", "--once"]

    ended = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=120, check=False)

    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "as promised"), ended.stderr
