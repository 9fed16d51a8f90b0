"""Faults between fields: scopes, limits, listeners and the keyring."""

from pathlib import Path

import pytest

from authz.settings import SettingsError, build, load_settings


ENVIRON = {"AUTHZ_JWT_SECRET": "s" * 32, "OTHER": "t" * 32}
PROFILES = Path(__file__).parents[2] / "deploy" / "profiles"
PLAIN = "listens beyond this host in plain text: say 'insecure: true' if that is meant"
ADDRESS = "must be HOST:PORT or unix:PATH"
HOST = "the host must be an IP address or localhost"


def faults_of(tmp_path: Path, text: str) -> list[str]:
    """Empty: it is accepted."""
    file = tmp_path / "authz.yaml"
    file.write_text(text)
    try:
        load_settings(file, ENVIRON)
    except SettingsError as error:
        return [str(fault).removeprefix(f"{file}: ") for fault in error.faults]
    return []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("scopes: {a: [a]}\nroutes: []", ["scopes.a: includes itself: a → a"], id="itself"),
        pytest.param(
            "scopes: {a: [b], b: [c], c: [b]}\nroutes: []", ["scopes.b: includes itself: b → c → b"], id="circle"
        ),
        pytest.param("portals: [vinfer]", [], id="a portal"),
        pytest.param("portals: [vinfer, vinfer]", ["portals[1]: stands twice: 'vinfer'"], id="a portal twice"),
        pytest.param("portals: [inferexai]\nkeys: {retain_token: true}", [], id="tokens are kept"),
        pytest.param(
            "portals: [vinfer, inferexai]",
            ["portals[1]: shows tokens again: it needs 'keys.retain_token: true'"],
            id="tokens are not kept",
        ),
        pytest.param(
            "portals: [inferno]",
            ["portals[0]: asks its callers for the scope 'manage_users', which is not there"],
            id="a scope that nobody can hold",
        ),
        pytest.param("portals: [inferno]\nscopes: {manage_users: []}\nroutes: []", [], id="a scope that is there"),
        pytest.param("scopes: {a: [b, b]}\nroutes: []", ["scopes.a[1]: stands twice: 'b'"], id="one twice"),
        pytest.param("scopes: {a: [b]}\nroutes: [{path: /x, scopes: [b]}]", [], id="known by being included"),
        pytest.param(
            "routes: [{path: /x, scopes: [admin, read-onyl]}]",
            ["routes[0].scopes[1]: unknown scope 'read-onyl' (did you mean 'read-only'?)"],
            id="unknown, with the nearest",
        ),
        pytest.param(
            "routes: [{path: /x, scopes: [zebra]}]", ["routes[0].scopes[0]: unknown scope 'zebra'"], id="unknown"
        ),
        pytest.param(
            "routes: [{path: /x, scopes: [admin, admin]}]", ["routes[0].scopes[1]: stands twice: 'admin'"], id="twice"
        ),
        pytest.param(
            "scopes: {}",
            ["routes[1].scopes[0]: unknown scope 'read-only'", "routes[2].scopes[0]: unknown scope 'read-write'"],
            id="the default routes name scopes that are gone",
        ),
    ],
)
def test_scopes(tmp_path: Path, text: str, expected: list[str]) -> None:
    """Inclusion has no circles, and routes name scopes that are there."""
    assert faults_of(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "routes: [{path: /x, limits: [defaultt]}]",
            ["routes[0].limits[0]: unknown limit 'defaultt' (did you mean 'default'?)"],
            id="unknown",
        ),
        pytest.param(
            "routes: [{path: /x, limits: [default, default]}]",
            ["routes[0].limits[1]: stands twice: 'default'"],
            id="twice",
        ),
        pytest.param(
            "limits: {none: {}}\nroutes: []",
            ["limits.none: limits nothing: it has neither requests nor tokens"],
            id="empty",
        ),
        pytest.param(
            "limits: {none: {per: workspace, tokens: null}}\nroutes: []",
            ["limits.none: limits nothing: it has neither requests nor tokens"],
            id="null",
        ),
        pytest.param(
            "routes: [{path: /x, public: true, scopes: [admin]}]",
            ["routes[0]: a public route has neither scopes nor limits: nobody is asked who they are"],
            id="public with scopes",
        ),
        pytest.param(
            "routes: [{path: /x, public: true, limits: [default]}]",
            ["routes[0]: a public route has neither scopes nor limits: nobody is asked who they are"],
            id="public with limits",
        ),
        pytest.param("routes: [{path: /x, public: true, scopes: [], limits: []}]", [], id="public with empty ones"),
        pytest.param("routes: []", [], id="no routes: everything is denied"),
    ],
)
def test_limits_and_public_routes(tmp_path: Path, text: str, expected: list[str]) -> None:
    """Routes name limits that are there and limit something; a public route asks nobody who they are."""
    assert faults_of(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        pytest.param("127.0.0.1:1", "", id="loopback"),
        pytest.param("127.8.8.8:1", "", id="loopback, the whole net"),
        pytest.param("[::1]:1", "", id="loopback, IPv6"),
        pytest.param("localhost:1", "", id="localhost"),
        pytest.param("127.0.0.1:0", "", id="any free port"),
        pytest.param("unix:/run/authz.sock", "", id="a Unix socket"),
        pytest.param("0.0.0.0:1", PLAIN, id="every interface"),
        pytest.param("[::]:1", PLAIN, id="every interface, IPv6"),
        pytest.param("10.0.0.1:1", PLAIN, id="another interface"),
        pytest.param("[::ffff:10.0.0.1]:1", PLAIN, id="another interface, mapped into IPv6"),
        pytest.param("127.0.0.1", ADDRESS, id="no port"),
        pytest.param("127.0.0.1:", ADDRESS, id="an empty port"),
        pytest.param("127.0.0.1:65536", ADDRESS, id="a port too high"),
        pytest.param("127.0.0.1:-1", ADDRESS, id="a negative port"),
        pytest.param("127.0.0.1:http", ADDRESS, id="a named port"),
        pytest.param(":9001", ADDRESS, id="no host"),
        pytest.param("", ADDRESS, id="empty"),
        pytest.param("unix:", "unix: needs a path", id="a Unix socket without path"),
        pytest.param("authz.local:1", HOST, id="a name"),
        pytest.param("127.0.0.256:1", HOST, id="no IP address"),
        pytest.param("http://127.0.0.1:1", HOST, id="a URL"),
    ],
)
@pytest.mark.parametrize("form", ["listen: {{authz: '{}'}}", "listen: {{authz: {{address: '{}'}}}}"])
def test_listeners(tmp_path: Path, form: str, address: str, expected: str) -> None:
    """A listener is an address of ours, and beyond loopback plain text must be meant; both forms are judged alike."""
    assert faults_of(tmp_path, form.format(address)) == ([f"listen.authz: {expected}"] if expected else [])


