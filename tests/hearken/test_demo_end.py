"""However a demo ends, it ends without a traceback, and reports what there is."""

import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from feedback.core.events import RELEASES
from feedback.sqlite.log import SqliteLog
from hearken.base.errors import UsageError
from hearken.config.layers import Given
from hearken.demo.demo import Demo, check_report, configure, load_persona
from hearken.demo.worlds import SUPPORT_DESK
from hearken.service import up
from hearken.service.supervisor import ChildFailed
from tests.deploy.fake_engine import FakeEngine

WORLD = replace(SUPPORT_DESK, usual_prompts=4, fresh_prompts=40, kl_samples=4)
FIRST = 1  # completions that tell what is usual


@pytest.fixture
def engine() -> Iterator[FakeEngine]:
    engine = FakeEngine()
    yield engine
    if not engine.ended.is_set():
        engine.stop()


class Ending:
    """A demo of a moment on an engine that can end, without a gateway, a learner or a controller.

    `poll` is what looks after the processes.
    """

    def __init__(self, engine: FakeEngine, folder: Path, poll: Callable[[], None]) -> None:
        self.stopping = threading.Event()
        self.report = folder / "r.json"
        layer = {
            "demo.data": Given(folder / "data", "test"),
            "demo.minutes": Given(0.001, "test"),
            "demo.report": Given(self.report, "test"),
            "demo.exit": Given(True, "test"),
        }
        settings, service = configure(layer, None)
        service.data.mkdir()
        gateway = replace(service.gateway, engines=(engine.url,))
        running: Any = SimpleNamespace(
            settings=replace(service, gateway=gateway), model=folder, poll=lambda: poll()
        )
        self.console = Console(record=True, quiet=False, file=(folder / "out").open("w"), width=200)
        self.demo = Demo(settings, WORLD, load_persona("friendly"), running, self.stopping, self.console)

    def reported(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.report.read_text())
        return report


def test_an_engine_that_ends_in_the_comparison_is_waited_for(engine: FakeEngine, tmp_path: Path) -> None:
    def poll() -> None:
        if engine.ended.is_set():
            engine.start()

    ending = Ending(engine, tmp_path, poll)
    engine.lives_for = FIRST + 1
    ending.demo.run()
    report = ending.reported()
    assert report["true_win_rate"] == 0.5  # of the base against itself
    assert report["chat_failures"] == report["chat_requests"] > 0  # the gateway is away
    assert "the engine broke off" in ending.console.export_text()


def test_an_engine_that_cannot_be_kept_running_costs_the_comparison_only(
    engine: FakeEngine, tmp_path: Path
) -> None:
    def poll() -> None:
        if engine.ended.is_set():
            raise ChildFailed("engine ended 3 times in a row (signal 9); its log is engine.log", [])

    ending = Ending(engine, tmp_path, poll)
    engine.lives_for = FIRST + 1
    with pytest.raises(ChildFailed):  # which `run` tells in a line
        ending.demo.run()
    report = ending.reported()
    assert report["true_win_rate"] is None
    assert report["votes_used_once"] is None
    assert report["feedback_events_in_log"] == 0
    said = ending.console.export_text()
    assert "engine ended 3 times in a row" in said
    assert "there is no comparison with the base" in said


def test_an_engine_that_is_gone_before_the_users_come(engine: FakeEngine, tmp_path: Path) -> None:
    def poll() -> None:
        raise ChildFailed("engine ended 3 times in a row", [])

    ending = Ending(engine, tmp_path, poll)
    engine.lives_for = 0
    with pytest.raises(ChildFailed):
        ending.demo.run()


def test_ctrl_c_in_the_comparison_still_reports(engine: FakeEngine, tmp_path: Path) -> None:
    ending = Ending(engine, tmp_path, lambda: None)

    def poll() -> None:
        if engine.ended.is_set():
            ending.stopping.set()

    ending.demo._service.poll = poll  # type: ignore[method-assign]
    engine.lives_for = FIRST + 1
    ending.demo.run()
    assert ending.reported()["true_win_rate"] is None


def test_ctrl_c_before_anything_is_known_is_an_interruption(engine: FakeEngine, tmp_path: Path) -> None:
    ending = Ending(engine, tmp_path, lambda: None)
    ending.stopping.set()
    with pytest.raises(up.Interrupted):
        ending.demo.run()


def test_a_policy_that_is_live_is_compared_as_soon_as_the_engine_has_it(
    engine: FakeEngine, tmp_path: Path
) -> None:
    """After its restart an engine knows the base only, until the controller has loaded the policy again."""
    from deploy.history.releases import Decision, entry
    from deploy.history.states import ReleaseState
    from deploy.history.table import RoutingTable

    looks = []

    def poll() -> None:
        looks.append(1)
        if len(looks) == 8:
            engine.loaded["policy-1-cafecafe"] = b""

    ending = Ending(engine, tmp_path, poll)
    log = SqliteLog(tmp_path / "data" / "log.db")
    table = RoutingTable(epoch=1, live="policy-1-cafecafe")
    decision = Decision(
        event_id="d1",
        at=1.0,
        number=1,
        outcome="promoted",
        stage_before="canary",
        stage_after="idle",
        table=table,
        sentence="A test decided.",
        state=ReleaseState(table=table),
    )
    log.append([entry(decision)]).result()
    assert log.read([RELEASES], {})[0]
    log.close()
    ending.demo.run()
    report = ending.reported()
    assert (report["live_version"], report["promotions"]) == ("policy-1-cafecafe", 1)
    pages = [tmp_path / "r.html", tmp_path / "data" / "report.html"]
    for page in pages:
        text = page.read_text()
        assert "<b>policy-1-cafecafe</b>live" in text
        assert f"<b>{report['promotions']}</b>promotions" in text
        assert f"<b>{report['true_win_rate']:.1%} ± " in text
        assert text.count("<section>") == len(report["samples"]) == 20
        assert f"the page of the run is in {page}" in ending.console.export_text(clear=False)


def test_a_report_that_its_page_would_overwrite_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"name r\.json"):
        check_report(tmp_path / "r.html")


def test_a_page_that_cannot_be_written_costs_the_page_only(engine: FakeEngine, tmp_path: Path) -> None:
    ending = Ending(engine, tmp_path, lambda: None)
    (tmp_path / "r.html").mkdir()
    ending.demo.run()
    assert ending.reported()["true_win_rate"] == 0.5
    said = ending.console.export_text()
    assert f"cannot be written to {tmp_path / 'r.html'}: Is a directory" in said
    assert (tmp_path / "data" / "report.html").exists()
