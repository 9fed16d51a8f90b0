"""What VInfer's page promises, through real Envoy. docs/profiles/vinfer.md names each promise and its test."""

import json
import re
from datetime import datetime, timedelta

import pytest

from authz.adapters.admin.service import DESCRIPTOR
from authz.adapters.http.rest import binding
from authz.admin.keys import IssuedKey, KeyConflictError
from authz.admin.users import NewUser
from authz.demo.tour import Answer, ask
from tests.support.profile import PLENTY, ProfileStack, as_authz_writes, as_sent, on_every_replica, under_load, wait_for


pytestmark = pytest.mark.xdist_group("vinfer")
EXAMPLE = """\
curl https://api.vinfer.ai/v1/campaigns \\
  -H "Authorization: Bearer YOUR_API_KEY"
"""
UNAUTHORIZED = as_sent("""
{
  "error": {
    "code": "unauthorized",
    "message": "Missing or invalid API key. Include a valid Bearer token in the Authorization header.",
    "details": {}
  }
}""")
FORBIDDEN = as_sent("""
{
  "error": {
    "code": "forbidden",
    "message": "Your API key does not have permission to perform this action. A read-write or admin key is required.",
    "details": {
      "required_scope": "read-write",
      "current_scope": "read-only"
    }
  }
}""")
READS = (("GET", "/v1/campaigns"), ("HEAD", "/v1/campaigns"), ("GET", "/v1/calls/call_1"), ("GET", "/v1/analytics"))
WRITES = (
    ("POST", "/v1/campaigns"),
    ("POST", "/v1/calls"),
    ("POST", "/v1/transcriptions"),
    ("PUT", "/v1/campaigns/campaign_1"),
    ("PATCH", "/v1/campaigns/campaign_1"),
    ("DELETE", "/v1/campaigns/campaign_1"),
)


def refused(answer: Answer) -> str:
    """What the challenge tells; the body is the page's, whatever is wrong."""
    assert (answer.status, answer.body) == (401, UNAUTHORIZED)
    assert answer.headers["content-type"] == "application/json"
    return answer.headers["www-authenticate"]


def campaigns(stack: ProfileStack, key: str | None) -> Answer:
    return stack.ask("GET", "/v1/campaigns", key)


def test_the_example_of_the_page(vinfer: ProfileStack) -> None:
    assert vinfer.page(EXAMPLE, vinfer.keys["read-only"]).status == 200


def test_no_path_without_a_key(vinfer: ProfileStack) -> None:
    """But /healthz; and what no route is for is denied to every key."""
    for path in ("/", "/v1", "/v1/campaigns", "/internal"):
        for method in ("GET", "POST", "DELETE"):
            refused(vinfer.ask(method, path))
    assert vinfer.ask("GET", "/healthz").status == 200
    for path in ("/", "/internal", "/authz/v1/keys"):
        assert vinfer.ask("GET", path, vinfer.keys["admin"]).status == 403


def test_the_key_in_an_environment_variable(vinfer: ProfileStack) -> None:
    command = f"export VINFER_API_KEY={vinfer.keys['read-only']}; " + EXAMPLE.replace("YOUR_API_KEY", "$VINFER_API_KEY")

    assert vinfer.page(command, "").status == 200


@pytest.mark.parametrize(("method", "path"), READS)
@pytest.mark.parametrize("scope", ["read-only", "read-write", "admin"])
def test_every_scope_reads(vinfer: ProfileStack, method: str, path: str, scope: str) -> None:
    assert vinfer.ask(method, path, vinfer.keys[scope]).status == 200


@pytest.mark.parametrize(("method", "path"), WRITES)
def test_read_write_and_admin_write(vinfer: ProfileStack, method: str, path: str) -> None:
    """And read-only does not: 403, as the page has it."""
    body = {"name": "Spring renewals"}

    assert vinfer.ask(method, path, vinfer.keys["read-write"], body).status == 200
    assert vinfer.ask(method, path, vinfer.keys["admin"], body).status == 200
    answer = vinfer.ask(method, path, vinfer.keys["read-only"], body)
    assert (answer.status, answer.body) == (403, FORBIDDEN)
    assert answer.headers["content-type"] == "application/json"
    assert 'error="insufficient_scope"' in answer.headers["www-authenticate"]


def test_a_key_without_a_scope_may_nothing(vinfer: ProfileStack) -> None:
    answer = campaigns(vinfer, vinfer.key().token)

    assert (answer.status, answer.json["error"]["details"]) == (
        403,
        {"required_scope": "read-only", "current_scope": ""},
    )


