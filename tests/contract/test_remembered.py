"""What was let in is let in again by the store's word alone: never where a check from the beginning would refuse it."""

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any, Final

import pytest

from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import IssuedKey, KeyChanges, NewKey
from authz.core.bucket import Limit
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.request import PlainRequest
from authz.ports import NewToken
from tests.support.parts import CLOCK, SECRET, Parts, configuration, parts, pipeline, request


SETTINGS: Final[dict[str, Any]] = {
    "routes": [
        {"path": "/public/**", "public": True},
        {"path": "/ruled", "scopes": ["read-only"], "rules": ["small"], "limits": ["default"]},
        {"methods": ["GET"], "path": "/v1/**", "scopes": ["read-only"], "limits": ["default"]},
        {"path": "/v1/**", "scopes": ["read-write"], "limits": ["default", "team"]},
    ],
    "limits": {
        "default": {"requests": "100000/1h", "tokens": "10000000/1h"},
        "team": {"per": "workspace", "requests": "90000/1h"},
    },
    "request_rules": {"small": {"max_body": "10B"}},
}
CONFIGURATION: Final = configuration(**SETTINGS)


@pytest.fixture
async def made(valkey_url: str) -> AsyncIterator[Parts]:
    async with parts(valkey_url) as on_valkey:
        await on_valkey.create(NewKey("the first"))
        yield on_valkey


def told(decision: Decision) -> tuple[object, ...]:
    """All but what is counted."""
    required = decision.required if isinstance(decision, Deny) else ()
    hint = decision.hint if isinstance(decision, Deny) else ""
    only_looks = isinstance(decision, Allow) and decision.preliminary
    return type(decision), decision.reason, decision.route, decision.principal, required, hint, only_looks


def variants(token: str, other: str) -> list[PlainRequest]:
    """Requests that differ in one thing from the first, or in few."""
    plain = request(token)
    spare = {"x-api-key": token}
    return [
        plain,
        request(other),
        request(token, "POST"),
        request(token, path="/v1/other"),
        request(token, path="/v2/models"),
        request(token, path="/public/x"),
        request(token, path="/v1/%2e%2e/x"),
        request(token, "POST", "/ruled"),
        replace(plain, path="/ruled", headers={**plain.headers, "content-length": "11"}),
        replace(plain, path="/ruled", headers={**plain.headers, "content-length": "9"}),
        replace(plain, query="a=b"),
        replace(plain, query="api_key=x"),
        replace(plain, headers={**plain.headers, **spare}),
        replace(plain, headers={**plain.headers, "x-api-key": other}),
        replace(plain, headers=spare),
        replace(plain, headers={}),
        replace(plain, headers={"authorization": f"Basic {token}"}),
        replace(plain, max_tokens=5),
        replace(plain, max_tokens=5, is_max_sure=False),
        replace(plain, max_tokens=10**8),
        request(token, scopes="admin"),
        request(token, scopes="read-only"),
        request(token, limits="team"),
        request(token, limits="nobody"),
        request(token, stage="headers"),
        request(token, stage="body"),
        request(token, else_="x"),
    ]


async def change(made: Parts, keys: list[IssuedKey], rng: random.Random) -> None:
    key = rng.choice(keys)
    state = await made.show(key.record.id)
    if state.version < 0:
        return
    what = rng.choice(["scopes", "limits", "revoke", "nothing", "nothing"])
    if what == "scopes":
        scopes = rng.choice([(), ("read-only",), ("read-write",), ("admin",)])
        await made.admin.update(key.record.id, KeyChanges({"scopes": scopes}), COMMAND_LINE)
    elif what == "limits":
        await made.admin.update(
            key.record.id, KeyChanges({"limits": {"tokens": Limit(rng.choice([3, 10**6]), 3600)}}), COMMAND_LINE
        )
    elif what == "revoke" and rng.random() < 0.2:
        await made.revoke(key.record.id)


