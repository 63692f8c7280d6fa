"""`softpos doctor`, where no stack of the sandbox's can be made to be so: what AWS may say of a deployment."""

import socket
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from onboarding.deployment import CommandError, Function
from onboarding.doctor import BASE_URLS, Examination
from sandbox.local import TEMPLATE
from sandbox.template import Template
from softpos.settings import Settings

SETTINGS = Settings.from_environment(
    {
        "STAGE": "staging",
        "NEXI_BASE_URL": "https://stgb2bsoftpos.nexigroup.com",
        "APPLICATION_SECRET_ID": "application",
        "CERTIFICATE_SECRET_ID": "certificate",
        "TERMINALS_TABLE": "terminals",
        "CACHE_TABLE": "cache",
    }
)
OUTPUTS = ("ApiUrl", "ApplicationSecretId", "CertificateSecretId", "TerminalsTableName", "AlarmTopicArn")


class CloudWatch:
    """Two alarms, one of which is as given."""

    def __init__(self, **changes: Any) -> None:
        alarm = {
            "AlarmName": "one",
            "StateValue": "OK",
            "ActionsEnabled": True,
            "AlarmActions": ["the AlarmTopicArn"],
            "AlarmDescription": "Do this.",
        }
        self.alarms = [{**alarm, **changes}, {**alarm, "AlarmName": "two", "StateValue": "INSUFFICIENT_DATA"}]

    def get_paginator(self, _operation: str) -> "CloudWatch":
        return self

    def paginate(self, AlarmNames: list[str]) -> list[dict[str, Any]]:  # noqa: N803 - boto3's name
        return [{"MetricAlarms": [each for each in self.alarms if each["AlarmName"] in AlarmNames]}]


class Sns:
    """A topic with these subscriptions."""

    def __init__(self, *arns: str) -> None:
        self.arns = arns

    def list_subscriptions_by_topic(self, TopicArn: str) -> dict[str, Any]:  # noqa: N803 - boto3's name
        return {"Subscriptions": [{"SubscriptionArn": each} for each in self.arns]}


class Deployed:
    """A deployment as AWS might describe it."""

    def __init__(self, stage: str = "staging", status: str = "UPDATE_COMPLETE", **settings: Any) -> None:
        self.stage = stage
        self.nexi_stage = "production" if stage == "production" else "staging"
        self.stack = f"softpos-{stage}"
        self.description = {"StackStatus": status}
        self.parameters: dict[str, str] = {}
        self.settings = replace(SETTINGS, **settings)
        self.functions = [Function("one", "Active", "Successful"), Function("two", "Active", "Successful")]
        self.outputs = {name: f"the {name}" for name in OUTPUTS}
        self.alarms = ["one", "two"]
        self.clients: dict[str, Any] = {"cloudwatch": CloudWatch(), "sns": Sns("arn:1")}

    def output(self, name: str) -> str:
        if name not in self.outputs:
            raise CommandError(f"no output {name}")
        return self.outputs[name]

    def named(self, _kind: str) -> list[str]:
        return self.alarms

    @property
    def session(self) -> Any:
        raise CommandError("there are no credentials here")

    def client(self, service: str) -> Any:
        if service not in self.clients:
            raise CommandError(f"{service} is not asked here")
        return self.clients[service]


def examined(deployed: Any, check: str) -> Any:
    """The result of one check, with those that it needs."""
    return next(each for each in Examination(deployed).results() if each.check == check)


