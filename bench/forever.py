"""Learning that does not end: twelve rounds of votes, in the middle of which people's taste turns.

200 simulated raters, a tenth of whose votes are coin tosses, choose between two answers of the live policy,
400 times in a round. From round 7 on they like the opposite of what they liked. The learner is the service's
own, from the log over reward models, PPO and KL limits to the gate and its guards; a candidate that passes is
live at once. `--from sft` begins with a version 0 that was made of demonstrations.

After each round, with the same questions and seeds: the share of questions to which live's answer has the
higher utility than the base's under the taste of the round (`win_rate`), the same for topics that nobody asks
about in the first six rounds (`unseen_win_rate`), KL(live || base) per response, and the perplexity of the
base's own answers on a second domain, as a multiple of the base's. The learner guards that domain with
prompts of its own, none of which is measured here.

`dip_before_turn`: by how much the win rate was ever below its best before the turn; `unseen_loss`: how far
the unseen topics were below their best after six rounds. `win_rate_N_after_turn`: the best of N rounds. A
plot of all seeds is written to `--plot`.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

VOTES, ROUNDS, TURN = 400, 12, 6
STEPS, ROLLOUTS, MAX_TOKENS = 12, 64, 96
MAX_TURNS = 300
QUESTIONS, UNSEEN_QUESTIONS, KL_SAMPLES, DOMAIN = 400, 200, 100, 64
UNSEEN = ("warranty", "subscription", "invoice")
"""Topics that nobody asks about before taste turns."""


@dataclass(frozen=True, slots=True)
class Round:
    """What became of the votes of a round (steps: of the optimiser), and what live is worth after it."""

    votes: int
    steps: int
    live: str
    win_rate: float
    unseen_win_rate: float
    kl_nats: float
    perplexity_ratio: float


class Examination:
    """The same questions and texts after every round, and what the base makes of them."""

    def __init__(self, engine: Any, seed: int, second_domain: Sequence[Any]) -> None:
        from feedback.core.events import BASE
        from hearken.base.conversation import asked
        from hearken.demo.evaluate import tokenize
        from hearken.models.support_desk import TOPICS, prompts

        self._engine = engine
        seen = [name for name in TOPICS if name not in UNSEEN]
        counts = (QUESTIONS, seen), (UNSEEN_QUESTIONS, UNSEEN)
        self._questions = [prompts(n, seed, held_out=True, about=about) for n, about in counts]
        self._prompts = [tokenize(engine.url, [asked(q) for q in some]) for some in self._questions]
        self._usual = [self._answers(BASE, prompts) for prompts in self._prompts]
        domain = self._answers(BASE, tokenize(engine.url, second_domain))
        self._domain = [(answer.prompt_token_ids, answer.token_ids) for answer in domain if answer.token_ids]
        self._domain_nats = self._nats(BASE)

    def of(self, live: str, persona: Any) -> dict[str, float]:
        """Win rates, KL and perplexity of a version, by a taste."""
        from hearken.demo.evaluate import kl_nats

        ours = [self._answers(live, prompts) for prompts in self._prompts]
        sides = zip(self._questions, ours, self._usual, strict=True)
        rates = [_win_rate(persona, questions, some, usual) for questions, some, usual in sides]
        tokens = sum(len(answer) for _, answer in self._domain)
        return {
            "win_rate": rates[0],
            "unseen_win_rate": rates[1],
            "kl_nats": kl_nats(self._engine, ours[0][:KL_SAMPLES]).mean,
            "perplexity_ratio": math.exp((self._nats(live) - self._domain_nats) / tokens),
        }

    def _answers(self, version: str, prompts: list[list[int]]) -> list[Any]:
        seeds = range(len(prompts))
        found: list[Any] = self._engine.sample(version, prompts, max_tokens=MAX_TOKENS, seeds=seeds)
        return found

    def _nats(self, version: str) -> float:
        return -sum(sum(self._engine.logprobs(version, *item)) for item in self._domain)


def _win_rate(persona: Any, questions: Sequence[str], ours: Sequence[Any], theirs: Sequence[Any]) -> float:
    from hearken.demo.evaluate import wins

    utilities = [
        [persona.utility(q, answer.text) for q, answer in zip(questions, some, strict=True)]
        for some in (ours, theirs)
    ]
    return statistics.fmean(wins(*utilities))


def opposite(persona: Any) -> Any:
    """Who likes what the persona dislikes."""
    rules = tuple(replace(rule, weight=-rule.weight) for rule in persona.rules)
    return replace(persona, rules=rules, length_weight=-persona.length_weight)


def learn(school: Any) -> int:
    """The learner's turns until it has nothing to do without new votes; how many steps it took."""
    learner = school.learner
    before = learner.place.steps
    for _ in range(MAX_TURNS):
        learner.turn(0.0)
        if learner.waits and learner.state.trial is None:
            return int(learner.place.steps - before)
        if learner.state.trial is not None:
            school.succeed(learner.state.trial)
    raise RuntimeError(f"the learner did not come to an end in {MAX_TURNS} turns: {learner.state}")


