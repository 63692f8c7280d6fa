"""`make invoke`, against a stack that runs."""

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from botocore.exceptions import ClientError
from builds import ROOT

from sandbox.invoke import invoke
from sandbox.local import LocalStack

EVENTS = ROOT / "events"


def make_invoke(stack: LocalStack, **environment: str) -> subprocess.CompletedProcess[str]:
    """What `make invoke` runs."""
    inherited = {name: value for name, value in os.environ.items() if name not in ("EVENT", "FUNCTION", "AWS_PORT")}
    return subprocess.run(
        [sys.executable, "-m", "sandbox", "invoke"],
        cwd=ROOT,
        env={**inherited, "AWS_PORT": str(urlsplit(stack.aws.url).port), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


class TestTheCommand:
    @pytest.mark.usefixtures("registry")
    def test_it_prints_the_result_and_beside_it_the_log(self, stack: LocalStack) -> None:
        run = make_invoke(stack, EVENT="events/enrollment-created.json")
        assert run.returncode == 0
        assert json.loads(run.stdout)["statusCode"] == 201
        assert run.stderr.startswith("EnrollmentFunction logged:\n")
        assert '"message":"enrollment pushed"' in run.stderr

    def test_an_error_that_the_function_did_not_handle_is_a_failure(self, stack: LocalStack) -> None:
        run = make_invoke(stack, EVENT="events/certificate-watch.json", FUNCTION="EnrollmentFunction")
        assert run.returncode == 1
        assert json.loads(run.stdout)["errorType"] == "KeyError"

    @pytest.mark.parametrize(
        ("environment", "said"),
        [
            ({}, "EVENT=events/….json says what to invoke a function with"),
            (
                {"EVENT": "events/enrollment-created.json", "AWS_PORT": "1"},
                "nothing answers on AWS_PORT 1. Is `make run` running, with the same AWS_PORT?",
            ),
        ],
    )
    def test_what_is_missing_is_said_in_a_sentence(
        self, stack: LocalStack, environment: dict[str, str], said: str
    ) -> None:
        run = make_invoke(stack, **environment)
        assert (run.returncode, run.stdout, run.stderr) == (1, "", f"softpos: {said}\n")


class TestAnInvocation:
    def test_a_schedules_event_finds_its_function(self, stack: LocalStack) -> None:
        invoked = invoke(stack.aws.url, EVENTS / "certificate-watch.json")
        assert (invoked.function, invoked.result, invoked.failed) == ("CertificateWatchFunction", None, False)
        assert "CertificateDaysLeft" in invoked.log

    def test_an_event_of_ones_own_goes_to_the_function_that_is_named(self, stack: LocalStack, tmp_path: Path) -> None:
        file = tmp_path / "event.json"
        file.write_text("{}")
        assert invoke(stack.aws.url, file, "CertificateWatchFunction").function == "CertificateWatchFunction"
        with pytest.raises(ValueError, match="names no route and no schedule"):
            invoke(stack.aws.url, file)

    def test_what_is_not_there_is_named(self, stack: LocalStack) -> None:
        with pytest.raises(FileNotFoundError, match="No such file"):
            invoke(stack.aws.url, EVENTS / "none.json")
        with pytest.raises(ValueError, match="is not JSON"):
            invoke(stack.aws.url, ROOT / "samconfig.toml")
        with pytest.raises(ClientError, match="Function not found"):
            invoke(stack.aws.url, EVENTS / "enrollment-created.json", "NoFunction")
