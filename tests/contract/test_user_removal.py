"""A user who is removed takes their keys along: whoever is given the name next finds nothing that lives."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest

from authz.adapters.redis import keys
from authz.adapters.redis.registry import UNBOUND_MS, RedisKeyRegistry
from authz.adapters.redis.users import RedisUserRegistry
from authz.admin.actor import COMMAND_LINE, Actor, ActorRevokedError
from authz.admin.keys import Drawn, IssuedKey, KeyChanges, KeyConflictError, NewKey, draw_id
from authz.admin.users import NewUser, NoSuchUserError, UnfinishedRemovalError
from authz.core.event import Action, Event
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.listing import Filter
from authz.ports import BeingRemovedError, ChangedError, RevokedError, StoreFault
from tests.contract.test_portals import Place, at
from tests.support.admin import PASSWORD, PLENTY, opened, stored
from tests.support.calls import Calls
from tests.support.parts import Parts


REMOVED: Final = "the user was removed"
REFUSED: Final = (
    409,
    "The user of this subject is being removed: no keys are made until 'authz users remove' has finished.",
)


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


async def actions(place: Place) -> list[str]:
    """Newest first."""
    return [event["action"] for event in await place.doors.root.all("ListEvents")]


def told(response: httpx.Response) -> tuple[int, str]:
    return response.status_code, response.json()["detail"]


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
    assert (await place.doors.other.show(handed.record.id)).revoked_reason == REMOVED
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


@pytest.mark.parametrize("named", [50, 2])
async def test_a_removal_writes_one_event_for_all_keys(
    place: Place, monkeypatch: pytest.MonkeyPatch, named: int
) -> None:
    """However many, it pushes little out of the log: the reason stands in each key's record."""
    monkeypatch.setattr("authz.admin.users._TOLD", named)
    await place.user("ada", workspace="acme")
    made = [await place.made("read-only", subject="ada", workspace="acme") for _ in range(3)]
    (ada,) = await place.doors.users.all()

    await place.doors.users.remove("ada", COMMAND_LINE)

    all_keys, removal = (await place.doors.root.all("ListEvents", filter=f'key_id = "{ada.id}"'))[:2]
    assert [*await actions(place)][:3] == ["revoke_all", "user_remove", "create"]
    assert (removal["action"], removal["before"], removal["after"]) == ("user_remove", {"name": "ada"}, None)
    assert (all_keys["action"], all_keys["actor"], all_keys["workspace"]) == ("revoke_all", "cli", "acme")
    prefixes = [one.record.prefix for one in reversed(made)][:named]
    assert all_keys["after"] == {"subject": "ada", "reason": REMOVED, "revoked": 3, "keys": prefixes}
    shown = [await place.doors.other.show(one.record.id) for one in made]
    assert {one.revoked_reason for one in shown} == {REMOVED}


async def test_a_removal_of_nobodys_keys_writes_one_event(place: Place) -> None:
    await place.user("ada")
    await place.doors.users.remove("ada", COMMAND_LINE)

    assert (await actions(place))[:2] == ["user_remove", "user_add"]


async def test_keys_of_a_former_user_of_that_name_are_not_counted(place: Place) -> None:
    for count in (2, 1):
        await place.user("ada", workspace="acme")
        for _ in range(count):
            await place.made("read-only", subject="ada", workspace="acme")

        assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == count


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

    assert told(refused) == (401, "The session has been revoked.")
    assert refused.json()["reason"] == "revoked"
    assert refused.headers["www-authenticate"].startswith('Bearer error="invalid_token"')
    assert await listed(place, await place.user("ada", workspace="acme")) == []
    assert "create" not in (await actions(place))[:3]


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

    with pytest.raises(ActorRevokedError):
        await sidecar.create(new, ada)

    eve = await sidecar.create(new, Actor((await put_user(sidecar, "eve")).id, subject="eve"))
    with pytest.raises(KeyConflictError):
        await sidecar.create(NewKey("handed", subject="ada"))
    await RedisUserRegistry(sidecar.store).finish_removal(user, None)
    handed = await sidecar.create(NewKey("handed", subject="ada"))
    assert [one.id for one in await sidecar.list()][:3] == [handed.record.id, eve.record.id, mine.record.id]


