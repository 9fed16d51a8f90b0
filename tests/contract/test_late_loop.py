"""A loop that is held up is not a store that is away: no fault of the store, and nobody passes unlimited for it."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

import pytest

from authz.admin.keys import IssuedKey, NewKey
from authz.core.admission import Admitted, Status
from authz.core.decision import Allow, Decision, Reason
from authz.ports import OverloadFault
from authz.sidecar import Sidecar
from tests.support import stores
from tests.support.parts import Parts, admission, configuration, parts, pipeline, request


TIMEOUT_S = 0.25
HELD_S = 0.3
LATE_S = 0.06  # a pass that takes this long counts for nothing
LIMIT = 20
OPEN = configuration(store={"on_error": "allow"}, limits={"default": {"requests": f"{LIMIT}/1d"}})


@pytest.fixture
async def made(valkey_url: str) -> AsyncIterator[Parts]:
    async with parts(valkey_url) as patient:
        await patient.create(NewKey("the first"))
    async with parts(valkey_url, TIMEOUT_S) as one:
        yield one


@pytest.fixture
async def key(made: Parts) -> IssuedKey:
    """Checked once, so that there is a connection and the record is remembered."""
    new = await made.create(NewKey("test", scopes=("read-only",)))
    await pipeline(OPEN, made).check(request(new.token), spend=False)
    made.observer.faults.clear()
    return new


def outcomes(ended: Sequence[Admitted | BaseException]) -> Counter[str]:
    return Counter(one.status.name if isinstance(one, Admitted) else type(one).__name__ for one in ended)


async def asked(made: Parts, key: IssuedKey, number: int) -> Counter[str]:
    checks = (made.ledger.admit(admission(key.record)) for _ in range(number))
    return outcomes(await asyncio.gather(*checks, return_exceptions=True))


def answering_late(server: stores.Server) -> None:
    """Asked while the store stands still, this lets it answer; the loop is held up until long after."""
    server.pause()

    def hold() -> None:
        server.resume()
        time.sleep(HELD_S)

    asyncio.get_running_loop().call_later(TIMEOUT_S / 5, hold)


@dataclass
class HeldUp:
    """From now on each pass of the loop takes *pass_s*: *passes* of them, or until that is set to nothing."""

    pass_s: float
    passes: int = 500

    def __call__(self) -> None:
        if self.passes > 0:
            self.passes -= 1
            time.sleep(self.pass_s)
            asyncio.get_running_loop().call_soon(self)


@contextlib.asynccontextmanager
async def slowed(url: str, delay_s: float) -> AsyncIterator[str]:
    """The store at the end of a long wire: what it says takes *delay_s*."""
    there = urlsplit(url)

    async def carry(source: asyncio.StreamReader, target: asyncio.StreamWriter, delay_s: float) -> None:
        while data := await source.read(1 << 16):
            await asyncio.sleep(delay_s)
            target.write(data)
        target.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, questions = await asyncio.open_connection(there.hostname, there.port)
        await asyncio.gather(carry(reader, questions, 0), carry(answers, writer, delay_s))

    async with asyncio.TaskGroup() as serving:
        wire = await asyncio.start_server(lambda *streams: serving.create_task(serve(*streams)), "127.0.0.1", 0)
        async with wire:
            yield f"redis://127.0.0.1:{wire.sockets[0].getsockname()[1]}"


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - faults and states have no event
            await asyncio.sleep(0.005)


@pytest.mark.parametrize("number", [16, 100], ids=["in flight", "and waiting for a turn"])
async def test_answers_that_came_while_the_loop_was_held_up_count(
    made: Parts, key: IssuedKey, valkey_server: stores.Server, number: int
) -> None:
    """More than five calls, and any of them would have been a failure that opens the breaker."""
    for _ in range(3):
        answering_late(valkey_server)

        assert await asked(made, key, number) == {"ADMITTED": number}
    assert made.observer.faults == []


async def test_checks_that_had_no_turn_yet_when_the_loop_was_held_up_have_it_then(made: Parts, key: IssuedKey) -> None:
    """They had entered, and the store was not asked."""
    checks = [asyncio.create_task(made.ledger.admit(admission(key.record))) for _ in range(40)]
    asyncio.get_running_loop().call_soon(time.sleep, HELD_S)

    assert outcomes(await asyncio.gather(*checks, return_exceptions=True)) == {"ADMITTED": 40}
    assert made.observer.faults == []


@pytest.mark.parametrize(
    ("timeout_s", "pass_s"),
    [
        pytest.param(0.05, 0.01, id="passes that do not count"),
        pytest.param(0.25, 0.02, id="passes that count"),
    ],
)
async def test_a_connection_is_made_though_every_pass_of_the_loop_takes_long(
    store_url: str, timeout_s: float, pass_s: float
) -> None:
    """It takes several round trips, each of which the loop hears a pass later; in a cluster, many."""
    async with parts(store_url) as warm:
        key = await warm.create(NewKey("test"))
    async with parts(store_url, timeout_s) as cold:
        asyncio.get_running_loop().call_soon(HeldUp(pass_s, 60))

        assert await asked(cold, key, 20) == {"ADMITTED": 20}
        assert cold.observer.faults == []


async def test_a_line_that_could_not_be_made_in_time_is_made_again(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The time that it may take is a timer, and a late loop is no fault of the store's."""
    monkeypatch.setattr("authz.adapters.redis.line.CONNECT_S", 0.05)
    async with parts(store_url) as warm:
        key = await warm.create(NewKey("test"))
    async with parts(store_url, 0.25) as cold:
        await cold.store.identity()
        asyncio.get_running_loop().call_soon(HeldUp(LATE_S, 10))

        assert await asked(cold, key, 20) == {"ADMITTED": 20}
        assert cold.observer.faults == []


