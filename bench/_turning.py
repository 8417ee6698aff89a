"""Raters with a taste that may turn, and the learner that listens to them, without an engine.

Answers are tokens at random, people like some tokens and hate others, and of their votes a part is a coin
toss on top of the doubt that they have between answers of nearly equal worth. The learner is the service's
own; what its loop does between votes and reward models is done here vote by vote.
"""

import math
import random
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from deploy.engines.client import EngineClient
from deploy.registry.registry import Registry
from feedback.joining.labels import Answer, Label
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.model.shared import SharedModel
from learner.reward.ladder import log_loss
from learner.settings import LearnerSettings, RewardSettings

LIKED, HATED, WORDS = range(10, 16), range(16, 22), range(10, 40)
NOISE = 0.1
PORTION = 50
"""Votes that come together."""


def worth(tokens: Sequence[int]) -> int:
    """What an answer is worth to people, before their taste turns."""
    said = set(tokens)
    return len(said.intersection(LIKED)) - len(said.intersection(HATED))


class Crowd:
    """People who compare answers. Every vote has its own two answers."""

    def __init__(self, seed: int, raters: int = 60) -> None:
        self.draw, self.made = random.Random(f"crowd {seed}"), 0
        self.names = [f"rater-{i}" for i in range(raters)]

    def pair(self) -> tuple[Answer, Answer]:
        """Two answers of different worth."""
        while True:
            bodies = [self.draw.choices(WORDS, k=self.draw.randint(3, 14)) for _ in "ab"]
            if worth(bodies[0]) != worth(bodies[1]):
                break
        self.made += 1
        first, second = (
            _answer((*body, 2), f"{self.made}-{side}") for side, body in zip("ab", bodies, strict=True)
        )
        return first, second

    def votes(
        self, count: int, likes: int = 1, *, raters: Sequence[str] = (), against: Sequence[str] = ()
    ) -> list[Label]:
        """Comparisons by the crowd, or by `raters`. likes: 1, or -1 when people like what they hated; those
        in `against` have the other taste."""
        found = []
        for _ in range(count):
            a, b = self.pair()
            rater = self.draw.choice(raters or self.names)
            sign = -likes if rater in against else likes
            sure = 1 / (1 + math.exp(-sign * (worth(a.token_ids) - worth(b.token_ids))))
            coin = self.draw.random() < NOISE
            found.append(_vote(self.made, rater, float(self.draw.random() < (0.5 if coin else sure)), (a, b)))
        return found

    def truth(self, count: int, likes: int = 1) -> list[Label]:
        """Comparisons by somebody who is never wrong."""
        pairs = [self.pair() for _ in range(count)]
        better = [likes * (worth(a.token_ids) - worth(b.token_ids)) > 0 for a, b in pairs]
        return [
            _vote(-i, "truth", float(won), pair)
            for i, (won, pair) in enumerate(zip(better, pairs, strict=True))
        ]


class Life:
    """A learner that reads nothing but what it is told by `listen`, and has no engine.

    `alarms`: how often it found that taste has turned; `weights`: the least that each rater ever had.
    """

    def __init__(self, folder: Path, model: SharedModel, **reward: Any) -> None:
        folder.mkdir(exist_ok=True)
        self._folder, self._model, self._reward = folder, model, reward
        settings = LearnerSettings(
            data=folder,
            model=model.name,
            engine="http://127.0.0.1:9",
            min_labels=10**9,
            reward=RewardSettings(**reward),
        )
        log, registry = SqliteLog(folder / "log.db"), Registry(folder / "adapters")
        engine, metrics = EngineClient(settings.engine), LearnerMetrics()
        self.learner = Learner(settings, log, engine, registry, model, metrics)
        self.learner.reading.caught_up = True
        self.weights: dict[str, float] = {}

    def listen(self, votes: Sequence[Label], portion: int = PORTION) -> None:
        """Take votes, some at a time, and update the reward models when the learner's table says so."""
        learner = self.learner
        for start in range(0, len(votes), portion):
            for label in learner.labels.add(votes[start : start + portion]):
                learner.reading._count_new(label)
            learner.scoring.listen()
            while learner._next() == "fit":
                learner.scoring.update()
                for rater, standing in learner.standings.items():
                    self.weights[rater] = min(standing.weight, self.weights.get(rater, 1.0))

    def reborn(self) -> "Life":
        """The life that goes on after this one was saved and has died."""
        self.learner.save()
        self.learner.memory.close()
        self.learner.log.close()
        found = Life(self._folder, self._model, **self._reward)
        assert found.learner.resume()
        return found

    @property
    def alarms(self) -> int:
        (family,) = self.learner.metrics.taste_turns.collect()
        return int(sum(row.value for row in family.samples if row.name.endswith("_total")))

    def accuracy(self, pairs: Sequence[Label]) -> float:
        """The share of pairs whose better answer the reward model knows."""
        return self.learner.reward.accuracy(pairs)

    def loss_nats(self, votes: Sequence[Label]) -> float:
        """The mean log-loss of votes by what the learner expects."""
        chances = self.learner.reward.predictions(votes)
        return fmean(log_loss(vote.value, chance) for vote, chance in zip(votes, chances, strict=True))


def _answer(tokens: tuple[int, ...], name: str) -> Answer:
    return Answer(
        completion_id=name,
        choice=0,
        user=name,
        policy_version="base",
        arm="live",
        role="answer",
        table_epoch=0,
        prompt_token_ids=(3, 4, 5),
        token_ids=tokens,
        text="",
        finish_reason="stop",
        at=0.0,
        ttft_seconds=None,
        latency_seconds=0.0,
        sampling_plain=True,
    )


def _vote(number: int, rater: str, value: float, answers: tuple[Answer, ...]) -> Label:
    return Label(
        event_id=f"vote-{number}",
        revision=1,
        kind="comparison",
        rater=rater,
        tenant="default",
        at=60.0 * number,
        value=value,
        label="a" if value else "b",
        source="annotator",
        answers=answers,
    )
