"""The arithmetic of a run's report, and the audit of its votes, against answers worked out by hand."""

import json
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.history.releases import Decision
from deploy.history.states import ReleaseState
from deploy.registry.manifest import GateNumbers
from deploy.registry.registry import Registry
from feedback.core.events import COMPLETIONS, FEEDBACK, Choice, Completion, Feedback, Target
from feedback.core.log import Entry, LogUnavailable
from feedback.sqlite.log import SqliteLog
from hearken.base.conversation import asked, turn
from hearken.data.audit import audit, votes_digest, votes_up_to, wait_until_read
from hearken.demo import report
from hearken.demo.evaluate import Estimate, Evaluation, estimate, response_kl_nats, wins
from hearken.demo.simulate import Tally
from tests.deploy.builders import adapter_folder


def test_a_mean_and_its_standard_error() -> None:
    # Values 1, 1, 0, 0: mean 1/2, sample variance 1/3, standard error sqrt(1/3/4).
    found = estimate([1, 1, 0, 0])
    assert (found.mean, found.count) == (0.5, 4)
    assert found.standard_error == pytest.approx(math.sqrt(1 / 12))
    assert estimate([3.0]) == Estimate(3.0, math.inf, 1)
    with pytest.raises(ValueError, match="no values"):
        estimate([])


def test_ties_count_half() -> None:
    assert wins([1.0, 0.0, 2.0], [0.0, 1.0, 2.0]) == [1.0, 0.0, 0.5]
    with pytest.raises(ValueError):
        wins([1.0], [])


def test_kl_is_the_difference_of_log_probabilities() -> None:
    assert response_kl_nats([-1.0, -0.5], [-2.0, -0.25]) == pytest.approx(0.75)


def test_k1_estimates_the_true_kl() -> None:
    """Over all answers of two coins, weighed by the policy, k1 is exactly KL = 2 * KL(coin || coin)."""
    policy, reference = {0: 0.9, 1: 0.1}, {0: 0.5, 1: 0.5}
    expected = 2 * sum(p * math.log(p / reference[side]) for side, p in policy.items())
    total = 0.0
    for first in (0, 1):
        for second in (0, 1):
            answer = (first, second)
            k1 = response_kl_nats(
                [math.log(policy[side]) for side in answer],
                [math.log(reference[side]) for side in answer],
            )
            total += policy[first] * policy[second] * k1
    assert total == pytest.approx(expected)


def test_the_digest_depends_on_the_votes_and_not_on_their_order() -> None:
    assert votes_digest([("a", 1), ("b", 2)]) == votes_digest([("b", 2), ("a", 1)])
    assert votes_digest([("a", 1)]) != votes_digest([("a", 2)])
    assert votes_digest([("a", 1)]) != votes_digest([("a", 1), ("a", 1)])
    assert votes_digest([]) == "0" * 64


@pytest.fixture
def log(tmp_path: Path) -> Iterator[SqliteLog]:
    log = SqliteLog(tmp_path / "log.db")
    yield log
    log.close()


def completion(name: str) -> Entry:
    event = Completion(
        event_id=name,
        at=1.0,
        completion_id=name,
        conversation="u",
        user="u",
        policy_version="base",
        arm="live",
        messages=[],
        prompt_token_ids=[1],
        choices=[Choice(text="hi", token_ids=[2], logprobs=[-0.1])],
    )
    return Entry(COMPLETIONS, "u", event.model_dump_json().encode())


def vote(name: str, revision: int, target: str) -> Entry:
    event = Feedback(
        event_id=name,
        at=2.0,
        revision=revision,
        kind="thumbs",
        rater="u",
        targets=[Target(completion_id=target)],
        value=1.0,
        label="up",
    )
    return Entry(FEEDBACK, "u", event.model_dump_json().encode())


def ledger(data: Path, votes: list[tuple[str, int]], labels: int, **cursor: int) -> None:
    folder = data / "learner" / "checkpoint"
    folder.mkdir(parents=True, exist_ok=True)
    places = {f"{topic}/0": offset for topic, offset in cursor.items()}
    content = {"cursor": places, "labels": labels, "digest": votes_digest(votes)}
    (folder / "ledger.json").write_text(json.dumps(content))


@pytest.fixture
def story(log: SqliteLog) -> SqliteLog:
    """Four votes: one revised, one repeated, one on a completion that never comes, one late."""
    log.append([completion("c1"), vote("v1", 1, "c1"), completion("c2")]).result()
    log.append([vote("v2", 5, "c2"), vote("v2", 5, "c2"), vote("v1", 7, "c1")]).result()
    log.append([vote("v3", 1, "never"), vote("v4", 1, "c2")]).result()
    return log


def test_a_ledger_that_agrees_with_the_log(story: SqliteLog, tmp_path: Path) -> None:
    assert audit(story, tmp_path) is None
    ledger(tmp_path, [("v1", 7), ("v2", 5), ("v4", 1)], 3, completions=2, feedback=6, releases=9)
    checked = audit(story, tmp_path)
    assert checked is not None
    assert (checked.votes_used_once, checked.labels_used, checked.labels_in_log) == (True, 3, 3)


@pytest.mark.parametrize(
    ("votes", "labels"),
    [
        ([("v1", 7), ("v2", 5)], 2),  # one was lost
        ([("v1", 7), ("v2", 5), ("v4", 1), ("v4", 1)], 4),  # one was used twice
        ([("v1", 7), ("v2", 5), ("v4", 1)], 4),  # counted wrongly
        ([("v1", 1), ("v2", 5), ("v4", 1)], 3),  # an old revision
    ],
)
def test_a_ledger_that_does_not_agree(
    votes: list[tuple[str, int]], labels: int, story: SqliteLog, tmp_path: Path
) -> None:
    ledger(tmp_path, votes, labels, completions=2, feedback=6)
    checked = audit(story, tmp_path)
    assert checked is not None
    assert not checked.votes_used_once


