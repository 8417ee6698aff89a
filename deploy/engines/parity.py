"""Whether an engine computes with an adapter what its trainer computed, decided from logprobs of fixed texts.

In float32 both sides agree to a millionth of a nat, and the largest difference decides. In bfloat16 a token's
logprob is off by some hundredths of a nat, now and then by a half, with the right adapter, and that much is
also what a right and a nearly right adapter differ by. So there all tokens decide together:

- Differences are taken in log-odds, log p - log(1 - p). An engine's rounding moves logits, and a logit moves
  the logprob by 1 - p times as much: a sure token's logprob hardly shows it. In log-odds every token has the
  same noise (measured on SmolLM2: within a factor of 1.3 up to p = .83, and of 1.8 up to p = .99).
- The noise measures itself: engine and trainer are compared on the same tokens under the base alone.
- An adapter's outputs are added to the base's in bfloat16, where what is below the last bit of the sum is
  lost. A small adapter loses a part of its effect so: a fifth and a half were measured. The right adapter
  differs from what was trained by that, so trainers tell what an engine in bfloat16 makes of it as well. An
  engine that adds before it rounds says so in its version, and is held to all that was trained.
- Effect: the regression of the engine's differences on what the adapter changes (Huber's idea of bounded
  influence on both sides), 1 for the right adapter, .9 or less for one scaled by .9, 0 for the base.
- Size: the mean absolute difference, in the noise's; for another adapter it is what both differ by.

Shapes: tokens of all probes in a row. Everything is in nats.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from deploy.registry.manifest import Probe

UNTOLD = "it changes less than the engine's rounding does, so its files' sums alone prove it"

ROUNDS_ONCE = "rounds.once"
"""In the version of an engine that adds an adapter's outputs to the base's before it rounds them."""

FIRST = 4
"""Probes that an engine is asked for first: in float32 they say all."""

EXACT_NOISE = 1e-3
"""Mean noise (log-odds) below which an engine computes in float32: measured 1e-6."""

HALF_NOISE = 1e-2
"""Mean noise above which it computes in bfloat16: logits of 8 and more are rounded to 1/16 there, which alone
makes a sixtieth. In float16 all is an eighth of that."""

SURE = 1e-3
"""A token with less than this chance of being another one tells nothing: its log-odds are rounding's."""

SIGMAS = 4.0
"""Standard errors that chance is given. Four comparisons with right adapters were off by 2 at most."""

CLIP = 6.0
"""Differences beyond so many standard deviations of the noise count as so many."""

LEVER = 8.0
"""Changes beyond so many standard deviations of the noise have the weight of so many."""


class _Slack(NamedTuple):
    """What a right adapter may do beyond chance. effect: how far it may be from 1, as kernels round at other
    places than the trainer thinks. size: its differences in the base's, as its own products are rounded."""

    effect: float
    size: float


TWICE, ONCE = _Slack(0.04, 1.15), _Slack(0.03, 1.02)
"""Where an adapter's outputs are added to rounded ones, and where before: measured .03 and 1.03 there."""


@dataclass(frozen=True, slots=True)
class ParityLimits:
    """tolerance_nats: the largest difference of a token's logprob in float32. noise_nats: mean noise of an
    engine's base (log-odds) from which on its base is another model than the trainer's."""

    tolerance_nats: float = 0.02
    noise_nats: float = 0.15

    def __post_init__(self) -> None:
        for name in ("tolerance_nats", "noise_nats"):
            if not getattr(self, name) > 0:
                raise ValueError(f"parity_{name} is {getattr(self, name)}; it has to be above 0")


class Rough(NamedTuple):
    """A comparison in an arithmetic that rounds."""

    tokens: int
    noise_nats: float  # mean absolute difference under the base, log-odds
    size: float  # the adapter's mean absolute difference, in the noise's; about 1 for the right one
    size_limit: float
    effect: float  # what the engine's adapter does, in what the trainer's does; about 1 for the right one
    effect_limit: float  # how far from 1 it may be


@dataclass(frozen=True, slots=True)
class Parity:
    """What a comparison came to.

    refusal: what is wrong, None for a proof. largest_nats: the largest difference of a token's logprob, nan
    where one side has none. ratio: the share of the nearest limit that is used; above 1 is refused. rough: of
    engines that round.
    """

    refusal: str | None
    largest_nats: float
    ratio: float
    rough: Rough | None = None

    @property
    def numbers(self) -> dict[str, float | int | str | None]:
        """For a decision. JSON has no word for not a number."""
        found: dict[str, float] = {"parity_nats": self.largest_nats, "parity_ratio": self.ratio}
        if self.rough is not None:
            found |= {f"parity_{name}": value for name, value in self.rough._asdict().items()}
        return {name: value if math.isfinite(value) else None for name, value in found.items()}

    @property
    def tells(self) -> bool:
        """Whether these logprobs would have told the adapter from none at all. A policy that changes less
        than the engine's rounding is recognised by its files' sums alone."""
        return self.rough is None or self.rough.effect_limit < 0.75


