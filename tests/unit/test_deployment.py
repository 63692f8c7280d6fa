"""Which stack, in which account and region, with which credentials, and what AWS's refusals mean."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import (
    ClientError,
    EndpointConnectionError,
    NoCredentialsError,
    ProfileNotFound,
    TokenRetrievalError,
)
from moto import mock_aws

from onboarding.deployment import (
    LOCAL_CREDENTIALS,
    LOCAL_REGION,
    LOCAL_STACK,
    AwsError,
    CommandError,
    Deployment,
    Function,
    translated,
)
from sandbox.aws import CREDENTIALS
from sandbox.template import REGION, STACK
from softpos.errors import MisconfiguredError

TEMPLATE = """
Resources:
  Topic: {Type: 'AWS::SNS::Topic'}
Outputs:
  ApiUrl: {Value: 'https://api.example'}
"""


@pytest.fixture(autouse=True)
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine whose AWS configuration is empty."""
    for name in [each for each in os.environ if each.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.fixture
def configured(tmp_path: Path) -> None:
    """Two profiles, one without a region."""
    (tmp_path / "AWS_CONFIG_FILE").write_text("[profile shop]\nregion = eu-south-1\n[profile bare]\n")
    keys = "aws_access_key_id = AKIAEXAMPLE\naws_secret_access_key = of-a-test\n"
    (tmp_path / "AWS_SHARED_CREDENTIALS_FILE").write_text(f"[shop]\n{keys}[bare]\n{keys}")


@pytest.mark.parametrize(
    ("stage", "stack", "nexi_stage"),
    [
        ("staging", "softpos-staging", "staging"),
        ("production", "softpos-production", "production"),
        ("local", "softpos", "staging"),
    ],
)
def test_a_stage_has_a_stack_and_one_of_nexis_environments(stage: Any, stack: str, nexi_stage: str) -> None:
    deployment = Deployment(stage)
    assert (deployment.stack, deployment.nexi_stage) == (stack, nexi_stage)
    assert Deployment(stage, "another").stack == "another"


def test_the_stacks_names_are_those_that_sam_deploys() -> None:
    configuration = (Path(__file__).parents[2] / "samconfig.toml").read_text()
    for stage in ("staging", "production"):
        assert f'stack_name = "{Deployment(stage).stack}"' in configuration


def test_local_is_what_the_sandbox_has() -> None:
    assert (LOCAL_STACK, LOCAL_REGION) == (STACK, REGION)
    assert tuple(CREDENTIALS.values()) == LOCAL_CREDENTIALS


def test_local_is_deaf_to_the_developers_own_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAEXAMPLE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-production")
    monkeypatch.setenv("AWS_REGION", "us-east-1")
    monkeypatch.setenv("AWS_PORT", "4999")
    client = Deployment("local", profile="nobody").client("secretsmanager")
    assert client.meta.endpoint_url == "http://127.0.0.1:4999"
    assert client.meta.region_name == REGION
    assert client._request_signer._credentials.access_key == "sandbox"


def test_local_has_the_port_that_make_run_has() -> None:
    assert Deployment("local").client("secretsmanager").meta.endpoint_url == "http://127.0.0.1:4566"


@pytest.mark.usefixtures("configured")
class TestSession:
    def test_has_the_profiles_credentials_and_region(self) -> None:
        session = Deployment("staging", profile="shop").session
        assert session.region_name == "eu-south-1"
        credentials = session.get_credentials()
        assert credentials is not None
        assert credentials.access_key == "AKIAEXAMPLE"

    def test_takes_a_region_that_is_given(self) -> None:
        assert Deployment("staging", profile="shop", region="eu-west-1").session.region_name == "eu-west-1"

    def test_wants_a_region(self) -> None:
        with pytest.raises(AwsError, match="no AWS region is set") as raised:
            _ = Deployment("staging", profile="bare").session
        assert "--region" in raised.value.remedy

    def test_wants_a_profile_that_exists(self) -> None:
        with pytest.raises(AwsError, match="ProfileNotFound") as raised:
            _ = Deployment("staging", profile="nobody").session
        assert "--profile" in raised.value.remedy


class TestStack:
    @pytest.fixture(autouse=True)
    def deployed(self, no_aws: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        monkeypatch.setenv("AWS_REGION", REGION)
        monkeypatch.setenv("AWS_DEFAULT_REGION", REGION)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "of-a-test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "of-a-test")
        with mock_aws():
            boto3.client("cloudformation").create_stack(StackName="softpos-staging", TemplateBody=TEMPLATE)
            yield

    def test_has_outputs(self) -> None:
        deployment = Deployment("staging")
        assert deployment.output("ApiUrl") == "https://api.example"
        assert deployment.description["StackStatus"] == "CREATE_COMPLETE"

    def test_lacks_an_output(self) -> None:
        with pytest.raises(CommandError, match="no output CertificateSecretId") as raised:
            Deployment("staging").output("CertificateSecretId")
        assert raised.value.remedy == "deploy the template of this version of softpos"

    def test_lacks_a_resource(self) -> None:
        with pytest.raises(CommandError, match="the stack softpos-staging has no EnrollmentFunction"):
            Deployment("staging").physical("EnrollmentFunction")

    def test_is_not_there(self) -> None:
        with pytest.raises(AwsError, match=f"there is no stack softpos-production in {REGION}") as raised:
            _ = Deployment("production").description
        assert "--stack" in raised.value.remedy


def test_a_sandbox_that_does_not_run_is_said_to_be_that(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: Any, **__: Any) -> Any:
        raise EndpointConnectionError(endpoint_url="http://127.0.0.1:4566")

    deployment = Deployment("local")
    monkeypatch.setattr(deployment.client("cloudformation"), "describe_stacks", refused)
    with pytest.raises(AwsError) as raised:
        _ = deployment.description
    assert "make run" in raised.value.remedy


class TestSettingsHere:
    """A file that the functions trust is in a layer of theirs, not on this machine."""

    @pytest.fixture
    def deployment(self) -> Any:
        deployment = Deployment("staging")
        names = ("APPLICATION_SECRET_ID", "CERTIFICATE_SECRET_ID", "TERMINALS_TABLE", "CACHE_TABLE")
        variables = {"STAGE": "staging", "NEXI_BASE_URL": "https://nexi.example", **dict.fromkeys(names, "x")}
        deployment.resources = {"EnrollmentFunction": ("AWS::Lambda::Function", "one")}

        def configuration(_name: str, _qualifier: str = "live") -> dict[str, Any]:
            return {"Environment": {"Variables": variables}}

        deployment._configuration = configuration  # type: ignore[method-assign]
        return deployment, variables

    def test_are_the_functions(self, deployment: Any) -> None:
        here, variables = deployment
        assert here.settings_here(None).nexi_base_url == variables["NEXI_BASE_URL"]

    def test_have_the_file_that_is_given(self, deployment: Any, tmp_path: Path) -> None:
        here, variables = deployment
        variables["NEXI_CA_BUNDLE"] = "/opt/nexi.pem"
        assert here.settings_here(tmp_path / "mine.pem").nexi_ca_bundle == str(tmp_path / "mine.pem")

    def test_say_that_it_is_not_here(self, deployment: Any) -> None:
        here, variables = deployment
        variables["NEXI_CA_BUNDLE"] = "/opt/nexi.pem"
        with pytest.raises(CommandError, match="which is not on this machine") as raised:
            here.settings_here(None)
        assert "--ca-bundle" in raised.value.remedy

    def test_are_malformed(self, deployment: Any) -> None:
        here, variables = deployment
        variables["NEXI_BASE_URL"] = "nexi.example"
        with pytest.raises(MisconfiguredError, match="NEXI_BASE_URL"):
            here.settings_here(None)


@pytest.mark.parametrize("stale", [False, True], ids=["as-deployed", "stale"])
def test_a_function_is_stale_whose_alias_has_another_environment(stale: bool) -> None:
    deployment = Deployment("staging")
    deployment.resources = {"EnrollmentFunction": ("AWS::Lambda::Function", "one")}

    def configuration(_name: str, qualifier: str = "live") -> dict[str, Any]:
        value = "old" if stale and qualifier == "live" else "new"
        return {"Environment": {"Variables": {"SIGNING_KEY_ID": value}}}

    deployment._configuration = configuration  # type: ignore[method-assign]
    assert deployment.functions == [Function("one", "Active", "Successful", stale)]


def refusal(code: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": "not to be told"}}, "GetSecretValue")


@pytest.mark.parametrize(
    ("error", "said", "remedy"),
    [
        (refusal("AccessDeniedException"), "AWS refused GetSecretValue", "call GetSecretValue"),
        (refusal("ExpiredTokenException"), "ExpiredTokenException", "aws sso login"),
        (refusal("UnrecognizedClientException"), "UnrecognizedClientException", "--profile"),
        (refusal("SomethingNew"), "AWS refused GetSecretValue (SomethingNew)", "AWS's documentation"),
        (NoCredentialsError(), "NoCredentialsError", "--profile"),
        (TokenRetrievalError(provider="sso", error_msg="not to be told"), "TokenRetrievalError", "--profile"),
        (ProfileNotFound(profile="x"), "ProfileNotFound", "aws configure list-profiles"),
        (EndpointConnectionError(endpoint_url="http://x"), "EndpointConnectionError", "make run"),
    ],
    ids=lambda each: (
        getattr(each, "response", {}).get("Error", {}).get("Code") if isinstance(each, ClientError) else None
    ),
)
def test_a_refusal_of_awss_says_what_to_do(error: Exception, said: str, remedy: str) -> None:
    with pytest.raises(AwsError) as raised, translated():
        raise error
    assert said in str(raised.value)
    assert remedy in raised.value.remedy
    assert "not to be told" not in f"{raised.value}{raised.value.remedy}"
    assert raised.value.__cause__ is error
