"""
Answers as bytes. What was allowed before is allowed again in the same words but for a few numbers: those are put into
what was encoded the first time. Everything else is encoded by protobuf (`codec.encode`), which is also the reference: a
property test holds that both say the same.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, Final

from envoy.service.auth.v3 import external_auth_pb2

from authz.adapters.envoy import codec
from authz.adapters.envoy.codec import ResponseStyle
from authz.adapters.envoy.ticket import TICKET, constant_part
from authz.core import headers
from authz.core.decision import Allow, Decision, Grant
from authz.core.recent import Recent


GRANTS: Final = 20_000
SIZES: Final = 4096

# Tags of fields on the wire that have a length: number << 3 | 2
_STATUS_OK: Final = b"\x0a\x00"  # CheckResponse.status, of code 0
_OK: Final = b"\x1a"  # CheckResponse.ok_response
_METADATA: Final = b"\x22"  # CheckResponse.dynamic_metadata
_SHOWN: Final = b"\x32"  # OkHttpResponse.response_headers_to_add
_OVERWRITE: Final = b"\x18\x02"  # HeaderValueOption.append_action: OVERWRITE_IF_EXISTS_OR_ADD
_STRING: Final = b"\x1a"  # Value.string_value
_FIRST: Final = b"\x0a"  # HeaderValueOption.header, HeaderValue.key, Struct.fields and an entry's key
_SECOND: Final = b"\x12"  # HeaderValue.value, and an entry's value


@dataclass(frozen=True, slots=True)
class _Template:
    """
    Of one grant.

    Args:
        ok: OkHttpResponse, but for the headers that the client is shown.
        metadata: Struct, but for the decision's id and ticket.
        ticket: The ticket's constant part.
    """

    ok: bytes
    metadata: bytes
    ticket: bytes


class Answers:
    """In one style. Bounded: the grant that was not seen for longest is forgotten."""

    def __init__(self, style: ResponseStyle) -> None:
        self._style = style
        self._templates: Recent[Grant, _Template] = Recent(GRANTS)

    def encode(self, decision: Decision) -> bytes:
        """The CheckResponse of *decision*. Total: whatever is not an `Allow` has a code that is not OK."""
        if not isinstance(decision, Allow) or decision.grant is None:
            return codec.encode(decision, self._style)
        template = self._templates.get(decision.grant)
        if template is None:
            template = self._template(decision)
            self._templates.put(decision.grant, template)
        return self._filled(template, decision)

    def _template(self, allow: Allow) -> _Template:
        whole: Any = external_auth_pb2.CheckResponse.FromString(codec.encode(replace(allow, quotas=()), self._style))
        for varying in (codec.DECISION_ID, TICKET):
            whole.dynamic_metadata.fields.pop(varying, None)
        ok, metadata = whole.ok_response.SerializeToString(), whole.dynamic_metadata.SerializeToString()
        return _Template(ok, metadata, constant_part(allow.hold) if allow.hold is not None else b"")

    def _filled(self, template: _Template, allow: Allow) -> bytes:
        ok, metadata = template.ok, template.metadata
        for name, text in headers.rate_limit(allow.quotas, self._style.ratelimit_styles, allow.now_us):
            value = headers.clean(text).encode()
            ok += _before_header(name, len(value)) + value + _OVERWRITE
        hold, tickets = allow.hold, self._style.tickets
        if hold is not None and tickets is not None:
            decision_id, ticket = str(hold.id).encode(), tickets.seal(hold, template.ticket).encode()
            metadata += _before_text(codec.DECISION_ID, len(decision_id)) + decision_id
            metadata += _before_text(TICKET, len(ticket)) + ticket
        return b"".join((_STATUS_OK, _OK, _varint(len(ok)), ok, _METADATA, _varint(len(metadata)), metadata))


# What stands before a value depends on its name and its length alone, and there are few of either.


@lru_cache(SIZES)
def _varint(number: int) -> bytes:
    """Base 128, the lowest seven bits first."""
    encoded = b""
    while number >= 0x80:
        encoded += bytes((number & 0x7F | 0x80,))
        number >>= 7
    return encoded + bytes((number,))


@lru_cache(SIZES)
def _before_header(name: str, size: int) -> bytes:
    """Of OkHttpResponse.response_headers_to_add."""
    named = _FIRST + _varint(len(name)) + name.encode() + _SECOND + _varint(size)
    header = _FIRST + _varint(len(named) + size) + named
    return _SHOWN + _varint(len(header) + size + len(_OVERWRITE)) + header


@lru_cache(SIZES)
def _before_text(name: str, size: int) -> bytes:
    """Of Struct.fields."""
    text = _STRING + _varint(size)
    entry = _FIRST + _varint(len(name)) + name.encode() + _SECOND + _varint(len(text) + size) + text
    return _FIRST + _varint(len(entry) + size) + entry
