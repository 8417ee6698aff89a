"""What vLLM's answers must be.

An engine may answer anything: a proxy's HTML, half of what was asked, other types.

Each of these raises one of `GARBLED` for anything else, and nothing that is not one of them.
"""

import math
from typing import Any

GARBLED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError)
"""No JSON, other types, too few or too many of something, numbers that no float holds, too deep."""


def ordered(choices: Any, count: int) -> list[dict[str, Any]]:
    """As many choices as were asked for, in their order."""
    found = sorted(choices, key=lambda choice: whole(choice["index"]))
    if [choice["index"] for choice in found] != list(range(count)):
        raise ValueError(f"{count} choices were asked for, {len(found)} came")
    return found


def checked(choice: dict[str, Any]) -> dict[str, Any]:
    """A sampled choice: a text, and a number of logprobs for as many tokens."""
    tokens, numbers = choice["token_ids"], choice["logprobs"]["token_logprobs"]
    choice["token_ids"] = [whole(token) for token in tokens]
    choice["logprobs"]["token_logprobs"] = [logprob(number) for number in numbers]
    if len(tokens) != len(numbers):
        raise ValueError(f"{len(numbers)} logprobs for {len(tokens)} tokens")
    if choice["finish_reason"] is not None:
        string(choice["finish_reason"])
    string(choice["text"])
    return choice


def logprobs_of(found: Any, items: list[tuple[list[int], list[int]]]) -> list[list[float]]:
    """The logprobs of the answers in (prompt, answer) pairs."""
    rows = []
    for choice, (prompt, answer) in zip(ordered(found["choices"], len(items)), items, strict=True):
        after = choice["prompt_logprobs"][len(prompt) :]
        rows.append([logprob(row[str(t)]["logprob"]) for row, t in zip(after, answer, strict=True)])
    return rows


def logprob(value: Any) -> float:
    """A number of nats; what is not finite is nan, which no comparison lets pass."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r:.50} is no logprob")
    return float(value) if math.isfinite(value) else math.nan


def whole(value: Any) -> int:
    """A number without a fraction."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r:.50} is no whole number")
    return value


def string(value: Any) -> str:
    """A text."""
    if not isinstance(value, str):
        raise TypeError(f"{value!r:.50} is no text")
    return value
