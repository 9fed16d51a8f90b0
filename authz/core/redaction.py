"""What must never be logged, taken out of what is: tokens and passwords in paths, e-mail addresses in names."""

import re
from typing import Final


# A JWT, whole or cut short, or an opaque key, with whatever prefix stands before it in the same segment.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]*(?:eyJ[A-Za-z0-9_.%-]{8,}|[_-][0-9A-Za-z]{40,})")
# `password=…` and its like, in a path or a name; the pattern takes time proportional to the text.
_SECRET: Final = re.compile(r"(?i)(pass(?:word|wd|phrase)?|pwd|secret|api[_-]?key|token)(=|:|%3d|%3a)[^/&;\s]+")
# What stands behind the @ holds more than digits: `claude-3-5-sonnet@20240620` is a model.
_EMAIL: Final = re.compile(r"[^\s/@]+(?:@|%40)(?!\d+(?:[\s/]|$))[^\s/@]+")


def redacted(text: str, most: int) -> str:
    """*text* without tokens, e-mail addresses and named secrets, cut to *most* characters."""
    return _SECRET.sub(r"\1\2[secret]", _EMAIL.sub("[email]", _TOKEN.sub("[token]", text)))[:most]
