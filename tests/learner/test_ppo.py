"""PPO against a plain step written out, and against what a step must never do."""

import copy
import dataclasses
import io
import math
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from deploy.engines.client import Sample
from learner.batching import make_batch
from learner.losses import kl_k1
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.monitor.lengths import cut_off_penalty
from learner.optimiser import Lesson
from learner.policy.ppo import PPO, PPOMetrics
from learner.settings import PPOSettings

PROMPTS = [[3, 5], [4], [6, 3, 5], [9]]
LIKED = range(3, 24)  # the tokens that the tests' users like
LONGEST = 8  # tokens of an answer


@pytest.fixture
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)


def sample(
    model: SharedModel, count: int, seed: int, max_tokens: int = LONGEST, asked: Sequence[list[int]] = PROMPTS
) -> list[Sample]:
    """Answers of the policy, token by token, with the logprobs that they were drawn with."""
    generator = torch.Generator().manual_seed(seed)
    prompts = [asked[i % len(asked)] for i in range(count)]
    answers: list[list[int]] = [[] for _ in prompts]
    for _ in range(max_tokens):
        going = [i for i, answer in enumerate(answers) if 2 not in answer]
        if not going:
            break
        tables = next_token_logprobs(model, [[*prompts[i], *answers[i]] for i in going])
        drawn = torch.multinomial(tables.exp(), 1, generator=generator).squeeze(1).tolist()
        for i, token in zip(going, drawn, strict=True):
            answers[i].append(token)
    items = [(prompt, answer) for prompt, answer in zip(prompts, answers, strict=True)]
    logprobs = model.answer_logprobs(items, POLICY)
    return [
        Sample(p, a, logprobs[i, : len(a)].tolist(), "", "stop" if a[-1] == 2 else "length")
        for i, (p, a) in enumerate(items)
    ]


def next_token_logprobs(model: SharedModel, rows: list[list[int]], adapter: str | None = POLICY) -> Tensor:
    """(B, V) logprobs of every possible next token."""
    with torch.no_grad():
        states = model.final_states(make_batch([(row, ()) for row in rows]), adapter)
        every = torch.arange(model.vocab_size).repeat(len(rows))
        logprobs = model.token_logprobs(states.repeat_interleave(model.vocab_size, 0), every)
    return logprobs.reshape(len(rows), model.vocab_size)


def likes(rollouts: list[Sample]) -> Tensor:
    """The share of each answer's tokens that is liked."""
    return torch.tensor([sum(t in LIKED for t in r.token_ids) / len(r.token_ids) for r in rollouts])


def take_steps(model: SharedModel, ppo: PPO, count: int, first: int = 0) -> list[PPOMetrics]:
    reports = []
    for step in range(first, first + count):
        rollouts = sample(model, 32, seed=step)
        reports.append(ppo.step(ppo.measure(rollouts), likes(rollouts)))
    return reports


def everything(ppo: PPO) -> list[Tensor]:
    """All tensors and numbers of a snapshot, in order."""

    def leaves(value: object) -> list[Tensor]:
        if isinstance(value, dict):
            return [leaf for key in sorted(value, key=str) for leaf in leaves(value[key])]
        if isinstance(value, (list, tuple)):
            return [leaf for part in value for leaf in leaves(part)]
        return [torch.as_tensor(value)] if isinstance(value, (Tensor, int, float)) else []

    return leaves(ppo.snapshot())


def are_equal(one: list[Tensor], two: list[Tensor]) -> bool:
    return len(one) == len(two) and all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_a_fresh_policy_is_exactly_the_base_and_the_live_one(model: SharedModel) -> None:
    measured = PPO(model, PPOSettings()).measure(sample(model, 16, seed=0))
    assert measured.kl_nats_base == 0.0
    assert measured.kl_nats_live == 0.0


