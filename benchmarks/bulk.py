"""
Keys by the hundred thousand: what `keys create` leaves in a store, by the product's own names and codecs, without its
calls. The events that tell of their making are left out: of these a store holds a thousand a partition.
"""

import asyncio
import random
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Final

from redis.asyncio import Redis

from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.logs.silent import Silent
from authz.adapters.redis import keys, recordcodec
from authz.adapters.redis.opaque import encode_owner
from authz.app import PATIENCE_S, SystemClock, keyring, open_store
from authz.core.keyformat import record_id
from authz.core.keyrecord import KeyRecord, Rotation, tenant_of
from authz.ports import NewToken
from authz.settings import Configuration


AT_A_TIME: Final = 500
SCOPES: Final = ("read-only",)
REASON: Final = "benchmark"


@dataclass(frozen=True, slots=True)
class Bulk:
    """
    JWT keys for the store and with the secrets of *configuration*, each of a subject of its own. *first*: the number of
    the first; numbers must not meet.
    """

    configuration: Configuration
    first: int = 0
    issued_us: int = field(default_factory=lambda: round(SystemClock().now_s()) * 1_000_000)

    def fill(self, count: int, *, revoked: bool = False) -> None:
        """Puts *count* keys into the store."""
        asyncio.run(self._fill(count, revoked=revoked))

    async def _fill(self, count: int, *, revoked: bool) -> None:
        settings = self.configuration.settings
        async with open_store(settings, Silent(), timeout_s=PATIENCE_S) as store:
            await store.initialise()
        numbers = iter(range(count))
        async with Redis.from_url(settings.store.url) as client:
            while some := [self._record(number) for number in islice(numbers, AT_A_TIME)]:
                await put(client, some, revoked=revoked)

    def tokens(self, numbers: Iterable[int]) -> list[str]:
        keys_of = self.configuration.settings.keys
        signer = JwtSigner(keyring(self.configuration), keys_of.audience)
        return [keys_of.prefix + signer.sign(_claims(self._record(number))) for number in numbers]

    def filled(self, count: int) -> list[str]:
        """*count* keys in the store; their tokens, in no order."""
        self.fill(count)
        return self.tokens(random.sample(range(count), count))

    def _record(self, number: int) -> KeyRecord:
        number += self.first
        subject, prefix = f"user-{number}", self.configuration.settings.keys.prefix
        draft = KeyRecord("", "benchmark", "jwt", prefix, subject, "", SCOPES, created_at_us=self.issued_us)
        return numbered(draft, number)


def numbered(record: KeyRecord, number: int, digest: str = "") -> KeyRecord:
    """*record* with the id, the display prefix and, if it is opaque, the token of this number."""
    at = keys.partition(tenant_of(record.workspace, record.subject))
    key_id = record_id("key", f"{number:08x}", at, f"{number:010d}")
    rotations = (Rotation(0, record.created_at_us, digest=digest),) if digest else ()
    return replace(record, id=key_id, prefix=f"{record.prefix}{number:08x}", rotations=rotations)


async def put(client: Redis, records: list[KeyRecord], *, revoked: bool = False) -> None:
    """One server; a cluster takes no MSET across its slots."""
    values: list[str | bytes] = []
    listed: dict[int, list[str]] = {}
    for record in records:
        at, us = keys.partition(tenant_of(record.workspace, record.subject)), record.created_at_us
        values += (keys.name(at, "r", record.id), struct.pack("<d", us) + recordcodec.encode(record))
        values += (keys.name(at, "v", record.id), "-2" if revoked else "1", keys.prefix(record.prefix[-8:]), record.id)
        if revoked:
            values += (keys.name(at, "t", record.id), f"{us} {REASON}")
        if digest := record.current.digest:
            owner = encode_owner(record.id, record.subject, record.workspace)
            values += (keys.digest(digest)[1], owner)
        listed.setdefault(at, []).extend((str(us), record.id))
    pipeline = client.pipeline(transaction=False)
    pipeline.execute_command("MSET", *values)
    for at, members in listed.items():
        pipeline.execute_command("ZADD", keys.name(at, "k"), *members)
    await pipeline.execute()


def _claims(record: KeyRecord) -> NewToken:
    return NewToken(
        jti=record.id,
        subject=record.subject,
        workspace=record.workspace,
        scopes=record.scopes,
        issued_at_s=record.created_at_us // 1_000_000,
        expires_at_s=None,
    )
