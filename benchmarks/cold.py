"""Cold starts, the way Lambda makes them: AWS's runtime interface emulator and runtime client, what `sam build` makes.

A fresh process each time. The emulator itself says how long the init phase took, and the invocation. As on Lambda,
nobody may write bytecode: what the layers do not bring is compiled at each start. Both are measured, with and without.
The naive handler has the same packages as they come, and as `sam build` installs them by itself: without.
"""

import compileall
import dataclasses
import json
import os
import platform
import py_compile
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, Samples, Spread, Verdict, at_most, number, ratio
from benchmarks.standins import PATH, StandIns
from sandbox.local import LocalStack
from sandbox.template import Function
from tests.e2e.builds import build, runtime, unpacked
from tests.e2e.emulator import Emulator

HERE = Path(__file__).parent
ROUNDS = {"smallest": 1, "usual": 7}
ENROLLMENT = "EnrollmentFunction"
EMPTY, NAIVE = "an empty handler", "a naive handler"
WITHOUT, WITH = "without bytecode", "with bytecode"
MEGABYTES = 110

# Started in the place of app.py, which it imports: says what there is in the process, and else passes on.
PROBE = """
import sys
import app

def lambda_handler(event, context):
    if "probe" not in event:
        return app.lambda_handler(event, context)
    with open("/proc/self/status") as status:
        memory = next(int(line.split()[1]) for line in status if line.startswith("VmRSS"))
    return {"modules": len(sys.modules), "memory": memory / 1024}
"""


class _Timed(Emulator):
    """Keeps what the emulator says of its own accord: milliseconds of the init phase and of the last invocation."""

    init_ms = 0.0
    invoke_ms = 0.0

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            text = line.decode("utf-8", "replace").rstrip("\n")
            if found := re.search(r"INIT REPORT\(durationMs: ([\d.]+)", text):
                self.init_ms = float(found[1])
            if found := re.search(r"INVOKE RTDONE\(.*duration: ([\d.]+)ms", text):
                self.invoke_ms = float(found[1])
            self._lines.put(text)


class _Lambda:
    """The built functions and the two to hold them against, on a local stack."""

    def __init__(self, stack: LocalStack, folder: Path) -> None:
        self._stack, self._folder = stack, folder
        machine = "aarch64" if platform.machine() in ("aarch64", "arm64") else "x86_64"
        python = f"{sys.version_info.major}.{sys.version_info.minor}"
        built = build(folder / "built", LAMBDA_PLATFORM=f"{machine}-manylinux_2_28", LAMBDA_PYTHON=python)
        opt = unpacked(built.layers.values(), folder / "opt")
        self.ships = WITH if any(opt.rglob("*.pyc")) else WITHOUT
        self.layers = _without_and_with(opt / "python", folder / "layers")
        self._packages = _without_and_with(_packages(folder / "packages"), folder / "naive")
        self._client = runtime(folder / "runtime")
        self._functions = stack.template.functions()
        self._sources = {**built.functions, EMPTY: HERE / "empty", NAIVE: HERE / "naive"}
        event = json.loads((HERE.parent / "events" / "enrollment-created.json").read_text())
        self._enroll = event

    def start(self, name: str, kind: str, *, enroll: bool, forget: bool = True) -> dict[str, float]:
        """One execution environment from its start to, if wanted, its first enrollment."""
        folder = self._folder / "functions" / name
        if not folder.exists():
            shutil.copytree(self._sources[name], folder, ignore=shutil.ignore_patterns("__pycache__"))
            (folder / "probe.py").write_text(PROBE)
        if forget:
            self._empty_cache()
        function = self._functions.get(name, self._functions[ENROLLMENT])
        function = dataclasses.replace(function, folder=folder, handler="probe.lambda_handler")
        packages = self._packages if name == NAIVE else self.layers
        with self._emulator(function, packages[kind]) as started:
            found: dict[str, float] = started.invoke({"probe": True}).result
            figures = {"init": started.init_ms, "modules": found["modules"], "memory": found["memory"]}
            if enroll:
                answer = started.invoke(self._enroll).result
                assert answer.get("statusCode") == 201, answer
                figures["first"] = started.invoke_ms
                figures["total"] = started.init_ms + started.invoke_ms
                figures["memory after"] = started.invoke({"probe": True}).result["memory"]
        return figures

    def _emulator(self, function: Function, packages: Path) -> _Timed:
        environment = {**self._stack.aws.environment, "PYTHONDONTWRITEBYTECODE": "1"}
        return _Timed(function, [packages, self._client], environment)

    def _empty_cache(self) -> None:
        dynamodb, table = self._stack.aws.client("dynamodb"), self._stack.template.existing()["CacheTable"][1]
        for item in dynamodb.scan(TableName=table)["Items"]:
            dynamodb.delete_item(TableName=table, Key={"id": item["id"]})


