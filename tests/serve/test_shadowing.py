"""The gateway's part in a shadow: which prompts the candidate answers as well, and that nobody sees it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.audit.replay import replayed
from deploy.history.releases import Decision, entry, parse
from deploy.history.shadowed import Shadowed
from deploy.history.states import ReleaseState, Shadow
from deploy.history.table import RoutingTable
from feedback.core.events import FEEDBACK, RELEASES, UPDATES
from tests.deploy.shadows import SHADOW
from tests.deploy.world import World
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble

CANDIDATE = "policy-1-aaaaaaaa"
PLAN = Shadow(
    number=1,
    version=CANDIDATE,
    live="base",
    share=1.0,
    prompts=32,
    began_at=1.0,
    refusal_pattern="^I cannot",
    flattery_pattern="^I am policy",  # as the candidate of the fake engine answers
)


@pytest.fixture
def gateway(start: Start, fake: FakeVllm) -> Iterator[Gateway]:
    """One that has seen that its engine has the candidate, which no table names."""
    fake.adapters = {CANDIDATE}
    return start()


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """A controller that has every prompt answered, and whom nobody's clock tells that time is over."""
    made = World(tmp_path, **SHADOW, shadow_share=1.0)
    yield made
    made.close()


def shadow(gateway: Gateway, plan: Shadow | None = PLAN, number: int = 2) -> None:
    """Decide so, and wait until the gateway knows of it."""
    table = RoutingTable(epoch=number)
    waiting = None if plan is None else plan.version
    decision = Decision(
        event_id=f"decision-{number}",
        at=1.0,
        number=number,
        outcome="shadowed",
        stage_before="idle",
        stage_after="idle",
        sentence="A test decided.",
        state=ReleaseState(table=table, waiting=waiting, shadow=plan),
    )
    gateway.log.append([entry(decision)]).result()
    eventually(lambda: gateway.metric("hearken_table_epoch") == number, "the gateway follows")


def pairs(gateway: Gateway) -> list[Shadowed]:
    found = [parse(record.value) for record in gateway.records(RELEASES)]
    return [event for event in found if isinstance(event, Shadowed)]


def asked_of(fake: FakeVllm, version: str) -> int:
    return sum(body["model"] == version for body in fake.requests if "messages" in body)


@pytest.mark.parametrize("stream", [False, True])
def test_the_candidate_answers_as_well_and_the_log_gets_what_it_was_like_alone(
    gateway: Gateway, fake: FakeVllm, stream: bool
) -> None:
    shadow(gateway)
    answer = gateway.chat("Where is Ada's parcel?", stream=stream, user="ada")
    assert "base" in answer.text
    assert "policy" not in answer.text
    eventually(lambda: pairs(gateway), "the pair is told")
    [told] = pairs(gateway)
    assert (told.number, told.version) == (1, CANDIDATE)
    assert (told.candidate.flatters, told.live.flatters) == (True, False)
    assert (told.candidate.failed, told.live.failed) == (False, False)
    [event] = gateway.completions()
    assert event.policy_version == "base"
    assert told.live.tokens == event.choices[0].answer_length == told.candidate.tokens > 1
    assert 0 < told.live.seconds <= event.latency_seconds + 0.001
    assert told.candidate.seconds > 0
    last = [body for body in fake.requests if body["model"] == CANDIDATE][-1]
    assert "stream" not in last
    assert "stream_options" not in last
    written = entry(told).value
    for word in ("I am", "Ada", event.user, event.completion_id):
        assert word.encode() not in written
    assert gateway.records(FEEDBACK) == gateway.records(UPDATES) == []
    assert gateway.metric('hearken_shadowed_prompts_total{result="told"}') == 1


def test_prompts_that_are_none_of_a_shadow_are_not_asked_again(gateway: Gateway, fake: FakeVllm) -> None:
    """Without consent, of a comparison, of a text completion, or that got no answer. The last chat is one."""
    shadow(gateway)
    gateway.chat("private", hearken={"consent": False})
    gateway.http.post("/v1/completions", json={"model": "hearken", "prompt": "once"})
    gateway.chat(Trouble.CRASH)
    body = {"model": "hearken", "messages": [{"role": "user", "content": "two"}]}
    assert gateway.http.post("/v1/comparisons", json=body).is_success
    assert gateway.chat("yes").is_success
    eventually(lambda: pairs(gateway), "the last one is told")
    assert asked_of(fake, CANDIDATE) == len(pairs(gateway)) == 1


