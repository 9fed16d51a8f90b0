"""Lists, page by page, on every kind of store: everything once, newest first, whatever happens in between."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from authz.adapters.redis import keys
from authz.adapters.redis.registry import encode_event
from authz.admin.actor import COMMAND_LINE, Actor, ForbiddenError
from authz.admin.keys import KeyChanges, NewKey
from authz.core.event import Action, Event
from authz.core.keyformat import partition_of
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.listing import Filter, parse_filter
from authz.ports import BadPageTokenError, StoreFault
from tests.support.parts import Parts, parts


FIELDS = ("workspace", "subject", "state", "name")
MOST_PAGES = 200  # more would be a list without an end
MOMENT_US = 1_900_000_000_000_000  # later than anything made here


@pytest.fixture
async def made(sidecar: Parts) -> Parts:
    await sidecar.create(NewKey("the first", workspace="of its own"))
    return sidecar


async def several(made: Parts, count: int, **fields: Any) -> list[KeyRecord]:
    return [(await made.create(NewKey(f"key {number}", **fields))).record for number in range(count)]


async def put_at(made: Parts, record: KeyRecord, at_us: int) -> None:
    """In its list, as if it had been issued then."""
    partition = keys.partition(tenant_of(record.workspace, record.subject))
    assert partition == partition_of(record.id)
    await made.store.call("test", "ZADD", keys.name(partition, "k"), at_us, record.id)


async def pages(
    made: Parts,
    size: int,
    text: str = "",
    between: Callable[[], Awaitable[object]] | None = None,
    actor: Actor = COMMAND_LINE,
) -> list[list[str]]:
    """Ids, page by page, to the end."""
    found: list[list[str]] = []
    token = ""
    while True:
        page = await made.admin.page(parse_filter(text, FIELDS), size, token, actor)
        assert len(page.records) <= size
        assert len(found) < MOST_PAGES
        found.append([record.id for record in page.records])
        token = page.next_token
        if not token:
            return found
        if between is not None:
            await between()


def flat(found: Sequence[Sequence[str]]) -> list[str]:
    return [one for page in found for one in page]


def newest_first(records: Sequence[KeyRecord]) -> list[str]:
    """Of one moment: by id, downward."""
    return sorted((record.id for record in records), reverse=True)


@pytest.mark.parametrize("size", [1, 3, 7, 8, 9, 20, 500])
async def test_keys_of_one_moment_in_one_partition(made: Parts, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More of them than a chunk holds, across pages and chunk borders."""
    monkeypatch.setattr("authz.adapters.redis.listing.AT_A_TIME", 1)  # chunks of eight
    mine = await several(made, 20, workspace="acme")
    for record in mine:
        await put_at(made, record, MOMENT_US)

    found = await pages(made, size, "workspace=acme")

    assert flat(found) == newest_first(mine)
    assert all(len(page) == size for page in found[:-1])


@pytest.mark.parametrize("size", [3, 7, 64])
async def test_keys_of_one_moment_in_many_partitions(made: Parts, size: int) -> None:
    """Some alone in theirs, some more than a chunk holds; and older and newer ones around them."""
    older = await several(made, 3)
    same = [*await several(made, 12), *await several(made, 11, workspace="acme")]
    newer = await several(made, 2)
    for record in same:
        await put_at(made, record, MOMENT_US)
    for place, record in enumerate(newer):
        await put_at(made, record, MOMENT_US + 1 + place)

    found = flat(await pages(made, size))

    assert found[:2] == [newer[1].id, newer[0].id]
    assert found[2:-4] == newest_first(same)
    assert found[-4:-1] == [record.id for record in reversed(older)]


async def test_neighbouring_moments_are_told_apart(made: Parts) -> None:
    """Microseconds of 2030 have 16 digits: none may be lost on the way through a sorted set."""
    mine = await several(made, 12, workspace="acme")
    for place, record in enumerate(mine):
        await put_at(made, record, MOMENT_US + place)

    assert flat(await pages(made, 5, "workspace=acme")) == [record.id for record in reversed(mine)]


async def test_what_is_made_between_pages_shifts_nothing(made: Parts) -> None:
    """New keys are newer than every page that is still to come."""
    mine = await several(made, 12)
    late: list[KeyRecord] = []

    async def make() -> None:
        late.extend(await several(made, 3))

    found = flat(await pages(made, 4, between=make))

    assert len(late) >= 6
    assert found[:12] == [record.id for record in reversed(mine)]
    assert len(found) == 13


