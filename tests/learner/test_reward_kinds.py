"""The reward model on every kind of vote: what each one teaches, the objectives, and how sure it may be."""

import dataclasses
import io
import math
import random

import pytest
import torch

from feedback.joining.labels import Label
from learner.batching import Item
from learner.model.shared import SharedModel
from learner.reward.features import AnswerFeatures
from learner.reward.reward import RewardModel, RewardSettings
from tests.learner.test_reward import UTILITIES, draw_tokens, items, make_votes, same
from tests.learner.votes import PROMPT, answer, vote

TASTE = UTILITIES["a word they like and one they hate"]
GOOD, BAD = 7, 9
PAIR: list[Item] = [(PROMPT, (10, 11, GOOD, 2)), (PROMPT, (10, 11, BAD, 2))]


@pytest.fixture(scope="module")
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, device="cpu")


def sigmoid(logit: float) -> float:
    return 1 / (1 + math.exp(-logit))


def fitted(model: SharedModel, votes: list[Label], settings: RewardSettings | None = None) -> RewardModel:
    reward = RewardModel(AnswerFeatures(model), settings)
    reward.update(votes)
    return reward


def make_ratings(count: int, seed: int, thresholds: tuple[float, ...]) -> list[Label]:
    """Ratings from 1 up by a crowd with these thresholds, 50 raters in turn."""
    draw = random.Random(seed)
    votes = []
    for i in range(count):
        rated = answer(draw_tokens(draw), f"{seed}-{i}")
        felt = 2 * TASTE(rated.token_ids) + math.log(1 / draw.random() - 1)  # logistic noise
        level = sum(felt > threshold for threshold in thresholds)
        said = {"scale": (1.0, len(thresholds) + 1.0), "amount": level + 1.0}
        votes.append(
            vote("rating", f"r{seed}-{i}", level / len(thresholds), (rated,), f"rater-{i % 50}", **said)
        )
    return votes


def test_ratings_teach_and_a_scale_of_which_half_is_used_is_understood(model: SharedModel) -> None:
    kind = (-4.0, -3.0, -1.0, 0.5)  # 4 and 5 for almost everything
    votes = make_ratings(500, 1, kind)
    reward = fitted(model, votes)
    assert reward.accuracy(make_votes(TASTE, 300, 0, seed=2, noise=False)) > 0.85
    mean = sum(label.value for label in votes) / len(votes)
    fresh = make_ratings(200, 3, kind)
    predicted = reward.predictions(fresh)
    assert sum(predicted) / 200 == pytest.approx(mean, abs=0.05)
    errors = [(label.value - p) ** 2 for label, p in zip(fresh, predicted, strict=True)]
    assert sum(errors) < sum((label.value - mean) ** 2 for label in fresh)


def make_rankings(count: int, seed: int, size: int) -> list[Label]:
    """Rankings by a Plackett-Luce crowd; every second one ties its last two."""
    draw = random.Random(seed)
    votes = []
    for i in range(count):
        ranked = tuple(answer(draw_tokens(draw), f"{seed}-{i}-{j}") for j in range(size))
        felt = [2 * TASTE(a.token_ids) - math.log(-math.log(draw.random())) for a in ranked]  # Gumbel noise
        order = sorted(range(size), key=lambda j: -felt[j])
        groups = [(j,) for j in order] if i % 2 else [*((j,) for j in order[:-2]), (order[-2], order[-1])]
        votes.append(vote("ranking", f"k{seed}-{i}", 1.0, ranked, f"rater-{i % 50}", groups=tuple(groups)))
    return votes


def test_rankings_teach_and_one_of_two_answers_teaches_what_a_comparison_does(model: SharedModel) -> None:
    reward = fitted(model, make_rankings(150, 4, 4))
    assert reward.accuracy(make_votes(TASTE, 300, 0, seed=2, noise=False)) > 0.85
    assert reward.accuracy(make_rankings(100, 5, 4)) > 0.7
    pairs = [label for label in make_votes(TASTE, 80, 0, seed=6) if label.value != 0.5]
    ranked = [
        dataclasses.replace(
            label, kind="ranking", value=1.0, groups=((0,), (1,)) if label.value else ((1,), (0,))
        )
        for label in pairs
    ]
    compared, placed = (fitted(model, votes).score(items(20, seed=7))[0] for votes in (pairs, ranked))
    assert torch.allclose(compared, placed, atol=0.05)


