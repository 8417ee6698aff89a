"""Rows of other tools' files become the judgement that they say, or are refused with the reason."""

from pathlib import Path
from typing import Any

import pytest

from feedback.dialects import LAYOUTS, Misfit, detect, parse
from feedback.exchange.exports import EXPORTS, NotInLayout
from feedback.rows.examples import Example
from feedback.rows.tables import read_rows

DATA = Path(__file__).parents[1] / "data"  # in the layouts of files that people share

ASKED = ({"role": "user", "content": "Where is it?"},)
TALK = (
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "Where is it?"},
)


def said(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


SHAREGPT_PAIR = {
    "conversations": [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi"},
        {"from": "gpt", "value": "Hello."},
        {"from": "human", "value": "Where is it?"},
    ],
    "chosen": {"from": "gpt", "value": "Here."},
    "rejected": {"from": "gpt", "value": "No idea."},
}
IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
OPEN_WEBUI = {
    "id": "f1",
    "user_id": "ada",
    "type": "rating",
    "data": {"rating": -1, "reason": "not_factual", "comment": "wrong shelf", "tags": ["search"]},
    "meta": {"chat_id": "c", "message_id": "m4"},
    "snapshot": {
        "chat": {
            "chat": {
                "history": {
                    "currentId": "m5",
                    "messages": {
                        "m1": {"id": "m1", "parentId": None, "role": "user", "content": "Hi"},
                        "m2": {"id": "m2", "parentId": "m1", "role": "assistant", "content": "Hello."},
                        "m3": {"id": "m3", "parentId": "m2", "role": "user", "content": "Where is it?"},
                        "m4": {"id": "m4", "parentId": "m3", "role": "assistant", "content": "Here."},
                        "m5": {"id": "m5", "parentId": "m3", "role": "assistant", "content": "There."},
                    },
                }
            }
        }
    },
    "created_at": 1763600000,
    "updated_at": 1763600001,
}


@pytest.mark.parametrize(
    ("layout", "row", "expected"),
    [
        ("sharegpt-pair", SHAREGPT_PAIR, Example("comparison", TALK, ("Here.", "No idea."), 1.0)),
        (
            "trl-preference",
            {"prompt": "Where is it?", "chosen": "Here.", "rejected": "No idea."},
            Example("comparison", ASKED, ("Here.", "No idea."), 1.0),
        ),
        (
            "trl-preference",
            {"prompt": list(TALK), "chosen": [said("Here.")], "rejected": [said("No idea.")]},
            Example("comparison", TALK, ("Here.", "No idea."), 1.0),
        ),
        (
            "trl-preference",
            {"chosen": [*TALK, said("Here.")], "rejected": [*TALK, said("No idea.")]},
            Example("comparison", TALK, ("Here.", "No idea."), 1.0),
        ),
        (
            "openai-dpo",
            {
                "input": {"messages": list(TALK)},
                "preferred_output": [said("Here.")],
                "non_preferred_output": [said("No idea.")],
            },
            Example("comparison", TALK, ("Here.", "No idea."), 1.0),
        ),
        (
            "trl-kto",
            {"prompt": "Where is it?", "completion": "Here.", "label": False},
            Example("thumbs", ASKED, ("Here.",), 0.0),
        ),
        (
            "trl-kto",
            {"messages": [*TALK, said("Here.")], "label": True},
            Example("thumbs", TALK, ("Here.",), 1.0),
        ),
        (
            "rating",
            {"prompt": "Where is it?", "completion": "Here.", "rating": 0.75},
            Example("rating", ASKED, ("Here.",), 0.75),
        ),
        (
            "alpaca",
            {"instruction": "Add.", "input": "1 and 2", "output": "3"},
            Example("demonstration", ({"role": "user", "content": "Add.\n1 and 2"},), ("3",), 1.0),
        ),
        (
            "sharegpt",
            {
                "conversations": [
                    {"from": "human", "value": "Where is it?"},
                    {"from": "gpt", "value": "Here."},
                ]
            },
            Example("demonstration", ASKED, ("Here.",), 1.0),
        ),
        (
            "open-webui",
            OPEN_WEBUI,
            Example(
                "thumbs",
                TALK[1:],
                ("Here.",),
                0.0,
                rater="ada",
                at=1763600001.0,
                comment="wrong shelf",
                tags=("search", "not_factual"),
            ),
        ),
        (
            "langfuse",
            {
                "id": "s1",
                "traceId": "t1",
                "name": "helpful",
                "value": 1,
                "dataType": "BOOLEAN",
                "timestamp": "2026-11-20T00:00:00Z",
                "trace": {"input": list(ASKED), "output": said("Here.")},
            },
            Example("thumbs", ASKED, ("Here.",), 1.0, at=1795132800.0, metadata={"name": "helpful"}),
        ),
        (
            "langfuse",
            {"traceId": "chatcmpl-0123", "name": "quality", "value": 0.25, "dataType": "NUMERIC"},
            Example("rating", (), (), 0.25, about="chatcmpl-0123", metadata={"name": "quality"}),
        ),
        (
            "langfuse",  # as its API lists scores: of the trace only who asked
            {
                "id": "s1",
                "timestamp": "2026-11-20T00:00:00.000Z",
                "name": "user-feedback",
                "source": "API",
                "dataType": "NUMERIC",
                "value": 0.75,
                "traceId": "chatcmpl-0123",
                "observationId": None,
                "authorUserId": None,
                "comment": "nice",
                "trace": {"userId": "ada", "tags": [], "environment": "default"},
            },
            Example(
                "rating",
                (),
                (),
                0.75,
                rater="ada",
                at=1795132800.0,
                comment="nice",
                about="chatcmpl-0123",
                metadata={"name": "user-feedback"},
            ),
        ),
    ],
)
def test_a_row_says_what_it_says(layout: str, row: dict[str, object], expected: Example) -> None:
    assert detect(row) == layout
    assert parse(row, "auto") == expected


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"a": 1}, "none of the known layouts"),
        ({"prompt": "x", "chosen": "same", "rejected": "same"}, "both answers are the same"),
        ({"prompt": "x", "chosen": "", "rejected": "b"}, "chosen is empty"),
        ({"prompt": "x", "chosen": [said("a"), said("b")], "rejected": "c"}, "2 messages"),
        ({"prompt": "x", "completion": "y", "label": "perhaps"}, "neither true nor false"),
        ({"messages": [{"role": "user", "content": "x"}], "label": True}, "should be the assistant's"),
        ({"messages": [said("x")], "label": True}, "no question"),
        ({"conversations": [{"from": "martian", "value": "x"}]}, "unknown role"),
        ({"conversations": []}, "at least one message"),
        ({"prompt": "x", "completion": "y", "rating": 7}, "'rating' .* --scale"),
        ({"prompt": "x", "completion": "y", "rating": 1}, "'rating' has nothing but 0 and 1.* --scale"),
        ({"prompt": "x", "completion": "y", "score": 0.0}, "'score' has nothing but 0 and 1.* --scale"),
        ({"messages": [{"role": "user", "content": "x"}, said("y")], "rating": -1}, "'rating' .* --scale"),
        ({"prompt": "x", "completion": "y", "rating": "fine"}, "'rating' has 'fine'.* --map rating=ignore"),
        ({"prompt": "x", "completion": "y", "label": True, "score": 0.5}, "'label' and 'score' .*=ignore"),
        ({"prompt": "x", "chosen": "a", "rejected": "b", "winner": "b"}, "'winner' .* --map winner=ignore"),
        (
            {"prompt": "x", "chosen": "a", "rejected": "b", "chosen_score": 1, "rejected_score": 2},
            "worse one",
        ),
        ({"messages": [{"role": "user", "content": "x"}, said("y") | {"weight": 0}]}, "weight 0"),
        ({"messages": [{"role": "user", "content": "x"}, said("y") | {"bad": True}]}, "'messages.bad'"),
        (
            {"prompt": "x", "completion": "y", "metadata": {"grade": 2}},
            "'metadata.grade' .* --map metadata.gr",
        ),
        (
            {"traceId": "chatcmpl-1", "name": "mood", "value": True, "dataType": "BOOLEAN"},
            "--direction mood=higher",
        ),
        ({"traceId": "t", "name": "n", "value": 1}, "no completion of this service"),
        ({"traceId": "t", "name": "n", "value": "red", "dataType": "CATEGORICAL"}, "categorical"),
        ({"traceId": "t", "name": "n", "stringValue": "red", "dataType": "CATEGORICAL"}, "categorical"),
        ({"traceId": "t", "name": "output", "value": 0, "dataType": "CORRECTION"}, "correction"),
        ({"traceId": "chatcmpl-1", "name": "helpful", "value": 10**400}, "too large"),
        (
            {"prompt": "x", "completion": [{"role": "assistant", "content": [IMAGE]}], "label": True},
            "not text",
        ),
        ({"messages": [{"role": "assistant", "tool_calls": "f"}, said("x")], "label": True}, "tool_calls"),
        ({**OPEN_WEBUI, "snapshot": None}, "no snapshot"),
        ({**OPEN_WEBUI, "data": {"rating": None}}, "1 or -1 is a vote"),
        ({"chosen": [said("a")], "rejected": [said("b")]}, "do not begin with the same"),
    ],
)
def test_a_row_that_cannot_be_used_says_why(row: dict[str, object], reason: str) -> None:
    with pytest.raises(Misfit, match=reason):
        parse(row, "auto")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_no_row_of_a_wrong_shape_gets_out_as_another_error(layout: str) -> None:
    for row in (
        {},
        {"prompt": 1},
        {"messages": 3, "label": True},
        {"data": {}, "snapshot": 1},
        {"chosen": []},
    ):
        with pytest.raises(Misfit):
            parse(row, layout)


