"""A client for feedback from Python, to use beside an OpenAI client.

    from hearken.client import Hearken

    hearken = Hearken(base_url="https://chat.example.com/v1", api_key="hk-..")
    vote = hearken.feedback(answer).down(reason="incomplete", user="ada")
    hearken.retract(vote)

`AsyncHearken` has the same methods to await. Sending is safe to repeat: a vote that is sent again is the same
vote, and each request carries an idempotency key of its own. Every method raises `FeedbackError` when the
service refuses, or does not answer after all retries.
"""

import asyncio
import time
from collections.abc import Awaitable, Iterable, Sequence
from itertools import count
from types import TracebackType
from typing import Any, Literal, Self, TypedDict, Unpack
from urllib.parse import quote, urlencode

import httpx

from hearken.sdk.feedback import Feedback
from hearken.sdk.http import FeedbackError, access, batches, headers_of, wait_or_raise
from hearken.sdk.votes import (
    Common,
    Json,
    Preferred,
    Vote,
    comment,
    comparison,
    correction,
    metric,
    ranking,
    rating,
    regenerated,
    signal,
    target,
    thumbs,
    token_of,
)

__all__ = [
    "Accepted",
    "AsyncHearken",
    "Feedback",
    "FeedbackClient",
    "FeedbackError",
    "Hearken",
    "Receipt",
    "Vote",
    "comment",
    "comparison",
    "correction",
    "metric",
    "ranking",
    "rating",
    "regenerated",
    "signal",
    "thumbs",
]

_FEEDBACK = "/v1/feedback"
Presented = tuple[Literal["a", "b"], Literal["a", "b"]]


class Accepted(TypedDict):
    """A vote that is durable; `id` is for its receipt and for taking it back."""

    id: str
    status: str


class Receipt(TypedDict):
    """What became of a vote; docs/feedback.md says what each field means."""

    id: str
    object: str
    kind: str
    status: str
    reason: str | None
    sentence: str
    policy: Json | None
    created: float
    updated: float
    revisions: int
    targets: list[Json]
    updates: list[Json]
    policies: list[Json]


