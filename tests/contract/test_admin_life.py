"""What changes in the life of a key, through the admin API's real doors: update, rotation, revocation, asking again."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest
import redis
from grpc import aio

from authz.adapters.redis import keys
from authz.adapters.redis.scripts import ISSUE
from authz.core.decision import Deny, Reason
from authz.core.pepper import Peppers
from authz.ports import NewToken
from tests.support.admin import DOORS, NO_SUCH_KEY, Doors, GrpcClient, configured, opened, stored
from tests.support.calls import Calls
from tests.support.parts import PEPPER


CI: Final = {"name": "ci", "request_id": "r-1"}
TOO_FAR: Final = "2999-01-01T00:00:00Z"


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def doors(valkey_url: str, door: str) -> AsyncIterator[Doors]:
    async with opened(valkey_url, door) as made:
        yield made


async def created(doors: Doors, **values: Any) -> dict[str, Any]:
    return await doors.root.ok("CreateKey", **{"name": "test", "scopes": ["read-write"], **values})


async def told_apart(doors: Doors, token: str) -> tuple[str, str]:
    """Reason and hint of a check."""
    decision = await doors.check(token)
    return decision.reason.value, decision.hint if isinstance(decision, Deny) else ""


REPLACED: Final = ("revoked", "it was replaced when the key was rotated")
ALLOWED: Final = ("allowed", "")


# --- UpdateKey

FULL: Final[dict[str, Any]] = {
    "name": "before",
    "scopes": ["read-write"],
    "limits": {"requests": "60/1m", "tokens": "1000/1h"},
    "expires_in": "90d",
}


async def test_what_an_update_changes(doors: Doors) -> None:
    """What the mask names, cleared where nothing is sent for it; without a mask, what a value was sent for."""
    table: dict[str, tuple[dict[str, Any], str, dict[str, Any]]] = {
        "nothing": ({}, "", {}),
        "a value": ({"name": "after"}, "", {"name": "after"}),
        "several": ({"name": "b", "scopes": ["read-only"]}, "", {"name": "b", "scopes": ["read-only"]}),
        "what the mask names, and nothing else": ({"name": "after", "scopes": []}, "name", {"name": "after"}),
        "scopes cleared": ({}, "scopes", {"scopes": []}),
        "limits cleared": ({"limits": {}}, "limits", {"limits": {}}),
        "limits replaced as a whole": ({"limits": {"tokens": "5/1s"}}, "", {"limits": {"tokens": "5/1s"}}),
        "never expires": ({"expires_at": None}, "expires_at", {"expires_at": None}),
        "another end": ({"expires_at": "2099-12-31T23:59:59Z"}, "", {"expires_at": "2099-12-31T23:59:59Z"}),
        "another end, elsewhere": (
            {"expires_at": "2099-06-01T02:00:00+02:00"},
            "",
            {"expires_at": "2099-06-01T00:00:00Z"},
        ),
        "all at once": (
            {"name": "z", "expires_at": None},
            "name,scopes,limits,expires_at",
            {"name": "z", "scopes": [], "limits": {}, "expires_at": None},
        ),
        "output only, without a mask": ({"state": "revoked", "token": "x", "kind": "opaque", "workspace": "w"}, "", {}),
        "a scope twice": ({"scopes": ["read-only", "read-only"]}, "", {"scopes": ["read-only"]}),
    }
    for case, (values, mask, expected) in table.items():
        made = await created(doors, **FULL)
        before = await doors.root.ok("GetKey", id=made["id"])
        masked = {"update_mask": mask} if mask else {}

        after = await doors.root.ok("UpdateKey", key={"id": made["id"], **values}, **masked)

        assert {**after, "etag": ""} == {**before, **expected, "etag": ""}, case
        assert (after["etag"] == before["etag"]) == (not expected), case
        assert after == await doors.root.ok("GetKey", id=made["id"]), case
        events = await doors.root.all("ListEvents", filter=f"action = update AND key_id = {made['id']}")
        assert [set(event["after"]) for event in events] == ([{*expected}] if expected else []), case
        assert all(event["before"][name] == before[name] for event in events for name in event["before"]), case


@pytest.mark.parametrize("door", ["rest"])
async def test_what_a_body_names_is_what_it_changes(valkey_url: str, door: str) -> None:
    """Empty values and null too: who takes rights away must not be answered 200 for nothing."""
    async with opened(valkey_url, door) as doors:
        made = await created(doors, **FULL)

        after = await doors.root.ok("UpdateKey", key={"id": made["id"], "scopes": [], "limits": {}, "expires_at": None})

        assert (after["scopes"], after["limits"], after["expires_at"]) == ([], {}, None)
        again = {**after, "name": "a key that was read can be sent back"}
        assert (await doors.root.ok("UpdateKey", key=again))["name"] == again["name"]
        answer = await doors.root.refused(400, "UpdateKey", key={"id": made["id"], "name": ""})
        assert answer.field == "name"


@pytest.mark.parametrize("door", ["grpc"])
async def test_over_grpc_what_is_empty_needs_the_mask(valkey_url: str, door: str) -> None:
    """Nothing on the wire tells an empty field from one that was not sent."""
    async with opened(valkey_url, door) as doors:
        made = await created(doors, **FULL)
        before = await doors.root.ok("GetKey", id=made["id"])

        assert before == await doors.root.ok(
            "UpdateKey", key={"id": made["id"], "scopes": [], "limits": {}, "name": ""}
        )


async def test_what_an_update_refuses(doors: Doors) -> None:
    """Each with the field at fault; and nothing of it is done."""
    table: dict[str, tuple[dict[str, Any], str, str]] = {
        "an unknown field": ({}, "colour", "update_mask"),
        "an unknown one among known": ({"name": "x"}, "name,colour", "update_mask"),
        "an output-only field": ({"state": "revoked"}, "state", "update_mask"),
        "another": ({"workspace": "umbrella"}, "workspace", "update_mask"),
        "whom it speaks for": ({"subject": "root"}, "subject", "update_mask"),
        "the id": ({}, "id", "update_mask"),
        "a part of a field": ({"limits": {"requests": "1/1s"}}, "limits.requests", "update_mask"),
        "everything": ({"name": "x"}, "*", "update_mask"),
        "no name": ({}, "name", "name"),
        "a name that is none": ({"name": "a\nb"}, "", "name"),
        "an unknown scope": ({"scopes": ["read-only", "root"]}, "", "scopes"),
        "an unknown unit": ({"limits": {"dollars": "1/1s"}}, "", "limits"),
        "no limit": ({"limits": {"requests": "0/1s"}}, "", "limits.requests"),
        "the past": ({"expires_at": "2020-01-01T00:00:00Z"}, "", "expires_at"),
        "before all time": ({"expires_at": "1960-01-01T00:00:00Z"}, "", "expires_at"),
        "too far ahead": ({"expires_at": TOO_FAR}, "", "expires_at"),
    }
    made = await created(doors, **FULL)
    before = await doors.root.ok("GetKey", id=made["id"])
    for case, (values, mask, at_fault) in table.items():
        masked = {"update_mask": mask} if mask else {}
        answer = await doors.root.refused(400, "UpdateKey", key={"id": made["id"], **values}, **masked)
        assert (answer.reason, answer.field) == ("bad_request", at_fault), case
    assert before == await doors.root.ok("GetKey", id=made["id"])


async def test_an_etag_sees_to_it_that_nobody_else_changed_the_key(doors: Doors) -> None:
    made = await created(doors)
    read = await doors.root.ok("GetKey", id=made["id"])

    mine = await doors.root.ok("UpdateKey", key={"id": made["id"], "name": "mine", "etag": read["etag"]})
    answer = await doors.root.refused(409, "UpdateKey", key={"id": made["id"], "name": "yours", "etag": read["etag"]})

    assert answer.reason == "conflict"
    assert (await doors.root.ok("GetKey", id=made["id"]))["name"] == "mine"
    await doors.root.refused(409, "UpdateKey", key={"id": made["id"], "etag": "nonsense"})
    await doors.root.ok("UpdateKey", key={"id": made["id"], "name": "any"})  # none was sent: any will do
    await doors.root.ok("RotateKey", id=made["id"])
    await doors.root.refused(409, "UpdateKey", key={"id": made["id"], "name": "yours", "etag": mine["etag"]})


async def test_a_key_that_was_read_can_be_sent_back(doors: Doors) -> None:
    """With all its output-only fields, as people edit what GET has given them."""
    made = await created(doors, **FULL)
    read = await doors.root.ok("GetKey", id=made["id"])

    changed = await doors.root.ok("UpdateKey", key={**read, "name": "edited"})

    assert {**changed, "etag": ""} == {**read, "name": "edited", "etag": ""}


async def test_changes_count_at_the_very_next_check(store_url: str, door: str) -> None:
    """On another sidecar, which remembers the key as it was."""
    async with opened(store_url, door) as doors:
        for kind in ("jwt", "opaque"):
            made = await created(doors, scopes=["read-only"], kind=kind)
            token = made["token"]
            assert await doors.reason(token, "POST") == "insufficient_scope"
            await doors.root.ok("UpdateKey", key={"id": made["id"], "scopes": ["read-write"]})
            assert await doors.reason(token, "POST") == "allowed"
            await doors.root.ok("UpdateKey", key={"id": made["id"], "limits": {"requests": "1/1h"}})
            assert [await doors.reason(token) for _ in range(2)] == ["allowed", "rate_limited"]
            await doors.root.ok("UpdateKey", key={"id": made["id"]}, update_mask="scopes,limits")
            assert await doors.reason(token) == "insufficient_scope"


async def test_an_end_that_is_moved_counts_at_the_very_next_check(doors: Doors) -> None:
    """An opaque key's is the record's alone; an expired one can be given another, by the store's clock."""
    made = await created(doors, kind="opaque")
    assert await doors.reason(made["token"]) == "allowed"
    await doors.expire(made["id"])
    assert await doors.reason(made["token"]) == "expired"
    assert (await doors.root.ok("GetKey", id=made["id"]))["state"] == "expired"

    await doors.root.ok("UpdateKey", key={"id": made["id"], "expires_at": "2099-01-01T00:00:00Z"})

    assert await doors.reason(made["token"]) == "allowed"
    assert (await doors.root.ok("GetKey", id=made["id"]))["state"] == "active"


