"""From votes to scores: whom to believe, the reward models' updates, and what they say of answers."""

import dataclasses
import logging
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile

import torch

from deploy.engines.client import Sample
from feedback.joining.labels import Label
from feedback.updates.usage import usage_events
from learner.loop.heeding import readable, weigh
from learner.loop.parts import Parts
from learner.reward.credit import token_gains
from learner.reward.features import WORDS
from learner.reward.teaching import hint_of
from learner.reward.weighing import vote_weights
from learner.state import stages
from learner.votes.objectives import Deed, main_objective
from learner.votes.quarantine import PEOPLE, quarantine
from learner.votes.reliability import MODEL, Reliability, reliabilities, weighed
from learner.votes.trust import standings, trusted
from learner.votes.turns import GROUP

logger = logging.getLogger("hearken.learner")

READ_AHEAD = 16
"""Voted answers that the base reads at a time while the learner waits: a second or two of a small model."""

LISTEN = 16
"""Times as many that it reads at most between two things that the learner does."""

LISTEN_SECONDS = 10.0
"""And so long at most: where the base reads slowly, steps and offers would wait for minutes."""


@dataclasses.dataclass(frozen=True, slots=True)
class Judged:
    """Answers to prompts, and the judging model's score of each, (B,)."""

    samples: Sequence[Sample]
    scores: torch.Tensor


