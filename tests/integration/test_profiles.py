"""What all profiles have in common: their files are made from one base, and `authz demo` takes each of them by name."""

import contextlib
import http.client
import json
import re
import runpy
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any, Self

import pytest
import yaml

from authz.demo.certificate import make_certificate
from authz.demo.envoy_config import filled
from authz.demo.processes import DemoError, Process, envoy_binary, free_port
from authz.demo.profiles import PROFILES
from authz.demo.stack import Stack
from authz.demo.tour import Answer, ask
from authz.settings import load_settings
from tests.integration.test_demo import environ
from tests.support.profile import ProfileStack, as_authz_writes


DEPLOY = Path(__file__).parents[2] / "deploy"
MAKER = runpy.run_path(str(DEPLOY / "envoy" / "profiles.py"))
NAMES = sorted(set(PROFILES) - {"default"})
DOORS = {  # authz's own, through Envoy
    "inferexai": ("/portal/keys", "/authz/v1/login"),
    "inferno": ("/api/v1/auth/login", "/api/v1/auth/api-keys"),
    "vinfer": ("/v1/api-keys", "/v1/api-keys/key_x"),
}
LOGINS = {"inferexai": "/authz/v1/login", "inferno": "/api/v1/auth/login"}
MAPPER_OF = {status: f"reply.{status}" for status in (400, 403, 404, 405, 408, 413, 431, 500, 501, 503, 504)}
MAPPER_OF |= {426: "reply.400", 502: "reply.500"}
INFERNO = {"read_models", "write_models", "delete_models", "run_inference", "manage_cache", "read_metrics"} | {
    "write_config",
    "manage_users",
    "view_audit_logs",
    "use_streaming",
    "manage_queue",
}
each = pytest.mark.parametrize("name", NAMES)
each_and_default = pytest.mark.parametrize("name", sorted(PROFILES))


def test_every_profile_has_its_files() -> None:
    assert MAKER["names"]() == NAMES
    assert sorted(path.stem for path in (DEPLOY / "envoy" / "profiles").glob("*.yaml")) == NAMES
    assert sorted(path.stem for path in (DEPLOY / "profiles").glob("*.yaml")) == sorted(PROFILES)


@each
def test_what_is_in_the_tree_is_what_is_made(name: str) -> None:
    assert (DEPLOY / "envoy" / "profiles" / f"{name}.yaml").read_text() == MAKER["profile"](name), "make envoy-variant"


@each
def test_envoy_and_authz_take_the_files_as_they_stand(tmp_path: Path, name: str) -> None:
    """But for a certificate, which is the reader's."""
    config, made = tmp_path / "envoy.yaml", make_certificate(tmp_path)
    text = (DEPLOY / "envoy" / "profiles" / f"{name}.yaml").read_text()
    config.write_text(text.replace("/etc/envoy/tls", str(made.parent)))
    command = [str(envoy_binary({})), "--mode", "validate", "-c", str(config)]

    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)

    assert ended.returncode == 0, ended.stderr
    load_settings(DEPLOY / "profiles" / f"{name}.yaml", {}, with_secrets=False)


@each
def test_an_overlay_takes_nothing_away_that_protects(name: str) -> None:
    """The check is on, closed, on every route but those to authz's own doors; identity is stripped."""
    base, made = (
        yaml.safe_load((DEPLOY / "envoy" / path).read_text()) for path in ("envoy.yaml", f"profiles/{name}.yaml")
    )
    before, after = (manager(bootstrap) for bootstrap in (base, made))

    changed = {key for key in before | after if before.get(key) != after.get(key)}
    assert changed <= {"local_reply_config", "http_filters", "route_config"}
    check, original = (
        next(one for one in each["http_filters"] if one["name"] == "authz.check")["typed_config"]
        for each in (after, before)
    )
    assert {key for key in original if check[key] != original[key]} <= {"decoder_header_mutation_rules"}
    (host,) = after["route_config"]["virtual_hosts"]
    assert host["routes"][0] == before["route_config"]["virtual_hosts"][0]["routes"][0]
    assert host["routes"][0]["name"] == "methods"
    for route in host["routes"]:
        off = route.get("typed_per_filter_config", {}).get("authz.check", {}).get("disabled", False)
        assert off is (route.get("route", {}).get("cluster") != "upstream")
        cluster = route.get("route", {}).get("cluster")
        assert cluster in {"upstream", "authz_http", None}
        assert ("authz.whole" in route.get("typed_per_filter_config", {})) is (cluster == "authz_http")
    for place, listener in enumerate(made["static_resources"]["listeners"]):
        assert manager(made, place) | {"stat_prefix": "edge"} == after, listener["name"]


