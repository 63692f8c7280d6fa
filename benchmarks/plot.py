"""Plots as SVG: bars with their quartiles, stacks, and lines. Readable on a light page and on a dark one."""

from io import StringIO
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.measure import number

GREY = "#808080"
STYLE = {
    **{f"axes.spines.{side}": False for side in ("top", "right")},
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), GREY),
    "font.size": 9,
    # The same figures give the same file, and letters that no reader's machine need have.
    "svg.hashsalt": "softpos",
    "svg.fonttype": "path",
}
WIDTH, ROW = 7.6, 0.27
"""In inches."""


def svg(plot: dict[str, Any], title: str) -> str:
    """The plot that a row has."""
    draw = {"bars": _bars, "stacks": _stacks, "lines": _lines}[plot["kind"]]
    with mpl.rc_context(STYLE):
        figure = Figure(layout="constrained")
        draw(figure.subplots(), plot)
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Title": title, "Date": None})
    return written.getvalue()


def _bars(axes: Axes, plot: dict[str, Any]) -> None:
    bars: dict[str, list[float]] = plot["bars"]
    medians = [median for median, *_ in bars.values()]
    quartiles = [
        [median - low for median, low, _ in bars.values()],
        [high - median for median, _, high in bars.values()],
    ]
    colours = ["C0" if "softpos" in name or "Function" in name else "C1" for name in bars]
    drawn = axes.barh(list(bars), medians, xerr=quartiles, color=colours, ecolor=GREY)
    axes.bar_label(drawn, [f"{number(median)} {plot['unit']}" for median in medians], padding=4)
    _as_a_list(axes, rows=1 + len(bars))


def _stacks(axes: Axes, plot: dict[str, Any]) -> None:
    stacks: dict[str, dict[str, float]] = plot["stacks"]
    reached = dict.fromkeys(stacks, 0.0)
    for part in next(iter(stacks.values())):
        widths = [parts[part] for parts in stacks.values()]
        drawn = axes.barh(list(stacks), widths, left=list(reached.values()), label=part)
        reached = {name: reached[name] + parts[part] for name, parts in stacks.items()}
    axes.bar_label(drawn, [f"{number(whole)} {plot['unit']}" for whole in reached.values()], padding=4)
    _as_a_list(axes, rows=6)
    axes.figure.legend(loc="outside lower center", ncols=3, frameon=False)


def _as_a_list(axes: Axes, rows: int) -> None:
    """The first on top, and the figures beside their bars in the place of an axis."""
    axes.figure.set_size_inches(WIDTH, rows * ROW)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(left=False)


def _lines(axes: Axes, plot: dict[str, Any]) -> None:
    for name, points in plot["lines"].items():
        axes.plot([x for x, _ in points], [y for _, y in points], label=name)
    axes.figure.set_size_inches(WIDTH, 11 * ROW)
    highest = max(y for points in plot["lines"].values() for _, y in points)
    axes.set(xlabel=plot["x"], ylabel=plot["y"], xlim=0, ylim=(0, 1.1 * highest))
    if len(plot["lines"]) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False)
