"""Rows of other tools' files, read as examples: a small function for each layout, and one that detects it.

A function gives the example of a row, and raises `Misfit` with the reason when the row cannot be used.
Nothing is guessed: a row that fits no layout is reported with the fields that it has.
"""

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from feedback.directions import has_word, words
from feedback.examples import Example, Kind, Message
from feedback.ids import PREFIX as COMPLETION_PREFIX

Row = Mapping[str, Any]
Reader = Callable[[Row], Example]

_SHAREGPT_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
    "function_call": "assistant",
    "observation": "tool",
}
_MORE = ("name", "tool_calls", "tool_call_id")  # what OpenAI's messages have besides role and content
_JUDGEMENTS = words(
    """
    score rating rated grade stars label value verdict feedback thumb thumbs vote upvotes downvotes
    liked likes dislikes reward rank ranking preference preferred chosen rejected winner correct
    correctness helpfulness quality toxicity accepted approved
    """
)
"""Words of columns that say how good an answer is."""

_ROLES = frozenset({"system", "developer", "user", "assistant", "tool", "function"})


class Misfit(ValueError):
    """A row that cannot be used, and why."""


def detect(row: Row) -> str:
    """The layout of a row, by the fields that it has. Raises Misfit."""
    has = row.keys()
    for name, fields in _MARKS:
        if fields <= has:
            return name
    raise Misfit(
        f"it has {', '.join(sorted(map(str, has))) or 'no fields'}, which is none of the known layouts"
    )


def parse(row: Row, layout: str) -> Example:
    """The example in a row. `layout`: one of `LAYOUTS`, or "auto". Raises Misfit."""
    reader = LAYOUTS[detect(row) if layout == "auto" else layout]
    try:
        example = reader(row)
        if example.kind == "demonstration" and reader is not _own:
            _check_unjudged(row)
        return example
    except Misfit:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError) as error:
        raise Misfit(f"{type(error).__name__}: {error}") from error


def _check_unjudged(row: Row) -> None:
    """A demonstration is imitated, so an answer that somebody may have judged to be bad must not be read as
    one. Raises Misfit."""
    for name, found in row.items():
        if found not in (None, "", [], {}) and has_word(str(name), _JUDGEMENTS):
            raise Misfit(
                f"its column {str(name)!r} looks like a judgement that is not understood here: give "
                "prompt and completion with rating, or prompt and completion or messages with label (true "
                "or false); leave the column out if the answer is to be imitated"
            )


# Pairs


def _sharegpt_pair(row: Row) -> Example:
    messages = _messages(row["conversations"])
    if row.get("system"):
        messages = ({"role": "system", "content": _text(row["system"], "system")}, *messages)
    return _pair(row, messages, _answer(row["chosen"], "chosen"), _answer(row["rejected"], "rejected"))


def _trl_preference(row: Row) -> Example:
    """TRL's preference layouts: text or messages, with a prompt or with it at the head of both answers."""
    chosen, rejected = row["chosen"], row["rejected"]
    if "prompt" in row:
        messages = _prompt(row["prompt"])
    else:
        messages, chosen, rejected = _shared_head(_messages(chosen), _messages(rejected))
    return _pair(row, messages, _answer(chosen, "chosen"), _answer(rejected, "rejected"))


def _openai_dpo(row: Row) -> Example:
    messages = _messages(_object(row["input"])["messages"])
    better = _answer(row["preferred_output"], "preferred_output")
    return _pair(row, messages, better, _answer(row["non_preferred_output"], "non_preferred_output"))


def _pair(row: Row, messages: tuple[Message, ...], better: str, worse: str) -> Example:
    if better == worse:
        raise Misfit("both answers are the same")
    value = 0.5 if row.get("tie") in (True, "True", "true") else 1.0
    return Example("comparison", messages, (better, worse), value, **_common(row))


