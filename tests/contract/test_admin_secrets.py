"""Where secrets go: through everything the admin API does at both doors, and looked for wherever it speaks."""

import base64
import logging
from collections.abc import AsyncIterator
from typing import Any, Final

import httpx
import pytest

from authz.adapters.redis import keys
from authz.admin.actor import COMMAND_LINE
from authz.app import key_admin
from authz.core.pepper import Peppers
from tests.support.admin import DOORS, NO_SUCH_KEY, Answer, Doors, configured, opened, shown, stored
from tests.support.listening import CLIENTS, listening
from tests.support.parts import PEPPER, SECRET


NEW_SECRET: Final = "another secret for tests, newer, and as long as RFC 7518 wants it"
OTHER_PASSWORD: Final = "PLANTED-password-of-somebody"


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def retaining(valkey_url: str, door: str) -> AsyncIterator[Doors]:
    async with opened(valkey_url, door, configured(keys={"retain_token": True})) as made:
        yield made


def parts_of(token: str) -> list[str]:
    """What of a token nobody else may learn: of a JWT its claims and signature, of an opaque one its secret."""
    body = token.removeprefix("sk-live-")
    return [body, *body.split(".")[1:]] if "." in body else [body]


async def _everything(doors: Doors) -> tuple[list[str], list[str], list[Answer]]:
    """
    Every method, right and wrong, for both kinds of key; and users, from the cradle to the grave.

    Returns: tokens that were made, hashes of passwords, and every answer but those that show a token on purpose.
    """
    root, nobody = doors.root, doors.caller(None)
    tokens: list[str] = [doors.root_key.token]
    answers: list[Answer] = []
    for kind in ("jwt", "opaque"):
        made = await root.ok("CreateKey", name="a", kind=kind, scopes=["read-write"], workspace="acme", request_id=kind)
        rotated = await root.ok("RotateKey", id=made["id"], grace="1h", request_id=kind)
        tokens += [made["token"], rotated["token"]]
        for token in (made["token"], rotated["token"]):
            await doors.check(token)
            answers.append(await doors.caller(token).call("ListKeys"))
        answers += [
            await root.call("UpdateKey", key={"id": made["id"], "name": "b", "scopes": ["read-only"]}),
            await root.call("GetKey", id=made["id"]),
            await root.call("ListKeys"),
            await root.call("CreateKey", name="a", request_id=kind),
            await root.call("RevokeKey", id=made["id"], reason="lost"),
            await root.call("RotateKey", id=made["id"]),
            await doors.caller(rotated["token"]).call("ListKeys"),
            await doors.caller(rotated["token"][:-3]).call("ListKeys"),
            await doors.caller(rotated["token"] + " x").call("ListKeys"),
        ]
        # pasted into the wrong place
        for token in (made["token"], rotated["token"]):
            answers += [
                await root.call("GetKey", id=token),
                await root.call("RotateKey", id=token),
                await root.call("RevokeKey", id=token),
                await root.call("UpdateKey", key={"id": token, "name": "x"}),
                await root.call("ListKeys", filter=token),
                await root.call("ListKeys", filter=f'name = "{token}"'),
                await root.call("ListKeys", filter=f'"{token}" = name'),
                await root.call("ListKeys", page_token=token),
                await root.call("CreateKey", name="x", kind=token),
                await root.call("CreateKey", name="x", expires_in=token),
                await root.call("CreateKey", name="x", limits={"requests": token}),
                await root.call("RotateKey", id=made["id"], grace=token),
                await root.call("UpdateKey", key={"id": made["id"], "etag": token}),
                await nobody.call("Login", username=token, password=token),
                await nobody.with_headers(x_api_key=token, authorization="Bearer x").call("ListKeys"),
            ]
    await doors.user("ada", "admin", password=OTHER_PASSWORD)
    session = await doors.log_in("ada", OTHER_PASSWORD)
    tokens.append(str(session.credential))
    hashes = [(await doors.users.registry.find("ada") or (None, ""))[1]]
    answers += [
        await session.call("ListKeys"),
        await nobody.call("Login", username="ada", password=OTHER_PASSWORD + "?"),
        await nobody.call("Login", username=OTHER_PASSWORD, password="ada"),
        await nobody.call("Login", username="eve", password=OTHER_PASSWORD),
    ]
    await doors.users.set_password("ada", OTHER_PASSWORD * 2, COMMAND_LINE)
    hashes.append((await doors.users.registry.find("ada") or (None, ""))[1])
    answers += [await session.call("ListKeys"), await doors.caller(session.credential).call("ListEvents")]
    answers.append(await root.call("RevokeAllKeys", subject="ada", reason="left"))
    await doors.users.remove("ada", COMMAND_LINE)
    answers += [await root.call("ListEvents", page_size=500), await root.call("ListKeys")]
    return tokens, hashes, answers


