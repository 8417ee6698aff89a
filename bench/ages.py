"""Votes have an age: what a reward model makes of a turn of taste, and what ageing costs without one.

Simulated people (60 raters, a tenth of whose votes are coin tosses) compare answers of random tokens of which
they like some and hate others. The learner is the service's own, without an engine (`bench/_turning.py`). For
each seed, all after 2,000 votes of the old taste:

- A turn: people like the opposite. `accuracy` is that of the reward model on pairs of the new taste after 600
  new votes, `never_accuracy` that of a learner whose votes do not age.
- No turn: 1,200 more votes of the same taste, but that one rater changes their mind alone. `excess_nats` is
  the log-loss of a held-back vote above that of a learner whose votes do not age, the mean of what is
  measured at every 200 votes; `false_alarms` should be none.
- Sybils: a twentieth of the raters always says the opposite (`sybils_change`, in accuracy after the turn), or
  as many votes as a twentieth of all come from new raters in one crowd (`crowd_change`, without a turn).

`honest_weight` is the least weight that an honest rater ever had, in any of these.
"""

import argparse
import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

OLD, NEW, MORE = 2000, 600, 1200
NEVER: dict[str, Any] = {"half_life_min": float("inf"), "turn_alpha": 0.0}
HELD_BACK = 1000


class Seed:
    """The worlds of one seed."""

    def __init__(self, folder: Path, model: Any, seed: int) -> None:
        self._folder, self._model, self._seed, self._numbers = folder, model, seed, count()
        self.honest: list[float] = []
        self.alarms = 0

    def life(self, sybils: Sequence[str] = (), **reward: Any) -> tuple[Any, Any]:
        """A crowd, and a learner that knows its old taste."""
        from bench._turning import Crowd, Life

        crowd = Crowd(self._seed)
        life = Life(self._folder / f"{self._seed}-{next(self._numbers)}", self._model, **reward)
        life.listen(crowd.votes(OLD - 400, against=sybils), OLD)
        life.listen(crowd.votes(400, against=sybils), 200)
        return crowd, life

    def end(self, life: Any, sybils: Sequence[str] = ()) -> None:
        """Remember what weights honest raters had."""
        self.honest += [weight for rater, weight in life.weights.items() if rater not in sybils]

    def turn(self, sybils: Sequence[str] = (), **reward: Any) -> float:
        """The accuracy on pairs of the new taste."""
        crowd, life = self.life(sybils, **reward)
        life.listen(crowd.votes(NEW, -1, against=sybils))
        self.end(life, sybils)
        found: float = life.accuracy(crowd.truth(HELD_BACK, -1))
        return found

    def without(self, **reward: Any) -> float:
        """The mean loss of held-back votes without a turn, in nats."""
        crowd, life = self.life(**reward)
        held_back = crowd.votes(HELD_BACK)
        losses = []
        for _ in range(MORE // 200):
            life.listen(crowd.votes(200, against=("rater-0",)))
            losses.append(life.loss_nats(held_back))
        self.end(life)
        self.alarms += life.alarms
        return fmean(losses)

    def crowded(self, sybils: int) -> float:
        """The accuracy without a turn, after so many votes of new raters against all."""
        crowd, life = self.life()
        names = [f"sybil-{i}" for i in range(sybils)]
        pairs = crowd.truth(HELD_BACK)
        honest = crowd.votes(NEW // 2)
        wave = crowd.votes(sybils, -1, raters=names) if sybils else []
        life.listen([*honest[:100], *wave, *honest[100:]])
        self.end(life, names)
        found: float = life.accuracy(pairs)
        return found


def measure(folder: Path, model: Any, seed: int) -> dict[str, float]:
    """All figures of one seed."""
    worlds = Seed(folder, model, seed)
    accuracy = worlds.turn()
    never = worlds.turn(**NEVER)
    excess = worlds.without() - worlds.without(**NEVER)
    sybils = worlds.turn([f"rater-{i}" for i in range(3)])
    crowd = worlds.crowded((OLD + NEW) // 20) - worlds.crowded(0)
    return {
        "accuracy": accuracy,
        "never_accuracy": never,
        "excess_nats": excess,
        "false_alarms": worlds.alarms,
        "sybils_change": sybils - accuracy,
        "crowd_change": crowd,
        "honest_weight": min(worlds.honest),
    }


def main(argv: list[str]) -> int:
    """Run the benchmark; its last line is one JSON object, of the worst of the seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench ages", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3, help="so many, from 0 on; a minute of CPU each")
    arguments = parser.parse_args(argv)
    from bench._seeds import each_seed, worst

    rows = each_seed(arguments.seeds, measure)
    found = worst(rows, ("accuracy", "never_accuracy", "honest_weight"))
    for name in ("sybils_change", "crowd_change"):
        found[name] = max((row[name] for row in rows), key=abs)
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return 0
