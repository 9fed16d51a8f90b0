"""Asking again without doing again: what a `request_id` was answered, kept sealed for ten minutes."""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from authz.admin.keys import KeyConflictError, KeyRequestError
from authz.ports import KeyRegistry, StoreFault, Vault


KEPT_S: Final = 600
UNDER_WAY_S: Final = 30  # for as long may the first one take before a second one is let through
MAX_CHARS: Final = 128
_UNDER_WAY: Final = b""


@dataclass(frozen=True, slots=True)
class Answers:
    registry: KeyRegistry
    vault: Vault

    async def once(self, question: tuple[str, str, str], asked: bytes, act: Callable[[], Awaitable[bytes]]) -> bytes:
        """
        What *act* answers; the second time, what it answered the first.

        Args:
            question: Caller, method and `request_id`; without the last, *act* is simply done.
            asked: The whole request: another one under the same id is refused.
            act: What is to be done once.
        Raises: KeyRequestError; KeyConflictError — the first one is still under way; whatever *act* raises.
        """
        request_id = question[2]
        if not request_id:
            return await act()
        if len(request_id) > MAX_CHARS or not request_id.isprintable():
            raise KeyRequestError("request_id", f"must be 1 to {MAX_CHARS} printable characters")
        name = hashlib.sha256("\0".join(question).encode()).hexdigest()
        digest = hashlib.sha256(asked).digest()
        kept = await self.registry.remember_answer(name, _UNDER_WAY, UNDER_WAY_S, is_first=True)
        if kept is not None:
            return self._answered(kept, name, digest)
        try:
            answer = await act()
        except Exception:
            with suppress(StoreFault):  # it goes by itself soon
                await self.registry.forget_answer(name)
            raise
        with suppress(StoreFault):  # it is done: the caller must have the answer, kept or not
            await self.registry.remember_answer(name, self.vault.seal(digest + answer, name), KEPT_S, is_first=False)
        return answer

    def _answered(self, kept: bytes, name: str, digest: bytes) -> bytes:
        if kept == _UNDER_WAY:
            raise KeyConflictError("a request with this request_id is under way: try again in a moment")
        opened = self.vault.unseal(kept, name)
        if opened is None:
            raise KeyConflictError("what this request_id was answered cannot be read any more")
        if opened[: len(digest)] != digest:
            raise KeyRequestError("request_id", "was used for another request")
        return opened[len(digest) :]
