"""POST /v1/imports: what `hearken import` does with a file, with a request's body.

The body goes into a file first, so an upload that breaks off has done nothing. A process of its own makes
entries of it (serve/imports/worker.py), and a thread of this one appends them, batch by batch.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers, QueryParams
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.ids import Signer
from feedback.core.log import EventLog, LogError
from feedback.dialects import Options
from feedback.exchange.import_batches import Batch
from feedback.exchange.import_job import Job, Refused
from feedback.exchange.import_options import BadOption, parse_options
from feedback.exchange.import_report import Report
from feedback.shared import SharedStore
from serve.auth.caller import Caller
from serve.auth.entrance import Entrance
from serve.http.bodies import json_response
from serve.http.errors import ApiError, BadRequest, BodyTooLarge, Forbidden, NotFound, Unavailable
from serve.http.routes import at
from serve.imports.body import Intake, kind_of, nameless_file
from serve.imports.progress import Progress, import_id
from serve.imports.worker import ImportWorker, WorkerGone

log = logging.getLogger(__name__)

Json = dict[str, Any]

IDLE_SECONDS = 60.0
"""How long the process of imports waits for the next one: it has a tokenizer in memory."""
MOST_BODIES = 4
"""Bodies at the same time: each is a file of up to `max_import_bytes`."""
REASONS_TOLD = 3  # in the message of a refusal

_ONCE = ("layout", "tenant", "dry_run")
_SEVERAL = ("scale", "map", "direction")


class NothingImported(BadRequest):
    """400: no row of the body can be used. The report stands beside the error."""

    def __init__(self, report: Report) -> None:
        told = [report.problem] if report.problem else []
        told += report.reasons()[:REASONS_TOLD]
        why = "; ".join(told) or "it has no rows"
        super().__init__(f"Nothing of the body can be imported: {why}.", code="nothing_imported")
        self.report = report.as_dict()

    def as_dict(self) -> Json:
        return super().as_dict() | {"report": self.report}


@dataclass(frozen=True, slots=True)
class Asked:
    """What an import's query asks for. said: the options as they were written."""

    options: Options
    dry_run: bool
    said: Json


class Imports:
    """Imports bodies, one after the other.

    command: what starts the process of imports, None where the gateway knows no model. folder: the
    service's data folder. most_bytes: of a body, unpacked.
    """

    def __init__(
        self,
        command: Sequence[str] | None,
        folder: Path,
        signer: Signer,
        events: EventLog,
        store: SharedStore,
        redact: str,
        most_bytes: int,
    ) -> None:
        self._worker = None if command is None else ImportWorker(command)
        self._folder = folder
        self._signer = signer
        self._events = events
        self._store = store
        self._redact = redact
        self._most_bytes = most_bytes
        self._bodies = 0  # that come in, wait or are worked off
        self._busy = asyncio.Lock()
        self._idle: asyncio.TimerHandle | None = None

    async def post(
        self, headers: Headers, query: QueryParams, parts: AsyncIterator[bytes], caller: Caller
    ) -> Json:
        """Import a body, and tell what became of its rows.

        Raises BadRequest, Forbidden for another tenant, NotFound where nothing can be imported here,
        UnsupportedMediaType, BodyTooLarge, and Unavailable with how far it came.
        """
        asked = parse_query(query, caller.tenant)
        kind = kind_of(headers)
        if self._worker is None:
            raise _no_model("its gateway was started without --model (service.model)")
        if self._bodies >= MOST_BODIES:
            raise Unavailable("Too many imports at once; send this one again.", code="import_running")
        self._bodies += 1
        try:
            with nameless_file(self._folder, kind.suffix) as (file, path):
                intake = Intake(file, kind.packing, self._most_bytes)
                digest = await intake.take(parts, headers.get("content-length", ""))
                name = import_id(caller.tenant, digest, [kind.suffix, self._redact, asked.said])
                return await self._in_turn(
                    partial(self._import, self._worker, path, name, asked, caller.tenant)
                )
        finally:
            self._bodies -= 1

    async def _in_turn(self, work: Callable[[], Json]) -> Json:
        """Work in a thread, one at a time; the process stays for a while afterwards."""
        async with self._busy:
            self._keep_worker()
            try:
                return await asyncio.to_thread(work)
            finally:
                self._idle = asyncio.get_running_loop().call_later(IDLE_SECONDS, self._end_worker)

    def _end_worker(self) -> None:
        if self._worker is not None:
            self._worker.stop()

    def _keep_worker(self) -> None:
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def _import(self, worker: ImportWorker, path: Path, name: str, asked: Asked, tenant: str) -> Json:
        job = partial(Job, path, asked.options, self._folder, self._signer, tenant, redact=self._redact)
        if asked.dry_run:
            said = _run(worker, job(now=0.0, dry_run=True), None, self._events)
            return _answer(said, asked, 0, 0)
        progress = Progress.begin(self._store, name)
        before = progress.written
        said = _run(worker, job(now=progress.now, written=before), progress, self._events)
        return _answer(said, asked, progress.written - before, before)

    def close(self) -> None:
        """End what runs."""
        self._keep_worker()
        self._end_worker()


