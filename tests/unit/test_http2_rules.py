"""
RFC 9113, rule by rule, as bytes: what must end a connection ends it, and with the code that the RFC names; what must
end a stream ends that stream alone; and what is allowed is served. Then gRPC's own rules for a unary call.

Each sequence is sent at once, and again byte by byte.
"""

from dataclasses import dataclass

import hpack
import pytest

from authz.adapters.http2 import frames as f
from authz.adapters.http2.frames import frame
from authz.adapters.http2.limits import MAX_CONTINUATIONS, MAX_STREAMS, STREAM_WINDOW
from tests.support.http2 import (
    ECHO,
    HELLO,
    MAX_MESSAGE,
    WAIT,
    Wire,
    block,
    call,
    data,
    headers,
    message,
    open_stream,
)


@dataclass(frozen=True)
class Ends:
    """The connection, with GOAWAY of this code."""

    code: int


@dataclass(frozen=True)
class Resets:
    """The stream, with RST_STREAM of this code; the connection lives on."""

    code: int
    stream_id: int = 3


@dataclass(frozen=True)
class Answers:
    """The stream, with this status of gRPC, or this one of HTTP; the connection lives on."""

    status: int | None = 0
    http: int = 200
    stream_id: int = 3


@dataclass(frozen=True)
class Allows:
    """Nothing is ended."""


Expected = Ends | Resets | Answers | Allows

PROTOCOL = Ends(f.PROTOCOL_ERROR)
FRAME_SIZE = Ends(f.FRAME_SIZE_ERROR)
COMPRESSION = Ends(f.COMPRESSION_ERROR)
FLOW = Ends(f.FLOW_CONTROL_ERROR)
CLOSED = Ends(f.STREAM_CLOSED)
CALM = Ends(f.ENHANCE_YOUR_CALM)
MALFORMED = Resets(f.PROTOCOL_ERROR)

PING = frame(f.PING, 0, 0, b"12345678")
RUNNING = call(3, path=WAIT)  # half-closed by us, as the handler is not done
OPEN = open_stream(3)  # the message is to come
DONE = call(3)  # closed by both
TAKEN_BACK = RUNNING + frame(f.RST_STREAM, 0, 3, f.WORD.pack(f.CANCEL))
GIVEN_UP = open_stream(3, headers(te="gzip"))  # reset by us, before the client has ended it
TURNED_DOWN = open_stream(3, headers("/no/Such"))  # answered before the client has ended it


def pieces(sent: bytes, size: int) -> list[bytes]:
    return [sent[at : at + size] for at in range(0, len(sent), size)]


def setting(name: int, value: int) -> bytes:
    return f.settings((name, value))


def blocked(raw: bytes) -> bytes:
    """A call whose header block is these bytes."""
    return frame(f.HEADERS, f.END_HEADERS, 3, raw) + data(3, message())


def with_block(raw: bytes) -> bytes:
    """A good header block with these bytes behind it."""
    return blocked(block(headers()) + raw)


def with_headers(*more: tuple[str, str], **changed: str | None) -> bytes:
    return blocked(block(headers(ECHO, *more, **changed)))


def widened(stream_id: int, increment: int) -> bytes:
    return f.window_update(stream_id, increment)


def priority(stream_id: int, on: int, more: bytes = b"\0") -> bytes:
    return frame(f.PRIORITY, 0, stream_id, f.WORD.pack(on) + more)


def body(payload: bytes, *more: tuple[str, str], **changed: str | None) -> bytes:
    """A call with this for a message."""
    return open_stream(3, headers(ECHO, *more, **changed)) + data(3, payload)


def continued(*parts: bytes, stream_id: int = 3) -> bytes:
    """A header block in as many frames."""
    first, *rest = parts
    made = frame(f.HEADERS, 0 if rest else f.END_HEADERS, stream_id, first)
    for number, part in enumerate(rest, 1):
        made += frame(f.CONTINUATION, f.END_HEADERS if number == len(rest) else 0, stream_id, part)
    return made


def literal(name: bytes, value: bytes) -> bytes:
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


BLOCK = block(headers())
ACK = frame(f.SETTINGS, f.ACK, 0, b"")
LARGE = b"".join(data(3, piece, 0) for piece in pieces(message(b"x" * 40_000), f.DEFAULT_FRAME)) + data(3, b"")
MORE = message(b"x" * 20_000)  # than a stream's first window
ENCODER = hpack.Encoder()  # with a table
INDEXED = b"".join(
    frame(f.HEADERS, f.END_HEADERS, stream_id, ENCODER.encode(headers())) + data(stream_id, message())
    for stream_id in (1, 3)
)
PLAIN = block(headers(), huffman=False)

