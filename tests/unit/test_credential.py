"""Where a credential may stand, and every way in which it can stand wrong."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.credential import MAX_CREDENTIAL_CHARS, Credential, Source, extract
from authz.core.decision import Reason, Refusal
from authz.core.request import PlainRequest


SOURCES = (Source("authorization", "bearer"), Source("x-api-key"))
IN_QUERY = frozenset({"api_key", "access_token"})
KEY = "sk-live-abc.def.ghi"
LONGEST = "k" * MAX_CREDENTIAL_CHARS

BEARER = Credential(KEY, "authorization", bearer=True)
BARE = Credential(KEY, "x-api-key", bearer=False)

EMPTY = Refusal(Reason.MALFORMED_CREDENTIAL, "the key is empty")
TOO_LONG = Refusal(Reason.MALFORMED_CREDENTIAL, "the key is longer than 8192 characters")
WHITE = Refusal(Reason.MALFORMED_CREDENTIAL, "there is white space in the key")
WHITE_BEFORE = Refusal(Reason.MALFORMED_CREDENTIAL, "there is white space before the key")
TWICE = Refusal(Reason.MALFORMED_CREDENTIAL, "leave out one 'Bearer': it stands there twice")
NO_BEARER = Refusal(Reason.MALFORMED_CREDENTIAL, "leave out 'Bearer': this header holds the key alone")
CONTROL = Refusal(Reason.MALFORMED_CREDENTIAL, "there are control characters in the key")
NOT_ASCII = Refusal(Reason.MALFORMED_CREDENTIAL, "there are characters in the key that are not ASCII")
OTHER_SCHEME = Refusal(Reason.MALFORMED_CREDENTIAL, "the scheme must be Bearer")
NO_SCHEME = Refusal(Reason.MALFORMED_CREDENTIAL, "the scheme is missing: write 'Bearer' and a space before the key")
REPEATED = Refusal(Reason.AMBIGUOUS_CREDENTIAL, "the header was sent more than once, or holds a comma")
TWO = Refusal(Reason.AMBIGUOUS_CREDENTIAL, "two different credentials were sent")
IN_URL = Refusal(Reason.CREDENTIAL_IN_URL, "send the key in a header: URLs end up in logs and histories")


def extracted(
    headers: dict[str, str], query: str = "", sources: tuple[Source, ...] = SOURCES
) -> Credential | Refusal | None:
    return extract(PlainRequest("GET", "/v1/models", query=query, headers=headers), sources, IN_QUERY)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, None, id="no header at all"),
        pytest.param({"cookie": "key=abc", "proxy-authorization": f"Bearer {KEY}"}, None, id="other headers"),
        pytest.param({"authorization": f"Bearer {KEY}"}, BEARER, id="Bearer"),
        pytest.param({"authorization": f"bearer {KEY}"}, BEARER, id="lower-case scheme"),
        pytest.param({"authorization": f"BEARER {KEY}"}, BEARER, id="upper-case scheme"),
        pytest.param({"authorization": f"bEaReR {KEY}"}, BEARER, id="mixed-case scheme"),
        pytest.param({"x-api-key": KEY}, BARE, id="X-API-Key"),
        pytest.param({"authorization": f"Bearer {KEY}", "x-api-key": KEY}, BEARER, id="the same in both: the first"),
    ],
)
def test_credential_found(headers: dict[str, str], expected: Credential | None) -> None:
    """A credential is found in the sources, whatever the case of its scheme, and None is not a refusal."""
    assert extracted(headers) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("", EMPTY, id="empty"),
        pytest.param("   ", EMPTY, id="spaces alone"),
        pytest.param("Bearer", EMPTY, id="the scheme alone"),
        pytest.param("Bearer ", EMPTY, id="the scheme and a space"),
        pytest.param("Bearer \t ", EMPTY, id="the scheme and white space"),
        pytest.param("Bearer\t", EMPTY, id="the scheme and a tab"),
        pytest.param("sk_live_abc", NO_SCHEME, id="key without scheme"),
        pytest.param(KEY, NO_SCHEME, id="key with dots without scheme"),
        pytest.param("eyJhbGciOiJIUzI1NiJ9.e30.x", NO_SCHEME, id="JWT without scheme"),
        pytest.param(f"Bearer:{KEY}", NO_SCHEME, id="a colon for the space"),
        pytest.param(f"Bearer={KEY}", NO_SCHEME, id="an equals sign for the space"),
        pytest.param(f"Bearer{KEY}", NO_SCHEME, id="the space forgotten"),
        pytest.param(f'"Bearer {KEY}"', NO_SCHEME, id="quoted as a whole"),
        pytest.param("Basic dXNlcjpwdw==", OTHER_SCHEME, id="Basic"),
        pytest.param(f"Token {KEY}", OTHER_SCHEME, id="Token"),
        pytest.param(f"DPoP {KEY}", OTHER_SCHEME, id="DPoP"),
        pytest.param(f"Bearer  {KEY}", WHITE_BEFORE, id="two spaces"),
        pytest.param(f"Bearer\t{KEY}", WHITE_BEFORE, id="a tab for the space"),
        pytest.param(f"Bearer \t{KEY}", WHITE_BEFORE, id="a tab before the key"),
        pytest.param("Bearer  sk-live-abc def", WHITE_BEFORE, id="white space before and within"),
        pytest.param(f"Bearer {KEY} ", WHITE, id="a space after the key"),
        pytest.param(f"Bearer {KEY}\t", WHITE, id="a tab after the key"),
        pytest.param("Bearer sk-live-abc def", WHITE, id="a space within"),
        pytest.param("Bearer sk-live-abc\tdef", WHITE, id="a tab within"),
        pytest.param(f"Bearer Bearer {KEY}", TWICE, id="the scheme twice"),
        pytest.param(f"bearer BEARER {KEY}", TWICE, id="the scheme twice, in any case"),
        pytest.param(f"Bearer  Bearer\t{KEY}", TWICE, id="the scheme twice, with white space"),
        pytest.param(f"Bearer Token {KEY}", WHITE, id="two schemes"),
        pytest.param(f"Bearer {KEY}\n", CONTROL, id="a line end after the key"),
        pytest.param(f"Bearer {KEY}\r\n", CONTROL, id="CR LF after the key"),
        pytest.param("Bearer abc\x00def", CONTROL, id="NUL within"),
        pytest.param("Bearer abc\x7f", CONTROL, id="DEL"),
        pytest.param("Bearer abc\x1b[0m", CONTROL, id="ESC"),
        pytest.param(f"\x0bBearer {KEY}", CONTROL, id="a vertical tab before the scheme"),
        pytest.param("Bearer schlüssel", NOT_ASCII, id="a letter with umlaut"),
        pytest.param(f"Bearer\u00a0{KEY}", NOT_ASCII, id="a no-break space for the space"),
        pytest.param(f"Bearer {KEY}\u200b", NOT_ASCII, id="a zero-width space after the key"),
        pytest.param(f"Bearer \u201c{KEY}\u201d", NOT_ASCII, id="curly quotes"),
        pytest.param("Bearer \udcff", NOT_ASCII, id="a byte that is no UTF-8"),
        pytest.param(f"Bearer {KEY},Bearer {KEY}", REPEATED, id="repeated, joined by a comma"),
        pytest.param(f"Bearer {KEY}, Bearer other", REPEATED, id="repeated with another key"),
        pytest.param(f"Bearer {KEY},", REPEATED, id="a comma at the end"),
    ],
)
def test_bad_authorization_is_told_as_such(value: str, expected: Refusal) -> None:
    """What is wrong with an Authorization header is told in a word that helps, and never repeats what was sent."""
    assert extracted({"authorization": value}) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("", EMPTY, id="empty"),
        pytest.param(" \t", EMPTY, id="white space alone"),
        pytest.param(f" {KEY}", WHITE_BEFORE, id="a space before"),
        pytest.param(f"{KEY} ", WHITE, id="a space after"),
        pytest.param("sk-live-abc def", WHITE, id="a space within"),
        pytest.param(f"\t{KEY}", WHITE_BEFORE, id="a tab before"),
        pytest.param(f"Bearer {KEY}", NO_BEARER, id="a scheme where none belongs"),
        pytest.param(f"BEARER  {KEY} ", NO_BEARER, id="a scheme where none belongs, in any case"),
        pytest.param(f"Token {KEY}", WHITE, id="another scheme"),
        pytest.param(f"{KEY}\n", CONTROL, id="a line end"),
        pytest.param("clé", NOT_ASCII, id="not ASCII"),
        pytest.param(f"{KEY},{KEY}", REPEATED, id="repeated"),
    ],
)
def test_bad_api_key_header_is_told_as_such(value: str, expected: Refusal) -> None:
    """X-API-Key holds the key itself, so nothing may stand around it."""
    assert extracted({"x-api-key": value}) == expected


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({"authorization": f"Bearer {LONGEST}"}, Credential(LONGEST, "authorization", bearer=True), id="="),
        pytest.param({"x-api-key": LONGEST}, Credential(LONGEST, "x-api-key", bearer=False), id="X-API-Key ="),
        pytest.param({"authorization": f"Bearer {LONGEST}k"}, TOO_LONG, id="one more"),
        pytest.param({"x-api-key": f"{LONGEST}k"}, TOO_LONG, id="X-API-Key, one more"),
    ],
)
def test_length_cap_is_exact(headers: dict[str, str], expected: Credential | Refusal) -> None:
    """A credential may have 8192 characters, its scheme not counted, and not one more."""
    assert extracted(headers) == expected


@pytest.mark.parametrize(
    "headers",
    [
        pytest.param({"authorization": f"Bearer {KEY}", "x-api-key": f"{KEY}x"}, id="two keys"),
        pytest.param({"authorization": f"Bearer {KEY}", "x-api-key": KEY.upper()}, id="they differ in case"),
        pytest.param({"authorization": "Basic dXNlcjpwdw==", "x-api-key": KEY}, id="the first of another scheme"),
        pytest.param({"authorization": f"Bearer {KEY}", "x-api-key": f"{KEY} "}, id="the second malformed"),
    ],
)
def test_two_credentials_are_refused(headers: dict[str, str]) -> None:
    """Two credentials that are not the same are refused, as it is not clear which one is meant."""
    assert extracted(headers) == TWO


@pytest.mark.parametrize("headers", [{}, {"authorization": f"Bearer {KEY}"}, {"x-api-key": ""}])
@pytest.mark.parametrize(
    "query",
    [
        pytest.param("api_key=abc", id="plain"),
        pytest.param("access_token=abc", id="the other name"),
        pytest.param("api_key=", id="without a value"),
        pytest.param("api_key", id="without an equals sign"),
        pytest.param("API_KEY=abc", id="upper case"),
        pytest.param("Api_Key=abc", id="mixed case"),
        pytest.param("api%5Fkey=abc", id="percent-escaped"),
        pytest.param("%61pi_%6Bey=abc", id="letters percent-escaped"),
        pytest.param("%41PI%5fKEY=abc", id="escaped and cased"),
        pytest.param("+api_key+=abc", id="in spaces"),
        pytest.param("a=1&api_key=abc", id="the second"),
        pytest.param("a=1;api_key=abc", id="after a semicolon"),
        pytest.param("a=1&;&access_token=x", id="after empty ones"),
    ],
)
def test_credential_in_url(query: str, headers: dict[str, str]) -> None:
    """A key in the URL is refused whatever else is sent: it is in every log by now."""
    assert extracted(headers, query) == IN_URL


@pytest.mark.parametrize(
    "query",
    [
        pytest.param("", id="none"),
        pytest.param("model=api_key", id="the name as a value"),
        pytest.param("my_api_key=1", id="the name within another"),
        pytest.param("api_keys=1", id="a longer name"),
        pytest.param("%zz=%", id="bad escapes"),
        pytest.param("&&;;==", id="separators alone"),
    ],
)
def test_other_queries_pass(query: str) -> None:
    """A query without a credential changes nothing."""
    assert extracted({"x-api-key": KEY}, query) == BARE


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(f"Token Token {KEY}", "leave out one 'Token': it stands there twice", id="twice"),
        pytest.param(f"Token Bearer {KEY}", "leave out 'Bearer': only 'Token' belongs before the key", id="besides"),
    ],
)
def test_another_scheme_that_stands_twice(value: str, expected: str) -> None:
    """A scheme of one's own is told by its name."""
    found = extracted({"authorization": value}, sources=(Source("authorization", "token"),))
    assert found == Refusal(Reason.MALFORMED_CREDENTIAL, expected)


