"""A user who is removed takes their keys along: whoever is given the name next finds nothing that lives."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from authz.adapters.redis import keys
from authz.adapters.redis.users import RedisUserRegistry
from authz.admin.actor import COMMAND_LINE, Actor, ForbiddenError
from authz.admin.keys import IssuedKey, KeyChanges, KeyConflictError, NewKey, draw_id
from authz.admin.users import NoSuchUserError, UnfinishedRemovalError
from authz.core.event import Action, Event
from authz.core.keyrecord import KeyRecord, tenant_of
from tests.contract.test_portals import Place, at
from tests.support.admin import PASSWORD
from tests.support.calls import Calls
from tests.support.parts import Parts


REMOVED: Final = "the user was removed"


@pytest.fixture
async def place(valkey_url: str) -> AsyncIterator[Place]:
    async with at(valkey_url) as made:
        yield made


def beside(workspace: str) -> str:
    """Another workspace, whose keys lie in the same partition of the store as those of ada in *workspace*."""
    at_home = keys.partition(tenant_of(workspace, "ada"))
    return next(name for name in map(str, range(10**6)) if keys.partition(tenant_of(name, "")) == at_home)


async def listed(place: Place, session: str) -> list[Any]:
    found: list[Any] = (await place.ok("GET", "/portal/keys", session))["keys"]
    return found


async def actions(place: Place) -> list[tuple[str, str]]:
    """Newest first, with the reason."""
    events = await place.doors.root.all("ListEvents")
    return [(event["action"], (event["after"] or {}).get("reason", "")) for event in events]


# --- nothing that lives is left


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_who_is_given_the_name_next_finds_nothing_that_lives(place: Place, workspace: str) -> None:
    session = await place.user("ada", "read-only", workspace=workspace)
    mine = [await place.ok("POST", "/portal/keys", session, json={"name": name}) for name in "ab"]
    handed = await place.made("read-only", subject="ada", workspace=workspace)
    assert [key["token"] for key in await listed(place, session)] == [
        handed.token,
        *(key["token"] for key in reversed(mine)),
    ]

    removed = await place.doors.users.remove("ada", COMMAND_LINE)

    assert (removed.user.name, removed.keys, removed.warnings) == ("ada", 3, [])
    for token in (mine[0]["token"], mine[1]["token"], handed.token):
        assert await place.doors.reason(token) == "revoked"
    assert await place.keys.registry.retained(handed.record) is None
    assert (await actions(place))[:4] == [*[("revoke", REMOVED)] * 3, ("user_remove", "")]
    await place.refused(401, "GET", "/portal/keys", session)
    newcomer = await place.user("ada", "read-only", workspace=workspace)
    assert await listed(place, newcomer) == []
    for key in mine:
        await place.refused(404, "GET", f"/portal/keys/{key['id']}", newcomer)
    theirs = await place.ok("POST", "/portal/keys", newcomer, json={"name": "c"})
    assert await listed(place, newcomer) == [theirs]
    assert await place.doors.reason(theirs["token"]) == "allowed"


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_what_is_not_theirs_lives_on(place: Place, workspace: str) -> None:
    """The same subject elsewhere above all, even beside them in the store."""
    await place.user("ada", workspace=workspace)
    others = [
        await place.made("read-only", **whose)
        for whose in (
            {"subject": "ada", "workspace": beside(workspace)},
            {"subject": "ada", "workspace": "" if workspace else "acme"},
            {"subject": "eve", "workspace": workspace},
            {"subject": "Ada", "workspace": workspace},
            {"workspace": workspace},
        )
    ]

    removed = await place.doors.users.remove("ada", COMMAND_LINE)

    assert removed.keys == 0
    for other in others:
        assert await place.doors.reason(other.token) == "allowed"


async def test_keys_that_expired_end_too(place: Place) -> None:
    """Else a later end would bring them back, for whoever has the name then. What was revoked stays as it was."""
    await place.user("ada")
    expired, gone = [await place.made("read-only", subject="ada") for _ in range(2)]
    await place.doors.expire(expired.record.id)
    await place.keys.revoke(gone.record.id, "found in a log", COMMAND_LINE)

    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 1

    with pytest.raises(KeyConflictError):
        await place.keys.update(expired.record.id, KeyChanges({"expires_at_us": None}), COMMAND_LINE)
    assert (await place.keys.show(gone.record.id, COMMAND_LINE)).revoked_reason == "found in a log"


async def test_more_keys_than_a_page_has(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.admin.keys._PAGE", 2)
    await place.user("ada")
    made = [await place.made("read-only", subject="ada") for _ in range(5)]

    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 5

    assert {await place.doors.reason(one.token) for one in made} == {"revoked"}


async def test_that_no_admin_key_is_left_is_told(place: Place) -> None:
    await place.user("ada", workspace="acme")
    await place.made("admin", subject="ada", workspace="acme")

    (warning,) = (await place.doors.users.remove("ada", COMMAND_LINE)).warnings

    assert warning.startswith("no active admin key is left in the workspace 'acme'")


# --- what is under way


async def test_a_key_that_a_session_was_making_is_not_made_any_more(place: Place) -> None:
    """The door had let the session in; the user is removed before the key is in the store."""
    session = await place.user("ada", "read-only", workspace="acme")
    late = Calls(place.doors.store).hold("issue")
    making = asyncio.create_task(place.ask("POST", "/portal/keys", session, json={"name": "late"}))
    await late.reached.wait()
    await place.doors.users.remove("ada", COMMAND_LINE)
    late.go.set()

    refused = await making

    assert (refused.status_code, refused.json()["detail"]) == (403, "The caller was revoked meanwhile.")
    assert await listed(place, await place.user("ada", workspace="acme")) == []
    assert "create" not in [action for action, _ in (await actions(place))[:3]]


async def test_a_key_that_a_session_has_just_made_ends_with_the_rest(place: Place) -> None:
    """It is in the store, and its answer is under way: what the client is told is good for nothing."""
    session = await place.user("ada", "read-only")
    late = Calls(place.doors.store).hold_reply("issue")
    making = asyncio.create_task(place.ask("POST", "/portal/keys", session, json={"name": "late"}))
    await late.reached.wait()
    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 1
    late.go.set()

    made = await making

    assert await place.doors.reason(made.json()["token"]) == "revoked"
    newcomer = await place.user("ada", "read-only")
    assert await listed(place, newcomer) == []
    assert await place.keys.registry.retained(await place.doors.other.show(made.json()["prefix"])) is None


async def test_sessions_end_before_keys_are_looked_for(place: Place) -> None:
    """One that is made until the very end of the sessions is found."""
    session = await place.user("ada", "read-only")
    late = Calls(place.doors.store).hold("revoke")
    removing = asyncio.create_task(place.doors.users.remove("ada", COMMAND_LINE))
    await late.reached.wait()
    made = await place.ok("POST", "/portal/keys", session, json={"name": "late"})
    late.go.set()

    assert (await removing).keys == 1
    assert await place.doors.reason(made["token"]) == "revoked"


async def test_who_was_revoked_makes_no_key(sidecar: Parts) -> None:
    """On every kind of store. Others, and the command line, which is nobody, make theirs."""
    await sidecar.create(NewKey("the first"))
    user = await put_user(sidecar, "ada")
    new, ada = NewKey("mine", scopes=("read-only",)), Actor(user.id, subject="ada")
    mine = await sidecar.create(new, ada)
    await RedisUserRegistry(sidecar.store).remove(user, Event("test", Action.USER_REMOVE, user.id))

    with pytest.raises(ForbiddenError):
        await sidecar.create(new, ada)

    eve = await sidecar.create(new, Actor((await put_user(sidecar, "eve")).id, subject="eve"))
    handed = await sidecar.create(NewKey("handed", subject="ada"))
    assert [one.id for one in await sidecar.list()][:3] == [handed.record.id, eve.record.id, mine.record.id]


async def put_user(made: Parts, name: str) -> KeyRecord:
    """Straight in the store; the password is nobody's."""
    record = KeyRecord(draw_id("usr", "", name, keys.partition, keys.PARTITIONS), name, "user", "", name, "")
    event = Event("test", Action.USER_ADD, record.id)
    return await RedisUserRegistry(made.store).create(record, "not a hash", event)


