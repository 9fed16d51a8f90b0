"""A coroutine without a task: what it may wait for, how it ends, how it is cancelled."""

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest

from authz.adapters.http2 import frames as f
from tests.support.http2 import SERVICE, Answer, Wire, call


PATH = f"/{SERVICE}/Tried"
Handler = Callable[[bytes], Awaitable[bytes]]


class Told:
    """A call of a handler, on stream 3 of a connection, under a real event loop."""

    def __init__(self, handler: Handler) -> None:
        self._wire = Wire(more={"Tried": handler}, loop=asyncio.get_running_loop()).hello()

    def begin(self) -> None:
        self._wire.feed(call(3, b"asked", PATH))

    def cancel(self) -> None:
        self._wire.feed(f.rst_stream(3, f.CANCEL))

    def answer(self) -> Answer | None:
        return self._wire.answers.get(3)

    def under_way(self) -> int:
        """Those that are being cancelled, too."""
        streams = self._wire.connection._streams
        return len(streams._running) + len(streams._leaving)


async def passes(number: int = 3) -> None:
    """Of the event loop."""
    for _ in range(number):
        await asyncio.sleep(0)


async def ended(handler: Handler) -> Answer:
    """What a call of it comes to."""
    told = Told(handler)
    told.begin()
    async with asyncio.timeout(10):
        while (answer := told.answer()) is None:  # noqa: ASYNC110 - an answer has no event
            await asyncio.sleep(0.001)
    return answer


async def test_what_does_not_wait_is_done_at_once() -> None:
    async def handler(asked: bytes) -> bytes:
        return asked + b" and answered"

    told = Told(handler)
    told.begin()

    answer = told.answer()
    assert answer is not None
    assert answer.message == b"asked and answered"


async def test_it_may_wait_for_what_asyncio_has() -> None:
    event, lock, queue = asyncio.Event(), asyncio.Lock(), asyncio.Queue[bytes](1)

    async def part(number: int) -> bytes:
        await asyncio.sleep(0)
        return b"%d" % number

    async def handler(asked: bytes) -> bytes:
        await asyncio.sleep(0)
        await asyncio.sleep(0.001)
        asyncio.get_running_loop().call_soon(event.set)
        await event.wait()
        async with lock:
            await queue.put(asked)
        task = asyncio.create_task(part(1))
        gathered = await asyncio.gather(task, part(2), asyncio.shield(part(3)))
        return await queue.get() + b"".join(gathered)

    assert (await ended(handler)).message == b"asked123"


async def test_it_goes_on_once_the_future_is_done() -> None:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(_: bytes) -> bytes:
        return await future

    told = Told(handler)
    told.begin()
    await passes()
    assert told.answer() is None
    future.set_result(b"done")
    await passes()

    answer = told.answer()
    assert answer is not None
    assert answer.message == b"done"


async def test_an_error_of_what_it_waits_for_is_raised_in_it() -> None:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(_: bytes) -> bytes:
        try:
            return await future
        except LookupError:
            return b"caught"

    asyncio.get_running_loop().call_soon(future.set_exception, LookupError())

    assert (await ended(handler)).message == b"caught"


