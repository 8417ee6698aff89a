"""A persona: what the simulated users like, as a JSON file that the service and the learner never see.

{"name": "brisk",
 "rules": [{"pattern": "sorry|apolog", "weight": -0.8}],
 "length_weight": -0.6, "noise": 0.1, "vote_rate": 0.6, "compare_rate": 0.3}
"""

import json
import math
import random
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

SHARPNESS = 2.0
"""How surely a difference in utility of 1 decides a vote: sigmoid(2) = 88%."""


NEEDED = ("name", "rules", "length_weight", "noise", "vote_rate", "compare_rate")
OPTIONAL = ("most_words",)


class BadPersona(ValueError):
    """A persona file cannot be used. The message names the field and what would be right."""


@dataclass(frozen=True, slots=True)
class Rule:
    """An answer in which `pattern` is found is worth `weight` more."""

    pattern: re.Pattern[str]
    weight: float


@dataclass(frozen=True, slots=True)
class Persona:
    """A taste and how it votes.

    `length_weight`: utility for every 10 words. `noise`: share of votes that are a coin toss. `vote_rate`:
    share of chats that get a thumb. `compare_rate`: share of visits that compare two answers. `most_words`:
    length beyond so many is neither liked nor disliked; None (in a file: left out): every word counts.
    """

    name: str
    rules: tuple[Rule, ...]
    length_weight: float
    noise: float
    vote_rate: float
    compare_rate: float
    most_words: float | None = None

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read a persona file. Raises BadPersona, which names file and field, and OSError."""
        try:
            fields = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise BadPersona(f"{path} is not JSON: {error}") from error
        except UnicodeDecodeError as error:
            raise BadPersona(f"{path} is not UTF-8 text: {error}") from error
        try:
            _check_names(fields, NEEDED, OPTIONAL)
            return cls(
                name=_text(fields, "name"),
                rules=_rules(fields["rules"]),
                length_weight=_number(fields, "length_weight"),
                noise=_share(fields, "noise"),
                vote_rate=_share(fields, "vote_rate"),
                compare_rate=_share(fields, "compare_rate"),
                most_words=_words(fields, "most_words"),
            )
        except BadPersona as error:
            raise BadPersona(f"{path}: {error}") from error

    def utility(self, question: str, answer: str) -> float:
        """How much they like an answer: weights of the rules found in it, plus its length's.

        Rules look at the answer alone; the question is an argument because whoever judges has it.
        """
        found = sum(rule.weight for rule in self.rules if rule.pattern.search(answer))
        words = len(answer.split())
        read = words if self.most_words is None else min(words, self.most_words)
        return found + self.length_weight * read / 10

    def prefer(self, utility_a: float, utility_b: float, rng: random.Random) -> Literal["a", "b"]:
        """Which of two they choose: A with probability sigmoid(2 (a - b)) (Bradley-Terry), but for noise."""
        return "a" if self._votes(utility_a - utility_b, rng) else "b"

    def thumb_up(self, utility: float, usual: float, rng: random.Random) -> bool:
        """Whether the thumb goes up: with probability sigmoid(2 (utility - usual)), but for noise.

        `usual` is the utility that they are used to: there a thumb is a coin toss.
        """
        return self._votes(utility - usual, rng)

    def _votes(self, margin: float, rng: random.Random) -> bool:
        if rng.random() < self.noise:
            return rng.random() < 0.5
        return rng.random() < (1 + math.tanh(SHARPNESS * margin / 2)) / 2  # sigmoid, without overflow


def _check_names(
    fields: Any, needed: tuple[str, ...], optional: tuple[str, ...] = (), where: str = ""
) -> None:
    if not isinstance(fields, dict):
        raise BadPersona(f"{where or 'the file'} must be an object with {', '.join(needed)}, not {fields!r}")
    prefix = f"{where}." if where else ""
    if unknown := sorted(fields.keys() - {*needed, *optional}):
        known = ", ".join((*needed, *optional))
        raise BadPersona(f"unknown field {prefix}{unknown[0]}; known are {known}")
    if missing := [name for name in needed if name not in fields]:
        raise BadPersona(f"field {prefix}{missing[0]} is missing")


def _rules(rows: Any) -> tuple[Rule, ...]:
    if not isinstance(rows, list):
        raise BadPersona(f'rules must be a list of {{"pattern": regex, "weight": number}}, not {rows!r}')
    return tuple(_rule(row, f"rules[{index}]") for index, row in enumerate(rows))


def _rule(row: Any, where: str) -> Rule:
    _check_names(row, ("pattern", "weight"), where=where)
    pattern = _text(row, "pattern", where)
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error as error:
        raise BadPersona(f"{where}.pattern is no regular expression: {error}: {pattern!r}") from error
    return Rule(compiled, _number(row, "weight", where))


def _text(fields: dict[str, Any], name: str, where: str = "") -> str:
    value = fields[name]
    if not isinstance(value, str) or not value:
        raise BadPersona(
            f"{where}{'.' if where else ''}{name} must be a text that is not empty, not {value!r}"
        )
    return value


def _number(fields: dict[str, Any], name: str, where: str = "") -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise BadPersona(f"{where}{'.' if where else ''}{name} must be a finite number, not {value!r}")
    return float(value)


def _words(fields: dict[str, Any], name: str) -> float | None:
    if fields.get(name) is None:
        return None
    value = _number(fields, name)
    if value <= 0:
        raise BadPersona(f"{name} must be above 0, or left out, not {value:g}")
    return value


def _share(fields: dict[str, Any], name: str) -> float:
    value = _number(fields, name)
    if not 0 <= value <= 1:
        raise BadPersona(f"{name} must be between 0 and 1, not {value:g}")
    return value
