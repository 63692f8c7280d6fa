"""The certificate watch on its event in events/: the metrics that the alarms are for, and the one line of each look."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from types import ModuleType
from typing import Any

import pytest
from botocore.exceptions import ClientError
from cryptography.hazmat.primitives.asymmetric import rsa
from handlers import INVOCATION, ROOT, Context, aws_client, load_event, load_function
from moto import mock_aws
from unit_support import Lines, RsaPair

from sandbox.authority import Authority, Issued
from sandbox.template import Template
from softpos import aws, certificate_watch
from softpos.settings import Settings

SETTINGS = Settings.from_environment(
    {
        "STAGE": "staging",
        "NEXI_BASE_URL": "https://nexi.example",
        "APPLICATION_SECRET_ID": "stack/application",
        "CERTIFICATE_SECRET_ID": "stack/certificate",
        "TERMINALS_TABLE": "terminals",
        "CACHE_TABLE": "cache",
    }
)
FITS, DAYS_LEFT, PENDING_DAYS_LEFT = "CertificateFits", "CertificateDaysLeft", "PendingCertificateDaysLeft"

Metrics = dict[str, float]


@pytest.fixture(scope="module")
def function() -> ModuleType:
    return load_function("certificate_watch")


@dataclass
class Look:
    """What one invocation left behind: its line, and what it printed for CloudWatch, read and as it is."""

    line: dict[str, Any]
    emitted: dict[str, Any]
    text: str

    @property
    def metrics(self) -> Metrics:
        """Each metric's value."""
        (directive,) = self.emitted["_aws"]["CloudWatchMetrics"]
        return {each["Name"]: self.emitted[each["Name"]][0] for each in directive["Metrics"]}


@dataclass
class Stack:
    """The function on an AWS with an empty certificate secret and a key in KMS that is nobody's."""

    function: ModuleType
    lines: Lines
    read_out: Callable[[], str]
    use: Callable[[Settings], None]
    secrets: Any
    key_id: str
    failing: dict[str, Exception] = field(default_factory=dict)

    def put(self, value: str, *labels: str) -> None:
        self.secrets.put_secret_value(
            SecretId="stack/certificate", SecretString=value, VersionStages=labels or ["AWSCURRENT"]
        )

    def signs_with(self, key_id: str) -> None:
        """The parameter SigningKeyId."""
        self.use(replace(SETTINGS, signing_key_id=key_id))

    def client(self, service: str) -> Any:
        failing = self.failing.get(service)
        return Failing(failing) if failing else aws_client(service)

    def look(self) -> Look:
        assert self.function.lambda_handler(load_event("certificate-watch"), Context()) is None
        out = self.read_out()
        # The outcome's own comes after them.
        return Look(self.lines.only(), json.loads(out.splitlines()[0]), self.lines.text + out)


@dataclass
class Failing:
    """A client all of whose calls fail so."""

    failure: Exception

    def __getattr__(self, _operation: str) -> Callable[..., Any]:
        def call(**_: Any) -> Any:
            raise self.failure

        return call


@pytest.fixture
def stack(
    function: ModuleType, lines: Lines, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Stack]:
    def use(settings: Settings) -> None:
        monkeypatch.setattr(certificate_watch, "settings", lambda: settings)

    with mock_aws():
        secrets, kms = aws_client("secretsmanager"), aws_client("kms")
        secrets.create_secret(Name="stack/certificate")
        key_id = kms.create_key(KeySpec="RSA_2048", KeyUsage="SIGN_VERIFY")["KeyMetadata"]["KeyId"]
        stack = Stack(function, lines, lambda: capsys.readouterr().out, use, secrets, key_id)
        monkeypatch.setattr(aws, "client", stack.client)
        use(SETTINGS)
        yield stack


Lasting = Callable[..., str]


@pytest.fixture
def lasting(authority: Authority, developer: Issued) -> Lasting:
    """The certificate secret with a certificate that lasts so many days from now."""

    def secret(days: float, signing_days: float | None = None, **members: str) -> str:
        stored = {"certificate": issued(days).certificate_pem, "private_key": developer.key_pem, **members}
        if signing_days is not None:
            stored["signing_certificate"] = issued(signing_days).certificate_pem
        return json.dumps(stored)

    def issued(days: float) -> Issued:
        begin = datetime.now(UTC) - timedelta(days=100)
        assert isinstance(developer.key, rsa.RSAPrivateKey)
        lifetime = timedelta(days=100 + days)
        return authority.developer("WATCHED", key=developer.key, not_before=begin, lifetime=lifetime)

    return secret


