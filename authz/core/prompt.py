"""
What a JSON body asks of a model: how long its prompt is, in characters, and whether the answer is to be a stream.

The prompt is `prompt` (a text, or a list of texts) and `messages[].content` (a text, or a list of parts with `text`),
all of them together. Clients write bodies, and an API behind us may read them in its own way. So what could be read in
two ways counts each time (members that stand twice), by any spelling (`Prompt`, as some decoders take it), and a prompt
of another shape is not readable.

Reading takes a bounded time, whatever is in the body: names and values are counted, numbers are not converted. No
object is built from it, but in memory it is a text besides, and so is each string while it is read: of its own size if
all of it is ASCII, of four times that if there is one emoji. Together that is ten times the body at most.
"""

import json
import re
from dataclasses import dataclass
from enum import IntEnum, auto, unique
from typing import Final

from authz.core.decision import Reason, Refusal


MAX_DEPTH: Final = 100
MAX_VALUES: Final = 40_000  # some 50 ms: numbers, strings, objects, lists, and the names of members, whatever they say

_SPACE: Final = r"[ \t\n\r]*"
_GAP: Final = re.compile(_SPACE)
_OPENING: Final = re.compile(rf"\[{_SPACE}(\])?|\{{{_SPACE}(\}})?")  # of a list or an object, which may be empty
_SHORT_NAME: Final = re.compile(rf'"([^"\\\x00-\x1f]{{0,64}})"{_SPACE}:{_SPACE}')  # and without escapes
_COLON: Final = re.compile(rf"{_SPACE}:{_SPACE}")
_WORD: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?|true|false|null")
_NEXT: Final = re.compile(rf"{_SPACE}(?:(,){_SPACE}|([\]}}]))")  # what may stand behind a value


class UnreadableError(ValueError):
    """The body is JSON, but more of it than is read. The message is a hint for the caller."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """
    What a body asks of a model.

    Args:
        characters: Of the prompt, in Unicode code points; None: it is in no shape that is known.
        streams: A member `stream` says anything but false or null.
    """

    characters: int | None
    streams: bool


@unique
class _Place(IntEnum):
    """Where in the body. Numbers, as they hash faster than other enums."""

    BODY = auto()
    STREAM = auto()
    PROMPT = auto()
    TEXT = auto()
    MESSAGES = auto()
    MESSAGE = auto()
    CONTENT = auto()
    PART = auto()
    PART_TEXT = auto()
    ELSEWHERE = auto()


_ELSEWHERE: Final = _Place.ELSEWHERE  # asked for at each value: looking it up in its enum takes longer than the asking
_BEGINNINGS: Final = {  # what may stand there, by its first character: n is null. Elsewhere anything may
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
    _Place.BODY: {"prompt": _Place.PROMPT, "messages": _Place.MESSAGES, "stream": _Place.STREAM},
    _Place.MESSAGE: {"content": _Place.CONTENT},
    _Place.PART: {"text": _Place.PART_TEXT},
}
_LONGEST_NAME: Final = max(len(name) for names in _MEMBERS.values() for name in names)
_ITEMS: Final = {_Place.PROMPT: _Place.TEXT, _Place.MESSAGES: _Place.MESSAGE, _Place.CONTENT: _Place.PART}


def read_prompt(body: bytes) -> Prompt | Refusal:
    """CPU only: a large body takes a while."""
    try:
        return _Reader(body.decode("utf-8", "strict")).read()
    except UnreadableError as exc:
        return Refusal(Reason.BAD_REQUEST, str(exc))
    except ValueError:
        return Refusal(Reason.BAD_REQUEST, "the body is not a JSON object in UTF-8")


class _Reader:
    """One body, from its beginning to its end."""

    _strings = json.JSONDecoder()

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._values = 0
        self._length = 0
        self._is_known = True
        self._streams = False

    def read(self) -> Prompt:
        """Raises: ValueError."""
        self._skip_space()
        if self._first() != "{":
            raise ValueError("the body is no object")
        self._value(_Place.BODY, 0)
        self._skip_space()
        if self._first():
            raise ValueError("something stands behind the end")
        return Prompt(self._length if self._is_known else None, self._streams)

    def _first(self) -> str:
        """The character that is next; empty: the end."""
        return self._text[self._at : self._at + 1]

    def _skip_space(self) -> None:
        found = _GAP.match(self._text, self._at)
        self._at = found.end() if found else self._at

    def _value(self, place: _Place, depth: int) -> None:
        self._count(depth)
        first = self._first()
        if place is not _ELSEWHERE:
            place = self._known(place, first)
        if first == '"':
            length = len(self._string())
            self._length += length if place in _COUNTED else 0
        elif found := _OPENING.match(self._text, self._at):
            self._at = found.end()
            if found.lastindex:
                return
            if first == "{":
                self._object(place, depth + 1)
            else:
                self._list(place, depth + 1)
        elif found := _WORD.match(self._text, self._at):
            self._at = found.end()
        else:
            raise ValueError("no value")

    def _known(self, place: _Place, first: str) -> _Place:
        """*place*, unless what begins so has no business there."""
        if place is _Place.STREAM:
            self._streams |= not self._text.startswith(("false", "null"), self._at)
        if place in _BEGINNINGS and first not in _BEGINNINGS[place]:
            self._is_known = False
            return _ELSEWHERE
        return place

    def _count(self, depth: int = 0) -> None:
        self._values += 1
        if depth > MAX_DEPTH or self._values > MAX_VALUES:
            raise UnreadableError("the body is too deep, or has too many values")

    def _string(self) -> str:
        value, self._at = self._strings.raw_decode(self._text, self._at)
        return str(value)

    def _object(self, place: _Place, depth: int) -> None:
        members = _MEMBERS.get(place)
        while True:
            name, member = self._name(), _ELSEWHERE
            if members and len(name) <= _LONGEST_NAME:  # folding case makes nothing shorter
                member = members.get(name.casefold(), member)
            self._value(member, depth)
            if self._is_over("}"):
                return

    def _list(self, place: _Place, depth: int) -> None:
        item = _ITEMS.get(place, _ELSEWHERE)
        while True:
            self._value(item, depth)
            if self._is_over("]"):
                return

    def _name(self) -> str:
        """Of a member, of which the value is next."""
        self._count()
        if found := _SHORT_NAME.match(self._text, self._at):
            self._at = found.end()
            return found[1]
        if self._first() != '"':
            raise ValueError("a member has no name")
        name = self._string()
        found = _COLON.match(self._text, self._at)
        if not found:
            raise ValueError("a colon is missing")
        self._at = found.end()
        return name

    def _is_over(self, bracket: str) -> bool:
        """Whether *bracket* is next, and not a comma with another value behind it."""
        found = _NEXT.match(self._text, self._at)
        if not found or found[2] not in {None, bracket}:
            raise ValueError("a comma or a bracket is missing")
        self._at = found.end()
        return found[2] is not None
