"""`softpos certificate`: what each command stores, writes and says; and what it refuses before it does any of that.

`activate` and `rollback` ask a server: here, only what they refuse without one.
"""

import base64
import json
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key, pkcs7
from moto import mock_aws
from onboarding_support import Run, deployed, softpos
from unit_support import RsaPair

from onboarding import issued, kms, signing_request
from onboarding.deployment import AwsError
from onboarding.versions import CertificateSecret, Version
from sandbox.authority import Authority
from softpos.settings import Settings

SECRET = "softpos-staging/certificate"
SETTINGS = Settings.from_environment(
    {
        "STAGE": "staging",
        "NEXI_BASE_URL": "https://nexi.example",
        "APPLICATION_SECRET_ID": "softpos-staging/application",
        "CERTIFICATE_SECRET_ID": SECRET,
        "TERMINALS_TABLE": "terminals",
        "CACHE_TABLE": "cache",
    }
)
REQUEST = ("certificate", "request", "--name", "NOMEAPP")


@dataclass
class Stack:
    """A deployed stack: moto's account, what its functions are configured with, and Nexi's authority."""

    deployment: Any
    secrets: Any
    kms: Any
    authority: Authority
    clients_made: list[str] = field(default_factory=list)

    @property
    def versions(self) -> CertificateSecret:
        """As they are now."""
        return CertificateSecret(self.secrets, SECRET)

    @property
    def pending(self) -> Version:
        version = self.versions.pending
        assert version is not None
        return version

    @property
    def keys(self) -> list[str]:
        """Ids of the keys in KMS."""
        return [each["KeyId"] for each in self.kms.list_keys()["Keys"]]

    def sign_with(self, key_id: str | None) -> None:
        """Deploy it with this SigningKeyId."""
        type(self.deployment).settings = replace(SETTINGS, signing_key_id=key_id)

    def p7b(self, *more: x509.Certificate, **how: Any) -> bytes:
        """What Nexi makes of the pending request."""
        made = self.pending.request
        assert made is not None
        certificate = self.authority.sign(made) if not how else self._certified(made, **how)
        return pkcs7.serialize_certificates(
            [self.authority.certificate, certificate, *more], serialization.Encoding.PEM
        )

    def _certified(self, made: x509.CertificateSigningRequest, **how: Any) -> x509.Certificate:
        public_key = made.public_key()
        assert isinstance(public_key, rsa.RSAPublicKey)
        return self.authority.certify("NOMEAPP", public_key, **how)

    def activate(self) -> None:
        """What `activate` does once Nexi took it."""
        self.versions.make_current(self.pending)

    def with_current(self) -> Version:
        """Go all the way once: a certificate is current, and nothing is pending."""
        assert softpos(*REQUEST, "--csr", "first.csr").status == 0
        assert softpos("certificate", "import", "-", "--pem", "first.pem", stdin=self.p7b()).status == 0
        self.activate()
        current = self.versions.current
        assert current is not None
        return current


@pytest.fixture
def stack(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, authority: Authority, quick_keys: None) -> Iterator[Stack]:
    monkeypatch.chdir(tmp_path)
    with mock_aws():
        session = boto3.session.Session("test", "test", region_name="eu-south-1")
        secrets, keys = session.client("secretsmanager"), session.client("kms")
        secrets.create_secret(Name=SECRET)

        class Given:
            """Clients that were made before, whichever stage asks."""

            region_name = "eu-south-1"

            def client(self, service: str, **how: Any) -> Any:
                stack.clients_made.append(service)
                return {"secretsmanager": secrets, "kms": stack.kms}[service]

        stack = Stack(deployed(monkeypatch, Given(), CertificateSecretId=SECRET), secrets, keys, authority)
        stack.sign_with(None)
        yield stack


@pytest.fixture(scope="module")
def made_before() -> list[rsa.RSAPrivateKey]:
    return [signing_request.new_key() for _ in range(3)]


@pytest.fixture
def quick_keys(monkeypatch: pytest.MonkeyPatch, made_before: list[rsa.RSAPrivateKey]) -> None:
    """RSA keys take a while: the same ones in each test."""
    monkeypatch.setattr(signing_request, "new_key", iter(made_before).__next__)