KEY_ALONE = json.dumps({"private_key": "pem", "signing_request": "pem"})


@dataclass
class Row:
    """What is stored, and what the look at it says."""

    current: Callable[[Lasting], str | None]
    metrics: Metrics
    pending: Callable[[Lasting], str | None] = lambda _: None
    level: str = "INFO"
    message: str = "key and certificate fit"


ROWS = {
    "current-only": Row(lambda lasting: lasting(200), {FITS: 1, DAYS_LEFT: 200}),
    "about-to-expire": Row(lambda lasting: lasting(6.5), {FITS: 1, DAYS_LEFT: 6.5}),
    "expired": Row(lambda lasting: lasting(-3), {FITS: 1, DAYS_LEFT: -3}),
    "signing-certificate-shorter": Row(lambda lasting: lasting(200, 20), {FITS: 1, DAYS_LEFT: 20}),
    "signing-certificate-longer": Row(lambda lasting: lasting(20, 200), {FITS: 1, DAYS_LEFT: 20}),
    "pending-with-certificate": Row(
        lambda lasting: lasting(20),
        {FITS: 1, DAYS_LEFT: 20, PENDING_DAYS_LEFT: 365},
        pending=lambda lasting: lasting(365),
    ),
    "pending-without-certificate": Row(
        lambda lasting: lasting(20), {FITS: 1, DAYS_LEFT: 20}, pending=lambda _: KEY_ALONE
    ),
    "pending-malformed": Row(
        lambda lasting: lasting(20), {FITS: 1, DAYS_LEFT: 20}, pending=lambda _: "{", level="WARNING"
    ),
    "malformed-json": Row(lambda _: "{", {FITS: 0}, level="ERROR", message="certificate secret: not JSON"),
    "malformed-json-while-one-is-pending": Row(
        lambda _: "{",
        {FITS: 0, PENDING_DAYS_LEFT: 365},
        pending=lambda lasting: lasting(365),
        level="ERROR",
        message="certificate secret: not JSON",
    ),
    "no-value": Row(
        lambda _: None,
        {FITS: 0},
        level="ERROR",
        message="the secret that CERTIFICATE_SECRET_ID names does not exist or has no current value "
        "(ResourceNotFoundException)",
    ),
}


@pytest.mark.parametrize("row", ROWS.values(), ids=list(ROWS))
def test_what_is_stored_becomes_metrics_and_one_line(stack: Stack, lasting: Lasting, row: Row) -> None:
    for label, value in (("AWSCURRENT", row.current(lasting)), ("AWSPENDING", row.pending(lasting))):
        if value is not None:
            stack.put(value, label)
    look = stack.look()
    assert look.metrics == pytest.approx(row.metrics, abs=0.001)
    assert (look.line["level"], look.line["message"]) == (row.level, row.message)
    assert ("remedy" in look.line) == (row.level == "ERROR")
    assert look.line["invocation"] == INVOCATION


def test_a_pending_version_that_is_the_current_one_is_not_told_twice(stack: Stack, lasting: Lasting) -> None:
    stack.put(lasting(200), "AWSCURRENT", "AWSPENDING")
    look = stack.look()
    assert set(look.metrics) == {FITS, DAYS_LEFT}
    assert "pending" not in look.line


def test_a_key_that_is_not_the_certificates_does_not_fit(stack: Stack, lasting: Lasting, other_key: RsaPair) -> None:
    stack.put(lasting(200, private_key=other_key.private_pem))
    look = stack.look()
    assert look.metrics == {FITS: 0}
    assert (look.line["level"], look.line["code"]) == ("ERROR", "misconfigured")
    assert "CSR" in look.line["remedy"]


@pytest.mark.parametrize(
    ("key_id", "found"),
    [(None, "is not the one that the certificate is for"), ("1234abcd-12ab-34cd-56ef-1234567890ab", "NotFound")],
    ids=["another", "missing"],
)
def test_a_key_in_kms_that_does_not_fit_leaves_the_days_counted(
    stack: Stack, lasting: Lasting, key_id: str | None, found: str
) -> None:
    stack.put(lasting(200))
    stack.signs_with(key_id or stack.key_id)
    look = stack.look()
    assert look.metrics == pytest.approx({FITS: 0, DAYS_LEFT: 200}, abs=0.001)
    assert found in look.line["message"]
    assert look.line["level"] == "ERROR"
    assert look.line["current"]["subject"].endswith("CN=WATCHED")


