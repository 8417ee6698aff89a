"""POST /v1/feedback: check a vote, make it an event, answer when it is durable."""

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from feedback.events import Feedback, Target
from feedback.ids import Signer, vote_id
from feedback.log import LogUnavailable
from serve.errors import BadRequest, NotFound, Unavailable
from serve.generation import TENANT
from serve.recording import Recorder
from serve.requests import MAX_USER_CHARS, parse_object

_Key = Annotated[str, StringConstraints(min_length=1, max_length=64)]
_Value = Annotated[str, StringConstraints(max_length=512)]
_Id = Annotated[str, StringConstraints(min_length=1, max_length=128)]
_ChoiceIndex = Annotated[int, Field(ge=0, le=1023, strict=True)]

_UP: tuple[object, ...] = ("up", True)  # 1 == True in Python, as in the vote
_DOWN: tuple[object, ...] = ("down", False)
_PREFERENCE = {"a": 1.0, "b": 0.0, "tie": 0.5}


class _TargetIn(BaseModel):
    model_config = ConfigDict(extra="forbid")

    completion_id: _Id
    choice: _ChoiceIndex = 0


class _Vote(BaseModel):
    model_config = ConfigDict(extra="forbid")

    user: str | None = Field(default=None, max_length=MAX_USER_CHARS)
    metadata: dict[_Key, _Value] = Field(default_factory=dict, max_length=16)
    targets: list[_TargetIn] | None = None


class Thumbs(_Vote):
    """{"kind": "thumbs", "completion_id": "chatcmpl-..", "value": "up"}; or `targets` with one entry."""

    kind: Literal["thumbs"]
    completion_id: _Id | None = None
    choice: _ChoiceIndex = 0
    value: Literal["up", "down", True, False, 1, 0]

    def named(self) -> list[tuple[str, int]]:
        return [] if self.completion_id is None else [(self.completion_id, self.choice)]

    def judged(self) -> tuple[float, str]:
        return (1.0, "up") if self.value in _UP else (0.0, "down")


class ComparisonVote(_Vote):
    """{"kind": "comparison", "a": "chatcmpl-..", "b": "chatcmpl-..", "preferred": "a"}; or two `targets`."""

    kind: Literal["comparison"]
    a: _Id | None = None
    b: _Id | None = None
    preferred: Literal["a", "b", "tie"]

    def named(self) -> list[tuple[str, int]]:
        return [(side, 0) for side in (self.a, self.b) if side is not None]

    def judged(self) -> tuple[float, str]:
        return _PREFERENCE[self.preferred], self.preferred


_VOTES: TypeAdapter[Thumbs | ComparisonVote] = TypeAdapter(
    Annotated[Thumbs | ComparisonVote, Field(discriminator="kind")]
)
_SIDES = {"thumbs": ("completion_id",), "comparison": ("a", "b")}


def parse_vote(raw: bytes) -> tuple[Thumbs | ComparisonVote, list[tuple[str, int]]]:
    """A vote and what it is about, as (completion id, choice). Raises BadRequest naming the field."""
    body = parse_object(raw)
    if "kind" not in body:
        raise BadRequest(
            "kind is missing; send 'thumbs' or 'comparison'.",
            param="kind",
            code="missing_required_parameter",
        )
    try:
        vote = _VOTES.validate_python(body)
    except ValidationError as error:
        raise _bad_field(error) from error
    return vote, _targets(vote)


def _targets(vote: Thumbs | ComparisonVote) -> list[tuple[str, int]]:
    fields = _SIDES[vote.kind]
    targets = vote.named()
    if vote.targets is not None:
        if targets:
            raise BadRequest(f"Send either targets or {' and '.join(fields)}, not both.", param="targets")
        targets = [(target.completion_id, target.choice) for target in vote.targets]
        if len(targets) != len(fields):
            raise BadRequest(f"A {vote.kind} vote has {len(fields)} target(s).", param="targets")
    if len(targets) != len(fields):
        missing = next(field for field in fields if getattr(vote, field) is None)
        raise BadRequest(f"{missing} is missing.", param=missing, code="missing_required_parameter")
    if len(set(targets)) != len(targets):
        raise BadRequest("a and b are the same answer; a comparison needs two.", param="b")
    return targets


def _bad_field(error: ValidationError) -> BadRequest:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    path = [str(part) for part in first["loc"] if part not in ("thumbs", "comparison", "[key]")]
    param = ".".join(path) or "kind"
    code = "missing_required_parameter" if first["type"] == "missing" else "invalid_value"
    return BadRequest(f"{param}: {first['msg']}.", param=param, code=code)


class FeedbackApi:
    """Accepts votes."""

    def __init__(self, signer: Signer, recorder: Recorder) -> None:
        self._signer = signer
        self._recorder = recorder
        self._last_revision = 0

    async def accept(self, raw: bytes, address: str) -> dict[str, Any]:
        """Log a vote durably; the body of the 202.

        Raises BadRequest, NotFound for ids that this service never gave out, Unavailable when the log
        cannot be written. A vote may overtake its completion: the id's signature is enough.
        """
        vote, targets = parse_vote(raw)
        for completion_id, _ in targets:
            if not self._signer.is_ours(completion_id):
                raise NotFound(
                    f"There is no completion {completion_id!r}.",
                    param=_param(vote, completion_id),
                    code="completion_not_found",
                )
        event = self._event(vote, targets, address)
        try:
            await self._recorder.feedback(event)
        except LogUnavailable as error:
            raise Unavailable("Feedback cannot be stored at the moment.", code="log_unavailable") from error
        return {"id": event.event_id, "status": "accepted"}

    def _event(self, vote: Thumbs | ComparisonVote, targets: list[tuple[str, int]], address: str) -> Feedback:
        rater = self._signer.pseudonym(TENANT, vote.user or f"anonymous-{address}")
        value, label = vote.judged()
        return Feedback(
            event_id=vote_id(TENANT, rater, vote.kind, targets),
            at=time.time(),
            tenant=TENANT,
            revision=self._next_revision(),
            kind=vote.kind,
            rater=rater,
            targets=[Target(completion_id=c, choice=choice) for c, choice in targets],
            value=value,
            label=label,
            metadata=vote.metadata,
        )

    def _next_revision(self) -> int:
        """Microseconds since 1970, but always later than the one before, even if the clock steps back."""
        self._last_revision = max(time.time_ns() // 1000, self._last_revision + 1)
        return self._last_revision


def _param(vote: Thumbs | ComparisonVote, completion_id: str) -> str:
    if vote.targets is not None:
        return "targets"
    return next(field for field in _SIDES[vote.kind] if getattr(vote, field) == completion_id)
