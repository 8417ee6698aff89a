"""Votes to units: all that a user says within a window is one observation, known when the window closes."""

from bisect import bisect_left
from collections.abc import Iterable
from heapq import heappop, heappush
from typing import NamedTuple

from deploy.evidence.voting import Vote, close_windows
from deploy.history.scope import Side

Key = tuple[Side, str, str]  # side, user, group


class Unit(NamedTuple):
    """A user's closed window (`deploy.evidence.voting.Window`); sorts in closing order. group: the tenant."""

    closes_at: float
    user: str
    side: Side
    group: str
    thumbs: float | None
    preference: float | None = None
    votes: int = 0


class Units:
    """The units of one comparison. They follow from the set of votes and the time, not from the order, the
    batches or the repetitions in which votes arrive."""

    def __init__(self, window_seconds: float, windows_per_user: int) -> None:
        self.closed: list[Unit] = []
        self._window = window_seconds
        self._per_user = windows_per_user
        self._votes: dict[Key, dict[tuple[str, int], Vote]] = {}
        self._of: dict[Key, list[Unit]] = {}  # those of `closed`
        self._changed: set[Key] = set()  # votes came since they were looked at
        self._open: list[tuple[float, Key]] = []  # closing times to come: a heap

    def add(self, side: Side, user: str, group: str, vote: Vote) -> None:
        """Take in a vote; each revision only once."""
        key = (side, user, group)
        votes = self._votes.setdefault(key, {})
        if votes.setdefault((vote.event_id, vote.revision), vote) is vote:
            self._changed.add(key)

    def close(self, clock: float) -> int:
        """Close what is over at `clock`. Gives how many of `closed`, from its start, are as they were
        before."""
        while self._open and self._open[0][0] <= clock:
            self._changed.add(heappop(self._open)[1])
        gone: list[Unit] = []
        new: list[Unit] = []
        for key in self._changed:
            before, now = self._of.get(key, []), self._look(key, clock)
            gone += _without(before, now)
            new += _without(now, before)
            self._of[key] = now
        self._changed.clear()
        return self._put(gone, new)

    def _put(self, gone: Iterable[Unit], new: list[Unit]) -> int:
        """Take units out of `closed` and put others in. Gives where the first change was.

        All that are new at once: after a restart they are all that there are, and to put each in its place by
        itself moves all that come after it.
        """
        same = len(self.closed)
        for unit in gone:
            place = bisect_left(self.closed, unit)
            del self.closed[place]
            same = min(same, place)
        if new:
            place = bisect_left(self.closed, min(new))
            self.closed[place:] = sorted(self.closed[place:] + new)
            same = min(same, place)
        return same

    def _look(self, key: Key, clock: float) -> list[Unit]:
        """The closed windows of a user, those that are open noted."""
        side, user, group = key
        windows = close_windows(self._votes[key].values(), self._window, self._per_user)
        for window in windows:
            if window.closes_at > clock:
                heappush(self._open, (window.closes_at, key))
        return [Unit(w.closes_at, user, side, group, *w[1:]) for w in windows if w.closes_at <= clock]


def _without(units: Iterable[Unit], others: list[Unit]) -> list[Unit]:
    return [unit for unit in units if unit not in others]
