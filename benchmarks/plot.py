"""Plots as SVG, by hand: bars with their quartiles, stacks, and lines. Readable on a light page and on a dark one."""

from html import escape
from typing import Any

from benchmarks.measure import number

WIDTH, LABELS, BAR, MARGIN = 760, 330, 22, 12
COLOURS = ("#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b")
GREY = "#808080"


def svg(plot: dict[str, Any], title: str) -> str:
    """The plot that a row has."""
    body, height = {"bars": _bars, "stacks": _stacks, "lines": _lines}[plot["kind"]](plot)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif" '
        f'font-size="13" role="img">\n<title>{escape(title)}</title>\n' + "\n".join(body) + "\n</svg>\n"
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" fill="{GREY}">{escape(text)}</text>'


def _rectangle(x: float, y: float, width: float, colour: str) -> str:
    return f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(width, 1):.1f}" height="{BAR - 8}" fill="{colour}"/>'


def _line(points: list[tuple[float, float]], colour: str, width: float = 1.0) -> str:
    where = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    return f'<polyline points="{where}" fill="none" stroke="{colour}" stroke-width="{width}"/>'


def _bars(plot: dict[str, Any]) -> tuple[list[str], int]:
    bars: dict[str, list[float]] = plot["bars"]
    scale = (WIDTH - LABELS - 100) / max(high for *_, high in bars.values())
    body = []
    for position, (name, (median, low, high)) in enumerate(bars.items()):
        top = MARGIN + position * BAR
        body += [
            _text(LABELS - 8, top + 12, name, "end"),
            _rectangle(LABELS, top, median * scale, COLOURS["softpos" not in name and "Function" not in name]),
            _line([(LABELS + low * scale, top + 7), (LABELS + high * scale, top + 7)], GREY, 2),
            _text(LABELS + max(median, high) * scale + 6, top + 12, f"{number(median)} {plot['unit']}"),
        ]
    return body, 2 * MARGIN + len(bars) * BAR


def _stacks(plot: dict[str, Any]) -> tuple[list[str], int]:
    stacks: dict[str, dict[str, float]] = plot["stacks"]
    scale = (WIDTH - LABELS - 100) / max(sum(parts.values()) for parts in stacks.values())
    body = []
    for position, (name, parts) in enumerate(stacks.items()):
        top, x = MARGIN + position * BAR, float(LABELS)
        body.append(_text(LABELS - 8, top + 12, name, "end"))
        for colour, value in zip(COLOURS, parts.values(), strict=False):
            body.append(_rectangle(x, top, value * scale, colour))
            x += value * scale
        body.append(_text(x + 6, top + 12, f"{number(sum(parts.values()))} ms"))
    names = list(next(iter(stacks.values())))
    for position, (colour, name) in enumerate(zip(COLOURS, names, strict=False)):
        top = 2 * MARGIN + (len(stacks) + position) * BAR
        body += [_rectangle(LABELS, top, 14, colour), _text(LABELS + 22, top + 12, name)]
    return [*body], 3 * MARGIN + (len(stacks) + len(names)) * BAR


def _lines(plot: dict[str, Any]) -> tuple[list[str], int]:
    lines: dict[str, list[list[float]]] = plot["lines"]
    height, left, bottom, right = 300, 70, 260, WIDTH - 180
    most_x = max(x for points in lines.values() for x, _ in points) or 1
    most_y = 1.1 * max(y for points in lines.values() for _, y in points) or 1
    body = [
        _line([(left, MARGIN), (left, bottom), (right, bottom)], GREY),
        _text(left - 6, bottom + 4, "0", "end"),
        _text(left - 6, bottom - (bottom - MARGIN) / 1.1 + 4, number(most_y / 1.1), "end"),
        _text(right, bottom + 18, f"{number(most_x)} {plot['x']}", "end"),
        _text(left + 6, MARGIN + 8, plot["y"]),
    ]
    for position, (colour, (name, points)) in enumerate(zip(COLOURS, lines.items(), strict=False)):
        scaled = [(left + x / most_x * (right - left), bottom - y / most_y * (bottom - MARGIN)) for x, y in points]
        body += [
            _line(scaled, colour, 2),
            _rectangle(right + 14, MARGIN + 20 + position * BAR, 14, colour),
            _text(right + 34, MARGIN + 32 + position * BAR, name),
        ]
    return body, height
