"""`hearken import`: judged examples from files into the log, where the learner finds them like any vote."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from feedback.core.events import COMPLETIONS, FEEDBACK
from feedback.core.ids import Signer
from feedback.core.log import EventLog, LogError, LogUnavailable
from feedback.core.secret import load_secret
from feedback.dialects import Options
from feedback.dialects.files import Survey
from feedback.exchange.import_batches import Batches
from feedback.exchange.import_options import BadOption
from feedback.exchange.import_report import Report
from feedback.exchange.importing import Importer
from feedback.opening import open_log, open_sealer
from feedback.rows.examples import Message
from hearken.base.errors import UsageError
from hearken.machine.engine import resolve_model

PATIENCE_SECONDS = 60.0


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
    return 0 if any(report.is_of_use for report in reports) else 1


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
    try:
        batches = Batches(survey, settings.options, reports, importer)
    except BadOption as error:
        raise UsageError(f"--{error.name} {error}") from error
    log = open_log(settings.data, settings.kafka, "operator")
    try:
        with _progress(sum(report.rows for report in reports)) as advance:
            if settings.dry_run:
                batches.dry(advance)
                return
            for batch in batches.sealed(open_sealer(settings.data), advance):
                log.append(batch.entries).result()
        _settle(log)
    finally:
        log.close()


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

    def prompt_of(messages: tuple[Message, ...]) -> list[int]:
        plain = [_plain(message) for message in messages]
        try:
            prompt = tokenizer.apply_chat_template(plain, add_generation_prompt=True, tokenize=False)
        except Exception as error:  # whatever the model's template raises
            raise ValueError(f"the model's chat template refuses it: {error}") from error
        found: list[int] = tokenizer.encode(prompt, add_special_tokens=False)
        return found

    last: tuple[tuple[Message, ...], list[int]] | None = None

    def encode(messages: tuple[Message, ...], answer: str) -> tuple[list[int], list[int]]:
        nonlocal last
        if last is None or last[0] is not messages:  # the answers of an example come one after another
            last = messages, prompt_of(messages)
        token_ids = tokenizer.encode(answer, add_special_tokens=False)
        return last[1], [*token_ids, tokenizer.eos_token_id]

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
    from hearken.models.tiny import default_folder

    if not (default_folder() / "config.json").exists():
        raise UsageError("name the base model with --model, or make the built-in one with `hearken tiny`")
    return default_folder()
