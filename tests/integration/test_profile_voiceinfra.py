"""What VoiceInfra's page promises, through real Envoy. docs/profiles/voiceinfra.md names each promise and its test."""

import http.client
import json
import subprocess
from datetime import datetime, timedelta

import pytest
import requests

from authz.admin.keys import KeyConflictError
from authz.admin.users import NewUser
from authz.demo.tour import Answer, ask
from tests.support.profile import PLENTY, ProfileStack, as_authz_writes, as_sent, on_every_replica, under_load, wait_for


pytestmark = pytest.mark.xdist_group("voiceinfra")
OUTBOUND = "/v1/calls/outbound"
CALL = {"agent_id": "agent_abc123", "from_number": "+18005551234", "to_number": "+14155550100"}
EXAMPLE = """\
curl -X POST https://api.voiceinfra.ai/v1/calls/outbound \\
  -H "X-API-Key: YOUR_API_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{"agent_id": "agent_abc123", "from_number": "+18005551234", "to_number": "+14155550100"}'
"""
UNAUTHORIZED = as_sent("""
{
  "error": {
    "code": "unauthorized",
    "message": "Invalid or missing API key."
  }
}""")


def refused(answer: Answer) -> str:
    """What the challenge tells; the body is the page's, whatever is wrong."""
    assert (answer.status, answer.body) == (401, UNAUTHORIZED)
    assert answer.headers["content-type"] == "application/json"
    return answer.headers["www-authenticate"]


def test_the_example_of_the_page(voiceinfra: ProfileStack) -> None:
    answer = voiceinfra.page(EXAMPLE, voiceinfra.keys["default"])

    assert answer.status == 200
    assert CALL.items() <= answer.json.items()


@pytest.mark.parametrize("name", ["X-API-Key", "x-api-key", "X-Api-Key", "X-API-KEY"])
def test_the_header_in_any_case(voiceinfra: ProfileStack, name: str) -> None:
    """Unlike the page says: HTTP knows no case in names, and HTTP/2 has lower case alone."""
    key = voiceinfra.keys["default"]

    assert ask(voiceinfra.port, "POST", OUTBOUND, headers={name: key}, body=CALL).status == 200


def test_over_http_2(voiceinfra: ProfileStack) -> None:
    command = ["curl", "-s", "--http2-prior-knowledge", "-o", "/dev/null", "-w", "%{http_version} %{http_code}"]
    command += ["-H", f"X-API-Key: {voiceinfra.keys['default']}", voiceinfra.url + OUTBOUND]

    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "2 200"


@pytest.mark.parametrize(
    ("version", "method", "status"),
    [
        ("--http1.1", "TRACE", "405"),
        ("--http1.1", "PROPFIND", "405"),
        ("--http1.1", "TRACK", "400"),  # no method that HTTP/1.1 knows
        ("--http1.1", "CONNECT", "400"),  # with a path
        ("--http2-prior-knowledge", "TRACE", "405"),
        ("--http2-prior-knowledge", "trace", "405"),
        ("--http2-prior-knowledge", "TRACK", "405"),
        ("--http2-prior-knowledge", "CONNECT", "000"),  # the stream is reset
    ],
)
def test_other_methods_do_not_reach_the_api(voiceinfra: ProfileStack, version: str, method: str, status: str) -> None:
    """Not with a good key either: TRACE would show what was sent."""
    command = ["curl", "-s", "-D", "-", "-o", "/dev/null", "-w", "%{http_code}", version, "-X", method]
    command += ["-H", f"X-API-Key: {voiceinfra.keys['default']}", f"{voiceinfra.url}/v1/echo"]

    told = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False).stdout

    assert told[-3:] == status
    assert ("allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS" in told) is (status == "405")


def test_the_header_is_missing(voiceinfra: ProfileStack) -> None:
    assert refused(voiceinfra.page(EXAMPLE.replace('-H "X-API-Key: YOUR_API_KEY"', ""), "")) == "Bearer"


def test_no_path_without_a_key(voiceinfra: ProfileStack) -> None:
    """But /healthz; and what no route is for is denied to every key."""
    for path in ("/", "/v1", OUTBOUND, "/internal"):
        for method in ("GET", "POST", "DELETE"):
            refused(voiceinfra.ask(method, path))
    assert voiceinfra.ask("GET", "/healthz").status == 200
    for path in ("/", "/internal", "/authz/v1/keys"):
        assert voiceinfra.ask("GET", path, voiceinfra.keys["admin"]).status == 403


def test_a_session_token_is_no_key(voiceinfra: ProfileStack) -> None:
    user, password = "ada", "correct horse battery staple"  # pragma: allowlist secret
    voiceinfra.add_user(NewUser(user, scopes=("admin",)), password)
    body = {"username": user, "password": password}
    login = ask(voiceinfra.port_of("http"), "POST", "/authz/v1/login", body=body)

    assert login.status == 200
    refused(voiceinfra.ask("POST", OUTBOUND, login.json["token"], CALL))


