"""Which registry a service has: a folder, or a bucket."""

from pathlib import Path
from typing import Annotated

from deploy.registry.bucket import BucketRegistry
from deploy.registry.registry import Registry
from deploy.registry.s3 import Bucket, Wait, split_url

S3 = "s3://"

RegistryPlace = Annotated[
    str | None,
    "folder of the adapters, or s3://BUCKET/PREFIX (docs/registry.md); without it `adapters` in the data "
    "folder",
]
FetchPort = Annotated[
    int | None,
    "with a bucket: port of the `hearken fetch` that runs beside each engine and brings it adapters; "
    "without it engines read the copies on this machine",
]
RegistryCopies = Annotated[
    int,
    "with a bucket: how many adapters stay copied on a machine's disk, those that were asked for last; "
    "at least as many as engines keep (engine.max_cpu_loras), which read them again",
]
"""Fields of the settings of whoever uses a registry."""


def check_place(place: str | None) -> None:
    """Raises ValueError for what is neither a folder nor a bucket."""
    if place is None:
        return
    if place.startswith(S3):
        split_url(place)
    elif "://" in place or not place.strip():
        raise ValueError(f"{place!r} is no registry; write a folder, or s3://BUCKET/PREFIX")


def check_registry(place: str | None, fetch_port: int | None, copies: int) -> None:
    """Raises ValueError for settings of a registry that make no sense."""
    check_place(place)
    if copies < 8:
        raise ValueError(
            f"registry_copies is {copies}; it must be at least 8: engines read again what is in use"
        )
    if fetch_port is not None and not 1 <= fetch_port <= 65_535:
        raise ValueError(f"fetch_port is {fetch_port}; ports go from 1 to 65535")


def is_bucket(place: str | None) -> bool:
    """Whether a registry lies in a bucket."""
    return place is not None and place.startswith(S3)


def folder_of(data: Path, place: str | None) -> Path | None:
    """The folder of a registry that is one; None for a bucket. data: the service's data folder."""
    if place is None:
        return data / "adapters"
    return None if is_bucket(place) else Path(place).expanduser().resolve()


def open_registry(data: Path, place: str | None, copies: int, *, wait: Wait | None = None) -> Registry:
    """The registry at `place`; without it the folder `adapters` of a service's data folder.

    copies, wait: of a bucket, see `BucketRegistry` and `Bucket`. No server is asked yet.
    """
    folder = folder_of(data, place)
    if folder is not None:
        return Registry(folder)
    assert place is not None
    return BucketRegistry(Bucket(place, wait), data / "adapter-copies", copies)
