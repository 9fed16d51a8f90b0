"""People who may log in, and logging in."""

import hashlib
import secrets
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Final

from authz.admin.actor import Actor, ActorRevokedError
from authz.admin.keys import KeyAdmin, KeyRequestError, check_name, check_scopes, draw_id
from authz.core.addresses import neighbourhood
from authz.core.admission import Admission, Admitted, Group, Status
from authz.core.bucket import US, Charge, Limit, Quota
from authz.core.claims import is_name
from authz.core.event import Action, Event
from authz.core.keyformat import token_id
from authz.core.keyrecord import KeyRecord, Rotation
from authz.core.scope import ScopeTable
from authz.ports import (
    AuditObserver,
    ChangedError,
    Ledger,
    NameTakenError,
    NewToken,
    PasswordHasher,
    RevokedError,
    Signer,
    StoreFault,
    UserRegistry,
)


MIN_PASSWORD_CHARS: Final = 8  # NIST SP 800-63B
MAX_PASSWORD_BYTES: Final = 1024
_ATTEMPTS: Final = 8  # at a password while others set the same user's
_NEVER_REVOKED: Final = 2**53 - 1
_NOBODY: Final = "\0login"  # no key or jti has this name
_REMOVED: Final = "the user was removed"  # the reason of a revocation
_TOLD: Final = 50  # keys that a removal's event names


class NoSuchUserError(Exception):
    """Nobody has this name."""


class UserExistsError(Exception):
    """Somebody has this name already."""


class UnfinishedRemovalError(Exception):
    """The store failed in the midst of a removal: asked for again, it is finished."""


@dataclass(frozen=True, slots=True)
class NewUser:
    """`name`: what the user logs in with; the subject of the sessions."""

    name: str
    workspace: str = ""
    scopes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemovedUser:
    """`keys`: how many ended with them; `warnings`: what that led to."""

    user: KeyRecord
    keys: int
    warnings: list[str]


@dataclass(frozen=True, slots=True)
class UserAdmin:
    registry: UserRegistry
    hasher: PasswordHasher
    scopes: ScopeTable
    observer: AuditObserver
    keys: KeyAdmin

    async def add(self, new: NewUser, password: str, actor: Actor) -> KeyRecord:
        """
        Raises: KeyRequestError; UserExistsError; BeingRemovedError — who had the name is; ForbiddenError;
            ActorRevokedError; StoreFault.
        """
        check_name("name", new.name)
        if new.workspace:
            check_name("workspace", new.workspace)
        check_scopes(new.scopes, self.scopes)
        actor.check_grant(new.scopes, self.scopes)
        workspace = actor.workspace_for(new.workspace)
        password_hash = await self._hash(password)
        made = draw_id("usr", workspace, new.name, self.registry.partition, self.registry.partitions)
        record = KeyRecord(made, new.name, "user", "", new.name, workspace, tuple(dict.fromkeys(new.scopes)))
        event = Event(actor.id, Action.USER_ADD, made, workspace, after={"name": new.name, "scopes": [*new.scopes]})
        try:
            record = await self.registry.create(record, password_hash, event)
        except NameTakenError as exc:
            raise UserExistsError(new.name) from exc
        except RevokedError as exc:
            raise ActorRevokedError(actor) from exc
        self.observer.changed(event)
        return record

    async def _hash(self, password: str) -> str:
        if len(password) < MIN_PASSWORD_CHARS or len(password.encode()) > MAX_PASSWORD_BYTES:
            raise KeyRequestError("password", f"must have {MIN_PASSWORD_CHARS} to {MAX_PASSWORD_BYTES} characters")
        return await self.hasher.hash(normalised(password))

    async def set_password(self, name: str, password: str, actor: Actor) -> KeyRecord:
        """Ends every session of the user. Raises: KeyRequestError; NoSuchUserError; StoreFault."""
        password_hash = await self._hash(password)
        for _ in range(_ATTEMPTS):
            record = await self._find(name)
            now_us = await self.registry.now_us()
            changed = replace(record, rotations=(Rotation(record.current.number + 1, now_us),))
            event = Event(actor.id, Action.USER_PASSWD, record.id, record.workspace)
            try:
                changed = await self.registry.set_password(changed, password_hash, event)
            except ChangedError:
                continue
            except RevokedError as exc:
                raise NoSuchUserError(name) from exc
            self.observer.changed(event)
            return changed
        raise KeyRequestError("name", "others keep changing this user: try again")

    async def all(self) -> Sequence[KeyRecord]:
        return await self.registry.all()

    async def living_keys(self, user: KeyRecord) -> tuple[int, bool]:
        """
        How many keys are this user's own, as they may have been made before there was a user, as far as a bounded look
        tells; and whether these are all there are. Raises: StoreFault.
        """
        return await self.keys.count_living(user.subject, user.workspace)

    async def remove(self, name: str, actor: Actor) -> RemovedUser:
        """
        Ends every session of the user, then every key of theirs; from the first step on nobody makes another for them,
        until none lives. Of a removal that was cut short, what is left is done.

        Raises: NoSuchUserError; UnfinishedRemovalError; StoreFault — nothing was done.
        """
        user = await self._to_be_removed(name)
        try:
            if user.version > 0:
                user = await self._end_sessions(user, actor)
            return await self._end_keys(user, actor)
        except StoreFault as fault:
            raise UnfinishedRemovalError(str(fault)) from fault

    async def _to_be_removed(self, name: str) -> KeyRecord:
        try:
            return await self._find(name)
        except NoSuchUserError:
            user = await self.registry.find_unfinished(name) if is_name(name) else None
            if user is None:
                raise
            return user

    async def _end_sessions(self, user: KeyRecord, actor: Actor) -> KeyRecord:
        event = Event(actor.id, Action.USER_REMOVE, user.id, user.workspace, before={"name": user.name})
        removed = await self.registry.remove(user, event)
        self.observer.changed(event)
        return removed

    async def _end_keys(self, user: KeyRecord, actor: Actor) -> RemovedUser:
        try:
            ended, warnings = await self.keys.revoke_removed(user, _REMOVED)
        except ChangedError:  # others have finished it, and have told
            return RemovedUser(user, 0, [])
        event = None
        if ended:
            named = [one.prefix for one in ended[:_TOLD]]
            after = {"subject": user.subject, "reason": _REMOVED, "revoked": len(ended), "keys": named}
            event = Event(actor.id, Action.REVOKE_ALL, user.id, user.workspace, after=after)
        await self.registry.finish_removal(user, event)
        if event:
            self.observer.changed(event)
        return RemovedUser(user, len(ended), warnings)

    async def _find(self, name: str) -> KeyRecord:
        found = await self.registry.find(name) if is_name(name) else None
        if found is None:
            raise NoSuchUserError(name)
        return found[0]


