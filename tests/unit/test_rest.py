"""REST by annotations: paths, verbs, the order of a call, bodies, refusals; and the client's half, which must agree."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from google.api import annotations_pb2, http_pb2
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from authz.adapters.http.rest import MAX_BODY_BYTES, Binding, binding, build
from authz.adapters.http.server import HttpServer, bind
from authz.adapters.protojson import FieldError, parse, render
from authz.adapters.rpc import RpcError
from authz.core.problems import FORMATS, Problem
from authz.pb.authz.admin.v1 import keys_pb2
from tests.support.rpc import KEY_SERVICE, Recording


ID = "key_1a2b3c4d0000000000aa"
KEYS = "/authz/v1/keys"
CLOSE = "connection: close"
DOCUMENT = b'{"openapi":"3.1.0"}'
DENIED = RpcError(
    Problem(401, "missing_credential", "No API key was sent."), (("www-authenticate", "Bearer"), ("x-note", "é"))
)


def application(*services: Recording, style: str = "openai") -> Any:
    documents: Mapping[str, Callable[[], bytes]] = {"/authz/v1/openapi.json": lambda: DOCUMENT}
    return build(services, lambda: FORMATS[style], documents=documents)


def client(*services: Recording, style: str = "openai") -> httpx.AsyncClient:
    transport = httpx.ASGITransport(application(*services, style=style), client=("192.0.2.1", 4711))
    return httpx.AsyncClient(transport=transport, base_url="http://authz")


async def bare(app: Any, verb: str, target: str) -> int:
    """The status that is answered to a target as it is: clients would mend it."""
    path, _, query = target.encode().partition(b"?")
    scope = {"type": "http", "method": verb, "path": "?", "raw_path": path, "query_string": query, "headers": []}
    sent: list[Any] = []

    async def receive() -> object:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    await app(scope, receive, send)
    return int(sent[0]["status"])


async def ask(service: Recording, verb: str, path: str, **more: Any) -> httpx.Response:
    async with client(service) as http:
        return await http.request(verb, path, **more)


def error_of(response: httpx.Response) -> tuple[int, str, str | None]:
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    error = response.json()["error"]
    assert error["message"].endswith(".")
    return response.status_code, error["code"], error["param"]


# --- calls that pass

_CALLS: list[tuple[str, str, object, str, dict[str, object]]] = [
    ("POST", KEYS, {"name": "ci"}, "CreateKey", {"name": "ci"}),
    ("GET", KEYS, None, "ListKeys", {}),
    ("GET", f"{KEYS}?page_size=5&filter=a%3D%22b%22", None, "ListKeys", {"page_size": 5, "filter": 'a="b"'}),
    ("GET", f"{KEYS}/{ID}", None, "GetKey", {"id": ID}),
    ("GET", f"{KEYS}/sk-live-1a2b3c4d?show_token=true", None, "GetKey", {"id": "sk-live-1a2b3c4d", "show_token": True}),
    ("GET", f"{KEYS}/%6bey", None, "GetKey", {"id": "key"}),
    ("GET", f"{KEYS}/a%252Fb", None, "GetKey", {"id": "a%2Fb"}),
    ("GET", f"{KEYS}/%C3%A9", None, "GetKey", {"id": "é"}),
    ("GET", f"{KEYS}/a+b", None, "GetKey", {"id": "a+b"}),
    ("PATCH", f"{KEYS}/{ID}", {"name": "x"}, "UpdateKey", {"key": {"id": ID, "name": "x"}, "update_mask": "name"}),
    (
        "PATCH",
        f"{KEYS}/{ID}",
        {"id": ID, "scopes": [], "limits": {}, "expires_at": None, "state": "active", "etag": "v1"},
        "UpdateKey",
        {"key": {"id": ID, "state": "active", "etag": "v1"}, "update_mask": "scopes,limits,expires_at"},
    ),
    (
        "PATCH",
        f"{KEYS}/{ID}?update_mask=name,expires_at",
        {"name": "x", "expires_at": None, "id": ID},
        "UpdateKey",
        {"key": {"id": ID, "name": "x"}, "update_mask": "name,expires_at"},
    ),
    ("POST", f"{KEYS}/{ID}:rotate", {"grace": "1h"}, "RotateKey", {"id": ID, "grace": "1h"}),
    ("POST", f"{KEYS}/{ID}:rotate", None, "RotateKey", {"id": ID}),
    ("POST", f"{KEYS}/{ID}:revoke", {"id": ID, "reason": "lost"}, "RevokeKey", {"id": ID, "reason": "lost"}),
    ("POST", f"{KEYS}/{ID}:revoke", {"id": "", "reason": None}, "RevokeKey", {"id": ID}),
    ("POST", f"{KEYS}:revokeAll", {"dry_run": True}, "RevokeAllKeys", {"dry_run": True}),
    ("GET", "/authz/v1/events?page_token=%26", None, "ListEvents", {"page_token": "&"}),
    ("POST", "/authz/v1/login", {"username": "a", "password": "b"}, "Login", {"username": "a", "password": "b"}),
]


@pytest.mark.parametrize(("verb", "path", "body", "method", "message"), _CALLS)
async def test_a_call_reaches_its_method(
    verb: str, path: str, body: object, method: str, message: dict[str, object]
) -> None:
    """With its variables, parameters and body in the message, whatever the way."""
    service = Recording()

    response = await ask(service, verb, path, json=body) if body is not None else await ask(service, verb, path)

    assert response.status_code == 200
    [call], [request] = service.calls, service.requests
    assert call.method == method
    assert request == parse(message, type(request))
    assert response.headers["content-type"] == "application/json"
    assert response.headers["cache-control"] == "no-store"
    output = GetMessageClass(KEY_SERVICE.methods_by_name[method].output_type)()
    assert response.json() == render(output)
    assert list(response.json()) == list(render(output))


LIMITS = (("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "59"), ("x-bad", "a\r\nb"))


@pytest.mark.parametrize(
    ("fail", "path", "status"),
    [
        pytest.param(None, KEYS, 200, id="done"),
        pytest.param(None, f"{KEYS}?x=1", 400, id="a message that cannot be read"),
        pytest.param(RpcError(Problem(404, "not_found", "No.")), KEYS, 404, id="refused by the method"),
        pytest.param(ZeroDivisionError(), KEYS, 503, id="a bug"),
    ],
)
async def test_who_is_let_in_is_shown_what_is_left(fail: Exception | None, path: str, status: int) -> None:
    """Whatever becomes of the call, and once; whoever is not let in is not."""
    response = await ask(Recording(fail=fail, shows=LIMITS), "GET", path)
    refused = await ask(Recording(refuse=DENIED, shows=LIMITS), "GET", path)

    assert response.status_code == status
    shown = [(name, value) for name, value in response.headers.multi_items() if name.startswith("x-")]
    assert shown == [("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "59")]
    assert "x-ratelimit-limit" not in refused.headers


async def test_the_call_carries_headers_peer_and_query() -> None:
    """Lower-case names, repeated ones joined by commas, nothing decoded; and no secret in its `repr`."""
    service = Recording()
    headers = [("Authorization", "Bearer PLANTED"), ("X-Twice", "a"), ("x-twice", "b"), ("X-Request-Id", "r-1")]

    await ask(service, "GET", f"{KEYS}?filter=%20", headers=headers)

    [call] = service.calls
    assert call.headers["authorization"] == "Bearer PLANTED"
    assert call.headers["x-twice"] == "a,b"
    assert call.headers["x-request-id"] == "r-1"
    assert (call.peer, call.query) == ("192.0.2.1", "filter=%20")
    assert "PLANTED" not in repr(call)


async def test_json_is_compact_and_not_escaped() -> None:
    service = Recording(answers={"GetKey": keys_pb2.Key(id=ID, name="clé", scopes=["a", "b"])})
    response = await ask(service, "GET", f"{KEYS}/{ID}")
    assert response.text.startswith(f'{{"id":"{ID}","name":"clé","prefix":""')
    assert '"scopes":["a","b"]' in response.text


@pytest.mark.parametrize(
    ("headers", "content"),
    [
        ({"content-type": "application/json"}, b"{}"),
        ({"content-type": "Application/JSON; charset=utf-8"}, b"{}"),
        ({"content-type": 'application/json;charset="UTF-8"'}, b"{}"),
        ({"content-type": "application/json"}, b""),
        ({}, b""),
        ({"content-type": "application/x-www-form-urlencoded"}, b""),
        ({"content-type": "application/json"}, b" " * (MAX_BODY_BYTES - 2) + b"{}"),
    ],
)
async def test_bodies_that_are_taken(headers: dict[str, str], content: bytes) -> None:
    service = Recording()
    response = await ask(service, "POST", KEYS, headers=headers, content=content)
    assert response.status_code == 200
    assert service.requests == [keys_pb2.CreateKeyRequest()]


async def test_documents_are_for_everybody() -> None:
    service = Recording(refuse=DENIED)
    response = await ask(service, "GET", "/authz/v1/openapi.json")
    assert (response.status_code, response.content) == (200, DOCUMENT)
    assert response.headers["content-type"] == "application/json"
    refused = await ask(service, "POST", "/authz/v1/openapi.json")
    assert error_of(refused) == (405, "method_not_allowed", None)
    assert refused.headers["allow"] == "GET, HEAD"
    assert service.calls == []


# --- paths and verbs


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/authz/v1",
        "/authz/v1/keys/",
        "/authz/v1//keys",
        "//authz/v1/keys",
        "/AUTHZ/v1/keys",
        "/authz/v1/%6beys",
        "/authz/v1/keys%2Fx",
        "/authz%2Fv1/keys",
        "/authz/v1/keys/a/b",
        "/authz/v1/keys/a%2Fb",
        "/authz/v1/keys/a%2fb",
        "/authz/v1/keys/a%5Cb",
        "/authz/v1/keys/.",
        "/authz/v1/keys/..",
        "/authz/v1/keys/%2e%2e",
        "/authz/v1/keys/.%2E",
        "/authz/v1/keys/../keys",
        "/authz/v1/x/../keys",
        "/authz/v1/keys/a%3Arotate",
        "/authz/v1/keys/a%3arevoke",
        "/authz/v1/keys/a:unknown",
        "/authz/v1/keys/x:rotate:revoke",
        "/authz/v1/keys/:rotate",
        "/authz/v1/keys/a:",
        "/authz/v1/keys/a:ROTATE",
        "/authz/v1/keys/a:rotate/",
        "/authz/v1/keys/a/:rotate",
        "/authz/v1/keys/..:rotate",
        "/authz/v1/keys/%2e%2e:revoke",
        "/authz/v1/keys:revokeall",
        "/authz/v1/keys%3ArevokeAll",
        "/authz/v1/keys:",
        "/authz/v1/keys/a%00",
        "/authz/v1/keys/a%0A",
        "/authz/v1/keys/%FF",
        "/authz/v1/keys/%",
        "/authz/v1/keys/{id}/x",
        "/authz/v1/keys;x=1",
        "/authz/v1/openapi.json/",
    ],
)
@pytest.mark.parametrize("verb", ["GET", "POST"])
async def test_other_paths_are_not_found(verb: str, path: str) -> None:
    """However they are spelled; nobody is asked who calls."""
    service = Recording()
    assert await bare(application(service), verb, path) == 404
    assert service.calls == []


@pytest.mark.parametrize(
    ("verb", "path", "allow"),
    [
        ("DELETE", KEYS, "GET, HEAD, POST"),
        ("OPTIONS", KEYS, "GET, HEAD, POST"),
        ("TRACE", KEYS, "GET, HEAD, POST"),
        ("BREW", KEYS, "GET, HEAD, POST"),
        ("get", KEYS, "GET, HEAD, POST"),
        ("PUT", f"{KEYS}/{ID}", "GET, HEAD, PATCH"),
        ("GET", f"{KEYS}/{ID}:rotate", "POST"),
        ("OPTIONS", f"{KEYS}:revokeAll", "POST"),
        ("POST", "/authz/v1/events", "GET, HEAD"),
    ],
)
async def test_other_verbs_are_told_what_is_allowed(verb: str, path: str, allow: str) -> None:
    service = Recording()
    async with client(service) as http:
        request = http.build_request(verb, path)
        request.method = verb
        response = await http.send(request)
    assert error_of(response) == (405, "method_not_allowed", None)
    assert response.headers["allow"] == allow
    assert service.calls == []


# --- refusals


async def test_the_caller_is_asked_for_before_anything_is_read() -> None:
    """Even where all else is wrong with the call; the refusal keeps its headers, but none that breaks the answer."""
    service = Recording(refuse=DENIED)
    body: dict[str, Any] = {"headers": {"content-type": "text/plain"}, "content": b"x" * (MAX_BODY_BYTES + 1)}

    response = await ask(service, "POST", f"{KEYS}?nothing=1&nothing=1", **body)

    assert error_of(response) == (401, "invalid_api_key", None)
    assert response.headers["www-authenticate"] == "Bearer"
    assert "x-note" not in response.headers
    assert service.requests == []


@pytest.mark.parametrize(
    ("verb", "path", "content", "field"),
    [
        pytest.param("POST", KEYS, b"{", None, id="no JSON"),
        pytest.param("POST", KEYS, b"[]", None, id="an array"),
        pytest.param("POST", KEYS, b"null", None, id="null"),
        pytest.param("POST", KEYS, b'"x"', None, id="a text"),
        pytest.param("POST", KEYS, b"\xff", None, id="no UTF-8"),
        pytest.param("POST", KEYS, b'{"limits":' * 30 + b"1" + b"}" * 30, None, id="deep"),
        pytest.param("POST", KEYS, b"[" * MAX_BODY_BYTES, None, id="very deep"),
        pytest.param("POST", KEYS, b'{"name":5}', "name", id="wrong type"),
        pytest.param("POST", KEYS, b'{"name":"a","name":"b"}', "name", id="twice"),
        pytest.param("POST", KEYS, b'{"title":"a"}', "title", id="unknown"),
        pytest.param("POST", KEYS, b'{"expiresIn":"1d"}', "expiresIn", id="camelCase"),
        pytest.param("POST", KEYS, b'{"limits":{"requests":60}}', "limits.requests", id="in a map"),
        pytest.param("POST", f"{KEYS}?name=a", b"{}", "name", id="query, with a whole body"),
        pytest.param("POST", f"{KEYS}?x=a", b"{}", "x", id="unknown query"),
        pytest.param("GET", f"{KEYS}?page_size=5&page_size=5", b"", "page_size", id="query, twice"),
        pytest.param("GET", f"{KEYS}?page_size=x", b"", "page_size", id="query, wrong type"),
        pytest.param("GET", f"{KEYS}?page_size=4294967296", b"", "page_size", id="query, out of range"),
        pytest.param("GET", f"{KEYS}/a?id=b", b"", "id", id="query, variable"),
        pytest.param("GET", f"{KEYS}/a?show_token=1", b"", "show_token", id="query, bool"),
        pytest.param("GET", KEYS, b"{}", None, id="a body where there is none"),
        pytest.param("PATCH", f"{KEYS}/a?key.name=b", b"{}", "key.name", id="query, of the body"),
        pytest.param("PATCH", f"{KEYS}/a?update_mask=expiresAt", b"{}", "update_mask", id="mask in camelCase"),
        pytest.param("PATCH", f"{KEYS}/a", b'{"id":"b"}', "key.id", id="other id, in the body's field"),
        pytest.param("PATCH", f"{KEYS}/a", b'{"id":5}', "key.id", id="other type of id"),
        pytest.param("PATCH", f"{KEYS}/a", b"[]", "key", id="body's field an array"),
        pytest.param("PATCH", f"{KEYS}/a", b'{"expires_at":"soon"}', "key.expires_at", id="within the body's field"),
        pytest.param("PATCH", f"{KEYS}/a", b'{"key":{"name":"x"}}', "key.key", id="body's field twice"),
        pytest.param("POST", f"{KEYS}/a:rotate", b'{"id":"b"}', "id", id="other id"),
    ],
)
@pytest.mark.parametrize("style", ["openai", "problem"])
async def test_bad_requests_name_the_field(verb: str, path: str, content: bytes, field: str | None, style: str) -> None:
    """In the configured format, and without a word of what was sent."""
    service = Recording()
    async with client(service, style=style) as http:
        response = await http.request(verb, path, content=content, headers={"content-type": "application/json"})

    assert response.status_code == 400
    assert response.headers["content-type"] == FORMATS[style].content_type
    error = response.json()["error"]
    assert (error["code"], error["param"]) == ("bad_request", field)
    assert error["message"].startswith(f"The request is not acceptable: {field or 'it'} ")
    assert len(service.calls) == 1
    assert service.requests == []


@pytest.mark.parametrize(
    "content_type",
    ["", "text/plain", "application/json; charset=latin-1", "application/jsonx", "application/json, application/json"],
)
async def test_another_content_type_is_refused(content_type: str) -> None:
    service = Recording()
    response = await ask(service, "POST", KEYS, headers={"content-type": content_type}, content=b'{"name":"x"}')
    assert error_of(response) == (400, "bad_request", None)
    assert (
        response.json()["error"]["message"]
        == "The request is not acceptable: its content type must be application/json."
    )


async def test_no_more_is_read_than_the_limit() -> None:
    """Of a body without a declared length, too: what follows is not asked for."""
    service, sent = Recording(), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while sent < 100:
            sent += 1
            yield b" " * 8192

    response = await ask(service, "POST", KEYS, headers={"content-type": "application/json"}, content=endless())

    assert error_of(response) == (400, "bad_request", None)
    assert sent == MAX_BODY_BYTES // 8192 + 1


async def test_a_refusal_of_the_method_is_told() -> None:
    limits = (("retry-after", "7"), ("x-ratelimit-limit", "5"), ("x-bad", "a\r\nb"))
    service = Recording(fail=RpcError(Problem(429, "rate_limited", "Wait.", field="password"), limits))
    response = await ask(service, "POST", "/authz/v1/login")
    assert error_of(response) == (429, "rate_limit_exceeded", "password")
    assert (response.headers["retry-after"], response.headers["x-ratelimit-limit"]) == ("7", "5")
    assert "x-bad" not in response.headers


@pytest.mark.parametrize(
    "service",
    [
        pytest.param(Recording(refuse=ZeroDivisionError("PLANTED")), id="authorize"),
        pytest.param(Recording(fail=ZeroDivisionError("PLANTED")), id="handle"),
        pytest.param(
            Recording(answers={"ListKeys": keys_pb2.Event(before={"x": float("nan")})}), id="an answer that is no JSON"
        ),
    ],
)
async def test_an_unexpected_error_says_nothing(service: Recording, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged, without the request; the caller is told to try again."""
    with caplog.at_level(logging.ERROR):
        response = await ask(service, "GET", f"{KEYS}?filter=SECRET", headers={"authorization": "Bearer SECRET"})

    assert error_of(response) == (503, "internal_error", None)
    assert response.headers["retry-after"] == "1"
    assert "PLANTED" not in response.text
    assert [record.name for record in caplog.records] == ["authz.adapters.http.rest"]
    assert "SECRET" not in caplog.text


