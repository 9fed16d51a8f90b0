"""Logging in at both real doors: who may, how often, and for how long the session that comes of it lives."""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from typing import Any, Final

import pytest

from authz.adapters.argon2.hasher import MAX_WAITING
from authz.admin.actor import COMMAND_LINE
from authz.core.decision import Allow
from authz.settings import Configuration
from tests.support.admin import DOORS, PASSWORD, Answer, Doors, configured, opened
from tests.support.parts import pipeline, request


WRONG: Final = "The user name or the password is wrong."
NO_LIMITS: Final[dict[str, Any]] = {"login": {"limits": {"per_user": None, "per_address": None}}}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def doors(valkey_url: str, door: str) -> AsyncIterator[Doors]:
    """Without the limits of logging in, which have tests of their own."""
    async with opened(valkey_url, door, configured(**NO_LIMITS)) as made:
        await made.user("ada", "admin", workspace="acme")
        yield made


def limited(per_user: str | None = None, per_address: str | None = None, **settings: Any) -> Configuration:
    """With these limits of logging in alone."""
    return configured(login={"limits": {"per_user": per_user, "per_address": per_address}}, **settings)


async def tried(doors: Doors, name: str, password: str, forwarded_for: str = "") -> Answer:
    nobody = doors.caller(None)
    if forwarded_for:
        nobody = nobody.with_headers(x_forwarded_for=forwarded_for)
    return await nobody.call("Login", username=name, password=password)


def claims(token: str) -> tuple[dict[str, Any], dict[str, Any]]:
    header, payload = (json.loads(base64.urlsafe_b64decode(part + "==")) for part in token.split(".")[:2])
    return header, payload


# --- who may


async def test_a_name_and_its_password_make_a_session(store_url: str, door: str) -> None:
    async with opened(store_url, door, configured(login={"lifetime": "2h", "audience": "people"})) as doors:
        await doors.user("ada", "admin", workspace="acme")

        session = (await doors.caller(None).ok("Login", username="ada", password=PASSWORD))["token"]

        header, payload = claims(session)
        assert header == {"alg": "HS256", "typ": "authz-session+jwt"}
        assert (payload["sub"], payload["workspace"], payload["scope"]) == ("ada", "acme", "admin")
        assert payload["aud"] == "people"
        assert payload["jti"].startswith("usr_")
        assert 7200 <= payload["exp"] - payload["iat"] <= 7201
        assert {key["workspace"] for key in await doors.caller(session).all()} == set()
        made = await doors.caller(session).ok("CreateKey", name="ci")
        assert made["workspace"] == "acme"


async def test_who_may_not_is_told_the_same_whatever_is_wrong(doors: Doors) -> None:
    """To the byte; and the hasher is asked each time, so that the clock tells no more than the words."""
    await doors.user("gone", "admin")
    await doors.users.remove("gone", COMMAND_LINE)
    doors.hasher.verified.clear()
    table = {
        "a wrong password": ("ada", "wrong password"),
        "another case": ("ada", PASSWORD.upper()),
        "a part of it": ("ada", PASSWORD[:-1]),
        "more than it": ("ada", PASSWORD + " "),
        "an unknown user": ("eve", PASSWORD),
        "another case of the name": ("Ada", PASSWORD),
        "a removed user": ("gone", PASSWORD),
        "no name at all": ("a\nb", PASSWORD),
        "a pattern": ("ad*", PASSWORD),
        "the id of a user": ((await doors.users.all())[0].id, PASSWORD),
        "the id of a key": (doors.root_key.record.id, doors.root_key.token),
        "a password that is too long": ("ada", PASSWORD * 100),
    }
    answers = [await tried(doors, name, password) for name, password in table.values()]

    for case, answer in zip(table, answers, strict=True):
        assert (answer.status, answer.reason, answer.message) == (401, "invalid_credentials", WRONG), case
        assert answer == answers[0], case
        assert answer.headers["www-authenticate"] == "Bearer"
        assert {*answer.headers} == {*answers[0].headers}
    assert len(doors.hasher.verified) == len(table)
    of_nobody = [asked is None for asked in doors.hasher.verified]
    known = {"a wrong password", "another case", "a part of it", "more than it", "a password that is too long"}
    assert of_nobody == [case not in known for case in table]


async def test_a_login_says_both(doors: Doors) -> None:
    for name, password, at_fault in (("", PASSWORD, "username"), ("ada", "", "password"), ("", "", "username")):
        answer = await tried(doors, name, password)
        assert (answer.status, answer.field) == (400, at_fault)


