"""Scopes and what they include: `admin` includes `read-write`, which includes `read-only`."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Final


# RFC 6749 §3.3 scope-token, less the characters that would need quoting in headers, paths or shells; no comma: lists.
SCOPE_PATTERN: Final = r"[A-Za-z0-9][A-Za-z0-9._:/-]{0,63}"
_SCOPE: Final = re.compile(SCOPE_PATTERN)


def is_scope(text: str) -> bool:
    return _SCOPE.fullmatch(text) is not None


def find_cycle(includes: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    """A chain of inclusion that comes back to its start (`a, b, a`); empty where there is none."""
    done: set[str] = set()

    def walk(scope: str, trail: tuple[str, ...]) -> tuple[str, ...]:
        if scope in trail:
            return (*trail[trail.index(scope) :], scope)
        if scope in done:
            return ()
        for included in includes.get(scope, ()):
            if cycle := walk(included, (*trail, scope)):
                return cycle
        done.add(scope)
        return ()

    for scope in includes:
        if cycle := walk(scope, ()):
            return cycle
    return ()


@dataclass(frozen=True)
class ScopeTable:
    """Every scope there is and, for each, all that it includes, itself among it. Inclusion must be free of cycles."""

    includes: Mapping[str, tuple[str, ...]]

    @cached_property
    def _closures(self) -> dict[str, frozenset[str]]:
        closures: dict[str, frozenset[str]] = {}

        def close(scope: str) -> frozenset[str]:
            if scope not in closures:
                below = (close(included) for included in self.includes.get(scope, ()))
                closures[scope] = frozenset({scope}).union(*below)
            return closures[scope]

        for scope in self.includes:
            close(scope)
        return closures

    @property
    def names(self) -> frozenset[str]:
        return frozenset(self._closures)

    def covers(self, granted: Iterable[str], required: Iterable[str]) -> bool:
        """
        Whether *granted*, with all that it includes, holds every scope of *required*.

        A scope that the table does not know includes itself alone.
        """
        held = {included for scope in granted for included in self._closures.get(scope, (scope,))}
        return held.issuperset(required)
