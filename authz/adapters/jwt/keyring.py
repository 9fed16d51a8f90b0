"""The keys that sign and verify: the first signs, all verify; each is bound to one algorithm (RFC 8725 §3.1)."""

from dataclasses import dataclass, field
from typing import Final

from jwt.algorithms import HMACAlgorithm


HMACS: Final = {
    "HS256": HMACAlgorithm(HMACAlgorithm.SHA256),
    "HS384": HMACAlgorithm(HMACAlgorithm.SHA384),
    "HS512": HMACAlgorithm(HMACAlgorithm.SHA512),
}


@dataclass(frozen=True, slots=True)
class VerificationKey:
    """
    Args:
        id: The token's `kid`; None: tokens of this key carry none.
        algorithm: The only one that this key is good for.
        secret: Raw bytes, at least as long as the hash (RFC 7518 §3.2); settings see to it.
    """

    id: str | None
    algorithm: str
    secret: bytes = field(repr=False)

    def verifies(self, message: bytes, signature: bytes) -> bool:
        """In constant time (`hmac.compare_digest` within PyJWT)."""
        return HMACS[self.algorithm].verify(message, self.secret, signature)


@dataclass(frozen=True, slots=True)
class Keyring:
    keys: tuple[VerificationKey, ...]

    @property
    def signing(self) -> VerificationKey:
        return self.keys[0]

    def candidates(self, kid: str | None) -> tuple[VerificationKey, ...]:
        """
        The keys that a token with this `kid` may have been signed by.

        A token without `kid` was signed before its key was given an id, or by a key without: all are tried.
        """
        if kid is None:
            return self.keys
        return tuple(key for key in self.keys if key.id == kid)
