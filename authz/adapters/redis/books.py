"""Where finished requests are settled: one script call for many, each booked once however often it is asked for."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final

from authz.adapters.redis.client import Store
from authz.adapters.redis.packing import BOUNDS, PackedBooking, pack_booking, unpack_booked
from authz.adapters.redis.scripts import SETTLE
from authz.adapters.redis.together import together
from authz.core.settlement import Booked, Booking
from authz.ports import StoreFault


MAX_KEYS: Final = 7_800  # in a call: what Lua's stack holds
AT_ONCE: Final = 8  # calls in a cluster, where each is of one partition; the checks need connections too

_Numbered = tuple[int, PackedBooking]  # its place in the list


class RedisBooks:
    """Settles by `settle.lua`."""

    def __init__(self, store: Store) -> None:
        self._store = store

    async def settle(self, bookings: Sequence[Booking]) -> Sequence[Booked]:
        """Raises: StoreFault — some may be booked: ask again, with any others, in any order."""
        ours = await self._store.identity()
        answers: dict[int, Booked] = {}
        packed: list[_Numbered] = []
        for number, booking in enumerate(bookings):
            if booking.hold.id.store in {"", ours}:
                packed.append((number, pack_booking(booking)))
            else:
                answers[number] = Booked.NOT_OURS
        for booked in await together(self._call, self._calls(packed), AT_ONCE):
            answers.update(booked)
        return [answers[number] for number in range(len(bookings))]

    def _calls(self, packed: list[_Numbered]) -> Iterator[list[_Numbered]]:
        if not self._store.is_cluster:
            yield from _cut(packed)
            return
        packed.sort(key=_partition)  # stable: those of a partition stay in their order
        for _, own in groupby(packed, _partition):
            yield from _cut(own)

    async def _call(self, call: list[_Numbered]) -> dict[int, Booked]:
        names = [name for _, booking in call for name in booking.keys]
        blob = b"".join(booking.blob for _, booking in call)
        reply = await self._store.run(SETTLE, names, await self._store.identity(), BOUNDS, blob)
        try:
            answers = unpack_booked(reply, len(call))
        except ValueError as exc:
            raise StoreFault("the store's answer is not the script's") from exc
        return {number: answer for (number, _), answer in zip(call, answers, strict=True)}


def _partition(numbered: _Numbered) -> int:
    return numbered[1].partition


def _cut(bookings: "Iterator[_Numbered] | list[_Numbered]") -> Iterator[list[_Numbered]]:
    call: list[_Numbered] = []
    names = 0
    for one in bookings:
        names += len(one[1].keys)
        if call and names > MAX_KEYS:
            yield call
            call, names = [], len(one[1].keys)
        call.append(one)
    if call:
        yield call
