"""`hearken watch`: one frame of a service, from its log and over HTTP, and a view that ends on Ctrl-C."""

import dataclasses
import io
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from hearken.base.errors import UsageError
from hearken.cli import main
from hearken.live.frame import render, small_line
from hearken.live.sources import Away, OverHttp, Seen, Traffic
from hearken.live.view import VARIABLE
from tests.deploy.world import World, controlled
from tests.serve.conftest import Gateway, eventually, serving
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_access import add_key
from tests.serve.test_learning import learned
from tests.servers import free_ports

ROOT = Path(__file__).parents[2]
SERIES: dict[str, Any] = {
    "kl_nats": [[1.0, 1.5]], "kl_budget_nats": [[1.0, 6.0]], "reward": [[1.0, 0.0], [2.0, 0.7]],
    "accuracy": [[1.0, 0.8]], "entropy_nats": [], "response_tokens": [[1.0, 41.0]], "cut_off": [],
}  # fmt: skip
SEEN = Seen(
    where="http://chat",
    at=1_700_000_000.0,
    learning={
        "sentence": "12 votes since Monday; nothing to do.",
        "to_do": ["Resume releases."],
        "steps": {"count": 9, "votes_used": 1234, "series": SERIES},
    },
    state={
        "stage": "canary", "live": "base", "canary": "policy-1-00000000", "control": "base", "weight": 0.25,
        "waiting": "policy-2-00000000",
        "evidence": {"tests": {"promote": {"evidence": 7.5, "bound": 20.0}}},
    },
    why=["It needs [votes]."],
    decisions=[{"at": 1_700_000_000.0, "sentence": "Started it."}],
    traffic=Traffic(1200, 3, 77, 2.5, 90.0),
)  # fmt: skip


def drawn(seen: Seen, trouble: str = "") -> str:
    output = io.StringIO()
    Console(file=output, width=110).print(render(seen, trouble))
    return output.getvalue()


def test_a_frame_shows_words_release_learner_traffic_and_decisions() -> None:
    frame = drawn(SEEN)
    for part in ("http://chat at ", "12 votes since Monday; nothing to do.", "To do: Resume releases.",
                 "policy-1-00000000 for 25% of users", "7.5 of 20", "policy-2-00000000", "It needs [votes].",
                 "9, the newest after 1,234 votes", "1.50 of 6.0 nats", "▁█ +0.70", "41", "80%",
                 "1,200   2.5 a second   90 tokens a second", "77", "Started it."):  # fmt: skip
        assert part in frame, part
    assert "evidence of harm" not in frame


@pytest.mark.parametrize(
    ("changed", "there"),
    [
        ({"state": {"stage": None, "live": None}}, "live              base"),
        (
            {"state": {"stage": "holdback", "live": "b", "canary": "b", "control": "a", "weight": 0.1}},
            "a is kept",
        ),
        ({"traffic": None}, "Started it."),
        ({"decisions": []}, "1,200"),
        ({"traffic": Traffic(0, 0, 0, None, None)}, "0   - a second   - tokens a second"),
    ],
)
def test_a_frame_can_always_be_drawn(changed: dict[str, Any], there: str) -> None:
    assert there in drawn(dataclasses.replace(SEEN, **changed))


def test_what_is_old_says_so_and_a_learner_without_steps_too() -> None:
    none = {name: [] for name in SERIES}
    learning = SEEN.learning | {"steps": {"count": 0, "votes_used": None, "series": none}}
    frame = drawn(dataclasses.replace(SEEN, learning=learning), "http://chat does not answer")
    assert "http://chat does not answer; trying again" in frame
    assert "no step of the learner is in the log yet" in frame


def test_a_small_line_goes_from_the_least_to_the_most() -> None:
    assert small_line([]) == ""
    assert small_line([2.0, 2.0]) == "▄▄"
    assert small_line([0.0, 7.0, 3.0]) == "▁█▄"
    assert small_line([float(n) for n in range(800)], 8) == "▁▂▃▄▅▆▇█"
    assert len(small_line([0.0] * 41, 40)) == 40


