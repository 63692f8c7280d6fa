"""The `softpos` command, in this process, on a local stack."""

import contextlib
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

from onboarding.__main__ import main
from onboarding.deployment import Deployment
from sandbox.local import LocalStack

_new_client = Deployment._new_client
_clients: dict[tuple[str, str], Any] = {}


def _client(deployment: Deployment, service: str) -> Any:
    """The deployment's own, made once for all commands: it takes longer than most of them do."""
    key = (service, os.environ["AWS_PORT"])
    if key not in _clients:
        _clients[key] = _new_client(deployment, service)
    return _clients[key]


@dataclass(frozen=True)
class Run:
    """How a command ended: its exit status, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def check(self, name: str) -> dict[str, str]:
        """One of the doctor's."""
        (found,) = (each for each in self.json["checks"] if each["check"] == name)
        return found

    @property
    def unwell(self) -> dict[str, str]:
        """The doctor's checks that are not well, and were not skipped: their states."""
        states = {each["check"]: each["state"] for each in self.json["checks"]}
        return {check: state for check, state in states.items() if state not in ("ok", "skipped")}


class Softpos:
    """`softpos("certificate", "show")` as if typed in `folder`, with stage and port in the environment."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self._stack = stack
        self.folder = folder

    def __call__(self, *arguments: str, stdin: bytes = b"") -> Run:
        environment = {"SOFTPOS_STAGE": "local", "AWS_PORT": str(self._stack.aws.port)}
        out, err, status = io.StringIO(), io.StringIO(), 0
        with (
            mock.patch.dict(os.environ, environment),
            mock.patch.object(Deployment, "_new_client", _client),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
            contextlib.chdir(self.folder),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                main(list(arguments))
            except SystemExit as end:
                status = int(end.code or 0)
        return Run(status, out.getvalue(), err.getvalue())

    def doctor(self, *arguments: str) -> Run:
        return self("doctor", "--json", *arguments)


@contextmanager
def stored(stack: LocalStack, output: str, value: str | dict[str, Any]) -> Iterator[None]:
    """A secret of the stack's with another value, and then the one that it had, with nothing pending."""
    secrets, secret_id = stack.aws.client("secretsmanager"), stack.outputs[output]
    before = secrets.get_secret_value(SecretId=secret_id)["SecretString"]
    secrets.put_secret_value(SecretId=secret_id, SecretString=value if isinstance(value, str) else json.dumps(value))
    try:
        yield
    finally:
        secrets.put_secret_value(SecretId=secret_id, SecretString=before)
