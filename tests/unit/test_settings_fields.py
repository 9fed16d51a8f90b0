"""Faults of single fields: unknown names, wrong types, bounds, and what is documented but not there yet."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.settings import SettingsError, load_settings


ENVIRON = {"AUTHZ_JWT_SECRET": "s" * 32}
DURATION = "must be a duration above zero: a whole number and ms, s, m, h or d, such as '50ms' or '90d'"


def faults_of(tmp_path: Path, text: str) -> list[str]:
    file = tmp_path / "authz.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as caught:
        load_settings(file, ENVIRON)
    assert str(caught.value) == "\n".join(str(fault) for fault in caught.value.faults)
    return [str(fault).removeprefix(f"{file}: ") for fault in caught.value.faults]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("storee: {}", "storee: unknown field (did you mean 'store'?)", id="at the top"),
        pytest.param("Store: {}", "Store: unknown field (did you mean 'store'?)", id="case counts"),
        pytest.param("zebra: {}", "zebra: unknown field", id="nothing is near"),
        pytest.param("store: {urll: x}", "store.urll: unknown field (did you mean 'url'?)", id="within"),
        pytest.param("listen: {authz: {addr: '127.0.0.1:1', address: '127.0.0.1:1'}}",
                     "listen.authz.addr: unknown field (did you mean 'address'?)", id="in a listener"),
        pytest.param("routes: [{path: /x, scope: [admin]}]",
                     "routes[0].scope: unknown field (did you mean 'scopes'?)", id="in a list"),
        pytest.param("keys: {keyring: [{algorith_m: HS256}]}",
                     "keys.keyring[0].algorith_m: unknown field (did you mean 'algorithm'?)", id="in a list, deeper"),
        pytest.param("limits: {default: {request: 60/1m, requests: 60/1m}}",
                     "limits.default.request: unknown field (did you mean 'requests'?)", id="below a free name"),
        pytest.param("login: {limits: {per_usr: 5/1m}}",
                     "login.limits.per_usr: unknown field (did you mean 'per_user'?)",
                                  id="a closed map"),
    ],
)  # fmt: skip
def test_unknown_fields(tmp_path: Path, text: str, expected: str) -> None:
    """An unknown field is told with its path and the nearest name that exists there."""
    assert faults_of(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("store: {timeout: 50}", f"store.timeout: {DURATION}", id="a duration without unit"),
        pytest.param("store: {timeout: 0s}", f"store.timeout: {DURATION}", id="a duration of zero"),
        pytest.param("keys: {leeway: -1s}", f"keys.leeway: {DURATION}", id="a negative duration"),
        pytest.param("login: {lifetime: 1.5h}", f"login.lifetime: {DURATION}", id="a duration with a fraction"),
        pytest.param("credentials: {forward: 'yes'}", "credentials.forward: must be true or false",
                     id="a text for a boolean"),
        pytest.param("credentials: {forward: 1}", "credentials.forward: must be true or false",
                     id="a number for a boolean"),
        pytest.param("settlement: {estimate: '500'}", "settlement.estimate: must be a valid integer",
                     id="a text for a number"),
        pytest.param("settlement: {estimate: true}", "settlement.estimate: must be a valid integer",
                     id="a boolean for a number"),
        pytest.param("settlement: {estimate: 1.5}", "settlement.estimate: must be a valid integer", id="a fraction"),
        pytest.param("settlement: {estimate: .nan}", "settlement.estimate: must be a valid integer", id="NaN"),
        pytest.param("settlement: {estimate: -1}", "settlement.estimate: must be greater than or equal to 0",
                     id="negative"),
        pytest.param("settlement: {estimate: 1000000001}",
                     "settlement.estimate: must be less than or equal to 1000000000", id="too large"),
        pytest.param("keys: {audience: 7}", "keys.audience: must be a valid string", id="a number for a text"),
        pytest.param("responses: {format: opena}",
                     "responses.format: must be one of openai, vinfer, inferno, voiceinfra, problem "
                     "(did you mean 'openai'?)",
                     id="no such format"),
        pytest.param("store: {on_error: Allow}", "store.on_error: must be one of deny, allow (did you mean 'allow'?)",
                     id="no such mode"),
        pytest.param("responses: {ratelimit_headers: [itef]}",
                     "responses.ratelimit_headers[0]: must be one of x-ratelimit, openai, ietf (did you mean 'ietf'?)",
                                  id="no such style"),
        pytest.param("routes: [{scopes: []}]", "routes[0].path: is required", id="a path is required"),
        pytest.param("routes: [{path: v1}]", "routes[0].path: a path starts with /", id="a relative path"),
        pytest.param("routes: [{path: /a/../b}]", "routes[0].path: no request can have this path: it is ambiguous",
                     id="an ambiguous path"),
        pytest.param("routes: [{path: '/**/a/**'}]", "routes[0].path: ** stands for whole segments, once in a path",
                     id="** twice"),
        pytest.param("credentials: {sources: [{header: 'x api'}]}",
                     "credentials.sources[0].header: must be the name of a header", id="no header"),
        pytest.param("limits: {default: {requests: 0/1m}}",
                     "limits.default.requests: the capacity must be from 1 to 1000000000", id="limit zero"),
        pytest.param("limits: {default: {requests: -1/1m}}",
                     "limits.default.requests: must be capacity/period, such as '60/1m'", id="limit negative"),
        pytest.param("limits: {default: {requests: '1.5/1m'}}",
                     "limits.default.requests: must be capacity/period, such as '60/1m'", id="1.5/1m"),
        pytest.param("limits: {default: {tokens: .nan}}",
                     "limits.default.tokens: must be capacity/period, such as '60/1m'", id="limit NaN"),
        pytest.param("limits: {default: {tokens: 60}}",
                     "limits.default.tokens: must be capacity/period, such as '60/1m'", id="limit without period"),
        pytest.param("limits: {default: {tokens: 5/32d}}",
                     "limits.default.tokens: the period must be whole seconds, from 1s to 31d", id="32d"),
        pytest.param("request_rules: {chat: {content_types: []}}",
                     "request_rules.chat.content_types: must not be empty", id="no content type"),
        pytest.param("request_rules: {chat: {content_types: ['application/json; charset=utf-8']}}",
                     "request_rules.chat.content_types[0]: must be a media type without parameters, such as "
                     "application/json",
                     id="a content type with a parameter"),
        pytest.param("request_rules: {chat: {max_body: 10 megabytes}}",
                     "request_rules.chat.max_body: must be a size: whole bytes, or a whole number and B, kB, MB, GB, "
                     "KiB, MiB or GiB", id="no size"),
        pytest.param("request_rules: {chat: {max_body: 0}}",
                     "request_rules.chat.max_body: the size must be from 1 to 1000000000000 bytes", id="size zero"),
        pytest.param("request_rules: {chat: {max_prompt: '5'}}",
                     "request_rules.chat.max_prompt: must be a valid integer", id="a text for a number of characters"),
        pytest.param("request_rules: {chat: {max_prompt: 0}}",
                     "request_rules.chat.max_prompt: must be greater than or equal to 1", id="no character"),
        pytest.param("request_rules: {chat: {stream_scopes: admin}}",
                     "request_rules.chat.stream_scopes: must be a list", id="a text for scopes"),
        pytest.param("request_rules: {chat: {max_promt: 5, max_body: 5}}",
                     "request_rules.chat.max_promt: unknown field (did you mean 'max_prompt'?)",
                     id="no such rule's field"),
        pytest.param("store: {url: 'http://x'}",
                     "store.url: must be 'embedded' or redis://, rediss://, unix:// or redis+cluster:// and an address",
                     id="no store"),
    ],
)  # fmt: skip
def test_wrong_values(tmp_path: Path, text: str, expected: str) -> None:
    """A value of a wrong type or out of bounds is told with its path, and never bent into a right one."""
    assert faults_of(tmp_path, text) == [expected]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("store: {on_error: local}", "store.on_error: 'local' is", id="on_error: local"),
        pytest.param("store: {revoke_replicas: 1}", "store.revoke_replicas: it is", id="revoke_replicas"),
        pytest.param("keys: {issuers: [{issuer: 'https://x'}]}", "keys.issuers: it is", id="issuers"),
        pytest.param("listen: {authz: {address: '127.0.0.1:1', tls: {cert: a, key: b}}}", "listen.authz.tls: it is",
                     id="tls"),
        pytest.param("listen: {forward_auth: '127.0.0.1:1'}", "listen.forward_auth: '127.0.0.1:1' is",
                     id="forward_auth"),
    ],
)  # fmt: skip
def test_documented_but_not_yet_supported(tmp_path: Path, text: str, expected: str) -> None:
    """What the documentation knows and this version does not is refused by name, never taken and ignored."""
    assert faults_of(tmp_path, text) == [f"{expected} not supported by this version yet"]


def test_sentinel_is_not_yet_supported(tmp_path: Path) -> None:
    """redis+sentinel:// is refused with what can be used in its place."""
    assert faults_of(tmp_path, "store: {url: 'redis+sentinel://a:26379/main'}") == [
        "store.url: redis+sentinel:// is not supported yet; use redis://, rediss://, unix:// or redis+cluster://"
    ]


