"""Releases, simulated with the service's own evidence and release code: how often a worse policy takes over,
how soon a better one does, and how many users meet an awful one.

Users have lasting tastes (two votes of one user correlate by .2), vote some time after the answer, and a look
is taken at every vote. `*_promoted` and `*_rolled_back` are shares of releases of at most 4,000 canary users
who are heard: aa (equal policies), plus5, minus5, minus10 (points of the mean of thumbs), trend (equal, the
mood falls from .8 to .6 and canary users vote 1.5 times as often), silent (5 points worse, two of five
unhappy votes are not given; `silent_thumbs` without comparisons), sybil (2 points worse, 5% of users say the
opposite of what they think), mixed (2 points worse, live at .3, comparisons of half of the canary's users and
a fifth of the control's), elsewhere (5 points better where it is compared, 3 worse elsewhere), subgroup
(20,000 an arm, 5% at -10, others +2). `plus5_pairs` are canary users heard until the promotion (median),
`_before` the rule before: a margin of .02 and one mean of all votes. `chain_*`: 50 candidates one after the
other. `exposed_awful`: users who meet a policy liked by one in ten (live: seven), of 50,000 an hour of whom
2% vote; the 95th percentile. late_harm: 5 points better for 12 hours, then 10 worse, while a candidate is on
trial: found by the anchor within 8 days, and after how many hours of harm (median); 12 of its users are heard
an hour.
"""

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from bench._late_harm import late_harm
from bench._services import Layout, World, heard_share, judge, judge_as_before, vote
from deploy.decide import release
from deploy.decide.release import Known, ReleaseRules, Rung
from deploy.engines.parity import Parity
from deploy.evidence.matching import Matching
from deploy.evidence.preference import EvidenceRules
from deploy.evidence.proving import Proving
from deploy.evidence.streams import ballots, heard
from deploy.evidence.units import Unit
from deploy.history.scope import Side

RULES = EvidenceRules()
USERS = 4_000
CANDIDATES = 50
PER_LAYOUT = 50
"""Releases with the same times: only what is said differs."""

WORLDS = {
    "aa": World(),
    "plus5": World(effect=0.05),
    "plus5_thumbs": World(effect=0.05, compares=0.0, control_compares=0.0),
    "minus5": World(effect=-0.05),
    "minus10": World(effect=-0.10),
    "trend": World(mean=0.8, mood_at_end=0.6, canary_votes=1.5),
    "silent": World(effect=-0.05, silent=0.4),
    "silent_thumbs": World(effect=-0.05, silent=0.4, compares=0.0, control_compares=0.0),
    "sybil": World(effect=-0.02, colluders=0.05),
    "mixed": World(effect=-0.02, mean=0.3, control_compares=0.2),
    "elsewhere": World(effect=-0.03, compared_effect=0.05),
}
LADDER = (Rung(0.01, 600), Rung(0.05, 600), Rung(0.25, 600), Rung(0.5, 600))
RELEASE = ReleaseRules(
    ladder=LADDER,
    rung_users=50,
    exposure_budget=3_000,
    max_seconds=3 * 86400,
    holdback_weight=0.05,
    holdback_min_seconds=3600,
    holdback_max_seconds=7 * 86400,
    anchor_weight=0.05,
    anchor_seconds=86400,
    promote_bound=RULES.promote_bound,
    harm_bound=RULES.harm_bound,
)


def releases(world: World, runs: int, users: int, before: bool, seed: int) -> list[dict[str, Any]]:
    """What became of so many releases in a world."""
    rng = np.random.default_rng(seed)
    if world.silent:
        world = replace(world, canary_votes=heard_share(world, rng))
    found = []
    for run in range(runs):
        if run % PER_LAYOUT == 0:
            layout = Layout(users, world.canary_votes, rng)
        votes = vote(world, layout, rng)
        reading = judge(votes, layout, world, RULES)
        one: dict[str, Any] = {"crossed": reading.crossed, "pairs": reading.pairs}
        if before:
            one["before"], one["pairs_before"] = judge_as_before(votes, layout, margin=0.02)
        found.append(one)
    return found


