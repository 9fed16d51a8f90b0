"""
What a check decides, and why.

    Decision = Allow | Deny | Fault

A refusal is a value, never an exception. `Deny` is about the caller; `Fault` is about us (the store, a bug), never a
property of the caller. Every decision has one `Reason`, used alike in logs, metrics, metadata and `authz check`.
"""

from dataclasses import dataclass, field
from enum import StrEnum, unique

from authz.core.bucket import Quota
from authz.core.principal import Principal
from authz.core.settlement import Hold, Spent
from authz.core.value import value


@unique
class Reason(StrEnum):
    """The closed list of reasons. Order: the order in which a check judges."""

    __hash__ = str.__hash__  # an enumeration's own is ten times as slow, and every check is counted by its reason

    ALLOWED = "allowed"
    PUBLIC = "public"
    # 401
    MISSING_CREDENTIAL = "missing_credential"
    MALFORMED_CREDENTIAL = "malformed_credential"
    AMBIGUOUS_CREDENTIAL = "ambiguous_credential"
    CREDENTIAL_IN_URL = "credential_in_url"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    ALGORITHM_REFUSED = "algorithm_refused"
    UNKNOWN_ISSUER = "unknown_issuer"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_KIND = "wrong_kind"
    BAD_CLAIMS = "bad_claims"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    REVOKED = "revoked"
    # 403
    INSUFFICIENT_SCOPE = "insufficient_scope"
    NO_ROUTE = "no_route"
    AMBIGUOUS_PATH = "ambiguous_path"
    # 400, 413, 415
    BAD_REQUEST = "bad_request"
    BODY_TOO_LARGE = "body_too_large"
    PROMPT_TOO_LONG = "prompt_too_long"
    UNSUPPORTED_CONTENT_TYPE = "unsupported_content_type"
    # 429
    RATE_LIMITED = "rate_limited"
    # 503: faults
    STORE_UNAVAILABLE = "store_unavailable"
    OVERLOADED = "overloaded"
    INTERNAL_ERROR = "internal_error"


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    Why a step said no, before it is known who is asking for what.

    `hint` is one clause for the caller, from a closed set of sentences of ours: never a part of what was sent.
    """

    reason: Reason
    hint: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Grant:
    """
    What all requests of one kind with one credential have in common, as long as nothing changes: who asks, what is
    spent ahead. Its identity counts: what was made of a grant is good for whoever comes with the same one.
    """

    principal: Principal
    spent: tuple[Spent, ...]


@value
class Allow:
    """
    Let the request pass. `principal` is None on public routes alone; `degraded`: the store was not asked; `hold`: what
    is to be settled when the request is over. `preliminary`: nothing was spent, as another check will judge the body.
    `grant`: such a request passed before; None: it did not, or that is not remembered.
    """

    reason: Reason
    route: str
    principal: Principal | None = None
    quotas: tuple[Quota, ...] = ()
    now_us: int = 0  # the store's clock (µs since 1970) at which the quotas were read
    degraded: bool = False
    hold: Hold | None = None
    preliminary: bool = False
    grant: Grant | None = None


@value
class Deny:
    """Refuse the request: the caller's doing. `retry_after_us` is None unless rate limited; -1: waiting cannot help."""

    reason: Reason
    hint: str = ""
    route: str = ""
    principal: Principal | None = None
    required: tuple[str, ...] = ()
    quotas: tuple[Quota, ...] = ()
    refused: Quota | None = None  # the bucket that said no
    retry_after_us: int | None = None
    now_us: int = 0
    hold: Hold | None = None


@value
class Fault:
    """Refuse the request: our doing. `detail` is for our logs and metrics alone; callers never read it."""

    reason: Reason
    detail: str = field(default="", repr=True)
    route: str = ""
    principal: Principal | None = None


Decision = Allow | Deny | Fault
