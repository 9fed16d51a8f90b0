"""The portals at their real door, on a real store: what each answers to the letter, to whom, and about which keys."""

import re
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import httpx
import pytest

from authz.adapters.http.openapi import document
from authz.adapters.http.rest import bindings
from authz.adapters.logs.observer import LogObserver
from authz.adapters.portal import inferexai, inferno, vinfer
from authz.admin.actor import COMMAND_LINE, Actor, ForbiddenError
from authz.admin.keys import Everything, IssuedKey, KeyAdmin, KeyChanges, NewKey, NoSuchKeyError
from authz.app import Observers, key_admin, portals
from authz.core.bucket import Limit
from authz.core.listing import Filter
from authz.core.units import rfc3339
from tests.support.admin import PASSWORD, Doors, configured, opened, over_http, stored
from tests.support.listening import listening
from tests.support.parts import CLOCK


NAMES: Final = ("inferexai", "inferno", "vinfer")
ENVOY: Final = Path(__file__).parents[2] / "deploy" / "envoy" / "profiles"
NOT_OURS: Final = 4294967295
PERMISSIONS: Final = ("read_models", "run_inference", "manage_users", "use_streaming")
SCOPES: Final = {
    "admin": ["read-write"],
    "read-write": ["read-only"],
    **{name: [] for name in PERMISSIONS},
}
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
_PREFIX: Final = re.compile(r'"sk-live-[0-9a-f]{8}"')
_TOKEN: Final = re.compile(r'"(sk-live-)?eyJ[\w-]+\.[\w-]+\.[\w-]+"|"sk-live-[0-9A-Za-z]{49}"')
_ID: Final = re.compile(r'"key_[0-9a-z]{20}"')
_NUMBER: Final = re.compile(r'"id":[0-9]{1,10}\b')


@dataclass(frozen=True)
class Place:
    """Every portal, beside KeyService."""

    doors: Doors
    keys: KeyAdmin
    http: httpx.AsyncClient

    async def ask(self, verb: str, path: str, credential: str | None = None, **more: Any) -> httpx.Response:
        held = {} if credential is None else {"authorization": f"Bearer {credential}"}
        return await self.http.request(verb, path, headers={**held, **more.pop("headers", {})}, **more)

    async def ok(self, verb: str, path: str, credential: str, **more: Any) -> Any:
        response = await self.ask(verb, path, credential, **more)
        assert response.status_code == 200, response.text
        return response.json()

    async def user(self, name: str, *scopes: str, workspace: str = "") -> str:
        """A session of a new one."""
        await self.doors.user(name, *scopes, workspace=workspace)
        return str((await self.doors.log_in(name)).credential)

    async def key(self, *scopes: str, **more: Any) -> str:
        return (await self.made(*scopes, **more)).token

    async def made(self, *scopes: str, name: str = "test", **more: Any) -> IssuedKey:
        """Straight in the store, with the scopes of this configuration."""
        return await self.keys.create(NewKey(name, scopes=scopes, **more), COMMAND_LINE)

    async def refused(self, status: int, verb: str, path: str, credential: str | None = None, **more: Any) -> Any:
        response = await self.ask(verb, path, credential, **more)
        assert response.status_code == status, response.text
        return response.json()


def masked(text: str) -> str:
    for pattern, mask in ((_TIME, "TIME"), (_PREFIX, '"PREFIX"'), (_TOKEN, '"TOKEN"'), (_ID, '"ID"')):
        text = pattern.sub(mask, text)
    return _NUMBER.sub('"id":NUMBER', text)


@pytest.fixture
async def place(valkey_url: str) -> AsyncIterator[Place]:
    async with at(valkey_url) as made:
        yield made


class at:  # noqa: N801 - reads as a place
    def __init__(self, url: str, **settings: Any) -> None:
        keys = {"retain_token": True, **settings.pop("keys", {})}
        login = {"limits": {"per_user": None, "per_address": None}}
        merged = {"portals": NAMES, "scopes": SCOPES, "login": login, **settings}
        self._url, self._configuration = url, configured(keys=keys, **merged)
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Place:
        doors = await self._stack.enter_async_context(opened(self._url, "rest", self._configuration))
        observers = Observers((doors.prometheus, LogObserver()))
        offered = portals(self._configuration, doors.made, CLOCK, observers)
        http = await self._stack.enter_async_context(over_http([doors.service, *offered], self._configuration))
        return Place(doors, key_admin(self._configuration, doors.store, observers), http)

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


# --- inferexai


