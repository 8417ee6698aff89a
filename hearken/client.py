"""A client for sending feedback from Python.

    from hearken.client import FeedbackClient, comparison, thumbs

    with FeedbackClient("https://chat.example.com", api_key="hk-..") as client:
        receipt = client.send(thumbs(completion.id, "down", reasons=["incomplete"], user="ada"))
        client.retract(receipt["id"])

A vote is a plain dict, made by the functions here, which know the fields. Sending is safe to repeat: a vote
that is sent again is the same vote, and each request carries an idempotency key of its own.
"""

import random
import time
import uuid
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import Any, Literal, Self
from urllib.parse import urlencode

import httpx

Vote = dict[str, Any]
Json = dict[str, Any]

MOST_VOTES = 1000  # of one request
_LATER = (429, 502, 503, 504)


class FeedbackError(Exception):
    """The service refused, or did not answer (`status` 0). `param` names the field at fault."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(f"{status} {message}" if status else message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param


# Votes. `about` is a completion's id, or {"external_id": ..} or {"episode_id": ..}. `common` fields of all
# kinds: user, reasons, tags, comment, source, weight, occurred_at, metadata, dry_run.


def thumbs(about: str | Json, value: Literal["up", "down"], **common: Any) -> Vote:
    """A thumb up or down."""
    return {"kind": "thumbs", "value": value, **_about(about), **common}


def rating(about: str | Json, value: float, scale: tuple[float, float] = (1, 5), **common: Any) -> Vote:
    """A number on a scale."""
    return {"kind": "rating", "value": value, "scale": list(scale), **_about(about), **common}


def comparison(a: str, b: str, preferred: Literal["a", "b", "tie", "both_bad"], **common: Any) -> Vote:
    """Which of two completions is better."""
    return {"kind": "comparison", "a": a, "b": b, "preferred": preferred, **common}


def ranking(groups: Sequence[Sequence[str | Json]], **common: Any) -> Vote:
    """Completions in order, the best group first; those of one group are equally good."""
    return {"kind": "ranking", "groups": [list(group) for group in groups], **common}


def correction(about: str | Json, text: str, **common: Any) -> Vote:
    """What an answer should have been."""
    return {"kind": "correction", "text": text, **_about(about), **common}


def comment(about: str | Json, text: str, **common: Any) -> Vote:
    """Words about an answer."""
    return {"kind": "comment", "text": text, **_about(about), **common}


def metric(about: str | Json, name: str, value: float | bool, **common: Any) -> Vote:
    """An outcome that was measured later, by its name."""
    return {"kind": "metric", "name": name, "value": value, **_about(about), **common}


def signal(about: str | Json, name: str, value: float | bool = True, **common: Any) -> Vote:
    """What somebody did with an answer; `value` False: it was shown, and they did not. shown=False among
    `common`: it was not even shown."""
    said = {} if common.get("shown") is False else {"value": value}
    return {"kind": "signal", "name": name, **said, **_about(about), **common}


def regenerated(new: str, old: str, kept: Literal["new", "old"] | None = None, **common: Any) -> Vote:
    """An answer that was generated anew in place of another, and which of both the person went on with; send
    it again once that is known."""
    linked = {"completion_id": new, "regeneration_of": old, "kept": kept}
    return {"kind": "signal", "name": "regenerated", **linked, **common}


def _about(about: str | Json) -> Json:
    return {"completion_id": about} if isinstance(about, str) else about


class FeedbackClient:
    """Sends votes. `retries`: how often to send again what may succeed later. `timeout` in seconds."""

    def __init__(
        self, url: str, api_key: str | None = None, *, retries: int = 3, timeout: float = 10.0
    ) -> None:
        headers = {} if api_key is None else {"authorization": f"Bearer {api_key}"}
        self._http = httpx.Client(
            base_url=url.rstrip("/").removesuffix("/v1"), headers=headers, timeout=timeout
        )
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def send(self, vote: Vote) -> Json:
        """Send one vote; the answer, {"id": .., "status": "accepted"}, comes when it is durable."""
        answer: Json = self._request("POST", "/v1/feedback", vote).json()
        return answer

    def send_many(self, votes: Iterable[Vote]) -> list[Json]:
        """Send many votes; an answer for each, in order: one that was refused has an "error" and no id."""
        every, answers = list(votes), []
        for start in range(0, len(every), MOST_VOTES):
            answers += self._request("POST", "/v1/feedback", every[start : start + MOST_VOTES]).json()[
                "results"
            ]
        return answers

    def receipt(self, feedback_id: str) -> Json:
        """What became of a vote."""
        answer: Json = self._request("GET", f"/v1/feedback/{feedback_id}").json()
        return answer

    def retract(self, feedback_id: str, user: str | None = None) -> None:
        """Take a vote back. `user`: who voted; needed for a vote that was sent with another key."""
        query = "" if user is None else "?" + urlencode({"user": user})
        self._request("DELETE", f"/v1/feedback/{feedback_id}{query}")

    def _request(self, method: str, path: str, body: object = None) -> httpx.Response:
        """Raises FeedbackError when the service refuses, or does not answer after all retries."""
        headers = {"idempotency-key": str(uuid.uuid4())} if method == "POST" else {}
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                answer = self._http.request(method, path, json=body, headers=headers)
            except httpx.TransportError as error:
                if last:
                    raise FeedbackError(0, f"{self._http.base_url} does not answer: {error}") from error
                time.sleep(_pause(attempt, None))
                continue
            if answer.status_code < 400:
                return answer
            if last or answer.status_code not in _LATER:
                raise _refusal(answer)
            time.sleep(_pause(attempt, answer.headers.get("retry-after")))
        raise AssertionError("every attempt returns, raises or is followed by another")


def _pause(attempt: int, retry_after: str | None) -> float:
    """Seconds before the next attempt: what the service asks for, else longer every time."""
    if retry_after is not None and retry_after.isdecimal():
        return min(float(retry_after), 30.0)
    return float(min(0.25 * 2**attempt, 8.0) * random.uniform(0.75, 1.25))


def _refusal(answer: httpx.Response) -> FeedbackError:
    try:
        error = answer.json()["error"]
        return FeedbackError(answer.status_code, error["message"], error.get("code"), error.get("param"))
    except (ValueError, KeyError, TypeError):
        return FeedbackError(answer.status_code, answer.text[:300])
