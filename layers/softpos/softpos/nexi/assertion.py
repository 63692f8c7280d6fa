"""The client assertion: claims, signed (JWS, RFC 7515, RS256), then encrypted (JWE, RFC 7516).

python-jose does the arithmetic, with key objects that were built once: handed PEM, it would parse it each time, at a
hundred times the cost.
"""

import base64
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jose import jwe, jwk

from softpos.nexi.jwks import ALGORITHM, EncryptionKey

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric import rsa
    from jose.backends.base import Key

SIGNATURE_ALGORITHM = "RS256"
CONTENT_ENCRYPTION = "A128CBC-HS256"

LIFETIME_SECONDS = 300
"""Nexi recommends 300 and rejects more than 900."""

BACKDATE_SECONDS = 5
"""Nexi rejects an `iat` that is ahead of its clock by even a few seconds, and tolerates one that is late."""


def certificate_signer(private_key: "rsa.RSAPrivateKey") -> "Key":
    """The signer that the certificate's own key is. Any python-jose `Key` that signs RS256 can stand in its place."""
    signer: Key = jwk.construct(private_key, SIGNATURE_ALGORITHM)  # type: ignore[arg-type]
    return signer


def claims(
    *,
    client_id: str,
    audience: str,
    point_of_sale: str,
    terminal_ids: Sequence[str],
    operator: str,
    device_id: str,
    now: float,
    jti: str,
) -> dict[str, Any]:
    """The assertion's claims as Nexi names them. `audience` is the base URL with scheme; `now` is Unix seconds."""
    issued_at = int(now) - BACKDATE_SECONDS
    return {
        "appId": client_id,
        "pointOfSale": point_of_sale,
        "terminal_ids": list(terminal_ids),
        "app_username_merchant": operator,
        "app_deviceid": device_id,
        "iss": client_id,
        "sub": client_id,
        "aud": audience,
        "iat": issued_at,
        "exp": issued_at + LIFETIME_SECONDS,
        "jti": jti,
    }


def seal(claims: dict[str, Any], signer: "Key", key: EncryptionKey, *, minimal_headers: bool = False) -> str:
    """The compact JWE around the compact JWS around `claims`.

    By default the JWE says `cty: JWT`, as RFC 7519 section 5.2 wants of a nested token, and the `kid` of its key;
    `minimal_headers` leaves both and the JWS's `typ` away, exactly as Nexi's samples do.
    """
    header = {"alg": SIGNATURE_ALGORITHM} if minimal_headers else {"alg": SIGNATURE_ALGORITHM, "typ": "JWT"}
    # RFC 7515 section 5.1. Not jose.jws.sign(), which cannot leave `typ` away.
    signing_input = _segment(_json(header)) + b"." + _segment(_json(claims))
    signed = signing_input + b"." + _segment(signer.sign(signing_input))
    sealed: bytes = jwe.encrypt(
        signed,
        key.public_key,  # type: ignore[arg-type]
        encryption=CONTENT_ENCRYPTION,
        algorithm=ALGORITHM,
        cty=None if minimal_headers else "JWT",
        kid=None if minimal_headers else key.kid,
    )
    return sealed.decode("ascii")


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _segment(value: bytes) -> bytes:
    return base64.urlsafe_b64encode(value).rstrip(b"=")