def test_kl_is_summed_exactly_over_the_vocabulary_at_each_token(model: SharedModel) -> None:
    take_steps(model, PPO(model, PPOSettings(critic_warmup_steps=0, learning_rate=1e-2)), 3)
    rollouts = sample(model, 24, seed=9)
    measured = PPO(model, PPOSettings()).measure(rollouts)
    for rollout, kl in zip(rollouts[:6], measured.base_kl_nats.tolist(), strict=False):
        rows = [[*rollout.prompt_token_ids, *rollout.token_ids[:t]] for t in range(len(rollout.token_ids))]
        policy, base = (next_token_logprobs(model, rows, name).double() for name in (POLICY, None))
        assert kl == pytest.approx(float((policy.exp() * (policy - base)).sum()), rel=1e-4)
    assert measured.kl_nats_base > 0.01
    assert measured.kl_nats_base_high > measured.kl_nats_base
    assert torch.equal(measured.live_kl_nats, measured.base_kl_nats)  # live is the base
    model.copy_adapter(POLICY, LIVE)
    measured = PPO(model, PPOSettings()).measure(rollouts)
    assert measured.kl_nats_live == pytest.approx(0.0, abs=1e-6)
    assert measured.kl_nats_base > 0.01


def test_the_exact_kl_has_the_mean_of_the_sampled_one_and_less_spread(model: SharedModel) -> None:
    take_steps(model, PPO(model, PPOSettings(critic_warmup_steps=0, learning_rate=1e-2)), 3)
    rollouts = sample(model, 2000, seed=10)
    measured = PPO(model, PPOSettings()).measure(rollouts)
    plain = kl_k1(measured.logprobs, measured.base_logprobs).sum(1)
    exact = measured.base_kl_nats
    error = float((plain - exact).std()) / math.sqrt(len(rollouts))
    assert abs(float(plain.mean() - exact.mean())) < 4 * error
    assert float(exact.std()) < float(plain.std()) / 2


def test_the_price_is_on_the_way_from_live_not_from_the_base(model: SharedModel) -> None:
    settings = PPOSettings(critic_warmup_steps=0, learning_rate=1e-2, cut_off_penalty=0.0)
    take_steps(model, PPO(model, settings), 3)
    model.copy_adapter(POLICY, LIVE)  # far from the base, as a version 0 is
    ppo = PPO(model, settings)
    measured = ppo.measure(sample(model, 16, seed=4))
    assert measured.kl_nats_base > 0.01
    assert not ppo._rewards(Lesson(measured, torch.zeros(16))).any()


def test_the_references_never_move_in_100_updates(model: SharedModel) -> None:
    ppo = PPO(model, PPOSettings(critic_warmup_steps=0, learning_rate=1e-2))
    take_steps(model, ppo, 1)
    model.copy_adapter(POLICY, LIVE)
    items = [(rollout.prompt_token_ids, rollout.token_ids) for rollout in sample(model, 16, seed=50)]
    before = {name: model.answer_logprobs(items, name) for name in (None, LIVE, POLICY)}
    updates = dataclasses.replace(ppo.settings, epochs=10, minibatches=5, kl_step_nats=math.inf)
    long = PPO(model, updates)
    reports = take_steps(model, long, 2, first=1)
    assert sum(report.epochs for report in reports) * updates.minibatches == 100
    assert torch.equal(model.answer_logprobs(items, None), before[None])
    assert torch.equal(model.answer_logprobs(items, LIVE), before[LIVE])
    assert not torch.equal(model.answer_logprobs(items, POLICY), before[POLICY])


def plain_step(model: SharedModel, settings: PPOSettings, rollouts: list[Sample], scores: Tensor) -> None:
    """One epoch of one minibatch with an untrained critic (values 0), one response at a time."""
    optimizer = torch.optim.AdamW(
        model.parameters(POLICY), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.0
    )
    items = [(rollout.prompt_token_ids, rollout.token_ids) for rollout in rollouts]
    policy, base = (model.answer_logprobs(items, name).double() for name in (POLICY, None))
    ends = [rollout.finish_reason == "stop" for rollout in rollouts]
    most = float(scores[torch.tensor(ends)].mean())
    penalty = cut_off_penalty(settings.cut_off_penalty, 1 - sum(ends) / len(ends))
    advantages: list[list[float]] = []
    for row, rollout in enumerate(rollouts):
        length = len(rollout.token_ids)
        rewards = [-settings.kl_coefficient * float(policy[row, t] - base[row, t]) for t in range(length)]
        score = float(scores[row])
        rewards[-1] += score if ends[row] else min(score, most) - penalty
        advantages.append(
            [sum(rewards[k] * settings.lam ** (k - t) for k in range(t, length)) for t in range(length)]
        )
    flat = [value for row_values in advantages for value in row_values]
    mean = sum(flat) / len(flat)
    deviation = math.sqrt(sum((value - mean) ** 2 for value in flat) / len(flat))
    optimizer.zero_grad()
    for item, row_values in zip(items, advantages, strict=True):
        batch = make_batch([item])
        logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
        weights = (torch.tensor(row_values) - mean) / deviation
        (
            -(logprobs * weights).sum() / len(flat)
        ).backward()  # at ratio 1 the surrogate's gradient is this one
    torch.nn.utils.clip_grad_norm_(model.parameters(POLICY), settings.max_grad_norm)
    optimizer.step()


