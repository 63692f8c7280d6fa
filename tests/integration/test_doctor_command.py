"""`softpos doctor`: each thing that can be wrong, arranged for real, is found, and nothing else is said to be wrong."""

import json
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from commands import Softpos, stored
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from leaks import of_key

from onboarding.doctor import Examination
from sandbox.authority import Authority
from sandbox.local import MPOS_TID, OPERATOR, POINT_OF_SALE, SECOND_OPERATOR, SOFTPOS_TID, LocalStack

CLIENT_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH
REDIRECT_URI = "https://merchant.example/softpos"


@pytest.fixture(scope="module")
def doctors_stack() -> Iterator[LocalStack]:
    """A stack of these tests' own: they break it."""
    with LocalStack() as running:
        yield running


@pytest.fixture
def softpos(doctors_stack: LocalStack, tmp_path: Path) -> Softpos:
    return Softpos(doctors_stack, tmp_path)


@pytest.fixture(scope="module")
def other_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


def key_pem(key: rsa.RSAPrivateKey) -> str:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


@dataclass
class Scene:
    """Where something goes wrong: the stack, and what ends with the scene."""

    stack: LocalStack
    running: ExitStack
    other_key: rsa.RSAPrivateKey

    def application(self, value: Any = None, **changes: Any) -> None:
        app = self.stack.app
        right = {"client_id": app.client_id, "client_secret": app.client_secret, "redirect_uri": app.redirect_uri}
        self.running.enter_context(stored(self.stack, "ApplicationSecretId", value or {**right, **changes}))

    def certificate(self, value: Any = None, **changes: Any) -> None:
        developer = self.stack.developer
        chain = developer.certificate_pem + self.stack.authority.certificate_pem
        right = {"certificate": chain, "private_key": developer.key_pem}
        self.running.enter_context(stored(self.stack, "CertificateSecretId", value or {**right, **changes}))

    def issued(self, authority: Authority | None = None, **changes: Any) -> None:
        """A certificate that is not the stack's own, by the sandbox's authority or another, and registered."""
        authority = authority or self.stack.authority
        issued = authority.developer("OTHER", key=self.other_key, **changes)
        self.registered(issued.certificate)
        self.certificate(certificate=issued.certificate_pem + authority.certificate_pem, private_key=issued.key_pem)

    def leaf(self, unit: str = "API Security - STAGING", usage: x509.ObjectIdentifier = CLIENT_AUTH) -> None:
        """A certificate of the sandbox's authority, for another environment or another use, and registered."""
        names = (("CN", "OTHER"), ("O", "NEXI"), ("OU", unit), ("L", "Milano"), ("C", "IT"))
        subject = x509.Name.from_rfc4514_string(",".join(f"{name}={value}" for name, value in reversed(names)))
        leaf = self.stack.authority._leaf(subject, self.other_key.public_key(), usage)
        self.registered(leaf)
        pem = leaf.public_bytes(serialization.Encoding.PEM).decode()
        chain = pem + self.stack.authority.certificate_pem
        self.certificate(certificate=chain, private_key=key_pem(self.other_key))

    def registered(self, certificate: x509.Certificate) -> None:
        """Nexi has this one, too, for as long as the scene lasts."""
        thumbprint = certificate.fingerprint(hashes.SHA256()).hex()
        self.stack.app.register(certificate, thumbprint)
        self.running.callback(self.stack.app.unregister, thumbprint)

    def emptied(self, logical_id: str, output: str) -> None:
        """In the place of a secret of the stack's, one that was never given a value."""
        self.running.callback(self.stack.template.exists, logical_id, self.stack.outputs[output])
        made = self.stack.aws.client("secretsmanager").create_secret(Name=f"empty-{uuid.uuid4()}")
        self.stack.template.exists(logical_id, made["ARN"])

    def alarm(self, state: str) -> None:
        """What CloudWatch has found of an alarm."""
        cloudwatch = self.stack.aws.client("cloudwatch")
        (name, *_) = [each["AlarmName"] for each in cloudwatch.describe_alarms()["MetricAlarms"]]
        cloudwatch.set_alarm_state(AlarmName=name, StateValue=state, StateReason="a test")

    def unsubscribed(self) -> None:
        """Nobody hears the alarms."""
        sns, topic = self.stack.aws.client("sns"), self.stack.outputs["AlarmTopicArn"]
        for each in sns.list_subscriptions_by_topic(TopicArn=topic)["Subscriptions"]:
            sns.unsubscribe(SubscriptionArn=each["SubscriptionArn"])
        self.running.callback(sns.subscribe, TopicArn=topic, Protocol="email", Endpoint="on-call@merchant.example")

    def held(self) -> None:
        """No pair is free."""
        for pair in self.stack.back_office("GET", "/v1/terminals?state=free")["pairs"]:
            tid = pair["softpos_tid"]
            body = json.dumps({"operator": f"operator-{tid}@example.com"}).encode()
            self.stack.back_office("PUT", f"/v1/terminals/{tid}/operator", body)
            self.running.callback(self.stack.back_office, "DELETE", f"/v1/terminals/{tid}/operator")

    def changed(self, thing: Any, name: str, value: Any) -> None:
        """An attribute of something, for as long as the scene lasts."""
        self.running.callback(setattr, thing, name, getattr(thing, name))
        setattr(thing, name, value)

    def pool(self, points_of_sale: dict[str, dict[str, str]]) -> None:
        """What Nexi has as the app's points of sale and terminals."""
        self.changed(self.stack.app, "points_of_sale", points_of_sale)


