"""`hearken import`: judged examples from files into the log, where the learner finds them like any vote."""

import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from feedback.dialects import Misfit, parse
from feedback.events import COMPLETIONS, FEEDBACK, Event
from feedback.examples import Example, Message
from feedback.ids import Signer
from feedback.importing import Importer
from feedback.log import Entry, EventLog, LogError, LogUnavailable
from feedback.opening import open_log, open_sealer
from feedback.sealing import Sealer
from feedback.secret import load_secret
from feedback.tables import UnreadableFile, count_rows, read_rows
from hearken.engine import resolve_model
from hearken.errors import UsageError

ROWS_PER_APPEND = 200
ROWS_SHOWN = 5  # row numbers told for each reason
PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ImportSettings:
    """What `hearken import` was told. `layout`: one of `dialects.LAYOUTS`, or "auto" to see row by row."""

    files: tuple[Path, ...]
    data: Path
    model: Path
    layout: str = "auto"
    tenant: str = "default"
    kafka: str | None = None
    dry_run: bool = False


@dataclass(slots=True)
class Report:
    """What became of a file's rows."""

    file: str
    rows: int = 0
    imported: Counter[str] = field(default_factory=Counter)  # kind -> how many
    repeated: int = 0
    skipped: dict[str, list[int]] = field(default_factory=dict)  # reason -> rows

    def skip(self, reason: str, row: int) -> None:
        self.skipped.setdefault(reason, []).append(row)

    def lines(self) -> list[str]:
        """For people."""
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.imported.items())) or "nothing"
        told = [f"{self.file}: {self.rows} rows, imported {kinds}"]
        if self.repeated:
            told.append(f"  {self.repeated} said again what an earlier row said")
        for reason, rows in sorted(self.skipped.items(), key=lambda item: -len(item[1])):
            shown = ", ".join(map(str, rows[:ROWS_SHOWN])) + (", .." if len(rows) > ROWS_SHOWN else "")
            told.append(f"  {len(rows)} skipped: {reason} (row {shown})")
        return told

    def as_dict(self) -> dict[str, Any]:
        """For programs."""
        skipped = {reason: {"count": len(rows), "rows": rows} for reason, rows in self.skipped.items()}
        return {
            "file": self.file,
            "rows": self.rows,
            "imported": dict(self.imported),
            "repeated": self.repeated,
            "skipped": skipped,
        }


class Seen:
    """The judgements that a file has made so far."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def new(self, example: Example) -> Example | None:
        """The example, or None when an earlier row said it.

        Two rows without a rater that judge the same answers differently are two people's: the second one is
        given a rater of its own, the same one whenever the file is imported.
        """
        values = self._values.setdefault(example.identity, [])
        value = example.value
        if example.kind == "comparison" and example.answers[0] > example.answers[1]:
            value = 1.0 - value  # the same whichever answer is named first
        if value in values or (values and example.rater is not None):
            return None
        values.append(value)
        if len(values) == 1:
            return example
        return replace(example, rater=f"{example.identity}#{len(values)}")


def run(settings: ImportSettings, report_file: Path | None) -> int:
    """Import every file; 1 when none of the rows could be used. Raises UsageError."""
    encode = encoder(settings.model)
    signer = Signer(load_secret(settings.data / "secret"))
    importer = Importer(signer, settings.tenant, encode, time.time())
    try:
        log = open_log(settings.data, settings.kafka, "operator")
        try:
            sealer = open_sealer(settings.data)
            reports = [_import_file(file, settings, importer, sealer, log) for file in settings.files]
            _settle(log)
        finally:
            log.close()
    except UnreadableFile as error:
        raise UsageError(str(error)) from error
    except LogError as error:
        raise UsageError(f"the log cannot be written: {error}", code=1) from error
    for report in reports:
        print("\n".join(report.lines()))
    if settings.dry_run:
        print("nothing was written: this was a dry run")
    if report_file is not None:
        report_file.write_text(json.dumps([report.as_dict() for report in reports], indent=1) + "\n")
    return 0 if any(report.imported or report.repeated for report in reports) else 1


def _import_file(
    file: Path, settings: ImportSettings, importer: Importer, sealer: Sealer, log: EventLog
) -> Report:
    report = Report(str(file))
    seen = Seen()
    waiting: list[Entry] = []
    with _progress(file) as advance:
        for number, said in examples(file, settings.layout, report):
            example = seen.new(said)
            if example is None:
                report.repeated += 1
            else:
                try:
                    completions, vote = importer.events(example)
                except ValueError as error:
                    report.skip(str(error), number)
                    continue
                report.imported[example.kind] += 1
                waiting += [
                    _entry(COMPLETIONS, vote.rater, sealer.seal(completion)) for completion in completions
                ]
                waiting.append(_entry(FEEDBACK, vote.rater, sealer.seal(vote)))
            if len(waiting) >= ROWS_PER_APPEND and not settings.dry_run:
                log.append(waiting).result()
                waiting = []
            advance(number)
    if waiting and not settings.dry_run:
        log.append(waiting).result()
    return report


def examples(file: Path, layout: str, report: Report) -> Iterator[tuple[int, Example]]:
    """A file's examples with their row numbers; the report gets the rest. Raises UnreadableFile."""
    for number, row, problem in read_rows(file):
        report.rows += 1
        if row is None:
            report.skip(problem, number)
            continue
        try:
            yield number, parse(row, layout)
        except Misfit as misfit:
            report.skip(str(misfit), number)


def _entry(topic: str, key: str, event: Event) -> Entry:
    return Entry(topic, key, event.model_dump_json().encode())


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
def _progress(file: Path) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing anywhere else. The function takes the number of the row that is done."""
    if not sys.stderr.isatty():
        yield lambda _row: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(file.name, total=count_rows(file))
        yield lambda row: bar.update(task, completed=row)


def choose_model(model: str | None) -> Path:
    """The folder of the model whose tokens are meant; without a name the built-in tiny model's."""
    if model is not None:
        return resolve_model(model)
    from hearken.tiny import default_folder

    if not (default_folder() / "config.json").exists():
        raise UsageError("name the base model with --model, or make the built-in one with `hearken tiny`")
    return default_folder()
