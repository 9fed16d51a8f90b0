"""
What it costs to find an opaque key that was never seen before, with a thousand and with a million keys in the store.

Two stores stand side by side; look-ups alternate between them in one run, so that the machine's noise hits both. A
look-up is what a first check does: the token's digest, whose it is, its record. The ratio is the large store's median
over the small one's: 1.0 means that the number of keys does not matter.
"""

import argparse
import asyncio
import random
import statistics
import time

from redis.asyncio import Redis

from authz.adapters.logs.silent import Silent
from authz.adapters.redis import keys
from authz.adapters.redis.client import Store, connect
from authz.adapters.redis.opaque import RedisOpaqueTokens
from authz.adapters.redis.records import CachedRecords
from authz.app import SystemClock
from authz.core.keyformat import BASE62, SECRET_CHARS, opaque_token
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.pepper import Peppers
from benchmarks.bulk import AT_A_TIME, numbered, put
from benchmarks.parts import Parts


PEPPERS = Peppers((b"a pepper for the benchmark: 32 bytes",))
SUBJECTS = 1000
PREFIX = "sk-live-"


async def fill(url: str, count: int, sample: int) -> list[str]:
    """*count* keys, as `keys create` leaves them; the tokens of *sample* of them."""
    tokens, step = [], max(1, count // sample)
    async with Redis.from_url(url) as client:
        await client.hset(keys.STORE, mapping={"id": "bench", "partitions": keys.PARTITIONS, "state": "ready"})
        for partition in range(keys.PARTITIONS):
            await client.set(keys.name(partition, "m"), "bench")
        for start in range(0, count, AT_A_TIME):
            records = []
            for number in range(start, min(count, start + AT_A_TIME)):
                token = opaque_token(PREFIX, "".join(random.choices(BASE62, k=SECRET_CHARS)))
                draft = KeyRecord("", "bench", "opaque", PREFIX, f"user-{number % SUBJECTS}", "", ("read-only",))
                records.append(numbered(draft, number, PEPPERS.digests(token)[0]))
                if number % step == 0:
                    tokens.append(token)
            await put(client, records)
    random.shuffle(tokens)
    return tokens[:sample]


async def look_up(store: Store, token: str) -> float:
    """Seconds; with memories that have never seen the token."""
    opaque, records = RedisOpaqueTokens(store, PEPPERS), CachedRecords(store)
    start_s = time.perf_counter()
    claims = await opaque.find(token)
    assert claims is not None
    record = await records.find(tenant_of("", claims.subject), claims.record_id)
    taken_s = time.perf_counter() - start_s
    assert record is not None
    assert record.issued(0, claims.digest) is not None
    return taken_s


async def main(small: int, large: int, sample: int) -> None:
    clock, taken = SystemClock(), dict[int, list[float]]({small: [], large: []})
    with Parts() as parts:
        stores, tokens = {}, {}
        for count in (small, large):
            start_s, url = time.perf_counter(), parts.valkey().url
            tokens[count] = await fill(url, count, sample)
            stores[count] = Store(connect(url), timeout_s=5, is_cluster=False, clock=clock, observer=Silent())
            print(f"{count:>9,} keys put in, {time.perf_counter() - start_s:.0f} s", flush=True)
        for place in range(sample):
            for count in (small, large):
                taken[count].append(await look_up(stores[count], tokens[count][place % len(tokens[count])]))
        for store in stores.values():
            await store.close()
    for count, seconds in taken.items():
        seconds.sort()
        p99 = seconds[int(len(seconds) * 0.99)]
        print(
            f"{count:>9,} keys: a first look-up takes {statistics.median(seconds) * 1e6:.0f} µs (p99 {p99 * 1e6:.0f})"
        )
    print(f"ratio {statistics.median(taken[large]) / statistics.median(taken[small]):.2f}")


if __name__ == "__main__":
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--small", type=int, default=1_000)
    options.add_argument("--large", type=int, default=1_000_000)
    options.add_argument("--sample", type=int, default=5_000)
    chosen = options.parse_args()
    asyncio.run(main(chosen.small, chosen.large, chosen.sample))
