"""Nexi's portal, and its contact, as far as a developer certificate goes: sign a request, register the `.pem`.

`POST /portal/csr` takes a CSR, PEM or DER, and answers with the `.p7b`; with `?form=der` as DER, with `?form=mail` as
Nexi mails it. `POST /portal/certificates` takes the `.pem` made of it, and the certificate is good from then on, until
`DELETE /portal/certificates/<sha256>`. `GET /portal` tells which were issued and which are registered. What breaks a
rule gets 422 and a sentence.
"""

import json
import re
import warnings
from typing import Any

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from werkzeug import Request, Response

from sandbox.authority import Authority
from sandbox.rules import App

UNIT = "API Security - STAGING"
SUBJECT = {
    NameOID.COMMON_NAME: None,
    NameOID.ORGANIZATION_NAME: "NEXI",
    NameOID.ORGANIZATIONAL_UNIT_NAME: None,
    NameOID.LOCALITY_NAME: "Milano",
    NameOID.COUNTRY_NAME: "IT",
}
"""In this order. None where a rule of its own says what it may be."""

P7B = "application/x-pkcs7-certificates"
MAIL = """\
Dear developer,

your request was approved. The certificate of {app} for the STAGING environment is below.
Please send it back in .pem format to your contact at Nexi, who will register it.

{bundle}
Kind regards,

--
API Security, the sandbox's Nexi
"""


class RefusedError(Exception):
    """When a rule is broken: one sentence, of what was found and what is wanted."""


class Portal:
    """What the portal knows: the certificates that it issued, and those that its one app has registered."""

    def __init__(self, authority: Authority, app: App) -> None:
        self._authority = authority
        self._app = app
        self._issued: dict[str, x509.Certificate] = {}

    def answer(self, request: Request) -> Response | None:
        """The answer to a request; None for one that is not the portal's."""
        try:
            match request.method, request.path.split("/")[1:]:
                case "GET", ["portal"]:
                    return _json(self.state())
                case "POST", ["portal", "csr"]:
                    return self._issue(request.get_data(), request.args.get("form", "pem"))
                case "POST", ["portal", "certificates"]:
                    return _json({**_told(self.register(request.get_data())), "registered": True})
                case "DELETE", ["portal", "certificates", sha256]:
                    if sha256 not in self._app.certificates:
                        return Response(f"No certificate {sha256} is registered: GET /portal lists those.\n", 404)
                    self._app.unregister(sha256)
                    return _json(self.state())
        except RefusedError as refused:
            return Response(f"{refused}\n", 422)
        return None

    def state(self) -> dict[str, Any]:
        """`issued` and `registered`: subject, sha256 and not_after of each."""
        return {
            "issued": [_told(each) for each in self._issued.values()],
            "registered": [_told(each) for each in self._app.certificates.values()],
        }

    def sign(self, data: bytes) -> x509.Certificate:
        """A certificate for the CSR, which nobody has registered yet. Raises RefusedError."""
        certificate = self._authority.sign(_checked(data))
        self._issued[_sha256(certificate)] = certificate
        return certificate

    def register(self, pem: bytes) -> x509.Certificate:
        """Register the one certificate in a `.pem` that was issued here. Raises RefusedError."""
        found = {_sha256(each): each for each in _certificates(pem)}
        ours = {sha256: each for sha256, each in found.items() if sha256 in self._issued}
        if len(ours) != 1:
            subjects = "; ".join(each.subject.rfc4514_string() for each in found.values())
            raise RefusedError(
                f"Of the certificates in the file ({subjects}), {len(ours) or 'none'} were issued by this portal: "
                "exactly one is wanted, with its chain or without."
            )
        ((sha256, certificate),) = ours.items()
        self._app.register(certificate, sha256)
        return certificate

    def _issue(self, data: bytes, form: str) -> Response:
        if form not in ("pem", "der", "mail"):
            raise RefusedError(f"form={form} is none of pem, der and mail.")
        bundle = [self._authority.certificate, self.sign(data)]
        if form == "der":
            return Response(pkcs7.serialize_certificates(bundle, serialization.Encoding.DER), content_type=P7B)
        pem = pkcs7.serialize_certificates(bundle, serialization.Encoding.PEM)
        if form == "pem":
            return Response(pem, content_type=P7B)
        (app,) = bundle[1].subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return Response(MAIL.format(app=app.value, bundle=pem.decode()))


