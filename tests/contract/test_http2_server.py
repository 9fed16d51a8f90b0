"""Unary gRPC as clients meet it: the same tests for our own server and for grpcio's."""

import asyncio
import contextlib
import errno
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import grpc
import pytest
from grpc import aio

from authz.adapters.grpc import server as grpcio
from authz.adapters.http2 import server as http2
from authz.demo.processes import free_port


SERVICE = "tests.Bytes"
MAX_MESSAGE = 16 * 2**20
MIB = 2**20
OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))
FAILED = {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}  # ours, grpcio's

Unary = Callable[[bytes], Awaitable[bytes]]


class Server(Protocol):
    async def start(self) -> None: ...
    async def stop(self, grace_s: float | None, /) -> object: ...


def build(kind: str, address: str, methods: dict[str, Unary]) -> Server:
    services = {SERVICE: methods}
    if kind == "http2":
        return http2.build(address, services, max_message_bytes=MAX_MESSAGE)
    return grpcio.build(address, services, grpcio.Health(()), max_message_bytes=MAX_MESSAGE)


@dataclass
class Methods:
    """`held`: calls of `Hold` under way, until `release`; `cancelled`: how many were."""

    release: asyncio.Event = field(default_factory=asyncio.Event)
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    held: int = 0
    cancelled: int = 0

    async def echo(self, asked: bytes) -> bytes:
        return asked

    async def later(self, asked: bytes) -> bytes:
        await asyncio.sleep(0)
        waiting: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(waiting.set_result, asked)
        return await waiting

    async def hold(self, asked: bytes) -> bytes:
        self.held += 1
        self.reached.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            self.ended.set()
            raise
        finally:
            self.held -= 1
        return asked

    async def fail(self, asked: bytes) -> bytes:
        raise ValueError(asked)

    @property
    def all(self) -> dict[str, Unary]:
        return {"Echo": self.echo, "Later": self.later, "Hold": self.hold, "Fail": self.fail}