# Before anything was said.
OPENING: dict[str, tuple[bytes, Expected]] = {
    "3.4 another preface": (b"PRI * HTTP/3.0\r\n\r\nSM\r\n\r\n" + f.settings(), PROTOCOL),
    "3.4 HTTP/1.1": (b"GET / HTTP/1.1\r\nhost: authz\r\n\r\n", PROTOCOL),
    "3.4 HTTP/1.1, shorter than a preface": (b"GET / HTTP/1.1\r\n", PROTOCOL),
    "3.4 TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", PROTOCOL),
    "3.4 a preface that goes wrong at its end": (f.PREFACE[:-1] + b"x", PROTOCOL),
    "3.4 half a preface": (f.PREFACE[:12], Allows()),
    "3.4 the first frame is PING": (f.PREFACE + PING, PROTOCOL),
    "3.4 the first frame is HEADERS": (f.PREFACE + call(1), PROTOCOL),
    "3.4 the first frame is of an unknown type": (f.PREFACE + frame(0x42, 0, 0, b"x"), PROTOCOL),
    "3.4 the first frame is an ack": (f.PREFACE + frame(f.SETTINGS, f.ACK, 0, b""), PROTOCOL),
    "3.4 SETTINGS with nothing in them": (HELLO, Allows()),
    "3.4 SETTINGS with something in them": (f.PREFACE + setting(f.MAX_CONCURRENT_STREAMS, 100), Allows()),
    "3.4 a call before the ack": (f.PREFACE + f.settings() + call(3), Answers()),
    "4.3.1 a table is used before the ack": (f.PREFACE + f.settings() + INDEXED, Answers()),
    "4.3.1 a table that is not there, before the ack": (f.PREFACE + f.settings() + blocked(b"\xc0"), COMPRESSION),
    "4.3.1 a block that ends too early, before the ack": (
        f.PREFACE + f.settings() + blocked(b"\x44\x10/"),
        COMPRESSION,
    ),
    "4.3.1 a larger table than the default, before the ack": (
        f.PREFACE + f.settings() + blocked(b"\x3f\xe2\x1f"),
        COMPRESSION,
    ),
    "4.3.1 a header list that is too large, before the ack": (
        f.PREFACE + f.settings() + blocked(b"\x44\x10" + b"/" * 16 + b"\xbe" * 9000),
        CALM,
    ),
    "4.3.1 the table is not given up behind the ack": (HELLO + call(3), COMPRESSION),
    "4.3.1 the table is given up behind the ack": (HELLO + blocked(b"\x20" + BLOCK), Answers()),
    "4.3.1 the table was given up before the ack": (
        f.PREFACE + f.settings() + blocked(b"\x20" + BLOCK) + frame(f.SETTINGS, f.ACK, 0, b"") + call(5),
        Answers(stream_id=5),
    ),
    "8.2 malformed, before the ack": (f.PREFACE + f.settings() + with_headers(("X-Upper", "x")), MALFORMED),
    "8.3 a pseudo-header behind a header, before the ack": (
        f.PREFACE + f.settings() + blocked(block([("te", "trailers"), *headers(te=None)])),
        MALFORMED,
    ),
    "6.5.2 a stream's window is the default before the ack": (f.PREFACE + f.settings() + OPEN + LARGE, Answers()),
    "6.5.2 and is smaller behind it": (f.PREFACE + f.settings() + OPEN + LARGE[:-9] + ACK + LARGE[-9:], Answers()),
}

