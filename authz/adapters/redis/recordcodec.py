"""A key's record as the bytes that the store holds."""

import struct
from typing import Final

from google.protobuf.message import DecodeError

from authz.core.bucket import Limit
from authz.core.keyrecord import KeyRecord, Rotation
from authz.pb.authz.store.v1 import record_pb2
from authz.ports import StoreFault


MAX_VERSION: Final = 2**53  # what Lua's numbers hold
_ISSUED: Final = struct.Struct("<d")


def encode(record: KeyRecord) -> bytes:
    """Without the time of issue, which `issue.lua` puts in front."""
    message = record_pb2.KeyRecord(
        id=record.id,
        name=record.name,
        kind=record.kind,
        prefix=record.prefix,
        subject=record.subject,
        workspace=record.workspace,
        scopes=record.scopes,
        limits={
            unit: record_pb2.Limit(capacity=limit.capacity, period_s=limit.period_s)
            for unit, limit in record.limits.items()
        },
        expires_at_us=record.expires_at_us or 0,
        rotations=[
            record_pb2.Rotation(
                number=one.number,
                issued_at_us=one.issued_at_us,
                ends_at_us=one.ends_at_us or 0,
                digest=bytes.fromhex(one.digest),
                nonce=bytes.fromhex(one.nonce),
            )
            for one in record.rotations
        ],
    )
    encoded: bytes = message.SerializeToString()
    return encoded + record.unknown


def decode(stored: bytes, version: bytes | None, revocation: bytes | None, last_used: bytes | None = None) -> KeyRecord:
    """Raises: StoreFault — these are not a record of ours."""
    try:
        (issued_us,) = _ISSUED.unpack_from(stored)
        message = record_pb2.KeyRecord.FromString(stored[_ISSUED.size :])
        revoked_at, _, reason = (revocation or b"").decode().partition(" ")
        return KeyRecord(
            id=message.id,
            name=message.name,
            kind=message.kind,
            prefix=message.prefix,
            subject=message.subject,
            workspace=message.workspace,
            scopes=tuple(message.scopes),
            limits={unit: Limit(limit.capacity, limit.period_s) for unit, limit in message.limits.items()},
            created_at_us=int(issued_us),
            expires_at_us=message.expires_at_us or None,
            version=_version(version, is_revoked=revocation is not None),
            revoked_at_us=int(revoked_at) if revoked_at else None,
            revoked_reason=reason,
            rotations=tuple(
                Rotation(
                    number=one.number,
                    issued_at_us=one.issued_at_us or int(issued_us),
                    ends_at_us=one.ends_at_us or None,
                    digest=one.digest.hex(),
                    nonce=one.nonce.hex(),
                )
                for one in message.rotations
            ),
            last_used_at_us=int(last_used) if last_used else None,
            unknown=_unknown(message),
        )
    except (DecodeError, ValueError, OverflowError, struct.error) as exc:
        raise StoreFault("a key's record in the store cannot be read") from exc


def _unknown(message: record_pb2.KeyRecord) -> bytes:
    """What is left once every field that this version knows is taken out."""
    rest = record_pb2.KeyRecord()
    rest.CopyFrom(message)
    for field in record_pb2.KeyRecord.DESCRIPTOR.fields_by_name:
        rest.ClearField(field)
    return rest.SerializeToString()


def _version(stored: bytes | None, *, is_revoked: bool) -> int:
    """A record without a version has lost it: it must not pass for one that nobody revoked. Raises: ValueError."""
    version = int(stored or 0)
    if not 1 <= abs(version) < MAX_VERSION:
        raise ValueError("not a version")
    return -abs(version) if is_revoked else version
