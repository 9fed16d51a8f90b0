"""
The token bucket's reference arithmetic: pure, whole numbers only. `admit.lua` and `settle.lua` equal it bit for bit.

A bucket holds N whole units and regains N per period of P seconds, continuously. Its state is two whole numbers:

    a   anchor: the moment (µs of the store's clock) at which the account below was opened
    s   units spent since the anchor, corrections included; above N: an overdraft
    level(t) = N - s + floor((t - a) * N / (P * 10**6)), never above N

No state at all means full. Nothing is ever rounded into the state, so no remainder is lost however often it is asked:
the level is exactly the floor of the ideal continuous bucket. A full bucket's account is closed (no state); once whole
periods have passed, N units and one period are struck from both sides, so t - a stays below one period.

Bounds (1 <= N <= 10**9, 1 <= P <= 31 days) keep every product below 2**53, so Lua's doubles and its floor are exact.
"""

from dataclasses import dataclass
from typing import Final, NamedTuple

from authz.core.value import value


US: Final = 1_000_000
MAX_UNITS: Final = 10**9
MAX_PERIOD_S: Final = 31 * 86_400
MAX_DEBT_US: Final = 2**51  # a debt is remembered for at most 71 years of refill


@dataclass(frozen=True, slots=True)
class Limit:
    """
    A bucket's size and pace.

    Args:
        capacity: Units it holds, 1 to 10**9.
        period_s: Whole seconds in which it regains all of them, 1 to 31 days.
    Raises: ValueError — out of bounds.
    """

    capacity: int
    period_s: int

    def __post_init__(self) -> None:
        for given, most, what in ((self.capacity, MAX_UNITS, "capacity"), (self.period_s, MAX_PERIOD_S, "period")):
            if type(given) is not int or not 1 <= given <= most:
                raise ValueError(f"{what} must be a whole number from 1 to {most}")


@dataclass(frozen=True, slots=True)
class Charge:
    """What one request asks of one bucket. `limit` None: there is no limit in this place, nothing is counted."""

    limit: Limit | None
    cost: int

    def __post_init__(self) -> None:
        if type(self.cost) is not int or not 0 <= self.cost <= MAX_UNITS:
            raise ValueError(f"a cost must be a whole number from 0 to {MAX_UNITS}")


@value
class Quota:
    """
    A bucket after a check, for headers and explanations.

    Args:
        name: Of the limit (`default`).
        unit: Of the bucket: `requests` or `tokens`.
        remaining: Whole units left; below zero: owed.
        full_in_us: µs until it is full again.
    """

    name: str
    unit: str
    limit: Limit
    remaining: int
    full_in_us: int


class State(NamedTuple):
    """`n`, `p`: the capacity and period under which the account was opened; `a` µs; `s` units."""

    n: int
    p: int
    a: int
    s: int


def gained(elapsed_us: int, n: int, p: int) -> int:
    """floor(elapsed * n / (p * 10**6)) without a product above 2**53: seconds and microseconds apart."""
    seconds, us = divmod(elapsed_us, US)
    return (seconds * n + us * n // US) // p


def needed(units: int, n: int, p: int) -> int:
    """The least µs in which *units* are regained: ceil(units * p * 10**6 / n)."""
    periods, units = divmod(units, n)
    seconds, rest = divmod(units * p, n)
    return (periods * p + seconds) * US - (-rest * US // n)


def opened(state: State | None, n: int, p: int, now: int) -> tuple[int, int, int]:
    """
    (anchor, spent, level) at *now* under the limits n, p.

    Whole periods are struck out; a full account is closed; after a change of limits the past is settled at the old
    rate and the level kept, cut to the new capacity. A clock that went back (failover) refills nothing twice.
    """
    if state is None or state.n == 0:
        return now, 0, n
    n0, p0, a, s = state
    a = min(a, now)
    elapsed = now - a
    whole = elapsed // (p0 * US)
    if whole > 0 and s > 0:
        a += whole * p0 * US
        elapsed -= whole * p0 * US
        s -= whole * n0
    refilled = gained(elapsed, n0, p0) if s > 0 else 0
    if s <= refilled:
        return now, 0, n
    if (n0, p0) != (n, p):
        s = spent(n - n0 + s - refilled, 0, n, p)
        return now, s, n - s
    return a, s, n - s + refilled


def spent(s: int, cost: int, n: int, p: int) -> int:
    """Units spent after *cost* more (or a correction): never below zero, never more debt than MAX_DEBT_US pays back."""
    return max(0, min(s + cost, n * (MAX_DEBT_US // (p * US)), MAX_DEBT_US))


def corrected(state: State | None, hold: Limit, delta: int, now: int) -> State | None:
    """
    The account after *delta* units more at *now* (below zero: given back). None: full, there is nothing to remember.

    The limits under which the account was opened count. *hold*, those that the estimate was spent under, may have been
    changed since: to convert there and back would lose units each time. They count where there is no account (no state,
    or a place that had no limit), which is full: more can be spent from it, and nothing be given back.
    """
    if delta == 0:
        return state
    n, p = (hold.capacity, hold.period_s) if state is None or state.n == 0 else (state.n, state.p)
    a, s, _ = opened(state, n, p, now)
    s = spent(s, delta, n, p)
    return State(n, p, a, s) if s > gained(now - a, n, p) else None


def wait_us(a: int, s: int, cost: int, n: int, p: int, now: int) -> int:
    """µs until *cost* is admitted if nobody else spends; 0: now; -1: never, as it exceeds the capacity."""
    if cost > n:
        return -1
    over = s + cost - n
    return max(0, a + needed(over, n, p) - now) if over > 0 else 0


def full_in_us(a: int, s: int, n: int, p: int, now: int) -> int:
    """µs until the bucket is full."""
    return max(0, a + needed(s, n, p) - now) if s > 0 else 0
