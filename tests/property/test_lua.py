"""`admit.lua` is the reference arithmetic, bit for bit, on random traces; no set of callers is admitted too much."""

import asyncio
import random
import struct
from dataclasses import dataclass, field
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.adapters.redis import keys
from authz.adapters.redis.packing import pack, unpack
from authz.adapters.redis.scripts import ADMIT
from authz.admin.keys import NewKey
from authz.core.admission import Admission, Admitted, Group, Status
from authz.core.bucket import US, Charge, Limit, Quota, State, full_in_us, gained, opened, spent, wait_us
from tests.support import stores
from tests.support.parts import admission, group, parts


PARTITION = 1
START_US = 1_795_000_000_000_000
STORE_ID = "an id"
NAMES = ("alpha", "beta", "gamma")
LIMITS = [
    Limit(capacity, period_s)
    for capacity, period_s in [
        (1, 1),
        (5, 60),
        (7, 3),
        (1000, 1),
        (99_991, 3600),
        (999_999_937, 2_678_400),
        (10**9, 2_678_400),
        (10**9, 1),
        (1, 2_678_400),
    ]
]
limits = st.sampled_from(LIMITS) | st.builds(Limit, st.integers(1, 10**9), st.integers(1, 2_678_400))
jumps = (
    st.integers(0, 30)
    | st.integers(0, 2_000_000)
    | st.integers(0, 10**11)
    | st.integers(0, 6 * 10**12)
    | st.integers(-(10**7), -1)  # a clock that goes back
    | st.integers(-(10**12), -1)
)


@dataclass
class Model:
    """The script in Python, on `core.bucket`."""

    states: dict[str, tuple[State, State]] = field(default_factory=dict)

    def admit(self, asked: Admission, now: int) -> Admitted:
        rows: list[tuple[Group, str, Charge, int, int, int]] = []
        refused, wait, place, changed = 0, 0, 0, False
        for part in asked.groups:
            stored = self.states.get(part.owner)
            for index, (unit, charge) in enumerate((("requests", part.requests), ("tokens", part.tokens))):
                place += 1
                if charge.limit is None:
                    rows.append((part, unit, charge, now, 0, 0))
                    continue
                n, p = charge.limit.capacity, charge.limit.period_s
                old = stored[index] if stored else None
                a, s, level = opened(old, n, p, now)
                changed |= old is not None and old.n != 0 and (old.n, old.p) != (n, p) and _owes(old, now)
                if level < charge.cost:
                    needs = wait_us(a, s, charge.cost, n, p, now)
                    if wait >= 0 and (needs < 0 or needs > wait):
                        wait, refused = needs, place
                rows.append((part, unit, charge, a, s, level))
        return self._conclude(asked, rows, now, refused, wait, changed=changed)

    def _conclude(
        self, asked: Admission, rows: list[Any], now: int, refused: int, wait: int, *, changed: bool
    ) -> Admitted:
        charge_all = refused == 0 and asked.spend
        quotas, said_no = [], None
        new: dict[str, list[tuple[State, int]]] = {}
        for place, (part, unit, charge, a, s, level) in enumerate(rows, 1):
            n, p, full = 0, 0, 0
            if charge.limit is not None:
                n, p = charge.limit.capacity, charge.limit.period_s
                if charge_all and charge.cost:
                    s, level = spent(s, charge.cost, n, p), level - charge.cost  # noqa: PLW2901
                full = full_in_us(a, s, n, p, now)
                quota = Quota(part.limit, unit, charge.limit, level, full)
                quotas.append(quota)
                said_no = quota if place == refused else said_no
            new.setdefault(part.owner, []).append((State(n, p, a, s), full))
        if asked.spend and (refused == 0 or changed):
            for owner, pair in new.items():
                if max(full for _, full in pair) > 0:
                    self.states[owner] = (pair[0][0], pair[1][0])
        status = Status.ADMITTED if refused == 0 else Status.LIMITED
        return Admitted(status, tuple(quotas), said_no, wait, now)


def _owes(old: State, now: int) -> bool:
    return opened(old, old.n, old.p, now)[1] > 0


