"""What votes of each kind say about scores, against probabilities that are counted out."""

import dataclasses
import math
from itertools import permutations

import pytest
import torch
from torch import Tensor

from feedback.joining.labels import Label
from learner.reward.likelihoods import Parameters, Votes, consistent_orders, default_thresholds, levels_of
from tests.learner.votes import answer, vote

SCORES = torch.tensor([[0.3, -1.0], [1.2, 0.4], [-0.7, 2.0], [0.1, 0.0]])
ANSWERS = tuple(answer((10 + i,), f"c{i}") for i in range(4))


def losses(labels: list[Label], *, noise: float = 0.0, margin: float = 0.0) -> tuple[Votes, Tensor]:
    """Votes on `ANSWERS`, whose scores by two heads are `SCORES`, and their losses."""
    votes = Votes(labels, noise=noise, margin=margin)
    scores = SCORES[[ANSWERS.index(each) for each in votes.answers]]
    return votes, votes.losses(scores, Parameters(2, votes.raters, votes.levels))


def ranking(*groups: tuple[int, ...], **said: object) -> Label:
    value = 1.0 if len(groups) > 1 else 0.5
    return vote("ranking", "r", value, ANSWERS, "u", groups=groups, **said)


def log_choices(order: tuple[int, ...], head: int) -> float:
    """The log probability of an order, choice by choice (Plackett 1975)."""
    left, total = list(order), 0.0
    for chosen in order:
        total += float(SCORES[chosen, head]) - math.log(sum(math.exp(float(SCORES[i, head])) for i in left))
        left.remove(chosen)
    return total


def test_a_strict_ranking_is_the_mean_of_its_choices() -> None:
    _, found = losses([ranking((2,), (0,), (3,), (1,))])
    assert found.shape == (1, 2)
    for head in (0, 1):
        assert float(found[0, head]) == pytest.approx(-log_choices((2, 0, 3, 1), head) / 3, abs=1e-6)


@pytest.mark.parametrize("groups", [((1,), (0, 2), (3,)), ((0, 2, 3), (1,)), ((1,), (3, 0, 2))])
def test_a_tie_is_the_mean_over_all_orders_that_agree(groups: tuple[tuple[int, ...], ...]) -> None:
    def agrees(order: tuple[int, ...]) -> bool:
        return [g for i in order for g, group in enumerate(groups) if i in group] == sorted(
            g for g, group in enumerate(groups) for _ in group
        )

    orders = [order for order in permutations(range(4)) if agrees(order)]
    _, found = losses([ranking(*groups)])
    for head in (0, 1):
        mean = sum(log_choices(order, head) for order in orders) / len(orders)
        assert float(found[0, head]) == pytest.approx(-mean / 3, abs=1e-6)


@pytest.mark.parametrize("sizes", [(4,), (5, 1), (2, 3), (1, 4, 2)])
def test_in_a_large_group_each_answer_is_before_each_other_one_equally_often(sizes: tuple[int, ...]) -> None:
    number = iter(range(sum(sizes)))
    groups = [tuple(next(number) for _ in range(size)) for size in sizes]
    orders = consistent_orders(groups)
    place = {i: g for g, group in enumerate(groups) for i in group}
    for order in orders:
        assert sorted(order) == list(range(sum(sizes)))
        assert [place[i] for i in order] == sorted(place.values())
    for group in groups:
        for a in group:
            for b in group:
                if a != b:
                    assert sum(o.index(a) < o.index(b) for o in orders) == len(orders) / 2


def test_a_ranking_of_two_is_a_comparison_and_a_tie_counts_half_for_each() -> None:
    pair = ANSWERS[:2]
    for groups, value in ((((0,), (1,)), 1.0), (((1,), (0,)), 0.0), (((0, 1),), 0.5)):
        ranked = vote("ranking", "r", 1.0, pair, "u", groups=groups)
        compared = vote("comparison", "c", value, pair, "u")
        _, found = losses([compared, ranked], noise=0.1)
        assert found[0].tolist() == pytest.approx(found[1].tolist(), abs=1e-6)


