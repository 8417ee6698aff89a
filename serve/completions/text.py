"""POST /v1/completions: text goes on where a prompt ends. OpenAI's older API, for the same policies and log.

vLLM answers a list of prompts with one list of choices, `n` for each prompt in turn, and puts ids and
logprobs in other places than in a chat::

    {"choices": [{"index": 0, "text": " and", "token_ids": [88], "prompt_token_ids": [1, 17],
      "logprobs": {"tokens": [" and"], "token_logprobs": [-0.7], "top_logprobs": [{}], "text_offset": [9]}}]}

Asked for token ids, it leaves the prompt out of an echo, so it is put there here.
"""

from typing import Any

import orjson

from feedback.core.events import Choice
from serve.engines.affinity import of_prompt
from serve.generation.answers import Sampled
from serve.generation.generation import Generation, Json, Route
from serve.generation.grammars import check_grammars
from serve.generation.request_schemas import MAX_CHOICES, TEXT
from serve.generation.requests import (
    ChatRequest,
    check_model,
    consent_of,
    passed_on,
    sampling_of,
    user_of,
    wants_usage,
)
from serve.http.errors import BadRequest
from serve.schemas.validator import check

_DEFAULT_MAX_TOKENS = 16


class TextRequest(ChatRequest, frozen=True):
    """A checked request for text. `prompts`: one string or one list of token ids each."""

    prompts: tuple[str | list[int], ...] = ()
    echo: bool = False

    path = "/v1/completions"
    prompt_field = "prompt"

    @property
    def conversation(self) -> bytes:
        """What tells it from other conversations, see `serve.engines.affinity`."""
        return of_prompt(self.prompts[0])

    @property
    def messages(self) -> list[Json]:
        """The prompts as the log keeps them: what was written, as if said by the user."""
        return [{"role": "user", "content": p} for p in self.prompts if isinstance(p, str)]

    @property
    def wants_storing(self) -> bool:
        """Only chats are kept, as at OpenAI."""
        return False

    @property
    def wants_preferences(self) -> bool:
        """A text has no message of its user in which they could stand."""
        return False

    @property
    def only_echoes(self) -> bool:
        """Whether nothing is to be sampled: the logprobs of the prompt are what is wanted."""
        return self.sampling.max_tokens == 0


def check_text(body: Json, model_name: str) -> TextRequest:
    """Check a request for text. Raises BadRequest naming the field, NotFound for another model."""
    check(body, TEXT)
    check_model(body["model"], model_name)
    echo, n = bool(body.get("echo")), int(body.get("n") or 1)
    max_tokens = _DEFAULT_MAX_TOKENS if body.get("max_tokens") is None else int(body["max_tokens"])
    if max_tokens == 0 and not echo:
        raise BadRequest("max_tokens must be at least 1, or echo must be true.", param="max_tokens")
    if body.get("suffix") is not None:
        raise BadRequest("suffix is not supported.", param="suffix", code="unsupported_parameter")
    if body.get("best_of") not in (None, n):
        raise BadRequest(
            "best_of is not supported: leave it out or at n.", param="best_of", code="unsupported_parameter"
        )
    prompts = _prompts(body["prompt"])
    if len(prompts) * n > MAX_CHOICES:
        raise BadRequest(
            f"n times the number of prompts may be at most {MAX_CHOICES}, not {len(prompts) * n}.", param="n"
        )
    check_grammars(body)
    return TextRequest(
        body=body | {"prompt": list(prompts) if len(prompts) > 1 else prompts[0]},
        user=user_of(body),
        stream=bool(body.get("stream")),
        n=n,
        wants_logprobs=body.get("logprobs") is not None,
        wants_token_ids=bool(body.get("return_token_ids")),
        wants_usage=wants_usage(body),
        sampling=sampling_of(body, max_tokens),
        consent=consent_of(body),
        prompts=prompts,
        echo=echo,
    )


def _prompts(prompt: Any) -> tuple[str | list[int], ...]:
    """A checked `prompt` as prompts. JSON's 7.0 is an integer too, and becomes one."""
    if isinstance(prompt, str):
        return (prompt,)
    if isinstance(prompt[0], int | float):
        return ([int(token) for token in prompt],)
    return tuple(p if isinstance(p, str) else [int(token) for token in p] for p in prompt)


