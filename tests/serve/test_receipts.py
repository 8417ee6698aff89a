"""What became of a vote: from the log alone, and the same after everything but the log is lost."""

import sqlite3
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from deploy.history.releases import Candidate, Decision
from deploy.history.releases import entry as release_entry
from deploy.history.states import Outcome, ReleaseState, Stage
from deploy.history.table import RoutingTable
from feedback.core.events import FEEDBACK, RELEASES, Feedback
from feedback.core.ids import Signer
from feedback.core.log import Entry, EventLog
from feedback.sqlite.log import SqliteLog
from feedback.updates.revisions import revision_id
from feedback.updates.usage import State, usage_events
from feedback.updates.usage import entry as usage_entry
from serve.metrics import Metrics
from serve.receipts.store import TOPICS, ReceiptStore
from tests.feedback.examples import completion, record, thumb
from tests.serve.conftest import SECRET, Gateway, Start, eventually
from tests.serve.test_access import CHAT, add_key, bearer

OURS = Signer(SECRET)


def thumbs(target: str, value: str = "up", **more: object) -> dict[str, object]:
    return {"kind": "thumbs", "completion_id": target, "value": value, "user": "ada", **more}


def post(gateway: Gateway, vote: object) -> str:
    answer = gateway.http.post("/v1/feedback", json=vote)
    assert answer.status_code == 202, answer.text
    event_id: str = answer.json()["id"]
    return event_id


def receipt(gateway: Gateway, event_id: str, status: str | None = None) -> dict[str, object]:
    """A receipt, once it has a status."""
    found: dict[str, object] = {}

    def there() -> bool:
        nonlocal found
        answer = gateway.http.get(f"/v1/feedback/{event_id}")
        assert answer.status_code == 200, answer.text
        found = answer.json()
        return status in (None, found["status"])

    eventually(there, f"the receipt says {status}")
    return found


def update(log: EventLog, number: int, *changes: tuple[str, int, State]) -> None:
    """What the learner says after an update of the reward model."""
    events = usage_events(number, time.time(), {}, changes)
    log.append([usage_entry(event) for event in events]).result()


class Releases:
    """Decisions as the controller writes them."""

    def __init__(self, log: EventLog) -> None:
        self.log = log
        self.number = 0

    def offer(self, version: str, reward_updates: int, parent: str | None = None) -> None:
        candidate = Candidate.announce(version, reward_updates=reward_updates, parent=parent)
        self.log.append([release_entry(candidate)]).result()

    def decide(
        self, outcome: Outcome, version: str, live: str = "base", stage: Stage = "idle", fence: int = 0
    ) -> None:
        self.number += 1
        decision = Decision(
            event_id=f"decision-{self.number}",
            at=time.time(),
            number=self.number,
            fence=fence,
            outcome=outcome,
            stage_before=stage,
            stage_after=stage,
            version=version,
            sentence="A test decided.",
            state=ReleaseState(table=RoutingTable(live=live)),
        )
        self.log.append([release_entry(decision)]).result()


def test_the_whole_way_of_a_vote(gateway: Gateway) -> None:
    completion_id = gateway.chat(user="ada").json()["id"]
    event_id = post(gateway, thumbs(completion_id))
    first = receipt(gateway, event_id, "joined")
    assert first["targets"] == [
        {
            "completion_id": completion_id,
            "choice": 0,
            "joined": [{"completion_id": completion_id, "at": pytest.approx(time.time(), abs=60)}],
        }
    ]
    (event,) = gateway.votes()
    update(gateway.log, 1, (event_id, event.revision, "training"))
    assert receipt(gateway, event_id, "used")["updates"][0]["first_update"] == 1  # type: ignore[index]

    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    assert receipt(gateway, event_id, "shaped")["policies"][0]["version"] == "policy-1-aa"  # type: ignore[index]
    releases.decide("started", "policy-1-aa", stage="canary", fence=2)
    receipt(gateway, event_id, "canary")
    releases.decide("harmful", "policy-1-aa", fence=1)  # of a controller that another has replaced
    releases.number -= 1
    releases.decide("promoted", "policy-1-aa", live="policy-1-aa", stage="holdback", fence=2)
    receipt(gateway, event_id, "live")
    releases.decide("rolled_back", "policy-1-aa", live="base")
    receipt(gateway, event_id, "rolled_back")


