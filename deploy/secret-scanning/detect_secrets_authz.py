r"""
Keys of an API that authz protects, for detect-secrets 1.5.

    detect-secrets scan -p detect_secrets_authz.py

Copy this file into any repository: it needs nothing but detect-secrets. Another `keys.prefix`: change `PREFIX`.

What it reports is a key as far as that can be told without the key's API: the checksum of an opaque key fits; the
header and the payload of a JWT are those of a key. Before a key may stand any character that no key has, an escape
(`\n`, `\u003d`, `\x3d`) or `%20` of a URL.
"""
# ruff: noqa: INP001 -- it stands alone

import base64
import json
import re
import string
import zlib
from collections.abc import Generator
from typing import Any

from detect_secrets.plugins.base import RegexBasedDetector


PREFIX = "sk-live-"

_BASE62 = string.digits + string.ascii_uppercase + string.ascii_lowercase
_CHECKSUM_CHARS = 6
_SIGNATURES = (("HS256", 43), ("HS384", 64), ("HS512", 86))  # algorithms, and how long their signatures are
_START = r"(?:^|[^0-9A-Za-z_-]|\\(?:[bfnrt]|u[0-9A-Fa-f]{4}|x[0-9A-Fa-f]{2})|%[0-9A-Fa-f]{2})"
_END = r"(?![0-9A-Za-z_-])"


class AuthzOpaqueKeyDetector(RegexBasedDetector):
    """The prefix, 43 base62 characters, and 6 for the CRC-32 of all that stands before them."""

    secret_type = "authz API key"  # noqa: S105 -- its name
    denylist = (re.compile(rf"{_START}({re.escape(PREFIX)}[0-9A-Za-z]{{49}}){_END}"),)

    def analyze_string(self, string: str) -> Generator[str, None, None]:
        """Those alone whose checksum fits."""
        for key in super().analyze_string(string):
            if checksum(key[:-_CHECKSUM_CHARS]) == key[-_CHECKSUM_CHARS:]:
                yield key


class AuthzJwtKeyDetector(RegexBasedDetector):
    """The prefix and a JWT with header, payload and an HMAC."""

    secret_type = "authz API key (JWT)"  # noqa: S105 -- its name
    denylist = (
        re.compile(
            rf"{_START}({re.escape(PREFIX)}eyJ[0-9A-Za-z_-]+\.eyJ[0-9A-Za-z_-]+\."
            rf"(?:[0-9A-Za-z_-]{{85}}[AQgw]|[0-9A-Za-z_-]{{64}}|[0-9A-Za-z_-]{{42}}[AEIMQUYcgkosw048])){_END}"
        ),
    )

    def analyze_string(self, string: str) -> Generator[str, None, None]:
        """Those alone whose header and payload are a key's."""
        for key in super().analyze_string(string):
            if is_jwt_key(key.removeprefix(PREFIX)):
                yield key


def checksum(body: str) -> str:
    """CRC-32 (zlib's) of *body*, the prefix included, as 6 base62 digits, most significant first."""
    number, digits = zlib.crc32(body.encode()), ""
    for _ in range(_CHECKSUM_CHARS):
        number, digit = divmod(number, 62)
        digits = _BASE62[digit] + digits
    return digits


def is_jwt_key(token: str) -> bool:
    """Whether *token* names an HMAC algorithm, has a signature as long as that makes it, and claims `sub` and `jti`."""
    header_part, payload_part, signature = token.split(".")
    header, payload = decoded(header_part), decoded(payload_part)
    return (
        (header.get("alg"), len(signature)) in _SIGNATURES
        and isinstance(payload.get("sub"), str)
        and isinstance(payload.get("jti"), str)
    )


def decoded(part: str) -> dict[str, Any]:
    """The JSON object in *part*; an empty one for anything else."""
    try:
        content = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}
