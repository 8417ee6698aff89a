"""Labels for the reward model's tests, of answers that are nothing but tokens."""

from typing import Any

from feedback.joining.join import Answer, Label
from learner.votes.objectives import Deed

PROMPT = (3, 4, 5)


def answer(tokens: tuple[int, ...], name: str) -> Answer:
    """An answer of a completion of its own."""
    return Answer(
        completion_id=name, choice=0, user="u", policy_version="base", arm="live", role="answer",
        table_epoch=0, prompt_token_ids=PROMPT, token_ids=tokens, text="", finish_reason="stop", at=0.0,
        ttft_seconds=None, latency_seconds=0.0, sampling_plain=True,
    )  # fmt: skip


def vote(
    kind: str, event_id: str, value: float, answers: tuple[Answer, ...], rater: str, **said: Any
) -> Label:
    """A vote of any kind."""
    known = {"revision": 1, "tenant": "t", "at": 0.0, "label": "", "source": "end_user"} | said
    return Label(event_id=event_id, kind=kind, rater=rater, value=value, answers=answers, **known)


def deed(
    name: str, event_id: str, value: float, answers: tuple[Answer, ...], rater: str, **said: Any
) -> Deed:
    """What somebody did, or did not do."""
    known = {"revision": 1, "tenant": "t", "at": 0.0, "label": "", "source": "end_user"} | said
    return Deed(
        event_id=event_id, kind="signal", name=name, rater=rater, value=value, answers=answers, **known
    )
