"""What a signal weighs follows from how it agrees with votes, of the same people and by the judging model."""

import math
import random
from dataclasses import replace

import numpy as np
import pytest

from feedback.joining.labels import Answer, Label
from learner.votes.believing import LEAST, Belief, Foresight, Opinion, beliefs
from learner.votes.objectives import Deed
from tests.learner.votes import answer, deed, vote


class World:
    """People who like answers more or less, and do something more often, or less, when they like one.

    often: how often, of answers that they like and of others. blur: how far the judging model's score is off.
    """

    def __init__(self, seed: int, often: tuple[float, float], count: int = 500, blur: float = 1.0) -> None:
        draw = random.Random(seed)
        self.deeds: list[Deed] = []
        self.votes: list[Label] = []
        self._scores: dict[str, float] = {}
        for i in range(count):
            worth, name, rater = draw.gauss(0, 1.5), f"c{i}", f"rater-{i % 40}"
            likes = draw.random() < 1 / (1 + math.exp(-worth))
            did = draw.random() < often[not likes]
            self._scores[name] = 0.4 * (worth + draw.gauss(0, blur))
            about = (answer((5, 2), name),)
            self.deeds.append(deed("copied", f"d{i}", float(did), about, rater))
            self.votes.append(vote("thumbs", f"v{i}", float(likes), about, rater))

    def scores(self, answers: object) -> np.ndarray:
        assert isinstance(answers, list)
        return np.array([self._scores[each.completion_id] for each in answers])

    def judged_alone(self, votes: int = 300) -> Belief:
        """By the judging model, on answers that nobody who did something voted on."""
        others = [replace(each, rater="somebody else") for each in self.votes[:votes]]
        return beliefs(self.deeds, others, Opinion(self.scores, others))["copied"]


TELLING, NOISE, LYING = (0.45, 0.15), (0.3, 0.3), (0.15, 0.45)


@pytest.mark.parametrize(
    ("often", "expected"), [(TELLING, 0.35), (NOISE, 0.0), (LYING, -0.35), ((1.0, 0.0), 1.0)]
)
@pytest.mark.parametrize("seed", range(3))
def test_the_weight_is_the_difference_that_it_makes_to_votes(
    often: tuple[float, float], expected: float, seed: int
) -> None:
    world = World(seed, often)
    found = beliefs(world.deeds, world.votes)["copied"]
    assert found.mean == pytest.approx(expected, abs=3 * found.error)
    assert found.error < 0.06
    assert (found.events, found.voted) == (500, 500)


@pytest.mark.parametrize(("often", "sign"), [(TELLING, 1), (NOISE, 0), (LYING, -1)])
@pytest.mark.parametrize("seed", range(3))
def test_the_judging_model_tells_it_where_people_did_not_vote(
    often: tuple[float, float], sign: int, seed: int
) -> None:
    found = World(seed, often, count=2000).judged_alone()
    assert found.voted == 0
    assert found.mean == pytest.approx(0.35 * sign, abs=0.2)
    assert (found.weight("higher", 1.0, False) > LEAST) == (sign > 0)
    learned = found.weight("learned", 1.0, False)
    assert (learned > 0) - (learned < 0) == sign


def test_a_judging_model_that_knows_little_says_the_same_with_less_certainty() -> None:
    clear, blurred = (World(1, TELLING, 4000, blur).judged_alone(2000) for blur in (0.0, 3.0))
    assert clear.mean == pytest.approx(blurred.mean, abs=0.15)


def test_a_judging_model_that_foresees_no_votes_is_not_asked() -> None:
    world = World(1, TELLING)
    draw = random.Random(0)
    coins = [replace(each, value=float(draw.random() < 0.5)) for each in world.votes]
    others = [replace(each, rater="somebody else") for each in coins]
    assert beliefs(world.deeds, others, Opinion(world.scores, others))["copied"].mean == 0.0


