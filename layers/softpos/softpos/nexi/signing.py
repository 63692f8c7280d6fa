"""Signing with a key that never leaves KMS, for python-jose in the place of the certificate's own key."""

from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from jose.backends.base import Key

from softpos.aws import error_code
from softpos.errors import MisconfiguredError, SigningUnavailableError, SoftposError

if TYPE_CHECKING:
    from mypy_boto3_kms import KMSClient

SIGNING_ALGORITHM: Final = "RSASSA_PKCS1_V1_5_SHA_256"
"""KMS's name for RS256 (RFC 7518 section 3.3)."""

_WRONG = frozenset(
    {
        "NotFoundException",
        "AccessDeniedException",
        "DisabledException",
        "KMSInvalidStateException",
        "InvalidKeyUsageException",
        "InvalidArnException",
        "UnsupportedOperationException",
        "ValidationException",
    }
)


class KmsSigner(Key):
    """A python-jose key that signs RS256 by `kms:Sign`. One call for each signature, and one more before the first."""

    def __init__(self, kms: "KMSClient", key_id: str, public_key: rsa.RSAPublicKey) -> None:
        """`public_key` is the one that Nexi has registered: the certificate's."""
        self._kms = kms
        self._key_id = key_id
        self._public_key = public_key
        self._checked = False

    def sign(self, msg: bytes) -> bytes:
        """The signature over a signing input.

        Raises MisconfiguredError when the key cannot be used or is not the certificate's, and SigningUnavailableError
        when KMS throttles or fails.
        """
        if not self._checked:
            self.check()
            self._checked = True
        # RAW: KMS hashes, and takes up to 4,096 bytes for it. A signing input is a quarter of that.
        answer = self._call("sign", Message=msg, MessageType="RAW", SigningAlgorithm=SIGNING_ALGORITHM)
        return bytes(answer["Signature"])

    def check(self) -> None:
        """That Nexi could verify what this key signs. Without it, each enrollment is a 400 that does not say why.

        Signs nothing, and calls `kms:GetPublicKey` alone. Raises as `sign` does.
        """
        answer = self._call("get_public_key")
        if answer.get("KeyUsage") != "SIGN_VERIFY":
            raise MisconfiguredError(
                "the KMS key that SIGNING_KEY_ID names is not for signing",
                "let it be an RSA key for SIGN_VERIFY: `softpos certificate request --key kms` makes one",
            )
        if load_der_public_key(answer["PublicKey"]) != self._public_key:
            raise MisconfiguredError(
                "the KMS key that SIGNING_KEY_ID names is not the one that the certificate is for",
                "store the certificate of that key as signing_certificate in the certificate secret, and have it "
                "registered at Nexi; or leave the stack's parameter SigningKeyId empty",
            )

    def _call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            answer: dict[str, Any] = getattr(self._kms, operation)(KeyId=self._key_id, **arguments)
        except (BotoCoreError, ClientError) as error:
            raise _failure(operation, error_code(error)) from error
        return answer


def _failure(operation: str, code: str) -> SoftposError:
    if code in _WRONG:
        return MisconfiguredError(
            f"the KMS key that SIGNING_KEY_ID names cannot be used ({operation}: {code})",
            "let it be an enabled RSA key for SIGN_VERIFY in this account and region, and the function's role call "
            "kms:Sign and kms:GetPublicKey on it",
        )
    return SigningUnavailableError(
        f"KMS failed ({operation}: {code})", "see the cause, KMS's request quotas and AWS's service health"
    )
