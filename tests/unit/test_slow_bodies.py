"""Bodies that do not come: connections must not be held by whoever has nothing to lose."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from authz.adapters.http import rest
from authz.adapters.http.server import HttpServer, bind
from authz.adapters.rpc import RpcError
from authz.core.problems import FORMATS, Problem
from tests.support.rpc import Recording


@contextlib.asynccontextmanager
async def connected(service: Recording) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A connection to a real server in front of *service*."""
    listener = bind("127.0.0.1:0")
    server = HttpServer(rest.build([service], lambda: FORMATS["openai"], documents={}), listener)
    task = asyncio.create_task(server.run_until_stopped())
    reader, writer = await asyncio.open_connection(*listener.getsockname())
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
        server.stop()
        await task


async def test_a_body_that_trickles_has_a_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rest, "BODY_S", 0.2)
    service = Recording()
    async with connected(service) as (reader, writer), asyncio.timeout(5):
        writer.write(b"POST /authz/v1/login HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
        writer.write(b"content-length: 100\r\n\r\n{")
        answer = await reader.read()  # to the end: the connection is closed

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"its body did not arrive within" in answer
    assert service.requests == []


async def test_a_refused_caller_cannot_keep_the_connection_by_its_body() -> None:
    """The answer does not wait for the body, and the connection ends with it."""
    service = Recording(refuse=RpcError(Problem(401, "missing_credential", "No API key was sent.")))
    async with connected(service) as (reader, writer), asyncio.timeout(5):
        writer.write(b"POST /authz/v1/keys HTTP/1.1\r\nhost: x\r\ncontent-length: 100000\r\n\r\n{")
        answer = await reader.read()

    assert answer.startswith(b"HTTP/1.1 401 ")


async def test_who_calls_is_asked_before_the_body_and_again_once_it_is_in() -> None:
    service = Recording()
    async with connected(service) as (reader, writer), asyncio.timeout(5):
        writer.write(b"POST /authz/v1/keys HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n")
        writer.write(b'content-length: 12\r\n\r\n{"name"')
        while not service.calls:  # noqa: ASYNC110 - it has no event for it
            await asyncio.sleep(0.001)
        assert service.looks == 0
        writer.write(b':"a"}')
        head = await reader.readuntil(b"\r\n\r\n")

    assert head.startswith(b"HTTP/1.1 200 ")
    assert (len(service.calls), service.looks, len(service.requests)) == (1, 1, 1)


async def test_a_connection_whose_body_was_read_is_kept() -> None:
    service = Recording()
    async with connected(service) as (reader, writer), asyncio.timeout(5):
        for _ in range(2):
            writer.write(b"GET /authz/v1/keys HTTP/1.1\r\nhost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length: "))
            await reader.readexactly(int(length.partition(b": ")[2]))
            assert head.startswith(b"HTTP/1.1 200 ")
