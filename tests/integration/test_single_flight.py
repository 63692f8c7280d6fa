"""Execution environments that start in the same instant cause one token call and one JWKS call between them."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from sandbox.local import LocalStack

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
    with LocalStack() as stack:
        outcomes = start_at_once(stack, count)
        calls: Counter[str] = Counter(call.endpoint for call in stack.nexi.calls)
    assert [each for each in outcomes if "error" in each] == []
    assert len({each["request_uri"] for each in outcomes}) == count
    assert calls == {"token": 1, "keys": 1, "par": count}
