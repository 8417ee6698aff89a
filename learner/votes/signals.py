"""Signals of votes to the reward model: labels of a kind that `learner.reward.likelihoods` knows.

thumbs, comparison, rating   themselves; that both answers are bad is a tie
ranking                      itself, with the value 1: that it is right
correction                   the written answer and its original, of which the written one wins; one that
                             leaves the answer as it is shows it to be right: the policy imitates it
metric                       with a scale and a name that `learner.votes.objectives` lists, a rating; else
                             nothing
comment, and any other vote on a whole episode: nothing; the label store keeps them

What people did (the kind `signal`) is of no account here: `learner.votes.deeds` makes something of it.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from feedback.joining.labels import Label
from learner.votes.objectives import METRICS

Tokenize = Callable[[str], tuple[int, ...]]


def signals(label: Label, tokenize: Tokenize | None) -> tuple[Label, ...]:
    """The signals in a label, () when there are none."""
    if (
        label.retracted
        or label.whole_episode
        or not all(answer.prompt_token_ids and answer.token_ids for answer in label.answers)
    ):
        return ()  # an answer without its prompt or its tokens was erased, redacted or never kept
    if label.kind in ("thumbs", "comparison", "rating"):
        return (label,)
    if label.kind == "ranking":
        return (replace(label, value=1.0 if len(label.groups) > 1 else 0.5),)
    if label.kind == "metric" and label.name in METRICS and label.scale is not None:
        return (replace(label, kind="rating"),)
    if label.kind == "correction" and tokenize is not None and label.text:
        return _correction(label, label.text, tokenize)
    return ()


def _correction(label: Label, text: str, tokenize: Tokenize) -> tuple[Label, ...]:
    (original,) = label.answers
    token_ids = tokenize(text)
    if text == original.text or not token_ids:
        return ()
    thought = original.token_ids[: original.answer_start]  # both are answers in the same context
    written = replace(
        original,
        token_ids=(*thought, *token_ids),
        text=text,
        finish_reason="stop",
        sampling_plain=False,
    )
    return (replace(label, answers=(written, original), value=1.0, label="a"),)


def shows(label: Label) -> bool:
    """Whether a label is a demonstration: a whole answer of which it says that it is right as it is."""
    if label.kind != "correction" or label.retracted or not label.text or len(label.answers) != 1:
        return False
    (answer,) = label.answers
    return (
        label.text == answer.text
        and answer.finish_reason == "stop"  # one that was cut off would teach to stop anywhere
        and bool(answer.prompt_token_ids and answer.judged[1])
    )


class AnswerTokenizer:
    """Turns a written answer into the token ids that the model would have answered with, the end included.

    Loads the tokenizer of a model folder when the first answer comes.
    """

    def __init__(self, model: Path | str) -> None:
        self._model = model

    @cached_property
    def tokenizer(self) -> Any:
        """The model's. Raises what reading it raises."""
        from transformers import AutoTokenizer  # slow to load, and most learners never see a correction

        return AutoTokenizer.from_pretrained(self._model)

    def __call__(self, text: str) -> tuple[int, ...]:
        """The token ids of `text` and of the end of a turn."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        end = self.tokenizer.eos_token_id
        return (*ids, end) if end is not None else tuple(ids)
