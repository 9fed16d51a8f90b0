"""KeyService: thin; what is done is done by the use cases, and who calls is told by the pipeline."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from authz.adapters.admin import messages
from authz.adapters.rpc import Call, Message, RpcError
from authz.admin.actor import COMMAND_LINE, Actor, ForbiddenError
from authz.admin.answers import Answers
from authz.admin.keys import IssuedKey, KeyAdmin, KeyConflictError, KeyRequestError, NoSuchKeyError
from authz.admin.usage import UsageAdmin
from authz.admin.users import LimitReached, Login, WrongPasswordError
from authz.core import headers
from authz.core.addresses import Network, client_address
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.problems import Problem, problem_of
from authz.core.request import Request
from authz.pb.authz.admin.v1 import keys_pb2
from authz.ports import BadPageTokenError, Clock, Observer, OverloadFault, StoreFault


DESCRIPTOR: Final = keys_pb2.DESCRIPTOR.services_by_name["KeyService"]
OPEN: Final = frozenset({"Login"})  # to those who have no credential yet
ROUTE: Final = "admin-api"

_log: Final = logging.getLogger(__name__)
_REQUEST_ID_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class Door:
    """
    Who is at it. `check`: the pipeline with the policy of this API; the credential alone counts, and no header that a
    proxy may have set.
    """

    check: Callable[[Request], Awaitable[Decision]]
    observer: Observer
    clock: Clock
    ratelimit_styles: Sequence[str]
    trusted_proxies: tuple[Network, ...] = ()

    async def admit(self, call: Call) -> Actor:
        """Raises: RpcError."""
        request = Request(
            method="POST",
            path=f"/{DESCRIPTOR.full_name}/{call.method}",
            query=call.query,
            headers=call.headers,
            client_address=self.address(call),
        )
        start_s = self.clock.monotonic_s()
        decision = await self.check(request)
        self.observer.decided(request, decision, self.clock.monotonic_s() - start_s)
        if not isinstance(decision, Allow) or decision.principal is None:
            raise self.refused(decision)
        principal = decision.principal
        return Actor(principal.key_id, principal.workspace, principal.scopes, request.request_id[:_REQUEST_ID_CHARS])

    def refused(self, decision: Decision) -> RpcError:
        """Whatever is not an `Allow` with somebody behind it; an `Allow` without is a bug of ours, and refused."""
        refusal = Fault(Reason.INTERNAL_ERROR, "nobody was told") if isinstance(decision, Allow) else decision
        return RpcError(problem_of(refusal), headers.refusal(refusal, self.ratelimit_styles))

    def address(self, call: Call) -> str:
        return client_address(call.peer, call.headers.get("x-forwarded-for", ""), self.trusted_proxies)


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
        try:
            if call.method == "Login":
                return await self._log_in(call, request)
            method: Callable[[Any, Actor], Awaitable[Message]] = getattr(self, _METHODS[call.method])
            return await method(request, actor)
        except KeyRequestError as exc:
            raise RpcError(Problem(400, Reason.BAD_REQUEST.value, f"{exc}.", field=exc.field)) from exc
        except BadPageTokenError as exc:
            told = "page_token: is not one of this list and filter."
            raise RpcError(Problem(400, Reason.BAD_REQUEST.value, told, field="page_token")) from exc
        except NoSuchKeyError as exc:
            raise RpcError(Problem(404, "not_found", "There is no such key.")) from exc
        except KeyConflictError as exc:
            raise RpcError(Problem(409, "conflict", f"{_sentence(str(exc))}.")) from exc
        except ForbiddenError as exc:
            told = f"{_sentence(str(exc))}."
            challenge = ("www-authenticate", 'Bearer error="insufficient_scope"')
            raise RpcError(Problem(403, Reason.INSUFFICIENT_SCOPE.value, told), (challenge,)) from exc
        except StoreFault as fault:
            if self._door is None:
                raise  # people at the command line are told what it is
            if isinstance(fault, OverloadFault):
                raise self._unavailable(Fault(Reason.OVERLOADED, str(fault))) from fault
            _log.warning("the store failed a call of the admin API: %s", fault)
            raise self._unavailable(Fault(Reason.STORE_UNAVAILABLE, str(fault))) from fault

    @staticmethod
    def _unavailable(fault: Fault) -> RpcError:
        return RpcError(problem_of(fault), headers.refusal(fault, ()))

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
        if not request.username or not request.password:
            field = "password" if request.username else "username"
            raise KeyRequestError(field, "is required")
        try:
            session = await self._login(request.username, request.password, self._door.address(call))
        except WrongPasswordError as exc:
            _log.info("login refused", extra={"fields": {"client": self._door.address(call)}})
            told = Problem(401, "invalid_credentials", "The user name or the password is wrong.")
            raise RpcError(told, (("www-authenticate", "Bearer"),)) from exc
        if isinstance(session, LimitReached):
            _log.warning("too many logins", extra={"fields": {"client": self._door.address(call)}})
            answer = session.answer
            limited = Deny(
                Reason.RATE_LIMITED,
                quotas=answer.quotas,
                refused=answer.refused,
                retry_after_us=answer.wait_us,
                now_us=answer.now_us,
            )
            raise self._door.refused(limited)
        return keys_pb2.LoginResponse(token=session.token, expires_at=messages.timestamp(session.expires_at_us))


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


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
