"""Giving an engine the adapter of a policy in training, which is no version of the registry.

Where the engine reads the learner's folder there is nothing to do. Elsewhere the adapter goes through the
registry's bucket, below `rollouts/`, for as long as the engine samples with it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path

from deploy.engines.client import EngineDown, EngineError
from deploy.engines.fetcher import Fetcher
from deploy.registry.bucket import BucketRegistry
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.files import MANIFEST, file_digest
from deploy.registry.registry import Registry
from deploy.registry.s3 import Bucket, Taken

ROLLOUTS = "rollouts/"
"""Where such adapters lie in the bucket. What a killed learner left there is garbage after an hour."""

Lend = Callable[[Path], AbstractContextManager[str]]
"""Makes an adapter's folder known to an engine, under the path that the block is given.

Raises `EngineError` where that cannot be done now.
"""


def as_it_is(folder: Path) -> AbstractContextManager[str]:
    """Lending to an engine that sees the folder itself."""
    return nullcontext(str(folder))


def lender(registry: Registry, engine: str, fetch_port: int | None) -> Lend:
    """How adapters are lent to an engine (its URL). fetch_port: of the `hearken fetch` beside it; None: it
    reads this machine's folders."""
    if fetch_port is None or not isinstance(registry, BucketRegistry):
        return as_it_is
    return partial(_lent, registry.bucket, Fetcher(engine, fetch_port))


@contextmanager
def _lent(bucket: Bucket, fetcher: Fetcher, folder: Path) -> Iterator[str]:
    files = {file.name: file_digest(file) for file in sorted(folder.iterdir())}
    manifest = json.dumps({"files": files}, sort_keys=True).encode()
    (folder / MANIFEST).write_bytes(manifest)
    place = f"{ROLLOUTS}{folder.name}/"
    names = [*files, MANIFEST]
    try:
        try:
            for name in names:
                bucket.put(place + name, folder / name)
            path = fetcher.bring(folder.name, file_digest(folder / MANIFEST))
        except RegistryAway as error:
            raise EngineDown(str(error)) from error
        except (RegistryError, Taken) as error:
            raise EngineError(str(error)) from error
        yield path
    finally:
        with suppress(RegistryAway):
            bucket.delete([place + name for name in names])
