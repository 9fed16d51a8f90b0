"""The words of a refusal: status, sentence and body of every reason."""

import json
from dataclasses import replace
from typing import Any

import pytest

from authz.core.bucket import Limit, Quota
from authz.core.decision import Deny, Fault, Reason
from authz.core.headers import refusal
from authz.core.principal import Principal
from authz.core.problems import FORMATS, OF_SESSIONS, SENTENCE, STATUS, Problem, message, problem_of


READER = Principal("key_1", "sk-live-1a2b3c4d", "ada", "acme", ("read-only", "billing"))
EMPTY = Quota("default", "requests", Limit(60, 60), 0, 60_000_000)
TOKENS = Quota("team", "tokens", Limit(1000, 3600), 10, 60_000_000)
USER = Principal("usr_1a2b3c4d00abcdefghij", "", "ada", "acme", ("read-only",))
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


# --- every refusal, in every format


# Of the documented bodies; status → the answered status, inferno's alone.
MEMBERS = {
    "openai": ["message", "type", "param", "code"],
    "vinfer": ["code", "message", "details"],
    "inferno": ["code", "message", "details"],
    "voiceinfra": ["code", "message"],
    "problem": ["message", "type", "param", "code"],
}
ALL_400 = {413: 400, 415: 400}
FIXED_401 = {
    "vinfer": '{"error":{"code":"unauthorized","message":"Missing or invalid API key. Include a valid Bearer token in '
    'the Authorization header.","details":{}}}',
    "inferno": '{"error":{"code":"AUTHENTICATION_FAILED","message":"Invalid API key","details":null}}',
    "voiceinfra": '{"error":{"code":"unauthorized","message":"Invalid or missing API key."}}',
}
WORDS = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "body_too_large",
    415: "unsupported_content_type",
    429: "rate_limited",
    503: "unavailable",
}
CODES = {
    "vinfer": WORDS,
    "inferno": {
        400: "VALIDATION_ERROR",
        401: "AUTHENTICATION_FAILED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        405: "METHOD_NOT_ALLOWED",
        409: "CONFLICT",
        413: "VALIDATION_ERROR",
        415: "VALIDATION_ERROR",
        429: "RATE_LIMITED",
        503: "INTERNAL_ERROR",
    },
    "voiceinfra": WORDS,
}
DOORS = [
    Problem(401, "invalid_credentials", "The user name or the password is wrong."),
    Problem(403, "insufficient_scope", "You do not hold the scope."),
    Problem(404, "not_found", "There is nothing at this path."),
    Problem(405, "method_not_allowed", "This path takes GET, HEAD."),
    Problem(409, "conflict", "It was changed by somebody else."),
    Problem(400, "bad_request", "The request is not acceptable: key.name is wrong.", field="key.name"),
]
HINT = "there is white space in the key"


def refused(reason: Reason) -> Deny | Fault:
    if reason in FAULTS:
        return Fault(reason, "10.0.0.7 is away", "r", READER)
    required = ("read-write",) if reason is Reason.INSUFFICIENT_SCOPE else ()
    return Deny(reason, HINT, "r", READER, required, refused=EMPTY, retry_after_us=1)


def check_members(name: str, problem: Problem, status: int) -> dict[str, Any]:
    """The `error` of the body, whose names are in the documented order; nothing is repeated, nothing is missing."""
    text = FORMATS[name].body(problem)
    body: dict[str, Any] = json.loads(text)
    assert text == json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    outer = ["type", "title", "status", "detail", "reason", "error"] if name == "problem" else ["error"]
    assert (list(body), list(body["error"])) == (outer, MEMBERS[name])
    assert FORMATS[name].status(problem) == status
    assert body.get("status", status) == status
    return dict(body["error"])


def test_the_formats_are_all_in_the_tables() -> None:
    """A format that is added is tested here; of the statuses, inferno changes two."""
    assert set(FORMATS) == {*MEMBERS}
    assert {name: dict(form.statuses) for name, form in FORMATS.items() if form.statuses} == {"inferno": ALL_400}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("reason", [*DENIED, *FAULTS])
