"""The live view: what is read from the processes' metrics and the log, and how it is shown."""

import dataclasses
import io
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, start_http_server
from rich.console import Console

from deploy.history.releases import Decision, entry
from deploy.history.states import ReleaseState
from deploy.history.table import RoutingTable
from feedback.sqlite.log import SqliteLog
from hearken.demo import progress
from hearken.demo.simulate import Tally
from hearken.demo.watch import Evidence, Gauges, Snapshot, Watch


def registry() -> CollectorRegistry:
    registry = CollectorRegistry()
    Gauge("hearken_kl_nats", "h", ["reference"], registry=registry).labels("base").set(1.25)
    phase = Gauge("hearken_learner_phase", "h", ["phase"], registry=registry)
    phase.labels("ppo").set(1)
    phase.labels("waiting").set(0)
    Counter("hearken_ppo_steps", "h", registry=registry).inc(2)
    accuracy = Gauge("hearken_reward_accuracy_ratio", "h", registry=registry)
    accuracy.set(0.0)  # there has been no update yet
    labels = Counter("hearken_labels", "h", ["kind"], registry=registry)
    labels.labels("thumbs").inc(3)
    labels.labels("comparison").inc(4)
    evidence = Gauge("hearken_canary_evidence", "h", ["test"], registry=registry)
    bound = Gauge("hearken_canary_evidence_bound", "h", ["test"], registry=registry)
    evidence.labels("promote").set(5.0)
    bound.labels("promote").set(20.0)
    return registry


def test_gauges_are_read_as_prometheus_writes_them() -> None:
    gauges = Gauges.parse(generate_latest(registry()).decode())
    assert gauges.get("hearken_kl_nats", reference="base") == 1.25
    assert gauges.get("hearken_kl_nats", reference="live") is None
    assert gauges.total("hearken_labels_total") == 7
    assert gauges.label_of_one("hearken_learner_phase", "phase") == "ppo"
    assert Gauges().total("anything") == 0


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


def test_a_look_puts_metrics_releases_and_users_together(log: SqliteLog) -> None:
    server, thread = start_http_server(0, "127.0.0.1", registry())
    url = f"http://127.0.0.1:{server.server_port}"
    table = RoutingTable(epoch=3, live="base", control="base", canary="policy-1-00000000", weight=0.25)
    decision = Decision(
        event_id="d1",
        at=1.0,
        number=1,
        outcome="started",
        stage_before="idle",
        stage_after="canary",
        sentence="Started it.",
        state=ReleaseState(stage="canary", table=table),
    )
    watch = Watch((url, url, "http://127.0.0.1:1"), log)  # the controller is away
    try:
        before = watch.look(0.0, 60.0, Tally(), 0.1, None)
        assert (before.live, before.stage, before.promote) == ("base", "idle", None)
        log.append([entry(decision)]).result()
        seen = watch.look(10.0, 60.0, Tally(chat_requests=50, feedback_events=20), 0.1, None)
    finally:
        watch.close()
        server.shutdown()
        server.server_close()
        thread.join()
    assert (seen.stage, seen.weight, seen.canary) == ("canary", 0.25, "policy-1-00000000")
    assert seen.decisions == ["Started it."]
    assert (seen.kl_nats, seen.phase, seen.labels) == (1.25, "ppo", 7)
    assert seen.chats_per_second == 5.0
    assert seen.reward_accuracy is None
    assert seen.promote is None


SNAPSHOT = Snapshot(
    elapsed_seconds=75.0,
    total_seconds=600.0,
    votes=120,
    chats=200,
    chat_failures=1,
    feedback_failures=0,
    chats_per_second=3.5,
    tokens_per_second=90.0,
    recent_utility=0.75,
    usual_utility=0.25,
    labels=110,
    reward_accuracy=0.8,
    reward_updates=2,
    ppo_steps=5,
    phase="ppo",
    kl_nats=1.5,
    kl_budget_nats=6.0,
    live="base",
    stage="canary",
    weight=0.25,
    canary="policy-1-00000000",
    pairs=31,
    promote=Evidence(7.5, 20.0),
    harm=Evidence(0.0, 100.0),
    decisions=["Started the canary of policy-1-00000000 with 5% of users."],
    sample=("Where is my lamp?", "It is late.", "I am sorry! It is on its way."),
)


def test_the_line_says_it_all() -> None:
    line = progress.line(SNAPSHOT)
    for part in ("1:15/10:00", "120 votes", "200 chats (1 failed)", "utility +0.75 (base +0.25)",
                 "KL 1.50/6.0 nats", "canary policy-1-00000000 at 25%", "promote 7.5 of 20"):  # fmt: skip
        assert part in line
    assert "canary" not in progress.line(dataclasses.replace(SNAPSHOT, stage="idle"))


@pytest.mark.parametrize(
    "snapshot",
    [
        SNAPSHOT,
        dataclasses.replace(SNAPSHOT, stage="idle", sample=None, decisions=[], kl_budget_nats=None),
        dataclasses.replace(
            SNAPSHOT, promote=None, harm=None, kl_nats=None, reward_accuracy=None, recent_utility=None
        ),
    ],
)
def test_the_view_can_always_be_drawn(snapshot: Snapshot) -> None:
    output = io.StringIO()
    Console(file=output, width=100, force_terminal=True).print(progress.render(snapshot))
    shown = output.getvalue()
    assert "120" in shown
    if snapshot is SNAPSHOT:
        for part in ("7.5 of 20", "Where is my lamp?", "31 paired users", "1.50 of 6.0 nats"):
            assert part in shown
