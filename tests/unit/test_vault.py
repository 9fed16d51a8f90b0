"""Secrets that must be read again: they open under the same words, keyring and purpose, or not at all."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from authz.adapters.crypto.vault import FORMAT, AesVault


OLD, NEW, OTHER = b"the old secret" * 3, b"the new secret" * 3, b"of somebody else" * 3
PURPOSE = "retained token"
VAULT = AesVault((OLD,), PURPOSE)
ABOUT = "token of key_1a2b3c4d0fabcdefghij"
# `seal` of 2026-11. Never made anew: if this no longer opens, retained tokens no longer do.
GOLDEN = bytes.fromhex(
    "019054dc55a15b59f70aec2749b74b806d8d0a0ae8f111b412801add1471dc70a51509dc13e3341c44c98be3d413ff3e"
)


@given(st.binary(max_size=300), st.text(max_size=60))
def test_what_is_sealed_opens_again(secret: bytes, about: str) -> None:
    sealed = VAULT.seal(secret, about)

    assert VAULT.unseal(sealed, about) == secret
    assert VAULT.is_current(sealed)


@given(st.binary(min_size=4, max_size=60))
def test_what_is_sealed_does_not_show(secret: bytes) -> None:
    """Neither the secret nor that it was the same one twice."""
    once, twice = VAULT.seal(secret, ABOUT), VAULT.seal(secret, ABOUT)

    assert secret not in once
    assert once != twice
    assert len(once) == len(twice) == len(secret) + 1 + 4 + 12 + 16


@given(st.binary(max_size=40), st.text(max_size=30), st.text(max_size=30))
def test_it_opens_with_the_same_words_alone(secret: bytes, about: str, other: str) -> None:
    """A sealed token that was moved beside another key does not open there."""
    assume(about != other)

    assert VAULT.unseal(VAULT.seal(secret, about), other) is None


@given(st.binary(max_size=40), st.data())
def test_every_bit_counts(secret: bytes, data: st.DataObject) -> None:
    sealed = bytearray(VAULT.seal(secret, ABOUT))
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))

    sealed[bit // 8] ^= 1 << bit % 8

    assert VAULT.unseal(bytes(sealed), ABOUT) is None


@given(st.binary(max_size=40), st.data())
def test_what_is_cut_or_prolonged_does_not_open(secret: bytes, data: st.DataObject) -> None:
    sealed = VAULT.seal(secret, ABOUT)

    assert VAULT.unseal(sealed[: data.draw(st.integers(0, len(sealed) - 1))], ABOUT) is None
    assert VAULT.unseal(sealed + data.draw(st.binary(min_size=1, max_size=8)), ABOUT) is None


@given(st.binary(max_size=80))
def test_any_bytes_may_be_tried(raw: bytes) -> None:
    known = VAULT.seal(b"", ABOUT)[:5]

    assert VAULT.unseal(raw, ABOUT) is None
    assert VAULT.unseal(known + raw, ABOUT) is None


def test_a_new_secret_seals_and_the_old_one_still_opens() -> None:
    """A keyring is rotated by putting the new secret in front; what was sealed before is found not to be current."""
    before = VAULT.seal(b"token", ABOUT)
    rotated = AesVault((NEW, OLD), PURPOSE)

    after = rotated.seal(b"token", ABOUT)

    assert (rotated.unseal(before, ABOUT), rotated.unseal(after, ABOUT)) == (b"token", b"token")
    assert (rotated.is_current(before), rotated.is_current(after)) == (False, True)
    assert VAULT.unseal(after, ABOUT) is None


def test_once_the_old_secret_is_gone_so_is_what_it_sealed() -> None:
    before = VAULT.seal(b"token", ABOUT)

    assert AesVault((NEW,), PURPOSE).unseal(before, ABOUT) is None
    assert not AesVault((NEW,), PURPOSE).is_current(before)


def test_the_same_secret_twice_in_a_keyring_is_one() -> None:
    twice = AesVault((OLD, NEW, OLD), PURPOSE)

    assert twice.is_current(VAULT.seal(b"token", ABOUT))
    assert twice.unseal(VAULT.seal(b"token", ABOUT), ABOUT) == b"token"


@pytest.mark.parametrize("purpose", ["remembered answer", "retained tokens", "Retained token", ""])
def test_a_purpose_opens_nothing_of_another(purpose: str) -> None:
    """Not even where the words about it are the same, and though the secret is."""
    sealed = VAULT.seal(b"token", ABOUT)

    assert AesVault((OLD,), purpose).unseal(sealed, ABOUT) is None
    assert not AesVault((OLD,), purpose).is_current(sealed)


def test_somebody_elses_secret_opens_nothing() -> None:
    assert AesVault((OTHER,), PURPOSE).unseal(VAULT.seal(b"token", ABOUT), ABOUT) is None


def test_another_format_is_not_taken_for_this_one() -> None:
    sealed = VAULT.seal(b"token", ABOUT)

    assert sealed[:1] == FORMAT
    assert VAULT.unseal(b"\x02" + sealed[1:], ABOUT) is None


def test_what_an_earlier_version_sealed() -> None:
    assert VAULT.unseal(GOLDEN, ABOUT) == b"sk-live-a-token"