@pytest.mark.parametrize("retain", [False, True], ids=["shown once", "retained"])
async def test_secrets_stay_where_they_belong(
    valkey_url: str, door: str, retain: bool, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """In no log, no metric, no refusal and no list; in the store, passwords as hashes, and nothing else in clear."""
    caplog.set_level(logging.DEBUG)
    configuration = configured(keys={"retain_token": retain}, login={"limits": {}})
    with listening() as logged:
        async with opened(valkey_url, door, configuration) as doors:
            tokens, hashes, answers = await _everything(doors)
            metrics = doors.prometheus.exposition()[0].decode()
            told = [shown([answer.json, dict(answer.headers), answer.message]) for answer in answers]
    digests = [Peppers((PEPPER.encode(),)).digests(token)[0] for token in tokens]
    secrets = [part for token in tokens for part in parts_of(token)]
    secrets += [SECRET, PEPPER, OTHER_PASSWORD, *hashes]
    captured = capfd.readouterr()
    ours = "".join(str(record.__dict__) for record in caplog.records if not record.name.startswith(CLIENTS))
    for where, text in {
        "logs": logged() + ours,
        "output": captured.out + captured.err,
        "metrics": metrics,
        "answers": "".join(told),
    }.items():
        assert text or where == "output"
        for secret in (*secrets, *digests):
            assert secret not in text, where
    held = stored(valkey_url)
    assert not [name for name in held if b":p:" in name]  # the user is gone, so is the hash
    for secret in secrets:
        for form in (secret.encode(), base64.b64encode(secret.encode()), secret.encode().hex().encode()):
            assert not [name for name, value in held.items() if form in value or form in name]


async def test_a_password_is_in_the_store_as_a_hash_alone(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door) as doors:
        await doors.user("ada", password=OTHER_PASSWORD)
        held = stored(valkey_url)

        assert [name for name, value in held.items() if value.startswith(b"$argon2id$")] != []
        assert {name.split(b":")[2] for name, value in held.items() if b"argon2" in value} == {b"p"}
        assert not [name for name, value in held.items() if OTHER_PASSWORD.encode() in value]


async def test_a_refusal_repeats_nothing_of_what_was_sent(valkey_url: str, door: str) -> None:
    """A key that was pasted into the wrong field must not come back, nor go into a log on its way."""
    async with opened(valkey_url, door) as doors:
        token = (await doors.key("read-only", kind="opaque")).token
        made = (await doors.key()).record.id
        calls: list[tuple[str, dict[str, Any]]] = [
            ("CreateKey", {"name": "a", "scopes": [token]}),
            ("CreateKey", {"name": "a", "limits": {token: "1/1s"}}),
            ("CreateKey", {"name": "a", "limits": {"requests": token}}),
            ("CreateKey", {"name": "a", "kind": token}),
            ("CreateKey", {"name": f"\n{token}"}),
            ("CreateKey", {"name": "a", "subject": f"\n{token}"}),
            ("CreateKey", {"name": "a", "request_id": f"\n{token}"}),
            ("UpdateKey", {"key": {"id": made, "scopes": [token]}}),
            ("UpdateKey", {"key": {"id": made, "limits": {token: "1/1s"}}}),
            ("RotateKey", {"id": made, "grace": token}),
            ("RevokeKey", {"id": made, "reason": f"\n{token}"}),
            ("RevokeKey", {"id": token}),
            ("RevokeAllKeys", {"subject": f"\n{token}"}),
            ("ListKeys", {"filter": f"{token} = 1"}),
            ("ListEvents", {"page_token": token}),
            ("Login", {"username": token, "password": token}),
        ]
        with listening() as logged:
            repeated = []
            for method, values in calls:
                answer = await doors.root.call(method, **values)
                assert answer.status in {400, 401, 404}, (method, values)
                if token in shown([answer.json, dict(answer.headers), answer.message]):
                    repeated.append((method, [*values]))
        assert repeated == []
        assert token not in logged()


async def test_the_url_and_the_ids_of_requests_are_not_logged_with_what_they_hold(valkey_url: str) -> None:
    """A key in a path, in a query, or sent as the id of the request."""
    async with opened(valkey_url, "rest") as doors:
        token = (await doors.key("read-only", kind="opaque")).token
        with listening() as logged:
            async with httpx.AsyncClient(base_url=f"http://{doors.address}", trust_env=False) as http:
                for path in (f"/authz/v1/keys/{token}", f"/authz/v1/keys?api_key={token}", f"/{token}"):
                    for credential in (token, doors.root_key.token):
                        response = await http.get(path, headers={"authorization": f"Bearer {credential}"})
                        assert response.status_code in {401, 403, 404}
                        assert token not in response.text
        assert token not in logged()


async def test_the_id_of_a_request_is_logged_without_what_looks_like_a_key(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door) as doors:
        token = (await doors.key("read-only", kind="opaque")).token
        with listening() as logged:
            await doors.root.with_headers(x_request_id=token).ok("CreateKey", name="a")
            await doors.root.ok("CreateKey", name="b", request_id=token)
            await doors.caller(token).with_headers(x_request_id=token).refused(403, "ListKeys")
        assert token not in logged()


async def test_names_that_people_gave_are_logged_without_addresses_and_keys(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door) as doors:
        token = (await doors.key("read-only", kind="opaque")).token
        with listening() as logged:
            made = await doors.root.ok("CreateKey", name=token, subject="ada@example.com", workspace="bob@example.com")
            await doors.root.ok("RevokeKey", id=made["id"], reason=f"leaked: {token}")
            await doors.root.ok("RevokeAllKeys", subject="ada@example.com", reason="eve@example.com")
        assert "changed" in logged()
        assert token not in logged()
        assert "@example.com" not in logged()


# --- `keys.retain_token`


@pytest.mark.parametrize("kind", ["jwt", "opaque"])
async def test_a_retained_token_is_shown_again(retaining: Doors, valkey_url: str, kind: str) -> None:
    """Where it is asked for, each time as an event; in the store, sealed; of a rotated key, the current one."""
    made = await retaining.root.ok("CreateKey", name="a", kind=kind, workspace="acme")

    first = await retaining.root.ok("GetKey", id=made["id"], show_token=True)
    second = await retaining.root.ok("GetKey", id=made["prefix"], show_token=True)

    assert first == second
    assert first["token"] == made["token"]
    assert [*first][-2:] == ["token", "warnings"]
    assert "token" not in await retaining.root.ok("GetKey", id=made["id"])
    assert not any("token" in key for key in await retaining.root.all())
    events = await retaining.root.all("ListEvents", filter="action = show_token")
    assert [(event["key_id"], event["workspace"]) for event in events] == [(made["id"], "acme")] * 2
    held = stored(valkey_url)
    assert len([name for name in held if b":e:" in name]) == 1
    for part in parts_of(made["token"]):
        assert not [name for name, value in held.items() if part.encode() in value]

    rotated = await retaining.root.ok("RotateKey", id=made["id"], grace="1h")
    assert (await retaining.root.ok("GetKey", id=made["id"], show_token=True))["token"] == rotated["token"]


async def test_without_retaining_nothing_can_be_shown(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door) as doors:
        made = await doors.root.ok("CreateKey", name="a")

        answer = await doors.root.refused(409, "GetKey", id=made["id"], show_token=True)

        assert answer.message == "Tokens are not kept: keys.retain_token is off."
        assert not [name for name in stored(valkey_url) if b":e:" in name]


async def test_what_was_made_before_retaining_cannot_be_shown(retaining: Doors) -> None:
    made = await retaining.key("read-only")
    answer = await retaining.root.refused(409, "GetKey", id=made.record.id, show_token=True)

    assert answer.reason == "conflict"
    await retaining.root.refused(404, "GetKey", id=NO_SUCH_KEY, show_token=True)


@pytest.mark.parametrize("bulk", [False, True], ids=["by id", "in bulk"])
async def test_a_retained_token_goes_with_its_key(retaining: Doors, valkey_url: str, bulk: bool) -> None:
    """Not shown any more, and not kept either."""
    made = await retaining.root.ok("CreateKey", name="a", subject="ada")
    if bulk:
        await retaining.root.ok("RevokeAllKeys", subject="ada")
    else:
        await retaining.root.ok("RevokeKey", id=made["id"])

    answer = await retaining.root.refused(409, "GetKey", id=made["id"], show_token=True)

    assert answer.message == "The key is revoked."
    assert not [name for name in stored(valkey_url) if b":e:" in name and made["id"].encode() in name]


def sealed_at(doors: Doors, made: dict[str, Any]) -> str:
    tenant = f"w:{made['workspace']}" if made["workspace"] else f"s:{made['subject']}"
    return keys.name(doors.other.registry.partition(tenant), "e", made["id"])


async def test_a_sealed_token_opens_for_its_own_key_alone(retaining: Doors) -> None:
    """Who can write to the store, and see one key, must not be shown another's token."""
    one, other = [await retaining.root.ok("CreateKey", name=name, workspace="acme") for name in "ab"]
    names = [sealed_at(retaining, each) for each in (one, other)]
    first, second = [await retaining.store.call("test", "GET", name) for name in names]
    assert first
    assert second
    await retaining.store.call("test", "SET", names[0], second)
    await retaining.store.call("test", "SET", names[1], first[:-1] + bytes([first[-1] ^ 1]))

    for each in (one, other):
        answer = await retaining.root.refused(409, "GetKey", id=each["id"], show_token=True)
        assert one["token"] not in shown(answer.json)
        assert other["token"] not in shown(answer.json)
    await retaining.store.call("test", "SET", names[0], first)
    assert (await retaining.root.ok("GetKey", id=one["id"], show_token=True))["token"] == one["token"]


async def test_an_answer_that_is_remembered_opens_for_its_own_question_alone(valkey_url: str, door: str) -> None:
    async with opened(valkey_url, door) as doors:
        other = doors.caller((await doors.key("admin")).token)
        asked = {"name": "a", "request_id": "r"}
        mine, theirs = [await each.ok("CreateKey", **asked) for each in (doors.root, other)]
        names = [name for name in stored(valkey_url) if name.startswith(keys.request("").encode())]
        first, second = [await doors.store.call("test", "GET", name) for name in names]
        await doors.store.call("test", "SET", names[0], second)
        await doors.store.call("test", "SET", names[1], first)

        for caller in (doors.root, other):
            answer = await caller.refused(409, "CreateKey", **asked)
            assert not any(each["token"] in shown(answer.json) for each in (mine, theirs))


async def test_the_keyrings_first_secret_is_what_retained_tokens_are_sealed_under(valkey_url: str, door: str) -> None:
    """They open while their secret is in the keyring; shown, or wrapped anew at a start, they are under the first."""
    old = configured(keys={"retain_token": True})
    both = configured(secrets=(NEW_SECRET, SECRET), keys={"retain_token": True})
    new = configured(secrets=(NEW_SECRET,), keys={"retain_token": True})
    async with opened(valkey_url, door, old) as doors:
        made = [await doors.root.ok("CreateKey", name=f"n{number}", workspace=f"w{number}") for number in range(5)]
        before = [await doors.store.call("test", "GET", sealed_at(doors, each)) for each in made]

    async with opened(valkey_url, door, both) as doors:
        again = await doors.root.ok("GetKey", id=made[0]["id"], show_token=True)
        assert again["token"] == made[0]["token"]
        admin = key_admin(both, doors.store, doors.other.observer)
        assert [await admin.kept.rewrap(), await admin.kept.rewrap()] == [(4, 0), (0, 0)]
        after = [await doors.store.call("test", "GET", sealed_at(doors, each)) for each in made]
        assert not {*before} & {*after}

    async with opened(valkey_url, door, new) as doors:
        signed_anew = key_admin(new, doors.store, doors.other.observer)
        root = await signed_anew.rotate(doors.root_key.record.id, 0, COMMAND_LINE)
        for each in made:
            told = await doors.caller(root.token).ok("GetKey", id=each["id"], show_token=True)
            assert told["token"] == each["token"]

    async with opened(valkey_url, door, old) as doors:
        answer = await doors.root.refused(409, "GetKey", id=made[0]["id"], show_token=True)
        assert "under a secret that the keyring has no more" in answer.message


async def test_an_answer_under_a_secret_that_is_gone_is_not_made_anew(valkey_url: str, door: str) -> None:
    """A second key would be worse than a refusal."""
    async with opened(valkey_url, door) as doors:
        made = await doors.root.ok("CreateKey", name="a", request_id="r")
        first = doors.root_key
    async with opened(valkey_url, door, configured(secrets=(NEW_SECRET, SECRET))) as doors:
        assert await doors.caller(first.token).ok("CreateKey", name="a", request_id="r") == made
    async with opened(valkey_url, door, configured(secrets=(NEW_SECRET,))) as doors:
        rotated = await key_admin(doors.configuration, doors.store, doors.other.observer).rotate(
            first.record.id, 0, COMMAND_LINE
        )
        await doors.caller(rotated.token).refused(409, "CreateKey", name="a", request_id="r")
