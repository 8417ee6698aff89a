"""Gathers what the live view shows: the processes' metrics, the releases, and the crowd's tally."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from deploy.history.releases import History, parse
from feedback.core.events import BASE, RELEASES
from feedback.core.log import EventLog
from hearken.demo.simulate import Tally

Labels = frozenset[tuple[str, str]]


class Gauges:
    """The samples of one /metrics page, by name and labels. Missing ones are None."""

    def __init__(self, samples: Mapping[tuple[str, Labels], float] | None = None) -> None:
        self._samples = dict(samples or {})

    @classmethod
    def parse(cls, text: str) -> "Gauges":
        """From the Prometheus text format."""
        return cls(
            {
                (sample.name, frozenset(sample.labels.items())): sample.value
                for family in text_string_to_metric_families(text)
                for sample in family.samples
            }
        )

    def get(self, name: str, **labels: str) -> float | None:
        return self._samples.get((name, frozenset(labels.items())))

    def total(self, name: str) -> float:
        """The sum over all labels."""
        return sum(value for (known, _), value in self._samples.items() if known == name)

    def label_of_one(self, name: str, label: str) -> str | None:
        """The label's value on the sample that is 1: which of several states is the present one."""
        for (known, labels), value in self._samples.items():
            if known == name and value == 1:
                return dict(labels).get(label)
        return None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One test's e-value and the bound that it is to cross."""

    value: float
    bound: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that the view shows, at one moment. None: not known (yet)."""

    elapsed_seconds: float
    total_seconds: float
    votes: int
    chats: int
    chat_failures: int
    feedback_failures: int
    chats_per_second: float
    tokens_per_second: float
    recent_utility: float | None
    usual_utility: float
    labels: int
    reward_accuracy: float | None
    reward_updates: int
    ppo_steps: int
    phase: str | None
    kl_nats: float | None
    kl_budget_nats: float | None
    live: str
    stage: str
    weight: float
    canary: str | None
    pairs: int
    promote: Evidence | None
    harm: Evidence | None
    decisions: list[str] = field(default_factory=list)
    sample: tuple[str, str, str] | None = None  # prompt, base's answer, live's answer


class Watch:
    """Looks at a running service. `urls`: gateway, learner, controller, each without a path."""

    def __init__(self, urls: tuple[str, str, str], log: EventLog, decisions: int = 6) -> None:
        self._urls = urls
        self._log = log
        self._http = httpx.Client(timeout=1.0, trust_env=False)
        self._history = History(decisions)
        self._cursor: dict[str, int] = {}
        self.rollouts_cut_off: float | None = None
        """The share of all rollouts that their limit ended, as the learner last told it."""
        self._before: tuple[float, int, float] | None = None  # seconds, chats, tokens
        self._rates = (0.0, 0.0)

    def close(self) -> None:
        self._http.close()

    @property
    def live(self) -> str:
        """The live version as of the last look."""
        return BASE if self._history.state is None else self._history.state.table.live

    def look(
        self,
        elapsed_seconds: float,
        total_seconds: float,
        tally: Tally,
        usual_utility: float,
        sample: tuple[str, str, str] | None,
    ) -> Snapshot:
        """One snapshot. A process that does not answer just shows nothing."""
        gateway, learner, controller = (self._gauges(url) for url in self._urls)
        self._follow_releases()
        self._measure(elapsed_seconds, tally.chat_requests, gateway.total("hearken_completion_tokens_total"))
        state = self._history.state
        updates = int(learner.total("hearken_reward_updates_total"))
        if rollouts := learner.total("hearken_rollouts_total"):
            self.rollouts_cut_off = learner.total("hearken_rollouts_cut_off_total") / rollouts
        steps = int(learner.total("hearken_ppo_steps_total"))
        return Snapshot(
            elapsed_seconds=elapsed_seconds,
            total_seconds=total_seconds,
            votes=tally.feedback_events,
            chats=tally.chat_requests,
            chat_failures=tally.chat_failures,
            feedback_failures=tally.feedback_failures,
            chats_per_second=self._rates[0],
            tokens_per_second=self._rates[1],
            recent_utility=tally.recent_utility,
            usual_utility=usual_utility,
            labels=int(learner.total("hearken_labels_total")),
            # A gauge is 0 before it is first set: what has not been measured is not shown as 0.
            reward_accuracy=learner.get("hearken_reward_accuracy_ratio") if updates else None,
            reward_updates=updates,
            ppo_steps=steps,
            phase=learner.label_of_one("hearken_learner_phase", "phase"),
            kl_nats=learner.get("hearken_kl_nats", reference="base") if steps else None,
            kl_budget_nats=learner.get("hearken_kl_budget_nats", reference="base"),
            live=self.live,
            stage="idle" if state is None else state.stage,
            weight=0.0 if state is None else state.table.weight,
            canary=None if state is None else state.table.canary,
            pairs=int(controller.get("hearken_canary_pairs") or 0),
            promote=_evidence(controller, "promote"),
            harm=_evidence(controller, "harm"),
            decisions=[decision.sentence for decision in self._history.decisions],
            sample=sample,
        )

    def _gauges(self, url: str) -> Gauges:
        try:
            answer = self._http.get(f"{url}/metrics")
        except httpx.HTTPError:
            return Gauges()
        return Gauges.parse(answer.text) if answer.status_code == 200 else Gauges()

    def _follow_releases(self) -> None:
        records, self._cursor = self._log.read([RELEASES], self._cursor)
        for record in records:
            event = parse(record.value)
            if event is not None:
                self._history.apply(event)

    def _measure(self, seconds: float, chats: int, tokens: float) -> None:
        """Rates over at least five seconds, so that the view does not flicker."""
        if self._before is None:
            self._before = (seconds, chats, tokens)
        since, chats_before, tokens_before = self._before
        span = seconds - since
        if span >= 5.0:
            self._rates = ((chats - chats_before) / span, max(0.0, tokens - tokens_before) / span)
            self._before = (seconds, chats, tokens)


def _evidence(controller: Gauges, test: str) -> Evidence | None:
    value = controller.get("hearken_canary_evidence", test=test)
    bound = controller.get("hearken_canary_evidence_bound", test=test)
    return None if value is None or bound is None else Evidence(value, bound)
