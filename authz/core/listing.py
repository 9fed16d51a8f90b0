"""
What lists are asked for: conditions and pages, after Google's AIP-158 (pages) and a part of AIP-160 (filters).

    workspace = "acme" AND state = active AND name = "ci-*"
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from authz.core.keyrecord import KeyRecord, KeyState


DEFAULT_PAGE: Final = 50
MAX_PAGE: Final = 500
MAX_FILTER_CHARS: Final = 2048
_CONDITION: Final = re.compile(r'\s*([a-z_]+)\s*(=|:)\s*(?:"((?:[^"\\]|\\["\\])*)"|([^\s"()=:]+))\s*')
_AND: Final = re.compile(r"AND\b")


class FilterError(ValueError):
    """A filter that cannot be read; never repeats what was given."""


@dataclass(frozen=True, slots=True)
class Filter:
    """*equal*: by field. *name_prefix*: of the field `name`, where its condition ends in an asterisk."""

    equal: Mapping[str, str]
    name_prefix: str = ""

    def get(self, field: str) -> str | None:
        return self.equal.get(field)

    def may_match(self, record: KeyRecord) -> bool:
        """By all but its state, which is told by more than the record."""
        told = {"workspace": record.workspace, "subject": record.subject, "name": record.name}
        fixed = all(told.get(field, value) == value for field, value in self.equal.items())
        return fixed and record.name.startswith(self.name_prefix)

    def matches_key(self, record: KeyRecord, now_us: int) -> bool:
        return self.may_match(record) and self.equal.get("state", record.state(now_us).value) == record.state(now_us)

    def matches(self, told: Mapping[str, str]) -> bool:
        return all(told[field] == value for field, value in self.equal.items())


def parse_filter(text: str, fields: Collection[str]) -> Filter:
    """Raises: FilterError."""
    if len(text) > MAX_FILTER_CHARS:
        raise FilterError(f"must be at most {MAX_FILTER_CHARS} characters")
    equal: dict[str, str] = {}
    prefix: str | None = None
    place = 0
    while text[place:].strip():
        found = _CONDITION.match(text, place)
        if found is None:
            raise FilterError('must be conditions such as workspace = "acme", joined by AND')
        field, quoted, bare = found[1], found[3], found[4]
        if field not in fields:
            raise FilterError(f"can ask for {', '.join(sorted(fields))} alone")
        if field in equal or (field == "name" and prefix is not None):
            raise FilterError(f"asks for {field} twice")
        value = bare if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        if field == "state" and value not in set(KeyState):
            raise FilterError(f"can ask for a state of {', '.join(KeyState)}")
        if field == "name" and value.endswith("*"):
            prefix = value[:-1]
        else:
            equal[field] = value
        place = _next(text, found.end())
    return Filter(equal, prefix or "")


def _next(text: str, place: int) -> int:
    if not text[place:].strip():
        return len(text)
    joined = _AND.match(text, place)
    if joined is None or not text[joined.end() :].strip():
        raise FilterError("joins conditions by AND alone")
    return joined.end()
