"""The whole check on a real store: order of answers, records and caches, what the configuration changes."""

from collections.abc import AsyncIterator

import pytest

from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.redis.records import _Known
from authz.admin.keys import IssuedKey, NewKey
from authz.core.bucket import Limit
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.event import Action, Event
from authz.ports import NewToken
from tests.support import stores
from tests.support.parts import SECRET, Parts, configuration, parts, pipeline, request


ROUTES = [
    {"name": "public", "path": "/healthz", "public": True},
    {"name": "read", "methods": ["GET"], "path": "/v1/**", "scopes": ["read-only"], "limits": ["default"]},
    {"name": "write", "path": "/v1/**", "scopes": ["read-write"], "limits": ["default", "team"]},
    {"name": "free", "path": "/free", "scopes": ["read-only"]},
]
LIMITS = {
    "default": {"requests": "4/1h", "tokens": "100000/1h"},
    "team": {"per": "workspace", "requests": "3/1h"},
    "burst": {"requests": "2/1h"},
}


@pytest.fixture
async def made(valkey_url: str) -> AsyncIterator[Parts]:
    async with parts(valkey_url) as on_valkey:
        await on_valkey.create(NewKey("the first"))
        yield on_valkey


async def key(made: Parts, *scopes: str, **fields: object) -> IssuedKey:
    return await made.create(NewKey("test", scopes=scopes, **fields))  # type: ignore[arg-type]


async def check(
    made: Parts, token: str | None, method: str = "GET", path: str = "/v1/models", **context: str
) -> Decision:
    return await pipeline(configuration(routes=ROUTES, limits=LIMITS), made).check(
        request(token, method, path, **context)
    )


def foreign(**claims: object) -> str:
    """A token of our keyring that the store never heard of."""
    signer = JwtSigner(Keyring((VerificationKey(None, "HS256", SECRET.encode()),)))
    fields: dict[str, object] = {"jti": "theirs-1", "subject": "alice", "workspace": "", "scopes": ("read-only",)}
    fields |= {"issued_at_s": 1_700_000_000, "expires_at_s": None}
    return "sk-live-" + signer.sign(NewToken(**(fields | claims)))  # type: ignore[arg-type]


async def test_allowed_with_principal_and_quotas(made: Parts) -> None:
    mine = await key(made, "read-write", workspace="acme", subject="alice")

    decision = await check(made, mine.token, "POST")

    assert isinstance(decision, Allow)
    assert decision.principal is not None
    assert (decision.principal.key_id, decision.principal.subject) == (mine.record.id, "alice")
    assert [(q.name, q.unit, q.remaining) for q in decision.quotas] == [
        ("default", "requests", 3),
        ("default", "tokens", 99_500),
        ("team", "requests", 2),
    ]


async def test_public_asks_nobody(made: Parts) -> None:
    """Not even with a bad credential; and a path that only looks public is not."""
    assert (await check(made, None, path="/healthz")).reason is Reason.PUBLIC
    assert (await check(made, "nonsense", path="/healthz")).reason is Reason.PUBLIC
    assert (await check(made, None, path="/healthz/")).reason is Reason.MISSING_CREDENTIAL
    assert (await check(made, None, path="/v1/%2e%2e/healthz")).reason is Reason.MISSING_CREDENTIAL


