"""`authz serve`: one process, one event loop; the order of start and drain, reloading, watching the store."""

import asyncio
import contextlib
import gc
import json
import logging
import resource
import signal
import socket
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from authz import __version__
from authz.adapters.admin.service import OPEN
from authz.adapters.envoy import accesslog
from authz.adapters.envoy.accesslog import AccessLog
from authz.adapters.envoy.check import METHOD, SERVICE, CheckHandler
from authz.adapters.grpc import server as grpc_server
from authz.adapters.grpc.server import Unary
from authz.adapters.http import openapi, operations, rest
from authz.adapters.http.server import HttpServer, bind
from authz.adapters.http2 import server as http2
from authz.adapters.logs.observer import LogObserver
from authz.adapters.prometheus.observer import PrometheusObserver
from authz.adapters.redis.books import RedisBooks
from authz.adapters.redis.client import Store
from authz.adapters.rpc import Replaceable, Service
from authz.admin.actor import Actor
from authz.app import (
    Observers,
    StoreParts,
    SystemClock,
    authorizer,
    descriptors,
    key_admin,
    key_service,
    open_store,
    portals,
    response_style,
    tickets,
)
from authz.compiled import IS_COMPILED
from authz.core.problems import FORMATS
from authz.ports import OverloadFault, StoreFault
from authz.settings import Configuration, Settings, SettingsError, build
from authz.settings.crosscheck import is_local
from authz.settlement import Settlement


PROBE_S: Final = 1.0
REWRAP_AGAIN_S: Final = 60.0
GRACE_S: Final = 5.0
CHECK_GRACE_S: Final = 2.0  # a check ends by itself within its time-outs
IDLE_S: Final = 0.2
LAME_DUCK_S: Final = 5.0
LOG_IDLE_S: Final = 1.2  # of the access log: Envoy keeps entries back for 0.1 s as we configure it, for 1 s by default
LOG_END_S: Final = 3.0
SETTLE_S: Final = 5.0
_FIXED: Final = ("listen", "server", "store")  # what a reload cannot change; store.on_error aside

_log: Final = logging.getLogger(__name__)


class BusyAddressError(Exception):
    """An address of the configuration cannot be listened on. `field`: the option that changes it."""

    def __init__(self, field: str, address: str, why: str) -> None:
        super().__init__(f"{field}: cannot listen on {address}: {why}. Set {field} to another address")
        self.field = field


class CheckServer(Protocol):
    """What serves the check: grpcio, or ours."""

    async def start(self) -> None: ...

    async def stop(self, grace_s: float | None) -> None: ...


class _Front:
    """What is served over HTTP, which can be replaced from the next request on."""

    def __init__(self, application: ASGIApp) -> None:
        self.application = application

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.application(scope, receive, send)


