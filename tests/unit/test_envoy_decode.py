"""From Envoy's CheckRequest to our request: every shape that Envoy sends, and what is none."""

import contextlib
import dataclasses
from typing import Any

import pytest
from envoy.service.auth.v3 import external_auth_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.adapters.envoy.codec import NotACheckError, decode
from authz.core.request import PlainRequest, Request, request_id
from tests.support.envoy import check_request


def decoded(request: Any) -> Request:
    return decode(request.SerializeToString())


def shown(request: Request) -> PlainRequest:
    """With all that is read of it when it is asked for."""
    fields = {field.name: getattr(request, field.name) for field in dataclasses.fields(PlainRequest)}
    return PlainRequest(**{**fields, "headers": dict(request.headers), "context": dict(request.context)})


def raw(*headers: tuple[str, str, bytes]) -> Any:
    """As Envoy sends with `encode_raw_headers`: (name, value, raw value) of each header apart."""
    request = check_request()
    for key, value, raw_value in headers:
        request.attributes.request.http.header_map.headers.add(key=key, value=value, raw_value=raw_value)
    return request


def test_a_request_as_envoy_sends_it() -> None:
    """Method, path, query, headers, peer and the route's extensions all arrive."""
    request = check_request("POST", "/v1/chat?stream=1&n=2", authorization="Bearer k", x_request_id="r-1")
    request.attributes.source.address.socket_address.address = "192.0.2.7"
    request.attributes.context_extensions["authz.scopes"] = "admin"

    assert shown(decoded(request)) == PlainRequest(
        method="POST",
        path="/v1/chat",
        query="stream=1&n=2",
        headers={"authorization": "Bearer k", "x-request-id": "r-1"},
        client_address="192.0.2.7",
        context={"authz.scopes": "admin"},
    )
    assert request_id(decoded(request)) == "r-1"


@pytest.mark.parametrize(
    ("path", "apart", "expected"),
    [
        pytest.param("/a", "", ("/a", ""), id="no query"),
        pytest.param("/a?x=1", "", ("/a", "x=1"), id="query in the path"),
        pytest.param("/a", "x=1", ("/a", "x=1"), id="query apart"),
        pytest.param("/a?", "", ("/a", ""), id="question mark alone"),
        pytest.param("/a?x=1?y=2", "", ("/a", "x=1?y=2"), id="two question marks"),
        pytest.param("/a#part", "", ("/a", ""), id="fragment"),
        pytest.param("/a#part?x=1", "", ("/a", "x=1"), id="fragment before the query"),
        pytest.param("/a%3Fx=1%23b", "", ("/a%3Fx=1%23b", ""), id="escaped: part of the path"),
        pytest.param("/a//b/../c;d", "", ("/a//b/../c;d", ""), id="nothing is normalised"),
        pytest.param("*", "", ("*", ""), id="OPTIONS *"),
        pytest.param("", "", ("", ""), id="no path"),
        pytest.param("/é", "", ("/é", ""), id="beyond ASCII"),
    ],
)
def test_path_and_query(path: str, apart: str, expected: tuple[str, str]) -> None:
    """The query is parted from the path, wherever Envoy puts it; a fragment is no part of the path."""
    request = decoded(check_request(path=path, query=apart))

    assert (request.path, request.query) == expected


@pytest.mark.parametrize(
    ("request_", "expected"),
    [
        pytest.param(check_request(), {}, id="none"),
        pytest.param(
            check_request(Authorization="k", X_API_KEY="l"), {"authorization": "k", "x-api-key": "l"}, id="case"
        ),
        pytest.param(raw(("a", "", b"1"), ("b", "", b"2")), {"a": "1", "b": "2"}, id="raw"),
        pytest.param(raw(("a", "1", b"")), {"a": "1"}, id="header_map with plain values"),
        pytest.param(raw(("a", "1", b"2")), {"a": "2"}, id="the raw value counts"),
        pytest.param(raw(("a", "", b"")), {"a": ""}, id="empty"),
        pytest.param(raw(("a", "", b"1"), ("b", "", b"2"), ("A", "", b"3")), {"a": "1,3", "b": "2"}, id="repeated"),
        pytest.param(raw(("a", "", b"1"), ("a", "", b"1")), {"a": "1,1"}, id="repeated, the same"),
        pytest.param(raw(("a", "", b""), ("a", "", b"1")), {"a": ",1"}, id="repeated, one empty"),
        pytest.param(raw(("a", "", b"\xff\xfe")), {"a": "\ufffd\ufffd"}, id="not UTF-8: never a key"),
        pytest.param(
            raw(("a", "", b"x\r\ny: 1\x00")), {"a": "x\r\ny: 1\x00"}, id="control characters are left to the core"
        ),
    ],
)
def test_headers(request_: Any, expected: dict[str, str]) -> None:
    """Names in lower case; repeated headers joined by commas, so that two keys in one header are told."""
    assert decoded(request_).headers == expected


