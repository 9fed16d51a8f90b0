"""The headers of a refusal: the challenge, when to come back, the limits."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.bucket import Limit, Quota
from authz.core.decision import Deny, Fault, Reason
from authz.core.headers import RATELIMIT_STYLES, Header, forbidden, refusal
from authz.core.principal import Principal
from authz.core.problems import STATUS


NOW = 1_800_000_000_000_000
READER = Principal("key_1", "sk-live-1a2b3c4d", "ada", "acme", ("read-only",))
NOBODY = Principal("key_1", "sk-live-1a2b3c4d", "ada", "acme", ())
EMPTY = Quota("default", "requests", Limit(60, 60), 0, 60_000_000)


@pytest.mark.parametrize(
    ("deny", "expected"),
    [
        pytest.param(Deny(Reason.MISSING_CREDENTIAL, "send it as 'X-Api-Key: KEY'"), "Bearer", id="none sent: bare"),
        pytest.param(
            Deny(Reason.MALFORMED_CREDENTIAL, "there is white space in the key"),
            'Bearer error="invalid_token", '
            'error_description="The API key is malformed: there is white space in the key."',
            id="the hint goes there",
        ),
        pytest.param(
            Deny(Reason.MALFORMED_CREDENTIAL, "the scheme is missing: write 'Bearer' and a space before the key"),
            'Bearer error="invalid_token", error_description="The API key is malformed: the scheme is missing: '
            "write 'Bearer' and a space before the key.\"",
            id="apostrophes may stand",
        ),
        pytest.param(
            Deny(Reason.REVOKED, principal=READER),
            'Bearer error="invalid_token", error_description="The API key has been revoked."',
            id="revoked",
        ),
        pytest.param(
            Deny(Reason.BAD_CLAIMS, 'a "quoted" \\ hint é\n'),
            'Bearer error="invalid_token", error_description="The API key\'s contents are not acceptable: '
            "a 'quoted' ' hint ''.\"",
            id="what RFC 6750 does not let stand there is replaced",
        ),
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, principal=READER, required=("read-write", "billing")),
            'Bearer error="insufficient_scope", error_description="The API key lacks a scope: '
            'required: read-write, billing; held: read-only.", scope="read-write billing"',
            id="a scope lacking",
        ),
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, principal=NOBODY, required=("read-only",)),
            'Bearer error="insufficient_scope", error_description="The API key lacks a scope: '
            'required: read-only; held: none.", scope="read-only"',
            id="no scope held",
        ),
        pytest.param(
            Deny(Reason.INSUFFICIENT_SCOPE, required=('a"', "b\x00")),
            'Bearer error="insufficient_scope", error_description="The API key lacks a scope: '
            "required: a', b'; held: none.\", scope=\"a' b'\"",
            id="what Envoy's route asks for stays within its quotes",
        ),
    ],
)
def test_challenges(deny: Deny, expected: str) -> None:
    """401 and a lacking scope carry a challenge of RFC 6750, bare where no credential was sent."""
    assert refusal(deny, ("x-ratelimit",)) == (("www-authenticate", expected),)


def test_what_is_forbidden_for_another_reason_than_a_scope() -> None:
    """A description, and no scope that would help."""
    expected = 'Bearer error="insufficient_scope", error_description="The caller is bound to \'acme\'."'
    assert forbidden('The caller is bound to "acme".') == ("www-authenticate", expected)


@pytest.mark.parametrize("reason", [reason for reason in Reason if STATUS[reason] == 401])
def test_every_401_has_a_challenge(reason: Reason) -> None:
    """RFC 9110 §15.5.2: a 401 without WWW-Authenticate is none."""
    assert [name for name, _ in refusal(Deny(reason), RATELIMIT_STYLES)] == ["www-authenticate"]


@pytest.mark.parametrize("reason", [reason for reason in Reason if STATUS[reason] in {400, 413, 415}])
def test_other_refusals_have_no_challenge(reason: Reason) -> None:
    """What no credential can change asks for none."""
    assert refusal(Deny(reason), RATELIMIT_STYLES) == ()


@pytest.mark.parametrize("reason", [Reason.NO_ROUTE, Reason.AMBIGUOUS_PATH])
def test_paths_refused_have_no_challenge(reason: Reason) -> None:
    """No scope would open a path that is not there."""
    assert refusal(Deny(reason, principal=READER), RATELIMIT_STYLES) == ()


@pytest.mark.parametrize("reason", [Reason.STORE_UNAVAILABLE, Reason.OVERLOADED, Reason.INTERNAL_ERROR])
def test_faults_tell_when_to_come_back(reason: Reason) -> None:
    """Our own failing is a 503 with Retry-After and never a challenge."""
    assert refusal(Fault(reason, "secret detail", "r", READER), RATELIMIT_STYLES) == (("retry-after", "1"),)


LIMITS = (("x-ratelimit-limit", "60"), ("x-ratelimit-remaining", "0"), ("x-ratelimit-reset", "1800000060"))


@pytest.mark.parametrize(
    ("wait_us", "expected"),
    [
        pytest.param(0, (("retry-after", "1"), ("retry-after-ms", "1")), id="none: still at least one"),
        pytest.param(1, (("retry-after", "1"), ("retry-after-ms", "1")), id="a microsecond"),
        pytest.param(250_000, (("retry-after", "1"), ("retry-after-ms", "250")), id="a quarter"),
        pytest.param(250_001, (("retry-after", "1"), ("retry-after-ms", "251")), id="milliseconds round up"),
        pytest.param(1_000_000, (("retry-after", "1"), ("retry-after-ms", "1000")), id="a second"),
        pytest.param(1_000_001, (("retry-after", "2"), ("retry-after-ms", "1001")), id="seconds round up"),
        pytest.param(3_600_000_000, (("retry-after", "3600"), ("retry-after-ms", "3600000")), id="an hour"),
        pytest.param(-1, (("x-should-retry", "false"),), id="waiting cannot help"),
    ],
)
def test_rate_limited(wait_us: int, expected: tuple[Header, ...]) -> None:
    """A 429 tells in seconds and in milliseconds when to come back, or that it is of no use, and the limits."""
    deny = Deny(Reason.RATE_LIMITED, quotas=(EMPTY,), refused=EMPTY, retry_after_us=wait_us, now_us=NOW)
    assert refusal(deny, ("x-ratelimit",)) == (*expected, *LIMITS)


@given(st.integers(0, 2**51))
def test_waiting_as_told_is_enough(wait_us: int) -> None:
    """Retry-After and retry-after-ms are both at least the wait, and less than one unit more."""
    told = dict(refusal(Deny(Reason.RATE_LIMITED, retry_after_us=wait_us), ()))
    seconds, ms = int(told["retry-after"]), int(told["retry-after-ms"])
    assert max(1, wait_us) <= seconds * 1_000_000 < max(1, wait_us) + 1_000_000
    assert max(1, wait_us) <= ms * 1000 < max(1, wait_us) + 1000


@given(
    st.sampled_from([reason for reason in Reason if STATUS[reason] in {401, 403}]),
    st.text(),
    st.builds(Principal, st.text(), st.text(), st.text(), st.text(), st.lists(st.text(), max_size=3).map(tuple)),
)
def test_challenges_are_always_quotable(reason: Reason, hint: str, principal: Principal) -> None:
    """Whatever the principal and the hint, a challenge is printable ASCII and its quotes pair."""
    for _, value in refusal(Deny(reason, hint, principal=principal, required=("read-only",)), ("x-ratelimit",)):
        assert all(" " <= char <= "~" for char in value)
        assert value.count('"') in {0, 4, 6}
        assert "\\" not in value
