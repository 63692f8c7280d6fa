"""One line for each outcome, with what is known, and without what others said."""

import contextvars
import json
import logging
import subprocess
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from unit_support import Clock, Lines

from softpos import telemetry
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


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(500.0)
    monkeypatch.setattr("time.perf_counter", clock)
    return clock


@pytest.fixture(autouse=True)
def _begun() -> None:
    telemetry.begin("enrollment")


class TestTheLine:
    def test_success_writes_one_with_all_that_was_noted(self, lines: Lines) -> None:
        telemetry.begin("enrollment", request_id="r-1", invocation="i-1")
        telemetry.note(point_of_sale="00012345", terminal_ids=("30000001",))
        telemetry.succeeded("enrollment pushed")
        line = lines.only()
        assert line["level"] == "INFO"
        assert line["message"] == "enrollment pushed"
        assert line["service"] == "softpos"
        assert (line["request_id"], line["invocation"]) == ("r-1", "i-1")
        assert (line["point_of_sale"], line["terminal_ids"]) == ("00012345", ["30000001"])

    def test_failure_writes_one_with_code_message_remedy_and_causes(self, lines: Lines) -> None:
        telemetry.begin("enrollment", request_id="r-1")
        telemetry.failed(NexiRejectedError("PAR answered 400", "compare with the portal"))
        line = lines.only()
        assert line["level"] == "ERROR"
        assert line["request_id"] == "r-1"
        assert line["code"] == "nexi_rejected"
        assert line["message"] == "PAR answered 400"
        assert line["remedy"] == "compare with the portal"
        assert line["causes"] == ["NexiRejectedError: PAR answered 400"]

    def test_nothing_of_the_last_invocation_stays(self, lines: Lines) -> None:
        telemetry.begin("enrollment", request_id="r-1", operator="first")
        telemetry.note(jti="j-1")
        with telemetry.timed("par"):
            pass
        telemetry.failed(MisconfiguredError("first", "first"))
        telemetry.begin("enrollment", request_id="r-2")
        telemetry.succeeded("second")
        _, second = lines.all()
        assert second["request_id"] == "r-2"
        assert not {"operator", "jti", "par_ms", "code", "causes", "remedy", "frames"} & set(second)
        assert "first" not in json.dumps(second)

    def test_nothing_stays_of_an_invocation_that_wrote_no_line(self, lines: Lines) -> None:
        """Lambda ended it at its timeout, and goes on with the same process."""
        telemetry.begin("enrollment", request_id="r-1")
        telemetry.note(jti="j-1")
        telemetry.begin("enrollment", request_id="r-2")
        telemetry.succeeded("second")
        assert "j-1" not in lines.text
        assert "r-1" not in lines.text

    def test_a_name_beyond_unicode_is_written_all_the_same(self, lines: Lines) -> None:
        """JSON can say half a surrogate pair, so a member of that name comes as far as this message; UTF-8 cannot."""
        telemetry.failed(InvalidRequestError({"\ud800": "is not known here"}))
        assert lines.only()["code"] == "invalid_request"

    def test_a_line_break_in_a_name_does_not_begin_a_line(self, lines: Lines) -> None:
        telemetry.failed(InvalidRequestError({'x\n{"level":"ERROR"}\u2028': "is not known here"}))
        assert len(lines.text.split("\n")) == 2
        assert json.loads(lines.text)["code"] == "invalid_request"


class TestTheMetrics:
    """In CloudWatch's embedded metric format, on a line of their own."""

    def test_each_has_its_value_its_unit_and_one_dimension(self, capsys: pytest.CaptureFixture[str]) -> None:
        telemetry.count("TokenFetched")
        telemetry.gauge("ClockAhead", 2.5)
        telemetry.gauge("CertificateDaysLeft", -1.5, "None")
        telemetry.succeeded("done")
        emitted, _ = map(json.loads, capsys.readouterr().out.splitlines())
        (directive,) = emitted["_aws"]["CloudWatchMetrics"]
        assert (directive["Namespace"], directive["Dimensions"]) == ("softpos", [["service"]])
        assert emitted["service"] == "softpos"
        assert {each["Name"]: (each["Unit"], emitted[each["Name"]]) for each in directive["Metrics"]} == {
            "TokenFetched": ("Count", [1.0]),
            "ClockAhead": ("Seconds", [2.5]),
            "CertificateDaysLeft": ("None", [-1.5]),
        }

    def test_those_of_the_last_invocation_are_not_told_again(self, capsys: pytest.CaptureFixture[str]) -> None:
        telemetry.gauge("ClockAhead", 2.5)
        telemetry.failed(MisconfiguredError("first"))
        assert "ClockAhead" in capsys.readouterr().out
        telemetry.begin("enrollment")
        telemetry.succeeded("second")
        assert "ClockAhead" not in capsys.readouterr().out


