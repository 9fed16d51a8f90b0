"""What is kept of an opaque token: an HMAC under each pepper, the first of which is for new ones."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from authz.core.pepper import Peppers


JEFE = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
secrets = st.binary(min_size=1, max_size=64)


@pytest.mark.parametrize(
    ("key", "text", "expected"),
    [
        pytest.param(b"Jefe", "what do ya want for nothing?", JEFE, id="RFC 4231 test case 2"),
        pytest.param(
            b"\x0b" * 20,
            "Hi There",
            "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7",
            id="RFC 4231 test case 1",
        ),
        pytest.param(
            b"\xaa" * 131,
            "Test Using Larger Than Block-Size Key - Hash Key First",
            "60e431591ee0b67f0d8a26aacbf5b77f8e0bc6213728c5140546040f0ee37f54",
            id="RFC 4231 test case 6: a pepper longer than a block",
        ),
    ],
)
def test_a_digest_is_hmac_sha_256(key: bytes, text: str, expected: str) -> None:
    """What was stored once must be found for ever, so the digest is held against the standard's own vectors."""
    assert Peppers((key,)).digests(text) == (expected,)


def test_without_a_pepper_there_is_no_digest() -> None:
    assert Peppers(()).digests("anything") == ()


def test_a_pepper_is_not_shown() -> None:
    assert "hush" not in repr(Peppers((b"hush",)))


@given(st.lists(secrets, max_size=4), st.text("0123456789abcXYZ-", max_size=60))
def test_each_pepper_digests_for_itself_in_its_order(several: list[bytes], token: str) -> None:
    alone = tuple(Peppers((one,)).digests(token)[0] for one in several)

    assert Peppers(tuple(several)).digests(token) == alone
    assert all(len(bytes.fromhex(digest)) == 32 for digest in alone)


@given(st.binary(min_size=1, max_size=63), st.binary(min_size=1, max_size=63), st.text(max_size=60), st.text())
def test_another_pepper_or_token_is_another_digest(one: bytes, other: bytes, token: str, another: str) -> None:
    """Peppers that are the same but for zero bytes at the end are one to HMAC (RFC 2104 pads so)."""
    assume(one.rstrip(b"\0") != other.rstrip(b"\0"))

    assert Peppers((one,)).digests(token) != Peppers((other,)).digests(token)
    assert (Peppers((one,)).digests(token) == Peppers((one,)).digests(another)) == (token == another)
