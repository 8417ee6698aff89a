"""GET /livez, /readyz and /metrics."""

import asyncio
import logging
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from feedback.core.log import EventLog
from feedback.privacy.sealing import Sealer
from serve.auth.access import Access
from serve.engines.pool import Fleet
from serve.http.bodies import json_response
from serve.http.routes import READ, at
from serve.metrics import Metrics
from serve.receipts.reader import Receipts
from serve.routing.following import TableFollower
from serve.server.background import Background

log = logging.getLogger(__name__)

RelayLag = Callable[[], tuple[int, float]]


class HealthApi:
    """Tells how the gateway is. `relay_lag`: see `serve.app.create_app`."""

    def __init__(
        self,
        access: Access,
        background: Background,
        fleet: Fleet,
        follower: TableFollower,
        sealer: Sealer,
        events: EventLog,
        receipts: Receipts,
        relay_lag: RelayLag | None,
        metrics: Metrics,
    ) -> None:
        self._access = access
        self._background = background
        self._fleet = fleet
        self._follower = follower
        self._sealer = sealer
        self._events = events
        self._receipts = receipts
        self._relay_lag = relay_lag
        self._metrics = metrics
        self._complaint: str | None = None  # of the vault

    @property
    def routes(self) -> list[Route]:
        return [
            at("/livez", self.live, *READ),
            at("/readyz", self.ready, *READ),
            at("/metrics", self.metrics, *READ),
        ]

    async def live(self, _: Request) -> Response:
        """200 while the process answers and its background tasks run; otherwise it needs a restart."""
        if self._background.has_ended:
            return json_response({"status": "a background task has ended"}, 503)
        return json_response({"status": "ok"})

    async def ready(self, request: Request) -> Response:
        """200 when an engine can serve everyone in the routing table, 503 with the reasons otherwise.

        Where engines are and what they said is for an operator's key. `warnings`, if there are any, tell of
        names behind which no new engine would be found now.
        """
        detailed = self._access.is_operator(request)
        problems = self._fleet.problems(self._follower.table, detailed)
        if problems:
            return json_response({"status": "not ready", "reasons": problems}, 503, {"retry-after": "1"})
        warnings = self._fleet.lookup_problems(detailed)
        return json_response({"status": "ready"} | ({"warnings": warnings} if warnings else {}))

    async def metrics(self, request: Request) -> Response:
        """GET /metrics for Prometheus."""
        self._access.caller(request, "operate")
        await asyncio.to_thread(self.look_at_vault)
        await asyncio.to_thread(self._show_votes)
        if self._relay_lag is not None:
            lag_events, age_seconds = await asyncio.to_thread(self._relay_lag)
            self._metrics.relay_lag_events.set(lag_events)
            self._metrics.relay_age_seconds.set(age_seconds)
            self._metrics.losses.show(self._events)
        return Response(self._metrics.render(), media_type="text/plain; version=0.0.4; charset=utf-8")

    def _show_votes(self) -> None:
        store = self._receipts.store
        self._metrics.show_waits_of_votes(store.behind()["votes"], store.seconds_to_live())

    def look_at_vault(self) -> None:
        """Show as a metric whether texts cannot be sealed, and why in the log, once."""
        problem = self._sealer.problem()
        self._metrics.vault_lost.set(problem is not None)
        if problem is not None and problem != self._complaint:
            log.error("no text can be sealed: %s", problem)
        self._complaint = problem
