"""Answers that were shown to be right reach the set that PPO imitates."""

import dataclasses

import pytest

from feedback.core.ids import Signer
from feedback.exchange.importing import Importer
from feedback.joining.join import Joiner
from feedback.joining.labels import Answer, Label
from feedback.rows.examples import Example, Message
from learner.votes.labels import LabelStore
from tests.feedback.examples import record
from tests.learner.test_labels import label

COUNT = 985
END = 2


def encode(messages: tuple[Message, ...], answer: str) -> tuple[list[int], list[int]]:
    asked = messages[-1]["content"]
    return [1, *map(ord, asked)], [*map(ord, answer), END]


def imported(examples: list[Example]) -> list[Label]:
    importer = Importer(Signer(b"0123456789abcdef"), "default", encode, 1e9)
    events = [importer.events(example) for example in examples]
    records = [record(event) for made, vote in events for event in (*made, vote)]
    return Joiner(window=10_000).feed(records)


def shown(i: int, rater: str | None = None) -> Example:
    return Example(
        "demonstration", ({"role": "user", "content": f"ask {i}"},), (f"say {i}",), 1.0, rater=rater
    )


@pytest.mark.parametrize("rater", [None, "ada"])
def test_every_imported_demonstration_is_imitated(rater: str | None) -> None:
    """Whatever the share of raters who judge: a demonstration judges nobody."""
    store = LabelStore(0.25, tokenize=lambda text: (*map(ord, text), END))
    changed = store.add(imported([shown(i, rater) for i in range(COUNT)]))
    assert len(changed) == COUNT
    expected = [encode(shown(i).messages, shown(i).answers[0]) for i in range(COUNT)]
    assert store.demonstrations == [(tuple(prompt), tuple(answer)) for prompt, answer in expected]
    assert {state for _, _, state in store.take_news()} == {"training"}
    again = LabelStore(0.25)
    again.restore(store.state())
    assert again.demonstrations == store.demonstrations  # as a checkpoint brings them back


def test_who_leaves_takes_the_demonstrations_along() -> None:
    store = LabelStore(0.25)
    labels = store.add(imported([shown(i, "ada") for i in range(3)]))
    store.hold({labels[0].event_id: "new"})
    assert len(store.demonstrations) == 2
    store.add([dataclasses.replace(labels[1], revision=labels[1].revision + 1, retracted=True, text=None)])
    assert len(store.demonstrations) == 1
    store.erase("default", labels[2].rater)
    assert store.demonstrations == []


def said(source: str = "end_user", rater: str = "u_a", **changed: object) -> Label:
    about = label(1)
    (answer,) = about.answers
    answer: Answer = dataclasses.replace(answer, **changed)  # type: ignore[arg-type]
    return dataclasses.replace(
        about,
        kind="correction",
        label="corrected",
        source=source,
        rater=rater,
        text="Hello.",
        answers=(answer,),
    )


def test_an_answer_that_was_cut_off_or_is_one_big_thought_is_not_imitated() -> None:
    for changed in ({"finish_reason": "length"}, {"answer_start": 1}, {"token_ids": ()}):
        store = LabelStore(0.25)
        store.add([said(**changed)])
        assert store.demonstrations == []
        assert {state for _, _, state in store.take_news()} == {"kept"}


def test_a_rater_who_judges_candidates_does_not_say_what_they_imitate() -> None:
    sides = set()
    for i in range(40):
        store = LabelStore(0.25)
        vote = said(rater=f"u_{i}")
        store.add([vote])
        assert bool(store.demonstrations) != store.is_judging(vote)
        sides.add(store.is_judging(vote))
    assert sides == {True, False}