def chain(spread: float, mean: float, seed: int) -> tuple[float, float]:
    """What `CANDIDATES` candidates, drawn from N(mean, spread), do to live: by this rule and by the one
    before."""
    rng = np.random.default_rng(seed)
    layout = Layout(USERS, 1.0, rng)
    live = {"now": 0.6, "before": 0.6}
    for effect in rng.normal(mean, spread, CANDIDATES):
        for rule in live:
            world = World(effect=effect, mean=live[rule])
            votes = vote(world, layout, rng)
            if rule == "now":
                promoted = judge(votes, layout, world, RULES).crossed == "promote"
            else:
                promoted = judge_as_before(votes, layout, margin=0.02)[0]
            if promoted:
                live[rule] = float(np.clip(live[rule] + effect, 0.05, 0.9))
    return live["now"] - 0.6, live["before"] - 0.6


def subgroup(seed: int) -> bool:
    """Whether a policy that a minority hates is rolled back, before its promotion or in the holdback after
    it."""
    rng = np.random.default_rng(seed)
    world = World(effect=0.02, minority=0.05, minority_effect=-0.10)
    layout = Layout(20_000, 1.0, rng)
    reading = judge(vote(world, layout, rng), layout, world, RULES)
    if reading.crossed != "promote":
        return reading.crossed == "harm"
    layout = Layout(20_000 - reading.pairs, 1.0, rng)
    rest = judge(vote(world, layout, rng), layout, world, replace(RULES, promote_bound=math.inf))
    return rest.crossed == "harm"


def exposed(canary: float, live: float, users_an_hour: float, votes: float, seed: int) -> tuple[int, str]:
    """How many users meet a candidate, and what becomes of it. canary, live: shares of thumbs up."""
    rng = np.random.default_rng(seed)
    state = release.accept(release.begin(0.0).state, "policy-1-aaaaaaaa", "it is simulated", "d" * 64).state
    state = release.start(state, RELEASE, 0.0, {}, Parity(None, 0.0, 0.0)).state
    matching, proving, coming = Matching(RULES.match_seconds), Proving(RULES), []
    now, met, on_rung, tick = 0.0, 0, 0, 60.0
    while state.stage == "canary":
        weight = state.table.weight
        sides: tuple[tuple[Side, float, float], ...] = (("new", weight, canary), ("old", 1 - weight, live))
        for side, share, liked in sides:
            served = int(rng.poisson(share * users_an_hour * tick / 3600))
            if side == "new":
                met, on_rung = met + served, on_rung + served
            for _ in range(rng.binomial(served, votes)):
                at = now + rng.uniform(0, tick) + rng.exponential(1200.0) + RULES.window_seconds
                coming.append(Unit(at, f"u{rng.integers(1 << 60)}", side, "", float(rng.random() < liked)))
        now += tick
        closed = sorted(unit for unit in coming if unit.closes_at <= now)
        coming = [unit for unit in coming if unit.closes_at > now]
        seen = heard(matching.take(closed))
        proving.take(seen, {"default": seen}, ballots([]))
        known = Known(proving.reading, None, on_rung, met, judged=True, cursor={})
        step = release.judge(state, RELEASE, known, now)
        if step is not None:
            state, on_rung, outcome = step.state, 0, step.outcome
    return met, outcome


def share(found: list[dict[str, Any]], key: str, value: object) -> float:
    """The share of releases of which this is true."""
    return float(round(sum(one[key] == value for one in found) / len(found), 5))


def in_parts(pool: ProcessPoolExecutor, work: Callable[..., list[Any]], runs: int, seed: int) -> list[Any]:
    """`work(runs=, seed=)` in parts of two hundred runs, each of a seed of its own."""
    parts = [(min(200, runs - first), seed * 100_000 + first) for first in range(0, runs, 200)]
    return [one for part in [pool.submit(work, runs=n, seed=s) for n, s in parts] for one in part.result()]


