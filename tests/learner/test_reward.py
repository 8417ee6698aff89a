"""The reward model on votes whose truth is known."""

import dataclasses
import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from feedback.joining.join import Answer, Label
from learner.batching import Item
from learner.model.shared import SharedModel
from learner.reward.features import AnswerFeatures
from learner.reward.reward import RewardModel, RewardSettings
from learner.reward.weighing import vote_limit
from tests.learner.votes import PROMPT, answer, vote

Utility = Callable[[tuple[int, ...]], float]

UTILITIES: dict[str, Utility] = {
    "a word they like and one they hate": lambda tokens: 1.5 * (7 in tokens) - 1.5 * (9 in tokens),
    "short": lambda tokens: -0.3 * len(tokens),
    "long": lambda tokens: 0.3 * len(tokens),
}


def label(event_id: str, value: float, answers: tuple[Answer, ...], rater: str) -> Label:
    return vote("thumbs" if len(answers) == 1 else "comparison", event_id, value, answers, rater)


def draw_tokens(draw: random.Random) -> tuple[int, ...]:
    body = [
        draw.choice((7, 9)) if draw.random() < 0.08 else draw.randrange(10, 40)
        for _ in range(draw.randint(3, 14))
    ]
    return (*body, 2)


def make_votes(
    utility: Utility, comparisons: int, thumbs: int, seed: int, *, noise: bool = True
) -> list[Label]:
    """Votes by a Bradley-Terry crowd (or by one that never errs), 50 raters in turn."""
    draw = random.Random(seed)
    votes = []

    def says(logit: float) -> float:
        return float(draw.random() < 1 / (1 + math.exp(-2 * logit))) if noise else float(logit > 0)

    for i in range(comparisons + thumbs):
        pair = tuple(answer(draw_tokens(draw), f"{seed}-{i}-{j}") for j in (0, 1))
        worth = [utility(a.token_ids) for a in pair]
        if i >= comparisons:
            value, pair = says(worth[0] - utility((10,) * 9)), pair[:1]
        else:
            value = 0.5 if worth[0] == worth[1] else says(worth[0] - worth[1])
        votes.append(label(f"vote-{seed}-{i}", value, pair, f"rater-{i % 50}"))
    return votes


def items(count: int, seed: int) -> list[Item]:
    draw = random.Random(seed)
    return [(PROMPT, draw_tokens(draw)) for _ in range(count)]


@pytest.fixture(scope="module")
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, device="cpu")


