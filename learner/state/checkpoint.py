"""Checkpoints that become current in one instant: weights, optimisers, RNG, labels *and* log offsets.

    <folder>/step-00000041/tensors.pt   adapters, heads, optimisers, RNG states
                           state.json   cursor, position in the loop, rollouts that are watched; texts sealed
                           ledger.json  which votes were used, for anyone to check against the log
    <folder>/memory.db                  labels, joins, raters, features, and the number of their checkpoint
    <folder>/checkpoint -> step-00000041

First a checkpoint's folder is written, then the memory commits what changed together with the checkpoint's
number (see `learner.state.memory`): from then on it counts. The link is for other readers and follows, with
`os.replace`; `load` makes up for a process that died in between. Whatever happened after the checkpoint is
read from the log again: that is how every vote counts exactly once.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch

from feedback.core.files import Held, fsync, only_one

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


class CheckpointLost(RuntimeError):
    """The memory is of a checkpoint that is not there."""


def save(
    folder: Path,
    step: int,
    tensors: dict[str, Any],
    state: dict[str, Any],
    ledger: dict[str, Any],
    commit: Callable[[int], object] = lambda step: None,
) -> None:
    """Write checkpoint `step` and make it current, with what `commit(step)` commits.

    Older ones are removed afterwards.
    """
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
    fsync(folder)
    commit(step)
    _link(folder, target)
    for old in folder.glob("step-*"):
        if old != target:
            shutil.rmtree(old)


def _link(folder: Path, target: Path) -> None:
    link = folder / f".{LINK}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, folder / LINK)
    fsync(folder)


def load(folder: Path, step: int | None = None) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """(tensors, state) of the current checkpoint, or None before the first.

    step: which one is current, where a memory says so; the link says it else. Raises `CheckpointLost`.
    """
    current = folder / LINK
    target = current if step is None else folder / f"step-{step:08d}"
    if current.exists() and not target.exists():
        raise CheckpointLost(
            f"{folder} has no checkpoint {step}, of which its memory is; was a part of the folder put back? "
            "Move the folder away, and the learner learns anew from the log"
        )
    if target.exists() and current.resolve() != target.resolve():
        _link(folder, target)
    if not current.exists():
        return None
    tensors = torch.load(current / "tensors.pt", map_location="cpu", weights_only=True)
    return tensors, orjson.loads((current / "state.json").read_bytes())
