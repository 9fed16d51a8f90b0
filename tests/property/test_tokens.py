"""The verifier against anything: it never raises, forgives no change, is never laxer than PyJWT, forgets in time."""

import datetime as dt
import json
from typing import Any
from unittest.mock import patch

import jwt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.core.claims import Claims
from authz.core.decision import Reason, Refusal
from tests.support.tokens import (
    CLAIMS,
    HEADER,
    K2,
    NOW_S,
    PLAIN,
    FakeClock,
    b64,
    claiming,
    forge,
    segment,
    signed_by,
    verifier,
)


LEEWAY_S = 10
ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."
GOOD = forge()

any_text = st.text(st.characters())  # surrogates too
scalars = st.none() | st.booleans() | st.integers() | st.floats() | any_text
any_json = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(any_text, inner, max_size=3)
)
headers = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "HS512", "none", "RS256"]) | any_json},
    optional=dict.fromkeys(("kid", "typ", "crit", "b64", "zip", "jwk", "cty", "x"), any_json),
)
claims_sets = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("sub", "jti", "iat", "exp", "nbf", "aud", "iss", "scope", "workspace"), any_json)
)


def as_json(value: object) -> str:
    return json.dumps(value)


@settings(deadline=None)
@given(any_text)
def test_no_text_raises_or_verifies(token: str) -> None:
    """Whatever is sent, the answer is a refusal."""
    assert isinstance(verifier().verify(token), Refusal)


@settings(deadline=None)
@given(st.binary(), st.binary(), st.binary())
def test_no_three_segments_raise_or_verify(header: bytes, payload: bytes, signature: bytes) -> None:
    """The same for what has a token's shape."""
    assert isinstance(verifier().verify(f"{b64(header)}.{b64(payload)}.{b64(signature)}"), Refusal)


@settings(deadline=None)
@given(headers | any_json, claims_sets | any_json, st.binary())
def test_no_unsigned_json_raises_or_verifies(header: object, payload: object, signature: bytes) -> None:
    """The same for JSON of every kind without a signature of ours."""
    assert isinstance(
        verifier().verify(f"{segment(as_json(header))}.{segment(as_json(payload))}.{b64(signature)}"), Refusal
    )


@settings(deadline=None)
@given(headers | any_json, claims_sets | any_json | st.binary())
def test_nothing_that_we_signed_raises(header: object, payload: object) -> None:
    """Our signature under any header and any payload leads to claims or a refusal, never further."""
    content = payload if isinstance(payload, bytes) else as_json(payload)
    assert isinstance(verifier().verify(forge(as_json(header), content)), Claims | Refusal)


@settings(deadline=None)
@given(st.data(), st.sampled_from([PLAIN, K2]))
def test_no_change_is_forgiven(data: st.DataObject, key: Any) -> None:
    """A good token with a piece taken out, put in or replaced does not verify."""
    token = signed_by(key)
    start = data.draw(st.integers(0, len(token)))
    end = data.draw(st.integers(start, min(start + 3, len(token))))
    piece = data.draw(any_text | st.text(ALPHABET, max_size=4))
    changed = token[:start] + piece + token[end:]

    assert changed == token or isinstance(verifier().verify(changed), Refusal)


def test_no_other_character_fits_anywhere() -> None:
    """Every character of a good token, replaced by every other of the alphabet: none verifies."""
    judge = verifier()
    changed = [
        GOOD[:place] + char + GOOD[place + 1 :]
        for place in range(len(GOOD))
        for char in ALPHABET
        if char != GOOD[place]
    ]

    assert isinstance(judge.verify(GOOD), Claims)
    assert [token for token in changed if not isinstance(judge.verify(token), Refusal)] == []


class _StandingStill(dt.datetime):
    @classmethod
    def now(cls, tz: dt.tzinfo | None = None) -> "_StandingStill":
        return cls.fromtimestamp(NOW_S, tz)


def accepted_by_pyjwt(token: str) -> bool:
    """What PyJWT says at the same moment, asked for the same claims."""
    with patch("jwt.api_jwt.datetime", _StandingStill):
        try:
            jwt.decode(
                token,
                PLAIN.secret,
                algorithms=["HS256"],
                leeway=LEEWAY_S,
                options={"require": ["sub", "jti", "iat"], "verify_aud": False},
            )
        except jwt.InvalidTokenError:
            return False
    return True


near = st.integers(NOW_S - 2 * LEEWAY_S, NOW_S + 2 * LEEWAY_S)
times = near | near.map(float) | st.floats(NOW_S - 20, NOW_S + 20) | near.map(str) | scalars | st.just(0)
# PyJWT cuts an `exp` to whole seconds and so takes a token for expired up to a second early; RFC 7519 allows fractions.
ends = times.filter(lambda value: not isinstance(value, float) or value.is_integer())
names = st.text(min_size=1, max_size=5) | scalars
likely_claims = st.fixed_dictionaries(
    {"sub": st.just("user-1") | names, "jti": st.just("j") | names, "iat": st.just(NOW_S) | times},
    optional={
        "exp": ends,
        "nbf": times,
        "aud": names | st.lists(names),
        "iss": names,
        "scope": names,
        "workspace": names,
    },
)
likely_headers = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "HS256", "HS256", "HS512", "none"])},
    optional={
        "typ": st.sampled_from(["JWT", "jwt", "at+jwt", 1]),
        "kid": st.sampled_from(["k1", 7, ""]),
        "crit": st.just(["exp"]),
    },
)


