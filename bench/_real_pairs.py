"""Real people's preferences as pairs of tokenised answers, for `python -m bench reward --real`."""

import gzip
import json
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

Pair = Sequence[tuple[list[int], list[int]]]  # token ids of prompt and answer, of the preferred answer first

PROMPT_TOKENS = 64  # the last of a prompt
PAIR_TOKENS = 256  # of prompt and answer together


def dialogue(text: str) -> list[dict[str, str]]:
    """The messages of a dialogue in one text, as HH-RLHF has it. Raises ValueError for another text."""
    start, *parts = re.split(r"\n\n(Human|Assistant):", text)
    if start.strip() or not parts:
        raise ValueError(f"{text[:40]!r} does not begin with a turn of Human or Assistant")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(parts[::2], parts[1::2], strict=True)
    ]


def read(file: Path) -> Iterator[tuple[tuple[dict[str, Any], ...], list[str]]]:
    """Each pair of a file: the messages before it, and both answers, the preferred one first.

    `.jsonl.gz`: whole dialogues as text; of two that differ before their last turn nothing is used. `.json`:
    any layout of pairs that `hearken import` reads.
    """
    from feedback.dialects import parse

    if file.suffix == ".gz":
        with gzip.open(file, "rt") as lines:
            for line in lines:
                row = json.loads(line)
                both = [dialogue(row[side]) for side in ("chosen", "rejected")]
                if both[0][:-1] == both[1][:-1] and all(one[-1]["role"] == "assistant" for one in both):
                    yield tuple(both[0][:-1]), [one[-1]["content"] for one in both]
        return
    for row in json.loads(file.read_text()):
        example = parse(row, "auto")
        yield example.messages, [*(example.answers if example.value > 0.5 else example.answers[::-1])]


def tokenised(model: Path, files: Sequence[Path]) -> list[tuple[str, Pair]]:
    """All pairs of `files`, cut as `PROMPT_TOKENS` and `PAIR_TOKENS` say, each with a name of its own."""
    from hearken.data.importing import encoder

    encode = encoder(model)
    found: list[tuple[str, Pair]] = []
    for file in files:
        for number, (messages, answers) in enumerate(read(file)):
            pair: list[tuple[list[int], list[int]]] = []
            for answer in answers:
                prompt, tokens = encode(messages, answer)
                prompt = prompt[-PROMPT_TOKENS:]
                pair.append((prompt, tokens[: PAIR_TOKENS - len(prompt)]))
            found.append((f"{file.name}-{number}", pair))
    return found


def split(pairs: Sequence[tuple[str, Pair]], train: int, test: int, seed: int) -> dict[str, Any]:
    """A random part of the pairs to learn from, and one of the others to be judged by.

    Raises ValueError where there are too few pairs for both.
    """
    if train >= len(pairs):
        raise ValueError(f"{train} of {len(pairs)} pairs to learn from leave none to be judged by")
    drawn = random.Random(f"{train} {seed}").sample(pairs, len(pairs))
    learnt, held = drawn[:train], drawn[train : train + test]
    return {
        "train": [pair for _, pair in learnt],
        "train_names": [name for name, _ in learnt],
        "test": [pair for _, pair in held],
        "test_names": [name for name, _ in held],
        "right": [1.0] * len(held),
    }
