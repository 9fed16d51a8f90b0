"""The composition root: settings → clients → adapters → pipeline. `sidecar` puts servers around it."""

import contextlib
import os
import time
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from typing import Any, Final, Self

from authz.adapters.admin.service import ROUTE, KeyService
from authz.adapters.argon2.hasher import Argon2Hasher
from authz.adapters.crypto.vault import AesVault
from authz.adapters.door import Door
from authz.adapters.envoy.codec import ResponseStyle
from authz.adapters.envoy.ticket import Tickets
from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.jwt.verifier import SESSION_TYPE, CacheCounts, JwtVerifier
from authz.adapters.logs.observer import LogObserver
from authz.adapters.portal import inferexai, inferno, vinfer
from authz.adapters.prometheus.observer import PrometheusObserver
from authz.adapters.prompts import PromptReader
from authz.adapters.redis.client import CLUSTER, Store, connect
from authz.adapters.redis.embedded import EmbeddedStore
from authz.adapters.redis.ledger import RedisLedger
from authz.adapters.redis.opaque import RedisOpaqueTokens
from authz.adapters.redis.records import CachedRecords
from authz.adapters.redis.registry import RedisKeyRegistry
from authz.adapters.redis.usage import RedisUsageReports
from authz.adapters.redis.users import RedisUserRegistry
from authz.adapters.rpc import Service
from authz.admin.actor import ADMIN, Actor
from authz.admin.answers import Answers
from authz.admin.keys import KeyAdmin
from authz.admin.retention import Retention
from authz.admin.usage import UsageAdmin
from authz.admin.users import Login, UserAdmin
from authz.core.claims import ClaimsPolicy
from authz.core.decision import Decision
from authz.core.event import Event
from authz.core.pepper import Peppers
from authz.core.policy import Policy
from authz.core.problems import FORMATS
from authz.core.request import Request
from authz.core.scope import ScopeTable
from authz.core.settlement import Booked, Booking, Finished
from authz.pipeline import Authorizer, CredentialRules
from authz.ports import AuditObserver, Clock, NewToken, StoreObserver
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

    def changed(self, event: Event) -> None:
        for observer in self.all:
            observer.changed(event)

    def finished(self, finished: Finished) -> None:
        for observer in self.all:
            observer.finished(finished)

    def settled(self, booking: Booking, booked: Booked, lag_s: float) -> None:
        for observer in self.all:
            observer.settled(booking, booked, lag_s)

    def entry_dropped(self, why: str) -> None:
        for observer in self.all:
            observer.entry_dropped(why)


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


def peppers(configuration: Configuration) -> Peppers:
    return Peppers(configuration.peppers)


def key_admin(configuration: Configuration, store: Store, observer: AuditObserver) -> KeyAdmin:
    """Without secrets (*configuration* was loaded so): reading and revoking work, making tokens does not."""
    keys, secrets = configuration.settings.keys, configuration.keyring_secrets
    registry = RedisKeyRegistry(store)
    return KeyAdmin(
        registry=registry,
        signer=JwtSigner(keyring(configuration), keys.audience) if secrets else _NoSigner(),
        peppers=peppers(configuration),
        prefix=keys.prefix,
        kind=keys.kind,
        scopes=ScopeTable(dict(configuration.settings.scopes)),
        observer=observer,
        kept=Retention(registry, AesVault(secrets, "retained token") if keys.retain_token and secrets else None),
        foreign=not keys.require_record,
    )


class _NoSigner:
    def sign(self, token: NewToken) -> str:
        raise RuntimeError(f"no secrets were loaded to sign {token.jti} with")


def user_admin(configuration: Configuration, store: Store, observer: AuditObserver) -> UserAdmin:
    return UserAdmin(
        registry=RedisUserRegistry(store),
        hasher=Argon2Hasher(),
        scopes=ScopeTable(dict(configuration.settings.scopes)),
        observer=observer,
        keys=key_admin(configuration, store, observer),
    )


def command_service(configuration: Configuration, store: Store, observer: AuditObserver) -> KeyService:
    """KeyService for the command line: straight in the store, as nobody's caller."""
    keys = key_admin(configuration, store, observer)
    vault = AesVault(configuration.keyring_secrets or (os.urandom(32),), "remembered answer")
    usage = UsageAdmin(keys.registry, RedisUsageReports(store))
    return KeyService(door=None, keys=keys, usage=usage, answers=Answers(keys.registry, vault), login=None)


@dataclass(frozen=True, slots=True)
class StoreParts:
    """What outlives a configuration: state in the store, and what is remembered of it."""

    store: Store
    ledger: RedisLedger
    records: CachedRecords
    counts: CacheCounts
    hasher: Argon2Hasher = field(default_factory=Argon2Hasher)
    prompts: PromptReader = field(default_factory=PromptReader)

    @classmethod
    def on(cls, store: Store, clock: Clock, observer: StoreObserver) -> Self:
        return cls(store, RedisLedger(store, clock, observer), CachedRecords(store), CacheCounts())


