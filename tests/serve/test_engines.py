"""Many engines: who gets a request, what happens when one fails, and what waits for whom."""

import itertools
import json
import re
import threading
import time
from pathlib import Path

import httpx
import pytest

from deploy.engines.client import EngineClient, EngineError
from deploy.engines.key import VARIABLE
from deploy.history.table import RoutingTable
from serve.engines.affinity import SLACK
from tests.serve.conftest import Gateway, Start, ask_and_leave, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.serve.test_access import add_key, bearer

LIVE = "policy-1-aaaaaaaa"


@pytest.fixture
def pair(start: Start, fake: FakeVllm, other: FakeVllm) -> Gateway:
    """A gateway on two engines that are both in use."""
    gateway = start(engines=(fake.url, other.url))
    eventually(lambda: all(in_use(gateway, engine) for engine in (fake, other)), "both are in use")
    return gateway


def in_use(gateway: Gateway, engine: FakeVllm) -> bool:
    return gateway.metric(f'hearken_engine_up{{engine="{engine.url}"}}') == 1


def busy(gateway: Gateway, engine: FakeVllm) -> float:
    return gateway.metric(f'hearken_engine_in_flight{{engine="{engine.url}"}}')


def texts(engine: FakeVllm) -> list[str]:
    return [request["messages"][-1]["content"] for request in engine.requests]


def chat_on(gateway: Gateway, engine: FakeVllm, trouble: str, **fields: object) -> httpx.Response:
    """A chat whose conversation belongs to `engine`; its last message is `trouble`."""
    for i in range(100):
        opening = f"conversation {i}"
        engine.requests.clear()
        gateway.chat(opening)
        if opening in texts(engine):
            messages = [{"role": "user", "content": opening}, {"role": "user", "content": trouble}]
            body = {"model": "hearken", "messages": messages, **fields}
            return gateway.http.post("/v1/chat/completions", json=body)
    raise AssertionError("no conversation went to the engine")


def test_the_turns_of_a_conversation_go_to_one_engine_and_conversations_to_both(
    pair: Gateway, fake: FakeVllm, other: FakeVllm
) -> None:
    for i in range(20):
        messages = [{"role": "system", "content": "be kind"}, {"role": "user", "content": f"question {i}"}]
        for _ in range(3):
            answer = pair.http.post("/v1/chat/completions", json={"model": "hearken", "messages": messages})
            messages += [answer.json()["choices"][0]["message"], {"role": "user", "content": "go on"}]
    seen = [{r["messages"][1]["content"] for r in engine.requests} for engine in (fake, other)]
    assert not seen[0] & seen[1]
    assert all(seen)  # all 20 on one side by chance: 2 in a million


def test_affinity_yields_to_load(pair: Gateway, fake: FakeVllm, other: FakeVllm) -> None:
    chat_on(pair, fake, "hi")
    opening = fake.requests[-1]["messages"][0]["content"]
    messages = [{"role": "user", "content": opening}, {"role": "user", "content": Trouble.HOLD}]
    body = {"model": "hearken", "messages": messages}
    post = pair.http.post
    held = [threading.Thread(target=post, args=("/v1/chat/completions",), kwargs={"json": body})
            for _ in range(SLACK + 1)]  # fmt: skip
    for i, thread in enumerate(held):
        thread.start()
        eventually(lambda i=i: busy(pair, fake) == i + 1, "the conversation's own engine has them")
    other.requests.clear()
    pair.chat(opening)
    assert texts(other) == [opening]
    fake.release.set()
    for thread in held:
        thread.join(10)


@pytest.mark.parametrize(
    ("trouble", "stream"),
    [
        (Trouble.BREAK, False),
        (Trouble.BREAK, True),
    ],
)
def test_a_request_that_has_not_begun_goes_to_the_other_engine(
    pair: Gateway, fake: FakeVllm, other: FakeVllm, stream: bool, trouble: str
) -> None:
    other.immune = True
    answer = chat_on(pair, fake, trouble, stream=stream)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.text
    assert (texts(fake)[-1], texts(other)[-1]) == (trouble, trouble)
    assert pair.metric("hearken_engine_retries_total") == 1
    (event,) = [c for c in pair.completions() if c.messages[-1]["content"] == trouble]
    assert event.choices[0].finish_reason == "stop"


