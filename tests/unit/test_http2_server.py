"""The server on real sockets: its connections, their number, their end."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from authz.adapters.http2 import frames as f
from authz.adapters.http2 import limits, server
from authz.adapters.http2.frames import frame
from authz.adapters.http2.server import Server
from tests.support.http2 import HELLO, MESSAGE, SERVICE, answers, block, data, headers, message, parse


CALL = frame(f.HEADERS, f.END_HEADERS, 1, b"\x20" + block(headers())) + data(1, message())


async def echo(asked: bytes) -> bytes:
    return asked


@asynccontextmanager
async def serving(address: str) -> AsyncIterator[Server]:
    built = server.build(address, {SERVICE: {"Echo": echo}}, max_message_bytes=1000)
    await built.start()
    try:
        yield built
    finally:
        await built.stop(None)


@pytest.fixture
def path(tmp_path: Path) -> str:
    return f"{tmp_path}/s"


async def connect(path: str, port: int = 0) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """By TCP where there is a port."""
    return await (asyncio.open_connection("127.0.0.1", port) if port else asyncio.open_unix_connection(path))


async def all_of(reader: asyncio.StreamReader) -> bytes:
    async with asyncio.timeout(20):
        return await reader.read()


async def test_a_call(path: str) -> None:
    async with serving(f"unix:{path}") as running:
        reader, writer = await connect(path)
        writer.write(HELLO + CALL)
        writer.write_eof()
        found = parse(await all_of(reader))
        writer.close()
        await asyncio.sleep(0)

    assert answers(found)[1].message == MESSAGE
    assert running._connections == set()


async def test_small_answers_are_sent_at_once() -> None:
    async with serving("127.0.0.1:0") as running:
        reader, writer = await connect("", running.port)
        await reader.readexactly(9)
        [connection] = running._connections
        theirs = connection._transport.get_extra_info("socket")
        assert theirs.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        writer.close()


@pytest.mark.parametrize("address", ["unix", "127.0.0.1:0"])
async def test_who_breaks_a_rule_is_told_so_though_it_has_sent_more(address: str, path: str) -> None:
    async with serving(f"unix:{path}" if address == "unix" else address) as running:
        reader, writer = await connect(path, running.port)
        writer.write(HELLO + data(0, b"") + bytes(300_000))
        found = parse(await all_of(reader))
        writer.close()

    assert (found[-1].kind, found[-1].code) == (f.GOAWAY, f.PROTOCOL_ERROR)


async def test_connections_are_limited(path: str, caplog: pytest.LogCaptureFixture) -> None:
    async with serving(f"unix:{path}") as running:
        peers = [await connect(path) for _ in range(limits.MAX_CONNECTIONS)]
        for reader, _ in peers:
            await reader.readexactly(9)
        refused = [await connect(path) for _ in range(3)]
        for reader, writer in refused:
            with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
                await reader.readexactly(9)
            writer.close()
        assert len(running._connections) == limits.MAX_CONNECTIONS
        assert [record.levelno for record in caplog.records] == [logging.WARNING]

        peers[0][1].close()
        async with asyncio.timeout(20):
            while len(running._connections) == limits.MAX_CONNECTIONS:  # noqa: ASYNC110 - there is no event for it
                await asyncio.sleep(0)
        reader, writer = await connect(path)
        await reader.readexactly(9)
        for _, one in [*peers, (reader, writer)]:
            one.close()


async def test_who_says_nothing_is_ended(path: str) -> None:
    async with serving(f"unix:{path}") as running:
        reader, writer = await connect(path)
        await reader.readexactly(9)
        [connection] = running._connections
        connection._made_s -= limits.PATIENCE_S
        found = await all_of(reader)
        writer.close()

    assert found.endswith(b"the preface does not come")


async def test_who_does_not_hang_up_does_not_hold_up_the_end(path: str) -> None:
    built = server.build(f"unix:{path}", {}, max_message_bytes=1000)
    await built.start()
    reader, writer = await connect(path)
    writer.write(HELLO)
    await reader.readuntil(frame(f.SETTINGS, f.ACK, 0, b""))
    async with asyncio.timeout(20):
        await built.stop(None)
    writer.close()

    assert built._connections == set()


async def test_who_is_being_accepted_as_it_ends_is_told(path: str) -> None:
    built = server.build(f"unix:{path}", {}, max_message_bytes=1000)
    await built.start()
    connection = built._connect()  # asyncio calls `connection_made` in a later pass
    stopping = asyncio.ensure_future(built.stop(10))
    await asyncio.sleep(0)
    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    await loop.create_connection(lambda: connection, sock=ours)
    reader, writer = await asyncio.open_unix_connection(sock=theirs)
    found = parse(await all_of(reader))
    writer.close()
    await stopping

    assert [one.kind for one in found] == [f.SETTINGS, f.WINDOW_UPDATE, f.GOAWAY]
