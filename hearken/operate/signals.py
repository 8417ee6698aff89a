"""`hearken signals try`: what a signals file would make of the log, and how far that agrees with votes."""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.log import EventLog
from feedback.core.replay import replay
from feedback.joining.file import FileJoins, make_tables
from feedback.joining.join import Joiner
from feedback.joining.opened import Opener
from feedback.opening import open_sealer
from feedback.privacy.sealing import Sealer
from hearken.base.errors import UsageError
from hearken.base.telling import columns
from hearken.operate.log import open_service_log, reading
from learner.votes.believing import beliefs
from learner.votes.deeds import meaning_of
from learner.votes.labels import LabelStore
from learner.votes.meanings import BadMeanings, Meanings, read_meanings
from learner.votes.reliability import MODEL

PATIENCE_SECONDS = 30.0
HEAD = ("signal", "direction", "events", "happened", "beside votes", "agreement", "weight")


@dataclass(frozen=True, slots=True)
class Row:
    """What the log says of one name. happened: share of the events; beside_votes: events on whose answers
    the same people voted; agreement, error: what it tells of votes, from -1 to 1; weight: what it would
    weigh."""

    name: str
    direction: str
    objective: str
    events: int
    happened: float
    beside_votes: int
    agreement: float
    error: float
    weight: float


@dataclass(frozen=True, slots=True)
class Trial:
    """What a file makes of a log. silent: events without a meaning, by name; unshown: events that say that
    nobody was shown the answer."""

    rows: Sequence[Row]
    silent: Counter[str]
    unshown: int


def run(file: Path, data: Path, kafka: str | None, kept: int, *, as_json: bool) -> int:
    """Print what `file` makes of the log. kept: how many events, and votes, are looked at, as the learner
    remembers them. Raises UsageError."""
    try:
        meanings = read_meanings(file)
    except BadMeanings as error:
        raise UsageError(str(error)) from error
    with reading(open_service_log(data, kafka)) as log, closing(open_sealer(data)) as sealer:
        found = trial(log, sealer, meanings, kept)
    print(json.dumps(_as_json(found)) if as_json else "\n".join(lines(found)))
    return 0


def trial(log: EventLog, sealer: Sealer, meanings: Meanings, kept: int) -> Trial:
    """Read the log to its end, and hold its signals against its votes. Raises LogError."""
    store = LabelStore(0.0, kept, meanings=meanings)
    newest: dict[str, tuple[str, str]] = {}  # of each signal its name, and what is said of it
    with closing(sqlite3.connect("", isolation_level=None)) as db:  # a file that nobody else sees
        make_tables(db)
        fetch = partial(log.fetch, wait_seconds=PATIENCE_SECONDS)
        joiner = Joiner(joins=FileJoins(db, fetch, Opener(sealer)))
        for records, _ in replay(log, [COMPLETIONS, FEEDBACK], {}, PATIENCE_SECONDS):
            for label in joiner.feed(records):
                store.add([label])
                if label.kind == "signal":
                    newest[label.event_id] = (label.name or "", label.label)
    unshown = sum(said == "not_shown" for _, said in newest.values())
    silent = Counter(name for name, _ in newest.values() if name and name not in meanings)
    return Trial(_rows(store, meanings), silent, unshown)


def _rows(store: LabelStore, meanings: Meanings) -> list[Row]:
    people = [vote for vote in store.teaching if vote.source != MODEL]
    rows = []
    for name, found in sorted(beliefs(store.deeds, people).items()):
        meaning = meaning_of(name, meanings)
        happened = 1 - found.share if meaning.direction == "lower" else found.share
        weight = found.weight(meaning.direction, meaning.most, heard=False)
        told = (found.voted, found.mean, found.error, weight)
        rows.append(Row(name, meaning.direction, meaning.objective, found.events, happened, *told))
    return rows


def _as_json(found: Trial) -> dict[str, Any]:
    return {
        "signals": [asdict(row) for row in found.rows],
        "without_meaning": dict(found.silent.most_common()),
        "not_shown": found.unshown,
    }


def lines(found: Trial) -> list[str]:
    """For people."""
    if not found.rows and not found.silent and not found.unshown:
        return ["There are no signals in the log: send votes of the kind signal (docs/signals.md)."]
    table = columns([HEAD, *(_cells(row) for row in found.rows)]) if found.rows else []
    told = [line.rstrip() for line in table]
    always = [row.name for row in found.rows if row.happened in (0.0, 1.0)]
    if always:
        told += [
            "",
            f"{', '.join(always)}: always or never happened, which tells nothing. Send the answers that",
        ]
        told += ["were shown without it as well, with value false."]
    few = [row.name for row in found.rows if not row.beside_votes]
    if few:
        told += [
            "",
            f"{', '.join(few)}: nobody voted on an answer and did this, too. The learner asks its judging",
        ]
        told += ["model, which this command has not got."]
    if found.silent:
        names = ", ".join(f"{name} ({count})" for name, count in found.silent.most_common())
        told += ["", f"Without a meaning, and kept: {names}"]
    if found.unshown:
        told += ["", f"{found.unshown} events say that the answer was not shown; they say nothing else."]
    return told


def _cells(row: Row) -> tuple[str, ...]:
    agreement = f"{row.agreement:+.2f} +- {row.error:.2f}" if row.beside_votes else "-"
    numbers = (str(row.events), f"{row.happened:.0%}", str(row.beside_votes), agreement, f"{row.weight:.2f}")
    return (row.name, row.direction, *numbers)
