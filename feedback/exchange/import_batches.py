"""Files as entries of the log: what `hearken import` and POST /v1/imports write."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from feedback.core.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.core.log import Entry
from feedback.dialects import Options
from feedback.dialects.files import Found, Survey
from feedback.exchange.heard import Heard
from feedback.exchange.import_options import BadOption
from feedback.exchange.import_report import Report
from feedback.exchange.importing import Importer
from feedback.privacy.redaction import Redactor, redact_all
from feedback.privacy.sealing import Sealer
from feedback.rows.examples import Example
from feedback.sqlite.log import MAX_VALUE_BYTES

EVENTS_PER_APPEND = 200
_MAX_EVENT_BYTES = MAX_VALUE_BYTES * 5 // 8  # of its JSON: a seal may make it a third longer

Waiting = tuple[str, str, Completion | Feedback, bool]
"""An event to be written: its topic, its key in the log, itself, and whether nobody said it."""


class Batch(NamedTuple):
    """What goes into the log together. `examples`: how many of the import's are there once this is."""

    entries: list[Entry]
    examples: int


class Batches:
    """The examples of surveyed files, as entries of the log.

    `reports`, one for each file, get what became of the rows. Ids and order follow from the files and the
    importer's time alone: whoever knows that so many `written` examples of the same import are in the log
    gets the rest. `redact`: what texts go through before anything is made of them.

    Raises BadOption where a column is named that no row has.
    """

    def __init__(
        self,
        survey: Survey,
        options: Options,
        reports: Sequence[Report],
        importer: Importer,
        written: int = 0,
        redact: Redactor | None = None,
    ) -> None:
        self._survey = survey
        self._reports = reports
        self._importer = importer
        self._written = written
        self._redact = redact
        for report, rows in zip(reports, survey.rows, strict=True):
            report.rows = rows
        _check_columns(options, reports)

    def sealed(self, sealer: Sealer, advance: Callable[[], None] = lambda: None) -> Iterator[Batch]:
        """The entries that are not written yet. `advance` is called for each judgement that was read.

        Keys that are new are made together. Who was erased since the beginning has no words in it. Raises
        VaultUnavailable.
        """
        since = sealer.begin()
        waiting: list[Waiting] = []
        count = 0
        for events in self._events(advance):
            count += 1
            if count <= self._written:
                continue
            waiting += events
            if len(waiting) >= EVENTS_PER_APPEND:
                yield Batch(_entries(waiting, sealer, since), count)
                waiting = []
        if waiting:
            yield Batch(_entries(waiting, sealer, since), count)

    def dry(self, advance: Callable[[], None] = lambda: None) -> None:
        """Only read and report."""
        for _ in self._events(advance):
            pass

    def _events(self, advance: Callable[[], None]) -> Iterator[list[Waiting]]:
        """The events of each example that counts; the reports get the rest."""
        heard = Heard(len(self._reports))
        for found in self._survey.examples():
            advance()
            events = self._of(found, heard)
            if events:
                yield events

    def _of(self, found: Found, heard: Heard) -> list[Waiting]:
        """The events of what a row said; none where it says nothing new, or cannot be used."""
        report = self._reports[found.file]
        if not isinstance(found.said, Example):
            report.skip(str(found.said), found.row)
            return []
        said = found.said if self._redact is None else redacted(found.said, self._redact)
        try:
            example, news = heard.new(found.file, said)
            events = [] if example is None else _events_of(example, self._importer)
        except ValueError as error:  # the template's refusal, or half a character of UTF-16
            report.skip(str(error), found.row)
            return []
        if news == "new":
            report.imported[said.kind] += 1
        else:
            report.repeated += news == "repeated"
            report.changed += news == "changed"
        return events


def redacted(example: Example, redact: Redactor) -> Example:
    """An example whose texts went through a redactor."""
    return replace(
        example,
        messages=tuple(redact_all(list(example.messages), redact)),
        answers=tuple(map(redact, example.answers)),
        comment=None if example.comment is None else redact(example.comment),
        tags=tuple(map(redact, example.tags)),
        metadata={name: redact(value) for name, value in example.metadata.items()},
    )


def _check_columns(options: Options, reports: Sequence[Report]) -> None:
    """A misspelt name must not go unnoticed."""
    missing = sorted(options.columns.keys() - options.used)
    if missing and any(report.rows for report in reports):
        raise BadOption("map", f"names {', '.join(map(repr, missing))}, which no row has as a column")


def _events_of(example: Example, importer: Importer) -> list[Waiting]:
    """The events of an example. Raises ValueError for one that cannot be written."""
    completions, vote = importer.events(example)
    shared = importer.is_nobodys(example)
    for event in (*completions, vote):
        # Refuses half a character of UTF-16, before others are written with it.
        if len(event.model_dump_json()) > _MAX_EVENT_BYTES:
            raise ValueError(f"it is longer than an entry of the log may be, {_MAX_EVENT_BYTES} bytes")
    return [
        *((COMPLETIONS, vote.rater, completion, shared) for completion in completions),
        (FEEDBACK, vote.rater, vote, shared),
    ]


def _entries(events: Sequence[Waiting], sealer: Sealer, since: int) -> list[Entry]:
    sealed = sealer.seal_all([(event, shared) for _, _, event, shared in events], since)
    return [
        Entry(topic, key, event.model_dump_json().encode())
        for (topic, key, _, _), event in zip(events, sealed, strict=True)
    ]