@pytest.mark.parametrize(
    ("style", "status", "content"),
    [
        ("vinfer", 413, '{"error":{"code":"body_too_large","message":"Too large.","details":{"field":"key"}}}'),
        ("inferno", 400, '{"error":{"code":"VALIDATION_ERROR","message":"Too large.","details":{"field":"key"}}}'),
        ("voiceinfra", 413, '{"error":{"code":"body_too_large","message":"Too large."}}'),
    ],
)
async def test_the_status_is_the_formats(style: str, status: int, content: str) -> None:
    service = Recording(fail=RpcError(Problem(413, "body_too_large", "Too large.", field="key")))
    async with client(service, style=style) as http:
        response = await http.post("/authz/v1/login")
    assert (response.status_code, response.text) == (status, content)


async def test_the_format_follows_a_reload() -> None:
    style = ["openai"]
    transport = httpx.ASGITransport(build([Recording()], lambda: FORMATS[style[0]], documents={}))
    async with httpx.AsyncClient(transport=transport, base_url="http://authz") as http:
        before = await http.get("/")
        style[0] = "problem"
        after = await http.get("/")
    assert before.headers["content-type"] == "application/json"
    assert after.headers["content-type"] == "application/problem+json"
    assert after.json()["reason"] == "not_found"


# --- over a socket


