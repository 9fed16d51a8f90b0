"""protobuf's JSON mapping, strictly: what is taken, what is refused and how it is told, what is shown."""

import json
from contextlib import suppress
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from authz.adapters.protojson import MAX_DEPTH, MAX_PARAMETERS, FieldError, from_query, load, parse, render
from authz.pb.authz.admin.v1 import keys_pb2


PLANTED = "PLANTED-secret"
Proto = descriptor_pb2.FieldDescriptorProto

_INTS = ["int32", "int64", "uint32", "uint64", "sint32", "sint64", "fixed32", "fixed64", "sfixed32", "sfixed64"]
_KINDS = [*_INTS, "double", "float", "bool", "string", "bytes"]
_WELL_KNOWN = {
    "time": "Timestamp",
    "free": "Struct",
    "any_value": "Value",
    "some": "ListValue",
    "mask": "FieldMask",
    "wait": "Duration",
    "wrapped": "Int32Value",
}


def _every() -> Any:
    """A message with a field of every kind."""
    file = descriptor_pb2.FileDescriptorProto(name="tests/every.proto", package="tests.every", syntax="proto3")
    file.dependency.extend(
        f"google/protobuf/{name}.proto" for name in ("timestamp", "struct", "field_mask", "duration", "wrappers")
    )
    enum = file.enum_type.add(name="Colour")
    enum.value.add(name="NONE", number=0)
    enum.value.add(name="RED", number=1)
    message = file.message_type.add(name="Every")
    numbers = iter(range(1, 100))

    def add(name: str, kind: Any, type_name: str = "", label: int = Proto.LABEL_OPTIONAL, **more: Any) -> None:
        kind = f"TYPE_{kind.upper()}"
        message.field.add(name=name, number=next(numbers), type=kind, type_name=type_name or None, label=label, **more)

    for kind in _KINDS:
        add(f"a_{kind}", kind)
        add(f"many_{kind}", kind, label=Proto.LABEL_REPEATED)
    for name, type_name in _WELL_KNOWN.items():
        add(name, "message", f".google.protobuf.{type_name}")
    add("times", "message", ".google.protobuf.Timestamp", Proto.LABEL_REPEATED)
    add("colour", "enum", ".tests.every.Colour")
    add("inner", "message", ".tests.every.Every")
    add("inners", "message", ".tests.every.Every", Proto.LABEL_REPEATED)
    for key in ("string", "int32", "bool"):
        entry = message.nested_type.add(name=f"By{key.capitalize()}Entry")
        entry.options.map_entry = True
        key_type = Proto.Type.Value(f"TYPE_{key.upper()}")
        entry.field.add(name="key", number=1, type=key_type, label=Proto.LABEL_OPTIONAL)
        entry.field.add(name="value", number=2, type=Proto.TYPE_INT32, label=Proto.LABEL_OPTIONAL)
        add(f"by_{key}", "message", f".tests.every.Every.By{key.capitalize()}Entry", Proto.LABEL_REPEATED)
    message.oneof_decl.add(name="choice")
    add("this", "string", oneof_index=0)
    add("that", "int32", oneof_index=0)
    message.oneof_decl.add(name="_maybe")
    add("maybe", "string", oneof_index=1, proto3_optional=True)
    message.oneof_decl.add(name="_perhaps")
    add("perhaps", "message", ".google.protobuf.Timestamp", oneof_index=2, proto3_optional=True)
    pool = descriptor_pool.Default()
    pool.AddSerializedFile(file.SerializeToString())
    return GetMessageClass(pool.FindMessageTypeByName("tests.every.Every"))


EVERY = _every()


def refused(value: object, message_class: Any = EVERY) -> FieldError:
    with pytest.raises(FieldError) as caught:
        parse(value, message_class)
    assert PLANTED not in str(caught.value)
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__ or caught.value.__context__ is None
    return caught.value


# --- text


