"""What models' votes weigh follows from how often they agree with people."""

import dataclasses
import random
from pathlib import Path

import pytest

from bench._turning import Crowd, Life
from bench.rlaif import judged
from learner.reward.weighing import vote_weights
from learner.votes.reliability import MODEL, reliabilities, weighed

EXPECTED, CAP = 0.5, 0.2


@pytest.mark.parametrize(
    ("right", "low", "high"), [(1.0, 0.4, 1.0), (0.8, 0.2, 0.7), (0.5, 0.0, 0.15), (0.0, 0.0, 0.0)]
)
def test_a_models_vote_weighs_what_it_agrees_with_people(right: float, low: float, high: float) -> None:
    votes = Crowd(1).votes(500)
    found = reliabilities([*votes, *judged(votes, right, random.Random(2))], EXPECTED)
    assert found.keys() == {"judge"}
    assert found["judge"].pairs == 500
    assert low <= found["judge"].weight <= high
    assert found["judge"].proven == (right > 0.5)


def test_pairs_are_the_same_whichever_answer_is_named_first() -> None:
    votes = Crowd(1).votes(100)
    models = judged(votes, 0.9, random.Random(0))
    turned = [dataclasses.replace(each, answers=each.answers[::-1], value=1 - each.value) for each in models]
    assert reliabilities([*votes, *models], EXPECTED) == reliabilities([*votes, *turned], EXPECTED)


def test_an_unknown_model_has_the_expected_weight_and_no_more_than_the_cap() -> None:
    people, others = Crowd(1).votes(40), Crowd(2).votes(1000)
    models = [
        dataclasses.replace(
            each,
            answers=tuple(dataclasses.replace(a, completion_id=f"o{a.completion_id}") for a in each.answers),
        )
        for each in judged(others, 1.0, random.Random(0))
    ]
    few = [*people, *models[:10]]
    found = reliabilities(few, EXPECTED)
    assert found["judge"].weight == pytest.approx(EXPECTED)
    assert {v.weight for v in weighed(few, found, CAP) if v.source == MODEL} == {EXPECTED}
    many = weighed([*people, *models], reliabilities([*people, *models], EXPECTED), CAP)
    share = sum(v.weight for v in many if v.source == MODEL) / sum(v.weight for v in many)
    assert share == pytest.approx(CAP)


def test_a_proven_model_is_not_held_to_the_raters_cap() -> None:
    votes = Crowd(1).votes(1000)
    people = votes[:200]
    labels = [*people, *judged(votes, 1.0, random.Random(0))]
    kept = weighed(labels, reliabilities(labels, EXPECTED), CAP)
    weights = vote_weights(kept, CAP)
    models = sum(w for w, v in zip(weights, kept, strict=True) if v.source == MODEL)
    assert models > 2 * sum(w for w, v in zip(weights, kept, strict=True) if v.source != MODEL)


def test_votes_of_a_model_that_is_always_wrong_are_left_out() -> None:
    votes = Crowd(1).votes(200)
    labels = [*votes, *judged(votes, 0.0, random.Random(0))]
    assert weighed(labels, reliabilities(labels, EXPECTED), CAP) == votes
    assert reliabilities(votes, EXPECTED) == {}


def test_with_a_models_votes_the_reward_model_knows_more_and_a_liars_change_nothing(
    random_model: str, tmp_path: Path
) -> None:
    """`python -m bench rlaif` measures this, on more seeds."""
    from learner.model.shared import SharedModel

    model = SharedModel(random_model, device="cpu")
    accuracies = {}
    for name, right in (("alone", None), ("judge", 0.85), ("liar", 0.0)):
        crowd, life = Crowd(0), Life(tmp_path / name, model)
        votes = crowd.votes(200)
        models = judged([*votes, *crowd.votes(1800)], right, random.Random(1)) if right is not None else []
        life.listen([*votes, *models], 2000)
        life.learner.scoring.update()  # by itself it waits for more than 200
        accuracies[name] = life.accuracy(crowd.truth(1000))
        standing = life.learner.standings.get("judge")
        assert (standing is None) == (right is None)
        if standing is not None and right is not None:
            assert standing.weight > 0.3 if right else standing.weight == 0
        assert not any(life.learner.labels.is_judging(vote) for vote in models)
    assert accuracies["judge"] >= accuracies["alone"] + 0.03
    assert accuracies["liar"] == pytest.approx(accuracies["alone"], abs=0.01)
