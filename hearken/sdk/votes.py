"""Votes as the Python client sends them: plain dicts, made by functions that know the fields.

`about` is what a vote is about: a completion's id, an answer that has one (see `target`), or the fields
{"external_id": ..} or {"episode_id": ..}. `common` are the fields that every kind may have, see `Common`.
"""

import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, Unpack

Json = dict[str, Any]
Vote = dict[str, Any]
Preferred = Literal["a", "b", "tie", "both_bad"]


class Common(TypedDict, total=False):
    """Fields of all kinds of votes; docs/feedback.md says what each means."""

    user: str
    reason: str
    reasons: Sequence[str]
    tags: Sequence[str]
    comment: str
    source: Literal["end_user", "annotator", "app", "model", "import"]
    weight: float
    occurred_at: float | str
    metadata: Mapping[str, str]
    dry_run: bool
    from_now_on: bool
    idempotency_key: str
    token: str


def thumbs(about: object, value: Literal["up", "down"], **common: Unpack[Common]) -> Vote:
    """A thumb up or down."""
    return {"kind": "thumbs", "value": value, **target(about), **_said(common)}


def rating(
    about: object, value: float, scale: tuple[float, float] = (1, 5), **common: Unpack[Common]
) -> Vote:
    """A number on a scale, (lowest, highest)."""
    return {"kind": "rating", "value": value, "scale": list(scale), **target(about), **_said(common)}


def comparison(
    a: object,
    b: object,
    preferred: Preferred,
    presented: tuple[Literal["a", "b"], Literal["a", "b"]] | None = None,
    **common: Unpack[Common],
) -> Vote:
    """Which of two answers is better. presented: the order in which they were shown."""
    shown = {} if presented is None else {"presented": list(presented)}
    both = [target(a), target(b)]
    return {"kind": "comparison", "targets": both, "preferred": preferred, **shown, **_said(common)}


def ranking(groups: Sequence[Sequence[object]], **common: Unpack[Common]) -> Vote:
    """Answers in order, the best group first; those of one group are equally good."""
    named = [[target(each) for each in group] for group in groups]
    return {"kind": "ranking", "groups": named, **_said(common)}


def correction(about: object, text: str, **common: Unpack[Common]) -> Vote:
    """What an answer should have been."""
    return {"kind": "correction", "text": text, **target(about), **_said(common)}


def comment(about: object, text: str, **common: Unpack[Common]) -> Vote:
    """Words about an answer."""
    return {"kind": "comment", "text": text, **target(about), **_said(common)}


def metric(
    about: object,
    name: str,
    value: float | bool,
    range: tuple[float, float] | None = None,
    direction: Literal["higher", "lower"] | None = None,
    **common: Unpack[Common],
) -> Vote:
    """An outcome that was measured later. range: (lowest, highest). direction: which is better."""
    more: Json = {} if range is None else {"range": list(range)}
    more |= {} if direction is None else {"direction": direction}
    return {"kind": "metric", "name": name, "value": value, **more, **target(about), **_said(common)}


def signal(
    about: object, name: str, value: float | bool = True, shown: bool = True, **common: Unpack[Common]
) -> Vote:
    """What somebody did with an answer; `value` False: it was shown, and they did not. `shown` False: it was
    not even shown."""
    happened: Json = {"value": value} if shown else {"shown": False}
    return {"kind": "signal", "name": name, **happened, **target(about), **_said(common)}


def regenerated(
    new: object, old: object, kept: Literal["new", "old"] | None = None, **common: Unpack[Common]
) -> Vote:
    """An answer that was generated anew in place of another, and which of both the person went on with; send
    it again once that is known."""
    linked = {"completion_id": id_of(new), "regeneration_of": id_of(old), "kept": kept}
    return {"kind": "signal", "name": "regenerated", **linked, **_said(common)}


def _said(common: Common) -> Json:
    """The common fields as a vote has them: one `reason` is one of the `reasons`."""
    said: Json = {name: value for name, value in common.items() if value is not None}
    reason = said.pop("reason", None)
    if reason is not None:
        said["reasons"] = [reason, *said.get("reasons", ())]
    return said


# ---- what a vote is about


def target(about: object, choice: int | None = None) -> Json:
    """The fields that name what a vote is about. choice: which of several answers of one request.

    Raises TypeError for what names nothing.
    """
    if isinstance(about, Mapping) and about.keys() & {"completion_id", "external_id", "episode_id"}:
        named = dict(about)
    else:
        named = {"completion_id": id_of(about)}
    return named if choice is None else {**named, "choice": choice}


def id_of(answer: object) -> str:
    """The id of an answer: of OpenAI's ChatCompletion and Response, of Anthropic's Message, of any chunk or
    last event of their streams, of LangChain's AIMessage; also of their JSON. An id is its own.

    Raises TypeError for what has none.
    """
    if isinstance(answer, str):
        return answer
    inner = ("response_metadata", "response", "message")  # LangChain's; events of Responses and Messages
    held = (_field(_field(answer, name), "id") for name in inner)
    for found in (_field(answer, "completion_id"), *held, _field(answer, "id")):
        if isinstance(found, str) and found:
            return found
    raise TypeError(
        f"a vote is about an answer: give its id, or an answer or a stream's last chunk that has one, and no "
        f"{type(answer).__name__}"
    )


def token_of(answer: object) -> str | None:
    """The feedback token that an answer brought, while it is good: a vote with it is of the user whom the
    answer was for."""
    for holder in (answer, _field(answer, "response"), _field(answer, "message")):
        extension = _field(holder, "hearken")
        token, until = (_field(extension, "feedback_token" + end) for end in ("", "_expires_at"))
        if isinstance(token, str) and not (isinstance(until, int | float) and until <= time.time()):
            return token
    return None


def _field(holder: object, name: str) -> Any:
    """A field of an object, or of a JSON object; None where there is none."""
    return holder.get(name) if isinstance(holder, Mapping) else getattr(holder, name, None)
