"""What a new key's token looks like, and that our own verifier takes it."""

import base64
import json
from typing import Any

import pytest

from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.signer import JwtSigner
from authz.core.claims import Claims, ClaimsPolicy
from authz.core.decision import Reason, Refusal
from authz.ports import NewToken
from tests.support.tokens import K2, K4, NOW_S, PLAIN, verifier


BARE = NewToken("key_1a2b3c4d00abcdefghij", "user-1", "", (), NOW_S, None)
FULL = NewToken("key_1a2b3c4d00abcdefghij", "Zoë", "acme", ("read-only", "admin"), NOW_S, NOW_S + 3600)
REQUIRED = {"sub": "user-1", "jti": "key_1a2b3c4d00abcdefghij", "iat": NOW_S}


def read(token: str) -> tuple[Any, Any]:
    """Header and claims, nothing verified."""
    header, payload, _ = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in token.split("."))
    return json.loads(header), json.loads(payload)


@pytest.mark.parametrize(
    ("key", "header"),
    [
        pytest.param(PLAIN, {"alg": "HS256", "typ": "JWT"}, id="no id, no kid"),
        pytest.param(K2, {"alg": "HS512", "typ": "JWT", "kid": "k2"}, id="kid and algorithm of the key"),
        pytest.param(K4, {"alg": "HS384", "typ": "JWT", "kid": "k4"}, id="HS384"),
    ],
)
def test_header(key: VerificationKey, header: dict[str, str]) -> None:
    """The header names algorithm and type, the key only where it has an id, and nothing else."""
    assert read(JwtSigner(Keyring((key,))).sign(BARE))[0] == header


@pytest.mark.parametrize(
    ("token", "audience", "claims"),
    [
        pytest.param(BARE, None, REQUIRED, id="the least"),
        pytest.param(BARE, "portal", REQUIRED | {"aud": "portal"}, id="for an audience"),
        pytest.param(
            FULL,
            "api",
            {
                "sub": "Zoë",
                "jti": "key_1a2b3c4d00abcdefghij",
                "iat": NOW_S,
                "exp": NOW_S + 3600,
                "workspace": "acme",
                "scope": "read-only admin",
                "aud": "api",
            },
            id="the most",
        ),
    ],
)
def test_claims(token: NewToken, audience: str | None, claims: dict[str, object]) -> None:
    """A token holds what it was given and no claim more; what is not there is left out, not null."""
    assert read(JwtSigner(Keyring((PLAIN,)), audience).sign(token))[1] == claims


def test_times_are_whole_numbers() -> None:
    """PyJWT and others read times as whole numbers."""
    _, claims = read(JwtSigner(Keyring((PLAIN,))).sign(FULL))

    assert [type(claims[name]) for name in ("iat", "exp")] == [int, int]


@pytest.mark.parametrize("key", [PLAIN, K2, K4], ids=lambda key: key.algorithm)
def test_round_trip(key: VerificationKey) -> None:
    """What is signed is what is verified, by a keyring in which the key has become one of several."""
    token = JwtSigner(Keyring((key, PLAIN)), "api").sign(FULL)

    assert verifier(PLAIN, K2, K4, policy=ClaimsPolicy(audience=("api",))).verify(token) == Claims(
        subject="Zoë",
        jti="key_1a2b3c4d00abcdefghij",
        workspace="acme",
        scopes=("read-only", "admin"),
        issued_at_s=NOW_S,
        expires_at_s=NOW_S + 3600,
        not_before_s=None,
    )


def test_a_token_without_extras_says_nothing_of_them() -> None:
    """No workspace, no scopes, no end: the claims say so."""
    claims = verifier().verify(JwtSigner(Keyring((PLAIN,))).sign(BARE))

    assert isinstance(claims, Claims)
    assert (claims.workspace, claims.scopes, claims.expires_at_s) == ("", None, None)


def test_a_token_signed_before_its_key_was_named_goes_on() -> None:
    """Giving the key an id does not put its tokens out of use; taking the key away does."""
    token = JwtSigner(Keyring((PLAIN,))).sign(BARE)
    named = VerificationKey("k1", PLAIN.algorithm, PLAIN.secret)

    assert isinstance(verifier(K2, named).verify(token), Claims)
    assert verifier(K2, VerificationKey("k1", "HS256", b"another secret of more than 32 bytes")).verify(
        token
    ) == Refusal(Reason.BAD_SIGNATURE)


def test_the_first_key_signs() -> None:
    """The order of the keyring tells which key signs; the others verify alone."""
    token = JwtSigner(Keyring((K2, PLAIN))).sign(BARE)

    assert isinstance(verifier(K2).verify(token), Claims)
    assert isinstance(verifier(PLAIN).verify(token), Refusal)


def test_the_secret_is_not_in_a_representation() -> None:
    """Neither a key's nor a keyring's `repr` shows the secret."""
    assert "32 bytes" not in repr(Keyring((PLAIN,)))
