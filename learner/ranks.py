"""Several processes that compute one step together: data-parallel gradients of the adapter.

Each rank takes its share of the rows of every batch; what the shares add up to is summed over the ranks and
is then the same everywhere, so all of them take the same optimiser step and none has to send weights.
"""

import os
from collections.abc import Sequence
from typing import Any, Self, TypeVar

import torch
from torch import Tensor, distributed

T = TypeVar("T")


class Ranks:
    """`rank` of `world` processes. One alone needs no other, and sums are what they are."""

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

    def share(self, ordered: Sequence[T]) -> list[T]:
        """This rank's part of rows ordered by length: every `world`-th, so that shares cost alike."""
        return list(ordered[self.rank :: self.world])

    def add_(self, *parts: Tensor) -> None:
        """Replace each part by its sum over all ranks. Deterministic: every rank gets the same bits."""
        if self.world > 1:
            for part in parts:
                distributed.all_reduce(part)

    def send(self, message: Any) -> None:
        """From rank 0 to all others, which `receive` it: anything that pickles."""
        if self.world > 1:
            distributed.broadcast_object_list([message], src=0)

    def receive(self) -> Any:
        """What rank 0 sends next. Raises `RuntimeError` when it is gone, or silent for half an hour."""
        found: list[Any] = [None]
        distributed.broadcast_object_list(found, src=0)
        return found[0]
