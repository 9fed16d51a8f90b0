"""
A gRPC server on grpcio: methods as bytes to bytes, health and reflection beside them.

Knows nothing of what the methods do.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import grpc
from google.protobuf.message import DecodeError
from grpc import aio
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health_aio
from grpc_reflection.v1alpha import reflection

from authz.adapters.grpc.rpc import handlers as rpc_handlers
from authz.adapters.rpc import Service
from authz.ports import OverloadFault


Unary = Callable[[bytes], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes]], Awaitable[bytes]]  # many messages, one answer at the end
Server = aio.Server

MAX_MESSAGE_BYTES: Final = 1024 * 1024  # headers of a request; Envoy's own limit for them is 60 KiB
MAX_STREAMS: Final = 4096
_OPTIONS: Final = (
    ("grpc.so_reuseport", 0),  # a busy port is an error, not a share of somebody else's traffic
    ("grpc.max_concurrent_streams", MAX_STREAMS),
    ("grpc.http2.max_ping_strikes", 0),  # Envoy's keepalive pings an idle connection
    ("grpc.max_metadata_size", 64 * 1024),
)


# A client that is gone is no news; what goes wrong in a handler, the handler tells.
logging.getLogger("grpc").setLevel(logging.CRITICAL)


class ListenError(Exception):
    """The address cannot be listened on."""


class Health:
    """grpc.health.v1 for a set of services, all of one state."""

    def __init__(self, services: tuple[str, ...]) -> None:
        self._servicer: Any = health_aio.HealthServicer()
        self._services = ("", *services)
        self._serving = False

    def cover(self, services: Iterable[str]) -> None:
        """These too, from the next `set` on."""
        self._services = (*dict.fromkeys((*self._services, *services)),)

    async def set(self, *, serving: bool) -> None:
        self._serving = serving
        status = health_pb2.HealthCheckResponse
        for service in self._services:
            await self._servicer.set(service, status.SERVING if serving else status.NOT_SERVING)

    @property
    def unary(self) -> dict[str, dict[str, Unary]]:
        """For servers of another kind, which carry no streams: so without `Watch`."""
        return {HEALTH: {"Check": self._check}}

    async def _check(self, message: bytes) -> bytes:
        """A service that is not there is told as UNKNOWN."""
        try:
            asked = health_pb2.HealthCheckRequest.FromString(message)
        except DecodeError:
            asked = health_pb2.HealthCheckRequest(service="\0")
        known = asked.service in self._services
        response = health_pb2.HealthCheckResponse
        state = (response.SERVING if self._serving else response.NOT_SERVING) if known else response.SERVICE_UNKNOWN
        answer: bytes = response(status=state).SerializeToString()
        return answer

    def add_to(self, server: Server) -> None:
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)


def build(
    address: str,
    services: Mapping[str, Mapping[str, Unary]],
    health: Health,
    *,
    rpc: Sequence[Service[Any]] = (),
    streams: Mapping[str, Mapping[str, Stream]] | None = None,
    max_message_bytes: int = MAX_MESSAGE_BYTES,
) -> Server:
    """
    A server that is bound and not started. *services*, *streams*: service name → method name → handler; *rpc*: of
    messages.

    Raises: ListenError.
    """
    server = aio.server(options=(*_OPTIONS, ("grpc.max_receive_message_length", max_message_bytes)))
    streams = streams or {}
    for service, methods in services.items():
        _add(server, service, {name: _unary(handler) for name, handler in methods.items()})
    for service, many in streams.items():
        _add(server, service, {name: _stream(handler) for name, handler in many.items()})
    server.add_generic_rpc_handlers(tuple(rpc_handlers(service) for service in rpc))
    named = [service.descriptor.full_name for service in rpc]
    health.cover((*named, *streams))
    health.add_to(server)
    reflection.enable_server_reflection((*services, *streams, *named, HEALTH, reflection.SERVICE_NAME), server)
    try:
        bound = server.add_insecure_port(address)
    except RuntimeError as exc:
        raise ListenError(str(exc)) from exc
    if bound == 0:
        raise ListenError(f"cannot listen on {address}")
    return server


def _add(server: Server, service: str, handlers: "Mapping[str, grpc.RpcMethodHandler[bytes, bytes]]") -> None:
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, dict(handlers)),))


def _unary(handler: Unary) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def call(message: bytes, _: object) -> bytes:
        return await handler(message)

    return grpc.unary_unary_rpc_method_handler(call)  # no serializers: bytes as they are


def _stream(handler: Stream) -> "grpc.RpcMethodHandler[bytes, bytes]":
    async def call(messages: AsyncIterator[bytes], context: Any) -> bytes:
        try:
            return await handler(messages)
        except OverloadFault as fault:
            told = str(fault)
        await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, told)
        raise AssertionError("abort raises")

    return grpc.stream_unary_rpc_method_handler(call)
