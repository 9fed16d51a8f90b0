"""
What the pipeline and the key use cases need of the outside, as small protocols.

Adapters implement them; the composition root puts them together. A refusal is a return value; `StoreFault` is the one
exception that crosses a port.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from authz.core.admission import Admission, Admitted
from authz.core.claims import Claims
from authz.core.decision import Decision, Refusal
from authz.core.event import Event
from authz.core.keyrecord import KeyRecord
from authz.core.listing import Filter
from authz.core.prompt import Prompt
from authz.core.request import Request
from authz.core.settlement import Booked, Booking, DecisionId, Finished
from authz.core.usage import Counts, Owner, Row, Step


class StoreFault(Exception):  # noqa: N818 - "fault" is our word for a failing of ours (docs/terminology.md)
    """
    The store did not do what was asked: away, too slow, read-only, or not the store it should be.

    `trustworthy` False: the store answers, but has lost or never held what it should; no failure mode lets that pass.
    """

    def __init__(self, detail: str, *, trustworthy: bool = True) -> None:
        super().__init__(detail)
        self.trustworthy = trustworthy


class OverloadFault(StoreFault):
    """More is waiting than may wait: for the store, or for its turn to be computed; or we were held up ourselves."""


class Clock(Protocol):
    def now_s(self) -> float:
        """Wall clock, seconds since 1970: for claims."""
        ...

    def monotonic_s(self) -> float:
        """For durations."""
        ...


class Verifier(Protocol):
    def verify(self, token: str) -> Claims | Refusal:
        """
        The claims of *token* if its signature is ours, its algorithm the key's own and its time now; CPU only.

        Never raises on what a client can send.
        """
        ...


class OpaqueTokens(Protocol):
    async def find(self, token: str) -> Claims | None:
        """
        Whose *token* is, by its digest; None: nobody's. Its checksum was checked.

        Raises: StoreFault.
        """
        ...


class Prompts(Protocol):
    async def read(self, body: bytes, key_id: str) -> Prompt | Refusal:
        """
        What *body* asks for, or why it cannot be read. No key keeps another one's bodies waiting for all of its own.

        Raises: OverloadFault.
        """
        ...


class Ledger(Protocol):
    def repeated(self, admission: Admission) -> Callable[[], Awaitable[Admitted]]:
        """`admit` of *admission*, to be called any number of times, each for less than `admit`."""
        ...

    async def admit(self, admission: Admission) -> Admitted:
        """
        Decide and charge in one atomic step.

        Raises: StoreFault — nothing is known to have been charged; OverloadFault — nor is it known whose fault that is.
        """
        ...

    def number(self, tenant: str) -> DecisionId:
        """Names the next decision about *tenant*."""
        ...


class Books(Protocol):
    """Where finished requests are settled."""

    async def settle(self, bookings: Sequence[Booking]) -> Sequence[Booked]:
        """
        Book each in one atomic step, if it never was: correct its buckets, count it. Answers stand beside *bookings*.

        Raises: StoreFault — which of them were booked is not known: ask again, none is booked twice.
        """
        ...


class UsageReports(Protocol):
    """Reads what was booked."""

    async def totals(self, owner: Owner) -> Mapping[str, Counts]:
        """By model; `""`: requests without one. Since the owner's first request. Raises: StoreFault."""
        ...

    async def last_used_us(self, owner: Owner) -> int | None:
        """Of a key. Raises: StoreFault."""
        ...

    def rows(self, step: Step, start_s: int, end_s: int, tenant: str | None = None) -> AsyncIterator[Row]:
        """
        What was used from *start_s* up to, and not at, *end_s*: both whole steps. *tenant*: look in its partition
        alone, where others' rows may lie too. Raises: StoreFault.
        """
        ...


class KeyRecords(Protocol):
    """Records as the check reads them: remembered, as the ledger refuses to judge by an outdated version."""

    async def find(self, tenant: str, key_id: str, *, fresh: bool = False) -> KeyRecord | None:
        """*fresh*: ask the store, whatever is remembered. Raises: StoreFault."""
        ...

    def remembered(self, tenant: str, key_id: str) -> KeyRecord | None:
        """What was read last, however long ago; for when the store is away."""
        ...

    def remember(self, tenant: str, record: KeyRecord) -> None:
        """What the ledger has told: a revocation, which nothing takes back."""
        ...


