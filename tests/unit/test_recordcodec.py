"""Records as bytes: what one version wrote, every later one reads."""

import struct
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.adapters.redis.recordcodec import decode, encode
from authz.core.bucket import Limit
from authz.core.keyrecord import KeyRecord, Rotation
from authz.ports import StoreFault


ISSUED_US = 1_795_000_000_123_456
WRITTEN = KeyRecord(
    id="key_0011223300abcdefghij",
    name="Backend",
    kind="jwt",
    prefix="sk-live-00112233",
    subject="alice",
    workspace="acme",
    scopes=("read-write", "admin"),
    limits={"requests": Limit(5, 60)},
    expires_at_us=1_800_000_000_000_000,
)
# `encode(WRITTEN)` as 0.1.0 stored it. Never made anew: if this no longer reads, stored keys no longer do.
GOLDEN = bytes.fromhex(
    "0a186b65795f303031313232333330306162636465666768696a12074261636b656e641a036a77742210736b2d6c6976652d"
    "30303131323233332a05616c696365320461636d653a0a726561642d77726974653a0561646d696e42100a08726571756573"
    "747312040805103c488080e2c4f2a29903"
)
# The same key as an opaque one that was rotated, once with a grace time, as the first version with rotations stored it.
ROTATED = replace(
    WRITTEN,
    kind="opaque",
    rotations=(
        Rotation(2, ISSUED_US + 10, ISSUED_US + 20, "ab" * 32),
        Rotation(3, ISSUED_US + 15, None, "cd" * 32),
    ),
)
GOLDEN_ROTATED = bytes.fromhex(
    "0a186b65795f303031313232333330306162636465666768696a12074261636b656e641a066f70617175652210736b2d6c"
    "6976652d30303131323233332a05616c696365320461636d653a0a726561642d77726974653a0561646d696e42100a0872"
    "6571756573747312040805103c488080e2c4f2a299035236080210caa4848bb091980318d4a4848bb09198032220ababab"
    "ababababababababababababababababababababababababababababab522d080310cfa4848bb09198032220cdcdcdcdcd"
    "cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd"
)


def stored(record: bytes) -> bytes:
    return struct.pack("<d", ISSUED_US) + record


def test_what_an_earlier_version_stored() -> None:
    assert decode(stored(GOLDEN), b"3", None) == replace(WRITTEN, created_at_us=ISSUED_US, version=3)


def test_what_an_earlier_version_stored_of_rotations() -> None:
    assert decode(stored(GOLDEN_ROTATED), b"3", None) == replace(ROTATED, created_at_us=ISSUED_US, version=3)
    assert encode(ROTATED) == GOLDEN_ROTATED


def test_a_key_that_was_never_rotated_is_stored_as_before_there_were_rotations() -> None:
    """So an earlier version reads it too, while both run."""
    assert encode(WRITTEN) == GOLDEN


def test_what_another_version_put_in_is_kept() -> None:
    """As the proto promises: a version that does not know a field must not lose it when it changes the record."""
    unknown = bytes.fromhex("ea0603") + b"new"  # field 109, three bytes

    read = decode(stored(GOLDEN + unknown), b"3", None)

    assert unknown in encode(replace(read, name="renamed"))


def test_the_first_token_of_an_opaque_key_is_as_old_as_its_record() -> None:
    """Its time of issue is not known before the store has told it."""
    first = replace(WRITTEN, kind="opaque", rotations=(Rotation(0, 0, digest="ab" * 32),))

    read = decode(stored(encode(first)), b"1", None)

    assert read.rotations == (Rotation(0, ISSUED_US, None, "ab" * 32),)
    assert read.current == read.rotations[0]


@pytest.mark.parametrize(
    ("record", "number", "digest", "found"),
    [
        pytest.param(WRITTEN, 0, "", True, id="the first token, a JWT"),
        pytest.param(WRITTEN, 1, "", False, id="a token that was not issued yet"),
        pytest.param(WRITTEN, 0, "ab" * 32, False, id="an opaque one of a JWT key"),
        pytest.param(ROTATED, 2, "ab" * 32, True, id="one whose grace time runs"),
        pytest.param(ROTATED, 0, "cd" * 32, True, id="the current one: its digest says which it is"),
        pytest.param(ROTATED, 3, "ef" * 32, False, id="one that was dropped"),
        pytest.param(ROTATED, 3, "", False, id="a JWT of an opaque key"),
        pytest.param(replace(WRITTEN, rotations=(Rotation(2, 1),)), 2, "", True, id="the current JWT"),
        pytest.param(replace(WRITTEN, rotations=(Rotation(2, 1),)), 0, "", False, id="the first JWT, replaced"),
        pytest.param(replace(WRITTEN, rotations=(Rotation(2, 1),)), 2, "ab" * 32, False, id="a digest that nobody has"),
    ],
)
def test_which_of_its_tokens_a_key_knows(record: KeyRecord, number: int, digest: str, *, found: bool) -> None:
    assert (record.issued(number, digest) is not None) is found


names = st.text(min_size=1, max_size=40)
records = st.builds(
    KeyRecord,
    id=names,
    name=names,
    kind=st.just("jwt"),
    prefix=names,
    subject=names,
    workspace=st.text(max_size=40),
    scopes=st.lists(names, max_size=4).map(tuple),
    limits=st.dictionaries(
        st.sampled_from(["requests", "tokens"]), st.builds(Limit, st.integers(1, 10**9), st.integers(1, 31 * 86_400))
    ),
    created_at_us=st.just(ISSUED_US),
    expires_at_us=st.none() | st.integers(1, 2**62),
    version=st.integers(1, 2**40),
    rotations=st.lists(
        st.builds(
            Rotation,
            st.integers(0, 2**32 - 1),
            st.integers(1, 2**62),
            st.none() | st.integers(1, 2**62),
            st.just("") | st.binary(min_size=32, max_size=32).map(bytes.hex),
        ),
        max_size=9,
    ).map(tuple),
)


@given(records)
def test_round_trip(record: KeyRecord) -> None:
    assert decode(stored(encode(record)), str(record.version).encode(), None) == record


@given(records, st.integers(1, 2**60))
def test_last_use_stands_beside_the_record(record: KeyRecord, last_us: int) -> None:
    read = decode(stored(encode(record)), str(record.version).encode(), None, str(last_us).encode())

    assert read == replace(record, last_used_at_us=last_us)


def test_a_revocation_stands_beside_the_record() -> None:
    read = decode(stored(encode(WRITTEN)), b"-4", f"{ISSUED_US + 5} found in a log".encode())

    assert (read.version, read.revoked_at_us, read.revoked_reason) == (-4, ISSUED_US + 5, "found in a log")


@given(st.binary(max_size=60), st.none() | st.binary(max_size=8), st.none() | st.binary(max_size=20))
def test_garbage_is_a_fault_and_nothing_else(raw: bytes, version: bytes | None, revocation: bytes | None) -> None:
    try:
        decode(raw, version, revocation)
    except StoreFault:
        return
    assert len(raw) >= 8


@pytest.mark.parametrize("version", [b"", b"x", b"\xff", b"1.5"])
def test_a_version_that_is_no_number_is_a_fault(version: bytes) -> None:
    with pytest.raises(StoreFault):
        decode(stored(encode(WRITTEN)), version or b"x", None)
