"""The handler of POST /v1/enrollments, on the events in events/: the same files are there for `sam local invoke`."""

import base64
import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import handlers
import pytest
from handlers import EVENTS, OPERATOR, Context, Event, invoke, load_event, load_function
from unit_support import Lines

from softpos import telemetry
from softpos.deadline import Deadline
from softpos.errors import (
    InvalidRequestError,
    MisconfiguredError,
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    OperatorUnknownError,
    SoftposError,
    TerminalNotAssignedError,
)
from softpos.nexi.client import PushedAuthorization

DEVICE_ID = "c0ffee5d-8f1b-4a53-9f1e-2f6f0a7c1d10"
WITHOUT_TERMINAL = "nessun.terminale@example.com"
REQUEST_URI = "urn:softpos_a86dd649-3a0d-4c0c-ad9e-c0aa58058d18"


def load(name: str) -> Event:
    return load_event(f"enrollment-{name}")


def with_body(body: Any) -> Event:
    return handlers.with_body(load("created"), body)


@dataclass
class FakeEnrollment:
    """Enrolls everyone but the operator without a terminal, or fails as it is told to."""

    failure: Exception | None = None
    enrolled: list[tuple[str, str]] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def enroll(
        self, email: str, device_id: str, deadline: Deadline, idempotency_key: str | None = None
    ) -> PushedAuthorization:
        self.seconds.append(deadline.remaining())
        if self.failure is not None:
            raise self.failure
        if email == WITHOUT_TERMINAL:
            raise TerminalNotAssignedError("the operator holds no terminal")
        telemetry.note(jti="jti-of-the-fake")
        self.enrolled.append((email, device_id))
        return PushedAuthorization(REQUEST_URI, expires_in=90, expires_at=1_773_342_270)


@pytest.fixture(scope="module")
def function() -> ModuleType:
    return load_function("enrollment")


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> FakeEnrollment:
    fake = FakeEnrollment()
    monkeypatch.setattr("softpos.enrollment.service.enrollment", lambda: fake)
    return fake


@pytest.fixture
def handle(function: ModuleType, service: FakeEnrollment) -> Any:
    return partial(invoke, function)


class TestAnEnrollment:
    def test_it_is_answered_with_the_request_uri_and_its_end(self, handle: Any) -> None:
        answer = handle(load("created"))
        assert answer["statusCode"] == 201
        assert json.loads(answer["body"]) == {
            "request_uri": REQUEST_URI,
            "expires_in": 90,
            "expires_at": "2026-03-12T19:04:30Z",
        }

    def test_nobody_stores_the_answer(self, handle: Any) -> None:
        assert handle(load("created"))["headers"] == {"content-type": "application/json", "cache-control": "no-store"}

    def test_it_is_for_the_tokens_operator_and_the_bodys_device(self, handle: Any, service: FakeEnrollment) -> None:
        handle(load("created"))
        assert service.enrolled == [(OPERATOR, DEVICE_ID)]

    def test_a_body_in_base64_is_read(self, handle: Any, service: FakeEnrollment) -> None:
        """API Gateway encodes what has no content type of text."""
        assert handle(load("created-from-base64"))["statusCode"] == 201
        assert service.enrolled == [(OPERATOR, DEVICE_ID)]

    @pytest.mark.parametrize(
        "device_id",
        [
            pytest.param("x", id="one-character"),
            pytest.param("é" * 128, id="128-characters-beyond-ascii"),
            pytest.param("a b/c+d=e", id="blanks-and-signs"),
            pytest.param("設備😀", id="beyond-the-basic-plane"),
        ],
    )
    def test_any_printable_device_id_is_handed_on_to_the_letter(
        self, handle: Any, service: FakeEnrollment, device_id: str
    ) -> None:
        assert handle(with_body({"device_id": device_id}))["statusCode"] == 201
        assert service.enrolled == [(OPERATOR, device_id)]

    def test_128_characters_are_not_too_many(self, handle: Any, service: FakeEnrollment) -> None:
        assert handle(load("created-device-id-128-characters"))["statusCode"] == 201
        assert service.enrolled == [(OPERATOR, "d" * 128)]

    def test_its_line_names_request_and_invocation_and_no_secret(self, handle: Any, lines: Lines) -> None:
        handle(load("created"))
        line = lines.only()
        assert (line["level"], line["message"]) == ("INFO", "enrollment pushed")
        assert line["request_id"] == load("created")["requestContext"]["requestId"]
        assert line["invocation"] == "0c1d2e3f-invocation"
        assert REQUEST_URI not in lines.text
        assert "THE-ID-TOKEN" not in lines.text

    def test_two_invocations_write_two_lines_that_share_nothing(self, handle: Any, lines: Lines) -> None:
        handle(load("created"))
        other = load("device-id-missing")
        other["requestContext"]["requestId"] = "another="
        handle(other, Context(aws_request_id="another-invocation"))
        first, second = lines.all()
        assert first["jti"] == "jti-of-the-fake"
        assert "jti" not in second
        assert not {"code", "causes", "remedy"} & set(first)
        assert (second["request_id"], second["invocation"]) == ("another=", "another-invocation")


