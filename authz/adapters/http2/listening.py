"""Listening sockets, bound before anything is served: a busy address is known at once."""

import contextlib
import errno
import socket
from pathlib import Path
from typing import Final, Self


BACKLOG: Final = 128  # so many are accepted in one turn of the event loop
LOOPBACK: Final = "127.0.0.1", "::1"  # what localhost is, whatever the host's tables say (RFC 6761)


class ListenError(Exception):
    """The address cannot be listened on."""


class Listener:
    """The sockets of one address, `HOST:PORT` or `unix:PATH`; two where `localhost` is two addresses."""

    def __init__(self, sockets: list[socket.socket], path: Path | None = None) -> None:
        self.sockets = sockets
        self._path = path
        self._inode = path.stat().st_ino if path else 0

    @classmethod
    def on(cls, address: str) -> Self:
        """Raises: ListenError."""
        try:
            if address.startswith("unix:"):
                path = Path(address.removeprefix("unix:"))
                return cls([_unix(path)], path)
            host, _, port = address.rpartition(":")
            return cls(_tcp(host.strip("[]"), int(port)))
        except (OSError, ValueError) as exc:
            why = exc.strerror if isinstance(exc, OSError) and exc.strerror else str(exc)
            raise ListenError(f"cannot listen on {address}: {why}") from exc

    @property
    def port(self) -> int:
        """0: a Unix socket."""
        return 0 if self._path else int(self.sockets[0].getsockname()[1])

    def close(self) -> None:
        """The file of a Unix socket goes too, unless somebody else has put theirs in its place."""
        for listener in self.sockets:
            listener.close()
        if self._path:
            with contextlib.suppress(OSError):
                if self._path.stat().st_ino == self._inode:
                    self._path.unlink()


def _unix(path: Path) -> socket.socket:
    if path.is_socket() and not _is_served(path):
        path.unlink()  # left behind by one that was killed
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(0)  # a full backlog is somebody's, too
        return probe.connect_ex(str(path)) not in {errno.ECONNREFUSED, errno.ENOENT}


def _tcp(host: str, port: int) -> list[socket.socket]:
    """All that the name stands for, on one port. Raises: OSError, ValueError."""
    if not 0 <= port <= 65535:
        raise ValueError("there is no such port")
    first = _bound(LOOPBACK[0] if host == "localhost" else host, port)
    if host != "localhost":
        return [first]
    try:
        return [first, _bound(LOOPBACK[1], int(first.getsockname()[1]))]
    except OSError as error:
        if error.errno in {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}:
            return [first]  # a host without IPv6
        first.close()
        raise


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY on these alone
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener
