"""The limit headers of an answer in all three styles, and identity for the upstream."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.bucket import Limit, Quota
from authz.core.headers import IDENTITY, RATELIMIT_STYLES, Header, clean, duration, identity, rate_limit
from authz.core.principal import Principal


NOW = 1_800_000_000_000_000
REQUESTS = Quota("default", "requests", Limit(60, 60), 50, 10_000_000)
TOKENS = Quota("default", "tokens", Limit(100_000, 60), 99_500, 300_000)
TEAM = Quota("team", "requests", Limit(1000, 3600), 7, 3_574_800_000)


@pytest.mark.parametrize(
    ("us", "expected"),
    [
        pytest.param(0, "0ms", id="nothing"),
        pytest.param(1, "1ms", id="rounded up to a millisecond"),
        pytest.param(12_000, "12ms", id="12ms"),
        pytest.param(12_001, "13ms", id="a microsecond more"),
        pytest.param(999_000, "999ms", id="the last in milliseconds"),
        pytest.param(999_001, "1s", id="rounded up to a second"),
        pytest.param(1_000_000, "1s", id="1s"),
        pytest.param(1_000_001, "2s", id="rounded up to two"),
        pytest.param(59_000_000, "59s", id="the last in seconds"),
        pytest.param(59_000_001, "1m0s", id="rounded up to a minute"),
        pytest.param(90_000_000, "1m30s", id="1m30s"),
        pytest.param(360_000_000, "6m0s", id="6m0s"),
        pytest.param(3_599_000_001, "1h0m0s", id="rounded up to an hour"),
        pytest.param(3_600_000_000, "1h0m0s", id="1h0m0s"),
        pytest.param(3_661_000_000, "1h1m1s", id="1h1m1s"),
        pytest.param(31 * 86_400_000_000, "744h0m0s", id="31 days"),
    ],
)
def test_durations(us: int, expected: str) -> None:
    """Durations are written as OpenAI writes them, rounded up so that waiting so long is enough."""
    assert duration(us) == expected


def x_ratelimit(limit: int, remaining: int, reset: int) -> tuple[Header, ...]:
    return (
        ("x-ratelimit-limit", str(limit)),
        ("x-ratelimit-remaining", str(remaining)),
        ("x-ratelimit-reset", str(reset)),
    )


@pytest.mark.parametrize(
    ("quotas", "refused", "expected"),
    [
        pytest.param((), None, (), id="no limits, no headers"),
        pytest.param((REQUESTS,), None, x_ratelimit(60, 50, 1_800_000_010), id="one bucket"),
        pytest.param((REQUESTS, TOKENS), None, x_ratelimit(60, 50, 1_800_000_010), id="tokens are not requests"),
        pytest.param((TOKENS,), None, (), id="tokens alone show nothing"),
        pytest.param((REQUESTS, TEAM), None, x_ratelimit(1000, 7, 1_800_003_575), id="the tightest of two"),
        pytest.param((TEAM, REQUESTS), None, x_ratelimit(1000, 7, 1_800_003_575), id="in whatever order"),
        pytest.param(
            (REQUESTS, TOKENS), TOKENS, x_ratelimit(100_000, 99_500, 1_800_000_001), id="the one that refused"
        ),
        pytest.param((REQUESTS, TEAM), REQUESTS, x_ratelimit(60, 50, 1_800_000_010), id="refused, though not tightest"),
        pytest.param(
            (Quota("d", "requests", Limit(5, 60), -3, 96_000_000),),
            None,
            x_ratelimit(5, 0, 1_800_000_096),
            id="an overdraft shows as none left",
        ),
        pytest.param((Quota("d", "requests", Limit(5, 60), 5, 0),), None, x_ratelimit(5, 5, 1_800_000_000), id="full"),
        pytest.param(
            (Quota("d", "requests", Limit(5, 60), 4, 1),), None, x_ratelimit(5, 4, 1_800_000_001), id="reset rounds up"
        ),
    ],
)
def test_x_ratelimit(quotas: tuple[Quota, ...], refused: Quota | None, expected: tuple[Header, ...]) -> None:
    """One bucket is shown, its reset as the Unix second, rounded up, at which it is full again."""
    assert rate_limit(quotas, ("x-ratelimit",), NOW, refused) == expected


def test_reset_rounds_up_the_sum() -> None:
    """The moment of the reset is rounded up once, not the clock and the wait each."""
    quota = Quota("d", "requests", Limit(5, 60), 4, 500_000)
    assert rate_limit((quota,), ("x-ratelimit",), NOW + 500_000)[2] == ("x-ratelimit-reset", "1800000001")


def test_openai() -> None:
    """OpenAI's six headers: requests and tokens apart, each of the tightest bucket, resets as durations."""
    assert rate_limit((REQUESTS, TOKENS, TEAM), ("openai",), NOW) == (
        ("x-ratelimit-limit-requests", "1000"),
        ("x-ratelimit-remaining-requests", "7"),
        ("x-ratelimit-reset-requests", "59m35s"),
        ("x-ratelimit-limit-tokens", "100000"),
        ("x-ratelimit-remaining-tokens", "99500"),
        ("x-ratelimit-reset-tokens", "300ms"),
    )


