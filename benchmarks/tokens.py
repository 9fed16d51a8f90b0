"""Keys of a store, made by the product as `keys create` makes them."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from authz.adapters.logs.silent import Silent
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import NewKey
from authz.app import PATIENCE_S, key_admin, open_store
from authz.settings import Configuration


@dataclass(frozen=True, slots=True)
class Keys:
    """Of the store and with the secrets of a configuration."""

    configuration: Configuration

    def make(self, news: Sequence[NewKey], *, revoked: bool = False) -> list[str]:
        """Their tokens. *revoked*: they are dead when this returns."""
        return asyncio.run(self._make(news, revoked=revoked))

    async def _make(self, news: Sequence[NewKey], *, revoked: bool) -> list[str]:
        made = []
        async with open_store(self.configuration.settings, Silent(), timeout_s=PATIENCE_S) as store:
            admin = key_admin(self.configuration, store, Silent())
            for new in news:
                issued = await admin.create(new, COMMAND_LINE)
                if revoked:
                    await admin.revoke(issued.record.id, "benchmark", COMMAND_LINE)
                made.append(issued.token)
        return made


def some(count: int, *scopes: str, **more: Any) -> list[NewKey]:
    """*more*: of each."""
    return [NewKey("benchmark", scopes=scopes, **more) for _ in range(count)]
