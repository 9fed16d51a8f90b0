"""What was used, by whom and of what: against a plain model of it, at every time of the year, without a store."""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, Final, cast

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz.admin.actor import COMMAND_LINE, Actor, ForbiddenError
from authz.admin.keys import KeyRequestError, NoSuchKeyError
from authz.admin.usage import Span, Usage, UsageAdmin, Window, window_of
from authz.core.grouping import MAX_GROUPS, By, Group, Sums, TooManyGroupsError
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.listing import Filter
from authz.core.usage import DAYS_KEPT, HOURS_KEPT, Counts, Owner, Row, Step
from authz.ports import KeyRegistry


HOUR, DAY = Step.HOUR, Step.DAY
NOW: Final = 1_779_272_712  # 2026-05-20T10:25:12Z
TODAY: Final = NOW // 86_400 * 86_400
THIS_HOUR: Final = NOW // 3600 * 3600
FIRST_HOUR: Final = THIS_HOUR - (HOURS_KEPT - 1) * 3600
FIRST_DAY: Final = TODAY - (DAYS_KEPT - 1) * 86_400
KEYS: Final = tuple(
    KeyRecord(f"key_{workspace}_{subject}", "n", "jwt", f"sk-{workspace}-{subject}", subject, workspace)
    for workspace in ("acme", "umbrella", "")
    for subject in ("ada", "bob")
)


@dataclass(frozen=True)
class Used:
    """One request, or a few alike."""

    key: KeyRecord
    at_s: int
    model: str
    counts: Counts

    def told(self) -> dict[str, Any]:
        of = self.key
        return {"workspace": of.workspace, "subject": of.subject, "key_id": of.id, "model": self.model}


@dataclass
class Reports:
    """Keeps what the store keeps; workspaces and subjects share partitions, as they do there."""

    used: Sequence[Used]
    asked: list[tuple[Step, int, int, str | None]] = field(default_factory=list)

    async def totals(self, owner: Owner) -> Mapping[str, Counts]:
        wanted = {"workspace": owner.workspace, "subject": owner.subject, "key_id": owner.key_id}
        if owner.key_id:
            [key] = [one for one in KEYS if one.id == owner.key_id]
            assert (owner.workspace, owner.subject) == (key.workspace, key.subject), "it is not found so"
        wanted = {name: value for name, value in wanted.items() if value}
        found: dict[str, Counts] = {}
        for one in self.used:
            if wanted.items() <= one.told().items():
                found[one.model] = found.get(one.model, Counts()) + one.counts
        return found

    async def last_used_us(self, owner: Owner) -> int | None:
        times = [one.at_s for one in self.used if one.key.id == owner.key_id]
        return max(times) * 1_000_000 if times else None

    async def rows(self, step: Step, start_s: int, end_s: int, tenant: str | None = None) -> AsyncIterator[Row]:
        self.asked.append((step, start_s, end_s, tenant))
        assert start_s % step.seconds == end_s % step.seconds == 0
        assert start_s < end_s
        assert start_s >= (FIRST_HOUR if step is HOUR else FIRST_DAY)
        for one in self.used:
            at_s = one.at_s // step.seconds * step.seconds
            of = one.key
            if start_s <= at_s < end_s and tenant in {None, *self.neighbours(of)}:
                yield Row(at_s, of.workspace, of.subject, of.id, one.model, one.counts)

    @staticmethod
    def neighbours(key: KeyRecord) -> tuple[str, ...]:
        """Tenants whose partition *key* lies in: all that are no subject's, or all that are."""
        workspaces = ("w:acme", "w:umbrella", "w:nobody's")
        return workspaces if key.workspace else ("s:ada", "s:bob")


class Registry:
    async def now_us(self) -> int:
        return NOW * 1_000_000

    async def read(self, key: str) -> KeyRecord | None:
        return next((one for one in KEYS if key in {one.id, one.prefix}), None)


def admin(used: Sequence[Used] = ()) -> tuple[UsageAdmin, Reports]:
    reports = Reports(used)
    return UsageAdmin(cast("KeyRegistry", Registry()), reports), reports


def span(start_s: float | None = None, end_s: float | None = None) -> Span:
    return Span(*(None if at_s is None else int(at_s * 1_000_000) for at_s in (start_s, end_s)))


