"""A vote together with the answers that it is about: what learning and evidence work on."""

from dataclasses import dataclass, fields, replace
from typing import Any

from feedback.core.events import Feedback


@dataclass(frozen=True, slots=True)
class Answer:
    """One choice of one completion, as far as learning and evidence need it.

    `token_ids` are all that was sampled; of a model that thinks first, the answer begins at `answer_start`.
    `at` is Unix time; `sampling_plain` tells whether the tokens' logprobs can be recomputed from the logits.
    `external_id` and `episode_id` are the client's names for the completion and for its conversation.
    """

    completion_id: str
    choice: int
    user: str
    policy_version: str
    arm: str
    role: str
    table_epoch: int
    prompt_token_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    text: str
    finish_reason: str | None
    at: float
    ttft_seconds: float | None
    latency_seconds: float
    sampling_plain: bool
    tenant: str = "default"
    external_id: str | None = None
    episode_id: str | None = None
    tokens: int = 0  # how many were sampled, also where `token_ids` are not known
    answer_start: int = 0
    unit: str | None = None  # who was assigned to the arm, where nobody was named
    selected: bool = False  # whether it was shown hung on what a vote would teach

    @property
    def exposed(self) -> str:
        """Who is exposed to the arm, and counts once: the user, or a conversation that names none."""
        return self.unit or self.user

    @property
    def judged(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """(context, answer) as token ids: what a vote is about. A thought belongs to the context."""
        start = self.answer_start
        return self.prompt_token_ids + self.token_ids[:start], self.token_ids[start:]

    def without_text(self) -> "Answer":
        """What remains of the answer when its text and tokens are taken away."""
        return replace(self, prompt_token_ids=(), token_ids=(), text="")


@dataclass(frozen=True, slots=True)
class Label:
    """A vote with what it is about. A later `revision` of the same `event_id` replaces it.

    A field that a `Feedback` has too, by the same name, is taken from it (see `make_label`).

    `value` is in [0, 1], 1 the best, and means the same whatever the order in which the vote named things.

    - thumbs, rating: one answer, or all of an episode (`whole_episode`), oldest first; of a rating `amount`
      is the number given on `scale` = (lowest, highest).
    - comparison: two answers, the user's own arm ("answer") before the "reference"; `value` 1 says that
      answers[0] is better, and `label` is "a" for that, "b" for answers[1], "tie" or "both_bad" (0.5 both)
      for neither. `presented` are indices into answers in the order in which they were shown.
    - ranking: `groups` of indices into answers, the best group first, ties within a group; value 0.5.
    - correction: answers[0] should have been `text`; value 0.5.
    - comment: `text` about one answer or an episode; value 0.5.
    - metric: an outcome `name` of `amount`, better when `direction` is "higher" ("lower"); with a `scale` the
      value is the amount's place on it, the better end being 1, else 0.5.
    - signal: what a person did, by its `name`, with one answer or an episode: `label` is "yes" or "no"
      (`amount` 1 or 0), "amount", or "not_shown", which says nothing; value 0.5. Or answers[0] was generated
      anew in place of answers[1]: `label` is "kept_new", "kept_old" or "regenerated", value 1, 0 or 0.5.

    `retracted`: the rater took the vote back; nothing else of it but `answers` is left. They are empty when
    they are not known (yet, or any more): then it is news only to those who know the vote.
    `weight` in (0, 1] is what the sender gave it. `at` is the server's time, `occurred_at` the sender's.
    """

    event_id: str
    revision: int
    kind: str
    rater: str
    tenant: str
    at: float
    value: float
    label: str
    source: str
    answers: tuple[Answer, ...]
    weight: float = 1.0
    retracted: bool = False
    whole_episode: bool = False
    occurred_at: float | None = None
    amount: float | None = None
    scale: tuple[float, float] | None = None
    direction: str | None = None
    name: str | None = None
    groups: tuple[tuple[int, ...], ...] = ()
    presented: tuple[int, ...] = ()
    text: str | None = None
    comment: str | None = None
    reasons: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def is_selected(self) -> bool:
        """Whether its answers were chosen for what a vote would teach: then it says nothing of others."""
        return any(answer.selected for answer in self.answers)


def make_label(vote: Feedback, answers: tuple[Answer, ...]) -> Label:
    """The label of a vote whose targets mean `answers`, in their order."""
    whole = vote.targets[0].episode_id is not None
    if vote.kind == "retraction":
        return Label(
            event_id=vote.event_id,
            revision=vote.revision,
            kind=vote.retracts or "thumbs",
            rater=vote.rater,
            tenant=vote.tenant,
            at=vote.at,
            value=0.5,
            label="retracted",
            source=vote.source,
            answers=answers,
            retracted=True,
            whole_episode=whole,
        )
    known = vote.__dict__  # of a model it has the fields; asking for each takes twice the time
    said = {
        name: _fixed(found) if type(found) is list else found
        for name in _SAID
        if (found := known[name]) is not None
    }
    if vote.kind == "comparison":
        value = vote.value
        if answers[0].role == "reference" and answers[1].role == "answer":
            answers, value = answers[::-1], 1.0 - value
            said["presented"] = tuple(1 - side for side in vote.presented or ())
        said["value"] = value
        if vote.label != "both_bad":
            said["label"] = "a" if value > 0.5 else "b" if value < 0.5 else "tie"
    return Label(answers=answers, whole_episode=whole, **said)


_SAID = tuple(field.name for field in fields(Label) if field.name in Feedback.model_fields)


def _fixed(value: Any) -> Any:
    """A value of an event as a label has it: lists are tuples."""
    return tuple(map(_fixed, value)) if isinstance(value, list) else value
