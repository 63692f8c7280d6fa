"""What a look at the certificate secret finds, one row for each state that it may be in."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from botocore.exceptions import ClientError, EndpointConnectionError, NoCredentialsError
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from handlers import aws_client
from moto import mock_aws
from unit_support import RsaPair

from sandbox.authority import Authority, Issued
from softpos.certificate_watch import Examination, examine
from softpos.credentials import Certificate
from softpos.errors import MisconfiguredError, SigningUnavailableError, SoftposError
from softpos.nexi.signing import KmsSigner


@dataclass
class Secret:
    """A secret in Secrets Manager, which fails when asked for a version as it is told to."""

    manager: Any
    id: str
    failing: dict[str, Exception] = field(default_factory=dict)
    asked: list[dict[str, str]] = field(default_factory=list)

    def get_secret_value(self, **arguments: str) -> Any:
        self.asked.append(arguments)
        label = arguments.get("VersionStage", "AWSCURRENT")
        if label in self.failing:
            raise self.failing[label]
        return self.manager.get_secret_value(**arguments)

    def put(self, value: str | bytes, *labels: str) -> None:
        name = "SecretBinary" if isinstance(value, bytes) else "SecretString"
        self.manager.put_secret_value(SecretId=self.id, VersionStages=labels or ["AWSCURRENT"], **{name: value})

    def examined(self, check: Callable[[Certificate], None] = lambda _: None) -> Examination:
        client: Any = self
        return examine(client, self.id, check)


@pytest.fixture(scope="module")
def moto() -> Iterator[None]:
    with mock_aws():
        yield


@pytest.fixture
def secret(moto: None) -> Iterator[Secret]:
    """Without a value."""
    manager = aws_client("secretsmanager")
    made = manager.create_secret(Name="softpos/certificate")["ARN"]
    yield Secret(manager, made)
    manager.delete_secret(SecretId=made, ForceDeleteWithoutRecovery=True)


@pytest.fixture(scope="module")
def renewed(authority: Authority) -> Issued:
    """The certificate that is to come after the developer's, with a key of its own."""
    return authority.developer("RENEWED")


@pytest.fixture
def expired(authority: Authority, developer: Issued) -> Issued:
    assert isinstance(developer.key, rsa.RSAPrivateKey)
    begin = developer.certificate.not_valid_before_utc.replace(year=2020, month=1, day=1)
    return authority.developer("EXPIRED", key=developer.key, not_before=begin)


def stored(issued: Issued, **members: str) -> str:
    return json.dumps({"certificate": issued.certificate_pem, "private_key": issued.key_pem, **members})


def key_alone(issued: Issued) -> str:
    """As `softpos certificate request` leaves it while the request is at Nexi."""
    return json.dumps({"private_key": issued.key_pem, "signing_request": "-----BEGIN CERTIFICATE REQUEST-----"})


class TestTheCurrentVersion:
    def test_alone_it_fits_and_nothing_is_pending(self, secret: Secret, developer: Issued) -> None:
        secret.put(stored(developer))
        found = secret.examined()
        assert found.current is not None
        assert found.current.thumbprint == developer.thumbprint
        assert found == Examination(found.current, unfit=None)

    def test_expired_it_still_fits(self, secret: Secret, expired: Issued) -> None:
        secret.put(stored(expired))
        found = secret.examined()
        assert found.unfit is None
        assert found.current is not None
        assert found.current.not_after == expired.certificate.not_valid_after_utc

    @pytest.mark.parametrize(
        ("value", "found"),
        [
            pytest.param(lambda _: "{", "not JSON", id="malformed-json"),
            pytest.param(lambda _: "[]", "not an object", id="no-object"),
            pytest.param(lambda _: b"{}", "is binary", id="binary"),
            pytest.param(key_alone, "certificate is missing", id="a-key-alone"),
            pytest.param(
                lambda developer: stored(developer, certificate="pem"), "certificate is not PEM", id="no-certificate"
            ),
        ],
    )
    def test_malformed_it_does_not_fit(
        self, secret: Secret, developer: Issued, value: Callable[[Issued], str | bytes], found: str
    ) -> None:
        secret.put(value(developer))
        assert_unfit(secret.examined(), found)

    def test_with_a_key_of_another_certificate_it_does_not_fit(
        self, secret: Secret, developer: Issued, other_key: RsaPair
    ) -> None:
        secret.put(stored(developer, private_key=other_key.private_pem))
        assert_unfit(secret.examined(), "private_key belongs to none of the 1 certificates")

    def test_a_secret_that_was_never_given_a_value_does_not_fit(self, secret: Secret) -> None:
        assert_unfit(secret.examined(), "has no current value")

    def test_a_secret_that_is_not_there_does_not_fit(self, secret: Secret) -> None:
        assert_unfit(Secret(secret.manager, "no-such-secret").examined(), "does not exist")

    def test_one_that_may_not_be_read_does_not_fit(self, secret: Secret) -> None:
        secret.failing["AWSCURRENT"] = refused("AccessDeniedException")
        assert_unfit(secret.examined(), "cannot be read")

    def test_what_does_not_fit_is_not_checked_any_further(self, secret: Secret) -> None:
        secret.put("{}")
        checked: list[Certificate] = []
        secret.examined(checked.append)
        assert checked == []