async def put_user(made: Parts, name: str) -> KeyRecord:
    """Straight in the store; the password is nobody's."""
    record = KeyRecord(draw_id("usr", "", name, keys.partition, keys.PARTITIONS), name, "user", "", name, "")
    event = Event("test", Action.USER_ADD, record.id)
    return await RedisUserRegistry(made.store).create(record, "not a hash", event)


async def test_who_was_revoked_makes_no_user(place: Place) -> None:
    """Who may is the command line alone, as yet. The name stays free."""
    admin = await place.made("admin", workspace="acme")
    await place.keys.revoke(admin.record.id, "", COMMAND_LINE)
    with pytest.raises(ActorRevokedError):
        await place.doors.users.add(NewUser("ada"), PASSWORD, Actor(admin.record.id, workspace="acme"))

    await place.user("ada", workspace="acme")


@pytest.mark.parametrize("door", ["grpc", "rest"])
async def test_a_maker_who_is_revoked_meanwhile_is_told_so(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door) as doors:
        admin = await doors.admin_of("acme")
        mine = (await doors.root.all(filter='workspace = "acme"'))[0]["id"]
        late = Calls(doors.store).hold("issue")
        making = asyncio.create_task(admin.call("CreateKey", name="late"))
        await late.reached.wait()
        await doors.other.revoke(mine)
        late.go.set()

        refused = await making

        assert (refused.status, refused.reason) == (401, "revoked")
        assert refused.message == "The API key has been revoked."
        assert 'error="invalid_token"' in refused.headers["www-authenticate"]


# --- nobody makes more of them


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_a_key_of_theirs_cannot_outrun_the_removal(place: Place, workspace: str) -> None:
    """It lives until its turn comes, and makes no other that would have to be found again."""
    await place.user("ada", "admin", workspace=workspace)
    older, newer = [await place.made("admin", subject="ada", workspace=workspace) for _ in range(2)]
    calls = Calls(place.doors.store)
    the_users, the_newer_keys = calls.hold("revoke"), calls.hold("revoke")
    removing = asyncio.create_task(place.doors.users.remove("ada", COMMAND_LINE))
    await the_users.reached.wait()
    the_users.go.set()
    await the_newer_keys.reached.wait()
    create = {"name": "more", "subject": "ada", "scopes": ["admin"]}
    for token in (older.token, newer.token):
        assert told(await place.ask("POST", "/authz/v1/keys", token, json=create)) == REFUSED
    elsewhere = await place.ok("POST", "/authz/v1/keys", older.token, json={**create, "subject": "eve"})
    the_newer_keys.go.set()

    assert (await removing).keys == 2
    assert {await place.doors.reason(one.token) for one in (older, newer)} == {"revoked"}
    assert await place.doors.reason(elsewhere["token"]) == "allowed"
    with pytest.raises(NoSuchUserError):
        await place.doors.users.remove("ada", COMMAND_LINE)
    await place.made("admin", subject="ada", workspace=workspace)


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_key_that_was_being_made_for_them_is_not_made(place: Place, kind: str) -> None:
    """By nobody whom the removal ends. What was reserved for it is let go, unless the same is tried again in time."""
    await place.user("ada", workspace="acme")
    new = NewKey("late", "ada", "acme", ("read-only",), kind=kind)
    drawn = place.keys.draw(new, COMMAND_LINE)
    calls = Calls(place.doors.store)
    late, the_last = calls.hold("issue"), calls.hold("finish")
    making = asyncio.create_task(place.keys.create(new, COMMAND_LINE, drawn))
    await late.reached.wait()
    assert await left_ms(place, drawn) == [-1] * (1 + bool(drawn.token))
    removing = asyncio.create_task(place.doors.users.remove("ada", COMMAND_LINE))
    await the_last.reached.wait()
    late.go.set()

    with pytest.raises(KeyConflictError, match="is being removed"):
        await making
    assert all(0 < left <= UNBOUND_MS for left in await left_ms(place, drawn))
    the_last.go.set()
    assert (await removing).keys == 0

    made = await place.keys.create(new, COMMAND_LINE, drawn)
    assert made.record.id == drawn.id
    assert set(await left_ms(place, drawn)) == {-1}
    assert await place.doors.reason(made.token) == "allowed"


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_refused_try_lets_nothing_go_that_another_has_come_to_use(place: Place, kind: str) -> None:
    """Of the same draw. The first is slow, and lets go only once the second has made the key."""
    await place.user("ada", workspace="acme")
    new = NewKey("late", "ada", "acme", ("read-only",), kind=kind)
    drawn = place.keys.draw(new, COMMAND_LINE)
    calls = Calls(place.doors.store)
    late, the_last = calls.hold("issue"), calls.hold("finish")
    making = asyncio.create_task(place.keys.create(new, COMMAND_LINE, drawn))
    await late.reached.wait()
    removing = asyncio.create_task(place.doors.users.remove("ada", COMMAND_LINE))
    await the_last.reached.wait()
    letting_go = calls.hold("reserve")
    late.go.set()
    await letting_go.reached.wait()
    the_last.go.set()
    await removing
    made = await place.keys.create(new, COMMAND_LINE, drawn)
    letting_go.go.set()

    with pytest.raises(KeyConflictError):
        await making
    assert set(await left_ms(place, drawn)) == {-1}
    assert await place.doors.reason(made.token) == "allowed"


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_what_was_reserved_for_a_key_whose_maker_is_revoked_is_let_go(place: Place, kind: str) -> None:
    maker = await place.made("admin", workspace="acme")
    actor = Actor(maker.record.id, "acme", ("admin",))
    new = NewKey("late", kind=kind)
    drawn = place.keys.draw(new, actor)
    await place.keys.revoke(maker.record.id, "", COMMAND_LINE)

    with pytest.raises(ActorRevokedError):
        await place.keys.create(new, actor, drawn)

    left = await left_ms(place, drawn)
    assert len(left) == 1 + bool(drawn.token)
    assert all(0 < one <= UNBOUND_MS for one in left)


