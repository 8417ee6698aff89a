"""What a vLLM command line says: `--name value` or `--name=value`, and the last of two equal ones counts."""

import re
from collections.abc import Sequence


def value(command: Sequence[str], *names: str) -> str | None:
    """The value of the last of `names` in a command line; None where there is none of them."""
    found = None
    for index, word in enumerate(command):
        name, equals, rest = word.partition("=")
        if name.startswith("-") and name.replace("_", "-") in names:
            found = rest if equals else command[index + 1] if index + 1 < len(command) else None
    return found


def number(command: Sequence[str], *names: str) -> int | None:
    """The same as a whole number, as vLLM reads it: 1k is 1,000 and 1K is 1,024. None for anything else."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([kKmM]?)", (value(command, *names) or "").strip())
    if match is None:
        return None
    return int(float(match[1]) * {"": 1, "k": 1000, "K": 1024, "m": 10**6, "M": 2**20}[match[2]])


def fraction(command: Sequence[str], *names: str) -> float | None:
    """The same as a number between 0 and 1; None for anything else."""
    try:
        found = float(value(command, *names) or "")
    except ValueError:
        return None
    return found if 0 < found <= 1 else None
