"""What a decision means, step by step."""

import pytest

from authz.core.bucket import Limit, Quota
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.explain import Outcome, explain
from authz.core.principal import Principal
from authz.core.problems import STATUS


ORDER = ["credential", "authenticity", "key state", "scope", "request rules", "limits"]
READER = Principal("key_1", "sk-live-1a2b3c4d", "ada", "acme", ("read-only",))
SOLE = Principal("key_1", "sk-live-1a2b3c4d", "key_1", "", ())
USER = Principal("usr_1a2b3c4d00abcdefghij", "", "ada", "", ())
FOREIGN = Principal("somebody-elses-jti", "", "ada", "", ())
QUOTAS = (Quota("default", "requests", Limit(60, 60), 59, 1), Quota("default", "tokens", Limit(1000, 60), 500, 1))
STEP_OF = {
    "credential": ["missing_credential", "malformed_credential", "ambiguous_credential", "credential_in_url"],
    "authenticity": [
        "bad_signature",
        "algorithm_refused",
        "unknown_issuer",
        "wrong_audience",
        "wrong_kind",
        "bad_claims",
        "expired",
        "not_yet_valid",
    ],
    "key state": ["unknown_key", "revoked", "store_unavailable", "overloaded"],
    "scope": ["insufficient_scope", "no_route", "ambiguous_path"],
    "request rules": ["bad_request", "body_too_large", "prompt_too_long", "unsupported_content_type"],
    "limits": ["rate_limited"],
}
REFUSING = [reason for reason in Reason if STATUS[reason] != 200 and reason is not Reason.INTERNAL_ERROR]


def decision_of(reason: Reason) -> Decision:
    if STATUS[reason] == 200:
        return Allow(reason, "read", READER)
    return Fault(reason, "why", "read") if STATUS[reason] == 503 else Deny(reason, "why", "read", READER)


@pytest.mark.parametrize("reason", REFUSING)
def test_exactly_one_step_fails(reason: Reason) -> None:
    """Every refusal fails at exactly one step, the one it belongs to; all before passed, none after was reached."""
    steps = explain(decision_of(reason))
    failed = [step.name for step in steps if step.outcome is Outcome.FAILED]
    at = ORDER.index(failed[0])
    assert [step.name for step in steps] == ORDER
    assert failed == [name for name, reasons in STEP_OF.items() if reason.value in reasons]
    assert [step.outcome for step in steps] == [
        *[Outcome.OK] * at,
        Outcome.FAILED,
        *[Outcome.NOT_REACHED] * (len(ORDER) - at - 1),
    ]


def test_steps_cover_the_reasons() -> None:
    """No reason belongs to two steps, and but for allowed, public and a bug of ours each belongs to one."""
    named = [reason for reasons in STEP_OF.values() for reason in reasons]
    assert sorted(named) == sorted(reason.value for reason in REFUSING)


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        pytest.param(
            Allow(Reason.ALLOWED, "read", READER, QUOTAS),
            [
                "",
                "key key_1 (sk-live-1a2b3c4d), subject ada, workspace acme",
                "known and not revoked",
                "route read; held: read-only",
                "",
                "default.requests 59 of 60 left; default.tokens 500 of 1000 left",
            ],
            id="all told",
        ),
        pytest.param(
            Allow(Reason.ALLOWED, "read", SOLE),
            [
                "",
                "key key_1 (sk-live-1a2b3c4d), subject key_1",
                "known and not revoked",
                "route read; held: none",
                "",
                "none on this route",
            ],
            id="nothing to tell",
        ),
        pytest.param(
            Allow(Reason.ALLOWED, "read", USER),
            [
                "",
                "session of the user usr_1a2b3c4d00abcdefghij, subject ada",
                "known and not revoked",
                "route read; held: none",
                "",
                "none on this route",
            ],
            id="a session",
        ),
        pytest.param(
            Allow(Reason.ALLOWED, "read", FOREIGN),
            [
                "",
                "key somebody-elses-jti, subject ada",
                "known and not revoked",
                "route read; held: none",
                "",
                "none on this route",
            ],
            id="a token without a record",
        ),
    ],
)
def test_allowed(decision: Allow, expected: list[str]) -> None:
    """An allowed request passed every step, each with what is known of it."""
    steps = explain(decision)
    assert [(step.name, step.outcome, step.detail) for step in steps] == [
        (name, Outcome.OK, detail) for name, detail in zip(ORDER, expected, strict=True)
    ]


def test_public() -> None:
    """A public route asks one thing alone."""
    assert [(step.name, step.outcome, step.detail) for step in explain(Allow(Reason.PUBLIC, "health"))] == [
        ("route", Outcome.OK, "health is public: nothing else is asked")
    ]


def test_internal_error_reached_nothing() -> None:
    """Of a bug of ours it is not known where it struck, so no step is said to have passed."""
    assert {step.outcome for step in explain(Fault(Reason.INTERNAL_ERROR, "a bug"))} == {Outcome.NOT_REACHED}


@pytest.mark.parametrize(
    ("decision", "expected"),
    [
        pytest.param(
            Deny(Reason.MALFORMED_CREDENTIAL, "the key is empty"),
            "401 malformed_credential: The API key is malformed: the key is empty.",
            id="401",
        ),
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, principal=READER, required=("read-write",)),
            "403 insufficient_scope: The API key lacks a scope: required: read-write; held: read-only.",
            id="403",
        ),
        pytest.param(
            Fault(Reason.STORE_UNAVAILABLE, "127.0.0.1:6379 is away"),
            "503 store_unavailable: 127.0.0.1:6379 is away",
            id="503: whoever explains may read the detail",
        ),
    ],
)
def test_failed_detail(decision: Decision, expected: str) -> None:
    """The step that failed tells status, reason and sentence."""
    assert [step.detail for step in explain(decision) if step.outcome is Outcome.FAILED] == [expected]
