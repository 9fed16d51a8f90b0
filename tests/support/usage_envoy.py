"""
A real Envoy with the shipped bootstrap (the check alone may take longer), between an API that answers as a test says,
byte by byte if need be, and a sidecar that allows whom it knows nothing of and records what it is asked and told.
"""

import asyncio
import itertools
import json
import os
import time
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Self

import grpc.aio
import httpx
from envoy.service.accesslog.v3 import als_pb2
from envoy.service.auth.v3 import external_auth_pb2

from authz.demo.envoy_config import filled, written
from authz.demo.processes import Process, envoy_binary, free_port


PATIENCE_S: Final = 15.0
DENIED: Final = "Bearer denied"
SEALED: Final = "sealed-ticket-of-authz"
Script = Callable[[asyncio.StreamWriter], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Received:
    """What the API got."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client got, not decompressed."""

    status: int
    headers: Mapping[str, str]
    body: bytes = field(repr=False)


class Api:
    """HTTP/1.1 as far as Envoy speaks it; one answer a connection."""

    def __init__(self) -> None:
        self.scripts: dict[str, Script] = {}  # path, without its query
        self.received: dict[str, Received] = {}
        self._answering: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._accept, "127.0.0.1", 0, limit=1 << 20)
        async with server:
            try:
                yield server.sockets[0].getsockname()[1]
            finally:
                for task in self._answering:
                    task.cancel()
                await asyncio.gather(*self._answering, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await self._answer(reader, writer)
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")[:-2]
        method, target, _ = head.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        path = target.partition("?")[0]
        self.received[path] = Received(method, target, headers, await _body(reader, headers))
        await self.scripts[path](writer)


async def _body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


def answering(body: bytes, content_type: str = "application/json", step: int = 0, **headers: str) -> Script:
    """Whole, or *step* bytes at a time; underscores in the names of headers stand for hyphens."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(_head(content_type, f"content-length: {len(body)}", **headers))
        for start in range(0, len(body), step or len(body)):
            writer.write(body[start : start + (step or len(body))])
            await writer.drain()
            if step:
                await asyncio.sleep(0.0005)  # a read of its own, as a rule

    return script


def streaming(pieces: Sequence[bytes], content_type: str = "text/event-stream", **headers: str) -> Script:
    """One chunk a piece."""

    async def script(writer: asyncio.StreamWriter) -> None:
        writer.write(_head(content_type, "transfer-encoding: chunked", **headers))
        for piece in pieces:
            writer.write(_chunk(piece))
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        await writer.drain()

    return script


class LockStep:
    """A stream of which each piece is sent when the client has the one before it, and not earlier."""

    def __init__(self, pieces: Sequence[bytes], content_type: str = "text/event-stream", *, cut: bool = False) -> None:
        """Args: cut: The API goes away after the last piece, as if it had crashed."""
        self._pieces = pieces
        self._content_type = content_type
        self._cut = cut
        self._arrived = asyncio.Semaphore(0)

    async def __call__(self, writer: asyncio.StreamWriter) -> None:
        writer.write(_head(self._content_type, "transfer-encoding: chunked"))
        for piece in self._pieces:
            writer.write(_chunk(piece))
            await writer.drain()
            await self._arrived.acquire()
        if not self._cut:
            writer.write(b"0\r\n\r\n")
            await writer.drain()

    async def read(self, answer: httpx.Response) -> bytes:
        """The whole body, with a word to the API for each piece; hangs if one were held back."""
        got = b""
        ends = itertools.accumulate(len(piece) for piece in self._pieces)
        end = next(ends)
        async for part in answer.aiter_raw():
            got += part
            while len(got) >= end:
                assert len(got) == end, "more than was sent"
                self._arrived.release()
                end = next(ends, 1 << 62)
        return got


def _head(content_type: str, *lines: str, **headers: str) -> bytes:
    named = [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    head = ["HTTP/1.1 200 OK", f"content-type: {content_type}", "connection: close", *lines, *named]
    return "".join(f"{line}\r\n" for line in [*head, ""]).encode()


def _chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


class Sidecar:
    """Both of authz's services, without any of its rules."""

    def __init__(self) -> None:
        self.checks: dict[str, list[Any]] = defaultdict(list)  # by path, without its query
        self.entries: dict[str, list[Any]] = defaultdict(list)
        self._told = asyncio.Condition()
        self._numbers = itertools.count(1)

    @asynccontextmanager
    async def listening(self) -> AsyncIterator[int]:
        server = grpc.aio.server()
        check = grpc.unary_unary_rpc_method_handler(
            self._check, external_auth_pb2.CheckRequest.FromString, external_auth_pb2.CheckResponse.SerializeToString
        )
        logs = grpc.stream_unary_rpc_method_handler(
            self._logs,
            als_pb2.StreamAccessLogsMessage.FromString,
            als_pb2.StreamAccessLogsResponse.SerializeToString,
        )
        services = {
            "envoy.service.auth.v3.Authorization": {"Check": check},
            "envoy.service.accesslog.v3.AccessLogService": {"StreamAccessLogs": logs},
        }
        server.add_generic_rpc_handlers(
            tuple(grpc.method_handlers_generic_handler(name, methods) for name, methods in services.items())
        )
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        try:
            yield port
        finally:
            await server.stop(None)

    async def entry(self, path: str, number: int = 1) -> Any:
        """The *number*th that was told of a path."""
        async with asyncio.timeout(PATIENCE_S), self._told:
            await self._told.wait_for(lambda: len(self.entries[path]) >= number)
        return self.entries[path][number - 1]

    async def _check(self, request: Any, _: object) -> Any:
        http = request.attributes.request.http
        self.checks[http.path.partition("?")[0]].append(request)
        answer = external_auth_pb2.CheckResponse()
        told = {"decision_id": f"decision-{next(self._numbers)}", "estimate": 123, "settlement": SEALED}
        answer.dynamic_metadata.update(told)
        if http.headers.get("authorization") == DENIED:
            answer.status.code = 7
            answer.denied_response.status.code = 401
            answer.denied_response.body = "no"
        else:
            answer.ok_response.SetInParent()
        return answer

    async def _logs(self, messages: AsyncIterator[Any], _: object) -> Any:
        async for message in messages:
            async with self._told:
                for entry in message.http_logs.log_entry:
                    self.entries[entry.request.path.partition("?")[0]].append(entry)
                self._told.notify_all()
        return als_pb2.StreamAccessLogsResponse()


class Rig:
    """Use as an asynchronous context manager."""

    def __init__(self, folder: Path, change: Callable[[Any], object] = lambda _: None) -> None:
        """Args: change: What a test wants otherwise in the bootstrap."""
        self._folder = folder
        self._change = change
        self._exit = AsyncExitStack()
        self._paths: Iterator[int] = itertools.count(1)
        self.api = Api()
        self.sidecar = Sidecar()
        self.port = free_port()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as starting:
            upstream = await starting.enter_async_context(self.api.listening())
            authz = await starting.enter_async_context(self.sidecar.listening())
            admin = free_port()
            bootstrap = self._folder / "envoy.yaml"
            text = filled(edge=self.port, authz=authz, log=authz, upstream=upstream, admin=admin)
            parsed = json.loads(text)
            _be_patient(parsed)
            self._change(parsed)
            bootstrap.write_text(written(parsed))
            command = [str(envoy_binary(os.environ)), "-c", str(bootstrap), "--concurrency", "1"]
            options = ["--use-dynamic-base-id", "--log-level", "warning", "--file-flush-interval-msec", "50"]
            self.log = self._folder / "envoy.log"
            envoy = Process("envoy", [*command, *options], self.log, os.environ)
            starting.callback(envoy.stop)
            await asyncio.to_thread(envoy.wait_for, admin, "/ready")
            limits = httpx.Timeout(PATIENCE_S)
            self._http = httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.port}", timeout=limits, trust_env=False)
            await starting.enter_async_context(self._http)
            self._exit = starting.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._exit.aclose()

    def path(self, script: Script, under: str = "/v1") -> str:
        """A path of its own, at which the API answers so."""
        path = f"{under}/{next(self._paths)}"
        self.api.scripts[path] = script
        return path

    async def post(self, path: str, body: object = None, method: str = "POST", **headers: str) -> Answer:
        """*body* as it is if it is bytes, else as JSON; underscores in the names of headers stand for hyphens."""
        async with self.opened(path, body, method, **headers) as answer:
            got = b"".join([part async for part in answer.aiter_raw()])
        return Answer(answer.status_code, answer.headers, got)

    @asynccontextmanager
    async def opened(
        self, path: str, body: object = None, method: str = "POST", **headers: str
    ) -> AsyncIterator[httpx.Response]:
        """The answer with its body still to come; leaving early closes the connection."""
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        sent = {"content-type": "application/json"} | {n.replace("_", "-"): v for n, v in headers.items()}
        async with self._http.stream(method, path, content=content, headers=sent) as answer:
            yield answer

    def logged(self, path: str) -> str:
        """The line on standard output; Envoy takes its time to write it."""
        deadline_s = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline_s:
            if found := [line for line in self.log.read_text().splitlines() if f'"{path}"' in line]:
                return found[0]
            time.sleep(0.02)
        raise TimeoutError(path)

    async def usage(self, path: str) -> dict[str, object]:
        return metadata(await self.sidecar.entry(path), "authz.usage")

    async def asked(self, body: object = None, **headers: str) -> dict[str, object]:
        """What the check was told of the body of a request; and nothing of it else."""
        path = self.path(answering(b"{}"))
        assert (await self.post(path, body, **headers)).status == 200
        (check,) = self.sidecar.checks[path]
        http = check.attributes.request.http
        assert (http.body, http.raw_body) == ("", b"")
        spaces = check.attributes.metadata_context.filter_metadata
        assert set(spaces) <= {"authz.request"}
        return _fields(spaces, "authz.request")


def metadata(entry: Any, namespace: str) -> dict[str, object]:
    """Empty: the namespace is not there."""
    return _fields(entry.common_properties.metadata.filter_metadata, namespace)


def _fields(spaces: Any, namespace: str) -> dict[str, object]:
    return dict(spaces[namespace].items()) if namespace in spaces else {}


def _be_patient(bootstrap: Any) -> None:
    """With this sidecar, which shares a thread with the clients and the API of a test."""
    manager = bootstrap["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    (check,) = (each for each in manager["http_filters"] if each["name"] == "authz.check")
    check["typed_config"]["grpc_service"]["timeout"] = f"{PATIENCE_S}s"


def flags(entry: Any) -> list[str]:
    return [descriptor.name for descriptor, _ in entry.common_properties.response_flags.ListFields()]
