"""Late, duplicate, shuffled, revised and retracted votes of every kind end in the same labels."""

import random
from collections.abc import Iterable
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from feedback.core.events import Completion, Feedback, Target
from feedback.core.ids import vote_id
from feedback.core.log import Record
from feedback.joining.join import Joiner
from feedback.joining.labels import Label
from learner.votes.labels import LabelStore
from tests.feedback.examples import completion, record

IDS = [f"c{i}" for i in range(6)]
RATERS = ["u_1", "u_2"]
REVISIONS = st.integers(1, 6)


@st.composite
def completions(draw: st.DrawFn, completion_id: str) -> Completion:
    made = completion(
        completion_id,
        role=draw(st.sampled_from(["answer", "reference"])),
        choices=draw(st.integers(1, 2)),
        at=float(draw(st.integers(1, 5))),
    )
    names = {
        "external_id": draw(st.sampled_from([None, "msg-1", "msg-2"])),
        "episode_id": draw(st.sampled_from([None, "chat-1"])),
        "tenant": draw(st.sampled_from(["default", "default", "shop"])),
    }
    return made.model_copy(update=names)


def targets(whole: bool) -> st.SearchStrategy[Target]:
    """What a vote may be about, some of it never logged."""
    by_id = st.builds(Target, completion_id=st.sampled_from([*IDS, "never"]), choice=st.integers(0, 1))
    external = st.builds(Target, external_id=st.sampled_from(["msg-1", "msg-2", "msg-3"]))
    episode = st.builds(Target, episode_id=st.sampled_from(["chat-1", "chat-2"]))
    return st.one_of(by_id, external, episode) if whole else st.one_of(by_id, external)


SAID: dict[str, dict[str, Any]] = {
    "rating": {"label": "rated", "amount": 4.0, "scale": (1.0, 5.0), "value": 0.75},
    "correction": {"label": "corrected", "text": "It should say this.", "value": 0.5},
    "comment": {"label": "commented", "text": "hm", "value": 0.5},
    "metric": {"label": "measured", "name": "clicks", "amount": 3.0, "value": 0.5},
    "signal": {"label": "yes", "name": "copied", "amount": 1.0, "value": 0.5, "shown": True},
}


@st.composite
def votes(draw: st.DrawFn) -> Feedback:
    kind = draw(st.sampled_from(["thumbs", "comparison", "ranking", *SAID]))
    said: dict[str, Any] = dict(SAID.get(kind, {}))
    count = {"comparison": 2, "ranking": 3}.get(kind, 1)
    whole = kind not in ("comparison", "ranking", "correction")
    about = draw(
        st.lists(targets(whole), min_size=count, max_size=count, unique_by=lambda target: target.place)
    )
    if kind == "thumbs":
        value = draw(st.sampled_from([0.0, 1.0]))
        said = {"value": value, "label": "up" if value else "down"}
    elif kind == "comparison":
        label = draw(st.sampled_from(["a", "b", "tie", "both_bad"]))
        presented = draw(st.sampled_from([None, [0, 1], [1, 0]]))
        said = {"value": {"a": 1.0, "b": 0.0}.get(label, 0.5), "label": label, "presented": presented}
    elif kind == "ranking":
        said = {
            "value": 0.5,
            "label": "ranked",
            "groups": draw(st.sampled_from([[[0], [1, 2]], [[2], [0], [1]]])),
        }
    rater = draw(st.sampled_from(RATERS))
    vote = Feedback(
        event_id=vote_id("default", rater, kind, [target.place for target in about]),
        at=float(draw(st.integers(1, 6))),
        revision=draw(REVISIONS),
        kind=kind,  # type: ignore[arg-type]
        rater=rater,
        targets=about,
        **said,
    )
    if draw(st.integers(0, 4)):
        return vote
    taken_back = {"kind": "retraction", "retracts": vote.kind, "value": 0.5, "label": "retracted"}
    return Feedback.model_validate({**vote.model_dump(include=KEPT), **taken_back})


KEPT = {"event_id", "at", "revision", "rater", "targets", "source", "tenant"}


@st.composite
def histories(draw: st.DrawFn) -> list[Record]:
    logged = [draw(completions(completion_id)) for completion_id in IDS if draw(st.booleans())]
    return [record(event) for event in [*logged, *draw(st.lists(votes(), max_size=25))]]


def delivered(records: list[Record], seed: int) -> Iterable[list[Record]]:
    """Each record one to five times, shuffled, in pieces."""
    draw = random.Random(seed)
    mixed = [each for each in records for _ in range(draw.randint(1, 5))]
    draw.shuffle(mixed)
    while mixed:
        size = draw.randint(1, 9)
        yield mixed[:size]
        mixed = mixed[size:]


def stored(batches: Iterable[list[Label]]) -> LabelStore:
    store = LabelStore(0.5, tokenize=lambda text: tuple(text.encode()))
    for batch in batches:
        store.add(batch)
    return store


def contents(store: LabelStore) -> tuple[object, ...]:
    by_id = sorted(store._labels.items())
    training, judging = (sorted(each, key=lambda s: s.event_id) for each in (store.training, store.judging))
    return store.ledger(), by_id, training, judging


@settings(max_examples=150)
@given(histories(), st.integers(0, 2**32))
def test_any_delivery_gives_the_same_labels(records: list[Record], seed: int) -> None:
    expected = contents(stored([Joiner().feed(records)]))
    joiner, batches = Joiner(), []
    for i, piece in enumerate(delivered(records, seed)):
        batches.append(joiner.feed(piece))
        if (seed >> (i % 32)) & 1:  # a checkpoint and a restart in between
            joiner = Joiner.from_state(orjson.loads(orjson.dumps(joiner.state())))
    assert contents(stored(batches)) == expected


@settings(max_examples=150)
@given(histories())
def test_what_was_taken_back_is_not_learned_from(records: list[Record]) -> None:
    newest: dict[str, Feedback] = {}
    said_at: dict[tuple[str, int], set[str]] = {}  # two votes may have one revision
    for each in records:
        if each.topic == "feedback":
            vote = Feedback.model_validate_json(each.value)
            said_at.setdefault((vote.event_id, vote.revision), set()).add(vote.kind)
            if vote.event_id not in newest or vote.revision > newest[vote.event_id].revision:
                newest[vote.event_id] = vote
    store = stored([Joiner().feed(records)])
    for signal in [*store.training, *store.judging]:
        event_id = signal.event_id.partition(".")[0]
        assert newest[event_id].revision == signal.revision
        assert said_at[event_id, signal.revision] != {"retraction"}
        assert signal.kind in ("thumbs", "rating", "comparison", "ranking", "correction")
        if signal.kind == "ranking":
            assert sorted(i for group in signal.groups for i in group) == list(range(len(signal.answers)))
        else:
            assert len(signal.answers) == (2 if signal.kind in ("comparison", "correction") else 1)
        assert all(answer.tenant == signal.tenant for answer in signal.answers)


@settings(max_examples=100)
@given(histories(), st.integers(0, 2**32))
def test_a_restored_store_holds_the_same(records: list[Record], seed: int) -> None:
    store = stored([Joiner().feed(records)])
    again = LabelStore(0.5, tokenize=lambda text: tuple(text.encode()))
    again.restore(orjson.loads(orjson.dumps(store.state())))
    assert contents(again) == contents(store)
    assert again.take_news() == store.take_news()
