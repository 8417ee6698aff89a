"""`hearken rebase`: the new base says what the old one did with the adapter, and the service goes on."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from deploy.audit.verifying import verify
from deploy.engines.client import EngineClient
from deploy.history.releases import Candidate, append_step, entry, read_history
from deploy.history.signing import parse_key, public_key
from deploy.history.states import ReleaseState, Step
from deploy.history.table import RoutingTable
from deploy.registry.manifest import GateNumbers
from deploy.registry.registry import Registry
from feedback.core.files import only_one
from feedback.core.log import Entry
from feedback.core.secret import load_secret
from feedback.opening import open_log
from hearken.base.errors import UsageError
from hearken.data.rebase import MANIFEST, RebaseSettings, run
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.loop.reading import OtherBase
from learner.model.shared import LIVE, POLICY, SharedModel, digest_of_base
from learner.policy.candidate import publish
from learner.policy.probing import make_probes
from learner.policy.scaling import scale_policy
from learner.reward.features import WORDS
from learner.settings import LearnerSettings
from tests.feedback.examples import completion, record, thumb
from tests.learner.conftest import make_random_model
from tests.learner.test_model import disturb

TOKENS = torch.tensor([[1, 500, 2, 7, 8, 9, 3, 600]])


@pytest.fixture
def service(tmp_path: Path) -> RebaseSettings:
    """A service with votes whose live version is an adapter, which has been stopped."""
    data = tmp_path / "data"
    data.mkdir()
    (data / "secret").write_bytes(b"s" * 32)
    make_random_model(tmp_path / "old", tokens=1024)
    model = SharedModel(str(tmp_path / "old"), rank=8, device="cpu")
    disturb(model, POLICY)
    manifest = publish(
        Registry(data / "adapters"),
        model,
        parent="base",
        training={},
        offsets={},
        gate=GateNumbers(),
        probes=make_probes(model),
    )
    serve(data, manifest.version)
    log = open_log(data, None, "tester")
    for i in range(80):
        made = [record(completion(f"c{i}")), record(thumb(f"c{i}", float(i % 2), 1, rater=f"u_{i % 20}"))]
        log.append([Entry(each.topic, each.key, each.value) for each in made]).result()
    log.close()
    return RebaseSettings(model=tmp_path / "old", target=tmp_path / "new", data=data)


def serve(data: Path, live: str, **state: object) -> None:
    """A decision after which `live` serves."""
    log = open_log(data, None, "tester")
    history = read_history(log)
    table = RoutingTable(epoch=history.reached.number + 1, live=live)
    after = ReleaseState.model_validate({"table": table, "lives": ("base", live), **state})
    append_step(log, history, Step("begun", live, after, "It serves.", {}), 1.0)
    log.close()


def state_of(data: Path) -> ReleaseState:
    log = open_log(data, None, "tester")
    state = read_history(log).state
    log.close()
    assert state is not None
    return state


def live_of(settings: RebaseSettings) -> Path:
    return Registry(settings.data / "adapters").path(state_of(settings.data).table.live)


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS).logits.float()
    return found


def test_the_new_base_says_what_the_old_one_did_with_the_adapter(service: RebaseSettings) -> None:
    adapter = live_of(service)
    base = AutoModelForCausalLM.from_pretrained(service.model)
    bare = logits(base)
    before = logits(PeftModel.from_pretrained(base, adapter))
    assert (before - bare).abs().max() > 0.1
    assert run(service) == 0
    after = logits(AutoModelForCausalLM.from_pretrained(service.target))
    torch.testing.assert_close(after, before, atol=1e-4, rtol=1e-4)

    told = json.loads((service.target / MANIFEST).read_text())
    assert told["version"] == adapter.name
    assert told["base_digest"] == digest_of_base(service.model)
    assert told["digest"] == digest_of_base(service.target) != told["base_digest"]
    assert told["largest_nats"] < 1e-3 < told["effect_nats"]
    state = state_of(service.data)
    assert (state.table.live, state.lives, state.base) == ("base", ("base",), told["digest"])
    assert not list(service.target.parent.glob(".new-*"))
    with pytest.raises(UsageError, match="serves by itself"):
        run(service)


def test_weights_of_16_bits_that_cannot_hold_the_adapter_are_refused(service: RebaseSettings) -> None:
    coarse = AutoModelForCausalLM.from_pretrained(service.model, dtype=torch.bfloat16)
    coarse.save_pretrained(service.model)
    model = SharedModel(str(service.model), rank=8, device="cpu")
    disturb(model, POLICY)
    scale_policy(model, 0.003)  # below most last bits
    registry = Registry(service.data / "adapters")
    manifest = publish(
        registry, model, parent="base", training={}, offsets={}, gate=GateNumbers(), probes=make_probes(model)
    )
    serve(service.data, manifest.version)
    with pytest.raises(UsageError, match=r"rounding takes .* --float32"):
        run(service)
    assert not service.target.exists()
    assert state_of(service.data).table.live == manifest.version
    assert run(dataclasses.replace(service, float32=True)) == 0
    assert AutoModelForCausalLM.from_pretrained(service.target, dtype="auto").dtype == torch.float32


@pytest.mark.parametrize("stage", ["canary", "holdback"])
def test_nothing_is_merged_while_a_release_runs(service: RebaseSettings, stage: str) -> None:
    version = live_of(service).name
    serve(service.data, version, stage=stage)
    with pytest.raises(UsageError, match=f"a {stage} is running"):
        run(service)
    assert not service.target.exists()
    assert state_of(service.data).table.live == version


def test_nothing_replaces_a_pinned_version(service: RebaseSettings) -> None:
    version = live_of(service).name
    serve(service.data, version, pinned=version)
    with pytest.raises(UsageError, match=f"{version} is pinned.*unpin"):
        run(service)
    assert not service.target.exists()


@pytest.mark.parametrize("lock", ["controller.lock", "learner/lock", "up.lock"])
def test_nothing_is_merged_while_something_runs(service: RebaseSettings, lock: str) -> None:
    with only_one(service.data / lock), pytest.raises(UsageError, match="stop"):
        run(service)
    assert not service.target.exists()


def test_another_base_or_a_folder_that_is_taken_is_refused(service: RebaseSettings, tmp_path: Path) -> None:
    make_random_model(tmp_path / "other", tokens=512)
    with pytest.raises(UsageError, match="was trained on base"):
        run(dataclasses.replace(service, model=tmp_path / "other"))
    with pytest.raises(UsageError, match="name a new folder"):
        run(dataclasses.replace(service, target=tmp_path / "other"))
    with pytest.raises(UsageError, match="not a service's data folder"):
        run(dataclasses.replace(service, data=tmp_path / "nowhere"))


def test_what_was_done_before_a_kill_is_not_done_again(service: RebaseSettings) -> None:
    version = live_of(service).name
    assert run(service) == 0
    made = (service.target / MANIFEST).read_bytes()
    serve(service.data, version)  # as if the decision had not been written
    assert run(service) == 0
    assert (service.target / MANIFEST).read_bytes() == made
    assert state_of(service.data).table.live == "base"


def test_candidates_of_the_old_base_are_refused(service: RebaseSettings) -> None:
    serve(service.data, live_of(service).name, waiting="policy-8-00000000")
    log = open_log(service.data, None, "tester")
    log.append([entry(Candidate.announce("policy-9-00000000"))]).result()
    log.close()
    assert run(service) == 0
    log = open_log(service.data, None, "tester")
    history = read_history(log)
    checked = verify(log, None, [parse_key(public_key(load_secret(service.data / "secret")))])
    log.close()
    assert (checked.problems, checked.signed) == ([], 3)
    found = [(decision.outcome, decision.version) for decision in history.decisions][-3:]
    assert sorted(found[:2]) == [("refused", "policy-8-00000000"), ("refused", "policy-9-00000000")]
    assert found[2][0] == "rebased"
    assert history.candidates == []
    assert history.state is not None
    assert history.state.waiting is None


def learner_on(service: RebaseSettings, model: Path) -> Learner:
    settings = LearnerSettings(
        data=service.data,
        model=str(model),
        engine="http://127.0.0.1:9",
        min_labels=20,
        labels_per_update=20,
    )
    made = SharedModel(settings.model, rank=8, device="cpu")
    log, registry = open_log(service.data, None, "tester"), Registry(service.data / "adapters")
    return Learner(settings, log, EngineClient(settings.engine), registry, made, LearnerMetrics())


def end(learner: Learner) -> None:
    learner.memory.close()
    learner.log.close()


def test_the_learner_goes_on_from_the_new_base_with_all_votes(service: RebaseSettings) -> None:
    learner = learner_on(service, service.model)
    learner.turn(0.0)
    assert not learner.model.is_base(LIVE)
    assert learner.state.updates == 1
    learner.save()
    votes, updates = learner.labels.training, learner.state.updates
    old_features = learner.features.of_answers([next(learner.labels.answers_of(v)) for v in votes[:5]], WORDS)
    end(learner)
    assert run(service) == 0

    stale = learner_on(service, service.model)
    assert stale.resume()
    with pytest.raises(OtherBase, match="hearken rebase"):
        stale.turn(0.0)
    end(stale)

    learner = learner_on(service, service.target)
    assert learner.resume()
    assert learner.labels.training == votes
    learner.turn(0.0)
    assert (learner.place.live, learner.state.updates) == ("base", updates)
    assert learner.model.is_base(LIVE)
    assert learner.model.is_base(POLICY)
    assert learner.earlier == []
    known = [next(learner.labels.answers_of(vote)) for vote in votes[:5]]
    features, foreseen = learner.features.of_answers(known, WORDS), learner.reward.predictions(votes)
    assert not torch.equal(features, old_features)
    learner.save()
    end(learner)

    again = learner_on(service, service.target)
    assert again.resume()
    assert all(map(again.features.knows, known))
    assert torch.equal(again.features.of_answers(known, WORDS), features)
    assert again.reward.predictions(votes) == foreseen
    again.features.forget()  # what the new base makes of the votes, and nothing of the old one
    again.scoring.fit()
    assert again.reward.predictions(votes) == pytest.approx(foreseen, abs=1e-3)
    end(again)
