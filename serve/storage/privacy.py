"""What may be written of a completion or a vote: after consent and redaction, and only sealed."""

import asyncio
from collections.abc import Iterable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from feedback.core.events import WORDS_OF_VOTES, Choice, Completion
from feedback.core.ids import Signer
from feedback.privacy.redaction import Redactor, redact_all
from feedback.privacy.sealing import Keys, Sealer
from feedback.privacy.vault_keys import UserKey, VaultUnavailable
from serve.storage.stored import Stored

Json = dict[str, Any]


class Privacy:
    """Turns what happened into what is logged of it. `redact` None leaves texts as they are."""

    def __init__(self, signer: Signer, sealer: Sealer, redact: Redactor | None) -> None:
        self._signer = signer
        self._sealer = sealer
        self._redact = redact
        self.instant = sealer.instant  # now, for a request that begins: its user may be erased meanwhile

    def is_erased(self, tenant: str, user: str, since: int) -> bool:
        """Whether a user was erased after an instant, or perhaps was: the vault does not say."""
        try:
            return self._sealer.is_erased(tenant, user, since)
        except VaultUnavailable:
            return True

    def completion(self, completion: Completion) -> Completion:
        """What may be kept of a completion, to be sealed."""
        if not completion.consent:
            return without_texts(completion)
        if completion.prompt_token_ids:
            named = self._signer.prompt_hash(completion.prompt_token_ids)
            completion = completion.model_copy(update={"prompt_hash": named})
        return completion if self._redact is None else _redacted(completion, self._redact)

    def keys_of(self, completion: Completion, since: int) -> "Future[Keys]":
        """The key that a completion is sealed with, none for one without texts. since: when it began.

        Does not wait, and is done already unless the key must be looked for or made. Fails with
        VaultUnavailable.
        """
        owner = self._sealer.owner(completion)
        return self._sealer.keys({} if owner is None else {owner: since})

    def sealed(self, completion: Completion, keys: Keys) -> Completion:
        """The event to log, blank when its user was erased since its request began. `keys`: of `keys_of`."""
        return self._sealer.seal_with(completion, next(iter(keys.values()), None))

    def vote(self, vote: Json) -> Json:
        """What may be kept of a vote, to be sealed."""
        if self._redact is None:
            return vote
        words = {name: _redacted_words(vote[name], self._redact) for name in WORDS_OF_VOTES if vote.get(name)}
        return {**vote, **words}

    async def keys(self, votes: Iterable[tuple[Json, int]]) -> Keys:
        """The keys that votes are sealed with, each with the instant at which it began, made in one go.

        Raises VaultUnavailable.
        """
        wanted: dict[str, int | None] = {}
        for vote, since in votes:
            owner = self._sealer.owner_of_vote(vote)
            if owner is not None:
                known = wanted.get(owner)
                wanted[owner] = since if known is None else min(since, known)
        return await asyncio.wrap_future(self._sealer.keys(wanted)) if wanted else {}

    async def key(self, tenant: str, user: str, since: int) -> UserKey | None:
        """The key for what began at an instant; None when the user was erased since.

        Raises VaultUnavailable.
        """
        owner = f"{tenant}/{user}"
        return (await asyncio.wrap_future(self._sealer.keys({owner: since})))[owner]

    def text(self, text: str) -> str:
        """What may be kept of a text, to be sealed."""
        return text if self._redact is None else self._redact(text)

    def sealed_vote(self, vote: Json, keys: Keys) -> Json:
        """The JSON of the event to log. `keys`: as `keys` gave them, of this vote and others."""
        owner = self._sealer.owner_of_vote(vote)
        return vote if owner is None else self._sealer.seal_vote_with(vote, keys[owner])

    def stored(self, item: Stored) -> Stored:
        """The copy of an answer to keep for its client."""
        if self._redact is None:
            return item
        choices = redact_all(item.answer["choices"], self._redact)
        for choice, before in zip(choices, item.answer["choices"], strict=True):
            if choice != before and "logprobs" in choice:
                choice["logprobs"] = None  # they spell the answer token by token
        return replace(
            item,
            answer={**item.answer, "choices": choices},
            messages=redact_all(item.messages, self._redact),
            metadata=redact_all(dict(item.metadata), self._redact),
        )


def _redacted(completion: Completion, redact: Redactor) -> Completion:
    messages = redact_all(completion.messages, redact)
    choices = [_redacted_choice(choice, redact) for choice in completion.choices]
    # Token ids are text too, and of prompts that came as ids the redactor saw no text.
    several = any(choice.prompt_token_ids is not None for choice in choices)
    if several or not messages or messages != completion.messages:
        bare = [choice.model_copy(update={"prompt_token_ids": None}) for choice in choices]
        return completion.model_copy(update={"messages": messages, "prompt_token_ids": [], "choices": bare})
    return completion.model_copy(update={"choices": choices})


def _redacted_choice(choice: Choice, redact: Redactor) -> Choice:
    text = redact(choice.text)
    thought = None if choice.thought is None else redact(choice.thought)
    if (text, thought) == (choice.text, choice.thought):
        return choice
    return choice.without_text().model_copy(update={"text": text, "thought": thought})


def _redacted_words(said: Any, redact: Redactor) -> Any:
    """A text, a list of texts, or an object of them by names, whose names are not the rater's words."""
    if isinstance(said, list):
        return [redact(text) for text in said]
    if isinstance(said, dict):
        return {name: redact(text) for name, text in said.items()}
    return redact(said)


def without_texts(completion: Completion) -> Completion:
    """The event of a completion whose texts may not be kept: that it was, not what it was."""
    choices = [choice.without_text() for choice in completion.choices]
    return completion.model_copy(update={"messages": [], "prompt_token_ids": [], "choices": choices})
