"""
What a request and its answer say of themselves, as Envoy's `json_to_metadata` and `sse_to_metadata` filters have read
it in their bodies (deploy/envoy). Clients write bodies: nothing here is believed beyond its bounds.
"""

import math
from collections.abc import Mapping
from typing import Any, Final

from authz.core.bucket import MAX_UNITS
from authz.core.settlement import TokenUsage, tokens


REQUEST: Final = "authz.request"
ANSWER: Final = "authz.usage"
MAX_CHOICES: Final = 128  # OpenAI's own bound of `n`
_MAXIMA: Final = ("max_tokens", "max_completion_tokens")
_RESPONSES: Final = ("max_output_tokens",)  # OpenAI's Responses API alone reads it, and no other


def max_tokens(metadata: Mapping[str, Any], path: str) -> tuple[int | None, bool]:
    """
    The most tokens that the answer may have: the largest maximum that is given, for each of `n` choices (None: none is
    given); and whether that is all that was asked for.

    It is not where one of these numbers is none that an API would take (a fraction, below 1, beyond any bucket):
    whoever reads the body may make something else of it.
    """
    if REQUEST not in metadata:
        return None, True
    fields = metadata[REQUEST].fields
    names = _RESPONSES if path.rstrip("/").lower().endswith("/responses") else _MAXIMA
    told = [_whole(fields, name, MAX_UNITS) for name in names if name in fields]
    given = [whole for whole in told if whole is not None]
    choices = _whole(fields, "n", MAX_CHOICES) if "n" in fields else 1
    is_all = choices is not None and len(given) == len(told)
    return min(max(given) * (choices or 1), MAX_UNITS) if given else None, is_all


def asked_model(metadata: Mapping[str, Any]) -> str:
    return _text(metadata[REQUEST].fields, "model") if REQUEST in metadata else ""


def answered(metadata: Mapping[str, Any]) -> tuple[str, TokenUsage]:
    """The model that answered, and the tokens that it told."""
    if ANSWER not in metadata:
        return "", TokenUsage()
    fields = metadata[ANSWER].fields
    told = (_tokens(fields, name) for name in ("input_tokens", "output_tokens", "total_tokens"))
    return _text(fields, "model"), TokenUsage(*told)


def _tokens(fields: Mapping[str, Any], name: str) -> int | None:
    number = _number(fields, name)
    return None if number is None else tokens(number)


def _whole(fields: Mapping[str, Any], name: str, most: int) -> int | None:
    number = _number(fields, name)
    if number is None or not math.isfinite(number) or number != int(number) or not 1 <= number <= most:
        return None
    return int(number)


def _number(fields: Mapping[str, Any], name: str) -> float | None:
    if name not in fields or fields[name].WhichOneof("kind") != "number_value":
        return None
    return float(fields[name].number_value)


def _text(fields: Mapping[str, Any], name: str) -> str:
    return str(fields[name].string_value) if name in fields else ""
