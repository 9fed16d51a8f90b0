"""An HTTP/2 client of bytes in and frames out: on a connection without a socket, under a clock that is moved on."""

import asyncio
import struct
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextvars import Context
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import hpack

from authz.adapters.http2 import frames as f
from authz.adapters.http2.connection import Connection
from authz.adapters.http2.frames import frame
from authz.adapters.http2.messages import Router


SERVICE: Final = "tests.Bytes"
ECHO: Final = f"/{SERVICE}/Echo"
WAIT: Final = f"/{SERVICE}/Wait"
FAIL: Final = f"/{SERVICE}/Fail"
MAX_MESSAGE: Final = 64 * 1024
MESSAGE: Final = b"what is asked"

Header = tuple[str, str]
HELLO: Final = f.PREFACE + f.settings() + frame(f.SETTINGS, f.ACK, 0, b"")


def headers(path: str = ECHO, *more: Header, **changed: str | None) -> list[Header]:
    """Of a call; *changed*: `method="GET"`, `te=None` (left out)."""
    names = {"method": ":method", "scheme": ":scheme", "authority": ":authority", "content_type": "content-type"}
    made = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "authz",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for name, value in changed.items():
        made[names.get(name, name)] = value or ""
        if value is None:
            del made[names.get(name, name)]
    return [*made.items(), *more]


def block(fields: Iterable[Header], *, huffman: bool = True) -> bytes:
    """A header block that depends on no other."""
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(list(fields), huffman=huffman).removeprefix(b"\x20")


def message(body: bytes = MESSAGE, flag: int = 0) -> bytes:
    """As gRPC frames it."""
    return struct.pack(">BI", flag, len(body)) + body


def open_stream(stream_id: int, fields: Iterable[Header] | None = None, flags: int = f.END_HEADERS) -> bytes:
    return frame(f.HEADERS, flags, stream_id, block(headers() if fields is None else fields))


def data(stream_id: int, payload: bytes, flags: int = f.END_STREAM) -> bytes:
    return frame(f.DATA, flags, stream_id, payload)


def call(stream_id: int, body: bytes = MESSAGE, path: str = ECHO, *more: Header) -> bytes:
    """A whole call, as Envoy sends it."""
    return open_stream(stream_id, headers(path, *more)) + data(stream_id, message(body))


class Frame(NamedTuple):
    kind: int
    flags: int
    stream_id: int
    payload: bytes

    @property
    def code(self) -> int:
        """Of RST_STREAM and GOAWAY."""
        return int.from_bytes(self.payload[:4] if self.kind == f.RST_STREAM else self.payload[4:8])

    @property
    def number(self) -> int:
        """Of WINDOW_UPDATE: the increment; of GOAWAY: the last stream."""
        return int.from_bytes(self.payload[:4])


def parse(sent: bytes) -> list[Frame]:
    """Whole frames, and nothing but them."""
    found: list[Frame] = []
    while sent:
        word, flags, stream_id = f.HEAD.unpack_from(sent)
        end = f.HEAD_BYTES + (word >> 8)
        assert len(sent) >= end, "half a frame was written"
        found.append(Frame(word & 0xFF, flags, stream_id, sent[f.HEAD_BYTES : end]))
        sent = sent[end:]
    return found


@dataclass
class Answer:
    """`status`: of gRPC, None where there is none. `ended`: END_STREAM or RST_STREAM came."""

    headers: list[dict[str, str]] = field(default_factory=list)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def http(self) -> int:
        return int(self.headers[0][":status"])

    @property
    def status(self) -> int | None:
        status = self.headers[-1].get("grpc-status") if self.headers else None
        return None if status is None else int(status)

    @property
    def message(self) -> bytes:
        flag, size = struct.unpack_from(">BI", self.body)
        assert (flag, size) == (0, len(self.body) - 5)
        return self.body[5:]


def answers(found: Sequence[Frame]) -> dict[int, Answer]:
    """By stream. The frames are all that the connection has sent, as header blocks depend on those before."""
    decoder = hpack.Decoder()
    made: dict[int, Answer] = {}
    for one in found:
        if one.stream_id == 0 or one.kind not in {f.HEADERS, f.DATA, f.RST_STREAM}:
            continue
        answer = made.setdefault(one.stream_id, Answer())
        if one.kind == f.RST_STREAM:
            answer.reset = one.code
            answer.ended = True
            continue
        assert not answer.ended, "something behind the end of a stream"
        if one.kind == f.HEADERS:
            assert one.flags & f.END_HEADERS
            answer.headers.append({str(name): str(value) for name, value in decoder.decode(one.payload)})
        else:
            answer.body += one.payload
        answer.ended = bool(one.flags & f.END_STREAM)
    return made


