"""Bugs that were, of core and settings: what was wrong stands above each."""

from pathlib import Path

import pytest

from authz.core.credential import Credential, Source, extract
from authz.core.decision import Reason, Refusal
from authz.core.headers import identity
from authz.core.policy import Policy, Route, compile_glob, is_ambiguous
from authz.core.principal import Principal
from authz.core.request import PlainRequest
from authz.core.scope import ScopeTable, find_cycle
from authz.settings import SettingsError, load_settings


ENVIRON = {"AUTHZ_JWT_SECRET": "s" * 32}
KEY = "sk-live-abc.def.ghi"


def faults_of(file: Path | None, text: str = "", environ: dict[str, str] | None = None) -> list[str]:
    if file is not None:
        file.write_text(text)
    try:
        load_settings(file, {**ENVIRON, **(environ or {})})
    except SettingsError as error:
        return [str(fault).removeprefix(f"{file}: ") for fault in error.faults]
    return []


# faults._told: `value in set` with a value that cannot be hashed
@pytest.mark.parametrize(
    "text",
    ["server: []", "server: {}", "store: {on_error: [x]}", "keys: {kind: {}}", "responses: {format: [openai]}"],
)
def test_a_list_where_a_word_belongs_is_told(tmp_path: Path, text: str) -> None:
    """A list or mapping where one of a few words belongs is a fault, not a TypeError."""
    [fault] = faults_of(tmp_path / "a.yaml", text)
    assert "must be one of" in fault


# load._read: PyYAML's constructors raise more than YAMLError
@pytest.mark.parametrize(
    "value",
    [
        pytest.param("2001-99-99", id="ValueError: no such day"),
        pytest.param("0x_", id="ValueError: no digits"),
        pytest.param("9" * 5000, id="ValueError: too many digits"),
        pytest.param("!!int ''", id="IndexError"),
        pytest.param("!!bool x", id="KeyError"),
        pytest.param("!!timestamp x", id="AttributeError"),
        pytest.param('"\\UFFFFFFFF"', id="OverflowError"),
    ],
)
def test_scalars_that_yaml_cannot_construct_are_told(tmp_path: Path, value: str) -> None:
    """A scalar that looks like a date or a number and is none is a fault of the file, not a traceback."""
    assert faults_of(tmp_path / "a.yaml", f"store: {{url: {value}}}")


# environment._value: the same, out of a variable
@pytest.mark.parametrize("value", ["2001-99-99", "0x_", "!!bool x", "[" * 3000])
def test_values_that_yaml_cannot_construct_are_texts(value: str) -> None:
    """A variable whose value YAML chokes on is a text as it stands."""
    settings = load_settings(None, {**ENVIRON, "AUTHZ_KEYS__AUDIENCE": value}).settings
    assert settings.keys.audience == value


# environment._value: a comment or an anchor eats the value, though all but scalars should stand as it is
@pytest.mark.parametrize("value", ["#abc", "&anchor", "portal #2"])
def test_texts_lose_nothing(value: str) -> None:
    """What is no boolean, number, null or list is taken as it stands."""
    settings = load_settings(None, {**ENVIRON, "AUTHZ_KEYS__AUDIENCE": value}).settings
    assert settings.keys.audience == value


# crosscheck.address_fault: isdigit() is true of digits that int() refuses, and of 5000 of them
@pytest.mark.parametrize("port", ["²", "9" * 5000])
def test_odd_ports_are_told(tmp_path: Path, port: str) -> None:
    """A port that is no number is a fault, not a ValueError."""
    text = f"listen: {{authz: '127.0.0.1:{port}'}}"
    assert faults_of(tmp_path / "a.yaml", text) == ["listen.authz: must be HOST:PORT or unix:PATH"]


# environment._place: the same
def test_odd_indexes_are_told() -> None:
    """An index that is no number is a fault, not a ValueError."""
    assert faults_of(None, environ={"AUTHZ_ROUTES__²__PATH": "/x"})


# scope.find_cycle and ScopeTable recurse
def test_long_chains_of_scopes() -> None:
    """A chain of inclusion may be long."""
    chain = {f"s{i}": (f"s{i + 1}",) for i in range(1500)}
    assert find_cycle(chain) == ()
    assert ScopeTable(chain).covers(("s0",), ("s1500",))


# load_settings: {**defaults, **raw} fills in the top level alone
@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("listen: {grpc: '127.0.0.1:9001'}", "listen.grpc: the same address as listen.authz", id="grpc"),
        pytest.param("listen: {authz: '127.0.0.1:9003'}", "listen.http: the same address as listen.authz", id="http"),
    ],
)
def test_listeners_clash_with_defaults_too(tmp_path: Path, text: str, expected: str) -> None:
    """The address of a listener that the file does not name is its default, and can be taken."""
    assert faults_of(tmp_path / "a.yaml", text) == [expected]


# load_settings.add: finds only variables that set the faulty path or one above it, not one below
@pytest.mark.parametrize(
    ("variable", "value"),
    [
        pytest.param("AUTHZ_LISTEN__AUTHZ__ADDRESS", "0.0.0.0:9001", id="a listener's address"),
        pytest.param("AUTHZ_KEYS__KEYRING__0__SECRET__ENV", "NOPE", id="a secret's name"),
    ],
)
def test_faults_name_the_variable_below(variable: str, value: str) -> None:
    """A fault of a whole that a variable set a part of names the variable."""
    [fault] = faults_of(None, environ={variable: value})
    assert fault.startswith(f"${variable}: ")