# Behind the greeting, and a first call on stream 1.
FRAMES: dict[str, tuple[bytes, Expected]] = {
    "4.1 an unknown type": (frame(0x42, 0xFF, 0, b"anything"), Allows()),
    "4.1 an unknown type on a stream": (OPEN + frame(0x42, 0xFF, 3, b"anything") + data(3, message()), Answers()),
    "4.1 unknown flags": (frame(f.PING, 0xFE, 0, bytes(8)), Allows()),
    "4.1 the reserved bit of a stream's number": (
        frame(f.HEADERS, f.END_HEADERS, 3 | 1 << 31, BLOCK) + data(3 | 1 << 31, message()),
        Answers(),
    ),
    "4.2 DATA as large as may be": (OPEN + data(3, message(bytes(f.DEFAULT_FRAME - 5))), Answers()),
    "4.2 DATA one byte larger": (OPEN + data(3, bytes(f.DEFAULT_FRAME + 1)), FRAME_SIZE),
    "4.2 HEADERS that are too large": (frame(f.HEADERS, 5, 3, bytes(f.DEFAULT_FRAME + 1)), FRAME_SIZE),
    "4.2 an unknown type that is too large": (frame(0x42, 0, 0, bytes(f.DEFAULT_FRAME + 1)), FRAME_SIZE),
    "4.2 the largest length, and nothing behind it": (b"\xff\xff\xff\0\0\0\0\0\3", FRAME_SIZE),
    "6.1 DATA on no stream": (data(0, b"x"), PROTOCOL),
    "6.1 padding": (OPEN + data(3, b"\x07" + message() + bytes(7), f.PADDED | f.END_STREAM), Answers()),
    "6.1 padding of nothing": (OPEN + data(3, b"\x00" + message(), f.PADDED | f.END_STREAM), Answers()),
    "6.1 padding alone": (OPEN + data(3, b"\x07" + bytes(7), f.PADDED) + data(3, message()), Answers()),
    "6.1 as much padding as frame": (OPEN + data(3, b"\x08" + bytes(7), f.PADDED), PROTOCOL),
    "6.1 more padding than frame": (OPEN + data(3, b"\xff" + bytes(7), f.PADDED), PROTOCOL),
    "6.1 padded and empty": (OPEN + data(3, b"", f.PADDED), FRAME_SIZE),
    "6.2 HEADERS on no stream": (open_stream(0), PROTOCOL),
    "6.2 padding": (
        frame(f.HEADERS, f.END_HEADERS | f.PADDED, 3, b"\x03" + BLOCK + bytes(3)) + data(3, message()),
        Answers(),
    ),
    "6.2 padding and priority": (
        frame(f.HEADERS, f.END_HEADERS | f.PADDED | f.WITH_PRIORITY, 3, b"\x03\0\0\0\0\0" + BLOCK + bytes(3))
        + data(3, message()),
        Answers(),
    ),
    "6.2 padding, and nothing else": (frame(f.HEADERS, f.END_HEADERS | f.PADDED, 3, b"\x04" + bytes(4)), MALFORMED),
    "6.2 more padding than frame": (frame(f.HEADERS, f.END_HEADERS | f.PADDED, 3, b"\x05" + bytes(4)), PROTOCOL),
    "6.2 padded and empty": (frame(f.HEADERS, f.END_HEADERS | f.PADDED, 3, b""), FRAME_SIZE),
    "6.2 shorter than its priority": (frame(f.HEADERS, f.END_HEADERS | f.WITH_PRIORITY, 3, bytes(4)), FRAME_SIZE),
    "6.3 PRIORITY on no stream": (priority(0, 1), PROTOCOL),
    "6.3 PRIORITY": (priority(3, 1) + DONE, Answers()),
    "6.3 PRIORITY of another length": (OPEN + priority(3, 1, b""), Resets(f.FRAME_SIZE_ERROR)),
    "6.3 PRIORITY of another length, of an idle stream": (priority(3, 1, b""), FRAME_SIZE),
    "5.3.1 a stream depends on another": (
        frame(f.HEADERS, f.END_HEADERS | f.WITH_PRIORITY, 3, f.WORD.pack(1) + b"\xff" + BLOCK) + data(3, message()),
        Answers(),
    ),
    "5.3.1 a stream depends on itself": (
        frame(f.HEADERS, f.END_HEADERS | f.WITH_PRIORITY, 3, f.WORD.pack(3) + b"\xff" + BLOCK),
        MALFORMED,
    ),
    "5.3.1 a stream comes to depend on itself": (OPEN + priority(3, 3), MALFORMED),
    "5.3.1 an idle stream comes to depend on itself": (priority(3, 3), PROTOCOL),
    "6.4 RST_STREAM on no stream": (frame(f.RST_STREAM, 0, 0, bytes(4)), PROTOCOL),
    "6.4 RST_STREAM of another length": (OPEN + frame(f.RST_STREAM, 0, 3, bytes(3)), FRAME_SIZE),
    "6.5 SETTINGS on a stream": (frame(f.SETTINGS, 0, 3, b""), PROTOCOL),
    "6.5 an ack with something in it": (frame(f.SETTINGS, f.ACK, 0, bytes(6)), FRAME_SIZE),
    "6.5 an ack of nothing": (frame(f.SETTINGS, f.ACK, 0, b""), PROTOCOL),
    "6.5 SETTINGS of another length": (frame(f.SETTINGS, 0, 0, bytes(7)), FRAME_SIZE),
    "6.5.2 ENABLE_PUSH is 1": (setting(f.ENABLE_PUSH, 1), Allows()),
    "6.5.2 ENABLE_PUSH is 2": (setting(f.ENABLE_PUSH, 2), PROTOCOL),
    "6.5.2 INITIAL_WINDOW_SIZE at its largest": (setting(f.INITIAL_WINDOW_SIZE, 2**31 - 1), Allows()),
    "6.5.2 INITIAL_WINDOW_SIZE is too large": (setting(f.INITIAL_WINDOW_SIZE, 2**31), FLOW),
    "6.5.2 MAX_FRAME_SIZE at its smallest": (setting(f.MAX_FRAME_SIZE, 16_384), Allows()),
    "6.5.2 MAX_FRAME_SIZE is too small": (setting(f.MAX_FRAME_SIZE, 16_383), PROTOCOL),
    "6.5.2 MAX_FRAME_SIZE at its largest": (setting(f.MAX_FRAME_SIZE, 2**24 - 1), Allows()),
    "6.5.2 MAX_FRAME_SIZE is too large": (setting(f.MAX_FRAME_SIZE, 2**24), PROTOCOL),
    "6.5.2 an unknown setting": (setting(0xFFFF, 1), Allows()),
    "6.5.2 no table on their side either": (setting(f.HEADER_TABLE_SIZE, 0) + DONE, Answers()),
    "6.5.3 the last value counts": (
        f.settings((f.INITIAL_WINDOW_SIZE, 0), (f.INITIAL_WINDOW_SIZE, 100)) + DONE,
        Answers(),
    ),
    "6.5 too many at once": (f.settings(*[(0xFFFF, 1)] * 33), CALM),
    "6.6 PUSH_PROMISE": (frame(f.PUSH_PROMISE, f.END_HEADERS, 1, f.WORD.pack(2) + BLOCK), PROTOCOL),
    "6.7 PING on a stream": (frame(f.PING, 0, 3, bytes(8)), PROTOCOL),
    "6.7 PING of another length": (frame(f.PING, 0, 0, bytes(7)), FRAME_SIZE),
    "6.7 an ack that nobody waits for": (frame(f.PING, f.ACK, 0, b"draining"), Allows()),
    "6.8 GOAWAY on a stream": (frame(f.GOAWAY, 0, 3, bytes(8)), PROTOCOL),
    "6.8 GOAWAY that is too short": (frame(f.GOAWAY, 0, 0, bytes(7)), FRAME_SIZE),
    "6.8 GOAWAY, and what is under way ends as ever": (
        OPEN + frame(f.GOAWAY, 0, 0, bytes(8) + b"bye") + data(3, message()),
        Answers(),
    ),
    "6.9 the connection's window is widened by nothing": (widened(0, 0), PROTOCOL),
    "6.9 a stream's window is widened by nothing": (OPEN + widened(3, 0), MALFORMED),
    "6.9 by nothing, while its call runs": (RUNNING + widened(3, 0), MALFORMED),
    "6.9 by nothing, and its message on the way": (OPEN + widened(3, 0) + data(3, message()), MALFORMED),
    "6.9 by nothing, and data behind its message": (RUNNING + widened(3, 0) + data(3, b"x"), CLOSED),
    "6.9.1 too large, and its message on the way": (
        OPEN + widened(3, 2**31 - 1) + data(3, message()),
        Resets(f.FLOW_CONTROL_ERROR),
    ),
    "6.9.1 too large, and data behind its message": (RUNNING + widened(3, 2**31 - 1) + data(3, b"x"), CLOSED),
    "6.9 WINDOW_UPDATE of another length": (frame(f.WINDOW_UPDATE, 0, 0, bytes(3)), FRAME_SIZE),
    "6.9 the reserved bit": (frame(f.WINDOW_UPDATE, 0, 0, f.WORD.pack(1 | 1 << 31)), Allows()),
    "6.9.1 the connection's window is too large": (widened(0, 2**31 - 1), FLOW),
    "6.9.1 it becomes too large": (widened(0, 2**30) + widened(0, 2**30), FLOW),
    "6.9.1 a stream's window is too large": (OPEN + widened(3, 2**31 - 1), Resets(f.FLOW_CONTROL_ERROR)),
    "6.9.1 it becomes too large, while its call runs": (
        RUNNING + widened(3, 2**30) + widened(3, 2**30),
        Resets(f.FLOW_CONTROL_ERROR),
    ),
    "6.9.2 a larger initial window makes an open stream's too large": (
        OPEN + widened(3, 2**31 - 1 - 65_535) + setting(f.INITIAL_WINDOW_SIZE, 65_536),
        FLOW,
    ),
    "6.9.2 a smaller one is in order": (
        OPEN + widened(3, 2**31 - 1 - 65_535) + setting(f.INITIAL_WINDOW_SIZE, 65_534) + data(3, message()),
        Answers(),
    ),
    "6.9.1 as much as a stream's window": (
        OPEN + data(3, MORE[:STREAM_WINDOW], 0) + data(3, MORE[STREAM_WINDOW:]),
        Answers(),
    ),
    "6.9.1 more than a stream's window": (
        OPEN + data(3, MORE[:STREAM_WINDOW], 0) + data(3, bytes(f.DEFAULT_FRAME)),
        Resets(f.FLOW_CONTROL_ERROR),
    ),
    "6.10 CONTINUATION": (continued(BLOCK[:5], BLOCK[5:9], b"", BLOCK[9:]) + data(3, message()), Answers()),
    "6.10 CONTINUATION of nothing": (frame(f.CONTINUATION, f.END_HEADERS, 3, BLOCK), PROTOCOL),
    "6.10 CONTINUATION behind the end": (OPEN + frame(f.CONTINUATION, f.END_HEADERS, 3, BLOCK), PROTOCOL),
    "6.10 CONTINUATION behind DATA": (
        OPEN + data(3, b"", 0) + frame(f.CONTINUATION, f.END_HEADERS, 3, BLOCK),
        PROTOCOL,
    ),
    "6.10 CONTINUATION on no stream": (
        frame(f.HEADERS, 0, 3, BLOCK) + frame(f.CONTINUATION, f.END_HEADERS, 0, b""),
        PROTOCOL,
    ),
    "6.10 CONTINUATION on another stream": (
        frame(f.HEADERS, 0, 3, BLOCK) + frame(f.CONTINUATION, f.END_HEADERS, 5, b""),
        PROTOCOL,
    ),
    "6.10 PING within a header block": (frame(f.HEADERS, 0, 3, BLOCK) + PING, PROTOCOL),
    "6.10 DATA within a header block": (frame(f.HEADERS, 0, 3, BLOCK) + data(3, message()), PROTOCOL),
    "6.10 HEADERS within a header block": (frame(f.HEADERS, 0, 3, BLOCK) + open_stream(5), PROTOCOL),
    "6.10 an unknown type within a header block": (frame(f.HEADERS, 0, 3, BLOCK) + frame(0x42, 0, 3, b""), PROTOCOL),
    "6.10 more of them than we take": (
        continued(BLOCK, *[b""] * (MAX_CONTINUATIONS + 1)),
        CALM,
    ),
    "6.10 more in them than we take": (continued(*[bytes(16_000)] * 5), CALM),
}

