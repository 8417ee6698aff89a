"""LoRA on vLLM's CPU build: every row gets its own adapter's weights, and a row of the base gets none."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from deploy.engine import EngineClient
from hearken.engine import use_cuda
from learner.model import POLICY, SharedModel
from tests.conftest import Engine

ADAPTERS = ("first", "second", "third")  # as many as the engine has slots
PROMPT = [1, 40, 50, 60, 70, 80]
ANSWER = [90, 100, 110, 120, 130, 140, 150, 160]


def test_grouped_matmuls_equal_one_row_at_a_time() -> None:
    cpu_lora = pytest.importorskip("hearken.cpu_lora", reason="vLLM is not installed")
    draw = torch.Generator().manual_seed(0)
    a = torch.randn(3, 1, 4, 6, generator=draw)
    b = torch.randn(3, 1, 5, 4, generator=draw)
    x = torch.randn(40, 6, generator=draw)
    for slots in ([0], [-1], [-1, 2], [0, 1, 2], [-1, 0, 1, 2]):
        chosen = torch.randint(len(slots), (40,), generator=draw)
        indices = torch.tensor(slots)[chosen]
        start = torch.randn(40, 9, generator=draw)
        ours = start.clone()
        cpu_lora.add_delta(ours, x, a, b, 0.5, cpu_lora.group_rows(indices), 3, 5)
        truth = start.clone()
        for row, slot in enumerate(indices.tolist()):
            if slot >= 0:
                truth[row, 3:8] += 0.5 * b[slot, 0] @ (a[slot, 0] @ x[row])
        torch.testing.assert_close(ours, truth)


@pytest.fixture
def client(engine: Engine, tmp_path: Path) -> Iterator[EngineClient]:
    """The engine with all of its slots filled with adapters that change a lot."""
    client = EngineClient(engine.url)
    model = SharedModel(str(engine.model))
    draw = torch.Generator().manual_seed(1)
    for name in ADAPTERS:
        state = {
            key: value if ".lora_A." in key else 0.1 * torch.randn(value.shape, generator=draw)
            for key, value in model.adapter_state(POLICY).items()
        }
        model.load_adapter_state(POLICY, state)
        model.save_policy(tmp_path / name)
        client.load(name, str(tmp_path / name))
    yield client
    for name in ADAPTERS:
        client.unload(name)
    client.close()


@pytest.mark.engine
@pytest.mark.skipif(use_cuda(), reason="a GPU build has kernels of its own")
def test_base_and_adapters_in_one_batch_do_not_touch_each_other(client: EngineClient) -> None:
    models = ("base", *ADAPTERS)
    alone = {model: client.logprobs(model, PROMPT, ANSWER) for model in models}
    for model in ADAPTERS:
        moved = max(abs(x - y) for x, y in zip(alone[model], alone["base"], strict=True))
        assert moved > 0.1, "the adapter changes too little for this test to mean anything"
    with ThreadPoolExecutor(32) as users:
        asked = [models[i % len(models)] for i in range(64)]
        together = list(users.map(lambda model: client.logprobs(model, PROMPT, ANSWER), asked))
    for model, logprobs in zip(asked, together, strict=True):
        assert logprobs == pytest.approx(alone[model], abs=1e-3), model


@pytest.mark.engine
@pytest.mark.skipif(use_cuda(), reason="a GPU build has kernels of its own")
def test_base_answers_stay_the_base_s_while_adapters_answer(client: EngineClient) -> None:
    """Decoding, too: the tokens that base samples have base's logprobs, whoever shares the batch."""

    def sample(model: str) -> float:
        answers = client.sample(model, [PROMPT] * 4, max_tokens=24)
        return max(
            abs(x - y)
            for answer in answers
            for x, y in zip(answer.logprobs, client.logprobs(model, PROMPT, answer.token_ids), strict=True)
        )

    with ThreadPoolExecutor(16) as users:
        differences = list(users.map(sample, [*ADAPTERS, "base"] * 4))
    assert max(differences) < 1e-3