def import_route(imports: Imports, entrance: Entrance) -> Route:
    """POST /v1/imports: judged examples of a file, for an operator."""

    async def post(request: Request) -> Response:
        caller = await entrance.enter(request, "operate")
        told = imports.post(request.headers, request.query_params, request.stream(), caller)
        return json_response(await told)

    return at("/v1/imports", post, "POST")


def parse_query(query: QueryParams, tenant: str) -> Asked:
    """The options of an import. Raises BadRequest, and Forbidden for a tenant that is not the key's."""
    for name in query:
        if name not in _ONCE + _SEVERAL:
            raise BadRequest(f"There is no option {name!r:.80}.", param=f"{name:.80}")
        if name in _ONCE and len(query.getlist(name)) > 1:
            raise BadRequest(f"{name} is there more than once; send it once.", param=name)
    if query.get("tenant", tenant) != tenant:
        raise Forbidden("A key imports into its own tenant only.", param="tenant", code="other_tenant")
    dry_run = query.get("dry_run", "false")
    if dry_run not in ("true", "false"):
        raise BadRequest("dry_run must be true or false.", param="dry_run")
    layout, several = query.get("layout", "auto"), {name: query.getlist(name) for name in _SEVERAL}
    try:
        options = parse_options(layout, several["scale"], several["map"], several["direction"])
    except BadOption as error:
        raise _bad_option(error.name, str(error)) from error
    return Asked(options, dry_run == "true", {"layout": layout, **several})


def _run(worker: ImportWorker, job: Job, progress: Progress | None, events: EventLog) -> Report:
    """Work a job off, appending what it gives. Raises ApiError."""

    def take(batch: Batch) -> None:
        assert progress is not None
        events.append(batch.entries).result()
        progress.note(batch.examples)

    try:
        said = worker.run(job, take)
    except LogError as error:
        log.warning("an import cannot be written: %s", error)
        raise _broken_off("The log cannot be written at the moment", "log_unavailable", progress) from error
    except WorkerGone as error:
        log.error("%s", error)
        raise _broken_off("The import ended unexpectedly", "import_broken", progress) from error
    if isinstance(said, Refused):
        raise _refusal(said, progress)
    return said


def _answer(report: Report, asked: Asked, written: int, before: int) -> Json:
    if not report.is_of_use:
        raise NothingImported(report)
    told = {"object": "import", "dry_run": asked.dry_run, "written": written, "written_before": before}
    return told | report.as_dict()


def _refusal(refused: Refused, progress: Progress | None) -> ApiError:
    if refused.why == "option":
        return _bad_option(refused.name, refused.message)
    if refused.why == "model":
        return _no_model(refused.message)
    if refused.why == "memory":
        written = 0 if progress is None else progress.written
        return BodyTooLarge(f"{refused.message} {written} examples are written.", code="import_too_large")
    log.error("an import cannot be sealed: %s", refused.message)
    return _broken_off("Texts cannot be sealed at the moment", "log_unavailable", progress)


def _bad_option(name: str, message: str) -> BadRequest:
    return BadRequest(f"{name} {message}.", param=name)


def _no_model(why: str) -> NotFound:
    return NotFound(
        f"This service cannot import over HTTP: {why}. An import needs the tokenizer of "
        "the base model, from its folder.",
        code="imports_not_configured",
    )


def _broken_off(what: str, code: str, progress: Progress | None) -> Unavailable:
    return Unavailable(f"{what}.{_how_far(progress)}", code=code)


def _how_far(progress: Progress | None) -> str:
    if progress is None:
        return ""
    return f" {progress.written} examples are written; send the same body again, and it goes on from there."