def test_kms_is_not_asked_unless_it_signs(stack: Stack, lasting: Lasting) -> None:
    stack.put(lasting(200))
    stack.failing["kms"] = refused("AccessDeniedException")
    assert stack.look().metrics[FITS] == 1


def test_its_line_shows_what_is_public_of_each_version(stack: Stack, lasting: Lasting) -> None:
    stack.put(lasting(200, 20))
    stack.put(lasting(365), "AWSPENDING")
    line = stack.look().line
    for version, days in (("current", 20), ("pending", 365)):
        shown = line[version]
        assert set(shown) == {"subject", "thumbprint", "not_after", "signing_not_after", "days_left"}
        assert len(shown["thumbprint"]) == 64
        assert shown["days_left"] == pytest.approx(days, abs=0.1)
        first = min(map(datetime.fromisoformat, (shown["not_after"], shown["signing_not_after"])))
        assert (first - datetime.now(UTC)) / timedelta(days=1) == pytest.approx(days, abs=0.01)


def test_its_line_says_which_pending_version_it_could_not_count(stack: Stack, lasting: Lasting) -> None:
    stack.put(lasting(200))
    stack.put("{", "AWSPENDING")
    assert stack.look().line["pending_unfit"] == "certificate secret: not JSON"


def test_its_line_says_that_a_key_waits_for_its_certificate(stack: Stack, lasting: Lasting) -> None:
    stack.put(lasting(200))
    stack.put(KEY_ALONE, "AWSPENDING")
    assert stack.look().line["pending"] == {"waits_for": "certificate"}


@pytest.mark.parametrize(
    ("service", "error", "code"),
    [
        ("secretsmanager", "ThrottlingException", "backend_unavailable"),
        ("secretsmanager", "InternalServiceError", "backend_unavailable"),
        ("kms", "ThrottlingException", "signing_unavailable"),
        ("kms", "KMSInternalException", "signing_unavailable"),
    ],
)
def test_who_could_not_ask_says_so_and_fails_and_no_metric_says_more(
    stack: Stack, lasting: Lasting, service: str, error: str, code: str
) -> None:
    stack.put(lasting(200))
    stack.signs_with(stack.key_id)
    stack.failing[service] = refused(error)
    with pytest.raises(stack.function.WatchFailedError) as caught:
        stack.look()
    assert (str(caught.value), caught.value.__cause__) == ("", None)
    line = stack.lines.only()
    assert (line["level"], line["code"]) == ("ERROR", code)
    assert error in line["message"]
    assert line["remedy"]
    assert "Certificate" not in stack.read_out()


def test_whatever_else_fails_is_told_by_type_alone(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise KeyError("S3CR3T")

    monkeypatch.setattr(certificate_watch, "watch", broken)
    with pytest.raises(stack.function.WatchFailedError):
        stack.look()
    assert stack.lines.only()["message"] == "unexpected KeyError"
    assert "S3CR3T" not in stack.lines.text


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param({}, id="sound"),
        pytest.param({"certificate": "pem"}, id="no-certificate"),
        pytest.param({"certificate": ""}, id="certificate-empty"),
        pytest.param({"signing_certificate": "pem"}, id="no-signing-certificate"),
    ],
)
@pytest.mark.parametrize("cut", [0, 9], ids=["whole", "cut-short"])
def test_no_character_of_a_key_is_told(
    stack: Stack, lasting: Lasting, developer: Issued, broken: dict[str, str], cut: int
) -> None:
    """Whatever is wrong with it or beside it, in both versions."""
    secret = lasting(200, **{"private_key": developer.key_pem[: len(developer.key_pem) - cut], **broken})
    stack.put(secret)
    stack.put(secret + " ", "AWSPENDING")
    text = stack.look().text
    for line in developer.key_pem.splitlines():
        if "-----" not in line:
            assert not any(line[start : start + 12] in text for start in range(max(1, len(line) - 11)))


