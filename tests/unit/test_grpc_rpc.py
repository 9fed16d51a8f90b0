"""Services of messages over gRPC: a real server and a real client on a loopback port."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import descriptor_pb2
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from authz.adapters.grpc import server
from authz.adapters.grpc.rpc import STATUS, joined, peer_host
from authz.adapters.rpc import RpcError
from authz.core.problems import FORMATS, Problem
from authz.demo.processes import free_port
from authz.pb.authz.admin.v1 import keys_pb2
from tests.support.rpc import Recording


SERVICE = "authz.admin.v1.KeyService"
UNARY = "tests.Bytes"
messages: Any = reflection_pb2
stubs: Any = reflection_pb2_grpc


async def echo(message: bytes) -> bytes:
    return message


@asynccontextmanager
async def serving(service: Recording, address: str) -> AsyncIterator[aio.Channel]:
    health = server.Health((UNARY,))
    built = server.build(address, {UNARY: {"Echo": echo}}, health, rpc=(service,))
    await health.set(serving=True)
    await built.start()
    try:
        async with aio.insecure_channel(address) as channel:
            yield channel
    finally:
        await built.stop(None)


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/grpc"


async def call(
    channel: aio.Channel, method: str, message: bytes = b"", metadata: Sequence[tuple[str, Any]] = ()
) -> bytes:
    asked: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    answer: bytes = await asked(message, metadata=metadata, timeout=10)
    return answer


async def refusal(
    service: Recording, address: str, method: str = "GetKey", message: bytes = b""
) -> tuple[grpc.StatusCode, str, dict[str, str]]:
    async with serving(service, address) as channel:
        with pytest.raises(aio.AioRpcError) as caught:
            await call(channel, method, message)
    trailers = {name: str(value) for name, value in caught.value.trailing_metadata()}
    return caught.value.code(), caught.value.details() or "", trailers


async def test_a_call_reaches_its_method(address: str) -> None:
    """Message in, message out, and the metadata as headers; binary metadata is left out, a Unix socket has no peer."""
    service = Recording(answers={"GetKey": keys_pb2.Key(id="key_1", name="ci")})
    metadata = [("authorization", "Bearer PLANTED"), ("x-twice", "a"), ("x-twice", "b"), ("x-raw-bin", b"\x00")]

    async with serving(service, address) as channel:
        answer = await call(channel, "GetKey", keys_pb2.GetKeyRequest(id="key_1").SerializeToString(), metadata)

    assert keys_pb2.Key.FromString(answer) == keys_pb2.Key(id="key_1", name="ci")
    [made], [request] = service.calls, service.requests
    assert (made.method, made.peer, made.query) == ("GetKey", "", "")
    assert request == keys_pb2.GetKeyRequest(id="key_1")
    assert made.headers["authorization"] == "Bearer PLANTED"
    assert made.headers["x-twice"] == "a,b"
    assert "x-raw-bin" not in made.headers
    assert "PLANTED" not in repr(made)


async def test_what_is_left_of_a_limit_is_for_rest_alone(address: str) -> None:
    async with serving(Recording(shows=(("x-ratelimit-limit", "60"),)), address) as channel:
        asked: Any = channel.unary_unary(f"/{SERVICE}/ListKeys")
        calling = asked(b"", timeout=10)
        await calling
        told = [*await calling.initial_metadata(), *await calling.trailing_metadata()]
    assert "x-ratelimit-limit" not in {name for name, _ in told}


async def test_the_peer_is_the_address_of_the_client() -> None:
    service = Recording()
    async with serving(service, f"127.0.0.1:{free_port()}") as channel:
        await call(channel, "ListKeys")
    assert [made.peer for made in service.calls] == ["127.0.0.1"]


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:127.0.0.1:1234", "127.0.0.1"),
        ("ipv6:[::1]:1234", "::1"),
        ("ipv6:%5B::1%5D:1234", "::1"),
        ("ipv6:%5Bfe80::1%25eth0%5D:1234", "fe80::1%eth0"),
        ("unix:", ""),
        ("unix:/tmp/socket:1", ""),
        ("unix-abstract:x:1", ""),
        ("", ""),
    ],
)
def test_peers(peer: str, host: str) -> None:
    assert peer_host(peer) == host


def test_metadata() -> None:
    assert joined([("a", "1"), ("b-bin", b"x"), ("a", "2"), ("c", b"raw")]) == {"a": "1,2"}


async def test_bytes_that_are_no_message_are_refused(address: str) -> None:
    code, told, trailers = await refusal(Recording(), address, message=b"\xff\xff\xff")
    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert told == "The request is not acceptable: the message cannot be read."
    assert trailers["authz-reason"] == "bad_request"


async def test_the_caller_is_asked_for_before_the_message_is_read(address: str) -> None:
    denied = RpcError(Problem(401, "missing_credential", "No API key was sent."), (("www-authenticate", "Bearer"),))
    service = Recording(refuse=denied)
    code, told, trailers = await refusal(service, address, message=b"\xff\xff\xff")
    assert (code, told) == (grpc.StatusCode.UNAUTHENTICATED, "No API key was sent.")
    assert (trailers["authz-reason"], trailers["www-authenticate"]) == ("missing_credential", "Bearer")
    assert "authz-field" not in trailers
    assert service.requests == []


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, grpc.StatusCode.INVALID_ARGUMENT),
        (401, grpc.StatusCode.UNAUTHENTICATED),
        (403, grpc.StatusCode.PERMISSION_DENIED),
        (404, grpc.StatusCode.NOT_FOUND),
        (409, grpc.StatusCode.ABORTED),
        (413, grpc.StatusCode.INVALID_ARGUMENT),
        (415, grpc.StatusCode.INVALID_ARGUMENT),
        (429, grpc.StatusCode.RESOURCE_EXHAUSTED),
        (503, grpc.StatusCode.UNAVAILABLE),
        (418, grpc.StatusCode.UNKNOWN),
    ],
)
async def test_a_refusal_becomes_a_status(status: int, code: grpc.StatusCode, address: str) -> None:
    """With the reason, the field and the headers in the trailers, but none that gRPC cannot carry."""
    headers = (
        ("Retry-After", "7"),
        ("x-note", "é"),
        ("x-line", "a\nb"),
        ("x-raw-bin", "text"),
        ("grpc-status", "0"),
        ("x bad", "a"),
    )
    service = Recording(fail=RpcError(Problem(status, "conflict", "It is só.", field="key.name"), headers))
    found, told, trailers = await refusal(service, address)
    assert (found, told) == (code, "It is só.")
    ours = {name: value for name, value in trailers.items() if not name.startswith(("grpc-", "content-"))}
    assert ours == {"retry-after": "7", "authz-reason": "conflict", "authz-field": "key.name"}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("status", STATUS)
def test_no_format_changes_a_status(name: str, status: int) -> None:
    """No body is told here, and what a format answers in place of a status has the same code: so none is asked."""
    answered = FORMATS[name].status(Problem(status, "x", "A message."))
    assert STATUS[answered] is STATUS[status]


@pytest.mark.parametrize(
    "service",
    [Recording(refuse=ZeroDivisionError("PLANTED")), Recording(fail=ZeroDivisionError("PLANTED"))],
    ids=["authorize", "handle"],
)
async def test_an_unexpected_error_says_nothing(
    service: Recording, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, "authz"):
        code, told, trailers = await refusal(
            service, address, message=keys_pb2.GetKeyRequest(id="SECRET").SerializeToString()
        )
    assert (code, told) == (grpc.StatusCode.UNAVAILABLE, "Authorization failed, try again.")
    assert trailers["authz-reason"] == "internal_error"
    assert [record.name for record in caplog.records] == ["authz.adapters.grpc.rpc"]
    assert "SECRET" not in caplog.text


async def test_unknown_methods_are_not_implemented(address: str) -> None:
    service = Recording()
    code, _, _ = await refusal(service, address, "Nothing")
    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert service.calls == []


async def test_health_and_reflection_know_the_service(address: str) -> None:
    """Beside the services of bytes; and reflection hands out the descriptor."""
    async with serving(Recording(), address) as channel:
        health: Any = health_pb2_grpc.HealthStub(channel)
        for name in ("", UNARY, SERVICE):
            answer = await health.Check(health_pb2.HealthCheckRequest(service=name), timeout=10)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = stubs.ServerReflectionStub(channel)
        asked = [
            messages.ServerReflectionRequest(list_services=""),
            messages.ServerReflectionRequest(file_containing_symbol=SERVICE),
        ]
        listed, found = [answer async for answer in stub.ServerReflectionInfo(iter(asked), timeout=10)]
        echoed: Any = channel.unary_unary(f"/{UNARY}/Echo")
        assert await echoed(b"x", timeout=10) == b"x"
    assert {UNARY, SERVICE} <= {service.name for service in listed.list_services_response.service}
    [file] = [
        descriptor_pb2.FileDescriptorProto.FromString(raw)
        for raw in found.file_descriptor_response.file_descriptor_proto
    ][:1]
    assert [service.name for service in file.service] == ["KeyService"]


def test_covering_twice_changes_nothing() -> None:
    health = server.Health((UNARY,))
    health.cover((SERVICE, UNARY))
    health.cover((SERVICE,))
    assert health._services == ("", UNARY, SERVICE)