async def test_inferexai_to_the_letter(place: Place) -> None:
    session = await place.user("ada", "read-write", workspace="acme")

    made = await place.ask("POST", "/portal/keys", session, json={"name": "my-app-key"})

    assert made.status_code == 200
    assert made.headers["content-type"] == "application/json"
    assert (
        masked(made.text) == '{"id":NUMBER,"name":"my-app-key","token":"TOKEN","prefix":"PREFIX","created_at":"TIME"}'
    )
    told = made.json()
    assert isinstance(told["id"], int)
    assert told["prefix"] == f"sk-live-{told['id']:08x}"
    one = await place.ask("GET", f"/portal/keys/{told['id']}", session)
    assert one.text == made.text
    listed = await place.ask("GET", "/portal/keys", session)
    assert listed.text == f'{{"keys":[{made.text}],"next_page_token":""}}'
    gone = await place.ask("DELETE", f"/portal/keys/{told['id']}", session)
    assert (gone.status_code, gone.content) == (204, b"")
    assert "content-type" not in gone.headers
    assert gone.headers["cache-control"] == "no-store"


async def test_a_key_of_inferexai_is_the_users(place: Place) -> None:
    """It works, speaks for the user with the user's scopes, is shown again, and ends at once."""
    session = await place.user("ada", "read-write", workspace="acme")
    made = await place.ok("POST", "/portal/keys", session, json={"name": "mine"})

    record = await place.doors.other.show(made["prefix"])
    assert (record.subject, record.workspace, record.scopes) == ("ada", "acme", ("read-write",))
    assert made["created_at"] == rfc3339(record.created_at_us)
    again = await place.ok("GET", f"/portal/keys/{made['id']}", session)
    assert await place.doors.reason(again["token"], "POST") == "allowed"
    for _ in range(2):  # a second time changes nothing
        assert (await place.ask("DELETE", f"/portal/keys/{made['id']}", session)).status_code == 204
    assert await place.doors.reason(again["token"]) == "revoked"
    await place.refused(404, "GET", f"/portal/keys/{made['id']}", session)
    assert (await place.ok("GET", "/portal/keys", session))["keys"] == []


async def test_inferexai_wants_a_session(place: Place) -> None:
    """An API key is none, whatever it may; nor is a header that a proxy could have set."""
    admin = await place.key("admin", subject="ada")
    for verb, path, body in (("POST", "/portal/keys", {"name": "x"}), ("GET", "/portal/keys", None)):
        told = await place.refused(401, verb, path, admin, json=body)
        assert told["reason"] == "wrong_kind"
        assert told["detail"] == (
            "The token is of a kind that is not accepted here: send the session token of a user who has logged in."
        )
        nobody = await place.refused(401, verb, path, json=body)
        assert nobody["detail"] == "No session token was sent: send it as 'Authorization: Bearer TOKEN'."
        neither = await place.ask(verb, path, "neither", json=body)
        assert (neither.status_code, neither.json()["reason"]) == (401, "malformed_credential")
        assert "send the session token of a user who has logged in" in neither.headers["www-authenticate"]
        assert "key" not in neither.json()["detail"]
        set_by_a_proxy = {"x-authz-subject": "ada", "x-authz-scopes": "admin", "x-authz-key-id": "usr_x"}
        assert (await place.refused(401, verb, path, headers=set_by_a_proxy, json=body))[
            "reason"
        ] == "missing_credential"
    session = await place.user("ada")
    assert (await place.refused(401, "GET", f"/portal/keys?api_key={session}"))["reason"] == "credential_in_url"
    await place.doors.users.set_password("ada", f"{PASSWORD} anew", COMMAND_LINE)
    told = await place.refused(401, "GET", "/portal/keys", session)
    assert told["detail"] == "The session has been revoked: the password was changed."
    removed = await place.user("eve")
    await place.doors.users.remove("eve", COMMAND_LINE)
    told = await place.refused(401, "GET", "/portal/keys", removed)
    assert (told["reason"], told["detail"]) == ("revoked", "The session has been revoked.")


@pytest.mark.parametrize("workspace", ["acme", ""], ids=["in a workspace", "in none"])
async def test_users_of_inferexai_see_their_own_keys_alone(place: Place, workspace: str) -> None:
    """Another user's are a 404, and so are those of somebody of the same name elsewhere."""
    session = await place.user("ada", "read-only", workspace=workspace)
    other = await place.user("eve", "admin", workspace=workspace)
    elsewhere = "umbrella" if workspace else "acme"
    theirs = [
        await place.ok("POST", "/portal/keys", other, json={"name": "eve's"}),
        *[
            {"id": int(made.record.prefix[-8:], 16), "token": made.token}
            for made in (
                await place.doors.key("read-only", subject="ada", workspace=elsewhere),
                await place.doors.key("read-only", workspace=workspace),
            )
        ],
    ]
    mine = await place.ok("POST", "/portal/keys", session, json={"name": "ada's"})
    handed = await place.doors.key("read-only", name="handed", subject="ada", workspace=workspace)

    listed = await place.ok("GET", "/portal/keys", session)

    assert [(key["name"], key["prefix"]) for key in listed["keys"]] == [
        ("handed", handed.record.prefix),
        ("ada's", mine["prefix"]),
    ]
    for key in theirs:
        unknown = await place.refused(404, "GET", f"/portal/keys/{NOT_OURS}", session)
        for verb in ("GET", "DELETE"):
            assert await place.refused(404, verb, f"/portal/keys/{key['id']}", session) == unknown
        assert await place.doors.reason(key["token"]) == "allowed"
    assert [key["name"] for key in (await place.ok("GET", "/portal/keys", other))["keys"]] == ["eve's"]


