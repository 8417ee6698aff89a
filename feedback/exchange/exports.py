"""Examples as rows of the layouts that trainers and other services read."""

from collections.abc import Callable
from typing import Any

from feedback.rows.examples import Example

Row = dict[str, Any]


class NotInLayout(ValueError):
    """The layout has no way to say this example; the message is the reason."""


def _own(example: Example) -> Row:
    """Everything; `hearken import` reads it back without loss."""
    row: Row = {
        "kind": example.kind,
        "messages": list(example.messages),
        "answers": list(example.answers),
        "value": example.value,
    }
    if example.groups:
        row["groups"] = [list(group) for group in example.groups]
    for name in ("rater", "at", "comment"):
        if getattr(example, name) is not None:
            row[name] = getattr(example, name)
    for name in ("tags", "reasons"):
        if getattr(example, name):
            row[name] = list(getattr(example, name))
    if example.metadata:
        row["metadata"] = example.metadata
    return row


def _trl_preference(example: Example) -> Row:
    """TRL's conversational preference layout (DPO, reward model)."""
    better, worse = _decided(example)
    row: Row = {"prompt": list(example.messages), "chosen": [_said(better)], "rejected": [_said(worse)]}
    return row | _by(example)


def _trl_kto(example: Example) -> Row:
    """TRL's conversational unpaired preference layout (KTO)."""
    if example.kind != "thumbs":
        raise NotInLayout(f"a {example.kind} is no thumb")
    label = example.value > 0.5
    row: Row = {"prompt": list(example.messages), "completion": [_said(example.answers[0])], "label": label}
    return row | _by(example)


def _openai_dpo(example: Example) -> Row:
    """The layout of OpenAI's preference fine-tuning."""
    better, worse = _decided(example)
    return {
        "input": {"messages": list(example.messages), "tools": [], "parallel_tool_calls": True},
        "preferred_output": [_said(better)],
        "non_preferred_output": [_said(worse)],
    }


def _decided(example: Example) -> tuple[str, str]:
    """The better and the worse answer of a pair that has them; a correction beats what it corrects."""
    if example.kind not in ("comparison", "correction"):
        raise NotInLayout(f"a {example.kind} is no pair")
    if example.value == 0.5:
        raise NotInLayout("a tie has no better answer")
    first, second = example.answers
    return (first, second) if example.value > 0.5 else (second, first)


def _by(example: Example) -> Row:
    """Whose judgement it is: trainers pass over the column, and an import tells two raters apart by it."""
    return {} if example.rater is None else {"rater": example.rater}


def _said(answer: str) -> Row:
    return {"role": "assistant", "content": answer}


EXPORTS: dict[str, Callable[[Example], Row]] = {
    "hearken": _own,
    "trl-preference": _trl_preference,
    "trl-kto": _trl_kto,
    "openai-dpo": _openai_dpo,
}
"""Layout -> the row of an example; raises `NotInLayout`."""
