"""Sentences in which people ask for something, taken apart: what they want, what not, and what they quote."""

import re
from collections.abc import Iterator
from typing import NamedTuple

MAX_PHRASE = 60  # characters of what an answer is made to say
_CONDITIONS = re.compile(r"\b(?:if|when|whenever|unless|except|sometimes|usually|mostly|often|where)\b", re.I)
_NO_CONDITIONS = re.compile(r"\b(?:as if|(?:if|when|whenever|where|wherever) (?:possible|you can))\b", re.I)
_NOT = re.compile(
    r"\b(?:do not|don['\u2019]t|never|(?<!or )no|avoid|without|stop|refrain from|skip|omit|leave out|free of|"
    r"not (?:use|say|write|begin|start)|i (?:hate|dislike))\b",
    re.I,
)
_AT_MOST = re.compile(r"\b(?:no|not) (?:more|longer|fewer|less) than\b", re.I)
_QUOTED = re.compile(r"(?<!\w)['\u2018\"\u201c\u201e\u00ab`](.+?)['\u2019\"\u201d\u00bb`](?!\w)")
_ENDS = re.compile(
    r"(?<=[.!?;])\s+|,\s*(?=(?:just|but|only|please|and|so)\b)|"
    r"\s+(?:but|and)\s+(?=(?:do|don|never|no|use|write|answer|reply|end|begin|start|keep|call|avoid|always)\b)",
    re.I,
)

_SMALL = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven"),
    *("twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen", "twenty"),
)
_TENS = {"thirty": 30, "forty": 40, "fifty": 50, "sixty": 60, "seventy": 70, "eighty": 80, "hundred": 100}
NUMBERS = {name: i for i, name in enumerate(_SMALL)} | _TENS
NUMBER = rf"(\d{{1,4}}|{'|'.join(sorted(NUMBERS, key=len, reverse=True))})"


class Part(NamedTuple):
    """A part of a sentence. text: without what is quoted in it, for which \" stands."""

    text: str
    quoted: tuple[str, ...]
    wanted: bool  # False: it names what is not to be


def parts(entry: str) -> Iterator[Part]:
    """The parts of what somebody asks for; none of what hangs on a condition, which no program can judge."""
    for sentence in _sentences(_NO_CONDITIONS.sub("", entry)):
        quoted = tuple(found.strip() for found in _QUOTED.findall(sentence))
        text = _QUOTED.sub('"', sentence).strip()
        if _CONDITIONS.search(text) or not all(map(is_sayable, quoted)):
            continue
        # "no more than" is no negation: it is masked, letter by letter, so that places stay.
        negation = _NOT.search(_AT_MOST.sub(lambda found: "_" * len(found[0]), text))
        at = len(text) if negation is None else negation.start()
        before = text[:at].count('"')
        if text[:at].strip(" ,;:"):
            yield Part(text[:at], quoted[:before], True)
        if text[at:]:
            yield Part(text[at:], quoted[before:], False)


def _sentences(entry: str) -> list[str]:
    """An entry cut at its ends of sentences and between its commands, but not within quotes."""
    quotes = [found.span() for found in _QUOTED.finditer(entry)]
    found, start = [], 0
    for cut in _ENDS.finditer(entry):
        if not any(begin < cut.start() < end - 1 for begin, end in quotes):
            found.append(entry[start : cut.start()])
            start = cut.end()
    return [piece for piece in (*found, entry[start:]) if piece.strip()]


def is_sayable(phrase: str) -> bool:
    """Whether an answer may be made to say it, or not to."""
    return 0 < len(phrase) <= MAX_PHRASE and phrase.isprintable()


def number(word: str) -> int:
    """What a match of `NUMBER` says."""
    return int(word) if word.isdecimal() else NUMBERS[word.lower()]