@pytest.mark.parametrize(
    "header", [None, "Bearer", "Bearer ", "Bearer not-a-key", "Basic dXNlcjpwYXNz", "KEY", "Token KEY"]
)
def test_missing_or_malformed(vinfer: ProfileStack, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header.replace("KEY", vinfer.keys["read-only"])}

    told = refused(ask(vinfer.port, "GET", "/v1/campaigns", headers=headers))

    assert told.startswith("Bearer")
    assert (told == "Bearer") is (header is None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        pytest.param(lambda key: key[:-3], "cut short", id="truncated"),
        pytest.param(lambda key: " " + key, "white space", id="white space before"),
        pytest.param(lambda key: key[:20] + " " + key[20:], "white space", id="white space within"),
        pytest.param(lambda key: key[:12] + ("1" if key[12] != "1" else "2") + key[13:], "mistyped", id="mistyped"),
    ],
)
def test_a_key_copied_badly_is_told_so(vinfer: ProfileStack, change: object, told: str) -> None:
    """In the challenge, as the body is fixed."""
    assert told in refused(campaigns(vinfer, change(vinfer.keys["read-only"])))  # type: ignore[operator]


def test_the_bearer_scheme_alone(vinfer: ProfileStack) -> None:
    """No X-API-Key, no cookie, no session token; and what is no credential here is not passed on as one."""
    key = vinfer.keys["read-only"]
    user, password = "ada", "correct horse battery staple"  # pragma: allowlist secret
    vinfer.add_user(NewUser(user, workspace="production", scopes=("admin",)), password)
    login = ask(vinfer.port_of("http"), "POST", "/authz/v1/login", body={"username": user, "password": password})

    assert login.status == 200
    assert "send an API key" in refused(campaigns(vinfer, login.json["token"]))
    for headers in ({"X-API-Key": key}, {"Cookie": f"session={key}"}):
        assert refused(ask(vinfer.port, "GET", "/v1/campaigns", headers=headers)) == "Bearer"
    seen = ask(vinfer.port, "GET", "/v1/echo", key=key, headers={"X-API-Key": key})
    assert (seen.status, key in seen.body.decode()) == (200, False)
    assert "x-api-key" not in seen.json["headers"]


def test_keys_in_urls_are_refused(vinfer: ProfileStack) -> None:
    """A good header notwithstanding; and they are in no log of ours, though the request is in all of them."""
    for name in ("api_key", "access_token", "API_KEY", "api%5Fkey"):
        answer = vinfer.ask("GET", f"/v1/campaigns?{name}=planted-in-url", vinfer.keys["read-only"])
        assert "does not belong in the URL" in refused(answer)

    assert "planted-in-url" not in vinfer.logs()


def test_a_key_is_shown_once(vinfer: ProfileStack) -> None:
    """Where it is made; afterwards nobody has it, not even the store."""
    made = vinfer.authz("keys", "create", "--name", "production-backend", "--scope", "read-only")
    assert campaigns(vinfer, made["token"]).status == 200

    shown = [vinfer.authz("keys", "show", made["id"]), vinfer.authz("keys", "list")]

    assert (made["kind"], made["scopes"]) == ("opaque", ["read-only"])
    assert made["token"] not in json.dumps(shown)
    with pytest.raises(KeyConflictError, match="tokens are not kept"):
        vinfer.show_token(made["id"])
    secret = made["token"].removeprefix("sk-live-")
    assert secret not in vinfer.logs()
    assert secret.encode() not in vinfer.stored(made["id"])


def test_each_workspace_has_its_own_keys(vinfer: ProfileStack) -> None:
    """An admin key sees those of its workspace, and the API behind is told whose workspace it is."""
    staging = vinfer.key("read-only", workspace="staging", name="staging-backend")
    admin = vinfer.key("admin", workspace="staging", name="staging-admin")

    seen = vinfer.ask("GET", "/v1/echo", staging.token).json["headers"]
    listed = vinfer.authz("keys", "list", caller=admin.token)["keys"]
    others = vinfer.authz("keys", "list", caller=vinfer.keys["admin"])["keys"]

    assert seen["x-authz-workspace"] == "staging"
    assert {key["name"] for key in listed} == {"staging-backend", "staging-admin"}
    assert {"demo read-only", "demo read-write", "demo admin", "demo limited"} <= {key["name"] for key in others}
    assert {key["workspace"] for key in others} == {"production"}