def test_only_what_lies_before_the_cursor_counts(story: SqliteLog) -> None:
    assert votes_up_to(story, {"completions/0": 1, "feedback/0": 2}) == {"v1": 1}
    assert votes_up_to(story, {}) == {}


def test_a_checkpoint_from_the_future_is_no_ones(log: SqliteLog, monkeypatch: Any) -> None:
    monkeypatch.setattr("hearken.data.audit.PATIENCE_SECONDS", 0.05)
    log.append([completion("c1")]).result()
    with pytest.raises(LogUnavailable, match="ends before the learner's checkpoint"):
        votes_up_to(log, {"completions/0": 5})


def test_waiting_for_the_learner(story: SqliteLog, tmp_path: Path) -> None:
    stopping = threading.Event()
    assert not wait_until_read(story, tmp_path, 0.01, stopping)
    ledger(tmp_path, [], 0, completions=2, feedback=6)
    assert wait_until_read(story, tmp_path, 10.0, stopping)


def decision(number: int, outcome: str, version: str, **numbers: float) -> Decision:
    return Decision.model_validate(
        {
            "event_id": f"d{number}",
            "at": 1.0,
            "number": number,
            "outcome": outcome,
            "stage_before": "canary",
            "stage_after": "idle",
            "version": version,
            "sentence": f"{outcome} {version}.",
            "numbers": numbers,
            "state": ReleaseState(),
        }
    )


def publish(registry: Registry, source: Path) -> str:
    manifest = registry.publish(
        adapter_folder(source),
        parent="base",
        base_digest="0" * 64,
        rank=8,
        training={"labels": 5},
        offsets={"feedback/0": 9},
        gate=GateNumbers(prompts=64, win_rate=0.7, win_rate_low=0.6),
        probes=[],
    )
    return manifest.version


def test_a_report_is_json_with_the_whole_story(tmp_path: Path) -> None:
    registry = Registry(tmp_path / "adapters")
    version = publish(registry, tmp_path / "draft")
    tally = Tally(chat_requests=100, chat_failures=1, feedback_events=60)
    long = [
        turn("system", "Be brief."),
        turn("user", "Where?"),
        turn("assistant", "Here."),
        turn("user", "Ah!"),
    ]
    pairs = [(long, "base says", "live says"), *((asked(f"q{i}"), "base", "live") for i in range(29))]
    run = report.Run(
        seconds=12.34,
        persona="friendly",
        world="everyday life",
        tally=tally,
        decisions=[
            decision(1, "accepted", version),
            decision(2, "started", version, weight=0.05),
            decision(
                3, "promoted", version,
                canary_users=40, control_users=42, evidence_promote=21.5, evidence_harm=0.1, pairs=40,
            ),
            decision(4, "finished", version),  # which is not what became of it
            decision(5, "guardrail", "policy-2-00000000"),
            decision(6, "rolled_back", "policy-3-00000000"),
        ],
        evaluation=Evaluation(
            version=version,
            win_rate=Estimate(0.75, 0.02, 400),
            kl_nats_base=Estimate(3.0, 0.1, 200),
            utility_base=0.1,
            utility_live=0.6,
            tokens_base=80.04,
            tokens_live=31.5,
            cut_off_base=0.05,
            cut_off_live=0.0,
            pairs=pairs,
        ),
        kl_budget_nats=6.0,
        rollouts_cut_off=0.02,
        audit=None,
        votes_in_log=60,
    )  # fmt: skip
    built = report.build(run, registry)
    path = tmp_path / "out" / "r.json"
    report.write(path, built)
    read = json.loads(path.read_text())
    assert read["seconds"] == 12.3
    assert (read["chat_requests"], read["chat_failures"], read["feedback_events"]) == (100, 1, 60)
    assert (read["promotions"], read["rollbacks"]) == (1, 2)
    assert (read["true_win_rate"], read["kl_nats_base"], read["kl_budget_nats"]) == (0.75, 3.0, 6.0)
    assert (read["response_tokens_base"], read["response_tokens_live"]) == (80.0, 31.5)
    assert (read["cut_off_base"], read["cut_off_live"], read["rollouts_cut_off"]) == (0.05, 0.0, 0.02)
    assert len(read["samples"]) == 20
    assert read["samples"][0]["prompt"] == "system: Be brief.\nuser: Where?\nassistant: Here.\nuser: Ah!"
    assert read["samples"][1] == {"prompt": "q0", "base": "base", "live": "live"}
    assert read["votes_used_once"] is None
    [told] = read["versions"]
    assert (told["version"], told["seq"], told["parent"]) == (version, 1, "base")
    assert told["gate"]["win_rate"] == 0.7
    assert told["gate"]["kl_budget_nats_base"] is None  # infinity is no JSON
    assert "no budget of KL to base" in told["gate"]["verdict"]
    assert (told["canary_users"], told["e_values"]["promote"]) == (40, 21.5)
    assert told["outcome"] == "promoted"
    assert told["decision"] == f"promoted {version}."
    assert "policy-1" in report.summary(read)


def test_an_interrupted_run_still_has_a_report(tmp_path: Path) -> None:
    run = report.Run(1.0, "friendly", "support desk", Tally(), [], None, 6.0, None, None, None)
    built = report.build(run, Registry(tmp_path))
    assert built["true_win_rate"] is None
    assert json.loads(json.dumps(built, allow_nan=False)) == built
    assert "0 chats" in report.summary(built)
