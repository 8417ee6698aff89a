"""`hearken fetch`: the process beside an engine that brings it adapters from the registry's bucket."""

import logging
import threading
from contextlib import suppress
from pathlib import Path

from deploy.engines.fetch_server import Fetching, serve
from deploy.registry.bucket import BucketRegistry
from deploy.registry.errors import RegistryAway
from deploy.registry.registries import check_place, is_bucket, open_registry
from hearken.base.checks import check_port, check_registry
from hearken.base.errors import UsageError
from hearken.base.stopping import event_of_signals
from hearken.service.roles import log_to_stderr

PORT = 8010
"""Where it listens unless told otherwise."""

logger = logging.getLogger("hearken.fetch")


def run(place: str | None, folder: Path, host: str, port: int, copies: int) -> int:
    """Fetch what is asked for until SIGTERM. Raises UsageError.

    place: the bucket. folder: of the copies, under the same path for the engine.
    """
    if not is_bucket(place):
        raise UsageError("there is nothing to fetch from a folder: give --registry s3://BUCKET/PREFIX")
    check_place(place)
    check_registry(place, None)
    check_port(host, port)
    log_to_stderr()
    folder = folder.expanduser().resolve()
    try:
        registry = open_registry(folder, place, copies)
    except OSError as error:
        raise UsageError(f"folder {folder} cannot be written: {error.strerror}", code=1) from error
    assert isinstance(registry, BucketRegistry)
    fetching = Fetching(registry, registry.folder)
    server = serve(fetching, host, port)
    stop = event_of_signals()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    with suppress(RegistryAway):  # which is told
        registry.bucket.check()
    logger.info("copies of %s go to %s; asked at %s:%d", place, registry.folder, host, port)
    stop.wait()
    server.shutdown()
    server.server_close()
    fetching.close()
    return 0
