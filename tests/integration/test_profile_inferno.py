"""What Inferno's page promises, through real Envoy. docs/profiles/inferno.md names each promise and its test."""

import http.client
import json
import socket
import ssl
import subprocess
import time
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from datetime import datetime, timedelta

import pytest
import requests

from authz.admin.users import NewUser
from authz.app import SystemClock
from authz.cli.demo import welcome
from authz.core.bucket import Limit
from authz.demo.processes import free_port
from authz.demo.profiles import inferno_session
from authz.demo.tour import Answer, ask
from tests.support.profile import PLENTY, ProfileStack, as_authz_writes, as_sent, before_another_api


pytestmark = pytest.mark.xdist_group("inferno")
MB = 1_000_000
INFERENCE = "/api/v1/inference"
HELLO = {"prompt": "Hello, world!", "model": "llama-7b"}
ORIGIN = "https://your-frontend.com"
WITH_JWT = """\
curl -H "Authorization: Bearer <your-jwt-token>" \\
https://inferno.example.com/api/v1/models"""
WITH_KEY = """\
curl -H "X-API-Key: <your-api-key>" \\
https://inferno.example.com/api/v1/models"""
LOGIN = """\
# Login to get JWT token
curl -X POST https://inferno.example.com/api/v1/auth/login \\
-H "Content-Type: application/json" \\
-d '{"username": "admin", "password": "your-password"}'
"""
CREATE = """\
curl -X POST https://inferno.example.com/api/v1/auth/api-keys \\
-H "Authorization: Bearer <admin-token>" \\
-H "Content-Type: application/json" \\
-d '{
"name": "production-key",
"permissions": ["read_models", "run_inference"],
"expires_in_days": 90
}'
"""
DELETE = """\
curl -X DELETE https://inferno.example.com/api/v1/auth/api-keys/<key-id> \\
-H "Authorization: Bearer <admin-token>"
"""
INFER = """\
curl -X POST https://inferno.example.com/api/v1/inference \\
-H "Content-Type: application/json" \\
-H "Authorization: Bearer <token>" \\
-d '{"prompt": "Hello, world!", "model": "llama-7b"}'
"""
ERROR = """\
{
"error": {
"code": "AUTHENTICATION_FAILED",
"message": "Invalid API key",
"details": null
}
}
"""
PERMISSIONS = {  # what each is for
    "read_models": [("GET", "/api/v1/models"), ("GET", "/api/v1/models/llama-7b")],
    "write_models": [("POST", "/api/v1/models"), ("PUT", "/api/v1/models/m"), ("PATCH", "/api/v1/models/m")],
    "delete_models": [("DELETE", "/api/v1/models/llama-7b")],
    "run_inference": [("POST", INFERENCE)],
    "manage_cache": [("GET", "/api/v1/cache"), ("DELETE", "/api/v1/cache/llama-7b"), ("POST", "/api/v1/cache")],
    "read_metrics": [("GET", "/api/v1/metrics"), ("GET", "/api/v1/metrics/system")],
    "write_config": [("PUT", "/api/v1/config"), ("PATCH", "/api/v1/config/server"), ("POST", "/api/v1/config")],
    "manage_users": [("GET", "/api/v1/users"), ("POST", "/api/v1/users"), ("DELETE", "/api/v1/users/ada")],
    "view_audit_logs": [("GET", "/api/v1/audit-logs")],
    "use_streaming": [("POST", f"{INFERENCE}/stream")],
    "manage_queue": [("GET", "/api/v1/queue"), ("POST", "/api/v1/queue/jobs"), ("DELETE", "/api/v1/queue/jobs/1")],
}
TOGETHER = {"use_streaming": ("run_inference",)}  # what has to be held beside


def refused(answer: Answer, status: int, code: str) -> str:
    error = answer.json["error"]
    assert (answer.status, error["code"]) == (status, code), answer.body
    assert set(error) == {"code", "message", "details"}
    return str(error["message"])


def send(stack: ProfileStack, key: str, body: object, path: str = INFERENCE, **headers: str) -> Answer:
    """*body*: bytes, or pieces of unknown length, or what becomes JSON."""
    sent = {"authorization": f"Bearer {key}", "content-type": "application/json", **headers}
    data = body if isinstance(body, bytes | Iterator) else json.dumps(body).encode()
    with closing(http.client.HTTPConnection("127.0.0.1", stack.port, timeout=60)) as connection:
        connection.request("POST", path, data, sent, encode_chunked=isinstance(body, Iterator))
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def of_size(size: int) -> bytes:
    body = json.dumps({**HELLO, "padding": ""}).encode()
    return body.replace(b'"padding": ""', b'"padding": "' + b"x" * (size - len(body)) + b'"')