async def test_tokens_that_were_not_kept_or_are_too_strong_are_empty(place: Place) -> None:
    session = await place.user("ada", "read-only")
    key_made_before = await place.doors.key("read-only", subject="ada")
    stronger = (await place.doors.root.ok("CreateKey", name="strong", subject="ada", scopes=["admin"]))["prefix"]

    for prefix in (key_made_before.record.prefix, stronger):
        assert (await place.ok("GET", f"/portal/keys/{int(prefix[-8:], 16)}", session))["token"] == ""
    assert [key["token"] for key in (await place.ok("GET", "/portal/keys", session))["keys"]] == ["", ""]
    assert [event["action"] for event in await place.doors.root.all("ListEvents") if event["actor"] != "cli"] == [
        "create"
    ]


async def test_what_users_of_inferexai_do_is_written_down(place: Place) -> None:
    session = await place.user("ada")
    keys = [await place.ok("POST", "/portal/keys", session, json={"name": name}) for name in "ab"]
    await place.ok("GET", "/portal/keys", session)
    await place.ok("GET", f"/portal/keys/{keys[0]['id']}", session)
    await place.ask("DELETE", f"/portal/keys/{keys[0]['id']}", session, headers={"x-request-id": "r1"})

    events = [event for event in await place.doors.root.all("ListEvents") if event["actor"].startswith("usr_")]

    assert [event["action"] for event in events] == ["revoke", "show_token", "show_token", "create", "create"]
    assert events[0]["request_id"] == "r1"
    assert events[0]["after"] == {"reason": "deleted in the portal"}
    assert events[2]["after"] == {"keys": [keys[1]["prefix"], keys[0]["prefix"]]}
    assert events[2]["key_id"] == ""


async def test_pages_of_inferexai(place: Place) -> None:
    session = await place.user("ada")
    for name in "abc":
        await place.ok("POST", "/portal/keys", session, json={"name": name})
    first = await place.ok("GET", "/portal/keys?page_size=2", session)
    rest = await place.ok("GET", f"/portal/keys?page_size=2&page_token={first['next_page_token']}", session)
    assert [[key["name"] for key in page["keys"]] for page in (first, rest)] == [["c", "b"], ["a"]]
    assert rest["next_page_token"] == ""
    assert (await place.refused(400, "GET", "/portal/keys?page_size=-1", session))["error"]["param"] == "page_size"
    assert (await place.refused(400, "GET", "/portal/keys?page_token=x", session))["error"]["param"] == "page_token"


async def test_wrong_requests_to_inferexai(place: Place) -> None:
    session = await place.user("ada")
    for body in ({}, {"name": ""}, {"name": "x", "scopes": ["admin"]}, {"name": "x", "subject": "eve"}, {"name": 5}):
        assert (await place.refused(400, "POST", "/portal/keys", session, json=body))["reason"] == "bad_request"
    for number in ("x", "-1", "4294967296", "1e3", "sk-live-00000001"):
        assert (await place.refused(400, "GET", f"/portal/keys/{number}", session))["error"]["param"] == "id"
    assert (await place.refused(404, "GET", f"/portal/keys/{NOT_OURS}", session))["reason"] == "not_found"
    wrong = await place.ask("PUT", "/portal/keys", session)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD, POST")
    wrong = await place.ask("PATCH", "/portal/keys/1", session)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "DELETE, GET, HEAD")
    assert (await place.refused(404, "GET", "/portal/nothing", session))["reason"] == "not_found"
    assert (await place.ask("DELETE", "/portal/keys/1", session, content=b"{}")).status_code == 400


async def test_a_portal_has_a_limit_of_its_own(valkey_url: str) -> None:
    async with at(valkey_url, limits={"default": {"requests": "2/1h"}}) as place:
        session = await place.user("ada", "admin")
        codes = [(await place.ask("GET", "/portal/keys", session)).status_code for _ in range(3)]
        assert codes == [200, 200, 429]
        assert (await place.ask("GET", "/authz/v1/keys", session)).status_code == 200


async def shown(place: Place, status: int, verb: str, path: str, credential: str, **more: Any) -> tuple[str, str]:
    """Of an answer of this status: how large the limit is, and what is left."""
    answer = await place.ask(verb, path, credential, **more)
    assert answer.status_code == status, answer.text
    assert abs(int(answer.headers["x-ratelimit-reset"]) - CLOCK.now_s()) < 7200
    return answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]


