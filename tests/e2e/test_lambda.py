"""What Lambda does with the built functions: imports, cold starts, timeouts, errors."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from builds import ROOT, event
from deployed import Deployed, Secrets
from werkzeug import Request, Response

from sandbox.local import LocalStack

CREATED = event("enrollment-created")
CONFIGURATION = event("app-configuration-obtained")
API_FUNCTIONS = (
    "AppConfigurationFunction",
    "EncryptionKeysFunction",
    "EnrollmentFunction",
    "SampleAppFunction",
    "TerminalsFunction",
)

PROBE = """\
import importlib, os, sys

def lambda_handler(event, context):
    places = {}
    for name in event["modules"]:
        try:
            places[name] = importlib.import_module(name).__file__
        except ImportError:
            places[name] = None
    left_ms = context.get_remaining_time_in_millis()
    return {"places": places, "path": sys.path, "environment": dict(os.environ), "left_ms": left_ms}
"""

SHIPPED = ("softpos", "softpos.enrollment", "boto3", "cryptography", "jose", "requests", "aws_lambda_powertools")
THE_RUNTIMES = ("awslambdaric", "simplejson", "snapshot_restore_py")
NOT_THERE = ("pytest", "sandbox", "onboarding", "tests", "functions", "moto", "joserfc", "samcli", "click", "pip")


@pytest.fixture(scope="module")
def probed(deployed: Deployed, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What code in the enrollment function's place sees."""
    folder = tmp_path_factory.mktemp("probe")
    (folder / "app.py").write_text(PROBE)
    probe = deployed.cold("EnrollmentFunction", folder=folder)
    result: dict[str, Any] = probe.invoke({"modules": [*SHIPPED, *THE_RUNTIMES, *NOT_THERE]}).result
    return {**result, "folder": str(folder)}


class TestWhatAFunctionSees:
    def test_nothing_can_be_imported_but_what_ships(self, probed: dict[str, Any], deployed: Deployed) -> None:
        opt, runtime = map(str, deployed.path)
        places = probed["places"]
        assert {name: places[name] for name in NOT_THERE} == dict.fromkeys(NOT_THERE)
        assert all(places[name].startswith(opt) for name in SHIPPED)
        assert all(places[name].startswith(runtime) for name in THE_RUNTIMES)

    def test_no_folder_of_the_checkout_is_on_the_path(self, probed: dict[str, Any], deployed: Deployed) -> None:
        assert probed["path"][:3] == [probed["folder"], *map(str, deployed.path)]
        assert not [each for each in probed["path"] if each.startswith(str(ROOT)) or "site-packages" in each]

    def test_its_variables_are_lambdas_and_the_templates(self, probed: dict[str, Any], stack: LocalStack) -> None:
        declared = stack.template.functions()["EnrollmentFunction"].environment
        others = set(probed["environment"]) - set(declared)
        assert {name: probed["environment"][name] for name in declared} == declared
        by_lambda = {"PATH", "LANG", "TZ", "PYTHONPATH", "_HANDLER", "LC_CTYPE", "_X_AMZN_TRACE_ID"}
        assert {each for each in others if not each.startswith(("AWS_", "LAMBDA_"))} <= by_lambda

    def test_it_is_told_how_long_the_template_gives_it(self, probed: dict[str, Any], stack: LocalStack) -> None:
        timeout = stack.template.functions()["EnrollmentFunction"].timeout
        assert (timeout - 5) * 1000 < probed["left_ms"] <= timeout * 1000


