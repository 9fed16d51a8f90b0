"""
Where `authz keys` sends its calls: straight into the store, or to a running sidecar's admin API.

Both take a method of KeyService and its request as JSON, and give the answer as the API's JSON.
"""

import argparse
import asyncio
import ipaddress
import os
import re
import ssl
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from io import BytesIO
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

from google.protobuf import json_format
from google.protobuf.message_factory import GetMessageClass

from authz import __version__
from authz.adapters import protojson
from authz.adapters.admin.service import DESCRIPTOR
from authz.adapters.http.rest import binding
from authz.adapters.logs.silent import Silent
from authz.adapters.redis.client import Store
from authz.adapters.rpc import Call, RpcError
from authz.app import command_service
from authz.cli.common import command_store, load, usage_error
from authz.cli.output import BAD_USAGE, FAILED, CommandError, note, printable
from authz.core.redaction import redacted
from authz.settings import Configuration, SettingsError


Json = dict[str, Any]

KEY_VARIABLE: Final = "AUTHZ_ADMIN_KEY"
SECRETS: Final = ("keys.keyring", "keys.pepper")
TIMEOUT_S: Final = 10.0
MAX_ANSWER_BYTES: Final = 16 * 1024 * 1024
_MAX_TOLD: Final = 500
_NETLOC: Final = re.compile(r"(?:[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_BASE: Final = re.compile(r"(?:/[A-Za-z0-9._~-]+)*/?")
_CREDENTIAL: Final = re.compile(r"[!-~]{1,8192}")


class NotFoundError(CommandError):
    """There is no such key."""


class ConflictError(CommandError):
    """The key is not in a state in which this can be done, or was changed meanwhile."""


class Connection(Protocol):
    @property
    def keeps_tokens(self) -> bool | None:
        """Whether a token can be shown again; None: the server knows."""
        ...

    async def call(self, method: str, values: Mapping[str, object]) -> Json:
        """Raises: NotFoundError; ConflictError; CommandError."""
        ...


def add_server(command: argparse.ArgumentParser) -> None:
    help_ = f"a sidecar's listen.http, with a key in ${KEY_VARIABLE}; default: the store itself"
    command.add_argument("--server", metavar="URL", help=help_)


@asynccontextmanager
async def connected(arguments: argparse.Namespace, *, with_secrets: bool = False) -> AsyncGenerator[Connection]:
    """To `--server`, for which no configuration is read; else to the store. *with_secrets*: for making tokens."""
    if arguments.server is not None:
        yield Remote(Address.of(arguments.server), _credential(os.environ))
        return
    try:
        configuration = load(arguments, with_secrets=with_secrets)
    except SettingsError as error:
        if any(fault.field.startswith(SECRETS) for fault in error.faults):
            error.add_note("with --server URL the sidecar itself makes the token, and no secret is needed here")
        raise
    async with command_store(configuration) as store:
        yield Direct(configuration, store)


def _credential(environ: Mapping[str, str]) -> str:
    """The caller's key; where it is no key, nothing of it is repeated."""
    key = environ.get(KEY_VARIABLE, "")
    if not key:
        raise usage_error(f"--server needs a key with the scope admin in ${KEY_VARIABLE}, and it is not set")
    if _CREDENTIAL.fullmatch(key) is None:
        raise usage_error(f"${KEY_VARIABLE} holds white space or characters that no key has")
    return key


def _request(method: str, values: Mapping[str, object]) -> Any:
    """The message; what does not make one is refused here, in the same words on both connections."""
    try:
        return protojson.parse(values, GetMessageClass(DESCRIPTOR.methods_by_name[method].input_type))
    except protojson.FieldError as error:
        raise usage_error(str(error)) from error


def _refused(status: int, message: str) -> CommandError:
    told = printable(redacted(message, _MAX_TOLD)).removesuffix(".")
    if status == 404 and "no such key" in told:
        return NotFoundError(told)
    if status == 409:
        return ConflictError(told)
    return CommandError(told, BAD_USAGE if status == 400 else FAILED)


class Direct:
    """Straight in the store, as nobody's caller: how the first admin key is made."""

    def __init__(self, configuration: Configuration, store: Store) -> None:
        self.keeps_tokens = configuration.settings.keys.retain_token
        self._service = command_service(configuration, store, Silent())

    async def call(self, method: str, values: Mapping[str, object]) -> Json:
        """Raises: NotFoundError; CommandError; StoreFault."""
        request, call = _request(method, values), Call(method, {})
        try:
            actor = await self._service.authorize(call)
            return protojson.render(await self._service.handle(call, actor, request))
        except RpcError as refused:
            raise _refused(refused.problem.status, refused.problem.message) from refused


@dataclass(frozen=True, slots=True)
class Address:
    """Of a server. `base`: what stands before our paths, empty or `/…`."""

    netloc: str
    host: str
    port: int
    tls: bool
    base: str = ""

    @classmethod
    def of(cls, url: str) -> "Address":
        """Raises: CommandError — which does not repeat the URL, as there may be a password in it."""
        fault = usage_error("--server takes http:// or https://, HOST:PORT, and no user, password, query or fragment")
        try:
            parts = urlsplit(url)
            port, host = parts.port, parts.hostname
        except ValueError as exc:
            raise fault from exc
        tls = parts.scheme == "https"
        plain = url == f"{parts.scheme}://{parts.netloc}{parts.path}" and port != 0
        if parts.scheme not in {"http", "https"} or not plain or not host:
            raise fault
        if _NETLOC.fullmatch(parts.netloc) is None or _BASE.fullmatch(parts.path) is None:
            raise fault
        return cls(parts.netloc, host, port or (443 if tls else 80), tls, parts.path.rstrip("/"))

    @property
    def is_exposed(self) -> bool:
        """Whether a key travels in the clear, beyond this machine."""
        try:
            return not self.tls and not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return not self.tls and self.host != "localhost"


@dataclass(frozen=True, slots=True)
class Remote:
    """A running sidecar. Each call is a connection of its own, and takes `timeout_s` at most."""

    address: Address
    key: str = field(repr=False)
    keeps_tokens: None = None
    timeout_s: float = TIMEOUT_S

    def __post_init__(self) -> None:
        if self.address.is_exposed:
            note("authz: http sends the key unencrypted: use https beyond this machine")

    async def call(self, method: str, values: Mapping[str, object]) -> Json:
        """Raises: NotFoundError; CommandError."""
        _request(method, values)
        try:
            verb, path, body = binding(DESCRIPTOR, method).expand(values)
        except protojson.FieldError as error:  # ids alone stand in paths, and no id of a key is like this
            raise NotFoundError("There is no such key") from error
        status, content = await self._exchange(verb, path, body)
        return self._answer(method, status, content)

    async def _exchange(self, verb: str, path: str, body: bytes | None) -> tuple[int, bytes]:
        """Raises: CommandError."""
        where = self.address.netloc
        try:
            async with asyncio.timeout(self.timeout_s):
                return _parsed(await self._sent(self._head(verb, path, body) + (body or b"")))
        except TimeoutError as exc:
            unsure = "" if verb == "GET" else ": it may have done what was asked, or not"
            raise CommandError(f"{where} does not answer within {self.timeout_s:g} s{unsure}") from exc
        except ssl.SSLCertVerificationError as exc:
            told = f"the certificate of {where} is not trusted ({exc.verify_message}); $SSL_CERT_FILE names other roots"
            raise CommandError(told) from exc
        except ssl.SSLError as exc:
            raise CommandError(f"{where} does not speak TLS with us ({exc.reason})") from exc
        except HTTPException as exc:
            raise CommandError(f"{where} does not answer as an HTTP server does") from exc
        except OSError as exc:
            raise CommandError(f"{where} cannot be reached{_why(exc)}") from exc

    def _head(self, verb: str, path: str, body: bytes | None) -> bytes:
        lines = [
            f"{verb} {self.address.base}{path} HTTP/1.1",
            f"host: {self.address.netloc}",
            f"authorization: Bearer {self.key}",
            f"user-agent: authz/{__version__}",
            "accept: application/json",
            "connection: close",
        ]
        if body is not None:
            lines += ["content-type: application/json", f"content-length: {len(body)}"]
        return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")

    async def _sent(self, request: bytes) -> bytes:
        """All that the server answers until it closes. Raises: OSError; CommandError."""
        tls = ssl.create_default_context() if self.address.tls else None
        reader, writer = await asyncio.open_connection(self.address.host, self.address.port, ssl=tls)
        try:
            writer.write(request)
            answer = bytearray()
            while chunk := await reader.read(65536):
                answer += chunk
                if len(answer) > MAX_ANSWER_BYTES:
                    raise CommandError(f"{self.address.netloc} answers with more than {MAX_ANSWER_BYTES} bytes")
            return bytes(answer)
        finally:
            writer.transport.abort()

    def _answer(self, method: str, status: int, content: bytes) -> Json:
        """Raises: NotFoundError; CommandError."""
        where = self.address.netloc
        if 300 <= status < 400:
            raise CommandError(f"{where} redirects (HTTP {status}), which is not followed: give the address itself")
        try:
            answer = protojson.load(content)
        except protojson.FieldError as error:
            raise self._stranger(status) from error
        if status != 200:
            told = _told(answer) or f"{where} answers HTTP {status} {_phrase(status)}".rstrip()
            raise _refused(status, f"{where} refuses ${KEY_VARIABLE}: {told}" if status == 401 else told)
        return self._understood(method, answer)

    def _understood(self, method: str, answer: object) -> Json:
        """As this version knows the method's answer: what a newer server adds is left out."""
        kind = DESCRIPTOR.methods_by_name[method].output_type
        if not isinstance(answer, dict) or answer.keys().isdisjoint(kind.fields_by_name):
            raise self._stranger(200)
        try:
            message = json_format.ParseDict(answer, GetMessageClass(kind)(), ignore_unknown_fields=True)
        except (json_format.ParseError, ValueError, TypeError, AttributeError):  # all of them quote the value
            raise self._stranger(200) from None
        return protojson.render(message)

    def _stranger(self, status: int) -> CommandError:
        told = f"{self.address.netloc} does not answer as authz's admin API does (HTTP {status})"
        return CommandError(f"{told}: give the address of a sidecar's listen.http")


def _why(exc: OSError) -> str:
    """Where several addresses were tried, there is no one reason."""
    if exc.errno is None:
        return ""
    return f": {os.strerror(exc.errno) if exc.errno > 0 else exc.strerror}"


class _Received:
    """What `HTTPResponse` takes for a socket."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    def makefile(self, _mode: str) -> BytesIO:
        return BytesIO(self._raw)


def _parsed(raw: bytes) -> tuple[int, bytes]:
    """Status and body. Raises: HTTPException."""
    response = HTTPResponse(cast("Any", _Received(raw)))
    try:
        response.begin()
        return response.status, response.read()
    except ValueError as exc:  # such as a length that is no number
        raise HTTPException from exc


def _told(answer: object) -> str:
    """The message of a refusal, in whichever of our formats it comes; empty: there is none."""
    members = answer if isinstance(answer, dict) else {}
    error = members.get("error")
    told = (error.get("message") if isinstance(error, dict) else error, members.get("detail"), members.get("message"))
    return next((text for text in told if isinstance(text, str) and text), "")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return ""
