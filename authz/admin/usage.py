"""What was used, for those who manage keys: of one key, or of all that they see, by what they ask for."""

from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from authz.admin.actor import Actor
from authz.admin.keys import KeyRequestError, NoSuchKeyError, within
from authz.core.bucket import US
from authz.core.grouping import MAX_BY, MAX_GROUPS, By, Group, Sums, TooManyGroupsError
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.listing import Filter
from authz.core.units import rfc3339
from authz.core.usage import Counts, Owner, Row, Step
from authz.ports import KeyRegistry, UsageReports


_STEPS: Final = {By.HOUR: Step.HOUR, By.DAY: Step.DAY}
_NOT_IN_TOTALS: Final = frozenset(By) - {By.MODEL}


@dataclass(frozen=True, slots=True)
class Span:
    """The time that is asked for. None: as far back as is kept; up to now."""

    start_us: int | None = None
    end_us: int | None = None

    @property
    def is_asked_for(self) -> bool:
        return self.start_us is not None or self.end_us is not None


@dataclass(frozen=True, slots=True)
class Window:
    """
    The time that is looked at, in whole steps of what is kept.

    Args:
        start_s, end_s: The first step, and the one behind the last.
        until_s: Up to when it can tell: the end, or now, in whole seconds.
    """

    step: Step
    start_s: int
    end_s: int
    until_s: int


@dataclass(frozen=True, slots=True)
class KeyUsage:
    """`by_model`: without the requests that had none. `window` None: since it was made."""

    key_id: str
    total: Counts
    by_model: Mapping[str, Counts]
    last_used_us: int | None
    window: Window | None


@dataclass(frozen=True, slots=True)
class Usage:
    """`start_s` None: since the beginning."""

    start_s: int | None
    until_s: int
    total: Counts
    groups: Sequence[Group]