HPACK: dict[str, tuple[bytes, Expected]] = {
    "index 0": (with_block(b"\x80"), COMPRESSION),
    "an index into a table that is not there": (with_block(b"\xbe"), COMPRESSION),
    "an index of two bytes": (with_block(b"\xff\x00"), COMPRESSION),
    "a name from a table that is not there": (with_block(b"\x7e\x01a"), COMPRESSION),
    "the same, not to be indexed": (with_block(b"\x0f\x2f\x01a"), COMPRESSION),
    "a literal that is to be indexed": (with_block(b"\x40\x01a\x01b"), Answers()),
    "a literal that is never to be indexed": (with_block(b"\x10\x01a\x01b"), Answers()),
    "a size of the table behind a field": (with_block(b"\x20"), COMPRESSION),
    "a size of the table in front": (blocked(b"\x20\x20" + BLOCK), Answers()),
    "a size that is not 0": (blocked(b"\x21" + BLOCK), COMPRESSION),
    "a size of several bytes": (blocked(b"\x3f\x00" + BLOCK), COMPRESSION),
    "a name that ends too early": (with_block(b"\x00\x05ab"), COMPRESSION),
    "no name": (with_block(b"\x00"), COMPRESSION),
    "no value": (with_block(b"\x00\x01a"), COMPRESSION),
    "a value that ends too early": (with_block(b"\x00\x01a\x05b"), COMPRESSION),
    "a value that is read, and ends too early": (blocked(b"\x44\x05/"), COMPRESSION),
    "a length that ends too early": (with_block(b"\x00\x01a\x7f"), COMPRESSION),
    "a length of too many bytes": (with_block(b"\x00\x01a\x7f\xff\xff\xff\xff\x01"), COMPRESSION),
    "a long value": (with_block(b"\x00\x01a\x7f\x49" + b"v" * 200), Answers()),
    "a name that is no Huffman code": (with_block(b"\x00\x84\xff\xff\xff\xff\x01v"), COMPRESSION),
    "a value that is read, and no Huffman code": (blocked(b"\x44\x84\xff\xff\xff\xff"), COMPRESSION),
    "a value that is read, padded with zeros": (blocked(b"\x44\x81\x18\x83"), COMPRESSION),
    "a list that is larger than we take": (with_block(literal(b"a", b"b") * 600), Answers(status=8)),
    "a block that is larger than we take": (
        continued(PLAIN, b"\x00\x01a\x7f\x81\x7f", bytes(16_000), bytes(384)) + data(3, message()),
        Answers(status=8),
    ),
}

