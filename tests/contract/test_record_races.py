"""Changes that meet: reads that arrive late bring nothing back, no change is lost, and what is revoked stays so."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import redis
from argon2 import PasswordHasher

from authz.adapters.argon2.hasher import Argon2Hasher
from authz.adapters.crypto.vault import AesVault
from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.jwt.verifier import SESSION_TYPE
from authz.adapters.redis import keys
from authz.adapters.redis.users import RedisUserRegistry
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import IssuedKey, KeyAdmin, KeyChanges, KeyConflictError, NewKey
from authz.admin.retention import Retention
from authz.admin.users import Login, NewUser, Session, UserAdmin, UserExistsError
from authz.core.decision import Allow, Reason
from authz.core.event import Action, Event
from authz.core.keyrecord import KeyRecord, KeyState, tenant_of
from authz.core.listing import Filter
from authz.pipeline import Authorizer
from authz.ports import OverloadFault, StoreFault
from tests.support.calls import Calls
from tests.support.parts import SCOPES, SECRET, Parts, configuration, parts, pipeline, request


ROUTES = [
    {"name": "read", "methods": ["GET"], "path": "/v1/**", "scopes": ["read-only"]},
    {"name": "write", "path": "/v1/**", "scopes": ["read-write"]},
]


@dataclass
class Sidecar:
    """One that has checked before, and goes on without the store as far as it may."""

    made: Parts
    calls: Calls
    authorizer: Authorizer

    async def reason(self, token: str, method: str = "GET") -> Reason:
        return (await self.authorizer.check(request(token, method))).reason


def sidecar_of(made: Parts) -> Sidecar:
    configured = configuration(routes=ROUTES, limits={}, store={"on_error": "allow"}, keys={"accept_sessions": True})
    return Sidecar(made, Calls(made.store), pipeline(configured, made))


@pytest.fixture
async def here(sidecar: Parts) -> Sidecar:
    await sidecar.create(NewKey("the first"))
    return sidecar_of(sidecar)


@pytest.fixture
async def there(here: Sidecar) -> AsyncIterator[Sidecar]:
    async with parts(here.made.url) as made:
        yield sidecar_of(made)


async def new_key(made: Parts, kind: str = "jwt", **fields: Any) -> IssuedKey:
    return await made.create(NewKey("test", kind=kind, scopes=("read-write",), **fields))


def tenant(record: KeyRecord) -> str:
    return tenant_of(record.workspace, record.subject)


async def events_of(made: Parts, key_id: str) -> list[Event]:
    """Oldest first."""
    page = await made.admin.events(Filter({"key_id": key_id}), 500, "", COMMAND_LINE)
    return list(reversed(page.events))


def actions(events: list[Event]) -> list[str]:
    return [str(event.action) for event in events]


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
@pytest.mark.parametrize("how", ["id", "workspace"])
async def test_a_late_read_does_not_bring_back_what_was_revoked(
    here: Sidecar, there: Sidecar, kind: str, how: str
) -> None:
    """Read before the revocation, arrived after the ledger had told it; then the store goes away."""
    key = await new_key(here.made, kind, workspace="acme")
    bystander = await new_key(here.made, kind)
    for mine in (key, bystander):
        assert await here.reason(mine.token) is Reason.ALLOWED
    late = here.calls.hold_reply("record")
    reading = asyncio.create_task(here.made.records.find("w:acme", key.record.id, fresh=True))
    await late.reached.wait()

    if how == "id":
        await there.made.revoke(key.record.id)
    else:
        await there.made.revoke_workspace("acme")
    assert await here.reason(key.token) is Reason.REVOKED
    late.go.set()
    arrived = await reading

    assert arrived is not None
    assert arrived.version == 1  # it did not know
    remembered = here.made.records.remembered("w:acme", key.record.id)
    assert remembered is not None
    assert remembered.version < 0
    assert await here.reason(key.token) is Reason.REVOKED
    here.calls.away = True
    assert await here.reason(key.token) is Reason.REVOKED
    assert isinstance(await here.authorizer.check(request(bystander.token)), Allow)


async def test_a_check_whose_record_arrives_late_is_refused_itself(here: Sidecar, there: Sidecar) -> None:
    """It judged by what it read; the ledger, asked last, knows better."""
    key = await new_key(here.made)
    late = here.calls.hold_reply("record")
    checking = asyncio.create_task(here.reason(key.token))
    await late.reached.wait()
    await there.made.revoke(key.record.id)
    late.go.set()

    assert await checking is Reason.REVOKED


async def test_a_check_whose_record_was_revoked_before_the_ledger_is_asked(here: Sidecar, there: Sidecar) -> None:
    """As late as can be: everything was judged, and the script is about to run."""
    key = await new_key(here.made)
    assert await here.reason(key.token) is Reason.ALLOWED
    late = here.calls.hold("admit")
    checking = asyncio.create_task(here.reason(key.token))
    await late.reached.wait()
    await there.made.revoke(key.record.id)
    late.go.set()

    assert await checking is Reason.REVOKED


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_late_read_does_not_bring_back_scopes(here: Sidecar, there: Sidecar, kind: str) -> None:
    key = await new_key(here.made, kind)
    assert await here.reason(key.token, "POST") is Reason.ALLOWED
    late = here.calls.hold_reply("record")
    reading = asyncio.create_task(here.made.records.find(tenant(key.record), key.record.id, fresh=True))
    await late.reached.wait()

    await there.made.admin.update(key.record.id, KeyChanges({"scopes": ("read-only",)}), COMMAND_LINE)
    assert await here.reason(key.token, "POST") is Reason.INSUFFICIENT_SCOPE
    late.go.set()
    assert getattr(await reading, "scopes", None) == ("read-write",)

    remembered = here.made.records.remembered(tenant(key.record), key.record.id)
    assert remembered is not None
    assert (remembered.version, remembered.scopes) == (2, ("read-only",))
    here.calls.away = True
    assert await here.reason(key.token, "POST") is Reason.INSUFFICIENT_SCOPE
    assert await here.reason(key.token) is Reason.ALLOWED


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_late_read_does_not_bring_back_a_token_that_was_replaced(
    here: Sidecar, there: Sidecar, kind: str
) -> None:
    key = await new_key(here.made, kind)
    assert await here.reason(key.token) is Reason.ALLOWED
    late = here.calls.hold_reply("record")
    reading = asyncio.create_task(here.made.records.find(tenant(key.record), key.record.id, fresh=True))
    await late.reached.wait()

    rotated = await there.made.admin.rotate(key.record.id, 0, COMMAND_LINE)
    assert await here.reason(rotated.token) is Reason.ALLOWED
    assert await here.reason(key.token) is Reason.REVOKED
    late.go.set()
    assert getattr(await reading, "version", None) == 1

    for away in (True, False):
        here.calls.away = away
        assert await here.reason(key.token) is Reason.REVOKED
        assert await here.reason(rotated.token) is Reason.ALLOWED


async def test_two_updates_at_once_both_land(here: Sidecar, there: Sidecar) -> None:
    """The one that read before the other wrote is told, reads again, and changes what now stands."""
    key = await new_key(here.made)
    late = here.calls.hold_reply("list")
    change = KeyChanges({"name": "renamed"})
    renaming = asyncio.create_task(here.made.admin.update(key.record.id, change, COMMAND_LINE))
    await late.reached.wait()
    await there.made.admin.update(key.record.id, KeyChanges({"scopes": ("read-only",)}), COMMAND_LINE)
    late.go.set()
    renamed = await renaming

    assert (renamed.name, renamed.scopes, renamed.version) == ("renamed", ("read-only",), 3)
    assert await there.made.show(key.record.id) == renamed
    written = await events_of(there.made, key.record.id)
    assert [(dict(event.before), dict(event.after)) for event in written[1:]] == [
        ({"scopes": ["read-write"]}, {"scopes": ["read-only"]}),
        ({"name": "test"}, {"name": "renamed"}),
    ]


async def test_of_two_updates_of_the_same_read_one_is_told(here: Sidecar, there: Sidecar) -> None:
    """Each sent the etag that it had read: the second must not undo the first unseen."""
    key = await new_key(here.made)
    late = here.calls.hold_reply("list")
    mine = KeyChanges({"name": "mine"}, etag="v1")
    renaming = asyncio.create_task(here.made.admin.update(key.record.id, mine, COMMAND_LINE))
    await late.reached.wait()
    await there.made.admin.update(key.record.id, KeyChanges({"name": "theirs"}, etag="v1"), COMMAND_LINE)
    late.go.set()

    with pytest.raises(KeyConflictError, match="etag"):
        await renaming
    assert (await here.made.show(key.record.id)).name == "theirs"
    assert actions(await events_of(here.made, key.record.id)) == ["create", "update"]


async def test_many_updates_at_once_are_all_there_or_told(here: Sidecar, there: Sidecar) -> None:
    """Each event begins where the one before it ended, and the last is what stands."""
    key = await new_key(here.made)
    ended = await asyncio.gather(
        *(
            each.made.admin.update(key.record.id, KeyChanges({"name": f"name {number}"}), COMMAND_LINE)
            for number, each in enumerate([here, there] * 8)
        ),
        return_exceptions=True,
    )

    landed = [one for one in ended if isinstance(one, KeyRecord)]
    assert all(isinstance(one, KeyRecord | KeyConflictError) for one in ended)
    written = (await events_of(here.made, key.record.id))[1:]
    assert len(landed) == len(written) >= 8
    names = ["test", *(str(event.after["name"]) for event in written)]
    assert [event.before["name"] for event in written] == names[:-1]
    final = await here.made.show(key.record.id)
    assert (final.name, final.version) == (names[-1], len(landed) + 1)
    assert sorted(one.version for one in landed) == list(range(2, len(landed) + 2))


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
@pytest.mark.parametrize("grace_s", [0, 3600])
async def test_many_rotations_at_once(here: Sidecar, there: Sidecar, kind: str, grace_s: int) -> None:
    """Numbers are distinct and without a gap; each token handed out is good, or was replaced by a later one."""
    key = await new_key(here.made, kind)
    for each in (here, there):
        assert await each.reason(key.token) is Reason.ALLOWED
    ended = await asyncio.gather(
        *(each.made.admin.rotate(key.record.id, grace_s, COMMAND_LINE) for each in [here, there] * 10),
        return_exceptions=True,
    )

    handed_out = {one.record.current.number: one.token for one in ended if isinstance(one, IssuedKey)}
    refused = [one for one in ended if not isinstance(one, IssuedKey)]
    assert all(isinstance(one, KeyConflictError) for one in refused)
    assert len(handed_out) + len(refused) == 20
    assert sorted(handed_out) == list(range(1, len(handed_out) + 1))
    final = await here.made.show(key.record.id)
    assert final.current.number == len(handed_out) >= (7 if grace_s else 8)
    assert final.version == len(handed_out) + 1
    written = Counter(actions(await events_of(here.made, key.record.id)))
    assert written == {"create": 1, "rotate": len(handed_out)}
    for each in (here, there):
        for number, token in {0: key.token, **handed_out}.items():
            alive = grace_s > 0 or number == len(handed_out)
            assert await each.reason(token) is (Reason.ALLOWED if alive else Reason.REVOKED), (number, len(handed_out))


@pytest.mark.parametrize("operation", ["list", "change"])
async def test_an_update_does_not_bring_back_what_was_revoked(here: Sidecar, there: Sidecar, operation: str) -> None:
    """Whether it had just read the key, or was about to write it."""
    key = await new_key(here.made)
    late = here.calls.hold_reply("list") if operation == "list" else here.calls.hold("change")
    change = KeyChanges({"scopes": ("admin",), "expires_at_us": None})
    updating = asyncio.create_task(here.made.admin.update(key.record.id, change, COMMAND_LINE))
    await late.reached.wait()
    await there.made.revoke(key.record.id, "leaked")
    late.go.set()

    with pytest.raises(KeyConflictError, match="revoked"):
        await updating
    final = await here.made.show(key.record.id)
    assert (final.version, final.scopes, final.revoked_reason) == (-2, ("read-write",), "leaked")
    assert actions(await events_of(here.made, key.record.id)) == ["create", "revoke"]
    for each in (here, there):
        assert await each.reason(key.token) is Reason.REVOKED


@pytest.mark.parametrize("who", ["subject", "workspace", "everything"])
async def test_nor_what_was_revoked_in_bulk(here: Sidecar, there: Sidecar, who: str) -> None:
    key = await new_key(here.made, subject="alice", workspace="acme")
    late = here.calls.hold("change")
    updating = asyncio.create_task(
        here.made.admin.update(key.record.id, KeyChanges({"scopes": ("admin",)}), COMMAND_LINE)
    )
    await late.reached.wait()
    match who:
        case "subject":
            await there.made.revoke_subject("alice")
        case "workspace":
            await there.made.revoke_workspace("acme")
        case _:
            await there.made.registry.revoke_everything(
                await there.made.store.now_us(), Event("cli", Action.REVOKE_ALL)
            )
    late.go.set()

    with pytest.raises(KeyConflictError, match="revoked"):
        await updating
    assert (await here.made.show(key.record.id)).scopes == ("read-write",)
    assert await here.reason(key.token) is Reason.REVOKED


async def test_changes_and_revocations_by_many_at_once_end_revoked(here: Sidecar, there: Sidecar) -> None:
    several = [await new_key(here.made, kind) for kind in ("jwt", "opaque")]
    for key in several:
        admins = [here.made.admin, there.made.admin]
        key_id = key.record.id
        ended = await asyncio.gather(
            *(admins[n % 2].update(key_id, KeyChanges({"name": f"n{n}"}), COMMAND_LINE) for n in range(6)),
            *(admins[n % 2].rotate(key_id, 3600, COMMAND_LINE) for n in range(6)),
            admins[0].revoke(key_id, "leaked", COMMAND_LINE),
            admins[1].revoke(key_id, "leaked", COMMAND_LINE),
            return_exceptions=True,
        )
        assert all(not isinstance(one, BaseException) or isinstance(one, KeyConflictError) for one in ended)
        final = await here.made.show(key_id)
        assert final.state(0) is KeyState.REVOKED
        written = actions(await events_of(here.made, key_id))
        assert (written[-1], written.count("revoke")) == ("revoke", 1)
        assert abs(final.version) == len(written)
        for token in [key.token, *(one.token for one in ended if isinstance(one, IssuedKey))]:
            for each in (here, there):
                assert await each.reason(token) is Reason.REVOKED


def digests(url: str) -> list[bytes]:
    """Names of opaque tokens in a store, but for those that go within the hour, as no record names them."""
    cluster = url.startswith("redis+cluster://")
    client: Any = redis.RedisCluster.from_url(url.replace("+cluster", "")) if cluster else redis.Redis.from_url(url)
    with client:
        names = client.scan_iter(match="authz:{*}:h:*", count=1000)
        return sorted(name for name in names if not 0 < client.ttl(name) <= 3600)


async def test_an_opaque_rotation_that_was_overtaken_leaves_no_digest_for_long(here: Sidecar, there: Sidecar) -> None:
    """Its first token was never handed out; the one of its second try is."""
    key = await new_key(here.made, "opaque")
    late = here.calls.hold_reply("reserve")  # the new digest is in the store, the record does not name it yet
    rotating = asyncio.create_task(here.made.admin.rotate(key.record.id, 3600, COMMAND_LINE))
    await late.reached.wait()
    await there.made.admin.update(key.record.id, KeyChanges({"name": "renamed"}), COMMAND_LINE)
    assert len(digests(here.made.url)) == 2
    late.go.set()
    rotated = await rotating

    named = {keys.digest(one.digest)[1].encode() for one in rotated.record.rotations}
    assert set(digests(here.made.url)) == named
    assert (len(named), rotated.record.name, rotated.record.version) == (2, "renamed", 3)
    for each in (here, there):
        for token in (key.token, rotated.token):
            assert await each.reason(token) is Reason.ALLOWED


async def test_an_opaque_rotation_that_comes_after_the_revocation_leaves_no_digest_for_long(
    here: Sidecar, there: Sidecar
) -> None:
    key = await new_key(here.made, "opaque")
    before = digests(here.made.url)
    late = here.calls.hold_reply("reserve")
    rotating = asyncio.create_task(here.made.admin.rotate(key.record.id, 3600, COMMAND_LINE))
    await late.reached.wait()
    await there.made.revoke(key.record.id)
    late.go.set()

    with pytest.raises(KeyConflictError, match="revoked"):
        await rotating
    assert digests(here.made.url) == before


def retaining(made: Parts) -> KeyAdmin:
    return replace(made.admin, kept=Retention(made.registry, AesVault((SECRET.encode(),), "retained token")))


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_the_token_that_is_shown_again_is_the_current_one(here: Sidecar, there: Sidecar, kind: str) -> None:
    """Of two rotations, the earlier one's token reaches the store last: it must not be shown as the key's."""
    key = await retaining(here.made).create(NewKey("test", kind=kind), COMMAND_LINE)
    late = here.calls.hold("retain")
    rotating = asyncio.create_task(retaining(here.made).rotate(key.record.id, 0, COMMAND_LINE))
    await late.reached.wait()
    current = await retaining(there.made).rotate(key.record.id, 0, COMMAND_LINE)
    late.go.set()
    earlier = await rotating
    assert (earlier.record.current.number, current.record.current.number) == (1, 2)

    try:
        shown = await retaining(here.made).show_token(key.record.id, COMMAND_LINE)
    except KeyConflictError:
        return  # it was not kept: that is honest
    assert shown.token == current.token


async def test_no_retained_token_outlives_a_revocation(here: Sidecar, there: Sidecar) -> None:
    """Neither one of a key that is revoked while its token is on its way to be kept."""
    late = here.calls.hold("retain")
    making = asyncio.create_task(retaining(here.made).create(NewKey("test", subject="alice"), COMMAND_LINE))
    await late.reached.wait()
    (made,) = [one for one in await there.made.list() if one.subject == "alice"]
    await there.made.revoke(made.id)
    late.go.set()
    await making

    assert await there.made.registry.retained(made) is None


@dataclass
class People:
    users: UserAdmin
    login: Login


def people(made: Parts) -> People:
    hasher = Argon2Hasher(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
    registry = RedisUserRegistry(made.store)
    signer = JwtSigner(Keyring((VerificationKey(None, "HS256", SECRET.encode()),)), "portal", SESSION_TYPE)
    users = UserAdmin(registry, hasher, SCOPES, made.observer, made.admin)
    return People(users, Login(registry, hasher, made.ledger, signer, 3600, None, None))


@pytest.mark.parametrize("what", ["passwd", "remove"])
async def test_a_login_under_way_does_not_outlive_its_password(here: Sidecar, there: Sidecar, what: str) -> None:
    """The password was right when it was checked; the session is made after it was changed, or the user removed."""
    mine, theirs = people(here.made), people(there.made)
    await mine.users.add(NewUser("carol", scopes=("read-only",)), "correct horse", COMMAND_LINE)
    late = here.calls.hold("time")
    logging_in = asyncio.create_task(mine.login("carol", "correct horse", "127.0.0.1"))
    await late.reached.wait()
    if what == "passwd":
        await theirs.users.set_password("carol", "battery staple", COMMAND_LINE)
    else:
        await theirs.users.remove("carol", COMMAND_LINE)
    late.go.set()
    session = await logging_in

    assert isinstance(session, Session)
    for each in (here, there):
        assert await each.reason(session.token) is Reason.REVOKED
    if what == "passwd":
        anew = await theirs.login("carol", "battery staple", "127.0.0.1")
        assert isinstance(anew, Session)
        assert await here.reason(anew.token) is Reason.ALLOWED


@pytest.mark.parametrize("late_at", ["reply", "issue"])
async def test_of_two_users_of_one_name_made_at_once_one_is_told(here: Sidecar, there: Sidecar, late_at: str) -> None:
    """Who was told nothing can log in, and the list names carol once."""
    mine, theirs = people(here.made), people(there.made)
    late = here.calls.hold_reply("user") if late_at == "reply" else here.calls.hold("issue")
    first = asyncio.create_task(mine.users.add(NewUser("carol"), "correct horse", COMMAND_LINE))
    await late.reached.wait()
    second = asyncio.create_task(theirs.users.add(NewUser("carol"), "battery staple", COMMAND_LINE))
    await asyncio.wait([second], timeout=1)
    late.go.set()
    ended = await asyncio.gather(first, second, return_exceptions=True)

    made = [
        password
        for one, password in zip(ended, ("correct horse", "battery staple"), strict=True)
        if isinstance(one, KeyRecord)
    ]
    assert [type(one) for one in ended if not isinstance(one, KeyRecord)] == [UserExistsError]
    assert [one.name for one in await mine.users.all()] == ["carol"]
    for password in made:
        assert isinstance(await mine.login("carol", password, "127.0.0.1"), Session)


async def test_many_reads_of_one_record_are_bounded_whichever_way_they_are_asked_for(
    here: Sidecar, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reads that must be fresh count like others: each is a call to the store that somebody waits for."""
    monkeypatch.setattr("authz.adapters.redis.records.MAX_WAITING", 50)
    key = await new_key(here.made)
    find = here.made.records.find

    ended = await asyncio.gather(
        *(find(tenant(key.record), key.record.id, fresh=True) for _ in range(80)), return_exceptions=True
    )

    assert all(isinstance(one, KeyRecord | OverloadFault) for one in ended)
    assert here.calls.operations.count("record") <= 50


async def test_a_reader_who_leaves_takes_nobodys_answer(here: Sidecar) -> None:
    key = await new_key(here.made)
    late = here.calls.hold_reply("record")
    leaves, stays = [asyncio.create_task(here.made.records.find(tenant(key.record), key.record.id)) for _ in range(2)]
    await late.reached.wait()
    leaves.cancel()
    await asyncio.sleep(0)
    late.go.set()

    assert await stays == key.record
    assert leaves.cancelled()
    assert here.calls.operations.count("record") == 1


async def test_a_read_that_failed_is_not_remembered(here: Sidecar) -> None:
    key = await new_key(here.made)
    here.calls.away = True
    with pytest.raises(StoreFault):
        await here.made.records.find(tenant(key.record), key.record.id)
    here.calls.away = False

    assert await here.made.records.find(tenant(key.record), key.record.id) == key.record
