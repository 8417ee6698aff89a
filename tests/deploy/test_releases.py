"""The topic's events: parsing, and folds that repetitions and a second controller cannot disturb."""

from collections.abc import Iterable
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from deploy.decide import release
from deploy.history.releases import (
    Candidate,
    Command,
    Decision,
    History,
    Reached,
    ReleaseEvent,
    admit,
    append_step,
    entry,
    parse,
)
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable
from deploy.reports.status import summary
from feedback.core.events import RELEASES
from feedback.sqlite.log import SqliteLog


def decision(
    number: int,
    *,
    event_id: str = "",
    answers: str | None = None,
    epoch: int | None = None,
    fence: int = 0,
) -> Decision:
    table = None if epoch is None else RoutingTable(epoch=epoch, live=f"policy-{epoch}-aaaaaaaa")
    return Decision(
        event_id=event_id or f"d{number}",
        at=float(number),
        number=number,
        fence=fence,
        outcome="begun",
        stage_before="idle",
        stage_after="idle",
        sentence=f"number {number}",
        numbers={"evidence": 1.5, "pairs": 3, "guardrail": "x", "nothing": None},
        answers=answers,
        table=table,
        state=ReleaseState(release_id=event_id or f"d{number}", table=table or RoutingTable()),
    )


CANDIDATE = Candidate.announce("policy-1-aaaaaaaa", at=1.0)
COMMAND = Command(event_id="c1", at=2.0, action="rollback", who="ann")


def test_events_come_back_as_they_were() -> None:
    for event in (CANDIDATE, COMMAND, decision(1, epoch=3)):
        assert entry(event).topic == RELEASES
        assert parse(entry(event).value) == event


def test_what_is_no_event_is_none() -> None:
    for value in (b"", b"{}", b'{"type": "party"}', b'{"type": "candidate"}', b"\xff"):
        assert parse(value) is None


def test_a_newer_writers_fields_are_kept() -> None:
    value = entry(CANDIDATE).value.replace(b'"tenant"', b'"mood":"good","tenant"')
    event = parse(value)
    assert event is not None
    assert b'"mood":"good"' in entry(event).value


def counting(decisions: Iterable[Decision]) -> list[str]:
    history = History()
    return [each.event_id for each in decisions if history.apply(each)]


def test_an_older_lease_decides_nothing_once_a_newer_one_has() -> None:
    first, theirs, late = decision(1, fence=3), decision(2, fence=4), decision(3, fence=3, event_id="late")
    assert counting([first, theirs, late]) == ["d1", "d2"]
    assert counting([first, late, theirs]) == ["d1", "late"], "before that it counts, and the other is late"


def test_a_newer_lease_ends_the_older_one_even_with_a_decision_that_is_late_itself() -> None:
    rival, late = decision(2, fence=4, event_id="rival"), decision(3, fence=3)
    assert counting([decision(1, fence=3), decision(2, fence=3), rival, late]) == ["d1", "d2"]
    assert admit(Reached(2, 3), rival) == (Reached(2, 4), False)


def test_without_a_lease_the_number_alone_counts() -> None:
    """A service that goes on without Redis, or `hearken rebase`, after a time with leases."""
    assert counting([decision(1, fence=7), decision(2), decision(2, event_id="x")]) == ["d1", "d2"]
    assert counting([decision(1, fence=7), decision(2), decision(3, fence=6)]) == ["d1", "d2"]


Event = tuple[str, int]  # what happens ("decide", "land", "look", "take over", "crash"), and to which of two


