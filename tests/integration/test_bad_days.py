"""Nexi, the network, AWS and the clock fail, one at a time; what the phone gets.

The function's own handler runs here in the test's process, on a clock that the test moves, against the sandbox's Nexi
over real mutual TLS and the sandbox's AWS. Each test is a cold execution environment, unless it says otherwise.
"""

import contextlib
import json
import socket
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.exceptions
import pytest
from requests.adapters import HTTPAdapter

from functions.enrollment import app
from functions.token_refresh import app as refresh_app
from sandbox.local import OPERATOR, POINT_OF_SALE, SOFTPOS_TID, LocalStack
from softpos import aws, telemetry
from softpos.cache import CacheTable
from softpos.credentials import CredentialStore
from softpos.deadline import Deadline
from softpos.enrollment import service
from softpos.enrollment.budget import RenewalBudget
from softpos.enrollment.circuit import OPEN_AFTER_FAILURES, OPEN_SECONDS, Circuit
from softpos.enrollment.idempotency import Idempotency
from softpos.enrollment.limit import OperatorLimit
from softpos.enrollment.service import Enrollment
from softpos.nexi import session as nexi_session
from softpos.nexi.client import KEYS_STALE_SECONDS, Nexi
from softpos.settings import Settings
from softpos.terminals import TerminalRegistry

EVENTS = Path(__file__).parents[2] / "events"
EVENT = json.loads((EVENTS / "enrollment-created.json").read_text())


class Clock:
    """One wall clock for us and for Nexi, which a test moves."""

    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset

    def sleep(self, seconds: float) -> None:
        self.offset += seconds


class Phone:
    """One execution environment and the phone that it serves."""

    def __init__(self, stack: LocalStack, clock: Clock, monkeypatch: pytest.MonkeyPatch, **seams: Any) -> None:
        self._stack, self._monkeypatch = stack, monkeypatch
        environment = stack.template.functions()["EnrollmentFunction"].environment
        settings = Settings.from_environment(environment)
        dynamodb = seams.get("dynamodb") or stack.aws.client("dynamodb")
        secrets = seams.get("secrets") or stack.aws.client("secretsmanager")
        self.credentials = CredentialStore(
            secrets, settings.application_secret_id, settings.certificate_secret_id, clock
        )
        table = CacheTable(dynamodb, settings.cache_table, clock)
        self.nexi = Nexi(settings, self.credentials, table, clock)
        self.enrollment = Enrollment(
            TerminalRegistry(stack.aws.client("dynamodb"), settings.terminals_table),
            self.nexi,
            lambda: Idempotency(dynamodb, settings.cache_table, self.credentials, clock),
            OperatorLimit(table, self.credentials, 1_000_000, clock),
            RenewalBudget(table, self.credentials, clock),
            Circuit(clock),
            Circuit(clock),
            seams.get("sleep", clock.sleep),
        )
        self.seconds = seams.get("seconds", 11.0)

    def enroll(
        self, headers: dict[str, str] | None = None, device_id: str = "device", email: str = OPERATOR
    ) -> tuple[int, dict[str, Any], dict[str, str]]:
        """Status, body and headers of one POST /v1/enrollments."""
        event = json.loads(json.dumps(EVENT))
        event["headers"].update(headers or {})
        event["requestContext"]["authorizer"]["jwt"]["claims"]["email"] = email
        event["body"] = json.dumps({"device_id": device_id})
        self._monkeypatch.setattr("softpos.enrollment.service.enrollment", lambda: self.enrollment)
        ends = time.monotonic() + self.seconds
        context = SimpleNamespace(
            aws_request_id="invocation",
            get_remaining_time_in_millis=lambda: int((ends - time.monotonic()) * 1000),
        )
        answer = app.lambda_handler(event, context)
        return answer["statusCode"], json.loads(answer["body"]), answer["headers"]


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def running(clock: Clock) -> Iterator[LocalStack]:
    with LocalStack(now=clock) as stack:
        yield stack


@pytest.fixture
def stack(running: LocalStack, clock: Clock) -> Iterator[LocalStack]:
    """The sandbox on a good day, with nothing in the cache table."""
    dynamodb = running.aws.client("dynamodb")
    table = running.template.resolve({"Ref": "CacheTable"})
    for item in dynamodb.scan(TableName=table)["Items"]:
        dynamodb.delete_item(TableName=table, Key={"id": item["id"]})
    running.nexi.faults.clear()
    running.nexi.clock_offset = running.nexi.date_offset = 0.0
    running.nexi.calls.clear()
    running.nexi.counts.clear()
    yield running
    running.nexi.faults.clear()


@pytest.fixture
def environment(stack: LocalStack, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Phone]:
    """Starts another cold execution environment."""
    return lambda **seams: Phone(stack, clock, monkeypatch, **seams)


@pytest.fixture
def phone(environment: Callable[..., Phone]) -> Phone:
    return environment()


