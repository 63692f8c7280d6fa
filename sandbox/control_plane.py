"""CloudFormation and Lambda, for a stack that neither of them has made: what a deployed stack is asked about.

DescribeStacks, ListStackResources and DescribeStackResources answer from the template; GetFunctionConfiguration and
Invoke from it and from the gateway's execution environments. Another action gets an error that says so.
"""

import base64
import json
import re
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from xml.etree import ElementTree

from werkzeug import Request, Response

from sandbox.aws import API_ID
from sandbox.environments import FunctionError
from sandbox.gateway import Gateway
from sandbox.template import REGION, STACK, Function, Template

STATUS = "CREATE_COMPLETE"
TAIL_BYTES = 4096

_NAMESPACE = "http://cloudformation.amazonaws.com/doc/2010-05-15/"
_API_ADDRESS = f"https://{API_ID}.execute-api.{REGION}.amazonaws.com"


class RefusedError(Exception):
    """When a call ends in an error of AWS's: its code, its message, and the status."""

    def __init__(self, code: str, message: str, status: int = 400) -> None:
        super().__init__(message)
        self.code = code
        self.status = status


class ControlPlane:
    """What to answer for the services of `services`."""

    def __init__(self, template: Template, gateway: Gateway, account: str) -> None:
        self._template = template
        self._gateway = gateway
        self._account = account
        self._functions = list(template.functions().values())
        self._arn = f"arn:aws:cloudformation:{REGION}:{account}:stack/{STACK}/{uuid.uuid4()}"
        self._created_at = f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"

    @property
    def services(self) -> dict[str, Callable[[Request], Response]]:
        """The two services, by the name that requests are signed for."""
        return {"cloudformation": self._cloudformation, "lambda": self._lambda}

    def _cloudformation(self, request: Request) -> Response:
        action = request.form.get("Action", "")
        try:
            match action:
                case "DescribeStacks":
                    self._check_stack(request.form.get("StackName", STACK))
                    result: dict[str, Any] = {"Stacks": [self._stack()]}
                case "ListStackResources":
                    self._check_stack(request.form.get("StackName", ""))
                    result = {"StackResourceSummaries": self._resources("LastUpdatedTimestamp")}
                case "DescribeStackResources":
                    self._check_stack(request.form.get("StackName", ""))
                    stack = {"StackName": STACK, "StackId": self._arn}
                    wanted = request.form.get("LogicalResourceId")
                    result = {
                        "StackResources": [
                            {**stack, **each}
                            for each in self._resources("Timestamp")
                            if wanted in (None, each["LogicalResourceId"])
                        ]
                    }
                case _:
                    raise RefusedError("InvalidAction", f"The sandbox's CloudFormation does not know {action}.")
        except RefusedError as refused:
            error = {"Type": "Sender", "Code": refused.code, "Message": str(refused)}
            return _xml("ErrorResponse", {"Error": error, "RequestId": str(uuid.uuid4())}, refused.status)
        metadata = {"RequestId": str(uuid.uuid4())}
        return _xml(f"{action}Response", {f"{action}Result": result, "ResponseMetadata": metadata})

    def _check_stack(self, name: str) -> None:
        if name not in (STACK, self._arn):
            raise RefusedError("ValidationError", f"Stack with id {name} does not exist")

    def _stack(self) -> dict[str, Any]:
        # The one output that is not as the template has it: nothing listens there.
        outputs = {
            name: value.replace(_API_ADDRESS, self._gateway.url) for name, value in self._template.outputs().items()
        }
        return {
            "StackName": STACK,
            "StackId": self._arn,
            "StackStatus": STATUS,
            "CreationTime": self._created_at,
            "Parameters": [
                {"ParameterKey": name, "ParameterValue": value} for name, value in self._template.parameters().items()
            ],
            "Outputs": [{"OutputKey": name, "OutputValue": value} for name, value in outputs.items()],
        }

    def _resources(self, timestamp: str) -> list[dict[str, str]]:
        """Every resource that exists here; `timestamp` is what this action calls the time of its last change."""
        return [
            {
                "LogicalResourceId": logical_id,
                "PhysicalResourceId": physical_id,
                "ResourceType": kind,
                "ResourceStatus": STATUS,
                timestamp: self._created_at,
            }
            for logical_id, (kind, physical_id) in self._template.existing().items()
        ]

    def _lambda(self, request: Request) -> Response:
        found = re.fullmatch(r"/2015-03-31/functions/([^/]+)/(configuration|invocations)", request.path)
        name, what = found.groups() if found else ("", "")
        try:
            match request.method, what:
                case "GET", "configuration":
                    return _json(_configuration(self._function(name)))
                case "POST", "invocations":
                    return self._invoke(self._function(name), request)
            unknown = f"The sandbox's Lambda does not know {request.method} {request.path}."
            raise RefusedError("NotImplemented", unknown, 501)
        except RefusedError as refused:
            answer = _json({"Type": "User", "Message": str(refused)}, refused.status)
            answer.headers["X-Amzn-ErrorType"] = refused.code
            return answer

    def _function(self, name: str) -> Function:
        """By its name or its ARN."""
        for each in self._functions:
            if name in (each.deployed_name, each.arn):
                return each
        arn = name if name.startswith("arn:") else f"arn:aws:lambda:{REGION}:{self._account}:function:{name}"
        raise RefusedError("ResourceNotFoundException", f"Function not found: {arn}", 404)

    def _invoke(self, function: Function, request: Request) -> Response:
        kind = request.headers.get("X-Amz-Invocation-Type", "RequestResponse")
        if kind != "RequestResponse":
            raise RefusedError("NotImplemented", f"The sandbox's Lambda waits for every answer: not {kind}.", 501)
        try:
            event = json.loads(request.get_data() or b"{}")
        except ValueError as error:
            message = f"Could not parse request body into json: {error}"
            raise RefusedError("InvalidRequestContentException", message) from error
        lines: list[str] = []
        try:
            answer = _json(self._gateway.invoke(function.name, event, lines))
        except FunctionError as error:
            answer = _json({"errorMessage": str(error), "errorType": error.kind})
            answer.headers["X-Amz-Function-Error"] = "Unhandled"
        answer.headers["X-Amz-Executed-Version"] = "$LATEST"
        if request.headers.get("X-Amz-Log-Type") == "Tail":
            log = "".join(f"{line}\n" for line in lines).encode()
            answer.headers["X-Amz-Log-Result"] = base64.b64encode(log[-TAIL_BYTES:]).decode()
        return answer


def _configuration(function: Function) -> dict[str, Any]:
    return {
        "FunctionName": function.deployed_name,
        "FunctionArn": function.arn,
        "Runtime": function.runtime,
        "Handler": function.handler,
        "Timeout": function.timeout,
        "MemorySize": function.memory,
        "State": "Active",
        "LastUpdateStatus": "Successful",
        "Version": "$LATEST",
        "Environment": {"Variables": function.environment},
    }


def _json(answer: Any, status: int = 200) -> Response:
    return Response(json.dumps(answer), status, content_type="application/json")


def _xml(name: str, answer: dict[str, Any], status: int = 200) -> Response:
    """As AWS's query protocol writes it: a member of an object is an element, one of a list is a `member`."""
    root = ElementTree.Element(name, xmlns=_NAMESPACE)
    _fill(root, answer)
    return Response(ElementTree.tostring(root, encoding="utf-8", xml_declaration=True), status, content_type="text/xml")


def _fill(element: ElementTree.Element, value: Any) -> None:
    if isinstance(value, str):
        element.text = value
        return
    for name, each in value.items() if isinstance(value, dict) else (("member", each) for each in value):
        _fill(ElementTree.SubElement(element, name), each)
