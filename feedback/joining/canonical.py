"""A vote in one form, however it was written, and what decides which of two with one id counts."""

import hashlib
from typing import Any, NamedTuple

from feedback.core.events import Feedback

_TARGETS = {"comparison": (2, 2), "ranking": (2, 64), "signal": (1, 2), "retraction": (1, 64)}
"""The least and most targets of a vote, by kind; of others 1."""


class Said(NamedTuple):
    """What of a vote decides which of two with one id counts: the greater one.

    Two servers may write in the same microsecond: what is said breaks the tie the same way everywhere.
    """

    revision: int
    value: float
    label: str
    digest: bytes


def said_of(vote: Feedback) -> Said:
    """See `Said`. vote: a canonical one."""
    digest = hashlib.sha256(vote.model_dump_json().encode()).digest()[:16]
    return Said(vote.revision, vote.value, vote.label, digest)


def canonical(vote: Feedback) -> Feedback:
    """The vote with its targets in one order, so that a vote on (b, a) revises the one on (a, b).

    Raises `ValueError` when the number of targets does not fit the kind.
    """
    places = [target.place for target in vote.targets]
    least, most = _TARGETS.get(vote.kind, (1, 1))
    if len(set(places)) != len(places) or not least <= len(places) <= most:
        raise ValueError(f"a {vote.kind} vote needs {least} to {most} different target(s), got {places}")
    if vote.kind == "ranking":
        ranked = sorted(i for group in vote.groups or () for i in group)
        if ranked != [*range(len(places))]:
            raise ValueError(f"the groups {vote.groups} do not rank {len(places)} targets")
    if vote.kind != "comparison" or places == sorted(places):
        return vote
    turned: dict[str, Any] = {"targets": vote.targets[::-1], "value": 1.0 - vote.value}
    if vote.presented is not None:
        turned["presented"] = [1 - side for side in vote.presented]
    return vote.model_copy(update=turned)
