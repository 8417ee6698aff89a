"""The time that a record is sent to a broker with: the event's own, unless the broker would refuse that.

Kafka 4 refuses records that are more than an hour ahead of its clock (`message.timestamp.after.max.ms`), and
an operator may refuse old ones (`message.timestamp.before.max.ms`). So a wrong clock here, or a long wait in
the outbox, must not decide whether an event arrives. The event itself keeps its own `at`.
"""

_CLOSE_SECONDS = 60.0


class SendingTime:
    """Chooses the time. `wall`: what this machine's clock says; `steady`: one that nobody moves (seconds).

    The broker agreed with the clock when it took a fresh record. From then on the steady clock tells what the
    broker takes for the present, also while this machine's clock is a day off.
    """

    def __init__(self) -> None:
        self._agreed: float | None = None  # wall - steady when the broker last took a fresh record
        self._distrusted = False

    def of(self, at: float, wall: float, steady: float) -> float:
        """The time (Unix seconds) to send an event of `at` with."""
        if not self._distrusted:
            return min(at, wall)
        return wall if self._agreed is None else self._agreed + steady

    def taken(self, newest_at: float, wall: float, steady: float) -> None:
        """The broker took records, the newest of them of `newest_at`."""
        if self._distrusted:
            # A clock that was put right is trusted again, as is one that was right when records were too old.
            off = 0.0 if self._agreed is None else abs(wall - self._agreed - steady)
            self._distrusted = off > _CLOSE_SECONDS
        elif newest_at > wall - _CLOSE_SECONDS:
            self._agreed = wall - steady

    def refused(self) -> bool:
        """The broker refused a record for its time. Whether there is another time to try at once.

        There is none where the clock was tried as it is and nothing else is known: then one waits until
        the clock is right.
        """
        another = not self._distrusted or self._agreed is not None
        if self._distrusted:
            self._agreed = None  # the machine slept, or the broker's clock was moved
        self._distrusted = True
        return another