def test_the_jwt_of_the_page(inferno: ProfileStack) -> None:
    """The login's token."""
    assert inferno.keys["session"].startswith("eyJ")

    assert inferno.page(WITH_JWT.replace("<your-jwt-token>", inferno.keys["session"]), "").status == 200


@pytest.mark.parametrize("kind", ["opaque", "jwt"])
def test_the_api_key_of_the_page(inferno: ProfileStack, kind: str) -> None:
    """In either header, whatever its kind; the upstream sees it in neither."""
    key = inferno.key("read_models", kind=kind).token

    assert inferno.page(WITH_KEY.replace("<your-api-key>", key), "").status == 200
    assert inferno.page(WITH_JWT.replace("<your-jwt-token>", key), "").status == 200
    for header in ({"X-API-Key": key}, {"Authorization": f"Bearer {key}"}):
        seen = ask(inferno.port, "GET", "/api/v1/models/echo", headers=header)
        assert (seen.status, key in seen.body.decode()) == (200, False)


def test_the_login_of_the_page(inferno: ProfileStack) -> None:
    answer = inferno.page(LOGIN.replace("your-password", inferno.passwords["admin"]), "")

    assert (answer.status, list(answer.json)) == (200, ["token", "expires_at"])
    assert answer.json["token"].startswith("eyJ")
    assert answer.headers["x-ratelimit-limit"] == "5"  # tries for each user
    assert datetime.fromisoformat(answer.json["expires_at"]).timestamp() > SystemClock().now_s()
    assert inferno.ask("GET", "/api/v1/models", answer.json["token"]).status == 200
    stored = inferno.stored(inferno.records["admin"].id)
    assert b"$argon2id$" in stored
    assert inferno.passwords["admin"].encode() not in stored


def test_a_wrong_password_is_told_and_limited(inferno: ProfileStack) -> None:
    inferno.add_user(NewUser("eve"), "correct horse battery staple")
    wrong = {"username": "eve", "password": "wrong horse battery staple"}

    answers = [inferno.ask("POST", "/api/v1/auth/login", None, wrong) for _ in range(6)]

    assert [answer.status for answer in answers] == [401] * 5 + [429]
    refused(answers[0], 401, "AUTHENTICATION_FAILED")
    refused(answers[-1], 429, "RATE_LIMITED")
    assert int(answers[-1].headers["retry-after"]) > 0
    assert "wrong horse" not in inferno.logs()


def test_a_key_is_made_and_revoked_as_the_page_has_it(inferno: ProfileStack) -> None:
    def page(command: str) -> Answer:
        return inferno.page(command.replace("<admin-token>", inferno.keys["session"]), "")

    made = page(CREATE)
    assert made.status == 200, made.body
    assert list(made.json) == ["id", "name", "key", "permissions", "created_at", "expires_at"]
    assert (made.json["name"], made.json["permissions"]) == ("production-key", ["read_models", "run_inference"])
    ends = datetime.fromisoformat(made.json["expires_at"]) - datetime.fromisoformat(made.json["created_at"])
    assert ends == timedelta(days=90)
    key = made.json["key"]
    assert inferno.ask("GET", "/api/v1/models", key).status == 200
    assert send(inferno, key, HELLO).status == 200
    assert inferno.ask("GET", "/api/v1/metrics", key).status == 403
    assert key not in inferno.logs()
    assert key.encode() not in inferno.stored(made.json["id"])

    assert page(DELETE.replace("<key-id>", made.json["id"])).status == 204
    refused(inferno.ask("GET", "/api/v1/models", key), 401, "AUTHENTICATION_FAILED")


