"""The two secrets: what makes them malformed, one row for each rule, and how long they are held."""

import json
import traceback
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import boto3
import pytest
from botocore.exceptions import EndpointConnectionError, NoCredentialsError
from botocore.stub import Stubber
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.serialization import pkcs7
from unit_support import Clock, RsaPair

from sandbox.authority import Authority, Issued
from softpos.credentials import (
    MAX_AGE_SECONDS,
    MIN_AGE_SECONDS,
    RETRY_SECONDS,
    SCOPES,
    Application,
    Certificate,
    Credentials,
    CredentialStore,
    SecretMissingError,
    parse_application,
    parse_certificate,
    parse_pending_certificate,
    read_secret,
)
from softpos.errors import BackendUnavailableError, MisconfiguredError, SoftposError

CLIENT_SECRET = "s3cr3t-of-the-app"
APPLICATION = {
    "client_id": "app-id",
    "client_secret": CLIENT_SECRET,
    "redirect_uri": "https://merchant.example/softpos",
    "scope": "openid oidc",
}


def shown(error: SoftposError) -> str:
    """All that a log could show of an error: its text, its remedy, and the chain underneath with every text in it."""
    return "".join(traceback.format_exception(error)) + error.remedy


def assert_tells_nothing_of(error: SoftposError, secret: str, *, window: int = 12) -> None:
    """No run of `window` characters of what was stored may be seen. The lines that PEM has anyway do not count."""
    text = shown(error)
    for line in secret.replace("\\n", "\n").splitlines():
        if "-----" not in line:
            for start in range(max(1, len(line) - window + 1)):
                assert not line or line[start : start + window] not in text


class TestTheApplicationSecret:
    def test_it_is_read_member_by_member(self) -> None:
        assert parse_application(json.dumps(APPLICATION)) == Application(
            client_id="app-id",
            client_secret=CLIENT_SECRET,
            redirect_uri="https://merchant.example/softpos",
            scope="openid oidc",
        )

    @pytest.mark.parametrize(
        ("scope", "read"),
        [
            pytest.param({}, "oidc", id="absent-is-oidc"),
            pytest.param({"scope": None}, "oidc", id="null-is-oidc"),
            pytest.param({"scope": ""}, "oidc", id="empty-is-oidc"),
            *(pytest.param({"scope": each}, each, id=f"one-{each}") for each in sorted(SCOPES)),
            pytest.param({"scope": "openid oidc email"}, "openid oidc email", id="several-in-their-order"),
            pytest.param({"scope": "  openid\n oidc "}, "openid oidc", id="blanks-become-single-spaces"),
        ],
    )
    def test_scope_is_optional_and_out_of_the_list(self, scope: dict[str, Any], read: str) -> None:
        members = {name: value for name, value in APPLICATION.items() if name != "scope"}
        assert parse_application(json.dumps({**members, **scope})).scope == read

    @pytest.mark.parametrize(
        "scope",
        [
            pytest.param("openid offline_access", id="one-outside-the-list"),
            pytest.param("OIDC", id="in-capitals"),
            pytest.param("openid,oidc", id="separated-by-commas"),
            pytest.param("  ", id="blank"),
            pytest.param(["oidc"], id="a-list"),
            pytest.param(7, id="a-number"),
            pytest.param({"oidc": True}, id="an-object"),
        ],
    )
    def test_a_scope_that_nexi_does_not_offer_is_refused(self, scope: Any) -> None:
        with pytest.raises(MisconfiguredError, match="scope holds something that Nexi does not offer") as caught:
            parse_application(json.dumps({**APPLICATION, "scope": scope}))
        assert "oidc" in caught.value.remedy

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            pytest.param([], "missing", id="missing"),
            pytest.param([""], "empty", id="empty"),
            pytest.param([" \n"], "not a non-empty string", id="blank"),
            pytest.param([7], "not a non-empty string", id="a-number"),
            pytest.param([None], "not a non-empty string", id="null"),
            pytest.param([["x"]], "not a non-empty string", id="a-list"),
        ],
    )
    @pytest.mark.parametrize("name", ["client_id", "client_secret", "redirect_uri"])
    def test_a_member_that_is_no_text_is_named(self, name: str, value: list[Any], found: str) -> None:
        members: dict[str, Any] = {each: text for each, text in APPLICATION.items() if each != name}
        if value:
            members[name] = value[0]
        with pytest.raises(MisconfiguredError, match=f"^application secret: {name} is {found}$") as caught:
            parse_application(json.dumps(members))
        assert name in caught.value.remedy
        assert_tells_nothing_of(caught.value, CLIENT_SECRET)

    def test_the_line_break_that_an_editor_left_is_not_part_of_a_member(self) -> None:
        members = {name: f"{value}\n" for name, value in APPLICATION.items()}
        assert parse_application(json.dumps(members)) == parse_application(json.dumps(APPLICATION))


