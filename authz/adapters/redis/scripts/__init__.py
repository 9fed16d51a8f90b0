"""The Lua scripts, as text with the digest under which the store knows each."""

import hashlib
from dataclasses import dataclass, field
from importlib import resources


@dataclass(frozen=True, slots=True)
class Script:
    """`sha`: what EVALSHA wants; a content hash, so two versions of authz can share a store during an upgrade."""

    name: str
    text: str = field(repr=False)

    @property
    def sha(self) -> str:
        return hashlib.sha1(self.text.encode(), usedforsecurity=False).hexdigest()


def _load(name: str) -> Script:
    return Script(name, resources.files(__name__).joinpath(f"{name}.lua").read_text("utf-8"))


ADMIT = _load("admit")
ISSUE = _load("issue")
REVOKE = _load("revoke")
REVOKE_BULK = _load("revoke_bulk")
