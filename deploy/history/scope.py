"""What a comparison is about: which completions belong to it, and on which side each of them is."""

from dataclasses import dataclass
from typing import Literal

Bucket = Literal["canary", "control"]
Side = Literal["new", "old"]


@dataclass(frozen=True, slots=True)
class Scope:
    """Completions served from `first_epoch` on by two versions: `canary`, the new one, and `control`."""

    first_epoch: int
    canary: str
    control: str

    def bucket(self, arm: str, version: str, epoch: int) -> Bucket | None:
        """The bucket of a completion, or None when it is in neither of the two equal buckets.

        The version is checked too: where a gateway served another one, a vote says nothing about the arm.
        """
        if epoch < self.first_epoch:
            return None
        if arm == "canary" and version == self.canary:
            return "canary"
        return "control" if arm == "control" and version == self.control else None

    def side(self, version: str, epoch: int) -> Side | None:
        """The side of a completion, whatever its arm: live serves the version of one bucket as well."""
        if epoch < self.first_epoch:
            return None
        if version == self.canary:
            return "new"
        return "old" if version == self.control else None
