"""How long rollouts may be, and how KL limits grow with the length of answers."""

import pytest

from learner.monitor.lengths import (
    after_cut_off,
    cut_off_penalty,
    default_lam,
    kl_limit,
    kl_limit_at,
    rollout_tokens,
    users_limit,
)


@pytest.mark.parametrize(
    ("tokens", "limit"), [(1, 6.0), (64, 6.0), (128, 12.0), (640, 60.0)], ids=["short", "unit", "2x", "10x"]
)
def test_a_kl_limit_is_per_response_of_64_tokens_and_grows_with_longer_ones(
    tokens: float, limit: float
) -> None:
    assert kl_limit(6.0, tokens) == pytest.approx(limit)
    assert kl_limit_at(6.0, 64.0, tokens) == pytest.approx(limit)
    assert kl_limit_at(limit, tokens, 64.0) == pytest.approx(6.0)


def test_rollouts_have_room_for_the_logs_long_answers_and_more() -> None:
    lengths = [100] * 94 + [300] * 6
    assert rollout_tokens(lengths, 0.95, most=1024) == 450
    assert rollout_tokens(lengths, 0.9, most=1024) == 150
    assert rollout_tokens(list(reversed(lengths)), 0.95, most=1024) == 450


def test_rollouts_are_bounded_also_where_nothing_is_known() -> None:
    assert rollout_tokens([], 0.95, most=1024) == 1024
    assert rollout_tokens([2000] * 10, 0.95, most=1024) == 1024
    assert rollout_tokens([5] * 10, 0.95, most=1024) == 64
    assert rollout_tokens([5] * 10, 0.95, most=24) == 24
    assert rollout_tokens([700], 1.0, most=4096) == 1050


def test_a_batch_that_was_cut_off_too_often_makes_the_next_one_longer() -> None:
    assert after_cut_off(200, cut_off_ratio=0.2, most=1024) == 300
    assert after_cut_off(200, cut_off_ratio=0.04, most=1024) == 200
    assert after_cut_off(900, cut_off_ratio=1.0, most=1024) == 1024


def test_a_policy_learns_no_longer_answers_than_its_users_let_it_give() -> None:
    assert users_limit([20, 64, 40, 64], [False, True, False, True], 1024) == 64
    assert users_limit([20, 64, 40, 90], [False, True, False, False], 1024) == 1024  # one user's limit
    assert users_limit([20, 64, 64], [False, False, True], 1024) == 64
    assert users_limit([2000, 40], [True, False], 1024) == 1024
    assert users_limit([], [], 1024) == 1024


def test_a_reward_at_the_end_reaches_the_first_token_of_long_answers_too() -> None:
    for tokens in (26, 60, 500, 4000):
        assert default_lam(tokens) ** tokens > 0.25
    assert default_lam(20) == default_lam(0) == 0.95


def test_few_answers_without_an_end_cost_nothing() -> None:
    assert cut_off_penalty(2.0, 0.0) == cut_off_penalty(2.0, 0.05) == 0.0
    assert cut_off_penalty(2.0, 0.1) == 1.0
    assert cut_off_penalty(2.0, 1.0) == pytest.approx(1.9)
