"""Tokens that can be shown again: kept sealed beside their records, where `keys.retain_token` is on."""

from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from authz.core.keyrecord import KeyRecord, KeyState
from authz.core.listing import Filter
from authz.ports import ChangedError, KeyRegistry, Vault


_PAGE: Final = 500
_ATTEMPTS: Final = 4  # at a record that others change meanwhile


@dataclass(frozen=True, slots=True)
class Retention:
    """`vault` None: nothing is kept; what was kept before is still let go."""

    registry: KeyRegistry
    vault: Vault | None

    async def keep(self, record: KeyRecord, token: str) -> bool:
        """Whether *token* is kept: not where it is no longer the current one of a living key. Raises: StoreFault."""
        if self.vault is None:
            return False
        sealed = self.vault.seal(token.encode(), _about(record))
        for _ in range(_ATTEMPTS):
            standing = await self.registry.read(record.id)
            if standing is None or standing.revoked_at_us is not None:
                return False
            if standing.current.number != record.current.number:
                return False
            with suppress(ChangedError):
                await self.registry.retain(standing, sealed)
                return True
        return False

    async def show(self, record: KeyRecord) -> str | None:
        """The current token of *record*; None: it was not kept, or under a secret that is gone. Raises: StoreFault."""
        sealed = await self.registry.retained(record)
        if sealed is None or self.vault is None:
            return None
        token = self.vault.unseal(sealed, _about(record))
        if token is not None and not self.vault.is_current(sealed):
            await self.keep(record, token.decode())
        return None if token is None else token.decode()

    async def forget(self, record: KeyRecord) -> None:
        """Raises: StoreFault."""
        await self.registry.retain(record, None)

    async def rewrap(self) -> tuple[int, int]:
        """
        Seal every retained token under the keyring's first secret, and let those of revoked keys go; how many were
        sealed anew, and how many could not be: their secret is gone. Raises: StoreFault.
        """
        wrapped, left, token = 0, 0, ""
        while self.vault is not None:
            page = await self.registry.page(Filter({}), _PAGE, token)
            for record in page.records:
                done = await self._rewrap_one(record, self.vault, page.now_us)
                wrapped += done is True
                left += done is False
            token = page.next_token
            if not token:
                break
        return wrapped, left

    async def _rewrap_one(self, record: KeyRecord, vault: Vault, now_us: int) -> bool | None:
        """Whether it was sealed anew; None: it need not be."""
        sealed = await self.registry.retained(record)
        if sealed is not None and record.state(now_us) is KeyState.REVOKED:
            await self.forget(record)
            return None
        if sealed is None or vault.is_current(sealed):
            return None
        token = vault.unseal(sealed, _about(record))
        return token is not None and await self.keep(record, token.decode())


def _about(record: KeyRecord) -> str:
    return f"token {record.current.number} of {record.id}"
