"""The command line: all commands, and what their exit codes mean."""

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import Any

from hearken.base.errors import UsageError
from hearken.commands import (
    Command,
    config,
    data,
    keys,
    learn,
    model,
    operate,
    registry,
    release,
    roles,
    service,
    signals,
    sync,
    vault,
)

COMMANDS: tuple[Command, ...] = (
    *service.COMMANDS,
    *model.COMMANDS,
    *roles.COMMANDS,
    *learn.COMMANDS,
    *config.COMMANDS,
    *keys.COMMANDS,
    *data.COMMANDS,
    *signals.COMMANDS,
    *sync.COMMANDS,
    *vault.COMMANDS,
    *release.COMMANDS,
    *registry.COMMANDS,
    *operate.COMMANDS,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0, 1 (it failed) or 2 (it was asked wrongly)."""
    arguments = parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        return run(arguments)
    except UsageError as error:
        print(f"hearken: {error}", file=sys.stderr)
        return error.code
    except KeyboardInterrupt:
        return 130


def parser() -> argparse.ArgumentParser:
    """All commands. The flags of one are made when it is asked for, as they come from settings classes."""
    top = argparse.ArgumentParser(
        prog="hearken",
        description="A chat service that learns from the people who use it.",
        formatter_class=lambda prog: argparse.HelpFormatter(prog, max_help_position=18),
    )
    top.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
    commands = top.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_CommandParser
    )
    for command in COMMANDS:
        text = command.text
        made = commands.add_parser(
            command.name, help=text, description=text[0].upper() + text[1:] + ".", fill=command.fill
        )
        made.set_defaults(run=command.run)
    return top


class _Version(argparse.Action):
    """Looks the version up when it is asked for, and not whenever a command runs."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        print(operate.version_text())
        parser.exit()


class _CommandParser(argparse.ArgumentParser):
    """A parser that gets its flags from `fill` when it is used first."""

    def __init__(self, *, fill: Callable[[argparse.ArgumentParser], None], **options: Any) -> None:
        super().__init__(**options)
        self._fill: Callable[[argparse.ArgumentParser], None] | None = fill

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        self.filled()
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        self.filled()
        return super().format_help()

    def filled(self) -> "_CommandParser":
        """Itself, with its flags."""
        fill, self._fill = self._fill, None
        if fill is not None:
            fill(self)
        return self
