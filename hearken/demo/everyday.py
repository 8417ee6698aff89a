"""The demo's world for real models: what people ask an assistant on an ordinary day.

Cooking, travel, mails, plants, children's questions and the like, put together from everyday.json: templates
(`asks`) and lists that fill them, short exchanges that a further question follows (`talks`), and what the
makers of a product would put before them (`systems`). They are questions that a few sentences answer.

Everybody says hello first. It is what people do, and a small model that has been greeted stays with a chat:
of SmolLM2-135M's answers at temperature 1 to bare questions 28% had not ended after 500 tokens (of 70), and
of those to the same kind of questions after a greeting 4% (of 279).
"""

import hashlib
import json
import random
import re
from functools import cache
from pathlib import Path
from typing import Any

from hearken.base.conversation import Conversation, turn

HELD_OUT = 0.1
"""The share of all questions that the simulated users never ask."""

TALKS, SYSTEMS = 0.3, 0.4
"""The shares of conversations that go on after an answer, and that begin with a system prompt."""

_SLOT = re.compile(r"\{(\w+)(\+?)\}")


def prompts(n: int, seed: int, *, held_out: bool = False) -> list[Conversation]:
    """`n` conversations that end with a user's message; the same `seed` gives the same ones.

    Those with `held_out` are never about a question that the others are about, whatever the seeds are.
    """
    rng = random.Random(f"everyday {seed}")
    return [_conversation(rng, held_out) for _ in range(n)]


def is_held_out(conversation: Conversation) -> bool:
    """Whether a conversation would be held out: decided by what it is about."""
    return hashlib.sha256(subject(conversation).encode()).digest()[0] < 256 * HELD_OUT


def subject(conversation: Conversation) -> str:
    """The first thing that the user says besides a greeting."""
    greetings = _world()["greetings"]
    said = (message["content"] for message in conversation if message["role"] == "user")
    return next(text for text in said if text not in greetings)


def _conversation(rng: random.Random, held_out: bool) -> Conversation:
    world = _world()
    while True:
        topic = rng.choice(world["topics"])
        fill = _Filling(rng, world["lists"])  # one for all of it: they go on about the same thing
        said = [rng.choice(world["greetings"]), rng.choice(world["welcomes"])]
        if rng.random() < TALKS:
            asked, answered, further = rng.choice(topic["talks"])
            said += [fill(asked), fill(answered), fill(rng.choice(further))]
        else:
            said.append(fill(rng.choice(topic["asks"])))
        turns = [turn(("user", "assistant")[i % 2], text) for i, text in enumerate(said)]
        if rng.random() < SYSTEMS:
            turns.insert(0, turn("system", rng.choice(topic["systems"] + world["systems"])))
        if is_held_out(turns) == held_out:
            return turns


class _Filling:
    """Fills the templates of one conversation: {food} is the same word all along, {food+} is another one."""

    def __init__(self, rng: random.Random, lists: dict[str, list[str]]) -> None:
        self._rng = rng
        self._lists = lists
        self._drawn: dict[str, list[str]] = {}

    def __call__(self, template: str) -> str:
        text = _SLOT.sub(self._word, template)
        return text[:1].upper() + text[1:]

    def _word(self, slot: re.Match[str]) -> str:
        name, another = slot.groups()
        if name not in self._drawn:
            self._drawn[name] = self._rng.sample(self._lists[name], 2)
        return self._drawn[name][1 if another else 0]


@cache
def _world() -> dict[str, Any]:
    data = json.loads((Path(__file__).parents[1] / "everyday.json").read_text(encoding="utf-8"))
    return {**data, "topics": list(data["topics"].values())}