STATES: dict[str, tuple[bytes, Expected]] = {
    "idle: DATA": (data(3, message()), PROTOCOL),
    "idle: RST_STREAM": (frame(f.RST_STREAM, 0, 3, bytes(4)), PROTOCOL),
    "idle: WINDOW_UPDATE": (widened(3, 1), PROTOCOL),
    "idle: CONTINUATION": (frame(f.CONTINUATION, f.END_HEADERS, 3, BLOCK), PROTOCOL),
    "idle: PRIORITY": (priority(3, 1), Allows()),
    "idle, of ours: DATA": (data(2, message()), PROTOCOL),
    "idle, of ours: RST_STREAM": (frame(f.RST_STREAM, 0, 2, bytes(4)), PROTOCOL),
    "idle, of ours: WINDOW_UPDATE": (widened(2, 1), PROTOCOL),
    "half-closed: DATA": (RUNNING + data(3, b"x"), Resets(f.STREAM_CLOSED)),
    "half-closed: HEADERS": (RUNNING + open_stream(3), Resets(f.STREAM_CLOSED)),
    "half-closed: CONTINUATION": (RUNNING + frame(f.CONTINUATION, f.END_HEADERS, 3, BLOCK), PROTOCOL),
    "half-closed: WINDOW_UPDATE": (RUNNING + widened(3, 1), Allows()),
    "half-closed: PRIORITY": (RUNNING + priority(3, 1), Allows()),
    "half-closed: RST_STREAM": (TAKEN_BACK, Allows()),
    "closed: DATA": (DONE + data(3, b"x"), CLOSED),
    "closed: empty DATA": (DONE + data(3, b""), CLOSED),
    "closed: HEADERS": (DONE + open_stream(3), CLOSED),
    "closed: CONTINUATION": (DONE + frame(f.CONTINUATION, f.END_HEADERS, 3, BLOCK), PROTOCOL),
    "closed: WINDOW_UPDATE": (DONE + widened(3, 1), Answers()),
    "closed: WINDOW_UPDATE by nothing": (DONE + widened(3, 0), Answers()),
    "closed: RST_STREAM": (DONE + frame(f.RST_STREAM, 0, 3, bytes(4)), Allows()),
    "closed: PRIORITY": (DONE + priority(3, 1), Answers()),
    "taken back: DATA": (TAKEN_BACK + data(3, b"x"), CLOSED),
    "taken back: HEADERS": (TAKEN_BACK + open_stream(3), CLOSED),
    "taken back: WINDOW_UPDATE": (TAKEN_BACK + widened(3, 1), Allows()),
    "taken back: RST_STREAM": (TAKEN_BACK + frame(f.RST_STREAM, 0, 3, bytes(4)), Allows()),
    "reset by us: DATA": (GIVEN_UP + data(3, message(), 0), MALFORMED),
    "reset by us: the last DATA": (GIVEN_UP + data(3, message()), MALFORMED),
    "reset by us: DATA behind the last": (GIVEN_UP + data(3, message()) + data(3, b"x"), CLOSED),
    "reset by us: trailers": (
        GIVEN_UP + frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 3, literal(b"a", b"b")),
        MALFORMED,
    ),
    "reset by us: HEADERS behind trailers": (
        GIVEN_UP + frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 3, b"") + open_stream(3),
        CLOSED,
    ),
    "reset by us: a block that cannot be read": (GIVEN_UP + frame(f.HEADERS, 5, 3, b"\x80"), COMPRESSION),
    "reset by us: WINDOW_UPDATE": (GIVEN_UP + widened(3, 1), MALFORMED),
    "reset by us: RST_STREAM": (GIVEN_UP + frame(f.RST_STREAM, 0, 3, bytes(4)), MALFORMED),
    "reset by us: DATA behind RST_STREAM": (GIVEN_UP + frame(f.RST_STREAM, 0, 3, bytes(4)) + data(3, b""), CLOSED),
    "answered early: DATA": (TURNED_DOWN + data(3, message(), 0) + data(3, b""), Resets(f.NO_ERROR)),
    "answered early: DATA behind the last": (TURNED_DOWN + data(3, message()) + data(3, b""), CLOSED),
    "5.1.1 a number of ours": (open_stream(4), PROTOCOL),
    "5.1.1 numbers may be left out": (call(9), Answers(stream_id=9)),
    "5.1.1 a number that was left out": (call(9) + call(5), PROTOCOL),
    "5.1.1 DATA on a number that was left out": (call(9) + data(5, b""), CLOSED),
    "5.1.1 WINDOW_UPDATE on a number that was left out": (call(9) + widened(5, 1), Answers(stream_id=9)),
    "5.1.1 the same number again": (DONE + call(3), CLOSED),
    "5.1.1 the first number again": (DONE + call(1), CLOSED),
    "5.1.2 as many streams as may be": (
        b"".join(call(number, path=WAIT, body=b"%d" % number) for number in range(3, 2 * MAX_STREAMS + 3, 2)),
        Allows(),
    ),
    "5.1.2 one more": (
        b"".join(call(number, path=WAIT, body=b"%d" % number) for number in range(3, 2 * MAX_STREAMS + 3, 2))
        + call(2 * MAX_STREAMS + 3),
        Resets(f.REFUSED_STREAM, 2 * MAX_STREAMS + 3),
    ),
    "5.1.2 one more, with its message to come": (
        b"".join(open_stream(number) for number in range(3, 2 * MAX_STREAMS + 5, 2)),
        Resets(f.REFUSED_STREAM, 2 * MAX_STREAMS + 3),
    ),
}

