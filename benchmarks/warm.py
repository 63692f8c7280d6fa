"""A warm enrollment through the handler, against a script that makes the same three calls with nothing in between."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, Samples, Spread, Verdict, at_most, exactly, number, ratio
from benchmarks.standins import PATH, StandIns

ROUNDS = {"smallest": 5, "usual": 400}
OURS, LIMIT = "softpos", "bare script"
AWS_MS = 4.0
"""What DynamoDB takes for a call within its region, about."""
TARGET = 1.3
ROOT = Path(__file__).parents[1]

Steps = dict[str, list[dict[str, float]]]


def run(size: str) -> list[Row]:
    """The rows of the warm enrollment, and of the calls that it makes."""
    with StandIns() as at_once:
        before = at_once.counts()
        steps = _worker(at_once, ROUNDS[size])
        calls = at_once.counts() - before
    with StandIns(aws_ms=AWS_MS) as in_region:
        slower = _worker(in_region, max(5, ROUNDS[size] // 4))
    enrollments = sum(map(len, steps.values())) + 2 * 20
    return [_warm(steps, slower), _calls(calls, enrollments)]


def _worker(standins: StandIns, rounds: int) -> Steps:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker", "warm", str(rounds)],
        env={**standins.environment, "PYTHONPATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"},
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
        timeout=300,
    )
    steps: Steps = json.loads(run.stdout)
    return steps


def _without_par(steps: Steps) -> Samples:
    return {name: [each["total"] - each["waited for Nexi"] for each in taken] for name, taken in steps.items()}


def _of(steps: Steps, step: str) -> Samples:
    return {name: [each.get(step, 0.0) for each in taken] for name, taken in steps.items()}


def _warm(steps: Steps, slower: Steps) -> Row:
    wall, processor, in_region = _without_par(steps), _of(steps, "cpu"), _without_par(slower)
    named = ["DynamoDB, 2 calls", "PAR, 1 call", "assertion", "log and metrics"]
    table = []
    for step in named:
        table.append(_line(f"processor: {step}", _of(steps, step)))
    rest = {
        name: [each["cpu"] - sum(each.get(step, 0.0) for step in named) for each in taken]
        for name, taken in steps.items()
    }
    table += [
        _line("processor: all else", rest),
        _line("processor, in all", processor),
        _line("by the clock without PAR's round trip, AWS answering at once", wall),
        _line(f"the same, DynamoDB answering in {AWS_MS:g} ms", in_region),
    ]
    over = {step: _median(_of(steps, step)[OURS]) - _median(_of(steps, step)[LIMIT]) for step in named}
    over["all else"] = _median(rest[OURS]) - _median(rest[LIMIT])
    whole = sum(over.values())
    where = ", ".join(
        f"{step} {number(100 * each / whole)} %" for step, each in sorted(over.items(), key=lambda item: -item[1])
    )
    return Row(
        "warm",
        "A warm enrollment through the handler",
        f"In one process, in turn, {len(steps[OURS])} each; Nexi and AWS are stand-ins in another, which check nothing "
        "(`benchmarks/standins.py`), and the endpoint of AWS is plain HTTP. Both read the operator's item, count the "
        "minute, build the assertion and push it (`benchmarks/bare.py`). What the socket to Nexi waited is taken off.",
        ["", OURS, LIMIT, "ratio"],
        table,
        [
            at_most("AWS answering at once", ratio(wall, OURS, LIMIT), TARGET),
            at_most(f"DynamoDB answering in {AWS_MS:g} ms", ratio(in_region, OURS, LIMIT), TARGET),
            Verdict("processor time", *_three(ratio(processor, OURS, LIMIT))),
        ],
        [
            f"Of the {number(whole)} ms of the processor that softpos takes over the script: {where}. A call of "
            f"DynamoDB is {number(_median(_of(steps, named[0])[OURS]) / 2)} ms in botocore and "
            f"{number(_median(_of(steps, named[0])[LIMIT]) / 2)} ms in the script."
        ],
        {
            "kind": "stacks",
            "unit": "ms of the processor",
            "stacks": {
                name: {**{step: _median(_of(steps, step)[name]) for step in named}, "all else": _median(rest[name])}
                for name in (LIMIT, OURS)
            },
        },
        {"at once": steps, "in region": slower},
    )


def _median(figures: list[float]) -> float:
    return Spread.of(figures).median


def _three(spread: Spread) -> tuple[float, float, float]:
    return spread.median, spread.low, spread.high


def _line(what: str, samples: Samples) -> list[str]:
    cells = []
    for name in (OURS, LIMIT):
        spread = Spread.of(samples[name])
        cells.append(f"{number(spread.median)} ms ({number(spread.low)} … {number(spread.high)})")
    theirs = _median(samples[LIMIT])
    return [what, *cells, f"{number(_median(samples[OURS]) / theirs)} ×" if theirs > 0.01 else ""]


def _calls(calls: Any, enrollments: int) -> Row:
    # The two contestants fetch token and keys once each, when they start.
    warm = (calls["token"] + calls["keys"] - 4 + calls["par"]) / enrollments
    return Row(
        "calls",
        "Upstream calls per warm enrollment",
        "Counted by the stand-in while the row above was measured. Nexi's three published samples fetch the keys for "
        "each enrollment, and two of them the token, too.",
        ["", "calls"],
        [["to Nexi, an enrollment", number(warm)], ["of Nexi's samples", "2 to 3"]],
        [exactly("calls to Nexi", warm, 1, "calls")],
        raw={"calls": dict(calls), "enrollments": enrollments},
    )
