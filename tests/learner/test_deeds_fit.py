"""The reward model learns from what people do as far as that tells anything; a learner finds out how far."""

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from bench._turning import Crowd, Life, worth
from feedback.joining.labels import Label
from learner.model.shared import SharedModel
from learner.reward.ages import ages_of
from learner.reward.features import AnswerFeatures
from learner.reward.likelihoods import Parameters, Votes
from learner.reward.reward import RewardModel
from learner.reward.weighing import vote_weights
from learner.votes.objectives import Deed, votes_on
from tests.learner.votes import answer, deed, vote

ANSWERS = tuple(answer((10 + i,), f"c{i}") for i in range(3))
SCORES = torch.tensor([[0.3, -1.0], [1.2, 0.4], [-0.7, 2.0]])


def test_a_deed_is_a_thumb_whose_odds_move_by_its_slope() -> None:
    labels = [
        deed("copied", "d1", 1.0, ANSWERS[:1], "ada", slope=0.4),
        deed("copied", "d2", 0.25, ANSWERS[1:2], "bob", slope=0.4),
        deed("regenerated/kept", "d3", 1.0, ANSWERS[:2], "ada", slope=-0.2),
        vote("thumbs", "v1", 1.0, ANSWERS[:1], "ada"),
    ]
    votes = Votes(labels, noise=0.05)
    assert [label.event_id for label in votes.labels] == ["v1", "d1", "d2", "d3"]
    assert (votes.deeds, votes.raters) == (["copied", "regenerated/kept"], 1)
    assert votes.good.tolist() == [True, False]  # by the thumb alone
    parameters = Parameters(2, votes.raters, votes.levels, votes.deeds)
    parameters.habits["copied"] += torch.tensor([-1.0, 0.5])
    found = votes.losses(SCORES[:2], parameters)
    habit = torch.tensor([-1.0, 0.5])
    first, second = 0.4 * SCORES[0] + habit, 0.4 * SCORES[1] + habit
    kept = -0.2 * (SCORES[0] - SCORES[1])
    log = torch.nn.functional.logsigmoid
    expected = torch.stack([-log(first), -0.25 * log(second) - 0.75 * log(-second), -log(kept)])
    assert torch.allclose(found[1:], expected, atol=1e-6)


def test_a_deed_without_a_slope_moves_no_score() -> None:
    votes = Votes([deed("copied", "d1", 1.0, ANSWERS[:1], "ada")])
    scores = SCORES[:1].clone().requires_grad_()
    parameters = Parameters(2, votes.raters, votes.levels, votes.deeds)
    votes.losses(scores, parameters).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.equal(scores.grad, torch.zeros(1, 2))


def test_a_deed_speaks_of_its_own_objective_and_of_no_other() -> None:
    thumb = vote("thumbs", "v1", 1.0, ANSWERS[:1], "ada", reasons=("accurate",))
    complaint = dataclasses.replace(deed("reported", "d1", 0.0, ANSWERS[:1], "bob"), objective="safe")
    assert votes_on("helpful", [thumb, complaint], 0.25) == [thumb]
    assert complaint in votes_on("safe", [thumb, complaint], 0.25)
    assert votes_on("truthful", [complaint], 0.25) == []


def test_what_people_do_takes_no_weight_from_what_they_say() -> None:
    votes = [vote("thumbs", f"v{i}", 1.0, ANSWERS[:1], f"rater-{i % 10}") for i in range(20)]
    flood = [deed("copied", f"d{i}", 1.0, ANSWERS[:1], "rater-0") for i in range(1000)]
    others = [deed("copied", f"e{i}", 1.0, ANSWERS[:1], f"rater-{1 + i % 9}") for i in range(90)]
    weights = vote_weights([*votes, *flood, *others], 0.2)
    assert weights[:20] == vote_weights(votes, 0.2) == [1.0] * 20
    mine = sum(weights[20:1020])
    assert mine == pytest.approx(0.2 * sum(weights[20:]))


def test_what_people_do_ages_no_votes_and_has_an_age_in_votes() -> None:
    votes = [vote("thumbs", f"v{i}", 1.0, ANSWERS[:1], f"rater-{i}") for i in range(10)]
    flood = [deed("copied", f"d{i}", 1.0, ANSWERS[:1], f"rater-{i % 10}") for i in range(100)]
    ages = ages_of([*votes[:6], *flood, *votes[6:]], 0.2)
    assert [*ages[:6], *ages[-4:]] == ages_of(votes, 0.2) == [9.0 - i for i in range(10)]
    assert set(ages[6:-4]) == {4.0}


# ---- a learner


