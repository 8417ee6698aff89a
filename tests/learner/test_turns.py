"""A turn of taste is noticed soon, and hardly ever where there was none."""

import json
import random

import pytest

from learner.votes.turns import GROUP, Foreseen, TurnDetector, likelihood_ratio

SHARE = 0.15
RATERS = [f"u_{i}" for i in range(25)]
PROVEN = dict.fromkeys(RATERS, True)


def group(draw: random.Random, turned: float, raters: list[str] = RATERS) -> list[Foreseen]:
    """Votes that a model foresees as surely as it should, but of which a share says the opposite."""
    found = []
    for _ in range(GROUP):
        chance = draw.uniform(0.02, 0.98)
        up = (draw.random() < chance) != (draw.random() < turned)
        found.append((draw.choice(raters), float(up), chance))
    return found


@pytest.mark.parametrize("chance", [0.0, 0.03, 0.4, 0.5, 0.7, 0.99, 1.0])
@pytest.mark.parametrize("alternative", [0.3, 0.6, 1.0])
def test_the_ratio_promises_nothing_to_who_bets_on_no_turn(chance: float, alternative: float) -> None:
    def mean(turned: float) -> float:
        up = chance - turned * (2 * chance - 1)
        ratios = [likelihood_ratio(value, chance, SHARE, alternative) for value in (1.0, 0.0)]
        return up * ratios[0] + (1 - up) * ratios[1]

    assert mean(SHARE) == pytest.approx(1.0, abs=1e-3)
    assert all(mean(turned / 100) <= 1 + 1e-12 for turned in range(16))
    if abs(chance - 0.5) > 0.05:
        assert mean(0.5) > 1
    assert likelihood_ratio(float(chance > 0.5), chance, SHARE, alternative) > 0
    tie = likelihood_ratio(0.5, chance, SHARE, alternative)
    ends = [likelihood_ratio(value, chance, SHARE, alternative) for value in (0.0, 1.0)]
    assert tie == pytest.approx(sum(ends) / 2)


@pytest.mark.parametrize("share", [0.0, 0.05, SHARE])
def test_false_alarms_are_as_rare_as_is_said(share: float) -> None:
    alpha, histories, alarms = 0.1, 100, 0
    for seed in range(histories):
        draw, detector = random.Random(f"{share} {seed}"), TurnDetector(alpha, SHARE)
        alarms += any(detector.hear(group(draw, share), PROVEN, i) for i in range(1, 31))
    limit = alpha * histories
    assert alarms <= limit + 2 * (limit * (1 - alpha)) ** 0.5


@pytest.mark.parametrize("content", [0, 10, 100])
@pytest.mark.parametrize(("turned", "groups"), [(1.0, 2), (0.5, 10)])
def test_a_turn_is_found_within_some_votes_however_long_there_was_none(
    content: int, turned: float, groups: int
) -> None:
    draw, detector = random.Random(f"{content} {turned}"), TurnDetector(0.01, SHARE)
    for i in range(1, content + 1):
        assert not detector.hear(group(draw, 0.05), PROVEN, i)
    number = content
    for number in range(content + 1, content + groups + 1):
        if detector.hear(group(draw, turned), PROVEN, number):
            break
    else:
        pytest.fail(f"evidence of {detector.evidence:.3g} only")
    assert content - 5 <= detector.began < number
    assert detector.evidence == 1.0  # it has begun again
    assert detector.heard == number


def test_a_crowd_of_newcomers_is_no_proof_and_lasting_disagreement_of_newcomers_is() -> None:
    detector, draw = TurnDetector(0.01, SHARE), random.Random(0)
    names = [f"new_{i}" for i in range(200)]
    proven = PROVEN | dict.fromkeys(names, False)
    for i in range(1, 11):
        detector.hear(group(draw, 0.05), proven, i)
    for i in range(11, 14):  # 150 votes: more than 5% of 2,600
        assert not detector.hear(group(draw, 1.0, names), proven, i)
    assert any(detector.hear(group(draw, 1.0, names), proven, i) for i in range(14, 40))


def test_one_rater_with_many_votes_is_one_rater() -> None:
    detector, draw = TurnDetector(0.01, SHARE), random.Random(1)
    for i in range(1, 41):
        votes = group(draw, 0.05)[:25] + group(draw, 1.0, ["u_0"])[:25]
        assert not detector.hear(votes, PROVEN, i)


def test_evidence_survives_a_checkpoint_and_no_alarm_can_be_chosen() -> None:
    draw = random.Random(2)
    detector, silent = TurnDetector(0.01, SHARE), TurnDetector(0.0, SHARE)
    again = TurnDetector(0.01, SHARE)
    again.restore(json.loads(json.dumps(detector.state())))
    for i in range(1, 12):
        votes = group(draw, 0.2 if i < 10 else 1.0)
        assert detector.hear(votes, PROVEN, i) == again.hear(votes, PROVEN, i)
        assert not silent.hear(votes, PROVEN, i)
        assert detector.state() == again.state()
        again = TurnDetector(0.01, SHARE)
        again.restore(json.loads(json.dumps(detector.state())))
    assert silent.evidence > 100