@pytest.fixture
def warm(phone: Phone, stack: LocalStack) -> Phone:
    """A phone whose environment has enrolled before; counting starts after that."""
    assert phone.enroll()[0] == 201
    stack.nexi.counts.clear()
    return phone


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is logged: the outcome's line and the metrics."""
    logged: list[dict[str, Any]] = []
    for level in ("info", "warning", "error"):
        monkeypatch.setattr(
            telemetry.logger,
            level,
            lambda message, extra, level=level: logged.append({"level": level, "message": message, **extra}),
        )
    monkeypatch.setattr(telemetry, "count", lambda metric: logged.append({"metric": metric}))
    monkeypatch.setattr(telemetry, "gauge", lambda metric, value: logged.append({"metric": metric, "value": value}))
    return logged


@pytest.fixture(autouse=True)
def quick_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    """A read that gets nothing is given up sooner than in production, so that these tests end sooner."""
    monkeypatch.setattr(nexi_session, "READ_SECONDS", 0.7)


@pytest.fixture(autouse=True)
def no_jti_twice(stack: LocalStack) -> Iterator[None]:
    """Whatever happens, no assertion is ever sent a second time, not even in a call that was never answered."""
    yield
    assert stack.nexi.counts["jti twice"] == 0


class TestConnections:
    @pytest.mark.parametrize("end", ["then-close", "then-reset", "then-half-open"], ids=["fin", "rst", "half-open"])
    def test_an_enrollment_after_a_broken_connection_succeeds_at_once(
        self, phone: Phone, stack: LocalStack, end: str
    ) -> None:
        stack.nexi.faults.add(f"par:{end}")
        assert phone.enroll()[0] == 201
        stack.nexi.counts.clear()
        assert phone.enroll()[0] == 201
        assert (stack.nexi.counts["connection"], stack.nexi.counts["call par"]) == (1, 1)

    def test_each_enrollment_has_a_connection_of_its_own_and_resumes_the_tls_session(
        self, warm: Phone, stack: LocalStack
    ) -> None:
        for _ in range(5):
            assert warm.enroll()[0] == 201
        assert (stack.nexi.counts["connection"], stack.nexi.counts["resumed"]) == (5, 5)


class TestRecovery:
    """A dozen cells of the matrix in unit/test_recovery.py, over real TLS and the sandbox's AWS."""

    @pytest.mark.parametrize("age", [5, 300])
    @pytest.mark.parametrize("cause", ["revoked token", "rotated keys", "both", "Date ahead", "Date behind", "clock"])
    def test_the_first_enrollment_of_each_environment_succeeds(
        self, environment: Callable[..., Phone], stack: LocalStack, clock: Clock, cause: str, age: int
    ) -> None:
        phones = [environment(), environment()]
        assert [each.enroll()[0] for each in phones] == [201, 201]
        clock.offset += age
        stack.nexi.counts.clear()
        if cause in ("revoked token", "both"):
            stack.nexi.revoke_tokens()
        if cause in ("rotated keys", "both"):
            stack.nexi.rotate_keys()
        stack.nexi.date_offset = {"Date ahead": 3600.0, "Date behind": -3600.0}.get(cause, 0.0)
        stack.nexi.clock_offset = -120.0 if cause == "clock" else 0.0
        assert [each.enroll()[0] for each in phones] == [201, 201]
        assert stack.nexi.counts["call token"] <= 1
        assert stack.nexi.counts["call keys"] <= 1

    def test_a_forbidden_operator_is_refused_and_pays_for_one_renewal(
        self, warm: Phone, stack: LocalStack, clock: Clock
    ) -> None:
        clock.offset += 60 - clock() % 60
        forbidden = "forbidden@example.com"
        for number in range(5):
            assert warm.enroll(email=assigned(stack, forbidden))[0] == 502
            assert warm.enroll()[0] == 201
            clock.offset += number
        assert (stack.nexi.counts["call token"], stack.nexi.counts["call keys"]) == (1, 1)

    def test_a_refusal_while_the_jwks_endpoint_fails_is_what_the_phone_hears_of(
        self, warm: Phone, stack: LocalStack, lines: list[dict[str, Any]]
    ) -> None:
        stack.nexi.faults.add("par:status=400*9,keys:status=503*9,token:status=503*9")
        status, body, _ = warm.enroll()
        assert (status, body["code"]) == (502, "nexi_rejected")
        outcome = next(line for line in lines if "renewal_failed" in line)
        assert outcome["renewal_failed"]["keys"].startswith("JWKS answered 503")

    def test_a_second_refusal_ends_it(self, warm: Phone, stack: LocalStack) -> None:
        stack.nexi.faults.add("par:revoke*9")
        status, body, _ = warm.enroll()
        assert (status, body["code"]) == (502, "nexi_rejected")
        assert stack.nexi.counts["call par"] <= 3


def assigned(stack: LocalStack, email: str) -> str:
    """Give an operator whom Nexi does not know a pair, and return the e-mail."""
    stack.aws.client("dynamodb").put_item(
        TableName=stack.template.resolve({"Ref": "TerminalsTable"}),
        Item={
            name: {"S": value}
            for name, value in {
                "pk": "operators",
                "sk": email,
                "operator": email,
                "point_of_sale": POINT_OF_SALE,
                "softpos_tid": SOFTPOS_TID,
            }.items()
        },
    )
    return email


PASSING_FAULTS = [
    *("status=500", "status=502", "status=503", "status=504", "status=408", "status=421", "status=425"),
    *("reset", "close", "stall", "truncated", "late"),
]