REQUESTS: dict[str, tuple[bytes, Expected]] = {
    "8.1 trailers": (
        OPEN + data(3, message(), 0) + frame(f.HEADERS, 5, 3, literal(b"x-trailer", b"v")),
        Answers(),
    ),
    "8.1 trailers with nothing in them": (OPEN + data(3, message(), 0) + frame(f.HEADERS, 5, 3, b""), Answers()),
    "8.1 trailers instead of a message": (OPEN + frame(f.HEADERS, 5, 3, b""), Answers(status=13)),
    "8.1 trailers in two frames": (
        OPEN
        + data(3, message(), 0)
        + frame(f.HEADERS, f.END_STREAM, 3, b"\0\1a")
        + frame(f.CONTINUATION, 4, 3, b"\1b"),
        Answers(),
    ),
    "8.1 trailers that do not end the stream": (OPEN + data(3, message(), 0) + open_stream(3, []), MALFORMED),
    "8.1 a pseudo-header in trailers": (OPEN + data(3, message(), 0) + frame(f.HEADERS, 5, 3, b"\x83"), MALFORMED),
    "8.1 an unknown pseudo-header in trailers": (OPEN + frame(f.HEADERS, 5, 3, literal(b":x", b"")), MALFORMED),
    "8.1 upper case in trailers": (OPEN + frame(f.HEADERS, 5, 3, literal(b"X-Upper", b"v")), MALFORMED),
    "8.1 trailers that cannot be read": (OPEN + frame(f.HEADERS, 5, 3, b"\xff"), COMPRESSION),
    "8.1.1 content-length": (body(message(), ("content-length", "18")), Answers()),
    "8.1.1 content-length, twice the same": (
        body(message(), ("content-length", "18"), ("content-length", "18")),
        Answers(),
    ),
    "8.1.1 content-length twice": (body(message(), ("content-length", "18"), ("content-length", "17")), MALFORMED),
    "8.1.1 less than content-length": (body(message(), ("content-length", "19")), MALFORMED),
    "8.1.1 more than content-length": (body(message(), ("content-length", "17")), MALFORMED),
    "8.1.1 more than content-length, before the end": (
        open_stream(3, headers(ECHO, ("content-length", "4"))) + data(3, message(), 0),
        MALFORMED,
    ),
    "8.1.1 content-length, padding aside": (
        open_stream(3, headers(ECHO, ("content-length", "18")))
        + data(3, b"\x07" + message() + bytes(7), f.PADDED | f.END_STREAM),
        Answers(),
    ),
    "8.1.1 content-length of several frames": (
        open_stream(3, headers(ECHO, ("content-length", "18"))) + data(3, message()[:9], 0) + data(3, message()[9:]),
        Answers(),
    ),
    "8.1.1 less than content-length, by trailers": (
        open_stream(3, headers(ECHO, ("content-length", "19"))) + data(3, message(), 0) + frame(f.HEADERS, 5, 3, b""),
        MALFORMED,
    ),
    "8.1.1 content-length, and no message": (
        open_stream(3, headers(ECHO, ("content-length", "18")), flags=5),
        MALFORMED,
    ),
    "8.1.1 content-length is no number": (body(message(), ("content-length", "18x")), MALFORMED),
    "8.1.1 content-length is negative": (body(message(), ("content-length", "-1")), MALFORMED),
    "8.1.1 content-length is endless": (body(message(), ("content-length", "9" * 30)), MALFORMED),
    "8.2.1 upper case": (with_headers(("X-Upper", "x")), MALFORMED),
    "8.2.1 upper case, not compressed": (with_block(literal(b"X-Upper", b"x")), MALFORMED),
    "8.2.1 a space in a name": (with_headers(("x y", "x")), MALFORMED),
    "8.2.1 a control character in a name": (with_headers(("x\x7f", "x")), MALFORMED),
    "8.2.1 a colon in a name": (with_headers(("x:y", "x")), MALFORMED),
    "8.2.1 a name beyond ASCII": (with_headers(("é", "x")), MALFORMED),
    "8.2.1 no name": (with_block(literal(b"", b"x")), MALFORMED),
    "8.2.1 NUL in a value": (blocked(block(headers(ECHO + "\0"))), MALFORMED),
    "8.2.1 a new line in a value": (with_headers(("grpc-timeout", "1S\n")), MALFORMED),
    "8.2.1 a carriage return in a value": (with_headers(("grpc-encoding", "\ridentity")), MALFORMED),
    "8.2.1 a space before a value": (with_headers(content_type=" application/grpc"), MALFORMED),
    "8.2.1 a tab behind a value": (with_headers(content_type="application/grpc\t"), MALFORMED),
    "8.2.1 what is not read may be anything": (
        with_block(literal(b"x", b"\0\r\n") + b"\0\1y\x84\xff\xff\xff\xff"),
        Answers(),
    ),
    "8.2.2 connection": (with_headers(("connection", "close")), MALFORMED),
    "8.2.2 keep-alive": (with_headers(("keep-alive", "1")), MALFORMED),
    "8.2.2 proxy-connection": (with_headers(("proxy-connection", "close")), MALFORMED),
    "8.2.2 transfer-encoding": (with_headers(("transfer-encoding", "chunked")), MALFORMED),
    "8.2.2 upgrade": (with_headers(("upgrade", "h2c")), MALFORMED),
    "8.2.2 te: trailers": (with_headers(te="trailers"), Answers()),
    "8.2.2 no te": (with_headers(te=None), Answers()),
    "8.2.2 te: gzip": (with_headers(te="gzip"), MALFORMED),
    "8.2.2 te: trailers, and gzip": (with_headers(te="trailers, gzip"), MALFORMED),
    "8.3 an unknown pseudo-header": (blocked(block([(":unknown", "x"), *headers()])), MALFORMED),
    "8.3 a pseudo-header of answers": (blocked(block([(":status", "200"), *headers()])), MALFORMED),
    "8.3 a pseudo-header behind a header": (blocked(block([("te", "trailers"), *headers(te=None)])), MALFORMED),
    "8.3 one that need not be there, behind a header": (
        blocked(block([*headers(authority=None), (":authority", "authz")])),
        MALFORMED,
    ),
    "8.3 behind a header that is not read": (blocked(block([("x-other", "x"), *headers()])), MALFORMED),
    "8.3.1 no :method": (with_headers(method=None), MALFORMED),
    "8.3.1 no :scheme": (with_headers(scheme=None), MALFORMED),
    "8.3.1 no :path": (blocked(block([one for one in headers() if one[0] != ":path"])), MALFORMED),
    "8.3.1 no :authority": (with_headers(authority=None), Answers()),
    "8.3.1 an empty :path": (with_headers(**{":path": ""}), MALFORMED),
    "8.3.1 :method twice": (blocked(block([(":method", "POST"), *headers()])), MALFORMED),
    "8.3.1 :scheme twice": (blocked(block([(":scheme", "http"), *headers()])), MALFORMED),
    "8.3.1 :path twice": (blocked(block([(":path", ECHO), *headers()])), MALFORMED),
    "8.3.1 :authority twice": (blocked(block([(":authority", "x"), *headers()])), MALFORMED),
    "8.3.1 nothing at all": (blocked(b""), MALFORMED),
    "8.5 CONNECT": (blocked(block([(":method", "CONNECT"), (":authority", "x:1")])), Answers(None, 405)),
    "8.5 CONNECT with a path": (with_headers(method="CONNECT"), MALFORMED),
}

