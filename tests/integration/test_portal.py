"""Nexi's portal in the sandbox: what it signs, what it registers, and the sentence for everything else."""

import http.client
import shutil
import ssl
import subprocess
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from sandbox.authority import Authority, Issued
from sandbox.control import Control
from sandbox.local import LocalStack
from sandbox.nexi import Nexi
from sandbox.portal import Portal
from sandbox.rules import App

KINDS = {
    "CN": NameOID.COMMON_NAME,
    "O": NameOID.ORGANIZATION_NAME,
    "OU": NameOID.ORGANIZATIONAL_UNIT_NAME,
    "L": NameOID.LOCALITY_NAME,
    "C": NameOID.COUNTRY_NAME,
}
SUBJECT = {"CN": "MYAPP", "O": "NEXI", "OU": "API Security - STAGING", "L": "Milano", "C": "IT"}
CLIENT, SERVER = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
PEM, DER = serialization.Encoding.PEM, serialization.Encoding.DER
P7B = "application/x-pkcs7-certificates"

KEY = rsa.generate_private_key(65537, 2048)
AUTHORITY = Authority()


@pytest.fixture(scope="module")
def nexi() -> Iterator[Nexi]:
    running = Nexi(AUTHORITY, [App("app", "secret")])
    running.start()
    yield running
    running.stop()


@pytest.fixture
def url(nexi: Nexi) -> Iterator[str]:
    """The portal's address. It has issued and registered nothing."""
    control = Control(nexi, Portal(AUTHORITY, nexi.apps[0]))
    control.start()
    yield f"{control.url}/portal"
    control.stop()
    nexi.apps[0].certificates = {}