def _shared_head(
    chosen: tuple[Message, ...], rejected: tuple[Message, ...]
) -> tuple[tuple[Message, ...], list[Message], list[Message]]:
    same = 0
    while same < min(len(chosen), len(rejected)) and chosen[same] == rejected[same]:
        same += 1
    if same == 0:
        raise Misfit("there is no prompt, and chosen and rejected do not begin with the same messages")
    return chosen[:same], list(chosen[same:]), list(rejected[same:])


# Single answers


def _kto(row: Row) -> Example:
    """TRL's KTO layout (prompt, completion, label), or a conversation whose last message is judged."""
    if "messages" in row:
        messages, answer = _last_answer(_messages(row["messages"]))
    else:
        messages, answer = _prompt(row["prompt"]), _answer(row["completion"], "completion")
    up = _boolean(row["label"])
    return Example("thumbs", messages, (answer,), 1.0 if up else 0.0, **_common(row))


def _rating(row: Row) -> Example:
    messages, answer = _prompt(row["prompt"]), _answer(row["completion"], "completion")
    return Example("rating", messages, (answer,), float(row["rating"]), **_common(row))


def _demonstration(row: Row) -> Example:
    if "messages" in row:
        messages, answer = _last_answer(_messages(row["messages"]))
    else:
        messages, answer = _prompt(row["prompt"]), _answer(row["completion"], "completion")
    return Example("demonstration", messages, (answer,), 1.0, **_common(row))


def _sharegpt(row: Row) -> Example:
    messages, answer = _last_answer(_messages(row["conversations"]))
    return Example("demonstration", messages, (answer,), 1.0, **_common(row))


def _alpaca(row: Row) -> Example:
    parts = [_text(row["instruction"], "instruction"), str(row.get("input") or "")]
    asked = {"role": "user", "content": "\n".join(part for part in parts if part)}
    return Example("demonstration", (asked,), (_text(row["output"], "output"),), 1.0, **_common(row))


# Exports of services


def _open_webui(row: Row) -> Example:
    """A vote of Open WebUI's feedback export; the texts are in the snapshot of the chat."""
    vote, meta = row["data"], row.get("meta") or {}
    if vote.get("rating") not in (1, -1, "1", "-1"):
        raise Misfit(f"its rating is {vote.get('rating')!r}; 1 or -1 is a vote")
    if not row.get("snapshot"):
        raise Misfit("it has no snapshot of the chat, so the texts are not known")
    chat = row["snapshot"]["chat"]
    history = (chat.get("chat") or chat)["history"]
    messages, answer = _branch(history["messages"], meta.get("message_id") or history["currentId"])
    return Example(
        "thumbs",
        messages,
        (answer,),
        1.0 if int(vote["rating"]) == 1 else 0.0,
        rater=str(row["user_id"]) if row.get("user_id") else None,
        at=_time(row.get("updated_at") or row.get("created_at")),
        comment=str(vote["comment"]) if vote.get("comment") else None,
        tags=tuple(str(tag) for tag in [*(vote.get("tags") or ()), vote.get("reason")] if tag),
    )


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
    return _last_answer(tuple(reversed(path)))


def _langfuse_score(row: Row) -> Example:
    """A score of Langfuse, on a completion of this service or with its trace's input and output."""
    value = _score(row)
    trace = row["trace"] if isinstance(row.get("trace"), dict) else {}
    common = _common(row) | {
        "rater": row.get("authorUserId") or row.get("userId") or trace.get("userId") or None,
        "at": _time(row.get("timestamp") or row.get("createdAt")),
        "metadata": {"name": str(row["name"])},
    }
    kind: Kind = "thumbs" if str(row.get("dataType")).upper() == "BOOLEAN" else "rating"
    if "input" in trace and "output" in trace:
        messages, answer = _trace_messages(trace["input"]), _trace_answer(trace["output"])
        return Example(kind, messages, (answer,), value, **common)
    named = (str(row.get(field) or "") for field in ("observationId", "traceId"))
    ours = next((name for name in named if name.startswith(COMPLETION_PREFIX)), None)
    if ours is None:
        raise Misfit("its trace is no completion of this service, and has no input and output in the row")
    return Example(kind, (), (), value, about=ours, **common)


