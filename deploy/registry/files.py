"""The files of a version: which there may be, whether they are as the manifest has them, and writing them."""

import hashlib
import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import ValidationError

from deploy.registry.adapter_files import Modules, WrongAdapter, check_adapter
from deploy.registry.errors import RegistryError
from deploy.registry.manifest import Manifest
from deploy.registry.versions import seq_of
from feedback.core.files import fsync

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"
MANIFEST = "manifest.json"
COLLECTED = "collected.json"
"""Beside the manifest of a version whose other files were deleted because nothing needs them any more."""
_ALLOWED = (".safetensors", ".json")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # a name in the version's own folder, and no way out of it


def read_manifest(file: Path, digest: str | None = None) -> Manifest:
    """The manifest in a file. digest: the sha256 that it must have. Raises `RegistryError`."""
    try:
        data = read(file)
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


def check_names(folder: Path, manifest: Manifest) -> None:
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


def checked(folder: Path, rank: int, modules: Mapping[str, tuple[int, int]]) -> Modules:
    """The modules that the adapter in a folder changes, see `check_adapter`. Raises `RegistryError`."""
    try:
        return check_adapter(folder / WEIGHTS, folder / CONFIG, rank, modules)
    except (WrongAdapter, OSError) as error:
        raise RegistryError(str(error)) from error


def adapter_files(source: Path) -> list[str]:
    """The names of an adapter's files in a folder, all that are there. Raises `RegistryError`."""
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


def read(file: Path) -> bytes:
    """A file of the folder itself: a link may lead anywhere. Raises OSError."""
    if file.is_symlink():
        raise OSError("it is a link")
    return file.read_bytes()


def copy(source: Path, target: Path) -> str:
    """Copy a file to stay; the sha256 of the copy."""
    shutil.copyfile(source, target)
    fsync(target)
    return file_digest(target)


def write(path: Path, data: bytes) -> None:
    """Write a file to stay."""
    path.write_bytes(data)
    fsync(path)
