"""`authz serve` where few files may be open: who floods the doors over HTTP takes none from the check."""

import contextlib
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from envoy.service.auth.v3 import external_auth_pb2

from authz.demo.processes import status_of
from tests.integration.test_serve import Sidecar, check, run


HARD = 400
EACH = HARD // 4  # connections that one door takes
LOGIN = b"POST /authz/v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: 50\r\n\r\n{"


class Limited(Sidecar):
    RUN_BY = ("sh", "-c", f'ulimit -Sn 64; ulimit -Hn {HARD}; exec "$@"', "sh")


@contextlib.contextmanager
def flooded(port: int, connections: int) -> Iterator[list[socket.socket]]:
    """So many connections on each of which a body has begun."""
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(connections):
            opened.append(stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=30)))
            with contextlib.suppress(ConnectionError):  # closed already
                opened[-1].sendall(LOGIN)
        yield opened


def closed(connections: list[socket.socket], wanted: int) -> int:
    """How many of them the server has closed, once these are as many as *wanted*."""
    ended: set[socket.socket] = set()
    deadline_s = time.monotonic() + 5  # before the server loses patience with the others
    while len(ended) < wanted and time.monotonic() < deadline_s:
        readable, _, _ = select.select([one for one in connections if one not in ended], [], [], 0.1)
        ended.update(readable)
    return len(ended)


def test_the_check_goes_on_while_the_doors_are_flooded(tmp_path: Path, valkey_url: str) -> None:
    sidecar = Limited(tmp_path, valkey_url)
    try:
        sidecar.ready()
        made = run("keys", "create", "--name", "n", "--scope", "read-only", environ=sidecar.environ, cwd=tmp_path)
        message: Any = external_auth_pb2.CheckRequest()
        http = message.attributes.request.http
        http.method, http.path = "GET", "/v1/models"
        http.headers["authorization"] = f"Bearer {made.stdout.splitlines()[0]}"

        with flooded(sidecar.ports["http"], HARD) as logins, flooded(sidecar.ports["metrics"], EACH):
            shut = closed(logins, HARD - EACH)
            codes = [check(sidecar.ports["authz"], message.SerializeToString()).status.code for _ in range(5)]

        assert shut >= HARD - EACH
        assert codes == [0] * 5  # each on a connection of its own
        assert f'"open_files": {HARD}' in sidecar.text()
        assert "Traceback" not in sidecar.text()
        assert "accept" not in sidecar.text()
        deadline_s = time.monotonic() + 10
        while status_of(sidecar.ports["http"], "/authz/v1/openapi.json") != 200:
            assert time.monotonic() < deadline_s
    finally:
        sidecar.process.stop()