@pytest.mark.parametrize("name", ["authz", "grpc", "http"])
@pytest.mark.parametrize(("insecure", "expected"), [("true", []), ("false", [PLAIN])])
def test_insecure_says_that_it_is_meant(tmp_path: Path, name: str, insecure: str, expected: list[str]) -> None:
    """`insecure: true` opens a listener to the world, `false` does not."""
    text = f"listen: {{{name}: {{address: '0.0.0.0:1', insecure: {insecure}}}}}"
    assert faults_of(tmp_path, text) == [f"listen.{name}: {fault}" for fault in expected]


@pytest.mark.parametrize(
    ("server", "address", "expected"),
    [
        ("fast", "127.0.0.1:1", []),
        ("fast", "unix:/tmp/authz.sock", []),
        ("auto", "0.0.0.0:1", []),
        ("grpcio", "0.0.0.0:1", []),
        (
            "fast",
            "0.0.0.0:1",
            ["server: 'fast' serves this host alone, and listen.authz lies beyond: say auto or grpcio"],
        ),
    ],
)
def test_the_fast_server_is_for_this_host(tmp_path: Path, server: str, address: str, expected: list[str]) -> None:
    text = f"server: {server}\nlisten: {{authz: {{address: '{address}', insecure: true}}}}"
    assert faults_of(tmp_path, text) == expected


