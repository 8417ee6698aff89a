"""The learner's steps as series of numbers over time, for figures. Pure."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from feedback.core.log import Record
from feedback.updates import steps
from feedback.updates.steps import StepRecord

MOST_POINTS = 300
"""Points of a line: longer ones are drawn by so many groups of steps."""

MOST_STEPS = 20_000
"""Steps that whoever looks at a running service keeps, the newest: about 6 MB."""

Series = list[list[float]]
"""[Unix time, value] pairs."""


def mean(values: Sequence[float]) -> float:
    """The mean of at least one value."""
    return math.fsum(values) / len(values)


SERIES: Mapping[str, Callable[[Sequence[float]], float]] = {
    "kl_nats": max,
    "kl_budget_nats": min,
    "reward": mean,
    "accuracy": mean,
    "entropy_nats": mean,
    "response_tokens": mean,
    "cut_off": mean,
}
"""What is drawn of steps, and what stands for a group of them: of KL and its budget the worst."""


class StepFold:
    """Steps as columns of numbers, each step once however often its record comes.

    since, until: Unix times between which steps are kept. most: how many are, the last to come; None: all.
    """

    def __init__(self, since: float = -math.inf, until: float = math.inf, most: int | None = None) -> None:
        self._since, self._until, self._most = since, until, most
        self.first = math.inf  # when the first step was that was seen, of whatever time
        self._rows: dict[str, tuple[float, int, int, tuple[float | None, ...]]] = {}

    def take(self, record: Record) -> None:
        """Take in a record of the topic in which steps lie, where it is one."""
        if record.key == steps.KEY and (step := steps.parse(record.value)) is not None:
            self.add(step)

    def add(self, record: StepRecord) -> None:
        """Take in a step; others than of the time asked for are passed over."""
        self.first = min(self.first, record.at)
        if self._since <= record.at <= self._until:
            values = tuple(getattr(record, name) for name in SERIES)
            self._rows[record.event_id] = (record.at, record.step, record.votes, values)
        if self._most is not None and len(self._rows) > self._most:
            del self._rows[next(iter(self._rows))]

    def told(self) -> dict[str, Any]:
        """count, the votes used by the newest step, and each of `SERIES` as points of so many steps."""
        rows = sorted(self._rows.values(), key=lambda row: row[:2])
        group = max(1, math.ceil(len(rows) / MOST_POINTS))
        series = {}
        for place, (name, pick) in enumerate(SERIES.items()):
            points = [(row[0], row[3][place]) for row in rows]
            series[name] = thinned([(at, v) for at, v in points if v is not None], group, pick)
        return {
            "count": len(rows),
            "first": rows[0][1] if rows else None,
            "newest": rows[-1][1] if rows else None,
            "votes_used": rows[-1][2] if rows else None,
            "steps_per_point": group,
            "series": series,
        }


def thinned(
    points: Sequence[tuple[float, float]], group: int, pick: Callable[[Sequence[float]], float]
) -> Series:
    """Points of `group` each: at the time of the group's newest, with what `pick` makes of its values."""
    groups = [points[i : i + group] for i in range(0, len(points), group)]
    return [[each[-1][0], float(f"{pick([value for _, value in each]):.6g}")] for each in groups]
