"""The certificate secret's versions: what the functions use, what was used before, and what is to be used next.

Secrets Manager names them by staging labels: AWSCURRENT, AWSPREVIOUS, AWSPENDING. The first version that a secret ever
gets is AWSCURRENT whatever it is stored as, so a version may have two of them.
"""

import json
import uuid
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from onboarding.deployment import AwsError, CommandError, translated

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

Label = Literal["AWSCURRENT", "AWSPENDING", "AWSPREVIOUS"]

CURRENT: Label = "AWSCURRENT"
PENDING: Label = "AWSPENDING"
PREVIOUS: Label = "AWSPREVIOUS"


@dataclass(frozen=True, slots=True)
class Version:
    """One version of the secret."""

    id: str
    created: datetime
    members: dict[str, Any] = field(repr=False)
    """`certificate`, `private_key` and `signing_certificate`, PEM, as the functions read them; and, while Nexi has not
    signed it yet, the `signing_request`, with `signing_key_id` when its key is in KMS."""

    @property
    def request(self) -> x509.CertificateSigningRequest | None:
        """What is at Nexi, waiting for its signature."""
        try:
            return x509.load_pem_x509_csr(self.members["signing_request"].encode())
        except (KeyError, AttributeError, ValueError):
            return None

    @property
    def born_in_kms(self) -> bool:
        """Whether a key that KMS never gives away signs, and has a certificate of its own."""
        return bool(self.signing_chain)

    @property
    def private_key(self) -> rsa.RSAPrivateKey:
        """For mutual TLS. Raises CommandError when there is none that could be one."""
        try:
            key = load_pem_private_key(self.members["private_key"].encode(), None)
        except Exception:  # noqa: BLE001 - their words may quote the key, and are dropped
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            raise CommandError("the version's private_key is no RSA key in PEM", "make a new request")
        return key

    @property
    def awaited_keys(self) -> list[rsa.RSAPublicKey]:
        """Whose certificate Nexi is to send; once it has, whose may be imported again. Raises CommandError."""
        if self.request is not None and "signing_key_id" in self.members:
            keys = [self.request.public_key()]
        elif self.request is not None:
            keys = [self.private_key.public_key()]
        else:
            keys = [self.private_key.public_key(), *(each.public_key() for each in self.signing_chain[:1])]
        return [each for each in keys if isinstance(each, rsa.RSAPublicKey)]

    @property
    def chain(self) -> list[x509.Certificate]:
        """The certificate for mutual TLS and its chain; empty when there is none yet."""
        return _certificates(self.members.get("certificate"))

    @property
    def signing_chain(self) -> list[x509.Certificate]:
        """The certificate of a key that was born in KMS; empty when the other one's key signs."""
        return _certificates(self.members.get("signing_certificate"))

    @property
    def usable(self) -> bool:
        """Whether functions could work with it: there is a certificate, and nothing is still at Nexi."""
        return bool(self.chain) and self.request is None


class CertificateSecret:
    """The secret that the stack made. Reads every value once; each change forgets what was read."""

    def __init__(self, secrets: "SecretsManagerClient", secret_id: str) -> None:
        self._secrets = secrets
        self._secret_id = secret_id
        self._labels: dict[str, str] | None = None
        self._read: dict[str, Version] = {}

    @property
    def current(self) -> Version | None:
        """What the functions use; None when that is nothing they could use."""
        version = self._version(CURRENT)
        return version if version and version.usable else None

    @property
    def pending(self) -> Version | None:
        """What is to be used next, with its certificate or still without."""
        version = self._version(PENDING)
        return None if version is None or version == self.current else version

    @property
    def previous(self) -> Version | None:
        """What a rollback would bring back; None when that is nothing that functions could use."""
        version = self._version(PREVIOUS)
        return version if version and version.usable else None

    def put_pending(self, members: dict[str, Any]) -> None:
        """Store what is to be used next, in the place of what was pending when that was read.

        Raises AwsError, and CommandError when someone else has stored something meanwhile: that stays.
        """
        seen = self._ids().get(PENDING)
        # Under a label of its own until it has taken the other's place: nothing is lost that someone else made.
        label = f"softpos-{uuid.uuid4()}"
        with translated():
            stored = self._secrets.put_secret_value(
                SecretId=self._secret_id, SecretString=json.dumps(members), VersionStages=[label]
            )["VersionId"]
        try:
            self._move(PENDING, seen, stored)
        except AwsError as error:
            if not self._labelled_otherwise(PENDING, seen):
                raise
            raise CommandError(
                "nothing was changed: someone else has stored another pending version meanwhile",
                "softpos certificate show, and agree on whose is to be used",
            ) from error
        finally:
            self._move(label, stored, None)
            self._forget()

    def make_current(self, version: Version) -> None:
        """Let the functions use this version. The one before becomes the previous one. Raises AwsError."""
        now_current = self._ids().get(CURRENT)
        if now_current != version.id:
            self._move(CURRENT, now_current, version.id)
        # It is in use from here on. Someone may have stored something that is pending now.
        self._forget()
        if self._ids().get(PENDING) == version.id:
            self._move(PENDING, version.id, None)
        self._forget()

    def _move(self, label: str, origin: str | None, target: str | None) -> None:
        versions = {"RemoveFromVersionId": origin, "MoveToVersionId": target}
        given = {name: version_id for name, version_id in versions.items() if version_id}
        with translated():
            self._secrets.update_secret_version_stage(SecretId=self._secret_id, VersionStage=label, **given)

    def _labelled_otherwise(self, label: Label, seen: str | None) -> bool:
        self._forget()
        return self._ids().get(label) != seen

    def _version(self, label: Label) -> Version | None:
        version_id = self._ids().get(label)
        if version_id is None:
            return None
        if version_id not in self._read:
            with translated():
                answer = self._secrets.get_secret_value(SecretId=self._secret_id, VersionId=version_id)
            self._read[version_id] = Version(version_id, answer["CreatedDate"], _members(answer))
        return self._read[version_id]

    def _ids(self) -> dict[str, str]:
        """The version of each label."""
        if self._labels is None:
            with translated():
                answer = self._secrets.describe_secret(SecretId=self._secret_id)
            versions = answer.get("VersionIdsToStages", {})
            self._labels = {label: version_id for version_id, labels in versions.items() for label in labels}
        return self._labels

    def _forget(self) -> None:
        self._labels = None
        self._read.clear()


def _members(answer: Any) -> dict[str, Any]:
    """The value; nothing when it is no JSON object, which `doctor` has words for."""
    try:
        members = json.loads(answer["SecretString"])
    except (KeyError, ValueError, RecursionError):
        members = None
    return members if isinstance(members, dict) else {}


def _certificates(pem: Any) -> list[x509.Certificate]:
    if not isinstance(pem, str) or not pem:
        return []
    try:
        return x509.load_pem_x509_certificates(pem.encode())
    except ValueError:
        return []
