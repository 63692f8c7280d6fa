"""What Nexi rejects, one rule each, at the contract's strictest reading.

A rule has a name that a user of the sandbox can search for; breaking it ends a call with the status and the body that
Nexi shows.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from joserfc import jwe, jws
from joserfc.errors import JoseError
from joserfc.jwk import RSAKey

SCOPES = {"openid", "oidc", "email", "profile", "phone", "address"}
CLAIMS = {
    "appId",
    "pointOfSale",
    "terminal_ids",
    "app_username_merchant",
    "app_deviceid",
    "iss",
    "sub",
    "aud",
    "iat",
    "exp",
    "jti",
}
MAX_LIFETIME_SECONDS = 900


class BrokenRuleError(Exception):
    """The name of the rule, what was found, how Nexi answers, and the claims if it came that far."""

    def __init__(self, rule: str, found: str, status: int, body: dict[str, Any]) -> None:
        super().__init__(f"{rule}: {found}")
        self.rule = rule
        self.status = status
        self.body = body
        self.claims: dict[str, Any] | None = None


@dataclass
class App:
    """An app as Nexi's portal has it."""

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str = ""
    certificates: dict[str, x509.Certificate] = field(default_factory=dict)
    """Registered, by thumbprint."""
    points_of_sale: dict[str, dict[str, str]] = field(default_factory=dict)
    """TIDs of each point of sale, and of which kind they are: `softpos` or `mpos`."""
    operators: set[str] = field(default_factory=set)

    def register(self, certificate: x509.Certificate, thumbprint: str) -> None:
        """Accept this certificate from now on, beside those registered before."""
        # A new one each time: Nexi's threads go through the old one meanwhile.
        self.certificates = {**self.certificates, thumbprint: certificate}

    def unregister(self, thumbprint: str) -> None:
        """Do not accept this certificate any more. Raises KeyError."""
        remaining = dict(self.certificates)
        del remaining[thumbprint]
        self.certificates = remaining


def refuse(rule: str, found: str, message: str = "Invalid request.") -> BrokenRuleError:
    """A 400 as PAR answers it."""
    return BrokenRuleError(rule, found, 400, {"statusCode": None, "message": message})


def unauthorized(rule: str, found: str) -> BrokenRuleError:
    """A 401 as PAR answers it for a token."""
    return BrokenRuleError(rule, found, 401, {"errcode": "401", "errmsg": "Unauthorized"})


def forbidden(rule: str, found: str) -> BrokenRuleError:
    """A 403, as for a certificate that nobody registered."""
    return BrokenRuleError(rule, found, 403, {"errcode": "403", "errmsg": "Forbidden"})


def oauth(rule: str, found: str, status: int, error: str) -> BrokenRuleError:
    """An error of the token endpoint (RFC 6749 section 5.2)."""
    return BrokenRuleError(rule, found, status, {"error": error, "error_description": "Rejected."})


def form(content_type: str | None, body: bytes, wanted: set[str]) -> dict[str, str]:
    """The form's fields: each of `wanted` once, not empty, and no other."""
    if (content_type or "").split(";")[0].strip().lower() != "application/x-www-form-urlencoded":
        raise refuse("content-type", f"{content_type!r} is not application/x-www-form-urlencoded")
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, strict_parsing=True, max_num_fields=20)
    except ValueError:
        raise refuse("form", "the body is no form") from None
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise refuse("form-field-twice", name)
    if set(names) != wanted:
        raise refuse("form-fields", f"missing {sorted(wanted - set(names))}, unknown {sorted(set(names) - wanted)}")
    for name, value in pairs:
        if not value:
            raise refuse("form-field-empty", name)
    return dict(pairs)


def token_request(fields: Mapping[str, str], app: App) -> None:
    """The token endpoint's rules for an app's form."""
    if fields["grant_type"] != "client_credentials":
        raise oauth("grant-type", repr(fields["grant_type"]), 400, "unsupported_grant_type")
    if fields["client_id"] != app.client_id or fields["client_secret"] != app.client_secret:
        raise oauth("client-credentials", "client id or secret is not the app's", 401, "invalid_client")


def authorization_request(fields: Mapping[str, str], app: App) -> None:
    """PAR's rules for the form around the assertion."""
    if fields["client_id"] != app.client_id:
        raise refuse("client-id", f"{fields['client_id']!r} is not the app's")
    if fields["redirect_uri"] != app.redirect_uri:
        raise refuse("redirect-uri", f"{fields['redirect_uri']!r} is not the app's", "Invalid redirect_uri.")
    scopes = fields["scope"].split(" ")
    if not SCOPES.issuperset(scopes) or len(set(scopes)) != len(scopes):
        raise refuse("scope", f"{fields['scope']!r} is not out of {' '.join(sorted(SCOPES))}", "Invalid scope.")


