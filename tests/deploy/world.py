"""A whole small service for the controller's tests: log, registry, engines, voting users, and a clock."""

import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from deploy.controller.leading import Alone, Leadership
from deploy.controller.loop import Controller
from deploy.controller.metrics import ControllerMetrics
from deploy.engines.client import EngineClient
from deploy.engines.discovery import Discovery
from deploy.engines.fleet import Fleet
from deploy.history.leases import KEY, Lease
from deploy.history.releases import Candidate, Decision, History, entry, parse
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable, UserArm, assign
from deploy.registry.manifest import Manifest
from deploy.registry.registry import Registry
from deploy.settings import ControllerSettings
from feedback.core.events import COMPLETIONS, FEEDBACK, RELEASES, Feedback, Target
from feedback.core.log import Entry, EventLog
from feedback.core.secret import load_secret
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from tests.deploy.builders import completion, publish
from tests.deploy.fake_engine import FakeEngine

FAST: dict[str, Any] = {
    "ladder": ((0.05, 6), (0.25, 10), (0.5, 0)),
    "window_seconds": 5,
    "match_seconds": 60,
    "voters_tolerance": 0.5,
    "max_seconds": 120,
    "holdback_min_seconds": 10,
    "holdback_max_seconds": 60,
    "drain_seconds": 8,
    "shadow_prompts": 0,
}


