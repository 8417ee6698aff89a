"""Records of the log as what joining works on: a vote, and the answers of a completion."""

from collections.abc import Sequence
from typing import NamedTuple

import orjson

from feedback.core.decoded import DecodedCompletion, decoded, with_texts
from feedback.core.events import Completion, Feedback, Target
from feedback.core.log import Record
from feedback.joining.labels import Answer
from feedback.privacy.sealing import Sealer, vault_of

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
        self._newest: tuple[bytes, DecodedCompletion | None] = b"", None  # what was decoded, and to what
        self._vaults: set[str] = set()  # that were looked at since `look_again`

    def look_again(self) -> None:
        """Look at the vault anew before the next text that stays sealed: once for all that come together."""
        self._vaults.clear()

    def vote(self, value: bytes) -> Feedback:
        """A vote. Raises `ValueError`, pydantic's too, for what is none."""
        vote = Feedback.model_validate_json(value)
        if self._sealer is None:
            return vote
        if self._opens:
            return self._sealer.open(vote)
        self._check(vote.sealed)
        return vote

    def decoded(self, value: bytes) -> DecodedCompletion | None:
        """A completion as it lies in the log; None where only `Completion` can say what it is.

        Who reads a record asks for its head, then for its answers: it is decoded once.
        """
        if value is not self._newest[0]:
            self._newest = value, decoded(value)
        return self._newest[1]

    def head(self, value: bytes) -> Head:
        """A completion's head. Raises `ValueError` for what is none."""
        completion = self.decoded(value)
        if completion is None:
            return head_of(value)
        names = _names(completion.tenant, completion.external_id, completion.episode_id)
        return Head(
            completion.completion_id,
            completion.role,
            completion.at,
            names if completion.choices else (),
            completion.sealed,
        )

    def answers(self, value: bytes) -> tuple[Answer, ...]:
        """The choices of a completion. Raises `ValueError`, pydantic's too, for what is none."""
        completion = self._opened(value)
        prompt = self.shared(completion.prompt_token_ids)
        plain = completion.sampling.is_plain
        return tuple(
            [
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
                    sampling_plain=plain,
                    tenant=completion.tenant,
                    external_id=completion.external_id,
                    episode_id=completion.episode_id,
                )
                for choice in completion.choices
            ]
        )

    def bare(self) -> "Opener":
        """One that leaves texts sealed."""
        return Opener(self._sealer, opens=False)

    def check(self, head: Head) -> None:
        """Raises `VaultLost` when the texts of a completion can never be opened here."""
        self._check(head.sealed)

    def shared(self, token_ids: Sequence[int]) -> tuple[int, ...]:
        """The same token ids, each number once in memory."""
        if not token_ids:  # of most that stay sealed
            return ()
        return tuple(map(self._token_ids.setdefault, token_ids, token_ids))

    def _opened(self, value: bytes) -> DecodedCompletion | Completion:
        """A completion with its texts, as far as they are opened."""
        found = self.decoded(value)
        if self._sealer is None:
            return found or Completion.model_validate_json(value)
        if not self._opens:
            completion = found or Completion.model_validate_json(value)
            self._check(completion.sealed)
            return completion
        if found is None or found.sealed is None:
            return found or self._sealer.open(Completion.model_validate_json(value))
        texts = self._sealer.texts(found)
        if texts is None:
            return found
        return with_texts(found, texts) or self._sealer.open(Completion.model_validate_json(value))

    def _check(self, sealed: str | None) -> None:
        if self._sealer is None or sealed is None:
            return
        vault = vault_of(sealed)
        if vault not in self._vaults:
            self._sealer.check(sealed)
            self._vaults.add(vault)


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
    names = _names(tenant, given["external"], given["episode"]) if choices else ()
    return Head(completion_id, role, float(at), names, sealed)


def _names(tenant: str, external: str | None, episode: str | None) -> tuple[Name, ...]:
    """What a client called a completion and its conversation."""
    given = (("external", external), ("episode", episode))
    return tuple([(kind, tenant, name) for kind, name in given if name is not None])


def name_of(tenant: str, target: Target) -> Name:
    """What the completions of a vote's target are found by."""
    if target.external_id is not None:
        return "external", tenant, target.external_id
    if target.episode_id is not None:
        return "episode", tenant, target.episode_id
    return "id", "", target.completion_id
