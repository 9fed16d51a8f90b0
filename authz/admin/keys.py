"""The life of a key: what every door to it does, whoever knocks."""

import secrets
import string
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final

from authz.admin.actor import ADMIN, Actor, ActorRevokedError, ForbiddenError
from authz.admin.retention import Retention
from authz.core.bucket import US, Limit
from authz.core.claims import MAX_SCOPES, is_name
from authz.core.event import Action, Event
from authz.core.keyformat import (
    BASE62,
    SECRET_CHARS,
    display_prefix,
    opaque_token,
    partition_of,
    record_id,
    split_token_id,
    token_id,
)
from authz.core.keyrecord import KeyRecord, KeyState, Rotation, tenant_of
from authz.core.listing import Filter
from authz.core.pepper import Peppers
from authz.core.scope import ScopeTable
from authz.core.units import format_duration_ms, format_limit, rfc3339
from authz.ports import (
    AuditObserver,
    BeingRemovedError,
    ChangedError,
    EventPage,
    KeyDraft,
    KeyPage,
    KeyRegistry,
    NewToken,
    PrefixTakenError,
    RevokedError,
    Signer,
    StoreFault,
)


MAX_LIFETIME_S: Final = 100 * 365 * 86_400
MAX_GRACE_S: Final = 365 * 86_400
MAX_TOKENS: Final = 8  # of one key that live at the same time
UNITS: Final = ("requests", "tokens")
KINDS: Final = ("jwt", "opaque")
_REMOVAL: Final = "the user of this subject is being removed: no keys are made until 'authz users remove' has finished"
_ALPHABET: Final = string.digits + string.ascii_lowercase
_DRAWS: Final = 8  # of display prefixes: 2**32 of them, so one is taken rarely
_ATTEMPTS: Final = 8  # at a change while others change the same key
_PAGE: Final = 500
_ADMIN_SCAN: Final = 8  # pages looked through for another admin key
_WARNED: Final = 5  # workspaces told to be without an admin key
_COUNTED: Final = 40  # pages looked through to count what a bulk revocation covers
_GLANCED: Final = 2  # pages looked through to count the keys that wait for a new user
_PASSES: Final = 8  # over the keys of a user who is being removed: the second finds none, unless something is wrong


class KeyRequestError(ValueError):
    """What was asked for cannot be done; `field` is the one at fault."""

    def __init__(self, field_name: str, reason: str) -> None:
        super().__init__(f"{field_name}: {reason}")
        self.field = field_name
        self.reason = reason


class NoSuchKeyError(Exception):
    """No key that the caller sees has this id."""


class KeyConflictError(Exception):
    """The key is not in a state in which this can be done."""


@dataclass(frozen=True, slots=True)
class NewKey:
    """
    Args:
        name: For people; 1 to 256 printable characters.
        subject: Empty: the one that the actor is bound to, else the key's id.
        workspace: Empty: the actor's.
        scopes: Each must be one that the configuration knows and that the actor holds.
        lifetime_s: None: it never expires.
        limits: By unit, `requests` or `tokens`.
        kind: `jwt` or `opaque`; empty: the configuration's.
    """

    name: str
    subject: str = ""
    workspace: str = ""
    scopes: tuple[str, ...] = ()
    lifetime_s: int | None = None
    limits: Mapping[str, Limit] = field(default_factory=dict)
    kind: str = ""


@dataclass(frozen=True, slots=True)
class KeyChanges:
    """What to change: field by field, `name`, `scopes`, `limits`, `expires_at_us` (None: never). `etag` empty: any."""

    values: Mapping[str, Any]
    etag: str = ""


@dataclass(frozen=True, slots=True)
class IssuedKey:
    """`token`: shown once; it is kept nowhere, unless `retain_token` is on."""

    record: KeyRecord
    token: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Everything:
    """What a bulk revocation is about. `issued_before_us` None: up to now."""

    subject: str = ""
    workspace: str = ""
    issued_before_us: int | None = None


