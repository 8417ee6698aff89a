"""What a learner has in its file is that of its checkpoint, whenever it dies, and nobody erased is in it."""

import dataclasses
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from feedback.joining.join import Joiner
from feedback.privacy.sealing import Sealer
from feedback.privacy.vault import Vault
from learner.state import checkpoint
from learner.state.memory import Memory, MemoryDamaged
from learner.votes.labels import LabelStore
from tests.feedback.examples import record
from tests.learner.test_labels import label
from tests.learner.test_sealed import SAID, about

WRITER = """
import sys, torch
from pathlib import Path
from learner.state import checkpoint
from learner.state.memory import Memory
folder = Path(sys.argv[1])
memory = Memory(folder)
step = memory.step or 0
while True:
    step += 1
    memory.raters["u"] = (0.5, step)
    memory.save_features({f"{step}-{i}": torch.full((2000,), float(step)).half() for i in range(20)}, [])
    checkpoint.save(folder, step, {"step": torch.tensor(step)}, {"step": step}, {}, memory.commit)
    memory.raters["u"] = (0.5, -1)  # of a turn that does not end
    print(step, flush=True)
"""


@pytest.fixture
def sealer(tmp_path: Path) -> Sealer:
    return Sealer(Vault(tmp_path / "vault", b"s" * 32))


@pytest.mark.parametrize("lines", [1, 2, 5, 9, 14])
def test_a_killed_learner_finds_the_memory_of_its_checkpoint(tmp_path: Path, lines: int) -> None:
    for life in (1, 2):
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        acknowledged = [int(writer.stdout.readline()) for _ in range(lines)][-1]
        os.kill(writer.pid, signal.SIGKILL)
        writer.wait()
        memory = Memory(tmp_path)
        found = checkpoint.load(tmp_path, memory.step)
        assert found is not None
        step = found[1]["step"]
        assert step == memory.step >= acknowledged >= lines * life
        assert memory.raters["u"] == (0.5, step)
        assert len(list(memory.features())) == 20 * step
        assert (tmp_path / "checkpoint").resolve().name == f"step-{step:08d}"
        memory.close()


def test_the_memory_says_which_checkpoint_counts(tmp_path: Path) -> None:
    def die(step: int) -> None:
        raise KeyboardInterrupt

    memory = Memory(tmp_path)
    assert checkpoint.load(tmp_path, memory.step) is None
    checkpoint.save(tmp_path, 1, {}, {"step": 1}, {}, memory.commit)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(tmp_path, 2, {}, {"step": 2}, {}, die)
    assert checkpoint.load(tmp_path, memory.step) == ({}, {"step": 1})
    memory.commit(2)  # died between this and the link
    assert checkpoint.load(tmp_path, memory.step) == ({}, {"step": 2})
    assert (tmp_path / "checkpoint").resolve().name == "step-00000002"
    memory.commit(3)
    with pytest.raises(checkpoint.CheckpointLost, match="no checkpoint 3"):
        checkpoint.load(tmp_path, memory.step)


def test_what_an_attempt_wrote_before_it_failed_is_undone_and_nothing_else(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    memory.raters["u"] = (0.5, 1)
    with pytest.raises(sqlite3.IntegrityError), memory.attempt():
        memory.raters.update({"u": (0.5, 2), "v": (None, 1)})  # type: ignore[dict-item]
    assert memory.raters["u"] == (0.5, 1)
    with memory.attempt():
        memory.raters["u"] = (0.5, 3)
    memory.commit(1)
    memory.close()
    assert Memory(tmp_path).raters["u"] == (0.5, 3)


def test_a_file_that_is_none_or_of_another_layout_is_told(tmp_path: Path) -> None:
    (tmp_path / "memory.db").write_bytes(b"no database" * 1000)
    with pytest.raises(MemoryDamaged, match="Move the folder"):
        Memory(tmp_path)


def test_only_what_changed_is_written_and_all_comes_back_in_order(tmp_path: Path, sealer: Sealer) -> None:
    store, memory = LabelStore(0.5, capacity=50), Memory(tmp_path)

    def save() -> int:
        changed, gone = store.changes()
        memory.save_labels(changed, gone, sealer)
        memory.commit(1)
        return len(changed) + len(gone)

    def restored() -> LabelStore:
        again = LabelStore(0.5, capacity=50)
        again.restore(store.summary(), memory.labels(sealer))
        return again

    store.add(label(i, rater=f"u_{i % 5}") for i in range(40))
    assert save() == 40
    store.add([label(3, revision=2, rater="u_3", value=0.0)])  # goes to the end
    assert save() == 1
    store.add(label(i, rater=f"u_{i % 5}") for i in range(40, 55))
    assert save() == 15 + 6  # the 51st made room, down to nine tenths
    assert save() == 0
    for each in (restored(), restored()):
        assert each.state() == store.state()
        assert (each.training, each.judging) == (store.training, store.judging)
        each.add([label(60)])
        assert len(each.changes()[0]) == 1
    store.erase("default", "u_3")
    assert save() == len([vote for vote in store.state()["labels"] if vote["rater"] == "u_3"])
    assert restored().state() == store.state()


def test_labels_lie_sealed_and_an_erasure_reaches_them(tmp_path: Path, sealer: Sealer) -> None:
    store, memory, joiner = LabelStore(0.0), Memory(tmp_path), Joiner(sealer=sealer)
    for name, user, word in (("c1", "u_ada", "Zanzibar"), ("c2", "u_bob", "marmalade")):
        for event in about(name, user, word):
            store.add(joiner.feed([record(sealer.seal(event))]))  # type: ignore[type-var]
    memory.save_labels(*store.changes(), sealer)
    memory.commit(1)
    kept = [row for _, row in memory.labels(sealer)]
    assert [row["comment"] for row in kept] == ["Zanzibar, please", "marmalade, please"]
    assert kept[0]["answers"][0]["token_ids"] == [515151, 2]
    raw = b"".join(path.read_bytes() for path in tmp_path.glob("memory.db*"))
    assert [word for word in SAID if word in raw] == []
    sealer.erase("default", "u_ada")
    assert [row["comment"] for _, row in memory.labels(sealer)] == [None, "marmalade, please"]


def test_what_was_deleted_leaves_no_trace(tmp_path: Path) -> None:
    memory = Memory(tmp_path)
    marked = torch.full((3000,), 0.8125).half()
    trace = marked.numpy().tobytes()[:200]
    memory.save_features({"a": marked, "b": torch.zeros(3000).half()}, [])
    memory.commit(1)

    def files() -> bytes:
        return b"".join(path.read_bytes() for path in tmp_path.glob("memory.db*"))

    assert trace in files()
    memory.save_features({}, ["a"])
    memory.scrub()
    memory.commit(2)
    assert trace not in files()
    assert [key for key, _ in memory.features()] == ["b"]


def test_a_lost_vote_is_told_once_and_not_of_a_vote_that_is_known() -> None:
    store = LabelStore(0.0)
    store.add([label(1)])
    store.take_news()
    store.lose("fb-1", 1)
    store.lose("fb-2", 7)
    again = LabelStore(0.0)
    again.restore(store.state())
    assert again.take_news() == store.take_news() == [("fb-2", 7, "discarded")]
    assert store.take_news() == []
    store.lose("fb-3", 1)
    store.add([dataclasses.replace(label(3), revision=2)])  # it came after all
    assert [state for _, _, state in store.take_news()] == ["training"]
