"""From our decision to Envoy's CheckResponse: an allow allows, everything else is refused in both its codes."""

import dataclasses
import json
from typing import Any

import pytest
from envoy.config.core.v3 import base_pb2
from google.rpc import code_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.adapters.envoy.codec import ResponseStyle, encode
from authz.core.bucket import Limit, Quota
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.headers import IDENTITY, RATELIMIT_STYLES
from authz.core.principal import Principal
from authz.core.problems import FORMATS, STATUS, problem_of
from tests.support.envoy import NOW_US, PRINCIPAL, QUOTA, STYLE, pairs, response


REFUSALS = [reason for reason in Reason if STATUS[reason] != 200]
LIMITED = Deny(
    Reason.RATE_LIMITED,
    route="chat",
    principal=PRINCIPAL,
    quotas=(QUOTA,),
    refused=dataclasses.replace(QUOTA, remaining=-3),
    retry_after_us=1_500_000,
    now_us=NOW_US,
)


def encoded(decision: Decision, style: ResponseStyle = STYLE) -> Any:
    return response(encode(decision, style))


def challenge(error: str, description: str, rest: str = "") -> dict[str, str]:
    return {"www-authenticate": f'Bearer error="{error}", error_description="{description}"{rest}'}


@pytest.mark.parametrize(
    ("principal", "identity", "removed"),
    [
        pytest.param(
            PRINCIPAL,
            {
                "x-authz-key-id": "key_1a2b3c4d00abcdefghij",
                "x-authz-key-prefix": "sk-live-1a2b3c4d",
                "x-authz-subject": "user-1",
                "x-authz-workspace": "acme",
                "x-authz-scopes": "read-only read-write",
            },
            [],
            id="everything known",
        ),
        pytest.param(
            Principal("j", "", "user-1", "", ()),
            {"x-authz-key-id": "j", "x-authz-subject": "user-1"},
            ["x-authz-key-prefix", "x-authz-workspace", "x-authz-scopes"],
            id="without prefix, workspace and scopes",
        ),
        pytest.param(None, {}, list(IDENTITY), id="public: nobody"),
        pytest.param(
            Principal("j", "p", "a\r\nx-admin: 1\x00", "w", ("s",)),
            {
                "x-authz-key-id": "j",
                "x-authz-key-prefix": "p",
                "x-authz-subject": "a  x-admin: 1",
                "x-authz-workspace": "w",
                "x-authz-scopes": "s",
            },
            [],
            id="a line end in a subject",
        ),
    ],
)
def test_allow_names_the_caller(principal: Principal | None, identity: dict[str, str], removed: list[str]) -> None:
    """The upstream is told who calls, in place of what a client claims; the credential does not reach it."""
    reason = Reason.ALLOWED if principal else Reason.PUBLIC
    answer = encoded(Allow(reason, "chat", principal, (QUOTA,), NOW_US))

    assert answer.status.code == code_pb2.OK
    assert answer.WhichOneof("http_response") == "ok_response"
    assert pairs(answer.ok_response.headers) == identity
    assert {option.append_action for option in answer.ok_response.headers} <= {
        base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    }
    assert list(answer.ok_response.headers_to_remove) == ["authorization", "x-api-key", *removed]


def test_allow_forwards_the_credential_where_that_is_configured() -> None:
    """Without credential headers to remove, all that is removed is the identity that is not told."""
    style = dataclasses.replace(STYLE, credential_headers=())

    assert list(encoded(Allow(Reason.ALLOWED, "", PRINCIPAL), style).ok_response.headers_to_remove) == []


