"""Months of learning in a toy world: the learner's own table, price and limits, and a policy that is a point.

Answers' quality is the distance to a goal that moves at half time, KL (nats) the squared distance to live,
measured with noise on 128 responses as the learner measures it. All else is what the learner's loop does.
"""

import dataclasses
import math

import pytest
import torch

from learner.losses import ascend, upper_bound
from learner.settings import PPOSettings
from learner.state import stages
from learner.state.stages import LearnerState, Limits
from learner.state.table import Batch, Measured, next_action

ROUNDS, VOTES = 12, 300  # votes that train, of a round
PUBLISH, PPO = 4.0, PPOSettings()
LIMITS = Limits(
    min_labels=200,
    labels_per_update=200,
    steps_per_candidate=24,
    kl_budget_nats=6.0,
    kl_refill_nats=6.0,
)


class Toy:
    """One learner in the plane, with the base at the origin. `live`: where the version 0 is."""

    def __init__(self, seed: int, live: tuple[float, float], refill: float) -> None:
        self.draw = torch.Generator().manual_seed(seed)
        self.limits = dataclasses.replace(LIMITS, kl_refill_nats=refill)
        self.live = torch.tensor(live)
        self.policy, self.goal = self.live.clone(), torch.tensor([4.0, 0.0])
        self.state, self.price, self.labels = LearnerState(), PPO.kl_coefficient, 0
        self.earlier: list[torch.Tensor] = []
        self.steps = self.promotions = 0

    def kl_nats(self, to: torch.Tensor, at: torch.Tensor) -> torch.Tensor:
        """The KL of 128 responses (128,)."""
        mean = float((at - to).square().sum())
        noise = torch.randn(128, generator=self.draw)
        return mean + noise * math.sqrt(mean)

    def measure(self) -> tuple[float, float, float]:
        """The share of the nearer limit, and the mean KL to live and base."""
        to_live, to_base = self.kl_nats(self.live, self.policy), self.kl_nats(torch.zeros(2), self.policy)
        if torch.equal(self.policy, self.live) and self.state.live_nats is None:
            self.state = stages.met_live(self.state, float(to_base.mean()))
        room = (self.state.live_nats or 0.0) + stages.room_nats(self.state, self.limits)
        share = max(upper_bound(to_live) / PUBLISH, upper_bound(to_base) / room)
        return share, float(to_live.mean()), float(to_base.mean())

    def next(self, batch: Batch | None = None) -> str:
        is_live = torch.equal(self.policy, self.live)
        seen = Measured(self.labels, is_live=is_live, undoable=len(self.earlier), batch=batch)
        return next_action(self.state, seen, self.limits)

    def step(self, share: float, kl_nats: float) -> None:
        """As PPO does: a unit of advantage, less what the way from live costs, no further than a step may."""
        self.earlier = [*self.earlier, self.policy][-2:]
        away = self.goal - self.policy
        uphill = away / away.norm().clamp(min=0.5) - 2 * self.price * (self.policy - self.live)
        move = 0.3 * self.state.pace * (uphill + 0.3 * torch.randn(2, generator=self.draw))
        self.policy = self.policy + move * min(1.0, math.sqrt(PPO.kl_step_nats) / float(move.norm()))
        self.raise_price(kl_nats)
        self.state = stages.stepped(self.state, share)
        self.steps += 1

    def raise_price(self, kl_nats: float, times: int = 1) -> None:
        for _ in range(times):
            self.price = ascend(
                self.price,
                kl_nats,
                PPO.kl_target_nats,
                PPO.kl_rate,
                PPO.kl_coefficient_min,
                PPO.kl_coefficient_max,
            )

    def go_back(self) -> None:
        self.policy, self.earlier = self.live.clone(), []

    def undo(self) -> None:
        self.policy = self.earlier.pop()
        self.raise_price(math.inf, 5)
        is_live = torch.equal(self.policy, self.live)
        self.state = stages.undone(self.state, is_live=is_live)

    def turn(self) -> bool:
        """One turn; False when it waits."""
        action, share, to_live, to_base = self.next(), 0.0, 0.0, 0.0
        if action == "sample":
            share, to_live, to_base = self.measure()
            action = self.next(Batch(share))
        elif action == "compare":
            share, to_live, to_base = self.measure()
            better = float((self.live - self.goal).norm() - (self.policy - self.goal).norm())
            action = self.next(Batch(share, passed=better > 0.1))
        if action == "wait":
            return False
        if action == "fit":
            self.state = stages.fitted(self.state, self.limits)
        elif action == "begin":
            self.state = stages.begun(self.state)
        elif action == "step":
            self.step(share, to_live)
        elif action == "undo":
            self.undo()
        elif action == "finish":
            self.state = stages.advance(self.state, "finished")
        elif action == "refuse":
            self.state = stages.refused(self.state, self.limits)
        elif action == "publish":
            assert float((self.policy - self.live).square().sum()) < PUBLISH + 0.2  # whatever was measured
            self.promote(to_base)
        else:
            self.go_back()
            over = action == "start over"
            self.state = stages.started_over(self.state, slower=True) if over else stages.gave_up(self.state)
        return True

    def promote(self, to_base: float) -> None:
        """Users like the candidate, as the gate foresaw."""
        self.state = stages.published(self.state, f"policy-{self.promotions}")
        rise = to_base - (self.state.live_nats or 0.0)
        self.state = stages.settled(self.state, promoted=True, restarts=False, rise_nats=rise)
        self.state = stages.met_live(self.state, None)
        self.live, self.earlier = self.policy.clone(), []
        self.promotions += 1

    def live_through(self) -> list[tuple[int, float]]:
        """PPO steps of each round, and live's distance to the goal after it."""
        found = []
        for number in range(ROUNDS):
            if number == ROUNDS // 2:
                self.goal = torch.tensor([-2.0, 2.0])  # people like the opposite from now on
            self.labels += VOTES
            self.state = dataclasses.replace(self.state, new_labels=self.state.new_labels + VOTES)
            before = self.steps
            for _ in range(500):
                if not self.turn():
                    break
            else:
                pytest.fail(f"no end: {self.state}")
            found.append((self.steps - before, float((self.live - self.goal).norm())))
        return found


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("live", [(0.0, 0.0), (0.0, 3.2)], ids=["from the base", "from a version 0"])
def test_learning_does_not_end(seed: int, live: tuple[float, float]) -> None:
    toy = Toy(seed, live, LIMITS.kl_refill_nats)
    rounds = toy.live_through()
    assert min(steps for steps, _ in rounds) > 0
    assert toy.promotions >= 8
    distances = [distance for _, distance in rounds]
    assert distances[ROUNDS // 2 - 1] < 2.0  # 4 and more at the start
    assert distances[ROUNDS // 2] < 5.5  # one round after the turn, from 6 and more
    assert distances[-1] < 1.0


def test_without_a_refill_the_way_to_the_base_is_all_there_is() -> None:
    toy = Toy(0, (0.0, 0.0), refill=0.0)
    toy.goal = torch.tensor([9.0, 0.0])
    for _ in range(6):
        toy.labels += VOTES
        toy.state = dataclasses.replace(toy.state, new_labels=toy.state.new_labels + VOTES)
        while toy.turn():
            pass
    assert float(toy.live.square().sum()) < 6.5
