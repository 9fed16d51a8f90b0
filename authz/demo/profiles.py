"""The profiles of `authz demo`: which keys each one has, and what its API's documentation shows."""

import json
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from authz.adapters.jwt.signer import JwtSigner
from authz.admin.keys import NewKey
from authz.admin.users import NewUser, UserExistsError
from authz.app import SystemClock, keyring
from authz.core.bucket import Limit
from authz.ports import NewToken
from authz.settings import Settings


if TYPE_CHECKING:
    from authz.demo.stack import Stack


LIMITED: Final = Limit(5, 60)
ACCOUNT: Final = "account"


@dataclass(frozen=True, slots=True)
class Example:
    """
    One request, as the documentation has it, and what is answered.

    Args:
        told: Letters, digits and `.,:/_-` alone, for shells that take prose for a command.
        key: By its name in the demo; empty: none is sent.
        says: Stands in the body or in a header.
        credential: In place of the profile's.
        headers: Besides.
        explained: `authz check` is shown for it.
    """

    told: str
    method: str
    path: str
    key: str = ""
    body: Mapping[str, Any] | None = None
    status: int = 200
    says: str = ""
    credential: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    explained: bool = False


@dataclass(frozen=True, slots=True)
class Profile:
    """
    Args:
        credential: The header line of a key, before the key.
        limited, admin: Scopes of the keys that are called so.
        workspace: Of all keys.
        tokens: Credentials beside keys, by name, for a stack in which everything answers.
        tokens_are: What these are.
        login: Where users log in, through Envoy.
        tls: There is a listener for it, with a certificate made for the demo.
        note: What is to be known of the keys.
        examples: The first one is allowed for the key `limited`.
        lines: More to paste, what it shows and the command; after the examples.
    """

    name: str
    credential: str = "Authorization: Bearer "
    limited: tuple[str, ...] = ()
    admin: tuple[str, ...] = ("admin",)
    workspace: str = ""
    tokens: "Callable[[Stack], Mapping[str, str]] | None" = None
    tokens_are: str = ""
    login: str = ""
    tls: bool = False
    note: str = ""
    examples: tuple[Example, ...] = ()
    lines: tuple[tuple[str, str], ...] = ()

    def headers(self, token: str, credential: str = "") -> dict[str, str]:
        name, _, before = (credential or self.credential).partition(": ")
        return {name: before + token}

    def keys(self, settings: Settings) -> Iterator[tuple[str, NewKey]]:
        """One for each scope, or `default` where its routes ask for none; `limited` and `admin`."""
        wanted = {"default": NewKey("demo default", workspace=self.workspace)}
        if any(route.scopes for route in settings.routes):
            known = dict.fromkeys(name for scope, more in settings.scopes.items() for name in (scope, *more))
            wanted = {name: self._key(name, name) for name in reversed(known)}
        wanted["admin"] = self._key("admin", *self.admin)
        limits = {"requests": LIMITED}
        wanted["limited"] = NewKey("demo limited", scopes=self.limited, workspace=self.workspace, limits=limits)
        yield from wanted.items()

    def _key(self, name: str, *scopes: str) -> NewKey:
        return NewKey(f"demo {name}", scopes=scopes, workspace=self.workspace)

    def curl(self, example: Example, url: str) -> str:
        """For a shell that has the keys in its environment."""
        body = example.body
        parts = ["curl -iN" if body and body.get("stream") else "curl -i"]
        parts += [] if example.method == "GET" else [f"-X {example.method}"]
        parts += [shlex.quote(url + example.path), *self._headers(example)]
        if body is not None:
            parts += ["-H 'Content-Type: application/json'", "-d", shlex.quote(json.dumps(body))]
        return " ".join(parts)

    def check(self, example: Example) -> str:
        """The same request, to be explained."""
        parts = ["authz check", f"--method {example.method}", f"--path {shlex.quote(example.path)}"]
        return " ".join([*parts, *self._headers(example)])

    def _headers(self, example: Example) -> list[str]:
        options = [f"-H {shlex.quote(f'{name}: {value}')}" for name, value in example.headers.items()]
        if example.key:
            options.insert(0, f'-H "{example.credential or self.credential}${variable(example.key)}"')
        return options


def variable(key: str) -> str:
    """What a shell calls it."""
    return key.upper().replace("-", "_")


def account_token(stack: "Stack") -> dict[str, str]:
    """As the account's own service would sign it: by the same keyring, for another audience."""
    now_s = int(SystemClock().now_s())
    token = NewToken(
        subject="user_demo", jti="account_demo", workspace="", scopes=(), issued_at_s=now_s, expires_at_s=None
    )
    return {"account": JwtSigner(keyring(stack.configuration()), ACCOUNT).sign(token)}


