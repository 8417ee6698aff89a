"""Limits of keys and users, through a gateway: what is refused, what is told, and how clients recover."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

import httpx
import openai
import pytest

from serve.auth.limits import Limits
from tests.serve.conftest import Gateway, Start, eventually
from tests.serve.fake_vllm import FakeVllm, Trouble
from tests.serve.test_access import CHAT, add_key, bearer
from tests.serve.test_errors import error_of

PROMPT_AND_ANSWER = 3 + 6  # tokens of the fake engine's usual answer


def chat(gateway: Gateway, secret: str, **fields: object) -> httpx.Response:
    return gateway.http.post("/v1/chat/completions", json={**CHAT, **fields}, headers=bearer(secret))


def refused(answer: httpx.Response, kind: str) -> None:
    """A 429 in OpenAI's shape, that says when to come again."""
    error = error_of(answer)
    assert (answer.status_code, error["code"], error["type"]) == (429, "rate_limit_exceeded", kind)
    assert 1 <= int(answer.headers["retry-after"]) <= 121
    milliseconds = int(answer.headers["retry-after-ms"])
    assert milliseconds <= 1000 * int(answer.headers["retry-after"]) < milliseconds + 1000


def test_requests_of_a_key(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, ["chat", "feedback", "operate"], limits=Limits(requests_per_minute=2))
    other = add_key(file, ["chat"])
    gateway = start()
    for left in (1, 0):
        answer = chat(gateway, secret)
        assert answer.status_code == 200
        assert answer.headers["x-ratelimit-limit-requests"] == "2"
        assert answer.headers["x-ratelimit-remaining-requests"] == str(left)
        assert answer.headers["x-ratelimit-reset-requests"].startswith(("1m", "2m"))
    answer = chat(gateway, secret, stream=True)
    refused(answer, "requests")
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert "x-request-id" in answer.headers

    vote = {"kind": "thumbs", "completion_id": gateway.signer.new_completion_id(), "value": "up"}
    votes = [gateway.http.post("/v1/feedback", json=vote, headers=bearer(secret)) for _ in range(3)]
    assert [answer.status_code for answer in votes] == [202, 202, 429]
    refused(votes[-1], "requests")
    answer = chat(gateway, other)
    assert answer.status_code == 200
    assert answer.headers["x-ratelimit-limit-requests"] == "6000"
    gateway.http.headers.update(bearer(secret))
    assert gateway.metric('hearken_limited_total{limit="requests"}') == 2


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_are_charged_after_the_answer(start: Start, tmp_path: Path, stream: bool) -> None:
    secret = add_key(tmp_path / "keys.json", ["chat", "feedback"], limits=Limits(tokens_per_minute=10))
    gateway = start()
    lefts = []
    for _ in range(2):
        answer = chat(gateway, secret, stream=stream)
        assert answer.status_code == 200
        lefts.append(int(answer.headers["x-ratelimit-remaining-tokens"]))
    assert lefts == [10, 10 - PROMPT_AND_ANSWER]
    answer = chat(gateway, secret, stream=stream)
    refused(answer, "tokens")
    vote = {"kind": "thumbs", "completion_id": gateway.signer.new_completion_id(), "value": "up"}
    assert gateway.http.post("/v1/feedback", json=vote, headers=bearer(secret)).status_code == 202


