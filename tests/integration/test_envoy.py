"""What clients meet through a real Envoy: statuses, headers, bodies, and what the upstream sees."""

import http.client
import socket
import time

import pytest

from authz.admin.keys import IssuedKey, NewKey
from authz.core.bucket import Limit
from authz.demo.stack import Stack
from authz.demo.tour import CHAT, Answer, ask
from tests.support.parts import CLOCK


pytestmark = pytest.mark.xdist_group("stack")


def get(stack: Stack, path: str = "/v1/models", **options: object) -> Answer:
    return ask(stack.port, "GET", path, **options)  # type: ignore[arg-type]


def post(stack: Stack, key: str | None, path: str = "/v1/chat/completions", body: object = CHAT) -> Answer:
    return ask(stack.port, "POST", path, key=key, body=body)


def key(stack: Stack, *scopes: str, **fields: object) -> IssuedKey:
    return stack.create_key(NewKey("test", scopes=scopes, **fields))  # type: ignore[arg-type]


def code(answer: Answer) -> str:
    assert answer.headers["content-type"] == "application/json"
    assert set(answer.json["error"]) == {"message", "type", "param", "code"}
    return str(answer.json["error"]["code"])


def test_no_key_is_a_bare_challenge(stack: Stack) -> None:
    answer = get(stack)

    assert (answer.status, answer.headers["www-authenticate"], code(answer)) == (401, "Bearer", "invalid_api_key")
    assert "Authorization: Bearer" in answer.message


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda t: t[:-4] + ("AAAA" if t[-4:] != "AAAA" else "BBBB"), "signature", id="forged"),
        pytest.param(lambda t: t[:-6], "cut short", id="truncated"),
        pytest.param(lambda t: t.rpartition(".")[0], "cut short", id="without its signature"),
        pytest.param(lambda t: t.replace("sk-live-", "sk-test-"), "start with sk-live-", id="wrongly prefixed"),
        pytest.param(lambda t: t[:30] + " " + t[30:], "white space", id="white space within"),
        pytest.param(lambda t: " " + t, "white space", id="white space before"),
        pytest.param(lambda t: "sk-live-" + "x" * 9000, "longer than 8192", id="huge"),
        pytest.param(lambda t: t + ",Bearer " + t, "more than once", id="twice"),
        pytest.param(lambda t: t[:40] + "é" + t[41:], "characters", id="not ASCII: Envoy sends ! for it"),
    ],
)
def test_a_key_gone_wrong_is_told_why(stack: Stack, change: object, told: str) -> None:
    """In the message, and in the challenge of RFC 6750."""
    token = change(stack.keys["read-only"])  # type: ignore[operator]

    answer = get(stack, headers={"authorization": f"Bearer {token}".encode("latin-1")})

    assert answer.status == 401
    assert told in answer.message
    assert answer.headers["www-authenticate"].startswith('Bearer error="invalid_token", error_description="')
    assert told in answer.headers["www-authenticate"]


def test_an_expired_key_is_refused(stack: Stack) -> None:
    """Leeway included, so the configured one is made small."""
    short = key(stack, "read-only", lifetime_s=1)
    assert get(stack, key=short.token).status == 200
    deadline_s = time.monotonic() + 20
    while (answer := get(stack, key=short.token)).status == 200 and time.monotonic() < deadline_s:
        time.sleep(0.2)

    assert (answer.status, answer.message) == (401, "The API key has expired.")


@pytest.mark.parametrize("header", ["authorization", "Authorization", "AUTHORIZATION"])
@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
def test_bearer_in_any_case(stack: Stack, header: str, scheme: str) -> None:
    assert get(stack, headers={header: f"{scheme} {stack.keys['read-only']}"}).status == 200


def test_x_api_key_and_a_bare_jwt(stack: Stack) -> None:
    """RFC 6750 without our prefix; X-API-Key wants the prefix."""
    token = stack.keys["read-only"]
    bare = token.removeprefix("sk-live-")

    assert get(stack, headers={"X-API-Key": token}).status == 200
    assert get(stack, key=bare).status == 200
    assert get(stack, headers={"X-API-Key": bare}).status == 401


