"""The reference arithmetic against the ideal bucket in exact fractions."""

import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.bucket import (
    MAX_DEBT_US,
    MAX_PERIOD_S,
    MAX_UNITS,
    US,
    Charge,
    Limit,
    State,
    full_in_us,
    gained,
    needed,
    opened,
    spent,
    wait_us,
)


T0 = 1_795_000_000_000_000
NOTABLE = [
    (1, 1),
    (5, 60),
    (7, 3),
    (1000, 1),
    (99_991, 3600),
    (1, MAX_PERIOD_S),
    (MAX_UNITS, 1),
    (MAX_UNITS, MAX_PERIOD_S),
]
LIMITS = st.sampled_from(NOTABLE) | st.tuples(st.integers(1, MAX_UNITS), st.integers(1, MAX_PERIOD_S))
STEPS_US = st.integers(0, 30) | st.integers(0, 2 * US) | st.integers(0, 10**11) | st.integers(0, 6 * 10**12)
EXACT = 2**53


@st.composite
def histories(draw: st.DrawFn) -> tuple[tuple[int, int], list[tuple[int, int, int | None]]]:
    """A limit and steps of (µs passed, cost asked, or a correction in its place)."""
    n, p = draw(LIMITS)
    costs = st.integers(0, 3) | st.integers(0, n + 1) | st.sampled_from([n, max(1, n - 1), max(1, n // 2)])
    step = st.tuples(STEPS_US, costs, st.none() | st.integers(-n, 2 * n))
    return (n, p), draw(st.lists(step, max_size=30))


@given(histories())
def test_reference_is_the_ideal_bucket(history: tuple[tuple[int, int], list[tuple[int, int, int | None]]]) -> None:
    """Level, wait and time until full are those of a continuous bucket, to the unit and the µs, overdraft included."""
    (n, p), steps = history
    now, state, ideal = T0, None, Fraction(n)
    for passed, cost, correction in steps:
        now += passed
        ideal = min(Fraction(n), ideal + Fraction(passed * n, p * US))
        a, s, level = opened(state, n, p, now)
        assert level == math.floor(ideal)
        needs = max(Fraction(0), (cost - ideal) * p * US / n)
        assert wait_us(a, s, cost, n, p, now) == (math.ceil(needs) if cost <= n else -1)
        assert full_in_us(a, s, n, p, now) == math.ceil((n - ideal) * p * US / n)
        if correction is not None:
            s, ideal = spent(s, correction, n, p), min(Fraction(n), ideal - correction)
        elif level >= cost:
            s, ideal = spent(s, cost, n, p), ideal - cost
        state = State(n, p, a, s)


@given(LIMITS, st.integers(0, MAX_DEBT_US), STEPS_US)
def test_products_stay_exact(limit: tuple[int, int], s: int, passed: int) -> None:
    """No account that can be written makes a product beyond what a double holds exactly."""
    n, p = limit
    s = spent(s, 0, n, p)
    elapsed = passed % (p * US)  # whole periods are struck out before anything is multiplied
    products = (s, elapsed // US * n + US * n // US, US * n, n * p, s // n * p * US + p * US)
    assert max(products) < EXACT


@given(LIMITS, st.integers(0, 2 * MAX_UNITS))
def test_needed_is_the_least_time(limit: tuple[int, int], units: int) -> None:
    """After `needed` µs the units are regained, and a µs earlier they are not."""
    n, p = limit
    least = needed(units, n, p)
    assert gained(least, n, p) >= units
    assert least == 0 or gained(least - 1, n, p) < units


@given(LIMITS, STEPS_US, STEPS_US)
def test_gained_is_monotone_and_loses_no_remainder(limit: tuple[int, int], first: int, second: int) -> None:
    """Refill never falls as time passes, and in two parts is never more than at once, nor a whole unit less."""
    n, p = limit
    parts = gained(first, n, p) + gained(second, n, p)
    assert 0 <= gained(first + second, n, p) - parts <= 1


@given(LIMITS, st.lists(STEPS_US, min_size=1, max_size=12))
def test_asking_often_loses_nothing(limit: tuple[int, int], steps: list[int]) -> None:
    """However often a bucket is looked at on the way, its level at the end is the same."""
    n, p = limit
    end = T0 + sum(steps)
    state, now = State(n, p, T0, n), T0
    for passed in steps:
        now += passed
        a, s, _ = opened(state, n, p, now)
        state = State(n, p, a, s)
    assert opened(state, n, p, end)[2] == opened(State(n, p, T0, n), n, p, end)[2]


@given(LIMITS, st.integers(0, MAX_UNITS), st.integers(0, 2**45))
def test_clock_that_went_back_refills_nothing(limit: tuple[int, int], s: int, back: int) -> None:
    """After a failover to a slower clock the level is what it was, and the time lost is not refilled twice."""
    n, p = limit
    state = State(n, p, T0, s)
    a, kept, level = opened(state, n, p, T0 - back)
    assert (level, kept) == (n - s, s)
    assert opened(State(n, p, a, kept), n, p, T0 - back + US)[2] == opened(state, n, p, T0 + US)[2]


@given(LIMITS, st.integers(1, 2**62), st.integers(0, 2**62))
def test_debt_is_bounded(limit: tuple[int, int], debt: int, more: int) -> None:
    """Whatever is charged, a debt is paid back within 71 years, and credit never exceeds a full bucket."""
    n, p = limit
    owed = spent(spent(0, debt, n, p), more, n, p)
    assert full_in_us(T0, owed, n, p, T0) <= MAX_DEBT_US
    assert spent(owed, -(2**63), n, p) == 0


@given(st.lists(LIMITS, min_size=2, max_size=6), st.integers(0, 2 * MAX_UNITS))
def test_change_of_limits_never_adds(limits: list[tuple[int, int]], used: int) -> None:
    """However limits flap, a change never raises the level, but for the full bucket and the longest debt."""
    n, p = limits[0]
    state = State(n, p, T0, used)
    level = opened(state, n, p, T0)[2]
    for m, q in limits[1:]:
        a, s, changed = opened(state, m, q, T0)
        stays_full, longest_debt = s == 0 and level >= n, s == spent(2**62, 0, m, q)
        assert changed <= level or stays_full or longest_debt
        n, p, state, level = m, q, State(m, q, a, s), changed


@given(LIMITS, LIMITS, st.integers(0, 3 * MAX_UNITS), STEPS_US)
def test_change_settles_the_past_at_the_old_rate(
    old: tuple[int, int], new: tuple[int, int], used: int, passed: int
) -> None:
    """Under new limits the level is what the old ones left, cut to the new capacity; a full bucket stays full."""
    (n, p), (m, q) = old, new
    before = opened(State(n, p, T0, used), n, p, T0 + passed)[2]
    after = opened(State(n, p, T0, used), m, q, T0 + passed)[2]
    owed_at_most = m - spent(2**62, 0, m, q)
    expected = m if before == n and old != new and opened(State(n, p, T0, used), n, p, T0 + passed)[1] == 0 else before
    assert after == (expected if old == new else max(owed_at_most, min(m, expected)))


@given(LIMITS, STEPS_US)
def test_no_state_is_full(limit: tuple[int, int], now: int) -> None:
    """A bucket without state, or whose place had no limit before, is full and opens now."""
    n, p = limit
    assert opened(None, n, p, T0 + now) == (T0 + now, 0, n)
    assert opened(State(0, 60, T0, 7), n, p, T0 + now) == (T0 + now, 0, n)


WRONG = [0, -1, -(10**9), True, False, 1.0, 1.5, float("nan"), float("inf"), "60", None]


@pytest.mark.parametrize("value", [*WRONG, MAX_UNITS + 1])
def test_capacity_bounds(value: int) -> None:
    """A capacity is a whole number from 1 to 10**9."""
    with pytest.raises(ValueError, match="capacity must be a whole number from 1 to 1000000000"):
        Limit(value, 60)


@pytest.mark.parametrize("value", [*WRONG, MAX_PERIOD_S + 1])
def test_period_bounds(value: int) -> None:
    """A period is whole seconds, from one to 31 days of them."""
    with pytest.raises(ValueError, match="period must be a whole number from 1 to 2678400"):
        Limit(60, value)


@pytest.mark.parametrize("value", [*WRONG[1:], MAX_UNITS + 1])
def test_cost_bounds(value: int) -> None:
    """A cost is a whole number from 0 to 10**9; nothing can be given back through it."""
    with pytest.raises(ValueError, match="cost must be a whole number from 0 to 1000000000"):
        Charge(Limit(60, 60), value)


@pytest.mark.parametrize(("capacity", "period"), [(1, 1), (MAX_UNITS, MAX_PERIOD_S)])
@pytest.mark.parametrize("cost", [0, 1, MAX_UNITS])
def test_bounds_themselves_are_taken(capacity: int, period: int, cost: int) -> None:
    """Both ends of every range are valid."""
    limit = Limit(capacity, period)
    assert (limit.capacity, limit.period_s, Charge(limit, cost).cost) == (capacity, period, cost)
