"""Completions of the log for who reads very many of them: decoded in a fraction of a `Completion`'s time.

A type here accepts less than the event of its name in `feedback.core.events`, and what it accepts has the
same fields there, with the same values. What it refuses may be right all the same: a field of a newer writer,
or what pydantic would turn into the right type. Then the event itself says what it is.
"""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from feedback.core.events import Arm, OfChoice, OfCompletion, OfSampling, Role


class DecodedChoice(OfChoice, msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `feedback.core.events.Choice`."""

    text: str
    token_ids: list[int]
    logprobs: list[float]
    index: int = 0
    finish_reason: str | None = None
    answer_start: int = 0
    thought: str | None = None
    tokens: int | None = None
    blank: bool | None = None
    prompt_token_ids: list[int] | None = None


class DecodedSampling(OfSampling, msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `feedback.core.events.Sampling`."""

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int | None = None
    penalties: bool = False
    held: bool = False


class DecodedCompletion(OfCompletion, msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """See `feedback.core.events.Completion`. gc: nothing in it refers back to it, so the garbage collector
    need not look at any."""

    event_id: Annotated[str, Meta(min_length=1)]
    completion_id: Annotated[str, Meta(min_length=1)]
    at: float
    conversation: str
    user: str
    policy_version: str
    arm: Arm
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    choices: list[DecodedChoice]
    schema_version: int = 1
    tenant: str = "default"
    sealed: str | None = None
    unit: str | None = None
    drawn: bool = True
    role: Role = "answer"
    comparison_id: str | None = None
    selected: bool = False
    table_epoch: int = 0
    sampling: DecodedSampling = DecodedSampling()
    ttft_seconds: float | None = None
    latency_seconds: float = 0.0
    external_id: str | None = None
    episode_id: str | None = None
    prompt_hash: str | None = None
    consent: bool = True
    failure: str | None = None
    metadata: Any = None


class _Texts(msgspec.Struct, forbid_unknown_fields=True):
    """What is sealed of a completion (see `feedback.privacy.sealing`)."""

    messages: list[dict[str, Any]] | UnsetType = UNSET
    prompt_token_ids: list[int] | UnsetType = UNSET
    choices: list[DecodedChoice] | UnsetType = UNSET
    metadata: Any = UNSET


_COMPLETION = msgspec.json.Decoder(DecodedCompletion)
_REFUSED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decoded(value: bytes) -> DecodedCompletion | None:
    """A completion as it lies in the log; None: ask `Completion`."""
    try:
        return _COMPLETION.decode(value)
    except _REFUSED:
        return None


def with_texts(completion: DecodedCompletion, texts: Any) -> DecodedCompletion | None:
    """A completion with the texts that were sealed; None: ask `Completion`. texts: as JSON types."""
    try:
        found = msgspec.convert(texts, _Texts)
    except _REFUSED:
        return None
    given = {name: said for name in _Texts.__struct_fields__ if (said := getattr(found, name)) is not UNSET}
    return msgspec.structs.replace(completion, **given, sealed=None)