class Sidecar:
    """The check and the admin API, health, metrics. `load` reads the configuration anew."""

    def __init__(self, load: Callable[[], Configuration], watched: Path | None = None) -> None:
        self._load = load
        self._watched = watched
        self._stamp = _stamp(watched)  # of the file as it was read last
        self._configuration = load()
        self._stopping = asyncio.Event()
        self._failure: BaseException | None = None
        self._store_state = "unknown"
        self._rewrapping: set[asyncio.Task[None]] = set()
        self._clock = SystemClock()
        self._prometheus = PrometheusObserver(__version__, compiled=IS_COMPILED)
        self._observers = Observers((self._prometheus, LogObserver()))
        self._health = grpc_server.Health((SERVICE,))
        self._handler: CheckHandler | None = None
        self._service: Replaceable[Actor] | None = None
        self._front: _Front | None = None
        self._log: AccessLog | None = None

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """
        Serve until `stop`. Raises: BusyAddressError; EmbeddedStoreError.

        A store that cannot be reached is no reason not to start: the sidecar is not ready until it was, once.
        """
        settings = self._configuration.settings
        async with contextlib.AsyncExitStack() as stack:
            metrics_socket = _bound("listen.metrics", settings.listen.metrics.address)
            stack.callback(metrics_socket.close)
            http_socket = _bound("listen.http", settings.listen.http.address) if settings.listen.http else None
            if http_socket is not None:
                stack.callback(http_socket.close)
            store = await stack.enter_async_context(open_store(settings, self._observers, resident=True))
            self._parts = StoreParts.on(store, self._clock, self._observers)
            stack.push_async_callback(self._parts.ledger.close)
            stack.callback(self._parts.hasher.close)
            stack.callback(self._parts.prompts.close)
            self._prometheus.count_tokens(lambda: self._parts.counts.hits, lambda: self._parts.counts.misses)
            pipeline = authorizer(self._configuration, self._parts, self._clock)
            style = response_style(self._configuration)
            handler = CheckHandler(pipeline.check, style, self._clock, self._observers)
            service = Replaceable(key_service(self._configuration, self._parts, self._clock, self._observers))
            settlement = Settlement(RedisBooks(store), self._clock, self._observers)
            self._prometheus.count_waiting(lambda: settlement.waiting)
            log = AccessLog(settlement.take, tickets(self._configuration), self._clock, self._observers)
            check = self._check_server(settings, handler)
            others = self._other_servers(settings, service, log)
            application = operations.build(self._prometheus.exposition, lambda: self._is_ready, self._details)
            metrics = HttpServer(application, metrics_socket)
            offered = portals(self._configuration, self._parts, self._clock, self._observers)
            front = _Front(self._rest([service, *offered]))
            doors = [HttpServer(front, http_socket)] if http_socket is not None else []
            tasks = [self._supervised(server.run_until_stopped()) for server in (metrics, *doors)]
            await self._health.set(serving=False)
            for server in (check, *others):
                await server.start()
            watching = (self._watch_store(store), self._watch_file(), _spare_the_collector())
            watches = [self._supervised(watch) for watch in watching]
            settling = self._supervised(settlement.run())
            self._handler, self._service, self._front, self._log = handler, service, front, log
            self._start_rewrapping()
            self._tell_start(settings)
            _tell_warnings(self._configuration)
            await self._stopping.wait()
            for watch in (*watches, *self._rewrapping):
                watch.cancel()
            await asyncio.gather(*watches, *self._rewrapping, return_exceptions=True)
            await self._drain(handler, log, check, others)
            if not settling.done():
                await settlement.drain(SETTLE_S)
            settling.cancel()
            for door in (metrics, *doors):
                door.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
        _log.info("stopped")
        if self._failure is not None:
            raise self._failure

    def _supervised(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """What serves in the background may not end unseen: an error there is a bug, and ends the sidecar."""
        task = asyncio.create_task(work)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a background task failed: stopping", exc_info=error)
            self._failure = error
            self.stop()

    async def _drain(
        self,
        handler: CheckHandler,
        log: AccessLog,
        check: CheckServer,
        others: Sequence[grpc_server.Server],
    ) -> None:
        """
        Not ready first; then serve on until nothing was under way for a moment; then end the server of the check, and
        behind it the access log's, as the log of what was just checked comes a little later.

        grpcio, once stopped, cancels what it has received and not begun: so it is stopped when it is idle, or, where
        checks keep coming, after `LAME_DUCK_S`.
        """
        _log.info("stopping", extra={"fields": {"grace_s": GRACE_S}})
        await self._health.set(serving=False)
        await self._until(lambda: handler.idle_s() >= IDLE_S, LAME_DUCK_S)
        await check.stop(CHECK_GRACE_S)
        if others:  # what was let in a moment ago is told in a moment, perhaps on a stream that is not open yet
            await self._until(lambda: min(handler.idle_s(), log.idle_s()) >= LOG_IDLE_S, LOG_END_S)
        log.close()
        await asyncio.gather(*(server.stop(GRACE_S) for server in others))

    async def _until(self, condition: Callable[[], bool], within_s: float) -> None:
        deadline_s = self._clock.monotonic_s() + within_s
        while not condition() and self._clock.monotonic_s() < deadline_s:  # noqa: ASYNC110 - idleness has no event
            await asyncio.sleep(IDLE_S / 4)

    def reload(self) -> None:
        """Take the configuration anew; one with a fault is refused, told and counted, and the old one serves on."""
        if self._handler is None or self._service is None or self._front is None or self._log is None:
            return  # still starting, with the configuration as it is
        self._stamp = _stamp(self._watched)
        try:
            fresh = self._load()
            pipeline = authorizer(fresh, self._parts, self._clock)
            service = key_service(fresh, self._parts, self._clock, self._observers)
            offered = portals(fresh, self._parts, self._clock, self._observers)
        except SettingsError as error:
            self._prometheus.reloaded(accepted=False)
            faults = [str(fault) for fault in error.faults]
            _log.error("the new configuration has faults: the old one serves on", extra={"fields": {"faults": faults}})
            return
        self._handler.replace(pipeline.check, response_style(fresh))
        self._log.replace(tickets(fresh))
        self._service.replace(service)
        self._front.application = self._rest([self._service, *offered])
        self._tell_reload(self._configuration.settings, fresh.settings)
        _tell_warnings(fresh)
        self._configuration = fresh
        self._start_rewrapping()
        self._prometheus.reloaded(accepted=True)

    @staticmethod
    def _tell_reload(old: Settings, new: Settings) -> None:
        same = {"on_error": old.store.on_error}
        changed = [name for name in _FIXED if getattr(old, name) != getattr(new, name)]
        if new.store.model_copy(update=same) == old.store and "store" in changed:
            changed.remove("store")
        if _largest_check(new) > _largest_check(old):
            changed.append("request_rules.max_body")
        _log.info("the configuration was reloaded", extra={"fields": {"needs_restart": changed}})

    @property
    def _is_ready(self) -> bool:
        return self._store_state != "unknown" and not self._stopping.is_set()

    def _details(self) -> dict[str, str]:
        return {"store": self._store_state, "stopping": str(self._stopping.is_set()).lower(), "version": __version__}

    def _rest(self, services: Sequence[Service[Actor]]) -> ASGIApp:
        names = [service.descriptor.full_name for service in services]
        described = openapi.document(descriptors(), names, title="authz", version=__version__, public=OPEN)
        document = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
        return rest.build(
            services,
            lambda: FORMATS[self._configuration.settings.responses.format],
            documents={"/authz/v1/openapi.json": lambda: document},
        )

    def _start_rewrapping(self) -> None:
        """After a start or a reload the keyring's first secret may be another: retained tokens are sealed under it."""
        if self._configuration.settings.keys.retain_token:
            task = self._supervised(self._rewrap(self._configuration))
            self._rewrapping.add(task)
            task.add_done_callback(self._rewrapping.discard)

    async def _rewrap(self, configuration: Configuration) -> None:
        """Until it is done: the old secret may go once the log says so."""
        kept = key_admin(configuration, self._parts.store, self._observers).kept
        wait_s = PROBE_S
        while configuration is self._configuration:
            try:
                wrapped, left = await kept.rewrap()
            except StoreFault as fault:
                level = logging.DEBUG if self._store_state in {"unknown", "empty"} else logging.WARNING
                _log.log(level, "retained tokens are not all sealed anew yet: %s", fault)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, REWRAP_AGAIN_S)
                continue
            fields = {"sealed_anew": wrapped, "unreadable": left}
            if left:
                _log.warning(
                    "retained tokens are sealed under a secret that the keyring has no more", extra={"fields": fields}
                )
            else:
                _log.info("every retained token is sealed under the keyring's first secret", extra={"fields": fields})
            return

    def _check_server(self, settings: Settings, handler: CheckHandler) -> CheckServer:
        """Raises: BusyAddressError."""
        address, largest = settings.listen.authz.address, _largest_check(settings)
        check: dict[str, dict[str, Unary]] = {SERVICE: {METHOD: handler}}
        with _listening("listen.authz", address):
            if _is_fast(settings):
                return http2.build(address, check | self._health.unary, max_message_bytes=largest)
            return grpc_server.build(address, check, self._health, max_message_bytes=largest)

    def _other_servers(
        self, settings: Settings, service: Replaceable[Actor], log: AccessLog
    ) -> list[grpc_server.Server]:
        """Raises: BusyAddressError."""
        if settings.listen.grpc is None:
            return []
        address = settings.listen.grpc.address
        streams = {accesslog.SERVICE: {accesslog.METHOD: log}}
        with _listening("listen.grpc", address):
            return [grpc_server.build(address, {}, self._health, rpc=[service], streams=streams)]

    async def _watch_store(self, store: Store) -> None:
        """Follow the state of the store: a metric, a log line per change, and readiness once it was reached."""
        told = ""
        while True:
            try:
                state, detail = await store.probe(), ""
                if state == "up" and self._store_state != "up":
                    await _warn_of_eviction(store)
            except OverloadFault as fault:  # of the sidecar's own: nothing is known of the store
                state, detail = self._store_state, str(fault)
            except StoreFault as fault:
                state, detail = "down", str(fault)
            if state != self._store_state and (state != "down" or self._store_state != "unknown"):
                self._observers.store_state(state)
                await self._health.set(serving=True)
                self._store_state = state
            elif self._store_state == "unknown" and detail != told:
                told = detail
                _log.warning("not ready: %s", detail, extra={"fields": {"store": "down"}})
            await asyncio.sleep(PROBE_S)

    async def _watch_file(self) -> None:
        """Reload when the file has changed; a ConfigMap's is a link to a link, so the end of the chain counts."""
        while self._watched is not None:
            await asyncio.sleep(PROBE_S)
            now = _stamp(self._watched)
            if now is not None and now != self._stamp:
                self.reload()

    def _tell_start(self, settings: Settings) -> None:
        listen = settings.listen
        fields = {
            "version": __version__,
            "config": self._configuration.source,
            "authz": listen.authz.address,
            "grpc": listen.grpc.address if listen.grpc else None,
            "http": listen.http.address if listen.http else None,
            "metrics": listen.metrics.address,
            "server": "fast" if _is_fast(settings) else "grpcio",
            "open_files": resource.getrlimit(resource.RLIMIT_NOFILE)[0],  # as many as there may be
        }
        _log.info("serving", extra={"fields": fields})


