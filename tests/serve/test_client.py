"""The Python client says what it is told, repeats what may succeed later, and tells why it was refused."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from hearken.client import (
    FeedbackClient,
    FeedbackError,
    Vote,
    comment,
    comparison,
    correction,
    metric,
    ranking,
    rating,
    regenerated,
    signal,
    thumbs,
)
from tests.serve.conftest import Gateway, Start
from tests.serve.test_access import add_key


@pytest.fixture
def client(gateway: Gateway) -> Iterator[FeedbackClient]:
    with FeedbackClient(gateway.url) as made:
        yield made


@pytest.fixture
def ids(gateway: Gateway) -> list[str]:
    return [gateway.signer.new_completion_id() for _ in range(3)]


def every_kind(ids: list[str]) -> list[Vote]:
    return [
        thumbs(ids[0], "down", reasons=["incorrect"], user="ada"),
        rating(ids[0], 4, user="ada"),
        comparison(ids[0], ids[1], "b", user="ada"),
        ranking([[ids[0]], [ids[1], ids[2]]], user="ada"),
        correction(ids[0], "Better.", user="ada"),
        comment(ids[0], "Good point.", user="ada"),
        metric({"episode_id": "talk-1"}, "resolved", True, user="ada"),
        signal(ids[0], "copied", False, user="ada"),
        signal(ids[1], "copied", shown=False, user="ada"),
        regenerated(ids[1], ids[0], "old", user="ada"),
    ]


def test_every_kind_is_understood(client: FeedbackClient, gateway: Gateway, ids: list[str]) -> None:
    votes = every_kind(ids)
    receipts = [client.send(vote) for vote in votes]
    stored = gateway.votes()
    assert [receipt["id"] for receipt in receipts] == [vote.event_id for vote in stored]
    assert [vote.kind for vote in stored] == [vote["kind"] for vote in votes]
    assert [vote.value for vote in stored] == [0.0, 0.75, 0.0, 0.5, 0.5, 0.5, 1.0, 0.5, 0.5, 0.0]


def test_many_votes_are_answered_in_order(client: FeedbackClient, gateway: Gateway, ids: list[str]) -> None:
    votes = [thumbs(ids[0], "up", user=f"user-{i}") for i in range(1500)]
    votes[700] = thumbs("chatcmpl-unknown", "up")
    answers = client.send_many(votes)
    assert len(answers) == 1500
    assert [i for i, answer in enumerate(answers) if "error" in answer] == [700]
    assert answers[700]["error"]["code"] == "completion_not_found"
    gateway.votes()  # the first thousand; all were acknowledged after they were durable
    assert len({answer["id"] for answer in answers if "error" not in answer}) == 1499


def test_another_key_takes_back_the_vote_of_a_user_whom_it_names(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    one, other = (add_key(file, ["feedback"]) for _ in range(2))
    gateway = start()
    user, about = "ada & bob=1 ü", gateway.signer.new_completion_id()
    with FeedbackClient(gateway.url, one) as client:
        vote = client.send(thumbs(about, "up", user=user))["id"]
    with FeedbackClient(gateway.url, other) as client:
        with pytest.raises(FeedbackError, match="another API key"):
            client.retract(vote)
        client.retract(vote, user)
    assert [event.kind for event in gateway.votes()] == ["thumbs", "retraction"]


def test_a_refusal_says_why(client: FeedbackClient, ids: list[str]) -> None:
    with pytest.raises(FeedbackError, match="value must be") as caught:
        client.send({**thumbs(ids[0], "up"), "value": "sideways"})
    assert (caught.value.status, caught.value.param) == (400, "value")


class _Flaky(BaseHTTPRequestHandler):
    """Answers 503, then cuts the connection, then accepts."""

    protocol_version = "HTTP/1.1"
    seen: list[str]

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.seen.append(self.headers["idempotency-key"])
        if len(self.seen) == 1:
            self._answer(503, b'{"error": {"message": "busy", "code": "overloaded"}}', {"retry-after": "0"})
        elif len(self.seen) == 2:
            self.close_connection = True
        else:
            self._answer(202, b'{"id": "fb-1", "status": "accepted"}', {})

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "content-length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing to stderr."""


@pytest.fixture
def flaky() -> Iterator[tuple[str, list[str]]]:
    seen: list[str] = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Flaky,), {"seen": seen}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", seen
    server.shutdown()
    server.server_close()
    thread.join()


def test_what_may_succeed_later_is_sent_again_with_its_key(flaky: tuple[str, list[str]]) -> None:
    url, seen = flaky
    with FeedbackClient(url) as client:
        assert client.send(thumbs("chatcmpl-1", "up"))["id"] == "fb-1"
        assert len(seen) == 3
        assert len(set(seen)) == 1


def test_without_retries_left_the_last_failure_is_told(flaky: tuple[str, list[str]]) -> None:
    url, seen = flaky
    with FeedbackClient(url, retries=0) as client, pytest.raises(FeedbackError, match="503 busy"):
        client.send(thumbs("chatcmpl-1", "up"))
    with FeedbackClient(url, retries=0) as client, pytest.raises(FeedbackError, match="does not answer"):
        client.send(thumbs("chatcmpl-1", "up"))
    assert len(seen) == 2