def test_allow_tells_the_client_its_limits() -> None:
    """The limits go into the client's response and replace the upstream's own."""
    shown = encoded(Allow(Reason.ALLOWED, "chat", PRINCIPAL, (QUOTA,), NOW_US)).ok_response.response_headers_to_add

    assert pairs(shown) == {
        "x-ratelimit-limit": "60",
        "x-ratelimit-remaining": "59",
        "x-ratelimit-reset": str(NOW_US // 1_000_000 + 1),
    }
    assert {option.append_action for option in shown} == {base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD}


def test_allow_without_limits_shows_none() -> None:
    """Where nothing was counted there is nothing to show."""
    assert not encoded(Allow(Reason.PUBLIC, "health")).ok_response.response_headers_to_add


@pytest.mark.parametrize(
    ("decision", "metadata"),
    [
        pytest.param(
            Allow(Reason.ALLOWED, "chat", PRINCIPAL),
            {
                "decision": "allowed",
                "reason": "allowed",
                "route": "chat",
                "key_id": "key_1a2b3c4d00abcdefghij",
                "key_prefix": "sk-live-1a2b3c4d",
                "subject": "user-1",
                "workspace": "acme",
            },
            id="allow",
        ),
        pytest.param(
            Allow(Reason.PUBLIC, "health"), {"decision": "allowed", "reason": "public", "route": "health"}, id="public"
        ),
        pytest.param(
            Deny(Reason.NO_ROUTE, principal=Principal("j", "", "s", "", ())),
            {"decision": "denied", "reason": "no_route", "key_id": "j", "subject": "s"},
            id="deny: what is empty is left out",
        ),
        pytest.param(
            Fault(Reason.STORE_UNAVAILABLE, "redis://secret@host", "chat"),
            {"decision": "denied", "reason": "store_unavailable", "route": "chat"},
            id="fault: its detail is not told",
        ),
    ],
)
def test_metadata(decision: Decision, metadata: dict[str, str]) -> None:
    """Envoy's logs and RBAC read who, where, and why."""
    assert dict(encoded(decision).dynamic_metadata.items()) == metadata


@pytest.mark.parametrize(
    ("decision", "code", "status", "message", "headers"),
    [
        pytest.param(
            Deny(Reason.MISSING_CREDENTIAL, "send it"),
            code_pb2.UNAUTHENTICATED,
            401,
            "No API key was sent: send it.",
            {"www-authenticate": "Bearer"},
            id="no credential: the challenge is bare",
        ),
        pytest.param(
            Deny(Reason.BAD_SIGNATURE),
            code_pb2.UNAUTHENTICATED,
            401,
            "The API key is not genuine: its signature does not match.",
            challenge("invalid_token", "The API key is not genuine: its signature does not match."),
            id="bad signature",
        ),
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, principal=PRINCIPAL, required=("admin",)),
            code_pb2.PERMISSION_DENIED,
            403,
            "The API key lacks a scope: required: admin; held: read-only, read-write.",
            challenge(
                "insufficient_scope",
                "The API key lacks a scope: required: admin; held: read-only, read-write.",
                ', scope="admin"',
            ),
            id="scope",
        ),
        pytest.param(
            Deny(Reason.BODY_TOO_LARGE, "10 MB at most"),
            code_pb2.INVALID_ARGUMENT,
            413,
            "The request body is too large: 10 MB at most.",
            {},
            id="body too large",
        ),
        pytest.param(
            LIMITED,
            code_pb2.RESOURCE_EXHAUSTED,
            429,
            "The rate limit is reached: 60 requests in 60 s (default); try again in 2 s.",
            {
                "retry-after": "2",
                "retry-after-ms": "1500",
                "x-ratelimit-limit": "60",
                "x-ratelimit-remaining": "0",
                "x-ratelimit-reset": str(NOW_US // 1_000_000 + 1),
            },
            id="rate limited",
        ),
        pytest.param(
            dataclasses.replace(LIMITED, retry_after_us=-1, quotas=(), refused=None),
            code_pb2.RESOURCE_EXHAUSTED,
            429,
            "The rate limit is reached.",
            {"x-should-retry": "false"},
            id="waiting cannot help",
        ),
        pytest.param(
            Fault(Reason.STORE_UNAVAILABLE, "redis://secret@host refused"),
            code_pb2.UNAVAILABLE,
            503,
            "Authorization is unavailable at the moment, try again.",
            {"retry-after": "1"},
            id="fault",
        ),
    ],
)
def test_refusal(decision: Deny | Fault, code: int, status: int, message: str, headers: dict[str, str]) -> None:
    """A refusal has gRPC's code, HTTP's status, the body of the format, and the headers that belong to it."""
    answer = encoded(decision)
    denied = answer.denied_response

    assert (answer.status.code, denied.status.code) == (code, status)
    assert json.loads(denied.body)["error"]["message"] == message
    assert pairs(denied.headers) == {"content-type": "application/json"} | headers
    assert {option.append_action for option in denied.headers} == {
        base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD
    }


anything = st.text(max_size=20) | st.sampled_from(["a\r\nb", "\x00", "\r", 'a"b\\', "é\u2028\ud800"])
principals = st.builds(Principal, anything, anything, anything, anything, st.lists(anything, max_size=3).map(tuple))
amounts = st.integers(-(2**53), 2**53)
quotas = st.builds(
    Quota,
    anything,
    st.sampled_from(["requests", "tokens"]),
    st.builds(Limit, st.integers(1, 10**9), st.integers(1, 31 * 86_400)),
    amounts,
    st.integers(0, 2**53),
)
many_quotas = st.lists(quotas, max_size=3).map(tuple)
times_us = st.integers(0, 2**53)
# What reaches a body comes from us, from the configuration or through a proto message: never a lone surrogate.
told = st.text(max_size=20)
tellable = st.builds(Principal, anything, anything, anything, anything, st.lists(told, max_size=3).map(tuple))
denies = st.builds(
    Deny,
    st.sampled_from(REFUSALS),
    told,
    anything,
    st.none() | tellable,
    st.lists(told, max_size=3).map(tuple),
    many_quotas,
    st.none() | quotas.map(lambda quota: dataclasses.replace(quota, name="default")),
    st.none() | amounts,
    times_us,
)
faults = st.builds(Fault, st.sampled_from(REFUSALS), anything, anything, st.none() | tellable)
allows = st.builds(
    Allow, st.sampled_from([Reason.ALLOWED, Reason.PUBLIC]), anything, st.none() | principals, many_quotas, times_us
)
styles = st.builds(
    ResponseStyle,
    st.sampled_from(list(FORMATS.values())),
    st.lists(st.sampled_from(RATELIMIT_STYLES), unique=True).map(tuple),
    st.just(("authorization",)),
)


