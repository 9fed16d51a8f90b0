"""
Every field, its type, its bounds and its default. What a field means for users: docs/configuration.md.

Models are frozen and refuse unknown fields; faults between fields are `crosscheck`'s, so that one run tells them all.
"""

import ipaddress
import re
from pathlib import Path
from typing import Annotated, Final, Literal, get_args
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, WithJsonSchema

from authz.core.bucket import Limit
from authz.core.headers import RATELIMIT_STYLES
from authz.core.policy import compile_glob
from authz.core.problems import FORMATS
from authz.core.scope import SCOPE_PATTERN
from authz.core.units import (
    DURATION_PATTERN,
    LIMIT_PATTERN,
    SIZE_PATTERN,
    format_duration_ms,
    format_limit,
    parse_duration_ms,
    parse_limit,
    parse_size,
)


NAME_PATTERN: Final = r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$"
_HEADER: Final = re.compile(r"[a-z0-9!#$%&'*+.^_`|~-]{1,64}")
_MEDIA_TYPE: Final = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
_STORE_URL: Final = re.compile(r"embedded|(redis|rediss|unix|redis\+cluster)://\S+")


_URL_PARAMETERS: Final = frozenset(
    {"db", "username", "password", "ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_check_hostname", "ssl_cert_reqs"}
)


class Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, validate_default=True)


def _absolute_glob(pattern: str) -> str:
    compile_glob(pattern)
    return pattern


def _header_name(name: str) -> str:
    if _HEADER.fullmatch(name.lower()) is None:
        raise ValueError("must be the name of a header")
    if name.lower() == "host" or name.lower().startswith("x-authz-"):
        raise ValueError("this header is not a client's to put a key into")
    return name.lower()


def _media_type(name: str) -> str:
    if _MEDIA_TYPE.fullmatch(name.lower()) is None:
        raise ValueError("must be a media type without parameters, such as application/json")
    return name.lower()


def _store_url(url: str) -> str:
    if url.startswith("redis+sentinel://"):
        raise ValueError("redis+sentinel:// is not supported yet; use redis://, rediss://, unix:// or redis+cluster://")
    if _STORE_URL.fullmatch(url) is None:
        raise ValueError("must be 'embedded' or redis://, rediss://, unix:// or redis+cluster:// and an address")
    try:
        parts = urlsplit(url)
        port, host = parts.port, parts.hostname
    except ValueError as exc:
        raise ValueError("the address is not HOST:PORT") from exc
    if parts.scheme.startswith("redis") and not host and port is None:
        raise ValueError("names no host")
    if odd := sorted({name for name, _ in parse_qsl(parts.query)} - _URL_PARAMETERS):
        raise ValueError(f"unknown parameter {odd[0]!r}; known: {', '.join(sorted(_URL_PARAMETERS))}")
    return url


def _at_most(longest: str) -> AfterValidator:
    def check(ms: int) -> int:
        if ms > parse_duration_ms(longest):
            raise ValueError(f"must be at most {longest}")
        return ms

    return AfterValidator(check)


def _at_least(shortest: str) -> AfterValidator:
    def check(ms: int) -> int:
        if ms < parse_duration_ms(shortest):
            raise ValueError(f"must be at least {shortest}")
        return ms

    return AfterValidator(check)


DurationMs = Annotated[
    int,
    BeforeValidator(parse_duration_ms),
    PlainSerializer(format_duration_ms, return_type=str),
    WithJsonSchema({"type": "string", "pattern": DURATION_PATTERN}),
]
LimitText = Annotated[
    Limit,
    BeforeValidator(parse_limit),
    PlainSerializer(format_limit, return_type=str),
    WithJsonSchema({"type": "string", "pattern": LIMIT_PATTERN}),
]
SizeBytes = Annotated[
    int,
    BeforeValidator(parse_size),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 1}, {"type": "string", "pattern": SIZE_PATTERN}]}),
]
Name = Annotated[str, Field(pattern=NAME_PATTERN)]
ScopeName = Annotated[str, Field(pattern=f"^{SCOPE_PATTERN}$")]
MediaType = Annotated[str, AfterValidator(_media_type)]
HeaderName = Annotated[str, AfterValidator(_header_name)]
PathGlob = Annotated[str, AfterValidator(_absolute_glob), Field(max_length=1024)]


class SecretRef(Model):
    """Where a secret is: never the secret itself."""

    env: Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")] | None = None
    file: Path | None = Field(default=None, strict=False)


DEFAULT_PEPPER: Final = (SecretRef(env="AUTHZ_PEPPER"),)


def _as_list(value: object) -> object:
    return [value] if isinstance(value, dict) else value


class Listener(Model):
    """`insecure`: plain text beyond loopback is meant (a network policy or a mesh protects it)."""

    address: str
    insecure: bool = False


def _listener(value: object) -> object:
    return {"address": value} if isinstance(value, str) else value


ListenerText = Annotated[
    Listener,
    BeforeValidator(_listener),
    WithJsonSchema({"anyOf": [{"type": "string"}, Listener.model_json_schema()]}),
]


class Listen(Model):
    authz: ListenerText = Field(default=Listener(address="127.0.0.1:9001"), description="the check, and health")
    grpc: ListenerText | None = Field(default=Listener(address="127.0.0.1:9002"), description="KeyService, health")
    http: ListenerText | None = Field(default=Listener(address="127.0.0.1:9003"), description="KeyService, login")
    forward_auth: None = None
    metrics: ListenerText = Field(
        default=Listener(address="0.0.0.0:9090"),
        description="/metrics /healthz /readyz",
    )