class TestTheOutcome:
    """Counted under the operation, and a failure under its code: what alarms are on."""

    def emitted(self, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], set[str], dict[str, Any]]:
        line = json.loads(capsys.readouterr().out)
        (directive,) = line["_aws"]["CloudWatchMetrics"]
        (names,) = directive["Dimensions"]
        metrics = {each["Name"]: (each["Unit"], line[each["Name"]][0]) for each in directive["Metrics"]}
        return {name: line[name] for name in names}, set(metrics), metrics

    def test_of_an_enrollment_has_nexis_share_apart(self, capsys: pytest.CaptureFixture[str], clock: Clock) -> None:
        telemetry.begin("enrollment")
        for step, seconds in (("registry", 0.01), ("token", 0.2), ("keys", 0.1), ("assertion", 0.02), ("par", 0.3)):
            with telemetry.timed(step):
                clock.now += seconds
        telemetry.succeeded("pushed")
        dimensions, _, metrics = self.emitted(capsys)
        assert dimensions == {"service": "softpos", "operation": "enrollment"}
        assert metrics == {
            "Succeeded": ("Count", 1.0),
            "Duration": ("Milliseconds", 630.0),
            "NexiDuration": ("Milliseconds", 600.0),
        }

    def test_of_what_asked_nexi_for_nothing_has_no_share_of_nexis(self, capsys: pytest.CaptureFixture[str]) -> None:
        telemetry.begin("terminals")
        telemetry.succeeded("served")
        dimensions, names, _ = self.emitted(capsys)
        assert dimensions == {"service": "softpos", "operation": "terminals"}
        assert names == {"Succeeded", "Duration"}

    @pytest.mark.parametrize(
        ("error", "code"),
        [(MisconfiguredError("x"), "misconfigured"), (KeyError("x"), "internal_error")],
        ids=["ours", "unexpected"],
    )
    def test_of_a_failure_has_its_code(self, capsys: pytest.CaptureFixture[str], error: Exception, code: str) -> None:
        telemetry.begin("enrollment")
        telemetry.failed(error)
        dimensions, _, metrics = self.emitted(capsys)
        assert dimensions == {"service": "softpos", "operation": "enrollment", "code": code}
        assert metrics == {"Failed": ("Count", 1.0)}

    def test_of_what_never_began_is_not_counted(self, capsys: pytest.CaptureFixture[str]) -> None:
        telemetry._facts.set({})
        telemetry.succeeded("done")
        assert capsys.readouterr().out == ""


class TestTheTimes:
    def test_a_step_is_told_in_milliseconds(self, lines: Lines, clock: Clock) -> None:
        telemetry.begin("enrollment")
        with telemetry.timed("registry"):
            clock.now += 0.0123
        telemetry.succeeded("done")
        assert lines.only()["registry_ms"] == 12.3

    def test_a_repeated_step_adds_up(self, lines: Lines, clock: Clock) -> None:
        telemetry.begin("enrollment")
        for spent in (0.010, 0.005, 0.0005):
            with telemetry.timed("token"):
                clock.now += spent
        telemetry.succeeded("done")
        assert lines.only()["token_ms"] == pytest.approx(15.5, abs=0.11)

    def test_a_step_that_fails_is_timed_too(self, lines: Lines, clock: Clock) -> None:
        telemetry.begin("enrollment")
        error = NexiTimeoutError("no answer")

        def par() -> None:
            with telemetry.timed("par"):
                clock.now += 8.0
                raise error

        with pytest.raises(NexiTimeoutError):
            par()
        telemetry.failed(error)
        assert lines.only()["par_ms"] == 8000.0

    def test_the_total_is_from_beginning_to_line(self, lines: Lines, clock: Clock) -> None:
        telemetry.begin("enrollment")
        with telemetry.timed("token"):
            clock.now += 0.2
        clock.now += 0.1
        telemetry.succeeded("done")
        assert lines.only()["total_ms"] == 300.0

    def test_steps_and_total_agree(self, lines: Lines, clock: Clock) -> None:
        telemetry.begin("enrollment")
        for step, spent in (("registry", 0.02), ("token", 0.3), ("keys", 0.1), ("par", 0.4)):
            with telemetry.timed(step):
                clock.now += spent
        telemetry.succeeded("done")
        line = lines.only()
        steps = sum(value for name, value in line.items() if name.endswith("_ms") and name != "total_ms")
        assert steps == pytest.approx(line["total_ms"], abs=0.5)


