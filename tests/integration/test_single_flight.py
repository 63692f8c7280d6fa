"""Execution environments that start in the same instant: what is shared between them is."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sandbox.local import LocalStack
from softpos.enrollment import limit

SCRIPT = Path(__file__).with_name("single_flight.py")
LAYER = Path(__file__).parents[2] / "layers" / "softpos"


def start_at_once(stack: LocalStack, count: int) -> list[dict[str, Any]]:
    variables = {**stack.template.functions()["EnrollmentFunction"].environment, **stack.aws.environment}
    finished = subprocess.run(
        [sys.executable, SCRIPT, str(count), json.dumps(variables)],
        env={"PATH": os.defpath, "PYTHONPATH": str(LAYER), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    return [
        json.loads(line)
        for line in finished.stdout.splitlines()
        if line.startswith('{"request_uri') or '"error"' in line
    ]


@pytest.mark.parametrize("count", [200])
def test_two_hundred_cold_environments_make_one_token_call_and_one_jwks_call(count: int) -> None:
    with LocalStack(parameters={"EnrollmentsPerMinute": str(count)}) as stack:
        outcomes = start_at_once(stack, count)
        calls: Counter[str] = Counter(call.endpoint for call in stack.nexi.calls)
    assert [each for each in outcomes if "error" in each] == []
    assert len({each["request_uri"] for each in outcomes}) == count
    assert calls == {"token": 1, "keys": 1, "par": count}


def test_an_operators_limit_holds_across_execution_environments() -> None:
    with LocalStack() as stack:
        began = time.time()
        outcomes = start_at_once(stack, 40)
        minutes = time.time() // limit.WINDOW_SECONDS - began // limit.WINDOW_SECONDS + 1
    refused = Counter(each.get("error") for each in outcomes)
    assert set(refused) == {None, "too_many_enrollments"}
    assert 10 <= refused[None] <= 10 * minutes
