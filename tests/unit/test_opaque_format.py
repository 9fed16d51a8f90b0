"""How an opaque key looks: what is taken, and how a copy that went wrong is told from one that nobody knows."""

import zlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz.core.claims import Claims
from authz.core.credential import Credential
from authz.core.decision import Reason, Refusal
from authz.core.keyformat import (
    BASE62,
    CHECKSUM_CHARS,
    OPAQUE_CHARS,
    SECRET_CHARS,
    OpaqueToken,
    checksum,
    opaque_token,
    parse_token,
    partition_of,
    record_id,
    split_token_id,
    token_id,
)


PREFIX = "sk-live-"
SECRET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg"
TOKEN = opaque_token(PREFIX, SECRET)
EYJ = opaque_token(PREFIX, "eyJ" + SECRET[3:])  # one of 238,328 begins like a JWT
ID = "key_1a2b3c4d0fabcdefghij"

CUT = Refusal(Reason.MALFORMED_CREDENTIAL, "the key is cut short")
LONG = Refusal(Reason.MALFORMED_CREDENTIAL, "the key is longer than any key: more than it was copied")
MISTYPED = Refusal(Reason.MALFORMED_CREDENTIAL, "its checksum does not fit: a character was changed or mistyped")
SHAPE = Refusal(Reason.MALFORMED_CREDENTIAL, "the key has characters or parts that no key has")
MISSING = Refusal(Reason.MALFORMED_CREDENTIAL, "a part of the key is missing")
OTHER = Refusal(Reason.MALFORMED_CREDENTIAL, "keys of this API start with sk-live-")


def parsed(value: str, *, bearer: bool = True, prefix: str = PREFIX) -> str | OpaqueToken | Refusal:
    return parse_token(Credential(value, "authorization", bearer=bearer), prefix)


secrets = st.text(BASE62, min_size=SECRET_CHARS, max_size=SECRET_CHARS)


def test_a_token_as_it_was_always_made() -> None:
    """Never made anew: tokens that were given away have this checksum."""
    assert TOKEN == "sk-live-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefg1zLHhu"
    assert (len(TOKEN.removeprefix(PREFIX)), OPAQUE_CHARS) == (49, 49)


@pytest.mark.parametrize("bearer", [True, False])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param(TOKEN, OpaqueToken(TOKEN), id="as it was made"),
        pytest.param(EYJ, OpaqueToken(EYJ), id="one that begins like a JWT"),
        pytest.param(TOKEN[:-1], CUT, id="the last character missing"),
        pytest.param(TOKEN[:-CHECKSUM_CHARS], CUT, id="the checksum missing"),
        pytest.param(TOKEN[: len(PREFIX) + 1], CUT, id="one character left"),
        pytest.param(PREFIX + TOKEN[len(PREFIX) + 1 :], CUT, id="the first character missing"),
        pytest.param(EYJ[:-1], CUT, id="one like a JWT, cut"),
        pytest.param(PREFIX, MISSING, id="the prefix alone"),
        pytest.param(TOKEN + "x", LONG, id="a character too many"),
        pytest.param(TOKEN + TOKEN.removeprefix(PREFIX), LONG, id="twice"),
        pytest.param(PREFIX + "A" * 5000, LONG, id="very long"),
        pytest.param(
            PREFIX + PREFIX.replace("-", "") + TOKEN.removeprefix(PREFIX), LONG, id="the prefix twice, hyphens gone"
        ),
        pytest.param(PREFIX + TOKEN, SHAPE, id="the prefix twice"),
        pytest.param(PREFIX + SECRET[::-1] + TOKEN[-CHECKSUM_CHARS:], MISTYPED, id="another secret, the same checksum"),
        pytest.param(TOKEN.swapcase().replace(PREFIX.swapcase(), PREFIX), MISTYPED, id="upper and lower case swapped"),
        pytest.param(PREFIX + "0" * OPAQUE_CHARS, MISTYPED, id="zeros"),
        pytest.param(PREFIX + SECRET + checksum(SECRET), MISTYPED, id="a checksum that leaves the prefix out"),
        pytest.param(TOKEN[:-1] + "_", SHAPE, id="an underscore"),
        pytest.param(TOKEN[:-1] + "-", SHAPE, id="a hyphen"),
        pytest.param(TOKEN + "\n", SHAPE, id="a line end"),
        pytest.param(TOKEN[:-1] + "\n", SHAPE, id="a line end for the last character"),
        pytest.param(TOKEN + "=", SHAPE, id="padding"),
        pytest.param(TOKEN[:-1] + "é", SHAPE, id="a letter that is not ASCII"),
        pytest.param(TOKEN[:-1] + "\u0661", SHAPE, id="a digit that is not ASCII"),
        pytest.param(TOKEN + ".", SHAPE, id="a full stop: copied with the sentence it stood in"),
        pytest.param(TOKEN + "." + TOKEN, CUT, id="two, joined by a dot"),
        pytest.param(opaque_token("sk-test-", SECRET), OTHER, id="another environment's"),
        pytest.param(
            PREFIX + opaque_token("sk-test-", SECRET).removeprefix("sk-test-"), MISTYPED, id="its prefix changed"
        ),
        pytest.param(TOKEN.removeprefix(PREFIX), OTHER, id="the prefix missing"),
        pytest.param(TOKEN.upper(), OTHER, id="in upper case"),
        pytest.param(PREFIX + "eyJhbGciOiJIUzI1NiJ9", CUT, id="a JWT cut in its header"),
    ],
)
def test_opaque_keys(value: str, expected: str | OpaqueToken | Refusal, *, bearer: bool) -> None:
    """From any source, with or without a scheme; what went wrong with a copy is told."""
    assert parsed(value, bearer=bearer) == expected


