"""A client of one vLLM OpenAI server, for everything but users' chats (those stream through the gateway).

The release controller loads, probes and unloads adapters with it; the learner samples rollouts with it.
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import httpx

from deploy.engines.key import engine_headers
from deploy.engines.thoughts import PROMPT_END, Thoughts, after_thought, unfinished, without_marks
from deploy.engines.vllm_answers import GARBLED, checked, logprobs_of, ordered, string, whole
from deploy.registry.manifest import Probe
from feedback.core.events import BASE

T = TypeVar("T")


class EngineError(Exception):
    """The engine did not do what it was asked, or answered in another way than vLLM does. The message is the
    engine's."""


class EngineDown(EngineError):
    """The engine did not answer."""


class EngineRefused(EngineError):
    """The request itself is at fault (see `REFUSALS`): asked again, it is refused again."""


class PromptsRefused(EngineRefused):
    """Some prompts of a batch were refused. `prompts` are their token ids, the message is about the first."""

    def __init__(self, prompts: list[list[int]], message: str) -> None:
        super().__init__(message)
        self.prompts = prompts


REFUSALS = (400, 413, 422)
"""HTTP codes that are about the request. Others pass: 404 an adapter that is not loaded yet, 429 a queue."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer; `logprobs[i]` (nats) is of `token_ids[i]` under the sampling distribution.

    `token_ids[:answer_start]` is what was thought before; `text` is the answer's alone.
    """

    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str | None
    answer_start: int = 0

    @property
    def judged(self) -> tuple[list[int], list[int]]:
        """(context, answer) as token ids: what is scored. A thought belongs to the context."""
        start = self.answer_start
        return self.prompt_token_ids + self.token_ids[:start], self.token_ids[start:]


ROLLOUT_PRIORITY, PROBE_PRIORITY = 10, 0
"""vLLM schedules lower numbers first, and users' chats go at 0: rollouts wait for them, never the reverse."""

KEEP_ALIVE_SECONDS = 2.0
"""A connection that is idle for longer is not used again: vLLM's server closes it after 5 s, and a request
that is on its way then finds nobody."""

REQUESTS = 64
"""Rollouts asked for at a time, where each is a request of its own."""

SAMPLE_SECONDS = 600.0
"""How long an answer may take. It comes in one piece, and rollouts wait for chats: long is not away."""

MAX_BYTES = 256 * 2**20
"""Of one answer. The logprobs of a long prompt are some megabytes; what does not end is no answer."""


