"""What Nexi knows us by: the application (client id and secret) and the developer certificate with its key.

Both come from Secrets Manager, are held in memory for a few minutes, and are never printed: their `repr` shows what is
public and nothing else.
"""

import functools
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Generic, Literal, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from softpos import aws, telemetry
from softpos.aws import error_code
from softpos.errors import MisconfiguredError, SoftposError
from softpos.seal import Seal
from softpos.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

SCOPES = frozenset({"openid", "oidc", "email", "profile", "phone", "address"})
"""What Nexi lets an application ask for (Nexi, "Chiamata PAR")."""

DEFAULT_SCOPE = "oidc"

MAX_AGE_SECONDS = 300.0
"""A new version of a secret is taken up by itself within this time."""

MIN_AGE_SECONDS = 5.0
"""A reload that is asked for sooner after the last is not made: a certificate that Nexi keeps refusing must not turn
every enrollment into two calls of Secrets Manager."""

RETRY_SECONDS = 30.0
"""For how long held credentials serve before Secrets Manager, having failed, is asked again."""


@dataclass(frozen=True, slots=True)
class Application:
    """The app logic created on Nexi's portal."""

    client_id: str
    client_secret: str = field(repr=False)
    redirect_uri: str
    scope: str
    """Space-separated, out of SCOPES."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """The developer certificate, for mutual TLS and for the assertion's signature."""

    thumbprint: str
    """SHA-256 over the leaf's DER, in hex."""
    subject: str
    not_after: datetime
    chain_pem: bytes = field(repr=False)
    """The leaf first."""
    key_pem: bytes = field(repr=False)
    private_key: rsa.RSAPrivateKey = field(repr=False)
    signing_public_key: rsa.RSAPublicKey = field(repr=False)
    """Of the certificate that the assertion is signed for: this one, unless a key in KMS has one of its own."""
    signing_not_after: datetime
    """Of that certificate, too."""

    def days_left(self, now: float) -> float:
        """Days from a Unix time until the first of the two expires; negative when it has."""
        return (min(self.not_after, self.signing_not_after).timestamp() - now) / 86_400


@dataclass(frozen=True, slots=True)
class Credentials:
    """Both secrets, as they were at one moment."""

    application: Application
    certificate: Certificate

    def seal(self, purpose: str) -> Seal:
        """A seal that whoever has not both secrets can neither open nor make."""
        return Seal(self.certificate.key_pem + self.application.client_secret.encode(), purpose)


_Parsed = TypeVar("_Parsed")


class SecretStore(Generic[_Parsed]):
    """One secret out of Secrets Manager, parsed, kept for MAX_AGE_SECONDS. A call per refresh, none in between."""

    def __init__(
        self,
        secrets: "SecretsManagerClient",
        variable: str,
        secret_id: str,
        parse: Callable[[str], _Parsed],
        now: Callable[[], float] = time.time,
    ) -> None:
        self._secrets = secrets
        self._variable = variable
        self._secret_id = secret_id
        self._parse = parse
        self._now = now
        self._held: tuple[str, _Parsed] | None = None
        self._read_at = 0.0
        self._max_age = MAX_AGE_SECONDS

    def get(self, *, reload: bool = False) -> _Parsed:
        """The current value; the very same object for as long as the secret has no new version.

        When it cannot be read, or not be used, what is in memory goes on serving. Raises MisconfiguredError when
        nothing is, and the secret is missing, unreadable or malformed; what aws.failure says when the service fails.
        """
        if self._held is None:
            self._held = self._fresh()
        elif not 0 <= self._now() - self._read_at < (MIN_AGE_SECONDS if reload else self._max_age):
            try:
                self._held = self._fresh()
            except SoftposError as error:
                self._max_age = RETRY_SECONDS
                self._read_at = self._now()
                telemetry.note(secrets=str(error))
                telemetry.count("SecretsFailed")
        return self._held[1]

    def _fresh(self) -> tuple[str, _Parsed]:
        secret, version = read_secret(self._secrets, self._variable, self._secret_id)
        same = self._held is not None and version == self._held[0]
        fresh = self._held if self._held is not None and same else (version, self._parse(secret))
        self._max_age = MAX_AGE_SECONDS
        self._read_at = self._now()
        return fresh