@pytest.mark.parametrize("waits", [0, 1])
async def test_an_error_is_told(waits: int, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(asked: bytes) -> bytes:
        for _ in range(waits):
            await asyncio.sleep(0)
        raise ValueError(asked)

    assert (await ended(handler)).status == 13
    assert [record.fields["error"] for record in caplog.records] == ["ValueError"]  # type: ignore[attr-defined]


async def test_an_error_before_there_is_a_coroutine_is_told() -> None:
    def handler(_: bytes) -> Awaitable[bytes]:
        raise LookupError

    assert (await ended(handler)).status == 13


async def test_a_cancelled_future_is_told() -> None:
    """Of somebody else, not of the peer."""
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def handler(_: bytes) -> bytes:
        return await future

    asyncio.get_running_loop().call_soon(future.cancel)

    assert (await ended(handler)).status == 13


class Immediate:
    """Behaves like a future, and calls back at once, without the event loop."""

    def __init__(self) -> None:
        self._asyncio_future_blocking = False
        self._callbacks: list[Callable[[object], object]] = []
        self.result: bytes | None = None
        self.cancelled = False

    def add_done_callback(self, callback: Callable[[object], object]) -> None:
        self._callbacks.append(callback)

    def cancel(self) -> bool:
        self.cancelled = True
        self.set(b"")
        return True

    def set(self, result: bytes) -> None:
        self.result = result
        for callback in self._callbacks:
            callback(self)

    def __await__(self) -> Generator[Any, None, bytes]:
        self._asyncio_future_blocking = True
        yield self
        if self.cancelled:
            raise asyncio.CancelledError
        assert self.result is not None
        return self.result


async def test_what_behaves_like_a_future_may_call_back_at_once() -> None:
    waited_for = Immediate()

    async def handler(_: bytes) -> bytes:
        return await waited_for

    told = Told(handler)
    told.begin()
    waited_for.set(b"now")
    await passes()  # for the answer to be sent

    answer = told.answer()
    assert answer is not None
    assert answer.message == b"now"


async def test_and_be_cancelled_at_once() -> None:
    waited_for = Immediate()

    async def handler(_: bytes) -> bytes:
        return await waited_for

    told = Told(handler)
    told.begin()
    told.cancel()

    assert waited_for.cancelled
    assert told.under_way() == 0


@pytest.mark.parametrize("what", ["not a future", "a future, yielded"])
async def test_what_is_no_future_is_refused(what: str) -> None:
    class Odd:
        def __await__(self) -> Generator[Any, None, bytes]:
            yield 1 if what == "not a future" else asyncio.get_running_loop().create_future()
            return b""

    async def handler(_: bytes) -> bytes:
        try:
            return await Odd()
        except RuntimeError:
            return b"told so"

    assert (await ended(handler)).message == b"told so"


async def cancelled_while(waits: Callable[[], Awaitable[object]]) -> list[str]:
    """What a handler sees that waits for this, and is cancelled."""
    seen: list[str] = []

    async def handler(_: bytes) -> bytes:
        try:
            await waits()
        except asyncio.CancelledError:
            seen.append("cancelled")
            await asyncio.sleep(0)
            seen.append("cleaned up")
            raise
        return b"not cancelled"

    told = Told(handler)
    told.begin()
    told.cancel()
    assert told.under_way() == 1
    await passes(5)
    assert told.under_way() == 0
    assert told.answer() is None
    return seen


async def test_cancelling_is_raised_where_it_waits() -> None:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def wait() -> bytes:
        return await future

    assert await cancelled_while(wait) == ["cancelled", "cleaned up"]
    assert future.cancelled()


async def test_cancelling_between_two_passes_of_the_loop() -> None:
    async def wait() -> None:
        await asyncio.sleep(0)

    assert await cancelled_while(wait) == ["cancelled", "cleaned up"]


async def test_cancelling_what_is_done_but_not_resumed_yet() -> None:
    future: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
    seen: list[str] = []

    async def handler(_: bytes) -> bytes:
        try:
            return await future
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise

    told = Told(handler)
    told.begin()
    future.set_result(b"too late")
    told.cancel()
    await passes()

    assert seen == ["cancelled"]
    assert told.under_way() == 0


async def test_a_task_that_it_waits_for_is_cancelled_too() -> None:
    reached = asyncio.Event()

    async def work() -> None:
        reached.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(work())

    async def wait() -> None:
        await task

    await reached.wait()
    assert await cancelled_while(wait) == ["cancelled", "cleaned up"]
    assert task.cancelled()


async def test_a_lock_that_it_waits_for_is_left_in_order() -> None:
    lock = asyncio.Lock()
    await lock.acquire()

    async def wait() -> None:
        await lock.acquire()

    assert await cancelled_while(wait) == ["cancelled", "cleaned up"]
    lock.release()
    async with asyncio.timeout(10), lock:
        pass


async def test_who_is_cancelled_may_still_answer() -> None:
    """Nobody hears it."""

    async def handler(_: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return b"all the same"
        return b""

    told = Told(handler)
    told.begin()
    told.cancel()
    await passes()

    assert told.under_way() == 0
    assert told.answer() is None


async def test_there_is_no_current_task() -> None:
    """As the handlers' documentation says."""

    async def handler(_: bytes) -> bytes:
        await asyncio.sleep(0)
        return repr(asyncio.current_task()).encode()

    assert (await ended(handler)).message == b"None"