async def test_changes_at_the_same_time_are_all_made(doors: Doors) -> None:
    """Each on what the one before left."""
    made = await created(doors, **FULL)
    changes: list[dict[str, Any]] = [
        {"name": "x"},
        {"scopes": ["read-only"]},
        {"limits": {"requests": "1/1s"}},
        {"expires_at": "2099-01-01T00:00:00Z"},
    ]

    await asyncio.gather(*(doors.root.ok("UpdateKey", key={"id": made["id"], **change}) for change in changes))

    after = await doors.root.ok("GetKey", id=made["id"])
    for change in changes:
        for name, value in change.items():
            assert after[name] == value
    assert after["etag"] == "v5"


# --- RotateKey


async def test_both_tokens_work_until_the_grace_ends(store_url: str) -> None:
    """By the store's clock, to the microsecond, and without the leeway that clocks are granted."""
    async with opened(store_url, "grpc") as doors:
        old = [await created(doors, kind=kind) for kind in ("jwt", "opaque")]
        new = [await doors.root.ok("RotateKey", id=each["id"], grace="1s") for each in old]
        assert [await told_apart(doors, each["token"]) for each in (*old, *new)] == [ALLOWED] * 4
        for each in old:
            first, second = (await doors.root.ok("GetKey", id=each["id"]))["rotations"]
            assert [first["number"], second["number"]] == [0, 1]
            assert first["ends_at"] is not None
            assert second["ends_at"] is None
        records = [await doors.other.show(each["id"]) for each in old]

        await doors.until(max(record.rotations[0].ends_at_us or 0 for record in records))

        assert [await told_apart(doors, each["token"]) for each in (*old, *new)] == [REPLACED] * 2 + [ALLOWED] * 2


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_rotation_without_grace_ends_the_old_token_at_once(doors: Doors, kind: str) -> None:
    old = await created(doors, kind=kind)
    assert await told_apart(doors, old["token"]) == ALLOWED

    new = await doors.root.ok("RotateKey", id=old["prefix"])

    assert [await told_apart(doors, each["token"]) for each in (old, new)] == [REPLACED, ALLOWED]
    assert [each["number"] for each in (await doors.root.ok("GetKey", id=old["id"]))["rotations"]] == [1]


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_shorter_grace_cuts_what_was_promised_before(doors: Doors, kind: str) -> None:
    """And a longer one extends nothing. Three tokens live at a time, then one."""
    tokens = [await created(doors, kind=kind)]
    key = tokens[0]["id"]
    tokens += [await doors.root.ok("RotateKey", id=key, grace=grace) for grace in ("1h", "2h")]
    assert [await told_apart(doors, each["token"]) for each in tokens] == [ALLOWED] * 3
    first, second, third = (await doors.other.show(key)).rotations
    assert third.ends_at_us is None
    assert (first.ends_at_us or 0) - second.issued_at_us == 3_600_000_000
    assert (second.ends_at_us or 0) - third.issued_at_us == 7_200_000_000

    tokens.append(await doors.root.ok("RotateKey", id=key, grace="30m"))
    cut = (await doors.other.show(key)).rotations
    assert {(one.ends_at_us or 0) - cut[3].issued_at_us for one in cut[:3]} == {1_800_000_000}

    tokens.append(await doors.root.ok("RotateKey", id=key, grace="0s"))
    assert [await told_apart(doors, each["token"]) for each in tokens] == [REPLACED] * 4 + [ALLOWED]


