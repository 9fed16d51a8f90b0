"""What InferexAI's page promises, through real Envoy. docs/profiles/inferexai.md names each promise and its test."""

import base64
import io
import json
import re
import subprocess
import time
from datetime import datetime
from typing import Any

import jwt
import openai
import pytest

from authz.admin.users import NewUser
from authz.app import SystemClock
from authz.demo.profiles import portal_session
from authz.demo.tour import Answer, ask
from tests.support.profile import PATIENCE_S, ProfileStack, on_every_replica


pytestmark = pytest.mark.xdist_group("inferexai")
CHAT = "/v1/chat/completions"
HELLO = {"model": "mock-chat", "messages": [{"role": "user", "content": "Hello!"}]}
MODELS = """\
curl https://inferexapi.cloudvoice.in/v1/models \\
  -H "Authorization: Bearer YOUR_API_KEY"
"""
CREATE = """\
# Keys are created via the dashboard UI or the portal API
curl https://inferexapi.cloudvoice.in/portal/keys \\
  -X POST \\
  -H "Authorization: Bearer <your-session-token>" \\
  -H "Content-Type: application/json" \\
  -d '{"name": "my-app-key"}'
"""
RESPONSE = """\
{
  "id": 42,
  "name": "my-app-key",
  "token": "sk-live-eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9...",
  "prefix": "sk-live-a1b2c3d4",
  "created_at": "2026-05-20T10:00:00Z"
}
"""
ENV = """\
# .env
INFEREXAI_API_KEY=sk-live-your-key-here
INFEREXAI_BASE_URL=https://inferexapi.cloudvoice.in/v1
"""
PASSWORD = "correct horse battery staple"  # pragma: allowlist secret
FORM = {
    "id": r"[0-9]+",
    "name": r"my-app-key",
    "token": re.escape(json.loads(RESPONSE)["token"].removesuffix("...")) + r"\.eyJ[\w-]+\.[\w-]{43}",
    "prefix": r"sk-live-[0-9a-f]{8}",
    "created_at": r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ",
}


def client(stack: ProfileStack, key: str) -> openai.OpenAI:
    """As the page makes it, with another address and key."""
    return openai.OpenAI(api_key=key, base_url=f"{stack.url}/v1", max_retries=0)


def chat(stack: ProfileStack, key: str | None) -> Answer:
    return stack.ask("POST", CHAT, key, HELLO)


def refused(answer: Answer) -> str:
    assert (answer.status, answer.json["error"]["code"]) == (401, "invalid_api_key")
    return answer.message


def made(stack: ProfileStack, session: str = "", name: str = "my-app-key") -> Any:
    """By the portal, through Envoy."""
    answer = stack.ask("POST", "/portal/keys", session or stack.keys["session"], {"name": name})
    assert answer.status == 200, answer.body
    return answer.json


def login(stack: ProfileStack, user: str, password: str) -> Answer:
    """Where the API is."""
    return stack.ask("POST", "/authz/v1/login", None, {"username": user, "password": password})


def parts(token: str) -> tuple[bytes, Any]:
    """The header as it was signed, and the payload."""
    header, payload, _ = (base64.urlsafe_b64decode(part + "==") for part in token.removeprefix("sk-live-").split("."))
    return header, json.loads(payload)


def used(stack: ProfileStack, key: Any, requests: int) -> Any:
    """How many requests are booked on this key; once they are as many as that, or will not be."""
    return stack.usage_when(parts(key["token"])[1]["jti"], lambda told: told["requests"] == requests)["requests"]


def test_the_header_of_the_page(inferexai: ProfileStack) -> None:
    """`Authorization: Bearer sk-live-…`: keys of the portal and of the command line alike."""
    for key in (made(inferexai)["token"], inferexai.keys["default"]):
        assert key.startswith("sk-live-eyJ")
        assert inferexai.page(MODELS, key).status == 200


