"""The settings of the release controller: one frozen object, checked when it is made."""

from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from deploy.answer_guards import AnswerLimits
from deploy.decide.gate import GateLimits
from deploy.decide.release import PROMOTION_WEIGHT, ReleaseRules, Rung
from deploy.engines.discovery import ENGINES, check_engines
from deploy.engines.parity import ParityLimits
from deploy.evidence.guardrails import MAX_EXPOSED, GuardrailLimits
from deploy.evidence.preference import AWFUL, EvidenceRules
from deploy.registry.bucket import COPIES
from deploy.registry.registries import FetchPort, RegistryCopies, RegistryPlace, check_registry


@dataclass(frozen=True, slots=True)
class ControllerSettings:
    """How the controller runs and how it releases. Times are in seconds, weights are shares of all users."""

    data: Annotated[Path, "folder of the service's data; adapters and the embedded log are in it"]
    engines: Annotated[tuple[str, ...], ENGINES]
    metrics_port: Annotated[int, "port of the Prometheus metrics"] = 8003
    metrics_host: Annotated[str, "address of the Prometheus metrics"] = "127.0.0.1"
    kafka: Annotated[
        str | None,
        "HOST:PORT[,HOST:PORT...] of Kafka, or a file of client settings (docs/kafka.md); without it the "
        "embedded log is used",
    ] = None
    redis: Annotated[
        str | None,
        "URL of the Redis server in which gateways hold their leases and controllers agree on who leads; "
        "without it a local file, and one controller",
    ] = None
    registry: RegistryPlace = None
    fetch_port: FetchPort = None
    registry_copies: RegistryCopies = COPIES
    ladder: Annotated[
        tuple[tuple[float, float], ...],
        "steps of a canary, rising: [share of users, least seconds]; a candidate is promoted "
        "from a share of 0.25 on",
    ] = ((0.01, 600), (0.05, 600), (0.25, 600), (0.5, 600))
    rung_users: Annotated[
        int,
        "canary users who must have been served on a step of the ladder before the next one; at least "
        "guardrails.min_users, so that guardrails were judged on them",
    ] = 50
    exposure_budget: Annotated[
        int,
        "canary users who may meet a candidate before votes rule out that it is 40 points worse; then the "
        "canary ends as inconclusive. It takes about 20 users who vote: more than 3,000 where 1 in 100 do",
    ] = 3_000
    max_seconds: Annotated[
        float, "how long a step of the ladder may go on before the canary ends as inconclusive"
    ] = 3 * 86400
    window_seconds: Annotated[float, "all votes of a user in this time make one value"] = 3600
    windows_per_user: Annotated[
        int, "how often one user may count in a comparison; the error bounds hold for 1"
    ] = 1
    match_seconds: Annotated[
        float, "users of both policies are compared who were heard within this time of each other"
    ] = 3600
    margin: Annotated[
        float,
        "a candidate may be worse by this much of the scale and still be promoted; 0 asks for better. 0.02 "
        "promotes about half of all candidates that are no better",
    ] = 0.0
    tolerance: Annotated[
        float,
        "thumbs have to show that a candidate is less than this much worse, and comparisons less than four "
        "times this, even where the other kind of votes is for it",
    ] = 0.02
    voters_tolerance: Annotated[
        float,
        "without comparisons: the share by which one bucket may vote less often than the other; thumbs of a "
        "policy that its unhappy users leave in silence are too high",
    ] = 0.1
    promote_bound: Annotated[
        float, "evidence to promote; 20 promotes a worse candidate at most once in 20"
    ] = 20
    harm_bound: Annotated[
        float, "evidence to roll back; 100 rolls an equal candidate back at most once in 100"
    ] = 100
    holdback_weight: Annotated[
        float, "the share of users who keep the previous version after a promotion"
    ] = 0.05
    holdback_min_seconds: Annotated[float, "how long before the next candidate may end the holdback"] = 3600
    holdback_max_seconds: Annotated[float, "how long it lasts when no candidate comes"] = 7 * 86400
    anchor_weight: Annotated[
        float,
        "the share of users who get the version before live, for as long as live serves, so that harm that "
        "shows late is found; each anchor_seconds other users; 0: nobody",
    ] = 0.05
    anchor_seconds: Annotated[float, "how long the anchor's users stay the same"] = 86400
    shadow_share: Annotated[
        float,
        "the share of the prompts of users that a candidate answers as well before its first user; nobody "
        "sees these answers",
    ] = 0.1
    shadow_prompts: Annotated[
        int, "such prompts that a candidate is judged by before its first user; 0: it is not shadowed"
    ] = 32
    shadow_seconds: Annotated[
        float,
        "how long a candidate waits for them at most; with too few it goes on, and its decision says so",
    ] = 600
    drain_seconds: Annotated[float, "how long an adapter stays loaded after its last use, at least"] = 600
    longest_answer_seconds: Annotated[
        float, "how long an adapter stays loaded where nobody knows which gateways still use it"
    ] = 900
    poll_seconds: Annotated[float, "how often the controller looks at the log"] = 0.2
    parity_tolerance_nats: Annotated[
        float, "how far a logprob of an engine in float32 may be from the trainer's"
    ] = 0.02
    parity_noise_nats: Annotated[
        float,
        "how far an engine that rounds (bfloat16) may be from the trainer under the base alone, in log-odds, "
        "on average; above it the engine's base is another one, or quantised",
    ] = 0.15
    webhooks: Annotated[
        tuple[str, ...],
        "URLs that every decision is sent to, signed (docs/releases.md); private addresses are allowed",
    ] = ()
    webhook_secret_file: Annotated[
        Path | None,
        "file with the secret that webhooks are signed with; without it $HEARKEN_WEBHOOK_SECRET",
    ] = None
    webhook_patience_seconds: Annotated[
        float, "how long a decision is tried to be sent before it is given up, and counted"
    ] = 86400
    answers: Annotated[AnswerLimits, "limits on a shadowed candidate's answers"] = field(
        default_factory=AnswerLimits
    )
    gate: Annotated[GateLimits, "limits on the offline comparison"] = field(default_factory=GateLimits)
    guardrails: Annotated[GuardrailLimits, "limits on the canary's service"] = field(
        default_factory=GuardrailLimits
    )

    def __post_init__(self) -> None:
        check_engines(self.engines)
        check_registry(self.registry, self.fetch_port, self.registry_copies)
        self._check_ladder()
        self._check_evidence()
        if not 0 < self.holdback_weight <= 0.5:
            raise ValueError(f"holdback_weight is {self.holdback_weight}; it has to be in (0, 0.5]")
        if not 0 <= self.anchor_weight <= 0.5:
            raise ValueError(f"anchor_weight is {self.anchor_weight}; it has to be in [0, 0.5]")
        if not 0 < self.shadow_share <= 1:
            raise ValueError(
                f"shadow_share is {self.shadow_share}; it has to be in (0, 1]; for no shadow "
                "shadow_prompts is 0"
            )
        if self.shadow_prompts and self.shadow_prompts < self.answers.least:
            raise ValueError(
                f"shadow_prompts is {self.shadow_prompts}; at least answers.least, {self.answers.least}, are "
                "needed to judge by, or 0 for no shadow"
            )
        if self.holdback_min_seconds > self.holdback_max_seconds:
            raise ValueError(
                f"holdback_min_seconds {self.holdback_min_seconds} exceeds "
                f"holdback_max_seconds {self.holdback_max_seconds}; it has to be at most that"
            )
        for name in (
            *("max_seconds", "window_seconds", "match_seconds", "poll_seconds"),
            *("parity_tolerance_nats", "parity_noise_nats", "webhook_patience_seconds"),
            *("anchor_seconds", "shadow_seconds"),
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be above 0")
        self._check_webhooks()
        for name in ("drain_seconds", "longest_answer_seconds", "holdback_min_seconds"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be 0 or more")

    def _check_ladder(self) -> None:
        weights = [weight for weight, _ in self.ladder]
        if not weights or any(not 0 < weight <= 0.5 for weight in weights):
            raise ValueError(f"ladder weights are {weights}; at least one is needed, each in (0, 0.5]")
        if any(low >= high for low, high in pairwise(weights)):
            raise ValueError(f"ladder weights are {weights}; each has to be above the one before")
        if weights[-1] < PROMOTION_WEIGHT:
            raise ValueError(
                f"the ladder ends at {weights[-1]}; a candidate is promoted from {PROMOTION_WEIGHT} on, it "
                "has to get there"
            )
        if any(seconds < 0 for _, seconds in self.ladder):
            raise ValueError("ladder times have to be 0 seconds or more")
        if not self.guardrails.min_users <= self.rung_users <= MAX_EXPOSED:
            raise ValueError(
                f"rung_users is {self.rung_users}; at least guardrails.min_users, "
                f"{self.guardrails.min_users}, are needed, and at most {MAX_EXPOSED} are counted"
            )

    def _check_webhooks(self) -> None:
        for url in self.webhooks:
            if not _is_url(url):
                raise ValueError(
                    f"webhook {url!r} is not a URL; write it like https://ops.example.com/releases"
                )
        if len(set(self.webhooks)) != len(self.webhooks):
            raise ValueError(f"a webhook is named twice: {', '.join(self.webhooks)}")

    def _check_evidence(self) -> None:
        if self.windows_per_user < 1:
            raise ValueError(f"windows_per_user is {self.windows_per_user}; at least 1 is needed")
        if not 0 <= self.margin < 1:
            raise ValueError(f"margin is {self.margin}; it has to be in [0, 1)")
        for name, below in (("tolerance", AWFUL), ("voters_tolerance", 1.0)):
            if not 0 < getattr(self, name) < below:
                raise ValueError(f"{name} is {getattr(self, name)}; it has to be in (0, {below})")
        if self.exposure_budget < self.rung_users:
            raise ValueError(
                f"exposure_budget is {self.exposure_budget}; at least rung_users, {self.rung_users}, "
                "are needed"
            )
        if min(self.promote_bound, self.harm_bound) <= 1:
            raise ValueError("promote_bound and harm_bound have to be above 1: evidence starts at 1")

    @property
    def parity_limits(self) -> ParityLimits:
        """What deploy/engines/parity.py needs."""
        return ParityLimits(self.parity_tolerance_nats, self.parity_noise_nats)

    @property
    def release_rules(self) -> ReleaseRules:
        """What deploy/decide/release.py needs."""
        return ReleaseRules(
            ladder=tuple(Rung(*rung) for rung in self.ladder),
            rung_users=self.rung_users,
            exposure_budget=self.exposure_budget,
            max_seconds=self.max_seconds,
            holdback_weight=self.holdback_weight,
            holdback_min_seconds=self.holdback_min_seconds,
            holdback_max_seconds=self.holdback_max_seconds,
            anchor_weight=self.anchor_weight,
            anchor_seconds=self.anchor_seconds,
            shadow_share=self.shadow_share,
            shadow_prompts=self.shadow_prompts,
            shadow_seconds=self.shadow_seconds,
            promote_bound=self.promote_bound,
            harm_bound=self.harm_bound,
        )

    @property
    def evidence_rules(self) -> EvidenceRules:
        """What deploy/evidence/preference.py needs in a canary."""
        return EvidenceRules(
            window_seconds=self.window_seconds,
            windows_per_user=self.windows_per_user,
            match_seconds=self.match_seconds,
            margin=self.margin,
            tolerance=self.tolerance,
            voters_tolerance=self.voters_tolerance,
            promote_bound=self.promote_bound,
            harm_bound=self.harm_bound,
        )


def _is_url(text: str) -> bool:
    """Whether a text is a whole http or https URL, with a host and without spaces."""
    try:
        parts = urlsplit(text)
        known = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, brackets that are no address
        return False
    return known and text.split() == [text]