def test_all_faults_are_told_at_once(tmp_path: Path) -> None:
    """One run tells every fault, of fields and between them."""
    text = """
storee: {}
settlement: {estimate: x}
store: {timeout: 0s, urll: x}
routes: [{path: /v1, scopes: [read-onyl], limits: [defaultt]}, {path: v2}]
listen: {authz: "0.0.0.0:9001"}
"""
    assert sorted(faults_of(tmp_path, text)) == [
        "listen.authz: listens beyond this host in plain text: say 'insecure: true' if that is meant",
        "routes[0].limits[0]: unknown limit 'defaultt' (did you mean 'default'?)",
        "routes[0].scopes[0]: unknown scope 'read-onyl' (did you mean 'read-only'?)",
        "routes[1].path: a path starts with /",
        "settlement.estimate: must be a valid integer",
        f"store.timeout: {DURATION}",
        "store.urll: unknown field (did you mean 'url'?)",
        "storee: unknown field (did you mean 'store'?)",
    ]


TOP = st.sampled_from(["server", "listen", "store", "credentials", "keys", "scopes", "routes", "limits", "login", "x"])
INNER = st.sampled_from(
    ["authz", "url", "sources", "keyring", "secret", "path", "scopes", "requests", "address", "id", "x"]
)
WORDS = st.sampled_from(
    ["", "null", "true", "7", "1.5", "60/1m", "/v1/**", "127.0.0.1:1", "HS256", "admin", "'a'", "~"]
)
FLOW = st.recursive(
    WORDS,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]")
        | st.dictionaries(INNER, inner, max_size=3).map(lambda d: f"{{{', '.join(f'{k}: {v}' for k, v in d.items())}}}")
    ),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(TOP, FLOW, max_size=4).map(lambda d: "\n".join(f"{k}: {v}" for k, v in d.items()))


@given(st.text(max_size=60) | st.text("ab:-[]{}*&!,'\"\n 1", max_size=40) | DOCUMENTS)
def test_any_document_loads_or_is_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever the file holds, it configures or is a SettingsError that names the file in every fault."""
    file = tmp_path_factory.getbasetemp() / "any.yaml"
    file.write_text(text, encoding="utf-8", errors="surrogateescape" if text.isascii() else "replace")
    sources = {str(file)}
    try:
        load_settings(file, ENVIRON)
    except SettingsError as error:
        sources = {fault.source for fault in error.faults}
    assert sources == {str(file)}
