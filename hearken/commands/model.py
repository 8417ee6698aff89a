"""`hearken tiny` and `hearken sft`: what a service starts from."""

import argparse
from pathlib import Path

from hearken.commands import Command, flag
from hearken.errors import UsageError

SFT = {
    "--model": "service.model",
    "--data": "service.data",
    "--kafka": "service.kafka",
    "--rank": "learner.rank",
}


def _add_tiny(command: argparse.ArgumentParser) -> None:
    flag(command, "--folder", Path, None, "where to put it; without it ~/.cache/hearken/tiny")
    command.add_argument("--force", action="store_true", help="train it anew (default: keep it)")


def _add_sft(command: argparse.ArgumentParser) -> None:
    text = "JSON, JSON lines, CSV or Parquet of demonstrations, such as {prompt, completion}; may be repeated"
    command.add_argument("--demonstrations", type=Path, action="append", required=True, help=text)
    flag(command, "--epochs", int, 3, "passes over the demonstrations; the best by held-out loss is kept")
    flag(command, "--learning-rate", float, 1e-3, "of the adapter, at its peak")
    flag(command, "--max-tokens", int, 1024, "prompt and answer together; what is longer is left out")


def _tiny(arguments: argparse.Namespace) -> int:
    from hearken import tiny

    try:
        tiny.run(arguments.folder, arguments.force)
    except tiny.NotOurFolder as error:
        raise UsageError(str(error)) from error
    return 0


def _sft(arguments: argparse.Namespace) -> int:
    from hearken import flags
    from hearken.fine_tuning import SftSettings, run
    from hearken.importing import choose_model

    for name in ("epochs", "max_tokens", "learning_rate"):
        if not getattr(arguments, name) > 0:
            raise UsageError(f"--{name.replace('_', '-')} must be above 0")
    config = flags.configured(arguments, SFT)
    service = config.build("service")
    return run(
        SftSettings(
            model=choose_model(service.model),
            demonstrations=tuple(arguments.demonstrations),
            data=service.folder,
            kafka=service.kafka,
            epochs=arguments.epochs,
            learning_rate=arguments.learning_rate,
            max_tokens=arguments.max_tokens,
            rank=config.get("learner.rank").value,
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
)