def test_a_receipt_before_the_completion_and_of_nothing(gateway: Gateway) -> None:
    event_id = post(gateway, thumbs(OURS.new_completion_id()))
    assert receipt(gateway, event_id)["status"] == "accepted"
    for method in ("GET", "DELETE"):
        answer = gateway.http.request(method, "/v1/feedback/fb-never")
        assert (answer.status_code, answer.json()["error"]["code"]) == (404, "feedback_not_found")


def test_votes_that_teach_nothing_say_why(gateway: Gateway) -> None:
    completion_id = gateway.chat().json()["id"]
    comment = post(gateway, {"kind": "comment", "completion_id": completion_id, "text": "hm"})
    assert receipt(gateway, comment)["status"] == "kept"  # and promises nothing before an update either
    other = post(gateway, thumbs(completion_id))
    beyond = post(gateway, thumbs(completion_id, choice=7))
    said, vote, _ = gateway.votes()
    update(gateway.log, 1, (comment, said.revision, "kept"), (other, vote.revision, "judging"))
    assert "not learn" in str(receipt(gateway, comment, "kept")["reason"])
    assert "measure" in str(receipt(gateway, other, "judging")["reason"])
    assert "no choice 7" in str(receipt(gateway, beyond, "discarded")["reason"])


def revise(gateway: Gateway, vote: Feedback, **said: object) -> str:
    """Log what a reviser made of a vote's words, as `hearken revise` does; its id."""
    event_id = revision_id(vote.tenant, vote.rater, vote.event_id)
    changes = {"event_id": event_id, "revision": vote.revision + 1, "revises": vote.event_id, "text": None}
    made = vote.model_copy(update=changes | {"source": "app", **said})
    gateway.log.append([Entry(FEEDBACK, vote.rater, made.model_dump_json().encode())]).result()
    return event_id


def test_a_comment_says_what_became_of_it(gateway: Gateway) -> None:
    completion_id = gateway.chat().json()["id"]
    comment = post(gateway, {"kind": "comment", "completion_id": completion_id, "text": "Too long."})
    down = post(gateway, thumbs(completion_id, value="down", comment="Too long."))
    assert receipt(gateway, comment)["comment"] is None
    said, vote = gateway.votes()
    refused = {"kind": "retraction", "retracts": "correction", "label": "retracted", "refused": "brought_in"}
    revise(gateway, said, **refused)
    told = receipt(gateway, comment, "refused")
    assert "only the comment says" in str(told["sentence"])
    assert told["comment"] == {"status": "refused", "sentence": told["sentence"]}
    made = revise(gateway, vote, kind="correction", label="corrected")
    update(gateway.log, 1, (made, vote.revision + 1, "training"), (down, vote.revision, "training"))
    told = receipt(gateway, down, "used")
    assert str(told["sentence"]).startswith("Your thumb taught")
    assert told["comment"]["status"] == "used"  # type: ignore[index]
    assert "revised as the comment asks. Your correction taught" in str(told["comment"])


def test_a_signal_says_whether_it_teaches(gateway: Gateway) -> None:
    completion_id = gateway.chat(user="ada").json()["id"]
    signal = {"kind": "signal", "name": "copied", "completion_id": completion_id, "user": "ada"}
    event_id = post(gateway, signal)
    (event,) = gateway.votes()
    assert "whether" in str(receipt(gateway, event_id, "joined")["reason"])
    update(gateway.log, 1, (event_id, event.revision, "kept"))
    assert "not shown to agree with votes" in str(receipt(gateway, event_id, "kept")["sentence"])
    update(gateway.log, 2, (event_id, event.revision, "training"))
    assert str(receipt(gateway, event_id, "used")["sentence"]).startswith("Your signal taught")