def mode(file: str) -> int:
    return stat.S_IMODE(Path(file).stat().st_mode)


def files() -> set[str]:
    return {each.name for each in Path().iterdir()}


def assert_refused(run: Run, found: str, remedy: str) -> None:
    assert run.status == 1
    assert run.out == ""
    assert found in run.err
    assert remedy in run.err
    assert "Traceback" not in run.err


def assert_no_key(text: str, *versions: Version) -> None:
    for version in versions:
        assert all(line not in text for line in version.members["private_key"].splitlines())


class TestRequest:
    def test_stores_the_key_and_writes_the_request_alone(self, stack: Stack) -> None:
        run = softpos(*REQUEST)
        assert run.status == 0
        assert files() == {"NOMEAPP.csr"}
        written = Path("NOMEAPP.csr").read_text()
        assert stack.pending.members == {
            "private_key": signing_request.key_pem(stack.pending.private_key),
            "signing_request": written,
        }
        made = x509.load_pem_x509_csr(written.encode())
        assert made.public_key() == stack.pending.private_key.public_key()
        assert made.subject.rfc4514_string() == "C=IT,L=Milano,OU=API Security - STAGING,O=NEXI,CN=NOMEAPP"
        assert stack.versions.current is None

    def test_says_what_is_next_and_shows_no_key(self, stack: Stack) -> None:
        run = softpos(*REQUEST)
        assert run.out == ("NOMEAPP.csr: the request, for C=IT,L=Milano,OU=API Security - STAGING,O=NEXI,CN=NOMEAPP\n")
        assert "upload NOMEAPP.csr on stgposweb.nexi.it" in run.err
        assert "softpos certificate import NOMEAPP.p7b" in run.err
        assert_no_key(run.out + run.err + Path("NOMEAPP.csr").read_text(), stack.pending)

    def test_writes_the_key_for_its_owner_alone_when_asked_to(self, stack: Stack) -> None:
        before = os.umask(0)
        try:
            run = softpos(*REQUEST, "--key-file", "NOMEAPP.key")
        finally:
            os.umask(before)
        assert files() == {"NOMEAPP.csr", "NOMEAPP.key"}
        assert (mode("NOMEAPP.key"), mode("NOMEAPP.csr")) == (0o600, 0o644)
        assert Path("NOMEAPP.key").read_text() == stack.pending.members["private_key"]
        assert "NOMEAPP.key: the private key." in run.out
        assert_no_key(run.out + run.err, stack.pending)

    @pytest.mark.parametrize(
        ("there", "option"), [("NOMEAPP.csr", ()), ("my.csr", ("--csr",)), ("my.key", ("--key-file",))]
    )
    def test_overwrites_nothing(self, stack: Stack, there: str, option: tuple[str, ...]) -> None:
        Path(there).write_text("mine")
        run = softpos(*REQUEST, *option, *([there] if option else []))
        assert_refused(run, f"{there} is there already", "choose another name")
        assert Path(there).read_text() == "mine"
        assert files() == {there}
        assert stack.versions.pending is None, "nothing was stored"

    def test_writes_request_and_key_to_two_files(self, stack: Stack) -> None:
        run = softpos(*REQUEST, "--csr", "both", "--key-file", "both")
        assert (run.status, stack.versions.pending, files()) == (2, None, set())

    def test_looks_for_the_directory_before_it_stores_anything(self, stack: Stack) -> None:
        run = softpos(*REQUEST, "--csr", "nowhere/NOMEAPP.csr")
        assert_refused(run, "there is no directory nowhere", "make it")
        assert stack.versions.pending is None

    def test_refuses_a_name_before_aws_is_asked(self, stack: Stack) -> None:
        run = softpos("certificate", "request", "--name", "NOME-APP")
        assert_refused(run, "'NOME-APP' is no name that Nexi's portal takes", "1 to 64 letters and digits")
        assert stack.clients_made == []
        assert files() == set()

    @pytest.mark.parametrize(
        ("stage", "options", "unit", "portal"),
        [
            pytest.param("staging", (), "API Security - STAGING", "stgposweb.nexi.it", id="staging"),
            pytest.param("production", (), "API Security - PRODUCTION", "on posweb.nexi.it", id="production"),
            pytest.param("local", (), "API Security - STAGING", "the sandbox's portal", id="local"),
            pytest.param("production", ("--unit", "POS Security"), "POS Security", "on posweb.nexi.it", id="asked-for"),
        ],
    )
    def test_has_the_stages_unit(
        self, stack: Stack, stage: str, options: tuple[str, ...], unit: str, portal: str
    ) -> None:
        run = softpos(*REQUEST, *options, stage=stage)
        assert stack.pending.request is not None
        assert issued.unit_of(stack.pending.request.subject) == unit
        assert portal in run.err

    def test_a_second_one_waits_for_the_first(self, stack: Stack) -> None:
        softpos(*REQUEST)
        first = stack.pending
        run = softpos(*REQUEST, "--csr", "second.csr")
        assert_refused(run, "is still waiting for Nexi's signature", "--replace")
        assert (stack.pending, files()) == (first, {"NOMEAPP.csr"})

    def test_a_second_one_waits_for_what_was_imported(self, stack: Stack) -> None:
        softpos(*REQUEST)
        softpos("certificate", "import", "-", stdin=stack.p7b())
        run = softpos(*REQUEST, "--csr", "second.csr")
        assert_refused(run, "was imported and is not activated", "--replace")

    def test_a_second_one_takes_the_place_of_the_first_when_told_to(self, stack: Stack) -> None:
        softpos(*REQUEST)
        first = stack.pending
        run = softpos(*REQUEST, "--csr", "second.csr", "--replace")
        assert run.status == 0
        assert stack.pending.private_key.private_numbers() != first.private_key.private_numbers()
        assert stack.pending.members["signing_request"] == Path("second.csr").read_text()

    def test_leaves_what_is_current_alone(self, stack: Stack) -> None:
        current = stack.with_current()
        assert softpos(*REQUEST).status == 0
        assert stack.versions.current == current
        assert stack.pending.request is not None


