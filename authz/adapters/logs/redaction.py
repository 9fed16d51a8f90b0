"""What must never be logged, taken out of what is: tokens in paths, e-mail addresses in names."""

import re
from typing import Final


# A JWT, whole or cut short, or an opaque key, with whatever prefix stands before it in the same segment.
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]*(?:eyJ[A-Za-z0-9_.%-]{8,}|[_-][0-9A-Za-z]{40,})")
_EMAIL: Final = re.compile(r"[^\s/@]+(?:@|%40)[^\s/@]+")


def redacted(text: str, most: int) -> str:
    """*text* without tokens and e-mail addresses, cut to *most* characters."""
    return _EMAIL.sub("[email]", _TOKEN.sub("[token]", text))[:most]
