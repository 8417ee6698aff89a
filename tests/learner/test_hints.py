"""What the reward model leaves to be asked: as it is told, and whether who asks by it needs fewer votes."""

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean

import pytest
import torch

from feedback.core.events import UPDATES
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from feedback.updates.teaching import NOTHING_KNOWN, Hint, Teaching, parse
from learner.model.shared import SharedModel
from learner.reward.features import WORDS, AnswerFeatures
from learner.reward.reward import RewardModel
from learner.reward.teaching import hint_of
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_refusing import make
from tests.learner.test_reward import UTILITIES, make_votes

TASTE = UTILITIES["a word they like and one they hate"]


@pytest.fixture(scope="module")
def features(random_model: str) -> AnswerFeatures:
    return AnswerFeatures(SharedModel(random_model, device="cpu"))


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    make_random_model(tmp_path / "model", tokens=1024)
    yield log
    log.close()


def test_a_hint_is_the_diagonal_of_the_posterior(features: AnswerFeatures) -> None:
    votes = make_votes(TASTE, 60, 20, seed=1)
    reward = RewardModel(features, seed=1)
    reward.update(votes)
    heads, columns = reward.taste, features.columns(WORDS)
    hint = hint_of(heads, votes, update=4, at=2.0)
    assert (hint.update, hint.folds) == (4, columns["tokens"].stop - columns["tokens"].start)

    information = torch.zeros(columns["length"].stop)
    for each in votes:
        rows = features.of_answers(each.answers, WORDS)[:, : columns["length"].stop]
        scores = heads.mean_of(each.answers)
        d, margin = rows[0].clone(), scores[0]
        if len(rows) == 2:
            d, margin = rows[0] - rows[1], scores[0] - scores[1]
        else:
            d[columns["length"]] = 0
        p = torch.sigmoid(margin)
        information += p * (1 - p) * d**2
    _, spread = heads.worth("tokens")
    variances = 1 / (spread**-2 + information[columns["tokens"]])
    assert hint.variances == pytest.approx(variances[hint.tokens].tolist(), rel=1e-3)
    assert set(hint.tokens) == set(information[columns["tokens"]].nonzero().flatten().tolist())
    length = 1 / (heads.worth("length")[1] ** -2 + information[columns["length"]])
    assert hint.length[1] == pytest.approx(float(length), rel=1e-3)

    said = features.of_answers(votes[0].answers[:1], WORDS)
    for token, weight in zip(hint.tokens[:10], hint.weights[:10], strict=True):
        other = said.clone()
        other[0, token] += 1  # tokens are the first columns
        assert float((heads.raw(other) - heads.raw(said)).mean()) == pytest.approx(weight, abs=2e-3)
    longer = said.clone()
    longer[0, columns["length"]] += 1
    assert float((heads.raw(longer) - heads.raw(said)).mean()) == pytest.approx(hint.length[0], abs=2e-3)


def test_tokens_of_which_most_votes_spoke_are_told(features: AnswerFeatures) -> None:
    votes = make_votes(TASTE, 60, 0, seed=1)
    reward = RewardModel(features, seed=1)
    reward.update(votes)
    whole = hint_of(reward.taste, votes, 1, 2.0)
    few = hint_of(reward.taste, votes, 1, 2.0, most_tokens=5)
    assert few.tokens == whole.tokens[:5]
    assert few.variances == whole.variances[:5]
    differing = [{*each.answers[0].token_ids} ^ {*each.answers[1].token_ids} for each in votes]
    spoken = [sum(token in each for each in differing) for token in whole.tokens]
    assert min(spoken[:5]) > max(spoken[-5:])


def accuracy(features: AnswerFeatures, seed: int, of: int) -> float:
    """What 30 votes teach; each is the one of so many that teaches most, by hints of 10 votes before."""
    reward, known, hint = RewardModel(features, seed=seed), [], NOTHING_KNOWN
    for round_ in range(3):
        asking = Teaching(hint)
        pool = iter(make_votes(TASTE, 10 * of, 0, seed=100 * seed + round_))
        for candidates in zip(*[pool] * of, strict=True):
            pairs = [[answer.token_ids for answer in each.answers] for each in candidates]
            gains = [asking.gain_nats(*pair) for pair in pairs]
            best = gains.index(max(gains))
            asking.shown(*pairs[best])
            known.append(candidates[best])
        reward.update(known)
        hint = hint_of(reward.taste, known, round_, 2.0)
    return reward.accuracy(make_votes(TASTE, 300, 0, seed=7, noise=False))


def test_votes_that_are_asked_for_teach_more(features: AnswerFeatures) -> None:
    seeds = range(1, 6)
    chosen = fmean(accuracy(features, seed, of=10) for seed in seeds)
    by_chance = fmean(accuracy(features, seed, of=1) for seed in seeds)
    assert chosen > by_chance + 0.02


def fill(log: SqliteLog, *, selected: bool) -> None:
    for i in range(80):
        said = completion(f"c{i}").model_copy(update={"selected": selected})
        made = [record(said), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()


def hints(log: SqliteLog) -> list[Hint]:
    found = [parse(each.value) for each in log.read([UPDATES], {})[0]]
    return [each for each in found if each is not None]


def test_each_update_tells_one_hint(log: SqliteLog, tmp_path: Path) -> None:
    fill(log, selected=False)
    learner = make(log, tmp_path)
    learner.turn(0.0)
    [told] = hints(log)
    assert told.update == learner.state.updates == 1
    assert 500 in told.tokens
    learner.save()
    assert hints(log) == [told]


@pytest.mark.parametrize("selected", [False, True])
def test_selected_answers_teach_and_do_not_measure(log: SqliteLog, tmp_path: Path, selected: bool) -> None:
    fill(log, selected=selected)
    learner = make(log, tmp_path)
    learner.turn(0.0)
    assert learner.reward.model.is_fitted
    assert learner.judge.model.is_fitted
    assert (learner.accuracy is None) == selected
    again = [record(thumb(f"c{i}", 1.0, 2, rater=f"u_{i % 20}")) for i in range(80)]
    log.append([Entry(each.topic, each.key, each.value) for each in again]).result()
    learner._read(0.0)
    learner.scoring.update()
    assert (len(learner.reward.losses) == 0) == selected  # by these the kind of reward model is chosen