def open_assertion(assertion: str, keys: Mapping[str, RSAKey], app: App) -> dict[str, Any]:
    """The claims inside the JWE inside the JWS. `keys` are those of the JWKS for encryption, by kid.

    Any certificate will do that is registered for the app: there are two while one replaces the other, and when the
    key that signs is not the one that mutual TLS uses.
    """
    outer = _header("jwe", assertion, 5, {"alg", "enc", "kid", "cty"})
    for member, wanted in (("alg", "RSA-OAEP-256"), ("enc", "A128CBC-HS256"), ("cty", "JWT")):
        if outer.get(member, wanted if member == "cty" else None) != wanted:
            raise refuse(f"jwe-{member}", f"{outer.get(member)!r} is not {wanted}")
    if "kid" in outer and outer["kid"] not in keys:
        raise refuse("jwe-kid", f"{outer['kid']!r} is not, or no longer, an encryption key of the JWKS")
    registry = jwe.JWERegistry(algorithms=["RSA-OAEP-256", "A128CBC-HS256"])
    signed = None
    for key in [keys[outer["kid"]]] if "kid" in outer else keys.values():
        try:
            opened = jwe.decrypt_compact(assertion, key, registry=registry).plaintext
            signed = (opened or b"").decode("ascii")
            break
        except (JoseError, ValueError):
            continue
    if signed is None:
        raise refuse("jwe-key", "no encryption key of the JWKS opens it")
    inner = _header("jws", signed, 3, {"alg", "typ"})
    if inner.get("alg") != "RS256":
        raise refuse("jws-alg", f"{inner.get('alg')!r} is not RS256")
    if inner.get("typ", "JWT") != "JWT":
        raise refuse("jws-typ", f"{inner['typ']!r} is not JWT")
    try:
        claims = json.loads(_payload(signed, app))
    except (ValueError, RecursionError):
        claims = None
    if not isinstance(claims, dict):
        raise refuse("claims", "the payload is no JSON object")
    return claims


def _payload(signed: str, app: App) -> bytes:
    for certificate in app.certificates.values():
        pem = certificate.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        try:
            return jws.deserialize_compact(signed, RSAKey.import_key(pem), algorithms=["RS256"]).payload
        except (JoseError, ValueError):
            continue
    raise refuse("jws-key", "the signature is not by the key of a developer certificate of the app")


def check_claims(claims: Mapping[str, Any], app: App, base_url: str, now: float) -> None:
    """The rules for what the assertion says, but for its `jti`, which only the server can know."""
    if set(claims) != CLAIMS:
        raise refuse("claims", f"missing {sorted(CLAIMS - set(claims))}, unknown {sorted(set(claims) - CLAIMS)}")
    for claim in ("appId", "iss", "sub"):
        if claims[claim] != app.client_id:
            raise refuse(claim, f"{claims[claim]!r} is not the client id")
    if claims["aud"] != base_url:
        raise refuse("aud", f"{claims['aud']!r} is not {base_url!r}, with scheme and without trailing slash")
    _check_times(claims["iat"], claims["exp"], now)
    jti = claims["jti"]
    if not isinstance(jti, str) or not re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", jti):
        raise refuse("jti", f"{jti!r} is no UUID")
    if not isinstance(claims["app_deviceid"], str) or not claims["app_deviceid"]:
        raise refuse("app_deviceid", "is no text")
    username = claims["app_username_merchant"]
    if not isinstance(username, str) or username not in app.operators:
        raise refuse("app_username_merchant", f"{username!r} is not the app's")
    _check_terminals(claims["pointOfSale"], claims["terminal_ids"], app)


def _check_times(iat: Any, exp: Any, now: float) -> None:
    for claim, value in (("iat", iat), ("exp", exp)):
        if not isinstance(value, int) or isinstance(value, bool):
            raise refuse(claim, f"{value!r} is no number of seconds")
    if iat > now:
        raise refuse("iat-ahead", f"iat is {iat - now:.1f} s ahead of Nexi's clock")
    if exp <= now:
        raise refuse("exp-past", f"exp was {now - exp:.1f} s ago")
    if exp - iat > MAX_LIFETIME_SECONDS:
        raise refuse("exp-too-far", f"exp is {exp - iat} s after iat, more than {MAX_LIFETIME_SECONDS}")


def _check_terminals(point_of_sale: Any, tids: Any, app: App) -> None:
    terminals = app.points_of_sale.get(point_of_sale) if isinstance(point_of_sale, str) else None
    if terminals is None:
        raise refuse("point-of-sale", f"{point_of_sale!r} is not the app's", "ContractCode not found.")
    if not isinstance(tids, list) or not all(isinstance(tid, str) for tid in tids):
        raise refuse("terminal-ids", f"{tids!r} is no list of TIDs")
    if not 1 <= len(tids) <= 2:
        raise refuse("terminal-ids-count", f"{len(tids)} TIDs, not 1 or 2")
    for tid in tids:
        if tid not in terminals:
            raise refuse("terminal-id", f"{tid!r} is not of point of sale {point_of_sale!r}", "Terminal not found.")
    kinds = [terminals[tid] for tid in tids]
    if kinds not in (["softpos"], ["mpos"], ["softpos", "mpos"]):
        raise refuse("terminal-ids-order", f"{kinds} is not one SoftPOS, one MPOS, or both in that order")


def _header(what: str, token: str, parts: int, known: set[str]) -> dict[str, Any]:
    segments = token.split(".")
    try:
        if len(segments) != parts or not all(re.fullmatch(r"[A-Za-z0-9_-]+", segment) for segment in segments):
            raise ValueError
        header = json.loads(base64.urlsafe_b64decode(segments[0] + "=" * (-len(segments[0]) % 4)))
    except (ValueError, RecursionError):
        header = None
    if not isinstance(header, dict):
        raise refuse(what, f"is no compact {what.upper()} of {parts} parts")
    if not known.issuperset(header):
        raise refuse(f"{what}-header", f"unknown members {sorted(set(header) - known)}")
    return header
