"""`hearken config`: look at the settings that hold, check a file, print what is made of the classes."""

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from hearken.base.errors import UsageError
from hearken.commands import Command, actions_of, flag

if TYPE_CHECKING:
    from hearken.config.resolve import Config

CONFIG = {"--data": "service.data", "--model": "service.model", "--pace": "service.pace"}


def _add(command: argparse.ArgumentParser) -> None:
    from hearken.config.tables import tables
    from hearken.service import flags

    actions = actions_of(command)
    show = actions.add_parser("show", help="print what holds, and where each value comes from, as TOML")
    flags.add(show, CONFIG)
    text = "one table of the file only"
    flag(show, "--role", str, None, text, choices=tuple(tables().classes))
    show.add_argument("--docs", action="store_true", help="say what each setting is")
    check = actions.add_parser("check", help="say OK, or every line that is wrong; exit code 2")
    flags.add(check, CONFIG)
    actions.add_parser("docs", help="print docs/settings.md")
    schema = actions.add_parser("schema", help="print the JSON schema of the file")
    text = "instead of printing, put what the chart takes of it into this values.schema.json"
    flag(schema, "--into", Path, None, text)


def _run(arguments: argparse.Namespace) -> int:
    actions = {"show": _show, "check": _check, "docs": _docs, "schema": _schema}
    return actions[arguments.action](arguments)


def _show(arguments: argparse.Namespace) -> int:
    from hearken.config.show import show

    config = _configured(arguments)
    tables = (arguments.role,) if arguments.role else tuple(config.tables.classes)
    print(f"# {config.file or 'no file of settings'}\n")
    print(show(config, tables, docs=arguments.docs), end="")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from hearken.config.check import problems

    config = _configured(arguments)
    found = problems(config)
    for problem in found:
        print(f"hearken: {problem}", file=sys.stderr)
    if not found:
        print(f"{config.file or 'no file of settings, and the defaults'}: OK")
    return 2 if found else 0


def _configured(arguments: argparse.Namespace) -> "Config":
    """The settings, with what follows from the model where one is named and can be looked at."""
    from hearken.config.follow import follow
    from hearken.machine import engine
    from hearken.service import flags

    config = flags.configured(arguments, CONFIG)
    model = config.get("service.model").value
    if model is None:
        return config
    folder = _small_files(model)
    if folder is None:
        print(f"hearken: {model} cannot be looked at: what follows from it is left out", file=sys.stderr)
        return config
    return follow(config, folder, engine.cuda_devices() > 0)


def _small_files(model: str) -> Path | None:
    """A folder with a model's small files, its own or those that the hub has; weights are not fetched."""
    from hearken.models import smollm2

    folder = Path(model).expanduser()
    if model == smollm2.NAME and not folder.exists():
        return smollm2.default_folder() if smollm2.is_there(smollm2.default_folder()) else None
    if folder.exists():
        return folder if folder.is_dir() else None
    try:
        import huggingface_hub

        return Path(huggingface_hub.snapshot_download(model, allow_patterns=["*.json", "*.jinja"]))
    except Exception:  # the hub's errors have no common base but this, and it may not be installed
        return None


def _docs(arguments: argparse.Namespace) -> int:
    from hearken.config.docs import docs
    from hearken.config.tables import tables

    print(docs(tables()), end="")
    return 0


def _schema(arguments: argparse.Namespace) -> int:
    from hearken.config.schema import CHART_DECIDES, put_into, schema, written
    from hearken.config.tables import tables

    if arguments.into is None:
        print(written(schema(tables())))
        return 0
    config = schema(tables(), CHART_DECIDES)
    try:
        arguments.into.write_text(put_into(arguments.into.read_text(), config))
    except (OSError, ValueError) as error:
        raise UsageError(f"{arguments.into}: {error}") from error
    return 0


COMMANDS = (Command("config", "show, check and explain the file of settings", _run, add=_add),)