def from_a_key_error() -> None:
    raise KeyError("S3CR3T")


def from_none() -> None:
    try:
        from_a_key_error()
    except KeyError:
        raise ValueError("S3CR3T") from None


def chained() -> None:
    try:
        from_a_key_error()
    except KeyError as error:
        raise RuntimeError("S3CR3T") from error


def in_a_context() -> None:
    try:
        from_a_key_error()
    except KeyError:
        raise RuntimeError("S3CR3T")  # noqa: B904 - the implicit context is what is looked at


def under_ours() -> None:
    try:
        in_a_context()
    except RuntimeError as error:
        raise MisconfiguredError("found this", "do that") from error


def ours_under_a_foreign_one() -> None:
    try:
        under_ours()
    except MisconfiguredError as error:
        raise LookupError("S3CR3T", {"token": "S3CR3T"}) from error


def from_json() -> None:
    json.loads('{"client_secret": "S3CR3T"')


def from_bytes() -> None:
    b"S3CR3T\xff".decode()


def with_a_note() -> None:
    error = ValueError("S3CR3T")
    error.add_note("S3CR3T")
    raise error


def in_a_group() -> None:
    raise ExceptionGroup("S3CR3T", [ValueError("S3CR3T")])


def in_a_circle() -> None:
    error = ValueError("S3CR3T")
    other = ValueError("S3CR3T")
    error.__cause__, other.__cause__ = other, error
    raise error


def raised(by: Callable[[], None]) -> Exception:
    try:
        by()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked at
        return error
    raise AssertionError("nothing was raised")


class TestWhatOthersSaid:
    """Others quote what they choked on."""

    @pytest.mark.parametrize(
        "by",
        [
            from_a_key_error,
            from_none,
            chained,
            in_a_context,
            under_ours,
            ours_under_a_foreign_one,
            from_json,
            from_bytes,
            with_a_note,
            in_a_group,
            in_a_circle,
        ],
    )
    def test_it_never_reaches_the_log(self, lines: Lines, by: Callable[[], None]) -> None:
        error = raised(by)
        assert error.args or str(error)
        telemetry.failed(error)
        assert "S3CR3T" not in lines.text
        assert type(error).__name__ in lines.only()["causes"][0]

    def test_what_was_sent_aside_by_from_none_is_not_looked_up(self, lines: Lines) -> None:
        telemetry.failed(raised(from_none))
        assert [cause.split()[0] for cause in lines.only()["causes"]] == ["ValueError"]

    def test_a_foreign_error_is_told_by_type_and_place(self, lines: Lines) -> None:
        error = raised(from_a_key_error)
        telemetry.failed(error)
        line = lines.only()
        place = traceback.extract_tb(error.__traceback__)[-1]
        assert line["message"] == "unexpected KeyError"
        assert line["code"] == "internal_error"
        assert line["causes"] == [f"KeyError at unit/test_telemetry.py:{place.lineno} from_a_key_error"]
        assert line["frames"][-1] == f"unit/test_telemetry.py:{place.lineno} from_a_key_error"
        assert "remedy" not in line

    def test_our_own_words_are_told_and_the_chain_underneath_by_type(self, lines: Lines) -> None:
        telemetry.failed(raised(under_ours))
        line = lines.only()
        assert (line["message"], line["remedy"]) == ("found this", "do that")
        assert [cause.split()[0] for cause in line["causes"]] == ["MisconfiguredError:", "RuntimeError", "KeyError"]

    def test_our_own_words_are_told_underneath_a_foreign_error(self, lines: Lines) -> None:
        telemetry.failed(raised(ours_under_a_foreign_one))
        assert lines.only()["causes"][1] == "MisconfiguredError: found this"

    def test_an_error_of_the_system_is_told_in_the_systems_words(self, lines: Lines) -> None:
        error = NexiUnavailableError("failed")
        error.__cause__ = ConnectionRefusedError(111, "Connection refused", "S3CR3T")
        telemetry.failed(error)
        assert lines.only()["causes"][1] == "ConnectionRefusedError: Connection refused"
        assert "S3CR3T" not in lines.text

    def test_no_path_of_the_machine_is_told(self, lines: Lines) -> None:
        telemetry.failed(raised(from_json))
        assert not [frame for frame in lines.only()["frames"] if frame.startswith("/") or frame.count("/") > 1]


