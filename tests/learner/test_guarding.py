"""What guards find of a policy in the learner: on which texts, held against what, and what the gate says."""

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from deploy.engines.client import PromptsRefused, Sample
from deploy.guards import Guard, GuardLimits
from deploy.registry.manifest import GateNumbers
from feedback.core.events import Feedback, Target
from feedback.core.ids import vote_id
from feedback.core.log import Entry
from feedback.sqlite.log import SqliteLog
from learner.batching import Item
from learner.loop.guarding import Guarding
from learner.loop.learner import Learner
from learner.loop.second_domain import ENOUGH, BadPrompts, SecondDomain
from learner.model.shared import LIVE, POLICY
from learner.policy.candidate import publish
from learner.policy.probing import make_probes
from learner.rollouts.sampling import RolloutSampler, is_held_out
from learner.sft.fine_tuning import gradient
from learner.votes.labels import judges
from tests.feedback.examples import completion, record
from tests.learner.conftest import make_random_model
from tests.learner.test_model import disturb
from tests.learner.test_refusing import refused
from tests.learner.test_scaling import HELD_OUT, TwoPolicies, offering

JUDGES = [f"u_{i}" for i in range(400) if judges(f"u_{i}", 0.25)][:20]
TRAINERS = [f"u_{i}" for i in range(400) if not judges(f"u_{i}", 0.25)][:20]


VOCABULARY = {"<pad>": 0, "<unk>": 1, "<end>": 2} | {
    letter: 3 + i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))
}
# As a template writes tools into a prompt.
TOOLS = [VOCABULARY[letter] for letter in '{"name":"x"}']
TOOL_PROMPTS = [p for i in range(300, 900) if is_held_out(p := [*TOOLS, i])][:20]


