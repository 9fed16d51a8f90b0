"""
The composition root: settings → clients → adapters → servers; and the order of start and drain.

Nothing else knows every concrete class.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from authz import __version__
from authz.adapters.envoy.check import METHOD, SERVICE, CheckHandler
from authz.adapters.envoy.codec import ResponseStyle
from authz.adapters.grpc import server as grpc_server
from authz.adapters.http import operations
from authz.adapters.http.server import HttpServer, bind
from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.jwt.verifier import JwtVerifier
from authz.adapters.logs.observer import LogObserver
from authz.adapters.prometheus.observer import PrometheusObserver
from authz.adapters.redis.client import CLUSTER, Store, connect
from authz.adapters.redis.embedded import EmbeddedStore
from authz.adapters.redis.ledger import RedisLedger
from authz.adapters.redis.records import CachedRecords
from authz.adapters.redis.registry import RedisKeyRegistry
from authz.admin.keys import KeyAdmin
from authz.core.claims import ClaimsPolicy
from authz.core.decision import Decision
from authz.core.problems import FORMATS
from authz.core.request import Request
from authz.pipeline import Authorizer
from authz.ports import Clock, StoreFault, StoreObserver
from authz.settings import Configuration, Settings, build


PROBE_S: Final = 1.0
GRACE_S: Final = 10.0

_log: Final = logging.getLogger(__name__)


class SystemClock:
    def now_s(self) -> float:
        return time.time()  # noqa: TID251 - this is the clock

    def monotonic_s(self) -> float:
        return time.monotonic()


class BusyAddressError(Exception):
    """An address of the configuration cannot be listened on. `field`: the option that changes it."""

    def __init__(self, field: str, address: str, why: str) -> None:
        super().__init__(f"{field}: cannot listen on {address}: {why}. Set {field} to another address")
        self.field = field


@dataclass(frozen=True, slots=True)
class Observers:
    """Each told in turn."""

    all: tuple[PrometheusObserver | LogObserver, ...]

    def decided(self, request: Request, decision: Decision, duration_s: float) -> None:
        for observer in self.all:
            observer.decided(request, decision, duration_s)

    def store_called(self, operation: str, duration_s: float, fault: str | None) -> None:
        for observer in self.all:
            observer.store_called(operation, duration_s, fault)

    def batch_sent(self, checks: int) -> None:
        for observer in self.all:
            observer.batch_sent(checks)

    def store_state(self, state: str) -> None:
        for observer in self.all:
            observer.store_state(state)


def keyring(configuration: Configuration) -> Keyring:
    entries = zip(configuration.settings.keys.keyring, configuration.keyring_secrets, strict=True)
    return Keyring(tuple(VerificationKey(entry.id, entry.algorithm, secret) for entry, secret in entries))


@contextlib.asynccontextmanager
async def open_store(
    settings: Settings, observer: StoreObserver, *, timeout_s: float | None = None, data: Path | None = None
) -> AsyncGenerator[Store]:
    """The configured store, not connected yet; an embedded one (its files in *data*) is started if nobody has."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        url = settings.store.url
        if url == "embedded":
            url = (await stack.enter_async_context(EmbeddedStore(data or embedded_folder()))).url
        store = Store(
            connect(url),
            timeout_s=timeout_s or settings.store.timeout / 1000,
            is_cluster=url.startswith(CLUSTER),
            clock=clock,
            observer=observer,
        )
        stack.push_async_callback(store.close)
        yield store


def embedded_folder() -> Path:
    """`./authz-data`; `$AUTHZ_DATA` is another place for it."""
    return Path(os.environ.get("AUTHZ_DATA", "authz-data"))


def key_admin(configuration: Configuration, store: Store) -> KeyAdmin:
    settings = configuration.settings
    return KeyAdmin(
        registry=RedisKeyRegistry(store),
        signer=JwtSigner(keyring(configuration), settings.keys.audience),
        prefix=settings.keys.prefix,
        known_scopes=build.policy(settings).scopes.names,
    )


def authorizer(
    configuration: Configuration, store: Store, clock: Clock, observer: StoreObserver
) -> tuple[Authorizer, JwtVerifier, RedisLedger]:
    """The pipeline and the parts of it that the sidecar counts and drains."""
    settings = configuration.settings
    audience = (settings.keys.audience,) if settings.keys.audience else ()
    verifier = JwtVerifier(keyring(configuration), ClaimsPolicy(audience, settings.keys.leeway / 1000), clock)
    ledger = RedisLedger(store, clock, observer)
    pipeline = Authorizer(
        policy=build.policy(settings),
        rules=build.credential_rules(settings),
        verifier=verifier,
        records=CachedRecords(store),
        ledger=ledger,
        open_on_error=settings.store.on_error == "allow",
    )
    return pipeline, verifier, ledger


