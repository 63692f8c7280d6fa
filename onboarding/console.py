"""What the commands print: for people on a terminal, plain when piped, JSON for machines.

Results go to standard output, everything else to standard error.
"""

import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from softpos.errors import SoftposError


def out() -> Console:
    """Standard output. Made anew each time: what `sys.stdout` is may change. Nothing is cut off in a pipe."""
    return Console(highlight=False, markup=False, emoji=False, soft_wrap=True, **_unless_terminal(sys.stdout))


def err() -> Console:
    """Standard error."""
    return Console(
        highlight=False, markup=False, emoji=False, soft_wrap=True, stderr=True, **_unless_terminal(sys.stderr)
    )


def say(text: str | Text = "") -> None:
    """A line of the result."""
    out().print(_safe(text))


def remark(text: str | Text) -> None:
    """A line about what is being done, which is no part of the result."""
    err().print(_safe(text), style="dim")


def warn(text: str) -> None:
    """A line about what should be looked at."""
    err().print(_safe(Text.assemble(("softpos: ", "bold yellow"), text)))


def fail(error: SoftposError) -> None:
    """What was found, and what to do."""
    console = err()
    console.print(_safe(Text.assemble(("softpos: ", "bold red"), str(error))))
    if error.remedy:
        console.print(_safe(f"         {error.remedy}"))


def say_json(value: Any) -> None:
    """The result for machines."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Rows under headings."""
    grid = Table(box=None, pad_edge=False, header_style="bold")
    for heading in headings:
        grid.add_column(heading, no_wrap=True)
    for row in rows:
        grid.add_row(*(_safe(Text(cell)) for cell in row))
    _print(grid)


def pairs(rows: Iterable[tuple[str, str]], indent: int = 0) -> None:
    """Names and values, aligned."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    grid.add_column(no_wrap=True, style="dim")
    grid.add_column(overflow="fold")
    for name, value in rows:
        grid.add_row(" " * indent + name, _safe(Text(value)))
    _print(grid)


def _print(grid: Table) -> None:
    console = out()
    if console.is_terminal:
        console.print(grid)
        return
    with console.capture() as captured:
        console.print(grid)
    # rich fills every line up to the widest.
    console.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))


def _safe(text: str | Text) -> str | Text:
    """Without what a terminal would obey: some of it comes out of a mail, some out of Nexi's answers."""
    plain = text if isinstance(text, str) else text.plain
    if all(each.isprintable() or each == "\n" for each in plain):
        return text
    return "".join(each if each.isprintable() or each == "\n" else "\N{REPLACEMENT CHARACTER}" for each in plain)


@contextmanager
def waiting(what: str) -> Iterator[None]:
    """Shows that something is under way, on a terminal."""
    console = err()
    if not console.is_terminal:
        yield
        return
    with console.status(what):
        yield


def _unless_terminal(stream: Any) -> dict[str, Any]:
    return {} if stream.isatty() else {"width": 10_000, "no_color": True, "force_terminal": False}
