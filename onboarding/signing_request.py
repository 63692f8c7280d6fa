"""The certificate signing request, as Nexi's page "Backend integration" makes it with `openssl req`."""

import re
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from onboarding.deployment import CommandError, translated
from softpos.nexi.signing import SIGNING_ALGORITHM

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

UNITS = {"staging": "API Security - STAGING", "production": "API Security - PRODUCTION"}
"""The subject's OU, which says of which of Nexi's environments the certificate is to be. Nexi's page has the first."""

KEY_BITS = 2048


def checked_name(name: str) -> str:
    """The app's name, as the portal takes it. Raises CommandError."""
    if not re.fullmatch(r"[A-Za-z0-9]{1,64}", name):
        raise CommandError(
            f"{name!r} is no name that Nexi's portal takes: it refuses special characters",
            "use 1 to 64 letters and digits, without spaces, dashes, dots and accents",
        )
    return name


def build(name: str, unit: str, key: rsa.RSAPrivateKey) -> x509.CertificateSigningRequest:
    """A request for this app. With the same key, the very bytes that Nexi's own command makes.

    Raises CommandError for a name that the portal refuses, or a unit that no subject can have.
    """
    if not 1 <= len(unit) <= 64:
        raise CommandError(f"the unit has {len(unit)} characters", "an OU has 1 to 64 (RFC 5280, appendix A.1)")
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.COMMON_NAME, checked_name(name)),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "NEXI"),
            x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit),
            x509.NameAttribute(NameOID.LOCALITY_NAME, "Milano"),
            x509.NameAttribute(NameOID.COUNTRY_NAME, "IT"),
        ]
    )
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject).add_extension(usage, critical=False)
    return builder.sign(key, hashes.SHA256())


def pem(request: x509.CertificateSigningRequest) -> str:
    """The file to upload."""
    return request.public_bytes(serialization.Encoding.PEM).decode()


def new_key() -> rsa.RSAPrivateKey:
    """As `openssl req -newkey rsa:2048` makes it."""
    return rsa.generate_private_key(65537, KEY_BITS)


def key_pem(key: rsa.RSAPrivateKey) -> str:
    """PKCS#8, unencrypted."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


class KmsPrivateKey(rsa.RSAPrivateKey):
    """A key in KMS, for `cryptography` in the place of one in memory. It signs RS256 and does nothing else."""

    def __init__(self, kms: "KMSClient", key_id: str) -> None:
        """Raises AwsError, or CommandError when the key is not RSA."""
        self._kms = kms
        self.key_id = key_id
        with translated():
            public = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
        if not isinstance(public, rsa.RSAPublicKey):
            raise CommandError("the key in KMS is not an RSA key", "Nexi wants RSA of 2048 bits")
        self._public = public

    @property
    def key_size(self) -> int:
        return self._public.key_size

    def public_key(self) -> rsa.RSAPublicKey:
        return self._public

    def sign(self, data: Any, padding: Any, algorithm: Any) -> bytes:
        # RAW: KMS hashes. What is signed of a request has some 600 bytes, of at most 4,096.
        if not (isinstance(padding, PKCS1v15) and isinstance(algorithm, hashes.SHA256)):
            raise TypeError("KMS is asked for RSASSA_PKCS1_V1_5_SHA_256 alone")
        with translated():
            answer = self._kms.sign(
                KeyId=self.key_id, Message=bytes(data), MessageType="RAW", SigningAlgorithm=SIGNING_ALGORITHM
            )
        return bytes(answer["Signature"])

    def decrypt(self, ciphertext: Any, padding: Any) -> bytes:  # noqa: ARG002 - as its base has it
        raise TypeError("this key signs")

    def private_numbers(self) -> Any:
        raise TypeError("this key never leaves KMS")

    def private_bytes(self, *args: Any) -> bytes:  # noqa: ARG002 - as its base has it
        raise TypeError("this key never leaves KMS")

    def __copy__(self) -> "KmsPrivateKey":
        return self

    def __deepcopy__(self, memo: Any) -> "KmsPrivateKey":
        return self