MALFORMED_JSON = [
    pytest.param("", "not JSON", id="empty"),
    pytest.param(f"client_secret={CLIENT_SECRET}", "not JSON", id="not-json"),
    pytest.param(f'{{"client_secret": "{CLIENT_SECRET}"', "not JSON", id="cut-short"),
    pytest.param(f"{{'client_secret': '{CLIENT_SECRET}'}}", "not JSON", id="single-quotes"),
    pytest.param("[" * 100_000, "not JSON", id="nested-too-deeply"),
    pytest.param(f'["{CLIENT_SECRET}"]', "JSON, but not an object", id="an-array"),
    pytest.param(f'"{CLIENT_SECRET}"', "JSON, but not an object", id="a-string"),
    pytest.param("null", "JSON, but not an object", id="null"),
]


@pytest.mark.parametrize(("secret", "found"), MALFORMED_JSON)
@pytest.mark.parametrize("parse", [parse_application, parse_certificate])
def test_a_secret_that_is_no_json_object_is_refused(parse: Callable[[str], Any], secret: str, found: str) -> None:
    with pytest.raises(MisconfiguredError, match=found) as caught:
        parse(secret)
    assert_tells_nothing_of(caught.value, CLIENT_SECRET)


def escaped(pem: str) -> str:
    return pem.replace("\n", "\\n")


FORMS = [
    pytest.param(serialization.PrivateFormat.PKCS8, id="pkcs8"),
    pytest.param(serialization.PrivateFormat.TraditionalOpenSSL, id="pkcs1"),
]


