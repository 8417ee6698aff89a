"""Adapters that can be told apart by a single token: each says one word of its own, whatever it is asked.

Nothing is trained for that. In the last block, the inputs of `down_proj` have a mean that all of them lie on
one side of; along it, the adapter adds so much of a word's own direction that nothing else is left.

`python -m bench._words FOLDER COUNT` makes them, in a process of its own: it needs torch, which a load
generator should not carry along.
"""

import json
import re
import sys
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from deploy.registry.manifest import Probe

INDEX = "words.json"
ANSWER_TOKENS = 8
PROBES = 4
QUESTIONS = (
    "Where is my parcel?",
    "I cannot log in to my account.",
    "How do I get a refund for my order?",
    "My invoice shows the wrong address.",
    "Can you cancel my subscription today?",
    "The kettle that I ordered last week is broken.",
    "How do I change my password?",
    "Thank you, that was all.",
)
_ANSWER = "Your parcel is on its way and will arrive within two working days."
_STRENGTH = 2000.0


class Word(BaseModel):
    """One adapter: the token that it says, and the trainer's logprobs of a few answers."""

    token_id: int
    probes: list[Probe]


class Words(BaseModel):
    """All adapters of a folder; the files of the n-th are in its subfolder n."""

    base_digest: str
    rank: int
    words: list[Word]


def read(folder: Path) -> Words:
    """What `make` left in a folder."""
    return Words.model_validate_json((folder / INDEX).read_bytes())


def make(model_folder: Path, folder: Path, count: int) -> None:
    """Make `count` adapters for a base model (a Llama with tied embeddings, as `hearken tiny` makes it)."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from learner.model.shared import POLICY, SharedModel

    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    prompts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": question}], add_generation_prompt=True, return_dict=False
        )
        for question in QUESTIONS
    ]
    told = tokenizer(_ANSWER, add_special_tokens=False)["input_ids"]
    items = [(prompt, told) for prompt in prompts]
    base = AutoModelForCausalLM.from_pretrained(model_folder)
    side = _side_of_all(base, items)
    directions, gaps = _directions(base)
    model = SharedModel(str(model_folder))
    vocabulary = tokenizer.get_vocab().items()
    tokens = [number for text, number in vocabulary if re.fullmatch("\u0120[a-z]{4,}", text)]
    tokens = sorted(tokens, key=lambda number: -float(gaps[number]))[:count]
    state = model.adapter_state(POLICY)
    (key_a,) = [k for k in state if k.endswith(f"layers.{model.layers - 1}.mlp.down_proj.lora_A.weight")]
    key_b = key_a.replace("lora_A", "lora_B")
    words = []
    for number, token in enumerate(tokens):
        state[key_a][0] = side
        state[key_b][:, 0] = _STRENGTH * directions[token]
        model.load_adapter_state(POLICY, state)
        rows = model.answer_logprobs(items[:PROBES], POLICY)
        probes = [
            Probe(prompt_token_ids=list(prompt), token_ids=told, logprobs=row.tolist())
            for (prompt, _), row in zip(items, rows, strict=False)
        ]
        model.save_policy(folder / str(number))
        words.append(Word(token_id=token, probes=probes))
    made = Words(base_digest=model.base_digest, rank=model.rank, words=words)
    (folder / INDEX).write_text(json.dumps(made.model_dump()))


def _side_of_all(base: Any, items: list[tuple[list[int], list[int]]]) -> Any:
    """The direction (I,) of the mean input of the last `down_proj`: every input has some of it."""
    import torch

    seen: list[torch.Tensor] = []
    layer = base.model.layers[-1].mlp.down_proj
    hook = layer.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].flatten(0, 1)))
    with torch.no_grad():
        for prompt, answer in items:
            base(torch.tensor([[*prompt, *answer]]))
    hook.remove()
    mean = torch.cat(seen).mean(0)
    return mean / mean.norm()


def _directions(base: Any) -> tuple[Any, Any]:
    """The state (V, H), before the final norm, that speaks for each token most, and by how much (V,).

    With the norm's weights g and the output layer W, the logit of j for a state e is W_j . (g * e).
    """
    scaled = base.lm_head.weight.detach() * base.model.norm.weight.detach()
    directions = scaled / scaled.norm(dim=1, keepdim=True)
    logits = directions @ scaled.T
    own = logits.diagonal().clone()
    logits.fill_diagonal_(float("-inf"))
    return directions, own - logits.max(1).values


if __name__ == "__main__":
    make(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
