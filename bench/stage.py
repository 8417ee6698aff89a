"""A controller in a long stage of a release: what a round costs, and how long it takes to be ready again.

A log is written with a canary of seven days in which as many users of each bucket were answered as `--users`
says, and voted. A controller reads it from the beginning, as after a restart: `first_round_seconds` is when
it tends engines and obeys operators, `ready_seconds` when it has read all and judges. Then come rounds with
`NEW` answers and votes each, every one of which closes some users' windows: `round_seconds` is the median,
`round_seconds_most` the longest. `late_round_seconds`: a round with a vote that arrives a day late. Times are
of the clock, and of CPU with `_cpu_`.
"""

import argparse
import gc
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

DAYS = 7
DAY_SECONDS = 86400.0
NEW, ROUNDS = 50, 100
BATCH = 1000
SEALED = 1200
"""Characters of an answer's sealed texts. Controllers never open them."""
CANARY = "policy-1-aaaaaaaa"
START = 1_700_000_000.0


def entries(first: int, count: int, times: Callable[[int], float]) -> Iterator[Any]:
    """An answer and a vote for each user of a range of numbers, in the canary and in the control by turns."""
    from feedback.core.events import BASE, COMPLETIONS, FEEDBACK, Choice, Completion, Feedback, Target
    from feedback.core.log import Entry

    for i in range(first, first + count):
        arm, at = ("canary", "control")[i % 2], times(i)
        user = f"u_{i:024d}"
        choice = Choice(text="", token_ids=[], logprobs=[], finish_reason="stop", tokens=64, blank=False)
        answer = Completion(
            event_id=f"chatcmpl-{i:040d}",
            completion_id=f"chatcmpl-{i:040d}",
            at=at,
            conversation=f"talk-{i}",
            user=user,
            policy_version=CANARY if arm == "canary" else BASE,
            arm=arm,
            table_epoch=2,
            messages=[],
            prompt_token_ids=[],
            choices=[choice],
            latency_seconds=1.0,
            sealed="x" * SEALED,
        )
        vote = Feedback(
            event_id=f"fb-{i:040d}",
            at=at + 1,
            revision=1,
            kind="thumbs",
            rater=user,
            targets=[Target(completion_id=answer.completion_id)],
            value=float(i % 5 < 3),  # as many in both buckets: nothing is decided
            label="up" if i % 5 < 3 else "down",
        )
        yield Entry(COMPLETIONS, answer.conversation, answer.model_dump_json().encode())
        yield Entry(FEEDBACK, answer.conversation, vote.model_dump_json().encode())


