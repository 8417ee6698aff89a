"""The shadow of a candidate: what is judged, when, and that anyone who reads the log comes to the same."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from deploy.answer_guards import AnswerLimits
from deploy.audit.replay import replayed
from deploy.decide import shadow
from deploy.evidence.guardrails import GuardrailLimits
from deploy.history.releases import entry, read_history
from deploy.history.shadowed import Shadowed, Shadows, Traits, traits
from deploy.history.states import Shadow
from deploy.reports.status import summary
from deploy.reports.why import why
from feedback.core.events import RELEASES
from feedback.core.log import Entry
from hearken.base.telling import describe
from tests.deploy.shadows import SHADOW, answer, pair, usual
from tests.deploy.test_release import RULES, idle
from tests.deploy.world import MakeWorld

LIMITS, GUARDRAILS = AnswerLimits(), GuardrailLimits()
RUNNING = shadow.begin(idle(), replace(RULES, shadow_prompts=32, shadow_share=0.1, shadow_seconds=60),
                       LIMITS, 100.0, None).state  # fmt: skip


def of(plan: Shadow, candidate: Callable[[int], Traits], prompts: int = 32) -> list[Shadowed]:
    return [pair(plan, i, candidate(i)) for i in range(prompts)]


def refused_by(candidate: Callable[[int], Traits], prompts: int = 32) -> list[str]:
    assert RUNNING.shadow is not None
    found = shadow.judge(RUNNING.shadow, of(RUNNING.shadow, candidate, prompts), LIMITS, GUARDRAILS)
    refusing = [guard.name for guard in found.guards if guard.refuses]
    assert (found.problem is not None) == bool(refusing)
    return refusing


def changed(**changes: object) -> Callable[[int], Traits]:
    return lambda number: usual(number).model_copy(update=changes)


FAULTS: dict[str, Callable[[int], Traits]] = {
    "failed requests": lambda i: Traits(failed=True) if i % 2 else usual(i),
    "refusals beside live": changed(refuses=True),
    "one word": changed(one_word=True),
    "repetition": changed(loops=True),
    "flattery": changed(flatters=True),
    "length": lambda i: usual(i).model_copy(update={"tokens": 400, "seconds": 10.0}),
    "shortness": changed(tokens=1),
    "latency": changed(seconds=3.0),
}


@pytest.mark.parametrize("guard", FAULTS)
def test_each_fault_is_found_by_its_guard(guard: str) -> None:
    assert refused_by(FAULTS[guard]) == [guard]


def test_an_equal_candidate_passes_and_so_does_a_longer_one_that_takes_as_much_longer() -> None:
    assert refused_by(usual) == []
    assert refused_by(lambda i: usual(i + 1)) == []
    longer = (usual(i) for i in range(32))
    twice = [t.model_copy(update={"tokens": 2 * t.tokens, "seconds": 2 * t.seconds}) for t in longer]
    assert refused_by(lambda i: twice[i]) == []


def test_one_error_in_many_is_chance_and_too_few_prompts_judge_nothing() -> None:
    assert refused_by(lambda i: Traits(failed=True) if i == 5 else usual(i)) == []
    assert refused_by(FAULTS["one word"], prompts=15) == []


def test_a_pair_counts_once_of_this_shadow_alone_and_no_more_than_are_judged() -> None:
    plan = RUNNING.shadow
    assert plan is not None
    fold = Shadows()
    fold.take(pair(plan, 0, usual(0)))
    assert fold.pairs == [], "no shadow is under way yet"
    fold.follow(RUNNING)
    for event in [*of(plan, usual, 5) * 2, *of(plan.model_copy(update={"number": 9}), usual, 3)]:
        fold.take(event)
    assert len(fold.pairs) == 5
    for event in of(plan, usual, 50):
        fold.take(event)
    assert len(fold.pairs) == 32
    fold.follow(idle())
    assert fold.pairs == []


def test_a_shadow_is_over_by_number_or_time_and_by_nothing_that_was_said() -> None:
    plan, rules = RUNNING.shadow, replace(RULES, shadow_seconds=60)
    assert plan is not None
    assert not shadow.is_over(plan, 31, rules, 159.9)
    assert shadow.is_over(plan, 32, rules, 100.1)
    assert shadow.is_over(plan, 0, rules, 160.0)


def test_traits_are_of_the_text_and_keep_none_of_it() -> None:
    plan = RUNNING.shadow
    assert plan is not None
    secret = "I'm sorry, but I can't tell you about Ada's parcel."
    found = traits(secret, plan, 12, 0.5)
    assert (found.refuses, found.one_word, found.tokens) == (True, False, 12)
    told = pair(plan, 1, found, traits("What a great question, Ada!", plan, 7, 0.1))
    assert told.live.flatters
    assert "Ada" not in entry(told).value.decode()


# -- in the controller -----------------------------------------------------------------------------------


def test_a_candidate_is_shadowed_before_its_first_user_and_its_decision_has_the_numbers(
    make_world: MakeWorld,
) -> None:
    world = make_world(**SHADOW)
    manifest = world.offer()
    began = world.pass_time(until="shadowed", users=0)
    assert manifest.version in world.engines[0].loaded
    assert "nobody sees these answers" in began.sentence
    assert began.state.table.canary is None
    answer(world, prompts=20)
    world.tick()
    told = summary(read_history(world.log))
    assert (told["shadow"]["prompts"], told["shadow"]["of"]) == (20, 32)
    assert any("20 of 32 prompts" in line for line in describe(told))
    said = " ".join(why(world.state, None, world.settings.release_rules, world.now))
    assert "is shadowed: it answers 10% of the prompts of users as well, which nobody sees" in said
    assert world.metrics.registry.get_sample_value("hearken_shadow_prompts") == 20
    answer(world)  # the same twenty once more, and twelve others
    started = world.pass_time(until="started", users=0)
    assert started.numbers["shadow_prompts"] == 32
    assert started.numbers["shadow_one_word"] == 0.0
    assert started.numbers["shadow_latency_limit"] == 1.8
    assert (started.state.shadow, started.state.shadows) == (None, 1)
    assert [each.verdict for each in replayed(world.log, world.settings)] == ["same"]


@pytest.mark.parametrize("guard", FAULTS)
def test_a_candidate_that_answers_badly_in_the_shadow_is_refused_before_any_user(
    make_world: MakeWorld, guard: str
) -> None:
    world = make_world(**SHADOW)
    manifest = world.offer()
    world.pass_time(until="shadowed", users=0)
    answer(world, FAULTS[guard])
    refused = world.pass_time(until="refused", users=0)
    assert refused.version == manifest.version
    assert f"in the shadow of 32 prompts of users, {guard}: " in refused.sentence
    assert all(decision.state.table.canary is None for decision in world.decisions)
    name = {"guard": guard}
    assert world.metrics.registry.get_sample_value("hearken_shadow_refusals_total", name) == 1
    assert world.metrics.registry.get_sample_value("hearken_shadow_best", name) is not None
    assert [each.verdict for each in replayed(world.log, world.settings)] == ["same"]


def test_a_replay_finds_a_shadow_whose_verdict_was_changed(make_world: MakeWorld) -> None:
    world = make_world(**SHADOW)
    world.offer()
    world.pass_time(until="shadowed", users=0)
    answer(world)
    started = world.pass_time(until="started", users=0)
    forged = started.model_copy(
        update={
            "number": started.number + 1,
            "outcome": "refused",
            "event_id": "decision-forged",
            "numbers": started.numbers | {"shadow_one_word": 0.9},
        }
    )
    copy = make_world()
    records, _ = world.log.read([RELEASES], {}, 1000)
    before = [Entry(r.topic, r.key, r.value) for r in records if b'"outcome":"started"' not in r.value]
    copy.log.append([*before, entry(forged)]).result()
    [found] = replayed(copy.log, world.settings)
    assert (found.verdict, found.why) == ("differs", "its shadow says nothing against it")


def test_a_service_that_nobody_uses_is_not_held_up_for_longer_than_the_setting(make_world: MakeWorld) -> None:
    world = make_world(**SHADOW)
    world.offer()
    began = world.pass_time(until="shadowed", users=0)
    answer(world, FAULTS["one word"], prompts=3)
    started = world.pass_time(until="started", users=0)
    assert 30 <= started.at - began.at < 33
    assert "3 prompts of users were too few to judge a shadow by" in started.sentence
    assert started.numbers["shadow_prompts"] == 3


def test_a_shadow_survives_its_controller_and_ends_with_its_candidate(make_world: MakeWorld) -> None:
    world = make_world(**SHADOW)
    world.offer()
    began = world.pass_time(until="shadowed", users=0)
    answer(world, FAULTS["one word"], prompts=20)
    world.kill_controller()
    world.now += 1
    world.tick()
    assert world.state.shadow == began.state.shadow, "it goes on, and is not begun anew"
    newer = world.offer(b"two")
    world.pass_time(until="superseded", users=0)
    world.tick()
    world.pass_time(until="shadowed", users=0)
    assert world.state.shadow is not None
    assert (world.state.shadow.version, world.state.shadow.number) == (newer.version, 2)
    answer(world)
    world.pass_time(until="started", users=0)
    assert world.state.table.canary == newer.version


def test_an_engine_that_restarts_in_a_shadow_gets_the_candidate_again(make_world: MakeWorld) -> None:
    world = make_world(**SHADOW)
    manifest = world.offer()
    world.pass_time(until="shadowed", users=0)
    world.engines[0].stop()
    world.engines[0].start()
    for _ in range(5):
        world.now += 1
        world.tick()
    assert world.state.shadow is not None
    assert manifest.version in world.engines[0].loaded


def test_without_a_shadow_all_is_as_before(make_world: MakeWorld) -> None:
    world = make_world(shadow_prompts=0)
    world.offer()
    started = world.pass_time(until="started", users=0)
    assert world.outcomes == ["begun", "accepted", "started"]
    assert not any(name.startswith("shadow") for name in started.numbers)


def test_states_of_before_have_no_shadow() -> None:
    dumped = idle().model_dump(exclude={"shadow", "shadows"})
    again = type(idle()).model_validate(dumped)
    assert (again.shadow, again.shadows) == (None, 0)
