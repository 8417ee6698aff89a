"""How long an answer is to be, by the words with which people ask for it."""

import re

from serve.wishes.form import Form
from serve.wishes.rules import Rule, rule
from serve.wishes.sentences import NUMBER, Part, number

_UNIT = (
    r"(?:short |brief |simple |single |numbered |bullet |full )*"
    r"(word|sentence|line|bullet|item|point|step|paragraph)s?\b"
)
_MOST_PARAGRAPHS, _MOST_ITEMS, _MOST_SENTENCES, _MOST_WORDS = 6, 12, 20, 240
"""More than that is asked for and not held: its grammar would be long."""


def counted(unit: str, least: int | None, most: int | None) -> Form | None:
    """A form of at least and at most so many of something; None where no grammar says so."""
    unit = unit.lower()
    largest = max(least or 0, most or 0)
    if unit == "word":
        return Form(least_words=least, most_words=most) if largest <= _MOST_WORDS else None
    if unit in ("sentence", "line"):
        form = Form(least_sentences=least, most_sentences=most, lines=unit == "line")
        return form if largest <= _MOST_SENTENCES else None
    if unit == "paragraph":
        return Form(paragraphs=largest) if largest <= _MOST_PARAGRAPHS else None
    return Form(items="bulleted", least_items=least, most_items=most) if largest <= _MOST_ITEMS else None


def _at_most(match: re.Match[str], _: Part) -> Form | None:
    return counted(match[2], None, max(number(match[1]), 1))


def _fewer(match: re.Match[str], _: Part) -> Form | None:
    return counted(match[2], None, max(number(match[1]) - 1, 1))


def _at_least(match: re.Match[str], _: Part) -> Form | None:
    return counted(match[2], max(number(match[1]), 1), None)


def _more(match: re.Match[str], _: Part) -> Form | None:
    return counted(match[2], number(match[1]) + 1, None)


def _exactly(match: re.Match[str], _: Part) -> Form | None:
    count = max(number(match[1]), 1)
    return counted(match[2], count, count)


def _one(match: re.Match[str], _: Part) -> Form | None:
    return counted(match[1], 1, 1)


def _between(match: re.Match[str], _: Part) -> Form | None:
    least, most = sorted((max(number(match[1]), 1), max(number(match[2]), 1)))
    return counted(match[3], least, most)


def _each(match: re.Match[str], _: Part) -> Form:
    return Form(sentence_words=max(number(match[1]) - 1, 3))


_MAX = r"(?:at most|a maximum of|max(?:imum)?\.?|up to|(?:no|not) (?:more|longer) than|within)"
_LESS = r"(?:under|below|fewer than|less than|shorter than)"
_MIN = r"(?:at least|a minimum of|min(?:imum)?\.?|(?:no|not) (?:fewer|less) than)"
_OVER = r"(?:more than|over|longer than|above)"

GROUP: tuple[Rule, ...] = (
    rule(rf"\bbetween {NUMBER} and {NUMBER} {_UNIT}", _between),
    rule(rf"\b{NUMBER}(?: to |-|–){NUMBER} {_UNIT}", _between),
    rule(rf"\bsentences?\b.*?\b(?:{_LESS}|{_MAX}) {NUMBER} words", _each),
    rule(rf"\b{_MAX} {NUMBER} {_UNIT}", _at_most),
    rule(rf"\b{_LESS} {NUMBER} {_UNIT}", _fewer),
    rule(rf"\b{_MIN} {NUMBER} {_UNIT}", _at_least),
    rule(rf"\b{_OVER} {NUMBER} {_UNIT}", _more),
    rule(rf"\b{NUMBER} {_UNIT}(?: at most| max(?:imum)?| or (?:less|fewer))", _at_most),
    rule(rf"\b{NUMBER} {_UNIT}(?: at least| or more)", _at_least),
    rule(
        r"\b(?:in|with|to|use|give|write|into|of|only|just|exactly)(?: me)?(?: exactly| only| just)? "
        rf"{NUMBER} {_UNIT}",
        _exactly,
    ),
    rule(r"\b(?:in|with|to) an? (?:single |short )*(word|sentence|paragraph)\b", _one),
    rule(r"\bone[- ](word|sentence)\b", _one),
    rule(r"\bshort sentences\b", Form(sentence_words=10)),
    rule(
        r"\b(?:be|answer|reply|respond|write|stay|answers?) (?:very |always )?"
        r"(?:brief|briefly|concise|concisely|terse|tersely|succinct|succinctly|short)\b|\bto the point\b|"
        r"\b(?:brief|concise|short|terse) (?:answers?|replies|responses?)\b|"
        r"\bkeep (?:\w+ ){0,2}(?:very )?(?:brief|concise|short)\b",
        Form(most_sentences=2, most_words=40),
    ),
    rule(
        r"\bin detail\b|\bdetailed (?:answers?|replies)\b|\blong answers?\b|\bat length\b",
        Form(least_words=80),
    ),
)

ALL = (GROUP,)
