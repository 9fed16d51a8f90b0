"""
How long the store is waited for: its time-out, counted in beats of the event loop.

A timer alone cannot tell a store that is silent from a loop that was held up, by a long computation or for want of
CPU: in both cases it rings when the time is over. So the time is cut into beats, and a beat that comes late does not
count. A wait is over when the beats that count make a time-out, and the loop has made as many passes as any call needs,
in each of which it hears whatever has come: then it was the store that said nothing. A wait that takes too long by the
clock is over too: then nobody can tell.
"""

import asyncio
from dataclasses import dataclass
from typing import Final


BEATS: Final = 20  # in a time-out; in a short one fewer
FEWEST_BEATS: Final = 4
BEAT_S: Final = 0.0025  # at least, as long as there are more than the fewest: timers are exact to a millisecond
PASSES: Final = 50  # a call takes up to 15 where it makes its connection first, and up to 36 where it makes a cluster's
FEWEST_PASSES: Final = 5  # however long each of them: a call that has its connection takes up to 3
LATE: Final = 0.2  # of a time-out: a beat that comes later than by this does not count
LATE_S: Final = 0.01  # but by this much any beat may be late, however short the time-out
LONGEST: Final = 2  # time-outs, by the clock
LONGEST_S: Final = PASSES * LATE_S  # and this much: what the passes take in a loop that is just in time


@dataclass(frozen=True, slots=True)
class Limit:
    """Of a wait: the beats that count by its end, the passes by its begin, and its end by the loop's clock."""

    beats: int
    passes: int
    end_s: float


class Patience:
    """
    One event loop. The beats go on while a call is under way, one timer for them all; where none is, no time passes.

    A wait takes *timeout_s*, the rest of a beat that has begun, and what the loop itself is late: by the clock at most
    `LONGEST` times *timeout_s* and `LONGEST_S`, or `FEWEST_PASSES`, whichever is later; then it ends in the next pass.
    """

    def __init__(self, timeout_s: float) -> None:
        self._beats_in_all = min(BEATS, max(FEWEST_BEATS, round(timeout_s / BEAT_S)))
        self._beat_s = timeout_s / self._beats_in_all
        self._late_s = max(LATE * timeout_s, LATE_S)
        self._longest_s = LONGEST * timeout_s + LONGEST_S
        self._beats = 0  # that count
        self._passes = 0
        self._due_s = 0.0  # of the next beat
        self._is_beating = False
        self._calls: dict[asyncio.Timeout, Limit] = {}

    def limit(self) -> Limit:
        """Of a wait that begins now; a beat that has begun is not part of it."""
        begun = 1 if self._is_beating else 0
        end_s = asyncio.get_running_loop().time() + self._longest_s
        return Limit(self._beats + begun + self._beats_in_all, self._passes, end_s)

    def is_over(self, limit: Limit) -> bool:
        if self.was_heard(limit):
            return True
        return self._passes >= limit.passes + FEWEST_PASSES and asyncio.get_running_loop().time() >= limit.end_s

    def was_heard(self, limit: Limit) -> bool:
        """Whether the loop was there for a whole time-out: if nothing came, nothing was said."""
        return self._beats >= limit.beats and self._passes >= limit.passes + PASSES

    def watch(self, call: asyncio.Timeout, limit: Limit) -> None:
        """Let *call* expire when *limit* is over."""
        self._calls[call] = limit
        if not self._is_beating:
            self._is_beating = True
            loop = asyncio.get_running_loop()
            self._due_s = loop.time() + self._beat_s
            loop.call_at(self._due_s, self._pass, loop)

    def unwatch(self, call: asyncio.Timeout) -> None:
        self._calls.pop(call, None)

    def _pass(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            now_s = loop.time()
            self._passes += 1
            if now_s >= self._due_s:
                self._beat(now_s)
            for call in [call for call, limit in self._calls.items() if self.is_over(limit)]:
                del self._calls[call]
                call.reschedule(now_s)  # in the next pass: what was heard in this one is taken up before
        finally:  # whatever went wrong, no other call may be left without an end
            self._go_on(loop)

    def _beat(self, now_s: float) -> None:
        if now_s - self._due_s <= self._late_s:
            self._beats += 1
        self._due_s = max(self._due_s + self._beat_s, now_s)  # by the plan: beats a little late add up to no delay

    def _go_on(self, loop: asyncio.AbstractEventLoop) -> None:
        """At once where passes are all that is still wanted."""
        self._is_beating = bool(self._calls)
        if self._is_beating:
            wants_passes = any(self._beats >= limit.beats for limit in self._calls.values())
            loop.call_at(0.0 if wants_passes else self._due_s, self._pass, loop)
