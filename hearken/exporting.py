"""`hearken export`: the votes of the log, with their texts, as a file for trainers and other services."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feedback.exporting import Exported, read_examples
from feedback.exports import EXPORTS, NotInLayout
from feedback.log import LogError
from feedback.opening import open_log, open_sealer
from feedback.tables import UnreadableFile, write_rows
from hearken.errors import UsageError


def run(file: Path, layout: str, data: Path, kafka: str | None) -> int:
    """Write the file and say what is in it, and what is not and why. Raises UsageError."""
    if not (data / "secret").exists():
        raise UsageError(
            f"{data} is not a service's data folder; name the one of `hearken up` with --data DIR"
        )
    try:
        log = open_log(data, kafka, "operator")
        try:
            exported = read_examples(log, open_sealer(data))
        finally:
            log.close()
    except LogError as error:
        raise UsageError(f"the log cannot be read: {error}", code=1) from error
    skipped = Counter(exported.skipped)
    try:
        count = write_rows(file, _rows(exported, layout, skipped))
    except (UnreadableFile, OSError) as error:
        raise UsageError(f"{file} cannot be written: {error}") from error
    print(f"{file}: {count} examples as {layout}")
    for reason, times in skipped.most_common():
        print(f"  {times} left out: {reason}")
    return 0


def _rows(exported: Exported, layout: str, skipped: Counter[str]) -> Iterator[dict[str, Any]]:
    for example in exported.examples:
        try:
            yield EXPORTS[layout](example)
        except NotInLayout as reason:
            skipped[str(reason)] += 1