@given(secrets, st.sampled_from([PREFIX, "sk_", "acme-prod-"]))
@example("eyJ" + "0" * 40, PREFIX)
@example("eyJeyJ" + "z" * 37, PREFIX)
def test_every_key_that_can_be_drawn_is_taken(secret: str, prefix: str) -> None:
    made = opaque_token(prefix, secret)

    assert parsed(made, prefix=prefix) == OpaqueToken(made)


@given(secrets)
def test_every_change_of_one_character_is_told(secret: str) -> None:
    """All 49 places, all 61 other characters: CRC-32 misses no change within 32 bits, and a place has 8."""
    made = opaque_token(PREFIX, secret)
    for place in range(len(PREFIX), len(made)):
        for letter in BASE62.replace(made[place], ""):
            changed = made[:place] + letter + made[place + 1 :]
            assert parsed(changed) == MISTYPED


@given(secrets, st.data())
def test_two_neighbours_swapped_are_told(secret: str, data: st.DataObject) -> None:
    made = opaque_token(PREFIX, secret)
    place = data.draw(st.integers(len(PREFIX), len(made) - 2))
    swapped = made[:place] + made[place + 1] + made[place] + made[place + 2 :]

    assert parsed(swapped) == (OpaqueToken(made) if swapped == made else MISTYPED)


@given(secrets, st.data())
def test_every_cut_is_told(secret: str, data: st.DataObject) -> None:
    made = opaque_token(PREFIX, secret)
    cut = data.draw(st.integers(len(PREFIX) + 1, len(made) - 1))

    assert parsed(made[:cut]) == CUT


@given(st.text(BASE62 + ".-_=\n é", max_size=120).map(PREFIX.__add__), st.booleans())
def test_any_text_behind_the_prefix_is_told_what_it_is(value: str, bearer: bool) -> None:
    told = parsed(value, bearer=bearer)

    if isinstance(told, OpaqueToken):
        assert told.value == value
        assert checksum(value[:-CHECKSUM_CHARS]) == value[-CHECKSUM_CHARS:]
    else:
        assert isinstance(told, str) or told in {CUT, LONG, MISTYPED, SHAPE, MISSING}


