"""
Finding the credential in a request: where it may stand, and every way in which it can stand wrong.

Three different results: a `Credential`, a `Refusal` that says what is wrong, or None: there is none at all.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote_plus

from authz.core.decision import Reason, Refusal
from authz.core.request import Request


MAX_CREDENTIAL_CHARS: Final = 8192
_SCHEME: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)([ \t].*)", re.DOTALL)
_SPACE: Final = re.compile(r"\s")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_TWO: Final = "two different credentials were sent"
_EMPTY: Final = Refusal(Reason.MALFORMED_CREDENTIAL, "the key is empty")
_WHITE_SPACE: Final = Refusal(Reason.MALFORMED_CREDENTIAL, "there is white space in the key")
_SPACE_BEFORE: Final = Refusal(Reason.MALFORMED_CREDENTIAL, "there is white space before the key")
_BEARER: Final = "bearer"


@dataclass(frozen=True, slots=True)
class Source:
    """A place where a credential may stand. `scheme` (`Bearer`) in lower case; empty: the header is the key itself."""

    header: str
    scheme: str = ""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a request presents, unverified. `bearer`: it came with a scheme, so a bare JWT is acceptable (RFC 6750)."""

    value: str = field(repr=False)
    header: str
    bearer: bool


def extract(
    request: Request, sources: Sequence[Source], refuse_in_query: frozenset[str]
) -> Credential | Refusal | None:
    """
    The one credential of *request*.

    Refused: one in the URL, whatever else is sent (it is in every log by now); two that differ; a repeated header
    (proxies join them by commas, which no key holds); a scheme forgotten or unknown; more than `MAX_CREDENTIAL_CHARS`;
    control characters, bytes that are not ASCII, and stray white space, each told as such.
    """
    if names_one(request.query, refuse_in_query):
        return Refusal(Reason.CREDENTIAL_IN_URL, "send the key in a header: URLs end up in logs and histories")
    found: Credential | None = None
    present = {source.header: None for source in sources if source.header in request.headers}
    for name in present:
        header = request.headers[name]
        read = _read(header, [source for source in sources if source.header == name])
        if isinstance(read, Refusal):
            return read if len(present) == 1 or read is _EMPTY else Refusal(Reason.AMBIGUOUS_CREDENTIAL, _TWO)
        if found is not None and found.value != read.value:
            return Refusal(Reason.AMBIGUOUS_CREDENTIAL, _TWO)
        found = found or read
    return found


def names_one(query: str, names: frozenset[str]) -> bool:
    """Whether the query has a parameter of one of *names*, however it is escaped or cased."""
    return bool(query) and any(
        unquote_plus(part.partition("=")[0]).strip().lower() in names for part in re.split("[&;]", query)
    )


def _read(header: str, sources: Sequence[Source]) -> Credential | Refusal:
    """*sources*: all of the same header, with different schemes."""
    if fault := _bad_characters(header):
        return Refusal(Reason.MALFORMED_CREDENTIAL, fault)
    schemes = {source.scheme: source for source in sources}
    split = _SCHEME.fullmatch(header)
    if split is not None and (source := schemes.get(split[1].lower())):
        return _judge(split[2].removeprefix(" "), source)
    if "" in schemes:
        return _judge(header, schemes[""])
    if split is not None:
        names = " or ".join(scheme.capitalize() for scheme in schemes)
        return Refusal(Reason.MALFORMED_CREDENTIAL, f"the scheme must be {names}")
    return _without_scheme(header, sources[0])


def _judge(value: str, source: Source) -> Credential | Refusal:
    if not value.strip():
        return _EMPTY
    if len(value) > MAX_CREDENTIAL_CHARS:
        return Refusal(Reason.MALFORMED_CREDENTIAL, f"the key is longer than {MAX_CREDENTIAL_CHARS} characters")
    if "," in value:
        return Refusal(Reason.AMBIGUOUS_CREDENTIAL, "the header was sent more than once, or holds a comma")
    if _SPACE.search(value):
        return _spaced(value, source.scheme)
    return Credential(value, source.header, bearer=bool(source.scheme))


def _spaced(value: str, scheme: str) -> Refusal:
    """Of a value with white space, the likeliest reason: `Bearer` was put before a key that had one, or needs none."""
    split = _SCHEME.fullmatch(value.strip())
    named = split[1].lower() if split else ""
    if scheme and named == scheme:
        return Refusal(Reason.MALFORMED_CREDENTIAL, f"leave out one '{scheme.capitalize()}': it stands there twice")
    if named == _BEARER:
        why = f"only '{scheme.capitalize()}' belongs before the key" if scheme else "this header holds the key alone"
        return Refusal(Reason.MALFORMED_CREDENTIAL, f"leave out 'Bearer': {why}")
    return _SPACE_BEFORE if value != value.lstrip() else _WHITE_SPACE


def _without_scheme(header: str, source: Source) -> Refusal:
    scheme = source.scheme.capitalize()
    if header.strip().lower() in {"", source.scheme}:
        return _EMPTY
    if header != header.strip():
        return _WHITE_SPACE
    return Refusal(Reason.MALFORMED_CREDENTIAL, f"the scheme is missing: write '{scheme}' and a space before the key")


def _bad_characters(value: str) -> str:
    if _CONTROL.search(value):
        return "there are control characters in the key"
    if not value.isascii():
        return "there are characters in the key that are not ASCII"
    return ""