@pytest.mark.parametrize(
    "plan",
    [
        None,
        PLAN.model_copy(update={"share": 0.0}),
        PLAN.model_copy(update={"live": "policy-9-bbbbbbbb"}),
        PLAN.model_copy(update={"version": "policy-9-bbbbbbbb"}),
    ],
    ids=["no shadow", "a share of none", "of another live", "of a version that no engine has"],
)
def test_nothing_is_asked_without_a_shadow_of_what_the_user_got(
    gateway: Gateway, fake: FakeVllm, plan: Shadow | None
) -> None:
    shadow(gateway, plan)
    for _ in range(5):
        assert gateway.chat().is_success
    shadow(gateway, PLAN.model_copy(update={"number": 2}), number=3)
    assert gateway.chat().is_success
    eventually(lambda: pairs(gateway), "the shadow that is one is told of")
    assert {each.number for each in pairs(gateway)} == {2}
    assert asked_of(fake, CANDIDATE) == 1
    assert asked_of(fake, "policy-9-bbbbbbbb") == 0


def test_no_more_prompts_are_asked_than_are_judged(gateway: Gateway, fake: FakeVllm) -> None:
    shadow(gateway, PLAN.model_copy(update={"prompts": 3}))
    for number in range(1, 8):
        gateway.chat()
        eventually(lambda n=number: len(pairs(gateway)) == min(n, 3), "as many are told")  # type: ignore[misc]
    assert asked_of(fake, CANDIDATE) == 3


def test_a_candidate_that_fails_where_live_answers_has_failed_each_time(
    gateway: Gateway, fake: FakeVllm
) -> None:
    shadow(gateway)
    fake.broken = {CANDIDATE}
    for number in range(1, 5):
        assert gateway.chat().is_success
        eventually(lambda n=number: len(pairs(gateway)) == n, "the failure is told")  # type: ignore[misc]
    assert {(told.candidate.failed, told.live.failed) for told in pairs(gateway)} == {(True, False)}
    assert len(gateway.completions()) == 4


def test_where_live_gets_no_answer_either_the_candidate_is_not_blamed(
    gateway: Gateway, fake: FakeVllm
) -> None:
    """The engine answers the user's request, and no other one like it."""
    shadow(gateway)
    body = {"model": "hearken", "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body) as answer:
        assert fake.holding.wait(10)
        fake.broken = {CANDIDATE, "base"}
        fake.release.set()
        assert "[DONE]" in answer.read().decode()
    dropped = 'hearken_shadowed_prompts_total{result="dropped"}'
    eventually(lambda: gateway.metric(dropped) == 1, "it is dropped")
    assert pairs(gateway) == []


@pytest.mark.parametrize(("broken", "outcome"), [(False, "started"), (True, "refused")])
def test_a_candidate_is_judged_by_what_users_asked_this_gateway(
    start: Start, world: World, fake: FakeVllm, broken: bool, outcome: str
) -> None:
    """A controller and a gateway on one log: what the one decides the other follows."""
    version = world.offer().version
    fake.adapters = {version}
    gateway = start(events=world.log)
    world.pass_time(until="shadowed", users=0)
    for number in range(1, 33):
        eventually(lambda n=number: _one_more(gateway, n), "another pair is told")  # type: ignore[misc]
        fake.broken = {version} if broken else set()
    world.now += 1
    world.tick()
    decision = world.decisions[-1]
    assert (decision.outcome, decision.numbers["shadow_prompts"]) == (outcome, 32)
    assert ("failed requests: the share of requests without an answer" in decision.sentence) is broken
    assert [each.verdict for each in replayed(world.log, world.settings)] == ["same"]


def _one_more(gateway: Gateway, number: int) -> bool:
    """Whether so many pairs are told of, after one more chat where they are not."""
    if len(pairs(gateway)) < number:
        assert gateway.chat("Where is it?").is_success
    return len(pairs(gateway)) >= number
