"""What Podstack's page promises, through real Envoy. docs/profiles/podstack.md names each promise and its test."""

import io
import json
import re
import subprocess
import time

import openai
import pytest
import requests

from authz.admin.keys import KeyConflictError
from authz.core.bucket import Limit
from authz.demo.tour import Answer, ask
from tests.support.profile import ProfileStack, on_every_replica


pytestmark = pytest.mark.xdist_group("podstack")
CHAT = "/inference/v1/chat/completions"
MODELS = "/inference/v1/models"
LLAMA = "meta-llama/Llama-3.1-8B-Instruct"
HELLO = {"model": LLAMA, "messages": [{"role": "user", "content": "Hello!"}]}
EXAMPLE = """\
curl -X POST https://cloud.podstack.ai/inference/v1/chat/completions \\
  -H "Authorization: Bearer YOUR_INFERENCE_KEY" \\
  -H "Content-Type: application/json" \\
  -d '{
    "model": "meta-llama/Llama-3.1-8B-Instruct",
    "messages": [{"role": "user", "content": "Hello!"}]
  }'
"""
TOOLS = pytest.mark.parametrize("kind", ["jwt", "opaque"])


def client(stack: ProfileStack, key: str, retries: int = 0) -> openai.OpenAI:
    return openai.OpenAI(api_key=key, base_url=f"{stack.url}/inference/v1", max_retries=retries)


def chat(stack: ProfileStack, key: str | None, body: object = None) -> Answer:
    return stack.ask("POST", CHAT, key, body or HELLO)


def refused(answer: Answer) -> str:
    """The message, which the challenge has as well where a key was sent."""
    assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
    return answer.message


@TOOLS
def test_the_curl_of_the_page(podstack: ProfileStack, kind: str) -> None:
    answer = podstack.page(EXAMPLE, podstack.key(kind=kind).token)

    assert (answer.status, answer.json["model"]) == (200, LLAMA)
    assert answer.json["usage"] == {"prompt_tokens": 1, "completion_tokens": 3, "total_tokens": 4}


@TOOLS
def test_the_openai_sdk_of_the_page(podstack: ProfileStack, kind: str) -> None:
    """Chat completions, embeddings, audio transcription."""
    with client(podstack, podstack.key(kind=kind).token) as made:
        response = made.chat.completions.create(model=LLAMA, messages=[{"role": "user", "content": "Hello!"}])
        embedded = made.embeddings.create(model="mock-embedding", input="Hello!")
        heard = made.audio.transcriptions.create(model="whisper", file=("a.wav", io.BytesIO(bytes(2000))))
        models = [model.id for model in made.models.list()]

    assert response.choices[0].message.content == "You said: Hello!"
    assert embedded.usage.total_tokens == 1
    assert heard.text
    assert models


@TOOLS
def test_the_requests_of_the_page(podstack: ProfileStack, kind: str) -> None:
    headers = {"Authorization": f"Bearer {podstack.key(kind=kind).token}", "Content-Type": "application/json"}

    response = requests.post(
        f"{podstack.url}/inference/v1/chat/completions",
        headers=headers,
        json={"model": LLAMA, "messages": [{"role": "user", "content": "Hello!"}]},
        timeout=30,
    )

    assert (response.status_code, response.json()["choices"][0]["message"]["content"]) == (200, "You said: Hello!")


def test_an_account_token_is_told_apart(podstack: ProfileStack) -> None:
    """Genuine, and refused: by its audience, and the error says so. The reason stands in the log."""
    answer = chat(podstack, podstack.keys["account"])

    assert refused(answer) == "The token is not an API key of this API: it was issued for something else."
    assert "it was issued for something else" in answer.headers["www-authenticate"]
    with client(podstack, podstack.keys["account"]) as made, pytest.raises(openai.AuthenticationError) as error:
        made.models.list()
    assert "it was issued for something else" in str(error.value)
    for process in ("envoy", "authz"):
        assert podstack.logged(process, path=CHAT, reason="wrong_audience")


