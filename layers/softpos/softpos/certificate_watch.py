"""The developer certificate, looked at before anything fails: how long it lasts, and whether its keys still fit."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from softpos import aws, telemetry
from softpos.credentials import (
    Certificate,
    SecretMissingError,
    parse_certificate,
    parse_pending_certificate,
    read_secret,
)
from softpos.errors import MisconfiguredError
from softpos.settings import settings

if TYPE_CHECKING:
    from mypy_boto3_secretsmanager import SecretsManagerClient

_VARIABLE = "CERTIFICATE_SECRET_ID"


@dataclass(frozen=True, slots=True)
class Examination:
    """What the certificate secret held at one moment."""

    current: Certificate | None
    """What functions use; None when the secret holds nothing that they could."""
    unfit: MisconfiguredError | None
    """Why secret, key, certificate and KMS key do not fit each other; None when they do, expired or not."""
    pending: Certificate | None = None
    """What they are to use next; None when nothing is pending, or no certificate yet."""
    awaited: bool = False
    """Whether a key is pending that waits for its certificate."""
    pending_unfit: MisconfiguredError | None = None
    """Why what is pending could not be used."""


def examine(
    secrets: "SecretsManagerClient", secret_id: str, check_signing_key: Callable[[Certificate], None]
) -> Examination:
    """Both versions of the certificate secret; the current one has to pass `check_signing_key`, too.

    Raises SoftposError when Secrets Manager fails, and whatever but MisconfiguredError the check raises: who could not
    ask does not know whether it fits.
    """
    current, version, unfit = None, None, None
    try:
        secret, version = read_secret(secrets, _VARIABLE, secret_id)
        current = parse_certificate(secret)
        check_signing_key(current)
    except MisconfiguredError as error:
        unfit = error
    try:
        secret, pending_version = read_secret(secrets, _VARIABLE, secret_id, "pending")
        if pending_version == version:
            return Examination(current, unfit)
        pending = parse_pending_certificate(secret)
    except SecretMissingError:
        return Examination(current, unfit)
    except MisconfiguredError as error:
        return Examination(current, unfit, pending_unfit=error)
    return Examination(current, unfit, pending, awaited=pending is None)


def tell(found: Examination, now: float) -> None:
    """Put an examination into the invocation's metrics and line, its days counted from a Unix time."""
    telemetry.gauge("CertificateFits", float(found.unfit is None), "None")
    if found.current is not None:
        telemetry.gauge("CertificateDaysLeft", found.current.days_left(now), "None")
        telemetry.note(current=_shown(found.current, now))
    if found.pending is not None:
        telemetry.gauge("PendingCertificateDaysLeft", found.pending.days_left(now), "None")
        telemetry.note(pending=_shown(found.pending, now))
    if found.awaited:
        telemetry.note(pending={"waits_for": "certificate"})
    if found.pending_unfit is not None:
        telemetry.note(pending_unfit=str(found.pending_unfit))


def watch() -> MisconfiguredError | None:
    """Examine and tell what this function is configured with. Why it does not fit; None when it does.

    Raises as `examine` does, having told nothing, and MisconfiguredError for settings that are missing or malformed.
    """
    configured = settings()
    key_id = configured.signing_key_id

    def check_signing_key(certificate: Certificate) -> None:
        if key_id is not None:
            # Imported for those who have such a key.
            from softpos.nexi.signing import KmsSigner

            KmsSigner(aws.client("kms"), key_id, certificate.signing_public_key).check()

    found = examine(aws.client("secretsmanager"), configured.certificate_secret_id, check_signing_key)
    tell(found, time.time())
    return found.unfit


def _shown(certificate: Certificate, now: float) -> dict[str, Any]:
    return {
        "subject": certificate.subject,
        "thumbprint": certificate.thumbprint,
        "not_after": certificate.not_after.isoformat(),
        "signing_not_after": certificate.signing_not_after.isoformat(),
        "days_left": round(certificate.days_left(now), 1),
    }
