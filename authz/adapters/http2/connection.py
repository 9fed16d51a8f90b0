"""
One connection: what comes is parsed, a read at a time, and judged by the rules of RFC 9113.

An asyncio protocol by its methods alone, without asyncio's base class, so that it can be compiled to a native class.
"""

import contextlib
import logging
import struct
from asyncio import AbstractEventLoop, TimerHandle
from collections.abc import Callable
from typing import Any, Final

from authz.adapters.http2 import frames, limits
from authz.adapters.http2.blocks import BlockReader
from authz.adapters.http2.frames import (
    ACK,
    DATA,
    END_HEADERS,
    END_STREAM,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    FRAME_SIZE_ERROR,
    HEAD,
    HEAD_BYTES,
    HEADERS,
    LAST_STREAM,
    NO_ERROR,
    PADDED,
    PREFACE,
    PROTOCOL_ERROR,
    STREAM_CLOSED,
    WITH_PRIORITY,
    WORD,
    ProtocolError,
)
from authz.adapters.http2.messages import PREFIX_BYTES, Opening, Router, nobody
from authz.adapters.http2.outgoing import Outgoing
from authz.adapters.http2.stream import NEVER
from authz.adapters.http2.table import StreamTable


MAX_FRAME: Final = frames.DEFAULT_FRAME
GREETING: Final = frames.settings(
    (frames.HEADER_TABLE_SIZE, 0),
    (frames.MAX_CONCURRENT_STREAMS, limits.MAX_STREAMS),
    (frames.INITIAL_WINDOW_SIZE, limits.STREAM_WINDOW),
    (frames.MAX_HEADER_LIST_SIZE, limits.MAX_HEADER_LIST),
) + frames.window_update(0, limits.CONNECTION_WINDOW - frames.DEFAULT_WINDOW)
SELF_DEPENDENT: Final = Opening(nobody, b"", "a stream depends on itself")
DRAIN_PING: Final = b"draining"
NEARLY_LAST: Final = LAST_STREAM - 2_000_000  # what is left lets a client find itself another connection

_MESSAGE_HEAD: Final = struct.Struct(">IBIBI")  # a frame's head and a message's prefix
_MESSAGE_HEAD_BYTES: Final = HEAD_BYTES + PREFIX_BYTES
_REPLENISH: Final = limits.CONNECTION_WINDOW // 2

_log: Final = logging.getLogger(__name__)


class Block:
    """A header block, and what the frame that began it said."""

    def __init__(self, stream_id: int, *, ended: bool, depends_on_itself: bool) -> None:
        self.stream_id = stream_id
        self.ended = ended
        self.depends_on_itself = depends_on_itself
        self.begun_s = 0.0
        self._fragments = bytearray()
        self._frames = 0

    def add(self, fragment: bytes) -> None:
        self._frames += 1
        self._fragments += fragment
        if self._frames > limits.MAX_CONTINUATIONS + 1 or len(self._fragments) > limits.MAX_BLOCK:
            raise ProtocolError(ENHANCE_YOUR_CALM, "a header block is too large")

    def whole(self) -> bytes:
        return bytes(self._fragments)


