"""A caller bound to a workspace, tried from every method at both doors; and nobody grants what they do not hold."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

import pytest

from authz.admin.keys import IssuedKey
from authz.core.units import rfc3339
from authz.ports import NewToken
from tests.support import stores
from tests.support.admin import DOORS, METHODS, NO_SUCH_KEY, PASSWORD, Answer, Caller, Doors, configured, opened, shown


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@dataclass(frozen=True)
class World:
    """
    Two workspaces, and what belongs to none. The subject `ada` has a key, and a session, in each.

    Args:
        mine: An admin bound to `acme`.
        own, theirs, nobodys: Keys of `acme`, of `umbrella`, of no workspace.
    """

    doors: Doors
    mine: Caller
    their_admin: Caller
    own: IssuedKey
    theirs: IssuedKey
    nobodys: IssuedKey
    session: Caller

    @property
    def foreign(self) -> tuple[IssuedKey, IssuedKey]:
        return self.theirs, self.nobodys

    async def state(self) -> list[dict[str, Any]]:
        """All that is not `acme`'s: keys with their versions and tokens, and events."""
        keys = await self.doors.root.all()
        events = await self.doors.root.all("ListEvents")
        return [{**one, "last_used_at": None} for one in (*keys, *events) if one["workspace"] != "acme"]

    async def lives(self) -> bool:
        """Whether every foreign credential still works."""
        reasons = [await self.doors.reason(key.token) for key in self.foreign]
        return reasons == ["allowed"] * 2 and (await self.session.call("ListKeys")).status == 200


@contextlib.asynccontextmanager
async def world(url: str, door: str) -> AsyncIterator[World]:
    async with opened(url, door, configured(keys={"retain_token": True, "require_record": False})) as doors:
        made = {}
        for name in ("acme", "umbrella", ""):
            made[name] = await doors.root.ok(
                "CreateKey", name="ci-ada", subject="ada", workspace=name, scopes=["read-write"]
            )
        await doors.user("ada of umbrella", "admin", workspace="umbrella")
        await doors.use(await doors.other.show(made["acme"]["id"]), "acme's model", 1, 1)
        for name in ("umbrella", ""):
            await doors.use(await doors.other.show(made[name]["id"]), "another's model", 1000, 1000)
        records = {name: await doors.other.show(one["id"]) for name, one in made.items()}
        issued = {name: IssuedKey(records[name], made[name]["token"]) for name in made}
        yield World(
            doors=doors,
            mine=await doors.admin_of("acme"),
            their_admin=await doors.admin_of("umbrella"),
            own=issued["acme"],
            theirs=issued["umbrella"],
            nobodys=issued[""],
            session=await doors.log_in("ada of umbrella"),
        )


async def not_there(there: World, method: str, **values: Any) -> None:
    """A foreign id, and a foreign prefix, are answered as one that never was."""

    def named(key: str) -> dict[str, Any]:
        return {"key": {"id": key, **values}} if method == "UpdateKey" else {"id": key, **values}

    for key in there.foreign:
        for name, unknown in ((key.record.id, NO_SUCH_KEY), (key.record.prefix, "sk-live-00000000")):
            answer = await there.mine.refused(404, method, **named(name))
            assert answer == await there.mine.refused(404, method, **named(unknown))
            assert answer.reason == "not_found"
            assert not mentions_others(answer, there)


def mentions_others(answer: Answer, there: World) -> bool:
    told = shown(answer.json)
    return any(key.record.id in told or key.record.prefix in told or key.token in told for key in there.foreign)


async def create(there: World) -> None:
    """In its own workspace alone, which is the default too."""
    for values in ({}, {"subject": "ada"}, {"request_id": "r"}, {"kind": "opaque"}):
        answer = await there.mine.refused(403, "CreateKey", name="a", workspace="umbrella", **values)
        assert answer.reason == "insufficient_scope"
    for values in ({}, {"workspace": ""}, {"workspace": "acme"}, {"subject": "ada of umbrella"}):
        assert (await there.mine.ok("CreateKey", name="a", **values))["workspace"] == "acme"
    same = {"name": "same", "scopes": ["read-only"], "request_id": "r-1"}
    others = await there.their_admin.ok("CreateKey", **same)
    own = await there.mine.ok("CreateKey", **same)
    assert (own["workspace"], others["workspace"]) == ("acme", "umbrella")
    await there.doors.root.ok("RevokeKey", id=others["id"])


async def get(there: World) -> None:
    await not_there(there, "GetKey")
    await not_there(there, "GetKey", show_token=True)
    assert (await there.mine.ok("GetKey", id=there.own.record.id, show_token=True))["token"] == there.own.token


