"""The one question put to the store for a check, and its answer."""

from dataclasses import dataclass
from enum import IntEnum, unique

from authz.core.bucket import Charge, Quota
from authz.core.value import value


@dataclass(frozen=True, slots=True)
class Group:
    """
    Buckets of one limit and one owner, kept together in the store.

    Args:
        limit: The limit's name.
        owner: `k:` + key id, `s:` + subject or `w:` + workspace.
        requests, tokens: The charge on each bucket, always in this order.
    """

    limit: str
    owner: str
    requests: Charge
    tokens: Charge


@dataclass(frozen=True, slots=True)
class Admission:
    """
    Args:
        tenant: Decides the partition.
        key_id: Or the `jti` of a token without a record.
        version: Of the record that the caller judged by; 0: it knows of no record.
        issued_us: When the credential was issued; compared with bulk revocations.
        dead_us: From when on it is dead by the store's clock; 0: never.
        subject, workspace: Whose bulk revocations count; empty: none.
        groups: All must admit, or none is charged.
        spend: False: only look; state is told, nothing is charged.
    """

    tenant: str
    key_id: str
    version: int
    issued_us: int
    dead_us: int
    subject: str
    workspace: str
    groups: tuple[Group, ...] = ()
    spend: bool = True


@unique
class Status(IntEnum):
    """As `admit.lua` answers."""

    ADMITTED = 0
    LIMITED = 1
    STALE = 2  # the record changed: read it again and ask again; nothing was spent
    REVOKED = 3
    REVOKED_IN_BULK = 4
    NO_RECORD = 5
    NOT_OURS = 6  # the store lost its marker, or is another one
    EXPIRED = 7
    DAMAGED = 8  # state of this check alone that cannot be read: never taken for absent


@value
class Admitted:
    """
    Args:
        quotas: Every bucket that has a limit, in the order asked; empty unless ADMITTED or LIMITED.
        refused: The bucket that said no; None: all admit.
        wait_us: Until all admit if nobody else spends; -1: never.
        now_us: The store's clock.
    """

    status: Status
    quotas: tuple[Quota, ...] = ()
    refused: Quota | None = None
    wait_us: int = 0
    now_us: int = 0
