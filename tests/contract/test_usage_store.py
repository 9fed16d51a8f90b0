"""What was booked is read again as it was booked, on every kind of store; and what is not there is not made up."""

import asyncio
import math
import statistics
import struct
from collections import defaultdict
from collections.abc import AsyncIterator
from typing import Any

import pytest

from authz.adapters.redis import keys
from authz.adapters.redis.books import RedisBooks
from authz.adapters.redis.usage import AT_ONCE, PIECE, STRETCHES, RedisUsageReports
from authz.admin.keys import NewKey
from authz.core.bucket import US
from authz.core.keyrecord import tenant_of
from authz.core.settlement import Booking
from authz.core.usage import DAYS_KEPT, HOURS_KEPT, Counts, Owner, Row, Step
from authz.ports import StoreFault
from tests.support import stores
from tests.support.calls import Calls
from tests.support.parts import CLOCK, Parts, booking, hold, parts


NOW_S = 1_795_000_000
HOUR_S = NOW_S // 3600 * 3600
DAY_S = NOW_S // 86_400 * 86_400
ONE = struct.pack("<dddd", 1, 2, 3, 4)


@pytest.fixture
async def sidecar(store_url: str) -> AsyncIterator[Parts]:
    async with parts(store_url) as made:
        await made.create(NewKey("the first"))
        yield made


@pytest.fixture
def reports(sidecar: Parts) -> RedisUsageReports:
    return RedisUsageReports(sidecar.store)


async def use(sidecar: Parts, *requests: tuple[str, str, str, str, int], ages_s: tuple[int, ...] = (0,)) -> None:
    """*requests*: workspace, subject, key, model, input tokens."""
    now_us = await sidecar.store.now_us()
    batch: list[Booking] = []
    for age_s in ages_s:
        for workspace, subject, key, model, tokens in requests:
            decision = sidecar.ledger.number(tenant_of(workspace, subject))
            held = hold(decision, now_us - age_s * US, key=key, subject=subject, workspace=workspace)
            batch.append(booking(held, model=model, tokens=(tokens, 1)))
    await RedisBooks(sidecar.store).settle(batch)


async def put(sidecar: Parts, partition: int, step: Step, at_s: int, *names: str, counts: bytes = ONE) -> None:
    """Rows as the script writes them."""
    pairs = [part for name in names for part in (name, counts)]
    await sidecar.store.call("test", "HSET", keys.stretch(partition, step, at_s), *pairs)


async def read(reports: RedisUsageReports, *asked: Any) -> list[Row]:
    return [row async for row in reports.rows(*asked)]


def neighbour(workspace: str) -> str:
    """Another workspace in the same partition."""
    at = keys.partition(tenant_of(workspace, ""))
    return next(name for number in range(10_000) if keys.partition(tenant_of(name := f"other-{number}", "")) == at)


async def test_totals_of_every_kind_of_owner(sidecar: Parts, reports: RedisUsageReports) -> None:
    """Two workspaces of one partition are kept apart; a subject's are those of all its workspaces, and of none."""
    other = neighbour("acme")
    await use(
        sidecar,
        ("acme", "alice", "k1", "m", 1),
        ("acme", "alice", "k2", "n", 10),
        ("acme", "bob", "k3", "m", 100),
        (other, "alice", "k4", "m", 1_000),
        ("umbrella", "alice", "k5", "m", 10_000),
        ("", "alice", "k6", "m", 100_000),
    )
    expected = {
        Owner("acme", "alice", "k1"): {"m": (1, 1)},
        Owner("", "alice", "k6"): {"m": (1, 100_000)},
        Owner("acme", "alice"): {"m": (1, 1), "n": (1, 10)},
        Owner(other, "alice"): {"m": (1, 1_000)},
        Owner("acme"): {"m": (2, 101), "n": (1, 10)},
        Owner(other): {"m": (1, 1_000)},
        Owner(subject="alice"): {"m": (4, 111_001), "n": (1, 10)},
        Owner(subject="bob"): {"m": (1, 100)},
        Owner(): {"m": (5, 111_101), "n": (1, 10)},
        Owner("nobody", "x", "y"): {},
        Owner("nobody"): {},
        Owner(subject="nobody"): {},
    }

    for owner, models in expected.items():
        told = {model: Counts(requests, 0, tokens, requests) for model, (requests, tokens) in models.items()}
        assert (owner, await reports.totals(owner)) == (owner, told)


