"""Observations of the policy since it was live's copy, for `learner.monitor.self_check` to judge."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from learner.monitor.self_check import Concern, Observation, SelfCheckLimits, concern
from learner.policy.candidate import chance_to_win, order_agreement
from learner.reward.judge import JudgingModel
from learner.reward.ladder import RewardLadder
from learner.rollouts.measuring import Measured

Owner = tuple[str, str]
"""Tenant and user whose prompt was answered."""


@dataclasses.dataclass(frozen=True, slots=True)
class LiveRollout:
    """An answer of the policy when it was live's copy, and whose prompt it answers.

    A thought belongs to `prompt_token_ids`: it is what was there before the answer.
    """

    tenant: str
    user: str
    prompt_token_ids: Sequence[int]
    token_ids: Sequence[int]


class Watch:
    """An observation for every batch of rollouts; the first batch is what the later ones are held against."""

    def __init__(
        self, reward: RewardLadder, judge: JudgingModel, pessimism: float, limits: SelfCheckLimits | None
    ) -> None:
        self._reward, self._judge, self._pessimism, self._limits = reward, judge, pessimism, limits
        self.history: list[Observation] = []
        self.of_live: list[LiveRollout] = []
        self._scored: tuple[int, float, Tensor] | None = None  # see `_score_live`

    def restart(self) -> None:
        """The policy is live's copy again: the next batch is the first."""
        self.history = []

    def rejudge(self) -> None:
        """Others score and judge from now on, so what was scored and judged before says nothing any more but
        of the first batch, which is live's and no better than itself whoever judges."""
        self.history = self.history[:1]
        self._scored = None

    def forget(self, owner: Owner) -> None:
        """Forget an erased user's prompts and what was answered. Nothing is left when all are theirs."""
        self.of_live = [rollout for rollout in self.of_live if (rollout.tenant, rollout.user) != owner]
        self._scored = None
        if not self.of_live:
            self.restart()

    def observe(
        self, measured: Measured, rewards: Tensor, owners: Mapping[Sequence[int], Owner], update: int
    ) -> None:
        """Add what the newest rollouts show.

        rewards: (B,) by the reward model of now; owners: by prompt, of every rollout's; update: the number of
        the reward models' newest update.
        """
        if not self.history:
            self.of_live, self._scored = _owned(measured, owners), None
        reward_of_live, judged_live = self._score_live(update)
        judged = self._judge.rewards(measured.judged)[0]
        self.history.append(
            Observation(
                reward=float(rewards.mean()) - reward_of_live,
                judged_win_rate=chance_to_win(judged, judged_live),
                response_tokens=measured.answer_tokens,
                sampled_tokens=measured.response_tokens,
                entropy_nats=measured.entropy_nats,
                kl_nats_base=measured.kl_nats_base,
                kl_nats_live=measured.kl_nats_live,
                perplexity=measured.perplexity,
                judge_agreement=order_agreement(rewards, judged),
            )
        )

    def concern(self) -> Concern | None:
        """What speaks against the policy, if something does and anybody wants to know."""
        return None if self._limits is None else concern(self.history, self._limits)

    def _score_live(self, update: int) -> tuple[float, Tensor]:
        """The mean reward of live's rollouts, and the judging model's of each (B,), by the newest models."""
        if self._scored is None or self._scored[0] != update:
            items = [(rollout.prompt_token_ids, rollout.token_ids) for rollout in self.of_live]
            reward = float(self._reward.rewards(items, self._pessimism)[0].mean())
            self._scored = (update, reward, self._judge.rewards(items)[0])
        return self._scored[1:]

    def state(self) -> dict[str, Any]:
        """All that was seen, for a checkpoint; it holds users' words."""
        return {
            "history": [dataclasses.asdict(seen) for seen in self.history],
            "of_live": [dataclasses.asdict(rollout) for rollout in self.of_live],
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what `state()` described."""
        self.history = [Observation(**seen) for seen in state.get("history", [])]
        self.of_live = [LiveRollout(**rollout) for rollout in state.get("of_live", [])]
        self._scored = None


def _owned(measured: Measured, owners: Mapping[Sequence[int], Owner]) -> list[LiveRollout]:
    return [
        LiveRollout(*owners[tuple(prompt)], tuple(context), tuple(answer))
        for (prompt, _), (context, answer) in zip(measured.items, measured.judged, strict=True)
    ]