async def test_the_token_names_its_rotation(doors: Doors) -> None:
    """A JWT's `jti` is the key's id, then `id.1`, `id.2`; an opaque key's record has another digest."""
    made = await created(doors)
    tokens = [made, *[await doors.root.ok("RotateKey", id=made["id"], grace="1h") for _ in range(2)]]
    assert [_claims(each["token"])["jti"] for each in tokens] == [made["id"], f"{made['id']}.1", f"{made['id']}.2"]
    assert {_claims(each["token"])["sub"] for each in tokens} == {made["id"]}

    opaque = await created(doors, kind="opaque")
    again = await doors.root.ok("RotateKey", id=opaque["id"], grace="1h")
    peppers = Peppers((PEPPER.encode(),))
    digests = [one.digest for one in (await doors.other.show(opaque["id"])).rotations]
    assert digests == [peppers.digests(each["token"])[0] for each in (opaque, again)]


def _claims(token: str) -> dict[str, Any]:
    payload = token.removeprefix("sk-live-").split(".")[1]
    claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=="))
    return claims


async def test_a_rotated_key_goes_on_as_it_was(doors: Doors) -> None:
    """Id, scopes, limits and what of them is spent: a new token is no new bucket."""
    made = await created(doors, limits={"requests": "2/1h"}, subject="ada", workspace="acme", expires_in="90d")
    assert [await doors.reason(made["token"]) for _ in range(2)] == ["allowed", "allowed"]
    before = await doors.root.ok("GetKey", id=made["id"])

    rotated = await doors.root.ok("RotateKey", id=made["id"], grace="1h")

    assert {**rotated, "token": ""} == {**made, "token": ""}
    assert [await doors.reason(each["token"]) for each in (made, rotated)] == ["rate_limited", "rate_limited"]
    after = await doors.root.ok("GetKey", id=made["id"])
    assert {**after, "rotations": [], "etag": ""} == {**before, "rotations": [], "etag": ""}