# crosscheck: pepper is not looked at
@pytest.mark.parametrize(
    ("pepper", "expected"),
    [
        pytest.param("{env: A, file: B}", "keys.pepper: must say either env or file", id="both"),
        pytest.param("[{}]", "keys.pepper[0]: must say either env or file", id="neither"),
        pytest.param(
            "hunter2",
            "keys.pepper: a secret does not stand in the file: say {env: NAME} or {file: PATH}",
            id="literal",
        ),
    ],
)
def test_pepper_is_judged_as_the_keyring_is(tmp_path: Path, pepper: str, expected: str) -> None:
    """The pepper is a secret like those of the keyring, and its faults are told in the same words."""
    assert faults_of(tmp_path / "a.yaml", f"keys: {{pepper: {pepper}}}") == [expected]


# model.KeyringEntry: a Literal, and _LATER_VALUES does not know the path
@pytest.mark.parametrize("algorithm", ["RS256", "PS384", "ES512", "EdDSA"])
def test_documented_algorithms_are_told_as_later(tmp_path: Path, algorithm: str) -> None:
    """An algorithm that the documentation knows and this version does not is told so."""
    assert faults_of(tmp_path / "a.yaml", f"keys: {{keyring: [{{algorithm: {algorithm}}}]}}") == [
        f"keys.keyring[0].algorithm: '{algorithm}' is not supported by this version yet"
    ]


# model.Keys.leeway has no upper bound; in two centuries `dead_us` leaves what Lua's doubles hold
def test_leeway_is_bounded(tmp_path: Path) -> None:
    """A leeway of thousands of years switches expiry off, and cannot be meant."""
    assert faults_of(tmp_path / "a.yaml", "keys: {leeway: 999999999d}")


# extract: one header in two sources is counted as two headers
@pytest.mark.parametrize("scheme", ["Bearer", "Token"])
def test_two_schemes_of_one_header(scheme: str) -> None:
    """A header that may have either of two schemes holds one credential (or the settings refuse two such sources)."""
    sources = (Source("authorization", "bearer"), Source("authorization", "token"))
    request = PlainRequest("GET", "/", headers={"authorization": f"{scheme} {KEY}"})
    assert extract(request, sources, frozenset()) == Credential(KEY, "authorization", bearer=True)


# credential._without_scheme: does not look behind white space
@pytest.mark.parametrize("white", [" ", "\t", "  "])
def test_white_space_before_the_scheme_is_told_as_such(white: str) -> None:
    """The scheme is there, so what is told is the white space before it."""
    request = PlainRequest("GET", "/", headers={"authorization": f"{white}Bearer {KEY}"})
    found = extract(request, (Source("authorization", "bearer"),), frozenset())
    assert isinstance(found, Refusal)
    assert "white space" in found.hint


# credential.extract: says 'two different' of one good and one empty or malformed header
def test_one_credential_and_an_empty_header() -> None:
    """An empty X-API-Key beside a key is empty, not another key."""
    request = PlainRequest("GET", "/", headers={"authorization": f"Bearer {KEY}", "x-api-key": ""})
    found = extract(request, (Source("authorization", "bearer"), Source("x-api-key")), frozenset())
    assert found == Refusal(Reason.MALFORMED_CREDENTIAL, "the key is empty")


# compile_glob: `/**` wants a slash of its own, so ** is never none
@pytest.mark.parametrize(("pattern", "path"), [("/v1/**/keys", "/v1/keys"), ("/**/keys", "/keys")])
def test_two_stars_may_be_no_segment(pattern: str, path: str) -> None:
    """`**` is any number of segments, none among them; else a stricter rule is passed by the shortest path."""
    assert compile_glob(pattern).fullmatch(path) is not None


# is_ambiguous: an escape of a character that needs none names the same thing in another way
@pytest.mark.parametrize("path", ["/v1/%61dmin", "/v1/ke%79s", "/v1/%41", "/v1/a%2Db", "/v1/%7Eme"])
def test_needless_escapes_are_ambiguous(path: str) -> None:
    """RFC 3986 §6.2.2.2: a normalised path has none; another passes by the rule of `/v1/admin` and reaches it."""
    assert is_ambiguous(path)


# Route.matches compares escapes as texts
def test_escapes_match_what_they_stand_for() -> None:
    """A route for /menú is the same route in either case of its escapes (RFC 3986 §6.2.2.1)."""
    policy = Policy((Route("menu", "/men%C3%BA"),), ScopeTable({}), {})

    for path in ("/men%c3%ba", "/men%C3%BA", "/menú"):
        assert policy.match(PlainRequest("GET", path)) is not None


# headers.identity judges a value before it is cleaned
def test_identity_leaves_out_what_cleans_to_nothing() -> None:
    """A name without a value is left out."""
    assert "x-authz-subject" not in dict(identity(Principal("key_1", "p", "\n", "", ())))


# rate_limit: nothing keeps a style from being configured twice
def test_styles_stand_once(tmp_path: Path) -> None:
    """A style that is configured twice is told, as scopes and limits are."""
    assert faults_of(tmp_path / "a.yaml", "responses: {ratelimit_headers: [ietf, ietf]}")