@pytest.mark.parametrize(
    ("raw", "value"),
    [
        (b"{}", {}),
        (b' {"a": [1, 2.5, true, null, "\\u00e9"]}\n', {"a": [1, 2.5, True, None, "é"]}),
        ('{"näme":1}'.encode(), {"näme": 1}),
        (b'"text"', "text"),
        (b"[" * MAX_DEPTH + b"]" * MAX_DEPTH, json.loads("[" * MAX_DEPTH + "]" * MAX_DEPTH)),
    ],
)
def test_json_is_read(raw: bytes, value: object) -> None:
    assert load(raw) == value


@pytest.mark.parametrize(
    ("raw", "field", "reason"),
    [
        pytest.param(b"", "", "is not JSON", id="empty"),
        pytest.param(b"{", "", "is not JSON", id="cut short"),
        pytest.param(b"{} {}", "", "is not JSON", id="two"),
        pytest.param(b"{'a':1}", "", "is not JSON", id="Python"),
        pytest.param(b'{"a":1,}', "", "is not JSON", id="trailing comma"),
        pytest.param(b"\xef\xbb\xbf{}", "", "is not JSON", id="byte order mark"),
        pytest.param(b'{"a":"\xff"}', "", "is not UTF-8", id="not UTF-8"),
        pytest.param('{"a":1}'.encode("utf-16"), "", "is not UTF-8", id="UTF-16"),
        pytest.param(b'{"a":"\n"}', "", "is not JSON", id="control character"),
        pytest.param(b'{"a":' + b"9" * 5000 + b"}", "", "is not JSON", id="endless number"),
        pytest.param(b'{"a":NaN}', "", "holds a number that is not JSON", id="NaN"),
        pytest.param(b'{"a":-Infinity}', "", "holds a number that is not JSON", id="Infinity"),
        pytest.param(b'{"a":1,"a":1}', "a", "stands twice", id="twice"),
        pytest.param(b'{"a":1,"\\u0061":2}', "a", "stands twice", id="twice, escaped"),
        pytest.param(
            b'{"k":{"' + PLANTED.encode() + b'":1,"' + PLANTED.encode() + b'":1}}', "", "stands twice", id="secret"
        ),
        pytest.param(b"[" * 17 + b"]" * 17, "", "is nested too deeply", id="deep"),
        pytest.param(b"[" * 60_000, "", "is nested too deeply", id="very deep, cut short"),
        pytest.param(b'{"a":' * 12_000 + b"1" + b"}" * 12_000, "", "is nested too deeply", id="very deep"),
    ],
)
def test_json_that_is_not_strict_is_refused(raw: bytes, field: str, reason: str) -> None:
    with pytest.raises(FieldError) as caught:
        load(raw)
    assert (caught.value.field, caught.value.reason) == (field, reason)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    with suppress(FieldError):
        load(raw)


# --- messages