def give_tokenizer(folder: Path) -> None:
    """A token for each byte, and a chat template."""
    made = Tokenizer(models.BPE(vocab=VOCABULARY, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<end>", pad_token="<pad>")
    fast.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}:"
    fast.save_pretrained(folder)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    make_random_model(tmp_path / "model", tokens=1024)
    give_tokenizer(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    """Answers to held-out prompts, of which raters of both sides wrote better ones; some call a tool."""
    log = SqliteLog(tmp_path / "log.db")
    written = []
    for i, prompt in enumerate([*HELD_OUT[:60], *TOOL_PROMPTS]):
        rater = JUDGES[i % 20] if i < 20 else TRAINERS[i % 20]
        event = completion(f"c{i}").model_copy(update={"prompt_token_ids": prompt})
        if prompt in TOOL_PROMPTS:
            event.choices[0] = event.choices[0].model_copy(update={"finish_reason": "tool_calls"})
        vote = Feedback(
            event_id=vote_id("default", rater, "correction", [(f"c{i}", 0)]),
            at=2.0,
            revision=1,
            kind="correction",
            rater=rater,
            targets=[Target(completion_id=f"c{i}", choice=0)],
            value=0.5,
            label="corrected",
            text=f"better {'judged' if i < 20 else 'trained'} {i}",
        )
        written += [record(event), record(vote)]
    log.append([Entry(each.topic, each.key, each.value) for each in written]).result()
    yield log
    log.close()


class Speaking(TwoPolicies):
    """Says what a function of the model's name makes of each prompt's number, and remembers who was asked."""

    says: Callable[[str, int], str] = staticmethod(lambda model, number: "")
    refuses: Sequence[list[int]] = ()

    def sample(self, model: str, prompts: list[list[int]], **options: Any) -> list[Sample]:
        if wrong := [prompt for prompt in prompts if prompt in self.refuses]:
            raise PromptsRefused(wrong, "400 no such thing")
        found = super().sample(model, prompts, **options)
        return [dataclasses.replace(each, text=self.says(model, i)) for i, each in enumerate(found)]


def learner_of(
    log: SqliteLog, folder: Path, model: Path, **limits: Any
) -> tuple[Learner, Speaking, Guarding]:
    """A learner that offers a policy, its engine, and its guards."""
    learner = offering(log, folder, model)
    learner.settings = dataclasses.replace(learner.settings, guards=GuardLimits(**limits))
    engine = Speaking(learner)
    learner.engine, learner.sampler = engine, RolloutSampler(engine, learner.folder / "rollouts")
    domain = SecondDomain(learner)
    guarding = Guarding(learner, learner.drawing, learner.scoring, domain)
    learner.offering._guarding = guarding
    return learner, engine, guarding


def found(learner: Learner, guarding: Guarding, prompts: list[list[int]] = HELD_OUT[:32]) -> dict[str, Guard]:
    ours, live = map(learner.scoring.judged, learner.drawing.of_both(prompts, 64))
    return {guard.name: guard for guard in guarding.guards(prompts, ours, live, 64)}


def forget(learner: Learner, items: list[Item]) -> None:
    """Let the policy find these answers less likely."""
    weights = learner.model.flat[POLICY].weights
    for _ in range(5):
        gradient(learner.model, items, 2048)
        assert weights.grad is not None
        with torch.no_grad():
            weights.add_(weights.grad / weights.grad.norm())


def test_demonstrations_that_no_policy_learned_from_are_guarded(
    log: SqliteLog, tmp_path: Path, model: Path
) -> None:
    learner, _, guarding = learner_of(log, tmp_path / "one", model)
    held_back = guarding._held_back()
    decode = learner.labels._tokenize
    assert decode is not None
    assert sorted(tuple(answer) for _, answer in held_back) == sorted(
        decode(f"better judged {i}") for i in range(20)
    )
    imitated = {answer for _, answer in learner.labels.demonstrations}
    assert len(imitated) == 60
    assert not imitated.intersection(answer for _, answer in held_back)

    guard = found(learner, guarding)["demonstrations"]
    logprobs = [learner.model.answer_logprobs(held_back, adapter).sum() for adapter in (POLICY, None)]
    tokens = sum(len(answer) for _, answer in held_back)
    assert guard.figure == pytest.approx(float(torch.exp((logprobs[1] - logprobs[0]) / tokens)), rel=1e-4)
    assert (guard.count, guard.limit) == (20, 1.1)
    learner.model.copy_adapter(LIVE, POLICY)
    assert found(learner, guarding)["demonstrations"].figure == 1.0  # the base has forgotten nothing


def test_a_policy_that_forgot_is_not_published_and_told_of(
    log: SqliteLog, tmp_path: Path, model: Path, caplog: pytest.LogCaptureFixture
) -> None:
    learner, _, guarding = learner_of(log, tmp_path / "one", model, demonstration_perplexity=1.01)
    learner.model.copy_adapter(LIVE, POLICY)
    assert not guarding.forgets()
    forget(learner, guarding._held_back())
    assert guarding.forgets()
    learner.settings = dataclasses.replace(
        learner.settings, kl_publish_nats=1e6, kl_budget_nats=1e6, gate_scales=(1.0,)
    )
    learner.earlier = []
    with caplog.at_level(logging.INFO):
        learner.turn(0.0)
    assert not learner.registry.versions()
    assert refused(learner, "gate") == 1
    assert "guards are against it, demonstrations: the perplexity" in caplog.text
    assert "at most 1.01 is allowed" in caplog.text
    value = learner.metrics.registry.get_sample_value
    assert value("hearken_guard_refusals_total", {"guard": "demonstrations"}) == 1
    assert value("hearken_guard_limit", {"guard": "demonstrations"}) == 1.01
    assert (value("hearken_guard_best", {"guard": "demonstrations"}) or 0) > 1.01
    assert value("hearken_guard_texts", {"guard": "second domain"}) == 0  # no file
    assert value("hearken_guard_figure", {"guard": "second domain"}) is None
    assert "second domain: not judged, learner.guards.prompts names no file" in caplog.text


def test_the_bases_own_answers_on_a_second_domain_are_sampled_once(
    log: SqliteLog, tmp_path: Path, model: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(f'{{"prompt": "weather {i}"}}' for i in range(20)))
    learner, engine, guarding = learner_of(log, tmp_path / "one", model, prompts=file)
    bad = guarding._domain._prompts[3]
    engine.refuses = [bad]
    guard = found(learner, guarding)["second domain"]
    assert guard.count == 19
    assert guard.figure is not None
    assert guard.figure > 1  # the base's answers are the base's
    again = found(learner, guarding)["second domain"]
    learner.save()
    learner.memory.close()
    learner, engine, guarding = learner_of(log, tmp_path / "one", model, prompts=file)
    engine.refuses = [bad]
    assert found(learner, guarding)["second domain"] == again == guard
    assert not [prompts for name, prompts in engine.asked if guarding._domain._prompts[0] in prompts]

    file.write_text('{"prompt": "fine"}\n{"completion": "no prompt"}')
    with pytest.raises(BadPrompts, match="line 2"):
        SecondDomain(learner)
    file.write_text("")
    with pytest.raises(BadPrompts, match="empty"):
        SecondDomain(learner)
    file.unlink()
    with pytest.raises(BadPrompts, match="cannot be read"):
        SecondDomain(learner)


def test_half_of_many_answers_on_the_second_domain_are_imitated_and_the_others_judge(
    log: SqliteLog, tmp_path: Path, model: Path
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text("\n".join(f'{{"prompt": "weather {i}"}}' for i in range(ENOUGH)))
    learner, _, guarding = learner_of(log, tmp_path / "one", model, prompts=file)
    domain = guarding._domain
    taught, judging = domain.taught(), domain.judging()
    assert len(taught) == len(judging) == ENOUGH // 2
    assert not {tuple(prompt) for prompt, _ in taught} & {tuple(prompt) for prompt, _ in judging}
    learner.improving._domain = domain
    most = learner.settings.rollouts_per_step // 8
    shown = learner.improving._demonstrations()
    assert sum(item in taught for item in shown) == min(most, len(taught))
    assert not any(item in judging for item in shown)
    assert found(learner, guarding)["second domain"].count == len(judging)

    file.write_text("\n".join(f'{{"prompt": "weather {i}"}}' for i in range(ENOUGH - 1)))
    few, _, guarding = learner_of(log, tmp_path / "few", model, prompts=file)
    assert not guarding._domain.taught()
    assert len(guarding._domain.judging()) == ENOUGH - 1
    few.memory.close()
    learner.memory.close()


def test_a_version_0_counts_from_itself(log: SqliteLog, tmp_path: Path, model: Path) -> None:
    learner, engine, guarding = learner_of(log, tmp_path / "one", model)
    disturb(learner.model, POLICY)
    from_base = found(learner, guarding)
    assert from_base["demonstrations"].figure != pytest.approx(1.0, abs=1e-3)
    publish(
        learner.registry,
        learner.model,
        parent="base",
        training={},
        offsets={},
        gate=GateNumbers(),
        probes=make_probes(learner.model),
        first=True,
    )
    digest = learner.model.policy_digest
    engine.asked.clear()
    itself = found(learner, guarding)
    assert itself["demonstrations"].figure == 1.0
    assert itself["prompt cluster 1"].figure == 0.5  # the same answers
    others = [name for name, _ in engine.asked if not name.startswith("rollout-")]
    assert others == ["base"]  # as live, whose answers the gate has; what it is held against is the version 0
    assert learner.model.policy_digest == digest


def test_tools_that_are_called_no_more_and_refusals_are_found(
    log: SqliteLog, tmp_path: Path, model: Path
) -> None:
    learner, engine, guarding = learner_of(log, tmp_path / "one", model)
    tools = learner.drawing.tool_prompts(32, 64)
    assert sorted(tools) == sorted(TOOL_PROMPTS)
    call = '<tool_call>{"name": "x", "arguments": {}}</tool_call>'

    engine.says = lambda model, number: call if model == "base" or number < 10 else "No."
    guard = found(learner, guarding)["tool calls"]
    assert (guard.figure, guard.count, guard.refuses) == (-0.5, 20, True)
    assert "at least -0.1 is allowed" in guard.sentence
    engine.says = lambda model, number: call if number < 19 or model == "base" else "No."
    assert found(learner, guarding)["tool calls"].refuses is False
    engine.says = lambda model, number: "I can't do that." if model != "base" else "No."
    guards = found(learner, guarding)
    assert guards["tool calls"].sentence.endswith(
        "none of 20 answers of the anchor has a call in a form that is known here"
    )
    assert (guards["refusals"].figure, guards["refusals"].refuses) == (1.0, True)
    engine.says = lambda model, number: "I can't do that."
    assert found(learner, guarding)["refusals"].figure == 0  # the base refused as often


def test_guards_without_enough_data_say_so(log: SqliteLog, tmp_path: Path, model: Path) -> None:
    learner, _, guarding = learner_of(log, tmp_path / "one", model, least=33)
    guards = found(learner, guarding)
    assert not any(guard.refuses for guard in guards.values())
    assert {name: guard.best for name, guard in guards.items()} == dict.fromkeys(
        ["demonstrations", "second domain", "tool calls", "refusals", "prompt clusters"]
    )
    assert guards["demonstrations"].sentence == (
        "demonstrations: not judged, there are 20 answers that judging raters wrote, 33 are needed"
    )
    assert "20 held-out prompts led to calls of tools" in guards["tool calls"].sentence
    learner.settings = dataclasses.replace(learner.settings, guards=None)
    assert found(learner, guarding) == {}
    assert guarding.forgets() is False
