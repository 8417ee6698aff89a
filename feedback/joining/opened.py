"""Records of the log as what joining works on: a vote, and the answers of a completion."""

from collections.abc import Iterable
from typing import NamedTuple, TypeVar

import orjson

from feedback.core.events import Completion, Feedback, Target
from feedback.core.log import Record
from feedback.joining.labels import Answer
from feedback.privacy.sealing import Sealer

E = TypeVar("E", Completion, Feedback)
Name = tuple[str, str, str]
"""What completions are found by: ("id", "", completion id), ("external" or "episode", tenant, name)."""


class Head(NamedTuple):
    """What finding a completion needs of it. `names`: those that a client gave it; `sealed`: its texts."""

    completion_id: str
    role: str
    at: float
    names: tuple[Name, ...]
    sealed: str | None = None


class Unreadable(ValueError):
    """A record of the log that makes no sense, found when it was needed."""

    def __init__(self, record: Record, reason: str) -> None:
        super().__init__(reason)
        self.record = record


class Opener:
    """Reads records. With a `sealer` answers have their texts and token ids, without one only the rest.

    opens: False leaves the texts sealed; that the vault of their keys is the one that is here is looked at
    all the same. What reads raises `feedback.privacy.vault_keys.VaultUnavailable` when it is not.
    """

    def __init__(self, sealer: Sealer | None = None, *, opens: bool = True) -> None:
        self._sealer, self._opens = sealer, opens
        self._token_ids: dict[int, int] = {}  # one int object per vocabulary entry, not per token

    def vote(self, value: bytes) -> Feedback:
        """A vote. Raises `ValueError`, pydantic's too, for what is none."""
        return self._opened(Feedback.model_validate_json(value))

    def answers(self, value: bytes) -> tuple[Answer, ...]:
        """The choices of a completion. Raises `ValueError`, pydantic's too, for what is none."""
        completion = self._opened(Completion.model_validate_json(value))
        prompt = self.shared(completion.prompt_token_ids)
        return tuple(
            Answer(
                completion_id=completion.completion_id,
                choice=choice.index,
                user=completion.user,
                unit=completion.unit,
                policy_version=completion.policy_version,
                arm=completion.arm,
                role=completion.role,
                selected=completion.selected,
                table_epoch=completion.table_epoch,
                prompt_token_ids=prompt
                if choice.prompt_token_ids is None
                else self.shared(choice.prompt_token_ids),
                token_ids=self.shared(choice.token_ids),
                tokens=choice.length,
                answer_start=choice.answer_start,
                text=choice.text,
                finish_reason=choice.finish_reason,
                at=completion.at,
                ttft_seconds=completion.ttft_seconds,
                latency_seconds=completion.latency_seconds,
                sampling_plain=completion.sampling.is_plain,
                tenant=completion.tenant,
                external_id=completion.external_id,
                episode_id=completion.episode_id,
            )
            for choice in completion.choices
        )

    def bare(self) -> "Opener":
        """One that leaves texts sealed."""
        return Opener(self._sealer, opens=False)

    def check(self, head: Head) -> None:
        """Raises `VaultLost` when the texts of a completion can never be opened here."""
        if self._sealer is not None:
            self._sealer.check(head.sealed)

    def shared(self, token_ids: Iterable[int]) -> tuple[int, ...]:
        """The same token ids, each number once in memory."""
        return tuple(self._token_ids.setdefault(i, i) for i in token_ids)

    def _opened(self, event: E) -> E:
        if self._sealer is None:
            return event
        if not self._opens:
            self._sealer.check(event.sealed)
            return event
        return self._sealer.open(event)


def head_of(value: bytes) -> Head:
    """A completion's head, in a fraction of the time of reading all of it. Raises `ValueError`."""
    event = orjson.loads(value)
    try:
        completion_id, role, at = event["completion_id"], event.get("role", "answer"), event["at"]
        tenant, choices = event.get("tenant", "default"), event["choices"]
        given = {kind: event.get(f"{kind}_id") for kind in ("external", "episode")}
        sealed = event.get("sealed")
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"a completion lacks {error}") from error
    texts = (completion_id, role, tenant, *(name for name in given.values() if name is not None))
    if not all(isinstance(text, str) for text in texts) or not isinstance(at, int | float):
        raise ValueError("a completion has an id, a role, a tenant or a time of the wrong type")
    if not isinstance(sealed, str | None):
        raise ValueError("a completion's seal is no text")
    if not isinstance(choices, list) or not completion_id:
        raise ValueError("a completion has no list of choices, or an empty id")
    names = [(kind, tenant, name) for kind, name in given.items() if name is not None] if choices else []
    return Head(completion_id, role, float(at), tuple(names), sealed)


def name_of(tenant: str, target: Target) -> Name:
    """What the completions of a vote's target are found by."""
    if target.external_id is not None:
        return "external", tenant, target.external_id
    if target.episode_id is not None:
        return "episode", tenant, target.episode_id
    return "id", "", target.completion_id
