"""How a key looks, and the ids and display prefixes under which it is listed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.core.credential import Credential
from authz.core.decision import Reason, Refusal
from authz.core.keyformat import (
    HS256_SIGNATURE_CHARS,
    OpaqueToken,
    display_prefix,
    is_user,
    parse_token,
    partition_of,
    record_id,
)


PREFIX = "sk-live-"
SIGNATURE = "s" * HS256_SIGNATURE_CHARS
JWT = f"eyJhbGciOiJIUzI1NiJ9.e30.{SIGNATURE}"
ID = "key_1a2b3c4d0fabcdefghij"

CUT = Refusal(Reason.MALFORMED_CREDENTIAL, "the key is cut short")
MISSING = Refusal(Reason.MALFORMED_CREDENTIAL, "a part of the key is missing")
SHAPE = Refusal(Reason.MALFORMED_CREDENTIAL, "the key has characters or parts that no key has")
OTHER = Refusal(Reason.MALFORMED_CREDENTIAL, "keys of this API start with sk-live-")


def parsed(value: str, *, bearer: bool = True) -> str | OpaqueToken | Refusal:
    return parse_token(Credential(value, "authorization", bearer=bearer), PREFIX)


@pytest.mark.parametrize("bearer", [True, False])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(PREFIX + JWT, JWT, id="prefix and JWT"),
        pytest.param(f"{PREFIX}a.b.{'s' * 86}", f"a.b.{'s' * 86}", id="a longer signature"),
        pytest.param(f"{PREFIX}a.b.", "a.b.", id="unsigned: the algorithm is the verifier's business"),
        pytest.param(f"{PREFIX}a-_9.b-_Z.{SIGNATURE}", f"a-_9.b-_Z.{SIGNATURE}", id="every base64url character"),
        pytest.param(f"{PREFIX}a.b.{SIGNATURE[:-1]}", CUT, id="the last character missing"),
        pytest.param(f"{PREFIX}a.b.s", CUT, id="one character of the signature"),
        pytest.param(f"{PREFIX}a.b", CUT, id="cut in the payload"),
        pytest.param(f"{PREFIX}a.", CUT, id="cut after the first dot"),
        pytest.param(f"{PREFIX}eyJhbG", CUT, id="cut in the header"),
        pytest.param(PREFIX, MISSING, id="the prefix alone"),
        pytest.param(f"{PREFIX}.b.{SIGNATURE}", MISSING, id="no header"),
        pytest.param(f"{PREFIX}a..{SIGNATURE}", MISSING, id="no payload"),
        pytest.param(f"{PREFIX}..", MISSING, id="dots alone"),
        pytest.param(f"{PREFIX}a.b.{SIGNATURE}.d", SHAPE, id="four parts"),
        pytest.param(f"{PREFIX}a.b.c.d.e", SHAPE, id="five parts: an encrypted JWT"),
        pytest.param(f"{PREFIX}a.b.{SIGNATURE}.", SHAPE, id="a dot at the end"),
        pytest.param(f"{PREFIX}a.b.{SIGNATURE}=", SHAPE, id="padding"),
        pytest.param(f"{PREFIX}a+.b/.{SIGNATURE}", SHAPE, id="base64 that is not base64url"),
        pytest.param(f'{PREFIX}"a".b.{SIGNATURE}', SHAPE, id="quotes"),
        pytest.param(f"{PREFIX}a.b.{SIGNATURE}\n", SHAPE, id="a line end"),
        pytest.param(f"{PREFIX}\u0661.b.{SIGNATURE}", SHAPE, id="a digit that is not ASCII"),
        pytest.param(
            f"{PREFIX}{PREFIX}{JWT}", PREFIX + JWT, id="the prefix twice: base64url, so the verifier's business"
        ),
    ],
)
def test_keys_with_our_prefix(value: str, expected: str | Refusal, *, bearer: bool) -> None:
    """Our prefix and a JWT's shape are taken from any source; a copy that went wrong is told as such."""
    assert parsed(value, bearer=bearer) == expected


@pytest.mark.parametrize(
    ("value", "bearer", "expected"),
    [
        pytest.param(JWT, True, JWT, id="as Bearer"),
        pytest.param(JWT, False, OTHER, id="in X-API-Key"),
        pytest.param("a.b.", True, "a.b.", id="unsigned: the verifier's business"),
        pytest.param(f"a.b.{SIGNATURE[:-1]}", True, CUT, id="the last character missing"),
        pytest.param(f"a..{SIGNATURE}", True, MISSING, id="no payload"),
        pytest.param(f"a+.b.{SIGNATURE}", True, SHAPE, id="not base64url"),
        pytest.param("a.b", True, OTHER, id="two parts"),
        pytest.param(f"a.b.{SIGNATURE}.d", True, OTHER, id="four parts"),
    ],
)
def test_bare_jwt(value: str, bearer: bool, expected: str | Refusal) -> None:
    """A JWT without our prefix is acceptable as Bearer alone (RFC 6750)."""
    assert parsed(value, bearer=bearer) == expected


