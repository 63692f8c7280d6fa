"""`python -m benchmarks [--size smallest|usual] [row …]`: measure, and write figures and page."""

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks import report
from benchmarks.measure import Row

ROOT = Path(__file__).parents[1]
SIZES = ("smallest", "usual")
ROWS = {
    "assertion": ("assertion", "run"),
    "connection": ("connection", "run"),
    "warm": ("warm", "run"),
    "cold": ("cold", "run"),
    "at_once": ("at_once", "run"),
    "day": ("day", "run"),
    "throughput": ("throughput", "run"),
    "terminals": ("terminals", "run"),
    "soak": ("throughput", "soak"),
}
"""In the order of the page: what to ask for, and who measures it. `cost` comes of `warm`."""
PACKAGES = ("cryptography", "python-jose", "joserfc", "jwcrypto", "boto3", "requests", "aws-lambda-powertools", "moto")


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="row", help=f"of {', '.join(ROWS)}; all, if not said")
    parser.add_argument("--size", choices=SIZES, default="usual")
    parser.add_argument("--results", type=Path, help="benchmarks/results.json; for the smallest size, nowhere to stay")
    parser.add_argument("--docs", type=Path, help="docs; for the smallest size, nowhere to stay")
    given = parser.parse_args(arguments)
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}")
    if not (given.results and given.docs):
        root = ROOT if given.size == "usual" else Path(tempfile.mkdtemp(prefix="softpos-benchmarks-"))
        given.results = given.results or root / "benchmarks" / "results.json"
        given.docs = given.docs or root / "docs"
    given.results.parent.mkdir(parents=True, exist_ok=True)
    # Powertools reads it when it is imported, which the rows do.
    os.environ.setdefault("POWERTOOLS_SERVICE_NAME", "softpos")
    results = {"machine": machine(given.size), "rows": measured(given.rows or list(ROWS), given.size, print)}
    if given.rows and given.results.exists():
        results = _merged(json.loads(given.results.read_text()), results)
    given.results.write_text(_text(results))
    # From the file, and not from memory: what the page says is what the file says.
    report.write(json.loads(given.results.read_text()), given.docs)
    print(f"{given.docs / 'benchmarks.md'} and {given.results}")


def measured(names: list[str], size: str, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """The rows, as results.json has them."""
    rows: list[dict[str, Any]] = []
    for name in names:
        module, function = ROWS[name]
        began = time.perf_counter()
        found: Row | list[Row] = getattr(importlib.import_module(f"benchmarks.{module}"), function)(size)
        for row in found if isinstance(found, list) else [found]:
            row.seconds = round(time.perf_counter() - began, 1)
            rows.append(_dated(row, size))
            tell(_told(row))
        if name == "warm":
            from benchmarks import cost

            rows.append(_dated(cost.run(rows[-2]), size))
    # What it is made of comes first, and it comes last.
    return sorted(rows, key=lambda row: row["name"] == "cost")


def _dated(row: Row, size: str) -> dict[str, Any]:
    return {**row.as_json(), "size": size, "at": _now(), "load": os.getloadavg()[0]}


def _told(row: Row) -> str:
    lines = [f"{row.title}: {row.seconds:g} s"]
    for verdict in row.verdicts:
        if verdict.target:
            met = {True: "met", False: "MISSED", None: "not measured"}[verdict.met]
            lines.append(f"  {met:12} {verdict.what}: {verdict.value:.3g} {verdict.unit} (target {verdict.target})")
    return "\n".join(lines)


def _text(results: dict[str, Any]) -> str:
    """As JSON, a row a line, with four decimals: more is noise."""

    def rounded(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: rounded(each) for name, each in value.items()}
        if isinstance(value, list | tuple):
            return [rounded(each) for each in value]
        return round(value, 4) if isinstance(value, float) and abs(value) > 0.001 else value

    rows = ",\n".join(json.dumps(rounded(row), ensure_ascii=False) for row in results["rows"])
    return f'{{"machine": {json.dumps(results["machine"], ensure_ascii=False)},\n"rows": [\n{rows}\n]}}\n'


def _merged(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    """What was measured now in the place of what was measured before."""
    fresh = {row["name"]: row for row in now["rows"]}
    rows = [fresh.pop(row["name"], row) for row in before["rows"]]
    return {"machine": now["machine"], "rows": [*rows, *fresh.values()]}


def machine(size: str) -> dict[str, Any]:
    """Where and with what it was measured."""
    cpu = "unknown"
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next((line.partition(": ")[2] for line in lines if line.startswith(("model name", "CPU part"))), cpu)
    described = subprocess.run(
        ["git", "-C", str(ROOT), "describe", "--always", "--dirty"],  # noqa: S607 - whichever git it is
        capture_output=True,
        text=True,
        check=False,
    )
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores, {platform.machine()}",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "packages": ", ".join(f"{name} {version}" for name in PACKAGES if (version := _version(name))),
        "softpos": described.stdout.strip() or "unknown",
        "size": size,
        "at": _now(),
    }


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "layers" / "softpos"))
    main()