def test_a_stream_that_its_reader_leaves_is_charged_too(start: Start, tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys.json", ["chat"], limits=Limits(tokens_per_minute=5))
    gateway = start()
    body = {**CHAT, "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
    with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(secret)) as answer:
        list(islice(filter(None, answer.iter_lines()), 3))  # the role and two tokens
    eventually(gateway.completions, "the cut completion is logged")
    refused(chat(gateway, secret), "tokens")  # 3 prompt tokens and 2 sampled ones


def test_users_of_a_key(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    limits = Limits(user_requests_per_minute=2)
    secret, other = add_key(file, ["chat"], limits=limits), add_key(file, ["chat"], limits=limits)
    gateway = start()
    assert [chat(gateway, secret, user="ada").status_code for _ in range(3)] == [200, 200, 429]
    refused(chat(gateway, secret, user="ada"), "requests")
    assert chat(gateway, secret, user="bob").status_code == 200
    assert chat(gateway, other, user="ada").status_code == 200
    assert [chat(gateway, secret).status_code for _ in range(4)] == [200] * 4  # nobody in particular
    comparison = gateway.http.post("/v1/comparisons", json={**CHAT, "user": "ada"}, headers=bearer(secret))
    refused(comparison, "requests")


def test_an_open_service_has_the_limits_that_it_is_given(start: Start) -> None:
    gateway = start(limits=Limits(user_requests_per_minute=2, requests_per_minute=5))
    assert [gateway.chat(user="ada").status_code for _ in range(3)] == [200, 200, 429]
    # The third was counted as the service's: users are known only when the body was read.
    assert [gateway.chat().status_code for _ in range(3)] == [200, 200, 429]


def test_a_keys_own_limits_go_before_the_services(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    plain, own = add_key(file, ["chat"]), add_key(file, ["chat"], limits=Limits(requests_per_minute=7))
    free = add_key(file, ["chat"], limits=Limits(requests_per_minute=0, tokens_per_minute=0))
    gateway = start(limits=Limits(requests_per_minute=3))
    assert chat(gateway, plain).headers["x-ratelimit-limit-requests"] == "3"
    assert chat(gateway, own).headers["x-ratelimit-limit-requests"] == "7"
    assert not [name for name in chat(gateway, free).headers if name.startswith("x-ratelimit")]


@contextmanager
def held(gateway: Gateway, secret: str, fake: FakeVllm) -> Iterator[None]:
    """A request of the key is at work while the block lasts."""
    done = threading.Event()

    def hold() -> None:
        body = {**CHAT, "messages": [{"role": "user", "content": Trouble.HOLD}], "stream": True}
        with gateway.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer(secret)) as answer:
            lines = answer.iter_lines()  # dropping it would close the answer
            next(lines)
            done.wait(20)

    with ThreadPoolExecutor(1) as pool:
        holding = pool.submit(hold)
        assert fake.holding.wait(10)
        try:
            yield
        finally:
            done.set()
            holding.result()


def test_requests_at_the_same_time(start: Start, tmp_path: Path, fake: FakeVllm) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, ["chat", "operate"], limits=Limits(concurrent_requests=1))
    other = add_key(file, ["chat"])
    gateway = start()
    with held(gateway, secret, fake):
        answer = chat(gateway, secret)
        refused(answer, "requests")
        assert answer.headers["retry-after"] == "1"
        assert chat(gateway, other).status_code == 200
    eventually(lambda: chat(gateway, secret).status_code == 200, "the place is free again")
    for _ in range(3):  # errors give their place back as well
        assert chat(gateway, secret, temperature="hot").status_code == 400
    assert chat(gateway, secret).status_code == 200


def test_the_openai_client_waits_and_then_succeeds(start: Start, tmp_path: Path, fake: FakeVllm) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, ["chat"], limits=Limits(concurrent_requests=1))
    operator = add_key(file, ["operate"])
    gateway = start()
    gateway.http.headers.update(bearer(operator))

    def ask(retries: int) -> str | None:
        client = openai.OpenAI(base_url=gateway.url + "/v1", api_key=secret, max_retries=retries)
        answer = client.chat.completions.create(model="hearken", messages=[{"role": "user", "content": "hi"}])
        return answer.choices[0].message.content

    with ThreadPoolExecutor(1) as pool:
        with held(gateway, secret, fake):
            with pytest.raises(openai.RateLimitError) as caught:
                ask(0)
            assert caught.value.code == "rate_limit_exceeded"
            asked = len(fake.requests)
            waiting = pool.submit(ask, 4)
            eventually(
                lambda: gateway.http.get("/livez").status_code == 200 and len(fake.requests) == asked,
                "refused",
            )
        assert waiting.result() == "I am base, seed None."


def test_a_refused_request_is_not_counted(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    secret = add_key(file, ["chat"], limits=Limits(requests_per_minute=2, tokens_per_minute=5))
    gateway = start()
    assert chat(gateway, secret).headers["x-ratelimit-remaining-requests"] == "1"
    for _ in range(3):
        refused(chat(gateway, secret), "tokens")
    assert chat(gateway, secret).headers.get("x-ratelimit-remaining-requests") in (None, "1")


def test_each_vote_of_a_batch_counts(start: Start, tmp_path: Path) -> None:
    secret = add_key(tmp_path / "keys.json", ["feedback", "operate"], limits=Limits(votes_per_minute=5))
    gateway = start()
    gateway.http.headers.update(bearer(secret))
    vote = {"kind": "thumbs", "completion_id": gateway.signer.new_completion_id(), "value": "up"}

    def post(count: int) -> httpx.Response:
        return gateway.http.post("/v1/feedback", json=[vote] * count)

    assert post(6).status_code == 413  # would never fit
    assert post(4).status_code == 207
    refused(post(2), "requests")
    sent = gateway.http.post("/v1/feedback", json=vote)
    assert sent.status_code == 202
    refused(gateway.http.post("/v1/feedback", json=vote), "requests")
    refused(gateway.http.delete(f"/v1/feedback/{sent.json()['id']}"), "requests")
    assert len(gateway.votes()) == 5
    assert gateway.metric('hearken_limited_total{limit="votes"}') == 3
