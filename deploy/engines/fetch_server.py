"""What `hearken fetch` runs beside an engine: it copies adapters out of the registry's bucket when asked to.

The controller asks before it loads a version, the learner before it loads a policy in training. The answer
is the path of a whole copy, read again. Nothing is kept in memory, and the engine is told nothing, so either
may be started again at any time.
"""

import hmac
import json
import logging
import os
import re
import threading
from concurrent.futures import Future, ThreadPoolExecutor, TimeoutError
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from deploy.engines.fetcher import PATH, PATIENCE_SECONDS
from deploy.engines.key import VARIABLE
from deploy.engines.lending import ROLLOUTS
from deploy.registry.bucket import BucketRegistry
from deploy.registry.copies import Copies
from deploy.registry.errors import RegistryAway, RegistryError
from deploy.registry.versions import is_version

logger = logging.getLogger(__name__)

ROLLOUT_COPIES = 4
"""A policy in training is loaded for one batch of answers; a learner has two of them at most."""

MAX_BYTES = 10_000
"""Of a request."""

_SILENT_SECONDS = 30.0
_THREADS = 4
_ROLLOUT = re.compile(r"rollout-[0-9]{1,12}-[0-9a-f]{8}")
_DIGEST = re.compile(r"[0-9a-f]{64}")

Answer = tuple[int, dict[str, str]]
"""A status and what is said."""


class Fetching:
    """Adapters by name, each copied by one thread at a time.

    folder: where the registry's copies are. patience_seconds: how long an answer may take.
    """

    def __init__(
        self, registry: BucketRegistry, folder: Path, patience_seconds: float = PATIENCE_SECONDS
    ) -> None:
        self._registry = registry
        self._rollouts = Copies(registry.bucket, ROLLOUTS, folder / "rollouts", ROLLOUT_COPIES)
        self._patience_seconds = patience_seconds
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="fetch")
        self._jobs: dict[tuple[str, str], Future[Path]] = {}
        self._lock = threading.Lock()

    def answer(self, body: bytes) -> Answer:
        """What a request is answered with."""
        try:
            asked = json.loads(body)
            name, digest = asked["name"], asked["manifest"]
        except (ValueError, LookupError, TypeError, RecursionError):
            name = digest = None
        known = isinstance(name, str) and (is_version(name) or _ROLLOUT.fullmatch(name))
        if not known or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            right = 'write {"name": an adapter\'s name, "manifest": the sha256 of its manifest}'
            return 400, {"message": right}
        try:
            return 200, {"path": str(self._job(name, digest).result(self._patience_seconds))}
        except TimeoutError:
            return 503, {"message": f"{name} is still being fetched"}
        except RegistryError as error:
            logger.error("%s", error)
            return 422, {"message": str(error)}
        except RegistryAway as error:
            return 503, {"message": str(error)}
        except OSError as error:
            logger.error("%s cannot be copied: %s", name, error)
            return 503, {"message": f"{name} cannot be copied: {error}"}

    def _job(self, name: str, digest: str) -> "Future[Path]":
        """The work on an adapter: the one that is under way, or a new one."""
        with self._lock:
            self._jobs = {key: job for key, job in self._jobs.items() if not job.done()}
            if (name, digest) not in self._jobs:
                self._jobs[name, digest] = self._threads.submit(self._copy, name, digest)
            return self._jobs[name, digest]

    def _copy(self, name: str, digest: str) -> Path:
        if not is_version(name):
            return self._rollouts.fetch(name, digest).resolve()
        self._registry.verify(name, digest)
        return self._registry.path(name).resolve()

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def serve(fetching: Fetching, host: str, port: int) -> ThreadingHTTPServer:
    """A server that is bound and not at work yet: see its `serve_forever`.

    It asks for the engine's key where $VLLM_API_KEY is set. GET /health needs none.
    """
    key = os.environ.get(VARIABLE, "")

    class Handler(_Handler):
        timeout = _SILENT_SECONDS
        work = fetching
        wanted = f"Bearer {key}" if key else ""

    return ThreadingHTTPServer((host, port), Handler)


class _Handler(BaseHTTPRequestHandler):
    work: Fetching
    wanted: str

    def log_message(self, format: str, *args: Any) -> None:
        """What is fetched is told by others."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self._say(200, {"message": "ok"})
        else:
            self._say(404, {"message": "there is only /health to look at"})

    def do_POST(self) -> None:
        self._say(*self._answer())

    def _answer(self) -> Answer:
        if self.path != PATH:
            return 404, {"message": f"there is only {PATH}"}
        given = self.headers.get("Authorization", "")
        if self.wanted and not hmac.compare_digest(given.encode(), self.wanted.encode()):
            return 401, {"message": f"another key than ${VARIABLE} here"}
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > MAX_BYTES:
            return 400, {"message": f"a request has a Content-Length of at most {MAX_BYTES}"}
        return self.work.answer(self.rfile.read(int(length)))

    def _say(self, status: int, told: dict[str, str]) -> None:
        self.close_connection = True  # what was not read of the request must not be taken for the next one
        data = json.dumps(told).encode()
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(data)
        except OSError:  # whoever asked is gone and will ask again
            pass
