"""`hearken export`: the votes of the log, with their texts, as a file for trainers and other services."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from math import inf
from pathlib import Path
from typing import Any

from feedback.core.ids import Signer
from feedback.core.log import EventLog, LogError
from feedback.core.secret import load_secret
from feedback.exchange.exporting import Wanted, examples
from feedback.exchange.exports import EXPORTS, NotInLayout
from feedback.exchange.importing import IMPORTED
from feedback.opening import open_log, open_sealer
from feedback.rows.tables import UnreadableFile, write_rows
from hearken.base.checks import check_service
from hearken.base.errors import UsageError


@dataclass(frozen=True, slots=True)
class ExportSettings:
    """What `hearken export` was told. users: names or pseudonyms, none for everyone; times as `moment`."""

    file: Path
    data: Path
    layout: str = "hearken"
    kafka: str | None = None
    tenant: str = "default"
    users: Sequence[str] = ()
    since: str | None = None
    until: str | None = None


def run(settings: ExportSettings) -> int:
    """Write the file and say what is in it, and what is not and why. Raises UsageError."""
    check_service(settings.data)
    wanted = _wanted(settings)
    skipped: Counter[str] = Counter()
    try:
        log = open_log(settings.data, settings.kafka, "operator")
        try:
            count = write_rows(settings.file, _rows(log, settings, wanted, skipped))
        finally:
            log.close()
    except LogError as error:
        raise UsageError(f"the log cannot be read: {error}", code=1) from error
    except (UnreadableFile, OSError) as error:
        raise UsageError(f"{settings.file} cannot be written: {error}") from error
    print(f"{settings.file}: {count} examples as {settings.layout}")
    for reason, times in skipped.most_common():
        print(f"  {times} left out: {reason}")
    return 0


def moment(text: str) -> float:
    """Unix seconds of a time such as 2026-11-29 or 2026-11-29T12:00+01:00; UTC where it names no zone.

    Raises UsageError.
    """
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text!r} is no time; write 2026-11-29 or 2026-11-29T12:00") from error
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _wanted(settings: ExportSettings) -> Wanted:
    signer = Signer(load_secret(settings.data / "secret"))
    raters: set[str] = set()
    for name in settings.users:
        # Files that were imported before people were named alike have them under the second name.
        raters |= {signer.pseudonym(settings.tenant, each) for each in (name, f"{IMPORTED}:{name}")}
        if Signer.is_pseudonym(name):
            raters.add(name)
    return Wanted(
        settings.tenant,
        frozenset(raters) if settings.users else None,
        -inf if settings.since is None else moment(settings.since),
        inf if settings.until is None else moment(settings.until),
    )


def _rows(
    log: EventLog, settings: ExportSettings, wanted: Wanted, skipped: Counter[str]
) -> Iterator[dict[str, Any]]:
    sealer = open_sealer(settings.data)
    try:
        for example in examples(log, sealer, wanted, skipped):
            try:
                yield EXPORTS[settings.layout](example)
            except NotInLayout as reason:
                skipped[str(reason)] += 1
    finally:
        sealer.close()