@pytest.mark.parametrize(
    ("header", "told"),
    [
        pytest.param(None, "No API key was sent", id="none"),
        pytest.param("KEY", "the scheme is missing: write 'Bearer'", id="no Bearer"),
        pytest.param("Basic KEY", "the scheme must be Bearer", id="another scheme"),
        pytest.param("Bearer sk-live-xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx", "cut short", id="the page's x"),
        pytest.param(
            "Bearer sk-live-your-key-here", "characters or parts that no key has", id="the page's placeholder"
        ),
    ],
)
def test_every_request_must_have_a_valid_key(inferexai: ProfileStack, header: str | None, told: str) -> None:
    headers = {} if header is None else {"Authorization": header.replace("KEY", inferexai.keys["default"])}

    for method, path in (("GET", "/v1/models"), ("POST", CHAT), ("GET", "/v1/no-such-thing"), ("GET", "/internal")):
        assert told in refused(ask(inferexai.port, method, path, headers=headers, body=HELLO))
    assert inferexai.ask("GET", "/healthz").status == 200
    assert inferexai.ask("GET", "/internal", inferexai.keys["default"]).status == 403


def test_no_other_header_holds_a_key(inferexai: ProfileStack) -> None:
    """And what stands in X-API-Key is not passed on; nor is the key itself."""
    key = inferexai.keys["default"]

    refused(ask(inferexai.port, "GET", "/v1/models", headers={"X-API-Key": key}))
    seen = ask(inferexai.port, "GET", "/v1/echo", key=key, headers={"X-API-Key": key})
    assert (seen.status, key in seen.body.decode()) == (200, False)


def test_the_openai_sdk_of_the_page(inferexai: ProfileStack) -> None:
    with client(inferexai, made(inferexai)["token"]) as sdk:
        answer = sdk.chat.completions.create(model="mock-chat", messages=[{"role": "user", "content": "Hello!"}])
        stream = sdk.chat.completions.create(
            model="mock-chat", messages=[{"role": "user", "content": "Hello!"}], stream=True
        )
        told = "".join(event.choices[0].delta.content or "" for event in stream if event.choices)
        embedded = sdk.embeddings.create(model="mock-embedding", input="Hello!")
        heard = sdk.audio.transcriptions.create(model="whisper", file=("a.wav", io.BytesIO(bytes(2000))))
        models = [model.id for model in sdk.models.list()]

    assert answer.choices[0].message.content == told == "You said: Hello!"
    assert embedded.data[0].embedding
    assert heard.text
    assert models


def test_the_openai_sdk_is_told_what_is_wrong(inferexai: ProfileStack) -> None:
    with client(inferexai, "sk-live-your-key-here") as sdk, pytest.raises(openai.AuthenticationError):
        sdk.models.list()
    with client(inferexai, inferexai.keys["limited"]) as sdk:
        for _ in range(5):
            sdk.models.list()
        with pytest.raises(openai.RateLimitError, match="5 requests in 60 s"):
            sdk.models.list()


def test_every_key_is_a_jwt_signed_by_the_secret(inferexai: ProfileStack) -> None:
    """HS256 by AUTHZ_JWT_SECRET; any other JWT library verifies it, and one that another secret signed is refused."""
    secret = inferexai.environ["AUTHZ_JWT_SECRET"]
    for key in (made(inferexai)["token"], inferexai.key().token):
        header, payload = parts(key)
        assert header == b'{"alg":"HS256","typ":"JWT"}'
        assert jwt.decode(key.removeprefix("sk-live-"), secret, algorithms=["HS256"]) == payload

        forged = "sk-live-" + jwt.encode(payload, secret[::-1], algorithm="HS256")
        assert "signature" in refused(chat(inferexai, forged))
        unsigned = "sk-live-" + jwt.encode(payload, "", algorithm="none")
        refused(chat(inferexai, unsigned))