@pytest.mark.parametrize(
    ("value", "set_to"),
    [
        ({"a_int32": -5}, {"a_int32": -5}),
        ({"a_int32": 5.0}, {"a_int32": 5}),
        ({"a_uint32": 2**32 - 1}, {"a_uint32": 2**32 - 1}),
        ({"a_int64": 2**63 - 1}, {"a_int64": 2**63 - 1}),
        ({"a_int64": "-9223372036854775808"}, {"a_int64": -(2**63)}),
        ({"a_uint64": 7}, {"a_uint64": 7}),
        ({"a_uint64": "18446744073709551615"}, {"a_uint64": 2**64 - 1}),
        ({"a_float": 3.4028234663852886e38}, {"a_float": 3.4028234663852886e38}),
        ({"a_double": 1}, {"a_double": 1.0}),
        ({"a_double": 1.5e300}, {"a_double": 1.5e300}),
        ({"a_bool": True}, {"a_bool": True}),
        ({"a_string": "é\x00"}, {"a_string": "é\x00"}),
        ({"a_bytes": "+/8="}, {"a_bytes": b"\xfb\xff"}),
        ({"colour": "RED"}, {"colour": 1}),
        ({"a_int32": None, "time": None, "many_int32": None}, {}),
        ({"this": None, "that": 4}, {"that": 4}),
        ({"many_int32": [1, 2]}, {"many_int32": [1, 2]}),
        ({"by_string": {"a": 1, "": 2}}, {"by_string": {"a": 1, "": 2}}),
        ({"by_int32": {"-1": 1}}, {"by_int32": {-1: 1}}),
        ({"by_bool": {"true": 1}}, {"by_bool": {True: 1}}),
        ({"maybe": ""}, {"maybe": ""}),
        ({"mask": "a_string,inner.a_int32"}, {"mask": {"paths": ["a_string", "inner.a_int32"]}}),
        ({"mask": ""}, {"mask": {}}),
        ({"mask": "*"}, {"mask": {"paths": ["*"]}}),
        ({"wait": "3.5s"}, {"wait": {"seconds": 3, "nanos": 500_000_000}}),
        ({"time": "1970-01-01T00:00:01Z"}, {"time": {"seconds": 1}}),
        ({"time": "1970-01-01T01:00:01.25+01:00"}, {"time": {"seconds": 1, "nanos": 250_000_000}}),
        ({"wrapped": 5}, {"wrapped": {"value": 5}}),
        ({"inner": {}}, {"inner": {}}),
        ({"inner": {"inner": {"a_int32": 1}}}, {"inner": {"inner": {"a_int32": 1}}}),
    ],
)
def test_a_value_becomes_a_message(value: object, set_to: dict[str, Any]) -> None:
    assert parse(value, EVERY) == EVERY(**set_to)


