"""The stack that template.yaml becomes: what its roles may do, what its alarms watch, and when a version is made.

As SAM's own translator has it. CloudFormation itself has not seen it here.
"""

import copy
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import boto3
import pytest
from samtranslator.parser.parser import Parser
from samtranslator.translator.translator import Translator
from samtranslator.yaml_helper import yaml_parse

from onboarding.deployment import ALIAS
from softpos import problems

ROOT = Path(__file__).parents[2]
TEMPLATE = yaml_parse((ROOT / "template.yaml").read_text())
API_FUNCTIONS = {"EnrollmentFunction", "AppConfigurationFunction", "EncryptionKeysFunction", "TerminalsFunction"}
STATEFUL = {
    "AWS::KMS::Key": "Retain",
    "AWS::SecretsManager::Secret": "Retain",
    "AWS::Cognito::UserPool": "Retain",
    "AWS::DynamoDB::Table": None,
    "AWS::Logs::LogGroup": "Delete",
}
"""What holds something, and whether it outlives the stack; of tables, it depends."""


def translated(change: Callable[[dict[str, Any]], None] = lambda _: None, **parameters: str) -> dict[str, Any]:
    """The resources that CloudFormation is given, by logical id."""
    template = copy.deepcopy(TEMPLATE)
    for resource in template["Resources"].values():
        if resource["Type"] == "AWS::Serverless::Function":
            resource["Properties"]["CodeUri"] = "s3://bucket/function"
        if resource["Type"] == "AWS::Serverless::LayerVersion":
            resource["Properties"]["ContentUri"] = "s3://bucket/layer"
    change(template["Resources"])
    managed = "arn:aws:iam::aws:policy/service-role/AWSLambdaBasicExecutionRole"
    translator = Translator(
        {"AWSLambdaBasicExecutionRole": managed}, Parser(), boto_session=boto3.session.Session(region_name="eu-south-1")
    )
    resources: dict[str, Any] = translator.translate(template, parameter_values=parameters)["Resources"]
    return resources


@pytest.fixture(scope="module")
def stack() -> dict[str, Any]:
    return translated()


def of(stack: dict[str, Any], kind: str) -> dict[str, Any]:
    found = {name: each for name, each in stack.items() if each["Type"] == kind}
    assert found, f"there is no {kind} to look at"
    return found


def branches(value: Any) -> Iterator[Any]:
    """A value, and what its conditions may make of it."""
    if isinstance(value, dict) and set(value) == {"Fn::If"}:
        for each in value["Fn::If"][1:]:
            yield from branches(each)
    elif isinstance(value, list):
        for each in value:
            yield from branches(each)
    elif value != {"Ref": "AWS::NoValue"}:
        yield value