def read_secret(
    secrets: "SecretsManagerClient", variable: str, secret_id: str, stage: Literal["current", "pending"] = "current"
) -> tuple[str, str]:
    """A secret's text, and the id of its version: the one that functions use, or the one that they are to use next.

    Raises SecretMissingError, MisconfiguredError when it is unreadable or binary, and what aws.failure says when the
    service fails; each names the variable that has the secret's id.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    # Without a label it is the current version.
    label: dict[str, Any] = {"VersionStage": "AWSPENDING"} if stage == "pending" else {}
    try:
        answer = secrets.get_secret_value(SecretId=secret_id, **label)
    except ClientError as error:
        code = error_code(error)
        if code == "InvalidRequestException":
            raise SecretMissingError(
                f"the secret that {variable} names is marked for deletion ({code})",
                f"aws secretsmanager restore-secret --secret-id {secret_id}",
            ) from error
        if code == "ResourceNotFoundException":
            raise SecretMissingError(
                f"the secret that {variable} names does not exist or has no {stage} value ({code})",
                "store it in Secrets Manager, in this account and region, under the name that the stack gave it",
            ) from error
        if code in ("AccessDeniedException", "DecryptionFailure", "ValidationException"):
            raise MisconfiguredError(
                f"the secret that {variable} names cannot be read ({code})",
                "let the function's role call secretsmanager:GetSecretValue on it, and kms:Decrypt on its key",
            ) from error
        raise aws.failure(f"Secrets Manager failed for {variable}", error) from error
    except BotoCoreError as error:
        raise aws.failure(f"Secrets Manager failed for {variable}", error) from error
    if "SecretString" not in answer:
        raise MisconfiguredError(f"the secret that {variable} names is binary", "store it as a JSON string")
    return answer["SecretString"], answer["VersionId"]


class SecretMissingError(MisconfiguredError):
    """When a secret does not exist, or has no version at this stage."""


class CredentialStore:
    """Application and certificate together."""

    def __init__(
        self,
        secrets: "SecretsManagerClient",
        application_secret_id: str,
        certificate_secret_id: str,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._application = SecretStore(secrets, "APPLICATION_SECRET_ID", application_secret_id, parse_application, now)
        # The key was proved when it was stored, and is twice a day (certificate_watch). Here phones wait.
        parse = functools.partial(parse_certificate, prove_key=False)
        self._certificate = SecretStore(secrets, "CERTIFICATE_SECRET_ID", certificate_secret_id, parse, now)
        self._held: Credentials | None = None

    def get(self, *, reload: bool = False) -> Credentials:
        """The current credentials; the very same object for as long as neither secret has a new version.

        Raises as each store's `get` does.
        """
        application, certificate = self._application.get(reload=reload), self._certificate.get(reload=reload)
        held = self._held
        if held is None or held.application is not application or held.certificate is not certificate:
            self._held = held = Credentials(application, certificate)
        return held


@functools.cache
def application_store() -> SecretStore[Application]:
    """The application secret alone, for those who need no certificate. Built on first use; a failure is not cached."""
    secret_id = settings().application_secret_id
    return SecretStore(aws.client("secretsmanager"), "APPLICATION_SECRET_ID", secret_id, parse_application)


@functools.cache
def credential_store() -> CredentialStore:
    """The execution environment's credentials. Built on first use; a failure is not cached."""
    configured = settings()
    return CredentialStore(
        aws.client("secretsmanager"), configured.application_secret_id, configured.certificate_secret_id
    )


def parse_application(secret: str) -> Application:
    """The application secret: `{"client_id", "client_secret", "redirect_uri", "scope"}`, `scope` optional.

    Raises MisconfiguredError.
    """
    where = "application secret"
    members = _object(where, secret)
    scope = members.get("scope")
    scope = DEFAULT_SCOPE if scope in (None, "") else scope
    scopes = list(dict.fromkeys(scope.split())) if isinstance(scope, str) else []
    if not scopes or not SCOPES.issuperset(scopes):
        raise MisconfiguredError(
            f"{where}: scope holds something that Nexi does not offer",
            f"use {DEFAULT_SCOPE}, or several of {' '.join(sorted(SCOPES))}, separated by spaces",
        )
    return Application(
        client_id=_text(where, members, "client_id"),
        client_secret=_text(where, members, "client_secret"),
        redirect_uri=_text(where, members, "redirect_uri"),
        scope=" ".join(scopes),
    )


