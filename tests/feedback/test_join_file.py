"""A joiner whose memory is a file: the same labels as one in memory, from answers however far back."""

import random
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.core.events import COMPLETIONS, Completion, Feedback, Target
from feedback.core.log import Entry, LogUnavailable, Place, Record
from feedback.joining import file as join_file
from feedback.joining.file import FileJoins, make_tables
from feedback.joining.join import Joiner
from feedback.joining.labels import Label
from feedback.joining.memory import CompletionsUnavailable
from feedback.joining.opened import Opener
from feedback.privacy.sealing import Sealer
from feedback.privacy.vault import Vault
from feedback.sqlite.log import SqliteLog
from tests.feedback.examples import completion, record, thumb
from tests.feedback.test_join import final, history, in_pieces
from tests.feedback.test_join_properties import delivered, histories, stored


class Shelf:
    """A log that has what was put there, until it is away or has lost something."""

    def __init__(self) -> None:
        self.records: dict[Place, Record] = {}
        self.is_away = False
        self.asked = 0

    def put(self, records: Sequence[Record]) -> list[Record]:
        """The records with places of their own."""
        placed = []
        for each in records:
            place = Place(each.topic, len(self.records) % 3, len(self.records))
            self.records[place] = Record(*place, each.key, each.value)
            placed.append(self.records[place])
        return placed

    def fetch(self, places: Sequence[Place]) -> list[Record | None]:
        if self.is_away:
            raise LogUnavailable("away")
        self.asked += len(places)
        return [self.records.get(place) for place in places]


class Desk:
    """A joiner on a file, and the shelf from which it reads."""

    def __init__(self, sealer: Sealer | None = None, **limits: int) -> None:
        self.db = sqlite3.connect("", isolation_level=None)
        make_tables(self.db)
        self.shelf, self.sealer, self.limits = Shelf(), sealer, limits
        self.restart()

    def restart(self) -> None:
        """Begin again with what the file has."""
        self.joins = FileJoins(self.db, self.shelf.fetch, Opener(self.sealer), **self.limits)
        self.joiner = Joiner(sealer=self.sealer, joins=self.joins)

    def feed(self, *events: Completion | Feedback) -> list[Label]:
        return self.joiner.feed(self.shelf.put([record(event) for event in events]))


def named(completion_id: str, at: float, **names: str) -> Completion:
    return completion(completion_id, at=at).model_copy(update=names)


def about(target: Target, at: float, revision: int = 1) -> Feedback:
    return thumb("x", 1.0, revision).model_copy(update={"targets": [target], "at": at})