def test_metrics_may_be_open(tmp_path: Path) -> None:
    """Metrics say nothing secret and are scraped from elsewhere."""
    assert faults_of(tmp_path, "listen: {metrics: '0.0.0.0:9999'}") == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(
            "listen: {authz: '127.0.0.1:1', grpc: '127.0.0.1:1'}",
            ["listen.grpc: the same address as listen.authz"],
            id="twice",
        ),
        pytest.param(
            "listen: {authz: 'unix:/a', grpc: {address: 'unix:/a'}, http: 'unix:/a'}",
            ["listen.grpc: the same address as listen.authz", "listen.http: the same address as listen.authz"],
            id="three times, in both forms",
        ),
        pytest.param("listen: {authz: '127.0.0.1:0', grpc: '127.0.0.1:0'}", [], id="any free port is not the same"),
        pytest.param("listen: {grpc: null, http: null}", [], id="off"),
    ],
)
def test_one_address_one_listener(tmp_path: Path, text: str, expected: list[str]) -> None:
    """Two listeners on one address are told before one of them fails to bind."""
    assert faults_of(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("[{id: a}, {id: b, secret: {env: OTHER}}]", [], id="two ids"),
        pytest.param(
            "[{id: a}, {id: a, secret: {env: OTHER}}]", ["keys.keyring[1].id: stands twice: 'a'"], id="one twice"
        ),
        pytest.param("[{}, {secret: {env: OTHER}}]", [], id="two without"),
        pytest.param(
            "[{}, {secret: {env: A, file: B}}]", ["keys.keyring[1].secret: must say either env or file"], id="both"
        ),
    ],
)
def test_keyring(tmp_path: Path, text: str, expected: list[str]) -> None:
    """A `kid` names one key of the keyring."""
    assert faults_of(tmp_path, f"keys: {{keyring: {text}}}") == expected


RULES = "request_rules: {chat: {max_prompt: 10}, upload: {max_body: 100GB}}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(RULES + "routes: [{path: /x, rules: [chat, upload]}]", [], id="known"),
        pytest.param(
            RULES + "routes: [{path: /x, rules: [chta]}]",
            ["routes[0].rules[0]: unknown rule 'chta' (did you mean 'chat'?)"],
            id="unknown, with the nearest",
        ),
        pytest.param("routes: [{path: /x, rules: [chat]}]", ["routes[0].rules[0]: unknown rule 'chat'"], id="no rules"),
        pytest.param(
            RULES + "routes: [{path: /x, rules: [chat, chat]}]",
            ["routes[0].rules[1]: stands twice: 'chat'"],
            id="twice",
        ),
        pytest.param(
            RULES + "routes: [{path: /x, public: true, rules: [chat]}]",
            ["routes[0].rules: a public route has no rules: nothing is asked there"],
            id="public",
        ),
        pytest.param(
            "request_rules: {chat: {}}",
            ["request_rules.chat: asks for nothing: neither content_types, max_body, max_prompt nor stream_scopes"],
            id="empty",
        ),
        pytest.param(
            "request_rules: {chat: {stream_scopes: []}}",
            ["request_rules.chat: asks for nothing: neither content_types, max_body, max_prompt nor stream_scopes"],
            id="no scopes",
        ),
        pytest.param("request_rules: {chat: {stream_scopes: [read-only, admin]}}", [], id="known scopes"),
        pytest.param(
            "request_rules: {chat: {stream_scopes: [read-olny, admin, admin]}}",
            [
                "request_rules.chat.stream_scopes[2]: stands twice: 'admin'",
                "request_rules.chat.stream_scopes[0]: unknown scope 'read-olny' (did you mean 'read-only'?)",
            ],
            id="unknown scopes, and one twice",
        ),
        pytest.param(
            "request_rules: {chat: {stream_scopes: [admin], max_body: 65MiB}}",
            ["request_rules.chat.max_body: must be at most 67108864 bytes: with stream_scopes, all of a body is read"],
            id="more than is read, for a stream",
        ),
        pytest.param(
            "request_rules: {chat: {max_prompt: 10, max_body: 65MiB}}",
            ["request_rules.chat.max_body: must be at most 67108864 bytes: with max_prompt, all of a body is read"],
            id="more than is read",
        ),
        pytest.param("request_rules: {chat: {max_prompt: 10, max_body: 64MiB}}", [], id="as much as is read"),
    ],
)
def test_request_rules(tmp_path: Path, text: str, expected: list[str]) -> None:
    assert faults_of(tmp_path, text) == expected


@pytest.mark.parametrize(
    ("rules", "body"),
    [
        pytest.param("{}", 0, id="none"),
        pytest.param("{a: {content_types: [a/b]}}", 0, id="no size"),
        pytest.param("{a: {max_body: 5}, b: {max_body: 10MB}}", 10_000_000, id="the largest"),
        pytest.param("{a: {max_body: 1GiB}}", 64 * 1024 * 1024, id="never more than is read"),
        pytest.param("{a: {max_prompt: 5}}", 10 * 1024 * 1024, id="a prompt's own"),
        pytest.param("{a: {stream_scopes: [admin]}}", 10 * 1024 * 1024, id="a stream's own"),
    ],
)
def test_how_much_of_a_body_may_come(tmp_path: Path, rules: str, body: int) -> None:
    file = tmp_path / "authz.yaml"
    file.write_text(f"request_rules: {rules}")

    assert build.largest_body(load_settings(file, ENVIRON).settings) == body


