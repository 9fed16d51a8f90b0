"""What a finished request costs, and how settling waits, asks again and gives up."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz import settlement as page
from authz.adapters.logs.silent import Silent
from authz.core.bucket import MAX_UNITS, Limit
from authz.core.settlement import Booked, Booking, Finished, Outcome, Spent, TokenUsage, booking, tokens
from authz.core.usage import MODEL_BYTES, OTHER
from authz.ports import StoreFault
from authz.settlement import BATCH, QUEUE, Settlement
from tests.support.settlement import FINISHED, HOLD, REFUSED, SPENT


def booked(finished: Finished = FINISHED, **changes: object) -> Booking:
    made = replace(finished, **changes)  # type: ignore[arg-type]
    assert made.hold is not None
    return booking(made, made.hold)


@pytest.mark.parametrize(
    ("changes", "outcome", "counted", "corrections"),
    [
        pytest.param({"usage": TokenUsage(7, 70)}, "usage", (7, 70), (-423,), id="less than estimated"),
        pytest.param({"usage": TokenUsage(400, 700)}, "usage", (400, 700), (600,), id="more: an overdraft"),
        pytest.param({"usage": TokenUsage(8, None, 8)}, "usage", (8, 0), (-492,), id="embeddings: no output"),
        pytest.param({"usage": TokenUsage(None, None, 33)}, "usage", (33, 0), (-467,), id="a total alone"),
        pytest.param({"usage": TokenUsage(None, 30, 33)}, "usage", (3, 30), (-467,), id="a total and the output"),
        pytest.param({"usage": TokenUsage(3, 30, 90)}, "usage", (3, 30), (-410,), id="a total of more than both"),
        pytest.param({"usage": TokenUsage(3, 30, 1)}, "usage", (3, 30), (-467,), id="a total of less than both"),
        pytest.param({"usage": TokenUsage(0, 0)}, "usage", (0, 0), (-500,), id="told to be none"),
        pytest.param({}, "no_usage", (0, 0), (0,), id="nothing told: the estimate stays spent"),
        pytest.param({"is_complete": False}, "no_usage", (0, 0), (0,), id="gone before anything was told"),
        pytest.param({"status": 0, "is_complete": False}, "no_usage", (0, 0), (0,), id="gone before the answer"),
        pytest.param({"status": 101}, "no_usage", (0, 0), (0,), id="a WebSocket"),
        pytest.param({"status": 204}, "no_usage", (0, 0), (0,), id="2xx without a body"),
        pytest.param({"status": 400, "usage": TokenUsage(9, 9)}, "failed", (0, 0), (-500,), id="4xx costs nothing"),
        pytest.param({"status": 503, "is_complete": False}, "failed", (0, 0), (-500,), id="5xx costs nothing"),
        pytest.param(
            {"status": 404, "is_complete": False, "was_forwarded": False},
            "failed",
            (0, 0),
            (-500,),
            id="the proxy's own 4xx before anything was forwarded",
        ),
        pytest.param(
            {"status": 400, "is_complete": False},
            "no_usage",
            (0, 0),
            (0,),
            id="the proxy's own 4xx under way: the client broke its request off",
        ),
        pytest.param(
            {"usage": TokenUsage(25, None), "is_complete": False},
            "cut_short",
            (25, 0),
            (0,),
            id="gone before the output was told: no way to get it for less",
        ),
        pytest.param(
            {"usage": TokenUsage(900, None), "is_complete": False},
            "cut_short",
            (900, 0),
            (400,),
            id="gone, and more than estimated already",
        ),
        pytest.param(
            {"usage": TokenUsage(25, 15), "is_complete": False},
            "usage",
            (25, 15),
            (-460,),
            id="gone after all was told",
        ),
        pytest.param({"hold": REFUSED, "status": 429}, "denied", (0, 0), (), id="refused by us"),
        pytest.param({"hold": REFUSED, "status": 200}, "denied", (0, 0), (), id="refused by us, whatever was answered"),
    ],
)
def test_cost(changes: dict[str, object], outcome: str, counted: tuple[int, int], corrections: tuple[int, ...]) -> None:
    made = booked(**changes)  # type: ignore[arg-type]

    assert (made.outcome, (made.input_tokens, made.output_tokens)) == (outcome, counted)
    assert made.corrections == corrections


def test_every_bucket_is_corrected_by_its_own_estimate() -> None:
    team = Spent("team", "w:acme", Limit(100, 60), 100)
    made = booked(hold=replace(HOLD, spent=(SPENT, team)), usage=TokenUsage(20, 100))

    assert made.corrections == (-380, 20)


@pytest.mark.parametrize(
    ("model", "asked", "status", "expected"),
    [
        pytest.param("gpt-x", "gpt", 200, ("gpt-x", True), id="the answer's"),
        pytest.param("", "gpt", 200, ("gpt", False), id="the request's, which alone names nothing new"),
        pytest.param("", "", 200, ("", False), id="none"),
        pytest.param("", "never-heard-of", 404, ("never-heard-of", False), id="a failed request names nothing new"),
        pytest.param("claude-3-5-sonnet@20240620", "", 200, ("claude-3-5-sonnet@20240620", True), id="a version"),
        pytest.param("m" * MODEL_BYTES, "", 200, ("m" * MODEL_BYTES, True), id="the longest"),
        pytest.param("m" * (MODEL_BYTES + 1), "", 200, (OTHER, True), id="too long"),
        pytest.param("é" * MODEL_BYTES, "", 200, (OTHER, True), id="too many bytes"),
        pytest.param("a\nb", "", 200, (OTHER, True), id="a line end"),
        pytest.param("a\0b", "", 200, (OTHER, True), id="a NUL"),
        pytest.param("sk-live-" + "a" * 43, "", 200, (OTHER, True), id="a key"),
        pytest.param("alice@example.com", "", 200, (OTHER, True), id="an e-mail address"),
    ],
)
def test_model(model: str, asked: str, status: int, expected: tuple[str, bool]) -> None:
    made = booked(model=model, asked_model=asked, status=status)

    assert (made.model, made.names_model) == expected


def test_tokens_of_no_model_are_counted_as_others() -> None:
    assert booked(usage=TokenUsage(1, 2)).model == OTHER


def test_a_refused_request_counts_under_no_model() -> None:
    made = booked(hold=REFUSED, asked_model="gpt", status=429)

    assert (made.model, made.names_model) == ("", False)


@given(st.floats())
def test_tokens_are_whole_and_bounded(number: float) -> None:
    told = tokens(number)

    assert told is None or 0 <= told <= MAX_UNITS
    assert (told is None) == (not number >= 0 or number == float("inf"))


counts = st.none() | st.integers(0, MAX_UNITS)


@given(st.builds(TokenUsage, counts, counts, counts), st.integers(0, 599), st.booleans(), st.integers(0, MAX_UNITS))
def test_no_answer_costs_less_than_nothing_or_more_than_told(
    usage: TokenUsage, status: int, complete: bool, estimate: int
) -> None:
    hold = replace(HOLD, spent=(replace(SPENT, estimate=estimate),))
    made = booked(hold=hold, usage=usage, status=status, is_complete=complete)
    cost = estimate + made.corrections[0]

    assert 0 <= cost <= max(usage.cost, estimate)
    assert min(made.input_tokens, made.output_tokens) >= 0
    if made.outcome is Outcome.USAGE:
        assert cost == usage.cost


@dataclass
class Seen(Silent):
    done: list[tuple[Booking, Booked, float]] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    lines: list[Finished] = field(default_factory=list)

    def finished(self, finished: Finished) -> None:
        self.lines.append(finished)

    def settled(self, booking: Booking, booked: Booked, lag_s: float) -> None:
        self.done.append((booking, booked, lag_s))

    def entry_dropped(self, why: str) -> None:
        self.dropped.append(why)


@dataclass
class Shelf:
    """Books whose store does as the test says. Real ones: tests/contract/test_settlement_store.py."""

    answer: Callable[[Sequence[Booking]], Sequence[Booked]] = lambda bookings: [Booked.BOOKED] * len(bookings)
    calls: list[int] = field(default_factory=list)

    async def settle(self, bookings: Sequence[Booking]) -> Sequence[Booked]:
        self.calls.append(len(bookings))
        await asyncio.sleep(0)
        return self.answer(bookings)


@dataclass
class Clock:
    s: float = 1_795_000_002.0

    def now_s(self) -> float:
        return self.s

    def monotonic_s(self) -> float:
        return self.s


def running(shelf: Shelf, seen: Seen, clock: Clock | None = None) -> tuple[Settlement, "asyncio.Task[None]"]:
    settlement = Settlement(shelf, clock or Clock(), seen)
    return settlement, asyncio.create_task(settlement.run())


async def ended(task: "asyncio.Task[None]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_what_is_taken_is_booked_in_batches() -> None:
    shelf, seen = Shelf(), Seen()
    settlement = Settlement(shelf, Clock(), seen)
    for _ in range(BATCH + 3):
        await settlement.take(FINISHED)
    assert settlement.waiting == BATCH + 3

    task = asyncio.create_task(settlement.run())
    await settlement.drain(5)

    assert shelf.calls == [BATCH, 3]
    assert len(seen.done) == BATCH + 3
    assert {lag_s for _, _, lag_s in seen.done} == {0.25}
    assert seen.dropped == []
    await ended(task)


async def test_whoever_is_nobody_is_logged_and_not_booked() -> None:
    shelf, seen = Shelf(), Seen()
    settlement, task = running(shelf, seen)

    await settlement.take(replace(FINISHED, hold=None))
    await settlement.drain(1)

    assert (len(seen.lines), shelf.calls) == (1, [])
    await ended(task)


async def test_a_slow_store_makes_the_reader_wait() -> None:
    """The queue is bounded: no entry is dropped, and none is taken beyond it."""
    seen = Seen()
    settlement = Settlement(Shelf(), Clock(), seen)  # not running: nothing is booked
    for _ in range(QUEUE):
        await settlement.take(FINISHED)

    waits = asyncio.create_task(settlement.take(FINISHED))
    await asyncio.sleep(0.05)
    assert not waits.done()

    task = asyncio.create_task(settlement.run())
    await asyncio.wait_for(waits, 5)
    await settlement.drain(5)
    assert len(seen.done) == QUEUE + 1
    await ended(task)


async def test_a_store_that_fails_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_FIRST_WAIT_S", 0.001)
    faults = [StoreFault("away"), StoreFault("away")]

    def answer(bookings: Sequence[Booking]) -> Sequence[Booked]:
        if faults:
            raise faults.pop()
        return [Booked.BOOKED] * len(bookings)

    shelf, seen = Shelf(answer), Seen()
    settlement, task = running(shelf, seen)
    await settlement.take(FINISHED)
    await settlement.drain(5)

    assert (shelf.calls, len(seen.done), seen.dropped) == ([1, 1, 1], 1, [])
    await ended(task)


async def test_those_in_hand_wait_too() -> None:
    held = asyncio.Event()

    class Slow(Shelf):
        async def settle(self, bookings: Sequence[Booking]) -> Sequence[Booked]:
            await held.wait()
            return [Booked.BOOKED] * len(bookings)

    settlement, task = running(Slow(), Seen())
    for _ in range(3):
        await settlement.take(FINISHED)
    await asyncio.sleep(0.01)

    assert settlement.waiting == 3
    held.set()
    await settlement.drain(5)
    assert settlement.waiting == 0
    await ended(task)


async def test_an_observer_that_fails_costs_no_booking(caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Seen):
        def finished(self, finished: Finished) -> None:
            raise ValueError("a bug")

        def settled(self, booking: Booking, booked: Booked, lag_s: float) -> None:
            super().settled(booking, booked, lag_s)
            raise ValueError("another")

    seen = Broken()
    settlement, task = running(Shelf(), seen)
    for _ in range(2):
        await settlement.take(FINISHED)
    await settlement.drain(5)

    assert len(seen.done) == 2
    assert caplog.text.count("observing a finished request failed") == 4
    assert not task.done()
    await ended(task)


async def test_a_store_that_stays_away_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "_FIRST_WAIT_S", 0.001)
    clock, seen = Clock(), Seen()

    def answer(_: Sequence[Booking]) -> Sequence[Booked]:
        clock.s += page.PATIENCE_S / 3
        raise StoreFault("away")

    shelf = Shelf(answer)
    settlement, task = running(shelf, seen, clock)
    await settlement.take(FINISHED)
    await settlement.drain(5)

    assert (seen.dropped, seen.done) == (["store"], [])
    assert len(shelf.calls) == 4
    await ended(task)


async def test_a_bug_takes_one_request_along_and_no_other() -> None:
    poison = replace(FINISHED, model="poison")

    def answer(bookings: Sequence[Booking]) -> Sequence[Booked]:
        if any(one.model == "poison" for one in bookings):
            raise ValueError("a bug")
        return [Booked.BOOKED] * len(bookings)

    shelf, seen = Shelf(answer), Seen()
    settlement = Settlement(shelf, Clock(), seen)
    for finished in (FINISHED, poison, FINISHED):
        await settlement.take(finished)
    task = asyncio.create_task(settlement.run())
    await settlement.drain(5)

    assert (seen.dropped, [one.model for one, _, _ in seen.done]) == (["failed"], ["", ""])
    assert not task.done()
    await ended(task)


async def test_draining_ends_in_time(caplog: pytest.LogCaptureFixture) -> None:
    settlement = Settlement(Shelf(), Clock(), Seen())  # not running
    await settlement.take(FINISHED)

    await asyncio.wait_for(settlement.drain(0.05), 2)

    assert "not settled" in caplog.text