def manager(bootstrap: Any, listener: int = 0) -> dict[str, Any]:
    (chain,) = bootstrap["static_resources"]["listeners"][listener]["filter_chains"]
    found: dict[str, Any] = chain["filters"][0]["typed_config"]
    return found


def by_extension(name: str) -> dict[str, Any]:
    return {"filter": {"extension_filter": {"name": name}}}


def by_status(name: str) -> dict[str, Any]:
    return {"filter": {"status_code_filter": {"comparison": {"value": {"runtime_key": name}}}}}


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        pytest.param({"a": 1, "b": 2}, {"b": 3, "c": {"d": None, "e": 4}}, {"a": 1, "b": 3, "c": {"e": 4}}, id="merge"),
        pytest.param({"a": 1, "b": None}, {"a": None}, {"b": None}, id="null removes, and a null that is there stays"),
        pytest.param({"a": [1, 2]}, {"a": [3]}, {"a": [3]}, id="a list replaces"),
        pytest.param([{"name": "x", "a": 1}], {"x": {"a": 2}}, [{"name": "x", "a": 2}], id="an item by name"),
        pytest.param([{"name": "x"}, {"name": "y"}], {"x": None}, [{"name": "y"}], id="an item removed"),
        pytest.param([{"name": "x"}], {"y": {"a": 1}}, [{"name": "y", "a": 1}, {"name": "x"}], id="an item added"),
        pytest.param(
            [{"name": "x"}, {"name": "z"}],
            {"y": {"after": "x", "a": 1}},
            [{"name": "x"}, {"name": "y", "a": 1}, {"name": "z"}],
            id="an item added behind another",
        ),
        pytest.param(
            [{"name": "x", "a": 1}, {"name": "z"}],
            {"x": {"a": 2}, "y": {"like": "x", "b": 3}},
            [{"name": "x", "a": 2}, {"name": "y", "a": 2, "b": 3}, {"name": "z"}],
            id="an item made from another",
        ),
        pytest.param([{"a": 1}, {"a": 2}], {1: {"a": 3}}, [{"a": 1}, {"a": 3}], id="an item by place"),
        pytest.param(
            [by_extension("x"), by_status("y"), {"a": 1}],
            {"y": {"a": 2}, "x": {"a": 3}, 2: None},
            [by_extension("x") | {"a": 3}, by_status("y") | {"a": 2}],
            id="a mapper by what its filter is called",
        ),
    ],
)
def test_how_an_overlay_is_read(target: object, patch: object, expected: object) -> None:
    assert MAKER["patched"](target, patch) == expected


@pytest.mark.parametrize("patch", [{"7": {}}, {"gone": None}, {"y": {"after": "gone"}}, {"y": {"like": "gone"}}])
def test_an_overlay_that_misses_is_told(patch: object) -> None:
    with pytest.raises(ValueError, match="there is no item"):
        MAKER["patched"]([{"name": "x"}], patch)


@pytest.mark.parametrize("patch", [{"y": {"a": 1}}, {"y": {"after": "x", "a": 1}}, {"y": {"like": "x"}}])
def test_a_new_mapper_has_no_place_for_its_name(patch: object) -> None:
    with pytest.raises(ValueError, match="there is no item y, and a new one cannot be named"):
        MAKER["patched"]([by_extension("x"), by_status("z")], patch)


