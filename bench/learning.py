"""What people's votes make of a policy: the true win rate against the base, and the KL that it costs.

Three seeds, each with voters, votes and training of its own. 200 simulated raters have a taste that nobody
else knows (a persona, hearken/personas); 10% of their votes are a coin toss, and the others are as unsure as
people are between answers that they like nearly as much. They choose between two answers of the live policy,
600 times while that is the base and 400 times of what the learner has made of it then: 1,000 comparisons in
all, a quarter of them by raters who judge and never train. The learner is the service's own, from the log
over the reward model, PPO with rollouts from vLLM and the KL limits to the offline gate; a candidate that
passes it becomes live at once.

With `--asking` raters see fewer pairs: for each comparison two answers to `--of` questions are drawn, and
shown are those that would teach most (`feedback/updates/teaching.py`), but for a share that chance chooses.
Only these measure the reward model. `--rounds` says how many comparisons there are: 300,200 by default then.

Everything once with PPO and once with DPO (`dpo_*`) on the same kind of votes; `--optimiser` names others.

`win_rate`: the share of 300 fresh questions, none like those before, to which the last live policy's answer
has the higher utility, ties half; the mean of the seeds. `kl_nats`: KL(live || base) per response, the
highest of the seeds, from what the engine samples and what it thinks of it under the base. `seconds`: the
engine's start, and for every seed votes, training and evaluation. Then the same with thumbs alone, 2,000 of
them (`thumbs_*`), which say nothing to DPO.
"""

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from learner.optimiser_names import OPTIMISERS

NOISE = 0.1
TASTES = ("friendly", "thorough", "brisk")  # the shipped personas
ROUNDS: dict[str, tuple[int, ...]] = {"comparisons": (600, 400), "thumbs": (1300, 700)}
ON_PAIRS = ("dpo", "ipo")  # learn nothing from thumbs
ASKED = (300, 200)  # comparisons with `--asking`
RANDOM_SHARE = 0.25  # of these, shown by chance
STEPS = 12  # of the optimiser in a round, at most
ROLLOUTS = 64  # of a step
MAX_TOKENS = 96  # of an answer
FRESH = 300
KL_SAMPLES = 100
MAX_TURNS = 200
TRIES = 3  # candidates that the gate may refuse before a round ends; it trains on after each


def train(school: Any, votes: Callable[[int, int], None], rounds: tuple[int, ...]) -> None:
    """Votes, then the learner's turns until it offers a candidate, refuses `TRIES`, or waits for more votes;
    round by round."""
    learner = school.learner
    for number, count in enumerate(rounds):
        votes(number, count)
        refused = school.refusals()
        for _ in range(MAX_TURNS):
            learner.turn(0.0)
            tries = school.refusals() - refused
            if learner.waits or tries >= TRIES:
                break
        else:
            raise RuntimeError(f"no candidate after {MAX_TURNS} turns: {learner.state}")
        if learner.state.trial is not None:
            school.succeed(learner.state.trial)
        print(
            f"  {count} votes; reward model predicts {accuracy(school):.2f} of the judging raters' votes; "
            f"{learner.place.steps} steps so far; live is {school.live}",
            flush=True,
        )


def accuracy(school: Any) -> float:
    """The share of the judging raters' votes that the reward model foresees, where chance chose the pair."""
    votes = [vote for vote in school.learner.labels.judging if not vote.is_selected]
    found: float = school.learner.reward.accuracy(votes)
    return found


