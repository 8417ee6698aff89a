"""What one look at another service leads to: which votes are sent, and which are taken back. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from hearken.sync.state import Sent
from hearken.sync.votes import Given

LOOKS_MISSED = 2
"""Looks in a row that must miss a vote before it is taken back: pages move while they are read."""

FEW = 10
"""So many votes may be taken back at once, whatever share of all they are."""


@dataclass(frozen=True, slots=True)
class Plan:
    """send: votes that are new or say something else, each with what is remembered of its slot. back: votes
    to be taken back. seen: what is remembered otherwise than before, of votes that stay. older: how many are
    not counted, as their rater said something newer on the same answer. known: how many were remembered."""

    send: tuple[tuple[Given, Sent | None], ...]
    back: tuple[Sent, ...]
    seen: tuple[Sent, ...]
    older: int
    known: int

    @property
    def is_sudden(self) -> bool:
        """Whether more is to be taken back than people take back: most of what is known, and not a few."""
        return len(self.back) > max(FEW, self.known / 2)


def plan(given: Iterable[Given], unread: Iterable[str], known: Mapping[str, Sent]) -> Plan:
    """given: the votes that are there. unread: items that are there and say no vote. known: the slots that
    were sent, of the same time as `given`."""
    listed = sorted(given, key=lambda one: (one.vote["occurred_at"], one.item))
    slots = {one.slot: one for one in listed}  # the newest of each
    there = {one.item for one in listed} | set(unread)
    alive = {slot: sent for slot, sent in known.items() if sent.vote}
    back, seen = [], []
    for slot, sent in alive.items():
        if slot in slots:
            if sent.missed:
                seen.append(replace(sent, missed=0))
        elif sent.item in there or sent.missed + 1 >= LOOKS_MISSED:
            back.append(sent)
        else:
            seen.append(replace(sent, missed=sent.missed + 1))
    send = [
        (one, known.get(slot))
        for slot, one in slots.items()
        if slot not in alive or alive[slot].digest != one.digest
    ]
    return Plan(tuple(send), tuple(back), tuple(seen), len(listed) - len(slots), len(alive))