class TestTheCertificateSecret:
    def test_the_leaf_is_what_it_shows(self, certificate: Certificate, developer: Issued) -> None:
        assert certificate.thumbprint == developer.thumbprint
        assert certificate.subject == developer.certificate.subject.rfc4514_string()
        assert certificate.not_after == developer.certificate.not_valid_after_utc
        assert certificate.private_key.private_numbers() == developer.key.private_numbers()

    def test_its_key_comes_out_as_it_went_in(self, certificate: Certificate, developer: Issued) -> None:
        assert certificate.key_pem.decode() == developer.key_pem

    @pytest.mark.parametrize("order", [(0, 1), (1, 0), (0, 0, 1), (1, 0, 1)])
    def test_the_leaf_goes_first_wherever_it_stood(
        self, developer: Issued, authority: Authority, order: tuple[int, ...]
    ) -> None:
        """`openssl pkcs7 -print_certs` keeps the order of Nexi's .p7b, which is any."""
        both = [developer.certificate_pem, authority.certificate_pem]
        pem = "".join(both[each] for each in order)
        chain = parse_certificate(json.dumps({"certificate": pem, "private_key": developer.key_pem})).chain_pem
        leaf, *others = x509.load_pem_x509_certificates(chain)
        assert leaf == developer.certificate
        assert set(others) == {authority.certificate}

    def test_a_leaf_without_its_chain_will_do(self, developer: Issued) -> None:
        secret = json.dumps({"certificate": developer.certificate_pem, "private_key": developer.key_pem})
        assert parse_certificate(secret).chain_pem.decode() == developer.certificate_pem

    def test_what_openssl_prints_around_a_certificate_does_no_harm(self, developer: Issued) -> None:
        pem = f"subject=CN = UNIT TESTS\nissuer=CN = CA\n{developer.certificate_pem}\n"
        secret = json.dumps({"certificate": pem, "private_key": developer.key_pem})
        assert parse_certificate(secret).thumbprint == developer.thumbprint

    def test_line_breaks_that_became_spaces_are_mended(self, certificate: Certificate, developer: Issued) -> None:
        """A form that takes one line does that to a PEM, and nothing is lost by it."""
        members = {"certificate": developer.certificate_pem, "private_key": developer.key_pem}
        read = parse_certificate(json.dumps({name: pem.replace("\n", " ") for name, pem in members.items()}))
        assert read.chain_pem.decode() == developer.certificate_pem
        assert read.key_pem == certificate.key_pem

    @pytest.mark.parametrize("form", FORMS)
    def test_both_forms_of_an_rsa_key_are_read(self, developer: Issued, form: serialization.PrivateFormat) -> None:
        key = developer.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
        secret = json.dumps({"certificate": developer.certificate_pem, "private_key": key.decode()})
        assert parse_certificate(secret).key_pem.decode() == developer.key_pem

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            pytest.param([], "missing", id="missing"),
            pytest.param([""], "empty", id="empty"),
            pytest.param(["\n"], "not a non-empty string", id="blank"),
            pytest.param([["x"]], "not a non-empty string", id="a-list"),
        ],
    )
    @pytest.mark.parametrize("name", ["certificate", "private_key"])
    def test_a_member_that_is_no_text_is_named(
        self, developer: Issued, name: str, value: list[Any], found: str
    ) -> None:
        members: dict[str, Any] = {"certificate": developer.certificate_pem, "private_key": developer.key_pem}
        del members[name]
        if value:
            members[name] = value[0]
        with pytest.raises(MisconfiguredError, match=f"^certificate secret: {name} is {found}$") as caught:
            parse_certificate(json.dumps(members))
        assert_tells_nothing_of(caught.value, developer.key_pem)

    @pytest.mark.parametrize(
        ("damaged", "found"),
        [
            pytest.param(lambda issued: escaped(issued.certificate_pem), "holds backslash-n", id="backslash-n"),
            pytest.param(
                lambda issued: pkcs7.serialize_certificates([issued.certificate], serialization.Encoding.PEM).decode(),
                "a .p7b, not yet converted",
                id="p7b",
            ),
            pytest.param(
                lambda issued: issued.certificate_pem[:400], "certificate block, cut short or garbled", id="cut-short"
            ),
            pytest.param(
                lambda issued: issued.certificate_pem.replace("M", "-", 1),
                "certificate block, cut short or garbled",
                id="garbled",
            ),
            pytest.param(
                lambda issued: "".join(issued.certificate_pem.splitlines()[1:-1]), "no BEGIN line", id="without-armor"
            ),
            pytest.param(lambda _: "the certificate", "no BEGIN line", id="not-pem"),
            pytest.param(lambda _: "\ud800", "is not PEM", id="not-even-text"),
            pytest.param(lambda issued: issued.key_pem, "is not PEM", id="the-key-in-its-place"),
        ],
    )
    def test_a_certificate_that_is_none_is_refused(
        self, developer: Issued, damaged: Callable[[Issued], str], found: str
    ) -> None:
        members = {"certificate": damaged(developer), "private_key": developer.key_pem}
        with pytest.raises(MisconfiguredError, match=r"^certificate secret: certificate is not PEM") as caught:
            parse_certificate(json.dumps(members))
        assert found in str(caught.value)
        assert "openssl pkcs7 -print_certs" in caught.value.remedy
        assert_tells_nothing_of(caught.value, developer.key_pem)

    @pytest.mark.parametrize(
        ("damaged", "found"),
        [
            pytest.param(escaped, "holds backslash-n", id="backslash-n"),
            pytest.param(lambda pem: pem[:800], "private key block, cut short or garbled", id="cut-short"),
            pytest.param(
                lambda pem: pem[:200] + "!" + pem[201:], "private key block, cut short or garbled", id="garbled"
            ),
            pytest.param(
                lambda pem: pem.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY"),
                "private key block, cut short or garbled",
                id="labelled-encrypted-and-is-not",
            ),
            pytest.param(lambda pem: "".join(pem.splitlines()[1:-1]), "no BEGIN line", id="without-armor"),
            pytest.param(lambda pem: pem[:300] + "\ud800", "cut short or garbled", id="not-even-text"),
        ],
    )
    def test_a_key_that_is_none_is_refused_without_showing_it(
        self, developer: Issued, damaged: Callable[[str], str], found: str
    ) -> None:
        members = {"certificate": developer.certificate_pem, "private_key": damaged(developer.key_pem)}
        with pytest.raises(MisconfiguredError, match="private_key is no private key in PEM") as caught:
            parse_certificate(json.dumps(members))
        assert found in str(caught.value)
        assert_tells_nothing_of(caught.value, developer.key_pem)

    @pytest.mark.parametrize("wrong", ["d", "dmp1", "dmq1", "iqmp"])
    def test_a_key_whose_numbers_do_not_fit_is_found_when_it_is_proved(self, developer: Issued, wrong: str) -> None:
        secret = with_numbers(developer, wrong)
        with pytest.raises(MisconfiguredError, match="private_key is no private key in PEM") as caught:
            parse_certificate(secret)
        assert_tells_nothing_of(caught.value, json.loads(secret)["private_key"])
        # OpenSSL looks at what it has signed, and goes the long way if need be.
        unproved = parse_certificate(secret, prove_key=False).private_key
        signature = unproved.sign(b"signing input", PKCS1v15(), hashes.SHA256())
        developer.certificate.public_key().verify(signature, b"signing input", PKCS1v15(), hashes.SHA256())  # type: ignore[union-attr,call-arg]  # an RSA key

    def test_a_key_that_signs_wrongly_is_found_although_it_is_not_proved(self, developer: Issued) -> None:
        with pytest.raises(MisconfiguredError, match="private_key is no private key in PEM") as caught:
            parse_certificate(with_numbers(developer, "d", "dmp1"), prove_key=False)
        assert_tells_nothing_of(caught.value, developer.key_pem)

    @pytest.mark.parametrize(
        "form", [serialization.PrivateFormat.PKCS8, serialization.PrivateFormat.TraditionalOpenSSL]
    )
    def test_an_encrypted_key_is_refused(self, developer: Issued, form: serialization.PrivateFormat) -> None:
        encrypted = developer.key.private_bytes(
            serialization.Encoding.PEM, form, serialization.BestAvailableEncryption(b"passphrase")
        ).decode()
        members = {"certificate": developer.certificate_pem, "private_key": encrypted}
        with pytest.raises(MisconfiguredError, match="private_key is encrypted with a passphrase") as caught:
            parse_certificate(json.dumps(members))
        assert_tells_nothing_of(caught.value, encrypted)

    def test_a_public_key_is_no_private_key(self, developer: Issued, other_key: RsaPair) -> None:
        members = {"certificate": developer.certificate_pem, "private_key": other_key.public_pem}
        with pytest.raises(MisconfiguredError, match="it is a public key"):
            parse_certificate(json.dumps(members))

    def test_a_certificate_is_no_private_key(self, developer: Issued) -> None:
        members = {"certificate": developer.certificate_pem, "private_key": developer.certificate_pem}
        with pytest.raises(MisconfiguredError, match="private_key is no private key in PEM"):
            parse_certificate(json.dumps(members))

    def test_an_elliptic_curve_key_is_refused(self, authority: Authority) -> None:
        """A server's certificate of the sandbox has one: the pair matches, and still is none that Nexi signs."""
        server = authority.server("nexi.example")
        assert isinstance(server.key, ec.EllipticCurvePrivateKey)
        members = {"certificate": server.certificate_pem, "private_key": server.key_pem}
        with pytest.raises(MisconfiguredError, match="private_key is not an RSA key") as caught:
            parse_certificate(json.dumps(members))
        assert_tells_nothing_of(caught.value, server.key_pem)

    def test_a_key_of_1024_bits_is_refused(self, authority: Authority) -> None:
        short = authority.developer("SHORT", key=rsa.generate_private_key(65537, 1024))
        members = {"certificate": short.certificate_pem, "private_key": short.key_pem}
        with pytest.raises(MisconfiguredError, match="private_key has 1024 bits, Nexi wants 2048") as caught:
            parse_certificate(json.dumps(members))
        assert_tells_nothing_of(caught.value, short.key_pem)

    def test_a_key_of_another_certificate_is_refused(
        self, developer: Issued, authority: Authority, other_key: RsaPair
    ) -> None:
        chain = developer.certificate_pem + authority.certificate_pem
        members = {"certificate": chain, "private_key": other_key.private_pem}
        with pytest.raises(MisconfiguredError, match="private_key belongs to none of the 2 certificates") as caught:
            parse_certificate(json.dumps(members))
        assert_tells_nothing_of(caught.value, other_key.private_pem)