@pytest.mark.parametrize("trouble", [Trouble.DIE, Trouble.FAIL])
def test_a_stream_that_has_begun_is_never_begun_anew(
    pair: Gateway, fake: FakeVllm, other: FakeVllm, trouble: str
) -> None:
    other.immune = True
    answer = chat_on(pair, fake, trouble, stream=True)
    last = [line for line in answer.text.split("\n\n") if line][-1]
    assert "error" in json.loads(last[6:])
    assert trouble not in texts(other)


def test_a_request_that_every_engine_drops_was_on_each(
    pair: Gateway, fake: FakeVllm, other: FakeVllm
) -> None:
    answer = pair.chat(Trouble.BREAK)
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "engine_unavailable")
    # An engine may have seen it twice: what an idle connection loses goes out once more
    # (serve/engines/wire.py).
    assert {*texts(fake)} == {*texts(other)} == {Trouble.BREAK}
    assert pair.metric("hearken_engine_retries_total") == 1
    assert in_use(pair, fake)
    assert in_use(pair, other)


@pytest.mark.parametrize("stream", [False, True])
def test_what_is_the_clients_fault_is_asked_once(
    pair: Gateway, fake: FakeVllm, other: FakeVllm, stream: bool
) -> None:
    assert pair.chat(Trouble.REFUSED, stream=stream).status_code == 400
    assert len(fake.requests) + len(other.requests) == 1


def test_another_engine_answers_when_one_forgot_the_policy_and_no_other_policy_does(
    start: Start, fake: FakeVllm, other: FakeVllm
) -> None:
    fake.adapters = other.adapters = {LIVE}
    gateway = start(engines=(fake.url, other.url), poll_seconds=30.0)
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    fake.adapters = set()
    answer = chat_on(gateway, fake, "hi")
    assert answer.json()["choices"][0]["message"]["content"].startswith(f"I am {LIVE}")


def test_a_comparison_survives_an_engine(pair: Gateway, fake: FakeVllm, other: FakeVllm) -> None:
    fake.stop()
    body = {"model": "hearken", "messages": [{"role": "user", "content": "hi"}]}
    for i in range(8):
        body["messages"] = [{"role": "user", "content": f"hi {i}"}]
        assert pair.http.post("/v1/comparisons", json=body).status_code == 200
    assert len(other.requests) == 16


CHAT, HEALTH = "/v1/chat/completions", "/health"
MANY = 20  # conversations; none of them on one of two engines by chance: 1 in a million


class Client(threading.Thread):
    """A chat in a thread of its own, as one of many users."""

    def __init__(self, gateway: Gateway, content: str, **fields: object) -> None:
        super().__init__(daemon=True)
        self._ask = lambda: gateway.chat(content, **fields)
        self.answer: httpx.Response | None = None
        self.seconds = 0.0
        self.start()

    def run(self) -> None:
        started = time.monotonic()
        self.answer = self._ask()
        self.seconds = time.monotonic() - started

    @property
    def code(self) -> object:
        """The status, or the error's code."""
        self.join(20)
        assert self.answer is not None, "no answer"
        return self.answer.status_code if self.answer.is_success else self.answer.json()["error"]["code"]


def waiting(gateway: Gateway) -> float:
    return gateway.metric("hearken_queue_length")


@pytest.mark.parametrize("stream", [False, True])
def test_requests_leave_an_engine_that_hangs(
    start: Start, fake: FakeVllm, other: FakeVllm, stream: bool
) -> None:
    gateway = start(engines=(fake.url, other.url), hang_seconds=2.0, queue_seconds=20.0)
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    fake.silent = {CHAT, HEALTH}  # as after SIGSTOP: connections are accepted, and that is all
    clients = [Client(gateway, f"hi {i}", stream=stream) for i in range(MANY)]
    assert [client.code for client in clients] == [200] * MANY
    assert not in_use(gateway, fake)
    assert gateway.metric("hearken_engine_retries_total") > 0
    fake.silent = set()
    eventually(lambda: in_use(gateway, fake), "it is used again")


def test_an_engine_that_is_healthy_and_answers_nobody_is_found_out(
    start: Start, fake: FakeVllm, other: FakeVllm
) -> None:
    gateway = start(engines=(fake.url, other.url), hang_seconds=2.0, silent_seconds=0.3, queue_seconds=20.0)
    eventually(lambda: in_use(gateway, fake) and in_use(gateway, other), "both are in use")
    fake.silent = {CHAT}
    clients = [Client(gateway, f"hi {i}") for i in range(MANY)]
    assert [client.code for client in clients] == [200] * MANY
    assert not in_use(gateway, fake)


