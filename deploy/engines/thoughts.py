"""Where an answer begins, for models that think first: a thought is sampled and logged, but never judged.

Families of models mark their thoughts in their own ways. The mark that closes a thought is looked for in the
texts of the sampled tokens, as vLLM reports them beside the logprobs, so that nobody here needs a tokenizer,
and so that gateway and learner put the boundary in one place: behind the token that completes the mark.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Thoughts:
    """How a family of models writes what it thinks.

    parser: vLLM's name for it (`--reasoning-parser`); `opening` and `closing` are the marks around a thought.
    unopened: whether text is a thought also where nothing opened one, as these models, or their prompts,
    always begin with it.
    """

    parser: str
    opening: str
    closing: str
    unopened: bool = True


def _think(parser: str) -> Thoughts:
    return Thoughts(parser, "<think>", "</think>")


# What occurs in a chat template, all of it -> how the model thinks; the first one counts.
_BY_TEMPLATE: tuple[tuple[tuple[str, ...], Thoughts], ...] = (
    (
        ("<|channel|>analysis",),
        Thoughts("openai_gptoss", "<|channel|>analysis<|message|>", "<|channel|>final<|message|>", False),
    ),
    (("[THINK]",), Thoughts("mistral", "[THINK]", "[/THINK]", False)),
    (("<seed:think>",), Thoughts("seed_oss", "<seed:think>", "</seed:think>")),
    (("<|channel>",), Thoughts("gemma4", "<|channel>", "<channel|>", False)),
    (
        ("Here is my thought process",),
        Thoughts("granite", "Here is my thought process:", "Here is my response:", False),
    ),
    (("<｜Assistant｜>", "</think>", "thinking is defined"), _think("deepseek_v3")),  # thinks when asked to
    (("<｜Assistant｜>", "</think>"), _think("deepseek_r1")),
    (("<|im_middle|>", "<think>"), _think("kimi_k2")),
    (("<minimax:tool_call>", "<think>"), _think("minimax_m2")),
    (("<arg_key>", "<think>"), _think("glm45")),
    (("<think>", "enable_thinking"), _think("qwen3")),
)

_MARKS = re.compile(
    "|".join(re.escape(mark) for _, t in _BY_TEMPLATE for mark in (t.opening, t.closing) if " " not in mark)
)
CLOSINGS = tuple({thoughts.closing: None for _, thoughts in _BY_TEMPLATE})
PROMPT_END = 16
"""Tokens at the end of a prompt in which a template's mark would be, if it wrote one."""


def thoughts_of(model: Path) -> Thoughts | None:
    """How the model in a folder thinks, by its chat template; None when it does not.

    A template that only knows what to do with thoughts of earlier turns is no sign: those of models that
    never think have that too. In the families above one knows them by more; any other template has to open
    a thought where an answer begins.
    """
    template = _chat_template(model)
    for marks, thoughts in _BY_TEMPLATE:
        if all(mark in template for mark in marks):
            return thoughts
    beginning = template[max(template.rfind("add_generation_prompt"), 0) :]
    return _think("qwen3") if "add_generation_prompt" in template and "<think>" in beginning else None


def _chat_template(model: Path) -> str:
    file = model / "chat_template.jinja"
    if file.is_file():
        return file.read_text()
    try:
        found = json.loads((model / "tokenizer_config.json").read_text()).get("chat_template") or ""
    except (OSError, ValueError, AttributeError):
        return ""
    if isinstance(found, list):  # several, each with a name
        return "\n".join(str(named.get("template", "")) for named in found)
    return str(found)


def after_thought(tokens: Sequence[str], closings: Sequence[str] = CLOSINGS) -> int | None:
    """The index of the first token behind the thought in the texts of the sampled tokens.

    None when none of the marks is there: nothing was thought, or the thought has not ended.
    """
    text = "".join(tokens)
    ends = [text.index(closing) + len(closing) for closing in closings if closing in text]
    return _token_at(tokens, min(ends)) if ends else None


def answer_start(tokens: Sequence[str], thought: str, answer: str) -> int:
    """Where the answer begins of which vLLM's parser made a `thought` and an `answer`.

    By the marks that are known here, else, as the parser may know others, by the answer's own words.
    """
    found = after_thought(tokens)
    if found is not None:
        return found
    if not thought:
        return 0
    place = "".join(tokens).rfind(answer.strip()) if answer.strip() else -1
    return len(tokens) if place < 0 else _token_at(tokens, place)


def without_marks(answer: str) -> str:
    """An answer's text without marks of thoughts, which a model that thinks a second time leaves there."""
    return _MARKS.sub("", answer)


def _token_at(tokens: Sequence[str], place: int) -> int:
    """The first token that begins at a character's place or behind it."""
    return bisect_left([0, *accumulate(map(len, tokens))], place)


def is_closed(prompt_end: str, closings: tuple[str, ...] = CLOSINGS) -> bool:
    """Whether a prompt, of which these are the last words, has the thought closed already: think nothing."""
    return prompt_end.rstrip().endswith(closings)


def unfinished(thoughts: Thoughts, prompt_end: str, text: str) -> bool:
    """Whether a sampled text without a closing mark is all thought. `prompt_end`: the prompt's last words."""
    if is_closed(prompt_end, (thoughts.closing,)):
        return False
    opened = prompt_end.rstrip().endswith(thoughts.opening) or text.lstrip().startswith(thoughts.opening)
    return opened or thoughts.unopened