def portal_session(stack: "Stack") -> dict[str, str]:
    """Of a user made for it, who may nothing but what every user may."""
    name, password = f"demo-{secrets.token_hex(4)}", secrets.token_urlsafe()
    stack.add_user(NewUser(name), password)
    return {"session": _logged_in(stack, name, password)}


def inferno_session(stack: "Stack") -> dict[str, str]:
    """Of the user `admin`, who logs in as the page shows it. In a store that has one already another is made."""
    name, password = "admin", secrets.token_urlsafe()
    try:
        stack.add_user(NewUser(name, scopes=("admin",)), password)
    except UserExistsError:
        name = f"admin-{secrets.token_hex(4)}"
        stack.add_user(NewUser(name, scopes=("admin",)), password)
    return {"session": _logged_in(stack, name, password)}


def _logged_in(stack: "Stack", name: str, password: str) -> str:
    """The token; the password is told to who runs the demo."""
    from authz.demo.tour import ask  # noqa: PLC0415 - which knows the profiles

    stack.passwords[name] = password
    told = ask(stack.port, "POST", stack.profile.login, body={"username": name, "password": password})
    return str(told.json["token"])


_CALL: Final = {"agent_id": "agent_abc123", "from_number": "+18005551234", "to_number": "+14155550100"}
_CAMPAIGN: Final = {"name": "Spring renewals"}
_HELLO: Final = {"model": "meta-llama/Llama-3.1-8B-Instruct", "messages": [{"role": "user", "content": "Hello!"}]}
_EMBED: Final = {"model": "mock-embedding", "input": "Hello!"}
_CHAT: Final = {"model": "mock-chat", "messages": [{"role": "user", "content": "Hello!"}]}
_APP_KEY: Final = {"name": "my-app-key"}
_PROMPT: Final = {"prompt": "Hello, world!", "model": "llama-7b"}
_STREAM: Final = _PROMPT | {"stream": True}
_PRODUCTION: Final = {"name": "production-key", "permissions": ["read_models", "run_inference"], "expires_in_days": 90}
_INFERENCE: Final = "/api/v1/inference"
_PREFLIGHT: Final = {"Origin": "https://your-frontend.com", "Access-Control-Request-Method": "GET"}
_COMPLETIONS: Final = "/inference/v1/chat/completions"
_STREAMED: Final = _CHAT | {"stream": True, "stream_options": {"include_usage": True}}
_API_KEYS: Final = '"$ENVOY/v1/api-keys" -H "Authorization: Bearer $ADMIN"'
_BACKEND: Final = """-H 'Content-Type: application/json' -d '{"name": "production-backend", "scope": "read-only"}'"""

PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile(
            "default",
            limited=("read-write",),
            examples=(
                Example("a chat completion", "POST", "/v1/chat/completions", "read-write", _CHAT, says='"usage"'),
                Example("the same, streamed", "POST", "/v1/chat/completions", "read-write", _STREAMED, says="[DONE]"),
                Example("a key in X-API-Key", "GET", "/v1/models", "read-only", credential="X-API-Key: "),
                Example("what the upstream sees, never the key", "GET", "/v1/echo", "read-only", says="x-authz-key-id"),
                Example("no key", "GET", "/v1/models", "", None, 401, "No API key was sent"),
                Example(
                    "a read-only key may not write",
                    "POST",
                    "/v1/chat/completions",
                    "read-only",
                    _CHAT,
                    403,
                    "required: read-write",
                    explained=True,
                ),
            ),
        ),
        Profile(
            "inferexai",
            tokens=portal_session,
            tokens_are="The session of a user who has logged in, which is no API key",
            login="/authz/v1/login",
            examples=(
                Example("a chat completion", "POST", "/v1/chat/completions", "default", _CHAT, says='"usage"'),
                Example("the models", "GET", "/v1/models", "default"),
                Example("a new key, by a user", "POST", "/portal/keys", "session", _APP_KEY, says='"sk-live-eyJ'),
                Example("that user, all keys whole", "GET", "/portal/keys", "session", says='"token":"sk-live-eyJ'),
                Example("an API key there", "GET", "/portal/keys", "default", None, 401, "send the session token"),
                Example("a session here", "GET", "/v1/models", "session", None, 401, "send an API key", explained=True),
                Example("no key", "GET", "/v1/models", "", None, 401, "No API key was sent"),
            ),
        ),
        Profile(
            "inferno",
            limited=("read_models",),
            tokens=inferno_session,
            tokens_are="The token of a login, which is good for the API too",
            login="/api/v1/auth/login",
            tls=True,
            note="Streaming asks for run_inference and use_streaming together: of these keys ADMIN has both.",
            examples=(
                Example("the models", "GET", "/api/v1/models", "read_models"),
                Example("a key in X-API-Key", "GET", "/api/v1/models", "read_models", credential="X-API-Key: "),
                Example("inference", "POST", _INFERENCE, "run_inference", _PROMPT, says='"model":"llama-7b"'),
                Example("a stream", "POST", _INFERENCE, "admin", _STREAM, says="text/event-stream"),
                Example("no use_streaming", "POST", _INFERENCE, "run_inference", _STREAM, 403, "use_streaming"),
                Example("the token of a login", "POST", _INFERENCE, "session", _PROMPT),
                Example("a new key", "POST", "/api/v1/auth/api-keys", "session", _PRODUCTION, says='"key":"sk-live-'),
                Example(
                    "no permission",
                    "POST",
                    _INFERENCE,
                    "read_models",
                    _PROMPT,
                    403,
                    "PERMISSION_DENIED",
                    explained=True,
                ),
                Example("no key", "GET", "/api/v1/models", "", None, 401, "AUTHENTICATION_FAILED"),
                Example(
                    "a CORS preflight",
                    "OPTIONS",
                    "/api/v1/models",
                    headers=_PREFLIGHT,
                    says="access-control-allow-methods",
                ),
            ),
        ),
        Profile(
            "podstack",
            tokens=account_token,
            tokens_are="A token of the account service, which is no API key",
            examples=(
                Example("a chat completion", "POST", _COMPLETIONS, "default", _HELLO, says='"usage"'),
                Example("embeddings", "POST", "/inference/v1/embeddings", "default", _EMBED, says='"usage"'),
                Example("the models", "GET", "/inference/v1/models", "default"),
                Example("no key", "POST", _COMPLETIONS, "", _HELLO, 401, "No API key was sent"),
                Example(
                    "an account token",
                    "POST",
                    _COMPLETIONS,
                    "account",
                    _HELLO,
                    401,
                    "it was issued for something else",
                    explained=True,
                ),
            ),
        ),
        Profile(
            "vinfer",
            limited=("read-write",),
            workspace="production",
            note="All of them are of the workspace production, and ADMIN manages the keys of that workspace alone.",
            examples=(
                Example("campaigns", "GET", "/v1/campaigns", "read-only"),
                Example("a new campaign", "POST", "/v1/campaigns", "read-write", _CAMPAIGN),
                Example(
                    "a read-only key on POST",
                    "POST",
                    "/v1/campaigns",
                    "read-only",
                    _CAMPAIGN,
                    403,
                    '"read-write"',
                    explained=True,
                ),
                Example("no key", "GET", "/v1/campaigns", "", None, 401, "Include a valid Bearer token"),
                Example(
                    "a key in the URL", "GET", "/v1/campaigns?api_key=KEY", "", None, 401, "does not belong in the URL"
                ),
                Example("the keys of the workspace", "GET", "/v1/api-keys", "admin", says='"api_keys"'),
            ),
            lines=(
                (
                    "a new key of the workspace, and its id",
                    f"ID=$(curl -s {_API_KEYS} {_BACKEND} | tee /dev/stderr | grep -o 'key_[0-9a-z]*' | head -1)",
                ),
                (
                    "204: it is deleted",
                    'curl -i -X DELETE "$ENVOY/v1/api-keys/$ID" -H "Authorization: Bearer $ADMIN"',
                ),
                (
                    "an admin key of another workspace: straight in the store, as ADMIN can make none",
                    "STAGING=$(authz keys create --name staging --workspace staging --scope admin | head -1)",
                ),
                (
                    "200: which sees itself alone",
                    'curl -i "$ENVOY/v1/api-keys" -H "Authorization: Bearer $STAGING"',
                ),
            ),
        ),
        Profile(
            "voiceinfra",
            credential="X-API-Key: ",
            examples=(
                Example("an outbound call", "POST", "/v1/calls/outbound", "default", _CALL),
                Example("no key", "POST", "/v1/calls/outbound", "", _CALL, 401, "Invalid or missing API key."),
                Example(
                    "a wrong key",
                    "POST",
                    "/v1/calls/outbound",
                    "",
                    _CALL,
                    401,
                    "Invalid or missing API key.",
                    headers={"X-API-Key": "sk-live-wrong"},
                    explained=True,
                ),
                Example(
                    "a key in the URL",
                    "POST",
                    "/v1/calls/outbound?api_key=KEY",
                    "",
                    _CALL,
                    401,
                    "does not belong in the URL",
                ),
            ),
        ),
    )
}
