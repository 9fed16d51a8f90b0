"""Questions to the store that do not wait for one another."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar


A = TypeVar("A")
T = TypeVar("T")


async def together(question: Callable[[A], Awaitable[T]], about: Iterable[A], at_once: int) -> list[T]:
    """
    The answers, in order. Every one is asked, and none is left under way, though one fails.

    Raises: What the first of them did.
    """
    turns = asyncio.Semaphore(at_once)

    async def ask(one: A) -> T:
        async with turns:
            return await question(one)

    answers: list[T] = []
    for answer in await asyncio.gather(*map(ask, about), return_exceptions=True):
        if isinstance(answer, BaseException):
            raise answer
        answers.append(answer)
    return answers
