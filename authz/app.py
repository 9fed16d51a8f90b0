"""The composition root: settings → clients → adapters → pipeline. `sidecar` puts servers around it."""

import contextlib
import os
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from authz.adapters.envoy.codec import ResponseStyle
from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.jwt.verifier import CacheCounts, JwtVerifier
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
from authz.ports import Clock, StoreObserver
from authz.settings import Configuration, Settings, build


PATIENCE_S: Final = 5.0  # for a command's calls to the store: people and scripts wait longer than a check may


class SystemClock:
    def now_s(self) -> float:
        return time.time()  # noqa: TID251 - this is the clock

    def monotonic_s(self) -> float:
        return time.monotonic()


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
    settings: Settings,
    observer: StoreObserver,
    *,
    timeout_s: float | None = None,
    data: Path | None = None,
    resident: bool = False,
) -> AsyncGenerator[Store]:
    """The configured store, not connected yet; an embedded one (its files in *data*) is started if nobody has."""
    clock = SystemClock()
    async with contextlib.AsyncExitStack() as stack:
        url = settings.store.url
        if url == "embedded":
            url = (await stack.enter_async_context(EmbeddedStore(data or embedded_folder(), resident=resident))).url
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


@dataclass(frozen=True, slots=True)
class StoreParts:
    """What outlives a configuration: state in the store, and what is remembered of it."""

    store: Store
    ledger: RedisLedger
    records: CachedRecords
    counts: CacheCounts

    @classmethod
    def on(cls, store: Store, clock: Clock, observer: StoreObserver) -> Self:
        return cls(store, RedisLedger(store, clock, observer), CachedRecords(store), CacheCounts())


def authorizer(configuration: Configuration, parts: StoreParts, clock: Clock) -> Authorizer:
    """The pipeline of one configuration."""
    settings = configuration.settings
    audience = (settings.keys.audience,) if settings.keys.audience else ()
    claims = ClaimsPolicy(audience, settings.keys.leeway / 1000)
    return Authorizer(
        policy=build.policy(settings),
        rules=build.credential_rules(settings),
        verifier=JwtVerifier(keyring(configuration), claims, clock, counts=parts.counts),
        records=parts.records,
        ledger=parts.ledger,
        open_on_error=settings.store.on_error == "allow",
    )


def response_style(settings: Settings) -> ResponseStyle:
    forwarded = settings.credentials.forward
    return ResponseStyle(
        format=FORMATS[settings.responses.format],
        ratelimit_styles=settings.responses.ratelimit_headers,
        credential_headers=() if forwarded else tuple({source.header: None for source in settings.credentials.sources}),
    )