_INTEGER = "must be a whole number"
_NUMBER = "must be a number"
_TIME = "must be a time such as 2026-05-20T10:00:00Z"
_MASK = "must be names of fields, joined by commas"


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        *[(f"a_{kind}", PLANTED, _INTEGER) for kind in _INTS],
        *[(f"a_{kind}", True, _INTEGER) for kind in _INTS],
        *[(f"a_{kind}", 1.5, _INTEGER) for kind in _INTS],
        *[(f"a_{kind}", [], _INTEGER) for kind in _INTS],
        *[(f"a_{kind}", 2**64, "is out of range") for kind in _INTS],
        *[(f"a_{kind}", float("nan"), _INTEGER) for kind in _INTS],
        *[(f"a_{kind}", 1e300, "is out of range") for kind in _INTS],
        ("a_int32", "5", _INTEGER),
        ("a_int32", 2**31, "is out of range"),
        ("a_int32", -(2**31) - 1, "is out of range"),
        ("a_uint32", -1, "is out of range"),
        ("a_uint64", "-1", "is out of range"),
        ("a_int64", " 5", _INTEGER),
        ("a_int64", "1_000", _INTEGER),
        ("a_int64", "٣", _INTEGER),
        ("a_double", "1.5", _NUMBER),
        ("a_double", "NaN", _NUMBER),
        ("a_double", True, _NUMBER),
        ("a_double", float("nan"), "is out of range"),
        ("a_double", float("inf"), "is out of range"),
        ("a_double", 10**400, "is out of range"),
        ("a_float", 1e300, "is out of range"),
        ("a_float", -1e39, "is out of range"),
        ("a_bool", "true", "must be true or false"),
        ("a_bool", 1, "must be true or false"),
        ("a_bool", {}, "must be true or false"),
        ("a_string", 5, "must be a string"),
        ("a_string", [PLANTED], "must be a string"),
        ("a_string", {PLANTED: PLANTED}, "must be a string"),
        ("a_string", PLANTED + "\ud800", "holds half a character: a surrogate by itself"),
        ("a_bytes", PLANTED, "must be base64"),
        ("a_bytes", "abc", "must be base64"),
        ("a_bytes", 5, "must be base64"),
        ("colour", PLANTED, "must be one of NONE, RED"),
        ("colour", 1, "must be one of NONE, RED"),
        ("colour", "red", "must be one of NONE, RED"),
        ("colour", [], "must be one of NONE, RED"),
        ("many_string", PLANTED, "must be an array"),
        ("many_string", {"0": PLANTED}, "must be an array"),
        ("many_string", [PLANTED, None], "must be a string"),
        ("many_int32", [1, PLANTED], _INTEGER),
        ("times", [None], _TIME),
        ("inner", PLANTED, "must be an object"),
        ("inner", [], "must be an object"),
        ("inners", {}, "must be an array"),
        ("inners", [None], "must be an object"),
        ("by_string", [], "must be an object"),
        ("by_string", PLANTED, "must be an object"),
        ("time", 5, _TIME),
        ("time", {}, _TIME),
        ("time", PLANTED, _TIME),
        *[
            ("time", text, _TIME)
            for text in (
                "2026-05-20",
                "2026-05-20T10:00:00",
                "2026-05-20t10:00:00z",
                "2026-05-20 10:00:00Z",
                "2026-5-20T10:00:00Z",
                "2026-02-30T10:00:00Z",
                "2026-05-20T24:00:00Z",
                "2026-05-20T10:00:60Z",
                "2026-05-20T10:00:00+24:00",
                "2026-05-20T10:00:00+0100",
                "2026-05-20T10:00:00.Z",
                "2026-05-20T10:00:00.1234567890Z",
                "0000-05-20T10:00:00Z",
                "0001-01-01T00:00:00+23:59",
                "9999-12-31T23:59:59-01:00",
                "2026-05-20T10:00:00Z\n",
                "\uff12026-05-20T10:00:00Z",
                "",
            )
        ],
        *[
            ("mask", value, _MASK)
            for value in (
                5,
                [PLANTED],
                {"paths": ["name"]},
                "expiresAt",
                "a, b",
                "a,,b",
                ",a",
                "a,",
                "a..b",
                "*,a",
                PLANTED,
            )
        ],
        ("free", [], "must be an object"),
        ("free", PLANTED, "must be an object"),
        ("free", {"a": float("inf")}, "is out of range"),
        ("free", {"a": 10**400}, "is out of range"),
        ("free", {"a": "\udc00"}, "holds half a character: a surrogate by itself"),
        ("some", {}, "does not make a ListValue"),
        ("wait", PLANTED, "does not make a Duration"),
        ("wait", 5, "does not make a Duration"),
        ("wait", {}, "does not make a Duration"),
    ],
)
def test_a_wrong_value_is_refused_by_name(name: str, value: object, reason: str) -> None:
    """For every kind of field: the field is named, the value is not."""
    error = refused({name: value})
    assert error.reason == reason
    assert error.field.partition(".")[0] == name


