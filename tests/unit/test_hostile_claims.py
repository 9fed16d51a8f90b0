"""Tokens that our own key signed, and whose contents must be refused all the same; and their counterparts that hold."""

import json

import pytest

from authz.core.claims import YEAR_9999_S, Claims, ClaimsPolicy
from authz.core.decision import Reason, Refusal
from tests.support.tokens import CLAIMS, HEADER, NOW_S, Json, claiming, forge, verifier


BAD = Reason.BAD_CLAIMS
EXPIRED = Reason.EXPIRED
EARLY = Reason.NOT_YET_VALID

LEEWAY_S = 10
LONG = 256
NOT_A_NAME: tuple[object, ...] = (
    "",
    7,
    True,
    ["x"],
    {"x": 1},
    "a\x00b",
    "a\r\nx-admin: 1",
    "a\tb",
    "a\x7f",
    "a\u2028b",
    "a\u200bb",
    "\ud800",
)
NO_SCOPES: tuple[object, ...] = (
    *(1, True, {}, [1], [["read"]], [None], [""], ["a b"]),
    *("a,b", 'a"b', "a\x00", "é", "x" * 65),
)
NO_AUDIENCES: tuple[object, ...] = (1, True, {}, [1], [None], [["x"]])
NO_TEXTS: tuple[object, ...] = (None, 1, True, [], {})


def saying(claim: str, value: object) -> str:
    """A good token but for *claim*, which is as given, null included."""
    return forge(payload=CLAIMS | {claim: value})


def spelling(claim: str, text: str) -> str:
    """The same with *text* as it stands, JSON or not."""
    others = json.dumps({name: value for name, value in CLAIMS.items() if name != claim})
    return forge(payload=f'{others[:-1]},"{claim}":{text}}}')


def without(claim: str) -> str:
    return claiming(**{claim: None})


@pytest.mark.parametrize(
    ("token", "reason"),
    [
        *(
            pytest.param(forge(payload=payload), BAD, id=f"payload: {what}")
            for what, payload in (
                ("array", '["sub","jti","iat"]'),
                ("array of pairs", json.dumps(list(CLAIMS.items()))),
                ("text", '"sub"'),
                ("number", "1"),
                ("null", "null"),
                ("nothing", ""),
                ("white space", " "),
                ("not JSON", "sub=user-1"),
                ("two objects", json.dumps(CLAIMS) * 2),
                ("cut short", json.dumps(CLAIMS)[:-1]),
                ("BOM", b"\xef\xbb\xbf" + json.dumps(CLAIMS).encode()),
                ("UTF-16", json.dumps(CLAIMS).encode("utf-16")),
                ("not UTF-8", json.dumps(CLAIMS).replace("user", "\x00").encode().replace(b"\\u0000", b"\xff")),
                ("nested 3000 deep", json.dumps(CLAIMS)[:-1] + ',"x":' + "[" * 3000),
                ("nested 1500 deep, closed", json.dumps(CLAIMS)[:-1] + ',"x":' + "[" * 1500 + "]" * 1500 + "}"),
                ("nested after brackets", json.dumps(CLAIMS)[:-1] + ',"x":"' + "]" * 2500 + '","y":' + "[" * 2500),
                ("nested JWT", forge()),
                ("nested JWT as a text", json.dumps(forge())),
            )
        ),
        pytest.param(forge(HEADER | {"cty": "JWT"}, forge()), BAD, id="nested JWT, announced"),
        *(
            pytest.param(forge(payload=json.dumps(CLAIMS)[:-1] + f',"{again}":{value}}}'), BAD, id=f"{again} twice")
            for again, value in (("sub", '"admin"'), ("jti", '"j"'), ("iat", "1"), ("s\\u0075b", '"user-1"'))
        ),
        pytest.param(forge(payload=json.dumps(CLAIMS)[:-1] + ',"x":1,"x":1}'), BAD, id="unknown claim twice"),
        *(
            pytest.param(spelling("x", text), BAD, id=f"unknown claim {text[:10]}")
            for text in ("NaN", "Infinity", "-Infinity", "9" * 5000, "0x10", "01", "1.")
        ),
        *(
            pytest.param(spelling(claim, text), BAD, id=f"{claim} {text[:20]}")
            for claim in ("exp", "nbf", "iat")
            for text in (
                *("null", "true", "false", '"1700003600"', '""', "[]", "[1700003600]", "{}"),
                *("-1", "-0.5", "-1e999", "1e999", "1e309", "NaN", "Infinity", "-Infinity"),
                *(str(YEAR_9999_S + 1), "1" + "0" * 4000, "1" + "0" * 5000, "-1" + "0" * 5000),
            )
        ),
        pytest.param(without("iat"), BAD, id="iat missing"),
        pytest.param(claiming(iat=NOW_S, exp=NOW_S - 1), BAD, id="iat after exp"),
        pytest.param(claiming(iat=NOW_S + 5, exp=NOW_S + 4), BAD, id="iat after exp, both within the leeway"),
        pytest.param(claiming(exp=0), BAD, id="exp 0"),
        pytest.param(claiming(iat=NOW_S + LEEWAY_S + 1), EARLY, id="iat ahead beyond the leeway"),
        pytest.param(claiming(iat=NOW_S + LEEWAY_S + 0.001), EARLY, id="iat ahead a moment beyond the leeway"),
        pytest.param(claiming(iat=YEAR_9999_S), EARLY, id="iat at the end of time"),
        pytest.param(claiming(nbf=NOW_S + LEEWAY_S + 1), EARLY, id="nbf ahead beyond the leeway"),
        pytest.param(claiming(exp=NOW_S - LEEWAY_S), EXPIRED, id="exp past by just the leeway"),
        pytest.param(claiming(exp=NOW_S - 50), EXPIRED, id="exp past"),
        pytest.param(claiming(exp=NOW_S - 50, nbf=NOW_S + 50), EXPIRED, id="exp past, nbf ahead"),
        *(pytest.param(without(claim), BAD, id=f"{claim} missing") for claim in ("sub", "jti")),
        *(
            pytest.param(saying(claim, value), BAD, id=f"{claim} {value!r}")
            for claim in ("sub", "jti", "workspace")
            for value in (*NOT_A_NAME, None, " x", "x ")
        ),
        *(pytest.param(saying(claim, "x" * 257), BAD, id=f"{claim} of 257") for claim in ("sub", "jti", "workspace")),
        *(pytest.param(saying("scope", value), BAD, id=f"scope {str(value)[:30]!r}") for value in NO_SCOPES),
        pytest.param(saying("scope", " ".join(f"s{n}" for n in range(65))), BAD, id="65 scopes"),
        pytest.param(saying("scope", [f"s{n}" for n in range(65)]), BAD, id="65 scopes in a list"),
        *(pytest.param(saying("aud", value), BAD, id=f"aud {value!r}") for value in NO_AUDIENCES),
        *(pytest.param(saying("iss", value), BAD, id=f"iss {value!r}") for value in NO_TEXTS),
    ],
)
def test_wrong_contents_are_refused(token: str, reason: Reason) -> None:
    """A signature of ours proves nothing about the contents: each is told its reason, and nothing raises."""
    judge = verifier()

    answers = [judge.verify(token), judge.verify(token)]

    assert [answer.reason if isinstance(answer, Refusal) else answer for answer in answers] == [reason, reason]
    assert judge.counts.hits == 0


