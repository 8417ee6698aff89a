"""What may be written of a completion or a vote: after consent and redaction, and only sealed."""

from dataclasses import replace
from typing import Any

from feedback.events import Choice, Completion
from feedback.ids import Signer
from feedback.redaction import Redactor
from feedback.sealing import Sealer
from serve.stored import Stored

Json = dict[str, Any]

_TEXTS_OF_VOTES = ("text", "comment")


class Privacy:
    """Turns what happened into what is logged of it. `redact` None leaves texts as they are."""

    def __init__(self, signer: Signer, sealer: Sealer, redact: Redactor | None) -> None:
        self._signer = signer
        self._sealer = sealer
        self._redact = redact

    def completion(self, completion: Completion) -> Completion:
        """The event to log. Raises OSError when its user's key can be neither read nor made."""
        if not completion.consent:
            return without_texts(completion)
        if completion.prompt_token_ids:
            named = self._signer.prompt_hash(completion.prompt_token_ids)
            completion = completion.model_copy(update={"prompt_hash": named})
        return self._sealer.seal(self._redacted(completion))

    def vote(self, vote: Json) -> Json:
        """The JSON of the event to log. Raises OSError like `completion`."""
        if self._redact is not None:
            texts = {name: self._redact(vote[name]) for name in _TEXTS_OF_VOTES if vote.get(name)}
            metadata = {name: self._redact(value) for name, value in vote.get("metadata", {}).items()}
            vote = {**vote, **texts, "metadata": metadata}
            if vote.get("tags"):
                vote["tags"] = [self._redact(tag) for tag in vote["tags"]]
        return self._sealer.seal_vote(vote)

    def stored(self, item: Stored) -> Stored:
        """The copy of an answer to keep for its client."""
        if self._redact is None:
            return item
        choices = _redact_all(item.answer["choices"], self._redact)
        for choice, before in zip(choices, item.answer["choices"], strict=True):
            if choice != before and "logprobs" in choice:
                choice["logprobs"] = None  # they spell the answer token by token
        return replace(
            item,
            answer={**item.answer, "choices": choices},
            messages=_redact_all(item.messages, self._redact),
            metadata=_redact_all(dict(item.metadata), self._redact),
        )

    def _redacted(self, completion: Completion) -> Completion:
        if self._redact is None:
            return completion
        messages = _redact_all(completion.messages, self._redact)
        choices = [self._redacted_choice(choice) for choice in completion.choices]
        # Token ids are text too, and of prompts that came as ids the redactor saw no text.
        several = any(choice.prompt_token_ids is not None for choice in choices)
        if several or not messages or messages != completion.messages:
            bare = [choice.model_copy(update={"prompt_token_ids": None}) for choice in choices]
            return completion.model_copy(
                update={"messages": messages, "prompt_token_ids": [], "choices": bare}
            )
        return completion.model_copy(update={"choices": choices})

    def _redacted_choice(self, choice: Choice) -> Choice:
        assert self._redact is not None
        text = self._redact(choice.text)
        thought = None if choice.thought is None else self._redact(choice.thought)
        if (text, thought) == (choice.text, choice.thought):
            return choice
        return choice.without_text().model_copy(update={"text": text, "thought": thought})


def without_texts(completion: Completion) -> Completion:
    """The event of a completion whose texts may not be kept: that it was, not what it was."""
    choices = [choice.without_text() for choice in completion.choices]
    return completion.model_copy(update={"messages": [], "prompt_token_ids": [], "choices": choices})


def _redact_all(content: Any, redact: Redactor) -> Any:
    """Every text in messages but the roles and kinds."""
    if isinstance(content, str):
        return redact(content)
    if isinstance(content, list):
        return [_redact_all(part, redact) for part in content]
    if isinstance(content, dict):
        kept = ("role", "type", "id", "tool_call_id")
        return {name: part if name in kept else _redact_all(part, redact) for name, part in content.items()}
    return content
