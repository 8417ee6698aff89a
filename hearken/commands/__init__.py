"""The commands of `hearken`, in families.

What a command needs is imported when it runs, so that `--help` answers at once.
"""

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `run` returns the exit code and raises UsageError.

    flags: those that are settings, flag -> place in hearken.toml; such a command takes --config, too.
    add: gives the parser what is no setting.
    """

    name: str
    text: str
    run: Callable[[argparse.Namespace], int]
    flags: Mapping[str, str] = field(default_factory=dict)
    add: Callable[[argparse.ArgumentParser], None] = lambda parser: None

    def fill(self, parser: argparse.ArgumentParser) -> None:
        """Give the command's parser its flags."""
        self.add(parser)
        if self.flags:
            from hearken.service import flags

            flags.add(parser, self.flags)


def flag(
    command: argparse.ArgumentParser,
    name: str,
    kind: Callable[[str], object],
    default: object,
    text: str,
    choices: tuple[str, ...] | None = None,
) -> None:
    """A flag that is no setting. The help shows the default; where it is None, `text` says what happens."""
    shown = text if default is None else f"{text} (default: {default})"
    metavar = None if choices else name.removeprefix("--").replace("-", "_").upper()
    command.add_argument(name, type=kind, default=default, help=shown, metavar=metavar, choices=choices)


def actions_of(command: argparse.ArgumentParser) -> "argparse._SubParsersAction[argparse.ArgumentParser]":
    """What a command with several actions adds them to; `arguments.action` is the one that was asked for."""
    return command.add_subparsers(
        title="actions",
        metavar="ACTION",
        required=True,
        dest="action",
        help="one of:",
        parser_class=argparse.ArgumentParser,  # these have their flags from the start
    )


def whole_number(text: str) -> int:
    """A flag's value that is 0, 1, 2 and so on."""
    if not (text.isdecimal() and text.isascii()):
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def as_json(command: "argparse.ArgumentParser | argparse._MutuallyExclusiveGroup") -> None:
    """--json, for commands that print something for people."""
    command.add_argument("--json", action="store_true", help="print JSON (default: lines for people)")
