"""Passwords: nobody is told by the clock who exists, nobody waits without end, and nothing else waits for them."""

import asyncio
import threading
import time
from collections.abc import AsyncIterator
from typing import Any, Literal

import pytest
from argon2 import PasswordHasher
from argon2.low_level import Type

from authz.adapters.argon2.hasher import MAX_WAITING, PARALLEL, Argon2Hasher
from authz.ports import OverloadFault


class Watched(PasswordHasher):
    """argon2id, cheaply; writes down what it was asked, and waits at its gate."""

    def __init__(self) -> None:
        super().__init__(time_cost=1, memory_cost=8, parallelism=1, type=Type.ID)
        self.asked: list[tuple[str, str]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.at_work = 0
        self.most_at_work = 0
        self._lock = threading.Lock()

    def hash(self, password: str | bytes, *, salt: bytes | None = None) -> str:
        self._work("hash", "")
        return super().hash(password, salt=salt)

    def verify(self, hash: str | bytes, password: str | bytes) -> Literal[True]:  # noqa: A002 - as argon2-cffi calls it
        self._work("verify", str(hash))
        return super().verify(hash, password)

    def _work(self, what: str, about: str) -> None:
        with self._lock:
            self.asked.append((what, about))
            self.at_work += 1
            self.most_at_work = max(self.most_at_work, self.at_work)
        self.gate.wait(10)
        with self._lock:
            self.at_work -= 1


@pytest.fixture
async def watched() -> AsyncIterator[tuple[Argon2Hasher, Watched]]:
    inner = Watched()
    made = Argon2Hasher(inner)
    yield made, inner
    inner.gate.set()
    made.close()


async def test_a_password_fits_its_hash_and_no_other_does(watched: tuple[Argon2Hasher, Watched]) -> None:
    hasher, _ = watched
    kept = await hasher.hash("correct horse")

    assert kept.startswith("$argon2id$")
    assert "horse" not in kept
    assert await hasher.verify(kept, "correct horse")
    assert not await hasher.verify(kept, "correct horsE")
    assert not await hasher.verify(kept, "")
    assert await hasher.hash("correct horse") != kept


async def test_an_unknown_user_takes_the_same_path(watched: tuple[Argon2Hasher, Watched]) -> None:
    """One verification in full, of the same cost, of a password that nobody has: and the answer is no."""
    hasher, inner = watched
    kept = await hasher.hash("correct horse")
    await hasher.verify(kept, "warm")
    inner.asked.clear()

    assert not await hasher.verify(kept, "wrong")
    assert not await hasher.verify(None, "wrong")

    (one, of_somebody), (other, of_nobody) = inner.asked
    assert (one, other) == ("verify", "verify")
    assert of_somebody == kept
    assert of_nobody != kept
    assert of_nobody.rpartition("$")[0].rpartition("$")[0] == kept.rpartition("$")[0].rpartition("$")[0]


async def test_the_first_try_does_not_tell_either(watched: tuple[Argon2Hasher, Watched]) -> None:
    """Of a hasher that has just been started: nobody's password is made whoever is asked for first."""
    _, inner = watched
    kept = inner.hash("correct horse")
    paths = []
    for password_hash in (kept, None):
        fresh = Argon2Hasher(inner)
        inner.asked.clear()
        await fresh.verify(password_hash, "wrong")
        paths.append([what for what, _ in inner.asked])
        fresh.close()

    assert paths == [["hash", "verify"]] * 2


async def test_nobodys_password_is_not_to_be_guessed(watched: tuple[Argon2Hasher, Watched]) -> None:
    """Even the password that it was made of would not let anybody in."""
    hasher, inner = watched
    made: list[str] = []
    hash_it = inner.hash

    def heard(password: str | bytes, **_: Any) -> str:
        made.append(str(password))
        return hash_it(password)

    inner.hash = heard  # type: ignore[method-assign]

    await hasher.verify(None, "wrong")

    assert len(made) == 1
    assert len(made[0]) == 32
    assert not await hasher.verify(None, made[0])


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param("", id="empty"),
        pytest.param("x", id="no hash"),
        pytest.param("$argon2id$", id="a beginning"),
        pytest.param("$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA", id="salt and digest too short"),
        pytest.param("$argon2id$v=19$m=99999999999,t=1,p=1$c29tZXNhbHQ$AAAA", id="more memory than there is"),
        pytest.param("$2b$12$abcdefghijklmnopqrstuv", id="bcrypt"),
        pytest.param("$argon2id$v=19$m=8,t=1,p=1$c29tZXNhbHQ$\ufffd", id="not ASCII"),
        pytest.param("\0" * 97, id="zeros"),
    ],
)
async def test_a_broken_hash_fits_nothing(watched: tuple[Argon2Hasher, Watched], broken: str) -> None:
    hasher, _ = watched

    assert await hasher.verify(broken, "correct horse") is False