@dataclass(frozen=True, slots=True)
class Drawn:
    """
    What is random about a new token, drawn before anything is done: done again with the same, it is the same token.

    Args:
        id: Of a new key; empty: the key is there already.
        number: Of the rotation.
        token: If it is opaque; a JWT is signed from its record.
        nonce: By which a rotation is known to be this one.
    """

    id: str
    number: int
    token: str = field(default="", repr=False)
    nonce: str = ""


@dataclass(frozen=True, slots=True)
class KeyAdmin:
    """
    Args:
        prefix, kind: Of new tokens.
        scopes: The configuration's.
        kept: Tokens that can be shown again.
        foreign: Tokens without a record are accepted here (`require_record` off), so they can be revoked as well.
    """

    registry: KeyRegistry
    signer: Signer
    peppers: Peppers
    prefix: str
    kind: str
    scopes: ScopeTable
    observer: AuditObserver
    kept: Retention
    foreign: bool = False

    def draw(self, new: NewKey, actor: Actor) -> Drawn:
        """What `create` will make. Raises: ForbiddenError."""
        workspace, subject = actor.workspace_for(new.workspace), actor.subject_for(new.subject)
        made = draw_id("key", workspace, subject, self.registry.partition, self.registry.partitions)
        return Drawn(made, 0, self._opaque_token() if (new.kind or self.kind) == "opaque" else "")

    async def create(self, new: NewKey, actor: Actor, drawn: Drawn | None = None) -> IssuedKey:
        """
        A new key. *drawn*: it may have been tried with this before, and is then finished, and not made twice.

        Raises: KeyRequestError; ForbiddenError; ActorRevokedError; KeyConflictError; StoreFault.
        """
        workspace, subject = actor.workspace_for(new.workspace), actor.subject_for(new.subject)
        new = replace(new, workspace=workspace, subject=subject, kind=new.kind or self.kind)
        self._check(new, actor)
        for draw in range(_DRAWS):
            fresh = self.draw(new, actor) if drawn is None or draw else drawn
            drafted = self._drafted(new, fresh)
            lifetime = {"expires_in": format_duration_ms(new.lifetime_s * 1000)} if new.lifetime_s else {}
            event = _event(actor, Action.CREATE, drafted, after={**described(drafted), **lifetime})
            try:
                record, made_now = await self.registry.create(KeyDraft(drafted, new.lifetime_s), event)
            except PrefixTakenError:
                continue
            except RevokedError as exc:
                raise ActorRevokedError(actor) from exc
            except BeingRemovedError as exc:
                raise KeyConflictError(_REMOVAL) from exc
            if made_now:
                self.observer.changed(event)
            elif (
                record.revoked_at_us is not None
                or record.current.digest != drafted.current.digest
                or record.current.number
            ):
                raise KeyConflictError("the key was made before, and was rotated or revoked since")
            return await self._issued(record, fresh.token)
        raise KeyRequestError("name", "no free key id was found, try again")

    async def _issued(self, record: KeyRecord, token: str) -> IssuedKey:
        """*token* empty: a JWT, which is made now that the store has told when it was issued."""
        token = token or self.prefix + self.signer.sign(_jwt(record))
        await self.kept.keep(record, token)
        return IssuedKey(record, token)

    def _check(self, new: NewKey, actor: Actor) -> None:
        for what, value in (("name", new.name), ("subject", new.subject), ("workspace", new.workspace)):
            if value or what == "name":
                check_name(what, value)
        if new.kind not in KINDS:
            raise KeyRequestError("kind", f"must be one of {', '.join(KINDS)}")
        if new.kind == "opaque" and not self.peppers.secrets:
            raise KeyRequestError("kind", "opaque keys need a pepper: set keys.pepper (AUTHZ_PEPPER)")
        check_scopes(new.scopes, self.scopes)
        actor.check_grant(new.scopes, self.scopes)
        _check_limits(new.limits)
        if new.lifetime_s is not None and not 0 < new.lifetime_s <= MAX_LIFETIME_S:
            raise KeyRequestError("expires_in", "must be above zero and at most 100 years")

    def _drafted(self, new: NewKey, drawn: Drawn) -> KeyRecord:
        digest = self._digest(drawn.token) if drawn.token else ""
        return KeyRecord(
            id=drawn.id,
            name=new.name,
            kind=new.kind,
            prefix=display_prefix(self.prefix, drawn.id) or "",
            subject=new.subject or drawn.id,
            workspace=new.workspace,
            scopes=tuple(dict.fromkeys(new.scopes)),
            limits=dict(new.limits),
            rotations=(Rotation(0, 0, digest=digest),) if digest else (),
        )

    def _opaque_token(self) -> str:
        return opaque_token(self.prefix, "".join(secrets.choice(BASE62) for _ in range(SECRET_CHARS)))

    async def show(self, key: str, actor: Actor) -> KeyRecord:
        """By id or display prefix. Raises: NoSuchKeyError; StoreFault."""
        record = await self.registry.read(key)
        if record is None or not actor.sees(record):
            raise NoSuchKeyError(key)
        return record

    async def show_token(self, key: str, actor: Actor) -> IssuedKey:
        """The current token again. Raises: NoSuchKeyError; KeyConflictError; ForbiddenError; StoreFault."""
        record = await self.show(key, actor)
        actor.check_grant(record.scopes, self.scopes)
        if self.kept.vault is None:
            raise KeyConflictError("tokens are not kept: keys.retain_token is off")
        if record.state(await self.registry.now_us()) is KeyState.REVOKED:
            raise KeyConflictError("the key is revoked")
        token = await self.kept.show(record)
        if token is None:
            raise KeyConflictError("the token of this key was not kept, or under a secret that the keyring has no more")
        event = _event(actor, Action.SHOW_TOKEN, record)
        await self.registry.note(event, tenant_of(record.workspace, record.subject))
        self.observer.changed(event)
        return IssuedKey(record, token)

    async def show_tokens(self, records: Sequence[KeyRecord], actor: Actor) -> list[IssuedKey]:
        """
        *records*, with the current token of each that was kept, is not revoked, and holds no more than the actor; else
        it is empty. Of many keys at once there is one event, which names their prefixes. Raises: StoreFault.
        """
        now_us = await self.registry.now_us() if records else 0
        told = []
        for record in records:
            is_shown = record.state(now_us) is not KeyState.REVOKED and actor.may_grant(record.scopes, self.scopes)
            token = await self.kept.show(record) if is_shown and actor.sees(record) else None
            told.append(IssuedKey(record, token or ""))
        if shown := [one.record for one in told if one.token]:
            event = _event(actor, Action.SHOW_TOKEN, shown[0])
            if len(shown) > 1:
                workspace = shown[0].workspace if len({one.workspace for one in shown}) == 1 else ""
                event = replace(event, target="", workspace=workspace, after={"keys": [one.prefix for one in shown]})
            await self.registry.note(event, tenant_of(shown[0].workspace, shown[0].subject))
            self.observer.changed(event)
        return told

    async def page(self, wanted: Filter, size: int, token: str, actor: Actor) -> KeyPage:
        """Raises: ForbiddenError; BadPageTokenError; StoreFault."""
        return await self.registry.page(within(wanted, actor), size, token)

    async def update(self, key: str, changes: KeyChanges, actor: Actor) -> KeyRecord:
        """Raises: NoSuchKeyError; KeyRequestError; KeyConflictError; ForbiddenError; StoreFault."""
        for _ in range(_ATTEMPTS):
            record = await self.show(key, actor)
            if changes.etag not in {"", etag(record)}:
                raise KeyConflictError("the key was changed since it was read: its etag is another")
            now_us = await self.registry.now_us()
            if record.state(now_us) is KeyState.REVOKED:
                raise KeyConflictError("the key is revoked: nothing changes it any more")
            changed = self._changed(record, changes, actor, now_us)
            before, after = _difference(record, changed)
            if not after:
                return record
            event = _event(actor, Action.UPDATE, record, before, after)
            try:
                changed = await self.registry.change(changed, event)
            except ChangedError:
                continue
            except RevokedError as exc:
                raise KeyConflictError("the key is revoked: nothing changes it any more") from exc
            self.observer.changed(event)
            return changed
        raise KeyConflictError("others keep changing the key: try again")

    def _changed(self, record: KeyRecord, changes: KeyChanges, actor: Actor, now_us: int) -> KeyRecord:
        shown = {"name": record.name, "scopes": record.scopes, "limits": dict(record.limits)}
        values = {name: value for name, value in changes.values.items() if name not in shown or shown[name] != value}
        if rfc3339(values.get("expires_at_us")) == rfc3339(record.expires_at_us):
            values.pop("expires_at_us", None)  # as it is shown: a key that was read can be sent back
        if "name" in values:
            check_name("name", values["name"])
        if "scopes" in values:
            values["scopes"] = tuple(dict.fromkeys(values["scopes"]))
            check_scopes(values["scopes"], self.scopes)
            actor.check_grant(tuple(scope for scope in values["scopes"] if scope not in record.scopes), self.scopes)
        if "expires_at_us" in values:
            actor.check_grant(record.scopes, self.scopes)  # it may bring an expired key back
        if "limits" in values:
            _check_limits(values["limits"])
        ends_us = values.get("expires_at_us")
        if ends_us is not None and not now_us < ends_us <= now_us + MAX_LIFETIME_S * US:
            raise KeyRequestError("expires_at", "must be ahead, by at most 100 years; to end a key now, revoke it")
        return replace(record, **values)

    async def draw_rotation(self, key: str, actor: Actor) -> Drawn:
        """What `rotate` will make. Raises: NoSuchKeyError; StoreFault."""
        return self._draw_rotation(await self.show(key, actor))

    def _draw_rotation(self, record: KeyRecord) -> Drawn:
        token = self._opaque_token() if record.kind == "opaque" else ""
        return Drawn("", record.current.number + 1, token, secrets.token_hex(8))

    async def rotate(self, key: str, grace_s: int, actor: Actor, drawn: Drawn | None = None) -> IssuedKey:
        """
        A new token under the same id. No earlier token lives longer than *grace_s*, nor than it was promised before.
        *drawn*: it may have been tried with this before, and is then finished, and not done twice.

        Raises: NoSuchKeyError; KeyRequestError; KeyConflictError; ForbiddenError; StoreFault.
        """
        if not 0 <= grace_s <= MAX_GRACE_S:
            raise KeyRequestError("grace", "must be from 0s to 365d")
        tried = drawn
        for _ in range(_ATTEMPTS):
            record = await self.show(key, actor)
            actor.check_grant(record.scopes, self.scopes)
            now_us = await self.registry.now_us()
            if (state := record.state(now_us)) is not KeyState.ACTIVE:
                raise KeyConflictError(f"the key is {state}: it cannot be rotated")
            if tried is not None and tried.nonce and record.current.nonce == tried.nonce:
                return await self._issued(record, tried.token)  # it was done, though nobody was told
            if drawn is not None and record.current.number >= drawn.number:
                raise KeyConflictError("the key was rotated by somebody else meanwhile")
            tried = drawn or self._draw_rotation(record)
            rotated = self._rotated(record, now_us, grace_s, tried)
            after = {"rotation": rotated.current.number, "earlier_tokens_end_at": rfc3339(now_us + grace_s * US)}
            event = _event(actor, Action.ROTATE, record, {"rotation": record.current.number}, after)
            try:
                rotated = await self.registry.rotate(record, rotated, event)
            except ChangedError:
                continue
            except RevokedError as exc:
                raise KeyConflictError("the key is revoked: it cannot be rotated") from exc
            self.observer.changed(event)
            return await self._issued(rotated, tried.token)
        raise KeyConflictError("others keep changing the key: try again")

    def _rotated(self, record: KeyRecord, now_us: int, grace_s: int, drawn: Drawn) -> KeyRecord:
        ends_us = now_us + grace_s * US
        earlier = [
            replace(one, ends_at_us=min(ends_us, one.ends_at_us or ends_us))
            for one in record.rotations or (record.current,)
        ]
        alive = [one for one in earlier if one.ends_at_us is not None and one.ends_at_us > now_us]
        if len(alive) >= MAX_TOKENS:
            raise KeyConflictError(
                f"{len(alive)} earlier tokens of the key are still alive: rotate with a shorter grace"
            )
        digest = self._digest(drawn.token) if drawn.token else ""
        newest = Rotation(record.current.number + 1, now_us, digest=digest, nonce=drawn.nonce)
        return replace(record, rotations=(*alive, newest))

    def _digest(self, token: str) -> str:
        if not self.peppers.secrets:
            raise KeyConflictError("opaque keys need a pepper: set keys.pepper (AUTHZ_PEPPER)")
        return self.peppers.digests(token)[0]

    async def revoke(self, key: str, reason: str, actor: Actor) -> tuple[KeyRecord, list[str]]:
        """
        Irreversible, and a second time the same. What the caller should know of the consequences comes with it.

        Raises: NoSuchKeyError; KeyRequestError; StoreFault.
        """
        _check_reason(reason)
        try:
            record = await self.show(key, actor)
        except NoSuchKeyError:
            if not self._is_foreign(key, actor):
                raise
            return await self._revoke_foreign(key, reason, actor), [f"no key has the id {key}: its jti is revoked"]
        if record.revoked_at_us is not None:
            await self.kept.forget(record)
            return record, []
        await self._revoke(record, reason, actor)
        return await self.show(record.id, actor), await self._consequences(record)

    async def _revoke(self, record: KeyRecord, reason: str, actor: Actor) -> None:
        event = _event(actor, Action.REVOKE, record, after={"reason": reason})
        await self.registry.revoke(record.id, reason, event)
        self.observer.changed(event)

    def _is_foreign(self, key: str, actor: Actor) -> bool:
        """The `jti` of a token from elsewhere, and not a key's id, prefix or token mistyped."""
        ours = partition_of(split_token_id(key)[0]) is not None or key.startswith(self.prefix)
        is_token = len(key) > 64 or "eyJ" in key
        return self.foreign and not (actor.workspace or actor.subject) and not ours and not is_token and is_name(key)

    async def _revoke_foreign(self, jti: str, reason: str, actor: Actor) -> KeyRecord:
        event = Event(actor.id, Action.REVOKE, jti, after={"reason": reason}, request_id=actor.request_id)
        await self.registry.revoke(jti, reason, event)
        self.observer.changed(event)
        now_us = await self.registry.now_us()
        return KeyRecord(jti, "", "jwt", "", "", "", version=-1, revoked_at_us=now_us, revoked_reason=reason)

    async def _consequences(self, record: KeyRecord) -> list[str]:
        """That the last admin key is gone, as far as a bounded look tells."""
        if not self.scopes.covers(record.scopes, (ADMIN,)):
            return []
        wanted = Filter({"workspace": record.workspace, "state": KeyState.ACTIVE.value})
        async for page in self._pages(wanted, _ADMIN_SCAN):
            if any(self.scopes.covers(other.scopes, (ADMIN,)) for other in page.records):
                return []
            if not page.next_token:
                where = f"in the workspace {record.workspace!r}" if record.workspace else "outside the workspaces"
                return [f"no active admin key is left {where}; 'authz keys create' makes one, straight in the store"]
        return []

    async def revoke_all(
        self, wanted: Everything, actor: Actor, *, dry_run: bool = False, reason: str = ""
    ) -> tuple[int, list[str]]:
        """
        Everything that *wanted* names; how many keys that covers. The revocation comes first, the counting after it.

        Raises: KeyRequestError; ForbiddenError; StoreFault.
        """
        actor.check_many()
        _check_reason(reason)
        if not (wanted.subject or wanted.workspace or wanted.issued_before_us is not None):
            raise KeyRequestError("subject", "say whose: subject, workspace or issued_before")
        for what, value in (("subject", wanted.subject), ("workspace", wanted.workspace)):
            if value:
                check_name(what, value)
        now_us = await self.registry.now_us()
        if (upto_us := wanted.issued_before_us) is not None and upto_us > now_us:
            raise KeyRequestError("issued_before", "lies ahead")
        wanted = replace(wanted, workspace=actor.workspace_for(wanted.workspace))
        after = {"subject": wanted.subject, "issued_before": rfc3339(upto_us), "reason": reason}
        event = Event(
            actor.id,
            Action.REVOKE_ALL,
            workspace=wanted.workspace,
            after={name: value for name, value in after.items() if value},
            request_id=actor.request_id,
        )
        if not dry_run:
            await self._revoke_all(wanted, event)
            self.observer.changed(event)
        covered, complete = await self._covered(wanted, now_us)
        warnings = [] if complete else ["there are too many keys to count them all: it covers at least so many"]
        if not dry_run:
            for record in covered:
                await self.kept.forget(record)
            warnings += await self._consequences_of_all(covered)
        return len(covered), warnings

    async def _consequences_of_all(self, covered: Sequence[KeyRecord]) -> list[str]:
        admins = {one.workspace: one for one in covered if self.scopes.covers(one.scopes, (ADMIN,))}
        told = [await self._consequences(admins[workspace]) for workspace in sorted(admins)[:_WARNED]]
        return [warning for warnings in told for warning in warnings]

    async def _revoke_all(self, wanted: Everything, event: Event) -> None:
        upto_us = wanted.issued_before_us
        if wanted.workspace:
            await self.registry.revoke_workspace(wanted.workspace, wanted.subject, upto_us, event)
        elif wanted.subject:
            await self.registry.revoke_subject(wanted.subject, upto_us, event)
        elif upto_us is not None:
            await self.registry.revoke_everything(upto_us, event)

    async def _covered(self, wanted: Everything, now_us: int) -> tuple[list[KeyRecord], bool]:
        """Keys of *wanted*, as far as a bounded look tells; and whether these are all there are."""
        upto_us = now_us if wanted.issued_before_us is None else wanted.issued_before_us
        named = {"subject": wanted.subject, "workspace": wanted.workspace}
        listed = Filter({name: value for name, value in named.items() if value})
        pages = [page async for page in self._pages(listed, _COUNTED)]
        covered = [
            one
            for page in pages
            for one in page.records
            if one.version > 0
            and one.created_at_us <= upto_us
            and (one.expires_at_us is None or one.expires_at_us > now_us)
        ]
        return covered, not pages[-1].next_token

    async def revoke_removed(self, user: KeyRecord, reason: str) -> tuple[list[KeyRecord], list[str]]:
        """
        Every key of *user*, whose removal has begun, until none lives: those that it ended, by earlier tries too, and
        what the caller should know of it. One by one, as a subject in no workspace ends in all of them in bulk; without
        an event for each, which would push all else out of the log.

        Raises: ChangedError — somebody else has finished the removal; StoreFault — a second time revokes the rest.
        """
        wanted = Filter({"subject": user.subject, "workspace": user.workspace})
        for _ in range(_PASSES):
            living, ended = 0, []
            async for page in self._pages(wanted):
                for record in page.records:
                    if record.state(page.now_us) is not KeyState.REVOKED:
                        await self.registry.revoke_within_removal(record.id, reason, user)
                        living += 1
                    elif record.revoked_reason == reason and (record.revoked_at_us or 0) >= (user.revoked_at_us or 0):
                        ended.append(record)
            if not living:
                return ended, await self._consequences_of_all(ended)
        raise StoreFault("somebody goes on making keys for the user")

    async def count_living(self, subject: str, workspace: str) -> tuple[int, bool]:
        """
        Of the keys of *subject* in that very *workspace* (empty: in none), as far as a bounded look tells; and whether
        these are all there are. Raises: StoreFault.
        """
        wanted = Filter({"subject": subject, "workspace": workspace, "state": KeyState.ACTIVE.value})
        pages = [page async for page in self._pages(wanted, _GLANCED)]
        return sum(len(page.records) for page in pages), not pages[-1].next_token

    async def _pages(self, wanted: Filter, most: int | None = None) -> AsyncIterator[KeyPage]:
        """At least one; *most* None: all there are."""
        token = ""
        for number in count(1):
            page = await self.registry.page(wanted, _PAGE, token)
            yield page
            token = page.next_token
            if not token or number == most:
                return

    async def events(self, wanted: Filter, size: int, token: str, actor: Actor) -> EventPage:
        """Raises: ForbiddenError; BadPageTokenError; StoreFault."""
        actor.check_many()
        return await self.registry.events(within(wanted, actor), size, token)


