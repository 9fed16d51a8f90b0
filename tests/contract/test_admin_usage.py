"""Usage, booked into real stores as a sidecar does, and read through both doors: totals, times, groups, and whose."""

import datetime as dt
import itertools
import random
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import pytest

from authz.adapters.redis import keys
from authz.core.grouping import By
from authz.core.keyrecord import KeyRecord
from authz.core.settlement import MAX_AGE_S
from authz.core.units import rfc3339
from authz.core.usage import DAYS_KEPT, HOURS_KEPT
from tests.support.admin import DOORS, NO_SUCH_KEY, Answer, Caller, Doors, Used, book, opened


COUNTS: Final = ("requests", "denied", "input_tokens", "output_tokens")
NOTHING: Final = dict.fromkeys(COUNTS, 0)
DAY_S: Final = 86_400
STEPS: Final = {"hour": 3600, "day": DAY_S}


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
async def doors(valkey_url: str, door: str) -> AsyncIterator[Doors]:
    async with opened(valkey_url, door) as made:
        yield made


def seconds(text: str) -> int:
    return int(dt.datetime.fromisoformat(text).timestamp())


def time(at_s: float) -> str:
    return rfc3339(int(at_s * 1_000_000)) or ""


async def test_usage_of_a_key_is_what_the_contract_says(doors: Doors) -> None:
    """Member by member and in this order; requests without a model are in the totals alone."""
    key = (await doors.key(workspace="acme", subject="ada")).record
    await doors.use(key, "small", 10, 5)
    await doors.use(key, "small", 1, 2)
    await doors.use(key, "large", 100, 50)
    await doors.use(key)
    await doors.use(key, is_denied=True)
    now_s = await doors.store.now_us() // 1_000_000

    told = await doors.root.ok("GetKeyUsage", id=key.id)

    assert [*told] == ["id", *COUNTS, "last_used_at", "by_model"]
    assert {name: told[name] for name in ("id", *COUNTS)} == {
        "id": key.id,
        "requests": 4,
        "denied": 1,
        "input_tokens": 111,
        "output_tokens": 57,
    }
    assert told["by_model"] == {
        "small": {"requests": 2, "input_tokens": 11, "output_tokens": 7},
        "large": {"requests": 1, "input_tokens": 100, "output_tokens": 50},
    }
    assert [*told["by_model"]["small"]] == ["requests", "input_tokens", "output_tokens"]
    assert all(type(told[name]) is int for name in COUNTS)
    assert 0 <= now_s - seconds(told["last_used_at"]) <= 10
    assert await doors.root.ok("GetKeyUsage", id=key.prefix) == told


async def test_usage_of_a_key_within_a_time(doors: Doors) -> None:
    """The members of the contract, and behind them the whole hours or days that are covered."""
    key = (await doors.key(workspace="acme")).record
    now_us = await doors.store.now_us()
    ages_s = (0, 3 * 3600, 20 * 3600)
    await book(doors.other, [Used(key, now_us - age * 1_000_000, "m", age + 1) for age in ages_s])

    for asked_s in (3600, 5 * 3600, 23 * 3600, 30 * DAY_S):
        told = await doors.root.ok("GetKeyUsage", id=key.id, start_time=time(now_us / 1_000_000 - asked_s))
        assert [*told] == ["id", *COUNTS, "last_used_at", "by_model", "start_time", "end_time"]
        start_s = seconds(told["start_time"])
        covered = [age for age in ages_s if now_us - age * 1_000_000 >= start_s * 1_000_000]
        assert told["requests"] == told["by_model"]["m"]["requests"] == len(covered)
        assert told["input_tokens"] == sum(age + 1 for age in covered)
        step_s = DAY_S if asked_s > HOURS_KEPT * 3600 else 3600
        assert 0 <= now_us // 1_000_000 - asked_s - start_s < step_s
        assert abs(seconds(told["end_time"]) - now_us / 1_000_000) < 10
    early = await doors.root.ok("GetKeyUsage", id=key.id, end_time=time(now_us / 1_000_000 - 2 * DAY_S))
    assert (early["requests"], early["by_model"]) == (0, {})
    assert early["last_used_at"] == time(now_us / 1_000_000)
    assert (seconds(early["end_time"]) - seconds(early["start_time"])) // DAY_S in {DAYS_KEPT - 2, DAYS_KEPT - 3}


