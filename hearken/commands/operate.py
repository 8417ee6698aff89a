"""What an operator looks at and steers, and the version."""

import argparse
from functools import partial
from typing import TYPE_CHECKING

from hearken.commands import Command, as_json, flag

if TYPE_CHECKING:
    from hearken.settings import ServiceSettings

_DATA = {"--data": "service.data"}
_LOG = {**_DATA, "--kafka": "service.kafka"}


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
    from deploy.settings import ControllerSettings
    from hearken import flags
    from hearken.operate import status

    config = flags.configured(arguments, _LOG)
    service: ServiceSettings = config.build("service")
    controller = ControllerSettings(  # as much of it as guardrails are judged by
        data=service.folder,
        engines=("http://nobody.is.asked",),
        rung_users=config.get("controller.rung_users").value,
        guardrails=config.build("controller.guardrails"),
    )
    return status(service.folder, service.kafka, controller, as_json=arguments.json)


def _act(arguments: argparse.Namespace) -> int:
    from hearken.operate import command

    service = _service(arguments)
    return command(service.folder, service.kafka, arguments.action, arguments.reason)


def _add_accept_loss(command: argparse.ArgumentParser) -> None:
    command.add_argument("code", metavar="CODE", help="as the reader's log says it")


def _accept_loss(arguments: argparse.Namespace) -> int:
    from hearken.operate import accept_loss

    return accept_loss(_service(arguments).folder, arguments.code)


def _version(arguments: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(version("hearken"))
    except PackageNotFoundError:
        print("unknown (hearken is not installed)")
    return 0


_ACTIONS = {
    "rollback": "put the previous policy back in force",
    "pause": "hold releases: candidates wait, a running canary keeps its users",
    "resume": "let releases go on after a pause",
}

COMMANDS = (
    Command("raters", "print the raters whose votes wait or weigh less, and why", _raters, _DATA, as_json),
    Command("status", "print which policies serve, and the last decisions", _status, _LOG, as_json),
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
