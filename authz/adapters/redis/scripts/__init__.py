"""The Lua scripts, as text with the digest under which the store knows each."""

import hashlib
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """`sha`: what EVALSHA wants; a content hash, so two versions of authz can share a store during an upgrade."""

    name: str
    text: str = field(repr=False)
    sha: str


def _load(name: str) -> Script:
    text = resources.files(__name__).joinpath(f"{name}.lua").read_text("utf-8")
    return Script(name, text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest())


ADMIT = _load("admit")
ISSUE = _load("issue")
REVOKE = _load("revoke")
REVOKE_BULK = _load("revoke_bulk")
FINISH = _load("finish")
CHANGE = _load("change")
NOTE = _load("note")
RETAIN = _load("retain")
TAKE = _load("take")
SETTLE = _load("settle")
