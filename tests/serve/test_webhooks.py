"""Webhooks bring votes: signed, lately, once, and in the order in which things happened."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from deploy.controller.webhooks import signed_headers
from feedback.core.events import FEEDBACK
from feedback.core.log import EventLog
from feedback.core.webhook_signatures import BadSecret, is_signed, parse_secret, signature
from feedback.shared import SharedStore, SharedUnavailable, SqliteStore
from serve.auth.limits import UNSET, Limits
from serve.webhooks.senders import BadWebhookSenders, load_senders
from tests.serve.conftest import Gateway, Start

SECRET, OLD = bytes(range(32)), bytes(range(32, 64))
WRITTEN, WRITTEN_OLD = (f"whsec_{base64.b64encode(each).decode()}" for each in (SECRET, OLD))
SENDERS = f"""
[helpdesk]
secrets = ["{WRITTEN}", "{WRITTEN_OLD}"]
tenant = "shop"
source = "annotator"

[other]
secrets = ["{WRITTEN_OLD}"]
"""
NOON = 1_000.0  # seconds ago, so that there is a before and an after

Push = Callable[..., httpx.Response]


def vote(value: str = "up", **more: object) -> dict[str, Any]:
    return {"kind": "thumbs", "external_id": "ticket-7", "value": value, "user": "ada", **more}


def event(kind: str, data: object, ago: float = NOON) -> bytes:
    return json.dumps({"type": kind, "timestamp": time.time() - ago, "data": data}).encode()


def headers(event_id: str, body: bytes, *secrets: bytes, at: float | None = None) -> dict[str, str]:
    """As a sender of Standard Webhooks makes them, by its own arithmetic."""
    moment = str(int(time.time() if at is None else at))
    signed = f"{event_id}.{moment}.".encode() + body
    made = [hmac.new(each, signed, hashlib.sha256).digest() for each in secrets or (SECRET,)]
    return {
        "content-type": "application/json",
        "webhook-id": event_id,
        "webhook-timestamp": moment,
        "webhook-signature": " ".join(f"v1,{base64.b64encode(each).decode()}" for each in made),
    }


def push(
    gateway: Gateway, event_id: str, body: bytes, *secrets: bytes, to: str = "helpdesk"
) -> httpx.Response:
    sent = headers(event_id, body, *secrets)
    return gateway.http.post(f"/v1/webhooks/{to}", content=body, headers=sent)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "senders.toml"
    made.write_text(SENDERS)
    return made


@pytest.fixture
def gateway(start: Start, file: Path) -> Gateway:
    return start(webhook_senders=file)


def told(answer: httpx.Response) -> str:
    assert answer.status_code == 200, answer.text
    return str(answer.json()["status"])


def refusal(answer: httpx.Response) -> tuple[int, str, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["code"], error["param"]


def labels(gateway: Gateway) -> list[str]:
    return [each.label for each in gateway.votes()]


def test_a_vote_comes_changes_and_goes(gateway: Gateway) -> None:
    taken = push(gateway, "1", event("feedback.created", vote(comment="Fine."), 900))
    assert taken.json() == {
        "object": "feedback.webhook",
        "status": "accepted",
        "id": gateway.votes()[0].event_id,
    }
    assert told(push(gateway, "2", event("feedback.updated", vote("down"), 800))) == "accepted"
    assert told(push(gateway, "3", event("feedback.deleted", vote("down"), 700))) == "retracted"
    first, second, gone = gateway.votes()
    assert {first.event_id} == {second.event_id, gone.event_id}
    assert [first.label, second.label, gone.kind] == ["up", "down", "retraction"]
    assert (first.source, first.tenant, first.comment) == ("annotator", "shop", "Fine.")
    assert (first.rater, first.key_id) == (gateway.signer.pseudonym("shop", "ada"), "webhook-helpdesk")
    assert first.occurred_at == pytest.approx(time.time() - 900, abs=60)
    assert told(push(gateway, "4", event("feedback.created", vote(), 600))) == "accepted"
    assert labels(gateway) == ["up", "down", "retracted", "up"]


def test_a_vote_is_on_the_answer_that_it_names(gateway: Gateway) -> None:
    answer = gateway.chat().json()["id"]
    body = {"kind": "rating", "completion_id": answer, "value": 4, "user": "eve", "source": "app"}
    assert told(push(gateway, "1", event("feedback.created", body), OLD, to="other")) == "accepted"
    (found,) = gateway.votes()
    assert (found.value, found.source, found.tenant) == (0.75, "app", "default")
    assert found.targets[0].completion_id == answer


def test_the_same_webhook_counts_once_also_after_a_restart(start: Start, file: Path, tmp_path: Path) -> None:
    body = event("feedback.created", vote())
    first = start(webhook_senders=file)
    answers = [push(first, "1", body).json() for _ in range(2)]
    store = SqliteStore(tmp_path / "shared.db")
    again = start(webhook_senders=file, store=store)
    assert [*answers, push(again, "1", body).json()] == [answers[0]] * 3
    assert labels(again) == ["up"]
    changed = push(again, "1", event("feedback.created", vote("down")))
    assert refusal(changed) == (422, "idempotency_key_reused", "idempotency_key")
    assert labels(again) == ["up"]
    assert told(push(again, "1", body, OLD, to="other")) == "accepted", "ids are each sender's own"


def test_what_happened_before_says_nothing_when_it_comes_late(gateway: Gateway) -> None:
    assert told(push(gateway, "2", event("feedback.updated", vote("down"), 100))) == "accepted"
    late = push(gateway, "1", event("feedback.created", vote(), 200))
    assert late.json()["status"] == "outdated"
    assert late.json()["reason"] == "Something newer is known of this vote."
    other = vote(external_id="ticket-8")
    assert told(push(gateway, "4", event("feedback.deleted", other, 100))) == "unknown"
    assert told(push(gateway, "3", event("feedback.created", other, 200))) == "outdated"
    assert labels(gateway) == ["down"]


class Held(SqliteStore):
    """Answers its first swap late: when something was logged, or after half a second."""

    def __init__(self, path: Path, log: EventLog) -> None:
        super().__init__(path)
        self.swaps, self._log = threading.Event(), log

    def swap(self, key: str, there: bytes | None, value: bytes, ttl_seconds: float) -> bool:
        done = super().swap(key, there, value, ttl_seconds)
        if key.startswith("webhook:") and not self.swaps.is_set():
            self.swaps.set()
            self._log.read([FEEDBACK], {}, wait_seconds=0.5)
        return done


def test_a_newer_word_does_not_pass_an_older_one_on_the_way(
    start: Start, file: Path, log: EventLog, tmp_path: Path
) -> None:
    store = Held(tmp_path / "shared.db", log)
    gateway = start(webhook_senders=file, store=store)
    older, newer = event("feedback.created", vote(), 200), event("feedback.updated", vote("down"), 100)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(push, gateway, "1", older)
        assert store.swaps.wait(30)
        assert told(push(gateway, "2", newer)) == "accepted"
        assert told(first.result()) == "accepted"
    assert labels(gateway) == ["up", "down"]


def test_what_is_about_no_vote_is_passed_over(gateway: Gateway) -> None:
    body = json.dumps({"type": "release.promoted", "data": {}}).encode()
    sent = signed_headers("r-1", time.time(), body, [SECRET])  # as this project's own webhooks are signed
    answer = gateway.http.post("/v1/webhooks/helpdesk", content=body, headers=sent)
    assert told(answer) == "ignored"
    assert gateway.votes() == []


def test_any_of_a_senders_secrets_will_do(gateway: Gateway) -> None:
    body = event("feedback.created", vote())
    assert told(push(gateway, "1", body, OLD)) == "accepted"
    assert (
        told(push(gateway, "2", event("feedback.updated", vote("down"), 1), b"x" * 32, SECRET)) == "accepted"
    )
    assert refusal(push(gateway, "3", body, SECRET, to="other"))[:2] == (401, "invalid_webhook_signature")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"webhook-id": "2"}, "No signature in webhook-signature is good"),
        ({"webhook-timestamp": "a second earlier"}, "No signature in webhook-signature is good"),
        ({"webhook-signature": "v1a,AAAA"}, "No signature in webhook-signature is good"),
        ({"webhook-signature": ""}, "The header webhook-signature is missing"),
        ({"webhook-id": ""}, "The header webhook-id is missing"),
        ({"webhook-id": "x" * 300}, "webhook-id must have 1 to 255"),
        ({"webhook-timestamp": "noon"}, "webhook-timestamp must be Unix time in whole seconds"),
    ],
)
def test_what_is_not_signed_is_refused(gateway: Gateway, change: dict[str, str], words: str) -> None:
    body = event("feedback.created", vote())
    sent = headers("1", body)
    if change.get("webhook-timestamp") == "a second earlier":
        change = {"webhook-timestamp": str(int(sent["webhook-timestamp"]) - 1)}
    sent |= change
    answer = gateway.http.post("/v1/webhooks/helpdesk", content=body, headers=sent)
    assert refusal(answer)[:2] == (401, "invalid_webhook_signature")
    assert words in answer.json()["error"]["message"]
    sent = headers("1", body)
    answer = gateway.http.post("/v1/webhooks/helpdesk", content=body + b" ", headers=sent)
    assert refusal(answer)[:2] == (401, "invalid_webhook_signature")
    assert gateway.votes() == []


@pytest.mark.parametrize("off", [-302.0, 302.0])
def test_an_old_copy_is_refused(gateway: Gateway, off: float) -> None:
    body = event("feedback.created", vote())
    sent = headers("1", body, at=time.time() + off)
    answer = gateway.http.post("/v1/webhooks/helpdesk", content=body, headers=sent)
    assert refusal(answer) == (401, "webhook_timestamp_out_of_range", "webhook-timestamp")
    assert "at most 300 are allowed" in answer.json()["error"]["message"]
    assert gateway.votes() == []


@pytest.mark.parametrize(
    ("data", "param"),
    [
        (vote("sideways"), "data.value"),
        (vote(arm="canary"), "data.arm"),
        (vote(user=None), "data.user"),
        (vote(source="import"), "data.source"),
        (vote(token="fbt_x"), "data.token"),
        (vote(dry_run=True), "data.dry_run"),
        (vote(idempotency_key="k"), "data.idempotency_key"),
        ([vote()], "data"),
    ],
)
def test_a_wrong_vote_is_told_by_its_field(gateway: Gateway, data: object, param: str) -> None:
    answer = push(gateway, "1", event("feedback.created", data))
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert gateway.votes() == []
    assert told(push(gateway, "1", event("feedback.created", vote()))) == "accepted", "its id is free again"


def test_a_wrong_request_is_told(gateway: Gateway) -> None:
    assert refusal(push(gateway, "1", b"{}")) == (400, "missing_required_parameter", "type")
    timeless = json.dumps({"type": "feedback.created", "data": vote()}).encode()
    assert refusal(push(gateway, "1", timeless)) == (400, "missing_required_parameter", "timestamp")
    later = event("feedback.deleted", vote(), -400)
    assert refusal(push(gateway, "1", later)) == (400, "invalid_value", "timestamp")
    body = event("feedback.created", vote())
    assert refusal(push(gateway, "1", body, to="nobody"))[:2] == (404, "webhook_sender_not_found")
    assert refusal(push(gateway, "1", body + b" " * 70_000))[:2] == (413, "request_too_large")
    sent = headers("1", body) | {"content-type": "text/plain"}
    answer = gateway.http.post("/v1/webhooks/helpdesk", content=body, headers=sent)
    assert answer.status_code == 415
    unknown = vote(completion_id="chatcmpl-nobody") | {"external_id": None}
    assert refusal(push(gateway, "1", event("feedback.created", unknown)))[0] == 404
    assert gateway.votes() == []


def test_a_removal_may_be_of_a_vote_of_long_ago(gateway: Gateway) -> None:
    push(gateway, "1", event("feedback.created", vote()))
    old = vote(occurred_at=time.time() - 200 * 86400)
    assert told(push(gateway, "2", event("feedback.deleted", old, 1))) == "retracted"
    assert told(push(gateway, "3", event("feedback.deleted", old, 0))) == "retracted"
    assert labels(gateway) == ["up", "retracted"]


class Away(SqliteStore):
    """A shared store that nobody reaches while `is_away`."""

    is_away = False

    def get(self, key: str) -> bytes | None:
        if self.is_away:
            raise SharedUnavailable("away")
        return super().get(key)


def test_without_the_shared_store_none_is_taken(start: Start, file: Path, tmp_path: Path) -> None:
    store = Away(tmp_path / "shared.db")
    gateway = start(store=store, webhook_senders=file)
    body = event("feedback.created", vote())
    store.is_away = True
    answer = push(gateway, "1", body)
    assert refusal(answer)[:2] == (503, "store_unavailable")
    assert answer.headers["retry-after"] == "1"
    assert gateway.votes() == []
    store.is_away = False
    assert told(push(gateway, "1", body)) == "accepted"


def test_a_sender_keeps_to_the_limit_of_votes(start: Start, file: Path) -> None:
    gateway = start(webhook_senders=file, limits=Limits(votes_per_minute=1))
    assert told(push(gateway, "1", event("feedback.created", vote()))) == "accepted"
    assert push(gateway, "2", event("feedback.updated", vote("down"), 1)).status_code == 429
    assert told(push(gateway, "1", event("feedback.created", vote()), OLD, to="other")) == "accepted"


# ---- the file


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[a]\nsecrets = 3", r"\[a\]: secrets is a list of 1 to 4 texts"),
        ("[a]", r"\[a\]: secrets is a list of 1 to 4 texts"),
        (
            '[a]\nsecrets = ["whsec_c2hvcnQ="]',
            "a secret is not whsec_ and 24 to 64 bytes in base64; make one",
        ),
        ('[a]\nsecrets = ["hunter2hunter2hunter2hunter2"]', "a secret is not whsec_"),
        ('[A]\nsecrets = ["x"]', "a name has 1 to 32 of the letters a-z, 0-9 and -"),
        ("secrets = []", "secrets stands outside of a table"),
        (
            f'[a]\nsecrets = ["{WRITTEN}"]\nsecret = 1',
            "'secret' is not known; there are secrets, source, tenant",
        ),
        (f'[a]\nsecrets = ["{WRITTEN}"]\ntenant = "a b"', "tenant has 1 to 64 letters"),
        (
            f'[a]\nsecrets = ["{WRITTEN}"]\nsource = "import"',
            "source is one of annotator, app, end_user, model",
        ),
        ("[a", "cannot be read"),
    ],
)
def test_a_file_that_is_wrong_says_what_would_be_right(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "senders.toml"
    file.write_text(text)
    with pytest.raises(BadWebhookSenders, match=words) as raised:
        load_senders(file, UNSET)
    assert "hunter2" not in str(raised.value)
    assert WRITTEN not in str(raised.value)


def test_the_senders_may_be_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert load_senders(None, UNSET) == {}
    monkeypatch.setenv("HEARKEN_WEBHOOK_SENDERS", SENDERS)
    found = load_senders(None, UNSET)
    assert [(each.name, each.caller.tenant, each.source) for each in found.values()] == [
        ("helpdesk", "shop", "annotator"),
        ("other", "default", "end_user"),
    ]
    assert found["helpdesk"].secrets == (SECRET, OLD)
    with pytest.raises(BadWebhookSenders, match="No such file"):
        load_senders(tmp_path / "nowhere.toml", UNSET)


# ---- signatures


def test_a_signature_is_of_id_time_and_body() -> None:
    body = b'{"type": "x"}'
    good = signature("1", "1700000000", body, SECRET)
    expected = base64.b64encode(hmac.new(SECRET, b"1.1700000000." + body, "sha256").digest()).decode()
    assert good == f"v1,{expected}"
    assert is_signed("1", "1700000000", body, f"v1a,zzz {good}", [OLD, SECRET])
    for other in (("2", "1700000000", body), ("1", "1700000001", body), ("1", "1700000000", body + b" ")):
        assert not is_signed(*other, good, [OLD, SECRET])
    assert not is_signed("1", "1700000000", body, good, [OLD])
    assert not is_signed("1", "1700000000", body, "", [SECRET])


@pytest.mark.parametrize("text", ["", "whsec_", "whsec_é", WRITTEN.removeprefix("whsec_"), "whsec_####"])
def test_what_is_no_secret(text: str) -> None:
    with pytest.raises(BadSecret, match="24 to 64 bytes in base64"):
        parse_secret(text)
    assert parse_secret(WRITTEN) == SECRET


def test_the_page_shows_how_to_sign() -> None:
    text = (Path(__file__).parents[2] / "docs/webhooks.md").read_text()
    code = text.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(compile(code, "docs/webhooks.md", "exec"), found)
    body = event("feedback.created", vote())
    made = found["signed"](WRITTEN, "1", body)
    assert made == headers("1", body, at=float(made["webhook-timestamp"]))


def test_the_store_forgets_no_order_while_it_is_shared(start: Start, file: Path, shared: SharedStore) -> None:
    one, other = start(webhook_senders=file), start(webhook_senders=file)
    assert told(push(one, "2", event("feedback.updated", vote("down"), 100))) == "accepted"
    assert told(push(other, "1", event("feedback.created", vote(), 200))) == "outdated"
    assert len(shared.values("webhook:")) == 1