async def list_keys(there: World) -> None:
    for text in ("", 'name = "*"', 'name = "ci-*"', 'subject = "ada"', "state = active", 'workspace = "acme"'):
        for size in (1, 500):
            found = await there.mine.all(filter=text, page_size=size)
            assert found
            assert {key["workspace"] for key in found} == {"acme"}, text
            assert not any(mentions_others(Answer(200, key, {}), there) for key in found)
    for text in ('workspace = "umbrella"', 'workspace = "umbrella" AND name = "ci-*"', 'workspace = "nowhere"'):
        assert (await there.mine.refused(403, "ListKeys", filter=text)).reason == "insufficient_scope"
    await tokens_of_others(there, "ListKeys", 'workspace = "umbrella"')


async def tokens_of_others(there: World, method: str, theirs: str) -> None:
    """A page token of another caller's list shows nothing of what is not the reader's."""
    for caller, text in (
        (there.doors.root, ""),
        (there.doors.root, theirs),
        (there.doors.root, 'workspace = "acme"'),
        (there.their_admin, ""),
    ):
        token = (await caller.ok(method, page_size=1, filter=text))["next_page_token"]
        for asked in ("", text):
            answer = await there.mine.call(method, page_token=token, filter=asked, page_size=500)
            assert answer.status in ({200} if text == 'workspace = "acme"' else {400, 403}), (text, asked)
            assert not mentions_others(answer, there)
            assert {one["workspace"] for one in answer.json.get("keys", answer.json.get("events", []))} <= {"acme"}


async def events(there: World) -> None:
    ids = [key.record.id for key in there.foreign]
    by_root = f"actor = {there.doors.root_key.record.id}"
    for text in ("", "action = create", by_root, *(f"key_id = {key}" for key in ids), 'workspace = "acme"'):
        found = await there.mine.all("ListEvents", filter=text)
        assert bool(found) == (not text.startswith("key_id"))
        assert {event["workspace"] for event in found} <= {"acme"}, text
        assert not any(mentions_others(Answer(200, event, {}), there) for event in found)
    for text in ('workspace = "umbrella"', f'workspace = "umbrella" AND key_id = {ids[0]}'):
        assert (await there.mine.refused(403, "ListEvents", filter=text)).reason == "insufficient_scope"
    await tokens_of_others(there, "ListEvents", 'workspace = "umbrella"')


async def key_usage(there: World) -> None:
    since = await since_a_while(there)
    for values in ({}, {"start_time": since}, {"end_time": "2100-01-01T00:00:00Z"}):
        await not_there(there, "GetKeyUsage", **values)
        told = await there.mine.ok("GetKeyUsage", id=there.own.record.id, **values)
        assert (told["requests"], [*told["by_model"]]) == (1, ["acme's model"])
        others = await there.their_admin.ok("GetKeyUsage", id=there.theirs.record.id, **values)
        assert (others["requests"], [*others["by_model"]]) == (1, ["another's model"])


async def since_a_while(there: World) -> str:
    return rfc3339(await there.doors.store.now_us() - 3_600_000_000) or ""


async def usage(there: World) -> None:
    """Whatever is grouped by and asked for; nothing is told of another's key that is not told of none."""
    since = await since_a_while(there)
    groupings: tuple[list[str], ...] = (
        [],
        ["model"],
        ["key"],
        ["subject"],
        ["workspace"],
        ["hour"],
        ["model", "key", "workspace", "day"],
    )
    for by, values in itertools.product(groupings, ({}, {"start_time": since})):
        for text in ("", 'workspace = "acme"', 'subject = "ada"', f"key_id = {there.own.record.id}"):
            answer = await there.mine.call("GetUsage", group_by=by, filter=text, **values)
            assert (answer.json["requests"], answer.json["input_tokens"]) == (1, 1), (by, text)
            assert not mentions_others(answer, there)
            assert "another's" not in shown(answer.json)
        for text in ('workspace = "umbrella"', 'workspace = ""', 'workspace = "umbrella" AND subject = "ada"'):
            refused = await there.mine.refused(403, "GetUsage", group_by=by, filter=text, **values)
            assert refused.reason == "insufficient_scope"
        for key in there.foreign:
            for name in (key.record.id, key.record.prefix):
                told = await there.mine.ok("GetUsage", group_by=by, filter=f"key_id = {name}", **values)
                unknown = await there.mine.ok("GetUsage", group_by=by, filter=f"key_id = {NO_SUCH_KEY}", **values)
                assert {**told, "end_time": None} == {**unknown, "end_time": None}
                assert (told["requests"], told["groups"]) == (0, [])
        assert (await there.doors.root.ok("GetUsage", group_by=by, **values))["requests"] == 3


