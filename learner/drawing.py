"""Drawing prompts from the log and answers from the engine."""

import random
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

from deploy.engine import Sample
from feedback.importing import IMPORTED
from learner.lengths import rollout_tokens, users_limit
from learner.parts import Parts
from learner.rollouts import distinct_prompts
from learner.watching import Owner

COMPLETIONS_FOR_LENGTH = 2000
"""The newest in the log: their lengths say how long rollouts may be."""


class Drawing:
    """What rollouts answer, how long they may be, and the rollouts themselves."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def longest(self) -> int:
        """The longest rollout: as long as answers in the log are, and longer once that cut too many off, but
        not longer than users let answers be.

        Raises `EngineError`.
        """
        parts = self._parts
        newest = [*parts.joiner.completions.values()][-COMPLETIONS_FOR_LENGTH:]
        answers = [a for a in chain.from_iterable(newest) if a.tokens and a.policy_version != IMPORTED]
        lengths = [answer.tokens for answer in answers]
        cut_off = [answer.finish_reason == "length" for answer in answers]
        most = users_limit(lengths, cut_off, parts.sampler.longest(parts.settings.max_tokens))
        limit = rollout_tokens(lengths, parts.settings.rollout_quantile, most)
        return min(most, max(limit, parts.place.rollout_tokens))

    def prompts(self, count: int, longest: int, *, held_out: bool) -> list[list[int]]:
        """Prompts of the log that leave room for an answer of `longest` tokens. Raises `EngineError`."""
        parts = self._parts
        asked = (choices[0] for choices in parts.joiner.completions.values() if choices)
        prompts = (
            answer.prompt_token_ids
            for answer in asked
            if answer.policy_version != IMPORTED
            and not parts.labels.is_erased(answer.tenant, answer.user)
            and parts.model.knows(answer.prompt_token_ids)
        )
        distinct = distinct_prompts(prompts, held_out=held_out)
        use = "gate" if held_out else "rollouts"
        pool = parts.askable.of(distinct, parts.sampler.room(longest), use)
        draw = random.Random(f"{parts.settings.seed} {parts.place.rollouts} {held_out}")
        return draw.sample(pool, count) if len(pool) >= count else draw.choices(pool, k=count) if pool else []

    def owners(self) -> dict[Sequence[int], Owner]:
        """Tenant and user of every prompt in the log."""
        return {
            answer.prompt_token_ids: (answer.tenant, answer.user)
            for choices in self._parts.joiner.completions.values()
            for answer in choices
        }

    def of_policy(self, prompts: list[list[int]], longest: int) -> list[Sample]:
        """Answers of the policy. The number of the batch grows only once they are there.

        Raises `PromptsRefused`, and `EngineError` when the engine cannot answer now.
        """
        parts, number = self._parts, self._parts.place.rollouts + 1

        def draw() -> list[Sample]:
            with parts.sampler.serving(parts.model.save_policy, number) as name:
                return self._draw(name, prompts, f"policy {number}", longest)

        samples = parts.journal.once(f"policy {number} {parts.model.policy_digest}", prompts, draw)
        parts.place.rollouts = number
        return samples

    def of_both(self, prompts: list[list[int]], longest: int) -> tuple[list[Sample], list[Sample]]:
        """Answers of the policy and of live to the same prompts. Raises as `of_policy`.

        Together, because many answers at a time cost an engine little more than a few.
        """
        number = self._parts.place.rollouts + 1
        with ThreadPoolExecutor(1) as pool:
            live = pool.submit(self._of_live, prompts, longest, number)
            return self.of_policy(prompts, longest), live.result()

    def _of_live(self, prompts: list[list[int]], longest: int, number: int) -> list[Sample]:
        batch, live = f"live {number}", self._parts.place.live
        name = f"{batch} {live}"
        return self._parts.journal.once(name, prompts, lambda: self._draw(live, prompts, batch, longest))

    def _draw(self, name: str, prompts: list[list[int]], batch: str, longest: int) -> list[Sample]:
        seed = f"{self._parts.settings.seed} {batch}"
        return self._parts.sampler.sample(name, prompts, max_tokens=longest, seed=seed)
