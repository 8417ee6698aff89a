"""The adapter registry: a folder of immutable versions, each published by one rename.

deploy/bucket_registry.py is the same with versions in an S3 bucket.
"""

import contextlib
import fcntl
import hashlib
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from deploy.adapter_files import Modules, WrongAdapter, check_adapter
from deploy.manifest import GateNumbers, Manifest, Probe
from deploy.table import RoutingTable
from feedback.files import fsync

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
COLLECTED = "collected.json"
"""Beside the manifest of a version whose other files were deleted because nothing needs them any more."""
_ALLOWED = (".safetensors", ".json")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a name in the version's own folder, and no way out of it
_DRAFT = ".draft-"
_VERSION = re.compile(r"policy-(0|[1-9]\d*)-[0-9a-f]{8}")


class RegistryError(Exception):
    """The registry refused: the message says what was wrong with which file or version."""


class UnknownVersion(RegistryError, LookupError):
    """No such version here, or its files were collected; the message says which."""


class Collected(UnknownVersion):
    """A version's files were deleted, because nothing needed them any more. Its manifest is left."""

    def __init__(self, version: str, where: str) -> None:
        super().__init__(
            f"{version} was collected from {where}: nothing needed it any more, and only its manifest is left"
        )


class RegistryAway(Exception):
    """The registry does not answer, or lets nobody in: nothing is known of a version. Ask again later.

    No `RegistryError`: a version is never refused for this.
    """


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


class Stored(NamedTuple):
    """A version in a registry: the bytes of its files without the manifest, and when it was published (Unix
    seconds)."""

    version: str
    size: int
    at: float