def test_every_reason_in_every_format(name: str, reason: Reason) -> None:
    """Valid JSON in the documented order, the right status, the documented code, and our message or the fixed one."""
    decision = refused(reason)
    ours = STATUS[reason]
    answered = ALL_400.get(ours, ours) if name == "inferno" else ours
    error = check_members(name, problem_of(decision), answered)
    if name in CODES:
        assert error["code"] == CODES[name][ours]
    if name in FIXED_401 and ours == 401:
        assert FORMATS[name].body(problem_of(decision)) == FIXED_401[name]
    elif (name, reason) != ("vinfer", Reason.INSUFFICIENT_SCOPE):
        assert error["message"] == message(decision)
        assert error.get("details", {}) in ({}, None)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("problem", DOORS, ids=lambda problem: str(problem.reason))
def test_what_doors_refuse_in_every_format(name: str, problem: Problem) -> None:
    """A door's own message is told in each, a failed login's too: that is not about an API key."""
    error = check_members(name, problem, problem.status)
    assert error["message"] == problem.message
    if name in CODES:
        assert error["code"] == CODES[name][problem.status]
        told = {"field": problem.field} if problem.field else {}
        assert error.get("details", told) == (told or (None if name == "inferno" else {}))
    else:
        own = "insufficient_scope" if problem.status == 403 else problem.reason
        assert (error["param"], error["code"]) == (problem.field or None, own)


@pytest.mark.parametrize("name", FIXED_401)
@pytest.mark.parametrize("reason", [reason for reason in DENIED if STATUS[reason] == 401])
def test_hints_are_told_in_the_header_where_the_text_is_fixed(name: str, reason: Reason) -> None:
    """The documented 401 is the same with any hint or none; `WWW-Authenticate` has it where a credential was sent."""
    hinted, bare = Deny(reason, HINT), Deny(reason)
    assert FORMATS[name].body(problem_of(hinted)) == FORMATS[name].body(problem_of(bare)) == FIXED_401[name]
    [(header, challenge)] = refusal(hinted, ())
    assert header == "www-authenticate"
    assert (HINT in challenge) == (reason is not Reason.MISSING_CREDENTIAL)


@pytest.mark.parametrize(
    ("required", "held", "wanted", "details"),
    [
        pytest.param("read-write", "read-only", "A read-write or admin key", "read-write|read-only", id="documented"),
        pytest.param("read-only", "", "A read-only, read-write or admin key", "read-only|", id="none held"),
        pytest.param("admin", "read-only read-write", "An admin key", "admin|read-write", id="the strongest held"),
        pytest.param("admin", "read-write billing read-only", "An admin key", "admin|read-write", id="and others"),
        pytest.param("admin", "billing notes", "An admin key", "admin|billing notes", id="others held"),
        pytest.param(
            "read-only read-write", "read-only", "A read-write or admin key", "read-write|read-only", id="two"
        ),
        pytest.param("billing", "admin", "A key with the scope billing", "billing|admin", id="another"),
        pytest.param(
            "admin billing", "admin", "A key with the scopes admin, billing", "admin billing|admin", id="mixed"
        ),
    ],
)
def test_vinfer_says_which_key_is_required(required: str, held: str, wanted: str, details: str) -> None:
    """The documented 403, byte for byte, by what is required and held."""
    principal = Principal("key_1", "sk-live-1a2b3c4d", "ada", "acme", tuple(held.split()))
    deny = Deny(Reason.INSUFFICIENT_SCOPE, principal=principal, required=tuple(required.split()))
    needed, current = details.split("|")
    assert FORMATS["vinfer"].body(problem_of(deny)) == (
        '{"error":{"code":"forbidden","message":"Your API key does not have permission to perform this action. '
        f'{wanted} is required.","details":{{"required_scope":"{needed}","current_scope":"{current}"}}}}}}'
    )


@pytest.mark.parametrize("status", [402, 410, 418, 500, 502])
def test_every_status_has_a_code(status: int) -> None:
    """Also one that we do not answer: it goes by the code of 400 or of 503."""
    problem = Problem(status, "x", "A message.")
    for name, codes in CODES.items():
        assert check_members(name, problem, status)["code"] == codes[400 if status < 500 else 503]


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


@pytest.mark.parametrize("reason", OF_SESSIONS)
def test_no_words_of_a_session_call_it_a_key(reason: Reason) -> None:
    """They are for what the other table calls a key, and end as all do, without a full stop."""
    assert "key" in SENTENCE[reason]
    assert "key" not in OF_SESSIONS[reason]
    assert not OF_SESSIONS[reason].endswith(".")