@pytest.mark.parametrize("bearer", [True, False])
@pytest.mark.parametrize(
    "value",
    [
        pytest.param(f"sk-test-{JWT}", id="another environment's"),
        pytest.param(f"sk_live_{JWT}", id="underscores"),
        pytest.param(f"pk-live-{JWT}", id="another product's"),
        pytest.param("sk-live", id="cut within the prefix"),
        pytest.param("sk-proj-abcdef", id="OpenAI's"),
        pytest.param("", id="empty"),
        pytest.param("letmein", id="a password"),
    ],
)
def test_other_prefixes(value: str, *, bearer: bool) -> None:
    """A key of something else is told how keys of this API start."""
    assert parsed(value, bearer=bearer) == OTHER


@given(st.text() | st.text("sk-live.eyJ_= ", max_size=60).map(PREFIX.__add__), st.booleans())
def test_any_text_is_parsed(value: str, bearer: bool) -> None:
    """Whatever is sent, parse_token answers; what it accepts has a JWT's three parts and was sent."""
    token = parsed(value, bearer=bearer)
    if isinstance(token, str):
        assert value in {token, PREFIX + token}
        assert token.count(".") == 2
        assert token.isascii()
    else:
        assert token in {CUT, MISSING, SHAPE, OTHER}


@given(
    st.text("0123456789abcdef", min_size=8, max_size=8),
    st.integers(0, 255),
    st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=10, max_size=10),
)
def test_key_ids_come_back(display: str, partition: int, tail: str) -> None:
    """A key's id tells its partition and its display prefix."""
    made = record_id("key", display, partition, tail)
    assert (partition_of(made), display_prefix(PREFIX, made)) == (partition, PREFIX + display)


@pytest.mark.parametrize(
    ("display", "partition", "tail"),
    [
        pytest.param("1a2b3c4", 0, "abcdefghij", id="display too short"),
        pytest.param("1A2B3C4D", 0, "abcdefghij", id="display in upper case"),
        pytest.param("1a2b3c4d", 256, "abcdefghij", id="partition too large"),
        pytest.param("1a2b3c4d", -1, "abcdefghij", id="partition negative"),
        pytest.param("1a2b3c4d", 0, "abc", id="tail too short"),
        pytest.param("1a2b3c4d", 0, "abcdefghi:", id="a colon in the tail"),
        pytest.param("1a2b3c4d", 0, "abcdefghij\n", id="a line end after the tail"),
    ],
)
def test_parts_that_make_no_id(display: str, partition: int, tail: str) -> None:
    """Parts that do not make an id are a bug and raise."""
    with pytest.raises(ValueError, match="not the parts of an id"):
        record_id("key", display, partition, tail)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(ID, (15, "sk-live-1a2b3c4d"), id="ours"),
        pytest.param("", (None, None), id="empty"),
        pytest.param("7f9c24e8-3b12-4fef-91e0-4b1c7d0a9a11", (None, None), id="another issuer's jti"),
        pytest.param(ID + "0", (None, None), id="a character too many"),
        pytest.param(ID[:-1], (None, None), id="a character too few"),
        pytest.param(ID.upper(), (None, None), id="upper case"),
        pytest.param(ID + "\n", (None, None), id="a line end"),
    ],
)
def test_ids_of_ours_are_told(text: str, expected: tuple[int | None, str | None]) -> None:
    """Only an id of ours names a partition and a display prefix."""
    assert (partition_of(text), display_prefix(PREFIX, text)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(ID.replace("key_", "usr_"), True, id="a user"),
        pytest.param(ID, False, id="a key"),
        pytest.param("usr_1a2b3c4d", False, id="another issuer's jti"),
    ],
)
def test_users_are_told_by_their_ids(text: str, *, expected: bool) -> None:
    assert is_user(text) is expected


@given(st.text())
def test_any_text_may_be_asked_for_its_partition(text: str) -> None:
    """Both readers of ids agree on what is an id of ours, and never raise."""
    assert (partition_of(text) is None) == (display_prefix(PREFIX, text) is None)
