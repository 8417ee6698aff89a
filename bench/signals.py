"""What people do beside few votes: what it adds, what noise costs, and how soon a signal that lies is found.

Simulated people (60 raters) are shown answers of random tokens, of which they like some and hate others. They
like an answer the more surely the more it is worth to them, and a tenth of what they think is a coin toss.
Either they vote on every answer, or on 2% of them; then what they do is told of every answer: `copied`
happens to 45% of those that they like and to 15% of others, `regenerated` the other way round, so either
tells a liked answer from another one with an AUC of .65. The learner is the service's own, without an engine
(`bench/_turning.py`): it has to find out what each signal is worth.

No policy is trained here. A win rate is that of the best of 8 fresh answers by the reward model against
another one, by their true worth, ties half: what a policy could climb to by this reward model.

- `share_of_full_vote_win_rate`: with 2% of the votes and both signals, over that of votes on everything.
  `share_of_few_votes_alone`: the same without signals.
- `noise_signal_cost`: what a third signal, a coin toss each time, takes from the win rate.
- `lying_signal_weight`: what one weighs whose sign is turned, after 500 events; a thumb weighs 1.
  `turned_signal_weight`: the same of one that was honest for 2,000 events before, after which it weighed
  `honest_signal_weight`.
"""

import argparse
import json
import math
import random
from collections.abc import Sequence
from itertools import count, pairwise
from pathlib import Path
from typing import Any, NamedTuple

SHOWN, VOTED = 6000, 0.02
QUESTIONS, BEST_OF = 2000, 8
COIN = 0.1
TELLING, LYING, TOSSED = (0.45, 0.15), (0.15, 0.45), (0.3, 0.3)
"""How often something is done with an answer: with one that is liked, and with another."""

TOLD = {"copied": TELLING, "regenerated": LYING}  # regenerated is done to what is not liked
HONEST_EVENTS, LYING_EVENTS = 2000, 500