class Store(Model):
    url: Annotated[str, AfterValidator(_store_url)] = "embedded"
    timeout: Annotated[DurationMs, _at_most("10s")] = Field(default="50ms")  # type: ignore[assignment]
    revoke_replicas: Literal[0] = 0
    on_error: Literal["deny", "allow"] = "deny"


class CredentialSource(Model):
    header: HeaderName
    scheme: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9-]{0,31}$")] | None = None


class Credentials(Model):
    sources: Annotated[tuple[CredentialSource, ...], Field(min_length=1, strict=False)] = (
        CredentialSource(header="authorization", scheme="Bearer"),
        CredentialSource(header="x-api-key"),
    )
    refuse_in_query: Annotated[tuple[str, ...], Field(strict=False)] = ("api_key", "access_token")
    forward: bool = False


class KeyringEntry(Model):
    id: Name | None = None
    algorithm: Literal["HS256", "HS384", "HS512"] = "HS256"
    secret: SecretRef = SecretRef(env="AUTHZ_JWT_SECRET")


class Keys(Model):
    prefix: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{1,30}[-_]$")] = "sk-live-"
    kind: Literal["jwt", "opaque"] = "jwt"
    require_record: bool = True
    pepper: Annotated[tuple[SecretRef, ...], BeforeValidator(_as_list), Field(strict=False)] = DEFAULT_PEPPER
    retain_token: bool = False
    keyring: Annotated[tuple[KeyringEntry, ...], Field(min_length=1, strict=False)] = (KeyringEntry(),)
    issuers: Annotated[tuple[object, ...], Field(max_length=0, strict=False)] = ()
    audience: Annotated[str, Field(min_length=1)] | None = None
    accept_sessions: bool = False
    leeway: Annotated[DurationMs, _at_most("1h")] = Field(default="10s")  # type: ignore[assignment]


class RouteSettings(Model):
    name: Name | None = None
    methods: Annotated[tuple[Annotated[str, Field(pattern=r"^[A-Z]{1,16}$")], ...], Field(strict=False)] = ()
    path: PathGlob
    scopes: Annotated[tuple[ScopeName, ...], Field(strict=False)] = ()
    limits: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    rules: Annotated[tuple[Name, ...], Field(strict=False)] = ()
    public: bool = False


class LimitSettings(Model):
    per: Literal["key", "subject", "workspace"] = "key"
    requests: LimitText | None = None
    tokens: LimitText | None = None


class RequestRuleSettings(Model):
    """null: any."""

    content_types: Annotated[tuple[MediaType, ...], Field(min_length=1, strict=False)] | None = None
    max_body: SizeBytes | None = None
    max_prompt: Annotated[int, Field(ge=1, le=10**9)] | None = None
    stream_scopes: Annotated[tuple[ScopeName, ...], Field(strict=False)] = ()


class Settlement(Model):
    estimate: Annotated[int, Field(ge=0, le=10**9)] = 500


class Responses(Model):
    format: Literal["openai", "vinfer", "inferno", "voiceinfra", "problem"] = "openai"
    ratelimit_headers: Annotated[tuple[Literal["x-ratelimit", "openai", "ietf"], ...], Field(strict=False)] = (
        "x-ratelimit",
    )


def _network(text: str) -> str:
    try:
        ipaddress.ip_network(text)
    except ValueError as exc:
        raise ValueError("must be an address or a network, such as 10.0.0.0/8") from exc
    return text


class LoginLimits(Model):
    """null: no limit."""

    per_user: LimitText | None = Field(default="5/1m")  # type: ignore[assignment]
    per_address: LimitText | None = Field(default="20/1m")  # type: ignore[assignment]


class Login(Model):
    audience: Annotated[str, Field(min_length=1)] = "portal"
    lifetime: Annotated[DurationMs, _at_least("1s"), _at_most("31d")] = Field(default="1h")  # type: ignore[assignment]
    limits: LoginLimits = LoginLimits()


class Settings(Model):
    """The whole file. Fields whose only value is their default belong to what a later version brings."""

    listen: Listen = Listen()
    server: Literal["auto", "fast", "grpcio"] = "auto"
    store: Store = Store()
    credentials: Credentials = Credentials()
    keys: Keys = Keys()
    scopes: Annotated[
        dict[ScopeName, Annotated[tuple[ScopeName, ...], Field(strict=False)]], Field(max_length=1000)
    ] = {
        "admin": ("read-write",),
        "read-write": ("read-only",),
    }
    routes: Annotated[tuple[RouteSettings, ...], Field(strict=False)] = (
        RouteSettings(name="health", path="/healthz", public=True),
        RouteSettings(methods=("GET", "HEAD"), path="/v1/**", scopes=("read-only",), limits=("default",)),
        RouteSettings(path="/v1/**", scopes=("read-write",), limits=("default",)),
    )
    limits: dict[Name, LimitSettings] = {
        "default": LimitSettings(requests="60/1m", tokens="100000/1m")  # type: ignore[arg-type]
    }
    request_rules: dict[Name, RequestRuleSettings] = {}
    settlement: Settlement = Settlement()
    responses: Responses = Responses()
    trusted_proxies: Annotated[
        tuple[Annotated[str, AfterValidator(_network)], ...], Field(max_length=100, strict=False)
    ] = ()
    login: Login = Login()
    portals: Annotated[tuple[Literal["inferexai", "inferno", "vinfer"], ...], Field(strict=False)] = ()


assert tuple(FORMATS) == get_args(Responses.model_fields["format"].annotation)  # noqa: S101 - no name without a format
assert RATELIMIT_STYLES == ("x-ratelimit", "openai", "ietf")  # noqa: S101
