"""The figures of a story, each with the sentence that says what it shows. Pure: of
`hearken.story.series.told`."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hearken.base.telling import local
from hearken.story.charts import Axis, Bar, Estimate, Figure, Flag, Line, Point, axis
from hearken.story.series import FLAGS
from hearken.story.timeline import axis as time_axis
from hearken.story.timeline import offset_seconds

Told = Mapping[str, Any]

NO_STEPS = "No step of the learner is in the log for this time."
ONE_STEP = "Only one step so far: a line needs two."
NOBODY = "No user has chosen between two versions yet."
NO_VOTES = "No vote came in this time."


@dataclass(frozen=True, slots=True)
class Shown:
    """A figure and what it shows in words."""

    figure: Figure
    sentence: str


def figures(told: Told) -> list[Shown]:
    """All figures, those that matter most first."""
    found = [_preferred(told), _kl(told), _reward(told), _accuracy(told), _votes(told)]
    if any(each["users"]["thumbs_interval"] for each in told["releases"]):
        found.insert(1, _thumbs(told))
    return [*found, _tokens(told), _cut_off(told), _entropy(told)]


def preference(report: Told) -> str | None:
    """What people said of a version against the one before, in words; None where nobody chose."""
    users = report["users"]
    if users["preferred_interval"] is None:
        return None
    low, high = users["preferred_interval"]
    return (
        f"{report['version']} preferred to {report['against']} in {users['preferred']:.0%} "
        f"[{low:.0%}, {high:.0%}] of {users['compared']} who chose"
    )


# -- people ---------------------------------------------------------------------------------------------


def _preferred(told: Told) -> Shown:
    said = [each for each in told["releases"] if each["users"]["preferred_interval"] is not None]
    found = [_estimate(each, "preferred", preference(each) or "") for each in said]
    if said:
        sentence = (
            f"Newest: {preference(said[-1])}. A dot is a release, at its start, each against the version "
            "before it. Bars hold at every look: at most 5% chance that one ever leaves the truth out. "
            "Dashed: equal."
        )
    else:
        sentence = NOBODY
    return _shown(
        told, "Preferred by people", "% of users", axis([], 0.0, 100.0), sentence,
        lines=[_level(told, 50.0)], estimates=found, empty=not said,
    )  # fmt: skip


def _thumbs(told: Told) -> Shown:
    """Of releases in which thumbs were compared, one at least."""
    found = []
    for each in told["releases"]:
        users = each["users"]
        if users["thumbs_interval"] is not None:
            low, high = users["thumbs_interval"]
            text = (
                f"{each['version']}: {round(100 * users['thumbs']):+d} points "
                f"[{round(100 * low):+d}, {round(100 * high):+d}] against {each['against']}, "
                f"{users['matched']} users"
            )
            found.append(_estimate(each, "thumbs", text))
    most = max(abs(end) for each in found for end in (each.low, each.high))
    return _shown(
        told, "Thumbs up against the version before", "points", axis([-most, most]),
        f"Newest: {found[-1].text}. A dot is a release, at its start. Dashed: equal.",
        lines=[_level(told, 0.0)], estimates=found,
    )  # fmt: skip


def _estimate(report: Told, name: str, text: str) -> Estimate:
    users = report["users"]
    low, high = users[f"{name}_interval"]
    return Estimate(report["started_at"], 100 * low, 100 * users[name], 100 * high, text)


def _level(told: Told, value: float) -> Line:
    return Line([(told["since"], value), (told["until"], value)], 1, dashed=True)


def _votes(told: Told) -> Shown:
    votes = told["votes"]
    width, bins = votes["bin_seconds"], votes["bins"]
    most = max((count for _, count in bins), default=0)
    bars = [
        Bar(max(start, told["since"]), min(start + width, told["until"]), count)
        for start, count in bins
        if count
    ]
    sentence = NO_VOTES
    if votes["count"]:
        used = told["steps"]["votes_used"]
        sentence = (
            f"{votes['count']:,} votes, at most {most:,.0f} a {votes['bin']}; the first and the last "
            f"{votes['bin']} may be parts of one. A changed vote counts once."
        )
        if used is not None:
            sentence += f" The newest step had used {used:,} votes, those of before this time too."
    return _shown(
        told,
        "Votes",
        f"a {votes['bin']}",
        axis([most], 0.0, None),
        sentence,
        bars=bars,
        empty=not votes["count"],
    )


# -- steps ----------------------------------------------------------------------------------------------


def _kl(told: Told) -> Shown:
    points, budget = _series(told, "kl_nats"), _series(told, "kl_budget_nats")
    sentence = _of_steps(
        told,
        points,
        lambda v: f"{v:.2f} nats",
        "The policy that is trained is",
        "from the base",
        "the highest",
    )
    if points and budget:
        highest = max(value for _, value in points)
        sentence += f" The highest was {highest:.2f}; the budget (dashed) is {budget[-1][1]:.2f} by now."
        sentence += " A step whose policy is found beyond the budget is undone."
    elif points:
        sentence += " There is no budget."
    lines = [Line(points), Line(budget, 1, dashed=True)]
    return _measured(told, "KL to the base", "nats per answer", points, sentence, lines, low=0.0)


def _reward(told: Told) -> Shown:
    points = _series(told, "reward")
    sentence = _of_steps(told, points, lambda v: f"{v:+.2f}", "The mean score of rollouts is")
    if points:
        sentence += " The scale is the reward model's own, and moves when it is fitted to new votes."
    return _measured(told, "Reward", "reward model's score", points, sentence)


def _accuracy(told: Told) -> Shown:
    points = _percent(_series(told, "accuracy"))
    sentence = _of_steps(
        told, points, lambda v: f"{v:.0f}%", "The reward model foresees", "of the votes kept back from it"
    )
    lines = [Line(points), _level(told, 50.0)]
    if points:
        sentence += " Dashed: a coin."
    return _measured(
        told, "Reward model's accuracy", "% of votes", points, sentence, lines, low=0.0, high=100.0
    )


def _tokens(told: Told) -> Shown:
    points = _series(told, "response_tokens")
    sentence = _of_steps(told, points, lambda v: f"{v:.0f} tokens", "Rollouts have", "on average")
    return _measured(told, "Length of answers", "tokens", points, sentence, low=0.0)


def _cut_off(told: Told) -> Shown:
    points = _percent(_series(told, "cut_off"))
    sentence = _of_steps(told, points, lambda v: f"{v:.0f}%", "The limit of length ended", "of rollouts")
    return _measured(told, "Answers cut off", "% of rollouts", points, sentence, low=0.0, high=100.0)


def _entropy(told: Told) -> Shown:
    points = _series(told, "entropy_nats")
    sentence = _of_steps(told, points, lambda v: f"{v:.2f} nats", "The policy's entropy is", "per token")
    if points:
        sentence += " Near 0 it always says the same."
    return _measured(told, "Entropy", "nats per token", points, sentence, low=0.0)


def _of_steps(
    told: Told,
    points: Sequence[Point],
    write: Callable[[float], str],
    what: str,
    more: str = "",
    group_is: str = "the mean",
) -> str:
    """What a line of steps shows: where it is now and where it began, and what a point of it is."""
    if not points:
        return NO_STEPS if not told["steps"]["count"] else "It was not measured in this time."
    end = f" {more}" if more else ""
    if len(points) == 1:
        return f"{what} {write(points[0][1])}{end}. {ONE_STEP}"
    sentence = f"{what} {write(points[-1][1])}{end}; the first point is {write(points[0][1])}."
    group = told["steps"]["steps_per_point"]
    return sentence if group == 1 else f"{sentence} A point is {group_is} of {group} steps."


def _measured(
    told: Told,
    title: str,
    unit: str,
    points: Sequence[Point],
    sentence: str,
    lines: Sequence[Line] | None = None,
    low: float | None = None,
    high: float | None = None,
) -> Shown:
    drawn = [Line(points)] if lines is None else lines
    values = [value for line in drawn for _, value in line.points]
    upright = axis(values, low, high)
    return _shown(told, title, unit, upright, sentence, lines=drawn if points else (), empty=not points)


def _series(told: Told, name: str) -> list[Point]:
    return [(at, value) for at, value in told["steps"]["series"][name]]


def _percent(points: Sequence[Point]) -> list[Point]:
    return [(at, 100 * value) for at, value in points]


def _shown(
    told: Told,
    title: str,
    unit: str,
    upright: Axis,
    sentence: str,
    *,
    lines: Sequence[Line] = (),
    bars: Sequence[Bar] = (),
    estimates: Sequence[Estimate] = (),
    empty: bool = False,
) -> Shown:
    """A figure over the story's time, with its flags; what is empty has no lines."""
    since, until = told["since"], told["until"]
    flags = [
        Flag(each["at"], FLAGS[each["outcome"]], f"{local(each['at'])}: {each['outcome']} {each['version']}")
        for each in told["flags"]
    ]
    figure = Figure(
        title, unit, time_axis(since, until, offset_seconds(until)), upright,
        () if empty else lines, bars, estimates, flags, "nothing to draw yet" if empty else "",
    )  # fmt: skip
    return Shown(figure, sentence)
