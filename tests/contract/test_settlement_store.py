"""Settling's promises, on every kind of store: once each, exact totals, bounded names, nothing overwritten unread."""

import asyncio
import math
import random
import struct
from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from authz.adapters.redis import keys
from authz.adapters.redis.books import RedisBooks
from authz.adapters.redis.packing import UNRECORDED_S
from authz.adapters.redis.scripts import SETTLE
from authz.adapters.redis.usage import RedisUsageReports
from authz.admin.keys import NewKey
from authz.core.bucket import US, Limit, State, opened
from authz.core.keyrecord import tenant_of
from authz.core.settlement import MAX_AGE_S, Booked, Booking, DecisionId, Spent
from authz.core.usage import DAYS_KEPT, HOURS_KEPT, MAX_MODELS, MODEL_BYTES, Counts, Owner, Step
from authz.ports import StoreFault
from tests.support import stores
from tests.support.calls import Calls
from tests.support.parts import Parts, admission, booking, group, hold, parts


ROOMY = Limit(10_000, 86_400)
HOSTILE = [
    "{7}",
    "a:b",
    "␀",
    "\u202e",
    " m",
    "m ",
    "'",
    '"',
    "*",
    "?" * MODEL_BYTES,
    "é" * (MODEL_BYTES // 2),
    "denied",
]


class Desk:
    """A sidecar's books, and what has been decided at it."""

    def __init__(self, sidecar: Parts, now_us: int) -> None:
        self.sidecar = sidecar
        self.store = sidecar.store
        self.books = RedisBooks(sidecar.store)
        self.reports = RedisUsageReports(sidecar.store)
        self.now_us = now_us

    def number(self, workspace: str = "", subject: str = "alice") -> DecisionId:
        return self.sidecar.ledger.number(tenant_of(workspace, subject))

    def request(self, *spent: Spent, delta: int = 0, age_us: int = 0, **told: Any) -> Booking:
        """*told*: of the hold (key, subject, workspace, allowed, recorded), booking (model, names_model, tokens)."""
        of_booking = {name: told.pop(name) for name in ("model", "names_model", "tokens") if name in told}
        told.setdefault("subject", "alice")
        decision = self.number(told.get("workspace", ""), told["subject"])
        held = hold(decision, self.now_us - age_us, *spent, **told)
        return booking(held, *([delta] * len(spent)), **of_booking)

    async def settle(self, *bookings: Booking) -> list[Booked]:
        return list(await self.books.settle(bookings))

    async def raw(self, *command: Any) -> Any:
        return await self.store.call("test", *command)


@pytest.fixture
async def desk(sidecar: Parts) -> Desk:
    await sidecar.create(NewKey("the first"))
    return Desk(sidecar, await sidecar.store.now_us())


def at(one: Booking, owner: str) -> str:
    return keys.counts(one.hold.id.partition, owner)


async def level(desk: Desk, one: Spent, partition: int) -> int:
    raw = await desk.raw("GET", keys.group(partition, one.limit, one.owner))
    state = State(*map(int, struct.unpack("<dddd", raw[32:]))) if raw else None
    return opened(state, one.bucket.capacity, one.bucket.period_s, desk.now_us)[2]


async def test_numbers_have_no_gaps_and_sidecars_no_number_in_common(desk: Desk) -> None:
    async with parts(desk.sidecar.url) as other:
        mine = [desk.number("acme") for _ in range(3)]
        elsewhere = desk.number("umbrella")
        theirs = other.ledger.number(tenant_of("acme", "alice"))

    assert [one.number for one in mine] == [0, 1, 2]
    assert (elsewhere.number, theirs.number) == (0, 0)
    assert {one.partition for one in mine} == {keys.partition("w:acme")} != {elsewhere.partition}
    assert mine[0].process == elsewhere.process != theirs.process
    assert len(theirs.process) == 6


async def test_an_estimate_becomes_the_cost_and_a_second_time_changes_nothing(desk: Desk) -> None:
    key = (await desk.sidecar.create(NewKey("test", workspace="acme"))).record
    own, team = group(f"k:{key.id}", ROOMY, ROOMY, 500), group("w:acme", None, ROOMY, 500, name="team")
    await desk.sidecar.ledger.admit(admission(key, own, team))
    spent = Spent("default", f"k:{key.id}", ROOMY, 500), Spent("team", "w:acme", ROOMY, 500)
    one = desk.request(*spent, delta=-380, key=key.id, subject=key.subject, workspace="acme", tokens=(100, 20))

    answers = [await desk.settle(one, one), await desk.settle(one)]
    looked = await desk.sidecar.ledger.admit(admission(key, own, team, spend=False))

    assert answers == [[Booked.BOOKED, Booked.REPEATED], [Booked.REPEATED]]
    assert [quota.remaining for quota in looked.quotas] == [9_500, 9_880, 9_880]
    assert await desk.reports.totals(Owner("acme", key.subject, key.id)) == {"m": Counts(1, 0, 100, 20)}


async def test_answers_stand_beside_their_bookings(desk: Desk) -> None:
    """Of forty tenants, all over the partitions; every third was booked before."""
    batch = [desk.request(workspace=f"w{number}", key=f"k{number}") for number in range(40)]
    await desk.settle(*batch[::3])

    answers = await desk.settle(*batch)

    assert answers == [Booked.REPEATED if number % 3 == 0 else Booked.BOOKED for number in range(40)]


async def test_a_lost_answer_is_asked_for_again(desk: Desk) -> None:
    batch = [desk.request(workspace=f"w{number}") for number in range(20)]
    calls = Calls(desk.store)
    calls.lose_reply(SETTLE.name)

    with pytest.raises(StoreFault):
        await desk.settle(*batch)
    again = await desk.settle(*batch)

    assert set(again) == {Booked.REPEATED}
    assert await desk.reports.totals(Owner(subject="alice")) == {"m": Counts(requests=20)}


async def test_a_call_has_no_more_names_than_the_store_takes(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.adapters.redis.books.MAX_KEYS", 35)
    await desk.settle(desk.request())  # the script is known
    batch = [desk.request(workspace="acme", key=f"k{number}") for number in range(10)]
    calls = Calls(desk.store)

    assert set(await desk.settle(*batch)) == {Booked.BOOKED}
    assert calls.operations.count(SETTLE.name) == 4  # three each, of ten names


async def test_nothing_to_settle_asks_nothing(desk: Desk) -> None:
    calls = Calls(desk.store)

    assert await desk.settle() == []
    assert calls.operations == []


async def test_six_sidecars_settle_the_same_decisions_each_once(desk: Desk) -> None:
    """Overlapping sets, in other orders, in other batches, all at the same time."""
    rnd = random.Random(7)
    batch = [
        desk.request(
            *(spent := (Spent("l", f"k:k{number % 5}", ROOMY, 10), Spent("l", "w:acme", Limit(10**6, 86_400), 10))),
            delta=number % 7 + 1,
            workspace="acme",
            subject=f"s{number % 3}",
            key=f"k{number % 5}",
            tokens=(number, 1),
        )
        for number in range(400)
    ]

    async def settle_some(sidecar: Parts) -> Counter[tuple[int, Booked]]:
        mine = [*range(400)]
        rnd.shuffle(mine)
        answers: Counter[tuple[int, Booked]] = Counter()
        for start in range(0, 300, 25):
            chosen = mine[start : start + 25]
            booked = await RedisBooks(sidecar.store).settle([batch[number] for number in chosen])
            answers.update(zip(chosen, booked, strict=True))
        return answers

    async with (
        parts(desk.sidecar.url) as a,
        parts(desk.sidecar.url) as b,
        parts(desk.sidecar.url) as c,
        parts(desk.sidecar.url) as d,
        parts(desk.sidecar.url) as e,
    ):
        told = await asyncio.gather(*(settle_some(one) for one in (desk.sidecar, a, b, c, d, e)))
    answers = sum(told, Counter[tuple[int, Booked]]())
    last = await desk.settle(*batch)
    booked = [answers[number, Booked.BOOKED] + (last[number] is Booked.BOOKED) for number in range(400)]

    assert booked == [1] * 400
    assert answers.total() == 6 * 300
    assert await desk.reports.totals(Owner("acme")) == {"m": Counts(400, 0, sum(range(400)), 400)}
    assert await desk.reports.totals(Owner("acme", "", "k3")) == {"m": Counts(80, 0, sum(range(3, 400, 5)), 80)}
    partition = batch[0].hold.id.partition
    assert await level(desk, spent[1], partition) == 10**6 - sum(number % 7 + 1 for number in range(400))


async def test_names_of_models_are_bounded_for_every_owner(desk: Desk) -> None:
    """Two hundred, hostile ones among them, of four keys: what comes after the fiftieth is `other`."""
    models = [*HOSTILE, *(f"model-{number}" for number in range(200 - len(HOSTILE)))]
    batch = [
        desk.request(workspace="acme", key=f"k{number % 4}", subject=f"s{number % 4}", model=model, tokens=(1, 1))
        for number, model in enumerate(models)
    ]
    for start in range(0, 200, 20):
        assert set(await desk.settle(*batch[start : start + 20])) == {Booked.BOOKED}
    nameless = [
        desk.request(workspace="acme", key="k0", subject="s0", model=model) for model in ("", "other", "model-0")
    ]
    await desk.settle(*nameless)

    team = await desk.reports.totals(Owner("acme"))
    key = await desk.reports.totals(Owner("acme", "s0", "k0"))

    assert team.keys() == {*models[:MAX_MODELS], "other", ""}
    assert team["other"] == Counts(151, 0, 150, 150)
    assert key.keys() == {*models[:200:4], "other", ""}  # fifty of them: all have a place
    assert key["model-0"].requests == 1 + (models.index("model-0") % 4 == 0)
    assert sum(counts.requests for counts in team.values()) == 203


async def test_a_key_has_fifty_names_whatever_comes_in_one_call(desk: Desk) -> None:
    batch = [desk.request(key="k", model=f"model-{number}") for number in range(64)]

    await desk.settle(*batch)

    found = await desk.reports.totals(Owner("", "alice", "k"))
    rows = await desk.raw("HKEYS", keys.stretch(batch[0].hold.id.partition, Step.HOUR, desk.now_us // US))
    assert len(found) == MAX_MODELS + 1
    assert found["other"].requests == 64 - MAX_MODELS
    assert {row.decode().split("\0")[3] for row in rows} == found.keys()


async def test_requests_without_a_name_take_no_names_place(desk: Desk) -> None:
    await desk.settle(*(desk.request(key="k", model=model) for model in ("", "other")))

    await desk.settle(*(desk.request(key="k", model=f"model-{number}") for number in range(MAX_MODELS)))

    names = {f"model-{number}" for number in range(MAX_MODELS)}
    assert (await desk.reports.totals(Owner("", "alice", "k"))).keys() == {"", "other", *names}


async def test_who_may_not_name_a_model_counts_as_other_unless_it_is_known(desk: Desk) -> None:
    shy = [desk.request(key="k", model=model, names_model=False) for model in ("m", "known", "", "other")]

    await desk.settle(desk.request(key="k", model="known"), *shy)

    assert await desk.reports.totals(Owner("", "alice", "k")) == {
        "known": Counts(requests=2),
        "other": Counts(requests=2),
        "": Counts(requests=1),
    }


async def test_what_was_refused_counts_as_denied_and_as_nothing_else(desk: Desk) -> None:
    await desk.settle(desk.request(key="k", allowed=False), desk.request(key="k", tokens=(3, 4)))

    assert await desk.reports.totals(Owner("", "alice", "k")) == {"": Counts(denied=1), "m": Counts(1, 0, 3, 4)}


async def test_counts_of_a_key_without_a_record_end_those_of_others_do_not(desk: Desk) -> None:
    loose, kept = desk.request(key="loose", recorded=False), desk.request(key="kept")

    await desk.settle(loose, kept)
    first = await desk.raw("TTL", at(loose, "k:loose"))
    await desk.raw("EXPIRE", at(loose, "k:loose"), 100)
    await desk.settle(desk.request(key="loose", recorded=False))

    for end in (first, await desk.raw("TTL", at(loose, "k:loose"))):
        assert UNRECORDED_S - 60 < end <= UNRECORDED_S
    for owner in ("k:kept", "s:alice", "a"):
        assert await desk.raw("TTL", at(kept, owner)) == -1
    assert await desk.raw("EXISTS", keys.name(loose.hold.id.partition, "l", "loose")) == 0


async def test_what_is_kept_for_ever_stays_so(desk: Desk) -> None:
    """Neither does a key that had no record end once it has one, nor one that had one while it cannot be read."""
    one = desk.request(key="k", recorded=False)
    await desk.settle(one)
    await desk.settle(desk.request(key="k"))
    first = await desk.raw("TTL", at(one, "k:k"))
    await desk.settle(desk.request(key="k", recorded=False, model="another"))

    assert (first, await desk.raw("TTL", at(one, "k:k"))) == (-1, -1)


async def test_hours_days_and_decisions_are_kept_as_long_as_they_say(desk: Desk) -> None:
    one, hour_ago = desk.request(key="k"), desk.request(key="k", age_us=3600 * US)
    await desk.settle(one, hour_ago)
    partition, now_s = one.hold.id.partition, desk.now_us // US

    ends = [
        await desk.raw("TTL", name)
        for name in (
            keys.stretch(partition, Step.HOUR, now_s),
            keys.stretch(partition, Step.HOUR, now_s - 3600),
            keys.stretch(partition, Step.DAY, now_s),
            keys.settled(one.hold.id)[0],
        )
    ]

    hours, days = (HOURS_KEPT + 1) * 3600, (DAYS_KEPT + 1) * 86_400
    for told, end in zip((hours, hours, days, MAX_AGE_S + 3600), ends, strict=True):
        assert told - 60 < end <= told


async def test_a_bitmaps_time_starts_anew_with_each_that_is_settled(desk: Desk) -> None:
    one = desk.request()
    await desk.settle(one)
    name, _ = keys.settled(one.hold.id)
    await desk.raw("EXPIRE", name, 1000)

    await desk.settle(desk.request())

    assert await desk.raw("TTL", name) > MAX_AGE_S


async def test_a_decision_costs_the_store_one_bit(desk: Desk) -> None:
    batch = [desk.request() for _ in range(keys.BLOCK + 1)]
    for start in range(0, len(batch), 64):
        await desk.settle(*batch[start : start + 64])
    names = {keys.settled(one.hold.id)[0] for one in batch}

    assert sorted([await desk.raw("BITCOUNT", name) for name in names]) == [1, keys.BLOCK]
    assert sorted([await desk.raw("STRLEN", name) for name in names]) == [1, keys.BLOCK // 8]


@pytest.mark.parametrize("age_us", [MAX_AGE_S * US + 5 * US, -3660 * US])
async def test_what_is_late_or_ahead_changes_nothing(desk: Desk, age_us: int) -> None:
    """What comes from more than an hour ahead could be told again after its bit was forgotten."""
    before = await everything(desk)
    spent = Spent("l", "k:k", ROOMY, 10)

    assert await desk.settle(desk.request(spent, delta=5, key="k", age_us=age_us)) == [Booked.LATE]
    assert await everything(desk) == before


@pytest.mark.parametrize("age_us", [MAX_AGE_S * US - 60 * US, -3500 * US])
async def test_what_is_just_in_time_is_booked(desk: Desk, age_us: int) -> None:
    assert await desk.settle(desk.request(age_us=age_us)) == [Booked.BOOKED]


async def everything(desk: Desk) -> dict[bytes, bytes]:
    """Every value in the store."""
    return {name: await desk.raw("DUMP", name) for name in await desk.raw("KEYS", "*")}


async def test_when_a_key_was_used_is_never_lowered(desk: Desk) -> None:
    """Nor raised by what was refused: the key did not open anything."""
    owner = Owner("", "alice", "k")
    seen = [await desk.reports.last_used_us(owner)]
    for age_us, allowed in ((50 * US, True), (90 * US, True), (20 * US, False), (30 * US, True)):
        await desk.settle(desk.request(key="k", age_us=age_us, allowed=allowed))
        seen.append(await desk.reports.last_used_us(owner))

    told = [None if one is None else desk.now_us - one for one in seen]
    assert told == [None, 50 * US, 50 * US, 50 * US, 30 * US]


async def test_a_buckets_end_is_never_brought_nearer(desk: Desk) -> None:
    """Its requests may need it for longer than its tokens."""
    spent = Spent("l", "k:k", Limit(1000, 3600), 10)
    one = desk.request(spent, delta=900, key="k")
    name = keys.group(one.hold.id.partition, "l", "k:k")
    await desk.settle(one)
    created = await desk.raw("PTTL", name)
    await desk.raw("PEXPIRE", name, 7_200_000)

    await desk.settle(desk.request(spent, delta=-300, key="k"))
    kept = await desk.raw("PTTL", name)
    await desk.settle(desk.request(spent, delta=9_000, key="k"))

    assert 900 * 3600 - 60_000 < created <= 900 * 3600
    assert 7_140_000 < kept <= 7_200_000
    assert await desk.raw("PTTL", name) > 9_500 * 3600


async def test_a_bucket_without_end_keeps_none(desk: Desk) -> None:
    """No script of ours writes one; whoever did, did it for its requests too."""
    spent = Spent("l", "k:k", ROOMY, 10)
    one = desk.request(spent, delta=7, key="k")
    name = keys.group(one.hold.id.partition, "l", "k:k")
    await desk.raw("SET", name, bytes(64))

    await desk.settle(one)

    assert await level(desk, spent, one.hold.id.partition) == ROOMY.capacity - 7
    assert await desk.raw("PTTL", name) == -1


async def test_the_place_of_requests_is_left_as_it_is(desk: Desk) -> None:
    spent = Spent("l", "k:k", ROOMY, 10)
    one, other = desk.request(spent, delta=7, key="k"), desk.request(spent, delta=-3, key="k")
    name = keys.group(one.hold.id.partition, "l", "k:k")
    requests = struct.pack("<dddd", 60, 60, desk.now_us - 0.5, 7)  # a remainder as no script of ours writes it
    tokens = struct.pack("<dddd", ROOMY.capacity, ROOMY.period_s, desk.now_us, 100)
    await desk.raw("SET", name, requests + tokens + b"what a later version adds: 32 B!", "PX", 100_000)

    await desk.settle(one, other)
    stored = await desk.raw("GET", name)

    assert stored[:32] == requests
    assert struct.unpack("<dddd", stored[32:64])[3] == 104
    assert stored[64:] == b"what a later version adds: 32 B!"


NAN = struct.pack("<dddd", 1, math.nan, 0, 0)
DAMAGE: dict[str, tuple[str, list[Any]]] = {
    "a bucket's length": ("g", ["SET", b"x" * 17]),
    "a bucket that is no number": ("g", ["SET", bytes(32) + NAN]),
    "a bucket without end": ("g", ["SET", bytes(32) + struct.pack("<dddd", math.inf, 60, 0, 1)]),
    "a bucket without a period": ("g", ["SET", bytes(32) + struct.pack("<dddd", 60, 0, 0, 1)]),
    "a bucket with half units": ("g", ["SET", bytes(32) + struct.pack("<dddd", 60, 60, 0, 1.5)]),
    "a bucket of another kind": ("g", ["HSET", "a", "b"]),
    "counts' length": ("k", ["HSET", "m", b"x" * 31]),
    "counts that are no number": ("k", ["HSET", "m", NAN]),
    "counts below zero": ("s", ["HSET", "m", struct.pack("<dddd", 1, 0, -1, 0)]),
    "counts of another kind": ("k", ["SET", "garbage"]),
    "an owner's counts of another kind": ("y", ["LPUSH", "garbage"]),
    "a workspace's": ("w", ["SADD", "garbage"]),
    "the partition's": ("a", ["SET", "garbage"]),
    "an hour of another kind": ("o", ["SET", "garbage"]),
    "a day of another kind": ("d", ["SET", "garbage"]),
    "a last use that is no number": ("l", ["SET", "soon"]),
    "a last use in another notation": ("l", ["SET", "0x10"]),
    "a last use of another kind": ("l", ["HSET", "a", "b"]),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_what_cannot_be_read_is_left_alone_and_the_rest_is_booked(desk: Desk, damage: str) -> None:
    """The rest of that booking too; the other bookings of the call, and it is not booked again."""
    spent = Spent("l", "k:broken", ROOMY, 10), Spent("l", "w:acme", ROOMY, 10)
    told: dict[str, Any] = {"workspace": "acme", "delta": 5, "tokens": (2, 1)}
    broken = desk.request(*spent, key="broken", **told)
    healthy = desk.request(spent[1], key="healthy", subject="bob", **told)
    partition = broken.hold.id.partition
    hour, day = (keys.stretch(partition, step, desk.now_us // US) for step in Step)
    places = {
        "g": keys.group(partition, "l", "k:broken"),
        "k": at(broken, "k:broken"),
        "s": at(broken, "s:alice"),
        "y": at(broken, "y:acme\0alice"),
        "w": at(broken, "w:acme"),
        "a": at(broken, "a"),
        "o": hour,
        "d": day,
        "l": keys.name(partition, "l", "broken"),
    }
    place, (command, *arguments) = DAMAGE[damage]
    await desk.raw(command, places[place], *arguments)
    dump = await desk.raw("DUMP", places[place])

    shared = place in {"w", "a", "o", "d"}
    assert await desk.settle(healthy, broken) == [Booked.DAMAGED if shared else Booked.BOOKED, Booked.DAMAGED]
    assert await desk.settle(broken, healthy) == [Booked.REPEATED] * 2
    assert await desk.raw("DUMP", places[place]) == dump
    booked = {
        "k": await desk.raw("TYPE", places["k"]) == b"hash" and await desk.raw("HLEN", places["k"]) == 1,
        "s": place == "s" or await desk.reports.totals(Owner(subject="alice")) == {"m": Counts(1, 0, 2, 1)},
        "y": place == "y" or await desk.reports.totals(Owner("acme", "alice")) == {"m": Counts(1, 0, 2, 1)},
        "w": place == "w" or await desk.reports.totals(Owner("acme")) == {"m": Counts(2, 0, 4, 2)},
        "a": place == "a" or await desk.reports.totals(Owner()) == {"m": Counts(2, 0, 4, 2)},
        "o": place == "o" or await desk.raw("HLEN", hour) == 2,
        "d": place == "d" or await desk.raw("HLEN", day) == 2,
        "g": place == "g" or await level(desk, spent[0], partition) == ROOMY.capacity - 5,
        "l": place == "l" or int(await desk.raw("GET", places["l"])) == desk.now_us,
    }
    assert [name for name, good in booked.items() if not good] == (["k"] if damage == "counts of another kind" else [])
    assert await level(desk, spent[1], partition) == ROOMY.capacity - 10


async def test_no_name_is_believed_of_a_key_whose_counts_cannot_be_read(desk: Desk) -> None:
    """Who keeps naming models must not fill the hours."""
    batch = [desk.request(key="k", model=f"model-{number}") for number in range(60)]
    await desk.raw("SET", at(batch[0], "k:k"), "garbage")

    await desk.settle(*batch)

    fields = await desk.raw("HKEYS", keys.stretch(batch[0].hold.id.partition, Step.HOUR, desk.now_us // US))
    assert [field.decode().split("\0")[3] for field in fields] == ["other"]


async def test_a_bitmap_that_cannot_be_read_books_nothing(desk: Desk) -> None:
    """Whether it was booked is not known, so it is not booked; the rest of the call is."""
    broken = desk.request(Spent("l", "k:k", ROOMY, 10), delta=5, key="k")
    name, _ = keys.settled(broken.hold.id)
    await desk.raw("HSET", name, "a", "b")
    before = await everything(desk)

    assert await desk.settle(broken, broken) == [Booked.DAMAGED] * 2
    assert await everything(desk) == before
    assert await desk.settle(desk.request(subject="bob"), broken) == [Booked.BOOKED, Booked.DAMAGED]


async def test_a_wiped_store_books_nothing(desk: Desk) -> None:
    one = desk.request(Spent("l", "k:k", ROOMY, 10), delta=5, key="k")
    await desk.settle(desk.request())
    stores.flush(desk.sidecar.url)

    assert await desk.settle(one, one) == [Booked.NOT_OURS] * 2
    assert not await everything(desk)
    async with parts(desk.sidecar.url) as other:
        await other.create(NewKey("first of the new store"))
    assert await desk.settle(one) == [Booked.NOT_OURS]


async def test_another_stores_decisions_are_not_booked_here(desk: Desk) -> None:
    """Two stores under one keyring, or the store before this one: whose estimate was never spent here."""
    theirs = desk.request(Spent("l", "k:k", ROOMY, 10), delta=-10, key="k")
    stores.flush(desk.sidecar.url)
    async with parts(desk.sidecar.url) as other:
        await other.create(NewKey("first of the new store"))
        there = Desk(other, await other.store.now_us())

        assert await there.settle(theirs, there.request()) == [Booked.NOT_OURS, Booked.BOOKED]
        unasked = there.request()  # decided without the store: `on_error: allow`
        unasked = replace(unasked, hold=replace(unasked.hold, id=unasked.hold.id._replace(store="", number=900)))
        assert await there.settle(unasked) == [Booked.BOOKED]


async def test_one_partition_that_was_wiped_leaves_the_others(desk: Desk) -> None:
    here, there = desk.request(workspace="acme"), desk.request(workspace="umbrella")
    await desk.raw("DEL", keys.name(here.hold.id.partition, "m"))

    assert await desk.settle(here, there) == [Booked.NOT_OURS, Booked.BOOKED]


async def test_a_store_that_never_held_a_key_is_a_fault(sidecar: Parts) -> None:
    desk = Desk(sidecar, await sidecar.store.now_us())

    with pytest.raises(StoreFault, match="never held a key"):
        await desk.settle(desk.request())


async def test_an_answer_that_is_not_the_scripts_is_a_fault(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    for reply in (b"", b"\0\0", b"\7", [0], None):

        async def answered(*_: Any, reply: Any = reply) -> Any:
            return reply

        monkeypatch.setattr(desk.store, "run", answered)
        with pytest.raises(StoreFault, match="not the script's"):
            await desk.settle(desk.request())