async def test_names_that_look_like_others_are_kept_apart(sidecar: Parts, reports: RedisUsageReports) -> None:
    await use(sidecar, ("", "w:acme", "a", "m", 1), ("", "k:a", "w:x", "m", 2), ("w", "a", "s:a", "m", 4))

    assert await reports.totals(Owner(subject="w:acme")) == {"m": Counts(1, 0, 1, 1)}
    assert await reports.totals(Owner(subject="a")) == {"m": Counts(1, 0, 4, 1)}
    assert await reports.totals(Owner("acme")) == {}
    assert await reports.totals(Owner("", "w:acme", "a")) == {"m": Counts(1, 0, 1, 1)}


async def test_rows_are_by_key_and_model_and_time(sidecar: Parts, reports: RedisUsageReports) -> None:
    requests = [("acme", "alice", "k1", "m", 5), ("acme", "alice", "k1", "", 0), ("", "bob", "k2", "a\0b", 7)]
    await use(sidecar, *requests, ages_s=(0, 3600, 3600))
    now_s = await sidecar.store.now_us() // US
    hour_s, day_s = now_s // 3600 * 3600, now_s // 86_400 * 86_400

    hours = await read(reports, Step.HOUR, hour_s - 3600, hour_s + 3600)
    days = await read(reports, Step.DAY, day_s - 86_400, day_s + 86_400)

    expected = {
        Row(at_s, workspace, subject, key, model, Counts(times, 0, times * tokens, times))
        for at_s, times in ((hour_s, 1), (hour_s - 3600, 2))
        for workspace, subject, key, model, tokens in requests
    }
    assert len(hours) == 6
    assert set(hours) == expected
    assert added_up(days) == added_up(hours)
    assert {row.at_s for row in days} <= {day_s, day_s - 86_400}


def added_up(rows: list[Row]) -> dict[tuple[str, ...], Counts]:
    sums: dict[tuple[str, ...], Counts] = defaultdict(Counts)
    for row in rows:
        sums[row.workspace, row.subject, row.key_id, row.model] += row.counts
    return sums


async def test_a_range_has_its_start_and_not_its_end(sidecar: Parts, reports: RedisUsageReports) -> None:
    """Up to all hours and all days that are kept."""
    for number in range(HOURS_KEPT):
        await put(sidecar, 7, Step.HOUR, HOUR_S - number * 3600, f"w\0s\0k\0{number}")
    for number in range(0, DAYS_KEPT, STRETCHES - 1):
        await put(sidecar, 7, Step.DAY, DAY_S - number * 86_400, f"w\0s\0k\0{number}")

    async def hours(first: int, last: int) -> list[str]:
        rows = await read(reports, Step.HOUR, HOUR_S - first * 3600, HOUR_S - last * 3600)
        assert all(row.at_s == HOUR_S - int(row.model) * 3600 for row in rows)
        return sorted((row.model for row in rows), key=int)

    assert await hours(3, 1) == ["2", "3"]
    assert await hours(3, 3) == []
    assert await hours(HOURS_KEPT - 1, -1) == [str(number) for number in range(HOURS_KEPT)]
    days = await read(reports, Step.DAY, DAY_S - (DAYS_KEPT - 1) * 86_400, DAY_S + 86_400)
    assert sorted(int(row.model) for row in days) == [*range(0, DAYS_KEPT, STRETCHES - 1)]


async def test_a_tenant_is_looked_for_in_its_partition_alone(sidecar: Parts, reports: RedisUsageReports) -> None:
    """Others may lie there too."""
    other = neighbour("acme")
    await use(sidecar, ("acme", "s", "k1", "m", 1), (other, "s", "k2", "m", 1), ("umbrella", "s", "k3", "m", 1))
    hour_s = await sidecar.store.now_us() // US // 3600 * 3600
    calls = Calls(sidecar.store)

    found = await read(reports, Step.HOUR, hour_s, hour_s + 3600, tenant_of("acme", ""))

    assert {row.workspace for row in found} == {"acme", other}
    assert len(calls.operations) <= 5
    assert len(await read(reports, Step.HOUR, hour_s, hour_s + 3600)) == 3


