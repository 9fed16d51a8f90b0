"""
REST and JSON for any protobuf service, by the `google.api.http` annotations of its methods.

Order of a call: path, verb, caller, and only then the body; so strangers are told nothing and make no work. Once the
body is in, who calls is asked again: whoever was revoked while it was awaited does nothing any more. A variable of a
path holds one segment, decoded once: what decodes to a colon, a slash or a dot segment is no path of ours.
"""

import asyncio
import json
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, unquote, urlencode

from google.api import annotations_pb2, field_behavior_pb2
from google.protobuf.message_factory import GetMessageClass
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import request_response

from authz.adapters.protojson import FieldError, Json, from_pairs, from_query, load, parse, render
from authz.adapters.rpc import Call, RpcError, Service
from authz.core.decision import Fault, Reason
from authz.core.headers import Header
from authz.core.problems import SENTENCE, Problem, ResponseFormat, problem_of


MAX_BODY_BYTES: Final = 64 * 1024
BODY_S: Final = 10.0
MASK: Final = "update_mask"
OUTPUT_ONLY: Final = field_behavior_pb2.OUTPUT_ONLY
_VARIABLE: Final = re.compile(r"\{([a-z][a-z0-9_.]*)\}")
_TEMPLATE: Final = re.compile(r"/[^{}*]*(\{[a-z][a-z0-9_.]*\}[^{}*]*)*")
_ESCAPED: Final = r"((?:[^/:%#?\x00-\x20\x7f-\uffff]|%[0-9A-Fa-f]{2})+)"  # a variable, as it is sent
_SEGMENT: Final = re.compile(r"[^/:\\\x00-\x1f\x7f]+")
_JSON: Final = re.compile(r'application/json\s*(;\s*charset="?utf-8"?\s*)?', re.IGNORECASE)
_VERBS: Final = ("get", "put", "post", "delete", "patch")

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Binding:
    """
    One way to call a method over HTTP.

    Args:
        template: `/authz/v1/keys/{key.id}:rotate`.
        body: `*`: all fields that the path has not; `key`: that field; empty: none, the rest is in the query.
    """

    verb: str
    template: str
    body: str = ""

    def __post_init__(self) -> None:
        if _TEMPLATE.fullmatch(self.template) is None:
            raise ValueError(f"not a path that is served here: {self.template}")

    @property
    def variables(self) -> tuple[str, ...]:
        return tuple(_VARIABLE.findall(self.template))

    def pattern(self) -> re.Pattern[str]:
        parts = _VARIABLE.split(self.template)
        return re.compile("".join(_ESCAPED if at % 2 else re.escape(part) for at, part in enumerate(parts)))

    def expand(self, values: Mapping[str, object]) -> tuple[str, str, bytes | None]:
        """
        The call that carries *values*, a request message in JSON: verb, path with query, body.

        Raises: FieldError — a value that no path can hold.
        """
        rest = _copied(values)
        path = _VARIABLE.sub(lambda found: _escaped(found[1], _taken_out(rest, found[1])), self.template)
        body: object = None
        if self.body:
            body, rest = (rest, {}) if self.body == "*" else (rest.pop(self.body, None) or {}, rest)
        query = urlencode([*_flat(rest, "")])
        return self.verb, f"{path}?{query}" if query else path, _json(body) if self.body else None


def binding(descriptor: Any, method_name: str) -> Binding:
    """The first binding of a method of a service. Raises: KeyError; ValueError — it has none."""
    found = bindings(descriptor.methods_by_name[method_name].GetOptions())
    if not found:
        raise ValueError(f"{method_name} is not served over HTTP")
    return found[0]


def bindings(options: Any) -> tuple[Binding, ...]:
    """Those of a method's *options*, none if it is not annotated. Raises: ValueError — one that is not served here."""
    if not options.HasExtension(annotations_pb2.http):
        return ()
    rule = options.Extensions[annotations_pb2.http]
    return tuple(_binding(each) for each in (rule, *rule.additional_bindings))


def _binding(rule: Any) -> Binding:
    verb = rule.WhichOneof("pattern")
    if verb not in _VERBS or rule.response_body:
        raise ValueError(f"an annotation that is not served here: {verb} {rule.response_body}")
    return Binding(verb.upper(), getattr(rule, verb), rule.body)