def test_a_name_that_stands_twice_is_told() -> None:
    with pytest.raises(ValueError, match="two items have one name"):
        MAKER["patched"]([by_status("x"), by_extension("x")], {"x": {}})


@each_and_default
def test_envoys_own_answers_are_written_as_authz_writes_its_own(name: str) -> None:
    """All of them, for every status that is told."""
    spared, *mappers = manager(json.loads(filled_with(0, name)))["local_reply_config"]["mappers"]
    called = {MAKER["_key"](mapper, 0): mapper for mapper in mappers}

    assert "body" not in spared
    assert "body_format_override" not in spared
    assert {key: mapper["body"]["inline_string"] for key, mapper in called.items()} == {
        key: body for key, (_, body) in as_authz_writes(format_of(name)).items()
    }
    assert {json.dumps(mapper["body_format_override"], sort_keys=True) for mapper in mappers} == {
        '{"content_type": "application/json", "text_format_source": {"inline_string": "%LOCAL_REPLY_BODY%"}}'
    }


def filled_with(port: int, name: str, edge: int = 0, admin: int = 0) -> str:
    """The profile's Envoy; all that it asks is at one port."""
    return filled(edge=edge, authz=port, log=port, upstream=port, admin=admin, http=port, profile=name)


def format_of(name: str) -> str:
    return load_settings(DEPLOY / "profiles" / f"{name}.yaml", {}, with_secrets=False).settings.responses.format


class Alone:
    """A profile's Envoy, and nobody behind it; what nobody should wait for in a test is waited for shortly."""

    def __init__(self, name: str, folder: Path, door_timeout: str = "0.1s") -> None:
        self.edge, self.admin, self.away = free_port(), free_port(), free_port()
        self._config, self._log = folder / "envoy.yaml", folder / "envoy.log"
        text = filled_with(self.away, name, self.edge, self.admin)
        bootstrap = json.loads(text.replace('"timeout": "5s"', f'"timeout": "{door_timeout}"'))
        whole = manager(bootstrap)
        whole["request_headers_timeout"], whole["request_timeout"] = "0.2s", "0.5s"
        unasked = whole["route_config"]["virtual_hosts"][0]["routes"][0]["typed_per_filter_config"]
        whole["route_config"]["virtual_hosts"].append(
            {
                "name": "status",
                "domains": ["status.test"],
                "typed_per_filter_config": unasked,
                "routes": [{"match": {"path": f"/{of}"}, "direct_response": {"status": of}} for of in MAPPER_OF],
            }
        )
        self._config.write_text(json.dumps(bootstrap))

    def __enter__(self) -> Self:
        command = [str(envoy_binary({})), "-c", str(self._config), "--concurrency", "1", "--use-dynamic-base-id"]
        self._envoy = Process("envoy", command, self._log, environ())
        self._envoy.wait_for(self.admin, "/ready")
        return self

    def __exit__(self, *_: object) -> None:
        self._envoy.stop()

    def details(self, path: str) -> list[str]:
        """Of the answers there, as Envoy's log has them; once it is stopped, and all is written."""
        lines = [json.loads(line) for line in self._log.read_text().splitlines() if line.startswith("{")]
        return [line["details"] for line in lines if line["path"] == path]

    def ask(self, path: str) -> Answer:
        return ask(self.edge, "GET", path, headers={"Authorization": "Bearer x", "X-API-Key": "x"})

    def told(self, sent: bytes) -> tuple[int, str]:
        """Status and body of what a client is told that sends this and nothing more."""
        with socket.create_connection(("127.0.0.1", self.edge), timeout=30) as client:
            client.sendall(sent)
            response = http.client.HTTPResponse(client)
            response.begin()
            return response.status, response.read().decode()