def test_a_token_is_not_shown() -> None:
    assert SECRET not in repr(OpaqueToken(TOKEN))


@given(st.text())
def test_a_checksum_is_the_crc_in_six_digits(body: str) -> None:
    digits = checksum(body)
    number = 0
    for digit in digits:
        number = number * 62 + BASE62.index(digit)

    assert len(digits) == CHECKSUM_CHARS
    assert number == zlib.crc32(body.encode())


ids = st.builds(
    record_id,
    st.sampled_from(["key", "usr"]),
    st.text("0123456789abcdef", min_size=8, max_size=8),
    st.integers(0, 255),
    st.text("0123456789abcdefghijklmnopqrstuvwxyz", min_size=10, max_size=10),
)


@given(ids, st.integers(0, 999_999_999), st.just("") | st.text("0123456789abcdef", min_size=16, max_size=16))
def test_the_id_of_a_token_says_whose_it_is_and_which(owner: str, rotation: int, session: str) -> None:
    made = token_id(owner, rotation, session)

    assert split_token_id(made) == (owner, rotation)
    claims = Claims("s", made, "", None, 0.0, None, None)
    assert (claims.record_id, claims.rotation, claims.jti) == (owner, rotation, made)
    assert (made == owner) == (rotation == 0 and not session)


@given(ids, st.tuples(st.integers(0, 10**9 - 1), st.integers(0, 10**9 - 1)), st.sampled_from(["", "0", "1a"]))
def test_no_two_tokens_of_a_key_have_one_id(owner: str, numbers: tuple[int, int], session: str) -> None:
    one, other = numbers

    assert (token_id(owner, one) == token_id(owner, other)) == (one == other)
    assert (token_id(owner, one, "1") == token_id(owner, other, session)) is False


@pytest.mark.parametrize(
    ("jti", "expected"),
    [
        pytest.param(ID, (ID, 0), id="the first token"),
        pytest.param(f"{ID}.2", (ID, 2), id="rotated twice"),
        pytest.param(f"{ID}.0", (ID, 0), id="a zero that we never write"),
        pytest.param(f"{ID}.0.5e551011", (ID, 0), id="a session"),
        pytest.param(f"{ID}.3.5e551011.more", (ID, 3), id="a session with a dot"),
        pytest.param(f"{ID}.999999999", (ID, 999_999_999), id="the last number"),
        pytest.param(f"{ID}.1000000000", None, id="a number too large"),
        pytest.param(f"{ID}.02", None, id="a zero in front"),
        pytest.param(f"{ID}.-1", None, id="below zero"),
        pytest.param(f"{ID}.+1", None, id="a sign"),
        pytest.param(f"{ID}.1 ", None, id="a space"),
        pytest.param(f"{ID}.1\n", None, id="a line end"),
        pytest.param(f"{ID}.\u0661", None, id="a digit that is not ASCII"),
        pytest.param(f"{ID}.", None, id="a dot and nothing"),
        pytest.param(f"{ID}..1", None, id="two dots"),
        pytest.param(f"{ID}.one", None, id="a word"),
        pytest.param(f"{ID}\n.1", None, id="a line end in the id"),
        pytest.param(f".{ID}.1", None, id="a dot in front"),
        pytest.param(f"{ID[:-1]}.1", None, id="an id too short"),
        pytest.param("theirs.1", None, id="another issuer's, with a dot"),
        pytest.param("7f9c24e8-3b12-4fef-91e0-4b1c7d0a9a11", None, id="another issuer's"),
        pytest.param("", None, id="empty"),
    ],
)
def test_ids_of_tokens_are_read_strictly(jti: str, expected: tuple[str, int] | None) -> None:
    """What is not of ours is its own name, whole: no two issuers' tokens may fall together."""
    assert split_token_id(jti) == (expected or (jti, 0))


@given(st.text())
def test_any_jti_may_be_split(jti: str) -> None:
    owner, rotation = split_token_id(jti)

    assert owner == jti or (partition_of(owner) is not None and jti.startswith(f"{owner}.{rotation}"))
