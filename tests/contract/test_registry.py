"""The records of keys and the store's marker, on every kind of store."""

import asyncio
from dataclasses import replace

import pytest
import redis

from authz.adapters.redis import keys
from authz.admin.keys import KeyRequestError, NewKey, NoSuchKeyError
from authz.core.bucket import Limit
from authz.core.event import Action, Event
from authz.core.keyrecord import KeyState, tenant_of
from authz.ports import KeyDraft, PrefixTakenError, StoreFault
from tests.support import stores
from tests.support.parts import Parts, parts


FULL = NewKey(
    "Backend ü",
    subject="alice",
    workspace="acme",
    scopes=("read-write", "admin"),
    lifetime_s=3600,
    limits={"requests": Limit(5, 60), "tokens": Limit(10**9, 86_400)},
)


async def test_what_is_created_is_what_is_shown(sidecar: Parts) -> None:
    made = (await sidecar.create(FULL)).record

    shown = await sidecar.show(made.id)

    assert made == shown
    assert (FULL.name, "alice", "acme", FULL.scopes, dict(FULL.limits)) == (
        shown.name,
        shown.subject,
        shown.workspace,
        shown.scopes,
        dict(shown.limits),
    )
    assert 3_599_000_000 < (shown.expires_at_us or 0) - shown.created_at_us <= 3_600_000_000
    assert shown == await sidecar.show(shown.prefix)


async def test_a_key_without_a_subject_speaks_for_itself(sidecar: Parts) -> None:
    """And its id still names the partition that it lies in."""
    made = [(await sidecar.create(NewKey(f"key {number}"))).record for number in range(20)]

    assert [key.id for key in made] == [key.subject for key in made]
    assert made == [await sidecar.show(key.id) for key in made]


async def test_the_list_is_newest_first_and_shows_state(sidecar: Parts) -> None:
    first, second, third = [(await sidecar.create(replace(FULL, name=name))).record for name in "abc"]
    await sidecar.revoke(second.id, "lost a laptop")
    await sidecar.revoke_workspace("umbrella")  # touches none of them

    listed = await sidecar.list()
    now_us = await sidecar.registry.now_us()

    assert [third.id, second.id, first.id] == [key.id for key in listed]
    assert [key.state(now_us) for key in listed] == [KeyState.ACTIVE, KeyState.REVOKED, KeyState.ACTIVE]
    assert listed[1].revoked_reason == "lost a laptop"
    await sidecar.revoke_subject("alice")
    assert {KeyState.REVOKED} == {key.state(now_us) for key in await sidecar.list()}


async def test_revocation_is_irreversible_and_idempotent(sidecar: Parts) -> None:
    key = (await sidecar.create(NewKey("test"))).record

    once = await sidecar.revoke(key.id, "first")
    twice = await sidecar.revoke(key.id, "second")

    assert once == twice
    assert (twice.revoked_reason, twice.version) == ("first", -2)


async def test_an_unknown_id_is_told(sidecar: Parts) -> None:
    await sidecar.create(NewKey("test"))

    for unknown in ("key_00000000000000000000", "key_ffffffffff0000000000", "nonsense", "sk-live-00000000", ""):
        with pytest.raises(NoSuchKeyError):
            await sidecar.show(unknown)
        with pytest.raises(NoSuchKeyError):
            await sidecar.revoke(unknown)


@pytest.mark.parametrize(
    ("new", "at_fault"),
    [
        pytest.param(NewKey(""), "name", id="no name"),
        pytest.param(NewKey("x" * 257), "name", id="long name"),
        pytest.param(NewKey("a\nb"), "name", id="line end in a name"),
        pytest.param(NewKey("a", subject="a\0"), "subject", id="NUL"),
        pytest.param(NewKey("a", workspace=" w"), "workspace", id="white space"),
        pytest.param(NewKey("a", scopes=("root",)), "scopes", id="unknown scope"),
        pytest.param(NewKey("a", limits={"dollars": Limit(1, 1)}), "limits", id="unknown unit"),
        pytest.param(NewKey("a", lifetime_s=0), "expires_in", id="no lifetime"),
        pytest.param(NewKey("a", lifetime_s=10**12), "expires_in", id="too long a lifetime"),
    ],
)
async def test_what_cannot_be_made_is_refused_with_its_field(valkey_url: str, new: NewKey, at_fault: str) -> None:
    async with parts(valkey_url) as made:
        with pytest.raises(KeyRequestError) as error:
            await made.create(new)
        assert at_fault == error.value.field
        with pytest.raises(StoreFault, match="never held a key"):
            await made.list()  # nothing was written


async def test_a_display_prefix_is_given_away_once(sidecar: Parts) -> None:
    key = (await sidecar.create(NewKey("test"))).record

    with pytest.raises(PrefixTakenError):
        await sidecar.registry.create(KeyDraft(replace(key, id=f"{key.id[:-1]}_"), None), Event("cli", Action.CREATE))

    assert len(await sidecar.list()) == 1


async def test_first_keys_made_at_once_agree_on_whose_store_it_is(sidecar: Parts) -> None:
    async with parts(sidecar.url) as other:
        await asyncio.gather(*(each.create(NewKey("first")) for each in (sidecar, other) for _ in range(3)))
        assert await sidecar.store.identity() == await other.store.identity()

    assert len(await sidecar.list()) == 6


