"""A policy part of its way home: which scale is chosen, and that what is published is what was measured."""

import dataclasses
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deploy.decide.gate import GateLimits
from deploy.engines.client import Sample
from deploy.registry.manifest import Manifest
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.model.shared import LIVE, POLICY, SharedModel
from learner.policy.candidate import win_rate
from learner.policy.probes import probe_items
from learner.policy.scaling import Tried, choose, scale_policy, scaled
from learner.rollouts.sampling import RolloutSampler, is_held_out
from learner.state import stages
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_model import ITEMS, disturb
from tests.learner.test_ppo import sample as policys_answers
from tests.learner.test_refusing import PolicysEngine, begin, make

SCALES = (1.0, 0.75, 0.5)


def tried(*found: tuple[float, float, float]) -> list[Tried]:
    return [Tried(*each) for each in found]


def test_the_scale_that_wins_most_often_within_the_limits_is_chosen() -> None:
    assert choose(tried((1.0, 0.7, 0.9), (0.75, 0.65, 0.5), (0.5, 0.6, 0.25))) == 1.0
    assert choose(tried((1.0, 0.7, 1.01), (0.75, 0.65, 1.0), (0.5, 0.6, 0.25))) == 0.75
    assert choose(tried((1.0, 0.6, 0.9), (0.75, 0.65, 0.5), (0.5, 0.6, 0.25))) == 0.75  # it went too far
    assert choose(tried((1.0, 0.6, 0.9), (0.75, 0.6, 0.5), (0.5, 0.6, 0.25))) == 0.5  # no worse, and cheaper


def test_where_none_is_within_the_limits_the_nearest_is_judged() -> None:
    assert choose(tried((1.0, 0.9, 3.0), (0.5, 0.6, 1.2))) == 0.5
    assert choose(tried((1.0, 0.9, math.nan), (0.5, 0.6, 1.2))) == 0.5
    assert choose(tried((1.0, 0.9, math.nan), (0.5, 0.6, math.nan))) in (0.5, 1.0)


@given(
    st.lists(
        st.tuples(
            st.sampled_from([1.0, 0.9, 0.75, 0.5, 0.25]),
            st.floats(0, 1),
            st.one_of(st.floats(0, 4), st.just(math.nan), st.just(math.inf)),
        ),
        min_size=1,
        unique_by=lambda each: each[0],
    ),
)
def test_nothing_past_a_limit_is_chosen_while_something_is_within(found: list[tuple[Any, ...]]) -> None:
    chosen = {each.scale: each for each in tried(*found)}[choose(tried(*found))]
    inside = [share for _, _, share in found if share <= 1]
    assert not inside or chosen.limit_share <= 1


def passes(draw: torch.Generator, *, fresh: bool) -> bool:
    """Whether equal policies at three scales pass the gate, by prompts that were not chosen by or were."""
    wins = {scale: (torch.rand(128, generator=draw) < 0.5).float() for scale in SCALES}
    half = torch.full((128,), 0.5)
    chosen = choose([Tried(scale, win_rate(won, half)[0], 0.5) for scale, won in wins.items()])
    judged = (torch.rand(128, generator=draw) < 0.5).float() if fresh else wins[chosen]
    return win_rate(judged, half)[1] > 0.5


def test_the_choice_leaves_the_gates_evidence_fair() -> None:
    draw = torch.Generator().manual_seed(0)
    assert 0.03 < sum(passes(draw, fresh=True) for _ in range(2000)) / 2000 < 0.07
    assert sum(passes(draw, fresh=False) for _ in range(2000)) / 2000 > 0.1  # what it would be otherwise


def test_a_scaled_policy_changes_the_base_by_so_much_and_comes_back(random_model: str) -> None:
    model = SharedModel(random_model, rank=8)
    disturb(model, POLICY)
    before, digest = model.adapter_state(POLICY), model.policy_digest
    said = {}
    for scale in (1.0, 0.5, 1e-6):
        with scaled(model, scale):
            now = model.adapter_state(POLICY)
            said[scale] = model.answer_logprobs(ITEMS, POLICY)
        for key, value in now.items():
            assert torch.equal(value, before[key] * scale if ".lora_B." in key else before[key])
        assert model.policy_digest == digest
    torch.testing.assert_close(said[1.0], model.answer_logprobs(ITEMS, POLICY), rtol=0, atol=0)
    torch.testing.assert_close(said[1e-6], model.answer_logprobs(ITEMS, None), rtol=0, atol=1e-4)
    assert (said[0.5] - said[1.0]).abs().max() > 0.01
    with pytest.raises(RuntimeError, match="away"), scaled(model, 0.5):
        raise RuntimeError("the engine is away")
    assert model.policy_digest == digest


