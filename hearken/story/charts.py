"""Figures as SVG text: two axes, and lines, bars, estimates and flags on them. Pure: text out of numbers.

`STYLE` has the colours, light and dark, for the page or the file that the figures are put into. Every text is
escaped here.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 480, 240
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 34, 26
COLOURS = 5
"""Kinds of lines that can be told apart."""

STYLE = """
:root { --ground: #ffffff; --ink: #1b1f24; --soft: #59636e; --grid: #e1e5ea; --up: #1a7f37; --down: #cf222e;
  --c0: #1f6feb; --c1: #b35900; --c2: #1a7f37; --c3: #8250df; --c4: #bf3989; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #12161c; --ink: #e6edf3; --soft: #9aa4af; --grid: #2b323b; --up: #3fb950; --down: #f85149;
    --c0: #58a6ff; --c1: #e3a04f; --c2: #3fb950; --c3: #bc8cff; --c4: #f778ba; }
}
svg { font: 14px system-ui, sans-serif; }
svg text { fill: var(--soft); } svg .title { fill: var(--ink); font-weight: 600; }
svg .empty { paint-order: stroke; stroke: var(--ground); stroke-width: 10px; }
svg .ground { fill: var(--ground); } svg path, svg polyline { fill: none; }
svg .axis { stroke: var(--soft); } svg .grid { stroke: var(--grid); }
svg .line, svg .estimate { stroke-width: 2; } svg .dashed { stroke-dasharray: 5 4; }
svg .c0 { stroke: var(--c0); } svg .c1 { stroke: var(--c1); } svg .c2 { stroke: var(--c2); }
svg .c3 { stroke: var(--c3); } svg .c4 { stroke: var(--c4); }
svg circle { fill: var(--c0); } svg .bar { fill: var(--c0); }
svg .up { fill: var(--up); stroke: var(--up); } svg .down { fill: var(--down); stroke: var(--down); }
svg .mark { stroke-width: 1; stroke-opacity: .45; }
"""

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Axis:
    """What an axis spans, and where a text stands on it."""

    low: float
    high: float
    ticks: Sequence[tuple[float, str]]


@dataclass(frozen=True, slots=True)
class Line:
    """Points that are joined; a single one is a dot, or a piece of a dashed line. colour: below `COLOURS`."""

    points: Sequence[Point]
    colour: int = 0
    dashed: bool = False


@dataclass(frozen=True, slots=True)
class Bar:
    """A bar from 0 to `value` that covers `x` to `end`."""

    x: float
    end: float
    value: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the interval that it may lie in. text: what a reader who points at it is told."""

    x: float
    low: float
    value: float
    high: float
    text: str = ""


