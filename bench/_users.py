"""Simulated users for a benchmark: each asks one question, streamed, and some vote on the answer.

They judge an answer by its text alone, as people do: who serves it is not told to them.
"""

import asyncio
import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import orjson

from bench._words import ANSWER_TOKENS, QUESTIONS

_JSON = {"content-type": "application/json"}
_VOTING = 3  # every so many users


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer. Times are Unix times in seconds; `first` is that of the first text. `error`: it failed."""

    question: int
    started: float
    first: float
    ended: float
    completion_id: str = ""
    text: str = ""
    error: str | None = None


def chat(question: int) -> dict[str, Any]:
    """The request for an answer that the weights alone decide."""
    return {
        "messages": [{"role": "user", "content": QUESTIONS[question]}],
        "max_tokens": ANSWER_TOKENS,
        "temperature": 0,
        "ignore_eos": True,
    }


@dataclass(slots=True)
class Users:
    """`streams` users at any time, one after the other, until told to stop. `likes(text)`: their taste."""

    url: str
    streams: int
    likes: Callable[[str], bool]
    replies: list[Reply] = field(default_factory=list)
    warmed_up: int = 0  # how many replies came before the load was steady
    votes: int = 0
    refused_votes: int = 0
    _last: float = float("inf")  # how many come
    _number: "itertools.count[int]" = field(default_factory=itertools.count)

    async def come(self) -> None:
        """Let them chat. An answer that fails is a reply with an error; nothing is asked twice."""
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(connector=connector) as http, asyncio.TaskGroup() as group:
            for _ in range(self.streams):
                group.create_task(self._one_after_the_other(http))

    def stop_after(self, requests: int) -> None:
        """Let no more users come than these; those who are there get their answers."""
        self._last = requests

    async def _one_after_the_other(self, http: aiohttp.ClientSession) -> None:
        while (number := next(self._number)) < self._last:
            user = f"user-{number}"
            reply = await self._ask(http, user, number % len(QUESTIONS))
            self.replies.append(reply)
            if reply.error is None and number % _VOTING == 0:
                await self._vote(http, user, reply)

    async def _ask(self, http: aiohttp.ClientSession, user: str, question: int) -> Reply:
        body = orjson.dumps({**chat(question), "model": "hearken", "stream": True, "user": user})
        started = first = time.time()
        events, failure = bytearray(), None
        try:
            async with http.post(self.url + "/v1/chat/completions", data=body, headers=_JSON) as response:
                async for data in response.content.iter_any():
                    if first == started and b'"content":"' in data.replace(b'"content":""', b""):
                        first = time.time()
                    events += data
            if response.status != 200 or not events.endswith(b"data: [DONE]\n\n") or b'"error"' in events:
                failure = f"{response.status} {events[-500:].decode(errors='replace')}"
        except (aiohttp.ClientError, TimeoutError) as error:
            failure = repr(error)
        ended = time.time()
        if failure is not None:
            return Reply(question, started, first, ended, error=failure)
        chunks = [orjson.loads(line[6:]) for line in events.split(b"\n\n")[:-2]]
        text = "".join(choice["delta"].get("content") or "" for c in chunks for choice in c["choices"])
        return Reply(question, started, first, ended, chunks[0]["id"], text)

    async def _vote(self, http: aiohttp.ClientSession, user: str, reply: Reply) -> None:
        value = "up" if self.likes(reply.text) else "down"
        vote = {"kind": "thumbs", "completion_id": reply.completion_id, "value": value, "user": user}
        async with http.post(self.url + "/v1/feedback", data=orjson.dumps(vote), headers=_JSON) as response:
            self.votes += 1
            self.refused_votes += response.status != 202