def test_every_refusal_that_names_a_key_has_words_for_a_session() -> None:
    """But for what is told of paths, which no credential changes."""
    assert {reason for reason in Reason if "key" in SENTENCE[reason].lower()} == {*OF_SESSIONS, Reason.NO_ROUTE}


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        pytest.param(Deny(Reason.REVOKED), "The session has been revoked.", id="revoked"),
        pytest.param(
            Deny(Reason.REVOKED, "it was replaced when the key was rotated"),
            "The session has been revoked: the password was changed.",
            id="another password",
        ),
        pytest.param(Deny(Reason.EXPIRED), "The session has expired.", id="expired"),
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, required=("admin",)),
            "The session lacks a scope: required: admin; held: read-only.",
            id="a scope",
        ),
        pytest.param(
            Deny(Reason.WRONG_KIND, "send an API key"),
            "The token is of a kind that is not accepted here: send an API key.",
            id="where keys are wanted",
        ),
        pytest.param(
            Deny(Reason.UNSUPPORTED_CONTENT_TYPE, "send application/x-keys"),
            "The content type is not accepted here: send application/x-keys.",
            id="what is not about the credential",
        ),
    ],
)
def test_a_credential_that_is_a_session_is_called_one(deny: Deny, expected: str) -> None:
    """Wherever it is sent."""
    told = replace(deny, principal=USER)
    assert message(told) == problem_of(told).message == expected
    assert message(told, sessions_alone=True) == expected


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        pytest.param(
            Deny(Reason.MISSING_CREDENTIAL, "send it as 'Authorization: Bearer KEY' or 'X-API-Key: KEY'"),
            "No session token was sent: send it as 'Authorization: Bearer TOKEN'.",
            id="none",
        ),
        pytest.param(
            Deny(Reason.MALFORMED_CREDENTIAL, "keys of this API start with sk-live-"),
            "The session token is malformed: send the session token of a user who has logged in.",
            id="neither key nor session",
        ),
        pytest.param(
            Deny(Reason.MALFORMED_CREDENTIAL, "there is white space before the key"),
            "The session token is malformed: there is white space before the token.",
            id="copied badly",
        ),
        pytest.param(
            Deny(Reason.CREDENTIAL_IN_URL, "send the key in a header: URLs end up in logs and histories"),
            "A session token does not belong in the URL: "
            "send the token in a header: URLs end up in logs and histories.",
            id="in the URL",
        ),
        pytest.param(
            Deny(Reason.UNKNOWN_KEY),
            "The session is not known here: send the session token of a user who has logged in.",
            id="unknown",
        ),
        pytest.param(Deny(Reason.REVOKED), "The session has been revoked.", id="revoked"),
        pytest.param(Deny(Reason.REVOKED, principal=READER), "The API key has been revoked.", id="a revoked key"),
        pytest.param(
            Deny(Reason.WRONG_KIND, "send the session token of a user who has logged in", principal=READER),
            "The token is of a kind that is not accepted here: send the session token of a user who has logged in.",
            id="a key",
        ),
        pytest.param(
            Deny(Reason.WRONG_AUDIENCE, "it was issued for something else"),
            "The token is not a session token of this API: it was issued for something else.",
            id="another audience",
        ),
        pytest.param(
            Deny(Reason.BAD_SIGNATURE),
            "The session token is not genuine: its signature does not match.",
            id="forged",
        ),
    ],
)
def test_where_sessions_alone_are_let_in_nobody_is_told_to_send_a_key(deny: Deny, expected: str) -> None:
    """From the beginning, in the body and in the challenge."""
    assert message(deny, sessions_alone=True) == expected
    assert problem_of(deny, sessions_alone=True).message == expected
    challenge = dict(refusal(deny, (), sessions_alone=True))["www-authenticate"]
    told = expected.replace('"', "'")
    bare = deny.reason is Reason.MISSING_CREDENTIAL
    assert challenge == ("Bearer" if bare else f'Bearer error="invalid_token", error_description="{told}"')


def test_a_fault_is_the_same_for_all() -> None:
    assert problem_of(AWAY, sessions_alone=True) == problem_of(AWAY)
