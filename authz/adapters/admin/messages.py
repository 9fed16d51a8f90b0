"""Records as messages of the API, and what requests say as the use cases take it."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, Final, cast

from google.protobuf.timestamp_pb2 import Timestamp

from authz.adapters.door import page_size, timestamp
from authz.admin.keys import Drawn, Everything, IssuedKey, KeyChanges, KeyRequestError, NewKey, etag
from authz.admin.usage import KeyUsage, Span, Usage
from authz.core.bucket import US, Limit
from authz.core.claims import YEAR_9999_S
from authz.core.event import Event
from authz.core.grouping import Group
from authz.core.keyrecord import KeyRecord
from authz.core.listing import Filter, FilterError, parse_filter
from authz.core.units import format_limit, parse_duration_ms, parse_limit
from authz.core.usage import Counts
from authz.pb.authz.admin.v1 import keys_pb2


KEY_FIELDS: Final = frozenset({"workspace", "subject", "state", "name"})
EVENT_FIELDS: Final = frozenset({"workspace", "key_id", "actor", "action"})
USAGE_FIELDS: Final = frozenset({"workspace", "subject", "key_id", "model"})
CHANGEABLE: Final = ("name", "scopes", "limits", "expires_at")
_NO_TIME: Final = frozenset({"", "0", "0s", "0m", "0h", "0d"})


def _shared(record: KeyRecord) -> dict[str, Any]:
    """What `Key` and `KeyWithToken` both tell."""
    return {
        "id": record.id,
        "name": record.name,
        "prefix": record.prefix,
        "kind": record.kind,
        "subject": record.subject,
        "workspace": record.workspace,
        "scopes": record.scopes,
        "limits": {unit: format_limit(limit) for unit, limit in record.limits.items()},
        "created_at": timestamp(record.created_at_us),
        "expires_at": timestamp(record.expires_at_us),
    }


def key(record: KeyRecord, now_us: int, *, token: str | None = None, warnings: list[str] | None = None) -> Any:
    rotations = [
        keys_pb2.Rotation(number=one.number, issued_at=timestamp(one.issued_at_us), ends_at=timestamp(one.ends_at_us))
        for one in record.rotations or (record.current,)
    ]
    return keys_pb2.Key(
        **_shared(record),
        state=record.state(now_us).value,
        last_used_at=timestamp(record.last_used_at_us),
        revoked_at=timestamp(record.revoked_at_us),
        revoked_reason=record.revoked_reason,
        rotations=rotations,
        etag=etag(record),
        token=token,
        warnings=warnings or [],
    )


def key_with_token(issued: IssuedKey) -> Any:
    return keys_pb2.KeyWithToken(**_shared(issued.record), token=issued.token)


def event(told: Event) -> Any:
    message = keys_pb2.Event(
        id=told.id,
        at=timestamp(told.at_us),
        actor=told.actor,
        action=told.action,
        key_id=told.target,
        workspace=told.workspace,
        request_id=told.request_id,
    )
    message.before.update(cast("dict[str, Any]", told.before))
    message.after.update(cast("dict[str, Any]", told.after))
    return message


def key_usage(told: KeyUsage) -> Any:
    window = told.window
    by_model = {
        name: keys_pb2.ModelUsage(
            requests=counts.requests, input_tokens=counts.input_tokens, output_tokens=counts.output_tokens
        )
        for name, counts in told.by_model.items()
    }
    return keys_pb2.KeyUsage(
        id=told.key_id,
        **_counted(told.total),
        last_used_at=timestamp(told.last_used_us),
        by_model=by_model,
        start_time=None if window is None else timestamp(window.start_s * US),
        end_time=None if window is None else timestamp(window.until_s * US),
    )


def usage(told: Usage) -> Any:
    return keys_pb2.Usage(
        start_time=None if told.start_s is None else timestamp(told.start_s * US),
        end_time=timestamp(told.until_s * US),
        **_counted(told.total),
        groups=[_group(group) for group in told.groups],
    )


def _group(group: Group) -> Any:
    return keys_pb2.UsageGroup(
        model=group.model,
        key_id=group.key_id,
        subject=group.subject,
        workspace=group.workspace,
        time=None if group.at_s is None else timestamp(group.at_s * US),
        **_counted(group.counts),
    )


def _counted(counts: Counts) -> dict[str, int]:
    return dataclasses.asdict(counts)


def encode_drawn(drawn: Drawn) -> bytes:
    return json.dumps(dataclasses.asdict(drawn)).encode()


def decode_drawn(encoded: bytes | None) -> Drawn | None:
    return None if encoded is None else Drawn(**json.loads(encoded))


def new_key(request: Any) -> NewKey:
    """Raises: KeyRequestError."""
    return NewKey(
        name=request.name,
        subject=request.subject,
        workspace=request.workspace,
        scopes=tuple(request.scopes),
        lifetime_s=seconds(request.expires_in, "expires_in") if request.expires_in else None,
        limits=_read_limits(request.limits),
        kind=request.kind,
    )


def _read_limits(limits: Mapping[str, str]) -> dict[str, Limit]:
    read = {}
    for unit, text in limits.items():
        try:
            read[unit] = parse_limit(text)
        except ValueError as exc:
            raise KeyRequestError(f"limits.{unit}", str(exc)) from exc
    return read


def seconds(text: str, field: str) -> int:
    """Raises: KeyRequestError."""
    try:
        lifetime_ms = parse_duration_ms(text)
    except ValueError as exc:
        raise KeyRequestError(field, str(exc)) from exc
    if lifetime_ms % 1000:
        raise KeyRequestError(field, "must be whole seconds")
    return lifetime_ms // 1000


def grace_s(text: str) -> int:
    """`0s` is none; so is nothing. Raises: KeyRequestError."""
    return 0 if text in _NO_TIME else seconds(text, "grace")


def changes(request: Any) -> KeyChanges:
    """Raises: KeyRequestError."""
    sent = request.key
    named = list(request.update_mask.paths) or [
        field for field in CHANGEABLE if (sent.HasField(field) if field == "expires_at" else getattr(sent, field))
    ]
    for field in named:
        if field not in CHANGEABLE:
            known = field.partition(".")[0] in keys_pb2.Key.DESCRIPTOR.fields_by_name
            raise KeyRequestError("update_mask", "a field that cannot be changed" if known else "an unknown field")
    values: dict[str, Any] = {}
    if "name" in named:
        values["name"] = sent.name
    if "scopes" in named:
        values["scopes"] = tuple(sent.scopes)
    if "limits" in named:
        values["limits"] = _read_limits(sent.limits)
    if "expires_at" in named:
        values["expires_at_us"] = _us(sent.expires_at, "expires_at") if sent.HasField("expires_at") else None
    return KeyChanges(values, sent.etag)


def everything(request: Any) -> Everything:
    """Raises: KeyRequestError."""
    upto_us = _us(request.issued_before, "issued_before") if request.HasField("issued_before") else None
    return Everything(request.subject, request.workspace, upto_us)


def span(request: Any) -> Span:
    """Raises: KeyRequestError."""
    start_us = _us(request.start_time, "start_time") if request.HasField("start_time") else None
    end_us = _us(request.end_time, "end_time") if request.HasField("end_time") else None
    return Span(start_us, end_us)


def _us(at: Timestamp, field: str) -> int:
    if not 0 <= at.seconds <= YEAR_9999_S:
        raise KeyRequestError(field, "must be a time between 1970 and 9999")
    return at.seconds * 1_000_000 + at.nanos // 1000


def listed(request: Any, fields: frozenset[str]) -> tuple[Filter, int]:
    """What is asked for, and how many. Raises: KeyRequestError."""
    size = page_size(request.page_size)
    return filtered(request, fields), size


def filtered(request: Any, fields: frozenset[str]) -> Filter:
    """Raises: KeyRequestError."""
    try:
        return parse_filter(request.filter, fields)
    except FilterError as exc:
        raise KeyRequestError("filter", str(exc)) from exc
