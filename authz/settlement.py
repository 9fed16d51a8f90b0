"""
The response's one page: what becomes of a request once it is over.

    access log entry → finished → observed (the audit line) → booking → queue → one step in the store, in batches

The queue is bounded and the proxy is read no faster than the store books: a slow store costs time, not memory. A batch
that the store did not answer is asked again: each booking counts once, by its decision, however often it is asked.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from authz.core.settlement import Booked, Booking, Finished, booking
from authz.ports import Books, Clock, SettlementObserver, StoreFault


QUEUE: Final = 4096  # finished requests that wait for the store
BATCH: Final = 16  # in one call: the store is held up for half a millisecond
PATIENCE_S: Final = 900.0  # with a store that is away; what was not booked by then stays spent
_FIRST_WAIT_S: Final = 0.05
_LONGEST_WAIT_S: Final = 1.0

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Waiting:
    booking: Booking
    ended_s: float


class Settlement:
    """One event loop. `run` books what was taken until it is cancelled."""

    def __init__(self, books: Books, clock: Clock, observer: SettlementObserver) -> None:
        self._books = books
        self._clock = clock
        self._observer = observer
        self._in_hand = 0
        self._queue: asyncio.Queue[_Waiting] = asyncio.Queue(QUEUE)

    async def take(self, finished: Finished) -> None:
        """Waits while the queue is full."""
        self._told(partial(self._observer.finished, finished))
        if finished.hold is not None:
            await self._queue.put(_Waiting(booking(finished, finished.hold), finished.ended_s))

    @property
    def waiting(self) -> int:
        return self._queue.qsize() + self._in_hand

    async def run(self) -> None:
        while True:
            batch = [await self._queue.get()]
            while len(batch) < BATCH and not self._queue.empty():
                batch.append(self._queue.get_nowait())
            self._in_hand = len(batch)
            await self._book(batch)
            self._in_hand = 0
            for _ in batch:
                self._queue.task_done()

    async def drain(self, within_s: float) -> None:
        """Until everything that was taken is booked, or the time is over: then the rest stays spent, and is told."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await self._queue.join()
                return
        _log.warning("stopping: requests are left that were not settled", extra={"fields": {"waiting": self.waiting}})

    async def _book(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self._asked([waiting.booking for waiting in batch])
        except StoreFault as fault:
            _log.error("requests were not settled: %s", fault, extra={"fields": {"lost": len(batch)}})
            for _ in batch:
                self._observer.entry_dropped("store")
        except Exception:  # noqa: BLE001 - see there
            await self._isolate(batch)
        else:
            now_s = self._clock.now_s()
            for waiting, booked in zip(batch, answers, strict=True):
                lag_s = max(0.0, now_s - waiting.ended_s)
                self._told(partial(self._observer.settled, waiting.booking, booked, lag_s))

    async def _asked(self, bookings: list[Booking]) -> Sequence[Booked]:
        """Raises: StoreFault — for longer than our patience."""
        give_up_s = self._clock.monotonic_s() + PATIENCE_S
        wait_s = _FIRST_WAIT_S
        while True:
            try:
                return await self._books.settle(bookings)
            except StoreFault as fault:
                if self._clock.monotonic_s() > give_up_s:
                    raise
                if wait_s == _FIRST_WAIT_S:
                    _log.warning("requests wait to be settled: %s", fault)
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    @staticmethod
    def _told(tell: Callable[[], None]) -> None:
        """What cannot be logged or counted is still booked."""
        try:
            tell()
        except Exception:  # noqa: BLE001 - an observer's bug
            _log.exception("observing a finished request failed")

    async def _isolate(self, batch: list[_Waiting]) -> None:
        """A bug of ours is in one of them: it must neither end the settling nor take the others along."""
        if len(batch) > 1:
            for waiting in batch:
                await self._book([waiting])
        else:
            _log.exception("a request cannot be settled")
            self._observer.entry_dropped("failed")
