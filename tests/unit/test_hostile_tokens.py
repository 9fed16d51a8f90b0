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
    """A good token of exactly *length* characters: white space after its claims fills it up."""
    for spaces in range(4):
        header = json.dumps(HEADER) + " " * spaces
        room = length - len(forge(header)) + len(segment(CLAIMS))
        if len(b64(bytes(room * 3 // 4))) == room:
            return forge(header, json.dumps(CLAIMS).ljust(room * 3 // 4))
    raise AssertionError


HOSTILE = [
    *(
        pytest.param(unsigned(spelling), ALGORITHM, id=f"alg {spelling!r} without a signature")
        for spelling in ("none", "None", "NONE", "nOnE", "none ", "\x00none", "", "hs256", "HS256 ")
    ),
    pytest.param(f"{unsigned('none')}{GOOD_SIGNATURE}", ALGORITHM, id="alg none, another token's signature kept"),
    pytest.param(forge({"alg": "none"}), ALGORITHM, id="alg none, signed by our key"),
    pytest.param(forge({"alg": "none"}, secret=b""), ALGORITHM, id="alg none, signed by the empty key"),
    pytest.param(forge({"typ": "JWT"}), ALGORITHM, id="alg missing"),
    *(
        pytest.param(with_header(alg=value), ALGORITHM, id=f"alg {value!r}")
        for value in (None, True, 256, ["HS256"], {"HS256": 1})
    ),
    *(
        pytest.param(with_header(alg=algorithm), ALGORITHM, id=f"alg {algorithm} over an HMAC of our key")
        for algorithm in ("RS256", "ES256", "EdDSA", "PS256", "HS384", "dir", "HS256/64")
    ),
    pytest.param(forge(HEADER | {"alg": "RS256"}, secret=PEM), ALGORITHM, id="alg RS256 over an HMAC by a public key"),
    pytest.param(forge(secret=PEM), SIGNATURE, id="HMAC by a public key's PEM"),
    pytest.param(forge(secret=PEM.strip()), SIGNATURE, id="HMAC by a public key's PEM without its last line end"),
    pytest.param(forge(secret=b""), SIGNATURE, id="HMAC by the empty key"),
    pytest.param(with_header(alg="HS512"), SIGNATURE, id="HS512 in the header, HS256 done"),
    pytest.param(
        forge(HEADER | {"alg": "HS512"}, secret=PLAIN.secret, by="HS512"), SIGNATURE, id="HS512 by the HS256 key"
    ),
    pytest.param(forge(secret=K2.secret), SIGNATURE, id="HS256 by the HS512 key"),
    pytest.param(
        forge(HEADER | {"kid": "k2"}, secret=K2.secret), SIGNATURE, id="HS256 by the HS512 key, which is named"
    ),
    pytest.param(with_header(kid="k2"), SIGNATURE, id="kid of the other key"),
    *(
        pytest.param(with_header(kid=kid), SIGNATURE, id=f"kid {str(kid)[:40]!r}, signed by our key")
        for kid in ("unknown", "K2", "k2 ", "k2\x00", "None", "", 2, 0, True, ["k2"], {"id": "k2"}, "k" * 4000)
    ),
    *(
        pytest.param(forge(HEADER | {"kid": kid}, secret=secret), SIGNATURE, id=f"kid {kid!r}")
        for kid, secret in (
            ("../../../../dev/null", b""),
            ("/proc/sys/kernel/randomize_va_space", b"2\n"),
            ("file:///etc/passwd", b""),
            ("k2' UNION SELECT 'x", b"x"),
            ("k2; cat /etc/passwd |", b""),
            ("https://attacker.example/key", ATTACKER),
        )
    ),
    *(
        pytest.param(with_header(**{name: value}), ALGORITHM, id=f"{name} {value!r}")
        for name, value in (
            ("crit", ["exp"]),
            ("crit", ["b64"]),
            ("crit", []),
            ("crit", None),
            ("b64", False),
            ("b64", True),
            ("zip", "DEF"),
            ("enc", "A128GCM"),
        )
    ),
    pytest.param(
        f"{segment(HEADER | {'b64': False, 'crit': ['b64']})}..{GOOD_SIGNATURE}", ALGORITHM, id="detached payload"
    ),
    *(
        pytest.param(attacked(**{name: value}), SIGNATURE, id=f"the attacker's key by {name}")
        for name, value in (
            ("jwk", OCT),
            ("jku", "https://attacker.example/jwks"),
            ("x5u", "https://attacker.example/chain.pem"),
            ("x5c", [base64.b64encode(b"a certificate").decode()]),
            ("x5t#S256", b64(bytes(32))),
            ("iss", "https://attacker.example"),
        )
    ),
    pytest.param(attacked(kid="k2", alg="HS512", jwk=OCT | {"kid": "k2"}), SIGNATURE, id="the attacker's k2 by jwk"),
    *(
        pytest.param(with_header(typ=typ), KIND, id=f"typ {typ!r}")
        for typ in ("at+jwt", "session", "session+jwt", "JWS", "", "JWT ", "application/jwt", 1, True, ["JWT"])
    ),
    pytest.param(f"{MESSAGE}.", SIGNATURE, id="signature empty"),
    pytest.param(f"{MESSAGE}.{b64(mac(MESSAGE, PLAIN.secret)[:-1])}", SIGNATURE, id="signature a byte short"),
    pytest.param(f"{MESSAGE}.{b64(mac(MESSAGE, PLAIN.secret)[:16])}", SIGNATURE, id="half of the signature"),
    pytest.param(f"{MESSAGE}.{b64(mac(MESSAGE, PLAIN.secret) + bytes(1))}", SIGNATURE, id="signature a byte long"),
    pytest.param(f"{MESSAGE}.{b64(bytes(32))}", SIGNATURE, id="signature of zeros"),
    pytest.param(f"{MESSAGE}.{claiming(sub='x').rpartition('.')[2]}", SIGNATURE, id="signature of another token"),
    pytest.param(f"{MESSAGE}.{GOOD_SIGNATURE[:-1]}", MALFORMED, id="signature a character short"),
    pytest.param(f"{MESSAGE}.{unused_bits(GOOD_SIGNATURE)}", MALFORMED, id="unused bits set in the signature"),
    pytest.param(
        with_message(f"{unused_bits(segment(json.dumps(HEADER) + ' '))}.{GOOD_PAYLOAD}"),
        MALFORMED,
        id="unused bits set in the header, signed so",
    ),
    pytest.param(
        with_message(f"{segment(HEADER)}.{unused_bits(segment(json.dumps(CLAIMS).ljust(100)))}"),
        MALFORMED,
        id="unused bits set in the payload, signed so",
    ),
    pytest.param(f"{GOOD}=", MALFORMED, id="padding after the signature"),
    pytest.param(with_message(f"{segment(json.dumps(HEADER) + ' ')}==.{GOOD_PAYLOAD}"), MALFORMED, id="padded header"),
    pytest.param(with_message(f"{MESSAGE}===="), MALFORMED, id="padded payload"),
    pytest.param(with_standard_alphabet(), MALFORMED, id="standard alphabet in the signature"),
    *(
        pytest.param(token, MALFORMED, id=f"{what} {char!r}")
        for char in (" ", "\n", "\r\n", "\t", "\x00", "\x7f", "\xe9", "\u0430", "\ud800", "%", "?", ",")
        for what, token in (
            ("after the token:", GOOD + char),
            ("before the token:", char + GOOD),
            ("in the header, signed so:", with_message(f"{segment(HEADER)[:8]}{char}{segment(HEADER)[8:]}.e30"))
            if char.isascii()
            else ("in the signature:", f"{GOOD[:-9]}{char}{GOOD[-9:]}"),
        )
    ),
    pytest.param(f"sk-live-{GOOD}", MALFORMED, id="the prefix not taken off"),
    pytest.param(sized(MAX_TOKEN_CHARS + 1), MALFORMED, id="one character too long"),
    pytest.param("e30." * 100_000, MALFORMED, id="a hundred thousand parts"),
    pytest.param("", MALFORMED, id="nothing"),
    *(pytest.param("." * dots, MALFORMED, id=f"{dots} dots") for dots in (1, 2, 3, 4)),
    pytest.param(MESSAGE, MALFORMED, id="two parts"),
    pytest.param(f"{GOOD}.", MALFORMED, id="four parts, the last one empty"),
    pytest.param(f".{GOOD}", MALFORMED, id="four parts, the first one empty"),
    pytest.param(f".{GOOD_PAYLOAD}.{GOOD_SIGNATURE}", MALFORMED, id="header empty"),
    pytest.param(f"{segment(HEADER)}..{GOOD_SIGNATURE}", SIGNATURE, id="payload taken out"),
    pytest.param(f"{GOOD}.{GOOD}", MALFORMED, id="twice the token"),
    pytest.param(
        f"{segment({'alg': 'dir', 'enc': 'A128GCM'})}..{b64(bytes(12))}.{b64(bytes(40))}.{b64(bytes(16))}",
        MALFORMED,
        id="JWE, five parts",
    ),
    pytest.param(
        json.dumps({"protected": segment(HEADER), "payload": GOOD_PAYLOAD, "signature": GOOD_SIGNATURE}),
        MALFORMED,
        id="JSON serialisation",
    ),
    *(
        pytest.param(forge(text), MALFORMED, id=f"header: {what}")
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
]


@pytest.mark.parametrize(("token", "reason"), HOSTILE)
def test_a_hostile_token_is_refused(token: str, reason: Reason) -> None:
    """No hostile token verifies or raises, and each is told the reason that fits; refusals are not remembered."""
    judge = verifier()

    answers = [judge.verify(token), judge.verify(token)]

    assert [answer.reason if isinstance(answer, Refusal) else answer for answer in answers] == [reason, reason]
    assert judge.counts.hits == 0


@pytest.mark.parametrize(("token", "reason"), HOSTILE)
def test_a_hostile_token_is_refused_by_a_keyring_of_names(token: str, reason: Reason) -> None:
    """Where every key has an id and PLAIN is not among them, none verifies either."""
    assert isinstance(verifier(K2, K3, K4).verify(token), Refusal)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(signed_by(PLAIN), id="the key without an id"),
        pytest.param(signed_by(K2), id="k2"),
        pytest.param(signed_by(K3), id="k3"),
        pytest.param(signed_by(K4), id="k4"),
        pytest.param(
            forge({"alg": "HS512"}, secret=K2.secret, by="HS512"), id="k2, unnamed: signed before it was named"
        ),
        pytest.param(forge({"alg": "HS256"}), id="typ absent"),
        pytest.param(with_header(typ="jwt"), id="typ jwt"),
        pytest.param(with_header(typ="Jwt"), id="typ Jwt"),
        pytest.param(with_header(jwk=OCT, cty="x"), id="parameters that we ignore"),
        pytest.param(forge('\r\n{ "alg" :\t"HS256" } '), id="white space in the header"),
        pytest.param(sized(MAX_TOKEN_CHARS), id="as long as can be"),
    ],
)
def test_a_good_token_of_every_key_verifies(token: str) -> None:
    """What our keys sign verifies, or the table above would prove nothing."""
    claims = verifier(PLAIN, K2, K3, K4).verify(token)

    assert isinstance(claims, Claims)
    assert (claims.subject, claims.jti) == (CLAIMS["sub"], CLAIMS["jti"])


def test_a_named_key_takes_no_token_of_another_name() -> None:
    """Of two keys of one algorithm, `kid` says which: the other is not tried."""
    judge = verifier(PLAIN, K3)

    assert judge.verify(forge(HEADER | {"kid": "k3"})) == Refusal(SIGNATURE)
    assert isinstance(judge.verify(signed_by(K3)), Claims)


def test_an_algorithm_of_no_key_is_refused_as_such() -> None:
    """HS512 is refused as an algorithm where no key is for it, as a signature where one is."""
    token = signed_by(VerificationKey("k2", "HS512", ATTACKER * 2))

    assert verifier(PLAIN).verify(token) == Refusal(ALGORITHM)
    assert verifier(PLAIN, K2).verify(token) == Refusal(SIGNATURE)


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
