"""Rows of usage put together: in total, and by model, key, subject, workspace, hour or day."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from authz.core.usage import Counts, Row


MAX_GROUPS: Final = 10_000


@unique
class By(StrEnum):
    """What usage can be grouped by."""

    MODEL = "model"
    KEY = "key"
    SUBJECT = "subject"
    WORKSPACE = "workspace"
    HOUR = "hour"
    DAY = "day"


MAX_BY: Final = len(By) - 1  # an hour lies within a day


class TooManyGroupsError(Exception):
    """More than `MAX_GROUPS`."""


@dataclass(frozen=True, slots=True)
class Group:
    """What belongs together; None: it was not grouped by that."""

    counts: Counts
    model: str | None = None
    key_id: str | None = None
    subject: str | None = None
    workspace: str | None = None
    at_s: int | None = None

    def order(self) -> tuple[object, ...]:
        """Earliest first, then those with the most tokens; of equals, always the same first."""
        most = (self.counts.tokens, self.counts.requests, self.counts.denied)
        names = (self.workspace, self.subject, self.key_id, self.model)
        return self.at_s or 0, *(-number for number in most), *(name or "" for name in names)


class Sums:
    """The groups of rows, and all of them together. Nothing grouped by: no groups."""

    def __init__(self, by: Collection[By]) -> None:
        self._by = frozenset(by)
        self._groups: dict[tuple[str | int | None, ...], Counts] = {}
        self.total = Counts()

    def add(self, row: Row) -> None:
        """Raises: TooManyGroupsError."""
        self.total += row.counts
        if not self._by:
            return
        named = (*self._named(row),)
        before = self._groups.get(named)
        if before is None and len(self._groups) == MAX_GROUPS:
            raise TooManyGroupsError
        self._groups[named] = row.counts if before is None else before + row.counts

    def _named(self, row: Row) -> Iterator[str | int | None]:
        """As `Group` has them."""
        yield row.model if By.MODEL in self._by else None
        yield row.key_id if By.KEY in self._by else None
        yield row.subject if By.SUBJECT in self._by else None
        yield row.workspace if By.WORKSPACE in self._by else None
        yield row.at_s if self._by & {By.HOUR, By.DAY} else None

    def groups(self) -> Sequence[Group]:
        made = [Group(counts, *named) for named, counts in self._groups.items()]  # type: ignore[arg-type]
        return sorted(made, key=Group.order)
