"""KeyService at both its real doors, on real stores: what each method answers, who may call, how a call is refused."""

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

import grpc
import httpx
import pytest
from grpc import aio

from authz.adapters.admin.service import DESCRIPTOR
from authz.adapters.http.rest import MAX_BODY_BYTES
from authz.admin.actor import COMMAND_LINE
from authz.core.bucket import Limit
from authz.core.decision import Allow
from authz.core.keyformat import OPAQUE_CHARS
from authz.ports import NewToken
from tests.support import stores
from tests.support.admin import DOORS, METHODS, NO_SUCH_KEY, PASSWORD, Doors, configured, opened
from tests.support.tokens import ATTACKER, forge


ISSUED: Final = [
    "id", "name", "token", "prefix", "kind", "subject", "workspace", "scopes", "limits", "created_at", "expires_at",
]  # fmt: skip
KEY: Final = [
    "id", "name", "prefix", "kind", "subject", "workspace", "scopes", "limits", "created_at", "expires_at", "state",
    "last_used_at", "revoked_at", "revoked_reason", "rotations", "etag", "warnings",
]  # fmt: skip
EVENT: Final = ["id", "at", "actor", "action", "key_id", "workspace", "before", "after", "request_id"]
TIME: Final = re.compile(r"20[0-9]{2}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z")
ID: Final = re.compile(r"key_[0-9a-f]{10}[0-9a-z]{10}")

# A call of each method that would do something if the caller might.
CALLS: Final[dict[str, dict[str, Any]]] = {
    "CreateKey": {"name": "made by a stranger"},
    "ListKeys": {},
    "GetKey": {"id": NO_SUCH_KEY},
    "UpdateKey": {"key": {"id": NO_SUCH_KEY, "name": "another"}},
    "RotateKey": {"id": NO_SUCH_KEY},
    "RevokeKey": {"id": NO_SUCH_KEY},
    "RevokeAllKeys": {"subject": "ada"},
    "GetKeyUsage": {"id": NO_SUCH_KEY},
    "GetUsage": {},
    "ListEvents": {},
}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def doors(valkey_url: str, door: str) -> AsyncIterator[Doors]:
    async with opened(valkey_url, door) as made:
        yield made


# --- what each method answers


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_the_life_of_a_key(store_url: str, door: str, kind: str) -> None:
    """Every method that manages keys, on every kind of store, and what it makes works at the check."""
    async with opened(store_url, door) as doors:
        root = doors.root
        made = await root.ok(
            "CreateKey",
            name="Backend ü",
            subject="ada",
            workspace="acme",
            scopes=["read-write"],
            limits={"tokens": "100000/1d", "requests": "60/90s"},
            kind=kind,
            expires_in="90d",
        )
        key = made["id"]
        _check_issued(made, kind, doors.configuration.settings.keys.prefix)
        assert made["limits"] == {"requests": "60/90s", "tokens": "100000/1d"}
        assert (made["name"], made["subject"], made["workspace"], made["scopes"]) == (
            "Backend ü",
            "ada",
            "acme",
            ["read-write"],
        )
        decision = await doors.check(made["token"], "POST")
        assert isinstance(decision, Allow)
        assert decision.principal is not None
        assert (decision.principal.key_id, decision.principal.workspace) == (key, "acme")

        read = await root.ok("GetKey", id=key)
        _check_key(read)
        assert read == await root.ok("GetKey", id=made["prefix"])
        assert {name: read[name] for name in ISSUED if name != "token"} == {
            name: value for name, value in made.items() if name != "token"
        }
        assert (read["state"], read["revoked_at"], read["revoked_reason"]) == ("active", None, "")
        assert TIME.fullmatch(read["last_used_at"])
        assert read["rotations"] == [{"number": 0, "issued_at": made["created_at"], "ends_at": None}]

        changed = await root.ok("UpdateKey", key={"id": key, "scopes": ["read-only"]})
        _check_key(changed)
        assert changed["scopes"] == ["read-only"]
        assert changed["etag"] != read["etag"]
        assert await doors.reason(made["token"], "POST") == "insufficient_scope"

        rotated = await root.ok("RotateKey", id=key)
        _check_issued(rotated, kind, doors.configuration.settings.keys.prefix)
        assert {**rotated, "token": ""} == {**made, "scopes": ["read-only"], "token": ""}
        assert rotated["token"] != made["token"]
        assert [await doors.reason(each["token"]) for each in (made, rotated)] == ["revoked", "allowed"]

        [listed] = await root.all(filter='workspace = "acme"')
        assert listed == await root.ok("GetKey", id=key)

        revoked = await root.ok("RevokeKey", id=key, reason="lost a laptop")
        _check_key(revoked)
        assert (revoked["state"], revoked["revoked_reason"]) == ("revoked", "lost a laptop")
        assert TIME.fullmatch(revoked["revoked_at"])
        assert await doors.reason(rotated["token"]) == "revoked"

        events = await root.all("ListEvents", filter=f'key_id = "{key}"')
        assert [list(event) for event in events] == [EVENT] * 4
        assert [event["action"] for event in events] == ["revoke", "rotate", "update", "create"]
        assert {event["actor"] for event in events} == {doors.root_key.record.id}
        assert all(TIME.fullmatch(event["at"]) for event in events)


