import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar

import pytest
from unit_support import Clock

from softpos import aws
from softpos.deadline import Deadline, bounded, within_deadline
from softpos.errors import OutOfTimeError


@pytest.mark.parametrize(
    ("passed", "remaining"),
    [
        pytest.param(0.0, 10.0, id="at-the-start"),
        pytest.param(2.5, 7.5, id="on-the-way"),
        pytest.param(10.0, 0.0, id="at-the-deadline"),
        pytest.param(60.0, 0.0, id="past-it"),
    ],
)
def test_what_remains_shrinks_and_is_never_negative(passed: float, remaining: float) -> None:
    clock = Clock(1000.0)
    deadline = Deadline(10.0, clock)
    clock.now += passed
    assert deadline.remaining() == remaining


@pytest.mark.parametrize("seconds", [0.0, -0.5])
def test_a_deadline_that_starts_too_late_has_passed(seconds: float) -> None:
    """Lambda may have less time left than what is kept back for the answer."""
    assert Deadline(seconds, Clock(1000.0)).remaining() == 0.0


def test_a_step_of_the_wall_clock_does_not_move_it(monkeypatch: pytest.MonkeyPatch) -> None:
    deadline = Deadline(10.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert 9.0 < deadline.remaining() <= 10.0


class TestWithinDeadline:
    @pytest.fixture
    def forever(self) -> Iterator[threading.Event]:
        """An event to wait for that does not come before the test is over."""
        event = threading.Event()
        yield event
        event.set()

    def test_the_result_is_the_calls(self) -> None:
        with Deadline(5.0).applied():
            assert within_deadline("dynamodb get_item", lambda: 7) == 7

    def test_the_error_is_the_calls(self) -> None:
        error = ValueError("malformed")

        def fail() -> None:
            raise error

        with Deadline(5.0).applied(), pytest.raises(ValueError, match="malformed") as caught:
            within_deadline("dynamodb get_item", fail)
        assert caught.value is error

    def test_a_call_that_takes_longer_is_left_and_named(self, forever: threading.Event) -> None:
        began = time.monotonic()
        with Deadline(0.2).applied(), pytest.raises(OutOfTimeError, match="dynamodb get_item took all the time"):
            within_deadline("dynamodb get_item", lambda: forever.wait(5))
        assert time.monotonic() - began < 1.0

    def test_a_call_after_the_deadline_is_not_begun(self) -> None:
        called: list[int] = []
        with Deadline(0.0).applied(), pytest.raises(OutOfTimeError, match="no time left for dynamodb get_item"):
            within_deadline("dynamodb get_item", lambda: called.append(1))
        assert called == []

    def test_without_a_deadline_the_call_has_all_the_time_it_takes(self) -> None:
        before = threading.current_thread()
        assert within_deadline("dynamodb get_item", threading.current_thread) is before

    def test_the_innermost_deadline_counts_and_ends_with_its_block(self, forever: threading.Event) -> None:
        with Deadline(60.0).applied():
            with Deadline(0.1).applied(), pytest.raises(OutOfTimeError):
                within_deadline("dynamodb update_item", lambda: forever.wait(5))
            assert within_deadline("dynamodb get_item", lambda: 7) == 7

    def test_the_call_sees_the_context_of_its_caller(self) -> None:
        facts: ContextVar[str] = ContextVar("facts")
        facts.set("of this invocation")
        assert bounded(facts.get, 5.0) == "of this invocation"


def test_a_call_of_aws_ends_with_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its server accepts and says nothing; botocore alone would wait for seconds, and try twice."""
    for name, value in {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_REGION": "eu-south-1"}.items():
        monkeypatch.setenv(name, value)
    left, right = socket.socketpair()
    connect = lambda *_arguments, **_options: left.dup()  # noqa: E731 - in place of urllib3's function
    monkeypatch.setattr("urllib3.util.connection.create_connection", connect)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://aws.invalid")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-south-1")
    aws._client.cache_clear()
    aws._session.cache_clear()
    try:
        secrets = aws.client("secretsmanager")
        began = time.monotonic()
        with Deadline(0.2).applied(), pytest.raises(OutOfTimeError, match="secretsmanager get_secret_value took all"):
            secrets.get_secret_value(SecretId="x")
        assert time.monotonic() - began < 0.5
    finally:
        left.close()
        right.close()
        aws._client.cache_clear()
        aws._session.cache_clear()
