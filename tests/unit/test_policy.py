"""Which route a request is: method and path glob, first match, denied where nothing matches."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.policy import Policy, Route, compile_glob
from authz.core.request import PlainRequest
from authz.core.scope import ScopeTable


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        pytest.param("/", "/", True, id="the root"),
        pytest.param("/", "/x", False, id="the root alone"),
        pytest.param("/v1/models", "/v1/models", True, id="literal"),
        pytest.param("/v1/models", "/v1/models/", False, id="a slash at the end is another path"),
        pytest.param("/v1/models", "/v1/Models", False, id="case counts"),
        pytest.param("/v1/models", "/v1/models\n", False, id="a line end"),
        pytest.param("/v1.0/x", "/v1a0/x", False, id="a dot is a dot"),
        pytest.param("/a+b(c)$", "/a+b(c)$", True, id="characters of regular expressions"),
        pytest.param("/v1/*", "/v1/models", True, id="one segment"),
        pytest.param("/v1/*", "/v1/", False, id="an empty segment is none"),
        pytest.param("/v1/*", "/v1/models/x", False, id="not two segments"),
        pytest.param("/v1/*/runs", "/v1/a/runs", True, id="a segment in the middle"),
        pytest.param("/v1/*/runs", "/v1/a/b/runs", False, id="not two in the middle"),
        pytest.param("/v1/*/*", "/v1/a/b", True, id="two segments"),
        pytest.param("/files/*.json", "/files/a.json", True, id="a part of a segment"),
        pytest.param("/files/*.json", "/files/.json", False, id="a part is not empty"),
        pytest.param("/files/a*", "/files/a/b", False, id="a part does not cross a slash"),
        pytest.param("/v1/keys/*:revoke", "/v1/keys/k1:revoke", True, id="a custom verb"),
        pytest.param("/**", "/", True, id="everything: the root"),
        pytest.param("/**", "/a/b/c", True, id="everything: deep"),
        pytest.param("/v1/**", "/v1/a", True, id="below: one"),
        pytest.param("/v1/**", "/v1/a/b/c", True, id="below: three"),
        pytest.param("/v1/**", "/v1/", True, id="below: the slash alone"),
        pytest.param("/v1/**", "/v10/a", False, id="a longer name is another segment"),
        pytest.param("/v1/**", "/x/v1/a", False, id="not from the start"),
        pytest.param("/**/runs", "/a/b/runs", True, id="ends with"),
        pytest.param("/**/runs", "/a/b/runs/x", False, id="ends with, and goes on"),
        pytest.param("/a/**/z", "/a/b/c/z", True, id="in the middle"),
        pytest.param("/a/**/z", "/a/b/cz", False, id="whole segments alone"),
    ],
)
def test_globs(pattern: str, path: str, expected: bool) -> None:
    """`*` is one segment or a part of one, `**` any number of them, and everything else is itself."""
    assert (compile_glob(pattern).fullmatch(path) is not None) is expected


@pytest.mark.parametrize(
    ("pattern", "fault"),
    [
        pytest.param("", "a path starts with /", id="empty"),
        pytest.param("v1", "a path starts with /", id="relative"),
        pytest.param("*", "a path starts with /", id="a star"),
        pytest.param("http://x/v1", "a path starts with /", id="a URL"),
        pytest.param("//v1", "it is ambiguous", id="an empty segment"),
        pytest.param("/v1/../x", "it is ambiguous", id="a dot segment"),
        pytest.param("/v1/%2e", "it is ambiguous", id="an escaped dot"),
        pytest.param("/v1;a", "it is ambiguous", id="a path parameter"),
        pytest.param("/v1?x=1", "it is ambiguous", id="a query"),
        pytest.param("/v1#x", "it is ambiguous", id="a fragment"),
        pytest.param("/a b", "it is ambiguous", id="a space"),
        pytest.param("/%4*", "it is ambiguous", id="half an escape"),
        pytest.param("/**/a/**", "once in a path", id="** twice"),
        pytest.param("/v1**", "once in a path", id="** within a segment"),
        pytest.param("/v1/***", "once in a path", id="three stars"),
        pytest.param("/*a*", "once in a segment", id="* twice in a segment"),
    ],
)
def test_globs_refused(pattern: str, fault: str) -> None:
    """A glob that no request could match, or that could be slow, is refused when it is read."""
    with pytest.raises(ValueError, match=fault.replace("*", r"\*")):
        compile_glob(pattern)


@pytest.mark.parametrize(
    ("method", "expected"),
    [("GET", True), ("HEAD", True), ("POST", False), ("get", False), ("", False), ("GETX", False)],
)
def test_methods(method: str, expected: bool) -> None:
    """Methods are compared exactly (RFC 9110 §9.1)."""
    route = Route("r", "/v1/**", methods=frozenset({"GET", "HEAD"}))
    assert route.matches(method, "/v1/x") is expected


@pytest.mark.parametrize("method", ["GET", "QUERY", "PROPFIND", "get", ""])
def test_no_methods_is_any_method(method: str) -> None:
    """A route without methods is for all of them."""
    assert Route("r", "/v1/x").matches(method, "/v1/x")


POLICY = Policy(
    routes=(
        Route("health", "/healthz", public=True),
        Route("read", "/v1/**", methods=frozenset({"GET", "HEAD"})),
        Route("admin", "/v1/keys/**"),
        Route("write", "/v1/**"),
        Route("never", "/v1/chat"),
    ),
    scopes=ScopeTable({}),
    limits={},
)


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        pytest.param("GET", "/healthz", "health", id="public"),
        pytest.param("GET", "/v1/keys/1", "read", id="the first of three"),
        pytest.param("POST", "/v1/keys/1", "admin", id="the first whose method fits"),
        pytest.param("POST", "/v1/chat", "write", id="a later one is never reached"),
        pytest.param("DELETE", "/v1/x/y", "write", id="any method"),
        pytest.param("GET", "/v2/x", None, id="no path matches"),
        pytest.param("GET", "/", None, id="the root"),
        pytest.param("GET", "", None, id="no path at all"),
    ],
)
def test_first_match_wins(method: str, path: str, expected: str | None) -> None:
    """The first route that matches counts; where none does there is none."""
    route = POLICY.match(PlainRequest(method, path))
    assert (route.name if route else None) == expected


def test_no_routes_match_nothing() -> None:
    """Without routes everything is denied."""
    assert Policy((), ScopeTable({}), {}).match(PlainRequest("GET", "/")) is None


SEGMENTS = st.text(st.sampled_from("aZ9._~!$&'()+,=:@[]{}|^-é你"), min_size=1, max_size=8).filter(
    lambda text: text not in {".", ".."}
)


@given(st.lists(SEGMENTS, max_size=5).map(lambda parts: "/" + "/".join(parts)))
def test_a_glob_without_stars_matches_itself_alone(path: str) -> None:
    """A path without a star, taken as a glob, is matched by itself and by nothing longer or shorter."""
    matcher = compile_glob(path)
    assert matcher.fullmatch(path) is not None
    assert matcher.fullmatch(path + "x") is None
    assert matcher.fullmatch(path[:-1]) is None


@given(st.text("/*ab.%2e", max_size=16).map("/".__add__), st.text("/ab.", max_size=24).map("/".__add__))
def test_stars_of_one_segment_keep_the_depth(pattern: str, path: str) -> None:
    """Without ** a glob matches only paths of as many segments as it has."""
    try:
        matcher = compile_glob(pattern)
    except ValueError:
        return
    if "**" not in pattern and matcher.fullmatch(path):
        assert path.count("/") == pattern.count("/")
