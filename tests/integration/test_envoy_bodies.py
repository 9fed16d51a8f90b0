"""Rules that need the body, through real Envoy with the second filter as docs/envoy.md shows it."""

import http.client
import json
import re
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml

from authz.admin.keys import IssuedKey
from authz.demo.envoy_config import written
from authz.demo.tour import Answer, ask
from tests.support.metered import CHAT, Metered, Recorder


pytestmark = pytest.mark.xdist_group("bodies")
MB = 1024 * 1024
RULES = {
    "chat": {"content_types": ["application/json"], "max_body": "10MiB", "max_prompt": 10_000},
    "small": {"content_types": ["text/plain"], "max_body": 10},
}
FINE = {"model": "m", "messages": [{"role": "user", "content": "one two three"}]}
ESTIMATE = 500


class Judged(Metered):
    """With the filter and the route of the page, and a route of the sidecar with rules."""

    def _prepare(self) -> None:
        super()._prepare()
        configured: Any = yaml.safe_load(self._config_file.read_text())
        more = {"scopes": ["read-write"], "limits": ["default"]}
        chat = {"name": "chat", "methods": ["POST"], "path": CHAT, "rules": ["chat"], **more}
        echo = {"name": "echo", "path": "/v1/echo", "rules": ["small"], **more}
        configured |= {"request_rules": RULES, "routes": [chat, echo, *configured["routes"]]}
        self._config_file.write_text(written(configured))

    def envoy_config(self) -> str:
        page = (Path(__file__).parents[2] / "docs" / "envoy.md").read_text()
        (snippet,) = (one for one in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if "authz.body" in one)
        shown: Any = yaml.safe_load(snippet)
        bootstrap: Any = yaml.safe_load(super().envoy_config())
        hcm = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
        (body,) = shown["http_filters"]
        body["typed_config"]["grpc_service"]["timeout"] = "10s"  # on a busy machine
        place = next(n for n, each in enumerate(hcm["http_filters"]) if each["name"] == "authz.check")
        hcm["http_filters"].insert(place + 1, body)
        (host,) = hcm["route_config"]["virtual_hosts"]
        (chat,) = shown["routes"]
        echo = json.loads(json.dumps(chat))
        echo["match"] = {"path": "/v1/echo", "headers": [{"name": "x-judged", "present_match": True}]}
        host["routes"][:0] = [chat, echo]
        return written(bootstrap)


@pytest.fixture(scope="module")
def judged() -> Iterator[Judged]:
    recorder = Recorder()
    with recorder.running(), Judged(recorder) as running:
        yield running


def post(
    judged: Judged, key: IssuedKey, body: object, content_type: str = "application/json", path: str = CHAT
) -> Answer:
    headers = {"authorization": f"Bearer {key.token}", "content-type": content_type}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", judged.port, timeout=60)) as connection:
        connection.request("POST", path, data, headers)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def post_in_chunks(judged: Judged, key: IssuedKey, chunks: list[bytes], path: str = CHAT) -> Answer:
    headers = {"authorization": f"Bearer {key.token}", "content-type": "application/json"}
    with closing(http.client.HTTPConnection("127.0.0.1", judged.port, timeout=60)) as connection:
        connection.request("POST", path, iter(chunks), headers, encode_chunked=True)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def head(key: IssuedKey | None, length: int, content_type: str = "application/json", path: str = CHAT) -> bytes:
    credential = f"Authorization: Bearer {key.token}\r\n" if key else ""
    sized = f"Content-Length: {length}\r\nContent-Type: {content_type}\r\n"
    return f"POST {path} HTTP/1.1\r\nHost: a\r\n{credential}{sized}\r\n".encode()


def answered_before_the_body(judged: Judged, request: bytes) -> bytes:
    """What is answered to a request of which the headers alone are sent."""
    with socket.create_connection(("127.0.0.1", judged.port), timeout=30) as client:
        client.sendall(request)
        return client.recv(65536)


def denied(judged: Judged, key: IssuedKey, count: int) -> Any:
    return judged.usage_when(key, lambda told: told["denied"] >= count)


