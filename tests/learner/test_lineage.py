"""A candidate names the version that its weights went on from, which need not be the one that serves."""

import dataclasses
from pathlib import Path

from feedback.sqlite.log import SqliteLog
from learner.loop.parts import Place
from learner.loop.saving import _place
from tests.learner.conftest import make_random_model
from tests.learner.test_loop import learner


def test_weights_come_from_live_after_a_way_back_and_from_the_last_offer_else(tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    log = SqliteLog(tmp_path / "log.db")
    known = learner(log, tmp_path, str(tmp_path / "model"))
    assert known.place.grew_from == "base"
    known.place.grew_from = "policy-2-bb"  # was offered, was no better, and is trained on
    known.save()
    known.memory.close()
    again = learner(log, tmp_path, str(tmp_path / "model"))
    assert again.resume()
    assert again.place.grew_from == "policy-2-bb"
    again.place.live = "policy-1-aa"
    again.go_back_to_live()
    assert again.place.grew_from == "policy-1-aa"
    log.close()


def test_a_checkpoint_of_before_knows_no_lineage() -> None:
    saved = dataclasses.asdict(Place(turn=3))
    del saved["grew_from"]
    assert _place(saved).grew_from is None
