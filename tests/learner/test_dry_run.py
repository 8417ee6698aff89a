"""A dry run without an engine: it trains and compares as the learner does, and leaves nothing behind."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.engines.client import EngineError
from deploy.registry.registry import Registry
from feedback.core.events import COMPLETIONS, FEEDBACK, Completion
from feedback.core.log import Entry, Record
from feedback.opening import open_sealer
from feedback.sqlite.log import SqliteLog
from learner.dry_run import TOPICS, DryLog, DryRun, NoPrompts, Outcome, outcomes
from learner.loop.metrics import LearnerMetrics
from learner.model.shared import SharedModel
from learner.rollouts.sampling import RolloutSampler
from learner.settings import LearnerSettings, PPOSettings
from tests.feedback.examples import comparison, completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_refusing import PolicysEngine

PAIRS = 80


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    """Comparisons of answers to several prompts, of which those with a 7 are liked."""
    log = SqliteLog(tmp_path / "log.db")
    make_random_model(tmp_path / "model")
    for i in range(PAIRS):
        names = f"a{i}", f"b{i}"
        asked = [
            answered(name, [1, 10 + i % 8, 2], [first, 20 + i % 40])
            for name, first in zip(names, (7, 8), strict=True)
        ]
        put(log, [*map(record, asked), record(comparison(*names, 1.0, 1, rater=f"u_{i % 20}"))])
    yield log
    log.close()


def answered(name: str, prompt: list[int], answer: list[int]) -> Completion:
    found = completion(name).model_copy(deep=True)
    found.prompt_token_ids[:] = prompt
    found.choices[0].token_ids[:] = answer
    return found


def put(log: SqliteLog, records: list[Record]) -> None:
    log.append([Entry(each.topic, each.key, each.value) for each in records]).result()


def dry_run(log: SqliteLog, folder: Path, optimiser: str, **told: int) -> DryRun:
    """As `outcomes` makes one, but for the engine."""
    (folder / optimiser).mkdir()
    settings = LearnerSettings(
        data=folder / optimiser,
        model=str(folder / "model"),
        engine="http://127.0.0.1:9",
        optimiser=optimiser,
        ppo=PPOSettings(learning_rate=1e-2, critic_warmup_steps=0, epochs=1),
        **{"min_labels": 20, "rollouts_per_step": 8, "steps_per_candidate": 3, "gate_prompts": 8, **told},
    )
    found = DryRun(
        settings,
        DryLog(log),
        PolicysEngine.__new__(PolicysEngine),
        Registry(folder / "adapters"),
        SharedModel(settings.model, rank=4),
        LearnerMetrics(),
    )
    found.sampler = RolloutSampler(PolicysEngine(found), found.folder / "rollouts")
    return found


@pytest.mark.parametrize("optimiser", ["ppo", "dpo"])
def test_a_dry_run_trains_compares_and_leaves_the_log_as_it_was(
    log: SqliteLog, tmp_path: Path, optimiser: str
) -> None:
    before = log.end(TOPICS)
    dry = dry_run(log, tmp_path, optimiser)
    put(log, [record(completion("late")), record(thumb("late", 1.0, 2))])  # comes too late for it
    outcome = dry.run()
    assert outcome.gate is not None, outcome.sentence
    assert outcome.gate.prompts == 8
    assert outcome.gate.kl_nats_live > 0
    assert outcome.sentence
    assert (outcome.steps, outcome.undone) == (3, 0)
    assert outcome.votes == outcome.usable == len(dry.labels.training)
    assert outcome.votes + len(dry.labels.judging) == PAIRS
    assert 0 <= outcome.pair_accuracy <= 1
    assert optimiser == "ppo" or outcome.pair_accuracy > 0.8  # all like a 7
    after = log.end(TOPICS)
    assert {place: after[place] - at for place, at in before.items()} == {
        place: place.partition("/")[0] in (COMPLETIONS, FEEDBACK) for place in before
    }
    assert [*(tmp_path / "adapters").iterdir()] == []
    assert not (dry.folder / "checkpoint").exists()


def test_it_says_why_nothing_is_compared(log: SqliteLog, tmp_path: Path) -> None:
    outcome = dry_run(log, tmp_path, "dpo", min_labels=1000).run()
    assert (outcome.gate, outcome.passed, outcome.steps) == (None, False, 0)
    assert outcome.sentence == f"it can learn from {outcome.usable} votes, and min_labels is 1000"
    assert outcome.usable > 30
    thumbs = SqliteLog(tmp_path / "thumbs.db")
    for i in range(30):
        liked = record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i}"))
        put(thumbs, [record(answered(f"c{i}", [1, 5, 2], [7, 3 + i])), liked])
    outcome = dry_run(thumbs, tmp_path, "ipo", min_labels=5).run()
    assert (outcome.usable, outcome.gate) == (0, None)
    assert outcome.votes > 10
    assert math.isnan(outcome.pair_accuracy)
    with pytest.raises(NoPrompts, match="no prompts"):  # one prompt alone is on one side of the split
        dry_run(thumbs, tmp_path, "kto", min_labels=5).run()
    thumbs.close()


def test_one_after_the_other_and_nothing_is_left_in_the_data_folder(log: SqliteLog, tmp_path: Path) -> None:
    open_sealer(tmp_path)  # makes the secret that a service has
    Registry(tmp_path / "adapters")
    settings = LearnerSettings(
        data=tmp_path,
        model=str(tmp_path / "model"),
        engine="http://127.0.0.1:9",  # which is away
        products="float32",
        min_labels=1000,
    )
    before = sorted(tmp_path.iterdir())
    found = list(outcomes(settings, ["kto", "dpo"]))
    assert [each.optimiser for each in found] == ["kto", "dpo"]
    assert found[0].usable == found[1].usable == found[0].votes > 30
    assert sorted(tmp_path.iterdir()) == before
    with pytest.raises(EngineError):
        next(outcomes(dataclasses.replace(settings, min_labels=20), ["dpo"]))
    assert sorted(tmp_path.iterdir()) == before


def test_a_dry_log_ends_where_the_log_did(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    put(log, [record(completion("a")), record(thumb("a", 1.0, 1))])
    dry = DryLog(log)
    put(log, [record(completion("b")), record(thumb("b", 1.0, 2))])
    records, cursor = dry.read(TOPICS, {}, 1000)
    assert len(records) == 2
    assert dry.behind(TOPICS, cursor) == (0, 0.0)
    assert dry.behind(TOPICS, {})[0] == 2
    assert dry.read(TOPICS, cursor, 1000, 5.0)[0] == []
    dry.append([Entry(FEEDBACK, "k", b"x")]).result()
    dry.hold("learner", {}).result()
    assert len(log.read(TOPICS, {}, 1000)[0]) == 4
    log.close()


def test_what_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    from hearken.cli import main
    from hearken.operate.dry_run import as_row, table

    outcome = Outcome("dpo", 300, 12, 0, 0, math.nan, None, False, "it can learn from 12 votes", 3.2)
    lines = table([outcome, dataclasses.replace(outcome, optimiser="ppo", pair_accuracy=0.75)])
    assert lines[1].split() == ["dpo", "0", "0", "-", "-", "-", "-", "-", "3"]
    assert lines[2].split()[-2:] == ["0.750", "3"]
    assert "dpo, by 12 of 300 votes that train: not compared, it can learn from 12 votes" in lines
    assert as_row(outcome)["pair_accuracy"] is None
    assert main(["learn", "--optimiser", "dpo"]) == 2
    assert "say --dry-run" in capsys.readouterr().err
