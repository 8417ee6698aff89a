"""Who is exposed counts: a conversation that names nobody is a unit, and later turns draw nothing."""

import random
from dataclasses import replace

import pytest

from deploy.evidence.evidence import Evidence
from deploy.evidence.guardrails import GuardrailLimits, Guardrails
from deploy.evidence.preference import EvidenceRules
from deploy.history.scope import Scope
from deploy.history.table import UserArm, assign
from feedback.core.events import COMPLETIONS, FEEDBACK, Completion, Feedback, Target
from feedback.core.log import Entry
from tests.deploy.builders import answer, completion, thumb
from tests.deploy.world import MakeWorld, World

NEW, OLD = "policy-1-aaaaaaaa", "base"
SCOPE = Scope(first_epoch=2, canary=NEW, control=OLD)
PROXY = "u_of_the_proxy"


def turn(
    number: int, unit: str, arm: UserArm, *, epoch: int = 2, drawn: bool = True, at: float = 0.0
) -> Completion:
    """A turn of a conversation that names nobody, from behind the one address that there is."""
    version = NEW if arm == "canary" else OLD
    event = completion(number, user=PROXY, arm=arm, version=version, epoch=epoch, at=at)
    return event.model_copy(update={"unit": unit, "drawn": drawn})


def test_1000_conversations_of_one_address_are_1000_units() -> None:
    guardrails = Guardrails(GuardrailLimits(), SCOPE)
    evidence = Evidence(EvidenceRules(window_seconds=1.0), SCOPE)
    for i in range(1000):
        arm: UserArm = "canary" if i % 2 else "control"
        guardrails.add(turn(i, f"c_{i}", arm))
        version = NEW if arm == "canary" else OLD
        given = replace(answer(PROXY, arm=arm, version=version), unit=f"c_{i}")
        evidence.feed([thumb(given, 1.0, at=float(i % 7), vote=str(i))])
    evidence.advance(100.0)
    assert (guardrails.canary_users, guardrails.control_users, guardrails.exposed(2)) == (500, 500, 500)
    reading = evidence.reading()
    assert (reading.canary_users, reading.control_users, reading.pairs) == (500, 500, 500)


def test_longer_conversations_of_one_arm_are_no_mismatch_of_the_buckets() -> None:
    """People who like a version talk to it for longer: that is no loss of the other arm's users."""
    guardrails = Guardrails(GuardrailLimits(), SCOPE)
    for i in range(3000):
        arm: UserArm = "canary" if i % 2 else "control"
        began = 600.0 * (i // 100)
        guardrails.add(turn(10 * i, f"c_{i}", arm, at=began))
        for later in range(1, 8 if arm == "canary" else 2):
            guardrails.add(turn(10 * i + later, f"c_{i}", arm, drawn=False, at=began + 600.0 * later))
    assert guardrails.failure() is None


def test_conversations_that_one_arm_loses_are_a_mismatch() -> None:
    guardrails = Guardrails(GuardrailLimits(), SCOPE)
    for i in range(1500):
        if i % 2 or i % 3:  # every third one of the control's gets lost
            guardrails.add(turn(i, f"c_{i}", "canary" if i % 2 else "control"))
    failure = guardrails.failure()
    assert failure is not None
    assert failure.guardrail == "sample_ratio"


@pytest.mark.parametrize("arm", ["canary", "control"])
def test_turns_of_conversations_from_before_the_stage_are_in_no_bucket(arm: UserArm) -> None:
    guardrails = Guardrails(GuardrailLimits(), SCOPE)
    guardrails.add(turn(1, "c_1", arm, epoch=1, drawn=False))
    assert (guardrails.canary_users, guardrails.control_users, guardrails.exposed(2)) == (0, 0, 0)


class Proxy:
    """An app that names no user: all conversations of its users come from one address."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._rng = random.Random(1)
        self._said = 0

    def chat(self, conversations: int, turns: int) -> None:
        """New conversations under the table in force, each of some turns; the last one gets a vote."""
        entries = []
        for _ in range(conversations):
            unit = f"c_{self._said}"
            arm = assign(unit, self._world.decisions[-1].state.table)
            events = [self._turn(unit, arm, drawn=i == 0) for i in range(turns)]
            vote = self._vote(events[-1])
            entries += [Entry(COMPLETIONS, PROXY, event.model_dump_json().encode()) for event in events]
            entries.append(Entry(FEEDBACK, PROXY, vote.model_dump_json().encode()))
        self._world.log.append(entries).result()

    def _turn(self, unit: str, arm: UserArm, *, drawn: bool) -> Completion:
        self._said += 1
        table = self._world.decisions[-1].state.table
        options = {"version": table.version(arm), "epoch": table.epoch, "at": self._world.now}
        event = completion(self._said, user=PROXY, arm=arm, **options)
        return event.model_copy(update={"unit": unit, "drawn": drawn})

    def _vote(self, event: Completion) -> Feedback:
        liked = self._rng.random() < self._world.taste(event.policy_version)
        return Feedback(
            event_id=f"fb-{event.completion_id}",
            at=event.at + 0.1,
            revision=int(event.at * 1e6),
            kind="thumbs",
            rater=PROXY,
            targets=[Target(completion_id=event.completion_id)],
            value=float(liked),
            label="up" if liked else "down",
        )


def test_a_service_whose_users_are_all_behind_one_proxy_gets_its_releases(make_world: MakeWorld) -> None:
    world = make_world()
    candidate = world.offer()
    world.taste = lambda version: 0.8 if version == candidate.version else 0.3
    proxy = Proxy(world)
    for _ in range(150):
        world.tick()
        if "promoted" in world.outcomes:
            break
        proxy.chat(40, turns=3)
        world.now += 1.0
    assert world.state.table.live == candidate.version, [d.sentence for d in world.decisions]
    (promoted,) = [d for d in world.decisions if d.outcome == "promoted"]
    assert int(promoted.numbers["pairs"] or 0) >= 5