@settings(deadline=None)
@given(likely_headers, likely_claims)
def test_never_laxer_than_pyjwt(header: dict[str, object], claims: dict[str, object]) -> None:
    """Whatever we accept of what our key signed, PyJWT accepts too, at the same moment and with the same leeway."""
    token = forge(as_json(header), as_json(claims))

    if isinstance(verifier(PLAIN).verify(token), Claims):
        assert accepted_by_pyjwt(token)


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(claiming(exp=str(NOW_S + 60)), id="exp as a text"),
        pytest.param(claiming(iat="0"), id="iat as a text"),
        pytest.param(claiming(nbf=True), id="nbf as a boolean"),
        pytest.param(claiming(exp=10**12), id="exp after 9999"),
        pytest.param(claiming(iat=-1), id="iat before 1970"),
        pytest.param(claiming(iat=NOW_S + 5, exp=NOW_S), id="iat after exp"),
        pytest.param(claiming(iat=NOW_S + LEEWAY_S + 0.5), id="iat ahead by a fraction"),
        pytest.param(claiming(sub=""), id="sub empty"),
        pytest.param(claiming(sub="a\r\nb"), id="sub of two lines"),
        pytest.param(claiming(jti="x" * 257), id="jti too long"),
        pytest.param(claiming(workspace=7), id="workspace a number"),
        pytest.param(forge(payload=as_json(CLAIMS)[:-1] + ',"sub":"admin"}'), id="a claim twice"),
        pytest.param(forge('{"alg":"none","alg":"HS256"}'), id="alg twice"),
        pytest.param(forge(payload=as_json(CLAIMS)[:-1] + ',"x":NaN}'), id="NaN"),
        pytest.param(forge(HEADER | {"typ": "at+jwt"}), id="another type"),
        pytest.param(forge(HEADER | {"b64": True}), id="b64"),
        pytest.param(forge(HEADER | {"zip": "DEF"}), id="zip"),
        pytest.param(forge(payload=CLAIMS | {"x": [[[[[[[[[0]]]]]]]]]}), id="nested deeply"),
        pytest.param(f"{GOOD}=", id="padding"),
    ],
)
def test_what_some_pyjwt_accepts(token: str) -> None:
    """Our own parsing earns its keep: releases of PyJWT from 2.15.0 on accept each of these, and we do not."""
    assert isinstance(verifier(PLAIN).verify(token), Refusal)


@settings(deadline=None)
@given(st.floats(-100, 100), st.integers(-100, 100))
def test_a_remembered_token_still_expires(first_s: float, later_s: float) -> None:
    """Remembered or not, a token is judged by the time at which it is used."""
    clock = FakeClock()
    judge = verifier(clock=clock)
    token = claiming(exp=NOW_S + 50, nbf=NOW_S - 50)
    for at_s in (first_s, first_s, later_s, first_s):
        clock.now = NOW_S + at_s
        answer = judge.verify(token)
        early, late = at_s < -50 - LEEWAY_S, at_s >= 50 + LEEWAY_S
        # iat, too, is 60 s before NOW_S, and so never the first to refuse
        expected = Reason.EXPIRED if late else Reason.NOT_YET_VALID if early else None
        assert (answer.reason if isinstance(answer, Refusal) else None) == expected


def test_the_moment_of_expiry() -> None:
    """A remembered token holds until exp + leeway, that moment not included, and is forgotten then."""
    clock = FakeClock()
    judge = verifier(clock=clock)
    token = claiming(exp=NOW_S + 60)
    answers = []
    for now_s in (NOW_S, NOW_S + 69.999, NOW_S + 70, NOW_S):
        clock.now = now_s
        answers.append(isinstance(judge.verify(token), Claims))

    assert answers == [True, True, False, True]
    assert (judge.counts.hits, judge.counts.misses) == (2, 2)


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=60), st.integers(1, 5))
def test_the_memory_is_a_bounded_lru(uses: list[int], size: int) -> None:
    """Hits are exactly those that an LRU of this size has, and no more is kept than it holds."""
    judge = verifier(cache_size=size)
    tokens = [claiming(jti=f"j{number}") for number in range(10)]
    model: list[int] = []
    hits = 0
    for use in uses:
        assert isinstance(judge.verify(tokens[use]), Claims)
        hits += use in model
        model = [*(kept for kept in model if kept != use), use][-size:]
        assert len(judge._verified) == len(model)

    assert (judge.counts.hits, judge.counts.misses) == (hits, len(uses) - hits)


@settings(deadline=None)
@given(st.lists(st.sampled_from([forge(secret=b"x"), claiming(exp=1), claiming(sub=7), "a.b.c"]), max_size=20))
def test_refusals_neither_are_remembered_nor_push_out(refused: list[str]) -> None:
    """Forgeries cannot fill the memory: a good token stays in it, however many come."""
    judge = verifier(cache_size=1)
    judge.verify(GOOD)
    for token in refused:
        assert isinstance(judge.verify(token), Refusal)
    judge.verify(GOOD)

    assert (len(judge._verified), GOOD in judge._verified) == (1, True)
    assert (judge.counts.hits, judge.counts.misses) == (1, 1 + len(refused))
