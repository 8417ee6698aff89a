"""Thumbs given in Open WebUI, Langfuse and LangSmith become votes once; changes and removals follow."""

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from examples.open_webui_filter import Filter
from feedback.core.events import Feedback
from feedback.dialects import Options
from feedback.rows.said import Misfit
from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from hearken.cli import main
from hearken.sync.plan import plan
from hearken.sync.state import Sent
from hearken.sync.votes import Given, langfuse, scored
from tests.serve.conftest import Gateway, eventually, serving
from tests.serve.fake_vllm import fake_engine

DATA = Path(__file__).parents[1] / "data"
KEYS = {
    "OPEN_WEBUI_API_KEY": "sk-webui",
    "LANGFUSE_PUBLIC_KEY": "pk-lf",
    "LANGFUSE_SECRET_KEY": "sk-lf",
    "LANGSMITH_API_KEY": "ls-key",
}
BASIC = "Basic " + base64.b64encode(b"pk-lf:sk-lf").decode()
PAGE = 2


class Elsewhere:
    """The three services, as far as their feedback goes: rows that a test may change, in pages of two.

    asked: the paths that were asked for. old: the APIs are those of before: Langfuse's second version alone,
    Open WebUI's list without pages. broken: the status of every answer.
    """

    def __init__(self) -> None:
        now = time.time() - 3600
        self.webui = _rows("open_webui", {"created_at": int(now), "updated_at": int(now)})
        moment = datetime.fromtimestamp(now, UTC).isoformat().replace("+00:00", "Z")
        self.langfuse = _rows("langfuse", {"timestamp": moment, "createdAt": moment, "updatedAt": moment})
        self.langsmith = _rows("langsmith", {"created_at": moment, "modified_at": moment})
        self.asked: list[str] = []
        self.old = False
        self.broken: int | None = None

    def answer(self, path: str, query: dict[str, str], headers: Any) -> tuple[int, Any]:
        """The status and the JSON for a request."""
        self.asked.append(path)
        if self.broken is not None:
            return self.broken, {"detail": "no"}
        if path == "/api/v1/evaluations/feedbacks/list" and not self.old:
            start, rows = PAGE * (int(query["page"]) - 1), [_listed(row) for row in self.webui]
            rows.sort(key=lambda row: -row["created_at"])
            page = {"items": rows[start : start + PAGE], "total": len(rows)}
            return _for(headers["authorization"] == "Bearer sk-webui", page)
        if path == "/api/v1/evaluations/feedbacks/all" and self.old:
            return _for(headers["authorization"] == "Bearer sk-webui", self.webui)
        if path.startswith("/api/v1/evaluations/"):
            return 200, "<!doctype html>"  # a real one has its page at every path that it does not know
        if path == "/api/public/v3/scores" and not self.old:
            start = int(query.get("cursor") or 0)
            meta: dict[str, Any] = {"limit": PAGE}
            if start + PAGE < len(self.langfuse):
                meta["cursor"] = str(start + PAGE)
            page = {"data": self.langfuse[start : start + PAGE], "meta": meta}
            return _for(headers["authorization"] == BASIC and "subject" in query["fields"], page)
        if path == "/api/public/v2/scores":
            number = int(query["page"])
            rows = [_second(row) for row in self.langfuse]
            meta = {
                "page": number,
                "limit": PAGE,
                "totalItems": len(rows),
                "totalPages": -(-len(rows) // PAGE),
            }
            page = {"data": rows[(number - 1) * PAGE : number * PAGE], "meta": meta}
            return _for(headers["authorization"] == BASIC, page)
        if path == "/api/v1/feedback":
            start, limit = int(query["offset"]), int(query["limit"])
            return _for(headers["x-api-key"] == "ls-key", self.langsmith[start : start + limit])
        return 404, {"detail": "not found"}


def _rows(name: str, more: dict[str, Any]) -> list[dict[str, Any]]:
    return [{**row, **more} for row in json.loads((DATA / f"sync_{name}.json").read_text())]


def _listed(row: dict[str, Any]) -> dict[str, Any]:
    """A row as Open WebUI 0.12.4 lists it: with who voted, and without the chat."""
    who = {"id": row["user_id"], "name": row["user_id"], "email": "a@example.com", "role": "user"}
    moments = dict.fromkeys(("last_active_at", "updated_at", "created_at"), row["created_at"])
    return {name: value for name, value in row.items() if name != "snapshot"} | {"user": who | moments}


def _for(allowed: bool, answer: Any) -> tuple[int, Any]:
    return (200, answer) if allowed else (401, {"detail": "unauthorized"})


def _second(row: dict[str, Any]) -> dict[str, Any]:
    """A score as the second version of Langfuse's API has it."""
    subject = row["subject"]
    names = {"traceId": None, "observationId": None, "sessionId": None}
    if subject["kind"] == "observation":
        names |= {"traceId": subject["traceId"], "observationId": subject["id"]}
    else:
        names[f"{subject['kind']}Id"] = subject["id"]
    told = {name: value for name, value in row.items() if name != "subject"} | names
    if row["dataType"] == "BOOLEAN":
        told |= {"value": float(row["value"]), "stringValue": str(row["value"])}
    if row["dataType"] == "CATEGORICAL":
        told |= {"value": None, "stringValue": row["value"]}
    return told


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> Iterator[Elsewhere]:
    found = Elsewhere()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = {name: values[0] for name, values in parse_qs(parts.query).items()}
            status, answer = found.answer(parts.path, query, self.headers)
            body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing to stderr."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    for name in ("OPEN_WEBUI_URL", "LANGFUSE_HOST", "LANGSMITH_ENDPOINT"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{server.server_port}/")
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def gateway(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Gateway]:
    log, store = SqliteLog(tmp_path / "log.db"), SqliteStore(tmp_path / "shared.db")
    with fake_engine() as engine, serving(tmp_path, log, store, (engine.url,)) as running:
        eventually(running.is_ready, "the gateway is ready")
        monkeypatch.setenv("HEARKEN_BASE_URL", running.url)
        monkeypatch.delenv("HEARKEN_API_KEY", raising=False)
        yield running
    store.close()
    log.close()