def test_a_revoked_key_is_a_401_at_once_and_for_ever(vinfer: ProfileStack) -> None:
    """On both of two sidecars, which had let it in a moment ago, and on connections that stay open."""
    with on_every_replica(vinfer) as ask_all:
        for key in [vinfer.key("read-write", workspace="production") for _ in range(3)]:
            assert {answer.status for answer in ask_all("GET", "/v1/campaigns", key.token)} == {200}

            vinfer.revoke(key.record.id)

            assert all("revoked" in refused(answer) for answer in ask_all("GET", "/v1/campaigns", key.token))
            with pytest.raises(KeyConflictError):
                vinfer.rotate(key.record.id)
            assert {method: vinfer.ask_admin(*sent).status for method, sent in changes(key).items()} == {
                "UpdateKey": 409,
                "RotateKey": 409,
                "RevokeKey": 200,  # once more: it stays as it is
            }
            assert all("revoked" in refused(answer) for answer in ask_all("GET", "/v1/campaigns", key.token))


def changes(key: IssuedKey) -> dict[str, tuple[str, str, object]]:
    """Every method of the admin API that changes one key, asked by REST to do it to this one."""
    found: dict[str, tuple[str, str, object]] = {}
    for method in DESCRIPTOR.methods:
        if (one := binding(DESCRIPTOR, method.name)).variables and one.verb != "GET":
            path = re.sub(r"\{.*\}", key.record.id, one.template.removeprefix("/authz/v1/"))
            found[method.name] = (one.verb, path, {"name": "alive again"} if one.verb == "PATCH" else {})
    return found


def test_a_revoked_key_is_told_so_before_a_word_about_scopes(vinfer: ProfileStack) -> None:
    key = vinfer.key("read-only")
    vinfer.revoke(key.record.id)

    assert "revoked" in refused(vinfer.ask("POST", "/v1/campaigns", key.token, {}))


def test_rotation_without_downtime_as_the_page_has_it(vinfer: ProfileStack) -> None:
    """A new key with the same scope, deployed, verified, and the old one revoked: no request fails on the way."""
    old = vinfer.key("read-write", limits=PLENTY)
    deployed = [old.token]
    with under_load(lambda: vinfer.ask("POST", "/v1/campaigns", deployed[0], {})) as answers:
        wait_for(answers, 10)
        new = vinfer.key("read-write", limits=PLENTY)
        for key in (new, old):
            assert vinfer.ask("POST", "/v1/campaigns", key.token, {}).status == 200
        deployed[0] = new.token
        wait_for(answers, 10)  # every client has taken up the new one
        vinfer.revoke(old.record.id)
        wait_for(answers, 30)

    assert {answer.status for answer in answers} == {200}
    assert "revoked" in refused(campaigns(vinfer, old.token))


def test_rotation_without_downtime_in_one_step(vinfer: ProfileStack) -> None:
    """`keys rotate`: the old token lives on for the grace time, so both pass while it is deployed."""
    key = vinfer.key("read-write", workspace="production", limits=PLENTY)
    renewed = [key.token]
    with (
        under_load(lambda: vinfer.ask("POST", "/v1/campaigns", key.token, {}), clients=1) as with_old,
        under_load(lambda: vinfer.ask("POST", "/v1/campaigns", renewed[0], {}), clients=1) as with_new,
    ):
        rotated = vinfer.authz("keys", "rotate", key.record.id, "--grace", "1h")
        renewed[0] = rotated["token"]
        wait_for(with_old, 20)
        wait_for(with_new, 20)

    answers = [*with_old, *with_new]
    assert {answer.status for answer in answers} == {200}
    assert renewed[0] != key.token
    assert (rotated["id"], rotated["scopes"]) == (key.record.id, ["read-write"])
    assert rotated["limits"] == {"requests": "1000000/1s"}
    assert vinfer.usage_when(key, lambda usage: usage["requests"] == len(answers))["requests"] == len(answers)


def test_the_last_use_of_each_key_is_told(vinfer: ProfileStack) -> None:
    key = vinfer.key("read-only", workspace="production", name="analytics-pipeline")
    before = vinfer.authz("keys", "list", "--name", "analytics-pipeline")["keys"][0]
    campaigns(vinfer, key.token)
    vinfer.usage_when(key, lambda usage: usage["requests"] == 1)
    after = vinfer.authz("keys", "list", "--name", "analytics-pipeline")["keys"][0]

    listed = vinfer.ask("GET", "/v1/api-keys?page_size=500", vinfer.keys["admin"]).json["api_keys"]
    (shown,) = [one for one in listed if one["id"] == key.record.id]

    assert before["last_used_at"] is None
    assert after["last_used_at"] >= after["created_at"][:16]  # to the minute
    assert shown["last_used_at"] == after["last_used_at"]


