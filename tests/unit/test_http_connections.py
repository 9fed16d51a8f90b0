"""How many connections are taken, and for how long one is held for whoever says nothing."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest
from starlette.responses import PlainTextResponse

from authz.adapters.http import server as http_server
from authz.adapters.http.server import HttpServer, bind


Connection = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Clients:
    """Connections to one server, all of them closed in the end."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._open: list[asyncio.StreamWriter] = []

    async def connect(self) -> Connection:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._open.append(writer)
        return reader, writer

    async def close(self) -> None:
        for writer in self._open:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in self._open), return_exceptions=True)


@contextlib.asynccontextmanager
async def serving() -> AsyncIterator[Clients]:
    """A real server that says `here` to everybody."""
    listener = bind("127.0.0.1:0")
    server = HttpServer(PlainTextResponse("here"), listener)
    task = asyncio.create_task(server.run_until_stopped())
    clients = Clients(listener.getsockname()[1])
    try:
        yield clients
    finally:
        await clients.close()
        server.stop()
        await task


async def answered(connection: Connection) -> bool:
    """False: it was closed instead."""
    reader, writer = connection
    writer.write(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
    try:
        head = await reader.readuntil(b"here")
    except (asyncio.IncompleteReadError, ConnectionError):
        return False
    return head.startswith(b"HTTP/1.1 200 ")


async def test_connections_beyond_the_limit_are_closed_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unasked. Those that are there are served on, and what becomes free is given away again."""
    monkeypatch.setattr(http_server, "MAX_CONNECTIONS", 5)
    async with serving() as clients, asyncio.timeout(5):
        silent = [await clients.connect() for _ in range(5)]

        beyond = [await clients.connect() for _ in range(20)]
        assert [await reader.read() for reader, _ in beyond] == [b""] * 20
        assert [await answered(one) for one in silent] == [True] * 5

        silent[0][1].close()
        while not await answered(await clients.connect()):
            pass


async def test_a_second_request_that_trickles_ends_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the first one does: whoever was answered once holds no connection either."""
    monkeypatch.setattr(http_server, "REQUEST_S", 0.1)
    monkeypatch.setattr(http_server, "KEEP_ALIVE_S", 1)
    async with serving() as clients, asyncio.timeout(5):
        reader, writer = await clients.connect()
        assert await answered((reader, writer))
        writer.write(b"GET / HT")

        assert await reader.read() == b""