@pytest.mark.parametrize("update_tokens", [30, 10_000])
def test_one_update_is_that_of_a_plain_loop(model: SharedModel, update_tokens: int) -> None:
    settings = PPOSettings(
        epochs=1,
        minibatches=1,
        warmup_steps=0,
        critic_warmup_steps=0,
        learning_rate=1e-3,
        lam=0.9,
        update_tokens=update_tokens,
    )
    take_steps(model, PPO(model, dataclasses.replace(settings, learning_rate=1e-2)), 2)  # away from the base
    start = model.adapter_state(POLICY)
    rollouts = sample(model, 24, seed=3)
    assert {rollout.finish_reason for rollout in rollouts} == {"stop", "length"}

    plain_step(model, settings, rollouts, likes(rollouts))
    expected = model.adapter_state(POLICY)
    model.load_adapter_state(POLICY, start)
    ppo = PPO(model, settings)
    ppo.step(ppo.measure(rollouts), likes(rollouts))
    moved = model.adapter_state(POLICY)
    for key, value in moved.items():
        # Adam's first step divides a gradient by its own size: where that is rounding error, signs are free.
        apart = (value - expected[key]).abs() > 1e-5
        assert float(apart.float().mean()) < 0.01, key
        assert not torch.equal(value, start[key])


def test_it_learns_what_is_liked_within_a_kl_it_reports(model: SharedModel) -> None:
    ppo = PPO(model, PPOSettings(learning_rate=5e-3, kl_coefficient=0.01, cut_off_penalty=0.0))
    before = float(likes(sample(model, 200, seed=1000)).mean())
    reports = take_steps(model, ppo, 15)
    after = float(likes(sample(model, 200, seed=1001)).mean())
    assert after > before + 0.2
    assert reports[0].kl_nats_base == 0.0
    assert 0.1 < reports[-1].kl_nats_base < 20


@pytest.mark.parametrize("seed", [0, 100])
def test_more_is_learned_where_it_is_known_which_tokens_pleased(random_model: str, seed: int) -> None:
    def pleases(rollouts: list[Sample]) -> Tensor:
        """What each token adds, (B, T): liked ones please, others do not."""
        rows = [torch.tensor([1.0 if t in LIKED else -1.0 for t in each.token_ids]) for each in rollouts]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)

    reached = []
    for known in (False, True):
        model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)
        ppo = PPO(model, PPOSettings(critic_warmup_steps=0, cut_off_penalty=0.0, learning_rate=3e-3))
        for step in range(8):
            rollouts = sample(model, 24, seed + step, 4 * LONGEST)
            gains = pleases(rollouts)
            ppo.step(ppo.measure(rollouts), gains.sum(1), gains=gains if known else None)
        reached.append(float(pleases(sample(model, 400, 1000 + seed, 4 * LONGEST)).sum(1).mean()))
    at_the_end, by_token = reached
    assert by_token > at_the_end + 2


def by_length(rollouts: list[Sample]) -> Tensor:
    """Longer answers are liked better, without an end."""
    return torch.tensor([2.0 * len(rollout.token_ids) / LONGEST for rollout in rollouts])


def equally(rollouts: list[Sample]) -> Tensor:
    return torch.zeros(len(rollouts))


@pytest.mark.parametrize("taste", [equally, by_length])
def test_answers_that_are_cut_off_become_rare(
    model: SharedModel, taste: Callable[[list[Sample]], Tensor]
) -> None:
    ppo = PPO(model, PPOSettings(learning_rate=5e-3, kl_coefficient=0.01, cut_off_penalty=1.0))

    def cut_off(seed: int) -> float:
        return sum(r.finish_reason == "length" for r in sample(model, 200, seed)) / 200

    before = cut_off(1000)
    for step in range(10):
        rollouts = sample(model, 32, seed=step)
        ppo.step(ppo.measure(rollouts), taste(rollouts))
    assert cut_off(1001) < before - 0.3


