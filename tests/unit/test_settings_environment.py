"""`AUTHZ_` variables over the file."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.settings import SettingsError, load_settings
from authz.settings.faults import SettingsFault


ENVIRON = {"AUTHZ_JWT_SECRET": "s" * 32, "OTHER": "t" * 64}


def loaded(tmp_path: Path, text: str, environ: dict[str, str]) -> dict[str, Any]:
    file = tmp_path / "authz.yaml"
    file.write_text(text)
    return load_settings(file, {**ENVIRON, **environ}).settings.model_dump(mode="json")


def at(shown: Any, path: str) -> object:
    for part in path.split("."):
        shown = shown[int(part)] if isinstance(shown, list) else shown[part]
    return shown


@pytest.mark.parametrize(
    ("text", "variable", "value", "path", "expected"),
    [
        pytest.param("", "SERVER", "grpcio", "server", "grpcio", id="at the top"),
        pytest.param("", "STORE__URL", "redis://h:6379/0", "store.url", "redis://h:6379/0", id="a text"),
        pytest.param("store: {url: 'unix:///x'}", "STORE__URL", "redis://h", "store.url", "redis://h",
                     id="over the file"),
        pytest.param("store: {url: 'redis://h'}", "STORE__TIMEOUT", "1s", "store.url", "redis://h",
                     id="beside the file"),
        pytest.param("", "STORE__TIMEOUT", "5ms", "store.timeout", "5ms", id="a duration"),
        pytest.param("", "STORE__ON_ERROR", "allow", "store.on_error", "allow", id="a name with an underscore"),
        pytest.param("", "CREDENTIALS__FORWARD", "true", "credentials.forward", True, id="a boolean"),
        pytest.param("", "SETTLEMENT__ESTIMATE", "7", "settlement.estimate", 7, id="a number"),
        pytest.param("keys: {audience: x}", "KEYS__AUDIENCE", "null", "keys.audience", None, id="null"),
        pytest.param("", "KEYS__AUDIENCE", '"7"', "keys.audience", "7", id="a quoted number is a text"),
        pytest.param("", "LISTEN__GRPC", "null", "listen.grpc", None, id="a listener off"),
        pytest.param("", "LISTEN__AUTHZ", "127.0.0.1:1", "listen.authz.address", "127.0.0.1:1", id="a listener"),
        pytest.param("listen: {authz: '0.0.0.0:1'}", "LISTEN__AUTHZ__INSECURE", "true",
                     "listen.authz", {"address": "0.0.0.0:1", "insecure": True}, id="a part of the short form"),
        pytest.param("", "LISTEN__AUTHZ__ADDRESS", "127.0.0.1:2",
                     "listen.authz", {"address": "127.0.0.1:2", "insecure": False}, id="a part of the default"),
        pytest.param("listen: {grpc: null}", "LISTEN__GRPC__ADDRESS", "127.0.0.1:2",
                     "listen.grpc.address", "127.0.0.1:2", id="a part of one that was off"),
        pytest.param("", "LIMITS__DEFAULT__REQUESTS", "5/1s", "limits.default.requests", "5/1s", id="a map key"),
        pytest.param("", "LIMITS__DEFAULT__REQUESTS", "5/1s", "limits.default.tokens", "100000/1m",
                     id="and its sibling"),
        pytest.param("limits: {Big-One: {requests: 1/1s}, default: {requests: 1/1s}}", "LIMITS__BIG_ONE__REQUESTS",
                     "9/1s",
                     "limits.Big-One.requests", "9/1s", id="a map key with hyphen and capitals"),
        pytest.param("", "LIMITS__TEAM__REQUESTS", "9/1s", "limits.team.requests", "9/1s", id="a new map key"),
        pytest.param("", "SCOPES__READ_WRITE", "[a, b]", "scopes.read-write", ["a", "b"], id="a list"),
        pytest.param("", "ROUTES__0__PATH", "/livez", "routes.0.path", "/livez", id="a list's index"),
        pytest.param("", "ROUTES__0__PATH", "/livez", "routes.2.path", "/v1/**", id="and its siblings"),
        pytest.param("keys: {prefix: sk-x-}", "KEYS__KEYRING__0__SECRET__ENV", "OTHER",
                     "keys.keyring.0.secret.env", "OTHER", id="deep, beside the file"),
        pytest.param("", "CREDENTIALS__SOURCES__1__HEADER", "x-key", "credentials.sources.1.header", "x-key",
                     id="in a list"),
    ],
)  # fmt: skip
def test_overrides(tmp_path: Path, text: str, variable: str, value: str, path: str, expected: object) -> None:
    """Any scalar is overridden by its path in upper case, and what stands beside it stays."""
    if variable == "SCOPES__READ_WRITE":
        text = "routes: []"
    assert at(loaded(tmp_path, text, {f"AUTHZ_{variable}": value}), path) == expected


@pytest.mark.parametrize(
    "variable",
    [
        "AUTHZ_PORT",
        "AUTHZ_PORT_9001_TCP",
        "AUTHZ_PORT_9001_TCP_ADDR",
        "AUTHZ_PORT_9001_TCP_PORT",
        "AUTHZ_PORT_9001_TCP_PROTO",
        "AUTHZ_SERVICE_HOST",
        "AUTHZ_SERVICE_PORT",
        "AUTHZ_SERVICE_PORT_GRPC",
        "AUTHZ_SERVICE_PORT_HTTP__X",
        "AUTHZ_STORE_SERVICE_HOST",
        "AUTHZ_STORE_PORT_6379_TCP",
        "AUTHZ_CONFIG",
        "AUTHZ_ADMIN_KEY",
        "AUTHZ_",
        "AUTHZ",
        "authz_store__url",
        "XAUTHZ_STORE__URL",
        "STORE__URL",
    ],
)
def test_not_ours(tmp_path: Path, variable: str) -> None:
    """What Kubernetes injects, secrets and other programs' variables change nothing."""
    assert loaded(tmp_path, "", {variable: "tcp://10.0.0.1:9001"}) == loaded(tmp_path, "", {})


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        pytest.param("STOREE__URL", "x", "storee: unknown field (did you mean 'store'?)", id="unknown at the top"),
        pytest.param("ZEBRA__X", "x", "zebra: unknown field", id="nothing is near"),
        pytest.param("STORE__URLL", "x", "store.urll: unknown field (did you mean 'url'?)", id="unknown within"),
        pytest.param("ROUTES__9__PATH", "/x", "routes.9.path: there is no such field", id="no such index"),
        pytest.param("ROUTES__X__PATH", "/x", "routes.x.path: there is no such field", id="no index"),
        pytest.param("STORE__URL__X", "x", "store.url.x: there is no such field", id="below a scalar"),
        pytest.param("STORE__ON_ERROR", "local", "store.on_error: 'local' is not supported by this version yet",
                     id="not yet supported"),
        pytest.param("SETTLEMENT__ESTIMATE", "abc", "settlement.estimate: must be a valid integer",
                     id="a text for a number"),
        pytest.param("SETTLEMENT__ESTIMATE", "1.5", "settlement.estimate: must be a valid integer", id="a fraction"),
        pytest.param("CREDENTIALS__FORWARD", "1", "credentials.forward: must be true or false",
                     id="a number for a boolean"),
        pytest.param("KEYS__AUDIENCE", "7", "keys.audience: must be a valid string", id="a number for a text"),
        pytest.param("LIMITS__DEFAULT__REQUESTS", "60",
                     "limits.default.requests: must be capacity/period, such as '60/1m'", id="no limit"),
        pytest.param("LISTEN__AUTHZ", "0.0.0.0:9001",
                     "listen.authz: listens beyond this host in plain text: say 'insecure: true' if that is meant",
                                  id="open"),
        pytest.param("KEYS__KEYRING__0__SECRET", "correct-horse-battery-staple",
                     "keys.keyring[0].secret: a secret does not stand in the file: say {env: NAME} or {file: PATH}",
                                  id="literal"),
    ],
)  # fmt: skip
def test_faults_name_the_variable(tmp_path: Path, variable: str, value: str, expected: str) -> None:
    """A fault that came from the environment names the variable in the file's place."""
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, "", {f"AUTHZ_{variable}": value})
    assert [str(fault) for fault in caught.value.faults] == [f"$AUTHZ_{variable}: {expected}"]