async def test_ten_thousand_rows_in_an_hour_hold_nobody_up(store_url: str) -> None:
    """Each once, in calls of a few hundred, though others are written meanwhile."""
    async with parts(store_url) as plenty:
        await plenty.create(NewKey("the first"))
        subject = "s" * 200
        names = [f"acme\0{subject}\0key-{number}\0m" for number in range(10_000)]
        for start in range(0, len(names), 500):
            await put(plenty, 7, Step.HOUR, HOUR_S, *names[start : start + 500])
        call, sizes, durations_s = plenty.store.call, list[int](), list[float]()

        async def watched(operation: str, *command: Any, **options: Any) -> Any:
            start_s = CLOCK.monotonic_s()
            reply = await call(operation, *command, **options)
            if command[0] == "HSCAN":
                sizes.append(len(reply[1]))
                durations_s.append(CLOCK.monotonic_s() - start_s)
            return reply

        plenty.store.call = watched  # type: ignore[method-assign]
        seen: list[str] = []
        async for row in RedisUsageReports(plenty.store).rows(Step.HOUR, HOUR_S, HOUR_S + 3600):
            seen.append(row.key_id)
            if len(seen) % 1000 == 0:  # the hash grows, and is arranged anew
                await put(plenty, 7, Step.HOUR, HOUR_S, *(f"w\0s\0late-{len(seen)}-{n}\0m" for n in range(900)))

    assert len(seen) == len(set(seen))
    assert {f"key-{number}" for number in range(10_000)} <= set(seen)
    assert max(sizes) < 3 * PIECE
    assert statistics.median(durations_s) < 0.025  # of 50 ms that a call may take


async def test_a_row_that_the_store_tells_twice_is_told_once(sidecar: Parts, reports: RedisUsageReports) -> None:
    """As it may where a hash is arranged anew between two pieces."""
    await put(sidecar, 7, Step.HOUR, HOUR_S, *(f"w\0s\0k{number}\0m" for number in range(3 * PIECE)))
    call, told = sidecar.store.call, dict[bytes, bytes]()

    async def repeats(operation: str, *command: Any, **options: Any) -> Any:
        reply = await call(operation, *command, **options)
        if command[0] == "HSCAN":
            told.update(reply[1])
            return reply[0], dict(told)
        return reply

    sidecar.store.call = repeats  # type: ignore[method-assign]

    assert len(await read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600)) == 3 * PIECE


async def test_few_calls_are_under_way_at_a_time(sidecar: Parts, reports: RedisUsageReports) -> None:
    """The checks need connections too."""
    for partition in range(keys.PARTITIONS):
        await put(sidecar, partition, Step.HOUR, HOUR_S, "w\0s\0k\0m")
        await sidecar.store.call("test", "HSET", keys.counts(partition, "a"), "m", ONE)
    call, now, most = sidecar.store.call, 0, 0

    async def watched(*command: Any, **options: Any) -> Any:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0)
        try:
            return await call(*command, **options)
        finally:
            now -= 1

    sidecar.store.call = watched  # type: ignore[method-assign]

    assert len(await read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600)) == keys.PARTITIONS
    assert await reports.totals(Owner()) == {"m": Counts(64, 128, 192, 256)}
    assert most == AT_ONCE


async def test_whoever_stops_reading_leaves_nothing_behind(sidecar: Parts, reports: RedisUsageReports) -> None:
    await put(sidecar, 7, Step.HOUR, HOUR_S, *(f"w\0s\0k{number}\0m" for number in range(2000)))
    tasks = len(asyncio.all_tasks())

    rows = reports.rows(Step.HOUR, HOUR_S, HOUR_S + 3600)
    first = await anext(rows)
    await rows.aclose()  # type: ignore[attr-defined]

    assert first.counts == Counts(1, 2, 3, 4)
    assert len(asyncio.all_tasks()) == tasks


async def test_when_a_key_was_used(sidecar: Parts, reports: RedisUsageReports) -> None:
    before_us = await sidecar.store.now_us()
    await use(sidecar, ("acme", "alice", "k1", "m", 1))

    used_us = await reports.last_used_us(Owner("acme", "alice", "k1"))

    assert used_us is not None
    assert before_us <= used_us <= await sidecar.store.now_us()
    assert await reports.last_used_us(Owner("acme", "alice", "k2")) is None


NOT_COUNTS = [
    b"",
    b"x" * 31,
    b"x" * 33,
    struct.pack("<dddd", 1, math.nan, 0, 0),
    struct.pack("<dddd", math.inf, 0, 0, 0),
    struct.pack("<dddd", 0, 0, -1, 0),
    struct.pack("<dddd", 0, 0, 0, 0.5),
]


@pytest.mark.parametrize("stored", NOT_COUNTS)
async def test_counts_that_cannot_be_read_are_a_fault(
    sidecar: Parts, reports: RedisUsageReports, stored: bytes
) -> None:
    await use(sidecar, ("acme", "alice", "k1", "m", 1))
    at = keys.partition(tenant_of("acme", ""))
    await sidecar.store.call("test", "HSET", keys.counts(at, "w:acme"), "n", stored)
    await put(sidecar, at, Step.DAY, DAY_S, "w\0s\0k\0m", counts=stored)

    for asked in (reports.totals(Owner("acme")), read(reports, Step.DAY, DAY_S, DAY_S + 86_400)):
        with pytest.raises(StoreFault, match="cannot be read") as fault:
            await asked
        assert not fault.value.trustworthy
    assert await reports.totals(Owner("acme", "alice")) == {"m": Counts(1, 0, 1, 1)}


