"""What operators see of a gateway. Arms are labels; versions appear only in hearken_policy_info."""

import math
from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector

from deploy.engines.lookup_metrics import LookupMetrics
from deploy.history.table import RoutingTable
from feedback.core.build_info import build_info
from feedback.core.loss_metrics import LossMetrics

_REQUEST_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
_TTFT_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 2, 5, 10, 30)
_QUEUE_SECONDS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SHARES = (0.5, 0.9)
_APPEND_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2)


class Metrics:
    """One registry per gateway, so that several can live in one process."""

    def __init__(self) -> None:
        r = self.registry = CollectorRegistry()
        self.build = build_info(r)
        ProcessCollector(registry=r)
        GCCollector(registry=r)
        self._of_requests(r)
        self._of_records(r)
        self._of_limits(r)
        self._of_conversations(r)
        self._of_engines(r)
        self._of_waits(r)
        self.losses = LossMetrics(r)
        self.lookups = LookupMetrics(r)

    def _of_requests(self, r: CollectorRegistry) -> None:
        self.requests = Counter("hearken_requests_total", "Requests answered", ["route", "code"], registry=r)
        self.connections_cut = Counter(
            "hearken_connections_cut_total",
            "Connections that were refused or cut at a bound, by the bound",
            ["reason"],
            registry=r,
        )
        self.request_seconds = Histogram(
            "hearken_request_seconds",
            "From the request's headers to the answer's last byte",
            ["route"],
            buckets=_REQUEST_SECONDS,
            registry=r,
        )
        self.ttft_seconds = Histogram(
            "hearken_ttft_seconds",
            "From the request to the first token of a streamed answer",
            ["arm"],
            buckets=_TTFT_SECONDS,
            registry=r,
        )
        self.completions = Counter("hearken_completions_total", "Completions logged", ["arm"], registry=r)
        self.failed = Counter(
            "hearken_requests_failed_total",
            "Requests that got no answer, and not through a fault of their own",
            ["arm", "failure"],
            registry=r,
        )
        self.shadowed = Counter(
            "hearken_shadowed_prompts_total",
            "Prompts of users that a shadowed candidate answered as well: told to the controller, or dropped",
            ["result"],
            registry=r,
        )
        self.sparing = Counter(
            "hearken_sparing_chats_total",
            "Chats that want two answers sparingly, by what they showed: one, two by chance, or two by gain",
            ["shown"],
            registry=r,
        )
        self.completion_tokens = Counter(
            "hearken_completion_tokens_total", "Tokens sampled for users", ["arm"], registry=r
        )

    def _of_records(self, r: CollectorRegistry) -> None:
        self.unlogged = Counter(
            "hearken_completions_unlogged_total",
            "Answers given although the log could not be written",
            registry=r,
        )
        self.vault_lost = Gauge(
            "hearken_vault_lost",
            "1 while the users' keys cannot be used: no text is logged, and no vote with words is taken",
            registry=r,
        )
        self.inexact = Counter(
            "hearken_completions_inexact_total",
            "Completions whose tokens and logprobs did not pair up",
            registry=r,
        )
        self.feedback = Counter("hearken_feedback_total", "Votes accepted", ["kind", "label"], registry=r)
        self.append_seconds = Histogram(
            "hearken_log_append_seconds",
            "Until an event was durable in the local log",
            buckets=_APPEND_SECONDS,
            registry=r,
        )

        self.votes_after_update = Gauge(
            "hearken_votes_after_update", "Votes that came after the learner's newest update", registry=r
        )
        self.vote_to_live = Gauge(
            "hearken_vote_to_live_seconds",
            "From a vote to the newest live version that it shaped; this share of its votes waited no longer",
            ["share"],
            registry=r,
        )

    def _of_limits(self, r: CollectorRegistry) -> None:
        self.limited = Counter(
            "hearken_limited_total", "Requests refused because a limit was used up", ["limit"], registry=r
        )
        self.unprocessable = Counter(
            "hearken_unprocessable_requests_total",
            "Requests that an engine failed with an error of its own although it answers others",
            ["tenant"],
            registry=r,
        )
        self.limits_alone = Counter(
            "hearken_limits_alone_total",
            "Looks at limits that a gateway made alone, without Redis",
            registry=r,
        )

    def _of_conversations(self, r: CollectorRegistry) -> None:
        self.turns = Counter(
            "hearken_turns_total",
            "Turns of conversations: first, kept (goes on with its version), moved (to live, for its version "
            "may not serve now), unknown (its history was not recognised)",
            ["turn"],
            registry=r,
        )
        self.conversations_evicted = Counter(
            "hearken_conversations_evicted_total",
            "Answers by which conversations were known, forgotten before their time as there were too many",
            registry=r,
        )
        self.conversations_unavailable = Counter(
            "hearken_conversations_unavailable_total",
            "Turns whose conversation could not be looked up or remembered, as the store was away",
            registry=r,
        )
        self.preferences_unavailable = Counter(
            "hearken_preferences_unavailable_total",
            "Chats answered without their user's preferences, which could not be read",
            registry=r,
        )

    def _of_engines(self, r: CollectorRegistry) -> None:
        self.keys_stale = Gauge(
            "hearken_keys_stale",
            "1 while the key file cannot be used and older keys are in force",
            registry=r,
        )
        self.policy_info = Gauge(
            "hearken_policy_info", "1 for each arm's policy version", ["version", "arm"], registry=r
        )
        self.table_epoch = Gauge("hearken_table_epoch", "Epoch of the routing table in force", registry=r)
        self.engine_up = Gauge("hearken_engine_up", "1 when the engine can be used", ["engine"], registry=r)
        self.engine_breaker = Gauge(
            "hearken_engine_breaker",
            "0 closed (in use), 1 half-open (on trial), 2 open (out of use)",
            ["engine"],
            registry=r,
        )
        self.engine_in_flight = Gauge(
            "hearken_engine_in_flight", "Requests of users that an engine works on", ["engine"], registry=r
        )
        self.engine_retries = Counter(
            "hearken_engine_retries_total",
            "Requests sent to another engine because one failed before it began to answer",
            registry=r,
        )

    def _of_waits(self, r: CollectorRegistry) -> None:
        self.queue_length = Gauge(
            "hearken_queue_length", "Requests that wait for a place on an engine", registry=r
        )
        self.queue_seconds = Histogram(
            "hearken_queue_seconds",
            "Wait of those requests that had to wait and got a place",
            buckets=_QUEUE_SECONDS,
            registry=r,
        )
        self.refused = Counter(
            "hearken_queue_refused_total",
            "Requests refused because the queue was full, or because they waited too long",
            ["reason"],
            registry=r,
        )
        self.relay_lag_events = Gauge(
            "hearken_relay_lag_events", "Events that wait in the outbox for Kafka", registry=r
        )
        self.relay_age_seconds = Gauge(
            "hearken_relay_age_seconds", "For how long the oldest event has waited for Kafka", registry=r
        )

    def show_table(self, table: RoutingTable) -> None:
        """Export the table in force."""
        self.table_epoch.set(table.epoch)
        self.policy_info.clear()
        for arm in table.arms:
            self.policy_info.labels(version=table.version(arm), arm=arm).set(1)

    def render(self) -> bytes:
        """The exposition text."""
        return generate_latest(self.registry)

    def show_waits_of_votes(self, after_update: int, seconds: Sequence[float]) -> None:
        """Show how many votes came after the learner's newest update, and how long those waited, the shortest
        first, that shaped a live version, until it was live."""
        self.votes_after_update.set(after_update)
        for share in SHARES if seconds else ():
            place = math.ceil(share * len(seconds)) - 1
            self.vote_to_live.labels(f"{share:g}").set(seconds[place])
