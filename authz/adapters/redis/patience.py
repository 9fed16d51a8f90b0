"""
How long the store is waited for: its time-out, counted in beats of the event loop.

A timer alone cannot tell a store that is silent from a loop that was held up, by a long computation or for want of
CPU: in both cases it rings when the time is over. So the time is cut into beats, each of them a pass of the loop at
least, in which it hears whatever has come. A beat that comes late does not count. A wait is over after `BEATS` that
count: then it was the store that said nothing. It is over too after twice as many, whether they count or not: then
nobody can tell.
"""

import asyncio
from dataclasses import dataclass
from typing import Final


BEATS: Final = 20  # in a time-out: more than there are passes in a call that has to make its connection first
LATE: Final = 0.2  # of a time-out: a beat that comes later than by this does not count
LATE_S: Final = 0.01  # but by this much any beat may be late, however short the time-out


@dataclass(frozen=True, slots=True)
class Limit:
    """The end of a wait, in beats since the start of the sidecar: of those that count, and of all."""

    heard: int
    beats: int


class Patience:
    """
    One event loop. The beats go on while a call is under way, one timer for them all; where none is, no time passes.

    A wait takes *timeout_s*, the rest of a beat that has begun, and what the loop itself is late; where that is much,
    twice *timeout_s* at most in place of once.
    """

    def __init__(self, timeout_s: float) -> None:
        self._beat_s = timeout_s / BEATS
        self._late_s = max(LATE * timeout_s, LATE_S)
        self._heard = 0
        self._beats = 0
        self._due_s = 0.0  # of the next beat
        self._is_beating = False
        self._calls: dict[asyncio.Timeout, Limit] = {}

    def limit(self) -> Limit:
        """Of a wait that begins now; a beat that has begun is not part of it."""
        begun = 1 if self._is_beating else 0
        return Limit(self._heard + begun + BEATS, self._beats + begun + 2 * BEATS)

    def is_over(self, limit: Limit) -> bool:
        return self.was_heard(limit) or self._beats >= limit.beats

    def was_heard(self, limit: Limit) -> bool:
        """Whether the loop was there for a whole time-out: if nothing came, nothing was said."""
        return self._heard >= limit.heard

    def watch(self, call: asyncio.Timeout, limit: Limit) -> None:
        """Let *call* expire when *limit* is over."""
        self._calls[call] = limit
        if not self._is_beating:
            self._is_beating = True
            self._await_beat(asyncio.get_running_loop())

    def unwatch(self, call: asyncio.Timeout) -> None:
        self._calls.pop(call, None)

    def _await_beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._due_s = loop.time() + self._beat_s
        loop.call_at(self._due_s, self._beat, loop)

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        now_s = loop.time()
        self._beats += 1
        if now_s - self._due_s <= self._late_s:
            self._heard += 1
        for call in [call for call, limit in self._calls.items() if self.is_over(limit)]:
            del self._calls[call]
            call.reschedule(now_s)  # in the next pass: what was heard in this one is taken up before
        self._is_beating = bool(self._calls)
        if self._is_beating:
            self._await_beat(loop)
