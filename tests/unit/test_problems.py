"""What the phone is told: the one table from codes to statuses, and the bodies around it."""

import base64
import json
from collections.abc import Iterator
from typing import Any

import pytest

from softpos import problems
from softpos.errors import (
    BackendUnavailableError,
    CredentialsRefusedError,
    EnrollmentInProgressError,
    IdempotencyKeyReusedError,
    InvalidRequestError,
    MalformedPairError,
    MisconfiguredError,
    NexiFailedError,
    NexiRejectedError,
    NexiTimeoutError,
    NexiUnavailableError,
    NoTerminalFreeError,
    OperatorHoldsTerminalError,
    OperatorUnknownError,
    OutOfTimeError,
    PairsRefusedError,
    PointOfSaleUnknownError,
    RegistryBusyError,
    SigningUnavailableError,
    SoftposError,
    TerminalHeldError,
    TerminalNotAssignedError,
    TerminalUnknownError,
    TooManyEnrollmentsError,
    UnansweredError,
)

DOCUMENTED = [
    pytest.param(InvalidRequestError({"device_id": "is missing"}), "invalid_request", 400, id="invalid_request"),
    pytest.param(OperatorUnknownError("s3cr3t"), "operator_unknown", 403, id="operator_unknown"),
    pytest.param(TerminalNotAssignedError("s3cr3t"), "terminal_not_assigned", 409, id="terminal_not_assigned"),
    pytest.param(PointOfSaleUnknownError("s3cr3t"), "point_of_sale_unknown", 403, id="point_of_sale_unknown"),
    pytest.param(NoTerminalFreeError("s3cr3t"), "no_terminal_free", 409, id="no_terminal_free"),
    pytest.param(TerminalUnknownError("s3cr3t"), "terminal_unknown", 404, id="terminal_unknown"),
    pytest.param(TerminalHeldError("s3cr3t"), "terminal_held", 409, id="terminal_held"),
    pytest.param(OperatorHoldsTerminalError("s3cr3t"), "operator_holds_terminal", 409, id="operator_holds_terminal"),
    pytest.param(PairsRefusedError({"line 2": "is wrong"}), "pairs_refused", 422, id="pairs_refused"),
    pytest.param(RegistryBusyError("s3cr3t"), "registry_busy", 503, id="registry_busy"),
    pytest.param(SigningUnavailableError("s3cr3t", "s3cr3t"), "signing_unavailable", 503, id="signing_unavailable"),
    pytest.param(TooManyEnrollmentsError("s3cr3t"), "too_many_enrollments", 429, id="too_many_enrollments"),
    pytest.param(IdempotencyKeyReusedError("s3cr3t"), "idempotency_key_reused", 422, id="idempotency_key_reused"),
    pytest.param(EnrollmentInProgressError("s3cr3t"), "enrollment_in_progress", 409, id="enrollment_in_progress"),
    pytest.param(CredentialsRefusedError("s3cr3t", "s3cr3t"), "misconfigured", 500, id="credentials-refused"),
    pytest.param(NexiRejectedError("s3cr3t", "s3cr3t"), "nexi_rejected", 502, id="nexi_rejected"),
    pytest.param(MisconfiguredError("s3cr3t", "s3cr3t"), "misconfigured", 500, id="misconfigured"),
    pytest.param(NexiUnavailableError("s3cr3t", "s3cr3t"), "nexi_unavailable", 503, id="nexi_unavailable"),
    pytest.param(NexiTimeoutError("s3cr3t", "s3cr3t"), "nexi_timeout", 504, id="nexi_timeout"),
    pytest.param(BackendUnavailableError("s3cr3t"), "backend_unavailable", 503, id="backend_unavailable"),
    pytest.param(OutOfTimeError("s3cr3t"), "backend_unavailable", 503, id="out-of-time"),
    pytest.param(UnansweredError("s3cr3t"), "nexi_unavailable", 503, id="unanswered"),
    pytest.param(MalformedPairError("s3cr3t"), "misconfigured", 500, id="malformed-pair"),
    pytest.param(NexiFailedError("s3cr3t"), "nexi_unavailable", 503, id="nexi-failed"),
    pytest.param(SoftposError("s3cr3t", "s3cr3t"), "internal_error", 500, id="internal_error"),
    pytest.param(RuntimeError("s3cr3t"), "internal_error", 500, id="anything-else"),
]


def family(error: type[SoftposError] = SoftposError) -> Iterator[type[SoftposError]]:
    yield error
    for each in error.__subclasses__():
        yield from family(each)


class TestTheTable:
    @pytest.mark.parametrize(("error", "code", "status"), DOCUMENTED)
    def test_every_code_has_its_documented_status(self, error: Exception, code: str, status: int) -> None:
        answer = problems.problem(error, "request-1")
        assert answer["statusCode"] == status
        assert json.loads(answer["body"])["status"] == status
        assert json.loads(answer["body"])["code"] == code

    def test_the_whole_family_is_in_it_and_nothing_else(self) -> None:
        """An error that it lacks would end the handler with a KeyError, and the phone with API Gateway's 500."""
        assert {each.code for each in family()} == set(problems._PROBLEMS)

    def test_the_whole_family_is_among_the_rows_above(self) -> None:
        assert {type(each.values[0]) for each in DOCUMENTED} >= {
            each for each in family() if each.__module__ == SoftposError.__module__
        }

    @pytest.mark.parametrize(("error", "code", "status"), DOCUMENTED)
    def test_only_where_trying_again_may_help_is_it_said_when(self, error: Exception, code: str, status: int) -> None:
        headers = problems.problem(error, "request-1")["headers"]
        again = {"nexi_unavailable", "nexi_timeout", "enrollment_in_progress", "registry_busy", "too_many_enrollments"}
        again |= {"signing_unavailable", "backend_unavailable"}
        assert ("retry-after" in headers) == (code in again)
        assert headers.get("retry-after", "5").isdigit()

    def test_an_error_may_say_itself_when_to_try_again(self) -> None:
        answer = problems.problem(NexiUnavailableError("busy", retry_after=17), "request-1")
        assert answer["headers"]["retry-after"] == "17"


