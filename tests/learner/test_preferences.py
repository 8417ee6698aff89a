"""DPO, IPO and KTO against the equations written out, and against what a step on votes must never do."""

import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deploy.engines.client import Sample
from feedback.core.log import Entry
from feedback.joining.labels import Label
from feedback.sqlite.log import SqliteLog
from learner.batching import make_batch
from learner.examples import draw, is_pair, pairs, singles
from learner.loop.learner import Learner
from learner.losses import dpo_loss, ipo_loss, kto_loss
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.optimisers import find
from learner.preferences import DPO, KTO, PreferenceMetrics, PreferenceOptimiser
from learner.rollouts.sampling import RolloutSampler
from learner.settings import LearnerSettings, PPOSettings, PreferenceSettings, RewardSettings
from tests.feedback.examples import comparison, completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_model import disturb
from tests.learner.test_ppo import LIKED, likes, sample
from tests.learner.test_refusing import PolicysEngine, make
from tests.learner.votes import answer, vote

WAYS = ("dpo", "ipo", "kto")
PRICE = 0.3


@pytest.fixture
def model(random_model: str) -> SharedModel:
    return SharedModel(random_model, rank=4, alpha=8, device="cpu", seed=1)


def made(model: SharedModel, name: str, **ppo: float) -> PreferenceOptimiser:
    told = {"learning_rate": 5e-3, "kl_coefficient": PRICE, "kl_rate": 0.0, **ppo}
    settings = LearnerSettings(
        data=Path(),
        model="m",
        engine="e",
        optimiser=name,
        ppo=PPOSettings(**told),  # type: ignore[arg-type]
        preference=PreferenceSettings(votes_per_step=32, votes_per_update=8),
        reward=RewardSettings(noise=0.1),
    )
    found = find(name).of(model, settings)
    assert isinstance(found, PreferenceOptimiser)
    return found


def some_votes(count: int, seed: int = 0) -> list[Label]:
    """Comparisons of random answers; the one with more liked tokens wins, whichever is named first."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for i in range(count):
        lengths = torch.randint(2, 7, (2,), generator=generator).tolist()
        tokens = [torch.randint(3, 60, (n,), generator=generator).tolist() for n in lengths]
        shares = [sum(t in LIKED for t in each) / len(each) for each in tokens]
        value = 0.5 if shares[0] == shares[1] else float(shares[0] > shares[1])
        answers = tuple(answer((*each, 2), f"{seed}-{i}-{side}") for side, each in enumerate(tokens))
        weight = (0.5, 1.0, 2.0)[i % 3]
        found.append(vote("comparison", f"v{seed}-{i}", value, answers, f"r{i % 7}", weight=weight))
    return found


def ended(rollouts: list[Sample]) -> list[bool]:
    return [rollout.finish_reason == "stop" for rollout in rollouts]


def votes_for_the_ended(model: SharedModel, count: int) -> list[Label]:
    """Comparisons of the policy's own answers to the same prompts, of which those with an end win."""
    sides = [sample(model, count, seed=seed) for seed in (500, 501)]
    found = []
    for i, (first, second) in enumerate(zip(*map(ended, sides), strict=True)):
        answers = tuple(
            dataclasses.replace(
                answer(tuple(side[i].token_ids), f"{i}-{n}"),
                prompt_token_ids=tuple(side[i].prompt_token_ids),
            )
            for n, side in enumerate(sides)
        )
        if first != second:
            found.append(vote("comparison", f"v{i}", float(first), answers, f"r{i % 7}"))
    return found


def gradient_of_each(model: SharedModel, votes: list[Label]) -> list[tuple[float, Tensor]]:
    """The log ratio to live of every answer, one at a time, and its gradient."""
    found = []
    for item in [(a.prompt_token_ids, a.token_ids) for v in votes for a in v.answers]:
        batch = make_batch([item])
        flat = model.flat[POLICY].zero_grad()
        said = model.token_logprobs(model.predicting_states(batch, POLICY), batch.targets).sum()
        said.backward()
        with torch.no_grad():
            live = model.token_logprobs(model.predicting_states(batch, LIVE), batch.targets).sum()
        found.append((float(said.detach() - live), flat.clone()))
    return found


