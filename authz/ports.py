"""
What the pipeline and the key use cases need of the outside, as small protocols.

Adapters implement them; the composition root puts them together. A refusal is a return value; `StoreFault` is the one
exception that crosses a port.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from authz.core.admission import Admission, Admitted
from authz.core.claims import Claims
from authz.core.decision import Decision, Refusal
from authz.core.keyrecord import KeyRecord
from authz.core.request import Request


class StoreFault(Exception):  # noqa: N818 - "fault" is our word for a failing of ours (docs/terminology.md)
    """
    The store did not do what was asked: away, too slow, read-only, or not the store it should be.

    `trustworthy` False: the store answers, but has lost or never held what it should; no failure mode lets that pass.
    """

    def __init__(self, detail: str, *, trustworthy: bool = True) -> None:
        super().__init__(detail)
        self.trustworthy = trustworthy


class OverloadFault(StoreFault):
    """More checks are waiting for the store than may wait."""


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


class Ledger(Protocol):
    async def admit(self, admission: Admission) -> Admitted:
        """
        Decide and charge in one atomic step.

        Raises: StoreFault — within the store's time-out; nothing is known to have been charged.
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


class KeyRegistry(Protocol):
    """Records as those who manage keys see them; never cached."""

    async def create(self, draft: KeyDraft) -> KeyRecord:
        """Marks a store that was never used as ours. Raises: PrefixTakenError; StoreFault."""
        ...

    async def read(self, key: str) -> KeyRecord | None:
        """By id or by display prefix."""
        ...

    async def all(self) -> Sequence[KeyRecord]:
        """Newest first."""
        ...

    async def revoke(self, key_id: str, reason: str) -> None:
        """Irreversible; a second time changes nothing. An id without a record is revoked too, wherever it turns up."""
        ...

    async def revoke_subject(self, subject: str) -> None:
        """Everything of *subject* issued up to now, in every workspace."""
        ...

    async def revoke_workspace(self, workspace: str) -> None: ...

    async def now_us(self) -> int:
        """The store's clock."""
        ...

    def partition(self, tenant: str) -> int: ...


@dataclass(frozen=True, slots=True)
class NewToken:
    """What goes into the token of a new key."""

    jti: str
    subject: str
    workspace: str
    scopes: tuple[str, ...]
    issued_at_s: int
    expires_at_s: int | None


class Signer(Protocol):
    def sign(self, token: NewToken) -> str:
        """The JWT, without the key's prefix."""
        ...


class Observer(Protocol):
    """Told of each decision; must not raise, and must not keep or show a credential."""

    def decided(self, request: Request, decision: Decision, duration_s: float) -> None: ...


class StoreObserver(Protocol):
    """Told of what the store is asked; must not raise."""

    def store_called(self, operation: str, duration_s: float, fault: str | None) -> None:
        """*operation*, *fault*: from closed sets; None: it answered."""
        ...

    def batch_sent(self, checks: int) -> None: ...

    def store_state(self, state: str) -> None:
        """`up`, `down`, `empty`, `foreign`: on each change."""
        ...
