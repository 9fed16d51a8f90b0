"""The tour of `make smoke`: what users meet, asked of a running stack, each answer compared with what is promised."""

import http.client
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from authz.admin.keys import NewKey
from authz.demo.profiles import Example
from authz.demo.stack import Stack


SETTLED_S: Final = 2.0  # within which a request shows up in its key's usage
CHAT: Final = {"model": "mock-chat", "messages": [{"role": "user", "content": "Hello, is anybody there?"}]}
METERED: Final = {"name": "metered", "scopes": ["read-write"], "limits": {"tokens": "1000/1m"}}


class SurpriseError(Exception):
    """An answer that was not what is promised."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]  # lower-case names
    body: bytes = field(repr=False)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def message(self) -> str:
        return str(self.json["error"]["message"])


def ask(
    port: int,
    method: str,
    path: str,
    *,
    key: str | None = None,
    headers: Mapping[str, str] | None = None,
    body: object = None,
) -> Answer:
    """One request on a connection of its own; *body* is sent as JSON."""
    sent = dict(headers or {})
    if key is not None:
        sent.setdefault("authorization", f"Bearer {key}")
    data = None
    if body is not None:
        data = json.dumps(body).encode()
        sent.setdefault("content-type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
    finally:
        connection.close()


class Stops:
    """Each method is a stop; each prints one line."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def limited(self, method: str, path: str, body: object = None) -> int:
        """Six requests of a key that has five a minute; when it may come back, in seconds."""
        headers = self._stack.profile.headers(self._stack.keys["limited"])
        got = [self._ask(method, path, headers=headers, body=body) for _ in range(6)]
        statuses = [answer.status for answer in got]
        wait_s = int(got[-1].headers.get("retry-after", "0"))
        ok = statuses == [200] * 5 + [429] and wait_s > 0
        self._expect("six requests of 5/min", got[-1], 429, f"Retry-After {wait_s}: {got[-1].message}", ok=ok)
        return wait_s

    def _used(self, key_id: str, expected: Callable[[Any], bool]) -> Answer:
        """The key's usage, once it is as *expected*. Raises: SurpriseError — not in time."""
        deadline_s = time.monotonic() + SETTLED_S
        while True:
            got = self._call("GET", f"/authz/v1/keys/{key_id}/usage")
            if expected(got.json):
                return got
            if time.monotonic() > deadline_s:
                raise SurpriseError(f"usage of {key_id}: got {got.json} after {SETTLED_S:.0f} s")
            time.sleep(0.05)

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> Answer:
        """The admin API."""
        port = int(self._stack.address("http").rpartition(":")[2])
        got = ask(port, method, path, key=self._stack.keys["admin"], body=body)
        if got.status != 200:
            raise SurpriseError(f"{method} {path}: got {got.status} {got.body[:400]!r}")
        return got

    def _ask(self, method: str, path: str, **options: Any) -> Answer:
        return ask(self._stack.port, method, path, **options)

    @staticmethod
    def _expect(what: str, got: Answer, status: int, told: str, *, ok: bool = True) -> None:
        if got.status != status or not ok:
            raise SurpriseError(
                f"{what}: got {got.status} {dict(got.headers)} {got.body[:400]!r}, not the {status} promised"
            )
        print(f"  {status}  {what:<24} {told}")


