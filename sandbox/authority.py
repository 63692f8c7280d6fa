"""The sandbox's certificate authority: what Nexi's is to a developer certificate, and the web's to Nexi's server."""

import ipaddress
import ssl
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey


@dataclass(frozen=True)
class Issued:
    """A certificate, its key, and both as PEM."""

    certificate: x509.Certificate
    key: PrivateKey

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    @property
    def key_pem(self) -> str:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        ).decode()

    @property
    def thumbprint(self) -> str:
        """SHA-256 over the DER, in hex."""
        return self.certificate.fingerprint(hashes.SHA256()).hex()

    def context(self, protocol: int) -> ssl.SSLContext:
        """A context that shows this certificate. OpenSSL loads files alone: one is made, for this moment."""
        context = ssl.SSLContext(protocol)
        with tempfile.NamedTemporaryFile("w", suffix=".pem") as file:
            file.write(self.certificate_pem + self.key_pem)
            file.flush()
            context.load_cert_chain(file.name)
        return context


class Authority:
    """Issues server and developer certificates. Its key lives in memory and dies with the process.

    It is a root, unless another authority is its `issuer`.
    """

    def __init__(
        self, name: str = "softpos sandbox CA", issuer: "Authority | None" = None, key: PrivateKey | None = None
    ) -> None:
        self._key = key or ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        above = subject if issuer is None else issuer.certificate.subject
        self.certificate = (
            self._builder(subject, above, self._key.public_key(), _now() - timedelta(days=1), timedelta(days=3650))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_key_usage(key_cert_sign=True, crl_sign=True), critical=True)
            .sign(self._key if issuer is None else issuer._key, hashes.SHA256())
        )

    @property
    def certificate_pem(self) -> str:
        return self.certificate.public_bytes(serialization.Encoding.PEM).decode()

    def server(self, *names: str) -> Issued:
        """A certificate for a server of these DNS names and IP addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        return Issued(self._leaf(subject, key.public_key(), ExtendedKeyUsageOID.SERVER_AUTH, alternatives), key)

    def developer(
        self,
        app_name: str,
        *,
        key: rsa.RSAPrivateKey | None = None,
        not_before: datetime | None = None,
        lifetime: timedelta = timedelta(days=365),
    ) -> Issued:
        """A developer certificate, and its key."""
        key = key or rsa.generate_private_key(65537, 2048)
        return Issued(self.certify(app_name, key.public_key(), not_before=not_before, lifetime=lifetime), key)

    def certify(
        self,
        app_name: str,
        public_key: rsa.RSAPublicKey,
        *,
        not_before: datetime | None = None,
        lifetime: timedelta = timedelta(days=365),
    ) -> x509.Certificate:
        """A developer certificate for somebody's key, with the subject that Nexi's page has."""
        subject = x509.Name(
            [
                x509.NameAttribute(NameOID.COMMON_NAME, app_name),
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "NEXI"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, "API Security - STAGING"),
                x509.NameAttribute(NameOID.LOCALITY_NAME, "Milano"),
                x509.NameAttribute(NameOID.COUNTRY_NAME, "IT"),
            ]
        )
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
        return self._leaf(subject, public_key, usage, not_before=not_before, lifetime=lifetime)

    def sign(self, request: x509.CertificateSigningRequest) -> x509.Certificate:
        """A developer certificate for the key and the subject of a request, which is believed."""
        public_key = request.public_key()
        assert isinstance(public_key, rsa.RSAPublicKey)
        return self._leaf(request.subject, public_key, ExtendedKeyUsageOID.CLIENT_AUTH)

    def _leaf(
        self,
        subject: x509.Name,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        usage: x509.ObjectIdentifier,
        alternatives: x509.SubjectAlternativeName | None = None,
        not_before: datetime | None = None,
        lifetime: timedelta = timedelta(days=365),
    ) -> x509.Certificate:
        begin = not_before or _now() - timedelta(hours=1)
        builder = (
            self._builder(subject, self.certificate.subject, public_key, begin, lifetime)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        return builder.sign(self._key, hashes.SHA256())

    @staticmethod
    def _builder(
        subject: x509.Name,
        issuer: x509.Name,
        public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
        begin: datetime,
        lifetime: timedelta,
    ) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(public_key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + lifetime)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        )


def _key_usage(**used: bool) -> x509.KeyUsage:
    usages = dict.fromkeys(
        (
            "digital_signature",
            "content_commitment",
            "key_encipherment",
            "data_encipherment",
            "key_agreement",
            "key_cert_sign",
            "crl_sign",
            "encipher_only",
            "decipher_only",
        ),
        False,
    )
    return x509.KeyUsage(**{**usages, **used})


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _now() -> datetime:
    return datetime.now(UTC)