def test_a_correction_teaches_what_was_written(model: SharedModel) -> None:
    draw = random.Random(8)
    votes = []
    for i in range(200):
        original = answer((*draw.choices(range(10, 40), k=8), BAD, 2), f"c{i}")
        written = dataclasses.replace(original, token_ids=(*original.token_ids[:8], GOOD, 2))
        votes.append(vote("correction", f"w{i}", 1.0, (written, original), f"rater-{i % 50}"))
    mean, std = fitted(model, votes).score([(PROMPT, (*range(10, 18), word, 2)) for word in (GOOD, BAD)])
    assert float(mean[0] - mean[1]) > float(std.sum())


def test_answers_of_one_length_leave_scores_of_other_lengths_finite_and_not_absurd(
    model: SharedModel,
) -> None:
    draw = random.Random(26)
    same_length = [
        vote(
            "thumbs", f"l{i}", float(draw.random() < 0.5), (answer(tuple(words), f"l{i}"),), f"rater-{i % 50}"
        )
        for i in range(100)
        for words in [draw.choices(range(10, 40), k=8)]
    ]
    mean, std = fitted(model, same_length).score([(PROMPT, (10,) * count) for count in (0, 1, 8, 60)])
    assert float(mean.abs().max()) < 10
    assert float(std.max()) < 20


def test_raters_who_like_everything_are_told_from_answers_that_everyone_likes(model: SharedModel) -> None:
    draw = random.Random(9)
    votes = []
    for i in range(600):
        mild = i % 2 == 0  # mild raters mostly see the answers that nobody likes
        word = BAD if (draw.random() < 0.85) == mild else GOOD
        rated = answer((*draw.choices(range(10, 40), k=6), word, 2), f"m{i}")
        liked = draw.random() < sigmoid((2.5 if mild else -2.5) + (1 if word == GOOD else -1))
        rater = f"{'mild' if mild else 'strict'}-{i % 20}"
        votes.append(vote("thumbs", f"m{i}", float(liked), (rated,), rater))

    def lead(leniency_std: float) -> float:
        mean, _ = fitted(model, votes, RewardSettings(leniency_std=leniency_std)).score(PAIR)
        return float(mean[0] - mean[1])

    assert lead(1e-3) < 0  # taken for one crowd, they seem to prefer the bad word
    assert lead(2.0) > 0.5


def make_complaints(count: int, seed: int) -> list[Label]:
    """Thumbs of people some of whom like the word BAD very much; most call it unsafe."""
    draw = random.Random(seed)
    votes = []
    for i in range(count):
        rated = answer(draw_tokens(draw), f"u{seed}-{i}")
        unsafe = BAD in rated.token_ids and draw.random() < 0.8
        up = not unsafe and draw.random() < (0.99 if BAD in rated.token_ids else 0.4)
        reasons = ("unsafe",) if unsafe else ()
        votes.append(vote("thumbs", f"u{seed}-{i}", float(up), (rated,), f"u{i % 50}", reasons=reasons))
    return votes


def make_flattery(count: int, seed: int) -> list[Label]:
    """Comparisons without reasons whose raters always prefer the word BAD."""
    return make_votes(lambda tokens: 3.0 * (BAD in tokens), count, 0, seed)


def test_what_is_unsafe_is_below_everything_else_however_much_it_is_liked(model: SharedModel) -> None:
    votes = [*make_complaints(500, 10), *make_flattery(1500, 27)]
    reward = RewardModel(AnswerFeatures(model))
    said = reward.update(votes).said
    assert said["helpful"] == 2000
    assert said["safe"] > 50
    assert said["truthful"] == 0
    fresh = items(300, seed=11)
    unsafe = torch.tensor([BAD in tokens for _, tokens in fresh])
    rewards, std = reward.rewards(fresh, pessimism=0.5)
    vetoed = rewards < -4
    assert float(vetoed[unsafe].float().mean()) > 0.9
    assert float(vetoed[~unsafe].float().mean()) < 0.03
    assert float(rewards.min()) >= -8
    assert std.shape == rewards.shape
    liked = fitted(model, votes, RewardSettings(veto_odds=math.inf, safe=0.0)).rewards(fresh)[0]
    assert float(liked[unsafe].mean()) > float(liked[~unsafe].mean())  # without the objective it would win


def test_among_vetoed_answers_the_safer_one_is_better_and_no_help_counts(model: SharedModel) -> None:
    votes = [*make_complaints(500, 10), *make_flattery(300, 27)]
    fresh = items(300, seed=11)
    once, twice = (
        fitted(model, votes, RewardSettings(helpful=helpful)).rewards(fresh)[0] for helpful in (1.0, 20.0)
    )
    vetoed = once < -4
    assert vetoed.sum() > 30
    assert torch.equal(once[vetoed], twice[vetoed])
    assert float(twice[~vetoed].min()) >= -4