async def test_what_is_put_in_at_the_moment_of_the_border_shifts_nothing(made: Parts) -> None:
    """Another sidecar's key of the same microsecond: those that were there come all and once."""
    mine, late = await several(made, 10, workspace="acme"), await several(made, 10, workspace="acme")
    for record in mine:
        await put_at(made, record, MOMENT_US)
    for record in late:
        partition = partition_of(record.id) or 0
        await made.store.call("test", "ZREM", keys.name(partition, "k"), record.id)
    waiting = list(late)

    async def put_in() -> None:
        if waiting:
            await put_at(made, waiting.pop(), MOMENT_US)

    found = flat(await pages(made, 2, "workspace=acme", put_in))

    assert len(found) == len(set(found))
    assert [one for one in found if one in {record.id for record in mine}] == newest_first(mine)


async def test_a_border_that_is_gone_loses_nothing(made: Parts) -> None:
    """The entry at which a page ended was taken out of the list, as a removed user's is: what follows still follows."""
    mine = await several(made, 12, workspace="acme")
    for place, record in enumerate(mine):
        await put_at(made, record, MOMENT_US + place // 4)
    first = await made.admin.page(Filter({"workspace": "acme"}), 5, "", COMMAND_LINE)
    gone = first.records[-1]
    await made.store.call("test", "ZREM", keys.name(partition_of(gone.id) or 0, "k"), gone.id)

    rest = await made.admin.page(Filter({"workspace": "acme"}), 50, first.next_token, COMMAND_LINE)

    seen = {record.id for record in [*first.records, *rest.records]}
    assert seen == {record.id for record in mine}


async def test_a_budget_makes_pages_short_and_loses_nothing(made: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Few keys fit: a page looks at so many, gives what it found, perhaps nothing, and says where to go on."""
    monkeypatch.setattr("authz.adapters.redis.registry.SCAN", 5)
    wanted: list[KeyRecord] = []
    for number in range(24):
        name = "rare" if number in {0, 1, 11, 23} else "common"
        record = (await made.create(NewKey(f"{name} {number}"))).record
        wanted += [record] if name == "rare" else []

    found = await pages(made, 3, "name=rare*")

    assert flat(found) == [record.id for record in reversed(wanted)]
    assert len(found) >= 5
    assert [] in found


@pytest.mark.parametrize("read", [1, 2, 3, 500])
async def test_a_budget_within_a_moment_loses_nothing(made: Parts, read: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """However many are read at a time."""
    monkeypatch.setattr("authz.adapters.redis.registry.SCAN", 3)
    monkeypatch.setattr("authz.adapters.redis.registry.READ", read)
    monkeypatch.setattr("authz.adapters.redis.listing.AT_A_TIME", 1)
    mine = await several(made, 20, workspace="acme")
    for record in mine:
        await put_at(made, record, MOMENT_US)

    assert flat(await pages(made, 2, "workspace=acme")) == newest_first(mine)


async def test_a_page_that_is_just_full_is_the_last(made: Parts) -> None:
    mine = await several(made, 6, workspace="acme")

    assert await pages(made, 3, "workspace=acme") in (
        [newest_id(mine[3:]), newest_id(mine[:3])],
        [newest_id(mine[3:]), newest_id(mine[:3]), []],
    )


def newest_id(records: Sequence[KeyRecord]) -> list[str]:
    return [record.id for record in reversed(records)]


async def test_an_entry_without_a_record_is_passed_over(made: Parts) -> None:
    """A record that was lost is not listed, and does not end the list."""
    mine = await several(made, 5, workspace="acme")
    await made.store.call("test", "DEL", keys.name(partition_of(mine[2].id) or 0, "r", mine[2].id))

    found = flat(await pages(made, 2, "workspace=acme"))

    assert found == newest_id([*mine[:2], *mine[3:]])


async def test_filters(made: Parts) -> None:
    """Each alone and together; a bulk revocation counts as the state that it is."""
    alice, bob, late = [
        (await made.create(NewKey(name, subject=subject, workspace=workspace))).record
        for name, subject, workspace in (
            ("ci-build", "alice", "acme"),
            ("ci-deploy", "bob", "acme"),
            ("backup", "alice", "umbrella"),
        )
    ]
    await made.revoke(bob.id)
    await made.admin.update(late.id, KeyChanges({"expires_at_us": await made.store.now_us() + 20_000}), COMMAND_LINE)
    await asyncio.sleep(0.03)

    async def listed(text: str) -> list[str]:
        return flat(await pages(made, 50, text))

    assert await listed("workspace=acme") == [bob.id, alice.id]
    assert await listed("subject=alice") == [late.id, alice.id]
    assert await listed("name=ci-*") == [bob.id, alice.id]
    assert await listed("name=ci-*  AND state=active") == [alice.id]
    assert await listed("state=revoked") == [bob.id]
    assert await listed("state=expired") == [late.id]
    assert await listed("workspace=acme AND subject=alice AND state=active AND name=ci-build") == [alice.id]
    assert await listed("workspace=nobody's") == []
    assert await listed('workspace=""') == []
    await made.revoke_subject("alice")
    assert await listed("state=revoked AND workspace=acme") == [bob.id, alice.id]
    assert await listed("state=expired") == []


async def test_a_page_token_is_good_for_its_own_question(made: Parts) -> None:
    await several(made, 5, workspace="acme")
    page = await made.admin.page(Filter({"workspace": "acme"}), 2, "", COMMAND_LINE)

    for wanted in (Filter({}), Filter({"workspace": "umbrella"}), Filter({"workspace": "acme"}, "k")):
        with pytest.raises(BadPageTokenError):
            await made.admin.page(wanted, 2, page.next_token, COMMAND_LINE)
    with pytest.raises(BadPageTokenError):
        await made.admin.events(Filter({"workspace": "acme"}), 2, page.next_token, COMMAND_LINE)
    with pytest.raises(BadPageTokenError):
        await made.admin.page(Filter({"workspace": "acme"}), 2, "nonsense", COMMAND_LINE)


async def test_a_caller_bound_to_a_workspace_sees_that_alone(made: Parts) -> None:
    """Keys and events; also page by page, and whatever it asks for."""
    mine, theirs = await several(made, 4, workspace="acme"), await several(made, 4, workspace="umbrella")
    await several(made, 2)
    bound = Actor("key_x", workspace="acme", scopes=("admin",))

    assert flat(await pages(made, 3, actor=bound)) == newest_id(mine)
    with pytest.raises(ForbiddenError):
        await pages(made, 3, 'workspace=""', actor=bound)
    with pytest.raises(ForbiddenError):
        await pages(made, 3, "workspace=umbrella", actor=bound)
    seen = await event_pages(made, 3, actor=bound)
    assert {event.target for event in seen} == {record.id for record in mine}
    with pytest.raises(ForbiddenError):
        await event_pages(made, 3, {"workspace": "umbrella"}, actor=bound)
    assert await event_pages(made, 3, {"key_id": theirs[0].id}, actor=bound) == []


async def event_pages(
    made: Parts,
    size: int,
    equal: dict[str, str] | None = None,
    between: Callable[[], Awaitable[object]] | None = None,
    actor: Actor = COMMAND_LINE,
) -> list[Event]:
    found: list[Event] = []
    token = ""
    while True:
        page = await made.admin.events(Filter(equal or {}), size, token, actor)
        assert len(page.events) <= size
        assert len(found) < MOST_PAGES
        found += page.events
        token = page.next_token
        if not token:
            return found
        if between is not None:
            await between()


async def write_down(made: Parts, partition: int, stream_id: str, target: str, **fields: Any) -> str:
    """An event at a moment of our choice, which must be later than the last of the partition; the id that it has."""
    told = encode_event(Event(fields.pop("actor", "cli"), fields.pop("action", Action.UPDATE), target, **fields))
    await made.store.call("test", "XADD", keys.name(partition, "z"), stream_id, "e", told)
    return f"{stream_id}-{partition}"


@pytest.mark.parametrize("size", [1, 4, 50])
async def test_events_of_one_moment(made: Parts, size: int) -> None:
    """In many partitions, several in a millisecond, more than a chunk holds: all of them, once, newest first."""
    written = []
    for partition in (3, 5, 17, 63):
        moments = [*(f"1900000000000-{number}" for number in range(11)), "1900000000001-0"]
        written += [await write_down(made, partition, moment, f"{partition} {moment}") for moment in moments]

    found = [event.id for event in await event_pages(made, size)][:-1]  # the first key's creation

    def place(event_id: str) -> tuple[int, ...]:
        return tuple(int(part) for part in event_id.split("-"))

    assert found == sorted(written, key=place, reverse=True)


async def test_events_written_between_pages_shift_nothing(made: Parts) -> None:
    mine = await several(made, 7)

    async def make() -> None:
        await several(made, 2)

    found = await event_pages(made, 3, between=make)

    assert [event.at_us for event in found] == sorted((event.at_us for event in found), reverse=True)
    assert {event.target for event in found} > {record.id for record in mine}
    assert len({event.id for event in found}) == len(found) == 8


async def test_events_that_were_trimmed_away_between_pages(made: Parts) -> None:
    """The border among them: the next page begins with what is left, and the list ends."""
    for number in range(9):
        await write_down(made, 3, f"1900000000000-{number}", str(number))
    first = await made.admin.events(Filter({}), 3, "", COMMAND_LINE)
    await made.store.call("test", "XTRIM", keys.name(3, "z"), "MAXLEN", 2)

    rest = await made.admin.events(Filter({}), 50, first.next_token, COMMAND_LINE)

    assert [event.target for event in first.events] == ["8", "7", "6"]
    assert [event.target for event in rest.events if event.action is Action.UPDATE] == []


async def test_filters_of_events(made: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under a budget that makes most pages short."""
    monkeypatch.setattr("authz.adapters.redis.registry.SCAN", 4)
    mine = (await made.create(NewKey("mine", workspace="acme"))).record
    await several(made, 6, workspace="acme")
    await several(made, 6)
    await made.admin.rotate(mine.id, 0, COMMAND_LINE)
    await made.admin.revoke(mine.id, "done", Actor("usr_x"))

    def told(events: list[Event]) -> list[str]:
        return [str(event.action) for event in events]

    assert told(await event_pages(made, 2, {"key_id": mine.id})) == ["revoke", "rotate", "create"]
    assert told(await event_pages(made, 2, {"actor": "usr_x"})) == ["revoke"]
    assert told(await event_pages(made, 2, {"action": "rotate"})) == ["rotate"]
    assert len(await event_pages(made, 2, {"workspace": "acme"})) == 9
    assert len(await event_pages(made, 2, {"workspace": "acme", "action": "create"})) == 7
    assert await event_pages(made, 2, {"workspace": "acme", "actor": "nobody"}) == []


async def test_events_tell_what_was_changed(made: Parts) -> None:
    """As it was written: who, what, before and after; by the store's clock."""
    before_us = await made.store.now_us()
    mine = (
        await made.create(NewKey("mine", workspace="acme", scopes=("read-only",)), Actor("usr_x", request_id="r1"))
    ).record
    await made.admin.update(mine.id, KeyChanges({"name": "renamed"}), Actor("usr_x", request_id="r2"))

    update, create = await event_pages(made, 50, {"key_id": mine.id})

    assert (create.actor, create.action, create.workspace, create.request_id) == ("usr_x", Action.CREATE, "acme", "r1")
    assert create.after["scopes"] == ["read-only"]
    assert (dict(update.before), dict(update.after)) == ({"name": "mine"}, {"name": "renamed"})
    assert update.request_id == "r2"
    assert before_us // 1000 <= create.at_us // 1000 <= update.at_us // 1000 <= await made.store.now_us() // 1000


async def test_an_event_that_cannot_be_read_is_a_fault(made: Parts) -> None:
    await made.store.call("test", "XADD", keys.name(3, "z"), "*", "e", b"\xff garbage")

    with pytest.raises(StoreFault, match="cannot be read"):
        await event_pages(made, 5)


@pytest.fixture
async def valkey_events(valkey_url: str) -> AsyncIterator[Parts]:
    async with parts(valkey_url) as on_valkey:
        await on_valkey.create(NewKey("the first"))
        yield on_valkey


@pytest.mark.parametrize(
    "told",
    [
        pytest.param(b'{"actor":"cli","action":"freeze","target":"t"}', id="an action that this one does not know"),
        pytest.param(b'{"actor":"cli","action":"update","target":"t","place":"x"}', id="one member more"),
    ],
)
async def test_an_event_of_a_later_version_does_not_end_the_list(valkey_events: Parts, told: bytes) -> None:
    """Two versions share a store while one replaces the other, or after going back."""
    await valkey_events.store.call("test", "XADD", keys.name(3, "z"), "*", "e", told)

    assert "create" in {str(event.action) for event in await event_pages(valkey_events, 5)}
