"""KeyService behind its real doors, and one client for both: asked and answered is the same, whatever the door."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol

import grpc
import httpx
import redis
from argon2 import PasswordHasher
from google.protobuf.message_factory import GetMessageClass
from grpc import aio

from authz.adapters.admin.service import DESCRIPTOR, KeyService
from authz.adapters.argon2.hasher import Argon2Hasher
from authz.adapters.grpc import server as grpc_server
from authz.adapters.http import rest
from authz.adapters.http.server import HttpServer, bind
from authz.adapters.logs.observer import LogObserver
from authz.adapters.prometheus.observer import PrometheusObserver
from authz.adapters.protojson import parse, render
from authz.adapters.redis.books import RedisBooks
from authz.adapters.redis.client import CLUSTER, Store, connect
from authz.adapters.redis.users import RedisUserRegistry
from authz.adapters.rpc import Service
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import IssuedKey, NewKey
from authz.admin.users import NewUser, UserAdmin
from authz.app import Observers, StoreParts, key_admin, key_service
from authz.core.bucket import Limit
from authz.core.decision import Decision
from authz.core.event import Action, Event
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.core.problems import FORMATS
from authz.core.scope import ScopeTable
from authz.core.settlement import Booked, Booking, Hold, Outcome
from authz.core.units import rfc3339
from authz.demo.processes import free_port
from authz.pipeline import Authorizer
from authz.settings import Configuration, Settings
from tests.support.parts import CLOCK, PEPPER, SECRET, Parts, parts, pipeline, request


DOORS: Final = ("grpc", "rest")
METHODS: Final = tuple(method.name for method in DESCRIPTOR.methods)
PASSWORD: Final = "correct horse battery staple"
NO_SUCH_KEY: Final = "key_0123456700abcdefghij"
PLENTY: Final = {"requests": Limit(1_000_000, 1)}
_STATUS: Final = {
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.ABORTED: 409,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.UNAVAILABLE: 503,
}


@dataclass(frozen=True)
class Answer:
    """`status`: HTTP's, or what gRPC's stands for; of a refusal, `reason` and `field` as the door tells them."""

    status: int
    json: dict[str, Any]
    headers: Mapping[str, str] = field(compare=False)
    reason: str = ""
    field: str = ""
    message: str = ""


class Client(Protocol):
    async def call(
        self,
        method: str,
        values: Mapping[str, Any],
        credential: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer: ...


@dataclass(frozen=True)
class GrpcClient:
    channel: aio.Channel

    async def call(
        self,
        method: str,
        values: Mapping[str, Any],
        credential: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        described = DESCRIPTOR.methods_by_name[method]
        asked: Any = self.channel.unary_unary(
            f"/{DESCRIPTOR.full_name}/{method}",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=GetMessageClass(described.output_type).FromString,
        )
        try:
            made = parse(dict(values), GetMessageClass(described.input_type))
            return Answer(200, render(await asked(made, metadata=[*_sent(credential, headers)], timeout=20)), {})
        except aio.AioRpcError as error:
            told = {name: str(value) for name, value in error.trailing_metadata() or ()}
            reason, at_fault, message = told.get("authz-reason", ""), told.get("authz-field", ""), error.details() or ""
            body = {"reason": reason, "field": at_fault, "message": message}
            return Answer(_STATUS.get(error.code(), 500), body, told, reason, at_fault, message)


@dataclass(frozen=True)
class RestClient:
    """Speaks to doors whose refusals have the format `problem`, which names the reason."""

    http: httpx.AsyncClient

    async def call(
        self,
        method: str,
        values: Mapping[str, Any],
        credential: str | None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        verb, path, body = rest.binding(DESCRIPTOR, method).expand(values)
        sent = [*_sent(credential, headers)]
        if body is not None:
            sent.append(("content-type", "application/json"))
        response = await self.http.request(verb, path, headers=sent, content=body)
        told = response.json()
        if response.status_code == 200:
            return Answer(200, told, response.headers)
        assert response.headers["content-type"] == "application/problem+json"
        at_fault = told["error"]["param"] or ""
        return Answer(response.status_code, told, response.headers, told["reason"], at_fault, told["detail"])


def _sent(credential: str | None, headers: Mapping[str, str] | None) -> list[tuple[str, str]]:
    held = [] if credential is None else [("authorization", f"Bearer {credential}")]
    return [*held, *(headers or {}).items()]


@dataclass(frozen=True)
class Caller:
    """Somebody at a door."""

    client: Client
    credential: str | None
    headers: Mapping[str, str] = field(default_factory=dict)

    async def call(self, method: str, **values: Any) -> Answer:
        return await self.client.call(method, values, self.credential, self.headers)

    async def ok(self, method: str, **values: Any) -> dict[str, Any]:
        answer = await self.call(method, **values)
        assert answer.status == 200, (method, answer)
        return answer.json

    async def refused(self, status: int, method: str, **values: Any) -> Answer:
        answer = await self.call(method, **values)
        assert answer.status == status, (method, answer)
        return answer

    def with_headers(self, **headers: str) -> "Caller":
        """Underscores in their names stand for hyphens."""
        return replace(self, headers={name.replace("_", "-"): value for name, value in headers.items()})

    async def all(self, method: str = "ListKeys", **values: Any) -> list[dict[str, Any]]:
        """Every key or event, page by page."""
        found: list[dict[str, Any]] = []
        token = ""
        while True:
            page = await self.ok(method, page_token=token, **values)
            found += page["keys" if method == "ListKeys" else "events"]
            token = page["next_page_token"]
            if not token:
                return found


@dataclass(frozen=True)
class Used:
    """A request with *key* that is over. `at_us`: when it was decided, by the store's clock."""

    key: KeyRecord
    at_us: int
    model: str = ""
    input_tokens: int = 0
    output_tokens: int = 0
    is_denied: bool = False