class Hearken:
    """Sends votes, and asks what became of them.

    base_url: the service's, as the OpenAI client has it; without it $HEARKEN_BASE_URL. api_key: one with the
    scope `feedback`; without it $HEARKEN_API_KEY, and none is fine for a service without keys. retries: how
    often to send again what may succeed later. timeout: seconds for each try. http_client: for proxies and
    certificates of your own; it stays yours to close. Raises ValueError where no URL is known.
    """

    def __init__(
        self,
        base_url: str | httpx.URL | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        timeout: float = 10.0,
        http_client: httpx.Client | None = None,
    ) -> None:
        self._url, self._headers = access(base_url, api_key)
        self._http = http_client or httpx.Client()
        self._is_own = http_client is None
        self._retries = retries
        self._timeout = timeout

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        if self._is_own:
            self._http.close()

    def feedback(
        self, answer: object, *, choice: int | None = None, user: str | None = None
    ) -> Feedback[Accepted]:
        """What can be said about an answer.

        answer: an id, an answer of an OpenAI, Anthropic or LangChain client, a chunk of its stream, or
        {"external_id": ..}, {"episode_id": ..}. choice: which of several answers to one request. user: who
        votes. Raises TypeError for what has no id.
        """
        return Feedback(self.send, target(answer, choice), token_of(answer), user)

    def compare(
        self,
        a: object,
        b: object,
        preferred: Preferred,
        presented: Presented | None = None,
        **common: Unpack[Common],
    ) -> Accepted:
        """Which of two answers is better. presented: the order in which they were shown."""
        return self.send(comparison(a, b, preferred, presented, **common))

    def rank(self, groups: Sequence[object], **common: Unpack[Common]) -> Accepted:
        """Answers in order, the best first; those in a list of their own are equally good."""
        return self.send(ranking(_groups(groups), **common))

    def send(self, vote: Vote) -> Accepted:
        """Send one vote; the answer comes when it is durable."""
        answer: Accepted = self._request("POST", _FEEDBACK, vote).json()
        return answer

    def send_many(self, votes: Iterable[Vote]) -> list[Json]:
        """Send many votes; an answer for each, in order: one that was refused has an "error" and no id.

        They go in several requests where one may not have them all. When it raises, some may be durable: send
        all again, a vote that is there counts once.
        """
        answers: list[Json] = []
        for piece in batches(votes):
            answers += self._request("POST", _FEEDBACK, piece).json()["results"]
        return answers

    def receipt(self, vote: Accepted | str) -> Receipt:
        """What became of a vote."""
        answer: Receipt = self._request("GET", _path(vote)).json()
        return answer

    def retract(self, vote: Accepted | str, user: str | None = None) -> None:
        """Take a vote back. user: who voted; needed for a vote that was sent with another key."""
        self._request("DELETE", _path(vote, user))

    def _request(self, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {**self._headers, **headers_of(method)}
        options: Json = {"json": body, "headers": headers, "timeout": self._timeout}
        for attempt in count():
            try:
                answer: httpx.Response | httpx.TransportError = self._http.request(
                    method, self._url + path, **options
                )
            except httpx.TransportError as error:
                answer = error
            if isinstance(answer, httpx.Response) and answer.is_success:
                return answer
            time.sleep(wait_or_raise(answer, self._url, attempt, self._retries))
        raise AssertionError("every attempt returns, raises or is followed by another")


class AsyncHearken:
    """`Hearken` for asyncio: the same arguments and methods, whose results are awaited."""

    def __init__(
        self,
        base_url: str | httpx.URL | None = None,
        api_key: str | None = None,
        *,
        retries: int = 3,
        timeout: float = 10.0,
        http_client: httpx.AsyncClient | None = None,
    ) -> None:
        self._url, self._headers = access(base_url, api_key)
        self._http = http_client or httpx.AsyncClient()
        self._is_own = http_client is None
        self._retries = retries
        self._timeout = timeout

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        if self._is_own:
            await self._http.aclose()

    def feedback(
        self, answer: object, *, choice: int | None = None, user: str | None = None
    ) -> Feedback[Awaitable[Accepted]]:
        """What can be said about an answer; see `Hearken.feedback`."""
        return Feedback(self.send, target(answer, choice), token_of(answer), user)

    async def compare(
        self,
        a: object,
        b: object,
        preferred: Preferred,
        presented: Presented | None = None,
        **common: Unpack[Common],
    ) -> Accepted:
        """Which of two answers is better; see `Hearken.compare`."""
        return await self.send(comparison(a, b, preferred, presented, **common))

    async def rank(self, groups: Sequence[object], **common: Unpack[Common]) -> Accepted:
        """Answers in order; see `Hearken.rank`."""
        return await self.send(ranking(_groups(groups), **common))

    async def send(self, vote: Vote) -> Accepted:
        """Send one vote; the answer comes when it is durable."""
        answer: Accepted = (await self._request("POST", _FEEDBACK, vote)).json()
        return answer

    async def send_many(self, votes: Iterable[Vote]) -> list[Json]:
        """Send many votes; see `Hearken.send_many`."""
        answers: list[Json] = []
        for piece in batches(votes):
            answers += (await self._request("POST", _FEEDBACK, piece)).json()["results"]
        return answers

    async def receipt(self, vote: Accepted | str) -> Receipt:
        """What became of a vote."""
        answer: Receipt = (await self._request("GET", _path(vote))).json()
        return answer

    async def retract(self, vote: Accepted | str, user: str | None = None) -> None:
        """Take a vote back; see `Hearken.retract`."""
        await self._request("DELETE", _path(vote, user))

    async def _request(self, method: str, path: str, body: object = None) -> httpx.Response:
        headers = {**self._headers, **headers_of(method)}
        options: Json = {"json": body, "headers": headers, "timeout": self._timeout}
        for attempt in count():
            try:
                answer: httpx.Response | httpx.TransportError = await self._http.request(
                    method, self._url + path, **options
                )
            except httpx.TransportError as error:
                answer = error
            if isinstance(answer, httpx.Response) and answer.is_success:
                return answer
            await asyncio.sleep(wait_or_raise(answer, self._url, attempt, self._retries))
        raise AssertionError("every attempt returns, raises or is followed by another")


def _path(vote: Accepted | str, user: str | None = None) -> str:
    """The path of a vote."""
    name = vote if isinstance(vote, str) else vote["id"]
    query = "" if user is None else "?" + urlencode({"user": user})
    return f"{_FEEDBACK}/{quote(name, safe='')}{query}"


def _groups(groups: Sequence[object]) -> list[list[Any]]:
    """Groups of answers; one that stands for itself is a group of one."""
    return [list(each) if isinstance(each, list | tuple) else [each] for each in groups]


FeedbackClient = Hearken
"""The name that the client had in 0.1.0."""