class Timer:
    """Of `Loop`."""

    def __init__(self, at_s: float, callback: Callable[..., object], args: tuple[object, ...]) -> None:
        self.at_s = at_s
        self.callback = callback
        self.args = args
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Loop:
    """As much of an event loop as a connection and asyncio's futures need. Time stands still but for `advance`."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.timers: list[Timer] = []
        self._ready: deque[tuple[Callable[..., object], tuple[object, ...]]] = deque()

    def time(self) -> float:
        return self.now_s

    def get_debug(self) -> bool:
        return False

    def call_soon(self, callback: Callable[..., object], *args: object, context: Context | None = None) -> None:
        self._ready.append((callback, args))

    def call_at(self, at_s: float, callback: Callable[..., object], *args: object) -> Timer:
        self.timers.append(Timer(at_s, callback, args))
        return self.timers[-1]

    def call_later(self, in_s: float, callback: Callable[..., object], *args: object) -> Timer:
        return self.call_at(self.now_s + in_s, callback, *args)

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        raise AssertionError(context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)  # type: ignore[arg-type]

    def run(self) -> None:
        """Until nothing is ready."""
        while self._ready:
            callback, args = self._ready.popleft()
            callback(*args)

    def advance(self, by_s: float) -> None:
        self.now_s += by_s
        self.timers = [timer for timer in self.timers if not timer.cancelled]
        for timer in [timer for timer in self.timers if timer.at_s <= self.now_s]:
            self.timers.remove(timer)
            timer.callback(*timer.args)
        self.run()


class Transport:
    """Takes what is written. `slow`: the peer does not read, so that what is beyond the buffer's limit is too much."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.unread = 0
        self.slow = False
        self.reading = True
        self.eof = False
        self.aborted = False
        self.protocol: Connection | None = None
        self._high = 64 * 1024
        self._paused = False

    def set_write_buffer_limits(self, high: int) -> None:
        self._high = high

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, sent: bytes) -> None:
        assert sent, "nothing is written"
        assert not self.eof, "something is written behind the end"
        self.written.append(sent)
        if self.slow:
            self.unread += len(sent)
        if self.unread > self._high and not self._paused and self.protocol is not None:
            self._paused = True
            self.protocol.pause_writing()

    def read_all(self) -> None:
        """The peer reads what has been written."""
        self.unread = 0
        if self._paused and self.protocol is not None:
            self._paused = False
            self.protocol.resume_writing()

    def is_read(self) -> bool:
        return self.reading

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def write_eof(self) -> None:
        self.eof = True

    def abort(self) -> None:
        self.aborted = True


class Handlers:
    """`waiting`: the futures of calls of `Wait`, by message; `cancelled`: messages whose calls were cancelled."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self.waiting: dict[bytes, asyncio.Future[bytes]] = {}
        self.cancelled: list[bytes] = []
        self.begun = 0

    async def echo(self, asked: bytes) -> bytes:
        self.begun += 1
        return asked

    async def wait(self, asked: bytes) -> bytes:
        self.begun += 1
        self.waiting[asked] = self._loop.create_future()
        try:
            return await self.waiting[asked]
        except asyncio.CancelledError:
            self.cancelled.append(asked)
            raise
        finally:
            del self.waiting[asked]

    async def fail(self, asked: bytes) -> bytes:
        self.begun += 1
        raise ValueError(asked)


class Wire:
    """One connection, and what it has sent. *loop*: a real one, which runs when the test waits; else one of its own."""

    def __init__(
        self,
        *,
        max_message_bytes: int = MAX_MESSAGE,
        more: dict[str, Callable[[bytes], Awaitable[bytes]]] | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.loop = Loop()
        self.handlers = Handlers(self.loop)
        handlers = self.handlers
        methods = {"Echo": handlers.echo, "Wait": handlers.wait, "Fail": handlers.fail, **(more or {})}
        self.router = Router({SERVICE: methods})
        self.lost: list[Connection] = []
        event_loop: Any = loop or self.loop
        self.connection = Connection(event_loop, self.router, self.lost.append, max_message_bytes)
        self.transport = Transport()
        self.transport.protocol = self.connection
        self.connection.connection_made(self.transport)
        self._taken = 0

    def feed(self, *pieces: bytes) -> list[Frame]:
        """What is sent in answer."""
        for piece in pieces:
            self.connection.data_received(piece)
        self.loop.run()
        return self.new()

    def hello(self, first_block: bytes = b"\x20") -> "Wire":
        """Past the greeting; the first header block has said that the table is given up (on stream 1)."""
        if first_block:
            opening = frame(f.HEADERS, f.END_HEADERS, 1, first_block + block(headers()))
            self.feed(HELLO + opening + data(1, message()))
        else:
            self.feed(HELLO)
        return self

    def new(self) -> list[Frame]:
        """The frames since the last time."""
        written = self.transport.written[self._taken :]
        self._taken += len(written)
        return [one for piece in written for one in parse(piece)]

    @property
    def frames(self) -> list[Frame]:
        """All there were."""
        return [one for piece in self.transport.written for one in parse(piece)]

    @property
    def answers(self) -> dict[int, Answer]:
        return answers(self.frames)

    @property
    def goaways(self) -> list[Frame]:
        return [one for one in self.frames if one.kind == f.GOAWAY]

    def tick(self, after_s: float) -> list[Frame]:
        """The server's, after a while."""
        self.loop.advance(after_s)
        self.connection.tick(self.loop.now_s)
        self.loop.run()
        return self.new()

    def lose(self) -> None:
        self.connection.connection_lost(None)
        self.loop.run()

    def is_over(self) -> bool:
        """The connection has said its last word."""
        return self.connection._over_since_s != float("inf")
