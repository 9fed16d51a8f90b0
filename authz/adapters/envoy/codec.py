"""
Envoy's messages (envoy.service.auth.v3) and the core's values, each from the other. Pure.

`CheckResponse()` with code 0 is an ALLOW, also with a `denied_response` in it: so the code is always set, first of all.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.service.auth.v3 import external_auth_pb2
from google.protobuf.message import DecodeError
from google.rpc import code_pb2

from authz.adapters.envoy.bodies import max_tokens
from authz.adapters.envoy.ticket import TICKET, Tickets
from authz.core import headers
from authz.core.decision import Allow, Decision, Deny, Fault
from authz.core.headers import Header
from authz.core.problems import ResponseFormat, problem_of
from authz.core.request import Request


# Whatever the upstream set itself is replaced, not added to.
_OVERWRITE: Final = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD

DECISION_ID: Final = "decision_id"  # its key in the dynamic metadata
_FROM_ENVOY: Final = ":path"  # where it is, Envoy has filled `headers`, and written each name once and in lower case
_CUT_OFF: Final = "x-envoy-auth-partial-body"  # of what a client sends under this name, Envoy tells us nothing

_CODES: Final[Mapping[int, int]] = {
    400: code_pb2.INVALID_ARGUMENT,
    401: code_pb2.UNAUTHENTICATED,
    403: code_pb2.PERMISSION_DENIED,
    413: code_pb2.INVALID_ARGUMENT,
    415: code_pb2.INVALID_ARGUMENT,
    429: code_pb2.RESOURCE_EXHAUSTED,
    503: code_pb2.UNAVAILABLE,
}


class NotACheckError(ValueError):
    """The message does not describe an HTTP request."""


@dataclass(frozen=True, slots=True)
class ResponseStyle:
    """
    `credential_headers`: removed before the upstream sees the request; empty: forwarded. `tickets`: seals what is to be
    settled; None: nothing is.
    """

    format: ResponseFormat
    ratelimit_styles: tuple[str, ...]
    credential_headers: tuple[str, ...]
    tickets: Tickets | None = None


class CheckedRequest:
    """As Envoy describes it. What few checks ask for is read when they do."""

    __slots__ = ("_attributes", "context", "headers", "is_max_sure", "max_tokens", "method", "path", "query")

    def __init__(self, attributes: Any) -> None:
        http = attributes.request.http
        path, query = http.path, ""
        if "?" in path or "#" in path:
            path, _, query = path.partition("?")
            path, _, _ = path.partition("#")
        told = attributes.metadata_context.filter_metadata
        self._attributes = attributes
        self.method = http.method
        self.path = path
        self.query = f"{query}&{http.query}" if query and http.query else query or http.query
        self.headers = _headers(http)
        self.context = attributes.context_extensions
        self.max_tokens, self.is_max_sure = max_tokens(told, path) if told else (None, True)

    @property
    def client_address(self) -> str:
        return str(self._attributes.source.address.socket_address.address)

    @property
    def body(self) -> bytes:
        http = self._attributes.request.http
        return http.raw_body or bytes(http.body.encode())

    @property
    def is_cut_off(self) -> bool:
        return self.headers.get(_CUT_OFF, "").lower() == "true"


def decode(message: bytes) -> Request:
    """Raises: NotACheckError — not a CheckRequest, or one without `attributes.request.http`."""
    try:
        check: Any = external_auth_pb2.CheckRequest.FromString(message)
    except DecodeError as exc:
        raise NotACheckError("not a CheckRequest") from exc
    request = CheckedRequest(check.attributes)
    if not request.method:
        raise NotACheckError("the CheckRequest has no attributes.request.http")
    return request


def _headers(http: Any) -> Mapping[str, str]:
    """
    Lower-case names. With `encode_raw_headers`, Envoy fills `header_map` instead of `headers`, repeated ones apart:
    they are joined by commas, as Envoy joins them, so that a credential sent twice looks the same either way.
    """
    headers_sent: Mapping[str, str] = http.headers
    if _FROM_ENVOY in headers_sent:
        return headers_sent
    pairs: Iterable[Header] = headers_sent.items()
    if http.header_map.headers:
        pairs = ((h.key, h.raw_value.decode("utf-8", "replace") or h.value) for h in http.header_map.headers)
    joined: dict[str, str] = {}
    for sent, value in pairs:
        name = sent.lower()
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined


def encode(decision: Decision, style: ResponseStyle) -> bytes:
    """The CheckResponse of *decision*. Total: whatever is not an `Allow` has a code that is not OK."""
    response: Any = external_auth_pb2.CheckResponse()
    if isinstance(decision, Allow):
        _encode_allow(response, decision, style)
    else:
        _encode_refusal(response, decision, style)
    response.dynamic_metadata.update(_metadata(decision))
    hold = None if isinstance(decision, Fault) else decision.hold
    if hold is not None and style.tickets is not None:
        told = {DECISION_ID: str(hold.id), "estimate": hold.estimate, TICKET: style.tickets.seal(hold)}
        response.dynamic_metadata.update(told)
    encoded: bytes = response.SerializeToString()
    return encoded


def _encode_allow(response: Any, allow: Allow, style: ResponseStyle) -> None:
    identity = headers.identity(allow.principal) if allow.principal else ()
    told = {name for name, _ in identity}
    response.status.code = code_pb2.OK
    _add(response.ok_response.headers, identity)
    if not allow.preliminary:  # the next check needs the credential
        response.ok_response.headers_to_remove.extend(style.credential_headers)
    response.ok_response.headers_to_remove.extend(name for name in headers.IDENTITY if name not in told)
    if not allow.preliminary:  # Envoy's first filter has the last word on the answer: these would hide the next check's
        shown = headers.rate_limit(allow.quotas, style.ratelimit_styles, allow.now_us)
        _add(response.ok_response.response_headers_to_add, shown)


def _encode_refusal(response: Any, refusal: Deny | Fault, style: ResponseStyle) -> None:
    problem = problem_of(refusal)
    told = style.format.status(problem)
    status = told if told in _CODES else 503  # a refusal for a reason that is none: our bug
    response.status.code = _CODES[status]
    response.denied_response.status.code = status
    response.denied_response.body = style.format.body(problem)
    content_type = ("content-type", style.format.content_type)
    _add(response.denied_response.headers, (content_type, *headers.refusal(refusal, style.ratelimit_styles)))


def _add(options: Any, pairs: Iterable[Header]) -> None:
    for name, value in pairs:
        option = options.add()
        option.header.key = name
        option.header.value = headers.clean(value)
        option.append_action = _OVERWRITE


def _metadata(decision: Decision) -> dict[str, str]:
    """What Envoy's own logs and RBAC may read under `envoy.filters.http.ext_authz`."""
    told = {
        "decision": "allowed" if isinstance(decision, Allow) else "denied",
        "reason": decision.reason.value,
        "route": decision.route,
    }
    if isinstance(decision, Deny) and decision.refused is not None:
        told["limit"] = f"{decision.refused.name}.{decision.refused.unit}"
    if decision.principal is not None:
        principal = decision.principal
        told |= {"key_id": principal.key_id, "key_prefix": principal.prefix, "subject": principal.subject}
        told["workspace"] = principal.workspace
    return {name: headers.clean(value) for name, value in told.items() if value}