def test_who_may_manage_keys(inferno: ProfileStack) -> None:
    """A key with manage_users too; without it nobody, whoever one claims to be. And nobody grants what they lack."""
    asked = {"name": "n", "permissions": ["manage_users"]}
    path = "/api/v1/auth/api-keys"

    assert inferno.ask("POST", path, inferno.keys["manage_users"], asked).status == 200
    refused(inferno.ask("POST", path, inferno.keys["read_models"], asked), 403, "PERMISSION_DENIED")
    more = inferno.ask("POST", path, inferno.keys["manage_users"], asked | {"permissions": ["run_inference"]})
    refused(more, 403, "PERMISSION_DENIED")
    claimed = {"x-authz-scopes": "admin,manage_users", "x-authz-key-id": inferno.records["admin"].id}
    refused(ask(inferno.port, "POST", path, headers=claimed, body=asked), 401, "AUTHENTICATION_FAILED")
    unknown = inferno.ask("POST", path, inferno.keys["admin"], asked | {"permissions": ["no_such_permission"]})
    refused(unknown, 400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    "path",
    ["/api/v1/authx/login", "/api/v1/auth;x/login", "/api/v1/models/../auth", "/authz/v1/keys", "/api/v1/auth/../../x"],
)
def test_no_spelling_of_the_path_gets_around_the_doors(inferno: ProfileStack, path: str) -> None:
    assert inferno.ask("GET", path, inferno.keys["admin"]).status in {400, 401, 403, 404, 405}


@pytest.mark.parametrize("permission", PERMISSIONS)
def test_each_permission_opens_its_paths_and_no_others(inferno: ProfileStack, permission: str) -> None:
    beside = TOGETHER.get(permission, ())
    holder = inferno.key(permission, *beside, limits=PLENTY).token
    others = inferno.key(*(name for name in PERMISSIONS if name != permission), limits=PLENTY).token

    for method, path in PERMISSIONS[permission]:
        body = None if method in {"GET", "DELETE"} else HELLO
        answer = inferno.ask(method, path, holder, body)
        assert answer.status == 200, answer
        assert body is None or '"llama-7b"' in answer.body.decode()
        assert permission in refused(inferno.ask(method, path, others, body), 403, "PERMISSION_DENIED")
    for name, paths in PERMISSIONS.items():
        if name not in {permission, *beside}:
            for method, path in paths:
                body = None if method in {"GET", "DELETE"} else HELLO
                refused(inferno.ask(method, path, holder, body), 403, "PERMISSION_DENIED")


def test_admin_has_every_permission(inferno: ProfileStack) -> None:
    key = inferno.key("admin", limits=PLENTY).token

    for method, path in (each for paths in PERMISSIONS.values() for each in paths):
        assert inferno.ask(method, path, key, None if method in {"GET", "DELETE"} else HELLO).status == 200


def test_what_no_permission_is_for_is_denied(inferno: ProfileStack) -> None:
    for method, path in (("GET", "/api/v1/config"), ("GET", "/api/v1/no-such-thing"), ("GET", "/v1/models")):
        refused(inferno.ask(method, path, inferno.keys["admin"]), 403, "PERMISSION_DENIED")


def test_streaming_has_a_path_of_its_own(inferno: ProfileStack) -> None:
    key = inferno.key("run_inference", "use_streaming").token

    answer = send(inferno, key, HELLO, f"{INFERENCE}/stream")

    assert (answer.status, answer.headers["content-type"].split(";")[0]) == (200, "text/event-stream")
    assert '"done":true' in answer.body.decode()
    for permission in ("run_inference", "use_streaming"):
        refused(send(inferno, inferno.keys[permission], HELLO, f"{INFERENCE}/stream"), 403, "PERMISSION_DENIED")


def test_stream_in_the_body_takes_the_permission(inferno: ProfileStack) -> None:
    """Whatever it says but false, in any case; a refusal spends nothing, and comes before the rules."""
    alone, both = inferno.key("run_inference"), inferno.key("run_inference", "use_streaming")

    for more in ({"stream": True}, {"stream": "false"}, {"Stream": 1}, {"stream": True, "prompt": "x" * 10_001}):
        message = refused(send(inferno, alone.token, HELLO | more), 403, "PERMISSION_DENIED")
        assert "use_streaming" in message
    twice = b'{"prompt":"x","stream":false,"stream":true}'
    refused(send(inferno, alone.token, iter([twice[:20], twice[20:]])), 403, "PERMISSION_DENIED")
    quiet = [send(inferno, alone.token, HELLO | more) for more in ({}, {"stream": False})]
    streaming = send(inferno, both.token, HELLO | {"stream": True})

    left = [(answer.status, answer.headers["x-ratelimit-remaining"]) for answer in quiet]
    assert left == [(200, "59"), (200, "58")]
    assert streaming.status == 200
    refused(send(inferno, both.token, HELLO | {"stream": True, "prompt": "x" * 10_001}), 400, "VALIDATION_ERROR")


