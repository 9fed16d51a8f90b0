"""What the store knows of a key."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique

from authz.core.bucket import Limit


@unique
class KeyState(StrEnum):
    ACTIVE = "active"
    EXPIRED = "expired"
    REVOKED = "revoked"


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """
    Args:
        id, name, kind, prefix: As listed; `prefix` is the display prefix.
        subject, workspace: Whom the key speaks for; never changed.
        scopes: Granted.
        limits: The key's own, by unit (`requests`, `tokens`); they override the route's, bucket by bucket.
        created_at_us: When it was issued, by the store's clock; later than every bulk revocation before it.
        expires_at_us: By the store's clock; None: never.
        version: Rises with every change; negative: revoked. The ledger refuses to judge by another version.
        revoked_at_us, revoked_reason: Set once, never taken back.
    """

    id: str
    name: str
    kind: str
    prefix: str
    subject: str
    workspace: str
    scopes: tuple[str, ...] = ()
    limits: Mapping[str, Limit] = field(default_factory=dict)
    created_at_us: int = 0
    expires_at_us: int | None = None
    version: int = 0
    revoked_at_us: int | None = None
    revoked_reason: str = ""

    def state(self, now_us: int) -> KeyState:
        if self.version < 0 or self.revoked_at_us is not None:
            return KeyState.REVOKED
        if self.expires_at_us is not None and now_us >= self.expires_at_us:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


def tenant_of(workspace: str, subject: str) -> str:
    """Whose partition of the store a key belongs to: its workspace's, or its subject's where there is none."""
    return f"w:{workspace}" if workspace else f"s:{subject}"
