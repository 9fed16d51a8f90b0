"""
`settle.lua` is the reference arithmetic, bit for bit. Whatever is sent again, lost, cut in two or late: each decision
is booked once, no unit is lost or made, and the totals are what was booked.
"""

import random
import struct
from collections import defaultdict
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from authz.adapters.redis import keys
from authz.adapters.redis.packing import BOUNDS, pack, pack_booking, unpack, unpack_booked, unpack_counts
from authz.adapters.redis.scripts import ADMIT, SETTLE
from authz.core.admission import Admission, Group, Status
from authz.core.bucket import MAX_DEBT_US, US, Charge, Limit, State, corrected, full_in_us, opened, spent
from authz.core.settlement import MAX_AGE_S, Booked, Booking, DecisionId, Spent
from authz.core.usage import Counts, Step
from tests.support.parts import booking, hold


PARTITION = 1
PROCESS = b"\0\1\2\3\4\5"
START_US = 1_795_000_000_000_000
STORE_ID = "an id"
NO_ACCOUNT = State(0, 0, 0, 0)
NAMES = ("alpha", "beta", "gamma")
MONTH_S = 2_678_400
NOTABLE = [
    Limit(capacity, period_s)
    for capacity, period_s in [(1, 1), (7, 3), (1000, 1), (99_991, 3600), (10**9, MONTH_S), (10**9, 1), (1, MONTH_S)]
]
limits = st.sampled_from(NOTABLE) | st.builds(Limit, st.integers(1, 10**9), st.integers(1, MONTH_S))
jumps = (
    st.integers(0, 30)
    | st.integers(0, 2_000_000)
    | st.integers(0, 10**11)
    | st.integers(0, 6 * 10**12)
    | st.integers(-(10**7), -1)  # a clock that goes back
    | st.integers(-(10**12), -1)
)
deltas = st.integers(-3, 3) | st.integers(-(10**9), 10**9) | st.sampled_from([10**9, -(10**9)])

# In place of redis.call: the clock is ours, and so is the end of each key, kept in the hash `ends`.
ON_OUR_CLOCK = """
local function ms() return math.floor((ARGV[#ARGV - 1] * 1000000 + ARGV[#ARGV]) / 1000) end
local function ends(key, after) redis.call('HSET', 'ends', key, string.format('%.0f', ms() + after)); return 1 end
local function call(command, key, ...)
  if command == 'TIME' then return { ARGV[#ARGV - 1], ARGV[#ARGV] } end
  local first, second, third = ...
  if command == 'EXPIRE' then
    if second == 'XX' and redis.call('HEXISTS', 'ends', key) == 0 then return 0 end
    return ends(key, first * 1000)
  elseif command == 'PERSIST' then return redis.call('HDEL', 'ends', key)
  elseif command == 'PTTL' then
    if redis.call('EXISTS', key) == 0 then return -2 end
    return (redis.call('HGET', 'ends', key) or ms() - 1) - ms()
  elseif command == 'SET' and second == 'PX' then
    ends(key, third)
    return redis.call('SET', key, first)
  end
  return redis.call(command, key, ...)
end
"""


def on_our_clock(text: str) -> str:
    """The same script, its clock in the last two arguments. `pcall` reads alone, and stays."""
    shebang, rest = text.split("\n", 1)
    assert "local call, try = redis.call, redis.pcall" in rest or "redis.call('SET', key, last[key], 'PX', ms)" in rest
    rest = rest.replace("local call, try = redis.call, redis.pcall", "local try = redis.pcall")
    return f"{shebang}\n{ON_OUR_CLOCK}\n{rest.replace('redis.call(', 'call(')}"


