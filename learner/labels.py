"""The labels that the learner knows: a bounded replay buffer, split by rater, with a ledger of use."""

import dataclasses
import hashlib
from collections.abc import Iterable
from typing import Any

from feedback.join import Answer, Label

DIGEST_MODULUS = 2**256


def vote_number(event_id: str, revision: int) -> int:
    """A vote as a number, so that the sum over a set of votes identifies the set, whatever its order."""
    return int.from_bytes(hashlib.sha256(f"{event_id}.{revision}".encode()).digest())


def judges(rater: str, share: float) -> bool:
    """Whether a rater judges candidates rather than trains the reward model: a stable split by hash."""
    return int.from_bytes(hashlib.sha256(f"judge\0{rater}".encode()).digest()[:8]) < share * 2**64


class LabelStore:
    """The newest `capacity` labels by event id. A revised vote replaces its earlier revision."""

    def __init__(self, judge_share: float, capacity: int = 20_000) -> None:
        self._judge_share = judge_share
        self._capacity = capacity
        self._labels: dict[str, Label] = {}
        self.used = 0
        self._digest = 0

    def add(self, labels: Iterable[Label]) -> list[Label]:
        """Take joined labels; returns those that changed something."""
        changed = []
        for label in labels:
            old = self._labels.pop(label.event_id, None)
            if old is not None and old.revision >= label.revision:
                self._labels[label.event_id] = old
                continue
            if old is not None:
                self._digest -= vote_number(old.event_id, old.revision)
            else:
                self.used += 1
            self._digest = (self._digest + vote_number(label.event_id, label.revision)) % DIGEST_MODULUS
            self._labels[label.event_id] = label
            changed.append(label)
        while len(self._labels) > self._capacity:
            del self._labels[next(iter(self._labels))]
        return changed

    def is_judging(self, label: Label) -> bool:
        """Whether a label belongs to the judging side of the split."""
        return judges(label.rater, self._judge_share)

    @property
    def training(self) -> list[Label]:
        """Labels of the raters who train the reward model, oldest first."""
        return [label for label in self._labels.values() if not self.is_judging(label)]

    @property
    def judging(self) -> list[Label]:
        """Labels of the raters who judge candidates, oldest first."""
        return [label for label in self._labels.values() if self.is_judging(label)]

    def ledger(self) -> dict[str, Any]:
        """How many votes were used and the order-independent digest of them (see `vote_number`)."""
        return {"labels": self.used, "digest": f"{self._digest:064x}"}

    def state(self) -> dict[str, Any]:
        """A JSON-able copy of everything."""
        labels = [dataclasses.asdict(label) for label in self._labels.values()]
        return {"labels": labels, "used": self.used, "digest": f"{self._digest:064x}"}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state()` described."""
        self._labels = {}
        for row in state["labels"]:
            answers = tuple(
                Answer(
                    **{
                        **answer,
                        "prompt_token_ids": tuple(answer["prompt_token_ids"]),
                        "token_ids": tuple(answer["token_ids"]),
                    }
                )
                for answer in row["answers"]
            )
            self._labels[row["event_id"]] = Label(**{**row, "answers": answers})
        self.used = state["used"]
        self._digest = int(state["digest"], 16)
