"""`hearken signals try`: what a signals file would make of the log."""

import argparse
from pathlib import Path

from hearken.commands import Command, actions_of

_SIGNALS = {
    "--data": "service.data",
    "--kafka": "service.kafka",
}


def _add(command: argparse.ArgumentParser) -> None:
    from hearken.commands import as_json
    from hearken.service import flags

    text = "hold the events in the log against its votes, as FILE says what they mean; changes nothing"
    tried = actions_of(command).add_parser("try", help=text, description=text)
    tried.add_argument("file", type=Path, metavar="FILE", help="a signals file, as learner.signals names it")
    as_json(tried)
    flags.add(tried, _SIGNALS)


def _run(arguments: argparse.Namespace) -> int:
    from hearken.operate.signals import run
    from hearken.service import flags

    config = flags.configured(arguments, _SIGNALS)
    service = config.build("service")
    kept = config.get("learner.labels_kept").value
    return run(arguments.file, service.folder, service.kafka, kept, as_json=arguments.json)


COMMANDS = (
    Command("signals", "look at what people do: what a signals file makes of the log (try)", _run, add=_add),
)
