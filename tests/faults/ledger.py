"""What the clients know of the votes that they sent, and whether the log agrees.

A vote that was answered 2xx is there exactly once, one that was refused (4xx, 503) never, and one whose
answer never came 0 times or once. Every vote is about a completion of its own, so that is its name here.
"""

import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from feedback.core.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.core.log import EventLog, Record

Outcome = Literal["accepted", "refused", "unknown"]


@dataclass
class Ledger:
    """One ledger of all clients of a test; thread-safe."""

    values: dict[str, float] = field(default_factory=dict)  # completion id -> the value voted for
    outcomes: dict[str, Outcome] = field(default_factory=dict)
    statuses: Counter[int] = field(default_factory=Counter)
    completions: set[str] = field(default_factory=set)  # those that a client has seen whole
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, completion_id: str, value: float, status: int | None) -> None:
        """Write down the answer to a vote; `status` is None when none came."""
        known: Outcome = "unknown" if status is None else "accepted" if status // 100 == 2 else "refused"
        with self._lock:
            self.values[completion_id] = value
            self.outcomes[completion_id] = known
            self.statuses[status or 0] += 1

    def count(self, outcome: Outcome) -> int:
        """How many votes ended so."""
        with self._lock:
            return sum(each == outcome for each in self.outcomes.values())

    def check(self, records: Iterable[Record], *, repeats: bool = False) -> None:
        """Compare with all that is in the log. `repeats`: the same revision may be there more than once."""
        votes: dict[tuple[str, int], Feedback] = {}
        completed: Counter[str] = Counter()
        for record in records:
            if record.topic == FEEDBACK:
                vote = Feedback.model_validate_json(record.value)
                name = (vote.targets[0].completion_id, vote.revision)
                assert repeats or name not in votes, f"twice in the log: {vote}"
                votes[name] = vote
            elif record.topic == COMPLETIONS:
                completed[Completion.model_validate_json(record.value).completion_id] += 1
        there = Counter(completion_id for completion_id, _ in votes)
        allowed = {"accepted": (1,), "refused": (0,), "unknown": (0, 1)}
        wrong = {c: (o, there[c]) for c, o in self.outcomes.items() if there[c] not in allowed[o]}
        assert not wrong, f"{len(wrong)} of {len(self.outcomes)} votes, for example {list(wrong.items())[:3]}"
        assert there.keys() <= self.outcomes.keys(), "votes that nobody sent"
        for (completion_id, _), vote in votes.items():
            assert vote.value == self.values[completion_id]
        lost = {c for c in self.completions if completed[c] == 0}
        assert not lost, f"{len(lost)} of {len(self.completions)} completions are not in the log"
        assert repeats or max(completed.values(), default=0) <= 1


def everything(log: EventLog, wait_seconds: float = 30.0) -> list[Record]:
    """All completions and votes that are in the log now."""
    topics = (COMPLETIONS, FEEDBACK)
    end = log.end(topics, wait_seconds)
    records: list[Record] = []
    cursor: dict[str, int] = {}
    while any(cursor.get(place, 0) < offset for place, offset in end.items()):
        more, cursor = log.read(topics, cursor, 5000, wait_seconds)
        assert more, f"nothing more came after {len(records)} records: {cursor} of {end}"
        records += more
    return records