class Tour(Stops):
    """Of the default profile."""

    def __init__(self, stack: Stack) -> None:
        super().__init__(stack)
        self._told: list[dict[str, int]] = []  # `usage` of what the key `read-write` was answered

    def run(self) -> None:
        """Raises: SurpriseError."""
        self.without_a_key()
        self.allowed()
        self.streamed()
        self.settled()
        self.paid_back()
        self.wrong_scope()
        self.identity()
        self.limited_and_back()
        self.managed()
        self.revoked()

    def without_a_key(self) -> None:
        got = self._ask("GET", "/v1/models")
        self._expect("no key", got, 401, got.message, ok=got.headers.get("www-authenticate") == "Bearer")
        forged = self._stack.keys["read-write"][:-4] + "AAAA"
        got = self._ask("GET", "/v1/models", key=forged)
        self._expect("a forged key", got, 401, got.message, ok="signature" in got.message)

    def allowed(self) -> None:
        got = self._ask("POST", "/v1/chat/completions", key=self._stack.keys["read-write"], body=CHAT)
        told = ", ".join(f"{n} {got.headers.get(f'x-ratelimit-{n}')}" for n in ("limit", "remaining", "reset"))
        ok = "x-ratelimit-remaining" in got.headers
        self._expect("a chat completion", got, 200, f"X-RateLimit: {told}; usage {got.json.get('usage')}", ok=ok)
        self._told.append(got.json["usage"])

    def streamed(self) -> None:
        body = {**CHAT, "stream": True, "stream_options": {"include_usage": True}}
        got = self._ask("POST", "/v1/chat/completions", key=self._stack.keys["read-write"], body=body)
        events = got.body.decode().strip().split("\n\n")
        self._expect("a streamed one", got, 200, f"{len(events)} events", ok=events[-1] == "data: [DONE]")
        self._told.append(json.loads(events[-2].removeprefix("data: "))["usage"])

    def settled(self) -> None:
        """Both completions, as Envoy's access log has told them: to the token."""
        expected = {
            "requests": len(self._told),
            "input_tokens": sum(told["prompt_tokens"] for told in self._told),
            "output_tokens": sum(told["completion_tokens"] for told in self._told),
        }
        record = self._stack.records["read-write"]
        got = self._used(record.id, lambda usage: usage["by_model"].get("mock-chat") == expected)
        told = f"{got.json['input_tokens']} tokens in, {got.json['output_tokens']} out, of mock-chat"
        self._expect("both, settled", got, 200, told)

    def paid_back(self) -> None:
        """A key with 1,000 tokens a minute: refused once it has used them, let in again when they are paid back."""
        made = self._call("POST", "/authz/v1/keys", METERED).json
        long = {**CHAT, "max_tokens": 20, "messages": [{"role": "user", "content": "word " * 1000}]}
        used = self._ask("POST", "/v1/chat/completions", key=made["token"], body=long)
        cost = used.json.get("usage", {}).get("total_tokens", 0)
        self._expect("1,000 tokens/min", used, 200, f"{cost} tokens used", ok=cost > 1000)
        self._used(made["id"], lambda usage: usage["input_tokens"] + usage["output_tokens"] == cost)
        short = {**CHAT, "max_tokens": 20}
        refused = self._ask("POST", "/v1/chat/completions", key=made["token"], body=short)
        wait_s = int(refused.headers.get("retry-after", "0"))
        ok = wait_s > 0 and "tokens" in refused.message
        self._expect("one more", refused, 429, f"Retry-After {wait_s}: {refused.message}", ok=ok)
        time.sleep(wait_s)
        again = self._ask("POST", "/v1/chat/completions", key=made["token"], body=short)
        self._expect(f"again after {wait_s} s", again, 200, "paid back")

    def wrong_scope(self) -> None:
        got = self._ask("POST", "/v1/chat/completions", key=self._stack.keys["read-only"], body=CHAT)
        ok = "read-write" in got.message and "read-only" in got.message
        self._expect("a read-only key on POST", got, 403, got.message, ok=ok)

    def identity(self) -> None:
        spoofed = {"x-authz-subject": "somebody-else", "x-authz-workspace": "theirs"}
        got = self._ask("GET", "/v1/echo", key=self._stack.keys["read-only"], headers=spoofed)
        seen = got.json["headers"]
        told = {name: value for name, value in seen.items() if name.startswith("x-authz-")}
        ok = "authorization" not in seen and "somebody-else" not in seen.values() and "x-authz-workspace" not in seen
        self._expect("what the upstream sees", got, 200, ", ".join(sorted(told)), ok=ok and "x-authz-key-id" in told)

    def limited_and_back(self) -> None:
        wait_s = self.limited("GET", "/v1/models")
        time.sleep(wait_s)
        again = self._ask("GET", "/v1/models", key=self._stack.keys["limited"])
        self._expect(f"again after {wait_s} s", again, 200, "admitted")

    def managed(self) -> None:
        """Over the admin API: an opaque key is made, used, rotated without a grace time, and used anew."""
        made = self._call("POST", "/authz/v1/keys", {"name": "tour", "kind": "opaque", "scopes": ["read-only"]})
        used = self._ask("GET", "/v1/models", key=made.json["token"])
        self._expect("an opaque key, made now", used, 200, made.json["prefix"])
        rotated = self._call("POST", f"/authz/v1/keys/{made.json['id']}:rotate", {"grace": "0s"})
        self._expect("its new token", self._ask("GET", "/v1/models", key=rotated.json["token"]), 200, "rotated")
        old = self._ask("GET", "/v1/models", key=made.json["token"])
        self._expect("its old token", old, 401, old.message, ok="rotated" in old.message)

    def revoked(self) -> None:
        key = self._stack.keys["admin"]
        before = self._ask("GET", "/v1/models", key=key)
        self._stack.revoke(self._stack.records["admin"].id, "end of the tour")
        after = self._ask("GET", "/v1/models", key=key)
        self._expect("a revoked key", after, 401, after.message, ok=before.status == 200 and "revoked" in after.message)


class ProfileTour(Stops):
    """Of the other profiles: the requests that their documentation shows, a limit, usage, a revocation."""

    def run(self) -> None:
        """Raises: SurpriseError."""
        for example in self._stack.profile.examples:
            self.example(example)
        allowed = self._stack.profile.examples[0]
        self.limited(allowed.method, allowed.path, allowed.body)
        self.used_and_revoked(allowed)

    def example(self, example: Example) -> None:
        headers = dict(example.headers)
        if example.key:
            headers |= self._stack.profile.headers(self._stack.keys[example.key], example.credential)
        got = self._ask(example.method, example.path, headers=headers, body=example.body)
        told = got.message if got.status >= 400 else f"{example.method} {example.path}"
        told_by_headers = "".join(f"{name}: {value}\n" for name, value in got.headers.items())
        ok = example.says in told_by_headers + got.body.decode()
        self._expect(example.told, got, example.status, told, ok=ok)

    def used_and_revoked(self, example: Example) -> None:
        """A key made for this: its one request is counted, and it is refused from the moment it is revoked."""
        profile = self._stack.profile
        made = self._stack.create_key(NewKey("tour", scopes=profile.limited, workspace=profile.workspace))
        headers = profile.headers(made.token)
        before = self._ask(example.method, example.path, headers=headers, body=example.body)
        used = self._used(made.record.id, lambda usage: usage["requests"] == 1 and usage["last_used_at"] is not None)
        self._expect("what it was used for", used, 200, f"last used {used.json['last_used_at']}")
        self._stack.revoke(made.record.id, "end of the tour")
        after = self._ask(example.method, example.path, headers=headers, body=example.body)
        ok = before.status == 200 and "revoked" in after.headers.get("www-authenticate", "")
        self._expect("a revoked key", after, 401, after.message, ok=ok)


def tour_of(stack: Stack) -> Tour | ProfileTour:
    return Tour(stack) if stack.profile.name == "default" else ProfileTour(stack)
