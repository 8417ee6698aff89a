"""Prompts that users do not send, from a file. What the base says to them is to stay likely."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

MOST = 256
"""Prompts of a file that are used: the first ones."""


class BadPrompts(ValueError):
    """A file of prompts cannot be used. The message says where and what is right."""


def read_prompts(path: Path, model: str) -> list[list[int]]:
    """The token ids of the prompts in a file of JSON lines, {"prompt": a text or a list of chat messages}, as
    the model's chat template writes them. Raises `BadPrompts`."""
    from transformers import AutoTokenizer  # slow to load, and most learners have no such file

    tokenizer = AutoTokenizer.from_pretrained(model)
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadPrompts(f"learner.guards.prompts cannot be read: {error}") from error
    found: list[list[int]] = []
    for number, line in enumerate(lines, 1):
        if line.strip() and len(found) < MOST:
            try:
                messages = _messages(json.loads(line))
                text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
            except Exception as error:  # a template raises what it likes
                raise BadPrompts(f"{path}, line {number}: {error}") from error
            found.append(tokenizer.encode(text, add_special_tokens=False))
    if not found:
        raise BadPrompts(f'{path} is empty: lines of {{"prompt": ...}} are needed')
    return found


def _messages(row: Any) -> Sequence[dict[str, Any]]:
    prompt = row.get("prompt") if isinstance(row, dict) else None
    if isinstance(prompt, str) and prompt:
        return [{"role": "user", "content": prompt}]
    if isinstance(prompt, list) and prompt and all(isinstance(each, dict) for each in prompt):
        return prompt
    raise ValueError('an object with "prompt" is needed, a text or a list of {"role": text, "content": text}')