def test_the_critic_learns_to_expect_the_score(model: SharedModel) -> None:
    ppo = PPO(model, PPOSettings(critic_warmup_steps=30))
    rollouts = sample(model, 64, seed=4)
    measured, scores = ppo.measure(rollouts), likes(rollouts)
    reports = [ppo.step(measured, scores) for _ in range(30)]
    assert reports[0].explained_variance == pytest.approx(0.0, abs=1e-6)
    assert reports[-1].explained_variance > 0.3
    assert reports[-1].epochs == 0  # the policy has not been touched
    assert model.is_base(POLICY)


def test_a_restored_snapshot_undoes_a_step_exactly(model: SharedModel) -> None:
    ppo = PPO(model, PPOSettings())
    take_steps(model, ppo, 3)
    kept = copy.deepcopy(everything(ppo))
    snapshot = ppo.snapshot()
    take_steps(model, ppo, 2, first=3)
    assert not are_equal(everything(ppo), kept)
    ppo.restore(snapshot)
    assert are_equal(everything(ppo), kept)
    take_steps(model, ppo, 1, first=3)  # a snapshot is a copy: going on does not change it
    ppo.restore(snapshot)
    assert are_equal(everything(ppo), kept)


def test_a_saved_state_goes_on_to_the_same_bits(model: SharedModel, random_model: str) -> None:
    ppo = PPO(model, PPOSettings(), seed=5)
    take_steps(model, ppo, 2)
    file = io.BytesIO()
    torch.save(ppo.snapshot(), file)
    file.seek(0)
    other_model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=77)
    other = PPO(other_model, PPOSettings(), seed=99)
    other.restore(torch.load(file, weights_only=True))
    reports = [take_steps(m, p, 2, first=2) for m, p in ((model, ppo), (other_model, other))]
    assert reports[0] == reports[1]
    assert are_equal(everything(ppo), everything(other))


def test_the_same_seed_gives_the_same_bits(random_model: str) -> None:
    def run() -> list[Tensor]:
        model = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)
        ppo = PPO(model, PPOSettings(), seed=2)
        take_steps(model, ppo, 3)
        return everything(ppo)

    assert are_equal(run(), run())


@pytest.mark.parametrize(("target", "grows"), [(1e-9, True), (1e9, False)])
def test_the_coefficient_steers_towards_the_kl_target(model: SharedModel, target: float, grows: bool) -> None:
    ppo = PPO(model, PPOSettings(kl_target_nats=target, critic_warmup_steps=0, learning_rate=2e-2))
    reports = take_steps(model, ppo, 4)
    assert (ppo.kl_coefficient > reports[1].kl_coefficient) == grows


def test_an_undone_step_makes_kl_dearer_and_a_limit_on_the_price_holds(model: SharedModel) -> None:
    ppo = PPO(model, PPOSettings(kl_coefficient=0.1, kl_rate=0.1, kl_coefficient_max=0.5))
    ppo.raise_price()
    assert ppo.kl_coefficient == pytest.approx(0.1 * math.exp(0.5))
    for _ in range(10):
        ppo.raise_price()
    assert ppo.kl_coefficient == 0.5
    fallen = ppo.snapshot() | {"kl_coefficient": 3e-6}  # as before there was a floor
    ppo.restore(fallen)
    assert ppo.kl_coefficient == ppo.settings.kl_coefficient_min


def test_starting_anew_forgets_all_of_the_way_but_the_price(model: SharedModel) -> None:
    settings = PPOSettings(warmup_steps=2, decay_steps=4, learning_rate=1e-3)
    fresh = PPO(model, settings, seed=5)
    begun = fresh.snapshot()
    ppo = PPO(model, settings, seed=5)
    rates = [report.learning_rate for report in take_steps(model, ppo, 8)]
    price = ppo.kl_coefficient
    assert ppo.snapshot()["optimizer"]["state"]
    model.load_adapter_state(POLICY, begun["policy"])
    ppo.start_anew()
    snapshot = ppo.snapshot()
    assert snapshot["kl_coefficient"] == price != begun["kl_coefficient"]
    for name in ("policy", "critic"):
        assert all(torch.equal(value, begun[name][key]) for key, value in snapshot[name].items())
    for name in ("optimizer", "critic_optimizer"):
        assert snapshot[name]["state"] == begun[name]["state"] == {}
    assert [report.learning_rate for report in take_steps(model, ppo, 8)] == rates