def by_hand(name: str, ratios: list[float], value: float, kl_nats: float) -> list[float]:
    """What the loss of one example makes of its log ratios, by the derivatives in the papers."""
    value = 0.8 * value + 0.1  # a tenth of all votes is mistaken
    if name == "kto":
        x = 1 / (1 + math.exp(-PRICE * (ratios[0] - kl_nats)))
        return [PRICE * (1 - 2 * value) * x * (1 - x)]
    margin = ratios[0] - ratios[1]
    if name == "dpo":
        slope = PRICE * (1 / (1 + math.exp(-PRICE * margin)) - value)
    else:
        slope = 2 * (margin - (value - 0.5) / PRICE)
    return [slope, -slope]


@pytest.mark.parametrize("name", WAYS)
def test_the_gradient_is_the_one_written_out(model: SharedModel, name: str) -> None:
    disturb(model, LIVE, 5)  # far from the base and from the policy: neither may stand in for it
    disturb(model, POLICY, 6)
    votes = some_votes(12)
    each = gradient_of_each(model, votes)
    optimiser = made(model, name, update_tokens=40)  # several passes
    examples = pairs(votes, 0) if name != "kto" else singles(votes, 0)
    expected, n = torch.zeros_like(each[0][1]), examples.answers
    for row in range(len(examples)):
        parts = each[row * n : row * n + n]
        slopes = by_hand(name, [ratio for ratio, _ in parts], float(examples.value[row]), kl_nats=0.7)
        for slope, (_, gradient) in zip(slopes, parts, strict=True):
            expected += float(examples.weight[row]) * slope * gradient
    expected /= float(examples.weight.sum())
    found = optimiser.gradient(examples, 0.7)
    assert float(expected.abs().max()) > 1e-4
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()), rtol=1e-3)


def test_losses_are_those_of_the_papers() -> None:
    margins, won = torch.tensor([0.0, 2.0, -2.0]), torch.ones(3)
    expected = [math.log(2), math.log1p(math.exp(-1.0)), math.log1p(math.exp(1.0))]
    assert dpo_loss(margins, won, 0.5).tolist() == pytest.approx(expected)
    assert dpo_loss(-margins, 1 - won, 0.5).tolist() == pytest.approx(expected)
    assert ipo_loss(torch.tensor([5.0, 0.0, -5.0]), won, 0.1).tolist() == pytest.approx(
        [0, 25, 100], abs=1e-9
    )
    assert ipo_loss(torch.tensor([0.0]), torch.tensor([0.5]), 0.1).tolist() == [0]
    value = 1 / (1 + math.exp(-0.1 * (5 - 2)))
    found = kto_loss(torch.tensor([5.0, 5.0, 2.0]), torch.tensor([1.0, 0.0, 1.0]), 2.0, 0.1)
    assert found.tolist() == pytest.approx([1 - value, value, 0.5])


@pytest.mark.parametrize("far_live", [False, True])
def test_lives_copy_has_no_margin_whatever_live_is(model: SharedModel, far_live: bool) -> None:
    if far_live:
        disturb(model, LIVE, 5)
    model.copy_adapter(LIVE, POLICY)
    optimiser = made(model, "dpo")
    rollouts = sample(model, 8, seed=1)
    report = optimiser.step(optimiser.measure(rollouts), likes(rollouts), votes=some_votes(8))  # one update
    assert isinstance(report, PreferenceMetrics)
    assert report.preference_loss == pytest.approx(math.log(2), abs=1e-5)
    assert report.votes == 8
    assert optimiser.steps == 1


@pytest.mark.parametrize("name", WAYS)
def test_it_learns_what_is_liked(model: SharedModel, name: str) -> None:
    price = 0.05 if name == "ipo" else PRICE  # its goal for a margin is 0.4 / price nats
    optimiser = made(model, name, kl_step_nats=math.inf, learning_rate=1e-2, kl_coefficient=price)
    votes = votes_for_the_ended(model, 120)
    live = model.answer_logprobs([((3, 4, 5), (5, 2))], LIVE)
    before = sum(ended(sample(model, 200, seed=1000))) / 200
    losses = []
    for step in range(9):
        rollouts = sample(model, 16, seed=step)
        batch = draw(votes, 32, seed=0, number=step)
        report = optimiser.step(optimiser.measure(rollouts), likes(rollouts), votes=batch)
        assert isinstance(report, PreferenceMetrics)
        losses.append(report.preference_loss)
    assert sum(ended(sample(model, 200, seed=1001))) / 200 > before + 0.1
    assert losses[-1] < losses[0]
    assert report.preference_accuracy > 0.6
    assert report.kl_nats_live > 0.1
    assert torch.equal(model.answer_logprobs([((3, 4, 5), (5, 2))], LIVE), live)  # the reference stays


