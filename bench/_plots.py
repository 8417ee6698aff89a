"""Lines over votes as an SVG file: one figure for each number, one line for each seed."""

from collections.abc import Mapping, Sequence
from typing import Any

from hearken.story.charts import Axis, Figure, Line, axis, file

ROWS = (
    ("win_rate", "Win rate against the base", "share of prompts", 0.0, 1.0),
    ("kl_nats", "KL(live || base)", "nats", 0.0, None),
    ("perplexity_ratio", "Perplexity on a second domain", "ratio", None, None),
    ("promotions", "Versions promoted", "", 0.0, None),
)


def lives(seeds: Sequence[Sequence[Mapping[str, Any]]], turn_votes: int) -> str:
    """`seeds`: rounds with `votes` and the figures of `ROWS`. A dashed line marks the turn."""
    most = max(each["votes"] for rounds in seeds for each in rounds)
    votes = Axis(0.0, most, [(turn_votes, "taste turns"), (most, f"{most:g} votes")])
    figures = []
    for name, title, unit, low, high in ROWS:
        points = [[(each["votes"], float(each[name])) for each in rounds] for rounds in seeds]
        upright = axis([value for line in points for _, value in line], low, high)
        turn = Line([(turn_votes, upright.low), (turn_votes, upright.high)], 4, dashed=True)
        lines = [turn, *(Line(line, number) for number, line in enumerate(points))]
        figures.append(Figure(title, unit, votes, upright, lines))
    return file(figures)
