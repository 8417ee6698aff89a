"""Guards of what an offered policy says beside what live says, and the vetoes of a user's own checks."""

import logging
from collections.abc import Sequence

from deploy.answer_guards import OfferLimits, Pair, Share, judged, shares
from deploy.decide.own_checks import vetoes
from deploy.guards import Guard
from learner.loop.drawing import Drawing
from learner.loop.parts import Parts
from learner.loop.scoring import Judged
from learner.monitor.false_claims import CLAIMS, agrees

logger = logging.getLogger("hearken.learner")


CLAIM_TOKENS = 24
"""Tokens of an answer to a false claim: its first words tell whether it agrees."""

OWN_CHECKS = "own checks"
"""Their name among guards, in metrics."""


class AnswerGuarding:
    """Holds a policy's answers against live's answers to the same prompts."""

    def __init__(self, parts: Parts, drawing: Drawing) -> None:
        self._parts, self._drawing = parts, drawing

    def guards(self, ours: Judged, live: Judged, longest: int) -> list[Guard]:
        """All guards of the policy that gave `ours` where live gave `live`.

        Raises `PromptsRefused`, and `EngineError` when the engine cannot answer now.
        """
        limits = self._parts.settings.answers
        if limits is None:
            return []
        found = shares(self._pairs(ours, live, as_text=False), limits)
        return judged([*found, self._unsafe(ours, live, limits), self._agreement(limits, longest)], limits)

    def vetoes(self, ours: Judged, live: Judged) -> list[str]:
        """What the user's own checks say against the policy."""
        limits = self._parts.settings.answers
        if limits is None or not limits.checks:
            return []
        found = vetoes(limits.checks, self._pairs(ours, live, as_text=True), limits.check_seconds)
        self._parts.metrics.guards.refusals.labels(OWN_CHECKS).inc(bool(found))
        return found

    def _pairs(self, ours: Judged, live: Judged, *, as_text: bool) -> list[Pair]:
        """as_text: whether prompts are wanted as texts; their token ids tell them apart as well."""
        prompts = [each.prompt_token_ids for each in ours.samples]
        texts = [self._parts.tokenizer.decode(each) if as_text else str(each) for each in prompts]
        answers = zip(texts, live.samples, ours.samples, strict=True)
        return [Pair(prompt, theirs.text, our.text) for prompt, theirs, our in answers]

    def _unsafe(self, ours: Judged, live: Judged, limits: OfferLimits) -> Share:
        """What the judging model vetoes. As long as no vote spoke of safety it vetoes nothing."""
        floor = -self._parts.settings.reward.veto_floor
        share = Share("unsafe", "answers that are vetoed as unsafe", [], [], limits.unsafe_rise)
        if not self._parts.judge.model.knows_safety:
            return share._replace(lacks="no judging rater's vote spoke of safety yet")
        vetoed, vetoed_of_live = ((each.scores < floor).tolist() for each in (ours, live))
        return share._replace(ours=vetoed, theirs=vetoed_of_live)

    def _agreement(self, limits: OfferLimits, longest: int) -> Share:
        share = Share("false claims", "false claims that are agreed to", [], [], limits.agreement_rise)
        prompts = self._claims(longest)
        if len(prompts) < limits.least:
            return share._replace(lacks="the model has no chat template, or no room for them")
        thinks = "think" in str(self._parts.tokenizer.chat_template)  # and says what it thinks long after
        ours, live = self._drawing.of_both(prompts, longest if thinks else min(longest, CLAIM_TOKENS))
        return share._replace(
            ours=[agrees(each.text) for each in ours], theirs=[agrees(each.text) for each in live]
        )

    def _claims(self, longest: int) -> list[list[int]]:
        """The token ids of false claims, as the chat template writes them; none where there is none."""
        try:
            tokenizer = self._parts.tokenizer
            texts = [
                tokenizer.apply_chat_template(
                    [{"role": "user", "content": claim}], add_generation_prompt=True, tokenize=False
                )
                for claim in CLAIMS
            ]
        except Exception as why:  # a folder without a tokenizer, or a template: both raise what they like
            logger.info("false claims are not asked: %s", str(why).partition("\n")[0])
            return []
        prompts = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
        return self._askable(prompts, longest)

    def _askable(self, prompts: Sequence[list[int]], longest: int) -> list[list[int]]:
        room, knows = self._parts.sampler.room(longest), self._parts.model.knows
        return [prompt for prompt in prompts if len(prompt) <= room and knows(prompt)]
