"""The joiner: whatever the order of the records, the labels come out the same."""

import random
from collections.abc import Iterable
from itertools import permutations
from pathlib import Path

import orjson
import pytest

from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, Completion, Feedback, Target
from feedback.core.log import Record
from feedback.joining.join import Joiner, Label
from feedback.joining.memory import Window
from feedback.privacy.sealing import Sealer
from feedback.privacy.vault import Vault
from tests.feedback.examples import comparison, completion, record, thumb


def feed(joiner: Joiner, *events: Completion | Feedback) -> list[Label]:
    return joiner.feed(record(event) for event in events)


def final(batches: Iterable[list[Label]]) -> dict[str, Label]:
    """The last label per event, as a learner that keeps them would hold them."""
    return {label.event_id: label for batch in batches for label in batch}


def test_a_vote_meets_its_completion() -> None:
    [label] = feed(Joiner(), completion("c1"), thumb("c1", 1.0, revision=5))
    assert (label.kind, label.value, label.label, label.rater, label.revision) == (
        "thumbs",
        1.0,
        "up",
        "u_ada",
        5,
    )
    [answer] = label.answers
    assert answer.completion_id == "c1"
    assert answer.prompt_token_ids == (1, 500, 2)
    assert answer.token_ids == (500, 0)
    assert answer.arm == "canary"
    assert answer.sampling_plain


def test_a_vote_that_overtakes_its_completion_waits_for_it() -> None:
    joiner = Joiner()
    assert feed(joiner, thumb("c1", 1.0, revision=1)) == []
    assert feed(joiner, completion("c2")) == []
    assert [label.answers[0].completion_id for label in feed(joiner, completion("c1"))] == ["c1"]
    assert feed(joiner, completion("c1")) == []


def test_a_later_revision_replaces_and_an_older_or_equal_one_does_not() -> None:
    joiner = Joiner()
    feed(joiner, completion("c1"), thumb("c1", 1.0, revision=5))
    assert [label.value for label in feed(joiner, thumb("c1", 0.0, revision=6))] == [0.0]
    assert feed(joiner, thumb("c1", 1.0, revision=5), thumb("c1", 0.0, revision=6)) == []


def test_one_call_gives_the_newest_label_of_an_event_once() -> None:
    labels = feed(Joiner(), completion("c1"), thumb("c1", 1.0, revision=1), thumb("c1", 0.0, revision=2))
    assert [label.value for label in labels] == [0.0]


def test_a_vote_is_about_one_choice() -> None:
    [label] = feed(Joiner(), completion("c1", choices=3), thumb("c1", 1.0, revision=1, choice=2))
    assert label.answers[0].text == "answer 2"


def test_a_comparison_needs_both_completions() -> None:
    joiner = Joiner()
    assert feed(joiner, completion("c1"), comparison("c1", "c2", 1.0, revision=1)) == []
    [label] = feed(joiner, completion("c2"))
    assert [answer.completion_id for answer in label.answers] == ["c1", "c2"]
    assert (label.value, label.label) == (1.0, "a")


@pytest.mark.parametrize(("value", "word"), [(1.0, "b"), (0.0, "a"), (0.5, "tie")])
def test_a_comparison_named_the_other_way_round_means_the_same(value: float, word: str) -> None:
    joiner = Joiner()
    feed(joiner, completion("c1"), completion("c2"), comparison("c1", "c2", 1.0, revision=1))
    [label] = feed(joiner, comparison("c2", "c1", value, revision=2))
    assert [answer.completion_id for answer in label.answers] == ["c1", "c2"]
    assert (label.value, label.label) == (1.0 - value, word)


@pytest.mark.parametrize("named", [("c1", "c2"), ("c2", "c1")])
@pytest.mark.parametrize("reference", [None, "c1", "c2"])
def test_which_answer_was_shown_first_stays_true_however_they_are_named(
    named: tuple[str, str], reference: str | None
) -> None:
    vote = comparison(*named, 1.0, revision=1).model_copy(update={"presented": [1, 0]})
    roles = {name: "reference" if name == reference else "answer" for name in named}
    [label] = feed(Joiner(), *(completion(name, role=role) for name, role in roles.items()), vote)
    shown = [label.answers[side].completion_id for side in label.presented]
    assert shown == [named[1], named[0]]


@pytest.mark.parametrize(("answer", "reference"), [("c1", "c2"), ("c2", "c1")])
@pytest.mark.parametrize("named_first", ["answer", "reference"])
def test_the_users_own_arm_comes_before_the_reference(answer: str, reference: str, named_first: str) -> None:
    a, b = (answer, reference) if named_first == "answer" else (reference, answer)
    vote = comparison(a, b, 1.0, revision=1)
    [label] = feed(Joiner(), completion(answer), completion(reference, role="reference"), vote)
    assert [x.role for x in label.answers] == ["answer", "reference"]
    assert label.value == (1.0 if named_first == "answer" else 0.0)


