"""What operators ask for, as pure functions: (state, command, grounds) -> the steps to take.

A pause holds the running release as it is. A freeze lets it go on and starts no other. A pin makes one
version serve everybody, and nothing replaces it. What cannot be done is a step as well, `not_done`, and says
why.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from deploy.decide.release import LIVES_REMEMBERED, Known, ReleaseRules, promotion, quiet
from deploy.history.releases import Command
from deploy.history.states import Action, ReleaseState, Step, step
from deploy.history.table import RoutingTable
from deploy.reports.why import evidence_words

Steps = tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Grounds:
    """What a command is decided by, beside the state.

    now: Unix time in seconds. known: what the running release has come to, read to the end of the log; None
    where none runs. obstacle: why the version to pin cannot serve, None where it can. digest: the sha256 of
    that version's manifest, None for the base.
    """

    rules: ReleaseRules
    now: float
    known: Known | None = None
    obstacle: str | None = None
    digest: str | None = None


def obey(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    """The steps that a command leads to, one or two; the last one answers it."""
    return _ACTIONS[command.action](state, command, grounds)


def promotes(state: ReleaseState, command: Command) -> bool:
    """Whether a command asks for the running canary to serve everybody."""
    pins = command.action == "pin" and command.version == state.table.canary
    return pins or command.action == "promote"


def _rollback(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    if state.pinned is not None:
        return _not_done(state, command, f"{state.pinned} is pinned; unpin it first, or pin another version")
    if state.stage == "canary":
        back, gone = state.table.live, state.table.canary
    elif len(state.lives) > 1:
        back, gone = state.lives[-2], state.lives[-1]
    else:
        return _not_done(state, command, f"{state.table.live} is live and no version came before it")
    if command.version not in (None, gone):
        return _not_done(state, command, f"{command.version} is not what would be rolled back; {gone} is")
    return (_back(state, gone, back, f"Rolled back {gone} to {back}{_for(command)}.", grounds.now),)


def _promote(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    canary, known = state.table.canary, grounds.known
    if state.stage != "canary" or canary is None:
        waits = f"; {state.waiting} waits for its canary" if state.waiting is not None else ""
        return _not_done(state, command, f"no canary runs, {state.table.live} is live{waits}")
    if command.version not in (None, canary):
        return _not_done(state, command, f"{command.version} is not the canary that runs; {canary} is")
    if known is None:
        return _not_done(state, command, f"what users did with {canary} is not known yet")
    if known.failure is not None:
        return _not_done(state, command, f"a guardrail of {canary} failed: {known.failure.sentence}")
    evidence = evidence_words(known.reading, grounds.rules.promote_bound, grounds.rules.harm_bound)
    if known.reading.crossed == "harm":
        return _not_done(state, command, f"{canary} does harm: {evidence}")
    guardrails = "guardrails hold" if known.judged else "guardrails were not judged yet"
    sentence = (
        f"Promoted {canary}{_for(command)}. A person decided it, not the evidence: {evidence}; {guardrails}."
    )
    return (promotion(state, grounds.rules, known, grounds.now, sentence),)


def _pin(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    """The running canary comes first: it is promoted when it is the version to pin, else it ends."""
    version = command.version
    if version is None:
        return _not_done(state, command, "a pin needs the version to pin")
    if grounds.obstacle is not None:
        return _not_done(state, command, f"{version} cannot serve: {grounds.obstacle}")
    first: Steps = ()
    if state.stage == "canary" and promotes(state, command):
        first = _promote(state, command, grounds)
    elif state.stage == "canary":
        gone, back = state.table.canary, state.table.live
        sentence = f"Rolled back {gone} to {back}{_for(command)}: {version} is pinned."
        first = (_back(state, gone, back, sentence, grounds.now),)
    if first and first[-1].outcome == "not_done":
        return first
    return (*first, _pinned(first[-1].state if first else state, version, command, grounds))


def _pinned(state: ReleaseState, version: str, command: Command, grounds: Grounds) -> Step:
    instead = "" if version == state.table.live else f" in place of {state.table.live}"
    sentence = (
        f"Pinned {version}{instead}{_for(command)}. It serves everybody, and no canary starts, "
        "until it is unpinned."
    )
    changes: dict[str, Any] = {"pinned": version}
    if state.waiting == version:
        changes["waiting"] = None
    if grounds.digest is not None:
        changes["manifests"] = {**state.manifests, version: grounds.digest}
    if state.stage != "idle" or version != state.table.live or state.table.anchor is not None:
        changes |= _served_alone(state, version, grounds.now)
    return step(state, "pinned", version, sentence, {}, **changes)


def _served_alone(state: ReleaseState, version: str, now: float) -> dict[str, object]:
    """A version that was live before is gone back to; any other follows the one that is live. Nobody keeps an
    older one: there is no anchor."""
    known = version in state.lives
    changes = quiet(state, version if known else state.table.live, now)
    table = RoutingTable(epoch=state.table.epoch + 1, salt=state.table.salt, live=version)
    lives = changes["lives"] if known else (*state.lives, version)[-LIVES_REMEMBERED:]
    return {**changes, "table": table, "lives": lives, "standing": None}


def _back(state: ReleaseState, gone: str | None, back: str, sentence: str, now: float) -> Step:
    return step(state, "rolled_back", gone, sentence, {}, **quiet(state, back, now))


# -- switches: asked for twice they are what they were -----------------------------------------------------


def _pause(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    sentence = (
        f"Paused{_for(command)}. No canary starts, grows or is promoted until it is resumed; "
        "harm and guardrails still roll back."
    )
    return (step(state, "paused", None, sentence, paused=True),)


def _resume(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    return (step(state, "resumed", None, f"Resumed{_for(command)}.", paused=False),)


def _freeze(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    sentence = f"Frozen{_for(command)}. No canary starts until it is unfrozen; one that runs goes on."
    return (step(state, "frozen", None, sentence, frozen=True),)


def _unfreeze(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    return (step(state, "unfrozen", None, f"Unfrozen{_for(command)}.", frozen=False),)


def _unpin(state: ReleaseState, command: Command, grounds: Grounds) -> Steps:
    sentence = f"Unpinned {state.pinned or 'nothing, for nothing was pinned,'}{_for(command)}."
    return (step(state, "unpinned", state.pinned, sentence, pinned=None),)


_ACTIONS: Mapping[Action, Callable[[ReleaseState, Command, Grounds], Steps]] = {
    "rollback": _rollback,
    "promote": _promote,
    "pin": _pin,
    "unpin": _unpin,
    "pause": _pause,
    "resume": _resume,
    "freeze": _freeze,
    "unfreeze": _unfreeze,
}


# -- words -------------------------------------------------------------------------------------------------


def _for(command: Command) -> str:
    return f" for {command.who}: {command.reason}" if command.reason else f" for {command.who}"


def _not_done(state: ReleaseState, command: Command, why: str) -> Steps:
    sentence = f"Not done{_for(command)} ({command.action}): {why}."
    return (step(state, "not_done", command.version, sentence),)
