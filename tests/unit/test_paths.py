"""Paths that could be read in two ways, and those that look odd and are not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.policy import compile_glob, is_ambiguous


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("", id="empty"),
        pytest.param("*", id="OPTIONS *"),
        pytest.param("v1/models", id="relative"),
        pytest.param("http://example.com/v1", id="absolute form"),
        pytest.param("example.com:443", id="authority form"),
        pytest.param("//v1", id="two slashes first"),
        pytest.param("/v1//models", id="two slashes within"),
        pytest.param("/v1//", id="two slashes at the end"),
        pytest.param("/.", id="dot"),
        pytest.param("/..", id="two dots"),
        pytest.param("/./v1", id="dot segment first"),
        pytest.param("/v1/./models", id="dot segment"),
        pytest.param("/v1/../admin", id="two-dot segment"),
        pytest.param("/v1/.", id="dot segment last"),
        pytest.param("/v1/..", id="two-dot segment last"),
        pytest.param("/v1/%2e%2e/admin", id="%2e%2e"),
        pytest.param("/v1/%2E%2E/admin", id="%2E%2E"),
        pytest.param("/v1/.%2e/admin", id="a dot, and one escaped"),
        pytest.param("/v1/%2e", id="%2e"),
        pytest.param("/v1/a%2eb", id="an escaped dot within a name"),
        pytest.param("/v1%2fadmin", id="%2f"),
        pytest.param("/v1%2Fadmin", id="%2F"),
        pytest.param("/v1/%252e%252e/admin", id="%252e"),
        pytest.param("/v1%252fadmin", id="%252f"),
        pytest.param("/v1/%25", id="an escaped percent sign"),
        pytest.param("/v1;x=1/admin", id="path parameters"),
        pytest.param("/v1/..;/admin", id="dots and a parameter"),
        pytest.param("/v1%3bx", id="%3b"),
        pytest.param("/v1%3Bx", id="%3B"),
        pytest.param("/v1\\admin", id="a backslash"),
        pytest.param("/v1/..\\admin", id="dots and a backslash"),
        pytest.param("/v1%5cadmin", id="%5c"),
        pytest.param("/v1%5Cadmin", id="%5C"),
        pytest.param("/v1\x00", id="NUL"),
        pytest.param("/v1%00", id="%00"),
        pytest.param("/v1%0d%0aX: y", id="CR LF"),
        pytest.param("/v1%09", id="%09"),
        pytest.param("/v1%1f", id="%1f"),
        pytest.param("/v1%7f", id="%7f"),
        pytest.param("/v1\x7f", id="DEL"),
        pytest.param("/v1\n", id="a line end"),
        pytest.param("/v1 /x", id="a space"),
        pytest.param("/v1\t", id="a tab"),
        pytest.param("/v1?x", id="a query left in"),
        pytest.param("/v1#x", id="a fragment"),
        pytest.param("/v1/%c0%ae%c0%ae/admin", id="%c0%ae: an overlong dot"),
        pytest.param("/v1%c0%afadmin", id="%c0%af: an overlong slash"),
        pytest.param("/v1%e0%80%afadmin", id="%e0%80%af: a longer one"),
        pytest.param("/v1/%ff", id="%ff: never UTF-8"),
        pytest.param("/v1/%c3", id="%c3: half a character"),
        pytest.param("/v1/%c3/%a9", id="a character cut by a slash"),
        pytest.param("/v1/%ed%a0%80", id="an escaped surrogate"),
        pytest.param("/v1/%f4%90%80%80", id="beyond Unicode"),
        pytest.param("/v1/%", id="a percent sign alone"),
        pytest.param("/v1/%2", id="half an escape"),
        pytest.param("/v1/%zz", id="no hex digits"),
        pytest.param("/v1/%u002e", id="%u002e"),
        pytest.param("/v1/%%32%65", id="an escape within an escape"),
        pytest.param("/v1/%\u0661\u0661", id="digits that are not ASCII"),
        pytest.param("/v1/\u202e", id="a direction override"),
        pytest.param("/v1/\u00a0", id="a no-break space"),
        pytest.param("/v1/\udcff", id="a byte that is no UTF-8"),
    ],
)
def test_ambiguous(path: str) -> None:
    """A path that we, the proxy and the upstream could read differently is no path."""
    assert is_ambiguous(path)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param("/", id="the root"),
        pytest.param("/v1/models", id="plain"),
        pytest.param("/v1/models/", id="a slash at the end"),
        pytest.param("/v1/my%20file", id="an escaped space"),
        pytest.param("/v1/men%C3%BA", id="escaped UTF-8"),
        pytest.param("/v1/men%c3%ba", id="escaped UTF-8, lower case"),
        pytest.param("/v1/%E4%BD%A0%E5%A5%BD", id="escaped UTF-8, three bytes"),
        pytest.param("/v1/%F0%9F%98%80", id="escaped UTF-8, four bytes"),
        pytest.param("/v1/menú", id="UTF-8 as it is"),
        pytest.param("/v1/a.b", id="a dot within a name"),
        pytest.param("/v1/gpt-4.1", id="a version"),
        pytest.param("/v1/a..b", id="two dots within a name"),
        pytest.param("/.well-known/openid-configuration", id="a dot before a name"),
        pytest.param("/v1/..a", id="two dots before a name"),
        pytest.param("/v1/a.", id="a dot after a name"),
        pytest.param("/v1/a..", id="two dots after a name"),
        pytest.param("/v1/...", id="three dots"),
        pytest.param("/v1/keys/k:revoke", id="a colon"),
        pytest.param("/v1/~a_b-c,d=e&f@g!$'()*+", id="every sub-delimiter but ;"),
        pytest.param("/v1/org%3Amodel", id="an escaped colon"),
        pytest.param("/v1/a%2Bb", id="an escaped plus"),
    ],
)
def test_legitimate(path: str) -> None:
    """A path that has one reading passes, odd as it looks."""
    assert not is_ambiguous(path)


@given(st.text() | st.text("/.%;\\2eEfFcC0a", max_size=24).map("/".__add__))
def test_any_path_is_judged(path: str) -> None:
    """Whatever is asked for, is_ambiguous answers; a path with a dot segment never passes."""
    passes = not is_ambiguous(path)
    assert not (passes and {".", ".."} & set(path.split("/")))


@given(st.text("/.%;\\2eEfFcCab", max_size=24).map("/".__add__))
def test_globs_and_paths_agree(path: str) -> None:
    """What no request can have as its path cannot be configured as one either, and the other way round."""
    try:
        compile_glob(path)
        accepted = True
    except ValueError:
        accepted = False
    assert accepted is not is_ambiguous(path)