def _check_issued(made: dict[str, Any], kind: str, prefix: str) -> None:
    assert list(made) == ISSUED
    assert ID.fullmatch(made["id"])
    assert re.fullmatch(f"{prefix}[0-9a-f]{{8}}", made["prefix"])
    assert made["prefix"][-8:] == made["id"][4:12]
    token = made["token"].removeprefix(prefix)
    assert len(token) == OPAQUE_CHARS if kind == "opaque" else token.count(".") == 2
    assert made["kind"] == kind
    assert TIME.fullmatch(made["created_at"])
    assert TIME.fullmatch(made["expires_at"])


def _check_key(key: dict[str, Any]) -> None:
    assert list(key) == KEY
    assert key["warnings"] == []
    for rotation in key["rotations"]:
        assert list(rotation) == ["number", "issued_at", "ends_at"]
        assert TIME.fullmatch(rotation["issued_at"])


async def test_revoking_in_bulk_and_logging_in(store_url: str, door: str) -> None:
    async with opened(store_url, door) as doors:
        keys = [await doors.key("read-only", subject="ada", workspace=each) for each in ("acme", "umbrella", "")]
        await doors.user("ada", "admin")

        told = await doors.root.ok("RevokeAllKeys", subject="ada", reason="left")
        answer = await doors.caller(None).ok("Login", username="ada", password=PASSWORD)

        assert told == {"revoked": 3, "dry_run": False, "warnings": []}
        assert list(told) == ["revoked", "dry_run", "warnings"]
        assert [await doors.reason(key.token) for key in keys] == ["revoked"] * 3
        assert list(answer) == ["token", "expires_at"]
        assert TIME.fullmatch(answer["expires_at"])
        assert {key["subject"] for key in await doors.caller(answer["token"]).all(filter="state = revoked")} == {"ada"}


async def test_what_is_not_said_has_a_default(doors: Doors) -> None:
    made = await doors.root.ok("CreateKey", name="plain")

    assert list(made) == ISSUED
    assert (made["kind"], made["workspace"], made["scopes"], made["limits"]) == ("jwt", "", [], {})
    assert (made["subject"], made["expires_at"]) == (made["id"], None)
    assert await doors.reason(made["token"]) == "insufficient_scope"


async def test_the_configured_kind_is_made(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door, configured(keys={"kind": "opaque", "prefix": "vi-test-"})) as doors:
        made = await doors.caller(doors.root_key.token.removeprefix("sk-live-")).ok("CreateKey", name="plain")

        assert made["kind"] == "opaque"
        assert re.fullmatch("vi-test-[0-9A-Za-z]{49}", made["token"])
        assert made["prefix"].startswith("vi-test-")


