"""A running profile, met as its API's page shows it: its `curl` lines, its headers, `authz` in a shell beside it."""

import http.client
import json
import os
import re
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from typing import Any, Final

from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import IssuedKey, NewKey
from authz.core.bucket import Limit
from authz.core.decision import Reason
from authz.core.problems import FORMATS, SENTENCE, Problem
from authz.demo.envoy_config import filled
from authz.demo.processes import Process, envoy_binary, free_port
from authz.demo.stack import Stack
from authz.demo.tour import Answer, ask


PATIENCE_S: Final = 15.0
PLENTY: Final = {"requests": Limit(10**6, 1)}


class ProfileStack(Stack):
    """No check is given up on a busy machine."""

    def __init__(self, profile: str, environ: Mapping[str, str] | None = None) -> None:
        environ = {**(environ or os.environ), "AUTHZ_STORE__TIMEOUT": "5s"}
        super().__init__(profile, port=0, environ=environ, log_level="debug")

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

    def port_of(self, listener: str) -> int:
        """Of the sidecar."""
        return int(self.address(listener).rpartition(":")[2])

    def ask_admin(self, method: str, path: str, body: object = None) -> Answer:
        """The admin API, as the key `admin`."""
        return ask(self.port_of("http"), method, f"/authz/v1/{path}", key=self.keys["admin"], body=body)

    def admin(self, method: str, path: str, body: object = None) -> Any:
        got = self.ask_admin(method, path, body)
        assert got.status == 200, got.body
        return got.json

    def once_refused(self, method: str, path: str, key: str, body: object = None) -> Answer:
        """Of a *key* that is let in now and will not be for ever: the first refusal."""
        answer, deadline_s = self.ask(method, path, key, body), time.monotonic() + PATIENCE_S
        assert answer.status == 200
        while answer.status == 200 and time.monotonic() < deadline_s:
            time.sleep(0.1)
            answer = self.ask(method, path, key, body)
        return answer

    def usage_when(self, key: IssuedKey | str, expected: Callable[[Any], bool]) -> Any:
        """Of a key, or of its id, once it is as *expected*; as it is at last, if it does not come to that."""
        key_id, deadline_s = key if isinstance(key, str) else key.record.id, time.monotonic() + PATIENCE_S
        while not expected(usage := self.admin("GET", f"keys/{key_id}/usage")) and time.monotonic() < deadline_s:
            time.sleep(0.05)
        return usage

    def logged(self, process: str, count: int = 1, **wanted: object) -> list[dict[str, Any]]:
        """The lines of *process* like that, once there are so many."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            lines = [line for line in self.processes[process].tail(10**7).splitlines() if line.startswith("{")]
            found = [line for line in map(json.loads, lines) if wanted.items() <= line.items()]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline_s, wanted
            time.sleep(0.1)

    def logs(self) -> str:
        """Of every process, with all that was asked up to now: the lines of a last request are waited for."""
        path = f"/last-{secrets.token_hex(8)}"
        self.ask("GET", path)
        self.logged("envoy", path=path)
        self.logged("authz", logger="authz.access", path=path)
        return "\n".join(log.read_text(errors="replace") for log in self.folder.glob("**/*.log"))

    def stored(self, key_id: str) -> bytes:
        """All that the store has written down, once this key is in it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while True:
            files = [path for path in (self.folder / "data").rglob("*") if path.is_file()]
            written = b"\n".join(path.read_bytes() for path in files)
            if key_id.encode() in written:
                return written
            assert time.monotonic() < deadline_s, key_id
            time.sleep(0.1)

    def envoys_own(self) -> dict[str, tuple[int, str]]:
        """Status and body of what Envoy answers without asking anybody, by the names of its mappers."""
        large = {"x-large": "x" * 62_000}
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        answers = {
            "reply.400": ask(self.port, "GET", "/v1/x%2Fy"),
            "reply.403": ask(self.port, "GET", "/v1/x", headers=upgrade),
            "reply.404": ask(self.port, "OPTIONS", "*"),
            "reply.405": ask(self.port, "TRACE", "/v1/x"),
            "reply.431": ask(self.port, "GET", "/v1/x", headers=large),
            "reply.501": ask(self.port, "GET", "/v1/x", headers={"Transfer-Encoding": "foo"}),
        }
        assert {answer.headers["content-type"] for answer in answers.values()} == {"application/json"}
        return {name: (answer.status, answer.body.decode()) for name, answer in answers.items()}


