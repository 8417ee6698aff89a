"""What is drawn from the log: users' answers that stand for rollouts of live's copy."""

from pathlib import Path
from typing import Any

import pytest
import torch

from deploy.engines.client import EngineClient, Sample
from deploy.registry.registry import Registry
from feedback.core.events import Completion, Sampling
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.model.shared import SharedModel
from learner.policy.ppo import PPO
from learner.rollouts.sampling import is_held_out
from learner.settings import LearnerSettings, PPOSettings
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model

PROMPTS = [[1, number, 2] for number in range(10, 60) if not is_held_out([1, number, 2])]
HELD_OUT = next([1, number, 2] for number in range(10, 99) if is_held_out([1, number, 2]))
LONGEST = 6


def answered(name: str, **changes: Any) -> Completion:
    """An answer of the base to a prompt of its own."""
    made = completion(name)
    choice = made.choices[0].model_copy(
        update={
            "token_ids": changes.pop("token_ids", [5, 6, 7]),
            "logprobs": [],
            "finish_reason": changes.pop("finish_reason", "stop"),
        }
    )
    usual = {"policy_version": "base", "prompt_token_ids": PROMPTS[0], "choices": [choice]}
    return made.model_copy(update={**usual, **changes})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawing")
    make_random_model(folder / "model", tokens=1024)
    return folder


def learner_on(log: SqliteLog, data: Path, model: Path, engine: EngineClient, **told: Any) -> Learner:
    """A learner that has read a log."""
    settings = LearnerSettings(data=data, model=str(model), engine=engine.url, **told)
    learner = Learner(
        settings,
        log,
        engine,
        Registry(data / "adapters"),
        SharedModel(settings.model, rank=8),
        LearnerMetrics(),
    )
    learner.turn(0.0)
    return learner


def test_users_answers_stand_for_rollouts_where_they_were_sampled_as_rollouts_are(folder: Path) -> None:
    fit = [answered(f"fit-{i}", prompt_token_ids=PROMPTS[i]) for i in range(3)]
    others = [
        answered("other-policy", policy_version="policy-1-0123abcd"),
        answered("cold", sampling=Sampling(temperature=0.2)),
        answered("held-out", prompt_token_ids=HELD_OUT),
        answered("met-a-limit", finish_reason="length", token_ids=[5, 6]),
        answered("its-reader-left", finish_reason="abort", token_ids=[5, 6]),
        answered("not-kept", token_ids=[]),
    ]
    voted = answered("voted", token_ids=[5, 6, 7, 8], prompt_token_ids=PROMPTS[0])
    long = answered("long", token_ids=[*range(10, 30)], prompt_token_ids=PROMPTS[3])
    cut = answered("cut", token_ids=[*range(10, 16)], finish_reason="length", prompt_token_ids=PROMPTS[4])
    log = SqliteLog(folder / "log.db")
    made = [record(each) for each in (*fit, *others, long, cut, voted)]
    made.append(record(thumb("voted", 1.0, 1)))
    log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    learner = learner_on(log, folder, folder / "model", EngineClient("http://127.0.0.1:9"))

    found = learner.drawing.logged(10, LONGEST)
    newest_first_voted_last = [*PROMPTS[4:2:-1], *PROMPTS[2::-1], PROMPTS[0]]
    assert [each.prompt_token_ids for each in found] == newest_first_voted_last
    assert [len(each.token_ids) for each in found] == [LONGEST, LONGEST, 3, 3, 3, 4]
    assert [each.finish_reason for each in found] == ["length", "length", "stop", "stop", "stop", "stop"]
    assert learner.drawing.logged(2, LONGEST) == found[:2]
    learner.labels.erase("default", "u_ada")
    assert not learner.drawing.logged(10, LONGEST)
    assert not any(learner.drawing._users_got("base", [HELD_OUT], LONGEST).values())
    log.close()

    measured = learner.optimiser.measure(found)
    first, rest = measured.part(0, 2), measured.part(2, 6)
    assert [*first.items, *rest.items] == measured.items
    assert torch.equal(torch.cat([first.states, rest.states]), measured.states)
    assert torch.equal(torch.cat([first.logprobs, rest.logprobs]), measured.logprobs)
    assert torch.equal(measured.engine_logprobs, measured.logprobs)  # importance weights of 1
    assert measured.kl_nats_live == 0


class Counting(EngineClient):
    """Answers 9 to all, and remembers what it was asked."""

    def __init__(self) -> None:
        super().__init__("http://127.0.0.1:9")
        self.asked: list[list[int]] = []

    def sample(self, model: str, prompts: list[list[int]], **options: Any) -> list[Sample]:
        self.asked += prompts
        return [Sample(prompt, [9], [-0.1], "9", "stop") for prompt in prompts]


