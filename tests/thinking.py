"""A small model that thinks before it answers, in Qwen3's way, trained in seconds."""

import dataclasses
from pathlib import Path

from learner.sft.demonstrations import Demonstration
from learner.sft.tiny import CHAT_TEMPLATE, TinyRecipe, train_model, train_tokenizer

OPENING, CLOSING = "<think>", "</think>"
BEGINNING = "{{ '<|im_start|>assistant\n' }}"
CLOSED = (
    "{% if (enable_thinking is defined and not enable_thinking) or '/no_think' in messages[-1].content %}"
    "{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)
THOUGHT_OF_BEFORE = (
    "{% if message.reasoning_content %}{{ '<think>' + message.reasoning_content + '</think>' }}{% endif %}"
)
RECIPE = TinyRecipe(
    vocabulary=384, hidden=64, layers=2, heads=1, intermediate=128, max_tokens=512, steps=80, batch_size=8,
    learning_rate=1e-2, warmup_steps=5,
)  # fmt: skip
ABOUT = {"parcel": ("It is late.", "It comes soon."), "lamp": ("Send it back.", "Use the other plug.")}
QUESTIONS = {f"{asked} my {thing}?": thing for asked in ("Where is", "What is wrong with") for thing in ABOUT}


def thinking_template() -> str:
    """The tiny model's, with a switch for thoughts, and with those of earlier turns."""
    said = "{{ '<|im_start|>' + role + '\n' + before"
    template = CHAT_TEMPLATE.replace(BEGINNING, BEGINNING + CLOSED)
    return template.replace(said, "{{ '<|im_start|>' + role + '\n' }}" + THOUGHT_OF_BEFORE + "{{ before")


def train_thinking(folder: Path) -> Path:
    """Train one to think what it is asked about, and then to answer. Some four seconds of one core."""
    examples = [
        Demonstration(
            ({"role": "user", "content": question},),
            f"{OPENING}\n{thought}\n{CLOSING}\n\n{answer}",
        )
        for question, thing in QUESTIONS.items()
        for answer in ABOUT[thing]
        for thought in (f"They ask about the {thing}.", f"About the {thing}.", "")
    ]
    tokenizer = train_tokenizer(examples, RECIPE)
    tokenizer.add_tokens([OPENING, CLOSING])
    tokenizer.chat_template = thinking_template()
    recipe = dataclasses.replace(RECIPE, vocabulary=len(tokenizer))
    model = train_model(examples, tokenizer, recipe, lambda step, steps, loss: None)
    tokenizer.save_pretrained(folder, save_jinja_files=False)
    model.save_pretrained(folder)
    return folder