@dataclass
class Place:
    """A store under a clock of ours."""

    client: Any
    now: int = START_US
    scripts: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.client.flushall()
        self.client.set(keys.name(PARTITION, "m"), STORE_ID)
        for name in "kqr":
            self.client.set(keys.name(PARTITION, "v", name), 1)
        self.scripts = {one.name: self.client.register_script(on_our_clock(one.text)) for one in (ADMIT, SETTLE)}

    def step(self, us: int) -> None:
        """The clock goes on, or back; what has ended is gone."""
        self.now = max(10**15, self.now + us)
        for key, end in self.client.hgetall("ends").items():
            if int(end) < self.now // 1000:  # as the servers have it: not yet in the very millisecond
                self.client.delete(key)
                self.client.hdel("ends", key)

    def end(self, key: str) -> int | None:
        found = self.client.hget("ends", key)
        return None if found is None else int(found)

    def to_an_end(self) -> int:
        """How long until the next bucket is forgotten."""
        ends = (self.end(keys.group(PARTITION, "l", name)) for name in NAMES)
        return min((end * 1000 - self.now for end in ends if end is not None), default=0)

    def admit(self, key_id: str, groups: tuple[Group, ...]) -> Status:
        check = pack(Admission("t", key_id, 1, 1 << 52, 0, "", "", groups), PARTITION)
        args = [STORE_ID, check.blob, self.now // US, self.now % US]
        (answer,) = unpack(self.scripts["admit"](keys=list(check.keys), args=args), [check])
        return answer.status

    def settle(self, bookings: list[Booking], store_id: str = STORE_ID) -> list[Booked]:
        packed = [pack_booking(one) for one in bookings]
        names = [name for one in packed for name in one.keys]
        args = [store_id, BOUNDS, b"".join(one.blob for one in packed), self.now // US, self.now % US]
        return unpack_booked(self.scripts["settle"](keys=names, args=args), len(bookings))

    def states(self, name: str) -> tuple[State, State] | None:
        """Of requests and of tokens."""
        raw = self.client.get(keys.group(PARTITION, "l", name))
        if raw is None:
            return None
        requests, tokens = (State(*map(int, bucket)) for bucket in struct.iter_unpack("<dddd", raw))
        return requests, tokens


@pytest.fixture(params=["valkey", "redis"])
def client(request: pytest.FixtureRequest) -> Any:
    server = request.getfixturevalue(f"{request.param}_server")
    with redis.Redis.from_url(server.url) as opened_client:
        yield opened_client


def full_us(state: State, now: int) -> int:
    """Until a bucket is full, by its own limits."""
    if state.n == 0:
        return 0
    a, s, _ = opened(state, state.n, state.p, now)
    return full_in_us(a, s, state.n, state.p, now)


def to_full(state: State, now: int, rnd: random.Random) -> int:
    """What fills a bucket exactly, or by a unit not; or all that it ever spent."""
    if state.n == 0:
        return -1
    _, s, level = opened(state, state.n, state.p, now)
    return rnd.choice([-s, level - state.n, level - state.n + 1, level - state.n - 1])


steps = st.lists(
    st.tuples(
        st.none() | jumps,  # None: to the very last millisecond of a bucket
        st.booleans(),
        st.lists(st.lists(st.tuples(st.sampled_from(NAMES), st.none() | deltas), max_size=4), min_size=1, max_size=3),
    ),
    max_size=25,
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(limits, min_size=3, max_size=3), limits, steps, st.randoms(use_true_random=False))
def test_the_script_is_the_reference(
    client: Any, usual: list[Limit], odd: Limit, trace: list[Any], rnd: random.Random
) -> None:
    """Stored bytes and their end alike: batches, a bucket more than once, limits that change, clocks that jump."""
    place, number = Place(client), 0
    limit_of = dict(zip(NAMES, usual, strict=True))

    def limit(name: str) -> Limit:
        return odd if rnd.random() < 0.15 else limit_of[name]

    def charge(name: str, least: float) -> Charge:
        if rnd.random() < least:
            return Charge(None, 0)
        one = limit(name)
        return Charge(one, rnd.choice([0, 1, one.capacity, one.capacity // 2, rnd.randint(0, one.capacity)]))

    for jump, settles, entries in trace:
        place.step(place.to_an_end() if jump is None else jump)
        now, now_ms = place.now, place.now // 1000
        if not settles:
            names = rnd.sample(NAMES, rnd.randint(1, 3))
            place.admit("k", tuple(Group("l", name, charge(name, 0.4), charge(name, 0.1)) for name in names))
        else:
            batch = []
            expected = {name: place.states(name) for name in NAMES}
            live: dict[str, int] = {}
            for entry in entries:
                taken: list[tuple[Spent, int]] = []
                for name, drawn in entry:
                    requests, tokens = expected[name] or (NO_ACCOUNT, NO_ACCOUNT)
                    one, delta = Spent("l", name, limit(name), 0), to_full(tokens, now, rnd) if drawn is None else drawn
                    taken.append((one, delta))
                    after = corrected(tokens, one.bucket, delta, now) or NO_ACCOUNT
                    if delta > 0 or (delta < 0 and tokens.n != 0):
                        live[name] = -(-full_us(after, now) // 1000)
                        expected[name] = requests, after
                decision = DecisionId(PROCESS, PARTITION, number := number + 1)
                batch.append(booking(hold(decision, now, *(one for one, _ in taken)), *(delta for _, delta in taken)))
            ends = {name: place.end(keys.group(PARTITION, "l", name)) for name in NAMES}

            assert place.settle(batch) == [Booked.BOOKED] * len(batch)

            for name in NAMES:
                was = ends[name]
                if name in live and (was is not None or live[name] > 0):
                    ends[name] = max(was or 0, now_ms + live[name], now_ms + 1)
                gone = ends[name] is None
                assert place.states(name) == (None if gone else expected[name])
                assert place.end(keys.group(PARTITION, "l", name)) == ends[name]
        for name in NAMES:
            full = max((full_us(state, now) for state in place.states(name) or ()), default=0)
            end = place.end(keys.group(PARTITION, "l", name))
            assert full == 0 or (end is not None and (end + 1) * 1000 >= now + full)


@given(limits, limits, st.integers(0, 2 * 10**9), st.integers(0, 6 * 10**12), st.data())
def test_a_correction_moves_the_level_by_itself(
    own: Limit, holds: Limit, used: int, passed: int, data: st.DataObject
) -> None:
    """Under the account's own limits, whatever those of the hold are; never above full, and full is no account."""
    n, p, now = own.capacity, own.period_s, START_US + passed
    state = State(n, p, START_US, spent(0, used, n, p))
    _, s, before = opened(state, n, p, now)
    delta = data.draw(st.integers(-(10**9), 10**9) | st.sampled_from([-s, *range(before - n - 1, before - n + 2)]))
    refilled, longest = before - (n - s), spent(MAX_DEBT_US, 0, n, p)

    made = corrected(state, holds, delta, now)

    after = opened(made, n, p, now)[2]
    assert after == min(n, max(before - delta, n - longest + refilled))
    assert delta == 0 or (made is None) == (after == n)


@given(limits, st.sampled_from([None, NO_ACCOUNT, State(0, 60, 7, 7)]), st.integers(-(10**9), 10**9))
def test_where_there_is_no_account_the_holds_limits_count(holds: Limit, state: State | None, delta: int) -> None:
    """It is full: nothing can be given back to it."""
    after = corrected(state, holds, delta, START_US)

    if delta == 0:
        assert after == state
    elif delta < 0:
        assert after is None
    else:
        taken = min(delta, spent(MAX_DEBT_US, 0, holds.capacity, holds.period_s))
        assert after == State(holds.capacity, holds.period_s, START_US, taken)


WORKSPACES = {"k": ("acme", "alice"), "q": ("acme", "bob"), "r": ("", "alice")}
MODELS = ("", "m", "n", "other")
OWN = [Limit(100, 3600), Limit(100, 60), Limit(40, 86_400), Limit(1000, MONTH_S)]
SHARED = [Limit(150, 3600), Limit(60, 600)]
any_of_them = st.integers(0, 10**6)


@dataclass
class Ideal:
    """A bucket in exact fractions. `limit` None: it has no account, and is full."""

    limit: Limit | None = None
    level: Fraction = Fraction(0)
    at: int = 0

    def on(self, now: int) -> None:
        if self.limit is not None:
            gain = Fraction((now - self.at) * self.limit.capacity, self.limit.period_s * US)
            self.level, self.at = min(Fraction(self.limit.capacity), self.level + gain), now

    @property
    def is_full(self) -> bool:
        return self.limit is None or self.level == self.limit.capacity

    def holds(self, limit: Limit) -> Fraction:
        """What it would hold under *limit*. A change of limits keeps whole units."""
        if self.is_full:
            return Fraction(limit.capacity)
        return self.level if limit == self.limit else Fraction(min(limit.capacity, self.level // 1))

    def put(self, limit: Limit, level: Fraction, now: int) -> None:
        self.limit, self.level, self.at = limit, level, now

    def correct(self, holds: Limit, delta: int, now: int) -> None:
        if self.limit is None and delta > 0:
            self.put(holds, Fraction(holds.capacity), now)
        if self.limit is not None and delta:
            self.level = min(Fraction(self.limit.capacity), self.level - delta)
            if self.is_full:
                self.limit = None


class Settling(RuleBasedStateMachine):
    """Requests that are let in or refused, and settled in every way that a network and a sidecar can."""

    client: Any

    def __init__(self) -> None:
        super().__init__()
        self.place = Place(self.client)
        self.number = 8_190  # the bitmap's end is near
        self.known: list[Booking] = []
        self.booked: set[DecisionId] = set()
        self.buckets: dict[str, Ideal] = defaultdict(Ideal)
        self.totals: dict[str, dict[str, Counts]] = defaultdict(lambda: defaultdict(Counts))
        self.used: dict[str, int] = {}

    @initialize(us=st.integers(0, 10**12))
    def some_time(self, us: int) -> None:
        self.place.step(us)

    @rule(us=st.integers(0, 2_000_000) | st.integers(0, 4 * 10**9) | st.integers(0, 3 * 10**11))
    def time_passes(self, us: int) -> None:
        self.place.step(us)
        for name, bucket in self.buckets.items():
            bucket.on(self.place.now)
            if self.place.states(name) is None:
                assert bucket.is_full
                bucket.limit = None

    @rule(
        key=st.sampled_from(sorted(WORKSPACES)),
        limit=st.sampled_from(OWN),
        team=st.sampled_from(SHARED),
        estimate=st.integers(1, 30) | st.integers(1, 120),
        cost=st.none() | st.integers(0, 40) | st.integers(0, 400),
        model=st.sampled_from(MODELS),
        names_model=st.booleans(),
    )
    def a_request(
        self, key: str, limit: Limit, team: Limit, estimate: int, cost: int | None, model: str, names_model: bool
    ) -> None:
        """*cost* None: nobody tells, the estimate stays."""
        workspace, subject = WORKSPACES[key]
        asked = [Spent("l", f"k:{key}", limit, estimate)]
        if workspace:
            asked.append(Spent("l", f"w:{workspace}", team, estimate))
        groups = tuple(Group("l", one.owner, Charge(None, 0), Charge(one.bucket, estimate)) for one in asked)
        fits = all(self.buckets[one.owner].holds(one.bucket) >= estimate for one in asked)

        status = self.place.admit(key, groups)

        assert (status is Status.ADMITTED) == fits
        for one in asked:
            bucket = self.buckets[one.owner]
            if fits:
                bucket.put(one.bucket, bucket.holds(one.bucket) - estimate, self.place.now)
            elif not bucket.is_full and bucket.holds(one.bucket) < one.bucket.capacity:
                bucket.put(one.bucket, bucket.holds(one.bucket), self.place.now)
        decision = DecisionId(PROCESS, PARTITION, self.number)
        self.number += 1
        held = hold(
            decision,
            self.place.now,
            *(asked if fits else ()),
            key=key,
            subject=subject,
            workspace=workspace,
            allowed=fits,
        )
        told = (cost or 0, 1) if fits else (0, 0)
        corrections = [0 if cost is None else cost - estimate] * len(held.spent)
        self.known.append(booking(held, *corrections, model=model, names_model=names_model, tokens=told))

    @rule(chosen=st.lists(any_of_them, min_size=1, max_size=8), twice=st.booleans(), cut=st.integers(0, 8))
    def they_are_settled(self, chosen: list[int], twice: bool, cut: int) -> None:
        """In any order, some for the second time, some in the same call; in two calls; an answer is lost, so again."""
        if self.known:
            batch = [self.known[number % len(self.known)] for number in chosen]
            for part in (batch[:cut], batch[cut:], *([batch] if twice else [])):
                if part:
                    self._settle(part)

    @rule()
    def all_that_is_left_is_settled(self) -> None:
        for one in self.known[-20:]:
            self._settle([one])

    def _settle(self, batch: list[Booking]) -> None:
        expected = []
        for one in batch:
            if self.place.now - one.hold.at_us > MAX_AGE_S * US:
                expected.append(Booked.LATE)
            elif one.hold.id in self.booked:
                expected.append(Booked.REPEATED)
            else:
                expected.append(Booked.BOOKED)
                self._book(one)
        assert self.place.settle(batch) == expected

    def _book(self, one: Booking) -> None:
        held = one.hold
        self.booked.add(held.id)
        for taken, delta in zip(held.spent, one.corrections, strict=True):
            self.buckets[taken.owner].correct(taken.bucket, delta, self.place.now)
        counts = Counts(int(held.allowed), int(not held.allowed), one.input_tokens, one.output_tokens)
        for owner in (f"k:{held.key_id}", "a", *keys.owners(held.workspace, held.subject)):
            models = self.totals[owner]
            known = one.names_model or one.model in models or one.model == ""
            models[one.model if known else "other"] += counts
            if owner.startswith("k:"):
                named = one.model if known else "other"
                row = f"{held.workspace}\0{held.subject}\0{held.key_id}\0{named}"
                for step in Step:
                    self.totals[keys.stretch(PARTITION, step, held.at_us // US)][row] += counts
        if held.allowed:
            self.used[held.key_id] = max(held.at_us, self.used.get(held.key_id, 0))

    @rule(chosen=st.lists(any_of_them, min_size=1, max_size=4))
    def another_store_is_asked(self, chosen: list[int]) -> None:
        if self.known:
            batch = [self.known[number % len(self.known)] for number in chosen]
            assert self.place.settle(batch, "another id") == [Booked.NOT_OURS] * len(batch)

    @invariant()
    def every_unit_is_where_it_belongs(self) -> None:
        for name, bucket in self.buckets.items():
            states = self.place.states(name)
            tokens = states[1] if states else NO_ACCOUNT
            if bucket.limit is None:
                assert tokens.n == 0 or opened(tokens, tokens.n, tokens.p, self.place.now)[1] == 0
            else:
                assert (tokens.n, tokens.p) == (bucket.limit.capacity, bucket.limit.period_s)
                assert opened(tokens, tokens.n, tokens.p, self.place.now)[2] == bucket.level // 1

    @invariant()
    def totals_are_what_was_booked(self) -> None:
        for owner, models in self.totals.items():
            is_row = owner.startswith("authz:")
            found = self.client.hgetall(owner if is_row else keys.counts(PARTITION, owner))
            if found or not is_row or self._is_kept(owner):
                assert {model.decode(): unpack_counts(raw) for model, raw in found.items()} == models
        for key, at_us in self.used.items():
            assert self.client.get(keys.name(PARTITION, "l", key)) == str(at_us).encode()

    def _is_kept(self, name: str) -> bool:
        _, _, kind, number = name.split(":")
        step = Step.HOUR if kind == "o" else Step.DAY
        return self.place.now // US // step.seconds - int(number) < step.kept


def test_each_decision_is_booked_once_and_no_unit_is_lost_or_made(client: Any) -> None:
    machine = type("Settling", (Settling,), {"client": client})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
