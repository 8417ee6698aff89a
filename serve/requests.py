"""What clients send: reading a body, checking a chat request, and writing the request that vLLM gets."""

from dataclasses import dataclass
from typing import Any

import orjson
from fastapi import Request

from feedback.events import Sampling
from serve.errors import BadRequest, BodyTooLarge, NotFound

MAX_USER_CHARS = 512
MAX_CHOICES = 128  # of one request, as at OpenAI

# Meant for hearken, or not for clients to set: `priority` and `request_id` are the engine operator's.
_NOT_PASSED = ("user", "metadata", "store", "safety_identifier", "hearken", "priority", "request_id")

# Fields that reshape the sampling distribution in ways that a learner who knows only logits cannot undo,
# with the values at which they do nothing.
_NEUTRAL: dict[str, tuple[object, ...]] = {
    "presence_penalty": (None, 0),
    "frequency_penalty": (None, 0),
    "repetition_penalty": (None, 1),
    "logit_bias": (None, {}),
    "min_p": (None, 0),
    "min_tokens": (None, 0),
    "bad_words": (None, []),
    "allowed_token_ids": (None, []),
    "structured_outputs": (None,),
    "response_format": (None, {"type": "text"}),
    "use_beam_search": (None, False),
    "watermarking": (None, False),
    "thinking_token_budget": (None,),
    "tool_choice": (None, "none", "auto"),
}


async def read_body(request: Request, limit: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as it is known to exceed `limit` bytes."""
    too_large = BodyTooLarge(f"The request body exceeds {limit} bytes.", code="request_too_large")
    declared = request.headers.get("content-length", "")
    if declared.isdecimal() and int(declared) > limit:
        raise too_large
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > limit:
            raise too_large
        parts.append(part)
    return b"".join(parts)


def parse_object(raw: bytes) -> dict[str, Any]:
    """The JSON object in a body; raises BadRequest for anything else."""
    try:
        body = orjson.loads(raw)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"The body is not valid JSON: {error}.", code="invalid_json") from error
    if not isinstance(body, dict):
        raise BadRequest("The body must be a JSON object.", code="invalid_json")
    return body


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A chat request that passed the gateway's checks (vLLM makes the rest), and what it asked for."""

    body: dict[str, Any]  # as the client sent it
    user: str | None
    stream: bool
    n: int
    wants_logprobs: bool
    wants_token_ids: bool
    wants_usage: bool  # in a stream; a whole answer always has its usage
    sampling: Sampling

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages


def parse_chat(raw: bytes, model_name: str) -> ChatRequest:
    """Check a chat request. Raises BadRequest naming the field, NotFound for another model."""
    body = parse_object(raw)
    _check_model(body.get("model"), model_name)
    _check_messages(body.get("messages"))
    options = _typed(body, "stream_options", dict, "an object") or {}
    stream = bool(_typed(body, "stream", bool, "true or false"))
    if options and not stream:
        raise BadRequest("stream_options needs stream: true.", param="stream_options")
    wants_logprobs = bool(_typed(body, "logprobs", bool, "true or false"))
    for field in ("top_logprobs", "logprob_token_ids"):
        if body.get(field) and not wants_logprobs:
            raise BadRequest(f"{field} needs logprobs: true.", param=field)
    return ChatRequest(
        body=body,
        user=user_of(body),
        stream=stream,
        n=_integer(body, "n", at_least=1, at_most=MAX_CHOICES) or 1,
        wants_logprobs=wants_logprobs,
        wants_token_ids=bool(_typed(body, "return_token_ids", bool, "true or false")),
        wants_usage=bool(options.get("include_usage")),
        sampling=_sampling(body),
    )


def upstream_body(asked: ChatRequest, version: str, seed: int | None = None) -> bytes:
    """The request for vLLM: the client's, for a policy version, with exact ids and logprobs reported.

    `seed` overrides the client's.
    """
    body = {key: value for key, value in asked.body.items() if key not in _NOT_PASSED}
    body["model"] = version
    body["logprobs"] = True
    body["return_token_ids"] = True
    if asked.stream and not asked.wants_usage:
        body["stream_options"] = {"include_usage": True}
    if seed is not None:
        body["seed"] = seed
    return orjson.dumps(body)


def user_of(body: dict[str, Any]) -> str | None:
    """The end user that a body names, by `user` or OpenAI's newer `safety_identifier`."""
    for field in ("user", "safety_identifier"):
        user = _typed(body, field, str, "a string")
        if user:
            if len(user) > MAX_USER_CHARS:
                raise BadRequest(f"{field} is longer than {MAX_USER_CHARS} characters.", param=field)
            return str(user)
    return None


def _check_model(model: object, model_name: str) -> None:
    if model is None:
        raise BadRequest(
            f"model is missing; send {model_name!r}.", param="model", code="missing_required_parameter"
        )
    if not isinstance(model, str):
        raise BadRequest("model must be a string.", param="model", code="invalid_type")
    if model != model_name:
        raise unknown_model(model, model_name)


def unknown_model(model: str, model_name: str) -> NotFound:
    """The error for a model name that is not the public one."""
    message = f"The model {model[:100]!r} does not exist; this service has {model_name!r}."
    return NotFound(message, param="model", code="model_not_found")


def _check_messages(messages: object) -> None:
    if messages is None:
        raise BadRequest("messages is missing.", param="messages", code="missing_required_parameter")
    if not isinstance(messages, list):
        raise BadRequest("messages must be a list.", param="messages", code="invalid_type")
    if not messages:
        raise BadRequest("messages is empty; send at least one message.", param="messages")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise BadRequest(f"messages[{i}] must be an object.", param=f"messages[{i}]", code="invalid_type")
        if not isinstance(message.get("role"), str):
            raise BadRequest(
                f"messages[{i}].role must be a string, like 'user'.",
                param=f"messages[{i}].role",
                code="invalid_type",
            )
        content = message.get("content")
        if content is not None and not isinstance(content, str | list):
            raise BadRequest(
                f"messages[{i}].content must be a string or a list of parts.",
                param=f"messages[{i}].content",
                code="invalid_type",
            )


def _typed(body: dict[str, Any], field: str, kind: type, words: str) -> Any:
    """A field of one JSON type, or None when it is absent or null."""
    value = body.get(field)
    if value is not None and type(value) is not kind:
        raise BadRequest(f"{field} must be {words}.", param=field, code="invalid_type")
    return value


def _integer(
    body: dict[str, Any], field: str, at_least: int | None = None, at_most: int | None = None
) -> int | None:
    value: int | None = _typed(body, field, int, "an integer")
    if value is not None and at_least is not None and value < at_least:
        raise BadRequest(f"{field} must be at least {at_least}.", param=field)
    if value is not None and at_most is not None and value > at_most:
        raise BadRequest(f"{field} must be at most {at_most}.", param=field)
    return value


def _number(body: dict[str, Any], field: str, default: float) -> float:
    value = body.get(field)
    if value is None:
        return default
    if type(value) not in (int, float):
        raise BadRequest(f"{field} must be a number.", param=field, code="invalid_type")
    return float(value)


def _sampling(body: dict[str, Any]) -> Sampling:
    max_tokens = _integer(body, "max_completion_tokens", at_least=1)
    return Sampling(
        temperature=_number(body, "temperature", 1.0),
        top_p=_number(body, "top_p", 1.0),
        top_k=_integer(body, "top_k") or 0,
        max_tokens=_integer(body, "max_tokens", at_least=1) if max_tokens is None else max_tokens,
        seed=_integer(body, "seed"),
        penalties=any(body.get(field) not in neutral for field, neutral in _NEUTRAL.items()),
    )