async def test_a_new_token_ends_with_the_key_as_it_is_now(doors: Doors) -> None:
    """A JWT has an end of its own: rotation is how it follows its key's."""
    made = await created(doors, expires_in="1h")
    assert _claims(made["token"])["exp"] - _claims(made["token"])["iat"] in {3600, 3601}
    for expires_at, exp in (("2099-01-01T00:00:00Z", 4_070_908_800), (None, None)):
        await doors.root.ok("UpdateKey", key={"id": made["id"], "expires_at": expires_at}, update_mask="expires_at")
        rotated = await doors.root.ok("RotateKey", id=made["id"])
        assert rotated["expires_at"] == expires_at
        assert _claims(rotated["token"]).get("exp") == exp
        assert await told_apart(doors, rotated["token"]) == ALLOWED


async def test_what_cannot_be_rotated(doors: Doors) -> None:
    revoked, in_bulk, expired = [await created(doors, subject=subject) for subject in ("", "bob", "")]
    await doors.root.ok("RevokeKey", id=revoked["id"])
    await doors.root.ok("RevokeAllKeys", subject="bob")
    await doors.expire(expired["id"])
    for key, state in ((revoked, "revoked"), (in_bulk, "revoked"), (expired, "expired")):
        answer = await doors.root.refused(409, "RotateKey", id=key["id"])
        assert (answer.reason, answer.message) == ("conflict", f"The key is {state}: it cannot be rotated.")
    for grace in ("1", "366d", "-1s", "tomorrow", "1500ms"):
        answer = await doors.root.refused(400, "RotateKey", id=revoked["id"], grace=grace)
        assert answer.field == "grace", grace
    await doors.root.refused(404, "RotateKey", id=NO_SUCH_KEY, grace="1h")


async def test_no_more_than_eight_tokens_of_a_key_live_at_a_time(doors: Doors) -> None:
    made = await created(doors, kind="opaque")
    tokens = [made, *[await doors.root.ok("RotateKey", id=made["id"], grace="1h") for _ in range(7)]]
    assert [await doors.reason(each["token"]) for each in tokens] == ["allowed"] * 8

    answer = await doors.root.refused(409, "RotateKey", id=made["id"], grace="1h")

    assert "shorter grace" in answer.message
    assert [await doors.reason(each["token"]) for each in tokens] == ["allowed"] * 8
    last = await doors.root.ok("RotateKey", id=made["id"])
    assert [await doors.reason(each["token"]) for each in (*tokens, last)] == ["revoked"] * 8 + ["allowed"]


async def test_rotations_at_the_same_time_are_all_made(doors: Doors) -> None:
    """Each number is given once, and the last one made works."""
    made = await created(doors)
    rotated = await asyncio.gather(*(doors.root.ok("RotateKey", id=made["id"], grace="1h") for _ in range(4)))

    assert {_claims(each["token"])["jti"] for each in rotated} == {f"{made['id']}.{number}" for number in (1, 2, 3, 4)}
    assert [await doors.reason(each["token"]) for each in (made, *rotated)] == ["allowed"] * 5


async def test_a_digest_that_was_replaced_does_not_stay_for_ever(doors: Doors) -> None:
    """Whatever the grace: a key that is rotated each day must not fill the store."""
    peppers = Peppers((PEPPER.encode(),))
    for grace in ("1h", "0s"):
        made = await created(doors, kind="opaque")
        await doors.root.ok("RotateKey", id=made["id"], grace=grace)
        _, name = keys.digest(peppers.digests(made["token"])[0])
        left_s = await doors.store.call("test", "TTL", name)
        assert 29 * 86_400 < left_s < 32 * 86_400, grace


# --- RevokeKey, RevokeAllKeys


async def test_revoking_twice_is_revoking_once(doors: Doors) -> None:
    made = await created(doors)
    first = await doors.root.ok("RevokeKey", id=made["id"], reason="lost")
    record = await doors.other.show(made["id"])

    assert await doors.root.ok("RevokeKey", id=made["prefix"], reason="another reason") == first
    assert record == await doors.other.show(made["id"])
    events = await doors.root.all("ListEvents", filter=f"action = revoke AND key_id = {made['id']}")
    assert [event["after"] for event in events] == [{"reason": "lost"}]


