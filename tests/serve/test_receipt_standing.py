"""A receipt tells of the best that came of a vote: what serves goes before what was taken back."""

import time
from pathlib import Path
from typing import Any

import pytest

from deploy.history.states import Outcome
from feedback.core.events import Target
from feedback.core.log import EventLog
from feedback.updates.usage import State
from serve.receipts.store import ReceiptStore
from tests.feedback.examples import completion, record, thumb
from tests.serve.conftest import Gateway, eventually
from tests.serve.test_receipts import Releases, fold, post, receipt, thumbs, update


def statuses(log: EventLog, folder: Path, *versions: str) -> list[str]:
    """What the read model of a whole log says that versions are."""
    store = ReceiptStore(folder / "receipts.db")
    fold(store, log, 1000)
    found = [store.version(version) for version in versions]
    store.close()
    return [str(each["status"]) for each in found if each is not None]


@pytest.mark.parametrize("end", ["harmful", "guardrail", "rolled_back"])
def test_what_was_taken_back_is_not_called_live_whoever_took_it(
    log: EventLog, tmp_path: Path, end: Outcome
) -> None:
    releases = Releases(log)
    releases.offer("policy-1-aa", reward_updates=1)
    releases.decide("promoted", "policy-1-aa", live="policy-1-aa")
    releases.decide(end, "policy-1-aa")
    releases.offer("policy-2-bb", reward_updates=2)
    releases.decide("started", "policy-2-bb")
    releases.decide(end, "policy-2-bb")
    assert statuses(log, tmp_path, "policy-1-aa", "policy-2-bb") == ["rolled_back", "rolled_back"]


def test_a_version_is_live_until_a_newer_one_takes_its_place(log: EventLog, tmp_path: Path) -> None:
    releases = Releases(log)
    for version in ("policy-1-aa", "policy-2-bb"):
        releases.offer(version, reward_updates=1)
        releases.decide("promoted", version, live=version)
    assert statuses(log, tmp_path, "policy-1-aa", "policy-2-bb") == ["replaced", "live"]


@pytest.mark.parametrize(("voted_at", "meant"), [(0.5, "early"), (2.0, "early"), (3.5, "late")])
def test_a_receipt_means_the_answer_that_training_means(tmp_path: Path, voted_at: float, meant: str) -> None:
    """Of an id of the client's own, the newest answer up to the vote (tests/feedback/test_join.py)."""
    vote = thumb("x", 1.0, 1).model_copy(update={"targets": [Target(external_id="msg-1")], "at": voted_at})
    answers = [
        completion(name, at=at).model_copy(update={"external_id": "msg-1"})
        for name, at in (("early", 1.0), ("late", 3.0))
    ]
    store = ReceiptStore(tmp_path / "receipts.db")
    assert store.fold([record(each) for each in (*answers, vote)], {}, {"feedback/0": 1})
    found = store.vote(vote.event_id)
    store.close()
    assert found is not None
    assert [answer["id"] for [answer] in found["answers"]] == [meant]


def voted_and_learned(gateway: Gateway) -> str:
    """The id of a vote that the first update of the reward model was fitted to."""
    event_id = post(gateway, thumbs(gateway.chat(user="ada").json()["id"]))
    update(gateway.log, 1, (event_id, gateway.votes()[0].revision, "training"))
    return event_id


def named(gateway: Gateway, event_id: str) -> list[str]:
    """The versions in a receipt."""
    policies: Any = receipt(gateway, event_id)["policies"]
    return [policy["version"] for policy in policies]


def policy(gateway: Gateway, event_id: str) -> Any:
    """The version that a receipt is about."""
    return receipt(gateway, event_id)["policy"]


@pytest.mark.parametrize("later", ["started", "rolled_back", "harmful", "refused"])
def test_a_version_that_is_live_goes_before_what_became_of_others(gateway: Gateway, later: Outcome) -> None:
    event_id = voted_and_learned(gateway)
    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    releases.decide("promoted", "policy-1-aa", live="policy-1-aa")
    releases.offer("policy-2-bb", reward_updates=2)
    releases.decide(later, "policy-2-bb", live="policy-1-aa")
    eventually(lambda: len(named(gateway, event_id)) == 2, "both versions")
    found = receipt(gateway, event_id, "live")
    assert policy(gateway, event_id)["version"] == "policy-1-aa"
    assert str(found["sentence"]).startswith("Your thumb trained policy-1-aa, which has been live since 20")


@pytest.mark.parametrize("state", ["evicted", "waiting", "kept", "judging"])
def test_what_updates_do_with_a_vote_later_does_not_hide_that_its_version_is_live(
    gateway: Gateway, state: State
) -> None:
    event_id = voted_and_learned(gateway)
    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    update(gateway.log, 2, (event_id, gateway.votes()[0].revision, state))
    releases.decide("promoted", "policy-1-aa", live="policy-1-aa")
    receipt(gateway, event_id, "live")


def test_one_on_trial_goes_before_newer_ones_that_were_taken_back(gateway: Gateway) -> None:
    event_id = voted_and_learned(gateway)
    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    releases.decide("started", "policy-1-aa", stage="canary")
    receipt(gateway, event_id, "canary")
    releases.offer("policy-2-bb", reward_updates=2)
    releases.decide("refused", "policy-2-bb", stage="canary")
    eventually(lambda: len(named(gateway, event_id)) == 2, "both versions")
    assert "which some users have tried since" in str(receipt(gateway, event_id, "canary")["sentence"])
    releases.decide("rolled_back", "policy-1-aa")
    assert "policy-2-bb, which was refused on" in str(receipt(gateway, event_id, "shaped")["sentence"])


def test_the_version_that_is_live_is_named_among_any_number_of_newer_ones(gateway: Gateway) -> None:
    event_id = voted_and_learned(gateway)
    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    releases.decide("promoted", "policy-1-aa", live="policy-1-aa")
    for i in range(2, 32):
        releases.offer(f"policy-{i}-cc", reward_updates=i)
        releases.decide("refused", f"policy-{i}-cc", live="policy-1-aa")
    eventually(lambda: named(gateway, event_id)[-1:] == ["policy-31-cc"], "all versions")
    receipt(gateway, event_id, "live")
    assert (named(gateway, event_id)[0], len(named(gateway, event_id))) == ("policy-1-aa", 20)


def test_live_since_is_when_it_came_to_serve(gateway: Gateway) -> None:
    event_id = voted_and_learned(gateway)
    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    releases.decide("promoted", "policy-1-aa", live="policy-1-aa", stage="holdback")
    receipt(gateway, event_id, "live")
    since = policy(gateway, event_id)["since"]
    releases.decide("finished", "policy-1-aa", live="policy-1-aa")
    releases.offer("policy-2-bb", reward_updates=2)
    eventually(lambda: len(named(gateway, event_id)) == 2, "both versions")
    assert policy(gateway, event_id)["since"] == since
    releases.decide("promoted", "policy-2-bb", live="policy-2-bb")
    eventually(lambda: policy(gateway, event_id)["version"] == "policy-2-bb", "the newer one is live")
    releases.decide("rolled_back", "policy-2-bb", live="policy-1-aa")
    eventually(lambda: policy(gateway, event_id)["version"] == "policy-1-aa", "the first one is back")
    assert receipt(gateway, event_id, "live")["policy"] == {
        "version": "policy-1-aa",
        "status": "live",
        "since": pytest.approx(time.time(), abs=60),
    }
    assert policy(gateway, event_id)["since"] > since