async def book(made: Parts, used: Sequence[Used]) -> None:
    """As a sidecar settles them."""
    booked = await RedisBooks(made.store).settle([_booking(made, one) for one in used])
    assert set(booked) <= {Booked.BOOKED}


def _booking(made: Parts, used: Used) -> Booking:
    key = used.key
    hold = Hold(
        id=made.ledger.number(tenant_of(key.workspace, key.subject)),
        at_us=used.at_us,
        key_id=key.id,
        key_prefix=key.prefix,
        subject=key.subject,
        workspace=key.workspace,
        allowed=not used.is_denied,
        recorded=True,
    )
    outcome = Outcome.DENIED if used.is_denied else Outcome.USAGE
    return Booking(
        hold=hold,
        outcome=outcome,
        model=used.model,
        names_model=not used.is_denied,
        input_tokens=used.input_tokens,
        output_tokens=used.output_tokens,
        corrections=(),
    )


class RecordingHasher(Argon2Hasher):
    """The real one, made quick, which remembers what it was asked to verify."""

    def __init__(self) -> None:
        super().__init__(PasswordHasher(time_cost=1, memory_cost=8, parallelism=1))
        self.verified: list[str | None] = []

    async def verify(self, password_hash: str | None, password: str) -> bool:
        self.verified.append(password_hash)
        return await super().verify(password_hash, password)


