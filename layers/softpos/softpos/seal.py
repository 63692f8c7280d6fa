"""Sealing what goes into a table that others can read and write."""

import hmac
import json
import os

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_NONCE_BYTES = 12


class Seal:
    """AES-256-GCM under a key derived from a secret (HKDF-SHA256, RFC 5869), for one purpose.

    Each sealed value is bound to the name that it is stored under: moved to another, it does not open.
    """

    def __init__(self, secret: bytes, purpose: str) -> None:
        derived = HKDF(SHA256(), 64, salt=None, info=f"softpos {purpose} v1".encode()).derive(secret)
        self._cipher, self._mark_key = AESGCM(derived[:32]), derived[32:]

    def mark(self, *parts: str) -> str:
        """What stands for these texts where others can read: 32 hex digits that tell them nothing (HMAC-SHA256)."""
        return hmac.digest(self._mark_key, json.dumps(parts).encode(), "sha256").hex()[:32]

    def close(self, name: str, value: bytes) -> bytes:
        """A random nonce, the ciphertext, and its tag."""
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, name.encode())

    def open(self, name: str, sealed: bytes) -> bytes | None:
        """What was sealed under that name; None for anything else."""
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], name.encode())
        except (InvalidTag, ValueError):
            return None
