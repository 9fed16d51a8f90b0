"""gRPC on HTTP/2: what a header block asks for, how a message is framed, and what is answered."""

import re
import struct
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from authz.adapters.http2.blocks import GRPC_TIMEOUT, Field, Head, Words, decode, remember, walk


Unary = Callable[[bytes], Awaitable[bytes]]  # a coroutine function: see `calls`

DEADLINE_EXCEEDED: Final = 4
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13
UNAVAILABLE: Final = 14

PREFIX: Final = struct.Struct(">BI")  # of a message: whether it is compressed, its length
PREFIX_BYTES: Final = 5
NO_TIMEOUT: Final = -1.0

_UNITS_S: Final = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])\Z")
_CONTENT_TYPE: Final = re.compile(rb"application/grpc(\+proto)?[ \t]*(;|\Z)", re.IGNORECASE)
_MEMO: Final = 512
_MEMO_BYTES: Final = 2048  # longer blocks are not remembered


def _literal(index: int, value: bytes) -> bytes:
    """A field that is not indexed, so that it needs no table of the peer's; its name from the static table."""
    return (bytes([index]) if index < 15 else bytes([15, index - 15])) + bytes([len(value)]) + value


def _named(name: bytes, value: bytes) -> bytes:
    return bytes([0, len(name)]) + name + bytes([len(value)]) + value


_STATUS, _ALLOW, _TYPE = 8, 22, 31  # in the static table
ANSWER: Final = b"\x88" + _literal(_TYPE, b"application/grpc")  # :status 200
OK: Final = _named(b"grpc-status", b"0")  # the trailers


def refusal(code: int, why: str, *more: bytes) -> bytes:
    """The block of an answer that is trailers alone. *why*: ASCII without a per cent sign, at most 126 bytes."""
    fields = [_named(b"grpc-status", str(code).encode()), _named(b"grpc-message", why.encode()), *more]
    return ANSWER + b"".join(fields)


NO_METHOD: Final = refusal(UNIMPLEMENTED, "there is no such method")
NOT_COMPRESSED: Final = refusal(
    UNIMPLEMENTED, "compressed messages are not taken", _named(b"grpc-accept-encoding", b"identity")
)
BAD_TIMEOUT: Final = refusal(INTERNAL, "grpc-timeout is malformed")
BAD_FLAG: Final = refusal(INTERNAL, "the message's first byte says what no grpc-encoding explains")
NO_MESSAGE: Final = refusal(INTERNAL, "there is no message, where there has to be one")
SHORT_MESSAGE: Final = refusal(INTERNAL, "the message is shorter than it says")
MANY_MESSAGES: Final = refusal(INTERNAL, "there is more than one message")
LARGE_MESSAGE: Final = refusal(RESOURCE_EXHAUSTED, "the message is larger than is taken here")
LARGE_HEADERS: Final = refusal(RESOURCE_EXHAUSTED, "the headers are larger than is taken here")
LATE: Final = refusal(DEADLINE_EXCEEDED, "the time for the call is over")
SLOW: Final = refusal(DEADLINE_EXCEEDED, "the message did not come in time")
FAILED: Final = refusal(INTERNAL, "the call failed")
STOPPING: Final = refusal(UNAVAILABLE, "the server is stopping")
NOT_POST: Final = _literal(_STATUS, b"405") + _literal(_ALLOW, b"POST")
NOT_GRPC: Final = _literal(_STATUS, b"415")


async def nobody(_: bytes) -> bytes:
    """Stands where there is no method."""
    raise NotImplementedError


class Opening:
    """
    What a header block asks for: a method, or nothing that can be had.

    *fault*: it is malformed, and its stream with it. *refusal*: the block to answer it with, whatever its message.
    """

    def __init__(self, handler: Unary, refusal_block: bytes, fault: str) -> None:
        self.handler = handler
        self.refusal = refusal_block
        self.fault = fault
        self.timeout_s = NO_TIMEOUT
        self.content_length = -1
        self.has_encoding = False
        self.is_call = False  # it may begin as soon as its message is there


class Router:
    """The methods, and the header blocks of late. For all connections, and for blocks that depend on no other alone."""

    def __init__(self, services: Mapping[str, Mapping[str, Unary]]) -> None:
        self._methods = {
            f"/{service}/{method}".encode(): handler
            for service, methods in services.items()
            for method, handler in methods.items()
        }
        self.words = Words()
        self.known: dict[bytes, Opening] = {}
        self._known_fields: dict[tuple[Field, ...], Opening] = {}

    def read(self, block: bytes) -> Opening:
        """Of a block that depends on no other, and is not `known`. Raises: ProtocolError."""
        fields = walk(block, self.words)
        key = tuple(fields)  # without the headers that are not read, which may be others each time
        opening = self._known_fields.get(key)
        if opening is None:
            opening = self.opening(decode(fields, self.words))
            if len(block) <= _MEMO_BYTES:
                remember(self._known_fields, key, opening, _MEMO)
        if len(block) <= _MEMO_BYTES:
            remember(self.known, block, opening, _MEMO)
        return opening

    def opening(self, head: Head) -> Opening:
        if head.is_too_large:
            return Opening(nobody, LARGE_HEADERS, "")
        fault = head.request_fault()
        if fault:
            return Opening(nobody, b"", fault)
        if head.method != b"POST":
            return Opening(nobody, NOT_POST, "")
        if _CONTENT_TYPE.match(head.content_type) is None:
            return Opening(nobody, NOT_GRPC, "")
        handler = self._methods.get(head.path)
        if handler is None:
            return Opening(nobody, NO_METHOD, "")
        timeout_s = NO_TIMEOUT
        if head.seen & 1 << GRPC_TIMEOUT:
            match = _TIMEOUT.match(head.timeout)
            if match is None:
                return Opening(nobody, BAD_TIMEOUT, "")
            timeout_s = int(match[1]) * _UNITS_S[match[2]]
            if timeout_s == 0:
                return Opening(nobody, LATE, "")
        opening = Opening(handler, b"", "")
        opening.timeout_s = timeout_s
        opening.content_length = head.content_length
        opening.has_encoding = head.encoding not in {b"", b"identity"}
        opening.is_call = True
        return opening


def message_refusal(flag: int, size: int, largest: int, opening: Opening) -> bytes:
    """The block to answer a message with whose prefix is known; empty: it may come."""
    if flag == 1 and opening.has_encoding:
        return NOT_COMPRESSED
    if flag:
        return BAD_FLAG
    return LARGE_MESSAGE if size > largest else b""