class Connection:
    """From `connection_made` to `connection_lost`. *lost* is called with it at the end."""

    def __init__(
        self,
        loop: AbstractEventLoop,
        router: Router,
        lost: "Callable[[Connection], None]",
        max_message_bytes: int,
    ) -> None:
        now_s = loop.time()
        self._loop = loop
        self._router = router
        self._lost = lost
        self._largest_at_once = min(max_message_bytes, MAX_FRAME - PREFIX_BYTES)
        self._transport: Any = None
        self._out = Outgoing(loop)
        self._streams = StreamTable(loop, self._out, self._finish_if_drained, max_message_bytes)
        self._ids = self._streams.ids
        self._blocks = BlockReader(router.words)
        self._plain = False  # no header block is open, and the next depends on none before it
        self._block: Block | None = None
        self._rest = b""  # what is not a whole frame yet
        self._rest_since_s = now_s
        self._made_s = now_s
        self._preface_seen = False
        self._greeted = False  # the peer's SETTINGS came
        self._acknowledged = False  # and its ack of ours
        self._consumed = 0  # bytes of DATA since the connection's window was last widened
        self._controls = limits.Allowance(limits.CONTROL_BURST, limits.CONTROL_PER_S, limits.CONTROL_PER_CALL, now_s)
        self._stuck_since_s = NEVER  # the peer does not read
        self._over_since_s = NEVER  # there is nothing more to say to it
        self._draining = False
        self._drain_timer: TimerHandle | None = None

    # What asyncio calls

    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        transport.set_write_buffer_limits(high=limits.WRITE_BUFFER)
        self._out.attach(transport)
        transport.write(GREETING)
        if self._draining:
            self._finish(NO_ERROR, "")

    def data_received(self, data: bytes) -> None:
        if self._over_since_s != NEVER:
            return
        out = self._out
        out.hold()
        if self._rest:
            data = self._rest + data
        try:
            used = self._read(data)
        except ProtocolError as error:
            self._break(error)
            return
        if used < len(data) or self._rest:
            self._keep(data, used)
        out.flush()
        if self._draining or self._ids.next > NEARLY_LAST:
            self._leave()

    def eof_received(self) -> None:
        """The transport closes itself: a client of gRPC that half-closes the connection does not wait for answers."""

    def pause_writing(self) -> None:
        self._stuck_since_s = self._loop.time()
        self._out.stick()
        self._transport.pause_reading()

    def resume_writing(self) -> None:
        self._stuck_since_s = NEVER
        self._rest_since_s = self._loop.time()
        self._transport.resume_reading()
        self._out.unstick()
        self._finish_if_drained()

    def connection_lost(self, _: Exception | None) -> None:
        self._over_since_s = self._loop.time()
        self._out.detach()
        self._streams.drop_all()
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        self._lost(self)

    # Reading frames

    def _read(self, data: bytes) -> int:
        """Take all whole frames. How many bytes they were. Raises: ProtocolError."""
        at = 0
        end = len(data)
        if not self._preface_seen:
            at = self._read_preface(data)
            if not self._preface_seen:
                return 0
        while end - at >= HEAD_BYTES:
            word, flags, number = HEAD.unpack_from(data, at)
            stream_id: int = number & LAST_STREAM  # the bit above is reserved
            start = at + HEAD_BYTES
            behind: int = start + (word >> 8)
            if behind - start > MAX_FRAME:
                raise ProtocolError(FRAME_SIZE_ERROR, "a frame is too large")
            if behind > end:
                break
            if flags == END_HEADERS and word & 0xFF == HEADERS and stream_id == self._ids.next and self._plain:
                at = self._take_request(data, start, behind, stream_id)
            else:
                self._take_frame(word & 0xFF, flags, stream_id, data[start:behind])
                at = behind
        return at

    def _read_preface(self, data: bytes) -> int:
        if not PREFACE.startswith(data[: len(PREFACE)]):
            raise ProtocolError(PROTOCOL_ERROR, "this is not HTTP/2 with prior knowledge")
        if len(data) < len(PREFACE):
            return 0
        self._preface_seen = True
        return len(PREFACE)

    def _keep(self, data: bytes, used: int) -> None:
        """Of a frame that is not whole; for so long it has not been."""
        if used or not self._rest:
            self._rest_since_s = self._loop.time()
        self._rest = data[used:]

    def _take_request(self, data: bytes, start: int, behind: int, stream_id: int) -> int:
        """
        Headers in one frame, on the next stream, of a block that depends on no other: and mostly a frame behind it that
        is a whole message. How far it was taken.
        """
        block = data[start:behind]
        opening = self._router.known.get(block)
        if opening is None:
            opening = self._router.read(block)
        if opening.is_call and len(data) - behind >= _MESSAGE_HEAD_BYTES and self._streams.may_open():
            word, flags, number, compressed, length = _MESSAGE_HEAD.unpack_from(data, behind)
            size: int = length
            framed = size + PREFIX_BYTES
            message = behind + _MESSAGE_HEAD_BYTES
            if (
                number == stream_id
                and flags == END_STREAM
                and word == framed << 8 | DATA
                and compressed == 0
                and size <= self._largest_at_once
                and message + size <= len(data)
                and (opening.content_length < 0 or opening.content_length == framed)
            ):
                self._consume(framed)
                self._streams.call(stream_id, opening, data[message : message + size])
                return message + size
        self._streams.open(stream_id, opening, ended=False)
        return behind

    def _take_frame(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        """Every other frame."""
        if not self._greeted and (kind != frames.SETTINGS or flags & ACK):
            raise ProtocolError(PROTOCOL_ERROR, "the first frame is not SETTINGS")
        block = self._block
        if block is not None and (kind != frames.CONTINUATION or stream_id != block.stream_id):
            raise ProtocolError(PROTOCOL_ERROR, "a header block is interrupted")
        if kind == DATA:
            self._take_data(flags, stream_id, payload)
        elif kind == HEADERS:
            self._take_headers(flags, stream_id, payload)
        elif kind == frames.CONTINUATION:
            self._take_continuation(flags, payload)
        elif kind == frames.RST_STREAM:
            self._take_rst_stream(stream_id, payload)
        else:
            self._spend_control()
            self._take_control(kind, flags, stream_id, payload)

    def _take_control(self, kind: int, flags: int, stream_id: int, payload: bytes) -> None:
        if kind == frames.WINDOW_UPDATE:
            self._take_window_update(stream_id, payload)
        elif kind == frames.PING:
            self._take_ping(flags, stream_id, payload)
        elif kind == frames.SETTINGS:
            self._take_settings(flags, stream_id, payload)
        elif kind == frames.PRIORITY:
            self._take_priority(stream_id, payload)
        elif kind == frames.GOAWAY:
            self._take_goaway(stream_id, payload)
        elif kind == frames.PUSH_PROMISE:
            raise ProtocolError(PROTOCOL_ERROR, "a client may not push")
        # Other frames are those of extensions, and ignored.

    # Frames of calls

    def _take_data(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id == 0:
            raise ProtocolError(PROTOCOL_ERROR, "data belongs to a stream")
        if self._ids.is_idle(stream_id):
            raise ProtocolError(PROTOCOL_ERROR, "data on an idle stream")
        self._consume(len(payload))
        chunk = _without_padding(payload) if flags & PADDED else payload
        ended = flags & END_STREAM != 0
        if len(chunk) < limits.SMALL_DATA and not ended:
            self._spend_control()
        self._streams.receive(stream_id, chunk, len(payload), ended=ended)

    def _consume(self, length: int) -> None:
        """The connection's window: widened as soon as half of it is used, as nothing of it is kept back."""
        self._consumed += length
        if self._consumed >= _REPLENISH:
            self._out.send(frames.window_update(0, self._consumed))
            self._consumed = 0

    def _take_headers(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id & 1 == 0:
            raise ProtocolError(PROTOCOL_ERROR, "a client's streams have odd numbers")
        fragment = _without_padding(payload) if flags & PADDED else payload
        depends_on_itself = False
        if flags & WITH_PRIORITY:
            if len(fragment) < 5:
                raise ProtocolError(FRAME_SIZE_ERROR, "headers are shorter than their priority")
            depends_on_itself = WORD.unpack_from(fragment)[0] & LAST_STREAM == stream_id
            fragment = fragment[5:]
        if not self._ids.is_idle(stream_id) and not self._streams.is_open(stream_id):
            self._expect_forgiven(stream_id)
        block = Block(stream_id, ended=flags & END_STREAM != 0, depends_on_itself=depends_on_itself)
        self._add_to_block(block, flags, fragment)

    def _expect_forgiven(self, stream_id: int) -> None:
        if not self._ids.is_forgiven(stream_id):
            raise self._ids.reuse(stream_id)

    def _take_continuation(self, flags: int, payload: bytes) -> None:
        if self._block is None:
            raise ProtocolError(PROTOCOL_ERROR, "no header block is to be continued")
        self._add_to_block(self._block, flags, payload)

    def _add_to_block(self, block: Block, flags: int, fragment: bytes) -> None:
        block.add(fragment)
        if flags & END_HEADERS:
            self._block = None
            self._take_block(block)
            self._plain = self._blocks.stateless
        elif self._block is None:
            block.begun_s = self._loop.time()
            self._block = block
            self._plain = False

    def _take_block(self, block: Block) -> None:
        stream_id = block.stream_id
        streams = self._streams
        if self._ids.is_idle(stream_id):
            opening = self._opening(block.whole())
            streams.open(stream_id, SELF_DEPENDENT if block.depends_on_itself else opening, ended=block.ended)
            return
        head = self._blocks.read(block.whole())
        if streams.is_receiving(stream_id):
            streams.end(stream_id, head.trailers_fault() if block.ended else "trailers do not end the stream")
        elif streams.is_open(stream_id):
            streams.break_off(stream_id, STREAM_CLOSED)
        elif block.ended:
            self._ids.ended(stream_id)

    def _opening(self, block: bytes) -> Opening:
        if not self._blocks.stateless:
            return self._router.opening(self._blocks.read(block))
        return self._router.known.get(block) or self._router.read(block)

    def _take_rst_stream(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(FRAME_SIZE_ERROR, "RST_STREAM has 4 bytes")
        if self._ids.is_idle(stream_id):
            raise ProtocolError(PROTOCOL_ERROR, "RST_STREAM on an idle stream")
        self._streams.taken_back(stream_id)

    def _take_priority(self, stream_id: int, payload: bytes) -> None:
        """Ignored, once it is well-formed."""
        if stream_id == 0:
            raise ProtocolError(PROTOCOL_ERROR, "PRIORITY belongs to a stream")
        if len(payload) != 5:
            self._refuse_priority(stream_id, FRAME_SIZE_ERROR, "PRIORITY has 5 bytes")
        elif WORD.unpack_from(payload)[0] & LAST_STREAM == stream_id:
            self._refuse_priority(stream_id, PROTOCOL_ERROR, "a stream depends on itself")

    def _refuse_priority(self, stream_id: int, code: int, why: str) -> None:
        """An error of the stream, where there is one: an idle stream cannot be reset."""
        if self._ids.is_idle(stream_id):
            raise ProtocolError(code, why)
        self._streams.break_off(stream_id, code)

    # Frames of the connection

    def _take_window_update(self, stream_id: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ProtocolError(FRAME_SIZE_ERROR, "WINDOW_UPDATE has 4 bytes")
        increment = WORD.unpack(payload)[0] & frames.LARGEST_WINDOW
        if stream_id == 0:
            if increment == 0:
                raise ProtocolError(PROTOCOL_ERROR, "a window is widened by nothing")
            self._out.widen(increment)
        elif self._ids.is_idle(stream_id):
            raise ProtocolError(PROTOCOL_ERROR, "WINDOW_UPDATE on an idle stream")
        else:
            self._streams.widen(stream_id, increment)

    def _take_ping(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(PROTOCOL_ERROR, "PING belongs to the connection")
        if len(payload) != 8:
            raise ProtocolError(FRAME_SIZE_ERROR, "PING has 8 bytes")
        if not flags & ACK:
            self._out.send(frames.frame(frames.PING, ACK, 0, payload))
        elif self._draining and payload == DRAIN_PING:
            self.settle()

    def _take_goaway(self, stream_id: int, payload: bytes) -> None:
        """The peer opens no more streams; those that there are end as ever."""
        if stream_id:
            raise ProtocolError(PROTOCOL_ERROR, "GOAWAY belongs to the connection")
        if len(payload) < 8:
            raise ProtocolError(FRAME_SIZE_ERROR, "GOAWAY has at least 8 bytes")

    def _take_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        if stream_id:
            raise ProtocolError(PROTOCOL_ERROR, "SETTINGS belong to the connection")
        if flags & ACK:
            self._take_settings_ack(payload)
            return
        if len(payload) % frames.SETTING.size:
            raise ProtocolError(FRAME_SIZE_ERROR, "SETTINGS have 6 bytes each")
        if len(payload) > limits.MAX_SETTINGS * frames.SETTING.size:
            raise ProtocolError(ENHANCE_YOUR_CALM, "there are too many SETTINGS")
        window = -1
        for name, value in frames.SETTING.iter_unpack(payload):
            if name == frames.INITIAL_WINDOW_SIZE:
                if value > frames.LARGEST_WINDOW:
                    raise ProtocolError(FLOW_CONTROL_ERROR, "a window is too large")
                window = value
            elif name == frames.MAX_FRAME_SIZE:
                if not frames.DEFAULT_FRAME <= value <= frames.LARGEST_FRAME:
                    raise ProtocolError(PROTOCOL_ERROR, "SETTINGS_MAX_FRAME_SIZE is out of range")
                self._out.set_largest_frame(value)
            elif name == frames.ENABLE_PUSH and value > 1:
                raise ProtocolError(PROTOCOL_ERROR, "SETTINGS_ENABLE_PUSH is neither 0 nor 1")
        self._greeted = True
        self._out.send(frames.frame(frames.SETTINGS, ACK, 0, b""))
        if window >= 0:
            self._out.set_stream_window(window, self._streams.highest_credit())

    def _take_settings_ack(self, payload: bytes) -> None:
        if payload:
            raise ProtocolError(FRAME_SIZE_ERROR, "an ack of SETTINGS is empty")
        if self._acknowledged:
            raise ProtocolError(PROTOCOL_ERROR, "there are no SETTINGS to acknowledge")
        self._acknowledged = True
        self._blocks.acknowledged()
        self._plain = self._blocks.stateless
        self._streams.acknowledged()

    def _spend_control(self) -> None:
        if not self._controls.spend(self._loop.time(), self._ids.opened):
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many frames that ask for nothing")

    # The end

    def tick(self, now_s: float) -> None:
        """Once in a while: is the peer too slow?"""
        if self._transport is None:
            return
        if self._over_since_s != NEVER:
            self._linger(now_s - self._over_since_s)
            return
        try:
            self._expect_progress(now_s)
        except ProtocolError as error:
            self._break(error)
        else:
            self._streams.give_up_slow(now_s)
            self._finish_if_drained()

    def _linger(self, over_s: float) -> None:
        patience_s = limits.STALL_S if self._transport.get_write_buffer_size() else limits.LINGER_S
        if over_s >= patience_s:
            self._transport.abort()

    def _expect_progress(self, now_s: float) -> None:
        late_s = now_s - limits.PATIENCE_S
        if not self._greeted and self._made_s < late_s:
            raise ProtocolError(PROTOCOL_ERROR, "the preface does not come")
        if not self._acknowledged and self._made_s < late_s:
            raise ProtocolError(frames.SETTINGS_TIMEOUT, "SETTINGS are not acknowledged")
        if self._rest and self._rest_since_s < late_s and self._stuck_since_s == NEVER:
            raise ProtocolError(ENHANCE_YOUR_CALM, "the rest of a frame does not come")
        if self._block is not None and max(self._block.begun_s, self._rest_since_s) < late_s:
            raise ProtocolError(ENHANCE_YOUR_CALM, "the rest of a header block does not come")
        stalled_s = now_s - limits.STALL_S
        if self._stuck_since_s < stalled_s or (self._out.blocked and self._out.moved_s < stalled_s):
            raise ProtocolError(ENHANCE_YOUR_CALM, "answers are not read")

    def drain(self) -> None:
        """
        Open no more streams, in two steps: the peer is told, and its answer to a PING shows that it knows. What it had
        sent by then is still served.
        """
        if self._draining:
            return
        self._draining = True
        if self._over_since_s != NEVER or self._transport is None:
            return
        if not self._greeted:
            self._finish(NO_ERROR, "")
            return
        self._out.send(frames.goaway(LAST_STREAM, NO_ERROR) + frames.frame(frames.PING, 0, 0, DRAIN_PING))
        self._drain_timer = self._loop.call_later(limits.DRAIN_PING_S, self.settle)

    def settle(self) -> None:
        """The second step: these streams, and no others."""
        if self._streams.closing or self._over_since_s != NEVER:
            return
        self._streams.closing = True
        self._out.send(frames.goaway(self._ids.last, NO_ERROR))
        self._finish_if_drained()

    def stop(self) -> None:
        """No more time: what is under way is answered as such."""
        self._draining = True
        if self._over_since_s == NEVER and self._transport is not None:
            self._streams.give_up_all()
            self._finish(NO_ERROR, "")

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _leave(self) -> None:
        """Numbers are running out, or the server stops."""
        self.drain()
        self._finish_if_drained()

    def _finish_if_drained(self) -> None:
        if self._streams.closing and self._streams.is_empty and self._over_since_s == NEVER:
            self._hang_up()

    def _break(self, error: ProtocolError) -> None:
        """The peer broke a rule."""
        _log.warning("a connection was ended: %s", error.why)
        self._finish(error.code, error.why)

    def _finish(self, code: int, why: str) -> None:
        self._out.send(frames.goaway(self._ids.last, code, why))
        self._hang_up()
        self._streams.drop_all()

    def _hang_up(self) -> None:
        """
        Half-close, and read on until the peer closes too: closed at once, with something unread, the peer could be told
        of a reset before it has read what we said.
        """
        self._over_since_s = self._loop.time()
        self._out.flush()
        self._out.detach()
        self._rest = b""
        self._block = None
        self._transport.resume_reading()
        if not self._transport.get_write_buffer_size():
            with contextlib.suppress(OSError):  # it is gone already
                self._transport.write_eof()


def _without_padding(payload: bytes) -> bytes:
    if not payload:
        raise ProtocolError(FRAME_SIZE_ERROR, "a padded frame says how much of it is padding")
    padding = payload[0]
    if padding >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "there is more padding than frame")
    return payload[1 : len(payload) - padding]