def build(
    services: Sequence[Service[Any]],
    style: Callable[[], ResponseFormat],
    *,
    documents: Mapping[str, Callable[[], bytes]],
) -> Starlette:
    """
    *style* is asked for each refusal, as a reload may change it. *documents*: path → JSON that anybody may read.

    Raises: ValueError — annotations that are not served here, or contradict each other.
    """
    application = Starlette()
    application.router.default = request_response(_Router(services, style, documents).answer)
    return application


@dataclass(frozen=True, slots=True)
class _Route:
    binding: Binding
    pattern: re.Pattern[str]
    service: Service[Any]
    method: Any


class _Router:
    def __init__(
        self,
        services: Sequence[Service[Any]],
        style: Callable[[], ResponseFormat],
        documents: Mapping[str, Callable[[], bytes]],
    ) -> None:
        self._style = style
        self._documents = documents
        self._routes = [*_routes(services)]
        names = [(route.binding.verb, route.pattern.pattern) for route in self._routes]
        if twice := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"two methods have the same path: {sorted(twice)}")

    async def answer(self, request: Request) -> Response:
        shown: list[Header] = []
        try:
            body = await self._called(request, shown)
        except RpcError as refused:
            return self._refused(refused, shown)
        except ClientDisconnect:
            return Response(status_code=400)  # to nobody
        except Exception:  # noqa: BLE001 - the last resort: nothing of it may reach the caller
            _log.exception("a call failed")
            failed = RpcError(problem_of(Fault(Reason.INTERNAL_ERROR)), (("retry-after", "1"),))
            return self._refused(failed, shown)
        if body is None:
            return _with(Response(status_code=204), shown)
        return _response(200, body, "application/json", shown)  # uvicorn leaves out the body of a HEAD

    async def _called(self, request: Request, shown: list[Header]) -> bytes | None:
        """
        What is answered; None: the method has nothing to tell, but that it was done. *shown* is filled with the headers
        of the answer, of a refusal too.
        """
        verb = "GET" if request.method == "HEAD" else request.method
        path = request.scope["raw_path"].decode("latin-1")
        if verb == "GET" and path in self._documents:
            return self._documents[path]()
        route, segments = self._route(verb, path)
        query = request.scope["query_string"].decode("latin-1")
        peer = request.client.host if request.client else ""
        call = Call(route.method.name, _headers(request), peer, query, shown)
        await route.service.authorize(call)
        content = await _content(request, call.headers.get("content-type", ""))
        actor = await route.service.authorize(replace(call, looks=True))  # a body may take its time
        try:
            message = _message(route, segments, query, content)
        except FieldError as error:
            raise _bad(str(error), error.field) from error
        answer = await route.service.handle(call, actor, message)
        return None if is_empty(route.method.output_type.full_name) else _json(render(answer))

    def _route(self, verb: str, path: str) -> tuple[_Route, list[str]]:
        """The method that is meant, and what stands for the variables of its path. Raises: RpcError."""
        allowed = {"GET"} if path in self._documents else set()
        for route in self._routes:
            segments = _matched(route.pattern, path)
            if segments is None:
                continue
            if route.binding.verb == verb:
                return route, segments
            allowed.add(route.binding.verb)
        if not allowed:
            raise RpcError(Problem(404, "not_found", "There is nothing at this path."))
        allow = ", ".join(sorted({*allowed, "HEAD"} if "GET" in allowed else allowed))
        raise RpcError(Problem(405, "method_not_allowed", f"This path takes {allow}."), (("allow", allow),))

    def _refused(self, error: RpcError, shown: Sequence[Header]) -> Response:
        style = self._style()
        body = style.body(error.problem).encode()
        return _response(style.status(error.problem), body, style.content_type, (*shown, *error.headers))


def is_empty(message: str) -> bool:
    """Whether a method that answers *message* (a full name) answers 204, without a body."""
    return message == "google.protobuf.Empty"


def _routes(services: Sequence[Service[Any]]) -> Iterator[_Route]:
    for service in services:
        for method in service.descriptor.methods:
            for each in bindings(method.GetOptions()):
                if method.client_streaming or method.server_streaming:
                    raise ValueError(f"{method.name} streams, which is not served here")
                yield _Route(each, each.pattern(), service, method)


def _matched(pattern: re.Pattern[str], path: str) -> list[str] | None:
    """What *path* has for the variables of *pattern*; None: it is not such a path."""
    if (found := pattern.fullmatch(path)) is None:
        return None
    try:
        values = [unquote(value, errors="strict") for value in found.groups()]
    except UnicodeDecodeError:
        return None
    return values if all(_is_segment(value) for value in values) else None


