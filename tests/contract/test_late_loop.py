"""A loop that is held up is not a store that is away: no fault of the store, and nobody passes unlimited for it."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence

import pytest
import redis

from authz.admin.keys import IssuedKey, NewKey
from authz.core.admission import Admitted, Status
from authz.core.decision import Allow, Decision, Reason
from authz.ports import OverloadFault
from authz.sidecar import Sidecar
from tests.support import stores
from tests.support.parts import Parts, admission, configuration, parts, pipeline, request


TIMEOUT_S = 0.05
HELD_S = 0.2
PASS_S, PASSES = 0.015, 100  # of a loop that is held up for longer than anybody waits
SLACK_S = 0.5  # for a busy machine; the point is that nothing waits for seconds
LIMIT = 20
OPEN = configuration(store={"on_error": "allow"}, limits={"default": {"requests": f"{LIMIT}/1d"}})


@pytest.fixture
async def made(valkey_url: str) -> AsyncIterator[Parts]:
    async with parts(valkey_url, TIMEOUT_S) as one:
        await one.create(NewKey("the first"))
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


def held_up(seconds: float, times: int) -> None:
    """Each of the loop's next passes takes *seconds*."""
    time.sleep(seconds)
    if times > 1:
        asyncio.get_running_loop().call_soon(held_up, seconds, times - 1)


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


@pytest.mark.parametrize("held_s", [TIMEOUT_S / 10, TIMEOUT_S / 5, TIMEOUT_S])
async def test_a_connection_is_made_though_every_pass_of_the_loop_takes_long(store_url: str, held_s: float) -> None:
    """It takes several round trips, each of which the loop hears a pass later; in a cluster, many."""
    async with parts(store_url) as warm:
        key = await warm.create(NewKey("test"))
    async with parts(store_url, TIMEOUT_S) as cold:
        asyncio.get_running_loop().call_soon(held_up, held_s, 60)

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
    """It answers each call within the time-out; the queue is longer than that."""
    over = threading.Event()

    def slow_down() -> None:
        with redis.Redis.from_url(valkey_url) as client:
            while not over.is_set():
                client.execute_command("DEBUG", "SLEEP", 0.04)

    async with parts(valkey_url, 0.25) as made:
        key = await made.create(NewKey("test"))
        await asked(made, key, 1)
        slowing = asyncio.get_running_loop().run_in_executor(None, slow_down)
        try:
            ended = await asked(made, key, 1500)
        finally:
            over.set()
            await slowing

    assert set(ended) == {"ADMITTED", "OverloadFault"}


@pytest.mark.parametrize("held", [False, True], ids=["loop in time", "loop held up"])
async def test_a_hung_store_is_the_stores_fault(
    made: Parts, key: IssuedKey, valkey_server: stores.Server, held: bool
) -> None:
    """Of those asked and of those that waited for their turn; whatever held the loop up for a moment."""
    valkey_server.pause()
    start_s = time.monotonic()
    if held:
        asyncio.get_running_loop().call_later(TIMEOUT_S / 5, time.sleep, HELD_S)
    try:
        ended = await asked(made, key, 200)
        took_s = time.monotonic() - start_s
        decision = await pipeline(OPEN, made).check(request(key.token))
    finally:
        valkey_server.resume()

    assert ended == {"StoreFault": 200}
    assert took_s < TIMEOUT_S * 2 + HELD_S * held + SLACK_S
    assert isinstance(decision, Allow)
    assert decision.degraded


async def test_a_loop_that_is_held_up_without_end_cannot_blame_the_store(
    made: Parts, key: IssuedKey, valkey_server: stores.Server
) -> None:
    """It cannot tell whether the store is there: refused in every mode, and the breaker knows nothing of it."""
    valkey_server.pause()
    start_s = time.monotonic()
    asyncio.get_running_loop().call_later(TIMEOUT_S / 10, held_up, PASS_S, PASSES)
    try:
        ended = await asked(made, key, 60)
        took_s = time.monotonic() - start_s
    finally:
        valkey_server.resume()

    assert ended == {"OverloadFault": 60}
    assert took_s < TIMEOUT_S * 2 + PASS_S * PASSES + SLACK_S
    assert set(made.observer.faults) == {"late"}
    assert (await made.ledger.admit(admission(key.record))).status is Status.ADMITTED


async def test_a_sidecar_that_is_held_up_does_not_call_the_store_down(
    made: Parts, valkey_server: stores.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told to be down once it was seen to be."""
    monkeypatch.setattr("authz.sidecar.PROBE_S", 0.01)
    sidecar = Sidecar(configuration)
    watch = asyncio.create_task(sidecar._watch_store(made.store))
    try:
        await until(lambda: sidecar._store_state == "up")
        valkey_server.pause()
        held_up(PASS_S, PASSES)
        await until(lambda: "late" in made.observer.faults)
        assert sidecar._store_state == "up"
        await until(lambda: "timeout" in made.observer.faults)
        await until(lambda: sidecar._store_state == "down")
    finally:
        valkey_server.resume()
        watch.cancel()
    await asyncio.wait([watch])


async def test_a_late_call_is_over_for_the_next(made: Parts, key: IssuedKey, valkey_server: stores.Server) -> None:
    """What the store says to a call that was given up, nobody else reads."""
    valkey_server.pause()
    asyncio.get_running_loop().call_later(TIMEOUT_S / 10, held_up, PASS_S, PASSES)
    try:
        with pytest.raises(OverloadFault):
            await made.store.call("test", "ECHO", "the first")
    finally:
        valkey_server.resume()

    for number in range(5):
        assert await made.store.call("test", "ECHO", f"{number}") == str(number).encode()