def test_an_inference_key_is_for_inference_alone(podstack: ProfileStack) -> None:
    """What is not below /inference/v1 is denied to it."""
    for path in ("/v1/chat/completions", "/api/v1/pods", "/inference", "/inference/v2/models"):
        answer = podstack.ask("GET", path, podstack.keys["default"])
        assert (answer.status, answer.json["error"]["code"]) == (403, "no_route")


def test_a_key_is_shown_once(podstack: ProfileStack) -> None:
    """The page of keys shows name, prefix, creation date and usage, and no key; nor has the store or a log one."""
    made = podstack.authz("keys", "create", "--name", "Production App")
    opaque = podstack.key(kind="opaque")
    assert [chat(podstack, token).status for token in (made["token"], opaque.token)] == [200, 200]

    (listed,) = podstack.authz("keys", "list", "--name", "Production App")["keys"]

    assert (listed["name"], listed["prefix"], listed["created_at"]) == (
        "Production App",
        made["token"][:8] + made["id"].removeprefix("key_")[:8],
        made["created_at"],
    )
    assert "token" not in listed
    assert made["token"] not in json.dumps(podstack.authz("keys", "show", made["id"]))
    with pytest.raises(KeyConflictError, match="tokens are not kept"):
        podstack.show_token(made["id"])
    logs, stored = podstack.logs(), podstack.stored(opaque.record.id)
    for token in (made["token"], opaque.token):
        assert token[8:] not in logs
        assert token[8:].encode() not in stored


def test_requests_a_minute_are_changed_while_all_runs(podstack: ProfileStack) -> None:
    key = podstack.key(limits={"requests": Limit(2, 60)})
    answers = [chat(podstack, key.token) for _ in range(3)]
    assert [answer.status for answer in answers] == [200, 200, 429]
    assert answers[-1].headers["x-ratelimit-limit"] == "2"
    assert answers[-1].json["error"]["code"] == "rate_limit_exceeded"
    assert 1 <= int(answers[-1].headers["retry-after"]) <= 30

    changed = podstack.authz("keys", "update", key.record.id, "--limit", "requests=600/1m")

    assert changed["limits"] == {"requests": "600/1m"}
    answer = chat(podstack, key.token)  # what was left is kept, and grows at the new pace from now on
    assert (answer.status, answer.headers["x-ratelimit-limit"], answer.headers["retry-after"]) == (429, "600", "1")
    time.sleep(1)
    answer = chat(podstack, key.token)
    assert (answer.status, answer.headers["x-ratelimit-limit"]) == (200, "600")


def test_tokens_a_minute_are_changed_while_all_runs(podstack: ProfileStack) -> None:
    """Unless a key has its own limit, it is 1,000,000."""
    above = chat(podstack, podstack.key().token, {**HELLO, "max_tokens": 1_000_001})
    assert (above.status, above.headers["x-ratelimit-limit"]) == (429, "1000000")
    key = podstack.key(limits={"tokens": Limit(100, 3600)})
    long = {**HELLO, "max_tokens": 200, "messages": [{"role": "user", "content": "word " * 150}]}
    assert chat(podstack, key.token, {**HELLO, "max_tokens": 50}).status == 200
    podstack.usage_when(key, lambda usage: usage["requests"] == 1)
    answer = chat(podstack, key.token, long)
    assert (answer.status, "tokens" in answer.message) == (429, True)

    podstack.authz("keys", "update", key.record.id, "--limit", "tokens=100000/1s", caller=podstack.keys["admin"])

    assert int(chat(podstack, key.token, long).headers["retry-after-ms"]) < 10  # at the old pace: an hour
    time.sleep(0.1)
    assert chat(podstack, key.token, long).status == 200


def test_limits_can_be_set_when_a_key_is_made(podstack: ProfileStack) -> None:
    """Unless they are, it is 600 requests."""
    assert chat(podstack, podstack.key().token).headers["x-ratelimit-limit"] == "600"

    made = podstack.authz("keys", "create", "--name", "x", "--limit", "requests=1/1m", "--limit", "tokens=5000/1m")

    assert made["limits"] == {"requests": "1/1m", "tokens": "5000/1m"}
    assert [chat(podstack, made["token"]).status for _ in range(2)] == [200, 429]


