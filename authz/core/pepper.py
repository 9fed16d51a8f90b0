"""What is kept of an opaque token: its HMAC under a secret that the store does not hold."""

import hashlib
import hmac
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Peppers:
    """
    The peppers of `keys.pepper`: the first digests new tokens, all are tried for those that are presented.

    A token has 256 random bits, so a fast digest is enough: nothing can be guessed, however fast. The pepper makes a
    copy of the store alone useless even for checking a guess.
    """

    secrets: tuple[bytes, ...] = field(repr=False)

    def digests(self, token: str) -> tuple[str, ...]:
        """HMAC-SHA-256 of *token* under each, as hex digits; empty: there is no pepper."""
        return tuple(hmac.new(secret, token.encode(), hashlib.sha256).hexdigest() for secret in self.secrets)
