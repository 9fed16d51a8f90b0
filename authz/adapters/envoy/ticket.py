"""
A hold on its way from the check to the access log, through the proxy: sealed, so that whoever reaches the port of the
access log can neither make one up nor change one. It is no secret, and holds none.
"""

import base64
import binascii
import hmac
from typing import Any, Final

from google.protobuf.message import DecodeError

from authz.core.bucket import MAX_UNITS, Limit
from authz.core.settlement import DecisionId, Hold, Spent
from authz.pb.authz.settlement.v1 import hold_pb2


TICKET: Final = "settlement"  # its key in the dynamic metadata of ext_authz
MAX_CHARS: Final = 16_384
_PURPOSE: Final = b"authz settlement ticket v1"  # no JWT's signing input holds a space: the keys stay apart
_TAG_BYTES: Final = 16  # RFC 2104 §5: half of HMAC-SHA-256


class Tickets:
    """Seals under the first of *secrets* (the keyring's), opens what was sealed under any."""

    def __init__(self, secrets: tuple[bytes, ...]) -> None:
        self._keys = tuple(hmac.digest(secret, _PURPOSE, "sha256") for secret in secrets)

    def seal(self, hold: Hold) -> str:
        message = _encode(hold)
        return base64.urlsafe_b64encode(_tag(self._keys[0], message) + message).decode()

    def open(self, ticket: str) -> Hold | None:
        """None: it is not one of ours."""
        if len(ticket) > MAX_CHARS:
            return None
        try:
            raw = base64.b64decode(ticket, altchars=b"-_", validate=True)
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
    return hmac.digest(key, message, "sha256")[:_TAG_BYTES]


def _encode(hold: Hold) -> bytes:
    message: Any = hold_pb2.Hold(
        process=hold.id.process,
        partition=hold.id.partition,
        number=hold.id.number,
        store=hold.id.store,
        at_us=hold.at_us,
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
