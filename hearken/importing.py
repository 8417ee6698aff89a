"""`hearken import`: judged examples from files into the log, where the learner finds them like any vote."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedback.dialects import Options
from feedback.dialects.files import Survey
from feedback.events import COMPLETIONS, FEEDBACK, Completion, Feedback
from feedback.examples import Example, Message
from feedback.heard import Heard
from feedback.ids import Signer
from feedback.importing import Importer
from feedback.log import Entry, EventLog, LogError, LogUnavailable
from feedback.opening import open_log, open_sealer
from feedback.sealing import Sealer
from feedback.secret import load_secret
from hearken.engine import resolve_model
from hearken.errors import UsageError

ROWS_PER_APPEND = 200
ROWS_SHOWN = 5  # row numbers told for each reason
PATIENCE_SECONDS = 60.0

Waiting = tuple[str, str, Completion | Feedback, bool]
"""An event to be written: its topic, its key in the log, itself, and whether nobody said it."""


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """What `hearken import` was told. `options`: what was said about rows."""

    files: tuple[Path, ...]
    data: Path
    model: Path
    options: Options = field(default_factory=Options)
    tenant: str = "default"
    kafka: str | None = None
    dry_run: bool = False


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

    def skip(self, reason: str, row: int) -> None:
        if row == 0:
            self.problem = reason
        else:
            self.skipped.setdefault(reason, []).append(row)

    def lines(self) -> list[str]:
        """For people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.imported.items())) or "nothing"
        told = [f"{self.file}: {self.rows} rows, imported {kinds}"]
        if self.repeated:
            told.append(f"  {self.repeated} said again what another row said")
        if self.changed:
            told.append(f"  {self.changed} judged again what the same rater had judged: the newest counts")
        for reason, rows in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(map(str, rows[:ROWS_SHOWN])) + (", .." if len(rows) > ROWS_SHOWN else "")
            told.append(f"  {len(rows)} skipped: {reason} (row {shown})")
        if self.problem:
            told.append(f"  not read to its end: {self.problem}")
        return told

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


def run(settings: ImportSettings, report_file: Path | None) -> int:
    """Import every file; 1 when none of the rows could be used.

    Raises UsageError, after all else is imported and reported, when a file could not be read.
    """
    reports = [Report(str(file)) for file in settings.files]
    try:
        _import(settings, reports)
    except LogError as error:
        for report in reports:
            report.problem = report.problem or "the log failed: not all of it is written, import it again"
        raise UsageError(f"the log cannot be written: {error}", code=1) from error
    finally:
        _tell(reports, settings.dry_run, report_file)
    problems = [report.problem for report in reports if report.problem]
    if problems:
        raise UsageError("; ".join(problems))
    return 0 if any(report.imported or report.repeated for report in reports) else 1


def _tell(reports: list[Report], dry_run: bool, report_file: Path | None) -> None:
    for report in reports:
        print("\n".join(report.lines()))
    if dry_run:
        print("nothing was written: this was a dry run")
    if report_file is not None:
        report_file.write_text(json.dumps([report.as_dict() for report in reports], indent=1) + "\n")


def _import(settings: ImportSettings, reports: list[Report]) -> None:
    signer = Signer(load_secret(settings.data / "secret"))
    importer = Importer(signer, settings.tenant, encoder(settings.model), time.time())
    survey = Survey(settings.files, settings.options)
    for report, rows in zip(reports, survey.rows, strict=True):
        report.rows = rows
    _check_columns(settings.options, reports)
    log = open_log(settings.data, settings.kafka, "operator")
    try:
        sealer = open_sealer(settings.data)
        since = sealer.begin()
        waiting: list[Waiting] = []
        for events in _events(survey, reports, importer):
            waiting += events
            if len(waiting) >= ROWS_PER_APPEND:
                _write(waiting, since, settings, sealer, log)
                waiting = []
        _write(waiting, since, settings, sealer, log)
        _settle(log)
    finally:
        log.close()


def _check_columns(options: Options, reports: list[Report]) -> None:
    """A misspelt --map must not go unnoticed. Raises UsageError."""
    missing = sorted(options.columns.keys() - options.used)
    if missing and any(report.rows for report in reports):
        raise UsageError(f"--map names {', '.join(map(repr, missing))}, which no row has as a column")


