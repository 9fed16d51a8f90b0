"""
Connections to the store: one guarded way to ask it anything, and the proof that it is the store it should be.

A store is *ours* once the first key was made in it: it then holds an id, and a marker with that id in each partition. A
sidecar holds on to the id that it saw first. So a store that was emptied, or put in place of another, is a fault and no
amnesty: the keys revoked in the old one do not come back.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import urlsplit

from redis.asyncio import Redis, RedisCluster
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import AuthenticationError, NoPermissionError, NoScriptError, ResponseError
from redis.exceptions import ConnectionError as LostConnectionError
from redis.exceptions import TimeoutError as SlowStoreError

from authz.adapters.redis import keys
from authz.adapters.redis.breaker import Breaker
from authz.adapters.redis.line import Commands, Lined, LinedCluster
from authz.adapters.redis.patience import Patience
from authz.adapters.redis.scripts import Script
from authz.ports import Clock, OverloadFault, StoreFault, StoreObserver


CLUSTER: Final = "redis+cluster"
MAX_CONNECTIONS: Final = 96  # records and opaque tokens being read take 64 at most: the ledger always has some
EMPTY_S: Final = 0.25  # how long an empty store is remembered as such: checks must not ask it one by one
_ONCE_MORE: Final = 1  # a connection that died while idle is found out by using it


def connect(url: str) -> Commands:
    """
    A client for *url*; nothing is connected yet. Time-outs are `Store`'s: redis-py's own hang for seconds.

    Only a lost connection is asked again, and once: a charge whose answer was lost may then be charged twice, which
    errs on the side of refusing.
    """
    options: dict[str, Any] = {
        "retry": Retry(NoBackoff(), _ONCE_MORE, supported_errors=(LostConnectionError,)),
        "socket_timeout": None,
        "socket_connect_timeout": None,
        "max_connections": MAX_CONNECTIONS,
        "protocol": 2,
    }
    if urlsplit(url).scheme == CLUSTER:
        return LinedCluster(RedisCluster.from_url(url.replace(f"{CLUSTER}://", "redis://", 1), **options))
    return Lined(Redis.from_url(url, **options))


class Store:
    """
    Guarded access: a call, once it has its turn at the connections, ends within *timeout_s* where the event loop is in
    time, and within bounds where it is not (see `Patience`); every failure is a `StoreFault`.
    """

    def __init__(
        self, commands: Commands, *, timeout_s: float, is_cluster: bool, clock: Clock, observer: StoreObserver
    ) -> None:
        self._commands = commands
        self.patience = Patience(timeout_s)
        self._timeout_s = timeout_s
        self.is_cluster = is_cluster
        self._clock = clock
        self._observer = observer
        self._breaker = Breaker()
        self._free = asyncio.Semaphore(MAX_CONNECTIONS)  # redis-py's pool fails where it is empty, and does not wait
        self._id: str | None = None
        self._empty_until_s = 0.0
        self._identifying: asyncio.Task[str] | None = None

    async def call(self, operation: str, *command: Any, **options: Any) -> Any:
        """
        One command. *operation* names it in metrics.

        Raises: StoreFault; OverloadFault — this process was held up too much to hear the store, which may be well.
        """
        if asyncio.current_task() is None:  # a check that is served without a task: a time-out ends one
            return await asyncio.create_task(self.call(operation, *command, **options))
        async with self._free:
            return await self._call(operation, command, options)

    async def _call(self, operation: str, command: tuple[Any, ...], options: dict[str, Any]) -> Any:
        start_s = self._clock.monotonic_s()
        if not self._breaker.admits(start_s):
            self._observer.store_called(operation, 0.0, "breaker_open")
            raise StoreFault("the store has not answered for some time")
        fault: str | None = "cancelled"
        timeout, limit = asyncio.timeout(None), self.patience.limit()
        try:
            async with timeout:
                self.patience.watch(timeout, limit)
                reply = await self._commands.execute_command(*command, **options)
            fault = None
        except (TimeoutError, SlowStoreError) as exc:
            if timeout.expired() and not self.patience.was_heard(limit):
                fault = "late"
                raise OverloadFault("the event loop was held up: the store could not be heard") from exc
            fault = "timeout"
            raise StoreFault(f"the store did not answer within {self._timeout_s * 1000:.0f} ms") from exc
        except NoScriptError:
            fault = None
            raise
        except ResponseError as exc:
            fault = "refused"
            told = str(exc)[:120]
            raise StoreFault(f"the store refused: {told}", trustworthy=not told.startswith("WRONGTYPE")) from exc
        except Exception as exc:  # the cluster's errors are no RedisError; whatever it is, the store did not do it
            fault = "unreachable"
            raise StoreFault(f"the store cannot be reached: {_told(exc)}") from exc
        finally:
            self.patience.unwatch(timeout)
            self._account(fault, operation, start_s)
        return reply

    def _account(self, fault: str | None, operation: str, start_s: float) -> None:
        now_s = self._clock.monotonic_s()
        if fault in {None, "refused"}:
            self._breaker.succeeded()
        elif fault not in {"cancelled", "late"}:  # these say nothing of the store
            self._breaker.failed(now_s)
        self._observer.store_called(operation, now_s - start_s, fault)

    async def run(self, script: Script, names: Sequence[str], *args: Any) -> Any:
        """A script by its digest; by its text where the store forgot it (restart, SCRIPT FLUSH). Raises: StoreFault."""
        try:
            return await self.call(script.name, "EVALSHA", script.sha, len(names), *names, *args)
        except NoScriptError:  # nothing ran, so nothing was charged
            return await self.call(script.name, "EVAL", script.text, len(names), *names, *args)

    async def read(self, operation: str, partition: int, *names: str) -> list[bytes | None]:
        """
        Values of one partition, read beside its marker: what an emptied store does not hold must not pass for absent.

        Raises: StoreFault.
        """
        store_id = await self.identity()
        values: list[bytes | None]
        marker, *values = await self.call(operation, "MGET", keys.name(partition, "m"), *names)
        if marker is None or marker.decode() != store_id:
            raise not_ours()
        return values

    @property
    def known_id(self) -> str:
        """The id that is held on to; empty: the store was not reached yet."""
        return self._id or ""

    async def identity(self) -> str:
        """
        The store's id; the one seen first is held on to.

        Raises: StoreFault — away, or (not trustworthy) no key was ever made in it.
        """
        if self._id is not None:
            return self._id
        if self._clock.monotonic_s() < self._empty_until_s:
            raise _never_used()
        if self._identifying is None:  # one question, however many wait for its answer
            self._identifying = asyncio.create_task(self._identify())
            self._identifying.add_done_callback(self._identified)
        return await asyncio.shield(self._identifying)

    async def _identify(self) -> str:
        found = await self._read_head()
        if found.get("state") != "ready":
            self._empty_until_s = self._clock.monotonic_s() + EMPTY_S
            raise _never_used()
        self._id = found["id"]
        return self._id

    def _identified(self, task: asyncio.Task[str]) -> None:
        self._identifying = None
        if not task.cancelled():
            task.exception()  # told to those who wait; if they are gone, nobody needs it

    async def probe(self) -> str:
        """Whose store answers now: `up`, `empty` or `foreign`. Raises: StoreFault — away."""
        found = await self._read_head()
        if found.get("state") != "ready":
            return "empty"
        if self._id is None:
            self._id = found["id"]
        return "up" if found["id"] == self._id else "foreign"

    async def initialise(self) -> str:
        """
        The store's id; a store that was never used is marked first.

        An interrupted marking is finished by the next. A partition that was marked once is never marked again.
        Raises: StoreFault — away, or holding state that is not ours to add to.
        """
        found = await self._read_head()
        if not found:
            await self._refuse_remains()
            await self.call("initialise", "HSETNX", keys.STORE, "id", secrets.token_hex(8))
            await self.call("initialise", "HSETNX", keys.STORE, "partitions", keys.PARTITIONS)
            await self.call("initialise", "HSETNX", keys.STORE, "state", "marking")
            found = await self._read_head()
        if found.get("state") != "ready":
            for partition in range(keys.PARTITIONS):
                await self.call("initialise", "SET", keys.name(partition, "m"), found["id"], "NX")
            await self.call("initialise", "HSET", keys.STORE, "state", "ready")
            self._empty_until_s = 0.0
        return await self.identity()

    async def _refuse_remains(self) -> None:
        for partition in range(keys.PARTITIONS):
            if await self.call("initialise", "EXISTS", keys.name(partition, "m")):
                raise StoreFault(
                    f"{keys.STORE} is gone but its partitions are not: the store was damaged", trustworthy=False
                )

    async def _read_head(self) -> dict[str, str]:
        reply = await self.call("identity", "HGETALL", keys.STORE)
        found = {k.decode("utf-8", "replace"): v.decode("utf-8", "replace") for k, v in pairs(reply)}
        if found and found.get("partitions", str(keys.PARTITIONS)) != str(keys.PARTITIONS):
            raise StoreFault(
                f"the store is cut into {found['partitions']} partitions, not {keys.PARTITIONS}", trustworthy=False
            )
        if found and ("id" not in found or found.get("state", "marking") not in {"marking", "ready"}):
            raise StoreFault(f"{keys.STORE} does not say whose store this is: it was damaged", trustworthy=False)
        return found

    async def now_us(self) -> int:
        """The store's clock. Raises: StoreFault."""
        seconds, us = await self.call("time", "TIME")
        return int(seconds) * 1_000_000 + int(us)

    async def eviction_policy(self) -> str | None:
        """What the store does when it is full; None: it will not say (managed services forbid CONFIG)."""
        with contextlib.suppress(StoreFault):
            node = {"target_nodes": RedisCluster.RANDOM} if self.is_cluster else {}
            reply = await self.call("config", "CONFIG GET", "maxmemory-policy", **node)
            values: list[Any] = [value for _, value in pairs(reply)]  # redis-py makes texts of this reply alone
            return next((value if isinstance(value, str) else value.decode() for value in values), None)
        return None

    async def close(self) -> None:
        await self._commands.aclose()


def _never_used() -> StoreFault:
    return StoreFault("the store has never held a key: make the first with 'authz keys create'", trustworthy=False)


def not_ours() -> StoreFault:
    """The marker is gone, or another's."""
    return StoreFault(
        "the store has lost what it held, or is another store: restart authz if that is meant", trustworthy=False
    )


def pairs(reply: Any) -> Sequence[tuple[bytes, bytes]]:
    """redis-py makes a dict of some replies and leaves others flat."""
    if isinstance(reply, dict):
        return list(reply.items())
    return list(zip(reply[::2], reply[1::2], strict=True))


def _told(exc: Exception) -> str:
    """An error in words that hold no password: redis-py's name hosts and ports, never credentials."""
    if isinstance(exc, AuthenticationError | NoPermissionError):
        return "it does not accept our credentials"
    return str(exc)[:160] or type(exc).__name__
