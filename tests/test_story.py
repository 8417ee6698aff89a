"""The story of one thumb, told in order with everything real: vLLM, the log, the learner, the controller.

Ada and her neighbours chat with the tiny model. What they like is short answers; nobody tells the service.
"""

import itertools
import statistics
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import httpx
import openai
import pytest
from openai.types.chat import ChatCompletion

from deploy.controller.leading import Alone
from deploy.controller.loop import Controller
from deploy.controller.metrics import ControllerMetrics
from deploy.engines.client import EngineClient
from deploy.engines.fleet import Fleet
from deploy.engines.parity import largest
from deploy.evidence.guardrails import GuardrailLimits
from deploy.registry.registry import Registry
from deploy.settings import ControllerSettings
from feedback.core.events import BASE, COMPLETIONS, Completion, Feedback
from feedback.joining.labels import Label
from feedback.opening import open_sealer
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from learner.loop.learner import Learner
from learner.loop.metrics import LearnerMetrics
from learner.model.shared import SharedModel
from learner.settings import LearnerSettings, PPOSettings
from learner.votes.labels import vote_number
from tests.conftest import Engine
from tests.serve.conftest import Gateway, eventually, serving

pytestmark = [pytest.mark.engine, pytest.mark.timeout(1800)]

QUESTIONS = [
    f"{greeting}, {question}"
    for greeting in ("Hello", "Hi", "Good morning", "Hey", "Please", "Sorry", "Listen", "Well")
    for question in (
        "where is my parcel?",
        "how do I get a refund?",
        "I forgot my password.",
        "can I cancel my order?",
        "my lamp arrived broken.",
        "when do you open?",
        "I need an invoice.",
        "this is the wrong size.",
        "who can help me?",
        "can I change my address?",
    )
]


class Service:
    """One machine's service, with its people."""

    def __init__(self, data: Path, engine: Engine, gateway: Gateway) -> None:
        self.data = data
        self.gateway = gateway
        self._engine = engine
        self._registry = Registry(data / "adapters")
        self._client = EngineClient(engine.url)
        rules = ControllerSettings(
            data=data,
            engines=(engine.url,),
            ladder=((0.5, 0),),  # half of the people at once: a village has no 1%
            window_seconds=0.01,
            voters_tolerance=0.5,  # they vote by chance, whatever they think
            holdback_min_seconds=0,
            shadow_prompts=0,
            parity_tolerance_nats=1e-3,
            # An engine that shares two cores with everything here is no judge of how fast a policy answers,
            # and these people like an answer without words.
            guardrails=GuardrailLimits(latency_ratio=50, empty_share=0.9),
        )
        fleet = Fleet([self._client], self._registry, rules.parity_limits)
        self._shared = SqliteStore(data / "shared.db")
        self.controller = Controller(
            gateway.log, self._registry, fleet, rules, ControllerMetrics(rules), self._shared, Alone()
        )
        self.learner = self.new_learner()
        self.usual = 40.0  # characters; what an answer is held against

    def new_learner(self) -> Learner:
        settings = LearnerSettings(
            data=self.data,
            model=str(self._engine.model),
            engine=self._engine.url,
            min_labels=60,
            labels_per_update=40,
            rollouts_per_step=48,
            steps_per_candidate=3,
            gate_prompts=48,
            kl_budget_nats=20,
            kl_publish_nats=20,
            self_check=None,  # its limits are for larger batches; tests/learner/test_refusing.py is about it
            answers=None,  # these people like an answer of no word at all
            ppo=PPOSettings(learning_rate=6e-3, warmup_steps=1, critic_warmup_steps=0, kl_step_nats=1),
        )
        model = SharedModel(settings.model, rank=settings.rank)
        return Learner(settings, self.gateway.log, self._client, self._registry, model, LearnerMetrics())

    def ask(self, user: str, question: str) -> ChatCompletion:
        """One chat, as any OpenAI client does it."""
        client = openai.OpenAI(base_url=self.gateway.url + "/v1", api_key="none", max_retries=0)
        messages = [{"role": "user", "content": question}]
        return client.chat.completions.create(
            model="hearken",
            user=user,
            messages=messages,
            max_tokens=64,  # type: ignore[arg-type]
        )

    def thumb(self, user: str, answer: ChatCompletion) -> httpx.Response:
        """Up for an answer that is shorter than usual, down for a longer one."""
        short = len(answer.choices[0].message.content or "") < self.usual
        vote = {
            "kind": "thumbs",
            "completion_id": answer.id,
            "value": "up" if short else "down",
            "user": user,
        }
        return self.gateway.http.post("/v1/feedback", json=vote)

    def visit(self, number: int) -> int:
        """A neighbour asks and votes. Gives the length of the answer."""
        user = f"neighbour-{number}"
        answer = self.ask(user, QUESTIONS[number % len(QUESTIONS)])
        assert self.thumb(user, answer).status_code == 202
        return len(answer.choices[0].message.content or "")

    def visits(self, numbers: range) -> list[int]:
        with ThreadPoolExecutor(16) as people:
            return list(people.map(self.visit, numbers))

    def until(self, what: str, done: Callable[[], object], work: Callable[[], object], times: int) -> None:
        """Work until something holds; fail when it does not after so many times."""
        for _ in range(times):
            if done():
                return
            work()
        assert done(), f"{what} did not happen in {times} rounds"


