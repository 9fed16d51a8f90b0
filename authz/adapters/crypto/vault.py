"""Secrets that must be read again, under AES-256-GCM with keys derived from the keyring's secrets."""

import os
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF


FORMAT: Final = b"\x01"
_ID_BYTES: Final = 4
_NONCE_BYTES: Final = 12  # SP 800-38D §8.2.2: random ones, far below 2**32 of them under one key
_HEAD_BYTES: Final = len(FORMAT) + _ID_BYTES + _NONCE_BYTES


class AesVault:
    """
    Seals under the first of *secrets*, opens under any.

    *purpose* parts the keys of different uses: HKDF-SHA-256 (RFC 5869) with it as `info`. A sealed secret is format,
    which of the keys, nonce, ciphertext with tag; what it is about is authenticated with it.
    """

    def __init__(self, secrets: tuple[bytes, ...], purpose: str) -> None:
        derived = [_derived(secret, purpose) for secret in secrets]
        self._first = derived[0]
        self._known = dict(reversed(derived))  # the first wins

    def seal(self, secret: bytes, about: str) -> bytes:
        key_id, cipher = self._first
        nonce = os.urandom(_NONCE_BYTES)
        return FORMAT + key_id + nonce + cipher.encrypt(nonce, secret, about.encode())

    def unseal(self, sealed: bytes, about: str) -> bytes | None:
        cipher = self._known.get(sealed[1 : 1 + _ID_BYTES])
        if sealed[:1] != FORMAT or cipher is None:
            return None
        try:
            return cipher.decrypt(sealed[1 + _ID_BYTES : _HEAD_BYTES], sealed[_HEAD_BYTES:], about.encode())
        except (InvalidTag, ValueError):
            return None

    def is_current(self, sealed: bytes) -> bool:
        return sealed[1 : 1 + _ID_BYTES] == self._first[0]


def _derived(secret: bytes, purpose: str) -> tuple[bytes, AESGCM]:
    raw = HKDF(SHA256(), length=_ID_BYTES + 32, salt=None, info=f"authz {purpose} v1".encode()).derive(secret)
    return raw[:_ID_BYTES], AESGCM(raw[_ID_BYTES:])