class Rivals:
    """Two controllers on one topic. What one appends waits in its outbox, as with Kafka, and lands later.

    Each decides on what it has read, and only once it has read its last decision back.
    """

    def __init__(self) -> None:
        self.topic: list[Decision] = []
        self.outboxes: tuple[list[Decision], list[Decision]] = ([], [])
        self.fences = [0, 0]
        self.leases = 0
        self.made = 0
        self.waits_for: list[str | None] = [None, None]
        self.read = [History(10**6), History(10**6)]
        self.offsets = [0, 0]
        self.based_on: dict[str, str | None] = {}  # decision -> the one that its state follows from

    def happen(self, what: str, who: int) -> None:
        if what == "take over":
            self.leases += 1
            self.fences[who] = self.leases
        elif what == "look":
            for each in self.topic[self.offsets[who] :]:
                self.read[who].apply(each)
                if each.event_id == self.waits_for[who]:
                    self.waits_for[who] = None
            self.offsets[who] = len(self.topic)
        elif what == "land" and self.outboxes[who]:
            self.topic.append(self.outboxes[who].pop(0))
        elif what == "crash":  # what it appended still lands; it reads all anew, and all of its own first
            self.topic += self.outboxes[who]
            self.outboxes[who].clear()
            self.read[who], self.offsets[who], self.waits_for[who] = History(10**6), 0, None
            self.happen("look", who)
        elif what == "decide" and self.waits_for[who] is None and self.fences[who]:
            self._decide(who)

    def _decide(self, who: int) -> None:
        self.made += 1
        history = self.read[who]
        made = decision(
            history.reached.number + 1, event_id=f"d{self.made}", fence=self.fences[who], epoch=self.made
        )
        self.based_on[made.event_id] = history.decisions[-1].event_id if history.decisions else None
        self.waits_for[who] = made.event_id
        self.outboxes[who].append(made)


HAPPENINGS = st.lists(
    st.tuples(st.sampled_from(["decide", "land", "look", "take over", "crash"]), st.integers(0, 1)),
    max_size=60,
)


@given(HAPPENINGS)
def test_whatever_two_controllers_do_the_history_is_one_chain_and_all_see_it(events: list[Event]) -> None:
    rivals = Rivals()
    for what, who in events:
        rivals.happen(what, who)
    for who in (0, 1):
        for what in ("crash", "look"):
            rivals.happen(what, who)
    history, newest, highest = History(10**6), None, 0
    for each in rivals.topic:
        if history.apply(each):
            assert rivals.based_on[each.event_id] == newest, "made on the state that was in force"
            assert each.fence >= highest, "not under an older lease than one that was heard of"
            newest = each.event_id
        highest = max(highest, each.fence)
    again = History(10**6)
    for each in [*rivals.topic, *rivals.topic]:
        again.apply(each)
    assert list(again.decisions) == list(history.decisions), "repetitions change nothing"
    rivals.happen("look", 0)
    for seen in rivals.read:
        assert seen.state == history.state


def test_history_knows_the_newest_state_and_what_is_unanswered() -> None:
    history = History()
    for event in (decision(1), CANDIDATE, COMMAND, decision(2, answers="c1")):
        history.apply(event)
    assert history.state is not None
    assert history.state.release_id == "d2"
    assert history.commands == []
    assert history.candidates == [CANDIDATE]
    history.apply(decision(3, answers=CANDIDATE.event_id))
    assert history.candidates == []


def test_repetitions_and_rivals_change_nothing() -> None:
    history = History()
    events: list[ReleaseEvent] = [decision(1), CANDIDATE, decision(2, answers=CANDIDATE.event_id)]
    rival = decision(2, event_id="rival")
    for event in (*events, *events, CANDIDATE, rival):
        history.apply(event)
    assert history.reached.number == 2
    assert history.state is not None
    assert history.state.release_id == "d2"
    assert [d.event_id for d in history.decisions] == ["d1", "d2"]
    assert history.candidates == []


def test_a_step_without_a_controller_is_made_without_a_lease(tmp_path: Path) -> None:
    log, history = SqliteLog(tmp_path / "log.db"), History()
    history.apply(decision(1, fence=5))
    append_step(log, history, release.begin(1.0), 1.0)
    assert (history.reached, history.decisions[-1].fence) == (Reached(2, 5), 0)
    log.close()


def test_the_summary_is_for_people() -> None:
    history = History()
    assert summary(history)["stage"] is None
    begun = release.begin(5.0)
    history.apply(decision(1).model_copy(update={"state": begun.state, "sentence": begun.sentence}))
    history.apply(COMMAND)
    told = summary(history)
    assert (told["stage"], told["live"], told["live_seq"], told["previous"]) == ("idle", "base", 0, None)
    assert told["unanswered"] == ["c1"]
    assert told["decisions"][0]["sentence"] == begun.sentence