def test_two_credentials(stack: Stack) -> None:
    """The same one twice is one; two that differ are refused."""
    one, other = stack.keys["read-only"], stack.keys["read-write"]

    assert get(stack, key=one, headers={"X-API-Key": one}).status == 200
    answer = get(stack, key=one, headers={"X-API-Key": other})
    assert (answer.status, "two different credentials" in answer.message) == (401, True)
    assert get(stack, key=one, headers={"X-API-Key": "nonsense"}).status == 401


@pytest.mark.parametrize("query", ["api_key=x", "a=1&access_token=x", "API_KEY=x", "api%5Fkey=x"])
def test_a_key_in_the_url(stack: Stack, query: str) -> None:
    """Refused with where it belongs, a good header notwithstanding; and it is in no log of ours."""
    answer = get(stack, f"/v1/models?{query}-planted-in-url", key=stack.keys["read-only"])

    assert answer.status == 401
    assert "header" in answer.message
    for name in ("authz", "envoy"):
        assert "planted-in-url" not in stack.processes[name].tail(10**7)


def test_scopes_by_method(stack: Stack) -> None:
    """403 names what is required and what is held."""
    answer = post(stack, stack.keys["read-only"])

    assert (answer.status, code(answer)) == (403, "insufficient_scope")
    assert answer.message == "The API key lacks a scope: required: read-write; held: read-only."
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
    assert 'scope="read-write"' in answer.headers["www-authenticate"]
    assert post(stack, stack.keys["read-write"]).status == 200
    assert get(stack, key=stack.keys["admin"]).status == 200
    none = key(stack)
    assert "held: none" in get(stack, key=none.token).message


def test_what_no_route_matches_is_denied(stack: Stack) -> None:
    answer = get(stack, "/internal", key=stack.keys["admin"])

    assert (answer.status, code(answer)) == (403, "no_route")


@pytest.mark.parametrize("path", ["/v1/a;b", "/v1/%252e%252e/models", "/v1/x%00y", "/v1/%c0%ae%c0%ae/x"])
def test_paths_that_two_could_read_differently(stack: Stack, path: str) -> None:
    """Refused, by us (403) or by Envoy (400); never let through."""
    assert get(stack, path, key=stack.keys["admin"]).status in {400, 403}


def test_dot_segments_cannot_reach_past_a_route(stack: Stack) -> None:
    assert get(stack, "/healthz/../v1/models").status == 401
    assert get(stack, "/v1/../healthz").status == 200  # it *is* /healthz, for us and for the upstream
    assert get(stack, "/healthz/%2e%2e/v1/models").status == 401


def test_limits_are_told_and_kept(stack: Stack) -> None:
    """Five of five with the headers counting down; then 429 with when to come back, and then in again."""
    limited = key(stack, "read-only", limits={"requests": Limit(5, 10)})

    answers = [get(stack, key=limited.token) for _ in range(6)]

    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert [answer.headers["x-ratelimit-limit"] for answer in answers] == ["5"] * 6
    assert [answer.headers["x-ratelimit-remaining"] for answer in answers] == ["4", "3", "2", "1", "0", "0"]
    now_s = CLOCK.now_s()
    assert all(0 <= int(answer.headers["x-ratelimit-reset"]) - now_s <= 11 for answer in answers)
    refused = answers[-1]
    assert code(refused) == "rate_limit_exceeded"
    assert 1 <= int(refused.headers["retry-after"]) <= 2
    assert 1 <= int(refused.headers["retry-after-ms"]) <= 2000
    time.sleep(int(refused.headers["retry-after"]))
    assert get(stack, key=limited.token).status == 200


def test_the_upstreams_own_limit_headers_are_replaced(stack: Stack) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", stack.port)
    connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {stack.keys['read-only']}"})
    headers = connection.getresponse().getheaders()
    connection.close()

    assert [value for name, value in headers if name.lower() == "x-ratelimit-limit"] == ["600"]


def test_requests_that_are_refused_spend_nothing(stack: Stack) -> None:
    mine = key(stack, "read-only", limits={"requests": Limit(2, 3600)})

    for _ in range(4):
        assert post(stack, mine.token).status == 403
        assert get(stack, "/nowhere", key=mine.token).status == 403

    assert [get(stack, key=mine.token).status for _ in range(3)] == [200, 200, 429]


