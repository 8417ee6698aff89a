"""`hearken rebase`: the live adapter becomes a part of the base, and adapters start at nothing again."""

import json
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from deploy.decide import release
from deploy.history.releases import History, append_step, read_history
from deploy.history.signing import sign, signing_key
from deploy.history.states import ReleaseState
from deploy.registry.bucket import COPIES
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.manifest import Manifest
from deploy.registry.registries import open_registry
from feedback.core.events import BASE, RELEASES
from feedback.core.files import Held, fsync, only_one
from feedback.core.log import LogError
from feedback.core.secret import load_secret
from feedback.opening import open_log
from hearken.base.checks import check_service
from hearken.base.checks import only_one as one_service
from hearken.base.errors import UsageError

MANIFEST = "hearken-rebase.json"
"""In a new base's folder: where it came from."""

MOST_LOST = 0.1
"""Share of the adapter's effect that rounding may take."""

PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class RebaseSettings:
    """model: the present base's folder; target: the new base's; float32: how its weights are written."""

    model: Path
    target: Path
    data: Path
    kafka: str | None = None
    registry: str | None = None
    registry_copies: int = COPIES
    float32: bool = False


def run(settings: RebaseSettings) -> int:
    """Make the new base, and tell the log that it serves from now on. Raises UsageError.

    What was done before it was killed is found and not done again.
    """
    data = settings.data
    check_service(data)
    with _stopped(data):
        log = open_log(data, settings.kafka, "operator")
        try:
            history = read_history(log, wait_seconds=PATIENCE_SECONDS)
            state = _ready(history)
            registry = open_registry(data, settings.registry, settings.registry_copies)
            try:
                manifest = registry.verify(state.table.live)
                adapter = registry.path(manifest.version)
            except (RegistryError, RegistryAway) as error:
                raise UsageError(str(error), code=1) from error
            told = _made(settings, manifest, adapter)
            _tell(log, history, state, told, load_secret(data / "secret"))
            log.end([RELEASES], PATIENCE_SECONDS)  # with Kafka: until the broker has it
        except LogError as error:
            raise UsageError(f"the log cannot be used: {error}", code=1) from error
        finally:
            log.close()
    print(f"{settings.target} is {manifest.version} in the base; start the service with it:")
    print(f"  hearken up --model {settings.target} --data {data}")
    print("Its learner reads the voted answers anew with the new base when it starts.")
    return 0


@contextmanager
def _stopped(data: Path) -> Iterator[None]:
    """Hold the locks of all that serves and learns here. Raises UsageError when something runs."""
    with ExitStack() as held:
        held.enter_context(one_service(data))
        for role, lock in (("controller", "controller.lock"), ("learner", "learner/lock")):
            try:
                held.enter_context(only_one(data / lock))
            except Held as by:
                raise UsageError(
                    f"a {role} (process {by.holder}) runs on {data}; stop the service first: its engines "
                    "serve the old base, and users would get that without the adapter"
                ) from None
        yield


def _ready(history: History) -> ReleaseState:
    """The state of releases, if it is one in which there may be a new base. Raises UsageError."""
    state = history.state
    if state is None or state.table.live == BASE:
        raise UsageError("the base serves by itself; there is no adapter to merge into it")
    if state.stage != "idle":
        raise UsageError(
            f"a {state.stage} is running, {state.table.canary} beside {state.table.control}: what is merged "
            "cannot be taken back. Wait until it is decided (`hearken status`), or `hearken rollback`"
        )
    if state.pinned is not None:
        raise UsageError(
            f"{state.pinned} is pinned, and versions of the old base cannot serve on a new one; "
            "`hearken release unpin` first"
        )
    return state


def _made(settings: RebaseSettings, live: Manifest, adapter: Path) -> dict[str, Any]:
    """What the new base's manifest says; makes the folder unless it is there already. Raises UsageError."""
    from learner.model.shared import digest_of_base
    from learner.policy.merging import CannotMerge, likeness, merge

    target, digest = settings.target, digest_of_base(settings.model)
    if digest != live.base_digest:
        raise UsageError(
            f"{live.version} was trained on base {live.base_digest[:12]}, and {settings.model} is "
            f"{digest[:12]}; name the base that the service runs with --model"
        )
    if target.exists():
        told: dict[str, Any] = _read(target / MANIFEST)
        if (told.get("version"), told.get("base_digest")) != (live.version, digest):
            raise UsageError(f"{target} exists and is not {live.version} in this base; name a new folder")
        return told
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        merge(settings.model, adapter, draft / "made", float32=settings.float32)
        alike = likeness(settings.model, adapter, live.rank, draft / "made")
        print(
            f"logprobs differ from those with {live.version} by {alike.mean_nats:.2g} nats on average, by "
            f"{alike.largest_nats:.2g} at most; what it changes is {alike.effect_nats:.2g} on average"
        )
        if not alike.lost <= MOST_LOST:
            raise UsageError(
                f"the base's weights are too coarse: rounding takes {alike.lost:.0%} of what {live.version} "
                f"changes, {MOST_LOST:.0%} is allowed; --float32 writes weights that hold it",
                code=1,
            )
        told = {
            "version": live.version,
            "files": live.files,
            "base": str(settings.model),
            "base_digest": digest,
            "digest": digest_of_base(draft / "made"),
            "made_at": time.time(),
            **asdict(alike),
        }
        (draft / "made" / MANIFEST).write_text(json.dumps(told, indent=1) + "\n")
        for file in (draft / "made").iterdir():
            fsync(file)
        fsync(draft / "made")
        (draft / "made").rename(target)
        fsync(target.parent)
    except CannotMerge as why:
        raise UsageError(str(why), code=1) from why
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return told


def _read(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _tell(log: Any, history: History, state: ReleaseState, told: dict[str, Any], secret: bytes) -> None:
    """The decisions: candidates of the old base are refused, and the new base serves everybody."""
    now, why = time.time(), "it was trained on a base that is no longer"
    signed = partial(sign, key=signing_key(secret))
    for candidate in history.candidates:
        refused = release.refuse(state, candidate.version, why)
        state = append_step(log, history, refused, now, candidate.event_id, signed)
    if state.waiting is not None:
        state = append_step(log, history, release.refuse(state, state.waiting, why), now, sign=signed)
    append_step(log, history, release.rebase(state, told["digest"], now), now, sign=signed)