async def test_the_first_step_that_fails_answers(made: Parts) -> None:
    """Credential, authenticity, revocation, scope, limit: each is told before the next."""
    mine = await key(made, "read-only", limits={"requests": Limit(1, 3600)})
    token = mine.token

    assert (await check(made, None, "POST", "/nowhere")).reason is Reason.MISSING_CREDENTIAL
    assert (await check(made, token[:-2], "POST", "/nowhere")).reason is Reason.MALFORMED_CREDENTIAL
    assert (await check(made, token, "POST", "/nowhere")).reason is Reason.NO_ROUTE
    assert (await check(made, token, "POST", "/v1/a;b")).reason is Reason.AMBIGUOUS_PATH
    assert (await check(made, token, "POST")).reason is Reason.INSUFFICIENT_SCOPE
    assert (await check(made, token)).reason is Reason.ALLOWED  # 4xx spent nothing
    assert (await check(made, token)).reason is Reason.RATE_LIMITED
    assert (await check(made, token, "POST")).reason is Reason.INSUFFICIENT_SCOPE
    await made.revoke(mine.record.id)
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/models"), ("POST", "/nowhere"), ("GET", "/v1/a;b")):
        assert (await check(made, token, method, path)).reason is Reason.REVOKED


async def test_a_revoked_key_is_named_in_the_refusal(made: Parts) -> None:
    """For the log; on a sidecar that remembers the key and on one that never saw it."""
    mine = await key(made, "read-only")
    warm = pipeline(configuration(), made)
    assert isinstance(await warm.check(request(mine.token)), Allow)
    await made.revoke(mine.record.id)

    for authorizer in (warm, pipeline(configuration(), made)):
        for _ in range(2):
            decision = await authorizer.check(request(mine.token))
            assert decision.reason is Reason.REVOKED
            assert decision.principal is not None
            assert decision.principal.key_id == mine.record.id


async def test_a_token_without_a_record(made: Parts) -> None:
    """Refused by default; with `require_record: false` the signature is enough, and its jti can be revoked."""
    token = foreign()
    lax = pipeline(configuration(keys={"require_record": False}), made)

    assert (await check(made, token)).reason is Reason.UNKNOWN_KEY
    allowed = await lax.check(request(token))
    assert isinstance(allowed, Allow)
    assert allowed.principal is not None
    assert (allowed.principal.key_id, allowed.principal.scopes) == ("theirs-1", ("read-only",))
    assert (await lax.check(request(token, "POST"))).reason is Reason.INSUFFICIENT_SCOPE
    await made.registry.revoke("theirs-1", "", Event("cli", Action.REVOKE))
    assert (await lax.check(request(token))).reason is Reason.REVOKED
    other = foreign(jti="theirs-2")
    assert isinstance(await lax.check(request(other)), Allow)
    await made.revoke_subject("alice")
    assert (await lax.check(request(other))).reason is Reason.REVOKED


async def test_a_key_that_is_made_after_it_was_asked_for(made: Parts) -> None:
    """What was unknown a moment ago is not remembered as unknown."""
    lax = pipeline(configuration(keys={"require_record": False}), made)
    strict = pipeline(configuration(), made)
    mine = await key(made, "read-only")
    made.records._known.put((f"s:{mine.record.id}", mine.record.id), _Known(None))

    assert isinstance(await strict.check(request(mine.token)), Allow)
    assert isinstance(await lax.check(request(mine.token)), Allow)


async def test_claims_that_name_another_owner_than_the_record(made: Parts) -> None:
    mine = await key(made, "read-only", subject="alice", workspace="acme")
    stolen = foreign(jti=mine.record.id, subject="bob", workspace="acme", scopes=("admin",))

    decision = await check(made, stolen)

    assert isinstance(decision, Deny)
    assert decision.reason is Reason.BAD_CLAIMS


async def test_the_record_decides_the_scopes_not_the_token(made: Parts) -> None:
    mine = await key(made, "read-only", subject="alice")
    boasting = foreign(jti=mine.record.id, subject="alice", scopes=("admin",))

    assert (await check(made, boasting, "POST")).reason is Reason.INSUFFICIENT_SCOPE


async def test_a_keys_own_limits_replace_the_default_bucket_by_bucket(made: Parts) -> None:
    mine = await key(made, "read-write", workspace="acme", limits={"requests": Limit(9, 3600)})

    decision = await check(made, mine.token, "POST")

    assert isinstance(decision, Allow)
    assert [(q.name, q.unit, q.limit.capacity) for q in decision.quotas] == [
        ("default", "requests", 9),
        ("default", "tokens", 100_000),
        ("team", "requests", 3),
    ]


