"""The ledger's promises, on every kind of store."""

import asyncio
import math
import struct

import pytest

from authz.adapters.redis import keys
from authz.admin.keys import NewKey
from authz.core.admission import Status
from authz.core.bucket import Limit, Quota
from authz.core.keyrecord import KeyRecord
from authz.ports import OverloadFault, StoreFault
from tests.support import stores
from tests.support.parts import Parts, admission, group, parts


FIVE = Limit(5, 3600)
SIX = Limit(6, 3600)


async def new_key(sidecar: Parts, **fields: str) -> KeyRecord:
    return (await sidecar.create(NewKey("test", **fields))).record  # type: ignore[arg-type]


async def test_spends_what_a_bucket_holds_and_no_more(sidecar: Parts) -> None:
    """Five of five are admitted with the level told, the sixth is refused with the time to wait."""
    key = await new_key(sidecar)
    asked = admission(key, group(f"k:{key.id}", FIVE))

    admitted = [await sidecar.ledger.admit(asked) for _ in range(5)]
    refused = await sidecar.ledger.admit(asked)

    assert [answer.status for answer in admitted] == [Status.ADMITTED] * 5
    assert [answer.quotas[0].remaining for answer in admitted] == [4, 3, 2, 1, 0]
    assert refused.status == Status.LIMITED
    assert refused.refused == refused.quotas[0]
    assert 719_000_000 < refused.wait_us <= 720_000_000
    assert abs(refused.now_us - await sidecar.store.now_us()) < 5_000_000


async def test_all_buckets_admit_or_none_is_charged(sidecar: Parts) -> None:
    """A refusal by the last bucket leaves the first as it was."""
    key = await new_key(sidecar, workspace="acme")
    roomy, tight = group(f"k:{key.id}", SIX, SIX), group("w:acme", Limit(1, 3600), name="team")

    first = await sidecar.ledger.admit(admission(key, roomy, tight))
    second = await sidecar.ledger.admit(admission(key, roomy, tight))
    looked = await sidecar.ledger.admit(admission(key, roomy, tight, spend=False))

    assert (first.status, second.status) == (Status.ADMITTED, Status.LIMITED)
    assert (second.refused or Quota("", "", SIX, 0, 0)).name == "team"
    assert [quota.remaining for quota in looked.quotas] == [5, 5, 0]


async def test_looking_charges_nothing(sidecar: Parts) -> None:
    key = await new_key(sidecar)
    asked = admission(key, group(f"k:{key.id}", FIVE), spend=False)

    answers = [await sidecar.ledger.admit(asked) for _ in range(7)]

    assert [answer.quotas[0].remaining for answer in answers] == [5] * 7


async def test_a_cost_above_the_capacity_is_never_admitted(sidecar: Parts) -> None:
    key = await new_key(sidecar)

    answer = await sidecar.ledger.admit(admission(key, group(f"k:{key.id}", FIVE, cost=6)))

    assert (answer.status, answer.wait_us, answer.quotas[0].remaining) == (Status.LIMITED, -1, 5)


async def test_state_is_told_before_limits(sidecar: Parts) -> None:
    """Stale, unknown, expired: told without a charge."""
    key = await new_key(sidecar)
    asked = group(f"k:{key.id}", FIVE)
    now_us = await sidecar.store.now_us()

    assert (await sidecar.ledger.admit(admission(key, asked, version=7))).status == Status.STALE
    assert (await sidecar.ledger.admit(admission(key, asked, dead_us=now_us - 1))).status == Status.EXPIRED
    assert (await sidecar.ledger.admit(admission(key, asked, dead_us=now_us + 10**9))).quotas[0].remaining == 4


async def test_a_revocation_counts_at_the_very_next_check(sidecar: Parts) -> None:
    """On another sidecar too, with its record remembered; two hundred times."""
    async with parts(sidecar.url) as other:
        for _ in range(200):
            key = await new_key(sidecar)
            assert (await other.ledger.admit(admission(key))).status == Status.ADMITTED
            await sidecar.revoke(key.id, "leaked")
            assert (await other.ledger.admit(admission(key))).status == Status.REVOKED


@pytest.mark.parametrize(("field", "who"), [("subject", "alice"), ("workspace", "acme")])
async def test_a_bulk_revocation_ends_what_was_issued_and_spares_what_comes_after(
    sidecar: Parts, field: str, who: str
) -> None:
    before = await new_key(sidecar, subject="alice", workspace="acme")
    if field == "subject":
        await sidecar.revoke_subject(who)
    else:
        await sidecar.revoke_workspace(who)
    after = await new_key(sidecar, subject="alice", workspace="acme")

    assert (await sidecar.ledger.admit(admission(before))).status == Status.REVOKED_IN_BULK
    assert (await sidecar.ledger.admit(admission(after))).status == Status.ADMITTED


async def test_a_revoked_subject_is_revoked_in_every_workspace(sidecar: Parts) -> None:
    made = [await new_key(sidecar, subject="alice", workspace=name) for name in ("", "acme", "umbrella", "initech")]
    others = await new_key(sidecar, subject="bob", workspace="acme")

    await sidecar.revoke_subject("alice")

    assert {Status.REVOKED_IN_BULK} == {(await sidecar.ledger.admit(admission(key))).status for key in made}
    assert (await sidecar.ledger.admit(admission(others))).status == Status.ADMITTED


