"""Whether an engine gets requests: a circuit breaker as one table.

              LOST, or the third FAILED in a row
    closed ------------------------------------------> open
      ^                                                 |  ^
      | PASSED                          DUE, after a    |  | LOST, FAILED
      |                                 rest            v  |
      +---------------------------------------------- half-open

closed: users' requests go there. open: none does; the gateway asks for its health. half-open: it is well
again, and answers the gateway's own trial (one token from the base and from each policy) before any user
sees it. No request of a user is ever the trial.
"""

from dataclasses import dataclass, replace
from typing import Literal

State = Literal["closed", "open", "half-open"]
Event = Literal[
    "ANSWERED",  # a request was answered
    "FAILED",  # a request got an error of the engine (5xx)
    "LOST",  # the engine did not answer: refused, broke off, or hangs
    "DUE",  # it answers its health check, and has rested
    "PASSED",  # it answered the trial
]

FAILURES = 3
"""Errors in a row that open the breaker."""
REST_SECONDS = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""The rest after it opened once, twice, ... with no answer to a user between; then always the last one."""

_NEXT: dict[tuple[State, Event], State] = {
    ("closed", "ANSWERED"): "closed",
    ("closed", "FAILED"): "open",  # the FAILURES-th in a row; before that it stays
    ("closed", "LOST"): "open",
    ("open", "DUE"): "half-open",
    ("half-open", "PASSED"): "closed",
    ("half-open", "FAILED"): "open",
    ("half-open", "LOST"): "open",
}


@dataclass(frozen=True, slots=True)
class Breaker:
    """`failures`: errors in a row. `opened`: how often in a row it opened. `until`: the rest's end (s)."""

    state: State = "open"
    failures: int = 0
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
        if (self.state, event) == ("closed", "FAILED") and self.failures + 1 < FAILURES:
            return replace(self, failures=self.failures + 1)
        if state == "open":
            rest = REST_SECONDS[min(self.opened, len(REST_SECONDS) - 1)]
            return Breaker("open", opened=self.opened + 1, until=now + rest)
        return replace(self, state=state, failures=0)
