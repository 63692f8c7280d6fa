"""`softpos certificate`: from a key to a certificate that the functions use, and back."""

import json as jsonlib
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from cryptography import x509

from onboarding import console, issued, kms, signing_request
from onboarding.application import application_value
from onboarding.deployment import CommandError, Deployment
from onboarding.options import as_json, example, placed, with_ca_bundle
from onboarding.trial import Trial
from onboarding.versions import CertificateSecret, Version
from softpos.credentials import Certificate, parse_certificate
from softpos.errors import MisconfiguredError, SoftposError
from softpos.nexi.signing import KmsSigner

PORTALS = {
    "staging": "stgposweb.nexi.it",
    "production": "posweb.nexi.it",
    "local": "the sandbox's portal (docs/onboarding.md)",
}


@click.group()
def certificate() -> None:
    """The developer certificate: request it, import what Nexi sends, let the functions use it."""


@certificate.command(
    epilog=example(
        "softpos certificate request --stage staging --name NOMEAPP",
        "softpos certificate request --stage production --name NOMEAPP --key kms",
    )
)
@placed
@click.option("--name", required=True, help="The app's name on Nexi's portal: letters and digits.")
@click.option(
    "--key",
    "place",
    type=click.Choice(["secret", "kms"]),
    default="secret",
    show_default=True,
    help="Where the private key is made and stays. One in KMS only signs: mutual TLS keeps its own.",
)
@click.option("--unit", help="The subject's OU, when Nexi asks for another than the stage's.")
@click.option(
    "--csr", "csr_file", type=click.Path(dir_okay=False, path_type=Path), help="Where to write it.  [NAME.csr]"
)
@click.option(
    "--key-file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write the private key to a file, too. Nobody but Secrets Manager needs it.",
)
@click.option("--replace", is_flag=True, help="Forget a request that is still waiting for Nexi's signature.")
def request(
    deployment: Deployment,
    name: str,
    place: str,
    unit: str | None,
    csr_file: Path | None,
    key_file: Path | None,
    replace: bool,
) -> None:
    """Make a key and its certificate signing request (CSR), which then goes to Nexi's portal.

    The key is stored in the certificate secret, as a pending version: the functions go on with the current one.
    """
    signing_request.checked_name(name)
    unit = unit or signing_request.UNITS[deployment.nexi_stage]
    csr_file = csr_file or Path(f"{name}.csr")
    if key_file is not None and csr_file.resolve() == key_file.resolve():
        raise click.UsageError("--csr and --key-file are to be two files")
    for file in filter(None, (csr_file, key_file)):
        _check_place(file)
    secret = _secret(deployment)
    pending = secret.pending
    if pending is not None and not replace:
        state = "is still waiting for Nexi's signature" if pending.request else "was imported and is not activated"
        raise CommandError(
            f"a request of {pending.created:%Y-%m-%d %H:%M} {state}",
            "go on with that one (softpos certificate show), or pass --replace to forget it",
        )
    # The key is stored before what is made of it is written: a request without its key is worth nothing.
    if place == "kms":
        if key_file is not None:
            raise CommandError("a key in KMS never leaves it: there is none for --key-file", "leave --key-file away")
        made = _request_for_kms(deployment, secret, name, unit)
    else:
        with console.waiting("making the key"):
            key = signing_request.new_key()
        made = signing_request.build(name, unit, key)
        secret.put_pending({"private_key": signing_request.key_pem(key), "signing_request": signing_request.pem(made)})
        console.remark(f"The key is in {deployment.output('CertificateSecretId')}.")
    _write(csr_file, signing_request.pem(made))
    console.say(f"{csr_file}: the request, for {made.subject.rfc4514_string()}")
    if key_file is not None:
        _write(key_file, signing_request.key_pem(key), mode=0o600)
        console.say(f"{key_file}: the private key. Whoever reads it can be this app: keep it nowhere that is shared")
    console.remark(f"Next: upload {csr_file} on {PORTALS[deployment.stage]}")
    console.remark(f"Then: softpos certificate import {name}.p7b --stage {deployment.stage}")


