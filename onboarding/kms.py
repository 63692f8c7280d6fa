"""Keys in KMS that sign the client assertion: born there, or the certificate's own key brought in."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa
from cryptography.hazmat.primitives.keywrap import aes_key_wrap_with_padding
from cryptography.hazmat.primitives.serialization import load_der_public_key

from onboarding.deployment import AwsError, CommandError, translated

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

WRAPPING: Final = "RSA_AES_KEY_WRAP_SHA_256"
"""AWS KMS, "Importing key material": an AES key by RSA-OAEP with SHA-256, and with it the material by RFC 5649."""

WRAPPING_KEY: Final = "RSA_4096"

ABANDONED_DAYS = 7
"""The least that KMS keeps a key that is to be deleted."""


def create(kms: "KMSClient", stack: str, app_name: str) -> str:
    """A new RSA key that signs and never leaves KMS: its id. Raises AwsError."""
    with translated():
        return str(kms.create_key(**_shape(stack, app_name), Origin="AWS_KMS")["KeyMetadata"]["KeyId"])


def bring_in(kms: "KMSClient", stack: str, app_name: str, key: rsa.RSAPrivateKey) -> str:
    """A new key in KMS with this private key as its material: its id.

    What is sent is wrapped for KMS alone, for this one import. Raises AwsError, and CommandError when the key that KMS
    has then is another; the new key is scheduled for deletion in both cases.
    """
    with translated():
        key_id = str(kms.create_key(**_shape(stack, app_name), Origin="EXTERNAL")["KeyMetadata"]["KeyId"])
    with given_up_on_failure(kms, key_id):
        with translated():
            parameters = kms.get_parameters_for_import(
                KeyId=key_id, WrappingAlgorithm=WRAPPING, WrappingKeySpec=WRAPPING_KEY
            )
            kms.import_key_material(
                KeyId=key_id,
                ImportToken=parameters["ImportToken"],
                EncryptedKeyMaterial=wrapped(key, parameters["PublicKey"]),
                ExpirationModel="KEY_MATERIAL_DOES_NOT_EXPIRE",
            )
            found = load_der_public_key(kms.get_public_key(KeyId=key_id)["PublicKey"])
        if found != key.public_key():
            raise CommandError("the key that KMS has after the import is another", "try again, and ask AWS if it stays")
    return key_id


@contextmanager
def given_up_on_failure(kms: "KMSClient", key_id: str | None) -> Iterator[None]:
    """Has a key deleted that was made for what then fails, and says so in the error's remedy. None: there is none."""
    try:
        yield
    except CommandError as error:
        if key_id is not None:
            _abandon(kms, key_id, error)
        raise


def wrapped(key: rsa.RSAPrivateKey, wrapping_key: bytes) -> bytes:
    """The private key, PKCS#8 in DER, for the public key (DER) that KMS gave. Raises CommandError."""
    recipient = load_der_public_key(wrapping_key)
    if not isinstance(recipient, rsa.RSAPublicKey) or recipient.key_size < 4096:
        raise CommandError("KMS gave a wrapping key that is not RSA of 4096 bits", "try again, and ask AWS if it stays")
    material = key.private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    once = os.urandom(32)
    oaep = padding.OAEP(padding.MGF1(hashes.SHA256()), hashes.SHA256(), None)
    return recipient.encrypt(once, oaep) + aes_key_wrap_with_padding(once, material)


def _abandon(kms: "KMSClient", key_id: str, error: CommandError) -> None:
    try:
        with translated():
            kms.schedule_key_deletion(KeyId=key_id, PendingWindowInDays=ABANDONED_DAYS)
        left = f"the key {key_id} that was made for it is deleted in {ABANDONED_DAYS} days"
    except AwsError:
        left = f"the key {key_id} that was made for it is still there: delete it"
    error.remedy = f"{error.remedy}; {left}"


def _shape(stack: str, app_name: str) -> dict[str, Any]:
    return {
        "KeySpec": "RSA_2048",
        "KeyUsage": "SIGN_VERIFY",
        "Description": f"Signs the client assertions of {app_name} ({stack})",
        "Tags": [{"TagKey": "softpos:stack", "TagValue": stack}, {"TagKey": "softpos:app", "TagValue": app_name}],
    }