def authorizer(configuration: Configuration, parts: StoreParts, clock: Clock) -> Authorizer:
    """The pipeline of one configuration."""
    settings = configuration.settings
    return _authorizer(
        configuration,
        parts,
        clock,
        policy=build.policy(settings),
        rules=build.credential_rules(settings),
        sessions=settings.keys.accept_sessions,
    )


def _authorizer(
    configuration: Configuration,
    parts: StoreParts,
    clock: Clock,
    *,
    policy: Policy,
    rules: CredentialRules,
    sessions: bool,
) -> Authorizer:
    settings = configuration.settings
    leeway_s = settings.keys.leeway / 1000
    claims = ClaimsPolicy((settings.keys.audience,) if settings.keys.audience else (), leeway_s)
    session_claims = ClaimsPolicy((settings.login.audience,), leeway_s, sessions=True) if sessions else None
    return Authorizer(
        policy=policy,
        rules=rules,
        verifier=JwtVerifier(keyring(configuration), claims, clock, counts=parts.counts, sessions=session_claims),
        opaque=RedisOpaqueTokens(parts.store, peppers(configuration)),
        records=parts.records,
        ledger=parts.ledger,
        prompts=parts.prompts,
        clock=clock,
    )


def key_service(configuration: Configuration, parts: StoreParts, clock: Clock, observer: "Observers") -> KeyService:
    """
    KeyService for a running sidecar. Its doors take keys that have a record, and sessions; they are never open because
    the store is away.
    """
    doors = _Doors(configuration, parts, clock, observer)
    keys = key_admin(configuration, parts.store, observer)
    answers = Answers(keys.registry, AesVault(configuration.keyring_secrets, "remembered answer"))
    usage = UsageAdmin(keys.registry, RedisUsageReports(parts.store))
    door = doors.open(KeyService.descriptor, ROUTE, ADMIN)
    return KeyService(door=door, keys=keys, usage=usage, answers=answers, login=doors.login())


def portals(
    configuration: Configuration, parts: StoreParts, clock: Clock, observer: "Observers"
) -> list[Service[Actor]]:
    """The portals that the configuration names. Their doors are as KeyService's, but for whom they let in."""
    doors = _Doors(configuration, parts, clock, observer)
    keys = key_admin(configuration, parts.store, observer)
    makers: dict[str, Callable[[str], Service[Actor]]] = {
        "inferexai": lambda name: inferexai.InferexaiPortal(
            doors.open(inferexai.DESCRIPTOR, name, "", keys=False), keys
        ),
        "inferno": lambda name: inferno.InfernoPortal(
            doors.open(inferno.DESCRIPTOR, name, inferno.SCOPE), keys, doors.login()
        ),
        "vinfer": lambda name: vinfer.VinferPortal(doors.open(vinfer.DESCRIPTOR, name, ADMIN, sessions=False), keys),
    }
    return [makers[name](f"portal-{name}") for name in configuration.settings.portals]


@dataclass(frozen=True, slots=True)
class _Doors:
    """To the services of one configuration."""

    configuration: Configuration
    parts: StoreParts
    clock: Clock
    observer: "Observers"

    def open(self, descriptor: Any, route: str, scope: str, *, keys: bool = True, sessions: bool = True) -> Door:
        """
        Args:
            descriptor: Of the service behind it.
            route: What its calls are called in metrics, logs and limits.
            scope: That callers need; empty: none.
            keys: API keys are let in; where they are not, every user has to do with what is this user's own alone.
            sessions: Users who have logged in are let in.
        """
        settings = self.configuration.settings
        pipeline = _authorizer(
            self.configuration,
            self.parts,
            self.clock,
            policy=build.admin_policy(settings, route, scope),
            rules=replace(build.door_rules(settings), sessions_alone=not keys),
            sessions=sessions,
        )
        return Door(
            service=descriptor.full_name,
            check=pipeline.check,
            observer=self.observer,
            clock=self.clock,
            ratelimit_styles=settings.responses.ratelimit_headers,
            trusted_proxies=build.trusted_proxies(settings),
            own_alone=not keys,
            sessions_alone=not keys,
        )

    def login(self) -> Login:
        settings = self.configuration.settings
        return Login(
            users=RedisUserRegistry(self.parts.store),
            hasher=self.parts.hasher,
            ledger=self.parts.ledger,
            signer=JwtSigner(keyring(self.configuration), settings.login.audience, SESSION_TYPE),
            lifetime_s=settings.login.lifetime // 1000,
            per_user=settings.login.limits.per_user,
            per_address=settings.login.limits.per_address,
        )


def descriptors() -> bytes:
    """Our protos with their comments, as `make proto` left them."""
    return resources.files("authz.pb").joinpath("descriptors.binpb").read_bytes()


def tickets(configuration: Configuration) -> Tickets:
    return Tickets(configuration.keyring_secrets)


def response_style(configuration: Configuration) -> ResponseStyle:
    settings = configuration.settings
    forwarded = settings.credentials.forward
    return ResponseStyle(
        format=FORMATS[settings.responses.format],
        ratelimit_styles=settings.responses.ratelimit_headers,
        credential_headers=() if forwarded else tuple({source.header: None for source in settings.credentials.sources}),
        tickets=tickets(configuration),
    )
