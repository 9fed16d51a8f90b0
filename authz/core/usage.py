"""What keys have used: whole numbers that only grow, by model, in total and by hour and day."""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final


MAX_MODELS: Final = 50  # names that one owner has; what comes after is counted as `OTHER`
MODEL_BYTES: Final = 128
OTHER: Final = "other"  # models beyond those bounds, and tokens of an answer that names none
HOURS_KEPT: Final = 8 * 24
DAYS_KEPT: Final = 400


@dataclass(frozen=True, slots=True)
class Counts:
    """
    Args:
        requests: Let through and finished, whatever the upstream answered.
        denied: Refused by authz.
        input_tokens, output_tokens: As the upstream told them; of an answer that told nothing, none.
    """

    requests: int = 0
    denied: int = 0
    input_tokens: int = 0
    output_tokens: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.requests + other.requests,
            self.denied + other.denied,
            self.input_tokens + other.input_tokens,
            self.output_tokens + other.output_tokens,
        )

    @property
    def tokens(self) -> int:
        return self.input_tokens + self.output_tokens


@unique
class Step(StrEnum):
    """A stretch of time that is counted by itself, in UTC."""

    HOUR = "hour"
    DAY = "day"

    @property
    def seconds(self) -> int:
        return 3600 if self is Step.HOUR else 86_400

    @property
    def kept(self) -> int:
        """How many of them the store keeps, the current one included."""
        return HOURS_KEPT if self is Step.HOUR else DAYS_KEPT


@dataclass(frozen=True, slots=True)
class Owner:
    """
    Whose totals: a key's, a subject's, a workspace's, those of a subject within a workspace, or (nothing given) all.

    A key is found in its tenant's partition: give it with its workspace and subject.
    """

    workspace: str = ""
    subject: str = ""
    key_id: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """What one key used of one model within one hour or day. `model` empty: requests without a model."""

    at_s: int
    workspace: str
    subject: str
    key_id: str
    model: str
    counts: Counts