def main(argv: list[str]) -> int:
    """Print a line for each world and, last, all figures as JSON."""
    parser = argparse.ArgumentParser("bench releases", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="equal releases; other worlds get a fifth")
    parser.add_argument("--chains", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(argv)
    started, figures = time.monotonic(), {}
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        for name, world in WORLDS.items():
            before = name in ("aa", "plus5", "plus5_thumbs")
            runs = options.runs if name == "aa" else options.runs // 5
            work = partial(releases, world, users=USERS, before=before)
            figures.update(_of_world(name, in_parts(pool, work, runs, options.seed), before))
            print(
                f"{name}: " + json.dumps({k: v for k, v in figures.items() if k.startswith(name)}), flush=True
            )
        figures.update(_of_chains(pool, options.chains, options.seed))
        few = max(20, options.runs // 50)
        seeds = range(options.seed, options.seed + few)
        found = list(pool.map(subgroup, seeds))
        figures["subgroup_rolled_back"] = sum(found) / few
        met = list(pool.map(partial(exposed, 0.1, 0.7, 50_000.0, 0.02), seeds))
        figures["exposed_awful"] = int(np.percentile([users for users, _ in met], 95))
        met = list(pool.map(partial(exposed, 0.7, 0.7, 50_000.0, 0.02), seeds[:20]))
        figures.update(_of_late_harm(pool, seeds))
        figures["exposed_equal_outcomes"] = {o: sum(x == o for _, x in met) for o in {x for _, x in met}}
    figures["seconds"] = round(time.monotonic() - started)
    print(json.dumps(figures))
    return 0


def _of_late_harm(pool: ProcessPoolExecutor, seeds: range) -> dict[str, Any]:
    """Of a version that is liked for 12 hours and then 10 points worse, and of one that is always equal."""
    worlds = {
        "late_harm": (0.05, -0.10, 0.5),
        "late_harm_thumbs": (0.05, -0.10, 0.0),
        "late_equal": (0, 0, 0.5),
    }
    figures: dict[str, Any] = {}
    for name, (liked, harm, compares) in worlds.items():
        hours = list(pool.map(partial(late_harm, RELEASE, RULES, liked, harm, compares), seeds))
        late = [each for each in hours if each is not None and (each > 0 or name == "late_equal")]
        figures[f"{name}_rolled_back"] = len(late) / len(hours)
        if name != "late_equal":
            figures[f"{name}_hours"] = round(float(np.median(late)), 1)
    print("late harm: " + json.dumps(figures), flush=True)
    return figures


def _of_world(name: str, found: list[dict[str, Any]], before: bool) -> dict[str, Any]:
    figures: dict[str, Any] = {f"{name}_promoted": share(found, "crossed", "promote")}
    if name == "aa":
        figures["aa_rolled_back"] = share(found, "crossed", "harm")
    if before:
        figures[f"{name}_promoted_before"] = share(found, "before", True)
    if before and name != "aa":
        pairs = [one["pairs"] if one["crossed"] == "promote" else math.inf for one in found]
        earlier = [one["pairs_before"] if one["before"] else math.inf for one in found]
        figures[f"{name}_pairs"], figures[f"{name}_pairs_before"] = (
            float(np.median(pairs)),
            float(np.median(earlier)),
        )
        figures[f"{name}_pairs_ratio"] = round(figures[f"{name}_pairs"] / figures[f"{name}_pairs_before"], 3)
    return figures


def _of_chains(pool: ProcessPoolExecutor, chains: int, seed: int) -> dict[str, Any]:
    seeds = [seed * 100_000 + i for i in range(chains)]
    worse = list(pool.map(partial(chain, 0.0, -0.01), seeds, chunksize=5))
    drawn = list(pool.map(partial(chain, 0.015, -0.005), seeds, chunksize=5))
    gains = np.mean(drawn, axis=0)
    figures = {
        "chain_drop_p95": round(float(np.percentile([-now for now, _ in worse], 95)), 4),
        "chain_drop_p95_before": round(float(np.percentile([-before for _, before in worse], 95)), 4),
        "chain_gain": round(float(gains[0]), 4),
        "chain_gain_before": round(float(gains[1]), 4),
        "chain_gain_ratio": round(float(gains[0] / gains[1]), 3),
    }
    print("chains: " + json.dumps(figures), flush=True)
    return figures