def parse_certificate(secret: str, *, prove_key: bool = True) -> Certificate:
    """The certificate secret: `{"certificate", "private_key", "signing_certificate"}`, all PEM.

    The certificate with its chain in any order. `signing_certificate` is optional: the certificate of a key that was
    born in KMS, alone or before its chain. To prove the key is to have OpenSSL test its primes and what was computed of
    them, which takes twenty times as long as all else here; else it signs once. Raises MisconfiguredError.
    """
    where = "certificate secret"
    members = _object(where, secret)
    chain = _certificates(where, _text(where, members, "certificate"))
    key = _private_key(where, _text(where, members, "private_key"), prove=prove_key)
    leaf = next((each for each in chain if each.public_key() == key.public_key()), None)
    if leaf is None:
        raise MisconfiguredError(
            f"{where}: private_key belongs to none of the {len(chain)} certificates",
            "store the key that the certificate's CSR was made with, together with that certificate",
        )
    chain = [leaf, *(each for each in chain if each != leaf)]
    signing = leaf
    if members.get("signing_certificate"):
        signing, *_ = _certificates(where, _text(where, members, "signing_certificate"), "signing_certificate")
    signing_public_key = signing.public_key()
    if not isinstance(signing_public_key, rsa.RSAPublicKey):
        raise MisconfiguredError(
            f"{where}: signing_certificate is not for an RSA key", "store the certificate of the RSA key in KMS"
        )
    return Certificate(
        thumbprint=leaf.fingerprint(hashes.SHA256()).hex(),
        subject=leaf.subject.rfc4514_string(),
        not_after=leaf.not_valid_after_utc,
        chain_pem=b"".join(each.public_bytes(serialization.Encoding.PEM) for each in chain),
        key_pem=key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ),
        private_key=key,
        signing_public_key=signing_public_key,
        signing_not_after=signing.not_valid_after_utc,
    )


def parse_pending_certificate(secret: str) -> Certificate | None:
    """The certificate secret as it may be before functions use it; None while its key waits for the certificate.

    Then it has a `signing_request`; anything else is as parse_certificate wants it. Raises MisconfiguredError.
    """
    return None if "signing_request" in _object("certificate secret", secret) else parse_certificate(secret)


def _certificates(where: str, pem: str, member: str = "certificate") -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise MisconfiguredError(
            f"{where}: {member} is not PEM ({_looks_like(pem)})",
            "store what `openssl pkcs7 -print_certs` made of Nexi's .p7b, from BEGIN to END, line breaks included",
        ) from error


def _private_key(where: str, pem: str, *, prove: bool) -> rsa.RSAPrivateKey:
    remedy = "store the RSA key that the CSR was made with, as PEM, unencrypted, line breaks included"
    try:
        key = serialization.load_pem_private_key(pem.encode(), password=None, unsafe_skip_rsa_key_validation=not prove)
        if not prove and isinstance(key, rsa.RSAPrivateKey):
            # What it is here for. That gives nothing away even if it is garbled: OpenSSL checks what it signs.
            _try(key)
    except TypeError:
        raise MisconfiguredError(f"{where}: private_key is encrypted with a passphrase", remedy) from None
    except Exception:  # noqa: BLE001 - cryptography raises several; their words may quote the key, and are dropped
        raise MisconfiguredError(
            f"{where}: private_key is no private key in PEM ({_looks_like(pem)})", remedy
        ) from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise MisconfiguredError(f"{where}: private_key is not an RSA key", remedy)
    if key.key_size < 2048:
        raise MisconfiguredError(f"{where}: private_key has {key.key_size} bits, Nexi wants 2048", remedy)
    return key


def _try(key: rsa.RSAPrivateKey) -> None:
    how = padding.PKCS1v15(), hashes.SHA256()
    key.public_key().verify(key.sign(b"", *how), b"", *how)


def _looks_like(pem: str) -> str:
    """What a reader needs to see their mistake, without a character of what they stored."""
    if "\\n" in pem:
        return "it holds backslash-n where line breaks belong"
    if "BEGIN PKCS7" in pem:
        return "it is a .p7b, not yet converted"
    if "BEGIN PUBLIC KEY" in pem:
        return "it is a public key"
    if "PRIVATE KEY" in pem:
        return "it holds a private key block, cut short or garbled"
    if "BEGIN CERTIFICATE" in pem:
        return "it holds a certificate block, cut short or garbled"
    return "it has no BEGIN line that could be one"


_SHAPE_REMEDY = "store the JSON object that the README shows for this secret"


def _object(where: str, secret: str) -> dict[str, Any]:
    try:
        members = json.loads(secret)
    except (ValueError, RecursionError):
        raise MisconfiguredError(f"{where}: not JSON", _SHAPE_REMEDY) from None
    if not isinstance(members, dict):
        raise MisconfiguredError(f"{where}: JSON, but not an object", _SHAPE_REMEDY)
    return members


def _text(where: str, members: dict[str, Any], name: str) -> str:
    value = members.get(name)
    if not isinstance(value, str) or not value.strip():
        found = "missing" if name not in members else "empty" if value == "" else "not a non-empty string"
        raise MisconfiguredError(f"{where}: {name} is {found}", f"store {name} in the {where}")
    return value.strip()