class EngineClient:
    """Synchronous client of the vLLM server at `url` (no trailing path). `timeout` in seconds.

    `thoughts`: how the engine's model thinks; whoever samples answers must say it of a model that does.
    """

    def __init__(self, url: str, timeout: float = 120.0, thoughts: Thoughts | None = None) -> None:
        self.url = url.rstrip("/")
        self._thoughts = thoughts
        limits = httpx.Limits(
            max_connections=256, max_keepalive_connections=64, keepalive_expiry=KEEP_ALIVE_SECONDS
        )
        self._http = httpx.Client(base_url=self.url, timeout=timeout, limits=limits, headers=engine_headers())
        self._patient = httpx.Timeout(timeout, read=SAMPLE_SECONDS)

    def close(self) -> None:
        self._http.close()

    def _request(
        self, method: str, path: str, body: object = None, timeout: httpx.Timeout | None = None
    ) -> bytes:
        """The body of an answer. Raises `EngineError`, whatever the engine does."""
        limit = timeout or self._http.timeout
        try:
            with self._http.stream(method, path, json=body, timeout=limit) as answer:
                content = self._content(answer, limit.read)
        except httpx.HTTPError as error:
            raise EngineDown(f"{self.url} does not answer: {error or type(error).__name__}") from error
        if answer.status_code >= 400:
            kind = EngineRefused if answer.status_code in REFUSALS else EngineError
            raise kind(f"{self.url}{path}: {answer.status_code} {content[:500].decode(errors='replace')}")
        return content

    def _content(self, answer: httpx.Response, seconds: float | None) -> bytes:
        """All of an answer. A connection's timeout is from byte to byte; this one is for all of them."""
        parts, size, began = list[bytes](), 0, time.monotonic()
        for part in answer.iter_bytes():
            parts.append(part)
            size += len(part)
            if size > MAX_BYTES:
                raise EngineError(f"{answer.url}: an answer of more than {MAX_BYTES} bytes")
            if seconds is not None and time.monotonic() - began > seconds:
                raise EngineDown(f"{answer.url}: the answer has not ended after {seconds:g} s")
        return b"".join(parts)

    def _ask(
        self,
        method: str,
        path: str,
        read: Callable[[Any], T],
        body: object = None,
        timeout: httpx.Timeout | None = None,
    ) -> T:
        """What `read` makes of an answer's JSON. Raises `EngineError`, also when that is nothing."""
        content = self._request(method, path, body, timeout)
        try:
            return read(json.loads(content))
        except GARBLED as error:
            raise EngineError(
                f"{self.url}{path} does not answer as vLLM does, "
                f"{type(error).__name__}: {str(error)[:200]}: {content[:100].decode(errors='replace')!r}"
            ) from error

    def is_healthy(self) -> bool:
        """Whether the engine answers its health check."""
        with suppress(EngineError):
            self._request("GET", "/health")
            return True
        return False

    def models(self) -> list[str]:
        """The names it serves: the base model and every adapter that is loaded."""
        return self._ask("GET", "/v1/models", lambda found: [string(card["id"]) for card in found["data"]])

    def context(self) -> int | None:
        """Tokens of a prompt and its answer together, at most; None where the engine does not say."""

        def read(found: Any) -> int | None:
            lengths = [card["max_model_len"] for card in found["data"] if card.get("max_model_len")]
            return whole(lengths[0]) if lengths else None

        return self._ask("GET", "/v1/models", read)

    def version(self) -> str:
        """vLLM's version and, behind a "+", what is changed in it; empty where the engine does not say."""
        with suppress(EngineError):
            return self._ask("GET", "/version", lambda found: string(found["version"]))
        return ""

    def load(self, name: str, path: str) -> None:
        """Load an adapter from a folder that the engine can see; a name that is loaded is an error."""
        self._request("POST", "/v1/load_lora_adapter", {"lora_name": name, "lora_path": path})

    def unload(self, name: str) -> None:
        """Forget an adapter's name."""
        self._request("POST", "/v1/unload_lora_adapter", {"lora_name": name})

    def sample(
        self,
        model: str,
        prompts: list[list[int]],
        *,
        max_tokens: int,
        temperature: float = 1.0,
        n: int = 1,
        seed: int | None = None,
        seeds: Sequence[int] | None = None,
        priority: int = ROLLOUT_PRIORITY,
    ) -> list[Sample]:
        """Sample `n` answers to each prompt (token ids); prompt-major order.

        One request, or with `seeds`, one for each prompt, as many requests at once: vLLM gives all prompts
        of a request with a seed the same noise. Raises `EngineRefused`; with `seeds`, `PromptsRefused`, which
        says which of the prompts.
        """
        body: dict[str, Any] = {
            "model": model,
            "prompt": prompts,
            "max_tokens": max_tokens,
            "temperature": temperature,
            "top_p": 1.0,
            "n": n,
            "logprobs": 0,
            "return_token_ids": True,
            "priority": priority,
        }
        if self._thoughts is not None:
            body["skip_special_tokens"] = False  # a closing mark is one with some models
        if seed is not None:
            body["seed"] = seed
        if seeds is None:
            return self._sample(body)
        bodies = [body | {"prompt": [p], "seed": s} for p, s in zip(prompts, seeds, strict=True)]
        with ThreadPoolExecutor(min(len(bodies), REQUESTS)) as pool:
            found = list(pool.map(self._sample_or_refusal, bodies))
        answered = [samples for samples in found if not isinstance(samples, EngineRefused)]
        refusals = [(p, why) for p, why in zip(prompts, found, strict=True) if isinstance(why, EngineRefused)]
        if refusals:
            raise PromptsRefused([prompt for prompt, _ in refusals], str(refusals[0][1]))
        return list(chain.from_iterable(answered))

    def _sample_or_refusal(self, body: dict[str, Any]) -> list[Sample] | EngineRefused:
        try:
            return self._sample(body)
        except EngineRefused as refusal:
            return refusal

    def _sample(self, body: dict[str, Any]) -> list[Sample]:
        prompts, n = body["prompt"], body["n"]
        choices = self._ask(
            "POST",
            "/v1/completions",
            lambda found: [checked(choice) for choice in ordered(found["choices"], len(prompts) * n)],
            body,
            self._patient,
        )
        return [self._made(prompts[i // n], choice) for i, choice in enumerate(choices)]

    def _made(self, prompt: list[int], choice: dict[str, Any]) -> Sample:
        start, text = 0, choice["text"]
        if self._thoughts is not None:
            start, text = self._without_thought(self._thoughts, prompt, choice)
        return Sample(
            prompt_token_ids=prompt,
            token_ids=choice["token_ids"],
            logprobs=choice["logprobs"]["token_logprobs"],
            text=text,
            finish_reason=choice["finish_reason"],
            answer_start=start,
        )

    def _without_thought(
        self, thoughts: Thoughts, prompt: list[int], choice: dict[str, Any]
    ) -> tuple[int, str]:
        """Where the answer begins in a choice's tokens, and its text."""
        tokens, text = choice["logprobs"].get("tokens"), choice["text"]
        if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
            raise EngineError(f"{self.url} gives no texts of the tokens that it sampled")
        start = after_thought(tokens, (thoughts.closing,))
        if start is not None:
            return start, without_marks(text.partition(thoughts.closing)[2])
        asked = {"model": BASE, "tokens": prompt[-PROMPT_END:]}
        prompt_end = self._ask("POST", "/detokenize", lambda found: string(found["prompt"]), asked)
        if unfinished(thoughts, prompt_end, "".join(tokens)):
            return len(choice["token_ids"]), ""
        return 0, text

    def logprobs(self, model: str, prompt_token_ids: list[int], token_ids: list[int]) -> list[float]:
        """The model's logprobs (nats, T=1) of given answer tokens after a prompt."""
        return self._logprobs(model, [(prompt_token_ids, token_ids)], ROLLOUT_PRIORITY)[0]

    def _logprobs(
        self, model: str, items: list[tuple[list[int], list[int]]], priority: int
    ) -> list[list[float]]:
        """The logprobs of the answers in (prompt, answer) pairs, in one request."""
        body = {
            "model": model,
            "prompt": [prompt + answer for prompt, answer in items],
            "max_tokens": 1,
            "temperature": 1.0,
            "prompt_logprobs": 0,
            "priority": priority,
        }
        return self._ask("POST", "/v1/completions", lambda found: logprobs_of(found, items), body)

    def probe(self, model: str, probes: Sequence[Probe]) -> list[list[float]]:
        """The logprobs (nats, T=1) of each probe's answer, in one request.

        Users wait for what a probe holds up: it goes with their chats, not behind them.
        """
        items = [(probe.prompt_token_ids, probe.token_ids) for probe in probes]
        return self._logprobs(model, items, PROBE_PRIORITY)
