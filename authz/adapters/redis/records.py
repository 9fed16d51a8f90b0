"""
Records as the check reads them: remembered without a time limit, as every admission names the version it judged by and
the script refuses an outdated one. So a change counts from the very next check, on every sidecar, with the cache on.
"""

import asyncio
from dataclasses import dataclass
from typing import Final

from authz.adapters.redis import keys, recordcodec
from authz.adapters.redis.client import Store
from authz.core.keyrecord import KeyRecord
from authz.core.recent import Recent
from authz.ports import OverloadFault


CACHE_SIZE: Final = 20_000
MAX_LOADS: Final = 48  # below the connections there are: loading records must leave some to the ledger
MAX_WAITING: Final = 4096


class CachedRecords:
    """
    Reads marker, version and record in one command, so that they belong together. Whoever asks while a key is being
    read shares the reading, but for those who ask for it fresh.
    """

    def __init__(self, store: Store, cache_size: int = CACHE_SIZE) -> None:
        self._store = store
        self._known: Recent[tuple[str, str], _Known] = Recent(cache_size)
        self._loading: dict[tuple[str, str], asyncio.Task[KeyRecord | None]] = {}
        self._loads = 0  # fresh ones included, of which a place may have several
        self._slots = asyncio.Semaphore(MAX_LOADS)

    async def find(self, tenant: str, key_id: str, *, fresh: bool = False) -> KeyRecord | None:
        """Only ids out of verified tokens may be asked for: they are remembered whether there is a record or not."""
        place = (tenant, key_id)
        if not fresh and (known := self._known.get(place)):
            return known.record
        load = None if fresh else self._loading.get(place)
        if load is None:
            if self._loads >= MAX_WAITING:
                raise OverloadFault(f"{MAX_WAITING} records are waiting to be read")
            self._loads += 1
            load = asyncio.create_task(self._load(place))
            self._loading[place] = load
            load.add_done_callback(lambda done: self._loaded(place, done))
        return await asyncio.shield(load)  # a caller that is cancelled must not end the others' load

    def remembered(self, tenant: str, key_id: str) -> KeyRecord | None:
        known = self._known.get((tenant, key_id))
        return known.record if known else None

    def remember(self, tenant: str, record: KeyRecord) -> None:
        self._keep((tenant, record.id), record)

    async def _load(self, place: tuple[str, str]) -> KeyRecord | None:
        tenant, key_id = place
        partition = keys.partition(tenant)
        names = (keys.name(partition, kind, key_id) for kind in "rvt")
        async with self._slots:
            stored, version, revocation = await self._store.read("record", partition, *names)
        return recordcodec.decode(stored, version, revocation) if stored else None

    def _loaded(self, place: tuple[str, str], load: asyncio.Task[KeyRecord | None]) -> None:
        self._loads -= 1
        if self._loading.get(place) is load:
            del self._loading[place]
        if load.cancelled() or load.exception() is not None:
            return
        self._keep(place, load.result())

    def _keep(self, place: tuple[str, str], record: KeyRecord | None) -> None:
        """A read that was under way when the key was revoked or changed must not bring back what it was."""
        known = self._known.get(place)
        if known is None or not _is_later(known.record, record):
            self._known.put(place, _Known(record))


@dataclass(frozen=True, slots=True)
class _Known:
    """`record` None: there is none."""

    record: KeyRecord | None


def _is_later(known: KeyRecord | None, read: KeyRecord | None) -> bool:
    """Versions only rise, and nothing takes a revocation back."""
    if known is None:
        return False
    return known.version < 0 or (read is not None and known.version > abs(read.version))
