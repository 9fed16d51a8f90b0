"""What a decision leaves to be settled, and what it spends ahead, on a real store."""

from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from authz.admin.keys import IssuedKey, NewKey
from authz.core.bucket import Limit
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.settlement import Hold
from tests.support.calls import Calls
from tests.support.parts import Parts, configuration, parts, pipeline, request


LIMITS = {
    "default": {"requests": "4/1h", "tokens": "10000/1h"},
    "team": {"per": "workspace", "tokens": "20000/1h"},
    "calls": {"requests": "100/1h"},
}
ROUTES = [
    {"path": "/v1/**", "scopes": ["read-only"], "limits": ["default", "team", "calls"]},
    {"path": "/calls/**", "scopes": ["read-only"], "limits": ["calls"]},
]


@pytest.fixture
async def made(valkey_url: str) -> AsyncIterator[Parts]:
    async with parts(valkey_url) as on_valkey:
        await on_valkey.create(NewKey("the first"))
        yield on_valkey


async def key(made: Parts, *scopes: str, **fields: Any) -> IssuedKey:
    return await made.create(NewKey("test", scopes=scopes or ("read-only",), workspace="acme", **fields))


async def check(made: Parts, token: str, max_tokens: int | None = None, *, spend: bool = True, **how: Any) -> Decision:
    settings = {"routes": ROUTES, "limits": LIMITS} | how.pop("settings", {})
    asked = replace(
        request(token, **how), max_tokens=max_tokens and abs(max_tokens), is_max_sure=(max_tokens or 0) >= 0
    )
    return await pipeline(configuration(**settings), made).check(asked, spend=spend)


def held(decision: Decision) -> Hold:
    assert not isinstance(decision, Fault)
    assert decision.hold is not None
    return decision.hold


async def test_an_allowed_request_leaves_what_it_spent(made: Parts) -> None:
    mine = await key(made, subject="alice", limits={"tokens": Limit(7000, 60)})

    decision = await check(made, mine.token)
    hold = held(decision)

    assert (hold.key_id, hold.key_prefix) == (mine.record.id, mine.record.prefix)
    assert (hold.subject, hold.workspace, hold.allowed, hold.recorded) == ("alice", "acme", True, True)
    assert isinstance(decision, Allow)
    assert hold.at_us == decision.now_us
    assert [(one.limit, one.owner, one.bucket, one.estimate) for one in hold.spent] == [
        ("default", f"k:{mine.record.id}", Limit(7000, 60), 500),
        ("team", "w:acme", Limit(20_000, 3600), 500),
    ]


@pytest.mark.parametrize(
    ("max_tokens", "settings", "spent"),
    [
        pytest.param(None, {}, 500, id="the configured estimate"),
        pytest.param(None, {"settlement": {"estimate": 0}}, 0, id="none"),
        pytest.param(40, {}, 40, id="what the request says"),
        pytest.param(9000, {}, 9000, id="more than the estimate"),
        pytest.param(-40, {}, 500, id="nonsense beside a small maximum: at least the estimate"),
        pytest.param(-9000, {}, 9000, id="nonsense beside a large one"),
    ],
)
async def test_the_estimate(made: Parts, max_tokens: int | None, settings: dict[str, Any], spent: int) -> None:
    mine = await key(made)

    decision = await check(made, mine.token, max_tokens, settings=settings)  # below zero: it is not sure

    assert isinstance(decision, Allow)
    assert [one.estimate for one in held(decision).spent] == [spent, spent]
    remaining = {(quota.name, quota.unit): quota.remaining for quota in decision.quotas}
    assert remaining[("default", "tokens")] == 10_000 - spent
    assert remaining[("team", "tokens")] == 20_000 - spent


async def test_what_can_never_fit_is_told_so(made: Parts) -> None:
    """In the bucket whose capacity it exceeds; nothing is spent."""
    mine = await key(made)

    decision = await check(made, mine.token, 10_001)

    assert isinstance(decision, Deny)
    assert (decision.reason, decision.retry_after_us) == (Reason.RATE_LIMITED, -1)
    assert decision.refused is not None
    assert (decision.refused.name, decision.refused.unit, decision.refused.remaining) == ("default", "tokens", 10_000)
    assert isinstance(await check(made, mine.token, 10_000), Allow)


async def test_without_a_bucket_of_tokens_nothing_is_spent_and_the_request_still_counts(made: Parts) -> None:
    mine = await key(made)

    assert held(await check(made, mine.token, 10**9, path="/calls/x")).spent == ()


async def test_a_refusal_of_somebody_known_is_counted_and_spends_nothing(made: Parts) -> None:
    limited = await key(made, limits={"requests": Limit(1, 3600)})
    assert isinstance(await check(made, limited.token), Allow)
    scopeless = await made.create(NewKey("without a scope"))
    revoked = await key(made)
    await made.revoke(revoked.record.id)
    for token, path, reason in (
        (limited.token, "/v1/x", Reason.RATE_LIMITED),
        (limited.token, "/nowhere", Reason.NO_ROUTE),
        (limited.token, "/v1/a;b", Reason.AMBIGUOUS_PATH),
        (scopeless.token, "/v1/x", Reason.INSUFFICIENT_SCOPE),
        (revoked.token, "/v1/x", Reason.REVOKED),
    ):
        decision = await check(made, token, path=path)
        assert decision.reason is reason
        assert (held(decision).allowed, held(decision).spent) == (False, ())


async def test_nobody_leaves_nothing(made: Parts) -> None:
    public = [{"path": "/v1/**", "public": True}]

    for decision in (
        await check(made, "nonsense"),
        await check(made, "sk-live-" + "a" * 49),
        await check(made, "nonsense", settings={"routes": public}),
    ):
        assert not isinstance(decision, Fault)
        assert (decision.principal, decision.hold) == (None, None)


async def test_explaining_leaves_nothing(made: Parts) -> None:
    mine = await key(made)

    for path in ("/v1/x", "/nowhere"):
        decision = await check(made, mine.token, path=path, spend=False)
        assert not isinstance(decision, Fault)
        assert decision.hold is None


async def test_no_two_decisions_have_one_name(made: Parts) -> None:
    mine = await key(made, limits={"requests": Limit(1000, 1)})
    other = await key(made)

    ids = [held(await check(made, token)).id for token in (mine.token, other.token) * 20]

    assert len(set(ids)) == 40
    assert len({(one.process, one.partition) for one in ids}) == 1  # one sidecar, one tenant
    assert sorted(one.number for one in ids) == list(range(min(ids).number, min(ids).number + 40))


async def test_what_passes_without_the_store_is_counted_when_it_is_back(made: Parts) -> None:
    """`on_error: allow`: nothing was spent, so nothing is corrected."""
    mine = await key(made)
    settings = {"store": {"on_error": "allow"}}
    assert isinstance(await check(made, mine.token, settings=settings), Allow)
    Calls(made.store).away = True

    decision = await check(made, mine.token, settings=settings)

    assert isinstance(decision, Allow)
    assert decision.degraded
    assert (held(decision).allowed, held(decision).spent) == (True, ())
    assert abs(held(decision).at_us / 1e6 - 1_000_000_000) < 1e10  # µs, by our own clock
