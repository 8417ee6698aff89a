"""The engine's logprobs against the trainer's: what PPO's ratios and an adapter's probes rest on."""

from pathlib import Path

import pytest
import torch

from deploy.engine import EngineClient, Sample
from hearken.engine import use_cuda
from learner.model import POLICY, SharedModel
from tests.conftest import Engine

pytestmark = pytest.mark.engine
TOLERANCE_NATS = 1e-5  # float32 on both sides; other kernels add up in another order


def apart_nats(model: SharedModel, samples: list[Sample], adapter: str | None) -> float:
    items = [(sample.prompt_token_ids, sample.token_ids) for sample in samples]
    ours = model.answer_logprobs(items, adapter)
    rows = zip(ours, samples, strict=True)
    return max(
        float((row[: len(s.logprobs)].double() - torch.tensor(s.logprobs).double()).abs().max())
        for row, s in rows
    )


@pytest.mark.skipif(use_cuda(), reason="the bound is for float32 on a CPU")
def test_engine_and_trainer_agree_in_float32_for_the_base_and_for_an_adapter(
    engine: Engine, tmp_path: Path
) -> None:
    client = EngineClient(engine.url)
    model = SharedModel(str(engine.model), device="cpu")
    prompts = [[1, *range(20 + i, 30 + i), 2, 1] for i in range(24)]
    samples = client.sample("base", prompts, max_tokens=40)
    assert apart_nats(model, samples, None) < TOLERANCE_NATS
    assert apart_nats(model, samples, POLICY) < TOLERANCE_NATS  # fresh: the base

    generator = torch.Generator().manual_seed(0)
    noise = {
        key: 0.05 * torch.randn(value.shape, generator=generator)
        for key, value in model.adapter_state(POLICY).items()
    }
    model.load_adapter_state(POLICY, noise)
    model.save_policy(tmp_path / "adapter")
    client.load("parity-test", str(tmp_path / "adapter"))
    try:
        samples = client.sample("parity-test", prompts, max_tokens=40)
        assert apart_nats(model, samples, POLICY) < TOLERANCE_NATS
        assert apart_nats(model, samples, None) > 0.1  # the adapter does something
    finally:
        client.unload("parity-test")
        client.close()
