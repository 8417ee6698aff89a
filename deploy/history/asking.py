"""Asks the controller for something, and finds out what came of it: its decision, and who serves by it."""

from deploy.history.leases import read
from deploy.history.releases import Command, Decision, Reached, admit, entry, parse
from feedback.core.events import RELEASES
from feedback.core.log import EventLog
from feedback.shared import SharedStore


class Asked:
    """A command, followed through the log. Methods raise `LogError`."""

    def __init__(self, log: EventLog, command: Command) -> None:
        self.command = command
        self.first: Command | None = None  # of that id in the log: another one where the id was used before
        self.decision: Decision | None = None  # that answers it
        self._log = log
        self._cursor: dict[str, int] = {}
        self._reached = Reached()

    def append(self) -> None:
        """Make the command durable."""
        self._log.append([entry(self.command)]).result()

    def look(self, wait_seconds: float = 0.0) -> bool:
        """Read on, and say whether there was anything. Waits for the first record for `wait_seconds`."""
        records, self._cursor = self._log.read([RELEASES], self._cursor, wait_seconds=wait_seconds)
        for record in records:
            event = parse(record.value)
            if isinstance(event, Decision):
                self._reached, counts = admit(self._reached, event)
                if counts and event.answers == self.command.event_id:
                    self.decision = event
            elif isinstance(event, Command) and event.event_id == self.command.event_id:
                self.first = self.first or event
        return bool(records)

    @property
    def is_another(self) -> bool:
        """Whether its id was used before, for another command."""
        wanted = (self.command.action, self.command.version, self.command.reason)
        first = self.first
        return first is not None and (first.action, first.version, first.reason) != wanted


def not_yet(store: SharedStore, decision: Decision) -> str | None:
    """Which gateways do not go by a decision's routing table yet, in a sentence; None when all of them do.

    By the leases that gateways write: one that does not live any more is forgotten within seconds.
    """
    epoch = decision.state.table.epoch
    leases = read(store)
    if leases is None:
        return "the shared store does not answer, so it is not known which gateways serve by the decision"
    if not leases:
        return "no gateway has told the shared store by which decision it serves"
    behind = sum(lease.epoch < epoch for lease in leases)
    return f"{behind} of {len(leases)} gateways do not serve by the decision yet" if behind else None
