"""Where votes are given elsewhere: how each service is asked for them, page by page, and what an error there
means."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx

from feedback.rows.said import Row
from hearken.base.errors import UsageError
from hearken.sdk.http import FeedbackError, wait_or_raise
from hearken.sync import votes as sync_votes

PAGE = 100
RETRIES = 4
TIMEOUT_SECONDS = 60.0

Ask = Callable[[str, Mapping[str, Any]], Any]
"""What a path of the service answers to a query, as JSON. Raises SourceAway, UsageError, and NotThere for a
404."""


class SourceAway(Exception):
    """The service does not answer, or is busy: another look may succeed."""


class NotThere(Exception):
    """The service has no such path."""


@dataclass(frozen=True, slots=True)
class Source:
    """A service that has votes. url_variable, key_variables: of the environment. url: where none is named.
    rows: asks for what was given since a time (Unix seconds). read: a row as a vote."""

    title: str
    url_variable: str
    key_variables: tuple[str, ...]
    url: str | None
    rows: Callable[[Ask, float], Iterator[Row]]
    read: sync_votes.Read


def _open_webui(ask: Ask, start: float) -> Iterator[Row]:
    """Feedback in pages, or all at once from versions that have none."""
    try:
        yield from _open_webui_pages(ask, start)
    except NotThere:
        rows = ask("/api/v1/evaluations/feedbacks/all", {})
        yield from (row for row in rows if row["created_at"] >= start)


def _open_webui_pages(ask: Ask, start: float) -> Iterator[Row]:
    """The newest come first, as many on a page as the service likes."""
    number, read = 1, 0
    while True:
        page = ask("/api/v1/evaluations/feedbacks/list", {"page": number})
        rows = page["items"]
        wanted = [row for row in rows if row["created_at"] >= start]
        yield from wanted
        number, read = number + 1, read + len(rows)
        if not wanted or read >= page["total"]:
            return


def _langfuse(ask: Ask, start: float) -> Iterator[Row]:
    """Scores, by version 3 of its API, and by version 2 where that is not there yet."""
    try:
        yield from _langfuse_3(ask, start)
    except NotThere:
        yield from _langfuse_2(ask, start)


def _langfuse_3(ask: Ask, start: float) -> Iterator[Row]:
    query = {"fromTimestamp": _iso(start), "limit": PAGE, "fields": "subject,details,annotation"}
    while True:
        page = ask("/api/public/v3/scores", query)
        yield from page["data"]
        cursor = page["meta"].get("cursor")
        if not cursor:
            return
        query = {**query, "cursor": cursor}


def _langfuse_2(ask: Ask, start: float) -> Iterator[Row]:
    number, last = 1, 1
    while number <= last:
        page = ask("/api/public/v2/scores", {"fromTimestamp": _iso(start), "limit": PAGE, "page": number})
        yield from page["data"]
        number, last = number + 1, int(page["meta"]["totalPages"])


def _langsmith(ask: Ask, start: float) -> Iterator[Row]:
    offset = 0
    while True:
        query = {"min_created_at": _iso(start), "limit": PAGE, "offset": offset}
        rows = ask("/api/v1/feedback", query)
        yield from rows
        if len(rows) < PAGE:
            return
        offset += PAGE


def _iso(moment: float) -> str:
    return datetime.fromtimestamp(moment, UTC).isoformat().replace("+00:00", "Z")


SOURCES = {
    "open-webui": Source(
        "Open WebUI", "OPEN_WEBUI_URL", ("OPEN_WEBUI_API_KEY",), None, _open_webui, sync_votes.open_webui
    ),
    "langfuse": Source(
        "Langfuse",
        "LANGFUSE_HOST",
        ("LANGFUSE_PUBLIC_KEY", "LANGFUSE_SECRET_KEY"),
        "https://cloud.langfuse.com",
        _langfuse,
        sync_votes.langfuse,
    ),
    "langsmith": Source(
        "LangSmith",
        "LANGSMITH_ENDPOINT",
        ("LANGSMITH_API_KEY",),
        "https://api.smith.langchain.com",
        _langsmith,
        sync_votes.langsmith,
    ),
}


class Reading:
    """The connection to one service."""

    def __init__(self, source: Source, url: str | None, environ: Mapping[str, str]) -> None:
        """Raises UsageError where the URL or a key is missing."""
        self.source = source
        given = url or environ.get(source.url_variable) or source.url or ""
        if not given.startswith(("http://", "https://")):
            said = f"{given!r} is no URL" if given else "its URL is not known"
            raise UsageError(f"{source.title}: {said}; name it with --from or ${source.url_variable}")
        lacking = [name for name in source.key_variables if not environ.get(name)]
        if lacking:
            raise UsageError(f"{source.title}: set ${' and $'.join(lacking)} to a key that may read feedback")
        self.url = given.rstrip("/")
        keys = [environ[name] for name in source.key_variables]
        headers, auth = {}, None
        if len(keys) == 2:
            auth = httpx.BasicAuth(*keys)
        elif source.title == "LangSmith":
            headers["x-api-key"] = keys[0]
        else:
            headers["authorization"] = f"Bearer {keys[0]}"
        self._http = httpx.Client(headers=headers, auth=auth, timeout=TIMEOUT_SECONDS)

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def rows(self, start: float) -> list[Row]:
        """All that was given since `start` (Unix seconds). Raises SourceAway, UsageError."""
        try:
            return list(self.source.rows(self._ask, start))
        except NotThere as error:
            raise UsageError(
                f"{self.source.title} has nothing at {error}: is {self.url} its address, and its version "
                "recent?",
                code=1,
            ) from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UsageError(
                f"{self.source.title} answers in a shape unknown here ({type(error).__name__}: {error}): "
                f"is {self.url} its address?",
                code=1,
            ) from error

    def _ask(self, path: str, query: Mapping[str, Any]) -> Any:
        attempt = 0
        while True:
            try:
                answer: httpx.Response | httpx.TransportError = self._http.get(self.url + path, params=query)
            except httpx.TransportError as error:
                answer = error
            if isinstance(answer, httpx.Response) and answer.is_success:
                return self._json(answer, path)
            try:
                wait = wait_or_raise(answer, self.url, attempt, RETRIES)
            except FeedbackError as error:
                raise self._told(error, path) from error
            time.sleep(wait)
            attempt += 1

    def _json(self, answer: httpx.Response, path: str) -> Any:
        try:
            return answer.json()
        except ValueError as error:  # a page for people: Open WebUI has its own at every unknown path
            raise NotThere(self.url + path) from error

    def _told(self, error: FeedbackError, path: str) -> Exception:
        """What a refusal means, and what to do about it."""
        title, keys = self.source.title, " and $".join(self.source.key_variables)
        if error.status in (401, 403):
            return UsageError(
                f"{title} does not let this key read feedback ({error.status}): check ${keys}"
                + (", which must be an admin's, where API keys are allowed" if title == "Open WebUI" else ""),
                code=1,
            )
        if error.status in (404, 405):
            return NotThere(self.url + path)
        if error.status in (0, 408, 429) or error.status >= 500:
            return SourceAway(f"{title}: {error}")
        return UsageError(f"{title} refuses to tell of feedback: {error}", code=1)
