"""JSON as a token may hold it: an object, no member twice, no NaN, bounded depth, valid UTF-8."""

import base64
import binascii
import json
import re
from typing import Final, NoReturn


MAX_DEPTH: Final = 8
_TEXTS: Final = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)


class NotStrictError(ValueError):
    """The text is not such an object."""


def decode_segment(segment: str) -> bytes:
    """
    Base64url without padding, in the one canonical spelling (RFC 7515 §2, RFC 4648 §3.5).

    Without this, one signature has four spellings and a revoked token as many.
    Raises: NotStrictError.
    """
    try:
        raw = base64.b64decode(segment + "=" * (-len(segment) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as exc:
        raise NotStrictError("not base64url") from exc
    if base64.urlsafe_b64encode(raw).rstrip(b"=") != segment.encode("ascii", "replace"):
        raise NotStrictError("not the canonical spelling")
    return raw


def load_object(raw: bytes) -> dict[str, object]:
    """Raises: NotStrictError."""
    try:
        text = raw.decode("utf-8", "strict")
        if _depth(text) > MAX_DEPTH:
            raise NotStrictError("nested too deeply")
        value = json.loads(text, object_pairs_hook=_no_member_twice, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as exc:
        raise NotStrictError(str(exc)) from exc
    if not isinstance(value, dict):
        raise NotStrictError("not an object")
    return value


def _depth(text: str) -> int:
    """The nesting of *text*, or more: texts within it, which may hold brackets of any kind, are taken out first."""
    if (opened := text.count("[") + text.count("{")) <= MAX_DEPTH:
        return opened
    deepest = depth = 0
    for char in _TEXTS.sub("", text):
        if char in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif char in "]}":
            depth -= 1
    return deepest


def _no_member_twice(pairs: list[tuple[str, object]]) -> dict[str, object]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise NotStrictError("a member stands twice")
    return members


def _refuse_constant(name: str) -> NoReturn:
    raise NotStrictError(f"{name} is not JSON")
