"""How much work a regular expression of a JSON Schema is, before an engine tries.

vLLM's xgrammar writes such an expression out as an automaton, a repetition as often as it may come, and
compares the states with each other: what that takes grows with the square of the length. It happens on the
thread that serves all requests: `^.{0,1600}$` stops an engine for two seconds, for everyone. A repetition of
more than 128 times it cannot compile at all.
"""

import re
from dataclasses import dataclass

MAX_REPEATS = 128
MAX_DEPTH = 2
_MOST = 100_000  # nothing above the bounds has to be exact

_GROUP = re.compile(r"\((?:\?(?:[:=!]|<[=!]|P?<\w*>))?")
_TIMES = re.compile(r"[?*+]|\{(?=,?\d)(\d*)(?:(,)(\d*))?\}", re.ASCII)
_CLASS = re.compile(r"\[\^?(?:\\.|[^\]\\])*\]?", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u\{[0-9a-fA-F]*\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[pP]\{\w*\}|.)", re.DOTALL)
_WIDE = re.compile(r"\[\^|[^\x00-\x7f]|\\[uWDSpP]")
_WIDE_STATES = 4  # a character outside of ASCII has up to four bytes


@dataclass(slots=True)
class Work:
    """What an expression, or a part of it, takes.

    `length`: its characters with each repetition written out. `repeated`: the same of what a quantifier
    stands behind alone, for a long word by itself is cheap. `times`: its longest repetition. `loops`: it
    repeats a group that may be empty, as in `(a*)*`: a text fits that in ever more ways, and an engine that
    follows them all takes seconds for a token. `depth`: how deep repetitions without a bound are in each
    other; with `((a+)+)+` it is the same.
    """

    length: int = 0
    repeated: int = 0
    times: int = 1
    loops: bool = False
    depth: int = 0
    is_empty: bool = True  # what is between the last | and here may be empty
    was_empty: bool = False  # or what stands before a |

    @property
    def may_be_empty(self) -> bool:
        return self.is_empty or self.was_empty

    def add(self, part: "Work") -> None:
        """Put a part behind what is there."""
        self.length = min(_MOST, self.length + part.length)
        self.repeated = min(_MOST, self.repeated + part.repeated)
        self.times = max(self.times, part.times)
        self.loops |= part.loops
        self.depth = max(self.depth, part.depth)
        self.is_empty &= part.may_be_empty

    def begin_alternative(self) -> None:
        """What comes now stands beside what is there."""
        self.was_empty, self.is_empty = self.may_be_empty, True

    def repeat(self, least: int, most: int | None, written: int) -> None:
        """Put a quantifier behind it; most: None for any number. written: how often it is written out."""
        self.length = self.repeated = min(_MOST, self.length * max(1, written))
        self.times = max(self.times, least, most or 0)
        self.loops |= self.may_be_empty and (most is None or most > 1)
        self.depth += most is None
        self.is_empty |= least == 0


def work_of(pattern: str, *, unrolled: bool = True) -> Work:
    """The work of a regular expression; of one that is none, of its parts.

    unrolled: whether all repetitions are written out. In an expression that is no schema's only those of
    groups are, for engines do so, and an engine hangs in repetitions of repetitions.
    """
    open_groups, at = [Work()], 0
    while at < len(pattern):
        is_group = pattern[at] == ")"
        part, at = _part(pattern, at, open_groups)
        if part is None:
            continue
        while found := _TIMES.match(pattern, at):  # one behind the other is a repetition of a repetition
            least, most = _counts(found)
            part.repeat(least, most, max(least, most or 0) if unrolled or is_group else 1)
            at, is_group = found.end(), True
            at += pattern[at : at + 1] == "?"  # as few as will do
        open_groups[-1].add(part)
    while len(open_groups) > 1:
        group = open_groups.pop()
        open_groups[-1].add(group)
    return open_groups[0]


def _part(pattern: str, at: int, open_groups: list[Work]) -> tuple[Work | None, int]:
    """The part that ends next, None where a group begins or nothing is; and where it goes on."""
    if found := _GROUP.match(pattern, at):
        open_groups.append(Work())
        return None, found.end()
    if pattern[at] == ")" and len(open_groups) > 1:
        return open_groups.pop(), at + 1
    if pattern[at] == "|":
        open_groups[-1].begin_alternative()
    if pattern[at] in "^$|":
        return None, at + 1
    found = _CLASS.match(pattern, at) or _ESCAPE.match(pattern, at)
    text = found[0] if found else pattern[at]
    is_wide = text == "." or _WIDE.search(text) is not None
    return Work(length=_WIDE_STATES if is_wide else 1, is_empty=False), at + len(text)


def _counts(quantifier: re.Match[str]) -> tuple[int, int | None]:
    """How often at least, and at most, None for any number."""
    least, comma, most = quantifier.groups()
    if least is None:
        return {"?": (0, 1), "*": (0, None), "+": (1, None)}[quantifier[0]]
    return _number(least), _number(most) if most else (None if comma else _number(least))


def _number(digits: str) -> int:
    return int(digits.lstrip("0")[:9] or 0)  # nobody repeats anything more often
