"""Which votes speak of safety and truth, and what for."""

import dataclasses

from learner.votes.objectives import FAULTS, MERITS, METRICS, OBJECTIVES, main_objective, said_of, votes_on
from serve.votes.common import REASONS
from tests.learner.votes import answer, vote

ONE, TWO = answer((10,), "c1"), answer((11,), "c2")
UP, DOWN = vote("thumbs", "up", 1.0, (ONE,), "u"), vote("thumbs", "down", 0.0, (ONE,), "u")
PAIR = vote("comparison", "pair", 0.0, (ONE, TWO), "u")


def test_every_vote_but_a_named_metric_says_whether_an_answer_is_liked() -> None:
    unsafe = dataclasses.replace(DOWN, reasons=("unsafe",))
    metric = vote("rating", "m", 0.9, (ONE,), "u", name="toxicity", scale=(0.0, 1.0))
    praise = vote("rating", "p", 0.9, (ONE,), "u", name="helpfulness", scale=(0.0, 1.0))
    assert said_of("helpful", [UP, unsafe, PAIR, metric, praise]) == [UP, unsafe, PAIR, praise]
    assert said_of("safe", [UP, unsafe, PAIR, metric, praise]) == [unsafe, metric]
    assert [main_objective(label) for label in (UP, unsafe, metric)] == ["helpful", "helpful", "safe"]


def test_a_fault_is_a_thumb_down_and_a_merit_a_thumb_up_in_their_objective() -> None:
    liked_but_wrong = dataclasses.replace(UP, reasons=("incorrect", "style"))
    assert said_of("truthful", [liked_but_wrong]) == [dataclasses.replace(liked_but_wrong, value=0.0)]
    assert said_of("helpful", [liked_but_wrong])[0].value == 1.0
    true_but_disliked = vote("rating", "s", 0.25, (ONE,), "u", scale=(1.0, 5.0), reasons=("accurate",))
    (found,) = said_of("truthful", [true_but_disliked])
    assert (found.kind, found.value) == ("thumbs", 1.0)
    assert said_of("safe", [liked_but_wrong, true_but_disliked]) == []


def test_a_comparison_with_a_reason_compares_in_its_objective_too() -> None:
    unsafe = dataclasses.replace(PAIR, reasons=("unsafe",))
    assert said_of("safe", [unsafe]) == [unsafe]
    assert said_of("truthful", [unsafe]) == []


def test_silence_of_those_who_like_an_answer_counts_a_little_once_somebody_spoke() -> None:
    disliked = dataclasses.replace(DOWN, event_id="disliked")
    low = vote("rating", "low", 0.25, (TWO,), "u", scale=(1.0, 5.0))
    unsafe = dataclasses.replace(DOWN, reasons=("unsafe",))
    assert votes_on("safe", [UP, disliked, low, PAIR], 0.25) == []
    said, silent = votes_on("safe", [UP, disliked, low, PAIR, unsafe], 0.25)
    assert said == unsafe
    assert (silent.event_id, silent.value, silent.weight) == ("up", 1.0, 0.25)
    assert votes_on("helpful", [UP, unsafe], 0.25) == [UP, unsafe]


def test_the_services_own_reasons_and_metrics_name_objectives_that_exist() -> None:
    assert {"unsafe", "incorrect"} <= FAULTS.keys() & set(REASONS)
    assert "accurate" in MERITS.keys() & set(REASONS)
    assert not FAULTS.keys() & MERITS.keys()
    assert {*FAULTS.values(), *MERITS.values(), *METRICS.values()} == set(OBJECTIVES)