class World:
    """`taste(version)` is the chance that users like a version's answers, `answer(version)` how they are.

    Time moves only when a test moves it.
    """

    def __init__(
        self,
        folder: Path,
        engines: int = 1,
        engine_seconds: float = 5.0,
        round_seconds: float = 5.0,
        registry: Registry | None = None,
        **options: Any,
    ) -> None:
        self.folder = folder
        self._engine_seconds, self._round_seconds = engine_seconds, round_seconds
        self.engines = [FakeEngine() for _ in range(engines)]
        self.settings = ControllerSettings(
            data=folder, engines=tuple(engine.url for engine in self.engines), **{**FAST, **options}
        )
        self.log = SqliteLog(folder / "log.db")
        self.registry = registry or Registry(folder / "adapters")
        self.now = 1_700_000_000.0
        self.taste: Callable[[str], float] = lambda version: 0.4
        self.answer: Callable[[str], dict[str, Any]] = lambda version: {}
        self._rng = random.Random(1)
        self._served = 0
        self._history, self._cursor = History(remembered=1000), dict[str, int]()
        self._fleets: list[Fleet] = []
        self.discovery: Discovery | None = (
            None  # of the engines of controllers to come; None: they are listed
        )
        self.shared = SqliteStore(folder / "shared.db")
        self.gateway_holds()
        self.metrics = ControllerMetrics(self.settings)
        self.controller = self.new_controller()

    def new_controller(
        self,
        log: EventLog | None = None,
        leadership: Leadership | None = None,
        metrics: ControllerMetrics | None = None,
        owner: str = "",
    ) -> Controller:
        """A controller that knows nothing yet, on the world's log or on another one."""
        discovery = self.discovery or Discovery(self.settings.engines)
        fleet = Fleet(
            (),
            self.registry,
            self.settings.parity_limits,
            owner,
            self._round_seconds,
            self.settings.fetch_port,
            discovery,
            partial(EngineClient, timeout=self._engine_seconds),
            (metrics or self.metrics).swap_seconds.observe,
        )
        self._fleets.append(fleet)
        return Controller(
            log or self.log,
            self.registry,
            fleet,
            self.settings,
            metrics or self.metrics,
            self.shared,
            leadership or Alone(),
            clock=lambda: self.now,
            secret=load_secret(self.folder / "secret"),
        )

    def gateway_holds(self, *versions: str) -> None:
        """What the one gateway holds a lease on, for as long as any test takes."""
        record = Lease(versions=frozenset(versions)).model_dump_json().encode()
        self.shared.put(KEY + "gateway", record, 600)

    def kill_controller(self, log: EventLog | None = None) -> None:
        """Forget the controller with all that it knows; a new one takes over with the log alone."""
        self.controller = self.new_controller(log)

    def close(self) -> None:
        for fleet in self._fleets:
            fleet.close()
        for engine in self.engines:
            engine.stop()
        self.log.close()
        self.shared.close()

    @property
    def state(self) -> ReleaseState:
        return self.controller.state

    @property
    def decisions(self) -> list[Decision]:
        """All of them, as the log has them."""
        records, self._cursor = self.log.read([RELEASES], self._cursor, limit=10_000)
        for record in records:
            if (event := parse(record.value)) is not None:  # else how far a webhook came
                self._history.apply(event)
        return list(self._history.decisions)

    @property
    def outcomes(self) -> list[str]:
        return [decision.outcome for decision in self.decisions]

    def tick(self) -> None:
        self.controller.tick()

    def offer(self, content: bytes = b"one", **options: Any) -> Manifest:
        """The learner publishes and announces a candidate."""
        manifest = publish(self.registry, self.folder / "scratch", content, **options)
        digest = self.registry.manifest_digest(manifest.version)
        offered = Candidate.announce(manifest.version, self.now, parent=manifest.parent, manifest=digest)
        self.log.append([entry(offered)]).result()
        return manifest

    def chat(self, users: int) -> None:
        """New users come, chat once under the table in force and vote."""
        table = self.decisions[-1].state.table
        names = [f"u{self._served + i}" for i in range(1, users + 1)]
        self._chat([(user, assign(user, table)) for user in names], table)

    def serve(self, arm: UserArm, users: int, *, vote: bool = True) -> None:
        """As many new users of one arm and of no other."""
        table = self.decisions[-1].state.table
        self._chat([(f"{arm}{self._served + i}", arm) for i in range(1, users + 1)], table, vote=vote)

    def _chat(self, users: list[tuple[str, UserArm]], table: RoutingTable, *, vote: bool = True) -> None:
        entries = []
        for user, arm in users:
            self._served += 1
            version = table.version(arm)
            at = self.now + self._rng.random()
            options = {"arm": arm, "version": version, "epoch": table.epoch, "at": at, **self.answer(version)}
            event = completion(self._served, user=user, **options)
            liked = self._rng.random() < self.taste(version)
            thumb = Feedback(
                event_id=f"fb-{self._served}",
                at=at + 0.1,
                revision=int(at * 1e6),
                kind="thumbs",
                rater=user,
                targets=[Target(completion_id=event.completion_id)],
                value=float(liked),
                label="up" if liked else "down",
            )
            entries.append(Entry(COMPLETIONS, event.conversation, event.model_dump_json().encode()))
            if vote:
                entries.append(Entry(FEEDBACK, event.conversation, thumb.model_dump_json().encode()))
        self.log.append(entries).result()

    def pass_time(self, until: str, users: int = 60, rounds: int = 150) -> Decision:
        """Let users chat, a second at a time, until a decision with this outcome is made."""
        for _ in range(rounds):
            self.tick()
            for decision in self.decisions[::-1]:
                if decision.outcome == until and decision.at >= self.now:
                    return decision
            if users:
                self.chat(users)
            self.now += 1.0
        raise AssertionError(f"no decision {until!r}; there were {[d.sentence for d in self.decisions]}")


@contextmanager
def controlled(world: World) -> Iterator[None]:
    """The world's controller at work, in a thread, while the block lasts. The only gateways are real ones."""
    world.shared.delete(KEY + "gateway")
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            world.tick()
            world.controller.wait(0.05)

    with ThreadPoolExecutor(1) as threads:
        working = threads.submit(work)
        try:
            yield
        finally:
            stop.set()
            working.result()  # raises what the controller raised


MakeWorld = Callable[..., World]
"""Makes worlds of their own folders, with what is passed to `World` besides."""
