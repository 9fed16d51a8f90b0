"""Bodies that wait to be read: whose turn it is, how many may wait, and that the loop goes on meanwhile."""

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.adapters.prompts import INLINE, LEAST_HELD, MAX_HELD, PromptReader
from authz.core.decision import Refusal
from authz.core.prompt import MAX_VALUES, Prompt
from authz.ports import OverloadFault


MB = 10**6
SAID = Prompt(0, streams=False)


@dataclass
class Gate:
    """Reads bodies one by one as it is let; tells which, by their first byte."""

    seen: list[str] = field(default_factory=list)
    opened: threading.Event = field(default_factory=threading.Event)

    def read(self, body: bytes) -> Prompt | Refusal:
        self.seen.append(body[:1].decode())
        assert self.opened.wait(60)
        return SAID


class Senders:
    """Keys that send bodies to one reader, named by a letter each."""

    def __init__(self, reader: PromptReader) -> None:
        self._reader = reader
        self.sent: list[asyncio.Task[Prompt | Refusal]] = []

    async def send(self, key: str, count: int = 1, size: int = INLINE + 1) -> list[asyncio.Task[Prompt | Refusal]]:
        """*count* bodies of *size*, each as far as it comes by itself."""
        tasks = [asyncio.create_task(self._reader.read(key.encode() * size, key)) for _ in range(count)]
        self.sent += tasks
        for _ in range(5):
            await asyncio.sleep(0)
        return tasks


@asynccontextmanager
async def closed_gate() -> AsyncIterator[tuple[Gate, Senders]]:
    gate = Gate()
    reader = PromptReader(gate.read)
    senders = Senders(reader)
    try:
        yield gate, senders
    finally:
        gate.opened.set()
        for task in senders.sent:
            task.cancel()
        await asyncio.gather(*senders.sent, return_exceptions=True)
        reader.close()


def refused(tasks: list[asyncio.Task[Prompt | Refusal]]) -> list[bool]:
    """Of each, whether it is already."""
    return [task.done() and isinstance(task.exception(), OverloadFault) for task in tasks]


async def test_keys_take_turns() -> None:
    """However many bodies of one key came before."""
    async with closed_gate() as (gate, senders):
        await senders.send("a", 20)
        await senders.send("b", 2)
        await senders.send("c")
        await senders.send("b")
        gate.opened.set()
        assert await asyncio.gather(*senders.sent) == [SAID] * 24

    assert "".join(gate.seen) == "aabcabab" + "a" * 16


async def test_small_bodies_wait_for_nobody() -> None:
    reader = PromptReader()
    gate = Gate()
    slow = PromptReader(gate.read)
    waiting = asyncio.create_task(slow.read(b"x" * (INLINE + 1), "a"))

    assert await reader.read(b'{"prompt":"ab"}', "a") == Prompt(2, streams=False)
    gate.opened.set()
    assert await waiting == SAID
    reader.close()
    slow.close()


async def test_one_key_leaves_room_for_others() -> None:
    """It never holds more than is left, and so does the next one: whoever comes first, small bodies find room."""
    async with closed_gate() as (_, senders):
        first = refused(await senders.send("a", 20, 10 * MB))
        second = refused(await senders.send("b", 20, 10 * MB))
        third = refused(await senders.send("c", 20, 10 * MB))
        small = refused(await senders.send("d", 20, 100_000))

    assert first == [False] * 3 + [True] * 17
    assert second == third == [False] + [True] * 19
    assert small == [False] * 20


async def test_the_bodies_of_many_keys_are_bounded_as_a_whole() -> None:
    async with closed_gate() as (_, senders):
        tasks = [task for key in range(100) for task in await senders.send(chr(ord("A") + key), 1, 5 * MB)]
        taken = refused(tasks).count(False)

    assert 5 * MB * taken <= MAX_HELD < 5 * MB * (taken + 3)


async def test_bodies_just_above_the_small_ones_are_bounded_in_number() -> None:
    async with closed_gate() as (_, senders):
        taken = refused(await senders.send("a", 3000)).count(False)

    assert taken == MAX_HELD // 2 // LEAST_HELD


async def test_a_body_of_any_size_is_read_where_nobody_waits() -> None:
    async with closed_gate() as (_, senders):
        alone = refused(await senders.send("a", 1, MAX_HELD))
        beside = refused(await senders.send("b", 1))

    assert (alone, beside) == ([False], [True])


async def test_what_was_read_makes_room() -> None:
    async with closed_gate() as (gate, senders):
        gate.opened.set()
        for _ in range(20):
            (task,) = await senders.send("a", 1, 10 * MB)
            assert await task == SAID


