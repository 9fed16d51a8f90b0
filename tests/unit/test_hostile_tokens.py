"""
Tokens that must not verify by their shape, header or signature, each with the reason it is told.

Those whose signature is ours but whose claims are wrong are in `test_hostile_claims.py`.
"""

import base64
import json

import pytest

from authz.adapters.jwt.keyring import VerificationKey
from authz.adapters.jwt.strict_json import NotStrictError, decode_segment, load_object
from authz.adapters.jwt.verifier import MAX_TOKEN_CHARS
from authz.core.claims import Claims
from authz.core.decision import Reason, Refusal
from tests.support.tokens import (
    ATTACKER,
    CLAIMS,
    HEADER,
    K2,
    K3,
    K4,
    PLAIN,
    b64,
    claiming,
    forge,
    mac,
    segment,
    signed_by,
    verifier,
)


MALFORMED = Reason.MALFORMED_CREDENTIAL
SIGNATURE = Reason.BAD_SIGNATURE
ALGORITHM = Reason.ALGORITHM_REFUSED
KIND = Reason.WRONG_KIND

GOOD = forge()
MESSAGE, _, GOOD_SIGNATURE = GOOD.rpartition(".")
_, GOOD_PAYLOAD = MESSAGE.split(".")
PEM = b"""-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEMKBCTNIcKUSDii11ySs3526iDZ8A
iTo7Tu6KPAqv7D7gS2XpJFbZiItSs3m9+9Ue6GnvHw/GW2ZZaVtszggXIw==
-----END PUBLIC KEY-----
"""
OCT = {"kty": "oct", "alg": "HS256", "k": b64(ATTACKER)}


def attacked(**header: object) -> str:
    """Signed by the attacker's key, with *header* to make us use it."""
    return forge(HEADER | header, secret=ATTACKER)


def with_header(**header: object) -> str:
    """Signed by our own key: the header alone is at fault."""
    return forge(HEADER | header)


def unsigned(algorithm: str) -> str:
    return f"{segment({'alg': algorithm})}.{GOOD_PAYLOAD}."


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
    """A token of ours of exactly *length* characters, its claims being good; an unknown claim fills it up."""
    for filling in range(length):
        token = claiming(x="x" * max(0, length * 3 // 4 - 250 + filling))
        if len(token) >= length:
            break
    for spaces in range(8):
        for inner in range(8):
            padded = forge(json.dumps(HEADER) + " " * spaces, json.dumps(CLAIMS | {"x": "x" * 5900}) + " " * inner)
            missing = (length - len(padded)) * 3 // 4
            token = forge(
                json.dumps(HEADER) + " " * spaces, json.dumps(CLAIMS | {"x": "x" * (5900 + missing)}) + " " * inner
            )
            if len(token) == length:
                return token
    raise AssertionError