@each_and_default
def test_without_authz_nothing_passes_and_it_is_told_in_the_apis_own_shape(tmp_path: Path, name: str) -> None:
    """503 and Retry-After, of the check and of authz's own doors; at once if it is gone, by a time-out if it hangs."""
    written, doors = as_authz_writes(format_of(name)), DOORS.get(name, ())
    with Alone(name, tmp_path) as envoy:
        gone = [envoy.ask(path) for path in ("/v1/x", *doors)]
        with socket.create_server(("127.0.0.1", envoy.away), backlog=64):
            hung = [envoy.ask(path) for path in ("/v1/x", *doors)]
        statuses = {of: ask(envoy.edge, "GET", f"/{of}", headers={"Host": "status.test"}) for of in MAPPER_OF}
        slow = envoy.told(b"GET /v1/models HTTP/1.1\r\nHost: a\r\n")
        traced = [ask(envoy.edge, "TRACE", path) for path in ("/v1/x", *doors)]

    for answer in (*gone, *hung):
        assert (answer.status, answer.body.decode()) == written["authz_away"]
        assert (answer.headers["content-type"], answer.headers["retry-after"]) == ("application/json", "1")
    for door in doors:
        refused, unanswered, _ = envoy.details(door)
        assert "connection_failure" in refused
        assert unanswered == "response_timeout"
    for of, answer in statuses.items():
        is_400 = of == 501 or (name == "inferno" and of in {413, 426, 431})  # its page has no other for wrong input
        told = 400 if is_400 else of
        assert (answer.status, answer.body.decode()) == (told, written[MAPPER_OF[of]][1])
        assert answer.headers.get("retry-after") == ("1" if of == 503 else None)
    for answer in traced:
        assert (answer.status, answer.body.decode()) == written["reply.405"]
    assert slow == written["reply.408"]


@pytest.mark.parametrize("name", DOORS)
def test_authz_is_asked_when_a_request_to_its_doors_is_whole(tmp_path: Path, name: str) -> None:
    """Nobody is there: who hands on at once answers 503. What is too large, or too slow, is told so in Envoy."""
    written = as_authz_writes(format_of(name))
    with Alone(name, tmp_path) as envoy:
        for door in DOORS[name]:
            head = f"POST {door} HTTP/1.1\r\nHost: a\r\nContent-Length: ".encode()
            assert envoy.told(head + b"50\r\n\r\n{") == written["reply.408"]
            assert envoy.told(head + b"16385\r\n\r\n" + bytes(16385)) == written["reply.413"]
            assert envoy.told(head + b"16384\r\n\r\n" + bytes(16384)) == written["authz_away"]
            assert envoy.told(head + b"0\r\n\r\n") == written["authz_away"]


