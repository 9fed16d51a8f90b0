"""The configuration as a whole: its defaults, its file, its secrets."""

from pathlib import Path

import pytest
import yaml

from authz.core.problems import FORMATS
from authz.settings import SettingsError, load_settings
from authz.settings.load import find_file
from authz.settings.model import Settings


SECRET = "correct-horse-battery-staple-and-more"
ENVIRON = {"AUTHZ_JWT_SECRET": SECRET}
DEFAULTS = """
listen: {authz: 127.0.0.1:9001, grpc: 127.0.0.1:9002, http: 127.0.0.1:9003, forward_auth: null, metrics: 0.0.0.0:9090}
server: auto
store: {url: embedded, timeout: 50ms, revoke_replicas: 0, on_error: deny}
credentials:
  sources: [{header: authorization, scheme: Bearer}, {header: x-api-key}]
  refuse_in_query: [api_key, access_token]
  forward: false
keys:
  prefix: sk-live-
  kind: jwt
  require_record: true
  pepper: {env: AUTHZ_PEPPER}
  retain_token: false
  keyring: [{id: null, algorithm: HS256, secret: {env: AUTHZ_JWT_SECRET}}]
  issuers: []
  audience: null
  accept_sessions: false
  leeway: 10s
scopes: {admin: [read-write], read-write: [read-only]}
routes:
  - {name: health, path: /healthz, public: true}
  - {methods: [GET, HEAD], path: "/v1/**", scopes: [read-only], limits: [default]}
  - {path: "/v1/**", scopes: [read-write], limits: [default]}
limits: {default: {requests: 60/1m, tokens: 100000/1m}}
request_rules: {}
settlement: {estimate: 500}
responses: {format: openai, ratelimit_headers: [x-ratelimit]}
trusted_proxies: []
login: {audience: portal, lifetime: 1h, limits: {per_user: 5/1m, per_address: 20/1m}}
portals: []
"""


def written(tmp_path: Path, text: str | bytes) -> Path:
    file = tmp_path / "authz.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


def faults_of(file: Path | None, environ: dict[str, str] | None = None) -> list[str]:
    """What load_settings says, without the file's name."""
    with pytest.raises(SettingsError) as caught:
        load_settings(file, ENVIRON if environ is None else environ)
    return [str(fault).removeprefix(f"{file}: ") for fault in caught.value.faults]


def test_defaults_are_the_documented_ones(tmp_path: Path) -> None:
    """The documented defaults, spelt out in a file, configure the same as an empty file and as none."""
    bare = load_settings(None, ENVIRON).settings
    assert load_settings(written(tmp_path, DEFAULTS), ENVIRON).settings == bare
    assert load_settings(written(tmp_path, ""), ENVIRON).settings == bare
    assert load_settings(written(tmp_path, "# nothing\n"), ENVIRON).settings == bare


@pytest.mark.parametrize("name", FORMATS)
def test_every_response_format_can_be_chosen(tmp_path: Path, name: str) -> None:
    """In the file, and in the schema."""
    file = written(tmp_path, f"responses: {{format: {name}}}")
    assert load_settings(file, ENVIRON).settings.responses.format == name
    assert name in Settings.model_json_schema()["$defs"]["Responses"]["properties"]["format"]["enum"]


def test_documented_defaults_are_all_of_them() -> None:
    """Every field has its documented default, and there is no undocumented one at the top."""
    shown = load_settings(None, ENVIRON).settings.model_dump(mode="json")
    assert set(shown) == set(yaml.safe_load(DEFAULTS))
    assert (shown["store"]["timeout"], shown["keys"]["leeway"], shown["login"]["lifetime"]) == ("50ms", "10s", "1h")
    assert shown["limits"]["default"]["tokens"] == "100000/1m"


def test_what_is_shown_can_be_read_again(tmp_path: Path) -> None:
    """The configuration, dumped as JSON, is a file that configures the same."""
    settings = load_settings(None, ENVIRON).settings
    text = yaml.safe_dump(settings.model_dump(mode="json"))
    assert load_settings(written(tmp_path, text), ENVIRON).settings == settings