def test_epochs_end_when_the_policy_has_gone_too_far(model: SharedModel) -> None:
    eager = PPOSettings(learning_rate=2e-2, epochs=12, critic_warmup_steps=0, warmup_steps=0)
    start = PPO(model, eager).snapshot()

    def epochs(kl_step_nats: float) -> int:
        ppo = PPO(model, dataclasses.replace(eager, kl_step_nats=kl_step_nats))
        ppo.restore(start)
        return take_steps(model, ppo, 1)[0].epochs

    assert epochs(0.05) < epochs(math.inf) == 12


def test_an_update_that_is_not_finite_is_skipped_and_counted(model: SharedModel) -> None:
    ppo = PPO(model, PPOSettings(critic_warmup_steps=0, epochs=2, minibatches=2))
    rollouts = sample(model, 16, seed=6)
    broken = [dataclasses.replace(r, logprobs=[math.nan] * len(r.logprobs)) for r in rollouts]
    before = model.adapter_state(POLICY)
    report = ppo.step(ppo.measure(broken), likes(rollouts))
    assert report.skipped_updates == 4
    assert all(torch.equal(value, before[key]) for key, value in model.adapter_state(POLICY).items())
    assert ppo.step(ppo.measure(rollouts), likes(rollouts)).skipped_updates == 0


def test_the_mismatch_is_that_of_the_worst_token(model: SharedModel) -> None:
    rollouts = sample(model, 8, seed=7)
    ppo = PPO(model, PPOSettings())
    assert ppo.step(ppo.measure(rollouts), likes(rollouts)).mismatch.max_nats < 1e-5
    shifted = [rollouts[0].logprobs[0] + 0.25, *rollouts[0].logprobs[1:]]
    rollouts[0] = dataclasses.replace(rollouts[0], logprobs=shifted)
    assert ppo.step(ppo.measure(rollouts), likes(rollouts)).mismatch.max_nats == pytest.approx(0.25, abs=1e-4)


def test_bad_input_is_refused_before_anything_moves(model: SharedModel) -> None:
    ppo = PPO(model, PPOSettings())
    rollouts = sample(model, 4, seed=8)
    with pytest.raises(ValueError, match="at least one token"):
        ppo.measure([])
    with pytest.raises(ValueError, match="at least one token"):
        ppo.measure([*rollouts, dataclasses.replace(rollouts[0], token_ids=[], logprobs=[])])
    measured = ppo.measure(rollouts)
    before = everything(ppo)
    with pytest.raises(ValueError, match="4 scores are needed"):
        ppo.step(measured, torch.zeros(3))
    with pytest.raises(ValueError, match="score of rollout 1 is nan"):
        ppo.step(measured, torch.tensor([0.0, math.nan, 0.0, 0.0]))
    assert are_equal(everything(ppo), before)


def advantages_of(rollouts: list[Sample], width: int) -> Tensor:
    return torch.randn(len(rollouts), width, generator=torch.Generator().manual_seed(11))


def moved_model(model: SharedModel) -> PPO:
    """A PPO whose policy has left the base."""
    take_steps(model, PPO(model, PPOSettings(critic_warmup_steps=0, learning_rate=1e-2)), 2)
    return PPO(model, PPOSettings())


def test_the_gradient_of_a_batch_is_the_sum_over_its_shards_by_their_tokens(model: SharedModel) -> None:
    ppo = moved_model(model)
    rollouts = sample(model, 24, seed=12)
    measured = ppo.measure(rollouts)
    advantages = advantages_of(rollouts, measured.mask.shape[1])
    rows = list(range(24))
    whole = ppo.gradient(measured, advantages, rows).clone()
    shards = [rows[:5], rows[5:6], rows[6:]]
    total = torch.zeros_like(whole)
    for shard in shards:
        share = int(measured.mask[shard].sum()) / int(measured.mask.sum())
        total += share * ppo.gradient(measured, advantages, shard)
    assert torch.allclose(total, whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-4)
    ppo.settings = dataclasses.replace(ppo.settings, update_tokens=1)  # one by one
    alone = ppo.gradient(measured, advantages, rows)
    assert torch.allclose(alone, whole, atol=1e-5 * float(whole.abs().max()), rtol=1e-4)