def test_limits_are_told(inferno: ProfileStack) -> None:
    key = inferno.key("read_models")

    first, second = (inferno.ask("GET", "/api/v1/models", key.token) for _ in range(2))

    assert (first.headers["x-ratelimit-limit"], first.headers["x-ratelimit-remaining"]) == ("60", "59")
    assert second.headers["x-ratelimit-remaining"] == "58"
    assert abs(int(first.headers["x-ratelimit-reset"]) - SystemClock().now_s()) < 120  # a time, as the page has it
    door, user = "/api/v1/auth/api-keys", inferno.key("manage_users").token
    made = inferno.ask("POST", door, user, {"name": "n", "permissions": ["manage_users"]})
    gone = inferno.ask("DELETE", f"{door}/{made.json['id']}", user)
    assert (made.status, gone.status) == (200, 204)
    for answer, left in ((made, "59"), (gone, "58")):
        assert (answer.headers["x-ratelimit-limit"], answer.headers["x-ratelimit-remaining"]) == ("60", left)


def test_inference_is_spent_once(inferno: ProfileStack) -> None:
    """Though two checks judge it."""
    key = inferno.key("run_inference")

    left = [send(inferno, key.token, HELLO).headers["x-ratelimit-remaining"] for _ in range(3)]

    assert left == ["59", "58", "57"]
    usage = inferno.usage_when(key, lambda told: told["requests"] >= 3)
    assert (usage["requests"], usage["denied"]) == (3, 0)


def test_too_many_requests(inferno: ProfileStack) -> None:
    key = inferno.key("read_models").token
    answers = [inferno.ask("GET", "/api/v1/models", key) for _ in range(62)]

    assert {answer.status for answer in answers[:60]} == {200}
    limited = next(answer for answer in answers if answer.status == 429)
    refused(limited, 429, "RATE_LIMITED")
    assert int(limited.headers["retry-after"]) > 0
    assert limited.headers["x-ratelimit-remaining"] == "0"


def test_the_retry_loop_of_the_page(inferno: ProfileStack) -> None:
    """As it stands."""
    slept: list[float] = []

    def make_request_with_retry(url: str, headers: Mapping[str, str], max_retries: int = 5) -> requests.Response:
        for attempt in range(max_retries):
            response = requests.get(url, headers=headers)
            if response.status_code == 429:
                retry_after = int(response.headers.get("Retry-After", 60))
                slept.append(retry_after * (2**attempt))
                time.sleep(retry_after * (2**attempt))
                continue
            return response
        raise Exception("Max retries exceeded")  # noqa: TRY002 - the page's

    key = inferno.key("read_models", limits={"requests": Limit(1, 2)}).token
    got = [
        make_request_with_retry(f"{inferno.url}/api/v1/models", {"Authorization": f"Bearer {key}"}) for _ in range(2)
    ]

    assert [response.status_code for response in got] == [200, 200]
    assert len(slept) == 1
    assert 1 <= slept[0] <= 2


def test_the_inference_of_the_page(inferno: ProfileStack) -> None:
    answer = inferno.page(INFER.replace("<token>", inferno.key("run_inference").token), "")

    assert (answer.status, answer.json["model"]) == (200, "llama-7b")


@pytest.mark.parametrize("path", [INFERENCE, f"{INFERENCE}/stream"])
def test_prompts_of_ten_thousand_characters_at_most(inferno: ProfileStack, path: str) -> None:
    key = inferno.key("run_inference", "use_streaming")

    assert send(inferno, key.token, HELLO | {"prompt": "é" * 10_000}, path).status == 200
    long = send(inferno, key.token, HELLO | {"prompt": "é" * 10_001}, path)
    assert refused(long, 400, "VALIDATION_ERROR") == "The prompt is too long: at most 10000 characters."
    assert send(inferno, key.token, HELLO, path).headers["x-ratelimit-remaining"] == "58"


