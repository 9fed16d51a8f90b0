"""Tokens made by hand, good and hostile: nothing here asks the product's code or PyJWT to encode anything."""

import base64
import hashlib
import hmac
import json
from dataclasses import dataclass
from typing import Final

from authz.adapters.jwt.keyring import Keyring, VerificationKey
from authz.adapters.jwt.verifier import CACHE_SIZE, JwtVerifier
from authz.core.claims import ClaimsPolicy


NOW_S: Final = 1_700_000_000
HASHES: Final = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}

PLAIN: Final = VerificationKey(None, "HS256", b"the key without an id: 32 bytes.")
K2: Final = VerificationKey("k2", "HS512", b"the key that is called k2, as long as its hash is: 64 bytes ....")
K3: Final = VerificationKey("k3", "HS256", b"the key that is called k3: some more than 32 bytes")
K4: Final = VerificationKey("k4", "HS384", b"the key that is called k4: more than the 48 bytes that it needs")
ATTACKER: Final = b"a secret of the attacker's own, which is in no keyring"

HEADER: Final[dict[str, object]] = {"alg": "HS256", "typ": "JWT"}
CLAIMS: Final[dict[str, object]] = {"sub": "user-1", "jti": "key_1a2b3c4d00abcdefghij", "iat": NOW_S - 60}

Json = str | bytes | dict[str, object]


@dataclass
class FakeClock:
    """A clock that stands still until it is set."""

    now: float = NOW_S
    elapsed: float = 0.0

    def now_s(self) -> float:
        return self.now

    def monotonic_s(self) -> float:
        return self.elapsed


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def segment(content: Json) -> str:
    """An object as JSON, a text or bytes as they are."""
    if isinstance(content, dict):
        content = json.dumps(content, separators=(",", ":"))
    return b64(content.encode() if isinstance(content, str) else content)


def mac(message: str, secret: bytes, algorithm: str = "HS256") -> bytes:
    return hmac.new(secret, message.encode(), HASHES[algorithm]).digest()


def forge(
    header: Json | None = None,
    payload: Json | None = None,
    *,
    secret: bytes = PLAIN.secret,
    by: str = "HS256",
) -> str:
    """A token signed with *secret* by the algorithm *by*, whatever its header says; by default a good one."""
    message = f"{segment(HEADER if header is None else header)}.{segment(CLAIMS if payload is None else payload)}"
    return f"{message}.{b64(mac(message, secret, by))}"


def signed_by(key: VerificationKey, header: dict[str, object] | None = None, payload: Json | None = None) -> str:
    """A token of *key*, its `kid` and `alg` in place unless *header* says otherwise."""
    named: dict[str, object] = {} if key.id is None else {"kid": key.id}
    whole = HEADER | {"alg": key.algorithm} | named | (header or {})
    return forge(whole, payload, secret=key.secret, by=key.algorithm)


def claiming(**claims: object) -> str:
    """A token of ours with other claims; one given as None is left out."""
    return forge(payload={name: value for name, value in (CLAIMS | claims).items() if value is not None})


def verifier(
    *keys: VerificationKey,
    clock: FakeClock | None = None,
    cache_size: int = CACHE_SIZE,
    policy: ClaimsPolicy | None = None,
) -> JwtVerifier:
    """The real one; without *keys*, with `PLAIN` and `K2`."""
    keyring = Keyring(keys or (PLAIN, K2))
    return JwtVerifier(keyring, policy or ClaimsPolicy(), clock or FakeClock(), cache_size)