class TestOnceOrTwice:
    @pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
    @pytest.mark.parametrize("endpoint", ["token", "keys", "par"])
    @pytest.mark.parametrize("fault", PASSING_FAULTS)
    def test_it_succeeds_within_the_deadline(
        self, phone: Phone, stack: LocalStack, endpoint: str, fault: str, times: int
    ) -> None:
        stack.nexi.faults.add(f"{endpoint}:{fault}*{times}")
        assert phone.enroll()[0] == 201
        assert stack.nexi.counts[f"fault {fault.partition('=')[0]}"] == times

    @pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
    def test_connection_refused(self, phone: Phone, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        with socket.create_server(("127.0.0.1", 0)) as nobody:
            closed = nobody.getsockname()
        resolve, left = socket.getaddrinfo, [times]

        def lead_astray(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
            if not left[0] or port != nexi_port:
                return resolve(host, port, *args, **kwargs)
            left[0] -= 1
            return resolve("127.0.0.1", closed[1], *args, **kwargs)

        nexi_port = phone._stack.nexi.port
        monkeypatch.setattr(socket, "getaddrinfo", lead_astray)
        assert phone.enroll()[0] == 201
        assert left == [0]

    @pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
    def test_dns_failure(self, phone: Phone, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
        resolve, left = socket.getaddrinfo, [times]

        def fail(host: str, port: int, *args: Any, **kwargs: Any) -> Any:
            if not left[0] or port != phone._stack.nexi.port:
                return resolve(host, port, *args, **kwargs)
            left[0] -= 1
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

        monkeypatch.setattr(socket, "getaddrinfo", fail)
        assert phone.enroll()[0] == 201
        assert left == [0]


class TestForLonger:
    @pytest.mark.parametrize(
        ("fault", "status", "code"),
        [
            ("status=500", 503, "nexi_unavailable"),
            ("status=503", 503, "nexi_unavailable"),
            ("reset", 503, "nexi_unavailable"),
            ("html", 503, "nexi_unavailable"),
            ("stall", 504, "nexi_timeout"),
        ],
        ids=["500", "503", "reset", "html", "read-timeout"],
    )
    def test_the_phone_hears_when_to_try_again(
        self, phone: Phone, stack: LocalStack, fault: str, status: int, code: str
    ) -> None:
        stack.nexi.faults.add(f"any:{fault}*99")
        answered, body, headers = phone.enroll()
        assert (answered, body["code"]) == (status, code)
        assert int(headers["retry-after"]) > 0
        assert sum(count for name, count in stack.nexi.counts.items() if name.startswith("call")) <= 5

    def test_a_circuit_spares_nexi_until_a_probe_succeeds(self, phone: Phone, stack: LocalStack, clock: Clock) -> None:
        stack.nexi.faults.add("token:status=503*99")
        phone.enroll()
        assert stack.nexi.counts["call token"] <= OPEN_AFTER_FAILURES
        for _ in range(20):
            status, _, headers = phone.enroll()
            assert status == 503
            assert 0 < int(headers["retry-after"]) <= 10
        assert stack.nexi.counts["call token"] <= OPEN_AFTER_FAILURES

        clock.offset += OPEN_SECONDS
        spared = stack.nexi.counts["call token"]
        assert phone.enroll()[0] == 503
        assert stack.nexi.counts["call token"] == spared + 1  # the probe, which fails
        assert phone.enroll()[0] == 503
        assert stack.nexi.counts["call token"] == spared + 1

        stack.nexi.faults.clear()
        clock.offset += 2 * OPEN_SECONDS
        assert phone.enroll()[0] == 201
        assert phone.enroll()[0] == 201

    def test_one_operators_server_errors_leave_the_circuit_closed(self, warm: Phone, stack: LocalStack) -> None:
        for _ in range(3):
            stack.nexi.faults.add("par:status=500*5")
            assert warm.enroll()[0] == 503
            stack.nexi.faults.clear()
        assert warm.enroll()[0] == 201


class TestRetryAfter:
    @pytest.mark.parametrize("kind", ["busy", "throttle"], ids=["503", "429"])
    def test_within_the_deadline_it_is_waited_for(
        self, environment: Callable[..., Phone], stack: LocalStack, clock: Clock, kind: str
    ) -> None:
        slept: list[float] = []
        phone = environment(sleep=lambda seconds: (slept.append(seconds), clock.sleep(seconds)))
        stack.nexi.faults.add(f"par:{kind}=3")
        assert phone.enroll()[0] == 201
        assert len(slept) == 1
        assert slept[0] >= 3

    @pytest.mark.parametrize("kind", ["busy", "throttle"], ids=["503", "429"])
    def test_beyond_the_deadline_the_phone_gets_it(self, phone: Phone, stack: LocalStack, kind: str) -> None:
        stack.nexi.faults.add(f"par:{kind}=40")
        phone.seconds = 9.0
        status, body, headers = phone.enroll()
        assert (status, body["code"], headers["retry-after"]) == (503, "nexi_unavailable", "10")
        assert stack.nexi.counts["call par"] == 1


class TestOurOwnSlowness:
    def test_it_does_not_open_nexis_circuit(self, environment: Callable[..., Phone], stack: LocalStack) -> None:
        late = environment(seconds=1.0)
        for _ in range(OPEN_AFTER_FAILURES + 1):
            status, body, _ = late.enroll()
            assert (status, body["code"]) == (503, "backend_unavailable")
        late.seconds = 11.0
        assert late.enroll()[0] == 201

    def test_many_dead_addresses_do_not_outlast_the_deadline(
        self, environment: Callable[..., Phone], stack: LocalStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0), backlog=0) as full:
            address = full.getsockname()
            queue = [socket.socket() for _ in range(4)]
            for each in queue:  # until the kernel drops what comes: a connection that is never made
                each.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    each.connect(address)
            resolve = socket.getaddrinfo
            monkeypatch.setattr(
                socket,
                "getaddrinfo",
                lambda host, port, *args, **kwargs: (
                    [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address)] * 6
                    if port == stack.nexi.port
                    else resolve(host, port, *args, **kwargs)
                ),
            )
            phone = environment(seconds=3.0)
            began = time.monotonic()
            status, body, _ = phone.enroll()
            assert (status, body["code"]) == (504, "nexi_timeout")
            assert time.monotonic() - began < 3.0
            for each in queue:
                each.close()


class TestCachedCopies:
    def test_token_endpoint_down(self, warm: Phone, stack: LocalStack) -> None:
        stack.nexi.faults.add("token:status=503*99")
        assert warm.enroll()[0] == 201

    def test_jwks_endpoint_down_the_keys_serve_stale_for_a_day(
        self, warm: Phone, stack: LocalStack, clock: Clock, environment: Callable[..., Phone]
    ) -> None:
        clock.offset += KEYS_STALE_SECONDS - 3600
        stack.nexi.faults.add("keys:status=503*99")
        assert warm.enroll()[0] == 201
        assert environment().enroll()[0] == 201
        clock.offset += 3600
        status, body, _ = warm.enroll()
        assert (status, body["code"]) == (503, "nexi_unavailable")

    def test_a_jwks_without_a_key_is_an_endpoint_that_is_down(
        self, warm: Phone, stack: LocalStack, clock: Clock
    ) -> None:
        clock.offset += 4000
        stack.nexi.faults.add("keys:wrong-types*9")
        assert warm.enroll()[0] == 201

    def test_a_token_is_never_used_past_its_time(self, warm: Phone, stack: LocalStack, clock: Clock) -> None:
        clock.offset += 3600
        stack.nexi.faults.add("token:status=503*99")
        status, body, _ = warm.enroll()
        assert (status, body["code"]) == (503, "nexi_unavailable")
        assert stack.nexi.counts["call par"] == 0


class TestTokenLifetimes:
    @pytest.mark.parametrize(
        ("expires_in", "kept_for"),
        [(3600, 3500), ("3600", 3500), (60, 50), (10, 8), (10**9, 3500)],
        ids=["integer", "string", "short", "very-short", "absurd"],
    )
    def test_it_is_kept_for_most_of_its_life_and_no_longer(
        self, phone: Phone, stack: LocalStack, clock: Clock, expires_in: Any, kept_for: float
    ) -> None:
        stack.nexi.token_seconds = expires_in
        try:
            phone.enroll()
            clock.offset += kept_for
            assert phone.enroll()[0] == 201
            assert stack.nexi.counts["call token"] == 1
            clock.offset += min(float(expires_in), 3600.0) - kept_for
            assert phone.enroll()[0] == 201
            assert stack.nexi.counts["call token"] == 2
            assert stack.nexi.counts["reject token-expired"] == 0
        finally:
            stack.nexi.token_seconds = 3600

    @pytest.mark.parametrize("expires_in", [0, -5, "0", "soon", True, [], 1e300], ids=str)
    def test_one_whose_life_is_unreadable_is_kept_as_if_it_said_none(
        self, phone: Phone, stack: LocalStack, expires_in: Any
    ) -> None:
        stack.nexi.token_answer = {"expires_in": expires_in}
        try:
            assert [phone.enroll()[0], phone.enroll()[0]] == [201, 201]
        finally:
            stack.nexi.token_answer = {}
        assert stack.nexi.counts["call token"] == 1

    def test_one_whose_life_is_not_said_lives_the_hour_of_nexis_page(
        self, phone: Phone, stack: LocalStack, clock: Clock
    ) -> None:
        stack.nexi.token_answer = {"expires_in": None}
        try:
            assert phone.enroll()[0] == 201
            clock.offset += 3500
            assert phone.enroll()[0] == 201
        finally:
            stack.nexi.token_answer = {}
        assert stack.nexi.counts["call token"] == 1

    @pytest.mark.parametrize(
        "answer",
        [
            {"access_token": None, "accessToken": "sess!0123456789!abc"},
            {"access_token": "two words"},
            {"access_token": "aaaabbbbcccc:ddddeeeeffff\r\nX: y"},
        ],
        ids=["under-another-name", "with-a-space", "with-a-line-break"],
    )
    def test_one_that_is_of_no_use_is_not_quoted_in_the_log(
        self, phone: Phone, stack: LocalStack, lines: list[dict[str, Any]], answer: dict[str, Any]
    ) -> None:
        stack.nexi.token_answer = answer
        try:
            status, body, _ = phone.enroll()
        finally:
            stack.nexi.token_answer = {}
        assert (status, body["code"]) == (503, "nexi_unavailable")
        logged = json.dumps(lines)
        for part in ("sess!", "two words", "aaaabbbb", *(token[:12] for token in stack.nexi._state.tokens)):
            assert part not in logged


class TestStrangeAnswers:
    @pytest.mark.parametrize("endpoint", ["token", "keys", "par"])
    @pytest.mark.parametrize("fault", ["html", "empty", "truncated", "huge", "not-utf8", "wrong-types"])
    def test_once_it_does_not_matter(self, phone: Phone, stack: LocalStack, endpoint: str, fault: str) -> None:
        stack.nexi.faults.add(f"{endpoint}:{fault}")
        assert phone.enroll()[0] == 201
        assert stack.nexi.counts[f"fault {fault}"] == 1

    @pytest.mark.parametrize("endpoint", ["token", "keys", "par"])
    @pytest.mark.parametrize("fault", ["html", "empty", "truncated", "huge", "not-utf8", "wrong-types"])
    def test_for_longer_it_is_a_typed_problem(
        self, phone: Phone, stack: LocalStack, endpoint: str, fault: str, lines: list[dict[str, Any]]
    ) -> None:
        stack.nexi.faults.add(f"{endpoint}:{fault}*99")
        status, body, headers = phone.enroll()
        # A PAR without a request_uri is a refusal, whatever its status; half a body is a broken connection.
        refused = endpoint == "par" and fault != "truncated"
        assert (status, body["code"]) == ((502, "nexi_rejected") if refused else (503, "nexi_unavailable"))
        assert refused or int(headers["retry-after"]) > 0
        assert "frames" not in lines[-1]

    @pytest.mark.parametrize("endpoint", ["token", "keys", "par"])
    @pytest.mark.parametrize("fault", ["status-200", "unknown-members", "interim", "twice"])
    def test_what_does_no_harm_does_none(self, phone: Phone, stack: LocalStack, endpoint: str, fault: str) -> None:
        stack.nexi.faults.add(f"{endpoint}:{fault}")
        assert phone.enroll()[0] == 201
        assert stack.nexi.counts[f"call {endpoint}"] == 1

    def test_a_huge_answer_takes_no_memory(self, warm: Phone, stack: LocalStack) -> None:
        stack.nexi.faults.add("keys:huge=50")
        session = warm.nexi._link.session
        tracemalloc.start()
        try:
            answer = session.send("GET", f"{stack.nexi.base_url}/softpos/par/jwks.json", Deadline(10))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert len(answer.body) == nexi_session.MAX_BODY_BYTES
        assert peak < 1024 * 1024  # Nexi's own side, which runs in this process, included

    @pytest.mark.parametrize("endpoint", ["token", "keys", "par"])
    def test_a_byte_now_and_then_is_cut_at_the_deadline(
        self, environment: Callable[..., Phone], stack: LocalStack, endpoint: str
    ) -> None:
        stack.nexi.faults.add(f"{endpoint}:trickle=50*9")
        phone = environment(seconds=2.5)  # of which the last is for the answer
        began = time.monotonic()
        status, body, headers = phone.enroll()
        assert (status, body["code"]) == (504, "nexi_timeout")
        assert int(headers["retry-after"]) > 0
        assert time.monotonic() - began < 2.5


class TestClockAhead:
    @pytest.mark.parametrize("state", ["cold", "warm"])
    @pytest.mark.parametrize("seconds", [10, 120, 3600])
    def test_iat_follows_nexis_clock(
        self, phone: Phone, stack: LocalStack, lines: list[dict[str, Any]], state: str, seconds: int
    ) -> None:
        if state == "warm":
            phone.enroll()
        stack.nexi.clock_offset = -float(seconds)
        assert phone.enroll()[0] == 201
        outcome = lines[-1]
        assert outcome["level"] == "warning"
        assert outcome["clock_ahead_seconds"] == pytest.approx(seconds, abs=1)
        assert any(line.get("metric") == "ClockAhead" for line in lines)

    def test_and_goes_back_with_it(self, phone: Phone, stack: LocalStack) -> None:
        stack.nexi.clock_offset = -300.0
        assert phone.enroll()[0] == 201
        stack.nexi.clock_offset = 0.0
        stack.nexi.counts.clear()
        assert [phone.enroll()[0], phone.enroll()[0]] == [201, 201]
        assert 2 <= stack.nexi.counts["call par"] <= 3


class BrokenDynamoDb:
    """A DynamoDB that fails every call in one way."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __getattr__(self, operation: str) -> Any:
        def fail(**_: Any) -> Any:
            raise botocore.exceptions.ClientError({"Error": {"Code": self.code, "Message": "…"}}, operation)

        return fail


class FailingSecrets:
    """Secrets Manager, until it is told to fail."""

    def __init__(self, real: Any) -> None:
        self._real = real
        self.code: str | None = None

    def get_secret_value(self, **arguments: Any) -> Any:
        if self.code:
            raise botocore.exceptions.ClientError({"Error": {"Code": self.code, "Message": "…"}}, "GetSecretValue")
        return self._real.get_secret_value(**arguments)


class TestSecrets:
    @pytest.mark.parametrize(
        "code", ["ThrottlingException", "InternalServiceError", "AccessDeniedException", "ResourceNotFoundException"]
    )
    def test_what_is_in_memory_serves_on(
        self,
        environment: Callable[..., Phone],
        stack: LocalStack,
        clock: Clock,
        code: str,
        lines: list[dict[str, Any]],
    ) -> None:
        secrets = FailingSecrets(stack.aws.client("secretsmanager"))
        phone = environment(secrets=secrets)
        assert phone.enroll()[0] == 201
        secrets.code = code
        clock.offset += 301
        assert phone.enroll()[0] == 201
        assert lines[-1]["level"] == "warning"
        assert code in lines[-1]["secrets"]

    def test_a_new_version_is_taken_up_after_a_403(self, warm: Phone, stack: LocalStack, clock: Clock) -> None:
        renewed = stack.authority.developer("SANDBOX", key=stack.developer.key)  # type: ignore[arg-type] # it is RSA
        old, before = stack.app.certificates.copy(), stack.developer
        try:
            stack.app.certificates.clear()
            stack.app.register(renewed.certificate, renewed.thumbprint)
            self._store(stack, renewed)
            clock.offset += 10
            assert warm.enroll()[0] == 201
            assert stack.nexi.counts["reject certificate"] == 1
        finally:
            stack.app.certificates.update(old)
            self._store(stack, before)

    def test_a_new_version_is_taken_up_after_a_tls_alert(
        self, environment: Callable[..., Phone], stack: LocalStack, clock: Clock
    ) -> None:
        expired = stack.authority.developer(
            "SANDBOX",
            key=stack.developer.key,  # type: ignore[arg-type] # it is RSA
            not_before=datetime.now(UTC) - timedelta(days=2),
            lifetime=timedelta(days=1),
        )
        try:
            self._store(stack, expired)
            phone = environment()
            phone.credentials.get()
            self._store(stack, stack.developer)
            clock.offset += 10
            assert phone.enroll()[0] == 201
            assert stack.nexi.counts["handshake refused"] == 1
        finally:
            self._store(stack, stack.developer)

    def test_a_version_that_came_of_itself_meanwhile_is_used(
        self, warm: Phone, stack: LocalStack, clock: Clock
    ) -> None:
        renewed = stack.authority.developer("SANDBOX", key=stack.developer.key)  # type: ignore[arg-type] # it is RSA
        stack.app.register(renewed.certificate, renewed.thumbprint)
        send = nexi_session.MutualTlsSession.send

        def send_while_it_is_replaced(*args: Any, **kwargs: Any) -> Any:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(nexi_session.MutualTlsSession, "send", send)
                self._store(stack, renewed)
                clock.offset += 301
                warm.credentials.get()
            return send(*args, **kwargs)

        stack.nexi.faults.add("par:status=403")
        try:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(
                    nexi_session.MutualTlsSession,
                    "send",
                    lambda *args, **kwargs: (patch.undo(), send_while_it_is_replaced(*args, **kwargs))[1],
                )
                assert warm.enroll()[0] == 201
        finally:
            self._store(stack, stack.developer)

    @pytest.mark.parametrize("status", [400, 401, 403, 404, 422])
    def test_a_token_endpoint_that_refuses_without_a_new_version_is_misconfigured(
        self, phone: Phone, stack: LocalStack, status: int
    ) -> None:
        stack.nexi.faults.add(f"token:status={status}*9")
        answered, body, _ = phone.enroll()
        assert (answered, body["code"]) == (500, "misconfigured")
        assert stack.nexi.counts["call token"] == 1

    @staticmethod
    def _store(stack: LocalStack, issued: Any) -> None:
        stack.put_secret("CertificateSecretId", {"certificate": issued.certificate_pem, "private_key": issued.key_pem})


KEY = {"idempotency-key": "9d3c6b1e-0b1f-4c34-9b54-0d2b2f7c2f10"}


class TestCacheTable:
    @pytest.mark.parametrize("code", ["ProvisionedThroughputExceededException", "AccessDeniedException"])
    def test_without_it_the_enrollment_goes_on_and_a_metric_says_so(
        self,
        environment: Callable[..., Phone],
        stack: LocalStack,
        code: str,
        lines: list[dict[str, Any]],
    ) -> None:
        phone = environment(dynamodb=BrokenDynamoDb(code))
        assert [phone.enroll()[0], phone.enroll()[0]] == [201, 201]
        assert (stack.nexi.counts["call token"], stack.nexi.counts["call keys"]) == (1, 1)
        assert lines.count({"metric": "CacheTableFailed"}) == 1
        assert any(code in line.get("cache_table", "") for line in lines)

    def test_a_table_that_does_not_answer_costs_seconds_and_not_the_enrollment(
        self, environment: Callable[..., Phone], stack: LocalStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{silent.getsockname()[1]}")
            for name, value in stack.aws.environment.items():
                if name != "AWS_ENDPOINT_URL":
                    monkeypatch.setenv(name, value)
            aws._client.cache_clear()
            try:
                slow = aws.client("dynamodb", hasty=True)
            finally:
                aws._client.cache_clear()
            assert environment(dynamodb=slow).enroll()[0] == 201
            slow.close()


class TestTokenRefresh:
    def refresh(self, phone: Phone, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("softpos.enrollment.service.enrollment", lambda: phone.enrollment)
        event = json.loads((EVENTS / "token-refresh.json").read_text())
        context = SimpleNamespace(aws_request_id="invocation", get_remaining_time_in_millis=lambda: 15_000)
        assert refresh_app.lambda_handler(event, context) is None

    def test_it_fills_an_empty_cache_so_that_no_phone_calls_for_either(
        self, environment: Callable[..., Phone], stack: LocalStack, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.refresh(environment(), monkeypatch)
        stack.nexi.counts.clear()
        assert environment().enroll()[0] == 201
        assert (stack.nexi.counts["call token"], stack.nexi.counts["call keys"]) == (0, 0)

    def test_run_every_two_minutes_for_three_hours_no_phone_ever_waits(
        self,
        environment: Callable[..., Phone],
        stack: LocalStack,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        lines: list[dict[str, Any]],
    ) -> None:
        refresher, phone = environment(), environment()
        for _ in range(90):
            self.refresh(refresher, monkeypatch)
            before = stack.nexi.counts["call token"] + stack.nexi.counts["call keys"]
            clock.offset += 119
            assert phone.enroll()[0] == 201
            assert stack.nexi.counts["call token"] + stack.nexi.counts["call keys"] == before
            clock.offset += 1
        assert stack.nexi.counts["call token"] == 4
        assert stack.nexi.counts["reject token-expired"] == 0

    def test_one_run_that_fails_does_no_harm(
        self,
        environment: Callable[..., Phone],
        stack: LocalStack,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        lines: list[dict[str, Any]],
    ) -> None:
        refresher, phone = environment(), environment()
        self.refresh(refresher, monkeypatch)
        clock.offset += 3600 - 30 - service.REFRESH_BEFORE_SECONDS + 1
        stack.nexi.faults.add("token:status=503")
        with pytest.raises(refresh_app.RefreshFailedError):
            self.refresh(refresher, monkeypatch)
        assert lines[-1]["code"] == "nexi_unavailable"
        clock.offset += 120
        self.refresh(refresher, monkeypatch)
        stack.nexi.counts.clear()
        clock.offset += 119
        assert phone.enroll()[0] == 201
        assert stack.nexi.counts["call token"] == 0

    def test_while_the_jwks_endpoint_fails_the_run_fails_and_the_token_is_renewed_all_the_same(
        self,
        environment: Callable[..., Phone],
        stack: LocalStack,
        clock: Clock,
        monkeypatch: pytest.MonkeyPatch,
        lines: list[dict[str, Any]],
    ) -> None:
        refresher = environment()
        self.refresh(refresher, monkeypatch)
        clock.offset += 3500
        stack.nexi.counts.clear()
        stack.nexi.faults.add("keys:status=503*9")
        with pytest.raises(refresh_app.RefreshFailedError):
            self.refresh(refresher, monkeypatch)
        assert (stack.nexi.counts["call token"], stack.nexi.counts["call keys"]) == (1, 1)
        stack.nexi.faults.clear()
        stack.nexi.faults.add("token:status=503*9")
        clock.offset += 3500
        with pytest.raises(refresh_app.RefreshFailedError):
            self.refresh(refresher, monkeypatch)
        assert stack.nexi.counts["call keys"] == 2

    def test_it_runs_twice_before_anything_that_it_saw_lapse_soon_has_lapsed(self, stack: LocalStack) -> None:
        (schedule,) = (
            event["Properties"]["ScheduleExpression"]
            for event in stack.template.resources("AWS::Serverless::Function")["TokenRefreshFunction"][
                "Events"
            ].values()
        )
        minutes = int(schedule.removeprefix("rate(").removesuffix(" minutes)"))
        assert 2 * minutes * 60 == service.REFRESH_BEFORE_SECONDS

    def test_what_it_raises_shows_nothing_of_the_cause(
        self, environment: Callable[..., Phone], monkeypatch: pytest.MonkeyPatch, lines: list[dict[str, Any]]
    ) -> None:
        phone = environment()

        def refresh(*_: Any) -> None:
            raise ValueError("a secret")

        monkeypatch.setattr(phone.nexi, "refresh", refresh)
        with pytest.raises(refresh_app.RefreshFailedError) as raised:
            self.refresh(phone, monkeypatch)
        assert "a secret" not in "".join(traceback.format_exception(raised.value))
        assert "a secret" not in json.dumps(lines)


class TestTheWarmPath:
    def test_three_modules_stand_between_the_handler_and_requests(
        self, warm: Phone, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        modules: list[str] = []
        send = HTTPAdapter.send

        def seen(*args: Any, **kwargs: Any) -> Any:
            files = [Path(frame.filename).as_posix() for frame in traceback.extract_stack()]
            ours = [file.rpartition("/layers/softpos/softpos/")[2] for file in files if "/layers/softpos/" in file]
            modules.extend(dict.fromkeys(ours))
            return send(*args, **kwargs)

        monkeypatch.setattr(HTTPAdapter, "send", seen)
        assert warm.enroll()[0] == 201
        assert [each for each in modules if each != "deadline.py"] == [
            "enrollment/service.py",
            "nexi/client.py",
            "nexi/session.py",
        ]


class TestIdempotencyKey:
    def test_the_same_key_and_body_give_the_same_request_uri_with_what_is_left_of_it(
        self, phone: Phone, stack: LocalStack, clock: Clock
    ) -> None:
        _, first, _ = phone.enroll(KEY)
        clock.offset += 20
        status, second, _ = phone.enroll(KEY)
        assert status == 201
        assert second["request_uri"] == first["request_uri"]
        assert second["expires_at"] == first["expires_at"]
        assert 68 <= second["expires_in"] <= 70
        assert stack.nexi.counts["call par"] == 1

    def test_across_execution_environments_too(self, environment: Callable[..., Phone], stack: LocalStack) -> None:
        first, second = environment().enroll(KEY)[1], environment().enroll(KEY)[1]
        assert first["request_uri"] == second["request_uri"]
        assert stack.nexi.counts["call par"] == 1

    def test_the_same_key_with_another_body_is_refused(self, phone: Phone) -> None:
        phone.enroll(KEY)
        status, body, _ = phone.enroll(KEY, device_id="another")
        assert (status, body["code"]) == (422, "idempotency_key_reused")

    def test_while_the_first_is_in_flight_the_second_hears_when_to_ask(
        self, environment: Callable[..., Phone], stack: LocalStack, clock: Clock
    ) -> None:
        second, heard = environment(), []

        def ask_meanwhile(seconds: float) -> None:
            heard.append(second.enroll(KEY))
            clock.sleep(seconds)

        stack.nexi.faults.add("par:status=503")
        assert environment(sleep=ask_meanwhile).enroll(KEY)[0] == 201
        ((status, body, headers),) = heard
        assert (status, body["code"], headers["retry-after"]) == (409, "enrollment_in_progress", "1")

    def test_after_the_request_uris_life_it_is_a_new_enrollment(self, phone: Phone, clock: Clock) -> None:
        _, first, _ = phone.enroll(KEY)
        clock.offset += 91
        status, second, _ = phone.enroll(KEY)
        assert status == 201
        assert second["request_uri"] != first["request_uri"]
        assert second["expires_in"] == 90

    def test_a_failure_is_not_remembered(self, phone: Phone, stack: LocalStack) -> None:
        stack.nexi.faults.add("par:status=400*9")
        assert phone.enroll(KEY)[0] == 502
        stack.nexi.faults.clear()
        assert phone.enroll(KEY)[0] == 201

    def test_a_key_is_the_operators_own(self, phone: Phone, stack: LocalStack) -> None:
        stack.app.operators.add("another@example.com")
        stack.aws.client("dynamodb").put_item(
            TableName=stack.outputs["TerminalsTableName"],
            Item={
                "pk": {"S": "operators"},
                "sk": {"S": "another@example.com"},
                "operator": {"S": "another@example.com"},
                "point_of_sale": {"S": "00012345"},
                "softpos_tid": {"S": "30000001"},
            },
        )
        _, first, _ = phone.enroll(KEY)
        status, second, _ = phone.enroll(KEY, device_id="another", email="another@example.com")
        assert status == 201
        assert second["request_uri"] != first["request_uri"]

    @pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "ä"], ids=["empty", "256", "control", "not-ascii"])
    def test_a_key_that_is_none_is_named(self, phone: Phone, key: str) -> None:
        status, body, _ = phone.enroll({"idempotency-key": key})
        assert (status, body["code"], body["errors"][0]["member"]) == (400, "invalid_request", "Idempotency-Key")

    def test_the_table_shows_no_request_uri(self, phone: Phone, stack: LocalStack) -> None:
        _, made, _ = phone.enroll(KEY)
        table = stack.template.resolve({"Ref": "CacheTable"})
        stored = repr(stack.aws.client("dynamodb").scan(TableName=table)["Items"])
        assert "once" in stored
        assert made["request_uri"] not in stored
        assert OPERATOR not in stored

    def test_a_planted_request_uri_is_not_handed_out(self, phone: Phone, stack: LocalStack) -> None:
        _, first, _ = phone.enroll(KEY)
        dynamodb, table = stack.aws.client("dynamodb"), stack.template.resolve({"Ref": "CacheTable"})
        for item in dynamodb.scan(TableName=table)["Items"]:
            if item["id"]["S"].startswith("once"):
                planted = {"sealed": "cGxhbnRlZA=="}
                dynamodb.put_item(TableName=table, Item={**item, "data": {"S": json.dumps(planted)}})
        status, second, _ = phone.enroll(KEY)
        assert status == 201
        assert second["request_uri"] not in (first["request_uri"], "planted")

    def test_a_table_that_fails_costs_the_idempotency_alone(
        self, environment: Callable[..., Phone], lines: list[dict[str, Any]]
    ) -> None:
        assert environment(dynamodb=BrokenDynamoDb("InternalServerError")).enroll(KEY)[0] == 201
        assert any(line.get("metric") == "IdempotencyFailed" for line in lines)
