"""Simulated users against a real HTTP server that keeps its own account of what they did."""

import asyncio
import dataclasses
import random
import socket
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import orjson
import pytest
from aiohttp import web

from hearken.demo.demo import load_persona
from hearken.demo.persona import Persona
from hearken.demo.simulate import Crowd, CrowdThread, SimulatedUsers
from hearken.demo.worlds import EVERYDAY
from hearken.models.support_desk import prompts

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
ANSWERS = ("I am happy to help you. Your parcel is on its way.", "That is not my problem.")


class Gateway:
    """A small service with the gateway's API. `broken`: what goes wrong on every third chat."""

    def __init__(self, broken: str | None = None) -> None:
        self.broken = broken
        self.chats: list[dict[str, Any]] = []
        self.votes: list[dict[str, Any]] = []
        self.good: dict[str, str] = {}  # completion id -> answer
        self.failed = 0
        self.enough = asyncio.Event()
        self._rng = random.Random(1)

    def _begin(self, body: dict[str, Any]) -> bool:
        """Count a chat; whether it is to go wrong."""
        self.chats.append(body)
        if len(self.chats) >= 60:
            self.enough.set()
        bad = self.broken is not None and len(self.chats) % 3 == 0
        self.failed += bad
        return bad

    def _answer(self) -> dict[str, Any]:
        completion_id = f"chatcmpl-{len(self.good)}"
        text = self.good[completion_id] = self._rng.choice(ANSWERS)
        return {"id": completion_id, "choices": [{"index": 0, "message": {"content": text}}]}

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        bad = self._begin(body)
        if bad and self.broken == "503":
            return web.json_response({"error": {"message": "away"}}, status=503)
        if not body.get("stream"):
            if bad:
                return web.Response(body=b"not json")
            return web.json_response(self._answer())
        return await self._stream(request, bad)

    async def _stream(self, request: web.Request, bad: bool) -> web.StreamResponse:
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        answer = self._answer()
        for word in self.good[answer["id"]].split(" "):
            delta = [{"index": 0, "delta": {"content": word + " "}}]
            event = {"id": answer["id"], "choices": delta}
            await response.write(b"data: " + orjson.dumps(event) + b"\n\n")
            if bad and self.broken == "cut":
                return response
        if bad:
            await response.write(b'data: {"error": {"message": "the engine died"}}\n\n')
        await response.write(b"data: [DONE]\n\n")
        return response

    async def compare(self, request: web.Request) -> web.StreamResponse:
        if self._begin(await request.json()):
            return web.json_response({"error": {"message": "away"}}, status=503)
        return web.json_response({"id": "cmp-1", "a": self._answer(), "b": self._answer()})

    async def feedback(self, request: web.Request) -> web.StreamResponse:
        self.votes.append(await request.json())
        return web.json_response({"id": f"fb-{len(self.votes)}", "status": "accepted"}, status=202)


@asynccontextmanager
async def serving(gateway: Gateway) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", gateway.chat)
    app.router.add_post("/v1/comparisons", gateway.compare)
    app.router.add_post("/v1/feedback", gateway.feedback)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
def persona() -> Persona:
    return load_persona("friendly")


async def visit(gateway: Gateway, persona: Persona, **crowd: Any) -> SimulatedUsers:
    """A crowd at work until the gateway has seen enough."""
    settings = Crowd(**{"think_seconds": 0.0, "questions": 50, **crowd})
    async with serving(gateway) as url:
        users = SimulatedUsers(url, persona, 0.0, settings)
        stopping = asyncio.Event()
        running = asyncio.create_task(users.run(stopping))
        async with asyncio.timeout(60):
            await gateway.enough.wait()
            stopping.set()
            await running
    return users


