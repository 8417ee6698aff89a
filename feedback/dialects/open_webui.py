"""Open WebUI's feedback export: votes with a snapshot of the chat, thumbs and pairs of its arena."""

from collections.abc import Iterator, Mapping
from typing import Any

from feedback.rows import pairs, texts, values
from feedback.rows.examples import Example, Message
from feedback.rows.said import Misfit, Options, Row, Said

_VOTES = {1: 1.0, 0: 0.5, -1: 0.0}
_SCALE = (1.0, 10.0)  # of the rating with details
REASONS = {
    "accurate_information": "accurate",
    "not_factually_correct": "incorrect",
    "didnt_fully_follow_instructions": "instructions_not_followed",
    "refused_when_it_shouldnt_have": "refused",
    "being_lazy": "incomplete",
    "too_verbose": "too_long",
    "dont_like_the_style": "style",
    "thorough_explanation": "helpful",
    "followed_instructions_perfectly": "helpful",
}
"""Its reasons, in our words; any other stays as a tag."""


def is_vote(row: Row) -> bool:
    """Whether a row is of the feedback export: `data` with the vote, and the chat or what it was about."""
    return isinstance(row.get("data"), dict) and ("snapshot" in row or "meta" in row)


def votes(row: Row, options: Options) -> Iterator[Said]:
    """A vote. With `details` its rating from 1 to 10 says more than the thumb; where the message has siblings
    of other models (the arena), the vote is between them."""
    vote, meta = values.object_of(row["data"]), values.object_of(row.get("meta") or {})
    if not row.get("snapshot"):
        raise Misfit("it has no snapshot of the chat, so the texts are not known: export it with snapshots")
    value = _VOTES.get(_number(vote.get("rating")))
    chat = values.object_of(row["snapshot"])["chat"]
    chat = chat.get("chat") or chat
    history = chat["history"]["messages"]
    message_id = meta.get("message_id") or chat["history"]["currentId"]
    messages, answer = _branch(history, message_id)
    messages = texts.with_system({"system": (chat.get("params") or {}).get("system")}, messages)
    rivals = _rivals(history, message_id, vote)
    if value is None or (value == 0.5 and not rivals):
        raise Misfit(
            f"column 'data.rating' is {vote.get('rating')!r}; 1 or -1 is a vote, 0 a tie in the arena"
        )
    if meta.get("arena") and not rivals:
        raise Misfit(
            "column 'meta.arena' says that it is between models, and the snapshot has no answer of those in "
            "'data.sibling_model_ids': what it is better or worse than is not known"
        )
    more = _more(row, vote)
    for rival in rivals:
        yield _compared(messages, answer, rival, value, more)
    detail = (vote.get("details") or {}).get("rating")
    if detail is not None:
        yield _detailed(messages, answer, detail, value, options, more)
    elif not rivals:
        yield Example("thumbs", messages, (answer,), value, **more)


def _number(rating: Any) -> Any:
    return int(rating) if str(rating) in ("1", "0", "-1") else None


def _compared(
    messages: tuple[Message, ...], answer: str, rival: str, value: float, more: dict[str, Any]
) -> Example | Misfit:
    try:
        return pairs.compared(messages, answer, rival, value, **more)
    except Misfit as misfit:
        return misfit


def _detailed(
    messages: tuple[Message, ...],
    answer: str,
    detail: Any,
    value: float,
    options: Options,
    more: dict[str, Any],
) -> Example | Misfit:
    """The rating from 1 to 10, which must not contradict the thumb."""
    try:
        place = values.share(detail, "data.details.rating", options, _SCALE)
    except Misfit as misfit:
        return misfit
    if value != 0.5 and (place > 0.5) != (value > 0.5):
        return Misfit(
            f"columns 'data.rating' and 'data.details.rating' ({detail}) say the opposite of each other"
        )
    return Example("rating", messages, (answer,), place, **more)


def _more(row: Row, vote: Mapping[str, Any]) -> dict[str, Any]:
    """Who voted, when, and the words with it."""
    reason = vote.get("reason")
    ours = REASONS.get(str(reason))
    tags = [*(vote.get("tags") or ()), None if ours else reason]
    return {
        "rater": str(row["user_id"]) if row.get("user_id") else None,
        "at": values.time_of(row.get("updated_at") or row.get("created_at")),
        "comment": str(vote["comment"]) if vote.get("comment") else None,
        "tags": tuple(str(tag) for tag in tags if tag),
        "reasons": (ours,) if ours else (),
    }


def _rivals(history: Mapping[str, Any], message_id: str, vote: Mapping[str, Any]) -> list[str]:
    """The answers of the other models to the same question."""
    named = set(vote.get("sibling_model_ids") or ())
    voted = history[message_id]
    others = [
        each
        for name, each in history.items()
        if name != message_id
        and each.get("parentId") == voted.get("parentId")
        and each["role"] == "assistant"
    ]
    return [
        str(each["content"]) for each in others if named & {each.get("model"), each.get("selectedModelId")}
    ]


def _branch(history: Mapping[str, Any], message_id: str) -> tuple[tuple[Message, ...], str]:
    """The messages from the root of a tree of messages to the judged one."""
    if message_id not in history:
        raise Misfit(f"message {message_id!r} is not in its snapshot")
    path: list[Message] = []
    at: str | None = message_id
    while at is not None and len(path) <= len(history):
        message = history[at]
        path.append({"role": message["role"], "content": message["content"]})
        at = message.get("parentId")
    return texts.last_answer(tuple(reversed(path)))