async def test_what_cannot_be_made_is_refused_with_its_field(doors: Doors) -> None:
    table: dict[str, tuple[dict[str, Any], str]] = {
        "no name": ({}, "name"),
        "long name": ({"name": "x" * 257}, "name"),
        "line end in a name": ({"name": "a\nb"}, "name"),
        "NUL": ({"name": "a", "subject": "a\0"}, "subject"),
        "white space": ({"name": "a", "workspace": " w"}, "workspace"),
        "unknown scope": ({"name": "a", "scopes": ["root"]}, "scopes"),
        "unknown unit": ({"name": "a", "limits": {"dollars": "1/1s"}}, "limits"),
        "no limit": ({"name": "a", "limits": {"requests": "many"}}, "limits.requests"),
        "unknown kind": ({"name": "a", "kind": "user"}, "kind"),
        "no lifetime": ({"name": "a", "expires_in": "0s"}, "expires_in"),
        "no duration": ({"name": "a", "expires_in": "tomorrow"}, "expires_in"),
        "half a second": ({"name": "a", "expires_in": "1500ms"}, "expires_in"),
        "more than a century": ({"name": "a", "expires_in": "36501d"}, "expires_in"),
        "long request id": ({"name": "a", "request_id": "x" * 129}, "request_id"),
        "line end in a request id": ({"name": "a", "request_id": "a\nb"}, "request_id"),
    }
    for case, (values, at_fault) in table.items():
        answer = await doors.root.refused(400, "CreateKey", **values)
        assert (answer.reason, answer.field) == ("bad_request", at_fault), case

    assert len(await doors.root.all()) == 1


async def test_an_event_names_the_request(doors: Doors) -> None:
    """As the proxy named it, else as the caller did."""
    await doors.root.with_headers(x_request_id="from-envoy").ok("CreateKey", name="a", request_id="from-caller")
    await doors.root.ok("CreateKey", name="b", request_id="from-caller-2")
    await doors.root.ok("CreateKey", name="c")

    events = await doors.root.all("ListEvents", filter=f'actor = "{doors.root_key.record.id}"')

    assert [event["request_id"] for event in events] == ["", "from-caller-2", "from-envoy"]


# --- who may call

Credential = Callable[[Doors], Awaitable[str | None]]


async def _read_only(doors: Doors) -> str:
    return (await doors.key("read-only")).token


async def _revoked(doors: Doors) -> str:
    made = await doors.key("admin")
    await doors.other.revoke(made.record.id)
    return made.token


async def _revoked_in_bulk(doors: Doors) -> str:
    made = await doors.key("admin", subject="bob")
    await doors.other.revoke_subject("bob")
    return made.token


async def _expired(doors: Doors) -> str:
    made = await doors.key("admin", kind="opaque")
    await doors.expire(made.record.id)
    return made.token


async def _rotated(doors: Doors) -> str:
    made = await doors.key("admin", kind="opaque")
    await doors.root.ok("RotateKey", id=made.record.id)
    return made.token


async def _foreign(doors: Doors) -> str:
    """Genuine, and claims every scope; the store never heard of it."""
    claims = NewToken("theirs-1", "alice", "", ("admin",), 1_700_000_000, None)
    return "sk-live-" + doors.other.admin.signer.sign(claims)


async def _forged(_: Doors) -> str:
    return "sk-live-" + forge(secret=ATTACKER)


async def _session_without_admin(doors: Doors) -> str:
    await doors.user("bob", "read-write")
    return str((await doors.log_in("bob")).credential)


async def _session_of_nobody(doors: Doors) -> str:
    await doors.user("bob", "admin")
    session = await doors.log_in("bob")
    await doors.users.remove("bob", COMMAND_LINE)
    return str(session.credential)


async def _nothing(_: Doors) -> None:
    return None


async def _nonsense(_: Doors) -> str:
    return "nonsense"


STRANGERS: Final = [
    pytest.param(_nothing, 401, "missing_credential", id="no credential"),
    pytest.param(_nonsense, 401, "malformed_credential", id="nonsense"),
    pytest.param(_forged, 401, "bad_signature", id="forged"),
    pytest.param(_foreign, 401, "unknown_key", id="genuine, and without a record"),
    pytest.param(_revoked, 401, "revoked", id="revoked"),
    pytest.param(_revoked_in_bulk, 401, "revoked", id="revoked in bulk"),
    pytest.param(_expired, 401, "expired", id="expired"),
    pytest.param(_rotated, 401, "revoked", id="replaced by rotation"),
    pytest.param(_read_only, 403, "insufficient_scope", id="a key without admin"),
    pytest.param(_session_without_admin, 403, "insufficient_scope", id="a user without admin"),
    pytest.param(_session_of_nobody, 401, "revoked", id="a user who was removed"),
]


