"""Rules for the request itself, on a real store: when they are told, what they spend, and what two checks of one do."""

import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from authz.admin.keys import IssuedKey, NewKey
from authz.core.bucket import Limit
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.pipeline import Authorizer
from tests.support.calls import Calls
from tests.support.parts import Parts, configuration, parts, pipeline, request


ROUTES = [
    {"name": "chat", "path": "/v1/chat", "scopes": ["read-write"], "limits": ["default"], "rules": ["json", "short"]},
    {"name": "stream", "path": "/v1/stream", "scopes": ["read-only"], "limits": ["default"], "rules": ["stream"]},
    {"name": "both", "path": "/v1/both", "scopes": ["read-only"], "limits": ["default"], "rules": ["stream", "short"]},
    {"name": "upload", "path": "/v1/files", "scopes": ["read-write"], "limits": ["default"], "rules": ["small"]},
    {"name": "public", "path": "/healthz", "public": True},
    {"name": "rest", "path": "/v1/**", "scopes": ["read-write"], "limits": ["default"]},
]
RULES = {
    "json": {"content_types": ["application/json"], "max_body": "1MB"},
    "short": {"max_prompt": 10},
    "small": {"max_body": 100},
    "stream": {"stream_scopes": ["read-write"]},
}
LONG = {"messages": [{"content": "12345"}, {"content": "678901"}]}
FINE = {"messages": [{"content": "12345"}, {"content": "67890"}]}


@pytest.fixture
async def made(valkey_url: str) -> AsyncIterator[Parts]:
    async with parts(valkey_url) as on_valkey:
        await on_valkey.create(NewKey("the first"))
        yield on_valkey


async def key(made: Parts, *scopes: str, requests: int = 100, tokens: int = 10_000) -> IssuedKey:
    limits = {"requests": Limit(requests, 3600), "tokens": Limit(tokens, 3600)}
    return await made.create(NewKey("test", scopes=scopes or ("read-write",), limits=limits))


def judging(made: Parts, **settings: Any) -> Authorizer:
    return pipeline(configuration(routes=ROUTES, request_rules=RULES, **settings), made)


async def check(
    made: Parts,
    token: str,
    body: object = None,
    *,
    stage: str = "",
    path: str = "/v1/chat",
    content_type: str = "application/json",
    spend: bool = True,
    settings: dict[str, Any] | None = None,
    **changes: Any,
) -> Decision:
    sent = b"" if body is None else body if isinstance(body, bytes) else json.dumps(body).encode()
    asked = request(token, "POST", path, **({"stage": stage} if stage else {}))
    headers = {**asked.headers, "content-length": str(len(sent)), "content-type": content_type}
    shown = sent if stage == "body" else b""
    asked = replace(asked, headers=headers, body=shown, **changes)
    return await judging(made, **(settings or {})).check(asked, spend=spend)


async def left(made: Parts, token: str) -> dict[str, int]:
    """In the buckets of the key, once another request was paid for; looked at alone."""
    decision = await judging(made).check(request(token, "POST", "/v1/other"), spend=False)
    assert isinstance(decision, Allow)
    return {quota.unit: quota.remaining for quota in decision.quotas}


def held(decision: Decision) -> bool:
    return not isinstance(decision, Fault) and decision.hold is not None


REFUSED = [
    pytest.param({"body": LONG}, Reason.PROMPT_TOO_LONG, id="a long prompt"),
    pytest.param({"body": b"{"}, Reason.BAD_REQUEST, id="not JSON"),
    pytest.param({"body": {"prompt": "x" * 10**6}}, Reason.BODY_TOO_LARGE, id="a large body"),
    pytest.param({"body": FINE, "content_type": "text/plain"}, Reason.UNSUPPORTED_CONTENT_TYPE, id="a content type"),
    pytest.param({"body": FINE, "is_cut_off": True}, Reason.BODY_TOO_LARGE, id="cut off"),
]


@pytest.mark.parametrize(("how", "reason"), REFUSED)
async def test_a_refusal_spends_nothing_and_counts_as_denied(made: Parts, how: dict[str, Any], reason: Reason) -> None:
    mine = await key(made, requests=1)
    before = await left(made, mine.token)

    for _ in range(3):
        decision = await check(made, mine.token, stage="body", **how)
        assert isinstance(decision, Deny)
        assert (decision.reason, decision.route) == (reason, "chat")
        assert decision.hold is not None
        assert (decision.hold.allowed, decision.hold.spent) == (False, ())

    assert await left(made, mine.token) == before
    assert (await check(made, mine.token, FINE, stage="body")).reason is Reason.ALLOWED


