"""Lists of the admin API, through both its real doors: pages, filters, and what happens between two pages."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from tests.support.admin import DOORS, Doors, opened


KEYS: Final = 300
_A_LOT: Final = "x" * 2049


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def doors(valkey_url: str, door: str) -> AsyncIterator[Doors]:
    async with opened(valkey_url, door) as made:
        yield made


async def pages(doors: Doors, size: int, **values: Any) -> list[list[str]]:
    """Ids, page by page."""
    found: list[list[str]] = []
    token = ""
    while True:
        page = await doors.root.ok("ListKeys", page_size=size, page_token=token, **values)
        found.append([key["id"] for key in page["keys"]])
        token = page["next_page_token"]
        if not token:
            return found


async def test_many_keys_of_many_workspaces(store_url: str) -> None:
    """Newest first over all of them; no page misses one, repeats one or is larger than it may be."""
    async with opened(store_url, "rest") as doors:
        made: list[str] = [doors.root_key.record.id]
        for _ in range(KEYS // 20):
            batch = [
                doors.key(name=f"n{place}", workspace=f"w{place % 17}" if place % 5 else "") for place in range(20)
            ]
            made += [key.record.id for key in await asyncio.gather(*batch)]
        whole = [key["id"] for key in await doors.root.all(page_size=500)]
        assert sorted(whole) == sorted(made)
        records = [await doors.other.show(key) for key in whole[:: KEYS // 10]]
        assert [record.created_at_us for record in records] == sorted(
            (record.created_at_us for record in records), reverse=True
        )
        for size in (7, 100):
            told = await pages(doors, size)
            assert [key for page in told for key in page] == whole
            assert [len(page) for page in told[:-1]] == [size] * (len(told) - 1)
        of_one = await pages(doors, 4, filter='workspace = "w3"')
        assert [key for page in of_one for key in page] == [
            key["id"] for key in await doors.root.all(page_size=500) if key["workspace"] == "w3"
        ]


async def test_what_is_made_between_two_pages_shifts_nothing(doors: Doors) -> None:
    """It is newer than where the first page began; what is revoked in between stays in its place."""
    before = {(await doors.key(name=f"old {number}", workspace=f"w{number % 3}")).record.id for number in range(20)}
    before.add(doors.root_key.record.id)
    seen: list[str] = []
    token = ""
    while True:
        page = await doors.root.ok("ListKeys", page_size=3, page_token=token)
        seen += [key["id"] for key in page["keys"]]
        token = page["next_page_token"]
        if not token:
            break
        await doors.key(name="new", workspace=f"w{len(seen) % 3}")
        await doors.root.ok("RevokeKey", id=sorted(before - {doors.root_key.record.id})[len(seen) % 20])

    assert sorted(seen) == sorted(before)


async def test_keys_made_in_the_same_moment_are_all_listed(doors: Doors) -> None:
    """Pages end between keys that the store's clock does not tell apart."""
    for number in range(9):
        await doors.key(name=f"n{number}", workspace=f"w{number}")
    held = await doors.other.list()
    for record in held:
        at = doors.other.registry.partition(f"w:{record.workspace}" if record.workspace else f"s:{record.subject}")
        await doors.store.call("test", "ZADD", f"authz:{{{at}}}:k", 1_700_000_000_000_000, record.id)

    for size in (1, 2, 4):
        told = [key for page in await pages(doors, size) for key in page]
        assert sorted(told) == sorted(record.id for record in held), size


async def test_how_many_a_page_holds(doors: Doors) -> None:
    for number in range(52):
        await doors.key(name=f"n{number}")

    assert len((await doors.root.ok("ListKeys"))["keys"]) == 50
    assert len((await doors.root.ok("ListKeys", page_size=0))["keys"]) == 50
    assert len((await doors.root.ok("ListKeys", page_size=1))["keys"]) == 1
    last = await doors.root.ok("ListKeys", page_size=2_000_000_000)
    assert (len(last["keys"]), last["next_page_token"]) == (53, "")
    for method in ("ListKeys", "ListEvents"):
        assert (await doors.root.refused(400, method, page_size=-1)).field == "page_size"


