"""The labels that the learner knows: a bounded replay buffer, split by rater, with a ledger of use."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import islice
from typing import Any

from feedback.core.events import WORDS_OF_VOTES
from feedback.joining.labels import Answer, Label
from feedback.updates.usage import State
from learner.votes.deeds import deeds
from learner.votes.label_rows import label_of, row_of
from learner.votes.meanings import BUILTIN, Meanings
from learner.votes.objectives import Deed
from learner.votes.reliability import MODEL
from learner.votes.reservoir import surplus
from learner.votes.signals import Tokenize, shows, signals

DIGEST_MODULUS = 2**256


def vote_number(event_id: str, revision: int) -> int:
    """A vote as a number, so that the sum over a set of votes identifies the set, whatever its order."""
    return int.from_bytes(hashlib.sha256(f"{event_id}.{revision}".encode()).digest())


@lru_cache(maxsize=1 << 16)  # every turn asks it of every vote
def judges(rater: str, share: float) -> bool:
    """Whether a rater judges candidates rather than trains the reward model: a stable split by hash."""
    return int.from_bytes(hashlib.sha256(f"judge\0{rater}".encode()).digest()[:8]) < share * 2**64


class LabelStore:
    """At most `capacity` votes by event id, and as many signals: the newest, and a sample of those before
    (`learner.votes.reservoir`). Signals come in far greater numbers, and take no vote's place.

    A revised vote replaces its earlier revision.

    A retracted vote stays as a mark that it must not come back; comments and what else nobody can train on
    now stay as they are, for those who can. `tokenize` gives the token ids of an answer that a rater wrote;
    `meanings` says what signals are about.
    """

    def __init__(
        self,
        judge_share: float,
        capacity: int = 20_000,
        tokenize: Tokenize | None = None,
        meanings: Meanings = BUILTIN,
    ) -> None:
        self._judge_share = judge_share
        self._capacity = capacity
        self._tokenize, self._meanings = tokenize, meanings
        self._labels: dict[str, Label] = {}
        self._signals: dict[str, tuple[Label, ...]] = {}  # by event id; those that have any
        self._deeds: dict[str, tuple[Deed, ...]] = {}  # the same of what people did
        self._slopes: dict[str, float] = {}  # what deeds weigh that weigh anything, by name
        self._sizes = Counter[bool]()  # of labels: signals, and votes
        self._erased: set[tuple[str, str]] = set()  # tenant and pseudonym
        self._waiting: Mapping[str, str] = {}  # event id -> why its vote is in quarantine
        self._news: dict[str, int] = {}  # event id -> revision of what changed since `take_news`
        self._lost: set[str] = set()  # of these, votes that never can be joined
        self._numbers: dict[str, int] = {}  # event id -> a number that rises in the order of the labels
        self._next_number = 1
        self._saved: dict[str, Label] = {}  # as of the last `changes`
        self.used = 0
        self._digest = 0

    def add(self, labels: Iterable[Label]) -> list[Label]:
        """Take joined labels; returns those that changed something."""
        changed = []
        for label in labels:
            old = self._labels.get(label.event_id)
            if old is None and label.retracted and not label.answers:
                continue  # of a vote that was never joined, or is long forgotten
            if old is not None and (old.revision > label.revision or old == label):
                continue
            if old is not None:
                self._digest -= vote_number(old.event_id, old.revision)
                del self._labels[label.event_id]
            else:
                self.used += 1
                self._sizes[_is_signal(label)] += 1
            self._digest = (self._digest + vote_number(label.event_id, label.revision)) % DIGEST_MODULUS
            self._number(label.event_id)
            self._keep(label)
            self._news[label.event_id] = label.revision
            self._lost.discard(label.event_id)
            changed.append(label)
            if self._sizes[_is_signal(label)] > self._capacity:
                self._make_room(signals=_is_signal(label))
        return changed

    def _make_room(self, *, signals: bool) -> None:
        """Let go of a tenth of the signals, or votes, that there is room for, so that this is rare; none of
        the newest half."""
        newest = (self._capacity + 1) // 2
        alike = (label for label in self._labels.values() if _is_signal(label) == signals)
        older = islice(alike, self._sizes[signals] - newest)
        votes = [(label.event_id, label.rater, label.at) for label in older]
        for event_id in surplus(votes, self._capacity - self._capacity // 10 - newest):
            self._news[event_id] = self._labels.pop(event_id).revision
            self._signals.pop(event_id, None)
            self._deeds.pop(event_id, None)
            del self._numbers[event_id]
            self._sizes[signals] -= 1

    def _number(self, event_id: str) -> None:
        self._numbers[event_id] = self._next_number
        self._next_number += 1

    def lose(self, event_id: str, revision: int) -> None:
        """Tell of a vote that never can be joined: what it is about is not in the log (any more)."""
        if event_id not in self._labels:
            self._news[event_id] = revision
            self._lost.add(event_id)

    def _keep(self, label: Label) -> None:
        self._signals.pop(label.event_id, None)
        self._deeds.pop(label.event_id, None)
        if self._concerns_erased(label):
            label = _without_texts(label)
        elif _is_signal(label):
            if done := deeds(label, self._meanings):
                self._deeds[label.event_id] = done
        elif found := signals(label, self._tokenize):
            self._signals[label.event_id] = found
        self._labels[label.event_id] = label

    def erase(self, tenant: str, user: str) -> None:
        """Never train on what a user said, was told or voted, from now on."""
        self._erased.add((tenant, user))
        for label in [label for label in self._labels.values() if self._concerns_erased(label)]:
            self._keep(label)
            self._news[label.event_id] = label.revision

    def bare(self) -> list[Label]:
        """The votes on answers that were sampled and of which no token is here, and might be."""
        return [
            label
            for label in self._labels.values()
            if any(answer.tokens and not answer.token_ids for answer in label.answers)
            and not (label.retracted or self._concerns_erased(label))
        ]

    def reopen(self, labels: Iterable[Label]) -> None:
        """Put labels with their answers' texts in the place of those without."""
        for label in labels:
            self._keep(label)
            self._news[label.event_id] = label.revision
        self._signals = {each: self._signals[each] for each in self._labels if each in self._signals}
        self._deeds = {each: self._deeds[each] for each in self._labels if each in self._deeds}

    def hold(self, waiting: Mapping[str, str]) -> None:
        """Keep these votes (event id -> reason) from training and judging, and let all others go on."""
        for event_id in self._waiting.keys() ^ waiting.keys():
            if event_id in self._labels:
                self._news[event_id] = self._labels[event_id].revision
        self._waiting = dict(waiting)

    @property
    def votes(self) -> list[Label]:
        """The votes that stand and may be learned from, oldest first, those in quarantine included."""
        return [self._labels[event_id] for event_id in self._signals]

    def is_erased(self, tenant: str, user: str) -> bool:
        """Whether `erase` was told of a user."""
        return (tenant, user) in self._erased

    def _concerns_erased(self, label: Label) -> bool:
        users = {label.rater, *(answer.user for answer in label.answers)}
        return not self._erased.isdisjoint((label.tenant, user) for user in users)

    def is_judging(self, label: Label) -> bool:
        """Whether a label belongs to the judging side of the split; what models say never does."""
        return label.source != MODEL and judges(label.rater, self._judge_share)

    def teaches(self, label: Label) -> bool:
        """Whether the reward model can be fitted to a label, which must be the newest of its event id."""
        return label.event_id in self._signals

    def answers_of(self, label: Label) -> Iterator[Answer]:
        """The answers that the reward model is to see for a label."""
        for signal in self._signals.get(label.event_id, ()):
            yield from signal.answers

    @property
    def teaching(self) -> list[Label]:
        """What all raters say, as signals, oldest first."""
        known = (found for event_id, found in self._signals.items() if event_id not in self._waiting)
        return [signal for found in known for signal in found]

    @property
    def training(self) -> list[Label]:
        """What the raters who train the reward model say, as signals, oldest first."""
        return [signal for signal in self.teaching if not self.is_judging(signal)]

    @property
    def judging(self) -> list[Label]:
        """What the raters who judge candidates say, as signals, oldest first."""
        return [signal for signal in self.teaching if self.is_judging(signal)]

    # ---- what people did

    @property
    def deeds(self) -> list[Deed]:
        """All that people did with answers, oldest first, whatever it weighs."""
        return [deed for found in self._deeds.values() for deed in found]

    @property
    def slopes(self) -> Mapping[str, float]:
        """What deeds weigh, by name, of those that weigh anything."""
        return self._slopes

    def believe(self, slopes: Mapping[str, float]) -> None:
        """From now on deeds weigh this, by name; those of other names nothing."""
        slopes = {name: slope for name, slope in slopes.items() if slope}
        changed = self._slopes.keys() ^ slopes.keys()
        self._slopes = dict(slopes)
        for event_id, found in self._deeds.items() if changed else ():
            if any(deed.name in changed for deed in found):
                self._news[event_id] = self._labels[event_id].revision

    def heard(self, deeds: Iterable[Deed]) -> list[Deed]:
        """Those of some deeds that weigh something, with their slopes; none of raters who judge."""
        known = ((deed, self._slopes.get(deed.name or "")) for deed in deeds)
        return [
            dataclasses.replace(deed, slope=slope)
            for deed, slope in known
            if slope is not None and not self.is_judging(deed)
        ]

    def _is_heard(self, event_id: str) -> bool:
        found = self._deeds.get(event_id, ())
        return any(deed.name in self._slopes and not self.is_judging(deed) for deed in found)

    # ---- what became of votes

    def number(self, label: Label) -> int:
        """A number that is higher the later the store learned of a label as it is now."""
        return self._numbers[label.event_id]

    def is_news(self, label: Label) -> bool:
        """Whether a vote came, or its state changed, since the last `take_news`."""
        return label.event_id in self._news

    def take_news(self) -> list[tuple[str, int, State]]:
        """The votes whose state changed since the last call, as (event id, revision, state now)."""
        news = [(event_id, revision, self._state(event_id)) for event_id, revision in self._news.items()]
        self._news = {}
        self._lost.clear()
        return news

    def _state(self, event_id: str) -> State:
        label = self._labels.get(event_id)
        if label is None:
            return "discarded" if event_id in self._lost else "evicted"
        if self._concerns_erased(label):
            return "erased"
        if label.retracted:
            return "retracted"
        if _is_signal(label):
            return "training" if self._is_heard(event_id) else "kept"
        is_imitated = self._is_demonstration(label)
        if event_id not in self._signals and not is_imitated:
            return "kept"
        if event_id in self._waiting:
            return "waiting"
        return "judging" if not is_imitated and self.is_judging(label) else "training"

    @property
    def demonstrations(self) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Contexts, and the answers to imitate there, oldest first: those that raters who train the reward
        model wrote, and all that were shown to be right as they are (`shows`)."""
        found = []
        for event_id, label in self._labels.items():
            if label.kind != "correction" or event_id in self._waiting:
                continue
            if self._is_demonstration(label):
                found.append(label.answers[0].judged)
            elif not self.is_judging(label):
                found += [
                    signal.answers[0].judged
                    for signal in self._signals.get(event_id, ())
                    if signal.answers[1].judged[1]  # else it would come in an open thought
                ]
        return found

    def _is_demonstration(self, label: Label) -> bool:
        """Whether a label shows an answer. What was imported judges nobody, whoever brought it; a rater who
        judges candidates must not also say what they imitate."""
        return shows(label) and (label.source == "import" or not self.is_judging(label))

    def ledger(self) -> dict[str, Any]:
        """How many votes were used and the order-independent digest of them (see `vote_number`)."""
        return {"labels": self.used, "digest": f"{self._digest:064x}"}

    def changes(self) -> tuple[list[tuple[int, dict[str, Any]]], list[str]]:
        """The labels that changed since the last call, as (number, JSON), and the event ids that are gone.

        Labels are in the order of their numbers.
        """
        changed = [
            (self._numbers[event_id], row_of(label))
            for event_id, label in self._labels.items()
            if self._saved.get(event_id) is not label
        ]
        gone = [event_id for event_id in self._saved if event_id not in self._labels]
        self._saved = dict(self._labels)
        return changed, gone

    def state(self) -> dict[str, Any]:
        """A JSON-able copy of everything."""
        return {"labels": [row_of(label) for label in self._labels.values()], **self.summary()}

    def summary(self) -> dict[str, Any]:
        """The same without the labels, for those who have them from `changes`."""
        return {
            "used": self.used,
            "digest": f"{self._digest:064x}",
            "news": self._news,
            "erased": sorted(map(list, self._erased)),
            "waiting": dict(self._waiting),
            "lost": sorted(self._lost),
            "slopes": dict(self._slopes),
        }

    def restore(
        self, state: Mapping[str, Any], rows: Iterable[tuple[int, dict[str, Any]]] | None = None
    ) -> None:
        """Become what `state()` described, or `summary()` and all `rows` that `changes` ever gave and that
        are not gone, in order."""
        self._labels, self._signals, self._deeds, self._numbers = {}, {}, {}, {}
        self._slopes = dict(state.get("slopes", {}))
        self._sizes.clear()
        self._erased = {(tenant, user) for tenant, user in state.get("erased", ())}
        self._waiting = dict(state.get("waiting", {}))
        self._lost = set(state.get("lost", ()))
        for number, row in enumerate(state["labels"], 1) if rows is None else rows:
            label = label_of(row)
            self._numbers[label.event_id] = number
            self._sizes[_is_signal(label)] += 1
            self._keep(label)
        self._next_number = max(self._numbers.values(), default=0) + 1
        self._saved = {} if rows is None else dict(self._labels)
        # Checkpoints of before there was news have told nobody anything.
        everything = {label.event_id: label.revision for label in self._labels.values()}
        self._news = dict(state.get("news", everything))
        self.used = state["used"]
        self._digest = int(state["digest"], 16)


def _is_signal(label: Label) -> bool:
    return label.kind == "signal"


def _without_texts(label: Label) -> Label:
    answers = tuple(answer.without_text() for answer in label.answers)
    said = (field for field in dataclasses.fields(Label) if field.name in WORDS_OF_VOTES)
    bare: dict[str, Any] = {field.name: field.default for field in said}
    return dataclasses.replace(label, answers=answers, **bare)