class TestTheLevel:
    def test_a_pending_certificate_that_does_not_fit_is_a_warning(self, lines: Lines) -> None:
        telemetry.note(pending_unfit="certificate secret: not JSON")
        telemetry.succeeded("key and certificate fit")
        assert lines.only()["level"] == "WARNING"

    @pytest.mark.parametrize(
        ("error", "level"),
        [
            (InvalidRequestError({"body": "is missing"}), "WARNING"),
            (OperatorUnknownError("x"), "WARNING"),
            (TerminalNotAssignedError("x"), "WARNING"),
            (MisconfiguredError("x"), "ERROR"),
            (NexiRejectedError("x"), "ERROR"),
            (NexiUnavailableError("x"), "ERROR"),
            (NexiTimeoutError("x"), "ERROR"),
            (SoftposError("x"), "ERROR"),
            (RuntimeError("x"), "ERROR"),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, Exception) else value,
    )
    def test_only_what_someone_must_look_at_is_an_error(self, lines: Lines, error: Exception, level: str) -> None:
        telemetry.failed(error)
        assert lines.only()["level"] == level


class TestTheLibraries:
    """botocore quotes Secrets Manager's answers at DEBUG, and urllib3 a header that it cannot parse at WARNING."""

    LIBRARIES = (
        *("aws_lambda_powertools.metrics", "boto3", "botocore", "botocore.parsers", "http.cookiejar", "jose"),
        *("py.warnings", "requests", "urllib3", "urllib3.connection", "urllib3.connectionpool"),
    )

    @pytest.fixture
    def root_at_debug(self) -> Iterator[Lines]:
        written = Lines()
        handler = logging.StreamHandler(written.stream)
        logging.getLogger().addHandler(handler)
        yield written
        logging.getLogger().removeHandler(handler)

    @pytest.mark.parametrize("library", LIBRARIES)
    def test_a_root_logger_at_debug_does_not_make_them_talk(self, root_at_debug: Lines, library: str) -> None:
        logging.getLogger("someone.else").debug("heard")
        for level in (logging.DEBUG, logging.WARNING, logging.CRITICAL):
            logging.getLogger(library).log(level, "S3CR3T")
        assert "heard" in root_at_debug.text
        assert "S3CR3T" not in root_at_debug.text

    @pytest.mark.parametrize("module", ["softpos.telemetry", "softpos.nexi.session", "onboarding.__main__"])
    def test_no_level_from_outside_makes_them_talk(self, module: str, code_on_path: dict[str, str]) -> None:
        """Lambda's own and Powertools' variables, in a fresh interpreter whose root logger is at DEBUG already."""
        program = f"""
            import logging
            logging.basicConfig(level=logging.DEBUG)
            import {module}
            import boto3, warnings
            logging.getLogger("softpos").debug("heard")
            for library in ("botocore.parsers", "boto3.resources", "urllib3.connection", "urllib3.connectionpool"):
                # As a library or a tool may set them.
                logging.getLogger(library).setLevel(logging.DEBUG)
                logging.getLogger(library).critical("S3CR3T")
            warnings.warn("S3CR3T")
            logging.captureWarnings(True)
            warnings.warn("S3CR3T again")
        """
        run = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(program)],
            capture_output=True,
            text=True,
            check=True,
            cwd=Path(__file__).parents[2],
            env={**code_on_path, "POWERTOOLS_LOG_LEVEL": "DEBUG", "AWS_LAMBDA_LOG_LEVEL": "DEBUG"},
        )
        assert "heard" in run.stdout + run.stderr
        assert "S3CR3T" not in run.stdout + run.stderr


def test_notes_before_a_beginning_are_nobodys(lines: Lines) -> None:
    """Code of the layer may be called outside of any invocation: at a console, or in a test."""
    outside: list[Any] = []

    def call() -> None:
        telemetry.note(jti="j-1")
        with telemetry.timed("par"):
            outside.append(True)
        telemetry.succeeded("done")

    contextvars.Context().run(call)
    assert outside == [True]
    assert not {"jti", "par_ms", "total_ms"} & set(lines.only())
