"""
The OpenAPI document of services, from what protoc kept of their protos: shapes, annotations and comments.

The comments are the descriptions, so the proto is what there is to write and to read.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final

from google.api import field_behavior_pb2
from google.protobuf.descriptor_pb2 import FieldDescriptorProto as Field
from google.protobuf.descriptor_pb2 import FileDescriptorSet

from authz.adapters.http.rest import Binding, bindings, is_empty
from authz.adapters.protojson import Json


_ERRORS: Final[Mapping[str, tuple[str, str]]] = {
    "400": ("BadRequest", "The request is not acceptable; the message names the field."),
    "401": ("Unauthorized", "There is no credential, or it is not accepted."),
    "403": ("Forbidden", "The credential may not do this."),
    "404": ("NotFound", "There is no such thing, or none that the caller may see."),
    "409": ("Conflict", "It was changed in between, or exists already."),
    "429": ("TooManyRequests", "A limit is reached; `retry-after` says when to come back."),
    "503": ("ServiceUnavailable", "It cannot be answered at the moment; `retry-after` says when to come back."),
    "default": ("Refused", "Refused, for another reason."),
}
_INT32: Final[Json] = {"type": "integer", "format": "int32"}
_UINT32: Final[Json] = {"type": "integer", "format": "int64", "minimum": 0}
_INT64: Final[Json] = {"type": "string", "format": "int64"}  # JSON's numbers are not exact beyond 2**53
_UINT64: Final[Json] = {"type": "string", "format": "uint64"}
_SCALARS: Final[Mapping[int, Json]] = {
    Field.TYPE_STRING: {"type": "string"},
    Field.TYPE_BYTES: {"type": "string", "contentEncoding": "base64"},
    Field.TYPE_BOOL: {"type": "boolean"},
    Field.TYPE_DOUBLE: {"type": "number", "format": "double"},
    Field.TYPE_FLOAT: {"type": "number", "format": "float"},
    Field.TYPE_INT32: _INT32,
    Field.TYPE_SINT32: _INT32,
    Field.TYPE_SFIXED32: _INT32,
    Field.TYPE_UINT32: _UINT32,
    Field.TYPE_FIXED32: _UINT32,
    Field.TYPE_INT64: _INT64,
    Field.TYPE_SINT64: _INT64,
    Field.TYPE_SFIXED64: _INT64,
    Field.TYPE_UINT64: _UINT64,
    Field.TYPE_FIXED64: _UINT64,
}
_WELL_KNOWN: Final[Mapping[str, Json]] = {
    ".google.protobuf.Timestamp": {"type": "string", "format": "date-time"},
    ".google.protobuf.FieldMask": {"type": "string"},
    ".google.protobuf.Duration": {"type": "string"},
    ".google.protobuf.Struct": {"type": "object"},
    ".google.protobuf.ListValue": {"type": "array"},
    ".google.protobuf.Value": {},
}
_LEAVES: Final = frozenset((".google.protobuf.Timestamp", ".google.protobuf.FieldMask", ".google.protobuf.Duration"))
_ERROR: Final = "Error"
_ERROR_TYPES: Final = ("application/json", "application/problem+json")


def document(
    file_descriptor_set: bytes,
    services: Sequence[str],
    *,
    title: str,
    version: str,
    public: frozenset[str] = frozenset(),
) -> Json:
    """
    OpenAPI 3.1 of *services* (full names), from a set of descriptors with source info.

    *public*: names of the methods that need no credential. Raises: KeyError: a service or a type that the set lacks;
    ValueError: as `bindings`.
    """
    protos = _Protos(file_descriptor_set)
    schemas = _Schemas(protos)
    variables = _Variables()
    shorts = [_short(name) for name in services]
    tags = {name: _short(name) if shorts.count(_short(name)) == 1 else name for name in services}
    paths: dict[str, Json] = {}
    methods = [method.name for name in services for method in protos.services[name].method]
    for name in services:
        for method in protos.services[name].method:
            for number, binding in enumerate(bindings(method.options), start=1):
                path, names = variables.told(binding)
                operation = _operation(name, method, binding, names, schemas)
                operation["tags"] = [tags[name]]
                if methods.count(method.name) > 1 and name != services[0]:
                    operation["operationId"] = f"{tags[name]}_{method.name}"
                operation["operationId"] += f"_{number}" if number > 1 else ""
                if method.name in public:
                    operation["security"] = []
                paths.setdefault(path, {})[binding.verb.lower()] = operation
    error = {"type": "object", "description": "A refusal, in the response format that is configured."}
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "tags": [{"name": tag, **protos.described(f".{name}")} for name, tag in tags.items()],
        "security": [{"Bearer": []}],
        "paths": paths,
        "components": {
            "schemas": {**schemas.shown, _ERROR: error},
            "responses": dict(_response(*told) for told in _ERRORS.values()),
            "securitySchemes": {"Bearer": {"type": "http", "scheme": "bearer"}},
        },
    }


class _Variables:
    """The names of the variables in paths: those of the first path of its shape, as OpenAPI takes two for one path."""

    def __init__(self) -> None:
        self._names: dict[str, list[str]] = {}

    def told(self, binding: Binding) -> tuple[str, list[str]]:
        shape = re.sub(r"\{[^}]*\}", "{}", binding.template)
        names = self._names.setdefault(shape, [_short(name) for name in binding.variables])
        return shape.format(*(f"{{{name}}}" for name in names)), names


def _response(name: str, told: str) -> tuple[str, Json]:
    content = {"schema": _ref("schemas", _ERROR)}
    return name, {"description": told, "content": dict.fromkeys(_ERROR_TYPES, content)}


def _operation(service: str, method: Any, binding: Binding, names: Sequence[str], schemas: "_Schemas") -> Json:
    described = schemas.protos.described(f".{service}.{method.name}")
    operation: Json = {"operationId": method.name}
    if described:
        operation["summary"] = described["description"].partition(". ")[0].partition("\n")[0].rstrip(".")
    operation |= described
    if parameters := [*_in_path(method, binding, names, schemas), *_in_query(method, binding, schemas)]:
        operation["parameters"] = parameters
    if binding.body:
        operation["requestBody"] = _request_body(method, binding, schemas)
    if is_empty(method.output_type.lstrip(".")):
        operation["responses"] = {"204": {"description": "Done."}}
    else:
        content = {"application/json": {"schema": schemas.of(method.output_type)}}
        operation["responses"] = {"200": {"description": "Done.", "content": content}}
    operation["responses"] |= {status: _ref("responses", name) for status, (name, _) in _ERRORS.items()}
    return operation


def _request_body(method: Any, binding: Binding, schemas: "_Schemas") -> Json:
    if binding.body == "*":
        bound = frozenset(binding.variables)
        schema = schemas.object(method.input_type, bound) if bound else schemas.of(method.input_type)
        rest = (each for each in schemas.protos.fields(method.input_type) if each.name not in bound)
        required = any(_is_required(each) for each in rest)
    else:
        sent = schemas.protos.field(method.input_type, binding.body)
        schema, required = schemas.field(sent, f"{method.input_type}.{sent.name}"), _is_required(sent)
    return {"required": required, "content": {"application/json": {"schema": schema}}}


def _in_path(method: Any, binding: Binding, names: Sequence[str], schemas: "_Schemas") -> Iterator[Json]:
    for path, told in zip(binding.variables, names, strict=True):
        *parents, last = path.split(".")
        owner = method.input_type
        for name in parents:
            owner = schemas.protos.field(owner, name).type_name
        yield _parameter("path", told, owner, schemas.protos.field(owner, last), schemas)


def _in_query(method: Any, binding: Binding, schemas: "_Schemas") -> Iterator[Json]:
    if binding.body != "*":
        taken = {*binding.variables, binding.body}
        for path, owner, each in _leaves(schemas.protos, method.input_type, "", taken, ()):
            yield _parameter("query", path, owner, each, schemas)


def _leaves(
    protos: "_Protos", owner: str, at: str, taken: AbstractSet[str], above: tuple[str, ...]
) -> Iterator[tuple[str, str, Any]]:
    """(path, owner, field) of all that a query can hold; a message within itself is left out."""
    for each in protos.fields(owner):
        path = f"{at}{each.name}"
        if path in taken or protos.map_value(each) is not None:
            continue
        if each.type != Field.TYPE_MESSAGE or each.type_name in _LEAVES:
            yield path, owner, each
        elif each.type_name in protos.messages and not _is_repeated(each) and each.type_name not in above:
            yield from _leaves(protos, each.type_name, f"{path}.", taken, (*above, owner))


def _parameter(place: str, path: str, owner: str, each: Any, schemas: "_Schemas") -> Json:
    required = place == "path" or ("." not in path and _is_required(each))
    described = schemas.protos.described(f"{owner}.{each.name}")
    return {"name": path, "in": place, "required": required, **described, "schema": schemas.plain(each)}


class _Schemas:
    """The schemas of the messages that were asked for, and of those within them."""

    def __init__(self, protos: "_Protos") -> None:
        self.protos = protos
        self.shown: Json = {}
        self._names: dict[str, str] = {}

    def of(self, message: str) -> Json:
        """A reference, by the short name of *message* where no other has it."""
        if message not in self._names:
            short = _short(message)
            name = message.lstrip(".") if short in self.shown or short == _ERROR else short
            self._names[message] = name
            self.shown[name] = {}  # keeps its place, and ends the recursion of a message within itself
            self.shown[name] = self.object(message)
        return _ref("schemas", self._names[message])

    def object(self, message: str, without: AbstractSet[str] = frozenset()) -> Json:
        fields = [each for each in self.protos.fields(message) if each.name not in without]
        schema: Json = {"type": "object", **self.protos.described(message)}
        schema["properties"] = {each.name: self.field(each, f"{message}.{each.name}") for each in fields}
        if required := [each.name for each in fields if _is_required(each)]:
            schema["required"] = required
        return schema

    def field(self, each: Any, name: str) -> Json:
        """With all that is told of it: null for a message that is not set (or left out), read-only, its comment."""
        schema = self.plain(each)
        is_left_out = each.HasField("oneof_index")  # as what is `optional` is
        if each.type == Field.TYPE_MESSAGE and not (_is_repeated(each) or _is_required(each) or is_left_out):
            schema = _nullable(schema)
        if field_behavior_pb2.OUTPUT_ONLY in each.options.Extensions[field_behavior_pb2.field_behavior]:
            schema["readOnly"] = True
        return schema | self.protos.described(name)

    def plain(self, each: Any) -> Json:
        if (item := self.protos.map_value(each)) is not None:
            return {"type": "object", "additionalProperties": self._single(item)}
        single = self._single(each)
        return {"type": "array", "items": single} if _is_repeated(each) else single

    def _single(self, each: Any) -> Json:
        if each.type == Field.TYPE_ENUM:
            return {"type": "string", "enum": [choice.name for choice in self.protos.enums[each.type_name].value]}
        if each.type == Field.TYPE_MESSAGE:
            known = _WELL_KNOWN.get(each.type_name)
            return self.of(each.type_name) if known is None else {**known}
        return {**_SCALARS[each.type]}


class _Protos:
    """A set of descriptors by full name, as types are named in it: `.authz.admin.v1.Key`."""

    def __init__(self, file_descriptor_set: bytes) -> None:
        self.messages: dict[str, Any] = {}
        self.enums: dict[str, Any] = {}
        self.services: dict[str, Any] = {}
        self._comments: dict[str, str] = {}
        for file in FileDescriptorSet.FromString(file_descriptor_set).file:
            self._add(file)

    def fields(self, message: str) -> Sequence[Any]:
        fields: Sequence[Any] = self.messages[message].field
        return fields

    def field(self, message: str, name: str) -> Any:
        return next(each for each in self.fields(message) if each.name == name)

    def described(self, name: str) -> dict[str, str]:
        """The comment that stands above *name*, one line for each paragraph."""
        paragraphs = self._comments.get(name, "").strip().split("\n\n")
        told = "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)
        return {"description": told} if told else {}

    def map_value(self, each: Any) -> Any:
        """The field of the values of a map; None: *each* is no map."""
        entry = self.messages.get(each.type_name)
        return self.field(each.type_name, "value") if entry is not None and entry.options.map_entry else None

    def _add(self, file: Any) -> None:
        package = f".{file.package}" if file.package else ""
        told = {tuple(place.path): place.leading_comments for place in file.source_code_info.location}
        for path, name, proto in _named(file, (), package):
            self._comments[name] = told.get(path, "")
            kind = proto.DESCRIPTOR.name
            if kind == "DescriptorProto":
                self.messages[name] = proto
            elif kind == "EnumDescriptorProto":
                self.enums[name] = proto
            elif kind == "ServiceDescriptorProto":
                self.services[name.lstrip(".")] = proto


def _named(proto: Any, path: tuple[int, ...], name: str) -> Iterator[tuple[tuple[int, ...], str, Any]]:
    """(path as in the source info, full name, descriptor) of all that *proto* declares, and what is within."""
    for each, inner in proto.ListFields():
        if each.is_repeated and each.message_type is not None and "name" in each.message_type.fields_by_name:
            for index, item in enumerate(inner):
                where = (*path, each.number, index)
                yield where, f"{name}.{item.name}", item
                yield from _named(item, where, f"{name}.{item.name}")


def _is_required(each: Any) -> bool:
    return field_behavior_pb2.REQUIRED in each.options.Extensions[field_behavior_pb2.field_behavior]


def _is_repeated(each: Any) -> bool:
    return bool(each.label == Field.LABEL_REPEATED)


def _nullable(schema: Json) -> Json:
    if "$ref" in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return schema | {"type": [schema["type"], "null"]} if "type" in schema else schema


def _ref(kind: str, name: str) -> Json:
    return {"$ref": f"#/components/{kind}/{name}"}


def _short(name: str) -> str:
    return name.rpartition(".")[2]