def test_the_tally_is_what_the_service_saw(persona: Persona) -> None:
    gateway = Gateway()
    users = asyncio.run(visit(gateway, persona))
    tally = users.tally
    assert tally.chat_requests == len(gateway.chats)
    assert (tally.chat_failures, tally.feedback_failures) == (0, 0)
    assert tally.feedback_events == len(gateway.votes) == len(tally.votes)
    assert {vote.event_id for vote in tally.votes} == {f"fb-{i + 1}" for i in range(len(gateway.votes))}
    assert len({body["user"] for body in gateway.chats}) > 20  # many people, not one
    assert {body["messages"][0]["content"] for body in gateway.chats} <= set(prompts(50, 0))
    assert all(body["max_tokens"] == 64 and "temperature" not in body for body in gateway.chats)
    kinds = Counter(vote["kind"] for vote in gateway.votes)
    assert kinds["thumbs"] > 0
    assert kinds["comparison"] > 0
    for vote in gateway.votes:
        targets = [vote["completion_id"]] if vote["kind"] == "thumbs" else [vote["a"], vote["b"]]
        assert all(target in gateway.good for target in targets)


@pytest.mark.parametrize("broken", ["503", "cut", "error"])
def test_every_broken_answer_is_a_failure(broken: str, persona: Persona) -> None:
    gateway = Gateway(broken)
    users = asyncio.run(visit(gateway, persona, concurrency=10))
    assert users.tally.chat_requests == len(gateway.chats)
    assert users.tally.chat_failures == gateway.failed > 0
    assert len(users.tally.failures) == min(gateway.failed, 20)


def test_nobody_there_is_counted_and_does_not_end_the_crowd(persona: Persona) -> None:
    users = CrowdThread(SimulatedUsers("http://127.0.0.1:1", persona, 0.0, Crowd(concurrency=2)))
    users.start()
    while users.tally.chat_failures < 2:
        users._thread.join(0.01)
        assert users.is_there
    users.leave()
    users._thread.join(60)
    users.stop()  # they have left already
    assert users.error is None
    assert users.tally.chat_requests == users.tally.chat_failures


def test_they_vote_by_taste(persona: Persona) -> None:
    gateway = Gateway()
    asyncio.run(visit(gateway, dataclasses.replace(persona, compare_rate=0.0, vote_rate=1.0)))
    thumbs = {vote["completion_id"]: vote["value"] for vote in gateway.votes}
    share = {
        text: sum(v == "up" for c, v in thumbs.items() if gateway.good[c] == text)
        / max(1, sum(gateway.good[c] == text for c in thumbs))
        for text in ANSWERS
    }
    assert share[ANSWERS[0]] > share[ANSWERS[1]] + 0.2


def test_users_come_back_as_themselves_with_one_seed(persona: Persona) -> None:
    first, second = Gateway(), Gateway()
    for gateway in (first, second):
        asyncio.run(visit(gateway, persona, concurrency=1, seed=5))
    keys = [[(b["user"], b["messages"][0]["content"]) for b in g.chats[:50]] for g in (first, second)]
    assert keys[0] == keys[1]


def test_where_no_limit_is_asked_for_answers_end_by_themselves(persona: Persona) -> None:
    gateway = Gateway()
    asyncio.run(visit(gateway, persona, world=EVERYDAY))
    sent = [body["messages"] for body in gateway.chats]
    assert all("max_tokens" not in body for body in gateway.chats)
    assert all(messages in EVERYDAY.prompts(50, 0) for messages in sent)
    assert {"system", "assistant"} <= {message["role"] for messages in sent for message in messages}


def test_a_visit_that_nobody_ends_is_ended(persona: Persona) -> None:
    """A gateway that says nothing: on Ctrl-C nobody wants to wait as patiently as a user would."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        users = CrowdThread(SimulatedUsers(url, persona, 0.0, Crowd(concurrency=3, think_seconds=0.0)))
        users.start()
        silent.accept()[0].close()  # one is turned away, so that there is one at work for sure
        silent.accept()
        users.leave()
        assert users.is_there
        users.stop()
    assert users.error is None
