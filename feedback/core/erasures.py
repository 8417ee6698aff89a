"""Users who were erased: an event that every reader of the log obeys, for ever.

It is on the RELEASES topic, which is kept for ever and which every process reads from its beginning: a
learner that starts anew from the log learns of the erasures, too.
"""

import time
from typing import Literal

from pydantic import ValidationError

from feedback.core.events import RELEASES, Event
from feedback.core.log import Entry


class Erasure(Event):
    """A user (a pseudonym) asked to be forgotten. Nothing of them is trained on from now on."""

    type: Literal["erasure"] = "erasure"
    user: str

    @classmethod
    def of(cls, tenant: str, user: str) -> "Erasure":
        """The event for a user; asking twice gives it the same id."""
        return cls(event_id=f"erasure-{tenant}-{user}", at=time.time(), tenant=tenant, user=user)


def entry(erasure: Erasure) -> Entry:
    """The log entry of an erasure."""
    return Entry(RELEASES, erasure.user, erasure.model_dump_json().encode())


def parse_erasure(value: bytes) -> Erasure | None:
    """The erasure in a record of RELEASES; None for any other event."""
    if b'"erasure"' not in value:
        return None
    try:
        return Erasure.model_validate_json(value)
    except ValidationError:
        return None
