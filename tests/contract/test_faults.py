"""The store refused, hung, killed, read-only, full: faults in time, closed unless told otherwise, mended alone."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from authz.admin.keys import IssuedKey, NewKey
from authz.core.admission import Status
from authz.core.decision import Allow, Fault, Reason
from authz.ports import StoreFault
from tests.support import stores
from tests.support.parts import Parts, admission, configuration, parts, pipeline, request


TIMEOUT_S = 0.05
SLACK_S = 0.5  # for a busy machine; the point is that nothing waits for seconds


@pytest.fixture(scope="module", params=["valkey", "redis"])
def victim(request: pytest.FixtureRequest) -> Iterator[stores.Server]:
    """A persistent store of our own, to be hurt."""
    server = stores.start(request.param, "--appendonly", "yes", "--appendfsync", "always")
    yield server
    server.stop()


@pytest.fixture
async def hurt(victim: stores.Server) -> AsyncIterator[Parts]:
    stores.flush(victim.url)
    async with parts(victim.url, TIMEOUT_S) as made:
        await made.create(NewKey("the first"))
        yield made


async def elapsed_s(made: Parts, key: IssuedKey) -> float:
    start_s = time.monotonic()
    with pytest.raises(StoreFault):
        await made.ledger.admit(admission(key.record))
    return time.monotonic() - start_s


async def recovered(made: Parts, key: IssuedKey) -> None:
    """Within two seconds, without anybody's help."""
    async with asyncio.timeout(2):
        while True:
            try:
                assert (await made.ledger.admit(admission(key.record))).status is Status.ADMITTED
            except StoreFault:
                await asyncio.sleep(0.02)
            else:
                return


async def test_a_hung_store_costs_the_timeout_and_then_nothing(hurt: Parts, victim: stores.Server) -> None:
    """After a few time-outs the breaker answers at once."""
    key = await hurt.create(NewKey("test"))
    victim.pause()
    try:
        waits_s = [await elapsed_s(hurt, key) for _ in range(12)]
    finally:
        victim.resume()

    assert max(waits_s) < TIMEOUT_S * 2 + SLACK_S
    assert min(waits_s) < TIMEOUT_S / 2
    assert "breaker_open" in hurt.observer.faults
    await recovered(hurt, key)


async def test_many_that_wait_for_a_hung_store_are_all_answered_in_time(hurt: Parts, victim: stores.Server) -> None:
    key = await hurt.create(NewKey("test"))
    victim.pause()
    start_s = time.monotonic()
    try:
        ended = await asyncio.gather(
            *(hurt.ledger.admit(admission(key.record)) for _ in range(500)), return_exceptions=True
        )
    finally:
        victim.resume()

    assert all(isinstance(outcome, StoreFault) for outcome in ended)
    assert time.monotonic() - start_s < TIMEOUT_S * 2 + SLACK_S * 3
    await recovered(hurt, key)


async def test_a_killed_store_is_refused_at_once_and_found_again(hurt: Parts, victim: stores.Server) -> None:
    """Restarted with its data: the same store, the same keys; connections that died are made anew."""
    key = await hurt.create(NewKey("test"))
    victim.kill()
    try:
        assert await elapsed_s(hurt, key) < TIMEOUT_S + SLACK_S
    finally:
        victim.restart()

    await recovered(hurt, key)


async def test_a_read_only_or_full_store_is_a_fault(hurt: Parts, victim: stores.Server) -> None:
    """A replica must not answer with stale revocations, nor a full store without counting."""
    key = await hurt.create(NewKey("test"))
    for setting, hurting, healthy in (("maxmemory", "1", "0"),):
        stores.on_all_nodes(victim.url, "CONFIG", "SET", setting, hurting)
        with pytest.raises(StoreFault, match="refused"):
            await hurt.ledger.admit(admission(key.record))
        stores.on_all_nodes(victim.url, "CONFIG", "SET", setting, healthy)
    other = stores.start("valkey", "--replicaof", *victim.url.removeprefix("redis://").split(":"))
    try:
        async with parts(other.url, TIMEOUT_S) as replica, asyncio.timeout(10):
            while True:
                try:
                    with pytest.raises(StoreFault, match=r"READONLY|read only|read-only"):
                        await replica.ledger.admit(admission(key.record))
                except (pytest.fail.Exception, AssertionError):
                    await asyncio.sleep(0.05)
                else:
                    break
    finally:
        other.stop()
    await recovered(hurt, key)


@pytest.mark.parametrize(("on_error", "reason"), [("deny", Reason.STORE_UNAVAILABLE), ("allow", Reason.ALLOWED)])
async def test_on_error_decides_what_happens_while_the_store_is_away(
    hurt: Parts, victim: stores.Server, on_error: str, reason: Reason
) -> None:
    """`allow` lets pass what signature and scopes allow; never what is known to be revoked, nor what is not genuine."""
    key = await hurt.create(NewKey("test", scopes=("read-only",)))
    dead, bulk = [await hurt.create(NewKey(name, subject=name, scopes=("read-only",))) for name in ("dead", "bulk")]
    authorizer = pipeline(configuration(store={"on_error": on_error}), hurt)
    for revoked in (dead, bulk):  # used before, so that they are remembered as good
        assert isinstance(await authorizer.check(request(revoked.token)), Allow)
    await hurt.revoke(dead.record.id)
    await hurt.revoke_subject("bulk")
    for revoked in (dead, bulk):
        assert (await authorizer.check(request(revoked.token))).reason is Reason.REVOKED
    assert isinstance(await authorizer.check(request(key.token)), Allow)

    victim.pause()
    try:
        while not isinstance(decision := await authorizer.check(request(key.token)), Fault):
            if decision.degraded if isinstance(decision, Allow) else False:
                break
        assert decision.reason is reason
        if on_error == "allow":
            for revoked in (dead, bulk):
                assert (await authorizer.check(request(revoked.token))).reason is Reason.REVOKED
            assert (await authorizer.check(request(key.token, "POST"))).reason is Reason.INSUFFICIENT_SCOPE
            assert (await authorizer.check(request(key.token[:-4] + "AAAA"))).reason is Reason.BAD_SIGNATURE
            assert (await authorizer.check(request(key.token, path="/nowhere"))).reason is Reason.NO_ROUTE
    finally:
        victim.resume()


async def test_a_restart_without_its_data_is_a_fault(valkey_server: stores.Server) -> None:
    """It comes back empty: what was revoked must not come back with it."""
    server = stores.start("valkey", "--appendonly", "no")
    try:
        async with parts(server.url, 1.0) as made:
            key = await made.create(NewKey("test"))
            await made.ledger.admit(admission(key.record))
            server.kill()
            server.restart()
            with pytest.raises(StoreFault, match="lost what it held"):
                await made.ledger.admit(admission(key.record))
            assert await made.store.probe() == "empty"
    finally:
        server.stop()


async def test_a_store_that_nobody_answers_for(valkey_url: str) -> None:
    async with parts("redis://127.0.0.1:1", TIMEOUT_S) as made:
        with pytest.raises(StoreFault, match="cannot be reached"):
            await made.store.probe()
