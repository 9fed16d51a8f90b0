"""The headers of an answer, as text: identity for the upstream, limits and challenges for the client."""

import math
from collections.abc import Iterable, Sequence
from typing import Final

from authz.core.bucket import US, Quota
from authz.core.decision import Deny, Fault, Reason
from authz.core.principal import Principal
from authz.core.problems import STATUS, message


Header = tuple[str, str]

IDENTITY: Final = ("x-authz-key-id", "x-authz-key-prefix", "x-authz-subject", "x-authz-workspace", "x-authz-scopes")
RATELIMIT_STYLES: Final = ("x-ratelimit", "openai", "ietf")
FAULT_RETRY_S: Final = 1
_CHALLENGE: Final = "www-authenticate"


def clean(value: str) -> str:
    """*value* fit for a header: a NUL, CR or LF in one breaks the whole message (RFC 9110 §5.5)."""
    return value if value.isprintable() else "".join(char if char.isprintable() else " " for char in value).strip()


def identity(principal: Principal) -> tuple[Header, ...]:
    """What the upstream is told; names without a value are left out (and a client's own are removed)."""
    values = (principal.key_id, principal.prefix, principal.subject, principal.workspace, " ".join(principal.scopes))
    cleaned = ((name, clean(value)) for name, value in zip(IDENTITY, values, strict=True))
    return tuple((name, value) for name, value in cleaned if value)


def rate_limit(
    quotas: Iterable[Quota], styles: Sequence[str], now_us: int, refused: Quota | None = None
) -> tuple[Header, ...]:
    """
    The limit headers of the configured *styles*.

    `x-ratelimit` shows the tightest bucket of requests, or the one that *refused*; its reset is the Unix second at
    which that bucket is full again, by the store's clock. `openai` shows requests and tokens, resets as durations;
    `ietf` is draft-ietf-httpapi-ratelimit-headers-11.
    """
    shown = tuple(quotas)
    headers: list[Header] = []
    for style in styles:
        if style == "x-ratelimit":
            headers += _x_ratelimit(refused or tightest(shown, "requests"), now_us)
        elif style == "openai":
            headers += [*_openai(tightest(shown, "requests")), *_openai(tightest(shown, "tokens"))]
        else:
            headers += _ietf(shown)
    return tuple(headers)


def tightest(quotas: Iterable[Quota], unit: str) -> Quota | None:
    """Of the buckets of *unit* the one with the least left; None: there is none."""
    found = [quota for quota in quotas if quota.unit == unit]
    if len(found) < 2:
        return found[0] if found else None
    return min(found, key=lambda q: (q.remaining, -q.full_in_us))


def _x_ratelimit(quota: Quota | None, now_us: int) -> tuple[Header, ...]:
    if quota is None:
        return ()
    return (
        ("x-ratelimit-limit", str(quota.limit.capacity)),
        ("x-ratelimit-remaining", str(max(0, quota.remaining))),
        ("x-ratelimit-reset", str(-(-(now_us + quota.full_in_us) // US))),
    )


def _openai(quota: Quota | None) -> tuple[Header, ...]:
    if quota is None:
        return ()
    return (
        (f"x-ratelimit-limit-{quota.unit}", str(quota.limit.capacity)),
        (f"x-ratelimit-remaining-{quota.unit}", str(max(0, quota.remaining))),
        (f"x-ratelimit-reset-{quota.unit}", duration(quota.full_in_us)),
    )


def duration(us: int) -> str:
    """As OpenAI writes them: `12ms`, `1s`, `6m0s`, `1h0m0s`; rounded up, so that waiting so long is enough."""
    ms = -(-us // 1000)
    if ms < 1000:
        return f"{ms}ms"
    seconds = -(-ms // 1000)
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours}h{minutes}m{seconds}s"
    return f"{minutes}m{seconds}s" if minutes else f"{seconds}s"


def _ietf(quotas: Sequence[Quota]) -> tuple[Header, ...]:
    if not quotas:
        return ()
    names = [f'"{q.name}"' if q.unit == "requests" else f'"{q.name}-{q.unit}"' for q in quotas]
    units = ["" if q.unit == "requests" else f';qu="{q.unit}"' for q in quotas]
    now = (f"{n};r={max(0, q.remaining)};t={math.ceil(q.full_in_us / US)}" for n, q in zip(names, quotas, strict=True))
    policy = (f"{n};q={q.limit.capacity};w={q.limit.period_s}{u}" for n, u, q in zip(names, units, quotas, strict=True))
    return (("ratelimit", ", ".join(now)), ("ratelimit-policy", ", ".join(policy)))


def refusal(decision: Deny | Fault, styles: Sequence[str], *, sessions_alone: bool = False) -> tuple[Header, ...]:
    """
    Every header of a refusal but the content type: the challenge, when to come back, the limits.

    *sessions_alone*: no API key is let in where this is told.
    """
    if isinstance(decision, Fault):
        return (("retry-after", str(FAULT_RETRY_S)),) if STATUS[decision.reason] == 503 else ()
    headers = [*_challenge(decision, message(decision, sessions_alone=sessions_alone))]
    if decision.retry_after_us is not None:
        headers += _retry(decision.retry_after_us)
    headers += rate_limit(decision.quotas, styles, decision.now_us, decision.refused)
    return tuple(headers)


def _retry(wait_us: int) -> tuple[Header, ...]:
    """`retry-after-ms` and `x-should-retry` are what the OpenAI SDKs look at first."""
    if wait_us < 0:
        return (("x-should-retry", "false"),)
    return (("retry-after", str(max(1, -(-wait_us // US)))), ("retry-after-ms", str(max(1, -(-wait_us // 1000)))))


def _challenge(deny: Deny, told: str) -> tuple[Header, ...]:
    """RFC 6750 §3: bare where no credential was sent, else with the error."""
    if deny.reason is Reason.MISSING_CREDENTIAL:
        return ((_CHALLENGE, "Bearer"),)
    if STATUS[deny.reason] == 401:
        return ((_CHALLENGE, _error("invalid_token", told)),)
    if deny.reason is Reason.INSUFFICIENT_SCOPE:
        return ((_CHALLENGE, f'{_error("insufficient_scope", told)}, scope="{_quoted(" ".join(deny.required))}"'),)
    return ()


def forbidden(told: str) -> Header:
    """The challenge of a 403 that is not about a scope, but about whose something is."""
    return (_CHALLENGE, _error("insufficient_scope", told))


def _error(error: str, told: str) -> str:
    return f'Bearer error="{error}", error_description="{_quoted(told)}"'


def _quoted(text: str) -> str:
    """RFC 6750 §3: %x20-21 / %x23-5B / %x5D-7E alone."""
    return "".join(char if " " <= char <= "~" and char not in '"\\' else "'" for char in text)
