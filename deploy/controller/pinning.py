"""Whether a version to be pinned can serve: it is in the registry, and an engine proves it."""

from deploy.engines.fleet import Fleet
from deploy.history.states import ReleaseState
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.registry import Registry
from feedback.core.events import BASE


def obstacle(
    registry: Registry, fleet: Fleet, state: ReleaseState, version: str, now: float
) -> tuple[str | None, str | None]:
    """Why a version cannot serve, None where it can; and the sha256 of its manifest, None for the base.

    Loads and probes it where it is missing, and waits for that as long as a table that names it would.
    """
    if version == BASE:
        return None, None
    try:
        digest = state.manifests.get(version) or registry.manifest_digest(version)
        registry.manifest(version, digest)
    except (RegistryError, RegistryAway) as error:
        return str(error), None
    fleet.manifests = {**state.manifests, version: digest}
    fleet.look()
    if fleet.bring(version, now):
        return None, digest
    problems = fleet.prepare(version, now)
    if problems:
        return problems[0].sentence, digest
    return "no engine that answers has loaded it yet; ask again when one is idle", digest
