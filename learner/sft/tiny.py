"""A small chat model from nothing: a tokenizer and a 2M-parameter Qwen2, trained on any demonstrations file.

It makes the whole system runnable, and testable, on a laptop's CPU with the real engine. The folder that
comes out is an ordinary Hugging Face model for transformers and vLLM.
"""

import dataclasses
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from learner.sft.demonstrations import (
    Demonstration,
    backward,
    draws,
    encode,
    micro_batches,
    read_demonstrations,
)

IM_START, IM_END, END_OF_TEXT = "<|im_start|>", "<|im_end|>", "<|endoftext|>"

RECIPE_FILE = "recipe.json"
DEMONSTRATIONS_FILE = "demonstrations.jsonl"

CHAT_TEMPLATE = (
    "{% if tools %}{{ '<|im_start|>system\nFunctions:\n' }}{% for tool in tools %}"
    "{% set f = tool.function %}{% set given = (f.parameters or {}).properties or {} %}"
    "{{ f.name + '(' + given | join(', ') + ')' + (': ' + f.description if f.description else '') + '\n' }}"
    "{% endfor %}"
    '{{ \'Call one: <tool_call>{"name": .., "arguments": {..}}</tool_call><|im_end|>\n\' }}{% endif %}'
    "{% for message in messages %}"
    "{% set result = message.role == 'tool' %}"
    "{% set role = {'tool': 'user', 'developer': 'system'}.get(message.role, message.role) %}"
    "{% set before, after = ('<tool_response>', '</tool_response>') if result else ('', '') %}"
    "{{ '<|im_start|>' + role + '\n' + before + (message.content or '') + after }}"
    "{% for call in message.tool_calls or [] %}{% set given = call.function.arguments %}"
    "{{ '<tool_call>{\"name\": ' + call.function.name | tojson + ', \"arguments\": ' }}"
    "{{ (given if given is string else given | tojson) + '}</tool_call>' }}{% endfor %}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""ChatML: any number of system (or developer), user and assistant turns, and tools in Hermes' way.

Functions are shown by name and parameter names only: a model of this size has little context to spare.
"""

Progress = Callable[[int, int, float], None]
"""Called after every step with (steps done, steps in all, loss in nats per answer token)."""


@dataclass(frozen=True, slots=True)
class TinyRecipe:
    """The model's size and its training. Head size 64 is one that vLLM's CPU and GPU attention both have."""

    vocabulary: int = 1024
    hidden: int = 192
    layers: int = 4
    heads: int = 3
    intermediate: int = 512
    max_tokens: int = 1024
    steps: int = 320
    batch_size: int = 32
    micro_batch_size: int = 8
    learning_rate: float = 3e-3
    warmup_steps: int = 32
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    seed: int = 0


def train_tiny(
    demonstrations: Path,
    folder: Path,
    *,
    recipe: TinyRecipe = TinyRecipe(),
    progress: Progress = lambda step, steps, loss: None,
) -> None:
    """Train tokenizer and model on a demonstrations file and put them into `folder`, replacing what it held.

    The folder appears, or changes, only when everything in it is complete. Raises BadDemonstration.
    """
    examples = read_demonstrations(demonstrations)
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        tokenizer = train_tokenizer(examples, recipe)
        model = train_model(examples, tokenizer, recipe, progress)
        tokenizer.save_pretrained(partial, save_jinja_files=False)
        model.save_pretrained(partial)
        shutil.copyfile(demonstrations, partial / DEMONSTRATIONS_FILE)
        (partial / RECIPE_FILE).write_text(json.dumps(dataclasses.asdict(recipe), indent=2))
        replace_folder(partial, folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def is_trained(folder: Path, demonstrations: Path, recipe: TinyRecipe) -> bool:
    """Whether the folder holds what `train_tiny` makes of these demonstrations by this recipe."""
    try:
        made = json.loads((folder / RECIPE_FILE).read_text())
        same_data = (folder / DEMONSTRATIONS_FILE).read_bytes() == demonstrations.read_bytes()
    except (FileNotFoundError, NotADirectoryError, json.JSONDecodeError):
        return False
    return bool(made == dataclasses.asdict(recipe)) and same_data


def renew_template(folder: Path) -> None:
    """Give a model that was trained with an earlier `CHAT_TEMPLATE` the present one, in one rename.

    What it was trained on looks the same in both, so its weights need no new training.
    """
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text())
    if config.get("chat_template") != CHAT_TEMPLATE:
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(config | {"chat_template": CHAT_TEMPLATE}, indent=2))
        partial.replace(path)


def train_tokenizer(demonstrations: list[Demonstration], recipe: TinyRecipe) -> Any:
    """A byte-level BPE tokenizer in ChatML style: it can spell any text, and end of turn is its `eos`."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=recipe.vocabulary,
        special_tokens=[END_OF_TEXT, IM_START, IM_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(_texts(demonstrations), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token=IM_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[IM_START],
        chat_template=CHAT_TEMPLATE,
        model_max_length=recipe.max_tokens,
        clean_up_tokenization_spaces=False,
    )


def _texts(demonstrations: list[Demonstration]) -> Iterator[str]:
    for demonstration in demonstrations:
        for message in demonstration.messages:
            yield f"{message['role']}\n{message['content']}"
        yield f"assistant\n{demonstration.completion}"


def new_model(recipe: TinyRecipe, tokenizer: Any) -> Any:
    """An untrained Qwen2 of the recipe's size, in fp32, from torch's global random numbers."""
    config = Qwen2Config(
        vocab_size=recipe.vocabulary,
        hidden_size=recipe.hidden,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.heads,
        intermediate_size=recipe.intermediate,
        max_position_embeddings=recipe.max_tokens,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config).to(torch.float32)
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def train_model(
    demonstrations: list[Demonstration], tokenizer: Any, recipe: TinyRecipe, progress: Progress
) -> Any:
    """Train a new model on the answers. Demonstrations longer than `max_tokens` are left out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        model = new_model(recipe, tokenizer)
    examples = [encode(demonstration, tokenizer) for demonstration in demonstrations]
    examples = [example for example in examples if len(example.token_ids) <= recipe.max_tokens]
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=recipe.learning_rate, betas=(0.9, 0.95), weight_decay=recipe.weight_decay
    )
    scale = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate_scale(step, recipe))
    model.train()
    drawn = draws(examples, recipe.batch_size, recipe.seed)
    for step, batch in zip(range(1, recipe.steps + 1), drawn, strict=False):
        optimizer.zero_grad()
        loss = backward(model, micro_batches(batch, recipe.micro_batch_size, tokenizer.pad_token_id))
        torch.nn.utils.clip_grad_norm_(model.parameters(), recipe.max_gradient_norm)
        optimizer.step()
        scale.step()
        progress(step, recipe.steps, loss)
    return model.eval()


def learning_rate_scale(step: int, recipe: TinyRecipe) -> float:
    """Share of the peak learning rate at a step (from 0): linear warm-up, then linear to zero."""
    warmup = min(1.0, (step + 1) / recipe.warmup_steps)
    decay = (recipe.steps - step) / max(1, recipe.steps - recipe.warmup_steps)
    return max(0.0, min(warmup, decay))


def replace_folder(new: Path, folder: Path) -> None:
    """Move `new` to `folder`'s name; what was there goes aside first, so the name never holds a mixture."""
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old, ignore_errors=True)