def draw_id(kind: str, workspace: str, subject: str, partition_of_tenant: Callable[[str], int], partitions: int) -> str:
    """
    A fresh id that names its tenant's partition. Without workspace and subject the key is its own tenant: its id
    decides the partition, and names it, so partitions are tried until one agrees with itself.
    """
    while True:
        display, tail = secrets.token_hex(4), "".join(secrets.choice(_ALPHABET) for _ in range(10))
        if workspace or subject:
            return record_id(kind, display, partition_of_tenant(tenant_of(workspace, subject)), tail)
        for partition in range(partitions):
            made = record_id(kind, display, partition, tail)
            if partition_of_tenant(tenant_of("", made)) == partition:
                return made


def etag(record: KeyRecord) -> str:
    return f"v{abs(record.version)}"


def described(record: KeyRecord) -> dict[str, object]:
    """What events tell of a key."""
    told = {
        "name": record.name,
        "kind": record.kind,
        "subject": record.subject,
        "scopes": list(record.scopes),
        "limits": {unit: format_limit(limit) for unit, limit in record.limits.items()},
        "expires_at": rfc3339(record.expires_at_us),
    }
    return {name: value for name, value in told.items() if value}


def _difference(old: KeyRecord, new: KeyRecord) -> tuple[dict[str, object], dict[str, object]]:
    before, after = described(old), described(new)
    changed = [name for name in {**before, **after} if before.get(name) != after.get(name)]
    return {name: before.get(name) for name in changed}, {name: after.get(name) for name in changed}


