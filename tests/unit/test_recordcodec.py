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


def stored(record: bytes) -> bytes:
    return struct.pack("<d", ISSUED_US) + record


def test_what_an_earlier_version_stored() -> None:
    assert decode(stored(GOLDEN), b"3", None) == replace(WRITTEN, created_at_us=ISSUED_US, version=3)


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
)


@given(records)
def test_round_trip(record: KeyRecord) -> None:
    assert decode(stored(encode(record)), str(record.version).encode(), None) == record


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
