from google.protobuf.internal import containers as _containers
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Hold(_message.Message):
    __slots__ = ("process", "partition", "number", "at_us", "key_id", "key_prefix", "subject", "workspace", "allowed", "recorded", "spent", "store")
    PROCESS_FIELD_NUMBER: _ClassVar[int]
    PARTITION_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    AT_US_FIELD_NUMBER: _ClassVar[int]
    KEY_ID_FIELD_NUMBER: _ClassVar[int]
    KEY_PREFIX_FIELD_NUMBER: _ClassVar[int]
    SUBJECT_FIELD_NUMBER: _ClassVar[int]
    WORKSPACE_FIELD_NUMBER: _ClassVar[int]
    ALLOWED_FIELD_NUMBER: _ClassVar[int]
    RECORDED_FIELD_NUMBER: _ClassVar[int]
    SPENT_FIELD_NUMBER: _ClassVar[int]
    STORE_FIELD_NUMBER: _ClassVar[int]
    process: bytes
    partition: int
    number: int
    at_us: int
    key_id: str
    key_prefix: str
    subject: str
    workspace: str
    allowed: bool
    recorded: bool
    spent: _containers.RepeatedCompositeFieldContainer[Spent]
    store: str
    def __init__(self, process: _Optional[bytes] = ..., partition: _Optional[int] = ..., number: _Optional[int] = ..., at_us: _Optional[int] = ..., key_id: _Optional[str] = ..., key_prefix: _Optional[str] = ..., subject: _Optional[str] = ..., workspace: _Optional[str] = ..., allowed: _Optional[bool] = ..., recorded: _Optional[bool] = ..., spent: _Optional[_Iterable[_Union[Spent, _Mapping]]] = ..., store: _Optional[str] = ...) -> None: ...

class Spent(_message.Message):
    __slots__ = ("limit", "owner", "capacity", "period_s", "estimate")
    LIMIT_FIELD_NUMBER: _ClassVar[int]
    OWNER_FIELD_NUMBER: _ClassVar[int]
    CAPACITY_FIELD_NUMBER: _ClassVar[int]
    PERIOD_S_FIELD_NUMBER: _ClassVar[int]
    ESTIMATE_FIELD_NUMBER: _ClassVar[int]
    limit: str
    owner: str
    capacity: int
    period_s: int
    estimate: int
    def __init__(self, limit: _Optional[str] = ..., owner: _Optional[str] = ..., capacity: _Optional[int] = ..., period_s: _Optional[int] = ..., estimate: _Optional[int] = ...) -> None: ...