class Registry:
    """The versions under `folder`, which is made if need be. `clock` gives Unix time in seconds.

    A version is `policy-<seq>-<first 8 hex digits of the weights' sha256>`. It is never changed: an engine
    may re-read a version's files as long as anything can still route to it. Files of versions that nothing
    needs any more may be collected (deploy/collecting.py); their manifests stay.
    """

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.folder = folder
        self.where = str(folder)
        self._clock = clock
        self._right: set[tuple[str, str, int, str]] = set()  # adapters that were read, see `verify`
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
        modules: Modules | None = None,
    ) -> Manifest:
        """Copy an adapter's files in as the next version, durably, and return its manifest.

        modules: the matrices of the base that it changes, with their sizes; None: as the files have them.
        `after_seq` is the highest sequence number that the caller knows from elsewhere (see `highest_seq`): a
        registry that lost its folder must not give a number out again. Version 0 (`after_seq` -1, in an empty
        registry) is what a service starts with instead of the base model. Publishing the same files twice
        makes two versions. Raises `RegistryError` for missing files, for any that is not an adapter's, and
        for an adapter of another rank, of other modules, or with values that are not finite. Drafts that a
        publisher died with are removed.
        """
        names = _adapter_files(source)
        with self._publishing():
            for dead in self.folder.glob(_DRAFT + "*"):  # who is alive holds the lock
                shutil.rmtree(dead, ignore_errors=True)
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.folder))
            try:
                files = {name: _copy(source / name, draft / name) for name in names}
                found = _checked(draft, rank, modules or {})
                seq = 1 + max([after_seq, *map(seq_of, self._published())])
                manifest = Manifest(
                    version=f"policy-{seq}-{files[WEIGHTS][:8]}",
                    seq=seq,
                    parent=parent,
                    base_digest=base_digest,
                    files=files,
                    created_at=self._clock(),
                    rank=rank,
                    modules=dict(found),
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
        """Every version whose files are here, oldest first."""
        return [name for name in self._published() if not (self.folder / name / COLLECTED).exists()]

    def _published(self) -> list[str]:
        """Every version that there ever was, oldest first."""
        return in_order(entry.name for entry in self.folder.iterdir() if is_version(entry.name))

    def path(self, version: str) -> Path:
        """The folder of a version. Raises `UnknownVersion`."""
        path = self._folder_of(version)
        if (path / COLLECTED).exists():
            raise Collected(version, self.where)
        return path

    def _folder_of(self, version: str) -> Path:
        """The folder of a version, whose files may have been collected."""
        path = self.folder / version
        if not is_version(version) or not path.is_dir() or path.is_symlink():
            raise unknown(version, self.where, self.versions())
        return path

    def manifest(self, version: str, digest: str | None = None) -> Manifest:
        """The manifest of a version; digest: the sha256 that its file must have, where that is known.

        Raises `UnknownVersion`, or `RegistryError` when it cannot be read or is another one.
        """
        return read_manifest(self._folder_of(version) / MANIFEST, digest)

    def manifest_digest(self, version: str) -> str:
        """The sha256 of a version's manifest. Raises as `manifest`."""
        file = self._folder_of(version) / MANIFEST
        try:
            return hashlib.sha256(_read(file)).hexdigest()
        except OSError as error:
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

    def verify(self, version: str, digest: str | None = None) -> Manifest:
        """Read every file of a version again; digest: of its manifest, where it is known.

        Raises `RegistryError`: with the file and both digests where they differ, and for whatever makes it no
        adapter of this name and manifest.
        """
        folder, manifest = self.path(version), self.manifest(version, digest)
        _check_names(folder, manifest)
        for name, recorded in manifest.files.items():
            file = folder / name
            if not file.is_file() or file.is_symlink():
                raise RegistryError(f"{file} is missing; the manifest has it with sha256 {recorded}")
            found = file_digest(file)
            if found != recorded:
                raise RegistryError(f"{file} has sha256 {found}, but the manifest recorded {recorded}")
        unlisted = sorted({entry.name for entry in folder.iterdir()} - {MANIFEST, *manifest.files})
        if unlisted:
            raise RegistryError(
                f"{folder} holds files that its manifest does not list: {', '.join(unlisted)}"
            )
        modules = repr(sorted(manifest.modules.items()))
        known = (manifest.files[WEIGHTS], manifest.files[CONFIG], manifest.rank, modules)
        if known not in self._right:  # once for the same bytes: it takes longer than their sum
            _checked(folder, manifest.rank, manifest.modules)
            self._right.add(known)
        return manifest

    def sizes(self) -> list[Stored]:
        """Every version whose files are here, oldest first, with what these take."""
        found = []
        for version in self.versions():
            folder = self.folder / version
            files = [file for file in folder.iterdir() if file.name != MANIFEST]
            at = (folder / MANIFEST).stat().st_mtime
            found.append(Stored(version, sum(file.stat().st_size for file in files), at))
        return found

    def collect(self, version: str) -> None:
        """Delete a version's files but the manifest, for good. Raises `UnknownVersion`."""
        folder = self.path(version)
        _write(folder / COLLECTED, b"{}")  # first: a version that lacks files for another reason is broken
        fsync(folder)
        for file in folder.iterdir():
            if file.name not in (MANIFEST, COLLECTED):
                file.unlink()

    @property
    def away(self) -> RegistryAway | None:
        """Why the registry cannot be used at present: a folder always can."""
        return None

    @contextmanager
    def _publishing(self) -> Iterator[None]:
        """One publisher at a time: the next number is read and taken under a file lock."""
        with (self.folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield


def in_order(versions: Iterable[str]) -> list[str]:
    """Versions by their numbers, the oldest first."""
    return sorted(versions, key=lambda name: (seq_of(name), name))


def unknown(version: str, where: str, known: Sequence[str]) -> UnknownVersion:
    """That there is no such version in a registry."""
    return UnknownVersion(f"no version {version!r} in {where}; known: {', '.join(known) or 'none'}")


def read_manifest(file: Path, digest: str | None = None) -> Manifest:
    """The manifest in a file. digest: the sha256 that it must have. Raises `RegistryError`."""
    try:
        data = _read(file)
    except OSError as error:
        raise RegistryError(f"{file} is not a readable manifest: {error}") from error
    return parse_manifest(data, str(file), digest)


def parse_manifest(data: bytes, where: str, digest: str | None = None) -> Manifest:
    """The manifest in some bytes, which lie at `where`. Raises as `read_manifest`."""
    try:
        manifest = Manifest.model_validate_json(data)
    except ValidationError as error:
        raise RegistryError(f"{where} is not a readable manifest: {error}") from error
    check_digest(data, where, digest)
    return manifest


def check_digest(data: bytes, where: str, digest: str | None) -> None:
    """Raises `RegistryError` for a manifest's bytes that are not those that were announced."""
    found = hashlib.sha256(data).hexdigest()
    if digest is not None and found != digest:
        raise RegistryError(f"{where} has sha256 {found}, but {digest} was announced")


def check_file_names(names: Iterable[str], where: str) -> None:
    """Raises `RegistryError` for a name in a manifest at `where` that no file of an adapter has."""
    for name in names:
        if _FILE.fullmatch(name) is None or not name.endswith(_ALLOWED) or name in (MANIFEST, COLLECTED):
            raise RegistryError(f"{where} lists {name!r}, which is no file of an adapter")


def file_digest(path: Path) -> str:
    """The sha256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check_names(folder: Path, manifest: Manifest) -> None:
    """Raises `RegistryError` where a manifest is not of the folder that it lies in."""
    file = folder / MANIFEST
    if manifest.version != folder.name or manifest.seq != seq_of(folder.name):
        raise RegistryError(f"{file} describes {manifest.version}, number {manifest.seq}, not {folder.name}")
    check_file_names(manifest.files, str(file))
    for needed in (WEIGHTS, CONFIG):
        if needed not in manifest.files:
            raise RegistryError(f"{file} lists no {needed}")
    if not folder.name.endswith("-" + manifest.files[WEIGHTS][:8]):
        raise RegistryError(f"{folder} is not named after its weights, {manifest.files[WEIGHTS]}")


def _checked(folder: Path, rank: int, modules: Mapping[str, tuple[int, int]]) -> Modules:
    try:
        return check_adapter(folder / WEIGHTS, folder / CONFIG, rank, modules)
    except (WrongAdapter, OSError) as error:
        raise RegistryError(str(error)) from error


def _adapter_files(source: Path) -> list[str]:
    if not source.is_dir():
        raise RegistryError(f"{source} is not a folder")
    names = sorted(entry.name for entry in source.iterdir() if entry.name not in (MANIFEST, COLLECTED))
    for name in names:
        file = source / name
        named = _FILE.fullmatch(name) is not None and name.endswith(_ALLOWED)
        if file.is_symlink() or not file.is_file() or not named:
            raise RegistryError(f"{file} is not a safetensors or JSON file; an adapter has nothing else")
    for needed in (WEIGHTS, CONFIG):
        if needed not in names:
            raise RegistryError(f"{source} has no {needed}; found: {', '.join(names) or 'nothing'}")
    return names


def _read(file: Path) -> bytes:
    """A file of the folder itself: a link may lead anywhere. Raises OSError."""
    if file.is_symlink():
        raise OSError("it is a link")
    return file.read_bytes()


def _copy(source: Path, target: Path) -> str:
    shutil.copyfile(source, target)
    fsync(target)
    return file_digest(target)


def _write(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    fsync(path)