def _request_for_kms(
    deployment: Deployment, secret: CertificateSecret, name: str, unit: str
) -> x509.CertificateSigningRequest:
    """Stores and gives a request for the key in KMS that signs already, of which only the certificate expires; or for a
    new one, which is given up if it comes to nothing."""
    current = secret.current
    if current is None:
        raise CommandError(
            "mutual TLS needs a key of its own, which KMS does not give away, and there is no current certificate",
            "request, import and activate one without --key kms first",
        )
    client = deployment.client("kms")
    key_id = deployment.settings.signing_key_id
    if key_id is None and secret.pending:
        # One that was made for the request that this one replaces.
        key_id = secret.pending.members.get("signing_key_id")
    new = None
    if key_id is None:
        key_id = new = kms.create(client, deployment.stack, name)
        console.remark(f"The key was made in KMS: {key_id}")
    else:
        console.remark(f"The key is the one in KMS that was made before: {key_id}")
    with kms.given_up_on_failure(client, new):
        made = signing_request.build(name, unit, signing_request.KmsPrivateKey(client, key_id))
        waiting = {"signing_key_id": key_id, "signing_request": signing_request.pem(made)}
        secret.put_pending({**current.members, **waiting})
    return made


@certificate.command(
    "import",
    epilog=example(
        "softpos certificate import NOMEAPP.p7b --stage staging",
        "softpos certificate import mail.eml --stage staging --pem NOMEAPP.pem",
        "softpos certificate import NOMEAPP.p7b --stage production --into-kms",
    ),
)
@click.argument("file", type=click.File("rb"))
@placed
@click.option(
    "--pem", "pem_file", type=click.Path(dir_okay=False, path_type=Path), help="Where to write the .pem.  [APP.pem]"
)
@click.option("--into-kms", is_flag=True, help="Bring the certificate's key into KMS, to sign there.")
@click.option("--force", is_flag=True, help="Store it although something is wrong with it.")
def import_(deployment: Deployment, file: Any, pem_file: Path | None, into_kms: bool, force: bool) -> None:
    """Take the certificate out of what Nexi mailed: a .p7b, a .pem, or the mail itself ('-' for standard input).

    Checks it against the pending request and this stage, stores it as pending, and writes the .pem that goes to Nexi's
    contact.
    """
    data = file.read()
    secret = _secret(deployment)
    pending = secret.pending
    if pending is None:
        raise CommandError("no request is pending", "make one: softpos certificate request")
    chain = issued.chain(issued.read(data), pending.awaited_keys)
    _report(issued.findings(chain, deployment.nexi_stage, datetime.now(UTC)), force=force)
    name = issued.app_name(chain[0])
    pem_file = pem_file or Path(f"{name}.pem")
    text = issued.pem(chain)
    _check_place(pem_file, unless=text)
    if into_kms and "signing_key_id" in pending.members:
        raise CommandError("the key of this certificate is in KMS already", "leave --into-kms away")

    members = {each: value for each, value in pending.members.items() if each != "signing_request"}
    if chain[0].public_key() != pending.private_key.public_key():
        members["signing_certificate"] = text
    else:
        members["certificate"] = text
        if not into_kms and secret.current and secret.current.born_in_kms:
            # Only mutual TLS gets another certificate.
            kept = secret.current.members
            members |= {each: kept[each] for each in ("signing_certificate", "signing_key_id") if each in kept}
    # Whatever may fail comes before anything is made.
    deployed_key = deployment.settings.signing_key_id if into_kms or "signing_key_id" in members else None
    brought = None
    if into_kms:
        with console.waiting("bringing the key into KMS"):
            brought = kms.bring_in(deployment.client("kms"), deployment.stack, name, pending.private_key)
        members["signing_key_id"] = brought
    with kms.given_up_on_failure(deployment.client("kms"), brought):
        secret.put_pending(members)
    if not pem_file.exists():
        _write(pem_file, text)
    console.pairs(_described(chain))
    console.say(f"{pem_file}: for Nexi's contact, who registers it. It holds no key")
    key_id = members.get("signing_key_id")
    if key_id != deployed_key:
        console.say(f"SigningKeyId={key_id}: to deploy the stack with, once this certificate is current")
    console.remark("Stored as pending. Next, when Nexi has registered it:")
    console.remark(f"  softpos certificate activate --stage {deployment.stage}")


