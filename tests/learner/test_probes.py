"""The texts and numbers by which an engine's copy of an adapter is recognised."""

from pathlib import Path

import pytest
import torch

from deploy.engines.parity import can_round
from learner.model.shared import POLICY, SharedModel
from learner.policy.probes import ANSWER_TOKENS, CONTEXTS, MADE_UP, TEXTS, probe_items
from learner.policy.probing import Prober, make_probes
from tests.learner.test_model import ITEMS, disturb


def test_texts_are_in_the_models_own_template_and_always_the_same(tiny_model: Path) -> None:
    items = probe_items(str(tiny_model), 1024)
    assert items == probe_items(str(tiny_model), 1024)
    assert len(items) == CONTEXTS * len(TEXTS)
    assert len({(tuple(prompt), tuple(answer)) for prompt, answer in items}) == len(items)
    assert all(prompt and 0 < len(answer) <= ANSWER_TOKENS for prompt, answer in items)


@pytest.mark.parametrize("longest", [None, 128, 20, 4])
def test_a_model_without_a_template_gets_tokens_that_it_knows_and_can_hold(
    random_model: str, longest: int | None
) -> None:
    items = probe_items(random_model, 64, longest)
    assert len(items) == MADE_UP
    for prompt, answer in items:
        assert all(0 <= token < 64 for token in (*prompt, *answer))
        assert prompt
        assert answer
        assert longest is None or len(prompt) + len(answer) < longest


def test_a_manifest_has_the_policy_its_rest_in_bfloat16_and_the_base(random_model: str) -> None:
    model = SharedModel(random_model, device="cpu")
    disturb(model, POLICY)
    probes = make_probes(model, ITEMS[:3])
    assert can_round(probes)
    for probe, item in zip(probes, ITEMS, strict=False):
        rows = {
            "logprobs": model.answer_logprobs([item], POLICY, exact=True),
            "bf16_logprobs": model.answer_logprobs([item], POLICY, exact=True, bf16_sums=True),
            "base_logprobs": model.answer_logprobs([item], None),
        }
        for name, row in rows.items():
            # Sums at a rounding's edge fall to either side in other company.
            assert getattr(probe, name) == pytest.approx(
                row[0].tolist(), abs=0.05 if "bf16" in name else 1e-5
            )


@pytest.mark.parametrize("layers", [1.0, 0.5])
def test_what_is_the_bases_is_computed_once_for_all_policies(random_model: str, layers: float) -> None:
    model = SharedModel(random_model, device="cpu", adapted_layers=layers)
    prober = Prober(model, ITEMS)
    prober.prepare()
    assert bool(model.frozen_layers) == (layers < 1)
    disturb(model, POLICY)
    before: list[float] = []
    for _ in range(2):
        with torch.no_grad():
            model.flat[POLICY].weights.mul_(1.5)
        policy = model.answer_logprobs(ITEMS, POLICY, exact=True)
        base = model.answer_logprobs(ITEMS, None, exact=True)
        for row, probe in enumerate(prober.probes()):
            count = len(probe.token_ids)
            assert (probe.prompt_token_ids, probe.token_ids) == ITEMS[row]
            assert probe.logprobs == pytest.approx(policy[row, :count].tolist(), abs=1e-5)
            assert probe.base_logprobs == pytest.approx(base[row, :count].tolist(), abs=1e-5)
        assert probe.logprobs != pytest.approx(before, abs=1e-3)  # another policy, other numbers
        before = probe.logprobs


@pytest.mark.parametrize("packed", [True, False])
def test_bfloat16_sums_lose_what_is_below_their_last_bit(random_model: str, packed: bool) -> None:
    model = SharedModel(random_model, device="cpu", packed=packed)
    disturb(model, POLICY)
    whole = model.answer_logprobs(ITEMS, POLICY, exact=True)
    left = model.answer_logprobs(ITEMS, POLICY, exact=True, bf16_sums=True)
    base = model.answer_logprobs(ITEMS, None, exact=True)
    assert 0 < float((left - whole).norm()) < 0.1 * float((whole - base).norm())
    state = model.adapter_state(POLICY)
    faint = {key: value * (1e-6 if ".lora_B." in key else 1) for key, value in state.items()}
    model.load_adapter_state(POLICY, faint)
    none_left = model.answer_logprobs(ITEMS, POLICY, exact=True, bf16_sums=True)
    assert torch.allclose(none_left, base, atol=1e-5)
    assert not model._layers[0]._forward_hooks