@dataclass(frozen=True, slots=True)
class KeyDraft:
    """A key to be made. `lifetime_s` None: it never expires."""

    record: KeyRecord
    lifetime_s: int | None


class PrefixTakenError(Exception):
    """The display prefix belongs to another key: draw another."""


class NameTakenError(Exception):
    """Another user has this name."""


class ChangedError(Exception):
    """Somebody else changed the record since it was read."""


class RevokedError(Exception):
    """The key was revoked: nothing changes it any more."""


class BeingRemovedError(Exception):
    """A user is being removed: until that is finished, nothing is made for the subject, and nobody has the name."""


class BadPageTokenError(ValueError):
    """Not a page token of this list and filter."""


@dataclass(frozen=True, slots=True)
class KeyPage:
    """`next_token` empty: the last one. `now_us`: the store's clock, by which states were told."""

    records: Sequence[KeyRecord]
    next_token: str
    now_us: int


@dataclass(frozen=True, slots=True)
class EventPage:
    events: Sequence[Event]
    next_token: str


class KeyRegistry(Protocol):
    """Records as those who manage keys see them; never cached. Each change writes its event with it, or is not made."""

    async def create(self, draft: KeyDraft, event: Event) -> tuple[KeyRecord, bool]:
        """
        Marks a store that was never used as ours. A draft that was made already is read, and not made twice; whether
        it was made now, comes with it.

        Raises: PrefixTakenError; RevokedError — the event's actor is, and lies in the key's partition;
            BeingRemovedError — the user whose it would be is; StoreFault.
        """
        ...

    async def read(self, key: str) -> KeyRecord | None:
        """By id or by display prefix."""
        ...

    async def page(self, wanted: Filter, size: int, token: str = "") -> KeyPage:
        """Newest first. Raises: BadPageTokenError; StoreFault."""
        ...

    async def change(self, changed: KeyRecord, event: Event) -> KeyRecord:
        """*changed*: with the version that was read. Raises: ChangedError; RevokedError; StoreFault."""
        ...

    async def rotate(self, record: KeyRecord, changed: KeyRecord, event: Event) -> KeyRecord:
        """*changed*: *record* with a new last rotation. Raises: as `change`."""
        ...

    async def revoke(self, key_id: str, reason: str, event: Event) -> None:
        """Irreversible; a second time changes nothing. An id without a record is revoked too, wherever it turns up."""
        ...

    async def revoke_within_removal(self, key_id: str, reason: str, user: KeyRecord) -> None:
        """A key of *user*; the event is the removal's. Raises: ChangedError — the removal is over; StoreFault."""
        ...

    async def revoke_subject(self, subject: str, upto_us: int | None, event: Event) -> None:
        """Everything of *subject* issued up to then (None: now), in every workspace."""
        ...

    async def revoke_workspace(self, workspace: str, subject: str, upto_us: int | None, event: Event) -> None:
        """*subject* empty: everything of the workspace."""
        ...

    async def revoke_everything(self, upto_us: int, event: Event) -> None: ...

    async def retain(self, record: KeyRecord, sealed: bytes | None) -> None:
        """None: keep none. Raises: ChangedError — *record* is no longer what stands; StoreFault."""
        ...

    async def retained(self, record: KeyRecord) -> bytes | None: ...

    async def note(self, event: Event, tenant: str) -> None:
        """Write an event down without a change."""
        ...

    async def events(self, wanted: Filter, size: int, token: str = "") -> EventPage:
        """Newest first. Raises: BadPageTokenError; StoreFault."""
        ...

    async def remember_answer(self, request: str, answer: bytes, seconds: int, *, is_first: bool) -> bytes | None:
        """Keep what *request* was answered. *is_first*: only if nothing is kept; what is kept already is returned."""
        ...

    async def forget_answer(self, request: str) -> None: ...

    async def now_us(self) -> int:
        """The store's clock."""
        ...

    @property
    def partitions(self) -> int: ...

    def partition(self, tenant: str) -> int: ...


