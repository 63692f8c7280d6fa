"""The handler of GET /v1/app-configuration, on the events in events/: they are there for `sam local invoke`, too."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from handlers import (
    EVENTS,
    INVOCATION,
    OPERATOR,
    Context,
    Event,
    assert_like_api_gateways,
    invoke,
    load_event,
    load_function,
    problem_of,
    told,
    with_body,
    without_authorizer,
)
from unit_support import Lines

from softpos import app_configuration, operators, telemetry
from softpos.app_configuration import AppConfiguration
from softpos.errors import (
    MisconfiguredError,
    NoTerminalFreeError,
    PointOfSaleUnknownError,
    RegistryBusyError,
    SoftposError,
    TerminalNotAssignedError,
)

WITHOUT_TERMINAL = "nessun.terminale@example.com"

Handle = Callable[..., dict[str, Any]]


def load(name: str) -> Event:
    return load_event(f"app-configuration-{name}")


@dataclass
class FakeConfigurations:
    """Gives a configuration to everyone but the operator without a terminal, or fails as it is told to."""

    failure: Exception | None = None
    mpos_tid: str | None = "40000001"
    obtained: list[str] = field(default_factory=list)

    def obtain(self, claims: Mapping[str, Any]) -> AppConfiguration:
        email = operators.email_of(claims)
        if self.failure is not None:
            raise self.failure
        if email == WITHOUT_TERMINAL:
            raise TerminalNotAssignedError("the operator holds no terminal")
        telemetry.note(point_of_sale="00012345")
        self.obtained.append(email)
        redirect_uri = "https://merchant.example/softpos"
        return AppConfiguration("app-1", "STAGING", redirect_uri, "00012345", "30000001", self.mpos_tid, email)


@pytest.fixture(scope="module")
def function() -> ModuleType:
    return load_function("app_configuration")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeConfigurations:
    fake = FakeConfigurations()
    monkeypatch.setattr(app_configuration, "service", lambda: fake)
    return fake


@pytest.fixture
def handle(function: ModuleType, service: FakeConfigurations) -> Handle:
    return lambda event, context=None: invoke(function, event, context)


class TestAConfiguration:
    def test_it_is_all_that_the_sdk_is_built_from_and_nothing_else(self, handle: Handle) -> None:
        answer = handle(load("obtained"))
        assert answer["statusCode"] == 200
        assert answer["body"] == (
            '{"app_id": "app-1", "environment": "STAGING", "redirect_uri": "https://merchant.example/softpos", '
            '"point_of_sale": "00012345", "softpos_tid": "30000001", "mpos_tid": "40000001", '
            '"operator": "mario.rossi@example.com"}'
        )

    def test_a_tid_that_the_pair_lacks_is_null(self, handle: Handle, service: FakeConfigurations) -> None:
        service.mpos_tid = None
        assert json.loads(handle(load("obtained"))["body"])["mpos_tid"] is None

    def test_nobody_stores_it(self, handle: Handle) -> None:
        """A release takes effect at once."""
        assert handle(load("obtained"))["headers"] == {"content-type": "application/json", "cache-control": "no-store"}

    def test_it_is_for_the_tokens_operator(self, handle: Handle, service: FakeConfigurations) -> None:
        handle(load("obtained"))
        handle(load("assigned-on-first-use"))
        assert service.obtained == [OPERATOR, "anna.bianchi@example.com"]

    def test_the_claim_of_the_point_of_sale_goes_with_the_rest(
        self, handle: Handle, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        class Told(FakeConfigurations):
            def obtain(self, claims: Mapping[str, Any]) -> AppConfiguration:
                assert claims["custom:point_of_sale"] == "00012345"
                return super().obtain(claims)

        monkeypatch.setattr(app_configuration, "service", Told)
        assert handle(load("assigned-on-first-use"))["statusCode"] == 200

    def test_its_line_names_request_and_invocation_and_nobody(self, handle: Handle, lines: Lines) -> None:
        handle(load("obtained"))
        line = lines.only()
        assert (line["level"], line["message"]) == ("INFO", "app configuration given")
        assert (line["request_id"], line["invocation"]) == ("aB3dEfGhIjKLmnO=", INVOCATION)
        assert line["point_of_sale"] == "00012345"
        assert "THE-ID-TOKEN" not in lines.text
        assert "@" not in lines.text

    def test_two_invocations_write_two_lines_that_share_nothing(self, handle: Handle, lines: Lines) -> None:
        handle(load("obtained"))
        other = load("email-not-verified")
        other["requestContext"]["requestId"] = "another="
        handle(other, Context(aws_request_id="another-invocation"))
        first, second = lines.all()
        assert not {"code", "causes", "remedy"} & set(first)
        assert "point_of_sale" not in second
        assert (second["request_id"], second["invocation"]) == ("another=", "another-invocation")


class TestTheOperator:
    @pytest.mark.parametrize("name", ["access-token-without-email", "email-not-verified"])
    def test_one_that_the_token_does_not_name_is_unknown(
        self, handle: Handle, service: FakeConfigurations, lines: Lines, name: str
    ) -> None:
        assert told(handle(load(name))) == (403, "operator_unknown")
        assert service.obtained == []
        assert lines.only()["level"] == "WARNING"

    def test_one_without_a_terminal_is_told_so(self, handle: Handle, lines: Lines) -> None:
        assert problem_of(handle(load("operator-without-terminal"))) == {
            "type": "urn:softpos:problem:terminal_not_assigned",
            "title": "No terminal is assigned",
            "status": 409,
            "detail": "The operator holds no terminal. Have one assigned.",
            "code": "terminal_not_assigned",
            "request_id": "aB3dEfGhIjKLmnO=",
        }
        assert lines.only()["level"] == "WARNING"
        assert WITHOUT_TERMINAL not in lines.text

    @pytest.mark.parametrize(
        "elsewhere",
        [
            pytest.param(with_body(load("obtained"), {"operator": "anna@example.com"}), id="in-a-body"),
            pytest.param(
                {**load("obtained"), "queryStringParameters": {"operator": "anna@example.com"}}, id="in-the-query"
            ),
            pytest.param({**load("obtained"), "pathParameters": {"operator": "anna@example.com"}}, id="in-the-path"),
            pytest.param(
                {**load("obtained"), "headers": {"x-operator": "anna@example.com", "from": "anna@example.com"}},
                id="in-a-header",
            ),
        ],
    )
    def test_one_that_is_named_elsewhere_decides_nothing(
        self, handle: Handle, service: FakeConfigurations, elsewhere: Event
    ) -> None:
        assert json.loads(handle(elsewhere)["body"])["operator"] == OPERATOR
        assert service.obtained == [OPERATOR]

    @pytest.mark.parametrize(
        "open_to_all",
        [
            pytest.param(without_authorizer(load("obtained")), id="no-authorizer"),
            pytest.param(
                {**load("obtained"), "requestContext": {**load("obtained")["requestContext"], "authorizer": None}},
                id="authorizer-null",
            ),
            pytest.param(
                {
                    **load("obtained"),
                    "requestContext": {
                        **load("obtained")["requestContext"],
                        "authorizer": {"iam": {"userArn": "arn:aws:iam::123456789012:user/someone"}},
                    },
                },
                id="another-authorizer",
            ),
        ],
    )
    def test_nobody_gets_anything_without_the_authorizer(
        self, handle: Handle, service: FakeConfigurations, lines: Lines, open_to_all: Event
    ) -> None:
        """A route that someone deploys without it must not be open."""
        assert told(handle(open_to_all)) == (500, "internal_error")
        assert service.obtained == []
        assert lines.only()["level"] == "ERROR"


class TestAFailure:
    @pytest.mark.parametrize(
        ("failure", "status", "code", "level"),
        [
            pytest.param(PointOfSaleUnknownError("s3cr3t"), 403, "point_of_sale_unknown", "WARNING", id="no-claim"),
            pytest.param(NoTerminalFreeError("s3cr3t"), 409, "no_terminal_free", "WARNING", id="none-free"),
            pytest.param(RegistryBusyError("s3cr3t"), 503, "registry_busy", "ERROR", id="busy"),
            pytest.param(MisconfiguredError("s3cr3t", "s3cr3t"), 500, "misconfigured", "ERROR", id="misconfigured"),
            pytest.param(SoftposError("s3cr3t"), 500, "internal_error", "ERROR", id="dynamodb-failed"),
            pytest.param(KeyError("s3cr3t"), 500, "internal_error", "ERROR", id="unexpected"),
        ],
    )
    def test_each_has_its_status_and_code(
        self,
        handle: Handle,
        service: FakeConfigurations,
        lines: Lines,
        failure: Exception,
        status: int,
        code: str,
        level: str,
    ) -> None:
        service.failure = failure
        answer = handle(load("obtained"))
        assert told(answer) == (status, code)
        assert "s3cr3t" not in json.dumps(answer)
        assert ("retry-after" in answer["headers"]) == (status == 503)
        assert (lines.only()["code"], lines.only()["level"]) == (code, level)

    def test_one_while_the_service_is_built_is_answered_too(
        self, handle: Handle, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unbuildable() -> None:
            raise MisconfiguredError("environment variable STAGE is not set", "set it")

        monkeypatch.setattr(app_configuration, "service", unbuildable)
        answer = handle(load("obtained"))
        assert told(answer) == (500, "misconfigured")
        assert "STAGE" not in answer["body"]
        assert lines.only()["remedy"] == "set it"


FILES = sorted(EVENTS.glob("app-configuration-*.json"))


class TestTheEventFiles:
    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_an_http_api_event_behind_the_jwt_authorizer(self, file: Path) -> None:
        event = load_event(file.stem)
        assert_like_api_gateways(event)
        assert event["routeKey"] == "GET /v1/app-configuration"
        assert set(event["requestContext"]["authorizer"]) == {"jwt"}

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_used_here(self, file: Path) -> None:
        assert f'"{file.stem.removeprefix("app-configuration-")}"' in Path(__file__).read_text()