async def left_ms(place: Place, drawn: Drawn) -> list[int]:
    """For how long the display prefix, and the digest of an opaque token, stay in the store; -1: for ever."""
    names = [keys.prefix(drawn.id.removeprefix("key_")[:8])]
    if drawn.token:
        names.append(keys.digest(place.keys.peppers.digests(drawn.token)[0])[1])
    return [await place.doors.store.call("test", "PTTL", name) for name in names]


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_many_keys_that_make_more_for_as_long_as_they_live(place: Place, workspace: str) -> None:
    """Nobody waits for anybody here: whatever comes first, nothing is left."""
    await place.user("ada", workspace=workspace)
    body = {"name": "more", "subject": "ada", "scopes": ["admin"], "limits": {"requests": "1000000/1s"}}
    theirs = [await place.made("admin", subject="ada", workspace=workspace, limits=PLENTY) for _ in range(20)]
    made = [one.token for one in theirs]
    under_way = asyncio.Event()

    async def outrun(token: str) -> None:
        """With each key that it makes, until one is refused."""
        for _ in range(200):
            answer = await place.ask("POST", "/authz/v1/keys", token, json=body)
            if answer.status_code != 200:
                assert answer.status_code in {401, 409}
                return
            token = answer.json()["token"]
            made.append(token)
            if len(made) > 40:
                under_way.set()

    attackers = [asyncio.create_task(outrun(one.token)) for one in theirs[:4]]
    await under_way.wait()
    removed = await place.doors.users.remove("ada", COMMAND_LINE)
    await asyncio.gather(*attackers)

    assert removed.keys == len(made)
    assert {await place.doors.reason(token) for token in made} == {"revoked"}


async def test_what_somebody_else_has_finished_is_not_gone_on_with(place: Place) -> None:
    """Two remove the same user. One is slow, and finds the next user of that name, whose keys are not meant."""
    old = [await place.made("read-only", subject="ada", workspace="acme") for _ in range(2)]
    await place.user("ada", workspace="acme")
    slow = Calls(place.doors.store).hold("time")
    removing = asyncio.create_task(place.doors.users.remove("ada", COMMAND_LINE))
    await slow.reached.wait()
    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 2
    newcomer = await place.user("ada", "read-only", workspace="acme")
    theirs = await place.ok("POST", "/portal/keys", newcomer, json={"name": "theirs"})
    slow.go.set()

    removed = await removing

    assert (removed.keys, removed.warnings) == (0, [])
    assert [await place.doors.reason(token) for token in (old[0].token, old[1].token, theirs["token"])] == [
        "revoked",
        "revoked",
        "allowed",
    ]
    assert [key["id"] for key in await listed(place, newcomer)] == [theirs["id"]]
    assert (await actions(place)).count("revoke_all") == 1