@asynccontextmanager
async def serving(service: Recording, address: str) -> AsyncIterator[socket.socket]:
    listener = bind(address)
    server = HttpServer(application(service), listener)
    task = asyncio.create_task(server.run_until_stopped())
    try:
        yield listener
    finally:
        server.stop()
        await task


async def raw(listener: socket.socket, sent: bytes) -> bytes:
    """What is answered to these bytes: headers, and what stands behind them by then."""
    if listener.family == socket.AF_UNIX:
        reader, writer = await asyncio.open_unix_connection(listener.getsockname())
    else:
        reader, writer = await asyncio.open_connection(*listener.getsockname()[:2])
    writer.write(sent)
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
    if b"connection: close" in sent:
        answer += await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


def head(verb: str, target: str, *more: str) -> bytes:
    return "\r\n".join([f"{verb} {target} HTTP/1.1", "host: authz", *more, "", ""]).encode()


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        pytest.param(head("GET", KEYS), 200, id="GET"),
        pytest.param(head("GET", f"{KEYS}/%2F"), 404, id="an encoded slash"),
        pytest.param(head("GET", f"{KEYS}/.."), 404, id="dots"),
        pytest.param(head("GET", f"http://authz{KEYS}"), 404, id="absolute form"),
        pytest.param(head("OPTIONS", "*"), 404, id="asterisk form"),
        pytest.param(head("GET", f"{KEYS}#fragment"), 404, id="fragment"),
        pytest.param(head("POST", KEYS, "content-type: application/json", "content-length: 2") + b"{}", 200, id="body"),
        pytest.param(
            head("POST", KEYS, "content-type: application/json", "transfer-encoding: chunked")
            + b"1\r\n{\r\n1\r\n}\r\n0\r\n\r\n",
            200,
            id="chunked",
        ),
        pytest.param(
            head("POST", KEYS, "content-type: application/json", "transfer-encoding: chunked")
            + (b"4000\r\n" + b" " * 0x4000 + b"\r\n") * 8,
            400,
            id="chunked, endless",
        ),
        pytest.param(
            head("POST", KEYS, "content-type: application/json", "content-length: 1000000000") + b" " * 70_000,
            400,
            id="too large",
        ),
        pytest.param(
            head("POST", KEYS, "content-type: application/json", "content-type: text/plain", "content-length: 2")
            + b"{}",
            400,
            id="two content types",
        ),
    ],
)
async def test_what_is_sent_over_a_socket(sent: bytes, status: int) -> None:
    service = Recording()
    async with serving(service, "127.0.0.1:0") as listener:
        answer = await raw(listener, sent)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    assert [call.peer for call in service.calls] == ["127.0.0.1"] * len(service.calls)