class TwoPolicies(PolicysEngine):
    """Answers as the policy does that has the adapter's name, and ends the process after some batches."""

    def __init__(self, learner: Learner, batches: int = 10**9) -> None:
        super().__init__(learner)
        self.asked: list[tuple[str, list[list[int]]]] = []
        self.left = batches
        self._counting = threading.Lock()  # policy and live are asked at the same time
        # Live has a model of its own: a policy that is swapped for a moment would be saved as live's.
        self._live = SharedModel(self._model.name, rank=8)

    def sample(self, model: str, prompts: list[list[int]], **options: Any) -> list[Sample]:
        with self._counting:
            if not self.left:
                raise KeyboardInterrupt
            self.left -= 1
            self.asked.append((model, prompts))
        if model.startswith("rollout-"):
            return policys_answers(self._model, len(prompts), seed=len(prompts), asked=prompts)
        self._live.load_adapter_state(POLICY, self._model.adapter_state(LIVE))
        return policys_answers(self._live, len(prompts), seed=len(prompts), asked=prompts)


HELD_OUT = [prompt for i in range(900) if is_held_out(prompt := [1, 100 + i, 2])][:100]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    for i, prompt in enumerate(HELD_OUT):
        event = completion(f"c{i}").model_copy(update={"prompt_token_ids": prompt})
        made = [record(event), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    yield log
    log.close()


def offering(
    log: SqliteLog, folder: Path, model: Path, publish_nats: float = 4.0, batches: int = 10**9
) -> Learner:
    """A learner that is about to offer a policy, or goes on from its checkpoint."""
    folder.mkdir(exist_ok=True)
    if not (folder / "model").exists():
        (folder / "model").symlink_to(model)
    learner = make(log, folder)
    learner.settings = dataclasses.replace(
        learner.settings,
        gate_prompts=32,
        kl_publish_nats=publish_nats,
        gate=GateLimits(win_rate_low=0.0),
        self_check=None,
    )
    engine = TwoPolicies(learner, batches)
    learner.engine, learner.sampler = engine, RolloutSampler(engine, learner.folder / "rollouts")
    if not learner.resume():
        learner.turn(0.0)
        begin(learner)
        with torch.no_grad():
            weights = learner.model.flat[POLICY].weights
            weights.add_(torch.randn(len(weights), generator=torch.Generator().manual_seed(1)), alpha=0.1)
        learner.earlier = [learner.optimiser.snapshot()]
        learner.state = stages.advance(learner.state, "finished")
        learner.save()
    return learner


def kl_high_nats(learner: Learner, scale: float, prompts: list[list[int]]) -> float:
    with scaled(learner.model, scale):
        answers = policys_answers(learner.model, len(prompts), seed=len(prompts), asked=prompts)
        return learner.optimiser.measure(answers).kl_nats_live_high


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_random_model(tmp_path / "model", tokens=1024)
    return tmp_path / "model"


@pytest.fixture
def limit_nats(log: SqliteLog, tmp_path: Path, model: Path) -> float:
    """A limit that the policy passes, and three quarters of it, but not a half of it."""
    learner = offering(log, tmp_path / "measuring", model)
    far, near = (kl_high_nats(learner, scale, HELD_OUT) for scale in (0.75, 0.5))
    learner.memory.close()
    assert near < 0.7 * far
    return math.sqrt(near * far)


def offered(learner: Learner) -> Manifest:
    """What the learner publishes."""
    while learner.state.stage != "on trial":
        learner.turn(0.0)
    assert learner.state.trial is not None
    return learner.registry.verify(learner.state.trial)


def test_a_policy_past_a_limit_is_offered_part_of_the_way_home(
    log: SqliteLog, tmp_path: Path, model: Path, limit_nats: float
) -> None:
    learner = offering(log, tmp_path / "one", model, limit_nats)
    trained = learner.model.adapter_state(POLICY)
    manifest = offered(learner)
    assert manifest.gate.scale == 0.5
    assert manifest.gate.kl_nats_live_high is not None
    assert manifest.gate.kl_nats_live_high <= limit_nats
    published = SharedModel(str(model), rank=8)
    published.load_adapter(learner.registry.path(manifest.version))
    for key, value in published.adapter_state(POLICY).items():
        assert torch.equal(value, 0.5 * trained[key] if ".lora_B." in key else trained[key])
    assert published.policy_digest == learner.model.policy_digest  # what is trained on is what was offered
    assert learner.earlier == []

    engine = learner.engine
    assert isinstance(engine, TwoPolicies)
    choosing, judging = engine.asked[0][1], engine.asked[-1][1]
    assert [len(prompts) for _, prompts in engine.asked] == [16, 16, 16, 16, 32, 32]
    assert not [prompt for prompt in judging if prompt in choosing]
    # What the gate's numbers are of, measured once more from the published files.
    again = SharedModel(str(model), rank=8)
    again.load_adapter(learner.registry.path(manifest.version))
    answers = policys_answers(again, 32, seed=32, asked=judging)
    items = [(each.prompt_token_ids, each.token_ids) for each in answers]
    learners = learner.model.answer_logprobs(items, POLICY, exact=True)
    torch.testing.assert_close(again.answer_logprobs(items, POLICY, exact=True), learners, rtol=0, atol=0)
    assert sum(len(each.token_ids) for each in answers) / 32 == manifest.gate.response_tokens
    assert learner.optimiser.measure(answers).kl_nats_live_high == manifest.gate.kl_nats_live_high
    found = probe_items(again.name, again.vocab_size, again.context)
    logprobs = again.answer_logprobs(found, POLICY, exact=True)
    for probe, row in zip(manifest.probes, logprobs, strict=True):
        assert probe.logprobs == pytest.approx(row[: len(probe.token_ids)].tolist(), abs=1e-5)


def test_another_policy_than_was_measured_is_not_published(
    log: SqliteLog, tmp_path: Path, model: Path
) -> None:
    learner = offering(log, tmp_path / "one", model)
    found = learner.offering.compare()
    assert found is not None
    scale_policy(learner.model, 0.99)
    with pytest.raises(AssertionError, match="another one"):
        learner.offering.publish(found.numbers, found.digest)
    assert not learner.registry.versions()


def test_with_few_prompts_the_policy_is_judged_as_it_was_trained(
    log: SqliteLog, tmp_path: Path, model: Path
) -> None:
    learner = offering(log, tmp_path / "one", model)
    learner.settings = dataclasses.replace(learner.settings, gate_prompts=30)
    prompts = learner.drawing.gate_prompts(64)
    assert (prompts.choosing, len(prompts.judging)) == ([], 30)
    learner.settings = dataclasses.replace(learner.settings, gate_prompts=32, gate_scales=(1.0,))
    assert learner.drawing.gate_prompts(64).choosing == []
    learner.settings = dataclasses.replace(learner.settings, gate_prompts=128, gate_scales=SCALES)
    prompts = learner.drawing.gate_prompts(64)
    assert (len(prompts.choosing), len(prompts.judging)) == (33, 128)
    assert not [prompt for prompt in prompts.judging if prompt in prompts.choosing]


def test_a_learner_killed_anywhere_in_the_gate_publishes_the_same(
    log: SqliteLog, tmp_path: Path, model: Path, limit_nats: float
) -> None:
    first = SqliteLog(tmp_path / "first.db")
    for entry in log.read(("completions", "feedback"), {}, 1000)[0]:
        first.append([Entry(entry.topic, entry.key, entry.value)]).result()
    undisturbed = offered(offering(first, tmp_path / "one", model, limit_nats))
    first.close()
    asked = 0
    for _ in range(20):
        killed = offering(log, tmp_path / "two", model, limit_nats, batches=1)
        try:
            published = offered(killed)
            break
        except KeyboardInterrupt:
            asked += 1
            killed.memory.close()  # as the kernel does for a process that dies
    assert asked == 6 - 1  # each time it knew what had been answered
    assert published.files == undisturbed.files
    assert published.gate == undisturbed.gate


def test_a_learner_killed_after_publishing_has_the_policy_that_it_published(
    log: SqliteLog, tmp_path: Path, model: Path, limit_nats: float
) -> None:
    learner = offering(log, tmp_path / "one", model, limit_nats)
    found = learner.offering.compare()
    assert found is not None
    learner.offering.publish(found.numbers, found.digest)
    assert found.numbers.scale == 0.5
    learner.memory.close()
    again = offering(log, tmp_path / "one", model, limit_nats)
    assert again.model.policy_digest != found.digest
    again.turn(0.0)
    assert again.state.trial == learner.state.trial
    assert again.model.policy_digest == found.digest
    assert again.earlier == []


def test_scales_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    from learner.settings import LearnerSettings

    for scales in ((), (0.5,), (1.0, 0.0), (1.0, 1.5), (1.0, math.nan)):
        with pytest.raises(ValueError, match="gate_scales"):
            LearnerSettings(data=tmp_path, model="m", engine="http://x", gate_scales=scales)
