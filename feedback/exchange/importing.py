"""Examples as events: each answer becomes a completion that nobody served, each judgement a vote on it."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

from feedback.core.events import BASE, Choice, Completion, Feedback, Target
from feedback.core.ids import Signer, vote_id
from feedback.rows.examples import Example, Message, answer_identity

Encode = Callable[[tuple[Message, ...], str], tuple[list[int], list[int]]]
"""Messages and an answer -> the token ids of the prompt, and of the answer with its end-of-turn token."""

IMPORTED = "import"
"""The policy version of answers that this service did not give, and the source of votes on them."""

_PREFIX = "import-"
_ID_HEX = 40
_LABELS = {"comparison": ("b", "tie", "a"), "thumbs": ("down", "", "up")}


class Importer:
    """Turns examples into events of one tenant. `now`: Unix time in seconds, of the whole import.

    Ids follow from the contents, so importing a file twice is importing it once: completions are known
    already, votes are revised to what they were. A rater who is not named stands for that one judgement.
    """

    def __init__(self, signer: Signer, tenant: str, encode: Encode, now: float) -> None:
        self._signer = signer
        self._tenant = tenant
        self._encode = encode
        self._now = now
        self._votes = count()  # of two on the same answers the later one is the newer one

    def events(self, example: Example) -> tuple[list[Completion], Feedback]:
        """The completions of an example's answers, and the vote. Raises what `encode` raises."""
        rater = self._rater(example)
        if example.about is not None:
            return [], self._vote(example, rater, [Target(completion_id=example.about)])
        judged = example.answers[1:] if example.kind == "correction" else example.answers
        completions = [self._completion(example.messages, answer, rater) for answer in judged]
        targets = [Target(completion_id=completion.completion_id) for completion in completions]
        return completions, self._vote(example, rater, targets)

    def _rater(self, example: Example) -> str:
        if example.rater is not None and Signer.is_pseudonym(example.rater):
            return example.rater  # of an export of this service
        if self.is_nobodys(example):
            return self._signer.pseudonym(self._tenant, f"{IMPORTED}:{example.rater or example.identity}")
        return self._signer.pseudonym(self._tenant, example.rater or "")  # as chats and votes name them

    @staticmethod
    def is_nobodys(example: Example) -> bool:
        """Whether an example names nobody, so that no user's key is needed for its texts.

        A rater that follows from the example tells two unnamed judgements of one answer apart.
        """
        unnamed = replace(example, rater=None).identity
        return example.rater is None or example.rater.startswith(f"{unnamed}#")

    def _completion(self, messages: tuple[Message, ...], answer: str, user: str) -> Completion:
        prompt_token_ids, token_ids = self._encode(messages, answer)
        completion_id = _PREFIX + answer_identity(messages, answer)[:_ID_HEX]
        return Completion(
            event_id=completion_id,
            at=self._now,
            tenant=self._tenant,
            completion_id=completion_id,
            conversation=user,
            user=user,
            policy_version=IMPORTED,
            arm=BASE,
            messages=list(messages),
            prompt_token_ids=prompt_token_ids,
            choices=[Choice(text=answer, token_ids=token_ids, logprobs=[], finish_reason="stop")],
        )

    def _vote(self, example: Example, rater: str, targets: list[Target]) -> Feedback:
        # A demonstration is a correction that leaves its answer as it is.
        kind = "correction" if example.kind == "demonstration" else example.kind
        said: dict[str, Any] = {}
        if kind == "correction":
            said = {"text": example.answers[0]}
        elif kind == "rating":
            said = {"amount": example.value, "scale": (0.0, 1.0)}
        elif kind == "ranking":
            said = {"groups": [list(group) for group in example.groups]}
        return Feedback(
            event_id=vote_id(self._tenant, rater, kind, [target.place for target in targets]),
            at=self._now,
            tenant=self._tenant,
            revision=int(self._now * 1e6) + next(self._votes),
            kind=kind,
            rater=rater,
            targets=targets,
            value=example.value if kind in ("comparison", "thumbs", "rating") else 0.5,
            label=_label(kind, example.value),
            source=IMPORTED,
            metadata=example.metadata,
            occurred_at=example.at,
            comment=example.comment,
            reasons=list(example.reasons),
            tags=list(example.tags),
            **said,
        )


def _label(kind: str, value: float) -> str:
    if kind in _LABELS:
        worse, even, better = _LABELS[kind]
        return better if value > 0.5 else worse if value < 0.5 else even
    return {"rating": "rated", "ranking": "ranked", "correction": "corrected"}[kind]