@pytest.mark.parametrize(
    ("value", "field", "reason"),
    [
        pytest.param(PLANTED, "", "must be an object", id="text"),
        pytest.param([], "", "must be an object", id="array"),
        pytest.param(None, "", "must be an object", id="null"),
        pytest.param({"shape": 1}, "shape", "is not known here", id="unknown"),
        pytest.param({"inner": {"shape": 1}}, "inner.shape", "is not known here", id="unknown, within"),
        pytest.param({"inners": [{}, {"a_bool": 0}]}, "inners.a_bool", "must be true or false", id="in an array"),
        pytest.param({"aString": "x"}, "aString", "is not known here: its name is a_string", id="camelCase"),
        pytest.param({PLANTED: 1}, "", "is not known here", id="a secret as a name"),
        pytest.param({"inner": {PLANTED: 1}}, "inner", "is not known here", id="a secret as a name, within"),
        pytest.param({"x" * 65: 1}, "", "is not known here", id="a long name"),
        pytest.param({"[tests.every.extension]": 1}, "", "is not known here", id="an extension"),
        pytest.param({5: 1}, "", "is not known here", id="a name that is no text"),
        pytest.param({"by_string": {"requests": "x"}}, "by_string.requests", _INTEGER, id="in a map"),
        pytest.param({"by_string": {"a": None}}, "by_string.a", _INTEGER, id="null in a map"),
        pytest.param({"by_string": {PLANTED: "x"}}, "by_string", _INTEGER, id="a secret as a key"),
        pytest.param({"by_int32": {"x": 1}}, "by_int32.x", _INTEGER, id="a key that is no number"),
        pytest.param({"by_int32": {"01": 1}}, "by_int32", _INTEGER, id="a key that is no canonical number"),
        pytest.param({"by_bool": {"True": 1}}, "by_bool.True", "must be true or false", id="a key that is no bool"),
        pytest.param(
            {"this": "a", "that": 1}, "that", "contradicts another field: only one of them may be set", id="oneof"
        ),
    ],
)
def test_the_field_is_named_by_its_path(value: object, field: str, reason: str) -> None:
    error = refused(value)
    assert (error.field, error.reason) == (field, reason)
    assert str(error) == f"{field or 'it'} {reason}"


def test_fields_of_keys_are_named() -> None:
    """As clients of the admin API see it."""
    assert refused({"name": "ci", "limits": {"requests": 60}}, keys_pb2.CreateKeyRequest).field == "limits.requests"
    assert refused({"key": {"expires_at": PLANTED}}, keys_pb2.UpdateKeyRequest).field == "key.expires_at"
    assert refused({"updateMask": "name"}, keys_pb2.UpdateKeyRequest).reason.endswith("update_mask")


_NAMES = st.text("1-aZ_é:\x00", max_size=8) | st.sampled_from(["a_int32", "inner", "1970-01-01T00:00:00Z"])
_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | _NAMES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_NAMES, inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([field.name for field in EVERY.DESCRIPTOR.fields]), _JSON, max_size=4))
def test_any_json_is_parsed_or_refused(value: dict[str, object]) -> None:
    """Nothing but a FieldError comes out, and what is taken can be shown."""
    try:
        message = parse(value, EVERY)
    except FieldError:
        return
    json.dumps(render(message), allow_nan=False)


# --- showing


def test_every_field_is_shown_in_order() -> None:
    """The empty ones too; not what is optional; no message is null."""
    assert list(render(keys_pb2.Key()).items()) == [
        ("id", ""),
        ("name", ""),
        ("prefix", ""),
        ("kind", ""),
        ("subject", ""),
        ("workspace", ""),
        ("scopes", []),
        ("limits", {}),
        ("created_at", None),
        ("expires_at", None),
        ("state", ""),
        ("last_used_at", None),
        ("revoked_at", None),
        ("revoked_reason", ""),
        ("rotations", []),
        ("etag", ""),
        ("warnings", []),
    ]
    assert render(keys_pb2.RevokeAllKeysResponse()) == {"revoked": 0, "dry_run": False, "warnings": []}
    assert "token" in render(keys_pb2.Key(token=""))
    assert "perhaps" not in render(EVERY())
    assert render(EVERY(perhaps={"seconds": 5}))["perhaps"] == "1970-01-01T00:00:05Z"