@pytest.mark.parametrize(("credential", "status", "reason"), STRANGERS)
async def test_strangers_are_refused_by_every_method(
    valkey_url: str, door: str, credential: Credential, status: int, reason: str
) -> None:
    """With `require_record: false` as well: that is for checks. Nothing they send is looked at, and nothing changes."""
    assert {*CALLS, "Login"} == {*METHODS}
    async with opened(valkey_url, door, configured(keys={"require_record": False})) as doors:
        stranger = doors.caller(await credential(doors))
        before = await doors.root.all()
        for method, values in CALLS.items():
            answer = await stranger.refused(status, method, **values)
            assert answer.reason == reason
            assert answer.headers["www-authenticate"].startswith("Bearer")
            if status == 403:
                assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]
                assert 'scope="admin"' in answer.headers["www-authenticate"]
        bad = await stranger.refused(status, "CreateKey", name="\n", scopes=["no such scope"])
        assert bad.reason == reason
        assert before == await doors.root.all()


async def test_a_revoked_admin_is_refused_at_the_very_next_call(doors: Doors) -> None:
    admin = await doors.admin_of("acme")
    [key] = await admin.all()

    await doors.root.ok("RevokeKey", id=key["id"])

    answer = await admin.refused(401, "ListKeys")
    assert answer.reason == "revoked"
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


async def test_an_admin_who_loses_the_scope_is_refused_at_the_very_next_call(doors: Doors) -> None:
    admin = await doors.admin_of("acme")
    [key] = await admin.all()

    await doors.root.ok("UpdateKey", key={"id": key["id"], "scopes": ["read-only"]})

    assert (await admin.refused(403, "ListKeys")).reason == "insufficient_scope"


async def test_a_user_with_admin_may_call(doors: Doors) -> None:
    await doors.user("ada", "admin")
    session = await doors.log_in("ada")

    made = await session.ok("CreateKey", name="ci")

    [event] = await session.all("ListEvents", filter="action = create AND key_id = " + made["id"])
    assert event["actor"].startswith("usr_")


async def test_a_key_over_its_limit_is_told_when_to_come_back(doors: Doors) -> None:
    """The doors have a bucket of their own: managing keys takes nothing from a key's requests."""
    made = await doors.key("admin", limits={"requests": Limit(2, 3600)})
    busy = doors.caller(made.token)
    for _ in range(2):
        await busy.ok("ListKeys")

    answer = await busy.refused(429, "ListKeys")

    assert answer.reason == "rate_limited"
    assert 1700 < int(answer.headers["retry-after"]) <= 1800
    assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("2", "0")
    assert int(answer.headers["x-ratelimit-reset"]) > 1_700_000_000
    decision = await doors.check(made.token)
    assert isinstance(decision, Allow)
    assert [(quota.unit, quota.remaining) for quota in decision.quotas if quota.unit == "requests"] == [("requests", 1)]


async def test_headers_that_a_proxy_might_set_change_nothing(doors: Doors) -> None:
    said = {
        "x_authz_key_id": doors.root_key.record.id,
        "x_authz_subject": doors.root_key.record.subject,
        "x_authz_scopes": "admin",
        "x_authz_workspace": "umbrella",
        "x_forwarded_user": "root",
        "authz_scopes": "read-only",
    }
    reader = doors.caller(await _read_only(doors)).with_headers(**said)
    bound = (await doors.admin_of("acme")).with_headers(**said)

    assert (await reader.refused(403, "ListKeys")).reason == "insufficient_scope"
    assert (await doors.caller(None).with_headers(**said).refused(401, "ListKeys")).reason == "missing_credential"
    assert {key["workspace"] for key in await bound.all()} == {"acme"}
    assert (await bound.ok("CreateKey", name="a"))["workspace"] == "acme"


