"""The vocabulary of the log: every fact that one process tells another is one of these events.

Three topics carry them (`COMPLETIONS`, `FEEDBACK`, `RELEASES`). Events are immutable, and fields that
a newer writer added are kept when an older reader parses and rewrites an event.

A worked example. Ada asks for her parcel and gives the answer a thumb up::

    Completion(completion_id="chatcmpl-9f..", user="u_51..", arm="canary",
               policy_version="policy-3-1c9ab2d4", prompt_token_ids=[1, 17, 402],
               choices=[Choice(token_ids=[88, 2], logprobs=[-0.7, -0.1], ...)], ...)
    Feedback(event_id="fb-77..", revision=1763672400000000, kind="thumbs", rater="u_51..",
             targets=[Target(completion_id="chatcmpl-9f..")], value=1.0, label="up")
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

COMPLETIONS = "completions"
FEEDBACK = "feedback"
RELEASES = "releases"
TOPICS = (COMPLETIONS, FEEDBACK, RELEASES)

Arm = Literal["live", "control", "canary", "base"]
BASE = "base"  # the policy version, and the engine's model name, of the model with no adapter


class Event(BaseModel):
    """What all events share. `at` is Unix time in seconds, taken by the server that wrote the event."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1
    event_id: str = Field(min_length=1)
    at: float
    tenant: str = "default"


class Sampling(BaseModel):
    """The distribution that the tokens were drawn from (vLLM's names; `top_k` 0 means off)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int | None = None
    penalties: bool = False  # any presence, frequency or repetition penalty, or logit bias

    @property
    def is_plain(self) -> bool:
        """Whether a learner that knows only the logits can recompute the sampled tokens' logprobs."""
        return self.temperature == 1.0 and self.top_p == 1.0 and self.top_k <= 0 and not self.penalties


class Choice(BaseModel):
    """One sampled answer. `logprobs[i]` (nats) is of `token_ids[i]` under the sampling distribution."""

    model_config = ConfigDict(frozen=True, extra="allow")

    index: int = 0
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str | None = None


class Completion(Event):
    """One request that the service answered, with exactly what the engine saw and sampled.

    `event_id` equals `completion_id`. `role` tells the two answers of a comparison apart: the "answer"
    comes from the user's arm, the "reference" from the live policy; a plain chat has only an "answer".
    """

    completion_id: str
    conversation: str  # partition key: feedback on a conversation goes where its completions went
    user: str  # HMAC of the end user
    policy_version: str  # adapter name, or BASE
    arm: Arm
    role: Literal["answer", "reference"] = "answer"
    comparison_id: str | None = None
    table_epoch: int = 0
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    choices: list[Choice]
    sampling: Sampling = Sampling()
    ttft_seconds: float | None = None
    latency_seconds: float = 0.0


class Target(BaseModel):
    """What a vote is about: one choice of one completion."""

    model_config = ConfigDict(frozen=True, extra="allow")

    completion_id: str
    choice: int = 0


class Feedback(Event):
    """One vote. `event_id` follows from tenant, rater, kind and targets; a changed vote has a higher
    `revision`.

    thumbs: one target, value 1 (up) or 0 (down). comparison: two targets a and b in the order in which
    the vote names them, value 1 (a is better), 0 (b is better) or 0.5 (tie). `label` is the word sent.
    """

    revision: int  # server time in microseconds: last write wins
    kind: Literal["thumbs", "comparison"]
    rater: str  # HMAC of the end user who voted
    targets: list[Target] = Field(min_length=1)
    value: float = Field(ge=0.0, le=1.0)
    label: str
    source: Literal["end_user", "annotator", "app", "model", "import"] = "end_user"
    metadata: dict[str, str] = Field(default_factory=dict)