@pytest.fixture
def scene(doctors_stack: LocalStack, other_key: rsa.RSAPrivateKey) -> Iterator[Scene]:
    with ExitStack() as running:
        yield Scene(doctors_stack, running, other_key)


def test_a_stack_as_make_run_starts_it_is_well(softpos: Softpos) -> None:
    run = softpos.doctor("--enroll", OPERATOR)
    assert (run.status, run.unwell) == (0, {})
    assert run.json["well"] is True
    assert {each["state"] for each in run.json["checks"]} == {"ok"}


@dataclass(frozen=True)
class Row:
    """What is done to the stack, the checks that then are not well, and words that the first of them has."""

    name: str
    arrange: Callable[[Scene], Any]
    unwell: dict[str, str]
    found: str
    remedy: str = ""
    enroll: str | None = None


def failed(*checks: str) -> dict[str, str]:
    return dict.fromkeys(checks, "failed")


NOW = datetime.now(UTC)
BOTH = {SOFTPOS_TID: "softpos", MPOS_TID: "mpos"}

ROWS = [
    # ---- the secrets
    Row(
        "application-secret-is-not-json",
        lambda scene: scene.application("client_id=x"),
        failed("application secret"),
        "not JSON",
    ),
    Row(
        "application-secret-lacks-the-redirect-uri",
        lambda scene: scene.application(redirect_uri=""),
        failed("application secret"),
        "redirect_uri is empty",
    ),
    Row(
        "application-secret-has-a-scope-that-nexi-does-not-offer",
        lambda scene: scene.application(scope="payments"),
        failed("application secret"),
        "scope",
    ),
    Row(
        "application-secret-has-a-scope-that-the-sdk-does-not-ask-for",
        lambda scene: scene.application(scope="oidc email"),
        {"application secret": "warning"},
        "oidc email",
        "softpos application set --scope oidc",
    ),
    Row(
        "application-secret-is-empty",
        lambda scene: scene.emptied("ApplicationSecret", "ApplicationSecretId"),
        failed("application secret"),
        "has no current value",
        "softpos application set",
    ),
    Row(
        "certificate-secret-is-empty",
        lambda scene: scene.emptied("CertificateSecret", "CertificateSecretId"),
        failed("certificate secret"),
        "has no current value",
        "softpos certificate request, import, activate",
    ),
    # ---- 403: certificate or key malformed
    Row(
        "certificate-secret-is-not-json",
        lambda scene: scene.certificate("-----BEGIN CERTIFICATE-----"),
        failed("certificate secret"),
        "not JSON",
    ),
    Row(
        "certificate-is-malformed",
        lambda scene: scene.certificate(certificate="-----BEGIN PKCS7-----\nMII="),
        failed("certificate secret"),
        "it is a .p7b",
    ),
    Row(
        "key-is-malformed",
        lambda scene: scene.certificate(private_key=scene.stack.developer.key_pem[:400]),
        failed("certificate secret"),
        "private_key",
    ),
    Row(
        "key-is-anothers",
        lambda scene: scene.certificate(private_key=key_pem(scene.other_key)),
        failed("certificate secret"),
        "belongs to none",
        "the key that the certificate's CSR was made with",
    ),
    # ---- TLS alert: an unknown issuer, or an expired certificate
    Row(
        "certificate-has-expired",
        lambda scene: scene.issued(not_before=NOW - timedelta(days=10), lifetime=timedelta(days=9)),
        failed("certificate in time", "our certificate is taken"),
        "valid from",
        "softpos certificate request",
    ),
    Row(
        "certificate-is-not-valid-yet",
        lambda scene: scene.issued(not_before=NOW + timedelta(days=1)),
        failed("certificate in time", "our certificate is taken"),
        "valid from",
        "clock",
    ),
    Row(
        "certificate-expires-soon",
        lambda scene: scene.issued(lifetime=timedelta(days=20)),
        {"certificate in time": "warning"},
        "19 days are left",
        "softpos certificate request",
    ),
    Row(
        "certificate-is-anothers-authoritys",
        lambda scene: scene.issued(Authority("another CA")),
        failed("our certificate is taken"),
        "ended the handshake",
        "a certificate that Nexi signed",
    ),
    Row(
        "chain-is-not-complete",
        lambda scene: scene.certificate(certificate=scene.stack.developer.certificate_pem),
        {"certificate's chain": "warning"},
        "issuer is not with it",
        "the whole .p7b",
    ),
    Row(
        "certificate-is-for-servers",
        lambda scene: scene.leaf(usage=ExtendedKeyUsageOID.SERVER_AUTH),
        failed("certificate for clientAuth", "our certificate is taken"),
        "extendedKeyUsage names serverAuth",
        "make a new request",
    ),
    Row(
        "certificate-is-the-other-stages",
        lambda scene: scene.leaf("API Security - PRODUCTION"),
        failed("certificate's stage"),
        "API Security - PRODUCTION",
        "request one for staging",
    ),
    Row(
        "certificate-names-no-stage",
        lambda scene: scene.leaf("API Security"),
        {"certificate's stage": "warning"},
        "names no environment",
        "ask Nexi",
    ),
    # ---- 403: the certificate is not (yet) registered at Nexi
    Row(
        "certificate-is-not-registered",
        lambda scene: scene.changed(scene.stack.app, "certificates", {}),
        failed("certificate is registered"),
        "403",
        "send its .pem to Nexi's contact",
    ),
    # ---- 401: client id and secret
    Row(
        "client-secret-is-not-the-portals",
        lambda scene: scene.application(client_secret="of-another-app"),
        failed("token"),
        "401",
        "client_id and client_secret",
    ),
    Row(
        "client-id-is-not-the-portals",
        lambda scene: scene.application(client_id="another-app"),
        failed("token"),
        "401",
        "client_id and client_secret",
    ),
    # ---- Nexi
    Row(
        "nexi-resets-the-connection",
        lambda scene: scene.stack.nexi.faults.add("keys:reset*2"),
        failed("Nexi's certificate"),
        "Nexi ended a new connection before answering",
        "Ask Nexi whether this certificate is registered",
    ),
    Row(
        "nexis-clock-is-behind",
        lambda scene: scene.changed(scene.stack.nexi, "clock_offset", -30.0),
        {"clock": "warning"},
        "s ahead of Nexi's",
        "NTP",
    ),
    Row(
        "nexis-clock-is-ahead",
        lambda scene: scene.changed(scene.stack.nexi, "clock_offset", 30.0),
        {"clock": "warning"},
        "s behind Nexi's",
        "NTP",
    ),
    Row(
        "jwks-has-a-signing-key-alone",
        lambda scene: scene.changed(scene.stack.nexi, "_encryption_keys", []),
        {"JWKS": "warning"},
        "use sig",
        "ask Nexi",
    ),
    # ---- the stack
    Row(
        "alarm-is-raised",
        lambda scene: scene.alarm("ALARM"),
        {"alarms": "warning"},
        "is raised",
        "softpos doctor",
    ),
    Row(
        "jwks-answers-something-else",
        lambda scene: scene.stack.nexi.faults.add("keys:status=404"),
        {"certificate is registered": "warning"},
        "Nexi's JWKS answered 404, which says nothing of the certificate",
        "--enroll says",
    ),
    Row(
        "nobody-hears-the-alarms",
        Scene.unsubscribed,
        {"alarms": "warning"},
        "nobody would hear",
        "aws sns subscribe --topic-arn arn:",
    ),
    Row("no-pair-is-free", Scene.held, {"terminals": "warning"}, "0 free, 4 held", "softpos terminals import"),
    # ---- 400 on PAR: what the portal and the SDK have is not what is sent
    Row(
        "operator-is-not-nexis",
        lambda scene: scene.changed(scene.stack.app, "operators", set()),
        failed("enrollment"),
        "502 nexi_rejected: PAR answered 400",
        f"e-mail {OPERATOR}",
        enroll=OPERATOR,
    ),
    Row(
        "redirect-uri-is-not-the-portals",
        lambda scene: scene.changed(scene.stack.app, "redirect_uri", "https://other.example/"),
        failed("enrollment"),
        "502 nexi_rejected: PAR answered 400",
        f"redirect URI {REDIRECT_URI}",
        enroll=OPERATOR,
    ),
    Row(
        "point-of-sale-is-not-the-portals",
        lambda scene: scene.pool({"99": BOTH}),
        failed("enrollment"),
        "ContractCode not found.",
        f"point of sale {POINT_OF_SALE}",
        enroll=OPERATOR,
    ),
    Row(
        "tid-is-not-the-portals",
        lambda scene: scene.pool({POINT_OF_SALE: {SOFTPOS_TID: "softpos"}}),
        failed("enrollment"),
        "Terminal not found.",
        f"TIDs {SOFTPOS_TID}, {MPOS_TID}",
        enroll=OPERATOR,
    ),
    Row(
        "operator-holds-no-terminal",
        lambda scene: None,
        failed("enrollment"),
        "409 terminal_not_assigned",
        f"softpos terminals assign {SECOND_OPERATOR}",
        enroll=SECOND_OPERATOR,
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_what_is_wrong_is_found_and_nothing_else(scene: Scene, softpos: Softpos, row: Row) -> None:
    scene.running.callback(scene.alarm, "OK")
    scene.running.callback(scene.stack.nexi.faults.clear)
    row.arrange(scene)
    run = softpos.doctor(*(["--enroll", row.enroll] if row.enroll else []))
    assert run.unwell == row.unwell, run.out
    assert run.status == (1 if "failed" in row.unwell.values() else 3)
    first = run.check(next(iter(row.unwell)))
    assert row.found in first["found"]
    assert row.remedy in first["remedy"]
    assert first["remedy"]


def test_a_check_that_needs_one_that_failed_is_skipped_and_says_so(scene: Scene, softpos: Softpos) -> None:
    scene.certificate("nothing")
    checks = softpos.doctor().json["checks"]
    assert {each["check"]: each["found"] for each in checks if each["state"] == "skipped"} == {
        "certificate in time": "needs: certificate secret",
        "certificate for clientAuth": "needs: certificate secret",
        "certificate's chain": "needs: certificate secret",
        "certificate's stage": "needs: certificate secret",
        "signing key": "needs: certificate secret",
        "Nexi's certificate": "needs: certificate secret",
        "our certificate is taken": "needs: Nexi's certificate",
        "clock": "needs: our certificate is taken",
        "certificate is registered": "needs: our certificate is taken",
        "token": "needs: certificate is registered",
        "JWKS": "needs: certificate is registered",
    }


def test_a_server_of_another_authority_is_not_trusted(scene: Scene, softpos: Softpos) -> None:
    (softpos.folder / "other.pem").write_text(Authority("another CA").certificate_pem)
    run = softpos.doctor("--ca-bundle", "other.pem")
    assert run.unwell == failed("Nexi's certificate")
    assert "is not trusted" in run.check("Nexi's certificate")["found"]


def test_what_an_enrollment_mends_by_itself_is_no_failure(scene: Scene, softpos: Softpos) -> None:
    """401 on PAR, a token that was revoked; 400, a clock that is ahead, or keys that were rotated."""
    assert softpos.doctor("--enroll", OPERATOR).check("enrollment")["state"] == "ok"
    scene.stack.nexi.revoke_tokens()
    scene.changed(scene.stack.nexi, "clock_offset", -30.0)
    run = softpos.doctor("--enroll", OPERATOR)
    assert run.unwell == {"clock": "warning"}
    assert run.check("enrollment")["state"] == "ok"


def test_what_cannot_be_the_cause_of_a_400_is_ruled_out(scene: Scene, softpos: Softpos) -> None:
    scene.changed(scene.stack.app, "operators", set())
    remedy = softpos.doctor("--enroll", OPERATOR).check("enrollment")["remedy"]
    assert remedy.endswith("It is not exp, which is 300 s after iat, nor the clock, nor aud")


def test_in_words_it_says_what_was_found_what_was_wanted_and_what_to_do(scene: Scene, softpos: Softpos) -> None:
    scene.leaf("API Security - PRODUCTION")
    lines = softpos("doctor").out.splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("FAILED   certificate's stage"))
    assert "the subject's OU is 'API Security - PRODUCTION'" in lines[at]
    assert lines[at + 1].split(maxsplit=1) == ["wanted", "a certificate for staging"]
    assert lines[at + 2].split(maxsplit=1)[0] == "do"


def test_without_secrets_none_is_read_and_an_enrollment_shows_as_much(
    scene: Scene, softpos: Softpos, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*_: Any, **__: Any) -> Any:
        raise AssertionError("a secret was asked for")

    monkeypatch.setattr(Examination, "_secrets", property(unread))
    run = softpos.doctor("--no-secrets", "--enroll", OPERATOR)
    assert (run.status, run.unwell, run.json["well"]) == (0, {}, True)
    states = {each["check"]: each["state"] for each in run.json["checks"]}
    assert {check for check, state in states.items() if state == "ok"} == {
        "stack",
        "functions",
        "base URL and aud",
        "name resolution",
        "terminals",
        "alarms",
        "enrollment",
    }
    scene.changed(scene.stack.app, "redirect_uri", "https://other.example/")
    run = softpos.doctor("--no-secrets", "--enroll", OPERATOR)
    assert run.unwell == failed("enrollment")
    assert "redirect URI;" in run.check("enrollment")["remedy"]


def test_nothing_secret_is_printed(scene: Scene, softpos: Softpos, doctors_stack: LocalStack) -> None:
    scene.changed(doctors_stack.app, "operators", set())
    runs = [softpos.doctor("--enroll", OPERATOR), softpos("doctor", "--enroll", OPERATOR)]
    printed = "".join(run.out + run.err for run in runs)
    tokens = list(doctors_stack.nexi._state.tokens)
    assert tokens
    hidden = [doctors_stack.app.client_secret, *tokens, *of_key(doctors_stack.developer.key_pem)]
    assert [each for each in hidden if each in printed] == []


def test_the_key_in_kms_is_the_certificates_or_is_found_to_be_another(tmp_path: Path) -> None:
    with LocalStack(signer="kms") as stack:
        softpos = Softpos(stack, tmp_path)
        run = softpos.doctor("--enroll", OPERATOR)
        assert run.unwell == {}
        assert run.check("signing key")["found"].endswith("in KMS is the certificate's")
        chain = stack.developer.certificate_pem + stack.authority.certificate_pem
        with stored(stack, "CertificateSecretId", {"certificate": chain, "private_key": stack.developer.key_pem}):
            run = softpos.doctor()
        assert run.unwell == failed("signing key")
        assert "is not the one that the certificate is for" in run.check("signing key")["found"]