def test_a_vote_that_the_learner_could_not_join_is_discarded(gateway: Gateway) -> None:
    event_id = post(gateway, thumbs(gateway.chat(user="ada").json()["id"]))
    receipt(gateway, event_id, "joined")
    (event,) = gateway.votes()
    update(gateway.log, 1, (event_id, event.revision, "discarded"))
    assert "no longer in the log" in str(receipt(gateway, event_id, "discarded")["reason"])
    update(gateway.log, 2, (event_id, event.revision, "training"))  # it came after all
    receipt(gateway, event_id, "used")


def test_a_changed_vote_says_what_its_revisions_did(gateway: Gateway) -> None:
    completion_id = gateway.chat().json()["id"]
    event_id = post(gateway, thumbs(completion_id, "up"))
    update(gateway.log, 1, (event_id, gateway.votes()[0].revision, "training"))
    assert post(gateway, thumbs(completion_id, "down")) == event_id
    update(gateway.log, 2, (event_id, gateway.votes()[1].revision, "training"))
    eventually(lambda: len(receipt(gateway, event_id)["updates"]) == 2, "both updates")  # type: ignore[arg-type]
    found = receipt(gateway, event_id)
    assert found["revisions"] == 2
    told = [(u["first_update"], u["last_update"], u["superseded"]) for u in found["updates"]]  # type: ignore
    assert told == [(1, 1, True), (2, None, False)]


def test_a_vote_that_is_taken_back(gateway: Gateway) -> None:
    completion_id = gateway.chat().json()["id"]
    event_id = post(gateway, thumbs(completion_id, comment="private"))
    for _ in range(2):  # the second time does nothing
        answer = gateway.http.delete(f"/v1/feedback/{event_id}")
        assert (answer.status_code, answer.json()["status"]) == (200, "retracted")
    vote, gone = gateway.votes()
    assert (gone.kind, gone.retracts, gone.event_id) == ("retraction", "thumbs", vote.event_id)
    assert gone.revision > vote.revision
    assert gone.targets == vote.targets
    assert gone.comment is None
    assert {r.key for r in gateway.records("feedback")} == {vote.rater}
    gone_now = receipt(gateway, event_id)
    assert (gone_now["status"], gone_now["revisions"]) == ("retracted", 2)
    assert post(gateway, thumbs(completion_id, "down")) == event_id  # a change of mind
    receipt(gateway, event_id, "joined")


