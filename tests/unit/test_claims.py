"""What a verified JWT claims, claim by claim, and when it holds."""

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.claims import MAX_NAME_BYTES, MAX_SCOPES, Claims, ClaimsPolicy, is_name, read_claims
from authz.core.decision import Reason, Refusal


NOW = 1_800_000_000
Y9999 = 253_402_300_799
GOOD: Mapping[str, object] = {"sub": "ada", "jti": "key_1", "iat": NOW}
CLAIMS = Claims("ada", "key_1", "", None, float(NOW), None, None)
ANY = ClaimsPolicy()


def bad(hint: str) -> Refusal:
    return Refusal(Reason.BAD_CLAIMS, hint)


def read(changes: Mapping[str, object], policy: ClaimsPolicy = ANY) -> Claims | Refusal:
    return read_claims({**GOOD, **changes}, policy)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({}, CLAIMS, id="the least there can be"),
        pytest.param(
            {"workspace": "acme", "scope": "read-only", "exp": NOW + 60, "nbf": NOW - 60, "iss": "us", "aud": "api"},
            Claims("ada", "key_1", "acme", ("read-only",), float(NOW), NOW + 60.0, NOW - 60.0),
            id="all of them",
        ),
        pytest.param({"email": {"a": [1]}, "azp": None, "exp2": "x"}, CLAIMS, id="claims that we do not read"),
        pytest.param({"sub": "Ada Müller-Łódź"}, Claims("Ada Müller-Łódź", "key_1", "", None, NOW, None, None), id="é"),
    ],
)
def test_claims_read(changes: Mapping[str, object], expected: Claims) -> None:
    """sub, jti and iat are enough; the other claims are read where they are there."""
    assert read(changes) == expected


@pytest.mark.parametrize("claim", ["sub", "jti", "iat"])
def test_required_claims(claim: str) -> None:
    """sub, jti and iat are required, and what is missing is named."""
    payload = {name: value for name, value in GOOD.items() if name != claim}
    assert read_claims(payload, ANY) == bad(f"the claim {claim} is missing")


@pytest.mark.parametrize("claim", ["sub", "jti", "workspace"])
@pytest.mark.parametrize("value", [None, "", 0, 7, True, 1.5, [], ["ada"], {}, {"a": "b"}])
def test_names_are_texts(claim: str, value: object) -> None:
    """A name that is there must be a text that is not empty; null is not the same as absent."""
    assert read({claim: value}) == bad(f"the claim {claim} must be a text that is not empty")


@pytest.mark.parametrize("claim", ["sub", "jti", "workspace"])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("x" * (MAX_NAME_BYTES + 1), id="too long"),
        pytest.param(" ada", id="a space before"),
        pytest.param("ada ", id="a space after"),
        pytest.param(" ", id="a space alone"),
        pytest.param("a\nb", id="a line end"),
        pytest.param("a\r\nx-authz-scopes: admin", id="a header in it"),
        pytest.param("a\x00b", id="NUL"),
        pytest.param("a\u202eb", id="a direction override"),
        pytest.param("a\u00a0b", id="a no-break space"),
        pytest.param("\ud800", id="half a surrogate pair"),
    ],
)
def test_names_fit_into_headers(claim: str, value: str) -> None:
    """A name is bounded, trimmed and printable, as it travels in headers and logs."""
    assert read({claim: value}) == bad(f"the claim {claim} is too long or has characters that no name has")


def test_longest_name() -> None:
    """A name of exactly 256 characters is taken."""
    assert [is_name("x" * length) for length in (0, 1, MAX_NAME_BYTES, MAX_NAME_BYTES + 1)] == [
        False,
        True,
        True,
        False,
    ]


@pytest.mark.parametrize("claim", ["iat", "exp", "nbf"])
@pytest.mark.parametrize("value", [True, False, "1800000000", "", None, [], [NOW], {}])
def test_times_are_numbers(claim: str, value: object) -> None:
    """A time is a JSON number: a text of digits and a boolean are none."""
    assert read({claim: value}) == bad(f"the claim {claim} must be a number")


@pytest.mark.parametrize("claim", ["iat", "exp", "nbf"])
@pytest.mark.parametrize(
    "value",
    [-1, -0.001, Y9999 + 1, Y9999 + 0.5, 10**400, -(10**400), float("nan"), float("inf"), float("-inf"), 1.8e12],
)
def test_times_have_bounds(claim: str, value: float) -> None:
    """A time lies between 1970 and the end of 9999; milliseconds, NaN and infinities do not."""
    assert read({claim: value}) == bad(f"the claim {claim} is not a time between 1970 and 9999")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        pytest.param({"iat": 0}, (0.0, None, None), id="1970"),
        pytest.param({"iat": -0.0}, (0.0, None, None), id="minus zero"),
        pytest.param({"iat": Y9999, "exp": Y9999}, (Y9999, Y9999, None), id="9999"),
        pytest.param({"iat": NOW + 0.25, "exp": NOW + 0.5}, (NOW + 0.25, NOW + 0.5, None), id="fractions"),
        pytest.param({"exp": NOW}, (NOW, NOW, None), id="iat at exp itself"),
        pytest.param({"nbf": NOW + 900, "exp": NOW + 1}, (NOW, NOW + 1, NOW + 900), id="nbf after exp is only never"),
    ],
)
def test_times_taken(changes: Mapping[str, object], expected: tuple[float | None, ...]) -> None:
    """Whole and fractional seconds are taken up to both bounds."""
    claims = read(changes)
    assert isinstance(claims, Claims)
    assert (claims.issued_at_s, claims.expires_at_s, claims.not_before_s) == expected


