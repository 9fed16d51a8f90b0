"""
How a key looks: `sk-live-` and a JWT; and the ids and display prefixes under which it is listed.

A key's id is `key_`, the 8 hex digits of its display prefix, two hex digits that say in which of the store's partitions
its record lies, and 10 random characters. Ids hold no colon, dot or slash, so they fit into paths and store keys.
"""

import re
from typing import Final

from authz.core.credential import Credential
from authz.core.decision import Reason, Refusal


HS256_SIGNATURE_CHARS: Final = 43  # the shortest signature of any algorithm we take
_KEY_ID: Final = re.compile(r"key_([0-9a-f]{8})([0-9a-f]{2})[0-9a-z]{10}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_OTHER_PREFIX: Final = re.compile(r"[a-z]{2,6}[-_][a-z]{2,8}[-_]")


def key_id(display: str, partition: int, tail: str) -> str:
    """Raises: ValueError — parts that do not make an id (a bug)."""
    made = f"key_{display}{partition:02x}{tail}"
    if _KEY_ID.fullmatch(made) is None:
        raise ValueError("not the parts of a key id")
    return made


def partition_of(key_id: str) -> int | None:
    """The partition that a key's id names; None: not an id of ours (another issuer's `jti`, say)."""
    found = _KEY_ID.fullmatch(key_id)
    return int(found[2], 16) if found else None


def display_prefix(prefix: str, key_id: str) -> str | None:
    """`sk-live-1a2b3c4d` of a key id of ours, else None."""
    found = _KEY_ID.fullmatch(key_id)
    return prefix + found[1] if found else None


def parse_token(credential: Credential, prefix: str) -> str | Refusal:
    """
    The JWT within *credential*, by its shape alone; nothing is verified.

    Takes `prefix` + JWT from any source, and a bare JWT where the source is a Bearer scheme (RFC 6750). A copy that
    went wrong (cut short, another product's prefix) is told as such.
    """
    value = credential.value
    if value.startswith(prefix):
        return _checked_shape(value.removeprefix(prefix))
    if credential.bearer and value.count(".") == 2 and not _OTHER_PREFIX.match(value):
        return _checked_shape(value)
    return Refusal(Reason.MALFORMED_CREDENTIAL, f"keys of this API start with {prefix}")


def _checked_shape(token: str) -> str | Refusal:
    parts = token.split(".")
    if len(parts) > 3 or not all(_SEGMENT.fullmatch(part) for part in parts if part):
        return Refusal(Reason.MALFORMED_CREDENTIAL, "the key has characters or parts that no key has")
    if not parts[0] or (len(parts) == 3 and not parts[1]):
        return Refusal(Reason.MALFORMED_CREDENTIAL, "a part of the key is missing")
    if len(parts) < 3:
        return Refusal(Reason.MALFORMED_CREDENTIAL, "the key is cut short")
    if 0 < len(parts[2]) < HS256_SIGNATURE_CHARS:
        return Refusal(Reason.MALFORMED_CREDENTIAL, "the key is cut short")
    return token