async def test_a_key_that_was_never_used_and_one_that_is_revoked(doors: Doors) -> None:
    unused, used = (await doors.key()).record, (await doors.key()).record
    await doors.use(used, "small", 10, 5)
    before = await doors.root.ok("GetKeyUsage", id=used.id)
    await doors.root.ok("RevokeKey", id=used.id)

    told = await doors.root.ok("GetKeyUsage", id=unused.id)
    assert told == {"id": unused.id, **NOTHING, "last_used_at": None, "by_model": {}}
    assert await doors.root.ok("GetKeyUsage", id=used.id) == before
    assert before["requests"] == 1
    for unknown in (NO_SUCH_KEY, "sk-live-00000000", "nonsense"):
        assert (await doors.root.refused(404, "GetKeyUsage", id=unknown)).reason == "not_found"


async def test_usage_goes_on_when_a_key_is_rotated(doors: Doors) -> None:
    key = (await doors.key("read-only")).record
    await doors.use(key, "m", 1, 1)
    await doors.root.ok("RotateKey", id=key.id)
    await doors.use(await doors.other.show(key.id), "m", 1, 1)

    assert (await doors.root.ok("GetKeyUsage", id=key.id))["requests"] == 2


async def test_reading_usage_is_no_event(doors: Doors) -> None:
    key = (await doors.key()).record
    before = await doors.root.all("ListEvents")
    await doors.root.ok("GetKeyUsage", id=key.id)
    await doors.root.ok("GetUsage", group_by=["key", "hour"])

    assert await doors.root.all("ListEvents") == before


# --- against a plain model


def neighbour(workspace: str) -> str:
    """Another workspace, in the same partition of the store."""
    own = keys.partition(f"w:{workspace}")
    return next(name for name in (f"n{each}" for each in itertools.count()) if keys.partition(f"w:{name}") == own)


