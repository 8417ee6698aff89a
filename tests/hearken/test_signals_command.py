"""`hearken signals try` shows what a file makes of the log; one that means nothing is refused everywhere."""

import json
import random
from pathlib import Path
from typing import Any

import pytest

from feedback.core.events import Completion, Feedback, Target
from feedback.core.ids import vote_id
from feedback.core.log import Entry
from feedback.core.secret import load_secret
from feedback.opening import open_log
from hearken.cli import main
from hearken.config.assemble import assemble
from hearken.config.check import problems
from hearken.config.layers import Given
from tests.feedback.examples import completion, record, thumb

FILE = """
[saved]
direction = "higher"
[shared]
direction = "learned"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A service whose users saved the answers that they like more often than others."""
    folder = tmp_path / "data"
    folder.mkdir()
    load_secret(folder / "secret")
    draw, events = random.Random(1), list[Completion | Feedback]()
    for i in range(120):
        likes = i % 2 == 0
        saved = draw.random() < (0.8 if likes else 0.2)
        events += [
            completion(f"c{i}"),
            thumb(f"c{i}", float(likes), revision=1),
            signal("saved", f"c{i}", saved),
            signal("shared", f"c{i}", True),
        ]
    events += [signal("clicked", "c1", True), signal("saved", "c120", True, shown=False), completion("c120")]
    log = open_log(folder, None, "test")
    entries = [record(event) for event in events]
    log.append([Entry(each.topic, each.key, each.value) for each in entries]).result()
    log.close()
    return folder


def signal(name: str, target: str, happened: bool, shown: bool = True) -> Feedback:
    return Feedback(
        event_id=vote_id("default", "u_ada", f"signal:{name}", [(target, 0)]),
        at=3.0,
        revision=1,
        kind="signal",
        rater="u_ada",
        targets=[Target(completion_id=target)],
        value=0.5,
        label=("yes" if happened else "no") if shown else "not_shown",
        name=name,
        amount=float(happened) if shown else None,
        shown=shown,
    )


def tried(data: Path, text: str, *more: str) -> int:
    file = data / "signals.toml"
    file.write_text(text)
    return main(["signals", "try", str(file), "--data", str(data), *more])


def test_a_file_is_held_against_the_votes_in_the_log(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tried(data, FILE, "--json") == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert found["without_meaning"] == {"clicked": 1}
    assert found["not_shown"] == 1
    saved, shared = found["signals"]
    assert (saved["name"], saved["events"], saved["beside_votes"]) == ("saved", 120, 120)
    assert saved["agreement"] == pytest.approx(0.6, abs=0.15)
    assert 0.3 < saved["weight"] < saved["agreement"]
    assert (shared["happened"], shared["weight"]) == (1.0, 0.0)
    assert tried(data, FILE) == 0
    told = capsys.readouterr().out
    assert "shared: always or never happened" in told
    assert "clicked (1)" in told


def test_what_happens_less_to_good_answers_is_told_as_it_happened(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tried(data, '[saved]\ndirection = "lower"', "--json") == 0
    (saved,) = json.loads(capsys.readouterr().out)["signals"]
    assert saved["happened"] == pytest.approx(0.5, abs=0.1)
    assert saved["agreement"] < -0.4
    assert saved["weight"] == 0.0


def test_a_file_that_means_nothing_is_refused_by_every_command(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tried(data, '[saved]\ndirection = "up"') == 2
    assert "direction must be one of higher, lower, learned" in capsys.readouterr().err
    given = {"learner.signals": Given(data / "signals.toml", "hearken.toml:3")}
    (problem,) = problems(assemble([given], None))
    assert problem.startswith("hearken.toml:3: the signals file")


def test_a_log_without_signals_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    load_secret(tmp_path / "secret")
    assert tried(tmp_path, FILE) == 0
    assert "There are no signals in the log" in capsys.readouterr().out
