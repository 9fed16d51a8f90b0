from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class KeyRecord(_message.Message):
    __slots__ = ("id", "name", "kind", "prefix", "subject", "workspace", "scopes", "limits", "expires_at_us", "rotations")
    class LimitsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: Limit
        def __init__(self, key: _Optional[str] = ..., value: _Optional[_Union[Limit, _Mapping]] = ...) -> None: ...
    ID_FIELD_NUMBER: _ClassVar[int]
    NAME_FIELD_NUMBER: _ClassVar[int]
    KIND_FIELD_NUMBER: _ClassVar[int]
    PREFIX_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    SCOPES_FIELD_NUMBER: _ClassVar[int]
    LIMITS_FIELD_NUMBER: _ClassVar[int]
    EXPIRES_AT_US_FIELD_NUMBER: _ClassVar[int]
    ROTATIONS_FIELD_NUMBER: _ClassVar[int]
    id: str
    name: str
    kind: str
    prefix: str
    subject: str
    workspace: str
    scopes: _containers.RepeatedScalarFieldContainer[str]
    limits: _containers.MessageMap[str, Limit]
    expires_at_us: int
    rotations: _containers.RepeatedCompositeFieldContainer[Rotation]
    def __init__(self, id: _Optional[str] = ..., name: _Optional[str] = ..., kind: _Optional[str] = ..., prefix: _Optional[str] = ..., subject: _Optional[str] = ..., workspace: _Optional[str] = ..., scopes: _Optional[_Iterable[str]] = ..., limits: _Optional[_Mapping[str, Limit]] = ..., expires_at_us: _Optional[int] = ..., rotations: _Optional[_Iterable[_Union[Rotation, _Mapping]]] = ...) -> None: ...

class Rotation(_message.Message):
    __slots__ = ("number", "issued_at_us", "ends_at_us", "digest", "nonce")
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    ISSUED_AT_US_FIELD_NUMBER: _ClassVar[int]
    ENDS_AT_US_FIELD_NUMBER: _ClassVar[int]
    DIGEST_FIELD_NUMBER: _ClassVar[int]
    NONCE_FIELD_NUMBER: _ClassVar[int]
    number: int
    issued_at_us: int
    ends_at_us: int
    digest: bytes
    nonce: bytes
    def __init__(self, number: _Optional[int] = ..., issued_at_us: _Optional[int] = ..., ends_at_us: _Optional[int] = ..., digest: _Optional[bytes] = ..., nonce: _Optional[bytes] = ...) -> None: ...

class Limit(_message.Message):
    __slots__ = ("capacity", "period_s")
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    capacity: int
    period_s: int
    def __init__(self, capacity: _Optional[int] = ..., period_s: _Optional[int] = ...) -> None: ...
