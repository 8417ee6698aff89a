"""`hearken import` and `hearken export`: votes from files, and to them."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hearken.commands import Command, flag

if TYPE_CHECKING:
    from feedback.dialects import Options

EXPORT = {"--data": "service.data", "--kafka": "service.kafka"}
IMPORT = {**EXPORT, "--model": "service.model"}


def _add_import(command: argparse.ArgumentParser) -> None:
    from feedback.exchange.import_options import LAYOUT_NAMES

    command.add_argument(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=".json, .jsonl, .csv or .parquet, also .gz and .zst",
    )
    text = "what a row looks like; auto tells by the columns that each row has"
    flag(command, "--layout", str, "auto", text, choices=LAYOUT_NAMES)
    several: dict[str, Any] = {"action": "append", "default": []}
    command.add_argument(
        "--scale",
        **several,
        metavar="[NAME=]LOWEST:HIGHEST",
        help="the scale of ratings that do not say it, or of the column or score NAME alone, like 1:5",
    )
    command.add_argument(
        "--map",
        **several,
        metavar="COLUMN=FIELD",
        help="what a column is, like score=rating, or ignore; a.b is the column b in the column a",
    )
    command.add_argument(
        "--direction",
        **several,
        metavar="NAME=WHICH",
        help="which way a score is better whose name does not tell: higher or lower",
    )
    flag(command, "--tenant", str, "default", "the tenant that they belong to")
    flag(command, "--report", Path, None, "write to this JSON file what became of every row")
    command.add_argument("--dry-run", action="store_true", help="read and report, write nothing")


def _add_export(command: argparse.ArgumentParser) -> None:
    from feedback.exchange.exports import EXPORTS

    command.add_argument("file", type=Path, metavar="FILE", help=".jsonl, .json, .csv or .parquet")
    text = "what a row looks like; hearken keeps everything and can be imported again"
    flag(command, "--layout", str, "hearken", text, choices=tuple(EXPORTS))
    flag(command, "--tenant", str, "default", "the tenant whose votes are written")
    text = "write only the votes of this user, by name or pseudonym; may be given several times"
    command.add_argument("--user", action="append", default=[], metavar="NAME", help=text)
    flag(command, "--since", str, None, "only votes from this time on: 2026-11-29 or 2026-11-29T12:00, UTC")
    flag(command, "--until", str, None, "only votes from before this time")


def _import(arguments: argparse.Namespace) -> int:
    from hearken.base import checks
    from hearken.data import importing
    from hearken.service import flags

    service = flags.configured(arguments, IMPORT).build("service")
    checks.prepare_data(service.folder)
    settings = importing.ImportSettings(
        files=tuple(arguments.files),
        data=service.folder,
        model=importing.choose_model(service.model),
        options=_options(arguments),
        tenant=arguments.tenant,
        kafka=service.kafka,
        dry_run=arguments.dry_run,
    )
    return importing.run(settings, arguments.report)


def _options(arguments: argparse.Namespace) -> "Options":
    """What was said about rows. Raises UsageError."""
    from feedback.exchange.import_options import BadOption, parse_options
    from hearken.base.errors import UsageError

    try:
        return parse_options(arguments.layout, arguments.scale, arguments.map, arguments.direction)
    except BadOption as error:
        raise UsageError(f"--{error.name} {error}") from error


def _export(arguments: argparse.Namespace) -> int:
    from hearken.data import exporting
    from hearken.service import flags

    service = flags.configured(arguments, EXPORT).build("service")
    settings = exporting.ExportSettings(
        file=arguments.file,
        data=service.folder,
        layout=arguments.layout,
        kafka=service.kafka,
        tenant=arguments.tenant,
        users=arguments.user,
        since=arguments.since,
        until=arguments.until,
    )
    return exporting.run(settings)


COMMANDS = (
    Command(
        "import",
        "put judged examples from files into the log: pairs, thumbs, ratings, demonstrations",
        _import,
        IMPORT,
        _add_import,
    ),
    Command(
        "export",
        "write the votes in the log, with their texts, to a file for trainers and other services",
        _export,
        EXPORT,
        _add_export,
    ),
)
