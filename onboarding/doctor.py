"""`softpos doctor`: everything between a phone and its `request_uri`, looked at in the order in which it is needed."""

import base64
import json as jsonlib
import socket
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import click
from cryptography import x509
from rich.text import Text

from onboarding import console, issued
from onboarding.application import SCOPE_WARNING
from onboarding.deployment import ALIAS, FUNCTION, Deployment, translated
from onboarding.options import as_json, example, placed, with_ca_bundle, with_client_certificate
from onboarding.terminals import PAGE, BackOffice
from onboarding.trial import Trial
from onboarding.versions import CertificateSecret
from softpos.credentials import (
    DEFAULT_SCOPE,
    Application,
    Certificate,
    SecretMissingError,
    parse_application,
    parse_certificate,
    read_secret,
)
from softpos.errors import (
    CredentialsRefusedError,
    MisconfiguredError,
    NexiTimeoutError,
    NexiUnavailableError,
    SoftposError,
    UnansweredError,
)
from softpos.nexi.clock import TOLERANCE_SECONDS, NexiClock
from softpos.nexi.responses import Reading
from softpos.nexi.session import Answer
from softpos.nexi.signing import KmsSigner

State = Literal["ok", "warning", "failed", "skipped"]

BASE_URLS = {"staging": "https://stgb2bsoftpos.nexigroup.com", "production": "https://b2bsoftpos.nexigroup.com"}
"""Nexi, "FQDN"."""

DEVICE_ID = "softpos-doctor"

ATTENTION = 3
"""Exit status when nothing has failed, and something should be looked at."""


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found; when that is not well, what was wanted, and what to do."""

    check: str
    state: State
    found: str
    wanted: str = ""
    remedy: str = ""


SECRETS = frozenset({"application secret", "certificate secret", "pending certificate"})
"""The checks that read one. All that needs what they read needs them."""

Outcome = tuple[State, str] | tuple[State, str, str, str]
"""A result without its check's name."""


@click.command(
    epilog=example(
        "softpos doctor --stage staging",
        "softpos doctor --stage production --enroll mario.rossi@example.com",
        "softpos doctor --stage production --no-secrets --enroll mario.rossi@example.com",
        "softpos doctor --stage production --json | jq '.checks[] | select(.state != \"ok\")'",
    )
)
@placed
@with_ca_bundle
@with_client_certificate
@click.option("--enroll", "operator", metavar="OPERATOR", help="Have the deployed function push a request for them.")
@click.option(
    "--no-secrets",
    is_flag=True,
    help="Read no secret, and leave out what needs one: for a pipeline, where --enroll shows as much.",
)
@as_json
def doctor(
    deployment: Deployment,
    ca_bundle: Path | None,
    client_certificate: Path | None,
    operator: str | None,
    no_secrets: bool,
    json: bool,
) -> None:
    """Check everything that Nexi's support tells people to check, in order.

    Exit status: 0 if all is well, 3 if something should be looked at, 1 if something has failed.
    """
    results = []
    for result in Examination(deployment, ca_bundle, operator, client_certificate, no_secrets=no_secrets).results():
        results.append(result)
        if not json:
            _tell(result)
    states = {each.state for each in results}
    if json:
        stack = {"stage": deployment.stage, "stack": deployment.stack}
        console.say_json(
            {**stack, "well": not states & {"failed", "warning"}, "checks": [asdict(each) for each in results]}
        )
    sys.exit(1 if "failed" in states else ATTENTION if "warning" in states else 0)


