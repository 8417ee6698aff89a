"""A client of one vLLM OpenAI server, for everything but users' chats (those stream through the gateway).

The release controller loads, probes and unloads adapters with it; the learner samples rollouts with it.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import Any

import httpx

from deploy.manifest import Probe


class EngineError(Exception):
    """The engine answered, and refused. The message is the engine's."""


class EngineDown(EngineError):
    """The engine did not answer."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One sampled answer; `logprobs[i]` (nats) is of `token_ids[i]` under the sampling distribution."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    logprobs: list[float]
    text: str
    finish_reason: str | None


ROLLOUT_PRIORITY = 10
"""vLLM schedules lower numbers first, and users' chats go at 0: rollouts wait for them, never the reverse."""

PROBE_PRIORITY = 0

REQUESTS = 64
"""Rollouts asked for at a time, where each is a request of its own."""


class EngineClient:
    """Synchronous client of the vLLM server at `url` (no trailing path). `timeout` in seconds."""

    def __init__(self, url: str, timeout: float = 120.0) -> None:
        self.url = url.rstrip("/")
        limits = httpx.Limits(max_connections=256, max_keepalive_connections=64)
        self._http = httpx.Client(base_url=self.url, timeout=timeout, limits=limits)

    def close(self) -> None:
        self._http.close()

    def _request(self, method: str, path: str, body: object = None) -> httpx.Response:
        try:
            answer = self._http.request(method, path, json=body)
        except httpx.HTTPError as error:
            raise EngineDown(f"{self.url} does not answer: {error}") from error
        if answer.status_code >= 400:
            raise EngineError(f"{self.url}{path}: {answer.status_code} {answer.text[:500]}")
        return answer

    def is_healthy(self) -> bool:
        """Whether the engine answers its health check."""
        try:
            self._request("GET", "/health")
        except EngineError:
            return False
        return True

    def models(self) -> list[str]:
        """The names it serves: the base model and every adapter that is loaded."""
        return [model["id"] for model in self._request("GET", "/v1/models").json()["data"]]

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
        of a request with a seed the same noise.
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
        if seed is not None:
            body["seed"] = seed
        if seeds is None:
            return self._sample(body)
        bodies = [body | {"prompt": [p], "seed": s} for p, s in zip(prompts, seeds, strict=True)]
        with ThreadPoolExecutor(min(len(bodies), REQUESTS)) as pool:
            return list(chain.from_iterable(pool.map(self._sample, bodies)))

    def _sample(self, body: dict[str, Any]) -> list[Sample]:
        choices = self._request("POST", "/v1/completions", body).json()["choices"]
        choices.sort(key=lambda choice: choice["index"])
        return [
            Sample(
                prompt_token_ids=body["prompt"][i // body["n"]],
                token_ids=choice["token_ids"],
                logprobs=choice["logprobs"]["token_logprobs"],
                text=choice["text"],
                finish_reason=choice["finish_reason"],
            )
            for i, choice in enumerate(choices)
        ]

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
        choices = self._request("POST", "/v1/completions", body).json()["choices"]
        choices.sort(key=lambda choice: choice["index"])
        found = []
        for choice, (prompt, answer) in zip(choices, items, strict=True):
            rows = choice["prompt_logprobs"][len(prompt) :]
            found.append([row[str(token)]["logprob"] for row, token in zip(rows, answer, strict=True)])
        return found

    def probe(self, model: str, probes: Sequence[Probe]) -> list[list[float]]:
        """The logprobs (nats, T=1) of each probe's answer, in one request.

        Users wait for what a probe holds up: it goes with their chats, not behind them.
        """
        items = [(probe.prompt_token_ids, probe.token_ids) for probe in probes]
        return self._logprobs(model, items, PROBE_PRIORITY)
