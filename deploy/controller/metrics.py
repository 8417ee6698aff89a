"""The controller's Prometheus metrics."""

from collections.abc import Collection

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from deploy.controller.opinion_metrics import OpinionMetrics
from deploy.controller.shadow_metrics import ShadowMetrics
from deploy.engines.discovery import Discovery
from deploy.engines.fleet import Fleet
from deploy.engines.lookup_metrics import LookupMetrics
from deploy.evidence.comparing import STATES
from deploy.evidence.preference import Reading
from deploy.history.states import Outcome, ReleaseState
from deploy.registry.versions import seq_of
from deploy.reports.observation import Observation
from deploy.reports.standing import StandingTest
from deploy.settings import ControllerSettings
from feedback.core.build_info import build_info
from feedback.core.loss_metrics import LossMetrics

STAGES = ("idle", "canary", "holdback")
TESTS = ("promote", "harm", "no_worse", "no_worse_compared", "voters_alike", "not_awful")
"""What evidence is for, by the names of `deploy.evidence.preference.Reading`."""

SWAP_SECONDS = (0.03, 0.1, 0.3, 1, 3, 10, 30, 100)


class ControllerMetrics:
    """All of them, in a registry of their own, so that a process can hold two controllers (tests do)."""

    def __init__(self, settings: ControllerSettings) -> None:
        self.registry = CollectorRegistry()
        self.build = build_info(self.registry)

        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"hearken_{name}", text, labels, registry=self.registry)

        def counter(name: str, text: str) -> Counter:
            return Counter(f"hearken_{name}", text, registry=self.registry)

        self.last_round = gauge(
            "controller_last_round_timestamp_seconds", "Unix time of the newest round that came to its end"
        )
        self.leads = gauge("controller_leads", "1 while this controller is the one that decides, else 0")
        self.stage = gauge("release_stage", "1 for the stage that the release is in", "stage")
        self.held = gauge("release_held", "1 while operators hold releases: paused, frozen, pinned", "hold")
        self.weight = gauge("canary_weight_ratio", "Share of users in the canary bucket")
        self.pairs = gauge("canary_pairs", "Paired users in the running comparison")
        self.compared = gauge("canary_compared_users", "Users who chose between both policies")
        self.evidence = gauge("canary_evidence", "Evidence of each test, 1 at its start", "test")
        self.bound = gauge("canary_evidence_bound", "Evidence at which each test decides", "test")
        self.anchor_weight = gauge("anchor_weight_ratio", "Share of users who get the version before live")
        self.anchor_evidence = gauge(
            "anchor_evidence", "Evidence that live does harm, against the version before it; 1 at its start"
        )
        self.users = gauge("canary_users", "Users who were served in each bucket", "arm")
        self.guardrails = gauge(
            "guardrail_state",
            "1 for what became of a guardrail: held, failed, not judged yet",
            "guardrail",
            "state",
        )
        self.value = gauge("feedback_value_ratio", "Mean value of closed feedback windows", "arm")
        self.policy_seq = gauge("policy_seq", "Sequence number of the live policy, 0 for the base model")
        self.registry_away = gauge(
            "registry_away", "1 while the bucket of adapters cannot be used, else 0: candidates wait"
        )
        self.promotions = counter("promotions", "Candidates promoted")
        self.rollbacks = counter("rollbacks", "Releases rolled back: harm, guardrails and operators")
        self.inconclusive = counter("inconclusive", "Canaries that ended undecided")
        self.rejections = counter("gate_rejections", "Candidates refused before their canary")
        self.dead_letters = Counter(
            "hearken_controller_dead_letters", "Records that make no sense, set aside", registry=self.registry
        )
        self.webhooks = Counter(
            "hearken_webhooks",
            "Decisions sent to webhooks: delivered, tries that failed, and those that were given up",
            ["receiver", "result"],
            registry=self.registry,
        )
        self.losses = LossMetrics(self.registry)
        self.opinions = OpinionMetrics(self.registry, settings.promote_bound)
        self.shadow = ShadowMetrics(self.registry)
        self.lookups = LookupMetrics(self.registry)
        self._of_engines(settings)
        for test in TESTS:
            self.bound.labels(test).set(settings.harm_bound if test == "harm" else settings.promote_bound)
        self._guarded: set[str] = set()  # names of guardrails
        self._shown: set[tuple[str, str, str]] = set()  # engine, version, digest
        self._rejections: dict[str, int] = {}

    def _of_engines(self, settings: ControllerSettings) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"hearken_{name}", text, labels, registry=self.registry)

        proof = ("engine", "version")
        self.adapter_info = gauge(
            "engine_adapter_info", "1 for each adapter that the engine was probed with", *proof, "digest"
        )
        self.parity = gauge(
            "engine_parity_nats", "Largest logprob difference of engine and trainer on the probes", *proof
        )
        self.parity_of_limit = gauge(
            "engine_parity_of_limit",
            "Share of what engine and trainer may differ by; above 1 is refused",
            *proof,
        )
        self.tolerance = gauge(
            "parity_tolerance_nats", "Logprob difference from which on an engine in float32 is refused"
        )
        self.adapter_rejections = Counter(
            "hearken_adapter_rejections",
            "Adapters that were kept from an engine: changed files, or other logprobs than the trainer's",
            ["engine"],
            registry=self.registry,
        )
        self.quarantined = gauge(
            "engine_quarantined",
            "1 for an engine that cannot prove a version in use",
            "engine",
        )
        self.adapters = gauge("adapters_loaded", "Policy adapters that the engine has loaded", "engine")
        self.swap_seconds = Histogram(
            "hearken_swap_seconds",
            "Until an engine had loaded and proven a version that it did not have",
            buckets=SWAP_SECONDS,
            registry=self.registry,
        )
        self.tolerance.set(settings.parity_tolerance_nats)
        for engine in Discovery(settings.engines).urls:
            self.adapter_rejections.labels(engine)

    def count(self, outcome: Outcome) -> None:
        """Count a decision that was just made."""
        counters: dict[Outcome, Counter] = {
            "promoted": self.promotions,
            "harmful": self.rollbacks,
            "guardrail": self.rollbacks,
            "rolled_back": self.rollbacks,
            "inconclusive": self.inconclusive,
            "refused": self.rejections,
        }
        if outcome in counters:
            counters[outcome].inc()

    def show(
        self,
        leads: bool,
        state: ReleaseState | None,
        observation: Observation | None,
        standing: StandingTest | None = None,
    ) -> None:
        """Show where the release stands after a round. state: None before the first decision."""
        self.last_round.set_to_current_time()
        self.leads.set(leads)
        if state is None:
            return
        for stage in STAGES:
            self.stage.labels(stage).set(stage == state.stage)
        self.held.labels("pause").set(state.paused)
        self.held.labels("freeze").set(state.frozen)
        self.held.labels("pin").set(state.pinned is not None)
        self.weight.set(state.table.weight)
        self.anchor_weight.set(state.table.anchor_weight)
        self.anchor_evidence.set(1.0 if standing is None else standing.evidence())
        self.policy_seq.set(seq_of(state.table.live))
        guardrails = observation.guardrails if observation is not None else None
        self.users.labels("canary").set(guardrails.canary_users if guardrails else 0)
        self.users.labels("control").set(guardrails.control_users if guardrails else 0)
        found = {f.guardrail: f.state for f in guardrails.findings()} if guardrails else {}
        self._guarded |= found.keys()
        for name in self._guarded:
            for which in STATES:  # all 0 while nothing is watched
                self.guardrails.labels(name, which).set(found.get(name) == which)
        reading = observation.evidence.reading() if observation is not None else Reading()
        self.pairs.set(reading.pairs)
        self.compared.set(reading.compared)
        for test in TESTS:
            self.evidence.labels(test).set(getattr(reading, test))
        self.opinions.show(reading, on_trial=state.stage == "canary")
        nothing = float("nan")  # no votes have no mean
        ours, theirs = reading.canary_value, reading.control_value
        self.value.labels("canary").set(nothing if ours is None else ours)
        self.value.labels("control").set(nothing if theirs is None else theirs)

    def show_engines(self, fleet: Fleet, quarantined: Collection[str]) -> None:
        """Show what the engines have, and which of them cannot prove what they should have."""
        loaded = fleet.adapters_loaded()
        for gone in self._rejections.keys() - loaded.keys():
            del self._rejections[gone]
            for each in (self.quarantined, self.adapters, self.adapter_rejections):
                each.remove(gone)
        for engine, count in loaded.items():
            self.quarantined.labels(engine).set(engine in quarantined)
            self.adapters.labels(engine).set(count)
        for engine, count in fleet.rejections().items():
            self.adapter_rejections.labels(engine).inc(count - self._rejections.get(engine, 0))
            self._rejections[engine] = count
        self._show_proofs(fleet)
        if fleet.discovery is not None:
            self.lookups.show(fleet.discovery)

    def _show_proofs(self, fleet: Fleet) -> None:
        """One series for each; those that are gone are removed, the others never vanish in between."""
        proofs = fleet.proofs()
        shown = {(engine, version, proof.digest) for (engine, version), proof in proofs.items()}
        for engine, version, digest in self._shown - shown:
            self.adapter_info.remove(engine, version, digest)
            self.parity.remove(engine, version)
            self.parity_of_limit.remove(engine, version)
        for engine, version, digest in shown:
            self.adapter_info.labels(engine, version, digest).set(1)
            parity = proofs[engine, version].parity
            self.parity.labels(engine, version).set(parity.largest_nats)
            self.parity_of_limit.labels(engine, version).set(parity.ratio)
        self._shown = shown
