"""What tools for annotators export: Argilla 1 and 2, Label Studio."""

from typing import Any

from feedback.rows.examples import Example
from tests.feedback.shapes import ASKED, BAD, GOOD, Q, Shape, pair, rating, thumb

FIELDS = {"prompt": Q, "response_1": GOOD, "response_2": BAD}
ONE = {"instruction": Q, "response": BAD}
ADA: dict[str, Any] = {"rater": "1", "at": 1795132800.0}


def annotated(data: dict[str, Any], *results: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A task of Label Studio with one annotation."""
    annotation = {
        "id": 5,
        "completed_by": 1,
        "was_cancelled": False,
        "updated_at": "2026-11-20T00:00:00Z",
        "result": list(results),
        **more,
    }
    return {"id": 1, "data": data, "annotations": [annotation], "predictions": []}


def result(kind: str, name: str, value: dict[str, Any], to: str = "text") -> dict[str, Any]:
    return {"id": "r", "type": kind, "from_name": name, "to_name": to, "value": value}


ANNOTATIONS = {
    "Argilla 2": Shape(
        "argilla-2",
        [
            {
                "id": "a",
                "fields": FIELDS,
                "metadata": {},
                "suggestions": {"preference": {"value": "response_2", "agent": "m"}},
                "responses": {
                    "preference": [
                        {"value": "response_1", "user_id": "u1"},
                        {"value": "response_2", "user_id": "u2"},
                        {"value": "tie", "user_id": "u3"},
                    ]
                },
            },
            {
                "id": "b",
                "fields": ONE,
                "responses": {
                    "quality": [{"value": 2, "user_id": "u1"}],
                    "corrected_response": [{"value": "In the hive.", "user_id": "u1"}],
                    "comment": [{"value": "It is wrong.", "user_id": "u1"}],
                },
            },
        ],
        [
            pair(rater="u1"),
            pair(value=0.0, rater="u2"),
            pair(value=0.5, rater="u3"),
            rating(0.25, BAD, rater="u1", comment="It is wrong."),
            Example("correction", ASKED, ("In the hive.", BAD), 1.0, rater="u1", comment="It is wrong."),
        ],
        scales={"": (1.0, 5.0)},
    ),
    "Argilla 2, table": Shape(
        "argilla-2-table",
        [
            {
                "id": "a",
                "status": "completed",
                **FIELDS,
                "order.responses": [["response_2", "response_1"], ["response_1", "response_2"]],
                "order.responses.users": ["u1", "u2"],
                "order.responses.status": ["submitted", "draft"],
                "order.suggestion": ["response_1", "response_2"],
                "order.suggestion.score": 0.5,
            }
        ],
        [Example("comparison", ASKED, (BAD, GOOD), 1.0, rater="u1")],
    ),
    "Argilla 1": Shape(
        "argilla-1",
        [
            {
                "fields": {**FIELDS, "response_3": "Bees do."},
                "responses": [
                    {
                        "user_id": "u1",
                        "status": "submitted",
                        "values": {
                            "ranking": {
                                "value": [
                                    {"rank": 1, "value": "response_1"},
                                    {"rank": 2, "value": "response_2"},
                                    {"rank": 2, "value": "response_3"},
                                ]
                            }
                        },
                    },
                    {"user_id": "u2", "status": "discarded", "values": {}},
                ],
            }
        ],
        [Example("ranking", ASKED, (GOOD, BAD, "Bees do."), 0.5, rater="u1", groups=((0,), (1, 2)))],
    ),
    "Argilla 1, table": Shape(
        "argilla-1-table",
        [
            {
                **ONE,
                "helpful": [
                    {"user_id": "u1", "value": "no", "status": "submitted"},
                    {"user_id": "u2", "value": "yes", "status": "draft"},
                ],
                "helpful-suggestion": "yes",
                "metadata": "{}",
            }
        ],
        [thumb(0.0, BAD, rater="u1")],
    ),
    "Label Studio": Shape(
        "label-studio",
        [
            annotated({"prompt": Q, "response": GOOD}, result("rating", "rating", {"rating": 4})),
            annotated({"prompt": Q, "response": BAD}, result("choices", "verdict", {"choices": ["Bad"]})),
            annotated(
                {"prompt": Q, "text1": GOOD, "text2": BAD},
                result("pairwise", "pw", {"selected": "left"}, "txt-2,txt-1"),
            ),
            annotated(
                {"prompt": Q, "items": [{"id": "x", "body": GOOD}, {"id": "y", "body": BAD}]},
                result("ranker", "rank", {"ranker": {"rank": ["y", "x"]}}),
            ),
        ],
        [
            rating(0.75, **ADA),
            thumb(0.0, BAD, **ADA),
            Example("comparison", ASKED, (BAD, GOOD), 1.0, **ADA),
            Example("comparison", ASKED, (BAD, GOOD), 1.0, **ADA),
        ],
        scales={"rating": (1.0, 5.0)},
    ),
    "Label Studio, JSON-MIN": Shape(
        "label-studio-min",
        [
            {
                "id": 1,
                "prompt": Q,
                "answer_a": GOOD,
                "answer_b": BAD,
                "preference": "right",
                "annotator": 1,
                "annotation_id": 9,
                "lead_time": 3.5,
                "updated_at": "2026-11-20T00:00:00Z",
            }
        ],
        [pair(value=0.0, **ADA)],
    ),
}