def test_a_request_is_spent_and_settled_once(judged: Judged) -> None:
    """Though two checks have judged it; the limits that the client sees are the second one's."""
    key = judged.key()

    answer = post(judged, key, FINE)

    assert answer.status == 200, answer
    assert answer.headers["x-ratelimit-remaining-tokens"] == str(100_000 - ESTIMATE)
    usage = judged.usage_when(key, lambda told: told["requests"] >= 1)
    assert (usage["requests"], usage["denied"]) == (1, 0)
    used = answer.json["usage"]
    assert judged.tokens_left(key) == 100_000 - used["prompt_tokens"] - used["completion_tokens"]


def test_ten_megabytes_pass_and_are_spent_once(judged: Judged) -> None:
    key = judged.key()
    body = json.dumps({**FINE, "padding": ""}).encode()
    body = body.replace(b'"padding": ""', b'"padding": "' + b"x" * (10 * MB - len(body)) + b'"')
    assert len(body) == 10 * MB

    answer = post(judged, key, body)

    assert answer.status == 200, answer
    usage = judged.usage_when(key, lambda told: told["requests"] >= 1)
    assert (usage["requests"], usage["denied"]) == (1, 0)
    assert judged.tokens_left(key) == 100_000 - sum(answer.json["usage"][each] for each in ("total_tokens",))


def test_the_upstream_sees_the_whole_body_and_not_the_key(judged: Judged) -> None:
    """The first check leaves it for the second one, which takes it away."""
    key = judged.key()

    answer = post(judged, key, {**FINE, "messages": [{"role": "user", "content": "w " * 5000}]})
    headers = {"x-judged": "1", "content-type": "text/plain", "x-authz-subject": "mallory"}
    echo = ask(judged.port, "POST", "/v1/echo", key=key.token, headers=headers, body=1)

    assert (answer.status, answer.json["usage"]["prompt_tokens"]) == (200, 5000)
    assert echo.status == 200
    seen = echo.json["headers"]
    assert (seen["x-authz-key-id"], seen["x-authz-subject"]) == (key.record.id, key.record.id)
    assert "authorization" not in seen
    assert key.token not in str(seen)


@pytest.mark.parametrize("characters", [10_000, 10_001])
def test_a_long_prompt_is_refused_and_spends_nothing(judged: Judged, characters: int) -> None:
    key = judged.key()

    answer = post(judged, key, {"model": "m", "messages": [{"role": "user", "content": "é" * characters}]})

    if characters == 10_000:
        assert answer.status == 200
        return
    assert (answer.status, answer.json["error"]["code"]) == (400, "prompt_too_long")
    assert "10000 characters" in answer.message
    usage = denied(judged, key, 1)
    assert (usage["requests"], usage["denied"]) == (0, 1)
    assert judged.tokens_left(key) == 100_000


@pytest.mark.parametrize(
    ("body", "content_type", "status", "code"),
    [
        pytest.param(FINE, "application/json; charset=utf-8", 200, None, id="a content type with a parameter"),
        pytest.param(FINE, "Application/JSON", 200, None, id="a content type in capitals"),
        pytest.param(FINE, "text/plain", 415, "unsupported_content_type", id="another content type"),
        pytest.param(b"{", "application/json", 400, "bad_request", id="not JSON"),
        pytest.param(b'{"prompt":"\xff"}', "application/json", 400, "bad_request", id="not UTF-8"),
        pytest.param(b'{"x":' + b"[" * 200_000, "application/json", 400, "bad_request", id="deep"),
    ],
)
def test_what_is_judged(judged: Judged, body: object, content_type: str, status: int, code: str | None) -> None:
    key = judged.key()

    answer = post(judged, key, body, content_type)

    assert answer.status == status, answer.body
    if code is not None:
        assert answer.json["error"]["code"] == code
        assert judged.tokens_left(key) == 100_000
        assert denied(judged, key, 1)["denied"] == 1


