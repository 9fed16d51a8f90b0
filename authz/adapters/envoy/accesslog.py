"""
Envoy's access log (`envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs`): entries in, finished requests out.

Envoy sends entries in batches on a stream that it never ends, and is told nothing back: what it could not send is lost.
So a stream is read no faster than its entries are taken, and HTTP/2's flow control makes Envoy wait.
"""

import asyncio
import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any, Final

from envoy.config.core.v3 import base_pb2
from envoy.data.accesslog.v3 import accesslog_pb2
from envoy.service.accesslog.v3 import als_pb2
from google.protobuf.message import DecodeError

from authz.adapters.envoy.bodies import answered, asked_model
from authz.adapters.envoy.ticket import TICKET, Tickets
from authz.core.claims import YEAR_9999_S
from authz.core.settlement import Finished, Hold
from authz.ports import Clock, SettlementObserver


SERVICE: Final = "envoy.service.accesslog.v3.AccessLogService"
METHOD: Final = "StreamAccessLogs"

_END: Final = b""  # StreamAccessLogsResponse has no fields
_CHECK: Final = "envoy.filters.http.ext_authz"  # where the filter puts what the check has told
_COMPLETE: Final = "via_upstream"  # the answer's details, where it was the upstream's and came to its end
MAX_STREAMS: Final = 256  # at a time; one more is ended at once
AT_A_TIME: Final = 4  # messages that are taken apart: one takes fifteen times its own size
_BREATH: Final = 16  # entries after which others get their turn: a message may hold thousands, and checks cannot wait
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
        self._taking = asyncio.Semaphore(AT_A_TIME)
        self._last_s = clock.monotonic_s()

    def replace(self, tickets: Tickets) -> None:
        """From the next message on."""
        self._tickets = tickets

    def idle_s(self) -> float:
        """For how long no entry has come; without a stream there is nothing to wait for."""
        return self._clock.monotonic_s() - self._last_s if self._streams else math.inf

    def close(self) -> None:
        """End every stream once what it has sent is taken; Envoy then opens another, to whoever listens."""
        self._closing.set()

    async def __call__(self, messages: AsyncIterator[bytes]) -> bytes:
        """One stream, to its end or to `close`."""
        if self._streams >= MAX_STREAMS:
            _log.warning("an access log stream is refused: there are too many")
            return _END
        closing: asyncio.Future[Any] = asyncio.ensure_future(self._closing.wait())
        self._streams += 1
        try:
            while (message := await _next(messages, closing)) is not None:
                async with self._taking:
                    for number, finished in enumerate(self._read(message), start=1):
                        await self._take(finished)
                        if number % _BREATH == 0:
                            await asyncio.sleep(0)
                self._last_s = self._clock.monotonic_s()
        finally:
            self._streams -= 1
            closing.cancel()
        return _END

    def _read(self, message: bytes) -> Iterator[Finished]:
        try:
            entries = als_pb2.StreamAccessLogsMessage.FromString(message).http_logs.log_entry
        except DecodeError:
            self._observer.entry_dropped("malformed")
            return
        for entry in entries:
            if entry.common_properties.access_log_type not in _LAST or entry.common_properties.intermediate_log_entry:
                continue  # a request is settled at its end
            try:
                yield self._finished(entry)
            except Exception:  # noqa: BLE001 - one entry that we do not understand must not end the stream
                _log.exception("an access log entry cannot be read")
                self._observer.entry_dropped("malformed")

    def _finished(self, entry: Any) -> Finished:
        common, request, response = entry.common_properties, entry.request, entry.response
        metadata = common.metadata.filter_metadata
        told = _texts(metadata[_CHECK].fields) if _CHECK in metadata else {}
        model, usage = answered(metadata)
        return Finished(
            hold=self._hold(told.get(TICKET, "")),
            started_s=max(0.0, min(common.start_time.seconds + common.start_time.nanos / 1e9, YEAR_9999_S)),
            duration_s=_duration_s(common),
            method=base_pb2.RequestMethod.Name(request.request_method) if request.request_method else "",
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
