"""The vocabulary of the log: every fact that one process tells another is one of these events.

Four topics carry them (`COMPLETIONS`, `FEEDBACK`, `RELEASES`, `UPDATES`). Events are immutable, and fields
that a newer writer added are kept when an older reader parses and rewrites an event.

A worked example. Ada asks for her parcel and gives the answer a thumb up::

    Completion(completion_id="chatcmpl-9f..", user="u_51..", arm="canary",
               policy_version="policy-3-1c9ab2d4", prompt_token_ids=[1, 17, 402],
               choices=[Choice(token_ids=[88, 2], logprobs=[-0.7, -0.1], ...)], ...)
    Feedback(event_id="fb-77..", revision=1763672400000000, kind="thumbs", rater="u_51..",
             targets=[Target(completion_id="chatcmpl-9f..")], value=1.0, label="up")
"""

from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

COMPLETIONS = "completions"
FEEDBACK = "feedback"
RELEASES = "releases"
UPDATES = "updates"  # what the learner used votes for (see `usage`), and its steps (see `steps`)
TOPICS = (COMPLETIONS, FEEDBACK, RELEASES, UPDATES)

Arm = Literal["live", "control", "canary", "anchor", "base"]
Role = Literal["answer", "reference"]
BASE = "base"  # the policy version, and the engine's model name, of the model with no adapter


class Event(BaseModel):
    """What all events share. `at` is Unix time in seconds, taken by the server that wrote the event."""

    model_config = ConfigDict(frozen=True, extra="allow")

    schema_version: int = 1
    event_id: str = Field(min_length=1)
    at: float
    tenant: str = "default"
    sealed: str | None = None  # the texts, under their user's key (see `sealing`)


class OfSampling:
    """What follows from the fields of a `Sampling`, whoever decoded it (`feedback.core.decoded`)."""

    __slots__ = ()
    if TYPE_CHECKING:
        temperature: float
        top_p: float
        top_k: int
        penalties: bool

    @property
    def is_plain(self) -> bool:
        """Whether a learner that knows only the logits can recompute the sampled tokens' logprobs."""
        return self.temperature == 1.0 and self.top_p == 1.0 and self.top_k <= 0 and not self.penalties


class Sampling(OfSampling, BaseModel):
    """The distribution that the tokens were drawn from (vLLM's names; `top_k` 0 means off)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    max_tokens: int | None = None
    seed: int | None = None
    penalties: bool = False  # any presence, frequency or repetition penalty, logit bias, or grammar
    held: bool = False  # a grammar had what the user asked for in every answer


class OfChoice:
    """What follows from the fields of a `Choice`, likewise."""

    __slots__ = ()
    if TYPE_CHECKING:
        text: str
        token_ids: list[int]
        answer_start: int
        tokens: int | None
        blank: bool | None

    @property
    def length(self) -> int:
        """How many tokens were sampled."""
        return len(self.token_ids) if self.tokens is None else self.tokens

    @property
    def answer_length(self) -> int:
        """How many tokens the answer has, without the thought."""
        return self.length - self.answer_start

    @property
    def is_blank(self) -> bool:
        """Whether the answer says nothing."""
        return not self.text.strip() if self.blank is None else self.blank


class Choice(OfChoice, BaseModel):
    """One sampled answer. `logprobs[i]` (nats) is of `token_ids[i]` under the sampling distribution.

    A model may think before it answers: `token_ids[:answer_start]`, and `thought` as text. `text` is the
    answer alone, which is what people see and vote on.

    Where the text and its tokens are sealed, or may not be kept, `tokens` and `blank` say what can be said.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    index: int = 0
    text: str
    token_ids: list[int]
    logprobs: list[float]
    finish_reason: str | None = None
    answer_start: int = 0  # all tokens where the thought never ended: then the answer is empty
    thought: str | None = None
    tokens: int | None = None  # how many were sampled
    blank: bool | None = None  # whether the text was nothing but space
    prompt_token_ids: list[int] | None = None  # of this choice, where the request had several prompts

    def without_text(self) -> "Choice":
        """What remains of the choice when its text and tokens are taken away."""
        return Choice(
            index=self.index,
            text="",
            token_ids=[],
            logprobs=[],
            finish_reason=self.finish_reason,
            answer_start=self.answer_start,
            tokens=self.length,
            blank=self.is_blank,
        )


class OfCompletion:
    """What follows from the fields of a `Completion`, likewise."""

    __slots__ = ()
    if TYPE_CHECKING:
        user: str
        unit: str | None

    @property
    def exposed(self) -> str:
        """Who is exposed to the arm, and counts once: the user, or a conversation that names none."""
        return self.unit or self.user