def did(votes: Sequence[Label], name: str, often: tuple[float, float], seed: int) -> list[Deed]:
    """What people do with the first answer of each pair, when they like it and when they do not."""
    draw, found = random.Random(seed), []
    for i, each in enumerate(votes):
        first = each.answers[0]
        likes = draw.random() < 1 / (1 + 2.718 ** -worth(first.token_ids))
        happened = float(draw.random() < often[not likes])
        said = {"at": each.at, "label": "yes" if happened else "no", "amount": happened, "tenant": "default"}
        found.append(deed(name, f"{name}-{i}", happened, (first,), each.rater, **said))
    return found


def as_signals(deeds: Sequence[Deed]) -> list[Label]:
    """The labels that the store makes such deeds of."""
    names = [field.name for field in dataclasses.fields(Label)]
    return [Label(**{name: getattr(each, name) for name in names}) for each in deeds]


@pytest.fixture(scope="module")
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, device="cpu")


def test_a_reward_model_knows_more_with_what_people_do(model: SharedModel) -> None:
    crowd = Crowd(3)
    votes, others, pairs = crowd.votes(60), crowd.votes(1500), crowd.truth(500)
    reward = RewardModel(AnswerFeatures(model))
    reward.update(votes)
    alone = reward.accuracy(pairs)
    telling = did(others, "copied", (0.45, 0.15), 1)
    reward.update([*votes, *(dataclasses.replace(each, slope=0.35) for each in telling)])
    assert reward.accuracy(pairs) > alone + 0.05


@pytest.fixture
def life(model: SharedModel, tmp_path: Path) -> Callable[[], Life]:
    return lambda: Life(tmp_path, model)


def test_a_learner_finds_out_which_signals_tell_anything(life: Callable[[], Life]) -> None:
    crowd, lived = Crowd(5), life()
    votes = crowd.votes(300)
    shown = [*votes, *crowd.votes(900)]
    for name, often in (("copied", (0.5, 0.1)), ("accepted", (0.1, 0.5)), ("resolved", (0.3, 0.3))):
        lived.learner.labels.add(as_signals(did(shown, name, often, seed=len(name))))
    lived.listen(votes, 150)
    lived.learner.scoring.update()
    slopes = lived.learner.labels.slopes
    assert slopes.get("copied", 0.0) > 0.1
    assert slopes.get("accepted", 0.0) <= 0.05  # it is done to answers that people do not like
    assert slopes.get("resolved", 0.0) <= 0.05
    told = {(each.name, state) for each, state in _told(lived)}
    assert ("copied", "training") in told
    assert {("accepted", "kept"), ("resolved", "kept")} <= told
    assert not {("accepted", "training"), ("resolved", "training")} & told
    weights = {
        row.labels["signal"]: row.value
        for family in lived.learner.metrics.signal_weight.collect()
        for row in family.samples
    }
    assert weights["copied"] == slopes["copied"]
    assert weights["accepted"] == 0.0
    reborn = lived.reborn().learner
    assert reborn.labels.slopes == slopes
    assert reborn.labels.deeds == lived.learner.labels.deeds


def _told(lived: Life) -> list[tuple[Label, str]]:
    """What was last told of each signal."""
    by_id = {each.event_id: each for each in lived.learner.labels.deeds}
    last = {
        event_id: state
        for usage in lived.learner.untold
        for state, votes in usage.votes.items()
        for event_id, _ in votes
        if event_id in by_id
    }
    return [(by_id[event_id], state) for event_id, state in last.items()]


def test_an_update_reads_no_more_answers_than_it_may(model: SharedModel, tmp_path: Path) -> None:
    crowd, lived = Crowd(5), Life(tmp_path, model, signals_read=40)
    votes, others = crowd.votes(60), crowd.votes(200)
    deeds = did([*votes[:10], *others], "copied", (0.5, 0.1), 1)
    lived.learner.labels.add([*votes, *as_signals(deeds)])
    answers = [each.answers[0] for each in deeds]
    trains = [not lived.learner.labels.is_judging(each) for each in deeds]  # the others teach nothing
    lived.learner.labels.believe({"copied": 0.3})
    for update in (1, 2):
        lived.learner.scoring.fit()
        read = [lived.learner.features.knows(answer) for answer in answers]
        assert 30 * update <= sum(read[10:]) <= 40 * update
        assert read[-30 * update :] == trains[-30 * update :]  # the newest first
    assert all(read[:10])  # people voted on these


def test_signals_start_no_update_and_are_counted_as_no_votes(life: Callable[[], Life]) -> None:
    crowd, lived = Crowd(5), life()
    lived.listen(as_signals(did(crowd.votes(1000), "copied", (0.5, 0.1), 1)), 500)
    assert lived.learner.state.updates == 0
    assert lived.learner.teaching == 0
