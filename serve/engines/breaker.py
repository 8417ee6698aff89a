"""Whether an engine gets requests: a circuit breaker as one table.

                             LOST
    closed ------------------------------------------> open
      ^                                                 |  ^
      | PASSED                          DUE, after a    |  | LOST
      |                                 rest            v  |
      +---------------------------------------------- half-open

closed: users' requests go there. open: none does; the gateway asks for its health. half-open: it is well
again, and answers the gateway's own trial (one token from the base and from each policy) before any user
sees it. No request of a user is ever the trial, and what becomes of one moves nothing: it only makes the
gateway ask a question of its own (serve/engines/watching.py), and that one is LOST or not.
"""

from dataclasses import dataclass, replace
from typing import Literal

State = Literal["closed", "open", "half-open"]
Event = Literal[
    "ANSWERED",  # a request was answered
    "LOST",  # it failed a question of the gateway's own, or nothing listens where it was
    "DUE",  # it answers its health check, and has rested
    "PASSED",  # it answered the trial
]

REST_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""The rest after it opened once, twice, ... with no answer to a user between; then always the last one."""

_NEXT: dict[tuple[State, Event], State] = {
    ("closed", "ANSWERED"): "closed",
    ("closed", "LOST"): "open",
    ("open", "DUE"): "half-open",
    ("half-open", "PASSED"): "closed",
    ("half-open", "LOST"): "open",
}


@dataclass(frozen=True, slots=True)
class Breaker:
    """`opened`: how often in a row it opened. `until`: the rest's end (s)."""

    state: State = "open"
    opened: int = 0
    until: float = 0.0

    def after(self, event: Event, now: float) -> "Breaker":
        """The breaker after an event. What the table does not have changes nothing: a late answer of an
        engine that is out of use already, for example."""
        state = _NEXT.get((self.state, event))
        if state is None or (event == "DUE" and now < self.until):
            return self
        if event == "ANSWERED":
            return Breaker("closed")
        if state == "open":
            rest = REST_SECONDS[min(self.opened, len(REST_SECONDS) - 1)]
            return Breaker("open", opened=self.opened + 1, until=now + rest)
        return replace(self, state=state)
