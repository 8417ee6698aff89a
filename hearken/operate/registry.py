"""`hearken registry`: what is in the registry of adapters, and deleting what nothing needs any more."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass

from deploy.history.leases import read
from deploy.history.releases import read_history
from deploy.registry.bucket import BucketRegistry
from deploy.registry.collecting import needed, spare
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.registries import open_registry
from deploy.registry.registry import Registry, Stored
from feedback.opening import open_shared
from hearken.base.checks import check_registry, check_service
from hearken.base.errors import UsageError
from hearken.base.spans import span_seconds
from hearken.base.telling import local
from hearken.operate.log import open_service_log, reading
from hearken.settings import ServiceSettings

PATIENCE_SECONDS = 30.0

STRAY_SECONDS = 3600.0
"""How old an object has to be that no manifest lists: a learner that publishes is done within minutes."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What stays though nothing names it: the `newest` versions, and all that are younger."""

    newest: int
    younger: str  # 7d, 12h

    @property
    def younger_seconds(self) -> float:
        """Raises UsageError for what is no span."""
        found = span_seconds(self.younger, "smhdw")
        if found is None:
            raise UsageError(f"--younger {self.younger!r} is no span of time; write 7d or 12h")
        return found


def show(service: ServiceSettings, *, as_json: bool) -> int:
    """Print the versions, oldest first. Raises UsageError."""
    with _Told(service) as registry:
        versions = registry.sizes()
    if as_json:
        print(json.dumps({"registry": registry.where, "versions": [each._asdict() for each in versions]}))
        return 0
    for each in versions:
        print(f"{local(each.at)}  {each.version}  {_bytes(each.size)}")
    print(f"{len(versions)} versions, {_bytes(sum(each.size for each in versions))}, in {registry.where}")
    return 0


def collect(service: ServiceSettings, rules: Rules, *, delete: bool, as_json: bool) -> int:
    """Say which versions' files nothing needs any more, and with `delete` delete them. Raises UsageError."""
    now, younger_seconds = time.time(), rules.younger_seconds
    with _Told(service) as registry:
        named, versions = _needed(service), registry.sizes()
        gone = spare(versions, named, rules.newest, younger_seconds, now)
        strays = registry.strays(now - STRAY_SECONDS) if isinstance(registry, BucketRegistry) else []
        if delete:
            for each in gone:
                registry.collect(each.version)
            if isinstance(registry, BucketRegistry):
                registry.bucket.delete([each.key for each in strays])
    stray_bytes = sum(each.size for each in strays)
    if as_json:
        told = {
            "registry": registry.where,
            "deleted": delete,
            "collected": [each._asdict() for each in gone],
            "strays": [each._asdict() for each in strays],
            "bytes": sum(each.size for each in gone) + stray_bytes,
            "kept": {each.version: named.get(each.version) for each in versions if each not in gone},
        }
        print(json.dumps(told))
        return 0
    print("\n".join(_lines(registry, gone, versions, named, deleted=delete)))
    if strays:
        verb = "deleted" if delete else "would delete"
        print(f"{verb} {len(strays)} objects of no version, {_bytes(stray_bytes)}")
    if (gone or strays) and not delete:
        print("nothing was deleted; `--delete` does it")
    return 0


def _lines(
    registry: Registry,
    gone: Sequence[Stored],
    versions: Sequence[Stored],
    named: Mapping[str, str],
    *,
    deleted: bool,
) -> list[str]:
    verb = "collected" if deleted else "would collect"
    lines = [f"{local(each.at)}  {verb} {each.version}, {_bytes(each.size)}" for each in gone]
    kept = [each for each in versions if each not in gone]
    lines += [
        f"{local(each.at)}  keeps {each.version}: {named[each.version]}"
        for each in kept
        if each.version in named
    ]
    lines.append(
        f"{verb} the files of {len(gone)} of {len(versions)} versions, "
        f"{_bytes(sum(each.size for each in gone))}, in {registry.where}; manifests stay"
    )
    return lines


def _needed(service: ServiceSettings) -> dict[str, str]:
    """The versions that decisions, candidates, commands and gateways name, with why."""
    with reading(open_service_log(service.folder, service.kafka)) as log:
        history = read_history(log, 1, PATIENCE_SECONDS)
    with closing(open_shared(service.folder, service.redis)) as shared:
        leases = read(shared)
    if leases is None:
        raise UsageError(
            "the shared store does not answer, so it is not known what gateways use; nothing is deleted",
            code=1,
        )
    try:
        return needed(history, {version for lease in leases for version in lease.versions})
    except ValueError as error:
        raise UsageError(f"{error}; nothing is deleted. Is it the service's log?", code=1) from error


class _Told:
    """The registry of a service, whose errors become one line."""

    def __init__(self, service: ServiceSettings) -> None:
        check_service(service.folder)
        check_registry(service.registry, service.fetch_port)
        self._registry = open_registry(service.folder, service.registry, service.registry_copies)

    def __enter__(self) -> Registry:
        return self._registry

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RegistryAway | RegistryError):
            raise UsageError(str(error), code=1) from error


def _bytes(count: int) -> str:
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
