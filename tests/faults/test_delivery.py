"""Events that come repeatedly, in any order, of other schema versions, or that make no sense at all."""

import json
import random
import sqlite3
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, Feedback
from feedback.core.ids import Signer
from feedback.core.log import Entry, Record
from feedback.joining.join import Joiner
from feedback.joining.labels import Label
from feedback.sqlite.log import SqliteLog
from hearken.data.audit import audit, wait_until_read
from learner.votes.labels import LabelStore
from tests.faults.processes import LearnerNursery
from tests.faults.scale import SCALE
from tests.faults.traffic import SECRET
from tests.feedback.examples import completion, record, thumb

POISON = (
    b"",
    b"\x00\xff\xfe",
    b"not json",
    b"null",
    b"[]",
    b"{}",
    b'{"kind": "thumbs"}',
    b'{"event_id": "x", "at": "yesterday"}',
    b'{"a": ' * 2000,
    b"9" * 5000,
)


def story(random_: random.Random) -> list[Record]:
    """Completions, votes on them, and changed minds."""
    signer = Signer(SECRET)
    names = [signer.new_completion_id() for _ in range(200)]
    events: list[Any] = [completion(name) for name in names]
    for revision in range(1, 400):
        value = random_.choice((0.0, 1.0))
        events.append(thumb(random_.choice(names), value, revision, rater=f"u_{revision % 5}"))
    return [record(event) for event in events]


def fold(deliveries: list[list[Record]], *, restarts: bool = False) -> tuple[dict[str, Label], str]:
    """What a learner holds after these, and the digest in its ledger."""
    joiner, store = Joiner(), LabelStore(0.25)
    for delivery in deliveries:
        store.add(joiner.feed(delivery))
        if restarts:
            joiner = Joiner.from_state(json.loads(json.dumps(joiner.state())))
            saved, store = json.loads(json.dumps(store.state())), LabelStore(0.25)
            store.restore(saved)
    labels = {label.event_id: label for label in (*store.training, *store.judging)}
    return labels, str(store.ledger()["digest"])


@pytest.mark.parametrize("seed", range(SCALE.shuffles))
def test_events_that_come_one_to_five_times_in_any_order_give_one_state(seed: int) -> None:
    random_ = random.Random(seed)
    records = story(random_)
    expected = fold([records])
    repeated = [each for each in records for _ in range(random_.randint(1, 5))]
    random_.shuffle(repeated)
    pieces = []
    while repeated:
        size = random_.randint(1, 400)
        pieces.append(repeated[:size])
        repeated = repeated[size:]
    assert fold(pieces, restarts=True) == expected


def older(event: dict[str, Any]) -> dict[str, Any]:
    """The event as the first version of its schema wrote it: only what it must have."""
    needed = ("event_id", "at", "revision", "kind", "rater", "targets", "value", "label")
    return {name: event[name] for name in needed} | {"schema_version": 0}


def newer(event: dict[str, Any]) -> dict[str, Any]:
    """The event as a next version might write it: with fields that nobody here knows."""
    added = {"mood": {"valence": 0.5}, "schema_version": event["schema_version"] + 1}
    return event | added | {"targets": [target | {"span": [0, 4]} for target in event["targets"]]}


@pytest.mark.parametrize("change", [older, newer])
def test_an_event_of_the_schema_before_or_after_counts_like_any_other(change: Any) -> None:
    vote = thumb("c1", 1.0, 1)
    changed = json.dumps(change(vote.model_dump(mode="json"))).encode()
    (label,) = Joiner().feed([record(completion("c1")), Record(FEEDBACK, 0, 0, "k", changed)])
    (same,) = Joiner().feed([record(completion("c1")), record(vote)])
    assert label == same


def test_what_a_newer_version_added_is_kept_when_an_event_is_written_again() -> None:
    changed = newer(thumb("c1", 1.0, 1).model_dump(mode="json"))
    again = json.loads(Feedback.model_validate(changed).model_dump_json())
    assert again["mood"] == changed["mood"]
    assert again["targets"][0]["span"] == [0, 4]


def test_poison_stops_no_learner_and_is_kept_with_its_reason(data: Path, model: str) -> None:
    log = SqliteLog(data / "log.db")
    name = Signer(SECRET).new_completion_id()
    foreign = completion("of-another-model").model_copy(update={"prompt_token_ids": [1, 10**6]})
    topics = (COMPLETIONS, FEEDBACK, RELEASES)
    log.append([Entry(topic, "k", raw) for raw in POISON for topic in topics]).result()
    for event in (foreign, thumb("of-another-model", 1.0, 1), completion(name), thumb(name, 1.0, 1)):
        log.append([Entry(each.topic, "k", each.value) for each in [record(event)]]).result()
    learners = LearnerNursery(data, model)
    try:
        learners.start()
        assert wait_until_read(log, data, 600.0, threading.Event()), learners.output.read_text()[-3000:]
        assert learners.end() == 0
        checked = audit(log, data)
    finally:
        learners.close()
        log.close()
    with closing(sqlite3.connect(data / "log.db")) as db:
        letters = db.execute(
            "SELECT topic, value, reason FROM dead_letters WHERE reader = 'learner'"
        ).fetchall()
    wanted = {(topic, raw) for raw in POISON for topic in (COMPLETIONS, FEEDBACK)}
    assert {(topic, value) for topic, value, _ in letters} == wanted
    assert all(reason for _, _, reason in letters)
    assert checked is not None
    assert checked.labels_used == 1
