"""
What a route requires, and which route a request is: method and path glob, first match, denied where nothing matches.

A path that could be read in two ways (by us, by Envoy's router, by the upstream) is no route at all.
"""

import re
import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote, unquote_to_bytes

from authz.core.bucket import Limit
from authz.core.request import Request
from authz.core.rules import RequestRule
from authz.core.scope import ScopeTable


_BAD_ESCAPE: Final = re.compile(r"%(?![0-9A-Fa-f]{2})")
_UNRESERVED: Final = f"{string.ascii_letters}{string.digits}-._~".encode()  # RFC 3986 §2.3: never escaped, normalised
_REOPENED: Final = frozenset(b"/\\%;" + _UNRESERVED + bytes(range(0x20)) + b"\x7f")  # must not come out of an escape
_LITERAL: Final = re.compile(r"[\\;\x00-\x20\x7f#?]|//|/\.{1,2}(/|$)")


@dataclass(frozen=True, slots=True)
class LimitSet:
    """A named limit of the configuration: its buckets and whose they are: `key`, `subject` or `workspace`."""

    name: str
    per: str = "key"
    requests: Limit | None = None
    tokens: Limit | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """
    Args:
        name: The metric label.
        methods: Empty: any.
        pattern: The path glob, as configured.
        scopes: All are required.
        limits: All must admit.
        rules: All must be kept.
        public: Let through without looking for a credential.
    """

    name: str
    pattern: str
    methods: frozenset[str] = frozenset()
    scopes: tuple[str, ...] = ()
    limits: tuple[LimitSet, ...] = ()
    rules: tuple[RequestRule, ...] = ()
    public: bool = False
    _matcher: re.Pattern[str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_matcher", compile_glob(self.pattern))

    def matches(self, method: str, path: str) -> bool:
        """*path*: unescaped."""
        return (not self.methods or method in self.methods) and self._matcher.fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Policy:
    """The whole of what is required: one immutable table, replaced as one."""

    routes: tuple[Route, ...]
    scopes: ScopeTable
    limits: Mapping[str, LimitSet]
    estimate: int = 500  # units of a tokens bucket spent at admission
    open_on_error: bool = False  # what signature, claims and scopes allow passes while the store is away

    def match(self, request: Request) -> Route | None:
        """The first route that matches; None: denied."""
        path = unquote(request.path) if "%" in request.path else request.path  # %C3%BA and %c3%ba are one
        for route in self.routes:
            if route.matches(request.method, path):
                return route
        return None


def compile_glob(pattern: str) -> re.Pattern[str]:
    """
    `*` is one segment, or a part of one; `**` is any number of segments and may stand once; at the end it is at least
    one, be it empty (`/v1/**` is what lies below `/v1/`). Matching takes linear time.

    Raises: ValueError — not absolute, ambiguous by itself, or more than one `**`.
    """
    if not pattern.startswith("/"):
        raise ValueError("a path starts with /")
    if is_ambiguous(pattern.replace("*", "x")):
        raise ValueError("no request can have this path: it is ambiguous")
    segments = pattern.split("/")
    if segments.count("**") > 1 or any("**" in segment and segment != "**" for segment in segments):
        raise ValueError("** stands for whole segments, once in a path")
    if any(segment.count("*") > 1 and segment != "**" for segment in segments):
        raise ValueError("* may stand once in a segment")
    pieces = [_segment_pattern(segment) for segment in segments]
    return re.compile("/".join(pieces).replace("/.*/", "/(?:.*/)?"), re.DOTALL)


def _segment_pattern(segment: str) -> str:
    if segment == "**":
        return ".*"
    return "[^/]+".join(re.escape(unquote(literal)) for literal in segment.split("*"))


def is_ambiguous(path: str) -> bool:
    r"""
    Whether *path*, normalised by the proxy, could still name two things.

    Dot segments, empty segments, `\`, `;` (path parameters), bad escapes, and escapes that hide one of `/ \ % ;`, a
    control character or what never needs an escape (Envoy's `normalize_path` resolves these); also bytes that are not
    UTF-8 (overlong forms of `/` and `.` are not).
    """
    if not path.startswith("/") or _LITERAL.search(path) or not path.isprintable():
        return True
    if "%" not in path:
        return False
    if _BAD_ESCAPE.search(path):
        return True
    escaped = [unquote_to_bytes(found) for found in re.findall(r"(?:%[0-9A-Fa-f]{2})+", path)]
    return any(not _REOPENED.isdisjoint(raw) or not _is_utf8(raw) for raw in escaped)


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode("utf-8", "strict")
    except UnicodeDecodeError:
        return False
    return True