async def test_answers_of_the_portals_show_what_is_left(valkey_url: str) -> None:
    """Whatever becomes of the call, each portal its own; who is let in nowhere is shown nothing."""
    async with at(valkey_url, limits={"default": {"requests": "10/1h"}}) as place:
        session = await place.user("ada")
        made = await place.ask("POST", "/portal/keys", session, json={"name": "x"})
        assert (made.headers["x-ratelimit-limit"], made.headers["x-ratelimit-remaining"]) == ("10", "9")
        path = f"/portal/keys/{made.json()['id']}"
        assert await shown(place, 200, "GET", path, session) == ("10", "8")
        assert await shown(place, 204, "DELETE", path, session) == ("10", "7")
        assert await shown(place, 404, "GET", path, session) == ("10", "6")
        assert await shown(place, 400, "POST", "/portal/keys", session, json={"x": 1}) == ("10", "5")

        key = await place.made("manage_users", "admin", limits={"requests": Limit(5, 3600)})
        body = {"name": "x", "permissions": ["run_inference"]}
        assert await shown(place, 403, "POST", "/api/v1/auth/api-keys", key.token, json=body) == ("5", "4")
        assert await shown(place, 200, "GET", "/v1/api-keys", key.token) == ("5", "4")
        assert await shown(place, 200, "GET", "/authz/v1/keys", key.token) == ("5", "4")
        for refused in (await place.ask("GET", "/v1/api-keys"), await place.ask("GET", "/v1/api-keys", session)):
            assert "x-ratelimit-limit" not in refused.headers


async def test_what_is_left_is_shown_as_configured(valkey_url: str) -> None:
    styles = {"ratelimit_headers": ["openai", "ietf"], "format": "problem"}
    async with at(valkey_url, responses=styles, limits={"default": {"requests": "10/1h"}}) as place:
        answer = await place.ask("GET", "/v1/api-keys", await place.key("admin"))
    assert answer.headers["x-ratelimit-remaining-requests"] == "9"
    assert answer.headers["ratelimit-policy"] == '"portal-vinfer";q=10;w=3600'
    assert "x-ratelimit-limit" not in answer.headers


@pytest.mark.parametrize("path", ["/api/v1/auth/login", "/authz/v1/login"])
async def test_a_login_shows_the_tries_that_are_left(valkey_url: str, path: str) -> None:
    """Of the tighter of its two limits, once."""
    body = {"username": "ada", "password": PASSWORD}
    limits = {"per_user": "3/1h", "per_address": "20/1h"}
    styles = {"ratelimit_headers": ["x-ratelimit", "ietf"], "format": "problem"}
    async with at(valkey_url, login={"limits": limits}, responses=styles) as place:
        await place.doors.user("ada")
        answer = await place.ask("POST", path, json=body)
        assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("3", "2")
        assert answer.headers["ratelimit"].startswith('"login";r=2;')
        wrong = await place.ask("POST", path, json={**body, "password": "a guess"})
        assert (wrong.status_code, "x-ratelimit-limit" in wrong.headers) == (401, False)
    async with at(valkey_url) as place:
        assert "x-ratelimit-limit" not in (await place.ask("POST", path, json=body)).headers


# --- an actor who is bound to a subject, at the use cases themselves


async def test_an_actor_bound_to_a_subject(place: Place) -> None:
    keys = place.doors.other.admin
    ada = Actor("usr_x", "acme", ("read-only",), subject="ada")
    mine = (await keys.create(NewKey("mine", scopes=("read-only",)), ada)).record
    eves = (await place.doors.key("read-only", subject="eve", workspace="acme")).record

    assert (mine.subject, mine.workspace) == ("ada", "acme")
    assert (await keys.create(NewKey("mine", subject="ada", workspace="acme"), ada)).record.subject == "ada"
    assert await keys.show(mine.id, ada) == mine
    for other in (NewKey("x", subject="eve"), NewKey("x", workspace="umbrella"), NewKey("x", scopes=("admin",))):
        with pytest.raises(ForbiddenError):
            await keys.create(other, ada)
    for refused in (
        keys.show(eves.id, ada),
        keys.show_token(eves.prefix, ada),
        keys.update(eves.id, KeyChanges({"name": "x"}), ada),
        keys.rotate(eves.id, 0, ada),
        keys.revoke(eves.id, "", ada),
    ):
        with pytest.raises(NoSuchKeyError):
            await refused
    assert {one.subject for one in (await keys.page(Filter({}), 10, "", ada)).records} == {"ada"}
    for wanted in ({"subject": "eve"}, {"workspace": "umbrella"}, {"workspace": ""}):
        with pytest.raises(ForbiddenError):
            await keys.page(Filter(wanted), 10, "", ada)
    with pytest.raises(ForbiddenError):
        await keys.revoke_all(Everything(subject="ada"), ada)
    with pytest.raises(ForbiddenError):
        await keys.events(Filter({}), 10, "", ada)
    assert [one.token for one in await keys.show_tokens([eves], ada)] == [""]


