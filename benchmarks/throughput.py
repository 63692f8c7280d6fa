"""Throughput over execution environments, with Nexi near and far; and memory over many enrollments in one."""

import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, Spread, Verdict, at_most, number
from benchmarks.standins import PATH, StandIns

ROOT = Path(__file__).parents[1]
COUNTS = {"smallest": [1, 2], "usual": [1, 2, 4, 8, 16]}
NEXI_MS = {"smallest": [50], "usual": [0, 50, 300]}
SECONDS = {"smallest": 0.5, "usual": 3.0}
SOAK = {"smallest": 200, "usual": 20_000}
NOISE = 0.9
"""A throughput of at least this share of one environment's is flat."""
FULL = 0.75
"""Of the processors' time: from there on, environments wait for one another."""


class _Worker:
    """An execution environment: enrolls for as long as it is told to, each time that it is told."""

    def __init__(self, standins: StandIns, mode: str, number: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.worker", mode, str(number)],
            env={**standins.environment, "PYTHONPATH": PATH, "PYTHONDONTWRITEBYTECODE": "1"},
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def line(self) -> Any:
        assert self.process.stdout is not None
        return json.loads(self.process.stdout.readline())

    def tell(self, text: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{text}\n")
        self.process.stdin.flush()


def run(size: str) -> Row:
    """The row of the throughput."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    table, verdicts = [], []
    for nexi_ms in NEXI_MS[size]:
        with StandIns(nexi_ms=nexi_ms) as standins:
            measured = _measure(standins, COUNTS[size], SECONDS[size])
        found[str(nexi_ms)] = {str(count): each for count, each in measured.items()}
        one = measured[1]["each"]
        for count, each in measured.items():
            table.append(
                [
                    f"{nexi_ms} ms",
                    str(count),
                    number(each["each"] * count),
                    f"{number(each['each'] / one)} ×",
                    f"{number(100 * each['busy'])} %",
                    f"{number(100 * each['ours'])} %",
                ]
            )
        free = [count for count, each in measured.items() if each["busy"] < FULL]
        worst = min((measured[count]["each"] / one for count in free), default=1.0)
        verdicts.append(
            Verdict(
                f"Nexi in {nexi_ms} ms: throughput of one environment, "
                + (f"of up to {max(free)}" if free else "but one fills the processors")
                + (", where more fill the processors" if free and len(free) < len(measured) else ""),
                worst,
                target=f"≥ {NOISE:g}×",
                met=worst >= NOISE if free else None,
            )
        )
    most = max(each["each"] * int(count) for rows in found.values() for count, each in rows.items())
    return Row(
        "throughput",
        "Throughput over environments",
        f"A process each, {SECONDS[size]:g} s, the stand-ins of the warm enrollment with Nexi answering after a while. "
        "The processors are those of the whole machine, with the stand-ins' own work and whoever else was there; "
        f"they are full from {100 * FULL:g} %.",
        ["Nexi answers in", "environments", "enrollments a second", "of one environment's", "processors busy", "by us"],
        table,
        verdicts,
        [
            f"The wall is the processors: {os.cpu_count()} cores, shared with the stand-ins, give {number(most)} "
            "enrollments a second at the most. Nothing of ours is shared by two environments but the two tables, of "
            "which an enrollment touches its operator's items alone."
        ],
        {
            "kind": "lines",
            "x": "environments",
            "y": "enrollments a second",
            "lines": {
                f"Nexi in {nexi_ms} ms": [[int(count), each["each"] * int(count)] for count, each in rows.items()]
                for nexi_ms, rows in found.items()
            },
        },
        {"measured": found},
    )


def _measure(standins: StandIns, counts: list[int], seconds: float) -> dict[int, dict[str, float]]:
    """By count: enrollments a second of one environment, and the share of the processors' time, all and ours."""
    workers = [_Worker(standins, "loop", seconds) for _ in range(max(counts))]
    for worker in workers:
        assert worker.line() == "ready"
    measured = {}
    for count in counts:
        busy, began = _busy(), time.perf_counter()
        for worker in workers[:count]:
            worker.tell("go")
        results = [worker.line() for worker in workers[:count]]
        took = (time.perf_counter() - began) * (os.cpu_count() or 1)
        measured[count] = {
            "each": statistics.mean(each["count"] / each["seconds"] for each in results),
            "busy": (_busy() - busy) / took,
            "ours": sum(each["cpu"] for each in results) / took,
        }
    for worker in workers:
        worker.process.kill()
        worker.process.communicate()
    return measured


def _busy() -> float:
    """Seconds of processor time that this machine has spent on anything."""
    user, nice, system, _, _, irq, soft, steal, *_ = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:])
    return (user + nice + system + irq + soft + steal) / os.sysconf("SC_CLK_TCK")


def soak(size: str) -> Row:
    """The row of the soak."""
    count = SOAK[size]
    with StandIns() as standins:
        worker = _Worker(standins, "soak", count)
        out, _ = worker.process.communicate(timeout=600)
    found: dict[str, list[float]] = json.loads(out)
    memory = found["memory"]
    tenth = max(1, len(memory) // 10)
    grown = statistics.median(memory[-tenth:]) - statistics.median(memory[tenth : 2 * tenth])
    descriptors = found["descriptors"][-1] - found["descriptors"][1]
    return Row(
        "soak",
        f"Memory over {count:,} enrollments in one environment",
        "Resident memory and open descriptors of one process, a hundred times on the way.",
        ["", "after a tenth", "at the end", "most"],
        [
            ["resident", *(f"{number(each)} MB" for each in (memory[tenth], memory[-1], max(memory)))],
            ["descriptors"]
            + [
                number(each)
                for each in (found["descriptors"][tenth], found["descriptors"][-1], max(found["descriptors"]))
            ],
        ],
        [
            at_most("growth from the second tenth to the last", Spread.of([grown]), 0.5, "MB"),
            Verdict("descriptors more than at the start", descriptors, unit="", target="0", met=descriptors <= 0),
        ],
        [],
        {
            "kind": "lines",
            "x": "enrollments",
            "y": "MB resident",
            "lines": {"memory": [list(each) for each in zip(found["numbers"], memory, strict=True)]},
        },
        {"soak": found},
    )