@dataclass(frozen=True, slots=True)
class Flag:
    """Something that happened at `x`: for the better (`up`), or something was taken back."""

    x: float
    up: bool
    text: str


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure with one unit on its upright axis. empty: what it says where there is nothing to draw."""

    title: str
    unit: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = ()
    bars: Sequence[Bar] = ()
    estimates: Sequence[Estimate] = ()
    flags: Sequence[Flag] = ()
    empty: str = ""


def axis(values: Iterable[float], low: float | None = None, high: float | None = None) -> Axis:
    """An axis over values, from `low` to `high` where they are given; its ends are ticks unless given."""
    found = [value for value in values if math.isfinite(value)]
    bottom = min(found, default=0.0) if low is None else low
    top = max(found, default=bottom + 1.0) if high is None else high
    if top <= bottom:
        top = bottom + (abs(bottom) or 1.0)
    step = _step(top - bottom)
    first, last = math.floor(bottom / step + 1e-9), math.ceil(top / step - 1e-9)
    if low is not None:
        first = math.ceil(low / step - 1e-9)
    if high is not None:
        last = math.floor(high / step + 1e-9)
    ticks = [(number * step, f"{number * step:.6g}") for number in range(first, last + 1)]
    return Axis(
        first * step if low is None else low,
        last * step if high is None else high,
        ticks,
    )


def svg(figure: Figure) -> str:
    """A figure for an HTML page, which has the `STYLE`."""
    label = escape(figure.title)
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">{drawn(figure)}</svg>'


def file(figures: Sequence[Figure]) -> str:
    """Figures one below the other, as an SVG file of its own."""
    body = "".join(
        f'<g transform="translate(0 {n * HEIGHT})">{drawn(f)}</g>\n' for n, f in enumerate(figures)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {len(figures) * HEIGHT}">\n'
        f'<style>{STYLE}</style>\n<rect class="ground" width="100%" height="100%"/>\n{body}</svg>\n'
    )


def drawn(figure: Figure) -> str:
    """A figure as SVG elements, `WIDTH` by `HEIGHT`."""
    place = _Place(figure.x, figure.y)
    parts = [
        f'<text x="4" y="18"><tspan class="title">{escape(figure.title)}</tspan> {escape(figure.unit)}</text>'
    ]
    parts += _axes(figure, place)
    if figure.empty:
        middle = f'x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{(TOP + HEIGHT - BOTTOM) / 2:g}"'
        parts.append(f'<text class="empty" {middle} text-anchor="middle">{escape(figure.empty)}</text>')
    parts += [_bar(bar, place) for bar in figure.bars]
    parts += [_flag(flag, place) for flag in figure.flags]
    parts += [_line(line, place) for line in figure.lines if line.points]
    parts += [_estimate(estimate, place) for estimate in figure.estimates]
    return "".join(parts)


class _Place:
    """Where a point of a figure lies in its drawing. What is beyond an axis lies at its end."""

    def __init__(self, x: Axis, y: Axis) -> None:
        self._x, self._y = x, y

    def x(self, value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * _share(value, self._x)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(value, self._y)


def _share(value: float, along: Axis) -> float:
    return min(1.0, max(0.0, (value - along.low) / ((along.high - along.low) or 1.0)))


def _step(span: float) -> float:
    """A round distance of ticks, of which four or so fit."""
    power = 10.0 ** math.floor(math.log10(span / 4))
    return next(power * factor for factor in (1, 2, 5, 10) if power * factor >= span / 4 * (1 - 1e-9))


def _axes(figure: Figure, place: _Place) -> list[str]:
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value, text in figure.y.ticks:
        y = place.y(value)
        parts.append(f'<path class="grid" d="M{LEFT} {y:.1f}H{right}"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 5:.1f}" text-anchor="end">{escape(text)}</text>')
    for value, text in figure.x.ticks:
        x = place.x(value)
        parts.append(f'<path class="axis" d="M{x:.1f} {bottom}v4"/>')
        anchor = "end" if x > right - 24 else "middle"
        parts.append(f'<text x="{x:.1f}" y="{bottom + 19}" text-anchor="{anchor}">{escape(text)}</text>')
    return [*parts, f'<path class="axis" d="M{LEFT} {bottom}H{right}"/>']


def _line(line: Line, place: _Place) -> str:
    kind = f"line c{line.colour % COLOURS}{' dashed' if line.dashed else ''}"
    if len(line.points) == 1:
        x, y = place.x(line.points[0][0]), place.y(line.points[0][1])
        if line.dashed:
            return f'<path class="{kind}" d="M{x - 16:.1f} {y:.1f}h32"/>'
        return f'<circle class="{kind}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>'
    points = " ".join(f"{place.x(x):.1f},{place.y(y):.1f}" for x, y in line.points)
    return f'<polyline class="{kind}" points="{points}"/>'


def _bar(bar: Bar, place: _Place) -> str:
    left, right, y = place.x(bar.x), place.x(bar.end), place.y(bar.value)
    width = max(0.5, right - left - 1)
    return f'<rect class="bar" x="{left:.1f}" y="{y:.1f}" width="{width:.1f}" height="{place.y(0) - y:.1f}"/>'


def _estimate(each: Estimate, place: _Place) -> str:
    x, low, high = place.x(each.x), place.y(each.low), place.y(each.high)
    return (
        f'<g><title>{escape(each.text)}</title><path class="estimate c0" d="M{x:.1f} {low:.1f}V{high:.1f}'
        f'M{x - 3:.1f} {low:.1f}h6M{x - 3:.1f} {high:.1f}h6"/>'
        f'<circle cx="{x:.1f}" cy="{place.y(each.value):.1f}" r="4"/></g>'
    )


def _flag(flag: Flag, place: _Place) -> str:
    x, bottom, kind = place.x(flag.x), HEIGHT - BOTTOM, "up" if flag.up else "down"
    head = f"M{x - 5:.1f} {bottom}h10l-5 -9z" if flag.up else f"M{x - 5:.1f} {bottom - 9}h10l-5 9z"
    return (
        f'<g><title>{escape(flag.text)}</title><path class="mark {kind}" d="M{x:.1f} {TOP}V{bottom}"/>'
        f'<path class="{kind}" style="fill:var(--{kind})" d="{head}"/></g>'
    )