def ask(method: str, url: str, body: bytes = b"", **headers: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.request(method, url, data=body, headers=headers, timeout=5)


def name(*parts: tuple[str, str] | list[tuple[str, str]]) -> x509.Name:
    """A subject of these parts, of any length; a list is one part of several values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return x509.Name(
            x509.RelativeDistinguishedName(
                x509.NameAttribute(KINDS[kind], value, _validate=False)
                for kind, value in (part if isinstance(part, list) else [part])
            )
            for part in parts
        )


def csr(
    subject: x509.Name | None = None,
    key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey = KEY,
    usages: list[x509.ObjectIdentifier] | None = None,
    encoding: serialization.Encoding = PEM,
) -> bytes:
    """A CSR as Nexi's page has it, but for what a test wants otherwise."""
    builder = x509.CertificateSigningRequestBuilder(subject or name(*SUBJECT.items()))
    usages = [CLIENT] if usages is None else usages
    if usages:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(encoding)


def changed(**parts: str) -> x509.Name:
    return name(*{**SUBJECT, **parts}.items())


def issued(url: str, key: rsa.RSAPrivateKey = KEY) -> x509.Certificate:
    """A certificate that the portal has just issued."""
    answer = ask("POST", f"{url}/csr", csr(key=key))
    assert answer.status_code == 200
    return pkcs7.load_pem_pkcs7_certificates(answer.content)[1]


def pem(*certificates: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(PEM) for each in certificates)


def sha256(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def status_at_nexi(nexi: Nexi, certificate: x509.Certificate) -> int:
    context = Issued(certificate, KEY).context(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=AUTHORITY.certificate_pem)
    connection = http.client.HTTPSConnection("127.0.0.1", nexi.port, context=context, timeout=5)
    try:
        connection.request("GET", "/softpos/par/jwks.json")
        return connection.getresponse().status
    finally:
        connection.close()


def assert_refused(answer: requests.Response, said: str) -> None:
    assert answer.status_code == 422, answer.text
    assert answer.headers["Content-Type"].startswith("text/plain")
    assert said in answer.text
    assert answer.text.endswith(".\n"), "a sentence"
    assert answer.text.count("\n") == 1


# ---------------------------------------------------------------- what it signs


@pytest.mark.parametrize("encoding", [PEM, DER], ids=["pem", "der"])
def test_a_csr_is_signed_with_its_subject_and_key_and_comes_with_the_authority_first(
    encoding: serialization.Encoding, url: str
) -> None:
    answer = ask("POST", f"{url}/csr", csr(encoding=encoding))
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, P7B)
    assert answer.content.startswith(b"-----BEGIN PKCS7-----\n")
    authority, leaf = pkcs7.load_pem_pkcs7_certificates(answer.content)
    assert authority == AUTHORITY.certificate
    leaf.verify_directly_issued_by(authority)
    assert leaf.subject == name(*SUBJECT.items())
    assert leaf.public_key() == KEY.public_key()
    assert list(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [CLIENT]


def test_the_command_of_nexis_page_makes_a_csr_that_is_signed(url: str, tmp_path: Any) -> None:
    assert shutil.which("openssl"), "the page's command is for openssl"
    subject = "/" + "/".join(f"{kind}={value}" for kind, value in SUBJECT.items()) + "/"
    key = ["-nodes", "-newkey", "rsa:2048", "-keyout", tmp_path / "MYAPP.key", "-out", tmp_path / "MYAPP.csr"]
    subprocess.run(
        ["openssl", "req", *key, "-subj", subject, "-addext", "extendedKeyUsage=clientAuth"],
        check=True,
        capture_output=True,
        timeout=20,
    )
    assert ask("POST", f"{url}/csr", (tmp_path / "MYAPP.csr").read_bytes()).status_code == 200


def test_it_is_given_as_der_if_asked_for(url: str) -> None:
    answer = ask("POST", f"{url}/csr?form=der", csr())
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, P7B)
    assert len(pkcs7.load_der_pkcs7_certificates(answer.content)) == 2


def test_it_is_given_as_nexis_mail_if_asked_for(url: str) -> None:
    answer = ask("POST", f"{url}/csr?form=mail", csr())
    assert answer.status_code == 200
    assert answer.headers["Content-Type"].startswith("text/plain")
    greeting, begin, rest = answer.text.partition("-----BEGIN PKCS7-----\n")
    body, end, signature = rest.partition("-----END PKCS7-----\n")
    assert "MYAPP" in greeting
    assert "Nexi" in signature
    assert len(pkcs7.load_pem_pkcs7_certificates((begin + body + end).encode())) == 2


def test_another_form_is_refused(url: str) -> None:
    assert_refused(ask("POST", f"{url}/csr?form=pfx", csr()), "form=pfx is none of pem, der and mail")


def test_a_certificate_that_was_issued_is_not_registered_by_that(url: str, nexi: Nexi) -> None:
    leaf = issued(url)
    member = {
        "subject": "C=IT,L=Milano,OU=API Security - STAGING,O=NEXI,CN=MYAPP",
        "sha256": sha256(leaf),
        "not_after": leaf.not_valid_after_utc.isoformat().replace("+00:00", "Z"),
    }
    assert ask("GET", url).json() == {"issued": [member], "registered": []}
    assert status_at_nexi(nexi, leaf) == 403


# ---------------------------------------------------------------- what it does not sign


def badly_signed() -> bytes:
    der = csr(encoding=DER)
    return der[:-1] + bytes([der[-1] ^ 1])


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "The body is empty"),
        (b"my app", "The body is neither PEM nor DER"),
        (AUTHORITY.certificate_pem.encode(), "The body is a PEM file that begins with a CERTIFICATE"),
        (AUTHORITY.certificate.public_bytes(DER), "The body is DER"),
        (csr()[:-60], "what is left of one: a CSR is wanted, PEM or DER, whole"),
        (csr(encoding=DER)[:-1], "The body is DER"),
        (badly_signed(), "signature is not valid"),
        (csr(key=rsa.generate_private_key(65537, 1024)), "The key is RSA of 1024 bits"),
        (csr(key=rsa.generate_private_key(65537, 2056)), "The key is RSA of 2056 bits"),
        (csr(key=ec.generate_private_key(ec.SECP256R1())), "The key is not RSA"),
        (csr(name(*reversed(SUBJECT.items()))), "The subject is C=IT, L=Milano, OU="),
        (csr(name(*list(SUBJECT.items())[:-1])), "L=Milano: CN, O=NEXI, OU, L=Milano, C=IT is wanted, in this order"),
        (csr(name(*SUBJECT.items(), ("OU", "Cashiers"))), "C=IT, OU=Cashiers: CN,"),
        (csr(name([("CN", "APP"), ("O", "NEXI")], *list(SUBJECT.items())[2:])), "CN=APP+O=NEXI, OU="),
        (csr(changed(O="Nexi")), "O=Nexi, "),
        (csr(changed(L="Milan")), "L=Milan, "),
        (csr(changed(C="FR")), "C=FR: "),
        (csr(changed(OU="API Security - PRODUCTION")), "'API Security - STAGING' is wanted"),
        (csr(changed(CN="my-app")), "'my-app': the portal rejects special characters"),
        (csr(changed(CN="My App")), "'My App': the portal rejects special characters"),
        (csr(changed(CN="Caffè")), "'Caffè': the portal rejects special characters"),
        (csr(changed(CN="")), "'': the portal rejects special characters"),
        (csr(changed(CN="A" * 65)), "1 to 64 ASCII letters and digits"),
        (csr(usages=[]), "asked for is nothing: clientAuth"),
        (csr(usages=[SERVER]), f"asked for is {SERVER.dotted_string}: clientAuth"),
        (csr(usages=[CLIENT, SERVER]), f"{SERVER.dotted_string}: clientAuth"),
        (csr() + Issued(AUTHORITY.certificate, KEY).key_pem.encode(), "THERE IS A PRIVATE KEY IN THE BODY"),
    ],
    ids=[
        "empty",
        "text",
        "certificate",
        "certificate-in-der",
        "cut-short",
        "cut-short-in-der",
        "signature",
        "key-too-short",
        "key-too-long",
        "key-not-rsa",
        "subject-in-another-order",
        "subject-without-c",
        "subject-with-more",
        "subject-of-several-values",
        "subject-o",
        "subject-l",
        "subject-c",
        "ou-of-production",
        "cn-with-a-dash",
        "cn-with-a-blank",
        "cn-with-an-accent",
        "cn-empty",
        "cn-too-long",
        "usage-not-asked-for",
        "usage-of-a-server",
        "usage-of-both",
        "private-key",
    ],
)
def test_what_the_portal_would_not_sign_gets_a_sentence(body: bytes, said: str, url: str) -> None:
    assert_refused(ask("POST", f"{url}/csr", body), said)
    assert ask("GET", url).json()["issued"] == []