async def test_revoking_what_was_revoked_in_bulk_changes_nothing(doors: Doors) -> None:
    """When and why a key was revoked is set once."""
    made = await created(doors, subject="bob")
    await doors.root.ok("RevokeAllKeys", subject="bob")
    first = await doors.other.show(made["id"])
    assert (first.revoked_at_us is not None, first.revoked_reason) == (True, "revoked in bulk")

    again = await doors.root.ok("RevokeKey", id=made["id"], reason="another reason")

    assert again["revoked_reason"] == first.revoked_reason
    assert (await doors.other.show(made["id"])).revoked_at_us == first.revoked_at_us


@pytest.mark.parametrize("bulk", [False, True], ids=["by id", "in bulk"])
async def test_nothing_brings_a_revoked_key_back(doors: Doors, bulk: bool) -> None:
    for kind in ("jwt", "opaque"):
        made = await created(doors, kind=kind, subject=kind)
        if bulk:
            await doors.root.ok("RevokeAllKeys", subject=kind)
        else:
            await doors.root.ok("RevokeKey", id=made["id"])

        for method, values in (
            ("UpdateKey", {"key": {"id": made["id"], "expires_at": "2099-01-01T00:00:00Z"}}),
            ("UpdateKey", {"key": {"id": made["id"], "name": "alive"}}),
            ("UpdateKey", {"key": {"id": made["id"]}, "update_mask": "expires_at"}),
            ("RotateKey", {"id": made["id"], "grace": "1h"}),
        ):
            assert (await doors.root.refused(409, method, **values)).reason == "conflict"
        assert await doors.reason(made["token"]) == "revoked"


async def test_a_reason_has_bounds(doors: Doors) -> None:
    made = await created(doors)
    for reason in ("x" * 257, "a\nb"):
        for method, values in (("RevokeKey", {"id": made["id"]}), ("RevokeAllKeys", {"subject": "bob"})):
            assert (await doors.root.refused(400, method, reason=reason, **values)).field == "reason"
    assert await doors.reason(made["token"]) == "allowed"


async def test_what_a_bulk_revocation_covers(store_url: str, door: str) -> None:
    """A dry run tells the same number, and changes nothing. What is issued after it lives."""
    async with opened(store_url, door) as doors:
        for run, (by_subject, by_workspace, covered) in enumerate(
            [
                ("eve", "", set[str]()),
                ("bob", "", {"bob of acme"}),
                ("", "acme", {"ada of acme", "bob of acme"}),
                ("ada", "", {"ada of acme", "ada of umbrella", "ada"}),
                ("ada", "acme", {"ada of acme"}),
            ]
        ):
            people = {
                "ada of acme": (f"ada{run}", f"acme{run}"),
                "bob of acme": (f"bob{run}", f"acme{run}"),
                "ada of umbrella": (f"ada{run}", f"umbrella{run}"),
                "ada": (f"ada{run}", ""),
                "nobody": ("", ""),
            }
            named = {"subject": by_subject, "workspace": by_workspace}
            wanted = {name: f"{value}{run}" for name, value in named.items() if value}
            made = {who: await created(doors, subject=at[0], workspace=at[1]) for who, at in people.items()}
            for who in ("ada of acme", "ada"):  # a dead one, which is not counted
                dead = await created(doors, subject=people[who][0], workspace=people[who][1])
                await doors.root.ok("RevokeKey", id=dead["id"])
            dry = await doors.root.ok("RevokeAllKeys", dry_run=True, **wanted)
            assert {await doors.reason(one["token"]) for one in made.values()} == {"allowed"}

            wet = await doors.root.ok("RevokeAllKeys", **wanted)

            assert {who for who, one in made.items() if await doors.reason(one["token"]) == "revoked"} == covered
            assert (dry["dry_run"], wet["dry_run"], dry["revoked"]) == (True, False, len(covered)), wanted
            assert wet["revoked"] == dry["revoked"], wanted
            after = await created(doors, **wanted)
            assert await doors.reason(after["token"]) == "allowed"


async def test_a_moment_narrows_whose_keys_are_revoked(doors: Doors) -> None:
    """With nothing else said it is everybody's; the caller's as well, if it was issued before."""
    cases = [{"subject": "ada"}, {"workspace": "acme"}, {"subject": "bob", "workspace": "umbrella"}, {}]
    before = [await created(doors, **wanted) for wanted in cases]
    moment = await doors.moment()
    after = [await created(doors, **wanted) for wanted in cases]

    for place, wanted in enumerate(cases[:-1]):
        dry = await doors.root.ok("RevokeAllKeys", issued_before=moment, dry_run=True, **wanted)
        await doors.root.ok("RevokeAllKeys", issued_before=moment, **wanted)
        assert dry["revoked"] == 1, wanted
        reasons = [await doors.reason(key["token"]) for key in before]
        assert reasons == ["revoked"] * (place + 1) + ["allowed"] * (3 - place)
    await doors.root.ok("RevokeAllKeys", issued_before=moment)

    assert {await doors.reason(key["token"]) for key in before} == {"revoked"}
    assert {await doors.reason(key["token"]) for key in after} == {"allowed"}
    assert (await doors.root.refused(401, "ListKeys")).reason == "revoked"


