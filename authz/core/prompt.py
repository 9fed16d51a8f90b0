"""
How long the prompt in a JSON body is, in characters: `prompt` (a text, or a list of texts) and `messages[].content` (a
text, or a list of parts with `text`), all of them together.

Clients write bodies, and an API behind us may read them in its own way. So what could be read in two ways counts each
time (members that stand twice), by any spelling (`Prompt`, as some decoders take it), and what has another shape is not
readable. Nothing is built from the body: it takes its own size in memory, whatever is in it, and a bounded time.
"""

import json
import re
from enum import Enum, auto, unique
from typing import Final, NoReturn

from authz.core.decision import Reason, Refusal


MAX_DEPTH: Final = 100
MAX_VALUES: Final = 100_000  # some 0.2 s: numbers, texts, objects, lists, whatever they say

_SPACE: Final = re.compile(r"[ \t\n\r]*")


class UnreadableError(ValueError):
    """The body is not JSON, or has its prompt in no shape that is known. The message is a hint for the caller."""


class _LongError(Exception):
    """The prompt is longer than it may be: the rest need not be read."""


@unique
class _Place(Enum):
    """Where in the body."""

    BODY = auto()
    PROMPT = auto()
    TEXT = auto()
    MESSAGES = auto()
    MESSAGE = auto()
    CONTENT = auto()
    PART = auto()
    PART_TEXT = auto()
    ELSEWHERE = auto()


_BEGINNINGS: Final = {  # what may stand there, by its first character: n is null. Elsewhere anything may
    _Place.BODY: "{",
    _Place.PROMPT: '"[n',
    _Place.TEXT: '"',
    _Place.MESSAGES: "[n",
    _Place.MESSAGE: "{",
    _Place.CONTENT: '"[n',
    _Place.PART: '"{',
    _Place.PART_TEXT: '"n',
}
_COUNTED: Final = frozenset({_Place.PROMPT, _Place.TEXT, _Place.CONTENT, _Place.PART, _Place.PART_TEXT})
_MEMBERS: Final = {
    _Place.BODY: {"prompt": _Place.PROMPT, "messages": _Place.MESSAGES},
    _Place.MESSAGE: {"content": _Place.CONTENT},
    _Place.PART: {"text": _Place.PART_TEXT},
}
_ITEMS: Final = {_Place.PROMPT: _Place.TEXT, _Place.MESSAGES: _Place.MESSAGE, _Place.CONTENT: _Place.PART}


def judge_prompt(body: bytes, most: int) -> Refusal | None:
    """Whether the prompt has at most *most* characters. CPU only: a large body takes a while."""
    try:
        _Reader(body.decode("utf-8", "strict"), most).read()
    except _LongError:
        return Refusal(Reason.PROMPT_TOO_LONG, f"at most {most} characters")
    except UnreadableError as exc:
        return Refusal(Reason.BAD_REQUEST, str(exc))
    except ValueError:
        return Refusal(Reason.BAD_REQUEST, "the body is not JSON in UTF-8")
    return None


def _refuse_constant(_: str) -> NoReturn:
    raise ValueError("NaN and Infinity are not JSON")


class _Reader:
    """One body, from its beginning to its end."""

    _scalars = json.JSONDecoder(parse_constant=_refuse_constant)

    def __init__(self, text: str, most: int) -> None:
        self._text = text
        self._most = most
        self._at = 0
        self._length = 0
        self._values = 0

    def read(self) -> None:
        """Raises: ValueError, _LongError."""
        self._value(_Place.BODY, 0)
        if self._next():
            raise ValueError("something stands behind the end")

    def _next(self) -> str:
        """The character at which something begins; empty: the end."""
        found = _SPACE.match(self._text, self._at)
        self._at = found.end() if found else self._at
        return self._text[self._at : self._at + 1]

    def _value(self, place: _Place, depth: int) -> None:
        self._values += 1
        first = self._next()
        if place in _BEGINNINGS and first not in _BEGINNINGS[place]:
            raise UnreadableError("the prompt is in no shape that can be judged")
        if depth > MAX_DEPTH or self._values > MAX_VALUES:
            raise UnreadableError("the body is too deep, or has too many values")
        if first == "{":
            self._object(place, depth)
        elif first == "[":
            self._list(place, depth)
        else:
            scalar = self._scalar()
            if place in _COUNTED and isinstance(scalar, str):
                self._count(len(scalar))

    def _count(self, characters: int) -> None:
        self._length += characters
        if self._length > self._most:
            raise _LongError

    def _scalar(self) -> object:
        value, self._at = self._scalars.raw_decode(self._text, self._at)
        return value

    def _object(self, place: _Place, depth: int) -> None:
        members = _MEMBERS.get(place, {})
        self._at += 1
        if self._next() == "}":
            self._at += 1
            return
        while True:
            if self._next() != '"':
                raise ValueError("a member has no name")
            name = str(self._scalar())
            self._take(":")
            self._value(members.get(name.casefold(), _Place.ELSEWHERE), depth + 1)
            if self._take(",}") == "}":
                return

    def _list(self, place: _Place, depth: int) -> None:
        item = _ITEMS.get(place, _Place.ELSEWHERE)
        self._at += 1
        if self._next() == "]":
            self._at += 1
            return
        while True:
            self._value(item, depth + 1)
            if self._take(",]") == "]":
                return

    def _take(self, wanted: str) -> str:
        """One of *wanted*."""
        found = self._next()
        if not found or found not in wanted:
            raise ValueError("a comma, a colon or a bracket is missing")
        self._at += 1
        return found
