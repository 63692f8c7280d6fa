"""template.yaml and the sandbox say the same."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from backends import Backend, bearer

from sandbox.environments import LAYER
from sandbox.local import TEMPLATE, LocalStack
from sandbox.template import Template, UnresolvedError

VARIABLES = {
    "NEXI_BASE_URL",
    "NEXI_CA_BUNDLE",
    "APPLICATION_SECRET_ID",
    "CERTIFICATE_SECRET_ID",
    "SIGNING_KEY_ID",
    "ASSERTION_HEADERS",
    "TERMINALS_TABLE",
    "CACHE_TABLE",
    "STAGE",
    "ASSIGN_ON_FIRST_USE",
    "POINT_OF_SALE_CLAIM",
    "ENROLLMENTS_PER_MINUTE",
}


@pytest.fixture
def template() -> Template:
    return Template(TEMPLATE, {})


def test_every_route_of_the_template_is_served_and_guarded(api: Backend, stack: LocalStack) -> None:
    routes = stack.template.routes()
    assert "POST /v1/enrollments" in [route.key for route in routes]
    refusal = {"Operators": 401, "AWS_IAM": 403}
    for route in routes:
        path = route.path.replace("{", "").replace("}", "").replace("+", "")
        without = api.post(None, None, method=route.method, path=path)
        assert without.status_code == (refusal[route.authorizer] if route.authorizer else 400)
        assert without.json() != {"message": "Not Found"}
        with_token = api.post({}, bearer(stack), method=route.method, path=path)
        assert with_token.json() != {"message": "Not Found"}


def test_no_route_is_served_that_the_template_does_not_have(api: Backend, stack: LocalStack) -> None:
    wanted = {(route.method, route.path) for route in stack.template.routes()}
    # Where a TID may stand, any other word may, too.
    literal = ("/v1/terminals/assignments", "/v1/terminals/moves")
    wanted |= {(method, path) for path in literal for method, at in wanted.copy() if at == "/v1/terminals/{tid}"}
    served = set()
    for path in {path for _, path in wanted} | {"/", "/health", "/v1", "/openapi.json", "/docs"}:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"):
            if api.post(None, None, method=method, path=path).status_code != 404:
                served.add((method, path))
    assert served == wanted


def test_every_route_is_an_operators_or_the_back_offices(template_of: Callable[..., Template]) -> None:
    for route in template_of(SampleAppApi="true").routes():
        if route.path.startswith("/v1/terminals"):
            assert route.authorizer == "AWS_IAM", route
        elif route.path == "/user/login":
            assert route.authorizer is None, route
        else:
            assert route.authorizer == "Operators", route


def test_the_sample_apps_api_is_off_unless_it_is_asked_for(template: Template, stack: LocalStack) -> None:
    sample = {"POST /user/login", "POST /android-app-config/obtain", "POST /par/execute"}
    assert not sample & {route.key for route in template.routes()}
    assert sample <= {route.key for route in stack.template.routes()}
    assert "SampleAppFunction" not in template.resources("AWS::Serverless::Function")


@pytest.mark.parametrize(
    ("parameters", "sentence"),
    [
        ({"SampleAppApi": "true", "Stage": "production"}, "SampleAppApi is for staging"),
        (
            {"SampleAppApi": "true", "JwtIssuer": "https://login.example", "JwtAudience": "a"},
            "SampleAppApi signs operators in at the stack's own user pool",
        ),
        (
            {"SampleAppApi": "true", "NexiBaseUrl": "https://b2bsoftpos.nexigroup.com"},
            "NexiBaseUrl is Nexi's production",
        ),
        ({"JwtIssuer": "https://login.example"}, "JwtIssuer goes with JwtAudience"),
        ({"EnrollmentsPerMinute": "0"}, "EnrollmentsPerMinute cannot be below 1"),
        ({"Stage": "test"}, "parameter Stage cannot be 'test'"),
        ({"JwtIssuer": "http://login.example", "JwtAudience": "a"}, "parameter JwtIssuer cannot be"),
    ],
    ids=[
        "sample-app-in-production",
        "sample-app-elsewhere",
        "sample-app-at-nexis-production",
        "issuer-without-audience",
        "minimum",
        "value",
        "pattern",
    ],
)
def test_parameters_that_do_not_go_together_are_refused(
    parameters: dict[str, str], sentence: str, template_of: Callable[..., Template]
) -> None:
    with pytest.raises(ValueError, match=sentence):
        template_of(**parameters)


def test_what_the_registry_has_is_not_lost_by_mistake(template: Template) -> None:
    properties = template.resources("AWS::DynamoDB::Table")["TerminalsTable"]
    assert properties["DeletionProtectionEnabled"] is True
    assert properties["PointInTimeRecoverySpecification"] == {"PointInTimeRecoveryEnabled": True}
    assert template._body["Resources"]["TerminalsTable"]["DeletionPolicy"] == "Retain"


def test_the_api_is_throttled_and_has_no_cors(template: Template) -> None:
    (api,) = template.resources("AWS::Serverless::HttpApi").values()
    assert api["DefaultRouteSettings"]["ThrottlingRateLimit"] > 0
    assert api["DefaultRouteSettings"]["ThrottlingBurstLimit"] > 0
    assert "CorsConfiguration" not in api


def test_operators_are_made_by_administrators_may_have_a_second_factor_and_short_tokens(template: Template) -> None:
    (pool,) = template.resources("AWS::Cognito::UserPool").values()
    assert pool["AdminCreateUserConfig"]["AllowAdminCreateUserOnly"] is True
    assert (pool["MfaConfiguration"], pool["EnabledMfas"]) == ("OPTIONAL", ["SOFTWARE_TOKEN_MFA"])
    (client,) = template.resources("AWS::Cognito::UserPoolClient").values()
    assert client["TokenValidityUnits"]["IdToken"] == client["TokenValidityUnits"]["AccessToken"] == "minutes"
    assert max(client["IdTokenValidity"], client["AccessTokenValidity"]) <= 15


def test_only_who_changes_the_registry_may_write_to_it(template_of: Callable[..., Template]) -> None:
    """As far as the template says; AWS enforces it."""

    writing = {"dynamodb:PutItem", "dynamodb:UpdateItem", "dynamodb:DeleteItem"}

    def writers(template: Template) -> set[str]:
        found = set()
        for name, properties in template.resources("AWS::Serverless::Function").items():
            (policy,) = properties.get("Policies", [])
            for statement in policy["Statement"]:
                condition, then, _ = statement.get("Fn::If", (None, statement, None))
                holds = condition is None or template.resolve({"Condition": condition})
                if (
                    holds
                    and then["Resource"] == {"Fn::GetAtt": ["TerminalsTable", "Arn"]}
                    and writing & set(then["Action"])
                ):
                    found.add(name)
        return found

    assert writers(template_of()) == {"TerminalsFunction"}
    assert writers(template_of(AssignOnFirstUse="true")) == {"TerminalsFunction", "AppConfigurationFunction"}
    assert writers(template_of(SampleAppApi="true")) == {"TerminalsFunction", "SampleAppFunction"}


def test_the_watch_may_read_the_certificate_and_nothing_else(template: Template) -> None:
    (policy,) = template.resources("AWS::Serverless::Function")["CertificateWatchFunction"]["Policies"]
    _of_the_signing_key, statement = policy["Statement"]
    assert statement == {
        "Effect": "Allow",
        "Action": "secretsmanager:GetSecretValue",
        "Resource": {"Ref": "CertificateSecret"},
    }


def test_every_functions_environment_has_the_fixed_names_and_they_resolve(stack: LocalStack) -> None:
    functions = stack.template.functions()
    assert functions
    for function in functions.values():
        assert set(function.environment) >= VARIABLES, function.name
        assert function.environment["NEXI_BASE_URL"] == stack.nexi.base_url
        assert function.environment["STAGE"] == "staging"
        assert function.environment["ENROLLMENTS_PER_MINUTE"] == "1000000"
        assert function.environment["CACHE_TABLE"] == "softpos-CacheTable"
        assert function.environment["TERMINALS_TABLE"] == stack.outputs["TerminalsTableName"]
        assert function.environment["APPLICATION_SECRET_ID"] == stack.outputs["ApplicationSecretId"]
        assert function.environment["CERTIFICATE_SECRET_ID"] == stack.outputs["CertificateSecretId"]


def test_without_a_parameter_the_staging_stack_talks_to_nexis_staging(template: Template) -> None:
    shared = template._body["Globals"]["Function"]["Environment"]["Variables"]
    assert template.resolve(shared["NEXI_BASE_URL"]) == "https://stgb2bsoftpos.nexigroup.com"


def test_every_function_outlives_the_enrollments_own_deadline(stack: LocalStack) -> None:
    assert all(function.timeout > 10 for function in stack.template.functions().values())


def test_every_handler_can_be_imported_from_its_folder_without_any_setting(stack: LocalStack) -> None:
    for function in stack.template.functions().values():
        module, _, name = function.handler.rpartition(".")
        code = f"import {module}; assert callable({module}.{name}), {name!r}"
        subprocess.run(
            [sys.executable, "-P", "-c", code],
            env={"PATH": os.defpath, "PYTHONPATH": f"{function.folder}:{LAYER}", "PYTHONDONTWRITEBYTECODE": "1"},
            check=True,
            timeout=30,
        )


def test_a_parameter_that_the_template_does_not_have_is_an_error() -> None:
    with pytest.raises(ValueError, match="NexiBaseURL"):
        Template(TEMPLATE, {"NexiBaseURL": "https://127.0.0.1"})


@pytest.mark.parametrize(
    "value",
    [
        {"Fn::ImportValue": "x"},
        {"Fn::Select": [0, ["a"]]},
        {"Fn::Transform": {"Name": "x"}},
        {"Fn::Sub": ["${A}", {"A": "b"}]},
        {"Ref": "NoSuchResource"},
        {"Fn::GetAtt": ["Api", "NoSuchAttribute"]},
        {"Fn::GetAtt": "Api.NoSuchAttribute"},
        {"Fn::Sub": "${NoSuchResource}"},
        [{"a": {"Fn::Cidr": []}}],
    ],
    ids=str,
)
def test_what_the_sandbox_cannot_resolve_is_an_error(value: Any, template: Template) -> None:
    with pytest.raises(UnresolvedError):
        template.resolve(value)


@pytest.mark.parametrize(
    ("value", "resolved"),
    [
        ({"Fn::Sub": "arn:${AWS::Partition}:${!Literal}"}, "arn:aws:${!Literal}"),
        ({"Fn::Join": ["/", ["a", {"Ref": "Stage"}]]}, "a/staging"),
        ({"Fn::If": ["HasNexiBaseUrl", "yes", "no"]}, "no"),
        (
            {
                "Fn::And": [
                    {"Fn::Equals": [{"Ref": "Stage"}, "staging"]},
                    {"Fn::Not": [{"Condition": "HasNexiBaseUrl"}]},
                ]
            },
            True,
        ),
        ([{"Ref": "AWS::Region"}, 1], ["eu-south-1", 1]),
        (["a", {"Fn::If": ["HasNexiBaseUrl", "b", {"Ref": "AWS::NoValue"}]}], ["a"]),
        ({"a": 1, "b": {"Ref": "AWS::NoValue"}}, {"a": 1}),
        ({"Fn::Contains": [["a", "b"], "b"]}, True),
    ],
    ids=["sub", "join", "if", "and", "list", "no-value-in-a-list", "no-value-as-a-member", "contains"],
)
def test_what_the_sandbox_knows_it_resolves_as_cloudformation_does(
    value: Any, resolved: Any, template: Template
) -> None:
    assert template.resolve(value) == resolved


def test_a_template_of_another_folder_has_its_functions_there(tmp_path: Path) -> None:
    copy = tmp_path / "template.yaml"
    copy.write_text(TEMPLATE.read_text())
    functions = Template(copy, {}).resources("AWS::Serverless::Function")
    assert set(functions) == set(Template(TEMPLATE, {}).resources("AWS::Serverless::Function"))