async def test_head_is_answered_where_get_is() -> None:
    """With the headers of GET, its length too, and no body."""
    service = Recording(answers={"GetKey": keys_pb2.Key(id=ID)})
    async with serving(service, "127.0.0.1:0") as listener:
        got = await raw(listener, head("GET", f"{KEYS}/{ID}", CLOSE))
        headed = await raw(listener, head("HEAD", f"{KEYS}/{ID}", CLOSE))
        refused = await raw(listener, head("HEAD", "/nothing", CLOSE))
        document = await raw(listener, head("HEAD", "/authz/v1/openapi.json", CLOSE))
    length = len(got.partition(b"\r\n\r\n")[2])
    assert f"content-length: {length}\r\n".encode() in headed
    for answer, status in ((headed, 200), (refused, 404), (document, 200)):
        assert answer.startswith(f"HTTP/1.1 {status} ".encode())
        assert answer.endswith(b"\r\n\r\n")
    assert [call.method for call in service.calls] == ["GetKey", "GetKey"]


async def test_a_unix_socket_has_no_peer(tmp_path: Path) -> None:
    service = Recording()
    async with serving(service, f"unix:{tmp_path}/s") as listener:
        answer = await raw(listener, head("GET", KEYS))
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert [call.peer for call in service.calls] == [""]


