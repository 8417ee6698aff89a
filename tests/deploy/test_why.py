"""Why a release stands where it does: which step, what is still needed, what holds it, with the numbers."""

from dataclasses import replace

import pytest

from deploy.decide import release
from deploy.decide.release import Rung
from deploy.evidence.preference import EvidenceRules, Reading
from deploy.history.holds import holds
from deploy.history.releases import Candidate, History, decision_of
from deploy.history.states import ReleaseState, Step
from deploy.reports.running import Running
from deploy.reports.why import span, where_now, why
from tests.deploy.test_release import NEW, OLD, READING, RULES, canary, holdback, idle

FOUND = Running(
    reading=replace(Reading(), not_awful=20.0),
    guardrails={"sample_ratio": "held", "empty_answers": "not judged yet"},
    complete=True,
    rules=EvidenceRules(),
    exposed=28,
    met=28,
    judged=False,
)


def told(state: ReleaseState | None, found: Running | None, seconds: float) -> str:
    """What is said so long after the stage, or the step, began."""
    began = 0.0 if state is None else state.entered_at
    return " ".join(why(state, found, RULES, began + seconds))


def test_a_small_canary_says_what_the_next_step_needs() -> None:
    assert told(canary(), FOUND, 20.0) == (
        f"{NEW} has been on trial with 5% of users, beside {OLD} with as many, for 20 s. "
        "For the next step, 25% of users, it needs 40 s more, 12 more canary users (28 of 40 were served on "
        "this step), users enough to judge guardrails by (empty_answers). "
        "This step ends without a verdict in 16 min. "
        "So far: nobody voted, evidence 1 of the 20 that promote it and evidence 1 of the 100 that find "
        "harm. "
        "For a promotion votes have to show that users like it better, that thumbs are no lower, that "
        "comparisons agree, or that as many vote in both buckets. "
        "Nothing is promoted before guardrails were judged."
    )


def test_how_many_more_have_to_vote_is_foreseen_once_some_did() -> None:
    growing = Reading(
        not_awful=20.0, pairs=40, mean_difference=0.2, promote=20.0**0.5, no_worse=50.0, voters_alike=50.0
    )
    said = told(canary(), replace(FOUND, reading=growing), 20.0)
    assert (
        "For a promotion votes have to show that users like it better. Should evidence grow as it did, about "
        "40 more users have to vote for that." in said
    )
    assert "have to vote" not in told(canary(), FOUND, 20.0), "nobody voted"


def test_a_canary_that_may_be_awful_says_what_it_needs() -> None:
    said = told(canary(), replace(FOUND, reading=replace(Reading(), not_awful=3.0)), 20.0)
    assert "votes that rule out the worst (evidence 3 of 20)" in said
    assert "in 16 min, or when 272 more users met it and votes do not rule out the worst." in said


@pytest.mark.parametrize(
    ("found", "seconds", "needs"),
    [
        (replace(FOUND, exposed=40, judged=True, guardrails={}), 20.0, "it needs 40 s more."),
        (replace(FOUND, judged=True, guardrails={}), 60.0, "it needs 12 more canary users (28 of 40"),
        (replace(FOUND, exposed=40), 60.0, "it needs users enough to judge guardrails by (empty_answers)."),
        (replace(FOUND, exposed=40, judged=True, guardrails={}), 60.0, "it needs nothing more."),
    ],
)
def test_what_the_next_step_needs_is_what_the_controller_waits_for(
    found: Running, seconds: float, needs: str
) -> None:
    state = canary()
    assert needs in told(state, found, seconds)
    known = release.Known(found.reading, None, found.exposed, found.met, found.judged, {})
    due = release.judge(state, RULES, known, state.entered_at + seconds)
    assert (due is not None) == ("nothing more" in needs)


def test_a_later_step_may_be_shorter_than_the_one_before() -> None:
    rules = replace(RULES, ladder=(Rung(0.05, 600), Rung(0.25, 10), Rung(0.5, 0)))
    state = canary(0.25)
    ready = replace(FOUND, exposed=40, judged=True, guardrails={})
    for seconds, needs in ((5.0, "it needs 5 s more"), (10.0, "it needs nothing more")):
        now = state.entered_at + seconds
        assert needs in " ".join(why(state, ready, rules, now))
        due = release.judge(state, rules, release.Known(ready.reading, None, 40, 40, True, {}), now)
        assert (due is not None) == ("nothing" in needs)


