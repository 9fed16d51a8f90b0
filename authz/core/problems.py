"""
The words of a refusal: HTTP status, sentence and body of every reason, in the configured response format.

Tables, so that a new format is data and a test can prove each total. Nothing that a caller sent is ever repeated but
the names of scopes that its own key holds.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

from authz.core.bucket import US
from authz.core.claims import LOG_IN_AGAIN
from authz.core.decision import Deny, Fault, Reason
from authz.core.keyformat import NOT_OURS, is_user


STATUS: Final[Mapping[Reason, int]] = {
    Reason.ALLOWED: 200,
    Reason.PUBLIC: 200,
    Reason.MISSING_CREDENTIAL: 401,
    Reason.MALFORMED_CREDENTIAL: 401,
    Reason.AMBIGUOUS_CREDENTIAL: 401,
    Reason.CREDENTIAL_IN_URL: 401,
    Reason.UNKNOWN_KEY: 401,
    Reason.BAD_SIGNATURE: 401,
    Reason.ALGORITHM_REFUSED: 401,
    Reason.UNKNOWN_ISSUER: 401,
    Reason.WRONG_AUDIENCE: 401,
    Reason.WRONG_KIND: 401,
    Reason.BAD_CLAIMS: 401,
    Reason.EXPIRED: 401,
    Reason.NOT_YET_VALID: 401,
    Reason.REVOKED: 401,
    Reason.INSUFFICIENT_SCOPE: 403,
    Reason.NO_ROUTE: 403,
    Reason.AMBIGUOUS_PATH: 403,
    Reason.BAD_REQUEST: 400,
    Reason.BODY_TOO_LARGE: 413,
    Reason.PROMPT_TOO_LONG: 400,
    Reason.UNSUPPORTED_CONTENT_TYPE: 415,
    Reason.RATE_LIMITED: 429,
    Reason.STORE_UNAVAILABLE: 503,
    Reason.OVERLOADED: 503,
    Reason.INTERNAL_ERROR: 503,
}

SENTENCE: Final[Mapping[Reason, str]] = {
    Reason.ALLOWED: "The request is allowed",
    Reason.PUBLIC: "The path is public",
    Reason.MISSING_CREDENTIAL: "No API key was sent",
    Reason.MALFORMED_CREDENTIAL: "The API key is malformed",
    Reason.AMBIGUOUS_CREDENTIAL: "It is not clear which API key is meant",
    Reason.CREDENTIAL_IN_URL: "An API key does not belong in the URL",
    Reason.UNKNOWN_KEY: "The API key is not known here",
    Reason.BAD_SIGNATURE: "The API key is not genuine: its signature does not match",
    Reason.ALGORITHM_REFUSED: "The API key is signed in a way that is not accepted here",
    Reason.UNKNOWN_ISSUER: "The token comes from an issuer that is not known here",
    Reason.WRONG_AUDIENCE: "The token is not an API key of this API",
    Reason.WRONG_KIND: "The token is of a kind that is not accepted here",
    Reason.BAD_CLAIMS: "The API key's contents are not acceptable",
    Reason.EXPIRED: "The API key has expired",
    Reason.NOT_YET_VALID: "The API key is not valid yet",
    Reason.REVOKED: "The API key has been revoked",
    Reason.INSUFFICIENT_SCOPE: "The API key lacks a scope",
    Reason.NO_ROUTE: "No API key may do this: there is no such operation here",
    Reason.AMBIGUOUS_PATH: "The path can be read in more than one way",
    Reason.BAD_REQUEST: "The request is not acceptable",
    Reason.BODY_TOO_LARGE: "The request body is too large",
    Reason.PROMPT_TOO_LONG: "The prompt is too long",
    Reason.UNSUPPORTED_CONTENT_TYPE: "The content type is not accepted here",
    Reason.RATE_LIMITED: "The rate limit is reached",
    Reason.STORE_UNAVAILABLE: "Authorization is unavailable at the moment, try again",
    Reason.OVERLOADED: "Authorization is overloaded at the moment, try again",
    Reason.INTERNAL_ERROR: "Authorization failed, try again",
}

# Where the credential is a session, or nothing else is let in.
OF_SESSIONS: Final[Mapping[Reason, str]] = {
    Reason.MISSING_CREDENTIAL: "No session token was sent",
    Reason.MALFORMED_CREDENTIAL: "The session token is malformed",
    Reason.AMBIGUOUS_CREDENTIAL: "It is not clear which session token is meant",
    Reason.CREDENTIAL_IN_URL: "A session token does not belong in the URL",
    Reason.UNKNOWN_KEY: "The session is not known here",
    Reason.BAD_SIGNATURE: "The session token is not genuine: its signature does not match",
    Reason.ALGORITHM_REFUSED: "The session token is signed in a way that is not accepted here",
    Reason.WRONG_AUDIENCE: "The token is not a session token of this API",
    Reason.BAD_CLAIMS: "The session token's contents are not acceptable",
    Reason.EXPIRED: "The session has expired",
    Reason.NOT_YET_VALID: "The session token is not valid yet",
    Reason.REVOKED: "The session has been revoked",
    Reason.INSUFFICIENT_SCOPE: "The session lacks a scope",
}
_SEND_SESSION: Final = "send the session token of a user who has logged in"

_REASONS: Final = frozenset(reason.value for reason in Reason)


@dataclass(frozen=True, slots=True)
class Problem:
    """
    All that a response format may draw on.

    Args:
        reason: A `Reason`, or where a door refuses what no check judges, one of `not_found`, `method_not_allowed`,
            `conflict`, `invalid_credentials`.
        field: Of the request: the one at fault; empty: none.
    """

    status: int
    reason: str
    message: str
    required: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    field: str = ""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """
    Args:
        members: Of the body, in the order in which they are written; `Problem.status` is the one that is answered.
        statuses: What is answered in place of a status of ours; one that is not named is answered as it is.
    """

    content_type: str
    members: Callable[[Problem], Mapping[str, object]]
    statuses: Mapping[int, int] = field(default_factory=dict)

    def status(self, problem: Problem) -> int:
        return self.statuses.get(problem.status, problem.status)

    def body(self, problem: Problem) -> str:
        members = self.members(replace(problem, status=self.status(problem)))
        return json.dumps(members, ensure_ascii=False, separators=(",", ":"))


def message(decision: Deny | Fault, *, sessions_alone: bool = False) -> str:
    """
    One sentence for the caller: what is wrong and, where it helps, what to do.

    *sessions_alone*: no API key is let in where this is told.
    """
    sentence = SENTENCE[decision.reason]
    if isinstance(decision, Fault):
        return sentence + "."
    detail = decision.hint
    if decision.reason in OF_SESSIONS and _is_of_session(decision, sessions_alone=sessions_alone):
        sentence, detail = OF_SESSIONS[decision.reason], _of_session(decision)
    if decision.reason is Reason.INSUFFICIENT_SCOPE:
        held = ", ".join(decision.principal.scopes) if decision.principal else ""
        detail = f"required: {', '.join(decision.required)}; held: {held or 'none'}"
    elif decision.reason is Reason.RATE_LIMITED:
        detail = _limit_told(decision)
    return f"{sentence}: {detail}." if detail and detail != sentence else f"{sentence}."


def _is_of_session(deny: Deny, *, sessions_alone: bool) -> bool:
    """Whether the credential is one, or should be, where nobody knows whose it is."""
    if deny.principal is not None:
        return is_user(deny.principal.key_id)
    return sessions_alone or deny.hint == LOG_IN_AGAIN


def _of_session(deny: Deny) -> str:
    """The hint of *deny*, which was written for a key."""
    if deny.reason is Reason.MISSING_CREDENTIAL:
        return "send it as 'Authorization: Bearer TOKEN'"
    if deny.reason is Reason.UNKNOWN_KEY or deny.hint.startswith(NOT_OURS):
        return _SEND_SESSION
    if deny.reason is Reason.REVOKED and deny.hint:
        return "the password was changed"  # that is what rotates a user
    return deny.hint.replace("key", "token")


def _limit_told(deny: Deny) -> str:
    quota = deny.refused
    if quota is None or deny.retry_after_us is None:
        return ""
    limit = f"{quota.limit.capacity} {quota.unit} in {quota.limit.period_s} s ({quota.name})"
    if deny.retry_after_us < 0:
        return f"{limit}; this request alone costs more, so waiting cannot help"
    return f"{limit}; try again in {max(1, -(-deny.retry_after_us // US))} s"


def problem_of(decision: Deny | Fault, *, sessions_alone: bool = False) -> Problem:
    """*sessions_alone*: see `message`."""
    held = decision.principal.scopes if decision.principal else ()
    required = decision.required if isinstance(decision, Deny) else ()
    told = message(decision, sessions_alone=sessions_alone)
    return Problem(STATUS[decision.reason], decision.reason.value, told, required, held)


def _is_of_a_door(problem: Problem) -> bool:
    """Whether no check judged, but the door itself: `reason` is a word of its own."""
    return problem.reason not in _REASONS


def _openai_error(problem: Problem) -> dict[str, object]:
    """
    OpenAI's error object. `code` is OpenAI's own word where it has one (clients compare them), else our reason.

    The SDKs pick their exception by the status alone and show `message`.
    """
    by_status = {
        401: ("invalid_request_error", "invalid_api_key"),
        429: ("rate_limit_error", "rate_limit_exceeded"),
        503: ("server_error", problem.reason),
    }
    kind, code = by_status.get(problem.status, ("invalid_request_error", problem.reason))
    if _is_of_a_door(problem):
        code = problem.reason
    return {"message": problem.message, "type": kind, "param": problem.field or None, "code": code}


def _problem_details(problem: Problem) -> dict[str, object]:
    """RFC 9457, with the `error` member in which SDKs look for the message."""
    return {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "detail": problem.message,
        "reason": problem.reason,
        "error": _openai_error(problem),
    }


# What vinfer and voiceinfra call a status, and inferno. Documented are 401 and 403, and inferno's five; the others are
# ours, in their style. A status that is not here goes by the name of 400 or 503.
_WORDS: Final[Mapping[int, str]] = {
    400: "bad_request",
    401: "unauthorized",
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    409: "conflict",
    413: "body_too_large",
    415: "unsupported_content_type",
    429: "rate_limited",
    503: "unavailable",
}
_INFERNO_CODES: Final[Mapping[int, str]] = {
    400: "VALIDATION_ERROR",
    401: "AUTHENTICATION_FAILED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    405: "METHOD_NOT_ALLOWED",
    409: "CONFLICT",
    429: "RATE_LIMITED",
    503: "INTERNAL_ERROR",
}

# The documented texts of a 401, whatever is wrong with the key: what it is, `WWW-Authenticate` tells.
_VINFER_401: Final = "Missing or invalid API key. Include a valid Bearer token in the Authorization header."
_INFERNO_401: Final = "Invalid API key"
_VOICEINFRA_401: Final = "Invalid or missing API key."

_VINFER_403: Final = "Your API key does not have permission to perform this action."
_VINFER_WANTED: Final[Mapping[str, str]] = {  # each scope includes those before it
    "read-only": "A read-only, read-write or admin key is required.",
    "read-write": "A read-write or admin key is required.",
    "admin": "An admin key is required.",
}


def _code(problem: Problem, codes: Mapping[int, str]) -> str:
    return codes.get(problem.status) or codes[400 if 400 <= problem.status < 500 else 503]


def _told(problem: Problem, unauthorized: str) -> str:
    """The message, or where a check refused the credential, the fixed text. A failed login is not about a key."""
    return unauthorized if problem.status == 401 and not _is_of_a_door(problem) else problem.message


def _vinfer_error(problem: Problem) -> dict[str, object]:
    told, details = _told(problem, _VINFER_401), _field(problem) or {}
    if problem.reason == Reason.INSUFFICIENT_SCOPE and problem.required:
        required = _strongest(problem.required) if _VINFER_WANTED.keys() >= {*problem.required} else ""
        names = f"scope{'s' if len(problem.required) > 1 else ''} {', '.join(problem.required)}"
        told = f"{_VINFER_403} {_VINFER_WANTED.get(required) or f'A key with the {names} is required.'}"
        details = {
            "required_scope": required or " ".join(problem.required),
            "current_scope": _strongest(problem.held) or " ".join(problem.held),
        }
    return {"code": _code(problem, _WORDS), "message": told, "details": details}


def _strongest(scopes: tuple[str, ...]) -> str:
    """The one of vinfer's three that includes the others; empty: none of the three is among *scopes*."""
    return max((scope for scope in scopes if scope in _VINFER_WANTED), key=[*_VINFER_WANTED].index, default="")


def _field(problem: Problem) -> dict[str, object] | None:
    return {"field": problem.field} if problem.field else None


def _inferno_error(problem: Problem) -> dict[str, object]:
    code = _code(problem, _INFERNO_CODES)
    return {"code": code, "message": _told(problem, _INFERNO_401), "details": _field(problem)}


def _voiceinfra_error(problem: Problem) -> dict[str, object]:
    return {"code": _code(problem, _WORDS), "message": _told(problem, _VOICEINFRA_401)}


def _json_error(
    error: Callable[[Problem], Mapping[str, object]], statuses: Mapping[int, int] | None = None
) -> ResponseFormat:
    return ResponseFormat("application/json", lambda problem: {"error": error(problem)}, statuses or {})


FORMATS: Final[Mapping[str, ResponseFormat]] = {
    "openai": _json_error(_openai_error),
    "vinfer": _json_error(_vinfer_error),
    "inferno": _json_error(_inferno_error, {413: 400, 415: 400}),  # it documents 400 for every wrong input
    "voiceinfra": _json_error(_voiceinfra_error),
    "problem": ResponseFormat("application/problem+json", _problem_details),
}
