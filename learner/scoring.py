"""From votes to scores: whom to believe, the reward models' updates, and what they say of answers."""

import logging
import time
from collections.abc import Sequence
from dataclasses import replace

import torch

from deploy.engine import Sample
from feedback.labels import Label
from feedback.usage import usage_events
from learner import stages
from learner.parts import Parts
from learner.trust import quarantine, standings, trusted
from learner.weighing import vote_weights

logger = logging.getLogger("hearken.learner")

READ_AHEAD = 16
"""Voted answers that the base reads at a time while the learner waits: a second or two of a small model."""


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

    def update(self) -> None:
        """Weigh the raters and fit the reward models to all votes."""
        parts = self._parts
        parts.metrics.show_phase("reward")
        self._weigh_raters()
        self.fit()
        parts.state = stages.fitted(parts.state, parts.limits)
        updates = parts.state.updates
        parts.metrics.show_rungs(parts.reward)
        logger.info("reward update %d: %s", updates, parts.reward.describe())
        parts.askable.forget()
        parts.untold += usage_events(updates, time.time(), parts.place.cursor, parts.labels.take_news())
        parts.metrics.reward_updates.inc()
        parts.metrics.votes_usable.set(parts.teaching)

    def fit(self) -> None:
        """Fit the reward models to the votes that are trusted."""
        parts = self._parts
        training, judging = (
            trusted(labels, parts.agreement, parts.settings.trust)
            for labels in (parts.labels.training, parts.labels.judging)
        )
        if training:
            parts.reward.update(training)
        if judging:
            parts.metrics.show_calibration(parts.reward.calibrate(judging))
            parts.judge.update(judging)

    def votes_to_learn(self) -> list[Label]:
        """What an optimiser may learn from votes themselves: those that train, with all that each weighs.

        As of the newest update: raters are weighed then, and looked at for brigades and bursts.
        """
        parts = self._parts
        known = [label for label in parts.labels.training if not parts.labels.is_news(label)]
        votes = trusted(known, parts.agreement, parts.settings.trust)
        rules = parts.settings.reward
        weights = vote_weights(votes, rules.rater_cap, rules.model_vote_weight) if votes else []
        return [replace(vote, weight=weight) for vote, weight in zip(votes, weights, strict=True)]

    def _weigh_raters(self) -> None:
        """See which votes have to wait, and how well the others were foreseen."""
        parts = self._parts
        votes, rules = parts.labels.votes, parts.settings.trust
        now = max((vote.at for vote in votes), default=0.0)  # the log's time: a replay comes to the same
        waiting = quarantine(votes, rules, now)
        parts.labels.hold(waiting)
        new = parts.agreement.unseen([*parts.labels.training, *parts.labels.judging])
        if parts.state.updates:
            if parts.reward.foresee([label for label in new if parts.labels.is_judging(label)]):
                parts.watch.rejudge()
            parts.agreement.add(new, parts.reward.predictions(new))
        parts.agreement.forget_others(votes)
        parts.standings = standings(votes, waiting, parts.agreement, rules)
        parts.metrics.show_waiting(waiting.values())

    def scores(self, samples: Sequence[Sample]) -> torch.Tensor:
        """What the reward model that PPO climbs says of answers, (B,)."""
        parts = self._parts
        items = [sample.judged for sample in samples]
        rewards, disagreement = parts.reward.rewards(items, parts.settings.pessimism)
        parts.metrics.reward_disagreement.set(float(disagreement.mean()))
        return rewards

    def judged(self, samples: Sequence[Sample]) -> torch.Tensor:
        """What the judging model, which nobody climbs, says of answers, (B,)."""
        return self._parts.judge.rewards([sample.judged for sample in samples])[0]
