"""Where one turn of a conversation goes: where it went before, else where the routing table draws it.

The unit of assignment is who is exposed. That is the user, where a request names one. Else it is the
conversation, because behind one address may be a product with all of its users.

A conversation is recognised by what clients of OpenAI's protocol send again with every turn: the name that it
was given (`metadata.episode_id`), else our own answers, which are in its history. The words with which it
begins would not do, for strangers begin with the same ones.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import orjson

from deploy.history.table import RoutingTable, UserArm, assign

Json = dict[str, Any]

ANSWERS_LOOKED_AT = 3
"""The newest answers of a history by which it is recognised: the last may have been edited, or stopped."""

_ENDS = 1000  # characters of either end by which a long text is known; all of it would hold up the event loop


@dataclass(frozen=True, slots=True)
class Place:
    """Arm, version and table of one turn. They are the conversation's: those of the turn that drew them.

    So evidence and guardrails, which count by table and arm, see a conversation in the comparison in which it
    began and in no later one. `unit` is the pseudonym of a conversation that names no user, None where the
    user is the unit. `drawn`: this turn drew its arm.
    """

    arm: UserArm
    version: str
    epoch: int
    unit: str | None = None
    drawn: bool = True

    def record(self) -> bytes:
        """What is kept of it for the next turn."""
        return orjson.dumps([self.arm, self.version, self.epoch, self.unit])

    @classmethod
    def of_record(cls, record: bytes) -> "Place":
        """The place of a later turn, from what was kept."""
        arm, version, epoch, unit = orjson.loads(record)
        return cls(arm, version, epoch, unit, drawn=False)


def draw(table: RoutingTable, user: str | None, unit: str | None) -> Place:
    """The place of a conversation that begins. Without a user (a pseudonym) the unit is drawn."""
    arm = assign(user or unit or "", table)
    return Place(arm, table.version(arm), table.epoch, None if user else unit)


def go_on(known: Place, table: RoutingTable, servable: Collection[str]) -> Place:
    """The place of a later turn: the conversation's own, or live once its version may not serve any more."""
    if known.version in servable:
        return known
    return Place("live", table.live, table.epoch, known.unit, drawn=False)


def table_versions(table: RoutingTable) -> set[str]:
    """The versions that a table sends anybody to."""
    return {table.version(arm) for arm in get_args(UserArm)}


def answers_of(messages: Sequence[Json]) -> list[str]:
    """What tells each of the newest answers in a history from others, the newest first.

    An answer is known by its own words (or the ids of its calls), by those of the user before it, and by the
    answer before that. So the system prompt may change, old turns may be cut off, and results of tools may be
    left out.
    """
    found: list[tuple[str, str, list[str], str]] = []
    asked = before = ""
    for message in messages:
        if message.get("role") == "user":
            asked = _text(message.get("content"))
        elif message.get("role") == "assistant":
            said = _text(message.get("content"))
            calls = [str(call.get("id")) for call in message.get("tool_calls") or ()]
            found.append((before, asked, calls, said))
            before = said or before
    return [orjson.dumps(each).decode() for each in reversed(found[-ANSWERS_LOOKED_AT:])]


def _text(content: object) -> str:
    """The words of a message; clients cut spaces at its ends, and send text in parts."""
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if isinstance(part, dict))
    text = content.strip() if isinstance(content, str) else ""
    return text if len(text) <= 2 * _ENDS else f"{text[:_ENDS]}{len(text)}{text[-_ENDS:]}"
