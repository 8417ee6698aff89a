"""The three processes that hearken itself provides, each from its command line's arguments.

What a role refuses (settings that make no sense, a folder that cannot be used) is the user's to mend and
becomes one line.
"""

import argparse
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from feedback.log import LogError
from hearken.access import AccessFlags
from hearken.checks import check_port
from hearken.errors import UsageError
from hearken.paces import controller_pace, learner_pace

Settings = TypeVar("Settings")


def run_gateway(arguments: argparse.Namespace, engines: tuple[str, ...]) -> int:
    """Run a gateway until SIGTERM."""
    from serve.access import KeysUnusable
    from serve.main import run
    from serve.settings import GatewaySettings

    data = _data(arguments)
    access = AccessFlags.of(arguments)
    check_port(arguments.host, arguments.port)
    _log_to_stderr()
    settings = _checked(
        GatewaySettings,
        data=data,
        engines=engines,
        host=arguments.host,
        port=arguments.port,
        model_name=arguments.model_name,
        max_in_flight=arguments.max_in_flight,
        queue_length=arguments.queue_length,
        queue_seconds=arguments.queue_seconds,
        kafka=arguments.kafka,
        redis=arguments.redis,
        retention_days=arguments.retention_days,
        **access.settings(),
    )
    try:
        run(settings)
    except (LogError, KeysUnusable) as error:
        raise UsageError(f"the gateway cannot run: {error}", code=1) from error
    return 0


def run_controller(arguments: argparse.Namespace, engines: tuple[str, ...]) -> int:
    """Run the release controller until SIGTERM."""
    from deploy.controller import AlreadyRunning, run
    from deploy.settings import ControllerSettings

    data = _data(arguments)
    check_port(arguments.metrics_host, arguments.metrics_port, "--metrics-port")
    _log_to_stderr()
    settings = _checked(
        ControllerSettings,
        data=data,
        engines=engines,
        metrics_port=arguments.metrics_port,
        metrics_host=arguments.metrics_host,
        kafka=arguments.kafka,
        redis=arguments.redis,
        **controller_pace(arguments.pace),
    )
    try:
        run(settings)
    except (LogError, AlreadyRunning) as error:
        raise UsageError(f"the controller cannot run: {error}", code=1) from error
    return 0


def run_learner(arguments: argparse.Namespace, engine: str) -> int:
    """Run the learner until SIGTERM."""
    from hearken.engine import resolve_model

    data = _data(arguments)
    model = resolve_model(arguments.model)
    if os.environ.get("RANK", "0") == "0":  # of several ranks under torchrun the first has the metrics
        check_port(arguments.metrics_host, arguments.metrics_port, "--metrics-port")
    _log_to_stderr()
    from learner.adapters import RankTooLow
    from learner.checkpoint import LearnerBusy
    from learner.loop import run
    from learner.ranks import RankGone
    from learner.settings import LearnerSettings

    asked = {"kl_budget_nats": arguments.kl_budget_nats, "threads": arguments.threads}
    settings = _checked(
        LearnerSettings,
        data=data,
        model=str(model),
        engine=engine,
        metrics_port=arguments.metrics_port,
        metrics_host=arguments.metrics_host,
        kafka=arguments.kafka,
        seed=arguments.seed,
        products=arguments.products,
        **learner_pace(arguments.pace),
        **{name: value for name, value in asked.items() if value is not None},
    )
    try:
        run(settings)
    except (LogError, LearnerBusy, RankGone, RankTooLow) as error:
        raise UsageError(f"the learner cannot run: {error}", code=1) from error
    return 0


def _checked(kind: Callable[..., Settings], **values: Any) -> Settings:
    """A role's settings, with what they refuse told to the user."""
    try:
        return kind(**values)
    except ValueError as error:
        raise UsageError(str(error)) from error


def _data(arguments: argparse.Namespace) -> Path:
    data: Path = arguments.data.expanduser().resolve()
    if not (data / "secret").exists():
        raise UsageError(
            f"{data} is not a service's data folder: it has no secret; `hearken up --data {data}` makes one, "
            "or copy the one that the service's other processes use"
        )
    return data


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    logging.getLogger("httpx").setLevel(logging.WARNING)  # a line for every request to the engine
    logging.getLogger("kafka").setLevel(logging.WARNING)
