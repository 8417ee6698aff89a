"""/v1/releases/stream: what operators watch, who may, how many, and how a stream ends."""

import asyncio
import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.types import Message

from feedback.shared import SqliteStore
from feedback.sqlite.log import SqliteLog
from serve.releases.watching import MOST, Watching
from tests.deploy.world import World, controlled
from tests.serve.conftest import Gateway, Start, eventually, serving
from tests.serve.fake_vllm import FakeVllm
from tests.serve.test_access import add_key, bearer, revoke_all
from tests.serve.test_releases import act, started

STREAM = "/v1/releases/stream"
Json = dict[str, Any]


def events(answer: httpx.Response) -> Iterator[Any]:
    """The events of a stream, "[DONE]" too."""
    for line in answer.iter_lines():
        if line.startswith("data: "):
            data = line.removeprefix("data: ")
            yield data if data == "[DONE]" else json.loads(data)


def releases(told: Iterator[Any]) -> Iterator[Any]:
    return (each for each in told if each["object"] == "release")


def test_releases_are_told_as_they_change_and_each_decision_once(gateway: Gateway, world: World) -> None:
    with controlled(world):
        version = started(world)
        asked = gateway.http.get("/v1/releases").json()
        with gateway.http.stream("GET", STREAM) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            told = releases(events(answer))
            first = next(told)
            assert first["history"] == asked["history"]
            assert (first["state"]["stage"], first["state"]["canary"]) == ("canary", version)
            assert next(told)["history"]["data"] == []
            assert act(gateway, "pause").status_code == 200
            later = next(each for each in told if each["state"]["paused"])
            assert [each["outcome"] for each in later["history"]["data"]] == ["paused"]
            assert next(told)["history"]["data"] == []


def test_learning_is_told_beside_them(gateway: Gateway) -> None:
    with gateway.http.stream("GET", STREAM) as answer:
        told = next(each for each in events(answer) if each["object"] == "learning")
    assert told["sentence"] == gateway.http.get("/v1/learning").json()["sentence"]


def test_only_an_operator_watches_and_only_while_their_key_counts(start: Start, tmp_path: Path) -> None:
    file = tmp_path / "keys.json"
    keys = {scope: add_key(file, [scope]) for scope in ("chat", "operate")}
    gateway = start()
    assert gateway.http.get(STREAM).status_code == 401
    assert gateway.http.get(STREAM, headers=bearer(keys["chat"])).status_code == 403
    with gateway.http.stream("GET", STREAM, headers=bearer(keys["operate"])) as answer:
        told = events(answer)
        next(told)
        revoke_all(file)
        *_, last = told
    assert last["error"]["code"] == "invalid_api_key"


def test_no_more_than_so_many_watch(gateway: Gateway) -> None:
    with contextlib.ExitStack() as watched:
        answers = [watched.enter_context(gateway.http.stream("GET", STREAM)) for _ in range(MOST)]
        assert {answer.status_code for answer in answers} == {200}
        with gateway.http.stream("GET", STREAM) as one_more:
            one_more.read()
        assert (one_more.status_code, one_more.json()["error"]["code"]) == (503, "too_many_watch")
        answers[0].close()

        def accepted() -> bool:
            with gateway.http.stream("GET", STREAM) as again:
                return again.status_code == 200

        eventually(accepted, "there is room again")


def test_a_gateway_that_stops_ends_its_streams(tmp_path: Path, fake: FakeVllm) -> None:
    log, store = SqliteLog(tmp_path / "log.db"), SqliteStore(tmp_path / "shared.db")
    with contextlib.ExitStack() as open_still, contextlib.closing(log), contextlib.closing(store):
        with serving(tmp_path, log, store, (fake.url,)) as gateway:
            client = open_still.enter_context(httpx.Client(base_url=gateway.url, timeout=30))
            told = events(open_still.enter_context(client.stream("GET", STREAM)))
            next(told)
        *_, last = told  # the gateway has ended, in its time
        assert last == "[DONE]"


class _Board:
    """Releases of which nothing is to be told."""

    async def release(self, limit: int, before: int | None = None, after: int = 0) -> Json:
        return {"object": "release", "history": {"data": []}}

    async def learning(self) -> Json:
        return {"object": "learning"}


class _Operators:
    """Lets everybody in."""

    async def enter(self, request: object) -> None:
        pass

    def look_again(self, request: object) -> None:
        pass


def made(**bounds: Any) -> Starlette:
    """An application that has streams and nothing else."""
    watching = Watching(_Board(), _Operators(), asyncio.Event(), **bounds)  # type: ignore[arg-type]
    return Starlette(routes=watching.routes)


def test_a_stream_ends_after_its_time_and_another_may_be_opened() -> None:
    async def story() -> str:
        transport = httpx.ASGITransport(made(longest_seconds=0.5))
        async with httpx.AsyncClient(transport=transport, base_url="http://gateway") as client:
            return (await client.get(STREAM)).text

    told = asyncio.run(story())
    assert '"learning"' in told
    assert told.endswith("data: [DONE]\n\n")


@pytest.mark.parametrize("after", [1, 3])
def test_a_reader_that_stopped_keeps_its_place_only_until_it_is_cut(after: int) -> None:
    """The server cuts a connection whose reader stopped (tests/serve/test_bounds.py); here it is played."""
    scope = {"type": "http", "method": "GET", "path": STREAM, "headers": [], "query_string": b""}

    async def story() -> list[Message]:
        app, cut = made(most=1), asyncio.Event()
        stalled, sent = asyncio.Event(), []

        async def receive() -> Message:
            await cut.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            sent.append(message)
            if len(sent) > after:
                stalled.set()
                await asyncio.Event().wait()

        one = asyncio.create_task(app(scope, receive, send))
        await stalled.wait()
        cut.set()
        await one
        answers: list[Message] = []

        async def take(message: Message) -> None:
            answers.append(message)
            if len(answers) == 2:
                cut.set()

        cut.clear()
        await app(scope, receive, take)
        return answers

    answers = asyncio.run(asyncio.wait_for(story(), 30))
    assert answers[0]["status"] == 200
    assert b'"release"' in answers[1]["body"]