class TestTheSigningCertificate:
    """Of a key that was born in KMS. The developer certificate goes on to be the one for mutual TLS."""

    def secret(self, developer: Issued, **more: Any) -> str:
        return json.dumps({"certificate": developer.certificate_pem, "private_key": developer.key_pem, **more})

    @pytest.mark.parametrize("absent", [{}, {"signing_certificate": None}, {"signing_certificate": ""}], ids=str)
    def test_without_one_the_developer_certificates_key_is_to_sign(self, developer: Issued, absent: Any) -> None:
        certificate = parse_certificate(self.secret(developer, **absent))
        assert certificate.signing_public_key == developer.certificate.public_key()
        assert certificate.signing_not_after == certificate.not_after

    @pytest.mark.parametrize("chain", [False, True], ids=["alone", "before-its-chain"])
    def test_its_key_is_to_sign(self, developer: Issued, authority: Authority, other_key: RsaPair, chain: bool) -> None:
        signing = authority.developer("SIGNING", key=other_key.private).certificate_pem
        pem = signing + (authority.certificate_pem if chain else "")
        certificate = parse_certificate(self.secret(developer, signing_certificate=pem))
        assert certificate.signing_public_key == other_key.public
        assert certificate.private_key.public_key() == developer.certificate.public_key()
        assert certificate.thumbprint == developer.thumbprint

    def test_one_that_is_none_is_named(self, developer: Issued) -> None:
        with pytest.raises(MisconfiguredError, match="signing_certificate is not PEM"):
            parse_certificate(self.secret(developer, signing_certificate="certainly"))

    def test_one_that_is_no_text_is_named(self, developer: Issued) -> None:
        with pytest.raises(MisconfiguredError, match="signing_certificate is not a non-empty string"):
            parse_certificate(self.secret(developer, signing_certificate=["pem"]))

    def test_one_for_an_elliptic_curve_is_refused(self, developer: Issued, authority: Authority) -> None:
        with pytest.raises(MisconfiguredError, match="signing_certificate is not for an RSA key"):
            parse_certificate(self.secret(developer, signing_certificate=authority.server("x.example").certificate_pem))

    @pytest.mark.parametrize(("days", "signing_days"), [(40, 400), (400, 40), (-3, 40), (40, -3)], ids=str)
    def test_the_days_left_are_of_whichever_expires_first(
        self, developer: Issued, authority: Authority, days: int, signing_days: int
    ) -> None:
        now = datetime(2026, 1, 1, tzinfo=UTC)

        def lasting(days: int) -> str:
            begin = now - timedelta(days=30)
            lifetime = timedelta(days=30 + days)
            assert isinstance(developer.key, rsa.RSAPrivateKey)
            return authority.developer(
                "LASTING", key=developer.key, not_before=begin, lifetime=lifetime
            ).certificate_pem

        members = {"certificate": lasting(days), "private_key": developer.key_pem}
        certificate = parse_certificate(json.dumps({**members, "signing_certificate": lasting(signing_days)}))
        assert certificate.not_after == now + timedelta(days=days)
        assert certificate.signing_not_after == now + timedelta(days=signing_days)
        assert certificate.days_left(now.timestamp()) == min(days, signing_days)
        assert parse_certificate(json.dumps(members)).days_left(now.timestamp() + 43_200) == days - 0.5


