"""
What is no token, or not the one spelling of one: base64, JSON, parts and size. All of it is told to be malformed.

Where a row says "signed so", our own key signed the odd spelling itself: the signature is good.
"""

import json

import pytest

from authz.adapters.jwt.strict_json import NotStrictError, decode_segment, load_object
from authz.adapters.jwt.verifier import MAX_TOKEN_CHARS
from authz.core.claims import Claims
from authz.core.decision import Reason, Refusal
from tests.support.tokens import CLAIMS, HEADER, PLAIN, b64, claiming, forge, mac, segment, verifier


GOOD = forge()
MESSAGE, _, GOOD_SIGNATURE = GOOD.rpartition(".")
_, GOOD_PAYLOAD = MESSAGE.split(".")


def unused_bits(part: str) -> str:
    """Another spelling of the same bytes, where base64 leaves bits over: the last character's lowest bit is set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(part) % 4
    return part[:-1] + alphabet[alphabet.index(part[-1]) + 1]


def with_message(message: str) -> str:
    """*message* exactly as it is, signed by our key."""
    return f"{message}.{b64(mac(message, PLAIN.secret))}"


def with_standard_alphabet() -> str:
    """A good token, but for its signature, which is spelled with + and /."""
    for number in range(1000):  # the first signature that has one of them
        token = claiming(jti=f"j{number}")
        message, _, signature = token.rpartition(".")
        if "-" in signature or "_" in signature:
            return f"{message}.{signature.replace('-', '+').replace('_', '/')}"
    raise AssertionError


def sized(length: int) -> str:
    """A good token of exactly *length* characters: white space after its claims fills it up."""
    for spaces in range(4):
        header = json.dumps(HEADER) + " " * spaces
        room = length - len(forge(header)) + len(segment(CLAIMS))
        if len(b64(bytes(room * 3 // 4))) == room:
            return forge(header, json.dumps(CLAIMS).ljust(room * 3 // 4))
    raise AssertionError


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(f"{MESSAGE}.{GOOD_SIGNATURE[:-1]}", id="signature a character short"),
        pytest.param(f"{MESSAGE}.{unused_bits(GOOD_SIGNATURE)}", id="unused bits set in the signature"),
        pytest.param(
            with_message(f"{unused_bits(segment(json.dumps(HEADER) + ' '))}.{GOOD_PAYLOAD}"),
            id="unused bits set in the header, signed so",
        ),
        pytest.param(
            with_message(f"{segment(HEADER)}.{unused_bits(segment(json.dumps(CLAIMS).ljust(100)))}"),
            id="unused bits set in the payload, signed so",
        ),
        pytest.param(f"{GOOD}=", id="padding after the signature"),
        pytest.param(with_message(f"{segment(json.dumps(HEADER) + ' ')}==.{GOOD_PAYLOAD}"), id="padded header"),
        pytest.param(with_message(f"{MESSAGE}===="), id="padded payload"),
        pytest.param(with_standard_alphabet(), id="standard alphabet in the signature"),
        *(
            pytest.param(token, id=f"{what} {char!r}")
            for char in (" ", "\n", "\r\n", "\t", "\x00", "\x7f", "\xe9", "\u0430", "\ud800", "%", "?", ",")
            for what, token in (
                ("after the token:", GOOD + char),
                ("before the token:", char + GOOD),
                ("in the header, signed so:", with_message(f"{segment(HEADER)[:8]}{char}{segment(HEADER)[8:]}.e30"))
                if char.isascii()
                else ("in the signature:", f"{GOOD[:-9]}{char}{GOOD[-9:]}"),
            )
        ),
        pytest.param(f"sk-live-{GOOD}", id="the prefix not taken off"),
        pytest.param(sized(MAX_TOKEN_CHARS + 1), id="one character too long"),
        pytest.param("e30." * 100_000, id="a hundred thousand parts"),
        pytest.param("", id="nothing"),
        *(pytest.param("." * dots, id=f"{dots} dots") for dots in (1, 2, 3, 4)),
        pytest.param(MESSAGE, id="two parts"),
        pytest.param(f"{GOOD}.", id="four parts, the last one empty"),
        pytest.param(f".{GOOD}", id="four parts, the first one empty"),
        pytest.param(f".{GOOD_PAYLOAD}.{GOOD_SIGNATURE}", id="header empty"),
        pytest.param(f"{GOOD}.{GOOD}", id="twice the token"),
        pytest.param(
            f"{segment({'alg': 'dir', 'enc': 'A128GCM'})}..{b64(bytes(12))}.{b64(bytes(40))}.{b64(bytes(16))}",
            id="JWE, five parts",
        ),
        pytest.param(
            json.dumps({"protected": segment(HEADER), "payload": GOOD_PAYLOAD, "signature": GOOD_SIGNATURE}),
            id="JSON serialisation",
        ),
        *(
            pytest.param(forge(text), id=f"header: {what}")
            for what, text in (
                ("alg twice, none last", '{"alg":"HS256","alg":"none"}'),
                ("alg twice, none first", '{"alg":"none","alg":"HS256"}'),
                ("alg twice, once escaped", '{"alg":"HS256","\\u0061lg":"HS256"}'),
                ("twice within a member", '{"alg":"HS256","x":{"a":1,"a":1}}'),
                ("array", '["HS256"]'),
                ("text", '"HS256"'),
                ("number", "256"),
                ("null", "null"),
                ("NaN", '{"alg":"HS256","x":NaN}'),
                ("Infinity", '{"alg":"HS256","x":-Infinity}'),
                ("5000 digits", f'{{"alg":"HS256","x":{"9" * 5000}}}'),
                ("cut short", '{"alg":"HS256"'),
                ("something after it", '{"alg":"HS256"}{}'),
                ("single quotes", "{'alg':'HS256'}"),
                ("comma at the end", '{"alg":"HS256",}'),
                ("line end within a text", '{"alg":"HS256","x":"\n"}'),
                ("BOM", b'\xef\xbb\xbf{"alg":"HS256"}'),
                ("UTF-16", '{"alg":"HS256"}'.encode("utf-16")),
                ("not UTF-8", b'{"alg":"HS256","x":"\xff"}'),
                ("overlong UTF-8", b'{"alg":"HS256","x":"\xc0\x80"}'),
                ("UTF-8 of a surrogate", b'{"alg":"HS256","x":"\xed\xa0\x80"}'),
                ("nested 3000 deep", '{"alg":"HS256","x":' + "[" * 3000),
                ("nested 1400 deep, closed", '{"alg":"HS256","x":' + "[" * 1400 + "]" * 1400 + "}"),
                ("nested deep after closing brackets in a text", '{"x":"' + "]" * 2900 + '","y":' + "[" * 2900),
            )
        ),
    ],
)
def test_what_is_no_token_is_malformed(token: str) -> None:
    """Nothing but the one spelling of a token gets as far as a signature; nothing raises."""
    judge = verifier()

    answers = [judge.verify(token), judge.verify(token)]

    reasons = [answer.reason if isinstance(answer, Refusal) else answer for answer in answers]
    assert reasons == [Reason.MALFORMED_CREDENTIAL] * 2
    assert judge.counts.hits == 0


def test_a_token_may_be_as_long_as_the_bound() -> None:
    """The bound itself is within bounds."""
    assert isinstance(verifier().verify(sized(MAX_TOKEN_CHARS)), Claims)


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"[" * 100_000, id="arrays"),
        pytest.param(b'{"a":' * 100_000, id="objects"),
        pytest.param(b"[" * 100_000 + b"]" * 100_000, id="arrays, closed"),
        pytest.param(b'{"a":"' + b"]" * 200_000 + b'","b":' + b"[" * 100_000, id="after brackets in a text"),
    ],
)
def test_json_of_any_depth_is_refused(raw: bytes) -> None:
    """Were the size not bounded, a hundred thousand brackets would still be no more than a refusal."""
    with pytest.raises(NotStrictError):
        load_object(raw)


@pytest.mark.parametrize("part", ["A", "AB", "ABC", "AAAAA", "AA==", "AA=", "=", "====", "A A", "AA\n", "+/8", "é"])
def test_one_spelling_alone_is_base64url(part: str) -> None:
    """Whatever is not the one canonical spelling of some bytes is not decoded."""
    with pytest.raises(NotStrictError):
        decode_segment(part)
