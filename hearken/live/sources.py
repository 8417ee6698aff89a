"""What `hearken watch` shows, from a gateway over HTTP or from a service's log."""

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

import httpx

from deploy.decide.release import ReleaseRules
from deploy.evidence.guardrails import GuardrailLimits
from deploy.history.releases import History, parse
from deploy.reports.running import running
from deploy.reports.status import summary
from deploy.reports.why import why
from feedback.core.events import RELEASES, UPDATES
from feedback.core.log import EventLog
from feedback.core.replay import replay
from feedback.updates.series import MOST_STEPS, StepFold
from hearken.base.errors import UsageError
from hearken.demo.watch import Gauges
from hearken.operate.log import DECISIONS_READ, PATIENCE_SECONDS
from hearken.operate.looking import learning

DECISIONS_SHOWN = 6


@dataclass(frozen=True, slots=True)
class Seen:
    """A service at one moment. learning: sentence, to_do and steps; state: as
    `deploy.reports.status.summary`.

    why: sentences. decisions: as `deploy.reports.status.told`, the newest last. traffic: a gateway's
    counters; None: seen in a log. at: Unix time in seconds.
    """

    where: str
    at: float
    learning: dict[str, Any]
    state: dict[str, Any]
    why: list[str]
    decisions: list[dict[str, Any]]
    traffic: "Traffic | None" = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """What one gateway has done since it began, and by the second since the look before."""

    completions: int
    failed: int
    votes: int
    completions_per_second: float | None
    tokens_per_second: float | None


class Away(Exception):
    """There is nothing to see now; the next look may succeed."""


class Source(Protocol):
    """Where a view comes from."""

    def look(self) -> Seen:
        """The service now. Raises Away, and UsageError for what the next look does not mend."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(slots=True)
class OverHttp:
    """A gateway, at a URL. key: of the scope `operate`; None: none is sent."""

    url: str
    key: str | None
    _before: tuple[float, float, float] | None = None  # seconds, completions, tokens
    _http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        self.url = self.url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers, timeout=10.0)

    def close(self) -> None:
        self._http.close()

    def look(self) -> Seen:
        releases = self._get(f"/v1/releases?limit={DECISIONS_SHOWN}").json()
        told = self._get("/v1/learning").json()
        gauges = Gauges.parse(self._get("/metrics").text)
        return Seen(
            self.url,
            time.time(),
            told,
            releases["state"],
            releases["why"],
            releases["history"]["data"],
            self._traffic(gauges),
        )

    def _get(self, path: str) -> httpx.Response:
        try:
            answer = self._http.get(path)
        except httpx.HTTPError as error:
            raise Away(f"{self.url} does not answer: {error}") from error
        except (httpx.InvalidURL, ValueError) as error:
            raise UsageError(f"{self.url} is no address: {error}") from error
        if answer.status_code in (401, 403):
            raise UsageError(
                f"{self.url} wants a key of the scope operate, in $HEARKEN_KEY: {_message(answer)}", code=1
            )
        if answer.status_code == 404:
            raise UsageError(
                f"{self.url} has no {path.partition('?')[0]}: is it a gateway of hearken?", code=1
            )
        if answer.status_code != 200:
            raise Away(f"{self.url} answers {path} with {answer.status_code}: {_message(answer)}")
        return answer

    def _traffic(self, gauges: Gauges) -> Traffic:
        now = time.monotonic()
        completions = gauges.total("hearken_completions_total")
        tokens = gauges.total("hearken_completion_tokens_total")
        rates: tuple[float | None, float | None] = (None, None)
        if self._before is not None and completions >= self._before[1]:  # else it was started anew
            seconds = max(now - self._before[0], 1e-3)
            rates = (completions - self._before[1]) / seconds, (tokens - self._before[2]) / seconds
        self._before = (now, completions, tokens)
        return Traffic(
            int(completions),
            int(gauges.total("hearken_requests_failed_total")),
            int(gauges.total("hearken_feedback_total")),
            *rates,
        )


def _message(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]


class FromLog:
    """A service's log, which is closed with it. limits, rules: as the service's file has them.

    `look` raises `LogError`.
    """

    def __init__(self, where: str, log: EventLog, limits: GuardrailLimits, rules: ReleaseRules) -> None:
        self._where, self._log = where, log
        self._limits, self._rules = limits, rules
        self._history, self._fold = History(DECISIONS_READ), StepFold(most=MOST_STEPS)
        self._cursor: dict[str, int] = {}

    def close(self) -> None:
        self._log.close()

    def look(self) -> Seen:
        self._follow()
        history, now = self._history, time.time()
        found = running(self._log, history, PATIENCE_SECONDS, self._limits)
        state = summary(history, DECISIONS_SHOWN, found)
        told = learning(self._log, history, state, PATIENCE_SECONDS) | {"steps": self._fold.told()}
        decisions = state.pop("decisions")[::-1]
        return Seen(self._where, now, told, state, why(history.state, found, self._rules, now), decisions)

    def _follow(self) -> None:
        for records, cursor in replay(self._log, [RELEASES, UPDATES], self._cursor, PATIENCE_SECONDS):
            for record in records:
                if record.topic == RELEASES:
                    event = parse(record.value)
                    if event is not None:
                        self._history.apply(event)
                else:
                    self._fold.take(record)
            self._cursor = cursor
