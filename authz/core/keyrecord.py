"""What the store knows of a key."""

import hmac
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
class Rotation:
    """
    One of the tokens of a key (of a user: the sessions of one password). Times in µs by the store's clock.

    Args:
        number: 0: what the key was created with.
        ends_at_us: From when on it is dead, as a newer one has taken its place; None: it is the current one.
        digest: Of an opaque token: its HMAC, as hex digits.
        nonce: Tells the request that made it from any other; hex digits.
    """

    number: int
    issued_at_us: int
    ends_at_us: int | None = None
    digest: str = ""
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class KeyRecord:
    """
    What the store knows of a key; and of a user, who is a record of the kind `user` with a password for a token.

    Args:
        id, name, kind, prefix: As listed; `kind` is `jwt`, `opaque` or `user`; `prefix` is the display prefix.
        subject, workspace: Whom the key speaks for; never changed.
        scopes: Granted.
        limits: The key's own, by unit (`requests`, `tokens`); they override the route's, bucket by bucket.
        created_at_us: When it was issued, by the store's clock; later than every bulk revocation before it.
        expires_at_us: By the store's clock; None: never.
        version: Rises with every change; negative: revoked. The ledger refuses to judge by another version.
        revoked_at_us, revoked_reason: Set once, never taken back.
        rotations: Oldest first, the last is the current one; empty: the first token, a JWT, was never rotated.
        last_used_at_us: To the minute.
        unknown: What a later version put into the record; kept when this one writes it.
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
    rotations: tuple[Rotation, ...] = ()
    last_used_at_us: int | None = None
    unknown: bytes = b""

    @property
    def current(self) -> Rotation:
        return self.rotations[-1] if self.rotations else Rotation(0, self.created_at_us)

    def issued(self, number: int, digest: str) -> Rotation | None:
        """The token with this number (an opaque one: with this digest); None: it is not, or no longer, one of these."""
        if not self.rotations:
            return self.current if number == 0 and not digest else None
        if digest:
            return next((one for one in self.rotations if hmac.compare_digest(one.digest, digest)), None)
        return next((one for one in self.rotations if one.number == number and not one.digest), None)

    def state(self, now_us: int) -> KeyState:
        if self.version < 0 or self.revoked_at_us is not None:
            return KeyState.REVOKED
        if self.expires_at_us is not None and now_us >= self.expires_at_us:
            return KeyState.EXPIRED
        return KeyState.ACTIVE


def tenant_of(workspace: str, subject: str) -> str:
    """Whose partition of the store a key belongs to: its workspace's, or its subject's where there is none."""
    return f"w:{workspace}" if workspace else f"s:{subject}"