def test_a_revoked_key_is_refused_at_the_very_next_request(stack: Stack) -> None:
    """Though its signature is valid; ten times in a row, on connections that stay open."""
    connection = http.client.HTTPConnection("127.0.0.1", stack.port)
    for _ in range(10):
        mine = key(stack, "read-only")
        for wanted in (200, 401):
            connection.request("GET", "/v1/models", headers={"x-api-key": mine.token})
            response = connection.getresponse()
            assert (response.status, b"revoked" in response.read()) == (wanted, wanted == 401)
            stack.revoke(mine.record.id, "test")
    connection.close()


def test_the_upstream_learns_who_calls_and_never_the_key(stack: Stack) -> None:
    """A client's own identity headers are dropped, in any spelling; those that we do not set too."""
    mine = key(stack, "read-write", subject="alice ü", workspace="")
    spoofed = {"x-authz-subject": "mallory", "X-Authz-Workspace": "theirs", "x-AUTHZ-admin": "1"}

    seen = get(stack, "/v1/echo", key=mine.token, headers=spoofed).json["headers"]

    told = {name: value for name, value in seen.items() if name.startswith("x-authz-")}
    assert told.pop("x-authz-subject").encode("latin-1", "ignore").decode("utf-8", "ignore") in {"alice ü", "alice "}
    assert told == {
        "x-authz-key-id": mine.record.id,
        "x-authz-key-prefix": mine.record.prefix,
        "x-authz-scopes": "read-write",
    }
    assert "authorization" not in seen
    assert mine.token not in str(seen)
    assert "x-api-key" not in get(stack, "/v1/echo", headers={"x-api-key": mine.token}).json["headers"]


def test_public_paths_need_no_key_and_pass_none_on(stack: Stack) -> None:
    assert get(stack, "/healthz").status == 200
    assert get(stack, "/healthz", key="nonsense").status == 200


def test_streams_pass_as_they_come(stack: Stack) -> None:
    """Word by word: the first event is there long before the last."""
    body = {"model": "mock-chat", "stream": True, "messages": [{"role": "user", "content": "a b c d e f g h i j"}]}
    connection = http.client.HTTPConnection("127.0.0.1", stack.port)
    import json

    headers = {"authorization": f"Bearer {stack.keys['read-write']}", "content-type": "application/json"}
    start_s = time.monotonic()
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    first = response.readline()
    first_s = time.monotonic() - start_s
    rest = response.read()
    whole_s = time.monotonic() - start_s
    connection.close()

    assert first.startswith(b"data: {")
    assert rest.rstrip().endswith(b"data: [DONE]")
    assert first_s < whole_s / 2


def test_a_repeated_authorization_header(stack: Stack) -> None:
    token = stack.keys["read-only"]
    with socket.create_connection(("127.0.0.1", stack.port)) as client:
        line = f"Authorization: Bearer {token}\r\n"
        client.sendall(f"GET /v1/models HTTP/1.1\r\nHost: a\r\n{line}{line}Connection: close\r\n\r\n".encode())
        answer = b""
        while chunk := client.recv(65536):
            answer += chunk

    assert answer.startswith(b"HTTP/1.1 401")
    assert b"more than once" in answer


def test_no_log_holds_a_credential(stack: Stack) -> None:
    """The sidecar's at debug, Envoy's, the store's: every key that was ever used here, searched for."""
    get(stack, key="sk-live-planted-secret-one")
    get(stack, headers={"x-api-key": "planted-secret-two"})
    get(stack, headers={"authorization": "Basic planted-secret-three"})

    for log in stack.folder.glob("**/*.log"):
        text = log.read_text(errors="replace")
        assert "planted-secret" not in text
        assert "eyJ" not in text  # the beginning of every JWT
        assert stack.environ["AUTHZ_JWT_SECRET"] not in text
    metrics = ask(int(stack.address("metrics").rpartition(":")[2]), "GET", "/metrics")
    assert b"eyJ" not in metrics.body
    assert b"key_" not in metrics.body