@dataclass(frozen=True, slots=True)
class UsageAdmin:
    """Reading is no event. The clock is the store's."""

    registry: KeyRegistry
    reports: UsageReports

    async def of_key(self, key: str, span: Span, actor: Actor) -> KeyUsage:
        """By id or display prefix, whatever its state. Raises: NoSuchKeyError; KeyRequestError; StoreFault."""
        record = await self._find(key, actor)
        if record is None:
            raise NoSuchKeyError(key)
        owner = Owner(record.workspace, record.subject, record.id)
        window = window_of(span, (), await self.registry.now_us()) if span.is_asked_for else None
        sums = Sums((By.MODEL,))
        if window is None:
            await self._add_totals(sums, owner, Filter({}))
        else:
            await _add(sums, self._rows(window, record), Filter({"key_id": record.id}))
        by_model = {group.model: group.counts for group in sums.groups() if group.model}
        return KeyUsage(record.id, sums.total, by_model, await self.reports.last_used_us(owner), window)

    async def of_all(self, wanted: Filter, names: Sequence[str], span: Span, actor: Actor) -> Usage:
        """
        *wanted*: conditions on `workspace`, `subject`, `key_id` and `model`; *names*: what to group by.

        Raises: KeyRequestError; ForbiddenError; StoreFault.
        """
        by = _grouped_by(names)
        wanted = within(wanted, actor)
        record = await self._find(wanted.get("key_id") or "", actor)
        if record is not None:
            wanted = Filter({**wanted.equal, "key_id": record.id})
        now_us = await self.registry.now_us()
        sums = Sums(by)
        owner = None if span.is_asked_for or not _NOT_IN_TOTALS.isdisjoint(by) else _owner(wanted, record)
        if owner is not None:
            await self._add_totals(sums, owner, wanted)
            return Usage(None, -(-now_us // US), sums.total, sums.groups())
        window = window_of(span, by, now_us)
        await _add(sums, self._rows(window, record, wanted), wanted)
        return Usage(window.start_s, window.until_s, sums.total, sums.groups())

    async def _find(self, key: str, actor: Actor) -> KeyRecord | None:
        """None: there is none that the actor sees."""
        record = await self.registry.read(key) if key else None
        return record if record is not None and actor.sees(record) else None

    async def _add_totals(self, sums: Sums, owner: Owner, wanted: Filter) -> None:
        for model, counts in (await self.reports.totals(owner)).items():
            if wanted.get("model") in {None, model}:
                sums.add(Row(0, owner.workspace, owner.subject, owner.key_id, model, counts))

    def _rows(self, window: Window, record: KeyRecord | None, wanted: Filter | None = None) -> AsyncIterator[Row]:
        """Of *record*'s tenant, or of the one that *wanted* names; else of all."""
        named = wanted.equal if wanted is not None else {}
        workspace, subject = named.get("workspace"), named.get("subject")
        tenant = None
        if record is not None:
            tenant = tenant_of(record.workspace, record.subject)
        elif workspace or (workspace is not None and subject):
            tenant = tenant_of(workspace, subject or "")
        return self.reports.rows(window.step, window.start_s, window.end_s, tenant)


async def _add(sums: Sums, rows: AsyncIterator[Row], wanted: Filter) -> None:
    """Raises: KeyRequestError; StoreFault."""
    try:
        async for row in rows:
            told = {"workspace": row.workspace, "subject": row.subject, "key_id": row.key_id, "model": row.model}
            if wanted.matches(told):
                sums.add(row)
    except TooManyGroupsError as exc:
        refused = (
            f"makes more than {MAX_GROUPS} groups: ask for a shorter time, for fewer kinds of groups, or by a filter"
        )
        raise KeyRequestError("group_by", refused) from exc


def _grouped_by(names: Sequence[str]) -> frozenset[By]:
    """Raises: KeyRequestError."""
    if len(names) > MAX_BY:
        raise KeyRequestError("group_by", f"at most {MAX_BY}")
    if not set(By).issuperset(names):
        raise KeyRequestError("group_by", f"can be {', '.join(By)} alone")
    by = frozenset(By(name) for name in names)
    if len(by) < len(names):
        raise KeyRequestError("group_by", "names the same twice")
    if by.issuperset(_STEPS):
        raise KeyRequestError("group_by", "is by hour or by day, and not by both")
    return by


def _owner(wanted: Filter, record: KeyRecord | None) -> Owner | None:
    """Whose totals are all of *wanted*, whatever the model; None: nobody's, as far as totals are kept."""
    named = {name: value for name, value in wanted.equal.items() if name != "model"}
    if record is not None:
        own = {"workspace": record.workspace, "subject": record.subject, "key_id": record.id}
        return Owner(**own) if named.items() <= own.items() else None
    if "key_id" in named or "" in named.values():
        return None
    return Owner(**named)


def window_of(span: Span, by: Collection[By], now_us: int) -> Window:
    """
    Whole hours where they are grouped by, or kept for all of *span*; else whole days, as well as where *span* is whole
    days anyway and both tell the same. What lies before all that is kept is cut off.

    Raises: KeyRequestError.
    """
    start_us, end_us = span.start_us, span.end_us
    if start_us is not None and start_us >= now_us:
        raise KeyRequestError("start_time", "lies ahead")
    if start_us is not None and end_us is not None and end_us <= start_us:
        raise KeyRequestError("end_time", "must be later than start_time")
    step = next((_STEPS[one] for one in by if one in _STEPS), None) or _finest(start_us, end_us, now_us)
    first_s = _first_s(step, now_us)
    until_us = now_us if end_us is None else min(end_us, now_us)
    if until_us <= first_s * US:
        told = f"must be later than {rfc3339(first_s * US)}: what was used by the {step} is not kept for longer"
        raise KeyRequestError("end_time", told)
    start_s = first_s if start_us is None else max(first_s, _down(start_us, step))
    end_s = -_down(-until_us, step)
    return Window(step, start_s, end_s, min(end_s, -(-now_us // US)))


def _finest(start_us: int | None, end_us: int | None, now_us: int) -> Step:
    if start_us is None or start_us < _first_s(Step.HOUR, now_us) * US:
        return Step.DAY
    day_us = Step.DAY.seconds * US
    has_whole_days = start_us % day_us == 0 and (end_us is None or end_us >= now_us or end_us % day_us == 0)
    return Step.DAY if has_whole_days else Step.HOUR


def _first_s(step: Step, now_us: int) -> int:
    """The beginning of the oldest one that is kept."""
    return _down(now_us, step) - (step.kept - 1) * step.seconds


def _down(us: int, step: Step) -> int:
    """To a whole step, in seconds."""
    return us // (step.seconds * US) * step.seconds
