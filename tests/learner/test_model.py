"""The shared model against plain transformers and plain peft."""

import hashlib
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from torch import Tensor
from transformers import AutoModelForCausalLM

from learner.batching import Item, make_batch
from learner.model import head
from learner.model.adapters import RankTooLow
from learner.model.shared import ADAPTERS, CONFIG_FILE, LIVE, POLICY, WEIGHTS_FILE, SharedModel
from tests.learner.test_batching import some_items

ITEMS: list[Item] = some_items(12)


@pytest.fixture
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)


def disturb(model: SharedModel, adapter: str, seed: int = 0) -> None:
    """Give an adapter weights that change the model."""
    generator = torch.Generator().manual_seed(seed)
    state = model.adapter_state(adapter)
    noise = {key: 0.1 * torch.randn(value.shape, generator=generator) for key, value in state.items()}
    model.load_adapter_state(adapter, noise)


def plain_logprobs(plain: torch.nn.Module, item: Item) -> Tensor:
    """Logprobs (T,) of one answer, by the model's own logits, with nothing padded."""
    prompt, answer = item
    with torch.no_grad():
        logits = plain(torch.tensor([[*prompt, *answer]])).logits[0].double()
    table = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return table[range(len(answer)), list(answer)]


def same_logprobs(ours: Tensor, plain: torch.nn.Module) -> None:
    for row, item in zip(ours, ITEMS, strict=True):
        length = len(item[1])
        assert torch.allclose(row[:length].double(), plain_logprobs(plain, item), atol=1e-5)
        assert not row[length:].any()


@pytest.mark.parametrize("max_tokens", [8192, 40])
def test_logprobs_are_those_of_the_plain_model_one_by_one(random_model: str, max_tokens: int) -> None:
    model = SharedModel(random_model, device="cpu", max_tokens=max_tokens)
    same_logprobs(model.answer_logprobs(ITEMS, None), AutoModelForCausalLM.from_pretrained(random_model))


def test_a_fresh_adapter_is_exactly_the_base(model: SharedModel) -> None:
    base = model.answer_logprobs(ITEMS, None)
    for adapter in ADAPTERS:
        assert model.is_base(adapter)
        assert torch.equal(model.answer_logprobs(ITEMS, adapter), base)


def test_a_saved_policy_reads_the_same_in_plain_peft(
    model: SharedModel, random_model: str, tmp_path: Path
) -> None:
    disturb(model, POLICY)
    assert not model.is_base(POLICY)
    model.save_policy(tmp_path / "adapter")
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(random_model), tmp_path / "adapter"
    )
    same_logprobs(model.answer_logprobs(ITEMS, POLICY), plain.eval())


def test_saving_the_same_weights_gives_the_same_bytes(model: SharedModel, tmp_path: Path) -> None:
    disturb(model, POLICY)
    for name in ("one", "two"):
        model.save_policy(tmp_path / name)
    for file in (WEIGHTS_FILE, CONFIG_FILE):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_loading_gives_the_saved_policy_back(model: SharedModel, random_model: str, tmp_path: Path) -> None:
    disturb(model, POLICY)
    model.save_policy(tmp_path)
    other = SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=2)
    other.load_adapter(tmp_path, LIVE)
    assert torch.equal(other.answer_logprobs(ITEMS, LIVE), model.answer_logprobs(ITEMS, POLICY))
    assert other.is_base(POLICY)


@pytest.mark.parametrize(("rank", "alpha"), [(8, 8), (8, 16), (4, 4), (5, 3)])
def test_an_adapter_of_a_lower_rank_says_the_same_and_all_of_it_can_be_trained(
    model: SharedModel, random_model: str, tmp_path: Path, rank: int, alpha: int
) -> None:
    disturb(model, POLICY)
    model.save_policy(tmp_path)
    other = SharedModel(random_model, rank=rank, alpha=alpha, device="cpu", seed=2)
    other.load_adapter(tmp_path)
    found, said = other.answer_logprobs(ITEMS, POLICY), model.answer_logprobs(ITEMS, POLICY)
    assert float((said - model.answer_logprobs(ITEMS, None)).abs().max()) > 0.1
    torch.testing.assert_close(found, said, atol=1e-5, rtol=0)
    batch = make_batch(ITEMS)
    other.token_logprobs(other.predicting_states(batch, POLICY), batch.targets).mean().backward()
    gradients = {name: p.grad for name, p in other._adapters[POLICY].items()}
    assert all(g is not None and bool(g[:, -1].any()) for name, g in gradients.items() if ".lora_B." in name)
    again = SharedModel(random_model, rank=rank, alpha=alpha, device="cpu", seed=3)
    again.load_adapter(tmp_path)
    assert again.policy_digest == other.policy_digest


def test_an_adapter_that_does_not_fit_is_refused(
    model: SharedModel, random_model: str, tmp_path: Path
) -> None:
    model.save_policy(tmp_path)
    with pytest.raises(RankTooLow, match="needs a rank of 4 at least, not 2"):
        SharedModel(random_model, rank=2, device="cpu").load_adapter(tmp_path)
    state = model.adapter_state(POLICY)
    name, weight = next(iter(state.items()))
    with pytest.raises(ValueError, match="has shape"):
        model.load_adapter_state(POLICY, {**state, name: weight[:-1]})
    with pytest.raises(ValueError, match="on one side only"):
        model.load_adapter_state(POLICY, {name: weight})
    with pytest.raises(ValueError, match="there is no adapter 'polcy'"):
        model.answer_logprobs(ITEMS, "polcy")


