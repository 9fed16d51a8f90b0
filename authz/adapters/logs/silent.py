"""Telling nobody."""

from authz.core.decision import Decision
from authz.core.event import Event
from authz.core.request import Request


class Silent:
    """Observes nothing: a command is not a sidecar."""

    def decided(self, request: Request, decision: Decision, duration_s: float) -> None: ...

    def store_called(self, operation: str, duration_s: float, fault: str | None) -> None: ...

    def batch_sent(self, checks: int) -> None: ...

    def store_state(self, state: str) -> None: ...

    def changed(self, event: Event) -> None: ...