@certificate.command(
    epilog=example(
        "softpos certificate activate --stage staging", "softpos certificate activate --stage production --force"
    )
)
@placed
@with_ca_bundle
@click.option(
    "--force",
    is_flag=True,
    help="Without trying it out. If Nexi does not know it, enrollments fail until a rollback.",
)
def activate(deployment: Deployment, ca_bundle: Path | None, force: bool) -> None:
    """Let the functions use the pending certificate, if Nexi takes it: a handshake and a token are tried first.

    The functions take it up within five minutes, and at once where Nexi refuses the old one.
    """
    secret = _secret(deployment)
    pending = secret.pending
    if pending is None:
        raise CommandError("no certificate is pending", "softpos certificate request, then import what Nexi sends")
    if not pending.usable:
        raise CommandError("the pending request has no certificate yet", "softpos certificate import, first")
    _switch(deployment, secret, pending, ca_bundle, force=force)
    console.say("The pending certificate is current. Functions take it up within five minutes")
    console.remark(f"The one before is kept: softpos certificate rollback --stage {deployment.stage}")


@certificate.command(epilog=example("softpos certificate rollback --stage staging"))
@placed
@with_ca_bundle
@click.option("--force", is_flag=True, help="Without trying it out.")
def rollback(deployment: Deployment, ca_bundle: Path | None, force: bool) -> None:
    """Let the functions use the previous certificate again, if Nexi still takes it."""
    secret = _secret(deployment)
    previous = secret.previous
    if previous is None:
        raise CommandError("there is no previous certificate to go back to", "softpos certificate show")
    _switch(deployment, secret, previous, ca_bundle, force=force)
    console.say("The previous certificate is current again. Functions take it up within five minutes")
    console.remark("To go forward again, roll back once more")


@certificate.command(epilog=example("softpos certificate show --stage production --json"))
@placed
@as_json
def show(deployment: Deployment, json: bool) -> None:
    """Subject, issuer, serial, SHA-256 and days left of each version."""
    secret = _secret(deployment)
    versions = {"current": secret.current, "pending": secret.pending, "previous": secret.previous}
    if json:
        console.say_json({label: version and _summary(version) for label, version in versions.items()})
        return
    for label, version in versions.items():
        console.say(f"{label}: {'none' if version is None else f'of {version.created:%Y-%m-%d %H:%M}'}")
        if version is None:
            continue
        if version.chain:
            console.pairs(_described(version.chain), indent=2)
        if version.signing_chain:
            console.say("  and for the key in KMS that signs")
            console.pairs(_described(version.signing_chain), indent=2)
        if version.request:
            where = version.members.get("signing_key_id")
            console.pairs(
                [
                    ("request", version.request.subject.rfc4514_string()),
                    ("key", f"in KMS, {where}" if where else "in this secret"),
                    ("state", "waiting for Nexi's signature"),
                ],
                indent=2,
            )


def _secret(deployment: Deployment) -> CertificateSecret:
    return CertificateSecret(deployment.client("secretsmanager"), deployment.output("CertificateSecretId"))


def _report(found: list[issued.Finding], *, force: bool) -> None:
    """Warn of each finding. Raises CommandError if one is fatal, unless it is to be stored all the same."""
    fatal = [each for each in found if each.fatal and not force]
    for each in found:
        if each not in fatal:
            console.warn(f"{each.found}; wanted: {each.wanted}. What to do: {each.remedy}")
    if fatal:
        raise CommandError(
            "; ".join(f"{each.found}; wanted: {each.wanted}" for each in fatal),
            "; ".join(each.remedy for each in fatal) + ". --force stores it all the same",
        )


