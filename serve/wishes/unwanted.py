"""What people do not want in an answer, by the words they use for it."""

import re

from serve.wishes import word_lists as lists
from serve.wishes.form import Form
from serve.wishes.lengths import counted
from serve.wishes.rules import Rule, rule
from serve.wishes.sentences import NUMBER, Part, number

_LISTED = re.compile(
    r"\b(?:the )?(?:words?|phrases?|expressions?) (?!\")((?:\w+(?:,? (?:and|or) |, )?){1,6})"
)


def _apart(phrase: str) -> Form:
    """A form without a phrase; of several words without the longest one, since a program looks at words."""
    words = re.findall(r"[^\W_]+(?:['\u2019][^\W_]+)?", phrase)
    if words:
        return Form(without=(max(words, key=len).lower(),))
    return Form(without_chars="".join(f"\\u{ord(char):04x}" for char in phrase if ord(char) < 0x10000))


def named(part: Part) -> list[Form]:
    """Forms without the words that a part names."""
    found = [_apart(phrase) for phrase in part.quoted]
    for match in _LISTED.finditer(part.text):
        found += [_apart(word) for word in re.split(r",? (?:and|or) |, ", match[1]) if word]
    return found


def _bounded(match: re.Match[str], _: Part) -> Form | None:
    over = match[1].lower() not in ("less", "fewer")
    count = max(number(match[2]), 1)
    return counted(match[3], None, count) if over else counted(match[3], count, None)


_QUOTES = r"\"\u201c\u201d\u00ab\u00bb\u201e"

RULES: tuple[Rule, ...] = (
    rule(rf"\b(more|longer|over|less|fewer|exceed)(?: than)? {NUMBER} (word|sentence)s?", _bounded),
    rule(r"\b(?:apolog\w+|sorry)\b", Form(without=lists.APOLOGIES)),
    rule(r"\bemojis?\b|\bemoticons?\b|\bsmil(?:ey|ie)s?\b", Form(without_chars=lists.EMOJI_CHARS)),
    rule(r"\bexclamation\b", Form(without_chars="!")),
    rule(r"\bquestions?\b", Form(without_chars="?")),
    rule(r"\bcommas?\b", Form(without_chars=",")),
    rule(r"\bsemi-?colons?\b", Form(without_chars=";")),
    rule(r"(?<!semi)(?<!semi-)\bcolons?\b", Form(without_chars=":")),
    rule(r"\b(?:digits?|numerals?|numbers)\b", Form(without_chars="0-9")),
    rule(r"\b(?:parenthes[ei]s|brackets?)\b", Form(without_chars=r"()\[\]")),
    rule(r"\b(?:dash(?:es)?|hyphens?)\b", Form(without_chars="\\-\u2010-\u2015")),
    rule(r"\b(?:quotation marks?|quotes)\b", Form(without_chars=_QUOTES)),
    rule(r"\bcontract(?:ions?|ed)\b", Form(without_chars="'\u2019")),
    rule(r"\b(?:markdown|formatting|asterisks?|bold|italics?)\b", Form(without_chars="*_#`", plain=True)),
    rule(r"\b(?:head(?:ing|er|line)s?|titles?|hashtags?)\b", Form(without_chars="#")),
    rule(r"\b(?:lists?|bullets?|bullet[- ]?points?|numbered|enumerat\w+)\b", Form(plain=True)),
    rule(r"\b(?:line breaks?|newlines?|paragraphs)\b", Form(plain=True)),
    rule(r"\bfirst person\b|\btalk about yourself\b|\brefer to yourself\b", Form(without=lists.FIRST_PERSON)),
    rule(r"\b(?:ai|language model|chat ?bot)\b", Form(without=("ai", "model*", "chatbot*"))),
    rule(r"\b(?:swear\w*|curs(?:e|ing)|profan\w+|bad language)\b", Form(without=lists.CURSES)),
    rule(r"\b(?:capitals?|capital letters|upper[- ]?case)\b", Form(case="lower")),
    rule(r"\bamerican\b", Form(without=lists.AMERICAN)),
    rule(r"\bbritish\b", Form(without=lists.BRITISH)),
    rule(r"\bimperial\b", Form(without=lists.IMPERIAL)),
)
ALL: tuple[tuple[Rule, ...], ...] = tuple((one,) for one in RULES)