class Completion(OfCompletion, Event):
    """One request that the service answered, with exactly what the engine saw and sampled.

    Or one that got no answer at all, and then `failure` says why, and nothing that anyone said is in it.

    `event_id` equals `completion_id`. `role` tells the two answers of a comparison apart: the "answer"
    comes from the user's arm, the "reference" from the live policy; a plain chat has only an "answer".
    """

    completion_id: str
    conversation: str  # partition key: feedback on a conversation goes where its completions went
    user: str  # HMAC of the end user
    unit: str | None = None  # who was assigned to the arm, where nobody was named: the conversation
    drawn: bool = True  # whether this request drew its arm; False: it is its conversation's, epoch included
    policy_version: str  # adapter name, or BASE
    arm: Arm
    role: Role = "answer"
    comparison_id: str | None = None
    selected: bool = False  # whether it was shown hung on what a vote would teach: votes are no evidence
    table_epoch: int = 0
    messages: list[dict[str, Any]]
    prompt_token_ids: list[int]
    choices: list[Choice]
    sampling: Sampling = Sampling()
    ttft_seconds: float | None = None
    latency_seconds: float = 0.0
    external_id: str | None = None  # the team's own id of this completion, from the request's metadata
    episode_id: str | None = None  # the team's own id of the conversation, from the request's metadata
    prompt_hash: str | None = None  # tells equal prompts from others without their words (see `Signer`)
    consent: bool = True  # False: its texts may not be kept, and it is never trained on
    failure: str | None = None  # why there is no answer (see serve/engines/failing.py)


class Target(BaseModel):
    """What a vote is about: one choice of one completion, or a whole episode.

    Exactly one of `completion_id` (a signed id of ours), `external_id` (the team's own id of a completion)
    and `episode_id` (a conversation) is set; the latter two were given in the chat request's metadata.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    completion_id: str = ""
    choice: int = 0
    external_id: str | None = None
    episode_id: str | None = None

    @property
    def place(self) -> tuple[str, int]:
        """The target as part of a vote's id (see `ids.vote_id`)."""
        if self.external_id is not None:
            return EXTERNAL + self.external_id, self.choice
        if self.episode_id is not None:
            return EPISODE + self.episode_id, 0
        return self.completion_id, self.choice


EXTERNAL, EPISODE = "external:", "episode:"

VoteKind = Literal["thumbs", "rating", "comparison", "ranking", "correction", "comment", "metric", "signal"]
Source = Literal["end_user", "annotator", "app", "model", "import"]
Direction = Literal["higher", "lower"]


class Feedback(Event):
    """One vote, or the retraction of one. `event_id` follows from tenant, rater, kind and targets; a changed
    vote has a higher `revision`.

    `value` is in [0, 1], 1 the best, and 0.5 where a kind has none; `label` is one word of a few.

    ==========  ===================  ==================================================================
    thumbs      up, down             value 1 or 0
    rating      rated                `amount` on `scale` (lowest, highest); value is its share of the scale
    comparison  a, b, tie, both_bad  two targets a and b in the order in which the vote names them; value 1
                                     (a is better), 0 (b is better), 0.5; `presented`: as they were shown
    ranking     ranked               `groups` of indices into targets, the best first, a group is a tie
    correction  corrected            `text` is what the answer should have been
    comment     commented            `text`
    metric      measured             `name`, `amount`, maybe `direction`, and `scale`, which gives the value
    signal      yes, no, amount,     `name` is what a person did, or did not do though it was `shown`;
                not_shown            `amount`
    signal      kept_new, kept_old,  the first target was generated anew in place of the second; value 1
                regenerated          where the first was kept, 0 where the second was, else 0.5
    retraction  retracted            takes back the vote of this `event_id`, whose kind is `retracts`
    ==========  ===================  ==================================================================

    Which fields have people's words in them: `WORDS_OF_VOTES`.
    """

    revision: int  # server time in microseconds: last write wins
    kind: VoteKind | Literal["retraction"]
    rater: str  # HMAC of the end user who voted
    targets: list[Target] = Field(min_length=1)
    value: float = Field(ge=0.0, le=1.0)
    label: str
    source: Source = "end_user"
    metadata: dict[str, str] = Field(default_factory=dict)
    weight: float = Field(default=1.0, ge=0.0, le=1.0)
    occurred_at: float | None = None  # Unix time, as the client says; `at` is the server's own
    reasons: list[str] = Field(default_factory=list)
    tags: list[str] = Field(default_factory=list)
    comment: str | None = None
    text: str | None = None
    amount: float | None = None
    scale: tuple[float, float] | None = None
    direction: Direction | None = None
    name: str | None = None
    groups: list[list[int]] | None = None
    presented: list[int] | None = None  # indices into targets in the order in which the rater saw them
    shown: bool | None = None  # of a signal: whether the rater saw what it is about
    retracts: VoteKind | None = None
    revises: str | None = None  # the comment of which this was made (see `revisions`)
    refused: str | None = None  # why nothing was
    key_id: str = ""  # of the API key that sent it, or whose answer's token did; "": of an open service


WORDS_OF_VOTES = ("text", "comment", "metadata", "tags")
"""The fields of a vote that hold what its rater wrote: redacted and sealed before they are logged, unreadable
once the rater is erased, and left out of what is remembered without words."""