def test_nothing_known_weighs_nothing() -> None:
    world = World(1, TELLING)
    unvoted = beliefs(world.deeds, [])["copied"]
    always = [replace(each, value=1.0) for each in world.deeds]
    for found in (unvoted, beliefs(always, world.votes, Opinion(world.scores, world.votes))["copied"]):
        assert found.mean == 0.0
        assert found.weight("higher", 1.0, False) == found.weight("learned", 1.0, False) == 0.0


def test_who_lies_is_not_trusted_backwards_but_a_direction_can_be_learned() -> None:
    lying = Belief(500, 0.3, 100, mean=-0.4, error=0.1)
    assert lying.weight("higher", 1.0, heard=True) == 0.0
    assert lying.weight("learned", 1.0, heard=False) == pytest.approx(-0.2)
    telling = Belief(500, 0.3, 100, mean=0.4, error=0.1)
    assert telling.weight("lower", 0.25, heard=False) == 0.25  # no more than the file allows
    faint = Belief(500, 0.3, 100, mean=0.14, error=0.1)
    assert (faint.weight("higher", 1.0, heard=False), faint.weight("higher", 1.0, heard=True)) == (
        0.0,
        pytest.approx(0.04),
    )


def test_one_that_begins_to_lie_is_found_within_500_events() -> None:
    honest, lying = World(1, TELLING, 2000), World(2, LYING, 500)
    renamed = [_moved(each, "later") for each in lying.deeds]
    voted = [*honest.votes[:600], *(_moved(each, "later") for each in lying.votes[:100])]
    before = beliefs(honest.deeds, voted)["copied"]
    assert before.weight("higher", 1.0, False) > 0.2
    after = beliefs([*honest.deeds, *renamed], voted)["copied"]
    assert after.weight("higher", 1.0, heard=True) <= LEAST


@pytest.mark.parametrize(("often", "stays"), [(LYING, False), (TELLING, True)])
def test_the_reward_model_sees_that_the_newest_are_not_what_they_were(
    often: tuple[float, float], stays: bool
) -> None:
    """Where hardly anybody votes beside the newest ones; what it has learned from is not asked again."""
    honest, later = World(1, TELLING, 2000), World(2, often, 500)
    deeds, votes = [*honest.deeds, *later.deeds], honest.votes[:300]
    deeds[2000:] = [replace(each, rater=f"late-{each.rater}") for each in deeds[2000:]]
    told = {
        news: beliefs(deeds, votes, None, Foresight(later.scores, lambda each, news=news: news))["copied"]
        for news in (True, False)
    }
    assert (told[True].weight("higher", 1.0, heard=True) > LEAST) == stays
    assert told[False].weight("higher", 1.0, heard=True) > LEAST


def test_what_a_reward_model_learned_from_deeds_proves_nothing() -> None:
    world = World(1, TELLING, 1000)
    sure = Foresight(world.scores, lambda _: True)
    assert beliefs(world.deeds, [], None, sure)["copied"].mean == 0.0


def _moved(label: Label, prefix: str) -> Label:
    """The same about answers of another name."""
    answers = tuple(replace(each, completion_id=f"{prefix}-{each.completion_id}") for each in label.answers)
    return replace(label, answers=answers)


def test_a_choice_between_two_answers_is_held_against_a_comparison_of_them() -> None:
    draw = random.Random(3)
    did, said = [], []
    for i in range(200):
        new, old = answer((5, 2), f"new{i}"), answer((6, 2), f"old{i}")
        likes = float(draw.random() < 0.5)
        kept = likes if draw.random() < 0.8 else 1 - likes
        did.append(deed("regenerated/kept", f"d{i}", kept, (new, old), f"rater-{i % 20}"))
        sides: tuple[Answer, Answer] = (old, new) if i % 2 else (new, old)
        value = 1 - likes if i % 2 else likes
        said.append(vote("comparison", f"v{i}", value, sides, f"rater-{i % 20}"))
    found = beliefs(did, said)["regenerated/kept"]
    assert (found.voted, found.mean) == (200, pytest.approx(0.6, abs=0.12))
