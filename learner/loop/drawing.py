"""Drawing prompts from the log and answers from the engine."""

import random
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain

from deploy.engines.client import Sample
from feedback.core.events import BASE
from feedback.exchange.importing import IMPORTED
from feedback.joining.labels import Answer
from learner.loop.parts import Parts
from learner.monitor.lengths import rollout_tokens, users_limit
from learner.policy.watching import Owner
from learner.rollouts.sampling import distinct_prompts, is_held_out

COMPLETIONS_FOR_LENGTH = 2000
"""The newest in the log: their lengths say how long rollouts may be."""


WHOLE = ("stop", "tool_calls")
"""How an answer ends that came to its end; others met a limit, or their reader left."""

CHOOSING_LEAST = 16
"""Prompts to choose a policy's scale by. With fewer it is judged as it was trained, on all that there are."""


@dataclass(frozen=True, slots=True)
class GatePrompts:
    """Held-out prompts: those that a policy's scale is chosen by, maybe none, and others to judge it on."""

    choosing: list[list[int]]
    judging: list[list[int]]


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
        return _drawn(self._pool(longest, held_out=held_out), count, self._draw_of(held_out=held_out))

    def gate_prompts(self, longest: int) -> "GatePrompts":
        """Held-out prompts for the gate, room for `longest` tokens; none where the log has none.

        Raises `EngineError`.
        """
        settings = self._parts.settings
        pool, draw = self._pool(longest, held_out=True), self._draw_of(held_out=True)
        shuffled = draw.sample(pool, len(pool))
        few = min(settings.gate_prompts // 2, len(pool) // 3)
        if few < CHOOSING_LEAST or len(settings.gate_scales) < 2:
            few = 0
        return GatePrompts(shuffled[:few], _drawn(shuffled[few:], settings.gate_prompts, draw))

    def tool_prompts(self, count: int, longest: int) -> list[list[int]]:
        """Held-out prompts, each once, that somebody's answer called a tool for. Raises `EngineError`."""
        called = {
            answer.prompt_token_ids
            for choices in self._parts.joiner.completions.values()
            for answer in choices
            if answer.finish_reason == "tool_calls"
        }
        pool = (
            [each for each in self._pool(longest, held_out=True) if tuple(each) in called] if called else []
        )
        return _drawn(pool, min(count, len(pool)), self._draw_of(held_out=True))

    def _draw_of(self, *, held_out: bool) -> random.Random:
        return random.Random(f"{self._parts.settings.seed} {self._parts.place.rollouts} {held_out}")

    def _pool(self, longest: int, *, held_out: bool) -> list[list[int]]:
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
        return parts.askable.of(distinct, parts.sampler.room(longest), use)

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

    def logged(self, count: int, longest: int, part: int = 0, parts: int = 1) -> list[Sample]:
        """The newest `count` answers of live that users got, as if they were rollouts of its copy; fewer when
        the log has fewer. part: of so many disjoint parts of the log, from 0.

        They were sampled as rollouts are. Those that nobody voted on come first, for the reward model knows
        more of those that it learned from, and no held-out prompt is among them. The engine's logprobs of
        them are not known here, and those that were cut off before `longest` tokens would have been longer as
        rollouts.
        """
        voted = {(a.completion_id, a.choice) for vote in self._parts.labels.votes for a in vote.answers}
        newest = chain.from_iterable(reversed([*self._parts.joiner.completions.values()]))
        unheard: list[Answer] = []
        heard: list[Answer] = []
        for answer in newest:
            if len(unheard) == count:
                break
            group = heard if (answer.completion_id, answer.choice) in voted else unheard
            if len(group) < count and _part_of(answer, parts) == part and self._teaches(answer, longest):
                group.append(answer)
        return [_as_rollout(answer, longest) for answer in [*unheard, *heard][:count]]

    def _teaches(self, answer: Answer, longest: int) -> bool:
        return (
            not is_held_out(answer.prompt_token_ids)
            and _is_whole(answer, longest)
            and self._is_sampled(answer, self._parts.place.live)
        )

    def _is_sampled(self, answer: Answer, version: str) -> bool:
        """Whether a version gave an answer as it gives rollouts, and it may be looked at."""
        parts = self._parts
        return (
            answer.policy_version == version
            and answer.sampling_plain
            and bool(answer.token_ids)
            and not parts.labels.is_erased(answer.tenant, answer.user)
            and parts.model.knows((*answer.prompt_token_ids, *answer.token_ids))
        )

    def of_both(self, prompts: list[list[int]], longest: int) -> tuple[list[Sample], list[Sample]]:
        """Answers of the policy and of live to the same prompts. Raises as `of_policy`.

        What users got of live needs no engine. The rest is drawn together with the policy's, because many
        answers at a time cost an engine little more than a few.
        """
        number = self._parts.place.rollouts + 1
        with ThreadPoolExecutor(1) as pool:
            live = pool.submit(self._of_live, prompts, longest, number)
            return self.of_policy(prompts, longest), live.result()

    def of_anchor(self, version: str, prompts: list[list[int]], longest: int) -> list[Sample]:
        """Answers of what the service began with: the base, or a version 0 that is the policy for now.

        Raises as `of_policy`.
        """
        parts = self._parts
        serving: AbstractContextManager[str] = nullcontext(BASE)
        if version != BASE:
            serving = parts.sampler.serving(parts.model.save_policy, parts.place.rollouts)
        return self._answers_of(version, f"anchor {parts.place.rollouts}", prompts, longest, serving)

    def of_live(self, prompts: list[list[int]], longest: int) -> list[Sample]:
        """Answers of live to the prompts of the newest batch: what users got, and the rest drawn. Raises as
        `of_policy`."""
        return self._of_live(prompts, longest, self._parts.place.rollouts)

    def _of_live(self, prompts: list[list[int]], longest: int, number: int) -> list[Sample]:
        live = self._parts.place.live
        return self._answers_of(live, f"live {number}", prompts, longest, nullcontext(live))

    def _answers_of(
        self,
        version: str,
        batch: str,
        prompts: list[list[int]],
        longest: int,
        serving: AbstractContextManager[str],
    ) -> list[Sample]:
        """An answer of a version to each prompt: one that a user got, or else one that the engine is asked
        for within `serving`, which gives the name that the version has there."""

        def draw() -> list[Sample]:
            users_got = self._users_got(version, prompts, longest)
            known = [users_got[key].pop() if users_got[key] else None for key in map(tuple, prompts)]
            missing = [prompt for prompt, answer in zip(prompts, known, strict=True) if answer is None]
            drawn: Iterator[Sample] = iter(())
            if missing:
                with serving as name:
                    drawn = iter(self._draw(name, missing, batch, longest))
            return [next(drawn) if answer is None else _as_rollout(answer, longest) for answer in known]

        return self._parts.journal.once(f"{batch} {version}", prompts, draw)

    def _users_got(
        self, version: str, prompts: Sequence[Sequence[int]], longest: int
    ) -> dict[tuple[int, ...], list[Answer]]:
        """A version's answers to each of the prompts that users got and that could be rollouts, newest last.

        Whether somebody voted on them is not asked: those that nobody votes on are better or worse than
        others. A prompt of which an answer was cut short has none here, for the long ones would be missing.
        """
        found: dict[tuple[int, ...], list[Answer]] = {tuple(prompt): [] for prompt in prompts}
        cut_short: set[tuple[int, ...]] = set()
        for answer in chain.from_iterable(self._parts.joiner.completions.values()):
            prompt = tuple(answer.prompt_token_ids)
            if prompt in found and self._is_sampled(answer, version):
                found[prompt].append(answer)
                if not _is_whole(answer, longest):
                    cut_short.add(prompt)
        return {prompt: [] if prompt in cut_short else answers for prompt, answers in found.items()}

    def _draw(self, name: str, prompts: list[list[int]], batch: str, longest: int) -> list[Sample]:
        seed = f"{self._parts.settings.seed} {batch}"
        return self._parts.sampler.sample(name, prompts, max_tokens=longest, seed=seed)


def _part_of(answer: Answer, parts: int) -> int:
    """Which of so many parts of the log an answer is in."""
    return zlib.crc32(f"{answer.completion_id} {answer.choice}".encode()) % parts


def _is_whole(answer: Answer, longest: int) -> bool:
    """Whether an answer of the log is all that a rollout of at most `longest` tokens would have been."""
    return answer.finish_reason in WHOLE or len(answer.token_ids) >= longest


def _as_rollout(answer: Answer, longest: int) -> Sample:
    """What a rollout of at most `longest` tokens would have been."""
    is_cut_off = answer.finish_reason not in WHOLE or len(answer.token_ids) > longest
    return Sample(
        list(answer.prompt_token_ids),
        list(answer.token_ids[:longest]),
        [],
        answer.text,
        "length" if is_cut_off else "stop",
        min(answer.answer_start, longest),
    )


def _drawn(pool: list[list[int]], count: int, draw: random.Random) -> list[list[int]]:
    """`count` of the pool, each once where it has as many."""
    return draw.sample(pool, count) if len(pool) >= count else draw.choices(pool, k=count) if pool else []
