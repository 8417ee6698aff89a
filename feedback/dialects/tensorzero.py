"""TensorZero's tables: inferences, and the metrics, demonstrations and comments on them."""

from collections.abc import Iterator
from typing import Any

from feedback.dialects import traced
from feedback.rows import texts, values
from feedback.rows.examples import Message
from feedback.rows.said import About, Misfit, Options, Row, Said, Shown


def inference(row: Row, options: Options) -> Iterator[Said]:
    """A row of ChatInference or JsonInference; feedback on its episode means it where it is the only one."""
    asked = values.object_of(row["input"])
    messages = tuple(_message(message, i) for i, message in enumerate(values.list_of(asked["messages"])))
    if asked.get("system") is not None and not isinstance(asked["system"], str):
        raise Misfit("column 'input.system' has the arguments of a template, not the text that the model saw")
    messages = texts.with_system({"system": asked.get("system")}, messages)
    episode = (str(row["episode_id"]),) if row.get("episode_id") else ()
    tags = values.object_of(row.get("tags") or {})
    rater = str(tags["user_id"]) if tags.get("user_id") else None
    yield Shown((str(row["id"]),), messages, _answer(row["output"], "output"), rater=rater, within=episode)


def _message(message: Any, i: int) -> Message:
    content = message["content"]
    if isinstance(content, str):
        return texts.message_of(message, i)
    blocks = content if isinstance(content, list) else [content]
    return texts.message_of({**message, "content": _text(blocks, f"input.messages[{i}]")}, i)


def _answer(output: Any, name: str) -> str:
    """The text of content blocks, or of a JSON function's output."""
    output = values.parsed(output)
    if isinstance(output, dict) and "raw" in output:
        return texts.text(output["raw"], f"{name}.raw")
    return _text(output, name) if isinstance(output, list) else texts.text(output, name)


def _text(blocks: list[Any], name: str) -> str:
    said = []
    for block in blocks:
        if block.get("type") == "thought":
            continue
        text = block.get("text") or block.get("value")
        if block.get("type") != "text" or not isinstance(text, str):
            raise Misfit(
                f"column {name!r} has a block that is no text ({block.get('type')!r}); texts are read"
            )
        said.append(text)
    return texts.text("".join(said), name)


def metric(row: Row, options: Options) -> Iterator[Said]:
    """A row of BooleanMetricFeedback or FloatMetricFeedback, about an inference or an episode."""
    name, value, more = str(row["metric_name"]), row["value"], _more(row)
    more["metadata"] = {"name": name}
    values.note(value, name, options)
    names = (str(row["target_id"]),)
    yield About(names, lambda shown: traced.about(shown, *values.scored(value, name, options), more))


def demonstration(row: Row, options: Options) -> Iterator[Said]:
    """A row of DemonstrationFeedback: what the inference should have answered."""
    text, more = _answer(row["value"], "value"), _more(row)
    yield About((str(row["inference_id"]),), lambda shown: traced.corrected(shown, text, more))


def comment(row: Row, options: Options) -> Iterator[Said]:
    """A row of CommentFeedback, which does not say whether the answer is good."""
    raise Misfit(
        "column 'value' is a comment and no judgement; a metric's or a demonstration's rows are read"
    )
    yield  # a generator, as the others are


def _more(row: Row) -> dict[str, Any]:
    tags = values.object_of(row.get("tags") or {})
    rater = tags.get("user_id") or tags.get("tensorzero::human_feedback::user_id")
    return {"rater": str(rater) if rater else None, "at": values.time_of(row.get("timestamp"))}
