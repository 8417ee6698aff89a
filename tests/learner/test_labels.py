"""The label store: what it keeps, whom it splits, and a ledger that does not depend on order."""

import dataclasses
import random

import orjson

from feedback.joining.join import Answer, Label
from learner.votes.labels import LabelStore, judges


def label(event: int, revision: int = 1, rater: str = "u_a", value: float = 1.0) -> Label:
    answer = Answer(
        completion_id=f"chatcmpl-{event}",
        choice=0,
        user="u_a",
        policy_version="base",
        arm="live",
        role="answer",
        table_epoch=1,
        prompt_token_ids=(1, 2),
        token_ids=(3,),
        text="Hello.",
        finish_reason="stop",
        at=float(event),
        ttft_seconds=None,
        latency_seconds=0.1,
        sampling_plain=True,
    )
    return Label(
        event_id=f"fb-{event}",
        revision=revision,
        kind="thumbs",
        rater=rater,
        tenant="default",
        at=float(event),
        value=value,
        label="up" if value else "down",
        source="end_user",
        answers=(answer,),
    )


def test_ledger_is_the_same_for_any_order_and_number_of_deliveries() -> None:
    votes = [label(i, revision) for i in range(30) for revision in (1, 2)]
    latest = LabelStore(0.25)
    latest.add(label(i, 2) for i in range(30))
    for seed in range(20):
        delivered = votes + random.Random(seed).choices(votes, k=30)
        random.Random(seed).shuffle(delivered)
        store = LabelStore(0.25)
        for vote in delivered:
            store.add([vote])
        assert store.ledger() == latest.ledger()


def test_ledger_tells_one_lost_vote() -> None:
    whole, short = LabelStore(0.25), LabelStore(0.25)
    whole.add(label(i) for i in range(10))
    short.add(label(i) for i in range(9))
    short.add([label(10)])  # as many votes, not the same ones
    assert whole.ledger()["labels"] == short.ledger()["labels"]
    assert whole.ledger()["digest"] != short.ledger()["digest"]


def test_a_revised_vote_replaces_the_earlier_one_and_an_old_one_does_not() -> None:
    store = LabelStore(0.25)
    assert store.add([label(1, 5, value=1.0)])
    assert store.add([label(1, 6, value=0.0)])
    assert not store.add([label(1, 5, value=1.0)])
    (kept,) = store.training + store.judging
    assert kept.value == 0.0


def test_capacity_keeps_the_newest_and_a_sample_of_the_others() -> None:
    store = LabelStore(0.25, capacity=6)
    store.add(label(i) for i in range(10))
    kept = [kept.event_id for kept in store.training + store.judging]
    assert len(kept) == 6
    assert kept[-3:] == ["fb-7", "fb-8", "fb-9"]
    assert store.ledger()["labels"] == 10


def test_raters_train_or_judge_but_never_both() -> None:
    store = LabelStore(0.25)
    store.add(label(i, rater=f"u_{i % 200}") for i in range(1000))
    trainers = {kept.rater for kept in store.training}
    judging = {kept.rater for kept in store.judging}
    assert not trainers & judging
    assert len(trainers | judging) == 200
    share = sum(judges(f"u_{i}", 0.25) for i in range(10_000)) / 10_000
    assert abs(share - 0.25) < 0.02


def test_that_answers_were_selected_is_remembered() -> None:
    store = LabelStore(0.25)
    usual = label(1)
    selected = dataclasses.replace(usual.answers[0], selected=True)
    store.add([usual, dataclasses.replace(label(2), answers=(selected,))])
    again = LabelStore(0.25)
    again.restore(orjson.loads(orjson.dumps(store.state())))
    assert [known.is_selected for known in again.training + again.judging] == [False, True]


def test_state_survives_json() -> None:
    store = LabelStore(0.25)
    store.add(label(i, rater=f"u_{i}") for i in range(10))
    again = LabelStore(0.25)
    again.restore(orjson.loads(orjson.dumps(store.state())))
    assert again.training == store.training
    assert again.judging == store.judging
    assert again.ledger() == store.ledger()
    assert dataclasses.asdict(again.training[0]) == dataclasses.asdict(store.training[0])


def test_what_concerns_an_erased_user_is_never_trained_on() -> None:
    store = LabelStore(judge_share=0.0)
    store.add([label(1, rater="u_1"), label(2, rater="u_2")])
    store.erase("default", "u_1")
    store.add([label(3, rater="u_1")])
    assert [known.event_id for known in store.training] == ["fb-2"]
    assert store.ledger()["labels"] == 3  # it was read, and counts as read
    state = orjson.loads(orjson.dumps(store.state()))
    again = LabelStore(judge_share=0.0)
    again.restore(state)
    again.add([label(4, rater="u_1")])
    assert [known.event_id for known in again.training] == ["fb-2"]
    assert {row["answers"][0]["text"] for row in state["labels"] if row["rater"] == "u_1"} == {""}


def test_a_vote_on_an_erased_users_answer_teaches_nothing_either() -> None:
    store = LabelStore(judge_share=0.0)
    store.add([label(1, rater="u_1")])
    store.erase("default", "u_a")
    assert store.training == []