def _score(row: Row) -> float:
    kind = str(row.get("dataType") or "NUMERIC").upper()
    if kind not in ("NUMERIC", "BOOLEAN"):
        raise Misfit(
            f"the score {row['name']!r} is {kind.lower()}; numbers from 0 to 1 and booleans are read"
        )
    value = float(_boolean(row["value"])) if kind == "BOOLEAN" else float(row["value"])
    if not 0.0 <= value <= 1.0:
        raise Misfit(f"the score {row['name']!r} is {value}; it must be from 0 to 1")
    return value


def _trace_messages(content: Any) -> tuple[Message, ...]:
    if isinstance(content, dict) and "messages" in content:
        content = content["messages"]
    return _prompt(content)


def _trace_answer(content: Any) -> str:
    if isinstance(content, dict) and "choices" in content:
        content = content["choices"][0]["message"]
    return _answer(content, "output")


def _own(row: Row) -> Example:
    """What `hearken export` writes for every kind of judgement."""
    messages = _messages(row["messages"])
    answers = tuple(_text(answer, "an answer") for answer in _list(row["answers"]))
    groups = tuple(tuple(map(int, group)) for group in _list(row.get("groups") or []))
    metadata = {str(name): str(value) for name, value in _object(row.get("metadata") or {}).items()}
    return Example(
        row["kind"], messages, answers, float(row["value"]), **_common(row), groups=groups, metadata=metadata
    )


LAYOUTS: dict[str, Reader] = {
    "hearken": _own,
    "sharegpt-pair": _sharegpt_pair,
    "openai-dpo": _openai_dpo,
    "trl-preference": _trl_preference,
    "trl-kto": _kto,
    "rating": _rating,
    "open-webui": _open_webui,
    "langfuse": _langfuse_score,
    "alpaca": _alpaca,
    "sharegpt": _sharegpt,
    "demonstration": _demonstration,
}

_MARKS: tuple[tuple[str, frozenset[str]], ...] = tuple(
    (name, frozenset(fields))
    for name, fields in (
        ("hearken", ("kind", "messages", "answers", "value")),
        ("sharegpt-pair", ("conversations", "chosen", "rejected")),
        ("openai-dpo", ("input", "preferred_output", "non_preferred_output")),
        ("trl-preference", ("chosen", "rejected")),
        ("open-webui", ("data", "snapshot")),
        ("open-webui", ("data", "meta", "type")),
        ("langfuse", ("traceId", "name", "value")),
        ("langfuse", ("traceId", "name", "dataType")),
        ("trl-kto", ("prompt", "completion", "label")),
        ("trl-kto", ("messages", "label")),
        ("rating", ("prompt", "completion", "rating")),
        ("alpaca", ("instruction", "output")),
        ("sharegpt", ("conversations",)),
        ("demonstration", ("prompt", "completion")),
        ("demonstration", ("messages",)),
    )
)


# Parts


def _common(row: Row) -> dict[str, Any]:
    """What every layout may carry; our own exports do."""
    return {
        "rater": str(row["rater"]) if row.get("rater") else None,
        "at": _time(row.get("at")),
        "comment": str(row["comment"]) if row.get("comment") else None,
        "tags": tuple(str(tag) for tag in _list(row.get("tags") or [])),
        "reasons": tuple(str(reason) for reason in _list(row.get("reasons") or [])),
    }


def _list(content: Any) -> list[Any]:
    """A list; a table's cell holds it as JSON, or as words with commas between them."""
    if isinstance(content, str):
        content = json.loads(content) if content.startswith("[") else content.split(",")
    if not isinstance(content, list):
        raise Misfit(f"{content!r:.80} is no list")
    return content


