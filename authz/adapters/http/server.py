"""uvicorn as one of several servers on our event loop: it takes neither signals nor log configuration."""

import contextlib
import socket
from collections.abc import Generator

import uvicorn
from starlette.types import ASGIApp


class HttpServer(uvicorn.Server):
    """Serves *app* on a socket that is bound already, so that a busy port is known before anything is started."""

    def __init__(self, app: ASGIApp, listener: socket.socket) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                server_header=False,
                ws="none",
                limit_concurrency=256,
                timeout_keep_alive=15,
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


def bind(address: str) -> socket.socket:
    """A listening socket for `HOST:PORT` or `unix:PATH`. Raises: OSError."""
    if address.startswith("unix:"):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address.removeprefix("unix:"))
        return listener
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY on these alone
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((host, int(port)))
    return listener