def test_the_sdk_waits_out_a_limit(podstack: ProfileStack) -> None:
    """429: without retries an error that says which limit; with them the SDK backs off as long as it is told."""
    key = podstack.key(limits={"requests": Limit(1, 1)}).token
    with client(podstack, key) as made:
        made.models.list()
        with pytest.raises(openai.RateLimitError, match="1 requests in 1 s"):
            made.models.list()
    with client(podstack, key, retries=2) as patient:
        assert list(patient.models.list())


def test_a_deleted_key_is_invalid_at_once_and_out_of_the_list(podstack: ProfileStack) -> None:
    """On both of two sidecars, and on connections that stay open."""
    with on_every_replica(podstack) as ask_all:
        for kind in ("jwt", "opaque"):
            key = podstack.key(name="to be deleted", kind=kind)
            assert {answer.status for answer in ask_all("GET", MODELS, key.token)} == {200}

            podstack.admin("POST", f"keys/{key.record.id}:revoke", {})

            answers = ask_all("GET", MODELS, key.token)
            assert {refused(answer) for answer in answers} == {"The API key has been revoked."}
            assert refused(chat(podstack, key.token)) == "The API key has been revoked."
            listed = podstack.authz("keys", "list", "--state", "active")["keys"]
            assert key.record.id not in {one["id"] for one in listed}
            assert podstack.records["default"].prefix in {one["prefix"] for one in listed}


def test_usage_is_watched(podstack: ProfileStack) -> None:
    """By hour, in the metrics, and in a line for each request that names the key and its tokens."""
    key = podstack.key(name="watched")
    before = decisions(podstack)
    for _ in range(3):
        assert chat(podstack, key.token).status == 200
    after = decisions(podstack)
    podstack.usage_when(key, lambda told: told["requests"] == 3)

    hours = podstack.authz("keys", "usage", "--by", "hour", "--subject", key.record.subject)["groups"]

    assert sum(hour["requests"] for hour in hours) == 3
    assert sum(hour["input_tokens"] + hour["output_tokens"] for hour in hours) == 3 * 4
    assert after - before == 3
    for line in podstack.logged("authz", 3, logger="authz.access", key_prefix=key.record.prefix):
        assert (line["path"], line["status"], line["input_tokens"], line["output_tokens"]) == (CHAT, 200, 1, 3)


def decisions(stack: ProfileStack) -> float:
    """How many requests of the API were let in."""
    told = ask(stack.port_of("metrics"), "GET", "/metrics").body.decode()
    (count,) = re.findall(r'^authz_decisions_total\{reason="allowed",route="inference"\} (\S+)$', told, re.MULTILINE)
    return float(count)


def test_usage_by_key_by_model_and_last_used(podstack: ProfileStack) -> None:
    """Streams and recordings are in it too: to the token."""
    key = podstack.key(name="usage")
    stream = {**HELLO, "stream": True, "stream_options": {"include_usage": True}}
    chat(podstack, key.token)
    chat(podstack, key.token, stream)
    podstack.ask("POST", "/inference/v1/embeddings", key.token, {"model": "mock-embedding", "input": "one two"})
    with client(podstack, key.token) as made:
        made.audio.transcriptions.create(model="whisper", file=("a.wav", io.BytesIO(bytes(2000))))

    usage = podstack.usage_when(key, lambda told: told["requests"] == 4)

    assert usage["by_model"] == {
        LLAMA: {"requests": 2, "input_tokens": 2, "output_tokens": 6},
        "mock-embedding": {"requests": 1, "input_tokens": 2, "output_tokens": 0},
        "whisper": {"requests": 1, "input_tokens": 2, "output_tokens": 5},
    }
    assert (usage["input_tokens"], usage["output_tokens"], usage["denied"]) == (6, 11, 0)
    assert usage["last_used_at"] >= podstack.authz("keys", "show", key.record.id)["created_at"][:16]  # to the minute
    (listed,) = podstack.authz("keys", "list", "--name", "usage")["keys"]
    assert listed["last_used_at"] == usage["last_used_at"]


