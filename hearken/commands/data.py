"""`hearken import` and `hearken export`: votes from files, and to them."""

import argparse
from pathlib import Path

from hearken.commands import Command, flag

EXPORT = {"--data": "service.data", "--kafka": "service.kafka"}
IMPORT = {**EXPORT, "--model": "service.model"}


def _add_import(command: argparse.ArgumentParser) -> None:
    from feedback.dialects import LAYOUTS

    command.add_argument(
        "files", nargs="+", type=Path, metavar="FILE", help=".json, .jsonl, .csv or .parquet"
    )
    text = "what a row looks like; auto tells by the fields that each row has"
    flag(command, "--layout", str, "auto", text, choices=("auto", *LAYOUTS))
    flag(command, "--tenant", str, "default", "the tenant that they belong to")
    flag(command, "--report", Path, None, "write to this JSON file what became of every row")
    command.add_argument("--dry-run", action="store_true", help="read and report, write nothing")


def _add_export(command: argparse.ArgumentParser) -> None:
    from feedback.exports import EXPORTS

    command.add_argument("file", type=Path, metavar="FILE", help=".jsonl, .json, .csv or .parquet")
    text = "what a row looks like; hearken keeps everything and can be imported again"
    flag(command, "--layout", str, "hearken", text, choices=tuple(EXPORTS))


def _import(arguments: argparse.Namespace) -> int:
    from hearken import checks, flags, importing

    service = flags.configured(arguments, IMPORT).build("service")
    checks.prepare_data(service.folder)
    settings = importing.ImportSettings(
        files=tuple(arguments.files),
        data=service.folder,
        model=importing.choose_model(service.model),
        layout=arguments.layout,
        tenant=arguments.tenant,
        kafka=service.kafka,
        dry_run=arguments.dry_run,
    )
    return importing.run(settings, arguments.report)


def _export(arguments: argparse.Namespace) -> int:
    from hearken import exporting, flags

    service = flags.configured(arguments, EXPORT).build("service")
    return exporting.run(arguments.file, arguments.layout, service.folder, service.kafka)


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