def test_copying_an_adapter_leaves_two_of_their_own(model: SharedModel) -> None:
    disturb(model, POLICY)
    model.copy_adapter(POLICY, LIVE)
    before = model.answer_logprobs(ITEMS, LIVE)
    assert torch.equal(before, model.answer_logprobs(ITEMS, POLICY))
    disturb(model, POLICY, seed=5)
    assert torch.equal(before, model.answer_logprobs(ITEMS, LIVE))


def test_training_one_adapter_moves_nothing_else(model: SharedModel) -> None:
    for seed, adapter in enumerate(ADAPTERS):
        disturb(model, adapter, seed)
    before = {name: model.answer_logprobs(ITEMS, name) for name in (None, *ADAPTERS)}
    optimizer = torch.optim.SGD(model.parameters(POLICY), lr=0.1)
    batch = make_batch(ITEMS)
    states = model.predicting_states(batch, POLICY)
    logprobs = model.token_logprobs(states, batch.targets)
    model.answer_logprobs(
        ITEMS, None
    )  # a pass between forward and backward, which peft alone would not survive
    model.answer_logprobs(ITEMS, LIVE)
    logprobs.mean().backward()
    assert all(p.grad is not None and bool(p.grad.any()) for p in model.parameters(POLICY))
    optimizer.step()
    for name in (None, *ADAPTERS):
        after = model.answer_logprobs(ITEMS, name)
        assert torch.equal(after, before[name]) == (name != POLICY)


def test_slices_of_logits_give_the_same_values_and_gradients(
    model: SharedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    disturb(model, POLICY)
    batch = make_batch(ITEMS)

    def run() -> tuple[Tensor, Tensor, list[Tensor]]:
        states = model.predicting_states(batch, POLICY)
        chosen = model.token_logprobs(states, batch.targets)
        with torch.no_grad():
            base = model.predicting_states(batch, None)
        found = model.compare(states, [base], batch.targets)
        return (
            torch.stack([chosen, found.logprobs, model.token_logprobs(base, batch.targets)]),
            torch.stack([found.entropies, *found.kl_nats]),
            list(torch.autograd.grad(chosen.sum(), model.parameters(POLICY))),
        )

    whole = run()
    assert torch.equal(whole[0][0], whole[0][1])  # compared as they are trained
    monkeypatch.setattr(head, "LOGIT_BYTES", 4 * model.vocab_size * 5)  # five tokens at a time
    sliced = run()
    assert torch.allclose(whole[0], sliced[0], atol=1e-6)
    assert torch.allclose(whole[1], sliced[1], atol=1e-5)
    for a, b in zip(whole[2], sliced[2], strict=True):
        assert torch.allclose(a, b, atol=1e-4)


def test_the_entropy_is_that_of_the_next_token(model: SharedModel) -> None:
    batch = make_batch(ITEMS[:1])
    with torch.no_grad():
        states = model.predicting_states(batch, None)
        entropies = model.compare(states, [], batch.targets).entropies
        logits = AutoModelForCausalLM.from_pretrained(model.name)(batch.tokens).logits[0].double()
    start = len(ITEMS[0][0]) - 1
    expected = torch.distributions.Categorical(logits=logits[start:-1]).entropy()
    assert torch.allclose(entropies.double(), expected, atol=1e-5)


def test_comparisons_are_over_the_whole_vocabulary(model: SharedModel) -> None:
    disturb(model, POLICY)
    batch = make_batch(ITEMS)
    every = torch.arange(model.vocab_size)
    with torch.no_grad():
        states = [model.predicting_states(batch, name) for name in (POLICY, None, LIVE)]
        found = model.compare(states[0], states, batch.targets)
        rows = range(len(batch.targets))
        tables = [
            torch.stack([model.token_logprobs(s[i].expand(len(every), -1), every) for i in rows]).double()
            for s in states
        ]
    for kl, logprobs, table in zip(found.kl_nats, found.other_logprobs, tables, strict=True):
        expected = (tables[0].exp() * (tables[0] - table)).sum(1)
        assert torch.allclose(kl.double(), expected, atol=1e-5)
        assert torch.allclose(logprobs.double(), table[rows, batch.targets], atol=1e-5)
    assert not found.kl_nats[0].any()  # to itself
    assert bool((found.kl_nats[1] > 0.001).all())


def test_the_digest_is_of_the_weight_files(model: SharedModel) -> None:
    data = (Path(model.name) / "model.safetensors").read_bytes()
    assert model.base_digest == hashlib.sha256(data).hexdigest()


def test_the_same_seed_gives_the_same_adapters_and_the_global_generator_is_left_alone(
    random_model: str,
) -> None:
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    one, two, three = (SharedModel(random_model, device="cpu", seed=seed) for seed in (7, 7, 8))
    assert torch.equal(before, torch.random.get_rng_state())
    a, b, c = (m.adapter_state(POLICY) for m in (one, two, three))
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_a_model_that_caps_its_logits_is_refused(random_model: str, tmp_path: Path) -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    config = Gemma2Config(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, head_dim=16, final_logit_softcapping=1.0, initializer_range=0.5,
    )  # fmt: skip
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="changes its logits"):
        SharedModel(str(tmp_path), device="cpu")


def test_end_tokens_come_from_the_generation_settings(
    random_model: str, model: SharedModel, tmp_path: Path
) -> None:
    assert model.eos_token_ids == (2,)
    for file in Path(random_model).iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    settings = tmp_path / "generation_config.json"
    settings.write_text(json.dumps({"eos_token_id": [2, 5]}))
    assert SharedModel(str(tmp_path), device="cpu").eos_token_ids == (2, 5)
