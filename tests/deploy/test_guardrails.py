"""Guardrails: each can fail, says why, needs enough users, and leaves an equal canary alone."""

import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from math import comb, log
from typing import Any

import pytest

from deploy.evidence.comparing import sample_ratio_log_evidence
from deploy.evidence.guardrails import GuardrailLimits, Guardrails
from deploy.history.scope import Scope
from feedback.joining.join import Label
from tests.deploy.builders import answer, completion, thumb

NEW, OLD = "policy-1-aaaaaaaa", "base"
SCOPE = Scope(first_epoch=2, canary=NEW, control=OLD)
ARMS = (("canary", NEW), ("control", OLD), ("live", OLD))


def served(
    users: int, canary: Callable[[int], dict[str, Any]], limits: GuardrailLimits | None = None
) -> Guardrails:
    """A release in which every arm served as many users, three answers each; `canary` varies its answers."""
    guardrails = Guardrails(limits or GuardrailLimits(), SCOPE)
    for i in range(users):
        for a, (arm, version) in enumerate(ARMS):
            for j in range(3):
                options = canary(3 * i + j) if arm == "canary" else {}
                number = (i * 3 + a) * 3 + j
                guardrails.add(completion(number, user=f"{arm}{i}", arm=arm, version=version, **options))
    return guardrails


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("empty_answers", {"text": " "}, "at most 5% more"),
        ("cut_off_answers", {"finish_reason": "length"}, "at most 20% more"),
        ("answer_tokens", {"tokens": 161}, "0.125 to 8 times"),
        ("answer_tokens", {"tokens": 2}, "0.125 to 8 times"),
        ("token_seconds", {"latency_seconds": 1.9}, "at most 1.8 times"),
        ("ttft_seconds", {"ttft_seconds": 0.19}, "at most 1.8 times"),
    ],
)
def test_a_broken_canary_fails_with_a_sentence(name: str, options: dict[str, Any], words: str) -> None:
    failure = served(40, lambda i: options).failure()
    assert failure is not None
    assert failure.guardrail == name
    assert words in failure.sentence
    assert f"{name}_canary" in failure.numbers
    assert served(20, lambda i: options).failure() is None, "20 users are too few to judge"


def test_an_equal_canary_and_one_inside_the_limits_hold() -> None:
    assert served(300, lambda i: {}).failure() is None
    inside = {"tokens": 38, "latency_seconds": 3.3, "ttft_seconds": 0.17}
    assert served(300, lambda i: inside).failure() is None
    assert served(300, lambda i: {"text": "" if i % 30 == 0 else "x"}).failure() is None  # 3% more
    assert served(300, lambda i: {"text": "", "finish_reason": "tool_calls"}).failure() is None
    thoughtful = {"tokens": 320, "answer_start": 300, "latency_seconds": 16.0}  # its answers are as long
    assert served(300, lambda i: thoughtful).failure() is None


def voted(arm: str, users: range) -> Iterator[Label]:
    """Votes of users whom `served` served, each on the first answer."""
    place, version = next((a, version) for a, (name, version) in enumerate(ARMS) if name == arm)
    for i in users:
        of = answer(f"{arm}{i}", arm=arm, version=version)
        yield thumb(replace(of, completion_id=f"chatcmpl-{(i * 3 + place) * 3}"), 1, at=0)


def test_fewer_votes_than_the_baseline_fail() -> None:
    guardrails = served(100, lambda i: {})
    guardrails.feed(voted("control", range(20, 100)))
    guardrails.feed(voted("canary", range(96, 100)))
    failure = guardrails.failure()
    assert failure is not None
    assert failure.guardrail == "feedback_rate"
    guardrails.feed(voted("canary", range(40, 100)))
    assert guardrails.failure() is None


def test_the_sample_ratio_is_an_exact_mixture() -> None:
    for a, b in [(0, 0), (3, 5), (40, 10)]:
        exact = log(2 ** (a + b)) - log(comb(a + b, a)) - log(a + b + 1)
        assert sample_ratio_log_evidence(a, b) == pytest.approx(exact)


def test_a_sample_ratio_mismatch_fails() -> None:
    guardrails = Guardrails(GuardrailLimits(), SCOPE)
    for i in range(100):
        guardrails.add(completion(i, user=f"k{i}", arm="control", version=OLD))
        if i % 3 == 0:
            guardrails.add(completion(1000 + i, user=f"c{i}"))
    failure = guardrails.failure()
    assert failure is not None
    assert failure.guardrail == "sample_ratio"
    assert "34 canary users against 100 control users" in failure.sentence


def test_repetitions_references_and_earlier_tables_do_not_count() -> None:
    guardrails = Guardrails(GuardrailLimits(), SCOPE)
    for _ in range(5):
        guardrails.add(completion(1, user="ada"))
    guardrails.add(completion(2, user="bob", role="reference"))
    guardrails.add(completion(3, user="cyd", epoch=1))
    assert (guardrails.exposed(2), guardrails.canary_users) == (1, 1)


def test_in_a_holdback_the_new_live_arm_is_no_baseline() -> None:
    guardrails = Guardrails(GuardrailLimits(), SCOPE)
    for i in range(100):
        guardrails.add(completion(5 * i, user=f"c{i}", tokens=100))
        guardrails.add(completion(5 * i + 1, user=f"k{i}", arm="control", version=OLD, tokens=100))
        for j in range(3):
            guardrails.add(completion(5 * i + 2 + j, user=f"l{i}{j}", arm="live", version=NEW, tokens=10))
    assert guardrails.failure() is None


def test_looking_after_every_user_rarely_stops_an_equal_canary() -> None:
    """Noisy answers, 150 users an arm, a look after each: hardly any of 40 equal releases may be stopped."""
    rng = random.Random(4)
    stopped = 0
    for _ in range(40):
        guardrails = Guardrails(GuardrailLimits(), SCOPE)
        for i in range(450):
            arm, version = rng.choice(ARMS)
            guardrails.add(
                completion(
                    i,
                    user=f"{arm}{i}",
                    arm=arm,
                    version=version,
                    tokens=1 + int(rng.lognormvariate(3, 1)),
                    latency_seconds=rng.lognormvariate(0, 1),
                    ttft_seconds=rng.lognormvariate(-2, 1),
                    text="" if rng.random() < 0.1 else "x",
                    finish_reason="length" if rng.random() < 0.3 else "stop",
                )
            )
            if i % 3 == 0 and guardrails.failure() is not None:
                stopped += 1
                break
    assert stopped == 0


@pytest.mark.parametrize(
    "limits", [{"min_users": 1}, {"latency_ratio": 0.9}, {"feedback_ratio": 1.5}, {"sample_ratio_alpha": 0.0}]
)
def test_limits_that_an_unchanged_policy_would_miss_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        GuardrailLimits(**limits)