@pytest.fixture
def service(tmp_path: Path, engine: Engine) -> Iterator[Service]:
    with ExitStack() as stack:
        log = SqliteLog(tmp_path / "log.db")
        stack.callback(log.close)
        store = SqliteStore(tmp_path / "shared.db")
        stack.callback(store.close)
        gateway = stack.enter_context(serving(tmp_path, log, store, (engine.url,)))
        eventually(gateway.is_ready, "the gateway is ready")
        yield Service(tmp_path, engine, gateway)


def first_of(learner: Learner, vote: Feedback) -> Label:
    """The label that the learner made of a vote."""
    labels = [*learner.labels.training, *learner.labels.judging]
    return next(label for label in labels if label.event_id == vote.event_id)


def test_the_story_of_one_thumb(service: Service) -> None:
    controller, gateway = service.controller, service.gateway
    controller.tick()  # the first decision of all: the base model serves everybody

    # 1. Grace asks. Her arm's policy answers; she sees an ordinary OpenAI answer and nothing of arms.
    answer = service.ask("grace", "Where is my parcel?")
    assert answer.model == "hearken"
    assert "base" not in answer.model_dump_json()

    # 2. What the engine saw and sampled is on disk, token by token.
    completion = gateway.completion(answer.id)
    assert (completion.policy_version, completion.arm) == ("base", "live")
    assert completion.prompt_token_ids
    assert len(completion.choices[0].token_ids) == len(completion.choices[0].logprobs) > 0
    assert "grace" not in completion.user

    # 3. Her thumb names the signed id. It is on disk before the 202.
    assert service.thumb("grace", answer).status_code == 202
    (thumb,) = gateway.votes()
    assert thumb.rater == completion.user
    assert thumb.targets[0].completion_id == completion.completion_id

    # 4. Her neighbours vote too. The learner joins votes and completions and learns what they like.
    lengths = service.visits(range(60))
    service.usual = statistics.median(lengths)
    service.visits(range(60, 180))
    learner = service.learner
    service.until("a reward update", lambda: learner.state.updates, lambda: learner.turn(0.2), 20)
    votes = gateway.votes()
    assert learner.labels.used == len(votes) == 181
    digest = sum(vote_number(vote.event_id, vote.revision) for vote in votes) % 2**256
    assert learner.labels.ledger()["digest"] == f"{digest:064x}"

    # 5. Fresh answers to recent prompts are scored, and PPO moves the policy.
    service.until("a PPO step", lambda: learner.place.steps, lambda: learner.turn(0.2), 5)
    moved = learner.model.adapter_state("policy")
    assert any(moved[key].ne(value).any() for key, value in learner.untrained.items())

    # 6. All of it is one checkpoint: another process continues where this one is killed.
    learner = service.learner = service.new_learner()
    assert learner.resume()
    again = learner.model.adapter_state("policy")
    assert all(again[key].equal(value) for key, value in moved.items())
    assert learner.labels.used == 181

    # 7 to 9. What wins against live on held-out prompts is tried on people. A win on few prompts may have
    # been luck: then they find out, and the learner goes on.
    tried: list[str] = []
    while controller.state.table.live == BASE:
        assert len(tried) < 3, f"people wanted none of {tried}"
        tried.append(try_a_candidate(service, tried))
    version = tried[-1]

    # 10. Grace looks what became of her thumb, the operator which thumbs made the policy.
    became = "judging" if learner.labels.is_judging(first_of(learner, thumb)) else "live"
    receipt = f"/v1/feedback/{thumb.event_id}"
    eventually(lambda: gateway.http.get(receipt).json()["status"] == became, f"the receipt says {became}")
    made = gateway.http.get(f"/v1/policies/{version}/feedback", params={"limit": 1000}).json()
    trained = {signal.event_id for signal in learner.labels.training}
    assert {vote["id"] for vote in made["data"]} <= trained
    assert made["status"] == "live"

    # 11. The next answer is the new policy's, and no answer of the whole story was lost or mixed.
    epoch = controller.state.table.epoch
    eventually(lambda: gateway.metric("hearken_table_epoch") == epoch, "the gateway follows")
    answer = service.ask("grace", "Where is my parcel?")
    assert gateway.completion(answer.id).policy_version == version
    records, _ = gateway.log.read([COMPLETIONS], {}, limit=100_000)
    sealer = open_sealer(gateway.data)
    served = [sealer.open(Completion.model_validate_json(record.value)) for record in records]
    assert {completion.policy_version for completion in served} == {"base", *tried}
    by_version = {
        policy: statistics.fmean(len(c.choices[0].text) for c in served if c.policy_version == policy)
        for policy in ("base", version)
    }
    assert by_version[version] < by_version["base"]  # what they like, and nobody said