@pytest.mark.parametrize(
    ("asked", "by", "expected"),
    [
        pytest.param(span(), (), Window(DAY, FIRST_DAY, TODAY + 86_400, NOW), id="all that is kept"),
        pytest.param(span(), (By.DAY,), Window(DAY, FIRST_DAY, TODAY + 86_400, NOW), id="by day"),
        pytest.param(span(), (By.HOUR,), Window(HOUR, FIRST_HOUR, THIS_HOUR + 3600, NOW), id="by hour"),
        pytest.param(span(NOW - 60), (), Window(HOUR, THIS_HOUR, THIS_HOUR + 3600, NOW), id="a minute"),
        pytest.param(span(NOW - 0.5), (), Window(HOUR, THIS_HOUR, THIS_HOUR + 3600, NOW), id="half a second"),
        pytest.param(span(NOW - 60), (By.DAY,), Window(DAY, TODAY, TODAY + 86_400, NOW), id="a minute by day"),
        pytest.param(
            span(NOW - 7000, NOW - 4000),
            (By.MODEL,),
            Window(HOUR, THIS_HOUR - 2 * 3600, THIS_HOUR, THIS_HOUR),
            id="hours, widened",
        ),
        pytest.param(
            span(THIS_HOUR - 7200, THIS_HOUR - 3600),
            (),
            Window(HOUR, THIS_HOUR - 7200, THIS_HOUR - 3600, THIS_HOUR - 3600),
            id="a whole hour",
        ),
        pytest.param(
            span(THIS_HOUR - 3600, THIS_HOUR + 1),
            (),
            Window(HOUR, THIS_HOUR - 3600, THIS_HOUR + 3600, NOW),
            id="into it",
        ),
        pytest.param(span(TODAY), (), Window(DAY, TODAY, TODAY + 86_400, NOW), id="today: a day tells the same"),
        pytest.param(
            span(TODAY - 86_400, TODAY), (), Window(DAY, TODAY - 86_400, TODAY, TODAY), id="yesterday: a day, too"
        ),
        pytest.param(span(TODAY, THIS_HOUR), (), Window(HOUR, TODAY, THIS_HOUR, THIS_HOUR), id="today up to an hour"),
        pytest.param(
            span(FIRST_HOUR), (), Window(HOUR, FIRST_HOUR, THIS_HOUR + 3600, NOW), id="the first hour that is kept"
        ),
        pytest.param(
            span(FIRST_HOUR - 0.000001),
            (),
            Window(DAY, FIRST_HOUR // 86_400 * 86_400, TODAY + 86_400, NOW),
            id="before it",
        ),
        pytest.param(
            span(FIRST_HOUR - 1), (By.HOUR,), Window(HOUR, FIRST_HOUR, THIS_HOUR + 3600, NOW), id="before it, by hour"
        ),
        pytest.param(span(0), (), Window(DAY, FIRST_DAY, TODAY + 86_400, NOW), id="1970"),
        pytest.param(span(NOW - 60, NOW * 3), (), Window(HOUR, THIS_HOUR, THIS_HOUR + 3600, NOW), id="into the future"),
        pytest.param(span(None, NOW - 86_400), (), Window(DAY, FIRST_DAY, TODAY, TODAY), id="up to yesterday"),
        pytest.param(
            span(None, FIRST_DAY + 1), (), Window(DAY, FIRST_DAY, FIRST_DAY + 86_400, FIRST_DAY + 86_400), id="oldest"
        ),
    ],
)
def test_the_time_that_is_looked_at(asked: Span, by: Sequence[By], expected: Window) -> None:
    assert window_of(asked, by, NOW * 1_000_000) == expected


@pytest.mark.parametrize(
    ("asked", "by", "at_fault"),
    [
        (span(NOW), (), "start_time"),
        (span(NOW + 3600, NOW + 7200), (), "start_time"),
        (span(NOW - 60, NOW - 60), (), "end_time"),
        (span(NOW - 60, NOW - 61), (), "end_time"),
        (span(0, FIRST_DAY), (), "end_time"),
        (span(None, FIRST_DAY), (), "end_time"),
        (span(None, 0), (), "end_time"),
        (span(None, FIRST_HOUR), (By.HOUR,), "end_time"),
        (span(FIRST_HOUR - 7200, FIRST_HOUR - 3600), (By.HOUR, By.KEY), "end_time"),
    ],
)
def test_times_that_tell_nothing_are_refused(asked: Span, by: Sequence[By], at_fault: str) -> None:
    with pytest.raises(KeyRequestError) as refused:
        window_of(asked, by, NOW * 1_000_000)

    assert refused.value.field == at_fault


times = st.one_of(st.none(), st.integers(FIRST_DAY - 3 * 86_400, NOW + 3 * 86_400), st.integers(FIRST_HOUR, NOW))


@given(start_s=times, end_s=times, now_us=st.integers(NOW * 1_000_000, (NOW + 200_000) * 1_000_000))
@example(start_s=FIRST_HOUR, end_s=None, now_us=NOW * 1_000_000)
@example(start_s=NOW - 1, end_s=NOW, now_us=THIS_HOUR * 1_000_000 + 3_600_000_000)
def test_a_window_covers_what_is_asked_for_and_kept(start_s: int | None, end_s: int | None, now_us: int) -> None:
    asked = span(start_s, end_s)
    try:
        found = window_of(asked, (), now_us)
    except KeyRequestError:
        first_s = window_of(span(), (), now_us).start_s
        ends_us = now_us if end_s is None else end_s * 1_000_000
        asked_us = 0 if start_s is None else start_s * 1_000_000
        assert min(ends_us, now_us) <= max(asked_us, first_s * 1_000_000) or ends_us <= asked_us
        return
    assert found.start_s % found.step.seconds == found.end_s % found.step.seconds == 0
    assert found.start_s < found.until_s <= found.end_s
    assert found.until_s * 1_000_000 < now_us + 1_000_000
    oldest_s = (
        now_us // 1_000_000 // found.step.seconds * found.step.seconds - (found.step.kept - 1) * found.step.seconds
    )
    assert found.start_s >= oldest_s
    if start_s is not None and start_s >= oldest_s:
        assert 0 <= start_s - found.start_s < found.step.seconds
    if end_s is not None and end_s * 1_000_000 < now_us:
        assert 0 <= found.end_s - end_s < found.step.seconds
    else:
        assert 0 <= found.end_s * 1_000_000 - now_us < found.step.seconds * 1_000_000


counted = st.builds(Counts, *[st.integers(0, 9)] * 4)
requests = st.builds(
    Used,
    key=st.sampled_from(KEYS),
    at_s=st.one_of(st.integers(FIRST_DAY - 86_400, NOW), st.integers(FIRST_HOUR, NOW)),
    model=st.sampled_from(["", "small", "large"]),
    counts=counted,
)
conditions = st.fixed_dictionaries(
    {},
    optional={
        "workspace": st.sampled_from(["acme", "umbrella", "", "nobody's"]),
        "subject": st.sampled_from(["ada", "bob", "", "nobody"]),
        "key_id": st.sampled_from([KEYS[0].id, KEYS[3].prefix, KEYS[5].id, "key_nobody", ""]),
        "model": st.sampled_from(["", "small", "huge"]),
    },
)
grouped = st.sampled_from(
    [by for size in range(4) for by in combinations(By, size) if not {By.HOUR, By.DAY} <= set(by)]
)
actors = st.sampled_from([COMMAND_LINE, Actor("key_1"), Actor("key_2", "acme")])


def modelled(
    used: Sequence[Used], matches: Callable[[Used], bool], by: Sequence[By], step: Step
) -> tuple[Counts, dict[tuple[Any, ...], Counts]]:
    """The total and the groups, found one request after the other."""
    total, groups = Counts(), dict[tuple[Any, ...], Counts]()
    for one in used:
        if matches(one):
            total += one.counts
            told = one.told() | {"key": one.key.id, "hour": one.at_s // 3600 * 3600, "day": one.at_s // 86_400 * 86_400}
            name = tuple(told[each] for each in sorted(by))
            groups[name] = groups.get(name, Counts()) + one.counts
    return total, groups if by else {}


def shown(groups: Sequence[Group], by: Sequence[By]) -> dict[tuple[Any, ...], Counts]:
    found = {}
    members = {"key": "key_id", "hour": "at_s", "day": "at_s"}
    for group in groups:
        named = [members.get(each, str(each)) for each in sorted(by)]
        found[tuple(getattr(group, name) for name in named)] = group.counts
        for other in {"model", "key_id", "subject", "workspace", "at_s"} - {*named}:
            assert getattr(group, other) is None
    assert len(found) == len(groups)
    return found


@given(
    used=st.lists(requests, max_size=25),
    equal=conditions,
    by=grouped,
    start_s=st.one_of(st.none(), st.integers(FIRST_DAY, NOW - 1), st.integers(FIRST_HOUR, NOW - 1)),
    is_ended=st.booleans(),
    actor=actors,
)
async def test_usage_is_that_of_a_plain_model(
    used: list[Used], equal: dict[str, str], by: tuple[By, ...], start_s: int | None, is_ended: bool, actor: Actor
) -> None:
    usage, reports = admin(used)
    end_s = (NOW + (start_s or NOW - 40 * 86_400)) // 2 + 1 if is_ended else None
    asked = span(start_s, end_s)
    names = [str(one) for one in by]
    if actor.workspace and equal.get("workspace", actor.workspace) != actor.workspace:
        with pytest.raises(ForbiddenError):
            await usage.of_all(Filter(equal), names, asked, actor)
        assert reports.asked == []
        return
    if By.HOUR in by and end_s is not None and end_s <= FIRST_HOUR:
        with pytest.raises(KeyRequestError, match="end_time"):
            await usage.of_all(Filter(equal), names, asked, actor)
        return

    told = await usage.of_all(Filter(equal), names, asked, actor)

    key = next((one for one in KEYS if equal.get("key_id") == one.prefix), None)
    named = equal | ({"key_id": key.id} if key else {})
    if actor.workspace:
        named["workspace"] = actor.workspace
        assert all(tenant is not None for _, _, _, tenant in reports.asked)

    def matches(one: Used) -> bool:
        if told.start_s is not None and not told.start_s <= one.at_s < told.until_s + (not is_ended):
            return False
        return named.items() <= one.told().items()

    total, groups = modelled(used, matches, by, DAY)
    assert (told.total, shown(told.groups, by)) == (total, groups)
    order = [(group.at_s or 0, -group.counts.tokens) for group in told.groups]
    assert order == sorted(order)
    if told.start_s is None:
        assert (asked, {*by} - {By.MODEL}, reports.asked) == (Span(), set(), [])
    elif start_s is not None:
        assert told.start_s <= max(start_s, FIRST_HOUR if By.HOUR in by else FIRST_DAY)


@given(used=st.lists(requests, max_size=25), key=st.sampled_from(KEYS), by_prefix=st.booleans(), since=times)
async def test_usage_of_a_key_is_that_of_a_plain_model(
    used: list[Used], key: KeyRecord, by_prefix: bool, since: int | None
) -> None:
    usage, reports = admin(used)
    since = None if since is None else min(since, NOW - 1)

    told = await usage.of_key(key.prefix if by_prefix else key.id, span(since), Actor("a", key.workspace))

    start_s = told.window.start_s if told.window else 0
    total, by_model = modelled(used, lambda one: one.key == key and one.at_s >= start_s, (By.MODEL,), DAY)
    assert (told.key_id, told.total) == (key.id, total)
    assert told.by_model == {model: counts for (model,), counts in by_model.items() if model}
    assert told.last_used_us == max((one.at_s * 1_000_000 for one in used if one.key == key), default=None)
    assert (told.window is None) == (since is None)
    assert [tenant for *_, tenant in reports.asked] == (
        [] if since is None else [tenant_of(key.workspace, key.subject)]
    )


@pytest.mark.parametrize(
    ("equal", "owner"),
    [
        ({}, Owner()),
        ({"workspace": "acme"}, Owner("acme")),
        ({"subject": "ada"}, Owner(subject="ada")),
        ({"workspace": "acme", "subject": "ada", "model": "small"}, Owner("acme", "ada")),
        ({"key_id": KEYS[0].prefix, "subject": "ada"}, Owner("acme", "ada", KEYS[0].id)),
        ({"key_id": KEYS[4].id}, Owner("", "ada", KEYS[4].id)),
        ({"workspace": ""}, None),
        ({"workspace": "", "subject": "ada"}, None),
        ({"key_id": "from elsewhere"}, None),
        ({"key_id": KEYS[0].id, "subject": "bob"}, None),
    ],
)
async def test_whose_totals_are_asked_for(
    equal: dict[str, str], owner: Owner | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since the beginning, for whom totals are kept; else from the days."""
    asked: list[Owner] = []

    async def totals(_: Reports, of: Owner) -> Mapping[str, Counts]:
        asked.append(of)
        return {"small": Counts(1, 0, 2, 3), "": Counts(4, 5)}

    monkeypatch.setattr(Reports, "totals", totals)
    usage, reports = admin()
    told = await usage.of_all(Filter(equal), ["model"], Span(), COMMAND_LINE)

    assert asked == ([] if owner is None else [owner])
    assert len(reports.asked) == (owner is None)
    assert told.start_s == (FIRST_DAY if owner is None else None)
    if owner is not None:
        assert told.until_s == NOW
        assert told.total == (Counts(1, 0, 2, 3) if "model" in equal else Counts(5, 5, 2, 3))


@pytest.mark.parametrize(
    ("equal", "tenant"),
    [
        ({}, None),
        ({"subject": "ada"}, None),
        ({"model": "small"}, None),
        ({"workspace": ""}, None),
        ({"key_id": "from elsewhere"}, None),
        ({"workspace": "acme", "subject": "ada"}, "w:acme"),
        ({"workspace": "", "subject": "ada"}, "s:ada"),
        ({"key_id": KEYS[0].id}, "w:acme"),
        ({"key_id": KEYS[4].prefix}, "s:ada"),
    ],
)
async def test_where_is_looked_for_rows(equal: dict[str, str], tenant: str | None) -> None:
    """In one partition where it is known, as each costs the store; else in all of them."""
    usage, reports = admin()
    await usage.of_all(Filter(equal), [], span(NOW - 60), COMMAND_LINE)

    assert reports.asked == [(HOUR, THIS_HOUR, THIS_HOUR + 3600, tenant)]


async def test_the_existence_of_anothers_key_is_not_told() -> None:
    """What is answered about it is what is answered about one that never was."""
    used = [Used(KEYS[2], NOW, "small", Counts(1, 1, 1, 1))]
    usage, _ = admin(used)
    bound = Actor("a", "acme")

    async def told(key: str, *by: str) -> Usage:
        return await usage.of_all(Filter({"key_id": key}), by, Span(), bound)

    for by in ((), ("model",), ("key",)):
        assert await told(KEYS[2].id, *by) == await told(KEYS[2].prefix, *by) == await told("key_nobody", *by)
    for key in (KEYS[2].id, KEYS[2].prefix, "key_nobody", ""):
        with pytest.raises(NoSuchKeyError):
            await usage.of_key(key, Span(), bound)
    assert (await usage.of_key(KEYS[2].id, Span(), Actor("b", "umbrella"))).total == Counts(1, 1, 1, 1)


@pytest.mark.parametrize(
    "names",
    [["minute"], ["model", "model"], ["hour", "day"], ["day", "model", "hour"], ["Model"], [""], ["key"] * 1000, [*By]],
)
async def test_what_nothing_can_be_grouped_by(names: list[str]) -> None:
    usage, reports = admin()
    with pytest.raises(KeyRequestError) as refused:
        await usage.of_all(Filter({}), names, Span(), COMMAND_LINE)

    assert (refused.value.field, reports.asked) == ("group_by", [])


def rows(number: int) -> Iterator[Row]:
    return (Row(0, "", "", f"key_{each}", "", Counts(1)) for each in range(number))


def test_there_are_so_many_groups_and_no_more() -> None:
    sums = Sums((By.KEY,))
    for row in (*rows(MAX_GROUPS), *rows(5)):
        sums.add(row)

    assert len(sums.groups()) == MAX_GROUPS
    with pytest.raises(TooManyGroupsError):
        sums.add(Row(0, "", "", "one more", "", Counts(1)))
    alone = Sums(())
    for row in rows(MAX_GROUPS + 1):
        alone.add(row)
    assert (alone.total, alone.groups()) == (Counts(MAX_GROUPS + 1), [])


async def test_too_many_groups_are_refused() -> None:
    many = [
        Used(replace(KEYS[0], id=f"key_{number}"), NOW - number % 2 * 3600, "", Counts(1))
        for number in range(MAX_GROUPS // 2 + 1)
        for _ in range(2)
    ]
    usage, _ = admin(many)
    assert len((await usage.of_all(Filter({}), ["key"], Span(), COMMAND_LINE)).groups) == MAX_GROUPS // 2 + 1
    more = [replace(one, key=replace(one.key, id=f"{one.key.id}b")) for one in many]
    usage, _ = admin([*many, *more])
    with pytest.raises(KeyRequestError) as refused:
        await usage.of_all(Filter({}), ["key", "hour"], Span(), COMMAND_LINE)

    assert refused.value.field == "group_by"
    assert "10000 groups" in str(refused.value)


def test_groups_of_equal_size_have_an_order_too() -> None:
    counted = [
        Row(0, "w", "s", key, model, Counts(1, 0, tokens)) for key in "ba" for model, tokens in (("y", 1), ("x", 9))
    ]
    told = []
    for order in (counted, counted[::-1]):
        sums = Sums((By.KEY, By.MODEL))
        for row in order:
            sums.add(row)
        told.append([(group.key_id, group.model) for group in sums.groups()])

    assert told[0] == told[1] == [("a", "x"), ("b", "x"), ("a", "y"), ("b", "y")]