def test_usage_in_total(podstack: ProfileStack) -> None:
    """Of all keys together, by model."""
    before = podstack.admin("GET", "usage")
    one, other = podstack.key(), podstack.key()
    for key in (one, other):
        chat(podstack, key.token, {**HELLO, "model": "of-the-total"})
    for key in (one, other):
        podstack.usage_when(key, lambda told: told["requests"] == 1)

    after = podstack.admin("GET", "usage?group_by=model")

    assert after["requests"] >= before["requests"] + 2
    assert after["input_tokens"] + after["output_tokens"] >= before["input_tokens"] + before["output_tokens"] + 8
    assert podstack.authz("keys", "usage", "--by", "model")["groups"] == after["groups"]
    (model,) = [group for group in after["groups"] if group["model"] == "of-the-total"]
    assert (model["requests"], model["input_tokens"], model["output_tokens"]) == (2, 2, 6)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        pytest.param("Bearer  KEY", "white space before the key", id="two spaces"),
        pytest.param("Bearer \tKEY", "white space before the key", id="a tab"),
        pytest.param("Bearer KEY KEY", "white space in the key", id="white space within"),
        pytest.param("Bearer Bearer KEY", "leave out one 'Bearer'", id="Bearer twice"),
        pytest.param("Bearer KE", "cut short", id="truncated"),
        pytest.param("KEY", "the scheme is missing: write 'Bearer'", id="no Bearer"),
        pytest.param("Basic KEY", "the scheme must be Bearer", id="another scheme"),
    ],
)
def test_a_key_copied_badly_is_told_so(podstack: ProfileStack, sent: str, told: str) -> None:
    key = podstack.keys["default"]
    value = sent.replace("KEY", key).replace("KE", key[:-5]) if "KEY" not in sent else sent.replace("KEY", key)

    answer = ask(podstack.port, "POST", CHAT, headers={"Authorization": value}, body=HELLO)

    assert told in refused(answer)
    assert told in answer.headers["www-authenticate"]


def test_white_space_after_the_key_is_no_part_of_the_header(podstack: ProfileStack) -> None:
    """HTTP takes it off, so such a key works."""
    headers = {"Authorization": f"Bearer {podstack.keys['default']} \t"}

    assert ask(podstack.port, "POST", CHAT, headers=headers, body=HELLO).status == 200


def test_white_space_that_clients_do_not_send(podstack: ProfileStack) -> None:
    """The page's own: what they refuse by themselves, authz never hears of."""
    key = podstack.keys["default"]

    with pytest.raises(openai.AuthenticationError, match="white space before the key"):
        client(podstack, f" {key}").models.list()
    for after in (" ", "\n"):
        with pytest.raises(openai.APIConnectionError):
            client(podstack, f"{key}{after}").models.list()
    url = f"{podstack.url}{MODELS}"
    sent = requests.get(url, headers={"Authorization": f"Bearer  {key}"}, timeout=30)
    assert "white space before the key" in sent.text
    assert requests.get(url, headers={"Authorization": f"Bearer {key} "}, timeout=30).status_code == 200
    with pytest.raises(requests.exceptions.InvalidHeader):
        requests.get(url, headers={"Authorization": f"Bearer {key}\n"}, timeout=30)
    command = ["curl", "-s", "-o", "/dev/null", "-w", "%{http_code}", "-H", f"Authorization: Bearer {key}\n", url]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "200"


def test_no_other_header_holds_a_key(podstack: ProfileStack) -> None:
    """And what stands in X-API-Key is not passed on."""
    key = podstack.keys["default"]

    refused(ask(podstack.port, "POST", CHAT, headers={"X-API-Key": key}, body=HELLO))
    seen = ask(podstack.port, "GET", "/inference/v1/echo", key=key, headers={"X-API-Key": key})
    assert (seen.status, key in seen.body.decode()) == (200, False)


def test_old_keys_are_deleted_and_new_ones_made(podstack: ProfileStack) -> None:
    """Rotation as the page has it, and separate keys for development and production."""
    development, production = podstack.key(name="Development"), podstack.key(name="Production")
    renewed = podstack.key(name="Production")
    podstack.revoke(production.record.id)

    assert [chat(podstack, key.token).status for key in (development, production, renewed)] == [200, 401, 200]
