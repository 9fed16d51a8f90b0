"""A running profile, met as its API's page shows it: its `curl` lines, its headers, `authz` in a shell beside it."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import yaml

from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import IssuedKey, NewKey
from authz.core.bucket import Limit
from authz.demo.stack import Stack
from authz.demo.tour import Answer, ask


PATIENCE_S: Final = 15.0
PLENTY: Final = {"requests": Limit(10**6, 1)}


class ProfileStack(Stack):
    """No check is given up on a busy machine."""

    def __init__(self, profile: str) -> None:
        super().__init__(profile, port=0, environ=os.environ | {"AUTHZ_STORE__TIMEOUT": "5s"}, log_level="debug")

    def envoy_config(self) -> str:
        return super().envoy_config().replace('"timeout": "0.2s"', '"timeout": "5s"')

    def key(self, *scopes: str, **fields: Any) -> IssuedKey:
        return self.create_key(NewKey(fields.pop("name", "test"), scopes=scopes, **fields))

    def show_token(self, key: str) -> IssuedKey:
        return self._administer(lambda admin: admin.show_token(key, COMMAND_LINE))

    def rotate(self, key: str) -> IssuedKey:
        return self._administer(lambda admin: admin.rotate(key, 0, COMMAND_LINE))

    def ask(self, method: str, path: str, key: str | None = None, body: object = None) -> Answer:
        """*key* goes where the profile's keys go."""
        return ask(self.port, method, path, headers={} if key is None else self.profile.headers(key), body=body)

    def page(self, command: str, key: str) -> Answer:
        """A `curl` command of the page, to this stack and with this key, else as it stands."""
        command = re.sub(r"https://[a-z.]+", self.url, command)
        command = re.sub("YOUR_[A-Z_]*KEY", key, command)
        told = self._bash(command.replace("curl ", "curl -s -i ", 1))
        head, _, body = told.partition("\n\n")
        status, *lines = head.splitlines()
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return Answer(int(status.split()[1]), headers, body.encode())

    def _bash(self, script: str) -> str:
        ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)
        return ended.stdout

    def authz(self, *arguments: str, caller: str = "") -> Any:
        """What the command prints as JSON; *caller*: the key by which it asks the sidecar, and not the store."""
        environ = self.environ | {"AUTHZ_CONFIG": str(self._config_file), "AUTHZ_ADMIN_KEY": caller}
        server = ["--server", str(self.describe()["http"])] if caller else []
        command = [sys.executable, "-m", "authz", *arguments, *server, "--json"]
        ended = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode == 0, ended.stderr
        return json.loads(ended.stdout)

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """The admin API, as the key `admin`."""
        port = int(self.address("http").rpartition(":")[2])
        got = ask(port, method, f"/authz/v1/{path}", key=self.keys["admin"], body=body)
        assert got.status == 200, got.body
        return got.json

    def usage_when(self, key: IssuedKey, expected: Callable[[Any], bool]) -> Any:
        """Once it is as *expected*; as it is at last, if it does not come to that."""
        deadline_s = time.monotonic() + PATIENCE_S
        while not expected(usage := self.admin("GET", f"keys/{key.record.id}/usage")) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return usage

    def logs(self) -> str:
        return "\n".join(log.read_text(errors="replace") for log in self.folder.glob("**/*.log"))

    def stored(self) -> bytes:
        """All that the store has written down."""
        return b"\n".join(path.read_bytes() for path in (self.folder / "data").rglob("*") if path.is_file())

    def errors_of_envoy(self) -> list[Mapping[str, Any]]:
        """The bodies that Envoy itself makes, in the order of its mappers."""
        static = yaml.safe_load(self.envoy_config())["static_resources"]
        manager = static["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        spared, *mappers = manager["local_reply_config"]["mappers"]
        assert "body_format_override" not in spared
        return [mapper["body_format_override"]["json_format"]["error"] for mapper in mappers]


def as_sent(body: str) -> bytes:
    """A body as the page has it, without the white space that it is shown with."""
    return json.dumps(json.loads(body), separators=(",", ":"), ensure_ascii=False).encode()


@contextmanager
def under_load(request: Callable[[], Answer], clients: int = 3) -> Iterator[list[Answer]]:
    """While inside, so many clients ask without a pause; all answers are in the list in the end."""
    answers: list[Answer] = []
    done = threading.Event()

    def client() -> None:
        while not done.is_set():
            answers.append(request())

    threads = [threading.Thread(target=client) for _ in range(clients)]
    for thread in threads:
        thread.start()
    try:
        yield answers
    finally:
        done.set()
        for thread in threads:
            thread.join()


def wait_for(answers: list[Answer], more: int) -> None:
    """Until so many more have come."""
    wanted, deadline_s = len(answers) + more, time.monotonic() + PATIENCE_S
    while len(answers) < wanted and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert len(answers) >= wanted
