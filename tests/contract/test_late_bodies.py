"""A caller who is let in, and then takes time over the body: what was true at the beginning may not be any more."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from authz.admin.actor import COMMAND_LINE
from authz.admin.keys import Everything, KeyChanges
from authz.core.bucket import Limit
from tests.contract.test_portals import PERMISSIONS, Place, at
from tests.support.calls import Calls


KEYS: Final = "/authz/v1/keys"
NEW: Final = {"name": "late", "subject": "eve", "scopes": ["read-only"]}


@pytest.fixture
async def place(valkey_url: str) -> AsyncIterator[Place]:
    async with at(valkey_url) as made:
        yield made


@dataclass
class Late:
    """A request whose head was sent, and whose caller was let in."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    rest: bytes
    answer: dict[str, Any] = field(default_factory=dict)
    headers: list[str] = field(default_factory=list)

    async def finish(self) -> int:
        """The status that is answered once the body is there."""
        self.writer.write(self.rest)
        head, _, content = (await self.reader.read()).decode().partition("\r\n\r\n")
        status, *self.headers = head.split("\r\n")
        self.answer = json.loads(content) if content else {}
        return int(status.split()[1])


@contextlib.asynccontextmanager
async def late(
    place: Place, credential: str, verb: str = "POST", path: str = KEYS, body: object = NEW
) -> AsyncIterator[Late]:
    """*body* None: chunks without anything in them."""
    content = b"" if body is None else json.dumps(body).encode()
    length, rest = f"content-length: {len(content)}", content
    if body is None:
        length, rest = "transfer-encoding: chunked", b"0\r\n\r\n"
    letting_in = Calls(place.doors.store).hold_reply("admit")
    reader, writer = await asyncio.open_connection(place.http.base_url.host, place.http.base_url.port)
    try:
        head = f"{verb} {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {credential}\r\nconnection: close\r\n"
        writer.write(f"{head}content-type: application/json\r\n{length}\r\n\r\n".encode())
        await letting_in.reached.wait()  # the store has answered, and says yes
        letting_in.go.set()
        yield Late(reader, writer, rest)
    finally:
        writer.close()
        await writer.wait_closed()


async def removed(place: Place) -> None:
    await place.doors.users.remove("ada", COMMAND_LINE)


async def password_changed(place: Place) -> None:
    await place.doors.users.set_password("ada", "another long password", COMMAND_LINE)


async def revoked_in_bulk(place: Place) -> None:
    await place.keys.revoke_all(Everything(subject="ada"), COMMAND_LINE)


@pytest.mark.parametrize("ended", [removed, password_changed, revoked_in_bulk])
@pytest.mark.parametrize(
    ("path", "body"),
    [
        pytest.param(KEYS, NEW, id="KeyService"),
        pytest.param("/portal/keys", {"name": "late"}, id="inferexai"),
        pytest.param("/api/v1/auth/api-keys", {"name": "late", "permissions": ["read_models"]}, id="inferno"),
    ],
)
async def test_a_session_that_ends_while_its_body_is_awaited(
    place: Place, ended: Callable[[Place], Awaitable[None]], path: str, body: object
) -> None:
    session = await place.user("ada", "admin", *PERMISSIONS)
    before = await place.doors.root.all()
    async with late(place, session, path=path, body=body) as request:
        await ended(place)
        assert await request.finish() == 401

    assert request.answer["reason"] == "revoked"
    assert any(line.startswith('www-authenticate: Bearer error="invalid_token"') for line in request.headers)
    assert await place.doors.root.all() == before


@pytest.mark.parametrize(
    ("verb", "path", "body"),
    [
        pytest.param("POST", KEYS, NEW, id="create"),
        pytest.param("PATCH", f"{KEYS}/ID", {"name": "late"}, id="update"),
        pytest.param("POST", f"{KEYS}/ID:rotate", None, id="rotate, with a body of nothing"),
        pytest.param("GET", f"{KEYS}/ID?show_token=true", None, id="show, with a body of nothing"),
        pytest.param("DELETE", "/v1/api-keys/ID", None, id="delete, with a body of nothing"),
    ],
)
async def test_a_key_that_is_revoked_while_its_body_is_awaited(
    place: Place, verb: str, path: str, body: object
) -> None:
    caller, other = await place.made("admin"), await place.made("read-only", name="other")
    async with late(place, caller.token, verb, path.replace("ID", other.record.id), body) as request:
        await place.keys.revoke(caller.record.id, "", COMMAND_LINE)
        assert await request.finish() == 401

    assert request.answer["detail"] == "The API key has been revoked."
    shown = await place.doors.other.show(other.record.id)
    assert (shown.name, shown.version) == ("other", 1)


async def test_scopes_count_as_they_are_once_the_body_is_there(place: Place) -> None:
    """Those of the door, and those that the caller may grant."""
    caller = await place.made("admin")
    async with late(place, caller.token) as request:
        await place.keys.update(caller.record.id, KeyChanges({"scopes": ("read-only",)}), COMMAND_LINE)
        assert await request.finish() == 403

    manager = await place.made("manage_users", "read_models")
    body = {"name": "late", "permissions": ["read_models"]}
    async with late(place, manager.token, path="/api/v1/auth/api-keys", body=body) as request:
        await place.keys.update(manager.record.id, KeyChanges({"scopes": ("manage_users",)}), COMMAND_LINE)
        assert await request.finish() == 403
    assert request.answer["detail"] == "The API key lacks a scope: required: read_models; held: manage_users."


async def test_a_store_that_goes_away_meanwhile_lets_nobody_through(place: Place) -> None:
    caller = await place.made("admin")
    async with late(place, caller.token) as request:
        Calls(place.doors.store).away = True
        assert await request.finish() == 503


async def test_a_call_is_charged_and_counted_once(place: Place) -> None:
    """A limit that it has used up does not refuse the call itself."""
    caller = await place.made("admin", limits={"requests": Limit(2, 3600)})
    for left in ("1", "0"):
        async with late(place, caller.token) as request:
            assert await request.finish() == 200
        assert f"x-ratelimit-remaining: {left}" in request.headers
    async with late(place, caller.token) as request:
        assert await request.finish() == 429

    metrics = place.doors.prometheus.exposition()[0].decode().splitlines()
    for reason, count in (("allowed", "2.0"), ("rate_limited", "1.0")):
        assert f'authz_decisions_total{{reason="{reason}",route="admin-api"}} {count}' in metrics
