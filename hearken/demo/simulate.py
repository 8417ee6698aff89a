"""Simulated users: they chat over the public HTTP API, many at a time, and vote by a persona's taste.

They know nothing of policies, arms and versions: only what a browser would see. Every request counts.
A chat has failed when its answer is not a 2xx, or its stream breaks off or carries an error; a 503 that a
patient client would have tried again is a failure too.
"""

import asyncio
import random
import threading
import time
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from hearken.base.conversation import Conversation, last_question
from hearken.demo.persona import Persona
from hearken.demo.worlds import SUPPORT_DESK, World

RETRY_PAUSE_SECONDS = 0.5  # after a failure: a service that is away is not to be hammered


@dataclass(frozen=True, slots=True)
class Crowd:
    """How many they are and how they behave. How often they compare and vote is the persona's to say.

    A visit is a chat (half of them streamed), perhaps with a thumb, or a comparison with a choice.
    """

    users: int = 5000  # each visit is by one of so many, drawn at random
    concurrency: int = 5  # visits at the same time
    think_seconds: float = 0.2  # mean pause between two visits of one place in the crowd
    world: World = SUPPORT_DESK  # what they ask, and how long they wait
    questions: int = 4000  # conversations, begun in turn
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Vote:
    """One vote that the service accepted. `utility`: of the answer, or how much better the first one was."""

    event_id: str
    at: float
    kind: str
    label: str
    utility: float


@dataclass(slots=True)
class Tally:
    """What the crowd has done so far. Chat requests are chats and comparisons."""

    chat_requests: int = 0
    chat_failures: int = 0
    feedback_events: int = 0
    feedback_failures: int = 0
    votes: deque[Vote] = field(default_factory=lambda: deque(maxlen=100_000))
    failures: deque[str] = field(default_factory=lambda: deque(maxlen=20))
    utilities: deque[float] = field(default_factory=lambda: deque(maxlen=400))

    @property
    def recent_utility(self) -> float | None:
        """Mean utility of the last few hundred answers that users got."""
        return sum(self.utilities) / len(self.utilities) if self.utilities else None


class Failed(Exception):
    """A request that did not end well; the message says how."""


class SimulatedUsers:
    """The crowd at work on one gateway. `usual` is the utility at which a thumb is a coin toss."""

    def __init__(self, url: str, persona: Persona, usual: float, crowd: Crowd) -> None:
        self.tally = Tally()
        self._url = url.rstrip("/")
        self._persona = persona
        self._usual = usual
        self._crowd = crowd
        self._rng = random.Random(f"crowd {crowd.seed}")
        self._questions = _in_turn(crowd.world.prompts(crowd.questions, crowd.seed))

    async def run(self, stopping: asyncio.Event) -> None:
        """Visit after visit until `stopping` is set; visits that have begun are finished."""
        timeout = aiohttp.ClientTimeout(total=self._crowd.world.patience_seconds)
        connector = aiohttp.TCPConnector(limit=0)
        async with (
            aiohttp.ClientSession(timeout=timeout, connector=connector) as session,
            asyncio.TaskGroup() as group,
        ):
            for _ in range(self._crowd.concurrency):
                group.create_task(self._place(session, stopping))

    async def _place(self, session: aiohttp.ClientSession, stopping: asyncio.Event) -> None:
        while not stopping.is_set():
            try:
                await self._visit(session)
                pause = self._rng.expovariate(1 / max(self._crowd.think_seconds, 1e-6))
            except (Failed, aiohttp.ClientError, TimeoutError) as failure:
                self.tally.failures.append(f"{type(failure).__name__}: {failure}")
                pause = RETRY_PAUSE_SECONDS
            try:
                await asyncio.wait_for(stopping.wait(), pause)
            except TimeoutError:
                continue

    async def _visit(self, session: aiohttp.ClientSession) -> None:
        user = f"user-{self._rng.randrange(self._crowd.users):05d}"
        conversation = next(self._questions)
        if self._rng.random() < self._persona.compare_rate:
            await self._compare(session, user, conversation)
        else:
            await self._chat(session, user, conversation)

    async def _chat(self, session: aiohttp.ClientSession, user: str, conversation: Conversation) -> None:
        streamed = self._rng.random() < 0.5
        body = self._request(user, conversation)
        self.tally.chat_requests += 1
        try:
            if streamed:
                completion_id, answer = await _streamed(session, self._url, body)
            else:
                whole = await _post(session, f"{self._url}/v1/chat/completions", body)
                completion_id, answer = _completion(whole)
        except (Failed, aiohttp.ClientError, TimeoutError):
            self.tally.chat_failures += 1
            raise
        utility = self._saw(conversation, answer)
        if self._rng.random() < self._persona.vote_rate:
            up = self._persona.thumb_up(utility, self._usual, self._rng)
            label = "up" if up else "down"
            vote = {"kind": "thumbs", "completion_id": completion_id, "value": label, "user": user}
            await self._vote(session, vote, label, utility)

    async def _compare(self, session: aiohttp.ClientSession, user: str, conversation: Conversation) -> None:
        self.tally.chat_requests += 1
        try:
            pair = await _post(session, f"{self._url}/v1/comparisons", self._request(user, conversation))
            (a, first), (b, second) = _completion(pair["a"]), _completion(pair["b"])
        except (Failed, aiohttp.ClientError, TimeoutError):
            self.tally.chat_failures += 1
            raise
        ours, theirs = self._saw(conversation, first), self._saw(conversation, second)
        preferred = self._persona.prefer(ours, theirs, self._rng)
        vote = {"kind": "comparison", "a": a, "b": b, "preferred": preferred, "user": user}
        await self._vote(session, vote, preferred, ours - theirs)

    async def _vote(
        self, session: aiohttp.ClientSession, vote: dict[str, Any], label: str, utility: float
    ) -> None:
        try:
            accepted = await _post(session, f"{self._url}/v1/feedback", vote, expected=202)
        except (Failed, aiohttp.ClientError, TimeoutError):
            self.tally.feedback_failures += 1
            raise
        self.tally.feedback_events += 1
        self.tally.votes.append(Vote(accepted["id"], time.time(), vote["kind"], label, utility))

    def _request(self, user: str, conversation: Conversation) -> dict[str, Any]:
        body = {"model": "hearken", "messages": conversation, "user": user}
        limit = self._crowd.world.max_tokens
        return body if limit is None else body | {"max_tokens": limit}

    def _saw(self, conversation: Conversation, answer: str) -> float:
        utility = self._persona.utility(last_question(conversation), answer)
        self.tally.utilities.append(utility)
        return utility


