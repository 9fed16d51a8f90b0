"""What VoiceInfra's page promises, through real Envoy. docs/profiles/voiceinfra.md names each promise and its test."""

import http.client
import json
import subprocess

import pytest

from authz.admin.keys import KeyConflictError
from authz.demo.tour import Answer, ask
from tests.support.profile import PLENTY, ProfileStack, as_sent, under_load, wait_for


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


def test_the_header_is_missing(voiceinfra: ProfileStack) -> None:
    assert refused(voiceinfra.page(EXAMPLE.replace('-H "X-API-Key: YOUR_API_KEY"', ""), "")) == "Bearer"


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
    assert secret.encode() not in voiceinfra.stored()


def test_each_key_is_independent(voiceinfra: ProfileStack) -> None:
    """One is revoked, and the others do not notice."""
    names = ("production-crm", "staging-automation", "zapier-integration")
    keys = {name: voiceinfra.key(name=name) for name in names}

    voiceinfra.revoke(keys["staging-automation"].record.id)

    statuses = {name: voiceinfra.ask("POST", OUTBOUND, key.token, CALL).status for name, key in keys.items()}
    assert statuses == {"production-crm": 200, "staging-automation": 401, "zapier-integration": 200}


def test_a_revoked_key_stops_working_at_once(voiceinfra: ProfileStack) -> None:
    """With the very next request, on a connection that stays open."""
    connection = http.client.HTTPConnection("127.0.0.1", voiceinfra.port)
    for _ in range(5):
        key = voiceinfra.key()
        for wanted in (200, 401):
            connection.request("GET", "/v1/calls", headers={"X-API-Key": key.token})
            response = connection.getresponse()
            body = response.read()
            assert response.status == wanted
            assert (body == UNAUTHORIZED) is (wanted == 401)
            voiceinfra.revoke(key.record.id)
    connection.close()


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
    """Make another, switch over, verify, revoke the old one: as the page says."""
    old = voiceinfra.key(limits=PLENTY)
    used = [old.token]
    with under_load(lambda: voiceinfra.ask("POST", OUTBOUND, used[0], CALL), clients=2) as answers:
        new = voiceinfra.key(limits=PLENTY)
        assert voiceinfra.ask("POST", OUTBOUND, new.token, CALL).status == 200
        used[0] = new.token
        wait_for(answers, 20)

    voiceinfra.revoke(old.record.id)

    assert {answer.status for answer in answers} == {200}
    assert "revoked" in refused(voiceinfra.ask("POST", OUTBOUND, old.token, CALL))


def test_a_key_may_end_by_itself(voiceinfra: ProfileStack) -> None:
    """Rotate at least every 90 days: a key that is made for them does not live longer."""
    made = voiceinfra.authz("keys", "create", "--name", "for 90 days", "--expires", "90d")

    assert made["expires_at"] > made["created_at"]
    assert voiceinfra.authz("keys", "show", made["id"])["expires_at"] == made["expires_at"]
    short = voiceinfra.key(lifetime_s=1)
    assert voiceinfra.ask("POST", OUTBOUND, short.token, CALL).status == 200
    assert short.record.expires_at_us is not None


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
    got = ask(voiceinfra.port, "OPTIONS", "*")

    assert (got.status, got.json) == (404, {"error": {"code": "not_found", "message": "No such path."}})
    assert all(set(error) == {"code", "message"} for error in voiceinfra.errors_of_envoy())


def test_limits_are_told_in_the_same_shape(voiceinfra: ProfileStack) -> None:
    answers = [voiceinfra.ask("POST", OUTBOUND, voiceinfra.keys["limited"], CALL) for _ in range(6)]

    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert set(answers[-1].json["error"]) == {"code", "message"}
    assert int(answers[-1].headers["retry-after"]) > 0
