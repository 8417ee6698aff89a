"""`hearken sync`: votes that were given in another service."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hearken.base.spans import span_seconds
from hearken.commands import Command, flag

if TYPE_CHECKING:
    from feedback.dialects import Options

_DATA = {"--data": "service.data"}


def _span(text: str) -> float:
    """Seconds of "12h", "7d" or "2w"."""
    found = span_seconds(text, "smhdw")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; write 30m, 12h, 7d or 2w")
    return found


def _add(command: argparse.ArgumentParser) -> None:
    from hearken.sync.sources import SOURCES

    command.add_argument("source", choices=tuple(SOURCES), help="the service in which they were given")
    text = "how far back to look for votes, and for changes and removals of them; at most 90d"
    command.add_argument(
        "--since", type=_span, default=_span("7d"), metavar="SPAN", help=f"{text} (default: 7d)"
    )
    text = "URL of that service; without it $OPEN_WEBUI_URL, $LANGFUSE_HOST or $LANGSMITH_ENDPOINT"
    flag(command, "--from", str, None, text)
    text = (
        "URL of the service that the votes are for; without it $HEARKEN_BASE_URL. Its key is $HEARKEN_API_KEY"
    )
    flag(command, "--to", str, None, text)
    several: dict[str, Any] = {"action": "append", "default": []}
    command.add_argument(
        "--score", **several, metavar="NAME", help="only scores of this name; may be repeated"
    )
    text = "the scale of scores that are numbers, or of the score NAME alone, like 1:5"
    command.add_argument("--scale", **several, metavar="[NAME=]LOWEST:HIGHEST", help=text)
    text = "which way a score is better whose name does not tell: higher or lower"
    command.add_argument("--direction", **several, metavar="NAME=WHICH", help=text)
    command.add_argument(
        "--every", type=_span, default=None, metavar="SPAN", help="look again so often (default: one look)"
    )
    text = "file that remembers what was sent; without it sync-SOURCE.db in the data folder"
    flag(command, "--state", Path, None, text)
    text = "take votes back although most of them are gone at once"
    command.add_argument("--accept-removals", action="store_true", help=text)


def _run(arguments: argparse.Namespace) -> int:
    from hearken.base.errors import UsageError
    from hearken.service import flags
    from hearken.sync.sync import LONGEST_SECONDS, SyncSettings, run

    if arguments.since > LONGEST_SECONDS:
        raise UsageError(
            "--since goes back 90d at most: older votes are not taken; hearken import takes files"
        )
    state = arguments.state
    if state is None:
        folder: Path = flags.configured(arguments, _DATA).build("service").folder
        state = folder / f"sync-{arguments.source}.db"
    settings = SyncSettings(
        source=arguments.source,
        state=state,
        span_seconds=arguments.since,
        options=_options(arguments),
        url=getattr(arguments, "from"),
        service=arguments.to,
        every_seconds=arguments.every,
        scores=arguments.score,
        accept_removals=arguments.accept_removals,
    )
    return run(settings)


def _options(arguments: argparse.Namespace) -> "Options":
    """What was said about scores. Raises UsageError."""
    from feedback.exchange.import_options import BadOption, parse_options
    from hearken.base.errors import UsageError

    try:
        return parse_options("auto", arguments.scale, (), arguments.direction)
    except BadOption as error:
        raise UsageError(f"--{error.name} {error}") from error


COMMANDS = (
    Command(
        "sync",
        "take over thumbs that were given in Open WebUI, Langfuse or LangSmith; changes and removals follow",
        _run,
        _DATA,
        _add,
    ),
)