class Shown:
    """Answers that people were shown, and what each of them thought of them."""

    def __init__(self, seed: int, answers: int) -> None:
        from bench._turning import Crowd, worth

        crowd = Crowd(seed)
        self.draw = random.Random(f"signals {seed}")
        self.answers = [side for _ in range(answers // 2) for side in crowd.pair()]
        self.raters = [self.draw.choice(crowd.names) for _ in self.answers]
        sure = [1 / (1 + math.exp(-worth(each.token_ids))) for each in self.answers]
        coins = [self.draw.random() < COIN for _ in self.answers]
        self.liked = [self.draw.random() < (0.5 if coin else p) for coin, p in zip(coins, sure, strict=True)]

    def votes(self, share: float) -> list[tuple[int, Any]]:
        """Thumbs on a share of the answers, each with its answer's number."""
        chosen = sorted(self.draw.sample(range(len(self.answers)), round(share * len(self.answers))))
        return [(i, self._label(i, "thumbs", f"thumb-{i}", float(self.liked[i]), {})) for i in chosen]

    def signals(
        self, name: str, often: Sequence[tuple[float, float]], start: int = 0
    ) -> list[tuple[int, Any]]:
        """What was done with the answers from number `start` on; often: with each, as it is liked or not."""
        found = []
        for i, chances in enumerate(often, start):
            did = self.draw.random() < chances[not self.liked[i]]
            said = {"name": name, "amount": float(did), "label": "yes" if did else "no"}
            found.append((i, self._label(i, "signal", f"{name}-{i}", 0.5, said)))
        return found

    def _label(self, i: int, kind: str, event_id: str, value: float, said: dict[str, Any]) -> Any:
        from feedback.joining.labels import Label

        known = {"label": "up" if value else "down"} | said
        return Label(
            event_id=event_id,
            revision=1,
            kind=kind,
            rater=self.raters[i],
            tenant="default",
            at=60.0 * i,
            value=value,
            source="end_user",
            answers=(self.answers[i],),
            **known,
        )


class Learnt(NamedTuple):
    """A learner, and what each signal weighed after each of its updates."""

    learner: Any
    slopes: list[dict[str, float]]


class Seed:
    """The lives of one seed."""

    def __init__(self, folder: Path, model: Any, seed: int) -> None:
        from bench._turning import Crowd

        self._folder, self._model, self._seed, self._numbers = folder, model, seed, count()
        crowd = Crowd(seed + 1000)
        self._fresh = [
            [side for _ in range((BEST_OF + 2) // 2) for side in crowd.pair()][: BEST_OF + 1]
            for _ in range(QUESTIONS)
        ]

    def learned(
        self, events: Sequence[tuple[int, Any]], halts: Sequence[int] = (SHOWN // 2, SHOWN)
    ) -> Learnt:
        """A learner that was told all that happened, in its order. halts: numbers of answers up to which it
        is told before it updates its reward models."""
        from bench._turning import Life

        life = Life(self._folder / f"{self._seed}-{next(self._numbers)}", self._model, signals_read=3 * SHOWN)
        slopes = []
        for start, end in pairwise([0, *halts]):
            life.learner.labels.add([label for i, label in _in_order(events) if start <= i < end])
            life.learner.scoring.update()
            slopes.append(dict(life.learner.labels.slopes))
        return Learnt(life.learner, slopes)

    def win_rate(self, learnt: Learnt) -> float:
        """Of the best of some answers by the reward model against another one, by what they are worth."""
        from bench._turning import worth

        learner, won = learnt.learner, 0.0
        items = [answer.judged for answers in self._fresh for answer in answers[1:]]
        scores = learner.reward.rewards(items, learner.settings.pessimism)[0].view(QUESTIONS, BEST_OF)
        for answers, best in zip(self._fresh, scores.argmax(1).tolist(), strict=True):
            ahead = worth(answers[1 + best].token_ids) - worth(answers[0].token_ids)
            won += 0.5 if ahead == 0 else float(ahead > 0)
        return won / QUESTIONS


def measure(folder: Path, model: Any, seed: int) -> dict[str, float]:
    """All figures of one seed."""
    world, shown = Seed(folder, model, seed), Shown(seed, SHOWN)
    few = shown.votes(VOTED)
    told = [each for name, often in TOLD.items() for each in shown.signals(name, [often] * SHOWN)]
    noise = shown.signals("accepted", [TOSSED] * SHOWN)
    full = world.win_rate(world.learned(shown.votes(1.0)))
    alone = world.win_rate(world.learned(few))
    heard = world.learned([*few, *told])
    with_signals = world.win_rate(heard)
    with_noise = world.win_rate(world.learned([*few, *told, *noise]))
    weights = heard.slopes[-1]
    turned, before = lying(world, shown, [*few, *told], HONEST_EVENTS)
    return {
        "votes": len(few),
        "win_rate_full": full,
        "win_rate_few": alone,
        "win_rate_signals": with_signals,
        "win_rate_noise": with_noise,
        "share_of_full_vote_win_rate": with_signals / full,
        "share_of_few_votes_alone": alone / full,
        "noise_signal_cost": with_signals - with_noise,
        **{f"weight_{name}": weights.get(name, 0.0) for name in TOLD},
        "lying_signal_weight": lying(world, shown, [*few, *told], 0)[0],
        "turned_signal_weight": turned,
        "honest_signal_weight": before,
    }


def lying(world: Seed, shown: Shown, others: Sequence[tuple[int, Any]], honest: int) -> tuple[float, float]:
    """What a signal weighs after 500 lies, and before them, when so many honest events had come. others:
    votes and signals that are told of beside it."""
    often = [TELLING] * honest + [LYING] * LYING_EVENTS
    events = [*others, *shown.signals("accepted", often, SHOWN - len(often))]
    learnt = world.learned(events, (SHOWN - LYING_EVENTS, SHOWN))
    before, after = (abs(slopes.get("accepted", 0.0)) for slopes in learnt.slopes)
    return after, before


def _in_order(events: Sequence[tuple[int, Any]]) -> list[tuple[int, Any]]:
    return sorted(events, key=lambda each: each[0])


def main(argv: list[str]) -> int:
    """Run the benchmark; its last line is one JSON object, of the worst of the seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench signals", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 0 on")
    arguments = parser.parse_args(argv)
    from bench._seeds import each_seed, worst

    rows = each_seed(arguments.seeds, measure)
    most = {"noise_signal_cost", "lying_signal_weight", "turned_signal_weight", "votes"}
    found = worst(rows, rows[0].keys() - most)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return 0
