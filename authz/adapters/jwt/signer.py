"""Signing the JWT of a new key."""

import jwt

from authz.adapters.jwt.keyring import Keyring
from authz.ports import NewToken


class JwtSigner:
    """Signs with the keyring's first key. *audience*, if any, is stamped on every token; so is *typ*."""

    def __init__(self, keyring: Keyring, audience: str | None = None, typ: str | None = None) -> None:
        self._keyring = keyring
        self._audience = audience
        self._typ = typ

    def sign(self, token: NewToken) -> str:
        claims: dict[str, object] = {"sub": token.subject, "jti": token.jti, "iat": token.issued_at_s}
        if token.expires_at_s is not None:
            claims["exp"] = token.expires_at_s
        if token.workspace:
            claims["workspace"] = token.workspace
        if token.scopes:
            claims["scope"] = " ".join(token.scopes)
        if self._audience is not None:
            claims["aud"] = self._audience
        key = self._keyring.signing
        headers = {name: value for name, value in (("kid", key.id), ("typ", self._typ)) if value is not None}
        return jwt.encode(claims, key.secret, algorithm=key.algorithm, headers=headers or None)
