"""Records of the votes that each update of the reward model used.

One update names only the votes whose state changed since the update before, so each vote is named about
twice in its life, and the whole history says exactly which votes any update was fitted to.
"""

from collections.abc import Iterable, Mapping
from typing import Literal

from pydantic import ValidationError

from feedback.core.events import UPDATES, Event
from feedback.core.log import Entry

KEY = "updates"
"""One key for all of the topic: updates have one order."""

PART = 2000
"""Votes named in one event: about 100 kB."""

State = Literal["training", "judging", "waiting", "kept", "evicted", "retracted", "erased", "discarded"]
"""training: the update was fitted to it, or the policy imitates it. judging: it measures candidates instead
(its rater is one of those who judge). waiting: in quarantine (see `learner.votes.trust`). kept: known, but
nothing is learned from its kind. evicted: newer votes took its place. retracted: its rater took it back.
erased: a user whom it concerns was erased. discarded: what it is about is no longer in the log, or never
came."""


class Usage(Event):
    """A part of what one reward-model update did. `votes`: state -> (event id, revision) since the last one.

    An update is complete with the last of its `parts`.
    """

    update: int
    part: int = 0
    parts: int = 1
    cursor: dict[str, int]  # the log's position up to which the update knew votes
    votes: dict[State, list[tuple[str, int]]]


def usage_events(
    update: int, at: float, cursor: Mapping[str, int], changes: Iterable[tuple[str, int, State]]
) -> list[Usage]:
    """The events of an update, the same for the same arguments; at least one."""
    changed = list(changes)
    pieces = [changed[i : i + PART] for i in range(0, len(changed), PART)] or [[]]
    events = []
    for part, piece in enumerate(pieces):
        votes: dict[State, list[tuple[str, int]]] = {}
        for event_id, revision, state in piece:
            votes.setdefault(state, []).append((event_id, revision))
        events.append(
            Usage(
                event_id=f"update-{update}-{part}",
                at=at,
                update=update,
                part=part,
                parts=len(pieces),
                cursor=dict(cursor),
                votes=votes,
            )
        )
    return events


def entry(event: Usage) -> Entry:
    """The log entry of an event."""
    return Entry(UPDATES, KEY, event.model_dump_json().encode())


def parse(value: bytes) -> Usage | None:
    """The event in a record, or None when it is none."""
    try:
        return Usage.model_validate_json(value)
    except ValidationError:
        return None