async def test_a_client_that_leaves_is_no_error(caplog: pytest.LogCaptureFixture) -> None:
    """Its body never came whole: nothing is done and nothing logged."""
    service = Recording()
    async with serving(service, "127.0.0.1:0") as listener:
        _, writer = await asyncio.open_connection(*listener.getsockname())
        writer.write(head("POST", KEYS, "content-type: application/json", "content-length: 10") + b"{")
        await writer.drain()
        while not service.calls:  # noqa: ASYNC110 - as in any test, the service has no event for it
            await asyncio.sleep(0.01)
        writer.close()
        await asyncio.sleep(0.1)
    assert service.requests == []
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


# --- the client's half


@pytest.mark.parametrize(
    ("method", "values", "expected"),
    [
        ("CreateKey", {"name": "é"}, ("POST", KEYS, '{"name":"é"}'.encode())),
        ("CreateKey", {}, ("POST", KEYS, b"{}")),
        ("ListKeys", {}, ("GET", KEYS, None)),
        (
            "ListKeys",
            {"page_size": 5, "filter": 'a = "b&c"'},
            ("GET", f"{KEYS}?page_size=5&filter=a+%3D+%22b%26c%22", None),
        ),
        ("GetKey", {"id": "a b%", "show_token": True}, ("GET", f"{KEYS}/a%20b%25?show_token=true", None)),
        ("UpdateKey", {"key": {"id": ID}}, ("PATCH", f"{KEYS}/{ID}", b"{}")),
        (
            "UpdateKey",
            {"key": {"id": ID, "name": "x"}, "update_mask": "name,expires_at"},
            ("PATCH", f"{KEYS}/{ID}?update_mask=name%2Cexpires_at", b'{"name":"x"}'),
        ),
        ("RotateKey", {"id": ID, "grace": "1h"}, ("POST", f"{KEYS}/{ID}:rotate", b'{"grace":"1h"}')),
        ("RevokeAllKeys", {"dry_run": False}, ("POST", f"{KEYS}:revokeAll", b'{"dry_run":false}')),
    ],
)
def test_a_message_becomes_a_call(
    method: str, values: dict[str, object], expected: tuple[str, str, bytes | None]
) -> None:
    before = json.dumps(values)
    assert binding(KEY_SERVICE, method).expand(values) == expected
    assert json.dumps(values) == before


