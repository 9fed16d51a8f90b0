"""
Rules for the request itself: its content type, the size of its body, what the body asks for.

Where a proxy asks twice, first with the headers and then with the body, the first check judges what headers tell.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from authz.core.decision import Reason, Refusal
from authz.core.prompt import Prompt
from authz.core.request import Request


STAGE: Final = "authz.stage"  # among the `context_extensions` of an Envoy route
MAX_READ: Final = 64 * 1024 * 1024  # of a body that is read
DEFAULT_READ: Final = 10 * 1024 * 1024  # where a rule that reads it does not say

MAX_TYPE: Final = 256  # characters of a content type; what is longer is none that an API asks for
_QUOTED: Final = re.compile(r'"(?:[^"\\]|\\.)*"')
_TYPE: Final = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+/[!#$%&'*+.^_`|~0-9a-z-]+")  # RFC 9110 §8.3.1
_CHARSET: Final = re.compile(r"charset\s*=\s*\"?([^\";\s]*)")
_UTF8: Final = frozenset({"utf-8", "utf8"})
_LENGTH: Final = re.compile(r"[0-9]{1,18}")
_BODILESS: Final = frozenset({"GET", "HEAD", "OPTIONS", "DELETE", "TRACE", "CONNECT"})  # as a rule, not by any law


@unique
class Stage(StrEnum):
    """Which of the checks of one request this is."""

    ONLY = ""
    HEADERS = "headers"  # another one will see the body, and spend
    BODY = "body"


@dataclass(frozen=True, slots=True)
class RequestRule:
    """
    A named rule of the configuration.

    Args:
        content_types: In lower case, without parameters; empty: any.
        max_body: In bytes; None: any.
        max_prompt: In characters (Unicode code points); None: any.
        stream_scopes: Required besides the route's, where the body asks for a stream.
    """

    name: str
    content_types: tuple[str, ...] = ()
    max_body: int | None = None
    max_prompt: int | None = None
    stream_scopes: tuple[str, ...] = ()

    @property
    def reads(self) -> bool:
        """Whether it is judged in what the body says."""
        return self.max_prompt is not None or bool(self.stream_scopes)

    @property
    def largest(self) -> int | None:
        """The largest body, in bytes: what is read must have a bound."""
        return DEFAULT_READ if self.max_body is None and self.reads else self.max_body


def stage_of(context: Mapping[str, str]) -> Stage | None:
    """None: there is no such stage."""
    if STAGE not in context:
        return Stage.ONLY
    told = context[STAGE]
    return Stage(told) if told in {Stage.HEADERS, Stage.BODY} else None


def unjudgeable(rules: tuple[RequestRule, ...], request: Request, stage: Stage) -> str:
    """Why the proxy's configuration keeps a rule from being judged; empty: it does not."""
    reading = next((rule.name for rule in rules if rule.reads), None)
    if reading is not None and stage is Stage.ONLY:
        return f"the rule {reading} reads the body, and the Envoy route has no {STAGE}: the body is not shown"
    bounded = any(rule.largest is not None for rule in rules)
    if bounded and stage is Stage.BODY and not request.body and size_of(request):
        return f"{STAGE} is body, and no body came: the Envoy filter has no with_request_body"
    return ""


def judge(rules: tuple[RequestRule, ...], request: Request, stage: Stage) -> Refusal | None:
    """Everything but what the body says."""
    if stage is Stage.BODY and request.is_cut_off:
        return Refusal(Reason.BODY_TOO_LARGE, "it is longer than what is looked at")
    size = size_of(request)
    if size == 0:
        return None
    accepted = [rule.content_types for rule in rules if rule.content_types]
    if any(_content_type(request) not in types for types in accepted):
        return Refusal(Reason.UNSUPPORTED_CONTENT_TYPE, f"send {' or '.join(_common(accepted)) or 'none'}")
    if any(rule.reads for rule in rules) and not _is_readable(request):
        return Refusal(Reason.UNSUPPORTED_CONTENT_TYPE, "send it as UTF-8, and not compressed")
    largest = min((rule.largest for rule in rules if rule.largest is not None), default=None)
    if largest is None or (size is None and stage is Stage.HEADERS):
        return None
    if size is None and stage is Stage.BODY:  # fails closed: there may be one that Envoy did not show
        return Refusal(Reason.BAD_REQUEST, "there is no body, or its length is not told")
    if size is None:
        return Refusal(Reason.BODY_TOO_LARGE, f"its size is not told; send content-length, of at most {largest} bytes")
    return Refusal(Reason.BODY_TOO_LARGE, f"at most {largest} bytes") if size > largest else None


def must_read(rules: tuple[RequestRule, ...], request: Request, stage: Stage) -> bool:
    """Whether what the body says is to be judged, here and now."""
    return stage is Stage.BODY and size_of(request) != 0 and any(rule.reads for rule in rules)


def judge_prompt(rules: tuple[RequestRule, ...], prompt: Prompt) -> Refusal | None:
    """What the body says, but for the scopes that it takes."""
    most = min((rule.max_prompt for rule in rules if rule.max_prompt is not None), default=None)
    if most is None:
        return None
    if prompt.characters is None:
        return Refusal(Reason.BAD_REQUEST, "the prompt is in no shape that can be judged")
    return Refusal(Reason.PROMPT_TOO_LONG, f"at most {most} characters") if prompt.characters > most else None


def scopes_for(rules: tuple[RequestRule, ...], prompt: Prompt) -> tuple[str, ...]:
    """The scopes that are required for what the body asks for."""
    return tuple(scope for rule in rules for scope in rule.stream_scopes) if prompt.streams else ()


def size_of(request: Request) -> int | None:
    """
    Of the body in bytes, as it is or as it was told: the larger of both. None: nothing is told and nothing is seen of a
    body that there may be.

    Of a body in chunks nothing is told: Envoy takes `transfer-encoding` away, and HTTP/2 has none.
    """
    told, seen = request.headers.get("content-length"), len(request.body)
    if "transfer-encoding" in request.headers:
        told = None
    elif told is None and request.method in _BODILESS:
        told = "0"
    if told is not None and _LENGTH.fullmatch(told):
        return max(int(told), seen)
    return seen or None


def _content_type(request: Request) -> str:
    """Empty: none, more than one, or none that can be one."""
    told = request.headers.get("content-type", "")
    if len(told) > MAX_TYPE or "," in _QUOTED.sub("", told):
        return ""
    named = told.partition(";")[0].strip().lower()
    return named if _TYPE.fullmatch(named) else ""


def _is_readable(request: Request) -> bool:
    """Whether the upstream reads the very text that is judged here: UTF-8, and not packed."""
    told = request.headers.get("content-type", "").lower()
    charsets = set(_CHARSET.findall(told[:MAX_TYPE]))
    packed = request.headers.get("content-encoding", "identity").strip().lower()
    return len(told) <= MAX_TYPE and charsets <= _UTF8 and packed in {"", "identity"}


def _common(accepted: list[tuple[str, ...]]) -> list[str]:
    """What all of them accept."""
    return [one for one in accepted[0] if all(one in types for types in accepted)]