def test_a_key_takes_back_what_came_by_it_and_what_it_could_have_sent(start: Start, tmp_path: Path) -> None:
    """A product's servers vote for its users, with one key today and another tomorrow."""
    file = tmp_path / "keys.json"
    old, new = (add_key(file, ["chat", "feedback"], tenant="shop") for _ in range(2))
    operator = add_key(file, ["feedback", "operate"], tenant="shop")
    stranger = add_key(file, ["feedback", "operate"], tenant="elsewhere")
    gateway = start()

    def send(method: str, path: str, key: str, body: object = None, **query: str) -> httpx.Response:
        return gateway.http.request(method, path, json=body, params=query, headers=bearer(key))

    def voted(user: str | None, key: str = old) -> str:
        answer = send("POST", "/v1/chat/completions", key, CHAT | {"user": user}).json()
        vote = thumbs(answer["id"]) | {"user": user}
        event_id: str = send("POST", "/v1/feedback", key, vote).json()["id"]
        return f"/v1/feedback/{event_id}"

    def told(answer: httpx.Response) -> object:
        return (
            answer.status_code if answer.is_success else (answer.status_code, answer.json()["error"]["code"])
        )

    def kinds() -> list[str]:
        return [event.kind for event in gateway.votes()]

    ada, bob, eve, carl = (voted(user) for user in ("ada", "bob", None, "carl"))
    for vote in (ada, eve):
        for query in ({}, {"user": "bob"}, {"user": ""}):
            assert told(send("DELETE", vote, new, **query)) == (403, "feedback_of_another_key")
        assert told(send("DELETE", vote, stranger)) == (404, "feedback_not_found")
        assert send("GET", vote, new).status_code == 200  # to see it is one thing, to take it back another
    assert kinds() == ["thumbs"] * 4
    assert told(send("DELETE", ada, new, user="ada")) == 200
    assert told(send("DELETE", bob, operator)) == 200
    assert told(send("DELETE", eve, old)) == 200
    assert kinds() == ["thumbs"] * 4 + ["retraction"] * 3

    # A vote that another key sent anew is that key's.
    answered = gateway.votes()[3].targets[0].completion_id
    assert told(send("POST", "/v1/feedback", new, thumbs(answered, "down") | {"user": "carl"})) == 202
    assert told(send("DELETE", carl, old)) == (403, "feedback_of_another_key")
    assert told(send("DELETE", carl, new)) == 200

    # A vote with an answer's token is of the key that asked for the answer.
    answer = send("POST", "/v1/chat/completions", old, CHAT | {"user": "dan"}).json()
    token = {"x-hearken-feedback-token": answer["hearken"]["feedback_token"]}
    sent = gateway.http.post("/v1/feedback", json=thumbs(answer["id"]) | {"user": "dan"}, headers=token)
    dan = f"/v1/feedback/{sent.json()['id']}"
    assert told(send("DELETE", dan, new)) == (403, "feedback_of_another_key")
    assert told(send("DELETE", dan, old)) == 200


def test_votes_of_before_the_first_key_are_taken_back_by_user(start: Start, tmp_path: Path) -> None:
    gateway = start()
    vote = "/v1/feedback/" + post(gateway, thumbs(gateway.chat(user="ada").json()["id"]))
    key = bearer(add_key(tmp_path / "keys.json", ["feedback"]))
    eventually(lambda: gateway.http.get(vote).status_code == 401, "the service has a key")
    assert gateway.http.delete(vote, headers=key).status_code == 403
    assert gateway.http.delete(vote, headers=key, params={"user": "ada"}).status_code == 200


def test_another_gateway_knows_votes_and_takes_them_back(start: Start) -> None:
    one, other = start(), start()
    event_id = post(one, thumbs(one.chat().json()["id"]))
    receipt(other, event_id, "joined")
    assert other.http.delete(f"/v1/feedback/{event_id}").status_code == 200
    receipt(one, event_id, "retracted")


def test_external_ids_and_episodes_join_by_the_requests_metadata(gateway: Gateway) -> None:
    early = post(gateway, {"kind": "thumbs", "external_id": "msg-1", "value": "up"})
    assert receipt(gateway, early)["status"] == "accepted"
    ids = [
        gateway.chat(metadata={"external_id": f"msg-{i}", "episode_id": "chat-9"}).json()["id"]
        for i in (1, 2)
    ]
    whole = post(
        gateway,
        {"kind": "metric", "episode_id": "chat-9", "name": "resolved", "value": True, "source": "app"},
    )
    joined = receipt(gateway, early, "joined")["targets"][0]["joined"]  # type: ignore[index]
    assert [each["completion_id"] for each in joined] == ids[:1]
    joined = receipt(gateway, whole, "joined")["targets"][0]["joined"]  # type: ignore[index]
    assert [each["completion_id"] for each in joined] == ids


