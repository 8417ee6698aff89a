"""What a person asked for in every answer: which entries are taken, and how they enter the person's prompts.

They enter as the end of the system message, so they reach every API's chats and stand where models look for
standing instructions. What a product says in its own system message comes first and counts more.
"""

import unicodedata
from collections.abc import Sequence
from typing import Any

from serve.errors import BadRequest
from serve.schema_words import FLAG, STRING, Schema, list_of, or_null, record

Json = dict[str, Any]

PREFERENCES: Schema = record(["entries"], entries=list_of(STRING), consent=or_null(FLAG))
"""The body of PUT /v1/users/{user}/preferences."""

_ALONE = "The user you talk to asked for this. Do it in every answer:"
_BESIDE = (
    "The user you talk to asked for this. Do it in every answer, as far as what is said above allows it:"
)
_SYSTEM = ("system", "developer")


def with_preferences(messages: list[Json], entries: Sequence[str]) -> list[Json]:
    """The messages of a chat under a person's preferences; `messages` stay as they are."""
    if not entries:
        return messages
    listed = "\n".join(f"- {entry}" for entry in entries)
    first = messages[0]
    if first["role"] not in _SYSTEM:
        return [{"role": "system", "content": f"{_ALONE}\n{listed}"}, *messages]
    content, added = first["content"], f"{_BESIDE}\n{listed}"
    if isinstance(content, str):
        content = f"{content}\n\n{added}" if content.strip() else f"{_ALONE}\n{listed}"
    else:
        content = [*content, {"type": "text", "text": f"\n\n{added}"}]
    return [first | {"content": content}, *messages[1:]]


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
