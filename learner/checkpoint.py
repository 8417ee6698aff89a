"""Checkpoints that become visible in one rename: weights, optimisers, RNG, labels *and* log offsets.

    <folder>/step-00000041/tensors.pt   adapters, heads, optimisers, RNG states
                           state.json   cursor, joiner, label buffer, position in the loop; texts sealed
                           ledger.json  which votes were used, for anyone to check against the log
    <folder>/checkpoint -> step-00000041

The link moves with `os.replace`, so a reader sees the old checkpoint or the new one, whole. Whatever happened
after the checkpoint is read from the log again: that is how every vote counts exactly once.
"""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch

from feedback.files import Held, fsync, only_one

LINK = "checkpoint"


class LearnerBusy(RuntimeError):
    """Another learner holds this folder."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock while a learner runs; the kernel releases it however the process ends.

    Raises `LearnerBusy` when another process has it.
    """
    try:
        with only_one(folder / "lock"):
            yield
    except Held as held:
        raise LearnerBusy(
            f"another learner is running on {folder} (process {held.holder}); end it first"
        ) from None


def save(
    folder: Path, step: int, tensors: dict[str, Any], state: dict[str, Any], ledger: dict[str, Any]
) -> None:
    """Write checkpoint `step` and make it current; older ones are removed afterwards."""
    target = folder / f"step-{step:08d}"
    if target.exists():  # left by a crash between writing and linking
        shutil.rmtree(target)
    target.mkdir(parents=True)
    torch.save(tensors, target / "tensors.pt")
    (target / "state.json").write_bytes(orjson.dumps(state, option=orjson.OPT_NON_STR_KEYS))
    (target / "ledger.json").write_bytes(orjson.dumps(ledger))
    for file in target.iterdir():
        fsync(file)
    fsync(target)
    link = folder / f".{LINK}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, folder / LINK)
    fsync(folder)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def load(folder: Path) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(tensors, state) of the current checkpoint, or None before the first."""
    current = folder / LINK
    if not current.exists():
        return None
    tensors = torch.load(current / "tensors.pt", map_location="cpu", weights_only=True)
    return tensors, orjson.loads((current / "state.json").read_bytes())
