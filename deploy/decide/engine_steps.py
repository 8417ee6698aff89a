"""The steps that engines bring about by what they cannot prove, or can again, as pure functions."""

from deploy.decide.release import quiet
from deploy.evidence.comparing import Failure
from deploy.history.states import Number, ReleaseState, Step, step


def reject(
    state: ReleaseState,
    version: str,
    why: str,
    numbers: dict[str, Number] | None = None,
    *,
    quarantine: str | None = None,
) -> Step:
    """An engine was not given a version that is in use; the other engines go on with it.

    quarantine: the URL of the engine, where it is the engine that is at fault.
    """
    sentence = f"Kept {version} from users of one engine: {why}."
    quarantined = state.quarantined
    if quarantine is not None and quarantine not in quarantined:
        quarantined = (*quarantined, quarantine)
    return step(state, "rejected", version, sentence, numbers, quarantined=quarantined)


def restore(state: ReleaseState, engine: str) -> Step:
    """An engine proves again all that is in use."""
    quarantined = tuple(url for url in state.quarantined if url != engine)
    sentence = f"{engine} proves again what is in use, and is out of quarantine."
    return step(state, "restored", None, sentence, {"engine": engine}, quarantined=quarantined)


def fall_back(state: ReleaseState, back: str, failure: Failure, now: float) -> Step:
    """No engine can serve live: the newest version before it that one can serve, or the base, serves all."""
    gone = state.table.live
    if back not in state.lives:
        state = state.model_copy(update={"lives": (back, *state.lives)})
    why = f"the newest version that an engine can serve: {failure.sentence}"
    sentence = f"Rolled back {gone} to {back}, {why}."
    numbers: dict[str, Number] = {**failure.numbers, "guardrail": failure.guardrail}
    return step(state, "guardrail", gone, sentence, numbers, **quiet(state, back, now))
