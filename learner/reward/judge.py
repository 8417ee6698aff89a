"""The judging model: what raters who train nothing think, read in another way than PPO's reward model reads.

Models that look at the same features make the same mistakes, whoever's votes they learned from, and a policy
that climbs the one would please the other. So while words are climbed, states judge, and the other way round.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from feedback.joining.labels import Label
from learner.batching import Item
from learner.reward.features import STATES, WORDS, AnswerFeatures
from learner.reward.ladder import RewardLadder
from learner.reward.reward import RewardModel
from learner.settings import RewardSettings


class JudgingModel:
    """A reward model of either kind on the judging raters' votes; one judges what `climbed` scores."""

    def __init__(
        self, features: AnswerFeatures, settings: RewardSettings, climbed: RewardLadder, *, seed: int = 0
    ) -> None:
        self._climbed = climbed
        self._kinds = {
            kind.name: RewardModel(features, settings, seed=seed, kind=kind) for kind in (WORDS, STATES)
        }

    @property
    def model(self) -> RewardModel:
        """The model that judges now."""
        kind = STATES if self._climbed.model.kind is WORDS else WORDS
        return self._kinds[kind.name]

    def update(self, labels: Sequence[Label], *, tastes: Sequence[Label] | None = None) -> None:
        """Fit both kinds, see `RewardModel.update`."""
        for model in self._kinds.values():
            model.update(labels, tastes=tastes)

    def rewards(self, items: Sequence[Item]) -> tuple[Tensor, Tensor]:
        """What it thinks of answers, see `RewardModel.rewards`."""
        return self.model.rewards(items)

    def state_dict(self) -> dict[str, Any]:
        """All that an update changes."""
        return {name: model.state_dict() for name, model in self._kinds.items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Become what `state_dict` described. Raises `ValueError` when it is of other kinds."""
        if state.keys() != self._kinds.keys():
            raise ValueError(
                f"the judging model's state has {', '.join(state)}, not {', '.join(self._kinds)}"
            )
        for name, model in self._kinds.items():
            model.load_state_dict(state[name])
