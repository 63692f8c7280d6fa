"""The measuring core: contestants take turns in one run, so that what disturbs the machine disturbs them all alike."""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Samples = dict[str, list[float]]
"""By contestant, one figure for each round: the n-th of each was taken in the same moment."""


@dataclass(frozen=True)
class Spread:
    """A median, and the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> "Spread":
        if len(figures) < 2:
            return cls(figures[0], figures[0], figures[0])
        low, median, high = statistics.quantiles(figures, n=4, method="inclusive")
        return cls(median, low, high)


@dataclass(frozen=True)
class Verdict:
    """A measured figure, and what it was to be. Without a target it is for the reader to judge."""

    what: str
    value: float
    low: float | None = None
    high: float | None = None
    unit: str = "×"
    target: str | None = None
    met: bool | None = None


@dataclass
class Row:
    """What one benchmark found: all that the report says of it, and the raw figures."""

    name: str
    title: str
    how: str
    columns: list[str]
    table: list[list[str]]
    verdicts: list[Verdict]
    notes: list[str] = field(default_factory=list)
    plot: dict[str, Any] | None = None
    raw: dict[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def take_turns(contestants: dict[str, Callable[[], object]], rounds: int, repeat: int = 1) -> Samples:
    """Milliseconds of one call. In each round every contestant is called `repeat` times in a row, in turn.

    The collector runs between the turns, so that nobody pays for another's garbage.
    """
    samples: Samples = {name: [] for name in contestants}
    names = list(contestants)
    for name in names:
        contestants[name]()
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            call = contestants[name]
            gc.collect(0)
            began = time.perf_counter()
            for _ in range(repeat):
                call()
            samples[name].append((time.perf_counter() - began) * 1000 / repeat)
    return samples


def ratio(samples: Samples, ours: str, theirs: str) -> Spread:
    """Ratio of the medians; its quartiles are those of the ratios within each round."""
    pairwise = Spread.of([one / other for one, other in zip(samples[ours], samples[theirs], strict=True)])
    return Spread(statistics.median(samples[ours]) / statistics.median(samples[theirs]), pairwise.low, pairwise.high)


def at_most(what: str, spread: Spread, limit: float, unit: str = "×") -> Verdict:
    """The verdict on a figure that was to be no more than this."""
    target = f"≤ {limit:g}{'' if unit == '×' else ' '}{unit}"
    return Verdict(what, spread.median, spread.low, spread.high, unit, target, met=spread.median <= limit)


def exactly(what: str, value: float, wanted: float, unit: str) -> Verdict:
    """The verdict on a count."""
    return Verdict(what, value, unit=unit, target=f"{wanted:g} {unit}", met=value == wanted)


def medians(samples: Samples, unit: str, against: str) -> list[list[str]]:
    """A table's rows: contestant, median, quartiles, and how many times the one that all are held against."""
    rows = []
    for name, figures in samples.items():
        spread, times = Spread.of(figures), ratio(samples, name, against)
        rows.append(
            [
                name,
                f"{number(spread.median)} {unit}",
                f"{number(spread.low)} … {number(spread.high)}",
                f"{number(times.median)} ×",
            ]
        )
    return rows


MEDIANS = ["contestant", "median", "quartiles", "times the limit"]


def number(value: float) -> str:
    """Three figures, and no more; a count is a count."""
    if value >= 1000 or value == int(value):
        return f"{value:,.0f}"
    if value >= 10:
        return f"{value:.0f}" if value >= 100 else f"{value:.1f}"
    return f"{value:.2f}" if value >= 0.1 else f"{value:.2g}"