@dataclass(frozen=True)
class Doors:
    """
    A sidecar's admin API at one door.

    Args:
        configuration: What `service` was made of.
        other: Another sidecar on the same store; its `admin` is the command line, its pipeline `check`s.
        address: Of the door: `127.0.0.1:4711`.
        root: Who holds the scope `admin` and is bound to no workspace.
        made: What other services of the sidecar are made of.
    """

    configuration: Configuration
    service: KeyService
    store: Store
    other: Parts
    authorizer: Authorizer
    users: UserAdmin
    hasher: RecordingHasher
    prometheus: PrometheusObserver
    client: Client
    address: str
    root_key: IssuedKey
    made: StoreParts

    @property
    def root(self) -> Caller:
        return self.caller(self.root_key.token)

    def caller(self, credential: str | None) -> Caller:
        return Caller(self.client, credential)

    async def key(
        self, *scopes: str, name: str = "test", limits: Mapping[str, Limit] | None = None, **more: Any
    ) -> IssuedKey:
        """Made straight in the store."""
        return await self.other.admin.create(NewKey(name, scopes=scopes, limits=limits or {}, **more), COMMAND_LINE)

    async def admin_of(self, workspace: str) -> Caller:
        made = await self.key("admin", name=f"admin of {workspace}", workspace=workspace, limits=PLENTY)
        return self.caller(made.token)

    async def user(self, name: str, *scopes: str, workspace: str = "", password: str = PASSWORD) -> None:
        await self.users.add(NewUser(name, workspace, scopes), password, COMMAND_LINE)

    async def log_in(self, name: str, password: str = PASSWORD) -> Caller:
        told = await self.caller(None).ok("Login", username=name, password=password)
        return self.caller(told["token"])

    async def check(self, token: str, method: str = "GET", path: str = "/v1/models") -> Decision:
        """By the other sidecar, which remembers what it has read."""
        return await self.authorizer.check(request(token, method, path))

    async def reason(self, token: str, method: str = "GET") -> str:
        return (await self.check(token, method)).reason.value

    async def expire(self, key: str) -> None:
        """Its end is a minute ago, by the store's clock."""
        record = await self.other.show(key)
        ended = replace(record, expires_at_us=await self.store.now_us() - 60_000_000)
        await self.other.registry.change(ended, Event("test", Action.UPDATE, key, record.workspace))

    async def use(
        self, key: KeyRecord, model: str = "", input_tokens: int = 0, output_tokens: int = 0, *, is_denied: bool = False
    ) -> None:
        """One request that ended just now."""
        now_us = await self.store.now_us()
        await book(self.other, [Used(key, now_us, model, input_tokens, output_tokens, is_denied)])

    async def until(self, us: int) -> None:
        """The store's clock has reached *us*."""
        while await self.store.now_us() < us:  # noqa: ASYNC110 - nobody tells when it has
            await asyncio.sleep(0.02)

    async def moment(self) -> str:
        """A moment as the API has them, in whole seconds, between what was issued before this and what is after it."""
        ends_s = await self.store.now_us() // 1_000_000 + 1
        await self.until(ends_s * 1_000_000 + 1)
        return rfc3339(ends_s * 1_000_000) or ""


def configured(*, secrets: tuple[str, ...] = (SECRET,), **settings: Any) -> Configuration:
    """Refusals in the format `problem`, as `RestClient` reads them, unless *settings* say otherwise."""
    keyring = [{"id": f"k{len(secrets) - place}"} for place in range(len(secrets) - 1)] + [{"id": None}]
    merged = {"responses": {"format": "problem"}, **settings, "keys": {**settings.get("keys", {}), "keyring": keyring}}
    encoded = tuple(secret.encode() for secret in secrets)
    return Configuration(Settings.model_validate(merged), "test", encoded, (PEPPER.encode(),))