class Stage:
    """A service with a canary at work, and its controllers. `now`: Unix seconds; only the bench moves it."""

    def __init__(self, folder: Path, users: int) -> None:
        from deploy.settings import ControllerSettings
        from feedback.shared import SqliteStore
        from feedback.sqlite.log import SqliteLog

        self.users, self.now = users, START
        self.settings = ControllerSettings(
            data=folder,
            engines=("http://127.0.0.1:9",),
            max_seconds=30 * DAY_SECONDS,
            ladder=((0.25, 30 * DAY_SECONDS),),
        )
        self.log, self.shared = SqliteLog(folder / "log.db"), SqliteStore(folder / "shared.db")
        self._served = 0
        self._begin()
        step = DAYS * DAY_SECONDS / (2 * users)
        while self._served < 2 * users:
            self.serve(min(BATCH, 2 * users - self._served), step)

    def _begin(self) -> None:
        """Two decisions by hand: a canary that began."""
        from deploy.decide import release
        from deploy.engines.parity import Parity
        from deploy.history.releases import Basis, decision_of, entry
        from deploy.history.states import ReleaseState

        steps = [release.begin(START)]
        steps.append(release.accept(steps[-1].state, CANARY, "it is simulated", "d" * 64))
        rules = self.settings.release_rules
        steps.append(release.start(steps[-1].state, rules, START, {}, Parity(None, 0.0, 0.0)))
        before, basis = ReleaseState(), Basis({}, {}, {})
        for number, step in enumerate(steps, start=1):
            decision = decision_of(step, before, number, START, basis=basis, fence=0, previous="")
            self.log.append([entry(decision)]).result()
            before = step.state

    def serve(self, users: int, apart_seconds: float) -> None:
        """Answer so many more users, each so much later than the one before."""
        start, first = self.now, self._served
        some = entries(first, users, lambda i: start + (i - first) * apart_seconds)
        self.log.append([*some]).result()
        self._served += users
        self.now += users * apart_seconds

    def vote_late(self) -> None:
        """The vote of a user who was answered a day ago, on the same answer, arrives."""
        from feedback.core.events import FEEDBACK, Feedback, Target
        from feedback.core.log import Entry

        about = self._served - 2 * self.users // DAYS
        vote = Feedback(
            event_id="fb-late",
            at=self.now - DAY_SECONDS,
            revision=1,
            kind="thumbs",
            rater=f"u_{about:024d}",
            targets=[Target(completion_id=f"chatcmpl-{about:040d}")],
            value=1.0,
            label="up",
        )
        self.log.append([Entry(FEEDBACK, "late", vote.model_dump_json().encode())]).result()

    def controller(self) -> Any:
        """One that knows nothing yet. There is no engine."""
        from deploy.controller.leading import Alone
        from deploy.controller.loop import Controller
        from deploy.controller.metrics import ControllerMetrics
        from deploy.engines.fleet import Fleet
        from deploy.registry.registry import Registry

        registry = Registry(self.settings.data / "adapters")
        fleet = Fleet((), registry, self.settings.parity_limits)
        metrics = ControllerMetrics(self.settings)
        return Controller(
            self.log,
            registry,
            fleet,
            self.settings,
            metrics,
            self.shared,
            Alone(),
            lambda: self.now,
            b"s" * 32,
        )


def timed(work: Callable[[], object]) -> tuple[float, float]:
    """Seconds of the clock and of CPU."""
    started, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - cpu


def measure(folder: Path, users: int) -> dict[str, float]:
    """All of it with so many users in each bucket."""
    stage = Stage(folder, users)
    with closing(stage.log), closing(stage.shared):
        controller = stage.controller()
        first = timed(controller.tick)
        rest = timed(lambda: read_all(controller))
        rounds = []
        for _ in range(ROUNDS):
            stage.serve(NEW, DAYS * DAY_SECONDS / (2 * users))
            rounds.append(timed(controller.tick))
        stage.vote_late()
        late = timed(controller.tick)
        if controller.state.stage != "canary":
            raise RuntimeError(f"the canary ended in the middle of it: {controller.state}")
        reading = controller._running.fold.evidence.reading()
    return {
        "users": users,
        "pairs": reading.pairs,
        "first_round_seconds": first[0],
        "ready_seconds": first[0] + rest[0],
        "ready_cpu_seconds": first[1] + rest[1],
        "round_seconds": statistics.median(seconds for seconds, _ in rounds),
        "round_seconds_most": max(seconds for seconds, _ in rounds),
        "round_cpu_seconds": statistics.median(cpu for _, cpu in rounds),
        "late_round_seconds": late[0],
        "late_round_cpu_seconds": late[1],
    }


def read_all(controller: Any) -> None:
    """Rounds until everything was read and judged."""
    while not controller._running.is_at_end:
        controller.tick()


def main(argv: list[str]) -> int:
    """Run the benchmark; its last line is one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m bench stage", description=__doc__)
    parser.add_argument("--users", type=int, default=100_000, help="of each bucket (default: 100000)")
    options = parser.parse_args(argv)
    from deploy.main import COLLECTING

    gc.set_threshold(*COLLECTING)  # as the controller's process does
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch:
        print(json.dumps({name: round(v, 4) for name, v in measure(Path(scratch), options.users).items()}))
    return 0
