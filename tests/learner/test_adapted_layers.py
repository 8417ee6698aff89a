"""Adapters on the upper layers alone: the same numbers as on all, and the lower layers passed once."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM, Qwen2Config, Qwen2ForCausalLM

from learner.batching import Item, in_buckets, make_batch
from learner.losses import kl_k1
from learner.model.adapters import LayersTooFew, layer_of
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.policy.ppo import PPO
from learner.reward.features import STATES, WORDS, AnswerFeatures, Kind
from learner.settings import LearnerSettings, PPOSettings
from tests.learner.conftest import need_fast_bf16
from tests.learner.test_batching import some_items
from tests.learner.test_blocks import SIZES, saved
from tests.learner.test_model import disturb
from tests.learner.test_ppo import likes, sample

ITEMS: list[Item] = some_items(9, seed=4)
WAYS = ["packed", "transformers", "native"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model of five layers."""
    config = Qwen2Config(**SIZES | {"num_hidden_layers": 5}, num_key_value_heads=2)
    return saved(tmp_path_factory.mktemp("layers"), lambda: Qwen2ForCausalLM(config))


def made(folder: str, how: str, share: float) -> SharedModel:
    if how == "native":
        need_fast_bf16()
    return SharedModel(
        folder,
        rank=4,
        device="cpu",
        packed=how != "transformers",
        bf16_products=how == "native",
        adapted_layers=share,
    )


def loss(model: SharedModel, items: list[Item], lower: list[Tensor] | None = None) -> Tensor:
    found = []
    for _, batch in in_buckets(items, 200, lower=lower):
        logprobs = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets)
        found.append((logprobs * torch.linspace(0.5, 1.5, len(logprobs))).sum())
    return torch.stack(found).sum()


def lower_of(model: SharedModel, items: list[Item]) -> list[Tensor]:
    found: dict[int, Tensor] = {}
    for rows, batch in in_buckets(items, 150):
        read, _, _ = model.read_base(batch, ())
        assert read.lower is not None
        sizes = [sum(map(len, items[row])) for row in rows]
        found.update(zip(rows, torch.split(read.lower, sizes), strict=True))
    return [found[row] for row in range(len(items))]