def test_a_vote_of_open_webui_without_a_message_means_the_current_one() -> None:
    asked = parse({**OPEN_WEBUI, "meta": {"chat_id": "c"}}, "auto")
    assert asked.answers == ("There.",)


TOOLS = (
    {"role": "user", "name": "ada", "content": [{"type": "text", "text": "Rain?"}, IMAGE]},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": "{}"}}],
    },
    {"role": "tool", "tool_call_id": "c1", "content": "dry"},
)
EXAMPLES = [
    Example("comparison", TOOLS, ("No.", "Yes."), 1.0),
    Example("thumbs", TOOLS, (" \n",), 0.0, rater="u_2"),
    Example("comparison", TALK, ("Here.", "No idea."), 1.0, rater="u_1", at=5.0, tags=("a", "b")),
    Example("comparison", TALK, ("Here.", "No idea."), 0.0, comment="hm", metadata={"k": "v"}),
    Example("comparison", TALK, ("Here.", "No idea."), 0.5),
    Example("thumbs", TALK, ("Here.",), 0.0),
    Example("rating", TALK, ("Here.",), 0.25),
    Example("demonstration", TALK, ("Here.",), 1.0),
    Example("correction", TALK, ("Here, on the left.", "Here."), 1.0, reasons=("incomplete",)),
    Example("ranking", TALK, ("a", "b", "c"), 0.5, groups=((2,), (0, 1))),
]


