"""KeyService: thin; what is done is done by the use cases, and who calls is told by the pipeline."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

from authz.adapters.admin import messages
from authz.adapters.door import Door, refusing, timestamp
from authz.adapters.rpc import Call, Message, RpcError
from authz.admin.actor import COMMAND_LINE, Actor
from authz.admin.answers import Answers
from authz.admin.keys import IssuedKey, KeyAdmin
from authz.admin.usage import UsageAdmin
from authz.admin.users import Login
from authz.core.problems import Problem
from authz.pb.authz.admin.v1 import keys_pb2


DESCRIPTOR: Final = keys_pb2.DESCRIPTOR.services_by_name["KeyService"]
OPEN: Final = frozenset({"Login"})  # to those who have no credential yet
ROUTE: Final = "admin-api"


class KeyService:
    """Implements `adapters.rpc.Service`."""

    descriptor = DESCRIPTOR

    def __init__(
        self, *, door: Door | None, keys: KeyAdmin, usage: UsageAdmin, answers: Answers, login: Login | None
    ) -> None:
        """*door* None: whoever calls is the command line, straight in the store; *login* None: nobody can."""
        self._door = door
        self._keys = keys
        self._used = usage
        self._answers = answers
        self._login = login
        self._doing: set[asyncio.Future[bytes]] = set()

    async def authorize(self, call: Call) -> Actor:
        """Raises: RpcError."""
        if self._door is None:
            return COMMAND_LINE
        return Actor("") if call.method in OPEN else await self._door.admit(call)

    async def handle(self, call: Call, actor: Actor, request: Message) -> Message:
        """Raises: RpcError."""
        with refusing(store_faults=self._door is not None):  # people at the command line are told what it is
            if call.method == "Login":
                return await self._log_in(call, request)
            method: Callable[[Any, Actor], Awaitable[Message]] = getattr(self, _METHODS[call.method])
            return await method(request, actor)

    async def _create(self, request: Message, actor: Actor) -> Message:
        new, actor = messages.new_key(request), _for(actor, request.request_id)

        async def draw() -> bytes:
            return messages.encode_drawn(self._keys.draw(new, actor))

        async def act(drawn: bytes | None) -> IssuedKey:
            return await self._keys.create(new, actor, messages.decode_drawn(drawn))

        return await self._once("CreateKey", request, actor, draw, act)

    async def _rotate(self, request: Message, actor: Actor) -> Message:
        grace_s, actor = messages.grace_s(request.grace), _for(actor, request.request_id)

        async def draw() -> bytes:
            return messages.encode_drawn(await self._keys.draw_rotation(request.id, actor))

        async def act(drawn: bytes | None) -> IssuedKey:
            return await self._keys.rotate(request.id, grace_s, actor, messages.decode_drawn(drawn))

        return await self._once("RotateKey", request, actor, draw, act)

    async def _once(
        self,
        method: str,
        request: Message,
        actor: Actor,
        draw: Callable[[], Awaitable[bytes]],
        act: Callable[[bytes | None], Awaitable[IssuedKey]],
    ) -> Message:
        """To the end, also for a caller who hangs up: who asks again must find the answer."""

        async def answered(drawn: bytes | None) -> bytes:
            encoded: bytes = messages.key_with_token(await act(drawn)).SerializeToString()
            return encoded

        asked = request.SerializeToString(deterministic=True)
        question = (actor.id, method, request.request_id)
        doing = asyncio.ensure_future(self._answers.once(question, asked, draw, answered))
        self._doing.add(doing)
        doing.add_done_callback(self._done)
        return keys_pb2.KeyWithToken.FromString(await asyncio.shield(doing))

    def _done(self, doing: asyncio.Future[bytes]) -> None:
        self._doing.discard(doing)
        if not doing.cancelled():
            doing.exception()  # told to the caller, if one is still there

    async def _get(self, request: Message, actor: Actor) -> Message:
        if request.show_token:
            shown = await self._keys.show_token(request.id, actor)
            return messages.key(shown.record, await self._keys.registry.now_us(), token=shown.token)
        record = await self._keys.show(request.id, actor)
        return messages.key(record, await self._keys.registry.now_us())

    async def _list(self, request: Message, actor: Actor) -> Message:
        wanted, size = messages.listed(request, messages.KEY_FIELDS)
        page = await self._keys.page(wanted, size, request.page_token, actor)
        return keys_pb2.ListKeysResponse(
            keys=[messages.key(record, page.now_us) for record in page.records], next_page_token=page.next_token
        )

    async def _update(self, request: Message, actor: Actor) -> Message:
        record = await self._keys.update(request.key.id, messages.changes(request), actor)
        return messages.key(record, await self._keys.registry.now_us())

    async def _revoke(self, request: Message, actor: Actor) -> Message:
        record, warnings = await self._keys.revoke(request.id, request.reason, actor)
        return messages.key(record, await self._keys.registry.now_us(), warnings=warnings)

    async def _revoke_all(self, request: Message, actor: Actor) -> Message:
        wanted = messages.everything(request)
        covered, warnings = await self._keys.revoke_all(wanted, actor, dry_run=request.dry_run, reason=request.reason)
        return keys_pb2.RevokeAllKeysResponse(revoked=covered, dry_run=request.dry_run, warnings=warnings)

    async def _events(self, request: Message, actor: Actor) -> Message:
        wanted, size = messages.listed(request, messages.EVENT_FIELDS)
        page = await self._keys.events(wanted, size, request.page_token, actor)
        return keys_pb2.ListEventsResponse(
            events=[messages.event(one) for one in page.events], next_page_token=page.next_token
        )

    async def _key_usage(self, request: Message, actor: Actor) -> Message:
        return messages.key_usage(await self._used.of_key(request.id, messages.span(request), actor))

    async def _usage(self, request: Message, actor: Actor) -> Message:
        wanted = messages.filtered(request, messages.USAGE_FIELDS)
        return messages.usage(await self._used.of_all(wanted, request.group_by, messages.span(request), actor))

    async def _log_in(self, call: Call, request: Message) -> Message:
        if self._login is None or self._door is None:
            raise RpcError(Problem(404, "not_found", "Logging in is for a running sidecar."))
        session = await self._door.log_in(self._login, call, request.username, request.password)
        return keys_pb2.LoginResponse(token=session.token, expires_at=timestamp(session.expires_at_us))


_METHODS: Final = {
    "CreateKey": "_create",
    "GetKey": "_get",
    "ListKeys": "_list",
    "UpdateKey": "_update",
    "RotateKey": "_rotate",
    "RevokeKey": "_revoke",
    "RevokeAllKeys": "_revoke_all",
    "GetKeyUsage": "_key_usage",
    "GetUsage": "_usage",
    "ListEvents": "_events",
}
assert {*_METHODS, *OPEN} == set(DESCRIPTOR.methods_by_name)  # noqa: S101 - each method of the proto is served


def _for(actor: Actor, request_id: str) -> Actor:
    """The event names the request as the proxy did, else as the caller did."""
    return actor if actor.request_id else replace(actor, request_id=request_id)
