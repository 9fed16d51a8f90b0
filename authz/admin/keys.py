"""Creating, reading and revoking keys: what every door to them does."""

import secrets
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from authz.core.bucket import Limit
from authz.core.claims import MAX_SCOPES, is_name
from authz.core.keyformat import key_id
from authz.core.keyrecord import KeyRecord, tenant_of
from authz.ports import KeyDraft, KeyRegistry, NewToken, PrefixTakenError, Signer


MAX_LIFETIME_S: Final = 100 * 365 * 86_400
_ALPHABET: Final = string.digits + string.ascii_lowercase
_DRAWS: Final = 8  # of display prefixes: 2**32 of them, so one is taken rarely
UNITS: Final = ("requests", "tokens")


class KeyRequestError(ValueError):
    """What was asked for cannot be done; `field` is the one at fault."""

    def __init__(self, field_name: str, reason: str) -> None:
        super().__init__(f"{field_name}: {reason}")
        self.field = field_name


class NoSuchKeyError(Exception):
    """No key has this id."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """
    Args:
        name: For people; 1 to 256 printable characters.
        subject: Empty: the key's id.
        scopes: Each must be one that the configuration knows.
        lifetime_s: None: it never expires.
        limits: By unit, `requests` or `tokens`.
    """

    name: str
    subject: str = ""
    workspace: str = ""
    scopes: tuple[str, ...] = ()
    lifetime_s: int | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CreatedKey:
    """`token`: shown once; it is kept nowhere."""

    record: KeyRecord
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class KeyAdmin:
    registry: KeyRegistry
    signer: Signer
    prefix: str
    known_scopes: frozenset[str]

    async def create(self, new: NewKey) -> CreatedKey:
        """Raises: KeyRequestError; StoreFault."""
        self._check(new)
        for _ in range(_DRAWS):
            draft = KeyDraft(self._draw(new), new.lifetime_s)
            try:
                record = await self.registry.create(draft)
            except PrefixTakenError:
                continue
            return CreatedKey(record, self.prefix + self.signer.sign(_token(record)))
        raise KeyRequestError("name", "no free key id was found, try again")

    def _check(self, new: NewKey) -> None:
        for what, value in (("name", new.name), ("subject", new.subject), ("workspace", new.workspace)):
            if value or what == "name":
                _check_name(what, value)
        if len(set(new.scopes)) > MAX_SCOPES:
            raise KeyRequestError("scopes", f"at most {MAX_SCOPES}")
        for scope in new.scopes:
            if scope not in self.known_scopes:
                raise KeyRequestError(
                    "scopes", f"unknown scope {scope!r}; known: {', '.join(sorted(self.known_scopes))}"
                )
        for unit in new.limits:
            if unit not in UNITS:
                raise KeyRequestError("limits", f"unknown unit {unit!r}; known: {', '.join(UNITS)}")
        if new.lifetime_s is not None and not 0 < new.lifetime_s <= MAX_LIFETIME_S:
            raise KeyRequestError("expires", "must be above zero and at most 100 years")

    def _draw(self, new: NewKey) -> KeyRecord:
        """A fresh record. Its id names its tenant's partition, and may be that tenant itself: drawn until it fits."""
        while True:
            display = secrets.token_hex(4)
            tail = "".join(secrets.choice(_ALPHABET) for _ in range(10))
            if new.subject or new.workspace:
                partition = self.registry.partition(tenant_of(new.workspace, new.subject))
            else:
                partition = secrets.randbelow(256)
            made = key_id(display, partition, tail)
            subject = new.subject or made
            if self.registry.partition(tenant_of(new.workspace, subject)) == partition:
                break
        return KeyRecord(
            id=made,
            name=new.name,
            kind="jwt",
            prefix=self.prefix + display,
            subject=subject,
            workspace=new.workspace,
            scopes=tuple(dict.fromkeys(new.scopes)),
            limits=dict(new.limits),
        )

    async def show(self, key: str) -> KeyRecord:
        """By id or display prefix. Raises: NoSuchKeyError; StoreFault."""
        record = await self.registry.read(key)
        if record is None:
            raise NoSuchKeyError(key)
        return record

    async def list(self) -> Sequence[KeyRecord]:
        return await self.registry.all()

    async def revoke(self, key: str, reason: str = "") -> KeyRecord:
        """Irreversible, and a second time the same. Raises: NoSuchKeyError; KeyRequestError; StoreFault."""
        if len(reason) > 256 or not (reason.isprintable()):
            raise KeyRequestError("reason", "must be at most 256 printable characters")
        record = await self.show(key)
        await self.registry.revoke(record.id, reason)
        return await self.show(record.id)

    async def revoke_subject(self, subject: str) -> None:
        """Everything of *subject* issued up to now, in every workspace. Raises: KeyRequestError; StoreFault."""
        _check_name("subject", subject)
        await self.registry.revoke_subject(subject)

    async def revoke_workspace(self, workspace: str) -> None:
        """Raises: KeyRequestError; StoreFault."""
        _check_name("workspace", workspace)
        await self.registry.revoke_workspace(workspace)

    async def revoke_foreign(self, jti: str, reason: str = "") -> None:
        """A token without a record, by its `jti`, whoever it speaks for."""
        if not is_name(jti):
            raise NoSuchKeyError(jti)
        await self.registry.revoke(jti, reason)


def _check_name(what: str, value: str) -> None:
    if not is_name(value):
        raise KeyRequestError(what, "must be 1 to 256 bytes of printable characters without white space at the ends")


def _token(record: KeyRecord) -> NewToken:
    """`exp` rounds up to the next second, so that the token never ends before the key."""
    expires = record.expires_at_us
    return NewToken(
        jti=record.id,
        subject=record.subject,
        workspace=record.workspace,
        scopes=record.scopes,
        issued_at_s=record.created_at_us // 1_000_000,
        expires_at_s=None if expires is None else -(-expires // 1_000_000),
    )