def version_0(model: Path, data: Path, seed: int) -> str:
    """A version that `hearken sft` would make of answers that say step by step what to do."""
    from deploy.registry.registry import Registry
    from hearken.data.fine_tuning import publish_first
    from hearken.data.importing import encoder
    from hearken.models.support_desk import demonstrations, traits
    from learner.model.shared import SharedModel
    from learner.settings import FineTuningSettings
    from learner.sft.fine_tuning import fine_tune

    rows = [row for row in demonstrations(6000, 10_000 + seed) if isinstance(row["prompt"], str)]
    taught = [row for row in rows if "steps" in traits(row["completion"])][:600]
    encode = encoder(model)
    items = [encode(({"role": "user", "content": row["prompt"]},), row["completion"]) for row in taught]
    shared = SharedModel.fitting(str(model), rank=None)
    report = fine_tune(shared, items, FineTuningSettings(seed=seed))
    return publish_first(Registry(data / "adapters"), shared, report).version


def one_seed(start: str, taste: str, seed: int, rounds: int, url: str, model: Path) -> list[Round]:
    """Twelve rounds in the life of one learner."""
    from bench._raters import School, noisy_persona
    from deploy.guards import GuardLimits
    from hearken.demo import everyday
    from hearken.models.support_desk import TOPICS, prompts
    from learner.main import with_rank
    from learner.settings import LearnerSettings

    persona = noisy_persona(taste, 0.1)
    domain = everyday.prompts(2 * DOMAIN, seed)
    seen = [name for name in TOPICS if name not in UNSEEN]
    found: list[Round] = []
    with tempfile.TemporaryDirectory(prefix="hearken-bench-") as scratch:
        data = Path(scratch)
        first = version_0(model, data, seed) if start == "sft" else None
        (data / "guarded.jsonl").write_text(
            "".join(json.dumps({"prompt": p}) + "\n" for p in domain[:DOMAIN])
        )
        settings = LearnerSettings(
            data=data,
            model=str(model),
            engine=url,
            seed=seed,
            min_labels=VOTES // 2,
            rollouts_per_step=ROLLOUTS,
            steps_per_candidate=STEPS,
            max_tokens=MAX_TOKENS,
            guards=GuardLimits(prompts=data / "guarded.jsonl"),
        )
        with closing(School(with_rank(settings), persona)) as school:
            examination = Examination(school.engine, seed, domain[DOMAIN:])
            if first is not None:
                school.promote(first)
            for number in range(rounds):
                school.persona = persona if number < TURN else opposite(persona)
                about = seen if number < TURN else TOPICS
                school.compare(prompts(VOTES, 1000 * seed + number, about=about))
                steps = learn(school)
                measured = examination.of(school.live, school.persona)
                found.append(Round(VOTES * (number + 1), steps, school.live, **measured))
                told = "  ".join(
                    f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}"
                    for k, v in asdict(found[-1]).items()
                )
                print(f"  seed {seed}, round {number + 1}: {told}", flush=True)
            school.retire()
    return found


def promoted(versions: Iterable[str]) -> set[str]:
    """The versions among these that the learner made: neither the base nor a version 0."""
    return {version for version in versions if version != "base" and not version.startswith("policy-0-")}


def summary(rounds: Sequence[Round]) -> dict[str, float]:
    """The figures of one seed."""
    before, after = rounds[:TURN], rounds[TURN:]
    best = dip = 0.0
    for each in before:
        best = max(best, each.win_rate)
        dip = max(dip, best - each.win_rate)
    found = {
        "rounds_without_steps": sum(not each.steps for each in rounds),
        "promotions": len(promoted(each.live for each in rounds)),
        "win_rate_before_turn": before[-1].win_rate,
        "dip_before_turn": dip,
        "unseen_loss": max(each.unseen_win_rate for each in before) - before[-1].unseen_win_rate,
        "second_domain_perplexity_ratio": max(each.perplexity_ratio for each in rounds),
    }
    for count in (2, 4):
        if len(after) >= count:
            found[f"win_rate_{count}_after_turn"] = max(each.win_rate for each in after[:count])
    return found


def _plotted(life: Sequence[Round]) -> list[dict[str, Any]]:
    """The rounds of a life, each with how many versions were promoted by then."""
    return [
        asdict(each) | {"promotions": len(promoted(before.live for before in life[: number + 1]))}
        for number, each in enumerate(life)
    ]


LEAST = ("promotions", "win_rate_before_turn", "win_rate_2_after_turn", "win_rate_4_after_turn")
"""Of these the least of the seeds is the worst."""


def main(argv: list[str]) -> int:
    """Run the benchmark; its last line is one JSON object, of the worst of the seeds."""
    parser = argparse.ArgumentParser(prog="python -m bench forever", description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--from", dest="start", choices=("base", "sft"), default="base")
    parser.add_argument("--taste", default="friendly", help="a shipped persona (default: friendly)")
    parser.add_argument("--plot", type=Path, help="SVG file to write")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args(argv)
    from bench._plots import lives
    from bench._raters import lonely_engine
    from bench._seeds import worst
    from hearken.models.tiny import ensure_tiny

    model = ensure_tiny()
    found: list[list[Round]] = []
    rows: list[dict[str, Any]] = []
    with lonely_engine(arguments.threads) as url:
        for seed in range(arguments.first_seed, arguments.first_seed + arguments.seeds):
            started = time.perf_counter()
            found.append(one_seed(arguments.start, arguments.taste, seed, arguments.rounds, url, model))
            rows.append(summary(found[-1]) | {"seconds": time.perf_counter() - started})
            print(f"seed {seed}: {json.dumps(rows[-1])}", flush=True)
    if arguments.plot:
        arguments.plot.write_text(lives([_plotted(life) for life in found], VOTES * TURN))
    print(json.dumps({name: round(value, 4) for name, value in worst(rows, LEAST).items()}))
    return 0