def test_live_is_asked_only_what_no_user_asked_it(folder: Path, tmp_path: Path) -> None:
    held_out = [[1, number, 3] for number in range(10, 99) if is_held_out([1, number, 3])]
    once, twice, other, left = held_out[:4]
    log = SqliteLog(tmp_path / "log.db")
    made = [
        answered("once", prompt_token_ids=once, token_ids=[*range(10, 30)]),
        answered("older", prompt_token_ids=twice, token_ids=[5]),
        answered("newer", prompt_token_ids=twice, token_ids=[6]),
        answered("of-another-policy", prompt_token_ids=other, policy_version="policy-1-0123abcd"),
        answered("whole", prompt_token_ids=left, token_ids=[5]),
        answered("its-reader-left", prompt_token_ids=left, token_ids=[5, 6], finish_reason="abort"),
    ]
    entries = [Entry(each.topic, each.key, each.value) for each in map(record, made)]
    log.append(entries).result()
    engine = Counting()
    learner = learner_on(log, tmp_path, folder / "model", engine)
    prompts = [twice, once, twice, other, left, twice]
    found = learner.drawing.of_live(prompts, LONGEST)
    assert [each.prompt_token_ids for each in found] == prompts
    assert [each.token_ids for each in found] == [[6], [*range(10, 16)], [5], [9], [9], [9]]
    assert found[1].finish_reason == "length"
    assert engine.asked == [other, left, twice]  # each answer of a user stands for one rollout
    assert learner.drawing.of_live(prompts, LONGEST) == found
    assert len(engine.asked) == 3  # the journal has them
    of_others = learner.drawing.of_anchor("policy-1-0123abcd", [other], LONGEST)
    assert [each.token_ids for each in of_others] == [[5, 6, 7]]
    assert len(engine.asked) == 3
    log.close()


class Serving(Counting):
    """Serves adapters as well."""

    def context(self) -> int:
        return 1024

    def models(self) -> list[str]:
        return ["base"]

    def load(self, name: str, path: str) -> None:
        assert (Path(path) / "adapter_model.safetensors").is_file()

    def unload(self, name: str) -> None:
        pass


def test_the_first_steps_from_live_learn_from_the_log_and_weigh_it(folder: Path, tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    made = [answered(f"{i}", prompt_token_ids=PROMPTS[i % 20], token_ids=[5 + i, 6, 7]) for i in range(60)]
    log.append([Entry(each.topic, each.key, each.value) for each in map(record, made)]).result()
    engine = Serving()
    learner = learner_on(
        log,
        tmp_path,
        folder / "model",
        engine,
        rollouts_per_step=12,
        logged_rollouts=16,
        logged_steps=2,
        ppo=PPOSettings(learning_rate=1e-2, critic_warmup_steps=0),
    )
    learned: list[tuple[int, ...]] = []
    for step in range(2):
        rollouts = learner.improving.sample()
        assert rollouts is not None
        assert not engine.asked
        measured = rollouts.measured
        learned += [tuple(answer) for _, answer in measured.items]
        assert torch.equal(measured.engine_logprobs, measured.live_logprobs)  # it is live that made them
        assert torch.equal(measured.logprobs, measured.live_logprobs) == (step == 0)
        learner.optimiser.step(measured, torch.arange(16.0))
    assert len(set(learned)) == 32  # none twice
    assert learner.improving.sample() is not None
    assert len(engine.asked) == 12  # the third has fresh ones
    log.close()


def test_a_larger_step_has_more_minibatches_of_the_usual_size(folder: Path) -> None:
    settings = LearnerSettings(
        data=folder,
        model=str(folder / "model"),
        engine="http://127.0.0.1:9",
        rollouts_per_step=16,
        ppo=PPOSettings(epochs=1, minibatches=4, critic_warmup_steps=0),
    )
    ppo = PPO.of(SharedModel(settings.model, rank=8), settings)
    sizes: list[int] = []
    gradient = ppo.gradient

    def counted(measured: Any, advantages: Any, rows: Any, *rest: Any) -> Any:
        sizes.append(len(rows))
        return gradient(measured, advantages, rows, *rest)

    ppo.gradient = counted  # type: ignore[method-assign]
    rollouts = [Sample(PROMPTS[i % 10], [5 + i, 6, 7], [], "", "stop") for i in range(48)]
    measured = ppo.measure(rollouts)
    ppo.step(measured, torch.randn(48, generator=torch.Generator().manual_seed(0)))
    assert sizes == [4] * 12
