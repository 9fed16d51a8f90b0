"""The profiles of `authz demo`: which keys each one has, and what its API's documentation shows."""

import json
import secrets
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
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
        key: By its name in the demo; empty: none is sent.
        says: Stands in the body or in `WWW-Authenticate`.
    """

    told: str
    method: str
    path: str
    key: str = ""
    body: Mapping[str, Any] | None = None
    status: int = 200
    says: str = ""


@dataclass(frozen=True, slots=True)
class Profile:
    """
    Args:
        credential: The header line of a key, before the key.
        limited, admin: Scopes of the keys that are called so.
        workspace: Of all keys.
        tokens: Credentials beside keys, by name, for a stack in which everything answers.
        login: Where users log in, through Envoy.
        tls: There is a listener for it, with a certificate made for the demo.
        examples: The first one is allowed for the key `limited`. Empty: the default profile has its own.
    """

    name: str
    credential: str = "Authorization: Bearer "
    limited: tuple[str, ...] = ()
    admin: tuple[str, ...] = ("admin",)
    workspace: str = ""
    tokens: "Callable[[Stack], Mapping[str, str]] | None" = None
    login: str = ""
    tls: bool = False
    examples: tuple[Example, ...] = ()

    def headers(self, token: str) -> dict[str, str]:
        name, _, before = self.credential.partition(": ")
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

    def curl(self, example: Example, url: str, variable: Callable[[str], str]) -> str:
        """For a shell that has the keys in its environment."""
        parts = ["curl -i", "" if example.method == "GET" else f"-X {example.method}"]
        parts.append(shlex.quote(url + example.path))
        if example.key:
            parts.append(f'-H "{self.credential}${variable(example.key)}"')
        if example.body is not None:
            parts += ["-H 'Content-Type: application/json'", "-d", shlex.quote(json.dumps(example.body))]
        return " ".join(part for part in parts if part)


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
_PRODUCTION: Final = {"name": "production-key", "permissions": ["read_models", "run_inference"], "expires_in_days": 90}
_COMPLETIONS: Final = "/inference/v1/chat/completions"

PROFILES: Final[Mapping[str, Profile]] = {
    profile.name: profile
    for profile in (
        Profile("default", limited=("read-write",)),
        Profile(
            "inferexai",
            tokens=portal_session,
            login="/authz/v1/login",
            examples=(
                Example("a chat completion", "POST", "/v1/chat/completions", "default", _CHAT, says='"usage"'),
                Example("the models", "GET", "/v1/models", "default"),
                Example("a user's new key", "POST", "/portal/keys", "session", _APP_KEY, says='"sk-live-eyJ'),
                Example("the user's keys, whole", "GET", "/portal/keys", "session", says='"token":"sk-live-eyJ'),
                Example("an API key there", "GET", "/portal/keys", "default", None, 401, "send the session token"),
                Example("a session here", "GET", "/v1/models", "session", None, 401, "send an API key"),
                Example("no key", "GET", "/v1/models", "", None, 401, "No API key was sent"),
            ),
        ),
        Profile(
            "inferno",
            limited=("read_models",),
            tokens=inferno_session,
            login="/api/v1/auth/login",
            tls=True,
            examples=(
                Example("the models", "GET", "/api/v1/models", "read_models"),
                Example("inference", "POST", "/api/v1/inference", "run_inference", _PROMPT, says='"model":"llama-7b"'),
                Example("the login's token", "POST", "/api/v1/inference", "session", _PROMPT),
                Example("a new key", "POST", "/api/v1/auth/api-keys", "session", _PRODUCTION, says='"key":"sk-live-'),
                Example("no permission", "POST", "/api/v1/inference", "read_models", _PROMPT, 403, "PERMISSION_DENIED"),
                Example("no key", "GET", "/api/v1/models", "", None, 401, "AUTHENTICATION_FAILED"),
            ),
        ),
        Profile(
            "podstack",
            tokens=account_token,
            examples=(
                Example("a chat completion", "POST", _COMPLETIONS, "default", _HELLO, says='"usage"'),
                Example("embeddings", "POST", "/inference/v1/embeddings", "default", _EMBED, says='"usage"'),
                Example("the models", "GET", "/inference/v1/models", "default"),
                Example("no key", "POST", _COMPLETIONS, "", _HELLO, 401, "No API key was sent"),
                Example(
                    "an account token", "POST", _COMPLETIONS, "account", _HELLO, 401, "it was issued for something else"
                ),
            ),
        ),
        Profile(
            "vinfer",
            limited=("read-write",),
            workspace="production",
            examples=(
                Example("campaigns", "GET", "/v1/campaigns", "read-only"),
                Example("a new campaign", "POST", "/v1/campaigns", "read-write", _CAMPAIGN),
                Example(
                    "a read-only key on POST", "POST", "/v1/campaigns", "read-only", _CAMPAIGN, 403, '"read-write"'
                ),
                Example("no key", "GET", "/v1/campaigns", "", None, 401, "Include a valid Bearer token"),
                Example(
                    "a key in the URL", "GET", "/v1/campaigns?api_key=KEY", "", None, 401, "does not belong in the URL"
                ),
            ),
        ),
        Profile(
            "voiceinfra",
            credential="X-API-Key: ",
            examples=(
                Example("an outbound call", "POST", "/v1/calls/outbound", "default", _CALL),
                Example("no key", "POST", "/v1/calls/outbound", "", _CALL, 401, "Invalid or missing API key."),
            ),
        ),
    )
}
