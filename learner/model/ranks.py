"""Several processes that compute one step together: data-parallel gradients of the adapter.

Each rank takes its share of the rows of every batch; what the shares add up to is summed over the ranks and
is then the same everywhere, so all of them take the same optimiser step and none has to send weights.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class RankGone(RuntimeError):
    """Another process ended, or was silent for half an hour: nothing can be computed together."""


class Ranks:
    """`rank` of `world` processes. One alone needs no other, and sums are what they are.

    A context manager, because a group has to be left before the interpreter ends: gloo's threads hold tensors
    for a while, and one that frees them when the interpreter is gone ends the process by SIGABRT
    (pytorch/pytorch#179291).
    """

    def __init__(self, rank: int = 0, world: int = 1) -> None:
        self.rank, self.world = rank, world

    @classmethod
    def join(cls) -> Self:
        """Meet the other processes that torchrun started, by gloo (or NCCL on GPUs); alone without it."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls()
        backend = "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
            backend = "cpu:gloo,cuda:nccl"  # sums of a few numbers stay on the CPU
        distributed.init_process_group(backend)
        return cls(distributed.get_rank(), distributed.get_world_size())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        """Leave the group. Whoever waits for this rank then is told so by `RankGone`.

        After an error on GPUs the end of the process does that: NCCL would wait for ranks that wait for us.
        """
        if self.world > 1 and (error is None or not torch.cuda.is_available()):
            distributed.destroy_process_group()

    @contextmanager
    def _together(self) -> Iterator[None]:
        """What needs the others: torch's errors, which have no type of their own, as `RankGone`."""
        try:
            yield
        except RuntimeError as error:
            reason = str(error).strip().partition("\n")[0]
            raise RankGone(f"rank {self.rank} of {self.world} has lost the others: {reason}") from error

    def share(self, ordered: Sequence[T]) -> list[T]:
        """This rank's part of rows ordered by length: every `world`-th, so that shares cost alike."""
        return list(ordered[self.rank :: self.world])

    def add_(self, *parts: Tensor) -> None:
        """Replace each part by its sum over all ranks. Deterministic: every rank gets the same bits.

        Raises `RankGone`.
        """
        if self.world > 1:
            with self._together():
                for part in parts:
                    distributed.all_reduce(part)

    def send(self, message: Any) -> None:
        """From rank 0 to all others, which `receive` it: anything that pickles. Raises `RankGone`."""
        if self.world > 1:
            with self._together():
                distributed.broadcast_object_list([message], src=0)

    def receive(self) -> Any:
        """What rank 0 sends next. Raises `RankGone`."""
        found: list[Any] = [None]
        with self._together():
            distributed.broadcast_object_list(found, src=0)
        return found[0]
