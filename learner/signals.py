"""What a vote says to a reward model that knows thumbs (one answer, a value) and comparisons (two answers).

thumbs, comparison   themselves; that both answers are bad is a tie
rating               a thumb whose value is the rating's place on its scale
ranking              a comparison for each pair of its answers (ties within a group), which share its weight
correction           a comparison that the corrected text wins against the original
comment, metric, and any vote on a whole episode: nothing yet; the label store keeps them
"""

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

from feedback.labels import Label

Tokenize = Callable[[str], tuple[int, ...]]


def signals(label: Label, tokenize: Tokenize | None) -> tuple[Label, ...]:
    """The thumbs and comparisons in a label, () when there are none."""
    if (
        label.retracted
        or label.whole_episode
        or not all(answer.prompt_token_ids and answer.token_ids for answer in label.answers)
    ):
        return ()  # an answer without its prompt or its tokens was erased, redacted or never kept
    if label.kind in ("thumbs", "comparison"):
        return (label,)
    if label.kind == "rating":
        return (replace(label, kind="thumbs"),)
    if label.kind == "ranking":
        return _pairs(label)
    if label.kind == "correction" and tokenize is not None and label.text:
        return _correction(label, label.text, tokenize)
    return ()


def _pairs(label: Label) -> tuple[Label, ...]:
    """All pairs of a ranking; each names the better answer first."""
    place = {index: rank for rank, group in enumerate(label.groups) for index in group}
    pairs = list(combinations(sorted(place, key=lambda index: (place[index], index)), 2))
    return tuple(
        replace(
            label,
            event_id=f"{label.event_id}.{a}-{b}",
            kind="comparison",
            answers=(label.answers[a], label.answers[b]),
            value=0.5 if place[a] == place[b] else 1.0,
            label="tie" if place[a] == place[b] else "a",
            weight=label.weight / len(pairs),
            groups=(),
        )
        for a, b in pairs
    )


def _correction(label: Label, text: str, tokenize: Tokenize) -> tuple[Label, ...]:
    (original,) = label.answers
    token_ids = tokenize(text)
    if text == original.text or not token_ids:
        return ()
    written = replace(original, token_ids=token_ids, text=text, finish_reason="stop", sampling_plain=False)
    return (replace(label, kind="comparison", answers=(written, original), value=1.0, label="a"),)


class AnswerTokenizer:
    """Turns a written answer into the token ids that the model would have answered with, the end included.

    Loads the tokenizer of a model folder when the first answer comes.
    """

    def __init__(self, model: Path | str) -> None:
        self._model = model
        self._tokenizer: Any = None

    def __call__(self, text: str) -> tuple[int, ...]:
        """The token ids of `text` and of the end of a turn."""
        if self._tokenizer is None:
            from transformers import AutoTokenizer  # slow to load, and most learners never see a correction

            self._tokenizer = AutoTokenizer.from_pretrained(self._model)
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        end = self._tokenizer.eos_token_id
        return (*ids, end) if end is not None else tuple(ids)
