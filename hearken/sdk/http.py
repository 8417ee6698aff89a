"""What the Python client decides without a connection: where the service is, what is sent again, errors."""

import json
import os
import random
import uuid
from collections.abc import Iterable, Iterator

import httpx

from hearken.sdk.votes import Vote

URL_VARIABLE, KEY_VARIABLE = "HEARKEN_BASE_URL", "HEARKEN_API_KEY"
LONGEST_WAIT_SECONDS = 30.0
MOST_VOTES = 1000  # of one request
MOST_BYTES = 3 * 1024 * 1024  # of one request's votes; a gateway takes 4 MiB unless it was told otherwise
_LATER = frozenset({408, 429})


class FeedbackError(Exception):
    """The service refused, or did not answer (`status` 0).

    message: the service's own. code: a stable word for programs. param: the field at fault. retry_after:
    seconds after which the service wants to be asked again, if it said so.
    """

    def __init__(
        self,
        status: int,
        message: str,
        code: str | None = None,
        param: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(f"{status} {message}" if status else message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_after = retry_after


def access(base_url: object, api_key: str | None) -> tuple[str, dict[str, str]]:
    """The service's URL without /v1, and the headers of every request.

    What is None comes from the environment. Raises ValueError where no URL is known.
    """
    url = str(base_url if base_url is not None else os.environ.get(URL_VARIABLE, ""))
    if not url.startswith(("http://", "https://")):
        said = f"base_url is {url!r}" if url else f"neither base_url nor ${URL_VARIABLE} is there"
        raise ValueError(f"{said}; give the service's URL, like https://chat.example.com/v1")
    key = api_key if api_key is not None else os.environ.get(KEY_VARIABLE)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    return url.rstrip("/").removesuffix("/v1"), headers


def headers_of(method: str) -> dict[str, str]:
    """What a request is known by when it is sent again: the same key gets the same answer."""
    return {"idempotency-key": str(uuid.uuid4())} if method == "POST" else {}


def wait_or_raise(
    answer: httpx.Response | httpx.TransportError, url: str, attempt: int, retries: int
) -> float:
    """Seconds to wait before a request that failed is sent again. Raises FeedbackError where it is not.

    attempt: how often it was sent again already, of `retries`. The service says how long to wait; else each
    pause is twice as long as the one before. Who gets the error waits by themselves where that is longer than
    `LONGEST_WAIT_SECONDS`.
    """
    if isinstance(answer, httpx.TransportError):
        if attempt >= retries:
            said = str(answer) or type(answer).__name__
            raise FeedbackError(0, f"{url} does not answer: {said}") from answer
        return _pause(attempt)
    wanted = _retry_after(answer)
    still_running = answer.status_code == 409 and wanted is not None
    later = answer.status_code >= 500 or answer.status_code in _LATER or still_running
    if attempt >= retries or not later or (wanted or 0.0) > LONGEST_WAIT_SECONDS:
        raise _refusal(answer, wanted)
    return _pause(attempt) if wanted is None else wanted


def _pause(attempt: int) -> float:
    return float(min(0.25 * 2**attempt, 8.0) * random.uniform(0.75, 1.25))


def _retry_after(answer: httpx.Response) -> float | None:
    """Seconds that an answer asks to wait, or None."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        text = answer.headers.get(name, "")
        if text.isdecimal():
            return float(text) / unit
    return None


def _refusal(answer: httpx.Response, wait: float | None) -> FeedbackError:
    """The error that an answer is."""
    status = answer.status_code
    try:
        error = answer.json()["error"]
        return FeedbackError(status, error["message"], error.get("code"), error.get("param"), wait)
    except (ValueError, KeyError, TypeError, AttributeError):
        return FeedbackError(status, answer.text[:300] or "no message", retry_after=wait)


def batches(votes: Iterable[Vote]) -> Iterator[list[Vote]]:
    """Votes in pieces that one request may have, by number and bytes; one vote is never divided."""
    piece: list[Vote] = []
    size = 0
    for vote in votes:
        length = len(json.dumps(vote)) + 2
        if piece and (len(piece) == MOST_VOTES or size + length > MOST_BYTES):
            yield piece
            piece, size = [], 0
        piece.append(vote)
        size += length
    if piece:
        yield piece
