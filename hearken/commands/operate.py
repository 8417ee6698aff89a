"""What an operator looks at, and the version."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from hearken.base.spans import span_seconds
from hearken.commands import Command, as_json, flag, whole_number

if TYPE_CHECKING:
    from hearken.operate.log import Kind
    from hearken.settings import ServiceSettings

_DATA = {"--data": "service.data"}
_KAFKA = {"--kafka": "service.kafka"}
_LOG = {**_DATA, **_KAFKA}


def _add_status(command: argparse.ArgumentParser) -> None:
    as_json(command)
    flag(command, "--decisions", whole_number, 8, "how many of the last decisions to print")


def _service(arguments: argparse.Namespace) -> "ServiceSettings":
    from hearken.service import flags

    found: ServiceSettings = flags.configured(arguments, _LOG).build("service")
    return found


def _raters(arguments: argparse.Namespace) -> int:
    from hearken.operate.log import raters

    return raters(_service(arguments).folder, as_json=arguments.json)


def _status(arguments: argparse.Namespace) -> int:
    from hearken.operate.log import status
    from hearken.service import flags

    config = flags.configured(arguments, _LOG)
    service: ServiceSettings = config.build("service")
    limits = config.build("controller.guardrails")
    return status(
        service.folder, service.kafka, limits, as_json=arguments.json, decisions=arguments.decisions
    )


def _span(text: str) -> float | None:
    """Seconds of "90m", "12h", "7d" or "2w"; None for "all"."""
    if text == "all":
        return None
    found = span_seconds(text, "mhdw")
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} is no span of time; write 90m, 12h, 7d, 2w or all")
    return found


def _add_report(command: argparse.ArgumentParser) -> None:
    text = "how far back to go from now: 90m, 12h, 7d, 2w, or all that is in the log (default: 7d)"
    command.add_argument("--since", type=_span, default=_span("7d"), metavar="SPAN", help=text)
    kinds = command.add_mutually_exclusive_group()
    as_json(kinds)
    kinds.add_argument("--html", action="store_true", help="as a page that needs nothing but itself")
    text = "write it to this file; without it to standard output"
    flag(command, "--out", Path, None, text)


def _report(arguments: argparse.Namespace) -> int:
    from hearken.operate.log import report

    kind: Kind = "json" if arguments.json else "html" if arguments.html else "lines"
    service = _service(arguments)
    return report(service.folder, service.kafka, arguments.since, kind, arguments.out)


def _add_topics(command: argparse.ArgumentParser) -> None:
    text = "partitions of the topics with completions and votes, where they are made"
    flag(command, "--partitions", whole_number, None, text)
    text = (
        "copies of each partition, where topics are made (default: as the client settings or the broker say)"
    )
    flag(command, "--replication", whole_number, None, text)


def _topics(arguments: argparse.Namespace) -> int:
    from hearken.operate.topics import make
    from hearken.service import flags

    service: ServiceSettings = flags.configured(arguments, _KAFKA).build("service")
    return make(service.kafka, arguments.partitions, arguments.replication)


def _add_accept_loss(command: argparse.ArgumentParser) -> None:
    command.add_argument("code", metavar="CODE", help="as the reader's log says it")


def _accept_loss(arguments: argparse.Namespace) -> int:
    from hearken.operate.log import accept_loss

    return accept_loss(_service(arguments).folder, arguments.code)


_PARTS = {
    **_LOG,
    "--redis": "service.redis",
}


def _doctor(arguments: argparse.Namespace) -> int:
    from hearken.operate import doctor
    from hearken.service import flags

    service = doctor.Service.of(flags.configured(arguments, _PARTS))
    return doctor.doctor(service, as_json=arguments.json)


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


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds from 0.1 to 3600")
    return seconds


def _add_watch(command: argparse.ArgumentParser) -> None:
    text = "a gateway's URL, with an operator's key in $HEARKEN_KEY, or a data folder (default: --data)"
    command.add_argument("where", metavar="URL", nargs="?", help=text)
    command.add_argument("--once", action="store_true", help="print one frame and end")
    flag(command, "--every", _seconds, 5.0, "seconds from one look to the next")


def _watch(arguments: argparse.Namespace) -> int:
    from hearken.live.view import source_of, watch
    from hearken.service import flags

    config = flags.configured(arguments, _LOG)
    source = source_of(arguments.where, config.build("service"), config.build("controller"))
    return watch(source, arguments.every, once=arguments.once)


COMMANDS = (
    Command("raters", "print the raters whose votes wait or weigh less, and why", _raters, _DATA, as_json),
    Command(
        "status",
        "print which policies serve, the evidence of a canary, and the last decisions",
        _status,
        _LOG,
        _add_status,
    ),
    Command(
        "watch",
        "follow a running service on the terminal: how learning goes, releases, evidence, KL, decisions",
        _watch,
        _LOG,
        _add_watch,
    ),
    Command(
        "report",
        "tell the story of a run: what people prefer, KL, reward, votes, promotions, versions",
        _report,
        _LOG,
        _add_report,
    ),
    Command(
        "doctor",
        "say of each part of the service whether it is there and well, and what to do where it is not",
        _doctor,
        _PARTS,
        as_json,
    ),
    Command(
        "topics",
        "make the topics that are missing on a Kafka cluster, and print what each is",
        _topics,
        _KAFKA,
        _add_topics,
    ),
    Command(
        "accept-loss",
        "let a reader go on that lost records: they were gone from Kafka before it read them",
        _accept_loss,
        _DATA,
        _add_accept_loss,
    ),
    Command("version", "print the version", _version),
)
