"""
What every door to the life of a key has in common: who is at it, what they are told, and how many at a time.

Knows none of the services behind the doors, nor how their messages look.
"""

import contextlib
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from google.protobuf.timestamp_pb2 import Timestamp

from authz.adapters.rpc import Call, RpcError
from authz.admin.actor import Actor, ActorRevokedError, ForbiddenError, LacksScopeError
from authz.admin.keys import KeyConflictError, KeyRequestError, NoSuchKeyError
from authz.admin.users import LimitReached, Login, Session, WrongPasswordError
from authz.core import headers
from authz.core.addresses import Network, client_address
from authz.core.bucket import US
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.listing import DEFAULT_PAGE, MAX_PAGE
from authz.core.principal import Principal
from authz.core.problems import Problem, problem_of
from authz.core.request import PlainRequest, Request, request_id
from authz.ports import BadPageTokenError, Clock, Observer, OverloadFault, StoreFault


_log: Final = logging.getLogger(__name__)
_REQUEST_ID_CHARS: Final = 128


class Check(Protocol):
    async def __call__(self, request: Request, *, spend: bool = True) -> Decision: ...


@dataclass(frozen=True, slots=True)
class Door:
    """
    Who is at it. The credential alone counts, and no header that a proxy may have set.

    Args:
        service: The full name of what is behind the door.
        check: The pipeline with the policy of this service.
        own_alone: Callers are bound to the subject that they are, in their workspace.
        sessions_alone: The pipeline lets in no API key.
    """

    service: str
    check: Check
    observer: Observer
    clock: Clock
    ratelimit_styles: Sequence[str]
    trusted_proxies: tuple[Network, ...] = ()
    own_alone: bool = False
    sessions_alone: bool = False

    async def admit(self, call: Call) -> Actor:
        """
        Who calls; the answer shows what is left of the limits. Asked once more (`looks`), a limit that the call itself
        has used up refuses nothing, and only a refusal is told to observers. Raises: RpcError.
        """
        request = PlainRequest(
            method="POST",
            path=f"/{self.service}/{call.method}",
            query=call.query,
            headers=call.headers,
            client_address=self.address(call),
        )
        start_s = self.clock.monotonic_s()
        decision = await self.check(request, spend=not call.looks)
        is_let_in = isinstance(decision, Allow) or (call.looks and decision.reason is Reason.RATE_LIMITED)
        if not (call.looks and is_let_in):
            self.observer.decided(request, decision, self.clock.monotonic_s() - start_s)
        if not is_let_in or isinstance(decision, Fault) or decision.principal is None:
            raise self.refused(decision)
        if not call.looks:
            call.shown.extend(headers.rate_limit(decision.quotas, self.ratelimit_styles, decision.now_us))
        principal = decision.principal
        return Actor(
            principal.key_id,
            principal.workspace,
            principal.scopes,
            request_id(request)[:_REQUEST_ID_CHARS],
            principal.subject if self.own_alone else "",
        )

    def refused(self, decision: Decision) -> RpcError:
        """Whatever is not an `Allow` with somebody behind it; an `Allow` without is a bug of ours, and refused."""
        refusal = Fault(Reason.INTERNAL_ERROR, "nobody was told") if isinstance(decision, Allow) else decision
        told = headers.refusal(refusal, self.ratelimit_styles, sessions_alone=self.sessions_alone)
        return RpcError(problem_of(refusal, sessions_alone=self.sessions_alone), told)

    def address(self, call: Call) -> str:
        return client_address(call.peer, call.headers.get("x-forwarded-for", ""), self.trusted_proxies)

    async def log_in(self, login: Login, call: Call, name: str, password: str) -> Session:
        """Raises: KeyRequestError; RpcError; StoreFault."""
        if not name or not password:
            raise KeyRequestError("password" if name else "username", "is required")
        try:
            session = await login(name, password, self.address(call))
        except WrongPasswordError as exc:
            _log.info("login refused", extra={"fields": {"client": self.address(call)}})
            told = Problem(401, "invalid_credentials", "The user name or the password is wrong.")
            raise RpcError(told, (("www-authenticate", "Bearer"),)) from exc
        if isinstance(session, LimitReached):
            _log.warning("too many logins", extra={"fields": {"client": self.address(call)}})
            answer = session.answer
            limited = Deny(
                Reason.RATE_LIMITED,
                quotas=answer.quotas,
                refused=answer.refused,
                retry_after_us=answer.wait_us,
                now_us=answer.now_us,
            )
            raise self.refused(limited)
        quota = headers.tightest(session.quotas, "requests")
        left = (quota,) if quota else ()  # both limits have one name
        call.shown.extend(headers.rate_limit(left, self.ratelimit_styles, session.now_us))
        return session


@contextlib.contextmanager
def refusing(fields: Mapping[str, str] | None = None, *, store_faults: bool = True) -> Iterator[None]:
    """
    Whatever a use case raises, as callers are told it.

    Args:
        fields: What the service calls a field of the use cases, where that is another name.
        store_faults: False: they pass as they are.
    Raises: RpcError.
    """
    try:
        yield
    except KeyRequestError as exc:
        field = (fields or {}).get(exc.field, exc.field)
        raise RpcError(Problem(400, Reason.BAD_REQUEST.value, f"{field}: {exc.reason}.", field=field)) from exc
    except BadPageTokenError as exc:
        told = "page_token: is not one of this list and filter."
        raise RpcError(Problem(400, Reason.BAD_REQUEST.value, told, field="page_token")) from exc
    except NoSuchKeyError as exc:
        raise RpcError(Problem(404, "not_found", "There is no such key.")) from exc
    except KeyConflictError as exc:
        raise RpcError(Problem(409, "conflict", f"{_sentence(str(exc))}.")) from exc
    except ActorRevokedError as exc:
        raise _denied(exc.actor, Reason.REVOKED) from exc
    except LacksScopeError as exc:
        raise _denied(exc.actor, Reason.INSUFFICIENT_SCOPE, exc.required) from exc
    except ForbiddenError as exc:
        told = f"{_sentence(str(exc))}."
        raise RpcError(Problem(403, Reason.INSUFFICIENT_SCOPE.value, told), (headers.forbidden(told),)) from exc
    except StoreFault as fault:
        if not store_faults:
            raise
        if isinstance(fault, OverloadFault):
            raise _unavailable(Fault(Reason.OVERLOADED, str(fault))) from fault
        _log.warning("the store failed a call of the admin API: %s", fault)
        raise _unavailable(Fault(Reason.STORE_UNAVAILABLE, str(fault))) from fault


def _denied(actor: Actor, reason: Reason, required: tuple[str, ...] = ()) -> RpcError:
    """In the words of a check."""
    principal = Principal(actor.id, "", actor.subject, actor.workspace, actor.scopes or ())
    denied = Deny(reason, principal=principal, required=required)
    return RpcError(problem_of(denied), headers.refusal(denied, ()))


def _unavailable(fault: Fault) -> RpcError:
    return RpcError(problem_of(fault), headers.refusal(fault, ()))


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]


def page_size(asked: int) -> int:
    """Of a list; 0: the caller does not say. Raises: KeyRequestError."""
    if not 0 <= asked <= 2**31:
        raise KeyRequestError("page_size", "must not be negative")
    return min(asked or DEFAULT_PAGE, MAX_PAGE)


def timestamp(us: int | None) -> Timestamp | None:
    return None if not us else Timestamp(seconds=us // US)