@pytest.mark.parametrize("value", ["", ".", "..", "a/b", "a:rotate", "a\\b", "a\n", None, [], True])
def test_what_no_path_can_hold_is_refused(value: object) -> None:
    """Clients resolve dots, and a slash or colon would name another method."""
    with pytest.raises(FieldError) as caught:
        binding(KEY_SERVICE, "UpdateKey").expand({"key": {"id": value}})
    assert caught.value.field == "key.id"


_SEGMENTS = st.text(min_size=1, max_size=20).filter(
    lambda text: text not in {".", ".."} and not any(char in "/:\\\x7f" or char < " " for char in text)
)
_TEXT = st.text(max_size=10)
_TIME = st.sampled_from(["2026-05-20T10:00:00Z", "2026-05-20T12:00:00+02:00"])
_VALUES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "CreateKey": {
        "name": _TEXT,
        "scopes": st.lists(_TEXT, max_size=3),
        "limits": st.dictionaries(_TEXT, _TEXT, max_size=2),
    },
    "ListKeys": {"page_size": st.integers(-(2**31), 2**31 - 1), "page_token": _TEXT, "filter": _TEXT},
    "GetKey": {"id": _SEGMENTS, "show_token": st.booleans()},
    "UpdateKey": {
        "key": st.fixed_dictionaries(
            {"id": _SEGMENTS}, optional={"name": _TEXT, "scopes": st.lists(_TEXT, max_size=3)}
        ),
        "update_mask": st.sampled_from(["", "name", "name,expires_at"]),
    },
    "RotateKey": {"id": _SEGMENTS, "grace": _TEXT},
    "RevokeKey": {"id": _SEGMENTS, "reason": _TEXT},
    "RevokeAllKeys": {"subject": _TEXT, "dry_run": st.booleans(), "issued_before": st.none()},
    "GetKeyUsage": {"id": _SEGMENTS, "start_time": _TIME, "end_time": _TIME},
    "GetUsage": {"group_by": st.lists(_TEXT, max_size=3), "start_time": _TIME, "filter": _TEXT},
    "ListEvents": {"filter": _TEXT},
    "Login": {"username": _TEXT, "password": _TEXT},
}


