"""LoRA on vLLM's CPU build: every row gets its own adapter's weights, and a row of the base gets none."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.engines.client import EngineClient
from hearken.machine.engine import use_cuda
from learner.model.shared import POLICY, SharedModel
from tests.conftest import Engine

ADAPTERS = ("first", "second", "third")  # as many as the engine has slots
PROMPT = [1, 40, 50, 60, 70, 80]
ANSWER = [90, 100, 110, 120, 130, 140, 150, 160]


SLOTS, RANK, WIDTH = 3, 4, 6
SIZES = (5, 2, 2)  # the outputs of a fused layer's parts, unequal as q's and k's are
BATCHES = {
    "base alone": [-1] * 7,
    "one adapter": [1] * 7,
    "one adapter and base": [2, -1, 2, 2, -1],
    "neighbours": [0, 0, 0, 1, 1, -1, -1],
    "all mixed": [0, 2, -1, 1, 0, 1, 2, -1, 0],
    "one row": [2],
}


@dataclass(frozen=True)
class Layer:
    """A fused layer's weights as vLLM makes them, and random activations."""

    a: tuple[torch.Tensor, ...]  # (slots, 1, r, in) for each part
    b: tuple[torch.Tensor, ...]  # (slots, 1, out, r) for each part
    draw: torch.Generator

    def batch(self, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(y, x) for so many rows."""
        y = torch.randn(rows, sum(SIZES), generator=self.draw).to(self.a[0].dtype)
        return y, torch.randn(rows, WIDTH, generator=self.draw).to(self.a[0].dtype)

    def truth(self, y: torch.Tensor, x: torch.Tensor, slots: list[int], scale: float) -> torch.Tensor:
        """What should come out, in float64, one row and one part at a time."""
        out = y.double()
        for row, slot in enumerate(slots):
            start = 0
            for a, b in zip(self.a, self.b, strict=True):
                if slot >= 0:
                    share = b[slot, 0].double() @ (a[slot, 0].double() @ x[row].double())
                    out[row, start : start + b.shape[2]] += scale * share
                start += b.shape[2]
        return out


def layer(dtype: torch.dtype = torch.float32) -> Layer:
    draw = torch.Generator().manual_seed(0)
    a = tuple(torch.randn(SLOTS, 1, RANK, WIDTH, generator=draw).to(dtype) for _ in SIZES)
    b = tuple(torch.randn(SLOTS, 1, size, RANK, generator=draw).to(dtype) for size in SIZES)
    return Layer(a, b, draw)


@pytest.fixture
def cpu_lora() -> Any:
    return pytest.importorskip("hearken.cpu_lora", reason="vLLM is not installed")


@pytest.mark.parametrize("slots", BATCHES.values(), ids=BATCHES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_packed_matmuls_equal_one_row_at_a_time(cpu_lora: Any, slots: list[int], dtype: torch.dtype) -> None:
    made = layer(dtype)
    y, x = made.batch(len(slots))
    truth = made.truth(y, x, slots, 0.5)
    cpu_lora.PackedWeights(made.a, made.b).add(y, x, cpu_lora.group_rows(slots), 0.5)
    tolerance = {"atol": 0.1, "rtol": 0.02} if dtype is torch.bfloat16 else {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(y.double(), truth, **tolerance)


def test_activations_of_another_dtype_than_the_adapter(cpu_lora: Any) -> None:
    made = layer()
    y, x = (each.bfloat16() for each in made.batch(4))
    truth = made.truth(y, x, [0, 0, 1, -1], 1.0)
    cpu_lora.PackedWeights(made.a, made.b).add(y, x, cpu_lora.group_rows([0, 0, 1, -1]), 1.0)
    torch.testing.assert_close(y.double(), truth, atol=0.1, rtol=0.02)


def test_what_vllm_writes_into_a_slot_later_is_used(cpu_lora: Any) -> None:
    made = layer()
    packed = cpu_lora.PackedWeights(made.a, made.b)
    for each in (*made.a, *made.b):
        each[1] = torch.randn(each[1].shape, generator=made.draw)  # another adapter takes the slot
        each[2] = 0  # and one leaves
    y, x = made.batch(6)
    slots = [0, 1, 2, 1, 0, 2]
    truth = made.truth(y, x, slots, 1.0)
    packed.add(y, x, cpu_lora.group_rows(slots), 1.0)
    torch.testing.assert_close(y.double(), truth, atol=1e-5, rtol=1e-5)


def test_a_broken_adapter_spoils_only_its_own_rows(cpu_lora: Any) -> None:
    made = layer()
    for each in (*made.a, *made.b):
        each[1] = float("nan")
    y, x = made.batch(5)
    truth = made.truth(y, x, [0, -1, -1, -1, 0], 1.0)
    cpu_lora.PackedWeights(made.a, made.b).add(y, x, cpu_lora.group_rows([0, 1, -1, 1, 0]), 1.0)
    for row in (0, 2, 4):
        torch.testing.assert_close(y[row].double(), truth[row], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("slots", [s for s in BATCHES.values() if -1 not in s], ids=str)
@pytest.mark.skipif(use_cuda(), reason="a GPU build has kernels of its own")
def test_the_plugin_and_stock_agree_where_no_row_is_of_the_base(cpu_lora: Any, slots: list[int]) -> None:
    """Stock is right then (of a base row it makes the last adapter's)."""
    from vllm.lora.layers import LoRAMapping

    ids = [11, 12, 13]  # of the adapters in the slots
    mapping = LoRAMapping(tuple(ids[s] for s in slots), tuple(ids[s] for s in slots), is_prefill=True)
    made = layer()
    y, x = made.batch(len(slots))
    results = []
    for kind in (cpu_lora.Stock, cpu_lora.GroupedPunicaWrapper):
        wrapper = kind(64, max_batches=8, device="cpu")
        wrapper.update_metadata(mapping, [*ids, None], SLOTS + 1, 100)
        results.append(y.clone())
        wrapper.add_lora_linear(results[-1], x, made.a, made.b, 1.0, SIZES)
    torch.testing.assert_close(results[1], results[0], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("has_weights", [True, False])
def test_a_prompts_rows_in_the_output_layer_are_not_those_that_are_sampled(
    cpu_lora: Any, has_weights: bool
) -> None:
    """vLLM asks for the logprobs of a prompt's rows between two tokens of a mixed batch."""
    from vllm.lora.layers import LoRAMapping

    ids, slots = [11, 12, 13], [0, 2, -1, 1, 0, 1, 2, -1, 0]
    indices = tuple(ids[s] if s >= 0 else 0 for s in slots)
    wrapper = cpu_lora.GroupedPunicaWrapper(64, max_batches=16, device="cpu")
    wrapper.update_metadata(LoRAMapping(indices, indices, is_prefill=True), [*ids, None], SLOTS + 1, 100)
    made = layer()
    a, b = made.a[0], made.b[0] * has_weights
    for rows in (3, len(slots), 30):
        y = torch.randn(rows, SIZES[0], generator=made.draw)
        x = torch.randn(rows, WIDTH, generator=made.draw)
        got = y.clone()
        wrapper.add_lora_logits(got, x, a, b, 1.0)
        for row in range(rows):
            mine = slots[row] if rows == len(slots) and has_weights else -1
            share = b[mine, 0] @ (a[mine, 0] @ x[row]) if mine >= 0 else torch.zeros(SIZES[0])
            torch.testing.assert_close(got[row], y[row] + share, atol=1e-5, rtol=1e-5)


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
