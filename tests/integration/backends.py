"""The functions behind an API of their own, beside the stack's, with an environment that a test has changed."""

import functools
import itertools
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import requests
from lines import Lines

from sandbox.gateway import SIGNER, Gateway
from sandbox.local import OPERATOR, LocalStack
from sandbox.sigv4 import sign
from sandbox.template import Function

_counter = itertools.count()


@dataclass
class Backend:
    """An API's address, and what its functions have logged."""

    stack: LocalStack
    url: str
    lines: Lines
    cool: Callable[[], None] = lambda: None
    """Ends the execution environments, so that the next invocation is a cold start."""

    def post(
        self,
        body: bytes | dict[str, Any] | None,
        token: str | None,
        headers: dict[str, str] | None = None,
        method: str = "POST",
        path: str = "/v1/enrollments",
    ) -> requests.Response:
        """One request over a connection of its own, deaf to the environment."""
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        sent = {"Content-Type": "application/json", **(headers or {})}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        with requests.Session() as session:
            session.trust_env = False
            return session.request(method, self.url + path, data=data, headers=sent, timeout=30)

    def back_office(self, method: str, path: str, body: Any = None) -> requests.Response:
        """A signed request of the merchant's back office: text as CSV, anything else as JSON."""
        kind = "text/csv" if isinstance(body, str) else "application/json"
        data = body.encode() if isinstance(body, str) else b"" if body is None else json.dumps(body).encode()
        return self.post(
            data, None, sign(method, self.url + path, data, {"Content-Type": kind}, **SIGNER), method, path
        )

    def enroll(self, operator: str = OPERATOR, device_id: str = "device-1") -> requests.Response:
        """An enrollment as the app asks for it."""
        return self.post({"device_id": device_id}, bearer(self.stack, operator))

    def line(self, response: requests.Response) -> dict[str, Any]:
        """The one line that the function logged for the request that was answered so."""
        wanted = f'"request_id":"{response.headers["apigw-requestid"]}"'
        line: dict[str, Any] = json.loads(self.lines.wait_for(wanted))
        return line


@functools.cache
def bearer(stack: LocalStack, operator: str = OPERATOR) -> str:
    """An operator's token, good for an hour, and so for all tests."""
    return stack.token(operator)


@functools.cache
def client(stack: LocalStack, service: str) -> Any:
    """A boto3 client of the stack's AWS. Making one takes longer than all that a test does with it."""
    return stack.aws.client(service)


class ChangedTemplate:
    """The stack's template, but for what its functions are started with."""

    def __init__(self, stack: LocalStack, environment: dict[str, str], **changes: Any) -> None:
        self._template = stack.template
        self._environment = environment
        self._changes = changes

    def functions(self) -> dict[str, Function]:
        return {
            name: replace(each, environment={**each.environment, **self._environment}, **self._changes)
            for name, each in self._template.functions().items()
        }

    def __getattr__(self, name: str) -> Any:
        return getattr(self._template, name)


@contextmanager
def backend(stack: LocalStack, environment: dict[str, str] | None = None, **changes: Any) -> Iterator[Backend]:
    """Cold functions with an empty cache table on the stack's AWS. `changes` are for its functions: folder, timeout."""
    lines = Lines()
    changed = {"CACHE_TABLE": table(stack, "CacheTable"), **(environment or {})}
    template: Any = ChangedTemplate(stack, changed, **changes)
    gateway = Gateway(template, stack.aws, lambda _source, line: lines.add(line))
    gateway.start()
    try:
        yield Backend(stack, gateway.url, lines, gateway.cool)
    finally:
        gateway.stop()


def table(stack: LocalStack, logical_id: str) -> str:
    """A new table with the shape of this one of the template's."""
    properties = stack.template.resources("AWS::DynamoDB::Table")[logical_id]
    name = f"{logical_id}-{next(_counter)}"
    client(stack, "dynamodb").create_table(
        TableName=name, **{each: properties[each] for each in ("AttributeDefinitions", "KeySchema", "BillingMode")}
    )
    return name


def secret(stack: LocalStack, value: str | bytes | dict[str, Any] | None) -> str:
    """The id of a new secret; None for one that was created and never given a value."""
    given: dict[str, Any] = {}
    if isinstance(value, bytes):
        given["SecretBinary"] = value
    elif value is not None:
        given["SecretString"] = value if isinstance(value, str) else json.dumps(value)
    created = client(stack, "secretsmanager").create_secret(Name=f"secret-{next(_counter)}", **given)
    arn: str = created["ARN"]
    return arn


def operator(stack: LocalStack, **item: str) -> str:
    """The e-mail of a new operator who can sign in, with this item in the registry, sound or not; none when empty.

    The item is theirs, unless it says another `operator`, or an empty one.
    """
    email = f"operator-{next(_counter)}@example.com"
    stack.add_operator(email)
    if item:
        client(stack, "dynamodb").put_item(
            TableName=stack.outputs["TerminalsTableName"],
            Item={
                name: {"S": value}
                for name, value in {"pk": "operators", "sk": email, "operator": email, **item}.items()
                if value
            },
        )
    return email


def handler_folder(folder: Path, source: str) -> Path:
    """A function's folder with this app.py."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "app.py").write_text(source)
    return folder
