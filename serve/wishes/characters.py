"""Characters and words of a grammar, in XGrammar's EBNF: what a word may be made of."""

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from serve.wishes.form import Case

STOPS = ".!?"
PAUSES = ",;:"
SPACES = r" \t\n\u00a0\u2028\u2029"
CONTROLS = r"\u0000-\u0008\u000b-\u001f\u007f"
_WHOLE = ""  # in a tree: a word that may not be there ends here
_ASCII = {None: string.ascii_letters, "upper": string.ascii_uppercase, "lower": string.ascii_lowercase}
_LATIN = {
    None: r"\u00c0-\u024f",
    "upper": r"\u00c0-\u00d6\u00d8-\u00de",
    "lower": r"\u00df-\u00f6\u00f8-\u00ff",
}
# Alphabets beyond Latin have cases too, but no simple ranges of them: with a case there is Latin alone.
_OTHER_CASE = {
    None: "",
    "upper": r"a-z\u00df-\u00f6\u00f8-\u1fff\u2c00-\U0010ffff",
    "lower": r"A-Z\u00c0-\u00d6\u00d8-\u00de\u0100-\u1fff\u2c00-\U0010ffff",
}
Tree = dict[str, Any]


def literal(text: str) -> str:
    """A text as EBNF."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


@dataclass(frozen=True, slots=True)
class Alphabet:
    """The characters that an answer may have. excluded: others, as in a regular expression's brackets."""

    case: Case | None
    excluded: str

    @property
    def anything(self) -> str:
        """Any text; with a case it begins with a letter, since figures alone would do as well."""
        first = "" if self.case is None else f"[{_ASCII[self.case]}{_LATIN[self.case]}] "
        return f"{first}[^{CONTROLS}{_OTHER_CASE[self.case]}{self.excluded}]*"

    def said(self, text: str) -> str:
        """What an answer says word for word, in the alphabet's case and without characters that it lacks."""
        if self.case is not None:
            text = text.upper() if self.case == "upper" else text.lower()
        lacking = re.compile(f"[{self.excluded}]") if self.excluded else None
        return literal(lacking.sub("", text) if lacking else text)

    def marks(self, among: str) -> str:
        """Those of some marks that an answer may have."""
        return self.said(among)[1:-1]

    def between(self, more: str = "") -> str:
        """What stands between two words: a space, maybe after a pause or one of `more`."""
        marks = self.marks(PAUSES + more)
        return f'[{marks}]? " "' if marks else '" "'

    def word_not_like(self, phrase: str) -> str:
        """A word within a sentence that does not begin as a phrase does."""
        kept_out = f"{CONTROLS}{SPACES}{_OTHER_CASE[self.case]}{self.excluded}{STOPS}{PAUSES}"
        first = "".join(f"\\u{ord(char):04x}" for char in {phrase[0].lower(), phrase[0].upper()})
        return f"[^{kept_out}{first}] [^{kept_out}]*" if phrase != "*" else f"[^{kept_out}*]+"

    def plain_word(self, name: str, without: Iterable[str]) -> list[str]:
        """The same without marks, which stand between words: a model that has to end its sentence, and does
        not want to, would go on with them and without spaces."""
        marks = f"{STOPS}{PAUSES}/\\-"
        if _tree(without):
            return self.word(name, without, marks)
        letters = f"[^{CONTROLS}{SPACES}{_OTHER_CASE[self.case]}{self.excluded}{marks}]"
        return [f'{name} ::= {letters}+ ("-" {letters}+)?']

    def word(self, name: str, without: Iterable[str], more: str = "") -> list[str]:
        """Rules by which `name` is a word: no space is in it, none of `more`, and none of the words.

        without: words in small letters; one with a star is the beginning of words. A tree of them is followed
        letter by letter, and where it is left the rest of a word may be anything.
        """
        kept_out = f"{CONTROLS}{SPACES}{_OTHER_CASE[self.case]}{self.excluded}{more}"
        tree = _tree(without)
        if not tree:
            return [f"{name} ::= [^{kept_out}]+"]
        mark = f"[^{string.ascii_letters}{_LATIN[None]}{kept_out}] {name}_any"
        free = f"[{_ASCII[self.case]}{_LATIN[self.case]}] {name}_free"
        return [
            *self._nodes(name, f"{name}_in", tree, mark),
            f'{name}_any ::= "" | {name}',
            f'{name}_free ::= "" | {mark} | {free}',
        ]

    def _nodes(self, word: str, name: str, tree: Tree, mark: str) -> list[str]:
        """The rule of a place in a tree of words, and those of the places below it. At the root, which has
        the word's own name, a word may not end."""
        below: list[str] = []
        ways, known = [], ""
        for letter, branch in tree.items():
            if letter == _WHOLE:
                continue
            known += letter + letter.upper()
            if branch is not None:
                both = {None: letter + letter.upper(), "upper": letter.upper(), "lower": letter}[self.case]
                ways.append(f"[{both}] {name}{letter}")
                below += self._nodes(word, f"{name}{letter}", branch, mark)
        rest = "".join(letter for letter in _ASCII[self.case] if letter not in known)
        ways.append(f"[{rest}{_LATIN[self.case]}] {word}_free")
        if _WHOLE not in tree:
            ways.append(mark)
            if name != f"{word}_in":
                ways.append('""')
        here = word if name == f"{word}_in" else name
        return [f"{here} ::= {' | '.join(ways)}", *below]


def _tree(words: Iterable[str]) -> Tree:
    """Words letter by letter; a branch that is None is taken by no word, for a star ends it."""
    root: Tree = {}
    for word in words:
        letters, starred = word.removesuffix("*"), word.endswith("*")
        if not (letters.isascii() and letters.isalpha()):
            continue
        place: Tree | None = root
        for at, letter in enumerate(letters):
            if place is None:
                break  # the beginning of the word is left out already
            if starred and at == len(letters) - 1:
                place[letter] = None
            elif letter not in place:
                place[letter] = {}
            place = place[letter]
        if not starred and place is not None:
            place[_WHOLE] = True
    return root
