"""
A hold on its way from the check to the access log, through the proxy: sealed, so that whoever reaches the port of the
access log can neither make one up nor change one. It is no secret, and holds none.
"""

import binascii
import hashlib
import hmac
from struct import Struct
from typing import Any, Final

from google.protobuf.message import DecodeError

from authz.core.bucket import MAX_UNITS, Limit
from authz.core.settlement import DecisionId, Hold, Spent
from authz.pb.authz.settlement.v1 import hold_pb2


TICKET: Final = "settlement"  # its key in the dynamic metadata of ext_authz
MAX_CHARS: Final = 16_384
_PURPOSE: Final = b"authz settlement ticket v1"  # no JWT's signing input holds a space: the keys stay apart
_TAG_BYTES: Final = 16
_VARYING: Final = Struct("<BQBq")  # Hold.number and Hold.at_us on the wire: their tags, each before eight bytes
_NUMBER, _AT_US = (3 << 3) | 1, (4 << 3) | 1


class Tickets:
    """Seals under the first of *secrets* (the keyring's), opens what was sealed under any."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._keys = tuple(hmac.digest(secret, _PURPOSE, "sha256") for secret in secrets)

    def seal(self, hold: Hold, constant: bytes | None = None) -> str:
        """*constant*: `constant_part` of it, where that is known already."""
        message = (constant_part(hold) if constant is None else constant) + _varying_part(hold)
        return binascii.b2a_base64(_tag(self._keys[0], message) + message, newline=False).decode()

    def open(self, ticket: str) -> Hold | None:
        """None: it is not one of ours."""
        if len(ticket) > MAX_CHARS:
            return None
        try:
            raw = binascii.a2b_base64(ticket, strict_mode=True)
        except (binascii.Error, ValueError):
            return None
        tag, message = raw[:_TAG_BYTES], raw[_TAG_BYTES:]
        if not any(hmac.compare_digest(_tag(key, message), tag) for key in self._keys):
            return None
        try:
            return _decode(message)
        except (DecodeError, ValueError):  # of a version that writes what this one cannot mean
            return None


def _tag(key: bytes, message: bytes) -> bytes:
    """RFC 7693 §2.9: BLAKE2 with a key is a MAC; a message has one in half the time of HMAC-SHA-256."""
    return hashlib.blake2b(message, key=key, digest_size=_TAG_BYTES).digest()


def constant_part(hold: Hold) -> bytes:
    """All but its number and its time: parts of a message, joined, are read as one (protobuf, Encoding)."""
    message: Any = hold_pb2.Hold(
        process=hold.id.process,
        partition=hold.id.partition,
        store=hold.id.store,
        key_id=hold.key_id,
        key_prefix=hold.key_prefix,
        subject=hold.subject,
        workspace=hold.workspace,
        allowed=hold.allowed,
        recorded=hold.recorded,
        spent=[
            hold_pb2.Spent(
                limit=spent.limit,
                owner=spent.owner,
                capacity=spent.bucket.capacity,
                period_s=spent.bucket.period_s,
                estimate=spent.estimate,
            )
            for spent in hold.spent
        ],
    )
    encoded: bytes = message.SerializeToString()
    return encoded


def _varying_part(hold: Hold) -> bytes:
    return _VARYING.pack(_NUMBER, hold.id.number, _AT_US, hold.at_us)


def _decode(encoded: bytes) -> Hold:
    message: Any = hold_pb2.Hold.FromString(encoded)
    return Hold(
        id=DecisionId(message.process, message.partition, message.number, message.store),
        at_us=message.at_us,
        key_id=message.key_id,
        key_prefix=message.key_prefix,
        subject=message.subject,
        workspace=message.workspace,
        allowed=message.allowed,
        recorded=message.recorded,
        spent=tuple(
            Spent(spent.limit, spent.owner, Limit(spent.capacity, spent.period_s), min(spent.estimate, MAX_UNITS))
            for spent in message.spent
        ),
    )
