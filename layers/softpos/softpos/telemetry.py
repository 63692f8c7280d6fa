"""One structured log line for each outcome, of allow-listed fields.

An exception's own text goes into the log only when the exception is ours: others quote what they choked on, which may
be a key or a token. For those, their type and place are logged.
"""

import logging
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import PurePath
from typing import Any, Literal

from aws_lambda_powertools.logging import Logger
from aws_lambda_powertools.metrics import EphemeralMetrics, Metrics, MetricUnit

from softpos.errors import SoftposError

# Their `service` is the stack's name, out of POWERTOOLS_SERVICE_NAME: two stacks in one account must not share metrics.
logger = Logger(use_rfc3339=True, location=None)

# Our own Logger has another name.
LIBRARIES = (
    "aws_lambda_powertools",
    "boto3",
    "botocore",
    "http.cookiejar",
    "jose",
    "py.warnings",
    "requests",
    "urllib3",
)


def _silence_libraries() -> None:
    """Keep the libraries' log records and warnings from every handler and from stderr, at any level.

    Libraries quote what they choke on: botocore a secret at DEBUG, urllib3 a header that repeats one at WARNING. What
    matters of that becomes a field of our own line, such as `header_defect`.
    """
    for name in LIBRARIES:
        library = logging.getLogger(name)
        library.setLevel(logging.CRITICAL + 1)
        library.propagate = False
        # Without a handler, logging's last resort writes to stderr.
        library.addHandler(logging.NullHandler())
    warnings.showwarning = lambda *_arguments, **_options: None


_silence_libraries()

_NAMESPACE = "softpos"

_metrics = Metrics(namespace=_NAMESPACE)

_facts: ContextVar[dict[str, Any]] = ContextVar("facts")


def begin(operation: str, **facts: Any) -> None:
    """Start an invocation's line anew, with what is known already, so that nothing of the last one stays.

    `operation` is the function's folder: the dimension of its outcomes.
    """
    _metrics.clear_metrics()
    _facts.set({"started": time.perf_counter(), "operation": operation, **facts})


def note(**facts: Any) -> None:
    """Add fields to the invocation's line. Never a key, secret, token, assertion or `request_uri`."""
    _facts.get({}).update(facts)


def count(metric: str) -> None:
    """Add one to a metric of this invocation."""
    _metrics.add_metric(metric, MetricUnit.Count, 1)


def gauge(metric: str, value: float, unit: Literal["Seconds", "None"] = "Seconds") -> None:
    """Give a metric of this invocation a value. `None` is for what CloudWatch has no unit for, such as days."""
    _metrics.add_metric(metric, unit, value)


@contextmanager
def timed(step: str) -> Iterator[None]:
    """Add `<step>_ms` to the invocation's line, whether the step succeeds or not; a repeated step adds up."""
    started = time.perf_counter()
    try:
        yield
    finally:
        facts = _facts.get({})
        spent = (time.perf_counter() - started) * 1000
        facts[f"{step}_ms"] = round(facts.get(f"{step}_ms", 0.0) + spent, 1)


def succeeded(outcome: str) -> None:
    """Write the line of an invocation that went well, and its metrics."""
    line = _line()
    # What someone should look into although all went well for now.
    write = logger.warning if _WORRYING.intersection(line) else logger.info
    write(outcome, extra=line)
    _flush()
    _count_outcome("Succeeded", line)


def failed(error: Exception) -> None:
    """Write the line of one that did not: code, cause, what to do, and the chain of causes underneath."""
    code = error.code if isinstance(error, SoftposError) else SoftposError.code
    fields = {**_line(), "code": code, "causes": [_told(each) for each in _chain(error)]}
    if isinstance(error, SoftposError):
        fields["remedy"] = error.remedy
        message = _text(error)
    else:
        fields["frames"] = _frames(error)
        message = f"unexpected {type(error).__name__}"
    # The phone's own mistakes and an operator without a terminal are no reason to wake anyone.
    blameless = code in _BLAMELESS
    write = logger.warning if blameless else logger.error
    write(message, extra=fields)
    _flush()
    _count_outcome("Failed", fields, code=getattr(error, "metric_code", None) or code)


_BLAMELESS = frozenset(
    {
        "invalid_request",
        "operator_unknown",
        "terminal_not_assigned",
        "point_of_sale_unknown",
        "no_terminal_free",
        "terminal_unknown",
        "terminal_held",
        "operator_holds_terminal",
        "pairs_refused",
        "too_many_enrollments",
        "idempotency_key_reused",
        "enrollment_in_progress",
    }
)
_WORRYING = frozenset(
    {"cache_table", "clock_ahead_seconds", "header_defect", "idempotency", "pending_unfit", "secrets", "stale"}
)


def _count_outcome(metric: str, line: dict[str, Any], **dimensions: str) -> None:
    """The invocation's outcome: how often, and what went well in how many milliseconds, Nexi's share of them apart.

    Under dimensions of its own: an alarm is on one operation, and of its failures on one code.
    """
    if "operation" not in line:
        return
    outcome = EphemeralMetrics(namespace=_NAMESPACE)
    for name, value in {"operation": line["operation"], **dimensions}.items():
        outcome.add_dimension(name, value)
    outcome.add_metric(metric, MetricUnit.Count, 1)
    if metric == "Succeeded":
        outcome.add_metric("Duration", MetricUnit.Milliseconds, line["total_ms"])
        if "par_ms" in line:
            spent = sum(line.get(f"{step}_ms", 0.0) for step in ("token", "keys", "par"))
            outcome.add_metric("NexiDuration", MetricUnit.Milliseconds, spent)
    outcome.flush_metrics()


def _flush() -> None:
    if _metrics.metric_set:
        _metrics.flush_metrics()


def _line() -> dict[str, Any]:
    facts = dict(_facts.get({}))
    started = facts.pop("started", None)
    if started is not None:
        facts["total_ms"] = round((time.perf_counter() - started) * 1000, 1)
    return facts


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _text(error: SoftposError) -> str:
    # It may hold half of a surrogate pair out of the phone's JSON, which no stream takes.
    return str(error).encode("utf-8", "backslashreplace").decode()


def _told(error: BaseException) -> str:
    name = type(error).__name__
    if isinstance(error, SoftposError):
        return f"{name}: {_text(error)}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    frames = _frames(error)
    return f"{name} at {frames[-1]}" if frames else name


def _frames(error: BaseException) -> list[str]:
    frames = []
    traceback = error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        file = "/".join(PurePath(code.co_filename).parts[-2:])
        frames.append(f"{file}:{traceback.tb_lineno} {code.co_name}")
        traceback = traceback.tb_next
    return frames