def largest(probes: Sequence[Probe], found: Sequence[Sequence[float]]) -> float:
    """The largest difference (nats) of an engine's logprobs from the trainer's; nan where there is one."""
    apart = [
        abs(a - b)
        for probe, row in zip(probes, found, strict=True)
        for a, b in zip(probe.logprobs, row, strict=True)
    ]
    return math.nan if any(map(math.isnan, apart)) else max(apart, default=0.0)


def exactly(probes: Sequence[Probe], found: Sequence[Sequence[float]], limits: ParityLimits) -> Parity:
    """The comparison of two sides in float32."""
    nats = largest(probes, found)
    wrong = math.isnan(nats) or nats > limits.tolerance_nats
    sentence = f"logprobs differ by up to {nats:.4g} nats, {limits.tolerance_nats:g} is allowed"
    ratio = math.inf if math.isnan(nats) else nats / limits.tolerance_nats
    return Parity(sentence if wrong else None, nats, ratio)


def can_round(probes: Sequence[Probe]) -> bool:
    """Whether the manifest has what a comparison in bfloat16 takes. Those of before do not."""
    return all(len(p.base_logprobs) == len(p.bf16_logprobs) == len(p.token_ids) for p in probes)


def compare(
    probes: Sequence[Probe],
    policy: Sequence[Sequence[float]],
    base: Sequence[Sequence[float]],
    limits: ParityLimits,
    rounds_once: bool = False,
) -> Parity:
    """The comparison of an engine's logprobs, with a version (`policy`) and without (`base`), with the
    manifest's, in whatever arithmetic the engine turns out to compute (see `ROUNDS_ONCE`)."""
    strict = exactly(probes, policy, limits)
    if strict.refusal is None or math.isnan(strict.largest_nats) or _has_nan(base):
        return strict
    rows = _rows(probes, policy, base)
    noise = _mean([abs(row.noise) for row in rows])
    if not rows or noise < EXACT_NOISE:
        return strict
    served = noise > HALF_NOISE and not rounds_once
    rough = _rough(rows, noise, served, ONCE if rounds_once else TWICE)
    shares = (
        rough.noise_nats / limits.noise_nats,
        abs(rough.effect - 1) / rough.effect_limit,
        rough.size / rough.size_limit,
    )
    sentences = (
        f"its base model's logprobs differ from the trainer's by {noise:.2g} nats on average, "
        f"{limits.noise_nats:g} is allowed: it is another model, or its weights are rounded",
        f"over {rough.tokens} tokens the adapter does {rough.effect:.2f} of what the trainer's does, "
        f"1 ± {rough.effect_limit:.2f} is allowed",
        f"over {rough.tokens} tokens logprobs differ by {rough.size:.2f} times what rounding explains, "
        f"{rough.size_limit:.2f} times is allowed",
    )
    refusal = next((told for told, share in zip(sentences, shares, strict=True) if share > 1), None)
    return Parity(refusal, strict.largest_nats, max(shares), rough)


class _Row(NamedTuple):
    """A token, in log-odds: the engine's base less the trainer's; the engine's version less the trainer's, as
    trained and as served in bfloat16; and what these two change in the base."""

    noise: float
    apart: float
    apart_served: float
    change: float
    change_served: float


def _rows(
    probes: Sequence[Probe], policy: Sequence[Sequence[float]], base: Sequence[Sequence[float]]
) -> list[_Row]:
    rows = []
    for probe, ours, bare in zip(probes, policy, base, strict=True):
        of_tokens = zip(probe.logprobs, probe.bf16_logprobs, probe.base_logprobs, ours, bare, strict=True)
        for trained, served, reference, engine, engine_base in of_tokens:
            if max(trained, served, reference) < math.log1p(-SURE):
                t, s, r, e, b = map(log_odds, (trained, served, reference, engine, engine_base))
                rows.append(_Row(b - r, e - t, e - s, t - r, s - r))
    return rows


def log_odds(logprob: float) -> float:
    """log p - log(1 - p), of at most a probability that float32 can tell from 1."""
    sure = min(logprob, -1e-7)
    return sure - math.log(-math.expm1(sure))


def _rough(rows: Sequence[_Row], noise: float, served: bool, slack: _Slack) -> Rough:
    sigma = noise * math.sqrt(math.pi / 2)
    apart = [row.apart_served if served else row.apart for row in rows]
    changes = [row.change_served if served else row.change for row in rows]
    levers = [_clipped(change, LEVER * sigma) for change in changes]
    along = sum(lever * change for lever, change in zip(levers, changes, strict=True))
    missing = sum(lever * _clipped(each, CLIP * sigma) for lever, each in zip(levers, apart, strict=True))
    error = sigma * math.sqrt(sum(lever * lever for lever in levers)) / along if along > 0 else math.inf
    # The ratio of two means of n absolute values of normal noise has this relative variance.
    spread = math.sqrt((math.pi - 2) / len(rows))
    return Rough(
        tokens=len(rows),
        noise_nats=noise,
        size=_mean([abs(each) for each in apart]) / noise,
        size_limit=slack.size + SIGMAS * spread,
        effect=1 + (missing / along if along > 0 else 0.0),
        effect_limit=slack.effect + SIGMAS * error,
    )


def _clipped(value: float, limit: float) -> float:
    return max(-limit, min(limit, value))


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _has_nan(rows: Sequence[Sequence[float]]) -> bool:
    return any(math.isnan(each) for row in rows for each in row)