async def test_rules_are_told_after_the_scope_and_before_the_limit(made: Parts) -> None:
    reader, mine = await key(made, "read-only"), await key(made, requests=1)
    long: dict[str, Any] = {"body": LONG, "stage": "body"}

    assert (await check(made, reader.token, **long)).reason is Reason.INSUFFICIENT_SCOPE
    assert (await check(made, mine.token, FINE, stage="body")).reason is Reason.ALLOWED
    assert (await check(made, mine.token, **long)).reason is Reason.PROMPT_TOO_LONG
    assert (await check(made, mine.token, FINE, stage="body")).reason is Reason.RATE_LIMITED
    await made.revoke(mine.record.id)
    assert (await check(made, mine.token, **long)).reason is Reason.REVOKED
    assert (await check(made, mine.token, FINE, stage="headers", content_type="a/b")).reason is Reason.REVOKED


async def test_revocation_elsewhere_is_told_before_the_rules(made: Parts) -> None:
    """The store is asked, though nothing would be spent."""
    mine = await key(made)
    assert (await check(made, mine.token, LONG, stage="body")).reason is Reason.PROMPT_TOO_LONG
    async with parts(made.url) as elsewhere:
        await elsewhere.revoke(mine.record.id)

    assert (await check(made, mine.token, LONG, stage="body")).reason is Reason.REVOKED


async def test_the_first_check_looks_and_the_second_spends(made: Parts) -> None:
    mine = await key(made)
    before = await left(made, mine.token)

    first = await check(made, mine.token, FINE, stage="headers")
    between = await left(made, mine.token)
    second = await check(made, mine.token, FINE, stage="body")
    after = await left(made, mine.token)

    assert isinstance(first, Allow)
    assert isinstance(second, Allow)
    assert (first.preliminary, held(first)) == (True, False)
    assert (second.preliminary, held(second)) == (False, True)
    assert between == before
    assert {unit: before[unit] - after[unit] for unit in before} == {"requests": 1, "tokens": 500}


async def test_the_first_check_refuses_by_headers_and_for_good(made: Parts) -> None:
    mine, spent = await key(made), await key(made, requests=1)
    assert (await check(made, spent.token, FINE, stage="body")).reason is Reason.ALLOWED

    kind = await check(made, mine.token, FINE, stage="headers", content_type="text/plain")
    large = await check(made, mine.token, b"x" * 1_000_001, stage="headers")
    prompt = await check(made, mine.token, LONG, stage="headers")
    limited = await check(made, spent.token, FINE, stage="headers")

    assert [one.reason for one in (kind, large, prompt, limited)] == [
        Reason.UNSUPPORTED_CONTENT_TYPE,
        Reason.BODY_TOO_LARGE,
        Reason.ALLOWED,
        Reason.RATE_LIMITED,
    ]
    assert [held(one) for one in (kind, large, prompt, limited)] == [True, True, False, True]


async def test_looking_refuses_nothing_for_an_estimate(made: Parts) -> None:
    """The second check may know that a request asks for less."""
    mine = await key(made, tokens=600)
    assert (await check(made, mine.token, FINE, stage="body")).reason is Reason.ALLOWED

    assert (await check(made, mine.token, FINE, stage="headers")).reason is Reason.ALLOWED
    assert (await check(made, mine.token, FINE, stage="body", max_tokens=50)).reason is Reason.ALLOWED
    assert (await check(made, mine.token, FINE, stage="body")).reason is Reason.RATE_LIMITED
    assert (await check(made, mine.token, FINE, stage="headers", spend=False)).reason is Reason.RATE_LIMITED


@pytest.mark.parametrize(
    ("stage", "path", "detail"),
    [
        pytest.param("", "/v1/chat", "the rule short reads the body", id="nobody shows the body"),
        pytest.param("", "/v1/stream", "the rule stream reads the body", id="nobody shows the body, for a stream"),
        pytest.param("bdoy", "/v1/chat", "neither 'headers' nor 'body'", id="a typo"),
        pytest.param("bdoy", "/v1/other", "neither 'headers' nor 'body'", id="a typo, without rules"),
        pytest.param("bdoy", "/healthz", "neither 'headers' nor 'body'", id="a typo on a public route"),
    ],
)
async def test_an_envoy_that_is_wired_wrongly_fails_closed(made: Parts, stage: str, path: str, detail: str) -> None:
    mine = await key(made)

    decision = await check(made, mine.token, FINE, stage=stage, path=path)

    assert isinstance(decision, Fault)
    assert decision.reason is Reason.INTERNAL_ERROR
    assert detail in decision.detail


@pytest.mark.parametrize("path", ["/v1/chat", "/v1/stream", "/v1/files"])
async def test_a_body_that_did_not_come_fails_closed(made: Parts, path: str) -> None:
    mine = await key(made)
    asked = request(mine.token, "POST", path, stage="body")
    json_too = {**asked.headers, "content-type": "application/json"}

    told = await judging(made).check(replace(asked, headers={**json_too, "content-length": "5"}))
    untold = await judging(made).check(replace(asked, headers=json_too))

    assert isinstance(told, Fault)
    assert "with_request_body" in told.detail
    assert isinstance(untold, Deny)
    assert (untold.reason, untold.hint) == (Reason.BAD_REQUEST, "there is no body, or its length is not told")