GRPC: dict[str, tuple[bytes, Expected]] = {
    "GET": (with_headers(method="GET"), Answers(None, 405)),
    "GET, and nothing more": (open_stream(3, headers(method="GET"), flags=5), Answers(None, 405)),
    "post": (with_headers(method="post"), Answers(None, 405)),
    "no content-type": (with_headers(content_type=None), Answers(None, 415)),
    "content-type twice": (with_headers(("content-type", "application/grpc")), MALFORMED),
    "JSON": (with_headers(content_type="application/json"), Answers(None, 415)),
    "gRPC-Web": (with_headers(content_type="application/grpc-web"), Answers(None, 415)),
    "gRPC of JSON": (with_headers(content_type="application/grpc+json"), Answers(None, 415)),
    "gRPC of protobuf": (with_headers(content_type="application/grpc+proto"), Answers()),
    "gRPC of protobuf, with a parameter": (with_headers(content_type="application/grpc+proto; v=1"), Answers()),
    "gRPC in upper case": (with_headers(content_type="Application/GRPC"), Answers()),
    "an unknown method": (call(3, path="/tests.Bytes/None"), Answers(status=12)),
    "an unknown service": (call(3, path="/tests.None/Echo"), Answers(status=12)),
    "a path that is none": (call(3, path="*"), Answers(status=12)),
    "a query": (call(3, path=ECHO + "?a=b"), Answers(status=12)),
    "an unknown method, with its message to come": (open_stream(3, headers("/a/B")), Resets(f.NO_ERROR)),
    "a handler that fails": (call(3, path="/tests.Bytes/Fail"), Answers(status=13)),
    "no message": (open_stream(3, flags=5), Answers(status=13)),
    "no message, behind the headers": (body(b""), Answers(status=13)),
    "half a prefix": (body(message()[:3]), Answers(status=13)),
    "a prefix, and no message": (body(message()[:5]), Answers(status=13)),
    "a short message": (body(message()[:-1]), Answers(status=13)),
    "an empty message": (body(message(b"")), Answers()),
    "more than the message": (body(message() + b"x"), Answers(status=13)),
    "two messages": (body(message() + message()), Answers(status=13)),
    "a message in pieces": (
        OPEN + data(3, message()[:2], 0) + data(3, message()[2:7], 0) + data(3, b"", 0) + data(3, message()[7:]),
        Answers(),
    ),
    "a message, and its end for itself": (OPEN + data(3, message(), 0) + data(3, b""), Answers()),
    "two messages in pieces": (OPEN + data(3, message(), 0) + data(3, message(), 0), Resets(f.NO_ERROR)),
    "compressed": (body(message(flag=1), ("grpc-encoding", "gzip")), Answers(status=12)),
    "compressed, with nothing said of it": (body(message(flag=1)), Answers(status=13)),
    "compressed as identity": (body(message(flag=1), ("grpc-encoding", "identity")), Answers(status=13)),
    "not compressed, though it might be": (body(message(), ("grpc-encoding", "gzip")), Answers()),
    "a flag that there is not": (body(message(flag=2)), Answers(status=13)),
    "a large message": (body(message(b"x" * 16_000)), Answers()),
    "a message that is too large": (body(message()[:1] + f.WORD.pack(MAX_MESSAGE + 1)), Answers(status=8)),
    "a message that is too large, with more to come": (
        OPEN + data(3, message()[:1] + f.WORD.pack(MAX_MESSAGE + 1), 0),
        Resets(f.NO_ERROR),
    ),
    "a message of 4 GiB": (body(b"\0\xff\xff\xff\xff"), Answers(status=8)),
    "a time-out in hours": (call(3, b"", ECHO, ("grpc-timeout", "99999999H")), Answers()),
    "a time-out in minutes": (call(3, b"", ECHO, ("grpc-timeout", "1M")), Answers()),
    "a time-out in seconds": (call(3, b"", ECHO, ("grpc-timeout", "1S")), Answers()),
    "a time-out in milliseconds": (call(3, b"", ECHO, ("grpc-timeout", "200m")), Answers()),
    "a time-out in microseconds": (call(3, b"", ECHO, ("grpc-timeout", "5u")), Answers()),
    "a time-out in nanoseconds": (call(3, b"", ECHO, ("grpc-timeout", "5n")), Answers()),
    "a time-out of nothing": (call(3, b"", ECHO, ("grpc-timeout", "0m")), Answers(status=4)),
    "a time-out without a unit": (call(3, b"", ECHO, ("grpc-timeout", "1")), Answers(status=13)),
    "a time-out of another unit": (call(3, b"", ECHO, ("grpc-timeout", "1s")), Answers(status=13)),
    "a time-out of too many digits": (call(3, b"", ECHO, ("grpc-timeout", "100000000m")), Answers(status=13)),
    "a time-out of a fraction": (call(3, b"", ECHO, ("grpc-timeout", "1.5S")), Answers(status=13)),
    "an empty time-out": (call(3, b"", ECHO, ("grpc-timeout", "")), Answers(status=13)),
    "a time-out twice": (call(3, b"", ECHO, ("grpc-timeout", "1S"), ("grpc-timeout", "2S")), MALFORMED),
}


