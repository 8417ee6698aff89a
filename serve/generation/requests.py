"""What clients send: checking a chat request, and writing the request that vLLM gets."""

from typing import Any

import msgspec
import orjson

from feedback.core.events import Sampling
from feedback.core.ids import PREFIX
from serve.engines.affinity import of_chat
from serve.engines.upstream import CHAT_PATH
from serve.generation.grammars import check_grammars
from serve.generation.preferences import with_preferences
from serve.generation.request_schemas import CHAT, MAX_USER_CHARS
from serve.http.errors import BadRequest, NotFound
from serve.schemas import fields
from serve.schemas.validator import check

__all__ = ["MAX_USER_CHARS", "ChatRequest", "check_chat", "unknown_model", "upstream_body"]

# Meant for hearken, or not for clients to set. `priority`, `request_id` and the transfers between engines are
# the operator's; without `include_reasoning` vLLM would keep the tokens' ids and logprobs to itself.
_NOT_PASSED = frozenset(
    {
        *("user", "metadata", "store", "safety_identifier", "hearken", "service_tier", "best_of"),
        *("priority", "request_id", "session_id", "kv_transfer_params", "ec_transfer_params", "vllm_xargs"),
        *("include_reasoning",),
    }
)
_GREEDY_BELOW = 1e-5  # vLLM's own bound for temperatures that are taken for 0
_NAMED_IN = ("metadata", "hearken")
_OUTDATED = {"functions": "tools", "function_call": "tool_choice"}

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
    "parallel_tool_calls": (None, True),
}


class ChatRequest(msgspec.Struct, frozen=True):
    """A chat request that passed the gateway's checks (vLLM makes the rest), and what it asked for."""

    body: dict[str, Any]  # as the client sent it
    user: str | None
    stream: bool
    n: int
    wants_logprobs: bool
    wants_token_ids: bool
    wants_usage: bool  # in a stream; a whole answer always has its usage
    sampling: Sampling
    external_id: str | None = None  # the team's own names for the completion and the conversation
    episode_id: str | None = None
    consent: bool | None = None  # to keep the texts and learn from them; None: what the tenant's default is
    preferences: tuple[str, ...] = ()  # what its user asked for in every answer
    grammar: str | None = None  # that holds the answers to it, see `serve.generation.held`
    id_prefix: str = PREFIX  # of the answer's id
    kept_with: dict[str, Any] | None = None  # what a stored answer has besides; None: what a chat's has

    path = CHAT_PATH  # at the engine
    prompt_field = "messages"

    @property
    def conversation(self) -> bytes:
        """What tells it from other conversations, see `serve.engines.affinity`."""
        return of_chat(self.body["messages"])

    @property
    def messages(self) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = self.body["messages"]
        return messages

    @property
    def prompted(self) -> list[dict[str, Any]]:
        """The messages that the engine gets: the client's, under its user's preferences."""
        return with_preferences(self.messages, self.preferences) if self.preferences else self.messages

    @property
    def wants_preferences(self) -> bool:
        """Whether its user's preferences are to count: they do unless the request says otherwise."""
        return (self.body.get("hearken") or {}).get("preferences") is not False

    @property
    def copies(self) -> int:
        """How often each answer is given: a greedy one is always the same, and vLLM makes it only once."""
        return self.n if self.sampling.temperature < _GREEDY_BELOW else 1

    @property
    def wants_storing(self) -> bool:
        """Whether the answer is to be kept for its client."""
        return bool(self.body.get("store"))

    @property
    def wants_comparison(self) -> bool:
        """Whether two answers to choose from are wanted, instead of one."""
        wants = self.body.get("hearken") or {}
        return bool(wants.get("compare") or wants.get("compare_sparingly"))

    @property
    def is_sparing(self) -> bool:
        """Whether they are wanted only where the service thinks a vote is worth asking for."""
        return bool((self.body.get("hearken") or {}).get("compare_sparingly"))


def check_chat(body: dict[str, Any], model_name: str, default_max_tokens: int | None = None) -> ChatRequest:
    """Check a chat request, whose `body` may be changed; without a limit its answer gets the default one.

    Raises BadRequest naming the field, NotFound for another model.
    """
    for field, newer in _OUTDATED.items():
        if body.get(field) is not None:
            raise BadRequest(
                f"{field} is not supported; send {newer}.", param=field, code="unsupported_parameter"
            )
    check(body, CHAT)
    return chat_of(body, model_name, default_max_tokens)


def chat_of(body: dict[str, Any], model_name: str, default_max_tokens: int | None = None) -> ChatRequest:
    """What a body that fits its schema asks for, with the checks that go across fields. See `check_chat`."""
    check_model(body["model"], model_name)
    _tidy(body)
    wants_logprobs = bool(body.get("logprobs"))
    for field in ("top_logprobs", "logprob_token_ids"):
        if body.get(field) and not wants_logprobs:
            raise BadRequest(f"{field} needs logprobs: true.", param=field)
    external_id, episode_id = _names_of(body)
    _check_tool_choice(body)
    check_grammars(body)
    max_tokens = body.get("max_completion_tokens") or body.get("max_tokens")
    if max_tokens is None and default_max_tokens is not None:
        # vLLM lowers it to what the prompt leaves of the context. Who wants more than it wants it all.
        max_tokens = body["max_tokens"] = max(default_max_tokens, int(body.get("min_tokens") or 0))
    return ChatRequest(
        body=body,
        user=user_of(body),
        stream=bool(body.get("stream")),
        n=int(body.get("n") or 1),
        wants_logprobs=wants_logprobs,
        wants_token_ids=bool(body.get("return_token_ids")),
        wants_usage=wants_usage(body),
        sampling=sampling_of(body, max_tokens),
        external_id=external_id,
        episode_id=episode_id,
        consent=consent_of(body),
    )