class TestTheBody:
    @pytest.mark.parametrize(("error", "code", "status"), DOCUMENTED)
    def test_it_is_a_problem_of_rfc_9457(self, error: Exception, code: str, status: int) -> None:
        answer = problems.problem(error, "request-1")
        body = json.loads(answer["body"])
        assert set(body) - {"errors"} == {"type", "title", "detail", "status", "code", "request_id"}
        assert body["type"] == f"urn:softpos:problem:{code}"
        assert body["title"]
        assert body["detail"]
        assert body["request_id"] == "request-1"
        assert answer["headers"]["content-type"] == "application/problem+json"
        assert answer["headers"]["cache-control"] == "no-store"
        assert answer["isBase64Encoded"] is False

    @pytest.mark.parametrize(("error", "code", "status"), DOCUMENTED)
    def test_it_says_nothing_of_what_the_error_says(self, error: Exception, code: str, status: int) -> None:
        error.__cause__ = ValueError("s3cr3t")
        assert "s3cr3t" not in json.dumps(problems.problem(error, "request-1"))

    def test_an_invalid_request_is_told_member_by_member(self) -> None:
        error = InvalidRequestError({"device_id": "is missing", "color": "is not known here"})
        body = json.loads(problems.problem(error, "request-1")["body"])
        assert body["detail"] == "device_id is missing; color is not known here"
        assert body["errors"] == [
            {"member": "device_id", "detail": "is missing"},
            {"member": "color", "detail": "is not known here"},
        ]

    @pytest.mark.parametrize(
        ("error", "code", "status"), [row for row in DOCUMENTED if row.id not in ("invalid_request", "pairs_refused")]
    )
    def test_nothing_else_has_members(self, error: Exception, code: str, status: int) -> None:
        assert "errors" not in json.loads(problems.problem(error, "request-1")["body"])

    def test_a_response_is_json_that_nobody_stores(self) -> None:
        assert problems.response(201, {"città": "Milano"}) == {
            "statusCode": 201,
            "headers": {"content-type": "application/json", "cache-control": "no-store"},
            "body": '{"citt\\u00e0": "Milano"}',
            "isBase64Encoded": False,
        }


def base64_of(text: bytes) -> str:
    return base64.b64encode(text).decode()


class TestTheRequestsBody:
    @pytest.mark.parametrize(
        ("body", "is_base64", "value"),
        [
            pytest.param("{}", False, {}, id="an-empty-object"),
            pytest.param(' {"a": 1}\r\n', False, {"a": 1}, id="blanks-around-it"),
            pytest.param('{"a": "é"}', False, {"a": "é"}, id="beyond-ascii"),
            pytest.param(base64_of(b'{"a": 1}'), True, {"a": 1}, id="base64"),
            pytest.param(base64_of('{"a": "é"}'.encode()), True, {"a": "é"}, id="base64-beyond-ascii"),
        ],
    )
    def test_an_object_is_read(self, body: str, is_base64: bool, value: dict[str, Any]) -> None:
        assert problems.json_object({"body": body, "isBase64Encoded": is_base64}) == value

    @pytest.mark.parametrize(
        ("body", "is_base64", "found"),
        [
            pytest.param(None, False, "is missing", id="absent"),
            pytest.param("", False, "is missing", id="empty"),
            pytest.param("", True, "is missing", id="empty-base64"),
            pytest.param(" ", False, "is not JSON", id="blank"),
            pytest.param("device_id=1", False, "is not JSON", id="a-form"),
            pytest.param('{"a": 1', False, "is not JSON", id="cut-short"),
            pytest.param('{"a": 1} {}', False, "is not JSON", id="two-values"),
            pytest.param("{'a': 1}", False, "is not JSON", id="single-quotes"),
            pytest.param("\ufeff{}", False, "is not JSON", id="byte-order-mark"),
            pytest.param("[" * 100_000, False, "is not JSON", id="nested-too-deeply"),
            pytest.param("9" * 5000, False, "is not JSON", id="a-number-too-long-for-python"),
            pytest.param("%%%", True, "is not text in UTF-8", id="not-base64"),
            pytest.param("é", True, "is not text in UTF-8", id="not-base64-nor-ascii"),
            pytest.param("e3%0=", True, "is not text in UTF-8", id="base64-with-a-foreign-sign"),
            pytest.param("e30", True, "is not text in UTF-8", id="base64-without-padding"),
            pytest.param(base64_of(b"\xff\xfe"), True, "is not text in UTF-8", id="base64-of-no-text"),
            pytest.param("[]", False, "is not a JSON object", id="an-array"),
            pytest.param('"a"', False, "is not a JSON object", id="a-string"),
            pytest.param("1", False, "is not a JSON object", id="a-number"),
            pytest.param("null", False, "is not a JSON object", id="null"),
            pytest.param(base64_of(b"[]"), True, "is not a JSON object", id="base64-of-an-array"),
        ],
    )
    def test_what_is_no_object_is_refused(self, body: str | None, is_base64: bool, found: str) -> None:
        with pytest.raises(InvalidRequestError) as caught:
            problems.json_object({"body": body, "isBase64Encoded": is_base64})
        assert caught.value.members == {"body": found}
