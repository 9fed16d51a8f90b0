"""The OpenAPI document of the admin API: valid, complete, and true of what the REST door does."""

import json
from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import httpx
import pytest
from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf import descriptor_pb2

from authz.adapters.http.openapi import document
from authz.adapters.http.rest import bindings, build
from authz.adapters.protojson import render
from authz.core.problems import FORMATS
from authz.pb.authz.admin.v1 import keys_pb2
from tests.support.rpc import KEY_SERVICE, Recording


DESCRIPTORS = (files("authz.pb") / "descriptors.binpb").read_bytes()
SERVICE = "authz.admin.v1.KeyService"
TIME = {"type": ["string", "null"], "format": "date-time"}


@pytest.fixture(scope="module")
def made() -> Any:
    return document(DESCRIPTORS, [SERVICE], title="authz", version="1.2.3", public=frozenset({"Login"}))


def operations(made: Any) -> dict[str, tuple[str, str, Any]]:
    """Operation id → path, verb, operation."""
    return {
        operation["operationId"]: (path, verb, operation)
        for path, item in made["paths"].items()
        for verb, operation in item.items()
    }


def references(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"]
        for inner in value.values():
            yield from references(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from references(inner)


def test_it_is_valid_openapi(made: Any) -> None:
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(made, cls=validator.OpenAPIV31SpecValidator)


def test_it_is_json_and_every_reference_leads_somewhere(made: Any) -> None:
    again = json.loads(json.dumps(made, allow_nan=False))
    assert again == made
    found = set(references(made))
    assert found
    for reference in found:
        place = made
        for step in reference.removeprefix("#/").split("/"):
            place = place[step]
    shown = {f"#/components/schemas/{name}" for name in made["components"]["schemas"]}
    assert shown <= found


def test_no_two_paths_have_the_same_shape(made: Any) -> None:
    """OpenAPI takes `/keys/{id}` and `/keys/{key.id}` for the same path; and every variable is a parameter."""
    shapes = ["/".join("{}" if "{" in part else part for part in path.split("/")) for path in made["paths"]]
    assert "/authz/v1/keys/{id}" in made["paths"]
    assert "/authz/v1/keys/{key.id}" not in made["paths"]
    assert len({*shapes}) >= len(shapes) - 2  # `{id}:rotate` and `{id}:revoke` differ behind the variable
    for path, _, operation in operations(made).values():
        in_path = [each["name"] for each in operation.get("parameters", ()) if each["in"] == "path"]
        assert all(f"{{{name}}}" in path for name in in_path)
        assert path.count("{") == len(in_path)


def test_every_method_is_an_operation(made: Any) -> None:
    found = operations(made)
    assert set(found) == {method.name for method in KEY_SERVICE.methods}
    for method in KEY_SERVICE.methods:
        path, verb, operation = found[method.name]
        [binding] = bindings(method.GetOptions())
        assert (path, verb) == (binding.template.replace("key.id", "id"), binding.verb.lower())
        assert ("requestBody" in operation) == bool(binding.body)
        assert operation["tags"] == ["KeyService"]
        assert set(operation["responses"]) == {"200", "400", "401", "403", "404", "409", "429", "503", "default"}
        assert operation["description"].startswith(operation["summary"])


async def test_the_router_serves_what_it_says(made: Any) -> None:
    """Every path and verb of the document is a method's, and its answer has the properties of the schema, in order."""
    service = Recording()
    application = build([service], lambda: FORMATS["openai"], documents={})
    async with httpx.AsyncClient(transport=httpx.ASGITransport(application), base_url="http://authz") as http:
        for name, (path, verb, operation) in operations(made).items():
            response = await http.request(verb.upper(), path.replace("{id}", "key_1"))
            assert response.status_code == 200
            assert service.calls[-1].method == name
            schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
            properties = made["components"]["schemas"][schema["$ref"].rpartition("/")[2]]["properties"]
            fields = service.descriptor.methods_by_name[name].output_type.fields_by_name
            optional = {field.name for field in fields.values() if field.containing_oneof is not None}
            assert [member for member in properties if member not in optional] == [*response.json()]


def test_only_public_methods_need_no_credential(made: Any) -> None:
    assert made["security"] == [{"Bearer": []}]
    assert made["components"]["securitySchemes"] == {"Bearer": {"type": "http", "scheme": "bearer"}}
    open_to_all = {name for name, (_, _, operation) in operations(made).items() if operation.get("security") == []}
    assert open_to_all == {"Login"}
    assert all("security" not in each for name, (_, _, each) in operations(made).items() if name != "Login")


def test_parameters_and_bodies_follow_the_annotations(made: Any) -> None:
    found = operations(made)

    def parameters(name: str) -> list[tuple[str, str, bool, Any]]:
        shown = found[name][2].get("parameters", ())
        return [(each["in"], each["name"], each["required"], each["schema"]["type"]) for each in shown]

    assert parameters("CreateKey") == []
    assert parameters("ListKeys") == [
        ("query", "page_size", False, "integer"),
        ("query", "page_token", False, "string"),
        ("query", "filter", False, "string"),
    ]
    assert parameters("GetKey") == [("path", "id", True, "string"), ("query", "show_token", False, "boolean")]
    span = [("query", "start_time", False, "string"), ("query", "end_time", False, "string")]
    assert parameters("GetKeyUsage") == [("path", "id", True, "string"), *span]
    assert parameters("GetUsage") == [
        ("query", "group_by", False, "array"),
        *span,
        ("query", "filter", False, "string"),
    ]
    assert parameters("UpdateKey") == [("path", "id", True, "string"), ("query", "update_mask", False, "string")]
    assert parameters("RotateKey") == [("path", "id", True, "string")]

    def body(name: str) -> tuple[bool, Any]:
        shown = found[name][2]["requestBody"]
        return shown["required"], shown["content"]["application/json"]["schema"]

    assert body("CreateKey") == (True, {"$ref": "#/components/schemas/CreateKeyRequest"})
    required, schema = body("UpdateKey")
    assert (required, schema["$ref"]) == (True, "#/components/schemas/Key")
    required, schema = body("RotateKey")
    assert (required, list(schema["properties"]), "required" in schema) == (False, ["grace", "request_id"], False)


def test_schemas_follow_the_messages(made: Any) -> None:
    """Properties in order, with what is required, read-only, null, and the comments of the proto."""
    schemas = made["components"]["schemas"]
    for name, schema in schemas.items():
        if name != "Error":
            fields = keys_pb2.DESCRIPTOR.message_types_by_name[name].fields
            assert list(schema["properties"]) == [field.name for field in fields]
    assert schemas["CreateKeyRequest"]["required"] == ["name"]
    assert schemas["LoginRequest"]["required"] == ["username", "password"]
    key = schemas["Key"]["properties"]
    assert schemas["Key"]["description"].startswith("A key as it is listed. ")
    assert {name for name, schema in key.items() if not schema.get("readOnly")} == {
        "name",
        "scopes",
        "limits",
        "expires_at",
        "etag",
    }
    assert key["created_at"] == {**TIME, "readOnly": True}
    assert key["limits"]["additionalProperties"] == {"type": "string"}
    assert key["scopes"]["items"] == {"type": "string"}
    assert key["rotations"]["items"] == {"$ref": "#/components/schemas/Rotation"}
    assert key["prefix"]["description"].endswith("names the key in logs and lists. Unique.")
    assert schemas["Event"]["properties"]["before"]["type"] == ["object", "null"]
    assert schemas["Event"]["properties"]["at"] == TIME
    assert "\n" not in key["limits"]["description"]
    usage = schemas["KeyUsage"]["properties"]
    assert usage["by_model"]["additionalProperties"] == {"$ref": "#/components/schemas/ModelUsage"}
    assert usage["requests"]["type"] == "number"
    assert (usage["last_used_at"]["type"], usage["start_time"]["type"]) == (["string", "null"], "string")  # or left out


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(keys_pb2.Key(), id="empty key"),
        pytest.param(
            keys_pb2.Key(
                id="key_1",
                scopes=["a"],
                limits={"requests": "60/1m"},
                created_at={"seconds": 1},
                rotations=[{"number": 1, "issued_at": {"seconds": 1}}],
                token="t",
            ),
            id="key",
        ),
        pytest.param(keys_pb2.ListKeysResponse(keys=[{}]), id="list"),
        pytest.param(keys_pb2.Event(before={"x": [1, None]}), id="event"),
        pytest.param(keys_pb2.RevokeAllKeysResponse(revoked=3), id="count"),
        pytest.param(
            keys_pb2.KeyUsage(id="key_1", requests=2**40, by_model={"m": keys_pb2.ModelUsage(requests=1)}),
            id="key's usage",
        ),
        pytest.param(keys_pb2.KeyUsage(start_time={"seconds": 1}, end_time={"seconds": 2}), id="within a time"),
        pytest.param(keys_pb2.Usage(groups=[{"model": "", "time": {"seconds": 1}}, {"key_id": "k"}]), id="usage"),
    ],
)
def test_answers_fit_their_schemas(made: Any, message: Any) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = {"$ref": f"#/components/schemas/{message.DESCRIPTOR.name}", "components": made["components"]}
    jsonschema.Draft202012Validator(schema).validate(render(message))


