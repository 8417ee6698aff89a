"""Joining feedback to the completions that it is about, in whatever order the two arrive."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from feedback.core.decoded import DecodedCompletion
from feedback.core.events import COMPLETIONS, FEEDBACK, Feedback, Target
from feedback.core.log import Record
from feedback.joining.canonical import canonical
from feedback.joining.labels import Answer, Label, make_label
from feedback.joining.memory import Gone, Joins, Window
from feedback.joining.opened import Opener, Unreadable, name_of
from feedback.privacy.sealing import Sealer

__all__ = ["Answer", "Joiner", "Label", "canonical"]

Sees = Callable[[bytes, DecodedCompletion | None], object]
"""Told of each completion as it lies in the log, useless and repeated ones included, before votes are joined
to it. None: only `Completion` can say what it is."""


class Joiner:
    """Folds the records of COMPLETIONS and FEEDBACK into labels.

    The same records in any order, split or repeated, end in the same last label per `event_id`, as long as
    what they are about is remembered. By itself a joiner remembers the newest `window` completions, and four
    times as many votes; with `joins` it remembers what those do. `poison` counts the records that could not
    be used, `lost` has the votes that never can be: what they are about is no longer in the log.

    A team's own id means the newest completion of its tenant with that id up to the time of the vote, an
    episode means all its completions up to then; and either means the first one, if the vote overtook all.
    That can change with what arrives late, so such a label may come again, with other answers.

    With a `sealer` the answers have their texts and token ids, without one only what evidence needs.
    """

    def __init__(
        self, window: int = 50_000, sealer: Sealer | None = None, joins: Joins | None = None
    ) -> None:
        self.poison = 0
        self.lost: list[Feedback] = []  # for whoever reads them to empty
        self.refused: Callable[[Record, str], object] | None = None  # told of each record that is of no use
        self.sees: Sees | None = None
        self._opener = Opener(sealer)
        self._joins: Joins = Window(window, self._opener) if joins is None else joins

    @property
    def completions(self) -> Mapping[str, tuple[Answer, ...]]:
        """The newest completions, oldest first: completion id -> its choices."""
        return self._joins.recent()

    def feed(self, records: Iterable[Record]) -> list[Label]:
        """The labels that these records completed, revised or retracted, the newest one per `event_id`.

        Raises `CompletionsUnavailable` when `joins` cannot read one that it needs.
        """
        self._joins.look_again()
        labels: dict[str, Label] = {}
        for record in records:
            for label in self._labels(record):
                labels.pop(label.event_id, None)
                labels[label.event_id] = label
        return list(labels.values())

    def feed_one(self, record: Record) -> list[Label]:
        """The labels that a record completed, revised or retracted; as `feed` otherwise."""
        self._joins.look_again()
        return self._labels(record)

    def _labels(self, record: Record) -> list[Label]:
        found = []
        for vote in self._take(record):
            label = self._label(vote)
            if label is not None:
                self._joins.joined(vote)
                found.append(label)
        return found

    def _take(self, record: Record) -> list[Feedback]:
        """Remember one record. Gives the votes that it may have completed."""
        if self.sees is not None and record.topic == COMPLETIONS:
            self.sees(record.value, self._opener.decoded(record.value))
        try:
            if record.topic == COMPLETIONS:
                return self._take_completion(record)
            if record.topic == FEEDBACK:
                return self._take_vote(record.value)
        except ValueError as error:  # pydantic's too: it does not parse, or its targets make no sense
            self._refuse(record, str(error))
        return []

    def _refuse(self, record: Record, reason: str) -> None:
        self.poison += 1
        if self.refused is not None:
            self.refused(record, reason)

    def forget_texts(self, tenant: str, user: str) -> None:
        """Drop the texts and token ids of a user's completions and votes; that they were stays known."""
        self._joins.forget_texts(tenant, user)

    def _take_completion(self, record: Record) -> list[Feedback]:
        head = self._opener.head(record.value)
        if not self._joins.add(head, record):
            return []
        found = self._joins.waiting(("id", "", head.completion_id))
        for name in head.names:
            found += self._joins.waiting(name)  # which go on waiting: the next one may matter as well
        return found

    def _take_vote(self, value: bytes) -> list[Feedback]:
        vote = canonical(self._opener.vote(value))
        return [vote] if self._joins.put(vote, value) else []

    def _label(self, vote: Feedback) -> Label | None:
        found: list[Answer] = []
        for target in vote.targets:
            try:
                answers = self._resolve(vote, target)
            except Gone:
                answers = []
                if vote.kind != "retraction":
                    self.lost.append(vote)
            if not answers:  # a retraction counts all the same: what it takes back may be known elsewhere
                return make_label(vote, ()) if vote.kind == "retraction" else None
            found += answers
        return make_label(vote, tuple(found))

    def _resolve(self, vote: Feedback, target: Target) -> list[Answer]:
        """The answers that a target means, [] while there are none. Raises `Gone`."""
        name = name_of(vote.tenant, target)
        if name[0] == "id":
            return self._choice(vote, self._answers(target.completion_id), target.choice)
        named = self._joins.named(name)
        # Whether there is one must not depend on the vote's time: a revision replaces the one before.
        before = [each for each in named if each[0] <= vote.at] or named[:1]
        if name[0] == "external":
            return self._choice(vote, self._answers(before[-1][1]), target.choice) if before else []
        found = [answers[0] for _, completion_id in before if (answers := self._known(completion_id))]
        if before and not found:
            raise Gone(target.episode_id)
        return found

    def _known(self, completion_id: str) -> tuple[Answer, ...] | None:
        """The same without those that are gone: an episode may have lost its beginning."""
        try:
            return self._answers(completion_id)
        except Gone:
            return None

    def _answers(self, completion_id: str) -> tuple[Answer, ...] | None:
        try:
            return self._joins.answers(completion_id)
        except Unreadable as error:
            self._refuse(error.record, str(error))
            return ()

    def _choice(self, vote: Feedback, completion: tuple[Answer, ...] | None, choice: int) -> list[Answer]:
        if completion is None:
            return []
        found = [a for a in completion if a.choice == choice and a.tenant == vote.tenant]
        if not found:
            self.poison += 1
        return found

    def state(self) -> dict[str, Any]:
        """All of it as JSON types, for a checkpoint; of `joins` in a file only what is not there."""
        return {**self._joins.state(), "poison": self.poison}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], sealer: Sealer | None = None) -> "Joiner":
        """A joiner without `joins` that goes on where `state()` was taken."""
        joiner = cls(state["window"], sealer)
        joiner.poison = state["poison"]
        window = Window(state["window"], joiner._opener)
        window.restore(state)
        joiner._joins = window
        return joiner
