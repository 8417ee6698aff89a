"""`hearken tiny`, `hearken sft` and `hearken rebase`: what a service starts from."""

import argparse
from pathlib import Path

from hearken.base.errors import UsageError
from hearken.commands import Command, flag

SFT = {
    "--model": "service.model",
    "--data": "service.data",
    "--kafka": "service.kafka",
    "--rank": "learner.rank",
    "--epochs": "sft.epochs",
    "--learning-rate": "sft.learning_rate",
    "--max-tokens": "sft.max_tokens",
}


REBASE = {"--model": "service.model", "--data": "service.data", "--kafka": "service.kafka"}


def _add_tiny(command: argparse.ArgumentParser) -> None:
    flag(command, "--folder", Path, None, "where to put it; without it ~/.cache/hearken/tiny")
    command.add_argument("--force", action="store_true", help="train it anew (default: keep it)")


def _add_sft(command: argparse.ArgumentParser) -> None:
    text = "JSON, JSON lines, CSV or Parquet of demonstrations, such as {prompt, completion}; may be repeated"
    command.add_argument("--demonstrations", type=Path, action="append", required=True, help=text)


def _add_rebase(command: argparse.ArgumentParser) -> None:
    command.add_argument("target", type=Path, metavar="FOLDER", help="where to put the new base")
    text = "write the weights in float32 (default: as the base has them)"
    command.add_argument("--float32", action="store_true", help=text)


def _rebase(arguments: argparse.Namespace) -> int:
    from hearken.data.importing import choose_model
    from hearken.data.rebase import RebaseSettings, run
    from hearken.service import flags

    service = flags.configured(arguments, REBASE).build("service")
    return run(
        RebaseSettings(
            model=choose_model(service.model),
            target=arguments.target.expanduser().resolve(),
            data=service.folder,
            kafka=service.kafka,
            registry=service.registry,
            registry_copies=service.registry_copies,
            float32=arguments.float32,
        )
    )


def _tiny(arguments: argparse.Namespace) -> int:
    from hearken.models import tiny

    try:
        tiny.run(arguments.folder, arguments.force)
    except tiny.NotOurFolder as error:
        raise UsageError(str(error)) from error
    return 0


def _sft(arguments: argparse.Namespace) -> int:
    from hearken.config.follow import engine_rank
    from hearken.data.fine_tuning import SftSettings, run
    from hearken.data.importing import choose_model
    from hearken.machine.fitting import Machine
    from hearken.models.checks import check_base_bits
    from hearken.service import flags

    config = flags.configured(arguments, SFT)
    training = config.build("sft")
    service, rank = config.build("service"), config.get("learner.rank").value
    if rank is not None:
        engine_rank(rank)  # what no engine can load is not worth an hour of training
    model, bits = choose_model(service.model), config.get("learner.base_bits").value
    check_base_bits(model, bits, "auto", on_card=Machine.here().learner_on_card)
    return run(
        SftSettings(
            model=model,
            demonstrations=tuple(arguments.demonstrations),
            data=service.folder,
            training=training,
            kafka=service.kafka,
            registry=service.registry,
            registry_copies=service.registry_copies,
            rank=rank,
            base_bits=bits,
        )
    )


COMMANDS = (
    Command("tiny", "train the built-in tiny model, unless it is in the cache already", _tiny, add=_add_tiny),
    Command(
        "sft",
        "fine-tune the base model on demonstrations: version 0, which a new service starts with",
        _sft,
        SFT,
        _add_sft,
    ),
    Command(
        "rebase",
        "merge the live adapter into a new base, from which a stopped service goes on",
        _rebase,
        REBASE,
        _add_rebase,
    ),
)