def same(a: Any, b: Any) -> bool:
    """Whether two states are equal bit for bit."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    return torch.equal(torch.as_tensor(a), torch.as_tensor(b))


@pytest.mark.parametrize("taste", UTILITIES)
def test_it_learns_a_taste_from_some_hundred_noisy_votes(model: SharedModel, taste: str) -> None:
    utility = UTILITIES[taste]
    reward = RewardModel(AnswerFeatures(model), seed=1)
    report = reward.update(make_votes(utility, 300, 200, seed=1))
    assert (report.comparisons, report.thumbs) == (300, 200)
    assert reward.accuracy(make_votes(utility, 300, 0, seed=2, noise=False)) > 0.87
    fresh = items(200, seed=3)
    mean, _ = reward.score(fresh)
    truth = torch.tensor([utility(tuple(tokens)) for _, tokens in fresh])
    assert float(torch.corrcoef(torch.stack([mean, truth]))[0, 1]) > 0.75


def test_thumbs_alone_teach_too_and_their_bias_is_found(model: SharedModel) -> None:
    utility = UTILITIES["a word they like and one they hate"]
    generous = [
        dataclasses.replace(each, value=1.0) if i % 2 else each
        for i, each in enumerate(make_votes(utility, 0, 600, seed=4))
    ]
    reward = RewardModel(AnswerFeatures(model))
    assert reward.update(generous).bias > 0.5  # every second thumb goes up whatever was said
    assert reward.accuracy(make_votes(utility, 300, 0, seed=5, noise=False)) > 0.8


def test_it_is_uncertain_where_nobody_voted(model: SharedModel) -> None:
    reward = RewardModel(AnswerFeatures(model))
    votes = make_votes(UTILITIES["short"], 300, 0, seed=6)
    reward.update(votes)
    seen = [(a.prompt_token_ids, a.token_ids) for each in votes for a in each.answers]
    strange: list[Item] = [(PROMPT, tuple(random.Random(i).choices(range(41, 64), k=12))) for i in range(50)]
    assert float(reward.score(strange)[1].mean()) > 1.5 * float(reward.score(seen)[1].mean())


def test_more_votes_make_it_surer(model: SharedModel) -> None:
    def spread(votes: int) -> float:
        reward = RewardModel(AnswerFeatures(model))
        reward.update(make_votes(UTILITIES["long"], votes, 0, seed=7))
        return float(reward.score(items(100, seed=8))[1].mean())

    assert spread(800) < spread(50)


def test_scores_are_centred_and_scaled_on_the_voted_answers(model: SharedModel) -> None:
    reward = RewardModel(AnswerFeatures(model))
    votes = make_votes(UTILITIES["long"], 200, 0, seed=9)
    reward.update(votes)
    mean, std = reward.score([(a.prompt_token_ids, a.token_ids) for each in votes for a in each.answers])
    assert mean.shape == std.shape == (400,)
    assert float(mean.mean()) == pytest.approx(0.0, abs=1e-4)
    assert float(mean.std(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


def test_before_any_vote_every_answer_is_worth_nothing(model: SharedModel) -> None:
    mean, std = RewardModel(AnswerFeatures(model)).score(items(5, seed=0))
    assert not mean.any()
    assert not std.any()


def test_noise_is_not_blown_up_to_a_taste(model: SharedModel) -> None:
    reward = RewardModel(AnswerFeatures(model))
    votes = make_votes(lambda tokens: 0.0, 400, 0, seed=10)
    reward.update([dataclasses.replace(each, value=0.5) for each in votes])
    assert float(reward.score(items(100, seed=11))[0].abs().max()) < 0.3


def test_the_order_of_votes_does_not_matter(model: SharedModel) -> None:
    votes = make_votes(UTILITIES["short"], 150, 50, seed=12)
    shuffled = random.Random(0).sample(votes, len(votes))
    one, two = RewardModel(AnswerFeatures(model)), RewardModel(AnswerFeatures(model))
    one.update(votes, steps=300)
    two.update(shuffled, steps=300)
    a, b = one.score(items(50, seed=13))[0], two.score(items(50, seed=13))[0]
    assert float((a - b).abs().max()) < 0.02


def test_one_rater_cannot_outvote_the_others(model: SharedModel) -> None:
    honest = make_votes(UTILITIES["long"], 150, 0, seed=14)
    flood = [
        dataclasses.replace(each, event_id=f"flood-{i}", value=1 - each.value, rater="mallory")
        for i, each in enumerate(make_votes(UTILITIES["long"], 600, 0, seed=15))
    ]
    check = make_votes(UTILITIES["long"], 200, 0, seed=16, noise=False)

    def accuracy(rater_cap: float) -> float:
        reward = RewardModel(AnswerFeatures(model), RewardSettings(rater_cap=rater_cap))
        reward.update(honest + flood)
        return reward.accuracy(check)

    assert accuracy(1.0) < 0.2
    assert accuracy(0.05) > 0.8


@pytest.mark.parametrize("counts", [[600, *[3] * 50], [40, 30, 1, 1, 1], [5, 5], [7], [9, 8, 7, 6, 5, 4]])
@pytest.mark.parametrize("cap", [0.05, 0.2, 0.5, 1.0])
def test_a_limited_rater_has_exactly_the_share_that_is_allowed(counts: list[int], cap: float) -> None:
    limit = vote_limit(counts, cap)
    weights = [min(count, limit) for count in counts]
    allowed = max(cap, 1 / len(counts))
    assert max(weights) <= allowed * sum(weights) * (1 + 1e-9)
    if max(counts) > allowed * sum(counts):
        assert max(weights) == pytest.approx(allowed * sum(weights))
    else:
        assert weights == counts


def test_the_same_calls_give_the_same_bits_and_a_restored_model_goes_on_alike(model: SharedModel) -> None:
    early, late = (make_votes(UTILITIES["short"], 60, 20, seed=seed) for seed in (17, 18))

    def first() -> tuple[AnswerFeatures, RewardModel]:
        features = AnswerFeatures(model)
        reward = RewardModel(features, seed=3)
        reward.update(early)
        return features, reward

    (_, kept), (saved_features, saved) = first(), first()
    features = AnswerFeatures(model)
    features.restore(saved_features.state())
    restored = RewardModel(features, seed=3)
    restored.load_state_dict(saved.state_dict())
    for reward in (kept, restored):
        reward.update(early + late)
    a, b = kept.state_dict(), restored.state_dict()
    assert same(a, b)
    with pytest.raises(ValueError, match="heads of shape"):
        RewardModel(AnswerFeatures(model), RewardSettings(heads=3)).load_state_dict(a)


def test_bad_labels_are_named(model: SharedModel) -> None:
    good = make_votes(UTILITIES["short"], 1, 0, seed=19)[0]
    reward = RewardModel(AnswerFeatures(model))
    with pytest.raises(ValueError, match="at least one label"):
        reward.update([])
    with pytest.raises(ValueError, match="vote-19-0 is comparison of 1 answers"):
        reward.update([dataclasses.replace(good, answers=good.answers[:1])])
    with pytest.raises(ValueError, match="vote-19-0 is stars of 2"):
        reward.update([dataclasses.replace(good, kind="stars")])


def test_an_answer_without_tokens_has_a_score(model: SharedModel) -> None:
    reward = RewardModel(AnswerFeatures(model))
    reward.update(make_votes(UTILITIES["long"], 100, 0, seed=20))
    mean, _ = reward.score([(PROMPT, ()), (PROMPT, (10,) * 9)])
    assert bool(torch.isfinite(mean).all())
    assert float(mean[0]) < float(mean[1])
