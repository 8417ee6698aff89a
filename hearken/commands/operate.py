"""What an operator looks at and steers, and the version."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from hearken.commands import Command, as_json, flag

if TYPE_CHECKING:
    from hearken.settings import ServiceSettings

_DATA = {"--data": "service.data"}
_LOG = {**_DATA, "--kafka": "service.kafka"}


def _add_status(command: argparse.ArgumentParser) -> None:
    as_json(command)
    flag(command, "--decisions", _count, 8, "how many of the last decisions to print")


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number")
    return int(text)


def _add_action(name: str, command: argparse.ArgumentParser) -> None:
    command.set_defaults(action=name)
    flag(command, "--reason", str, f"hearken {name}", "why, for the record")


def _service(arguments: argparse.Namespace) -> "ServiceSettings":
    from hearken import flags

    found: ServiceSettings = flags.configured(arguments, _LOG).build("service")
    return found


def _raters(arguments: argparse.Namespace) -> int:
    from hearken.operate import raters

    return raters(_service(arguments).folder, as_json=arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    from hearken import flags
    from hearken.operate import status

    config = flags.configured(arguments, _LOG)
    service: ServiceSettings = config.build("service")
    limits = config.build("controller.guardrails")
    return status(
        service.folder, service.kafka, limits, as_json=arguments.json, decisions=arguments.decisions
    )


def _act(arguments: argparse.Namespace) -> int:
    from hearken.operate import command

    service = _service(arguments)
    return command(service.folder, service.kafka, arguments.action, arguments.reason)


def _add_accept_loss(command: argparse.ArgumentParser) -> None:
    command.add_argument("code", metavar="CODE", help="as the reader's log says it")


def _accept_loss(arguments: argparse.Namespace) -> int:
    from hearken.operate import accept_loss

    return accept_loss(_service(arguments).folder, arguments.code)


def version_text() -> str:
    """The version that is installed."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("hearken")
    except PackageNotFoundError:
        return "unknown (hearken is not installed)"


def _version(arguments: argparse.Namespace) -> int:
    print(version_text())
    return 0


_ACTIONS = {
    "rollback": "put the previous policy back in force",
    "pause": "hold releases: candidates wait, a running canary keeps its users",
    "resume": "let releases go on after a pause",
}

COMMANDS = (
    Command("raters", "print the raters whose votes wait or weigh less, and why", _raters, _DATA, as_json),
    Command(
        "status",
        "print which policies serve, the evidence of a canary, and the last decisions",
        _status,
        _LOG,
        _add_status,
    ),
    *(Command(name, text, _act, _LOG, partial(_add_action, name)) for name, text in _ACTIONS.items()),
    Command(
        "accept-loss",
        "let a reader go on that lost records: they were gone from Kafka before it read them",
        _accept_loss,
        _DATA,
        _add_accept_loss,
    ),
    Command("version", "print the version", _version),
)