def _events(survey: Survey, reports: list[Report], importer: Importer) -> Iterator[list[Waiting]]:
    """What goes into the log, an example at a time; the reports get the rest."""
    heard = Heard(len(reports))
    with _progress(sum(report.rows for report in reports)) as advance:
        for found in survey.examples():
            report = reports[found.file]
            advance()
            if not isinstance(found.said, Example):
                report.skip(str(found.said), found.row)
                continue
            try:
                example, news = heard.new(found.file, found.said)
                events = [] if example is None else _of(example, importer)
            except ValueError as error:  # the template's refusal, or half a character of UTF-16
                report.skip(str(error), found.row)
                continue
            if news == "new":
                report.imported[found.said.kind] += 1
            else:
                report.repeated += news == "repeated"
                report.changed += news == "changed"
            yield events


def _of(example: Example, importer: Importer) -> list[Waiting]:
    """The events of an example. Raises ValueError for one that cannot be written."""
    completions, vote = importer.events(example)
    shared = importer.is_nobodys(example)
    for event in (*completions, vote):
        event.model_dump_json()  # refuses half a character of UTF-16, before others are written with it
    return [
        *((COMPLETIONS, vote.rater, completion, shared) for completion in completions),
        (FEEDBACK, vote.rater, vote, shared),
    ]


def _write(
    events: list[Waiting], since: int, settings: ImportSettings, sealer: Sealer, log: EventLog
) -> None:
    """Append events, sealed; keys that are new are made together. Who was erased since has no words in it."""
    if not events or settings.dry_run:
        return
    sealed = sealer.seal_all([(event, shared) for _, _, event, shared in events], since)
    log.append(
        [
            Entry(topic, key, event.model_dump_json().encode())
            for (topic, key, _, _), event in zip(events, sealed, strict=True)
        ]
    ).result()


def _settle(log: EventLog) -> None:
    """With Kafka: wait until the broker has everything, for nobody else empties this outbox."""
    while True:
        try:
            log.end([COMPLETIONS, FEEDBACK], PATIENCE_SECONDS)
            return
        except LogUnavailable as error:
            print(
                f"hearken: waiting for the broker: {error} (Ctrl-C keeps what is left for later)",
                file=sys.stderr,
            )


def encoder(model: Path) -> Callable[[tuple[Message, ...], str], tuple[list[int], list[int]]]:
    """Texts to token ids as the engine does it for a chat. Raises UsageError without a tokenizer."""
    from transformers import AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise UsageError(f"the tokenizer of {model} cannot be read: {error}") from error

    def encode(messages: tuple[Message, ...], answer: str) -> tuple[list[int], list[int]]:
        plain = [_plain(message) for message in messages]
        try:
            prompt = tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # whatever the model's template raises
            raise ValueError(f"the model's chat template refuses it: {error}") from error
        prompt_token_ids = tokenizer.encode(prompt, add_special_tokens=False)
        token_ids = tokenizer.encode(answer, add_special_tokens=False)
        return prompt_token_ids, [*token_ids, tokenizer.eos_token_id]

    return encode


def _plain(message: Message) -> Message:
    """A message as vLLM gives it to a chat template: parts of text as one text, arguments as objects.

    Raises ValueError for what is not text.
    """
    content, calls = message["content"], message.get("tool_calls")
    if isinstance(content, list):
        if any(part["type"] != "text" for part in content):
            raise ValueError("its messages have parts that are not text")
        content = "\n".join(str(part.get("text", "")) for part in content)
    plain = {**message, "content": content}
    return plain if not calls else plain | {"tool_calls": [_plain_call(call) for call in calls]}


def _plain_call(call: dict[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    arguments = function.get("arguments") or "{}"
    if isinstance(arguments, str):
        arguments = json.loads(arguments)
    return {**call, "function": {**function, "arguments": arguments}}


@contextmanager
def _progress(rows: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, nothing anywhere else. The function says that one more judgement is done."""
    if not sys.stderr.isatty():
        yield lambda: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("import", total=rows)  # a row of several judgements fills it early
        yield lambda: bar.advance(task)


def choose_model(model: str | None) -> Path:
    """The folder of the model whose tokens are meant; without a name the built-in tiny model's."""
    if model is not None:
        return resolve_model(model)
    from hearken.tiny import default_folder

    if not (default_folder() / "config.json").exists():
        raise UsageError("name the base model with --model, or make the built-in one with `hearken tiny`")
    return default_folder()