def try_a_candidate(service: Service, before: Collection[str]) -> str:
    """Steps 7 to 9: a policy that was not there `before`, and people's verdict on it."""
    learner, controller, gateway = service.learner, service.controller, service.gateway
    people = itertools.count(1000 * (1 + len(before)), 60)

    def more_votes() -> None:
        first = next(people)
        service.visits(range(first, first + 60))

    # 7. After some steps the policy wins against live on held-out prompts and is published. Where steps led
    # to nothing good, the learner waits for votes.
    def is_offered() -> bool:
        return learner.state.trial is not None and learner.state.trial not in before

    def learn() -> None:
        if learner.waits:
            more_votes()
        learner.turn(0.2)

    service.until("a candidate", is_offered, learn, 40)
    version = str(learner.state.trial)
    manifest = service._registry.manifest(version)
    assert manifest.parent == "base"
    assert manifest.gate.win_rate_low > 0.5
    assert manifest.offsets == learner.place.cursor
    asked = {answers[0].prompt_token_ids for answers in learner.joiner.completions.values()}
    assert asked.isdisjoint(tuple(probe.prompt_token_ids) for probe in manifest.probes)  # nobody's words
    service._registry.verify(version)

    # 8. The controller lets the engine prove that it has what was trained, and starts the canary.
    controller.tick()
    table = controller.state.table
    assert (table.canary, table.control, table.weight) == (version, "base", 0.5)
    assert version in service._client.models()
    served, bare = (service._client.probe(name, manifest.probes) for name in (version, BASE))
    assert largest(manifest.probes, served) < 1e-3
    assert largest(manifest.probes, bare) > 0.02  # no other model is taken for it
    eventually(lambda: gateway.metric("hearken_table_epoch") == table.epoch, "the gateway follows")

    # 9. People vote on both sides, blind, until the evidence crosses a bound.
    def judge() -> None:
        more_votes()
        controller.tick()

    service.until("a verdict", lambda: controller.state.stage != "canary", judge, 20)
    return version
