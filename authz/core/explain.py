"""What a decision means, step by step, in the order in which a check judges: for `authz check`."""

from dataclasses import dataclass
from enum import StrEnum, unique
from typing import Final

from authz.core.decision import Allow, Decision, Deny, Fault, Reason
from authz.core.keyformat import is_user
from authz.core.principal import Principal
from authz.core.problems import STATUS, message


@unique
class Outcome(StrEnum):
    OK = "ok"
    FAILED = "FAIL"
    NOT_REACHED = "-"


@dataclass(frozen=True, slots=True)
class Step:
    name: str
    outcome: Outcome
    detail: str


_STEPS: Final[dict[str, frozenset[Reason]]] = {
    "credential": frozenset(
        {
            Reason.MISSING_CREDENTIAL,
            Reason.MALFORMED_CREDENTIAL,
            Reason.AMBIGUOUS_CREDENTIAL,
            Reason.CREDENTIAL_IN_URL,
        }
    ),
    "authenticity": frozenset(
        {
            Reason.BAD_SIGNATURE,
            Reason.ALGORITHM_REFUSED,
            Reason.UNKNOWN_ISSUER,
            Reason.WRONG_AUDIENCE,
            Reason.WRONG_KIND,
            Reason.BAD_CLAIMS,
            Reason.EXPIRED,
            Reason.NOT_YET_VALID,
        }
    ),
    "key state": frozenset({Reason.UNKNOWN_KEY, Reason.REVOKED, Reason.STORE_UNAVAILABLE, Reason.OVERLOADED}),
    "scope": frozenset({Reason.INSUFFICIENT_SCOPE, Reason.NO_ROUTE, Reason.AMBIGUOUS_PATH}),
    "request rules": frozenset(
        {Reason.BAD_REQUEST, Reason.BODY_TOO_LARGE, Reason.PROMPT_TOO_LONG, Reason.UNSUPPORTED_CONTENT_TYPE}
    ),
    "limits": frozenset({Reason.RATE_LIMITED}),
}


def explain(decision: Decision) -> tuple[Step, ...]:
    """Every step: passed, failed with the reason, or not reached."""
    if decision.reason is Reason.PUBLIC:
        return (Step("route", Outcome.OK, f"{decision.route} is public: nothing else is asked"),)
    steps: list[Step] = []
    failed = isinstance(decision, Fault) and decision.reason is Reason.INTERNAL_ERROR
    for name, reasons in _STEPS.items():
        if failed:
            steps.append(Step(name, Outcome.NOT_REACHED, ""))
        elif decision.reason in reasons:
            failed = True
            detail = decision.detail if isinstance(decision, Fault) else message(_refusal(decision))
            steps.append(Step(name, Outcome.FAILED, f"{STATUS[decision.reason]} {decision.reason}: {detail}"))
        else:
            steps.append(Step(name, Outcome.OK, _passed(name, decision)))
    return tuple(steps)


def _refusal(decision: Decision) -> Deny:
    return decision if isinstance(decision, Deny) else Deny(decision.reason)


def _passed(step: str, decision: Decision) -> str:
    principal = decision.principal
    if principal is None or isinstance(decision, Fault):
        return ""
    if step == "authenticity":
        workspace = f", workspace {principal.workspace}" if principal.workspace else ""
        return f"{_whose(principal)}, subject {principal.subject}{workspace}"
    if step == "key state":
        return "known and not revoked"
    if step == "scope":
        return f"route {decision.route}; held: {', '.join(principal.scopes) or 'none'}"
    if step == "limits" and isinstance(decision, Allow):
        left = (f"{q.name}.{q.unit} {q.remaining} of {q.limit.capacity} left" for q in decision.quotas)
        return "; ".join(left) or "none on this route"
    return ""


def _whose(principal: Principal) -> str:
    if is_user(principal.key_id):
        return f"session of the user {principal.key_id}"
    prefix = f" ({principal.prefix})" if principal.prefix else ""  # a token without a record has none
    return f"key {principal.key_id}{prefix}"
