"""Signing in KMS: what python-jose gets is what Nexi verifies, and what KMS fails with becomes ours."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ConnectTimeoutError, NoCredentialsError, ReadTimeoutError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_der_public_key
from moto import mock_aws
from unit_support import RsaPair

from softpos.errors import MisconfiguredError, SigningUnavailableError, SoftposError
from softpos.nexi.signing import KmsSigner

SIGNING_INPUT = b"eyJhbGciOiJSUzI1NiJ9.eyJqdGkiOiIxIn0"


@dataclass
class Key:
    """A key in KMS, and what went there."""

    kms: Any
    id: str
    public: rsa.RSAPublicKey
    calls: list[tuple[str, dict[str, Any]]]
    failure: Exception | None = None
    failing: str = "sign"

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.calls.append((operation, arguments))
            if self.failure is not None and operation == self.failing:
                raise self.failure
            return getattr(self.kms, operation)(**arguments)

        return call

    def signer(self, public: rsa.RSAPublicKey | None = None) -> KmsSigner:
        client: Any = self
        return KmsSigner(client, self.id, public or self.public)


@pytest.fixture(scope="module")
def made() -> Iterator[tuple[Any, str, rsa.RSAPublicKey]]:
    with mock_aws():
        kms = boto3.client("kms", region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test")
        key_id = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        public = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
        assert isinstance(public, rsa.RSAPublicKey)
        yield kms, key_id, public


@pytest.fixture
def key(made: tuple[Any, str, rsa.RSAPublicKey]) -> Key:
    return Key(*made, calls=[])


def test_the_signature_is_rs256_over_the_signing_input(key: Key) -> None:
    signature = key.signer().sign(SIGNING_INPUT)
    key.public.verify(signature, SIGNING_INPUT, padding.PKCS1v15(), SHA256())
    with pytest.raises(InvalidSignature):
        key.public.verify(signature, SIGNING_INPUT + b".", padding.PKCS1v15(), SHA256())


def test_kms_is_told_the_signing_input_itself_and_how_to_sign_it(key: Key) -> None:
    key.signer().sign(SIGNING_INPUT)
    assert key.calls[-1] == (
        "sign",
        {
            "KeyId": key.id,
            "Message": SIGNING_INPUT,
            "MessageType": "RAW",
            "SigningAlgorithm": "RSASSA_PKCS1_V1_5_SHA_256",
        },
    )


def test_the_public_half_is_looked_at_once(key: Key) -> None:
    signer = key.signer()
    assert key.calls == [], "and not before it is needed"
    for _ in range(3):
        signer.sign(SIGNING_INPUT)
    assert [operation for operation, _ in key.calls] == ["get_public_key", "sign", "sign", "sign"]


def test_a_key_that_is_not_the_certificates_signs_nothing(key: Key, other_key: RsaPair) -> None:
    signer = key.signer(other_key.public)
    for _ in range(2):
        with pytest.raises(MisconfiguredError, match="not the one that the certificate is for") as caught:
            signer.sign(SIGNING_INPUT)
        assert "signing_certificate" in caught.value.remedy
    assert "sign" not in [operation for operation, _ in key.calls]


def test_it_can_be_looked_at_without_a_signature(key: Key, other_key: RsaPair) -> None:
    """With the permission for kms:GetPublicKey alone."""
    key.signer().check()
    with pytest.raises(MisconfiguredError, match="not the one that the certificate is for"):
        key.signer(other_key.public).check()
    assert [operation for operation, _ in key.calls] == ["get_public_key"] * 2


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": f"arn:aws:kms:eu-south-1:1:key/{code}"}}, "Sign")


@pytest.mark.parametrize("failing", ["sign", "get_public_key"])
@pytest.mark.parametrize(
    ("failure", "error"),
    [
        (refused("NotFoundException"), MisconfiguredError),
        (refused("AccessDeniedException"), MisconfiguredError),
        (refused("DisabledException"), MisconfiguredError),
        (refused("KMSInvalidStateException"), MisconfiguredError),
        (refused("InvalidKeyUsageException"), MisconfiguredError),
        (refused("UnsupportedOperationException"), MisconfiguredError),
        (refused("ThrottlingException"), SigningUnavailableError),
        (refused("LimitExceededException"), SigningUnavailableError),
        (refused("KeyUnavailableException"), SigningUnavailableError),
        (refused("DependencyTimeoutException"), SigningUnavailableError),
        (refused("KMSInternalException"), SigningUnavailableError),
        (ReadTimeoutError(endpoint_url="https://kms"), SigningUnavailableError),
        (ConnectTimeoutError(endpoint_url="https://kms"), SigningUnavailableError),
        (NoCredentialsError(), SigningUnavailableError),
    ],
    ids=lambda each: each.response["Error"]["Code"] if isinstance(each, ClientError) else getattr(each, "__name__", ""),
)
def test_what_kms_fails_with_becomes_ours(
    key: Key, failing: str, failure: Exception, error: type[SoftposError]
) -> None:
    key.failure, key.failing = failure, failing
    with pytest.raises(SoftposError, match=failing) as caught:
        key.signer().sign(SIGNING_INPUT)
    assert type(caught.value) is error
    assert caught.value.remedy
    assert "arn:" not in f"{caught.value} {caught.value.remedy}"
    assert caught.value.__cause__ is failure


def test_a_failure_is_not_remembered(key: Key) -> None:
    signer = key.signer()
    key.failure, key.failing = refused("ThrottlingException"), "get_public_key"
    with pytest.raises(SigningUnavailableError):
        signer.sign(SIGNING_INPUT)
    key.failure = None
    key.public.verify(signer.sign(SIGNING_INPUT), SIGNING_INPUT, padding.PKCS1v15(), SHA256())


def test_a_key_for_something_else_is_found_before_it_is_to_sign(made: tuple[Any, str, rsa.RSAPublicKey]) -> None:
    kms, *_ = made
    key_id = kms.create_key(KeySpec="RSA_2048", KeyUsage="ENCRYPT_DECRYPT")["KeyMetadata"]["KeyId"]
    public = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
    assert isinstance(public, rsa.RSAPublicKey)
    other = Key(kms, key_id, public, calls=[])
    with pytest.raises(MisconfiguredError, match="is not for signing"):
        other.signer().check()
    with pytest.raises(MisconfiguredError, match="is not for signing"):
        other.signer().sign(SIGNING_INPUT)
    assert "sign" not in [operation for operation, _ in other.calls]