class UserRegistry(Protocol):
    """Users: records of the kind `user`, found by name. Passwords as argon2id hashes, beside the record."""

    async def create(self, record: KeyRecord, password_hash: str, event: Event) -> KeyRecord:
        """
        Marks a store that was never used as ours.

        Raises: NameTakenError; BeingRemovedError — who had the name is; RevokedError — the event's actor is;
            StoreFault.
        """
        ...

    async def find(self, name: str) -> tuple[KeyRecord, str] | None:
        """The user and the password's hash; None: there is none, or it was removed."""
        ...

    async def find_unfinished(self, name: str) -> KeyRecord | None:
        """Who had the name last, if they were removed, and that is not finished."""
        ...

    async def set_password(self, changed: KeyRecord, password_hash: str, event: Event) -> KeyRecord:
        """Raises: ChangedError; RevokedError; StoreFault."""
        ...

    async def all(self) -> Sequence[KeyRecord]: ...

    async def remove(self, record: KeyRecord, event: Event) -> KeyRecord:
        """
        As it is then. In the same step begins the removal: no key is made any more for its subject in its workspace (or
        in none), whoever asks for it, until that is finished. A second time changes nothing. Raises: StoreFault.
        """
        ...

    async def finish_removal(self, user: KeyRecord, event: Event | None) -> None:
        """Nothing of theirs lives. A second time changes nothing, and tells nothing. Raises: StoreFault."""
        ...

    async def now_us(self) -> int: ...

    @property
    def partitions(self) -> int: ...

    def partition(self, tenant: str) -> int: ...


@dataclass(frozen=True, slots=True)
class NewToken:
    """What goes into the token of a new key or session."""

    jti: str
    subject: str
    workspace: str
    scopes: tuple[str, ...]
    issued_at_s: float
    expires_at_s: float | None


class Signer(Protocol):
    def sign(self, token: NewToken) -> str:
        """The JWT, without the key's prefix."""
        ...


class Vault(Protocol):
    """Keeps secrets that must be read again: sealed under keys derived from the keyring's secrets."""

    def seal(self, secret: bytes, about: str) -> bytes:
        """*about*: what it is and whose; it opens with the same words alone."""
        ...

    def unseal(self, sealed: bytes, about: str) -> bytes | None:
        """None: damaged, about something else, or sealed under a secret that the keyring no longer has."""
        ...

    def is_current(self, sealed: bytes) -> bool:
        """Whether it was sealed under the keyring's first secret."""
        ...


class PasswordHasher(Protocol):
    """Slow on purpose, off the event loop; a bounded number at a time."""

    async def hash(self, password: str) -> str:
        """Raises: OverloadFault."""
        ...

    async def verify(self, password_hash: str | None, password: str) -> bool:
        """None: there is no such user; takes as long, and is False. Raises: OverloadFault."""
        ...


class AuditObserver(Protocol):
    """Told of each change after it was made; must not raise."""

    def changed(self, event: Event) -> None: ...


class Observer(Protocol):
    """Told of each decision; must not raise, and must not keep or show a credential."""

    def decided(self, request: Request, decision: Decision, duration_s: float) -> None: ...


class SettlementObserver(Protocol):
    """Told of requests that are over; must not raise, and must not keep or show a credential."""

    def finished(self, finished: Finished) -> None: ...

    def settled(self, booking: Booking, booked: Booked, lag_s: float) -> None:
        """*lag_s*: since the request's end."""
        ...

    def entry_dropped(self, why: str) -> None:
        """
        *why*: `malformed`, `unknown_ticket`, `streams` (too many: one was refused), `store` (away for too long) or
        `failed` (a bug of ours).
        """
        ...


class StoreObserver(Protocol):
    """Told of what the store is asked; must not raise."""

    def store_called(self, operation: str, duration_s: float, fault: str | None) -> None:
        """*operation*, *fault*: from closed sets; None: it answered."""
        ...

    def batch_sent(self, checks: int) -> None: ...

    def store_state(self, state: str) -> None:
        """`up`, `down`, `empty`, `foreign`: on each change."""
        ...