def judge(wire: Wire, expected: Expected) -> None:
    goaways = [one.code for one in wire.goaways]
    resets = {stream_id: answer.reset for stream_id, answer in wire.answers.items() if answer.reset is not None}
    if isinstance(expected, Ends):
        assert goaways == [expected.code]
        assert wire.is_over()
        assert wire.feed(PING) == []
        return
    assert (goaways, wire.is_over()) == ([], False)
    match expected:
        case Resets():
            assert resets == {expected.stream_id: expected.code}
        case Answers():
            answer = wire.answers[expected.stream_id]
            assert answer.ended
            assert (answer.status, answer.http) == (expected.status, expected.http)
            assert set(resets.values()) <= {f.NO_ERROR}
            assert set(resets) <= {expected.stream_id}
        case Allows():
            assert resets == {}


RULES = {
    **{f"HPACK: {name}": row for name, row in HPACK.items()},
    **{f"gRPC: {name}": row for name, row in GRPC.items()},
    **FRAMES,
    **{f"5.1 {name}": row for name, row in STATES.items()},
    **REQUESTS,
}


@pytest.mark.parametrize("size", [2**30, 1, 7], ids=["at once", "byte by byte", "in sevens"])
@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in RULES.items()])
def test_rules(row: tuple[bytes, Expected], size: int) -> None:
    sent, expected = row
    wire = Wire().hello()
    wire.feed(*pieces(sent, size))
    judge(wire, expected)
    if not isinstance(expected, Ends):
        [pong] = wire.feed(PING)
        assert (pong.kind, pong.flags, pong.payload) == (f.PING, f.ACK, b"12345678")


@pytest.mark.parametrize("size", [2**30, 1, 7], ids=["at once", "byte by byte", "in sevens"])
@pytest.mark.parametrize("row", [pytest.param(row, id=name) for name, row in OPENING.items()])
def test_rules_of_the_opening(row: tuple[bytes, Expected], size: int) -> None:
    sent, expected = row
    wire = Wire()
    wire.feed(*pieces(sent, size))
    judge(wire, expected)
