"""Reservoir of labels where there are more than room for: the newest half stays, and a sample of others.

The sample is stratified by day and rater: days share the room equally as far as they have votes, in a day its
raters do, and no rater has more than a fifth of all unless there are hardly any others. So neither a busy day
nor a rater with thousands of votes pushes out what others said, and what people liked long ago is still there
when it counts. Which votes of a rater stay is decided by a hash of their ids: the same votes in the same
order leave the same ones, however often the learner died on the way.
"""

import hashlib
from collections import Counter, defaultdict
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

DAY_SECONDS = 86_400.0
RATER_SHARE = 0.2

Group = TypeVar("Group", bound=Hashable)
Vote = tuple[str, str, float]
"""Event id, rater, Unix time."""


def surplus(votes: Sequence[Vote], room: int) -> list[str]:
    """The event ids of those votes that have to go for `room` of them to stay, oldest first."""
    raters = Counter(rater for _, rater, _ in votes)
    most = int(RATER_SHARE * room)
    if max(raters.values(), default=0) > most:
        most = max(most, *shares(room, raters).values())
    days: dict[int, dict[str, list[str]]] = defaultdict(dict)
    for rater, of_one in _by_day(votes).items():
        sizes = {day: len(ids) for day, ids in of_one.items()}
        for day, quota in shares(min(most, raters[rater]), sizes).items():
            days[day][rater] = _drawn(of_one[day], quota)
    kept: set[str] = set()
    totals = {day: sum(map(len, found.values())) for day, found in days.items()}
    for day, quota in shares(room, totals).items():
        sizes_of = {rater: len(ids) for rater, ids in days[day].items()}
        for rater, count in shares(quota, sizes_of).items():
            kept.update(_drawn(days[day][rater], count))
    return [event_id for event_id, _, _ in votes if event_id not in kept]


def _drawn(ids: list[str], count: int) -> list[str]:
    return ids if count >= len(ids) else sorted(ids, key=_lot)[:count]


def _by_day(votes: Sequence[Vote]) -> dict[str, dict[int, list[str]]]:
    """Each rater's event ids by day."""
    found: dict[str, dict[int, list[str]]] = defaultdict(lambda: defaultdict(list))
    for event_id, rater, at in votes:
        found[rater][int(at // DAY_SECONDS)].append(event_id)
    return found


def shares(room: int, sizes: Mapping[Group, int]) -> dict[Group, int]:
    """How much of `room` each group gets: what it needs, and all that need more as much as each other.

    Where the rest cannot be divided, some of these get one more, by lot.
    """
    found: dict[Group, int] = {}
    left = sorted(sizes, key=lambda group: sizes[group], reverse=True)
    while left and sizes[left[-1]] <= room // len(left):
        group = left.pop()
        found[group] = sizes[group]
        room -= sizes[group]
    if left:
        each, rest = divmod(room, len(left))
        lucky = set(sorted(left, key=lambda group: _lot(str(group)))[:rest]) if rest else set()
        found |= {group: each + (group in lucky) for group in left}
    return found


def _lot(name: str) -> bytes:
    return hashlib.sha256(f"stays\0{name}".encode()).digest()