async def test_credentials_stand_where_the_configuration_says(doors: Doors) -> None:
    """In `x-api-key` too; two that differ are refused."""
    token = doors.root_key.token
    assert await doors.caller(None).with_headers(x_api_key=token).all()

    two = doors.caller(await _read_only(doors)).with_headers(x_api_key=token)

    assert (await two.refused(401, "ListKeys")).reason == "ambiguous_credential"


async def test_the_doors_are_never_open_because_the_store_is_away(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door, configured(store={"on_error": "allow"})) as doors:
        await doors.root.ok("ListKeys")
        assert await doors.reason(doors.root_key.token) == "allowed"
        stores.flush(valkey_url)

        for method, values in CALLS.items():
            answer = await doors.root.refused(503, method, **values)
            assert answer.reason == "store_unavailable"
            assert answer.headers["retry-after"] == "1"
        answer = await doors.caller(None).refused(503, "Login", username="ada", password=PASSWORD)
        assert answer.reason == "store_unavailable"


# --- what one door alone has to refuse


@pytest.fixture
async def rest(valkey_url: str) -> AsyncIterator[Doors]:
    async with opened(valkey_url, "rest") as made:
        yield made


@pytest.fixture(params=["openai", "problem"])
async def styled(request: pytest.FixtureRequest, valkey_url: str) -> AsyncIterator[tuple[str, httpx.AsyncClient]]:
    """REST as any client of HTTP meets it, in each format of refusals; root's credential is sent."""
    configuration = configured(responses={"format": request.param})
    async with opened(valkey_url, "rest", configuration) as made:
        headers = {"authorization": f"Bearer {made.root_key.token}"}
        base_url = f"http://{made.address}"
        async with httpx.AsyncClient(base_url=base_url, headers=headers, timeout=20, trust_env=False) as http:
            yield request.param, http


JSON: Final = {"content-type": "application/json"}
_WRONG: Final[dict[str, tuple[str, str, object, str]]] = {
    "an unknown field": ("POST", "keys", {"name": "a", "colour": "red"}, "colour"),
    "camelCase": ("POST", "keys", {"name": "a", "expiresIn": "1h"}, "expiresIn"),
    "a number for a name": ("POST", "keys", {"name": 5}, "name"),
    "a text for a list": ("POST", "keys", {"name": "a", "scopes": "admin"}, "scopes"),
    "numbers for scopes": ("POST", "keys", {"name": "a", "scopes": [1]}, "scopes"),
    "a list for a map": ("POST", "keys", {"name": "a", "limits": ["60/1m"]}, "limits"),
    "a bare limit": ("POST", "keys", {"name": "a", "limits": {"requests": 60}}, "limits.requests"),
    "a text for a boolean": ("POST", "keys:revokeAll", {"subject": "a", "dry_run": "yes"}, "dry_run"),
    "a number for a time": ("POST", "keys:revokeAll", {"issued_before": 1_700_000_000}, "issued_before"),
    "no such day": ("POST", "keys:revokeAll", {"issued_before": "2026-02-30T00:00:00Z"}, "issued_before"),
    "a number for a duration": ("POST", f"keys/{NO_SUCH_KEY}:rotate", {"grace": 60}, "grace"),
    "a duration without a unit": ("POST", f"keys/{NO_SUCH_KEY}:rotate", {"grace": "60"}, "grace"),
    "another id than the path's": ("POST", f"keys/{NO_SUCH_KEY}:rotate", {"id": "key_other"}, "id"),
    "a list for a reason": ("POST", f"keys/{NO_SUCH_KEY}:revoke", {"reason": ["a"]}, "reason"),
    "a map for a list": ("PATCH", f"keys/{NO_SUCH_KEY}", {"scopes": {"a": 1}}, "key.scopes"),
    "a word for a time": ("PATCH", f"keys/{NO_SUCH_KEY}", {"expires_at": "soon"}, "key.expires_at"),
    "a list for a key": ("PATCH", f"keys/{NO_SUCH_KEY}", [], "key"),
    "a word for a size": ("GET", "keys?page_size=many", None, "page_size"),
    "two sizes": ("GET", "keys?page_size=1&page_size=2", None, "page_size"),
    "an unknown parameter": ("GET", "keys?colour=red", None, "colour"),
    "a number for a boolean": ("GET", f"keys/{NO_SUCH_KEY}?show_token=1", None, "show_token"),
    "no password": ("POST", "login", {"username": "ada"}, "password"),
    "no name": ("POST", "login", {"password": "secret"}, "username"),
    "a map for a name": ("POST", "login", {"username": {"$ne": ""}, "password": "secret"}, "username"),
}


