"""Opaque keys through the whole check, on every kind of store."""

import asyncio
import secrets
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import redis

from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.adapters.redis import keys
from authz.adapters.redis.opaque import encode_owner
from authz.adapters.redis.registry import OUTLIVED_MS
from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import Everything, IssuedKey, KeyAdmin, KeyChanges, KeyRequestError, NewKey
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.keyformat import BASE62, OPAQUE_CHARS, SECRET_CHARS, checksum, opaque_token
from authz.core.keyrecord import tenant_of
from authz.core.pepper import Peppers
from authz.core.request import PlainRequest
from authz.pipeline import Authorizer
from authz.ports import NewToken
from tests.support.calls import Calls
from tests.support.parts import CLOCK, PEPPER, SECRET, Parts, configuration, parts, pipeline, request


PREFIX = "sk-live-"
OLD, NEW = PEPPER.encode(), b"the pepper after it, as long as a digest is, and then some"
ROUTES = [
    {"name": "read", "methods": ["GET"], "path": "/v1/**", "scopes": ["read-only"]},
    {"name": "write", "path": "/v1/**", "scopes": ["read-write"]},
    {"name": "any", "path": "/any"},
]


@pytest.fixture
async def made(sidecar: Parts) -> Parts:
    await sidecar.create(NewKey("the first"))
    return sidecar


def authorizer(made: Parts, *peppers: bytes, **settings: Any) -> Authorizer:
    configured = configuration(routes=ROUTES, limits={}, **settings)
    return pipeline(replace(configured, peppers=peppers or (OLD,)), made)


async def opaque(made: Parts, *scopes: str, **fields: Any) -> IssuedKey:
    return await made.create(NewKey("test", kind="opaque", scopes=scopes or ("read-only",), **fields))


def never_made(prefix: str = PREFIX) -> str:
    """A token whose checksum fits."""
    return opaque_token(prefix, "".join(secrets.choice(BASE62) for _ in range(SECRET_CHARS)))


def digest_name(token: str, pepper: bytes = OLD) -> str:
    return keys.digest(Peppers((pepper,)).digests(token)[0])[1]


def allowed(decision: Decision) -> bool:
    return isinstance(decision, Allow)


async def test_a_key_is_made_and_found(made: Parts) -> None:
    """By Bearer and by X-API-Key; it has the shape of one, and its record's owner and scopes."""
    mine = await opaque(made, "read-write", subject="alice", workspace="acme")

    body = mine.token.removeprefix(PREFIX)
    assert (len(body), body.isalnum(), body[-6:]) == (OPAQUE_CHARS, True, checksum(mine.token[:-6]))
    assert (await made.show(mine.record.id)).kind == "opaque"
    for asked in (request(mine.token, "POST"), PlainRequest("POST", "/v1/x", headers={"x-api-key": mine.token})):
        decision = await authorizer(made).check(asked)
        assert isinstance(decision, Allow)
        assert decision.principal is not None
        assert (decision.principal.key_id, decision.principal.prefix) == (mine.record.id, mine.record.prefix)
        assert (decision.principal.subject, decision.principal.workspace) == ("alice", "acme")
    reader = await opaque(made, "read-only")
    assert (await authorizer(made).check(request(reader.token, "POST"))).reason is Reason.INSUFFICIENT_SCOPE


async def test_a_typo_costs_the_store_nothing(made: Parts) -> None:
    mine = await opaque(made)
    check = authorizer(made).check
    calls = Calls(made.store)

    for mistyped in (mine.token[:-1] + ("0" if mine.token[-1] != "0" else "1"), mine.token[:-1], mine.token + "0"):
        assert (await check(request(mistyped))).reason is Reason.MALFORMED_CREDENTIAL

    assert calls.operations == []


async def test_an_unknown_token_is_one_read_each_time(made: Parts) -> None:
    """It is not remembered as unknown, for it may be made a moment later."""
    check = authorizer(made).check
    calls = Calls(made.store)

    for _ in range(3):
        assert (await check(request(never_made()))).reason is Reason.UNKNOWN_KEY

    assert calls.operations == ["opaque"] * 3


