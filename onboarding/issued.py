"""What Nexi mails back: the certificates in whatever the mail became, their chain, and what is wrong with it."""

import binascii
import email
import email.policy
import html
import quopri
import re
import warnings
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from onboarding.deployment import CommandError

EXPIRES_SOON = timedelta(days=30)
"""As long before its end, a certificate is to be renewed: Nexi's side takes days."""

MAX_BYTES = 1024 * 1024

_START = re.compile(r"(?<![A-Za-z0-9+/=])MI[IA]")
"""Base64 of 0x30 0x82, which begins everything of 256 to 65,535 bytes in DER, and of 0x30 0x80, which begins BER."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a certificate: what was found, what was wanted, and what to do."""

    check: Literal["clientAuth", "validity", "issuer", "stage"]
    found: str
    wanted: str
    remedy: str
    fatal: bool = True
    """Whether the certificate is of no use; if not, it should be looked at."""


def read(data: bytes) -> list[x509.Certificate]:
    """The certificates of a .p7b (PEM or DER), of a .pem, or of the mail that one of these came in, in its order.

    Raises CommandError with what the file looks like when it holds none.
    """
    if len(data) > MAX_BYTES:
        raise CommandError(f"the file has {len(data)} bytes", "pass the .p7b or .pem alone: it has a few thousand")
    certificates = next(filter(None, (_from_der(form) or _from_text(_text(form)) for form in _forms(data))), [])
    if not certificates:
        raise CommandError(
            f"there is no certificate in the file: {_looks_like(data)}",
            "pass the .p7b that Nexi sent, from BEGIN to END, or the whole mail as a file",
        )
    return list(dict.fromkeys(certificates))


def chain(certificates: list[x509.Certificate], public_keys: list[rsa.RSAPublicKey]) -> list[x509.Certificate]:
    """The certificate of one of the keys first, then whoever signed the one before, as far as they are here.

    Raises CommandError when there is none of these keys.
    """
    of_key = [each for each in certificates if _is_for(each, public_keys)]
    if not of_key:
        subjects = "; ".join(each.subject.rfc4514_string() for each in certificates)
        raise CommandError(
            f"none of the certificates is the pending key's ({subjects})",
            "import what Nexi made of the latest request: `softpos certificate show` says which that is",
        )
    # A key that stays, in KMS, has a certificate for each renewal.
    ordered = [max(of_key, key=lambda each: each.not_valid_before_utc)]
    while not _issued(ordered[-1], ordered[-1]):
        issuer = next((each for each in certificates if each not in ordered and _issued(ordered[-1], each)), None)
        if issuer is None:
            break
        ordered.append(issuer)
    return ordered


def pem(certificates: list[x509.Certificate]) -> str:
    """What `openssl pkcs7 -print_certs` makes, without its comments."""
    return "".join(each.public_bytes(serialization.Encoding.PEM).decode() for each in certificates)


def unit_of(name: x509.Name) -> str:
    """The OU, which says of which of Nexi's environments a certificate is."""
    return ", ".join(str(each.value) for each in name.get_attributes_for_oid(NameOID.ORGANIZATIONAL_UNIT_NAME))