def test_openai_leaves_out_what_is_not_limited() -> None:
    """A unit without a bucket has no headers."""
    assert [name for name, _ in rate_limit((TOKENS,), ("openai",), NOW)] == [
        "x-ratelimit-limit-tokens",
        "x-ratelimit-remaining-tokens",
        "x-ratelimit-reset-tokens",
    ]


@pytest.mark.parametrize(
    ("quotas", "expected"),
    [
        pytest.param((), (), id="none"),
        pytest.param(
            (Quota("default", "requests", Limit(100, 60), 50, 30_000_000),),
            (("ratelimit", '"default";r=50;t=30'), ("ratelimit-policy", '"default";q=100;w=60')),
            id="the draft's own example",
        ),
        pytest.param(
            (REQUESTS, TOKENS),
            (
                ("ratelimit", '"default";r=50;t=10, "default-tokens";r=99500;t=1'),
                ("ratelimit-policy", '"default";q=60;w=60, "default-tokens";q=100000;w=60;qu="tokens"'),
            ),
            id="tokens tell their unit; t rounds up",
        ),
        pytest.param(
            (Quota("default", "tokens", Limit(100, 60), -7, 64_200_000),),
            (
                ("ratelimit", '"default-tokens";r=0;t=65'),
                ("ratelimit-policy", '"default-tokens";q=100;w=60;qu="tokens"'),
            ),
            id="an overdraft",
        ),
    ],
)
def test_ietf(quotas: tuple[Quota, ...], expected: tuple[Header, ...]) -> None:
    """RateLimit and RateLimit-Policy of draft-ietf-httpapi-ratelimit-headers-11 name every bucket."""
    assert rate_limit(quotas, ("ietf",), NOW) == expected


def test_styles_together_keep_their_order() -> None:
    """Several styles stand one after the other, in the configured order, and no header stands twice."""
    names = [name for name, _ in rate_limit((REQUESTS, TOKENS), ("ietf", "openai", "x-ratelimit"), NOW)]
    assert (names[0], names[-1], len(names), len(set(names))) == ("ratelimit", "x-ratelimit-reset", 11, 11)


def test_no_styles_no_headers() -> None:
    """Without a style nothing is told."""
    assert rate_limit((REQUESTS,), (), NOW) == ()


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("ada", "ada", id="plain"),
        pytest.param("Ada Müller", "Ada Müller", id="printable beyond ASCII"),
        pytest.param("a\r\nx-admin: 1", "a  x-admin: 1", id="CR LF"),
        pytest.param("a\x00b", "a b", id="NUL"),
        pytest.param("\tada\n", "ada", id="around"),
        pytest.param("a\u202eb", "a b", id="a direction override"),
        pytest.param("", "", id="empty"),
    ],
)
def test_clean(value: str, expected: str) -> None:
    """What does not print becomes a space."""
    assert clean(value) == expected


@pytest.mark.parametrize(
    ("principal", "expected"),
    [
        pytest.param(
            Principal("key_1", "sk-live-1a2b3c4d", "ada", "acme", ("b", "a")),
            ("key_1", "sk-live-1a2b3c4d", "ada", "acme", "b a"),
            id="all",
        ),
        pytest.param(Principal("key_1", "", "ada", "", ()), ("key_1", None, "ada", None, None), id="what is there"),
        pytest.param(Principal("k", "p", "a\r\nb", "w\x00", ("s",)), ("k", "p", "a  b", "w", "s"), id="cleaned"),
    ],
)
def test_identity(principal: Principal, expected: tuple[str | None, ...]) -> None:
    """The upstream is told who asks; names without a value are left out."""
    told = dict(identity(principal))
    assert tuple(told.get(name) for name in IDENTITY) == expected
    assert set(told) <= set(IDENTITY)


@given(st.text(), st.text(), st.text(), st.text(), st.lists(st.text(), max_size=3))
def test_identity_is_always_printable(
    key_id: str, prefix: str, subject: str, workspace: str, scopes: list[str]
) -> None:
    """Whatever the principal, no header value holds a character that does not print."""
    headers = identity(Principal(key_id, prefix, subject, workspace, tuple(scopes)))
    assert all(value.isprintable() for _, value in headers)


QUOTAS = st.builds(
    Quota,
    st.just("default"),
    st.sampled_from(["requests", "tokens"]),
    st.builds(Limit, st.integers(1, 10**9), st.integers(1, 31 * 86_400)),
    st.integers(-(10**9), 10**9),
    st.integers(0, 2**51),
)


@given(st.lists(QUOTAS, max_size=4), st.lists(st.sampled_from(RATELIMIT_STYLES), unique=True), st.none() | QUOTAS)
def test_limits_tell_nothing_negative(quotas: list[Quota], styles: list[str], refused: Quota | None) -> None:
    """Whatever the buckets, every header of limits is printable and no number in it is below zero."""
    for name, value in rate_limit(quotas, styles, NOW, refused):
        assert value.isprintable(), name
        assert "=-" not in value
        assert not value.startswith("-")
