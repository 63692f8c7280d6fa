"""docs/benchmarks.md and its plots, out of what results.json holds and nothing else."""

from pathlib import Path
from typing import Any

from benchmarks.measure import number
from benchmarks.plot import svg

HEAD = """\
# Where we stand

Written by `make bench`, with its plots, out of [benchmarks/results.json](../benchmarks/results.json): not to be edited.
Every figure is a ratio within one run, against the limit or against what one would use instead: the contestants
take turns, so that what disturbs the machine disturbs them alike. Figures are medians; behind them are the quartiles,
of the ratios within each round where it is a ratio. Absolute times are this machine's and say nothing of Lambda's.

These are no tests: nothing fails when a target is missed. What is guarded is in `tests/unit/test_imports.py`.
"""

MISSED = """\
## What is missed, and why

- **A warm enrollment, AWS answering at once.** What the handler takes over the script is botocore's work for two calls
  of DynamoDB, and a connection of its own for the PAR ([its row](#connection) says how much, and
  [security.md](security.md) why). A DynamoDB client of our own was tried when Nexi's connection was still kept: the row
  came to 1.2 ×. It is not in the product. It would save three milliseconds of a processor, beside Nexi's hundreds, and
  renewed credentials, retries and endpoints would be ours to keep right instead. botocore's calls go without what can
  be left out: one user agent, no look through the arguments, no account's endpoint.
- **Init and first enrollment, like for like.** As it ships against what `sam build` makes of the naive handler, both
  are met: the layers bring bytecode, and of botocore's description of AWS four services. Were the naive handler's
  packages compiled, too, what is left is mostly the import of boto3, which both need, and of requests and cryptography,
  which init has. SnapStart takes all of that out of a phone's way: the last line of the row says what then remains.
"""


def write(results: dict[str, Any], folder: Path) -> None:
    """Write the page into `folder`, the plots into `folder`/benchmarks."""
    plots = folder / "benchmarks"
    plots.mkdir(parents=True, exist_ok=True)
    for old in plots.glob("*.svg"):
        old.unlink()
    for row in results["rows"]:
        if row["plot"]:
            (plots / f"{row['name']}.svg").write_text(svg(row["plot"], row["title"]))
    (folder / "benchmarks.md").write_text(page(results))


def page(results: dict[str, Any]) -> str:
    """The page's text."""
    return "\n".join([HEAD, _machine(results), _summary(results["rows"]), MISSED, *map(_section, results["rows"])])


def _machine(results: dict[str, Any]) -> str:
    rows = [[name, str(value)] for name, value in results["machine"].items()]
    return f"{_table(['the last run', ''], rows)}\n"


def _summary(rows: list[dict[str, Any]]) -> str:
    lines = []
    for row in rows:
        for verdict in row["verdicts"]:
            if verdict["target"]:
                met = {True: "yes", False: "**no**", None: "not measured"}[verdict["met"]]
                lines.append(
                    [f"[{row['title']}](#{row['name']})", verdict["what"], _value(verdict), verdict["target"], met]
                )
    return f"## Against the targets\n\n{_table(['row', 'what', 'measured', 'target', 'met'], lines)}\n"


def _section(row: dict[str, Any]) -> str:
    parts = [f'<a id="{row["name"]}"></a>\n\n## {row["title"]}', row["how"], _table(row["columns"], row["table"])]
    if row["plot"]:
        parts.append(f"![{row['title']}](benchmarks/{row['name']}.svg)")
    parts += [f"{verdict['what']}: {_value(verdict)}." for verdict in row["verdicts"] if not verdict["target"]]
    measured = f"Measured {row['at']}, size `{row['size']}`; the machine's load was then {number(row['load'])}."
    return "\n\n".join([*parts, *row["notes"], measured]) + "\n"


def _value(verdict: dict[str, Any]) -> str:
    unit = verdict["unit"] if verdict["unit"] in ("×", "") else f" {verdict['unit']}"
    spread = ""
    if verdict["low"] is not None and verdict["low"] != verdict["high"]:
        spread = f" ({number(verdict['low'])} … {number(verdict['high'])})"
    return f"{number(verdict['value'])}{unit}{spread}"


def _table(columns: list[str], rows: list[list[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
