"""
The ledger: checks that arrive together ride one script call (micro-batching), and each waits for its own answer.

A batch belongs to the ledger, so a check that is cancelled neither breaks a connection nor takes another's answer. Two
calls are in flight at a time, of at most 16 checks each: while one is computed in the store, the next is being packed.
In a cluster a batch is of one partition, as one slot can be asked in one call.
"""

import asyncio
import secrets
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from authz.adapters.redis import keys
from authz.adapters.redis.client import Store, not_ours
from authz.adapters.redis.packing import PackedCheck, pack, unpack
from authz.adapters.redis.patience import Limit
from authz.adapters.redis.scripts import ADMIT
from authz.core.admission import Admission, Admitted, Status
from authz.core.recent import Recent
from authz.core.settlement import DecisionId
from authz.core.value import value
from authz.ports import Clock, OverloadFault, StoreFault, StoreObserver


BATCH: Final = 16
IN_FLIGHT: Final = 2
MAX_WAITING: Final = 4096
TOUCH_S: Final = 60.0  # how exactly a sidecar writes down when a key was last used
TOUCHED: Final = 20_000  # keys of which it knows that it did
PROCESS_BYTES: Final = 6  # drawn: that two sidecars draw the same within a day is not to be expected


@value
class _Waiting:
    check: PackedCheck
    answer: asyncio.Future[Admitted]
    limit: Limit


class RedisLedger:
    """Admits by `admit.lua`. One event loop; any number of concurrent callers, `MAX_WAITING` of them unanswered."""

    def __init__(self, store: Store, clock: Clock, observer: StoreObserver) -> None:
        self._store = store
        self._clock = clock
        self._observer = observer
        self._lanes: dict[int, _Lane] = {}
        self._waiting = 0
        self._touched: Recent[str, float] = Recent(TOUCHED)
        self._process = secrets.token_bytes(PROCESS_BYTES)
        self._decided = [0] * keys.PARTITIONS

    def repeated(self, admission: Admission) -> Callable[[], Awaitable[Admitted]]:
        return partial(self._admit, pack(admission, keys.partition(admission.tenant)))

    async def admit(self, admission: Admission) -> Admitted:
        """
        Raises: StoreFault — not answered within two waits (its turn, its answer; see `Patience`), or not our store;
            OverloadFault — too many are waiting, or for too long: the store answers, or this process was held up.
        """
        return await self._admit(pack(admission, keys.partition(admission.tenant)))

    async def _admit(self, check: PackedCheck) -> Admitted:
        if not self._store.known_id:
            await self._store.identity()
        touch = self._must_touch(check.admission)
        if touch:
            check = pack(check.admission, check.partition, touch=True)
        if self._waiting >= MAX_WAITING:
            raise OverloadFault(f"{MAX_WAITING} checks are waiting for the store")
        lane = self._lane(check.partition if self._store.is_cluster else 0)
        self._waiting += 1
        try:
            answer = await lane.enter(check)
        finally:
            self._waiting -= 1
        if answer.status is Status.NOT_OURS:
            raise not_ours()
        if answer.status is Status.DAMAGED:
            raise StoreFault("the state of this key in the store cannot be read", trustworthy=False)
        if touch and answer.status is Status.ADMITTED:
            self._touched.put(check.admission.key_id, self._clock.monotonic_s())
        return answer

    def number(self, tenant: str) -> DecisionId:
        partition = keys.partition(tenant)
        number = self._decided[partition]
        self._decided[partition] = number + 1
        return DecisionId(self._process, partition, number, self._store.known_id)

    def _must_touch(self, admission: Admission) -> bool:
        if not admission.spend or admission.version <= 0:
            return False
        last_s = self._touched.get(admission.key_id)
        return last_s is None or self._clock.monotonic_s() - last_s >= TOUCH_S

    def _lane(self, number: int) -> "_Lane":
        if number not in self._lanes:
            self._lanes[number] = _Lane(self._store, self._observer)
        return self._lanes[number]

    async def close(self) -> None:
        """Finish what is in flight."""
        for lane in self._lanes.values():
            await lane.drain()


class _Lane:
    """
    Checks that may share a call, in the order in which they came.

    A check that waited too long for its turn is the store's fault where the call before it was. Behind one that was
    answered it is an overload: the store is there, and `on_error: allow` must not let pass whoever comes in a crowd.
    """

    def __init__(self, store: Store, observer: StoreObserver) -> None:
        self._store = store
        self._observer = observer
        self._queue: deque[_Waiting] = deque()
        self._calls: set[asyncio.Task[None]] = set()
        self._woken = False
        self._fault: StoreFault | None = None  # of the last call

    def enter(self, check: PackedCheck) -> asyncio.Future[Admitted]:
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Admitted] = loop.create_future()
        self._queue.append(_Waiting(check, answer, self._store.patience.limit()))
        if not self._woken:
            self._woken = True
            loop.call_soon(self._launch)  # after this tick: what else arrives in it comes along
        return answer

    async def drain(self) -> None:
        while self._queue or self._calls:
            self._launch()
            await asyncio.gather(*self._calls)

    def _launch(self) -> None:
        self._woken = False
        while self._queue and len(self._calls) < IN_FLIGHT:
            batch = self._next_batch()
            if not batch:
                return
            call = asyncio.create_task(self._call(batch))
            self._calls.add(call)
            call.add_done_callback(self._called)

    def _called(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._launch()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        while self._queue and len(batch) < BATCH:
            waiting = self._queue.popleft()
            if waiting.answer.done():  # the caller is gone: nothing is charged
                continue
            if self._store.patience.is_over(waiting.limit):
                overload = OverloadFault("the check waited too long for its turn at the store")
                waiting.answer.set_exception(self._fault or overload)
                continue
            batch.append(waiting)
        return batch

    async def _call(self, batch: list[_Waiting]) -> None:
        try:
            answers = await self._ask([waiting.check for waiting in batch])
        except BaseException as exc:  # whatever it is, nobody is left waiting
            told = f"the store was not asked: {type(exc).__name__}"  # a bug of ours, which must let nobody pass
            fault = exc if isinstance(exc, StoreFault) else StoreFault(told, trustworthy=False)
            self._fault = fault
            for waiting in batch:
                if not waiting.answer.done():
                    waiting.answer.set_exception(fault)
            if not isinstance(exc, Exception):
                raise
            return
        self._fault = None
        for waiting, answer in zip(batch, answers, strict=True):
            if not waiting.answer.done():
                waiting.answer.set_result(answer)

    async def _ask(self, checks: list[PackedCheck]) -> list[Admitted]:
        names = [name for check in checks for name in check.keys]
        blob = b"".join(check.blob for check in checks)
        self._observer.batch_sent(len(checks))
        reply = await self._store.run(ADMIT, names, await self._store.identity(), blob)
        try:
            return unpack(reply, checks)
        except (LookupError, TypeError) as exc:
            raise StoreFault("the store's answer is not the script's") from exc
