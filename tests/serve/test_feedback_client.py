"""Feedback beside the clients that people chat with: sync, async, typed, and quick to import."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anthropic
import httpx
import pytest

from hearken.client import AsyncHearken, FeedbackError, Hearken
from hearken.sdk.http import MOST_BYTES, batches
from tests.serve.conftest import Gateway

ROOT = Path(__file__).parents[2]
MESSAGES: Any = [{"role": "user", "content": "hi"}]


def chunks(gateway: Gateway) -> Any:
    return list(
        gateway.openai.chat.completions.create(model="hearken", messages=MESSAGES, user="ada", stream=True)
    )


def message_events(gateway: Gateway) -> Any:
    client = anthropic.Anthropic(base_url=gateway.url, api_key="unused")
    with client.messages.stream(model="hearken", messages=MESSAGES, max_tokens=20) as stream:
        return list(stream)


ANSWERS: dict[str, Callable[[Gateway], Any]] = {
    "a chat": lambda gateway: gateway.openai.chat.completions.create(model="hearken", messages=MESSAGES),
    "its JSON": lambda gateway: gateway.chat().json(),
    "a stream's last chunk": lambda gateway: chunks(gateway)[-1],
    "a text": lambda gateway: gateway.openai.completions.create(model="hearken", prompt="hi"),
    "a response": lambda gateway: gateway.openai.responses.create(model="hearken", input="hi"),
    "a response's last event": lambda gateway: list(
        gateway.openai.responses.create(model="hearken", input="hi", stream=True)
    )[-1],
    "a message": lambda gateway: anthropic.Anthropic(base_url=gateway.url, api_key="unused").messages.create(
        model="hearken", messages=MESSAGES, max_tokens=20
    ),
    "a message's first event": lambda gateway: message_events(gateway)[0],
    "a message's last event": lambda gateway: message_events(gateway)[-1],
}


def test_a_thumb_is_on_the_answer_that_it_is_given(gateway: Gateway) -> None:
    with Hearken(gateway.url + "/v1") as hearken:
        for name, ask in ANSWERS.items():
            before = {answer.completion_id for answer in gateway.completions()}
            vote = hearken.feedback(ask(gateway)).up()
            (made,) = {answer.completion_id for answer in gateway.completions()} - before
            (stored,) = [each for each in gateway.votes() if each.event_id == vote["id"]]
            assert [target.completion_id for target in stored.targets] == [made], name


def test_a_langchain_answer_is_known_by_the_services_id(gateway: Gateway) -> None:
    langchain = pytest.importorskip("langchain_openai")
    chat = langchain.ChatOpenAI(base_url=gateway.url + "/v1", api_key="unused", model="hearken")
    with Hearken(gateway.url) as hearken:
        hearken.feedback(chat.invoke("hi")).down()
    [answer], [vote] = gateway.completions(), gateway.votes()
    assert vote.targets[0].completion_id == answer.completion_id


def test_everything_that_can_be_said_is_said(gateway: Gateway) -> None:
    one, two, three = (gateway.signer.new_completion_id() for _ in range(3))
    with Hearken(gateway.url) as hearken:
        said = hearken.feedback(one, user="ada")
        given = [
            said.up(reason="helpful", comment="Thanks."),
            said.down(reasons=["incomplete", "style"], tags=["beta"], weight=0.5),
            said.rate(7, scale=(0, 10)),
            said.correct("It arrives on Monday."),
            said.comment("Sounds annoyed."),
            said.metric("minutes_to_solve", 12, range=(0, 60), direction="lower", source="app"),
            said.signal("copied"),
            said.signal("accepted", shown=False),
            said.regenerated(two, kept="old"),
            said.prefer(two),
            said.compare(three, "tie", presented=("b", "a")),
            hearken.feedback({"episode_id": "talk-1"}, user="ada").metric("resolved", True),
            hearken.feedback({"external_id": "msg-1"}, user="ada").up(),
            hearken.feedback(one, choice=1, user="ada").up(),
            hearken.compare(two, three, "b", user="ada"),
            hearken.rank([one, [two, three]], user="ada"),
        ]
    votes = gateway.votes()
    assert [vote.event_id for vote in votes] == [each["id"] for each in given]
    assert len({vote.rater for vote in votes}) == 1
    assert [(vote.kind, vote.label) for vote in votes] == [
        ("thumbs", "up"),
        ("thumbs", "down"),
        ("rating", "rated"),
        ("correction", "corrected"),
        ("comment", "commented"),
        ("metric", "measured"),
        ("signal", "yes"),
        ("signal", "not_shown"),
        ("signal", "kept_old"),
        ("comparison", "a"),
        ("comparison", "tie"),
        ("metric", "measured"),
        ("thumbs", "up"),
        ("thumbs", "up"),
        ("comparison", "b"),
        ("ranking", "ranked"),
    ]
    assert votes[0].reasons == ["helpful"]
    assert votes[13].targets[0].choice == 1


def test_a_vote_without_a_user_is_of_whom_the_answer_was_for(gateway: Gateway) -> None:
    first, last = chunks(gateway)[0], chunks(gateway)[-1]
    expired = {"id": first.id, "hearken": first.hearken | {"feedback_token_expires_at": 1}}
    with Hearken(gateway.url) as hearken:
        hearken.feedback(first).up()
        hearken.feedback(first).down(user="eve")
        hearken.feedback(last, user="ada").up()
        hearken.feedback(expired).up()
    ada, eve, also_ada, by_address = (vote.rater for vote in gateway.votes())
    assert ada == also_ada == gateway.signer.pseudonym("default", "ada")
    assert eve == gateway.signer.pseudonym("default", "eve")
    assert by_address not in (ada, eve)


def test_the_async_client_does_the_same(gateway: Gateway) -> None:
    one, two = (gateway.signer.new_completion_id() for _ in range(2))

    async def story() -> None:
        async with AsyncHearken(gateway.url) as hearken:
            up, down = await asyncio.gather(
                hearken.feedback(one, user="ada").up(), hearken.feedback(two, user="ada").down()
            )
            await hearken.rank([two, one], user="ada")
            await hearken.compare(one, two, "a", user="ada")
            many = [{"kind": "thumbs", "completion_id": one, "value": "up", "user": name} for name in "xy"]
            assert [answer["status"] for answer in await hearken.send_many(many)] == [202, 202]
            assert (await hearken.receipt(up))["kind"] == "thumbs"
            await hearken.retract(down["id"])
            with pytest.raises(FeedbackError, match="There is no completion"):
                await hearken.feedback("chatcmpl-unknown").up()

    asyncio.run(story())
    kinds = [vote.kind for vote in gateway.votes()]
    assert sorted(kinds) == sorted(["thumbs"] * 4 + ["ranking", "comparison", "retraction"])
    assert kinds[-1] == "retraction"


def transport(*answers: httpx.Response | httpx.TransportError) -> tuple[Any, list[httpx.Request]]:
    """What gives these answers, one after another, and the requests that it saw."""
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        given = answers[len(seen) - 1]
        if isinstance(given, httpx.TransportError):
            raise given
        return httpx.Response(given.status_code, headers=given.headers, content=given.content)

    return httpx.MockTransport(answer), seen


def refused(status: int, **headers: str) -> httpx.Response:
    error = {"error": {"message": "later", "code": "busy", "param": None}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return httpx.Response(status, json=error, headers=named)


ACCEPTED = {"id": "fb-1", "status": "accepted"}


def test_a_retry_has_the_same_key_and_another_vote_another() -> None:
    first = [httpx.ReadTimeout("too slow"), refused(409, retry_after="0"), refused(429, retry_after_ms="1")]
    answers = [*first, refused(503, retry_after="0"), *(httpx.Response(202, json=ACCEPTED) for _ in range(2))]
    for kind in (httpx.Client, httpx.AsyncClient):
        handler, seen = transport(*answers)
        http = kind(transport=handler)
        if isinstance(http, httpx.Client):
            hearken = Hearken("http://service", "hk-1", retries=4, http_client=http)
            assert hearken.feedback("chatcmpl-1").up() == ACCEPTED
            assert hearken.feedback("chatcmpl-1").down() == ACCEPTED
        else:
            waiting = AsyncHearken("http://service", "hk-1", retries=4, http_client=http)

            async def both(waiting: AsyncHearken = waiting) -> None:
                assert await waiting.feedback("chatcmpl-1").up() == ACCEPTED
                assert await waiting.feedback("chatcmpl-1").down() == ACCEPTED

            asyncio.run(both())
        keys = [request.headers["idempotency-key"] for request in seen]
        assert len(set(keys[:5])) == 1
        assert keys[5] != keys[0]
        assert {request.headers["authorization"] for request in seen} == {"Bearer hk-1"}


@pytest.mark.parametrize(
    ("answer", "wait"),
    [
        (refused(400), None),
        (refused(409), None),
        (refused(401), None),
        (refused(429, retry_after="900"), 900),
    ],
)
def test_what_no_retry_mends_is_told_at_once(answer: httpx.Response, wait: float | None) -> None:
    handler, seen = transport(answer)
    hearken = Hearken("http://service", http_client=httpx.Client(transport=handler))
    with pytest.raises(FeedbackError, match="later") as caught:
        hearken.feedback("chatcmpl-1").up()
    assert len(seen) == 1
    assert (caught.value.status, caught.value.code) == (answer.status_code, "busy")
    assert caught.value.retry_after == wait


def test_address_and_key_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="neither base_url nor \\$HEARKEN_BASE_URL"):
        Hearken()
    monkeypatch.setenv("HEARKEN_BASE_URL", "http://service/v1/")
    monkeypatch.setenv("HEARKEN_API_KEY", "hk-env")
    handler, seen = transport(*(httpx.Response(202, json=ACCEPTED) for _ in range(2)))
    http = httpx.Client(transport=handler)
    Hearken(http_client=http).feedback("chatcmpl-1").up()
    Hearken("https://other", "hk-2", http_client=http).feedback("chatcmpl-1").up()
    told = [(str(request.url), request.headers["authorization"]) for request in seen]
    assert told == [
        ("http://service/v1/feedback", "Bearer hk-env"),
        ("https://other/v1/feedback", "Bearer hk-2"),
    ]
    with pytest.raises(ValueError, match="'service'"):
        Hearken("service")


@pytest.mark.parametrize("answer", [None, 7, {"object": "chat.completion"}, {"message": "hi"}])
def test_what_has_no_id_is_refused_before_it_is_sent(answer: object) -> None:
    with pytest.raises(TypeError, match="give its id"):
        Hearken("http://service").feedback(answer)


def test_pieces_of_a_batch_fit_into_a_request() -> None:
    votes = [{"kind": "comment", "completion_id": "chatcmpl-1", "text": "x" * 90_000} for _ in range(60)]
    pieces = list(batches(votes))
    assert [vote for piece in pieces for vote in piece] == votes
    assert 1 < len(pieces) < 4
    assert max(sum(len(vote["text"]) for vote in piece) for piece in pieces) < MOST_BYTES
    assert [len(piece) for piece in batches([{"kind": "thumbs"}] * 2001)] == [1000, 1000, 1]


def test_the_import_brings_nothing_of_the_service() -> None:
    code = "import sys, hearken.client; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    brought = set(done.stdout.split())
    assert "httpx" in brought
    assert not brought & {
        "torch",
        "fastapi",
        "starlette",
        "pydantic",
        "numpy",
        "serve",
        "learner",
        "feedback",
    }


WRONG = """
from hearken.client import AsyncHearken, Hearken

hearken = Hearken("http://service")
given = hearken.feedback("chatcmpl-1").up(reason="helpful")
given["id"].upper()
hearken.feedback("chatcmpl-1").up(reson="helpful")
hearken.feedback("chatcmpl-1").rate("five")
hearken.compare("chatcmpl-1", "chatcmpl-2", "left")


async def story(waiting: AsyncHearken) -> None:
    later = waiting.feedback("chatcmpl-1").up()
    later["id"]
    (await later)["id"].upper()
"""


def test_types_hold_for_the_example_and_find_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(WRONG)
    mypy = [sys.executable, "-m", "mypy", "--strict", "--config-file=", f"--cache-dir={tmp_path / 'cache'}"]
    done = subprocess.run(
        [*mypy, "examples/thumbs.py", file], cwd=ROOT, capture_output=True, text=True, check=False
    )
    wrong = [line for line in done.stdout.splitlines() if ": error:" in line]
    assert all(line.startswith(str(file)) for line in wrong), done.stdout
    assert {int(line.split(":")[1]) for line in wrong} == {7, 8, 9, 14}, done.stdout + done.stderr