def test_the_payload_has_user_key_and_time(inferexai: ProfileStack) -> None:
    before_s = int(SystemClock().now_s())
    inferexai.add_user(NewUser("ada"), PASSWORD)
    session = login(inferexai, "ada", PASSWORD).json["token"]

    keys = [made(inferexai, session) for _ in range(3)]

    payloads = [parts(key["token"])[1] for key in keys]
    assert all(set(payload) == {"sub", "jti", "iat"} for payload in payloads)
    assert {payload["sub"] for payload in payloads} == {"ada"}
    assert len({payload["jti"] for payload in payloads}) == 3
    for key, payload in zip(keys, payloads, strict=True):
        assert inferexai.authz("keys", "show", key["prefix"])["id"] == payload["jti"]
        assert before_s <= payload["iat"] <= SystemClock().now_s() + 1
        assert int(datetime.fromisoformat(key["created_at"]).timestamp()) == int(payload["iat"])
    seen = inferexai.ask("GET", "/v1/echo", keys[0]["token"]).json["headers"]
    assert seen["x-authz-subject"] == "ada"


def test_a_key_is_made_as_the_page_has_it(inferexai: ProfileStack) -> None:
    """The page's command, and its answer: these members, in this order, of this form."""
    answer = inferexai.page(CREATE.replace("<your-session-token>", inferexai.keys["session"]), "")

    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    assert list(answer.json) == list(json.loads(RESPONSE))
    assert type(answer.json["id"]) is int
    for name, form in FORM.items():
        assert re.fullmatch(form, str(answer.json[name])), name
    age_s = SystemClock().now_s() - datetime.fromisoformat(answer.json["created_at"]).timestamp()
    assert -1 < age_s < 60
    assert chat(inferexai, answer.json["token"]).status == 200


def test_a_key_is_viewed_and_copied_at_any_time(inferexai: ProfileStack) -> None:
    """Whole, one by one and in the list, after use; in clear it is nowhere else: not in the store, in no log."""
    key = made(inferexai)
    chat(inferexai, key["token"])

    one = inferexai.ask("GET", f"/portal/keys/{key['id']}", inferexai.keys["session"])
    listed = inferexai.ask("GET", "/portal/keys?page_size=500", inferexai.keys["session"])

    assert (one.status, one.json) == (200, key)
    assert key in listed.json["keys"]
    assert "no-store" in one.headers["cache-control"]
    assert "no-store" in listed.headers["cache-control"]
    assert inferexai.show_token(key["prefix"]).token == key["token"]
    assert key["token"].removeprefix("sk-live-") not in inferexai.logs()
    assert key["token"].removeprefix("sk-live-").encode() not in inferexai.stored(parts(key["token"])[1]["jti"])


def test_a_key_is_viewed_after_a_restart(inferexai: ProfileStack) -> None:
    """It is in the store, not in a sidecar's memory."""
    key = made(inferexai)
    inferexai.processes["authz"].stop()
    inferexai.start_sidecar()

    deadline_s = time.monotonic() + PATIENCE_S
    while (one := inferexai.ask("GET", f"/portal/keys/{key['id']}", inferexai.keys["session"])).status == 503:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)
    assert one.json == key


def test_revocation_beats_a_valid_signature(inferexai: ProfileStack) -> None:
    """At once: the very next request, on both of two sidecars, on connections that stay open. It is shown no more."""
    session, secret = inferexai.keys["session"], inferexai.environ["AUTHZ_JWT_SECRET"]
    with on_every_replica(inferexai) as ask_all:
        for key in [made(inferexai) for _ in range(3)]:
            assert {answer.status for answer in ask_all("GET", "/v1/models", key["token"])} == {200}

            assert inferexai.ask("DELETE", f"/portal/keys/{key['id']}", session).status == 204

            answers = ask_all("GET", "/v1/models", key["token"])
            assert {refused(answer) for answer in answers} == {"The API key has been revoked."}
            assert jwt.decode(key["token"].removeprefix("sk-live-"), secret, algorithms=["HS256"])
            assert inferexai.ask("GET", f"/portal/keys/{key['id']}", session).status == 404


