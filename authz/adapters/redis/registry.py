"""The records of keys for those who manage them: each change is one script, nothing is remembered."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Final

from authz.adapters.redis import keys, recordcodec
from authz.adapters.redis.client import Store, not_ours
from authz.adapters.redis.scripts import ISSUE, REVOKE, REVOKE_BULK, Script
from authz.core.keyformat import partition_of
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.ports import KeyDraft, PrefixTakenError, StoreFault


PAGE: Final = 500  # records read by one command


class RedisKeyRegistry:
    """The first key created marks the store as ours (`Store.initialise`)."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def partition(self, tenant: str) -> int:
        return keys.partition(tenant)

    async def now_us(self) -> int:
        return await self._store.now_us()

    async def create(self, draft: KeyDraft) -> KeyRecord:
        """Raises: PrefixTakenError; StoreFault."""
        record = draft.record
        await self._store.initialise()
        hex8 = record.prefix[-8:]
        if not await self._store.call("reserve", "SET", keys.prefix(hex8), record.id, "NX"):
            raise PrefixTakenError
        if draft.lifetime_s is not None:
            record = replace(record, expires_at_us=await self.now_us() + draft.lifetime_s * 1_000_000)
        at = keys.partition(tenant_of(record.workspace, record.subject))
        names = [
            keys.name(at, "m"),
            keys.name(at, "i"),
            keys.name(at, "v", record.id),
            keys.name(at, "x", record.subject),
            keys.name(at, "w", record.workspace),
            keys.name(at, "r", record.id),
            keys.name(at, "k"),
        ]
        issued_us = await self._run(ISSUE, names, recordcodec.encode(record), record.id)
        return replace(record, created_at_us=int(issued_us), version=1)

    async def read(self, key: str) -> KeyRecord | None:
        await self._store.identity()
        at = partition_of(key)
        if at is None:
            return await self._by_prefix(key)
        found = await self._read(at, [key.encode()]) if at < keys.PARTITIONS else []
        return found[0] if found else None

    async def _by_prefix(self, display: str) -> KeyRecord | None:
        found = await self._store.call("reserve", "GET", keys.prefix(display[-8:]))
        key_id = found.decode("utf-8", "replace") if found else ""
        record = await self.read(key_id) if partition_of(key_id) is not None else None
        return record if record and record.prefix == display else None

    async def all(self) -> Sequence[KeyRecord]:
        await self._store.identity()
        found: list[KeyRecord] = []
        for at in range(keys.PARTITIONS):
            ids = await self._store.call("list", "ZRANGE", keys.name(at, "k"), 0, -1)
            for start in range(0, len(ids), PAGE):
                found += await self._read(at, ids[start : start + PAGE])
        return sorted(found, key=lambda record: record.created_at_us, reverse=True)

    async def _read(self, at: int, ids: Sequence[bytes]) -> list[KeyRecord]:
        names = [keys.name(at, kind, key_id.decode()) for key_id in ids for kind in "rvt"]
        values = await self._store.call("list", "MGET", *names)
        stored = zip(values[::3], values[1::3], values[2::3], strict=True)
        records = [recordcodec.decode(record, version, revoked) for record, version, revoked in stored if record]
        return await self._with_bulk(at, records)

    async def _with_bulk(self, at: int, records: list[KeyRecord]) -> list[KeyRecord]:
        """A key that a bulk revocation reached is shown as revoked when that was."""
        if not records:
            return records
        names = [
            name
            for record in records
            for name in (keys.name(at, "x", record.subject), keys.name(at, "w", record.workspace))
        ]
        try:
            upto = [int(value or 0) for value in await self._store.call("list", "MGET", *names)]
        except ValueError as exc:
            raise StoreFault("a bulk revocation in the store cannot be read") from exc
        return [
            _revoked_in_bulk(record, max(pair))
            for record, pair in zip(records, zip(upto[::2], upto[1::2], strict=True), strict=True)
        ]

    async def revoke(self, key_id: str, reason: str) -> None:
        at = partition_of(key_id)
        partitions: Iterable[int] = range(keys.PARTITIONS) if at is None else (at,)  # a foreign `jti` may be anyone's
        for partition in partitions:
            names = [keys.name(partition, "m"), keys.name(partition, "v", key_id), keys.name(partition, "t", key_id)]
            await self._run(REVOKE, names, reason)

    async def revoke_subject(self, subject: str) -> None:
        for partition in range(keys.PARTITIONS):
            await self._revoke_bulk(partition, "x", subject)

    async def revoke_workspace(self, workspace: str) -> None:
        await self._revoke_bulk(keys.partition(tenant_of(workspace, "")), "w", workspace)

    async def _revoke_bulk(self, at: int, kind: str, who: str) -> None:
        await self._run(REVOKE_BULK, [keys.name(at, "m"), keys.name(at, "i"), keys.name(at, kind, who)])

    async def _run(self, script: Script, names: Sequence[str], *args: str | bytes) -> bytes:
        try:
            reply: bytes = await self._store.run(script, names, await self._store.identity(), *args)
        except StoreFault as fault:
            if "NOTOURS" in str(fault):
                raise not_ours() from fault
            raise
        return reply


def _revoked_in_bulk(record: KeyRecord, upto_us: int) -> KeyRecord:
    if record.revoked_at_us is not None or record.created_at_us > upto_us:
        return record
    return replace(record, revoked_at_us=upto_us, revoked_reason="revoked in bulk")
