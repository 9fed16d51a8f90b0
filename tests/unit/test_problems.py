"""The words of a refusal: status, sentence and body of every reason."""

import json

import pytest

from authz.core.bucket import Limit, Quota
from authz.core.decision import Deny, Fault, Reason
from authz.core.principal import Principal
from authz.core.problems import FORMATS, SENTENCE, STATUS, message, problem_of


READER = Principal("key_1", "sk-live-1a2b3c4d", "ada", "acme", ("read-only", "billing"))
EMPTY = Quota("default", "requests", Limit(60, 60), 0, 60_000_000)
TOKENS = Quota("team", "tokens", Limit(1000, 3600), 10, 60_000_000)
DENIED = [reason for reason in Reason if 400 <= STATUS[reason] < 500]
FAULTS = [reason for reason in Reason if STATUS[reason] >= 500]

MISSING = Deny(Reason.MISSING_CREDENTIAL, "send it as 'Authorization: Bearer KEY'")
LACKING = Deny(Reason.INSUFFICIENT_SCOPE, route="write", principal=READER, required=("read-write",))
WAIT = Deny(Reason.RATE_LIMITED, principal=READER, quotas=(EMPTY,), refused=EMPTY, retry_after_us=1_000_001)
NEVER = Deny(Reason.RATE_LIMITED, principal=READER, quotas=(TOKENS,), refused=TOKENS, retry_after_us=-1)
AWAY = Fault(Reason.STORE_UNAVAILABLE, "10.0.0.7:6379 refused the connection", "write", READER)


@pytest.mark.parametrize("reason", Reason)
def test_tables_are_total(reason: Reason) -> None:
    """Every reason has a status and a sentence that the message can end with a full stop."""
    assert 200 <= STATUS[reason] <= 503
    assert SENTENCE[reason]
    assert not SENTENCE[reason].endswith(".")


def test_tables_have_nothing_else() -> None:
    """The tables name the closed list of reasons and nothing more."""
    assert (set(STATUS), set(SENTENCE)) == (set(Reason), set(Reason))


def test_statuses_follow_the_contract() -> None:
    """Reasons and statuses are those of the documented list."""
    by_status: dict[int, set[str]] = {}
    for reason, status in STATUS.items():
        by_status.setdefault(status, set()).add(reason.value)
    assert by_status == {
        200: {"allowed", "public"},
        401: {
            "missing_credential",
            "malformed_credential",
            "ambiguous_credential",
            "credential_in_url",
            "unknown_key",
            "bad_signature",
            "algorithm_refused",
            "unknown_issuer",
            "wrong_audience",
            "wrong_kind",
            "bad_claims",
            "expired",
            "not_yet_valid",
            "revoked",
        },
        403: {"insufficient_scope", "no_route", "ambiguous_path"},
        400: {"bad_request", "prompt_too_long"},
        413: {"body_too_large"},
        415: {"unsupported_content_type"},
        429: {"rate_limited"},
        503: {"store_unavailable", "overloaded", "internal_error"},
    }


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        pytest.param(
            MISSING,
            '{"error":{"message":"No API key was sent: send it as \'Authorization: Bearer KEY\'.",'
            '"type":"invalid_request_error","param":null,"code":"invalid_api_key"}}',
            id="401",
        ),
        pytest.param(
            LACKING,
            '{"error":{"message":"The API key lacks a scope: required: read-write; held: read-only, billing.",'
            '"type":"invalid_request_error","param":null,"code":"insufficient_scope"}}',
            id="403",
        ),
        pytest.param(
            WAIT,
            '{"error":{"message":"The rate limit is reached: 60 requests in 60 s (default); try again in 2 s.",'
            '"type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}',
            id="429",
        ),
        pytest.param(
            NEVER,
            '{"error":{"message":"The rate limit is reached: 1000 tokens in 3600 s (team); this request alone costs '
            'more, so waiting cannot help.","type":"rate_limit_error","param":null,"code":"rate_limit_exceeded"}}',
            id="429 for ever",
        ),
        pytest.param(
            AWAY,
            '{"error":{"message":"Authorization is unavailable at the moment, try again.","type":"server_error",'
            '"param":null,"code":"store_unavailable"}}',
            id="503",
        ),
    ],
)
def test_openai_bodies(decision: Deny | Fault, expected: str) -> None:
    """OpenAI's error object, byte for byte."""
    assert FORMATS["openai"].content_type == "application/json"
    assert FORMATS["openai"].body(problem_of(decision)) == expected


@pytest.mark.parametrize(
    ("decision", "title", "status"),
    [
        pytest.param(MISSING, "Unauthorized", 401, id="401"),
        pytest.param(LACKING, "Forbidden", 403, id="403"),
        pytest.param(WAIT, "Too Many Requests", 429, id="429"),
        pytest.param(NEVER, "Too Many Requests", 429, id="429 for ever"),
        pytest.param(AWAY, "Service Unavailable", 503, id="503"),
    ],
)
def test_problem_bodies(decision: Deny | Fault, title: str, status: int) -> None:
    """RFC 9457's members, then the `error` in which SDKs look for the message, byte for byte."""
    error = FORMATS["openai"].body(problem_of(decision)).removeprefix('{"error":').removesuffix("}")
    expected = (
        f'{{"type":"about:blank","title":"{title}","status":{status},"detail":"{message(decision)}",'
        f'"reason":"{decision.reason}","error":{error}}}'
    )
    assert FORMATS["problem"].content_type == "application/problem+json"
    assert FORMATS["problem"].body(problem_of(decision)) == expected


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("reason", DENIED)
def test_every_refusal_has_a_body(name: str, reason: Reason) -> None:
    """Every format has JSON for every refusal, with its message in `error.message`, where SDKs look."""
    deny = Deny(reason, "a hint", principal=READER, required=("x",), refused=EMPTY, retry_after_us=1)
    assert json.loads(FORMATS[name].body(problem_of(deny)))["error"]["message"] == message(deny)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("reason", FAULTS)
def test_fault_detail_is_never_told(name: str, reason: Reason) -> None:
    """What failed on our side is for our logs: no body differs by it."""
    bodies = {FORMATS[name].body(problem_of(Fault(reason, detail, "r", READER))) for detail in ("", "10.0.0.7 is away")}
    assert len(bodies) == 1
    assert "10.0.0.7" not in bodies.pop()


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        pytest.param(Deny(Reason.REVOKED), "The API key has been revoked.", id="no hint"),
        pytest.param(Deny(Reason.REVOKED, "why"), "The API key has been revoked: why.", id="a hint"),
        pytest.param(Deny(Reason.REVOKED, SENTENCE[Reason.REVOKED]), "The API key has been revoked.", id="the same"),
        pytest.param(Deny(Reason.RATE_LIMITED), "The rate limit is reached.", id="no bucket known"),
        pytest.param(
            Deny(Reason.RATE_LIMITED, refused=EMPTY, retry_after_us=0),
            "The rate limit is reached: 60 requests in 60 s (default); try again in 1 s.",
            id="at least a second",
        ),
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, required=("a", "b")),
            "The API key lacks a scope: required: a, b; held: none.",
            id="no principal",
        ),
    ],
)
def test_messages(deny: Deny, expected: str) -> None:
    """One sentence: what is wrong and, where it helps, what to do."""
    assert message(deny) == expected
