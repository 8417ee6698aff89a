"""What people do with answers, as evidence about the answers: votes of the kind `signal` become deeds.

A signal that something happened, or was shown and did not happen, is a deed with its answer. An answer that
was generated anew makes a deed with both answers, like a choice between them, where one was kept; where it is
not known which, a deed with the old one alone. An outcome of an episode is shared out among the answers that
led to it: each has it with an equal part of its weight.

A deed has its direction by its name (`learner.votes.meanings`): what happens the more the worse an answer is,
is turned around. How much it weighs, `learner.votes.believing` finds out.
"""

from dataclasses import fields, replace

from feedback.joining.labels import Answer, Label
from learner.votes.meanings import KEPT, Meaning, Meanings
from learner.votes.objectives import Deed
from learner.votes.reliability import MODEL

_FIELDS = tuple(field.name for field in fields(Label))
_KEPT = Meaning("higher")


def meaning_of(name: str, meanings: Meanings) -> Meaning:
    """What deeds of a name mean: to keep an answer is to prefer it, whatever its name says otherwise."""
    if not name.endswith(KEPT):
        return meanings[name]
    return replace(_KEPT, most=meanings[name.removesuffix(KEPT)].most)


def deeds(label: Label, meanings: Meanings) -> tuple[Deed, ...]:
    """The deeds in a label of the kind `signal`, () where it says nothing."""
    meaning = meanings.get(label.name or "")
    if meaning is None or not meaning.most or label.retracted or label.source == MODEL:
        return ()
    if label.label == "not_shown":
        return ()
    if len(label.answers) == 2 and not label.whole_episode:
        return _linked(label, meaning)
    if label.amount is None:
        return ()
    answers = [answer for answer in label.answers if _is_whole(answer)]
    value = _turned(meaning.share(label.amount), meaning)
    weight = label.weight / max(len(answers), 1)
    return tuple(_deed(label, (answer,), value, weight, meaning) for answer in answers)


def _linked(label: Label, meaning: Meaning) -> tuple[Deed, ...]:
    """Of an answer that was generated anew, answers[0], in place of answers[1]."""
    if not all(map(_is_whole, label.answers)):
        return ()
    if label.value == 0.5:
        return (_deed(label, label.answers[1:], _turned(1.0, meaning), label.weight, meaning),)
    kept = _deed(label, label.answers, label.value, label.weight, meaning)
    return (replace(kept, name=f"{label.name}{KEPT}", objective="helpful"),)


def _turned(value: float, meaning: Meaning) -> float:
    return 1.0 - value if meaning.direction == "lower" else value


def _is_whole(answer: Answer) -> bool:
    """Whether an answer's prompt and tokens are there; they may have been erased, or never kept."""
    return bool(answer.prompt_token_ids and answer.token_ids)


def _deed(label: Label, answers: tuple[Answer, ...], value: float, weight: float, meaning: Meaning) -> Deed:
    same = {name: getattr(label, name) for name in _FIELDS}
    changed = {"answers": answers, "value": value, "weight": weight, "whole_episode": False}
    return Deed(**same | changed, objective=meaning.objective)
