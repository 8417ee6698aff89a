"""The engines as the gateway knows them, and which one each request gets."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from collections.abc import Set as AbstractSet
from contextlib import asynccontextmanager
from dataclasses import dataclass

from deploy.engines.discovery import Discovery, Resolve, addresses
from deploy.history.table import RoutingTable
from serve.engines.admission import Admission
from serve.engines.affinity import prefer
from serve.engines.attempts import Want
from serve.engines.roster import Roster
from serve.engines.upstream import EngineGone, EngineLost, Failed, PolicyMissing, Refused, Upstream
from serve.engines.watching import Engine, Watch
from serve.http.errors import Unavailable, engine_unavailable, overloaded
from serve.metrics import Metrics
from serve.settings import GatewaySettings

RESERVE_SHARE = 1 / 16
"""Of an engine's places: so many no single API key gets. With fewer than 16 places there is no such share."""
_LOOK_SECONDS = 1.0  # how long a new routing table can wait for an engine that is slow to tell what it has


@dataclass(frozen=True, slots=True, eq=False)
class _Place:
    """One of an engine's places, and which key has it."""

    engine: Engine
    key_id: str


class Fleet:
    """Watches the engines and gives each request one. A task runs `watch`. resolve: looks up their names."""

    def __init__(
        self,
        settings: GatewaySettings,
        upstream: Upstream,
        metrics: Metrics,
        resolve: Resolve = addresses,
    ) -> None:
        self._metrics = metrics
        self._settings = settings
        self._admission: Admission[Want, _Place] = Admission(
            self._take, self._give_back, settings.queue_length, settings.queue_seconds, metrics
        )
        self._watch = Watch(settings, upstream, metrics, self._admission.serve, self._spread)
        self._roster = Roster(Discovery(settings.engines, resolve), metrics, self._watch.run)

    @property
    def waiting(self) -> int:
        """How many requests wait for a place."""
        return len(self._admission)

    # -- requests ---------------------------------------------------------------------------------------

    @asynccontextmanager
    async def slot(self, want: Want) -> AsyncIterator[Engine]:
        """A place on an engine that has the version, never another version instead; waits for it if need be.

        Raises Unavailable when there is none within the time limit, or no engine is left to try. What the
        request raises inside goes on; an engine that failed it is asked a question of ours, and a `Failed`
        brings the future that will tell which of the two is at fault.
        """
        if want.tried and want.tried.issuperset(e for e in self._roster.engines if not e.leaves):
            raise engine_unavailable()
        if not self._anyone_has(want):
            self._ask_all()  # the policy may be there already, and only not seen yet
        place = await self._admission.enter(want.key_id, want, lambda: self._why_none(want))
        engine = place.engine
        if want.tried:
            self._metrics.engine_retries.inc()
        want.tried.add(engine)
        try:
            yield engine
            self._watch.note(engine, "ANSWERED")
        except EngineLost as error:
            if isinstance(error, EngineGone):
                self._watch.note(engine, "LOST", error)
            self._watch.doubt(engine, want.version)
            raise
        except Failed as failure:
            failure.fault = self._watch.doubt(engine, want.version)
            raise
        except PolicyMissing:
            engine.policies -= {want.version}  # no request for it until it is listed again
            engine.ask_now.set()
            raise
        except Refused:
            self._watch.note(engine, "ANSWERED")  # that the request is wrong is an answer
            raise
        finally:
            self._give_back(place)
            self._admission.serve()

    def _take(self, want: Want) -> _Place | None:
        """A place for a request, on the engine that suits it; None when there is none."""
        busy = {
            engine.url: engine
            for engine in self._roster.engines
            if want.version in engine.policies
            and engine.usable
            and self._has_room(engine, want.key_id)
            and engine not in want.tried
        }
        if not busy:
            return None
        engine = busy[prefer(want.conversation, {url: e.in_flight for url, e in busy.items()})]
        if engine.in_flight == 0:
            engine.heard = time.monotonic()  # its silence counts from now
        engine.in_flight += 1
        engine.held[want.key_id] += 1
        return _Place(engine, want.key_id)

    def _has_room(self, engine: Engine, key_id: str) -> bool:
        """Whether a key may have one more place. Requests can be slow at will, and a key that sends enough of
        those would else hold every place; who has no key is everyone."""
        room = self._settings.max_in_flight
        for_others = int(room * RESERVE_SHARE) if key_id else 0
        return engine.in_flight < room and engine.held[key_id] < room - for_others

    def _give_back(self, place: _Place) -> None:
        place.engine.in_flight -= 1
        place.engine.held[place.key_id] -= 1
        if not place.engine.held[place.key_id]:
            del place.engine.held[place.key_id]

    def _anyone_has(self, want: Want) -> bool:
        return any(
            e.usable and want.version in e.policies and e not in want.tried for e in self._roster.engines
        )

    def has(self, version: str) -> bool:
        """Whether an engine that is in use serves a version."""
        return any(engine.usable and version in engine.policies for engine in self._roster.engines)

    def _why_none(self, want: Want) -> Unavailable:
        return overloaded() if self._anyone_has(want) else engine_unavailable()

    def _ask_all(self) -> None:
        for engine in self._roster.engines:
            engine.ask_now.set()

    async def look_for(self, versions: AbstractSet[str]) -> None:
        """Ask the engines that lack one of the versions for what they have, before the next poll would.

        Those that do not answer within `_LOOK_SECONDS` stay as they were known.
        """
        lacking = [e for e in self._roster.engines if e.usable and not versions <= e.policies]
        if not lacking:
            return
        for engine in lacking:
            engine.looked.clear()
            engine.ask_now.set()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_SECONDS):
                for engine in lacking:
                    await engine.looked.wait()

    # -- engines ----------------------------------------------------------------------------------------

    def problems(self, table: RoutingTable, detailed: bool) -> list[str]:
        """Why no single engine can serve the whole table; empty when one can.

        `detailed`: with the engines' URLs and words. Without, they are numbered, and only states are told.
        """
        problems = self.lookup_problems(detailed)
        for number, engine in enumerate((e for e in self._roster.engines if not e.leaves), 1):
            name = engine.url if detailed else f"engine-{number}"
            missing = (table.adapters | {table.live}) - engine.policies
            if not engine.usable:
                problem = engine.problem or "out of use"
                problems.append(f"{name}: {problem if detailed else problem.partition(':')[0]}")
            elif missing:
                problems.append(f"{name}: {len(missing)} of the table's policies not loaded yet")
            else:
                return []
        return problems

    def lookup_problems(self, detailed: bool) -> list[str]:
        """Names of engines that cannot be looked up, and why. detailed: see `problems`."""
        found = [f"{name}: {why}" for name, why in self._roster.lookup_problems.items()]
        return found if detailed else ["a name of engines cannot be looked up" for _ in found]

    async def watch(self) -> None:
        """Look at the engines for ever, those included that come later."""
        await self._roster.follow()

    def _spread(self, engine: Engine, policies: frozenset[str]) -> None:
        """Let requests that a lost engine has not begun to answer go elsewhere, if there is an elsewhere."""
        if any(other.usable and policies <= other.policies for other in self._roster.engines):
            engine.give_up()