def test_a_bearer_token_is_no_key(voiceinfra: ProfileStack) -> None:
    """Not even a good key; and beside a good one it is not passed on, as nobody looked at what it holds."""
    key = voiceinfra.keys["default"]

    assert refused(ask(voiceinfra.port, "POST", OUTBOUND, key=key, body=CALL)) == "Bearer"
    seen = ask(voiceinfra.port, "GET", "/v1/echo", key=key, headers={"X-API-Key": key})
    assert seen.status == 200
    assert key not in seen.body.decode()
    assert "authorization" not in seen.json["headers"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda key: key[:-3], "cut short", id="truncated"),
        pytest.param(lambda key: key[:20] + " " + key[20:], "white space", id="white space"),
        pytest.param(lambda key: key[:20] + "\t" + key[20:], "white space", id="a tab"),
        pytest.param(lambda key: f"Bearer {key}", "leave out 'Bearer': this header holds the key", id="Bearer"),
        pytest.param(lambda key: key[:12] + ("1" if key[12] != "1" else "2") + key[13:], "mistyped", id="mistyped"),
        pytest.param(lambda key: "key", "start with sk-live-", id="something else"),
        pytest.param(lambda key: "", "empty", id="nothing"),
    ],
)
def test_an_invalid_key_is_told_why(voiceinfra: ProfileStack, change: object, told: str) -> None:
    """In the challenge, as the body is fixed."""
    answer = voiceinfra.ask("POST", OUTBOUND, change(voiceinfra.keys["default"]), CALL)  # type: ignore[operator]

    assert told in refused(answer)


def test_white_space_at_the_ends_is_no_part_of_a_header(voiceinfra: ProfileStack) -> None:
    assert voiceinfra.ask("POST", OUTBOUND, f" {voiceinfra.keys['default']} ", CALL).status == 200


def test_white_space_that_clients_do_not_send(voiceinfra: ProfileStack) -> None:
    """What Python's `requests` refuses by itself, authz never hears of."""
    url, key = f"{voiceinfra.url}{OUTBOUND}", voiceinfra.keys["default"]

    for value in (f" {key}", f"{key}\n"):
        with pytest.raises(requests.exceptions.InvalidHeader):
            requests.post(url, json=CALL, headers={"X-API-Key": value}, timeout=30)
    assert requests.post(url, json=CALL, headers={"X-API-Key": f"{key} "}, timeout=30).status_code == 200
    for value in (f" {key}", f"{key}\n"):
        command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"X-API-Key: {value}", url]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "200"


def test_a_key_is_shown_once(voiceinfra: ProfileStack) -> None:
    """Where it is made; afterwards nobody has it, not even the store."""
    made = voiceinfra.authz("keys", "create", "--name", "production-crm")
    assert voiceinfra.ask("POST", OUTBOUND, made["token"], CALL).status == 200

    shown = voiceinfra.authz("keys", "show", made["id"])
    listed = voiceinfra.admin("GET", "keys")

    assert (made["kind"], shown["name"], shown["prefix"]) == ("opaque", "production-crm", made["prefix"])
    assert made["token"] not in json.dumps([shown, listed])
    with pytest.raises(KeyConflictError, match="tokens are not kept"):
        voiceinfra.show_token(made["id"])
    secret = made["token"].removeprefix(made["prefix"])
    assert secret not in voiceinfra.logs()
    assert secret.encode() not in voiceinfra.stored(made["id"])


def test_each_key_is_independent(voiceinfra: ProfileStack) -> None:
    """One is revoked, and the others do not notice."""
    names = ("production-crm", "staging-automation", "zapier-integration")
    keys = {name: voiceinfra.key(name=name) for name in names}

    voiceinfra.revoke(keys["staging-automation"].record.id)

    statuses = {name: voiceinfra.ask("POST", OUTBOUND, key.token, CALL).status for name, key in keys.items()}
    assert statuses == {"production-crm": 200, "staging-automation": 401, "zapier-integration": 200}


def test_each_key_has_limits_and_usage_of_its_own(voiceinfra: ProfileStack) -> None:
    made = voiceinfra.authz("keys", "create", "--name", "one call", "--limit", "requests=1/1h")
    other = voiceinfra.key()

    statuses = [voiceinfra.ask("POST", OUTBOUND, token, CALL).status for token in (made["token"], other.token) * 2]

    assert statuses == [200, 200, 429, 200]
    usage = voiceinfra.usage_when(other, lambda told: told["requests"] == 2)
    assert (usage["requests"], usage["denied"]) == (2, 0)
    assert voiceinfra.authz("keys", "usage", made["id"])["denied"] == 1