@pytest.mark.parametrize("seed", range(4))
async def test_it_decides_as_one_that_remembers_nothing(made: Parts, seed: int) -> None:
    """Whatever was asked before, and whatever has changed since."""
    rng = random.Random(seed)
    keys = [await made.create(NewKey("k", scopes=("read-only",), workspace="acme")) for _ in range(2)]
    asked = variants(keys[0].token, keys[1].token) + variants(keys[1].token, keys[0].token)
    remembering = pipeline(CONFIGURATION, made)
    allowed_again = 0

    for _ in range(300):
        one = rng.choice(asked)
        expected = await pipeline(CONFIGURATION, made).check(one, spend=False)
        decision = await remembering.check(one)
        assert told(decision) == told(expected), one
        allowed_again += isinstance(decision, Allow) and decision.grant is not None
        if rng.random() < 0.05:
            await change(made, keys, rng)

    assert allowed_again > 20


async def test_each_is_charged(made: Parts) -> None:
    """The same bucket, the same cost, and a hold of its own each time."""
    key = await made.create(
        NewKey("k", scopes=("read-only",), limits={"requests": Limit(5, 3600), "tokens": Limit(10**6, 3600)})
    )
    remembering = pipeline(CONFIGURATION, made)

    decisions = [await remembering.check(request(key.token)) for _ in range(7)]

    allowed = [decision for decision in decisions if isinstance(decision, Allow)]
    assert [decision.quotas[0].remaining for decision in allowed] == [4, 3, 2, 1, 0]
    holds = [decision.hold for decision in allowed if decision.hold is not None]
    assert len({hold.id for hold in holds}) == 5
    assert {replace(hold, id=holds[0].id, at_us=0) for hold in holds} == {replace(holds[0], at_us=0)}
    assert [decision.reason for decision in decisions[5:]] == [Reason.RATE_LIMITED] * 2
    limited = decisions[-1]
    assert isinstance(limited, Deny)
    assert limited.retry_after_us
    assert limited.hold is not None
    assert (limited.hold.allowed, limited.hold.spent) == (False, ())


async def test_a_token_that_expires_is_refused_on_time(made: Parts) -> None:
    """At `exp`, though it was let in a moment before and no record knows of its end."""
    signer = JwtSigner(Keyring((VerificationKey(None, "HS256", SECRET.encode()),)))
    now_s = CLOCK.now_s()
    token = signer.sign(NewToken("without-a-record", "alice", "", ("read-only",), now_s, int(now_s) + 2))
    remembering = pipeline(configuration(**SETTINGS, keys={"leeway": "1ms", "require_record": False}), made)

    first = await remembering.check(request(token))
    async with asyncio.timeout(10):
        while isinstance(last := await remembering.check(request(token)), Allow):  # noqa: ASYNC110 - time has no event
            await asyncio.sleep(0.05)

    assert isinstance(first, Allow)
    assert last.reason is Reason.EXPIRED


async def test_an_outage_is_judged_as_ever(made: Parts) -> None:
    """Closed by default, open where that is configured; and back to exact once the store is there."""
    key = await made.create(NewKey("k", scopes=("read-only",)))
    closed = pipeline(CONFIGURATION, made)
    opened = pipeline(configuration(**SETTINGS, store={"on_error": "allow"}), made)
    for authorizer in (closed, opened):
        assert isinstance(await authorizer.check(request(key.token)), Allow)

    commands, made.store._commands = made.store._commands, Refusing()
    refused, degraded = await closed.check(request(key.token)), await opened.check(request(key.token))
    made.store._commands = commands
    back = await opened.check(request(key.token))

    assert isinstance(refused, Fault)
    assert isinstance(degraded, Allow)
    assert degraded.degraded
    assert degraded.grant is None
    assert isinstance(back, Allow)
    assert not back.degraded


class Refusing:
    """A store that nobody reaches."""

    async def execute_command(self, *_: Any, **__: Any) -> Any:
        raise ConnectionRefusedError

    async def aclose(self) -> None:
        """There is nothing to close."""