class TestRoles:
    """Exact actions on exact resources."""

    MANAGED: ClassVar = {
        "AWSLambdaBasicExecutionRole": "a function writes its log: SAM gives it to each",
        "AWSXrayWriteOnlyAccess": "tracing, whose actions know no resources: SAM gives it to each function",
        "AWSXRayDaemonWriteAccess": "the same, as it is called in some regions",
        "AWSCodeDeployRoleForLambda": "CodeDeploy shifts the aliases: SAM makes its role",
        "AWSCodeDeployRoleForLambdaLimited": "the same, without its SNS",
    }

    def statements(self, stack: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, role in of(stack, "AWS::IAM::Role").items():
            for policy in role["Properties"].get("Policies", []):
                for statement in branches(policy["PolicyDocument"]["Statement"]):
                    yield name, statement
        for name, policy in of(stack, "AWS::IAM::ManagedPolicy").items():
            for statement in branches(policy["Properties"]["PolicyDocument"]["Statement"]):
                yield name, statement

    def test_no_action_and_no_resource_is_a_wildcard(self, stack: dict[str, Any]) -> None:
        seen = set()
        for name, statement in self.statements(stack):
            seen.add(name)
            assert statement["Effect"] == "Allow"
            assert not {"NotAction", "NotResource"} & set(statement), name
            for action in branches(statement["Action"]):
                assert "*" not in action, f"{name}: {action}"
            for resource in branches(statement["Resource"]):
                text = json.dumps(resource)
                if name == "BackOfficePolicy":
                    # Every method and path of the terminals, of this API alone.
                    assert text.endswith(':${Api}/*/*/v1/terminals*"}')
                elif text.endswith(':key/*"}'):
                    # Of all keys, those with the stack's tag.
                    tag = {"aws:ResourceTag/softpos:stack": {"Ref": "AWS::StackName"}}
                    assert statement["Condition"] == {"StringEquals": tag}, name
                else:
                    assert "*" not in text, f"{name}: {text}"
        assert {f"{each}Role" for each in API_FUNCTIONS} < seen

    def test_what_amazon_manages_is_on_a_short_list(self, stack: dict[str, Any]) -> None:
        for name, role in of(stack, "AWS::IAM::Role").items():
            for arn in branches(role["Properties"].get("ManagedPolicyArns", [])):
                text = arn if isinstance(arn, str) else arn["Fn::Sub"]
                assert text.rpartition("/")[2] in self.MANAGED, name

    def test_who_may_read_the_certificate_and_who_may_sign(self, stack: dict[str, Any]) -> None:
        may: dict[str, set[str]] = {}
        for name, statement in self.statements(stack):
            for action in branches(statement["Action"]):
                for resource in branches(statement["Resource"]):
                    may.setdefault(f"{action} {json.dumps(resource)}", set()).add(name.removesuffix("FunctionRole"))
        readers = may['secretsmanager:GetSecretValue {"Ref": "CertificateSecret"}']
        assert readers == {"Enrollment", "EncryptionKeys", "SampleApp", "TokenRefresh", "CertificateWatch"}
        signers = set().union(*(names for each, names in may.items() if each.startswith("kms:Sign ")))
        assert signers == {"Enrollment", "SampleApp"}


class TestVersions:
    """What is called is an alias. Whatever changes must make a version, or it reaches nobody."""

    def versions(self, *arguments: Any, **parameters: str) -> set[str]:
        return set(of(translated(*arguments, **parameters), "AWS::Lambda::Version"))

    def test_every_function_is_called_by_its_alias(self, stack: dict[str, Any]) -> None:
        functions = of(stack, "AWS::Lambda::Function")
        aliases = of(stack, "AWS::Lambda::Alias")
        assert {each["Properties"]["FunctionName"]["Ref"] for each in aliases.values()} == set(functions)
        assert {each["Properties"]["Name"] for each in aliases.values()} == {ALIAS}
        paths = of(stack, "AWS::ApiGatewayV2::Api")["Api"]["Properties"]["Body"]["paths"]
        called = re.findall(r"functions/\$\{(\w+)\}/invocations", json.dumps(paths))
        assert called
        assert all(each in aliases for each in called)

    def test_other_code_makes_one(self) -> None:
        def change(resources: dict[str, Any]) -> None:
            resources["EnrollmentFunction"]["Properties"]["CodeUri"] = "s3://bucket/other"

        (made,) = self.versions(change) - self.versions()
        assert made.startswith("EnrollmentFunctionVersion")

    @pytest.mark.parametrize("layer", ["SoftposLayer", "DependenciesLayer"])
    def test_another_layer_makes_one_of_each(self, layer: str) -> None:
        def change(resources: dict[str, Any]) -> None:
            resources[layer]["Properties"]["ContentUri"] = "s3://bucket/other"

        assert not self.versions(change) & self.versions()

    def test_another_release_makes_one_of_each(self) -> None:
        one, other = self.versions(Release="a" * 40), self.versions(Release="b" * 40)
        assert not one & other
        assert all(each.endswith("Versionaaaaaaaaaa") for each in one)

    def test_a_release_changes_what_is_deployed(self, stack: dict[str, Any]) -> None:
        """Lambda makes no second version of the same function."""
        for function in of(stack, "AWS::Lambda::Function").values():
            assert function["Properties"]["Environment"]["Variables"]["RELEASE"] == {"Ref": "Release"}

    def test_the_phones_and_the_back_offices_functions_start_from_a_snapshot(self, stack: dict[str, Any]) -> None:
        functions = of(stack, "AWS::Lambda::Function")
        started = {name for name, each in functions.items() if "SnapStart" in each["Properties"]}
        assert started == API_FUNCTIONS
        for name in started:
            folder = TEMPLATE["Resources"][name]["Properties"]["CodeUri"]
            assert "snapshot.prepare(" in (ROOT / folder / "app.py").read_text()

    def test_a_deployment_is_rolled_back_by_alarms(self, stack: dict[str, Any]) -> None:
        for group in of(stack, "AWS::CodeDeploy::DeploymentGroup").values():
            condition, stopping, none = group["Properties"]["AlarmConfiguration"]["Fn::If"]
            assert (condition, none.get("Alarms", [])) == ("RollsBackOnAlarms", [])
            alarms = {each["Name"]["Ref"] for each in stopping["Alarms"]}
            assert alarms == {
                "FunctionsFail",
                "OtherRequestsFail",
                "EnrollmentsMisconfigured",
                "EnrollmentsRejected",
                "EnrollmentsFailUnexpectedly",
            }
            assert "DEPLOYMENT_STOP_ON_ALARM" in group["Properties"]["AutoRollbackConfiguration"]["Events"]


class TestParameters:
    def test_each_is_described_and_says_what_it_may_be(self) -> None:
        bounds = ({"AllowedValues"}, {"AllowedPattern"}, {"MinValue"})
        for name, each in TEMPLATE["Parameters"].items():
            assert each["Description"].endswith("."), name
            assert "Default" in each, name
            # Of a list, CloudFormation checks no pattern.
            assert each["Type"] == "CommaDelimitedList" or any(bound <= set(each) for bound in bounds), name

    def test_each_is_in_one_group(self) -> None:
        groups = TEMPLATE["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]
        grouped = [name for group in groups for name in group["Parameters"]]
        assert sorted(grouped) == sorted(TEMPLATE["Parameters"])

    def test_the_document_names_each(self) -> None:
        document = (ROOT / "docs" / "deployment.md").read_text()
        for name in TEMPLATE["Parameters"]:
            assert f"`{name}`" in document, name


class TestWhatHoldsSomething:
    def test_says_what_becomes_of_it(self, stack: dict[str, Any]) -> None:
        for kind, policy in STATEFUL.items():
            for name, resource in of(stack, kind).items():
                assert resource["DeletionPolicy"] == resource["UpdateReplacePolicy"], name
                assert policy in (None, resource["DeletionPolicy"]), name

    def test_whose_loss_would_hurt_is_kept_and_can_be_recovered(self, stack: dict[str, Any]) -> None:
        table = stack["TerminalsTable"]
        assert table["DeletionPolicy"] == "Retain"
        assert table["Properties"]["DeletionProtectionEnabled"] is True
        assert table["Properties"]["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
        assert stack["Operators"]["Properties"]["DeletionProtection"] == "ACTIVE"

    def test_whose_loss_would_not_lapses_by_itself(self, stack: dict[str, Any]) -> None:
        assert stack["CacheTable"]["DeletionPolicy"] == "Delete"
        assert stack["CacheTable"]["Properties"]["TimeToLiveSpecification"]["Enabled"] is True
        for name, group in of(stack, "AWS::Logs::LogGroup").items():
            assert group["Properties"]["RetentionInDays"] == {"Ref": "LogRetentionDays"}, name

    def test_is_encrypted_with_the_stacks_own_key(self, stack: dict[str, Any]) -> None:
        own = {"Fn::GetAtt": ["Key", "Arn"]}
        for table in of(stack, "AWS::DynamoDB::Table").values():
            assert table["Properties"]["SSESpecification"]["KMSMasterKeyId"] == own
        for kind in ("AWS::SecretsManager::Secret", "AWS::Logs::LogGroup"):
            for each in of(stack, kind).values():
                assert each["Properties"]["KmsKeyId"] == own
        assert stack["AlarmTopic"]["Properties"]["KmsMasterKeyId"] == {"Ref": "Key"}
        assert stack["Key"]["Properties"]["EnableKeyRotation"] is True


def test_every_function_writes_to_the_one_log_group_and_is_traced(stack: dict[str, Any]) -> None:
    for function in of(stack, "AWS::Lambda::Function").values():
        properties = function["Properties"]
        assert properties["LoggingConfig"] == {"LogFormat": "JSON", "LogGroup": {"Ref": "Logs"}}
        assert properties["TracingConfig"] == {"Mode": "Active"}
        assert (properties["Runtime"], properties["Architectures"]) == ("python3.13", ["arm64"])


def test_the_access_log_is_json_without_headers_and_queries(stack: dict[str, Any]) -> None:
    settings = of(stack, "AWS::ApiGatewayV2::Stage")
    (stage,) = settings.values()
    line = json.loads(stage["Properties"]["AccessLogSettings"]["Format"])
    assert {"request_id", "route", "status", "latency_ms"} <= set(line)
    for value in line.values():
        assert not re.search(r"header|authorizer\.(claims|jwt)|query|path$", value, re.IGNORECASE), value


def test_with_a_domain_the_other_address_is_off() -> None:
    api = of(translated(), "AWS::ApiGatewayV2::Api")["Api"]["Properties"]
    (server,) = api["Body"]["servers"]
    assert server["x-amazon-apigateway-endpoint-configuration"] == {
        "disableExecuteApiEndpoint": {"Fn::If": ["HasDomain", True, False]}
    }


class TestAlarms:
    def metrics(self, alarm: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
        """Namespace, name and dimensions of what an alarm watches."""
        watched = [each["MetricStat"]["Metric"] for each in alarm.get("Metrics", []) if "MetricStat" in each] or [alarm]
        for each in watched:
            dimensions = {dimension["Name"]: dimension["Value"] for dimension in each["Dimensions"]}
            yield each["Namespace"], each["MetricName"], dimensions

    def emitted(self) -> set[str]:
        """The metrics that the code counts under the stack alone."""
        code = "".join(file.read_text() for file in (ROOT / "layers/softpos/softpos").rglob("*.py"))
        return set(re.findall(r'telemetry\.(?:count|gauge)\(\s*"(\w+)"', code))

    def test_each_watches_what_is_emitted(self, stack: dict[str, Any]) -> None:
        """The outcome's dimensions are held by test_telemetry, the certificate's by test_certificate_watch_function."""
        operations = {each.name for each in (ROOT / "functions").iterdir()}
        for name, alarm in of(stack, "AWS::CloudWatch::Alarm").items():
            for namespace, metric, dimensions in self.metrics(alarm["Properties"]):
                if namespace != "softpos":
                    assert namespace in ("AWS/Lambda", "AWS/DynamoDB"), name
                    continue
                assert dimensions.pop("service") == {"Ref": "AWS::StackName"}, name
                if metric in ("Succeeded", "Duration", "Failed"):
                    assert dimensions.pop("operation") in operations, name
                    assert ("code" in dimensions) == (metric == "Failed"), name
                    assert dimensions.pop("code", "internal_error") in problems._PROBLEMS, name
                else:
                    assert metric in self.emitted(), name
                assert dimensions == {}, name

    def test_what_may_befall_one_of_many_is_watched_as_a_share_of_all(self, stack: dict[str, Any]) -> None:
        codes = set()
        for name, alarm in of(stack, "AWS::CloudWatch::Alarm").items():
            watched = alarm["Properties"]
            failed = [each for _, metric, each in self.metrics(watched) if metric == "Failed"]
            if not failed or failed[0]["operation"] != "enrollment":
                continue
            codes.add(failed[0]["code"])
            if failed[0]["code"] in ("misconfigured", "internal_error"):
                assert (watched["Threshold"], watched["EvaluationPeriods"]) == (1, 1), name
                continue
            share, *parts = watched["Metrics"]
            nexis = failed[0]["code"].startswith("nexi_")
            # One operator's trouble pages nobody, however often their phone tries again.
            enough = "FILL(operators, 0) >= 2" if nexis else "failed >= 3 OR FILL(succeeded, 0) == 0"
            assert share["Expression"] == f"IF({enough}, 100 * failed / (failed + FILL(succeeded, 0)), 0)", name
            found = {each["Id"]: each["MetricStat"]["Metric"]["MetricName"] for each in parts}
            several = {"operators": "OperatorsFailed"} if nexis else {}
            assert found == {"failed": "Failed", "succeeded": "Succeeded", **several}, name
            assert {each.get("operation", "enrollment") for _, _, each in self.metrics(watched)} == {"enrollment"}, name
            assert {(each["MetricStat"]["Period"], each["MetricStat"]["Stat"]) for each in parts} == {(300, "Sum")}
            assert watched["Threshold"] == {"Ref": "FailureAlarmPercent"}, name
        assert codes == {
            "misconfigured",
            "internal_error",
            "nexi_rejected",
            "nexi_unavailable",
            "nexi_timeout",
            "signing_unavailable",
            "backend_unavailable",
            "registry_busy",
        }

    def test_what_the_other_functions_answer_is_watched_too(self, stack: dict[str, Any]) -> None:
        watched = stack["OtherRequestsFail"]["Properties"]
        seen = {(each["operation"], each["code"]) for _, _, each in self.metrics(watched)}
        others = {"app_configuration", "encryption_keys", "terminals"}
        assert seen == {(each, code) for each in others for code in ("internal_error", "misconfigured")}
        summed, *parts = watched["Metrics"]
        assert summed["Expression"].split(" + ") == [f"FILL({each['Id']}, 0)" for each in parts]
        assert (watched["Threshold"], watched["EvaluationPeriods"]) == (1, 1)

    def test_each_tells_the_topic_and_says_what_to_do(self, stack: dict[str, Any]) -> None:
        for name, alarm in of(stack, "AWS::CloudWatch::Alarm").items():
            assert alarm["Properties"]["AlarmActions"] == [{"Ref": "AlarmTopic"}], name
            assert len(alarm["Properties"]["AlarmDescription"]) > 80, name
            assert "TreatMissingData" in alarm["Properties"], name

    def test_each_has_an_entry_in_the_runbook_and_the_runbook_no_other(self, stack: dict[str, Any]) -> None:
        runbook = (ROOT / "docs" / "operations.md").read_text()
        entries = set(re.findall(r"^### `(\w+)`", runbook, flags=re.MULTILINE))
        assert entries == set(of(stack, "AWS::CloudWatch::Alarm"))

    def test_the_runbook_names_every_metric(self) -> None:
        runbook = (ROOT / "docs" / "operations.md").read_text()
        for metric in self.emitted() | {"Succeeded", "Failed", "Duration", "NexiDuration"}:
            assert f"| `{metric}` |" in runbook, metric

    def test_the_dashboard_shows_each_that_there_always_is(self, stack: dict[str, Any]) -> None:
        body = stack["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]
        shown = set(re.findall(r'"\$\{(\w+)\.Arn\}"', body))
        always = {name for name, each in of(stack, "AWS::CloudWatch::Alarm").items() if "Condition" not in each}
        assert shown == always

    def test_the_dashboard_is_json_of_metrics_that_are_emitted(self, stack: dict[str, Any]) -> None:
        body = json.loads(re.sub(r"\$\{!?[^}]*\}", "x", stack["Dashboard"]["Properties"]["DashboardBody"]["Fn::Sub"]))
        ours = self.emitted() | {"Succeeded", "Failed", "Duration", "NexiDuration"}
        seen = set()
        for widget in body["widgets"]:
            for metric in widget["properties"].get("metrics", []):
                if metric[0] == "softpos":
                    assert metric[1] in ours
                    seen.add(metric[1])
        assert {"Succeeded", "Duration", "NexiDuration", "CacheTableHit", "CertificateDaysLeft"} <= seen
