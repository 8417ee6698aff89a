"""What an operator does from the command line: look, roll back, pause, resume, all through the log."""

from pathlib import Path

from deploy.releases import History, append_command, read_history
from deploy.stages import Action
from feedback.log import EventLog, LogError
from feedback.opening import open_log
from hearken.errors import UsageError

DECISIONS_SHOWN = 8


def status(data: Path, kafka: str | None) -> int:
    """Print which policies serve whom, and the last decisions."""
    log = _open(data, kafka)
    try:
        print("\n".join(describe(read_history(log, DECISIONS_SHOWN))))
    finally:
        log.close()
    return 0


def command(data: Path, kafka: str | None, action: Action, reason: str) -> int:
    """Ask the release controller for something. It answers with a decision, which `hearken status` shows."""
    log = _open(data, kafka)
    try:
        append_command(log, action, reason=reason)
    except LogError as error:
        raise UsageError(f"the log cannot be written: {error}", code=1) from error
    finally:
        log.close()
    print(f"asked for: {action}; `hearken status` shows the controller's decision")
    return 0


def describe(history: History) -> list[str]:
    """The state of releases in lines that people read."""
    state = history.state
    if state is None:
        return ["no decision yet: every user gets the base model"]
    table = state.table
    lines = [f"live        {table.live}"]
    if state.stage != "idle":
        lines.append(f"stage       {state.stage} at {table.weight:.0%} of users")
        lines.append(f"canary      {table.canary}")
        lines.append(f"control     {table.control}")
    if state.waiting is not None:
        lines.append(f"waiting     {state.waiting}")
    if state.paused:
        lines.append("paused      no canary starts until `hearken resume`")
    lines.append(f"table       epoch {table.epoch}")
    lines.append("decisions")
    lines += [f"  {decision.number:>4}  {decision.sentence}" for decision in history.decisions]
    return lines


def _open(data: Path, kafka: str | None) -> EventLog:
    data = data.expanduser()
    if not (data / "secret").exists():
        raise UsageError(
            f"{data} is not a service's data folder; name the one of `hearken up` with --data DIR"
        )
    try:
        return open_log(data, kafka, "operator")
    except LogError as error:
        raise UsageError(f"the log cannot be opened: {error}", code=1) from error
