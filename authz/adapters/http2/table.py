"""The streams of one connection: opened, received, run, answered, taken back, out of time."""

import logging
import traceback
from asyncio import AbstractEventLoop, CancelledError, TimerHandle
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Final

from authz.adapters.http2 import limits, messages
from authz.adapters.http2.frames import (
    CANCEL,
    DEFAULT_WINDOW,
    ENHANCE_YOUR_CALM,
    FLOW_CONTROL_ERROR,
    NO_ERROR,
    PROTOCOL_ERROR,
    REFUSED_STREAM,
    STREAM_CLOSED,
    ProtocolError,
    rst_stream,
    window_update,
)
from authz.adapters.http2.identifiers import Identifiers
from authz.adapters.http2.messages import NO_TIMEOUT, Opening
from authz.adapters.http2.outgoing import Outgoing
from authz.adapters.http2.stream import NEVER, Stream, StreamOwner
from authz.adapters.http2.uploads import Room, Upload


_log: Final = logging.getLogger(__name__)


class StreamTable(StreamOwner):
    """
    A stream is in one of three places: `_receiving` until its message is whole, `_running` until its handler is done,
    and then gone, unless its answer waits for a window (`Outgoing.blocked`). *changed* is called after the end of a
    stream, once no more are opened.
    """

    def __init__(
        self, loop: AbstractEventLoop, outgoing: Outgoing, changed: Callable[[], None], max_message_bytes: int
    ) -> None:
        self.ids = Identifiers()
        self.closing = False  # no stream is opened any more
        self._loop = loop
        self._out = outgoing
        self._changed = changed
        self._largest = max_message_bytes
        self._receiving: dict[int, Stream] = {}
        self._running: dict[int, Stream] = {}
        self._leaving: set[Stream] = set()  # ended, while their handlers are still being cancelled
        self._room = Room(max(limits.LARGE_MESSAGES, 2 * max_message_bytes))
        self._first_window = DEFAULT_WINDOW  # until the peer has our SETTINGS
        self._alarm: TimerHandle | None = None
        self._alarm_s = NEVER
        self._resets = limits.Allowance(limits.RESET_BURST, limits.RESET_PER_S, limits.RESET_PER_CALL, loop.time())

    @property
    def is_empty(self) -> bool:
        """Nothing is owed to the peer."""
        return not (self._receiving or self._running or self._out.blocked)

    def may_open(self) -> bool:
        taken = len(self._running) + len(self._receiving) + len(self._leaving) + len(self._out.blocked)
        return taken < limits.MAX_STREAMS and not self.closing

    # A call, from its headers to its answer

    def call(self, stream_id: int, opening: Opening, message: bytes) -> None:
        """A new stream whose message is there already. *opening* is a call, and the stream may be opened."""
        ids = self.ids
        ids.next = stream_id + 2
        ids.opened += 1
        stream = Stream(self, self._loop, stream_id, opening)
        self._run(stream, message)
        if opening.timeout_s >= 0 and stream_id in self._running:
            self._watch(stream)

    def open(self, stream_id: int, opening: Opening, *, ended: bool) -> None:
        """A new stream; its message is to come, unless it has *ended*."""
        self.ids.open(stream_id)
        if opening.fault:
            self.reset(stream_id, PROTOCOL_ERROR, ended=ended)
        elif not self.may_open():
            self.reset(stream_id, REFUSED_STREAM, ended=ended)
        elif opening.refusal:
            self._refuse(stream_id, opening.refusal, ended=ended)
        elif ended and opening.content_length > 0:
            self.reset(stream_id, PROTOCOL_ERROR, ended=True)
        elif ended:
            self._refuse(stream_id, messages.NO_MESSAGE, ended=True)
        else:
            stream = Stream(self, self._loop, stream_id, opening)
            stream.upload = Upload(stream_id, opening, self._first_window, self._largest, self._loop.time())
            self._receiving[stream_id] = stream
            if opening.timeout_s != NO_TIMEOUT:
                self._watch(stream)

    def receive(self, stream_id: int, chunk: bytes, length: int, *, ended: bool) -> None:
        """DATA. *length*: of the frame's payload, padding included."""
        stream = self._receiving.get(stream_id)
        if stream is None or stream.upload is None:
            self._receive_stray(stream_id, ended=ended)
            return
        upload = stream.upload
        upload.window -= length
        refused = upload.take(chunk)
        if upload.window < 0:
            self._abandon(stream, FLOW_CONTROL_ERROR, ended=ended)
        elif upload.breaks_length(ended=ended):
            self._abandon(stream, PROTOCOL_ERROR, ended=ended)
        elif refused:
            self._forget(stream)
            self._refuse(stream_id, refused, ended=ended)
        elif ended:
            self._received(stream, upload)
        else:
            self._widen(upload)

    def end(self, stream_id: int, fault: str) -> None:
        """Trailers: nothing more comes. *fault*: why they are malformed."""
        stream = self._receiving[stream_id]
        if stream.upload is None or fault or stream.upload.breaks_length(ended=True):
            self._abandon(stream, PROTOCOL_ERROR, ended=True)
        else:
            self._received(stream, stream.upload)

    def _received(self, stream: Stream, upload: Upload) -> None:
        """The peer has said all it has to say."""
        refused = upload.end_refusal()
        if refused:
            self._forget(stream)
            self._refuse(stream.id, refused, ended=True)
        else:
            del self._receiving[stream.id]
            self._run(stream, upload.message())

    def _run(self, stream: Stream, message: bytes) -> None:
        self._running[stream.id] = stream
        stream.begin(stream.opening.handler, message)

    def answered(self, stream: Stream, answer: object) -> None:
        if not isinstance(answer, bytes):
            self.failed(stream, TypeError())
        elif self._has_ended(stream):
            self._out.answer(stream, answer)
            if self.closing:
                self._loop.call_soon(self._changed)

    def _has_ended(self, stream: Stream) -> bool:
        """Out of `_running`. False: nobody waits for it any more."""
        if self._running.pop(stream.id, None) is None:
            self._leaving.discard(stream)
            return False
        if stream.upload is not None:
            self._leave_room(stream.upload)
        return True

    def failed(self, stream: Stream, error: BaseException) -> None:
        is_waited_for = self._has_ended(stream)
        if is_waited_for or not isinstance(error, CancelledError):
            where = "".join(traceback.format_tb(error.__traceback__))  # not the error's text: it may quote the message
            _log.error("a handler failed", extra={"fields": {"error": type(error).__name__, "traceback": where}})
        if is_waited_for:
            self._out.refuse(stream.id, messages.FAILED)
            if self.closing:
                self._loop.call_soon(self._changed)

    # Windows

    def acknowledged(self) -> None:
        """The peer has our SETTINGS: its streams' windows are smaller from now on, and were all along."""
        less = self._first_window - limits.STREAM_WINDOW
        self._first_window = limits.STREAM_WINDOW
        for stream in self._receiving.values():
            if stream.upload is not None:
                stream.upload.window -= less
                self._widen(stream.upload)

    def widen(self, stream_id: int, increment: int) -> None:
        """The peer's WINDOW_UPDATE for a stream that is not idle."""
        stream = self._find(stream_id)
        if stream is None:
            return  # it has ended, which the peer did not know
        if increment == 0:
            self._abandon(stream, PROTOCOL_ERROR, ended=stream_id not in self._receiving)
        elif not self._out.widen_stream(stream, increment):
            self._abandon(stream, FLOW_CONTROL_ERROR, ended=stream_id not in self._receiving)

    def highest_credit(self) -> int:
        return max((stream.credit for stream in self._all()), default=0)

    def _widen(self, upload: Upload) -> None:
        missing = upload.missing_window()
        if missing and (not upload.large or self._room.enter(upload)):
            self._grant(upload, missing)

    def _grant(self, upload: Upload, increment: int) -> None:
        upload.window += increment
        self._out.send(window_update(upload.stream_id, increment))

    def _leave_room(self, upload: Upload) -> None:
        for entered in self._room.leave(upload):
            self._grant(entered, entered.missing_window())

    # Ends that are no answer of a handler's

    def taken_back(self, stream_id: int) -> None:
        """The peer's RST_STREAM for a stream that is not idle."""
        self._spend_reset()
        self.ids.ended(stream_id)
        stream = self._find(stream_id)
        if stream is not None:
            self._forget(stream)

    def reset(self, stream_id: int, code: int, *, ended: bool) -> None:
        """End a stream that is in no place for a mistake of the peer's."""
        self._spend_reset()
        self._out.send(rst_stream(stream_id, code))
        if not ended:
            self.ids.forgive(stream_id)

    def break_off(self, stream_id: int, code: int) -> None:
        """End a stream for a mistake of the peer's, wherever it is."""
        stream = self._find(stream_id)
        if stream is not None:
            self._abandon(stream, code, ended=stream_id not in self._receiving)

    def is_receiving(self, stream_id: int) -> bool:
        return stream_id in self._receiving

    def is_open(self, stream_id: int) -> bool:
        return self._find(stream_id) is not None

    def expire(self, now_s: float) -> None:
        """Answer the calls whose time is over."""
        for stream in [stream for stream in self._all() if stream.deadline_s <= now_s]:
            self._give_up(stream, messages.LATE)

    def give_up_slow(self, now_s: float) -> None:
        """Answer those whose message does not come."""
        slow = [
            stream
            for stream in self._receiving.values()
            if stream.upload is not None and now_s - stream.upload.begun_s > limits.STALL_S
        ]
        for stream in slow:
            self._give_up(stream, messages.SLOW)

    def give_up_all(self) -> None:
        """Answer all that there are: the server stops."""
        for stream in list(self._all()):
            self._give_up(stream, messages.STOPPING)

    def drop_all(self) -> None:
        """The peer is gone."""
        for stream in list(self._all()):
            self._forget(stream)
        if self._alarm is not None:
            self._alarm.cancel()

    def _receive_stray(self, stream_id: int, *, ended: bool) -> None:
        """DATA on a stream that expects none."""
        if self._find(stream_id) is not None:
            self.break_off(stream_id, STREAM_CLOSED)
        elif not self.ids.is_forgiven(stream_id):
            raise ProtocolError(STREAM_CLOSED, "data on a closed stream")
        elif ended:
            self.ids.ended(stream_id)

    def _give_up(self, stream: Stream, block: bytes) -> None:
        is_receiving = stream.id in self._receiving
        is_blocked = stream.id in self._out.blocked
        self._forget(stream)
        if is_blocked:
            self._out.send(rst_stream(stream.id, CANCEL))  # half of an answer is sent
        else:
            self._refuse(stream.id, block, ended=not is_receiving)

    def _abandon(self, stream: Stream, code: int, *, ended: bool) -> None:
        self._forget(stream)
        self.reset(stream.id, code, ended=ended)

    def _refuse(self, stream_id: int, block: bytes, *, ended: bool) -> None:
        self._out.refuse(stream_id, block)
        if not ended:
            self._out.send(rst_stream(stream_id, NO_ERROR))  # the rest of the message is not wanted
            self.ids.forgive(stream_id)

    def _forget(self, stream: Stream) -> None:
        """Out of its place, and its handler cancelled."""
        if self._running.pop(stream.id, None) is not None:
            self._leaving.add(stream)
            stream.cancel()
        elif self._receiving.pop(stream.id, None) is None:
            self._out.forget(stream)
        if stream.upload is not None:
            self._leave_room(stream.upload)
        if self.closing:
            self._loop.call_soon(self._changed)

    def _spend_reset(self) -> None:
        if not self._resets.spend(self._loop.time(), self.ids.opened):
            raise ProtocolError(ENHANCE_YOUR_CALM, "too many calls are taken back")

    def _find(self, stream_id: int) -> Stream | None:
        return self._running.get(stream_id) or self._receiving.get(stream_id) or self._out.blocked.get(stream_id)

    def _all(self) -> Iterable[Stream]:
        return chain(self._receiving.values(), self._running.values(), self._out.blocked.values())

    # Deadlines: one timer, for the first of them

    def _watch(self, stream: Stream) -> None:
        stream.deadline_s = self._loop.time() + stream.opening.timeout_s
        if stream.deadline_s < self._alarm_s:
            self._set_alarm(stream.deadline_s)

    def _set_alarm(self, at_s: float) -> None:
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_s = at_s
        self._alarm = self._loop.call_at(at_s, self._ring) if at_s < NEVER else None

    def _ring(self) -> None:
        """Mostly the call that it was set for is over by now, and the first deadline is a later one."""
        self.expire(self._loop.time())
        self._set_alarm(min((stream.deadline_s for stream in self._all()), default=NEVER))
