"""The certificate secret's versions: which label is where after each step, and that no value of them is a crash."""

import json
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from moto import mock_aws
from unit_support import RsaPair

from onboarding import issued, signing_request
from onboarding.deployment import AwsError, CommandError
from onboarding.versions import CertificateSecret, Version
from sandbox.authority import Authority, Issued

SECRET = "softpos-staging/certificate"


class Steps:
    """moto's Secrets Manager with one empty secret, which tells of each change and ends before one when told to."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.ends_before: int | None = None
        self.changes: list[dict[str, Any]] = []

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            if operation == "update_secret_version_stage":
                if self.ends_before == len(self.changes):
                    raise KeyboardInterrupt
                self.changes.append(arguments)
                self._check(arguments)
            return getattr(self.client, operation)(**arguments)

        return call

    def _check(self, arguments: dict[str, Any]) -> None:
        """As Secrets Manager does, and moto for AWSCURRENT alone: a label is taken from the version that has it."""
        labels = self.client.describe_secret(SecretId=SECRET).get("VersionIdsToStages", {})
        elsewhere = [each for each, given in labels.items() if arguments["VersionStage"] in given]
        if "RemoveFromVersionId" not in arguments and elsewhere:
            error = {"Code": "InvalidParameterException", "Message": "you must explicitly reference that version"}
            raise ClientError({"Error": error}, "UpdateSecretVersionStage")

    @property
    def labels(self) -> dict[str, set[str]]:
        """The labels of each version that has some, by what the version holds."""
        versions = self.client.describe_secret(SecretId=SECRET).get("VersionIdsToStages", {})
        return {self._held(version): set(labels) for version, labels in versions.items() if labels}

    def _held(self, version_id: str) -> str:
        members = json.loads(self.client.get_secret_value(SecretId=SECRET, VersionId=version_id)["SecretString"])
        return str(members.get("as", members))

    def store(self, value: str | bytes, *labels: str) -> None:
        given = {"SecretString": value} if isinstance(value, str) else {"SecretBinary": value}
        self.client.put_secret_value(SecretId=SECRET, VersionStages=list(labels), **given)


@pytest.fixture
def steps() -> Iterator[Any]:
    with mock_aws():
        client = boto3.client(
            "secretsmanager", region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        client.create_secret(Name=SECRET)
        yield Steps(client)


@pytest.fixture
def secret(steps: Any) -> CertificateSecret:
    return CertificateSecret(steps, SECRET)


@pytest.fixture(scope="module")
def requested(developer: Issued) -> dict[str, str]:
    """What is stored until Nexi has signed it."""
    assert isinstance(developer.key, rsa.RSAPrivateKey)
    made = signing_request.build("NOMEAPP", signing_request.UNITS["staging"], developer.key)
    return {"as": "requested", "private_key": developer.key_pem, "signing_request": signing_request.pem(made)}


@pytest.fixture(scope="module")
def signed(developer: Issued, authority: Authority) -> dict[str, str]:
    """What functions can use."""
    text = developer.certificate_pem + authority.certificate_pem
    return {"as": "signed", "private_key": developer.key_pem, "certificate": text}


def kept(version: Version | None) -> Any:
    return version and version.members["as"]


def state(secret: CertificateSecret) -> tuple[Any, Any, Any]:
    """What current, pending and previous are."""
    return kept(secret.current), kept(secret.pending), kept(secret.previous)


class TestTheWayOfACertificate:
    def test_begins_with_nothing(self, secret: CertificateSecret) -> None:
        assert state(secret) == (None, None, None)

    def test_a_first_request_is_pending_although_its_label_says_current_too(
        self, steps: Any, secret: CertificateSecret, requested: dict[str, str]
    ) -> None:
        secret.put_pending(requested)
        assert steps.labels == {"requested": {"AWSCURRENT", "AWSPENDING"}}, "as Secrets Manager does it"
        assert state(secret) == (None, "requested", None)

    def test_a_first_certificate_is_pending_and_its_request_is_forgotten(
        self, steps: Any, secret: CertificateSecret, requested: dict[str, str], signed: dict[str, str]
    ) -> None:
        secret.put_pending(requested)
        secret.put_pending(signed)
        assert steps.labels == {"requested": {"AWSCURRENT"}, "signed": {"AWSPENDING"}}
        assert state(secret) == (None, "signed", None)

    def test_a_first_certificate_becomes_current_and_there_is_no_way_back_to_its_request(
        self, steps: Any, secret: CertificateSecret, requested: dict[str, str], signed: dict[str, str]
    ) -> None:
        secret.put_pending(requested)
        secret.put_pending(signed)
        self.activate(secret)
        assert steps.labels == {"signed": {"AWSCURRENT"}, "requested": {"AWSPREVIOUS"}}
        assert state(secret) == ("signed", None, None)

    def test_a_request_leaves_what_is_current_alone(
        self, steps: Any, secret: CertificateSecret, requested: dict[str, str], signed: dict[str, str]
    ) -> None:
        steps.store(json.dumps(signed), "AWSCURRENT")
        secret.put_pending(requested)
        assert steps.labels == {"signed": {"AWSCURRENT"}, "requested": {"AWSPENDING"}}
        assert state(secret) == ("signed", "requested", None)

    def test_what_was_current_is_previous_and_comes_back_and_goes_again(
        self, steps: Any, secret: CertificateSecret, signed: dict[str, str]
    ) -> None:
        steps.store(json.dumps({**signed, "as": "old"}), "AWSCURRENT")
        secret.put_pending({**signed, "as": "new"})
        self.activate(secret)
        assert state(secret) == ("new", None, "old")
        assert steps.labels == {"new": {"AWSCURRENT"}, "old": {"AWSPREVIOUS"}}, "and nothing is pending any more"
        for current, previous in (("old", "new"), ("new", "old")):
            assert secret.previous is not None
            secret.make_current(secret.previous)
            assert state(secret) == (current, None, previous)

    def test_going_back_leaves_what_is_pending_alone(
        self, steps: Any, secret: CertificateSecret, requested: dict[str, str], signed: dict[str, str]
    ) -> None:
        steps.store(json.dumps({**signed, "as": "old"}), "AWSCURRENT")
        steps.store(json.dumps({**signed, "as": "new"}), "AWSCURRENT")
        secret.put_pending(requested)
        assert secret.previous is not None
        secret.make_current(secret.previous)
        assert state(secret) == ("old", "requested", "new")

    def test_what_is_current_can_be_made_so_again(
        self, steps: Any, secret: CertificateSecret, signed: dict[str, str]
    ) -> None:
        steps.store(json.dumps(signed), "AWSCURRENT")
        assert secret.current is not None
        secret.make_current(secret.current)
        assert steps.changes == []
        assert state(secret) == ("signed", None, None)

    @staticmethod
    def activate(secret: CertificateSecret) -> None:
        assert secret.pending is not None
        secret.make_current(secret.pending)


class TestAnEndInBetween:
    """Of the two labels that move, the one that functions look at moves first."""

    @pytest.fixture
    def renewing(self, steps: Any, secret: CertificateSecret, signed: dict[str, str]) -> CertificateSecret:
        steps.store(json.dumps({**signed, "as": "old"}), "AWSCURRENT")
        secret.put_pending({**signed, "as": "new"})
        steps.changes.clear()
        return secret

    def ends_before(self, steps: Any, secret: CertificateSecret, change: int) -> CertificateSecret:
        """What the next command finds."""
        steps.ends_before = change
        with pytest.raises(KeyboardInterrupt):
            TestTheWayOfACertificate.activate(secret)
        steps.ends_before = None
        return CertificateSecret(steps, SECRET)

    def test_before_the_first_nothing_has_changed(self, steps: Any, renewing: CertificateSecret) -> None:
        assert state(self.ends_before(steps, renewing, 0)) == ("old", "new", None)

    def test_before_the_second_it_is_current_and_not_pending(self, steps: Any, renewing: CertificateSecret) -> None:
        found = self.ends_before(steps, renewing, 1)
        assert steps.labels == {"new": {"AWSCURRENT", "AWSPENDING"}, "old": {"AWSPREVIOUS"}}
        assert state(found) == ("new", None, "old")

    def test_the_second_can_be_made_up_for(self, steps: Any, renewing: CertificateSecret) -> None:
        found = self.ends_before(steps, renewing, 1)
        assert found.current is not None
        found.make_current(found.current)
        assert steps.labels == {"new": {"AWSCURRENT"}, "old": {"AWSPREVIOUS"}}

    def test_a_later_request_takes_the_label(
        self, steps: Any, renewing: CertificateSecret, requested: dict[str, str]
    ) -> None:
        found = self.ends_before(steps, renewing, 1)
        found.put_pending(requested)
        assert state(found) == ("new", "requested", "old")

    def test_a_way_back_is_there(self, steps: Any, renewing: CertificateSecret) -> None:
        found = self.ends_before(steps, renewing, 1)
        assert found.previous is not None
        found.make_current(found.previous)
        assert state(found) == ("old", "new", "new"), "pending again, since its label says so"


class TestTwoAtOnce:
    """Each has read what is pending before the other stored anything."""

    @pytest.mark.parametrize("pending", [False, True], ids=["nothing-pending", "something-pending"])
    def test_the_later_one_is_told_and_the_earlier_ones_stays(
        self, steps: Any, secret: CertificateSecret, requested: dict[str, str], signed: dict[str, str], pending: bool
    ) -> None:
        steps.store(json.dumps({**signed, "as": "old"}), "AWSCURRENT")
        if pending:
            secret.put_pending({**requested, "as": "before"})
        later = CertificateSecret(steps, SECRET)
        assert (later.pending is not None) == pending
        secret.put_pending({**requested, "as": "earlier"})
        with pytest.raises(CommandError, match="someone else has stored another pending version"):
            later.put_pending({**requested, "as": "later"})
        assert state(CertificateSecret(steps, SECRET)) == ("old", "earlier", None)
        assert {label for labels in steps.labels.values() for label in labels} == {"AWSCURRENT", "AWSPENDING"}

    def test_what_was_stored_while_another_was_activated_stays_pending(
        self, steps: Any, secret: CertificateSecret, requested: dict[str, str], signed: dict[str, str]
    ) -> None:
        steps.store(json.dumps({**signed, "as": "old"}), "AWSCURRENT")
        secret.put_pending({**signed, "as": "new"})
        activating = CertificateSecret(steps, SECRET)
        version = activating.pending
        assert version is not None
        secret.put_pending({**requested, "as": "other"})
        activating.make_current(version)
        assert state(CertificateSecret(steps, SECRET)) == ("new", "other", "old")


class TestAMalformedValue:
    @pytest.mark.parametrize(
        "value",
        [
            pytest.param(" ", id="blank"),
            pytest.param("not JSON", id="not-json"),
            pytest.param('{"certificate": ', id="json-cut-short"),
            pytest.param("[" * 100_000, id="json-too-deep"),
            pytest.param("[]", id="list"),
            pytest.param("null", id="null"),
            pytest.param("7", id="number"),
            pytest.param("{}", id="no-members"),
            pytest.param(b"\x30\x82", id="binary"),
            pytest.param(json.dumps({"certificate": 7, "private_key": 7, "signing_request": 7}), id="numbers"),
            pytest.param(json.dumps({"certificate": ["x"], "signing_certificate": {}}), id="structures"),
            pytest.param(json.dumps({"certificate": "", "signing_request": ""}), id="empty-members"),
            pytest.param(json.dumps({"certificate": "PEM", "signing_request": "PEM"}), id="no-pem"),
            pytest.param(
                json.dumps({"certificate": "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"}),
                id="pem-of-nothing",
            ),
            pytest.param(
                json.dumps(
                    {"signing_request": "-----BEGIN CERTIFICATE REQUEST-----\nA\n-----END CERTIFICATE REQUEST-----\n"}
                ),
                id="request-of-nothing",
            ),
            pytest.param(json.dumps({"certificate": "\ud800", "signing_request": "\ud800"}), id="no-text"),
        ],
    )
    def test_is_nothing_of_use(self, steps: Any, secret: CertificateSecret, value: str | bytes) -> None:
        steps.store(value, "AWSCURRENT")
        steps.store(value, "AWSCURRENT")
        steps.store(value, "AWSPENDING")
        assert (secret.current, secret.previous) == (None, None)
        pending = secret.pending
        assert pending is not None, "there is something, and it can be replaced"
        assert (pending.chain, pending.signing_chain, pending.request, pending.usable) == ([], [], None, False)
        with pytest.raises(CommandError, match="no RSA key in PEM"):
            pending.awaited_keys  # noqa: B018 - it raises

    @pytest.mark.parametrize(
        "private_key",
        ["s3cr3t", "-----BEGIN PRIVATE KEY-----\nczNjcjN0\n-----END PRIVATE KEY-----\n", None, ["s3cr3t"]],
        ids=["no-pem", "pem-of-nothing", "null", "list"],
    )
    def test_a_malformed_key_is_told_without_a_word_of_it(
        self, steps: Any, secret: CertificateSecret, private_key: Any
    ) -> None:
        steps.store(json.dumps({"private_key": private_key}), "AWSPENDING")
        assert secret.pending is not None
        with pytest.raises(CommandError, match="the version's private_key is no RSA key in PEM") as caught:
            secret.pending.private_key  # noqa: B018 - it raises
        assert "s3cr3t" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None

    def test_a_key_that_is_not_rsa_is_none(self, authority: Authority, secret: CertificateSecret) -> None:
        secret.put_pending({"private_key": authority.server("nexi.example").key_pem})
        assert secret.pending is not None
        with pytest.raises(CommandError, match="no RSA key in PEM"):
            secret.pending.private_key  # noqa: B018 - it raises


class TestTheKeyThatIsAwaited:
    """Whose certificate may be imported."""

    def test_is_the_requests(self, secret: CertificateSecret, requested: dict[str, str], developer: Issued) -> None:
        secret.put_pending(requested)
        assert secret.pending is not None
        assert secret.pending.awaited_keys == [developer.certificate.public_key()]

    def test_is_the_one_in_kms_when_that_was_asked_for(
        self, secret: CertificateSecret, signed: dict[str, str], other_key: RsaPair
    ) -> None:
        made = signing_request.build("NOMEAPP", signing_request.UNITS["staging"], other_key.private)
        secret.put_pending({**signed, "signing_key_id": "id", "signing_request": signing_request.pem(made)})
        assert secret.pending is not None
        assert secret.pending.awaited_keys == [other_key.public]
        assert not secret.pending.usable
        assert not secret.pending.born_in_kms, "not yet"

    def test_is_either_once_both_have_their_certificate(
        self,
        secret: CertificateSecret,
        signed: dict[str, str],
        developer: Issued,
        authority: Authority,
        other_key: RsaPair,
    ) -> None:
        of_kms = authority.developer("NOMEAPP", key=other_key.private).certificate
        secret.put_pending({**signed, "as": "current, as the first that there is"})
        secret.put_pending({**signed, "signing_key_id": "id", "signing_certificate": issued.pem([of_kms])})
        assert secret.pending is not None
        assert secret.pending.awaited_keys == [developer.certificate.public_key(), other_key.public]
        assert secret.pending.born_in_kms
        assert secret.pending.usable


def test_no_version_shows_its_key(secret: CertificateSecret, signed: dict[str, str]) -> None:
    secret.put_pending(signed)
    shown = f"{secret.pending!r} {secret.pending} {secret!r} {vars(secret)}"
    assert "Version(id=" in shown
    assert all(line not in shown for line in signed["private_key"].splitlines())


def test_each_version_is_read_once_until_something_changes(steps: Any, signed: dict[str, str]) -> None:
    steps.store(json.dumps(signed), "AWSCURRENT")
    read: list[str] = []

    class Counted:
        def __getattr__(self, operation: str) -> Any:
            read.append(operation)
            return getattr(steps, operation)

    client: Any = Counted()
    secret = CertificateSecret(client, SECRET)
    for _ in range(2):
        assert state(secret) == ("signed", None, None)
    assert read == ["describe_secret", "get_secret_value"]
    secret.put_pending({**signed, "as": "new"})
    assert state(secret) == ("signed", "new", None)


@pytest.mark.parametrize("operation", ["describe_secret", "get_secret_value", "put_secret_value"])
def test_what_secrets_manager_refuses_is_said_with_what_to_do(
    steps: Any, signed: dict[str, str], operation: str
) -> None:
    steps.store(json.dumps(signed), "AWSCURRENT")

    class Refusing:
        def __getattr__(self, asked: str) -> Any:
            def refuse(**arguments: Any) -> Any:
                raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "arn:aws"}}, "Operation")

            return refuse if asked == operation else getattr(steps, asked)

    client: Any = Refusing()
    secret = CertificateSecret(client, SECRET)
    with pytest.raises(AwsError, match=r"AWS refused Operation \(AccessDeniedException\)") as caught:
        secret.put_pending(signed) if operation == "put_secret_value" else state(secret)
    assert "arn:" not in f"{caught.value} {caught.value.remedy}"
    assert "let the signed-in identity" in caught.value.remedy