# --- a removal that is cut short


async def users_keys(place: Place) -> list[IssuedKey]:
    await place.user("ada", "read-only", workspace="acme")
    return [await place.made("read-only", subject="ada", workspace="acme") for _ in range(3)]


async def test_a_removal_that_was_cut_short_is_finished_when_it_is_asked_for_again(place: Place) -> None:
    """The store goes away behind the first of three keys. What was made for the name since then is not meant."""
    first, second, third = await users_keys(place)
    calls = Calls(place.doors.store)
    the_users, the_third_keys = calls.hold("revoke"), calls.hold("revoke")
    removing = asyncio.create_task(place.doors.users.remove("ada", COMMAND_LINE))
    await the_users.reached.wait()
    the_users.go.set()
    await the_third_keys.reached.wait()
    calls.lose("revoke")
    the_third_keys.go.set()
    with pytest.raises(UnfinishedRemovalError, match="the store did not answer in time"):
        await removing

    told = await place.ask("POST", "/authz/v1/login", json={"username": "ada", "password": PASSWORD})
    assert told.status_code == 401
    assert await place.doors.reason(third.token) == "revoked"
    assert await place.doors.reason(second.token) == "allowed"
    later = await place.made("read-only", subject="ada", workspace="acme")

    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 2

    for token in (first.token, second.token):
        assert await place.doors.reason(token) == "revoked"
    assert await place.doors.reason(later.token) == "allowed"
    with pytest.raises(NoSuchUserError):
        await place.doors.users.remove("ada", COMMAND_LINE)


