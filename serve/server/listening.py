"""The server in front of the application: uvicorn, with bounds on connections."""

import math
import resource
from functools import partial
from typing import cast

import uvicorn
from fastapi import FastAPI

from serve.server.protocol import BoundedProtocol, Edge

KEEP_ALIVE_SECONDS = 75
"""How long an idle connection stays open: longer than load balancers keep theirs (often 60 s), for who closes
first must not be the side that the next request comes to."""

_KEPT_FILES = 256
"""Open files that connections must leave: the log, the stores, the engines' connections."""


def server(app: FastAPI, host: str, port: int, drain_seconds: float) -> uvicorn.Server:
    """A server of an application that `create_app` made."""
    edge: Edge = app.state.edge
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        loop="uvloop",
        http=cast(type[BoundedProtocol], partial(BoundedProtocol, edge=edge)),
        ws="none",
        access_log=False,
        server_header=False,
        proxy_headers=False,  # serve/server/addresses.py reads them, of proxies that are named
        log_config=None,
        lifespan="on",
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(drain_seconds),
    )
    return uvicorn.Server(config)


def raise_file_limit() -> None:
    """Let this process open as many files as it may: each client is one."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def most_connections() -> int:
    """How many connections this process may have open, so that files can still be opened."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return 2**20
    return max(soft // 2, soft - _KEPT_FILES)