def test_an_objective_that_nobody_spoke_of_changes_nothing(model: SharedModel) -> None:
    votes = make_complaints(200, 14)
    silent = [dataclasses.replace(label, reasons=()) for label in votes]
    reward, fresh = RewardModel(AnswerFeatures(model)), items(50, seed=15)
    reward.update(votes)
    assert bool((reward.rewards(fresh)[0] < -4).any())
    assert reward.update(silent).said == {"helpful": 200, "safe": 0, "truthful": 0}  # all were taken back
    mean, std = reward.score(fresh)
    assert torch.equal(reward.rewards(fresh, 0.5)[0], mean - 0.5 * std)
    assert torch.allclose(mean, fitted(model, silent, RewardSettings(safe=9.0)).score(fresh)[0], atol=0.02)


def test_objectives_have_the_weights_that_they_are_given(model: SharedModel) -> None:
    votes, fresh = make_complaints(300, 12), items(50, seed=13)

    def mean(helpful: float, safe: float) -> torch.Tensor:
        return fitted(model, votes, RewardSettings(helpful=helpful, safe=safe)).score(fresh)[0]

    assert torch.allclose(mean(1.0, 0.0) + 0.5 * mean(0.0, 1.0), mean(1.0, 0.5), atol=1e-4)
    assert float(mean(0.0, 1.0).std()) > 0.3


def test_calibration_makes_a_model_that_is_too_sure_modest(model: SharedModel) -> None:
    reward = fitted(model, make_votes(UTILITIES["long"], 400, 0, seed=16, noise=False))
    draw = random.Random(17)
    judged = [
        dataclasses.replace(
            label, value=1 - label.value if draw.random() < 0.3 else label.value, source=source
        )
        for source in ("annotator", "end_user")
        for label in make_votes(UTILITIES["long"], 300, 0, seed=len(source), noise=False)
    ]
    before = [abs(p - 0.5) for p in reward.predictions(judged)]
    report = reward.calibrate(judged)
    assert report.votes == 600
    assert report.temperature > 1.3
    assert report.error < 0.6 * report.error_before
    assert report.by_source.keys() == {"annotator", "end_user"}
    assert sum(report.by_source.values()) / 2 == pytest.approx(report.accuracy, abs=0.02)
    assert all(abs(p - 0.5) < b for p, b in zip(reward.predictions(judged), before, strict=True) if b > 1e-6)
    assert reward.calibrate(judged) == report  # from the same start


def test_what_is_said_about_length_is_kept_as_far_as_the_heads_agree(model: SharedModel) -> None:
    def slope(votes: list[Label], doubt: float) -> float:
        reward = fitted(model, votes, RewardSettings(length_doubt=doubt))
        voted = [(a.prompt_token_ids, a.token_ids) for label in votes for a in label.answers]
        mean = reward.score(voted)[0]
        length = torch.tensor([math.log1p(len(tokens)) for _, tokens in voted])
        return float(torch.cov(torch.stack([mean, length]))[0, 1] / length.var())

    sure, unsure = make_votes(UTILITIES["long"], 300, 0, seed=18), make_votes(TASTE, 60, 0, seed=19)
    assert slope(sure, 1.0) > 0.9 * slope(sure, 0.0) > 1.0
    assert abs(slope(sure, math.inf)) < 1e-3
    assert abs(slope(unsure, 1.0)) < 0.7 * abs(slope(unsure, 0.0))


def test_every_kind_survives_a_checkpoint_and_goes_on_alike(model: SharedModel) -> None:
    votes = [
        *make_complaints(60, 20),
        *make_ratings(30, 21, (-1.0, 0.0, 1.0)),
        *make_rankings(20, 22, 3),
        *make_votes(TASTE, 30, 0, seed=23),
    ]
    kept, restored = (RewardModel(AnswerFeatures(model), seed=5) for _ in range(2))
    kept.update(votes)
    kept.calibrate(make_votes(TASTE, 30, 10, seed=24))
    file = io.BytesIO()
    torch.save(kept.state_dict(), file)
    file.seek(0)
    restored.load_state_dict(torch.load(file, weights_only=True))
    assert same(kept.state_dict(), restored.state_dict())
    restored.features.restore(kept.features.state())
    assert kept.predictions(votes) == restored.predictions(votes)
    fresh = items(10, seed=25)
    assert torch.equal(kept.rewards(fresh, 0.5)[0], restored.rewards(fresh, 0.5)[0])
    for reward in (kept, restored):
        reward.update(votes[:70])
    assert same(kept.state_dict(), restored.state_dict())
