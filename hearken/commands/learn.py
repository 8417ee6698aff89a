"""`hearken learn --dry-run`: try ways of learning on the log."""

import argparse

from hearken.base.errors import UsageError
from hearken.commands import Command, as_json

LEARN = {
    "--data": "service.data",
    "--kafka": "service.kafka",
    "--engine": "learner.engine",
    "--model": "service.model",
    "--pace": "service.pace",
    "--seed": "service.seed",
    "--threads": "learner.threads",
    "--products": "learner.products",
    "--memory-check": "service.memory_check",
}


def _add(command: argparse.ArgumentParser) -> None:
    text = "train on the log from what is live, compare with live, and publish nothing (needed)"
    command.add_argument("--dry-run", action="store_true", help=text)
    text = (
        "ppo, dpo, ipo, kto, or package.module:Class; several are tried one after the other on the same "
        "votes (default: learner.optimiser); may be given several times"
    )
    command.add_argument("--optimiser", action="append", default=[], metavar="NAME", help=text)
    as_json(command)


def _run(arguments: argparse.Namespace) -> int:
    from hearken.operate import dry_run
    from hearken.service import flags

    if not arguments.dry_run:
        raise UsageError(
            "`hearken learn` only tries: say --dry-run. The learner that publishes is `hearken learner`, "
            "which `hearken up` runs"
        )
    config = flags.configured(arguments, LEARN)
    return dry_run.run(config, arguments.optimiser, as_json=arguments.json)


COMMANDS = (
    Command(
        "learn",
        "try ways of learning on the log, and compare what comes of them (--dry-run)",
        _run,
        LEARN,
        _add,
    ),
)
