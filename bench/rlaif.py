"""A judge model beside people: what its votes add to few of theirs, and what those of a wrong one do.

Simulated people (60 raters, a tenth of whose votes are coin tosses) vote on 200 pairs of answers, and a model
on these and 1,800 more. The learner is the service's own, without an engine (`bench/_turning.py`). The model
is right about which answer is worth more in the share `--right` of all pairs; another one is wrong on purpose
about as many, and one tosses a coin.

`accuracy_alone`, `accuracy_judge`: that of the reward model on pairs of which the truth is known, after
people's votes alone and with the model's; `gain` is the difference. `weight_judge`, `weight_liar`,
`weight_coin`: what a vote of each model weighs in the end; `accuracy_liar`, `accuracy_coin`: with theirs.
"""

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

PEOPLE, MORE, HELD_BACK = 200, 1800, 2000


def judged(votes: Sequence[Any], right: float, draw: random.Random) -> list[Any]:
    """A model's votes on the pairs of others: it says in a share `right` of them which is worth more."""
    from bench._turning import worth
    from learner.votes.reliability import MODEL

    found = []
    for vote in votes:
        a, b = (worth(answer.token_ids) for answer in vote.answers)
        says = float((a > b) == (draw.random() < right))
        said = {"event_id": f"judged-{vote.event_id}", "rater": "judge", "source": MODEL}
        found.append(replace(vote, **said, value=says, label="a" if says else "b"))
    return found


def one(folder: Path, model: Any, seed: int, right: float | None) -> tuple[float, float]:
    """The reward model's accuracy, and the weight of a vote of the judge (right None: there is none)."""
    from bench._turning import Crowd, Life

    crowd, life = Crowd(seed), Life(folder, model)
    votes = crowd.votes(PEOPLE)
    others = [] if right is None else judged([*votes, *crowd.votes(MORE)], right, random.Random(seed))
    life.listen([*votes, *others], PEOPLE + len(others))
    life.learner.scoring.update()  # by itself it waits for more than 200
    standing = life.learner.standings.get("judge")
    return life.accuracy(crowd.truth(HELD_BACK)), 0.0 if standing is None else standing.weight


def main(argv: list[str]) -> int:
    """Run the benchmark; its last line is one JSON object, of the worst of the seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench rlaif", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--right", type=float, default=0.8, help="share of pairs (default: 0.8)")
    arguments = parser.parse_args(argv)
    from bench._seeds import random_model, worst

    judges = {"alone": None, "judge": arguments.right, "liar": 1 - arguments.right, "coin": 0.5}
    with random_model() as (folder, model):
        rows = []
        for seed in range(arguments.seeds):
            row: dict[str, float] = {}
            for name, right in judges.items():
                row[f"accuracy_{name}"], weight = one(folder / f"{seed}-{name}", model, seed, right)
                if right is not None:
                    row[f"weight_{name}"] = weight
            row["gain"] = row["accuracy_judge"] - row["accuracy_alone"]
            rows.append(row)
            print(f"seed {seed}: " + "  ".join(f"{k} {v:.3f}" for k, v in row.items()), flush=True)
    found = worst(rows, rows[0].keys() - {"weight_liar", "weight_coin"})
    print(json.dumps({name: round(value, 4) for name, value in found.items()}))
    return 0