def test_faults_of_file_and_environment_together(tmp_path: Path) -> None:
    """Each fault names where its value came from."""
    with pytest.raises(SettingsError) as caught:
        loaded(tmp_path, "store: {urll: x}", {"AUTHZ_STORE__TIMEOUT": "0s", "AUTHZ_NO__SUCH": "1"})
    assert {(fault.source, fault.field) for fault in caught.value.faults} == {
        (str(tmp_path / "authz.yaml"), "store.urll"),
        ("$AUTHZ_STORE__TIMEOUT", "store.timeout"),
        ("$AUTHZ_NO__SUCH", "no"),
    }


@pytest.mark.parametrize("value", ["*alias", "{a: b}", "a: b: c", "1.5", "2026-01-01", "%x", "@x", "[a"])
def test_values_that_are_no_yaml_scalar_are_texts(tmp_path: Path, value: str) -> None:
    """What is neither null, boolean, whole number, text nor list is taken as it stands."""
    assert loaded(tmp_path, "", {"AUTHZ_KEYS__AUDIENCE": value})["keys"]["audience"] == value


NAMES = st.lists(
    st.sampled_from(["LISTEN", "AUTHZ", "STORE", "URL", "KEYS", "KEYRING", "0", "9", "SECRET", "ROUTES", "X", ""]),
    min_size=2,
    max_size=4,
).map("__".join)


@given(
    st.dictionaries(NAMES, st.sampled_from(["", "x", "7", "true", "null", "[]", "[a, [b]]", "127.0.0.1:1"]), max_size=3)
)
def test_any_environment_loads_or_is_refused(environ: dict[str, str]) -> None:
    """Whatever the environment says, it configures or is a SettingsError."""
    variables = {f"AUTHZ_{name}": value for name, value in environ.items()}
    faults: tuple[SettingsFault, ...] | None = None
    try:
        load_settings(None, {**ENVIRON, **variables})
    except SettingsError as error:
        faults = error.faults
    assert faults != ()