async def test_a_marking_that_was_cut_short_is_finished_by_the_next(sidecar: Parts) -> None:
    await sidecar.store.call("test", "HSET", keys.STORE, "id", "half", "partitions", 64, "state", "marking")
    await sidecar.store.call("test", "SET", keys.name(3, "m"), "half")

    key = (await sidecar.create(NewKey("test"))).record

    assert await sidecar.store.identity() == "half"
    assert [key] == list(await sidecar.list())


async def test_a_store_that_lost_its_head_is_not_marked_anew(sidecar: Parts) -> None:
    await sidecar.create(NewKey("test"))
    await sidecar.store.call("test", "DEL", keys.STORE)

    async with parts(sidecar.url) as other:
        with pytest.raises(StoreFault, match="damaged"):
            await other.create(NewKey("test"))


async def test_a_partition_that_lost_its_marker_takes_no_key(sidecar: Parts) -> None:
    key = (await sidecar.create(FULL)).record
    await sidecar.store.call("test", "DEL", keys.name(keys.partition(tenant_of("acme", "alice")), "m"))

    with pytest.raises(StoreFault, match="lost what it held"):
        await sidecar.create(FULL)
    with pytest.raises(StoreFault, match="lost what it held"):
        await sidecar.revoke(key.id, "")
    with pytest.raises(StoreFault, match="lost what it held"):
        await sidecar.records.find("w:acme", key.id)


async def test_a_record_that_cannot_be_read_is_a_fault(sidecar: Parts) -> None:
    key = (await sidecar.create(FULL)).record
    await sidecar.store.call("test", "SET", keys.name(keys.partition("w:acme"), "r", key.id), b"garbage")

    with pytest.raises(StoreFault, match="cannot be read"):
        await sidecar.records.find("w:acme", key.id)


async def test_a_record_that_lost_its_version_is_a_fault_and_one_with_its_revocation_is_revoked(sidecar: Parts) -> None:
    key = (await sidecar.create(FULL)).record
    await sidecar.revoke(key.id, "leaked")
    version = keys.name(keys.partition("w:acme"), "v", key.id)
    await sidecar.store.call("test", "DEL", version)

    with pytest.raises(StoreFault, match="cannot be read"):
        await sidecar.records.find("w:acme", key.id, fresh=True)
    await sidecar.store.call("test", "SET", version, "7")
    assert getattr(await sidecar.records.find("w:acme", key.id, fresh=True), "version", None) == -7


async def test_records_are_remembered_and_read_anew_on_demand(sidecar: Parts) -> None:
    key = (await sidecar.create(FULL)).record

    assert key == await sidecar.records.find("w:acme", key.id)
    await sidecar.revoke(key.id, "gone")

    assert key == await sidecar.records.find("w:acme", key.id)
    assert getattr(await sidecar.records.find("w:acme", key.id, fresh=True), "version", None) == -2
    assert getattr(sidecar.records.remembered("w:acme", key.id), "version", None) == -2


async def test_another_number_of_partitions_is_refused(valkey_url: str) -> None:
    with redis.Redis.from_url(valkey_url) as client:
        client.hset(keys.STORE, mapping={"id": "x", "partitions": "128", "state": "ready"})

    async with parts(valkey_url) as made:
        with pytest.raises(StoreFault, match="128 partitions"):
            await made.create(NewKey("test"))


def test_everything_that_a_check_touches_shares_a_slot(cluster_server: stores.Cluster) -> None:
    """On a real cluster, key by key as MONITOR shows them: records, revocations, buckets of key and workspace."""
    stores.flush(cluster_server.url)
    seen = asyncio.run(_touched(cluster_server))

    assert {"m", "v", "x", "w", "g"} <= {name.split(":")[2] for name in seen}
    assert len({redis.crc.key_slot(name.encode()) for name in seen}) == 1


async def _touched(cluster: stores.Cluster) -> set[str]:
    from tests.support.parts import admission, group

    async with parts(cluster.url) as made:
        key = (await made.create(NewKey("test", subject="{s}", workspace="w{1}"))).record
        asked = admission(
            key, group(f"k:{key.id}", Limit(5, 60), Limit(9, 60)), group("w:w{1}", Limit(5, 60), name="team")
        )
        monitors = [node.client.monitor() for node in cluster.nodes]
        for monitor in monitors:
            monitor.__enter__()
        await made.ledger.admit(asked)
        seen: set[str] = set()
        for node, monitor in zip(cluster.nodes, monitors, strict=True):
            node.client.echo("end")
            for event in monitor.listen():
                if "echo" in event["command"].lower():
                    break
                if event["client_type"] == "lua":
                    seen |= {word for word in event["command"].split() if word.startswith("authz:")}
            monitor.__exit__(None, None, None)
    return seen


async def test_a_workspace_called_a_dash_is_one_like_any_other(sidecar: Parts) -> None:
    """Keys without a workspace are not its own: revoking it leaves them alone, in the list as in the check."""
    keyless = [(await sidecar.create(NewKey("n"))).record for _ in range(150)]  # some share its partition
    await sidecar.revoke_workspace("-")
    now_us = await sidecar.registry.now_us()

    assert {key.state(now_us) for key in await sidecar.list()} == {KeyState.ACTIVE}
    assert len(keyless) == 150
