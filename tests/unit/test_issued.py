"""What Nexi mails back: every form that it is read in, every other that it is not, its order, and what is wrong."""

import base64
import quopri
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import pkcs7
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID, ObjectIdentifier
from hypothesis import given, settings
from hypothesis import strategies as st
from unit_support import RsaPair

from onboarding import issued, signing_request
from onboarding.deployment import CommandError
from onboarding.issued import Finding

# RSA takes a while: one key for everything that is the app's, another for what is not.
KEY, OTHER_KEY = RsaPair(signing_request.new_key()), RsaPair(signing_request.new_key())
NOW = datetime(2026, 7, 1, 12, tzinfo=UTC)
DER, PEM = serialization.Encoding.DER, serialization.Encoding.PEM
STAGING = "API Security - STAGING"


@dataclass(frozen=True)
class Signer:
    """Who issues certificates; EC, which is quick."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def root(cls, name: str) -> "Signer":
        key = ec.generate_private_key(ec.SECP256R1())
        return cls(certified(named(name), key.public_key(), named(name), key), key)

    def below(self, name: str) -> "Signer":
        key = ec.generate_private_key(ec.SECP256R1())
        return Signer(certified(named(name), key.public_key(), self.certificate.subject, self.key), key)

    def developer(
        self,
        unit: str | None = STAGING,
        *,
        key: RsaPair = KEY,
        usages: tuple[ObjectIdentifier, ...] | None = (ExtendedKeyUsageOID.CLIENT_AUTH,),
        begin: datetime = NOW - timedelta(days=1),
        end: datetime = NOW + timedelta(days=365),
    ) -> x509.Certificate:
        subject = named("NOMEAPP", unit)
        return certified(subject, key.public, self.certificate.subject, self.key, begin=begin, end=end, usages=usages)


def named(name: str, unit: str | None = None) -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name)]
    if unit is not None:
        attributes.append(x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, unit))
    return x509.Name(attributes)


def certified(
    subject: x509.Name,
    public_key: ec.EllipticCurvePublicKey | rsa.RSAPublicKey,
    issuer: x509.Name,
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey,
    *,
    begin: datetime = NOW - timedelta(days=30),
    end: datetime = NOW + timedelta(days=3650),
    usages: tuple[ObjectIdentifier, ...] | None = None,
) -> x509.Certificate:
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(begin)
        .not_valid_after(end)
    )
    if usages is not None:
        builder = builder.add_extension(x509.ExtendedKeyUsage(usages), critical=False)
    return builder.sign(key, hashes.SHA256())


ROOT = Signer.root("Nexi Root CA")
INTERMEDIATE = ROOT.below("Nexi B2B CA")
LEAF = INTERMEDIATE.developer()
CHAIN = [LEAF, INTERMEDIATE.certificate, ROOT.certificate]
STRANGERS = [Signer.root("Somebody's CA").certificate, INTERMEDIATE.developer(key=OTHER_KEY)]

# In no order of use, as a PKCS#7 has them.
SENT = [ROOT.certificate, LEAF, INTERMEDIATE.certificate]
P7B_DER = pkcs7.serialize_certificates(SENT, DER)
P7B = pkcs7.serialize_certificates(SENT, PEM).decode()
P7B_BODY = "".join(P7B.splitlines(keepends=True)[1:-1])

# openssl crl2pkcs7 -nocrl
P7B_OF_NOTHING = "-----BEGIN PKCS7-----\nMCMGCSqGSIb3DQEHAqAWMBQCAQExADALBgkqhkiG9w0BBwExAA==\n-----END PKCS7-----\n"


def before_each_line(prefix: str, text: str = P7B) -> str:
    return "".join(f"{prefix}{line}" for line in text.splitlines(keepends=True))


def mail(text: str, encoding: str = "7bit", subtype: str = "plain", charset: str = "utf-8") -> EmailMessage:
    message = EmailMessage()
    message["Subject"] = "Certificato NOMEAPP"
    message["From"] = "API Security <api@nexi.example>"
    message.set_content(f"Gentile sviluppatore,\n\n{text}\nSaluti\n", subtype=subtype, charset=charset, cte=encoding)
    return message


def attached(content: bytes, to: EmailMessage | None = None) -> EmailMessage:
    message = to or mail("il certificato è allegato", "8bit")
    message.add_attachment(content, maintype="application", subtype="x-pkcs7-certificates", filename="NOMEAPP.p7b")
    return message


def forwarded(message: EmailMessage) -> EmailMessage:
    outer = mail("inoltro")
    outer.add_attachment(message)
    return outer


def with_comments(certificates: list[x509.Certificate]) -> str:
    """As `openssl pkcs7 -print_certs` writes them."""
    return "".join(
        f"subject={each.subject.rfc4514_string()}\n\nissuer={each.issuer.rfc4514_string()}\n\n{issued.pem([each])}\n"
        for each in certificates
    )


def in_ber(der: bytes) -> bytes:
    """The same with lengths that are not said beforehand, as authorities that stream write it."""
    identifier, content = der[4:15], der[19:]
    assert der[:2] == b"\x30\x82"
    assert der[15:17] == b"\xa0\x82"
    return b"\x30\x80" + identifier + b"\xa0\x80" + content + b"\0\0\0\0"


def in_ber_pem() -> bytes:
    body = base64.encodebytes(in_ber(P7B_DER)).decode()
    return f"Gentile sviluppatore,\n\n-----BEGIN PKCS7-----\n{body}-----END PKCS7-----\nSaluti\n".encode()


# Longer than quoted-printable's lines, which end in the middle then.
P7B_ON_ONE_LINE = f"è qui:\n{P7B_BODY.replace(chr(10), '')}\nSaluti\n".encode()


class TestWhatIsRead:
    @pytest.mark.parametrize(
        "data",
        [
            pytest.param(P7B.encode(), id="p7b-pem"),
            pytest.param(P7B_DER, id="p7b-der"),
            pytest.param(in_ber(P7B_DER), id="p7b-ber"),
            pytest.param(in_ber_pem(), id="p7b-ber-pem"),
            pytest.param(P7B_DER + b"\r\n", id="p7b-der-that-an-editor-saved"),
            pytest.param(P7B.replace("PKCS7", "PKCS #7 SIGNED DATA").encode(), id="label-of-old-tools"),
            pytest.param(P7B.replace("PKCS7", "CMS").encode(), id="label-of-cms"),
            pytest.param(P7B.replace("\n", "\r\n").encode(), id="crlf"),
            pytest.param(P7B.replace("\n", " ").encode(), id="all-on-one-line"),
            pytest.param(P7B.replace("\n", "\n\n").encode(), id="blank-lines-between"),
            pytest.param(P7B.encode("utf-16"), id="utf-16-as-notepad-saves-unicode"),
            pytest.param(P7B.encode("utf-16-be").join([b"\xfe\xff", b""]), id="utf-16-big-endian"),
            pytest.param(P7B.encode("utf-8-sig"), id="utf-8-with-a-mark"),
            pytest.param(before_each_line("> ").encode(), id="quoted"),
            pytest.param(before_each_line(">> ").encode(), id="quoted-twice"),
            pytest.param(before_each_line("> > ").encode(), id="quoted-twice-with-blanks"),
            pytest.param(before_each_line("    ").encode(), id="indented"),
            pytest.param(before_each_line("\t").encode(), id="indented-by-tabs"),
            pytest.param(before_each_line("\u00a0").encode(), id="non-breaking-spaces"),
            pytest.param(before_each_line("\u00a0").encode("cp1252"), id="non-breaking-spaces-of-windows"),
            pytest.param(P7B.replace("N PKCS7", "N\u00a0PKCS7").encode(), id="a-non-breaking-space-in-the-label"),
            pytest.param(P7B.replace("D PKCS7", "D  PKCS7").encode(), id="two-blanks-in-a-label"),
            pytest.param(P7B.replace("-----", "\u2013" * 5).encode(), id="en-dashes"),
            pytest.param(P7B.replace("-----", "\u2013" * 5).encode("cp1252"), id="en-dashes-of-windows"),
            pytest.param(P7B.replace("-----", "\u2014\u2014-").encode(), id="em-dashes"),
            pytest.param(P7B.replace("-----", "----- ").encode(), id="blanks-beside-the-dashes"),
            pytest.param(f"Gentile sviluppatore,\n\n{P7B}\nSaluti\n-----\nNexi\n".encode(), id="text-around-it"),
            pytest.param(f"è qui:\n{P7B}\nSaluti\n".encode("cp1252"), id="text-that-is-no-utf-8"),
            pytest.param(f"1 < 2\n> {before_each_line('> ')}".encode(), id="text-that-looks-like-a-tag"),
            pytest.param(f"<see below\n{P7B}and that is all>\n".encode(), id="text-that-is-almost-a-tag"),
            pytest.param(quopri.encodestring(P7B_ON_ONE_LINE), id="quoted-printable"),
            pytest.param(P7B_BODY.encode(), id="bare-base64"),
            pytest.param(base64.b64encode(P7B_DER), id="bare-base64-on-one-line"),
            pytest.param(
                f"Gentile sviluppatore,\n\n{P7B_BODY}\nSaluti\n".encode(), id="bare-base64-with-text-around-it"
            ),
            pytest.param(f"<pre>\n{P7B}</pre>".encode(), id="html-preformatted"),
            pytest.param(f"<p>{P7B.replace(chr(10), '<br>')}</p>".encode(), id="html-with-breaks"),
            pytest.param(f"<p>{P7B.replace('+', '&#43;')}</p>".encode(), id="html-with-entities"),
            pytest.param(mail(P7B).as_bytes(), id="eml"),
            pytest.param(mail(P7B).as_bytes().replace(b"\n", b"\r\n"), id="eml-crlf"),
            pytest.param(mail(P7B, "base64").as_bytes(), id="eml-base64"),
            pytest.param(mail(P7B, "quoted-printable").as_bytes(), id="eml-quoted-printable"),
            pytest.param(mail(P7B, "base64", charset="utf-16").as_bytes(), id="eml-utf-16"),
            pytest.param(mail(before_each_line("> "), "base64").as_bytes(), id="eml-quoted-base64"),
            pytest.param(
                mail(P7B.replace("\n", "<br>\n"), "quoted-printable", "html").as_bytes(), id="eml-of-html-alone"
            ),
            pytest.param(attached(P7B_DER).as_bytes(), id="eml-with-a-der-attachment"),
            pytest.param(attached(P7B.encode()).as_bytes(), id="eml-with-a-pem-attachment"),
            pytest.param(forwarded(attached(P7B_DER)).as_bytes(), id="eml-forwarded-as-an-attachment"),
            pytest.param(issued.pem(SENT).encode(), id="pem"),
            pytest.param(with_comments(SENT).encode(), id="pem-with-comments"),
            pytest.param(with_comments(SENT).encode("utf-16"), id="pem-utf-16"),
            pytest.param(issued.pem(SENT).replace("CERTIFICATE", "X509 CERTIFICATE").encode(), id="pem-of-old-tools"),
            pytest.param(issued.pem([*SENT, *SENT]).encode(), id="pem-with-duplicates"),
            pytest.param(f"{P7B}{issued.pem(SENT)}".encode(), id="p7b-and-pem"),
            pytest.param(f"{KEY.private_pem}{P7B}".encode(), id="with-the-key-before-it"),
        ],
    )
    def test_each_certificate_once_in_the_files_order(self, data: bytes) -> None:
        found = issued.read(data)
        assert sorted(map(issued.sha256, found)) == sorted(map(issued.sha256, SENT))

    def test_the_order_is_the_files(self) -> None:
        assert issued.read(issued.pem(SENT).encode()) == SENT

    def test_one_certificate_alone_in_der(self) -> None:
        assert issued.read(LEAF.public_bytes(DER)) == [LEAF]
        assert issued.read(LEAF.public_bytes(DER) + b"\n") == [LEAF], "as an editor saves it"

    @settings(max_examples=40)
    @given(
        before=st.text(max_size=60),
        after=st.text(max_size=60),
        prefix=st.text(alphabet="> \t\u00a0", max_size=4),
        suffix=st.text(alphabet=" \t\u00a0\r", max_size=3),
        order=st.permutations(SENT),
    )
    def test_whatever_a_mail_has_around_it(
        self, before: str, after: str, prefix: str, suffix: str, order: list[x509.Certificate]
    ) -> None:
        lines = [f"{prefix}{line}{suffix}\n" for line in issued.pem(order).splitlines()]
        text = f"{before}\n{''.join(lines)}\n{after}".encode("utf-8", "surrogatepass")
        assert issued.read(text) == order


class TestWhatIsRefused:
    @pytest.mark.parametrize(
        ("data", "found"),
        [
            pytest.param(b"", "it is empty", id="empty"),
            pytest.param(b" \r\n\r\n", "it is empty", id="blank"),
            pytest.param(KEY.private_pem.encode(), "it is a private key", id="private-key"),
            pytest.param(KEY.private_pem.encode("utf-16"), "it is a private key", id="private-key-utf-16"),
            pytest.param(
                signing_request.pem(signing_request.build("NOMEAPP", STAGING, KEY.private)).encode(),
                "it is the request that goes to the portal",
                id="request",
            ),
            pytest.param(
                b"<!DOCTYPE html>\n<HTML><body>Please sign in</body></html>", "it is a web page", id="web-page"
            ),
            pytest.param(P7B[: len(P7B) // 2].encode(), "the PKCS7 block is cut short", id="p7b-cut-short"),
            pytest.param(
                P7B.replace("PKCS7", "PKCS #7 SIGNED DATA")[:300].encode(),
                "the PKCS7 block is cut short",
                id="p7b-of-old-tools-cut-short",
            ),
            pytest.param(
                P7B.replace(P7B_BODY[:64], "").encode(), "the PKCS7 block is cut short", id="p7b-without-a-line"
            ),
            pytest.param(P7B_BODY[:640].encode(), "it has no BEGIN line", id="bare-base64-cut-short"),
            pytest.param(issued.pem([LEAF])[:400].encode(), "the certificate block is cut short", id="pem-cut-short"),
            pytest.param(
                issued.pem([LEAF]).replace("\nMII", "\nMIJ").encode(),
                "the certificate block is cut short",
                id="pem-garbled",
            ),
            pytest.param(P7B_DER[:-40], "it has no BEGIN line", id="der-cut-short"),
            pytest.param(b"PK\x03\x04" + bytes(range(256)), "it has no BEGIN line", id="archive"),
            pytest.param(b"Gentile sviluppatore,\n\nsaluti\n", "it has no BEGIN line", id="mail-without-it"),
            pytest.param(P7B_OF_NOTHING.encode(), "the PKCS7 block is cut short", id="p7b-of-nothing"),
        ],
    )
    def test_is_told_by_what_it_looks_like(self, data: bytes, found: str) -> None:
        with pytest.raises(CommandError, match=f"there is no certificate in the file: {found}") as caught:
            issued.read(data)
        assert "p7b" in caught.value.remedy
        assert KEY.private_pem.splitlines()[1] not in f"{caught.value} {caught.value.remedy}"

    def test_a_file_that_is_no_mail(self) -> None:
        at_most = P7B.encode().ljust(issued.MAX_BYTES)
        assert issued.read(at_most)
        with pytest.raises(CommandError, match=f"the file has {issued.MAX_BYTES + 1} bytes"):
            issued.read(at_most + b" ")


class TestTheChain:
    @pytest.mark.parametrize("strangers", [[], STRANGERS], ids=["alone", "among-strangers"])
    @settings(max_examples=20)
    @given(data=st.data())
    def test_begins_with_the_keys_and_ends_with_the_root(
        self, strangers: list[x509.Certificate], data: st.DataObject
    ) -> None:
        assert issued.chain(data.draw(st.permutations([*CHAIN, *strangers])), [KEY.public]) == CHAIN

    @pytest.mark.parametrize(
        ("given", "ordered"),
        [
            pytest.param([INTERMEDIATE.certificate, LEAF], CHAIN[:2], id="root-missing"),
            pytest.param([ROOT.certificate, LEAF], [LEAF], id="intermediate-missing"),
            pytest.param([LEAF], [LEAF], id="leaf-alone"),
        ],
    )
    def test_ends_where_the_next_is_missing(
        self, given: list[x509.Certificate], ordered: list[x509.Certificate]
    ) -> None:
        assert issued.chain(given, [KEY.public]) == ordered

    def test_begins_with_the_latest_of_a_key_that_stayed(self) -> None:
        renewed = INTERMEDIATE.developer(begin=NOW, end=NOW + timedelta(days=500))
        assert issued.chain([LEAF, renewed], [KEY.public]) == [renewed]
        assert issued.chain([renewed, LEAF], [KEY.public]) == [renewed]

    def test_begins_with_any_of_several_keys(self) -> None:
        assert issued.chain(CHAIN, [OTHER_KEY.public, KEY.public]) == CHAIN

    def test_is_found_by_signatures_and_not_by_names(self) -> None:
        namesake = Signer.root("Nexi Root CA").below("Nexi B2B CA").certificate
        assert issued.chain([namesake, *CHAIN], [KEY.public]) == CHAIN

    def test_ends_although_authorities_certify_each_other(self) -> None:
        one, other = Signer.root("one"), Signer.root("other")
        crossed = [
            certified(each.certificate.subject, each.key.public_key(), by.certificate.subject, by.key)
            for each, by in ((one, other), (other, one))
        ]
        leaf = one.developer()
        assert issued.chain([leaf, *crossed], [KEY.public]) == [leaf, *crossed]

    def test_needs_one_that_is_the_keys(self) -> None:
        with pytest.raises(CommandError, match="none of the certificates is the pending key's") as caught:
            issued.chain([ROOT.certificate, *STRANGERS], [KEY.public])
        assert "CN=Nexi Root CA; " in str(caught.value)
        assert "softpos certificate show" in caught.value.remedy

    def test_has_no_place_for_a_key_that_cannot_be_read(self) -> None:
        """prime239v1, which OpenSSL knows and cryptography does not."""
        odd = x509.load_der_x509_certificate(base64.b64decode(ODD_CURVE))
        assert issued.chain([odd, *CHAIN], [KEY.public]) == CHAIN
        below = certified(named("NOMEAPP", STAGING), KEY.public, odd.subject, ROOT.key)
        assert issued.chain([odd, below], [KEY.public]) == [below]


ODD_CURVE = """
MIIBbDCCARegAwIBAgIUF1OYR7VLN9I9XmBvYKf6IcGB068wCgYIKoZIzj0EAwIw
EDEOMAwGA1UEAwwFd2VpcmQwHhcNMjYxMTI0MTAxODA3WhcNMzYxMTIxMTAxODA3
WjAQMQ4wDAYDVQQDDAV3ZWlyZDBVMBMGByqGSM49AgEGCCqGSM49AwEEAz4ABGEX
gJl2T0Av9jK/qa2d/cy/iSJjiYEjEcVCWb3c7BMkD2qVgHgH/PHzP03oTw2iA9fc
g1w0wWdCo4gue6NTMFEwHQYDVR0OBBYEFOKWvpb4W0fjLq91EZFQJgjfq+vlMB8G
A1UdIwQYMBaAFOKWvpb4W0fjLq91EZFQJgjfq+vlMA8GA1UdEwEB/wQFMAMBAf8w
CgYIKoZIzj0EAwIDQwAwQAIeWFUq5JC4w7f2CuQ9YZoqXLjD2MjKJ6x9JbeMOA0I
Ah5B1dW6HZhI6wzZDNZE2NOglOFjUNzmZnfaKPQZa4E=
"""


def found_in(*ordered: x509.Certificate, stage: str = "staging") -> list[Finding]:
    assert stage in ("staging", "production")
    return issued.findings(list(ordered), "production" if stage == "production" else "staging", NOW)


def whole(leaf: x509.Certificate) -> list[x509.Certificate]:
    return [leaf, INTERMEDIATE.certificate, ROOT.certificate]


DAY = timedelta(days=1)


class TestFindings:
    def test_there_are_none_in_what_is_right(self) -> None:
        assert found_in(*CHAIN) == []
        assert found_in(*whole(INTERMEDIATE.developer("API Security - PRODUCTION")), stage="production") == []

    @pytest.mark.parametrize(
        ("ordered", "check", "fatal", "found"),
        [
            pytest.param(
                whole(INTERMEDIATE.developer(usages=None)),
                "clientAuth",
                True,
                "extendedKeyUsage names nothing",
                id="no-extended-key-usage",
            ),
            pytest.param(
                whole(INTERMEDIATE.developer(usages=(ExtendedKeyUsageOID.SERVER_AUTH,))),
                "clientAuth",
                True,
                "extendedKeyUsage names serverAuth",
                id="server-auth-only",
            ),
            pytest.param(
                whole(INTERMEDIATE.developer(begin=NOW + timedelta(seconds=1))),
                "validity",
                True,
                "valid from 2026-07-01 12:00 to 2027-07-01 12:00 UTC",
                id="not-yet-valid",
            ),
            pytest.param(
                whole(INTERMEDIATE.developer(end=NOW)),
                "validity",
                True,
                "valid from 2026-06-30 12:00 to 2026-07-01 12:00 UTC",
                id="expired",
            ),
            pytest.param(
                whole(INTERMEDIATE.developer(end=NOW + 29 * DAY)),
                "validity",
                False,
                "29 days are left",
                id="29-days-left",
            ),
            pytest.param(
                [
                    certified(
                        named("NOMEAPP", STAGING),
                        KEY.public,
                        named("NOMEAPP", STAGING),
                        KEY.private,
                        usages=(ExtendedKeyUsageOID.CLIENT_AUTH,),
                    )
                ],
                "issuer",
                True,
                "signed by itself",
                id="self-signed",
            ),
            pytest.param([LEAF], "issuer", False, "issuer is not with it (CN=Nexi B2B CA)", id="issuer-missing"),
            pytest.param(CHAIN[:2], "issuer", False, "the chain ends at CN=Nexi B2B CA", id="root-missing"),
            pytest.param(
                whole(INTERMEDIATE.developer("API Security - PRODUCTION")),
                "stage",
                True,
                "OU is 'API Security - PRODUCTION'",
                id="another-stages",
            ),
            pytest.param(
                whole(INTERMEDIATE.developer("API Security")),
                "stage",
                False,
                "which names no environment",
                id="a-unit-without-a-stage",
            ),
            pytest.param(
                whole(INTERMEDIATE.developer(None)), "stage", False, "which names no environment", id="no-unit"
            ),
        ],
    )
    def test_one_for_each_rule(self, ordered: list[x509.Certificate], check: str, fatal: bool, found: str) -> None:
        (finding,) = found_in(*ordered)
        assert (finding.check, finding.fatal) == (check, fatal)
        assert found in finding.found
        assert finding.wanted
        assert finding.remedy

    @pytest.mark.parametrize(
        "leaf",
        [
            pytest.param(
                INTERMEDIATE.developer(usages=(ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)),
                id="both-usages",
            ),
            pytest.param(INTERMEDIATE.developer(end=NOW + 31 * DAY), id="31-days-left"),
            pytest.param(INTERMEDIATE.developer(begin=NOW), id="valid-from-now-on"),
            pytest.param(INTERMEDIATE.developer("api security - staging"), id="unit-in-small-letters"),
        ],
    )
    def test_none_for_what_is_allowed(self, leaf: x509.Certificate) -> None:
        assert found_in(*whole(leaf)) == []

    def test_one_for_the_other_stage(self) -> None:
        (finding,) = found_in(*CHAIN, stage="production")
        assert (finding.check, finding.fatal, finding.wanted) == ("stage", True, "a certificate for production")

    def test_as_many_as_there_are(self) -> None:
        leaf = INTERMEDIATE.developer("API Security - PRODUCTION", usages=None, end=NOW)
        assert [each.check for each in found_in(leaf)] == ["clientAuth", "validity", "issuer", "stage"]


@pytest.mark.parametrize(
    ("until", "days"),
    [
        pytest.param(29 * DAY, 29, id="to-the-second"),
        pytest.param(30 * DAY - timedelta(seconds=1), 29, id="a-day-that-is-not-whole"),
        pytest.param(timedelta(0), 0, id="now"),
        pytest.param(timedelta(hours=-1), -1, id="over"),
    ],
)
def test_days_left_are_whole_days(until: timedelta, days: int) -> None:
    assert issued.days_left(INTERMEDIATE.developer(end=NOW + until), NOW) == days


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        pytest.param(named("NOMEAPP"), "NOMEAPP", id="as-it-was-requested"),
        pytest.param(named("../Nome App"), "NomeApp", id="without-what-a-path-has"),
        pytest.param(named("è/"), "certificate", id="nothing-of-use"),
        pytest.param(x509.Name([]), "certificate", id="no-name"),
    ],
)
def test_a_file_is_named_after_the_app(subject: x509.Name, name: str) -> None:
    assert issued.app_name(certified(subject, KEY.public, named("CA"), ROOT.key)) == name


def test_the_pem_is_what_openssl_makes_of_it() -> None:
    text = issued.pem(CHAIN)
    assert x509.load_pem_x509_certificates(text.encode()) == CHAIN
    assert text.count("-----BEGIN CERTIFICATE-----\n") == len(CHAIN)
