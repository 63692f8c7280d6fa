"""Keys brought into KMS: what is sent opens only with KMS's wrapping key, is the certificate's key, and is told to no
one else; what went wrong leaves nothing behind unsaid.

moto has neither GetParametersForImport nor ImportKeyMaterial: a double opens what is sent, as KMS does.
"""

import functools
import traceback
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError, ReadTimeoutError
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.keywrap import InvalidUnwrap, aes_key_unwrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_private_key, load_der_public_key
from moto import mock_aws
from unit_support import RsaPair

from onboarding import kms
from onboarding.deployment import AwsError, CommandError

TOKEN = b"for this import alone"
OAEP = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)


@functools.cache
def wrapping() -> rsa.RSAPrivateKey:
    """What KMS keeps to itself. Made once, by the first who asks: it takes seconds."""
    return rsa.generate_private_key(65537, 4096)


def spki(key: rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey) -> bytes:
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def refusal(operation: str) -> ClientError:
    return ClientError({"Error": {"Code": "AccessDeniedException", "Message": "arn:aws:kms:key"}}, operation)


class Kms:
    """moto's KMS, and the two calls that it does not have: the material is opened, and its public half is served."""

    def __init__(self, client: Any) -> None:
        self.client = client
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.failing: dict[str, Exception] = {}
        self.wrapping_key = spki(wrapping().public_key())
        self.answers_with: rsa.RSAPublicKey | None = None
        self.material: dict[str, rsa.RSAPrivateKey] = {}

    def __getattr__(self, operation: str) -> Any:
        def call(**arguments: Any) -> Any:
            self.calls.append((operation, arguments))
            if operation in self.failing:
                raise self.failing[operation]
            own = getattr(type(self), f"_{operation}", None)
            return own(self, arguments) if own else getattr(self.client, operation)(**arguments)

        return call

    def _get_parameters_for_import(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert self.metadata(asked["KeyId"])["Origin"] == "EXTERNAL"
        assert asked["WrappingAlgorithm"] == "RSA_AES_KEY_WRAP_SHA_256"
        assert asked["WrappingKeySpec"] == "RSA_4096"
        return {"ImportToken": TOKEN, "PublicKey": self.wrapping_key}

    def _import_key_material(self, asked: dict[str, Any]) -> dict[str, Any]:
        assert asked["ImportToken"] == TOKEN
        assert asked["ExpirationModel"] == "KEY_MATERIAL_DOES_NOT_EXPIRE"
        assert len(asked["EncryptedKeyMaterial"]) <= 6144, "KMS takes no more"
        key = opened(asked["EncryptedKeyMaterial"])
        assert key.key_size == 2048, "the key's KeySpec says so"
        self.material[asked["KeyId"]] = key
        return {}

    def _get_public_key(self, asked: dict[str, Any]) -> dict[str, Any]:
        return {"PublicKey": spki(self.answers_with or self.material[asked["KeyId"]].public_key())}

    def metadata(self, key_id: str) -> dict[str, Any]:
        found: dict[str, Any] = self.client.describe_key(KeyId=key_id)["KeyMetadata"]
        return found

    def only_key(self) -> str:
        """The one key there is: its id."""
        (key,) = self.client.list_keys()["Keys"]
        return str(key["KeyId"])


def opened(sent: bytes) -> rsa.RSAPrivateKey:
    """AWS KMS, "Encrypting key material with RSA_AES_KEY_WRAP_SHA_*": the AES key, then the material that it wraps."""
    modulus = wrapping().key_size // 8
    aes_key = wrapping().decrypt(sent[:modulus], OAEP)
    assert len(aes_key) == 32, "AES of 256 bits"
    material = aes_key_unwrap_with_padding(aes_key, sent[modulus:])
    key = load_der_private_key(material, None)
    assert isinstance(key, rsa.RSAPrivateKey)
    pkcs8 = (serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    assert key.private_bytes(*pkcs8) == material, "KMS takes no other form"
    return key


@pytest.fixture
def double() -> Iterator[Any]:
    with mock_aws():
        yield Kms(boto3.client("kms", region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test"))


class TestAKeyThatIsBroughtIn:
    def test_is_the_certificates_key(self, double: Any, other_key: RsaPair) -> None:
        key_id = kms.bring_in(double, "softpos-staging", "NOMEAPP", other_key.private)
        assert double.material[key_id].private_numbers() == other_key.private.private_numbers()
        assert key_id == double.only_key()

    def test_signs_and_says_what_it_is_for(self, double: Any, other_key: RsaPair) -> None:
        key_id = kms.bring_in(double, "softpos-staging", "NOMEAPP", other_key.private)
        found = double.metadata(key_id)
        assert {name: found[name] for name in ("Origin", "KeySpec", "KeyUsage")} == {
            "Origin": "EXTERNAL",
            "KeySpec": "RSA_2048",
            "KeyUsage": "SIGN_VERIFY",
        }
        assert found["Description"] == "Signs the client assertions of NOMEAPP (softpos-staging)"
        assert double.client.list_resource_tags(KeyId=key_id)["Tags"] == [
            {"TagKey": "softpos:stack", "TagValue": "softpos-staging"},
            {"TagKey": "softpos:app", "TagValue": "NOMEAPP"},
        ]

    def test_is_looked_at_before_it_is_trusted(self, double: Any, other_key: RsaPair) -> None:
        kms.bring_in(double, "softpos-staging", "NOMEAPP", other_key.private)
        assert [operation for operation, _ in double.calls] == [
            "create_key",
            "get_parameters_for_import",
            "import_key_material",
            "get_public_key",
        ]

    def test_is_wrapped_anew_each_time(self, other_key: RsaPair) -> None:
        wrapping_key = spki(wrapping().public_key())
        one, two = (kms.wrapped(other_key.private, wrapping_key) for _ in range(2))
        modulus = wrapping().key_size // 8
        assert wrapping().decrypt(one[:modulus], OAEP) != wrapping().decrypt(two[:modulus], OAEP)
        assert one[modulus:] != two[modulus:]

    def test_cannot_be_opened_when_a_bit_was_lost(self, other_key: RsaPair) -> None:
        sent = kms.wrapped(other_key.private, spki(wrapping().public_key()))
        with pytest.raises(InvalidUnwrap):
            opened(sent[:-1] + bytes([sent[-1] ^ 1]))

    def test_is_nowhere_in_what_is_sent(self, double: Any, other_key: RsaPair) -> None:
        kms.bring_in(double, "softpos-staging", "NOMEAPP", other_key.private)
        numbers = other_key.private.private_numbers()
        sent = repr(double.calls).encode() + double.calls[2][1]["EncryptedKeyMaterial"]
        for secret in (numbers.p, numbers.q, numbers.d):
            assert secret.to_bytes((secret.bit_length() + 7) // 8) not in sent


class TestWhatGoesWrong:
    @pytest.mark.parametrize(
        ("wrong", "error", "found"),
        [
            pytest.param(
                {"wrapping_key": lambda: spki(rsa.generate_private_key(65537, 3072).public_key())},
                CommandError,
                "KMS gave a wrapping key that is not RSA of 4096 bits",
                id="wrapping-key-too-small",
            ),
            pytest.param(
                {"wrapping_key": lambda: spki(ec.generate_private_key(ec.SECP256R1()).public_key())},
                CommandError,
                "KMS gave a wrapping key that is not RSA of 4096 bits",
                id="wrapping-key-not-rsa",
            ),
            pytest.param(
                {"wrapping_key": lambda: spki(ed25519.Ed25519PrivateKey.generate().public_key())},
                CommandError,
                "KMS gave a wrapping key that is not RSA of 4096 bits",
                id="wrapping-key-of-no-size",
            ),
            pytest.param(
                {"failing": {"get_parameters_for_import": refusal("GetParametersForImport")}},
                AwsError,
                r"AWS refused GetParametersForImport \(AccessDeniedException\)",
                id="parameters-refused",
            ),
            pytest.param(
                {"failing": {"import_key_material": refusal("ImportKeyMaterial")}},
                AwsError,
                r"AWS refused ImportKeyMaterial \(AccessDeniedException\)",
                id="import-refused",
            ),
            pytest.param(
                {"failing": {"import_key_material": ReadTimeoutError(endpoint_url="https://kms")}},
                AwsError,
                r"\(ReadTimeoutError\)",
                id="import-unanswered",
            ),
            pytest.param(
                {"failing": {"get_public_key": refusal("GetPublicKey")}},
                AwsError,
                r"AWS refused GetPublicKey \(AccessDeniedException\)",
                id="public-half-refused",
            ),
            pytest.param(
                {"answers_with": lambda: wrapping().public_key()},
                CommandError,
                "the key that KMS has after the import is another",
                id="another-key-afterwards",
            ),
        ],
    )
    @pytest.mark.parametrize("deletable", [True, False], ids=["deletable", "not-even-deletable"])
    def test_is_said_and_the_key_that_was_made_is_given_up(
        self, double: Any, other_key: RsaPair, wrong: dict[str, Any], error: type, found: str, deletable: bool
    ) -> None:
        for name, value in wrong.items():
            setattr(double, name, value() if callable(value) else value)
        if not deletable:
            double.failing = {**double.failing, "schedule_key_deletion": refusal("ScheduleKeyDeletion")}
        with pytest.raises(CommandError, match=found) as caught:
            kms.bring_in(double, "softpos-staging", "NOMEAPP", other_key.private)
        assert type(caught.value) is error

        key_id = double.only_key()
        if deletable:
            assert f"the key {key_id} that was made for it is deleted in 7 days" in caught.value.remedy
            assert double.metadata(key_id)["KeyState"] == "PendingDeletion"
            assert double.calls[-1] == ("schedule_key_deletion", {"KeyId": key_id, "PendingWindowInDays": 7})
        else:
            assert f"the key {key_id} that was made for it is still there: delete it" in caught.value.remedy

        shown = "".join(traceback.format_exception(caught.value)) + caught.value.remedy
        assert all(line not in shown for line in other_key.private_pem.splitlines())
        assert str(other_key.private.private_numbers().d) not in shown

    @pytest.mark.parametrize("wrapping_key", ["too-small", "not-rsa"])
    def test_nothing_is_sent_under_a_weak_wrapping_key(
        self, double: Any, other_key: RsaPair, wrapping_key: str
    ) -> None:
        weak = other_key.public if wrapping_key == "too-small" else ec.generate_private_key(ec.SECP256R1()).public_key()
        double.wrapping_key = spki(weak)
        with pytest.raises(CommandError):
            kms.bring_in(double, "softpos-staging", "NOMEAPP", other_key.private)
        assert "import_key_material" not in [operation for operation, _ in double.calls]

    def test_without_a_key_there_is_none_to_give_up(self, double: Any, other_key: RsaPair) -> None:
        double.failing = {"create_key": refusal("CreateKey")}
        with pytest.raises(AwsError, match="AWS refused CreateKey"):
            kms.bring_in(double, "softpos-staging", "NOMEAPP", other_key.private)
        assert [operation for operation, _ in double.calls] == ["create_key"]


class TestAKeyThatIsBornThere:
    def test_never_leaves_and_signs(self, double: Any) -> None:
        found = double.metadata(kms.create(double, "softpos-production", "NOMEAPP"))
        assert {name: found[name] for name in ("Origin", "KeySpec", "KeyUsage", "Description")} == {
            "Origin": "AWS_KMS",
            "KeySpec": "RSA_2048",
            "KeyUsage": "SIGN_VERIFY",
            "Description": "Signs the client assertions of NOMEAPP (softpos-production)",
        }

    def test_is_rsa_of_2048_bits(self, double: Any) -> None:
        key_id = kms.create(double, "softpos-production", "NOMEAPP")
        public = load_der_public_key(double.client.get_public_key(KeyId=key_id)["PublicKey"])
        assert isinstance(public, rsa.RSAPublicKey)
        assert public.key_size == 2048

    def test_that_kms_makes_none_is_said(self, double: Any) -> None:
        double.failing = {"create_key": refusal("CreateKey")}
        with pytest.raises(AwsError, match="AWS refused CreateKey") as caught:
            kms.create(double, "softpos-production", "NOMEAPP")
        assert "let the signed-in identity call CreateKey" in caught.value.remedy