def test_values_are_shown_as_json_has_them() -> None:
    shown = render(
        EVERY(
            a_int32=-1,
            a_int64=2**60,
            a_double=60.0,
            a_bytes=b"\xfb\xff",
            colour=1,
            by_string={"b": 2, "a": 1},
            by_bool={True: 1},
            time={"seconds": 1_779_271_200, "nanos": 999_999_999},
            free={"n": 2.0, "h": 0.5, "deep": {"list": [1, None, True, {"b": 1, "a": 1e300}]}},
            mask={"paths": ["a_string", "inner.a_int32"]},
            wait={"seconds": 3},
            maybe="",
            that=0,
        )
    )
    expected = {
        "a_int32": -1,
        "a_int64": str(2**60),
        "a_double": 60,
        "a_bytes": "+/8=",
        "colour": "RED",
        "by_string": {"a": 1, "b": 2},
        "by_bool": {"true": 1},
        "time": "2026-05-20T10:00:00Z",
        "free": {"n": 2, "h": 0.5, "deep": {"list": [1, None, True, {"b": 1, "a": 1e300}]}},
        "mask": "a_string,inner.a_int32",
        "wait": "3s",
        "maybe": "",
        "that": 0,
    }
    assert {name: shown[name] for name in expected} == expected
    assert "this" not in shown
    assert isinstance(shown["a_double"], int)
    assert list(shown["by_string"]) == ["a", "b"]
    assert list(shown["free"]) == ["deep", "h", "n"]


def test_times_before_1970_are_cut_downwards() -> None:
    assert render(EVERY(time={"seconds": -1, "nanos": 500_000_000}))["time"] == "1969-12-31T23:59:59Z"


_TEXT = st.text(max_size=20)
_FLOATS = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number or 0.0)  # -0.0 is shown as 0
_TIMES = st.none() | st.builds(lambda seconds: {"seconds": seconds}, st.integers(-62_135_596_800, 253_402_300_799))
_ROTATIONS = st.builds(keys_pb2.Rotation, number=st.integers(-(2**31), 2**31 - 1), issued_at=_TIMES, ends_at=_TIMES)
_KEYS = st.builds(
    keys_pb2.Key,
    id=_TEXT,
    name=_TEXT,
    scopes=st.lists(_TEXT, max_size=3),
    limits=st.dictionaries(_TEXT, _TEXT, max_size=3),
    created_at=_TIMES,
    expires_at=_TIMES,
    rotations=st.lists(_ROTATIONS, max_size=2),
    token=st.none() | _TEXT,
)
_STRUCTS = st.none() | st.dictionaries(
    _TEXT,
    st.recursive(
        st.none() | st.booleans() | _TEXT | _FLOATS,
        lambda inner: st.lists(inner, max_size=2) | st.dictionaries(_TEXT, inner, max_size=2),
        max_leaves=5,
    ),
    max_size=3,
)
_EVENTS = st.builds(keys_pb2.Event, id=_TEXT, at=_TIMES, before=_STRUCTS, after=_STRUCTS)
_EVERIES = st.builds(
    EVERY,
    a_int32=st.integers(-(2**31), 2**31 - 1),
    a_uint32=st.integers(0, 2**32 - 1),
    a_int64=st.integers(-(2**63), 2**63 - 1),
    many_int64=st.lists(st.integers(-(2**63), 2**63 - 1), max_size=3),
    a_double=_FLOATS,
    a_float=st.floats(width=32, allow_nan=False, allow_infinity=False).map(lambda number: number or 0.0),
    a_bool=st.booleans(),
    a_bytes=st.binary(max_size=20),
    many_bytes=st.lists(st.binary(max_size=5), max_size=3),
    colour=st.sampled_from([0, 1]),
    by_int32=st.dictionaries(st.integers(-(2**31), 2**31 - 1), st.integers(0, 9), max_size=3),
    by_bool=st.dictionaries(st.booleans(), st.integers(0, 9)),
    maybe=st.none() | _TEXT,
    that=st.none() | st.integers(0, 9),
    mask=st.none()
    | st.builds(lambda paths: {"paths": paths}, st.lists(st.sampled_from(["a", "a_b.c_d1", "x"]), max_size=3)),
)


@given(_KEYS | _EVENTS | _EVERIES)
def test_what_is_shown_is_read_as_the_same(message: Any) -> None:
    """Through real JSON text, too."""
    text = json.dumps(render(message), ensure_ascii=False, allow_nan=False).encode()
    again = parse(load(text), type(message))
    assert render(again) == render(message)
    assert again == message


