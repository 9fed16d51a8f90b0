"""The access log over real gRPC: a store that does not keep up makes the proxy wait, and memory does not grow."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest
from grpc import aio

from authz.adapters.envoy.accesslog import METHOD, SERVICE, AccessLog
from authz.adapters.envoy.ticket import Tickets
from authz.adapters.grpc import server as grpc_server
from authz.adapters.logs.silent import Silent
from authz.core.settlement import Booked, Booking
from authz.demo.processes import free_port
from authz.settlement import BATCH, QUEUE, Settlement
from tests.support.parts import CLOCK
from tests.support.settlement import HOLD, entry, message


TICKETS = Tickets((b"a secret",))
ENTRIES = 50  # of a message, some 30 kB
MESSAGES = 1000


class Gate:
    """Books once it is open."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.booked = 0

    async def settle(self, bookings: Sequence[Booking]) -> Sequence[Booked]:
        await self.open.wait()
        self.booked += len(bookings)
        return [Booked.BOOKED] * len(bookings)


class Running:
    def __init__(self) -> None:
        self.gate = Gate()
        self.settlement = Settlement(self.gate, CLOCK, Silent())
        self.log = AccessLog(self.settlement.take, TICKETS, CLOCK, Silent())
        self.address = f"127.0.0.1:{free_port()}"
        self.streams = {SERVICE: {METHOD: self.log}}
        self.server = grpc_server.build(self.address, {}, grpc_server.Health(()), streams=self.streams)

    def stream(self, channel: aio.Channel) -> Any:
        return channel.stream_unary(f"/{SERVICE}/{METHOD}")()


@pytest.fixture
async def running() -> AsyncIterator[Running]:
    made = Running()
    await made.server.start()
    settling = asyncio.create_task(made.settlement.run())
    yield made
    made.log.close()
    await made.server.stop(1)
    settling.cancel()
    await asyncio.gather(settling, return_exceptions=True)


@asynccontextmanager
async def channel(running: Running) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(running.address) as opened:
        yield opened


def told() -> bytes:
    metadata = {"envoy.filters.http.ext_authz": {"settlement": TICKETS.seal(HOLD)}}
    return message(*[entry(metadata) for _ in range(ENTRIES)])


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await asyncio.sleep(0.01)


async def test_a_store_that_stands_still_stops_the_proxy_and_loses_nothing(running: Running) -> None:
    """What was sent beyond the queue stays with the sender: HTTP/2's window is full, and `write` waits."""
    one, sent = told(), 0
    async with channel(running) as opened:
        call = running.stream(opened)

        async def send() -> None:
            nonlocal sent
            for _ in range(MESSAGES):
                await call.write(one)
                sent += 1
            await call.done_writing()

        sending = asyncio.create_task(send())
        before = -1
        while before != sent:  # until nothing moves any more
            before = sent
            await asyncio.sleep(0.5)

        assert sent * ENTRIES >= QUEUE
        assert QUEUE <= running.settlement.waiting <= QUEUE + BATCH
        assert sent < MESSAGES / 2

        running.gate.open.set()
        await asyncio.wait_for(sending, 60)
        await asyncio.wait_for(call, 60)
        await running.settlement.drain(10)

    assert running.gate.booked == MESSAGES * ENTRIES


async def test_many_streams_are_read_side_by_side(running: Running) -> None:
    running.gate.open.set()
    async with channel(running) as opened:
        calls = [running.stream(opened) for _ in range(100)]
        for call in calls:
            await call.write(told())
        for call in calls:
            await call.done_writing()
        await asyncio.wait_for(asyncio.gather(*calls), 30)
        await running.settlement.drain(10)

    assert running.gate.booked == 100 * ENTRIES


async def test_a_stream_that_never_ends_does_not_hold_up_the_end(running: Running) -> None:
    running.gate.open.set()
    async with channel(running) as opened:
        call = running.stream(opened)
        await call.write(told())
        await until(lambda: running.gate.booked == ENTRIES)

        running.log.close()

        await asyncio.wait_for(call, 5)
        await asyncio.wait_for(running.server.stop(10), 5)


async def test_a_sender_that_breaks_off_leaves_no_task_behind(running: Running) -> None:
    running.gate.open.set()
    before = len(asyncio.all_tasks())
    for _ in range(20):
        async with channel(running) as opened:
            call = running.stream(opened)
            await call.write(told())
            call.cancel()
    await until(lambda: len(asyncio.all_tasks()) <= before)

    assert running.log.idle_s() == float("inf")


async def test_a_message_beyond_the_servers_bound_ends_its_stream_alone(running: Running) -> None:
    running.gate.open.set()
    huge = replace(HOLD, subject="x" * (grpc_server.MAX_MESSAGE_BYTES + 1))
    async with channel(running) as opened:
        broken, sound = running.stream(opened), running.stream(opened)
        await sound.write(told())
        with suppress(asyncio.InvalidStateError):  # the server may have refused it by now
            await broken.write(message(entry({"x": {"settlement": TICKETS.seal(huge)}})))
        with pytest.raises(aio.AioRpcError, match="larger than max"):
            await broken
        await sound.write(told())
        await sound.done_writing()
        await asyncio.wait_for(sound, 10)
        await running.settlement.drain(5)

    assert running.gate.booked == 2 * ENTRIES
