"""
protobuf's JSON mapping, strictly, for every door that speaks JSON: text ⇄ values ⇄ messages.

protobuf's own `json_format` makes the messages. It also takes numbers written as text, names in camelCase, base64 with
errors in it, and repeats in its errors what was sent. So all that it is given was checked here first, and every error
names the field and never the value, which may be a secret.
"""

import base64
import json
import re
import sys
from collections.abc import Callable, Iterable
from collections.abc import Set as AbstractSet
from typing import Any, Final, NoReturn
from urllib.parse import parse_qsl

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor as Kind
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.timestamp_pb2 import Timestamp


Json = dict[str, Any]
Descriptor = Any  # upb's are made at run time
Field = Any

MAX_DEPTH: Final = 16
MAX_PARAMETERS: Final = 64
_FLOAT_MAX: Final = float.fromhex("0x1.fffffep127")
_DOUBLE_MAX: Final = sys.float_info.max
_EXACT: Final = 2**53  # a double holds every whole number up to here
_WHOLE: Final = re.compile(r"-?(0|[1-9][0-9]{0,19})")
_NUMBER: Final = re.compile(r"-?(0|[1-9][0-9]{0,18})(\.[0-9]{1,18})?([eE][+-]?[0-9]{1,3})?")
_TIME: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])"
)
_SNAKE: Final = r"[a-z][a-z0-9]*(_[a-z][a-z0-9]*)*"
_PATH: Final = rf"{_SNAKE}(\.{_SNAKE})*"
_MASK: Final = re.compile(rf"\*|({_PATH}(,{_PATH})*)?")
_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_NAMES: Final = re.compile(rf"{_NAME.pattern}(\.{_NAME.pattern}){{0,7}}")
_BASE64: Final = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_NOT_OF_A_URL: Final = re.compile(r"%(?![0-9A-Fa-f]{2})|[^!-~]")
_INT_BITS: Final = {
    Kind.CPPTYPE_INT32: (-(2**31), 2**31),
    Kind.CPPTYPE_UINT32: (0, 2**32),
    Kind.CPPTYPE_INT64: (-(2**63), 2**63),
    Kind.CPPTYPE_UINT64: (0, 2**64),
}
_INT64: Final = frozenset((Kind.CPPTYPE_INT64, Kind.CPPTYPE_UINT64))
_FLOATS: Final = frozenset((Kind.CPPTYPE_FLOAT, Kind.CPPTYPE_DOUBLE))


class FieldError(ValueError):
    """
    What was sent does not fit. The text of it reads on after "The request is not acceptable: ".

    Args:
        field: Dotted: `limits.requests`; empty: all of it.
        reason: What is wrong, to be read on after the field's name: `must be a whole number`. Never the value.
    """

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field or 'it'} {reason}")
        self.field = field
        self.reason = reason