async def test_a_bulk_revocation_says_whose(doors: Doors) -> None:
    for values, at_fault in (
        ({}, "subject"),
        ({"dry_run": True}, "subject"),
        ({"subject": "a\nb"}, "subject"),
        ({"workspace": " "}, "workspace"),
        ({"issued_before": TOO_FAR}, "issued_before"),
        ({"subject": "ada", "issued_before": "1960-01-01T00:00:00Z"}, "issued_before"),
    ):
        assert (await doors.root.refused(400, "RevokeAllKeys", **values)).field == at_fault
    await doors.root.ok("ListKeys")


async def test_a_bulk_revocation_is_an_event(doors: Doors) -> None:
    """Whoever is meant, there is one of the action `revoke_all`; a dry run is none."""
    for wanted in ({"subject": "ada"}, {"workspace": "acme"}, {"subject": "ada", "workspace": "acme"}):
        made = await created(doors, subject="ada", workspace="acme")
        before = len(await doors.root.all("ListEvents", filter="action = revoke_all"))
        await doors.root.ok("RevokeAllKeys", reason="left", dry_run=True, **wanted)
        assert len(await doors.root.all("ListEvents", filter="action = revoke_all")) == before

        await doors.root.ok("RevokeAllKeys", reason="left", **wanted)

        events = await doors.root.all("ListEvents", filter="action = revoke_all")
        assert len(events) == before + 1, wanted
        assert events[0]["workspace"] == wanted.get("workspace", "")
        assert events[0]["after"]["reason"] == "left"
        assert await doors.reason(made["token"]) == "revoked"


async def test_the_last_admin_key_of_a_workspace_goes_with_a_warning(doors: Doors) -> None:
    """None while another is left; one that is expired, revoked or of another workspace is no other."""
    first, second = [await doors.key("admin", workspace="acme") for _ in range(2)]
    await doors.key("read-write", workspace="acme")
    await doors.key("admin", workspace="umbrella")

    assert (await doors.root.ok("RevokeKey", id=first.record.id))["warnings"] == []
    [warning] = (await doors.root.ok("RevokeKey", id=second.record.id))["warnings"]
    assert "no active admin key is left in the workspace 'acme'" in warning

    plain = await doors.key("read-only", workspace="acme")
    assert (await doors.root.ok("RevokeKey", id=plain.record.id))["warnings"] == []
    [warning] = (await doors.root.ok("RevokeKey", id=doors.root_key.record.id))["warnings"]
    assert "outside the workspaces" in warning


@pytest.mark.parametrize(
    "wanted",
    [{"subject": "ada"}, {"workspace": "acme"}, {"subject": "ada", "workspace": "acme"}],
    ids=["subject", "workspace", "both"],
)
async def test_a_bulk_revocation_of_the_last_admin_key_warns(doors: Doors, wanted: dict[str, str]) -> None:
    await doors.key("admin", subject="ada", workspace="acme")
    await doors.key("read-only", subject="ada", workspace="acme")

    assert (await doors.root.ok("RevokeAllKeys", dry_run=True, **wanted))["warnings"] == []
    told = await doors.root.ok("RevokeAllKeys", **wanted)

    assert len(told["warnings"]) == 1
    assert "no active admin key is left in the workspace 'acme'" in told["warnings"][0]


async def test_a_token_without_a_record_is_revoked_by_its_jti(valkey_url: str, door: str) -> None:
    """Where such tokens are accepted at all. An id of ours that is mistyped is none of these."""
    async with opened(valkey_url, door, configured(keys={"require_record": False})) as doors:
        signed = doors.other.admin.signer.sign(NewToken("theirs-1", "alice", "", ("read-only",), 1_700_000_000, None))
        token = "sk-live-" + signed
        assert await doors.reason(token) == "allowed"

        told = await doors.root.ok("RevokeKey", id="theirs-1", reason="stolen")

        assert (told["id"], told["state"], len(told["warnings"])) == ("theirs-1", "revoked", 1)
        assert await doors.reason(token) == "revoked"
        for unknown in (NO_SUCH_KEY, "sk-live-00000000", "usr_0123456700abcdefghij"):
            await doors.root.refused(404, "RevokeKey", id=unknown)


# --- asking again: `request_id`


