"""What a vote would teach, told before it is asked for."""

import math
import random
from itertools import pairwise

import numpy as np
import orjson
import pytest

from feedback.updates import steps, usage
from feedback.updates.steps import step_record
from feedback.updates.teaching import Hint, Teaching, entry, parse

HINT = Hint(
    event_id="hint-3",
    at=1.0,
    update=3,
    folds=50,
    prior=0.5,
    length=(0.3, 0.2),
    tokens=[1, 2, 3],
    weights=[2.0, -1.0, 0.5],
    variances=[0.01, 0.4, 0.1],
)


def difference(a: list[int], b: list[int], folds: int = 50) -> np.ndarray:
    """Features of a less those of b: (folds + 1,), the last one is the log length."""
    d = np.zeros(folds + 1)
    d[[token % folds for token in a]] += 1
    d[list({token % folds for token in b})] -= 1
    d[-1] = math.log1p(len(a)) - math.log1p(len(b))
    return d


def posterior() -> tuple[np.ndarray, np.ndarray]:
    """Means (F,) and variances (F,) of `HINT`'s weights."""
    means, variances = np.zeros(51), np.full(51, 0.5)
    means[[1, 2, 3, 50]], variances[[1, 2, 3, 50]] = [2.0, -1.0, 0.5, 0.3], [0.01, 0.4, 0.1, 0.2]
    return means, variances


def chance(a: list[int], b: list[int]) -> float:
    return float(1 / (1 + np.exp(-posterior()[0] @ difference(a, b))))


def test_a_gain_is_by_how_much_the_posterior_gets_narrower() -> None:
    rng = random.Random(0)
    _, variances = posterior()
    for _ in range(200):
        a, b = ([rng.randrange(120) for _ in range(rng.randint(1, 12))] for _ in "ab")
        p, d = chance(a, b), difference(a, b)
        before, information = np.diag(1 / variances), p * (1 - p) * np.outer(d, d)
        grown = np.linalg.slogdet(before + information)[1] - np.linalg.slogdet(before)[1]
        assert Teaching(HINT).gain_nats(a, b) == pytest.approx(grown / 2)
        assert Teaching(HINT).gain_nats(b, a) == pytest.approx(grown / 2)


def test_nothing_is_taught_by_equal_answers_and_less_by_a_sure_vote() -> None:
    teaching = Teaching(HINT)
    assert teaching.gain_nats([1, 2, 2], [2, 1, 1]) == 0
    # 7 and 8 are as unknown as each other; 1 is liked, so nobody has to ask whether 1 and 7 is.
    assert teaching.gain_nats([1, 7], [2, 8]) < teaching.gain_nats([7, 9], [8, 9])
    sure = HINT.model_copy(update={"weights": [1e6] * 3})
    assert Teaching(sure).gain_nats([1, 7], [8, 9]) < 1e-300


def test_what_was_shown_teaches_less_and_anything_else_as_much() -> None:
    for teaching in (Teaching(HINT), Teaching()):
        other = teaching.gain_nats([30], [31])
        gains = [teaching.gain_nats([4, 5, 6], [7])]
        for _ in range(5):
            teaching.shown([4, 5, 6], [7])
            gains.append(teaching.gain_nats([4, 5, 6], [7]))
        assert all(later < earlier for earlier, later in pairwise(gains))
        assert teaching.gain_nats([30], [31]) == other


def test_shown_pairs_are_counted_as_votes_on_them_will_be() -> None:
    teaching, a, b = Teaching(HINT), [1, 4, 5], [2, 9]
    d, variances = difference(a, b), posterior()[1]
    p = chance(a, b)
    teaching.shown(a, b)
    left = 1 / (1 / variances + p * (1 - p) * d**2)
    assert teaching.gain_nats(a, b) == pytest.approx(0.5 * np.log1p(p * (1 - p) * d**2 @ left))


def test_token_ids_are_folded_as_the_reward_model_folds_them() -> None:
    teaching = Teaching(HINT)
    assert teaching.gain_nats([51, 2], [103]) == teaching.gain_nats([1, 2], [3])


def test_a_hint_is_told_apart_from_all_else_in_its_topic() -> None:
    assert parse(entry(HINT).value) == HINT
    assert steps.parse(entry(HINT).value) is None
    assert usage.parse(entry(HINT).value) is None
    step = steps.entry(step_record(1, 2.0, None, 3))
    (used,) = usage.usage_events(1, 2.0, {}, [])
    assert parse(step.value) is parse(usage.entry(used).value) is parse(b"no JSON") is None


@pytest.mark.parametrize(
    "wrong", [{"variances": [1.0]}, {"variances": [0.0, 1.0, 1.0]}, {"folds": 0}, {"length": (0.0, -1.0)}]
)
def test_what_no_learner_tells_is_no_hint(wrong: dict[str, object]) -> None:
    assert parse(orjson.dumps(HINT.model_dump(mode="json") | wrong)) is None
