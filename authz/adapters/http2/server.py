"""The server: an address, the methods on it, and the connections to it."""

import asyncio
import contextlib
import logging
from collections.abc import Mapping
from typing import Any, Final

from authz.adapters.http2 import limits
from authz.adapters.http2.connection import Connection
from authz.adapters.http2.listening import BACKLOG, Listener, ListenError
from authz.adapters.http2.messages import Router, Unary


__all__ = ["ListenError", "Server", "Unary", "build"]

_log: Final = logging.getLogger(__name__)


class Refusal:
    """The protocol of a connection that is one too many."""

    def connection_made(self, transport: Any) -> None:
        transport.abort()

    def connection_lost(self, _: Exception | None) -> None:
        pass


class Server:
    """Bound, and not started: `build` makes it."""

    def __init__(self, listener: Listener, router: Router, max_message_bytes: int) -> None:
        self._listener = listener
        self._router = router
        self._max_message_bytes = max_message_bytes
        self._connections: set[Connection] = set()
        self._emptied = asyncio.Event()
        self._servers: list[asyncio.Server] = []
        self._ticks: asyncio.TimerHandle | None = None
        self._is_full = False

    @property
    def port(self) -> int:
        """Where it listens; 0: on a Unix socket."""
        return self._listener.port

    async def start(self) -> None:
        """Serve, on the running event loop."""
        self._loop = asyncio.get_running_loop()
        for listener in self._listener.sockets:
            self._servers.append(await self._loop.create_server(self._connect, sock=listener, backlog=BACKLOG))
        self._tick()

    async def stop(self, grace_s: float | None) -> None:
        """
        Take no more connections, let clients go elsewhere, and let the calls under way end within *grace_s*; then
        answer those that are left UNAVAILABLE. Without a start: give the address back.
        """
        for server in self._servers:
            server.close()
        self._listener.close()
        for connection in self._connections:
            connection.drain()
        await self._all_gone(grace_s or 0.0)
        for connection in self._connections:
            connection.stop()
        await self._all_gone(limits.LINGER_S)
        for connection in self._connections:
            connection.abort()
        await self._all_gone(limits.LINGER_S)
        if self._ticks is not None:
            self._ticks.cancel()

    async def _all_gone(self, within_s: float) -> None:
        self._emptied.clear()
        if self._connections:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(within_s):
                    await self._emptied.wait()

    def _connect(self) -> Any:
        """The protocol of a new connection."""
        is_full = len(self._connections) >= limits.MAX_CONNECTIONS
        if is_full:
            if not self._is_full:
                _log.warning("too many connections: new ones are refused")
            self._is_full = True
            return Refusal()
        self._is_full = False
        connection = Connection(self._loop, self._router, self._lose, self._max_message_bytes)
        self._connections.add(connection)
        return connection

    def _lose(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if not self._connections:
            self._emptied.set()

    def _tick(self) -> None:
        now_s = self._loop.time()
        for connection in list(self._connections):
            connection.tick(now_s)
        self._ticks = self._loop.call_later(limits.TICK_S, self._tick)


def build(address: str, services: Mapping[str, Mapping[str, Unary]], *, max_message_bytes: int) -> Server:
    """
    A server that is bound and not started. *address*: `HOST:PORT` or `unix:PATH`; *services*: service name → method
    name → coroutine function.

    Raises: ListenError.
    """
    return Server(Listener.on(address), Router(services), max_message_bytes)
