"""Several reward models on the same votes: who serves, and what a checkpoint keeps of it."""

import dataclasses
import math
import random

import pytest
import torch

from feedback.joining.join import Label
from learner.model.shared import SharedModel
from learner.reward.features import AnswerFeatures
from learner.reward.ladder import RewardLadder, choose
from learner.reward.reader import Reader
from learner.reward.reward import RewardModel, RewardSettings
from tests.learner.test_reward import UTILITIES, items, make_votes, same
from tests.learner.votes import answer, vote

SETTINGS = RewardSettings(rung_votes=50, reader_tokens=100_000, reader_votes=100, reader_learning_rate=3e-3)


@pytest.fixture(scope="module")
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, device="cpu", reader=True)


def make_ladder(model: SharedModel) -> RewardLadder:
    """A ladder with a reader that has learned nothing."""
    clean = SharedModel(model.name, device="cpu", reader=True)
    reader = Reader(clean, SETTINGS)
    return RewardLadder(AnswerFeatures(clean, reader.score), SETTINGS, seed=1, reader=reader)


def ordered_votes(count: int, seed: int) -> list[Label]:
    """Comparisons of answers of the same tokens, of which those with 7 before 9 win."""
    draw, votes = random.Random(seed), []
    for i in range(count):
        body = [draw.randrange(10, 40) for _ in range(6)]
        pair = tuple(
            answer((*body[:2], first, *body[2:4], second, *body[4:], 2), f"{seed}-{i}-{first}")
            for first, second in ((7, 9), (9, 7))
        )
        a_first = draw.random() < 0.5
        shown = pair if a_first else pair[::-1]
        votes.append(vote("comparison", f"order-{seed}-{i}", float(a_first), shown, f"rater-{i % 50}"))
    return votes


@pytest.mark.parametrize(
    ("ahead", "votes", "chosen"),
    [
        ((0.0, 0.1), 100, 1),
        ((0.0, 0.1), 40, 0),  # too few votes
        ((0.0, 0.01), 100, 0),  # within chance
        ((0.0, -0.1), 100, 0),
        ((0.0, 0.1, 0.2), 100, 2),
    ],
)
def test_who_foresees_votes_better_by_more_than_chance_serves(
    ahead: tuple[float, ...], votes: int, chosen: int
) -> None:
    losses = [[0.7 - by + (0.2 * (-1) ** i if by else 0.0) for by in ahead] for i in range(votes)]
    assert choose(losses, 0, 50, 1.0) == chosen


def test_who_had_nothing_to_say_is_compared_on_what_it_foresaw() -> None:
    losses = [(0.7, math.nan)] * 300 + [(0.7 + 0.001 * i, 0.5) for i in range(60)]
    assert choose(losses, 0, 50, 1.0) == 1
    assert choose(losses[:340], 0, 50, 1.0) == 0
    assert choose([], 0, 50, 1.0) == 0
    assert choose(losses, 1, 50, 1.0) == 1


def test_votes_about_words_are_left_to_the_smallest_and_votes_about_order_go_to_a_larger_one(
    model: SharedModel,
) -> None:
    for votes, judged, names in (
        (ordered_votes(300, 1), ordered_votes(200, 2), ("states", "reader")),
        (make_votes(UTILITIES["a word they like and one they hate"], 300, 0, seed=3),
         make_votes(UTILITIES["a word they like and one they hate"], 200, 0, seed=4), ("words",)),
    ):  # fmt: skip
        ladder = make_ladder(model)
        ladder.foresee(judged)  # before any update there is nothing to foresee by
        assert not ladder.losses
        ladder.update(votes)
        ladder.calibrate(judged[:50])
        ladder.foresee(judged[50:])
        assert len(ladder.losses) == 150
        assert ladder.model.kind.name in names, ladder.describe()
        assert ladder.accuracy(judged) == ladder.model.accuracy(judged)


def test_a_restored_ladder_goes_on_bit_for_bit(model: SharedModel) -> None:
    early, late, judged = ordered_votes(120, 5), ordered_votes(60, 6), ordered_votes(60, 7)
    kept, restored = make_ladder(model), make_ladder(model)
    kept.update(early)
    kept.foresee(judged)
    restored.features.restore(kept.features.state())
    restored.load_state_dict(kept.state_dict())
    for ladder in (kept, restored):
        ladder.update([*early, *late])
        ladder.foresee(judged)
    a, b = kept.state_dict(), restored.state_dict()
    assert a["serving"] == b["serving"]
    assert kept.losses == restored.losses
    assert same(a["rungs"], b["rungs"])
    assert torch.equal(a["reader"]["adapter"], b["reader"]["adapter"])
    fresh = items(20, seed=8)
    assert torch.equal(kept.rewards(fresh, 0.5)[0], restored.rewards(fresh, 0.5)[0])


def test_the_reader_learns_each_vote_once_and_what_is_newest_when_there_is_too_much(
    model: SharedModel,
) -> None:
    clean = SharedModel(model.name, device="cpu", reader=True)
    reader, votes = Reader(clean, SETTINGS), ordered_votes(64, 9)
    assert reader.learn(votes[:40]) == 40
    before = reader.state_dict()["adapter"]
    assert reader.learn(votes[:40]) == 0
    assert torch.equal(reader.state_dict()["adapter"], before)
    changed = [dataclasses.replace(votes[0], revision=2), *votes[1:]]
    assert reader.learn(changed) == 25
    ladder = make_ladder(model)
    assert not ladder._let_read(votes)  # too few
    per_vote = sum(len(a.prompt_token_ids) + len(a.token_ids) for a in votes[0].answers)
    ladder.settings = dataclasses.replace(SETTINGS, reader_tokens=10 * per_vote + 1)
    many = ordered_votes(120, 10)
    assert ladder._let_read(many) == many[-10:]


def test_a_state_of_another_ladder_is_refused(model: SharedModel) -> None:
    ladder = make_ladder(model)
    with pytest.raises(ValueError, match="no rungs words, states, reader"):
        ladder.load_state_dict(RewardModel(ladder.features).state_dict())
    with pytest.raises(ValueError, match="no rungs words, states, reader"):
        ladder.load_state_dict(RewardLadder(ladder.features).state_dict())