def sync(tmp_path: Path, source: str, *more: str) -> int:
    return main(["sync", source, "--state", str(tmp_path / "state" / f"{source}.db"), *more])


def said(votes: list[Feedback]) -> list[tuple[str, str, str]]:
    return [(vote.kind, vote.label, vote.targets[0].external_id or "") for vote in votes]


def test_thumbs_of_open_webui_come_once_and_follow_changes(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(tmp_path, "open-webui") == 0
    first = gateway.votes()
    assert said(first) == [("thumbs", "up", "msg-1"), ("thumbs", "down", "msg-2")]
    assert first[0].rater == gateway.signer.pseudonym("default", "ada")
    assert (first[0].reasons, first[0].comment, first[0].tags) == (["accurate"], "Right.", ["bees"])
    assert first[1].tags == ["other_thing"]
    assert first[0].occurred_at == elsewhere.webui[0]["updated_at"]
    printed = capsys.readouterr().out
    assert "Open WebUI: 2 votes sent, 0 taken back, 0 unchanged" in printed
    assert "arena" in printed
    assert "'data.rating' is None" in printed

    assert sync(tmp_path, "open-webui") == 0
    assert "0 votes sent, 0 taken back, 2 unchanged" in capsys.readouterr().out
    assert len(gateway.votes()) == 2

    original, elsewhere.webui[0]["data"] = elsewhere.webui[0]["data"], {"rating": -1}
    assert sync(tmp_path, "open-webui") == 0
    elsewhere.webui[0]["data"] = original
    assert sync(tmp_path, "open-webui") == 0
    changed = gateway.votes()[2:]
    assert [vote.label for vote in changed] == ["down", "up"]
    assert {vote.event_id for vote in changed} == {first[0].event_id}


@pytest.mark.parametrize("old", [False, True])
def test_feedback_of_open_webui_comes_from_all_pages_of_the_span(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, old: bool
) -> None:
    elsewhere.old = old
    row, now = elsewhere.webui[0], int(time.time())
    elsewhere.webui[:] = [
        {**row, "id": f"f-{i}", "meta": {"message_id": f"msg-{i}"}, "created_at": now - 3600 * i}
        for i in range(11)
    ]
    assert sync(tmp_path, "open-webui", "--since", "290m") == 0
    found = {vote.targets[0].external_id for vote in gateway.votes()}
    assert found == {f"msg-{i}" for i in range(5)}
    asked = [path.rpartition("/")[2] for path in elsewhere.asked]
    assert asked == (["list", "all"] if old else ["list"] * 4), "pages of before the span are not asked for"


def test_an_address_that_is_no_open_webui_is_told(
    tmp_path: Path,
    elsewhere: Elsewhere,
    gateway: Gateway,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(elsewhere, "answer", lambda *_: (200, "<!doctype html>"))
    assert sync(tmp_path, "open-webui") == 1
    assert "its address, and its version recent?" in capsys.readouterr().err


def test_a_memory_that_lags_behind_repeats_nothing(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway
) -> None:
    file = tmp_path / "state/open-webui.db"
    sync(tmp_path, "open-webui")
    before = file.read_bytes()
    elsewhere.webui[0]["data"]["rating"] = -1
    sync(tmp_path, "open-webui")
    file.write_bytes(before)  # as if the command had been killed before it noted what it sent
    sync(tmp_path, "open-webui")
    assert [vote.label for vote in gateway.votes()] == ["up", "down", "down"]
    elsewhere.webui[0]["data"]["rating"] = 1
    file.unlink()  # what it knew is lost: then all is said again, as it is now
    sync(tmp_path, "open-webui")
    assert [vote.label for vote in gateway.votes()[3:]] == ["up", "down"]
    assert len({vote.event_id for vote in gateway.votes()}) == 2


def test_what_was_missed_once_and_comes_back_changed_is_sent_once(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway
) -> None:
    sync(tmp_path, "open-webui")
    row = elsewhere.webui.pop(0)
    sync(tmp_path, "open-webui")
    row["data"]["rating"] = -1
    elsewhere.webui.append(row)
    for _ in range(3):
        sync(tmp_path, "open-webui")
    assert [vote.label for vote in gateway.votes()] == ["up", "down", "down"]


def test_with_every_it_looks_again_also_after_a_failure(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway
) -> None:
    command = [sys.executable, "-m", "hearken", "sync", "open-webui", "--every", "1s", "--state"]
    with subprocess.Popen(
        [*command, tmp_path / "state.db"], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
    ) as process:
        assert process.stderr is not None
        eventually(lambda: len(gateway.votes()) == 2, "the first look")
        elsewhere.broken = 503
        assert "the next look is in 1 s" in process.stderr.readline()
        elsewhere.webui[0]["data"]["rating"] = -1
        elsewhere.broken = None
        eventually(lambda: len(gateway.votes()) == 3, "a look after the failure")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def test_what_is_removed_there_is_taken_back_here(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway
) -> None:
    sync(tmp_path, "open-webui")
    one, other = (vote.event_id for vote in gateway.votes())
    elsewhere.webui[0]["data"]["rating"] = None  # a thumb that was pressed again
    removed = elsewhere.webui.pop(1)
    sync(tmp_path, "open-webui")
    assert [(vote.event_id, vote.kind) for vote in gateway.votes()[2:]] == [(one, "retraction")]
    sync(tmp_path, "open-webui")  # missed again: it is gone, and no page that moved
    assert [(vote.event_id, vote.kind) for vote in gateway.votes()[3:]] == [(other, "retraction")]
    sync(tmp_path, "open-webui")
    assert len(gateway.votes()) == 4
    elsewhere.webui.append(removed)
    sync(tmp_path, "open-webui")
    assert [(vote.event_id, vote.kind) for vote in gateway.votes()[4:]] == [(other, "thumbs")]


def test_the_newer_of_two_words_counts_and_the_older_stands_when_it_goes(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway
) -> None:
    older = elsewhere.webui[0]
    newer = json.loads(json.dumps(older)) | {"id": "f-9", "updated_at": older["updated_at"] + 60}
    newer["data"]["rating"] = -1
    elsewhere.webui[:] = [newer, older]
    sync(tmp_path, "open-webui")
    assert [vote.label for vote in gateway.votes()] == ["down"]
    elsewhere.webui.remove(newer)
    sync(tmp_path, "open-webui")
    assert [vote.label for vote in gateway.votes()] == ["down", "up"]


@pytest.mark.parametrize("old", [False, True])
def test_scores_of_langfuse_come_from_all_pages(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, old: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    elsewhere.old = old
    more = ["--scale", "helpful=1:5"]
    assert sync(tmp_path, "langfuse", *more) == 0
    votes = gateway.votes()
    assert said(votes) == [
        ("thumbs", "up", "trace-1"),
        ("rating", "rated", "obs-2"),
        ("thumbs", "down", "trace-3"),
    ]
    assert [vote.source for vote in votes] == ["end_user", "annotator", "end_user"]
    assert votes[1].value == 0.75
    assert votes[0].comment == "Thanks."
    assert len({vote.rater for vote in votes}) == 3
    assert "1 left out: it scores a session" in capsys.readouterr().out
    assert sync(tmp_path, "langfuse", *more) == 0
    assert len(gateway.votes()) == 3
    assert sum(path.endswith("scores") for path in elsewhere.asked) == (6 if old else 4)


@pytest.mark.parametrize(("source", "field"), [("langfuse", "value"), ("langsmith", "score")])
def test_scores_count_once_over_restarts_and_follow_changes(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, source: str, field: str
) -> None:
    rows: list[dict[str, Any]] = getattr(elsewhere, source)
    file, more = tmp_path / f"state/{source}.db", ["--scale", "0:5", "--direction", "mood=higher"]

    def interrupted() -> None:
        """A look whose command is killed before it notes what it sent, and one by the next command."""
        before = file.read_bytes() if file.exists() else None
        sync(tmp_path, source, *more)
        if before is not None:
            file.write_bytes(before)
        sync(tmp_path, source, *more)

    interrupted()
    first = gateway.votes()
    assert [vote.kind for vote in first] == (
        ["thumbs", "rating", "thumbs"] if source == "langfuse" else ["thumbs", "rating", "rating"]
    )
    rows[0][field] = False
    interrupted()
    assert [(vote.event_id, vote.label) for vote in gateway.votes()[3:]] == [(first[0].event_id, "down")]
    del rows[1]
    sync(tmp_path, source, *more)
    interrupted()
    gone = gateway.votes()[4:]
    assert [(vote.event_id, vote.kind) for vote in gone] == [(first[1].event_id, "retraction")]


def test_a_score_that_is_not_named_is_left_out(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(tmp_path, "langfuse", "--score", "thumb") == 0
    assert [vote.label for vote in gateway.votes()] == ["down"]
    assert "'helpful' is none of those that --score names" in capsys.readouterr().out


def test_feedback_of_langsmith_becomes_votes_of_their_sources(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sync(tmp_path, "langsmith") == 0
    assert "say its scale, like --scale mood=0:1" in capsys.readouterr().out
    assert sync(tmp_path, "langsmith", "--scale", "mood=0:1", "--direction", "mood=higher") == 0
    votes = gateway.votes()
    assert said(votes) == [
        ("thumbs", "up", "run-1"),
        ("rating", "rated", "run-2"),
        ("rating", "rated", "run-3"),
    ]
    assert [(vote.source, vote.value) for vote in votes] == [
        ("annotator", 1.0),
        ("end_user", 0.25),
        ("model", 0.0),
    ]


def test_pages_of_langsmith_are_read_to_the_last(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway
) -> None:
    row = elsewhere.langsmith[0]
    elsewhere.langsmith[:] = [{**row, "id": f"b-{i}", "run_id": f"run-{i}"} for i in range(230)]
    assert sync(tmp_path, "langsmith") == 0
    assert len({vote.targets[0].external_id for vote in gateway.votes()}) == 230
    assert elsewhere.asked.count("/api/v1/feedback") == 3


def test_an_answer_is_found_by_the_name_that_the_filter_gives_it(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway
) -> None:
    body: dict[str, Any] = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}
    metadata = {"message_id": "msg-1", "chat_id": "chat-1", "user_id": "ada"}
    sent = Filter().inlet({**body, "metadata": metadata}, {"id": "ada", "role": "user"}, metadata)
    del sent["metadata"]  # Open WebUI keeps it
    answer = gateway.http.post("/v1/chat/completions", json=sent).json()["id"]
    event = gateway.completion(answer)
    assert (event.external_id, event.episode_id) == ("msg-1", "chat-1")
    sync(tmp_path, "open-webui")
    vote = gateway.votes()[0]
    assert vote.rater == event.user

    def joined() -> bool:
        found = gateway.http.get(f"/v1/feedback/{vote.event_id}").json()["targets"][0]["joined"]
        return [each["completion_id"] for each in found] == [answer]

    eventually(joined, "the thumb is on the answer")


def test_names_that_contradict_each_other_are_refused(gateway: Gateway) -> None:
    answer = gateway.chat(metadata={"external_id": "a"}, hearken={"external_id": "b"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == "hearken.external_id"
    assert gateway.chat(metadata={"external_id": "a"}, hearken={"episode_id": "b"}).status_code == 200


def test_most_votes_are_not_taken_back_without_a_word(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    row = elsewhere.webui[0]
    elsewhere.webui[:] = [
        {**row, "id": f"f-{i}", "meta": {"message_id": f"msg-{i}", "chat_id": "c"}} for i in range(20)
    ]
    sync(tmp_path, "open-webui")
    elsewhere.webui.clear()
    assert sync(tmp_path, "open-webui") == 0
    assert sync(tmp_path, "open-webui") == 1
    assert "20 of 20 votes are gone from Open WebUI at once" in capsys.readouterr().err
    assert len(gateway.votes()) == 20
    assert sync(tmp_path, "open-webui", "--accept-removals") == 0
    assert len(gateway.votes()) == 40


@pytest.mark.parametrize(
    ("status", "message"),
    [
        (401, "check $OPEN_WEBUI_API_KEY, which must be an admin's"),
        (404, "has nothing at"),
        (500, "what was sent before is remembered, run it again"),
    ],
)
def test_what_fails_says_what_to_do(
    tmp_path: Path,
    elsewhere: Elsewhere,
    gateway: Gateway,
    capsys: pytest.CaptureFixture[str],
    status: int,
    message: str,
) -> None:
    elsewhere.broken = status
    assert sync(tmp_path, "open-webui") == 1
    assert message in capsys.readouterr().err
    assert gateway.votes() == []


def test_what_lacks_is_named(
    tmp_path: Path,
    elsewhere: Elsewhere,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("HEARKEN_BASE_URL", raising=False)
    assert sync(tmp_path, "langfuse") == 2
    assert "or --to URL" in capsys.readouterr().err
    monkeypatch.delenv("LANGFUSE_SECRET_KEY")
    assert sync(tmp_path, "langfuse") == 2
    assert "set $LANGFUSE_SECRET_KEY to a key" in capsys.readouterr().err
    monkeypatch.delenv("OPEN_WEBUI_URL")
    assert sync(tmp_path, "open-webui") == 2
    assert "name it with --from or $OPEN_WEBUI_URL" in capsys.readouterr().err
    assert sync(tmp_path, "langsmith", "--since", "100d") == 2
    assert "90d at most" in capsys.readouterr().err


def test_a_memory_is_of_one_service(
    tmp_path: Path, elsewhere: Elsewhere, gateway: Gateway, capsys: pytest.CaptureFixture[str]
) -> None:
    state = str(tmp_path / "state.db")
    assert main(["sync", "langsmith", "--state", state]) == 0
    other = ["--from", f"{gateway.url}/elsewhere"]
    assert main(["sync", "open-webui", "--state", state, *other]) == 2
    assert "give each a --state of its own" in capsys.readouterr().err


# ---- the pure parts


def given(item: str, value: str = "up", at: float = 1.0, user: str = "ada") -> Given:
    vote = {"kind": "thumbs", "value": value, "external_id": "msg", "user": user, "occurred_at": at}
    return Given(item, at, vote)


def sent(one: Given, revision: int = 1, missed: int = 0) -> Sent:
    return Sent(one.slot, one.item, one.at, one.digest, f"fb-{one.vote['user']}", revision, missed)


def test_a_plan_sends_what_is_new_and_takes_back_what_was_missed_twice() -> None:
    ada, eve, bob = (given(name, user=name) for name in ("ada", "eve", "bob"))
    known = {one.slot: one for one in (sent(ada), sent(eve, missed=1), sent(bob))}
    found = plan([given("ada", "down", user="ada"), given("new", user="new")], [], known)
    assert [(one.item, before and before.revision) for one, before in found.send] == [
        ("ada", 1),
        ("new", None),
    ]
    assert [one.item for one in found.back] == ["eve"]
    assert [(one.item, one.missed) for one in found.seen] == [("bob", 1)]


def test_what_came_back_is_no_longer_missed_and_what_says_nothing_goes_at_once() -> None:
    ada, eve = given("ada"), given("eve", user="eve")
    known = {one.slot: one for one in (sent(ada, missed=1), sent(eve))}
    found = plan([ada], ["eve"], known)
    assert found.send == ()
    assert [(one.item, one.missed) for one in found.seen] == [("ada", 0)]
    assert [one.item for one in found.back] == ["eve"]


def test_a_vote_that_was_taken_back_is_sent_again_as_another_change() -> None:
    ada = given("ada")
    gone = Sent(ada.slot, "ada", 1.0, "", "", 2)
    found = plan([ada], [], {ada.slot: gone})
    assert [before and before.revision for _, before in found.send] == [2]
    assert plan([], [], {ada.slot: gone}).back == ()


@pytest.mark.parametrize(
    ("value", "name", "message"),
    [
        (3, "helpful", "say its scale"),
        (True, "mood", "which way is better"),
        ("meh", "helpful", "say its scale"),
    ],
)
def test_nothing_is_guessed(value: object, name: str, message: str) -> None:
    with pytest.raises(Misfit, match=message):
        scored(value, name, Options())


def test_a_score_of_one_of_our_own_ids_is_on_that_answer() -> None:
    row = {
        "id": "s",
        "name": "liked",
        "value": True,
        "dataType": "BOOLEAN",
        "timestamp": "2026-01-01T00:00:00Z",
    }
    vote = langfuse({**row, "traceId": "chatcmpl-1"}, Options()).vote
    assert vote["completion_id"] == "chatcmpl-1"
    assert "external_id" not in vote
