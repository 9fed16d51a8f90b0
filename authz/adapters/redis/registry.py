"""The records of keys for those who manage them: each change is one script, nothing is remembered."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, Final

from authz.adapters.redis import keys, recordcodec
from authz.adapters.redis.client import Store, not_ours
from authz.adapters.redis.listing import Cursor, Entry, newest
from authz.adapters.redis.opaque import encode_owner
from authz.adapters.redis.scripts import CHANGE, FINISH, ISSUE, NOTE, RETAIN, REVOKE, REVOKE_BULK, Script
from authz.core.event import Event
from authz.core.keyformat import partition_of
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.listing import Filter
from authz.ports import (
    BadPageTokenError,
    BeingRemovedError,
    ChangedError,
    EventPage,
    KeyDraft,
    KeyPage,
    PrefixTakenError,
    RevokedError,
    StoreFault,
)


SCAN: Final = 5_000  # records looked at for one page
READ: Final = 500  # records read in one go
UNBOUND_MS: Final = 3_600_000  # for how long a digest or a display prefix stays that did not come to use
_MEMBERS: Final = ("actor", "action", "target", "workspace", "before", "after", "request_id")
OUTLIVED_MS: Final = 30 * 86_400_000  # for how long a dead opaque token is still told from one that never was


class Records:
    """What the registries of keys and of users share: scripts, and records read with all that belongs to them."""

    def __init__(self, store: Store) -> None:
        self.store = store

    async def run(self, script: Script, names: Sequence[str], *args: str | bytes) -> bytes:
        """What the script returns behind OK. Raises: ChangedError; RevokedError; BeingRemovedError; StoreFault."""
        status, *told = await self.store.run(script, names, await self.store.identity(), *args)
        match status:
            case b"OK":
                return told[0] if told else b""
            case b"NOTOURS":
                raise not_ours()
            case b"REVOKED":
                raise RevokedError
            case b"REMOVAL":
                raise BeingRemovedError
            case _:
                raise ChangedError

    async def issue(self, record: KeyRecord, kind: str, event: Event, password: str | None = None) -> KeyRecord:
        """
        *kind*: of the list that it goes into.

        Raises: ChangedError; RevokedError — who makes it is; BeingRemovedError; StoreFault.
        """
        at = _home(record)
        maker = event.actor if partition_of(event.actor) == at else record.id
        names = [
            keys.name(at, "m"),
            keys.name(at, "i"),
            keys.name(at, "v", record.id),
            keys.name(at, "a"),
            *_bulk(at, record),
            keys.name(at, "r", record.id),
            keys.name(at, kind),
            keys.name(at, "z"),
            keys.name(at, "v", maker),
            _removal(at, record),
        ]
        args: list[str | bytes] = [recordcodec.encode(record), record.id, encode_event(event)]
        if password is not None:
            names.append(keys.name(at, "p", record.id))
            args.append(password)
        issued_us = int(await self.run(ISSUE, names, *args))
        rotations = tuple(replace(one, issued_at_us=one.issued_at_us or issued_us) for one in record.rotations)
        return replace(record, created_at_us=issued_us, version=1, rotations=rotations)

    async def replace(self, changed: KeyRecord, event: Event, password: str | None = None) -> KeyRecord:
        """*changed*: of the version that was read. Raises: ChangedError; RevokedError; StoreFault."""
        at = _home(changed)
        names = [
            keys.name(at, "m"),
            keys.name(at, "v", changed.id),
            keys.name(at, "a"),
            *_bulk(at, changed),
            keys.name(at, "r", changed.id),
            keys.name(at, "z"),
        ]
        args: list[str | bytes] = [str(changed.version), recordcodec.encode(changed), encode_event(event)]
        if password is not None:
            names.append(keys.name(at, "p", changed.id))
            args.append(password)
        return replace(changed, version=int(await self.run(CHANGE, names, *args)))

    async def end(self, record_id: str, reason: str, event: Event) -> None:
        """Revoke a key."""
        own = partition_of(record_id)
        partitions: Iterable[int] = range(keys.PARTITIONS) if own is None else (own,)  # a foreign `jti` may be anyone's
        told = encode_event(event)
        for at in partitions:
            await self.run(REVOKE, _ended(at, record_id, "e"), reason, told)
            told = b""

    async def begin_removal(self, user: KeyRecord, reason: str, event: Event) -> KeyRecord:
        """*user*, as it is then. Raises: StoreFault."""
        at = _home(user)
        names = [*_ended(at, user.id, "p"), _removal(at, user)]
        await self.run(REVOKE, names, reason, encode_event(event), user.id, "begin")
        removed = await self.read_all(at, [user.id])
        if not removed:
            raise StoreFault("a user is there and has no record: the store was damaged", trustworthy=False)
        return removed[0]

    async def end_within_removal(self, key_id: str, reason: str, user: KeyRecord) -> None:
        """Revoke a key of *user*. Raises: ChangedError — the removal is over; StoreFault."""
        at = _home(user)
        await self.run(REVOKE, [*_ended(at, key_id, "e"), _removal(at, user)], reason, b"", user.id, "")

    async def is_removal_under_way(self, user: KeyRecord) -> bool:
        at = _home(user)
        (removed,) = await self.store.read("user", at, _removal(at, user))
        return removed == user.id.encode()

    async def finish_removal(self, user: KeyRecord, event: Event | None) -> None:
        at = _home(user)
        names = [keys.name(at, "m"), _removal(at, user), keys.name(at, "n"), keys.name(at, "z")]
        await self.run(FINISH, names, user.id, encode_event(event) if event else b"")

    async def read_all(self, at: int, ids: Sequence[str]) -> list[KeyRecord]:
        """Those of *ids* that are there, of one partition, in their order."""
        if not ids:
            return []
        names = [keys.name(at, kind, record_id) for record_id in ids for kind in "rvtl"]
        values = await self.store.call("list", "MGET", *names)
        stored = zip(values[::4], values[1::4], values[2::4], values[3::4], strict=True)
        return [recordcodec.decode(one, *others) for one, *others in stored if one]

    async def with_bulk(self, at: int, records: list[KeyRecord]) -> list[KeyRecord]:
        """A key that a bulk revocation reached is shown as revoked when that was."""
        if not records:
            return records
        names = [keys.name(at, "a"), *(name for record in records for name in _bulk(at, record))]
        try:
            everything, *upto = [int(value or 0) for value in await self.store.call("list", "MGET", *names)]
        except ValueError as exc:
            raise StoreFault("a bulk revocation in the store cannot be read") from exc
        each = zip(upto[::3], upto[1::3], upto[2::3], strict=True)
        return [_revoked_in_bulk(one, max(everything, *its)) for one, its in zip(records, each, strict=True)]


class Registry:
    """What a registry of keys and one of users tell alike."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._records = Records(store)

    partitions = keys.PARTITIONS

    def partition(self, tenant: str) -> int:
        return keys.partition(tenant)

    async def now_us(self) -> int:
        return await self._store.now_us()