@pytest.mark.parametrize("name", [b"", b"no names", b"w\0s\0k", b"w\0s\0\xff\0m"])
async def test_rows_of_nobody_are_a_fault(sidecar: Parts, reports: RedisUsageReports, name: bytes) -> None:
    await sidecar.store.call("test", "HSET", keys.stretch(3, Step.HOUR, HOUR_S), name, ONE)

    with pytest.raises(StoreFault, match="cannot be read") as fault:
        await read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600)
    assert not fault.value.trustworthy


@pytest.mark.parametrize("garbage", [("SET", "garbage"), ("HSET", b"\xff", ONE), ("LPUSH", "garbage")])
async def test_values_of_another_kind_are_a_fault(
    sidecar: Parts, reports: RedisUsageReports, garbage: tuple[Any, ...]
) -> None:
    at = keys.partition(tenant_of("acme", ""))
    places = keys.counts(at, "w:acme"), keys.stretch(at, Step.HOUR, HOUR_S), keys.name(at, "l", "k")
    for name in places:
        await sidecar.store.call("test", garbage[0], name, *garbage[1:])

    for asked in (
        reports.totals(Owner("acme")),
        read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600),
        reports.last_used_us(Owner("acme", "s", "k")),
    ):
        with pytest.raises(StoreFault) as fault:
            await asked
        assert not fault.value.trustworthy


@pytest.mark.parametrize("owner", [Owner("acme"), Owner("acme", "alice", "k1"), Owner(subject="alice"), Owner()])
async def test_an_emptied_store_is_a_fault_and_not_no_usage(
    sidecar: Parts, reports: RedisUsageReports, owner: Owner
) -> None:
    """Nor is one that took its place, whatever is in it."""
    await reports.totals(owner)
    stores.flush(sidecar.url)

    async def asks() -> None:
        for asked in (
            reports.totals(owner),
            reports.last_used_us(owner),
            read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600),
            read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600, "w:acme"),
        ):
            with pytest.raises(StoreFault, match="lost what it held") as fault:
                await asked
            assert not fault.value.trustworthy

    await asks()
    async with parts(sidecar.url) as other:
        await other.create(NewKey("first of the new store"))
        await put(other, 7, Step.HOUR, HOUR_S, "w\0s\0k\0m")
    await asks()
    with pytest.raises(StoreFault, match="lost what it held"):  # before a row of it is told
        await anext(aiter(reports.rows(Step.HOUR, HOUR_S, HOUR_S + 3600)))


@pytest.mark.parametrize("reading", ["HSCAN", "HGETALL"])
async def test_a_store_that_is_emptied_while_it_is_read_is_a_fault(
    sidecar: Parts, reports: RedisUsageReports, reading: str
) -> None:
    """Though its marker was there when the reading began."""
    await put(sidecar, 7, Step.HOUR, HOUR_S, "w\0s\0k\0m")
    call, emptied = sidecar.store.call, False

    async def watched(operation: str, *command: Any, **options: Any) -> Any:
        nonlocal emptied
        if command[0] == reading and not emptied:
            emptied = True
            stores.flush(sidecar.url)
        return await call(operation, *command, **options)

    sidecar.store.call = watched  # type: ignore[method-assign]

    with pytest.raises(StoreFault, match="lost what it held"):
        await (read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600) if reading == "HSCAN" else reports.totals(Owner()))
    assert emptied


async def test_a_partition_that_was_wiped_is_a_fault_of_what_needs_it(
    sidecar: Parts, reports: RedisUsageReports
) -> None:
    await use(sidecar, ("acme", "alice", "k1", "m", 1))
    await sidecar.store.call("test", "DEL", keys.name(keys.partition("w:umbrella"), "m"))

    assert await reports.totals(Owner("acme")) == {"m": Counts(1, 0, 1, 1)}
    for asked in (reports.totals(Owner()), reports.totals(Owner(subject="alice")), reports.totals(Owner("umbrella"))):
        with pytest.raises(StoreFault, match="lost what it held"):
            await asked


async def test_a_store_that_does_not_answer_is_a_fault(sidecar: Parts, reports: RedisUsageReports) -> None:
    Calls(sidecar.store).away = True

    for asked in (reports.totals(Owner()), read(reports, Step.HOUR, HOUR_S, HOUR_S + 3600)):
        with pytest.raises(StoreFault, match="away"):
            await asked
