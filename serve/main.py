"""The gateway process: wires everything once, serves until SIGTERM, drains, closes the log."""

import gc
import logging
import signal
import sys
from collections.abc import Sequence
from types import FrameType
from typing import NoReturn

from feedback.core.ids import Signer
from feedback.core.secret import load_secret
from feedback.opening import open_log, open_shared
from feedback.sqlite.retention import retention
from serve.app import create_app
from serve.server.listening import raise_file_limit, server
from serve.settings import GatewaySettings
from serve.storage.redis import open_stored
from serve.tracing import Traced
from serve.tracing_export import exporting

SWITCH_SECONDS = 0.0005
_NOT_STARTED = 3  # uvicorn's own exit status for a server that did not come up


def run(settings: GatewaySettings, import_command: Sequence[str] | None = None) -> None:
    """Serve until SIGTERM or SIGINT; running answers get `drain_seconds` to finish.

    `import_command`: see `create_app`. Raises `NoTracing` where tracing is on and cannot be.
    """
    # uvicorn puts these handlers back when it has drained and raises the signal again: then the process
    # leaves through the finally below, and not at once.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    raise_file_limit()
    settings.data.mkdir(parents=True, exist_ok=True)
    signer = Signer(load_secret(settings.data / "secret"))
    events = open_log(settings.data, settings.kafka, "gateway")
    shared = open_shared(settings.data, settings.redis)
    stored = open_stored(settings.data, settings.redis, settings.stored_days * 24 * 3600)
    # The log's writer gives up the interpreter at every statement and wants it back at once. With Python's
    # 5 ms it would wait so long for a busy event loop each time, and every vote of its group with it.
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        relay_lag = getattr(events, "lag", None)  # only a log with Kafka behind it has one
        with (
            exporting(settings.tracing, settings.model_name) as tracing,
            retention(events, settings.retention_days),
        ):
            app = create_app(settings, events, shared, signer, stored, relay_lag, import_command, tracing)
            if tracing is not None:
                app.add_middleware(Traced)
            # All of this stays for good: full collections need not look at it again while tokens wait.
            gc.collect()
            gc.freeze()
            front = server(app, settings.host, settings.port, settings.drain_seconds)
            front.run()
            if not front.started:  # uvicorn has said why
                sys.exit(_NOT_STARTED)
    finally:
        events.close()
        shared.close()
        stored.close()


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
