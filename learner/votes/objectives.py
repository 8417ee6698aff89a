"""Objectives that votes are about: an answer is liked, is safe, is true.

Every vote says whether an answer is liked, which is "helpful" here. The reasons given with it say more:

- A fault says that the answer of a thumb or a rating is bad in an objective, a merit that it is good,
  whatever the vote's own value is: a liked answer may be unsafe.
- A comparison, ranking or correction with such a reason ranks its answers in that objective too.
- A metric with a scale whose name is listed rates its answer in one objective, and in no other.

People who complain give a reason, people who are content mostly do not. So in an objective that anybody spoke
of, a liked answer without a complaint counts as a good one, with a small part of a vote's weight.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from feedback.joining.labels import Label

Objective = Literal["helpful", "safe", "truthful"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)

FAULTS: dict[str, Objective] = {
    "unsafe": "safe",
    "harmful": "safe",
    "toxic": "safe",
    "offensive": "safe",
    "incorrect": "truthful",
    "inaccurate": "truthful",
    "untrue": "truthful",
    "wrong": "truthful",
    "hallucinated": "truthful",
}
MERITS: dict[str, Objective] = {
    "safe": "safe",
    "accurate": "truthful",
    "correct": "truthful",
    "truthful": "truthful",
}
METRICS: dict[str, Objective] = {
    "helpful": "helpful",
    "helpfulness": "helpful",
    "safe": "safe",
    "safety": "safe",
    "harmlessness": "safe",
    "toxicity": "safe",
    "truthful": "truthful",
    "truthfulness": "truthful",
    "factuality": "truthful",
    "faithfulness": "truthful",
}


@dataclass(frozen=True, slots=True)
class Deed(Label):
    """What a person did with one answer, or with answers[0] in place of answers[1], as the learner takes it.

    The log-odds of the deed rise by `slope` where those of a thumb up rise by 1, or those of a choice between
    the two answers; how often it happens anyhow is fitted. `value`: 1 where it happened, 0 where it did not.
    `name`: which deeds have a slope in common.
    """

    objective: Objective = "helpful"
    slope: float = 0.0


def said_of(objective: Objective, labels: Sequence[Label]) -> list[Label]:
    """What the signals `labels` say about one objective in so many words."""
    return [found for label in labels if (found := _said(objective, label)) is not None]


def _said(objective: Objective, label: Label) -> Label | None:
    if isinstance(label, Deed):
        return label if label.objective == objective else None
    if label.name is not None:  # a metric's
        return label if METRICS.get(label.name) == objective else None
    if objective == "helpful":
        return label
    faulty = any(FAULTS.get(reason) == objective for reason in label.reasons)
    if not faulty and not any(MERITS.get(reason) == objective for reason in label.reasons):
        return None
    if len(label.answers) > 1:
        return label
    return replace(label, kind="thumbs", value=0.0 if faulty else 1.0)


def main_objective(label: Label) -> Objective:
    """The objective that a signal's own value is about."""
    if isinstance(label, Deed):
        return label.objective
    return "helpful" if label.name is None else METRICS.get(label.name, "helpful")


def votes_on(objective: Objective, labels: Sequence[Label], implied_weight: float) -> list[Label]:
    """What the signals `labels` say about an objective, silence included; [] when nobody spoke of it.

    `implied_weight`: how much of its weight a liked answer's vote has where it gives no reason.
    """
    said = said_of(objective, labels)
    if objective == "helpful" or not said:
        return said
    spoken = {label.event_id for label in said}
    silent = (
        replace(label, kind="thumbs", value=1.0, weight=label.weight * implied_weight)
        for label in labels
        if label.kind in ("thumbs", "rating")
        and label.name is None
        and label.value > 0.5
        and label.event_id not in spoken
    )
    return [*said, *silent]
