"""Webhooks against a real server: signed, in order, at least once, and never in the way of a release."""

import base64
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from math import inf
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, Counter

from deploy.controller.courier import Courier
from deploy.controller.webhooks import VARIABLE, NoSecret, load_secrets, payload, receiver_of, signed_headers
from deploy.decide import release
from deploy.history.releases import decision_of, entry
from deploy.history.states import ReleaseState
from feedback.core.events import RELEASES
from feedback.core.log import EventLog
from feedback.sqlite.log import SqliteLog
from tests.deploy.world import MakeWorld
from tests.servers import free_port

SECRET = bytes(range(32))
WRITTEN = f"whsec_{base64.b64encode(SECRET).decode()}"
ROOT = Path(__file__).parents[2]
LIMIT_SECONDS = 30.0


class Receiver:
    """A server that remembers what it was sent. answers: the statuses to give, then 204 for ever."""

    def __init__(self, *answers: int) -> None:
        self.bodies: list[dict[str, object]] = []
        self.ids: list[str] = []
        self.verified: list[bool] = []
        self._answers = list(answers)
        self._came = threading.Condition()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                self.send_response(receiver.take(dict(self.headers), body))
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def do_GET(self) -> None:  # what a redirect that is followed would come to
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/hook?token=t"
        self._thread = threading.Thread(target=self._server.serve_forever, args=[0.01])
        self._thread.start()

    def take(self, headers: dict[str, str], body: bytes) -> int:
        headers = {name.lower(): value for name, value in headers.items()}
        with self._came:
            self.ids.append(headers["webhook-id"])
            self.bodies.append(json.loads(body))
            self.verified.append(is_ours(WRITTEN, headers, body))
            self._came.notify_all()
            return self._answers.pop(0) if self._answers else 204

    def mend(self) -> None:
        self._answers.clear()

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        with self._came:
            assert self._came.wait_for(condition, LIMIT_SECONDS), f"{what}: {self.numbers}"

    @property
    def numbers(self) -> list[object]:
        return [body["data"]["number"] for body in self.bodies]  # type: ignore[index]

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _documented() -> Callable[[str, dict[str, str], bytes], bool]:
    """What docs/releases.md gives receivers to verify a webhook with."""
    section = (ROOT / "docs/releases.md").read_text().partition("### Webhooks")[2]
    code = section.partition("```python\n")[2].partition("```")[0]
    found: dict[str, Any] = {}
    exec(compile(code, "docs/releases.md", "exec"), found)
    is_ours: Callable[[str, dict[str, str], bytes], bool] = found["is_ours"]
    return is_ours


is_ours = _documented()


@pytest.fixture
def log(tmp_path: Path) -> Iterator[EventLog]:
    made = SqliteLog(tmp_path / "log.db")
    yield made
    made.close()


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    made: list[Receiver] = []

    def receiver(*answers: int) -> Receiver:
        made.append(Receiver(*answers))
        return made[-1]

    yield receiver
    for each in made:
        each.close()


class Results:
    """A counter of what became of webhooks."""

    def __init__(self) -> None:
        self.counter = Counter("webhooks", "x", ["receiver", "result"], registry=CollectorRegistry())

    def of(self, url: str) -> dict[str, float]:
        labels = ("delivered", "failed", "given_up")
        return {each: self.counter.labels(receiver_of(url), each)._value.get() for each in labels}


@contextmanager
def delivering(
    log: EventLog,
    url: str,
    results: Results,
    patience_seconds: float = 3600.0,
    may_send: Callable[[], bool] = lambda: True,
) -> Iterator[None]:
    """A courier at work."""
    courier = Courier(log, url, [SECRET], patience_seconds, may_send, results.counter, pause_seconds=0.01)
    stop = threading.Event()
    thread = threading.Thread(target=courier.run, args=[stop])
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(LIMIT_SECONDS)
        assert not thread.is_alive()


def decide(log: EventLog, *numbers: int, at: float | None = None) -> None:
    """Log decisions with these numbers."""
    for number in numbers:
        step = release.begin(1.0)
        when = time.time() if at is None else at
        log.append([entry(decision_of(step, ReleaseState(), number, when))]).result()


def marked(log: EventLog) -> list[int]:
    """How far the log says that webhooks came."""
    values = [json.loads(record.value) for record in log.read([RELEASES], {})[0]]
    return [value["number"] for value in values if value["type"] == "delivered"]


def known(log: EventLog, url: str) -> None:
    """Let a URL be known, with nothing delivered yet."""
    results = Results()
    with delivering(log, url, results):
        deadline = time.monotonic() + LIMIT_SECONDS
        cursor: dict[str, int] = {}
        while not marked(log):
            assert time.monotonic() < deadline
            _, cursor = log.read([RELEASES], cursor, wait_seconds=1.0)