async def test_a_field_that_does_not_fit_is_named(rest: Doors) -> None:
    headers = {"authorization": f"Bearer {rest.root_key.token}"}
    async with httpx.AsyncClient(base_url=f"http://{rest.address}", headers=headers, trust_env=False) as http:
        for case, (verb, path, body, at_fault) in _WRONG.items():
            sent: dict[str, Any] = {} if body is None else {"json": body}
            response = await http.request(verb, f"/authz/v1/{path}", **sent)
            told = response.json()
            assert (response.status_code, told["reason"], told["error"]["param"]) == (400, "bad_request", at_fault), (
                case
            )


async def test_what_is_no_call_is_refused_in_the_configured_format(styled: tuple[str, httpx.AsyncClient]) -> None:
    style, http = styled
    table: list[tuple[str, str, dict[str, Any], int, str]] = [
        ("POST", "/authz/v1/keys", {"content": b"{", "headers": JSON}, 400, "bad_request"),
        ("POST", "/authz/v1/keys", {"content": b'{"name":"a","name":"b"}', "headers": JSON}, 400, "bad_request"),
        ("POST", "/authz/v1/keys", {"content": b"[]", "headers": JSON}, 400, "bad_request"),
        ("POST", "/authz/v1/keys", {"content": b'{"name":"a"}'}, 400, "bad_request"),
        ("POST", "/authz/v1/keys", {"data": {"name": "a"}}, 400, "bad_request"),
        ("POST", "/authz/v1/keys", {"json": {"name": "a" * MAX_BODY_BYTES}}, 400, "bad_request"),
        ("GET", "/authz/v1/keys", {"content": b"{}", "headers": JSON}, 400, "bad_request"),
        ("GET", "/authz/v1/nothing", {}, 404, "not_found"),
        ("GET", "/authz/v1/keys/", {}, 404, "not_found"),
        ("GET", "/authz/v1/keys/a/b", {}, 404, "not_found"),
        ("POST", "/authz/v1/keys/a:unknown", {}, 404, "not_found"),
        ("GET", f"/authz/v1/keys/{NO_SUCH_KEY}", {}, 404, "not_found"),
        ("GET", "/", {}, 404, "not_found"),
        ("DELETE", f"/authz/v1/keys/{NO_SUCH_KEY}", {}, 405, "method_not_allowed"),
        ("PUT", "/authz/v1/keys", {}, 405, "method_not_allowed"),
        ("GET", f"/authz/v1/keys/{NO_SUCH_KEY}:rotate", {}, 405, "method_not_allowed"),
        ("POST", "/authz/v1/events", {}, 405, "method_not_allowed"),
        ("GET", "/authz/v1/login", {}, 405, "method_not_allowed"),
    ]
    for verb, path, more, status, reason in table:
        response = await http.request(verb, path, **more)
        body = response.json()
        assert response.status_code == status, (verb, path)
        assert response.headers["cache-control"] == "no-store"
        assert body["error"]["code"] == reason, (verb, path)
        assert body["error"]["message"].endswith(".")
        if style == "problem":
            assert response.headers["content-type"] == "application/problem+json"
            assert (body["status"], body["reason"], body["detail"]) == (status, reason, body["error"]["message"])
        else:
            assert response.headers["content-type"] == "application/json"
            assert list(body) == ["error"]
            assert list(body["error"]) == ["message", "type", "param", "code"]
        if status == 405:
            assert response.headers["allow"] == _allowed(path)


def _allowed(path: str) -> str:
    if path.endswith((":rotate", "login")):
        return "POST"
    return {"/authz/v1/keys": "GET, HEAD, POST", "/authz/v1/events": "GET, HEAD"}.get(path, "GET, HEAD, PATCH")