@pytest.fixture(params=["valkey", "redis"])
def client(request: pytest.FixtureRequest) -> Any:
    server = request.getfixturevalue(f"{request.param}_server")
    with redis.Redis.from_url(server.url) as opened_client:
        yield opened_client


def on_a_clock_of_ours(text: str) -> str:
    """The same script, its clock in ARGV[3] and ARGV[4], its keys without an end."""
    assert text.count("redis.call('TIME')") == 1
    assert text.count(", 'PX', ms)") == 1
    return text.replace("redis.call('TIME')", "{ARGV[3], ARGV[4]}").replace(", 'PX', ms)", ")")


operations = st.lists(
    st.tuples(st.booleans(), jumps, st.lists(st.sampled_from(NAMES), max_size=3, unique=True), st.integers(1, 3)),
    max_size=30,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(limits, min_size=3, max_size=3), limits, operations, st.randoms(use_true_random=False))
def test_the_script_is_the_reference(
    client: Any, usual: list[Limit], odd: Limit, trace: list[Any], rnd: random.Random
) -> None:
    """Answers and stored state alike: batches, several buckets, limits that change, clocks that jump."""
    client.flushall()
    client.set(keys.name(PARTITION, "m"), STORE_ID)
    client.set(keys.name(PARTITION, "v", "k"), 1)
    script = client.register_script(on_a_clock_of_ours(ADMIT.text))
    model, now = Model(), START_US

    def charge(limit: Limit) -> Charge:
        limit = odd if rnd.random() < 0.07 else limit
        if rnd.random() < 0.15:
            return Charge(None, 0)
        n = limit.capacity
        return Charge(limit, min(10**9, rnd.choice([0, 1, 1, n, n + 1, max(0, n - 1), rnd.randint(0, n), n // 3])))

    for spend, jump, names, repeats in trace:
        now = max(10**15, now + jump)
        checks = []
        for _ in range(repeats):
            groups = tuple(Group("l", name, charge(usual[i]), charge(usual[i - 1])) for i, name in enumerate(names))
            checks.append(pack(Admission("t", "k", 1, 1 << 52, 0, "", "", groups, spend=spend), PARTITION))
        reply = script(
            keys=[name for check in checks for name in check.keys],
            args=[STORE_ID, b"".join(check.blob for check in checks), now // US, now % US],
        )
        assert [model.admit(check.admission, now) for check in checks] == unpack(reply, checks)
        for name in NAMES:
            raw = client.get(keys.group(PARTITION, "l", name))
            stored = tuple(State(*map(int, bucket)) for bucket in struct.iter_unpack("<dddd", raw)) if raw else None
            assert model.states.get(name) == stored


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    limit=st.builds(Limit, st.integers(1, 200), st.sampled_from([1, 2, 60, 3600])),
    callers=st.lists(st.integers(1, 3), min_size=1, max_size=120),
    sidecars=st.integers(1, 3),
)
def test_no_set_of_callers_is_admitted_more_than_the_bucket_holds(
    valkey_server: stores.Server, limit: Limit, callers: list[int], sidecars: int
) -> None:
    """At any moment: units admitted ≤ capacity + rate * time, whoever asks for how many through which sidecar."""

    async def run() -> tuple[int, int]:
        stores.flush(valkey_server.url)
        async with (
            parts(valkey_server.url) as first,
            parts(valkey_server.url) as second,
            parts(valkey_server.url) as last,
        ):
            record = (await first.create(NewKey("test"))).record
            asked = [admission(record, group(f"k:{record.id}", limit, cost=cost)) for cost in callers]
            all_of_them = (first, second, last)[:sidecars]
            begin_us = await first.store.now_us()
            answers = await asyncio.gather(
                *(all_of_them[index % sidecars].ledger.admit(one) for index, one in enumerate(asked))
            )
            elapsed_us = await first.store.now_us() - begin_us
        admitted = zip(callers, answers, strict=True)
        return sum(cost for cost, answer in admitted if answer.status is Status.ADMITTED), elapsed_us

    units, elapsed_us = asyncio.run(run())

    assert units <= limit.capacity + gained(elapsed_us, limit.capacity, limit.period_s)
    if sum(callers) <= limit.capacity:
        assert sum(callers) == units
