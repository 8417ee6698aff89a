"""What happens when PPO climbs a bad score: the learner with its safeguards, and plain PPO beside it.

A proxy reward model is fitted to few comparisons, of which 25% say the opposite of what was meant. The gold
utility is known to the benchmark alone: the friendly persona's (hearken/personas), who likes kind words, once
each, but less 1 for every 10 words, so that too much of what is liked does harm. Two learners climb the same
votes with the same PPO and rollouts by vLLM:

    ours    the service's defaults: an ensemble of heads, pessimism, KL penalty and limits, the self-check; it
            ends when the learner stops itself to offer or to refuse what it has
    plain   one head that takes every vote at its word (no label smoothing, a wide prior, no doubt about
            length), no pessimism, no KL penalty, no limits, no self-check; it ends after a number of steps

Every few steps the policy answers the same held-out questions, as the base did at the start. In a row: KL to
the base (nats per response), proxy (the mean score of the answers, by the reward model that is climbed) and
gold (their mean utility), both above those of the base's answers; +- is a standard error, questions paired.
`gold_min_delta`: the lowest gold of ours up to where the learner stopped itself; the start, 0, does not
count. `plain_gold_min_delta` and `plain_gold_final_delta`: the lowest and the last one of plain PPO. With
several seeds, the lowest of the seeds for ours, the mean for plain.
"""

import argparse
import dataclasses
import json
import math
import statistics
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FLIPPED = 0.25
VOTES = 160
TASTE, LENGTH_WEIGHT = "friendly", -1.0
QUESTIONS = 400
ROLLOUTS = 64
PLAIN_STEPS = 40
EVERY = {"ours": 4, "plain": 8}  # steps between two measurements
LONGEST_SECONDS = 300.0  # of a climb


@dataclass(frozen=True, slots=True)
class Row:
    """Where a policy stood after some PPO steps."""

    step: int
    kl_nats: float
    proxy: float
    gold: float
    gold_error: float


class Watched:
    """The learner of a school, measured from outside on fixed questions."""

    def __init__(self, school: Any, questions: list[str], folder: Path) -> None:
        from hearken.base.conversation import asked
        from hearken.demo.evaluate import tokenize
        from learner.rollouts.sampling import RolloutSampler

        self.school, self.learner = school, school.learner
        self._questions = questions
        self._prompts = tokenize(school.engine.url, [asked(q) for q in questions])
        self._sampler = RolloutSampler(school.engine, folder)
        self._base = self._answers("base")
        self.rows = [Row(0, 0.0, 0.0, 0.0, 0.0)]

    def _answers(self, version: str) -> list[Any]:
        from hearken.demo.evaluate import sample

        return sample(self.school.engine, version, self._prompts, self.school.max_tokens)

    def _utilities(self, answers: list[Any]) -> list[float]:
        pairs = zip(self._questions, answers, strict=True)
        return [self.school.persona.utility(question, answer.text) for question, answer in pairs]

    def _proxy(self, answers: list[Any]) -> float:
        items = [(answer.prompt_token_ids, answer.token_ids) for answer in answers]
        return float(self.learner.reward.score(items)[0].mean())

    def measure(self) -> None:
        """Add a row for the policy as it is now."""
        from hearken.demo.evaluate import estimate

        step = self.learner.place.steps
        with self._sampler.serving(self.learner.model.save_policy, 10_000 + step) as name:
            answers = self._answers(name)
        now, start = self._utilities(answers), self._utilities(self._base)
        gold = estimate([a - b for a, b in zip(now, start, strict=True)])
        self.rows.append(
            Row(
                step=step,
                kl_nats=self.learner.optimiser.measure(answers).kl_nats_base,
                proxy=self._proxy(answers) - self._proxy(self._base),
                gold=gold.mean,
                gold_error=gold.standard_error,
            )
        )

    def _undone(self) -> float:
        return self.learner.metrics.registry.get_sample_value("hearken_ppo_undone_total") or 0.0

    def climb(self, every: int, last: int) -> str:
        """Turn after turn until the learner stops itself or has taken `last` steps. Gives why it ended."""
        learner, started, refused = self.learner, time.perf_counter(), self.school.refusals()
        place, undone = learner.place, self._undone()
        while place.steps < last:
            steps = place.steps
            learner.turn(0.0)
            if learner.state.stage == "offering" or learner.watch.concern() or learner.waits:
                break
            if place.steps > steps and place.steps % every == 0:
                self.measure()
            if time.perf_counter() - started > LONGEST_SECONDS:
                raise RuntimeError(f"the learner does not go on: {learner.state}")
        else:
            if self.rows[-1].step < place.steps:
                self.measure()
            return f"{last} steps"
        if self.rows[-1].step < place.steps or self._undone() > undone:
            self.measure()  # before it offers or goes back
        while not learner.waits and self.school.refusals() == refused:
            learner.turn(0.0)  # the offline gate
        return "refused" if learner.state.trial is None else "offered"