async def test_openais_words_for_those_who_may_not(valkey_url: str) -> None:
    """Its clients compare `code`: an API key that is no good has OpenAI's own."""
    async with (
        opened(valkey_url, "rest", configured(responses={"format": "openai"})) as doors,
        httpx.AsyncClient(base_url=f"http://{doors.address}", trust_env=False) as http,
    ):
        missing = await http.get("/authz/v1/keys")
        told = await http.get("/authz/v1/keys", headers={"authorization": f"Bearer {await _read_only(doors)}"})

    assert (missing.status_code, missing.json()["error"]["code"]) == (401, "invalid_api_key")
    assert missing.headers["www-authenticate"] == "Bearer"
    assert (told.status_code, told.json()["error"]["code"]) == (403, "insufficient_scope")
    assert told.json()["error"]["message"] == "The API key lacks a scope: required: admin; held: read-only."


async def test_a_key_in_the_url_is_refused(rest: Doors) -> None:
    """Whatever else is sent with it."""
    token = rest.root_key.token
    async with httpx.AsyncClient(base_url=f"http://{rest.address}", trust_env=False) as http:
        for headers in ({}, {"authorization": f"Bearer {token}"}):
            for name in ("api_key", "access_token", "API_KEY"):
                response = await http.get("/authz/v1/keys", params={name: token}, headers=headers)
                assert (response.status_code, response.json()["reason"]) == (401, "credential_in_url")
                assert token not in response.text


async def test_what_has_no_caller_is_read_for_nobody(rest: Doors) -> None:
    """A body of any size from a stranger is refused for the stranger, not for the body."""
    async with httpx.AsyncClient(base_url=f"http://{rest.address}", trust_env=False) as http:
        response = await http.post("/authz/v1/keys", content=b"x" * 1_000_000)

    assert (response.status_code, response.json()["reason"]) == (401, "missing_credential")


async def test_grpc_refuses_what_is_no_message_and_what_it_does_not_have(valkey_url: str) -> None:
    async with opened(valkey_url, "grpc") as doors, aio.insecure_channel(doors.address) as channel:
        held = [("authorization", f"Bearer {doors.root_key.token}")]
        for method, raw, metadata, code in (
            ("CreateKey", b"\xff", held, grpc.StatusCode.INVALID_ARGUMENT),
            ("CreateKey", b"\xff", [], grpc.StatusCode.UNAUTHENTICATED),
            ("CreateKey", b"\x0a\x01\xff", held, grpc.StatusCode.INVALID_ARGUMENT),  # a name that is not UTF-8
            ("DeleteKey", b"", held, grpc.StatusCode.UNIMPLEMENTED),
        ):
            asked: Any = channel.unary_unary(f"/{DESCRIPTOR.full_name}/{method}")
            with pytest.raises(aio.AioRpcError) as caught:
                await asked(raw, metadata=metadata, timeout=10)
            assert caught.value.code() is code, method


async def test_both_doors_answer_the_same(valkey_url: str) -> None:
    """What one door has made and changed, the other tells in the same words."""
    async with opened(valkey_url, "grpc") as one, opened(valkey_url, "rest") as other:
        made = await one.root.ok("CreateKey", name="a", scopes=["admin"], limits={"requests": "60/1m"}, request_id="r")
        await other.root.ok("RotateKey", id=made["id"], grace="1h")
        await one.root.ok("RevokeKey", id=made["id"], reason="lost")
        rest = other.caller(one.root_key.token)

        for method, values in (
            ("GetKey", {"id": made["id"]}),
            ("ListKeys", {}),
            ("ListKeys", {"filter": "state = revoked", "page_size": 1}),
            ("ListEvents", {}),
            ("CreateKey", {"name": "a", "scopes": ["admin"], "limits": {"requests": "60/1m"}, "request_id": "r"}),
        ):
            answers = [await each.ok(method, **values) for each in (one.root, rest)]
            assert json.dumps(answers[0]) == json.dumps(answers[1])
        for method, values in (("GetKey", {"id": NO_SUCH_KEY}), ("RotateKey", {"id": made["id"]}), ("CreateKey", {})):
            refused = [await each.call(method, **values) for each in (one.root, rest)]
            told = [(answer.status, answer.reason, answer.field, answer.message) for answer in refused]
            assert told[0] == told[1]
