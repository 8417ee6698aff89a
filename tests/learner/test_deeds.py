"""What people did, from the log to the store: which answers it is about, and which way it speaks."""

from dataclasses import replace
from typing import Any

import pytest

from feedback.core.events import Completion, Feedback, Target
from feedback.joining.join import Joiner
from feedback.joining.labels import Label
from feedback.updates.usage import State
from learner.votes.deeds import deeds, meaning_of
from learner.votes.labels import LabelStore, judges
from learner.votes.meanings import BUILTIN, Meaning
from learner.votes.reliability import MODEL
from tests.feedback.examples import completion, record, thumb


def signal(name: str, targets: list[Target], label: str = "yes", number: int = 1, **said: Any) -> Feedback:
    """A signal as the gateway logs it."""
    known = {"amount": 1.0, "value": 0.5, "shown": True, "rater": "u_ada", "at": 2.0, "revision": number}
    event = {"event_id": f"fb-{number}", "kind": "signal", "name": name, "targets": targets, "label": label}
    return Feedback.model_validate(event | known | said)


def one(target: str) -> list[Target]:
    return [Target(completion_id=target)]


def joined(vote: Feedback, *ids: str, episode: str | None = None) -> Label:
    """The label of a signal on completions, which lie in the log before it."""
    events: list[Completion | Feedback] = [
        completion(each).model_copy(update={"episode_id": episode}) for each in ids
    ]
    (label,) = Joiner().feed(record(event) for event in [*events, vote])
    return label


def test_a_signal_speaks_for_its_answer_as_its_name_does() -> None:
    for name, label, amount, value in (
        ("copied", "yes", 1.0, 1.0),
        ("copied", "no", 0.0, 0.0),
        ("regenerated", "yes", 1.0, 0.0),
        ("regenerated", "no", 0.0, 1.0),
        ("dwell", "amount", 15.0, 0.25),
    ):
        (found,) = deeds(joined(signal(name, one("c1"), label, amount=amount), "c1"), BUILTIN)
        assert (found.name, found.value, found.slope) == (name, value, 0.0)
        assert (found.answers[0].completion_id, found.objective) == ("c1", "helpful")


def test_what_was_not_shown_or_has_no_meaning_says_nothing() -> None:
    silent = joined(signal("copied", one("c1"), "not_shown", amount=None, shown=False), "c1")
    known = joined(signal("copied", one("c1")), "c1")
    erased = replace(known, answers=(known.answers[0].without_text(),))
    for label in (
        silent,
        joined(signal("clicked", one("c1")), "c1"),
        replace(known, source=MODEL),
        replace(known, retracted=True),
        erased,
    ):
        assert deeds(label, BUILTIN) == ()
    assert deeds(known, {"copied": Meaning("higher", most=0.0)}) == ()
    assert len(deeds(known, BUILTIN)) == 1


def test_of_two_answers_the_one_that_was_kept_is_preferred() -> None:
    both = [Target(completion_id="new"), Target(completion_id="old")]
    for label, value in (("kept_new", 1.0), ("kept_old", 0.0)):
        linked = joined(signal("regenerated", both, label, value=value, amount=None), "old", "new")
        (found,) = deeds(linked, BUILTIN)
        assert [answer.completion_id for answer in found.answers] == ["new", "old"]
        assert (found.name, found.value) == ("regenerated/kept", value)
        assert meaning_of("regenerated/kept", BUILTIN).direction == "higher"
    unknown = joined(signal("regenerated", both, "regenerated", amount=None), "old", "new")
    (found,) = deeds(unknown, BUILTIN)
    assert ([answer.completion_id for answer in found.answers], found.name) == (["old"], "regenerated")
    assert found.value == 0.0  # it was not good enough


def test_an_outcome_of_an_episode_is_shared_out_among_its_answers() -> None:
    vote = signal("resolved", [Target(episode_id="talk")], weight=0.6)
    found = deeds(joined(vote, "c1", "c2", "c3", episode="talk"), BUILTIN)
    assert [deed.answers[0].completion_id for deed in found] == ["c1", "c2", "c3"]
    assert [deed.weight for deed in found] == [pytest.approx(0.2)] * 3
    assert {deed.value for deed in found} == {1.0}


# ---- the store


def store_of(*votes: Feedback, capacity: int = 100, judge_share: float = 0.0) -> LabelStore:
    store, ids = LabelStore(judge_share, capacity), {t.completion_id for vote in votes for t in vote.targets}
    store.add(Joiner().feed(record(event) for event in [*map(completion, sorted(ids)), *votes]))
    return store


def news(store: LabelStore) -> dict[str, State]:
    return {event_id: state for event_id, _, state in store.take_news()}


def test_the_store_tells_which_signals_teach_as_their_weights_change() -> None:
    store = store_of(signal("copied", one("c1")), signal("edited", one("c1"), number=2))
    assert news(store) == {"fb-1": "kept", "fb-2": "kept"}
    assert store.heard(store.deeds) == []
    store.believe({"copied": 0.3, "edited": 0.0})
    assert news(store) == {"fb-1": "training"}
    assert [(deed.name, deed.slope) for deed in store.heard(store.deeds)] == [("copied", 0.3)]
    again = LabelStore(0.0)
    again.restore(store.state())
    assert again.heard(again.deeds) == store.heard(store.deeds)
    store.believe({"copied": 0.2})
    assert news(store) == {}
    store.believe({})
    assert news(store) == {"fb-1": "kept"}


def test_signals_are_no_votes_and_those_of_raters_who_judge_teach_nothing() -> None:
    rater = next(name for name in map(str, range(99)) if judges(name, 0.5))
    store = store_of(signal("copied", one("c1"), rater=rater), judge_share=0.5)
    store.believe({"copied": 0.3})
    assert (store.votes, store.teaching, store.judging) == ([], [], [])
    (did,) = store.deeds
    assert store.heard([did]) == []
    assert not store.teaches(did)
    assert list(store.answers_of(did)) == []  # the base does not read them as they come
    assert news(store) == {"fb-1": "kept"}


def test_signals_take_no_votes_place() -> None:
    votes = [thumb(f"c{i}", 1.0, revision=i) for i in range(8)]
    flood = [signal("copied", one(f"c{i % 8}"), number=100 + i, at=3.0 + i) for i in range(60)]
    store = store_of(*votes, *flood, capacity=10)
    assert len(store.votes) == 8
    assert 5 <= len(store.deeds) <= 10
    assert store.deeds[-1].event_id == "fb-159"
    again = LabelStore(0.0, 10)
    again.restore(store.state())
    again.add(Joiner().feed([record(completion("c9")), record(thumb("c9", 0.0, revision=9))]))
    assert len(again.votes) == 9


def test_what_an_erased_user_did_is_forgotten() -> None:
    store = store_of(signal("copied", one("c1")))
    store.believe({"copied": 0.3})
    store.erase("default", "u_ada")
    assert store.deeds == []
    assert news(store) == {"fb-1": "erased"}
