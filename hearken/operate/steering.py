"""What an operator asks the release controller for from the command line, and what came of it."""

import getpass
import os
import sys
import time

from deploy.history.asking import Asked, not_yet
from deploy.history.releases import Decision, make_command
from deploy.history.states import Action
from deploy.registry.versions import is_version
from feedback.core.events import BASE, RELEASES
from feedback.core.log import LogError, LogUnavailable
from feedback.opening import open_shared
from feedback.shared import SharedStore, SharedUnavailable
from hearken.base.errors import UsageError
from hearken.operate.log import PATIENCE_SECONDS, open_service_log
from hearken.settings import ServiceSettings

POLL_SECONDS = 0.2
"""How often gateways' leases are looked at."""


def ask(
    service: ServiceSettings, action: Action, version: str | None, reason: str, wait_seconds: float
) -> int:
    """Ask the controller for something, and wait until it is in force on all gateways.

    Gives 1 when it was not done, or is not known to be in force when the time is over. Raises UsageError.
    """
    if version is not None and version != BASE and not is_version(version):
        raise UsageError(f"{version!r} is no version; one is like policy-12-1c9ab2d4, or {BASE}")
    if not reason.isprintable():
        raise UsageError("--reason has characters that cannot be printed; write it in one line")
    deadline = time.monotonic() + wait_seconds
    log = open_service_log(service.folder, service.kafka)
    try:
        asked = Asked(log, make_command(action, version, reason=reason, who=operator_name()))
        asked.append()
        log.end([RELEASES], PATIENCE_SECONDS)  # with Kafka: until the broker has it
        if not wait_seconds:
            print(f"asked for: {action}; `hearken status` shows the controller's decision")
            return 0
        decision = _decision(asked, deadline)
    except LogUnavailable as error:
        return _failed(f"the command is kept, but has not reached the controller: {error}")
    except LogError as error:
        raise UsageError(f"the log cannot be written: {error}", code=1) from error
    finally:
        log.close()
    if decision is None:
        return _failed(
            f"no controller has decided within {wait_seconds:g} s; the command is kept for when one runs"
        )
    if decision.outcome == "not_done":
        return _failed(decision.sentence)
    print(decision.sentence)
    return 0 if decision.table is None else _await_gateways(service, decision, deadline)


def operator_name() -> str:
    """Who asks: the name of the user who runs the command."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        return f"user {os.getuid()}"


def _decision(asked: Asked, deadline: float) -> Decision | None:
    while asked.decision is None and (left := deadline - time.monotonic()) > 0:
        asked.look(left)
    return asked.decision


def _await_gateways(service: ServiceSettings, decision: Decision, deadline: float) -> int:
    try:
        store = open_shared(service.folder, service.redis)
    except SharedUnavailable as error:
        return _failed(f"it is not known which gateways serve by it: {error}")
    try:
        missing = _missing(store, decision, deadline)
    finally:
        store.close()
    if missing is None:
        print(f"all gateways serve {decision.state.table.live}")
        return 0
    hint = "" if service.redis else "; with Redis say which by --redis, as gateways have it"
    return _failed(f"{missing}{hint}")


def _missing(store: SharedStore, decision: Decision, deadline: float) -> str | None:
    while (missing := not_yet(store, decision)) is not None and time.monotonic() < deadline:
        time.sleep(POLL_SECONDS)
    return missing


def _failed(sentence: str) -> int:
    print(f"hearken: {sentence}", file=sys.stderr)
    return 1