async def test_a_subject_without_a_workspace_is_bound_to_none(place: Place) -> None:
    """And not to every one, as those are who have no subject to be bound to."""
    keys = place.doors.other.admin
    ada = Actor("usr_x", subject="ada")
    there = (await place.doors.key(subject="ada", workspace="acme")).record
    here = (await keys.create(NewKey("here"), ada)).record

    with pytest.raises(NoSuchKeyError):
        await keys.show(there.id, ada)
    with pytest.raises(ForbiddenError):
        await keys.create(NewKey("x", workspace="acme"), ada)
    assert [one.id for one in (await keys.page(Filter({}), 10, "", ada)).records] == [here.id]


# --- inferno


async def test_inferno_to_the_letter(place: Place) -> None:
    await place.doors.user("admin", *PERMISSIONS)

    login = await place.ask("POST", "/api/v1/auth/login", json={"username": "admin", "password": PASSWORD})

    assert (login.status_code, masked(login.text)) == (200, '{"token":"TOKEN","expires_at":"TIME"}')
    body = {"name": "production-key", "permissions": ["read_models", "run_inference"], "expires_in_days": 90}
    made = await place.ask("POST", "/api/v1/auth/api-keys", login.json()["token"], json=body)
    assert made.status_code == 200
    assert masked(made.text) == (
        '{"id":"ID","name":"production-key","key":"TOKEN","permissions":["read_models","run_inference"],'
        '"created_at":"TIME","expires_at":"TIME"}'
    )
    told = made.json()
    record = await place.doors.other.show(told["id"])
    assert record.expires_at_us is not None
    assert abs(record.expires_at_us - record.created_at_us - 90 * 86_400 * 10**6) < 10**6
    gone = await place.ask("DELETE", f"/api/v1/auth/api-keys/{told['id']}", login.json()["token"])
    assert (gone.status_code, gone.content) == (204, b"")
    assert await place.doors.reason(told["key"]) == "revoked"


async def test_a_key_may_manage_the_keys_of_inferno_in_either_header(place: Place) -> None:
    key = await place.key("manage_users", "read_models")
    body = {"name": "k", "permissions": ["read_models"]}

    made = await place.ok("POST", "/api/v1/auth/api-keys", key, json=body)
    assert made["expires_at"] is None
    other = await place.ask("POST", "/api/v1/auth/api-keys", headers={"x-api-key": key}, json=body)
    assert other.status_code == 200
    for _ in range(2):
        gone = await place.ask("DELETE", f"/api/v1/auth/api-keys/{made['id']}", headers={"x-api-key": key})
        assert gone.status_code == 204
    assert await place.doors.reason(made["key"]) == "revoked"


async def test_who_manages_the_keys_of_inferno(place: Place) -> None:
    body = {"name": "k", "permissions": ["read_models"]}
    path = "/api/v1/auth/api-keys"
    assert (await place.refused(401, "POST", path, json=body))["reason"] == "missing_credential"
    for credential in (
        await place.key("read_models"),
        await place.user("bob", "read_models"),
        await place.key("admin"),
    ):
        told = await place.refused(403, "POST", path, credential, json=body)
        assert told["reason"] == "insufficient_scope"
        assert "required: manage_users" in told["detail"]
        await place.refused(403, "DELETE", f"{path}/x", credential)
    session = await place.user("boss", "manage_users")
    told = await place.refused(403, "POST", path, session, json=body)
    assert told["detail"] == "The session lacks a scope: required: read_models; held: manage_users."


@pytest.mark.parametrize("caller", ["key", "user"])
async def test_nobody_deletes_a_key_of_inferno_that_holds_more(place: Place, caller: str) -> None:
    """The same refusal as for granting it, however often; admins revoke what they like, at authz's own doors too."""
    path = "/api/v1/auth/api-keys"
    held = ("manage_users", "read_models")
    mine = await (place.key(*held) if caller == "key" else place.user("boss", *held))
    admins, partly = await place.made("admin", *PERMISSIONS), await place.made("read_models", "run_inference")
    equal, less = await place.made(*held), await place.made("read_models")

    who = "API key" if caller == "key" else "session"
    for key in (admins, partly):
        for _ in range(2):
            told = await place.refused(403, "DELETE", f"{path}/{key.record.id}", mine)
            assert told["reason"] == "insufficient_scope"
            required = ", ".join(key.record.scopes)
            assert told["detail"] == f"The {who} lacks a scope: required: {required}; held: {', '.join(held)}."
        assert (await place.doors.other.show(key.record.id)).revoked_at_us is None
    for key in (equal, less):
        assert (await place.ask("DELETE", f"{path}/{key.record.id}", mine)).status_code == 204
        assert await place.doors.reason(key.token) == "revoked"
    assert (await place.ask("DELETE", f"{path}/{partly.record.id}", admins.token)).status_code == 204
    revoked = await place.ask("POST", f"/authz/v1/keys/{admins.record.id}:revoke", await place.key("admin"))
    assert revoked.status_code == 200