class TestTheAlarms:
    """template.yaml has names and dimensions that the function must emit, or an alarm watches nothing."""

    @pytest.fixture
    def alarms(self) -> dict[str, dict[str, Any]]:
        template = Template(ROOT / "template.yaml", {})
        template.exists("AlarmTopic", "arn:of-the-topic")
        every = template.resources("AWS::CloudWatch::Alarm").items()
        return {name: template.resolve(each) for name, each in every if name.startswith("Certificate")}

    def test_each_is_on_a_metric_that_is_emitted_under_that_name_and_those_dimensions(
        self, alarms: dict[str, dict[str, Any]], stack: Stack, lasting: Lasting
    ) -> None:
        stack.put(lasting(200))
        stack.put(lasting(365), "AWSPENDING")
        emitted = stack.look().emitted
        (directive,) = emitted["_aws"]["CloudWatchMetrics"]
        (names,) = directive["Dimensions"]
        dimensions = {name: emitted[name] for name in names}
        for name, alarm in alarms.items():
            assert alarm["Namespace"] == directive["Namespace"], name
            assert alarm["MetricName"] in {each["Name"] for each in directive["Metrics"]}, name
            assert {each["Name"]: each["Value"] for each in alarm["Dimensions"]} == dimensions, name
            # An alarm with a unit sees the datapoints of that unit alone.
            assert "Unit" not in alarm, name

    @pytest.mark.parametrize(
        ("value", "rung"),
        [
            ({DAYS_LEFT: 30.0, FITS: 1.0}, set()),
            ({DAYS_LEFT: 29.9, FITS: 1.0}, {"CertificateExpiresIn30Days"}),
            ({DAYS_LEFT: 7.0, FITS: 1.0}, {"CertificateExpiresIn30Days"}),
            ({DAYS_LEFT: 6.9, FITS: 1.0}, {"CertificateExpiresIn30Days", "CertificateExpiresIn7Days"}),
            ({DAYS_LEFT: -1.0, FITS: 1.0}, {"CertificateExpiresIn30Days", "CertificateExpiresIn7Days"}),
            ({DAYS_LEFT: 200.0, FITS: 0.0}, {"CertificateUnfit"}),
            ({FITS: 0.0}, {"CertificateUnfit"}),
            ({}, {"CertificateUnfit"}),
        ],
        ids=["30-days", "less-than-30", "7-days", "less-than-7", "expired", "kms-unfit", "malformed", "dead-watch"],
    )
    def test_which_rings_when(self, alarms: dict[str, dict[str, Any]], value: Metrics, rung: set[str]) -> None:
        """As CloudWatch would evaluate one day's datapoints; a day without any is what TreatMissingData says."""
        ringing = set()
        for name, alarm in alarms.items():
            assert (alarm["ComparisonOperator"], alarm["Statistic"]) == ("LessThanThreshold", "Minimum")
            seen = value.get(alarm["MetricName"])
            if alarm["TreatMissingData"] == "breaching" if seen is None else seen < alarm["Threshold"]:
                ringing.add(name)
        assert ringing == rung

    def test_each_says_what_to_do_and_tells_the_topic(self, alarms: dict[str, dict[str, Any]]) -> None:
        assert set(alarms) == {"CertificateExpiresIn30Days", "CertificateExpiresIn7Days", "CertificateUnfit"}
        for name, alarm in alarms.items():
            assert alarm["AlarmActions"] == ["arn:of-the-topic"]
            wanted = "CertificateWatchFunction" if name == "CertificateUnfit" else "`softpos certificate request`"
            assert wanted in alarm["AlarmDescription"]

    def test_no_day_passes_without_two_looks(self, alarms: dict[str, dict[str, Any]]) -> None:
        """One alone would be a minute late one day, and CloudWatch's day has no datapoint then."""
        watch = Template(ROOT / "template.yaml", {}).resources("AWS::Serverless::Function")["CertificateWatchFunction"]
        assert watch["Events"]["Schedule"]["Properties"]["ScheduleExpression"] == "rate(12 hours)"
        assert {each["Period"] * each["EvaluationPeriods"] for each in alarms.values()} == {86_400}


def test_the_event_is_like_the_other_schedules() -> None:
    event, other = load_event("certificate-watch"), load_event("token-refresh")
    assert set(event) == set(other)
    assert {event[name] == other[name] for name in ("version", "detail-type", "source", "detail")} == {True}


def refused(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "arn:aws:…"}}, "Operation")