async def test_a_workspace_shares_its_limit(made: Parts) -> None:
    keys = [await key(made, "read-write", workspace="acme") for _ in range(3)]
    answers = [await check(made, one.token, "POST") for one in keys]
    last = await check(made, keys[0].token, "POST")

    assert all(isinstance(answer, Allow) for answer in answers)
    assert isinstance(last, Deny)
    assert last.refused is not None
    assert (last.reason, last.refused.name) == (Reason.RATE_LIMITED, "team")


async def test_an_envoy_route_may_ask_for_more(made: Parts) -> None:
    """`authz.scopes` and `authz.limits` of its context extensions; a name that is not there fails closed."""
    mine = await key(made, "read-only")

    assert (await check(made, mine.token, scopes="admin")).reason is Reason.INSUFFICIENT_SCOPE
    assert (await check(made, mine.token, scopes="unheard-of")).reason is Reason.INSUFFICIENT_SCOPE
    limited = [await check(made, mine.token, path="/free", limits="burst") for _ in range(3)]
    assert [answer.reason for answer in limited] == [Reason.ALLOWED, Reason.ALLOWED, Reason.RATE_LIMITED]
    assert (await check(made, None, path="/healthz", scopes="admin")).reason is Reason.MISSING_CREDENTIAL
    assert (await check(made, mine.token, path="/healthz", scopes="admin")).reason is Reason.INSUFFICIENT_SCOPE
    assert isinstance(await check(made, mine.token, scope="admin"), Fault)  # not `scopes`: a typo must not be no demand
    unknown = await check(made, mine.token, limits="brust")
    assert isinstance(unknown, Fault)
    assert unknown.reason is Reason.INTERNAL_ERROR


async def test_a_small_tokens_bucket_is_usable_with_a_larger_estimate(made: Parts) -> None:
    mine = await key(made, "read-only", limits={"tokens": Limit(100, 3600)})

    first, second = await check(made, mine.token), await check(made, mine.token)

    assert isinstance(first, Allow)
    assert isinstance(second, Deny)
    assert second.refused is not None
    assert (second.refused.unit, second.refused.remaining) == ("tokens", 0)


async def test_explaining_spends_nothing(made: Parts) -> None:
    mine = await key(made, "read-only", limits={"requests": Limit(1, 3600)})
    authorizer = pipeline(configuration(), made)

    for _ in range(3):
        assert isinstance(await authorizer.check(request(mine.token), spend=False), Allow)
    assert isinstance(await authorizer.check(request(mine.token)), Allow)


async def test_an_expired_record_is_refused_by_the_stores_clock(made: Parts) -> None:
    mine = await key(made, "read-only", lifetime_s=1, subject="alice")
    immortal = foreign(jti=mine.record.id, subject="alice")
    quick = pipeline(configuration(keys={"leeway": "1ms"}), made)
    assert isinstance(await quick.check(request(immortal)), Allow)

    ends_us = (mine.record.expires_at_us or 0) + 2_000
    while await made.store.now_us() < ends_us:
        pass

    assert (await quick.check(request(immortal))).reason is Reason.EXPIRED


@pytest.mark.parametrize("on_error", ["deny", "allow"])
async def test_an_emptied_store_lets_nothing_pass_in_any_mode(made: Parts, on_error: str) -> None:
    mine = await key(made, "read-only")
    authorizer = pipeline(configuration(store={"on_error": on_error}), made)
    assert isinstance(await authorizer.check(request(mine.token)), Allow)

    stores.flush(made.url)

    for token in (mine.token, foreign()):
        decision = await authorizer.check(request(token))
        assert isinstance(decision, Fault)
        assert decision.reason is Reason.STORE_UNAVAILABLE
