"""
What a request really cost, once it is over.

    decision ──▶ Hold ─ ─ the proxy carries it along ─ ─▶ Finished ──▶ Booking ──▶ the store, once

An estimate was spent when the request was let in; a booking corrects it to what was used, and counts the request.
"""

import math
from dataclasses import dataclass
from enum import IntEnum, StrEnum, unique
from typing import Final, NamedTuple

from authz.core.bucket import MAX_UNITS, Limit
from authz.core.redaction import redacted
from authz.core.usage import MODEL_BYTES, OTHER
from authz.core.value import value


MAX_AGE_S: Final = 86_400  # after its decision; what is told later is not booked: the estimate stays spent


class DecisionId(NamedTuple):
    """
    Names a decision for ever, so that it is settled once.

    *process*: 6 random bytes of the sidecar that decided; *number*: how many it had named before in that partition. As
    numbers follow one another, the store remembers a settled decision in one bit. *store*: where its estimate was
    spent, and where alone it is settled; empty: the store had not been reached.
    """

    process: bytes
    partition: int
    number: int
    store: str = ""

    def __str__(self) -> str:
        return f"{self.process.hex()}-{self.partition}-{self.number}"


@dataclass(frozen=True, slots=True)
class Spent:
    """What was spent ahead from one bucket of tokens. *owner*: as in `admission.Group`."""

    limit: str
    owner: str
    bucket: Limit
    estimate: int


@value
class Hold:
    """
    What a decision leaves behind to be settled; the proxy carries it from the check to its access log.

    Args:
        id: Of the decision.
        at_us: When it was decided, by the store's clock.
        key_id, key_prefix, subject, workspace: Whose request it is.
        allowed: False: it was refused by us.
        recorded: The key has a record; False: a token that its signature alone speaks for.
        spent: An estimate from each bucket of tokens that it passed; none if it was refused.
    """

    id: DecisionId
    at_us: int
    key_id: str
    key_prefix: str
    subject: str
    workspace: str
    allowed: bool
    recorded: bool
    spent: tuple[Spent, ...] = ()

    @property
    def estimate(self) -> int:
        """The most that was spent from one bucket: what the request was guessed to cost."""
        most = 0
        for spent in self.spent:
            most = max(most, spent.estimate)
        return most


@dataclass(frozen=True, slots=True)
class TokenUsage:
    """What the upstream told of its answer; None: nothing. *total* counts where it is more than both together."""

    input: int | None = None
    output: int | None = None
    total: int | None = None

    @property
    def is_told(self) -> bool:
        return not (self.input is None and self.output is None and self.total is None)

    @property
    def cost(self) -> int:
        return max((self.input or 0) + (self.output or 0), self.total or 0)


@dataclass(frozen=True, slots=True)
class Finished:
    """
    A request that is over, as the proxy tells it.

    Args:
        hold: None: nobody was known behind it (a public route, no credential), or its hold cannot be believed.
        started_s, duration_s: Seconds since 1970, by the proxy's clock; seconds.
        status: Of the answer that the client got; 0: it left before there was one.
        is_complete: The answer is the upstream's, and was sent to its end.
        was_forwarded: The upstream was reached.
        path: Without the query.
        model, asked_model: As the answer, and as the request named it.
        route, reason: What was decided, as the check told it.
    """

    hold: Hold | None
    started_s: float
    duration_s: float
    method: str
    path: str
    status: int
    is_complete: bool = True
    was_forwarded: bool = True
    client_address: str = ""
    request_id: str = ""
    route: str = ""
    reason: str = ""
    model: str = ""
    asked_model: str = ""
    usage: TokenUsage = TokenUsage()

    @property
    def ended_s(self) -> float:
        return self.started_s + self.duration_s


@unique
class Outcome(StrEnum):
    """How the cost of a request was found."""

    USAGE = "usage"  # the upstream told it
    FAILED = "failed"  # the upstream's 4xx or 5xx, or it could not be asked: costs no tokens
    NO_USAGE = "no_usage"  # nothing was told: the estimate stays spent
    CUT_SHORT = "cut_short"  # ended before all was told: at least what was told, and at least the estimate
    DENIED = "denied"  # refused by us: nothing was spent


_NAMELESS: Final = frozenset({Outcome.FAILED, Outcome.DENIED})  # who asks for what is not there names no model


@dataclass(frozen=True, slots=True)
class Booking:
    """
    What one request adds to its owners' counts, and to its buckets.

    Args:
        model: Within its bounds; empty: none was named.
        names_model: Whether it may add a name that its owners did not have; else an unknown one counts as `OTHER`.
        corrections: Beside `hold.spent`: tokens to spend more (above zero) or to give back.
    """

    hold: Hold
    outcome: Outcome
    model: str
    names_model: bool
    input_tokens: int
    output_tokens: int
    corrections: tuple[int, ...]


@unique
class Booked(IntEnum):
    """What became of a booking, as `settle.lua` answers."""

    BOOKED = 0
    REPEATED = 1  # it was booked before: nothing changed
    LATE = 2  # decided more than `MAX_AGE_S` ago, or more than an hour ahead of the store's clock
    NOT_OURS = 6  # the store lost its marker, or is another one
    DAMAGED = 8  # what of its state cannot be read was left alone, the rest is booked


def booking(finished: Finished, hold: Hold) -> Booking:
    """What *finished* costs its owners."""
    outcome = _outcome(finished, hold)
    usage = TokenUsage() if outcome in _NAMELESS else finished.usage
    model = _model_name(finished.model or finished.asked_model)
    if not model and usage.is_told:
        model = OTHER
    return Booking(
        hold=hold,
        outcome=outcome,
        model="" if outcome is Outcome.DENIED else model,
        names_model=outcome not in _NAMELESS and bool(finished.model),  # a client alone names nothing
        input_tokens=usage.input if usage.input is not None else usage.cost - (usage.output or 0),
        output_tokens=usage.output or 0,
        corrections=tuple(_correction(outcome, usage.cost, spent.estimate) for spent in hold.spent),
    )


def _model_name(told: str) -> str:
    """As told, if it can be a name; clients may put anything there, a key of theirs too."""
    if len(told) > MODEL_BYTES or len(told.encode()) > MODEL_BYTES or not told.isprintable():
        return OTHER
    return told if redacted(told, MODEL_BYTES) == told else OTHER


def _outcome(finished: Finished, hold: Hold) -> Outcome:
    if not hold.allowed:
        return Outcome.DENIED
    if finished.status >= 500 or (finished.status >= 400 and (finished.is_complete or not finished.was_forwarded)):
        return Outcome.FAILED  # a 4xx that the proxy made of a request under way is the client's doing
    if not finished.usage.is_told:
        return Outcome.NO_USAGE
    if not finished.is_complete and finished.usage.output is None:
        return Outcome.CUT_SHORT
    return Outcome.USAGE


def _correction(outcome: Outcome, cost: int, estimate: int) -> int:
    match outcome:
        case Outcome.USAGE | Outcome.FAILED:
            return cost - estimate
        case Outcome.CUT_SHORT:
            return max(0, cost - estimate)
        case _:
            return 0


def tokens(number: float) -> int | None:
    """A number of tokens as others tell it; None: it cannot be one. Never above what a bucket can hold."""
    if not math.isfinite(number) or number < 0:
        return None
    return min(int(number), MAX_UNITS)
