"""
What every door to the life of a key has in common: who is at it, what they are told, and how many at a time.

Knows none of the services behind the doors, nor how their messages look.
"""

import contextlib
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from google.protobuf.timestamp_pb2 import Timestamp

from authz.adapters.rpc import Call, RpcError
from authz.admin.actor import Actor, ForbiddenError
from authz.admin.keys import KeyConflictError, KeyRequestError, NoSuchKeyError
from authz.admin.users import LimitReached, Login, Session, WrongPasswordError
from authz.core import headers
from authz.core.addresses import Network, client_address
from authz.core.bucket import US
from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.listing import DEFAULT_PAGE, MAX_PAGE
from authz.core.problems import Problem, problem_of
from authz.core.request import Request
from authz.ports import BadPageTokenError, Clock, Observer, OverloadFault, StoreFault


_log: Final = logging.getLogger(__name__)
_REQUEST_ID_CHARS: Final = 128


@dataclass(frozen=True, slots=True)
class Door:
    """
    Who is at it. The credential alone counts, and no header that a proxy may have set.

    Args:
        service: The full name of what is behind the door.
        check: The pipeline with the policy of this service.
        own_alone: Callers are bound to the subject that they are, in their workspace.
    """

    service: str
    check: Callable[[Request], Awaitable[Decision]]
    observer: Observer
    clock: Clock
    ratelimit_styles: Sequence[str]
    trusted_proxies: tuple[Network, ...] = ()
    own_alone: bool = False

    async def admit(self, call: Call) -> Actor:
        """Raises: RpcError."""
        request = Request(
            method="POST",
            path=f"/{self.service}/{call.method}",
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
        return Actor(
            principal.key_id,
            principal.workspace,
            principal.scopes,
            request.request_id[:_REQUEST_ID_CHARS],
            principal.subject if self.own_alone else "",
        )

    def refused(self, decision: Decision) -> RpcError:
        """Whatever is not an `Allow` with somebody behind it; an `Allow` without is a bug of ours, and refused."""
        refusal = Fault(Reason.INTERNAL_ERROR, "nobody was told") if isinstance(decision, Allow) else decision
        return RpcError(problem_of(refusal), headers.refusal(refusal, self.ratelimit_styles))

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
    except ForbiddenError as exc:
        told = f"{_sentence(str(exc))}."
        challenge = ("www-authenticate", 'Bearer error="insufficient_scope"')
        raise RpcError(Problem(403, Reason.INSUFFICIENT_SCOPE.value, told), (challenge,)) from exc
    except StoreFault as fault:
        if not store_faults:
            raise
        if isinstance(fault, OverloadFault):
            raise _unavailable(Fault(Reason.OVERLOADED, str(fault))) from fault
        _log.warning("the store failed a call of the admin API: %s", fault)
        raise _unavailable(Fault(Reason.STORE_UNAVAILABLE, str(fault))) from fault


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
