"""Many environments that start in the same instant."""

from collections import Counter

from benchmarks.measure import Row, exactly, number
from sandbox.local import LocalStack
from tests.integration.test_single_flight import start_at_once

COUNT = {"smallest": 10, "usual": 200}


def run(size: str) -> Row:
    """The row of the two hundred: what the integration test proves, counted."""
    count = COUNT[size]
    with LocalStack(parameters={"EnrollmentsPerMinute": str(count)}) as stack:
        outcomes = start_at_once(stack, count)
        calls: Counter[str] = Counter(call.endpoint for call in stack.nexi.calls)
    failed = sum("error" in each for each in outcomes) + count - len(outcomes)
    return Row(
        "at_once",
        f"{count} environments starting at once",
        "A process each, nothing cached, one strict Nexi and one moto for all; `tests/integration/single_flight.py`.",
        ["", "calls"],
        [[name, number(calls[name])] for name in ("token", "keys", "par")] + [["failed", number(failed)]],
        [
            exactly("token calls", calls["token"], 1, "calls"),
            exactly("JWKS calls", calls["keys"], 1, "calls"),
            exactly("enrollments that failed", failed, 0, "enrollments"),
        ],
        raw={"calls": dict(calls), "seconds": sorted(each.get("seconds", 0.0) for each in outcomes)},
    )