@pytest.mark.parametrize("name", LOGINS)
def test_logins_take_no_connection_from_the_portal(tmp_path: Path, name: str) -> None:
    """Nobody answers. Of a hundred logins 64 have a connection, the others wait; the portal has one of its own."""
    (portal,) = {*DOORS[name]} - {LOGINS[name]}
    with Alone(name, tmp_path, door_timeout="60s") as envoy, contextlib.ExitStack() as clients:
        door = clients.enter_context(socket.create_server(("127.0.0.1", envoy.away), backlog=128))
        door.settimeout(30)

        for path in [LOGINS[name]] * 100 + [portal]:
            client = clients.enter_context(socket.create_connection(("127.0.0.1", envoy.edge), timeout=30))
            client.sendall(f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\n{{}}".encode())
        accepted = [clients.enter_context(door.accept()[0]) for _ in range(65)]
        asked = Counter(one.makefile("rb").readline().split()[1].decode() for one in accepted)

        assert asked == {LOGINS[name]: 64, portal: 1}


@each_and_default
def test_how_long_envoy_waits_for_authz(name: str) -> None:
    """The check: above twice the store's time-out; its doors: above what a login takes."""
    whole = manager(json.loads(filled_with(0, name)))
    checks = {one["name"]: one["typed_config"].get("grpc_service", {}).get("timeout") for one in whole["http_filters"]}
    (host,) = whole["route_config"]["virtual_hosts"]
    doors = {
        route["route"]["timeout"] for route in host["routes"] if route.get("route", {}).get("cluster") == "authz_http"
    }

    assert (checks["authz.check"], checks.get("authz.body", "2s")) == ("0.2s", "2s")
    assert doors == ({"5s"} if name in DOORS else set())


def test_ports_are_filled_in_everywhere() -> None:
    text = filled(edge=1, authz=2, log=3, upstream=4, admin=5, http=6, profile="vinfer")

    clusters = json.loads(text)["static_resources"]["clusters"]
    ports = {
        one["name"]: one["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"]["address"]["socket_address"][
            "port_value"
        ]
        for one in clusters
    }
    assert ports == {"authz": 2, "authz_log": 3, "authz_http": 6, "upstream": 4}


def test_a_profile_that_is_not_there(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "authz", "demo", "--profile", "podstak"]

    ended = subprocess.run(
        command, env=environ(), cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )

    told = f"there is no profile 'podstak'; there are: {', '.join(PROFILES)}"
    assert (ended.returncode, ended.stdout) == (2, "")
    assert told in ended.stderr
    with pytest.raises(DemoError, match=told):
        Stack("podstak", port=0)


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        pytest.param(name, keys, marks=pytest.mark.xdist_group(name), id=name)
        for name, keys in (
            ("inferexai", {"default", "admin", "limited", "session"}),
            ("inferno", INFERNO | {"admin", "limited", "session"}),
            ("podstack", {"default", "admin", "limited", "account"}),
            ("vinfer", {"read-only", "read-write", "admin", "limited"}),
            ("voiceinfra", {"default", "admin", "limited"}),
        )
    ],
)
def test_what_the_demo_has(request: pytest.FixtureRequest, name: str, keys: set[str]) -> None:
    stack: ProfileStack = request.getfixturevalue(name)
    told = stack.describe()

    assert (told["profile"], set(stack.keys)) == (name, keys)
    assert [example for example in stack.profile.examples if example.explained]


@each
def test_each_tour_is_as_promised(name: str) -> None:
    command = [sys.executable, "-m", "authz", "demo", "--profile", name, "--port", "0", "--once"]

    ended = subprocess.run(command, env=environ(), capture_output=True, text=True, timeout=120, check=False)

    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (0, "as promised"), ended.stderr


@each
def test_each_promise_has_its_test(name: str) -> None:
    """Rows without a gap, and no test that is not there."""
    page = (DEPLOY.parent / "docs" / "profiles" / f"{name}.md").read_text()
    rows = [
        [cell.strip() for cell in row] for row in re.findall(r"^\|(.*?)\|(.*?)\|(.*?)\|(.*?)\|$", page, re.MULTILINE)
    ]
    promises = [row for row in rows if row[0].isdigit()]
    tests = set(
        re.findall(
            "^def (test_[a-z0-9_]+)", Path(__file__).with_name(f"test_profile_{name}.py").read_text(), re.MULTILINE
        )
    )

    assert [row[0] for row in promises] == [str(number) for number in range(1, len(promises) + 1)]
    assert len(promises) == page.count("\n| ") - 1
    for row in promises:
        assert all(row)
        assert re.fullmatch("`test_[a-z0-9_]+`(, `test_[a-z0-9_]+`)*", row[3])
    assert set(re.findall("`(test_[a-z0-9_]+)`", page)) <= tests


def test_the_overlay_of_the_page() -> None:
    page = (DEPLOY.parent / "docs" / "profiles" / "README.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    base = yaml.safe_load((DEPLOY / "envoy" / "envoy.yaml").read_text())

    (host,) = manager(MAKER["patched"](base, yaml.safe_load(block)))["route_config"]["virtual_hosts"]

    assert [route["match"]["prefix"] for route in host["routes"]] == ["/", "/api/", "/api/", "/"]
    assert all(f"[{name}]({name}.md)" in page for name in NAMES)