class TestAnEnrollment:
    @pytest.mark.usefixtures("registry", "empty_cache")
    def test_a_cold_one_asks_nexi_for_everything_and_a_warm_one_for_the_push_alone(
        self, deployed: Deployed, stack: LocalStack, secrets: Secrets
    ) -> None:
        function = deployed.cold("EnrollmentFunction")
        stack.nexi.calls.clear()
        cold = function.invoke(CREATED)
        asked_cold = [each.endpoint for each in stack.nexi.calls]
        stack.nexi.calls.clear()
        warm = function.invoke(CREATED)
        assert [each.result["statusCode"] for each in (cold, warm)] == [201, 201]
        assert asked_cold == ["token", "keys", "par"]
        assert [each.endpoint for each in stack.nexi.calls] == ["par"]
        assert function.cold_starts == 1
        assert [[line["message"] for line in each.lines] for each in (cold, warm)] == [["enrollment pushed"]] * 2
        assert secrets.leaked(cold.log + warm.log) == []


@pytest.fixture
def stalled(stack: LocalStack) -> Iterator[Callable[[], None]]:
    """A DynamoDB that does not answer, until called."""
    over = threading.Event()

    def stall(_request: Request) -> Response:
        over.wait(10)
        return Response(status=503)

    def end() -> None:
        stack.aws.services.pop("dynamodb", None)
        over.set()

    stack.aws.services["dynamodb"] = stall
    yield end
    end()


class TestATimeout:
    @pytest.mark.usefixtures("registry")
    def test_lambda_ends_the_environment_and_the_next_invocation_starts_another(
        self, deployed: Deployed, stalled: Callable[[], None], secrets: Secrets
    ) -> None:
        function = deployed.cold("AppConfigurationFunction", timeout=1)
        ended = function.invoke(CONFIGURATION)
        stalled()
        assert ended.text == "Task timed out after 1.00 seconds"
        assert ended.lines == []
        assert function.invoke(CONFIGURATION).result["statusCode"] == 200
        assert function.cold_starts == 2
        assert secrets.leaked(ended.log) == []

    def test_with_the_templates_own_the_function_answers_first(
        self, deployed: Deployed, stalled: Callable[[], None]
    ) -> None:
        function = deployed.cold("AppConfigurationFunction")
        answer = function.invoke(CONFIGURATION).result
        stalled()
        assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (503, "backend_unavailable")
        assert function.cold_starts == 1


class TestAnUnhandledError:
    """An event that no route of ours sends."""

    @pytest.mark.parametrize("name", API_FUNCTIONS)
    def test_it_is_lambdas_error_and_quotes_nothing(self, deployed: Deployed, secrets: Secrets, name: str) -> None:
        function = deployed.warm(name)
        foreign = {"headers": {"authorization": "Bearer THE-ID-TOKEN"}, "body": '{"device_id": "the-device"}'}
        failed = function.invoke(foreign)
        assert failed.result["errorType"] == "KeyError"
        assert failed.result["errorMessage"] == "'requestContext'"
        (line,) = failed.lines
        assert (line["level"], line["errorType"]) == ("ERROR", "KeyError")
        for text in (failed.text, failed.log):
            assert "THE-ID-TOKEN" not in text
            assert "the-device" not in text
            assert secrets.leaked(text) == []

    @pytest.mark.usefixtures("registry")
    def test_the_environment_goes_on(self, deployed: Deployed) -> None:
        function = deployed.warm("AppConfigurationFunction")
        function.invoke({})
        assert function.invoke(CONFIGURATION).result["statusCode"] == 200
        assert function.cold_starts == 1

    @pytest.mark.usefixtures("empty_cache")
    def test_a_scheduled_run_that_fails_says_nothing_beyond_its_own_line(
        self, deployed: Deployed, stack: LocalStack, secrets: Secrets
    ) -> None:
        stack.nexi.faults.add("token:status=401*9")
        failed = deployed.cold("TokenRefreshFunction").invoke(event("token-refresh"))
        stack.nexi.faults.clear()
        assert (failed.result["errorType"], failed.result["errorMessage"]) == ("RefreshFailedError", "")
        own, lambdas = failed.lines
        assert (own["level"], own["code"]) == ("ERROR", "misconfigured")
        assert (lambdas["errorType"], lambdas["errorMessage"]) == ("RefreshFailedError", "")
        assert secrets.leaked(failed.text + failed.log) == []
