"""uvicorn as one of several servers on our event loop: it takes neither signals nor log configuration."""

import asyncio
import contextlib
import resource
import socket
from collections.abc import Generator
from pathlib import Path
from typing import Final

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol


MAX_CONNECTIONS: Final = 2048
BACKLOG: Final = 128  # so many are accepted in one turn of the event loop, before the first is seen
REQUEST_S: Final = 10.0
KEEP_ALIVE_S: Final = 15
LINGER_S: Final = 1.0


class ImpatientProtocol(H11Protocol):
    """
    Closes connections beyond the limit at once, as each is an open file, and the check needs some too; and those whose
    next request, or a body, does not come: they would count against the limit for ever.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._impatience = self.loop.call_later(REQUEST_S, self._end_if_silent, None)
        if self.limit_concurrency is not None and len(self.connections) >= self.limit_concurrency:
            transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._impatience.cancel()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """A body that nobody needs any more may still arrive, for a moment: many clients read the answer after it."""
        answered = self.cycle
        super().on_response_complete()  # perhaps with the next one, which came together with it
        self._impatience.cancel()
        self._impatience = self.loop.call_later(KEEP_ALIVE_S + REQUEST_S, self._end_if_silent, answered)
        if self.conn.their_state is h11.SEND_BODY:
            self.loop.call_later(LINGER_S, self._end_if_sending, answered)

    def _end_if_sending(self, cycle: object) -> None:
        if self.cycle is cycle and self.conn.their_state is h11.SEND_BODY:
            self.transport.close()

    def _end_if_silent(self, answered: object) -> None:
        """*answered*: the last request that was; None: there was none."""
        if self.cycle is answered:
            self.transport.close()


class HttpServer(uvicorn.Server):
    """Serves *app* on a socket that is bound already, so that a busy port is known before anything is started."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                proxy_headers=False,  # tell who is connected; whom else to believe is for `trusted_proxies` to say
                lifespan="off",
                server_header=False,
                ws="none",
                http=ImpatientProtocol,
                limit_concurrency=most_connections() + 1,  # at its limit uvicorn refuses those that are there, too
                backlog=BACKLOG,
                timeout_keep_alive=KEEP_ALIVE_S,
                h11_max_incomplete_event_size=16 * 1024,
                timeout_graceful_shutdown=2,
            )
        )
        self._listener = listener

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield  # the composition root decides when to stop

    async def run_until_stopped(self) -> None:
        await self.serve(sockets=[self._listener])

    def stop(self) -> None:
        self.should_exit = True


def most_connections() -> int:
    """Of one server: a quarter of the files that we may have open, so two leave half to the check and the store."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else min(MAX_CONNECTIONS, files // 4)


def bind(address: str) -> socket.socket:
    """A listening socket for `HOST:PORT` or `unix:PATH`. Raises: OSError."""
    if address.startswith("unix:"):
        path = Path(address.removeprefix("unix:"))
        listener = socket.socket(socket.AF_UNIX)
        if path.is_socket() and listener.connect_ex(str(path)) != 0:
            path.unlink()  # left behind by one that was killed
        listener.bind(str(path))
        listener.listen()
        return listener
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY on these alone
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    listener.listen()  # only now is a port that is partly taken found out
    return listener