# What Envoy itself answers, by the names of its mappers. The words are authz's own where it has some for the status.
_ENVOYS: Final[Mapping[str, tuple[int, str, str]]] = {
    "authz_away": (503, "authorizer_unavailable", SENTENCE[Reason.STORE_UNAVAILABLE] + "."),
    "overloaded": (503, "overloaded", "The gateway is overloaded at the moment, try again."),
    "reply.403": (403, "forbidden", "The request is not allowed here."),
    "reply.404": (404, "not_found", "There is nothing at this path."),
    "reply.405": (405, "method_not_allowed", "This method is not taken here."),
    "reply.408": (408, "request_timeout", "The request took too long to arrive."),
    "reply.413": (413, "body_too_large", SENTENCE[Reason.BODY_TOO_LARGE] + "."),
    "reply.431": (431, "headers_too_large", "The request headers are too large."),
    "reply.501": (400, "bad_request", SENTENCE[Reason.BAD_REQUEST] + "."),
    "reply.503": (503, "upstream_unavailable", "The upstream is unavailable at the moment, try again."),
    "reply.504": (504, "upstream_timeout", "The upstream did not answer in time."),
    "reply.500": (500, "gateway_error", "The gateway failed."),
    "reply.400": (400, "bad_request", SENTENCE[Reason.BAD_REQUEST] + "."),
}


def as_authz_writes(format_name: str) -> dict[str, tuple[int, str]]:
    """Status and body of what Envoy itself answers, by the names of its mappers, as authz would write them."""
    form = FORMATS[format_name]
    written = {}
    for name, (status, code, message) in _ENVOYS.items():
        of_ours = 503 if status >= 500 else status  # the one fault of a server that authz has words for
        told = 400 if status == 431 and format_name == "inferno" else form.statuses.get(status, status)
        written[name] = (told, form.body(Problem(of_ours, code, message)))
    return written


@contextmanager
def before_another_api(stack: ProfileStack, upstream: int) -> Iterator[int]:
    """The port of another Envoy, with *stack*'s sidecar; on the API at *upstream* it gives up soon."""
    port, admin, config = free_port(), free_port(), stack.folder / "another.yaml"
    text = filled(
        edge=port,
        authz=stack.port_of("authz"),
        log=stack.port_of("grpc"),
        upstream=upstream,
        admin=admin,
        http=stack.port_of("http"),
        profile=stack.profile.name,
    )
    text = text.replace('"idle_timeout": "300s"', '"idle_timeout": "1s"')
    config.write_text(text.replace('"timeout": "0.2s"', '"timeout": "5s"'))
    command = [str(envoy_binary(stack.environ)), "-c", str(config), "--concurrency", "1", "--use-dynamic-base-id"]
    envoy = Process("envoy", command, stack.folder / "another.log", stack.environ)
    try:
        envoy.wait_for(admin, "/ready")
        yield port
    finally:
        envoy.stop()


class Replica(ProfileStack):
    """Another sidecar, with an Envoy of its own, on the store and the secrets of *stack*, before the same API."""

    def __init__(self, stack: ProfileStack) -> None:
        shared = {name: stack.environ[name] for name in ("AUTHZ_JWT_SECRET", "AUTHZ_PEPPER")}
        super().__init__(stack.profile.name, os.environ | shared | {"AUTHZ_STORE__URL": stack.store_url})
        self.upstream_port = stack.upstream_port

    def _start_upstream(self) -> None:
        """It is there."""

    def _create_keys(self) -> None:
        """It has those that are there."""

    def _stop_all(self) -> None:
        self.processes["authz"].signal(signal.SIGKILL)  # what it has to book nobody asks for
        super()._stop_all()


@contextmanager
def on_every_replica(stack: ProfileStack) -> Iterator[Callable[[str, str, str], list[Answer]]]:
    """What asks, by method, path and key, *stack* and a replica of it, on two connections each that stay open."""
    with ExitStack() as entered:
        stacks = [stack, entered.enter_context(Replica(stack))]
        connections = [
            entered.enter_context(closing(http.client.HTTPConnection("127.0.0.1", each.port, timeout=30)))
            for each in stacks * 2
        ]

        def ask_all(method: str, path: str, key: str) -> list[Answer]:
            answers = []
            for connection in connections:
                connection.request(method, path, headers=stack.profile.headers(key))
                socket = connection.sock
                response = connection.getresponse()
                headers = {name.lower(): value for name, value in response.getheaders()}
                answers.append(Answer(response.status, headers, response.read()))
                assert connection.sock is socket
            return answers

        yield ask_all


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