def test_only_configured_sources_count() -> None:
    """A header that is no source is not looked at, so it cannot make a request ambiguous either."""
    headers = {"authorization": "Basic dXNlcjpwdw==", "x-api-key": KEY}
    assert extracted(headers, sources=(Source("x-api-key"),)) == BARE


def test_credential_is_not_shown() -> None:
    """A credential's repr, which may end up in a log or a traceback, does not show the key."""
    assert KEY not in repr(BEARER)


HEADER_VALUES = st.text() | st.text("Bearer bk,.-\t \n\u00e9\x00", max_size=12) | st.just(f"Bearer {KEY}")


@given(
    st.dictionaries(st.sampled_from(["authorization", "x-api-key", "cookie"]), HEADER_VALUES),
    st.text() | st.text("api_key=&;%5F+", max_size=20),
)
def test_anything_is_read_and_nothing_bad_accepted(headers: dict[str, str], query: str) -> None:
    """Whatever is sent, extract answers; what it accepts is bounded ASCII without white space, control or comma."""
    found = extracted(headers, query)
    if isinstance(found, Credential):
        assert 0 < len(found.value) <= MAX_CREDENTIAL_CHARS
        assert all("!" <= char <= "~" and char != "," for char in found.value)
        assert found.header in headers
        assert found.bearer == (found.header == "authorization")


@given(HEADER_VALUES)
def test_refusals_repeat_nothing(value: str) -> None:
    """Every hint comes from a closed set of our own sentences."""
    known = (EMPTY, TOO_LONG, CONTROL, NOT_ASCII, OTHER_SCHEME, NO_SCHEME, REPEATED, WHITE, WHITE_BEFORE, TWICE)
    hints = {refusal.hint for refusal in known}
    found = extracted({"authorization": value})
    assert isinstance(found, Credential) or (isinstance(found, Refusal) and found.hint in hints)
