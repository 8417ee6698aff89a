"""Lines that people read: those of `hearken status`, and tables."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

Told = dict[str, Any]


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of as many cells each, as lines of columns."""
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    padded = ([cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows)
    return ["  ".join(cells) for cells in padded]


def describe(told: Told) -> list[str]:
    """The summary of releases (`deploy.reports.status.summary`), the newest decision last. Times are
    local."""
    if told["stage"] is None:
        return ["no decision yet: every user gets the base model"]
    lines = [f"live        {told['live']}"]
    if told["stage"] == "idle":
        lines.append(f"stage       idle since {local(told['since'])}")
    else:
        lines.append(
            f"stage       {told['stage']} at {told['weight']:.0%} of users since {local(told['since'])}"
        )
        lines.append(f"canary      {told['canary']}")
        lines.append(f"control     {told['control']}")
        lines += _evidence(told["evidence"])
        for state in ("failed", "not judged yet", "held"):
            names = [name for name, found in told["guardrails"].items() if found == state]
            if names:
                lines.append(f"guardrails  {state}: {', '.join(names)}")
    if told["anchor"] is not None:
        lines.append(f"anchor      {told['anchor']} for {told['anchor_weight']:.0%} of users")
    if told["waiting"] is not None:
        lines.append(f"waiting     {told['waiting']}")
    if (shadow := told["shadow"]) is not None:
        lines.append(
            f"shadow      {shadow['prompts']} of {shadow['of']} prompts since {local(shadow['since'])}"
        )
    for engine in told["quarantined"]:
        lines.append(f"quarantine  {engine} cannot prove a version in use, and serves nobody with it")
    if told["paused"]:
        lines.append("paused      no canary starts, grows or is promoted until `hearken resume`")
    if told["frozen"]:
        lines.append("frozen      no canary starts until `hearken release unfreeze`")
    if told["pinned"] is not None:
        lines.append(f"pinned      {told['pinned']}: nothing replaces it until `hearken release unpin`")
    lines.append(f"table       epoch {told['table_epoch']}")
    return lines + [f"  {decided(each)}" for each in reversed(told["decisions"])]


def decided(told: Told) -> str:
    """A decision (`deploy.reports.status.told`) in one line: when, and what and why."""
    return f"{local(told['at'])}  {told['sentence']}"


def local(at: float) -> str:
    """Unix time in seconds as ISO 8601 in local time, to the second."""
    return datetime.fromtimestamp(at).astimezone().isoformat(sep=" ", timespec="seconds")


def _evidence(found: Told | None) -> list[str]:
    """How the running comparison stands."""
    if found is None:
        return []
    tests = [f"{name} {test['evidence']:.3g} of {test['bound']:g}" for name, test in found["tests"].items()]
    lines = [f"evidence    {', '.join(tests)}"]
    if found["mean_difference"] is None:
        lines.append("pairs       0")
    else:
        lines.append(
            f"pairs       {found['pairs']} of users, mean difference {found['mean_difference']:+.3f}"
        )
    if found["preferred"] is not None:
        lines.append(
            f"compared    {found['compared']} users, the new one preferred in {found['preferred']:.0%}"
        )
    lines += [f"unproven    {what}" for what in found["unproven"]]
    lines += [f"voted       {_bucket(found, 'canary')}; {_bucket(found, 'control')}"]
    if not found["complete"]:
        lines.append("            of a part of the votes: reading all of them takes too long here")
    return lines


def _bucket(found: Told, arm: str) -> str:
    value = found["values"][arm]
    users = f"{found['users'][arm]} users of the {arm}"
    return users if value is None else f"{users}, {value:.2f} on average"
