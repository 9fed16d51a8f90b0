"""Names in the store: injective, and a tenant's all in one slot."""

import re

from hypothesis import assume, given
from hypothesis import strategies as st
from redis.crc import key_slot

from authz.adapters.redis import keys


KINDS = "abcdehiklmnoprstuvwxyz"  # all but `g`, whose names have one part more
anything = st.text(min_size=1) | st.sampled_from(["{1}", "a:b", "}{", ":", "{", "x:{2}:y"])
names = st.tuples(st.integers(0, 63), st.sampled_from(KINDS), anything)
groups = st.tuples(st.integers(0, 63), st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True), anything)


@given(names, names)
def test_names_are_injective(one: tuple[int, str, str], other: tuple[int, str, str]) -> None:
    assume(one != other)

    assert keys.name(*one) != keys.name(*other)


@given(groups, groups)
def test_groups_are_injective(one: tuple[int, str, str], other: tuple[int, str, str]) -> None:
    assume(one != other)

    assert keys.group(*one) != keys.group(*other)


@given(names, groups)
def test_nothing_but_the_partition_decides_the_slot(one: tuple[int, str, str], other: tuple[int, str, str]) -> None:
    """Whatever braces a subject or an owner holds."""
    partition = one[0]
    slot = key_slot(str(partition).encode())

    assert slot == key_slot(keys.name(*one).encode())
    assert slot == key_slot(keys.group(partition, *other[1:]).encode())


@given(names, groups)
def test_no_name_is_a_groups(one: tuple[int, str, str], other: tuple[int, str, str]) -> None:
    assert keys.name(*one) != keys.group(*other)


def test_every_kind_is_in_the_table_and_tried_here() -> None:
    """The head of the module is the list of all that the store holds."""
    told = set(re.findall(r"authz:\{[PQ]\}:([a-z])\b", keys.__doc__ or ""))

    assert told == {*KINDS, "g"}


digests = st.text("0123456789abcdef", min_size=64, max_size=64)


@given(digests, digests)
def test_digests_have_a_name_each_and_lie_where_their_name_says(one: str, other: str) -> None:
    at, name = keys.digest(one)

    assert 0 <= at < keys.PARTITIONS
    assert key_slot(name.encode()) == key_slot(str(at).encode())
    assert (name == keys.digest(other)[1]) == (one == other)


@given(anything, anything)
def test_names_of_users_likewise(one: str, other: str) -> None:
    at, name = keys.user(one)

    assert key_slot(name.encode()) == key_slot(str(at).encode())
    assert (name == keys.user(other)[1]) == (one == other)


@given(names, st.text("0123456789abcdef", min_size=8, max_size=64))
def test_what_lies_outside_the_partitions_is_no_name_within(one: tuple[int, str, str], hexed: str) -> None:
    outside = {keys.STORE, keys.prefix(hexed), keys.request(hexed)}

    assert len(outside) == 3
    assert keys.name(*one) not in outside


def test_digests_and_users_lie_where_they_did() -> None:
    assert keys.digest("ff" * 32) == (63, "authz:{63}:h:" + "ff" * 32)
    assert keys.digest("0041" + "00" * 30)[0] == 1
    assert keys.user("alice") == (35, "authz:{35}:u:alice")


def test_partitions_are_fixed_for_ever() -> None:
    """State lies where this says: a change of it would lose every key."""
    assert [keys.partition(tenant) for tenant in ("w:acme", "s:alice", "s:key_1")] == [31, 25, 16]
