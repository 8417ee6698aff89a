"""What an answer is to say, by the words with which people ask for it."""

import re

from serve.wishes.form import Form
from serve.wishes.rules import Rule, quoted_after, rule, said_after
from serve.wishes.sentences import Part

_OPENINGS = {
    "french": "Bien sûr, ",
    "spanish": "Claro, ",
    "german": "Natürlich, ",
    "italian": "Certo, ",
    "portuguese": "Claro, ",
    "dutch": "Natuurlijk, ",
    "swedish": "Visst, ",
    "polish": "Oczywiście, ",
}
"""A model that has begun in a language goes on in it."""

_YES_OR_NO = re.compile(r"\s*(?:either )?(?:an? )?yes,? or (?:an? )?no\b", re.I)


def _begun(match: re.Match[str], part: Part) -> Form | None:
    rest = part.text[match.end() :]
    if _YES_OR_NO.match(rest):
        return Form(begins=("Yes", "No"))
    if re.search(r'" or "', rest):
        return Form(begins=quoted_after(match, part))
    phrase = said_after(match, part)
    return None if phrase is None else Form(begins=(phrase,))


def _ended(match: re.Match[str], part: Part) -> Form | None:
    phrase = said_after(match, part)
    return None if phrase is None else Form(ends=phrase)


def _closed(match: re.Match[str], part: Part) -> Form:
    quoted = quoted_after(match, part)
    return Form(closes=f"{quoted[0].rstrip(',:') if quoted else 'In short'}, ")


def _named(match: re.Match[str], part: Part) -> Form | None:
    name = said_after(match, part)
    return None if name is None else Form(name=name)


def _had(match: re.Match[str], part: Part) -> Form | None:
    return Form(has=quoted) if (quoted := quoted_after(match, part)) else None


def _worded(match: re.Match[str], _: Part) -> Form:
    return Form(has=(match[1],))


def _spoken(match: re.Match[str], _: Part) -> Form:
    return Form(leads=(_OPENINGS[match[1].lower()],))


_BEGIN = (
    r"\b(?:start|begin|open|starting|beginning|opening)\b(?: (?!with|by|off)\S+){0,4}?(?: off)?(?: with| by)"
)
_END = (
    r"\b(?:end|finish|close|conclude|ending|finishing|closing)\b"
    r"(?: (?!with|by|in)\S+){0,4}?(?: off)?(?: with| by)"
)
_SAY = r"\b(?:use|say|include|mention|work in|contain|add)"
_PLACE = r"(?: it)?(?: somewhere| once)?\.?$"

SAYINGS = (
    rule(_BEGIN, _begun),
    rule(r"\b(?:first|always) say\b", _begun),
    rule(rf"{_END} (?:an? |one |your own )?(?:follow-up |short |open )?question", Form(asks=True)),
    rule(r"\bask (?:me )?(?:an?|one|some) (?:\w+ ){0,2}question", Form(asks=True)),
    rule(r"\b(?:summary|summari[sz]e|recap|tl;?dr|conclusion)\b", _closed),
    rule(r"\bpostscript\b|\bp\.? ?s\.?(?= |$)", Form(closes="P.S. ")),
    rule(_END, _ended),
    rule(r"\bsign(?: (?:off|your|the|every|each|all|answers?|messages?))* (?:with|as)\b", _ended),
    rule(r"\bmy name is\b|\bi am called\b", _named),
    rule(r"\b(?:call|address) me(?: as| by(?: my)?(?: name)?,?)?\b", _named),
    rule(r"\bsay please\b", Form(leads=("Please ",))),
    rule(r"\bthank me\b|\bsay thank", Form(leads=("Thank you for asking. ",))),
    rule(r"\bgreet me\b", Form(begins=("Hello",))),
    rule(rf"{_SAY}\b[^\"]*(?=\")", _had),
    rule(rf"{_SAY} the word (\w+){_PLACE}", _worded),
    rule(rf"\bmention (?:the |an? )?(\w+){_PLACE}", _worded),
    rule(
        r"\b(?:give|add|include|with|use|show)(?: me)?(?: an?| one| at least one| some)?"
        r"(?: \w+)? ?examples?\b",
        Form(then="For example,"),
    ),
    rule(
        r"\b(?:tell me|say|explain) why\b|\b(?:give|state|add) (?:me )?(?:a|the|your) reasons?\b",
        Form(has=("because",)),
    ),
    rule(r"\bnot (?:entirely |quite )?(?:sure|certain)\b", Form(leads=("I am not sure, but ",))),
    rule(r"\b(?:use|with|add|like)\b.*\bexclamation (?:marks?|points?)\b", Form(has=("!",))),
    rule(r"\b(?:like|as) a pirate\b", Form(leads=("Arr, matey, ",))),
    rule(
        r"\b(?:explain|answer|talk|write|speak|describe|tell)\b.*"
        r"\b(?:child|kid|children|toddler|year[- ]old)\b",
        Form(leads=("Imagine ",), sentence_words=15),
    ),
    rule(rf"\b(?:in|speak|use|write|answer|reply)(?: only)?(?: in)? ({'|'.join(_OPENINGS)})\b", _spoken),
)

ALL: tuple[tuple[Rule, ...], ...] = tuple((one,) for one in SAYINGS)