async def test_the_same_password_from_another_keyboard(doors: Doors) -> None:
    """Composed and decomposed letters are one password."""
    await doors.user("bob", password="geheim-f\u00fcr-alle")

    assert (await tried(doors, "bob", "geheim-fu\u0308r-alle")).status == 200


async def test_too_many_at_once_are_asked_to_come_back(doors: Doors) -> None:
    """Hashing is slow on purpose: what waits for it has a bound, and the check does not wait for it at all."""
    answers = await asyncio.gather(*(tried(doors, "ada", PASSWORD) for _ in range(MAX_WAITING * 3)))

    assert {answer.status for answer in answers} <= {200, 503}
    assert {answer.reason for answer in answers if answer.status == 503} <= {"overloaded"}
    assert (await tried(doors, "ada", PASSWORD)).status == 200


# --- how often


async def test_a_user_has_so_many_tries(valkey_url: str, door: str) -> None:
    """Right ones count as well; then the right one is refused too. Others may go on."""
    async with opened(valkey_url, door, limited(per_user="3/1h")) as doors:
        await doors.user("ada")
        await doors.user("bob")
        assert [(await tried(doors, "ada", password)).status for password in ("wrong", PASSWORD, "wrong")] == [
            401,
            200,
            401,
        ]

        refused = await tried(doors, "ada", PASSWORD)

        assert (refused.status, refused.reason) == (429, "rate_limited")
        assert 1100 < int(refused.headers["retry-after"]) <= 1200
        assert refused.headers["x-ratelimit-limit"] == "3"
        asked = len(doors.hasher.verified)
        assert (await tried(doors, "ada", "wrong")).status == 429
        assert len(doors.hasher.verified) == asked  # guessing costs us nothing any more
        assert (await tried(doors, "bob", PASSWORD)).status == 200


async def test_an_unknown_user_has_as_many_tries_as_a_known_one(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door, limited(per_user="2/1h")) as doors:
        await doors.user("ada")

        for name in ("ada", "nobody"):
            assert [(await tried(doors, name, "wrong")).status for _ in range(3)] == [401, 401, 429]


async def test_an_address_has_so_many_tries(valkey_url: str, door: str) -> None:
    """Whomever it tries to be."""
    async with opened(valkey_url, door, limited(per_address="3/1h")) as doors:
        await doors.user("ada")
        for name in ("eve", "mallory", "trent"):
            assert (await tried(doors, name, "wrong")).status == 401

        refused = await tried(doors, "ada", PASSWORD)

        assert (refused.status, refused.reason) == (429, "rate_limited")
        assert int(refused.headers["retry-after"]) > 0
        assert (await tried(doors, "ada", PASSWORD, "192.0.2.1")).status == 429  # a claim of the client's own


async def test_the_address_is_the_clients_where_a_trusted_proxy_tells_it(valkey_url: str, door: str) -> None:
    """Read from the right: what stands left of the last untrusted address is the client's own claim."""
    configuration = configured(
        trusted_proxies=["127.0.0.0/8"], login={"limits": {"per_address": "2/1h", "per_user": None}}
    )
    async with opened(valkey_url, door, configuration) as doors:
        await doors.user("ada")
        for address in ("192.0.2.1", "192.0.2.2"):
            assert [(await tried(doors, "ada", PASSWORD, address)).status for _ in range(3)] == [200, 200, 429]
        assert (await tried(doors, "ada", PASSWORD, "198.51.100.7, 192.0.2.1")).status == 429
        assert (await tried(doors, "ada", PASSWORD, "192.0.2.1, 198.51.100.7")).status == 200


async def test_both_limits_count_each_try(valkey_url: str, door: str) -> None:
    """The defaults: five tries a minute for a user, twenty for an address."""
    async with opened(valkey_url, door) as doors:
        await doors.user("ada")
        assert [(await tried(doors, "ada", "wrong")).status for _ in range(6)] == [401] * 5 + [429]
        statuses = [(await tried(doors, f"user {number}", "wrong")).status for number in range(15)]
        assert statuses == [401] * 14 + [429]


# --- for how long


async def test_a_session_ends_with_its_time(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door, configured(login={"lifetime": "1s"}, keys={"leeway": "1ms"})) as doors:
        await doors.user("ada", "admin")
        session = await doors.log_in("ada")
        _, payload = claims(str(session.credential))

        await doors.until(int(payload["exp"]) * 1_000_000 + 10_000)

        told = await session.refused(401, "ListKeys")
        assert (told.reason, told.message) == ("expired", "The session has expired: log in again.")


