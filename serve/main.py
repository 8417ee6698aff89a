"""The gateway process: wires everything once, serves until SIGTERM, drains, closes the log."""

import logging
import math
import signal
from types import FrameType
from typing import NoReturn

import uvicorn

from feedback.ids import Signer
from feedback.opening import open_log
from feedback.secret import load_secret
from feedback.shared import RedisStore, SharedStore, SqliteStore
from serve.app import create_app
from serve.settings import GatewaySettings


def run(settings: GatewaySettings) -> None:
    """Serve until SIGTERM or SIGINT; running answers get `drain_seconds` to finish."""
    # uvicorn puts these handlers back when it has drained and raises the signal again: then the process
    # leaves through the finally below, and not at once.
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    settings.data.mkdir(parents=True, exist_ok=True)
    signer = Signer(load_secret(settings.data / "secret"))
    events = open_log(settings.data, settings.kafka, "gateway")
    shared = open_shared(settings)
    try:
        relay_lag = getattr(events, "lag", None)  # only a log with Kafka behind it has one
        app = create_app(settings, events, shared, signer, relay_lag)
        uvicorn.run(
            app,
            host=settings.host,
            port=settings.port,
            loop="uvloop",
            http="httptools",
            ws="none",
            access_log=False,
            server_header=False,
            log_config=None,
            timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
        )
    finally:
        events.close()
        shared.close()


def open_shared(settings: GatewaySettings) -> SharedStore:
    """Redis when there is one, else a file in the data folder."""
    if settings.redis is not None:
        return RedisStore(settings.redis)
    return SqliteStore(settings.data / "shared.db")


def _leave(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(0)