def app_name(certificate: x509.Certificate) -> str:
    """The subject's CN, fit for a file's name."""
    names = [str(each.value) for each in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    return re.sub(r"[^A-Za-z0-9]", "", names[0] if names else "") or "certificate"


def days_left(certificate: x509.Certificate, now: datetime) -> int:
    """Whole days until it expires; negative when it has."""
    return (certificate.not_valid_after_utc - now).days


def sha256(certificate: x509.Certificate) -> str:
    """The thumbprint, in hex, as the logs have it."""
    return certificate.fingerprint(hashes.SHA256()).hex()


def findings(ordered: list[x509.Certificate], stage: Literal["staging", "production"], now: datetime) -> list[Finding]:
    """What is wrong with a chain that begins with the developer certificate, for this stage and at this time."""
    leaf, *issuers = ordered
    return [*_usage(leaf), *_validity(leaf, now), *_issuer(ordered, issuers), *_stage(leaf, stage)]


def _usage(leaf: x509.Certificate) -> Iterator[Finding]:
    try:
        usages = list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        # Missing, twice, or malformed somewhere: nothing that a server would read.
        usages = []
    if ExtendedKeyUsageOID.CLIENT_AUTH not in usages:
        found = ", ".join(each._name for each in usages) or "nothing"
        yield Finding(
            "clientAuth",
            f"the certificate's extendedKeyUsage names {found}",
            "clientAuth",
            "make a new request with this command, which asks for it, and upload that",
        )


def _validity(leaf: x509.Certificate, now: datetime) -> Iterator[Finding]:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    span = f"valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC"
    if now < begin:
        yield Finding("validity", span, f"valid now, {now:%Y-%m-%d %H:%M}", "wait, or set this machine's clock")
    elif now >= end:
        yield Finding("validity", span, f"valid now, {now:%Y-%m-%d %H:%M}", "renew it: softpos certificate request")
    elif end - now < EXPIRES_SOON:
        yield Finding(
            "validity",
            f"{span}: {days_left(leaf, now)} days are left",
            f"more than {EXPIRES_SOON.days}",
            "renew it now: softpos certificate request",
            fatal=False,
        )


def _issuer(ordered: list[x509.Certificate], issuers: list[x509.Certificate]) -> Iterator[Finding]:
    leaf, top = ordered[0], ordered[-1]
    if _issued(leaf, leaf):
        yield Finding("issuer", "the certificate is signed by itself", "signed by Nexi", "import what Nexi sent")
    elif not issuers:
        yield Finding(
            "issuer",
            f"the certificate of its issuer is not with it ({leaf.issuer.rfc4514_string()})",
            "the whole chain",
            "import the whole .p7b, with all of its certificates",
            fatal=False,
        )
    elif not _issued(top, top):
        yield Finding(
            "issuer",
            f"the chain ends at {top.subject.rfc4514_string()}, whose issuer is not with it",
            "a chain up to its root",
            "import the whole .p7b, unless Nexi sends no more: a handshake says whether it is enough",
            fatal=False,
        )


def _stage(leaf: x509.Certificate, stage: Literal["staging", "production"]) -> Iterator[Finding]:
    unit = unit_of(leaf.subject)
    other = "production" if stage == "staging" else "staging"
    if other in unit.lower():
        yield Finding(
            "stage",
            f"the subject's OU is {unit!r}",
            f"a certificate for {stage}",
            f"pass the stage that it is for, or request one for {stage}: Nexi registers the two apart",
        )
    elif stage not in unit.lower():
        yield Finding(
            "stage",
            f"the subject's OU is {unit!r}, which names no environment",
            f"one that names {stage}",
            "ask Nexi whether it is meant to be",
            fatal=False,
        )


def _is_for(certificate: x509.Certificate, public_keys: list[rsa.RSAPublicKey]) -> bool:
    try:
        return certificate.public_key() in public_keys
    except (ValueError, UnsupportedAlgorithm):
        return False


def _issued(certificate: x509.Certificate, issuer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _forms(data: bytes) -> Iterator[bytes]:
    """The file as it is, as the mail that it may be, part by part, and as one that was saved without its headers."""
    yield data
    for part in email.message_from_bytes(data, policy=email.policy.compat32).walk():
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            yield payload
    yield quopri.decodestring(data)


def _text(form: bytes) -> str:
    return form.decode("utf-16" if form[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")


def _from_text(text: str) -> list[x509.Certificate]:
    """All that is there in base64, whatever the lines before and after it have become: some gateways strip them."""
    # A mail in HTML has tags. A quoted one has "> " before each line, which is no base64, as other blanks are not.
    text = html.unescape(re.sub(r"</?[A-Za-z][^<>\n]*>", "\n", text))
    found: list[x509.Certificate] = []
    for start in _START.finditer(text):
        to_dash, *_ = re.split(r"[-\u2010-\u2015\u2212]", text[start.start() :], maxsplit=1)
        base64 = re.sub(r"[^A-Za-z0-9+/=]", "", to_dash)
        length = _length(_decoded(base64[:8]))
        found += _from_der(_decoded(base64[: length and -(-length // 3) * 4]))
    return found


def _decoded(base64: str) -> bytes:
    try:
        return b64decode(base64, validate=True)
    except (ValueError, binascii.Error):
        return b""


def _length(der: bytes) -> int | None:
    """What DER says of how long it is: what follows, of a mail or by an editor, is not it. None when it does not."""
    return 4 + int.from_bytes(der[2:4]) if der.startswith(b"\x30\x82") else None


def _from_der(der: bytes) -> list[x509.Certificate]:
    der = der[: _length(der)]
    try:
        return [x509.load_der_x509_certificate(der)]
    except ValueError:
        pass
    try:
        with warnings.catch_warnings():
            # Some authorities write BER, and cryptography says that it may not always read it.
            warnings.simplefilter("ignore")
            return pkcs7.load_der_pkcs7_certificates(der)
    except Exception:  # noqa: BLE001 - cryptography raises several for what is none; then it is none
        return []


def _looks_like(data: bytes) -> str:
    text = _text(data)
    for sign, what in (
        ("PRIVATE KEY", "it is a private key. It belongs nowhere but in the certificate secret"),
        ("CERTIFICATE REQUEST", "it is the request that goes to the portal, not what comes back"),
        ("<html", "it is a web page"),
        ("BEGIN PKCS7", "the PKCS7 block is cut short or garbled"),
        ("BEGIN PKCS #7", "the PKCS7 block is cut short or garbled"),
        ("BEGIN CERTIFICATE", "the certificate block is cut short or garbled"),
    ):
        if sign.lower() in text.lower():
            return what
    return "it is empty" if not text.strip() else "it has no BEGIN line that could be one"
