"""A vLLM plugin for its CPU build: requests with a seed whose prompts are computed in parts.

A step of the engine has a budget of tokens. A prompt that does not fit into what is left of it is computed
over several steps, and all but the last sample a token that nobody asked for, which is thrown away. For that
vLLM 0.32 takes the request's generator back by the offset that CUDA's generators have. Those of a CPU have
none: "CPU Generator does not use offset", and with that the engine ends, for every user. Two chats of a
thousand words with a seed, at the same time, are enough.

Here such a step does not see the generator at all: the token that is thrown away is drawn with the noise of
requests without a seed. So a prompt computed in parts draws the same noise as one computed whole.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch


@contextmanager
def set_aside(generators: dict[int, torch.Generator], rows: Iterable[int]) -> Iterator[None]:
    """Without the generators of these rows of a batch, for the length of the block."""
    aside = {row: generators.pop(row) for row in rows if row in generators}
    try:
        yield
    finally:
        generators.update(aside)


def register() -> None:
    """Mend the class that runs models on CPUs, also where it was imported already."""
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    stock = CPUModelRunner.sample_tokens

    def sample_tokens(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Sample a step's tokens, and keep in order what is known of the batch."""
        unfinished = np.nonzero(self.discard_request_mask.np[: self.input_batch.num_reqs])[0]
        with set_aside(self.input_batch.generators, unfinished.tolist()):
            return stock(self, *args, **kwargs)

    CPUModelRunner.sample_tokens = sample_tokens
