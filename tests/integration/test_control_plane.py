"""CloudFormation and Lambda in the sandbox: boto3, unchanged, finds the stack and its functions."""

import base64
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from backends import ChangedTemplate, client, handler_folder
from botocore.exceptions import ClientError

from sandbox.aws import Aws
from sandbox.control_plane import ControlPlane
from sandbox.gateway import Gateway
from sandbox.local import OPERATOR, LocalStack
from sandbox.template import Template

EVENTS = Path(__file__).parents[2] / "events"
FUNCTION = "softpos-EnrollmentFunction"

HANDLER = """
import os, sys, time

def lambda_handler(event, context):
    print(event.get("say", "invoked"))
    print("and so on", file=sys.stderr)
    match event.get("do"):
        case "raise":
            raise LookupError("nothing there")
        case "hang":
            time.sleep(60)
        case "exit":
            os._exit(1)
        case "name":
            names = [context.function_name, os.environ["AWS_LAMBDA_FUNCTION_NAME"]]
            return [*names, context.invoked_function_arn]
    return event
"""


@pytest.fixture
def cloudformation(stack: LocalStack) -> Any:
    return client(stack, "cloudformation")


@pytest.fixture
def functions(stack: LocalStack) -> Any:
    return client(stack, "lambda")


@pytest.fixture(scope="module")
def odd(stack: LocalStack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Lambda, of functions that do as the event says and may take a second."""
    aws = Aws()
    folder = handler_folder(tmp_path_factory.mktemp("odd"), HANDLER)
    template: Any = ChangedTemplate(stack, {}, folder=folder, timeout=1)
    # A log that is slower than the reply.
    gateway = Gateway(template, aws, lambda _source, _line: time.sleep(0.02))
    aws.services.update(ControlPlane(template, gateway, aws.account).services)
    aws.start()
    gateway.start()
    yield aws.client("lambda")
    gateway.stop()
    aws.stop()


def invoke(functions: Any, event: Any, function: str = FUNCTION, **more: Any) -> tuple[Any, dict[str, Any]]:
    """The payload, and the answer around it."""
    answer = functions.invoke(FunctionName=function, Payload=json.dumps(event), **more)
    return json.loads(answer["Payload"].read()), answer


def refusal(call: Any, **parameters: Any) -> tuple[str, int, str]:
    """Code, status and message of the error that a call ends in."""
    with pytest.raises(ClientError) as caught:
        call(**parameters)
    answer = caught.value.response
    return answer["Error"]["Code"], answer["ResponseMetadata"]["HTTPStatusCode"], answer["Error"]["Message"]


# ---------------------------------------------------------------- CloudFormation


def test_the_stack_is_described_as_one_that_was_deployed(cloudformation: Any, stack: LocalStack) -> None:
    (described,) = cloudformation.describe_stacks(StackName="softpos")["Stacks"]
    assert (described["StackName"], described["StackStatus"]) == ("softpos", "CREATE_COMPLETE")
    assert described["CreationTime"].tzinfo is not None
    parameters = {each["ParameterKey"]: each["ParameterValue"] for each in described["Parameters"]}
    assert (parameters["NexiBaseUrl"], parameters["SampleAppApi"]) == (stack.nexi.base_url, "true")
    assert (parameters["Stage"], parameters["SigningKeyId"]) == ("staging", "")
    outputs = {each["OutputKey"]: each["OutputValue"] for each in described["Outputs"]}
    assert outputs == {**stack.template.outputs(), "ApiUrl": stack.gateway.url}


def test_it_goes_by_its_arn_and_without_a_name_too(cloudformation: Any) -> None:
    (described,) = cloudformation.describe_stacks(StackName="softpos")["Stacks"]
    assert cloudformation.describe_stacks(StackName=described["StackId"])["Stacks"] == [described]
    assert cloudformation.describe_stacks()["Stacks"] == [described]


@pytest.mark.parametrize("action", ["describe_stacks", "list_stack_resources", "describe_stack_resources"])
def test_a_stack_that_is_not_there_is_a_validation_error(action: str, cloudformation: Any) -> None:
    wanted = ("ValidationError", 400, "Stack with id softpos-staging does not exist")
    assert refusal(getattr(cloudformation, action), StackName="softpos-staging") == wanted


def test_its_resources_are_those_that_the_sandbox_made(cloudformation: Any, stack: LocalStack) -> None:
    listed = cloudformation.list_stack_resources(StackName="softpos")["StackResourceSummaries"]
    assert {each["ResourceStatus"] for each in listed} == {"CREATE_COMPLETE"}
    found = {each["LogicalResourceId"]: (each["ResourceType"], each["PhysicalResourceId"]) for each in listed}
    assert found["EnrollmentFunction"] == ("AWS::Lambda::Function", FUNCTION)
    assert found["TerminalsTable"] == ("AWS::DynamoDB::Table", stack.outputs["TerminalsTableName"])
    assert found["CertificateSecret"] == ("AWS::SecretsManager::Secret", stack.outputs["CertificateSecretId"])
    assert found["Operators"] == ("AWS::Cognito::UserPool", stack.outputs["OperatorsPoolId"])
    for kind in ("AWS::DynamoDB::Table", "AWS::SNS::Topic", "AWS::CloudWatch::Alarm"):
        assert {name for name, (of, _) in found.items() if of == kind} == set(stack.template.resources(kind))


def test_they_are_described_as_they_are_listed_all_or_one(cloudformation: Any) -> None:
    listed = cloudformation.list_stack_resources(StackName="softpos")["StackResourceSummaries"]
    described = cloudformation.describe_stack_resources(StackName="softpos")["StackResources"]
    assert [each["PhysicalResourceId"] for each in described] == [each["PhysicalResourceId"] for each in listed]
    assert {each["StackName"] for each in described} == {"softpos"}
    (one,) = cloudformation.describe_stack_resources(StackName="softpos", LogicalResourceId="CacheTable")[
        "StackResources"
    ]
    assert one in described
    assert one["PhysicalResourceId"] == "softpos-CacheTable"


def test_another_action_of_cloudformations_is_an_error_that_says_so(cloudformation: Any) -> None:
    wanted = ("InvalidAction", 400, "The sandbox's CloudFormation does not know DeleteStack.")
    assert refusal(cloudformation.delete_stack, StackName="softpos") == wanted


# ---------------------------------------------------------------- Lambda: what a function is


def test_a_functions_configuration_is_what_it_runs_with(functions: Any, stack: LocalStack) -> None:
    told = functions.get_function_configuration(FunctionName=FUNCTION)
    function = stack.template.functions()["EnrollmentFunction"]
    assert (told["FunctionName"], told["FunctionArn"]) == (FUNCTION, function.arn)
    assert f":{stack.aws.account}:function:{FUNCTION}" in function.arn
    assert (told["Runtime"], told["Handler"]) == ("python3.13", "app.lambda_handler")
    assert (told["Timeout"], told["MemorySize"]) == (25, 512)
    assert (told["State"], told["LastUpdateStatus"]) == ("Active", "Successful")
    assert told["Environment"]["Variables"] == function.environment


def test_a_function_goes_by_its_arn_too(functions: Any) -> None:
    told = functions.get_function_configuration(FunctionName=FUNCTION)
    assert functions.get_function_configuration(FunctionName=told["FunctionArn"])["FunctionName"] == FUNCTION


@pytest.mark.parametrize("function", ["EnrollmentFunction", "softpos-NoFunction"])
@pytest.mark.parametrize("action", ["get_function_configuration", "invoke"])
def test_a_function_that_is_not_there_is_not_found(
    action: str, function: str, functions: Any, stack: LocalStack
) -> None:
    """Not by its logical id either: deployed, it would not go by that."""
    code, status, message = refusal(getattr(functions, action), FunctionName=function)
    assert (code, status) == ("ResourceNotFoundException", 404)
    assert message == f"Function not found: arn:aws:lambda:eu-south-1:{stack.aws.account}:function:{function}"


def test_another_call_of_lambdas_is_an_error_that_says_so(functions: Any) -> None:
    code, status, message = refusal(functions.delete_function, FunctionName=FUNCTION)
    assert (code, status) == ("NotImplemented", 501)
    assert "DELETE" in message


# ---------------------------------------------------------------- Lambda: what a function does


def test_a_function_that_asks_aws_itself_is_invoked_and_answers(functions: Any) -> None:
    event = json.loads((EVENTS / "app-configuration-obtained.json").read_text())
    payload, answer = invoke(functions, event, "softpos-AppConfigurationFunction")
    assert answer["StatusCode"] == 200
    assert "FunctionError" not in answer
    assert payload["statusCode"] == 200
    assert json.loads(payload["body"])["operator"] == OPERATOR


def test_the_payload_is_the_event_and_the_answer_what_the_handler_returned(odd: Any) -> None:
    event = {"caffè": [1, None, {"a": "b"}]}
    payload, answer = invoke(odd, event)
    assert payload == event
    assert "FunctionError" not in answer
    assert "LogResult" not in answer
    assert answer["ExecutedVersion"] == "$LATEST"


def test_without_a_payload_the_event_is_empty(odd: Any) -> None:
    assert json.loads(odd.invoke(FunctionName=FUNCTION)["Payload"].read()) == {}


def test_a_function_knows_itself_by_the_name_that_it_is_invoked_by(odd: Any) -> None:
    (name, variable, arn), _ = invoke(odd, {"do": "name"})
    assert name == variable == FUNCTION
    assert arn == odd.get_function_configuration(FunctionName=FUNCTION)["FunctionArn"]


@pytest.mark.parametrize(
    ("event", "kind", "message"),
    [
        ({"do": "raise"}, "LookupError", "nothing there"),
        ({"do": "hang"}, "Sandbox.Timedout", "Task timed out after 1.00 seconds"),
        ({"do": "exit"}, "Runtime.ExitError", "the runtime exited"),
    ],
    ids=["raised", "timed-out", "exited"],
)
def test_a_handler_that_fails_is_told_of_with_what_it_logged_until_then(
    event: dict[str, Any], kind: str, message: str, odd: Any
) -> None:
    payload, answer = invoke(odd, {**event, "say": f"about to {event['do']}"}, LogType="Tail")
    assert (answer["StatusCode"], answer["FunctionError"]) == (200, "Unhandled")
    assert payload == {"errorMessage": message, "errorType": kind}
    log = base64.b64decode(answer["LogResult"]).decode()
    assert log.startswith(f"about to {event['do']}\nand so on\n")
    assert ("Traceback" in log) == (kind == "LookupError")


def test_the_log_is_that_of_this_invocation_alone(odd: Any) -> None:
    invoke(odd, {"say": "the one before"}, LogType="Tail")
    invoke(odd, {"say": "the one in between"})
    _, answer = invoke(odd, {"say": "this one"}, LogType="Tail")
    assert base64.b64decode(answer["LogResult"]) == b"this one\nand so on\n"


def test_of_a_long_log_the_last_4_kb_are_told(odd: Any) -> None:
    _, answer = invoke(odd, {"say": "x" * 5000 + "the end"}, LogType="Tail")
    log = base64.b64decode(answer["LogResult"])
    assert len(log) == 4096
    assert log.endswith(b"xthe end\nand so on\n")


def test_a_payload_that_is_no_json_is_refused(odd: Any) -> None:
    code, status, _ = refusal(odd.invoke, FunctionName=FUNCTION, Payload=b"{")
    assert (code, status) == ("InvalidRequestContentException", 400)


def test_an_invocation_that_nobody_waits_for_is_refused(odd: Any) -> None:
    code, _, message = refusal(odd.invoke, FunctionName=FUNCTION, InvocationType="Event", Payload=b"{}")
    assert code == "NotImplemented"
    assert "Event" in message


def test_while_a_function_runs_aws_answers_others(odd: Any) -> None:
    waiting = threading.Thread(target=invoke, args=(odd, {"do": "hang"}))
    waiting.start()
    assert invoke(odd, {})[0] == {}
    assert waiting.is_alive()
    waiting.join(10)


# ---------------------------------------------------------------- what watches the stack

ALARMS = """
Parameters: {}
Outputs: {}
Resources:
  Handed: {Type: "AWS::CloudWatch::Alarm", Properties: {AlarmName: mine, Namespace: AWS/Lambda, MetricName: Errors,
    Dimensions: [{Name: FunctionName, Value: !Ref Worker}], Statistic: Sum, Period: 60, EvaluationPeriods: 1,
    Threshold: 1, ComparisonOperator: GreaterThanOrEqualToThreshold, AlarmActions: [!Ref Named]}}
  Throttled: {Type: "AWS::CloudWatch::Alarm", Properties: {Namespace: AWS/ApiGateway, MetricName: 4xx,
    Dimensions: [{Name: ApiId, Value: !Ref Api}], Statistic: Sum, Period: 60, EvaluationPeriods: 1, Threshold: 1,
    ComparisonOperator: GreaterThanThreshold, AlarmActions: [!GetAtt Unnamed.TopicArn]}}
  Named: {Type: "AWS::SNS::Topic", Properties: {TopicName: pager}}
  Unnamed: {Type: "AWS::SNS::Topic"}
  Worker: {Type: "AWS::Serverless::Function", Properties: {}}
  Api: {Type: "AWS::Serverless::HttpApi", Properties: {}}
"""


def test_topics_and_alarms_are_made_with_the_names_that_the_template_gives_or_the_stacks(tmp_path: Path) -> None:
    (tmp_path / "template.yaml").write_text(ALARMS)
    aws = Aws()
    aws.start()
    try:
        template = Template(tmp_path / "template.yaml", {}, aws.account)
        aws.create(template)
        topics = {each["TopicArn"] for each in aws.client("sns").list_topics()["Topics"]}
        alarms = {each["AlarmName"]: each for each in aws.client("cloudwatch").describe_alarms()["MetricAlarms"]}
    finally:
        aws.stop()
    named, unnamed = (f"arn:aws:sns:eu-south-1:{aws.account}:{name}" for name in ("pager", "softpos-Unnamed"))
    assert topics == {named, unnamed}
    assert template.resolve({"Fn::GetAtt": ["Named", "TopicName"]}) == "pager"
    assert set(alarms) == {"mine", "softpos-Throttled"}
    assert alarms["mine"]["Dimensions"] == [{"Name": "FunctionName", "Value": "softpos-Worker"}]
    assert alarms["mine"]["AlarmActions"] == [named]
    assert alarms["softpos-Throttled"]["Dimensions"] == [{"Name": "ApiId", "Value": "sandbox"}]
    assert alarms["softpos-Throttled"]["AlarmActions"] == [unnamed]
    assert template.resolve({"Fn::GetAtt": ["Throttled", "Arn"]}) == alarms["softpos-Throttled"]["AlarmArn"]