def test_the_signature_is_that_of_the_standard() -> None:
    """The example of Standard Webhooks' libraries."""
    secret = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = signed_headers("msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330.0, b'{"test": 2432232314}', [secret])
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert headers["webhook-timestamp"] == "1614265330"


def test_what_is_not_ours_or_old_is_not_verified() -> None:
    headers = signed_headers("d1", time.time(), b"{}", [SECRET])
    assert is_ours(WRITTEN, headers, b"{}")
    assert is_ours(WRITTEN, signed_headers("d1", time.time(), b"{}", [b"x" * 32, SECRET]), b"{}")
    assert not is_ours(WRITTEN, headers, b"{ }")
    assert not is_ours(WRITTEN, headers | {"webhook-id": "d2"}, b"{}")
    assert not is_ours(WRITTEN, signed_headers("d1", time.time(), b"{}", [b"x" * 32]), b"{}")
    assert not is_ours(WRITTEN, signed_headers("d1", time.time() - 600, b"{}", [SECRET]), b"{}")


def test_every_decision_arrives_in_order_and_signed(log: EventLog, receive: Callable[..., Receiver]) -> None:
    receiver, results = receive(), Results()
    known(log, receiver.url)
    with delivering(log, receiver.url, results):
        decide(log, *range(1, 8))
        receiver.wait_for(lambda: len(receiver.ids) == 7, "all of them")
    assert receiver.numbers == list(range(1, 8))
    assert all(receiver.verified)
    assert len(set(receiver.ids)) == 7
    assert receiver.bodies[0]["type"] == "release.begun"
    assert results.of(receiver.url) == {"delivered": 7, "failed": 0, "given_up": 0}


def test_what_fails_is_sent_again_before_what_comes_after_it(
    log: EventLog, receive: Callable[..., Receiver]
) -> None:
    receiver, results = receive(204, 500, 302, 410), Results()
    known(log, receiver.url)
    with delivering(log, receiver.url, results):
        decide(log, 1, 2, 3)
        receiver.wait_for(lambda: len(receiver.ids) == 6, "three and three tries more")
    assert receiver.numbers == [1, 2, 2, 2, 2, 3], "no redirect is followed"
    assert len(set(receiver.ids)) == 3, "a repetition has the same id"
    assert all(receiver.verified)
    assert results.of(receiver.url) == {"delivered": 3, "failed": 3, "given_up": 0}


def test_a_restart_goes_on_where_it_was(log: EventLog, receive: Callable[..., Receiver]) -> None:
    receiver, results = receive(), Results()
    known(log, receiver.url)
    with delivering(log, receiver.url, results):
        decide(log, 1, 2)
        receiver.wait_for(lambda: len(receiver.ids) == 2, "the first two")
    decide(log, 3, 4)
    with delivering(log, receiver.url, results):
        receiver.wait_for(lambda: len(receiver.ids) == 4, "the other two")
    assert receiver.numbers == [1, 2, 3, 4]


def test_what_was_under_way_at_the_end_is_delivered_by_the_next_one(
    log: EventLog, receive: Callable[..., Receiver]
) -> None:
    receiver, results = receive(*[500] * 100_000), Results()
    known(log, receiver.url)
    decide(log, 1, 2)
    with delivering(log, receiver.url, results):
        receiver.wait_for(lambda: receiver.ids, "the first try")
    assert (set(receiver.numbers), marked(log)) == ({1}, [0])
    receiver.mend()
    with delivering(log, receiver.url, results):
        receiver.wait_for(lambda: receiver.numbers[-1] == 2, "both")
    assert results.of(receiver.url)["delivered"] == 2


def test_only_the_controller_that_leads_delivers_and_the_next_one_knows(
    log: EventLog, receive: Callable[..., Receiver]
) -> None:
    receiver, results = receive(), Results()
    known(log, receiver.url)
    stands_by = delivering(log, receiver.url, results, may_send=lambda: False)
    with stands_by, delivering(log, receiver.url, results):
        decide(log, 1, 2)
        receiver.wait_for(lambda: len(receiver.ids) == 2, "by the leader")
    with delivering(log, receiver.url, results):
        decide(log, 3)
        receiver.wait_for(lambda: len(receiver.ids) == 3, "by the next leader")
    assert receiver.numbers == [1, 2, 3]


def test_a_controller_that_stands_by_sends_and_notes_nothing(
    log: EventLog, receive: Callable[..., Receiver]
) -> None:
    receiver, asked, often = receive(), list[int](), threading.Event()
    decide(log, 1, 2)

    def may_send() -> bool:
        asked.append(1)
        if len(asked) == 3:
            often.set()
        return False

    with delivering(log, receiver.url, Results(), may_send=may_send):
        assert often.wait(LIMIT_SECONDS), "it looks whether it leads, again and again"
    assert (receiver.ids, marked(log)) == ([], [])


def test_what_cannot_be_delivered_in_time_is_given_up_and_the_next_one_is_tried(
    log: EventLog, receive: Callable[..., Receiver]
) -> None:
    receiver, results = receive(500), Results()
    known(log, receiver.url)
    decide(log, 1, at=time.time() - 7200)
    decide(log, 2)
    with delivering(log, receiver.url, results):
        receiver.wait_for(lambda: len(receiver.ids) == 2, "one try of each")
    assert receiver.numbers == [1, 2]
    assert results.of(receiver.url) == {"delivered": 1, "failed": 1, "given_up": 1}


def test_a_url_that_is_new_gets_what_comes_from_now_on(
    log: EventLog, receive: Callable[..., Receiver]
) -> None:
    receiver, results = receive(), Results()
    decide(log, 1, 2, 3)
    known(log, receiver.url)
    with delivering(log, receiver.url, results):
        decide(log, 4)
        receiver.wait_for(lambda: receiver.ids, "the fourth")
    assert receiver.numbers == [4]


def test_a_decision_that_does_not_count_is_not_told(log: EventLog, receive: Callable[..., Receiver]) -> None:
    receiver, results = receive(), Results()
    known(log, receiver.url)
    decide(log, 1, 1, 2)
    with delivering(log, receiver.url, results):
        receiver.wait_for(lambda: len(receiver.ids) == 2, "those that count")
    assert receiver.numbers == [1, 2]


def test_a_receiver_that_is_down_for_ever_stops_no_promotion(make_world: MakeWorld) -> None:
    world, results = make_world(), Results()
    url = f"http://127.0.0.1:{free_port()}/"
    known(world.log, url)
    with delivering(world.log, url, results, patience_seconds=inf):
        better = world.offer().version
        world.taste = lambda version: 0.9 if version == better else 0.3
        promoted = world.pass_time(until="promoted")
        deadline = time.monotonic() + LIMIT_SECONDS
        while not results.of(url)["failed"] and time.monotonic() < deadline:
            time.sleep(0.01)
    assert promoted.version == better
    found = results.of(url)
    assert found["failed"] > 0
    assert (found["delivered"], found["given_up"]) == (0, 0)


def test_the_body_says_who_asked_and_why() -> None:
    begun = decision_of(release.begin(1.0), ReleaseState(), 1, 1_700_000_000.0)
    told = json.loads(payload(begun.model_copy(update={"action": "pin", "who": "ann", "reason": "odd"})))
    assert (told["type"], told["timestamp"]) == ("release.begun", "2023-11-14T22:13:20.000Z")
    assert {name: told["data"][name] for name in ("number", "action", "who", "reason", "live")} == {
        "number": 1, "action": "pin", "who": "ann", "reason": "odd", "live": "base",
    }  # fmt: skip


def test_secrets_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = [f"whsec_{base64.b64encode(bytes([n]) * 24).decode()}" for n in (1, 2)]
    file = tmp_path / "secret"
    file.write_text("\n".join(written) + "\n")
    assert load_secrets(file) == (b"\1" * 24, b"\2" * 24), "two, while one takes the other's place"
    two = signed_headers("id", 1.0, b"{}", load_secrets(file))["webhook-signature"].split(" ")
    assert two[0] == signed_headers("id", 1.0, b"{}", [b"\1" * 24])["webhook-signature"]
    monkeypatch.setenv(VARIABLE, written[1])
    assert load_secrets(None) == (b"\2" * 24,)
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(NoSecret, match=r"\$HEARKEN_WEBHOOK_SECRET has none; make one with: echo whsec_"):
        load_secrets(None)
    with pytest.raises(NoSecret, match="cannot be read"):
        load_secrets(tmp_path / "nowhere")
    for wrong in ("secret", "whsec_!!", "whsec_c2hvcnQ=", f"whsec_{base64.b64encode(bytes(65)).decode()}"):
        file.write_text(wrong)
        with pytest.raises(NoSecret, match="24 to 64 bytes in base64"):
            load_secrets(file)


def test_a_receiver_is_named_without_what_its_url_hides() -> None:
    assert receiver_of("https://ann:secret@ops.example.com:8443/hook?token=t") == "ops.example.com:8443"