def test_the_longest_name_is_signed(url: str) -> None:
    assert ask("POST", f"{url}/csr", csr(changed(CN="A" * 64))).status_code == 200


# ---------------------------------------------------------------- what it registers


def with_comments(leaf: x509.Certificate) -> bytes:
    """As `openssl pkcs7 -print_certs` writes it, the authority first."""
    return b"".join(
        f"subject={each.subject.rfc4514_string()}\n\nissuer={each.issuer.rfc4514_string()}\n\n".encode()
        + pem(each)
        + b"\n"
        for each in (AUTHORITY.certificate, leaf)
    )


@pytest.mark.parametrize(
    "written",
    [pem, lambda leaf: pem(leaf, AUTHORITY.certificate), with_comments, lambda leaf: pem(leaf, leaf)],
    ids=["alone", "with-its-chain", "with-comments", "twice"],
)
def test_the_pem_of_what_was_issued_is_registered_and_nexi_takes_it_from_then_on(
    written: Any, url: str, nexi: Nexi
) -> None:
    leaf = issued(url)
    answer = ask("POST", f"{url}/certificates", written(leaf))
    assert answer.status_code == 200, answer.text
    (member,) = ask("GET", url).json()["registered"]
    assert member["sha256"] == sha256(leaf)
    assert answer.json() == {**member, "registered": True}
    assert status_at_nexi(nexi, leaf) == 200


