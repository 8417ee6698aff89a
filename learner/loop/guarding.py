"""Evidence of what an offered policy has forgotten, for each of the gate's guards (`deploy.guards`)."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from deploy.answer_guards import begins_with, rise
from deploy.engines.client import Sample
from deploy.guards import Guard, GuardLimits
from feedback.core.events import BASE
from learner.batching import Item
from learner.loop.drawing import Drawing
from learner.loop.parts import Parts
from learner.loop.scoring import Judged, Scoring
from learner.loop.second_domain import SecondDomain
from learner.model.shared import POLICY
from learner.monitor.forgetting import clusters, highest_win_rate, perplexity_ratio
from learner.monitor.tool_calls import calls_rightly
from learner.policy.candidate import win_rate
from learner.policy.scaling import borrowed
from learner.reward.features import Kind

logger = logging.getLogger("hearken.learner")

TEXTS = 256
"""Demonstrations that are read, at most: the newest ones."""

TOOL_PROMPTS = 32
"""Prompts with tools that are asked, at most."""

PROMPTS = Kind("prompts", {"means": 1.0})
"""What of prompts makes them similar: the base's mean states."""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """What a guard will judge. judge: from the interval's quantile to (figure, best); None for too little."""

    name: str
    what: str
    limit: float
    side: Literal["at most", "at least"]
    count: int
    judge: Callable[[float], tuple[float, float]] | None
    lacks: str = ""

    def guard(self, z: float) -> Guard:
        figure, best = (None, None) if self.judge is None else self.judge(z)
        return Guard(
            name=self.name,
            what=self.what,
            figure=figure,
            best=best,
            limit=self.limit,
            side=self.side,
            count=self.count,
            lacks=self.lacks,
        )


class Guarding:
    """Guards the policy as it is when it is asked about."""

    def __init__(self, parts: Parts, drawing: Drawing, scoring: Scoring, domain: SecondDomain) -> None:
        self._parts, self._drawing, self._scoring, self._domain = parts, drawing, scoring, domain

    @property
    def _anchor(self) -> str:
        """Where the service began: the version 0 of this base, or the base."""
        registry, digest = self._parts.registry, self._parts.model.base_digest
        first = [version for version in registry.versions() if version.startswith("policy-0-")]
        ours = [version for version in first if registry.manifest(version).base_digest == digest]
        return ours[0] if ours else BASE

    def forgets(self) -> bool:
        """Whether a guard that needs no new answers refuses the policy."""
        limits = self._parts.settings.guards
        return limits is not None and any(guard.refuses for guard in _judged(self._texts(limits), limits))

    def guards(self, prompts: list[list[int]], ours: Judged, live: Judged, longest: int) -> list[Guard]:
        """All guards of the policy, which gave `ours` to the gate's prompts as live gave `live`.

        Raises `PromptsRefused`, and `EngineError` when the engine cannot answer now.
        """
        limits = self._parts.settings.guards
        if limits is None:
            return []
        anchors = live
        if self._anchor != self._parts.place.live:
            anchors = self._scoring.judged(self._anchors(prompts, longest))
        evidence = [
            *self._texts(limits),
            self._tool_calls(limits, longest),
            self._refusals(limits, ours.samples, anchors.samples),
            *self._clusters(limits, prompts, ours.scores, anchors.scores, live.scores),
        ]
        return _judged(evidence, limits)

    # ---- likely texts

    def _texts(self, limits: GuardLimits) -> list[_Evidence]:
        written = self._held_back()
        needs = f"there are {len(written)} answers that judging raters wrote, {limits.least} are needed"
        found = [self._perplexity("demonstrations", limits.demonstration_perplexity, written, limits, needs)]
        answers = self._domain.judging()
        needs = (
            f"the second domain has {len(answers)} answers, {limits.least} are needed"
            if limits.prompts
            else "learner.guards.prompts names no file"
        )
        return [
            *found,
            self._perplexity("second domain", limits.second_domain_perplexity, answers, limits, needs),
        ]

    def _perplexity(
        self, name: str, limit: float, items: Sequence[Item], limits: GuardLimits, lacks: str
    ) -> _Evidence:
        what = "the perplexity, in the anchor's,"
        if len(items) < limits.least:
            return _Evidence(name, what, limit, "at most", len(items), None, lacks)
        ours = self._log_likelihood(items, POLICY)
        with self._as_anchor() as anchor:
            anchors = self._log_likelihood(items, anchor)
        tokens = ours.new_tensor([len(answer) for _, answer in items])
        return _Evidence(
            name,
            what,
            limit,
            "at most",
            len(items),
            lambda z: perplexity_ratio(ours, anchors, tokens, z),
        )

    def _log_likelihood(self, items: Sequence[Item], adapter: str | None) -> Tensor:
        return self._parts.model.answer_logprobs(items, adapter).double().sum(1)

    @contextmanager
    def _as_anchor(self) -> Iterator[str | None]:
        """The adapter that is the anchor for the length of the block: none, or the policy's in its place."""
        parts, anchor = self._parts, self._anchor
        with nullcontext() if anchor == BASE else borrowed(parts.model):
            if anchor != BASE:
                parts.model.load_adapter(parts.registry.path(anchor))
            yield None if anchor == BASE else POLICY

    def _held_back(self) -> list[Item]:
        """The newest answers that judging raters wrote: no policy ever learned from them."""
        written = [
            signal.answers[0].judged
            for signal in self._parts.labels.judging
            if signal.kind == "correction" and signal.answers[1].judged[1]
        ]
        return [*written[-TEXTS:]]

    # ---- answers beside the anchor's

    def _anchors(self, prompts: list[list[int]], longest: int) -> list[Sample]:
        anchor = self._anchor
        if anchor == self._parts.place.live:
            return self._drawing.of_live(prompts, longest)  # as the gate has them
        with self._as_anchor():
            return self._drawing.of_anchor(anchor, prompts, longest)

    def _tool_calls(self, limits: GuardLimits, longest: int) -> _Evidence:
        prompts = self._drawing.tool_prompts(TOOL_PROMPTS, longest)
        name, limit = "tool calls", -limits.tool_calls_fall
        what = "the share of right calls, less the anchor's,"
        if len(prompts) < limits.least:
            lacks = f"{len(prompts)} held-out prompts led to calls of tools, {limits.least} are needed"
            return _Evidence(name, what, limit, "at least", len(prompts), None, lacks)
        ours = self._right_calls(self._drawing.of_policy(prompts, longest))
        anchors = self._right_calls(self._anchors(prompts, longest))
        if not any(anchors):
            lacks = f"none of {len(prompts)} answers of the anchor has a call in a form that is known here"
            return _Evidence(name, what, limit, "at least", len(prompts), None, lacks)

        def judge(z: float) -> tuple[float, float]:
            figure, best = rise(anchors, ours, z)
            return -figure, -best

        return _Evidence(name, what, limit, "at least", len(prompts), judge)

    def _right_calls(self, samples: Sequence[Sample]) -> list[bool]:
        decode = self._parts.tokenizer.decode
        return [calls_rightly(each.text, decode(each.prompt_token_ids)) for each in samples]

    def _refusals(self, limits: GuardLimits, ours: Sequence[Sample], anchors: Sequence[Sample]) -> _Evidence:
        refuses = begins_with(limits.refusal_pattern)
        refused, anchor_refused = ([refuses(each.text) for each in samples] for samples in (ours, anchors))
        what = "the share of refusals, less the anchor's,"
        if len(ours) < limits.least:
            lacks = f"{len(ours)} prompts are too few, {limits.least} are needed"
            return _Evidence("refusals", what, limits.refusals_rise, "at most", len(ours), None, lacks)
        return _Evidence(
            "refusals",
            what,
            limits.refusals_rise,
            "at most",
            len(ours),
            lambda z: rise(refused, anchor_refused, z),
        )

    def _clusters(
        self, limits: GuardLimits, prompts: list[list[int]], scores: Tensor, anchors: Tensor, live: Tensor
    ) -> list[_Evidence]:
        """A floor for each cluster; where live is below it, because taste has turned since, live's own."""
        what, limit = "the judged win rate against the anchor", limits.cluster_win_rate
        features = self._parts.features.of_items([(prompt[:1], prompt) for prompt in prompts], PROMPTS)
        groups = clusters(features, limits.clusters, limits.least)
        if not groups:
            lacks = f"{len(prompts)} prompts are too few, {limits.least} are needed"
            return [_Evidence("prompt clusters", what, limit, "at least", len(prompts), None, lacks)]
        return [
            _Evidence(
                f"prompt cluster {number}",
                what,
                min(limit, win_rate(live[rows], anchors[rows])[0]),
                "at least",
                len(rows),
                lambda z, rows=rows: highest_win_rate(scores[rows], anchors[rows], z),  # type: ignore[misc]
            )
            for number, rows in enumerate(groups, 1)
        ]


def _judged(evidence: Sequence[_Evidence], limits: GuardLimits) -> list[Guard]:
    z = limits.z(sum(each.judge is not None for each in evidence))
    return [each.guard(z) for each in evidence]
