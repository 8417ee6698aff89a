"""Learning in a sentence: the numbers, what waits, and what a person should do."""

from datetime import datetime
from typing import Any

import numpy as np
import pytest

from deploy.history.releases import Decision
from deploy.history.states import Outcome, ReleaseState
from deploy.history.table import RoutingTable
from deploy.reports.opinions import Estimate, Opinion, estimate, of_decisions, of_trial
from deploy.reports.plain_words import DAYS, Votes, counted_from, in_words, lines

NEW, OLD = "policy-4-1c9ab2d4", "policy-3-77777777"
MONDAY = datetime(2026, 11, 23).timestamp()  # local midnight
VOTES = Votes(1204, MONDAY)
IDLE = {"stage": "idle", "live": NEW, "waiting": None}
LIKED = Opinion(0.0, NEW, OLD, "promoted", Estimate(0.58, 0.54, 0.62, 1911), None)


def said(votes: Votes = VOTES, newest: Opinion | None = LIKED, **state: Any) -> str:
    return str(in_words(votes, IDLE | state, newest)["sentence"])


def tasks(votes: Votes = VOTES, *, decides: bool = True, **state: Any) -> list[str]:
    found: list[str] = in_words(votes, IDLE | state, LIKED, decides=decides)["to_do"]
    return found


def test_a_service_that_learns_needs_nobody() -> None:
    words = in_words(VOTES, IDLE, LIKED)
    assert lines(words) == [
        f"1,204 votes since Monday; the newest policy, {NEW} (live), is preferred to {OLD} in 58% [54, 62] "
        "of 1,911 users who compared; nothing to do."
    ]


@pytest.mark.parametrize(
    ("votes", "begins"),
    [
        (Votes(1, MONDAY), "1 vote since Monday; "),
        (Votes(0, MONDAY), "No votes since Monday; "),
        (Votes(0, MONDAY, complete=False), "At least 0 votes since Monday; "),
        (Votes(1000, MONDAY + 3 * 86_400, complete=False), "At least 1,000 votes since Thursday; "),
    ],
)
def test_votes_are_counted_since_a_day(votes: Votes, begins: str) -> None:
    assert said(votes).startswith(begins)


@pytest.mark.parametrize(
    ("newest", "state", "middle"),
    [
        (None, {"live": "base"}, "; no policy has met people yet; "),
        (None, {"stage": "canary", "canary": NEW}, f"; {NEW} is on trial, and what people say of it is not"),
        (LIKED, {"stage": "canary", "canary": "policy-5-0"}, "; policy-5-0 is on trial, and what people say"),
        (LIKED, {"live": OLD}, f"{NEW} (promoted, and no longer live), is preferred to"),
        (
            Opinion(0.0, NEW, OLD, None, None, Estimate(0.07, -0.03, 0.17, 40)),
            {"stage": "canary", "canary": NEW},
            f"the newest policy, {NEW} (on trial), has +7 points [-3, +17] in thumbs up against {OLD}, of 40 "
            "paired users; ",
        ),
        (
            Opinion(0.0, NEW, OLD, "harmful", Estimate(0.4, 0.3, 0.49, 1), None),
            {},
            f"(rolled back by votes), is preferred to {OLD} in 40% [30, 49] of 1 user",
        ),
        (Opinion(0.0, NEW, OLD, "inconclusive", None, None), {}, "was judged by nobody who votes; "),
        (LIKED, {"waiting": "policy-5-0"}, "; policy-5-0 waits for its trial; nothing to do."),
    ],
)
def test_the_newest_policy_is_told_of_with_what_became_of_it(
    newest: Opinion | None, state: dict[str, Any], middle: str
) -> None:
    assert middle in said(newest=newest, **state)


@pytest.mark.parametrize(
    ("state", "task"),
    [
        ({"stage": None}, "Start the release controller"),
        ({"paused": True}, "hearken resume"),
        ({"frozen": True}, "hearken release unfreeze"),
        ({"pinned": OLD}, f"Unpin {OLD}"),
        ({"quarantined": ["http://a:1", "http://b:1"]}, "See why http://a:1, http://b:1 cannot prove"),
    ],
)
def test_what_waits_for_a_person_is_a_task(state: dict[str, Any], task: str) -> None:
    (found,) = tasks(**state)
    assert task in found
    assert said(**state).endswith("; 1 thing to do.")