def normalised(password: str) -> str:
    """The same password whatever keyboard it was typed on (NIST SP 800-63B §3.1.1.2: NFKC)."""
    return unicodedata.normalize("NFKC", password)


def _digest(name: str) -> str:
    """What stands in the store for a name that was typed: people paste passwords and keys into the wrong field."""
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Session:
    """`quotas`: of the limits that this try was charged to, at *now_us* by the store's clock."""

    token: str = field(repr=False)
    expires_at_us: int
    quotas: tuple[Quota, ...] = ()
    now_us: int = 0


@dataclass(frozen=True, slots=True)
class LimitReached:
    """Too many tries; `answer` tells which bucket refused, and for how long."""

    answer: Admitted


class WrongPasswordError(Exception):
    """The name or the password is wrong: which of them, nobody is told."""


@dataclass(frozen=True, slots=True)
class Login:
    """Every try is charged to its address and its name before anything is looked up, so guessing cannot be sped up."""

    users: UserRegistry
    hasher: PasswordHasher
    ledger: Ledger
    signer: Signer
    lifetime_s: int
    per_user: Limit | None
    per_address: Limit | None

    async def __call__(self, name: str, password: str, address: str) -> Session | LimitReached:
        """Raises: WrongPasswordError; StoreFault."""
        known = name if is_name(name) else ""
        quotas: tuple[Quota, ...] = ()
        for limit, owner in ((self.per_address, f"a:{neighbourhood(address)}"), (self.per_user, f"u:{_digest(known)}")):
            answer = await self._charge(limit, owner)
            if answer.status is Status.LIMITED:
                return LimitReached(answer)
            quotas += answer.quotas
        found = await self.users.find(known) if known else None
        usable = password if len(password.encode()) <= MAX_PASSWORD_BYTES else ""
        if not await self.hasher.verify(found[1] if found else None, normalised(usable)) or found is None:
            raise WrongPasswordError
        return await self._session(found[0], quotas)

    async def _charge(self, limit: Limit | None, owner: str) -> Admitted:
        group = Group("login", owner, Charge(limit, 1), Charge(None, 0))
        return await self.ledger.admit(
            Admission(f"login:{owner}", _NOBODY, 0, _NEVER_REVOKED, 0, "", "", (group,) if limit else ())
        )

    async def _session(self, user: KeyRecord, quotas: tuple[Quota, ...]) -> Session:
        now_us = await self.users.now_us()
        ends_us = now_us + self.lifetime_s * US
        token = NewToken(
            jti=token_id(user.id, user.current.number, secrets.token_hex(8)),
            subject=user.subject,
            workspace=user.workspace,
            scopes=user.scopes,
            issued_at_s=now_us / US,  # finer than seconds: a session must outlive a bulk revocation just before it
            expires_at_s=-(-ends_us // US),
        )
        return Session(self.signer.sign(token), -(-ends_us // US) * US, quotas, now_us)
