"""What is asked: HTTP requests as they go over the wire, enough for one run."""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from typing import Final, Protocol


PER_RUN: Final = 60_000  # different requests at most; then they begin anew
PATH: Final = "/v1/models"
PARTED_BY: Final = b"\x1e"  # no request holds it
_CHAT: Final = json.dumps(
    {"model": "mock-chat", "max_tokens": 100, "messages": [{"role": "user", "content": "Hello!"}]}
)


class Load(Protocol):
    def next(self) -> Sequence[bytes]:
        """Of the next run, in order."""
        ...


@dataclass(frozen=True, slots=True)
class Again:
    """The same in turn."""

    requests: Sequence[bytes]

    def next(self) -> Sequence[bytes]:
        return self.requests


@dataclass(frozen=True, slots=True)
class Drawn:
    """Any of these, each as likely as the others."""

    requests: Sequence[bytes]

    def next(self) -> Sequence[bytes]:
        return random.choices(self.requests, k=PER_RUN)


@dataclass(slots=True)
class Fresh:
    """Those that were not asked for longest. *size*: a run's; more than it will get through."""

    requests: Sequence[bytes]
    size: int = PER_RUN
    _at: int = field(default=0, init=False)

    def next(self) -> Sequence[bytes]:
        start, self._at = self._at, (self._at + self.size) % len(self.requests)
        return [self.requests[(start + place) % len(self.requests)] for place in range(self.size)]


@dataclass(frozen=True, slots=True)
class Made:
    """Each made for its place, and for it alone."""

    make: Callable[[int], bytes]
    places: Iterator[int] = field(default_factory=count)

    def next(self) -> Sequence[bytes]:
        return [self.make(place) for place in islice(self.places, PER_RUN)]


def get(token: str, path: str = PATH) -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n\r\n".encode()


def chat(token: str) -> bytes:
    """Of a model that is asked for an answer."""
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: api\r\nAuthorization: Bearer {token}\r\n"
    return f"{head}Content-Type: application/json\r\nContent-Length: {len(_CHAT)}\r\n\r\n{_CHAT}".encode()


def gets(tokens: Sequence[str]) -> list[bytes]:
    return [get(token) for token in tokens]


def mixed(*kinds: Sequence[bytes]) -> list[bytes]:
    """One of each kind in turn, until the longest has had its turn."""
    longest = max(len(kind) for kind in kinds)
    return [kind[place % len(kind)] for place in range(longest) for kind in kinds]
