"""
What must never be logged, taken out of what is: tokens and passwords in paths, e-mail addresses in names.

Strangers write paths: each pattern begins only where nothing that it could begin with stands before, so the time that
it takes grows with the text and no faster.
"""

import re
from typing import Final


# A JWT, whole or cut short, or an opaque key, with whatever prefix stands before it in the same segment.
_TOKEN: Final = re.compile(r"(?<![A-Za-z0-9_-])[A-Za-z0-9_-]*(?:eyJ[A-Za-z0-9_.%-]{8,}|[_-][0-9A-Za-z]{40,})")
# `password=…` and its like, in a path or a name.
_SECRET: Final = re.compile(r"(?i)(pass(?:word|wd|phrase)?|pwd|secret|api[_-]?key|token)(=|:|%3d|%3a)[^/&;\s]+")
# What lies between slashes or spaces and holds an e-mail address, or `user:password@host`.
_EMAIL: Final = re.compile(r"(?<![^\s/])[^\s/]+(?:@|%40)[^\s/]+")
_VERSION: Final = re.compile(r"[^@:%\s/]+@\d+")  # `claude-3-5-sonnet@20240620` is a model


def redacted(text: str, most: int) -> str:
    """*text* without tokens, e-mail addresses and named secrets, cut to *most* characters."""
    return _SECRET.sub(r"\1\2[secret]", _EMAIL.sub(_email, _TOKEN.sub("[token]", text)))[:most]


def _email(found: re.Match[str]) -> str:
    return found[0] if _VERSION.fullmatch(found[0]) else "[email]"
