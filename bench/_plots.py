"""Lines over votes as an SVG file: one row of axes for each figure, one line for each seed."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

WIDTH, HEIGHT, LEFT, GAP = 720, 130, 70, 46
COLOURS = ("#1f6feb", "#d1700f", "#2da44e", "#8250df", "#bf3989")
ROWS = (
    ("win_rate", "win rate against the base", 0.0, 1.0),
    ("kl_nats", "KL(live || base), nats", 0.0, None),
    ("perplexity_ratio", "perplexity on a second domain", None, None),
    ("promotions", "versions promoted", 0.0, None),
)


def lives(seeds: Sequence[Sequence[Mapping[str, Any]]], turn_votes: int) -> str:
    """`seeds`: rounds with `votes` and the figures of `ROWS`. A dashed line marks the turn."""
    most = max(each["votes"] for rounds in seeds for each in rounds)
    height = GAP + len(ROWS) * (HEIGHT + GAP)
    body = []
    for number, (name, title, low, high) in enumerate(ROWS):
        lines = [[(each["votes"], float(each[name])) for each in rounds] for rounds in seeds]
        values = [value for line in lines for _, value in line]
        bottom = min(values) if low is None else low
        top = max(*values, bottom + 1e-3) if high is None else high
        body.append(_axes(GAP + number * (HEIGHT + GAP), title, (bottom, top), lines, most, turn_votes))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + LEFT + 20} {height}" '
        f'font-family="system-ui, sans-serif" font-size="13">\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{"".join(body)}</svg>\n'
    )


def _axes(
    y: float,
    title: str,
    span: tuple[float, float],
    lines: Sequence[Sequence[tuple[float, float]]],
    most: float,
    turn: float,
) -> str:
    bottom, top = span

    def place(votes: float, value: float) -> tuple[float, float]:
        share = (value - bottom) / (top - bottom)
        return LEFT + WIDTH * votes / most, y + HEIGHT * (1 - share)

    right, x_turn = LEFT + WIDTH, place(turn, bottom)[0]
    parts = [
        f'<text x="{LEFT}" y="{y - 8}" font-weight="600">{escape(title)}</text>\n',
        f'<path d="M{LEFT} {y}V{y + HEIGHT}H{right}" fill="none" stroke="#888"/>\n',
        f'<path d="M{x_turn:.1f} {y}V{y + HEIGHT}" stroke="#888" stroke-dasharray="4 4"/>\n',
        f'<text x="{LEFT - 8}" y="{y + 10}" text-anchor="end">{top:.3g}</text>\n',
        f'<text x="{LEFT - 8}" y="{y + HEIGHT}" text-anchor="end">{bottom:.3g}</text>\n',
        f'<text x="{right}" y="{y + HEIGHT + 16}" text-anchor="end">{most:g} votes</text>\n',
        f'<text x="{x_turn:.1f}" y="{y + HEIGHT + 16}" text-anchor="middle">taste turns</text>\n',
    ]
    for number, line in enumerate(lines):
        points = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in line)
        colour = COLOURS[number % len(COLOURS)]
        parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="2"/>\n')
    return "".join(parts)
