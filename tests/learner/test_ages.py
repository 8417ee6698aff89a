"""Votes have an age: how it is counted, that votes choose what it counts, and that a turn is learned.

`python -m bench ages` measures more of this, and more seeds.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from bench._turning import Crowd, Life
from feedback.joining.labels import Label
from learner.model.shared import SharedModel
from learner.reward.ages import LEAP, Fading, ages_of, faded
from learner.reward.features import WORDS, AnswerFeatures
from learner.reward.reward import RewardModel
from learner.settings import RewardSettings
from learner.votes.reliability import MODEL
from tests.learner.test_reward import UTILITIES, make_votes, same
from tests.learner.votes import answer, vote

SETTINGS = RewardSettings()


@pytest.fixture(scope="module")
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, device="cpu")


def thumbs(count: int, raters: int = 10, weight: float = 1.0) -> list[Label]:
    return [
        vote(
            "thumbs", f"vote-{i}", float(i % 2), (answer((10, 2), f"{i}"),), f"u_{i % raters}", weight=weight
        )
        for i in range(count)
    ]


def test_an_age_is_the_weight_of_what_came_after() -> None:
    assert ages_of([], 0.2) == []
    assert ages_of(thumbs(4), 0.5) == [3.0, 2.0, 1.0, 0.0]
    assert ages_of(thumbs(4, weight=0.25), 0.5) == [0.75, 0.5, 0.25, 0.0]  # half trusted, half as ageing


def test_a_models_votes_have_an_age_and_give_none() -> None:
    first, judged, last = thumbs(3)
    assert ages_of([first, dataclasses.replace(judged, source=MODEL), last], 0.5) == [1.0, 1.0, 0.0]


def test_nobody_ages_the_votes_of_others_by_voting_a_thousand_times() -> None:
    quiet = thumbs(100)
    loud = [
        dataclasses.replace(each, event_id=f"loud-{i}", rater="u_loud") for i, each in enumerate(thumbs(9000))
    ]
    assert ages_of([*quiet, *loud], 0.2)[0] == pytest.approx(99 + 25, abs=0.5)  # a fifth of 125


def test_a_vote_of_a_half_lifes_age_weighs_half_and_one_that_weighs_nothing_is_left_out() -> None:
    votes = thumbs(3)
    assert faded(votes, [500.0, 250.0, 0.0], math.inf) == votes
    assert [each.weight for each in faded(votes, [500.0, 250.0, 0.0], 250.0)] == [0.25, 0.5, 1.0]
    assert [each.event_id for each in faded(votes, [9000.0, 20.0, 0.0], 10.0)] == ["vote-1", "vote-2"]
    assert [each.weight for each in faded(votes[:2], [9500.0, 9250.0], 250.0)] == [
        0.5,
        1.0,
    ]  # since the newest


def test_a_turn_makes_what_was_before_older_at_once(model: SharedModel) -> None:
    fading, votes = Fading(AnswerFeatures(model), SETTINGS), thumbs(4)
    assert fading.of(votes, fading.ages(votes, [1, 2, 3, 4])) == votes
    fading.shorten(2)
    ages = fading.ages(votes, [1, 2, 3, 4])
    leap = LEAP * SETTINGS.half_life_min
    assert ages == [3.0 + leap, 2.0 + leap, 1.0, 0.0]
    assert fading.half_life == SETTINGS.half_life_min
    assert max(each.weight for each in fading.of(votes, ages)[:2]) < 0.07


def test_votes_without_an_age_have_one_half_life_and_no_rival(model: SharedModel) -> None:
    fading = Fading(AnswerFeatures(model), RewardSettings(half_life_min=math.inf, turn_alpha=0.0))
    votes = make_votes(UTILITIES["long"], 50, 0, seed=1)
    fading.update(votes, ages_of(votes, 0.2), WORDS)
    assert fading.half_lives == [math.inf]
    assert fading.state_dict()["rivals"] == {}


def histories(tastes: list[str], seeds: list[int], count: int = 150) -> list[list[Label]]:
    return [
        make_votes(UTILITIES[taste], count, 0, seed=seed) for taste, seed in zip(tastes, seeds, strict=True)
    ]


def foreseen(model: SharedModel, parts: list[list[Label]], settings: RewardSettings) -> Fading:
    """Updates as the learner makes them, after each of the parts."""
    features = AnswerFeatures(model)
    reward, fading = RewardModel(features, settings), Fading(features, settings)
    for number, part in enumerate(parts):
        if number:
            fading.foresee(part, reward)
        known = list(itertools.chain(*parts[: number + 1]))
        ages = fading.ages(known, range(1, len(known) + 1))
        reward.update(known, tastes=fading.of(known, ages))
        fading.update(known, ages, reward.kind)
    return fading


def test_the_half_life_follows_what_foresees_votes_best(model: SharedModel) -> None:
    settings = RewardSettings(half_life_min=100.0)
    steady = foreseen(model, histories(["long"] * 6, list(range(6))), settings)
    assert steady.half_life >= 1600
    moving = foreseen(model, histories(["long"] * 3 + ["short"] * 5, list(range(8))), settings)
    assert moving.half_life <= 400  # though no alarm told of a turn
    means = torch.tensor([*moving.losses]).nanmean(0)
    assert means[1] < means[3]


def test_a_restored_choice_goes_on_bit_for_bit(model: SharedModel) -> None:
    parts = histories(["long", "long", "short", "short"], [11, 12, 13, 14], 120)
    settings = RewardSettings(half_life_min=100.0, rung_votes=50)
    kept = foreseen(model, parts[:3], settings)
    restored = Fading(kept._features, settings)
    restored.load_state_dict(kept.state_dict(), [WORDS])
    reward = RewardModel(kept._features, settings)
    reward.update(parts[0])
    for fading in (kept, restored):
        fading.foresee(parts[3], reward)
        fading.update(parts[3], ages_of(parts[3], 0.2), WORDS)
    assert kept.half_life == restored.half_life
    assert [*map(str, kept.losses)] == [*map(str, restored.losses)]  # some are NaN
    assert same(kept.state_dict()["rivals"], restored.state_dict()["rivals"])
    other = Fading(kept._features, RewardSettings(half_life_min=70.0))
    other.load_state_dict(kept.state_dict(), [WORDS])  # the setting was changed
    assert (other.half_life, len(other.losses)) == (math.inf, 0)


def test_what_people_called_unsafe_does_not_fade(model: SharedModel) -> None:
    complaints = [
        dataclasses.replace(each, value=0.0, reasons=("unsafe",) if 7 in each.answers[0].token_ids else ())
        for each in make_votes(UTILITIES["long"], 0, 300, seed=21)
    ]
    votes = [*complaints, *make_votes(UTILITIES["long"], 200, 0, seed=22)]
    tastes = faded(votes, ages_of(votes, 0.2), 10.0)
    assert len(tastes) < 100
    features = AnswerFeatures(model)
    features.read([each for label in votes for each in label.answers])
    aged, whole = RewardModel(features), RewardModel(features)
    aged.update(votes, tastes=tastes)
    whole.update(votes)
    assert same(aged.state_dict()["safe"], whole.state_dict()["safe"])
    assert not same(aged.state_dict()["helpful"], whole.state_dict()["helpful"])


@pytest.fixture
def life(model: SharedModel, tmp_path: Path) -> Callable[..., Life]:
    numbers = itertools.count()
    return lambda **reward: Life(tmp_path / str(next(numbers)), model, **reward)


def test_after_a_turn_600_votes_are_enough_and_nobody_loses_trust(life: Callable[..., Life]) -> None:
    crowd, found = Crowd(0), life()
    found.listen(crowd.votes(1600), 1600)
    found.listen(crowd.votes(400), 200)
    assert found.accuracy(crowd.truth(300)) > 0.9
    updates = found.learner.state.updates
    found.listen(crowd.votes(150, -1))
    assert found.alarms == 1
    assert found.learner.state.updates > updates  # it did not wait for 200 votes that train
    assert found.learner.fading.half_life == SETTINGS.half_life_min
    found.listen(crowd.votes(450, -1))
    assert found.accuracy(crowd.truth(500, -1)) >= 0.8
    assert min(found.weights.values()) >= 0.9


def test_a_learner_that_dies_on_the_way_comes_to_the_same(life: Callable[..., Life]) -> None:
    crowd, whole, dying = Crowd(3, raters=12), life(), life()
    votes = [*crowd.votes(900), *crowd.votes(250, -1)]
    whole.listen(votes[:600], 600)
    dying.listen(votes[:600], 600)
    alarms = 0
    for start in range(600, 1150, 50):
        whole.listen(votes[start : start + 50])
        dying.listen(votes[start : start + 50])
        alarms += dying.alarms
        dying = dying.reborn()
        assert dying.learner.state == whole.learner.state
        assert dying.learner.turns.state() == whole.learner.turns.state()
    assert alarms == whole.alarms == 1
    assert dying.learner.agreement.state() == whole.learner.agreement.state()
    ours, theirs = (each.learner.fading.state_dict() for each in (whole, dying))
    assert same(ours["rivals"], theirs["rivals"])
    assert (ours["half_life"], ours["turned_at"]) == (theirs["half_life"], theirs["turned_at"])
    fresh = [each.answers[0].judged for each in crowd.truth(50)]
    assert torch.equal(whole.learner.reward.rewards(fresh)[0], dying.learner.reward.rewards(fresh)[0])


def test_without_a_turn_nothing_is_lost_and_who_changes_alone_is_trusted(life: Callable[..., Life]) -> None:
    losses = []
    for reward in ({}, {"half_life_min": math.inf, "turn_alpha": 0.0}):
        crowd, found = Crowd(1), life(**reward)
        found.listen(crowd.votes(1600), 1600)
        found.listen(crowd.votes(400, against=("rater-0", "rater-1")), 200)
        losses.append(found.loss_nats(crowd.votes(1000)))
        assert found.alarms == 0
        assert min(found.weights.values()) >= 0.9
    assert losses[0] - losses[1] <= 0.005


def test_sybils_move_nothing_whether_they_come_one_by_one_or_as_a_crowd(life: Callable[..., Life]) -> None:
    accuracies = []
    sybils = [f"sybil-{i}" for i in range(3)]  # beside 60 who are honest
    crowd_of = [f"crowd-{i}" for i in range(60)]
    for attack in (False, True):
        crowd, found = Crowd(2), life()
        pairs, votes = crowd.truth(1000), crowd.votes(1200)
        more = crowd.votes(400)
        bad, wave = crowd.votes(60, -1, raters=sybils), crowd.votes(80, -1, raters=crowd_of)
        if attack:
            votes = [
                each
                for i, one in enumerate(votes)
                for each in ([one, bad[i // 20]] if i % 20 == 0 else [one])
            ]
            more = [*more[:200], *wave, *more[200:]]
        found.listen(votes, len(votes))
        found.listen(more)
        accuracies.append(found.accuracy(pairs))
        assert found.alarms == 0
        assert min(of for rater, of in found.weights.items() if rater.startswith("rater")) >= 0.9
    assert abs(accuracies[1] - accuracies[0]) <= 0.01