class RedisKeyRegistry(Registry):
    """The first key created marks the store as ours (`Store.initialise`)."""

    async def create(self, draft: KeyDraft, event: Event) -> tuple[KeyRecord, bool]:
        """Raises: PrefixTakenError; RevokedError — who makes it is; BeingRemovedError; StoreFault."""
        record = draft.record
        await self._store.initialise()
        name = keys.prefix(record.prefix[-8:])
        is_new = await self._store.call("reserve", "SET", name, record.id, "NX")
        if not is_new and await self._store.call("reserve", "GET", name) != record.id.encode():
            raise PrefixTakenError
        if draft.lifetime_s is not None:
            record = replace(record, expires_at_us=await self.now_us() + draft.lifetime_s * 1_000_000)
        await self._bind(record)
        try:
            made = await self._issued(record, event)
        except (RevokedError, BeingRemovedError):
            await self._unbind(record, name)
            raise
        if not is_new:  # an earlier try may have been refused, and has let go of it
            await self._keep(name, *_digest_name(record))
        return made

    async def _issued(self, record: KeyRecord, event: Event) -> tuple[KeyRecord, bool]:
        try:
            return await self._records.issue(record, "k", event), True
        except ChangedError:  # it is there: made by an earlier try whose answer was lost
            made = await self.read(record.id)
            if made is None:
                raise StoreFault("a key is there and has no record: the store was damaged", trustworthy=False) from None
            return made, False

    async def _bind(self, record: KeyRecord) -> None:
        """Make the current token findable; until the record names its digest too, it is good for nothing."""
        for name in _digest_name(record):
            owner = encode_owner(record.id, record.subject, record.workspace)
            await self._store.call("reserve", "SET", name, owner, "NX")

    async def change(self, changed: KeyRecord, event: Event) -> KeyRecord:
        """Raises: ChangedError; RevokedError; StoreFault."""
        return await self._records.replace(changed, event)

    async def rotate(self, record: KeyRecord, changed: KeyRecord, event: Event) -> KeyRecord:
        """*changed* has the new rotation. Raises: ChangedError; RevokedError; StoreFault."""
        await self._bind(changed)
        try:
            rotated = await self._records.replace(changed, event)
        except (ChangedError, RevokedError):
            await self._unbind(changed)
            raise
        await self._keep(*_digest_name(rotated))
        ends = {one.digest: one.ends_at_us for one in rotated.rotations}
        for one in record.rotations:
            if one.digest:
                ends_us = ends.get(one.digest) or rotated.current.issued_at_us
                name = keys.digest(one.digest)[1]
                await self._store.call("reserve", "PEXPIREAT", name, ends_us // 1000 + OUTLIVED_MS)
        return rotated

    async def _unbind(self, drafted: KeyRecord, *names: str) -> None:
        """
        Let a digest go that no record names, and *names*, after a while. Another try with the same draw may have put it
        into the record, before or after this: so that is looked at last, and whoever succeeds makes it stay.
        """
        digest_name = _digest_name(drafted)
        if not (names or digest_name):
            return
        for name in (*names, *digest_name):
            await self._store.call("reserve", "PEXPIRE", name, UNBOUND_MS)
        standing = await self.read(drafted.id)
        if standing is not None:
            is_named = any(one.digest == drafted.current.digest for one in standing.rotations)
            await self._keep(*names, *(digest_name if is_named else ()))

    async def _keep(self, *names: str) -> None:
        """What a try that failed may have let go stays."""
        for name in names:
            await self._store.call("reserve", "PERSIST", name)

    async def read(self, key: str) -> KeyRecord | None:
        await self._store.identity()
        at = partition_of(key)
        if at is None:
            return await self._by_prefix(key)
        if at >= keys.PARTITIONS or not key.startswith("key_"):
            return None
        found = await self._records.with_bulk(at, await self._records.read_all(at, [key]))
        return found[0] if found else None

    async def _by_prefix(self, display: str) -> KeyRecord | None:
        found = await self._store.call("reserve", "GET", keys.prefix(display[-8:]))
        key_id = found.decode("utf-8", "replace") if found else ""
        record = await self.read(key_id) if partition_of(key_id) is not None else None
        return record if record and record.prefix == display else None

    async def page(self, wanted: Filter, size: int, token: str = "") -> KeyPage:
        """Raises: BadPageTokenError; StoreFault."""
        await self._store.identity()
        question = f"keys {sorted(wanted.equal.items())} {wanted.name_prefix!r}"
        now_us = await self.now_us()
        found: list[KeyRecord] = []
        batch: list[Entry] = []
        scanned = 0
        async for entry in newest(self._read_ids, _partitions(wanted), _cursor(token, question)):
            batch.append(entry)
            scanned += 1
            if len(batch) < min(READ, max(size, scanned // 2)) and scanned < SCAN:
                continue  # the rarer what is wanted, the more is read at a time
            matching = await self._matching(batch, wanted, now_us)
            batch = []
            for place, record in matching:
                found.append(record)
                if len(found) == size:
                    return KeyPage(found, Cursor.behind(place).token(question), now_us)
            if scanned >= SCAN:
                return KeyPage(found, Cursor.behind(entry).token(question), now_us)
        rest = await self._matching(batch, wanted, now_us)
        room = size - len(found)
        found += [record for _, record in rest[:room]]
        return KeyPage(found, Cursor.behind(rest[room - 1][0]).token(question) if len(rest) > room else "", now_us)

    async def _read_ids(self, at: int, newest_at: tuple[int, int] | None, count: int) -> list[Entry]:
        highest = "+inf" if newest_at is None else newest_at[0]
        bounds = (highest, "-inf", "BYSCORE", "REV", "LIMIT", 0, count, "WITHSCORES")
        reply: list[Any] = await self._store.call("list", "ZRANGE", keys.name(at, "k"), *bounds)
        flat = [part for pair in reply for part in pair] if reply and isinstance(reply[0], list | tuple) else reply
        return [Entry((int(float(at_us)), 0), key_id, at) for key_id, at_us in zip(flat[::2], flat[1::2], strict=True)]

    async def _matching(self, batch: Sequence[Entry], wanted: Filter, now_us: int) -> list[tuple[Entry, KeyRecord]]:
        """Those of *batch* that are wanted, in its order. Bulk revocations are read of those alone that may be."""
        by_partition: dict[int, list[str]] = {}
        for entry in batch:
            by_partition.setdefault(entry.partition, []).append(entry.id.decode())
        read: dict[str, KeyRecord] = {}
        for at, ids in by_partition.items():
            records = [one for one in await self._records.read_all(at, ids) if wanted.may_match(one)]
            read |= {record.id: record for record in await self._records.with_bulk(at, records)}
        found = ((entry, read.get(entry.id.decode())) for entry in batch)
        return [(entry, record) for entry, record in found if record and wanted.matches_key(record, now_us)]

    async def revoke(self, key_id: str, reason: str, event: Event) -> None:
        await self._records.end(key_id, reason, event)

    async def revoke_within_removal(self, key_id: str, reason: str, user: KeyRecord) -> None:
        """Raises: ChangedError; StoreFault."""
        await self._records.end_within_removal(key_id, reason, user)

    async def revoke_subject(self, subject: str, upto_us: int | None, event: Event) -> None:
        await self._revoke_everywhere("x", subject, upto_us, event)

    async def revoke_everything(self, upto_us: int, event: Event) -> None:
        await self._revoke_everywhere("a", "", upto_us, event)

    async def _revoke_everywhere(self, kind: str, who: str, upto_us: int | None, event: Event) -> None:
        told = encode_event(event)
        for at in range(keys.PARTITIONS):
            await self._revoke_bulk(at, keys.name(at, kind, who), upto_us, told)
            told = b""

    async def revoke_workspace(self, workspace: str, subject: str, upto_us: int | None, event: Event) -> None:
        at = keys.partition(tenant_of(workspace, ""))
        name = keys.within(at, workspace, subject) if subject else keys.name(at, "w", workspace)
        await self._revoke_bulk(at, name, upto_us, encode_event(event))

    async def _revoke_bulk(self, at: int, name: str, upto_us: int | None, told: bytes) -> None:
        names = [keys.name(at, "m"), keys.name(at, "i"), name, keys.name(at, "z")]
        await self._records.run(REVOKE_BULK, names, "" if upto_us is None else str(upto_us), told)

    async def retain(self, record: KeyRecord, sealed: bytes | None) -> None:
        """Raises: ChangedError — *record* is no longer what stands; StoreFault."""
        at = _home(record)
        names = [keys.name(at, kind, record.id) for kind in "ve"]
        await self._records.run(RETAIN, [keys.name(at, "m"), *names], str(record.version), sealed or b"")

    async def retained(self, record: KeyRecord) -> bytes | None:
        at = _home(record)
        found: bytes | None = await self._store.call("retain", "GET", keys.name(at, "e", record.id))
        return found

    async def note(self, event: Event, tenant: str) -> None:
        at = keys.partition(tenant)
        await self._records.run(NOTE, [keys.name(at, "m"), keys.name(at, "z")], encode_event(event))

    async def events(self, wanted: Filter, size: int, token: str = "") -> EventPage:
        """Raises: BadPageTokenError; StoreFault."""
        await self._store.identity()
        question = f"events {sorted(wanted.equal.items())}"
        found: list[Event] = []
        scanned = 0
        async for entry in newest(self._read_events, _partitions(wanted), _cursor(token, question)):
            scanned += 1
            event = _decode_event(entry)
            told = {"workspace": event.workspace, "key_id": event.target, "actor": event.actor, "action": event.action}
            if wanted.matches(told):
                found.append(event)
            if len(found) >= size or scanned >= SCAN:
                return EventPage(found, Cursor.behind(entry).token(question))
        return EventPage(found, "")

    async def _read_events(self, at: int, newest_at: tuple[int, int] | None, count: int) -> list[Entry]:
        highest = "+" if newest_at is None else f"{newest_at[0]}-{newest_at[1]}"
        reply = await self._store.call("list", "XREVRANGE", keys.name(at, "z"), highest, "-", "COUNT", count)
        entries = []
        for stream_id, fields in reply or ():
            ms, _, number = stream_id.decode().partition("-")
            value = fields[b"e"] if isinstance(fields, dict) else fields[1]
            entries.append(Entry((int(ms), int(number)), stream_id, at, value))
        return entries

    async def remember_answer(self, request: str, answer: bytes, seconds: int, *, is_first: bool) -> bytes | None:
        """Keep *answer*; where *is_first* and there is one already, that one, and nothing is changed."""
        name = keys.request(request)
        if not is_first:
            await self._store.call("request", "SET", name, answer, "EX", seconds)
            return None
        if await self._store.call("request", "SET", name, answer, "EX", seconds, "NX"):
            return None
        found: bytes | None = await self._store.call("request", "GET", name)
        return found or b""

    async def forget_answer(self, request: str) -> None:
        await self._store.call("request", "DEL", keys.request(request))


def _home(record: KeyRecord) -> int:
    """Where all of it lies."""
    return keys.partition(tenant_of(record.workspace, record.subject))


def _removal(at: int, record: KeyRecord) -> str:
    """Which keeps *record* from being made; of a user: their own."""
    return keys.removal(at, record.workspace, record.subject)


def _ended(at: int, record_id: str, kind: str) -> list[str]:
    """Where `revoke.lua` looks. *kind*: of what must not stay: `e`, a retained token; `p`, a password."""
    return [
        keys.name(at, "m"),
        *(keys.name(at, one, record_id) for one in "vt"),
        keys.name(at, "z"),
        keys.name(at, kind, record_id),
    ]


def _digest_name(record: KeyRecord) -> list[str]:
    """Under which the current token is found, if it is an opaque one."""
    return [keys.digest(record.current.digest)[1]] if record.current.digest else []


def _bulk(at: int, record: KeyRecord) -> tuple[str, str, str]:
    """The bulk revocations that may reach *record*: of its subject, of its workspace, of the subject in that."""
    within = keys.within(at, record.workspace, record.subject)
    return keys.name(at, "x", record.subject), keys.name(at, "w", record.workspace), within


def _partitions(wanted: Filter) -> Sequence[int]:
    """A workspace's keys, and what was done to them, lie in one; so do a subject's outside the workspaces."""
    workspace, subject = wanted.get("workspace"), wanted.get("subject")
    if workspace == "" and subject:
        return (keys.partition(tenant_of("", subject)),)
    return (keys.partition(tenant_of(workspace, "")),) if workspace else range(keys.PARTITIONS)


def _cursor(token: str, question: str) -> Cursor | None:
    if not token:
        return None
    cursor = Cursor.read(token, question)
    if cursor is None:
        raise BadPageTokenError
    return cursor


def encode_event(event: Event) -> bytes:
    told = {name: getattr(event, name) for name in _MEMBERS}
    return json.dumps(told, ensure_ascii=False, separators=(",", ":"), default=dict).encode()


def _decode_event(entry: Entry) -> Event:
    """`entry.id`, and its partition: two partitions may write at the same moment."""
    try:
        told = json.loads(entry.value)
        known = {name: told[name] for name in _MEMBERS if name in told}  # a later version may tell more
        return Event(**known, id=f"{entry.id.decode()}-{entry.partition}", at_us=entry.at[0] * 1000)
    except (ValueError, TypeError, KeyError) as exc:
        raise StoreFault("an event in the store cannot be read") from exc


def _revoked_in_bulk(record: KeyRecord, upto_us: int) -> KeyRecord:
    if record.revoked_at_us is not None or record.created_at_us > upto_us:
        return record
    return replace(record, revoked_at_us=upto_us, revoked_reason="revoked in bulk")
