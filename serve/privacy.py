"""What may be written of a completion or a vote: after consent and redaction, and only sealed."""

from typing import Any

from feedback.events import Choice, Completion
from feedback.ids import Signer
from feedback.redaction import Redactor
from feedback.sealing import Sealer

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
        return self._sealer.seal_vote(vote)

    def _redacted(self, completion: Completion) -> Completion:
        if self._redact is None:
            return completion
        messages = _redact_all(completion.messages, self._redact)
        changed: Json = {"choices": [self._redacted_choice(choice) for choice in completion.choices]}
        if messages != completion.messages:
            changed |= {"messages": messages, "prompt_token_ids": []}  # token ids are text too
        return completion.model_copy(update=changed)

    def _redacted_choice(self, choice: Choice) -> Choice:
        assert self._redact is not None
        text = self._redact(choice.text)
        if text == choice.text:
            return choice
        return choice.without_text().model_copy(update={"text": text})


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