def pages(http: httpx.Client, version: str, limit: int) -> list[str]:
    ids: list[str] = []
    after = ""
    while True:
        query = {"limit": limit, **({"after": after} if after else {})}
        page = http.get(f"/v1/policies/{version}/feedback", params=query).json()
        assert len(page["data"]) <= limit
        ids += [vote["id"] for vote in page["data"]]
        if not page["has_more"]:
            return ids
        after = page["last_id"]


def test_the_votes_that_shaped_a_version(gateway: Gateway) -> None:
    ids = [post(gateway, thumbs(OURS.new_completion_id())) for _ in range(7)]
    update(gateway.log, 1, *((event_id, 1, "training") for event_id in ids[:5]), (ids[5], 1, "kept"))
    update(gateway.log, 2, (ids[0], 1, "evicted"), (ids[6], 1, "training"))
    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    releases.offer("policy-2-bb", reward_updates=2)
    assert pages(gateway.http, "policy-1-aa", 2) == sorted(ids[:5])
    assert pages(gateway.http, "policy-2-bb", 100) == sorted([*ids[1:5], ids[6]])
    assert gateway.http.get("/v1/policies/policy-9-cc/feedback").status_code == 404
    for limit in ("0", "1001", "many"):
        answer = gateway.http.get("/v1/policies/policy-1-aa/feedback", params={"limit": limit})
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "limit")


def test_an_erasure_names_the_versions_that_were_trained_on_the_user(gateway: Gateway) -> None:
    asked = {user: gateway.chat(user=user, metadata={"external_id": user}).json()["id"] for user in "abc"}
    own = post(gateway, thumbs(asked["a"], user="a"))
    others = post(gateway, thumbs(asked["b"], user="judge", source="annotator"))
    named = {"kind": "thumbs", "external_id": "c", "value": "up", "user": "judge", "source": "annotator"}
    update(gateway.log, 1, (own, 1, "training"))
    update(
        gateway.log, 2, (own, 1, "evicted"), (others, 1, "training"), (post(gateway, named), 1, "training")
    )
    releases = Releases(gateway.log)
    releases.offer("policy-1-aa", reward_updates=1)
    releases.offer("policy-2-bb", reward_updates=2)
    versions = {
        user: gateway.http.delete(f"/v1/users/{user}").json()["policy_versions"]
        for user in ("a", "b", "c", "judge", "nobody")
    }
    assert versions == {
        "a": ["policy-1-aa"],
        "b": ["policy-2-bb"],
        "c": ["policy-2-bb"],
        "judge": ["policy-2-bb"],
        "nobody": [],
    }


def fold(store: ReceiptStore, log: EventLog, size: int) -> None:
    cursor = store.cursor()
    while True:
        records, after = log.read(TOPICS, cursor, size)
        if not records:
            return
        assert store.fold(records, cursor, after)
        cursor = dict(after)


def test_how_long_votes_waited_until_what_they_shaped_was_live(tmp_path: Path, log: EventLog) -> None:
    def voted(name: str, at: float) -> tuple[str, int, State]:
        vote = thumb(name, 1.0, 1).model_copy(update={"at": at})
        log.append([Entry(FEEDBACK, "k", vote.model_dump_json().encode())]).result()
        return vote.event_id, 1, "training"

    releases, now = Releases(log), time.time()
    update(log, 1, voted("a", now - 1000))
    releases.offer("policy-1-aa", reward_updates=1)
    releases.decide("promoted", "policy-1-aa", live="policy-1-aa")
    early, late = voted("b", now - 30), voted("c", now - 10)
    update(log, 2, early, late)
    update(log, 3, voted("d", now))  # too late for the version of update 2
    store = ReceiptStore(tmp_path / "receipts.db")
    fold(store, log, 1000)
    assert store.seconds_to_live() == [pytest.approx(1000, abs=60)]
    releases.offer("policy-2-bb", reward_updates=2, parent="policy-1-aa")
    releases.decide("promoted", "policy-2-bb", live="policy-2-bb")
    fold(store, log, 1000)
    waited = store.seconds_to_live()
    assert [round(waited[1] - waited[0])] == [20]
    assert waited[0] == pytest.approx(10, abs=60)
    releases.decide("rolled_back", "policy-2-bb", live="policy-1-aa")
    fold(store, log, 1000)
    assert store.seconds_to_live() == waited, "what comes back was live before"
    store.close()


