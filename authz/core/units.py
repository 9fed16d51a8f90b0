"""Durations, limits, sizes and times as people write them: `50ms`, `60/1m`, `10MB`, `2026-05-20T10:00:00Z`."""

import datetime as dt
import re
from typing import Final

from authz.core.bucket import MAX_PERIOD_S, MAX_UNITS, Limit


DURATION_PATTERN: Final = r"^[0-9]{1,12}(ms|s|m|h|d)$"
LIMIT_PATTERN: Final = r"^[0-9]{1,10}/[0-9]{1,12}(ms|s|m|h|d)$"
SIZE_PATTERN: Final = r"^[0-9]{1,12}(B|[kK]B|MB|GB|KiB|MiB|GiB)$"
_UNIT_MS: Final = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_DURATION: Final = re.compile(r"([0-9]{1,12})(ms|s|m|h|d)")
_LIMIT: Final = re.compile(r"([0-9]{1,10})/([0-9]{1,12}(?:ms|s|m|h|d))")

_SIZE: Final = re.compile(r"([0-9]{1,12})(B|[kK]B|MB|GB|KiB|MiB|GiB)")
_UNIT_BYTES: Final = {
    "B": 1,
    "kB": 1000,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "KiB": 1024,
    "MiB": 1024**2,
    "GiB": 1024**3,
}
MAX_SIZE: Final = 10**12


def parse_duration_ms(text: object) -> int:
    """Raises: ValueError — not a whole number and one of ms, s, m, h, d; or zero."""
    found = _DURATION.fullmatch(text) if isinstance(text, str) else None
    if found is None or int(found[1]) == 0:
        raise ValueError("must be a duration above zero: a whole number and ms, s, m, h or d, such as '50ms' or '90d'")
    return int(found[1]) * _UNIT_MS[found[2]]


def format_duration_ms(ms: int) -> str:
    """In the largest unit that is whole: `90d`."""
    return next(f"{ms // size}{unit}" for unit, size in reversed(_UNIT_MS.items()) if ms % size == 0)


def parse_limit(text: object) -> Limit:
    """Raises: ValueError — not `capacity/period`, zero, or out of bounds."""
    found = _LIMIT.fullmatch(text) if isinstance(text, str) else None
    if found is None:
        raise ValueError("must be capacity/period, such as '60/1m'")
    capacity, period_ms = int(found[1]), parse_duration_ms(found[2])
    if not 1 <= capacity <= MAX_UNITS:
        raise ValueError(f"the capacity must be from 1 to {MAX_UNITS}")
    if period_ms % 1000 or not 1 <= period_ms // 1000 <= MAX_PERIOD_S:
        raise ValueError("the period must be whole seconds, from 1s to 31d")
    return Limit(capacity, period_ms // 1000)


def format_limit(limit: Limit) -> str:
    for unit, seconds in (("d", 86_400), ("h", 3600), ("m", 60)):
        if limit.period_s % seconds == 0:
            return f"{limit.capacity}/{limit.period_s // seconds}{unit}"
    return f"{limit.capacity}/{limit.period_s}s"


def parse_size(size: object) -> int:
    """Raises: ValueError — neither whole bytes nor such a text, zero, or out of bounds."""
    told = size if isinstance(size, int) and not isinstance(size, bool) else None
    if isinstance(size, str) and (found := _SIZE.fullmatch(size)):
        told = int(found[1]) * _UNIT_BYTES[found[2]]
    if told is None:
        raise ValueError("must be a size: whole bytes, or a whole number and B, kB, MB, GB, KiB, MiB or GiB")
    if not 1 <= told <= MAX_SIZE:
        raise ValueError(f"the size must be from 1 to {MAX_SIZE} bytes")
    return told


def rfc3339(us: int | None) -> str | None:
    """UTC, whole seconds."""
    if us is None:
        return None
    return dt.datetime.fromtimestamp(us // 1_000_000, dt.UTC).isoformat().replace("+00:00", "Z")