def updates_of(optimiser: PreferenceOptimiser) -> int:
    (state,) = optimiser.snapshot()["optimizer"]["state"].values()
    return int(state["step"])


def test_a_step_ends_when_the_policy_has_gone_too_far(model: SharedModel) -> None:
    rollouts = sample(model, 16, seed=3)
    found = []
    for most in (math.inf, 1e-9):
        model.copy_adapter(LIVE, POLICY)
        optimiser = made(model, "dpo", kl_step_nats=most)
        report = optimiser.step(optimiser.measure(rollouts), likes(rollouts), votes=some_votes(32))
        assert report.kl_nats_step > 1e-9
        found.append(updates_of(optimiser))
    assert found == [4, 1]


def test_nothing_moves_without_votes_and_broken_ones_are_skipped(model: SharedModel) -> None:
    optimiser = made(model, "dpo")
    rollouts = sample(model, 8, seed=3)
    measured, before = optimiser.measure(rollouts), model.adapter_state(POLICY)
    broken = [dataclasses.replace(v, weight=math.nan) for v in some_votes(8)]
    thumbs = [dataclasses.replace(v, kind="thumbs", answers=v.answers[:1]) for v in some_votes(8)]
    reports = [optimiser.step(measured, likes(rollouts), votes=votes) for votes in ([], thumbs, broken)]
    assert all(torch.equal(value, before[key]) for key, value in model.adapter_state(POLICY).items())
    assert [report.skipped_updates for report in reports] == [0, 0, 1]


def test_a_batch_is_every_vote_once_a_turn_and_known_by_its_number() -> None:
    votes = some_votes(50)
    turns = [[draw(votes, 16, seed=4, number=turn * 3 + i) for i in range(3)] for turn in range(2)]
    for batches in turns:
        assert sorted(v.event_id for batch in batches for v in batch) == sorted(v.event_id for v in votes)
        assert {len(batch) for batch in batches} <= {16, 17}
    assert turns[0] != turns[1]
    assert draw(votes[::-1], 16, seed=4, number=2) == turns[0][2]
    assert draw(votes, 16, seed=5, number=2) != turns[0][2]
    assert draw([], 16, seed=4, number=2) == []


def test_what_each_kind_of_vote_says() -> None:
    a, b, c = (answer((i, 2), f"c{i}") for i in (10, 11, 12))
    said = {
        name: vote("comparison", name, value, (a, b), "r") for name, value in (("won", 1.0), ("tied", 0.5))
    }
    written = vote("correction", "written", 1.0, (c, a), "r")
    ranked = vote("ranking", "ranked", 1.0, (a, b, c), "r", groups=((1,), (0, 2)))
    liked = vote("thumbs", "liked", 1.0, (a,), "r", weight=0.5)
    rated = vote("rating", "rated", 0.25, (b,), "r")
    unsafe = vote("rating", "unsafe", 0.25, (b,), "r", name="safety")
    assert [is_pair(v) for v in (*said.values(), written, ranked)] == [True] * 4
    assert not any(
        map(is_pair, (liked, rated, unsafe, vote("ranking", "all alike", 0.5, (a, b), "r", groups=((0, 1),))))
    )

    found = pairs([*said.values(), written], 0)
    assert [list(response) for _, response in found.items] == [[10, 2], [11, 2]] * 2 + [[12, 2], [10, 2]]
    assert found.value.tolist() == [1.0, 0.5, 1.0]
    drawn = {tuple(r[0] for _, r in pairs([ranked], number).items) for number in range(20)}
    assert drawn == {(11, 10), (11, 12)}

    found = singles([said["won"], liked, rated], 0)
    assert [response[0] for _, response in found.items] == [10, 11, 10, 11]
    assert found.value.tolist() == [1.0, 0.0, 1.0, 0.25]
    assert found.weight.tolist() == [0.5, 0.5, 0.5, 1.0]


def test_what_an_optimiser_can_learn_from(model: SharedModel) -> None:
    dpo, kto = made(model, "dpo"), made(model, "kto")
    pair, thumb = some_votes(1)[0], vote("thumbs", "t", 1.0, (answer((10, 2), "c"),), "r")
    endless = vote("thumbs", "e", 1.0, (answer((10,) * 200, "e"),), "r")  # more than the model's context
    unsafe = vote("rating", "u", 0.0, (answer((10, 2), "c"),), "r", name="safety")
    assert [dpo.teaches(v) for v in (pair, thumb, unsafe)] == [True, False, False]
    assert [kto.teaches(v) for v in (pair, thumb, endless, unsafe)] == [True, True, False, False]
    assert isinstance(dpo, DPO)
    assert isinstance(kto, KTO)


