"""
`envoy.service.auth.v3.Authorization/Check`: bytes in, bytes out, so that any server can carry it.

Every fault becomes an explicit answer here. An exception would be an Envoy *error*, which a proxy configured with
`failure_mode_allow` lets pass.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import Final

from authz.adapters.envoy.codec import NotACheckError, ResponseStyle, decode, encode
from authz.core.decision import Decision, Deny, Fault, Reason
from authz.core.request import Request
from authz.ports import Clock, Observer


SERVICE: Final = "envoy.service.auth.v3.Authorization"
METHOD: Final = "Check"

_log: Final = logging.getLogger(__name__)
_UNREADABLE: Final = Request(method="", path="")


class CheckHandler:
    """Decode, decide, encode, observe."""

    def __init__(
        self, decide: Callable[[Request], Awaitable[Decision]], style: ResponseStyle, clock: Clock, observer: Observer
    ) -> None:
        self._decide = decide
        self._style = style
        self._clock = clock
        self._observer = observer
        self._under_way = 0
        self._last_s = clock.monotonic_s()

    def replace(self, decide: Callable[[Request], Awaitable[Decision]], style: ResponseStyle) -> None:
        """From the next check on; those under way end as they began."""
        self._decide = decide
        self._style = style

    async def __call__(self, message: bytes) -> bytes:
        start_s = self._clock.monotonic_s()
        self._under_way += 1
        try:
            return await self._answer(message, start_s)
        finally:
            self._under_way -= 1
            self._last_s = self._clock.monotonic_s()

    def idle_s(self) -> float:
        """For how long nothing has been under way."""
        return 0.0 if self._under_way else self._clock.monotonic_s() - self._last_s

    async def _answer(self, message: bytes, start_s: float) -> bytes:
        decide, style = self._decide, self._style
        request = _UNREADABLE
        decision: Decision = Fault(Reason.INTERNAL_ERROR, "not decided")
        try:
            request = decode(message)
            decision = await decide(request)
            answer = encode(decision, style)
        except NotACheckError as exc:
            decision = Deny(Reason.BAD_REQUEST, str(exc))
            answer = encode(decision, style)
        except Exception as exc:  # noqa: BLE001 - the last resort: a bug of ours must not become an open door
            _log.exception("check failed")
            decision = Fault(Reason.INTERNAL_ERROR, type(exc).__name__)
            answer = encode(decision, style)
        self._observe(request, decision, start_s)
        return answer

    def _observe(self, request: Request, decision: Decision, start_s: float) -> None:
        try:
            self._observer.decided(request, decision, self._clock.monotonic_s() - start_s)
        except Exception:  # noqa: BLE001 - what cannot be counted or logged is still answered
            _log.exception("observing a decision failed")