async def test_a_page_is_never_larger_than_five_hundred(valkey_url: str) -> None:
    async with opened(valkey_url, "grpc") as doors:
        for _ in range(26):
            await asyncio.gather(*(doors.key() for _ in range(20)))

        page = await doors.root.ok("ListKeys", page_size=1000)
        rest = await doors.root.ok("ListKeys", page_size=1000, page_token=page["next_page_token"])

        assert (len(page["keys"]), len(rest["keys"])) == (500, 21)


async def test_a_page_token_is_good_for_its_own_list_and_filter(doors: Doors) -> None:
    for number in range(4):
        await doors.key(name=f"ci-{number}", workspace="acme")
    token = (await doors.root.ok("ListKeys", page_size=2, filter='workspace = "acme"'))["next_page_token"]
    plain = (await doors.root.ok("ListKeys", page_size=2))["next_page_token"]
    events = (await doors.root.ok("ListEvents", page_size=2))["next_page_token"]
    assert len({token, plain, events, ""}) == 4

    for method, values in (
        ("ListKeys", {"page_token": token}),
        ("ListKeys", {"page_token": token, "filter": 'workspace = "umbrella"'}),
        ("ListKeys", {"page_token": token, "filter": 'workspace = "acme" AND name = "ci-*"'}),
        ("ListKeys", {"page_token": plain, "filter": 'workspace = "acme"'}),
        ("ListKeys", {"page_token": events}),
        ("ListEvents", {"page_token": plain}),
        ("ListKeys", {"page_token": "nonsense"}),
        ("ListKeys", {"page_token": "é"}),
        ("ListKeys", {"page_token": token[:-1], "filter": 'workspace = "acme"'}),
        ("ListKeys", {"page_token": token + "AA", "filter": 'workspace = "acme"'}),
        ("ListEvents", {"page_token": "A" * 38}),
    ):
        answer = await doors.root.refused(400, method, **values)
        assert (answer.field, answer.reason) == ("page_token", "bad_request"), values
    again = await doors.root.ok("ListKeys", page_size=3, page_token=token, filter="workspace=acme")
    assert len(again["keys"]) == 2  # the same conditions in other words, and another size


FILTERS: Final[dict[str, set[str]]] = {
    "": {"root", "ci-1", "ci-2", "web", "old", 'a "b" \\c', "AND"},
    "   ": {"root", "ci-1", "ci-2", "web", "old", 'a "b" \\c', "AND"},
    'workspace = "acme"': {"ci-1", "web", "old"},
    "workspace=acme": {"ci-1", "web", "old"},
    "workspace: acme": {"ci-1", "web", "old"},
    'workspace = ""': {"root", 'a "b" \\c', "AND"},
    'workspace = "acm"': set(),
    'subject = "ada"': {"ci-1", "ci-2"},
    'subject = "ADA"': set(),
    "state = revoked": {"old"},
    'state = "active" AND workspace = "acme"': {"ci-1", "web"},
    'workspace = "acme" AND state = active AND name = "ci-*" AND subject = "ada"': {"ci-1"},
    'name = "ci-*"': {"ci-1", "ci-2"},
    'name = "*"': {"root", "ci-1", "ci-2", "web", "old", 'a "b" \\c', "AND"},
    'name = "ci-1"': {"ci-1"},
    'name = "c*1"': set(),
    'name = "a \\"b\\" \\\\c"': {'a "b" \\c'},
    'name = "AND"': {"AND"},
    "name = AND": {"AND"},
    "state = expired": set(),
}


