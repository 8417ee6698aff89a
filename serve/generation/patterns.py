"""How much work a regular expression of a JSON Schema is, before an engine tries.

vLLM's xgrammar writes such an expression out as an automaton, a repetition as often as it may come, and
compares the states with each other: what that takes grows with the square of the length. It happens on the
thread that serves all requests: `^.{0,1600}$` stops an engine for two seconds, for everyone. A repetition of
more than 128 times it cannot compile at all.
"""

import re
from dataclasses import dataclass

MAX_REPEATS = 128
_MOST = 100_000  # nothing above the bounds has to be exact

_GROUP = re.compile(r"\((?:\?(?:[:=!]|<[=!]|P?<\w*>))?")
_TIMES = re.compile(r"(?:[?*+]|\{(\d{1,9})(?:(,)(\d{0,9}))?\})[?+]?")
_CLASS = re.compile(r"\[\^?(?:\\.|[^\]\\])*\]?", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u\{[0-9a-fA-F]*\}|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|[pP]\{\w*\}|.)", re.DOTALL)
_WIDE = re.compile(r"\[\^|[^\x00-\x7f]|\\[uWDSpP]")
_WIDE_STATES = 4  # a character outside of ASCII has up to four bytes


@dataclass(slots=True)
class Work:
    """What an expression, or a part of it, takes.

    `length`: its characters with each repetition written out. `repeated`: the same of what a quantifier
    stands behind alone, for a long word by itself is cheap. `times`: its longest repetition.
    """

    length: int = 0
    repeated: int = 0
    times: int = 1

    def add(self, part: "Work") -> None:
        """Put a part behind, or beside, what is there."""
        self.length = min(_MOST, self.length + part.length)
        self.repeated = min(_MOST, self.repeated + part.repeated)
        self.times = max(self.times, part.times)

    def repeat(self, times: int) -> None:
        """Put a quantifier behind it."""
        self.length = self.repeated = min(_MOST, self.length * max(1, times))
        self.times = max(self.times, times)


def work_of(pattern: str, *, unrolled: bool = True) -> Work:
    """The work of a regular expression; of one that is none, of its parts.

    unrolled: whether repetitions are written out. Those of an expression that is no schema's are not.
    """
    open_groups, at = [Work()], 0
    while at < len(pattern):
        part, at = _part(pattern, at, open_groups)
        if part is None:
            continue
        if found := _TIMES.match(pattern, at):
            least, _, most = found.groups()
            part.repeat(int(most or least or 1) if unrolled else 1)
            at = found.end()
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
    if pattern[at] in "^$|":
        return None, at + 1
    found = _CLASS.match(pattern, at) or _ESCAPE.match(pattern, at)
    text = found[0] if found else pattern[at]
    is_wide = text == "." or _WIDE.search(text) is not None
    return Work(length=_WIDE_STATES if is_wide else 1), at + len(text)