def test_a_gateway_shows_how_long_half_and_nine_tenths_of_votes_waited() -> None:
    metrics = Metrics()
    metrics.show_waits_of_votes(3, [])
    assert b"hearken_vote_to_live_seconds{" not in metrics.render()
    metrics.show_waits_of_votes(3, [float(n) for n in range(1, 11)])
    shown = metrics.registry.get_sample_value
    assert shown("hearken_votes_after_update") == 3
    assert shown("hearken_vote_to_live_seconds", {"share": "0.5"}) == 5
    assert shown("hearken_vote_to_live_seconds", {"share": "0.9"}) == 9


def said(store: ReceiptStore, ids: Sequence[str]) -> list[object]:
    return [(store.vote(event_id), store.uses(event_id)) for event_id in ids]


def test_the_read_model_is_the_same_in_any_pieces_and_after_it_is_lost(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db")
    events = [completion(f"c{i}") for i in range(20)]
    votes = [thumb(f"c{i % 20}", float(i % 2), 10 + i, rater=f"u_{i % 3}") for i in range(90)]
    ids = sorted({vote.event_id for vote in votes})
    for event in [*events[:10], *votes[:50], *events[10:], *votes[40:]]:
        made = record(event)
        log.append([Entry(made.topic, made.key, made.value)]).result()
    update(log, 1, *((event_id, 1, "training") for event_id in ids))
    update(log, 2, *((event_id, 2, "evicted") for event_id in ids[:3]))
    whole = ReceiptStore(tmp_path / "whole.db")
    fold(whole, log, 1000)
    pieces = ReceiptStore(tmp_path / "pieces.db")
    fold(pieces, log, 7)
    assert said(pieces, ids) == said(whole, ids)
    assert not whole.fold([], {}, {"feedback/0": 3})  # not from where it stands
    whole.close()
    (tmp_path / "whole.db").write_bytes(b"not a database at all, but long enough to look like a header" * 9)
    for suffix in ("-wal", "-shm"):
        (tmp_path / f"whole.db{suffix}").unlink(missing_ok=True)
    again = ReceiptStore(tmp_path / "whole.db")
    fold(again, log, 1000)
    assert said(again, ids) == said(pieces, ids)
    again.close()
    pieces.close()
    log.close()


def test_each_use_of_a_vote_ends_where_the_next_one_begins(tmp_path: Path) -> None:
    log, store = SqliteLog(tmp_path / "log.db"), ReceiptStore(tmp_path / "receipts.db")
    update(log, 1, ("fb-1", 1, "training"))
    update(log, 2, ("fb-1", 1, "evicted"))
    update(log, 4, ("fb-1", 2, "training"))
    fold(store, log, 1000)
    assert [(use["since"], use["until"]) for use in store.uses("fb-1")] == [(1, 2), (2, 4), (4, None)]
    store.close()
    log.close()


OF_BEFORE = """
DROP TABLE votes; DROP TABLE versions; ALTER TABLE live DROP COLUMN fence;
CREATE TABLE votes (
    number INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, tenant TEXT NOT NULL, rater TEXT NOT NULL,
    kind TEXT NOT NULL, source TEXT NOT NULL, revision INTEGER NOT NULL, first_at REAL NOT NULL,
    at REAL NOT NULL, revisions INTEGER NOT NULL, retracted INTEGER NOT NULL, targets BLOB NOT NULL);
CREATE TABLE versions (
    version TEXT PRIMARY KEY, updates INTEGER, at REAL NOT NULL,
    status TEXT NOT NULL, status_at REAL NOT NULL);
INSERT INTO votes VALUES (1, 'fb-old', 'default', 'u_ada', 'thumbs', 'end_user', 1, 1.0, 1.0, 1, 0, '[]');
PRAGMA user_version = 2
"""


def test_a_file_of_before_decisions_had_a_fence_is_gone_on_with(tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path / "receipts.db")
    vote = thumb("chatcmpl-1", 1.0, 1)
    assert store.fold([record(vote)], {}, {"feedback/0": 1})
    store.close()
    with closing(sqlite3.connect(tmp_path / "receipts.db")) as db:
        db.executescript("ALTER TABLE live DROP COLUMN fence; ALTER TABLE votes DROP COLUMN refused")
        db.executescript("DROP INDEX by_time; ALTER TABLE versions DROP COLUMN live_at")
        db.executescript("PRAGMA user_version = 3")
    log = SqliteLog(tmp_path / "log.db")
    releases = Releases(log)
    releases.decide("promoted", "policy-1-0123abcd", live="policy-1-0123abcd", fence=3)
    releases.decide("rolled_back", "policy-1-0123abcd", fence=2)  # of a lease that is no longer held
    decisions, cursor = log.read([RELEASES], {}, 10, 0.0)
    store = ReceiptStore(tmp_path / "receipts.db")
    assert store.vote(vote.event_id) is not None
    assert store.fold(decisions, store.cursor(), store.cursor() | cursor)
    store.close()
    log.close()
    with closing(sqlite3.connect(tmp_path / "receipts.db")) as db:
        assert db.execute("SELECT version, number, fence FROM live").fetchall() == [
            ("policy-1-0123abcd", 1, 3)
        ]


def test_a_file_of_before_votes_had_a_key_is_gone_on_with(tmp_path: Path) -> None:
    ReceiptStore(tmp_path / "receipts.db").close()
    with closing(sqlite3.connect(tmp_path / "receipts.db")) as db:
        db.executescript(OF_BEFORE)
    store = ReceiptStore(tmp_path / "receipts.db")
    old = store.vote("fb-old")
    assert old is not None
    assert old["key_id"] == ""
    new = thumb("chatcmpl-1", 1.0, 2).model_copy(update={"key_id": "key-1"})
    assert store.fold([record(new)], {}, {"feedback/0": 1})
    found = store.vote(new.event_id)
    assert found is not None
    assert found["key_id"] == "key-1"
    store.close()


def test_a_file_of_before_comments_were_revised_is_gone_on_with(tmp_path: Path) -> None:
    store = ReceiptStore(tmp_path / "receipts.db")
    old = thumb("chatcmpl-1", 1.0, 1)
    assert store.fold([record(old)], {}, {"feedback/0": 1})
    store.close()
    with closing(sqlite3.connect(tmp_path / "receipts.db")) as db:
        db.executescript("ALTER TABLE votes DROP COLUMN refused; DROP INDEX by_time")
        db.executescript("ALTER TABLE versions DROP COLUMN live_at; PRAGMA user_version = 4")
    store = ReceiptStore(tmp_path / "receipts.db")
    found = store.vote(old.event_id)
    assert found is not None
    assert found["refused"] is None
    store.close()


def test_a_file_of_before_versions_had_the_time_at_which_they_were_live_is_gone_on_with(
    tmp_path: Path,
) -> None:
    store = ReceiptStore(tmp_path / "receipts.db")
    old = thumb("chatcmpl-1", 1.0, 1)
    assert store.fold([record(old)], {}, {"feedback/0": 1})
    store.close()
    with closing(sqlite3.connect(tmp_path / "receipts.db")) as db:
        db.executescript("ALTER TABLE versions DROP COLUMN live_at; PRAGMA user_version = 5")
    store = ReceiptStore(tmp_path / "receipts.db")
    assert store.vote(old.event_id) is not None
    assert store.seconds_to_live() == []
    store.close()
