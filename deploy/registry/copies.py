"""Copies of adapters from a bucket, on this machine's disk: whole and as the manifest has them, or not there.

An adapter is some files and a manifest that has the sha256 of each. A copy is made in a draft, checked, put
on disk and given its name by one rename. Whoever is killed on the way leaves a draft, which the next one
removes.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pydantic import BaseModel, ValidationError

from deploy.registry.errors import Collected, RegistryAway, RegistryError, UnknownVersion
from deploy.registry.files import COLLECTED, MANIFEST, check_digest, check_file_names
from deploy.registry.s3 import Bucket, Missing
from feedback.core.files import fsync

_DRAFT = ".draft-"


class Listing(BaseModel):
    """What a manifest says of files: name -> sha256. Whatever else it says is not looked at here."""

    files: dict[str, str]


class Copies:
    """Copies of what lies below `place` in a bucket, in `folder`, which is made if need be.

    place: "" or a name with a slash at its end. keep: so many copies stay, those that were asked for last.
    Threads and processes may share the folder.
    """

    def __init__(self, bucket: Bucket, place: str, folder: Path, keep: int) -> None:
        self._bucket, self._place = bucket, place
        self._folder = folder
        self._keep = keep
        folder.mkdir(parents=True, exist_ok=True)
        self._remove_dead_drafts()

    def here(self, name: str, digest: str | None = None) -> Path | None:
        """The folder of a copy that is here, None without one. digest: of its manifest, where known."""
        path = self._folder / name
        try:
            check_digest((path / MANIFEST).read_bytes(), str(path), digest)
        except OSError:
            return None
        except RegistryError:
            self.drop(name)
            return None
        with suppress(FileNotFoundError):  # another process dropped it
            os.utime(path)
        return path

    def fetch(self, name: str, digest: str | None = None) -> Path:
        """The folder of a copy, which is made if need be.

        Raises `UnknownVersion`, `RegistryError` for what is not as its manifest says, and `RegistryAway`,
        which a full disk is, too.
        """
        found = self.here(name, digest)
        if found is not None:
            return found
        try:
            with self._draft() as draft:
                self._fetch(name, digest, draft)
                self._show(draft, self._folder / name)
            self._prune(name)
        except OSError as error:  # a full disk
            raise RegistryAway(f"{self._where(name)} cannot be copied to {self._folder}: {error}") from error
        return self._folder / name

    def _fetch(self, name: str, digest: str | None, draft: Path) -> None:
        data = self.manifest(name)
        check_digest(data, f"{self._where(name)}/{MANIFEST}", digest)
        for file, recorded in self._files(name, data).items():
            self._fetch_file(name, file, recorded, draft / file)
        (draft / MANIFEST).write_bytes(data)
        fsync(draft / MANIFEST)
        draft.chmod(0o755)  # an engine may run as another user
        fsync(draft)

    def manifest(self, name: str) -> bytes:
        """A manifest's bytes, from the bucket. Raises as `fetch`."""
        try:
            return self._bucket.get(f"{self._place}{name}/{MANIFEST}")
        except Missing:
            raise UnknownVersion(f"there is no {self._where(name)}/{MANIFEST}") from None
        except ValueError as error:
            raise RegistryError(str(error)) from error

    def drop(self, name: str) -> None:
        """Remove a copy. It loses its name first: what is half removed must not look whole."""
        with self._draft() as draft, suppress(OSError):  # it is not there, or another process removes it
            (self._folder / name).rename(draft / name)

    def _fetch_file(self, name: str, file: str, recorded: str, target: Path) -> None:
        where = f"{self._where(name)}/{file}"
        try:
            found = self._bucket.download(f"{self._place}{name}/{file}", target)
        except Missing:
            if self._is_collected(name):
                raise Collected(name, self._bucket.url) from None
            raise RegistryError(f"{where} is missing; the manifest has it with sha256 {recorded}") from None
        if found != recorded:
            raise RegistryError(f"{where} has sha256 {found}, but the manifest recorded {recorded}")
        fsync(target)

    def _is_collected(self, name: str) -> bool:
        with suppress(Missing):
            self._bucket.get(f"{self._place}{name}/{COLLECTED}")
            return True
        return False

    def _files(self, name: str, data: bytes) -> dict[str, str]:
        where = f"{self._where(name)}/{MANIFEST}"
        try:
            files = Listing.model_validate_json(data).files
        except ValidationError as error:
            raise RegistryError(f"{where} is not a readable manifest: {error}") from error
        check_file_names(files, where)
        return files

    def _where(self, name: str) -> str:
        return f"{self._bucket.url}/{self._place}{name}"

    def _show(self, draft: Path, path: Path) -> None:
        try:
            draft.rename(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return  # somebody else was faster, with the same files
        fsync(self._folder)

    def _prune(self, newest: str) -> None:
        """Drop the copies that were asked for the longest ago. What engines have in use is asked for again
        and again, each time that they prove it anew."""
        asked = []
        for path in self._folder.iterdir():
            with suppress(FileNotFoundError):
                if path.name != newest and (path / MANIFEST).exists():
                    asked.append((path.stat().st_mtime, path.name))
        for _, name in sorted(asked, reverse=True)[self._keep - 1 :]:
            self.drop(name)

    # -- drafts -----------------------------------------------------------------------------------------

    @contextmanager
    def _draft(self) -> Iterator[Path]:
        """A folder that is gone after the block. As long as its maker lives, it is locked."""
        with self._alone():
            draft = Path(tempfile.mkdtemp(prefix=_DRAFT, dir=self._folder))
            descriptor = os.open(draft, os.O_RDONLY)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        try:
            yield draft
        finally:
            shutil.rmtree(draft, ignore_errors=True)
            os.close(descriptor)

    def _remove_dead_drafts(self) -> None:
        with self._alone():
            for draft in self._folder.glob(_DRAFT + "*"):
                with suppress(OSError):
                    descriptor = os.open(draft, os.O_RDONLY)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # BlockingIOError: it lives
                        shutil.rmtree(draft, ignore_errors=True)
                    finally:
                        os.close(descriptor)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with (self._folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
