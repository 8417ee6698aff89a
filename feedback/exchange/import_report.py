"""Report of what became of the rows of an import, for people and for programs."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

ROWS_SHOWN = 5  # row numbers told to people for each reason
MOST_REASONS = 1000
"""Reasons told apart: each may quote what its row has, and a file may have millions of rows."""
_OTHER_REASONS = f"for more than {MOST_REASONS} reasons in all; the first ones are told"


@dataclass(slots=True)
class Report:
    """What became of a file's rows. `problem`: why it could not be read to its end."""

    file: str
    rows: int = 0
    imported: Counter[str] = field(default_factory=Counter)  # kind -> how many
    repeated: int = 0
    changed: int = 0
    skipped: dict[str, list[int]] = field(default_factory=dict)  # reason -> rows
    problem: str = ""

    @property
    def is_of_use(self) -> bool:
        """Whether any row could be used."""
        return bool(self.imported or self.repeated)

    def skip(self, reason: str, row: int) -> None:
        """Count a row, from 1, that cannot be used. With the row 0 the reason is about the whole file."""
        if row == 0:
            self.problem = reason
            return
        if reason not in self.skipped and len(self.skipped) >= MOST_REASONS:
            reason = _OTHER_REASONS
        self.skipped.setdefault(reason, []).append(row)

    def lines(self) -> list[str]:
        """For people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.imported.items())) or "nothing"
        told = [f"{self.file}: {self.rows} rows, imported {kinds}"]
        if self.repeated:
            told.append(f"  {self.repeated} said again what another row said")
        if self.changed:
            told.append(f"  {self.changed} judged again what the same rater had judged: the newest counts")
        told += [f"  {reason}" for reason in self.reasons()]
        if self.problem:
            told.append(f"  not read to its end: {self.problem}")
        return told

    def reasons(self) -> list[str]:
        """Why rows were skipped, the most frequent reason first, each with its first rows."""
        return [
            f"{len(rows)} skipped: {reason} (row {_shown(rows)})"
            for reason, rows in sorted(self.skipped.items(), key=lambda item: -len(item[1]))
        ]

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        skipped = {reason: {"count": len(rows), "rows": rows} for reason, rows in self.skipped.items()}
        return {
            "file": self.file,
            "rows": self.rows,
            "imported": dict(self.imported),
            "repeated": self.repeated,
            "changed": self.changed,
            "skipped": skipped,
            "problem": self.problem or None,
        }


def _shown(rows: list[int]) -> str:
    return ", ".join(map(str, rows[:ROWS_SHOWN])) + (", .." if len(rows) > ROWS_SHOWN else "")
