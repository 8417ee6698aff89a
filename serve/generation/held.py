"""Request under what its user asked for in every answer, and held to it where a grammar can."""

from collections.abc import Sequence

from msgspec.structs import replace

from serve.generation.requests import ChatRequest
from serve.wishes.holding import When, grammar_for


def under(asked: ChatRequest, entries: Sequence[str], when: When) -> ChatRequest:
    """The request under a list of preferences. when: its answers are held to them.

    Tokens under a grammar are no sample of the policy alone; their sampling says so, as with a client's own.
    """
    grammar = grammar_for(entries, asked.body, asked.sampling.max_tokens, when)
    asked = replace(asked, preferences=tuple(entries), grammar=grammar)
    if grammar is None:
        return asked
    return replace(asked, sampling=asked.sampling.model_copy(update={"penalties": True, "held": True}))
