"""
Reading bodies for their prompts, off the event loop unless they are small: 10 MB take 20 ms, and up to 300 ms if they
are made for it.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from authz.core.decision import Refusal
from authz.core.prompt import judge_prompt
from authz.ports import OverloadFault


INLINE: Final = 8 * 1024  # bytes that are read at once: at most a few milliseconds, whatever they say
PARALLEL: Final = 1  # two would share one interpreter, and leave less of it to the loop
MAX_WAITING: Final = 32  # each with a body in memory


class PromptReader:
    """Any number of checks on one event loop."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(PARALLEL, "prompts")
        self._waiting = 0

    async def judge(self, body: bytes, most: int) -> Refusal | None:
        """Raises: OverloadFault."""
        if len(body) <= INLINE:
            return judge_prompt(body, most)
        if self._waiting >= MAX_WAITING:
            raise OverloadFault(f"{MAX_WAITING} bodies are being read")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._pool, judge_prompt, body, most)
        finally:
            self._waiting -= 1

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
