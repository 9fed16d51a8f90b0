"""
Envoy's access log (`envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs`): entries in, finished requests out.

Envoy sends entries in batches on a stream that it never ends, and is told nothing back: what it could not send is lost.
So a stream is read no faster than its entries are taken, and HTTP/2's flow control makes Envoy wait.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from authz.adapters.envoy.bodies import answered, asked_model
from authz.adapters.envoy.ticket import TICKET, Tickets
from authz.core.claims import YEAR_9999_S
from authz.core.settlement import Finished, Hold
from authz.ports import Clock, OverloadFault, SettlementObserver


SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METHOD: Final = "StreamAccessLogs"

MAX_STREAMS: Final = 256  # at a time: an Envoy has one for each of its workers
MAX_ENTRIES: Final = 8192  # of a message: 1 MiB of the smallest that Envoy sends
AT_A_TIME: Final = 4  # messages that are taken apart: one takes fifteen times its own size

_END: Final = b""  # StreamAccessLogsResponse has no fields
_CHECK: Final = "envoy.filters.http.ext_authz"  # where the filter puts what the check has told
_COMPLETE: Final = "via_upstream"  # the answer's details, where it was the upstream's and came to its end
_BREATH: Final = 16  # entries after which others get their turn: a message may hold thousands, and checks cannot wait
_METHODS: Final = {number: name for name, number in base_pb2.RequestMethod.items() if number}
_LAST: Final = frozenset({accesslog_pb2.NotSet, accesslog_pb2.DownstreamEnd})
_log: Final = logging.getLogger(__name__)


class AccessLog:
    """Any number of streams. *take*: given each finished request; it may wait."""

    def __init__(
        self, take: Callable[[Finished], Awaitable[None]], tickets: Tickets, clock: Clock, observer: SettlementObserver
    ) -> None:
        self._take = take
        self._tickets = tickets
        self._clock = clock
        self._observer = observer
        self._closing = asyncio.Event()
        self._streams = 0
        self._in_hand = 0  # messages
        self._taking = asyncio.Semaphore(AT_A_TIME)
        self._last_s = clock.monotonic_s()

    def replace(self, tickets: Tickets) -> None:
        """From the next message on."""
        self._tickets = tickets

    def idle_s(self) -> float:
        """For how long nothing has come; without a stream there is nothing to wait for."""
        if not self._streams:
            return math.inf
        return 0.0 if self._in_hand else self._clock.monotonic_s() - self._last_s

    def close(self) -> None:
        """End every stream behind the message that is in hand; Envoy then opens another, to whoever listens."""
        self._closing.set()

    async def __call__(self, messages: AsyncIterator[bytes]) -> bytes:
        """One stream, to its end or to `close`. Raises: OverloadFault — there are too many."""
        if self._streams >= MAX_STREAMS:
            self._observer.entry_dropped("streams")
            raise OverloadFault(f"{MAX_STREAMS} access log streams are open")
        closing: asyncio.Future[Any] = asyncio.ensure_future(self._closing.wait())
        self._streams += 1
        try:
            while (message := await _next(messages, closing)) is not None:
                self._in_hand += 1
                try:
                    async with self._taking:
                        await self._take_apart(message)
                finally:
                    self._in_hand -= 1
                    self._last_s = self._clock.monotonic_s()
        finally:
            self._streams -= 1
            closing.cancel()
        return _END

    async def _take_apart(self, message: bytes) -> None:
        try:
            entries = als_pb2.StreamAccessLogsMessage.FromString(message).http_logs.log_entry
        except DecodeError:
            self._observer.entry_dropped("malformed")
            return
        if len(entries) > MAX_ENTRIES:
            self._observer.entry_dropped("malformed")
        for number, entry in enumerate(entries[:MAX_ENTRIES], start=1):
            if number % _BREATH == 0:
                await asyncio.sleep(0)
            common = entry.common_properties
            if common.access_log_type not in _LAST or common.intermediate_log_entry:
                continue  # a request is settled at its end
            try:
                finished = self._finished(entry)
            except Exception as exc:  # noqa: BLE001 - one entry that we do not understand must not end the stream
                _log.debug("an access log entry cannot be read: %s", type(exc).__name__)
                self._observer.entry_dropped("malformed")
                continue
            await self._take(finished)

    def _finished(self, entry: Any) -> Finished:
        common, request, response = entry.common_properties, entry.request, entry.response
        metadata = common.metadata.filter_metadata
        told = _texts(metadata[_CHECK].fields) if _CHECK in metadata else {}
        model, usage = answered(metadata)
        return Finished(
            hold=self._hold(told.get(TICKET, "")),
            started_s=max(0.0, min(common.start_time.seconds + common.start_time.nanos / 1e9, YEAR_9999_S)),
            duration_s=_duration_s(common),
            method=_METHODS.get(request.request_method, ""),
            path=request.path.partition("?")[0].partition("#")[0],
            status=response.response_code.value,
            is_complete=response.response_code_details == _COMPLETE,
            was_forwarded=common.HasField("upstream_remote_address"),
            client_address=common.downstream_remote_address.socket_address.address,
            request_id=request.request_id,
            route=told.get("route", ""),
            reason=told.get("reason", ""),
            model=model,
            asked_model=asked_model(metadata),
            usage=usage,
        )

    def _hold(self, ticket: str) -> Hold | None:
        if not ticket:
            return None
        hold = self._tickets.open(ticket)
        if hold is None:
            self._observer.entry_dropped("unknown_ticket")
        return hold


async def _next(messages: AsyncIterator[bytes], closing: asyncio.Future[Any]) -> bytes | None:
    """None: the stream has ended, or is to end."""
    reading: asyncio.Future[bytes | None] = asyncio.ensure_future(anext(messages, None))
    try:
        await asyncio.wait((reading, closing), return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not reading.done():
            reading.cancel()
    return reading.result() if reading.done() else None


def _texts(fields: Any) -> dict[str, str]:
    return {name: fields[name].string_value for name in (TICKET, "route", "reason") if name in fields}


def _duration_s(common: Any) -> float:
    """Older Envoys tell the time until the last byte was sent, and no `duration`."""
    told = common.duration if common.HasField("duration") else common.time_to_last_downstream_tx_byte
    return float(told.seconds + told.nanos / 1e9)
