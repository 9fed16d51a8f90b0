"""
Newest first out of 64 partitions: each gives its own newest, and they are merged as they are needed.

A cursor says where a page ended, by the time and a hash of the entry, so that what is put in later (which is newer)
does not shift it, and nothing of an entry that the reader may not see stands in it.
"""

import base64
import binascii
import hashlib
import heapq
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final


AT_A_TIME: Final = 128  # entries asked for in the first round, over all partitions
_TOKEN: Final = struct.Struct(">QQ4s8s")


@dataclass(frozen=True, slots=True, order=True)
class Entry:
    """`at`: µs, or (ms, number) of a stream; `id` breaks ties; `value`: what came along."""

    at: tuple[int, int]
    id: bytes
    partition: int
    value: Any = None

    def hash(self) -> bytes:
        return hashlib.sha256(b"%d:%s" % (self.partition, self.id)).digest()[:8]


@dataclass(frozen=True, slots=True)
class Cursor:
    """Everything up to this entry was seen."""

    at: tuple[int, int]
    hash: bytes

    @classmethod
    def behind(cls, entry: Entry) -> "Cursor":
        return cls(entry.at, entry.hash())

    def token(self, question: str) -> str:
        """Opaque to callers. *question*: what was asked; the token is good for nothing else."""
        raw = _TOKEN.pack(*self.at, _digest(question), self.hash)
        return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()

    @classmethod
    def read(cls, token: str, question: str) -> "Cursor | None":
        """None: it is not a token for this question."""
        try:
            raw = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
            first, second, digest, entry = _TOKEN.unpack(raw)
        except (binascii.Error, ValueError, struct.error):
            return None
        return cls((first, second), entry) if digest == _digest(question) else None


def _digest(question: str) -> bytes:
    return hashlib.sha256(question.encode()).digest()[:4]


# (partition, newest to be given or None, how many) → entries, newest first; those of the same moment by id, downward
Read = Callable[[int, tuple[int, int] | None, int], Awaitable[list[Entry]]]


async def newest(read: Read, partitions: Sequence[int], after: Cursor | None) -> AsyncIterator[Entry]:
    """Every entry behind *after*, newest first."""
    merged = _merged(read, partitions, after.at if after else None)
    if after is None:
        async for entry in merged:
            yield entry
        return
    ties: list[Entry] = []
    async for entry in merged:
        if entry.at == after.at:
            ties.append(entry)
            continue
        for tie in _unseen(ties, after):
            yield tie
        ties = []
        yield entry
    for tie in _unseen(ties, after):
        yield tie


def _unseen(ties: Sequence[Entry], after: Cursor) -> Sequence[Entry]:
    seen = next((place for place, tie in enumerate(ties) if tie.hash() == after.hash), -1)
    return ties[seen + 1 :]


async def _merged(read: Read, partitions: Sequence[int], newest_at: tuple[int, int] | None) -> AsyncIterator[Entry]:
    count = max(8, AT_A_TIME // len(partitions))
    sources = [_Source(read, partition, newest_at, count) for partition in partitions]
    heads: list[tuple[_Downward, int]] = []
    for number, source in enumerate(sources):
        if (entry := await source.next()) is not None:
            heapq.heappush(heads, (_Downward(entry), number))
    while heads:
        head, number = heads[0]
        yield head.entry
        following = await sources[number].next()
        if following is None:
            heapq.heappop(heads)
        else:
            heapq.heapreplace(heads, (_Downward(following), number))


@dataclass(frozen=True, slots=True)
class _Downward:
    entry: Entry

    def __lt__(self, other: "_Downward") -> bool:
        mine, theirs = self.entry, other.entry
        return (mine.at, mine.id, mine.partition) > (theirs.at, theirs.id, theirs.partition)


class _Source:
    """One partition, read chunk by chunk. Chunks overlap in the moment at which one ended: more may lie there."""

    def __init__(self, read: Read, partition: int, newest_at: tuple[int, int] | None, count: int) -> None:
        self._read = read
        self._partition = partition
        self._from = newest_at
        self._count = count
        self._buffer: list[Entry] = []
        self._given: set[bytes] = set()  # ids given at the moment `_from`
        self._ended = False

    async def next(self) -> Entry | None:
        while not self._buffer and not self._ended:
            await self._fill()
        if not self._buffer:
            return None
        entry = self._buffer.pop(0)
        if entry.at != self._from:
            self._from, self._given = entry.at, set()
        self._given.add(entry.id)
        return entry

    async def _fill(self) -> None:
        count = self._count + len(self._given)
        chunk = await self._read(self._partition, self._from, count)
        self._ended = len(chunk) < count
        self._buffer = [entry for entry in chunk if entry.id not in self._given or entry.at != self._from]
