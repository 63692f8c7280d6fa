"""Nexi's public keys: reading the JWK set, and ranking the keys for encrypting the client assertion (RFC 7517).

Nexi's samples take any key of the set, whatever its labels, and that is known to work. So labels rank a key and never
refuse it; only a key that is unsound is unusable.
"""

import base64
import binascii
import json
from dataclasses import dataclass
from typing import Any

from cryptography.hazmat.primitives.asymmetric import rsa

from softpos.errors import NexiUnavailableError

MIN_BITS = 2048
MAX_BITS = 8192
ALGORITHM = "RSA-OAEP-256"

_MAX_KEYS = 50
_ENCRYPTING = {"encrypt", "wrapkey"}


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A usable key of the set, with numbers that this module has checked.

    `rank` 0 is the best; `label` says what its members say against it, for the log.
    """

    kid: str | None
    public_key: rsa.RSAPublicKey
    rank: int = 0
    label: str = ""

    def jwk(self) -> dict[str, str]:
        """Return the key as a JWK (RFC 7517 section 4, RFC 7518 section 6.3.1), with the members that we checked."""
        numbers = self.public_key.public_numbers()
        named = {} if self.kid is None else {"kid": self.kid}
        return {"kty": "RSA", "use": "enc", **named, "n": _base64url(numbers.n), "e": _base64url(numbers.e)}


def usable_keys(document: bytes) -> list[EncryptionKey]:
    """Return the usable keys of a JWK set, the best first; within a rank in the set's order.

    Usable is RSA of 2048 to 8192 bits with an odd exponent from 3 to 2**32. Raises NexiUnavailableError, naming what
    each key lacks, when there is none: a set that was fetched before may then serve on.
    """
    reasons, keys = [], []
    for position, jwk in enumerate(_keys(document)):
        try:
            keys.append(_usable(jwk))
        except _UnusableError as unusable:
            reasons.append(f"key {position} {unusable}")
    if not keys:
        raise NexiUnavailableError(
            f"the JWKS holds no usable key ({'; '.join(reasons) or 'it is empty'})",
            "Ask Nexi for the state of /softpos/par/jwks.json. Nothing on this side can help.",
        )
    return sorted(keys, key=lambda key: key.rank)


def published_keys(keys: list[EncryptionKey]) -> list[EncryptionKey]:
    """Return those of the best rank."""
    best = min(key.rank for key in keys)
    return [key for key in keys if key.rank == best]


class _UnusableError(ValueError):
    pass


def _keys(document: bytes) -> list[Any]:
    try:
        keys = json.loads(document)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        keys = None
    if not isinstance(keys, list):
        raise NexiUnavailableError(
            "the JWKS endpoint answered without a JWK set", "Ask Nexi for /softpos/par/jwks.json."
        )
    return keys[:_MAX_KEYS]


def _usable(jwk: Any) -> EncryptionKey:
    if not isinstance(jwk, dict) or (_word(jwk, "kty") or "rsa") != "rsa":
        raise _UnusableError("is not RSA")
    public_key = _public_key(_integer(jwk, "n"), _integer(jwk, "e"))
    rank, said = _rank(jwk)
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= 256):
        kid = None
        said.append("kid that is not a short string")
    if "d" in jwk:
        said.append("a private part")
    return EncryptionKey(kid, public_key, rank, ", ".join(said))


def _rank(jwk: dict[str, Any]) -> tuple[int, list[str]]:
    """Return how well a key's labels fit, and what they say against it.

    0: for encryption with our algorithm; 1: nothing against it; 2: for encryption, with another algorithm; 3: with
    another algorithm; 4: for signatures.
    """
    use, algorithm, operations = _word(jwk, "use"), _word(jwk, "alg"), _words(jwk.get("key_ops"))
    said = [] if use in ("", "enc") else [f"use {_shown(use)}"]
    said += [] if algorithm in ("", ALGORITHM.lower()) else [f"alg {_shown(algorithm)}"]
    said += [] if not operations or operations & _ENCRYPTING else [f"key_ops {_shown(' '.join(sorted(operations)))}"]
    if use == "sig" or (operations and not operations & _ENCRYPTING):
        return 4, said
    if algorithm in ("", ALGORITHM.lower()):
        return (0 if use == "enc" else 1), said
    return (2 if use == "enc" else 3), said


def _word(jwk: dict[str, Any], member: str) -> str:
    """Return a member in lower case. Missing, null and what is not a string count as empty."""
    value = jwk.get(member)
    return value.strip().lower() if isinstance(value, str) else ""


def _words(value: Any) -> set[str]:
    return {each.lower() for each in value if isinstance(each, str)} if isinstance(value, list) else set()


def _shown(word: str) -> str:
    return "".join(each for each in word if each.isascii() and (each.isalnum() or each in "-_ "))[:40]


def _public_key(modulus: int, exponent: int) -> rsa.RSAPublicKey:
    if not MIN_BITS <= modulus.bit_length() <= MAX_BITS:
        raise _UnusableError(f"has {modulus.bit_length()} bits")
    if modulus % 2 == 0:
        raise _UnusableError("is not a valid RSA key")
    if exponent % 2 == 0 or not 3 <= exponent <= 2**32:
        raise _UnusableError("has an unusual exponent")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise _UnusableError("is not a valid RSA key") from None


def _base64url(value: int) -> str:
    """Return an integer as RFC 7518 section 2 writes it: the octets it takes, without padding."""
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()


def _integer(jwk: dict[str, Any], member: str) -> int:
    value = jwk.get(member)
    try:
        if not isinstance(value, str) or len(value) > 2 * MAX_BITS // 8:
            raise ValueError
        return int.from_bytes(base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise _UnusableError(f"lacks base64url in {member}") from None