async def test_keys_that_never_end_end_the_removal(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where another version of authz, which does not know of removals, goes on making them."""
    await place.user("ada")
    await place.made(subject="ada")

    async def not_done(*_: object) -> None:
        """It lives on."""

    with monkeypatch.context() as patch:
        patch.setattr(RedisKeyRegistry, "revoke_within_removal", not_done)
        with pytest.raises(UnfinishedRemovalError, match="goes on making keys"):
            await place.doors.users.remove("ada", COMMAND_LINE)

    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 1


# --- a removal that is cut short


async def cut_short(place: Place, workspace: str = "acme") -> list[IssuedKey]:
    """The store goes away behind the last of three keys; each of them."""
    await place.user("ada", "read-only", workspace=workspace)
    made = [await place.made("read-only", subject="ada", workspace=workspace) for _ in range(3)]
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
    return made


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_a_removal_that_was_cut_short_is_finished_when_it_is_asked_for_again(
    place: Place, workspace: str
) -> None:
    """Its event tells of all of it."""
    made = await cut_short(place, workspace)
    answer = await place.ask("POST", "/authz/v1/login", json={"username": "ada", "password": PASSWORD})
    assert answer.status_code == 401
    assert [await place.doors.reason(one.token) for one in made] == ["allowed", "allowed", "revoked"]
    assert await place.doors.users.all() == []

    assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 3

    assert {await place.doors.reason(one.token) for one in made} == {"revoked"}
    assert (await actions(place))[:3] == ["revoke_all", "user_remove", "create"]
    later = await place.made("read-only", subject="ada", workspace=workspace)
    with pytest.raises(NoSuchUserError):
        await place.doors.users.remove("ada", COMMAND_LINE)
    assert await place.doors.reason(later.token) == "allowed"


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_until_it_is_finished_nobody_has_the_name_or_a_new_key(place: Place, workspace: str) -> None:
    """Wherever they are to be put; else nothing would tell any more that it is not. There is no end to it but this."""
    await cut_short(place, workspace)
    for another in ("acme", "", "umbrella"):
        with pytest.raises(BeingRemovedError):
            await place.doors.users.add(NewUser("ada", another), PASSWORD, COMMAND_LINE)
    with pytest.raises(KeyConflictError):
        await place.made(subject="ada", workspace=workspace)
    await place.made(subject="ada", workspace="umbrella")
    mark = keys.removal(keys.partition(tenant_of(workspace, "ada")), workspace, "ada")
    assert await place.doors.store.call("test", "PTTL", mark) == -1

    await place.doors.users.remove("ada", COMMAND_LINE)

    assert mark.encode() not in stored(place.doors.other.url)
    await place.user("ada", workspace="umbrella")
    await place.made(subject="ada", workspace=workspace)


@pytest.mark.parametrize("operation", ["list", "user"])
async def test_a_name_is_not_given_away_in_the_midst_of_its_removal(place: Place, operation: str) -> None:
    """It was looked up while the user lived; what is asked last tells that a removal began since."""
    await place.user("ada", workspace="acme")
    await place.made("read-only", subject="ada", workspace="acme")
    calls = Calls(place.doors.store)
    looked_up, the_last = calls.hold_reply(operation), calls.hold("finish")
    adding = asyncio.create_task(place.doors.users.add(NewUser("ada"), PASSWORD, COMMAND_LINE))
    await looked_up.reached.wait()
    removing = asyncio.create_task(place.doors.users.remove("ada", COMMAND_LINE))
    await the_last.reached.wait()
    looked_up.go.set()

    with pytest.raises(BeingRemovedError):
        await adding
    the_last.go.set()
    assert (await removing).keys == 1
    assert await place.doors.users.all() == []


@pytest.mark.parametrize("operation", ["revoke", "time", "finish"])
async def test_a_removal_of_which_nobody_was_told_can_be_asked_for_again(place: Place, operation: str) -> None:
    """The store did it, and the answer was lost; or the keys could not even be listed."""
    await place.user("ada", workspace="acme")
    made = [await place.made("read-only", subject="ada", workspace="acme") for _ in range(3)]
    calls = Calls(place.doors.store)
    calls.lose_reply(operation)
    with pytest.raises(UnfinishedRemovalError):
        await place.doors.users.remove("ada", COMMAND_LINE)

    if operation == "finish":  # it was done to the end
        with pytest.raises(NoSuchUserError):
            await place.doors.users.remove("ada", COMMAND_LINE)
    else:
        assert await place.doors.reason(made[0].token) == "allowed"
        assert (await place.doors.users.remove("ada", COMMAND_LINE)).keys == 3
    assert {await place.doors.reason(one.token) for one in made} == {"revoked"}
    assert (await actions(place))[:3] == ["revoke_all", "user_remove", "create"]


async def test_a_store_that_is_away_from_the_beginning_changes_nothing(place: Place) -> None:
    await place.user("ada")
    made = await place.made("read-only", subject="ada")
    calls = Calls(place.doors.store)
    calls.lose("user")
    with pytest.raises(StoreFault, match="the store did not answer in time"):
        await place.doors.users.remove("ada", COMMAND_LINE)

    assert await place.doors.reason(made.token) == "allowed"
    await place.doors.log_in("ada")


async def test_a_removal_on_every_kind_of_store(sidecar: Parts) -> None:
    """Marked, and finished, in one slot of a cluster; a second time nothing happens, and nothing is told."""
    await sidecar.create(NewKey("the first"))
    registry, event = RedisUserRegistry(sidecar.store), Event("test", Action.USER_REMOVE)
    ada = await put_user(sidecar, "ada")
    mine = await sidecar.create(NewKey("mine", subject="ada"))
    removed = await registry.remove(ada, event)
    assert (removed.version, removed.revoked_reason) == (-2, "removed")
    assert await registry.remove(ada, event) == removed
    with pytest.raises(BeingRemovedError):
        await put_user(sidecar, "ada")
    assert await registry.find_unfinished("ada") == removed
    assert await registry.find_unfinished("eve") is None

    ended, warnings = await sidecar.admin.revoke_removed(removed, REMOVED)
    for _ in range(2):
        await registry.finish_removal(removed, Event("test", Action.REVOKE_ALL))

    assert ([one.id for one in ended], warnings) == ([mine.record.id], [])
    for _ in range(2):
        assert await registry.find_unfinished("ada") is None
        await registry.remove(ada, event)
    users = keys.name(keys.partition(tenant_of("", "ada")), "n")
    assert await sidecar.store.call("test", "ZRANGE", users, 0, -1) == []
    with pytest.raises(ChangedError):
        await sidecar.registry.revoke_within_removal(mine.record.id, REMOVED, removed)
    page = await sidecar.admin.events(Filter({}), 9, "", COMMAND_LINE)
    assert [one.action for one in page.events if one.actor == "test"] == ["revoke_all", "user_remove", "user_add"]
    await put_user(sidecar, "ada")


async def test_a_user_whose_maker_is_revoked_is_not_there(sidecar: Parts) -> None:
    maker = await sidecar.create(NewKey("maker", workspace="acme"))
    await sidecar.revoke(maker.record.id)
    made = draw_id("usr", "acme", "ada", keys.partition, keys.PARTITIONS)
    record, registry = KeyRecord(made, "ada", "user", "", "ada", "acme"), RedisUserRegistry(sidecar.store)

    with pytest.raises(RevokedError):
        await registry.create(record, "not a hash", Event(maker.record.id, Action.USER_ADD, made))

    assert await registry.find("ada") is None
    await put_user(sidecar, "ada")


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
    assert await place.doors.users.living_keys(ada) == (len(waiting), True)
    assert [key["prefix"] for key in await listed(place, session)] == [one.record.prefix for one in reversed(waiting)]


async def test_that_is_a_bounded_look(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two pages, however many keys there are."""
    for _ in range(5):
        await place.made("read-only", subject="ada", workspace="acme")
    await place.user("ada", workspace="acme")
    (ada,) = await place.doors.users.all()
    for size, found in ((2, (4, False)), (3, (5, True)), (1, (2, False))):
        monkeypatch.setattr("authz.admin.keys._PAGE", size)
        assert await place.doors.users.living_keys(ada) == found

    monkeypatch.undo()
    for _ in range(5):
        await place.made("read-only", workspace="acme")
    monkeypatch.setattr("authz.adapters.redis.registry.SCAN", 2)
    assert await place.doors.users.living_keys(ada) == (0, False)
