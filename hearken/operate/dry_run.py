"""`hearken learn --dry-run`: what optimisers would make of the votes in the log, side by side."""

import dataclasses
import json
import math
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from deploy.engines.key import take_engine_key
from hearken.base.errors import UsageError
from hearken.base.telling import columns
from hearken.config.check import check_optimiser
from hearken.config.layers import Given
from hearken.config.resolve import Config
from hearken.service.roles import learner_settings, log_to_stderr

if TYPE_CHECKING:
    from learner.dry_run import Outcome

HEAD = (
    "optimiser",
    "steps",
    "undone",
    "judged win rate",
    "KL to live",
    "KL to base",
    "tokens",
    "pairs",
    "seconds",
)


def run(config: Config, optimisers: Sequence[str], *, as_json: bool) -> int:
    """Train with one optimiser after the other (none named: the settings'), print what came of each."""
    names = list(dict.fromkeys(optimisers)) or [config.get("learner.optimiser").value]
    log_to_stderr()
    asked = [config.over({"learner.optimiser": Given(name, "--optimiser")}) for name in names]
    for each in asked:
        check_optimiser(each)
    settings = learner_settings(asked[0])
    take_engine_key(settings.data)
    from deploy.engines.client import EngineError
    from deploy.registry.errors import RegistryAway
    from feedback.core.log import LogError
    from feedback.joining.memory import CompletionsUnavailable
    from learner.dry_run import NoPrompts, outcomes
    from learner.main import prepared

    found = []
    try:
        for outcome in outcomes(prepared(settings), names):
            found.append(outcome)
            if as_json:
                print(json.dumps(as_row(outcome)), flush=True)
            else:
                print(f"{outcome.optimiser}: {outcome.sentence}", file=sys.stderr, flush=True)
    except (EngineError, LogError, CompletionsUnavailable, NoPrompts, RegistryAway) as error:
        raise UsageError(f"the dry run ended: {error}", code=1) from error
    if not as_json:
        print("\n".join(table(found)))
    return 0


def as_row(outcome: "Outcome") -> dict[str, Any]:
    """An outcome as JSON; what is not known is null."""
    row = dataclasses.asdict(outcome)
    if math.isnan(outcome.pair_accuracy):
        row["pair_accuracy"] = None
    return row


def table(found: Sequence["Outcome"]) -> list[str]:
    """Outcomes as lines of columns, and each one's sentence below."""
    lines = columns([HEAD, *(_cells(outcome) for outcome in found)])
    sentences = [
        f"{each.optimiser}, by {each.usable} of {each.votes} votes that train: "
        f"{'' if each.gate else 'not compared, '}{each.sentence}"
        for each in found
    ]
    return [line.rstrip() for line in [*lines, "", *sentences, "", "Nothing was published."]]


def _cells(outcome: "Outcome") -> tuple[str, ...]:
    gate = outcome.gate
    numbers = ("-", "-", "-", "-")
    if gate is not None:
        numbers = (
            f"{gate.win_rate:.3f} (at least {gate.win_rate_low:.3f})",
            f"{gate.kl_nats_live:.2f}",
            f"{gate.kl_nats_base:.2f}",
            f"{gate.response_tokens:.0f} (live's {gate.response_tokens_live:.0f})",
        )
    accuracy = "-" if math.isnan(outcome.pair_accuracy) else f"{outcome.pair_accuracy:.3f}"
    return (
        outcome.optimiser,
        str(outcome.steps),
        str(outcome.undone),
        *numbers,
        accuracy,
        f"{outcome.seconds:.0f}",
    )
