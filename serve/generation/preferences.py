"""What a person asked for in every answer: which entries are taken, and how they enter the person's prompts.

They enter as the end of the person's newest message. There they have the weight of the person's own words and
no more, so nobody overrules a product's system message by them. Small models, too, do what stands beside a
question, and pass over what a system message says (`python -m bench preferences`). What a program can read of
them, answers are held to besides: `serve.generation.held`.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

from serve.http.errors import BadRequest
from serve.schemas.words import FLAG, STRING, Schema, list_of, or_null, record

Json = dict[str, Any]

PREFERENCES: Schema = record(["entries"], entries=list_of(STRING), consent=or_null(FLAG))
"""The body of PUT /v1/users/{user}/preferences."""

_ENDS = ".!?…。！？"
_BEGIN = "(In every answer: "


def spoken(entries: Sequence[str]) -> str:
    """A list as its user would say it beside a question."""
    ended = [entry if entry.endswith(tuple(_ENDS)) else f"{entry}." for entry in entries]
    return f"{_BEGIN}{' '.join(ended)})"


def without_preferences(text: str) -> str:
    """The words of a message as its author wrote them, without what was said under them for the author."""
    said, begin, rest = text.rpartition(f"\n\n{_BEGIN}")
    return said if begin and rest.endswith(")") else text


def with_preferences(messages: list[Json], entries: Sequence[str]) -> list[Json]:
    """The messages of a chat under a person's preferences; `messages` stay as they are.

    A chat in which nobody asks anything is left as it is.
    """
    places = [place for place, message in enumerate(messages) if message["role"] == "user"]
    if not entries or not places:
        return messages
    newest, added = messages[places[-1]], spoken(entries)
    content = newest["content"]
    if isinstance(content, str):
        content = f"{content}\n\n{added}"
    else:
        content = [*content, {"type": "text", "text": f"\n\n{added}"}]
    return [*messages[: places[-1]], newest | {"content": content}, *messages[places[-1] + 1 :]]


def checked(entries: Sequence[str], most: int, chars: int, field: str = "entries") -> tuple[str, ...]:
    """The entries as they are kept: each one line, none twice.

    most: how many there may be; chars: how long one may be. Raises BadRequest, which names the entry.
    """
    if most == 0:
        raise BadRequest("This service keeps no preferences (gateway.preference_entries is 0).", param=field)
    found: list[str] = []
    for i, entry in enumerate(entries):
        line = " ".join(entry.split())
        where = field if field != "entries" else f"entries[{i}]"
        if not line:
            raise BadRequest(f"{where} is empty; write what every answer should be like.", param=where)
        if len(line) > chars:
            raise BadRequest(
                f"{where} has {len(line)} characters; a preference has at most {chars}.", param=where
            )
        if any(unicodedata.category(char) == "Cc" for char in line):
            raise BadRequest(f"{where} has control characters; write a plain sentence.", param=where)
        found.append(line)
    found = list(dict.fromkeys(found))
    if len(found) > most:
        raise BadRequest(
            f"{field} are {len(found)}; a user has at most {most}. Leave out what no longer counts.",
            param=field,
        )
    return tuple(found)