async def test_asking_again_is_answered_the_same(store_url: str, door: str) -> None:
    async with opened(store_url, door) as doors:
        for kind in ("jwt", "opaque"):
            asked = {"name": "ci", "kind": kind, "scopes": ["read-only"], "request_id": f"r-{kind}"}
            made = [await doors.root.ok("CreateKey", **asked) for _ in range(3)]
            assert made[0] == made[1] == made[2]
            assert len(await doors.root.all(filter="state = active AND name = ci AND subject = " + made[0]["id"])) == 1

            rotated = [await doors.root.ok("RotateKey", id=made[0]["id"], request_id=f"r-{kind}") for _ in range(3)]
            assert rotated[0] == rotated[1] == rotated[2]
            assert rotated[0]["token"] != made[0]["token"]
            assert await doors.reason(rotated[0]["token"]) == "allowed"
            [last] = (await doors.root.ok("GetKey", id=made[0]["id"]))["rotations"]
            assert last["number"] == 1


async def test_another_request_under_the_same_id_is_refused(doors: Doors) -> None:
    made = await created(doors, request_id="r-1")
    await doors.root.ok("RotateKey", id=made["id"], request_id="r-1", grace="1h")

    for method, values in (
        ("CreateKey", {"name": "another", "scopes": ["read-write"]}),
        ("CreateKey", {"name": "test", "scopes": ["read-write"], "limits": {"requests": "1/1s"}}),
        ("RotateKey", {"id": made["id"], "grace": "2h"}),
    ):
        answer = await doors.root.refused(400, method, request_id="r-1", **values)
        assert (answer.field, answer.message) == ("request_id", "request_id: was used for another request.")
    assert len(await doors.root.all()) == 2


async def test_a_request_id_is_its_callers_own(doors: Doors) -> None:
    """Somebody else's is another, or a guess would show a token."""
    other = doors.caller((await doors.key("admin")).token)

    mine = await doors.root.ok("CreateKey", name="ci", request_id="r-1")
    theirs = await other.ok("CreateKey", name="ci", request_id="r-1")

    assert mine["id"] != theirs["id"]
    assert mine["token"] != theirs["token"]


async def test_what_was_refused_may_be_asked_again(doors: Doors) -> None:
    """Put right, under the same id: nothing was done yet."""
    await doors.root.refused(400, "CreateKey", name="ci", scopes=["root"], request_id="r-1")

    await doors.root.ok("CreateKey", name="ci", scopes=["admin"], request_id="r-1")


async def test_what_is_remembered_goes_after_ten_minutes_and_is_never_in_clear(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door) as doors:
        made = await created(doors, request_id="r-remembered")
        rotated = await doors.root.ok("RotateKey", id=made["id"], request_id="r-remembered")

        held = stored(valkey_url)
        remembered = [name for name in held if name.startswith(keys.request("").encode())]
        assert len(remembered) == 2
        with redis.Redis.from_url(valkey_url) as client:
            assert all(590 < client.ttl(name) <= 600 for name in remembered)
        for token in (made["token"], rotated["token"]):
            secret = token.rpartition(".")[2].encode()
            assert not [name for name, value in held.items() if secret in value or secret in name]
        assert not [name for name in held if b"r-remembered" in name]


async def test_twenty_at_once_make_one_key(doors: Doors) -> None:
    """Who comes while the first is under way is told so, and gets the same answer a moment later."""
    answers = await asyncio.gather(
        *(doors.root.call("CreateKey", name="ci", request_id="r-1", kind="opaque") for _ in range(20))
    )

    assert {answer.status for answer in answers} <= {200, 409}
    assert {answer.reason for answer in answers if answer.status == 409} <= {"conflict"}
    tokens = {answer.json["token"] for answer in answers if answer.status == 200}
    assert tokens == {(await doors.root.ok("CreateKey", name="ci", request_id="r-1", kind="opaque"))["token"]}
    assert len(await doors.root.all(filter="name = ci")) == 1


