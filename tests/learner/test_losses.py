"""Every equation against a plain loop in double precision."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from learner.losses import (
    ALIVE,
    ascend,
    beside_others,
    bradley_terry_loss,
    explained_variance,
    gae,
    importance_weights,
    kl_k1,
    kl_k3,
    learning_rate_scale,
    masked_mean,
    mismatch,
    ordered_thresholds,
    ordinal_loss,
    plackett_luce_loss,
    policy_loss,
    thumbs_loss,
    upper_bound,
    value_loss,
    whiten,
)

LENGTHS = (5, 1, 7, 3)


def ragged(seed: int) -> tuple[Tensor, Tensor]:
    """Values (B, T) with noise outside the mask too, and the mask."""
    mask = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    return torch.randn(mask.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double), mask


def test_gae_is_the_discounted_sum_of_td_errors() -> None:
    (rewards, mask), (values, _) = ragged(1), ragged(2)
    gamma, lam = 0.9, 0.8
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row, length in enumerate(LENGTHS):
        v = [*values[row, :length].tolist(), 0.0]
        deltas = [float(rewards[row, t]) + gamma * v[t + 1] - v[t] for t in range(length)]
        for t in range(length):
            expected = sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, length))
            assert float(advantages[row, t]) == pytest.approx(expected, abs=1e-12)
            assert float(returns[row, t]) == pytest.approx(expected + v[t], abs=1e-12)
        assert not advantages[row, length:].any()
        assert not returns[row, length:].any()


def test_gae_with_lambda_1_is_the_return_less_the_value() -> None:
    (rewards, mask), (values, _) = ragged(3), ragged(4)
    advantages, returns = gae(rewards, values, mask, 1.0, 1.0)
    for row, length in enumerate(LENGTHS):
        for t in range(length):
            assert float(returns[row, t]) == pytest.approx(float(rewards[row, t:length].sum()), abs=1e-12)
            assert float(advantages[row, t]) == pytest.approx(
                float(rewards[row, t:length].sum() - values[row, t]), abs=1e-12
            )


def test_advantages_are_those_above_the_others_at_the_same_place() -> None:
    lengths = [9, *[4] * ALIVE, 7, 2]
    mask = torch.arange(9) < torch.tensor(lengths)[:, None]
    advantages = torch.randn(mask.shape, generator=torch.Generator().manual_seed(1), dtype=torch.double)
    found = beside_others(advantages, mask)
    late = [advantages[row, t] for row, n in enumerate(lengths) for t in range(4, n)]  # too few at each place
    for row, length in enumerate(lengths):
        for t in range(length):
            same = [advantages[other, t] for other, n in enumerate(lengths) if t < n] if t < 4 else late
            assert float(found[row, t]) == pytest.approx(float(advantages[row, t] - sum(same) / len(same)))
    assert not found[~mask].any()


@pytest.mark.parametrize("advantage", [1.5, -1.5])
@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.1, 2.0])
def test_the_policy_loss_has_no_gradient_beyond_the_clip(advantage: float, ratio: float) -> None:
    logprob = torch.tensor([math.log(ratio) - 2.0], dtype=torch.double, requires_grad=True)
    loss, clipped = policy_loss(
        logprob, torch.tensor([-2.0]).double(), torch.tensor([advantage]).double(), 0.2
    )
    loss.sum().backward()
    assert logprob.grad is not None
    expected = -min(ratio * advantage, min(max(ratio, 0.8), 1.2) * advantage)
    beyond = ratio > 1.2 if advantage > 0 else ratio < 0.8
    assert float(loss.detach()) == pytest.approx(expected)
    assert bool(clipped) == beyond
    assert float(logprob.grad) == pytest.approx(0.0 if beyond else -ratio * advantage)


def test_the_value_loss_takes_the_larger_of_both_errors() -> None:
    (values, _), (old, _), (returns, _) = ragged(5), ragged(6), ragged(7)
    losses = value_loss(values, old, returns, 0.3)
    flat = zip(values.flatten(), old.flatten(), returns.flatten(), losses.flatten(), strict=True)
    for v, o, r, loss in (map(float, row) for row in flat):
        near = min(max(v, o - 0.3), o + 0.3)
        assert loss == pytest.approx(0.5 * max((v - r) ** 2, (near - r) ** 2))


def test_a_batch_is_the_sum_of_its_shards() -> None:
    (logprobs, mask), (old, _), (advantages, _) = ragged(8), ragged(9), ragged(10)

    def gradient(rows: list[list[int]]) -> Tensor:
        leaf = logprobs.clone().requires_grad_()
        for part in rows:
            losses, _ = policy_loss(leaf[part], old[part], advantages[part], 0.2)
            ((losses * mask[part]).sum() / mask.sum()).backward()
        assert leaf.grad is not None
        return leaf.grad

    assert torch.allclose(gradient([[0, 1, 2, 3]]), gradient([[2], [0, 3], [1]]), atol=1e-14)


def test_kl_estimators_agree_with_the_exact_kl() -> None:
    generator = torch.Generator().manual_seed(11)
    p, q = torch.randn(2, 6, generator=generator, dtype=torch.double).log_softmax(-1)
    exact = float((p.exp() * (p - q)).sum())
    # The expectation under p, term by term: no sampling error.
    assert float((p.exp() * kl_k1(p, q)).sum()) == pytest.approx(exact, abs=1e-12)
    assert float((p.exp() * kl_k3(p, q)).sum()) == pytest.approx(exact, abs=1e-12)
    assert bool((kl_k3(p, q) >= 0).all())


@pytest.mark.parametrize(("kl", "missed"), [(3.0, 0), (3.3, 0.1), (60.0, 1), (0.0, -1), (math.nan, 1)])
def test_the_price_follows_the_share_by_which_the_target_is_missed(kl: float, missed: float) -> None:
    price = ascend(0.1, kl, target_nats=3.0, rate=0.05, low=0.01, high=2.0)
    assert price == pytest.approx(0.1 * math.exp(0.05 * missed))


def test_the_price_has_a_floor_and_a_ceiling_from_which_it_comes_back() -> None:
    limits = {"target_nats": 3.0, "rate": 0.1, "low": 0.01, "high": 2.0}
    price = 0.1
    for _ in range(1000):
        price = ascend(price, 0.0, **limits)
    assert price == 0.01
    for steps in range(1, 1000):  # noqa: B007
        price = ascend(price, 6.0, **limits)
        if price == 2.0:
            break
    assert steps == math.ceil(math.log(200) / 0.1)  # not the thousand that it was low for


def test_dual_ascent_finds_the_price_at_which_the_kl_meets_its_target() -> None:
    """A policy whose KL follows its price with delay, as one that takes small steps does: KL* = 1 / price."""
    price, kl = 0.1, 0.0
    for _ in range(400):
        kl += 0.2 * (1 / price - kl)
        price = ascend(price, kl, target_nats=3.0, rate=0.1, low=0.01, high=2.0)
    assert kl == pytest.approx(3.0, rel=0.02)
    assert price == pytest.approx(1 / 3, rel=0.02)


def test_the_upper_bound_covers_the_mean_in_19_of_20_batches() -> None:
    """KL per response is skewed: here exponential around 6 nats, which is more so than what is measured."""
    drawn = 6 * torch.empty(4000, 128).exponential_(generator=torch.Generator().manual_seed(17))
    missed = sum(upper_bound(batch) < 6 for batch in drawn) / len(drawn)
    assert 0.03 < missed < 0.08
    assert upper_bound(torch.tensor([2.5])) == 2.5


def test_a_policy_half_a_nat_past_a_limit_seldom_passes() -> None:
    """Of 6.5 nats with a spread of 2: the point estimate lets through what the bound does not."""
    draw = torch.Generator().manual_seed(18)
    batches = 6.5 + 2.0 * torch.randn(20_000, 128, generator=draw)
    by_mean = sum(float(batch.mean()) <= 6 for batch in batches) / len(batches)
    by_bound = sum(upper_bound(batch) <= 6 for batch in batches) / len(batches)
    assert by_mean > 0.001
    assert by_bound < 0.0002


def test_bradley_terry_counts_ties_half() -> None:
    for a, b in [(0.3, -1.0), (2.0, 2.5), (0.0, 40.0)]:
        pair = (torch.tensor([a]).double(), torch.tensor([b]).double())
        won = float(bradley_terry_loss(*pair, torch.ones(1).double()))
        lost = float(bradley_terry_loss(*pair, torch.zeros(1).double()))
        tied = float(bradley_terry_loss(*pair, torch.full((1,), 0.5).double()))
        assert won == pytest.approx(math.log1p(math.exp(b - a)))
        assert lost == pytest.approx(math.log1p(math.exp(a - b)))
        assert tied == pytest.approx((won + lost) / 2)


def test_the_thumbs_loss_is_minus_the_log_likelihood() -> None:
    for score, bias in [(0.5, -0.2), (-3.0, 1.0)]:
        up = 1 / (1 + math.exp(-(score + bias)))
        arguments = (torch.tensor([score]).double(), torch.tensor(bias).double())
        assert float(thumbs_loss(*arguments, torch.ones(1).double())) == pytest.approx(-math.log(up))
        assert float(thumbs_loss(*arguments, torch.zeros(1).double())) == pytest.approx(-math.log(1 - up))


def test_importance_weights_make_an_expectation_exact_and_stop_at_the_cap() -> None:
    generator = torch.Generator().manual_seed(12)
    trainer, engine = torch.randn(2, 6, generator=generator, dtype=torch.double).log_softmax(-1)
    values = torch.randn(6, generator=generator, dtype=torch.double)
    expected = float((trainer.exp() * values).sum())
    weights = importance_weights(trainer.requires_grad_(), engine, cap=math.inf)
    assert float((engine.exp() * weights * values).sum()) == pytest.approx(expected)
    assert not weights.requires_grad
    assert float(importance_weights(trainer, trainer - 5.0, cap=2.0).max()) == 2.0


def test_whitening_leaves_mean_0_and_variance_1_inside_the_mask() -> None:
    values, mask = ragged(13)
    white = whiten(values * 7 + 3, mask)
    inside = [float(white[row, t]) for row, length in enumerate(LENGTHS) for t in range(length)]
    assert sum(inside) / len(inside) == pytest.approx(0.0, abs=1e-12)
    assert sum(x * x for x in inside) / len(inside) == pytest.approx(1.0, abs=1e-6)
    assert not white[~mask].any()
    assert float(masked_mean(values, mask)) == pytest.approx(float(values[mask].mean()))


def test_explained_variance() -> None:
    actual = torch.tensor([1.0, 2.0, 3.0, 6.0])
    assert explained_variance(actual, actual) == 1.0
    assert explained_variance(torch.full((4,), 2.0), actual) == 0.0
    assert explained_variance(actual, torch.ones(4)) == 0.0
    assert explained_variance(-actual, actual) < 0


def test_plackett_luce_is_the_product_of_choices_and_sums_to_1_over_all_rankings() -> None:
    generator = torch.Generator().manual_seed(14)
    for size in (2, 3, 5):
        scores = torch.randn(size, generator=generator, dtype=torch.double) * 2
        total = 0.0
        for order in itertools.permutations(range(size)):
            weights = [math.exp(float(scores[i])) for i in order]
            likelihood = math.prod(weight / sum(weights[k:]) for k, weight in enumerate(weights))
            loss = plackett_luce_loss(scores[list(order)][None], torch.ones(1, size, dtype=torch.bool))
            assert float(loss) == pytest.approx(-math.log(likelihood), abs=1e-12)
            total += math.exp(-float(loss))
        assert total == pytest.approx(1.0, abs=1e-12)


def test_plackett_luce_of_two_is_bradley_terry_and_padding_counts_for_nothing() -> None:
    scores = torch.tensor(
        [[0.3, -1.0, 99.0, 7.0], [0.3, -1.0, 2.0, 0.5]], dtype=torch.double
    ).requires_grad_()
    mask = torch.tensor([[True, True, False, False], [True, True, True, True]])
    losses = plackett_luce_loss(scores, mask)
    pair = bradley_terry_loss(scores[:1, 0], scores[:1, 1], torch.ones(1).double())
    assert float(losses[0].detach()) == pytest.approx(float(pair.detach()), abs=1e-12)
    losses.sum().backward()
    assert scores.grad is not None
    assert not scores.grad[0, 2:].any()
    assert bool(torch.isfinite(scores.grad).all())
    assert torch.autograd.gradcheck(lambda s: plackett_luce_loss(s, mask), scores.detach().requires_grad_())


def test_ordinal_probabilities_are_those_of_the_latent_variable() -> None:
    """Enumerated: every rating's probability is the logistic mass between its thresholds; they sum to 1."""
    thresholds = torch.tensor([-1.5, 0.2, 0.9, 3.0], dtype=torch.double)

    def below(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    for score in (-4.0, 0.0, 0.7, 5.0):
        edges = [0.0, *(below(float(t) - score) for t in thresholds), 1.0]
        ratings = torch.arange(5)
        losses = ordinal_loss(torch.full((5,), score, dtype=torch.double), thresholds, ratings)
        for rating in range(5):
            mass = edges[rating + 1] - edges[rating]
            assert float(losses[rating]) == pytest.approx(-math.log(mass), rel=1e-9)
        assert float(torch.exp(-losses).sum()) == pytest.approx(1.0, abs=1e-12)


def test_the_ordinal_loss_has_exact_finite_gradients() -> None:
    free = torch.tensor([-1.0, 0.5, -2.0], dtype=torch.double, requires_grad=True)
    scores = torch.tensor([-30.0, 0.1, 0.4, 30.0, 800.0], dtype=torch.double, requires_grad=True)
    ratings = torch.tensor([3, 0, 1, 2, 0])
    assert bool((ordered_thresholds(free).diff() > 0).all())
    assert torch.autograd.gradcheck(
        lambda s, f: ordinal_loss(s, ordered_thresholds(f), ratings), (scores, free)
    )
    by_rater = ordered_thresholds(free)[None].expand(5, -1) + torch.arange(5)[:, None]
    losses = ordinal_loss(scores, by_rater, ratings)
    for row in range(5):
        one = ordinal_loss(scores[row : row + 1], by_rater[row], ratings[row : row + 1])
        assert float(losses[row].detach()) == pytest.approx(float(one.detach()))


def test_kl_estimates_from_samples_meet_the_exact_kl() -> None:
    generator = torch.Generator().manual_seed(16)
    p, q = torch.randn(2, 8, generator=generator, dtype=torch.double).log_softmax(-1)
    exact = float((p.exp() * (p - q)).sum())
    drawn = torch.multinomial(p.exp(), 200_000, replacement=True, generator=generator)
    for estimator in (kl_k1, kl_k3):
        values = estimator(p[drawn], q[drawn])
        error = float(values.std()) / math.sqrt(len(values))
        assert abs(float(values.mean()) - exact) < 4 * error
        assert error < 0.01


def test_the_learning_rate_rises_and_falls_in_straight_lines() -> None:
    scales = [learning_rate_scale(step, 4, 10, 0.1) for step in range(20)]
    assert scales[:4] == [0.25, 0.5, 0.75, 1.0]
    assert scales[9] == pytest.approx(1 - 0.9 * 0.5)
    assert scales[14:] == pytest.approx([0.1] * 6)
    assert [learning_rate_scale(step, 0, 0, 0.0) for step in (0, 1, 10_000)] == [1.0, 1.0, 1.0]


def test_the_mismatch_is_counted_over_the_vocabulary() -> None:
    """With tokens drawn from the engine in proportion, sampled figures are exact sums over the vocabulary."""
    engine = torch.tensor([0.5, 0.25, 0.25], dtype=torch.double).log()
    trainer = torch.tensor([0.2, 0.2, 0.6], dtype=torch.double).log()
    tokens = torch.tensor([0, 0, 1, 2])
    found = mismatch(trainer[tokens], engine[tokens], cap=2.0)
    assert found.kl_nats == pytest.approx(float((engine.exp() * (engine - trainer)).sum()))
    assert found.max_nats == pytest.approx(math.log(0.5 / 0.2))
    assert found.capped_ratio == 0.25
    weights = [0.4, 0.4, 0.8, 2.0]
    assert found.effective_ratio == pytest.approx(sum(weights) ** 2 / (4 * sum(w * w for w in weights)))
    assert mismatch(engine[tokens], engine[tokens], cap=2.0).effective_ratio == pytest.approx(1.0)
