"""A service of messages over gRPC: who calls is asked before the message is read; refusals become status, trailers."""

import logging
import re
from collections.abc import Iterable
from typing import Any, Final, NoReturn
from urllib.parse import unquote

import grpc
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass

from authz.adapters.rpc import Call, Message, RpcError, Service
from authz.core.decision import Fault, Reason
from authz.core.problems import SENTENCE, Problem, problem_of


STATUS: Final = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    401: grpc.StatusCode.UNAUTHENTICATED,
    403: grpc.StatusCode.PERMISSION_DENIED,
    404: grpc.StatusCode.NOT_FOUND,
    409: grpc.StatusCode.ABORTED,
    413: grpc.StatusCode.INVALID_ARGUMENT,  # the code of 400, as some response formats answer: so none matters here
    415: grpc.StatusCode.INVALID_ARGUMENT,
    429: grpc.StatusCode.RESOURCE_EXHAUSTED,
    503: grpc.StatusCode.UNAVAILABLE,
}
_NAME: Final = re.compile(r"(?!grpc-)[a-z0-9_.-]+(?<!-bin)")
_UNREADABLE: Final = f"{SENTENCE[Reason.BAD_REQUEST]}: the message cannot be read."

_log: Final = logging.getLogger(__name__)


def handlers(service: Service[Any]) -> grpc.GenericRpcHandler:
    """Every method of *service*, for a server of `grpc.aio`."""
    methods = {method.name: _method(service, method) for method in service.descriptor.methods}
    return grpc.method_handlers_generic_handler(service.descriptor.full_name, methods)


def _method(service: Service[Any], method: Any) -> "grpc.RpcMethodHandler[bytes, bytes]":
    if method.client_streaming or method.server_streaming:
        raise ValueError(f"{method.name} streams, which is not served here")
    message_class = GetMessageClass(method.input_type)

    async def call(raw: bytes, context: Any) -> bytes:
        try:
            return await _answered(service, _call(method.name, context), message_class, raw)
        except RpcError as refused:
            error = refused
        except Exception:  # noqa: BLE001 - the last resort: nothing of it may reach the caller
            _log.exception("a call failed")
            error = RpcError(problem_of(Fault(Reason.INTERNAL_ERROR)), (("retry-after", "1"),))
        return await _abort(context, error)

    return grpc.unary_unary_rpc_method_handler(call)  # no serializers: the message is read once the caller is known


async def _answered(service: Service[Any], call: Call, message_class: Any, raw: bytes) -> bytes:
    actor = await service.authorize(call)
    try:
        request = message_class.FromString(raw)
    except DecodeError:
        raise RpcError(Problem(400, Reason.BAD_REQUEST.value, _UNREADABLE)) from None
    answer: Message = await service.handle(call, actor, request)
    return bytes(answer.SerializeToString())


def _call(method: str, context: Any) -> Call:
    return Call(method, joined(context.invocation_metadata() or ()), peer_host(context.peer()))


def joined(metadata: Iterable[tuple[str, str | bytes]]) -> dict[str, str]:
    """Metadata as headers: text alone, repeated ones joined by commas."""
    headers: dict[str, str] = {}
    for name, value in metadata:
        if isinstance(value, str) and not name.endswith("-bin"):
            headers[name] = f"{headers[name]},{value}" if name in headers else value
    return headers


def peer_host(peer: str) -> str:
    """`127.0.0.1` of `ipv4:127.0.0.1:1234`, `::1` of `ipv6:%5B::1%5D:1234`; empty for a Unix socket."""
    family, _, address = peer.partition(":")
    if family not in {"ipv4", "ipv6"}:
        return ""
    return unquote(address).rpartition(":")[0].strip("[]")


async def _abort(context: Any, error: RpcError) -> NoReturn:
    problem = error.problem
    told = [*error.headers, ("authz-reason", problem.reason), ("authz-field", problem.field)]
    trailers = [
        (name.lower(), value)
        for name, value in told
        if value and value.isascii() and value.isprintable() and _NAME.fullmatch(name.lower())
    ]
    code = STATUS.get(problem.status, grpc.StatusCode.UNKNOWN)
    await context.abort(code, problem.message, tuple(trailers))
    raise AssertionError("abort raises")