def test_any_key_can_be_revoked(inferexai: ProfileStack) -> None:
    """At the portal, on the command line, over the admin API; the others do not notice."""
    keys = [made(inferexai, name=name) for name in ("dev", "staging", "prod", "other")]

    assert inferexai.ask("DELETE", f"/portal/keys/{keys[0]['id']}", inferexai.keys["session"]).status == 204
    inferexai.revoke(keys[1]["prefix"])
    found = inferexai.authz("keys", "show", keys[2]["prefix"])["id"]
    inferexai.admin("POST", f"keys/{found}:revoke", {})

    assert [chat(inferexai, key["token"]).status for key in keys] == [401, 401, 401, 200]


def test_the_prefix_names_the_key_in_usage_logs(inferexai: ProfileStack) -> None:
    """In the sidecar's audit line and its access line, and in Envoy's; the key is in none. A refusal names it too."""
    key, other = made(inferexai), made(inferexai)
    assert re.fullmatch(r"sk-live-[0-9a-f]{8}", key["prefix"])
    assert key["prefix"] != other["prefix"]
    assert key["prefix"] == f"sk-live-{key['id']:08x}"

    for one in (key, other):
        assert inferexai.ask("GET", "/v1/echo", one["token"]).status == 200

    for one in (key, other):
        (envoy,) = inferexai.logged("envoy", path="/v1/echo", key_prefix=one["prefix"])
        assert (envoy["key_prefix"], envoy["reason"]) == (one["prefix"], "allowed")
        lines = inferexai.logged("authz", 2, path="/v1/echo", key_prefix=one["prefix"])
        assert {line["logger"] for line in lines} == {"authz.decisions", "authz.access"}
        assert one["token"].removeprefix("sk-live-") not in inferexai.logs()
    inferexai.revoke(key["prefix"])
    assert inferexai.ask("GET", "/v1/models/refused", key["token"]).status == 401
    refusal = {"path": "/v1/models/refused", "key_prefix": key["prefix"], "reason": "revoked"}
    assert len(inferexai.logged("envoy", **refusal)) == 1
    assert {line["logger"] for line in inferexai.logged("authz", 2, **refusal)} == {"authz.decisions", "authz.access"}


def test_usage_by_key(inferexai: ProfileStack) -> None:
    """To the token, streams included; by the prefix that the portal shows."""
    key = made(inferexai)
    chat(inferexai, key["token"])
    inferexai.ask("POST", CHAT, key["token"], HELLO | {"stream": True, "stream_options": {"include_usage": True}})
    deadline_s = time.monotonic() + PATIENCE_S
    while (usage := inferexai.authz("keys", "usage", key["prefix"]))["requests"] < 2:
        assert time.monotonic() < deadline_s
        time.sleep(0.1)

    hours = inferexai.authz("keys", "usage", "--by", "key", "--by", "hour")["groups"]
    assert usage["by_model"] == {"mock-chat": {"requests": 2, "input_tokens": 2, "output_tokens": 6}}
    assert sum(hour["requests"] for hour in hours if hour["key_id"] == usage["id"]) == 2
    assert usage["last_used_at"] >= key["created_at"][:16]  # to the minute


def test_separate_keys_for_each_environment(inferexai: ProfileStack) -> None:
    """As many as one likes: each with a record, a limit and usage of its own, and all in the user's list."""
    session = portal_session(inferexai)["session"]
    keys = {name: made(inferexai, session, name) for name in ("dev", "staging", "prod")}

    listed = inferexai.ask("GET", "/portal/keys", session).json["keys"]

    assert [key["name"] for key in listed] == ["prod", "staging", "dev"]
    assert len({key[what] for key in keys.values() for what in ("id", "token", "prefix")}) == 9
    left = [chat(inferexai, key["token"]).headers["x-ratelimit-remaining"] for key in keys.values()]
    assert left == ["599"] * 3
    assert chat(inferexai, keys["prod"]["token"]).status == 200
    assert [used(inferexai, key, requests) for key, requests in zip(keys.values(), (1, 1, 2), strict=True)] == [1, 1, 2]