def _switch(
    deployment: Deployment, secret: CertificateSecret, version: Version, ca_bundle: Path | None, *, force: bool
) -> None:
    """Make a version current. Unless by force, Nexi is asked for a handshake and a token with it before that."""
    certificate = parse_certificate(jsonlib.dumps(version.members))
    key_id = deployment.settings.signing_key_id
    if key_id:
        _check_signing_key(deployment, key_id, certificate)
    if not force:
        trial = Trial(deployment.settings_here(ca_bundle), application_value(deployment), version.members)
        try:
            with console.waiting("trying it out at Nexi"):
                trial.shake_hands()
                trial.token()
        except SoftposError as error:
            raise CommandError(
                f"nothing was changed, since Nexi did not take it: {error}",
                f"{error.remedy}. --force makes it current all the same; enrollments then fail until Nexi takes it",
            ) from error
        console.remark(f"Nexi gave a token to {certificate.subject}, SHA-256 {certificate.thumbprint}.")
    secret.make_current(version)


def _check_signing_key(deployment: Deployment, key_id: str, certificate: Certificate) -> None:
    """The stack goes on signing with this key: Nexi must be able to verify that with the version to come."""
    try:
        KmsSigner(deployment.client("kms"), key_id, certificate.signing_public_key).check()
    except MisconfiguredError as error:
        raise CommandError(
            f"nothing was changed: {error}",
            "deploy the stack with an empty SigningKeyId first, then activate, then deploy it with this version's key",
        ) from error


def _summary(version: Version) -> dict[str, Any]:
    """A version for machines."""
    waiting = version.request
    return {
        "version": version.id,
        "created": version.created.isoformat(),
        "certificate": _certificate_summary(version.chain),
        "signing_certificate": _certificate_summary(version.signing_chain),
        "request": waiting and {"subject": waiting.subject.rfc4514_string(), "csr": signing_request.pem(waiting)},
        "signing_key_id": version.members.get("signing_key_id"),
    }


def _certificate_summary(chain: list[x509.Certificate]) -> dict[str, Any] | None:
    if not chain:
        return None
    leaf = chain[0]
    return {
        "subject": leaf.subject.rfc4514_string(),
        "issuer": leaf.issuer.rfc4514_string(),
        "serial": f"{leaf.serial_number:x}",
        "sha256": issued.sha256(leaf),
        "not_before": leaf.not_valid_before_utc.isoformat(),
        "not_after": leaf.not_valid_after_utc.isoformat(),
        "days_left": issued.days_left(leaf, datetime.now(UTC)),
        "chain": [each.subject.rfc4514_string() for each in chain[1:]],
    }


def _described(chain: list[x509.Certificate]) -> list[tuple[str, str]]:
    summary = _certificate_summary(chain) or {}
    return [
        ("subject", summary["subject"]),
        ("issuer", summary["issuer"]),
        ("serial", summary["serial"]),
        ("SHA-256", summary["sha256"]),
        ("valid until", f"{chain[0].not_valid_after_utc:%Y-%m-%d %H:%M} UTC, {summary['days_left']} days left"),
        ("chain", "; ".join(summary["chain"]) or "none"),
    ]


def _check_place(file: Path, unless: str | None = None) -> None:
    """Before anything is stored. Raises CommandError when the file is there, unless it is the same, or cannot be."""
    if not file.parent.is_dir():
        raise CommandError(f"there is no directory {file.parent}", "make it, or choose another place")
    if file.exists() and not (unless is not None and file.read_bytes() == unless.encode()):
        raise CommandError(f"{file} is there already", "move it away, or choose another name")


def _write(file: Path, text: str, mode: int = 0o644) -> None:
    """Write a new file, with this mode from its first moment. Raises CommandError."""
    try:
        with open(file, "x", encoding="utf-8", opener=lambda path, flags: os.open(path, flags, mode)) as stream:
            stream.write(text)
    except OSError as error:
        raise CommandError(f"{file} cannot be written ({error.strerror})", "choose another place") from error
