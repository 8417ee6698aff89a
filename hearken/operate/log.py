"""What an operator looks at from the command line, and lets readers pass over: all through the log."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from deploy.evidence.guardrails import GuardrailLimits
from deploy.history.releases import read_history
from deploy.reports import plain_words
from deploy.reports.running import running
from deploy.reports.status import summary
from feedback.core import losses
from feedback.core.log import EventLog, LogError
from feedback.opening import open_log
from hearken.base.checks import check_service
from hearken.base.errors import UsageError
from hearken.base.telling import describe
from hearken.data.audit import read_ledger
from hearken.operate.looking import learning
from hearken.story.log import read_story
from hearken.story.page import describe as story_lines
from hearken.story.page import page
from hearken.story.series import told

DECISIONS_SHOWN = 8
DECISIONS_READ = 500
"""Of these the one that started a release is found, whose rules its evidence is counted by."""
PATIENCE_SECONDS = 10.0
Kind = Literal["lines", "json", "html"]
"""How a story is told: for people, for programs, or as a page."""
REPORT_SECONDS = 120.0
"""How long a report may read votes."""


def status(
    data: Path,
    kafka: str | None,
    guardrails: GuardrailLimits,
    *,
    as_json: bool = False,
    decisions: int = DECISIONS_SHOWN,
) -> int:
    """Print how learning goes in words, which policies serve whom, how a release under way stands, and the
    last decisions.

    guardrails: as the service's file has them.
    """
    with reading(open_service_log(data, kafka)) as log:
        history = read_history(log, max(decisions, DECISIONS_READ), PATIENCE_SECONDS)
        told = summary(history, decisions, running(log, history, PATIENCE_SECONDS, guardrails))
        told["learning"] = learning(log, history, told, PATIENCE_SECONDS)
    lines = [*plain_words.lines(told["learning"]), *describe(told)]
    print(json.dumps(told, indent=1) if as_json else "\n".join(lines))
    return 0


def report(
    data: Path,
    kafka: str | None,
    span_seconds: float | None,
    kind: Kind = "lines",
    out: Path | None = None,
) -> int:
    """Print the story of the last `span_seconds` (None: of all that the log has), or write it to `out`.

    Raises UsageError.
    """
    since = None if span_seconds is None else time.time() - span_seconds
    with reading(open_service_log(data, kafka)) as log:
        found = told(read_story(log, since, REPORT_SECONDS))
    if kind == "json":
        text = json.dumps(found, indent=1, allow_nan=False)
    else:
        text = page(found).rstrip() if kind == "html" else "\n".join(story_lines(found))
    if out is None:
        print(text)
        return 0
    try:
        out.write_text(f"{text}\n")
    except OSError as error:
        raise UsageError(f"--out {out} cannot be written: {error.strerror}", code=1) from error
    return 0


def raters(data: Path, *, as_json: bool = False) -> int:
    """Print the raters whose votes wait or weigh less than half, as of the learner's checkpoint."""
    ledger = read_ledger(data)
    if ledger is None:
        raise UsageError(f"there is no checkpoint of a learner in {data} yet", code=1)
    found: dict[str, dict[str, Any]] = ledger.get("raters", {})
    if as_json:
        print(json.dumps(found, indent=1))
        return 0
    if not found:
        print("no rater's votes wait, and none weighs less than half")
    for rater, standing in sorted(found.items(), key=lambda item: -item[1]["votes"]):
        waits = ", ".join(f"{count} wait ({reason})" for reason, count in standing["waiting"].items())
        print(
            f"{rater}  {standing['votes']} votes, agreement {standing['agreement']:.2f}, "
            f"weight {standing['weight']:.2f}{', ' + waits if waits else ''}"
        )
    return 0


def accept_loss(data: Path, code: str) -> int:
    """Let the processes of a data folder read on without what they lost. `code`: as their log says it."""
    if losses.CODE.fullmatch(code) is None:
        raise UsageError(f"{code!r} is no code of a loss; it has 12 digits and letters, and the log says it")
    folder = service_folder(data)
    try:
        losses.accept(folder, code)
    except OSError as error:
        raise UsageError(f"{folder} cannot be written: {error.strerror}", code=1) from error
    print(f"accepted: who met the loss {code} on {folder} reads on within a few seconds")
    return 0


def service_folder(data: Path) -> Path:
    """A service's data folder. Raises UsageError where it is none."""
    data = data.expanduser()
    check_service(data)
    return data


def open_service_log(data: Path, kafka: str | None) -> EventLog:
    """The log of a service, for an operator's command to close. Raises UsageError."""
    return opened(service_folder(data), kafka)


def opened(folder: Path, kafka: str | None) -> EventLog:
    """The log of a folder, which may be a copy of a service's log and nothing else. Raises UsageError."""
    try:
        return open_log(folder, kafka, "operator")
    except LogError as error:
        raise UsageError(f"the log cannot be opened: {error}", code=1) from error


@contextmanager
def reading(log: EventLog) -> Iterator[EventLog]:
    """A log while a command reads it, closed at the end. What cannot be read is a UsageError."""
    try:
        yield log
    except LogError as error:
        raise UsageError(f"the log cannot be read: {error}", code=1) from error
    finally:
        log.close()