def test_a_folder_is_watched_by_its_log(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.now = time.time()
    version = world.offer().version
    world.pass_time(until="started", users=0)
    learned(world, 2)
    assert main(["watch", str(world.folder), "--once"]) == 0
    frame = capsys.readouterr().out
    for part in (str(world.folder), f"{version} for 5% of users", "evidence of harm", "No votes since",
                 "2, the newest after 20 votes", "0.50 of 6.0 nats", "Started the canary"):  # fmt: skip
        assert part in frame, part
    assert "completions" not in frame


@contextmanager
def served(world: World, **fields: Any) -> Iterator[Gateway]:
    engine = FakeVllm().start()
    with serving(world.folder, world.log, world.shared, (engine.url,), **fields) as gateway:
        eventually(gateway.is_ready, "the gateway is ready")
        yield gateway
    engine.stop()


def test_a_gateway_is_watched_with_an_operators_key(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    chatter, operator = (add_key(tmp_path / "keys.json", [scope]) for scope in ("chat", "operate"))
    with served(world) as gateway, controlled(world):
        eventually(lambda: world.outcomes, "the controller has begun")
        for key, words in (
            (None, "wants a key of the scope operate, in $HEARKEN_KEY"),
            (chatter, "has no scope"),
        ):
            if key is not None:
                monkeypatch.setenv(VARIABLE, key)
            assert main(["watch", gateway.url, "--once"]) == 1
            assert words in capsys.readouterr().err
        monkeypatch.setenv(VARIABLE, operator)
        assert main(["watch", gateway.url + "/", "--once"]) == 0
    frame = capsys.readouterr().out
    for part in (f"{gateway.url} at ", "No votes since", "this gateway, since it began", "base has served"):
        assert part in frame, part


def test_rates_are_those_between_two_looks_and_a_gateway_that_left_is_away(world: World) -> None:
    with served(world) as gateway, controlled(world):
        source = OverHttp(gateway.url, None)
        first = source.look().traffic
        for _ in range(3):
            assert gateway.chat().status_code == 200
        eventually(lambda: gateway.metric('hearken_completions_total{arm="live"}') == 3, "they are counted")
        second = source.look().traffic
        assert first is not None
        assert second is not None
        assert (first.completions, first.completions_per_second) == (0, None)
        assert second.completions == 3
        assert second.completions_per_second is not None
        assert second.completions_per_second > 0
    with pytest.raises(Away, match="does not answer"):
        source.look()
    source.close()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["ftp://chat.example.com"], 2, "is no address of a gateway"),
        (["--every", "0"], 2, "no number of seconds"),
        (["/nowhere/at/all"], 2, "is not a service's data folder"),
    ],
)
def test_what_cannot_be_watched_is_said(
    argv: list[str], code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        found = main(["watch", *argv, "--once"])
    except SystemExit as refused:
        found = refused.code  # type: ignore[assignment]
    assert found == code
    assert words in capsys.readouterr().err


def test_nobody_there_is_one_clear_line(capsys: pytest.CaptureFixture[str]) -> None:
    port = free_ports(1)
    assert main(["watch", f"http://127.0.0.1:{port}", "--once"]) == 1
    assert f"hearken: http://127.0.0.1:{port} does not answer" in capsys.readouterr().err


def test_another_service_is_told_from_a_gateway(world: World) -> None:
    engine = FakeVllm().start()
    source = OverHttp(engine.url, None)
    with pytest.raises(UsageError, match="has no /v1/releases: is it a gateway"):
        source.look()
    source.close()
    engine.stop()


def test_ctrl_c_ends_a_view_and_leaves_the_terminal_as_it_was(world: World) -> None:
    world.tick()
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "hearken", "watch", str(world.folder), "--every", "0.1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=theirs, stderr=subprocess.PIPE)
    os.close(theirs)
    seen = b""
    while b"why" not in seen:  # a frame is there; the read ends with OSError where the process has ended
        seen += os.read(ours, 4096)
    process.send_signal(signal.SIGINT)
    try:
        while piece := os.read(ours, 4096):
            seen += piece
    except OSError:
        pass  # the other end is closed
    assert process.wait(timeout=60) == 0
    assert process.stderr is not None
    assert process.stderr.read() == b""
    process.stderr.close()
    os.close(ours)
    assert seen.count(b"\x1b[?25l") == seen.count(b"\x1b[?25h") == 1, (
        "the cursor is hidden once and shown again"
    )
    assert seen.rindex(b"\x1b[?25h") > seen.rindex(b"why")