def test_of_two_that_are_registered_nexi_can_remove_the_old_one(url: str, nexi: Nexi) -> None:
    old, new = issued(url), issued(url)
    for each in (old, new):
        ask("POST", f"{url}/certificates", pem(each))
    answer = ask("DELETE", f"{url}/certificates/{sha256(old)}")
    assert answer.status_code == 200
    assert [each["sha256"] for each in answer.json()["registered"]] == [sha256(new)]
    assert [status_at_nexi(nexi, each) for each in (old, new)] == [403, 200]


def test_what_is_not_registered_cannot_be_removed(url: str) -> None:
    assert ask("DELETE", f"{url}/certificates/{'0' * 64}").status_code == 404


def pkcs8(*, password: bytes | None = None, encoding: serialization.Encoding = PEM) -> bytes:
    protection = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return KEY.private_bytes(encoding, serialization.PrivateFormat.PKCS8, protection)


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (lambda leaf: pkcs7.serialize_certificates([leaf], PEM), "The body is a .p7b"),
        (lambda leaf: pkcs7.serialize_certificates([leaf], DER), "The body is DER"),
        (lambda leaf: leaf.public_bytes(DER), "The body is DER"),
        (lambda _: b"", "The body is empty"),
        (lambda _: b"the certificate is attached", "The body is neither PEM nor DER"),
        (lambda _: csr(), "The body is a CSR"),
        (lambda leaf: pem(leaf)[:-60], "cut short or garbled"),
        (lambda leaf: pem(leaf) + pkcs8(), "THERE IS A PRIVATE KEY IN THE BODY: consider it known"),
        (lambda leaf: pem(leaf) + pkcs8(password=b"1234"), "THERE IS A PRIVATE KEY IN THE BODY"),
        (lambda _: pkcs8(encoding=DER), "THERE IS A PRIVATE KEY IN THE BODY"),
        (lambda _: pkcs8(encoding=DER, password=b"1234"), "THERE IS A PRIVATE KEY IN THE BODY"),
        (lambda _: AUTHORITY.certificate_pem.encode(), "none were issued by this portal"),
        (lambda _: AUTHORITY.developer("MYAPP", key=KEY).certificate_pem.encode(), "none were issued by this portal"),
    ],
    ids=[
        "p7b",
        "p7b-in-der",
        "der",
        "empty",
        "no-certificate",
        "csr",
        "cut-short",
        "private-key",
        "private-key-encrypted",
        "private-key-in-der",
        "private-key-in-der-encrypted",
        "the-authority-alone",
        "issued-elsewhere",
    ],
)
def test_what_nexis_contact_would_not_register_gets_a_sentence(written: Any, said: str, url: str) -> None:
    assert_refused(ask("POST", f"{url}/certificates", written(issued(url))), said)
    assert ask("GET", url).json()["registered"] == []


def test_of_two_that_were_issued_it_does_not_choose(url: str) -> None:
    assert_refused(ask("POST", f"{url}/certificates", pem(issued(url), issued(url))), "2 were issued by this portal")


# ---------------------------------------------------------------- where it is


def test_the_stack_has_it_on_the_control_port_for_its_own_app(stack: LocalStack) -> None:
    told = ask("GET", f"{stack.control.url}/portal").json()
    assert stack.developer.thumbprint in [each["sha256"] for each in told["registered"]]


@pytest.mark.parametrize("headers", [{"Host": "attacker.example"}, {"Origin": "http://attacker.example"}])
def test_a_page_in_a_browser_cannot_use_it(headers: dict[str, str], url: str) -> None:
    assert ask("POST", f"{url}/csr", csr(), **headers).status_code == 403
    assert ask("GET", url).json()["issued"] == []


@pytest.mark.parametrize(
    ("method", "path"), [("PUT", "/csr"), ("GET", "/csr"), ("GET", "/elsewhere"), ("DELETE", "/certificates")]
)
def test_another_method_or_path_is_answered_as_by_the_control_port(method: str, path: str, url: str) -> None:
    answer = ask(method, url + path)
    assert answer.status_code == 400
    assert "GET /portal" in answer.text
