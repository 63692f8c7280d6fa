"""The `softpos` command in this process: its AWS is given, and HTTP ends at a table of answers."""

import contextlib
import functools
import io
import json
import sys
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import boto3
import pytest
import requests
from requests.adapters import HTTPAdapter

from onboarding import options
from onboarding.__main__ import main
from onboarding.deployment import Deployment

REGION = "eu-south-1"
ACCESS_KEY = "AKIDUNITTESTS"
SECRET_KEY = "a-secret-access-key"
SESSION_TOKEN = "a-session-token/+="

API = "https://sandbox.execute-api.eu-south-1.amazonaws.com"
POLICY = "arn:aws:iam::123456789012:policy/softpos-back-office"


@dataclass(frozen=True)
class Run:
    """How a command ended: its exit status, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def softpos(*arguments: str, stdin: bytes = b"", stage: str = "staging") -> Run:
    """The command as if typed, with standard input from a pipe."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main([*arguments, "--stage", stage])
        except SystemExit as end:
            status = int(end.code or 0)
    return Run(status, out.getvalue(), err.getvalue())


@functools.cache
def session(token: str | None = SESSION_TOKEN) -> Any:
    """Temporary credentials, unless there is no token."""
    return boto3.session.Session(ACCESS_KEY, SECRET_KEY, token, region_name=REGION)


def deployed(monkeypatch: pytest.MonkeyPatch, given: Any = None, **outputs: str) -> Deployment:
    """A stack with these outputs for every command, and this session."""

    class Given(Deployment):
        pass

    Given.outputs = outputs  # type: ignore[assignment]
    Given.session = session() if given is None else given
    monkeypatch.setattr(options, "Deployment", Given)
    return Given("staging")


@dataclass
class Answer:
    """What is answered to one request."""

    body: Any = field(default_factory=dict)
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass
class Web:
    """In the place of the network: what was sent, with what it was to be sent, and what is answered next."""

    answers: list[Answer | Exception] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)
    sent_with: list[dict[str, Any]] = field(default_factory=list)

    def send(self, request: requests.PreparedRequest, **how: Any) -> requests.Response:
        self.sent.append(request)
        self.sent_with.append(how)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        response = requests.Response()
        response.status_code = answer.status
        response.headers.update({"apigw-requestid": "request-1", **answer.headers})
        response.raw = io.BytesIO(answer.content)
        response.request = request
        response.url = request.url or ""
        return response

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(HTTPAdapter, "send", self.send)