def test_bodies_of_ten_megabytes_at_most(inferno: ProfileStack) -> None:
    """Refused by their headers alone where these tell it. What Envoy itself cannot hold is a 400 too."""
    infer, write = inferno.key("run_inference").token, inferno.key("write_models").token
    for key, path in ((infer, INFERENCE), (write, "/api/v1/models")):
        assert send(inferno, key, of_size(10 * MB), path).status == 200
        head = f"POST {path} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
        with socket.create_connection(("127.0.0.1", inferno.port), timeout=30) as client:
            client.sendall(f"{head}Content-Length: {10 * MB + 1}\r\n\r\n".encode())
            told = client.recv(65536)
        assert told.startswith(b"HTTP/1.1 400 ")
        assert b'"VALIDATION_ERROR"' in told
    pieces = [of_size(11 * MB)[place : place + MB] for place in range(0, 11 * MB, MB)]
    of_envoy = send(inferno, infer, iter(pieces))
    assert (of_envoy.status, of_envoy.body.decode()) == as_authz_writes("inferno")["reply.413"]
    untold = send(inferno, write, iter([json.dumps(HELLO).encode()]), "/api/v1/models")
    refused(untold, 400, "VALIDATION_ERROR")
    refused(send(inferno, infer, iter([b'{"prompt":"', b"x" * 10_001, b'"}'])), 400, "VALIDATION_ERROR")
    assert send(inferno, infer, iter([json.dumps(HELLO).encode()])).status == 200


@pytest.mark.parametrize("path", [INFERENCE, "/api/v1/models", "/api/v1/queue"])
def test_the_content_type_is_json(inferno: ProfileStack, path: str) -> None:
    key = inferno.key("admin").token

    assert send(inferno, key, HELLO, path, **{"content-type": "application/json; charset=utf-8"}).status == 200
    for other in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
        refused(send(inferno, key, b"x", path, **{"content-type": other}), 400, "VALIDATION_ERROR")
    if path == INFERENCE:
        refused(send(inferno, key, b"{", path), 400, "VALIDATION_ERROR")


@pytest.mark.parametrize(
    ("headers", "told"),
    [
        pytest.param({}, "Bearer", id="none"),
        pytest.param({"X-API-Key": "wrong"}, "keys of this API start with sk-live-", id="wrong"),
        pytest.param({"Authorization": "Basic eA=="}, "", id="another scheme"),
    ],
)
def test_the_401_of_the_page(inferno: ProfileStack, headers: dict[str, str], told: str) -> None:
    answer = ask(inferno.port, "GET", "/api/v1/models", headers=headers)

    assert (answer.status, answer.body) == (401, as_sent(ERROR))
    assert told in answer.headers["www-authenticate"]
    assert ask(inferno.port, "POST", INFERENCE, headers=headers, body=HELLO).body == as_sent(ERROR)


def test_what_envoy_itself_answers_has_the_same_shape(inferno: ProfileStack) -> None:
    """Byte for byte as authz writes it; and 400 for all that is wrong with the input."""
    told = inferno.envoys_own()

    assert told.items() <= as_authz_writes("inferno").items()
    assert {told[name][0] for name in ("reply.400", "reply.431", "reply.501")} == {400}


def test_a_server_error_is_told(inferno: ProfileStack) -> None:
    """The API is away: 503, as it may come back; it does not answer: 504. Its own 500 is its own."""
    key, own = inferno.key("read_models").token, b'{"own":"error"}'
    api, port = socket.socket(), free_port()
    with closing(api), before_another_api(inferno, port) as edge, ThreadPoolExecutor(1) as pool:
        away = ask(edge, "GET", "/api/v1/models", key=key)
        api.bind(("127.0.0.1", port))
        api.listen()
        api.settimeout(30)
        broken = pool.submit(answer_once, api, b"HTTP/1.1 500 Oh\r\nContent-Length: 15\r\n\r\n" + own)
        passed = ask(edge, "GET", "/api/v1/models", key=key)
        broken.result()
        late = ask(edge, "GET", "/api/v1/models", key=key)

    refused(away, 503, "INTERNAL_ERROR")
    assert (away.json["error"]["details"], away.headers["retry-after"]) == (None, "1")
    assert (passed.status, passed.body) == (500, own)
    assert (late.status, late.body.decode()) == as_authz_writes("inferno")["reply.504"]
    assert "retry-after" not in late.headers


def answer_once(api: socket.socket, answer: bytes) -> None:
    """Whoever asks next."""
    connection, _ = api.accept()
    with connection:
        connection.recv(65536)
        connection.sendall(answer)


