"""Right adapters are proven and wrong ones refused, in whatever arithmetic an engine computes."""

import dataclasses
import math
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deploy.engines.parity import Parity, ParityLimits, can_round, compare, exactly, largest, log_odds
from deploy.registry.manifest import Probe

LIMITS = ParityLimits()
PROBES, TOKENS = 32, 45
Rows = list[list[float]]


def logprob(odds: float) -> float:
    """Of log-odds."""
    return -math.log1p(math.exp(-odds))


@dataclasses.dataclass
class Case:
    """A manifest and an engine: `engine(change)` gives its logprobs with an adapter that does `change` times
    what the right one does, and `other` nats of something else in a token's log-odds."""

    change: float  # standard deviation of what the right adapter does
    noise: float  # and of the engine's rounding
    share: float  # of the adapter that is left in bfloat16
    seed: int

    def __post_init__(self) -> None:
        draw = random.Random(self.seed)
        self.odds = [[draw.gauss(-1, 2.5) for _ in range(TOKENS)] for _ in range(PROBES)]
        # Some tokens change much, most little, as adapters do it.
        self.changes = [
            [self.change * draw.gauss(0, 1) * draw.expovariate(1) / 1.4 for _ in range(TOKENS)]
            for _ in range(PROBES)
        ]

    @property
    def probes(self) -> list[Probe]:
        return [
            Probe(
                prompt_token_ids=[1],
                token_ids=[2] * TOKENS,
                logprobs=[logprob(o + c) for o, c in zip(odds, changes, strict=True)],
                bf16_logprobs=[logprob(o + self.share * c) for o, c in zip(odds, changes, strict=True)],
                base_logprobs=list(map(logprob, odds)),
            )
            for odds, changes in zip(self.odds, self.changes, strict=True)
        ]

    def engine(self, scale: float, other: float = 0.0, tag: str = "") -> Rows:
        draw = random.Random(f"{self.seed} {scale} {other} {tag}")
        served = self.share if self.noise > 0.02 else 1.0

        def rounding() -> float:  # with a heavier tail than the normal distribution's
            return self.noise * draw.gauss(0, 1) * math.sqrt(5 / (0.5 + draw.expovariate(0.22)))

        return [
            [
                logprob(o + scale * served * c + other * draw.gauss(0, 1) + rounding())
                for o, c in zip(*row, strict=True)
            ]
            for row in zip(self.odds, self.changes, strict=True)
        ]

    def judge(self, scale: float = 1.0, other: float = 0.0) -> Parity:
        return compare(self.probes, self.engine(scale, other), self.engine(0.0, tag="base"), LIMITS)


few = settings(max_examples=20)
seeds = st.integers(0, 10**9)
shares = st.floats(0.4, 1.0)
noises = st.floats(0.03, 0.1)


@few
@given(change=st.floats(0.0, 1.5), noise=noises, share=shares, seed=seeds)
def test_a_right_adapter_is_always_proven(change: float, noise: float, share: float, seed: int) -> None:
    found = Case(change, noise, share, seed).judge()
    assert found.refusal is None
    assert found.ratio <= 1
    assert found.rough is not None
    assert found.largest_nats > LIMITS.tolerance_nats  # which the largest difference would have refused


@few
@given(
    change=st.floats(5.0, 8.0),
    noise=noises,
    share=st.floats(0.9, 1.0),
    scale=st.sampled_from([0.9, 1.1]),
    seed=seeds,
)
def test_a_scaled_one_is_refused(change: float, noise: float, share: float, scale: float, seed: int) -> None:
    found = Case(change * noise, noise, share, seed).judge(scale)
    assert found.refusal is not None
    assert "of what the trainer's does" in found.refusal


@few
@given(change=st.floats(0.5, 8.0), noise=noises, share=shares, seed=seeds)
def test_none_at_all_is_refused_where_that_can_be_seen_and_else_it_is_said(
    change: float, noise: float, share: float, seed: int
) -> None:
    case = Case(change * noise, noise, share, seed)
    found = case.judge(0.0)
    assert found.refusal is not None or not found.tells
    assert case.judge().tells == found.tells
    assert found.tells or change * share < 1


