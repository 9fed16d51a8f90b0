"""
What was booked, read again. No read holds the store up: hours and days, which have a field for each key and model, are
read in pieces.

An emptied store must not pass for one in which nothing was used: what was read counts once its partition's marker was
found behind it.
"""

import struct
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import Final

from authz.adapters.redis import keys
from authz.adapters.redis.client import Store, pairs
from authz.adapters.redis.packing import unpack_counts
from authz.adapters.redis.together import together
from authz.core.keyrecord import tenant_of
from authz.core.usage import Counts, Owner, Row, Step
from authz.ports import StoreFault


AT_ONCE: Final = 8
PIECE: Final = 500  # fields of an hour asked for at a time: a fraction of a millisecond of the store's
STRETCHES: Final = 100  # hours or days of a partition of which it is asked at once whether there are any


@dataclass(slots=True)
class _Reading:
    """One hour or day of one partition. `seen`: a hash that grows while it is read may tell a field twice."""

    partition: int
    at_s: int
    cursor: int = 0
    seen: set[bytes] = field(default_factory=set)


class RedisUsageReports:
    def __init__(self, store: Store) -> None:
        self._store = store

    async def totals(self, owner: Owner) -> Mapping[str, Counts]:
        """Raises: StoreFault."""
        name, partitions = _place(owner)
        sums: dict[str, Counts] = {}
        for found in await together(partial(self._counts, name), partitions, AT_ONCE):
            for model, counts in found.items():
                sums[model] = sums.get(model, Counts()) + counts
        return sums

    async def _counts(self, name: str, partition: int) -> dict[str, Counts]:
        """An owner's models are few: they are read at once."""
        reply = await self._store.call("usage", "HGETALL", keys.counts(partition, name))
        await self._store.read("usage", partition)
        return {_text(model): _counted(stored) for model, stored in pairs(reply)}

    async def last_used_us(self, owner: Owner) -> int | None:
        """Raises: StoreFault."""
        partition = keys.partition(tenant_of(owner.workspace, owner.subject))
        stored = await self._store.call("usage", "GET", keys.name(partition, "l", owner.key_id))
        await self._store.read("usage", partition)
        try:
            return None if stored is None else int(stored)
        except ValueError as exc:
            raise _damaged() from exc

    async def rows(self, step: Step, start_s: int, end_s: int, tenant: str | None = None) -> AsyncIterator[Row]:
        """In no order. They may be believed once the last was given without a fault. Raises: StoreFault."""
        partitions = range(keys.PARTITIONS) if tenant is None else (keys.partition(tenant),)
        await self._prove(partitions)
        waiting = self._readings(step, range(start_s, end_s, step.seconds), partitions)
        under_way: list[_Reading] = []
        while True:
            while len(under_way) < AT_ONCE and (reading := await anext(waiting, None)) is not None:
                under_way.append(reading)
            if not under_way:
                break
            for rows in await together(partial(self._piece, step), under_way, AT_ONCE):
                for row in rows:
                    yield row
            under_way = [one for one in under_way if one.cursor != 0]
        await self._prove(partitions)

    async def _prove(self, partitions: Sequence[int]) -> None:
        """That the store is still what it was. Raises: StoreFault."""
        await together(partial(self._store.read, "usage"), partitions, AT_ONCE)

    async def _readings(self, step: Step, stretches: range, partitions: Sequence[int]) -> AsyncIterator[_Reading]:
        """Of the hours or days of partitions in which there is something: most have nothing."""
        asked = ((at, some) for some in _pieces(stretches, STRETCHES) for at in partitions)
        while some := list(islice(asked, AT_ONCE)):
            found = await together(partial(self._exist, step), some, AT_ONCE)
            for (at, times), any_is_there in zip(some, found, strict=True):
                for at_s in times if any_is_there else ():
                    yield _Reading(at, at_s)

    async def _exist(self, step: Step, asked: tuple[int, range]) -> bool:
        partition, times = asked
        names = [keys.stretch(partition, step, at_s) for at_s in times]
        return bool(await self._store.call("usage", "EXISTS", *names))

    async def _piece(self, step: Step, reading: _Reading) -> list[Row]:
        name = keys.stretch(reading.partition, step, reading.at_s)
        cursor, found = await self._store.call("usage", "HSCAN", name, reading.cursor, "COUNT", PIECE)
        reading.cursor = int(cursor)
        fresh = [(told, stored) for told, stored in pairs(found) if told not in reading.seen]
        reading.seen.update(told for told, _ in fresh)
        return [_row(reading.at_s, told, stored) for told, stored in fresh]


def _place(owner: Owner) -> tuple[str, Sequence[int]]:
    """The name under which *owner* is counted, and where."""
    if owner.key_id:
        return keys.of_key(owner.key_id), (keys.partition(tenant_of(owner.workspace, owner.subject)),)
    if owner.workspace:
        name = keys.of_workspace(owner.workspace)
        if owner.subject:
            name = keys.of_subject_within(owner.workspace, owner.subject)
        return name, (keys.partition(tenant_of(owner.workspace, owner.subject)),)
    return keys.of_subject(owner.subject) if owner.subject else keys.EVERYTHING, range(keys.PARTITIONS)


def _pieces(stretches: range, size: int) -> Iterator[range]:
    for start in range(0, len(stretches), size):
        yield stretches[start : start + size]


def _row(at_s: int, told: bytes, stored: bytes) -> Row:
    """Raises: StoreFault."""
    try:
        workspace, subject, key_id, model = _text(told).split("\0", 3)
    except ValueError as exc:
        raise _damaged() from exc
    return Row(at_s, workspace, subject, key_id, model, _counted(stored))


def _text(stored: bytes) -> str:
    try:
        return stored.decode()
    except UnicodeDecodeError as exc:
        raise _damaged() from exc


def _counted(stored: bytes) -> Counts:
    try:
        return unpack_counts(stored)
    except (ValueError, OverflowError, struct.error) as exc:
        raise _damaged() from exc


def _damaged() -> StoreFault:
    return StoreFault("usage in the store cannot be read", trustworthy=False)