async def test_a_key_of_inferno_may_delete_itself(place: Place) -> None:
    mine = await place.made("manage_users")
    assert (await place.ask("DELETE", f"/api/v1/auth/api-keys/{mine.record.id}", mine.token)).status_code == 204
    assert await place.doors.reason(mine.token) == "revoked"


async def test_that_a_key_of_inferno_holds_more_is_told_in_the_format_of_the_profile(valkey_url: str) -> None:
    async with at(valkey_url, responses={"format": "inferno"}) as place:
        admins = await place.made("run_inference")
        told = await place.ask("DELETE", f"/api/v1/auth/api-keys/{admins.record.id}", await place.key("manage_users"))
    assert told.status_code == 403
    words = "The API key lacks a scope: required: run_inference; held: manage_users."
    assert told.headers["www-authenticate"] == (
        f'Bearer error="insufficient_scope", error_description="{words}", scope="run_inference"'
    )
    assert told.json() == {"error": {"code": "PERMISSION_DENIED", "message": words, "details": None}}


async def test_that_a_key_of_vinfer_holds_less_is_told_as_at_the_check(valkey_url: str) -> None:
    """With the documented members of a 403."""
    async with at(valkey_url, responses={"format": "vinfer"}, scopes={**SCOPES, "other": []}) as place:
        admin = await place.key("admin")
        told = await place.ask("POST", "/v1/api-keys", admin, json={"name": "x", "scope": "other"})
    assert told.status_code == 403
    assert told.json()["error"]["details"] == {"required_scope": "other", "current_scope": "admin"}
    assert told.headers["www-authenticate"].endswith(', scope="other"')


@pytest.mark.parametrize(
    ("change", "at_fault"),
    [
        ({"permissions": ["read_modles"]}, "permissions"),
        ({"permissions": []}, "permissions"),
        ({"permissions": None}, "permissions"),
        ({"permissions": "read_models"}, "permissions"),
        ({"name": ""}, "name"),
        ({"expires_in_days": 0}, "expires_in_days"),
        ({"expires_in_days": -1}, "expires_in_days"),
        ({"expires_in_days": 1.5}, "expires_in_days"),
        ({"expires_in_days": "90"}, "expires_in_days"),
        ({"expires_in_days": 36501}, "expires_in_days"),
        ({"expires_in_days": 2**31}, "expires_in_days"),
        ({"scopes": ["read_models"]}, "scopes"),
    ],
)
async def test_wrong_requests_to_inferno(place: Place, change: dict[str, Any], at_fault: str) -> None:
    key = await place.key("manage_users", "read_models")
    body = {"name": "k", "permissions": ["read_models"], "expires_in_days": 1, **change}
    told = await place.refused(400, "POST", "/api/v1/auth/api-keys", key, json=body)
    assert (told["reason"], told["error"]["param"]) == ("bad_request", at_fault)


async def test_keys_of_inferno_are_of_a_workspace(place: Place) -> None:
    """Another's are a 404; a token's id that no key has is one too, even where tokens need no record."""
    there = await place.made("read_models", workspace="umbrella")
    key = await place.key("manage_users", "read_models", workspace="acme")
    made = await place.ok("POST", "/api/v1/auth/api-keys", key, json={"name": "k", "permissions": ["read_models"]})
    assert (await place.doors.other.show(made["id"])).workspace == "acme"
    unknown = await place.refused(404, "DELETE", "/api/v1/auth/api-keys/nobody", key)
    assert await place.refused(404, "DELETE", f"/api/v1/auth/api-keys/{there.record.id}", key) == unknown
    assert await place.doors.reason(there.token) == "insufficient_scope"


async def test_a_foreign_token_is_not_revoked_by_a_portal(valkey_url: str) -> None:
    async with at(valkey_url, keys={"require_record": False}) as place:
        key = await place.key("manage_users")
        await place.refused(404, "DELETE", "/api/v1/auth/api-keys/somebody-elses-jti", key)