def test_a_token_that_the_engine_drew_too_often_counts_less_by_as_much(model: SharedModel) -> None:
    """A token weighs pi_trainer / pi_engine: the same as an advantage of so many times its size."""
    ppo = moved_model(model)
    rollouts = sample(model, 12, seed=16)
    measured = ppo.measure(rollouts)
    rows, advantages = list(range(12)), advantages_of(rollouts, measured.mask.shape[1])
    engine_over_trainer = torch.tensor([2.0, 2 / 3]).repeat(LONGEST)[: measured.mask.shape[1]]
    apart = engine_over_trainer.log()
    weighed = ppo.gradient(measured, advantages * torch.exp(-apart), rows).clone()
    other = dataclasses.replace(measured, engine_logprobs=measured.logprobs + apart)
    found = ppo.gradient(other, advantages, rows)
    assert torch.allclose(found, weighed, atol=1e-5 * float(weighed.abs().max()), rtol=1e-4)


def test_measured_states_and_logprobs_are_those_of_each_answer_alone(model: SharedModel) -> None:
    ppo = moved_model(model)
    model.max_tokens = 40  # several buckets
    measured = ppo.measure(sample(model, 24, seed=13))
    start = 0
    for row, item in enumerate(measured.items):
        batch = make_batch([item])
        with torch.no_grad():
            states = model.predicting_states(batch, POLICY)
            logprobs = model.token_logprobs(states, batch.targets)
        end = start + len(item[1])
        expected = torch.nn.functional.layer_norm(states, states.shape[-1:])
        assert torch.allclose(measured.states[start:end], expected, atol=1e-4)
        assert torch.allclose(measured.logprobs[row, : end - start], logprobs, atol=1e-5)
        start = end
    assert start == len(measured.states)


def test_demonstrations_are_imitated(model: SharedModel) -> None:
    shown = [(PROMPTS[i % 4], [30, 31, 32, 2]) for i in range(8)]
    before = float(model.answer_logprobs(shown, POLICY).sum(1).mean())
    settings = PPOSettings(critic_warmup_steps=0, learning_rate=5e-3, kl_step_nats=math.inf)
    ppo = PPO(model, settings)
    reports = []
    for step in range(8):
        rollouts = sample(model, 32, seed=step)
        reports.append(ppo.step(ppo.measure(rollouts), torch.zeros(32), shown))
    after = float(model.answer_logprobs(shown, POLICY).sum(1).mean())
    assert after > before + 4
    assert reports[-1].demonstration_nats < reports[0].demonstration_nats


def test_a_demonstration_token_weighs_like_a_token_of_advantage_1(model: SharedModel) -> None:
    """At ratio 1 the surrogate's gradient with advantage 1 is that of the log-likelihood."""
    ppo = PPO(model, PPOSettings())
    rollouts = sample(model, 12, seed=14)
    measured = ppo.measure(rollouts)
    ones = measured.mask.float()
    imitated = ppo.gradient(measured, torch.zeros_like(ones), list(range(12)), measured.items).clone()
    praised = ppo.gradient(measured, ones, list(range(12)))
    assert bool(praised.any())
    assert torch.allclose(imitated, praised, atol=1e-5 * float(praised.abs().max()), rtol=1e-4)


def test_the_learning_rate_warms_up_and_decays(model: SharedModel) -> None:
    settings = PPOSettings(critic_warmup_steps=1, warmup_steps=2, decay_steps=4, learning_rate=1e-3)
    rates = [report.learning_rate for report in take_steps(model, PPO(model, settings), 8)]
    assert rates == pytest.approx([0, 5e-4, 1e-3, 1e-3, 7.75e-4, 5.5e-4, 3.25e-4, 1e-4])


def test_the_perplexity_is_of_the_rollouts_under_the_base(model: SharedModel) -> None:
    ppo = moved_model(model)
    rollouts = sample(model, 12, seed=15)
    report = ppo.step(ppo.measure(rollouts), likes(rollouts))
    items = [(r.prompt_token_ids, r.token_ids) for r in rollouts]
    nats = -model.answer_logprobs(items, None).double().sum() / sum(len(answer) for _, answer in items)
    assert report.perplexity == pytest.approx(math.exp(float(nats)), rel=1e-5)
