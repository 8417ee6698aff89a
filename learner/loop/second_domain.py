"""Prompts that users do not send, from a file. What the base says to them is to stay likely.

Half of the base's answers, where there are enough, are imitated while the policy learns (Ouyang et al. 2022,
arXiv:2203.02155, mix pretraining text in for the same reason, section 3.5); a guard judges by the others.
"""

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deploy.engines.client import PromptsRefused, Sample
from feedback.core.events import BASE
from learner.batching import Item
from learner.loop.parts import Parts
from learner.rollouts.sampling import Journal

logger = logging.getLogger("hearken.learner")

MOST = 256
"""Prompts of a file that are used: the first ones."""

ANSWER_TOKENS = 128
"""The longest answer of the base."""

ENOUGH = 48
"""Answers from which on half of them are imitated; fewer are all needed to judge by."""


class BadPrompts(ValueError):
    """A file of prompts cannot be used. The message says where and what is right."""


class SecondDomain:
    """The base's own answers to the prompts of `learner.guards.prompts`; none without such a file.

    Raises `BadPrompts` for a file that is of no use. The answers are sampled once in the life of a data
    folder, when they are first asked for, which raises `EngineError` when the engine cannot answer now.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._journal = Journal(parts.folder / "second_domain")
        limits = parts.settings.guards
        file = None if limits is None else limits.prompts
        self._prompts = read_prompts(file, parts.model.name) if file else []
        self._answers: tuple[str, list[Item]] | None = None  # and of which base

    def judging(self) -> list[Item]:
        """Those by which the guard judges."""
        items = self._items()
        return items[::2] if len(items) >= ENOUGH else items

    def taught(self) -> list[Item]:
        """Those that the policy imitates."""
        items = self._items()
        return items[1::2] if len(items) >= ENOUGH else []

    def _items(self) -> list[Item]:
        digest = self._parts.model.base_digest
        if self._answers is None or self._answers[0] != digest:
            self._answers = digest, self._sampled() if self._prompts else []
        return self._answers[1]

    def _sampled(self) -> list[Item]:
        parts = self._parts
        longest = parts.sampler.longest(ANSWER_TOKENS)
        room = parts.sampler.room(longest)
        asked = [prompt for prompt in self._prompts if len(prompt) <= room and parts.model.knows(prompt)]
        name = f"second domain {parts.model.base_digest} {longest}"

        def draw() -> list[Sample]:
            seed = f"{parts.settings.seed} second domain"
            return parts.sampler.sample(BASE, asked, max_tokens=longest, seed=seed)

        while asked:
            try:
                answers = self._journal.once(name, asked, draw)
                return [each.judged for each in answers if each.judged[1]]
            except PromptsRefused as refusal:
                logger.warning("left out of the second domain: %s", refusal)
                asked = [prompt for prompt in asked if prompt not in refusal.prompts]
        return []


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