class TestAPendingCertificate:
    def test_a_key_whose_request_is_at_nexi_is_no_certificate_yet(self, developer: Issued) -> None:
        pending = {"private_key": developer.key_pem, "signing_request": "-----BEGIN CERTIFICATE REQUEST-----"}
        assert parse_pending_certificate(json.dumps(pending)) is None

    def test_the_one_for_mutual_tls_beside_it_is_not_what_is_to_come(self, certificate_secret: str) -> None:
        """As with a key that was born in KMS, while its request is at Nexi."""
        pending = {**json.loads(certificate_secret), "signing_request": "-----BEGIN CERTIFICATE REQUEST-----"}
        assert parse_pending_certificate(json.dumps(pending)) is None

    def test_one_that_has_come_is_read_as_any(self, certificate_secret: str) -> None:
        certificate = parse_pending_certificate(certificate_secret)
        assert certificate is not None
        assert certificate.thumbprint == parse_certificate(certificate_secret).thumbprint

    @pytest.mark.parametrize(
        ("secret", "found"),
        [
            ("{", "not JSON"),
            ("{}", "certificate is missing"),
            ('{"private_key": "pem"}', "certificate is missing"),
            ('{"certificate": ""}', "certificate is empty"),
        ],
    )
    def test_what_is_neither_is_refused(self, secret: str, found: str) -> None:
        with pytest.raises(MisconfiguredError, match=found):
            parse_pending_certificate(secret)