async def update(there: World) -> None:
    await not_there(there, "UpdateKey", name="mine now")
    await not_there(there, "UpdateKey", scopes=[])
    await not_there(there, "UpdateKey", scopes=["no such scope"])
    await not_there(there, "UpdateKey", etag="v1", limits={"requests": "1/1d"})
    answer = await there.mine.refused(
        400, "UpdateKey", key={"id": there.own.record.id, "workspace": "umbrella"}, update_mask="workspace"
    )
    assert answer.field == "update_mask"
    await there.mine.ok("UpdateKey", key={"id": there.own.record.id, "workspace": "umbrella", "name": "still acme's"})
    assert (await there.mine.ok("GetKey", id=there.own.record.id))["workspace"] == "acme"


async def rotate(there: World) -> None:
    await not_there(there, "RotateKey")
    await not_there(there, "RotateKey", grace="1h")
    await not_there(there, "RotateKey", request_id="r-1")
    await there.their_admin.ok("GetKey", id=there.theirs.record.id)


async def revoke(there: World) -> None:
    await not_there(there, "RevokeKey")
    await not_there(there, "RevokeKey", reason="theirs")


async def revoke_a_jti_from_elsewhere(there: World) -> None:
    """Tokens without a record are everybody's and nobody's: a caller bound to a workspace revokes none of them."""
    signed = there.doors.other.admin.signer.sign(
        NewToken("theirs-1", "alice", "umbrella", ("read-only",), 1_700_000_000, None)
    )
    for jti in ("theirs-1", "theirs-2"):
        assert (await there.mine.refused(404, "RevokeKey", id=jti)).reason == "not_found"
    assert await there.doors.reason(f"sk-live-{signed}") == "allowed"


async def revoke_all(there: World) -> None:
    """Whatever is said, at most its own; and where another is meant, nothing."""
    for values in ({"workspace": "umbrella"}, {"workspace": "umbrella", "subject": "ada"}, {"workspace": "nowhere"}):
        for dry_run in (True, False):
            answer = await there.mine.refused(403, "RevokeAllKeys", dry_run=dry_run, **values)
            assert answer.reason == "insufficient_scope"
    assert await there.doors.reason(there.own.token) == "allowed"

    dry = await there.mine.ok("RevokeAllKeys", subject="ada", dry_run=True)
    assert dry["revoked"] == 1
    await there.mine.ok("RevokeAllKeys", subject="ada")
    assert await there.doors.reason(there.own.token) == "revoked"
    assert await there.lives()

    await there.doors.key("read-only", workspace="acme")
    moment = await there.doors.moment()
    await there.mine.ok("RevokeAllKeys", issued_before=moment)
    assert (await there.mine.refused(401, "ListKeys")).reason == "revoked"


async def log_in(there: World) -> None:
    """The session of a user of a workspace is bound to it as a key is."""
    await there.doors.user("bob", "admin", workspace="acme")
    await there.doors.user("carol of umbrella", "admin", workspace="umbrella")
    session = await there.doors.log_in("bob")
    for key in there.foreign:
        await session.refused(404, "GetKey", id=key.record.id)
    assert {key["workspace"] for key in await session.all()} == {"acme"}
    assert {event["workspace"] for event in await session.all("ListEvents")} == {"acme"}
    await session.refused(403, "CreateKey", name="a", workspace="umbrella")
    await there.doors.caller(None).ok("Login", username="carol of umbrella", password=PASSWORD)


CASES: Final[dict[str, tuple[Callable[[World], Awaitable[None]], ...]]] = {
    "CreateKey": (create,),
    "GetKey": (get,),
    "ListKeys": (list_keys,),
    "UpdateKey": (update,),
    "RotateKey": (rotate,),
    "RevokeKey": (revoke, revoke_a_jti_from_elsewhere),
    "RevokeAllKeys": (revoke_all,),
    "GetKeyUsage": (key_usage,),
    "GetUsage": (usage,),
    "ListEvents": (events,),
    "Login": (log_in,),
}
# In these cases somebody else makes what is not `acme`'s.
CHANGES: Final = frozenset({"CreateKey", "Login"})


@pytest.mark.parametrize("method", METHODS)
async def test_a_caller_sees_and_changes_its_workspace_alone(valkey_url: str, door: str, method: str) -> None:
    """Every method of the service has a case: a new one without it fails here."""
    async with world(valkey_url, door) as there:
        before = await there.state()
        for case in CASES[method]:
            await case(there)
        assert await there.lives()
        after = await there.state()
        assert after == before or method in CHANGES


async def test_a_callers_workspace_holds_on_a_cluster(cluster_server: stores.Cluster, door: str) -> None:
    stores.flush(cluster_server.url)
    async with world(cluster_server.url, door) as there:
        for method in ("GetKey", "ListKeys", "GetKeyUsage", "GetUsage", "ListEvents", "RevokeAllKeys"):
            for case in CASES[method]:
                await case(there)
        assert await there.lives()


