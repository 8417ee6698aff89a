"""The offline comparison's numbers against what they stand for."""

import random

import pytest
import torch

from deploy.engines.client import Sample
from learner.policy.candidate import chance_to_win, compare, win_rate
from learner.rollouts.sampling import distinct_prompts, is_held_out


def sample(length: int) -> Sample:
    return Sample([1], [2] * length, [0.0] * length, "", "stop")


def test_ties_count_half() -> None:
    rate, low = win_rate(torch.tensor([1.0, 0.0, 2.0, 2.0]), torch.tensor([0.0, 1.0, 2.0, 2.0]))
    assert rate == 0.5
    assert low < 0.5


def test_the_lower_limit_covers_the_true_rate_in_19_of_20_runs() -> None:
    draw = random.Random(0)
    missed = 0
    for _ in range(2000):
        wins = torch.tensor([float(draw.random() < 0.6) for _ in range(128)])
        missed += win_rate(wins, torch.full((128,), 0.5))[1] > 0.6
    assert 0.03 < missed / 2000 < 0.07


def test_the_chance_to_win_counts_all_pairs() -> None:
    assert chance_to_win(torch.tensor([1.0, 3.0]), torch.tensor([0.0, 1.0, 2.0, 3.0])) == (1.5 + 3.5) / 8
    assert chance_to_win(torch.zeros(5), torch.zeros(3)) == 0.5


def test_numbers_carry_lengths_and_budgets() -> None:
    numbers = compare(
        [sample(10), sample(20)],
        [sample(5), sample(5)],
        (torch.tensor([1.0, 1.0]), torch.tensor([0.0, 0.0])),
        (1.5, 0.5),
        (1.75, 0.625),
        (6.0, 3.0),
    )
    assert numbers.prompts == 2
    assert numbers.win_rate == 1.0
    assert (numbers.response_tokens, numbers.response_tokens_live) == (15.0, 5.0)
    assert (numbers.kl_nats_base, numbers.kl_nats_live) == (1.5, 0.5)
    assert (numbers.kl_nats_base_high, numbers.kl_nats_live_high) == (1.75, 0.625)
    assert (numbers.kl_budget_nats_base, numbers.kl_budget_nats_live) == (6.0, 3.0)


def test_prompts_are_for_rollouts_or_for_the_gate_but_not_both() -> None:
    prompts = [[i, i + 1] for i in range(4000)]
    held_out = [prompt for prompt in prompts if is_held_out(prompt)]
    assert len(held_out) / len(prompts) == pytest.approx(0.25, abs=0.03)
    both = distinct_prompts([(1, 2), (3, 4)], held_out=True) + distinct_prompts(
        [(1, 2), (3, 4)], held_out=False
    )
    assert sorted(both) == [[1, 2], [3, 4]]


def test_distinct_prompts_keep_the_newest_place() -> None:
    prompts = [(i,) for i in range(50) if not is_held_out([i])]
    assert distinct_prompts([*prompts, prompts[0]], held_out=False) == [
        list(p) for p in [*prompts[1:], prompts[0]]
    ]
