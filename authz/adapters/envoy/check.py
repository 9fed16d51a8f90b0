"""
`envoy.service.auth.v3.Authorization/Check`: bytes in, bytes out, so that any server can carry it.

Every fault becomes an explicit answer here. An exception would be an Envoy *error*, which a proxy configured with
`failure_mode_allow` lets pass.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from authz.adapters.envoy.answers import Answers
from authz.adapters.envoy.codec import NotACheckError, ResponseStyle, decode
from authz.core.decision import Decision, Deny, Fault, Reason
from authz.core.request import PlainRequest, Request
from authz.ports import Clock, Observer


SERVICE: Final = "envoy.service.auth.v3.Authorization"
METHOD: Final = "Check"

_log: Final = logging.getLogger(__name__)
_UNDECIDED: Final = Fault(Reason.INTERNAL_ERROR, "not decided")
_UNREADABLE: Final[Request] = PlainRequest(method="", path="")


class CheckHandler:
    """Decode, decide, encode, observe."""

    def __init__(
        self, decide: Callable[[Request], Awaitable[Decision]], style: ResponseStyle, clock: Clock, observer: Observer
    ) -> None:
        self._decide = decide
        self._answers = Answers(style)
        self._clock = clock
        self._observer = observer
        self._under_way = 0
        self._last_s = clock.monotonic_s()

    def replace(self, decide: Callable[[Request], Awaitable[Decision]], style: ResponseStyle) -> None:
        """From the next check on; those under way end as they began."""
        self._decide = decide
        self._answers = Answers(style)

    async def __call__(self, message: bytes) -> bytes:
        start_s = self._clock.monotonic_s()
        decide, answers = self._decide, self._answers
        request = _UNREADABLE
        decision: Decision = _UNDECIDED
        self._under_way += 1
        try:
            request = decode(message)
            decision = await decide(request)
            answer = answers.encode(decision)
        except NotACheckError as exc:
            decision = Deny(Reason.BAD_REQUEST, str(exc))
            answer = answers.encode(decision)
        except Exception as exc:  # noqa: BLE001 - the last resort: a bug of ours must not become an open door
            _log.exception("check failed")
            decision = Fault(Reason.INTERNAL_ERROR, type(exc).__name__)
            answer = answers.encode(decision)
        finally:
            self._under_way -= 1
            self._last_s = self._clock.monotonic_s()
        self._observe(request, decision, self._last_s - start_s)
        return answer

    def idle_s(self) -> float:
        """For how long nothing has been under way."""
        return 0.0 if self._under_way else self._clock.monotonic_s() - self._last_s

    def _observe(self, request: Request, decision: Decision, duration_s: float) -> None:
        try:
            self._observer.decided(request, decision, duration_s)
        except Exception:  # noqa: BLE001 - what cannot be counted or logged is still answered
            _log.exception("observing a decision failed")