def table(name: str, rows: Sequence[Row], ended: str) -> None:
    """Print the rows of one side."""
    print(f"{name}\n{'step':>6} {'KL':>7} {'proxy':>7} {'gold':>7} {'+-':>6}")
    for row in rows:
        print(f"{row.step:6d} {row.kl_nats:7.2f} {row.proxy:7.2f} {row.gold:7.3f} {row.gold_error:6.3f}")
    print(f"  ended: {ended}", flush=True)


def settings(side: str, folder: Path, model: Path, url: str, seed: int) -> Any:
    """The learner's settings: the defaults for ours, no safeguard for plain PPO."""
    from learner.settings import LearnerSettings, PPOSettings

    ours = LearnerSettings(
        data=folder,
        model=str(model),
        engine=url,
        seed=seed,
        min_labels=80,
        labels_per_update=80,
        rollouts_per_step=ROLLOUTS,
    )
    if side == "ours":
        return ours
    return dataclasses.replace(
        ours,
        pessimism=0.0,
        kl_budget_nats=math.inf,
        kl_publish_nats=math.inf,
        steps_per_candidate=10 * PLAIN_STEPS,
        self_check=None,
        ppo=PPOSettings(kl_coefficient=0.0, kl_coefficient_min=0.0, kl_step_nats=math.inf),
    )


def one_seed(seed: int, model: Path, url: str, scratch: Path) -> dict[str, list[Row]]:
    """Both sides on the same votes."""
    from bench._raters import School, noisy_persona
    from hearken.models.support_desk import prompts
    from learner.reward.features import AnswerFeatures
    from learner.reward.ladder import RewardLadder
    from learner.settings import RewardSettings

    persona = dataclasses.replace(noisy_persona(TASTE, 2 * FLIPPED), length_weight=LENGTH_WEIGHT)
    credulous = RewardSettings(heads=1, noise=0.0, prior_std=10.0, length_doubt=0.0, rung_confidence=math.inf)
    ballots: list[Any] = []
    found: dict[str, list[Row]] = {}
    for side in ("ours", "plain"):
        folder = scratch / f"{side}-{seed}"
        folder.mkdir()
        with closing(School(settings(side, folder, model, url, seed), persona)) as school:
            if side == "plain":
                features = AnswerFeatures(school.learner.model)
                school.learner.reward = RewardLadder(features, credulous, seed=seed)
            ballots = ballots or school.comparisons(prompts(VOTES, 7000 + seed))
            school.take(ballots)
            watched = Watched(school, prompts(QUESTIONS, seed, held_out=True), folder / "watched")
            ended = watched.climb(EVERY[side], PLAIN_STEPS)
        table(f"seed {seed}, {side}", watched.rows, ended)
        found[side] = watched.rows
    return found


def main(argv: list[str]) -> int:
    """Climb with and without safeguards and print how gold fares."""
    parser = argparse.ArgumentParser(prog="python -m bench overopt", description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)

    from hearken.models.tiny import ensure_tiny

    model = ensure_tiny()  # not in the time that counts
    started = time.perf_counter()
    from bench._raters import lonely_engine

    seeds = range(arguments.first_seed, arguments.first_seed + arguments.seeds)
    with tempfile.TemporaryDirectory() as scratch, lonely_engine(arguments.threads) as url:
        found = [one_seed(seed, model, url, Path(scratch)) for seed in seeds]
    ours = [min(row.gold for row in rows["ours"][1:]) for rows in found]
    plain = [[row.gold for row in rows["plain"][1:]] for rows in found]
    result = {
        "gold_min_delta": min(ours),
        "gold_final_delta": statistics.fmean(rows["ours"][-1].gold for rows in found),
        "gold_error": max(row.gold_error for rows in found for row in rows["ours"]),
        "kl_nats": max(rows["ours"][-1].kl_nats for rows in found),
        "plain_gold_min_delta": statistics.fmean(min(golds) for golds in plain),
        "plain_gold_peak_delta": statistics.fmean(max(golds) for golds in plain),
        "plain_gold_final_delta": statistics.fmean(golds[-1] for golds in plain),
        "plain_kl_nats": max(rows["plain"][-1].kl_nats for rows in found),
        "seconds": time.perf_counter() - started,
    }
    print(json.dumps({key: round(value, 4) for key, value in result.items()}))
    return 0