def test_an_engine_that_is_silent_because_it_is_busy_stays_in_use(start: Start, fake: FakeVllm) -> None:
    gateway = start(hang_seconds=5.0, silent_seconds=0.1)
    fake.busy = True
    held = Client(gateway, Trouble.HOLD)
    eventually(lambda: fake.holding.is_set(), "it works on the answer")
    fake.silent = {CHAT}  # it would not have a token for the gateway now
    looks = fake.sampled
    eventually(lambda: fake.sampled > looks + 3, "its count of tokens was looked at again and again")
    assert in_use(gateway, fake)
    fake.busy = False
    eventually(lambda: not in_use(gateway, fake), "it works no more, and has no token either")
    fake.silent = set()
    fake.release.set()
    assert held.code == 200


def test_a_policy_that_fails_does_not_take_its_engine_from_the_others(start: Start, fake: FakeVllm) -> None:
    broken = "policy-2-bbbbbbbb"
    fake.adapters, fake.broken = {LIVE, broken}, {broken}
    gateway = start()
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    eventually(gateway.is_ready, "the good policy serves")
    for _ in range(5):
        assert gateway.chat().status_code == 200
    gateway.decide(RoutingTable(epoch=2, live=broken))
    assert not gateway.is_ready()
    assert gateway.chat().status_code == 503
    assert in_use(gateway, fake)


@pytest.mark.parametrize("stream", [False, True])
def test_bare_prompts_move_on_as_well(pair: Gateway, fake: FakeVllm, other: FakeVllm, stream: bool) -> None:
    fake.stop()
    for i in range(8):
        body = {"model": "hearken", "prompt": f"Once upon {i} times", "stream": stream}
        answer = pair.http.post("/v1/completions", json=body)
        assert answer.status_code == 200
        assert "error" not in answer.text
    assert len(other.requests) == 8


def test_engines_come_and_go_and_no_request_fails(pair: Gateway, fake: FakeVllm, other: FakeVllm) -> None:
    stopping = threading.Event()
    codes: list[object] = []

    def chats(number: int) -> None:
        with httpx.Client(base_url=pair.url, timeout=30) as http:
            for i in itertools.count():
                if stopping.is_set():
                    return
                messages = [{"role": "user", "content": f"user {number}, question {i}"}]
                answer = http.post(CHAT, json={"model": "hearken", "messages": messages})
                codes.append(answer.status_code)

    users = [threading.Thread(target=chats, args=(n,), daemon=True) for n in range(6)]
    for user in users:
        user.start()
    for engine in (fake, other, fake, other):
        engine.stop()
        eventually(lambda engine=engine: not in_use(pair, engine), "the loss is noticed")
        count = len(codes)
        eventually(lambda count=count: len(codes) > count + 20, "chats go on")
        engine.start()
        eventually(lambda engine=engine: in_use(pair, engine), "it is used again")
    stopping.set()
    for user in users:
        user.join(10)
    assert set(codes) == {200}


def test_keys_take_turns_whoever_asks_more(start: Start, fake: FakeVllm, tmp_path: Path) -> None:
    loud, shy = (add_key(tmp_path / "keys.json", ["chat"]) for _ in range(2))
    operator = bearer(add_key(tmp_path / "keys.json", ["operate"]))
    gateway = start(max_in_flight=1, queue_seconds=20.0)

    def waiting() -> int:
        text = gateway.http.get("/metrics", headers=operator).text
        return int(float(re.search(r"^hearken_queue_length (\S+)$", text, re.MULTILINE)[1]))  # type: ignore[index]

    def ask(secret: str, content: str) -> threading.Thread:
        def post() -> None:
            body = {"model": "hearken", "messages": [{"role": "user", "content": content}]}
            httpx.post(gateway.url + CHAT, json=body, headers=bearer(secret), timeout=30)

        asking = threading.Thread(target=post, daemon=True)
        asking.start()
        return asking

    threads = [ask(loud, Trouble.HOLD)]
    assert fake.holding.wait(10)
    for place, (secret, content) in enumerate([(loud, "a"), (loud, "b"), (loud, "c"), (shy, "d")], 1):
        threads.append(ask(secret, content))
        eventually(lambda place=place: waiting() == place, "it waits")
    fake.release.set()
    for thread in threads:
        thread.join(20)
    assert texts(fake) == [Trouble.HOLD, "a", "d", "b", "c"]


