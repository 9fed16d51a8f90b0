"""
What a proven credential claims: for a JWT checked claim by claim (RFC 7519 §4.1, RFC 8725 §3).

The signature is the adapter's business; everything that a signature does not prove is judged here, on the clock that is
handed in. A differential property test holds these rules against PyJWT's own.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from authz.core.decision import Reason, Refusal
from authz.core.keyformat import split_token_id
from authz.core.scope import is_scope


MAX_NAME_BYTES: Final = 256  # of sub, jti and workspace, in UTF-8: a key must fit into its 8,192 characters
MAX_SCOPES: Final = 64
YEAR_9999_S: Final = 253_402_300_799
LOG_IN_AGAIN: Final = "log in again"  # the hint to a session that is over


@dataclass(frozen=True, slots=True)
class Claims:
    """
    Times in seconds since 1970.

    Args:
        scopes: None: the token says nothing of scopes.
        is_session: The token of a user who has logged in, no API key.
        digest: Of an opaque token, as its record has it; empty: a JWT.
        record_id, rotation: Of the record that the token belongs to, and which of its tokens it is; out of `jti`.
    """

    subject: str
    jti: str
    workspace: str
    scopes: tuple[str, ...] | None
    issued_at_s: float
    expires_at_s: float | None
    not_before_s: float | None
    is_session: bool = False
    digest: str = ""
    record_id: str = field(init=False)
    rotation: int = field(init=False)

    def __post_init__(self) -> None:
        record_id, rotation = split_token_id(self.jti)
        object.__setattr__(self, "record_id", record_id)
        object.__setattr__(self, "rotation", rotation)


@dataclass(frozen=True, slots=True)
class ClaimsPolicy:
    """`audience` empty: any. `leeway_s`: by how much clocks may differ. `sessions`: these are of a user's session."""

    audience: tuple[str, ...] = ()
    leeway_s: float = 10.0
    sessions: bool = False


class _BadClaimError(Exception):
    """Carries a refusal out of a reader of one claim; never leaves this module."""

    def __init__(self, hint: str) -> None:
        super().__init__(hint)
        self.refusal = Refusal(Reason.BAD_CLAIMS, hint)


def read_claims(payload: Mapping[str, object], policy: ClaimsPolicy) -> Claims | Refusal:
    """
    The claims of a payload whose signature is proven. `sub`, `jti` and `iat` are required; `exp` and `nbf` are not.

    Time itself is judged by `judge_time`, at every use: a token that is remembered still expires.
    """
    try:
        issued_at_s = _time(payload, "iat")
        expires_at_s = _time(payload, "exp")
        claims = Claims(
            subject=_name(payload, "sub", required=True),
            jti=_name(payload, "jti", required=True),
            workspace=_name(payload, "workspace", required=False),
            scopes=_scopes(payload["scope"]) if "scope" in payload else None,
            issued_at_s=0.0 if issued_at_s is None else issued_at_s,
            expires_at_s=expires_at_s,
            not_before_s=_time(payload, "nbf"),
            is_session=policy.sessions,
        )
        _text_or_absent(payload, "iss")
        audience = _audience(payload.get("aud", []))
    except _BadClaimError as bad:
        return bad.refusal
    if issued_at_s is None:
        return Refusal(Reason.BAD_CLAIMS, "the claim iat is missing")
    if expires_at_s is None and policy.sessions:
        return Refusal(Reason.BAD_CLAIMS, "the claim exp is missing")
    if expires_at_s is not None and issued_at_s > expires_at_s:
        return Refusal(Reason.BAD_CLAIMS, "the claim iat is later than exp")
    if policy.audience and not set(policy.audience).intersection(audience):
        return Refusal(Reason.WRONG_AUDIENCE, "it was issued for something else")
    return claims


def judge_time(claims: Claims, now_s: float, leeway_s: float) -> Refusal | None:
    """Whether *claims* hold at *now_s*; None: they do. RFC 7519: at `exp` itself a token is expired already."""
    if claims.expires_at_s is not None and now_s >= claims.expires_at_s + leeway_s:
        return Refusal(Reason.EXPIRED, LOG_IN_AGAIN if claims.is_session else "")
    if claims.not_before_s is not None and claims.not_before_s > now_s + leeway_s:
        return Refusal(Reason.NOT_YET_VALID)
    if claims.issued_at_s > now_s + leeway_s:
        return Refusal(Reason.NOT_YET_VALID, "it was issued in the future, by its own account")
    return None


def _name(payload: Mapping[str, object], claim: str, *, required: bool) -> str:
    if claim not in payload:
        if required:
            raise _BadClaimError(f"the claim {claim} is missing")
        return ""
    value = payload[claim]
    if not isinstance(value, str) or not value:
        raise _BadClaimError(f"the claim {claim} must be a text that is not empty")
    if not is_name(value):
        raise _BadClaimError(f"the claim {claim} is too long or has characters that no name has")
    return value


def is_name(value: str) -> bool:
    """Whether *value* can name a subject, workspace or token, and travel in a header: printable, trimmed, bounded."""
    return value.isprintable() and value == value.strip() and 0 < len(value.encode()) <= MAX_NAME_BYTES


def _time(payload: Mapping[str, object], claim: str) -> float | None:
    if claim not in payload:
        return None
    value = payload[claim]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _BadClaimError(f"the claim {claim} must be a number")
    if not 0 <= value <= YEAR_9999_S:  # NaN compares false, so it is refused here
        raise _BadClaimError(f"the claim {claim} is not a time between 1970 and 9999")
    return float(value)


def _scopes(value: object) -> tuple[str, ...]:
    """RFC 8693 §4.2: one string, scopes parted by spaces; a list of strings is taken too."""
    names = value.split() if isinstance(value, str) else value
    if not isinstance(names, list) or len(names) > MAX_SCOPES:
        raise _BadClaimError("the claim scope must be a text or a short list of texts")
    if not all(isinstance(name, str) and is_scope(name) for name in names):
        raise _BadClaimError("the claim scope has something that is no scope")
    return tuple(dict.fromkeys(names))


def _audience(value: object) -> tuple[str, ...]:
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _BadClaimError("the claim aud must be a text or a list of texts")
    return tuple(names)


def _text_or_absent(payload: Mapping[str, object], claim: str) -> None:
    if not isinstance(payload.get(claim, ""), str):
        raise _BadClaimError(f"the claim {claim} must be a text")
