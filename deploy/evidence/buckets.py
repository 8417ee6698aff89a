"""How many users came to each bucket: the sample ratio, of all so far and of the last minutes.

A gateway that loses a canary's users is seen by nobody but this count. Over all that ever came a loss that
begins late hides for long, so users are counted anew in every `BLOCK_SECONDS` of the events' time as well.
Each block is a test of its own with a share of the error: alpha / 2 for the whole, alpha / (2 k (k + 1)) for
the k-th block, which sum up to alpha.
"""

from deploy.evidence.comparing import Failure, equal_buckets
from deploy.history.scope import Bucket

BLOCK_SECONDS = 600.0
BLOCKS = 2
"""Blocks that are counted at a time: events come a little late."""

MAX_COUNTED = 200_000
"""Users counted, at most, of both buckets. The first ones: a cut in time is fair to both."""


class _Count:
    def __init__(self) -> None:
        self.users: dict[Bucket, set[str]] = {"canary": set(), "control": set()}
        self._counted = 0

    def add(self, bucket: Bucket, user: str) -> None:
        users = self.users[bucket]
        if self._counted < MAX_COUNTED and user not in users:
            users.add(user)
            self._counted += 1

    def failure(self, alpha: float) -> Failure | None:
        return equal_buckets(len(self.users["canary"]), len(self.users["control"]), alpha)


class Buckets:
    """The users of both buckets since the stage began."""

    def __init__(self) -> None:
        self._all = _Count()
        self._blocks: dict[int, _Count] = {}
        self._first: int | None = None

    def add(self, bucket: Bucket, user: str, at: float) -> None:
        """Count a user who was served at a time (Unix seconds)."""
        self._all.add(bucket, user)
        number = int(at // BLOCK_SECONDS)
        self._first = number if self._first is None else min(self._first, number)
        self._blocks.setdefault(number, _Count()).add(bucket, user)
        if len(self._blocks) > BLOCKS:
            del self._blocks[min(self._blocks)]

    def users(self, bucket: Bucket) -> int:
        """How many users came to a bucket so far."""
        return len(self._all.users[bucket])

    def failure(self, alpha: float) -> Failure | None:
        """The mismatch, if there is one. alpha: the chance of ever finding one where there is none."""
        found = self._all.failure(alpha / 2)
        for number in sorted(self._blocks):
            if found is None:
                k = number - (self._first or 0) + 1
                found = self._blocks[number].failure(alpha / (2 * k * (k + 1)))
        return found
