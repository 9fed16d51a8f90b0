"""
A handler's coroutine, run without an asyncio.Task.

A task costs several times what a check does: an object, a trip through the event loop before the first step, and a
context. Here the first step is taken at once, and what the coroutine waits for resumes it. So a handler has no
`asyncio.current_task()`, and nothing that asks for it (`asyncio.timeout`, and from 3.12 on `asyncio.wait_for`).
"""

from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable
from typing import Any


class Call:
    """
    One coroutine under way. It may wait for asyncio's futures, for what behaves like them (`_asyncio_future_blocking`,
    `add_done_callback`, `cancel`; they may call back without the loop), or for the next pass of the loop.

    A subclass is told how it ended: `returned` or `raised`, once, perhaps within `begin`.
    """

    _coroutine: Any = None
    _awaited: Any = None
    _must_cancel = False

    def __init__(self, loop: AbstractEventLoop) -> None:
        self._loop = loop

    def returned(self, answer: object) -> None:
        raise NotImplementedError

    def raised(self, error: BaseException) -> None:
        raise NotImplementedError

    def begin(self, handler: Callable[[bytes], Any], message: bytes) -> None:
        """Run it up to where it first waits."""
        try:
            self._coroutine = handler(message)
        except Exception as raised:  # noqa: BLE001 - told to whoever waits for the call
            self.raised(raised)
        else:
            self._step(None)

    def resume(self, _: object) -> None:
        """What it waited for is there. A future's callback."""
        self._awaited = None
        if self._must_cancel:
            self._must_cancel = False
            self._step(CancelledError())
        else:
            self._step(None)

    def cancel(self) -> None:
        """
        Raise CancelledError in the coroutine, in the next pass of the loop, as a task does: what it waits for is
        cancelled, so that whoever works on it can see that nobody wants it any more.
        """
        if self._coroutine is None:
            return
        if self._awaited is None or not self._awaited.cancel():
            self._must_cancel = True

    def _step(self, error: CancelledError | RuntimeError | None) -> None:
        try:
            awaited = self._coroutine.send(None) if error is None else self._coroutine.throw(error)
        except StopIteration as end:
            self._coroutine = None
            self.returned(end.value)
        except (Exception, CancelledError) as raised:  # noqa: BLE001 - told to whoever waits for the call
            self._coroutine = None
            self.raised(raised)
        else:
            self._wait_for(awaited)

    def _wait_for(self, awaited: Any) -> None:
        if awaited is None:  # asyncio.sleep(0)
            self._loop.call_soon(self.resume, None)
        elif getattr(awaited, "_asyncio_future_blocking", False):
            awaited._asyncio_future_blocking = False  # noqa: SLF001 - the protocol between futures and what runs them
            self._awaited = awaited
            awaited.add_done_callback(self.resume)
        else:
            self._step(RuntimeError("a handler waits for what is no future"))