async def test_what_a_filter_finds(doors: Doors) -> None:
    await doors.key(name="ci-1", workspace="acme", subject="ada")
    await doors.key(name="ci-2", workspace="umbrella", subject="ada")
    await doors.key(name="web", workspace="acme", subject="bob")
    old = await doors.key(name="old", workspace="acme")
    await doors.root.ok("RevokeKey", id=old.record.id)
    for name in ('a "b" \\c', "AND"):
        await doors.key(name=name)

    for text, names in FILTERS.items():
        found = await doors.root.all(filter=text, page_size=2)
        assert {key["name"] for key in found} == names, text
        assert len(found) == len(names), text


async def test_a_filter_that_cannot_be_read(doors: Doors) -> None:
    """Is told so with the field `filter`, and in words that repeat nothing of it."""
    for method, texts in {
        "ListKeys": (
            "acme",
            "workspace",
            "workspace =",
            'workspace = "acme',
            'workspace = acme"',
            'workspace = "acme" OR workspace = "umbrella"',
            'workspace = "acme" workspace = "umbrella"',
            'workspace = "acme" AND',
            'AND workspace = "acme"',
            'workspace = "acme" AND workspace = "umbrella"',
            'name = "a*" AND name = "b*"',
            'NOT workspace = "acme"',
            'workspace != "acme"',
            '(workspace = "acme")',
            'workspace = "a\\n"',
            'scopes = "admin"',
            'key_id = "x"',
            "PLANTED = 1",
            'workspace = "PLANTED" AND PLANTED',
            f'name = "{_A_LOT}"',
        ),
        "ListEvents": ("name = x", "subject = x", "state = active", "action", 'action = "create" OR action = "update"'),
    }.items():
        for text in texts:
            answer = await doors.root.refused(400, method, filter=text)
            assert (answer.field, answer.reason) == ("filter", "bad_request"), text
            assert "PLANTED" not in answer.message


async def test_events_page_by_page(store_url: str) -> None:
    """Newest first over all workspaces, with others written in between."""
    async with opened(store_url, "grpc") as doors:
        made = [await doors.key(name=f"n{number}", workspace=f"w{number % 5}") for number in range(23)]
        seen: list[dict[str, Any]] = []
        token = ""
        while True:
            page = await doors.root.ok("ListEvents", page_size=4, page_token=token)
            seen += page["events"]
            token = page["next_page_token"]
            if not token:
                break
            await doors.key(name="in between", workspace=f"w{len(seen) % 5}")

        assert len({event["id"] for event in seen}) == len(seen) == 24
        assert {event["key_id"] for event in seen} == {doors.root_key.record.id, *(key.record.id for key in made)}
        assert [event["at"] for event in seen] == sorted((event["at"] for event in seen), reverse=True)
        for workspace in {key.record.workspace for key in made}:
            told = [event["key_id"] for event in seen if event["workspace"] == workspace]
            assert told == [key.record.id for key in reversed(made) if key.record.workspace == workspace]


async def test_what_a_filter_of_events_finds(doors: Doors) -> None:
    mine = await doors.root.ok("CreateKey", name="mine", workspace="acme")
    await doors.root.ok("UpdateKey", key={"id": mine["id"], "name": "renamed"})
    other = await doors.key(workspace="umbrella")
    await doors.root.ok("RevokeKey", id=other.record.id)
    actor = doors.root_key.record.id

    for text, expected in {
        "": ["revoke", "create", "update", "create", "create"],
        'workspace = "acme"': ["update", "create"],
        'workspace = ""': ["create"],
        f"key_id = {mine['id']}": ["update", "create"],
        f'actor = "{actor}"': ["revoke", "update", "create"],
        "actor = cli": ["create", "create"],
        "action = update": ["update"],
        f'action = "create" AND actor = {actor}': ["create"],
        'workspace = "umbrella" AND action = revoke': ["revoke"],
        "key_id = nobody": [],
    }.items():
        events = await doors.root.all("ListEvents", filter=text, page_size=2)
        assert sorted(event["action"] for event in events) == sorted(expected), text