class CrowdThread:
    """Runs a crowd beside the thread that watches the service."""

    def __init__(self, users: SimulatedUsers) -> None:
        self.tally = users.tally
        self._loop = asyncio.new_event_loop()
        self._stopping = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="simulated-users")
        self._visits = self._loop.create_task(users.run(self._stopping))
        self.error: BaseException | None = None

    @property
    def is_there(self) -> bool:
        """Whether anyone is still at it."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Begin no more visits; those that have begun go on to their end."""
        with suppress(RuntimeError):  # the loop is closed: they have left already
            self._loop.call_soon_threadsafe(self._stopping.set)

    def stop(self) -> None:
        """End all visits now. `error` is what ended the crowd early, if anything did."""
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._visits.cancel)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_until_complete(self._visits)
        except asyncio.CancelledError:  # by `stop`
            pass
        except BaseException as error:  # handed to the thread that asks
            self.error = error
        finally:
            self._loop.close()


def _in_turn(conversations: list[Conversation]) -> Iterator[Conversation]:
    while True:
        yield from conversations


def _completion(answer: Any) -> tuple[str, str]:
    """The id and the text of a whole answer."""
    try:
        return answer["id"], answer["choices"][0]["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        raise Failed(f"an answer without id or text: {str(answer)[:200]}") from error


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any], expected: int = 200) -> Any:
    async with session.post(url, json=body) as response:
        text = await response.read()
        if response.status != expected:
            raise Failed(f"{url} answered {response.status}: {text[:200].decode(errors='replace')}")
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise Failed(f"{url} answered something that is not JSON") from error


async def _streamed(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> tuple[str, str]:
    """The id and the text of a streamed answer. Raises Failed when it does not end with `[DONE]`."""
    completion_id = ""
    parts: list[str] = []
    async with session.post(f"{url}/v1/chat/completions", json={**body, "stream": True}) as response:
        if response.status != 200:
            text = await response.read()
            raise Failed(f"a stream answered {response.status}: {text[:200].decode(errors='replace')}")
        async for line in response.content:
            if not line.startswith(b"data: "):
                continue
            data = line[6:].strip()
            if data == b"[DONE]":
                return completion_id, "".join(parts)
            try:
                chunk = orjson.loads(data)
            except orjson.JSONDecodeError as error:
                raise Failed("a stream broke off within an event") from error
            if "error" in chunk:
                raise Failed(f"a stream broke off: {chunk['error'].get('message')}")
            completion_id = chunk["id"]
            parts += [choice["delta"].get("content") or "" for choice in chunk["choices"]]
    raise Failed("a stream ended without [DONE]")
