"""What the learner must notice about its own policy, and what it must not mistake for it."""

import dataclasses
import random

import pytest

from learner.monitor.self_check import REASONS, Observation, SelfCheckLimits, concern

LIMITS = SelfCheckLimits()
LIVE = Observation(
    reward=0.0,
    judged_win_rate=0.5,
    response_tokens=25.0,
    entropy_nats=0.37,
    kl_nats_base=0.0,
    kl_nats_live=0.0,
    perplexity=1.45,
)


def climb(steps: int, **changes: float) -> list[Observation]:
    """A policy that gets better in both reward models' eyes; `changes` are added at every step."""
    each = {"reward": 0.1, "judged_win_rate": 0.03, "kl_nats_live": 0.3, "kl_nats_base": 0.3, **changes}
    values = dataclasses.asdict(LIVE)
    return [
        Observation(**{name: value + step * each.get(name, 0.0) for name, value in values.items()})
        for step in range(steps)
    ]


def found(history: list[Observation], limits: SelfCheckLimits = LIMITS) -> str | None:
    concerned = concern(history, limits)
    return None if concerned is None else concerned.reason


def test_nothing_is_found_in_a_policy_that_improves() -> None:
    history = climb(14)
    assert all(found(history[:seen]) is None for seen in range(len(history) + 1))


def test_a_reward_that_rises_while_the_judged_win_rate_falls_is_found() -> None:
    up = climb(8)
    down = [
        dataclasses.replace(up[-1], reward=0.7 + 0.1 * step, judged_win_rate=0.71 - 0.04 * step)
        for step in range(1, 8)
    ]
    verdicts = [found(up + down[:seen]) for seen in range(len(down) + 1)]
    assert verdicts[0] is None
    assert verdicts[-1] == "over-optimised"
    first = verdicts.index("over-optimised")
    assert 1 < first < 6  # not at the first bad batch, and long before the bottom
    concerned = concern(up + down[:first], LIMITS)
    assert concerned is not None
    assert "judged win rate fell from 0.6" in concerned.sentence


def test_a_fall_of_both_is_a_weaker_policy_not_an_over_optimised_one() -> None:
    up = climb(8)
    down = [dataclasses.replace(LIVE, reward=-0.1 * step, judged_win_rate=0.5) for step in range(1, 6)]
    assert found(up + down) is None


def test_a_judged_win_rate_that_never_rises_falls_from_even() -> None:
    assert found(climb(9, judged_win_rate=-0.03)) == "over-optimised"


def test_noise_alone_is_rarely_taken_for_a_fall() -> None:
    draw = random.Random(0)
    alarms = 0
    for _ in range(500):
        history = [
            dataclasses.replace(seen, judged_win_rate=0.7 + draw.gauss(0, 0.036)) for seen in climb(13)
        ]
        alarms += any(found(history[:seen]) for seen in range(14))
    assert alarms / 500 < 0.05


def test_drifting_lengths_are_found_unless_the_answers_are_judged_better() -> None:
    longer = climb(10, response_tokens=5.0, judged_win_rate=0.0)
    assert found(longer) == "length drift"
    shorter = climb(10, response_tokens=-2.2, judged_win_rate=0.0)
    assert found(shorter) == "length drift"
    liked = climb(10, response_tokens=-2.2)
    assert found(liked) is None
    assert found(longer[:2]) is None  # two batches are no drift


def test_an_entropy_that_collapses_is_found() -> None:
    assert found(climb(10, entropy_nats=-0.02)) is None
    assert found(climb(10, entropy_nats=-0.04)) == "entropy collapse"


def test_a_jump_of_the_kl_is_found_and_a_steady_rise_is_not() -> None:
    assert found(climb(8, kl_nats_live=0.6, kl_nats_base=0.6)) is None
    steady = climb(4)
    leap = dataclasses.replace(steady[-1], kl_nats_live=steady[-1].kl_nats_live + 3.5)
    assert found([*steady, leap]) == "KL runaway"
    lost = dataclasses.replace(steady[-1], kl_nats_base=float("nan"), kl_nats_live=float("nan"))
    assert found([*steady, lost]) == "KL runaway"


def test_answers_that_the_base_finds_perplexing_are_found() -> None:
    assert found(climb(8, perplexity=0.2)) is None
    assert found(climb(14, perplexity=0.4)) == "KL runaway"


def test_sentences_begin_with_their_reason() -> None:
    histories = [
        climb(9, judged_win_rate=-0.03),
        climb(10, response_tokens=5.0, judged_win_rate=0.0),
        climb(10, entropy_nats=-0.04),
        climb(3, kl_nats_live=3.5),
    ]
    said = [concern(history, LIMITS) for history in histories]
    assert [one.reason for one in said if one] == list(REASONS)
    assert all(one.sentence.startswith(one.reason) for one in said if one)


@pytest.mark.parametrize(
    "wrong",
    [{"window": 0}, {"entropy_share": 1.0}, {"length_ratio": 1.0}, {"win_rate_fall": 0.0}],
)
def test_limits_that_make_no_sense_raise(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must"):
        SelfCheckLimits(**wrong)  # type: ignore[arg-type]
