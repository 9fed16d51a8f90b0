"""Envoy's access log as it comes in: what is read of an entry, and how streams are read, held up and ended."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2

from authz.adapters.envoy.accesslog import MAX_ENTRIES, MAX_STREAMS, AccessLog
from authz.adapters.envoy.ticket import Tickets
from authz.adapters.logs.observer import LogObserver
from authz.adapters.logs.silent import Silent
from authz.core.settlement import Finished, TokenUsage
from authz.ports import OverloadFault
from tests.support.parts import CLOCK
from tests.support.settlement import HOLD, entry, message


TICKETS = Tickets((b"a secret",))
CHECK = {"settlement": TICKETS.seal(HOLD), "route": "write", "reason": "allowed", "key_id": "key_1"}
USAGE = {"model": "gpt-x", "input_tokens": 3, "output_tokens": 30, "total_tokens": 33}
WHOLE: dict[str, dict[str, Any]] = {
    "envoy.filters.http.ext_authz": CHECK,
    "authz.usage": USAGE,
    "authz.request": {"model": "gpt", "max_tokens": 40},
}


@dataclass
class Seen(Silent):
    taken: list[Finished] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    free: asyncio.Event = field(default_factory=asyncio.Event)

    def entry_dropped(self, why: str) -> None:
        self.dropped.append(why)

    async def take(self, finished: Finished) -> None:
        await self.free.wait()
        self.taken.append(finished)


def log(seen: Seen, *, free: bool = True) -> AccessLog:
    if free:
        seen.free.set()
    return AccessLog(seen.take, TICKETS, CLOCK, seen)


async def stream(*messages: bytes) -> AsyncIterator[bytes]:
    for one in messages:
        yield one


async def read(*entries: Any) -> tuple[Sequence[Finished], list[str]]:
    seen = Seen()
    assert await log(seen)(stream(message(*entries))) == als_pb2.StreamAccessLogsResponse().SerializeToString()
    return seen.taken, seen.dropped


async def test_everything_that_is_told() -> None:
    (finished,), dropped = await read(entry(WHOLE, path="/v1/chat/completions?api_key=secret#x"))

    assert dropped == []
    assert finished == Finished(
        hold=HOLD,
        started_s=1_795_000_000.25,
        duration_s=1.5,
        method="POST",
        path="/v1/chat/completions",
        status=200,
        is_complete=True,
        was_forwarded=False,
        client_address="192.0.2.7",
        request_id="5f1c2d3e",
        route="write",
        reason="allowed",
        model="gpt-x",
        asked_model="gpt",
        usage=TokenUsage(3, 30, 33),
    )


async def test_an_entry_that_tells_nothing() -> None:
    taken, dropped = await read(accesslog_pb2.HTTPAccessLogEntry())

    assert taken == [Finished(None, 0.0, 0.0, "", "", 0, is_complete=False, was_forwarded=False)]
    assert dropped == []


@pytest.mark.parametrize(
    ("usage", "expected"),
    [
        pytest.param({"input_tokens": "3"}, TokenUsage(), id="text"),
        pytest.param({"input_tokens": -1, "output_tokens": 2}, TokenUsage(None, 2), id="below zero"),
        pytest.param({"input_tokens": float("nan")}, TokenUsage(), id="not a number"),
        pytest.param({"input_tokens": float("inf")}, TokenUsage(), id="infinite"),
        pytest.param({"input_tokens": 1e300}, TokenUsage(10**9), id="absurd"),
        pytest.param({"input_tokens": 2.7}, TokenUsage(2), id="a fraction"),
        pytest.param({"input_tokens": True, "model": 7}, TokenUsage(), id="another type"),
        pytest.param({"input_tokens": None}, TokenUsage(), id="null"),
    ],
)
async def test_odd_numbers(usage: dict[str, object], expected: TokenUsage) -> None:
    (finished,), _ = await read(entry({"authz.usage": usage}))

    assert (finished.usage, finished.model) == (expected, "")


async def test_a_forged_ticket_speaks_for_nobody() -> None:
    forged = Tickets((b"another",)).seal(HOLD)
    (finished,), dropped = await read(entry({"envoy.filters.http.ext_authz": {"settlement": forged}}))

    assert (finished.hold, dropped) == (None, ["unknown_ticket"])


@pytest.mark.parametrize(
    "kind",
    [kind for kind in accesslog_pb2.AccessLogType.values() if kind not in {0, accesslog_pb2.DownstreamEnd}],
)
async def test_only_the_last_entry_counts(kind: int) -> None:
    assert await read(entry(WHOLE, access_log_type=kind)) == ([], [])
    assert await read(entry(WHOLE, intermediate_log_entry=True)) == ([], [])


@pytest.mark.parametrize(
    ("details", "complete"),
    [
        ("via_upstream", True),
        ("downstream_remote_disconnect", False),
        ("upstream_reset_after_response_started{connection_termination}", False),
        ("stream_idle_timeout", False),
        ("", False),
    ],
)
async def test_an_answer_that_was_cut_short_is_known_as_such(details: str, *, complete: bool) -> None:
    (finished,), _ = await read(entry(WHOLE, details=details))

    assert finished.is_complete == complete


async def test_an_older_envoy_tells_no_duration() -> None:
    made = entry()
    made.common_properties.ClearField("duration")
    made.common_properties.time_to_last_downstream_tx_byte.FromMilliseconds(250)
    (finished,), _ = await read(made)

    assert finished.duration_s == 0.25


async def test_a_message_that_cannot_be_read_does_not_end_the_stream() -> None:
    seen = Seen()

    await log(seen)(stream(b"\xff\xff", message(entry(WHOLE)), b"", message(entry(WHOLE))))

    assert (len(seen.taken), seen.dropped) == (2, ["malformed"])


async def test_a_method_of_tomorrow_is_settled_all_the_same() -> None:
    odd = entry(WHOLE)
    odd.request.request_method = 99
    (taken,), dropped = await read(odd)

    assert (taken.method, taken.hold, dropped) == ("", HOLD, [])


async def test_a_message_has_so_many_entries_and_no_more() -> None:
    taken, dropped = await read(*[accesslog_pb2.HTTPAccessLogEntry()] * (MAX_ENTRIES + 1))

    assert (len(taken), dropped) == (MAX_ENTRIES, ["malformed"])


async def test_entries_of_other_kinds_are_not_ours() -> None:
    tcp = als_pb2.StreamAccessLogsMessage()
    tcp.tcp_logs.log_entry.add()
    seen = Seen()

    await log(seen)(stream(tcp.SerializeToString()))

    assert (seen.taken, seen.dropped) == ([], [])


async def test_a_stream_is_read_no_faster_than_it_is_taken() -> None:
    seen, sent = Seen(), 0

    async def endless() -> AsyncIterator[bytes]:
        nonlocal sent
        while True:
            sent += 1
            yield message(entry(WHOLE))

    reading = asyncio.create_task(_run(log(seen, free=False), endless()))
    await asyncio.sleep(0.05)

    assert (sent, seen.taken) == (1, [])
    reading.cancel()
    await asyncio.gather(reading, return_exceptions=True)


async def _run(handler: AccessLog, messages: AsyncIterator[bytes]) -> bytes:
    return await handler(messages)


async def test_closing_ends_streams_that_are_never_ended() -> None:
    """What was sent is taken first; a stream in which nothing comes ends at once."""
    seen = Seen()
    handler = log(seen)
    forever = asyncio.Event()

    async def silent(*first: bytes) -> AsyncIterator[bytes]:
        for one in first:
            yield one
        await forever.wait()

    streams = [
        asyncio.create_task(_run(handler, silent())),
        asyncio.create_task(_run(handler, silent(message(entry(WHOLE))))),
    ]
    await asyncio.sleep(0.02)
    assert handler.idle_s() < 1

    handler.close()

    assert await asyncio.wait_for(asyncio.gather(*streams), 2) == [b"", b""]
    assert len(seen.taken) == 1
    assert handler.idle_s() == float("inf")


async def test_others_get_their_turn_while_a_large_message_is_read() -> None:
    """Taking never waits where there is room: checks on the same loop must not stand still meanwhile."""
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(other())
    passed_over = entry(WHOLE, intermediate_log_entry=True)
    await log(Seen())(stream(message(*[entry(WHOLE) for _ in range(400)], *[passed_over] * 400)))

    assert turns >= 50
    task.cancel()


async def test_there_is_a_bound_on_streams() -> None:
    seen = Seen()
    handler = log(seen)
    forever = asyncio.Event()

    async def silent() -> AsyncIterator[bytes]:
        await forever.wait()
        yield b""

    streams = [asyncio.create_task(_run(handler, silent())) for _ in range(MAX_STREAMS)]
    await asyncio.sleep(0.05)

    with pytest.raises(OverloadFault):
        await asyncio.wait_for(_run(handler, silent()), 2)
    assert not any(one.done() for one in streams)
    assert seen.dropped == ["streams"]
    handler.close()
    await asyncio.wait_for(asyncio.gather(*streams), 5)


@pytest.mark.parametrize("seconds", [10**12, -(10**11)])
async def test_an_absurd_time_does_not_end_the_stream(seconds: int) -> None:
    odd = entry(WHOLE)
    odd.common_properties.start_time.seconds = seconds
    taken, dropped = await read(odd, entry(WHOLE))

    assert (len(taken), dropped) == (2, [])
    LogObserver().finished(taken[0])


async def test_whether_the_upstream_was_reached() -> None:
    reached = entry(WHOLE)
    reached.common_properties.upstream_remote_address.socket_address.address = "10.0.0.1"
    taken, _ = await read(reached, entry(WHOLE))

    assert [one.was_forwarded for one in taken] == [True, False]


async def test_a_client_that_goes_ends_its_stream_and_nothing_else() -> None:
    seen = Seen()
    handler = log(seen)

    async def broken() -> AsyncIterator[bytes]:
        yield message(entry(WHOLE))
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        await handler(broken())
    await handler(stream(message(entry(WHOLE))))

    assert len(seen.taken) == 2


async def test_new_tickets_count_from_the_next_message() -> None:
    seen = Seen()
    handler = log(seen)
    handler.replace(Tickets((b"another",)))

    await handler(stream(message(entry(WHOLE))))

    assert seen.dropped == ["unknown_ticket"]
