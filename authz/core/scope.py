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
    for scope in includes:
        if way := _way_back(scope, includes):
            return way
    return ()


def _way_back(start: str, includes: Mapping[str, Iterable[str]]) -> tuple[str, ...]:
    came_from: dict[str, str] = {}
    ahead = [start]
    while ahead:
        scope = ahead.pop()
        for included in includes.get(scope, ()):
            if included == start:
                way = [start]
                while scope != start:
                    way.append(scope)
                    scope = came_from[scope]
                return (start, *reversed(way)) if len(way) > 1 else (start, start)
            if included not in came_from:
                came_from[included] = scope
                ahead.append(included)
    return ()


@dataclass(frozen=True)
class ScopeTable:
    """Every scope there is and, for each, all that it includes, itself among it. Inclusion must be free of cycles."""

    includes: Mapping[str, tuple[str, ...]]

    @cached_property
    def _closures(self) -> dict[str, frozenset[str]]:
        scopes = {*self.includes, *(name for names in self.includes.values() for name in names)}
        return {scope: self._reach(scope) for scope in scopes}

    def _reach(self, scope: str) -> frozenset[str]:
        reached, ahead = {scope}, [scope]
        while ahead:
            for included in self.includes.get(ahead.pop(), ()):
                if included not in reached:
                    reached.add(included)
                    ahead.append(included)
        return frozenset(reached)

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