def test_a_page_may_ask(inferno: ProfileStack) -> None:
    """Its preflight needs no key, and the answers, refusals among them, can be read with their limits."""
    wanted = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "x-api-key,content-type"}
    for path in (INFERENCE, "/api/v1/auth/login"):
        told = ask(inferno.port, "OPTIONS", path, headers={"Origin": ORIGIN} | wanted)
        assert (told.status, told.body) == (200, b"")
        assert told.headers["access-control-allow-origin"] == ORIGIN
        assert told.headers["access-control-allow-methods"] == "GET, POST, DELETE"
        assert told.headers["access-control-allow-headers"] == "Authorization, Content-Type, X-API-Key"

    key = inferno.key("read_models").token
    for headers, status in (({"X-API-Key": key}, 200), ({}, 401)):
        answer = ask(inferno.port, "GET", "/api/v1/models", headers={"Origin": ORIGIN} | headers)
        assert (answer.status, answer.headers["access-control-allow-origin"]) == (status, ORIGIN)
        exposed = answer.headers["access-control-expose-headers"].lower().split(", ")
        assert {"x-ratelimit-limit", "x-ratelimit-remaining", "x-ratelimit-reset", "retry-after"} <= {*exposed}


def test_a_foreign_page_may_not(inferno: ProfileStack) -> None:
    key = inferno.key("read_models").token
    for origin in (
        "https://evil.example",
        "https://your-frontend.com.evil.example",
        "http://your-frontend.com",
        "null",
    ):
        asked = {"Origin": origin, "Access-Control-Request-Method": "GET"}
        told = ask(inferno.port, "OPTIONS", "/api/v1/models", headers=asked)
        got = ask(inferno.port, "GET", "/api/v1/models", headers={"Origin": origin, "X-API-Key": key})
        assert "access-control-allow-origin" not in {**told.headers, **got.headers}
        assert (told.status, told.body) == (200, b"")


def negotiated(stack: ProfileStack, least: ssl.TLSVersion, most: ssl.TLSVersion) -> str | None:
    context = ssl.create_default_context(cafile=str(stack.certificate))
    context.set_alpn_protocols(["h2", "http/1.1"])
    context.set_ciphers("ALL:@SECLEVEL=0")  # the old versions are the server's to refuse
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version, context.maximum_version = least, most
    with (
        socket.create_connection(("127.0.0.1", stack.tls_port), timeout=30) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as wrapped,
    ):
        assert wrapped.selected_alpn_protocol() == "h2"
        return wrapped.version()


def test_tls_1_2_at_least_and_1_3_where_the_client_can(inferno: ProfileStack) -> None:
    version = ssl.TLSVersion

    assert negotiated(inferno, version.TLSv1_2, version.TLSv1_3) == "TLSv1.3"
    assert negotiated(inferno, version.TLSv1_2, version.TLSv1_2) == "TLSv1.2"
    for old in (version.TLSv1, version.TLSv1_1):
        with pytest.raises(ssl.SSLError, match="PROTOCOL_VERSION"):
            negotiated(inferno, old, old)


def test_certificates_are_validated(inferno: ProfileStack) -> None:
    """`verify=True`, with who signed it; without that nothing is sent. All is checked as on the other port."""
    key = inferno.key("read_models", "run_inference").token
    url, headers = inferno.url_tls, {"X-API-Key": key}
    trusted = str(inferno.certificate)

    assert requests.get(f"{url}/api/v1/models", headers=headers, verify=trusted, timeout=30).status_code == 200
    assert requests.get(f"{url}/api/v1/models", verify=trusted, timeout=30).json() == json.loads(ERROR)
    long = HELLO | {"prompt": "x" * 10_001}
    told = requests.post(f"{url}{INFERENCE}", json=long, headers=headers, verify=trusted, timeout=30)
    assert told.status_code == 400
    login = {"username": "admin", "password": "wrong horse battery staple"}
    assert requests.post(f"{url}/api/v1/auth/login", json=login, verify=trusted, timeout=30).status_code == 401
    with pytest.raises(requests.exceptions.SSLError):
        requests.get(f"{url}/api/v1/models", headers=headers, timeout=30)


