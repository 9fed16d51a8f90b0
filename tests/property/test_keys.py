"""Names in the store: injective, and a tenant's all in one slot."""

from hypothesis import assume, given
from hypothesis import strategies as st
from redis.crc import key_slot

from authz.adapters.redis import keys


anything = st.text(min_size=1) | st.sampled_from(["{1}", "a:b", "}{", ":", "{", "x:{2}:y"])
names = st.tuples(st.integers(0, 63), st.sampled_from("mikrvtxw"), anything)
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


def test_partitions_are_fixed_for_ever() -> None:
    """State lies where this says: a change of it would lose every key."""
    assert [keys.partition(tenant) for tenant in ("w:acme", "s:alice", "s:key_1")] == [31, 25, 16]
