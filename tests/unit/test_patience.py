"""How long a wait is, in a loop whose time is the test's own: each pass takes what it is told to take."""

import asyncio
import math
import selectors
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import pytest

from authz.adapters.redis.patience import FEWEST_PASSES, LONGEST_S, PASSES, Limit, Patience


T = TypeVar("T")
QUICK_S = 0.00001
A_MILLISECOND = 0.001
A_WHILE_S = 100  # of the loop's time, which costs nothing: whoever waits for longer waits for ever
TIMEOUTS_S = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.25, 1.0, 10.0]
WARM, COLD, COLD_CLUSTER = 3, 15, 36  # passes of a call, as measured


class Clock(selectors.DefaultSelector):
    """Nobody waits: the time that would have been waited is over, in whole milliseconds as epoll's."""

    def __init__(self, pass_s: float) -> None:
        super().__init__()
        self.now_s = 1000.0
        self.pass_s = pass_s
        self.passes = 0

    def select(self, timeout: float | None = None) -> Any:
        self.passes += 1
        self.now_s += math.ceil((timeout or 0.0) * 1000) / 1000 + self.pass_s
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    def __init__(self, pass_s: float) -> None:
        self.clock = Clock(pass_s)
        super().__init__(self.clock)

    def time(self) -> float:
        return self.clock.now_s


def run(pass_s: float, test: Callable[[Clock], Awaitable[T]]) -> T:
    loop = Loop(pass_s)

    async def main() -> T:
        async with asyncio.timeout(A_WHILE_S):
            return await test(loop.clock)

    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main())


@dataclass(frozen=True)
class Waited:
    took_s: float
    passes: int
    was_heard: bool


async def guarded(patience: Patience, limit: Limit, work: Awaitable[None]) -> None:
    """As the store's client does it. Raises: TimeoutError."""
    timeout = asyncio.timeout(None)
    try:
        async with timeout:
            patience.watch(timeout, limit)
            await work
    finally:
        patience.unwatch(timeout)


async def wait(clock: Clock, patience: Patience) -> Waited:
    """For an answer that never comes."""
    start_s, passes, limit = clock.now_s, clock.passes, patience.limit()
    with pytest.raises(TimeoutError):
        await guarded(patience, limit, asyncio.get_running_loop().create_future())
    return Waited(clock.now_s - start_s, clock.passes - passes, patience.was_heard(limit))


async def answered(patience: Patience, passes: int) -> None:
    """Raises: TimeoutError."""
    await guarded(patience, patience.limit(), round_trips(passes))


async def round_trips(passes: int) -> None:
    for _ in range(passes):
        await asyncio.sleep(0)


@pytest.mark.parametrize("timeout_s", TIMEOUTS_S)
def test_in_a_quiet_loop_a_wait_is_the_timeout(timeout_s: float) -> None:
    waited = run(QUICK_S, lambda clock: wait(clock, Patience(timeout_s)))

    assert waited.was_heard
    assert timeout_s <= waited.took_s < timeout_s + 2.5 * A_MILLISECOND


@pytest.mark.parametrize("timeout_s", TIMEOUTS_S)
def test_beside_others_it_is_a_beat_longer_at_most(timeout_s: float) -> None:
    """Begun at any time of another's wait."""

    async def waits(clock: Clock) -> list[Waited]:
        patience = Patience(timeout_s)

        async def later(share: float) -> Waited:
            await asyncio.sleep(share * timeout_s)
            return await wait(clock, patience)

        return await asyncio.gather(*(later(number / 37) for number in range(100)))

    for waited in run(QUICK_S, waits):
        assert waited.was_heard
        assert timeout_s <= waited.took_s < timeout_s + max(timeout_s / 20, 2.5 * A_MILLISECOND) + 2.5 * A_MILLISECOND


@pytest.mark.parametrize("pass_ms", [1, 2, 3, 5, 7, 9])
@pytest.mark.parametrize("timeout_s", TIMEOUTS_S)
def test_a_loop_that_is_a_little_late_hears_what_a_call_needs_and_ends_in_time(timeout_s: float, pass_ms: int) -> None:
    waited = run(pass_ms / 1000, lambda clock: wait(clock, Patience(timeout_s)))

    assert waited.was_heard
    assert waited.passes >= PASSES
    assert timeout_s <= waited.took_s < 2 * timeout_s + LONGEST_S


@pytest.mark.parametrize("pass_ms", [11, 15, 30, 100, 400])
@pytest.mark.parametrize("timeout_s", [0.001, 0.01, 0.05])
def test_a_loop_that_is_late_all_the_time_ends_by_the_clock_and_blames_nobody(timeout_s: float, pass_ms: int) -> None:
    waited = run(pass_ms / 1000, lambda clock: wait(clock, Patience(timeout_s)))

    assert not waited.was_heard
    assert waited.took_s < max(2 * timeout_s + LONGEST_S, FEWEST_PASSES * pass_ms / 1000) + 3 * pass_ms / 1000


@pytest.mark.parametrize("held_s", [0.06, 0.2, 0.45])
def test_a_loop_that_was_held_up_once_waits_for_as_much_longer(held_s: float) -> None:
    waited = run(QUICK_S, lambda clock: held_up(clock, held_s))

    assert waited.was_heard
    assert 0.05 + held_s - 3 * A_MILLISECOND <= waited.took_s < 0.05 + held_s + 5 * A_MILLISECOND


def test_a_loop_that_was_held_up_for_longer_than_a_wait_may_take_blames_nobody() -> None:
    waited = run(QUICK_S, lambda clock: held_up(clock, 2.0))

    assert not waited.was_heard
    assert waited.took_s < 2.0 + 0.05


async def held_up(clock: Clock, held_s: float) -> Waited:
    def hold() -> None:
        clock.now_s += held_s

    asyncio.get_running_loop().call_later(0.02, hold)
    return await wait(clock, Patience(0.05))


@pytest.mark.parametrize("timeout_s", TIMEOUTS_S)
@pytest.mark.parametrize(
    ("pass_ms", "passes"),
    [*((pass_ms, COLD_CLUSTER) for pass_ms in (0.1, 1, 4, 10, 13)), (25, COLD), (3000, WARM)],
)
def test_a_call_has_the_passes_that_it_needs(timeout_s: float, pass_ms: float, passes: int) -> None:
    """Where each of them takes longer than many a time-out."""
    run(pass_ms / 1000, lambda _: answered(Patience(timeout_s), passes))


def test_a_call_that_cannot_be_ended_keeps_no_other_from_its_end() -> None:
    """A bug, but one that must not leave every later call without a time-out."""
    told: list[dict[str, Any]] = []

    async def beside_a_finished_one(clock: Clock) -> list[Waited]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        patience = Patience(0.05)
        async with asyncio.timeout(None) as finished:
            await asyncio.sleep(0)
        patience.watch(finished, patience.limit())
        return [await wait(clock, patience), await wait(clock, patience)]

    for waited in run(QUICK_S, beside_a_finished_one):
        assert waited.was_heard
        assert waited.took_s < 0.06
    assert [type(context["exception"]) for context in told] == [RuntimeError]


def test_nothing_beats_where_nobody_waits() -> None:
    async def idle(clock: Clock) -> int:
        patience = Patience(0.05)
        await answered(patience, 3)
        before = clock.passes
        await asyncio.sleep(60)
        return clock.passes - before

    assert run(QUICK_S, idle) < 5
