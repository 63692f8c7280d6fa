"""Nexi's public keys: reading the set, and choosing the one that the client assertion is encrypted to (RFC 7517)."""

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


@dataclass(frozen=True, slots=True)
class EncryptionKey:
    """A key of the set that is fit to encrypt to, checked by us and not by whoever parsed the JSON."""

    kid: str | None
    public_key: rsa.RSAPublicKey

    def jwk(self) -> dict[str, str]:
        """The key as a JWK (RFC 7517 section 4, RFC 7518 section 6.3.1): the public members that we have checked."""
        numbers = self.public_key.public_numbers()
        named = {} if self.kid is None else {"kid": self.kid}
        return {"kty": "RSA", "use": "enc", **named, "n": _base64url(numbers.n), "e": _base64url(numbers.e)}


def fit_keys(document: bytes) -> list[EncryptionKey]:
    """The fit keys of a JWK set, in its order, but those that say `use: enc` before those that say nothing.

    Fit is: RSA of 2048 to 8192 bits, `use` enc or absent, `alg` RSA-OAEP-256 or absent, `key_ops` (if there) with
    encryption or key wrapping in it, an odd exponent from 3 to 2**32, and no private part.
    Raises NexiUnavailableError, naming for each key why it is not, when there is none: a set that was fetched before
    may then serve on.
    """
    reasons = []
    candidates = []
    for position, jwk in enumerate(_keys(document)):
        try:
            candidates.append((isinstance(jwk, dict) and jwk.get("use") != "enc", position, _fit(jwk)))
        except _UnfitError as unfit:
            reasons.append(f"key {position} {unfit}")
    if not candidates:
        raise NexiUnavailableError(
            f"the JWKS holds no key to encrypt to ({'; '.join(reasons) or 'it is empty'})",
            "ask Nexi for the state of /softpos/par/jwks.json; nothing on this side can mend it",
        )
    return [key for *_, key in sorted(candidates, key=lambda candidate: candidate[:2])]


class _UnfitError(ValueError):
    pass


def _keys(document: bytes) -> list[Any]:
    try:
        keys = json.loads(document)["keys"]
    except (ValueError, KeyError, TypeError, RecursionError):
        keys = None
    if not isinstance(keys, list):
        raise NexiUnavailableError("the JWKS endpoint answered with no JWK set", "ask Nexi for /softpos/par/jwks.json")
    return keys[:50]


def _fit(jwk: Any) -> EncryptionKey:
    if not isinstance(jwk, dict) or jwk.get("kty") != "RSA":
        raise _UnfitError("is not RSA")
    if jwk.get("use", "enc") != "enc":
        raise _UnfitError("is not for encryption (use)")
    if jwk.get("alg", ALGORITHM) != ALGORITHM:
        raise _UnfitError("is for another algorithm (alg)")
    operations = jwk.get("key_ops", ["encrypt"])
    if not isinstance(operations, list) or not {"encrypt", "wrapKey"}.intersection(map(str, operations)):
        raise _UnfitError("is not for encryption (key_ops)")
    if "d" in jwk:
        raise _UnfitError("has a private part")
    kid = jwk.get("kid")
    if kid is not None and (not isinstance(kid, str) or not 0 < len(kid) <= 256):
        raise _UnfitError("has a kid that is no short string")
    return EncryptionKey(kid, _public_key(_integer(jwk, "n"), _integer(jwk, "e")))


def _public_key(modulus: int, exponent: int) -> rsa.RSAPublicKey:
    if not MIN_BITS <= modulus.bit_length() <= MAX_BITS:
        raise _UnfitError(f"has {modulus.bit_length()} bits")
    if modulus % 2 == 0:
        raise _UnfitError("is no valid RSA key")
    if exponent % 2 == 0 or not 3 <= exponent <= 2**32:
        raise _UnfitError("has an unusual exponent")
    try:
        return rsa.RSAPublicNumbers(exponent, modulus).public_key()
    except ValueError:
        raise _UnfitError("is no valid RSA key") from None


def _base64url(value: int) -> str:
    """An integer as RFC 7518 section 2 writes it: the octets it takes, and no padding."""
    return base64.urlsafe_b64encode(value.to_bytes((value.bit_length() + 7) // 8)).rstrip(b"=").decode()


def _integer(jwk: dict[str, Any], member: str) -> int:
    value = jwk.get(member)
    try:
        if not isinstance(value, str) or len(value) > 2 * MAX_BITS // 8:
            raise ValueError
        return int.from_bytes(base64.b64decode(value + "=" * (-len(value) % 4), altchars=b"-_", validate=True))
    except (ValueError, binascii.Error):
        raise _UnfitError(f"has no base64url in {member}") from None