@contextlib.asynccontextmanager
async def opened(url: str, door: str, configuration: Configuration | None = None) -> AsyncIterator[Doors]:
    """The service as a sidecar makes it, at *door*, on the store at *url*, in which there is one key: root's."""
    configuration = configuration or configured()
    prometheus, hasher = PrometheusObserver("test", compiled=False), RecordingHasher()
    observers = Observers((prometheus, LogObserver()))
    is_cluster = url.startswith(CLUSTER)
    async with contextlib.AsyncExitStack() as stack:
        other = await stack.enter_async_context(parts(url))
        root = await other.create(NewKey("root", scopes=("admin",), limits=PLENTY))
        store = Store(connect(url), timeout_s=5.0, is_cluster=is_cluster, clock=CLOCK, observer=observers)
        stack.push_async_callback(store.close)
        made = replace(StoreParts.on(store, CLOCK, observers), hasher=hasher)
        stack.push_async_callback(made.ledger.close)
        stack.callback(hasher.close)
        service = key_service(configuration, made, CLOCK, observers)
        scopes = ScopeTable(dict(configuration.settings.scopes))
        client, address = await stack.enter_async_context(_DOORS[door](service, configuration))
        yield Doors(
            configuration=configuration,
            service=service,
            store=store,
            other=other,
            authorizer=pipeline(configuration, other),
            users=UserAdmin(
                RedisUserRegistry(store), hasher, scopes, observers, key_admin(configuration, store, observers)
            ),
            hasher=hasher,
            prometheus=prometheus,
            client=client,
            address=address,
            root_key=root,
            made=made,
        )


@contextlib.asynccontextmanager
async def _grpc(service: KeyService, _: Configuration) -> AsyncIterator[tuple[Client, str]]:
    address = f"127.0.0.1:{free_port()}"
    server = grpc_server.build(address, {}, grpc_server.Health(()), rpc=[service])
    await server.start()
    try:
        async with aio.insecure_channel(address) as channel:
            yield GrpcClient(channel), address
    finally:
        await server.stop(None)


@contextlib.asynccontextmanager
async def _rest(service: KeyService, configuration: Configuration) -> AsyncIterator[tuple[Client, str]]:
    async with over_http([service], configuration) as http:
        yield RestClient(http), http.base_url.netloc.decode()


@contextlib.asynccontextmanager
async def over_http(services: Sequence[Service[Any]], configuration: Configuration) -> AsyncIterator[httpx.AsyncClient]:
    """A client of *services*, as a sidecar serves them on `listen.http`."""
    style = FORMATS[configuration.settings.responses.format]
    listener = bind("127.0.0.1:0")
    address = "{}:{}".format(*listener.getsockname())
    server = HttpServer(rest.build(services, lambda: style, documents={}), listener)
    task = asyncio.create_task(server.run_until_stopped())
    while not server.started:  # noqa: ASYNC110 - it has no event for it
        await asyncio.sleep(0.001)
    try:
        async with httpx.AsyncClient(base_url=f"http://{address}", timeout=20, trust_env=False) as http:
            yield http
    finally:
        task.cancel()  # nothing is under way any more, and uvicorn's own way takes two tenths of a second
        await asyncio.wait([task])
        for listening in server.servers:
            listening.close()


_DOORS: Final = {"grpc": _grpc, "rest": _rest}


def stored(url: str) -> dict[bytes, bytes]:
    """All that the store holds, by name, whatever its type."""
    found: dict[bytes, bytes] = {}
    if url.startswith(CLUSTER):
        with redis.RedisCluster.from_url(url.replace(CLUSTER, "redis", 1)) as cluster:
            names: list[bytes] = list(cluster.scan_iter(count=1000))
            return {name: _dumped(cluster, name) for name in names}
    with redis.Redis.from_url(url) as client:
        for name in client.scan_iter(count=1000):
            found[name] = _dumped(client, name)
    return found


def _dumped(client: Any, name: bytes) -> bytes:
    kind = client.type(name)
    if kind == b"string":
        value: bytes = client.get(name) or b""
        return value
    read = {b"hash": client.hgetall, b"stream": client.xrange, b"zset": lambda key: client.zrange(key, 0, -1)}
    flat: list[bytes] = []
    _flatten(read[kind](name), flat)
    return b"\n".join(flat)


def _flatten(value: Any, into: list[bytes]) -> None:
    if isinstance(value, bytes):
        into.append(value)
    elif isinstance(value, dict):
        _flatten([*value.items()], into)
    elif isinstance(value, list | tuple):
        for item in value:
            _flatten(item, into)


def shown(value: object) -> str:
    """Everything in it, as one text to search."""
    return json.dumps(value, ensure_ascii=False, default=str)