def test_other_shapes() -> None:
    """Enums, numbers, messages within messages and themselves, second bindings, names that two packages share."""
    kinds = descriptor_pb2.FieldDescriptorProto
    described = descriptor_pb2.FileDescriptorSet()
    for package in ("one", "two"):
        file = described.file.add(name=f"{package}.proto", package=package, syntax="proto3")
        enum = file.enum_type.add(name="Colour")
        enum.value.add(name="NONE", number=0)
        enum.value.add(name="RED", number=1)
        thing = file.message_type.add(name="Thing")
        for number, (name, kind, label) in enumerate(
            [
                ("count", kinds.TYPE_INT64, kinds.LABEL_OPTIONAL),
                ("sizes", kinds.TYPE_DOUBLE, kinds.LABEL_REPEATED),
                ("raw", kinds.TYPE_BYTES, kinds.LABEL_OPTIONAL),
                ("colour", kinds.TYPE_ENUM, kinds.LABEL_OPTIONAL),
                ("inner", kinds.TYPE_MESSAGE, kinds.LABEL_OPTIONAL),
                ("inners", kinds.TYPE_MESSAGE, kinds.LABEL_REPEATED),
            ],
            start=1,
        ):
            type_name = {kinds.TYPE_ENUM: f".{package}.Colour", kinds.TYPE_MESSAGE: f".{package}.Thing"}.get(kind)
            thing.field.add(name=name, number=number, type=kind, label=label, type_name=type_name)
        thing.field[0].options.Extensions[field_behavior_pb2.field_behavior].append(field_behavior_pb2.REQUIRED)
        service = file.service.add(name="Things")
        method = service.method.add(
            name=f"Get{package}", input_type=f".{package}.Thing", output_type=f".{package}.Thing"
        )
        rule = method.options.Extensions[annotations_pb2.http]
        rule.get = f"/{package}/{{raw}}"
        rule.additional_bindings.add(post=f"/{package}", body="*")

    made = document(described.SerializeToString(), ["one.Things", "two.Things"], title="t", version="1")

    assert set(operations(made)) == {"Getone", "Getone_2", "Gettwo", "Gettwo_2"}
    query = [each["name"] for each in made["paths"]["/one/{raw}"]["get"]["parameters"]]
    assert query == ["raw", "count", "sizes", "colour", "inner.count", "inner.sizes", "inner.raw", "inner.colour"]
    assert [each["required"] for each in made["paths"]["/one/{raw}"]["get"]["parameters"]][:3] == [True, True, False]
    assert set(made["components"]["schemas"]) == {"Thing", "two.Thing", "Error"}
    assert made["components"]["schemas"]["two.Thing"] == {
        "type": "object",
        "properties": {
            "count": {"type": "string", "format": "int64"},
            "sizes": {"type": "array", "items": {"type": "number", "format": "double"}},
            "raw": {"type": "string", "contentEncoding": "base64"},
            "colour": {"type": "string", "enum": ["NONE", "RED"]},
            "inner": {"anyOf": [{"$ref": "#/components/schemas/two.Thing"}, {"type": "null"}]},
            "inners": {"type": "array", "items": {"$ref": "#/components/schemas/two.Thing"}},
        },
        "required": ["count"],
    }
    assert [tag["name"] for tag in made["tags"]] == ["one.Things", "two.Things"]
    validator = pytest.importorskip("openapi_spec_validator")
    validator.validate(made, cls=validator.OpenAPIV31SpecValidator)


def test_a_service_that_is_not_in_the_set() -> None:
    with pytest.raises(KeyError):
        document(DESCRIPTORS, ["authz.admin.v1.Nothing"], title="t", version="1")