class TestTheDeadline:
    @pytest.mark.parametrize(
        ("remaining", "seconds"),
        [
            pytest.param(14_900, 10.0, id="its-own-when-lambda-has-more"),
            pytest.param(6_000, 5.0, id="lambdas-less-a-second-to-answer-in"),
            pytest.param(400, 0.0, id="passed-already"),
        ],
    )
    def test_it_ends_before_lambda_does(
        self, handle: Any, service: FakeEnrollment, remaining: int, seconds: float
    ) -> None:
        handle(load("created"), Context(remaining=remaining))
        assert service.seconds == [pytest.approx(seconds, abs=0.5)]


INVALID = [
    pytest.param(load("body-absent"), {"body": "is missing"}, id="body-absent"),
    pytest.param(load("body-not-json"), {"body": "is not JSON"}, id="body-not-json"),
    pytest.param(load("body-not-base64"), {"body": "is not text in UTF-8"}, id="body-not-base64"),
    pytest.param(load("body-not-an-object"), {"body": "is not a JSON object"}, id="body-an-array"),
    pytest.param(with_body('"c0ffee"'), {"body": "is not a JSON object"}, id="body-a-string"),
    pytest.param(with_body("null"), {"body": "is not a JSON object"}, id="body-null"),
    pytest.param(with_body(""), {"body": "is missing"}, id="body-empty"),
    pytest.param({**load("created"), "body": None}, {"body": "is missing"}, id="body-none"),
    pytest.param(load("device-id-missing"), {"device_id": "is missing"}, id="device-id-missing"),
    pytest.param(load("device-id-not-a-string"), {"device_id": "is not a string"}, id="device-id-a-number"),
    pytest.param(with_body({"device_id": None}), {"device_id": "is not a string"}, id="device-id-null"),
    pytest.param(with_body({"device_id": ["x"]}), {"device_id": "is not a string"}, id="device-id-a-list"),
    pytest.param(with_body({"device_id": True}), {"device_id": "is not a string"}, id="device-id-a-boolean"),
    pytest.param(load("device-id-empty"), {"device_id": "is empty"}, id="device-id-empty"),
    pytest.param(
        load("device-id-too-long"), {"device_id": "is longer than 128 characters"}, id="device-id-of-129-characters"
    ),
    pytest.param(
        load("device-id-with-control-characters"),
        {"device_id": "holds control characters"},
        id="device-id-with-line-break",
    ),
    *(
        pytest.param(
            with_body({"device_id": f"a{character}b"}),
            {"device_id": "holds control characters"},
            id=f"device-id-with-u{ord(character):04x}",
        )
        for character in "\x00\x1f\x7f\x9f\ud800"
    ),
    pytest.param(
        load("members-unknown"),
        {"redirect_uri": "is not known here", "terminal_id": "is not known here"},
        id="members-unknown",
    ),
    pytest.param(
        with_body({"device_id": "x", "": 1, "Device_Id": "y"}),
        {"": "is not known here", "Device_Id": "is not known here"},
        id="members-almost-known",
    ),
    pytest.param(
        load("several-wrong"),
        {"device_id": "is empty", "redirect_uri": "is not known here"},
        id="several-wrong-each-named",
    ),
    pytest.param(
        with_body({"deviceId": "x"}),
        {"deviceId": "is not known here", "device_id": "is missing"},
        id="device-id-misspelt",
    ),
]


class TestAnInvalidRequest:
    @pytest.mark.parametrize(("event", "wrong"), INVALID)
    def test_it_is_told_what_is_wrong(
        self, handle: Any, service: FakeEnrollment, lines: Lines, event: Event, wrong: dict[str, str]
    ) -> None:
        answer = handle(event)
        body = json.loads(answer["body"])
        assert (answer["statusCode"], body["code"]) == (400, "invalid_request")
        assert {each["member"]: each["detail"] for each in body["errors"]} == wrong
        assert len(body["errors"]) == len(wrong)
        assert body["request_id"] == event["requestContext"]["requestId"]
        assert answer["headers"]["content-type"] == "application/problem+json"
        assert service.enrolled == []
        assert lines.only()["level"] == "WARNING"

    def test_a_member_of_a_name_beyond_unicode_is_logged_too(self, handle: Any, lines: Lines) -> None:
        answer = handle(with_body('{"device_id": "x", "\\ud800": 1}'))
        assert answer["statusCode"] == 400
        assert lines.only()["code"] == "invalid_request"

    def test_values_are_repeated_to_nobody(self, handle: Any, lines: Lines) -> None:
        answer = handle(with_body({"device_id": "\x00s3cr3t", "password": "s3cr3t"}))
        assert "s3cr3t" not in answer["body"] + lines.text

    def test_a_name_is_cut_before_it_fills_the_log(self, handle: Any, lines: Lines) -> None:
        answer = handle(with_body({"device_id": "x", "n" * 100_000: 1}))
        assert len(answer["body"]) < 1_000
        assert len(lines.text) < 2_000

    @pytest.mark.parametrize("device_id", ["x" * 100_000, "\x00" * 100_000, "é" * 129])
    def test_a_long_device_id_is_not_repeated(self, handle: Any, device_id: str) -> None:
        answer = handle(with_body({"device_id": device_id}))
        assert answer["statusCode"] == 400
        assert len(answer["body"]) < 1_000