def test_noise_mixes_every_vote_with_its_opposite() -> None:
    comparison, thumb = (
        vote("comparison", "c", 1.0, ANSWERS[:2], "u"),
        vote("thumbs", "t", 1.0, ANSWERS[:1], "u"),
    )
    rating = vote("rating", "s", 0.75, ANSWERS[:1], "u", scale=(1.0, 5.0), amount=4.0)
    ranked = ranking((2,), (0,), (3,), (1,))
    for label, opposite in (
        (comparison, dataclasses.replace(comparison, value=0.0)),
        (thumb, dataclasses.replace(thumb, value=0.0)),
        (rating, dataclasses.replace(rating, value=0.25, amount=2.0)),
        (ranked, dataclasses.replace(ranked, groups=ranked.groups[::-1])),
    ):
        said, meant, otherwise = losses([label], noise=0.2)[1], losses([label])[1], losses([opposite])[1]
        assert torch.allclose(said, 0.8 * meant + 0.2 * otherwise, atol=1e-6)


def test_a_correction_has_to_win_by_its_margin_and_a_comparison_does_not() -> None:
    compared, corrected = (vote(kind, kind, 1.0, ANSWERS[:2], "u") for kind in ("comparison", "correction"))
    votes, found = losses([compared, corrected], margin=0.7)
    ahead = (SCORES[0] - SCORES[1])[None] - torch.tensor([[0.0], [0.7]])
    assert [label.kind for label in votes.labels] == ["comparison", "correction"]
    assert torch.allclose(found, -torch.nn.functional.logsigmoid(ahead), atol=1e-6)


def test_ratings_have_thresholds_by_their_number_of_levels_and_the_probabilities_sum_to_1() -> None:
    for scale, levels in (
        ((1.0, 5.0), 5),
        ((0.0, 10.0), 11),
        ((0.0, 100.0), 11),
        ((0.0, 1.0), 11),
        (None, 11),
    ):
        rated = vote("rating", "s", 0.5, ANSWERS[:1], "u", scale=scale)
        assert levels_of(rated) == levels
        total = sum(
            torch.exp(-losses([dataclasses.replace(rated, value=k / (levels - 1))])[1]) for k in range(levels)
        )
        assert torch.allclose(torch.as_tensor(total), torch.ones(1, 2), atol=1e-5)
    assert default_thresholds(2).tolist() == [0.0]


def test_losses_come_in_the_order_of_the_labels_and_answers_are_scored_once() -> None:
    labels = [
        vote("rating", "a", 1.0, ANSWERS[1:2], "u", scale=(1.0, 3.0)),
        vote("thumbs", "b", 1.0, ANSWERS[:1], "u"),
        ranking((0, 1, 2, 3)),
        vote("rating", "c", 1.0, ANSWERS[1:2], "w", scale=(1.0, 5.0)),
        vote("comparison", "d", 0.0, ANSWERS[:2], "u"),
        vote("rating", "e", 0.0, ANSWERS[2:3], "u", scale=(1.0, 3.0)),
    ]
    votes, together = losses(labels)
    assert len(votes.answers) == 4
    assert (votes.raters, votes.levels) == (2, [3, 5])
    alone = torch.cat([losses([label])[1] for label in votes.labels])
    assert torch.allclose(together, alone, atol=1e-6)
    liked = {ANSWERS.index(a) for a, good in zip(votes.answers, votes.good, strict=True) if good}
    assert liked == {0, 1, 2, 3}  # the tie of all four
    assert Votes([vote("comparison", "d", 0.0, ANSWERS[:2], "u")]).good.tolist() == [False, True]


def test_leniency_moves_thumbs_and_ratings_of_its_rater_alone() -> None:
    labels = [
        vote("thumbs", "a", 1.0, ANSWERS[:1], "mild"),
        vote("thumbs", "b", 1.0, ANSWERS[:1], "strict"),
        vote("rating", "c", 1.0, ANSWERS[:1], "mild", scale=(1.0, 5.0)),
        vote("rating", "d", 1.0, ANSWERS[:1], "strict", scale=(1.0, 5.0)),
    ]
    votes = Votes(labels)
    parameters = Parameters(2, votes.raters, votes.levels)
    parameters.leniency += torch.tensor([[2.0], [0.0]])
    found = votes.losses(SCORES[:1], parameters)
    shifted = votes.losses(SCORES[:1] + 2.0, Parameters(2, votes.raters, votes.levels))
    still = votes.losses(SCORES[:1], Parameters(2, votes.raters, votes.levels))
    assert torch.allclose(found[[0, 2]], shifted[[0, 2]])
    assert torch.equal(found[[1, 3]], still[[1, 3]])
