"""
A line per decision at debug, per refusal at info, per fault at warning; a line per finished request. Never a header, a
query or a credential.
"""

import logging
from typing import Final

from authz.core.decision import Allow, Decision, Fault
from authz.core.event import Event
from authz.core.problems import STATUS
from authz.core.redaction import redacted
from authz.core.request import Request, request_id
from authz.core.settlement import Booked, Booking, Finished
from authz.core.units import rfc3339


_log: Final = logging.getLogger("authz.decisions")
_store_log: Final = logging.getLogger("authz.store")
_audit_log: Final = logging.getLogger("authz.audit")
_access_log: Final = logging.getLogger("authz.access")
_MAX_PATH: Final = 512
_MAX_READ: Final = 4096  # of a path, looked through for tokens
_MAX_METHOD: Final = 32
_MAX_ADDRESS: Final = 64
_STATES: Final = {
    "up": "the store answers",
    "down": "the store does not answer: checks are decided as store.on_error says",
    "empty": "the store holds no key: every check is refused with 503 until 'authz keys create' has made the first",
    "foreign": "the store is not the one it was: every check is refused with 503; restart authz if that is meant",
}


class LogObserver:
    """Implements `Observer`, `SettlementObserver`, `StoreObserver` and `AuditObserver`."""

    def decided(self, request: Request, decision: Decision, duration_s: float) -> None:
        level = logging.INFO
        if isinstance(decision, Allow):
            level = logging.WARNING if decision.degraded else logging.DEBUG
        elif isinstance(decision, Fault):
            level = logging.WARNING
        if _log.isEnabledFor(level):
            _log.log(level, "decided", extra={"fields": _fields(request, decision, duration_s)})

    def finished(self, finished: Finished) -> None:
        if _access_log.isEnabledFor(logging.INFO):
            _access_log.info("request", extra={"fields": _access_fields(finished)})

    def settled(self, booking: Booking, booked: Booked, lag_s: float) -> None:
        if booked is not Booked.BOOKED and _access_log.isEnabledFor(logging.WARNING):
            fields = {
                "result": booked.name.lower(),
                "decision_id": str(booking.hold.id),
                "key_id": booking.hold.key_id,
                "lag_s": round(lag_s, 3),
            }
            _access_log.warning("not settled as told", extra={"fields": fields})

    def entry_dropped(self, why: str) -> None:
        """A metric's business."""

    def store_called(self, operation: str, duration_s: float, fault: str | None) -> None:
        if fault is not None and _store_log.isEnabledFor(logging.DEBUG):
            fields = {"operation": operation, "fault": fault, "duration_ms": round(duration_s * 1000, 3)}
            _store_log.debug("store call failed", extra={"fields": fields})

    def batch_sent(self, checks: int) -> None:
        """A metric's business."""

    def store_state(self, state: str) -> None:
        level = logging.INFO if state == "up" else logging.ERROR
        _store_log.log(level, _STATES[state], extra={"fields": {"store": state}})

    def changed(self, event: Event) -> None:
        fields = {
            "actor": event.actor,
            "action": event.action,
            "key_id": event.target,
            "workspace": event.workspace,
            "before": dict(event.before),
            "after": dict(event.after),
            "request_id": event.request_id,
        }
        _audit_log.info("changed", extra={"fields": {name: _clean(value) for name, value in fields.items() if value}})


def _clean(value: object) -> object:
    """Names that people gave may hold what must not be logged."""
    if isinstance(value, str):
        return redacted(value, _MAX_PATH)
    if isinstance(value, dict):
        return {name: _clean(item) for name, item in value.items()}
    return [_clean(item) for item in value] if isinstance(value, list) else value


def _fields(request: Request, decision: Decision, duration_s: float) -> dict[str, object]:
    fields: dict[str, object] = {
        "decision": type(decision).__name__.lower(),
        "reason": decision.reason.value,
        "status": STATUS[decision.reason],
        "route": decision.route,
        "method": request.method[:_MAX_METHOD],
        "path": redacted(request.path[:_MAX_READ], _MAX_PATH),
        "client": request.client_address,
        "request_id": redacted(request_id(request)[:_MAX_READ], 128),
        "duration_ms": round(duration_s * 1000, 3),
    }
    if decision.principal is not None:
        fields |= {
            "key_id": decision.principal.key_id,
            "key_prefix": decision.principal.prefix,
            "subject": redacted(decision.principal.subject, _MAX_PATH),
            "workspace": redacted(decision.principal.workspace, _MAX_PATH),
        }
    if isinstance(decision, Allow) and decision.degraded:
        fields["degraded"] = True
    if isinstance(decision, Allow) and decision.preliminary:
        fields["preliminary"] = True
    if isinstance(decision, Fault):
        fields["detail"] = decision.detail
    elif not isinstance(decision, Allow):
        fields["hint"] = decision.hint
        if decision.refused is not None:
            fields["limit"] = f"{decision.refused.name}.{decision.refused.unit}"
    return {name: value for name, value in fields.items() if value != ""}


def _access_fields(finished: Finished) -> dict[str, object]:
    """What is known of a finished request, but for its query and headers."""
    hold, usage = finished.hold, finished.usage
    fields: dict[str, object] = {
        "started": rfc3339(round(finished.started_s * 1_000_000)),
        "client": finished.client_address[:_MAX_ADDRESS],
        "method": finished.method,
        "path": redacted(finished.path[:_MAX_READ], _MAX_PATH),
        "status": finished.status,
        "duration_ms": round(finished.duration_s * 1000, 3),
        "route": redacted(finished.route[:_MAX_READ], 128),
        "reason": redacted(finished.reason[:_MAX_READ], 128),
        "request_id": redacted(finished.request_id[:_MAX_READ], 128),
        "model": redacted((finished.model or finished.asked_model)[:_MAX_READ], 128),
    }
    if hold is not None:
        fields |= {
            "user": redacted(hold.subject, _MAX_PATH),
            "workspace": redacted(hold.workspace, _MAX_PATH),
            "key_id": hold.key_id,
            "key_prefix": hold.key_prefix,
            "decision_id": str(hold.id),
        }
    told = {"input_tokens": usage.input, "output_tokens": usage.output, "total_tokens": usage.total}
    fields |= {name: tokens for name, tokens in told.items() if tokens is not None}
    if not finished.is_complete and finished.status < 400:
        fields["cut_short"] = True
    return {name: value for name, value in fields.items() if value != ""}