class Scoring:
    """The reward models of one learner, and the raters behind them."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def read_ahead(self) -> None:
        """Let the base read voted answers while there is nothing else to do, for a shorter next update.

        Always so many at a time, whenever they came: an answer's features may have other last bits in other
        company.
        """
        unread, features = self._parts.unread, self._parts.features
        while unread and features.knows(unread[0]):
            unread.popleft()
        if len(unread) >= READ_AHEAD:
            features.read([unread.popleft() for _ in range(READ_AHEAD)])

    def listen(self) -> None:
        """Hear the votes since the last update, in whole groups, and have the next update made at once when
        people like something else than the reward model expects."""
        parts = self._parts
        if not parts.state.updates or parts.state.turned:
            return
        until = time.monotonic() + LISTEN_SECONDS
        for _ in range(LISTEN):
            if len(parts.unread) >= READ_AHEAD and time.monotonic() < until:
                self.read_ahead()
        new = parts.agreement.unseen(_of_people(parts.labels.teaching))
        if len(new) < GROUP:
            return
        rules = dataclasses.replace(parts.settings.trust, newcomer_seconds=0.0)
        waiting = quarantine(new, rules, max(vote.at for vote in new))
        known = list(takewhile(self._was_read, new))
        known = [label for label in known if label.event_id not in waiting]
        groups = _groups(self._unheard(known))
        for group in groups:
            if len(group) == GROUP and self._hear(group):
                parts.state = stages.turned(parts.state)
                break

    def _was_read(self, label: Label) -> bool:
        return all(map(self._parts.features.knows, label.answers))

    def _unheard(self, labels: Sequence[Label]) -> list[Label]:
        number, parts = self._parts.labels.number, self._parts
        known = max(parts.turns.heard, parts.fading.fitted)
        return sorted((each for each in labels if number(each) > known), key=number)

    def _hear(self, group: Sequence[Label]) -> bool:
        """Let the detector hear votes; when it gives alarm, they age fastest from then on."""
        parts = self._parts
        votes = [
            (label.rater, label.value, chance)
            for label, chance in zip(group, parts.reward.predictions(group), strict=True)
            if label.kind != "ranking"  # whose value says nothing by itself
            and label.source in PEOPLE
            and main_objective(label) == "helpful"
        ]
        proven = {rater: parts.agreement.is_proven(rater) for rater, _, _ in votes}
        turned = parts.turns.hear(votes, proven, parts.labels.number(group[-1]))
        parts.metrics.taste_evidence.set(parts.turns.evidence)
        if turned:
            parts.fading.shorten(parts.turns.began)
            parts.agreement.crowd.clear()  # they were the first
            parts.watch.rejudge()
            parts.metrics.taste_turns.inc()
            logger.warning(
                "people like something else by now: more than %.0f%% of votes say the opposite of what is "
                "expected. A vote's weight halves with every %g newer ones, until votes show what is better",
                100 * parts.settings.reward.turn_share,
                parts.fading.half_life,
            )
        return turned

    def update(self) -> None:
        """Weigh the raters and fit the reward models to all votes."""
        parts = self._parts
        parts.metrics.show_phase("reward")
        self._weigh_raters()
        believed, found = self._believed()
        self._show_models(found)
        deeds = readable(parts)
        weigh(parts, deeds, _of_people(believed))
        self._fit(self._aged(self._with_deeds(believed, deeds)))
        parts.state = stages.fitted(parts.state, parts.limits)
        updates = parts.state.updates
        parts.metrics.show_rungs(parts.reward)
        parts.metrics.half_life.set(parts.fading.half_life)
        logger.info(
            "reward update %d: %s; half-life %g votes",
            updates,
            parts.reward.describe(),
            parts.fading.half_life,
        )
        parts.askable.forget()
        parts.untold += usage_events(updates, time.time(), parts.place.cursor, parts.labels.take_news())
        parts.metrics.reward_updates.inc()
        parts.metrics.votes_usable.set(parts.teaching)

    def fit(self) -> None:
        """Fit the reward models to the votes that are trusted, and to what people did, each as its age lets
        it count. All that a vote weighs is listed in `learner.reward.weighing`."""
        self._fit(self._aged(self._with_deeds(self._believed()[0], readable(self._parts))))

    def _fit(self, pairs: Sequence[tuple[Label, float]]) -> None:
        parts = self._parts
        training = [pair for pair in pairs if not parts.labels.is_judging(pair[0])]
        judging = [pair for pair in pairs if parts.labels.is_judging(pair[0])]
        numbers = [parts.labels.number(label) for label, _ in pairs]
        parts.fading.fitted = max(numbers, default=parts.fading.fitted)
        if training:
            votes, ages = map(list, zip(*training, strict=True))
            tastes = parts.fading.of(votes, ages)
            parts.reward.update(votes, tastes=tastes)
            parts.fading.update(votes, ages, parts.reward.model.kind)
            [taste] = [rung.taste for rung in parts.reward.rungs if rung.kind is WORDS]
            if taste.is_fitted:
                parts.untold_hint = hint_of(taste, tastes, parts.state.updates + 1, time.time())
        if judging:
            votes, ages = map(list, zip(*judging, strict=True))
            parts.judge.update(votes, tastes=parts.fading.of(votes, ages))
        measuring = [pair for pair in judging if not pair[0].is_selected]
        if measuring:
            votes, ages = map(list, zip(*measuring, strict=True))
            report = parts.reward.calibrate(votes, tastes=parts.fading.of(votes, ages))
            parts.metrics.show_calibration(report)
            parts.accuracy = report.accuracy

    def votes_to_learn(self) -> list[Label]:
        """What an optimiser may learn from votes themselves: those that train, with all that each weighs.

        As of the newest update: raters are weighed then, and looked at for brigades and bursts.
        """
        parts = self._parts
        pairs = [
            (label, age)
            for label, age in self._aged(self._believed()[0])
            if not parts.labels.is_judging(label) and not parts.labels.is_news(label)
        ]
        if not pairs:
            return []
        labels, ages = map(list, zip(*pairs, strict=True))
        votes, rules = parts.fading.of(labels, ages), parts.settings.reward
        weights = vote_weights(votes, rules.rater_cap)
        return [dataclasses.replace(vote, weight=weight) for vote, weight in zip(votes, weights, strict=True)]

    def _believed(self) -> tuple[list[Label], dict[str, Reliability]]:
        """The votes that are trusted, each with what that lets it weigh, and how far models are."""
        parts, rules = self._parts, self._parts.settings.reward
        labels = trusted(parts.labels.teaching, parts.agreement, parts.settings.trust)
        found = reliabilities(labels, rules.model_vote_weight)
        return weighed(labels, found, rules.rater_cap), found

    def _with_deeds(self, votes: Sequence[Label], deeds: Sequence[Deed]) -> list[Label]:
        """Votes, and those deeds that weigh something, oldest first."""
        parts, number = self._parts, self._parts.labels.number
        heard = trusted(parts.labels.heard(deeds), parts.agreement, parts.settings.trust)
        return sorted([*votes, *heard], key=number) if heard else list(votes)

    def _aged(self, labels: Sequence[Label]) -> list[tuple[Label, float]]:
        """Votes, and how old each is, in votes."""
        parts = self._parts
        numbers = [parts.labels.number(label) for label in labels]
        return list(zip(labels, parts.fading.ages(labels, numbers), strict=True))

    def _weigh_raters(self) -> None:
        """See which votes have to wait, how well the others were foreseen, and what foresees them best."""
        parts = self._parts
        votes, rules = parts.labels.votes, parts.settings.trust
        now = max((vote.at for vote in votes), default=0.0)  # the log's time: a replay comes to the same
        waiting = quarantine(votes, rules, now)
        parts.labels.hold(parts.agreement.waiting() | waiting)
        new = parts.agreement.unseen(_of_people(parts.labels.teaching))
        if parts.state.updates:
            self._foresee(new)
            for part in self._parted(new):
                parts.agreement.add(part, parts.reward.predictions(part))
        parts.agreement.forget_others(votes)
        waiting = parts.agreement.waiting() | waiting
        parts.labels.hold(waiting)
        parts.standings = standings(votes, waiting, parts.agreement, rules)
        parts.metrics.show_waiting(waiting.values())

    def _show_models(self, found: Mapping[str, Reliability]) -> None:
        """Let operators see how often models agree with people, and count none whose votes weigh nothing."""
        parts = self._parts
        for rater, each in found.items():
            before = parts.standings[rater]
            parts.standings[rater] = dataclasses.replace(before, agreement=each.agreement, weight=each.weight)
        parts.unreliable = frozenset(rater for rater, each in found.items() if not each.weight)
        parts.metrics.show_models(found)

    def _parted(self, votes: Sequence[Label]) -> tuple[list[Label], list[Label]]:
        """Those that were there at the update before, as the first one's are, and those that came since."""
        number, fitted = self._parts.labels.number, self._parts.fading.fitted
        before = [label for label in votes if number(label) <= fitted]
        return before, [label for label in votes if number(label) > fitted]

    def _foresee(self, new: Sequence[Label]) -> None:
        """Choose by new votes how fast votes age, and what kind of reward model serves."""
        parts = self._parts
        parts.features.read([answer for label in new for answer in label.answers])  # all in one company
        if not (parts.state.turned or any(map(self._hear, _groups(self._unheard(new))))):
            _, fresh = self._parted(new)
            believed = trusted(fresh, parts.agreement, parts.settings.trust)
            parts.fading.foresee(believed, parts.reward.model)
        unseen = [each for each in new if parts.labels.is_judging(each) and not each.is_selected]
        if parts.reward.foresee(unseen):
            parts.watch.rejudge()

    def scores(self, samples: Sequence[Sample]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What the reward model that PPO climbs says of answers, (B,), and what each token adds to that,
        (B, T); None where it does not score an answer's beginning."""
        parts, pessimism = self._parts, self._parts.settings.pessimism
        items = [sample.judged for sample in samples]
        gains = None
        if parts.reward.is_of_prefixes:
            prefixes, disagreement = parts.reward.prefix_rewards(items, pessimism)
            rewards = torch.stack([scores[-1] for scores in prefixes])
            starts = [sample.answer_start for sample in samples]
            gains = token_gains(prefixes, starts, [len(sample.token_ids) for sample in samples])
        else:
            rewards, disagreement = parts.reward.rewards(items, pessimism)
        parts.metrics.reward_disagreement.set(float(disagreement.mean()))
        return rewards, gains

    def judged(self, samples: Sequence[Sample]) -> Judged:
        """Answers, and what the judging model, which nobody climbs, says of them."""
        return Judged(samples, self._parts.judge.rewards([sample.judged for sample in samples])[0])


def _of_people(votes: Sequence[Label]) -> list[Label]:
    """Those that no model gave: people are weighed, and heard, among themselves."""
    return [vote for vote in votes if vote.source != MODEL]


def _groups(votes: Sequence[Label]) -> list[Sequence[Label]]:
    """Votes in groups of `GROUP`, the last of which may be smaller."""
    return [votes[i : i + GROUP] for i in range(0, len(votes), GROUP)]