def test_keys_may_end_after_ninety_days(vinfer: ProfileStack) -> None:
    """And a key that has come to its end is refused by itself: one that lives for seconds is waited for."""
    made = vinfer.authz("keys", "create", "--name", "for 90 days", "--scope", "read-only", "--expires", "90d")
    short = vinfer.key("read-only", lifetime_s=4)

    created, ends = (datetime.fromisoformat(made[name]) for name in ("created_at", "expires_at"))
    assert ends - created == timedelta(days=90)
    assert campaigns(vinfer, made["token"]).status == 200
    assert "expired" in refused(vinfer.once_refused("GET", "/v1/campaigns", short.token))
    assert campaigns(vinfer, made["token"]).status == 200


def test_what_envoy_itself_answers_has_the_same_shape(vinfer: ProfileStack) -> None:
    """Byte for byte as authz writes it."""
    assert vinfer.envoys_own().items() <= as_authz_writes("vinfer").items()


def test_limits_are_told_in_the_same_shape(vinfer: ProfileStack) -> None:
    answers = [campaigns(vinfer, vinfer.keys["limited"]) for _ in range(6)]

    assert [answer.status for answer in answers] == [200] * 5 + [429]
    assert (answers[-1].json["error"]["code"], answers[-1].json["error"]["details"]) == ("rate_limited", {})
    assert int(answers[-1].headers["retry-after"]) > 0


@pytest.mark.parametrize("held", [None, "read-only", "read-write"])
@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v1/api-keys"), ("POST", "/v1/api-keys"), ("DELETE", "/v1/api-keys/key_x")]
)
def test_admin_keys_alone_manage_keys(vinfer: ProfileStack, method: str, path: str, held: str | None) -> None:
    answer = vinfer.ask(method, path, held and vinfer.keys[held], {"name": "n", "scope": "read-only"})

    if held is None:
        assert refused(answer) == "Bearer"
    else:
        assert answer.status == 403
        assert answer.json["error"]["message"].endswith("An admin key is required.")
        assert answer.json["error"]["details"] == {"required_scope": "admin", "current_scope": held}


def test_keys_are_created_listed_and_revoked_through_envoy(vinfer: ProfileStack) -> None:
    """Envoy hands these paths to authz's own door, with the credential; the API behind never sees them."""
    admin = vinfer.keys["admin"]
    asked = {"name": "analytics", "scope": "read-only"}

    made = vinfer.ask("POST", "/v1/api-keys", admin, asked).json
    assert asked.items() <= made.items()
    assert campaigns(vinfer, made["key"]).status == 200
    assert vinfer.ask("POST", "/v1/campaigns", made["key"], {}).status == 403

    listed = vinfer.ask("GET", "/v1/api-keys?page_size=500", admin)
    (shown,) = [one for one in listed.json["api_keys"] if one["id"] == made["id"]]
    assert (shown["name"], shown["scope"]) == ("analytics", "read-only")
    assert made["key"] not in listed.body.decode()

    assert vinfer.ask("DELETE", f"/v1/api-keys/{made['id']}", admin).status in {200, 204}
    assert "revoked" in refused(campaigns(vinfer, made["key"]))
    again = vinfer.ask("GET", "/v1/api-keys?page_size=500", admin).json["api_keys"]
    assert made["id"] not in {one["id"] for one in again}


def test_identity_cannot_be_claimed_at_the_door(vinfer: ProfileStack) -> None:
    headers = {"x-authz-scopes": "admin", "x-authz-key-id": vinfer.records["admin"].id}

    assert refused(ask(vinfer.port, "GET", "/v1/api-keys", headers=headers)) == "Bearer"


@pytest.mark.parametrize(
    "path", ["/v1/api-keysx", "/v1/api-keys;x", "/v1/%61pi-keys", "/v1//api-keys/", "/v1/x/../api-keys"]
)
def test_no_spelling_of_the_path_gets_around_the_door(vinfer: ProfileStack, path: str) -> None:
    """Not for a key that may read all else."""
    assert vinfer.ask("GET", path, vinfer.keys["read-write"]).status in {400, 403, 404}
