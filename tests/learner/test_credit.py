"""What each token adds to its answer's score."""

import pytest
import torch

from learner.reward.credit import token_gains
from learner.reward.features import PREFIXES, prefix_ends


def scores_of(tokens: int, seed: int) -> torch.Tensor:
    return torch.randn(len(prefix_ends(tokens)), generator=torch.Generator().manual_seed(seed))


def test_gains_add_up_to_the_score_less_one_number_for_all() -> None:
    lengths, starts = [3, 100, 7, 5], [0, 0, 4, 5]  # the last one is a thought without an answer
    prefixes = [scores_of(n - start, i) for i, (n, start) in enumerate(zip(lengths, starts, strict=True))]
    gains = token_gains(prefixes, starts, lengths)
    assert gains.shape == (4, 100)
    left = torch.stack([scores[-1] for scores in prefixes]) - gains.sum(1)
    assert left.std() < 1e-6
    assert float(left[0]) == pytest.approx(float(torch.stack([scores[0] for scores in prefixes]).mean()))


def test_a_gain_is_where_it_was_earned() -> None:
    good = torch.tensor([0.0, 0.0, 2.0, 2.0])  # the third token is what pleases
    gains = token_gains([good, torch.zeros(4)], [0, 0], [4, 4])
    assert gains.tolist() == [[0.0, 0.0, 2.0, 0.0], [0.0] * 4]


def test_thoughts_and_what_follows_an_answer_gain_nothing() -> None:
    gains = token_gains([scores_of(3, 0), scores_of(2 * PREFIXES, 1)], [2, 0], [5, 2 * PREFIXES])
    assert not gains[0, :2].any()
    assert not gains[0, 5:].any()
    assert len(gains[1].nonzero()) == PREFIXES  # a span's gain is at its last token