def test_silence_is_a_task_only_when_it_is_known() -> None:
    (found,) = tasks(Votes(0, MONDAY))
    assert found.startswith("Ask people")
    assert tasks(Votes(0, MONDAY, complete=False)) == []


def test_several_tasks_come_with_the_most_urgent_first() -> None:
    found = tasks(decides=False, paused=True)
    assert [task.split()[0] for task in found] == ["Start", "Resume"]
    words = in_words(VOTES, IDLE | {"paused": True}, None, decides=False)
    assert words["sentence"].endswith("; 2 things to do.")
    assert lines(words)[1:] == [f"to do       {task}" for task in found]


def test_votes_count_from_a_day_that_its_name_tells() -> None:
    for hour in (0, 11, 23):
        now = datetime(2026, 11, 29, hour, 30)  # a Sunday
        since = datetime.fromtimestamp(counted_from(now.timestamp()))
        assert (since.hour, since.minute, DAYS[since.weekday()]) == (0, 0, "Monday")
        assert (now.date() - since.date()).days == 6


def decision(
    number: int, outcome: Outcome, version: str | None, table: RoutingTable, **numbers: Any
) -> Decision:
    return Decision(
        event_id=f"d{number}", at=float(number), number=number, outcome=outcome, version=version,
        stage_before="canary", stage_after="idle", sentence="It was.", numbers=numbers,
        state=ReleaseState(table=table),
    )  # fmt: skip


def test_opinions_are_those_of_decisions_that_end_a_trial() -> None:
    heard = {"compared": 200, "preferred": 0.58, "pairs": 50, "mean_difference": 0.1}
    promoted = RoutingTable(epoch=2, live=NEW, control=OLD, canary=NEW, weight=0.1)
    found = of_decisions(
        [
            decision(1, "started", NEW, RoutingTable(live=OLD), weight=0.05),
            decision(2, "raised", NEW, RoutingTable(live=OLD), **heard),
            decision(3, "promoted", NEW, promoted, **heard),
            decision(4, "harmful", "policy-5-0", RoutingTable(live=NEW), **(heard | {"preferred": 0.3})),
            decision(5, "guardrail", "policy-6-0", RoutingTable(live=NEW), guardrail="parity"),
        ]
    )
    assert [(each.version, each.against, each.outcome) for each in found] == [
        (NEW, OLD, "promoted"),
        ("policy-5-0", NEW, "harmful"),
    ]
    assert found[0].preferred is not None
    assert found[0].thumbs is not None
    assert (found[0].preferred.value, found[0].preferred.users) == (0.58, 200)
    assert (found[0].thumbs.value, found[0].thumbs.users) == (0.1, 50)


def test_a_trial_is_told_by_its_evidence_as_far_as_that_is_known() -> None:
    state = {"stage": "canary", "canary": NEW, "control": OLD, "evidence": None}
    assert of_trial(state, 7.0) is None
    evidence = {"compared": 12, "preferred": 0.75, "pairs": 0, "mean_difference": None}
    found = of_trial(state | {"evidence": evidence}, 7.0)
    assert found is not None
    assert (found.version, found.against, found.outcome, found.thumbs) == (NEW, OLD, None, None)
    assert found.preferred is not None
    assert found.preferred.low < 0.75 < found.preferred.high
    assert of_trial(state | {"stage": "holdback", "evidence": evidence}, 7.0) is None


@pytest.mark.parametrize("truth", [0.5, 0.9])
def test_the_interval_holds_at_every_look(truth: float) -> None:
    runs, users = 2000, 1000
    chosen = np.random.default_rng(3).random((runs, users)) < truth
    means = chosen.cumsum(axis=1) / np.arange(1, users + 1)
    radii = np.array([estimate(0.5, n, 0.5, (-9.0, 9.0)).high - 0.5 for n in range(1, users + 1)])
    missed = (np.abs(means - truth) > radii).any(axis=1).mean()
    assert missed <= 0.05
    assert radii[99] < 0.16, "and it says something: 100 users"
    assert radii[999] < 0.06


def test_an_interval_stays_where_the_mean_can_be() -> None:
    few = estimate(0.9, 3, 0.5, (0.0, 1.0))
    assert (few.low, few.high) == (pytest.approx(0.0), 1.0)
