"""One completion on its way: where it goes, what came of it so far, and the event that it becomes."""

import time
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from deploy.engines.thoughts import CLOSINGS, without_marks
from deploy.history.table import UserArm
from feedback.core.events import Choice, Completion
from serve.auth.caller import OPEN, Caller
from serve.generation.answers import Presentation, Transcript
from serve.generation.requests import ChatRequest, upstream_body
from serve.routing.placing import Place

Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Route:
    """Where one completion goes. Nothing of it but `completion_id` may reach the client."""

    completion_id: str
    user: str  # pseudonym
    arm: UserArm
    version: str
    epoch: int
    place: Place  # of its conversation; arm, version and epoch are its own, but for a reference
    role: Literal["answer", "reference"] = "answer"
    comparison_id: str | None = None
    selected: bool = False  # whether the sides are shown hangs on what a vote on them would teach
    seed: int | None = None  # overrides the client's
    caller: Caller = OPEN  # whose key asked
    cache_salt: str = ""  # requests find in an engine's prefix cache only what has the same
    since: int = 0  # the instant at which the request began, as erasures count time


class Kept(Protocol):
    """What the engine saw and sampled: `serve.generation.answers.Transcript`, or that of text."""

    prompt_token_ids: list[int]

    @property
    def has_tokens(self) -> bool: ...
    @property
    def longest(self) -> int: ...
    @property
    def is_exact(self) -> bool: ...
    @property
    def said(self) -> list[Json]: ...
    def add(self, answer: Json) -> None: ...
    def choices(self, unfinished: str | None = None) -> list[Choice]: ...


class Shown(Protocol):
    """What the client sees of the engine's answers: `serve.generation.answers.Presentation`, or that of
    text."""

    def chunk(self, chunk: Json) -> Json: ...
    def whole(self, answer: Json) -> Json: ...


def consents(asked: ChatRequest, caller: Caller) -> bool:
    """Whether the texts may be kept and learned from: as the request says, else its tenant's default."""
    return caller.consent if asked.consent is None else asked.consent


class Generation:
    """Takes in what the engine sends, gives out what the client sees, and can be logged at any time.

    `unfinished` is the finish reason of choices that the engine did not finish: "abort" (vLLM's word) when
    the client left, "error" when the engine failed.
    """

    is_worth_logging = True  # not when nothing was to be sampled

    def __init__(self, asked: ChatRequest, route: Route, transcript: Kept, presentation: Shown) -> None:
        self.asked = asked
        self.route = route
        self.transcript = transcript
        self.unfinished: str | None = "abort"
        self.ttft_seconds: float | None = None
        self.seconds = 0.0  # that it took; 0 as long as it is not finished
        self._presentation = presentation
        self._copies = asked.copies
        self._thinks = False
        self._started = time.perf_counter()

    @classmethod
    def of_chat(cls, asked: ChatRequest, route: Route, model_name: str) -> "Generation":
        """An answer to a chat, just asked for."""
        return cls(asked, route, Transcript(), Presentation(asked, route.completion_id, model_name))

    def request(self, tokens_per_event: int = 1) -> bytes:
        """The body for vLLM."""
        route = self.route
        return upstream_body(self.asked, route.version, route.cache_salt, route.seed, tokens_per_event)

    def take_chunk(self, chunk: Json) -> Json | None:
        """Keep a chunk of a stream; what the client sees of it, None for nothing."""
        self._prepare(chunk)
        self.transcript.add(chunk)
        if self.ttft_seconds is None and self.transcript.has_tokens:
            self.ttft_seconds = time.perf_counter() - self._started
        if not chunk["choices"] and not self.asked.wants_usage:
            return None  # it has only the usage, and nobody asked for that
        return self._presentation.chunk(chunk)

    def take_whole(self, answer: Json) -> Json:
        """Keep a whole answer; what the client sees of it."""
        self._prepare(answer)
        self.transcript.add(answer)
        self.finish()
        return self._presentation.whole(answer)

    def _prepare(self, answer: Json) -> None:
        """Bring a chunk, or a whole answer, into the shape that is kept and shown.

        Marks of thoughts are taken out: vLLM's parsers take out one thought, and no second one.
        """
        usage = answer.get("usage")
        if usage:
            self._tell_cached(usage)
        if self._copies > 1:
            self._copy(answer, self._copies)
        for choice in answer["choices"]:
            part = choice.get("delta") or choice.get("message") or {}
            if not self._thinks:  # a thought's end is sampled and not shown where the engine took it out
                tokens = (choice.get("logprobs") or {}).get("content") or ()
                ends = [token["token"] for token in tokens if token["token"] in CLOSINGS]
                lost = any(ends.count(end) > (part.get("content") or "").count(end) for end in ends)
                self._thinks = bool(part.get("reasoning")) or lost
            if self._thinks and part.get("content"):
                part["content"] = without_marks(part["content"])

    def _tell_cached(self, usage: Json) -> None:
        """Of the prompt's tokens tell how many were cached, as OpenAI does; not to who may vote.

        What an engine has cached is of one policy: users who find each other's prompts there share an arm.
        """
        details = usage.pop("prompt_tokens_details", None)
        if details is not None and not self.route.caller.is_blind:
            usage["prompt_tokens_details"] = {"cached_tokens": details.get("cached_tokens") or 0}

    def _copy(self, answer: Json, copies: int) -> None:
        """Make each choice as many as were asked for, as if every one had been sampled."""
        answer["choices"] = [
            choice | {"index": choice["index"] * copies + i}
            for choice in answer["choices"]
            for i in range(copies)
        ]
        usage = answer.get("usage")
        if usage is not None:
            usage["completion_tokens"] *= copies
            details = usage.get("completion_tokens_details")
            if details:
                usage["completion_tokens_details"] = {
                    name: count and count * copies for name, count in details.items()
                }
            usage["total_tokens"] = usage["prompt_tokens"] + usage["completion_tokens"]

    def finish(self) -> None:
        """The engine has sent all of it."""
        self.unfinished = None
        self.seconds = time.perf_counter() - self._started

    def completion(self) -> Completion:
        """The event, as far as the generation has come."""
        route, sampling = self.route, self.asked.sampling
        if route.seed is not None:
            sampling = sampling.model_copy(update={"seed": route.seed})
        return Completion(
            event_id=route.completion_id,
            at=time.time(),
            tenant=route.caller.tenant,
            completion_id=route.completion_id,
            conversation=route.user,
            user=route.user,
            unit=route.place.unit,
            drawn=route.place.drawn,
            policy_version=route.version,
            arm=route.arm,
            role=route.role,
            comparison_id=route.comparison_id,
            selected=route.selected,
            table_epoch=route.epoch,
            messages=self.asked.prompted,
            prompt_token_ids=self.transcript.prompt_token_ids,
            choices=self.transcript.choices(self.unfinished),
            sampling=sampling,
            ttft_seconds=self.ttft_seconds,
            latency_seconds=time.perf_counter() - self._started,
            external_id=self.asked.external_id,
            episode_id=self.asked.episode_id,
            consent=consents(self.asked, route.caller),
        )

    def failed(self, failure: str) -> Completion:
        """The event of a request that got no answer. It has no words, and no names by which to vote on it."""
        words: dict[str, Any] = {"messages": [], "prompt_token_ids": [], "choices": []}
        names: dict[str, Any] = {"external_id": None, "episode_id": None, "comparison_id": None}
        return self.completion().model_copy(update={**words, **names, "failure": failure})
