"""From a key to a certificate that the functions use, and back: the commands, the sandbox's portal and its Nexi."""

import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from backends import Backend
from commands import Softpos
from leaks import of_key
from lines import Lines

from sandbox.local import OPERATOR, LocalStack


@pytest.fixture(scope="module")
def lines() -> Lines:
    return Lines()


@pytest.fixture(scope="module")
def own_stack(lines: Lines) -> Iterator[LocalStack]:
    """A stack of these tests' own: they change its certificate."""
    with LocalStack(log=lambda _source, line: lines.add(line)) as running:
        yield running


@pytest.fixture
def softpos(own_stack: LocalStack, tmp_path: Path) -> Iterator[Softpos]:
    """The command, in an empty folder; afterwards the sandbox's certificate is current again, and nothing pending."""
    secrets, secret_id = own_stack.aws.client("secretsmanager"), own_stack.outputs["CertificateSecretId"]
    before = secrets.get_secret_value(SecretId=secret_id)["SecretString"]
    yield Softpos(own_stack, tmp_path)
    secrets.put_secret_value(
        SecretId=secret_id, SecretString=before, VersionStages=["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"]
    )


class Portal:
    """Nexi's, for whoever has a browser; and the contact who registers."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self._url = f"{stack.control.url}/portal"
        self._folder = folder

    def sign(self, csr: str, name: str, form: str = "pem") -> None:
        """Upload a request, and save what comes by mail."""
        answer = self._post(f"/csr?form={form}", csr)
        (self._folder / name).write_bytes(answer.content)

    def register(self, pem: str) -> None:
        self._post("/certificates", pem)

    def _post(self, path: str, name: str) -> requests.Response:
        with requests.Session() as session:
            session.trust_env = False
            answer = session.post(self._url + path, data=(self._folder / name).read_bytes(), timeout=10)
        assert answer.status_code == 200, answer.text
        return answer


@pytest.fixture
def portal(own_stack: LocalStack, tmp_path: Path) -> Iterator[Portal]:
    registered = own_stack.app.certificates
    yield Portal(own_stack, tmp_path)
    own_stack.app.certificates = registered


def shown(softpos: Softpos) -> dict[str, Any]:
    """The versions, as `show --json` has them."""
    found: dict[str, Any] = softpos("certificate", "show", "--json").json
    return found


@pytest.mark.parametrize("form", ["pem", "der", "mail"])
def test_the_whole_way_from_a_request_to_an_enrollment(
    softpos: Softpos, portal: Portal, own_stack: LocalStack, lines: Lines, form: str
) -> None:
    name = f"NOMEAPP{form.upper()}"
    before = shown(softpos)["current"]
    assert softpos("certificate", "request", "--name", name).status == 0
    assert shown(softpos)["pending"]["request"]["subject"].endswith(f"CN={name}")
    assert shown(softpos)["current"] == before

    portal.sign(f"{name}.csr", f"{name}.p7b", form)
    imported = softpos("certificate", "import", f"{name}.p7b")
    assert imported.status == 0, imported.err
    assert f"{name}.pem: for Nexi's contact, who registers it." in imported.out

    early = softpos("certificate", "activate")
    assert early.status == 1
    assert "nothing was changed, since Nexi did not take it" in early.err
    assert "send its .pem to Nexi's contact" in early.err
    assert shown(softpos)["current"] == before

    portal.register(f"{name}.pem")
    activated = softpos("certificate", "activate")
    assert activated.status == 0, activated.err
    versions = shown(softpos)
    assert versions["current"]["certificate"]["subject"].endswith(f"CN={name}")
    assert (versions["pending"], versions["previous"]) == (None, before)
    assert softpos.doctor().unwell == {}

    own_stack.gateway.cool()
    assert Backend(own_stack, own_stack.gateway.url, lines).enroll().status_code == 201

    assert softpos("certificate", "rollback").status == 0
    versions = shown(softpos)
    assert versions["current"] == before
    assert versions["previous"]["certificate"]["subject"].endswith(f"CN={name}")
    assert softpos("certificate", "rollback").status == 0
    assert shown(softpos)["current"]["certificate"]["subject"].endswith(f"CN={name}")


def test_nothing_of_the_key_is_printed_or_left_on_disk_unless_it_is_asked_for(
    softpos: Softpos, portal: Portal, own_stack: LocalStack
) -> None:
    runs = [softpos("certificate", "request", "--name", "SECRETIVE")]
    portal.sign("SECRETIVE.csr", "SECRETIVE.p7b")
    runs += [softpos("certificate", "import", "SECRETIVE.p7b"), softpos("certificate", "activate", "--force")]
    runs += [softpos("certificate", "show"), softpos("certificate", "show", "--json"), softpos("doctor")]
    secret = own_stack.aws.client("secretsmanager").get_secret_value(SecretId=own_stack.outputs["CertificateSecretId"])
    parts = of_key(json.loads(secret["SecretString"])["private_key"])
    written = b"".join(each.read_bytes() for each in softpos.folder.iterdir()).decode()
    everything = written + "".join(run.out + run.err for run in runs)
    assert [run.status for run in runs[:5]] == [0] * 5
    assert [part for part in parts if part in everything] == []

    assert softpos("certificate", "request", "--name", "OPEN", "--key-file", "OPEN.key").status == 0
    key_file = softpos.folder / "OPEN.key"
    assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
    assert "PRIVATE KEY" in key_file.read_text()


def test_by_force_a_certificate_that_nexi_does_not_take_becomes_current(softpos: Softpos, portal: Portal) -> None:
    softpos("certificate", "request", "--name", "FORCED")
    portal.sign("FORCED.csr", "FORCED.p7b")
    softpos("certificate", "import", "FORCED.p7b")
    assert softpos("certificate", "activate", "--force").status == 0
    assert softpos.doctor().unwell == {"certificate is registered": "failed"}
    back = softpos("certificate", "rollback")
    assert back.status == 0, back.err
    assert softpos.doctor().unwell == {}


def test_what_nexi_sent_for_another_request_is_refused(softpos: Softpos, portal: Portal) -> None:
    softpos("certificate", "request", "--name", "FIRST")
    portal.sign("FIRST.csr", "FIRST.p7b")
    softpos("certificate", "request", "--name", "SECOND", "--replace")
    run = softpos("certificate", "import", "FIRST.p7b")
    assert run.status == 1
    assert "none of the certificates is the pending key's" in run.err
    assert not (softpos.folder / "FIRST.pem").exists()


def test_a_key_born_in_kms_signs_and_mutual_tls_keeps_its_own(
    softpos: Softpos, portal: Portal, own_stack: LocalStack
) -> None:
    before = shown(softpos)["current"]["certificate"]
    made = softpos("certificate", "request", "--name", "INKMS", "--key", "kms")
    assert made.status == 0, made.err
    key_id = shown(softpos)["pending"]["signing_key_id"]
    portal.sign("INKMS.csr", "INKMS.p7b")
    imported = softpos("certificate", "import", "INKMS.p7b")
    assert f"SigningKeyId={key_id}" in imported.out
    portal.register("INKMS.pem")
    assert softpos("certificate", "activate").status == 0
    current = shown(softpos)["current"]
    assert current["certificate"] == before
    assert current["signing_certificate"]["subject"].endswith("CN=INKMS")

    with LocalStack(signer="kms") as signing:
        other = Softpos(signing, softpos.folder)
        before = shown(other)["current"]["signing_certificate"]
        assert other("certificate", "request", "--name", "RENEWED", "--key", "kms").status == 0
        # The key that signs is asked for the new one, too.
        assert (
            shown(other)["pending"]["signing_key_id"]
            == signing.template.functions()["EnrollmentFunction"].environment["SIGNING_KEY_ID"]
        )
        Portal(signing, softpos.folder).sign("RENEWED.csr", "RENEWED.p7b")
        assert other("certificate", "import", "RENEWED.p7b").status == 0
        Portal(signing, softpos.folder).register("RENEWED.pem")
        assert other("certificate", "activate").status == 0
        assert shown(other)["current"]["signing_certificate"]["subject"].endswith("CN=RENEWED")
        assert other.doctor("--enroll", OPERATOR).unwell == {}

        # A certificate whose key is not the one in KMS would make every signature worthless.
        assert other("certificate", "request", "--name", "MUTUALTLS").status == 0
        Portal(signing, softpos.folder).sign("MUTUALTLS.csr", "MUTUALTLS.p7b")
        assert other("certificate", "import", "MUTUALTLS.p7b").status == 0
        Portal(signing, softpos.folder).register("MUTUALTLS.pem")
        assert other("certificate", "activate").status == 0
        assert shown(other)["current"]["signing_certificate"]["subject"].endswith("CN=RENEWED")
        assert other.doctor("--enroll", OPERATOR).unwell == {}


def test_a_version_that_the_stacks_key_in_kms_does_not_fit_is_not_activated(tmp_path: Path) -> None:
    with LocalStack(signer="kms") as stack:
        softpos, secrets = Softpos(stack, tmp_path), stack.aws.client("secretsmanager")
        secrets.put_secret_value(
            SecretId=stack.outputs["CertificateSecretId"],
            SecretString=json.dumps(
                {"certificate": stack.developer.certificate_pem, "private_key": stack.developer.key_pem}
            ),
            VersionStages=["AWSPENDING"],
        )
        run = softpos("certificate", "activate")
        assert run.status == 1
        assert "nothing was changed: the KMS key that SIGNING_KEY_ID names is not the one" in run.err
        assert "deploy the stack with an empty SigningKeyId first" in run.err