class TestRequestForAKeyInKms:
    def test_makes_the_key_there_and_signs_there(self, stack: Stack) -> None:
        current = stack.with_current()
        run = softpos(*REQUEST, "--key", "kms")
        assert run.status == 0
        (key_id,) = stack.keys
        key = signing_request.KmsPrivateKey(stack.kms, key_id)
        made = x509.load_pem_x509_csr(Path("NOMEAPP.csr").read_bytes())
        assert made.public_key() == key.public_key()
        assert made.is_signature_valid
        assert f"The key was made in KMS: {key_id}" in run.err
        assert stack.pending.members == {
            **current.members,
            "signing_key_id": key_id,
            "signing_request": Path("NOMEAPP.csr").read_text(),
        }, "mutual TLS keeps its certificate and its key"

    def test_is_for_the_key_that_signs_already(self, stack: Stack) -> None:
        stack.with_current()
        key_id = kms.create(stack.kms, "softpos-staging", "NOMEAPP")
        stack.sign_with(key_id)
        run = softpos(*REQUEST, "--key", "kms")
        assert stack.keys == [key_id]
        assert f"The key is the one in KMS that was made before: {key_id}" in run.err
        assert stack.pending.members["signing_key_id"] == key_id

    def test_that_replaces_another_is_for_the_key_that_was_made_for_that(self, stack: Stack) -> None:
        stack.with_current()
        softpos(*REQUEST, "--key", "kms")
        (key_id,) = stack.keys
        run = softpos(*REQUEST, "--key", "kms", "--csr", "second.csr", "--replace")
        assert run.status == 0
        assert stack.keys == [key_id]
        assert stack.pending.members["signing_key_id"] == key_id

    def test_needs_a_certificate_for_mutual_tls_first(self, stack: Stack) -> None:
        run = softpos(*REQUEST, "--key", "kms")
        assert_refused(run, "mutual TLS needs a key of its own", "without --key kms first")
        assert (stack.keys, files(), stack.versions.pending) == ([], set(), None)

    def test_that_comes_to_nothing_gives_up_the_key_that_it_made(
        self, stack: Stack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        stack.with_current()

        def refused(*_: Any) -> None:
            raise AwsError("AWS refused PutSecretValue (AccessDeniedException)", "let it")

        monkeypatch.setattr(CertificateSecret, "put_pending", refused)
        run = softpos(*REQUEST, "--key", "kms")
        (key_id,) = stack.keys
        assert_refused(run, "AWS refused PutSecretValue", f"the key {key_id} that was made for it is deleted in 7 days")
        assert stack.kms.describe_key(KeyId=key_id)["KeyMetadata"]["KeyState"] == "PendingDeletion"

    def test_has_no_key_for_a_file(self, stack: Stack) -> None:
        stack.with_current()
        run = softpos(*REQUEST, "--key", "kms", "--key-file", "NOMEAPP.key")
        assert_refused(run, "a key in KMS never leaves it", "leave --key-file away")
        assert stack.keys == []
        assert stack.versions.pending is None


class TestImport:
    @pytest.fixture
    def requested(self, stack: Stack) -> Stack:
        softpos(*REQUEST)
        return stack

    def test_stores_the_chain_in_order_and_writes_it(self, requested: Stack) -> None:
        Path("NOMEAPP.p7b").write_bytes(requested.p7b())
        key = requested.pending.members["private_key"]
        run = softpos("certificate", "import", "NOMEAPP.p7b")
        assert run.status == 0
        written = Path("NOMEAPP.pem").read_text()
        assert requested.pending.members == {"private_key": key, "certificate": written}
        leaf, root = x509.load_pem_x509_certificates(written.encode())
        assert leaf.public_key() == requested.pending.private_key.public_key()
        assert root == requested.authority.certificate
        assert requested.pending.usable
        assert requested.versions.current is None, "not before it is activated"

    def test_says_what_it_found_and_who_gets_it(self, requested: Stack) -> None:
        run = softpos("certificate", "import", "-", stdin=requested.p7b())
        (leaf, _) = requested.pending.chain
        lines = {" ".join(line.split()) for line in run.out.splitlines()}
        assert {
            "subject C=IT,L=Milano,OU=API Security - STAGING,O=NEXI,CN=NOMEAPP",
            "issuer CN=softpos sandbox CA",
            f"serial {leaf.serial_number:x}",
            f"SHA-256 {issued.sha256(leaf)}",
            "chain CN=softpos sandbox CA",
            "NOMEAPP.pem: for Nexi's contact, who registers it. It holds no key",
        } <= lines
        assert "SigningKeyId" not in run.out
        assert "softpos certificate activate" in run.err
        assert_no_key(run.out + run.err + Path("NOMEAPP.pem").read_text(), requested.pending)

    def test_reads_a_mail_from_standard_input(self, requested: Stack) -> None:
        mail = b"From: API Security\nSubject: NOMEAPP\nContent-Transfer-Encoding: base64\n\n" + base64.encodebytes(
            b"Gentile sviluppatore,\n\n" + requested.p7b() + b"\nSaluti\n"
        )
        run = softpos("certificate", "import", "-", "--pem", "to-nexi.pem", stdin=mail)
        assert run.status == 0
        assert files() == {"NOMEAPP.csr", "to-nexi.pem"}

    def test_can_be_done_again(self, requested: Stack) -> None:
        """The first file held the certificate alone; the next one holds its issuer, too."""
        p7b = requested.p7b()
        _, leaf = issued.read(p7b)
        run = softpos("certificate", "import", "-", stdin=issued.pem([leaf]).encode())
        assert run.status == 0
        assert "the certificate of its issuer is not with it" in run.err
        run = softpos("certificate", "import", "-", "--pem", "whole.pem", stdin=p7b)
        assert run.status == 0
        assert requested.pending.chain == [leaf, requested.authority.certificate]

    def test_writes_the_same_file_but_overwrites_no_other(self, requested: Stack) -> None:
        p7b = requested.p7b()
        for _ in range(2):
            assert softpos("certificate", "import", "-", stdin=p7b).status == 0
        Path("NOMEAPP.pem").write_text("mine")
        before = requested.pending
        run = softpos("certificate", "import", "-", stdin=p7b)
        assert_refused(run, "NOMEAPP.pem is there already", "choose another name")
        assert Path("NOMEAPP.pem").read_text() == "mine"
        assert requested.pending == before

    def test_needs_a_request(self, stack: Stack) -> None:
        run = softpos("certificate", "import", "-", stdin=b"whatever")
        assert_refused(run, "no request is pending", "softpos certificate request")

    def test_takes_the_pending_keys_certificate_alone(self, requested: Stack, other_key: RsaPair) -> None:
        stranger = requested.authority.developer("NOMEAPP", key=other_key.private)
        before = requested.pending
        run = softpos("certificate", "import", "-", stdin=stranger.certificate_pem.encode())
        assert_refused(run, "none of the certificates is the pending key's", "softpos certificate show")
        assert (requested.pending, files()) == (before, {"NOMEAPP.csr"})

    def test_says_what_a_file_without_certificates_is(self, requested: Stack) -> None:
        run = softpos("certificate", "import", "NOMEAPP.csr")
        assert_refused(run, "it is the request that goes to the portal", ".p7b that Nexi sent")

    def test_refuses_what_is_of_no_use(self, requested: Stack) -> None:
        before = requested.pending
        expired = requested.p7b(not_before=datetime.now(UTC) - timedelta(days=9), lifetime=timedelta(days=8))
        run = softpos("certificate", "import", "-", stdin=expired)
        assert_refused(run, "wanted: valid now", "--force stores it all the same")
        assert (requested.pending, files()) == (before, {"NOMEAPP.csr"})

    def test_stores_what_is_of_no_use_when_forced_and_warns(self, requested: Stack) -> None:
        expired = requested.p7b(not_before=datetime.now(UTC) - timedelta(days=9), lifetime=timedelta(days=8))
        run = softpos("certificate", "import", "-", "--force", stdin=expired)
        assert run.status == 0
        assert "wanted: valid now" in run.err
        assert "What to do: renew it" in run.err
        assert requested.pending.usable

    def test_warns_of_what_should_be_looked_at(self, requested: Stack) -> None:
        run = softpos("certificate", "import", "-", stdin=requested.p7b(lifetime=timedelta(days=20)))
        assert run.status == 0
        assert "19 days are left; wanted: more than 30" in run.err

    def test_refuses_another_stages(self, requested: Stack) -> None:
        run = softpos("certificate", "import", "-", stdin=requested.p7b(), stage="production")
        assert_refused(run, "wanted: a certificate for production", "Nexi registers the two apart")

    def test_tells_of_everything_that_is_wrong_at_once(self, requested: Stack) -> None:
        expired = requested.p7b(not_before=datetime.now(UTC) - timedelta(days=9), lifetime=timedelta(days=8))
        run = softpos("certificate", "import", "-", stdin=expired, stage="production")
        assert_refused(run, "wanted: valid now", "renew it")
        assert "wanted: a certificate for production" in run.err


class Importing:
    """KMS with the two calls that moto does not have. What is sent is opened in test_kms_import.py."""

    def __init__(self, client: Any, key: rsa.RSAPublicKey) -> None:
        self._client = client
        self._key = key

    def __getattr__(self, operation: str) -> Any:
        spki = self._key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        answers: dict[str, Any] = {
            "get_parameters_for_import": {"ImportToken": b"token", "PublicKey": b""},
            "import_key_material": {},
            "get_public_key": {"PublicKey": spki},
        }
        if operation in answers:
            return lambda **arguments: answers[operation]
        return getattr(self._client, operation)


class TestImportIntoKms:
    @pytest.fixture
    def importing(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Stack:
        softpos(*REQUEST)
        stack.kms = Importing(stack.kms, stack.pending.private_key.public_key())
        monkeypatch.setattr(kms, "wrapped", lambda key, wrapping_key: b"wrapped")
        return stack

    def test_keeps_the_key_for_mutual_tls_and_names_the_one_that_is_to_sign(self, importing: Stack) -> None:
        private_key = importing.pending.members["private_key"]
        run = softpos("certificate", "import", "-", "--into-kms", stdin=importing.p7b())
        assert run.status == 0
        (key_id,) = importing.keys
        assert importing.pending.members == {
            "private_key": private_key,
            "certificate": Path("NOMEAPP.pem").read_text(),
            "signing_key_id": key_id,
        }
        assert f"SigningKeyId={key_id}: to deploy the stack with" in run.out
        assert_no_key(run.out + run.err, importing.pending)

    def test_is_done_once(self, importing: Stack) -> None:
        p7b = importing.p7b()
        softpos("certificate", "import", "-", "--into-kms", stdin=p7b)
        run = softpos("certificate", "import", "-", "--into-kms", stdin=p7b)
        assert_refused(run, "the key of this certificate is in KMS already", "leave --into-kms away")
        assert len(importing.keys) == 1
        again = softpos("certificate", "import", "-", stdin=p7b)
        assert f"SigningKeyId={importing.keys[0]}" in again.out

    def test_brings_nothing_in_for_a_certificate_of_no_use(self, importing: Stack) -> None:
        run = softpos("certificate", "import", "-", "--into-kms", stdin=importing.p7b(), stage="production")
        assert run.status == 1
        assert importing.keys == []


class TestImportForAKeyInKms:
    @pytest.fixture
    def born(self, stack: Stack) -> Stack:
        """The signing key's own certificate is current, next to the one for mutual TLS."""
        stack.with_current()
        assert softpos(*REQUEST, "--key", "kms").status == 0
        return stack

    def test_adds_its_certificate_to_the_one_for_mutual_tls(self, born: Stack) -> None:
        current = born.versions.current
        assert current is not None
        run = softpos("certificate", "import", "-", stdin=born.p7b())
        assert run.status == 0
        (key_id,) = born.keys
        assert born.pending.members == {
            **current.members,
            "signing_key_id": key_id,
            "signing_certificate": Path("NOMEAPP.pem").read_text(),
        }
        assert born.pending.usable
        assert f"SigningKeyId={key_id}: to deploy the stack with, once this certificate is current" in run.out

    def test_says_no_more_of_the_key_when_the_stack_has_it(self, born: Stack) -> None:
        born.sign_with(born.keys[0])
        assert "SigningKeyId" not in softpos("certificate", "import", "-", stdin=born.p7b()).out

    def test_brings_in_no_key_that_is_there(self, born: Stack) -> None:
        run = softpos("certificate", "import", "-", "--into-kms", stdin=born.p7b())
        assert_refused(run, "the key of this certificate is in KMS already", "leave --into-kms away")

    def test_can_be_done_again(self, born: Stack) -> None:
        p7b = born.p7b()
        for _ in range(2):
            assert softpos("certificate", "import", "-", stdin=p7b).status == 0
        assert born.pending.signing_chain[0].public_key() != born.pending.private_key.public_key()

    def test_is_kept_when_mutual_tls_gets_another_certificate(self, born: Stack) -> None:
        softpos("certificate", "import", "-", stdin=born.p7b())
        signing = born.pending
        born.activate()
        assert softpos(*REQUEST, "--csr", "renewed.csr").status == 0
        p7b = born.p7b()
        for _ in range(2):
            run = softpos("certificate", "import", "-", "--pem", "renewed.pem", stdin=p7b)
            assert run.status == 0, "and again"
            members = born.pending.members
            assert members["certificate"] == Path("renewed.pem").read_text()
            assert members["private_key"] != signing.members["private_key"]
            for kept in ("signing_certificate", "signing_key_id"):
                assert members[kept] == signing.members[kept]


class TestShow:
    def test_says_that_there_is_nothing(self, stack: Stack) -> None:
        assert softpos("certificate", "show").out == "current: none\npending: none\nprevious: none\n"
        assert softpos("certificate", "show", "--json").json == {"current": None, "pending": None, "previous": None}

    def test_tells_of_each_version(self, stack: Stack) -> None:
        first = stack.with_current()
        softpos(*REQUEST)
        softpos("certificate", "import", "-", stdin=stack.p7b())
        stack.activate()
        softpos(*REQUEST, "--csr", "third.csr")
        run = softpos("certificate", "show")
        lines = [" ".join(line.split()) for line in run.out.splitlines()]
        sections = [
            index for index, line in enumerate(lines) if line.split(":")[0] in ("current", "pending", "previous")
        ]
        current, pending, previous = (
            lines[begin:end] for begin, end in zip(sections, [*sections[1:], len(lines)], strict=True)
        )
        leaf = stack.versions.current.chain[0] if stack.versions.current else None
        assert leaf is not None
        assert f"SHA-256 {issued.sha256(leaf)}" in current
        assert f"serial {leaf.serial_number:x}" in current
        assert f"valid until {leaf.not_valid_after_utc:%Y-%m-%d %H:%M} UTC, 364 days left" in current
        assert "state waiting for Nexi's signature" in pending
        assert "key in this secret" in pending
        assert f"SHA-256 {issued.sha256(first.chain[0])}" in previous
        assert_no_key(run.out + run.err, first, stack.pending)

    def test_tells_machines_the_same(self, stack: Stack) -> None:
        current = stack.with_current()
        softpos(*REQUEST)
        run = softpos("certificate", "show", "--json")
        leaf, root = current.chain
        assert run.json["current"] == {
            "version": current.id,
            "created": current.created.isoformat(),
            "certificate": {
                "subject": "C=IT,L=Milano,OU=API Security - STAGING,O=NEXI,CN=NOMEAPP",
                "issuer": root.subject.rfc4514_string(),
                "serial": f"{leaf.serial_number:x}",
                "sha256": issued.sha256(leaf),
                "not_before": leaf.not_valid_before_utc.isoformat(),
                "not_after": leaf.not_valid_after_utc.isoformat(),
                "days_left": 364,
                "chain": [root.subject.rfc4514_string()],
            },
            "signing_certificate": None,
            "request": None,
            "signing_key_id": None,
        }
        assert run.json["pending"]["certificate"] is None
        assert run.json["pending"]["request"] == {
            "subject": "C=IT,L=Milano,OU=API Security - STAGING,O=NEXI,CN=NOMEAPP",
            "csr": Path("NOMEAPP.csr").read_text(),
        }
        assert run.json["previous"] is None, "a request that was never signed is no way back"
        assert_no_key(run.out + run.err, current, stack.pending)

    def test_tells_of_a_key_in_kms(self, stack: Stack) -> None:
        stack.with_current()
        softpos(*REQUEST, "--key", "kms")
        (key_id,) = stack.keys
        assert f"in KMS, {key_id}" in softpos("certificate", "show").out
        softpos("certificate", "import", "-", stdin=stack.p7b())
        stack.activate()
        assert "and for the key in KMS that signs" in softpos("certificate", "show").out
        summary = softpos("certificate", "show", "--json").json["current"]
        assert summary["signing_key_id"] == key_id
        assert summary["signing_certificate"]["sha256"] != summary["certificate"]["sha256"]


class TestActivateAndRollback:
    """Without a server: what they refuse before one is asked, whether by force or not."""

    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
    def test_nothing_is_pending(self, stack: Stack, force: tuple[str, ...]) -> None:
        run = softpos("certificate", "activate", *force)
        assert_refused(run, "no certificate is pending", "softpos certificate request")

    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
    def test_what_is_pending_has_no_certificate_yet(self, stack: Stack, force: tuple[str, ...]) -> None:
        softpos(*REQUEST)
        before = stack.pending
        run = softpos("certificate", "activate", *force)
        assert_refused(run, "the pending request has no certificate yet", "softpos certificate import")
        assert stack.pending == before

    @pytest.mark.parametrize("force", [(), ("--force",)], ids=["", "force"])
    def test_there_is_no_previous_one(self, stack: Stack, force: tuple[str, ...]) -> None:
        current = stack.with_current()
        run = softpos("certificate", "rollback", *force)
        assert_refused(run, "there is no previous certificate to go back to", "softpos certificate show")
        assert stack.versions.current == current

    def test_by_force_it_is_done_without_a_server(self, stack: Stack) -> None:
        softpos(*REQUEST)
        softpos("certificate", "import", "-", stdin=stack.p7b())
        pending = stack.pending
        run = softpos("certificate", "activate", "--force")
        assert run.status == 0
        assert stack.versions.current == pending
        assert stack.versions.pending is None


def test_the_key_that_is_stored_is_rsa_in_pkcs8(stack: Stack) -> None:
    softpos(*REQUEST)
    text = stack.secrets.get_secret_value(SecretId=SECRET, VersionStage="AWSPENDING")["SecretString"]
    private_key = json.loads(text)["private_key"]
    assert private_key.startswith("-----BEGIN PRIVATE KEY-----\n")
    assert isinstance(load_pem_private_key(private_key.encode(), None), rsa.RSAPrivateKey)