@pytest.mark.parametrize("exp", [NOW - 1, NOW - 0.001, 0])
def test_issued_after_expiry(exp: float) -> None:
    """A token issued after it expired was never good, whatever the clock says."""
    assert read({"exp": exp}) == bad("the claim iat is later than exp")


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        pytest.param("", (), id="empty: none is held"),
        pytest.param("   ", (), id="spaces alone"),
        pytest.param("read-only", ("read-only",), id="one"),
        pytest.param("b a", ("b", "a"), id="their order is kept"),
        pytest.param("  a   b ", ("a", "b"), id="spaces around"),
        pytest.param("a b a", ("a", "b"), id="one twice"),
        pytest.param([], (), id="empty list"),
        pytest.param(["a", "b", "a"], ("a", "b"), id="list"),
        pytest.param("models:read https://x/y", ("models:read", "https://x/y"), id="colons and slashes"),
        pytest.param(" ".join(f"s{i}" for i in range(MAX_SCOPES)), tuple(f"s{i}" for i in range(MAX_SCOPES)), id="64"),
    ],
)
def test_scopes_read(scope: object, expected: tuple[str, ...]) -> None:
    """Scopes are one text parted by spaces (RFC 8693), or a list of texts."""
    claims = read({"scope": scope})
    assert isinstance(claims, Claims)
    assert claims.scopes == expected


SCOPES_SHAPE = bad("the claim scope must be a text or a short list of texts")
NO_SCOPE = bad("the claim scope has something that is no scope")


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        pytest.param(None, SCOPES_SHAPE, id="null is not the same as absent"),
        pytest.param(7, SCOPES_SHAPE, id="number"),
        pytest.param(True, SCOPES_SHAPE, id="boolean"),
        pytest.param({"admin": True}, SCOPES_SHAPE, id="mapping"),
        pytest.param(" ".join("s" * 65), SCOPES_SHAPE, id="65 of them"),
        pytest.param(["s"] * 65, SCOPES_SHAPE, id="list of 65"),
        pytest.param("a,b", NO_SCOPE, id="parted by a comma"),
        pytest.param(["a b"], NO_SCOPE, id="a space within an item"),
        pytest.param([""], NO_SCOPE, id="an empty item"),
        pytest.param(["a", 7], NO_SCOPE, id="a number among them"),
        pytest.param([["a"]], NO_SCOPE, id="a list in the list"),
        pytest.param([None], NO_SCOPE, id="null in the list"),
        pytest.param('admin"', NO_SCOPE, id="a quote"),
        pytest.param("-admin", NO_SCOPE, id="a hyphen first"),
        pytest.param("x" * 65, NO_SCOPE, id="too long"),
        pytest.param("é", NO_SCOPE, id="not ASCII"),
    ],
)
def test_scopes_refused(scope: object, expected: Refusal) -> None:
    """What is no list of scopes is refused as a whole, never read in part."""
    assert read({"scope": scope}) == expected


WRONG = Refusal(Reason.WRONG_AUDIENCE, "it was issued for something else")
AUD_SHAPE = bad("the claim aud must be a text or a list of texts")


@pytest.mark.parametrize(
    ("wanted", "aud", "expected"),
    [
        pytest.param((), "whatever", CLAIMS, id="none wanted"),
        pytest.param((), [], CLAIMS, id="none wanted, none said"),
        pytest.param(("api",), "api", CLAIMS, id="the same"),
        pytest.param(("api",), ["x", "api"], CLAIMS, id="in the list"),
        pytest.param(("old", "api"), "api", CLAIMS, id="one of two"),
        pytest.param(("api",), "portal", WRONG, id="another"),
        pytest.param(("api",), None, AUD_SHAPE, id="null is not the same as absent"),
        pytest.param(("api",), [], WRONG, id="empty list"),
        pytest.param(("api",), "API", WRONG, id="another case"),
        pytest.param(("api",), "api ", WRONG, id="a space after"),
        pytest.param(("api",), 7, AUD_SHAPE, id="number"),
        pytest.param((), {"api": 1}, AUD_SHAPE, id="mapping, though none is wanted"),
        pytest.param(("api",), ["api", None], AUD_SHAPE, id="null in the list"),
    ],
)
def test_audience(wanted: tuple[str, ...], aud: object, expected: Claims | Refusal) -> None:
    """Where an audience is configured, a token names it or is refused for it; its shape is judged always."""
    assert read({"aud": aud}, ClaimsPolicy(audience=wanted)) == expected


def test_audience_absent() -> None:
    """A token that names no audience is not for ours."""
    assert read({}, ClaimsPolicy(audience=("api",))) == WRONG


@pytest.mark.parametrize("iss", [None, 7, [], {}, True])
def test_issuer_is_a_text(iss: object) -> None:
    """iss, where it is there, is a text."""
    assert read({"iss": iss}) == bad("the claim iss must be a text")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(["sub", "jti", "iat", "exp", "nbf", "iss", "aud", "workspace", "scope", "other"])


@given(st.dictionaries(NAMES, JSON), st.booleans(), st.sampled_from([(), ("api",)]))
def test_any_payload_is_judged(changes: dict[str, object], complete: bool, audience: tuple[str, ...]) -> None:
    """Whatever a payload holds, read_claims answers; what it accepts has names that fit into headers."""
    answer = read_claims({**GOOD, **changes} if complete else changes, ClaimsPolicy(audience))
    if isinstance(answer, Claims):
        assert all(is_name(name) for name in (answer.subject, answer.jti))
        assert answer.workspace == "" or is_name(answer.workspace)
        assert 0 <= answer.issued_at_s <= Y9999
    else:
        assert answer.reason in {Reason.BAD_CLAIMS, Reason.WRONG_AUDIENCE}