def _event(
    actor: Actor,
    action: Action,
    record: KeyRecord,
    before: Mapping[str, object] | None = None,
    after: Mapping[str, object] | None = None,
) -> Event:
    return Event(actor.id, action, record.id, record.workspace, before or {}, after or {}, actor.request_id)


def within(wanted: Filter, actor: Actor) -> Filter:
    """*wanted*, of what the actor sees. Raises: ForbiddenError."""
    bounds = {"workspace": actor.workspace} if actor.workspace or actor.subject else {}
    if actor.subject:
        bounds["subject"] = actor.subject
    for what, bound in bounds.items():
        if wanted.get(what) not in {None, bound}:
            raise ForbiddenError(f"the caller is bound to another {what}")
    return replace(wanted, equal={**wanted.equal, **bounds})


def check_name(what: str, value: str) -> None:
    """Raises: KeyRequestError."""
    if not is_name(value):
        raise KeyRequestError(what, "must be 1 to 256 bytes of printable characters without white space at the ends")


def check_scopes(scopes: Sequence[str], table: ScopeTable) -> None:
    """What was sent is not repeated: people paste keys into the wrong field. Raises: KeyRequestError."""
    if len(set(scopes)) > MAX_SCOPES:
        raise KeyRequestError("scopes", f"at most {MAX_SCOPES}")
    known = table.names | {ADMIN}
    if not known.issuperset(scopes):
        raise KeyRequestError("scopes", f"unknown scope; known: {', '.join(sorted(known))}")


def _check_limits(limits: Mapping[str, Limit]) -> None:
    if not set(UNITS).issuperset(limits):
        raise KeyRequestError("limits", f"unknown unit; known: {', '.join(UNITS)}")


def _check_reason(reason: str) -> None:
    if len(reason) > 256 or not reason.isprintable():
        raise KeyRequestError("reason", "must be at most 256 printable characters")


def _jwt(record: KeyRecord) -> NewToken:
    """`exp` rounds up to the next second, so that the token never ends before the key."""
    expires, current = record.expires_at_us, record.current
    return NewToken(
        jti=token_id(record.id, current.number),
        subject=record.subject,
        workspace=record.workspace,
        scopes=record.scopes,
        issued_at_s=current.issued_at_us // US,
        expires_at_s=None if expires is None else -(-expires // US),
    )