class Examination:
    """The checks of one stack. Nothing is changed; `operator` is enrolled if there is one."""

    def __init__(
        self,
        deployment: Deployment,
        ca_bundle: Path | None = None,
        operator: str | None = None,
        client_certificate: Path | None = None,
        *,
        no_secrets: bool = False,
    ) -> None:
        self._deployment = deployment
        self._client_certificate = client_certificate
        self._no_secrets = no_secrets
        self._ca_bundle = ca_bundle
        self._operator = operator
        self._states: dict[str, State] = {}

    def results(self) -> Iterator[Result]:
        """Each check's result, as it comes. One that cannot be made, since another failed, is skipped."""
        for name, check, needed in self._checks():
            missing = [each for each in needed if self._states[each] in ("failed", "skipped")]
            if self._no_secrets and name in SECRETS:
                result = Result(name, "skipped", "it reads a secret")
            elif missing:
                result = Result(name, "skipped", f"needs: {', '.join(missing)}")
            else:
                with console.waiting(name):
                    result = Result(name, *_outcome(check))
            self._states[name] = result.state
            yield result

    def _checks(self) -> list[tuple[str, Callable[[], Outcome], list[str]]]:
        configured, held, connected = ["functions"], ["certificate secret"], ["our certificate is taken"]
        checks: list[tuple[str, Callable[[], Outcome], list[str]]] = [
            ("stack", self._stack, []),
            ("functions", self._functions, ["stack"]),
            ("application secret", self._application_secret, ["stack"]),
            ("certificate secret", self._certificate_secret, ["stack"]),
            ("certificate in time", lambda: self._found("validity"), held),
            ("certificate for clientAuth", lambda: self._found("clientAuth"), held),
            ("certificate's chain", lambda: self._found("issuer"), held),
            ("certificate's stage", lambda: self._found("stage"), held),
            ("signing key", self._signing_key, [*held, *configured]),
            ("pending certificate", self._pending, ["stack"]),
            ("base URL and aud", self._base_url, configured),
            ("name resolution", self._resolution, configured),
            ("Nexi's certificate", self._their_certificate, ["application secret", *held, "name resolution"]),
            ("our certificate is taken", self._our_certificate, ["Nexi's certificate"]),
            ("clock", self._clock, connected),
            ("certificate is registered", self._registered, connected),
            ("token", self._token, ["certificate is registered"]),
            ("JWKS", self._keys, ["certificate is registered"]),
            ("terminals", self._terminals, ["stack"]),
            ("alarms", self._alarms, ["stack"]),
        ]
        if self._operator:
            checks.append(("enrollment", self._enrollment, configured))
        return checks

    # ---------------------------------------------------------------- what is deployed

    def _stack(self) -> Outcome:
        status = self._deployment.description["StackStatus"]
        for output in ("ApiUrl", "ApplicationSecretId", "CertificateSecretId", "TerminalsTableName"):
            self._deployment.output(output)
        found = f"{self._deployment.stack}, {status}"
        if status.endswith("_IN_PROGRESS"):
            return "warning", found, "a deployment that is done", "wait for it, and look again"
        if status not in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "IMPORT_COMPLETE"):
            return "failed", found, "CREATE_COMPLETE or UPDATE_COMPLETE", "look at the stack's events, and deploy again"
        return "ok", found

    def _functions(self) -> Outcome:
        settings, functions = self._deployment.settings, self._deployment.functions
        unwell = [f"{each.name} is {each.state}, its last update {each.last_update}" for each in functions]
        unwell = [each for each in unwell if not each.endswith("is Active, its last update Successful")]
        if unwell:
            return "failed", "; ".join(unwell), "Active, updated Successful", "look at them in Lambda, and deploy again"
        stale = [each.name for each in functions if each.stale]
        if stale:
            found = f"what is called of {', '.join(stale)} is not what was deployed last"
            return "failed", found, "the stack's code and parameters", "deploy once more, with another Release"
        if settings.stage != self._deployment.nexi_stage:
            return (
                "failed",
                f"STAGE is {settings.stage}",
                self._deployment.nexi_stage,
                "deploy with this Stage, or pass the --stage that the stack is for",
            )
        return "ok", f"{len(functions)} are active, their environment is well-formed"

    def _base_url(self) -> Outcome:
        url = self._deployment.settings.nexi_base_url
        stage = self._deployment.nexi_stage
        other = next(name for name in BASE_URLS if name != stage)
        if url == BASE_URLS[other]:
            remedy = f"deploy with an empty NexiBaseUrl and Stage={stage}"
            return "failed", f"{url}, which is Nexi's {other}", BASE_URLS[stage], remedy
        if url != BASE_URLS[stage] and self._deployment.stage != "local":
            return "warning", url, f"{BASE_URLS[stage]}, the stage's own", "deploy with an empty NexiBaseUrl"
        return "ok", f"{url}, with scheme and without trailing slash"

    def _alarms(self) -> Outcome:
        names = self._deployment.named("AWS::CloudWatch::Alarm")
        remedy = "deploy the template of this version of softpos"
        if not names:
            return "failed", "the stack has no alarms", "alarms", remedy
        with translated():
            pages = self._deployment.client("cloudwatch").get_paginator("describe_alarms")
            alarms = [
                each
                for at in range(0, len(names), 100)
                for page in pages.paginate(AlarmNames=names[at : at + 100])
                for each in page["MetricAlarms"]
            ]
        missing = set(names) - {each["AlarmName"] for each in alarms}
        if missing:
            return "failed", f"CloudWatch does not have {', '.join(sorted(missing))}", "the stack's alarms", remedy
        raised = [each for each in alarms if each["StateValue"] == "ALARM"]
        if raised:
            # It stays raised for as long as its period is, also when what it is for was mended: no failure of now.
            found = "; ".join(f"{each['AlarmName']} is raised" for each in raised)
            return "warning", found, "none raised", " ".join(each.get("AlarmDescription", "") for each in raised)
        topic = self._deployment.output("AlarmTopicArn")
        silent = [
            each["AlarmName"] for each in alarms if not each["ActionsEnabled"] or topic not in each["AlarmActions"]
        ]
        if silent:
            found = f"these tell nobody: {', '.join(silent)}"
            return "warning", found, "their actions enabled, to the topic", "enable them, or deploy once more"
        return self._listeners(topic, len(alarms))

    def _listeners(self, topic: str, alarms: int) -> Outcome:
        with translated():
            answer = self._deployment.client("sns").list_subscriptions_by_topic(TopicArn=topic)
        # Else it says PendingConfirmation, or Deleted.
        confirmed = [each for each in answer["Subscriptions"] if each["SubscriptionArn"].startswith("arn:")]
        if not confirmed:
            return (
                "warning",
                f"none of {alarms} is raised, and nobody would hear if one was",
                f"a confirmed subscription of {topic}",
                f"aws sns subscribe --topic-arn {topic} --protocol email --notification-endpoint …",
            )
        return "ok", f"none of {alarms} is raised, {len(confirmed)} subscribed"

    # ---------------------------------------------------------------- the secrets

    @cached_property
    def _application_text(self) -> str:
        return read_secret(self._secrets, "APPLICATION_SECRET_ID", self._deployment.output("ApplicationSecretId"))[0]

    @cached_property
    def _certificate_text(self) -> str:
        return read_secret(self._secrets, "CERTIFICATE_SECRET_ID", self._deployment.output("CertificateSecretId"))[0]

    @cached_property
    def _secret(self) -> CertificateSecret:
        return CertificateSecret(self._secrets, self._deployment.output("CertificateSecretId"))

    @property
    def _secrets(self) -> Any:
        return self._deployment.client("secretsmanager")

    @property
    def _application(self) -> Application:
        return parse_application(self._application_text)

    @property
    def _certificate(self) -> Certificate:
        return parse_certificate(self._certificate_text)

    @cached_property
    def _trial(self) -> Trial:
        settings = self._deployment.settings_here(self._ca_bundle)
        return Trial(settings, self._application_text, jsonlib.loads(self._certificate_text))

    def _application_secret(self) -> Outcome:
        try:
            application = self._application
        except SecretMissingError as error:
            return "failed", str(error), "what Nexi's portal gave the app", "softpos application set"
        found = f"client {application.client_id}, redirect URI {application.redirect_uri}, {application.scope}"
        if application.scope != DEFAULT_SCOPE:
            return "warning", found, SCOPE_WARNING, f"softpos application set --scope {DEFAULT_SCOPE}"
        return "ok", found

    def _certificate_secret(self) -> Outcome:
        way = "softpos certificate request, import, activate: docs/onboarding.md has the whole way"
        try:
            certificate = self._certificate
        except SecretMissingError as error:
            return "failed", str(error), "a certificate and its key", way
        except MisconfiguredError:
            # The first request that a secret ever holds counts as current, too.
            if self._secret.current is None and self._secret.pending:
                return "failed", "a request, and no certificate yet", "a certificate and its key", way
            raise
        return "ok", f"{certificate.subject}, SHA-256 {certificate.thumbprint}, and its key"

    def _chains(self) -> Iterator[list[x509.Certificate]]:
        """The certificate for mutual TLS, and that of a key that was born in KMS, each with its chain."""
        yield x509.load_pem_x509_certificates(self._certificate.chain_pem)
        signing = jsonlib.loads(self._certificate_text).get("signing_certificate")
        if signing:
            yield x509.load_pem_x509_certificates(signing.encode())

    def _found(self, check: str) -> Outcome:
        now = datetime.now(UTC)
        # Only of the first does anyone ask for the chain: the other is in no handshake.
        chains = list(self._chains())[: 1 if check == "issuer" else None]
        for chain in chains:
            for each in issued.findings(chain, self._deployment.nexi_stage, now):
                # Nexi may send no root: the handshake says whether it was enough.
                if each.check == check and (each.fatal or check != "issuer" or len(chain) == 1):
                    return "failed" if each.fatal else "warning", each.found, each.wanted, each.remedy
        match check:
            case "validity":
                left = min(issued.days_left(chain[0], now) for chain in chains)
                return "ok", f"{left} days left"
            case "clientAuth":
                return "ok", "extendedKeyUsage names clientAuth"
            case "issuer":
                return "ok", "; ".join(each.subject.rfc4514_string() for each in chains[0][1:])
        return "ok", issued.unit_of(chains[0][0].subject)

    def _signing_key(self) -> Outcome:
        key_id = self._deployment.settings.signing_key_id
        if key_id is None:
            return "ok", "the certificate's own key signs"
        KmsSigner(self._deployment.client("kms"), key_id, self._certificate.signing_public_key).check()
        return "ok", f"{key_id} in KMS is the certificate's"

    def _pending(self) -> Outcome:
        pending = self._secret.pending
        if pending is None:
            return "ok", "none"
        since = f"{pending.created:%Y-%m-%d}"
        if not pending.usable:
            return "ok", f"requested on {since}, waiting for Nexi's signature"
        parse_certificate(jsonlib.dumps(pending.members))
        return "ok", f"{pending.chain[0].subject.rfc4514_string()}, imported on {since}, not activated"

    # ---------------------------------------------------------------- Nexi

    def _resolution(self) -> Outcome:
        host = urlsplit(self._deployment.settings.nexi_base_url).hostname or ""
        try:
            addresses = sorted({str(each[4][0]) for each in socket.getaddrinfo(host, None)})
        except OSError as error:
            remedy = "check this machine's DNS, and the base URL"
            return "failed", f"{host}: {error.strerror}", "an address", remedy
        return "ok", f"{host} is {', '.join(addresses)}"

    @cached_property
    def _handshake(self) -> Answer | CredentialsRefusedError:
        """What came after it, or Nexi's refusal of our certificate. Raises what else can go wrong."""
        try:
            return self._trial.shake_hands()
        except CredentialsRefusedError as refused:
            return refused

    def _their_certificate(self) -> Outcome:
        try:
            _ = self._handshake
        except MisconfiguredError as error:
            return "failed", str(error), "a certificate of an authority that we trust", error.remedy
        except UnansweredError as error:
            return "failed", str(error), "an answer after the handshake", error.remedy
        except (NexiUnavailableError, NexiTimeoutError) as error:
            remedy = "let this machine reach Nexi, without a proxy; whether the functions do, --enroll says"
            return "failed", str(error), "a handshake", remedy
        return "ok", "of an authority that is trusted here"

    def _our_certificate(self) -> Outcome:
        if isinstance(self._handshake, CredentialsRefusedError):
            refused = self._handshake
            return "failed", str(refused), "a handshake", refused.remedy
        return "ok", "the handshake was finished"

    @property
    def _answer(self) -> Answer:
        if isinstance(self._handshake, CredentialsRefusedError):
            raise self._handshake
        return self._handshake

    def _clock(self) -> Outcome:
        now = self._trial.answered_at
        clock = NexiClock(lambda: now)
        clock.learn(self._answer.headers)
        if not clock.ahead:
            return "ok", f"within {TOLERANCE_SECONDS:.0f} s of Nexi's"
        direction = "ahead of" if clock.ahead > 0 else "behind"
        return (
            "warning",
            f"this machine's clock is {abs(clock.ahead):.0f} s {direction} Nexi's",
            f"within {TOLERANCE_SECONDS:.0f} s: Nexi refuses an iat of its future",
            "let NTP set this machine's clock; the functions follow Nexi's clock by themselves",
        )

    def _registered(self) -> Outcome:
        if self._answer.status == 403:
            refusal = Reading("JWKS", self._answer).failure(self._trial.answered_at)
            return "failed", str(refusal), "a certificate that Nexi has registered", refusal.remedy
        if self._answer.status != 200:
            found = f"Nexi's JWKS answered {self._answer.status}, which says nothing of the certificate"
            return "warning", found, "200, or a 403", "look again; whether enrollments go through, --enroll says"
        return "ok", "Nexi's JWKS is given for it; that a PAR is, --enroll says"

    def _token(self) -> Outcome:
        return "ok", f"given, for {self._trial.token()} s"

    def _keys(self) -> Outcome:
        keys = self._trial.keys().keys
        found = f"{len(keys)} of the best rank, the first is {keys[0].kid or 'without a kid'}"
        if keys[0].label:
            said = f"{found}, labelled: {keys[0].label}"
            return "warning", said, "a key for encryption", "ask Nexi; assertions are encrypted to it anyway"
        return "ok", found

    # ---------------------------------------------------------------- terminals, and an enrollment

    def _terminals(self) -> Outcome:
        if self._client_certificate is None and self._deployment.parameters.get("TruststoreUri"):
            return "skipped", "the API asks for a client certificate (TruststoreUri): pass --client-certificate"
        with closing(BackOffice(self._deployment, self._client_certificate)) as office:
            # A pool may have a million pairs: no more of them are counted than one call brings.
            counted = {state: office.pairs(PAGE, state=state) for state in ("free", "held")}
        if not any(pairs for pairs, _ in counted.values()):
            return "failed", "the pool is empty", "terminal pairs", "softpos terminals import"
        found = ", ".join(f"{len(pairs)}{'+' if more else ''} {state}" for state, (pairs, more) in counted.items())
        if not counted["free"][0]:
            return (
                "warning",
                found,
                "a free pair for the next operator",
                "softpos terminals import, or softpos terminals release",
            )
        return "ok", found

    def _enrollment(self) -> Outcome:
        operator = self._operator or ""
        with translated():
            answer = self._deployment.client("lambda").invoke(
                FunctionName=self._deployment.physical(FUNCTION),
                Qualifier=ALIAS,
                Payload=jsonlib.dumps(_event(operator)).encode(),
                LogType="Tail",
            )
            said = answer["Payload"].read()
        line = _outcome_line(answer.get("LogResult", ""))
        payload = jsonlib.loads(said or "null")
        if answer.get("FunctionError") or not isinstance(payload, dict):
            told = payload.get("errorType", "an error") if isinstance(payload, dict) else "no answer"
            return "failed", f"the function ended with {told}", "an answer", "look at its log in CloudWatch"
        if payload.get("statusCode") == 201:
            return "ok", f"a request_uri for {operator}, in {line.get('total_ms', '?')} ms"
        problem = jsonlib.loads(payload.get("body") or "{}")
        found = f"{payload.get('statusCode')} {problem.get('code')}: {line.get('message', problem.get('title'))}"
        remedy = line.get("remedy") or problem.get("detail", "")
        if problem.get("code") == "nexi_rejected":
            remedy = self._causes(operator, line)
        if problem.get("code") == "terminal_not_assigned":
            remedy = f"softpos terminals assign {operator}"
        return "failed", found, "201 and a request_uri", remedy

    def _causes(self, operator: str, line: dict[str, Any]) -> str:
        """What Nexi's support names as causes of a 400 on PAR, without those that are ruled out."""
        compared = [
            f"e-mail {operator}",
            "redirect URI" if self._no_secrets else f"redirect URI {self._application.redirect_uri}",
            f"point of sale {line.get('point_of_sale')}",
            f"TIDs {', '.join(line.get('terminal_ids', []))}",
        ]
        ruled_out = ["exp, which is 300 s after iat"]
        ahead = line.get("clock_ahead_seconds")
        (compared if ahead else ruled_out).append(f"clock, {ahead} s ahead of Nexi's" if ahead else "the clock")
        well = self._states["base URL and aud"] == "ok"
        (ruled_out if well else compared).append("aud" if well else f"aud {self._deployment.settings.nexi_base_url}")
        return f"compare with Nexi's portal and the SDK: {'; '.join(compared)}. It is not {', nor '.join(ruled_out)}"