def test_records_that_cannot_be_used_are_counted_and_skipped() -> None:
    joiner = Joiner()
    unusable = [
        Record(FEEDBACK, 0, 0, "k", b"not json"),
        Record(COMPLETIONS, 0, 0, "k", b"\xff"),
        Record(FEEDBACK, 0, 1, "k", b"{}"),
        record(thumb("c1", 1.0, 1).model_copy(update={"targets": []})),
        record(comparison("c1", "c1", 1.0, 1)),
        record(comparison("c1", "c2", 1.0, 1).model_copy(update={"kind": "thumbs"})),
        record(thumb("c1", 1.0, 1).model_copy(update={"value": 7.0})),
    ]
    assert joiner.feed([*unusable, Record(RELEASES, 0, 0, "k", b"not ours")]) == []
    assert joiner.poison == len(unusable)
    assert len(feed(joiner, completion("c1"), thumb("c1", 1.0, revision=1))) == 1


@pytest.mark.parametrize("order", list(permutations(range(3))))
@pytest.mark.parametrize(
    ("voted_at", "meant"), [(0.5, "early"), (1.0, "early"), (2.0, "early"), (3.5, "late")]
)
def test_an_id_of_ones_own_means_the_newest_answer_up_to_the_vote(
    order: tuple[int, ...], voted_at: float, meant: str
) -> None:
    """A regenerated answer may have the id of the one before; an older vote is not about it."""
    answers = [completion("early", at=1.0), completion("late", at=3.0)]
    vote = thumb("x", 1.0, 1).model_copy(update={"targets": [Target(external_id="msg-1")], "at": voted_at})
    events = [*(each.model_copy(update={"external_id": "msg-1"}) for each in answers), vote]
    joiner = Joiner()
    found = final(feed(joiner, events[i]) for i in order)
    assert [answer.completion_id for answer in found[vote.event_id].answers] == [meant]


def test_a_vote_for_a_choice_that_was_never_given_is_counted() -> None:
    joiner = Joiner()
    assert feed(joiner, completion("c1"), thumb("c1", 1.0, revision=1, choice=4)) == []
    assert joiner.poison == 1


def test_a_newer_writers_fields_do_no_harm() -> None:
    event = thumb("c1", 1.0, 1).model_copy(update={"schema_version": 9, "mood": "sunny"})
    assert len(feed(Joiner(), completion("c1"), event)) == 1


def test_completions_beyond_the_window_are_forgotten_first_in_first_out() -> None:
    joiner = Joiner(window=3)
    feed(joiner, *(completion(f"c{i}") for i in range(5)))
    assert list(joiner.completions) == ["c2", "c3", "c4"]
    assert feed(joiner, thumb("c1", 1.0, 1)) == []
    assert len(feed(joiner, thumb("c2", 1.0, 1))) == 1


def test_memory_is_bounded_whatever_comes() -> None:
    joiner = Joiner(window=10)
    for i in range(500):
        feed(
            joiner,
            thumb(f"never-{i}", 1.0, 1),
            comparison(f"no-{i}", f"nay-{i}", 1.0, 1),
            completion(f"c{i}"),
        )
    state = joiner.state()
    assert len(state["completions"]) == 10
    assert len(state["votes"]) == 40
    assert isinstance(joiner._joins, Window)
    assert len(joiner._joins._waiting) <= 80  # two for each comparison: nothing of what was forgotten is left


def test_a_window_must_hold_something() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        Joiner(window=0)


def history(random_: random.Random) -> list[Record]:
    """A mix of completions, thumbs, comparisons, changed minds and comparisons named both ways."""
    names = [f"c{i}" for i in range(random_.randint(2, 12))]
    roles = [random_.choice(["answer", "reference"]) for _ in names]
    events: list[Completion | Feedback] = [
        completion(name, role=role) for name, role in zip(names, roles, strict=True)
    ]
    for _ in range(random_.randint(0, 40)):
        rater, revision = random_.choice(["u_1", "u_2"]), random_.randint(1, 6)
        if random_.random() < 0.5:
            target = random_.choice([*names, "never-logged"])
            events.append(thumb(target, random_.choice([0.0, 1.0]), revision, rater=rater))
        else:
            a, b = random_.sample(names, 2)
            events.append(comparison(a, b, random_.choice([0.0, 0.5, 1.0]), revision, rater=rater))
    return [record(event) for event in events]


def in_pieces(records: list[Record], random_: random.Random) -> Iterable[list[Record]]:
    while records:
        size = random_.randint(1, 9)
        yield records[:size]
        records = records[size:]


