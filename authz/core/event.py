"""What is written down of each change: who did what to which key or user."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum, unique


@unique
class Action(StrEnum):
    CREATE = "create"
    UPDATE = "update"
    ROTATE = "rotate"
    REVOKE = "revoke"
    REVOKE_ALL = "revoke_all"
    SHOW_TOKEN = "show_token"  # noqa: S105 - what was done
    USER_ADD = "user_add"
    USER_PASSWD = "user_passwd"  # noqa: S105
    USER_REMOVE = "user_remove"


@dataclass(frozen=True, slots=True)
class Event:
    """
    One change. Never holds a token, a password or a digest.

    Args:
        action: An `Action`; another word only where a later version wrote it.
        actor: The id of the key or user that did it; `cli`: the command line, straight in the store.
        target: The id of what was changed; empty: many (`revoke_all`, but of a removed user's keys: the user).
        before, after: What changed, field by field, in the words of the API.
        request_id: As the caller named the request; empty: it did not.
        id, at_us: Given by the store.
    """

    actor: str
    action: str
    target: str = ""
    workspace: str = ""
    before: Mapping[str, object] = field(default_factory=dict)
    after: Mapping[str, object] = field(default_factory=dict)
    request_id: str = ""
    id: str = ""
    at_us: int = 0