def response_style(settings: Settings) -> ResponseStyle:
    forwarded = settings.credentials.forward
    return ResponseStyle(
        format=FORMATS[settings.responses.format],
        ratelimit_styles=settings.responses.ratelimit_headers,
        credential_headers=() if forwarded else tuple({source.header: None for source in settings.credentials.sources}),
    )


class Sidecar:
    """One process, one event loop: the check on gRPC, health, metrics."""

    def __init__(self, configuration: Configuration) -> None:
        self._configuration = configuration
        self._stopping = asyncio.Event()
        self._store_state = "unknown"

    def stop(self) -> None:
        self._stopping.set()

    async def run(self) -> None:
        """
        Serve until `stop`. Raises: BusyAddressError; EmbeddedStoreError.

        A store that cannot be reached is no reason not to start: the sidecar is not ready until it was, once.
        """
        settings = self._configuration.settings
        prometheus = PrometheusObserver(__version__, compiled=False)
        observers = Observers((prometheus, LogObserver()))
        async with contextlib.AsyncExitStack() as stack:
            metrics_socket = _bound("listen.metrics", settings.listen.metrics.address)
            stack.callback(metrics_socket.close)
            store = await stack.enter_async_context(open_store(settings, observers))
            clock = SystemClock()
            pipeline, verifier, ledger = authorizer(self._configuration, store, clock, observers)
            stack.push_async_callback(ledger.close)
            prometheus.count_tokens(lambda: verifier.counts.hits, lambda: verifier.counts.misses)
            handler = CheckHandler(pipeline.check, response_style(settings), clock, observers)
            health = grpc_server.Health((SERVICE,))
            servers = self._grpc_servers(handler, health)
            operations_app = operations.build(prometheus.exposition, lambda: self._is_ready, self._details)
            metrics = HttpServer(operations_app, metrics_socket)
            tasks = [asyncio.create_task(metrics.run_until_stopped())]
            await health.set(serving=False)
            for server in servers:
                await server.start()
            tasks.append(asyncio.create_task(self._watch(store, observers, health)))
            self._tell_start(settings)
            await self._stopping.wait()
            _log.info("stopping", extra={"fields": {"grace_s": GRACE_S}})
            tasks[1].cancel()
            await health.set(serving=False)  # first of all: no new checks are sent here
            await asyncio.gather(*(server.stop(GRACE_S) for server in servers))
            metrics.stop()
            await asyncio.gather(*tasks, return_exceptions=True)
        _log.info("stopped")

    @property
    def _is_ready(self) -> bool:
        return self._store_state != "unknown" and not self._stopping.is_set()

    def _details(self) -> dict[str, str]:
        return {"store": self._store_state, "stopping": str(self._stopping.is_set()).lower(), "version": __version__}

    def _grpc_servers(self, handler: CheckHandler, health: grpc_server.Health) -> list[grpc_server.Server]:
        listen = self._configuration.settings.listen
        servers = []
        wanted = [("listen.authz", listen.authz, {SERVICE: {METHOD: handler}})]
        if listen.grpc is not None:
            wanted.append(("listen.grpc", listen.grpc, {}))
        for field, listener, services in wanted:
            try:
                servers.append(grpc_server.build(listener.address, services, health))
            except grpc_server.ListenError as exc:
                raise BusyAddressError(field, listener.address, "the address is in use or not of this host") from exc
        return servers

    async def _watch(self, store: Store, observer: StoreObserver, health: grpc_server.Health) -> None:
        """Follow the state of the store: one metric, one log line per change, and readiness once it was reached."""
        told = ""
        while True:
            try:
                state, detail = await store.probe(), ""
            except StoreFault as fault:
                state, detail = "down", str(fault)
            if state == "up" and self._store_state != "up":
                await _warn_of_eviction(store)
            if state != self._store_state and (state != "down" or self._store_state != "unknown"):
                observer.store_state(state)
                await health.set(serving=True)
                self._store_state = state
            elif self._store_state == "unknown" and detail != told:
                told = detail
                _log.warning("not ready: %s", detail, extra={"fields": {"store": "down"}})
            await asyncio.sleep(PROBE_S)

    def _tell_start(self, settings: Settings) -> None:
        listen = settings.listen
        fields = {
            "version": __version__,
            "config": self._configuration.source,
            "authz": listen.authz.address,
            "grpc": listen.grpc.address if listen.grpc else None,
            "metrics": listen.metrics.address,
            "server": "grpcio",
        }
        _log.info("serving", extra={"fields": fields})


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


async def serve(configuration: Configuration) -> None:
    """Run a sidecar until SIGTERM or SIGINT."""
    sidecar = Sidecar(configuration)
    loop = asyncio.get_running_loop()
    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, sidecar.stop)
    await sidecar.run()
