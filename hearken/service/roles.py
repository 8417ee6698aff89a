"""The three processes that hearken itself provides, each from the settings that hold.

What a role refuses (settings that make no sense, a folder that cannot be used) is the user's to mend and
becomes one line.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.engines.key import take_engine_key
from feedback.core.log import LogError
from hearken.base.checks import check_port, check_registry
from hearken.base.errors import UsageError
from hearken.config.check import check_optimiser, check_own, check_signals
from hearken.config.fields import NEEDED
from hearken.config.layers import Given
from hearken.config.resolve import Config

if TYPE_CHECKING:
    from learner.settings import LearnerSettings


def run_gateway(config: Config) -> int:
    """Run a gateway until SIGTERM."""
    from serve.auth.access import KeysUnusable
    from serve.main import run
    from serve.tracing_export import NoTracing
    from serve.webhooks.senders import BadWebhookSenders

    settings = _in_folder(config).build("gateway")
    model = config.build("service").model
    check_port(settings.host, settings.port)
    log_to_stderr()
    try:
        run(settings, None if model is None else import_command(model))
    except (LogError, KeysUnusable, NoTracing, BadWebhookSenders) as error:
        raise UsageError(f"the gateway cannot run: {error}", code=1) from error
    return 0


def import_command(model: str) -> tuple[str, ...]:
    """What starts a process that works off imports, with the tokens of a model (a folder or a name)."""
    return (sys.executable, "-m", "hearken.data.import_worker", model)


def run_controller(config: Config) -> int:
    """Run the release controller until SIGTERM."""
    from deploy.controller.webhooks import NoSecret
    from deploy.main import AlreadyRunning, run

    settings = _in_folder(config).build("controller")
    check_port(settings.metrics_host, settings.metrics_port, "--metrics-port")
    check_registry(settings.registry, settings.fetch_port)
    log_to_stderr()
    try:
        run(settings)
    except (LogError, AlreadyRunning, NoSecret) as error:
        raise UsageError(f"the controller cannot run: {error}", code=1) from error
    return 0


def learner_settings(config: Config) -> "LearnerSettings":
    """The settings of a learner that can be started here. Raises UsageError for what cannot be."""
    from hearken.machine.engine import context_length, resolve_model
    from hearken.machine.fitting import Machine, fit_learner
    from hearken.models.checks import check_base_bits

    if config.get("learner.model").value is NEEDED:
        raise UsageError("the learner needs --model, the base model that its engine serves")
    config = _in_folder(config)
    model = resolve_model(config.get("learner.model").value, template=False)  # the engine has it
    settings: LearnerSettings = config.over({"learner.model": Given(str(model), "--model")}).build("learner")
    check_optimiser(config)
    check_registry(settings.registry, settings.fetch_port)
    check_signals(config)
    check_own(config)
    machine = Machine.here()
    check_base_bits(model, settings.base_bits, settings.products, on_card=machine.learner_on_card)
    fit_learner(
        model,
        settings,
        context_length(model),
        check=config.build("service").memory_check,
        say=logging.getLogger("hearken.learner").warning,
        machine=machine,
    )
    return settings


def run_learner(config: Config) -> int:
    """Run the learner until SIGTERM."""
    log_to_stderr()
    settings = learner_settings(config)
    if os.environ.get("RANK", "0") == "0":  # of several ranks under torchrun the first has the metrics
        check_port(settings.metrics_host, settings.metrics_port, "--metrics-port")
    from deploy.registry.errors import RegistryAway, RegistryError
    from learner.main import run
    from learner.model.adapters import LayersTooFew, RankTooLow
    from learner.model.quantized import CannotQuantize
    from learner.model.ranks import RankGone
    from learner.state.checkpoint import LearnerBusy

    try:
        run(settings)
    except (
        *(LogError, RegistryAway, RegistryError, LearnerBusy),
        *(RankGone, RankTooLow, LayersTooFew, CannotQuantize),
    ) as error:
        raise UsageError(f"the learner cannot run: {error}", code=1) from error
    return 0


def run_judge(config: Config, *, once: bool) -> int:
    """Let a model judge until SIGTERM, or with `once` what is in the log now."""
    from hearken.data.judging import run

    return _work_off(run, config, "judge", "judge", once=once)


def run_reviser(config: Config, *, once: bool) -> int:
    """Let a model revise answers in the light of comments, like `run_judge`."""
    from hearken.data.revising import run

    return _work_off(run, config, "revise", "reviser", once=once)


def run_listener(config: Config, *, once: bool) -> int:
    """Let a model read what people's next messages say of answers, like `run_judge`."""
    from hearken.data.listening import run

    return _work_off(run, config, "listen", "listener", once=once)


def _work_off(run: Callable[..., int], config: Config, table: str, who: str, *, once: bool) -> int:
    log_to_stderr()
    settings = _in_folder(config).build(table)
    take_engine_key(settings.data)
    try:
        status: int = run(settings, once=once)
    except LogError as error:
        raise UsageError(f"the {who} cannot go on: {error}", code=1) from error
    return status


def _in_folder(config: Config) -> Config:
    """The same with the service's data folder, which must be one."""
    data: Path = config.build("service").folder
    if not (data / "secret").exists():
        raise UsageError(
            f"{data} is not a service's data folder: it has no secret; `hearken up --data {data}` makes one, "
            "or copy the one that the service's other processes use"
        )
    return config.over({"service.data": Given(data, "--data")})


def log_to_stderr() -> None:
    """Where a process that is not the gateway says what it does, and why."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request to the engine