async def test_nobody_passes_unlimited_because_the_loop_was_held_up(
    made: Parts, key: IssuedKey, valkey_server: stores.Server
) -> None:
    """`on_error: allow`; again and again, so that an open breaker would be found out."""
    check = pipeline(OPEN, made).check
    decided: list[Decision] = []
    for _ in range(4):
        answering_late(valkey_server)
        decided += await asyncio.gather(*(check(request(key.token)) for _ in range(60)))

    assert Counter(decision.reason for decision in decided) == {Reason.ALLOWED: LIMIT, Reason.RATE_LIMITED: 240 - LIMIT}
    assert not any(decision.degraded for decision in decided if isinstance(decision, Allow))


async def test_nobody_passes_unlimited_because_there_are_many(made: Parts, key: IssuedKey) -> None:
    """More than can be answered in a time-out: those that wait for too long are told so, and not let in."""
    check = pipeline(OPEN, made).check
    decided = await asyncio.gather(*(check(request(key.token)) for _ in range(4000)))

    reasons = Counter(decision.reason for decision in decided)
    assert reasons[Reason.ALLOWED] == LIMIT
    assert set(reasons) <= {Reason.ALLOWED, Reason.RATE_LIMITED, Reason.OVERLOADED}
    assert made.observer.faults == []


async def test_more_than_a_slow_store_can_answer_is_an_overload(valkey_url: str) -> None:
    """It answers each call well within the time-out, at most 32 checks in a tenth of it; the queue is far longer."""
    async with parts(valkey_url) as quick:
        key = await quick.create(NewKey("test"))
    async with slowed(valkey_url, 0.1) as url, parts(url, 1.0) as made:
        ended = await asked(made, key, 4000)

    assert set(ended) == {"ADMITTED", "OverloadFault"}


@pytest.mark.parametrize("held", [False, True], ids=["loop in time", "loop held up"])
async def test_a_hung_store_is_the_stores_fault(
    made: Parts, key: IssuedKey, valkey_server: stores.Server, held: bool
) -> None:
    """Of those asked and of those that waited for their turn; whatever held the loop up for a moment."""
    valkey_server.pause()
    if held:
        asyncio.get_running_loop().call_later(TIMEOUT_S / 5, time.sleep, HELD_S)
    try:
        ended = await asked(made, key, 200)
        decision = await pipeline(OPEN, made).check(request(key.token))
    finally:
        valkey_server.resume()

    assert ended == {"StoreFault": 200}
    assert isinstance(decision, Allow)
    assert decision.degraded


async def test_a_loop_that_is_held_up_without_end_cannot_blame_the_store(
    made: Parts, key: IssuedKey, valkey_server: stores.Server
) -> None:
    """
    It cannot tell whether the store is there: refused in every mode, and the breaker knows nothing of it. By the clock
    the wait is over after some 20 passes, on a busy machine after fewer.
    """
    valkey_server.pause()
    held = HeldUp(LATE_S, 50)
    asyncio.get_running_loop().call_later(TIMEOUT_S / 10, held)
    try:
        ended = await asked(made, key, 60)
        assert held.passes > 0
    finally:
        held.passes = 0
        valkey_server.resume()

    assert ended == {"OverloadFault": 60}
    assert set(made.observer.faults) == {"late"}
    assert (await made.ledger.admit(admission(key.record))).status is Status.ADMITTED


async def test_a_sidecar_that_is_held_up_does_not_call_the_store_down(
    made: Parts, valkey_server: stores.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told to be down once it was seen to be."""
    monkeypatch.setattr("authz.sidecar.PROBE_S", 0.01)
    sidecar, held = Sidecar(configuration), HeldUp(LATE_S)
    watch = asyncio.create_task(sidecar._watch_store(made.store))
    try:
        await until(lambda: sidecar._store_state == "up")
        valkey_server.pause()
        held()
        await until(lambda: "late" in made.observer.faults)
        assert sidecar._store_state == "up"
        held.passes = 0
        await until(lambda: "timeout" in made.observer.faults)
        await until(lambda: sidecar._store_state == "down")
    finally:
        held.passes = 0
        valkey_server.resume()
        watch.cancel()
    await asyncio.wait([watch])


async def test_a_late_call_is_over_for_the_next(made: Parts, key: IssuedKey, valkey_server: stores.Server) -> None:
    """What the store says to a call that was given up, nobody else reads."""
    valkey_server.pause()
    held = HeldUp(LATE_S)
    asyncio.get_running_loop().call_later(TIMEOUT_S / 10, held)
    try:
        with pytest.raises(OverloadFault):
            await made.store.call("test", "ECHO", "the first")
    finally:
        held.passes = 0
        valkey_server.resume()

    for number in range(5):
        assert await made.store.call("test", "ECHO", f"{number}") == str(number).encode()
