"""The adapter registry: a folder of immutable versions, each published by one rename.

deploy/registry/bucket.py is the same with versions in an S3 bucket.
"""

import contextlib
import fcntl
import hashlib
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from deploy.registry.adapter_files import Modules
from deploy.registry.errors import Collected, RegistryAway, RegistryError, unknown
from deploy.registry.files import (
    COLLECTED,
    CONFIG,
    MANIFEST,
    WEIGHTS,
    adapter_files,
    check_names,
    checked,
    copy,
    file_digest,
    read,
    read_manifest,
    write,
)
from deploy.registry.manifest import GateNumbers, Manifest, Probe
from deploy.registry.versions import in_order, is_version, seq_of
from feedback.core.files import fsync

_DRAFT = ".draft-"


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
    needs any more may be collected (deploy/registry/collecting.py); their manifests stay.
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
        `after_seq` is the highest sequence number that the caller knows from elsewhere, as routing tables: a
        registry that lost its folder must not give a number out again. Version 0 (`after_seq` -1, in an empty
        registry) is what a service starts with instead of the base model. Publishing the same files twice
        makes two versions. Raises `RegistryError` for missing files, for any that is not an adapter's, and
        for an adapter of another rank, of other modules, or with values that are not finite. Drafts that a
        publisher died with are removed.
        """
        names = adapter_files(source)
        with self._publishing():
            for dead in self.folder.glob(_DRAFT + "*"):  # who is alive holds the lock
                shutil.rmtree(dead, ignore_errors=True)
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self.folder))
            try:
                files = {name: copy(source / name, draft / name) for name in names}
                found = checked(draft, rank, modules or {})
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
                write(draft / MANIFEST, manifest.model_dump_json(indent=1).encode())
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
            return hashlib.sha256(read(file)).hexdigest()
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
        check_names(folder, manifest)
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
            checked(folder, manifest.rank, manifest.modules)
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
        write(folder / COLLECTED, b"{}")  # first: a version that lacks files for another reason is broken
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