def _packages(folder: Path) -> Path:
    """What the dependencies layer is made of, as its packages come."""
    uv, locked = Path(sys.executable).with_name("uv"), HERE.parent / "layers" / "dependencies" / "requirements.txt"
    how = ["--quiet", "--require-hashes", "--no-compile", "--link-mode", "copy"]
    subprocess.run([uv, "pip", "install", *how, "--target", folder, "-r", locked], check=True, timeout=300)
    return folder


def _without_and_with(packages: Path, folder: Path) -> dict[str, Path]:
    plain = Path(shutil.copytree(packages, folder / "plain", ignore=shutil.ignore_patterns("__pycache__")))
    compiled = Path(shutil.copytree(plain, folder / "compiled"))
    compileall.compile_dir(compiled, quiet=1, invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
    return {WITHOUT: plain, WITH: compiled}


Figures = dict[str, list[dict[str, float]]]


def run(size: str) -> list[Row]:
    """The rows of init and of the first enrollment, from the same starts."""
    parameters = {"EnrollmentsPerMinute": "1000000", "SampleAppApi": "true"}
    with tempfile.TemporaryDirectory(prefix="softpos-cold-") as folder, LocalStack(parameters=parameters) as stack:
        machine = _Lambda(stack, Path(folder))
        names = [EMPTY, NAIVE, *sorted(stack.template.functions())]
        if size == "smallest":
            names = [EMPTY, NAIVE, ENROLLMENT]
        init: Figures = {}
        first: Figures = {}
        for _ in range(ROUNDS[size]):
            for kind in (WITHOUT, WITH):
                for name in names if kind == machine.ships else [EMPTY, NAIVE, ENROLLMENT]:
                    taken = machine.start(name, kind, enroll=name in (NAIVE, ENROLLMENT))
                    init.setdefault(f"{name}, {kind}", []).append(taken)
                    if "total" in taken:
                        first.setdefault(f"{name}, nothing cached, {kind}", []).append(taken)
                taken = machine.start(ENROLLMENT, kind, enroll=True, forget=False)
                first.setdefault(f"{ENROLLMENT}, shared cache warm, {kind}", []).append(taken)
        with StandIns() as standins:
            rounds = range(ROUNDS[size])
            parts = [_worker("first", standins, machine.layers[WITH]) for _ in rounds]
            restored = [_worker("restored", standins, machine.layers[WITH])["cpu"] for _ in rounds]
    return [_init(init, ROUNDS[size], machine.ships), _first(first, parts, restored, machine.ships)]


def _worker(mode: str, standins: StandIns, packages: Path) -> dict[str, float]:
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.worker", mode, "1"],
        env={**standins.environment, "PYTHONPATH": os.pathsep.join([str(packages), PATH])},
        cwd=HERE.parent,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    parts: dict[str, float] = json.loads(run.stdout)
    return parts


def _others(ships: str) -> tuple[str, ...]:
    """The comparisons like for like that the one as it ships, against a naive handler without bytecode, is not."""
    return (WITH,) if ships == WITHOUT else (WITHOUT, WITH)


def _one(figures: Figures, what: str) -> Samples:
    return {name: [each[what] for each in taken] for name, taken in figures.items()}


def _init(figures: Figures, rounds: int, ships: str) -> Row:
    times = _one(figures, "init")
    naive, ours = f"{NAIVE}, {WITHOUT}", f"{ENROLLMENT}, {ships}"
    after = Spread.of([each["memory after"] for each in figures[ours]])
    table = []
    for name, taken in figures.items():
        spread = Spread.of(times[name])
        memory = Spread.of([each["memory"] for each in taken]).median
        table.append(
            [
                name,
                f"{number(spread.median)} ms",
                f"{number(spread.low)} … {number(spread.high)}",
                f"{taken[0]['modules']:.0f}",
                f"{number(memory)} MB",
                f"{number(ratio(times, name, naive).median)} ×",
            ]
        )
    verdicts = [at_most(f"enrollment as it ships ({ships}) against the naive handler", ratio(times, ours, naive), 0.45)]
    for kind in _others(ships):
        like = ratio(times, f"{ENROLLMENT}, {kind}", f"{NAIVE}, {kind}")
        verdicts.append(at_most(f"like for like, both {kind}", like, 0.45))
    limit = ratio(times, ours, f"{EMPTY}, {ships}")
    verdicts.append(Verdict("enrollment as it ships against an empty handler", *dataclasses.astuple(limit)))
    verdicts.append(at_most("memory after the first enrollment", after, MEGABYTES, "MB"))
    compiling, compiled = (Spread.of(times[f"{ENROLLMENT}, {kind}"]).median for kind in (WITHOUT, WITH))
    return Row(
        "init",
        "Init of each function",
        f"AWS's runtime interface emulator and awslambdaric, a fresh process each time, {rounds} rounds in turn. The "
        "time is the emulator's own for the init phase: the interpreter's start, the runtime client, the handler's "
        "import. The naive handler imports and makes the same libraries at module level "
        "(`benchmarks/naive`), of the same versions, as they come.",
        ["function", "init", "quartiles", "modules", "resident", "times the naive"],
        table,
        verdicts,
        [
            f"Compiling what it imports takes {number(compiling - compiled)} ms of enrollment's init without bytecode, "
            f"which is {number(100 * (compiling - compiled) / compiling)} %. Lambda's file system is read-only: "
            "each init does it again."
        ],
        _plot(times),
        {"starts": figures, "ships": ships},
    )


def _first(figures: Figures, parts: list[dict[str, float]], restored: list[float], ships: str) -> Row:
    totals, invocations = _one(figures, "total"), _one(figures, "first")
    naive = f"{NAIVE}, nothing cached, {WITHOUT}"
    table = []
    for name in totals:
        spread, first = Spread.of(totals[name]), Spread.of(invocations[name])
        table.append(
            [
                name,
                f"{number(spread.median)} ms",
                f"{number(spread.low)} … {number(spread.high)}",
                f"{number(first.median)} ms",
                f"{number(ratio(totals, name, naive).median)} ×",
            ]
        )
    verdicts = []
    for state in ("nothing cached", "shared cache warm"):
        spread = ratio(totals, f"{ENROLLMENT}, {state}, {ships}", naive)
        verdicts.append(at_most(f"{state}, as it ships ({ships})", spread, 0.6))
        for kind in _others(ships):
            like = ratio(totals, f"{ENROLLMENT}, {state}, {kind}", f"{NAIVE}, nothing cached, {kind}")
            verdicts.append(at_most(f"{state}, like for like, both {kind}", like, 0.6))
    return Row(
        "first",
        "First enrollment of a cold environment",
        f"From the environment's start to its answer: init and invocation, as the emulator measured both, against the "
        f"sandbox's strict Nexi and moto. No SnapStart. {len(parts)} rounds in turn.",
        ["contestant", "start to answer", "quartiles", "of that, invocation", "times the naive"],
        table,
        verdicts,
        [
            _where(parts),
            f"After a snapshot (SnapStart), which has all that `prepare` made and no connection, there remain "
            f"{number(Spread.of(restored).median)} ms of the processor, and no init.",
        ],
        _plot(totals),
        {"starts": figures, "ships": ships, "parts": parts, "restored": restored},
    )


def _where(parts: list[dict[str, float]]) -> str:
    steps = {
        step: Spread.of([each[step] for each in parts]).median for step in parts[0] if step not in ("total", "cpu")
    }
    whole = Spread.of([each["cpu"] for each in parts]).median
    told = ", ".join(f"{step} {number(each)} ms" for step, each in sorted(steps.items(), key=lambda item: -item[1]))
    return (
        f"Where the first invocation goes, nothing cached, with bytecode and stand-ins that answer at once, of "
        f"{number(whole)} ms of the processor: {told}."
    )


def _plot(samples: Samples) -> dict[str, Any]:
    bars = {name: list(dataclasses.astuple(Spread.of(taken))) for name, taken in samples.items()}
    return {"kind": "bars", "unit": "ms", "bars": bars}