def test_source(tmp_path: Path) -> None:
    """It is known where a configuration came from."""
    file = written(tmp_path, "server: grpcio")
    assert (load_settings(None, ENVIRON).source, load_settings(file, ENVIRON).source) == ("defaults", str(file))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("- a\n- b\n", "must be a mapping of fields, such as 'store:'", id="a list"),
        pytest.param("just text", "must be a mapping of fields, such as 'store:'", id="a text"),
        pytest.param("false", "must be a mapping of fields, such as 'store:'", id="false"),
        pytest.param("1: 2", "must be a mapping of fields, such as 'store:'", id="a number for a name"),
        pytest.param("store:\n  url: [a", "line 2, column 10: expected ',' or ']', but got '<stream end>'", id="open"),
        pytest.param("store: a: b", "line 1, column 9: mapping values are not allowed here", id="two colons"),
        pytest.param("a: 1\n---\nb: 2", "line 2, column 1: but found another document", id="two documents"),
        pytest.param("store: {}\nserver: auto\nstore: {}", "line 3, column 1: 'store' stands twice", id="twice"),
        pytest.param("store:\n  url: a\n  url: b", "line 3, column 3: 'url' stands twice", id="twice, deeper"),
        pytest.param("a: &x [1]\nb: *x", "aliases are not supported", id="an alias"),
        pytest.param("a: &a [x]\nb: &b [*a, *a]", "aliases are not supported", id="aliases that unfold"),
        pytest.param("? [a]\n: 1", "is not YAML", id="a list for a name"),
        pytest.param(b"a: \xff\xfe", "is not YAML", id="not UTF-8"),
        pytest.param("a: \x00", "is not YAML", id="NUL"),
        pytest.param("[" * 5000, "is not YAML", id="very deep"),
        pytest.param("#" * (1024 * 1024 + 1), "larger than 1048576 bytes", id="very long"),
        pytest.param(
            "!!python/object/apply:os.system [ls]",
            "line 1, column 1: could not determine a constructor for the tag "
            "'tag:yaml.org,2002:python/object/apply:os.system'",
            id="a Python object",
        ),
    ],
)
def test_files_refused(tmp_path: Path, text: str | bytes, expected: str) -> None:
    """A file that is no single mapping is refused in a sentence that says where."""
    assert faults_of(written(tmp_path, text)) == [expected]


def test_file_that_is_not_there(tmp_path: Path) -> None:
    """A missing file and one that is a directory are told as such."""
    assert faults_of(tmp_path / "none.yaml") == ["No such file or directory"]
    assert faults_of(tmp_path) == ["Is a directory"]


def test_a_file_that_the_environment_names(tmp_path: Path) -> None:
    """Who forgot that it does is told; who said it otherwise knows."""
    absent = str(tmp_path / "gone.yaml")
    file = find_file(None, {"AUTHZ_CONFIG": absent})
    assert faults_of(file, {"AUTHZ_CONFIG": absent}) == ["No such file or directory ($AUTHZ_CONFIG names it)"]
    assert faults_of(file, {"AUTHZ_CONFIG": "other.yaml"}) == ["No such file or directory"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        pytest.param(SECRET.encode(), SECRET.encode(), id="as it is"),
        pytest.param(SECRET.encode() + b"\n", SECRET.encode(), id="a line end"),
        pytest.param(SECRET.encode() + b"\r\n", SECRET.encode(), id="CR LF"),
        pytest.param(SECRET.encode() + b"\n\n", SECRET.encode() + b"\n", id="one line end alone"),
        pytest.param(b" " + SECRET.encode() + b" ", b" " + SECRET.encode() + b" ", id="spaces are part of it"),
        pytest.param(bytes(range(64)), bytes(range(64)), id="bytes that are no text"),
    ],
)
def test_secret_file(tmp_path: Path, content: bytes, expected: bytes) -> None:
    """A secret in a file is its bytes, but for the last line end."""
    (tmp_path / "secret").write_bytes(content)
    file = written(tmp_path, f"keys: {{keyring: [{{secret: {{file: {tmp_path}/secret}}}}]}}")
    assert load_settings(file, {}).keyring_secrets == (expected,)


