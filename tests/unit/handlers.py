"""What the tests of the handlers share: a function as Lambda has it, its context, the events in events/, and a pool."""

import base64
import copy
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import boto3
from registry_support import create_table

from softpos.pairs import from_csv
from softpos.terminals import TerminalRegistry

ROOT = Path(__file__).parents[2]
EVENTS = ROOT / "events"
INVOCATION = "0c1d2e3f-invocation"

OPERATOR = "mario.rossi@example.com"
"""Of whom the events are, and who holds the first pair of the pool."""
SECOND_OPERATOR = "anna.bianchi@example.com"
"""Holds none."""
POOL = """\
point_of_sale,softpos_tid,mpos_tid
00012345,30000001,40000001
00012345,30000002,40000002
00012345,30000003,
00067890,30000004,
"""

Event = dict[str, Any]


def load_event(name: str) -> Event:
    event: Event = json.loads((EVENTS / f"{name}.json").read_text())
    return event


def with_body(event: Event, body: Any) -> Event:
    """The event with another body: text as it is, anything else as JSON."""
    return {**event, "body": body if isinstance(body, str) else json.dumps(body)}


def without_authorizer(event: Event) -> Event:
    """The event as a route that someone deploys without its authorizer would get it."""
    context = {name: value for name, value in event["requestContext"].items() if name != "authorizer"}
    return {**event, "requestContext": context}


@dataclass
class Context:
    """As much of Lambda's context as the handlers look at."""

    aws_request_id: str = INVOCATION
    remaining: int = 14_900

    def get_remaining_time_in_millis(self) -> int:
        return self.remaining


def load_function(name: str) -> ModuleType:
    """A function as Lambda has it: a file called app, in no package."""
    spec = importlib.util.spec_from_file_location(f"{name}_app", ROOT / "functions" / name / "app.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def invoke(function: ModuleType, event: Event, context: Context | None = None) -> dict[str, Any]:
    """What the function answers. It leaves the event as it is, and its answer goes through JSON unharmed."""
    before = copy.deepcopy(event)
    answer: dict[str, Any] = function.lambda_handler(event, context or Context())
    assert event == before
    assert json.loads(json.dumps(answer)) == answer
    assert answer["isBase64Encoded"] is False
    return answer


def problem_of(answer: dict[str, Any]) -> dict[str, Any]:
    """The problem of RFC 9457 that an answer is."""
    problem: dict[str, Any] = json.loads(answer["body"])
    assert answer["headers"]["content-type"] == "application/problem+json"
    assert answer["headers"]["cache-control"] == "no-store"
    assert answer["statusCode"] == problem["status"]
    return problem


def told(answer: dict[str, Any]) -> tuple[int, str]:
    """A problem's status and code."""
    problem = problem_of(answer)
    return problem["status"], problem["code"]


def wrong_members(answer: dict[str, Any]) -> dict[str, str]:
    """What a problem says is wrong, by member, each named once."""
    errors = problem_of(answer)["errors"]
    wrong = {each["member"]: each["detail"] for each in errors}
    assert len(errors) == len(wrong)
    return wrong


def registry_of(dynamodb: Any) -> TerminalRegistry:
    """The registry over the table `terminals`."""
    return TerminalRegistry(dynamodb, "terminals", sleep=lambda _: None)


class Pool:
    """DynamoDB, with POOL in the table `terminals`, and its first pair held by OPERATOR.

    To make it takes longer than most tests do: it is made once, and put back to what it was before each.
    """

    def __init__(self) -> None:
        """Within moto's mock_aws."""
        self.dynamodb = aws_client("dynamodb")
        create_table(self.dynamodb)
        registry_of(self.dynamodb).add(from_csv(POOL))
        registry_of(self.dynamodb).assign(OPERATOR, "30000001")
        self._items = self.dynamodb.scan(TableName="terminals")["Items"]

    def put_back(self) -> Any:
        """The client."""
        self.dynamodb.delete_table(TableName="terminals")
        create_table(self.dynamodb)
        requests = [{"PutRequest": {"Item": item}} for item in self._items]
        self.dynamodb.batch_write_item(RequestItems={"terminals": requests})
        return self.dynamodb


def aws_client(service: str) -> Any:
    """A client that asks nobody who it is."""
    return boto3.client(service, region_name="eu-south-1", aws_access_key_id="test", aws_secret_access_key="test")


def holders(registry: TerminalRegistry) -> dict[str, str | None]:
    """Who holds what in the pool, by each pair's first TID."""
    return {pair.terminal_ids[0]: getattr(pair, "operator", None) for pair in registry.page(limit=500).pairs}


UNTOUCHED = {"30000001": OPERATOR, "30000002": None, "30000003": None, "30000004": None}
"""Who holds what in POOL to begin with."""


def assert_like_api_gateways(event: Event) -> None:
    """An event file stands for what an HTTP API sends (payload 2.0), so it must look like it."""
    example = load_event("enrollment-created")
    sent = {"body", "pathParameters", "queryStringParameters"}
    assert set(event) - sent == set(example) - sent
    assert set(event["requestContext"]) | {"authorizer"} == set(example["requestContext"])
    assert event["version"] == "2.0"
    assert event["routeKey"] == event["requestContext"]["routeKey"]
    method, path = event["routeKey"].split()
    assert event["requestContext"]["http"]["method"] == method
    assert event["rawPath"] == event["requestContext"]["http"]["path"] == path.format(**event.get("pathParameters", {}))
    assert all(name == name.lower() for name in event["headers"])
    assert bool(event["rawQueryString"]) == ("queryStringParameters" in event)
    if "body" in event:
        body = base64.b64decode(event["body"], validate=True) if event["isBase64Encoded"] else event["body"].encode()
        assert event["headers"]["content-length"] == str(len(body))
        assert "content-type" in event["headers"]
    else:
        assert not {"content-type", "content-length"} & set(event["headers"])
    claims = event["requestContext"].get("authorizer", {}).get("jwt", {}).get("claims", {})
    # API Gateway hands over every claim as text.
    assert {type(value) for value in claims.values()} <= {str}