async def test_a_token_that_is_made_after_it_was_asked_for(made: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    token = never_made()
    check = authorizer(made).check
    assert (await check(request(token))).reason is Reason.UNKNOWN_KEY

    monkeypatch.setattr(KeyAdmin, "_opaque_token", lambda _: token)
    await opaque(made)

    assert allowed(await check(request(token)))


async def test_whose_a_token_is_is_read_once(made: Parts) -> None:
    """Afterwards a check is one call, as for a JWT; with `on_error` it makes no difference."""
    mine = await opaque(made)
    check = authorizer(made).check
    calls = Calls(made.store)

    for _ in range(3):
        assert allowed(await check(request(mine.token)))

    assert calls.operations[:2] == ["opaque", "record"]
    assert "opaque" not in calls.operations[1:]
    assert "record" not in calls.operations[2:]


async def test_what_is_found_is_remembered_within_bounds(made: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.adapters.redis.opaque.CACHE_SIZE", 2)
    several = [await opaque(made) for _ in range(3)]
    check = authorizer(made).check
    for mine in several * 2:
        assert allowed(await check(request(mine.token)))


async def test_peppers_are_rotated(made: Parts) -> None:
    """The first digests what is new, all find what is old; without its pepper a key is unknown."""
    before = await opaque(made)
    admin = replace(made.admin, peppers=Peppers((NEW, OLD)))
    after = await admin.create(NewKey("test", kind="opaque", scopes=("read-only",)), COMMAND_LINE)
    both, old_alone, new_alone = authorizer(made, NEW, OLD), authorizer(made, OLD), authorizer(made, NEW)
    calls = Calls(made.store)

    assert allowed(await both.check(request(after.token)))
    assert calls.operations.count("opaque") == 1
    assert allowed(await both.check(request(before.token)))
    assert calls.operations.count("opaque") == 3
    assert (await old_alone.check(request(after.token))).reason is Reason.UNKNOWN_KEY
    assert (await new_alone.check(request(before.token))).reason is Reason.UNKNOWN_KEY

    rotated = await admin.rotate(before.record.id, 3600, COMMAND_LINE)
    assert allowed(await authorizer(made, NEW).check(request(rotated.token)))
    assert allowed(await authorizer(made, NEW, OLD).check(request(before.token)))


async def test_without_a_pepper_none_is_made_and_none_is_known(made: Parts) -> None:
    mine = await opaque(made)
    without = replace(made.admin, peppers=Peppers(()))
    check = pipeline(replace(configuration(routes=ROUTES, limits={}), peppers=()), made).check

    with pytest.raises(KeyRequestError, match="pepper"):
        await without.create(NewKey("test", kind="opaque"), COMMAND_LINE)

    assert (await check(request(mine.token))).reason is Reason.UNKNOWN_KEY


@pytest.mark.parametrize("on_error", ["deny", "allow"])
async def test_a_wiped_partition_is_a_fault_and_no_unknown_key(made: Parts, on_error: str) -> None:
    """The one that the digest lies in, and the one that the record lies in; nobody is told that the key is unknown."""
    mine = await opaque(made, workspace="acme")
    stranger = never_made()
    at_home = keys.partition(tenant_of("acme", ""))
    for token, partition in (
        (mine.token, keys.digest(Peppers((OLD,)).digests(mine.token)[0])[0]),
        (stranger, keys.digest(Peppers((OLD,)).digests(stranger)[0])[0]),
        (mine.token, at_home),
    ):
        marker = keys.name(partition, "m")
        kept = await made.store.call("test", "GET", marker)
        await made.store.call("test", "DEL", marker)
        async with parts(made.url) as cold:
            decision = await authorizer(cold, store={"on_error": on_error}).check(request(token))
        assert isinstance(decision, Fault)
        assert decision.reason is Reason.STORE_UNAVAILABLE
        await made.store.call("test", "SET", marker, kept)

    assert allowed(await authorizer(made).check(request(mine.token)))


@pytest.mark.parametrize("on_error", ["deny", "allow"])
@pytest.mark.parametrize("owner", [b"", b"garbage", b"a\0b", b"a\0b\0c\0d", b"\xff\0alice\0acme"])
async def test_an_owner_that_cannot_be_read_is_a_fault(valkey_url: str, owner: bytes, on_error: str) -> None:
    async with parts(valkey_url) as made:
        mine = await opaque(made)
        await made.store.call("test", "SET", digest_name(mine.token), owner)

        decision = await authorizer(made, store={"on_error": on_error}).check(request(mine.token))

        assert isinstance(decision, Fault)
        assert decision.reason is Reason.STORE_UNAVAILABLE


@pytest.mark.parametrize("require_record", [True, False])
async def test_a_digest_alone_opens_nothing(made: Parts, require_record: bool) -> None:
    """Neither one whose record was never made, nor one that points to a key that does not name it."""
    mine = await opaque(made, subject="alice")
    check = authorizer(made, keys={"require_record": require_record}).check
    orphan, stray = never_made(), never_made()
    await made.store.call("test", "SET", digest_name(orphan), encode_owner("key_1a2b3c4d0fabcdefghij", "alice", ""))
    await made.store.call("test", "SET", digest_name(stray), encode_owner(mine.record.id, "alice", ""))

    assert (await check(request(orphan, path="/any"))).reason is Reason.UNKNOWN_KEY
    assert isinstance(await check(request(stray, path="/any")), Deny)
    assert allowed(await check(request(mine.token, path="/any")))


async def test_a_jwt_does_not_pass_for_an_opaque_key(made: Parts) -> None:
    """Of our own keyring, with the key's id and owner: it was never issued."""
    mine = await opaque(made, subject="alice")
    signer = JwtSigner(Keyring((VerificationKey(None, "HS256", SECRET.encode()),)))
    jwt = PREFIX + signer.sign(NewToken(mine.record.id, "alice", "", ("read-only",), CLOCK.now_s() - 5, None))

    for require_record in (True, False):
        assert isinstance(await authorizer(made, keys={"require_record": require_record}).check(request(jwt)), Deny)


async def test_only_digests_are_in_the_store(made: Parts) -> None:
    """After all that can be done with a key, no name and no value holds a token, a part of it, or the pepper."""
    mine = await opaque(made, subject="alice", workspace="acme")
    tokens = [mine.token]
    check = authorizer(made).check
    for grace_s in (3600, 0):
        tokens.append((await made.admin.rotate(mine.record.id, grace_s, COMMAND_LINE)).token)
        for token in tokens:
            await check(request(token))
    await made.admin.update(mine.record.id, KeyChanges({"name": "renamed"}), COMMAND_LINE)
    await check(request(never_made()))
    await made.revoke(mine.record.id, "done")

    stored = b"\n".join(everything(made.url))

    assert mine.record.id.encode() in stored  # it is looked at the right place
    assert stored.count(b":h:") == len(tokens)
    for token in tokens:
        body = token.removeprefix(PREFIX).encode()
        assert not any(body[place : place + 12] in stored for place in range(len(body) - 11))
    assert OLD not in stored


def everything(url: str) -> Iterator[bytes]:
    """Every name and value of a store."""
    cluster = url.startswith("redis+cluster://")
    client: Any = redis.RedisCluster.from_url(url.replace("+cluster", "")) if cluster else redis.Redis.from_url(url)
    with client:
        for name in client.scan_iter(count=1000):
            yield name
            match client.type(name):
                case b"string":
                    yield client.get(name)
                case b"hash":
                    yield from (part for pair in client.hgetall(name).items() for part in pair)
                case b"zset":
                    yield from client.zrange(name, 0, -1)
                case b"stream":
                    yield from (part for _, fields in client.xrange(name) for pair in fields.items() for part in pair)
                case other:
                    raise AssertionError(other)


async def test_strangers_who_ask_are_bounded(made: Parts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever can compute a checksum can ask: as many as may wait do, the rest are told at once."""
    monkeypatch.setattr("authz.adapters.redis.opaque.MAX_READING", 20)
    check = authorizer(made).check
    mine = await opaque(made)
    assert allowed(await check(request(mine.token)))

    asked = asyncio.gather(*(check(request(never_made())) for _ in range(30)))
    known = await check(request(mine.token))
    answers = [answer.reason for answer in await asked]

    assert (answers.count(Reason.UNKNOWN_KEY), answers.count(Reason.OVERLOADED)) == (20, 10)
    assert allowed(known)
    assert (await check(request(never_made()))).reason is Reason.UNKNOWN_KEY


async def test_strangers_do_not_take_the_connections_from_others(made: Parts) -> None:
    """Three hundred at once with tokens that never were: whoever has a key is served, and the breaker stays closed."""
    check = authorizer(made).check
    mine, cold = await opaque(made), await made.create(NewKey("jwt", scopes=("read-only",)))
    assert allowed(await check(request(mine.token)))

    strangers = [asyncio.create_task(check(request(never_made()))) for _ in range(300)]
    await asyncio.sleep(0)
    served = [await check(request(token)) for token in (mine.token, cold.token, mine.token)]
    answers = {answer.reason for answer in await asyncio.gather(*strangers)}

    assert [answer.reason for answer in served] == [Reason.ALLOWED] * 3
    assert answers <= {Reason.UNKNOWN_KEY, Reason.OVERLOADED}
    assert made.observer.faults == []


async def test_while_the_store_is_away(made: Parts) -> None:
    """`on_error: allow` lets pass who is known and not known as dead; a token that was never seen proves nothing."""
    known, dead, unseen = [await opaque(made) for _ in range(3)]
    opened, closed = (authorizer(made, store={"on_error": mode}) for mode in ("allow", "deny"))
    for each in (opened, closed):
        for mine in (known, dead):
            assert allowed(await each.check(request(mine.token)))
    await made.revoke(dead.record.id)
    assert (await opened.check(request(dead.token))).reason is Reason.REVOKED
    calls = Calls(made.store)
    calls.away = True

    passed = await opened.check(request(known.token))
    assert isinstance(passed, Allow)
    assert passed.degraded
    assert (await opened.check(request(known.token, "POST"))).reason is Reason.INSUFFICIENT_SCOPE
    assert (await opened.check(request(dead.token))).reason is Reason.REVOKED
    for token in (unseen.token, never_made()):
        assert (await opened.check(request(token))).reason is Reason.STORE_UNAVAILABLE
    assert (await closed.check(request(known.token))).reason is Reason.STORE_UNAVAILABLE
    calls.away = False
    assert allowed(await opened.check(request(unseen.token)))


async def test_while_the_store_is_away_a_token_without_its_record_proves_nothing(made: Parts) -> None:
    """Its owner is remembered; the record, which says whether it is still good, is not."""
    mine = await opaque(made)
    opened = authorizer(made, store={"on_error": "allow"})
    assert allowed(await opened.check(request(mine.token)))
    made.records._known.forget((f"s:{mine.record.id}", mine.record.id))
    Calls(made.store).away = True

    assert (await opened.check(request(mine.token))).reason is Reason.STORE_UNAVAILABLE


class Later:
    """Our clock, moved on at will."""

    def __init__(self) -> None:
        self.by_s = 0.0

    def now_s(self) -> float:
        return CLOCK.now_s() + self.by_s

    def monotonic_s(self) -> float:
        return CLOCK.monotonic_s() + self.by_s


async def test_the_last_use_is_written_once_a_minute_and_shown(made: Parts) -> None:
    """By each sidecar; by the store's clock. Refused checks are no use, and looking is none."""
    mine = await opaque(made)
    clock = Later()
    made.ledger._clock = clock
    check = authorizer(made).check
    name = keys.name(keys.partition(tenant_of("", mine.record.id)), "l", mine.record.id)

    assert (await check(request(mine.token, "POST"))).reason is Reason.INSUFFICIENT_SCOPE
    assert allowed(await check(request(mine.token), spend=False))
    assert (await made.show(mine.record.id)).last_used_at_us is None

    before_us = await made.store.now_us()
    assert allowed(await check(request(mine.token)))
    first = await made.store.call("test", "GET", name)
    shown = (await made.show(mine.record.id)).last_used_at_us
    assert shown == int(first)
    assert before_us <= int(first) <= await made.store.now_us()
    assert [one.last_used_at_us for one in await made.list() if one.id == mine.record.id] == [shown]

    clock.by_s = 59
    assert allowed(await check(request(mine.token)))
    assert await made.store.call("test", "GET", name) == first
    clock.by_s = 61
    assert allowed(await check(request(mine.token)))
    assert int(await made.store.call("test", "GET", name)) > int(first)


async def test_an_expired_key_is_refused_by_the_stores_clock(made: Parts) -> None:
    mine = await opaque(made)
    check = authorizer(made, keys={"leeway": "1ms"}).check
    assert allowed(await check(request(mine.token)))
    ends_us = await made.store.now_us() + 60_000

    await made.admin.update(mine.record.id, KeyChanges({"expires_at_us": ends_us}), COMMAND_LINE)
    assert allowed(await check(request(mine.token)))
    while await made.store.now_us() < ends_us + 2_000:
        pass
    assert (await check(request(mine.token))).reason is Reason.EXPIRED

    later_us = await made.store.now_us() + 10**9
    await made.admin.update(mine.record.id, KeyChanges({"expires_at_us": later_us}), COMMAND_LINE)
    assert allowed(await check(request(mine.token)))


@pytest.mark.parametrize("how", ["id", "subject", "workspace", "both", "everything"])
async def test_a_revocation_counts_at_the_very_next_check_on_every_sidecar(made: Parts, how: str) -> None:
    mine = await opaque(made, subject="alice", workspace="acme")
    async with parts(made.url) as other:
        here, there = authorizer(made), authorizer(other)
        for each in (here, there):
            assert allowed(await each.check(request(mine.token)))

        if how == "id":
            await made.revoke(mine.record.id)
        else:
            wanted = {
                "subject": Everything(subject="alice"),
                "workspace": Everything(workspace="acme"),
                "both": Everything(subject="alice", workspace="acme"),
                "everything": Everything(issued_before_us=await made.store.now_us()),
            }[how]
            await made.admin.revoke_all(wanted, COMMAND_LINE)

        for each in (there, here):
            assert (await each.check(request(mine.token))).reason is Reason.REVOKED
        after = await opaque(made, subject="alice", workspace="acme")
        for each in (here, there):
            assert allowed(await each.check(request(after.token)))


@pytest.mark.parametrize("grace_s", [0, 3600])
async def test_a_rotated_key_is_good_at_once_on_every_sidecar(made: Parts, grace_s: int) -> None:
    """The new token on sidecars that remember the key as it was; the old one for as long as it was promised."""
    mine = await opaque(made, subject="alice")
    async with parts(made.url) as other:
        here, there = authorizer(made), authorizer(other)
        for each in (here, there):
            assert allowed(await each.check(request(mine.token)))

        rotated = await made.admin.rotate(mine.record.id, grace_s, COMMAND_LINE)

        for each in (there, here):
            assert (await each.check(request(rotated.token))).reason is Reason.ALLOWED
            old = await each.check(request(mine.token))
            assert old.reason is (Reason.ALLOWED if grace_s else Reason.REVOKED)
    assert (await made.show(mine.record.id)).current.number == 1


async def test_a_grace_time_ends_by_the_stores_clock(made: Parts) -> None:
    mine = await opaque(made)
    check = authorizer(made).check
    assert allowed(await check(request(mine.token)))
    rotated = await made.admin.rotate(mine.record.id, 1, COMMAND_LINE)
    ends_us = rotated.record.rotations[0].ends_at_us or 0

    while await made.store.now_us() < ends_us - 100_000:
        assert allowed(await check(request(mine.token)))
        await asyncio.sleep(0.02)
    while await made.store.now_us() <= ends_us:
        pass

    ended = await check(request(mine.token))
    assert isinstance(ended, Deny)
    assert (ended.reason, ended.hint) == (Reason.REVOKED, "it was replaced when the key was rotated")
    assert allowed(await check(request(rotated.token)))


@pytest.mark.parametrize("grace_s", [0, 3600])
async def test_digests_of_dead_tokens_do_not_stay_for_ever(made: Parts, grace_s: int) -> None:
    """A month longer than the token: until then it is told that it was replaced."""
    mine = await opaque(made)
    rotated = await made.admin.rotate(mine.record.id, grace_s, COMMAND_LINE)

    left_ms = await made.store.call("test", "PTTL", digest_name(mine.token))

    assert await made.store.call("test", "PTTL", digest_name(rotated.token)) == -1
    assert 0 <= OUTLIVED_MS + grace_s * 1000 - left_ms < 60_000
