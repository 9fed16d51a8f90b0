"""A sidecar's calls to its store, watched, held back, or all of them lost."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

from authz.adapters.redis.client import Store
from authz.ports import StoreFault


@dataclass
class Held:
    """One call: `reached` once it stands still, and goes on when `go` is set. *answered*: behind the store's answer."""

    operation: str
    answered: bool
    reached: asyncio.Event = field(default_factory=asyncio.Event)
    go: asyncio.Event = field(default_factory=asyncio.Event)

    async def stand(self) -> None:
        self.reached.set()
        await self.go.wait()


class Calls:
    """`operations`: asked so far. `away`: nothing reaches the store."""

    def __init__(self, store: Store) -> None:
        self._call = store.call
        self._held: list[Held] = []
        self.operations: list[str] = []
        self.away = False
        self._lost: list[str] = []
        self._undone: list[str] = []
        store.call = self._watched  # type: ignore[method-assign]

    def hold_reply(self, operation: str) -> Held:
        """The next call of *operation* is answered by the store; its answer is late."""
        self._held.append(Held(operation, answered=True))
        return self._held[-1]

    def lose(self, operation: str) -> None:
        """The next call of *operation* does not reach the store."""
        self._undone.append(operation)

    def lose_reply(self, operation: str) -> None:
        """The next call of *operation* is done by the store, and nobody is told."""
        self._lost.append(operation)

    def hold(self, operation: str) -> Held:
        """The next call of *operation* is late at the store."""
        self._held.append(Held(operation, answered=False))
        return self._held[-1]

    async def _watched(self, operation: str, *command: Any, **options: Any) -> Any:
        self.operations.append(operation)
        if self.away:
            raise StoreFault("the store is away")
        is_again = command[0] == "EVAL"  # the store did not know the script: the same question, by its text
        if operation in self._undone and not is_again:
            self._undone.remove(operation)
            raise StoreFault("the store did not answer in time")
        held = next((one for one in self._held if one.operation == operation and (one.answered or not is_again)), None)
        if held is not None and not held.answered:
            self._held.remove(held)
            await held.stand()
        reply = await self._call(operation, *command, **options)
        if operation in self._lost:
            self._lost.remove(operation)
            raise StoreFault("the store did not answer in time")
        if held is not None and held.answered and held in self._held:
            self._held.remove(held)
            await held.stand()
        return reply