def test_every_method_is_tried() -> None:
    assert set(_VALUES) == set(KEY_SERVICE.methods_by_name)


@pytest.mark.parametrize("method", _VALUES)
@given(data=st.data())
def test_the_router_reads_what_the_client_writes(method: str, data: st.DataObject) -> None:
    """Expand, then route: gives the message that went in, for every method."""
    values = data.draw(st.fixed_dictionaries({}, optional=_VALUES[method]).map(dict))
    for name in ("id", "key"):
        if name in _VALUES[method] and name not in values:
            values[name] = data.draw(_VALUES[method][name])
    verb, path, body = binding(KEY_SERVICE, method).expand(values)
    service = Recording()
    request = httpx.Request(verb, "http://authz/", content=body, headers={"content-type": "application/json"})
    request.url = request.url.copy_with(raw_path=path.encode())

    async def send() -> httpx.Response:
        async with client(service) as http:
            return await http.send(request)

    response = asyncio.run(send())
    assert response.status_code == 200, response.text
    [call], [message] = service.calls, service.requests
    assert call.method == method
    if method == "UpdateKey" and not values.get("update_mask"):  # what a body names is what it changes
        del message.update_mask.paths[:]
        message.ClearField("update_mask")
        values.pop("update_mask", None)
    assert message == parse(values, type(message))


# --- other annotations


def _service(name: str, *rules: http_pb2.HttpRule, streams: bool = False) -> Any:
    """A service of one method for each rule, on a request with a number, a text and a message within."""
    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name=f"tests/{name}.proto", package=f"tests.{name}", syntax="proto3")
    request = file.message_type.add(name="Request")
    request.field.add(name="number", number=1, type=kinds.TYPE_INT32, label=kinds.LABEL_OPTIONAL)
    request.field.add(name="text", number=2, type=kinds.TYPE_STRING, label=kinds.LABEL_OPTIONAL)
    request.field.add(
        name="inner", number=3, type=kinds.TYPE_MESSAGE, label=kinds.LABEL_OPTIONAL, type_name=f".tests.{name}.Request"
    )
    service = file.service.add(name="Service")
    for index, rule in enumerate(rules):
        type_name = f".tests.{name}.Request"
        method = service.method.add(name=f"M{index}", input_type=type_name, output_type=type_name)
        method.server_streaming = streams
        method.options.Extensions[annotations_pb2.http].CopyFrom(rule)
    service.method.add(name="Plain", input_type=f".tests.{name}.Request", output_type=f".tests.{name}.Request")
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return pool.FindServiceByName(f"tests.{name}.Service")


