"""What people do, in a learner: which deeds an update looks at, and what it finds that they weigh."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

from feedback.joining.labels import Answer, Label
from learner.loop.parts import Parts
from learner.reward.features import Key, key_of
from learner.reward.heads import Heads
from learner.reward.weighing import vote_weights
from learner.votes.believing import Array, Foresight, Opinion, beliefs
from learner.votes.deeds import meaning_of
from learner.votes.objectives import Deed
from learner.votes.trust import trusted

logger = logging.getLogger("hearken.learner")


def readable(parts: Parts) -> list[Deed]:
    """The deeds with answers that the base has read, or reads for votes anyhow, and with the newest others,
    of which one update may read so many; oldest first.

    Whether the base has read a voted answer is not asked: that depends on how much time there was for it.
    """
    left = parts.settings.reward.signals_read
    voted = {key_of(each) for vote in parts.labels.votes for each in parts.labels.answers_of(vote)}
    chosen: set[Key] = set()
    found = []
    for deed in reversed(parts.labels.deeds):
        new = {
            key
            for answer in deed.answers
            if (key := key_of(answer)) not in voted and key not in chosen and not parts.features.knows(answer)
        }
        if len(new) <= left:
            left -= len(new)
            chosen |= new
            found.append(deed)
    return found[::-1]


def weigh(parts: Parts, deeds: Sequence[Deed], votes: Sequence[Label]) -> None:
    """Find out what deeds tell, by votes of people and by the judging model of the update before."""
    rules = parts.settings
    did = trusted(deeds, parts.agreement, rules.trust)
    weights = vote_weights(did, rules.reward.rater_cap)
    did = [replace(deed, weight=weight) for deed, weight in zip(did, weights, strict=True)]
    found = beliefs(did, votes, _opinion(parts, votes), _foresight(parts))
    slopes = {}
    for name, belief in found.items():
        meaning = meaning_of(name, parts.meanings)
        slopes[name] = belief.weight(meaning.direction, meaning.most, name in parts.labels.slopes)
        logger.info("signal %s weighs %.2f: %s", name, slopes[name], belief.sentence)
    parts.labels.believe(slopes)
    parts.metrics.show_signals(found, slopes)


def _opinion(parts: Parts, votes: Sequence[Label]) -> Opinion | None:
    """The judging model's, which learned from nothing that people did."""
    taste = parts.judge.model.taste
    if not taste.is_fitted:
        return None
    unlearned = [vote for vote in votes if not parts.labels.is_judging(vote)]
    return Opinion(_scores_of(taste), unlearned)


def _foresight(parts: Parts) -> Foresight | None:
    """The reward model's, of what came since it was fitted."""
    taste = parts.reward.model.taste
    if not taste.is_fitted:
        return None
    return Foresight(_scores_of(taste), lambda deed: parts.labels.number(deed) > parts.fading.fitted)


def _scores_of(taste: Heads) -> Callable[[Sequence[Answer]], Array]:
    return lambda answers: taste.mean_of(answers).double().numpy()
