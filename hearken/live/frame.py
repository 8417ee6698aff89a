"""One frame of `hearken watch`: a service as it was seen, drawn with rich. Pure."""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from hearken.base.telling import decided
from hearken.demo.progress import bar, evidence_bar, number, titled_rows
from hearken.demo.watch import Evidence
from hearken.live.sources import Seen, Traffic

BLOCKS = "▁▂▃▄▅▆▇█"
LINE_WIDTH = 40
"""Characters of a small line."""


def render(seen: Seen, trouble: str = "") -> RenderableType:
    """The frame. trouble: why it is not of now, where it is not."""
    rows: list[RenderableType] = [_words(seen, trouble), _release(seen), _learner(seen.learning["steps"])]
    if seen.traffic is not None:
        rows.append(_traffic(seen.traffic))
    if seen.decisions:
        rows.append(_panel("decisions", Text("\n".join(map(decided, seen.decisions)))))
    return Group(*rows)


def small_line(values: Sequence[float], width: int = LINE_WIDTH) -> str:
    """Values as blocks of eight heights, from the least to the most: means of groups where there are many."""
    groups = [values[i * len(values) // width : (i + 1) * len(values) // width] for i in range(width)]
    means = [math.fsum(each) / len(each) for each in groups if each] if len(values) > width else list(values)
    if not means:
        return ""
    low, span = min(means), max(means) - min(means)
    return "".join(BLOCKS[round((value - low) / span * 7) if span else 3] for value in means)


def _panel(title: str, inside: RenderableType) -> Panel:
    return Panel(inside, title=Text(title), title_align="left")


def _words(seen: Seen, trouble: str) -> Panel:
    lines = [Text(seen.learning["sentence"], style="bold")]
    lines += [Text(f"To do: {task}", style="yellow") for task in seen.learning["to_do"]]
    if trouble:
        lines.append(Text(f"{trouble}; trying again", style="red"))
    at = datetime.fromtimestamp(seen.at)
    return _panel(f"{seen.where} at {at:%H:%M:%S}", Group(*lines))


def _release(seen: Seen) -> Panel:
    state, rows = seen.state, titled_rows()
    rows.add_row("live", Text(state.get("live") or "base", style="bold"))
    if state["stage"] in ("canary", "holdback"):
        name = state["canary"] if state["stage"] == "canary" else f"{state['control']} is kept"
        rows.add_row(state["stage"], Text(f"{name} for {state['weight']:.0%} of users"))
    tests = (state.get("evidence") or {}).get("tests", {})
    for name, title in (("promote", "evidence for"), ("harm", "evidence of harm")):
        if name in tests:
            rows.add_row(title, evidence_bar(Evidence(tests[name]["evidence"], tests[name]["bound"])))
    if state.get("waiting"):
        rows.add_row("waiting", Text(state["waiting"]))
    rows.add_row("why", Text("\n".join(seen.why)))
    return _panel("release", rows)


def _learner(steps: Mapping[str, Any]) -> Panel:
    series: Mapping[str, list[list[float]]] = steps["series"]
    rows = titled_rows()
    if not steps["count"]:
        return _panel("learner", Text("no step of the learner is in the log yet"))
    rows.add_row("steps", f"{steps['count']:,}, the newest after {steps['votes_used']:,} votes")
    kl, budget = _newest(series["kl_nats"]), _newest(series["kl_budget_nats"])
    text = f"{number(kl, '.2f')} of {number(budget, '.1f')} nats"
    rows.add_row("KL to base", bar(kl or 0.0, math.inf if budget is None else budget, text))
    for name, title, form in (
        ("reward", "reward", "+.2f"),
        ("accuracy", "accuracy", ".0%"),
        ("entropy_nats", "entropy", ".2f"),
        ("response_tokens", "tokens", ".0f"),
    ):
        rows.add_row(title, _line(series[name], form))
    return _panel("learner", rows)


def _line(points: list[list[float]], form: str) -> RenderableType:
    row = Table.grid(padding=(0, 1))
    row.add_row(small_line([value for _, value in points]), number(_newest(points), form))
    return row


def _newest(points: list[list[float]]) -> float | None:
    return points[-1][1] if points else None


def _traffic(traffic: Traffic) -> Panel:
    rows = titled_rows()
    rates = (
        f"   {number(traffic.completions_per_second, '.1f')} a second   "
        f"{number(traffic.tokens_per_second, '.0f')} tokens a second"
    )
    rows.add_row("completions", f"{traffic.completions:,}{rates}")
    rows.add_row("votes", f"{traffic.votes:,}")
    rows.add_row("failed", Text(f"{traffic.failed:,}", style="red" if traffic.failed else "green"))
    return _panel("this gateway, since it began", rows)