class TextTranscript:
    """What the engine saw and sampled; `serve.generation.answers.Transcript` for text."""

    def __init__(self, asked: TextRequest) -> None:
        self.prompt_token_ids: list[int] = []  # of the first prompt
        self.usage_tokens: int | None = None
        self._asked = asked
        self._sampled: dict[int, Sampled] = {}
        self._prompts: dict[int, list[int]] = {}  # of each choice

    def add(self, answer: Json) -> None:
        """Take in a chunk, or a whole answer."""
        usage = answer.get("usage")
        if usage is not None:
            self.usage_tokens = usage.get("completion_tokens")
        for choice in answer["choices"]:
            self._add_choice(choice)

    def _add_choice(self, choice: Json) -> None:
        index = choice["index"]
        sampled = self._sampled.setdefault(index, Sampled())
        logprobs = choice.get("logprobs")
        numbers = [] if logprobs is None else logprobs["token_logprobs"]
        prompt = choice.get("prompt_token_ids")
        if prompt is not None:
            self._prompts[index] = prompt
            if index == 0:
                self.prompt_token_ids = prompt
            if self._asked.echo:
                numbers = numbers[len(prompt) :]
        sampled.text.append(choice["text"])
        sampled.token_ids += choice.get("token_ids") or []
        sampled.logprobs += numbers
        sampled.finish_reason = choice.get("finish_reason") or sampled.finish_reason

    @property
    def has_tokens(self) -> bool:
        """Whether anything was sampled yet."""
        return any(sampled.token_ids for sampled in self._sampled.values())

    @property
    def longest(self) -> int:
        """Tokens of the longest choice."""
        return max((len(sampled.token_ids) for sampled in self._sampled.values()), default=0)

    @property
    def is_exact(self) -> bool:
        """Whether every sampled token has its logprob, and the engine counted as many as arrived."""
        everything = self._sampled.values()
        paired = all(len(s.token_ids) == len(s.logprobs) for s in everything)
        return paired and self.usage_tokens in (None, sum(len(s.token_ids) for s in everything))

    @property
    def said(self) -> list[Json]:
        """No messages: nobody sends a text again as a turn of a conversation."""
        return []

    def choices(self, unfinished: str | None = None) -> list[Choice]:
        """The choices for the log, as in `serve.generation.answers`; of several prompts, each has its own."""
        several = len(self._asked.prompts) > 1
        made = [(index, s, s.choice(index, unfinished)) for index, s in sorted(self._sampled.items())]
        if not several:
            return [choice for _, _, choice in made]
        return [
            choice.model_copy(update={"prompt_token_ids": self._prompts.get(index, [])})
            for index, _, choice in made
        ]


class TextPresentation:
    """Rewrites the engine's answers, in place, into what the client asked for. `echoed`: prompts as text."""

    def __init__(self, asked: TextRequest, completion_id: str, model_name: str, echoed: list[str]) -> None:
        self._asked = asked
        self._id = completion_id
        self._model = model_name
        self._to_echo = dict(enumerate(text for text in echoed for _ in range(asked.n)))

    def chunk(self, chunk: Json) -> Json:
        """A chunk for the client: what a whole answer is."""
        return self.whole(chunk)

    def whole(self, answer: Json) -> Json:
        """A whole answer for the client."""
        asked = self._asked
        answer["id"] = self._id
        answer["model"] = self._model
        for choice in answer["choices"]:
            choice["text"] = self._to_echo.pop(choice["index"], "") + choice["text"]
            choice.pop("prompt_logprobs", None)
            if not asked.wants_logprobs:
                choice["logprobs"] = None
            if not asked.wants_token_ids:
                choice.pop("token_ids", None)
                choice.pop("prompt_token_ids", None)
        usage = answer.get("usage")
        if usage is not None and asked.only_echoes:  # vLLM samples one token, and does not show it
            usage["completion_tokens"], usage["total_tokens"] = 0, usage["prompt_tokens"]
        return answer


class TextGeneration(Generation):
    """A `Generation` of text."""

    asked: TextRequest

    def __init__(self, asked: TextRequest, route: Route, model_name: str, echoed: list[str]) -> None:
        transcript = TextTranscript(asked)
        presentation = TextPresentation(asked, route.completion_id, model_name, echoed)
        super().__init__(asked, route, transcript, presentation)
        self.is_worth_logging = not asked.only_echoes

    def request(self, tokens_per_event: int = 1) -> bytes:
        """The body for vLLM."""
        route = self.route
        body = passed_on(self.asked, route.version, route.cache_salt, route.seed)
        if not self.asked.wants_logprobs:
            body["logprobs"] = 0
        if self.asked.stream and not self.asked.wants_usage:
            body["stream_options"] = {"include_usage": True}
        if self.asked.stream and tokens_per_event > 1:
            body.setdefault("stream_interval", tokens_per_event)
        return orjson.dumps(body)