@pytest.fixture(params=["http2", "grpcio"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["tcp", "unix"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return f"127.0.0.1:{free_port()}" if request.param == "tcp" else f"unix:{tmp_path}/s"


@pytest.fixture
def methods() -> Methods:
    return Methods()


@pytest.fixture
async def serving(kind: str, address: str, methods: Methods) -> AsyncIterator[Server]:
    server = build(kind, address, methods.all)
    await server.start()
    yield server
    methods.release.set()
    await server.stop(None)


@pytest.fixture
async def channel(serving: Server, address: str) -> AsyncIterator[aio.Channel]:
    async with aio.insecure_channel(address, options=OPTIONS) as made:
        yield made


async def call(channel: aio.Channel, method: str, asked: bytes = b"", **options: Any) -> bytes:
    asking: Any = channel.unary_unary(f"/{SERVICE}/{method}")
    answer: bytes = await asking(asked, **{"timeout": 30, **options})
    return answer


async def status(channel: aio.Channel, method: str, asked: bytes = b"", **options: Any) -> grpc.StatusCode:
    with pytest.raises(aio.AioRpcError) as caught:
        await call(channel, method, asked, **options)
    code: grpc.StatusCode = caught.value.code()
    return code


@pytest.mark.parametrize("method", ["Echo", "Later"])
@pytest.mark.parametrize("size", [0, 1, 1000, 16_378, 16_379, 16_380, 65_531, 65_536, MIB, 10 * MIB])
async def test_messages_of_all_sizes(channel: aio.Channel, method: str, size: int) -> None:
    asked = os.urandom(size)

    assert await call(channel, method, asked) == asked


async def test_many_calls_at_once(channel: aio.Channel, kind: str) -> None:
    """A few thousand are too many for grpcio's own server and client in one process: some are cancelled."""
    many = 3000 if kind == "http2" else 100
    answers = await asyncio.gather(*(call(channel, "Later", b"%d" % number) for number in range(many)))

    assert answers == [b"%d" % number for number in range(many)]


async def test_many_large_messages_at_once(channel: aio.Channel) -> None:
    asked = os.urandom(2 * MIB)

    assert await asyncio.gather(*(call(channel, "Later", asked) for _ in range(24))) == [asked] * 24


async def test_a_client_of_threads(serving: Server, address: str) -> None:
    def ask() -> list[bytes]:
        with grpc.insecure_channel(address, options=OPTIONS) as made:
            asking: Any = made.unary_unary(f"/{SERVICE}/Later")
            calls = [asking.future(b"%d" % number, timeout=30) for number in range(500)]
            return [one.result() for one in calls]

    assert await asyncio.to_thread(ask) == [b"%d" % number for number in range(500)]


async def test_metadata_of_all_kinds(channel: aio.Channel) -> None:
    metadata = [("x-text", "v" * 4000), ("x-twice", "a"), ("x-twice", "b"), ("x-raw-bin", bytes(range(256)))]
    answers = [await call(channel, "Echo", b"asked", metadata=(*metadata, ("x-n", str(n)))) for n in range(50)]

    assert answers == [b"asked"] * 50


async def test_an_answer_has_no_details(channel: aio.Channel) -> None:
    asking: Any = channel.unary_unary(f"/{SERVICE}/Echo")
    asked = asking(b"asked", timeout=30)
    await asked

    assert (await asked.code(), await asked.details()) == (grpc.StatusCode.OK, "")


@pytest.mark.parametrize("path", [f"/{SERVICE}/None", "/tests.None/Echo", "/"])
async def test_an_unknown_method(channel: aio.Channel, path: str) -> None:
    asking: Any = channel.unary_unary(path)
    with pytest.raises(aio.AioRpcError) as caught:
        await asking(b"asked", timeout=30)

    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert await call(channel, "Echo", b"x") == b"x"


async def test_a_handler_that_fails(channel: aio.Channel) -> None:
    with pytest.raises(aio.AioRpcError) as caught:
        await call(channel, "Fail", b"asked")

    assert caught.value.code() in FAILED
    assert await call(channel, "Echo", b"x") == b"x"


async def test_a_message_that_is_too_large(channel: aio.Channel) -> None:
    assert await call(channel, "Echo", bytes(MAX_MESSAGE)) == bytes(MAX_MESSAGE)
    assert await status(channel, "Echo", bytes(MAX_MESSAGE + 1)) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await call(channel, "Echo", b"x") == b"x"


@pytest.mark.parametrize("kind", ["http2"], indirect=True)  # grpcio's takes it
async def test_a_compressed_message(channel: aio.Channel) -> None:
    code = await status(channel, "Echo", b"x" * 1000, compression=grpc.Compression.Gzip)

    assert code is grpc.StatusCode.UNIMPLEMENTED
    assert await call(channel, "Echo", b"x" * 1000) == b"x" * 1000


async def test_a_deadline(channel: aio.Channel, methods: Methods) -> None:
    """The client's own clock may be first to say so; the handler is cancelled in either case."""
    assert await status(channel, "Hold", timeout=0.1) is grpc.StatusCode.DEADLINE_EXCEEDED
    async with asyncio.timeout(10):
        await methods.ended.wait()

    assert methods.cancelled == 1
    assert await call(channel, "Echo", b"x") == b"x"


async def test_a_call_that_is_cancelled(channel: aio.Channel, methods: Methods) -> None:
    asking: Any = channel.unary_unary(f"/{SERVICE}/Hold")
    asked = asking(b"asked", timeout=30)
    waiting = asyncio.ensure_future(asked)
    async with asyncio.timeout(10):
        await methods.reached.wait()
        asked.cancel()
        await methods.ended.wait()
    await asyncio.gather(waiting, return_exceptions=True)

    assert methods.cancelled == 1
    assert await call(channel, "Echo", b"x") == b"x"


async def test_many_that_are_cancelled(channel: aio.Channel, methods: Methods) -> None:
    asked = [asyncio.ensure_future(call(channel, "Hold")) for _ in range(300)]
    async with asyncio.timeout(20):
        while methods.held < 300:  # noqa: ASYNC110 - held is a number, not an event
            await asyncio.sleep(0.01)
        for one in asked:
            one.cancel()
        while methods.cancelled < 300:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    await asyncio.gather(*asked, return_exceptions=True)

    assert methods.held == 0
    assert await call(channel, "Echo", b"x") == b"x"


async def test_a_client_that_goes_away(serving: Server, address: str, methods: Methods) -> None:
    async with aio.insecure_channel(address) as made:
        waiting = asyncio.ensure_future(call(made, "Hold"))
        async with asyncio.timeout(10):
            await methods.reached.wait()
    async with asyncio.timeout(10):
        await methods.ended.wait()
    await asyncio.gather(waiting, return_exceptions=True)

    assert methods.cancelled == 1


# Addresses


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]", "localhost", "0.0.0.0", "[::]"])
async def test_addresses(kind: str, host: str, methods: Methods) -> None:
    port = free_port()
    server = build(kind, f"{host}:{port}", methods.all)
    await server.start()
    target = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}.get(host, host)
    async with aio.insecure_channel(f"{target}:{port}") as made:
        assert await call(made, "Echo", b"x") == b"x"
    await server.stop(None)


@pytest.mark.parametrize("target", ["127.0.0.1", "[::1]"])
async def test_localhost_is_both_of_them(kind: str, target: str, methods: Methods) -> None:
    port = free_port()
    server = build(kind, f"localhost:{port}", methods.all)
    await server.start()
    async with aio.insecure_channel(f"{target}:{port}") as made:
        assert await call(made, "Echo", b"x") == b"x"
    await server.stop(None)


def faults(kind: str) -> type[Exception]:
    return http2.ListenError if kind == "http2" else grpcio.ListenError


@pytest.mark.parametrize(
    ("kind", "host"), [("http2", "127.0.0.1"), ("http2", "localhost"), ("grpcio", "127.0.0.1")], indirect=["kind"]
)
async def test_a_busy_port(kind: str, host: str) -> None:
    """Even one whose owner would share it. Of `localhost`, grpcio is content with either half."""
    with socket.socket() as owner:
        owner.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        owner.bind(("127.0.0.1", 0))
        owner.listen()
        with pytest.raises(faults(kind)):
            build(kind, f"{host}:{owner.getsockname()[1]}", {})


@pytest.mark.parametrize("wrong", ["192.0.2.1:1", "unix:/no/such/folder/s", "unix:" + "x" * 200])
async def test_an_address_that_cannot_be_had(kind: str, wrong: str) -> None:
    with pytest.raises(faults(kind)):
        build(kind, wrong, {})


async def test_a_socket_left_behind_is_replaced(kind: str, tmp_path: Path, methods: Methods) -> None:
    with socket.socket(socket.AF_UNIX) as killed:
        killed.bind(f"{tmp_path}/s")
    server = build(kind, f"unix:{tmp_path}/s", methods.all)
    await server.start()
    async with aio.insecure_channel(f"unix:{tmp_path}/s") as made:
        assert await call(made, "Echo", b"x") == b"x"
    await server.stop(None)


class TestOurs:
    """Where ours is stricter than grpcio's, or where there is only ours to ask."""

    async def test_a_socket_in_use_is_left_alone(self, tmp_path: Path, methods: Methods) -> None:
        first = build("http2", f"unix:{tmp_path}/s", methods.all)
        await first.start()
        with pytest.raises(http2.ListenError, match=os.strerror(errno.EADDRINUSE)):
            build("http2", f"unix:{tmp_path}/s", {})
        async with aio.insecure_channel(f"unix:{tmp_path}/s") as made:
            assert await call(made, "Echo", b"x") == b"x"
        await first.stop(None)

    async def test_a_file_is_left_alone(self, tmp_path: Path) -> None:
        (tmp_path / "s").write_text("mine")
        with pytest.raises(http2.ListenError):
            build("http2", f"unix:{tmp_path}/s", {})

        assert (tmp_path / "s").read_text() == "mine"

    async def test_the_sockets_file_goes_with_the_server(self, tmp_path: Path) -> None:
        server = build("http2", f"unix:{tmp_path}/s", {})
        assert stat.S_ISSOCK((tmp_path / "s").stat().st_mode)
        await server.start()
        await server.stop(None)

        assert not (tmp_path / "s").exists()

    async def test_without_a_start_too(self, tmp_path: Path) -> None:
        server = build("http2", f"unix:{tmp_path}/s", {})
        await server.stop(None)

        assert not (tmp_path / "s").exists()

    async def test_another_ones_file_stays(self, tmp_path: Path) -> None:
        server = build("http2", f"unix:{tmp_path}/s", {})
        (tmp_path / "s").rename(tmp_path / "mine")
        (tmp_path / "s").write_text("theirs")
        await server.stop(None)

        assert (tmp_path / "s").read_text() == "theirs"

    async def test_a_port_of_the_systems_choice(self, methods: Methods, tmp_path: Path) -> None:
        server = http2.build("127.0.0.1:0", {SERVICE: methods.all}, max_message_bytes=MAX_MESSAGE)
        await server.start()
        async with aio.insecure_channel(f"127.0.0.1:{server.port}") as made:
            assert await call(made, "Echo", b"x") == b"x"
        await server.stop(None)

        unix = http2.build(f"unix:{tmp_path}/s", {}, max_message_bytes=MAX_MESSAGE)
        assert unix.port == 0
        await unix.stop(None)

    async def test_it_listens_before_it_is_started(self, tmp_path: Path, methods: Methods) -> None:
        """So that a second one is refused, and the first clients only wait."""
        server = build("http2", f"unix:{tmp_path}/s", methods.all)
        async with aio.insecure_channel(f"unix:{tmp_path}/s") as made:
            waiting = asyncio.ensure_future(call(made, "Echo", b"x"))
            await connected(f"unix:{tmp_path}/s")
            await server.start()
            assert await waiting == b"x"
        await server.stop(None)

    @pytest.mark.parametrize("wrong", ["127.0.0.1", "127.0.0.1:http", "127.0.0.1:99999", "127.0.0.1:-1", "", "unix:"])
    async def test_what_is_no_address(self, wrong: str) -> None:
        with pytest.raises(http2.ListenError):
            build("http2", wrong, {})


# The end


async def connected(address: str) -> None:
    """Raises: OSError."""
    if address.startswith("unix:"):
        _, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        _, writer = await asyncio.open_connection(*address.split(":"))
    writer.close()


@pytest.mark.parametrize("kind", ["http2", "grpcio"], indirect=True)
async def test_what_is_under_way_may_end(serving: Server, address: str, methods: Methods) -> None:
    async with aio.insecure_channel(address) as made:
        waiting = [asyncio.ensure_future(call(made, "Hold", b"%d" % number)) for number in range(50)]
        async with asyncio.timeout(10):
            while methods.held < 50:  # noqa: ASYNC110 - held is a number, not an event
                await asyncio.sleep(0.01)
            stopping = asyncio.ensure_future(asyncio.wait_for(serving.stop(10), 20))
            while True:
                await asyncio.sleep(0)
                with contextlib.suppress(OSError):
                    await connected(address)
                    continue
                break
            methods.release.set()
            answers = await asyncio.gather(*waiting)
        await stopping

    assert answers == [b"%d" % number for number in range(50)]


async def test_what_is_not_done_in_time_is_ended(serving: Server, address: str, methods: Methods) -> None:
    async with aio.insecure_channel(address) as made:
        waiting = asyncio.ensure_future(status(made, "Hold"))
        async with asyncio.timeout(10):
            await methods.reached.wait()
            await serving.stop(0.05)
            code = await waiting

    assert code in {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}
    assert (methods.held, methods.cancelled) == (0, 1)


async def test_idle_clients_do_not_hold_it_up(serving: Server, address: str) -> None:
    async with aio.insecure_channel(address) as made:
        assert await call(made, "Echo", b"x") == b"x"
        async with asyncio.timeout(10):
            await serving.stop(60)


ROUND_ROBIN = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')


async def test_no_call_fails_while_servers_come_and_go(methods: Methods) -> None:
    """
    Clients that are told in time go elsewhere: one of two servers is stopped, and started anew, again and again.

    grpcio's own server does not pass: it cancels what it has received and not begun.
    """
    ports = [free_port(), free_port()]
    addresses = [f"127.0.0.1:{port}" for port in ports]
    servers = [build("http2", address, methods.all) for address in addresses]
    for server in servers:
        await server.start()
    target = f"ipv4:{','.join(addresses)}"
    options = (ROUND_ROBIN, ("grpc.use_local_subchannel_pool", 1), ("grpc.initial_reconnect_backoff_ms", 100))
    done = 0
    over = asyncio.Event()

    async def ask(channel: aio.Channel, name: bytes) -> None:
        nonlocal done
        while not over.is_set():
            assert await call(channel, "Later", name, wait_for_ready=True) == name
            done += 1

    channels = [aio.insecure_channel(target, options=options) for _ in range(4)]
    asking = [asyncio.ensure_future(ask(channel, b"%d" % number)) for channel in channels for number in range(16)]
    for round_ in range(6):
        before = done
        async with asyncio.timeout(30):
            while done < before + 300:
                await asyncio.sleep(0.01)
                failed = [one.exception() for one in asking if one.done()]
                assert failed == []
            await servers[round_ % 2].stop(5)
        servers[round_ % 2] = build("http2", addresses[round_ % 2], methods.all)
        await servers[round_ % 2].start()
    over.set()
    await asyncio.gather(*asking)
    for made in channels:
        await made.close()
    for server in servers:
        await server.stop(1)

    assert done > 1800
