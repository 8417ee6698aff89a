"""Things that people ask for once, each with a check that a program can make of an answer.

Half of them are for choosing a way (`TUNED`), half for measuring it (`HELD_OUT`), which have questions of
their own: a lot decided which. The checks are what a stranger would write who knows the sentence alone.
"""

import random
import re
from collections.abc import Callable
from typing import NamedTuple

Check = Callable[[str], bool]


class Wish(NamedTuple):
    """What somebody asks for, and whether an answer does it."""

    text: str
    is_done: Check


def has(pattern: str, least: int = 1, flags: int = re.IGNORECASE | re.MULTILINE) -> Check:
    """Whether a pattern occurs so often."""
    return lambda answer: len(re.findall(pattern, answer, flags)) >= least


def lacks(pattern: str) -> Check:
    """Whether there is an answer, and nothing of a pattern in it."""
    return lambda answer: bool(answer.strip()) and not has(pattern)(answer)


def words(least: int = 1, most: int = 10**6) -> Check:
    """Whether an answer has so many words."""
    return lambda answer: least <= len(answer.split()) <= most


def sentences(most: int) -> Check:
    """Whether an answer has at most so many sentences, and the last one ends."""

    def is_done(answer: str) -> bool:
        parts = [part for part in re.split(r"(?<=[.!?])\s+|\n+", answer.strip()) if part]
        return 0 < len(parts) <= most and answer.strip()[-1] in ".!?\"'”)"

    return is_done


def _all(*checks: Check) -> Check:
    return lambda answer: all(check(answer) for check in checks)


def _has_case(case: Callable[[str], str]) -> Check:
    return lambda answer: any(map(str.isalpha, answer)) and answer == case(answer)


def _short_sentences(most: int) -> Check:
    def is_done(answer: str) -> bool:
        parts = [part for part in re.split(r"[.!?]+(?:\s|$)|\n+", answer) if part.strip()]
        return bool(parts) and all(len(part.split()) <= most for part in parts)

    return is_done


_EMOJI = "[\U0001f300-\U0001faff\u2600-\u27bf\u2b50]"
_BULLET = r"^\s*[-*\u2022] ?\S"
_NUMBER = r"^\s*\d+[.)]"
_SORRY = r"\b(sorry|apolog\w+|regret\w*|forgive)\b"
_AMERICAN = (
    r"\b(colors?|favorites?|flavors?|centers?|meters?|organiz\w+|realiz\w+|traveling|neighbors?|behaviors?)\b"
)
_IMPERIAL = (
    r"\b(miles?|feet|foot|inch(es)?|pounds?|lbs?|ounces?|oz|gallons?|yards?|fahrenheit|cups?)\b|\u00b0F"
)
_CHILDLIKE = r"fun|play\w*|imagine|little|kids?|mom|toys?|games?|friends?|like a"
_CONTRACTION = r"\w['\u2019](t|s|re|ve|ll|d|m)\b"

ALL = (
    Wish("Answer in one sentence.", sentences(1)),
    Wish("Call me Ada.", has(r"\bada\b")),
    Wish("No emoji.", lacks(_EMOJI)),
    Wish("Always use bullet points.", has(_BULLET, 2)),
    Wish("Answer in capital letters.", _has_case(str.upper)),
    Wish("End with a question.", lambda answer: answer.rstrip("\"'\u201d) \n").endswith("?")),
    Wish("Keep it under 20 words.", words(1, 19)),
    Wish("Begin with 'Sure'.", has(r"\A\W*sure\b")),
    Wish("Do not apologise.", lacks(_SORRY)),
    Wish("Explain it as to a child.", has(rf"\b({_CHILDLIKE})\b")),
    Wish("Use numbered lists.", has(_NUMBER, 2)),
    Wish("Say please.", has(r"\bplease\b")),
    Wish("Never use the word 'however'.", lacks(r"\bhowever\b")),
    Wish("Use British spelling.", lacks(_AMERICAN)),
    Wish("Metric units only.", lacks(_IMPERIAL)),
    Wish("Give an example.", has(r"\b(for example|for instance|example|such as|e\.g\.)")),
    Wish("Reply in two sentences at most.", sentences(2)),
    Wish("Write everything in lowercase.", _has_case(str.lower)),
    Wish("I don't like exclamation marks.", lacks("!")),
    Wish("Don't use the words 'very' and 'really'.", lacks(r"\b(very|really)\b")),
    Wish("Finish every answer with 'Cheers!'", has(r"\bcheers!?\W*\Z")),
    Wish("My name is Tom, please use it.", has(r"\btom\b")),
    Wish("Give me exactly three bullet points.", lambda answer: len(re.findall(_BULLET, answer, re.M)) == 3),
    Wish("Put a heading above the answer.", has(r"\A\s*(#+ ?\S|\*\*[^*\n]+\*\*\s*\n|[^\n.!?]{3,60}:?\n)")),
    Wish("I am always in a hurry, so be brief.", words(1, 50)),
    Wish("No lists, just plain text.", _all(lacks(_BULLET), lacks(_NUMBER))),
    Wish("Talk like a pirate.", has(r"\b(arr+|matey|ahoy|aye|ye|yer|avast|cap'?n|treasure|seas?|ship)\b")),
    Wish("Answer in Italian.", has(r"\b(il|la|le|gli|un|una|di|che|per|\u00e8|e|con|non|sono)\b", 4)),
    Wish("Add an emoji.", has(_EMOJI)),
    Wish("Mention the weather somewhere.", has(r"\b(weather|rain\w*|sun\w*|cloud\w*|storm\w*|snow\w*)\b")),
    Wish("Answer in at least 60 words.", words(60)),
    Wish("Split the answer into two paragraphs.", has(r"\S\s*\n\s*\n\s*\S")),
    Wish("No contractions.", lacks(_CONTRACTION)),
    Wish("Thank me for asking.", has(r"\bthank(s| you)\b")),
    Wish("Start with yes or no.", has(r"\A\W*(yes|no)\b")),
    Wish("Close with a summary that starts with 'In short'.", has(r"\S.*\n*.*\bin short\b")),
    Wish("Do not use commas.", lacks(",")),
    Wish("Keep each sentence shorter than 15 words.", _short_sentences(15)),
    Wish("Address me as 'Madam'.", has(r"\bmadam\b")),
    Wish("Write key words in bold.", has(r"\*\*[^*\n]+\*\*")),
)

_LOT = random.Random(18).sample(range(len(ALL)), len(ALL))
TUNED, HELD_OUT = (tuple(ALL[i] for i in sorted(half)) for half in (_LOT[:20], _LOT[20:]))