async def test_logging_in_to_inferno_has_its_limits(valkey_url: str) -> None:
    """The same as at KeyService's own login: tries at both doors are counted together."""
    async with at(valkey_url, login={"limits": {"per_user": "2/1h", "per_address": None}}) as place:
        await place.doors.user("ada")
        wrong = await place.ask("POST", "/api/v1/auth/login", json={"username": "ada", "password": "a guess"})
        assert (wrong.status_code, wrong.json()["reason"]) == (401, "invalid_credentials")
        assert wrong.headers["www-authenticate"] == "Bearer"
        assert (
            await place.ask("POST", "/authz/v1/login", json={"username": "ada", "password": "x"})
        ).status_code == 401
        limited = await place.ask("POST", "/api/v1/auth/login", json={"username": "ada", "password": PASSWORD})
        assert (limited.status_code, limited.json()["reason"]) == (429, "rate_limited")
        assert int(limited.headers["retry-after"]) > 0
        for body, at_fault in (({"password": "x"}, "username"), ({"username": "x"}, "password")):
            told = await place.refused(400, "POST", "/api/v1/auth/login", json=body)
            assert told["error"]["param"] == at_fault


# --- vinfer


async def test_vinfer_to_the_letter(valkey_url: str) -> None:
    async with at(valkey_url, keys={"kind": "opaque"}) as place:
        admin = await place.key("admin", name="root of acme", workspace="acme")

        made = await place.ask("POST", "/v1/api-keys", admin, json={"name": "production-backend", "scope": "read-only"})

        assert made.status_code == 200
        assert masked(made.text) == (
            '{"id":"ID","name":"production-backend","key":"TOKEN","scope":"read-only","created_at":"TIME"}'
        )
        told = made.json()
        listed = await place.ask("GET", "/v1/api-keys", admin)
        assert masked(listed.text) == (
            '{"api_keys":[{"id":"ID","name":"production-backend","prefix":"PREFIX","scope":"read-only",'
            '"created_at":"TIME","last_used_at":null},{"id":"ID","name":"root of acme","prefix":"PREFIX",'
            '"scope":"admin","created_at":"TIME","last_used_at":"TIME"}],"next_page_token":""}'
        )
        assert await place.doors.reason(told["key"]) == "allowed"
        used = (await place.ok("GET", "/v1/api-keys", admin))["api_keys"][0]
        assert _TIME.fullmatch(used["last_used_at"])
        gone = await place.ask("DELETE", f"/v1/api-keys/{told['id']}", admin)
        assert (gone.status_code, gone.content) == (204, b"")
        assert await place.doors.reason(told["key"]) == "revoked"
        assert [key["name"] for key in (await place.ok("GET", "/v1/api-keys", admin))["api_keys"]] == ["root of acme"]


async def test_who_manages_the_keys_of_vinfer(place: Place) -> None:
    """Keys with the scope admin; there are no sessions."""
    for scope in ("read-only", "read-write"):
        told = await place.refused(403, "GET", "/v1/api-keys", await place.key(scope))
        assert told["reason"] == "insufficient_scope"
    assert (await place.refused(401, "GET", "/v1/api-keys"))["reason"] == "missing_credential"
    session = await place.user("ada", "admin")
    assert (await place.refused(401, "GET", "/v1/api-keys", session))["reason"] == "wrong_kind"
    admin = await place.key("admin")
    assert (await place.refused(401, "GET", f"/v1/api-keys?api_key={admin}"))["reason"] == "credential_in_url"
    for body, at_fault in (
        ({"name": "x"}, "scope"),
        ({"name": "x", "scope": "reed-only"}, "scope"),
        ({"name": "x", "scope": ["read-only"]}, "scope"),
        ({"scope": "read-only"}, "name"),
        ({"name": "x", "scope": "read-only", "workspace": "acme"}, "workspace"),
    ):
        told = await place.refused(400, "POST", "/v1/api-keys", admin, json=body)
        assert (told["reason"], told["error"]["param"]) == ("bad_request", at_fault)


async def test_keys_of_vinfer_are_of_a_workspace(place: Place) -> None:
    there = await place.doors.key("read-only", workspace="umbrella")
    admin = await place.key("admin", name="admin", workspace="acme")
    made = await place.ok("POST", "/v1/api-keys", admin, json={"name": "k", "scope": "read-write"})
    assert (await place.doors.other.show(made["id"])).workspace == "acme"
    assert [key["name"] for key in (await place.ok("GET", "/v1/api-keys", admin))["api_keys"]] == ["k", "admin"]
    unknown = await place.refused(404, "DELETE", "/v1/api-keys/key_0123456700abcdefghij", admin)
    assert await place.refused(404, "DELETE", f"/v1/api-keys/{there.record.id}", admin) == unknown
    assert await place.doors.reason(there.token) == "allowed"


# --- all of them


async def test_a_portal_that_is_not_named_is_not_there(valkey_url: str) -> None:
    async with at(valkey_url, portals=["vinfer"]) as place:
        for path in ("/portal/keys", "/api/v1/auth/login"):
            assert (await place.refused(404, "POST", path, json={}))["reason"] == "not_found"
        assert (await place.ask("GET", "/v1/api-keys")).status_code == 401