def _outcome(check: Callable[[], Outcome]) -> Outcome:
    """What a check found. Raises nothing that one of ours raises: that is what it found."""
    try:
        return check()
    except SoftposError as error:
        return "failed", str(error), "", error.remedy


def _event(operator: str) -> dict[str, Any]:
    """What API Gateway would pass on of a phone whose operator has signed in (HTTP API, payload 2.0)."""
    return {
        "version": "2.0",
        "routeKey": "POST /v1/enrollments",
        "headers": {"content-type": "application/json"},
        "requestContext": {
            "requestId": f"{DEVICE_ID}-{uuid.uuid4()}",
            "authorizer": {"jwt": {"claims": {"email": operator, "email_verified": "true"}, "scopes": None}},
        },
        "body": jsonlib.dumps({"device_id": DEVICE_ID}),
        "isBase64Encoded": False,
    }


def _outcome_line(tail: str) -> dict[str, Any]:
    """The function's own line in the last of its log; nothing when it is not there."""
    for text in reversed(base64.b64decode(tail).decode("utf-8", "replace").splitlines()):
        try:
            line = jsonlib.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict) and "total_ms" in line:
            return line
    return {}


_STYLES: dict[State, tuple[str, str]] = {
    "ok": ("ok     ", "green"),
    "warning": ("look   ", "yellow"),
    "failed": ("FAILED ", "bold red"),
    "skipped": ("skipped", "dim"),
}


def _tell(result: Result) -> None:
    word, style = _STYLES[result.state]
    console.say(Text.assemble((word, style), "  ", (f"{result.check:<27}", "bold"), result.found))
    for name, text in (("wanted", result.wanted), ("do", result.remedy)):
        if text:
            console.say(Text.assemble(" " * 9, (f"{name:<8}", "dim"), text))
