"""Whole files: what their rows say, once it is known which numbers their columns have, and who judges whom.

Files are read twice. The first time tells the range of each column (1 is the best of 0 to 1 and the worst of
1 to 5), and which answers rows of other files judge. The second time gives the examples; only the judgements
of other rows' answers are kept in memory, never their texts.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from feedback.dialects.reading import alone, read
from feedback.rows.examples import Example
from feedback.rows.said import About, Misfit, Options, Said, Shown
from feedback.rows.tables import Numbered, UnreadableFile, read_rows


class Found(NamedTuple):
    """What one row of a file said: an example, or the reason why it says nothing that can be used.

    file: its index. row: its number, from 1. A reason with the row 0 is about the whole file.
    """

    file: int
    row: int
    said: Example | Misfit


@dataclass(slots=True)
class _File:
    path: Path
    options: Options
    rows: int = 0


class Survey:
    """Files, read once. `files` may be read again for their examples."""

    def __init__(self, files: Sequence[Path], options: Options) -> None:
        self._files = [_File(path, options.of_a_file()) for path in files]
        self._shown: Counter[str] = Counter()
        self._within: Counter[str] = Counter()
        abouts: list[tuple[int, int, About]] = []
        for index, file in enumerate(self._files):
            for number, said in self._first(file):
                for each in said:
                    if isinstance(each, Shown):
                        self._shown.update(each.names)
                        self._within.update(each.within)
                    elif isinstance(each, About):
                        abouts.append((index, number, each))
            file.options.numbers.complete = True
        self._judged: dict[str, list[tuple[int, int, About]]] = {}
        self._told: set[str] = set()
        for found in abouts:
            name = self._target(found[2])
            if name is not None:
                self._judged.setdefault(name, []).append(found)

    @property
    def rows(self) -> list[int]:
        """How many rows each file has."""
        return [file.rows for file in self._files]

    def _first(self, file: _File) -> Iterator[tuple[int, list[Said]]]:
        try:
            for number, row, _ in read_rows(file.path):
                file.rows += 1
                if row is None:
                    continue
                try:
                    yield number, read(row, file.options)
                except Misfit:
                    continue  # told when it is read again
        except UnreadableFile:
            return  # told when it is read again

    def _target(self, about: About) -> str | None:
        """The name of the shown answer that a judgement is of. None where none is, or more than one."""
        for name in about.names:
            if self._shown[name] or self._within[name] == 1:
                return name
        return None

    def examples(self) -> Iterator[Found]:
        """What the files say, row by row. A file that cannot be read to its end ends no other."""
        for index, file in enumerate(self._files):
            try:
                for numbered in read_rows(file.path):
                    yield from self._second(index, file, numbered)
            except UnreadableFile as error:
                yield Found(index, 0, Misfit(str(error)))
        for waiting in self._judged.values():  # of answers that were there the first time only
            for index, number, _ in waiting:
                yield Found(index, number, Misfit("the answer that it is about is gone from its file"))

    def _second(self, index: int, file: _File, numbered: Numbered) -> Iterator[Found]:
        number, row, problem = numbered
        if row is None:
            yield Found(index, number, Misfit(problem))
            return
        try:
            said = read(row, file.options)
        except Misfit as misfit:
            yield Found(index, number, misfit)
            return
        for each in said:
            if isinstance(each, Shown):
                yield from self._of(each, index, number)
            elif isinstance(each, About):
                found = self._alone(each)
                if found is not None:
                    yield Found(index, number, found)
            else:
                yield Found(index, number, each)

    def _of(self, shown: Shown, index: int, number: int) -> Iterator[Found]:
        """The judgements of an answer, wherever they stand; those of its own row if there are none."""
        names = (*shown.names, *(name for name in shown.within if not self._shown[name]))
        waiting = [found for name in names for found in self._judged.pop(name, ())]
        for file, row, about in sorted(waiting, key=lambda found: found[:2]):
            yield Found(file, row, about.of(shown))
        if waiting:
            self._told.update(shown.names)
        if waiting or not self._told.isdisjoint(shown.names):
            return
        if not shown.otherwise:
            yield Found(index, number, Misfit("nobody judged its answer in these files"))
        for each in shown.otherwise:
            yield Found(index, number, each)

    def _alone(self, about: About) -> Example | Misfit | None:
        """A judgement of what no row shows; None for one that is told with its answer."""
        if self._target(about) is not None:
            return None
        for name in about.names:
            if self._within[name] > 1:
                return Misfit(
                    f"it is about {name!r}, which has {self._within[name]} answers: which is not known"
                )
        try:
            return alone(about)
        except Misfit as misfit:
            return misfit