CHAT = "name: chat, path: /v1/chat, rules: [chat]"
REST = 'name: rest, path: "/v1/**"'


@pytest.mark.parametrize(
    ("routes", "falls_to"),
    [
        pytest.param([CHAT, REST], [1], id="a broader one"),
        pytest.param([CHAT, "path: /v2/chat", REST], [2], id="one further down"),
        pytest.param([CHAT, f"{REST}, rules: [chat]"], [], id="which asks for the same"),
        pytest.param([CHAT, f"{REST}, rules: [upload, chat]"], [], id="which asks for more"),
        pytest.param([CHAT, f"{REST}, rules: [upload]"], [1], id="which asks for something else"),
        pytest.param(["path: /v1/chat, name: chat, rules: [chat, upload]", f"{REST}, rules: [upload]"], [1], id="less"),
        pytest.param([CHAT, f"{REST}, public: true"], [1], id="which is public"),
        pytest.param([CHAT, 'path: "/v2/**"'], [], id="none"),
        pytest.param([CHAT, 'path: "/v1/*"'], [], id="none, as an asterisk is no empty segment"),
        pytest.param([CHAT, "path: /v1/chat/, rules: [chat]", REST], [], id="a route of its own"),
        pytest.param([CHAT, "path: /v1/chat/", REST], [1], id="a route of its own that does not ask"),
        pytest.param([REST, CHAT, REST], [], id="one before, as all does"),
        pytest.param(['path: "/v1/**", rules: [chat]', 'path: "/**"'], [], id="a wildcard at the end"),
        pytest.param(['path: "/v1/*/x", rules: [chat]', 'path: "/**"'], [], id="a wildcard within"),
        pytest.param(["path: /v1/chat", REST], [], id="no rules"),
        pytest.param([f"{CHAT}, methods: [POST]", f"{REST}, methods: [GET, PUT]"], [], id="other methods"),
        pytest.param([f"{CHAT}, methods: [POST, PUT]", f"{REST}, methods: [PUT]"], [1], id="one of its methods"),
        pytest.param([CHAT, f"{REST}, methods: [GET]", REST], [1, 2], id="one for each method"),
        pytest.param([CHAT, f"{REST}, methods: [GET], rules: [chat]", REST], [2], id="by methods that no route names"),
    ],
)
def test_rules_that_another_spelling_passes_by(tmp_path: Path, routes: list[str], falls_to: list[int]) -> None:
    """Told, and no fault: only the upstream knows whether it takes both spellings for one."""
    told = warnings_of(tmp_path, *routes)

    for place, warning in zip(falls_to, told, strict=True):
        name = "rest" if "rest" in routes[place] else "/v1/chat/"
        assert warning == (
            "routes[0].rules: the route 'chat' asks for chat, but '/v1/chat/' falls to"
            f" routes[{place}], {name!r}, which does not: where the upstream takes both paths"
            " for one, put the rules on that route as well, or add a route for '/v1/chat/' before it"
        )


@pytest.mark.parametrize(
    ("path", "spelling"),
    [
        pytest.param("/v1/chat/", "/v1/chat", id="with a slash, without"),
        pytest.param("/v1/men%C3%BA", "/v1/men\u00fa/", id="escaped"),
    ],
)
def test_the_other_spelling(tmp_path: Path, path: str, spelling: str) -> None:
    (warning,) = warnings_of(tmp_path, f"path: {path}, rules: [chat, upload]", REST)
    assert f"asks for chat, upload, but {spelling!r} falls to routes[1], 'rest'" in warning


def test_the_defaults_and_the_profiles_are_warned_of_nothing() -> None:
    profiles = sorted(PROFILES.glob("*.yaml"))
    assert profiles
    for file in (None, *profiles):
        assert load_settings(file, ENVIRON, with_secrets=False).warnings == []


def warnings_of(tmp_path: Path, *routes: str) -> list[str]:
    file = tmp_path / "authz.yaml"
    rules = "request_rules: {chat: {max_body: 10}, upload: {max_body: 20}}\n"
    file.write_text(f"{rules}routes: [{', '.join(f'{{{route}}}' for route in routes)}]")
    return [warning.removeprefix(f"{file}: ") for warning in load_settings(file, ENVIRON).warnings]
