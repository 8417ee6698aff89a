"""What happens around every request: an id, a visit, a count, a duration, and no exception that gets out.

The visit is what a request gathers on its way: headers for its answer, and what must happen when it is over.
"""

import logging
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.http.dialects import error_at
from serve.http.errors import ApiError
from serve.metrics import Metrics

log = logging.getLogger(__name__)

_SANE_ID = re.compile(r"[\w.-]{1,128}", re.ASCII)
_VISIT = "hearken.visit"


@dataclass(slots=True)
class Visit:
    """One request, from its headers to the last byte of its answer, however it ends."""

    headers: dict[str, str] = field(default_factory=dict)  # set on the answer, an error's too
    at_end: list[Callable[[], None]] = field(default_factory=list)  # called when the request is over


def visit_of(scope: Scope) -> Visit:
    """The visit of a request that came through `Observe`."""
    visit: Visit = scope[_VISIT]
    return visit


class Observe:
    """ASGI middleware: x-request-id on every answer, request metrics, and a 500 in OpenAI's shape."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = time.perf_counter()
        request_id = _request_id(Headers(scope=scope).get("x-request-id"))
        visit = scope[_VISIT] = Visit()
        status = 0

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(scope=message)
                headers["x-request-id"] = request_id
                headers.update(visit.headers)
            await send(message)

        try:
            await self._app(scope, receive, observed_send)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:
                raise  # too late for an error answer: the server cuts the connection
            failure = ApiError(f"Something went wrong here (request {request_id}).", code="internal_error")
            await error_at(scope["path"], failure)(scope, receive, observed_send)
        finally:
            for call in visit.at_end:
                call()
            # The route's pattern, not the path: clients must not be able to invent label values.
            route = getattr(scope.get("route"), "path", "unknown")
            self._metrics.requests.labels(route, str(status or 499)).inc()
            self._metrics.request_seconds.labels(route).observe(time.perf_counter() - started)


def _request_id(sent: str | None) -> str:
    """The client's own request id when it is harmless, else a new one."""
    if sent is not None and _SANE_ID.fullmatch(sent):
        return sent
    return "req_" + secrets.token_hex(12)
