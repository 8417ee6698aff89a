"""What a run really achieved, measured from outside with the engine alone and fresh prompts.

Nothing here uses the learner's reward model or its own KL: the persona's hidden utility judges the answers,
and KL is computed from what the engine sampled and what it thinks of those tokens under the base.
"""

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import httpx

from deploy.engines.client import EngineClient, EngineDown, EngineError, Sample
from deploy.engines.key import engine_headers
from feedback.core.events import BASE
from hearken.base.conversation import Conversation, last_question

Utility = Callable[[str, str], float]
"""(question, answer) -> how good."""

BATCH, REQUESTS = 32, 4  # prompts in one request, and so many requests at a time
CONCURRENCY = 8


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `count` items, and the standard error of that mean."""

    mean: float
    standard_error: float
    count: int


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The live policy against the base, on the same prompts, one answer each at temperature 1.

    `win_rate`: the share of prompts on which live's answer has the higher utility, ties half.
    `kl_nats_base`: KL(live || base) per response. `tokens_*`: mean length of an answer. `cut_off_*`: the
    share of answers that did not end by themselves. `pairs`: (conversation, base's answer, live's answer).
    """

    version: str
    win_rate: Estimate
    kl_nats_base: Estimate
    utility_base: float
    utility_live: float
    tokens_base: float
    tokens_live: float
    cut_off_base: float
    cut_off_live: float
    pairs: list[tuple[Conversation, str, str]]


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error. Raises ValueError without values."""
    if not values:
        raise ValueError("no values to estimate a mean from")
    n = len(values)
    mean = math.fsum(values) / n
    if n == 1:
        return Estimate(mean, math.inf, 1)
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    return Estimate(mean, math.sqrt(variance / n), n)


def wins(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """1 where ours is better, 0 where theirs is, 1/2 for a tie."""
    return [0.5 if a == b else float(a > b) for a, b in zip(ours, theirs, strict=True)]


def response_kl_nats(sampled: Sequence[float], reference: Sequence[float]) -> float:
    """k1, the unbiased estimate of KL(policy || reference) from one response of the policy.

    The sum over its tokens of log policy - log reference (Schulman, "Approximating KL divergence", 2020).
    """
    return math.fsum(a - b for a, b in zip(sampled, reference, strict=True))


def tokenize(engine_url: str, conversations: Sequence[Conversation]) -> list[list[int]]:
    """The prompts' token ids, as the engine's own chat template makes them of the messages.

    Raises EngineError.
    """
    with httpx.Client(base_url=engine_url, timeout=60.0, trust_env=False, headers=engine_headers()) as client:

        def one(conversation: Conversation) -> list[int]:
            body = {"model": BASE, "messages": conversation, "add_generation_prompt": True}
            try:
                answer = client.post("/tokenize", json=body).raise_for_status()
            except httpx.HTTPStatusError as error:
                raise EngineError(f"{engine_url}/tokenize: {error}") from error
            except httpx.HTTPError as error:
                raise EngineDown(f"{engine_url} does not answer: {error}") from error
            tokens: list[int] = answer.json()["tokens"]
            return tokens

        with ThreadPoolExecutor(CONCURRENCY) as pool:
            return list(pool.map(one, conversations))


def sample(engine: EngineClient, model: str, prompts: Sequence[list[int]], max_tokens: int) -> list[Sample]:
    """One answer at temperature 1 to each prompt, in the prompts' order."""
    batches = [list(prompts[i : i + BATCH]) for i in range(0, len(prompts), BATCH)]
    with ThreadPoolExecutor(REQUESTS) as pool:
        done = pool.map(lambda batch: engine.sample(model, batch, max_tokens=max_tokens), batches)
        return [answer for batch in done for answer in batch]


def kl_nats(engine: EngineClient, samples: Sequence[Sample]) -> Estimate:
    """KL(policy || base) in nats per response, from the policy's own samples."""
    with ThreadPoolExecutor(CONCURRENCY) as pool:
        under_base = pool.map(lambda s: engine.logprobs(BASE, s.prompt_token_ids, s.token_ids), samples)
        return estimate(
            [
                response_kl_nats(sampled.logprobs, reference)
                for sampled, reference in zip(samples, under_base, strict=True)
            ]
        )


def mean_utility(
    engine: EngineClient, conversations: Sequence[Conversation], utility: Utility, max_tokens: int
) -> float:
    """What users of the base model get on average: the utility at which they neither praise nor blame."""
    answers = sample(engine, BASE, tokenize(engine.url, conversations), max_tokens)
    return estimate(_utilities(conversations, answers, utility)).mean


def _utilities(
    conversations: Sequence[Conversation], answers: Sequence[Sample], utility: Utility
) -> list[float]:
    return [utility(last_question(c), a.text) for c, a in zip(conversations, answers, strict=True)]


def evaluate(
    engine: EngineClient,
    version: str,
    conversations: Sequence[Conversation],
    utility: Utility,
    max_tokens: int,
    kl_samples: int = 200,
) -> Evaluation:
    """Compare a served policy with the base. Raises EngineError when the engine does not have it."""
    prompts = tokenize(engine.url, conversations)
    base = sample(engine, BASE, prompts, max_tokens)
    live = sample(engine, version, prompts, max_tokens)
    of_base = _utilities(conversations, base, utility)
    of_live = _utilities(conversations, live, utility)
    return Evaluation(
        version=version,
        win_rate=estimate(wins(of_live, of_base)),
        kl_nats_base=kl_nats(engine, live[:kl_samples]),
        utility_base=estimate(of_base).mean,
        utility_live=estimate(of_live).mean,
        tokens_base=_mean_tokens(base),
        tokens_live=_mean_tokens(live),
        cut_off_base=_cut_off(base),
        cut_off_live=_cut_off(live),
        pairs=[(c, b.text, a.text) for c, b, a in zip(conversations, base, live, strict=True)],
    )


def _mean_tokens(answers: Sequence[Sample]) -> float:
    return estimate([len(answer.token_ids) for answer in answers]).mean


def _cut_off(answers: Sequence[Sample]) -> float:
    """The share of answers that the limit ended."""
    return estimate([float(answer.finish_reason == "length") for answer in answers]).mean