@pytest.fixture(autouse=True)
def resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every name has an address."""
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_: [(0, 0, 0, "", ("192.0.2.1", 0))])


@pytest.mark.parametrize("stage", ["staging", "production"])
def test_the_base_urls_are_the_templates(stage: str) -> None:
    assert BASE_URLS[stage] == Template(TEMPLATE, {})._body["Mappings"]["Nexi"][stage]["BaseUrl"]


class TestTheStack:
    @pytest.mark.parametrize(
        ("status", "state"),
        [
            ("CREATE_COMPLETE", "ok"),
            ("UPDATE_COMPLETE", "ok"),
            ("IMPORT_COMPLETE", "ok"),
            ("UPDATE_IN_PROGRESS", "warning"),
            ("UPDATE_COMPLETE_CLEANUP_IN_PROGRESS", "warning"),
            ("UPDATE_ROLLBACK_COMPLETE", "failed"),
            ("ROLLBACK_COMPLETE", "failed"),
            ("UPDATE_ROLLBACK_FAILED", "failed"),
            ("DELETE_FAILED", "failed"),
        ],
    )
    def test_is_as_its_status_says(self, status: str, state: str) -> None:
        result = examined(Deployed(status=status), "stack")
        assert (result.state, result.found) == (state, f"softpos-staging, {status}")
        assert bool(result.remedy) == (state != "ok")

    @pytest.mark.parametrize("output", OUTPUTS[:4])
    def test_lacks_an_output(self, output: str) -> None:
        deployed = Deployed()
        del deployed.outputs[output]
        result = examined(deployed, "stack")
        assert (result.state, result.found) == ("failed", f"no output {output}")


class TestTheFunctions:
    @pytest.mark.parametrize(
        ("function", "found"),
        [
            (Function("two", "Failed", "Successful"), "two is Failed, its last update Successful"),
            (Function("two", "Inactive", "Successful"), "two is Inactive, its last update Successful"),
            (Function("two", "Active", "Failed"), "two is Active, its last update Failed"),
        ],
        ids=lambda each: getattr(each, "state", None),
    )
    def test_one_is_not_well(self, function: Function, found: str) -> None:
        deployed = Deployed()
        deployed.functions[1] = function
        result = examined(deployed, "functions")
        assert (result.state, result.found) == ("failed", found)

    def test_one_goes_on_with_old_parameters(self) -> None:
        deployed = Deployed()
        deployed.functions[1] = Function("two", "Active", "Successful", stale=True)
        result = examined(deployed, "functions")
        assert result.state == "failed"
        assert result.found == "what is called of two is not what was deployed last"
        assert "another Release" in result.remedy

    def test_are_those_of_the_other_stage(self) -> None:
        result = examined(Deployed("production"), "functions")
        assert (result.state, result.found, result.wanted) == ("failed", "STAGE is staging", "production")


class TestTheBaseUrl:
    """400 on PAR: `aud` without scheme, or for the other environment. Without scheme it is no setting at all."""

    def test_is_the_stages(self) -> None:
        assert examined(Deployed(), "base URL and aud").state == "ok"

    def test_is_the_other_stages(self) -> None:
        result = examined(Deployed(nexi_base_url=BASE_URLS["production"]), "base URL and aud")
        assert (result.state, result.wanted) == ("failed", BASE_URLS["staging"])
        assert result.found == f"{BASE_URLS['production']}, which is Nexi's production"

    def test_is_none_of_nexis(self) -> None:
        result = examined(Deployed(nexi_base_url="https://relay.example"), "base URL and aud")
        assert (result.state, result.found) == ("warning", "https://relay.example")


def test_a_name_that_cannot_be_resolved_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any) -> Any:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    result = examined(Deployed(), "name resolution")
    assert (result.state, result.found) == ("failed", "stgb2bsoftpos.nexigroup.com: Name or service not known")


class TestTheAlarms:
    def test_are_not_there(self) -> None:
        deployed = Deployed()
        deployed.alarms = []
        result = examined(deployed, "alarms")
        assert (result.state, result.found) == ("failed", "the stack has no alarms")

    def test_one_is_raised_and_says_what_to_do(self) -> None:
        deployed = Deployed()
        deployed.clients["cloudwatch"] = CloudWatch(StateValue="ALARM")
        result = examined(deployed, "alarms")
        assert (result.state, result.found, result.remedy) == ("warning", "one is raised", "Do this.")

    def test_one_was_deleted_by_hand(self) -> None:
        deployed = Deployed()
        deployed.alarms.append("three")
        result = examined(deployed, "alarms")
        assert (result.state, result.found) == ("failed", "CloudWatch does not have three")

    @pytest.mark.parametrize("change", [{"ActionsEnabled": False}, {"AlarmActions": []}], ids=["off", "no-topic"])
    def test_one_tells_nobody(self, change: dict[str, Any]) -> None:
        deployed = Deployed()
        deployed.clients["cloudwatch"] = CloudWatch(**change)
        result = examined(deployed, "alarms")
        assert (result.state, result.found) == ("warning", "these tell nobody: one")

    @pytest.mark.parametrize(
        "arns", [(), ("PendingConfirmation",), ("Deleted",)], ids=["nobody", "unconfirmed", "gone"]
    )
    def test_nobody_has_subscribed(self, arns: tuple[str, ...]) -> None:
        deployed = Deployed()
        deployed.clients["sns"] = Sns(*arns)
        assert examined(deployed, "alarms").state == "warning"

    def test_are_well(self) -> None:
        result = examined(Deployed(), "alarms")
        assert (result.state, result.found) == ("ok", "none of 2 is raised, 1 subscribed")


def test_the_pool_behind_mutual_tls_is_not_looked_at_without_a_certificate() -> None:
    """And so is no failure that would stop a pipeline."""
    deployment: Any = SimpleNamespace(parameters={"TruststoreUri": "s3://bucket/truststore.pem"})
    state, found, *_ = Examination(deployment)._terminals()
    assert state == "skipped"
    assert "--client-certificate" in found
