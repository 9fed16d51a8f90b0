"""Who changes a key, and what they may: the same rules at every door."""

from dataclasses import dataclass, field

from authz.core.keyrecord import KeyRecord
from authz.core.scope import ScopeTable


ADMIN: str = "admin"  # the scope that every door to the life of a key asks for


class ForbiddenError(Exception):
    """The caller may not do this."""


@dataclass(frozen=True, slots=True)
class Actor:
    """
    Args:
        id: The key's or user's; `cli`: the command line, straight in the store.
        workspace: The one that the caller is bound to; empty: none, it sees all.
        scopes: Held; None: all.
        request_id: For the event.
    """

    id: str
    workspace: str = ""
    scopes: tuple[str, ...] | None = field(default=None)
    request_id: str = ""

    def sees(self, record: KeyRecord) -> bool:
        return not self.workspace or record.workspace == self.workspace

    def check_grant(self, scopes: tuple[str, ...], table: ScopeTable) -> None:
        """Nobody grants, or is shown the token of, what they do not hold. Raises: ForbiddenError."""
        if self.scopes is None:
            return
        for scope in scopes:
            if not table.covers(self.scopes, (scope,)):
                raise ForbiddenError(f"the caller does not hold the scope {scope!r}")

    def workspace_for(self, wanted: str) -> str:
        """The workspace to work in where *wanted* (empty: not said) was asked for. Raises: ForbiddenError."""
        if self.workspace and wanted not in {"", self.workspace}:
            raise ForbiddenError("the caller is bound to another workspace")
        return wanted or self.workspace


COMMAND_LINE = Actor("cli")
