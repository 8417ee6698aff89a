"""Checkpoints that become visible in one rename: weights, optimisers, RNG, labels *and* log offsets.

    <folder>/step-00000041/tensors.pt   adapters, heads, optimisers, RNG states
                           state.json   cursor, joiner, label buffer, position in the loop
                           ledger.json  which votes were used, for anyone to check against the log
    <folder>/checkpoint -> step-00000041

The link moves with `os.replace`, so a reader sees the old checkpoint or the new one, whole. Whatever happened
after the checkpoint is read from the log again: that is how every vote counts exactly once.
"""

import fcntl
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import torch

LINK = "checkpoint"


class LearnerBusy(RuntimeError):
    """Another learner holds this folder."""


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the folder's lock while a learner runs; the kernel releases it however the process ends.

    Raises `LearnerBusy` when another process has it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise LearnerBusy(f"another learner is running on {folder}; end it first") from error
        yield


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
        _sync(file)
    _sync(target)
    link = folder / f".{LINK}.new"
    link.unlink(missing_ok=True)
    link.symlink_to(target.name)
    os.replace(link, folder / LINK)
    _sync(folder)
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
