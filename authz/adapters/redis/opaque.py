"""Opaque tokens as the check finds them: by their digest, in one read whatever the number of keys, and remembered."""

import asyncio
from typing import Final

from authz.adapters.redis import keys
from authz.adapters.redis.client import Store
from authz.core.claims import Claims
from authz.core.pepper import Peppers
from authz.core.recent import Recent
from authz.ports import OverloadFault, StoreFault


CACHE_SIZE: Final = 20_000
MAX_AT_ONCE: Final = 8  # strangers can make tokens whose checksum fits: they must neither take the connections
MAX_READING: Final = 256  # nor queue up without end


class RedisOpaqueTokens:
    """
    Whose a token is never changes, so what was found is remembered without a time limit; whether it is still good, its
    record tells. What was not found is not remembered: it may be made a moment later.
    """

    def __init__(self, store: Store, peppers: Peppers, cache_size: int = CACHE_SIZE) -> None:
        self._store = store
        self._peppers = peppers
        self._known: Recent[str, Claims] = Recent(cache_size)
        self._reading = 0
        self._slots = asyncio.Semaphore(MAX_AT_ONCE)

    async def find(self, token: str) -> Claims | None:
        """Raises: StoreFault."""
        claims = self._known.get(token)
        if claims is not None:
            return claims
        if self._reading >= MAX_READING:
            raise OverloadFault(f"{MAX_READING} opaque tokens are being looked up")
        self._reading += 1
        try:
            async with self._slots:
                claims = await self._read(token)
        finally:
            self._reading -= 1
        if claims is not None:
            self._known.put(token, claims)
        return claims

    async def _read(self, token: str) -> Claims | None:
        for digest in self._peppers.digests(token):
            (owner,) = await self._store.read("opaque", *keys.digest(digest))
            if owner is not None:
                return _claims(owner, digest)
        return None


def encode_owner(key_id: str, subject: str, workspace: str) -> str:
    """No name holds a NUL."""
    return f"{key_id}\0{subject}\0{workspace}"


def _claims(owner: bytes, digest: str) -> Claims:
    try:
        key_id, subject, workspace = owner.decode().split("\0")
    except ValueError as exc:
        raise StoreFault("the owner of a token in the store cannot be read", trustworthy=False) from exc
    return Claims(subject, key_id, workspace, None, 0.0, None, None, digest=digest)
