"""Scopes and what they include."""

from collections.abc import Mapping
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.scope import ScopeTable, find_cycle, is_scope


TABLE = ScopeTable({"admin": ("read-write",), "read-write": ("read-only",), "billing": (), "ops": ("billing", "logs")})


@pytest.mark.parametrize(
    ("granted", "required", "expected"),
    [
        pytest.param((), (), True, id="nothing asked of nobody"),
        pytest.param((), ("read-only",), False, id="none held"),
        pytest.param(("read-only",), (), True, id="nothing asked"),
        pytest.param(("read-only",), ("read-only",), True, id="itself"),
        pytest.param(("read-write",), ("read-only",), True, id="included"),
        pytest.param(("admin",), ("read-only",), True, id="included in the included"),
        pytest.param(("read-only",), ("read-write",), False, id="never upwards"),
        pytest.param(("admin",), ("billing",), False, id="not included"),
        pytest.param(("admin", "ops"), ("read-only", "logs"), True, id="each from another"),
        pytest.param(("admin",), ("read-only", "logs"), False, id="one of two is not enough"),
        pytest.param(("ops",), ("logs",), True, id="included, though no key of the table"),
        pytest.param(("other",), ("other",), True, id="unknown to the table: itself alone"),
        pytest.param(("other",), ("read-only",), False, id="unknown to the table: nothing else"),
        pytest.param(("ADMIN",), ("admin",), False, id="case counts"),
        pytest.param(("admin read-write",), ("admin",), False, id="a text of two is not two"),
    ],
)
def test_covers(granted: tuple[str, ...], required: tuple[str, ...], expected: bool) -> None:
    """All required scopes must be held, or be included by what is held."""
    assert TABLE.covers(granted, required) is expected


def test_names() -> None:
    """The table knows every scope that it names, on either side."""
    assert TABLE.names == {"admin", "read-write", "read-only", "billing", "ops", "logs"}


@pytest.mark.parametrize(
    ("includes", "expected"),
    [
        pytest.param({}, (), id="empty"),
        pytest.param({"a": ["b"], "b": ["c"]}, (), id="a chain"),
        pytest.param({"a": ["b", "c"], "b": ["d"], "c": ["d"]}, (), id="a diamond is no circle"),
        pytest.param({"a": ["a"]}, ("a", "a"), id="itself"),
        pytest.param({"a": ["b"], "b": ["a"]}, ("a", "b", "a"), id="two"),
        pytest.param({"a": ["b"], "b": ["c"], "c": ["b"]}, ("b", "c", "b"), id="not from its start"),
        pytest.param({"x": [], "a": ["x", "b"], "b": ["x", "c"], "c": ["a"]}, ("a", "b", "c", "a"), id="behind others"),
    ],
)
def test_cycles(includes: Mapping[str, list[str]], expected: tuple[str, ...]) -> None:
    """A circle of inclusion is found and told from where it starts to where it comes back."""
    assert find_cycle(includes) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("a", True, id="one letter"),
        pytest.param("9lives", True, id="a digit first"),
        pytest.param("a.b_c:d/e-f", True, id="every other character"),
        pytest.param("a" * 64, True, id="longest"),
        pytest.param("a" * 65, False, id="too long"),
        pytest.param("", False, id="empty"),
        pytest.param("-a", False, id="a hyphen first"),
        pytest.param("a b", False, id="a space"),
        pytest.param("a,b", False, id="a comma"),
        pytest.param('a"', False, id="a quote"),
        pytest.param("a\n", False, id="a line end"),
        pytest.param("é", False, id="not ASCII"),
        pytest.param("*", False, id="a star"),
    ],
)
def test_is_scope(text: str, expected: bool) -> None:
    """A scope is a short word that needs no quoting anywhere."""
    assert is_scope(text) is expected


SCOPES = st.sampled_from("abcdef")
SETS = st.frozensets(SCOPES)


@st.composite
def tables(draw: st.DrawFn) -> ScopeTable:
    """Free of cycles: a scope includes only letters after its own."""
    return ScopeTable(
        {
            scope: tuple(draw(st.lists(st.sampled_from("abcdef"[i + 1 :]), unique=True)))
            for i, scope in enumerate("abcde")
        }
    )


@given(tables(), SETS)
def test_covers_is_reflexive(table: ScopeTable, granted: frozenset[str]) -> None:
    """What is granted covers itself."""
    assert table.covers(granted, granted)


@given(tables(), SETS, SETS, SETS)
def test_covers_is_monotone(
    table: ScopeTable, granted: frozenset[str], more: frozenset[str], asked: frozenset[str]
) -> None:
    """Holding more never takes anything away."""
    assert table.covers(granted | more, asked) >= table.covers(granted, asked)


@given(tables(), SETS, SETS, SETS)
def test_covers_is_antitone(
    table: ScopeTable, granted: frozenset[str], asked: frozenset[str], more: frozenset[str]
) -> None:
    """Asking for more never lets anybody in."""
    assert table.covers(granted, asked | more) <= table.covers(granted, asked)


@given(tables(), SETS, SETS, SETS)
def test_closure_is_transitive(table: ScopeTable, a: frozenset[str], b: frozenset[str], c: frozenset[str]) -> None:
    """What covers something covers all that that covers."""
    if table.covers(a, b) and table.covers(b, c):
        assert table.covers(a, c)


@given(tables(), SETS, SETS)
def test_covers_is_judged_scope_by_scope(table: ScopeTable, granted: frozenset[str], asked: frozenset[str]) -> None:
    """A set is covered if and only if each of its scopes is covered by one that is held."""
    each = all(any(table.covers((held,), (scope,)) for held in granted) for scope in asked)
    assert table.covers(granted, asked) is each


@given(tables(), st.dictionaries(SCOPES, st.lists(SCOPES, max_size=3)))
def test_cycles_told_are_cycles(table: ScopeTable, includes: dict[str, list[str]]) -> None:
    """A circle that is told is one, step by step; a table that goes only downwards has none."""
    assert find_cycle(table.includes) == ()
    cycle = find_cycle(includes)
    assert all(after in includes[before] for before, after in pairwise(cycle))
    assert cycle[:1] == cycle[-1:]
    assert bool(cycle) is _has_cycle(includes)


def _has_cycle(includes: Mapping[str, list[str]]) -> bool:
    """By striking scopes that include nothing until none can be struck."""
    left = dict(includes)
    while free := [scope for scope, names in left.items() if not any(name in left for name in names)]:
        for scope in free:
            del left[scope]
    return bool(left)
