"""Whether a chat is held to what its user asked for in every answer, and the grammar that does it."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, Literal

from serve.wishes.form import FREE
from serve.wishes.grammar import grammar_of
from serve.wishes.reading import form_of

When = Literal["without_system", "always", "never"]

# An engine compiles a grammar in about 25 us of a core for each of its characters, and words that are left
# out are nearly all of a long one: 250,000 were six seconds, for each new list.
MOST_CHARS = 36_000

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

    Words that are left out are left to the prompt where they are so many that an engine would be long busy
    with them, and everything where the rest alone is still too long.
    body: the client's request, which was checked. max_tokens: of an answer.
    """
    if not is_held(body, when):
        return None
    return _grammar(tuple(entries), max_tokens)


@lru_cache(maxsize=256)
def _grammar(entries: tuple[str, ...], max_tokens: int | None) -> str | None:
    """A list is read on the gateway's event loop and changes seldom, so it is not read for every chat."""
    form = form_of(entries)
    for held in (form, replace(form, without=())):
        if held == FREE:
            return None
        text = grammar_of(held, max_tokens)
        if len(text) <= MOST_CHARS:
            return text
    return None


def is_held(body: Mapping[str, Any], when: When) -> bool:
    """Whether answers to a chat may be held to anything but the client's own words."""
    roles = {message["role"] for message in body["messages"]}
    if when == "never" or "user" not in roles:
        return False
    if when == "without_system" and not roles.isdisjoint(_ABOVE):
        return False
    return all(body.get(field, neutral[0]) in neutral for field, neutral in _CLIENTS.items())
