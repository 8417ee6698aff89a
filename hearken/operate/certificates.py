"""`hearken release verify`, `replay` and `rehearse`: what decisions of releases rest on, looked at again."""

import json
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from deploy.audit import replay as replaying
from deploy.audit import verifying
from deploy.audit.rehearsing import Changes
from deploy.audit.rehearsing import rehearse as rehearsals
from deploy.audit.replay import Replayed
from deploy.audit.verifying import Verified
from deploy.history.signing import BadKey, parse_key, public_key
from deploy.registry.errors import RegistryAway
from deploy.registry.registries import folder_of, open_registry
from deploy.registry.registry import Registry
from deploy.reports.recorded import JUDGING
from deploy.settings import ControllerSettings
from feedback.core.log import EventLog
from feedback.core.secret import load_secret
from hearken.base.errors import UsageError
from hearken.base.spans import span_seconds
from hearken.base.telling import local
from hearken.data.exporting import moment
from hearken.operate.log import opened, reading
from hearken.settings import ServiceSettings

PATIENCE_SECONDS = 30.0
_TABLE = "controller."


def verify(service: ServiceSettings, keys: Sequence[str], head: str | None, *, as_json: bool = False) -> int:
    """Print whether the certificates are what was written; 1 where one is not. Raises UsageError.

    keys: public keys of which one has to have signed, beside the folder's own. head: the sum of a decision
    that has to be there.
    """
    folder = service.folder
    with _log(service) as log:
        known = _keys(folder, keys)
        found = verifying.verify(log, _registry(service), known, head, PATIENCE_SECONDS)
    own = public_key(load_secret(folder / "secret")) if (folder / "secret").exists() else None
    if as_json:
        print(json.dumps({**asdict(found), "key": own, "signatures_checked": bool(known)}, indent=1))
    else:
        print("\n".join(_verified(found, own, checked=bool(known))))
    return 1 if found.problems else 0


def replay(
    service: ServiceSettings,
    controller: ControllerSettings,
    release_id: str | None,
    *,
    as_json: bool = False,
) -> int:
    """Judge decisions again and print what came of each; 1 where one differs. Raises UsageError.

    controller: as the service's file has it, for decisions that recorded no settings.
    """
    seen = differs = 0
    with _log(service) as log:
        for each in replaying.replayed(log, controller, release_id, PATIENCE_SECONDS):
            print(json.dumps(_told(each)) if as_json else _line(each))
            seen += 1
            differs += each.verdict == "differs"
    if not seen and not as_json:
        print("no decision follows from votes and answers" + (f" in {release_id}" if release_id else ""))
    return 1 if differs else 0


def rehearse(
    service: ServiceSettings,
    controller: ControllerSettings,
    changes: Changes,
    since: str | None,
    *,
    as_json: bool = False,
) -> int:
    """Print what other settings would have decided, a line for each release. Raises UsageError.

    1 where nothing is changed and history does not repeat: then a rehearsal tells nothing.
    """
    start = float("-inf") if since is None else since_when(since, time.time())
    seen = failed = 0
    with _log(service) as log:
        try:
            for each in rehearsals(log, _registry(service), changes, controller, start, PATIENCE_SECONDS):
                seen += 1
                failed += each.verdict == "differs" and not changes
                words = f": {each.what}" if each.what else ""
                line = f"{local(each.at)}  {each.release_id or 'gate'} {each.version}  {each.verdict}{words}"
                print(json.dumps(asdict(each)) if as_json else line)
        except ValueError as error:
            raise UsageError(f"--set: {error}") from error
    if not seen and not as_json:
        print("no release began since then")
    return 1 if failed else 0


def changes_of(given: dict[str, object]) -> Changes:
    """Settings by their place in the file as what a rehearsal changes. Raises UsageError for any other."""
    found: dict[tuple[str, ...], object] = {}
    for path, value in given.items():
        name, *rest = path.removeprefix(_TABLE).split(".")
        if name not in JUDGING:
            names = ", ".join(sorted(JUDGING))
            raise UsageError(f"--set {path} judges no release; a rehearsal can change {_TABLE} {names}")
        found[name, *rest] = value
    return found


def since_when(text: str, now: float) -> float:
    """Unix seconds of a time, or of so long before `now`: 7d, 12h, 30m, 90s. Raises UsageError."""
    ago = span_seconds(text, "smhd")
    if ago is not None:
        return now - ago
    try:
        return moment(text)
    except UsageError as error:
        raise UsageError(f"--since {text!r} is no time; write 7d, 12h or 2026-11-29") from error


def _keys(folder: Path, given: Sequence[str]) -> list[Ed25519PublicKey]:
    secret = folder / "secret"
    own = [public_key(load_secret(secret))] if secret.exists() else []
    try:
        return [parse_key(text) for text in [*own, *given]]
    except BadKey as error:
        raise UsageError(f"--key {error}; `hearken release verify` prints a service's own") from error


def _verified(found: Verified, own: str | None, *, checked: bool) -> list[str]:
    lines = [f"decisions    {found.decisions}, {_chain(found)}"]
    unknown = "not checked: neither the service's secret nor a --key is here"
    lines.append(f"signatures   {found.signed}, {'checked with the keys at hand' if checked else unknown}")
    for noun in found.held:
        gone = f", {found.not_kept[noun]} rest on some that are not in this log (any more)"
        held = f"those of {found.held[noun]} decisions are what they were"
        lines.append(f"{noun:<12} {held}{gone if found.not_kept[noun] else ''}")
    absent = f", {len(found.absent)} are not here" if found.absent else ""
    if found.collected:
        absent = f", and {found.collected} manifests of versions whose files were collected{absent}"
    lines.append(f"manifests    {found.manifests} and their files are what was decided on{absent}")
    if found.head is not None:
        lines.append(f"head         decision {found.head[0]}, {found.head[1]}")
    if own is not None:
        lines.append(f"key          {own}")
    return lines + [f"WRONG        {problem.where}: {problem.what}" for problem in found.problems]


def _chain(found: Verified) -> str:
    if found.chained_from is None:
        return "without a chain"
    return f"a chain from decision {found.chained_from} on"


def _told(each: Replayed) -> dict[str, object]:
    decision = each.decision
    return {
        "number": decision.number,
        "release_id": decision.release_id,
        "version": decision.version,
        "outcome": decision.outcome,
        "verdict": each.verdict,
        "why": each.why or None,
    }


def _line(each: Replayed) -> str:
    decision, why = each.decision, f": {each.why}" if each.why else ""
    what = " ".join(filter(None, [decision.outcome, decision.version]))
    return f"decision {decision.number}, {what}: {each.verdict}{why}"


def _registry(service: ServiceSettings) -> Registry | None:
    """The registry of a service or of a copy, None where a copy has none."""
    folder = folder_of(service.folder, service.registry)
    if folder is not None and not folder.is_dir():
        return None
    return open_registry(service.folder, service.registry, service.registry_copies)


@contextmanager
def _log(service: ServiceSettings) -> Iterator[EventLog]:
    """A log of a service or of a copy, which needs nothing but the log itself.

    A registry that is away in the block ends the command, too.
    """
    folder = service.folder
    if service.kafka is None and not (folder / "log.db").exists():
        raise UsageError(f"{folder} has no log.db; name a service's data folder, or a copy, with --data DIR")
    with reading(opened(folder, service.kafka)) as log:
        try:
            yield log
        except RegistryAway as error:
            raise UsageError(f"the registry cannot be used: {error}", code=1) from error