@dataclass(frozen=True)
class Model:
    """What was booked, and what must be told of it."""

    used: Sequence[Used]

    def told(self, one: Used) -> dict[str, str]:
        key = one.key
        return {"workspace": key.workspace, "subject": key.subject, "key_id": key.id, "model": one.model}

    def within(self, answer: Mapping[str, Any], wanted: Mapping[str, str]) -> list[Used]:
        start_s = 0 if answer["start_time"] is None else seconds(answer["start_time"])
        end_us = seconds(answer["end_time"]) * 1_000_000
        return [
            one
            for one in self.used
            if start_s * 1_000_000 <= one.at_us < end_us and wanted.items() <= self.told(one).items()
        ]

    def groups(self, used: Sequence[Used], by: Sequence[str]) -> dict[tuple[str, ...], dict[str, int]]:
        found: dict[tuple[str, ...], list[Used]] = {}
        for one in used if by else ():
            at_s = one.at_us // 1_000_000
            told = self.told(one) | {name: time(at_s // step * step) for name, step in STEPS.items()}
            found.setdefault(tuple({**told, "key": one.key.id}[name] for name in by), []).append(one)
        return {name: self.sum(each) for name, each in found.items()}

    @staticmethod
    def sum(used: Sequence[Used]) -> dict[str, int]:
        numbers = [(not one.is_denied, one.is_denied, one.input_tokens, one.output_tokens) for one in used]
        return {name: sum(each[place] for each in numbers) for place, name in enumerate(COUNTS)}


MEMBERS: Final = {"key": "key_id", "hour": "time", "day": "time"}


def check(answer: Mapping[str, Any], model: Model, wanted: Mapping[str, str], by: Sequence[str]) -> None:
    assert [*answer] == ["start_time", "end_time", *COUNTS, "groups"]
    used = model.within(answer, wanted)
    assert {name: answer[name] for name in COUNTS} == model.sum(used)
    members = [MEMBERS.get(name, name) for name in by]
    order = [name for name in ("model", "key_id", "subject", "workspace", "time") if name in members]
    assert all([*group] == [*order, *COUNTS] for group in answer["groups"])
    told = {
        tuple(group[name] for name in members): {name: group[name] for name in COUNTS} for group in answer["groups"]
    }
    assert told == model.groups(used, by)
    assert len(told) == len(answer["groups"])
    sorted_by = [(group.get("time", ""), -group["input_tokens"] - group["output_tokens"]) for group in answer["groups"]]
    assert sorted_by == sorted(sorted_by)


def combinations() -> Iterator[list[str]]:
    for size in (0, 1, 2, 5):
        for by in itertools.combinations([str(one) for one in By], size):
            if not {"hour", "day"} <= {*by}:
                yield [*by]


async def world(doors: Doors) -> tuple[Model, Caller, list[KeyRecord]]:
    """Requests of the last day, with keys of workspaces that share a partition, and of nobody; and acme's admin."""
    chance = random.Random(20260520)
    made = [
        (await doors.key(workspace=workspace, subject=subject)).record
        for workspace in ("acme", neighbour("acme"), "umbrella", "")
        for subject in ("ada", "bob", "")
    ]
    now_us = await doors.store.now_us()
    used = []
    for _ in range(300):
        key, at_us = chance.choice(made), now_us - chance.randrange((MAX_AGE_S - 600) * 1_000_000)
        if chance.random() < 0.2:
            used.append(Used(key, at_us, is_denied=True))
        else:
            model = chance.choice(["", "small", "large"])
            used.append(Used(key, at_us, model, chance.randrange(1000), chance.randrange(1000)))
    await book(doors.other, used)
    return Model(used), await doors.admin_of("acme"), made


def written(wanted: Mapping[str, str]) -> str:
    return " AND ".join(f'{name} = "{value}"' for name, value in wanted.items())


async def test_every_grouping_is_that_of_a_plain_model(doors: Doors) -> None:
    """Since the beginning and within times; for who sees all, and for who sees a workspace."""
    model, mine, _ = await world(doors)
    now_s = await doors.store.now_us() / 1_000_000
    spans: list[dict[str, str]] = [
        {},
        {"start_time": time(now_s - 5 * 3600)},
        {"start_time": time(now_s - 20 * 3600), "end_time": time(now_s - 7 * 3600)},
        {"start_time": time(now_s - 300 * DAY_S), "end_time": time(now_s - 12 * 3600)},
    ]
    for by, span in itertools.product(combinations(), spans):
        for caller, wanted in ((doors.root, {}), (mine, {"workspace": "acme"})):
            answer = await caller.ok("GetUsage", group_by=by, **span)
            check(answer, model, wanted, by)
            is_whole = not span and {*by} <= {"model"}
            assert (answer["start_time"] is None) == is_whole, (by, span)
    assert model.groups(model.used, ["model"]).keys() == {("",), ("small",), ("large",)}


async def test_every_filter_is_that_of_a_plain_model(doors: Doors) -> None:
    model, mine, made = await world(doors)
    first, foreign = made[0], made[3]
    assert foreign.workspace not in {"acme", "umbrella", ""}
    since = time(await doors.store.now_us() / 1_000_000 - 9 * 3600)
    filters: list[dict[str, str]] = [
        {"workspace": "umbrella"},
        {"workspace": ""},
        {"workspace": "nobody's"},
        {"subject": "ada"},
        {"subject": "ada", "workspace": ""},
        {"subject": "ada", "workspace": "umbrella"},
        {"key_id": first.id},
        {"key_id": first.id, "workspace": "acme"},
        {"key_id": first.id, "workspace": "umbrella"},
        {"key_id": first.id, "model": "small"},
        {"key_id": NO_SUCH_KEY},
        {"model": "small"},
        {"model": ""},
        {"model": "small", "workspace": "acme"},
        {"model": "huge"},
    ]
    for wanted in filters:
        for by, span in itertools.product((["model"], ["key", "day"], []), ({}, {"start_time": since})):
            answer = await doors.root.ok("GetUsage", filter=written(wanted), group_by=by, **span)
            check(answer, model, wanted, by)
            own = {**wanted, "workspace": "acme"}
            asked = await mine.call("GetUsage", filter=written(wanted), group_by=by, **span)
            if wanted.get("workspace", "acme") == "acme":
                check(asked.json, model, own, by)
            else:
                assert (asked.status, asked.reason) == (403, "insufficient_scope")
    for name in (first.id, first.prefix):
        answer = await mine.ok("GetUsage", filter=f"key_id = {name}")
        assert answer["start_time"] is None
        check(answer, model, {"key_id": first.id}, [])
    assert model.within(await doors.root.ok("GetUsage"), {"key_id": foreign.id})
    foreigners = [await mine.call("GetUsage", filter=f"key_id = {name}") for name in (foreign.id, foreign.prefix)]
    for told in (*foreigners, await mine.call("GetUsage", filter=f"key_id = {NO_SUCH_KEY}")):
        assert (told.status, told.json["requests"], told.json["denied"]) == (200, 0, 0)
        assert told.json["start_time"] == foreigners[0].json["start_time"]


async def test_usage_is_the_same_on_every_kind_of_store(store_url: str) -> None:
    async with opened(store_url, "rest") as doors:
        model, mine, made = await world(doors)
        for by in (["model"], ["workspace", "hour"], ["key"]):
            check(await doors.root.ok("GetUsage", group_by=by), model, {}, by)
            check(await mine.ok("GetUsage", group_by=by), model, {"workspace": "acme"}, by)
        for key in made:
            told = await doors.root.ok("GetKeyUsage", id=key.id)
            used = [one for one in model.used if one.key == key]
            assert {name: told[name] for name in COUNTS} == model.sum(used)
            assert told["last_used_at"] == time(max(one.at_us for one in used if not one.is_denied) / 1_000_000)


# --- what is refused


@pytest.mark.parametrize(
    ("method", "values", "at_fault"),
    [
        ("GetUsage", {"group_by": ["minute"]}, "group_by"),
        ("GetUsage", {"group_by": ["model", "model"]}, "group_by"),
        ("GetUsage", {"group_by": ["hour", "day"]}, "group_by"),
        ("GetUsage", {"group_by": ["model", "key", "subject", "workspace", "hour", "day"]}, "group_by"),
        ("GetUsage", {"group_by": ["model"] * 60}, "group_by"),
        ("GetUsage", {"group_by": [""]}, "group_by"),
        ("GetUsage", {"filter": "state = active"}, "filter"),
        ("GetUsage", {"filter": 'name = "a*"'}, "filter"),
        ("GetUsage", {"filter": "workspace"}, "filter"),
        ("GetUsage", {"filter": 'model = "a" AND model = "b"'}, "filter"),
        ("GetUsage", {"start_time": "2100-01-01T00:00:00Z"}, "start_time"),
        ("GetUsage", {"start_time": "1969-12-31T23:59:59Z"}, "start_time"),
        ("GetUsage", {"end_time": "1969-12-31T23:59:59Z"}, "end_time"),
        ("GetUsage", {"start_time": "2020-01-01T00:00:00Z", "end_time": "2020-01-01T00:00:00Z"}, "end_time"),
        ("GetUsage", {"start_time": "2020-01-02T00:00:00Z", "end_time": "2020-01-01T00:00:00Z"}, "end_time"),
        ("GetUsage", {"end_time": "2020-01-01T00:00:00Z"}, "end_time"),
        ("GetUsage", {"group_by": ["hour"], "end_time": "2026-01-01T00:00:00Z"}, "end_time"),
        ("GetKeyUsage", {"start_time": "2100-01-01T00:00:00Z"}, "start_time"),
        ("GetKeyUsage", {"start_time": "1969-12-31T23:59:59Z"}, "start_time"),
        ("GetKeyUsage", {"start_time": "2020-01-01T00:00:00Z", "end_time": "2020-01-01T00:00:00Z"}, "end_time"),
        ("GetKeyUsage", {"end_time": "2020-01-01T00:00:00Z"}, "end_time"),
    ],
)
async def test_what_cannot_be_answered(doors: Doors, method: str, values: dict[str, Any], at_fault: str) -> None:
    more = {"id": doors.root_key.record.id} if method == "GetKeyUsage" else {}
    answer = await doors.root.refused(400, method, **values, **more)

    assert (answer.field, answer.reason) == (at_fault, "bad_request")


async def test_too_many_groups(doors: Doors, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.core.grouping.MAX_GROUPS", 3)
    key = (await doors.key()).record
    for number in range(4):
        await doors.use(key, f"m{number}")

    answer = await doors.root.refused(400, "GetUsage", group_by=["model", "day"])
    assert (answer.field, answer.reason) == ("group_by", "bad_request")
    assert "ask for a shorter time" in answer.message
    assert len((await doors.root.ok("GetUsage", group_by=["key", "day"]))["groups"]) == 1


async def test_who_is_bound_sees_no_usage_of_another(doors: Doors) -> None:
    """In the same partition; a key of another workspace is one that never was."""
    other = neighbour("acme")
    theirs, mine = (await doors.key(workspace=other)).record, await doors.admin_of("acme")
    await doors.use(theirs, "secret-model", 7, 7)

    def told(answer: Answer) -> Any:
        return answer.status, answer.json

    for values in ({}, {"start_time": time(await doors.store.now_us() / 1_000_000 - 3600)}):
        unknown = await mine.refused(404, "GetKeyUsage", id=NO_SUCH_KEY, **values)
        for name in (theirs.id, theirs.prefix):
            assert told(await mine.refused(404, "GetKeyUsage", id=name, **values)) == told(unknown)
        for by in combinations():
            answer = await mine.ok("GetUsage", group_by=by, **values)
            assert ({name: answer[name] for name in COUNTS}, answer["groups"]) == (NOTHING, [])
    theirs_admin = await doors.admin_of(other)
    assert (await theirs_admin.ok("GetKeyUsage", id=theirs.id))["by_model"].keys() == {"secret-model"}