async def test_who_is_bound_to_no_workspace_sees_all(valkey_url: str, door: str) -> None:
    async with world(valkey_url, door) as there:
        assert {key["workspace"] for key in await there.doors.root.all()} == {"acme", "umbrella", ""}
        assert {event["workspace"] for event in await there.doors.root.all("ListEvents")} == {"acme", "umbrella", ""}
        for key in (there.own, *there.foreign):
            await there.doors.root.ok("UpdateKey", key={"id": key.record.id, "name": "seen"})


# --- nobody grants, or is shown the token of, what they do not hold

SCOPES: Final = {"admin": [], "read-write": ["read-only"], "billing": [], "owner": ["admin", "read-write", "billing"]}


@dataclass(frozen=True)
class Granting:
    """*mine* holds admin and read-write; *rich* is a key that holds billing as well, *poor* one that holds less."""

    doors: Doors
    mine: Caller
    rich: dict[str, Any]
    poor: dict[str, Any]


@pytest.fixture(params=["acme", ""], ids=["bound", "unbound"])
async def granting(request: pytest.FixtureRequest, valkey_url: str, door: str) -> AsyncIterator[Granting]:
    configuration = configured(keys={"retain_token": True}, scopes=SCOPES)
    async with opened(valkey_url, door, configuration) as doors:
        await doors.user("owner", "owner")
        owner = await doors.log_in("owner")
        await doors.user("mine", "admin", "read-write", workspace=request.param)
        made = [
            await owner.ok("CreateKey", name=name, workspace="acme", scopes=scopes)
            for name, scopes in (("rich", ["billing"]), ("poor", ["read-only"]))
        ]
        yield Granting(doors, await doors.log_in("mine"), made[0], made[1])


async def test_what_a_caller_grants_it_must_hold(granting: Granting) -> None:
    """Included scopes count as held; a scope that includes what is held is more than that."""
    mine, poor = granting.mine, granting.poor
    for scopes in (["billing"], ["read-only", "billing"], ["owner"]):
        for method, values in (
            ("CreateKey", {"name": "a", "scopes": scopes}),
            ("CreateKey", {"name": "a", "scopes": scopes, "request_id": "r"}),
            ("UpdateKey", {"key": {"id": poor["id"], "scopes": scopes}}),
        ):
            answer = await mine.refused(403, method, **values)
            assert answer.reason == "insufficient_scope"
            required = ", ".join(scopes if method == "CreateKey" else scopes[-1:])  # of a change, what it adds
            assert answer.message == f"The session lacks a scope: required: {required}; held: admin, read-write."
    assert (await mine.ok("GetKey", id=poor["id"]))["scopes"] == ["read-only"]
    assert {key["name"] for key in await mine.all(filter='workspace = "acme"')} == {"rich", "poor"}
    for scopes in (["read-only"], ["admin", "read-write", "read-only"], []):
        await mine.ok("CreateKey", name="b", scopes=scopes)
        await mine.ok("UpdateKey", key={"id": poor["id"], "scopes": scopes}, update_mask="scopes")


async def test_scopes_that_are_there_may_stay_and_may_be_taken_away(granting: Granting) -> None:
    mine, rich = granting.mine, granting.rich

    kept = await mine.ok("UpdateKey", key={"id": rich["id"], "scopes": ["read-only", "billing"], "name": "richer"})
    assert kept["scopes"] == ["read-only", "billing"]
    taken = await mine.ok("UpdateKey", key={"id": rich["id"], "scopes": ["read-only"]})
    assert taken["scopes"] == ["read-only"]
    await mine.refused(403, "UpdateKey", key={"id": rich["id"], "scopes": ["read-only", "billing"]})


async def test_a_token_that_can_more_than_the_caller_is_not_for_it(granting: Granting) -> None:
    """Neither a new one nor the one there is; revoking it is everybody's who sees it."""
    mine, rich = granting.mine, granting.rich
    for method, values in (
        ("RotateKey", {}),
        ("RotateKey", {"grace": "1h", "request_id": "r"}),
        ("GetKey", {"show_token": True}),
    ):
        answer = await mine.refused(403, method, id=rich["id"], **values)
        assert answer.reason == "insufficient_scope"
        assert rich["token"] not in shown([answer.json, dict(answer.headers)])
    read = await mine.ok("GetKey", id=rich["id"])
    assert [one["number"] for one in read["rotations"]] == [0]
    assert "token" not in read
    assert await granting.doors.reason(rich["token"]) != "revoked"

    assert (await mine.ok("GetKey", id=granting.poor["id"], show_token=True))["token"] == granting.poor["token"]
    await mine.ok("RotateKey", id=granting.poor["id"])
    assert (await mine.ok("RevokeKey", id=rich["id"]))["state"] == "revoked"