def test_secret_in_environment() -> None:
    """The default keyring has one secret, out of the environment, taken as it stands."""
    assert load_settings(None, {"AUTHZ_JWT_SECRET": f" {SECRET}\n"}).keyring_secrets == (f" {SECRET}\n".encode(),)


KEYRING = "keys: {{keyring: [{}]}}"
FIELD = "keys.keyring[0].secret: "
LITERAL = FIELD + "a secret does not stand in the file: say {env: NAME} or {file: PATH}"
EITHER = FIELD + "must say either env or file"
UNSET = (
    FIELD + "the environment variable AUTHZ_JWT_SECRET is not set: "
    "every sidecar and command on a store has the same ('openssl rand -base64 48' makes a first one)"
)


@pytest.mark.parametrize(
    ("entry", "environ", "expected"),
    [
        pytest.param("{}", {}, UNSET, id="not set"),
        pytest.param("{}", {"AUTHZ_JWT_SECRET": ""}, UNSET, id="empty"),
        pytest.param(
            "{}", {"AUTHZ_JWT_SECRET": "s" * 31}, FIELD + "HS256 needs at least 32 bytes (RFC 7518 §3.2), this has 31",
            id="HS256 too short",
        ),
        pytest.param(
            "{algorithm: HS384}", {"AUTHZ_JWT_SECRET": "s" * 47},
            FIELD + "HS384 needs at least 48 bytes (RFC 7518 §3.2), this has 47", id="HS384 too short",
        ),
        pytest.param(
            "{algorithm: HS512}", {"AUTHZ_JWT_SECRET": "s" * 63},
            FIELD + "HS512 needs at least 64 bytes (RFC 7518 §3.2), this has 63", id="HS512 too short",
        ),
        pytest.param(f"{{secret: {SECRET}}}", ENVIRON, LITERAL, id="literal"),
        pytest.param("{secret: {env: A, file: B}}", ENVIRON, EITHER, id="both"),
        pytest.param("{secret: {}}", ENVIRON, EITHER, id="neither"),
        pytest.param("{secret: {env: null, file: null}}", ENVIRON, EITHER, id="two nulls"),
        pytest.param("{secret: {file: /nonexistent/secret}}", {},
                     FIELD + "/nonexistent/secret: No such file or directory", id="no file"),
        pytest.param("{secret: {file: /dev/null}}", {}, FIELD + "/dev/null is empty", id="an empty file"),
    ],
)  # fmt: skip
def test_secrets_refused(tmp_path: Path, entry: str, environ: dict[str, str], expected: str) -> None:
    """A secret that is missing, empty, too short for its algorithm, or in the file itself stops start-up."""
    assert faults_of(written(tmp_path, KEYRING.format(entry)), environ) == [expected]


@pytest.mark.parametrize("line_end", [b"\n", b"\r\n", b""])
def test_secret_file_of_a_line_end_alone(tmp_path: Path, line_end: bytes) -> None:
    """A file with a line end alone is as empty as an empty one."""
    (tmp_path / "secret").write_bytes(line_end)
    file = written(tmp_path, f"keys: {{keyring: [{{secret: {{file: {tmp_path}/secret}}}}]}}")
    assert faults_of(file) == [f"{FIELD}{tmp_path}/secret is empty"]


def test_secrets_are_not_asked_for_in_vain() -> None:
    """Where secrets are not needed (`config validate` on another machine), none is read."""
    assert load_settings(None, {}, with_secrets=False).keyring_secrets == ()


def test_secrets_are_never_shown(tmp_path: Path) -> None:
    """Neither the configuration's repr nor a fault about a secret shows it."""
    assert SECRET not in repr(load_settings(None, ENVIRON))
    for entry in (f"{{secret: {SECRET}}}", f"{{secret: {{env: {SECRET}}}}}", f"{{secret: [{SECRET}]}}", SECRET):
        assert SECRET not in " ".join(faults_of(written(tmp_path, KEYRING.format(entry)))), entry