def test_where_the_demo_listens(inferno: ProfileStack) -> None:
    told = inferno.describe()

    assert (told["envoy_tls"], told["passwords"]) == (inferno.url_tls, inferno.passwords)
    assert inferno.certificate is not None
    text = welcome(inferno)
    for begin in ("# 200: admin logs in\n", "# 200: the first one by TLS\n"):
        line = text.split(begin)[1].splitlines()[0].replace("curl -i", "curl -sfo /dev/null")
        exported = f"export READ_MODELS={inferno.keys['read_models']}"
        subprocess.run(["bash", "-c", f"{exported}\n{line}"], timeout=60, check=True)
    assert oct(inferno.certificate.with_suffix(".key").stat().st_mode)[-3:] == "600"


def test_the_demo_leaves_a_user_who_is_there_alone(inferno: ProfileStack) -> None:
    before = dict(inferno.passwords)

    made = inferno_session(inferno)["session"]

    (name,) = inferno.passwords.keys() - before.keys()
    assert name.startswith("admin-")
    assert inferno.passwords.pop(name) != before["admin"]
    for session in (made, inferno.keys["session"]):
        assert inferno.ask("GET", "/api/v1/models", session).status == 200


def test_every_request_is_logged(inferno: ProfileStack) -> None:
    """When, from where, who, what, status, and how long: those of users and keys, and refusals."""
    key = inferno.key("read_models")
    for token, user in ((key.token, key.record.subject), (inferno.keys["session"], "admin")):
        path = f"/api/v1/models/of-{user}"
        assert inferno.ask("GET", path, token).status == 200
        (line,) = inferno.logged("authz", logger="authz.access", path=path)
        assert (line["client"], line["user"], line["method"], line["status"]) == ("127.0.0.1", user, "GET", 200)
        assert line["duration_ms"] > 0
        assert abs(datetime.fromisoformat(line["started"]).timestamp() - SystemClock().now_s()) < 60
    assert inferno.ask("GET", "/api/v1/models/of-nobody").status == 401
    (line,) = inferno.logged("authz", logger="authz.access", path="/api/v1/models/of-nobody")
    assert (line["status"], line["reason"], "user" in line) == (401, "missing_credential", False)


def test_what_is_done_at_the_door_is_logged_with_who_did_it(inferno: ProfileStack) -> None:
    """The door itself asks who calls: so the line of the request has no user, and another one of the same id has."""
    door, asked = "/api/v1/auth/api-keys", {"name": "x", "permissions": ["read_models"]}
    made = inferno.ask("POST", door, inferno.keys["session"], asked)
    assert made.status == 200
    (done,) = inferno.logged("authz", logger="authz.audit", action="create", key_id=made.json["id"])
    assert done["actor"].startswith("usr_")
    (line,) = inferno.logged("authz", logger="authz.access", request_id=done["request_id"])
    assert (line["path"], line["method"], line["status"]) == (door, "POST", 200)
    assert not {"user", "key_id", "key_prefix"} & {*line}

    reader = inferno.key("read_models")
    assert inferno.ask("POST", door, reader.token, asked).status == 403
    (refusal,) = inferno.logged("authz", logger="authz.decisions", route="portal-inferno", key_id=reader.record.id)
    assert (refusal["level"], refusal["reason"]) == ("info", "insufficient_scope")
    (line,) = inferno.logged("authz", logger="authz.access", request_id=refusal["request_id"])
    assert (line["path"], line["status"], "user" in line) == (door, 403, False)


def test_logs_are_redacted(inferno: ProfileStack) -> None:
    """API keys, JWTs, passwords and addresses, wherever a client writes them."""
    key, jwt = inferno.key("read_models").token, inferno.keys["session"]
    secrets = {key, jwt, "hunter2-planted", "ada@planted.example", "prompt-planted"}
    for place in (key, jwt, "password=hunter2-planted", "ada@planted.example"):
        inferno.ask("GET", f"/api/v1/models/{place}", key)
        inferno.ask("GET", f"/api/v1/models/x?q={place}", key)
        ask(inferno.port, "GET", "/api/v1/models/y", key=key, headers={"User-Agent": place, "Referer": place})
    send(inferno, inferno.key("run_inference").token, {"prompt": "prompt-planted " * 1000, "model": "hunter2-planted"})
    inferno.ask("POST", "/api/v1/auth/login", None, {"username": "ada@planted.example", "password": "hunter2-planted"})
    inferno.logged("authz", logger="authz.access", path="/api/v1/models/[email]")

    logs = inferno.logs()
    assert not [secret for secret in secrets if secret in logs]