def one_seed(
    kind: str, optimiser: str, taste: str, seed: int, url: str, model: Path, rounds: tuple[int, ...], of: int
) -> dict[str, float]:
    """One learner from the base: win rate, its standard error and KL of what is live in the end. of:
    questions for each comparison, 1 where all are shown."""
    from bench._raters import School, noisy_persona
    from hearken.base.conversation import asked
    from hearken.demo.evaluate import evaluate, mean_utility
    from hearken.models.support_desk import prompts
    from learner.settings import LearnerSettings

    persona = noisy_persona(taste, NOISE)
    with tempfile.TemporaryDirectory() as scratch:
        settings = LearnerSettings(
            data=Path(scratch),
            model=str(model),
            engine=url,
            seed=seed,
            optimiser=optimiser,
            min_labels=min(400, rounds[0] * 2 // 3),  # of training raters, who are three of four
            labels_per_update=min(200, min(rounds) // 2),
            rollouts_per_step=ROLLOUTS,
            steps_per_candidate=STEPS,
            max_tokens=MAX_TOKENS,
            kl_refill_nats=0.0,  # what 6 nats buy is asked here
        )
        with closing(School(settings, persona)) as school:
            usual: list[float] = []  # what the base's answers are worth

            def votes(number: int, count: int) -> None:
                questions = prompts(count * of, seed=1000 * seed + number)
                if of > 1:
                    school.ask(questions, of, RANDOM_SHARE)
                elif kind == "comparisons":
                    school.compare(questions)
                else:
                    if not usual:
                        some = prompts(200, seed=500 + seed)
                        usual.append(
                            mean_utility(school.engine, [asked(q) for q in some], persona.utility, MAX_TOKENS)
                        )
                    school.thumb(questions, usual[0])

            train(school, votes, rounds)
            fresh = [asked(question) for question in prompts(FRESH, seed, held_out=True)]
            found = evaluate(school.engine, school.live, fresh, persona.utility, MAX_TOKENS, KL_SAMPLES)
            school.retire()
    print(
        f"{kind}, {optimiser}, seed {seed} ({persona.name}): win rate {found.win_rate.mean:.3f} "
        f"+- {found.win_rate.standard_error:.3f}, KL {found.kl_nats_base.mean:.2f} "
        f"+- {found.kl_nats_base.standard_error:.2f} nats, "
        f"utility {found.utility_base:.2f} -> {found.utility_live:.2f}",
        flush=True,
    )
    return {"win_rate": found.win_rate.mean, "kl_nats": found.kl_nats_base.mean}


def runs(only: str | None, optimisers: Sequence[str]) -> list[tuple[str, str]]:
    """Kinds of votes with the optimisers that can learn from them."""
    kinds = [kind for kind in ROUNDS if only in (None, kind)]
    return [(k, o) for k in kinds for o in dict.fromkeys(optimisers) if k != "thumbs" or o not in ON_PAIRS]


def _rounds(text: str) -> tuple[int, ...]:
    """Counts of votes, like 300,200. Raises ArgumentTypeError for what is none."""
    counts = text.split(",")
    if not all(count.isdecimal() and int(count) >= 4 for count in counts):
        raise argparse.ArgumentTypeError(f"{text} must be counts of at least 4 votes, like 300,200")
    return tuple(map(int, counts))


def main(argv: list[str]) -> int:
    """Train on comparisons, then on thumbs, and print what the policies are worth."""
    parser = argparse.ArgumentParser(prog="python -m bench learning", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--taste", choices=TASTES, default=TASTES[0])
    parser.add_argument("--only", choices=sorted(ROUNDS), help="leave the other kind of votes out")
    text = "may be repeated (default: ppo and dpo)"
    parser.add_argument("--optimiser", action="append", choices=tuple(OPTIMISERS), help=text)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--asking", action="store_true", help="comparisons alone, of answers that teach most")
    parser.add_argument("--of", type=int, default=30, help="questions for each comparison with --asking")
    parser.add_argument("--rounds", type=_rounds, help="comparisons of each round, like 300,200")
    arguments = parser.parse_args(argv)
    if arguments.asking and arguments.of < 2:
        parser.error("--of is the number of questions to choose from, 2 at least")
    only = "comparisons" if arguments.asking else arguments.only

    from hearken.models.tiny import ensure_tiny

    model = ensure_tiny()  # not in the time that counts
    started = time.perf_counter()
    from bench._raters import lonely_engine

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    result: dict[str, Any] = {}
    with lonely_engine(arguments.threads) as url:
        for kind, optimiser in runs(only, arguments.optimiser or ("ppo", "dpo")):
            name = ("" if optimiser == "ppo" else f"{optimiser}_") + ("thumbs_" if kind == "thumbs" else "")
            rounds = ROUNDS[kind]
            if kind == "comparisons":
                rounds = arguments.rounds or (ASKED if arguments.asking else rounds)
            of = arguments.of if arguments.asking else 1
            found = [
                one_seed(kind, optimiser, arguments.taste, seed, url, model, rounds, of) for seed in seeds
            ]
            rates = [seed["win_rate"] for seed in found]
            result |= {
                f"{name}win_rate": round(statistics.fmean(rates), 4),
                f"{name}win_rates": [round(rate, 4) for rate in rates],
                f"{name}kl_nats": round(max(seed["kl_nats"] for seed in found), 3),
                f"{name}votes": sum(rounds),
                f"{name}seconds": round(time.perf_counter() - started, 1),
            }
            started = time.perf_counter()
    print(json.dumps(result))
    return 0