async def test_a_stream_takes_its_scopes_and_spends_nothing_without_them(made: Parts) -> None:
    mine, writer = await key(made, "read-only", requests=2), await key(made, "read-write", requests=1)
    path = "/v1/stream"
    before = await left(made, writer.token)

    for streaming in ({"stream": True}, {"Stream": 0}, b'{"stream":false,"stream":"no"}'):
        refused = await check(made, mine.token, streaming, stage="body", path=path)
        assert isinstance(refused, Deny)
        assert (refused.reason, refused.required) == (Reason.INSUFFICIENT_SCOPE, ("read-only", "read-write"))
        assert (refused.route, held(refused)) == ("stream", True)
    for quiet in ({}, {"stream": False}, {"stream": None, "prompt": [1, 2, 3]}):
        assert (await check(made, writer.token, quiet, stage="body", path=path, spend=False)).reason is Reason.ALLOWED
    assert await left(made, writer.token) == before
    assert (await check(made, writer.token, {"stream": True}, stage="body", path=path)).reason is Reason.ALLOWED
    assert (await check(made, writer.token, {"stream": True}, stage="body", path=path)).reason is Reason.RATE_LIMITED
    assert [(await check(made, mine.token, {}, stage="body", path=path)).reason for _ in range(3)] == [
        Reason.ALLOWED,
        Reason.ALLOWED,
        Reason.RATE_LIMITED,
    ]


async def test_the_first_check_knows_of_no_stream(made: Parts) -> None:
    mine = await key(made, "read-only")

    first = await check(made, mine.token, {"stream": True}, stage="headers", path="/v1/stream")

    assert isinstance(first, Allow)
    assert first.preliminary


async def test_the_scope_of_a_stream_is_told_before_the_rules(made: Parts) -> None:
    """A body may lack both."""
    mine, writer = await key(made, "read-only"), await key(made, "read-write")
    both: dict[str, Any] = {"body": LONG | {"stream": True}, "stage": "body", "path": "/v1/both"}

    assert (await check(made, mine.token, **both)).reason is Reason.INSUFFICIENT_SCOPE
    assert (await check(made, writer.token, **both)).reason is Reason.PROMPT_TOO_LONG
    assert (await check(made, mine.token, LONG, stage="body", path="/v1/both")).reason is Reason.PROMPT_TOO_LONG
    unreadable = await check(made, mine.token, b'{"stream":true', stage="body", path="/v1/both")
    assert unreadable.reason is Reason.BAD_REQUEST
    await made.revoke(mine.record.id)
    assert (await check(made, mine.token, **both)).reason is Reason.REVOKED


async def test_without_a_stage_headers_are_judged_and_it_spends(made: Parts) -> None:
    mine = await key(made)
    before = await left(made, mine.token)

    assert (await check(made, mine.token, b"x" * 101, path="/v1/files")).reason is Reason.BODY_TOO_LARGE
    fine = await check(made, mine.token, b"x" * 100, path="/v1/files")

    assert isinstance(fine, Allow)
    assert (fine.preliminary, held(fine)) == (False, True)
    assert before["requests"] - (await left(made, mine.token))["requests"] == 1
    asked = request(mine.token, "POST", "/v1/files")
    chunked = replace(asked, headers={**asked.headers, "transfer-encoding": "chunked"})
    assert (await judging(made).check(chunked)).reason is Reason.BODY_TOO_LARGE


async def test_a_public_route_needs_no_credential_at_any_stage(made: Parts) -> None:
    for stage in ("headers", "body"):
        decision = await judging(made).check(request(None, path="/healthz", stage=stage))
        assert isinstance(decision, Allow)
        assert (decision.reason, decision.preliminary) == (Reason.PUBLIC, False)


async def test_rules_are_kept_while_the_store_is_away(made: Parts) -> None:
    mine = await key(made)
    settings = {"store": {"on_error": "allow"}}
    await check(made, mine.token, FINE, stage="body")
    Calls(made.store).away = True

    long = await check(made, mine.token, LONG, stage="body", settings=settings)
    fine = await check(made, mine.token, FINE, stage="body", settings=settings)
    first = await check(made, mine.token, FINE, stage="headers", settings=settings)

    assert long.reason is Reason.PROMPT_TOO_LONG
    assert isinstance(fine, Allow)
    assert isinstance(first, Allow)
    assert (fine.degraded, held(fine)) == (True, True)
    assert (first.degraded, first.preliminary, held(first)) == (True, True, False)
