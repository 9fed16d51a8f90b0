"""Users: records found by name, in lists of their own, with a password beside them."""

from collections.abc import Sequence

from authz.adapters.redis import keys
from authz.adapters.redis.registry import Registry
from authz.adapters.redis.scripts import TAKE
from authz.core.event import Event
from authz.core.keyformat import partition_of
from authz.core.keyrecord import KeyRecord
from authz.ports import BeingRemovedError, ChangedError, NameTakenError


class RedisUserRegistry(Registry):
    """
    A name is reserved first; while its record is not there yet, or was removed, nobody has it. The reservation of a
    removed user stays until somebody takes the name again: to delete it could hit that somebody's. Until the
    removal is finished nobody does: it is found by the name.
    """

    async def create(self, record: KeyRecord, password_hash: str, event: Event) -> KeyRecord:
        """Raises: NameTakenError; BeingRemovedError; RevokedError — who makes it is; StoreFault."""
        await self._store.initialise()
        _, name = keys.user(record.name)
        try:
            if not await self._store.call("user", "SET", name, record.id, "NX"):
                await self._take_over(record)
            return await self._records.issue(record, "n", event, password_hash)
        except ChangedError as exc:  # it is there: made by a try whose answer was lost; or somebody else took the name
            made = await self.find(record.name)
            if made is None or made[0].id != record.id:
                raise NameTakenError from exc
            return made[0]

    async def _take_over(self, record: KeyRecord) -> None:
        """
        A name whose holder was removed, or is not there yet: whoever is putting it in at this moment is kept from it.

        Raises: NameTakenError; BeingRemovedError; ChangedError — somebody else was faster.
        """
        if await self.find(record.name) is not None:
            raise NameTakenError
        at, name = keys.user(record.name)
        holder = (await self._store.call("user", "GET", name) or b"").decode()
        at_home = partition_of(holder)
        if at_home is not None:  # its `issue` will find that there is a version, and give up
            await self._store.call("user", "SET", keys.name(at_home, "v", holder), "-1", "NX")
        if await self.find(record.name) is not None:
            raise NameTakenError
        if await self.find_unfinished(record.name) is not None:  # asked last: no removal begins behind this
            raise BeingRemovedError
        await self._records.run(TAKE, [keys.name(at, "m"), name], holder, record.id)

    async def find(self, name: str) -> tuple[KeyRecord, str] | None:
        record = await self._last(name)
        at = partition_of(record.id) if record else None
        if record is None or at is None:
            return None
        password_hash = await self._store.call("user", "GET", keys.name(at, "p", record.id))
        if record.version < 0 or password_hash is None:
            return None
        return record, password_hash.decode("utf-8", "replace")

    async def find_unfinished(self, name: str) -> KeyRecord | None:
        record = await self._last(name)
        is_removed = record is not None and record.version < 0
        return record if record and is_removed and await self._records.is_removal_under_way(record) else None

    async def _last(self, name: str) -> KeyRecord | None:
        """Who has the name, or had it last."""
        (held_by,) = await self._store.read("user", *keys.user(name))
        user_id = held_by.decode() if held_by else ""
        at = partition_of(user_id)
        records = [] if at is None else await self._records.read_all(at, [user_id])
        return records[0] if records and records[0].name == name else None

    async def set_password(self, changed: KeyRecord, password_hash: str, event: Event) -> KeyRecord:
        """Raises: ChangedError; RevokedError; StoreFault."""
        return await self._records.replace(changed, event, password_hash)

    async def all(self) -> Sequence[KeyRecord]:
        await self._store.identity()
        found: list[KeyRecord] = []
        for at in range(keys.PARTITIONS):
            ids = await self._store.call("list", "ZRANGE", keys.name(at, "n"), 0, -1)
            found += await self._records.read_all(at, [user_id.decode() for user_id in ids])
        return sorted((one for one in found if one.version > 0), key=lambda one: one.name)

    async def remove(self, record: KeyRecord, event: Event) -> KeyRecord:
        return await self._records.begin_removal(record, "removed", event)

    async def finish_removal(self, user: KeyRecord, event: Event | None) -> None:
        await self._records.finish_removal(user, event)