@pytest.mark.parametrize("name", ["api_key", "x-api-key", "X-API-Key", "x%2Dapi%2Dkey"])
def test_keys_in_urls_are_refused(voiceinfra: ProfileStack, name: str) -> None:
    """By the name of the header as well, with a key beside it or without."""
    for key in (voiceinfra.keys["default"], None):
        answer = voiceinfra.ask("POST", f"{OUTBOUND}?{name}=planted-in-url", key, CALL)
        assert "does not belong in the URL" in refused(answer)
    assert "planted-in-url" not in voiceinfra.logs()


def test_a_revoked_key_stops_working_at_once(voiceinfra: ProfileStack) -> None:
    """With the very next request, on both of two sidecars, on connections that stay open."""
    with on_every_replica(voiceinfra) as ask_all:
        for key in [voiceinfra.key() for _ in range(3)]:
            assert {answer.status for answer in ask_all("GET", "/v1/calls", key.token)} == {200}
            voiceinfra.revoke(key.record.id)
            assert all("revoked" in refused(answer) for answer in ask_all("GET", "/v1/calls", key.token))


def test_a_stream_that_was_admitted_goes_on(voiceinfra: ProfileStack) -> None:
    """What is in flight when its key is revoked is not cut; the next request is refused."""
    key = voiceinfra.key()
    body = {"model": "m", "stream": True, "messages": [{"role": "user", "content": "word " * 100}]}
    headers = {"X-API-Key": key.token, "Content-Type": "application/json"}
    connection = http.client.HTTPConnection("127.0.0.1", voiceinfra.port)
    connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
    response = connection.getresponse()
    first = response.readline()

    voiceinfra.revoke(key.record.id)

    refused_now = voiceinfra.ask("POST", OUTBOUND, key.token, CALL)
    assert "revoked" in refused(refused_now)
    assert first.startswith(b"data: {")
    assert response.read().rstrip().endswith(b"data: [DONE]")
    connection.close()


def test_a_key_is_replaced_without_a_failed_request(voiceinfra: ProfileStack) -> None:
    """Make another, switch over, verify, revoke the old one, as the page says: all of it under load."""
    old = voiceinfra.key(limits=PLENTY)
    used = [old.token]
    with under_load(lambda: voiceinfra.ask("POST", OUTBOUND, used[0], CALL), clients=2) as answers:
        wait_for(answers, 10)
        new = voiceinfra.key(limits=PLENTY)
        for key in (new, old):
            assert voiceinfra.ask("POST", OUTBOUND, key.token, CALL).status == 200
        used[0] = new.token
        wait_for(answers, 10)  # every client has taken up the new one
        voiceinfra.revoke(old.record.id)
        wait_for(answers, 20)

    assert {answer.status for answer in answers} == {200}
    assert "revoked" in refused(voiceinfra.ask("POST", OUTBOUND, old.token, CALL))


def test_a_key_may_end_by_itself(voiceinfra: ProfileStack) -> None:
    """After 90 days, if it is made for them; one that is made for seconds is waited for."""
    made = voiceinfra.authz("keys", "create", "--name", "for 90 days", "--expires", "90d")

    created, ends = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert ends - created == timedelta(days=90)
    assert voiceinfra.authz("keys", "show", made["id"])["expires_at"] == made["expires_at"]
    short = voiceinfra.key(lifetime_s=4)
    assert "expired" in refused(voiceinfra.once_refused("POST", OUTBOUND, short.token, CALL))
    assert voiceinfra.ask("POST", OUTBOUND, made["token"], CALL).status == 200


def test_dormant_keys_are_found(voiceinfra: ProfileStack) -> None:
    """When a key was used last is in the list."""
    key = voiceinfra.key(name="dormant")
    before = voiceinfra.authz("keys", "list", "--name", "dormant")["keys"][0]
    voiceinfra.ask("POST", OUTBOUND, key.token, CALL)
    voiceinfra.usage_when(key, lambda usage: usage["requests"] == 1)
    after = voiceinfra.authz("keys", "list", "--name", "dormant")["keys"][0]

    assert before["last_used_at"] is None
    assert after["last_used_at"] >= after["created_at"][:16]  # to the minute


def test_keys_are_managed_by_any_admin_key(voiceinfra: ProfileStack) -> None:
    """At authz's own doors a key is welcome as a Bearer token too: the command line sends it so."""
    listed = voiceinfra.authz("keys", "list", caller=voiceinfra.keys["admin"])

    assert {"demo default", "demo limited", "demo admin"} <= {key["name"] for key in listed["keys"]}


def test_what_envoy_itself_answers_has_the_same_shape(voiceinfra: ProfileStack) -> None:
    """Byte for byte as authz writes it."""
    assert voiceinfra.envoys_own().items() <= as_authz_writes("voiceinfra").items()


def test_limits_are_told_in_the_same_shape(voiceinfra: ProfileStack) -> None:
    answers = [voiceinfra.ask("POST", OUTBOUND, voiceinfra.keys["limited"], CALL) for _ in range(6)]

    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert set(answers[-1].json["error"]) == {"code", "message"}
    assert int(answers[-1].headers["retry-after"]) > 0
