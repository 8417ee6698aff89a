"""What vLLM answers, seen twice: kept exactly for the log, and made presentable for the client.

A streamed token of vLLM 0.32, with the ids and logprobs that the gateway asked for::

    {"id": "chatcmpl-..", "model": "policy-3-1c9ab2d4", "choices": [{"index": 0, "delta": {"content": "Hi"},
      "logprobs": {"content": [{"token": "Hi", "logprob": -0.7, "bytes": [72, 105], "top_logprobs": []}]},
      "finish_reason": null, "token_ids": [88]}]}

The first chunk also has `prompt_token_ids`; the last one before `[DONE]` has no choices and the usage.

What a model thinks before it answers comes as `reasoning` instead of `content` (the engine's reasoning parser
tells them apart), and goes to the client under the two names that clients know, `reasoning_content` being the
older one. Where the answer begins among the tokens is for the log (`deploy/engines/thoughts.py`).
"""

from dataclasses import dataclass, field
from typing import Any

from deploy.engines.thoughts import answer_start
from feedback.core.events import Choice
from serve.generation.requests import ChatRequest

Json = dict[str, Any]


@dataclass(slots=True)
class Sampled:
    """One choice as it grows."""

    text: list[str] = field(default_factory=list)
    thought: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)  # ids of the calls of tools
    token_ids: list[int] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)  # their texts, as far as they are known
    logprobs: list[float] = field(default_factory=list)
    finish_reason: str | None = None

    def choice(self, index: int, unfinished: str | None, thinks: bool = False) -> Choice:
        """The choice for the log; one whose logprobs do not pair with its tokens has none: never wrong.

        thinks: whether the engine's model thinks before it answers.
        """
        text, thought = "".join(self.text), "".join(self.thought)
        paired = len(self.logprobs) == len(self.token_ids)
        return Choice(
            index=index,
            text=text,
            token_ids=self.token_ids,
            logprobs=self.logprobs if paired else [],
            finish_reason=self.finish_reason or unfinished,
            answer_start=answer_start(self.tokens, thought, text) if paired and (thinks or thought) else 0,
            thought=thought or None,
        )


class Transcript:
    """What the engine saw and sampled, gathered from chunks or from one whole answer."""

    def __init__(self) -> None:
        self.prompt_token_ids: list[int] = []
        self.usage: Json | None = None  # the engine's own counts
        self._thinks = False  # whether the engine has a reasoning parser: then it counts what was thought
        self._sampled: dict[int, Sampled] = {}

    def add(self, answer: Json) -> None:
        """Take in a chunk, or a whole answer."""
        prompt = answer.get("prompt_token_ids")
        if prompt is not None:
            self.prompt_token_ids = prompt
        usage = answer.get("usage")
        if usage is not None:
            self.usage = usage
            self._thinks = usage.get("completion_tokens_details") is not None
        for choice in answer["choices"]:
            sampled = self._sampled.get(choice["index"])
            if sampled is None:
                sampled = self._sampled[choice["index"]] = Sampled()
            part = choice.get("delta") or choice.get("message") or {}
            content = part.get("content")
            if content:
                sampled.text.append(content)
            thought = part.get("reasoning")
            if thought:
                sampled.thought.append(thought)
            for call in part.get("tool_calls") or ():
                if call.get("id"):
                    sampled.calls.append(call["id"])
            token_ids = choice.get("token_ids")
            if token_ids:
                sampled.token_ids += token_ids
            logprobs = choice.get("logprobs")
            if logprobs is not None and logprobs.get("content"):
                sampled.logprobs += [token["logprob"] for token in logprobs["content"]]
                sampled.tokens += [token["token"] for token in logprobs["content"]]
            finish_reason = choice.get("finish_reason")
            if finish_reason is not None:
                sampled.finish_reason = finish_reason

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
        paired = all(len(s.token_ids) == len(s.logprobs) for s in self._sampled.values())
        tokens = sum(len(s.token_ids) for s in self._sampled.values())
        counted = (self.usage or {}).get("completion_tokens")
        return paired and counted in (None, tokens) and bool(self.prompt_token_ids)

    @property
    def said(self) -> list[Json]:
        """The answers as the messages that clients send again with the next turn."""
        return [
            {
                "role": "assistant",
                "content": "".join(sampled.text),
                "tool_calls": [{"id": call} for call in sampled.calls],
            }
            for sampled in self._sampled.values()
        ]

    def choices(self, unfinished: str | None = None) -> list[Choice]:
        """The choices for the log; those that did not finish get `unfinished` as their finish reason."""
        made = sorted(self._sampled.items())
        return [sampled.choice(index, unfinished, self._thinks) for index, sampled in made]


_ENGINE_ONLY = ("prompt_logprobs", "prompt_text", "kv_transfer_params", "ec_transfer_params", "metrics")


class Presentation:
    """Rewrites the engine's answers of one completion, in place, into what its client asked for."""

    def __init__(self, asked: ChatRequest, completion_id: str, model_name: str) -> None:
        self._id = completion_id
        self._model = model_name
        self._logprobs = asked.wants_logprobs
        self._token_ids = asked.wants_token_ids

    def chunk(self, chunk: Json) -> Json:
        """A chunk for the client."""
        chunk["id"] = self._id
        chunk["model"] = self._model
        if not self._token_ids:
            chunk.pop("prompt_token_ids", None)
        for choice in chunk["choices"]:
            if not self._logprobs:
                choice["logprobs"] = None
            if not self._token_ids:
                choice.pop("token_ids", None)
            part = choice["message"] if "message" in choice else choice["delta"]
            if "reasoning" in part:
                _name_thought(part)
        return chunk

    def whole(self, answer: Json) -> Json:
        """A whole answer for the client: what a chunk is, and more."""
        self.chunk(answer)
        for message in (choice["message"] for choice in answer["choices"]):
            if message.get("tool_calls") and not message["content"]:
                message["content"] = None
        for name in _ENGINE_ONLY:
            if answer.get(name) is None:
                answer.pop(name, None)
        return answer


def lacks_answer(answer: Json) -> bool:
    """Whether vLLM takes all of some choice of a whole answer for a thought that never ended."""
    messages = [choice["message"] for choice in answer["choices"]]
    return any(m.get("reasoning") and not m["content"] and not m.get("tool_calls") for m in messages)


def take_as_answered(answer: Json) -> None:
    """Make answers of the thoughts that never ended, in place: the prompt said to think nothing.

    For whole answers vLLM 0.32 looks at nothing but what was sampled, for streams also at whether the prompt
    has closed the thought already, as some templates do when the user writes "/no_think".
    """
    for message in (choice["message"] for choice in answer["choices"]):
        if message.get("reasoning") and not message["content"] and not message.get("tool_calls"):
            message["content"], message["reasoning"] = message["reasoning"], None


def _name_thought(message: Json) -> None:
    """Give a message, or a part of one, its thought under both names; none where nothing was thought."""
    thought = message.pop("reasoning", None)
    if thought is not None:
        message["reasoning"] = message["reasoning_content"] = thought
