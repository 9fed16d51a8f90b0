"""argon2id (RFC 9106), off the event loop: it takes tens of milliseconds and 64 MiB a password, on purpose."""

import asyncio
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import VerificationError

from authz.ports import OverloadFault


PARALLEL: Final = 2
MAX_WAITING: Final = 16
T = TypeVar("T")


class Argon2Hasher:
    """RFC 9106's second recommendation, as argon2-cffi has it by default; *hasher* is another one for tests."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._pool = ThreadPoolExecutor(PARALLEL, "argon2")
        self._waiting = 0
        self._nobodys: str | None = None

    async def hash(self, password: str) -> str:
        """Raises: OverloadFault."""
        return await self._run(lambda: self._hasher.hash(password))

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """Raises: OverloadFault."""
        if self._nobodys is None:
            self._nobodys = await self.hash(secrets.token_hex(16))
        wanted = password_hash or self._nobodys  # nobody's takes as long: who exists must not be told by the clock
        fits = await self._run(lambda: self._fits(wanted, password))
        return fits and password_hash is not None

    def _fits(self, password_hash: str, password: str) -> bool:
        try:
            return self._hasher.verify(password_hash, password)
        except (VerificationError, ValueError):  # not a hash at all: a ValueError, of several kinds
            return False

    async def _run(self, work: Callable[[], T]) -> T:
        if self._waiting >= MAX_WAITING:
            raise OverloadFault(f"{MAX_WAITING} passwords are being checked")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, work)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