def test_the_key_and_the_address_from_the_environment(inferexai: ProfileStack) -> None:
    """The page's .env, with this stack's values."""
    told = ENV.replace("sk-live-your-key-here", made(inferexai)["token"])
    told = told.replace("https://inferexapi.cloudvoice.in", inferexai.url)
    script = f'{told}curl -sf "$INFEREXAI_BASE_URL/models" -H "Authorization: Bearer $INFEREXAI_API_KEY"'

    ended = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert json.loads(ended.stdout)["object"] == "list"


def test_the_portal_wants_a_session(inferexai: ProfileStack) -> None:
    """An API key is none, not even an admin's; nor is a claimed identity. And a session is no API key."""
    for method, body in (("POST", {"name": "x"}), ("GET", None)):
        nobody = refused(inferexai.ask(method, "/portal/keys", None, body))
        assert nobody == "No session token was sent: send it as 'Authorization: Bearer TOKEN'."
        neither = ask(inferexai.port, method, "/portal/keys", key="neither", body=body)
        assert "send the session token of a user who has logged in" in refused(neither)
        for name in ("default", "admin"):
            answer = inferexai.ask(method, "/portal/keys", inferexai.keys[name], body)
            assert "send the session token" in refused(answer)
        headers = {"x-authz-subject": "ada", "x-authz-scopes": "admin", "x-authz-key-id": "usr_x"}
        refused(ask(inferexai.port, method, "/portal/keys", headers=headers, body=body))
    assert "send an API key" in refused(chat(inferexai, inferexai.keys["session"]))


def test_users_see_their_own_keys_alone(inferexai: ProfileStack) -> None:
    eve, key = portal_session(inferexai)["session"], made(inferexai)

    assert inferexai.ask("GET", "/portal/keys", eve).json["keys"] == []
    for method in ("GET", "DELETE"):
        assert inferexai.ask(method, f"/portal/keys/{key['id']}", eve).status == 404
    assert chat(inferexai, key["token"]).status == 200


@pytest.mark.parametrize(
    "path",
    ["/portalx/keys", "/portal;x/keys", "/v1/../portal/keys", "/%70ortal/keys", "/portal/authz/v1/keys", "/portal"],
)
def test_no_spelling_of_the_path_gets_around_the_door(inferexai: ProfileStack, path: str) -> None:
    """Not for an API key, though it may all that the API has."""
    assert inferexai.ask("GET", path, inferexai.keys["admin"]).status in {400, 401, 403, 404}


def test_users_log_in_where_the_api_is(inferexai: ProfileStack) -> None:
    """And get the session by which they make a key; tries are limited."""
    inferexai.add_user(NewUser("bob"), PASSWORD)

    answer = login(inferexai, "bob", PASSWORD)

    assert (answer.status, list(answer.json)) == (200, ["token", "expires_at"])
    assert "no-store" in answer.headers["cache-control"]
    assert chat(inferexai, made(inferexai, answer.json["token"])["token"]).status == 200
    wrong = [login(inferexai, "bob", PASSWORD[:-1]) for _ in range(8)]
    assert {refusal.status for refusal in wrong} == {401, 429}
    assert wrong[0].json["error"]["code"] == "invalid_credentials"
    assert PASSWORD[:-1] not in inferexai.logs()
    other = inferexai.ask("GET", "/authz/v1/login", None)
    assert (other.status, other.headers["allow"]) == (405, "POST")


def test_the_rest_of_authz_is_not_at_the_edge(inferexai: ProfileStack) -> None:
    for path in (
        "/authz/v1/keys",
        "/portal/../authz/v1/keys",
        "/authz/v1/login/x",
        "/authz/v1/login/../keys",
        "/authz/v1/loginx",
        "/authz/v1/openapi.json",
    ):
        answer = inferexai.ask("GET", path, inferexai.keys["admin"])
        assert (answer.status, answer.json["error"]["code"]) == (403, "no_route")
