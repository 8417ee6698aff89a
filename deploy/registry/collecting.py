"""Garbage collection of a registry: which versions' files nothing needs any more, as pure functions.

Manifests stay, for decisions name them by their sums. A version whose files were collected can never serve
again.
"""

from collections.abc import Collection, Mapping, Sequence

from deploy.history.releases import History
from deploy.registry.registry import Stored
from deploy.registry.versions import seq_of
from feedback.core.events import BASE


def needed(history: History, held: Collection[str]) -> dict[str, str]:
    """The versions that something names, each with what. held: those that gateways use now.

    Raises ValueError for a history without a decision: then nothing is known of what serves.
    """
    state = history.state
    if state is None:
        raise ValueError("there is no decision in this log, so nothing is known of what serves")
    found = dict.fromkeys(held, "a gateway uses it")
    asked = [*(each.version for each in history.candidates), *(each.version for each in history.commands)]
    found |= {version: "a decision on it is due" for version in asked if version is not None}
    found |= dict.fromkeys(state.lives, "it was live and can be gone back to")
    found |= dict.fromkeys(state.table.adapters, "the table in force names it")
    if state.standing is not None:
        found[state.standing.live] = "it is tested against the anchor"
    if state.waiting is not None:
        found[state.waiting] = "it waits for its canary"
    if state.pinned is not None:
        found[state.pinned] = "it is pinned"
    return {version: why for version, why in found.items() if version != BASE}


def spare(
    versions: Sequence[Stored],
    named: Mapping[str, str],
    newest: int,
    younger_seconds: float,
    now: float,
) -> list[Stored]:
    """The versions whose files may go, oldest first. versions: oldest first.

    named: those that are needed. newest: so many of the last ones stay. What is younger than
    `younger_seconds` stays, and version 0, which guards against forgetting compare with.
    """
    last = {each.version for each in versions[len(versions) - newest :]} if newest else set()
    return [
        each
        for each in versions
        if each.version not in named
        and each.version not in last
        and seq_of(each.version) > 0
        and now - each.at >= younger_seconds
    ]
