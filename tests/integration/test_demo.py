"""`authz demo` as a user starts it: JSON, the tour, cleaning up, a busy port."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from authz.demo.tour import ask


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
    for address in (told["envoy"].removeprefix("http://"), told["authz"], told["grpc"]):
        with socket.socket() as probe:
            assert probe.connect_ex(("127.0.0.1", int(address.rpartition(":")[2]))) != 0


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
