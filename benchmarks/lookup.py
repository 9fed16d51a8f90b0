"""
What it costs to find an opaque key that was never seen before, with a thousand and with a million keys in the store.

Two stores stand side by side; look-ups alternate between them in one run, so that the machine's noise hits both. A
look-up is what a first check does: the token's digest, whose it is, its record. The ratio is the large store's median
over the small one's: 1.0 means that the number of keys does not matter.
"""

import argparse
import asyncio
import random
import shutil
import statistics
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from redis.asyncio import Redis

from authz.adapters.logs.silent import Silent
from authz.adapters.redis import keys, recordcodec
from authz.adapters.redis.client import Store, connect
from authz.adapters.redis.embedded import server_binary
from authz.adapters.redis.opaque import RedisOpaqueTokens, encode_owner
from authz.adapters.redis.records import CachedRecords
from authz.app import SystemClock
from authz.core.keyformat import BASE62, SECRET_CHARS, opaque_token, record_id
from authz.core.keyrecord import KeyRecord, Rotation, tenant_of
from authz.core.pepper import Peppers


PEPPERS = Peppers((b"a pepper for the benchmark: 32 bytes",))
SUBJECTS = 1000
PIPELINE = 2000


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """A Valkey of our own on a Unix socket, nothing written to disk."""
    socket = folder / "valkey.sock"
    command = [str(server_binary()), "--port", "0", "--unixsocket", str(socket), "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not socket.exists():
            time.sleep(0.02)
        yield f"unix://{socket}"
    finally:
        process.kill()
        process.wait()


async def fill(url: str, count: int, sample: int) -> list[str]:
    """*count* keys, as `keys create` leaves them to the look-up; the tokens of *sample* of them."""
    tokens = []
    async with Redis.from_url(url) as client:
        await client.hset(keys.STORE, mapping={"id": "bench", "partitions": keys.PARTITIONS, "state": "ready"})
        for partition in range(keys.PARTITIONS):
            await client.set(keys.name(partition, "m"), "bench")
        step = max(1, count // sample)
        pipeline = client.pipeline(transaction=False)
        for number in range(count):
            token = opaque_token("sk-live-", "".join(random.choices(BASE62, k=SECRET_CHARS)))
            put(pipeline, number, PEPPERS.digests(token)[0])
            if number % step == 0:
                tokens.append(token)
            if number % PIPELINE == PIPELINE - 1:
                await pipeline.execute()
        await pipeline.execute()
    random.shuffle(tokens)
    return tokens[:sample]


def put(pipeline: object, number: int, digest: str) -> None:
    subject = f"user-{number % SUBJECTS}"
    at = keys.partition(tenant_of("", subject))
    key_id = record_id("key", f"{number:08x}", at, f"{number:010d}")
    prefix, rotations = f"sk-live-{number:08x}", (Rotation(0, 1, digest=digest),)
    record = KeyRecord(key_id, "bench", "opaque", prefix, subject, "", ("read-only",), rotations=rotations)
    pipeline.set(keys.digest(digest)[1], encode_owner(key_id, subject, ""))
    pipeline.set(keys.name(at, "r", key_id), struct.pack("<d", 1e15) + recordcodec.encode(record))
    pipeline.set(keys.name(at, "v", key_id), "1")


async def look_up(store: Store, token: str) -> float:
    """Seconds; with memories that have never seen the token."""
    opaque, records = RedisOpaqueTokens(store, PEPPERS), CachedRecords(store)
    start_s = time.perf_counter()
    claims = await opaque.find(token)
    record = await records.find(tenant_of("", claims.subject), claims.record_id)
    taken_s = time.perf_counter() - start_s
    assert record.issued(0, claims.digest) is not None
    return taken_s


async def main(small: int, large: int, sample: int) -> None:
    folders = [Path(tempfile.mkdtemp(prefix="authz-bench-")) for _ in range(2)]
    clock, taken = SystemClock(), {small: [], large: []}
    try:
        with server(folders[0]) as first, server(folders[1]) as second:
            stores, tokens = {}, {}
            for count, url in ((small, first), (large, second)):
                start_s = time.perf_counter()
                tokens[count] = await fill(url, count, sample)
                stores[count] = Store(connect(url), timeout_s=5, is_cluster=False, clock=clock, observer=Silent())
                print(f"{count:>9,} keys put in, {time.perf_counter() - start_s:.0f} s", flush=True)
            for place in range(sample):
                for count in (small, large):
                    taken[count].append(await look_up(stores[count], tokens[count][place % len(tokens[count])]))
            for store in stores.values():
                await store.close()
    finally:
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
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