@pytest.mark.parametrize(
    ("style", "error"),
    [
        (
            "inferno",
            '"code":"VALIDATION_ERROR","message":"permissions: is required.","details":{"field":"permissions"}',
        ),
        ("vinfer", '"code":"bad_request","message":"permissions: is required.","details":{"field":"permissions"}'),
    ],
)
async def test_refusals_have_the_configured_format(valkey_url: str, style: str, error: str) -> None:
    async with at(valkey_url, responses={"format": style}) as place:
        key = await place.key("manage_users")
        response = await place.ask("POST", "/api/v1/auth/api-keys", key, json={"name": "x"})
        assert (response.status_code, response.text) == (400, f'{{"error":{{{error}}}}}')


async def test_an_emptied_store_is_a_fault(place: Place) -> None:
    session, key = await place.user("ada"), await place.key("admin", "manage_users")
    await place.doors.store.call("flush", "FLUSHALL")
    for verb, path, credential in (
        ("GET", "/portal/keys", session),
        ("GET", "/v1/api-keys", key),
        ("DELETE", "/api/v1/auth/api-keys/x", key),
    ):
        response = await place.ask(verb, path, credential)
        assert response.status_code == 503, path
        assert int(response.headers["retry-after"]) > 0


async def test_no_log_and_no_store_has_a_secret(place: Place, valkey_url: str) -> None:
    """Tokens, also where they were pasted into the wrong place, and passwords."""
    with listening() as logged:
        session = await place.user("ada", "admin", *PERMISSIONS)
        login = (await place.ask("POST", "/api/v1/auth/login", json={"username": "ada", "password": PASSWORD})).json()
        mine = await place.ok("POST", "/portal/keys", session, json={"name": "x"})
        made = await place.ok(
            "POST", "/api/v1/auth/api-keys", login["token"], json={"name": "x", "permissions": ["admin"]}
        )
        scoped = await place.ok("POST", "/v1/api-keys", made["key"], json={"name": "x", "scope": "read-only"})
        tokens = [session, login["token"], mine["token"], made["key"], scoped["key"]]
        await place.ok("GET", "/portal/keys", session)
        for token in tokens:
            answers = [
                await place.ask("GET", f"/portal/keys/{token}", session),
                await place.ask("DELETE", f"/v1/api-keys/{token}", made["key"]),
                await place.ask("POST", "/v1/api-keys", made["key"], json={"name": "x", "scope": token}),
                await place.ask("POST", "/v1/api-keys", made["key"], json={"name": "x", token: token}),
                await place.ask("POST", "/api/v1/auth/login", json={"username": token, "password": token}),
                await place.ask("GET", "/portal/keys", token[:-4]),
            ]
            assert all(answer.status_code >= 400 and token not in answer.text for answer in answers)
        told = logged()
    kept = b"\n".join(stored(valkey_url).values())
    for secret in (*tokens, PASSWORD):
        body = secret.removeprefix("sk-live-").rpartition(".")[2]
        assert body not in told
        assert body.encode() not in kept


@pytest.mark.parametrize("portal", [inferexai, inferno, vinfer])
def test_each_is_served_at_and_below_the_path_that_envoy_hands_over(portal: ModuleType) -> None:
    name = portal.__name__.rpartition(".")[2]
    for method in portal.DESCRIPTOR.methods:
        for each in bindings(method.GetOptions()):
            assert f"{each.template}/".startswith(f"{portal.PATH}/")
    envoy = (ENVOY / f"{name}.yaml").read_text()
    assert f"path_separated_prefix: {portal.PATH}\n" in envoy


def test_the_description_covers_them() -> None:
    names = ["authz.admin.v1.KeyService", *(f"authz.portal.v1.{name.title()}Portal" for name in NAMES)]
    binpb = resources.files("authz.pb").joinpath("descriptors.binpb").read_bytes()
    made = document(binpb, names, title="authz", version="1", public=frozenset({"Login"}))
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(made, cls=validator.OpenAPIV31SpecValidator)
    ids = [each["operationId"] for item in made["paths"].values() for each in item.values()]
    assert len(ids) == len(set(ids))
    assert {"CreateKey", "InferexaiPortal_CreateKey", "VinferPortal_ListApiKeys"} - {*ids} <= {
        "VinferPortal_ListApiKeys"
    }
    deleted = made["paths"]["/portal/keys/{id}"]["delete"]["responses"]
    assert deleted["204"] == {"description": "Done."}
    assert "200" not in deleted
    assert made["paths"]["/api/v1/auth/login"]["post"]["security"] == []
    shown = made["components"]["schemas"]["InferexaiKey"]["properties"]
    assert [*shown] == ["id", "name", "token", "prefix", "created_at"]
    assert shown["id"]["type"] == "integer"