class TestWhatIsPrinted:
    @pytest.fixture
    def application(self) -> Application:
        return parse_application(json.dumps(APPLICATION))

    @pytest.mark.parametrize("show", [repr, str, "{}".format, "%s".__mod__], ids=["repr", "str", "format", "percent"])
    def test_credentials_show_only_what_is_public(
        self, application: Application, certificate: Certificate, show: Callable[[Any], str]
    ) -> None:
        text = show(Credentials(application, certificate))
        assert "app-id" in text
        assert certificate.thumbprint in text
        assert CLIENT_SECRET not in text
        assert "PRIVATE" not in text
        assert "-----BEGIN" not in text

    def test_no_line_of_the_key_is_in_the_certificates_repr(self, certificate: Certificate) -> None:
        assert not [line for line in certificate.key_pem.decode().splitlines() if line in repr(certificate)]

    def test_an_exception_that_carries_them_shows_nothing(
        self, application: Application, certificate: Certificate
    ) -> None:
        text = "".join(traceback.format_exception(ValueError(application, certificate)))
        assert CLIENT_SECRET not in text
        assert "PRIVATE KEY" not in text


class Secrets:
    """Secrets Manager as far as it matters here: secrets by id, each with a version."""

    def __init__(self, **secrets: str) -> None:
        self.stored = {name: (value, "v1") for name, value in secrets.items()}
        self.reads: list[str] = []
        self.failure: Exception | None = None

    def put(self, name: str, value: str, version: str) -> None:
        self.stored[name] = (value, version)

    def get_secret_value(self, *, SecretId: str) -> dict[str, str]:  # noqa: N803 - AWS's own name for it
        self.reads.append(SecretId)
        if self.failure is not None:
            raise self.failure
        value, version = self.stored[SecretId]
        return {"SecretString": value, "VersionId": version}


def with_numbers(developer: Issued, *wrong: str) -> str:
    """A certificate secret whose key has these of its numbers wrong."""
    numbers = developer.key.private_numbers()
    members = {name: getattr(numbers, name) for name in ("p", "q", "d", "dmp1", "dmq1", "iqmp")}
    members |= {name: members[name] + 2 for name in wrong}
    altered = rsa.RSAPrivateNumbers(**members, public_numbers=numbers.public_numbers)
    pem = altered.private_key(unsafe_skip_rsa_key_validation=True).private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return json.dumps({"certificate": developer.certificate_pem, "private_key": pem.decode()})