RULES = _service(
    "rules",
    http_pb2.HttpRule(
        delete="/v1/{number}", additional_bindings=[http_pb2.HttpRule(put="/v2/{text}/of/{number}", body="*")]
    ),
    http_pb2.HttpRule(get="/v1/a/{inner.text}/{inner.inner.number}.json"),
    http_pb2.HttpRule(post="/v1/b", body="inner"),
)


@pytest.mark.parametrize(
    ("verb", "path", "body", "message"),
    [
        ("DELETE", "/v1/-5", None, {"number": -5}),
        ("DELETE", "/v1/5?text=x&inner.text=y", None, {"number": 5, "text": "x", "inner": {"text": "y"}}),
        ("PUT", "/v2/x/of/5", {"number": 5, "inner": {}}, {"text": "x", "number": 5, "inner": {}}),
        ("GET", "/v1/a/x/5.json?inner.number=7", None, {"inner": {"text": "x", "number": 7, "inner": {"number": 5}}}),
        ("POST", "/v1/b?number=3&text=", {"text": "y"}, {"number": 3, "inner": {"text": "y"}}),
    ],
)
async def test_other_annotations_are_served(verb: str, path: str, body: object, message: dict[str, object]) -> None:
    service = Recording(RULES)
    response = await ask(service, verb, path, json=body) if body else await ask(service, verb, path)
    assert response.status_code == 200, response.text
    [request] = service.requests
    assert request == parse(message, type(request))


@pytest.mark.parametrize(
    ("verb", "path", "body", "field"),
    [
        ("DELETE", "/v1/x", None, "number"),
        ("DELETE", "/v1/1.5", None, "number"),
        ("PUT", "/v2/x/of/5", {"number": 6}, "number"),
        ("PUT", "/v2/x/of/5", {"text": {"a": 1}}, "text"),
        ("GET", "/v1/a/x/5.json?inner.text=y", None, "inner.text"),
        ("POST", "/v1/b?inner.text=3", {}, "inner.text"),
    ],
)
async def test_variables_are_typed_and_stand_once(verb: str, path: str, body: object, field: str) -> None:
    response = await ask(Recording(RULES), verb, path, json=body) if body else await ask(Recording(RULES), verb, path)
    assert error_of(response) == (400, "bad_request", field)


@pytest.mark.parametrize(
    ("name", "rule"),
    [
        ("wildcard", http_pb2.HttpRule(get="/v1/{text=**}")),
        ("star", http_pb2.HttpRule(get="/v1/*")),
        ("relative", http_pb2.HttpRule(get="v1")),
        ("open", http_pb2.HttpRule(get="/v1/{text")),
        ("custom", http_pb2.HttpRule(custom=http_pb2.CustomHttpPattern(kind="BREW", path="/v1"))),
        ("part", http_pb2.HttpRule(get="/v1", response_body="text")),
        ("empty", http_pb2.HttpRule()),
    ],
)
def test_annotations_that_are_not_served_are_told_at_the_start(name: str, rule: http_pb2.HttpRule) -> None:
    with pytest.raises(ValueError, match="not"):
        application(Recording(_service(name, rule)))


def test_contradicting_paths_are_told_at_the_start() -> None:
    rules = http_pb2.HttpRule(get="/v1/{text}"), http_pb2.HttpRule(get="/v1/{number}")
    with pytest.raises(ValueError, match="same path"):
        application(Recording(_service("contradicting", *rules)))


def test_streams_are_told_at_the_start() -> None:
    with pytest.raises(ValueError, match="streams"):
        application(Recording(_service("streams", http_pb2.HttpRule(get="/v1"), streams=True)))


def test_the_first_binding_is_the_clients() -> None:
    assert binding(RULES, "M0") == Binding("DELETE", "/v1/{number}")
    assert binding(KEY_SERVICE, "UpdateKey") == Binding("PATCH", "/authz/v1/keys/{key.id}", "key")
    with pytest.raises(ValueError, match="Plain is not served over HTTP"):
        binding(RULES, "Plain")
    with pytest.raises(KeyError):
        binding(KEY_SERVICE, "Nothing")