async def test_what_waits_is_bounded(watched: tuple[Argon2Hasher, Watched]) -> None:
    """As many as may, and the rest are told at once; afterwards there is room again."""
    hasher, inner = watched
    kept = await hasher.hash("correct horse")
    await hasher.verify(kept, "warm")
    inner.gate.clear()
    tries = [asyncio.create_task(hasher.verify(kept, "correct horse")) for _ in range(MAX_WAITING + 9)]

    await asyncio.sleep(0)
    refused = [one for one in tries if one.done()]
    assert len(refused) == 9
    assert all(isinstance(one.exception(), OverloadFault) for one in refused)
    with pytest.raises(OverloadFault, match="16 passwords"):
        await hasher.hash("another")

    while inner.at_work < PARALLEL:  # noqa: ASYNC110 - threads of the pool's tell nobody
        await asyncio.sleep(0.001)
    inner.gate.set()
    assert await asyncio.gather(*(one for one in tries if one not in refused)) == [True] * MAX_WAITING
    assert inner.most_at_work == PARALLEL
    assert await hasher.verify(kept, "correct horse")


async def test_callers_who_leave_make_room(watched: tuple[Argon2Hasher, Watched]) -> None:
    """And what they had asked for is not done after them, but for what was begun."""
    hasher, inner = watched
    kept = await hasher.hash("correct horse")
    await hasher.verify(kept, "warm")
    inner.gate.clear()
    inner.asked.clear()
    for _ in range(5):
        gone = [asyncio.create_task(hasher.verify(kept, "correct horse")) for _ in range(MAX_WAITING)]
        await asyncio.sleep(0.01)
        for one in gone:
            one.cancel()
        ended = await asyncio.gather(*gone, return_exceptions=True)
        assert all(isinstance(one, asyncio.CancelledError) for one in ended)

    inner.gate.set()

    assert await hasher.verify(kept, "correct horse")
    assert len(inner.asked) == PARALLEL + 1


async def test_the_event_loop_goes_on(watched: tuple[Argon2Hasher, Watched]) -> None:
    """While passwords are checked, checks of keys are answered."""
    hasher, inner = watched
    kept = await hasher.hash("correct horse")
    await hasher.verify(kept, "warm")
    inner.gate.clear()
    tries = [asyncio.create_task(hasher.verify(kept, "correct horse")) for _ in range(PARALLEL)]

    for _ in range(20):
        start_s = time.monotonic()
        await asyncio.sleep(0.001)
        assert time.monotonic() - start_s < 1
    assert not any(one.done() for one in tries)

    inner.gate.set()
    assert await asyncio.gather(*tries) == [True] * PARALLEL


async def test_the_cost_is_that_of_rfc_9106() -> None:
    """Its second recommendation: 64 MiB, three passes, four lanes."""
    hasher = Argon2Hasher()
    try:
        assert (await hasher.hash("correct horse")).startswith("$argon2id$v=19$m=65536,t=3,p=4$")
    finally:
        hasher.close()
