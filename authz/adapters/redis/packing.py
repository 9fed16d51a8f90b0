"""
A check as `admit.lua` reads it, a booking as `settle.lua` does, and their answers as values. One blob in, a flat array
of whole numbers (or one string) out: a quarter of the cost of one argument per number.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from struct import Struct
from typing import Final

from authz.adapters.redis import keys
from authz.core.admission import Admission, Admitted, Status
from authz.core.bucket import US, Charge, Limit, Quota
from authz.core.settlement import MAX_AGE_S, Booked, Booking
from authz.core.usage import MAX_MODELS, Counts, Step


_HEAD: Final = Struct("<BBddd")
_BUCKET: Final = Struct("<III")
_TWO: Final = b"\x02"  # buckets of a group: requests, tokens
_SPEND, _SUBJECT, _WORKSPACE, _TOUCH = 1, 2, 4, 8
_STATUSES: Final = tuple(Status)
_UNITS: Final = ("requests", "tokens")
_ALLOWED, _RECORDED, _NAMES_MODEL, _USED = 1, 2, 4, 8
_BOOKING: Final = Struct("<BHdII")
_LENGTH: Final = Struct("<I")
_CORRECTION: Final = Struct("<IId")
_COUNTS: Final = Struct("<dddd")
UNRECORDED_S: Final = 31 * 86_400  # for how long the counts of a key without a record are kept
BOUNDS: Final = Struct("<5I").pack(
    MAX_AGE_S,
    MAX_MODELS,
    *((step.kept + 1) * step.seconds for step in (Step.HOUR, Step.DAY)),  # one more: the last is not over
    UNRECORDED_S,
)


@dataclass(frozen=True, slots=True)
class PackedCheck:
    admission: Admission
    partition: int
    keys: tuple[str, ...]
    blob: bytes
    places: tuple[tuple[str, str, Limit | None], ...]  # of each bucket: the limit's name, the unit, how much it holds


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
    places = [
        (group.limit, unit, charge.limit)
        for group in admission.groups
        for unit, charge in zip(_UNITS, (group.requests, group.tokens), strict=True)
    ]
    return PackedCheck(admission, partition, tuple(names), b"".join(blob), tuple(places))


def _pack_charge(charge: Charge) -> bytes:
    limit = charge.limit
    return _BUCKET.pack(limit.capacity, limit.period_s, charge.cost) if limit else _BUCKET.pack(0, 0, 0)


def unpack(reply: Sequence[int], checks: Iterable[PackedCheck]) -> list[Admitted]:
    """answer[i] is for checks[i]. Raises: IndexError, TypeError — the reply is not the script's."""
    now_us, at = reply[0], 1
    answers = []
    for check in checks:
        status = _STATUSES[reply[at]]
        if status > Status.LIMITED:
            answers.append(Admitted(status, now_us=now_us))
            at += 1
            continue
        refused_at, wait_us = reply[at + 1], reply[at + 2]
        at += 3
        quotas: list[Quota] = []
        refused = None
        for place, (name, unit, limit) in enumerate(check.places, 1):
            if limit is not None:
                quota = Quota(name, unit, limit, reply[at], reply[at + 1])
                quotas.append(quota)
                if place == refused_at:
                    refused = quota
            at += 2
        answers.append(Admitted(status, tuple(quotas), refused, wait_us, now_us))
    return answers


@dataclass(frozen=True, slots=True)
class PackedBooking:
    partition: int
    keys: tuple[str, ...]
    blob: bytes


def pack_booking(booking: Booking) -> PackedBooking:
    """KEYS and the blob of one booking, as the head of `settle.lua` has it."""
    hold = booking.hold
    partition = hold.id.partition
    bitmap, bit = keys.settled(hold.id)
    owners = keys.owners(hold.workspace, hold.subject)
    used = hold.recorded and hold.allowed
    corrected = [pair for pair in zip(hold.spent, booking.corrections, strict=True) if pair[1] != 0]
    names = [
        keys.name(partition, "m"),
        bitmap,
        keys.counts(partition, keys.of_key(hold.key_id)),
        *(keys.stretch(partition, step, hold.at_us // US) for step in (Step.HOUR, Step.DAY)),
        *(keys.counts(partition, owner) for owner in (keys.EVERYTHING, *owners)),
        *((keys.name(partition, "l", hold.key_id),) if used else ()),
        *(keys.group(partition, spent.limit, spent.owner) for spent, _ in corrected),
    ]
    flags = _ALLOWED * hold.allowed + _RECORDED * hold.recorded + _NAMES_MODEL * booking.names_model + _USED * used
    field = f"{hold.workspace}\0{hold.subject}\0{hold.key_id}\0".encode()
    model = booking.model.encode()
    blob = [
        _BOOKING.pack(flags, bit, hold.at_us, booking.input_tokens, booking.output_tokens),
        _LENGTH.pack(len(field)),
        field,
        _LENGTH.pack(len(model)),
        model,
        bytes((len(owners), len(corrected))),
    ]
    for spent, delta in corrected:
        blob.append(_CORRECTION.pack(spent.bucket.capacity, spent.bucket.period_s, delta))
    return PackedBooking(partition, tuple(names), b"".join(blob))


def unpack_booked(reply: object, bookings: int) -> list[Booked]:
    """Raises: ValueError — the reply is not the script's."""
    if not isinstance(reply, bytes) or len(reply) != bookings:
        raise ValueError("an answer for each booking")
    return [Booked(status) for status in reply]


def unpack_counts(stored: bytes) -> Counts:
    """Raises: ValueError, OverflowError, struct.error — these are no counts."""
    numbers = _COUNTS.unpack(stored)
    counts = Counts(*map(int, numbers))
    if min(numbers) < 0 or any(not number.is_integer() for number in numbers):
        raise ValueError("counts are whole numbers")
    return counts