@pytest.mark.parametrize("example", EXAMPLES)
def test_our_own_layout_loses_nothing(example: Example) -> None:
    assert parse(EXPORTS["hearken"](example), "auto") == example


@pytest.mark.parametrize("layout", ["trl-preference", "trl-kto", "openai-dpo"])
def test_other_layouts_keep_the_judgement_or_refuse(layout: str) -> None:
    kept = []
    for example in EXAMPLES:
        try:
            row = EXPORTS[layout](example)
        except NotInLayout:
            continue
        back = parse(row, "auto")
        better = sorted(zip(example.answers, (example.value, 1 - example.value), strict=False))
        assert sorted(zip(back.answers, (back.value, 1 - back.value), strict=False)) == better
        kept.append(back.kind)
    assert kept == (["thumbs"] * 2 if layout == "trl-kto" else ["comparison"] * 4)


def test_the_same_judgement_has_one_identity_in_every_layout() -> None:
    pair = Example("comparison", TALK, ("Here.", "No idea."), 1.0)
    rows = [SHAREGPT_PAIR, EXPORTS["trl-preference"](pair), EXPORTS["openai-dpo"](pair)]
    assert {parse(row, "auto").identity for row in rows} == {pair.identity}
    assert pair.identity == Example("comparison", TALK, ("No idea.", "Here."), 1.0).identity  # its revision
    assert pair.identity != Example("comparison", TALK, ("Here.", "No idea."), 1.0, rater="ada").identity


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("sharegpt_pairs.json", "comparison"),
        ("labelled_messages.json", "thumbs"),
        ("alpaca.json", "demonstration"),
    ],
)
def test_files_that_people_share_are_read_whole(file: str, kind: str) -> None:
    examples = [parse(row, "auto") for _, row, _ in read_rows(DATA / file) if row is not None]
    assert [example.kind for example in examples] == [kind] * 6


@pytest.mark.parametrize(
    ("row", "column"),
    [
        ({"instruction": "Say hi.", "output": "No.", "userFeedback": "bad"}, "userFeedback"),
        (
            {
                "conversations": [{"from": "human", "value": "Hi?"}, {"from": "gpt", "value": "No."}],
                "vote": 0,
            },
            "vote",
        ),
    ],
)
def test_an_answer_with_a_judgement_that_is_not_understood_is_not_imitated(
    row: dict[str, Any], column: str
) -> None:
    with pytest.raises(Misfit, match=f"'{column}' looks like a judgement .* --map {column}=label"):
        parse(row, "auto")
    assert (
        parse({name: found for name, found in row.items() if name != column}, "auto").kind == "demonstration"
    )
    assert parse(row | {column: None}, "auto").kind == "demonstration"