def _checked(data: bytes) -> x509.CertificateSigningRequest:
    """The CSR, if the portal would sign it. Raises RefusedError."""
    _refuse_private_keys(data)
    try:
        with warnings.catch_warnings():
            # Of lengths that a subject may not have: the rules below have a sentence for them.
            warnings.simplefilter("ignore")
            request = (x509.load_pem_x509_csr if b"-----BEGIN" in data else x509.load_der_x509_csr)(data)
            subject, key, extensions = request.subject, request.public_key(), request.extensions
            signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as error:
        raise RefusedError(f"The body is {_looks_like(data)}: a CSR is wanted, PEM or DER, whole.") from error
    if not signed:
        raise RefusedError("The CSR's signature is not valid: it has to be signed with the key that it is for.")
    if not isinstance(key, rsa.RSAPublicKey) or key.key_size != 2048:
        found = f"RSA of {key.key_size} bits" if isinstance(key, rsa.RSAPublicKey) else "not RSA"
        raise RefusedError(f"The key is {found}: RSA of 2048 bits is wanted.")
    _check_subject(subject)
    _check_usage(extensions)
    return request


def _check_subject(subject: x509.Name) -> None:
    found = ", ".join(each.rfc4514_string() for each in subject.rdns)
    attributes = [tuple((each.oid, each.value) for each in rdn) for rdn in subject.rdns]
    values = {oid: str(value) for ((oid, value), *_) in attributes}
    if attributes != [((oid, wanted or values.get(oid)),) for oid, wanted in SUBJECT.items()]:
        raise RefusedError(f"The subject is {found}: CN, O=NEXI, OU, L=Milano, C=IT is wanted, in this order.")
    if values[NameOID.ORGANIZATIONAL_UNIT_NAME] != UNIT:
        raise RefusedError(f"The OU is {values[NameOID.ORGANIZATIONAL_UNIT_NAME]!r}: {UNIT!r} is wanted.")
    name = values[NameOID.COMMON_NAME]
    if not re.fullmatch(r"[A-Za-z0-9]{1,64}", name):
        raise RefusedError(
            f"The CN is {name!r}: the portal rejects special characters in the app's name, which is 1 to 64 ASCII "
            "letters and digits."
        )


def _check_usage(extensions: x509.Extensions) -> None:
    try:
        usages = list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    except x509.ExtensionNotFound:
        usages = []
    if usages != [ExtendedKeyUsageOID.CLIENT_AUTH]:
        found = ", ".join(each.dotted_string for each in usages) or "nothing"
        raise RefusedError(
            f"The extendedKeyUsage asked for is {found}: clientAuth "
            f"({ExtendedKeyUsageOID.CLIENT_AUTH.dotted_string}) is wanted, and nothing else."
        )


def _certificates(pem: bytes) -> list[x509.Certificate]:
    _refuse_private_keys(pem)
    if b"-----BEGIN CERTIFICATE-----" not in pem:
        raise RefusedError(
            f"The body is {_looks_like(pem)}: the .pem is wanted that `openssl pkcs7 -print_certs` makes."
        )
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError as error:
        raise RefusedError(
            "A CERTIFICATE block in the body is cut short or garbled: the whole .pem is wanted, line by line."
        ) from error


def _refuse_private_keys(data: bytes) -> None:
    # Whatever the block holds, whoever sent it has a habit to lose.
    if b"PRIVATE KEY" in data or _is_der_key(data):
        raise RefusedError(
            "THERE IS A PRIVATE KEY IN THE BODY: consider it known to others from now on, make a new one and a new "
            "CSR, and never send a key to anyone."
        )


def _is_der_key(data: bytes) -> bool:
    try:
        serialization.load_der_private_key(data, None)
    except TypeError:
        return True  # encrypted
    except (ValueError, UnsupportedAlgorithm):
        return False
    return True


def _looks_like(data: bytes) -> str:
    label = re.search(rb"-----BEGIN ([A-Z0-9 ]+)-----", data)
    match label[1].decode() if label else None:
        case "PKCS7":
            return "a .p7b"
        case "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST":
            return "a CSR, or what is left of one"
        case str(known):
            return f"a PEM file that begins with a {known}"
    if not data.strip():
        return "empty"
    return "DER" if data.startswith(b"\x30") else "neither PEM nor DER"


def _told(certificate: x509.Certificate) -> dict[str, str]:
    return {
        "subject": certificate.subject.rfc4514_string(),
        "sha256": _sha256(certificate),
        "not_after": f"{certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}",
    }


def _sha256(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def _json(answer: Any) -> Response:
    return Response(json.dumps(answer, indent=2) + "\n", content_type="application/json")
