"""What holds releases because an operator asked for it, in plain sentences."""

from deploy.history.states import ReleaseState


def holds(state: ReleaseState) -> list[str]:
    """What operators asked for that holds releases."""
    found = []
    if state.paused:
        found.append(
            "Releases are paused: no canary starts, grows or is promoted until `hearken resume`; harm and "
            "guardrails still roll back."
        )
    if state.frozen:
        found.append("Releases are frozen: no canary starts until `hearken release unfreeze`.")
    if state.pinned is not None and state.pinned == state.table.live:
        found.append(f"{state.pinned} is pinned: nothing replaces it until `hearken release unpin`.")
    elif state.pinned is not None:
        found.append(
            f"{state.pinned} is pinned, but no engine could serve it, so {state.table.live} serves. Nothing "
            "else starts until `hearken release unpin`; pin it again when an engine can serve it."
        )
    return found
