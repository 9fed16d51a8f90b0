"""
A check as `admit.lua` reads it, and its answer as values. One blob in, a flat array of whole numbers out: a quarter of
the cost of one argument per number.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from authz.adapters.redis import keys
from authz.core.admission import Admission, Admitted, Status
from authz.core.bucket import Charge, Quota


_HEAD: Final = Struct("<BBddd")
_BUCKET: Final = Struct("<III")
_TWO: Final = b"\x02"  # buckets of a group: requests, tokens
_SPEND, _SUBJECT, _WORKSPACE, _TOUCH = 1, 2, 4, 8
_UNITS: Final = ("requests", "tokens")


@dataclass(frozen=True, slots=True)
class PackedCheck:
    admission: Admission
    partition: int
    keys: tuple[str, ...]
    blob: bytes


def pack(admission: Admission, partition: int, *, touch: bool = False) -> PackedCheck:
    """KEYS and the blob of one check, as the head of `admit.lua` has it. *touch*: write down that the key was used."""
    names = [keys.name(partition, "m"), keys.name(partition, "v", admission.key_id), keys.name(partition, "a")]
    if admission.subject:
        names.append(keys.name(partition, "x", admission.subject))
    if admission.workspace:
        names.append(keys.name(partition, "w", admission.workspace))
        names.append(keys.within(partition, admission.workspace, admission.subject))
    if touch:
        names.append(keys.name(partition, "l", admission.key_id))
    flags = _SPEND * admission.spend + _SUBJECT * bool(admission.subject) + _WORKSPACE * bool(admission.workspace)
    flags += _TOUCH * touch
    blob = [
        _HEAD.pack(flags, len(admission.groups), admission.version, admission.issued_us, admission.dead_us),
    ]
    for group in admission.groups:
        names.append(keys.group(partition, group.limit, group.owner))
        blob += [_TWO, _pack_charge(group.requests), _pack_charge(group.tokens)]
    return PackedCheck(admission, partition, tuple(names), b"".join(blob))


def _pack_charge(charge: Charge) -> bytes:
    limit = charge.limit
    return _BUCKET.pack(limit.capacity, limit.period_s, charge.cost) if limit else _BUCKET.pack(0, 0, 0)


def unpack(reply: Sequence[int], checks: Iterable[PackedCheck]) -> list[Admitted]:
    """answer[i] is for checks[i]. Raises: ValueError, IndexError — the reply is not the script's."""
    numbers = iter(reply)
    now_us = next(numbers)
    return [_unpack_one(numbers, check.admission, now_us) for check in checks]


def _unpack_one(numbers: Iterator[int], admission: Admission, now_us: int) -> Admitted:
    status = Status(next(numbers))
    if status > Status.LIMITED:
        return Admitted(status, now_us=now_us)
    refused_place, wait_us = next(numbers), next(numbers)
    quotas: list[Quota] = []
    refused = None
    place = 0
    for group in admission.groups:
        for unit, charge in zip(_UNITS, (group.requests, group.tokens), strict=True):
            place += 1
            remaining, full_in_us = next(numbers), next(numbers)
            if charge.limit is None:
                continue
            quota = Quota(group.limit, unit, charge.limit, remaining, full_in_us)
            quotas.append(quota)
            if place == refused_place:
                refused = quota
    return Admitted(status, tuple(quotas), refused, wait_us, now_us)
