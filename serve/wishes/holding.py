"""Whether a chat is held to what its user asked for in every answer, and the grammar that does it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from serve.wishes.form import FREE
from serve.wishes.grammar import grammar_of
from serve.wishes.reading import form_of

When = Literal["without_system", "always", "never"]

_ABOVE = ("system", "developer")
# What a client says of the shape of its answers comes first: beside it there is no grammar of ours. With
# min_tokens or ignore_eos no token would be left where the grammar has ended.
_CLIENTS: Mapping[str, tuple[object, ...]] = {
    "response_format": (None, {"type": "text"}),
    "structured_outputs": (None,),
    "tools": (None, []),
    "bad_words": (None, []),
    "allowed_token_ids": (None, []),
    "use_beam_search": (None, False),
    "continue_final_message": (None, False),
    "add_generation_prompt": (None, True),
    "min_tokens": (None, 0),
    "ignore_eos": (None, False),
}


def grammar_for(
    entries: Sequence[str], body: Mapping[str, Any], max_tokens: int | None, when: When
) -> str | None:
    """The grammar for the answers to a chat under a list of preferences; None where there is none.

    body: the client's request, which was checked. max_tokens: of an answer.
    """
    if not is_held(body, when):
        return None
    form = form_of(entries)
    return None if form == FREE else grammar_of(form, max_tokens)


def is_held(body: Mapping[str, Any], when: When) -> bool:
    """Whether answers to a chat may be held to anything but the client's own words."""
    roles = {message["role"] for message in body["messages"]}
    if when == "never" or "user" not in roles:
        return False
    if when == "without_system" and not roles.isdisjoint(_ABOVE):
        return False
    return all(body.get(field, neutral[0]) in neutral for field, neutral in _CLIENTS.items())