def test_who_is_refused_by_headers_need_not_send_the_body(judged: Judged) -> None:
    key = judged.key()
    reader = judged.keys["read-only"]

    nobody = answered_before_the_body(judged, head(None, 5 * MB))
    large = answered_before_the_body(judged, head(key, 11 * MB))
    kind = answered_before_the_body(judged, head(key, 5 * MB, "text/plain"))
    scope = answered_before_the_body(judged, head(key, 5 * MB).replace(key.token.encode(), reader.encode()))

    statuses = [answer.split(b" ")[1] for answer in (nobody, large, kind, scope)]
    assert statuses == [b"401", b"413", b"415", b"403"]
    assert (denied(judged, key, 2)["denied"], judged.tokens_left(key)) == (2, 100_000)


def test_bodies_that_do_not_tell_their_size(judged: Judged) -> None:
    """Judged as they are, by the check that sees them; refused where none does, or where they are too large."""
    key = judged.key()

    fine = post_in_chunks(judged, key, [json.dumps(FINE)[:20].encode(), json.dumps(FINE)[20:].encode()])
    long = post_in_chunks(judged, key, [b'{"prompt":"', b"x" * 10_001, b'"}'])
    empty = post_in_chunks(judged, key, [])  # it looks as if Envoy did not show it
    large = post_in_chunks(judged, key, [b'{"x":"', *[b"x" * MB] * 11, b'"}'])
    unseen = post_in_chunks(judged, key, [b"x"], "/v1/echo")

    assert [answer.status for answer in (fine, long, large, empty)] == [200, 400, 413, 400]
    assert empty.message == "The request is not acceptable: there is no body, or its length is not told."
    assert long.json["error"]["code"] == "prompt_too_long"
    assert unseen.status == 415  # without the second filter its headers alone are judged
    usage = judged.usage_when(key, lambda told: told["requests"] + told["denied"] >= 4)
    assert (usage["requests"], usage["denied"]) == (1, 3)  # the large one was Envoy's own 413


def test_bodies_just_above_what_envoy_holds_never_pass(judged: Judged) -> None:
    """Envoy's own 413, or a body that it cuts off: whole or not, none reaches the API."""
    key = judged.key()
    for beyond in (1, 100, 20_000, 70_000):
        rest = 10 * MB - len(b'{"prompt":"hi","x":"') + beyond
        chunks = [b'{"prompt":"hi","x":"', *[b"x" * (64 * 1024)] * (rest // (64 * 1024)), b"x" * (rest % (64 * 1024))]
        assert post_in_chunks(judged, key, [*chunks, b'"}']).status == 413
    assert judged.tokens_left(key) == 100_000


def test_only_headers_are_judged_without_a_second_filter(judged: Judged) -> None:
    key = judged.key()

    assert post(judged, key, b"x" * 10, "text/plain", "/v1/echo").status == 200
    assert post(judged, key, b"x" * 11, "text/plain", "/v1/echo").status == 413
    assert post(judged, key, b"x" * 10, "a/b", "/v1/echo").status == 415
    assert ask(judged.port, "GET", "/v1/echo", key=key.token).status == 200
    seen = ask(judged.port, "GET", "/v1/echo", key=key.token, headers={"authz.stage": "headers"})
    assert seen.status == 200
    assert judged.tokens_left(key) == 100_000 - 3 * ESTIMATE


def test_no_client_sets_the_stage(judged: Judged) -> None:
    """Nor the mark of a body that was cut off."""
    key = judged.key()
    headers = {"authz.stage": "headers", "x-authz-stage": "headers", "x-envoy-auth-partial-body": "false"}
    long = {"prompt": "x" * 10_001}

    assert ask(judged.port, "POST", CHAT, key=key.token, headers=headers, body=long).status == 400
    headers["x-envoy-auth-partial-body"] = "true"
    assert ask(judged.port, "POST", CHAT, key=key.token, headers=headers, body=FINE).status == 200


def test_no_log_holds_a_body(judged: Judged) -> None:
    key = judged.key()
    post(judged, key, {"prompt": "planted-in-body" * 1000})
    post(judged, key, b'{"prompt": planted-in-body')

    denied(judged, key, 2)
    for log in judged.folder.glob("**/*.log"):
        assert "planted-in-body" not in log.read_text(errors="replace")
