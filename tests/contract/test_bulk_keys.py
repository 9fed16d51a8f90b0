"""The benchmarks put keys into a store by the hundred thousand: as `keys create` leaves them."""

import re
from dataclasses import replace

import redis
from redis.asyncio import Redis

from authz.admin.keys import NewKey
from authz.core.keyrecord import KeyRecord
from benchmarks.bulk import numbered, put
from tests.support.parts import parts


async def test_a_key_put_in_bulk_is_a_key_that_was_created(valkey_url: str) -> None:
    async with parts(valkey_url) as made, Redis.from_url(valkey_url) as client:
        created = (await made.create(NewKey("benchmark", subject="alice", scopes=("read-only",)))).record
        draft = KeyRecord("", "benchmark", "jwt", "sk-live-", "bob", "", ("read-only",), created_at_us=10**15)
        record = numbered(draft, 7)
        await put(client, [record])

        shown = await made.show(record.prefix)
        listed = {each.id for each in await made.list()}

    assert shown == replace(record, version=1)
    assert listed == {created.id, record.id}
    assert names_of(valkey_url, created) == names_of(valkey_url, record) != set()


async def test_and_one_that_is_revoked_is_dead(valkey_url: str) -> None:
    async with parts(valkey_url) as made, Redis.from_url(valkey_url) as client:
        await made.create(NewKey("the first"))
        draft = KeyRecord("", "benchmark", "jwt", "sk-live-", "bob", "", created_at_us=10**15)
        record = numbered(draft, 7)
        await put(client, [record], revoked=True)

        shown = await made.show(record.id)

    assert shown.revoked_at_us == 10**15
    assert shown.version < 0


def names_of(url: str, record: KeyRecord) -> set[str]:
    """What is in the store of this key alone, with a letter or word for its kind."""
    with redis.Redis.from_url(url) as client:
        names = [name.decode() for name in client.keys("*")]
    own = [name for name in names if name.endswith((f":{record.id}", f":{record.prefix[-8:]}"))]
    return {re.sub(r"\{\d+\}", "{P}", name).rpartition(":")[0] for name in own}