@pytest.mark.parametrize("how", WAYS)
def test_an_adapter_on_some_layers_says_the_same_on_all(folder: str, how: str, tmp_path: Path) -> None:
    few, all_ = made(folder, how, 0.4), made(folder, how, 1.0)
    assert few.frozen_layers == 3
    assert {layer_of(name) for name in few.adapter_state(POLICY)} == {3, 4}
    disturb(few, POLICY)
    few.save_policy(tmp_path)
    all_.load_adapter(tmp_path)
    said = few.answer_logprobs(ITEMS, POLICY)
    apart = 2e-2 if how == "native" else 1e-4
    torch.testing.assert_close(said, all_.answer_logprobs(ITEMS, POLICY), atol=apart, rtol=0)
    assert float((said - few.answer_logprobs(ITEMS, None)).abs().max()) > 0.1
    exact = few.answer_logprobs(ITEMS, POLICY, exact=True)
    torch.testing.assert_close(exact, all_.answer_logprobs(ITEMS, POLICY, exact=True), atol=1e-4, rtol=0)
    again = made(folder, how, 0.4)
    again.load_adapter(tmp_path)
    assert again.policy_digest == few.policy_digest
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path).eval()
    prompt, answer = ITEMS[0]
    with torch.no_grad():
        table = plain(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)[len(prompt) - 1 : -1]
    wanted = table[range(len(answer)), list(answer)]
    torch.testing.assert_close(exact[0, : len(answer)], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("how", ["packed", "native"])
def test_a_pass_that_begins_above_has_the_same_gradient(folder: str, how: str, tmp_path: Path) -> None:
    few, all_ = made(folder, how, 0.4), made(folder, how, 1.0)
    disturb(few, POLICY)
    few.save_policy(tmp_path)
    all_.load_adapter(tmp_path)
    gradients = []
    for model, lower in ((few, None), (few, lower_of(few, ITEMS)), (all_, None)):
        model.flat[POLICY].zero_grad()
        loss(model, ITEMS, lower).backward()
        trained = model._adapters[POLICY].items()
        gradients.append({name: p.grad.clone() for name, p in trained if p.grad is not None})
    from_tokens, from_above, whole = gradients
    assert len(from_tokens) == len(few.adapter_state(POLICY))
    for name, found in from_tokens.items():
        size = float(found.norm())
        assert size > 0, name
        assert float((from_above[name] - found).norm()) <= 1e-2 * size, name
        assert float((whole[name] - found).norm()) <= 2e-2 * size, name


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("share", [0.4, 1.0])
@pytest.mark.parametrize("layers", [(), (1, 3, 4), (2,)])
def test_one_pass_of_the_base_gives_what_two_give(
    folder: str, how: str, share: float, layers: tuple[int, ...]
) -> None:
    model = made(folder, how, share)
    batch = make_batch(ITEMS)
    read, states, taps = model.read_base(batch, layers)
    torch.testing.assert_close(states, model.predicting_states(batch, None), atol=1e-6, rtol=1e-6)
    assert taps.shape == (len(layers), len(batch.targets), model.hidden_size)
    if layers:
        wanted = model.layer_states(batch, layers, batch.answers)
        torch.testing.assert_close(taps, wanted.float(), atol=1e-6, rtol=1e-6)
    assert (read.lower is None) == (how == "transformers" or share == 1.0)


@pytest.mark.parametrize("share", [0.4, 1.0])
def test_a_measurement_shows_the_features_what_the_base_made_of_answers(folder: str, share: float) -> None:
    model = made(folder, "packed", share)
    disturb(model, POLICY)
    rollouts = sample(model, 6, seed=1)
    rollouts[2] = replace(rollouts[2], answer_start=3)  # after a thought
    alone, shown = AnswerFeatures(model), AnswerFeatures(model)
    measured = PPO(model, PPOSettings()).measure(rollouts, shown)
    for kind in (WORDS, STATES):
        items = [rollout.judged for rollout in rollouts]
        found, wanted = shown.of_items(items, kind), alone.of_items(items, kind)
        torch.testing.assert_close(found, wanted, atol=2e-3, rtol=2e-3)
        ours, theirs = (dict(each.of_prefixes(items, kind)) for each in (shown, alone))
        for row, wanted in theirs.items():
            torch.testing.assert_close(ours[row], wanted, atol=2e-3, rtol=2e-3)
    items = measured.judged
    other = torch.ones(len(shown.layers), len(items[0][1]), model.hidden_size)
    shown.show(items[0], other)  # it is what was shown that is taken, without another pass
    means = shown.columns(STATES)["means"]
    assert torch.equal(shown.of_items(items, STATES)[0, means], torch.ones(means.stop - means.start))
    shown.forget_shown()
    assert torch.equal(shown.of_items(items, STATES), alone.of_items(items, STATES))


def test_features_of_no_answers_are_none(folder: str) -> None:
    features = AnswerFeatures(made(folder, "packed", 1.0))
    assert features.of_items([], Kind("all", {**WORDS.gains, **STATES.gains})).shape[0] == 0


@pytest.mark.parametrize("how", ["packed", "native"])
def test_a_step_is_the_same_whether_lower_states_were_kept(folder: str, how: str) -> None:
    steps = []
    for keeps in (True, False):
        model = made(folder, how, 0.4)
        ppo = PPO(model, PPOSettings(critic_warmup_steps=0))
        rollouts = sample(model, 16, seed=2)
        measured = ppo.measure(rollouts)
        assert measured.lower is not None
        assert [len(part) for part in measured.lower] == [sum(map(len, item)) for item in measured.items]
        half = measured.part(8, 16)
        assert half.lower is not None
        assert torch.equal(half.lower[0], measured.lower[8])
        ppo.step(measured if keeps else replace(measured, lower=None), likes(rollouts))
        assert not model.is_base(POLICY)
        steps.append(model.flat[POLICY].weights.detach().clone())
    one, two = steps
    start = made(folder, how, 0.4).flat[POLICY].weights.detach()
    assert float((one - two).norm()) <= 0.05 * float((one - start).norm())


def test_a_policy_that_has_not_moved_has_no_kl_and_live_is_measured_from_above(folder: str) -> None:
    model = made(folder, "packed", 0.4)
    ppo = PPO(model, PPOSettings())
    rollouts = sample(model, 8, seed=3)
    still = ppo.measure(rollouts)
    assert still.kl_nats_base == still.kl_nats_live == 0
    disturb(model, LIVE)
    disturb(model, POLICY, seed=1)
    moved = ppo.measure(rollouts)
    tables = {None: moved.base_logprobs, LIVE: moved.live_logprobs, POLICY: moved.logprobs}
    for adapter, table in tables.items():
        torch.testing.assert_close(table, model.answer_logprobs(moved.items, adapter), atol=1e-4, rtol=0)
    assert float(kl_k1(moved.logprobs, moved.base_logprobs).abs().max()) > 0.1


def test_an_adapter_that_changes_lower_layers_is_refused_in_words(folder: str, tmp_path: Path) -> None:
    few, all_ = made(folder, "packed", 0.4), made(folder, "packed", 1.0)
    all_.save_policy(tmp_path)
    few.load_adapter(tmp_path)  # it has weights for all layers, and changes none
    assert few.is_base(POLICY)
    disturb(all_, POLICY)
    all_.save_policy(tmp_path)
    before = few.policy_digest
    with pytest.raises(LayersTooFew, match=r"changes layer 0 .* begin at 3; a larger learner.adapted_layers"):
        few.load_adapter(tmp_path)
    assert few.policy_digest == before


def test_going_on_with_more_layers_keeps_the_policy_and_begins_adam_anew(folder: str) -> None:
    few, all_ = made(folder, "packed", 0.4), made(folder, "packed", 1.0)
    before, after = (PPO(model, PPOSettings(critic_warmup_steps=0)) for model in (few, all_))
    rollouts = sample(few, 8, seed=4)
    before.step(before.measure(rollouts), likes(rollouts))
    after.restore(before.snapshot())
    said = few.answer_logprobs(ITEMS, POLICY)
    torch.testing.assert_close(all_.answer_logprobs(ITEMS, POLICY), said, atol=1e-4, rtol=0)
    assert after.steps == 1
    after.step(after.measure(rollouts), likes(rollouts))
    state = all_.adapter_state(POLICY)
    assert {layer_of(n) for n, v in state.items() if ".lora_B." in n and bool(v.any())} == {0, 1, 2, 3, 4}


@pytest.mark.parametrize("share", [0.0, -0.5, 1.01])
def test_a_share_of_layers_is_above_none_and_at_most_all(tmp_path: Path, share: float) -> None:
    with pytest.raises(ValueError, match=r"adapted_layers is .*; it must be above 0, and 1 at most"):
        LearnerSettings(data=tmp_path, model="model", engine="http://e", adapted_layers=share)


def test_the_smallest_share_is_one_layer(folder: str) -> None:
    assert made(folder, "packed", 0.01).frozen_layers == 4
