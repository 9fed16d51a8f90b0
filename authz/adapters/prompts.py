"""
Reading bodies for what they ask, off the event loop unless they are small: 10 MB take some 10 ms, and up to 0.15 s if
they are made for it.

One body is read at a time. Those that wait stand in lines, one for each key, and the lines take turns: a key that sends
many waits for its own. What may wait is bounded in bytes, and a key never has more of it than is left for all others.
"""

import asyncio
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from typing import Final

from authz.core.decision import Refusal
from authz.core.prompt import Prompt, read_prompt
from authz.ports import OverloadFault


INLINE: Final = 8 * 1024  # bytes that are read at once: at most a few milliseconds, whatever they say
PARALLEL: Final = 1  # two would share one interpreter, and leave less of it to the loop
MAX_HELD: Final = 64 * 1024 * 1024  # bytes of bodies that wait or are read; gRPC has each of them once more
LEAST_HELD: Final = 64 * 1024  # that any of them counts for, as the check that waits takes memory too


class PromptReader:
    """Any number of checks on one event loop. `read` is asked in a thread."""

    def __init__(self, read: Callable[[bytes], Prompt | Refusal] = read_prompt) -> None:
        self._read = read
        self._pool = ThreadPoolExecutor(PARALLEL, "prompts")
        # By key: the bytes of its bodies, and those that wait; the first line's turn is next.
        self._held: Counter[str] = Counter()
        self._lines: OrderedDict[str, deque[asyncio.Future[None]]] = OrderedDict()
        self._is_reading = False

    async def read(self, body: bytes, key_id: str) -> Prompt | Refusal:
        """Raises: OverloadFault."""
        if len(body) <= INLINE:
            return self._read(body)
        with self._holding(key_id, max(len(body), LEAST_HELD)):
            async with self._turn(key_id):
                reading = asyncio.get_running_loop().run_in_executor(self._pool, self._read, body)
                try:
                    return await asyncio.shield(reading)
                except asyncio.CancelledError:
                    await asyncio.wait([reading])  # the thread goes on, and so does the turn
                    raise

    @contextmanager
    def _holding(self, key_id: str, size: int) -> Iterator[None]:
        """A body is taken in whatever its size is where no other is."""
        held = self._held.total()
        if held and self._held[key_id] + size > MAX_HELD - held - size:
            raise OverloadFault("too many bytes of bodies wait to be read")
        self._held[key_id] += size
        try:
            yield
        finally:
            self._held[key_id] -= size
            if not self._held[key_id]:
                del self._held[key_id]

    @asynccontextmanager
    async def _turn(self, key_id: str) -> AsyncIterator[None]:
        if self._is_reading:
            await self._wait(key_id)
        self._is_reading = True
        try:
            yield
        finally:
            self._pass_on()

    async def _wait(self, key_id: str) -> None:
        turn = asyncio.get_running_loop().create_future()
        line = self._lines.setdefault(key_id, deque())
        line.append(turn)
        try:
            await turn
        except asyncio.CancelledError:
            if not turn.cancelled():  # it had just come
                self._pass_on()
            elif turn in line:
                line.remove(turn)
                if not line:
                    del self._lines[key_id]
            raise

    def _pass_on(self) -> None:
        """The turn, to the body that has waited longest in the next line, which goes behind the others."""
        while self._lines:
            key_id, line = self._lines.popitem(last=False)
            turn = line.popleft()
            if line:
                self._lines[key_id] = line
            if not turn.done():  # cancelled just now
                turn.set_result(None)
                return
        self._is_reading = False

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