class TestTheOperator:
    @pytest.mark.parametrize("name", ["access-token-without-email", "email-not-verified"])
    def test_one_that_the_token_does_not_name_is_unknown(self, handle: Any, service: FakeEnrollment, name: str) -> None:
        answer = handle(load(name))
        assert answer["statusCode"] == 403
        assert json.loads(answer["body"])["code"] == "operator_unknown"
        assert service.enrolled == []

    def test_one_without_a_terminal_is_told_so(self, handle: Any, lines: Lines) -> None:
        answer = handle(load("operator-without-terminal"))
        assert answer["statusCode"] == 409
        assert json.loads(answer["body"])["code"] == "terminal_not_assigned"
        assert lines.only()["level"] == "WARNING"

    def test_nobody_enrolls_without_the_authorizer(self, handle: Any, service: FakeEnrollment) -> None:
        """A route that someone deploys without it must not be open."""
        event = load("created")
        del event["requestContext"]["authorizer"]
        assert handle(event)["statusCode"] == 500
        assert service.enrolled == []


class TestAFailure:
    @pytest.mark.parametrize(
        ("failure", "status", "code"),
        [
            (InvalidRequestError({"device_id": "is refused"}), 400, "invalid_request"),
            (OperatorUnknownError("s3cr3t"), 403, "operator_unknown"),
            (TerminalNotAssignedError("s3cr3t"), 409, "terminal_not_assigned"),
            (NexiRejectedError("s3cr3t"), 502, "nexi_rejected"),
            (MisconfiguredError("s3cr3t"), 500, "misconfigured"),
            (NexiUnavailableError("s3cr3t"), 503, "nexi_unavailable"),
            (NexiTimeoutError("s3cr3t"), 504, "nexi_timeout"),
            (SoftposError("s3cr3t"), 500, "internal_error"),
            (KeyError("s3cr3t"), 500, "internal_error"),
            (RecursionError("s3cr3t"), 500, "internal_error"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
    )
    def test_each_has_its_status_and_code(
        self, handle: Any, service: FakeEnrollment, lines: Lines, failure: Exception, status: int, code: str
    ) -> None:
        service.failure = failure
        answer = handle(load("created"))
        assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (status, code)
        assert "s3cr3t" not in json.dumps(answer)
        assert lines.only()["code"] == code

    def test_an_unexpected_one_leaves_its_chain_in_the_log_and_not_its_words(
        self, handle: Any, service: FakeEnrollment, lines: Lines
    ) -> None:
        service.failure = RuntimeError("s3cr3t")
        service.failure.__cause__ = ValueError("s3cr3t")
        handle(load("created"))
        line = lines.only()
        assert [cause.split()[0] for cause in line["causes"]] == ["RuntimeError", "ValueError"]
        assert line["frames"][-1].endswith(" enroll")
        assert "s3cr3t" not in lines.text

    def test_one_while_the_service_is_built_is_answered_too(
        self, handle: Any, lines: Lines, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unbuildable() -> None:
            raise MisconfiguredError("environment variable STAGE is not set", "set it")

        monkeypatch.setattr("softpos.enrollment.service.enrollment", unbuildable)
        answer = handle(load("created"))
        assert (answer["statusCode"], json.loads(answer["body"])["code"]) == (500, "misconfigured")
        assert "STAGE" not in answer["body"]
        assert lines.only()["remedy"] == "set it"


FILES = sorted(EVENTS.glob("enrollment-*.json"))


class TestTheEventFiles:
    """They stand for what API Gateway sends, so they must look like it."""

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_an_http_api_event_behind_the_authorizer(self, file: Path) -> None:
        event = json.loads(file.read_text())
        created = load("created")
        assert set(created) - {"body"} <= set(event) <= set(created)
        assert set(event["requestContext"]) == set(created["requestContext"])
        assert event["version"] == "2.0"
        assert event["routeKey"] == event["requestContext"]["routeKey"] == "POST /v1/enrollments"
        claims = event["requestContext"]["authorizer"]["jwt"]["claims"]
        assert claims["sub"]
        # API Gateway hands over every claim as text.
        assert {type(value) for value in claims.values()} == {str}

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_says_how_long_its_body_is(self, file: Path) -> None:
        event = json.loads(file.read_text())
        body = event.get("body") or ""
        if event["isBase64Encoded"] and "not-base64" not in file.stem:
            body = base64.b64decode(body, validate=True).decode()
        assert event["headers"]["content-length"] == str(len(body.encode()))

    @pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
    def test_each_is_used_here(self, file: Path) -> None:
        name = file.stem.removeprefix("enrollment-")
        assert f'"{name}"' in Path(__file__).read_text()