@pytest.mark.parametrize("seed", range(40))
def test_the_labels_are_those_of_a_joiner_in_memory(seed: int) -> None:
    random_ = random.Random(seed)
    records = history(random_)
    expected = final([Joiner().feed(records)])
    mixed = records + random_.choices(records, k=len(records) // 2)
    random_.shuffle(mixed)
    desk, batches = Desk(), []
    for piece in in_pieces(desk.shelf.put(mixed), random_):
        batches.append(desk.joiner.feed(piece))
        if random_.random() < 0.3:
            desk.restart()
    assert final(batches) == expected


@settings(max_examples=100, deadline=None)
@given(histories(), st.integers(0, 2**32))
def test_votes_of_every_kind_end_in_the_same_labels(records: list[Record], seed: int) -> None:
    expected = stored([Joiner().feed(records)])
    desk = Desk()
    pieces = [desk.shelf.put(piece) for piece in delivered(records, seed)]
    found = stored([desk.joiner.feed(piece) for piece in pieces])
    assert found.ledger() == expected.ledger()
    assert sorted(found._labels.items()) == sorted(expected._labels.items())


def test_a_vote_finds_an_answer_far_beyond_any_window_after_a_restart() -> None:
    desk = Desk(recent=3)
    desk.feed(*(completion(f"c{i}") for i in range(3000)))
    desk.restart()
    assert list(desk.joiner.completions) == ["c2997", "c2998", "c2999"]
    labels = desk.feed(*(thumb(f"c{i}", 1.0, 1) for i in range(0, 3000, 3)))
    assert [label.answers[0].completion_id for label in labels] == [f"c{i}" for i in range(0, 3000, 3)]
    assert labels[0].answers[0].token_ids == (500, 0)
    assert desk.joiner.lost == []


def test_nothing_is_opened_before_it_is_voted_on(tmp_path: Path) -> None:
    sealer = Sealer(Vault(tmp_path, b"s" * 32))
    desk = Desk(sealer)
    sealed = sealer.seal(completion("c1"))
    broken = sealed.model_copy(update={"sealed": (sealed.sealed or "").partition(".")[0] + ".AAAA"})
    assert desk.feed(broken, sealer.seal(completion("c2"))) == []
    assert desk.joiner.poison == 0
    [label] = desk.feed(thumb("c2", 1.0, 1))
    assert label.answers[0].token_ids == (500, 0)
    told: list[str] = []
    desk.joiner.refused = lambda record, reason: told.append(record.topic)
    desk.restart()
    desk.joiner.refused = lambda record, reason: told.append(record.topic)
    other = sealer.seal(completion("c3"))
    cut = other.model_copy(update={"sealed": (other.sealed or "")[:-8]})
    assert desk.feed(cut, thumb("c3", 1.0, 1)) == []
    assert told == [COMPLETIONS]  # what is to be looked at is the completion, not the vote on it


def test_what_the_log_lost_is_told_and_not_waited_for() -> None:
    desk = Desk()
    desk.feed(completion("c1"), completion("c2"), named("c3", 1.0, episode_id="e"))
    desk.feed(named("c4", 2.0, episode_id="e"))
    desk.restart()
    places = [place for place in desk.shelf.records if place.topic == COMPLETIONS]
    for place in (places[0], places[2]):
        del desk.shelf.records[place]
    vote = thumb("c1", 1.0, 1)
    assert desk.feed(vote) == []
    assert [each.event_id for each in desk.joiner.lost] == [vote.event_id]
    assert len(desk.feed(thumb("c2", 1.0, 1))) == 1
    [label] = desk.feed(about(Target(episode_id="e"), 5.0))
    assert [answer.completion_id for answer in label.answers] == ["c4"]  # what is left of it
    assert list(desk.joiner.completions) == ["c2", "c4"]


def test_another_completion_in_the_place_of_the_one_that_is_meant_is_no_answer() -> None:
    desk = Desk()
    desk.feed(completion("c1"))
    desk.restart()
    [place] = desk.shelf.records
    desk.shelf.records[place] = Record(*place, "k", record(completion("c9")).value)
    assert desk.feed(thumb("c1", 1.0, 1)) == []
    assert len(desk.joiner.lost) == 1


def test_a_vote_whose_answer_does_not_come_within_a_day_is_lost_and_told() -> None:
    desk = Desk()
    late, waits = thumb("never", 1.0, 1), thumb("soon", 1.0, 1, rater="u_2")
    held = about(Target(external_id="m"), 2.0, 7).model_copy(update={"event_id": "fb-held"})
    desk.feed(late, named("c0", 1.0, external_id="m"), held)
    desk.feed(waits.model_copy(update={"at": join_file.WAIT_SECONDS}))
    assert desk.joins.sweep() == []
    desk.feed(thumb("c0", 1.0, 1).model_copy(update={"at": join_file.WAIT_SECONDS + 3.0}))
    assert [each.event_id for each in desk.joins.sweep()] == [
        late.event_id
    ]  # and not the one that has a label
    assert desk.joins.sweep() == []
    assert desk.feed(completion("never")) == []
    assert len(desk.feed(completion("soon"))) == 1


def test_of_votes_that_wait_the_oldest_are_lost_when_they_are_too_many() -> None:
    desk = Desk(most_waiting=10)
    votes = [thumb(f"never-{i}", 1.0, 1).model_copy(update={"at": float(i)}) for i in range(25)]
    desk.feed(*votes)
    assert [each.event_id for each in desk.joins.sweep()] == [vote.event_id for vote in votes[:15]]
    assert desk.db.execute("SELECT count(*) FROM waits").fetchone() == (10,)


def test_the_file_keeps_the_newest_and_a_vote_on_what_it_forgot_is_told_after_a_day() -> None:
    desk = Desk(keep=100)
    desk.feed(*(named(f"c{i}", float(i), external_id=f"m{i}") for i in range(250)))
    desk.joins.sweep()
    counts = [desk.db.execute(f"SELECT count(*) FROM {t}").fetchone()[0] for t in ("completions", "names")]
    assert counts == [100, 100]
    assert desk.feed(thumb("c3", 1.0, 1)) == []
    assert len(desk.feed(thumb("c200", 1.0, 1).model_copy(update={"at": 2 * join_file.WAIT_SECONDS}))) == 1
    assert [each.targets[0].completion_id for each in desk.joins.sweep()] == ["c3"]


def test_a_log_that_is_away_loses_no_vote() -> None:
    desk = Desk()
    desk.feed(completion("c1"))
    desk.restart()
    desk.shelf.is_away = True
    records = desk.shelf.put([record(completion("c2")), record(thumb("c1", 1.0, 1))])
    desk.db.execute("BEGIN")
    with pytest.raises(CompletionsUnavailable):
        desk.joiner.feed(records)
    desk.db.execute("ROLLBACK")
    desk.joins.rolled_back()
    desk.shelf.is_away = False
    assert list(desk.joiner.completions) == ["c1"]
    assert len(desk.joiner.feed(records)) == 1
    assert list(desk.joiner.completions) == ["c1", "c2"]


def test_an_erased_user_is_in_no_page_of_the_file(tmp_path: Path) -> None:
    sealer = Sealer(Vault(tmp_path / "vault", b"s" * 32))
    desk = Desk(sealer)
    said: dict[str, Any] = {"comment": "marmalade", "tags": ["Zanzibar"]}
    waits = thumb("later", 1.0, 1).model_copy(update=said)
    plain = thumb("later", 1.0, 1, rater="u_bob").model_copy(update=said)
    asked = sealer.seal(completion("c1"))
    desk.feed(asked, sealer.seal(waits), plain)
    assert [answers[0].text for answers in desk.joiner.completions.values()] == ["answer 0"]
    for user in ("u_ada", "u_bob"):
        sealer.erase("default", user)
        desk.joiner.forget_texts("default", user)
    assert [answers[0].text for answers in desk.joiner.completions.values()] == [""]
    assert b"marmalade" not in desk.db.serialize()
    labels = desk.feed(completion("later"))
    assert [(label.comment, label.tags) for label in labels] == [(None, ())] * 2


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


def test_an_answer_is_found_in_a_real_log_until_its_retention_has_passed(log: SqliteLog) -> None:
    events = [record(completion(f"c{i}")) for i in range(20)]
    log.append([Entry(each.topic, each.key, each.value) for each in events]).result()
    records, _ = log.read([COMPLETIONS], {})
    db = sqlite3.connect("", isolation_level=None)
    make_tables(db)
    Joiner(joins=FileJoins(db, log.fetch, Opener())).feed(records)
    assert log.prune(COMPLETIONS, 1e12, 10) == 10
    joiner = Joiner(joins=FileJoins(db, log.fetch, Opener()))
    labels = joiner.feed(record(thumb(f"c{i}", 1.0, 1)) for i in (4, 9, 10, 19))
    assert [label.answers[0].completion_id for label in labels] == ["c10", "c19"]
    assert [vote.targets[0].completion_id for vote in joiner.lost] == ["c4", "c9"]