def _is_segment(value: str) -> bool:
    return _SEGMENT.fullmatch(value) is not None and value not in {".", ".."}


def _headers(request: Request) -> dict[str, str]:
    joined: dict[str, str] = {}
    for name, value in request.headers.items():
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


async def _content(request: Request, content_type: str) -> bytes:
    """The body, if it is small JSON; nothing of it is kept beyond the limit. Raises: RpcError."""
    content = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for chunk in request.stream():
                if chunk and _JSON.fullmatch(content_type) is None:
                    raise _bad("its content type must be application/json")
                if len(content) + len(chunk) > MAX_BODY_BYTES:
                    raise _bad(f"its body is larger than {MAX_BODY_BYTES} bytes")
                content += chunk
    except TimeoutError as exc:
        raise _bad(f"its body did not arrive within {BODY_S:.0f} s") from exc
    return bytes(content)


def _message(route: _Route, segments: Sequence[str], query: str, content: bytes) -> Any:
    """The request message, from path, query and body. Raises: FieldError."""
    message_class, body = GetMessageClass(route.method.input_type), route.binding.body
    if content and not body:
        raise FieldError("", "has a body, and this method takes none")
    variables = route.binding.variables
    taken = {field.name for field in route.method.input_type.fields} if body == "*" else {*variables, body} - {""}
    values = from_query(query, message_class, taken)
    sent = load(content) if content else {}
    if not isinstance(sent, dict):
        raise FieldError("" if body == "*" else body, "must be an object")
    if body:
        values |= sent if body == "*" else {body: sent}
    if body not in {"", "*"} and MASK in route.method.input_type.fields_by_name and not values.get(MASK):
        values[MASK] = _implied_mask(route.method.input_type.fields_by_name[body].message_type, sent)
    _merge(values, from_pairs(zip(variables, segments, strict=True), message_class), "")
    return parse(values, message_class)


def _implied_mask(descriptor: Any, sent: Json) -> str:
    """
    What a body names is what it changes (AIP-134), empty values included, which protobuf cannot tell from none. What
    only the server says (AIP-203), and the etag, are not changes: a resource that was read can be sent back.
    """
    fields = (field for field in descriptor.fields if field.name in sent and field.name != "etag")
    changes = [field.name for field in fields if OUTPUT_ONLY not in _behavior(field)]
    return ",".join(changes)


def _behavior(field: Any) -> Sequence[int]:
    told: Sequence[int] = field.GetOptions().Extensions[field_behavior_pb2.field_behavior]
    return told


def _merge(into: Json, bound: Json, at: str) -> None:
    """Add what the path says; the body may say the same again, or leave it empty. Raises: FieldError."""
    for name, value in bound.items():
        there = into.get(name)
        if isinstance(value, dict):
            into[name] = {} if there is None else there
            if isinstance(into[name], dict):  # else `parse` refuses it
                _merge(into[name], value, f"{at}{name}.")
        elif there in (None, "", value):
            into[name] = value
        else:
            raise FieldError(f"{at}{name}", "is not the one in the path")


def _bad(told: str, field: str = "") -> RpcError:
    return RpcError(Problem(400, Reason.BAD_REQUEST.value, f"{SENTENCE[Reason.BAD_REQUEST]}: {told}.", field=field))


def _response(status: int, body: bytes, content_type: str, headers: Sequence[Header]) -> Response:
    return _with(Response(body, status, {"content-type": content_type}), headers)


def _with(response: Response, headers: Sequence[Header]) -> Response:
    for name, value in (("cache-control", "no-store"), *headers):
        if value.isascii() and value.isprintable():
            response.headers.append(name, value)
    return response


def _json(value: object) -> bytes:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def _copied(values: Mapping[str, object]) -> Json:
    return {name: _copied(value) if isinstance(value, Mapping) else value for name, value in values.items()}


def _taken_out(values: Json, path: str) -> object:
    *parents, last = path.split(".")
    for name in parents:
        values = values.get(name) or {}
    return values.pop(last, None)


def _escaped(field: str, value: object) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool) or not _is_segment(str(value)):
        raise FieldError(field, "cannot stand in a path")
    return quote(str(value), safe="")


def _flat(values: Mapping[str, Any], at: str) -> Iterator[tuple[str, str]]:
    """The parameters of a query: `key.name`; nothing for what is not there."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{at}{name}.")
        else:
            for item in value if isinstance(value, list | tuple) else [value]:
                if item is not None:
                    yield f"{at}{name}", json.dumps(item) if isinstance(item, bool) else str(item)