class Gate:
    """The store's commands, of which the making of a record is answered only once the gate is open."""

    def __init__(self, commands: Any) -> None:
        self._commands = commands
        self.reached = asyncio.Event()
        self.open = asyncio.Event()

    async def execute_command(self, *args: Any, **options: Any) -> Any:
        reply = await self._commands.execute_command(*args, **options)
        if ISSUE.sha in args or ISSUE.text in args:
            self.reached.set()
            await self.open.wait()
        return reply

    async def aclose(self) -> None:
        await self._commands.aclose()


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
@pytest.mark.parametrize("lost", ["reserve", "issue", "retain", "request"])
async def test_an_answer_that_the_store_lost_is_found_again(doors: Doors, kind: str, lost: str) -> None:
    """It is not known whether it was done: asked again, the same key comes out, whatever the step."""
    calls = Calls(doors.store)
    calls.lose_reply(lost)
    asked = {"name": "ci", "kind": kind, "scopes": ["read-only"], "request_id": "once"}

    first = await doors.root.call("CreateKey", **asked)
    again = await doors.root.ok("CreateKey", **asked)

    assert first.status in {200, 503}
    assert [key["id"] for key in await doors.root.all(filter="name = ci")] == [again["id"]]
    assert (await doors.check(again["token"])).reason is Reason.ALLOWED
    assert await doors.root.ok("CreateKey", **asked) == again
    events = await doors.root.all("ListEvents", filter=f"action = create AND key_id = {again['id']}")
    assert len(events) == 1


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_rotation_whose_answer_was_lost_is_not_done_twice(doors: Doors, kind: str) -> None:
    made = await created(doors, kind=kind)
    Calls(doors.store).lose_reply("change")
    asked = {"id": made["id"], "grace": "1h", "request_id": "once"}

    assert (await doors.root.call("RotateKey", **asked)).status == 503
    again = await doors.root.ok("RotateKey", **asked)

    shown = await doors.root.ok("GetKey", id=made["id"])
    assert [one["number"] for one in shown["rotations"]] == [0, 1]
    for token in (made["token"], again["token"]):
        assert (await doors.check(token)).reason is Reason.ALLOWED


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_rotations_with_one_request_id_at_once_give_one_token_that_works(doors: Doors, kind: str) -> None:
    for number in range(5):
        made = await created(doors, kind=kind)
        asked = {"id": made["id"], "request_id": f"r{number}"}

        answers = await asyncio.gather(*(doors.root.ok("RotateKey", **asked) for _ in range(3)))

        (token,) = {answer["token"] for answer in answers}
        assert (await doors.check(token)).reason is Reason.ALLOWED
        assert (await doors.root.ok("GetKey", id=made["id"]))["rotations"][-1]["number"] == 1


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_rotation_of_somebody_elses_is_not_taken_for_ours(doors: Doors, kind: str) -> None:
    """Ours was to end the old token; theirs lets it live. Neither is it done again once it was refused."""
    made = await created(doors, kind=kind)
    calls = Calls(doors.store)
    calls.lose("change")
    mine = {"id": made["id"], "grace": "0s", "request_id": "mine"}
    assert (await doors.root.call("RotateKey", **mine)).status == 503
    theirs = await doors.root.ok("RotateKey", id=made["id"], grace="24h")

    for _ in range(2):
        assert (await doors.root.refused(409, "RotateKey", **mine)).reason == "conflict"
    assert (await doors.check(theirs["token"])).reason is Reason.ALLOWED


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
@pytest.mark.parametrize("since", ["RotateKey", "RevokeKey"])
async def test_a_key_that_changed_before_its_creator_asked_again(doors: Doors, kind: str, since: str) -> None:
    """Who made it is given neither a dead token nor one that they were to be cut off from."""
    Calls(doors.store).lose_reply("issue")
    asked = {"name": "ci", "kind": kind, "scopes": ["read-only"], "request_id": "once"}
    assert (await doors.root.call("CreateKey", **asked)).status == 503
    (key,) = await doors.root.all(filter="name = ci")
    await doors.root.ok(since, id=key["id"])

    assert (await doors.root.refused(409, "CreateKey", **asked)).reason == "conflict"


async def test_an_expired_key_that_was_read_can_be_sent_back(valkey_url: str) -> None:
    async with opened(valkey_url, "rest") as doors:
        made = await created(doors, expires_in="1s")
        await asyncio.sleep(1.1)
        read = await doors.root.ok("GetKey", id=made["id"])
        assert read["state"] == "expired"

        after = await doors.root.ok("UpdateKey", key={**read, "name": "another"})

        assert (after["name"], after["expires_at"]) == ("another", read["expires_at"])


async def test_a_key_that_was_rotated_by_others_meanwhile(doors: Doors) -> None:
    """Nobody is given a token that is another's, and none is made that nobody asked for."""
    made = await created(doors, kind="opaque")
    Calls(doors.store).lose_reply("reserve")  # nothing is rotated yet
    asked = {"id": made["id"], "request_id": "mine"}
    assert (await doors.root.call("RotateKey", **asked)).status == 503
    await doors.root.ok("RotateKey", id=made["id"])

    assert (await doors.root.refused(409, "RotateKey", **asked)).reason == "conflict"


async def test_a_caller_who_hung_up_asks_again_and_no_second_key_is_made(valkey_url: str) -> None:
    """What `request_id` is for: the answer was lost on the way, the key was not."""
    async with opened(valkey_url, "grpc") as doors:
        assert isinstance(doors.client, GrpcClient)
        await created(doors)  # the script is known to the store by now
        gate = Gate(doors.store._commands)
        doors.store._commands = gate
        lost = asyncio.create_task(doors.client.call("CreateKey", CI, doors.root.credential))
        await asyncio.wait_for(gate.reached.wait(), 5)
        lost.cancel()
        with pytest.raises((asyncio.CancelledError, aio.AioRpcError)):
            await lost
        await asyncio.sleep(0.1)  # the door has heard of it
        gate.open.set()

        async with asyncio.timeout(2):
            while (answer := await doors.root.call("CreateKey", **CI)).status == 409:  # noqa: ASYNC110 - under way
                await asyncio.sleep(0.05)

        assert answer.status == 200
        assert [key["id"] for key in await doors.root.all(filter="name = ci")] == [answer.json["id"]]