def _tell_warnings(configuration: Configuration) -> None:
    for warning in configuration.warnings:
        _log.warning("the configuration may not be what is meant: %s", warning)


async def _spare_the_collector() -> None:
    """
    What has lived for a second is remembered for long, and no cycle: a collection that walks through all of it holds up
    every check for a quarter of a second. Counting references frees it as ever.
    """
    while True:
        gc.freeze()
        await asyncio.sleep(PROBE_S)


def _largest_check(settings: Settings) -> int:
    """In bytes: the body that its rules may have to see, and the headers."""
    return grpc_server.MAX_MESSAGE_BYTES + build.largest_body(settings)


@contextlib.contextmanager
def _listening(field: str, address: str) -> Iterator[None]:
    """Raises: BusyAddressError."""
    try:
        yield
    except (grpc_server.ListenError, http2.ListenError) as exc:
        raise BusyAddressError(field, address, "the address is in use or not of this host") from exc


def _is_fast(settings: Settings) -> bool:
    """Ours takes plain connections of this host alone; grpcio takes all."""
    return settings.server != "grpcio" and is_local(settings.listen.authz.address)


def _stamp(file: Path | None) -> tuple[str, int, int] | None:
    """What changes when a file is written or replaced; None: it is not there (between two moments of a swap)."""
    try:
        status = file.stat() if file else None
    except OSError:
        return None
    return (str(file.resolve()), status.st_mtime_ns, status.st_size) if file and status else None


async def _warn_of_eviction(store: Store) -> None:
    policy = await store.eviction_policy()
    if policy not in {None, "noeviction"}:
        _log.warning(
            "the store may evict keys (maxmemory-policy %s): revocations could be lost; set noeviction", policy
        )


def _bound(field: str, address: str) -> socket.socket:
    try:
        return bind(address)
    except OSError as exc:
        raise BusyAddressError(field, address, exc.strerror or str(exc)) from exc


async def serve(load: Callable[[], Configuration], watched: Path | None = None) -> None:
    """Run a sidecar until SIGTERM or SIGINT; SIGHUP reloads, and so does a change of *watched*."""
    sidecar = Sidecar(load, watched)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, sidecar.stop)
    loop.add_signal_handler(signal.SIGHUP, sidecar.reload)
    await sidecar.run()
