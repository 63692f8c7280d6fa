"""`make invoke`: one of events/, given to its function as the stack that runs here has it."""

import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sandbox.aws import client
from sandbox.local import TEMPLATE
from sandbox.template import Template


@dataclass(frozen=True)
class Invoked:
    """What an invocation came to."""

    function: str
    result: Any
    failed: bool
    """The result is Lambda's account of an error that the function did not handle."""
    log: str
    """The end of it: Lambda hands out 4 KB."""


def invoke(aws_url: str, file: Path, function: str = "") -> Invoked:
    """`function` is a logical id, for an event that does not say whom it is for.

    Raises OSError or ValueError with a sentence when there is no such event or function, and botocore's errors.
    """
    try:
        event = json.loads(file.read_text())
    except ValueError as error:
        raise ValueError(f"{file} is not JSON ({error})") from error
    name = function or function_of(event)
    deployed_name = Template(TEMPLATE, {}).function_arn(name).rpartition(":")[2]
    answer = client("lambda", aws_url).invoke(
        FunctionName=deployed_name, Payload=json.dumps(event).encode(), LogType="Tail"
    )
    return Invoked(
        function=name,
        result=json.loads(answer["Payload"].read()),
        failed="FunctionError" in answer,
        log=base64.b64decode(answer["LogResult"]).decode("utf-8", "replace"),
    )


def function_of(event: Any) -> str:
    """The logical id of the function that gets such events: by the route, or by the schedule, that they come from.

    Raises ValueError with a sentence.
    """
    # All functions that there can be.
    template = Template(TEMPLATE, {"SampleAppApi": "true"})
    said = event if isinstance(event, dict) else {}
    for route in template.routes():
        if route.key == said.get("routeKey"):
            return route.function
    for name, properties in template.resources("AWS::Serverless::Function").items():
        schedules = [each for each, source in properties["Events"].items() if source["Type"] == "ScheduleV2"]
        # CloudFormation puts the logical id, which is of both, into the schedule's name.
        if any(f"{name}{schedule}" in arn for schedule in schedules for arn in said.get("resources", [])):
            return name
    raise ValueError("the event names no route and no schedule of template.yaml: say FUNCTION=…, a logical id of it")