@pytest.mark.parametrize("operation", ["revoke", "time"])
async def test_a_removal_of_which_nobody_was_told_can_be_asked_for_again(place: Place, operation: str) -> None:
    """The store did it, and the answer was lost; or the keys could not even be listed."""
    made = await users_keys(place)
    calls = Calls(place.doors.store)
    calls.lose_reply(operation)
    with pytest.raises(UnfinishedRemovalError):
        await place.doors.users.remove("ada", COMMAND_LINE)
    assert await place.doors.reason(made[0].token) == "allowed"

    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 3

    assert {await place.doors.reason(one.token) for one in made} == {"revoked"}
    assert [action for action, _ in await actions(place)].count("user_remove") == 1


async def test_a_store_that_is_away_from_the_beginning_changes_nothing(place: Place) -> None:
    made = await users_keys(place)
    calls = Calls(place.doors.store)
    calls.lose("user")
    with pytest.raises(Exception, match="the store did not answer in time") as told:
        await place.doors.users.remove("ada", COMMAND_LINE)

    assert not isinstance(told.value, UnfinishedRemovalError)
    assert await place.doors.reason(made[0].token) == "allowed"
    await place.doors.log_in("ada")


async def test_a_name_that_nobody_ever_had(place: Place) -> None:
    await place.made(subject="nobody")
    for name in ("nobody", "", "a\nb", "ad*"):
        with pytest.raises(NoSuchUserError):
            await place.doors.users.remove(name, COMMAND_LINE)


# --- keys that somebody made for a name before there was a user of that name


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_keys_that_wait_for_a_new_user_are_counted(place: Place, workspace: str) -> None:
    """Those that the portal shows them, and no others."""
    waiting = [await place.made("read-only", name=name, subject="ada", workspace=workspace) for name in "ab"]
    expired, gone = [await place.made(subject="ada", workspace=workspace) for _ in range(2)]
    await place.doors.expire(expired.record.id)
    await place.keys.revoke(gone.record.id, "", COMMAND_LINE)
    await place.made(subject="ada", workspace=beside(workspace))
    await place.made(workspace=workspace)

    session = await place.user("ada", workspace=workspace)

    (ada,) = await place.doors.users.all()
    assert await place.doors.users.living_keys(ada) == len(waiting)
    assert [key["prefix"] for key in await listed(place, session)] == [one.record.prefix for one in reversed(waiting)]
