"""Asking again without doing again: what a `request_id` was answered, kept sealed for ten minutes."""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from authz.admin.actor import ForbiddenError
from authz.admin.keys import KeyConflictError, KeyRequestError, NoSuchKeyError
from authz.ports import KeyRegistry, StoreFault, Vault


KEPT_S: Final = 600
MAX_CHARS: Final = 128
_DRAWN, _DONE = b"d", b"a"


@dataclass(frozen=True, slots=True)
class Answers:
    """
    What is random about an answer is drawn and kept before anything is done. So whoever asks again, at the same time or
    after an answer that was lost, does the same thing with the same draw, and doing it twice is doing it once.
    """

    registry: KeyRegistry
    vault: Vault

    async def once(
        self,
        question: tuple[str, str, str],
        asked: bytes,
        draw: Callable[[], Awaitable[bytes]],
        act: Callable[[bytes | None], Awaitable[bytes]],
    ) -> bytes:
        """
        What *act* answers; asked again, what it answered the first time.

        Args:
            question: Caller, method and `request_id`; without the last, it is simply done.
            asked: The whole request: another one under the same id is refused.
            draw: What is random about it.
            act: Does it with what was drawn (None: with a draw of its own); must be safe to do again with the same.
        Raises: KeyRequestError; KeyConflictError; whatever *draw* and *act* raise.
        """
        request_id = question[2]
        if not request_id:
            return await act(None)
        if len(request_id) > MAX_CHARS or not request_id.isprintable():
            raise KeyRequestError("request_id", f"must be 1 to {MAX_CHARS} printable characters")
        name = hashlib.sha256("\0".join(question).encode()).hexdigest()
        digest = hashlib.sha256(asked).digest()
        drawn = await draw()
        sealed = self.vault.seal(digest + _DRAWN + drawn, name)
        kept = await self.registry.remember_answer(name, sealed, KEPT_S, is_first=True)
        if kept is not None:
            told, what = self._opened(kept, name, digest)
            if told == _DONE:
                return what
            drawn = what
        try:
            answer = await act(drawn)
        except (KeyRequestError, ForbiddenError, NoSuchKeyError):
            if kept is None:  # nothing was done, and nobody else has asked with this draw before
                with suppress(StoreFault):
                    await self.registry.forget_answer(name)
            raise  # of anything else nobody knows whether it was done: whoever asks again goes on with the same draw
        with suppress(StoreFault):  # it is done: the caller must have the answer, kept or not
            sealed = self.vault.seal(digest + _DONE + answer, name)
            await self.registry.remember_answer(name, sealed, KEPT_S, is_first=False)
        return answer

    def _opened(self, kept: bytes, name: str, digest: bytes) -> tuple[bytes, bytes]:
        opened = self.vault.unseal(kept, name)
        if opened is None:
            raise KeyConflictError("what this request_id was answered cannot be read any more")
        if opened[: len(digest)] != digest:
            raise KeyRequestError("request_id", "was used for another request")
        return opened[len(digest) : len(digest) + 1], opened[len(digest) + 1 :]