async def test_two_hundred_at_once_admit_exactly_the_capacity(sidecar: Parts) -> None:
    """From two sidecars, over three buckets."""
    key = await new_key(sidecar, workspace="acme")
    asked = admission(
        key,
        group(f"k:{key.id}", Limit(150, 86_400), Limit(170, 86_400)),
        group("w:acme", Limit(120, 86_400), name="team"),
    )
    async with parts(sidecar.url) as other:
        answers = await asyncio.gather(*(s.ledger.admit(asked) for s in (sidecar, other) for _ in range(100)))

    assert sum(answer.status is Status.ADMITTED for answer in answers) == 120
    left = await sidecar.ledger.admit(admission(key, *asked.groups, spend=False))
    assert [quota.remaining for quota in left.quotas] == [30, 50, 0]


async def test_checks_of_one_tick_ride_together(sidecar: Parts) -> None:
    """Up to 16 in a call."""
    key = await new_key(sidecar)
    sidecar.observer.batches.clear()

    await asyncio.gather(*(sidecar.ledger.admit(admission(key)) for _ in range(40)))

    assert sum(sidecar.observer.batches) == 40
    assert max(sidecar.observer.batches) == 16
    assert len(sidecar.observer.batches) == 3


async def test_every_answer_finds_its_own_caller_though_others_are_cancelled(sidecar: Parts) -> None:
    """1,000 checks, every third cancelled at some point: those that end have their own bucket's level."""
    key = await new_key(sidecar)
    await sidecar.ledger.admit(admission(key))

    async def ask(number: int) -> tuple[int, int]:
        answer = await sidecar.ledger.admit(admission(key, group(f"k:{number}", Limit(10 + number, 86_400))))
        return number, answer.quotas[0].remaining

    tasks = [asyncio.create_task(ask(number)) for number in range(1000)]
    for number, task in enumerate(tasks):
        if number % 3 == 0:
            asyncio.get_running_loop().call_later(number / 20_000, task.cancel)
    ended = await asyncio.gather(*tasks, return_exceptions=True)

    answered = [outcome for outcome in ended if isinstance(outcome, tuple)]
    assert len(answered) >= 666
    assert all(remaining == 9 + number for number, remaining in answered)
    assert all(isinstance(outcome, tuple | asyncio.CancelledError) for outcome in ended)


async def test_scripts_forgotten_by_the_store_are_sent_anew(sidecar: Parts) -> None:
    """SCRIPT FLUSH costs nothing but a round trip: no check fails and none is charged twice."""
    key = await new_key(sidecar)
    asked = admission(key, group(f"k:{key.id}", FIVE))
    await sidecar.ledger.admit(asked)

    stores.on_all_nodes(sidecar.url, "SCRIPT", "FLUSH")
    answer = await sidecar.ledger.admit(asked)

    assert (answer.status, answer.quotas[0].remaining) == (Status.ADMITTED, 3)


async def test_an_emptied_store_is_a_fault_and_no_amnesty(sidecar: Parts) -> None:
    """Nothing passes after FLUSHALL, not even when a new first key has marked the store again."""
    key = await new_key(sidecar)
    await sidecar.ledger.admit(admission(key))
    stores.flush(sidecar.url)

    with pytest.raises(StoreFault, match="lost what it held") as fault:
        await sidecar.ledger.admit(admission(key))
    assert not fault.value.trustworthy
    async with parts(sidecar.url) as other:
        await other.create(NewKey("first of the new store"))
    with pytest.raises(StoreFault, match="lost what it held"):
        await sidecar.ledger.admit(admission(key))
    assert await sidecar.store.probe() == "foreign"


@pytest.mark.parametrize("kind", ["group", "version", "not a number"])
async def test_one_keys_damaged_state_is_its_own_fault(sidecar: Parts, kind: str) -> None:
    """Neither taken for absent nor the end of the batch: the other checks of the same call are answered."""
    healthy = await new_key(sidecar, subject="alice")
    broken = await new_key(sidecar, subject="alice")
    at = keys.partition("s:alice")
    name, value = {
        "group": (keys.group(at, "default", f"k:{broken.id}"), b"x" * 17),
        "version": (keys.name(at, "v", broken.id), b"garbage"),
        "not a number": (keys.group(at, "default", f"k:{broken.id}"), struct.pack("<dddd", 5, 60, math.nan, 0) * 2),
    }[kind]
    await sidecar.store.call("test", "SET", name, value)

    ended = await asyncio.gather(
        *(sidecar.ledger.admit(admission(key, group(f"k:{key.id}", FIVE, FIVE))) for key in (healthy, broken, healthy)),
        return_exceptions=True,
    )

    assert [getattr(outcome, "status", None) for outcome in ended] == [Status.ADMITTED, None, Status.ADMITTED]
    assert isinstance(ended[1], StoreFault)
    assert not ended[1].trustworthy


async def test_a_store_that_never_held_a_key_is_a_fault(sidecar: Parts) -> None:
    record = KeyRecord("key_1", "", "jwt", "", "s", "")

    with pytest.raises(StoreFault, match="never held a key") as fault:
        await sidecar.ledger.admit(admission(record))

    assert not fault.value.trustworthy


async def test_what_waits_is_bounded(sidecar: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.adapters.redis.ledger.MAX_WAITING", 50)
    key = await new_key(sidecar)
    await sidecar.ledger.admit(admission(key))

    ended = await asyncio.gather(*(sidecar.ledger.admit(admission(key)) for _ in range(80)), return_exceptions=True)

    assert sum(isinstance(outcome, OverloadFault) for outcome in ended) == 30
    assert (await sidecar.ledger.admit(admission(key))).status == Status.ADMITTED
