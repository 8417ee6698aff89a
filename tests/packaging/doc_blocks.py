"""The code blocks of README and docs, and the commands in them."""

import re
import shlex
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass

from tests.packaging.tools import ROOT

PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "examples/README.md",
    *sorted(ROOT.glob("docs/*.md")),
)

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LIST = re.compile(r"^( *)([-*]|\d+\.) ")
PROGRAM = re.compile(r"(?:\w+=\S+ +)*(\.venv/bin/)?([\w./-]+)(?= |$)")


@dataclass(frozen=True, slots=True)
class Block:
    """page: its path from the top of the repository. language: that of a fence; "" for an indented block."""

    page: str
    language: str
    text: str

    @property
    def name(self) -> str:
        """The page and the first words: how tests speak of a block."""
        return f"{self.page}: {self.text.splitlines()[0]:.50}"


def blocks() -> list[Block]:
    """All blocks of all pages, in their order."""
    return [block for path in PAGES for block in of_text(str(path.relative_to(ROOT)), path.read_text())]


def of_text(page: str, text: str) -> Iterator[Block]:
    """The fenced blocks of a page, and then those that are indented by four spaces."""
    for language, inside in FENCE.findall(text):
        yield Block(page, language, textwrap.dedent(inside))
    yield from (Block(page, "", each) for each in indented(FENCE.sub("", text)))


def indented(text: str) -> Iterator[str]:
    """Blocks as Markdown has them: after an empty line, and not within a list's item."""
    found: list[str] = []
    after_empty, in_list = True, False
    for line in [*text.splitlines(), "end"]:
        is_code = line.startswith("    ") and (bool(found) or (after_empty and not in_list))
        if is_code or (found and not line.strip()):
            found.append(line)
        elif found:
            yield textwrap.dedent("\n".join(found)).strip("\n")
            found = []
        if line.strip():
            in_list = bool(LIST.match(line)) or (in_list and line.startswith(" "))
        after_empty = not line.strip()


def commands(text: str) -> list[list[str]]:
    """The words of each command of a shell's block; a comment ends a line, and a quote may go over several.

    Raises `ValueError` for a quote without an end.
    """
    found, open_line = [], ""
    for line in text.replace("\\\n", " ").splitlines():
        open_line += line
        try:
            words = shlex.split(open_line, comments=True)
        except ValueError:
            open_line += "\n"
            continue
        open_line = ""
        found += list(_divided(words))
    if open_line:
        raise ValueError(f"a quote without an end: {open_line:.60}")
    return [words for words in found if words]


def _divided(words: list[str]) -> Iterator[list[str]]:
    """Commands that && joins; variables that are set before a command are left out."""
    one: list[str] = []
    for word in [*words, "&&"]:
        if word == "&&":
            yield one
            one = []
        elif one or not re.fullmatch(r"[A-Z_]+=\S*", word):
            one.append(word)


def is_shell(block: Block, programs: frozenset[str]) -> bool:
    """Whether a block is commands: its fence says so, or its first word is a program."""
    if block.language:
        return block.language in ("sh", "bash", "shell", "console")
    first = PROGRAM.match(block.text)
    return first is not None and first[2] in programs