@few
@given(change=st.floats(0.0, 8.0), other=st.floats(1.2, 8.0), noise=noises, share=shares, seed=seeds)
def test_another_version_is_refused(
    change: float, other: float, noise: float, share: float, seed: int
) -> None:
    """One that does what the right one does and something else, beyond what is rounding."""
    assert Case(change * noise, noise, share, seed).judge(1.0, other * noise).refusal is not None


@few
@given(change=st.floats(0.0, 1.0), seed=seeds)
def test_in_float32_the_largest_difference_decides(change: float, seed: int) -> None:
    case = Case(change, 1e-6, 0.5, seed)
    assert case.judge().rough is None
    assert case.judge().refusal is None
    wrong = case.judge(0.5)
    assert (wrong.refusal is None) == (wrong.largest_nats <= LIMITS.tolerance_nats)


def test_in_float16_the_adapter_is_whole() -> None:
    """The share that bfloat16 leaves is not what an engine with smaller noise is held to."""
    case = Case(0.3, 5e-3, 0.6, 1)
    assert case.judge().refusal is None
    assert case.judge(0.6).refusal is not None


@pytest.mark.parametrize("rounds_once", [True, False])
def test_an_engine_is_held_to_what_it_serves_of_a_small_adapter(rounds_once: bool) -> None:
    """Of one that adds before it rounds that is all, of another one the share that rounding leaves."""
    case = Case(0.3, 0.05, 0.6, 1)
    base = case.engine(0.0, tag="base")
    served = {"all": 1 / case.share, "a part": 1.0}  # times what `Case` takes for served
    proven = {
        name: compare(case.probes, case.engine(scale), base, LIMITS, rounds_once).refusal is None
        for name, scale in served.items()
    }
    assert proven == {"all": rounds_once, "a part": not rounds_once}


def test_an_engine_with_another_base_is_refused() -> None:
    found = Case(0.3, 0.25, 1.0, 1).judge()
    assert found.refusal is not None
    assert found.refusal.startswith("its base model's logprobs differ from the trainer's by 0.2")
    wide = ParityLimits(noise_nats=0.5)
    case = Case(0.3, 0.25, 1.0, 1)
    assert compare(case.probes, case.engine(1.0), case.engine(0.0, tag="base"), wide).refusal is None


def test_what_is_not_a_number_is_refused() -> None:
    case = Case(0.3, 0.05, 1.0, 1)
    rows, base = case.engine(1.0), case.engine(0.0, tag="base")
    rows[3][4] = math.nan
    found = compare(case.probes, rows, base, LIMITS)
    assert found.refusal is not None
    assert found.numbers["parity_nats"] is None
    rows, base[3][4] = case.engine(1.0), math.nan
    assert compare(case.probes, rows, base, LIMITS).refusal is not None
    assert exactly(case.probes[:1], [[math.nan] * TOKENS], LIMITS).refusal is not None


def test_manifests_of_before_are_judged_by_the_largest_difference() -> None:
    probe = Probe(prompt_token_ids=[1], token_ids=[2, 3], logprobs=[-1.0, -2.0])
    assert not can_round([probe])
    assert exactly([probe], [[-1.01, -2.0]], LIMITS).refusal is None
    assert exactly([probe], [[-1.0, -2.03]], LIMITS).refusal == (
        "logprobs differ by up to 0.03 nats, 0.02 is allowed"
    )
    assert largest([probe], [[-1.5, -2.0]]) == 0.5


def test_numbers_are_for_json() -> None:
    found: dict[str, Any] = Case(0.0, 0.05, 1.0, 1).judge().numbers
    assert found["parity_effect_limit"] is None  # of an adapter that does nothing: any effect
    assert found["parity_tokens"] > 1000


def test_log_odds_are_finite_for_what_float32_rounds_to_one() -> None:
    assert log_odds(0.0) == log_odds(-1e-7) > 15
    assert log_odds(-math.log(2)) == pytest.approx(0)


@pytest.mark.parametrize("name", ["tolerance_nats", "noise_nats"])
def test_limits_that_cannot_be_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=name):
        ParityLimits(**{name: 0.0})
