"""Who changes a key, and what they may: the same rules at every door."""

from dataclasses import dataclass, field

from authz.core.keyrecord import KeyRecord
from authz.core.scope import ScopeTable


ADMIN: str = "admin"  # the scope that every door to the life of a key asks for


class ForbiddenError(Exception):
    """The caller may not do this."""


class LacksScopeError(ForbiddenError):
    """*actor* does not hold all of the scopes that are *required*."""

    def __init__(self, actor: "Actor", required: tuple[str, ...]) -> None:
        super().__init__("the caller lacks a scope")
        self.actor = actor
        self.required = required


class ActorRevokedError(Exception):
    """*actor* was revoked after the door had let it in."""

    def __init__(self, actor: "Actor") -> None:
        super().__init__("the caller was revoked meanwhile")
        self.actor = actor


@dataclass(frozen=True, slots=True)
class Actor:
    """
    Args:
        id: The key's or user's; `cli`: the command line, straight in the store.
        workspace: The one that the caller is bound to; empty: none, it sees all.
        scopes: Held; None: all.
        request_id: For the event.
        subject: The one that the caller is bound to as well, in that very workspace, or in none; empty: no such bond.
    """

    id: str
    workspace: str = ""
    scopes: tuple[str, ...] | None = field(default=None)
    request_id: str = ""
    subject: str = ""

    def sees(self, record: KeyRecord) -> bool:
        if self.subject:
            return (record.subject, record.workspace) == (self.subject, self.workspace)
        return not self.workspace or record.workspace == self.workspace

    def check_grant(self, scopes: tuple[str, ...], table: ScopeTable) -> None:
        """Nobody grants, or is shown the token of, what they do not hold. Raises: LacksScopeError."""
        if not self.may_grant(scopes, table):
            raise LacksScopeError(self, scopes)

    def may_grant(self, scopes: tuple[str, ...], table: ScopeTable) -> bool:
        return self.scopes is None or table.covers(self.scopes, scopes)

    def workspace_for(self, wanted: str) -> str:
        """The workspace to work in where *wanted* (empty: not said) was asked for. Raises: ForbiddenError."""
        if (self.workspace or self.subject) and wanted not in {"", self.workspace}:
            raise ForbiddenError("the caller is bound to another workspace")
        return wanted or self.workspace

    def subject_for(self, wanted: str) -> str:
        """The subject of a new key for which *wanted* (empty: not said) was asked. Raises: ForbiddenError."""
        if self.subject and wanted not in {"", self.subject}:
            raise ForbiddenError("the caller is bound to another subject")
        return wanted or self.subject

    def check_many(self) -> None:
        """What is about many keys at once is not for those who are bound to a subject. Raises: ForbiddenError."""
        if self.subject:
            raise ForbiddenError("the caller is bound to a subject")


COMMAND_LINE = Actor("cli")
