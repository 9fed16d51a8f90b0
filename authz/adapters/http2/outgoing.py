"""What goes to the peer: frames collected and written together, within its windows and its patience."""

import struct
from asyncio import AbstractEventLoop
from typing import Any, Final

from authz.adapters.http2.frames import (
    DATA,
    DEFAULT_FRAME,
    DEFAULT_WINDOW,
    END_HEADERS,
    END_STREAM,
    FLOW_CONTROL_ERROR,
    HEADERS,
    LARGEST_WINDOW,
    ProtocolError,
    frame,
    head,
)
from authz.adapters.http2.limits import WRITE_BUFFER
from authz.adapters.http2.messages import ANSWER, OK, PREFIX, PREFIX_BYTES
from authz.adapters.http2.stream import Stream


_NO_TABLE: Final = b"\x20"  # we use no dynamic table either; said once, whatever size the peer would have given it

# An answer that fits into one frame: everything but the message itself, in two pieces.
_BEFORE: Final = struct.Struct(f">IBI{len(ANSWER)}sIBIBI")
_BEHIND: Final = struct.Struct(f">IBI{len(OK)}s")
_ANSWER_WORD: Final[int] = len(ANSWER) << 8 | HEADERS
_OK_WORD: Final[int] = len(OK) << 8 | HEADERS
_ENDING: Final = END_HEADERS | END_STREAM


class Outgoing:
    """The sending half of a connection."""

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: Any = None
        self._parts: list[bytes] = []
        self._due = False  # somebody is going to flush
        self._window = DEFAULT_WINDOW
        self._stream_window = DEFAULT_WINDOW
        self._largest_frame = DEFAULT_FRAME
        self._table_told = False
        self._at_once = 0  # the largest DATA that needs no look at anything but the connection's window
        self._stuck = False  # the peer does not read
        self.blocked: dict[int, Stream] = {}  # whose answers wait for a window, or for the peer to read
        self.moved_s = 0.0  # when the first of the blocked last moved on

    def attach(self, transport: Any) -> None:
        self._transport = transport

    def detach(self) -> None:
        """Nothing can be sent any more."""
        self._transport = None
        self._parts.clear()

    def send(self, frames: bytes) -> None:
        self._parts.append(frames)
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def hold(self) -> None:
        """Collect until `flush`."""
        self._due = True

    def flush(self) -> None:
        self._due = False
        if self._parts:
            collected = b"".join(self._parts)
            self._parts.clear()
            if self._transport is not None:
                self._transport.write(collected)

    def answer(self, stream: Stream, message: bytes) -> None:
        """The call's one message and its end; in pieces, and later, where a window says so."""
        size = len(message)
        framed = size + PREFIX_BYTES
        if framed > self._at_once or framed > self._window:
            self._answer_in_pieces(stream, message)
            return
        self._window -= framed
        number = stream.id
        parts = self._parts
        parts.append(_BEFORE.pack(_ANSWER_WORD, END_HEADERS, number, ANSWER, framed << 8, 0, number, 0, size))
        parts.append(message)
        parts.append(_BEHIND.pack(_OK_WORD, _ENDING, number, OK))
        if not self._due:
            self._due = True
            self._loop.call_soon(self.flush)

    def refuse(self, stream_id: int, block: bytes) -> None:
        """An answer that is headers alone."""
        self.send(frame(HEADERS, _ENDING, stream_id, self._first(block)))

    def _answer_in_pieces(self, stream: Stream, message: bytes) -> None:
        self.send(frame(HEADERS, END_HEADERS, stream.id, self._first(ANSWER)))
        stream.unsent = PREFIX.pack(0, len(message)) + message
        if not self.blocked:
            self.moved_s = self._loop.time()
        self.blocked[stream.id] = stream
        self.pump()

    def _first(self, block: bytes) -> bytes:
        if self._table_told:
            return block
        self._table_told = True
        return _NO_TABLE + block

    def pump(self) -> None:
        """Send of the answers that wait what may be sent, those first that wait longest."""
        for stream in list(self.blocked.values()):
            before = stream.sent
            self._send_of(stream)
            if stream.sent != before:
                self.moved_s = self._loop.time()
            if stream.sent == len(stream.unsent):
                self.send(frame(HEADERS, _ENDING, stream.id, OK))
                del self.blocked[stream.id]
            if self._window <= 0 or self._stuck:
                break
        self._judge()

    def _send_of(self, stream: Stream) -> None:
        collected = 0
        while not self._stuck:
            size = min(
                len(stream.unsent) - stream.sent,
                self._window,
                self._stream_window + stream.credit,
                self._largest_frame,
            )
            if size <= 0:
                break
            piece = stream.unsent[stream.sent : stream.sent + size]
            self.send(head(size, DATA, 0, stream.id) + piece)
            stream.sent += size
            stream.credit -= size
            self._window -= size
            collected += size
            if collected >= WRITE_BUFFER:
                collected = 0
                self._write_now()

    def _write_now(self) -> None:
        """So that the transport can say that it is enough."""
        due = self._due
        self.flush()
        self._due = due

    def _judge(self) -> None:
        """Who comes later may not overtake those who wait."""
        free = self._table_told and not self.blocked and not self._stuck
        self._at_once = min(self._largest_frame, self._stream_window) if free else 0

    def forget(self, stream: Stream) -> None:
        """It was ended: nothing more is sent of its answer."""
        self.blocked.pop(stream.id, None)
        self._judge()

    def widen(self, increment: int) -> None:
        """The peer's WINDOW_UPDATE for the connection."""
        self._window += increment
        if self._window > LARGEST_WINDOW:
            raise ProtocolError(FLOW_CONTROL_ERROR, "the connection's window is too large")
        if self.blocked:
            self.pump()

    def widen_stream(self, stream: Stream, increment: int) -> bool:
        """The peer's WINDOW_UPDATE for one stream. False: its window is too large now."""
        stream.credit += increment
        if self._stream_window + stream.credit > LARGEST_WINDOW:
            return False
        if stream.id in self.blocked:
            self.pump()
        return True

    def set_stream_window(self, size: int, highest_credit: int) -> None:
        """The peer's SETTINGS_INITIAL_WINDOW_SIZE, which counts for open streams too."""
        if size + highest_credit > LARGEST_WINDOW:
            raise ProtocolError(FLOW_CONTROL_ERROR, "a stream's window is too large")
        self._stream_window = size
        self.pump()

    def set_largest_frame(self, size: int) -> None:
        self._largest_frame = size
        self._judge()

    def stick(self) -> None:
        """The peer does not read what we write."""
        self._stuck = True
        self._judge()

    def unstick(self) -> None:
        self._stuck = False
        self.pump()
