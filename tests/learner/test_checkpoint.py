"""Checkpoints become visible whole or not at all, and one learner at a time writes them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from learner.state import checkpoint

WRITER = """
import sys, torch
from pathlib import Path
from learner.state import checkpoint
folder = Path(sys.argv[1])
step = 0
while True:
    step += 1
    value = torch.full((200_000,), float(step))
    checkpoint.save(folder, step, {"value": value}, {"step": step}, {"labels": step})
    print(step, flush=True)
"""


def test_nothing_to_load_before_the_first(tmp_path: Path) -> None:
    assert checkpoint.load(tmp_path) is None


def test_the_newest_is_loaded_and_older_ones_are_gone(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        checkpoint.save(
            tmp_path, step, {"w": torch.tensor([step])}, {"cursor": {"a/0": step}}, {"labels": step}
        )
    found = checkpoint.load(tmp_path)
    assert found is not None
    tensors, state = found
    assert tensors["w"].item() == 3
    assert state == {"cursor": {"a/0": 3}}
    assert [path.name for path in tmp_path.glob("step-*")] == ["step-00000003"]
    assert (tmp_path / "checkpoint" / "ledger.json").read_text() == '{"labels":3}'


@pytest.mark.parametrize("lines", [1, 2, 5, 9])
def test_a_killed_writer_leaves_a_whole_checkpoint(tmp_path: Path, lines: int) -> None:
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    assert writer.stdout is not None
    acknowledged = [int(writer.stdout.readline()) for _ in range(lines)][-1]
    os.kill(writer.pid, signal.SIGKILL)  # in the middle of a later one
    writer.wait()
    found = checkpoint.load(tmp_path)
    assert found is not None
    tensors, state = found
    assert state["step"] >= acknowledged
    assert torch.equal(tensors["value"], torch.full((200_000,), float(state["step"])))


def test_a_second_learner_is_turned_away_until_the_first_is_gone(tmp_path: Path) -> None:
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time\nfrom pathlib import Path\nfrom learner.state.checkpoint import exclusive\n"
            "with exclusive(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()",
            str(tmp_path),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(checkpoint.LearnerBusy, match="another learner"), checkpoint.exclusive(tmp_path):
        pass
    holder.kill()
    holder.wait()
    with checkpoint.exclusive(tmp_path):
        pass
