"""`hearken release why`, `history` and `report`: what the log says of releases."""

import json
import time

from deploy.history.holds import holds
from deploy.history.releases import History, read_history
from deploy.reports import ab_report
from deploy.reports import why as words
from deploy.reports.running import running
from deploy.reports.status import told
from deploy.settings import ControllerSettings
from hearken.base.errors import UsageError
from hearken.base.telling import decided
from hearken.operate.log import PATIENCE_SECONDS, open_service_log, reading
from hearken.operate.release_report import describe, page
from hearken.settings import ServiceSettings

ALL = 1_000_000
"""More decisions than a service makes in its life."""
REPORT_SECONDS = 120.0
"""How long a report may read votes."""


def history(service: ServiceSettings, limit: int | None, *, as_json: bool = False) -> int:
    """Print decisions, the newest last; limit: how many, None for all. Raises UsageError."""
    with reading(open_service_log(service.folder, service.kafka)) as log:
        found = read_history(log, ALL if limit is None else limit, PATIENCE_SECONDS)
    decisions = [told(decision) for decision in found.decisions]
    if as_json:
        print(json.dumps(decisions, indent=1))
        return 0
    for decision in decisions:
        print(decided(decision))
    if found.state is None:
        print("no decision yet")
    return 0


def why(
    service: ServiceSettings, controller: ControllerSettings, version: str | None, *, as_json: bool = False
) -> int:
    """Print why the release stands where it does, or what became of a version. Raises UsageError.

    controller: as the service's file has it, for what the steps of a canary need.
    """
    with reading(open_service_log(service.folder, service.kafka)) as log:
        found = read_history(log, ALL, PATIENCE_SECONDS)
        if version is None or (found.state is not None and version == found.state.table.canary):
            guardrails = controller.guardrails
            under_way = running(log, found, PATIENCE_SECONDS, guardrails)
            sentences = words.why(found.state, under_way, controller.release_rules, time.time())
        else:
            sentences = _of_version(found, version)
    print(json.dumps({"version": version, "why": sentences}, indent=1) if as_json else "\n".join(sentences))
    return 0


def report(
    service: ServiceSettings, version: str | None, *, as_json: bool = False, as_html: bool = False
) -> int:
    """Print what people think of a version against the one before. Raises UsageError."""
    with reading(open_service_log(service.folder, service.kafka)) as log:
        try:
            found = ab_report.report(log, read_history(log, ALL, PATIENCE_SECONDS), version, REPORT_SECONDS)
        except ab_report.NoRelease as error:
            raise UsageError(f"{error}; `hearken release history` prints all decisions", code=1) from error
    if as_json:
        print(json.dumps(found.told(), indent=1))
    else:
        print(page(found) if as_html else "\n".join(describe(found)))
    return 0


def _of_version(found: History, version: str) -> list[str]:
    now = words.where_now(found, version)
    if now is None:
        raise UsageError(f"no decision is about {version}; `hearken release history` prints all", code=1)
    about = [decided(told(decision)) for decision in found.decisions if decision.version == version]
    held = holds(found.state) if found.state is not None and version == found.state.waiting else []
    return [*about, now, *held]
