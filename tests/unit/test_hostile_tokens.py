"""
Tokens that must not verify by their header or signature, each with the reason it is told.

Those that are no token at all are in `test_hostile_shapes.py`, those that claim what is wrong in
`test_hostile_claims.py`.
"""

import base64

import pytest

from authz.adapters.jwt.keyring import VerificationKey
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
    pytest.param(f"{segment(HEADER)}..{GOOD_SIGNATURE}", SIGNATURE, id="payload taken out"),
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