def test_rare_thumbs_count_as_much_as_all_others(model: SharedModel) -> None:
    votes = [vote("thumbs", f"t{i}", float(i > 1), (answer((10, i, 2), f"c{i}"),), "r") for i in range(10)]
    found = made(model, "kto").examples(votes)
    assert float((found.weight * found.value).sum()) == float((found.weight * (1 - found.value)).sum()) == 8
    flood = [vote("thumbs", f"t{i}", float(i > 0), (answer((10, i, 2), f"c{i}"),), "r") for i in range(50)]
    assert float(made(model, "kto").examples(flood).weight[0]) == 10
    one_sided = made(model, "kto").examples(votes[2:])
    assert one_sided.weight.tolist() == [1.0] * 8


# -- in the learner


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    """Comparisons of answers, of which those with a 7 are liked."""
    log = SqliteLog(tmp_path / "log.db")
    make_random_model(tmp_path / "model")
    for i in range(60):
        compare(log, i)
    yield log
    log.close()


def compare(log: SqliteLog, i: int) -> None:
    names = f"a{i}", f"b{i}"
    asked = [completion(name).model_copy(deep=True) for name in names]
    for each, first in zip(asked, (7, 8), strict=True):
        each.prompt_token_ids[:] = [1, 5, 2]
        each.choices[0].token_ids[:] = [first, 3 + i]
    made = [*map(record, asked), record(comparison(*names, 1.0, i + 1, rater=f"u_{i % 20}"))]
    log.append([Entry(each.topic, each.key, each.value) for each in made]).result()


HASTY = PPOSettings(learning_rate=3e-2, kl_step_nats=2.0, warmup_steps=0)


def start(log: SqliteLog, folder: Path, name: str) -> Learner:
    folder.mkdir(exist_ok=True)
    if not (folder / "model").exists():
        (folder / "model").symlink_to(folder.parent / "model")
    found = make(log, folder, optimiser=name, ppo=HASTY, rollouts_per_step=16, kl_publish_nats=1.0)
    found.sampler = RolloutSampler(PolicysEngine(found), found.folder / "rollouts")  # type: ignore[arg-type]
    found.resume()
    return found


def test_a_learner_on_votes_that_is_killed_after_every_turn_comes_to_the_same_weights(
    log: SqliteLog, tmp_path: Path
) -> None:
    """Through steps, steps that pass the limit and are undone, and starting over from live."""
    undisturbed, killed = (start(log, tmp_path / name, "dpo") for name in ("one", "two"))
    weights = set()
    for turn in range(8):
        undisturbed.turn(0.0)
        killed.turn(0.0)
        assert killed.model.policy_digest == undisturbed.model.policy_digest, turn
        assert killed.state == undisturbed.state
        weights.add(killed.model.policy_digest)
        killed.memory.close()  # as the kernel does for a process that dies
        killed = start(log, tmp_path / "two", "dpo")
    assert undisturbed.metrics.registry.get_sample_value("hearken_ppo_undone_total")
    assert undisturbed.place.steps > 2
    assert len(weights) > 2
    assert undisturbed.metrics.registry.get_sample_value("hearken_learner_votes_usable") > 20  # type: ignore[operator]


def test_votes_are_learned_from_once_their_raters_were_weighed(log: SqliteLog, tmp_path: Path) -> None:
    learner = start(log, tmp_path / "one", "dpo")
    learner.turn(0.0)
    assert learner.state.updates == 1
    known = {vote.event_id for vote in learner.scoring.votes_to_learn()}
    assert known == {vote.event_id for vote in learner.labels.training}
    compare(log, 60)
    learner.reading.read(0.0, math.inf)
    assert len(learner.labels.votes) == 61
    assert {vote.event_id for vote in learner.scoring.votes_to_learn()} == known


def test_without_a_vote_that_it_can_use_the_learner_waits(tmp_path: Path) -> None:
    make_random_model(tmp_path / "model", tokens=1024)
    log = SqliteLog(tmp_path / "log.db")
    for i in range(60):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    for name in ("dpo", "kto"):
        learner = start(log, tmp_path / name, name)
        learner.turn(0.0)
        assert learner.state.updates == 1
        usable = learner.metrics.registry.get_sample_value("hearken_learner_votes_usable")
        assert usable == (0 if name == "dpo" else len(learner.labels.training))
        assert learner._next() == ("wait" if name == "dpo" else "begin")
    log.close()