def upstream_body(
    asked: ChatRequest, version: str, cache_salt: str, seed: int | None = None, tokens_per_event: int = 1
) -> bytes:
    """The request for vLLM: the client's, for a policy version, with exact ids and logprobs reported.

    `seed` and `cache_salt` override the client's; `tokens_per_event` of a stream does not, for a client that
    asks for its own `stream_interval` (vLLM's word) knows why.
    """
    body = passed_on(asked, version, cache_salt, seed)
    body["logprobs"] = True
    if asked.stream and not asked.wants_usage:
        body["stream_options"] = {"include_usage": True}
    if asked.stream and tokens_per_event > 1:
        body.setdefault("stream_interval", tokens_per_event)
    return orjson.dumps(body)


def passed_on(asked: ChatRequest, version: str, cache_salt: str, seed: int | None) -> dict[str, Any]:
    """The fields of a request that vLLM gets, asking a policy version for its tokens' ids."""
    passed = {key: value for key, value in asked.body.items() if key not in _NOT_PASSED}
    if asked.preferences:
        passed["messages"] = asked.prompted
    if asked.grammar is not None:
        passed["structured_outputs"] = {"grammar": asked.grammar}
    passed["model"] = version
    passed["cache_salt"] = cache_salt
    passed["return_token_ids"] = True
    if asked.copies > 1:
        passed["n"] = 1
    if seed is not None:
        passed["seed"] = seed
    return passed


def wants_usage(body: dict[str, Any]) -> bool:
    """Whether a stream is to end with its usage. Raises BadRequest for stream_options without a stream."""
    options = body.get("stream_options")
    if options and not body.get("stream"):
        raise BadRequest("stream_options needs stream: true.", param="stream_options")
    return bool((options or {}).get("include_usage"))


def user_of(body: dict[str, Any]) -> str | None:
    """The end user that a body names, by `user` or OpenAI's newer `safety_identifier`."""
    return body.get("user") or body.get("safety_identifier") or None


def consent_of(body: dict[str, Any]) -> bool | None:
    """What the request's `hearken: {"consent": ...}` says, None when it says nothing."""
    consent: bool | None = (body.get("hearken") or {}).get("consent")
    return consent


def check_model(model: str, model_name: str) -> None:
    """Raises NotFound for any model but the public one."""
    if model != model_name:
        raise unknown_model(model, model_name)


def unknown_model(model: str, model_name: str) -> NotFound:
    """The error for a model name that is not the public one."""
    message = f"The model {model[:100]!r} does not exist; this service has {model_name!r}."
    return NotFound(message, param="model", code="model_not_found")


def _tidy(body: dict[str, Any]) -> None:
    """Bring what clients write in several ways into the one that vLLM and chat templates know, in place."""
    if body.get("tools") == []:
        del body["tools"]
        if body.get("tool_choice") in (None, "auto", "none"):
            body.pop("tool_choice", None)
    for message in body["messages"]:
        content = message.get("content")
        if type(content) is list and not content:
            message["content"] = None if message["role"] == "assistant" else ""


def _names_of(body: dict[str, Any]) -> tuple[str | None, str | None]:
    """The team's names for the completion and its conversation, which votes may use in place of our ids.

    A client that keeps its metadata for itself, as Open WebUI does, has the same fields in `hearken`. Raises
    BadRequest naming the field.
    """
    holders = {name: body[name] for name in _NAMED_IN if isinstance(body.get(name), dict)}
    if not holders:
        return None, None
    return _name(holders, "external_id"), _name(holders, "episode_id")


def _name(holders: dict[str, dict[str, Any]], field: str) -> str | None:
    found = [
        fields.name(holder, field, fields.MAX_ID_CHARS, at=f"{name}.") for name, holder in holders.items()
    ]
    said = {name for name in found if name is not None}
    if len(said) > 1:
        raise BadRequest(
            f"metadata.{field} and hearken.{field} differ; send one of them.", param=f"hearken.{field}"
        )
    return said.pop() if said else None


def _check_tool_choice(body: dict[str, Any]) -> None:
    choice, tools = body.get("tool_choice"), body.get("tools") or []
    if choice is None or choice == "none":
        return
    if not tools:
        raise BadRequest("tool_choice needs tools.", param="tool_choice")
    if isinstance(choice, dict):
        name, known = choice["function"]["name"], [tool["function"]["name"] for tool in tools]
        if name not in known:
            raise BadRequest(
                f"tool_choice names {name[:64]!r}, which is not among the tools.", param="tool_choice"
            )


def sampling_of(body: dict[str, Any], max_tokens: float | None) -> Sampling:
    """The distribution that a checked request asks for."""
    tools = body.get("tools") or ()
    strict = bool(tools) and any(tool["function"].get("strict") for tool in tools)
    neutral = _NEUTRAL.keys().isdisjoint(body) or all(
        body[field] in _NEUTRAL[field] for field in _NEUTRAL.keys() & body
    )
    temperature, top_p = body.get("temperature"), body.get("top_p")
    return Sampling(
        temperature=1.0 if temperature is None else float(temperature),
        top_p=1.0 if top_p is None else float(top_p),
        top_k=int(body.get("top_k") or 0),
        max_tokens=None if max_tokens is None else int(max_tokens),
        seed=None if body.get("seed") is None else int(body["seed"]),
        penalties=strict or not neutral,
    )