async def test_a_check_that_is_given_up_leaves_the_line() -> None:
    """Its body is not read, its room is free, and nobody's turn is lost."""
    async with closed_gate() as (gate, senders):
        await senders.send("a")
        given_up = [*await senders.send("b", 2, 10 * MB), *await senders.send("c", 1, 10 * MB)]
        await senders.send("d", 2)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        taken = refused(await senders.send("e", 3, 10 * MB))
        gate.opened.set()
        await asyncio.gather(*senders.sent, return_exceptions=True)

    assert taken == [False] * 3
    assert "".join(gate.seen) == "adedee"


async def test_a_turn_lasts_as_long_as_the_thread_reads() -> None:
    """Whatever became of the check: else bodies would pile up behind the thread, and count for nothing."""
    async with closed_gate() as (gate, senders):
        (given_up,) = await senders.send("a", 1, 10 * MB)
        given_up.cancel()
        held = refused(await senders.send("a", 3, 10 * MB))
        assert not given_up.done()
        gate.opened.set()
        await asyncio.wait([given_up])

    assert held == [False, False, True]
    assert given_up.cancelled()


async def test_who_gives_up_costs_their_key_no_turn() -> None:
    async with closed_gate() as (gate, senders):
        await senders.send("a")
        given_up = await senders.send("b", 2)
        await senders.send("b")
        await senders.send("c", 3)
        for task in given_up:
            task.cancel()
        await asyncio.wait(given_up)
        gate.opened.set()
        await asyncio.gather(*senders.sent, return_exceptions=True)

    assert "".join(gate.seen) == "abccc"


@pytest.mark.parametrize("ticks", range(8))
async def test_a_turn_that_comes_as_the_check_is_given_up_is_passed_on(ticks: int) -> None:
    """At whichever step between the thread's answer and the next body's turn."""
    async with closed_gate() as (gate, senders):
        first, given_up, last = [(await senders.send(key))[0] for key in "abc"]
        gate.opened.set()
        time.sleep(0.05)  # noqa: ASYNC251 - the thread is through, and the loop has not seen it yet
        for _ in range(ticks):
            await asyncio.sleep(0)
        given_up.cancel()

        await asyncio.wait_for(asyncio.gather(first, last), 30)
        await asyncio.wait([given_up])
        assert given_up.cancelled() or given_up.result() == SAID


sizes = st.sampled_from([INLINE + 1, MB, 10 * MB, 30 * MB])


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.sampled_from("abcd"), sizes, st.booleans()), max_size=25))
def test_no_body_is_lost_and_none_is_read_twice(script: list[tuple[str, int, bool]]) -> None:
    """Whoever sends, and whoever gives up in between."""

    async def play() -> None:
        async with closed_gate() as (gate, senders):
            for key, size, gives_up in script:
                (task,) = await senders.send(key, 1, size)
                if gives_up:
                    task.cancel()
            gate.opened.set()
            answers = await asyncio.gather(*senders.sent, return_exceptions=True)

        answered = [answer for answer in answers if answer == SAID]
        assert len(answered) <= len(gate.seen) <= len(answered) + sum(gives_up for *_, gives_up in script)
        assert {type(answer) for answer in answers} <= {Prompt, OverloadFault, asyncio.CancelledError}
        assert not any(
            isinstance(answer, asyncio.CancelledError)
            for answer, (*_, gives_up) in zip(answers, script, strict=True)
            if not gives_up
        )

    asyncio.run(play())


async def test_the_loop_goes_on_while_bodies_are_read() -> None:
    reader = PromptReader()
    heavy = b'{"x":[' + b"1," * (MAX_VALUES - 10) + b'1], "pad": "' + b"x" * 10_000_000 + b'"}'
    reading = asyncio.gather(*(reader.read(heavy, key) for key in "abcd"))
    longest_s, last_s = 0.0, time.monotonic()
    while not reading.done():
        await asyncio.sleep(0.001)
        longest_s, last_s = max(longest_s, time.monotonic() - last_s), time.monotonic()
    reader.close()

    assert await reading == [Prompt(0, streams=False)] * 4
    assert longest_s < 0.2  # far less on a machine that does nothing else


async def test_bodies_are_read_for_what_they_say() -> None:
    reader = PromptReader()
    large = json.dumps({"prompt": "x" * INLINE, "stream": True}).encode()

    assert await reader.read(large, "a") == Prompt(INLINE, streams=True)
    assert isinstance(await reader.read(large[:-1], "a"), Refusal)
    reader.close()