def assert_headers_are_sound(options: Any) -> None:
    for option in options:
        assert option.header.key == option.header.key.lower()
        assert not set(option.header.value) & set("\x00\r\n")
        assert option.append_action == base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


@pytest.mark.parametrize("decision", [kind(reason) for kind in (Deny, Fault) for reason in REFUSALS], ids=str)
def test_every_reason_is_refused(decision: Decision) -> None:
    """Each reason of the closed list, as a deny and as a fault, is a refusal in the status that is its own."""
    answer = encoded(decision)

    assert answer.status.code != code_pb2.OK
    assert answer.denied_response.status.code == STATUS[decision.reason]


def test_what_is_not_decided_yet_takes_no_credential_away() -> None:
    """The next check needs it; and Envoy would show this one's limits in place of the next one's."""
    answer = encoded(Allow(Reason.ALLOWED, "read", PRINCIPAL, (QUOTA,), NOW_US, preliminary=True))

    assert answer.status.code == code_pb2.OK
    assert not set(answer.ok_response.headers_to_remove) & set(STYLE.credential_headers)
    assert set(pairs(answer.ok_response.headers)) <= set(IDENTITY)
    assert pairs(answer.ok_response.headers)
    assert not answer.ok_response.response_headers_to_add
    assert not {"decision_id", "estimate", "settlement"} & set(answer.dynamic_metadata)


@pytest.mark.parametrize("reason", [reason for reason in REFUSALS if STATUS[reason] in {400, 413, 415}])
def test_a_format_may_answer_another_status(reason: Reason) -> None:
    """To every wrong input, inferno answers 400, in both codes."""
    style = dataclasses.replace(STYLE, format=FORMATS["inferno"])
    answer = encoded(Deny(reason, "a hint"), style)

    assert (answer.status.code, answer.denied_response.status.code) == (code_pb2.INVALID_ARGUMENT, 400)
    assert json.loads(answer.denied_response.body)["error"]["code"] == "VALIDATION_ERROR"
    assert pairs(answer.denied_response.headers) == {"content-type": "application/json"}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("reason", REFUSALS)
def test_headers_are_the_same_in_every_format(name: str, reason: Reason) -> None:
    """All but the content type: hints are told in `WWW-Authenticate`, whatever the body says."""
    answers = [
        encoded(Deny(reason, "a hint", required=("x",)), dataclasses.replace(STYLE, format=FORMATS[each]))
        for each in ("openai", name)
    ]
    usual, other = ({**pairs(answer.denied_response.headers), "content-type": ""} for answer in answers)

    assert usual == other


@settings(deadline=None)
@given(denies | faults, styles)
def test_no_refusal_looks_like_an_allow(decision: Deny | Fault, style: ResponseStyle) -> None:
    """Whatever a refusal holds, its code is not OK, it has a denied_response alone, and its headers are sound."""
    answer = encoded(decision, style)

    assert answer.status.code != code_pb2.OK
    assert answer.WhichOneof("http_response") == "denied_response"
    assert answer.denied_response.status.code == style.format.status(problem_of(decision))
    assert json.loads(answer.denied_response.body)
    assert_headers_are_sound(answer.denied_response.headers)


@settings(deadline=None)
@given(allows, styles)
def test_every_allow_is_one(decision: Allow, style: ResponseStyle) -> None:
    """An allow has the code OK and an ok_response; no identity header of the client's own gets through."""
    answer = encoded(decision, style)
    ok = answer.ok_response

    assert answer.status.code == code_pb2.OK
    assert answer.WhichOneof("http_response") == "ok_response"
    assert_headers_are_sound([*ok.headers, *ok.response_headers_to_add])
    assert {option.header.key for option in ok.headers} | set(ok.headers_to_remove) >= {*IDENTITY, "authorization"}
    assert not {option.header.key for option in ok.headers} & set(ok.headers_to_remove)
