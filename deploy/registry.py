"""The adapter registry: a folder of immutable versions, each published by one rename."""

import contextlib
import fcntl
import hashlib
import json
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from pydantic import ValidationError

from deploy.manifest import GateNumbers, Manifest, Probe
from deploy.table import RoutingTable
from feedback.files import fsync

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
_ALLOWED = (".safetensors", ".json")
_VERSION = re.compile(r"policy-(0|[1-9]\d*)-[0-9a-f]{8}")


class RegistryError(Exception):
    """The registry refused: the message says what was wrong with which file or version."""


class UnknownVersion(RegistryError, LookupError):
    """No such version here; the message lists those that are."""


def is_version(name: str) -> bool:
    """Whether a name is an adapter version's."""
    return _VERSION.fullmatch(name) is not None


def seq_of(version: str) -> int:
    """The sequence number in a version's name; 0 for the base model and anything else without one."""
    match = _VERSION.fullmatch(version)
    return int(match.group(1)) if match else 0


def highest_seq(table: RoutingTable) -> int:
    """The highest sequence number that a routing table names: `Registry.publish(after_seq=...)`."""
    return max((seq_of(version) for version in table.adapters), default=0)


class Registry:
    """The versions under `folder`, which is made if need be. `clock` gives Unix time in seconds.

    A version is `policy-<seq>-<first 8 hex digits of the weights' sha256>`. It is never changed, and never
    deleted: an engine may re-read a version's files as long as anything can still route to it.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self._clock = clock
        folder.mkdir(parents=True, exist_ok=True)

    def publish(
        self,
        source: Path,
        *,
        parent: str,
        base_digest: str,
        rank: int,
        training: dict[str, int],
        offsets: dict[str, int],
        gate: GateNumbers,
        probes: list[Probe],
        after_seq: int = 0,
    ) -> Manifest:
        """Copy an adapter's files in as the next version, durably, and return its manifest.

        `after_seq` is the highest sequence number that the caller knows from elsewhere (see `highest_seq`): a
        registry that lost its folder must not give a number out again. Version 0 (`after_seq` -1, in an empty
        registry) is what a service starts with instead of the base model. Publishing the same files twice
        makes two versions. Raises `RegistryError` for missing files and for any that is not an adapter's.
        """
        names = _adapter_files(source)
        with self._publishing():
            draft = Path(tempfile.mkdtemp(prefix=".draft-", dir=self.folder))
            try:
                files = {name: _copy(source / name, draft / name) for name in names}
                seq = 1 + max([after_seq, *map(seq_of, self.versions())])
                manifest = Manifest(
                    version=f"policy-{seq}-{files[WEIGHTS][:8]}",
                    seq=seq,
                    parent=parent,
                    base_digest=base_digest,
                    files=files,
                    created_at=self._clock(),
                    rank=rank,
                    training=training,
                    offsets=offsets,
                    gate=gate,
                    probes=probes,
                )
                _write(draft / MANIFEST, manifest.model_dump_json(indent=1).encode())
                draft.chmod(0o755)  # mkdtemp makes 0700; an engine may run as another user
                fsync(draft)
                draft.rename(self.folder / manifest.version)
                fsync(self.folder)
            except BaseException:
                shutil.rmtree(draft, ignore_errors=True)
                raise
        return manifest

    def versions(self) -> list[str]:
        """Every version here, oldest first."""
        found = [entry.name for entry in self.folder.iterdir() if is_version(entry.name)]
        return sorted(found, key=lambda name: (seq_of(name), name))

    def path(self, version: str) -> Path:
        """The folder of a version. Raises `UnknownVersion`."""
        path = self.folder / version
        if not is_version(version) or not path.is_dir():
            known = ", ".join(self.versions()) or "none"
            raise UnknownVersion(f"no version {version!r} in {self.folder}; known: {known}")
        return path

    def manifest(self, version: str) -> Manifest:
        """The manifest of a version. Raises `UnknownVersion`, or `RegistryError` when it cannot be read."""
        file = self.path(version) / MANIFEST
        try:
            return Manifest.model_validate_json(file.read_bytes())
        except (OSError, ValidationError) as error:
            raise RegistryError(f"{file} is not a readable manifest: {error}") from error

    def rank(self, least: int) -> int:
        """The LoRA rank that trainer and engines need: the highest of any version here, and at least `least`.

        A version whose manifest cannot be read counts for nothing: it will not be served either.
        """
        ranks = [least]
        for version in self.versions():
            with contextlib.suppress(RegistryError):
                ranks.append(self.manifest(version).rank)
        return max(ranks)

    def verify(self, version: str) -> Manifest:
        """Hash every file again. Raises `RegistryError` with the file and both digests where they differ."""
        folder, manifest = self.path(version), self.manifest(version)
        if manifest.version != version:
            raise RegistryError(f"{folder / MANIFEST} describes {manifest.version}, not {version}")
        for name, recorded in manifest.files.items():
            file = folder / name
            if not file.is_file():
                raise RegistryError(f"{file} is missing; the manifest has it with sha256 {recorded}")
            found = file_digest(file)
            if found != recorded:
                raise RegistryError(f"{file} has sha256 {found}, but the manifest recorded {recorded}")
        unlisted = sorted({entry.name for entry in folder.iterdir()} - {MANIFEST, *manifest.files})
        if unlisted:
            raise RegistryError(
                f"{folder} holds files that its manifest does not list: {', '.join(unlisted)}"
            )
        return manifest

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """One publisher at a time: the next number is read and taken under a file lock."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def file_digest(path: Path) -> str:
    """The sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _adapter_files(source: Path) -> list[str]:
    if not source.is_dir():
        raise RegistryError(f"{source} is not a folder")
    names = sorted(entry.name for entry in source.iterdir() if entry.name != MANIFEST)
    for name in names:
        file = source / name
        if file.is_symlink() or not file.is_file() or not name.endswith(_ALLOWED):
            raise RegistryError(f"{file} is not a safetensors or JSON file; an adapter has nothing else")
        if name.endswith(".safetensors") and not _is_safetensors(file):
            raise RegistryError(f"{file} is called safetensors but does not have that format's header")
    for needed in (WEIGHTS, CONFIG):
        if needed not in names:
            raise RegistryError(f"{source} has no {needed}; found: {', '.join(names) or 'nothing'}")
    return names


def _is_safetensors(file: Path) -> bool:
    """Whether the file starts as the format does: a little-endian 64-bit length, then that much JSON.

    A pickle under this name would run code in whoever loads it carelessly.
    """
    with file.open("rb") as data:
        length = int.from_bytes(data.read(8), "little")
        if not 2 <= length <= file.stat().st_size - 8:
            return False
        try:
            return isinstance(json.loads(data.read(length)), dict)
        except ValueError:
            return False


def _copy(source: Path, target: Path) -> str:
    shutil.copyfile(source, target)
    fsync(target)
    return file_digest(target)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    fsync(path)
