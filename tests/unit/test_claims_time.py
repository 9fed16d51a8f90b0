"""When claims hold, to the bound, with and without leeway."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.claims import Claims, judge_time
from authz.core.decision import Deny, Reason
from authz.core.problems import message


NOW = 1_800_000_000.0
CLAIMS = Claims("ada", "key_1", "", None, NOW - 1000, None, None)


@pytest.mark.parametrize(
    ("claims", "leeway_s", "expected"),
    [
        pytest.param(CLAIMS, 0, None, id="no exp: it never expires"),
        pytest.param(replace(CLAIMS, expires_at_s=NOW + 0.001), 0, None, id="just before exp"),
        pytest.param(replace(CLAIMS, expires_at_s=NOW), 0, Reason.EXPIRED, id="at exp itself"),
        pytest.param(replace(CLAIMS, expires_at_s=NOW - 1), 0, Reason.EXPIRED, id="after exp"),
        pytest.param(replace(CLAIMS, expires_at_s=NOW), 10, None, id="at exp, within leeway"),
        pytest.param(replace(CLAIMS, expires_at_s=NOW - 9.999), 10, None, id="just before the leeway's end"),
        pytest.param(replace(CLAIMS, expires_at_s=NOW - 10), 10, Reason.EXPIRED, id="at the leeway's end"),
        pytest.param(replace(CLAIMS, not_before_s=NOW), 0, None, id="at nbf itself"),
        pytest.param(replace(CLAIMS, not_before_s=NOW + 0.001), 0, Reason.NOT_YET_VALID, id="just before nbf"),
        pytest.param(replace(CLAIMS, not_before_s=NOW + 10), 10, None, id="nbf at the leeway's end"),
        pytest.param(replace(CLAIMS, not_before_s=NOW + 10.001), 10, Reason.NOT_YET_VALID, id="nbf beyond leeway"),
        pytest.param(replace(CLAIMS, issued_at_s=NOW), 0, None, id="issued now"),
        pytest.param(replace(CLAIMS, issued_at_s=NOW + 0.001), 0, Reason.NOT_YET_VALID, id="issued in the future"),
        pytest.param(replace(CLAIMS, issued_at_s=NOW + 10), 10, None, id="issued at the leeway's end"),
        pytest.param(replace(CLAIMS, issued_at_s=NOW + 10.001), 10, Reason.NOT_YET_VALID, id="issued beyond leeway"),
        pytest.param(
            replace(CLAIMS, expires_at_s=NOW - 60, not_before_s=NOW + 60), 0, Reason.EXPIRED, id="never: expired first"
        ),
    ],
)
def test_time_is_judged_to_the_bound(claims: Claims, leeway_s: float, expected: Reason | None) -> None:
    """A token holds from nbf and iat to just before exp (RFC 7519), all three widened by the leeway."""
    refusal = judge_time(claims, NOW, leeway_s)
    assert (refusal.reason if refusal else None) == expected


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        pytest.param(replace(CLAIMS, expires_at_s=NOW - 1), "The API key has expired.", id="expired"),
        pytest.param(replace(CLAIMS, not_before_s=NOW + 1), "The API key is not valid yet.", id="nbf"),
        pytest.param(
            replace(CLAIMS, expires_at_s=NOW - 1, is_session=True), "The session has expired: log in again.", id="login"
        ),
    ],
)
def test_nothing_is_said_twice(claims: Claims, expected: str) -> None:
    """A hint adds to the sentence of its reason, or is not there."""
    refusal = judge_time(claims, NOW, 0)
    assert refusal is not None
    assert message(Deny(refusal.reason, refusal.hint)) == expected


TIMES = st.floats(0, 253_402_300_799)


@given(TIMES, st.none() | TIMES, st.none() | TIMES, TIMES, st.floats(0, 3600), st.floats(0, 3600))
def test_more_leeway_never_refuses_more(
    iat: float, exp: float | None, nbf: float | None, now: float, leeway: float, more: float
) -> None:
    """What holds with some leeway holds with more."""
    claims = replace(CLAIMS, issued_at_s=iat, expires_at_s=exp, not_before_s=nbf)
    if judge_time(claims, now, leeway) is None:
        assert judge_time(claims, now, leeway + more) is None


@given(TIMES, st.none() | TIMES, TIMES, st.floats(0, 3600), TIMES)
def test_what_expired_stays_expired(iat: float, exp: float | None, now: float, leeway: float, later: float) -> None:
    """Once a token has expired no later moment brings it back."""
    claims = replace(CLAIMS, issued_at_s=iat, expires_at_s=exp)
    refusal = judge_time(claims, now, leeway)
    if refusal is not None and refusal.reason is Reason.EXPIRED:
        assert judge_time(claims, now + later, leeway) == refusal