@pytest.mark.parametrize(
    "token",
    [
        pytest.param(claiming(iat=NOW_S + LEEWAY_S), id="iat ahead by the leeway"),
        pytest.param(claiming(iat=0), id="iat 1970"),
        pytest.param(claiming(iat=NOW_S - 0.5), id="iat with a fraction"),
        pytest.param(claiming(iat=NOW_S, exp=NOW_S), id="iat and exp the same"),
        pytest.param(claiming(nbf=NOW_S + LEEWAY_S), id="nbf ahead by the leeway"),
        pytest.param(claiming(exp=NOW_S - LEEWAY_S + 0.001), id="exp past by a moment less than the leeway"),
        pytest.param(claiming(exp=YEAR_9999_S), id="exp at the end of 9999"),
        pytest.param(spelling("exp", "1.7000036e9"), id="exp as a JSON number with an exponent"),
        *(pytest.param(saying(claim, "x" * LONG), id=f"{claim} of 256") for claim in ("sub", "jti", "workspace")),
        pytest.param(saying("sub", "Zoë 王"), id="sub beyond ASCII"),
        pytest.param(saying("scope", ""), id="scope empty"),
        pytest.param(saying("scope", ["read-only", "admin"]), id="scope as a list"),
        pytest.param(saying("aud", ["a", "b"]), id="aud that nobody asks for"),
        pytest.param(spelling("x", "1e999"), id="unknown claim beyond a double"),
        pytest.param(spelling("x", '{"a":[[[[["["]]]]]}'), id="unknown claim, nested within bounds"),
    ],
)
def test_contents_just_within_bounds_hold(token: str) -> None:
    """The bounds of the table above are where it says they are."""
    assert isinstance(verifier().verify(token), Claims)


@pytest.mark.parametrize(
    ("audience", "accepted"),
    [
        pytest.param("api", True, id="ours"),
        pytest.param(["portal", "api"], True, id="ours among others"),
        pytest.param("API", False, id="other case"),
        pytest.param("portal", False, id="another"),
        pytest.param("api ", False, id="with a space"),
        pytest.param(["a", "p", "i"], False, id="its letters"),
        pytest.param([], False, id="none in a list"),
    ],
)
def test_audience_where_one_is_wanted(audience: object, *, accepted: bool) -> None:
    """With an audience configured, a token for something else is told so."""
    answer = verifier(policy=ClaimsPolicy(audience=("api",))).verify(saying("aud", audience))

    assert answer == Refusal(Reason.WRONG_AUDIENCE, "it was issued for something else") or accepted
    assert isinstance(answer, Claims) == accepted


def test_a_token_without_audience_is_refused_where_one_is_wanted() -> None:
    """A token that says nothing of its audience is not for us."""
    answer = verifier(policy=ClaimsPolicy(audience=("api",))).verify(forge())

    assert isinstance(answer, Refusal)
    assert answer.reason == Reason.WRONG_AUDIENCE


def test_hints_repeat_nothing_that_was_sent() -> None:
    """A hint is a sentence of ours: the secret that a claim holds is not in it."""
    planted = "PLANTED-secret"
    payload: Json = CLAIMS | {"sub": f"{planted}\n"}
    answers = [verifier().verify(signed) for signed in (forge(payload=payload), spelling("iat", f'"{planted}"'))]

    assert all(isinstance(answer, Refusal) and answer.hint and planted not in answer.hint for answer in answers)


def test_claims_are_read_as_they_stand() -> None:
    """Every claim that we know comes through, scopes in their order and once each."""
    payload: Json = CLAIMS | {"workspace": "acme", "scope": "b  a b", "exp": NOW_S + 60, "nbf": NOW_S}

    assert verifier().verify(forge(payload=payload)) == Claims(
        subject="user-1",
        jti="key_1a2b3c4d00abcdefghij",
        workspace="acme",
        scopes=("b", "a"),
        issued_at_s=NOW_S - 60,
        expires_at_s=NOW_S + 60,
        not_before_s=NOW_S,
    )