class TestThePendingVersion:
    def test_with_a_certificate_it_is_seen_beside_the_current_one(
        self, secret: Secret, developer: Issued, renewed: Issued
    ) -> None:
        secret.put(stored(developer))
        secret.put(stored(renewed), "AWSPENDING")
        found = secret.examined()
        assert found.current is not None
        assert found.pending is not None
        assert (found.current.thumbprint, found.pending.thumbprint) == (developer.thumbprint, renewed.thumbprint)
        assert found == Examination(found.current, None, found.pending)

    def test_without_a_certificate_it_is_awaited(self, secret: Secret, developer: Issued, renewed: Issued) -> None:
        secret.put(stored(developer))
        secret.put(key_alone(renewed), "AWSPENDING")
        found = secret.examined()
        assert found == Examination(found.current, None, awaited=True)

    def test_which_is_the_current_one_is_none(self, secret: Secret, developer: Issued) -> None:
        secret.put(stored(developer), "AWSCURRENT", "AWSPENDING")
        found = secret.examined()
        assert found == Examination(found.current, None)
        assert len(secret.asked) == 2

    def test_which_is_the_current_one_is_none_when_that_is_malformed(self, secret: Secret) -> None:
        secret.put("{", "AWSCURRENT", "AWSPENDING")
        found = secret.examined()
        assert found == Examination(None, found.unfit)

    @pytest.mark.parametrize("value", ["{", "{}", b"{}"], ids=["not-json", "empty", "binary"])
    def test_malformed_it_leaves_the_current_one_fit(
        self, secret: Secret, developer: Issued, value: str | bytes
    ) -> None:
        secret.put(stored(developer))
        secret.put(value, "AWSPENDING")
        found = secret.examined()
        assert isinstance(found.pending_unfit, MisconfiguredError)
        assert found == Examination(found.current, None, pending_unfit=found.pending_unfit)

    def test_it_is_seen_though_the_current_one_does_not_fit(self, secret: Secret, renewed: Issued) -> None:
        secret.put("{")
        secret.put(stored(renewed), "AWSPENDING")
        found = secret.examined()
        assert found.unfit is not None
        assert found.pending is not None

    def test_it_needs_no_key_in_kms_yet(self, secret: Secret, developer: Issued, renewed: Issued) -> None:
        secret.put(stored(developer))
        secret.put(stored(renewed), "AWSPENDING")
        checked: list[Certificate] = []
        secret.examined(checked.append)
        assert [each.thumbprint for each in checked] == [developer.thumbprint]


@pytest.fixture(scope="module")
def kms(moto: None) -> Any:
    return aws_client("kms")


@pytest.fixture(scope="module")
def key_id(kms: Any) -> str:
    made: str = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
    return made


class TestTheKeyInKms:
    @pytest.fixture
    def signed(self, kms: Any, key_id: str, developer: Issued, authority: Authority) -> str:
        """The secret of a key that was born in KMS."""
        public = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
        assert isinstance(public, rsa.RSAPublicKey)
        certificate = authority.certify("SIGNING", public).public_bytes(serialization.Encoding.PEM).decode()
        return stored(developer, signing_certificate=certificate)

    @staticmethod
    def check(kms: Any, key_id: str) -> Callable[[Certificate], None]:
        return lambda certificate: KmsSigner(kms, key_id, certificate.signing_public_key).check()

    def test_that_is_the_certificates_fits(self, secret: Secret, kms: Any, key_id: str, signed: str) -> None:
        secret.put(signed)
        assert secret.examined(self.check(kms, key_id)).unfit is None

    def test_that_is_another_does_not_fit_and_the_certificate_is_seen(
        self, secret: Secret, kms: Any, key_id: str, developer: Issued
    ) -> None:
        secret.put(stored(developer))
        found = secret.examined(self.check(kms, key_id))
        assert "not the one that the certificate is for" in str(found.unfit)
        assert found.current is not None

    def test_that_is_not_there_does_not_fit(self, secret: Secret, kms: Any, signed: str) -> None:
        secret.put(signed)
        found = secret.examined(self.check(kms, "1234abcd-12ab-34cd-56ef-1234567890ab"))
        assert "cannot be used (get_public_key: NotFoundException)" in str(found.unfit)

    def test_that_cannot_be_asked_says_nothing(self, secret: Secret, key_id: str, signed: str) -> None:
        secret.put(signed)

        class Throttled:
            def get_public_key(self, **_: str) -> Any:
                raise refused("ThrottlingException")

        with pytest.raises(SigningUnavailableError, match="get_public_key: ThrottlingException"):
            secret.examined(self.check(Throttled(), key_id))


@pytest.mark.parametrize("version", ["AWSCURRENT", "AWSPENDING"])
@pytest.mark.parametrize(
    "failure",
    [
        lambda: refused("ThrottlingException"),
        lambda: refused("InternalServiceError"),
        lambda: EndpointConnectionError(endpoint_url="https://secretsmanager"),
        NoCredentialsError,
    ],
    ids=["throttles", "fails", "is-out-of-reach", "knows-nobody"],
)
def test_when_secrets_manager_cannot_be_asked_nothing_is_known(
    secret: Secret, developer: Issued, version: str, failure: Callable[[], Exception]
) -> None:
    secret.put(stored(developer))
    secret.failing[version] = failure()
    with pytest.raises(SoftposError, match="Secrets Manager failed for CERTIFICATE_SECRET_ID") as caught:
        secret.examined()
    assert not isinstance(caught.value, MisconfiguredError)


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "arn:aws:…"}}, "Operation")


def assert_unfit(examination: Examination, found: str) -> None:
    """That it says so, and that nothing is there to count the days of."""
    assert isinstance(examination.unfit, MisconfiguredError)
    assert found in str(examination.unfit)
    assert examination.unfit.remedy
    assert examination == Examination(None, examination.unfit)
