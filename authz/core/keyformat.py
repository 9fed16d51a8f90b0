"""
How a key looks, and the ids and display prefixes under which it is listed.

    sk-live-eyJhbGciOi…   the prefix and a JWT
    sk-live-7Hq…          the prefix, 43 base62 characters (256 bits), and 6 for the CRC-32 of all that stands before

The checksum tells a typo or a copy cut short from a key that is not known, without asking the store; it proves nothing.

A record's id is `key_` (of a user: `usr_`), 8 hex digits (a key's display prefix), two hex digits that say in which of
the store's partitions it lies, and 10 random characters. Ids hold no colon, dot or slash, so they fit into paths, store
keys and claims: a token's `jti` is the id, and after a dot the number of the rotation that it was issued by.
"""

import re
import string
import zlib
from dataclasses import dataclass, field
from typing import Final

from authz.core.credential import Credential
from authz.core.decision import Reason, Refusal


HS256_SIGNATURE_CHARS: Final = 43  # the shortest signature of any algorithm we take
SECRET_CHARS: Final = 43  # 62**43 > 2**256
CHECKSUM_CHARS: Final = 6  # 62**6 > 2**32
OPAQUE_CHARS: Final = SECRET_CHARS + CHECKSUM_CHARS
NOT_OURS: Final = "keys of this API start with"
BASE62: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RECORD_ID: Final = re.compile(r"(key|usr)_([0-9a-f]{8})([0-9a-f]{2})[0-9a-z]{10}")
_ROTATION: Final = re.compile(r"0|[1-9][0-9]{0,8}")
_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-]+")
_OPAQUE: Final = re.compile(r"[0-9A-Za-z]+")
_OTHER_PREFIX: Final = re.compile(r"[a-z]{2,6}[-_][a-z]{2,8}[-_]")


@dataclass(frozen=True, slots=True)
class OpaqueToken:
    """A token of the opaque kind whose checksum fits; whose it is, the store knows."""

    value: str = field(repr=False)


def record_id(kind: str, display: str, partition: int, tail: str) -> str:
    """*kind*: `key` or `usr`. Raises: ValueError — parts that do not make an id (a bug)."""
    made = f"{kind}_{display}{partition:02x}{tail}"
    if _RECORD_ID.fullmatch(made) is None:
        raise ValueError("not the parts of an id")
    return made


def partition_of(record_id: str) -> int | None:
    """The partition that an id names; None: not an id of ours (another issuer's `jti`, say)."""
    found = _RECORD_ID.fullmatch(record_id)
    return int(found[3], 16) if found else None


def is_user(record_id: str) -> bool:
    """Whether an id of ours is a user's, whose credentials are sessions."""
    found = _RECORD_ID.fullmatch(record_id)
    return found is not None and found[1] == "usr"


def display_prefix(prefix: str, record_id: str) -> str | None:
    """`sk-live-1a2b3c4d` of a key's id, else None."""
    found = _RECORD_ID.fullmatch(record_id)
    return prefix + found[2] if found and found[1] == "key" else None


def token_id(record_id: str, rotation: int, session: str = "") -> str:
    """The `jti` of a token: the id alone for a key's first, `id.2` after two rotations, `id.0.SESSION` of a session."""
    if session:
        return f"{record_id}.{rotation}.{session}"
    return f"{record_id}.{rotation}" if rotation else record_id


def split_token_id(jti: str) -> tuple[str, int]:
    """(record id, rotation) of a `jti` of ours; of anybody else's, all of it, and 0."""
    owner, dot, rest = jti.partition(".")
    number = rest.partition(".")[0]
    if not dot or _RECORD_ID.fullmatch(owner) is None or _ROTATION.fullmatch(number) is None:
        return jti, 0
    return owner, int(number)


def opaque_token(prefix: str, secret: str) -> str:
    """*secret*: `SECRET_CHARS` random base62 characters."""
    return f"{prefix}{secret}{checksum(prefix + secret)}"


def checksum(body: str) -> str:
    """CRC-32 of everything before it, the prefix included, as 6 base62 digits, most significant first."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(CHECKSUM_CHARS):
        number, digit = divmod(number, 62)
        digits = BASE62[digit] + digits
    return digits


def parse_token(credential: Credential, prefix: str) -> str | OpaqueToken | Refusal:
    """
    The JWT (a text) or opaque token within *credential*, by its shape alone; nothing is verified.

    Takes `prefix` + token from any source, and a bare JWT where the source is a Bearer scheme (RFC 6750). A copy that
    went wrong (cut short, mistyped, another product's prefix) is told as such.
    """
    value = credential.value
    if value.startswith(prefix):
        rest = value.removeprefix(prefix)
        bare = rest.rstrip(".") if len(rest) > OPAQUE_CHARS else rest  # a full stop that was copied along makes no JWT
        if bare and "." not in bare and not (bare.startswith("eyJ") and len(bare) != OPAQUE_CHARS):
            return _checked_opaque(value, rest)
        return _checked_shape(rest)
    if credential.bearer and value.count(".") == 2 and not _OTHER_PREFIX.match(value):
        return _checked_shape(value)
    return Refusal(Reason.MALFORMED_CREDENTIAL, f"{NOT_OURS} {prefix}")


def _checked_opaque(value: str, rest: str) -> OpaqueToken | Refusal:
    if _OPAQUE.fullmatch(rest) is None:
        return Refusal(Reason.MALFORMED_CREDENTIAL, "the key has characters or parts that no key has")
    if len(rest) < OPAQUE_CHARS:
        return Refusal(Reason.MALFORMED_CREDENTIAL, "the key is cut short")
    if len(rest) > OPAQUE_CHARS:
        return Refusal(Reason.MALFORMED_CREDENTIAL, "the key is longer than any key: more than it was copied")
    if checksum(value[:-CHECKSUM_CHARS]) != value[-CHECKSUM_CHARS:]:
        return Refusal(Reason.MALFORMED_CREDENTIAL, "its checksum does not fit: a character was changed or mistyped")
    return OpaqueToken(value)


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
