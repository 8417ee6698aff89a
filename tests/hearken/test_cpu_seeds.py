"""Seeds on vLLM's CPU build: a prompt computed in parts is answered with the noise of one computed whole."""

import random
from contextlib import closing
from typing import Any

import pytest
import torch

from deploy.engines.client import EngineClient
from hearken.machine.engine import use_cuda
from tests.conftest import Engine

PROMPTS, PROMPT_TOKENS = (
    48,
    700,
)  # at once they are many steps' tokens, so the edges of steps are in many prompts


@pytest.fixture
def cpu_seeds() -> Any:
    pytest.importorskip("vllm", reason="vLLM is not installed")
    return pytest.importorskip("hearken.cpu_seeds")


def test_a_generator_set_aside_is_not_drawn_from_and_comes_back(cpu_seeds: Any) -> None:
    one, two = torch.Generator(), torch.Generator()
    generators = {0: one, 2: two}
    with cpu_seeds.set_aside(generators, [1, 2]):
        assert generators == {0: one}
    assert generators == {0: one, 2: two}


@pytest.mark.engine
@pytest.mark.skipif(use_cuda(), reason="a GPU's generators have offsets")
def test_prompts_in_parts_are_answered_as_they_are_alone(engine: Engine) -> None:
    draw = random.Random(1)
    prompts = [[draw.randrange(8, 1000) for _ in range(PROMPT_TOKENS)] for _ in range(PROMPTS)]
    seeds = [draw.randrange(2**31) for _ in prompts]
    with closing(EngineClient(engine.url)) as client:
        crowd = client.sample("base", prompts, max_tokens=2, seeds=seeds)
        alone = [
            client.sample("base", [prompt], max_tokens=2, seeds=[seed])[0]
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]
    differ = sum(one.token_ids != other.token_ids for one, other in zip(crowd, alone, strict=True))
    assert differ <= 1  # by the last bits of two ways to add up
    assert len({answer.token_ids[0] for answer in alone}) > PROMPTS // 4, "the answers are too alike to tell"