async def test_a_session_ends_with_its_user(doors: Doors) -> None:
    session = await doors.log_in("ada")
    await session.ok("ListKeys")

    await doors.users.remove("ada", COMMAND_LINE)

    assert (await session.refused(401, "ListKeys")).reason == "revoked"
    assert (await tried(doors, "ada", PASSWORD)).status == 401
    await doors.user("ada", "admin", workspace="acme")  # of the same name, and somebody else
    assert (await session.refused(401, "ListKeys")).reason == "revoked"
    await (await doors.log_in("ada")).ok("ListKeys")


async def test_a_session_ends_with_the_password_it_was_made_by(doors: Doors) -> None:
    sessions = [await doors.log_in("ada") for _ in range(2)]
    await doors.users.set_password("ada", "another password", COMMAND_LINE)

    for session in sessions:
        assert (await session.refused(401, "ListKeys")).reason == "revoked"
    assert (await tried(doors, "ada", PASSWORD)).status == 401
    await (await doors.log_in("ada", "another password")).ok("ListKeys")


@pytest.mark.parametrize(
    ("wanted", "by"),
    [
        pytest.param({"subject": "ada"}, "root", id="subject"),
        pytest.param({"workspace": "acme"}, "root", id="workspace"),
        pytest.param({"subject": "ada", "workspace": "acme"}, "root", id="subject and workspace"),
        pytest.param({"subject": "ada"}, "acme", id="subject, by an admin of the workspace"),
        pytest.param({"workspace": "acme"}, "acme", id="workspace, by an admin of the workspace"),
    ],
)
async def test_a_session_ends_with_all_of_its_subject(doors: Doors, wanted: dict[str, str], by: str) -> None:
    """However it is said; a new login works at once, and the user stays."""
    admin = doors.root if by == "root" else await doors.admin_of("acme")
    session = await doors.log_in("ada")
    await session.ok("ListKeys")

    await admin.ok("RevokeAllKeys", **wanted)

    assert (await session.refused(401, "ListKeys")).reason == "revoked"
    again = await doors.log_in("ada")
    await again.ok("ListKeys")
    assert (await session.refused(401, "ListKeys")).reason == "revoked"


async def test_a_session_lives_through_what_is_not_about_it(doors: Doors) -> None:
    await doors.user("bob", "admin", workspace="umbrella")
    session = await doors.log_in("ada")
    for wanted in ({"subject": "bob"}, {"workspace": "umbrella"}, {"subject": "ada", "workspace": "umbrella"}):
        await doors.root.ok("RevokeAllKeys", **wanted)
        await session.ok("ListKeys")


async def test_a_user_without_admin_manages_nothing(doors: Doors) -> None:
    await doors.user("bob", "read-write")

    session = await doors.log_in("bob")

    assert (await session.refused(403, "ListKeys")).reason == "insufficient_scope"


async def test_whether_a_session_is_an_api_key_is_configured(doors: Doors) -> None:
    """With the user's scopes; by default it is not one, however good it is at the doors."""
    await doors.user("bob", "read-only")
    token = str((await doors.log_in("bob")).credential)
    accepting = pipeline(configured(keys={"accept_sessions": True}), doors.other)

    refused = await doors.check(token)
    assert (refused.reason.value, isinstance(refused, Allow)) == ("wrong_kind", False)
    allowed = await accepting.check(request(token))
    assert isinstance(allowed, Allow)
    assert allowed.principal is not None
    assert (allowed.principal.subject, allowed.principal.scopes) == ("bob", ("read-only",))
    assert (await accepting.check(request(token, "POST"))).reason.value == "insufficient_scope"

    await doors.users.remove("bob", COMMAND_LINE)
    assert (await accepting.check(request(token))).reason.value == "revoked"


async def test_a_session_is_no_key_of_another_audience(valkey_url: str, door: str) -> None:
    """A session of another audience than the configured one is refused at the doors too."""
    async with opened(valkey_url, door, configured(login={"audience": "theirs"})) as other:
        await other.user("ada", "admin")
        session = await other.log_in("ada")
        async with opened(valkey_url, door, configured(login={"audience": "ours"})) as doors:
            assert (await doors.caller(session.credential).refused(401, "ListKeys")).reason == "wrong_audience"