def test_evidence_is_told_against_its_bounds() -> None:
    found = replace(FOUND, reading=READING, judged=True, guardrails={"empty_answers": "held"})
    assert (
        "So far: 212 paired users, mean difference +0.18, preferred in 64% by 31 users who compared, "
        "evidence 1 of the 20 that promote it and evidence 1 of the 100 that find harm."
    ) in told(canary(0.25), found, 10.0)
    assert "Nothing is promoted before guardrails were judged." in told(
        canary(0.25), replace(found, judged=False), 10.0
    )
    assert "nobody voted, evidence 1 of the 20" in told(canary(0.25), replace(found, reading=Reading()), 1.0)
    assert "a part of the votes" in told(canary(0.25), replace(found, complete=False), 1.0)


def test_the_last_step_says_when_it_ends() -> None:
    said = told(canary(0.5), FOUND, 100.0)
    assert "This step ends without a verdict in 15 min." in said
    assert "next step" not in said


def test_a_failed_guardrail_is_told() -> None:
    failing = replace(FOUND, guardrails={"empty_answers": "failed", "sample_ratio": "held"})
    assert "It is about to be rolled back: empty_answers failed." in told(canary(), failing, 1.0)


def test_a_holdback_can_only_find_harm() -> None:
    found = replace(FOUND, reading=READING, judged=True)
    said = told(holdback(), found, 20.0)
    assert f"{NEW} has been live for 20 s; 5% of users keep {OLD}" in said
    assert "That ends in 8 min, or for the next candidate in 30 s." in said
    assert "evidence 1 of the 100 that find harm" in said
    assert "For a promotion" not in said
    assert "promote it" not in said
    waiting = holdback().model_copy(update={"waiting": "policy-3-cccccccc"})
    assert "policy-3-cccccccc waits until it has lasted 30 s more." in told(waiting, found, 20.0)
    frozen = waiting.model_copy(update={"frozen": True})
    assert "That ends in 8 min; policy-3-cccccccc waits." in told(frozen, found, 20.0)


def test_where_nobody_knows_what_users_did_that_is_told() -> None:
    for state in (canary(), holdback()):
        assert "is not known here" in told(state, None, 1.0)


def test_without_a_release_the_candidate_or_its_absence_is_told() -> None:
    assert "No controller has decided anything yet" in told(None, None, 0.0)
    assert f"{OLD} serves everybody, and {NEW} waits: its canary starts when" in told(idle(), None, 1.0)
    alone = idle().model_copy(update={"waiting": None})
    assert told(alone, None, 90.0) == f"{OLD} has served everybody for 90 s; no candidate waits."


def test_what_a_pause_holds_is_not_said_to_end() -> None:
    for state in (canary(0.5), holdback()):
        paused = state.model_copy(update={"paused": True})
        assert "ends" in told(state, FOUND, 1.0)
        assert "ends" not in told(paused, FOUND, 1.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"paused": True}, "Releases are paused: no canary starts, grows or is promoted"),
        ({"frozen": True}, "Releases are frozen: no canary starts until `hearken release unfreeze`."),
        ({"pinned": OLD}, f"{OLD} is pinned: nothing replaces it until `hearken release unpin`."),
        ({"pinned": NEW}, f"{NEW} is pinned, but no engine could serve it, so {OLD} serves."),
    ],
)
def test_what_operators_hold_is_told(changes: dict[str, object], words: str) -> None:
    held = idle().model_copy(update=changes)
    said = told(held, None, 1.0)
    assert words in said
    assert "its canary starts" not in said
    assert holds(idle()) == []


def history(*steps: Step) -> History:
    found = History()
    for number, each in enumerate(steps, 1):
        found.apply(decision_of(each, ReleaseState(), number, float(number)))
    return found


def test_where_a_version_stands() -> None:
    refused = release.refuse(idle(), "policy-9-aaaaaaaa", "too long")
    found = history(refused)
    assert where_now(found, OLD) == f"{OLD} is live."
    assert where_now(found, NEW) == f"{NEW} waits for its canary."
    assert where_now(found, "base") == f"base was live before {OLD}: a rollback may come to it."
    assert where_now(found, "policy-9-aaaaaaaa") == "policy-9-aaaaaaaa serves nobody."
    assert where_now(found, "policy-8-aaaaaaaa") is None
    found.apply(Candidate.announce("policy-8-aaaaaaaa", 1.0))
    assert "no controller has judged it yet" in (where_now(found, "policy-8-aaaaaaaa") or "")
    trial = History()
    trial.apply(found.decisions[0].model_copy(update={"state": canary()}))
    assert where_now(trial, NEW) == f"{NEW} is on trial."
    assert where_now(History(), NEW) is None


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(-3, "0 s"), (119, "119 s"), (120, "2 min"), (7199, "120 min"), (7200, "2.0 h"), (200_000, "2 days")],
)
def test_durations_are_for_people(seconds: float, words: str) -> None:
    assert span(seconds) == words
