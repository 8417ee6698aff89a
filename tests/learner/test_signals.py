"""What the reward model gets to hear of each kind of vote."""

from dataclasses import replace

from feedback.core.events import Completion, Feedback, Target
from feedback.joining.join import Joiner
from feedback.joining.labels import Label
from feedback.updates.usage import PART, usage_events
from learner.votes.labels import LabelStore
from learner.votes.signals import signals
from tests.feedback.examples import completion, record, thumb


def label_of(kind: str, targets: list[str], **said: object) -> Label:
    """A vote on completions, joined."""
    events: list[Completion | Feedback] = [completion(target) for target in targets]
    vote = {"event_id": "fb-1", "at": 2.0, "revision": 1, "kind": kind, "rater": "u_ada", "value": 0.5}
    about = [Target(completion_id=target) for target in targets]
    events.append(Feedback.model_validate({**vote, "label": kind, "targets": about, **said}))
    (label,) = Joiner().feed(record(event) for event in events)
    return label


def spell(text: str) -> tuple[int, ...]:
    return (*text.encode(), 0)


def test_thumbs_ratings_and_comparisons_speak_for_themselves() -> None:
    for label in (
        label_of("thumbs", ["c1"], value=1.0),
        label_of("rating", ["c1"], value=0.75, amount=4, scale=(1, 5)),
        label_of("comparison", ["c1", "c2"], value=0.0),
    ):
        assert signals(label, None) == (label,)


def test_a_ranking_says_that_it_is_right() -> None:
    label = label_of("ranking", ["c1", "c2", "c3", "c4"], groups=[[2], [0, 3], [1]], weight=0.6)
    assert signals(label, None) == (replace(label, value=1.0),)
    all_tied = label_of("ranking", ["c1", "c2"], groups=[[0, 1]])
    assert signals(all_tied, None) == (replace(all_tied, value=0.5),)


def test_a_metric_that_names_an_objective_is_a_rating() -> None:
    said = {"name": "toxicity", "amount": 0.25, "direction": "lower", "scale": (0.0, 1.0), "value": 0.75}
    (signal,) = signals(label_of("metric", ["c1"], **said), None)
    assert (signal.kind, signal.value, signal.name) == ("rating", 0.75, "toxicity")
    assert signals(label_of("metric", ["c1"], **{**said, "name": "clicks"}), None) == ()
    assert signals(label_of("metric", ["c1"], **{**said, "scale": None}), None) == ()


def test_a_correction_beats_its_original() -> None:
    label = label_of("correction", ["c1"], text="Better.")
    (signal,) = signals(label, spell)
    written, original = signal.answers
    assert (signal.kind, signal.value) == ("correction", 1.0)
    assert (written.token_ids, written.text) == (spell("Better."), "Better.")
    assert written.prompt_token_ids == original.prompt_token_ids
    assert original == label.answers[0]
    assert signals(label, None) == ()
    assert signals(replace(label, text=original.text), spell) == ()  # it says what was said


def test_what_nobody_can_learn_from_yet_is_kept_and_teaches_nothing() -> None:
    for label in (
        label_of("comment", ["c1"], text="hm"),
        label_of("metric", ["c1"], name="clicks", amount=3.0),
        replace(label_of("thumbs", ["c1"], value=1.0), whole_episode=True),
        replace(label_of("thumbs", ["c1"], value=1.0), retracted=True),
    ):
        assert signals(label, spell) == ()
        store = LabelStore(0.0)
        store.add([label])
        assert (store.used, store.training, store.teaches(label)) == (1, [], False)


def test_the_store_tells_what_changed_since_it_was_asked() -> None:
    joiner, store = Joiner(), LabelStore(0.0, capacity=2)
    votes = [thumb(f"c{i}", 1.0, revision=5) for i in range(3)]
    store.add(
        joiner.feed([record(completion("c0")), record(votes[0]), record(completion("c1")), record(votes[1])])
    )
    assert store.take_news() == [(votes[0].event_id, 5, "training"), (votes[1].event_id, 5, "training")]
    assert store.take_news() == []
    taken_back = {
        "kind": "retraction",
        "retracts": "thumbs",
        "revision": 6,
        "label": "retracted",
        "value": 0.5,
    }
    gone = Feedback.model_validate({**votes[1].model_dump(), **taken_back})
    store.add(joiner.feed([record(gone), record(completion("c2")), record(votes[2])]))
    assert {event_id: state for event_id, _, state in store.take_news()} == {
        votes[0].event_id: "evicted",
        votes[1].event_id: "retracted",
        votes[2].event_id: "training",
    }


def test_a_large_update_is_told_in_parts_that_name_every_vote_once() -> None:
    changes = [(f"fb-{i}", i, "training" if i % 2 else "kept") for i in range(2 * PART + 5)]
    events = usage_events(3, 1.0, {"feedback/0": 9}, changes)  # type: ignore[arg-type]
    assert [event.part for event in events] == [0, 1, 2]
    assert {event.parts for event in events} == {3}
    told = [(*vote, state) for event in events for state, votes in event.votes.items() for vote in votes]
    assert sorted(told) == sorted(changes)
    assert len(usage_events(4, 1.0, {}, [])) == 1