def test_the_header_map_replaces_the_headers() -> None:
    """Envoy fills one of the two; where both are there, the one that hides no repetition counts."""
    request = raw(("authorization", "", b"Bearer raw"))
    request.attributes.request.http.headers["authorization"] = "Bearer plain"

    assert decoded(request).headers == {"authorization": "Bearer raw"}


def test_a_peer_on_a_unix_socket_has_no_address() -> None:
    """An address of another kind is no client address."""
    request = check_request()
    request.attributes.source.address.pipe.path = "/run/envoy.sock"

    assert decoded(request).client_address == ""


@pytest.mark.parametrize(
    ("raw_body", "body", "expected"),
    [
        pytest.param(b"\xff\x00{}", "", b"\xff\x00{}", id="bytes, as they are"),
        pytest.param(b"", "{é}", "{é}".encode(), id="text"),
        pytest.param(b"", "", b"", id="none"),
    ],
)
def test_the_body(raw_body: bytes, body: str, expected: bytes) -> None:
    """`pack_as_bytes` decides where Envoy puts it."""
    request = check_request("POST")
    request.attributes.request.http.raw_body, request.attributes.request.http.body = raw_body, body

    assert decoded(request).body == expected
    assert not decoded(request).is_cut_off


@pytest.mark.parametrize(("told", "expected"), [("true", True), ("false", False)])
def test_a_body_that_is_cut_off(told: str, *, expected: bool) -> None:
    assert decoded(check_request("POST", x_envoy_auth_partial_body=told)).is_cut_off is expected
    named = raw(("x-envoy-auth-partial-body", "", told.encode()))
    assert decoded(named).is_cut_off is expected


def test_no_header_is_an_extension_of_the_route() -> None:
    """Only Envoy's own configuration says at which stage a check is."""
    request = raw(("authz.stage", "", b"body"), ("x-authz-stage", "", b"body"))
    request.attributes.request.http.headers["authz.stage"] = "body"

    assert decoded(request).context == {}


def without_http() -> bytes:
    request: Any = external_auth_pb2.CheckRequest()
    request.attributes.source.address.socket_address.address = "192.0.2.7"
    message: bytes = request.SerializeToString()
    return message


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(without_http(), id="no http: a TCP check"),
        pytest.param(check_request(method="").SerializeToString(), id="no method"),
        pytest.param(b"\xff" * 40, id="garbage"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="text"),
        pytest.param(check_request(path="/v1/" + "x" * 300).SerializeToString()[:-1], id="cut short"),
        pytest.param(b"\x0a\xff\xff\xff\xff\x0f", id="a length beyond the message"),
        pytest.param(b"\x0b" * 10_000, id="groups in groups"),
        pytest.param(
            check_request(path="/abcdef").SerializeToString().replace(b"/abcdef", b"/abc\xff\xfef"),
            id="a path that is not UTF-8",
        ),
    ],
)
def test_what_is_no_check_is_told_as_such(message: bytes) -> None:
    """Whatever does not describe an HTTP request raises the one exception that the door expects."""
    with pytest.raises(NotACheckError):
        decode(message)


@settings(deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(message: bytes) -> None:
    """Arbitrary bytes are a request or NotACheckError."""
    with contextlib.suppress(NotACheckError):
        assert decode(message).method


@settings(deadline=None)
@given(st.data())
def test_no_damaged_message_raises_anything_else(data: st.DataObject) -> None:
    """The same for a real message with a few bytes changed, which gets further."""
    damaged = bytearray(check_request("POST", "/v1/chat?x=1", authorization="Bearer k").SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(NotACheckError):
        assert decode(bytes(damaged)).method


@settings(deadline=None)
@given(st.text(max_size=30), st.dictionaries(st.text(max_size=10), st.text(max_size=30)))
def test_no_text_is_lost(path: str, headers: dict[str, str]) -> None:
    """Every text that a message can carry arrives, whatever its characters."""
    request = check_request(path=path)
    for name, value in headers.items():
        request.attributes.request.http.headers[name] = value
    got = decoded(request)

    assert set(got.headers) == {name.lower() for name in headers}
    assert all(value in got.headers[name.lower()] for name, value in headers.items())
    assert path.startswith(got.path)