def load(raw: bytes) -> object:
    """JSON text: UTF-8, no member twice, no NaN, at most `MAX_DEPTH` deep. Raises: FieldError."""
    try:
        value = json.loads(raw.decode(), object_pairs_hook=_no_member_twice, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise FieldError("", "is not UTF-8") from None
    except RecursionError:
        raise FieldError("", "is nested too deeply") from None
    except FieldError:
        raise
    except ValueError:  # its text may quote the document
        raise FieldError("", "is not JSON") from None
    if _deeper_than(value, MAX_DEPTH):
        raise FieldError("", "is nested too deeply")
    return value


def _no_member_twice(pairs: list[tuple[str, object]]) -> Json:
    members: Json = {}
    for name, value in pairs:
        if name in members:
            raise FieldError(_below("", name), "stands twice")
        members[name] = value
    return members


def _refuse_constant(_: str) -> NoReturn:
    raise FieldError("", "holds a number that is not JSON")


def _deeper_than(value: object, depth: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return depth == 0 or any(_deeper_than(item, depth - 1) for item in inner)


def parse(value: object, message_class: Callable[[], Message]) -> Message:
    """The message that JSON's *value* stands for. Raises: FieldError."""
    message = message_class()
    checked = _message(value, message.DESCRIPTOR, "")
    return _made(checked, message, "", f"does not make a {message.DESCRIPTOR.name}")


def _made(value: Any, message: Message, at: str, reason: str) -> Message:
    try:
        return json_format.ParseDict(value, message)
    except (json_format.ParseError, ValueError, TypeError, KeyError, AttributeError):  # all of them quote the value
        raise FieldError(at, reason) from None


def _message(value: object, descriptor: Descriptor, at: str) -> object:
    """*value*, checked, and as `json_format` takes it."""
    if is_well_known(descriptor):
        return _well_known_checked(value, descriptor, at)
    if not isinstance(value, dict):
        raise FieldError(at, "must be an object")
    checked, chosen = {}, set()
    for name, member in value.items():
        field = _field_of(descriptor, name, at)
        if member is None:
            continue  # as if it were not there
        path = _below(at, name)
        if field.containing_oneof is not None:
            if field.containing_oneof.name in chosen:
                raise FieldError(path, "contradicts another field: only one of them may be set")
            chosen.add(field.containing_oneof.name)
        checked[name] = _field(member, field, path)
    return checked


def _field_of(descriptor: Descriptor, name: object, at: str) -> Field:
    field = descriptor.fields_by_name.get(name) if isinstance(name, str) else None
    if field is not None:
        return field
    meant = [known.name for known in descriptor.fields if known.json_name == name]
    raise FieldError(_below(at, name), f"is not known here: its name is {meant[0]}" if meant else "is not known here")


def _below(at: str, name: object) -> str:
    """The path of *name* below *at*; of *at* itself if the name is none that could be repeated without a thought."""
    if not isinstance(name, str) or _NAME.fullmatch(name) is None:
        return at
    return f"{at}.{name}" if at else name


def _field(value: object, field: Field, at: str) -> object:
    if is_map(field):
        return _map(value, field, at)
    if not field.is_repeated:
        return _single(value, field, at)
    if not isinstance(value, list | tuple):
        raise FieldError(at, "must be an array")
    return [_single(item, field, at) for item in value]


def _map(value: object, field: Field, at: str) -> Json:
    if not isinstance(value, dict):
        raise FieldError(at, "must be an object")
    key, item = (field.message_type.fields_by_name[name] for name in ("key", "value"))
    checked = {}
    for name, member in value.items():
        path = _below(at, name)
        _single(typed(name, key, path) if isinstance(name, str) else name, key, path)
        checked[name] = _single(member, item, path)
    return checked


def _single(value: object, field: Field, at: str) -> object:
    kind = field.cpp_type
    if kind == Kind.CPPTYPE_MESSAGE:
        return _message(value, field.message_type, at)
    if kind == Kind.CPPTYPE_BOOL:
        return _expect(value, isinstance(value, bool), at, "must be true or false")
    if kind in _FLOATS:
        return _finite(value, at, _FLOAT_MAX if kind == Kind.CPPTYPE_FLOAT else _DOUBLE_MAX)
    if kind == Kind.CPPTYPE_ENUM:
        names = [choice.name for choice in field.enum_type.values]
        return _expect(value, value in names, at, f"must be one of {', '.join(names)}")
    if kind == Kind.CPPTYPE_STRING:
        return _bytes(value, at) if field.type == Kind.TYPE_BYTES else _text(value, at)
    return _integer(value, field, at)


def _expect(value: object, holds: object, at: str, reason: str) -> object:
    if not holds:
        raise FieldError(at, reason)
    return value


def _integer(value: object, field: Field, at: str) -> int:
    """A number without a fraction, however JSON writes it; of 64 bits, also as text, as the mapping has it."""
    low, high = _INT_BITS[field.cpp_type]
    if isinstance(value, str) and field.cpp_type in _INT64 and _WHOLE.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise FieldError(at, "must be a whole number")
    if not low <= value < high:
        raise FieldError(at, "is out of range")
    return value


def _finite(value: object, at: str, most: float = _DOUBLE_MAX) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        raise FieldError(at, "must be a number")
    if not -most <= value <= most:  # nor is NaN
        raise FieldError(at, "is out of range")
    return float(value)


def _text(value: object, at: str) -> str:
    if not isinstance(value, str):
        raise FieldError(at, "must be a string")
    if any("\ud800" <= char <= "\udfff" for char in value):
        raise FieldError(at, "holds half a character: a surrogate by itself")
    return value


def _bytes(value: object, at: str) -> str:
    if not isinstance(value, str) or len(value) % 4 or _BASE64.fullmatch(value) is None:
        raise FieldError(at, "must be base64")
    return value.replace("+", "-").replace("/", "_")  # json_format ignores what the alphabet of URLs has not


def _well_known_checked(value: object, descriptor: Descriptor, at: str) -> object:
    reason = f"does not make a {descriptor.name}"
    if descriptor.name == "Timestamp":
        reason = "must be a time such as 2026-05-20T10:00:00Z"
        _expect(value, isinstance(value, str) and _TIME.fullmatch(value), at, reason)
    elif descriptor.name == "FieldMask":
        return _mask(value, at)
    elif descriptor.name == "Struct":
        _expect(value, isinstance(value, dict), at, "must be an object")
    checked = _free(value, at)
    _made(checked, GetMessageClass(descriptor)(), at, reason)  # such as the 30th of February
    return checked


def _mask(value: object, at: str) -> str:
    """`json_format` wants these names in camelCase, and ours are the proto's own."""
    if not isinstance(value, str) or _MASK.fullmatch(value) is None:
        raise FieldError(at, "must be names of fields, joined by commas")
    return re.sub("_([a-z])", lambda found: found[1].upper(), value)


def _free(value: object, at: str) -> object:
    """Any JSON, for `Struct`, `Value` and what else has a mapping of its own."""
    if isinstance(value, dict):
        return {_text(name, at): _free(item, _below(at, name)) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_free(item, at) for item in value]
    if value is None or isinstance(value, bool):
        return value
    return _text(value, at) if isinstance(value, str) else _finite(value, at)


def render(message: Message) -> Json:
    """
    *message* as JSON: every field, by the proto's own names and in its order, the empty ones too.

    Left out is what is `optional` (or one of several) and not set; any other message that is not set is null.
    """
    return {
        field.name: _shown(getattr(message, field.name), field, message)
        for field in message.DESCRIPTOR.fields
        if _is_always_shown(field) or message.HasField(field.name)
    }


def _is_always_shown(field: Field) -> bool:
    return not field.has_presence or (field.message_type is not None and field.containing_oneof is None)


def _shown(value: Any, field: Field, owner: Message) -> object:
    if is_map(field):
        item = field.message_type.fields_by_name["value"]
        return {_key(key): _one(value[key], item) for key in sorted(value)}
    if field.is_repeated:
        return [_one(item, field) for item in value]
    if field.message_type is not None and not owner.HasField(field.name):
        return None
    return _one(value, field)


def _key(key: object) -> str:
    return str(key).lower() if isinstance(key, bool) else str(key)


def _one(value: Any, field: Field) -> object:
    if field.message_type is not None:
        return _well_known(value) if is_well_known(field.message_type) else render(value)
    if field.enum_type is not None:
        choice = field.enum_type.values_by_number.get(value)
        return choice.name if choice else value
    if field.type == Kind.TYPE_BYTES:
        return base64.b64encode(value).decode()
    if field.cpp_type in _INT64:
        return str(value)  # the mapping's rule: JSON's numbers are not exact beyond 2**53
    return _number(value) if isinstance(value, float) else value


def _well_known(value: Any) -> object:
    name = value.DESCRIPTOR.name
    if name == "Timestamp":
        return Timestamp(seconds=value.seconds).ToJsonString()
    if name == "FieldMask":
        return ",".join(value.paths)
    return _plain(json_format.MessageToDict(value))


def _plain(value: object) -> object:
    if isinstance(value, dict):
        return {name: _plain(value[name]) for name in sorted(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _number(value) if isinstance(value, float) else value


def _number(value: float) -> float | int:
    """60, not 60.0."""
    return int(value) if value.is_integer() and abs(value) <= _EXACT else value


def is_well_known(descriptor: Descriptor) -> bool:
    """Whether messages of this kind have a JSON of their own, such as `Timestamp`."""
    return bool(descriptor.file.package == "google.protobuf")


def is_map(field: Field) -> bool:
    """Whether *field* is a `map<…>`: to protobuf, a repeated message of keys and values."""
    return field.message_type is not None and bool(field.message_type.GetOptions().map_entry)


def from_query(query: str, message_class: Callable[[], Message], taken: AbstractSet[str] = frozenset()) -> Json:
    """
    The parameters of a URL as `parse` takes them: `page_size=5&key.name=x` is `{"page_size": 5, "key": {"name": "x"}}`.

    *taken*: fields, with all that is below them, that come from elsewhere. Raises: FieldError.
    """
    if not query:
        return {}
    if query.count("&") >= MAX_PARAMETERS:
        raise FieldError("", "has too many parameters in its URL")
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, errors="strict")
    except ValueError:  # its text quotes the parameter
        pairs = []
    if not pairs or _NOT_OF_A_URL.search(query):
        raise FieldError("", "has a query in its URL that cannot be read")
    return from_pairs(pairs, message_class, taken)


def from_pairs(
    pairs: Iterable[tuple[str, str]], message_class: Callable[[], Message], taken: AbstractSet[str] = frozenset()
) -> Json:
    """As `from_query`, of what is in pieces already. Raises: FieldError."""
    made: Json = {}
    for path, text in pairs:
        if _NAMES.fullmatch(path) is None:
            raise FieldError("", "has a parameter in its URL that is not known here")
        if any(path == name or path.startswith(f"{name}.") for name in taken):
            raise FieldError(path, "does not belong into the query of the URL")
        _put(made, path, text, message_class().DESCRIPTOR)
    return made


def _put(made: Json, path: str, text: str, descriptor: Descriptor) -> None:
    *parents, last = path.split(".")
    for name in parents:
        field = descriptor.fields_by_name.get(name)
        if field is None or field.message_type is None or field.is_repeated or is_well_known(field.message_type):
            raise FieldError(path, "is not known here")
        descriptor, made = field.message_type, made.setdefault(name, {})
    field = descriptor.fields_by_name.get(last)
    if field is None:
        raise FieldError(path, "is not known here")
    if is_map(field) or not is_leaf(field):
        raise FieldError(path, "cannot be given in a URL")
    if last in made and not field.is_repeated:
        raise FieldError(path, "stands twice")
    value = typed(text, field, path)
    made[last] = [*made.get(last, ()), value] if field.is_repeated else value


def is_leaf(field: Field) -> bool:
    """Whether a text can stand for one value of *field*: a scalar, a time, a mask."""
    kind = field.message_type
    return kind is None or (is_well_known(kind) and kind.name in {"Timestamp", "FieldMask", "Duration"})


def typed(text: str, field: Field, at: str) -> object:
    """*text* as JSON would have it in *field*: a number, true or false, or the text itself. Raises: FieldError."""
    kind = field.cpp_type
    if kind == Kind.CPPTYPE_BOOL:
        _expect(text, text in {"true", "false"}, at, "must be true or false")
        return text == "true"
    if kind in _INT_BITS:
        _expect(text, _WHOLE.fullmatch(text) is not None, at, "must be a whole number")
        return int(text)
    if kind in _FLOATS:
        _expect(text, _NUMBER.fullmatch(text) is not None, at, "must be a number")
        return float(text)
    return text
