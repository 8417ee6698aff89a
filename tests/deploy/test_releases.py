"""The topic's events: parsing, and folds that repetitions and a second controller cannot disturb."""

from deploy import release
from deploy.releases import Candidate, Command, Decision, History, ReleaseEvent, entry, latest_table, parse
from deploy.stages import ReleaseState
from deploy.status import summary
from deploy.table import RoutingTable
from feedback.events import RELEASES
from feedback.log import Record


def decision(
    number: int, *, event_id: str = "", answers: str | None = None, epoch: int | None = None
) -> Decision:
    table = None if epoch is None else RoutingTable(epoch=epoch, live=f"policy-{epoch}-aaaaaaaa")
    return Decision(
        event_id=event_id or f"d{number}",
        at=float(number),
        number=number,
        outcome="begun",
        stage_before="idle",
        stage_after="idle",
        sentence=f"number {number}",
        numbers={"evidence": 1.5, "pairs": 3, "guardrail": "x", "nothing": None},
        answers=answers,
        table=table,
        state=ReleaseState(release_id=event_id or f"d{number}", table=table or RoutingTable()),
    )


def record(event: Candidate | Command | Decision, offset: int = 0) -> Record:
    topic, key, value = entry(event)
    return Record(topic, 0, offset, key, value)


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


def test_the_highest_epoch_is_in_force_and_the_first_of_two() -> None:
    rival = decision(4, event_id="rival", epoch=2).model_copy(
        update={"table": RoutingTable(epoch=2, live="policy-9-aaaaaaaa")}
    )
    records = [record(decision(1, epoch=1)), record(decision(2, epoch=2)), record(decision(3))]
    table = latest_table([*records, records[0], record(rival)])
    assert table is not None
    assert (table.epoch, table.live) == (2, "policy-2-aaaaaaaa")
    assert latest_table([record(CANDIDATE)]) is None
    assert latest_table([]) is None


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
    assert history.number == 2
    assert history.state is not None
    assert history.state.release_id == "d2"
    assert [d.event_id for d in history.decisions] == ["d1", "d2"]
    assert history.candidates == []


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