@pytest.mark.parametrize("seed", range(60))
def test_any_order_repetition_and_split_gives_the_same_final_labels(seed: int) -> None:
    random_ = random.Random(seed)
    records = history(random_)
    expected = final([Joiner().feed(records)])
    for _ in range(5):
        mixed = records + random_.choices(records, k=len(records) // 2)
        random_.shuffle(mixed)
        joiner, batches = Joiner(), []
        for piece in in_pieces(mixed, random_):
            batches.append(joiner.feed(piece))
            if random_.random() < 0.3:  # a checkpoint and a restart in between
                joiner = Joiner.from_state(orjson.loads(orjson.dumps(joiner.state())))
        assert final(batches) == expected


def liked(value: float, completions: list[str]) -> str | None:
    """What a vote says in words that do not depend on the order: the preferred completion, or up or down."""
    if len(completions) == 1:
        return "up" if value == 1.0 else "down"
    return None if value == 0.5 else completions[0 if value == 1.0 else 1]


@pytest.mark.parametrize("seed", range(60))
def test_the_final_labels_equal_a_join_that_sees_everything_at_once(seed: int) -> None:
    records = history(random.Random(seed))
    parsed = [Completion.model_validate_json(r.value) for r in records if r.topic == COMPLETIONS]
    roles = {c.completion_id: c.role for c in parsed}
    newest: dict[str, list[Feedback]] = {}
    for vote in (Feedback.model_validate_json(r.value) for r in records if r.topic == FEEDBACK):
        known = newest.get(vote.event_id, [])
        if not known or vote.revision >= known[0].revision:
            same = [v for v in known if v.revision == vote.revision]
            newest[vote.event_id] = [*same, vote]
    labels = final([Joiner().feed(records)])
    complete = {e for e, votes in newest.items() if all(t.completion_id in roles for t in votes[0].targets)}
    assert labels.keys() == complete
    for event_id, label in labels.items():
        answers = [answer.completion_id for answer in label.answers]
        meanings = {liked(v.value, [t.completion_id for t in v.targets]) for v in newest[event_id]}
        assert liked(label.value, answers) in meanings  # several when a rater changed it in one microsecond
        assert [roles[a] for a in answers] == sorted(roles[a] for a in answers)


def test_a_restored_joiner_goes_on_where_it_was() -> None:
    joiner = Joiner(window=7)
    feed(joiner, completion("c1"), completion("c2", choices=2), thumb("c1", 1.0, 3), thumb("late", 0.0, 1))
    joiner.feed([Record(FEEDBACK, 0, 0, "k", b"bad")])
    restored = Joiner.from_state(orjson.loads(orjson.dumps(joiner.state())))
    assert restored.completions == joiner.completions
    assert restored.state() == joiner.state()
    assert (restored.state()["window"], restored.poison) == (7, 1)
    for each in (joiner, restored):
        assert feed(each, thumb("c1", 1.0, 3)) == []  # still known
        assert len(feed(each, completion("late"))) == 1  # still waited for


def test_only_who_has_the_keys_joins_texts(tmp_path: Path) -> None:
    sealer = Sealer(Vault(tmp_path, b"s" * 32))
    sealed = [sealer.seal(completion("c1")), sealer.seal(thumb("c1", 1.0, revision=1))]
    [without] = feed(Joiner(), *sealed)
    [answer] = without.answers
    assert (answer.prompt_token_ids, answer.token_ids, answer.text) == ((), (), "")
    assert answer.tokens == 2  # what evidence needs
    [label] = feed(Joiner(sealer=sealer), *sealed)
    assert label.answers[0].token_ids == (500, 0)


def test_forgotten_texts_are_in_no_checkpoint(tmp_path: Path) -> None:
    joiner = Joiner()
    feed(joiner, completion("c1"), thumb("c1", 1.0, revision=1))
    user = joiner.completions["c1"][0].user
    joiner.forget_texts("default", user)
    [answer] = joiner.completions["c1"]
    assert (answer.prompt_token_ids, answer.token_ids, answer.text) == ((), (), "")
    assert b"500," not in orjson.dumps(joiner.state())
    assert feed(joiner, completion("c1")) == []  # that it was is still known


def test_a_thought_is_kept_apart_from_its_answer_and_records_of_before_have_none() -> None:
    known = completion("c1")
    (choice,) = known.choices
    thoughtful = choice.model_copy(update={"token_ids": [7, 8, 9], "answer_start": 2, "thought": "hm"})
    joiner = Joiner()
    feed(joiner, known, completion("c2").model_copy(update={"choices": [thoughtful]}))
    before, after = (joiner.completions[name][0] for name in ("c1", "c2"))
    assert (before.answer_start, after.answer_start) == (0, 2)
    assert after.judged == ((*after.prompt_token_ids, 7, 8), (9,))
    assert Joiner.from_state(joiner.state()).completions == joiner.completions
    bare = thoughtful.without_text()
    assert (bare.thought, bare.answer_start, bare.answer_length) == (None, 2, 1)
    old = known.model_dump(mode="json")
    del old["choices"][0]["answer_start"]
    assert Completion.model_validate(old).choices[0].answer_start == 0
    state = joiner.state()
    del state["completions"][0][0]["answer_start"]
    assert Joiner.from_state(state).completions["c1"][0].answer_start == 0