# --- queries


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("", {}),
        ("a_int32=5&a_string=x+y%2Bz&a_bool=true", {"a_int32": 5, "a_string": "x y+z", "a_bool": True}),
        ("a_string=", {"a_string": ""}),
        ("a_double=-1.5e3&a_int64=-7", {"a_double": -1500.0, "a_int64": -7}),
        ("many_string=a&a_int32=1&many_string=b", {"many_string": ["a", "b"], "a_int32": 1}),
        ("inner.a_string=x&inner.inner.many_int32=1&inner.many_int32=2", None),
        ("colour=RED&time=1970-01-01T00:00:01Z&mask=a,b_c", None),
        ("mask=a%2Cb_c", {"mask": "a,b_c"}),
        ("a%5Fstring=%C3%A9", {"a_string": "é"}),
    ],
)
def test_a_query_becomes_a_value(query: str, value: dict[str, object] | None) -> None:
    made = from_query(query, EVERY)
    assert value is None or made == value
    parse(made, EVERY)


@pytest.mark.parametrize(
    ("query", "field", "reason"),
    [
        ("shape=1", "shape", "is not known here"),
        ("aString=1", "aString", "is not known here"),
        ("inner.shape=1", "inner.shape", "is not known here"),
        ("a_string.x=1", "a_string.x", "is not known here"),
        ("time.seconds=1", "time.seconds", "is not known here"),
        ("inners.a_string=1", "inners.a_string", "is not known here"),
        ("by_string.a=1", "by_string.a", "is not known here"),
        ("inner=1", "inner", "cannot be given in a URL"),
        ("by_string=1", "by_string", "cannot be given in a URL"),
        ("free=1", "free", "cannot be given in a URL"),
        ("a_int32=1&a_int32=1", "a_int32", "stands twice"),
        ("a_int32=1&a%5fint32=2", "a_int32", "stands twice"),
        ("inner.a_int32=1&inner.a_int32=1", "inner.a_int32", "stands twice"),
        *[(f"a_int32={text}", "a_int32", _INTEGER) for text in ("", "x", "1.0", "01", "+1", "%201", "1e3", "9" * 21)],
        *[(f"a_bool={text}", "a_bool", "must be true or false") for text in ("", "1", "True", "yes")],
        *[(f"a_double={text}", "a_double", _NUMBER) for text in ("", "NaN", "inf", "0x1", ".5", "1_0")],
        ("many_bool=true&many_bool=1", "many_bool", "must be true or false"),
        (f"{PLANTED}=1", "", "has a parameter in its URL that is not known here"),
        ("=1", "", "has a parameter in its URL that is not known here"),
        ("a..b=1", "", "has a parameter in its URL that is not known here"),
        ("inner." * 9 + "a_int32=1", "", "has a parameter in its URL that is not known here"),
        *[
            (query, "", "has a query in its URL that cannot be read")
            for query in (
                "a_string",
                "a_string=%",
                "a_string=%zz",
                "a_string=%FF",
                "&",
                "a_int32=1&&a_bool=true",
                "a=é",
                "a= ",
            )
        ],
        ("&".join(["many_int32=1"] * (MAX_PARAMETERS + 1)), "", "has too many parameters in its URL"),
        ("taken=1", "taken", "does not belong into the query of the URL"),
        ("taken.below=1", "taken.below", "does not belong into the query of the URL"),
    ],
)
def test_a_query_that_does_not_fit_is_refused(query: str, field: str, reason: str) -> None:
    with pytest.raises(FieldError) as caught:
        from_query(query, EVERY, frozenset({"taken"}))
    assert (caught.value.field, caught.value.reason) == (field, reason)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


@given(st.text(alphabet="a_int32bool.=&%+;ery\x00é", max_size=40))
def test_any_query_is_read_or_refused(query: str) -> None:
    with suppress(FieldError):
        from_query(query, EVERY)