def test_a_request_waits_for_an_engine_that_is_just_starting_again(start: Start, fake: FakeVllm) -> None:
    fake.adapters = {LIVE}
    gateway = start(queue_seconds=20.0)
    gateway.decide(RoutingTable(epoch=1, live=LIVE))
    eventually(gateway.is_ready, "ready")
    fake.stop()
    eventually(lambda: not gateway.is_ready(), "the loss is noticed")
    fake.adapters = set()
    client = Client(gateway, "hi")
    eventually(lambda: waiting(gateway) == 1, "it waits")
    warm_ups = fake.warm_ups
    fake.start()
    eventually(lambda: fake.warm_ups > warm_ups, "the engine is back, without the policy")
    assert waiting(gateway) == 1
    fake.adapters = {LIVE}
    assert client.code == 200
    assert client.answer is not None
    assert f"I am {LIVE}" in client.answer.text


def test_an_engine_gets_no_more_than_its_bound_and_the_queue_not_either(start: Start, fake: FakeVllm) -> None:
    gateway = start(max_in_flight=2, queue_length=1, queue_seconds=20.0)
    held = [Client(gateway, Trouble.HOLD) for _ in range(2)]
    eventually(lambda: busy(gateway, fake) == 2, "all places are taken")
    patient = Client(gateway, "hi")
    eventually(lambda: waiting(gateway) == 1, "one waits")
    refused = Client(gateway, "hi")
    assert refused.code == "queue_full"
    assert refused.answer is not None
    assert refused.answer.status_code == 503
    assert int(refused.answer.headers["retry-after"]) >= 1
    assert len(fake.requests) == 2
    fake.release.set()
    assert [client.code for client in (*held, patient)] == [200] * 3
    assert gateway.metric('hearken_queue_refused_total{reason="queue full"}') == 1
    assert gateway.metric("hearken_queue_seconds_count") == 1
    eventually(lambda: busy(gateway, fake) == 0, "every place is free again")


def test_waiting_ends_with_a_503_to_try_again(start: Start, fake: FakeVllm) -> None:
    gateway = start(max_in_flight=1, queue_seconds=0.2)
    held = Client(gateway, Trouble.HOLD)
    eventually(lambda: busy(gateway, fake) == 1, "the place is taken")
    assert Client(gateway, "hi").code == "overloaded"
    assert Client(gateway, "hi", stream=True).code == "overloaded"
    fake.release.set()
    assert held.code == 200


def test_a_client_that_leaves_the_queue_is_forgotten(start: Start, fake: FakeVllm) -> None:
    gateway = start(max_in_flight=1, queue_seconds=20.0)
    held = Client(gateway, Trouble.HOLD)
    eventually(lambda: busy(gateway, fake) == 1, "the place is taken")
    ask_and_leave(gateway, "bye", lambda: waiting(gateway) == 1, "it waits")
    eventually(lambda: waiting(gateway) == 0, "nobody waits")
    fake.release.set()
    assert held.code == 200
    assert gateway.chat("hi").status_code == 200
    assert texts(fake) == [Trouble.HOLD, "hi"]


@pytest.mark.parametrize("action", ["load", "unload"])
def test_adapters_cannot_be_loaded_from_outside(gateway: Gateway, fake: FakeVllm, action: str) -> None:
    body = {"lora_name": "mine", "lora_path": "/tmp/mine"}
    name = f"{action}_lora_adapter"
    beginnings = ["/v1/", "//v1/", "/V1/", "/v1/models/../", "/v1/chat/completions/../../", "/v1/%2e/"]
    paths = [beginning + name for beginning in beginnings]
    for path in paths:
        for method in ("POST", "GET", "PUT"):
            assert gateway.http.request(method, path, json=body).status_code == 404
    assert fake.lora_requests == 0


def test_an_engine_with_a_key_gets_it(start: Start, fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    fake.key = "secret of the engine"
    monkeypatch.setenv(VARIABLE, fake.key)
    gateway, client = start(), EngineClient(fake.url)
    assert gateway.chat().status_code == 200
    assert client.models() == ["base"]
    client.close()
    monkeypatch.setenv(VARIABLE, "another")
    stranger = EngineClient(fake.url)
    with pytest.raises(EngineError, match="401"):
        stranger.models()
    stranger.close()
    monkeypatch.setenv(VARIABLE, "two\r\nlines")
    with pytest.raises(ValueError, match=VARIABLE):
        EngineClient(fake.url)