def _object(content: Any) -> Mapping[str, Any]:
    """An object; a table's cell holds it as JSON."""
    content = json.loads(content) if isinstance(content, str) else content
    if not isinstance(content, dict):
        raise Misfit(f"{content!r:.80} is no object")
    return content


def _prompt(content: Any) -> tuple[Message, ...]:
    """A prompt as messages; a plain text is what a user said."""
    if isinstance(content, str):
        return ({"role": "user", "content": _text(content, "prompt")},)
    return _messages(content)


def _messages(content: Any) -> tuple[Message, ...]:
    """Messages in OpenAI's or ShareGPT's words, in OpenAI's."""
    if not isinstance(content, list) or not content:
        raise Misfit("a conversation must be a list of at least one message")
    return tuple(_message(message, i) for i, message in enumerate(content))


def _message(message: Any, i: int) -> Message:
    if not isinstance(message, dict):
        raise Misfit(f"message {i} is {type(message).__name__}, not an object")
    if "from" in message:
        role = _SHAREGPT_ROLES.get(message["from"])
        content = message.get("value")
    else:
        role = message.get("role") if message.get("role") in _ROLES else None
        content = message.get("content")
    if role is None:
        raise Misfit(f"message {i} is by {message.get('from') or message.get('role')!r}, an unknown role")
    more = {name: message[name] for name in _MORE if message.get(name)}
    calls = more.get("tool_calls", [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise Misfit(f"message {i} has tool_calls that are no list of objects")
    if not isinstance(content, str) and not more.get("tool_calls") and not _is_parts(content):
        raise Misfit(f"message {i} has no text")
    return {"role": role, "content": content, **more}


def _is_parts(content: Any) -> bool:
    """Whether a message's content comes in parts, as OpenAI's may."""
    return (
        isinstance(content, list)
        and bool(content)
        and all(isinstance(part, dict) and part.get("type") for part in content)
    )


def _last_answer(messages: tuple[Message, ...]) -> tuple[tuple[Message, ...], str]:
    if messages[-1]["role"] != "assistant":
        raise Misfit(f"the last message is by {messages[-1]['role']!r}; it should be the assistant's")
    if len(messages) == 1:
        raise Misfit("the conversation has an answer and no question")
    return messages[:-1], _text(messages[-1]["content"], "the answer")


def _answer(content: Any, name: str) -> str:
    """One answer: a text, a message, or a list whose only message is it."""
    if isinstance(content, list):
        if len(content) != 1:
            raise Misfit(f"{name} has {len(content)} messages; one answer is read")
        content = content[0]
    if isinstance(content, dict):
        message = _message(content, 0)
        if message["role"] != "assistant":
            raise Misfit(f"{name} is by {message['role']!r}, not by the assistant")
        content = message["content"]
    return _text(content, name)


def _text(content: Any, name: str) -> str:
    """A text; one of nothing but space is one, too: a model may answer so, and be voted down for it."""
    if content in (None, ""):
        raise Misfit(f"{name} is empty")
    if isinstance(content, list) and _is_parts(content):
        if any(part["type"] != "text" for part in content):
            raise Misfit(f"{name} has parts that are not text")
        content = "".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Misfit(f"{name} is no text")
    return content


def _boolean(value: Any) -> bool:
    if value in (True, 1, "true", "True", "1", "1.0"):
        return True
    if value in (False, 0, "false", "False", "0", "0.0"):
        return False
    raise Misfit(f"{value!r} is neither true nor false")


def _time(value: Any) -> float | None:
    """Unix seconds of a time in seconds, milliseconds or ISO 8601."""
    if value in (None, ""):
        return None
    try:
        seconds = float(value)
    except (TypeError, ValueError):
        return datetime.fromisoformat(str(value).replace("Z", "+00:00")).timestamp()
    return seconds / 1000 if seconds > 1e11 else seconds