class TestTheStore:
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock(1_800_000_000.0)

    @pytest.fixture
    def secrets(self, certificate_secret: str) -> Secrets:
        return Secrets(application=json.dumps(APPLICATION), certificate=certificate_secret)

    @pytest.fixture
    def store(self, secrets: Secrets, clock: Clock) -> CredentialStore:
        return CredentialStore(secrets, "application", "certificate", clock)  # type: ignore[arg-type]  # a fake

    def test_nothing_is_read_before_it_is_wanted(self, store: CredentialStore, secrets: Secrets) -> None:
        assert secrets.reads == []

    def test_both_secrets_are_read_at_first(
        self, store: CredentialStore, secrets: Secrets, certificate: Certificate
    ) -> None:
        credentials = store.get()
        assert credentials.application == parse_application(json.dumps(APPLICATION))
        assert credentials.certificate.thumbprint == certificate.thumbprint
        assert secrets.reads == ["application", "certificate"]

    def test_a_key_is_not_proved_while_a_phone_waits(
        self, store: CredentialStore, secrets: Secrets, developer: Issued
    ) -> None:
        secrets.put("certificate", with_numbers(developer, "iqmp"), "v1")
        assert store.get().certificate.thumbprint == developer.thumbprint

    def test_they_are_held_until_their_age_is_reached(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        first = store.get()
        clock.now += MAX_AGE_SECONDS - 0.001
        assert store.get() is first
        assert len(secrets.reads) == 2

    def test_they_are_read_anew_once_their_age_is_reached(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        store.get()
        secrets.put("application", json.dumps({**APPLICATION, "client_id": "new-id"}), "v2")
        clock.now += MAX_AGE_SECONDS
        assert store.get().application.client_id == "new-id"

    def test_a_new_certificate_is_taken_up(
        self, store: CredentialStore, secrets: Secrets, clock: Clock, authority: Authority, other_key: RsaPair
    ) -> None:
        store.get()
        renewed = authority.developer("RENEWED", key=other_key.private)
        secret = json.dumps({"certificate": renewed.certificate_pem, "private_key": renewed.key_pem})
        secrets.put("certificate", secret, "v2")
        clock.now += MAX_AGE_SECONDS
        assert store.get().certificate.thumbprint == renewed.thumbprint

    def test_they_are_the_very_same_object_while_no_version_is_new(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        """Connections and the parsed key hang on it: they outlive a refresh that changes nothing."""
        first = store.get()
        clock.now += MAX_AGE_SECONDS
        assert store.get() is first
        assert len(secrets.reads) == 4

    def test_a_refresh_starts_their_age_anew(self, store: CredentialStore, secrets: Secrets, clock: Clock) -> None:
        for _ in range(2):
            store.get()
            clock.now += MAX_AGE_SECONDS
        store.get()
        clock.now += MAX_AGE_SECONDS - 1
        store.get()
        assert len(secrets.reads) == 6

    def test_reload_reads_before_they_are_old_but_not_at_every_call(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        first = store.get()
        secrets.put("application", json.dumps({**APPLICATION, "client_id": "new-id"}), "v2")
        assert store.get().application.client_id == "app-id"
        assert store.get(reload=True) is first
        clock.now += MIN_AGE_SECONDS
        assert store.get(reload=True).application.client_id == "new-id"
        assert store.get().application.client_id == "new-id"

    def test_reload_without_a_new_version_changes_nothing(self, store: CredentialStore) -> None:
        first = store.get()
        assert store.get(reload=True) is first

    def test_a_wall_clock_that_goes_backwards_does_not_keep_them_for_ever(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        store.get()
        secrets.put("application", json.dumps({**APPLICATION, "client_id": "new-id"}), "v2")
        clock.now -= 86_400
        assert store.get().application.client_id == "new-id"

    def test_a_failed_first_read_is_not_remembered(self, store: CredentialStore, secrets: Secrets) -> None:
        secrets.failure = NoCredentialsError()
        with pytest.raises(SoftposError):
            store.get()
        secrets.failure = None
        assert store.get().application.client_id == "app-id"

    def test_what_is_held_serves_while_a_refresh_fails_and_it_is_soon_tried_again(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        first = store.get()
        clock.now += MAX_AGE_SECONDS
        secrets.failure = NoCredentialsError()
        assert store.get() is first
        secrets.failure = None
        secrets.put("application", json.dumps({**APPLICATION, "client_id": "new-id"}), "v2")
        assert store.get() is first
        clock.now += RETRY_SECONDS
        assert store.get().application.client_id == "new-id"

    def test_a_malformed_version_is_not_remembered(self, store: CredentialStore, secrets: Secrets) -> None:
        good, _ = secrets.stored["certificate"]
        secrets.put("certificate", "{}", "v2")
        for _ in range(2):
            with pytest.raises(MisconfiguredError, match="certificate is missing"):
                store.get()
        secrets.put("certificate", good, "v3")
        assert store.get().application.client_id == "app-id"

    def test_after_a_failure_that_is_over_they_are_held_as_long_as_ever(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        store.get()
        clock.now += MAX_AGE_SECONDS
        secrets.failure = NoCredentialsError()
        store.get()
        secrets.failure = None
        clock.now += RETRY_SECONDS
        store.get()
        reads = len(secrets.reads)
        clock.now += MAX_AGE_SECONDS - 1
        store.get()
        assert len(secrets.reads) == reads

    def test_a_malformed_new_version_is_told_of_at_every_try(
        self, store: CredentialStore, secrets: Secrets, clock: Clock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        counted: list[str] = []
        monkeypatch.setattr("softpos.credentials.telemetry.count", counted.append)
        store.get()
        secrets.put("application", "{}", "v2")
        for age in (MAX_AGE_SECONDS, RETRY_SECONDS, RETRY_SECONDS):
            clock.now += age
            store.get()
        assert counted == ["SecretsFailed"] * 3

    def test_a_malformed_new_version_does_not_replace_a_good_one(
        self, store: CredentialStore, secrets: Secrets, clock: Clock
    ) -> None:
        first = store.get()
        secrets.put("application", "{}", "v2")
        clock.now += MAX_AGE_SECONDS
        assert store.get() is first
        secrets.put("application", json.dumps({**APPLICATION, "client_id": "new-id"}), "v3")
        clock.now += RETRY_SECONDS
        assert store.get().application.client_id == "new-id"


@pytest.fixture
def manager() -> Any:
    """A real client of Secrets Manager, for botocore to check what is asked and answered."""
    return boto3.client(
        "secretsmanager", region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


def answered(value: str, version: str = "a" * 32) -> dict[str, str]:
    return {"Name": "secret", "VersionId": version, "SecretString": value}


class TestSecretsManager:
    def test_the_named_secrets_are_asked_for(self, manager: Any, certificate_secret: str) -> None:
        with Stubber(manager) as aws:
            aws.add_response("get_secret_value", answered(json.dumps(APPLICATION)), {"SecretId": "stack/application"})
            aws.add_response("get_secret_value", answered(certificate_secret), {"SecretId": "stack/certificate"})
            credentials = CredentialStore(manager, "stack/application", "stack/certificate").get()
            aws.assert_no_pending_responses()
        assert credentials.application.client_id == "app-id"

    @pytest.mark.parametrize(
        ("code", "error", "found", "remedy"),
        [
            ("ResourceNotFoundException", SecretMissingError, "does not exist or has no current value", "store it"),
            ("InvalidRequestException", SecretMissingError, "is marked for deletion", "restore-secret --secret-id"),
            ("AccessDeniedException", MisconfiguredError, "cannot be read", "secretsmanager:GetSecretValue"),
            ("DecryptionFailure", MisconfiguredError, "cannot be read", "kms:Decrypt"),
            ("ValidationException", MisconfiguredError, "cannot be read", "secretsmanager:GetSecretValue"),
            ("InternalServiceError", BackendUnavailableError, "Secrets Manager failed", "service health"),
            ("ThrottlingException", BackendUnavailableError, "Secrets Manager failed", "service health"),
            ("ExpiredTokenException", BackendUnavailableError, "Secrets Manager failed", "service health"),
        ],
    )
    @pytest.mark.parametrize("variable", ["APPLICATION_SECRET_ID", "CERTIFICATE_SECRET_ID"])
    def test_its_errors_become_ours(
        self, manager: Any, variable: str, code: str, error: type[SoftposError], found: str, remedy: str
    ) -> None:
        with Stubber(manager) as aws:
            if variable == "CERTIFICATE_SECRET_ID":
                aws.add_response("get_secret_value", answered(json.dumps(APPLICATION)))
            aws.add_client_error("get_secret_value", code, "arn:aws:secretsmanager:eu-south-1:123456789012:secret:x")
            with pytest.raises(SoftposError) as caught:
                CredentialStore(manager, "stack/application", "stack/certificate").get()
        assert type(caught.value) is error
        assert found in str(caught.value)
        assert variable in str(caught.value)
        assert code in str(caught.value)
        assert remedy in caught.value.remedy
        assert "arn:" not in str(caught.value)
        assert caught.value.__cause__ is not None

    @pytest.mark.parametrize(
        ("failure", "code"),
        [
            (NoCredentialsError(), "internal_error"),
            (EndpointConnectionError(endpoint_url="https://aws"), "backend_unavailable"),
        ],
        ids=str,
    )
    def test_what_botocore_raises_by_itself_becomes_ours(self, failure: Exception, code: str) -> None:
        secrets = Secrets()
        secrets.failure = failure
        with pytest.raises(SoftposError, match=type(failure).__name__) as caught:
            CredentialStore(secrets, "a", "c").get()  # type: ignore[arg-type]  # a fake
        assert caught.value.code == code

    def test_a_pending_version_is_asked_for_by_its_label(self, manager: Any) -> None:
        with Stubber(manager) as aws:
            expected = {"SecretId": "stack/certificate", "VersionStage": "AWSPENDING"}
            aws.add_response("get_secret_value", answered("{}", "b" * 32), expected)
            assert read_secret(manager, "VARIABLE", "stack/certificate", "pending") == ("{}", "b" * 32)

    def test_no_pending_version_is_a_secret_that_is_missing(self, manager: Any) -> None:
        with Stubber(manager) as aws:
            aws.add_client_error("get_secret_value", "ResourceNotFoundException")
            with pytest.raises(SecretMissingError, match="has no pending value"):
                read_secret(manager, "VARIABLE", "stack/certificate", "pending")

    def test_a_binary_secret_is_refused(self, manager: Any) -> None:
        with Stubber(manager) as aws:
            aws.add_response("get_secret_value", {"Name": "x", "VersionId": "v" * 32, "SecretBinary": b"s3cr3t"})
            with pytest.raises(MisconfiguredError, match="APPLICATION_SECRET_ID names is binary") as caught:
                CredentialStore(manager, "stack/application", "stack/certificate").get()
        assert "s3cr3t" not in shown(caught.value)


def test_the_thumbprint_is_sha_256_over_the_leafs_der(certificate: Certificate, developer: Issued) -> None:
    der = developer.certificate.public_bytes(serialization.Encoding.DER)
    digest = hashes.Hash(hashes.SHA256())
    digest.update(der)
    assert certificate.thumbprint == digest.finalize().hex()
